//! Walking a `.log` file at start: checks every batch on the way and makes the index entries that are missing.

use super::append::index_entry;
use super::error::FilesError;
use super::index::IndexEntry;
use super::raft_log_file::{OtherEntry, TermRun};
use super::segment::Shape;
use super::view::LogView;
use crate::types::{KafkaOffset, RaftIndex, Term};

/// A walk from a known place to the end of a segment.
pub(super) struct Scan<'a> {
    pub(super) log: LogView,
    /// The segment as far as it has been walked.
    pub(super) shape: Shape,
    /// Entries that are not batches, from the place on.
    pub(super) others: &'a [OtherEntry],
    pub(super) index_interval_bytes: u32,
    /// For a repair: the terms by the `.raft` file, which every batch must agree with, without a gap between offsets. A
    /// batch's checksum covers neither its base offset nor its leader epoch.
    pub(super) exact: Option<&'a [TermRun]>,
    /// Index entries made, as they stand in the file.
    pub(super) index: Vec<u8>,
}

impl Scan<'_> {
    /// Walks to the end of the view and then over the entries after its last batch.
    pub(super) fn run(&mut self) -> Result<(), FilesError> {
        while self.shape.log_bytes < self.log.end() {
            self.pass_others();
            self.batch()?;
        }
        self.pass_others();
        match self.others.first() {
            None => Ok(()),
            Some(other) => {
                let (found, after) = (other.entry.index, self.shape.last_index);
                let what =
                    format!("it has an entry of raft index {found} right after {after}: batches are missing");
                Err(self.log.damaged(self.shape.log_bytes, what))
            }
        }
    }

    fn pass_others(&mut self) {
        while let Some((other, rest)) = self.others.split_first() {
            if other.entry.index != self.shape.last_index.next() {
                return;
            }
            self.others = rest;
            self.shape.other_count += 1;
            self.advance(other.entry.term, other.entry.base_offset);
        }
    }

    fn batch(&mut self) -> Result<(), FilesError> {
        let position = self.shape.log_bytes;
        let info = self.log.header(position, self.shape.next_offset)?;
        self.log.checked(position, &info)?;
        let term = info.leader_epoch.term().filter(|term| *term >= self.shape.last_term);
        let Some(term) = term else {
            let what = format!("leader epoch {} after term {}", info.leader_epoch, self.shape.last_term);
            return Err(self.log.damaged(position, what));
        };
        if let Some(runs) = self.exact {
            let index = self.shape.last_index.next();
            let run = runs.iter().rev().find(|run| run.first_index <= index);
            let wanted = (self.shape.next_offset, run.map_or(self.shape.head.previous_term, |run| run.term));
            if (info.base_offset, term) != wanted {
                let what = format!("a batch of {:?} where {wanted:?} was written", (info.base_offset, term));
                return Err(self.log.damaged(position, what));
            }
        }
        let shape = &mut self.shape;
        if shape.unindexed_bytes > u64::from(self.index_interval_bytes) {
            let mark = index_entry(shape, shape.last_index.next(), info.base_offset);
            self.index.extend_from_slice(&shape.index_origin().encode(&mark));
            shape.index_count += 1;
            shape.unindexed_bytes = 0;
        }
        shape.unindexed_bytes += info.size_bytes as u64;
        shape.log_bytes += info.size_bytes as u64;
        shape.max_timestamp = shape.max_timestamp.max(info.max_timestamp);
        if position == 0 {
            shape.first_timestamp = Some(info.max_timestamp);
        }
        self.advance(term, info.next_offset());
        Ok(())
    }

    fn advance(&mut self, term: Term, next_offset: KafkaOffset) {
        self.shape.last_index = self.shape.last_index.next();
        self.shape.last_term = term;
        self.shape.next_offset = next_offset;
    }
}

/// Puts a shape back to what it was before the batch of an index entry. `number` index entries reach up to that one.
pub(super) fn rewind(shape: &mut Shape, number: u32, mark: &IndexEntry, term_before: Term) {
    shape.last_index = RaftIndex(mark.index.0 - 1);
    shape.last_term = term_before;
    shape.next_offset = mark.offset;
    shape.log_bytes = mark.position;
    shape.index_count = number;
    shape.other_count = mark.others_before;
    shape.max_timestamp = mark.max_timestamp_before;
    shape.unindexed_bytes = 0;
}
