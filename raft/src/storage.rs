//! `raft::Storage` over a group's tail, its runs of terms and its durable state.
//!
//! Owned by the group's `RawNode`, on the group's shard. Never blocks and never touches a file:
//! - `term` answers for the whole log, from the runs;
//! - `entries` answers from the tail. Below it the entries are only in files: raft-rs asks for such only in order to send
//!   them to a follower that lags, and then takes `LogTemporarilyUnavailable` for an answer; the wish is kept here, the
//!   driver hands it to the shard, and the entries come back by [`GroupStorage::supply`].
//!
//! raft-rs also reads entries where it cannot wait (the next ones to apply, and the unapplied ones before a campaign).
//! All of these lie above the applied index, and entries in (applied, last] never leave the tail (SAFETY.md, rule 7). If one
//! were missing the log would have a hole: the storage says `Unavailable` and raft-rs stops the process, as it must.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_wal::entry::{GroupState, LogEntry, LogStart};
use chronik_wal::tail::{LogPosition, Tail};
use chronik_wal::types::RaftIndex;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::convert;
use crate::snapshot;
use crate::term_runs::TermRuns;

/// Ranges of one group that may be on their way from files at once: one for each follower that lags, within reason.
/// A wish beyond that is dropped; raft-rs asks again at the follower's next heartbeat.
const FETCHES_MAX: usize = 8;

/// Sends that may wait for one range: several followers at the same place, or one that asked repeatedly.
const WAITERS_MAX: usize = 8;

/// A range of entries that raft wants and only files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WantedRange {
    pub low: RaftIndex,
    pub high: RaftIndex,
    pub bytes_max: u64,
}

#[derive(Debug)]
struct Wanted {
    range: WantedRange,
    handed_out: bool,
    waiters: Vec<GetEntriesContext>,
}

/// What raft-rs reads of a group.
#[derive(Debug)]
pub(crate) struct GroupStorage {
    pub(crate) tail: Tail,
    pub(crate) term_runs: TermRuns,
    /// What is (or is about to be) durable beside the entries.
    pub(crate) state: GroupState,
    /// `state.configuration`, read.
    pub(crate) configuration: ConfState,
    /// Ranges asked for, by their first index.
    wanted: RefCell<BTreeMap<RaftIndex, Wanted>>,
    /// The range just supplied, while its waiters are served.
    supplied: Vec<LogEntry>,
}

impl GroupStorage {
    pub(crate) fn new(tail: Tail, term_runs: TermRuns, state: GroupState, configuration: ConfState) -> Self {
        Self { tail, term_runs, state, configuration, wanted: RefCell::default(), supplied: Vec::new() }
    }

    /// The first index of the log that is not compacted.
    pub(crate) fn first(&self) -> RaftIndex {
        self.state.log_start.index.next()
    }

    /// Adds an entry that raft-rs has accepted, replacing what it conflicts with.
    pub(crate) fn append(&mut self, entry: LogEntry) {
        self.term_runs.push(entry.index, entry.term);
        self.tail.append(entry);
    }

    /// Takes over a new applied configuration.
    pub(crate) fn set_configuration(&mut self, configuration: ConfState, index: RaftIndex) {
        self.state.configuration = encode_configuration(&configuration);
        self.state.configuration_index = index;
        self.configuration = configuration;
    }

    /// Moves the log start forward. Indexes up to it are gone for raft; the tail may still hold some as cache.
    pub(crate) fn compact_to(&mut self, log_start: LogStart, snapshot_data: Bytes) {
        self.state.log_start = log_start;
        self.state.snapshot_data = snapshot_data;
        self.term_runs.compact_to(log_start.index);
        self.tail.release(log_start.index);
    }

    /// Takes over a snapshot: the log is empty and goes on after it.
    pub(crate) fn install(&mut self, log_start: LogStart, snapshot_data: Bytes) {
        self.state.log_start = log_start;
        self.state.snapshot_data = snapshot_data;
        self.term_runs = TermRuns::starting_at(log_start.index, log_start.term);
        self.tail.reset(LogPosition {
            index: log_start.index,
            term: log_start.term,
            next_offset: log_start.base_offset,
        });
        self.wanted.get_mut().clear();
    }

    /// The next range to fetch from files, each one once.
    pub(crate) fn take_wish(&mut self) -> Option<WantedRange> {
        let wanted = self.wanted.get_mut().values_mut().find(|wanted| !wanted.handed_out)?;
        wanted.handed_out = true;
        Some(wanted.range)
    }

    /// Makes fetched entries readable until [`GroupStorage::drop_supply`]; the sends returned are to be tried again. Entries that are
    /// not the wished ones are ignored and nothing is sent: raft asks again when it next hears from the follower.
    pub(crate) fn supply(&mut self, low: RaftIndex, entries: Vec<LogEntry>) -> Vec<GetEntriesContext> {
        let Some(wanted) = self.wanted.get_mut().remove(&low) else { return Vec::new() };
        if low < self.first() {
            // Compacted meanwhile: trying again makes raft send a snapshot.
            return wanted.waiters;
        }
        let fits = entries.iter().zip(low.0..).all(|(entry, index)| {
            entry.index.0 == index && self.term_runs.term(entry.index) == Some(entry.term)
        });
        if !fits || entries.is_empty() {
            tracing::warn!(%low, fits, "entries for a follower could not be read from files");
            return Vec::new();
        }
        self.supplied = entries;
        wanted.waiters
    }

    /// Ends what [`GroupStorage::supply`] began.
    pub(crate) fn drop_supply(&mut self) {
        self.supplied = Vec::new();
    }

    fn read_supplied(&self, low: RaftIndex, high: RaftIndex, bytes_max: u64) -> Option<Vec<Entry>> {
        let first = self.supplied.first()?.index;
        let skip = usize::try_from(low.0.checked_sub(first.0)?).ok()?;
        let mut taken_bytes = 0u64;
        let entries: Vec<Entry> = (self.supplied.get(skip..)?.iter())
            .take_while(|entry| entry.index < high)
            .enumerate()
            .take_while(|(nth, entry)| {
                taken_bytes = taken_bytes.saturating_add(entry.data.len() as u64);
                *nth == 0 || taken_bytes <= bytes_max
            })
            .map(|(_, entry)| convert::to_raft(entry))
            .collect();
        (!entries.is_empty()).then_some(entries)
    }

    fn wish(&self, range: WantedRange, context: GetEntriesContext) {
        let mut all = self.wanted.borrow_mut();
        if !all.contains_key(&range.low) && all.len() >= FETCHES_MAX {
            return;
        }
        let wanted =
            all.entry(range.low).or_insert_with(|| Wanted { range, handed_out: false, waiters: Vec::new() });
        if wanted.waiters.len() < WAITERS_MAX {
            wanted.waiters.push(context);
        }
    }
}

/// A configuration as `GroupState` keeps it.
pub(crate) fn encode_configuration(configuration: &ConfState) -> Bytes {
    Bytes::from(
        configuration.write_to_bytes().expect("a configuration without unset required fields is written"),
    )
}

impl Storage for GroupStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard = HardState::default();
        hard.term = self.state.hard.term.0;
        hard.vote = self.state.hard.vote.0;
        hard.commit = self.state.hard.commit.0;
        Ok(RaftState::new(hard, self.configuration.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let (low, high) = (RaftIndex(low), RaftIndex(high));
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if low >= self.tail.first_index() {
            return Ok(self.tail.entries(low, high, bytes_max).map(convert::to_raft).collect());
        }
        if let Some(entries) = self.read_supplied(low, high, bytes_max) {
            return Ok(entries);
        }
        if !context.can_async() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let high = high.min(self.tail.first_index());
        self.wish(WantedRange { low, high, bytes_max }, context);
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let index = RaftIndex(index);
        if index < self.state.log_start.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.tail.last_index() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        self.term_runs.term(index).map(|term| term.0).ok_or(Error::Store(StorageError::Compacted))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first().0)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.tail.last_index().0)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let log_start = self.state.log_start;
        if log_start.index.0 < request_index || log_start.index.0 == 0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        meta.index = log_start.index.0;
        meta.term = log_start.term.0;
        meta.set_conf_state(self.configuration.clone());
        snapshot.data = snapshot::encode_data(&self.state);
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests;
