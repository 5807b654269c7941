//! What other nodes were told without a change of the metadata: copies of their questions are told the same.
//!
//! A node asks again when it has no answer for a while, and a controller that was suspended finds both questions at once. A
//! request that changed something is known by its id in the log (SAFETY.md, rule 21); one that was refused leaves no trace
//! there, and its copy could be granted a moment after its client was told no.
//!
//! Shard 0, with the controller. Pure. Invariants: bounded in number and time; gone when the leadership is, for then the next
//! leader plans what is asked again.

use std::collections::VecDeque;

use bytes::Bytes;
use chronik_wal::types::NodeId;

/// As many are remembered: what nodes ask and are refused within some seconds.
const REMEMBERED_MAX: usize = 1_000;

/// Together they are no longer than this.
const REMEMBERED_BYTES_MAX: usize = 4 << 20;

/// A copy comes within so long: both were sent before the answer had come, and wait in the same link.
const REMEMBERED_MS: u64 = 30_000;

#[derive(Debug)]
struct Refusal {
    node: NodeId,
    ask: u64,
    at_ms: u64,
    body: Bytes,
}

/// The answers that changed nothing, oldest first, as they went out.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    recent: VecDeque<Refusal>,
    bytes: usize,
}

impl Refusals {
    /// The question `ask` of `node` was answered with this.
    pub(super) fn note(&mut self, node: NodeId, ask: u64, body: Bytes, now_ms: u64) {
        self.bytes += body.len();
        self.recent.push_back(Refusal { node, ask, at_ms: now_ms, body });
        self.forget(now_ms);
    }

    /// What that question was answered with.
    pub(super) fn find(&mut self, node: NodeId, ask: u64, now_ms: u64) -> Option<Bytes> {
        self.forget(now_ms);
        let told = self.recent.iter().find(|told| told.node == node && told.ask == ask)?;
        Some(told.body.clone())
    }

    /// Forgets what is old, and the oldest of what is too much.
    fn forget(&mut self, now_ms: u64) {
        while self.recent.front().is_some_and(|oldest| oldest.at_ms + REMEMBERED_MS < now_ms)
            || self.recent.len() > REMEMBERED_MAX
            || self.bytes > REMEMBERED_BYTES_MAX
        {
            let gone = self.recent.pop_front();
            self.bytes -= gone.map_or(0, |gone| gone.body.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    #[test]
    fn an_answer_is_found_by_its_node_and_number_until_it_is_old() {
        let mut refusals = Refusals::default();
        refusals.note(NODE, 7, Bytes::from_static(b"one"), 1_000);
        refusals.note(OTHER, 7, Bytes::from_static(b"other"), 20_000);
        assert_eq!(refusals.find(NODE, 7, 31_000).as_deref(), Some(&b"one"[..]));
        assert_eq!(refusals.find(OTHER, 7, 31_000).as_deref(), Some(&b"other"[..]));
        assert_eq!(refusals.find(OTHER, 8, 31_000), None);
        assert_eq!(refusals.find(NODE, 7, 31_001), None);
        assert_eq!(refusals.find(OTHER, 7, 31_001).as_deref(), Some(&b"other"[..]));
    }

    #[test]
    fn the_oldest_gives_way_to_the_newest() {
        let mut refusals = Refusals::default();
        let last = REMEMBERED_MAX as u64;
        (0..=last).for_each(|ask| refusals.note(NODE, ask, Bytes::from_static(b"no"), 0));
        assert_eq!(refusals.find(NODE, 0, 0), None);
        assert!(refusals.find(NODE, 1, 0).is_some() && refusals.find(NODE, last, 0).is_some());
        refusals.note(NODE, last + 1, Bytes::from(vec![0; REMEMBERED_BYTES_MAX]), 0);
        assert_eq!((refusals.find(NODE, last, 0), refusals.recent.len()), (None, 1));
        refusals.note(NODE, last + 2, Bytes::from(vec![0; REMEMBERED_BYTES_MAX + 1]), 0);
        assert_eq!((refusals.recent.len(), refusals.bytes), (0, 0), "too long to be remembered");
    }
}
