//! Who waits for which disks: acks=1 for the leader's own, acks=all for the quorum's and those of `min.insync.replicas` voters.
//!
//! ```text
//! acks=0, 1:  proposed ─▶ on this disk ─▶ answered
//! acks=all:   proposed ─▶ applied, that is on a quorum's disks ─▶ on `min.insync.replicas` disks ─▶ answered
//! ```
//! acks=1 too wants a word of the quorum within the last election timeout: a leader cut off acknowledges nothing.
//!
//! A waiter is keyed by (index, term) all the way, and fails with the leadership (SAFETY.md, rules 12 and 14).

use std::collections::VecDeque;

use chronik_net::codec::ErrorCode;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, RaftIndex};

use super::Shard;
use super::message::{Acks, ProduceOutcome};
use crate::partition::{Waiter, Waiting};

impl Shard {
    /// Has a produce item wait for what its request asks for.
    pub(crate) fn wait_for_acks(&mut self, group: GroupId, waiter: Waiter, acks: Acks) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        if acks == Acks::All {
            return partition.wait_applied(waiter);
        }
        partition.wait_local(waiter);
        self.local_waits.insert(group);
    }

    pub(crate) fn voter_count(&self, group: GroupId) -> usize {
        self.driver.configuration(group).map_or(0, |configuration| configuration.voters.len())
    }

    /// A turn is durable: answers those who waited for this disk alone.
    pub(crate) fn local_durable(&mut self) {
        for group in std::mem::take(&mut self.local_waits) {
            let Some(Leadership::Leader { term }) = self.driver.leadership(group) else { continue };
            if self.lacks_contact(group) {
                // Another may lead since: nothing is acknowledged that it does not have (rule 22).
                self.local_waits.insert(group);
                self.driver.ask_quorum(group);
                continue;
            }
            let durable = self.driver.persisted(group).unwrap_or_default();
            let Some(partition) = self.partitions.get_mut(&group) else { continue };
            let done = partition.local_waiters.partition_point(|waiter| waiter.index <= durable);
            let done: Vec<Waiter> = partition.local_waiters.drain(..done).collect();
            if !partition.local_waiters.is_empty() {
                self.local_waits.insert(group);
            }
            for waiter in done {
                // Losing the leadership has failed those of an earlier term.
                self.produce_decided(group, waiter.who, waiter.term == term);
            }
        }
    }

    /// An entry that a produce item waited for is applied, or will never be: answers, unless more disks are wanted.
    pub(crate) fn produce_applied(&mut self, group: GroupId, waiter: Waiter, applied: bool) {
        let Some(partition) = self.partitions.get(&group) else {
            return self.produce_decided(group, waiter.who, applied);
        };
        let wanted = partition.config.min_insync_replicas as usize;
        let quorum = self.voter_count(group) / 2 + 1;
        if !applied || wanted <= quorum || self.holder_count(group, waiter.index) >= wanted {
            return self.produce_decided(group, waiter.who, applied);
        }
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.lagging_waiters.push_back(waiter);
        }
        self.progressed.insert(group);
    }

    /// How many voters have the entry on their disks.
    fn holder_count(&self, group: GroupId, index: RaftIndex) -> usize {
        let members = self.driver.progress(group);
        members.iter().filter(|member| member.is_voter && member.matched >= index).count()
    }

    /// Followers have more, or are in sync no longer: looks at those who wait for more disks than the quorum's.
    pub(crate) fn settle_lagging(&mut self) {
        for group in std::mem::take(&mut self.progressed) {
            let Some(partition) = self.partitions.get(&group) else { continue };
            let wanted = partition.config.min_insync_replicas as usize;
            let enough = partition.in_sync.count() >= wanted;
            while let Some(first) =
                self.partitions.get(&group).and_then(|p| p.lagging_waiters.front()).copied()
            {
                let holds = self.holder_count(group, first.index) >= wanted;
                if !holds && enough {
                    break;
                }
                if let Some(partition) = self.partitions.get_mut(&group) {
                    partition.lagging_waiters.pop_front();
                }
                if holds {
                    self.produce_decided(group, first.who, true);
                } else if let Waiting::Produce { slice, item, .. } = first.who {
                    let refused = ProduceOutcome::refused(ErrorCode::NotEnoughReplicasAfterAppend);
                    self.item_decided(slice, item, refused);
                }
            }
        }
    }

    /// Whether somebody of the group waits for more disks than the quorum's.
    pub(crate) fn follower_heard(&mut self, group: GroupId) {
        if self.partitions.get(&group).is_some_and(|partition| !partition.lagging_waiters.is_empty()) {
            self.progressed.insert(group);
        }
    }
}

/// Puts a waiter into a queue that is sorted by index: a duplicate in flight waits for an entry before the newest.
pub(crate) fn insert_sorted(waiters: &mut VecDeque<Waiter>, waiter: Waiter) {
    let place = waiters.partition_point(|other| other.index <= waiter.index);
    waiters.insert(place, waiter);
}
