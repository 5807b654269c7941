//! Questions about offsets: ListOffsets, OffsetForLeaderEpoch, DeleteRecords, sizes.
//!
//! Answers come from memory where they can; a search by time below the tail runs on a helper thread. DeleteRecords
//! proposes a log start entry and is answered when that very entry is applied (SAFETY.md, rule 13).

use chronik_net::codec::ErrorCode;
use chronik_raft::driver::Proposal;
use chronik_raft::leadership::Leadership;
use chronik_wal::compress::DecompressCaps;
use chronik_wal::entry::EntryKind;
use chronik_wal::partition::{FileDone, FilesError};
use chronik_wal::records::{Record, Records};
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch};

use super::message::{
    Call, DeleteItem, EpochAnswer, EpochQuery, OffsetAnswer, OffsetQuery, PartitionSize, Reply,
};
use super::{Job, JobOwner, Shard, Timer};
use crate::partition::read::check_epoch;
use crate::partition::{Partition, Waiter, Waiting};

/// Kafka's special timestamps of ListOffsets.
mod special {
    pub const LATEST: i64 = -1;
    pub const EARLIEST: i64 = -2;
    pub const MAX_TIMESTAMP: i64 = -3;
    pub const EARLIEST_LOCAL: i64 = -4;
    pub const LATEST_TIERED: i64 = -5;
}

/// A ListOffsets slice of which some answers are looked for in files.
#[derive(Debug)]
pub struct PendingOffsets {
    call: Call,
    queries: Vec<OffsetQuery>,
    /// While a search runs: what holds when it finds nothing.
    answers: Vec<OffsetAnswer>,
    searching: usize,
}

/// A DeleteRecords slice that waits for its entries.
#[derive(Debug)]
pub struct PendingDelete {
    call: Call,
    outcomes: Vec<Option<Result<KafkaOffset, ErrorCode>>>,
    groups: Vec<GroupId>,
    deadline_ms: u64,
}

enum Lookup {
    Known(OffsetAnswer),
    /// The first record at or after this time, in the files; if there is none there, the answer.
    InFiles(i64, OffsetAnswer),
}

impl OffsetAnswer {
    fn refused(error: ErrorCode) -> Self {
        Self { error, offset: KafkaOffset(-1), timestamp: -1, epoch: LeaderEpoch::UNKNOWN }
    }

    fn nothing() -> Self {
        Self::refused(ErrorCode::None)
    }
}

impl Shard {
    pub(crate) fn list_offsets(&mut self, call: Call, queries: &[OffsetQuery]) {
        if self.pending_count() >= self.limits.pending_max {
            return self.reply(call, Reply::Unavailable);
        }
        let number = self.number();
        let mut pending = PendingOffsets {
            call,
            queries: queries.to_vec(),
            answers: Vec::with_capacity(queries.len()),
            searching: 0,
        };
        for (place, query) in queries.iter().enumerate() {
            let (answer, searching) = self.look_up_or_search(number, place, query);
            pending.answers.push(answer);
            pending.searching += usize::from(searching);
        }
        if pending.searching == 0 {
            return self.reply(call, Reply::Offsets(pending.answers));
        }
        self.offset_requests.insert(number, pending);
    }

    /// The answer, or what holds when the search that was started finds nothing.
    fn look_up_or_search(&mut self, request: u64, item: usize, query: &OffsetQuery) -> (OffsetAnswer, bool) {
        let (timestamp, otherwise) = match self.look_up(query) {
            Lookup::Known(answer) => return (answer, false),
            Lookup::InFiles(timestamp, otherwise) => (timestamp, otherwise),
        };
        let found = self.partitions.get(&query.group);
        let job = found.and_then(|p| p.files.find_time(timestamp, p.log_start, p.high_watermark));
        let Some(job) = job else { return (otherwise, false) };
        self.start_job(JobOwner::Offsets { request, item }, Job::File(job));
        (otherwise, true)
    }

    fn look_up(&self, query: &OffsetQuery) -> Lookup {
        let Some(partition) = self.partitions.get(&query.group) else {
            return Lookup::Known(OffsetAnswer::refused(self.absence(query.group)));
        };
        let Some(Leadership::Leader { term }) = self.driver.leadership(query.group) else {
            return Lookup::Known(OffsetAnswer::refused(ErrorCode::NotLeaderOrFollower));
        };
        if let Err(code) = check_epoch(query.current_epoch, term) {
            return Lookup::Known(OffsetAnswer::refused(code));
        }
        let end = match query.isolation {
            super::message::Isolation::ReadUncommitted => partition.high_watermark,
            super::message::Isolation::ReadCommitted => partition.last_stable_offset(),
        };
        let at = |offset: KafkaOffset| {
            let epoch = partition.epochs.epoch_at(offset).unwrap_or_else(|| term.leader_epoch());
            Lookup::Known(OffsetAnswer { error: ErrorCode::None, offset, timestamp: -1, epoch })
        };
        match query.timestamp {
            special::LATEST => at(end),
            special::EARLIEST | special::EARLIEST_LOCAL => at(partition.log_start),
            special::LATEST_TIERED => Lookup::Known(OffsetAnswer::nothing()),
            special::MAX_TIMESTAMP => self.look_up_max_timestamp(query.group, partition),
            timestamp if timestamp >= 0 => self.look_up_time(query.group, partition, timestamp),
            _ => Lookup::Known(OffsetAnswer::refused(ErrorCode::UnsupportedVersion)),
        }
    }

    fn look_up_max_timestamp(&self, group: GroupId, partition: &Partition) -> Lookup {
        let in_files = partition.files.max_timestamp();
        let newest = self
            .committed_batches(group, partition)
            .max_by_key(|(info, _)| (info.max_timestamp, -info.base_offset.0));
        let in_memory = newest.map_or(-1, |(info, _)| info.max_timestamp);
        let otherwise = match newest {
            Some((info, data)) => found(find_in(data, info.max_timestamp, partition.log_start), partition),
            None => OffsetAnswer::nothing(),
        };
        if in_files >= 0 && in_files >= in_memory {
            Lookup::InFiles(in_files, otherwise)
        } else {
            Lookup::Known(otherwise)
        }
    }

    fn look_up_time(&self, group: GroupId, partition: &Partition, timestamp: i64) -> Lookup {
        let record = self
            .committed_batches(group, partition)
            .filter(|(info, _)| info.max_timestamp >= timestamp)
            .find_map(|(_, data)| find_in(data, timestamp, partition.log_start));
        let otherwise = found(record, partition);
        if partition.files.max_timestamp() >= timestamp {
            Lookup::InFiles(timestamp, otherwise)
        } else {
            Lookup::Known(otherwise)
        }
    }

    /// The batches in memory that are committed, not in the files and not below the log start.
    fn committed_batches<'a>(
        &'a self,
        group: GroupId,
        partition: &'a Partition,
    ) -> impl Iterator<Item = (chronik_wal::batch::BatchInfo, &'a [u8])> {
        let written = partition.files.written().index;
        let applied = partition.applied;
        let tail = self.driver.tail(group);
        tail.into_iter()
            .flat_map(|tail| tail.entries(tail.first_index(), tail.last_index().next(), u64::MAX))
            .filter(move |entry| entry.index > written && entry.index <= applied)
            .filter(|entry| entry.kind == EntryKind::Batch)
            .filter_map(|entry| {
                chronik_wal::batch::peek(&entry.data).ok().map(|info| (info, &entry.data[..]))
            })
            .filter(|(info, _)| info.next_offset() > partition.log_start)
    }

    /// A search by time is back.
    pub(crate) fn offset_found(&mut self, request: u64, item: usize, done: FileDone) {
        let FileDone::FoundTime(result) = done else { return };
        let Some(query) = self.offset_requests.get(&request).and_then(|p| p.queries.get(item).copied())
        else {
            return;
        };
        let answer = match result {
            Ok(Some(record)) => match self.partitions.get(&query.group) {
                Some(partition) => Some(found(Some(record), partition)),
                None => Some(OffsetAnswer::refused(self.absence(query.group))),
            },
            // What was found in memory when the search began.
            Ok(None) => None,
            // The segment was dropped meanwhile: the log start has moved, and the search begins anew above it.
            Err(FilesError::Gone { .. }) => match self.look_up_or_search(request, item, &query) {
                (_, true) => return,
                (answer, false) => Some(answer),
            },
            Err(error) => {
                tracing::error!(%error, "searching a segment by time failed");
                Some(OffsetAnswer::refused(ErrorCode::KafkaStorageError))
            }
        };
        let Some(pending) = self.offset_requests.get_mut(&request) else { return };
        pending.searching -= 1;
        if let (Some(place), Some(answer)) = (pending.answers.get_mut(item), answer) {
            *place = answer;
        }
        if pending.searching == 0
            && let Some(pending) = self.offset_requests.remove(&request)
        {
            self.reply(pending.call, Reply::Offsets(pending.answers));
        }
    }

    pub(crate) fn epoch_ends(&mut self, call: Call, queries: &[EpochQuery]) {
        let answers = queries.iter().map(|query| self.epoch_end(query)).collect();
        self.reply(call, Reply::EpochEnds(answers));
    }

    fn epoch_end(&self, query: &EpochQuery) -> EpochAnswer {
        let refused = |error| EpochAnswer { error, epoch: LeaderEpoch::UNKNOWN, end_offset: KafkaOffset(-1) };
        let Some(partition) = self.partitions.get(&query.group) else {
            return refused(self.absence(query.group));
        };
        let Some(Leadership::Leader { term }) = self.driver.leadership(query.group) else {
            return refused(ErrorCode::NotLeaderOrFollower);
        };
        if let Err(code) = check_epoch(query.current_epoch, term) {
            return refused(code);
        }
        let end = self.driver.log_end_offset(query.group).unwrap_or_default();
        let (epoch, end_offset) = partition.epochs.end_offset_for(query.epoch, end);
        EpochAnswer { error: ErrorCode::None, epoch, end_offset }
    }

    pub(crate) fn delete_records(&mut self, call: Call, items: &[DeleteItem], timeout_ms: u32) {
        if !self.serves() || self.pending_count() >= self.limits.pending_max {
            return self.reply(call, Reply::Unavailable);
        }
        let number = self.number();
        let deadline_ms = self.now.mono_ms + u64::from(timeout_ms);
        let mut outcomes = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            let who = Waiting::Delete { request: number, item: place as u32 };
            let compacted = self.partitions.get(&item.group).is_some_and(|p| !p.config.cleanup_delete);
            outcomes.push(match compacted {
                true => Some(Err(ErrorCode::PolicyViolation)),
                false => self.propose_log_start(item.group, item.before, who),
            });
        }
        let groups = items.iter().map(|item| item.group).collect();
        self.deletes.insert(number, PendingDelete { call, outcomes, groups, deadline_ms });
        self.set_timer(deadline_ms, Timer::Delete(number));
        self.finish_delete(number, false);
    }

    pub(crate) fn propose_log_start(
        &mut self,
        group: GroupId,
        before: KafkaOffset,
        who: Waiting,
    ) -> Option<Result<KafkaOffset, ErrorCode>> {
        let Some(partition) = self.partitions.get(&group) else {
            return Some(Err(self.absence(group)));
        };
        if let Err(outcome) = self.leading(group) {
            return Some(Err(outcome.error));
        }
        let target = if before == KafkaOffset(-1) { partition.high_watermark } else { before };
        if target < KafkaOffset(0) || target > partition.high_watermark {
            return Some(Err(ErrorCode::OffsetOutOfRange));
        }
        if target <= partition.log_start {
            return Some(Ok(partition.log_start));
        }
        let data = bytes::Bytes::copy_from_slice(&target.0.to_le_bytes());
        match self.driver.propose(group, Proposal { kind: EntryKind::LogStart, data }) {
            Ok((index, term)) => {
                self.wait_for(group, Waiter { index, term, who });
                None
            }
            Err(_) => Some(Err(ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// A log start entry that a DeleteRecords request waited for is applied, or will never be.
    pub(crate) fn delete_decided(&mut self, who: Waiting, applied: bool) {
        let Waiting::Delete { request, item } = who else { return };
        let Some(pending) = self.deletes.get_mut(&request) else { return };
        let Some(group) = pending.groups.get(item as usize) else { return };
        let low_watermark = self.partitions.get(group).map(|partition| partition.log_start);
        let outcome = match low_watermark {
            Some(offset) if applied => Ok(offset),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        };
        pending.outcomes[item as usize] = Some(outcome);
        self.finish_delete(request, false);
    }

    pub(crate) fn finish_delete(&mut self, request: u64, time_is_up: bool) {
        let Some(pending) = self.deletes.get(&request) else { return };
        if !time_is_up && pending.outcomes.iter().any(Option::is_none) {
            return;
        }
        let Some(pending) = self.deletes.remove(&request) else { return };
        self.timers.remove(&(pending.deadline_ms, Timer::Delete(request)));
        let decide = |outcome: Option<_>| outcome.unwrap_or(Err(ErrorCode::RequestTimedOut));
        let outcomes = pending.outcomes.into_iter().map(decide).collect();
        self.reply(pending.call, Reply::Deleted(outcomes));
    }

    pub(crate) fn sizes(&mut self, call: Call) {
        let sizes = self.partitions.iter().map(|(group, partition)| PartitionSize {
            group: *group,
            bytes: partition.files.bytes() + partition.unwritten_bytes,
            log_end_offset: self.driver.log_end_offset(*group).unwrap_or_default(),
            log_start_offset: partition.log_start,
            high_watermark: partition.high_watermark,
            segment_count: partition.files.segment_count() as u32,
        });
        let sizes = sizes.collect();
        self.reply(call, Reply::Sizes(sizes));
    }
}

/// The first record of a batch with this time or a later one, at `from` or above.
fn find_in(batch: &[u8], timestamp: i64, from: KafkaOffset) -> Option<(KafkaOffset, i64)> {
    let records = Records::open(batch, &DecompressCaps::default()).ok()?;
    let matching = |record: &Record<'_>| record.timestamp >= timestamp && record.offset >= from;
    let record = records.into_iter().map_while(Result::ok).find(matching)?;
    Some((record.offset, record.timestamp))
}

fn found(record: Option<(KafkaOffset, i64)>, partition: &Partition) -> OffsetAnswer {
    match record {
        Some((offset, timestamp)) => OffsetAnswer {
            error: ErrorCode::None,
            offset,
            timestamp,
            epoch: partition.epochs.epoch_at(offset).unwrap_or(LeaderEpoch::UNKNOWN),
        },
        None => OffsetAnswer::nothing(),
    }
}
