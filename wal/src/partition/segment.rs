//! What the shard knows of a segment: a hundred bytes of numbers, its entries that are not batches, its terms.
//!
//! No index is kept in memory: look-ups read the `.sidx` file on a helper thread, so that a partition costs the same
//! memory whatever it holds.

use std::sync::Arc;

use super::index::IndexOrigin;
use super::names::SegmentFiles;
use super::raft_log_file::{OtherEntry, RaftFileHeader, Seal, TermRun};
use crate::types::{KafkaOffset, RaftIndex, Term};

/// The timestamp of a segment without any.
pub(super) const NO_TIMESTAMP: i64 = -1;

/// A segment's numbers. Plain, so that an append can work on a copy that takes effect when its job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// What the `.raft` file's header holds: base offset, first index, term before it, creation time.
    pub(super) head: RaftFileHeader,
    pub(super) last_index: RaftIndex,
    pub(super) last_term: Term,
    pub(super) next_offset: KafkaOffset,
    pub(super) log_bytes: u64,
    pub(super) raft_bytes: u64,
    pub(super) index_count: u32,
    /// Bytes of batches since the last index entry.
    pub(super) unindexed_bytes: u64,
    /// Entries that are not batches.
    pub(super) other_count: u32,
    pub(super) max_timestamp: i64,
    /// Highest timestamp of the first batch: Kafka rolls by time from it.
    pub(super) first_timestamp: Option<i64>,
    pub(super) appended_ms: i64,
}

impl Shape {
    /// A segment that holds nothing yet.
    pub(super) fn empty(head: RaftFileHeader) -> Self {
        Self {
            head,
            last_index: RaftIndex(head.first_index.0 - 1),
            last_term: head.previous_term,
            next_offset: head.base_offset,
            log_bytes: 0,
            raft_bytes: 0,
            index_count: 0,
            unindexed_bytes: 0,
            other_count: 0,
            max_timestamp: NO_TIMESTAMP,
            first_timestamp: None,
            appended_ms: head.created_ms,
        }
    }

    /// The segment as its seal describes it.
    pub(super) fn sealed(head: RaftFileHeader, seal: &Seal, raft_bytes: u64, other_count: u32) -> Self {
        Self {
            head,
            last_index: seal.last_index,
            last_term: seal.last_term,
            next_offset: seal.next_offset,
            log_bytes: seal.log_bytes,
            raft_bytes,
            index_count: seal.index_count,
            unindexed_bytes: 0,
            other_count,
            max_timestamp: seal.max_timestamp,
            first_timestamp: None,
            appended_ms: seal.appended_ms,
        }
    }

    /// The seal of the segment as it is now.
    pub(super) fn seal(&self) -> Seal {
        Seal {
            last_index: self.last_index,
            last_term: self.last_term,
            next_offset: self.next_offset,
            log_bytes: self.log_bytes,
            max_timestamp: self.max_timestamp,
            appended_ms: self.appended_ms,
            index_count: self.index_count,
        }
    }

    pub(super) fn index_origin(&self) -> IndexOrigin {
        IndexOrigin::new(self.head.base_offset, self.head.first_index)
    }

    /// What retention by time goes by: the highest timestamp, or the last append where batches carry none.
    pub(super) fn retention_timestamp(&self) -> i64 {
        if self.max_timestamp >= 0 { self.max_timestamp } else { self.appended_ms }
    }
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) files: Arc<SegmentFiles>,
    pub(super) shape: Shape,
    /// Its entries that are not batches, by index. Shared with the reads in flight.
    pub(super) others: Arc<Vec<OtherEntry>>,
    /// The terms that begin in it.
    pub(super) terms: Vec<TermRun>,
}
