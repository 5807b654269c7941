//! Batches held back while their group takes no proposals: during a hand-over of its leadership, for a moment after it until the new
//! leader is known and can be named, and when the group has too many bytes that are not committed (SAFETY.md, rule 12).
//! The other groups of the shard go on.
//!
//! Bounded: their bytes count for the shard's budget of memory, and each item is of a slice that has a deadline. Order within a group
//! is kept; what belongs to a slice whose time was up is never proposed.

use std::collections::{BTreeMap, VecDeque};

use chronik_raft::error::ProposeError;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::GroupId;

use super::Shard;
use super::message::{Acks, ProduceItem};
use crate::partition::Partition;

/// After it has lost the leadership a replica waits so long for word of the new leader: an election timeout.
pub(crate) const SUCCESSOR_MS: u64 = 300;

/// A batch that waits, and whose it is.
#[derive(Debug)]
pub struct HeldItem {
    pub(crate) slice: u64,
    pub(crate) place: u32,
    pub(crate) acks: Acks,
    pub(crate) item: ProduceItem,
}

/// The batches that wait, by group.
#[derive(Debug, Default)]
pub struct Held {
    groups: BTreeMap<GroupId, VecDeque<HeldItem>>,
    bytes: u64,
}

impl Held {
    /// Bytes of record batches in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn push(&mut self, held: HeldItem) {
        self.bytes += held.item.records.len() as u64;
        self.groups.entry(held.item.group).or_default().push_back(held);
    }

    fn next_bytes(&self, group: GroupId) -> Option<usize> {
        self.groups.get(&group)?.front().map(|held| held.item.records.len())
    }

    fn pop(&mut self, group: GroupId) -> Option<HeldItem> {
        let queue = self.groups.get_mut(&group)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.groups.remove(&group);
        }
        let next = next?;
        self.bytes -= next.item.records.len() as u64;
        Some(next)
    }
}

impl Shard {
    /// Whether a batch of the group must wait: it may be taken soon, or some of its own wait already.
    pub(crate) fn takes_none_now(&self, group: GroupId, bytes: usize) -> bool {
        self.held.groups.contains_key(&group) || self.must_wait(group, bytes)
    }

    fn must_wait(&self, group: GroupId, bytes: usize) -> bool {
        match self.driver.may_propose(group, bytes) {
            Err(ProposeError::Transferring | ProposeError::Full) => true,
            Err(ProposeError::NotLeader) => {
                let leaderless = matches!(self.driver.leadership(group), Some(Leadership::Unknown { .. }));
                // Where there are replicas in sync the loss has not been taken in yet: that comes with the turn.
                let expects = |partition: &Partition| {
                    self.now.mono_ms < partition.successor_until_ms || !partition.in_sync.nodes().is_empty()
                };
                leaderless && self.partitions.get(&group).is_some_and(expects)
            }
            _ => false,
        }
    }

    /// Once a turn: perhaps they are taken now.
    pub(crate) fn retry_held(&mut self) {
        let groups: Vec<GroupId> = self.held.groups.keys().copied().collect();
        groups.into_iter().for_each(|group| self.retry_held_of(group));
    }

    /// Proposes what the group has waiting, oldest first, or has it refused where this replica leads no more.
    pub(crate) fn retry_held_of(&mut self, group: GroupId) {
        while let Some(bytes) = self.held.next_bytes(group) {
            if self.must_wait(group, bytes) {
                return;
            }
            let Some(held) = self.held.pop(group) else { return };
            self.propose_held(held, false);
        }
    }

    /// Proposes a batch that has waited, unless its slice's time is up.
    pub(crate) fn propose_held(&mut self, held: HeldItem, is_sure: bool) {
        let (slice, place) = (held.slice, held.place);
        if !self.produces.contains_key(&slice) {
            return self.expect_gaps(held.item.group);
        }
        if let Some(outcome) = self.propose_now(held, is_sure) {
            self.item_decided(slice, place, outcome);
        }
    }
}
