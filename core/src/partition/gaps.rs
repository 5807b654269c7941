//! Gaps in the sequence numbers of idempotent producers that will close by themselves.
//!
//! A client sends several batches without waiting. When the leadership moves, or a batch is refused for a reason that passes, a
//! later batch may be here before an earlier one is sent again: librdkafka, when the refusal comes from the old leader after the
//! later batch went to the new one (its issue 4953). OUT_OF_ORDER_SEQUENCE_NUMBER would have it draw a new producer epoch, under
//! which it sends again, on its other partitions too, what may be in the log already: duplicates. NOT_LEADER_OR_FOLLOWER has it
//! send both again, in order.
//!
//! So for a minute after such an event a batch that is ahead is told to come again, each producer for two seconds at most; then
//! the answer is Kafka's. Owned by the partition, on its shard; pure. Bounded: [`OPEN_MAX`] producers.

use std::collections::BTreeMap;

/// How long after the event: as long as the old leader's answer may be on its way.
const EXPECTED_MS: u64 = 60_000;
/// How long a gap is given to close. Clients come again within their back-off, 100 ms to 1 s.
const PATIENCE_MS: u64 = 2_000;
/// Gaps known at most.
const OPEN_MAX: usize = 1_000;

/// The gaps of one partition.
#[derive(Debug, Default)]
pub struct Gaps {
    /// Until then (monotonic ms) gaps are expected.
    until_ms: u64,
    /// By producer id: when its gap was first seen (monotonic ms).
    open: BTreeMap<i64, u64>,
}

impl Gaps {
    /// Something has happened that lets batches overtake others.
    pub fn expect(&mut self, now_ms: u64) {
        self.until_ms = now_ms + EXPECTED_MS;
    }

    /// Whether gaps are expected now.
    #[must_use]
    pub fn are_expected(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }

    /// Whether the producer's gap may still close by itself.
    pub fn may_close(&mut self, producer_id: i64, now_ms: u64) -> bool {
        if !self.are_expected(now_ms) {
            return false;
        }
        if self.open.len() >= OPEN_MAX {
            self.open.retain(|_, since_ms| now_ms < *since_ms + PATIENCE_MS);
        }
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&producer_id) {
            return false;
        }
        let since_ms = *self.open.entry(producer_id).or_insert(now_ms);
        now_ms < since_ms + PATIENCE_MS
    }

    /// A batch of the producer was in order.
    pub fn close(&mut self, producer_id: i64) {
        if !self.open.is_empty() {
            self.open.remove(&producer_id);
        }
    }

    /// This replica leads no more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_has_two_seconds_within_the_minute() {
        let mut gaps = Gaps::default();
        assert!(!gaps.may_close(1, 0), "nothing has happened");
        gaps.expect(1_000);
        assert!(gaps.may_close(1, 1_000) && gaps.may_close(1, 2_999) && !gaps.may_close(1, 3_000));
        assert!(!gaps.may_close(1, 3_100), "it is the same gap still");
        gaps.close(1);
        assert!(gaps.may_close(1, 60_000) && !gaps.may_close(1, 61_000), "the minute is over");
        gaps.expect(70_000);
        gaps.clear();
        assert!(!gaps.may_close(1, 70_000));
    }

    #[test]
    fn they_are_bounded() {
        let mut gaps = Gaps::default();
        gaps.expect(0);
        for producer_id in 0..2_000 {
            assert_eq!(gaps.may_close(producer_id, 0), producer_id < 1_000);
        }
        assert!(gaps.may_close(5, 100) && !gaps.may_close(5_000, 100));
        assert!(gaps.may_close(5_000, 2_000), "those that never closed make room");
        assert!(gaps.open.len() <= OPEN_MAX);
    }
}
