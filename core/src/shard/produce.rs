//! Produce on the shard that owns the partitions: checks, proposes, waits for the very entries, answers once.
//!
//! A slice is answered when each of its batches has an outcome: refused at once, applied as proposed, or timed out.
//! When the WAL or the memory budget has no room, batches wait in `stalled`, in order of arrival, until there is room or
//! their time is up (`memory.rs`; SAFETY.md, rules 4 and 7). When there is none because the disk is full, they are refused with
//! KAFKA_STORAGE_ERROR, which clients retry (rule 5). While a group hands its leadership over, its batches wait too (`hold.rs`).

use std::collections::VecDeque;

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_raft::driver::Proposal;
use chronik_raft::error::ProposeError;
use chronik_raft::leadership::Leadership;
use chronik_wal::entry::EntryKind;
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch, NodeId, Term};

use super::hold::HeldItem;
use super::message::{Acks, Call, LeaderHint, ProduceItem, ProduceOutcome, ProduceSlice, Reply};
use super::{Shard, Timer};
use crate::partition::append::{Accepted, Checked};
use crate::partition::{Waiter, Waiting};

/// What an entry takes in the WAL and in memory beside its bytes, about.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// How long a batch may take to reach the leader's own disk, as long as nobody asked for more than that.
const LOCAL_MS: u64 = 30_000;

/// Even a client that says it does not wait waits for one write of the disk.
const PATIENCE_MIN_MS: u64 = 100;

/// A replica that has known of no leader for so long counts as orphaned: elections take less.
const ORPHANED_AFTER_MS: u64 = 1_500;

/// A slice of which not every batch is decided.
#[derive(Debug)]
pub struct PendingProduce {
    call: Call,
    undecided: usize,
    deadline_ms: u64,
    outcomes: Vec<Option<ProduceOutcome>>,
}

/// The batches of a slice for which there was no room yet, with their places in it.
#[derive(Debug)]
pub struct Stalled {
    slice: u64,
    acks: Acks,
    items: VecDeque<(u32, ProduceItem)>,
}

impl Shard {
    pub(crate) fn produce(&mut self, call: Call, slice: ProduceSlice) {
        if self.stalled.len() >= self.limits.pending_max {
            return self.reply(call, Reply::Unavailable);
        }
        if !self.serves() {
            return self.refuse_produce(call, &slice);
        }
        let number = self.number();
        let deadline_ms = self.now.mono_ms + patience_ms(&slice);
        let undecided = slice.items.len();
        let outcomes = vec![None; undecided];
        self.produces.insert(number, PendingProduce { call, undecided, deadline_ms, outcomes });
        self.set_timer(deadline_ms, Timer::Produce(number));
        let items = (0..).zip(slice.items).collect();
        self.stalled.push_back(Stalled { slice: number, acks: slice.acks, items });
        if undecided == 0 {
            self.finish_produce(number);
        } else if self.stalled.len() == 1 {
            self.retry_stalled();
        }
    }

    /// This node is about to end: names those who lead now.
    fn refuse_produce(&mut self, call: Call, slice: &ProduceSlice) {
        let outcomes: Vec<_> = slice.items.iter().map(|item| self.not_leader(item.group)).collect();
        let is_any_led = outcomes.iter().any(|outcome| outcome.leader.is_some());
        self.reply(call, if is_any_led { Reply::Produce(outcomes) } else { Reply::Unavailable });
    }

    /// Proposes the batches that wait for room, oldest first, as far as there is any: batch by batch, because a whole request
    /// may be larger than what there ever is.
    pub(crate) fn retry_stalled(&mut self) {
        while let Some(first) = self.stalled.front_mut() {
            let (slice, acks) = (first.slice, first.acks);
            let Some((place, item)) = first.items.pop_front() else {
                self.stalled.pop_front();
                continue;
            };
            let has_room = self.has_room(item.records.len() as u64);
            if !has_room && !self.disk_is_full() {
                if let Some(first) = self.stalled.front_mut() {
                    first.items.push_front((place, item));
                }
                return;
            }
            let outcome = match has_room {
                true => self.propose_item(slice, place, acks, item),
                // Room comes back with space on the disk only: the client is told, and tries again by itself.
                false => {
                    self.expect_gaps(item.group);
                    Some(ProduceOutcome::refused(ErrorCode::KafkaStorageError))
                }
            };
            if let Some(outcome) = outcome {
                self.item_decided(slice, place, outcome);
            }
        }
    }

    /// Proposes one batch, or holds it back while its group takes none. Gives the outcome where it is known already.
    fn propose_item(
        &mut self,
        slice: u64,
        place: u32,
        acks: Acks,
        item: ProduceItem,
    ) -> Option<ProduceOutcome> {
        if self.takes_none_now(item.group, item.records.len()) {
            self.held.push(HeldItem { slice, place, acks, item });
            return None;
        }
        self.propose_now(HeldItem { slice, place, acks, item }, false)
    }

    /// Proposes one batch. Gives the outcome where it is known already.
    ///
    /// `is_sure` says that this replica has led at some time since the batch came.
    pub(crate) fn propose_now(&mut self, held: HeldItem, is_sure: bool) -> Option<ProduceOutcome> {
        let HeldItem { slice, place, acks, item } = held;
        let term = match self.leading(item.group) {
            Ok(term) => term,
            Err(outcome) => return Some(outcome),
        };
        if let Err(code) = self.enough_replicas(item.group, acks) {
            self.expect_gaps(item.group);
            return Some(ProduceOutcome::refused(code));
        }
        let accepted = match self.check(item.group, item.records, term) {
            Checked::Append(accepted) => accepted,
            Checked::Refused(outcome) => return Some(outcome),
            Checked::OutOfSequence { error, .. } if is_sure || self.voter_count(item.group) <= 1 => {
                return Some(ProduceOutcome::refused(error));
            }
            Checked::OutOfSequence { records, .. } => {
                let item = ProduceItem { records, ..item };
                self.doubt(HeldItem { slice, place, acks, item });
                return None;
            }
            Checked::Duplicate { base_offset, log_append_time_ms } => {
                return Some(self.acknowledged(item.group, base_offset, log_append_time_ms));
            }
            Checked::InFlight { index, term, base_offset } => {
                let who = Waiting::Produce { slice, item: place, base_offset, log_append_time_ms: -1 };
                self.wait_for_acks(item.group, Waiter { index, term, who }, acks);
                return None;
            }
        };
        self.metrics.batch_in(&accepted.info);
        match self.propose_batch(item.group, accepted) {
            Ok((waiter, base_offset, log_append_time_ms)) => {
                let who = Waiting::Produce { slice, item: place, base_offset, log_append_time_ms };
                self.wait_for_acks(item.group, Waiter { who, ..waiter }, acks);
                None
            }
            Err(outcome) => Some(outcome),
        }
    }

    fn check(&mut self, group: GroupId, records: BytesMut, term: Term) -> Checked {
        let next_offset = self.driver.log_end_offset(group).unwrap_or_default();
        match self.partitions.get_mut(&group) {
            Some(partition) => partition.check_append(records, next_offset, term, self.now),
            None => Checked::Refused(ProduceOutcome::refused(self.absence(group))),
        }
    }

    /// A batch was not taken, or may have been sent to another leader: what comes may be ahead of it.
    pub(crate) fn expect_gaps(&mut self, group: GroupId) {
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.gaps.expect(self.now.mono_ms);
        }
    }

    fn propose_batch(
        &mut self,
        group: GroupId,
        accepted: Accepted,
    ) -> Result<(Waiter, KafkaOffset, i64), ProduceOutcome> {
        let Accepted { data, info, log_append_time_ms } = accepted;
        let proposal = Proposal { kind: EntryKind::Batch, data };
        match self.driver.propose(group, proposal) {
            Ok((index, term)) => {
                self.proposed_bytes += info.size_bytes as u64 + ENTRY_OVERHEAD_BYTES;
                if let Some(partition) = self.partitions.get_mut(&group) {
                    partition.producers.propose(&info, index, term);
                }
                let who = Waiting::Coordinator { token: 0 };
                Ok((Waiter { index, term, who }, info.base_offset, log_append_time_ms))
            }
            Err(ProposeError::NotLeader) => Err(self.not_leader(group)),
            Err(_) => Err(ProduceOutcome::refused(ErrorCode::NotLeaderOrFollower)),
        }
    }

    pub(crate) fn wait_for(&mut self, group: GroupId, waiter: Waiter) {
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.wait_applied(waiter);
        }
    }

    /// The term in which this replica leads the group and may serve.
    pub(crate) fn leading(&self, group: GroupId) -> Result<Term, ProduceOutcome> {
        match self.driver.leadership(group) {
            Some(Leadership::Leader { term }) => Ok(term),
            Some(_) => Err(self.not_leader(group)),
            None => Err(ProduceOutcome::refused(self.absence(group))),
        }
    }

    fn not_leader(&self, group: GroupId) -> ProduceOutcome {
        let mut outcome = ProduceOutcome::refused(ErrorCode::NotLeaderOrFollower);
        (outcome.leader, outcome.is_orphaned) = self.leader_elsewhere(group);
        outcome
    }

    /// Who leads instead, as [`Self::leader_hint`] has it; and, where that is nobody, whether it has been nobody for longer than an
    /// election takes: this replica may be cut off, and others know.
    pub(crate) fn leader_elsewhere(&self, group: GroupId) -> (Option<LeaderHint>, bool) {
        let hint = self.leader_hint(group);
        let since_ms = self.partitions.get(&group).and_then(|partition| partition.leaderless_since_ms);
        let is_long = since_ms.is_some_and(|since_ms| since_ms + ORPHANED_AFTER_MS <= self.now.mono_ms);
        (hint, hint.is_none() && is_long)
    }

    /// Who leads, as far as Raft or the metadata snapshot knows; none when all that is known is that this node did.
    pub(crate) fn leader_hint(&self, group: GroupId) -> Option<LeaderHint> {
        if let Some(Leadership::Follower { leader, term }) = self.driver.leadership(group)
            && let Some(node) = self.node_of(group, leader)
        {
            return Some(LeaderHint { node, epoch: term.leader_epoch() });
        }
        let leader = self.placement(group)?.leader?;
        (leader.node != self.node).then_some(LeaderHint { node: leader.node, epoch: leader.epoch })
    }

    /// Why this shard has no such partition.
    pub(crate) fn absence(&self, group: GroupId) -> ErrorCode {
        match self.damaged.contains_key(&group) {
            true => ErrorCode::KafkaStorageError,
            false => ErrorCode::UnknownTopicOrPartition,
        }
    }

    fn enough_replicas(&self, group: GroupId, acks: Acks) -> Result<(), ErrorCode> {
        let Some(partition) = self.partitions.get(&group) else {
            return Err(self.absence(group));
        };
        let needed = partition.config.min_insync_replicas as usize;
        if acks == Acks::All && partition.in_sync.count() < needed {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        Ok(())
    }

    fn acknowledged(
        &self,
        group: GroupId,
        base_offset: KafkaOffset,
        log_append_time_ms: i64,
    ) -> ProduceOutcome {
        let mut outcome = ProduceOutcome::refused(ErrorCode::None);
        outcome.base_offset = base_offset;
        outcome.log_append_time_ms = log_append_time_ms;
        if let Some(partition) = self.partitions.get(&group) {
            outcome.log_start_offset = partition.log_start;
        }
        outcome
    }

    /// An entry that a produce item waited for is applied, or will never be.
    pub(crate) fn produce_decided(&mut self, group: GroupId, who: Waiting, applied: bool) {
        let Waiting::Produce { slice, item, base_offset, log_append_time_ms } = who else { return };
        let outcome = if applied {
            self.acknowledged(group, base_offset, log_append_time_ms)
        } else {
            self.not_leader(group)
        };
        self.item_decided(slice, item, outcome);
    }

    pub(crate) fn item_decided(&mut self, slice: u64, item: u32, outcome: ProduceOutcome) {
        let Some(pending) = self.produces.get_mut(&slice) else { return };
        let Some(place) = pending.outcomes.get_mut(item as usize) else { return };
        if place.replace(outcome).is_none() {
            pending.undecided -= 1;
        }
        if pending.undecided == 0 {
            self.finish_produce(slice);
        }
    }

    /// The slice's time is up: what is not decided is answered REQUEST_TIMED_OUT, and what was not proposed never is.
    pub(crate) fn produce_timed_out(&mut self, slice: u64) {
        if let Ok(place) = self.stalled.binary_search_by_key(&slice, |stalled| stalled.slice) {
            let stalled = self.stalled.remove(place);
            stalled
                .into_iter()
                .flat_map(|stalled| stalled.items)
                .for_each(|(_, item)| self.expect_gaps(item.group));
        }
        self.finish_produce(slice);
    }

    fn finish_produce(&mut self, slice: u64) {
        let Some(pending) = self.produces.remove(&slice) else { return };
        self.timers.remove(&(pending.deadline_ms, Timer::Produce(slice)));
        let timed_out = || ProduceOutcome::refused(ErrorCode::RequestTimedOut);
        let outcomes = pending.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(timed_out));
        let outcomes = outcomes.collect();
        self.reply(pending.call, Reply::Produce(outcomes));
    }
}

/// The hint for "nobody leads".
#[must_use]
pub fn no_leader() -> LeaderHint {
    LeaderHint { node: NodeId(-1), epoch: LeaderEpoch::UNKNOWN }
}

/// How long the slice may take. Kafka's `timeout.ms` is the patience for replicas, hence for acks=all alone.
fn patience_ms(slice: &ProduceSlice) -> u64 {
    match slice.acks {
        Acks::All => u64::from(slice.timeout_ms).max(PATIENCE_MIN_MS),
        Acks::None | Acks::Leader => LOCAL_MS,
    }
}
