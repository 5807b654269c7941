//! A segment's `.log` seen through its mapping: the one way in which batches are read back, be it for a fetch, for
//! recovery or for a dump. A part of it may have been read past the page cache ([`super::read_past`]) and is then seen there.
//!
//! Pages are brought in before they are touched, so that an unreadable sector is an error and not a SIGBUS (SAFETY.md,
//! rule 7). A `LogView` is used on helper threads and at start, never on a shard.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::error::FilesError;
use super::mapped::{Held, MappedLog};
use super::read_past::{Loaded, ReadBuffers, Wanted};
use crate::batch::{BatchInfo, HEADER_BYTES, check_crc, peek};
use crate::disk::DiskFile;
use crate::types::KafkaOffset;

/// Pages brought in ahead while headers are walked.
const WINDOW_BYTES: u64 = 128 << 10;
/// Most that one call brings in (SAFETY.md, rule 7): a slow disk then holds up other jobs by little.
const POPULATE_BYTES_MAX: u64 = 1 << 20;

/// The first `end` bytes of a `.log` file.
pub(super) struct LogView {
    map: Arc<MappedLog>,
    path: PathBuf,
    end: u64,
    populated: Range<u64>,
    /// What was populated stays mapped while it is walked.
    held: Held,
    /// What was read past the page cache.
    loaded: Option<Loaded>,
}

impl LogView {
    /// The bytes of `map` below `end`, all of which have been written.
    pub(super) fn new(map: Arc<MappedLog>, path: PathBuf, end: u64) -> Self {
        assert!(end <= map.len() as u64, "the mapping covers what is read");
        let held = map.hold(0..0);
        Self { map, path, end, populated: 0..0, held, loaded: None }
    }

    /// Reads up to `bytes` from `position` on past the page cache, where that is of use.
    pub(super) fn load(
        &mut self,
        open: impl FnOnce() -> std::io::Result<Arc<dyn DiskFile>>,
        segment: u64,
        buffers: &Arc<ReadBuffers>,
        position: u64,
        bytes: usize,
    ) {
        let (end, range) = (self.end, position..self.end.min(position + bytes as u64));
        self.loaded = Wanted { segment, map: &self.map, buffers, range, end }.load(open);
    }

    /// Whether a range needs no other way of reading than what was read before it.
    pub(super) fn is_at_hand(&self, range: &Range<u64>) -> bool {
        self.loaded.as_ref().is_none_or(|loaded| range.end <= loaded.range.end)
    }

    /// A range of what was read past the page cache.
    fn loaded(&self, range: &Range<u64>) -> Option<(&Bytes, Range<usize>)> {
        let loaded = self.loaded.as_ref()?;
        let covers = loaded.range.start <= range.start && range.end <= loaded.range.end;
        covers.then(|| {
            let base = loaded.range.start;
            (&loaded.bytes, to_usize(range.start - base..range.end - base))
        })
    }

    /// Where the written bytes end.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The header of the batch at `position`, checked for shape, for lying within the file and for its base offset being
    /// at least `offset_min`.
    pub(super) fn header(&mut self, position: u64, offset_min: KafkaOffset) -> Result<BatchInfo, FilesError> {
        let header = self.end.min(position + HEADER_BYTES as u64);
        let parsed = peek(self.bytes(position..header)?);
        let info = parsed.map_err(|error| self.damaged(position, error.to_string()))?;
        if position + info.size_bytes as u64 > self.end {
            let what = format!("a batch of {} bytes reaches beyond the end at {}", info.size_bytes, self.end);
            return Err(self.damaged(position, what));
        }
        if info.base_offset < offset_min || info.leader_epoch.term().is_none() {
            let what = format!(
                "a batch of offset {} and leader epoch {} where offset {offset_min} or more was expected",
                info.base_offset, info.leader_epoch
            );
            return Err(self.damaged(position, what));
        }
        Ok(info)
    }

    /// Whether what lies at `position` can follow a batch that ends before `next_offset`. The segment ends at `end_offset`.
    pub(super) fn goes_on(
        &mut self,
        position: u64,
        next_offset: KafkaOffset,
        end_offset: KafkaOffset,
    ) -> bool {
        next_offset <= end_offset && (position == self.end || self.header(position, next_offset).is_ok())
    }

    /// The bytes of the batch with this header, brought in and compared with its checksum.
    pub(super) fn checked(&mut self, position: u64, info: &BatchInfo) -> Result<&[u8], FilesError> {
        let range = position..position + info.size_bytes as u64;
        if let Err(error) = check_crc(self.bytes(range.clone())?) {
            return Err(self.damaged(position, error.to_string()));
        }
        self.bytes(range)
    }

    /// A slice that keeps the mapping alive, or the buffer that was read into. No copy.
    pub(super) fn slice(&self, range: Range<u64>) -> Bytes {
        if range.is_empty() {
            return Bytes::new();
        }
        assert!(range.end <= self.end, "only written bytes are handed out");
        if let Some((bytes, range)) = self.loaded(&range) {
            return bytes.slice(range);
        }
        Bytes::from_owner(self.map.hold(to_usize(range)))
    }

    /// An error about this file.
    pub(super) fn damaged(&self, position: u64, what: impl Into<String>) -> FilesError {
        FilesError::damaged(&self.path, position, what)
    }

    fn bytes(&mut self, range: Range<u64>) -> Result<&[u8], FilesError> {
        assert!(range.start <= range.end && range.end <= self.end, "only written bytes are read");
        if self.loaded(&range).is_some() {
            return Ok(self.loaded(&range).map_or(&[], |(bytes, range)| &bytes[range]));
        }
        if range.start < self.populated.start || range.end > self.populated.end {
            let window = range.start..self.end.min(range.end.max(range.start + WINDOW_BYTES));
            let held = self.map.hold(to_usize(window.clone()));
            let mut at = window.start;
            while at < window.end {
                let step = at..window.end.min(at + POPULATE_BYTES_MAX);
                at = step.end;
                held.populate(to_usize(step)).map_err(|error| FilesError::read(&self.path, error))?;
            }
            self.populated = window;
            self.held = held;
        }
        Ok(self.held.bytes(to_usize(range)))
    }
}

fn to_usize(range: Range<u64>) -> Range<usize> {
    // Within a mapping, whose length is a usize.
    range.start as usize..range.end as usize
}
