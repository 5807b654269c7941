//! Produce on the shard that owns the partitions: checks, proposes, waits for the very entries, answers once.
//!
//! A slice is answered when each of its batches has an outcome: refused at once, applied as proposed, or timed out.
//! When the WAL or the memory budget has no room, the slice waits in `stalled`, in order of arrival, until there is
//! room or its time is up: it is never refused halfway (SAFETY.md, rules 4, 5 and 7).

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_raft::driver::Proposal;
use chronik_raft::error::ProposeError;
use chronik_raft::leadership::Leadership;
use chronik_wal::entry::EntryKind;
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch, NodeId, Term};

use super::housekeeping::Stopping;
use super::message::{Acks, Call, LeaderHint, ProduceItem, ProduceOutcome, ProduceSlice, Reply};
use super::{Shard, Timer};
use crate::partition::append::{Accepted, Checked};
use crate::partition::{Waiter, Waiting};

/// A slice whose batches are proposed but not all applied.
#[derive(Debug)]
pub struct PendingProduce {
    call: Call,
    undecided: usize,
    deadline_ms: u64,
    outcomes: Vec<Option<ProduceOutcome>>,
}

/// A slice for which there is no room yet.
#[derive(Debug)]
pub struct Stalled {
    call: Call,
    slice: ProduceSlice,
    deadline_ms: u64,
}

impl Shard {
    pub(crate) fn produce(&mut self, call: Call, slice: ProduceSlice) {
        let deadline_ms = self.now.mono_ms + u64::from(slice.timeout_ms);
        if self.stopping != Stopping::No || self.stalled.len() >= self.limits.pending_max {
            return self.reply(call, Reply::Unavailable);
        }
        if !self.stalled.is_empty() || !self.has_room(slice_bytes(&slice)) {
            self.stalled.push_back(Stalled { call, slice, deadline_ms });
            return;
        }
        self.propose_slice(call, slice, deadline_ms);
    }

    /// Takes up the slices that waited for room, oldest first.
    pub(crate) fn retry_stalled(&mut self) {
        while let Some(first) = self.stalled.front() {
            if first.deadline_ms <= self.now.mono_ms {
                let Some(stalled) = self.stalled.pop_front() else { return };
                let refused = ProduceOutcome::refused(ErrorCode::RequestTimedOut);
                let outcomes = vec![refused; stalled.slice.items.len()];
                self.reply(stalled.call, Reply::Produce(outcomes));
                continue;
            }
            if !self.has_room(slice_bytes(&first.slice)) {
                return;
            }
            let Some(Stalled { call, slice, deadline_ms }) = self.stalled.pop_front() else { return };
            self.propose_slice(call, slice, deadline_ms);
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        // What was proposed in this turn is in neither the tail nor the WAL yet.
        let bytes = bytes + self.proposed_bytes;
        let in_memory = self.driver.tail_bytes() as u64;
        // A batch larger than the whole budget still passes when nothing else is in the way.
        let empty = in_memory + self.proposed_bytes == 0;
        let budget = empty || in_memory + bytes <= self.limits.tail_bytes_max;
        budget && self.wal.has_room(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn propose_slice(&mut self, call: Call, slice: ProduceSlice, deadline_ms: u64) {
        self.proposed_bytes += slice_bytes(&slice);
        let number = self.number();
        let mut pending = PendingProduce {
            call,
            undecided: 0,
            deadline_ms,
            outcomes: Vec::with_capacity(slice.items.len()),
        };
        for (place, item) in slice.items.into_iter().enumerate() {
            let outcome = self.propose_item(number, place as u32, slice.acks, item);
            pending.undecided += usize::from(outcome.is_none());
            pending.outcomes.push(outcome);
        }
        if pending.undecided == 0 {
            return self.answer_produce(pending);
        }
        self.set_timer(deadline_ms, Timer::Produce(number));
        self.produces.insert(number, pending);
    }

    /// Proposes one batch. Gives the outcome where it is known already.
    fn propose_item(
        &mut self,
        slice: u64,
        place: u32,
        acks: Acks,
        item: ProduceItem,
    ) -> Option<ProduceOutcome> {
        let term = match self.leading(item.group) {
            Ok(term) => term,
            Err(outcome) => return Some(outcome),
        };
        if let Err(code) = self.enough_replicas(item.group, acks) {
            return Some(ProduceOutcome::refused(code));
        }
        let accepted = match self.check(item.group, item.records, term) {
            Checked::Append(accepted) => accepted,
            Checked::Refused(outcome) => return Some(outcome),
            Checked::Duplicate { base_offset, log_append_time_ms } => {
                return Some(self.acknowledged(item.group, base_offset, log_append_time_ms));
            }
            Checked::InFlight { index, term, base_offset } => {
                let who = Waiting::Produce { slice, item: place, base_offset, log_append_time_ms: -1 };
                self.wait_for(item.group, Waiter { index, term, who });
                return None;
            }
        };
        self.metrics.batch_in(&accepted.info);
        match self.propose_batch(item.group, accepted) {
            Ok((waiter, base_offset, log_append_time_ms)) => {
                let who = Waiting::Produce { slice, item: place, base_offset, log_append_time_ms };
                self.wait_for(item.group, Waiter { who, ..waiter });
                None
            }
            Err(outcome) => Some(outcome),
        }
    }

    fn check(&self, group: GroupId, records: BytesMut, term: Term) -> Checked {
        let Some(partition) = self.partitions.get(&group) else {
            return Checked::Refused(ProduceOutcome::refused(self.absence(group)));
        };
        let next_offset = self.driver.log_end_offset(group).unwrap_or_default();
        partition.check_append(records, next_offset, term, self.now.wall_ms)
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
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        // A duplicate in flight waits for an entry before the newest: the queue stays sorted by index.
        let place = partition.waiters.partition_point(|other| other.index <= waiter.index);
        partition.waiters.insert(place, waiter);
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
        outcome.leader = self.leader_hint(group);
        outcome
    }

    /// Who leads, as far as Raft or the metadata snapshot knows.
    pub(crate) fn leader_hint(&self, group: GroupId) -> Option<LeaderHint> {
        let name = &self.partitions.get(&group)?.name;
        let leader = self.snapshot.topic_by_id(&name.topic_id)?.partition(name.index)?.leader?;
        Some(LeaderHint { node: leader.node, epoch: leader.epoch })
    }

    /// Why this shard has no such partition.
    pub(crate) fn absence(&self, group: GroupId) -> ErrorCode {
        match self.damaged.contains_key(&group) {
            true => ErrorCode::KafkaStorageError,
            false => ErrorCode::UnknownTopicOrPartition,
        }
    }

    /// Voters of a group that this replica leads which were heard from lately, itself included.
    fn in_sync_count(&self, group: GroupId) -> usize {
        let members = self.driver.progress(group);
        members.iter().filter(|member| member.is_voter && member.is_recently_active).count()
    }

    fn enough_replicas(&self, group: GroupId, acks: Acks) -> Result<(), ErrorCode> {
        let Some(partition) = self.partitions.get(&group) else {
            return Err(self.absence(group));
        };
        let in_sync = self.in_sync_count(group);
        if acks == Acks::All && in_sync < partition.config.min_insync_replicas as usize {
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
        let Some(pending) = self.produces.get_mut(&slice) else { return };
        let Some(place) = pending.outcomes.get_mut(item as usize) else { return };
        if place.replace(outcome).is_none() {
            pending.undecided -= 1;
        }
        if pending.undecided == 0 {
            self.finish_produce(slice);
        }
    }

    /// The slice's time is up: what is not decided is answered REQUEST_TIMED_OUT.
    pub(crate) fn produce_timed_out(&mut self, slice: u64) {
        self.finish_produce(slice);
    }

    fn finish_produce(&mut self, slice: u64) {
        let Some(pending) = self.produces.remove(&slice) else { return };
        self.timers.remove(&(pending.deadline_ms, Timer::Produce(slice)));
        self.answer_produce(pending);
    }

    fn answer_produce(&mut self, pending: PendingProduce) {
        let timed_out = || ProduceOutcome::refused(ErrorCode::RequestTimedOut);
        let outcomes: Vec<_> =
            pending.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(timed_out)).collect();
        self.reply(pending.call, Reply::Produce(outcomes));
    }
}

fn slice_bytes(slice: &ProduceSlice) -> u64 {
    slice.items.iter().map(|item| item.records.len() as u64).sum()
}

/// The hint for "nobody leads".
#[must_use]
pub fn no_leader() -> LeaderHint {
    LeaderHint { node: NodeId(-1), epoch: LeaderEpoch::UNKNOWN }
}
