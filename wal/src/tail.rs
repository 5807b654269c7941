//! The newest entries of one group, in memory: the store under raft's `Storage` and the cache that fetch reads.
//!
//! Owned by the group's Raft driver, on the group's shard. Pure data.
//!
//! ```text
//!   start (exclusive)                released             last
//!     │  entry  entry  entry  entry  entry │ entry  entry  entry
//!     └ evicted: only in files             └ in files as well  └ only here and in the WAL
//! ```
//!
//! Invariants: indexes are contiguous from `start().index + 1` to `last_index()`; offsets never go down;
//! entries above `released` never leave but by truncation, entries at or below it are never truncated.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::entry::{EntryKind, LogEntry};
use crate::types::{KafkaOffset, RaftIndex, Term};

/// What an entry costs beside its payload: the entry itself in the ring, the shared header of its `Bytes`
/// and the slack of the ring's and the allocator's rounding.
///
/// The payload counts by its own length. A payload that is a slice of a larger receive buffer pins all of that buffer;
/// whoever slices copies a small batch out of a large buffer, so that this figure stays within a factor of two.
pub const ENTRY_OVERHEAD_BYTES: usize = size_of::<LogEntry>() + 64;

/// A place between two entries of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The entry just before.
    pub index: RaftIndex,
    /// Its term.
    pub term: Term,
    /// The offset that the next batch gets.
    pub next_offset: KafkaOffset,
}

/// What [`Tail::read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailRead {
    /// Whole batches in order of offset, and the offset to go on from.
    Batches(Vec<Bytes>, KafkaOffset),
    /// The offset asked for is older than the tail: read the partition's files.
    BelowTail,
    /// No batch between the two offsets, or the first one is larger than the caller allows.
    Empty,
}

/// The newest entries of a group.
#[derive(Clone, Debug)]
pub struct Tail {
    start: LogPosition,
    entries: VecDeque<LogEntry>,
    released: RaftIndex,
    bytes: usize,
}

impl Tail {
    /// An empty tail that goes on after `start`, which is in the files (or is the log's very beginning).
    #[must_use]
    pub fn new(start: LogPosition) -> Self {
        Self { start, entries: VecDeque::new(), released: start.index, bytes: 0 }
    }

    /// Adds an entry. When entries at or above its index are there, they go first: raft has replaced them.
    ///
    /// # Panics
    /// When the entry would leave a gap, reach below what is released, or step back in offsets: each would corrupt the log.
    pub fn append(&mut self, entry: LogEntry) {
        if entry.index <= self.last_index() {
            self.truncate_from(entry.index);
        }
        assert_eq!(entry.index, self.last_index().next(), "entries of a group are contiguous");
        assert!(entry.base_offset >= self.next_offset(), "offsets of a group never go down");
        if entry.kind != EntryKind::Batch {
            assert_eq!(entry.base_offset, self.next_offset(), "only batches move the offset");
        }
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    /// Drops the entries at and above `index`.
    fn truncate_from(&mut self, index: RaftIndex) {
        assert!(index > self.released, "an entry that is in the files is committed and never replaced");
        let keep = self.slot(index).expect("the entry is in the tail");
        self.bytes -= self.entries.range(keep..).map(cost).sum::<usize>();
        self.entries.truncate(keep);
    }

    /// Forgets everything and goes on after `start`: a snapshot was installed.
    pub fn reset(&mut self, start: LogPosition) {
        *self = Self::new(start);
    }

    /// The place before the first entry held.
    #[must_use]
    pub fn start(&self) -> LogPosition {
        self.start
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Count of entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Index of the first entry held; one above [`Tail::last_index`] when there is none.
    #[must_use]
    pub fn first_index(&self) -> RaftIndex {
        self.start.index.next()
    }

    /// Index of the last entry of the log.
    #[must_use]
    pub fn last_index(&self) -> RaftIndex {
        self.entries.back().map_or(self.start.index, |entry| entry.index)
    }

    /// Term of the last entry of the log.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.start.term, |entry| entry.term)
    }

    /// The first offset that can be read here.
    #[must_use]
    pub fn first_offset(&self) -> KafkaOffset {
        self.start.next_offset
    }

    /// The offset after the last entry: what the next batch gets.
    #[must_use]
    pub fn next_offset(&self) -> KafkaOffset {
        self.entries.back().map_or(self.start.next_offset, LogEntry::next_offset)
    }

    /// The offset after the entry at `index`, which may be the one just before the tail; none outside.
    #[must_use]
    pub fn next_offset_after(&self, index: RaftIndex) -> Option<KafkaOffset> {
        if index == self.start.index {
            return Some(self.start.next_offset);
        }
        self.entry(index).map(LogEntry::next_offset)
    }

    /// The entry at this index, if it is held.
    #[must_use]
    pub fn entry(&self, index: RaftIndex) -> Option<&LogEntry> {
        self.slot(index).and_then(|slot| self.entries.get(slot))
    }

    /// The term of the entry at this index, which may be the one just before the tail; none outside.
    #[must_use]
    pub fn term(&self, index: RaftIndex) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// The entries of `[low, high)` as far as `bytes_max` of payload allows, but at least one.
    ///
    /// # Panics
    /// When the range reaches outside the tail.
    pub fn entries(
        &self,
        low: RaftIndex,
        high: RaftIndex,
        bytes_max: u64,
    ) -> impl Iterator<Item = &LogEntry> {
        assert!(
            low >= self.first_index() && low <= high && high <= self.last_index().next(),
            "range within the tail"
        );
        let (from, to) = (self.offset_of(low), self.offset_of(high));
        let mut taken_bytes = 0u64;
        self.entries
            .range(from..to)
            .enumerate()
            .take_while(move |(nth, entry)| {
                taken_bytes = taken_bytes.saturating_add(entry.data.len() as u64);
                *nth == 0 || taken_bytes <= bytes_max
            })
            .map(|(_, entry)| entry)
    }

    /// Batches for a consumer at `from`: whole ones that end at or before `below` (the high watermark or the last
    /// stable offset), at most `bytes_max` of them but the first one anyway when `at_least_one` is set.
    ///
    /// The first batch returned may begin before `from`, as Kafka's do.
    #[must_use]
    pub fn read(
        &self,
        from: KafkaOffset,
        below: KafkaOffset,
        bytes_max: usize,
        at_least_one: bool,
    ) -> TailRead {
        if from < self.first_offset() {
            return TailRead::BelowTail;
        }
        let first = self.entries.partition_point(|entry| entry.next_offset() <= from);
        let mut batches = Vec::new();
        let mut taken_bytes = 0usize;
        let mut next = from;
        for entry in self.entries.range(first..) {
            let after = entry.next_offset();
            if after > below {
                break;
            }
            if entry.kind != EntryKind::Batch {
                continue;
            }
            taken_bytes = taken_bytes.saturating_add(entry.data.len());
            if taken_bytes > bytes_max && !(batches.is_empty() && at_least_one) {
                break;
            }
            batches.push(entry.data.clone());
            next = after;
        }
        if batches.is_empty() { TailRead::Empty } else { TailRead::Batches(batches, next) }
    }

    /// The last entry that ends at or below `offset`; none when that is older than the tail can tell.
    #[must_use]
    pub fn position_before(&self, offset: KafkaOffset) -> Option<LogPosition> {
        if offset < self.first_offset() {
            return None;
        }
        let below = self.entries.partition_point(|entry| entry.next_offset() <= offset);
        let Some(last) = below.checked_sub(1) else { return Some(self.start) };
        let entry = &self.entries[last];
        Some(LogPosition { index: entry.index, term: entry.term, next_offset: entry.next_offset() })
    }

    /// Notes that the entries up to `index` are committed, applied and in the partition's files, so that they may leave.
    ///
    /// # Panics
    /// When the log does not reach that far.
    pub fn release(&mut self, index: RaftIndex) {
        assert!(index <= self.last_index(), "only what is there can be released");
        self.released = self.released.max(index);
    }

    /// The last entry that may leave.
    #[must_use]
    pub fn released(&self) -> RaftIndex {
        self.released
    }

    /// Drops the entries up to `index`.
    ///
    /// # Panics
    /// When one of them was not released: it would be lost to readers and to raft.
    pub fn evict_to(&mut self, index: RaftIndex) {
        assert!(index <= self.released, "only what is in the files and applied may leave memory");
        while self.first_index() <= index {
            let entry = self.entries.pop_front().expect("released entries are at most the last one");
            self.bytes -= cost(&entry);
            self.start =
                LogPosition { index: entry.index, term: entry.term, next_offset: entry.next_offset() };
        }
        if self.entries.is_empty() {
            // An idle partition should not keep the ring of its busy days.
            self.entries = VecDeque::new();
        }
    }

    /// Memory held, for the shard's budget: payloads and [`ENTRY_OVERHEAD_BYTES`] an entry.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn offset_of(&self, index: RaftIndex) -> usize {
        usize::try_from(index.0 - self.first_index().0).expect("a tail is small")
    }

    fn slot(&self, index: RaftIndex) -> Option<usize> {
        let distance = index.0.checked_sub(self.first_index().0)?;
        usize::try_from(distance).ok().filter(|slot| *slot < self.entries.len())
    }
}

fn cost(entry: &LogEntry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
