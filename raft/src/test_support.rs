//! For the tests of this crate: batches, and a WAL in memory with turns and crashes.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_wal::entry::{FlushPoint, GroupState, LogEntry, LogSink, LogStart};
use chronik_wal::types::{GroupId, KafkaOffset, RaftIndex, Term, TurnNumber};

use crate::driver::GroupInit;

/// A record batch v2 in outline: right header fields for raft, zeros else.
pub(crate) fn batch_bytes(base: i64, epoch: i32, records: i32, payload_bytes: usize) -> Bytes {
    let mut data = vec![0u8; 61 + payload_bytes];
    data[0..8].copy_from_slice(&base.to_be_bytes());
    let length = i32::try_from(data.len() - 12).unwrap();
    data[8..12].copy_from_slice(&length.to_be_bytes());
    data[12..16].copy_from_slice(&epoch.to_be_bytes());
    data[16] = 2;
    data[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    data.into()
}

#[derive(Clone, Debug)]
enum Record {
    Entry(GroupId, RaftIndex, LogEntry),
    State(GroupId, GroupState),
    Removed(GroupId),
}

/// What recovery finds of one group.
#[derive(Clone, Debug, Default)]
struct DurableGroup {
    state: GroupState,
    entries: Vec<LogEntry>,
    commit: RaftIndex,
}

/// A shard's WAL in memory: a turn that fills, one that is being written, and what is durable.
#[derive(Debug, Default)]
pub(crate) struct TestSink {
    durable: BTreeMap<GroupId, DurableGroup>,
    in_flight: Option<(u64, Vec<Record>)>,
    filling: Vec<Record>,
    turns_submitted: u64,
}

impl TestSink {
    /// Begins to write what has been put, if nothing is being written. Returns the turn, if there was anything.
    pub(crate) fn submit(&mut self) -> Option<TurnNumber> {
        if self.in_flight.is_some() || self.filling.is_empty() {
            return None;
        }
        self.turns_submitted += 1;
        self.in_flight = Some((self.turns_submitted, std::mem::take(&mut self.filling)));
        Some(TurnNumber(self.turns_submitted))
    }

    /// The disk has the turn.
    pub(crate) fn complete(&mut self) -> Option<TurnNumber> {
        let (turn, records) = self.in_flight.take()?;
        for record in records {
            self.replay(record);
        }
        Some(TurnNumber(turn))
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The process dies. The turn being written is on the disk whole or not at all.
    pub(crate) fn crash(&mut self, is_turn_kept: bool) {
        if is_turn_kept {
            self.complete();
        }
        self.in_flight = None;
        self.filling.clear();
        // Numbers go on: nothing of the new process is mistaken for something of the old one.
        self.turns_submitted += 1;
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Entry(group, commit, entry) => {
                let durable = self.durable.entry(group).or_default();
                durable.entries.retain(|old| old.index < entry.index);
                durable.entries.push(entry);
                durable.commit = durable.commit.max(commit);
            }
            Record::State(group, state) => {
                let durable = self.durable.entry(group).or_default();
                durable.entries.retain(|old| old.index > state.log_start.index);
                durable.commit = durable.commit.max(state.hard.commit);
                durable.state = state;
            }
            Record::Removed(group) => {
                self.durable.remove(&group);
            }
        }
    }

    /// What a restart finds, with these entries in the partition's files.
    pub(crate) fn recover(&self, group: GroupId, files: &[LogEntry]) -> Option<GroupInit> {
        let durable = self.durable.get(&group)?;
        let log_start = durable.state.log_start;
        let mut state = durable.state.clone();
        state.hard.commit = durable.commit;
        let flushed = files.last().map_or_else(FlushPoint::default, |last| FlushPoint {
            index: last.index,
            term: last.term,
            next_offset: last.next_offset(),
            ..FlushPoint::default()
        });
        let mut file_term_runs: Vec<(RaftIndex, Term)> = Vec::new();
        for entry in files.iter().filter(|entry| entry.index > log_start.index) {
            if file_term_runs.last().is_none_or(|(_, term)| *term != entry.term) {
                file_term_runs.push((entry.index, entry.term));
            }
        }
        let entries = durable.entries.iter().filter(|entry| entry.index > flushed.index).cloned().collect();
        Some(GroupInit { group, state, entries, flushed, file_term_runs })
    }

    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.durable.keys().copied().collect()
    }

    /// The last durable index of a group.
    pub(crate) fn last_index(&self, group: GroupId) -> RaftIndex {
        let Some(durable) = self.durable.get(&group) else { return RaftIndex(0) };
        durable.entries.last().map_or(durable.state.log_start.index, |entry| entry.index)
    }
}

impl LogSink for TestSink {
    fn put_entry(&mut self, group: GroupId, commit: RaftIndex, entry: &LogEntry) {
        self.filling.push(Record::Entry(group, commit, entry.clone()));
    }

    fn put_state(&mut self, group: GroupId, state: &GroupState) {
        self.filling.push(Record::State(group, state.clone()));
    }

    fn put_removed(&mut self, group: GroupId) {
        self.filling.push(Record::Removed(group));
    }

    fn filling_turn(&self) -> TurnNumber {
        TurnNumber(self.turns_submitted + 1)
    }
}

/// A log start at `offset`, from the entries of a log that begins after `old`.
pub(crate) fn log_start_at(
    old: LogStart,
    entries: &[LogEntry],
    offset: KafkaOffset,
    reach: RaftIndex,
) -> LogStart {
    let offset = offset.max(old.offset);
    let below = entries
        .iter()
        .filter(|entry| entry.index > old.index && entry.index <= reach && entry.next_offset() <= offset);
    let Some(last) = below.last() else { return LogStart { offset, ..old } };
    LogStart { index: last.index, term: last.term, offset, base_offset: last.next_offset() }
}
