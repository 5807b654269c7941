//! Histories that programs in other languages print, one event a line: `acked VALUE OFFSET` and `sent COUNT` of a producer of
//! 0, 1, 2… to one partition, as `chaos` in `tests/clients` prints them.

use super::{Outcome, Place, Send};
use std::collections::BTreeMap;
use std::time::Duration;

/// The sends of such a producer. Times are not printed: all count as one moment, which no check on time can fault.
#[must_use]
pub fn sends(producer: u32, place: &Place, lines: &[String]) -> Vec<Send> {
    let acknowledged: BTreeMap<u64, i64> = lines.iter().filter_map(|line| acknowledged(line)).collect();
    let printed = lines.iter().find_map(|line| line.strip_prefix("sent ")?.parse().ok());
    let most = acknowledged.keys().next_back().map_or(0, |value| value + 1);
    let send = |value| Send {
        producer,
        place: place.clone(),
        value,
        invoked: Duration::ZERO,
        completed: Duration::MAX,
        outcome: acknowledged
            .get(&value)
            .map_or(Outcome::Unknown, |offset| Outcome::Acknowledged(Some(*offset))),
    };
    (0..printed.unwrap_or(most)).map(send).collect()
}

fn acknowledged(line: &str) -> Option<(u64, i64)> {
    let (value, offset) = line.strip_prefix("acked ")?.split_once(' ')?;
    Some((value.parse().ok()?, offset.parse().ok()?))
}
