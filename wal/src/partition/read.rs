//! Reading: batches for a fetch, entries for Raft, a place by its time. The shard picks the segment ([`SegmentView`]);
//! the look-up, the page faults and the checksums happen in the job, on a helper thread.
//!
//! Every batch that leaves here has been compared with its checksum: a flipped bit on one disk must never reach a consumer or
//! another replica. (With the walk over
//! the headers it costs 0.09 s a GB, measured: less than the copy to the socket.)

use std::sync::Arc;

use bytes::Bytes;

use super::PartitionLog;
use super::cache::FileCache;
use super::error::FilesError;
use super::index::{IndexEntry, IndexReader};
use super::jobs::{FileJob, Work};
use super::names::{Part, SegmentFiles};
use super::raft_log_file::OtherEntry;
use super::segment::{NO_TIMESTAMP, Segment, Shape};
use super::view::LogView;
use crate::batch::{BatchError, HEADER_BYTES};
use crate::compress::DecompressCaps;
use crate::disk::Disk;
use crate::entry::{EntryKind, LogEntry};
use crate::records::Records;
use crate::types::{KafkaOffset, RaftIndex};

/// Most bytes that one read hands out, but for a first batch that is longer by itself: what is brought in just before a send
/// should still be in memory when it is sent, and a slow client holds no more than that.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// Most entries that one read hands out: each is a slice of its own.
pub(super) const READ_ENTRIES_MAX: usize = 4096;

/// Batches read from a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBatches {
    /// Whole batches, one after the other, as they lie in the file. Empty when the first is longer than asked for,
    /// or when the segment has none in the range.
    pub data: Bytes,
    /// Where the next read goes on: the offset after the last batch, or beyond a gap.
    pub next_offset: KafkaOffset,
}

/// A segment as a job sees it: fixed when the job was made, so that appends meanwhile do not matter.
pub(super) struct SegmentView {
    pub(super) cache: Arc<FileCache>,
    pub(super) files: Arc<SegmentFiles>,
    pub(super) shape: Shape,
    pub(super) active: bool,
    pub(super) others: Arc<Vec<OtherEntry>>,
}

/// A place in a segment, and what is known there.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    position: u64,
    index: RaftIndex,
    offset: KafkaOffset,
}

impl SegmentView {
    fn log(&self, disk: &dyn Disk) -> Result<LogView, FilesError> {
        let path = self.files.path(Part::Log);
        let bytes = self.shape.log_bytes;
        let map = self
            .cache
            .map(disk, &self.files, bytes, self.active)
            .map_err(|error| FilesError::read(&path, error))?;
        Ok(LogView::new(map, path, bytes))
    }

    /// Where to begin walking: the last index entry that satisfies `before`, else the start of the file.
    fn seek(&self, disk: &dyn Disk, before: impl Fn(&IndexEntry) -> bool) -> Result<Cursor, FilesError> {
        let head = &self.shape.head;
        let start = Cursor { position: 0, index: head.first_index, offset: head.base_offset };
        if self.shape.index_count == 0 {
            return Ok(start);
        }
        let path = self.files.path(Part::Index);
        let look = || {
            let file = self.cache.reader(disk, &self.files, Part::Index)?;
            match IndexReader::new(file, self.shape.index_origin(), self.shape.index_count)? {
                Some(reader) => Ok(reader.last_where(before)?.1),
                None => Ok(None),
            }
        };
        let found = look().map_err(|error: std::io::Error| FilesError::read(&path, error))?;
        Ok(match found {
            Some(entry) if entry.position < self.shape.log_bytes => {
                Cursor { position: entry.position, index: entry.index, offset: entry.offset }
            }
            _ => start,
        })
    }

    /// The batches from the one that holds `from` up to `up_to`.
    pub(super) fn read(
        &self,
        disk: &dyn Disk,
        from: KafkaOffset,
        up_to: KafkaOffset,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Result<ReadBatches, FilesError> {
        let mut log = self.log(disk)?;
        let mut cursor = self.seek(disk, |entry| entry.offset <= from)?;
        let open = || self.cache.reader(disk, &self.files, Part::Log);
        let bytes = max_bytes.min(READ_BYTES_MAX);
        log.load(open, self.files.id, &self.cache.buffers, cursor.position, bytes);
        let mut next_offset = from;
        let mut start = None;
        while cursor.position < log.end() {
            let header_end = cursor.position + HEADER_BYTES as u64;
            if start.is_some() && !log.is_at_hand(&(cursor.position..header_end)) {
                break;
            }
            let info = match log.header(cursor.position, cursor.offset) {
                Ok(info) => info,
                // What comes before the damage is given; the next read, from there, tells.
                Err(FilesError::Damaged { .. } | FilesError::Read { .. }) if start.is_some() => break,
                Err(error) => return Err(error),
            };
            let end = cursor.position + info.size_bytes as u64;
            // The checksum does not cover the base offset: a gap before it counts only if what follows agrees.
            let gap = info.base_offset.0 - cursor.offset.0;
            let misplaced = gap > 0 && !log.goes_on(end, info.next_offset(), self.shape.next_offset);
            let batch_end = if misplaced { info.next_offset().plus(-gap) } else { info.next_offset() };
            if batch_end > from {
                if batch_end > up_to {
                    break;
                }
                let first = *start.get_or_insert(cursor.position);
                let bytes = end - first;
                // The bound on what is populated must not keep back a first batch that fits what was asked for.
                let is_first = first == cursor.position;
                let is_near = is_first || bytes <= READ_BYTES_MAX as u64 && log.is_at_hand(&(first..end));
                let fits = bytes <= max_bytes as u64 && is_near;
                let goes_anyway = is_first && min_one_batch;
                if !fits && !goes_anyway {
                    break;
                }
                let sound = match misplaced {
                    true => Err(log.damaged(cursor.position, "its base offset is not what was written")),
                    false => log.checked(cursor.position, &info),
                };
                match sound {
                    Ok(_) => {}
                    Err(FilesError::Damaged { .. } | FilesError::Read { .. }) if !is_first => break,
                    Err(error) => return Err(error),
                }
                next_offset = batch_end;
            }
            cursor.position = end;
            cursor.offset = batch_end;
        }
        let data = log.slice(start.unwrap_or(cursor.position)..cursor.position);
        if cursor.position == log.end() && !self.active {
            next_offset = next_offset.max(self.shape.next_offset);
        }
        Ok(ReadBatches { data, next_offset })
    }

    /// The entries of all kinds from `from` on, at least one.
    pub(super) fn entries(
        &self,
        disk: &dyn Disk,
        from: RaftIndex,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, FilesError> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        let mut walk = EntryWalk::new(self, disk, from)?;
        while let Some(entry) = walk.next(from)? {
            bytes += entry.data.len();
            if !entries.is_empty()
                && (bytes > max_bytes.min(READ_BYTES_MAX) || entries.len() == READ_ENTRIES_MAX)
            {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The first record with a timestamp of `timestamp` or later and an offset in `from..up_to`.
    pub(super) fn find_time(
        &self,
        disk: &dyn Disk,
        timestamp: i64,
        from: KafkaOffset,
        up_to: KafkaOffset,
    ) -> Result<Option<(KafkaOffset, i64)>, FilesError> {
        if self.shape.max_timestamp < timestamp || self.shape.max_timestamp == NO_TIMESTAMP {
            return Ok(None);
        }
        let mut log = self.log(disk)?;
        let mut cursor = self.seek(disk, |entry| entry.max_timestamp_before < timestamp)?;
        while cursor.position < log.end() {
            let info = log.header(cursor.position, cursor.offset)?;
            if info.base_offset >= up_to {
                break;
            }
            if info.max_timestamp >= timestamp && info.next_offset() > from {
                let batch = log.checked(cursor.position, &info)?;
                let found = find_record(batch, timestamp, from);
                let found = found.map_err(|error| log.damaged(cursor.position, error.to_string()))?;
                if found.is_some() {
                    return Ok(found.filter(|(offset, _)| *offset < up_to));
                }
            }
            cursor.position += info.size_bytes as u64;
            cursor.offset = info.next_offset();
        }
        Ok(None)
    }
}

/// The first record of a batch with this timestamp or a later one, at `from` or above.
fn find_record(
    batch: &[u8],
    timestamp: i64,
    from: KafkaOffset,
) -> Result<Option<(KafkaOffset, i64)>, BatchError> {
    let records = Records::open(batch, &DecompressCaps::default())?;
    for record in &records {
        let record = record?;
        if record.timestamp >= timestamp && record.offset >= from {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

impl PartitionLog {
    /// A job that reads batches, from the one that holds `from` up to `up_to_exclusive`; none when the files hold nothing
    /// there. `max_bytes` is cut to [`READ_BYTES_MAX`]; the outcome says where to go on.
    #[must_use]
    pub fn read(
        &self,
        from: KafkaOffset,
        up_to_exclusive: KafkaOffset,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Option<FileJob> {
        if from < self.start.base_offset || from >= up_to_exclusive.min(self.written().next_offset) {
            return None;
        }
        // The segment before the first one that ends at or below `from` has been left behind, gaps included.
        let number = self.segments.partition_point(|segment| segment.shape.next_offset <= from);
        let (view, up_to) = (self.view(number)?, up_to_exclusive);
        Some(FileJob(Work::Read { view, from, up_to, max_bytes, min_one_batch }))
    }

    /// A job that reads the entries from `from_index` on, one at least; none when the files do not hold it.
    #[must_use]
    pub fn read_entries(&self, from_index: RaftIndex, max_bytes: usize) -> Option<FileJob> {
        if from_index <= self.start.index || from_index > self.written().index {
            return None;
        }
        let number = self.segments.partition_point(|segment| segment.shape.last_index < from_index);
        let view = self.view(number)?;
        Some(FileJob(Work::Entries { view, from: from_index, max_bytes }))
    }

    /// A job that finds the first record with a timestamp of at least `timestamp` and an offset in `from..up_to_exclusive`;
    /// none when the files have no such timestamp.
    #[must_use]
    pub fn find_time(
        &self,
        timestamp: i64,
        from: KafkaOffset,
        up_to_exclusive: KafkaOffset,
    ) -> Option<FileJob> {
        let fits =
            |segment: &Segment| segment.shape.max_timestamp >= timestamp && segment.shape.next_offset > from;
        let numbers = (0..self.segments.len()).filter(|number| fits(&self.segments[*number]));
        // Two: in the first one the record may lie below `from`; of the second one every record is above it.
        let views: Vec<SegmentView> = numbers.take(2).filter_map(|number| self.view(number)).collect();
        if views.is_empty() {
            return None;
        }
        let up_to = up_to_exclusive;
        Some(FileJob(Work::FindTime { views, timestamp, from, up_to }))
    }

    fn view(&self, number: usize) -> Option<SegmentView> {
        let segment = self.segments.get(number)?;
        Some(SegmentView {
            cache: Arc::clone(&self.store.cache),
            files: Arc::clone(&segment.files),
            shape: segment.shape,
            active: number + 1 == self.segments.len(),
            others: Arc::clone(&segment.others),
        })
    }
}

/// Walks a segment in the order of the Raft log, `.log` and `.raft` merged.
struct EntryWalk<'a> {
    view: &'a SegmentView,
    log: LogView,
    cursor: Cursor,
    others: &'a [OtherEntry],
}

impl<'a> EntryWalk<'a> {
    fn new(view: &'a SegmentView, disk: &dyn Disk, from: RaftIndex) -> Result<Self, FilesError> {
        let cursor = view.seek(disk, |entry| entry.index <= from)?;
        let skipped = view.others.partition_point(|other| other.entry.index < cursor.index);
        // A segment without a batch has an empty file, which cannot be mapped: nothing of it is touched either.
        let log = view.log(disk)?;
        Ok(Self { view, log, cursor, others: &view.others[skipped..] })
    }

    /// The next entry at or above `from`. A batch below it is passed over by its header alone.
    fn next(&mut self, from: RaftIndex) -> Result<Option<LogEntry>, FilesError> {
        while self.cursor.index <= self.view.shape.last_index {
            let index = self.cursor.index;
            self.cursor.index = index.next();
            if let Some((other, rest)) = self.others.split_first()
                && other.entry.index == index
            {
                self.others = rest;
                if index >= from {
                    return Ok(Some(other.entry.clone()));
                }
                continue;
            }
            let position = self.cursor.position;
            if position >= self.log.end() {
                return Err(self
                    .log
                    .damaged(position, format!("the batch of raft index {index} is missing")));
            }
            let info = self.log.header(position, self.cursor.offset)?;
            self.cursor.position += info.size_bytes as u64;
            self.cursor.offset = info.next_offset();
            if index < from {
                continue;
            }
            self.log.checked(position, &info)?;
            let Some(term) = info.leader_epoch.term() else {
                return Err(self.log.damaged(position, "the batch has no leader epoch"));
            };
            let data = self.log.slice(position..self.cursor.position);
            let (kind, base_offset) = (EntryKind::Batch, info.base_offset);
            return Ok(Some(LogEntry { index, term, kind, base_offset, data }));
        }
        Ok(None)
    }
}
