//! Opening a partition's files at start.
//!
//! The checkpoint in the shard's WAL says how far the files were durable. All beyond is cut off, whatever it is: the WAL has
//! it and appends it again (SAFETY.md, rule 4). All below must be there: what is not is damage, reported and never cut.
//!
//! Cost: of a sealed segment its `.raft` file and the last entry of its index; of the active one also the log from its last
//! index entry on. So the time does not depend on how much the partition holds. Batches further back are checked when they
//! are read. Runs on a helper thread or before anything is served; the files are not mapped by anybody else yet, so they may
//! be cut.
//!
//! Every step may be interrupted and done again: the outcome depends on the checkpoint alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::append::{ProducerSnapshot, snapshot_path};
use super::error::FilesError;
use super::index::{self, IndexReader};
use super::names::{
    DELETED, Part, PartitionIdentity, SegmentFiles, file_name, parse_name, topic_id_in, topic_id_text,
};
use super::raft_log_file::{OtherEntry, RAFT_FILE_BYTES_MAX, RaftFile, RaftRecord, Seal, TermRun};
use super::scan::{Scan, rewind};
use super::segment::{Segment, Shape};
use super::view::LogView;
use super::{DirtySegment, FileLimits, FileStore, PartitionLog};
use crate::disk::{self, Disk, OpenMode};
use crate::entry::{FlushPoint, LogStart};
use crate::types::{KafkaOffset, RaftIndex, Term};

/// A longer producer snapshot is not read: it would hold more than a million producers.
const SNAPSHOT_BYTES_MAX: usize = 128 << 20;

/// A partition found on disk.
pub struct Opened {
    /// Its files, cut to the checkpoint. [`PartitionLog::written`] is the checkpoint.
    pub log: PartitionLog,
    /// The newest good producer snapshot at or below the checkpoint.
    pub snapshot: Option<ProducerSnapshot>,
    /// The first offset whose batch is not in `snapshot`, or where the files begin when there is none: read from here to
    /// [`PartitionLog::written`] to have the producer state complete.
    pub replay_from: KafkaOffset,
}

impl PartitionLog {
    /// Opens the files of a partition and cuts them to `checkpoint`; without one nothing was ever durable and all goes.
    /// `start` is where the log begins by the group's state: segments wholly below are gone.
    ///
    /// # Errors
    /// [`FilesError::Damaged`] when something below the checkpoint is missing or does not verify; `Identity` when the
    /// directory is another partition's; `Version`; what the disk says.
    pub fn open(
        disk: &dyn Disk,
        store: &FileStore,
        identity: PartitionIdentity,
        checkpoint: Option<FlushPoint>,
        start: LogStart,
        limits: FileLimits,
    ) -> Result<Opened, FilesError> {
        let log = Self::new(store, identity, start, limits);
        // At or below the log start the checkpoint speaks of what is gone.
        let point = checkpoint.filter(|point| point.index > start.index);
        let found = disk.exists(&log.dir).map_err(|error| FilesError::read(&log.dir, error))?;
        match point {
            None if !found => Ok(Opened { log, snapshot: None, replay_from: start.base_offset }),
            None => open_empty(disk, log),
            Some(point) if !found => {
                let what =
                    format!("the directory is missing, the log up to offset {} with it", point.next_offset);
                Err(FilesError::damaged(&log.dir, 0, what))
            }
            Some(point) => open_at(disk, log, point),
        }
    }
}

/// The directory is there, but nothing in it counts.
fn open_empty(disk: &dyn Disk, log: PartitionLog) -> Result<Opened, FilesError> {
    if let Some(id) = topic_id_in(disk, &log.dir)
        && id != topic_id_text(log.identity.topic_id)
    {
        let what = format!("it belongs to topic id {id}, not to {}", topic_id_text(log.identity.topic_id));
        return Err(FilesError::Identity { dir: log.dir, what });
    }
    let listing = Listing::read(disk, &log.dir)?;
    let files = listing.bases.iter().rev().flat_map(|base| segment_paths(&log.dir, *base));
    let snapshots = listing.snapshots.iter().map(|offset| snapshot_path(&log.dir, *offset));
    remove_all(disk, &log.dir, files.chain(snapshots).chain(listing.leftovers))?;
    let replay_from = log.start.base_offset;
    Ok(Opened { log, snapshot: None, replay_from })
}

fn open_at(disk: &dyn Disk, mut log: PartitionLog, point: FlushPoint) -> Result<Opened, FilesError> {
    log.identity.check(disk, &log.dir).map_err(|error| missing(error, 0))?;
    log.made = true;
    let listing = Listing::read(disk, &log.dir)?;
    let (kept, gone) = listing.split(point.segment_base, log.start.base_offset);
    if kept.last() != Some(&point.segment_base) {
        let path = log.dir.join(file_name(point.segment_base, "log"));
        return Err(FilesError::damaged(&path, 0, "the segment that the checkpoint names is missing"));
    }
    let beyond = listing.snapshots.iter().filter(|offset| **offset > point.next_offset);
    let beyond = beyond.map(|offset| snapshot_path(&log.dir, *offset));
    // Newest first: what a crash leaves is then still without a hole.
    let files = gone.iter().rev().flat_map(|base| segment_paths(&log.dir, *base));
    remove_all(disk, &log.dir, files.chain(beyond).chain(listing.leftovers))?;

    for base in kept {
        let opener = Opener { disk, log: &log, base };
        let segment = if base == point.segment_base {
            let (segment, unsynced) = opener.active(&point)?;
            let (files, index_entries) = (Arc::clone(&segment.files), unsynced);
            if index_entries > 0 {
                log.dirty.segments.push(DirtySegment { files, log: false, raft: false, index_entries });
            }
            segment
        } else {
            opener.sealed()?
        };
        check_follows(&log, &segment)?;
        log.segments.push_back(segment);
    }
    let head = log.segments[0].shape.head;
    let (index, term) = (RaftIndex(head.first_index.0 - 1), head.previous_term);
    log.start = LogStart { index, term, offset: log.start.offset, base_offset: head.base_offset };
    log.synced = point;
    assert_eq!(log.written(), point, "the files end at the checkpoint");
    log.snapshots = listing.snapshots.into_iter().filter(|offset| *offset <= point.next_offset).collect();
    let snapshot = newest_snapshot(disk, &log)?;
    let replay_from = snapshot.as_ref().map_or(head.base_offset, |snapshot| snapshot.offset);
    Ok(Opened { log, snapshot, replay_from })
}

/// A segment begins where the one before it ended; the first one at or before the log start.
fn check_follows(log: &PartitionLog, segment: &Segment) -> Result<(), FilesError> {
    let head = &segment.shape.head;
    let follows = match log.segments.back() {
        Some(before) => {
            let end = &before.shape;
            let same = end.next_offset == head.base_offset && end.last_term == head.previous_term;
            same && end.last_index.next() == head.first_index
        }
        None => head.first_index <= log.start.index.next(),
    };
    if follows {
        return Ok(());
    }
    let what = format!(
        "it begins at raft index {} and offset {}: the segment before it is missing or shorter than it was",
        head.first_index, head.base_offset
    );
    Err(FilesError::damaged(&segment.files.path(Part::Raft), 0, what))
}

/// Opens one segment.
struct Opener<'a> {
    disk: &'a dyn Disk,
    log: &'a PartitionLog,
    base: KafkaOffset,
}

impl Opener<'_> {
    fn files(&self) -> Arc<SegmentFiles> {
        let id = self.log.store.cache.new_id();
        Arc::new(SegmentFiles { id, dir: self.log.dir.clone(), base_offset: self.base })
    }

    fn raft_file(
        &self,
        files: &SegmentFiles,
        wanted: impl Fn(&RaftRecord) -> bool,
    ) -> Result<RaftFile, FilesError> {
        let path = files.path(Part::Raft);
        let bytes = disk::read_file(self.disk, &path, RAFT_FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| missing(FilesError::read(&path, error), 0))?;
        let file = RaftFile::decode(&path, bytes, wanted)?;
        if file.header.base_offset != self.base || file.header.group != self.log.identity.group {
            let what = format!("it is of offset {} and group {}", file.header.base_offset, file.header.group);
            return Err(FilesError::damaged(&path, 0, what));
        }
        Ok(file)
    }

    fn log_bytes(&self, files: &SegmentFiles, wanted: u64) -> Result<u64, FilesError> {
        let path = files.path(Part::Log);
        let bytes = self.disk.file_len(&path).map_err(|error| missing(FilesError::read(&path, error), 0))?;
        if bytes < wanted {
            return Err(FilesError::damaged(
                &path,
                bytes,
                format!("it ends here; {wanted} bytes were durable"),
            ));
        }
        Ok(bytes)
    }

    /// A segment below the checkpoint's: its seal says what it holds.
    fn sealed(&self) -> Result<Segment, FilesError> {
        let files = self.files();
        let file = self.raft_file(&files, |_| true)?;
        let Some(RaftRecord::Seal(seal)) = file.records.last() else {
            let what = "the seal is missing or does not verify";
            return Err(FilesError::damaged(&files.path(Part::Raft), file.good_bytes, what));
        };
        let seal = *seal;
        let (others, terms) = sort_records(&file);
        let shape = Shape::sealed(file.header, &seal, file.good_bytes, others.len() as u32);
        self.log_bytes(&files, seal.log_bytes)?;
        if !self.has_good_index(&files, &shape)? {
            self.rebuild(&files, &shape, &seal, &others)?;
        }
        Ok(Segment { files, shape, others: Arc::new(others), terms })
    }

    fn has_good_index(&self, files: &SegmentFiles, shape: &Shape) -> Result<bool, FilesError> {
        let path = files.path(Part::Index);
        let check = || -> std::io::Result<bool> {
            let file = self.disk.open(&path, OpenMode::Read)?;
            let reader = IndexReader::new(file, shape.index_origin(), shape.index_count)?;
            let Some(reader) = reader.filter(|reader| reader.count() == shape.index_count) else {
                return Ok(false);
            };
            match shape.index_count.checked_sub(1) {
                None => Ok(true),
                Some(last) => Ok(reader.entry(last)?.is_some_and(|entry| entry.position < shape.log_bytes)),
            }
        };
        match check() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            result => result.map_err(|error| FilesError::read(&path, error)),
        }
    }

    /// Makes a sealed segment's index again from the whole of its log.
    fn rebuild(
        &self,
        files: &SegmentFiles,
        sealed: &Shape,
        seal: &Seal,
        others: &[OtherEntry],
    ) -> Result<(), FilesError> {
        tracing::warn!(path = %files.path(Part::Index).display(), "index is missing or damaged: making it again");
        let mut shape = Shape::empty(sealed.head);
        let index = self.scan(files, &mut shape, others, seal.log_bytes)?;
        // The index of a smaller interval has another count; all else must be what the seal says.
        let found = Seal { index_count: seal.index_count, appended_ms: seal.appended_ms, ..shape.seal() };
        if found != *seal {
            let what = format!("the segment holds {found:?} where its seal says {seal:?}");
            return Err(FilesError::damaged(&files.path(Part::Log), shape.log_bytes, what));
        }
        self.write_index(files, &shape, 0, &index, true)
    }

    /// The segment that the checkpoint lies in, cut to it, and how many index entries were made for it.
    fn active(&self, point: &FlushPoint) -> Result<(Segment, u32), FilesError> {
        let files = self.files();
        let file = self.raft_file(&files, |record| {
            record.index() <= point.index && !matches!(record, RaftRecord::Seal(_))
        })?;
        let (others, terms) = sort_records(&file);
        let log_bytes = self.log_bytes(&files, point.position)?;

        let mut shape = Shape::empty(file.header);
        let kept = self.last_mark(&files, &mut shape, point.position, &terms)?;
        let others_before = shape.other_count as usize;
        if others.partition_point(|other| other.entry.index <= shape.last_index) != others_before {
            let what = format!("{others_before} entries that are not batches were written before this place");
            return Err(FilesError::damaged(&files.path(Part::Raft), file.good_bytes, what));
        }
        let index = self.scan(&files, &mut shape, &others[others_before..], point.position)?;
        check_end(&files, &file, &shape, point)?;
        shape.raft_bytes = file.good_bytes;
        if point.position > 0 {
            shape.first_timestamp =
                Some(self.view(&files, point.position)?.header(0, self.base)?.max_timestamp);
        }

        self.write_index(&files, &shape, kept, &index, false)?;
        if log_bytes > point.position {
            self.cut(&files, Part::Log, point.position)?;
        }
        self.cut(&files, Part::Raft, file.good_bytes)?;
        let made = shape.index_count - kept;
        Ok((Segment { files, shape, others: Arc::new(others), terms }, made))
    }

    /// Sets the shape to the last index entry below `end`; how many entries there are up to it.
    fn last_mark(
        &self,
        files: &SegmentFiles,
        shape: &mut Shape,
        end: u64,
        terms: &[TermRun],
    ) -> Result<u32, FilesError> {
        let path = files.path(Part::Index);
        let look = || -> std::io::Result<_> {
            let file = self.disk.open(&path, OpenMode::Read)?;
            match IndexReader::new(file, shape.index_origin(), u32::MAX)? {
                Some(reader) => reader.last_where(|entry| entry.position < end),
                None => Ok((0, None)),
            }
        };
        match look() {
            Ok((number, Some(mark))) => {
                let before = terms.iter().rev().find(|run| run.first_index < mark.index);
                let term_before = before.map_or(shape.head.previous_term, |run| run.term);
                rewind(shape, number, &mark, term_before);
                Ok(number)
            }
            Ok((_, None)) => Ok(0),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(FilesError::read(&path, error)),
        }
    }

    fn view(&self, files: &SegmentFiles, end: u64) -> Result<LogView, FilesError> {
        let path = files.path(Part::Log);
        let failed = |error| FilesError::read(&path, error);
        // A mapping has a byte at least; none of an empty file is touched.
        let len = usize::try_from(end.max(1)).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let map = self.disk.open(&path, OpenMode::Read).and_then(|file| file.map(len)).map_err(failed)?;
        Ok(LogView::new(map, path, end))
    }

    /// Walks from where `shape` is to `end`; the index entries made on the way.
    fn scan(
        &self,
        files: &SegmentFiles,
        shape: &mut Shape,
        others: &[OtherEntry],
        end: u64,
    ) -> Result<Vec<u8>, FilesError> {
        let log = self.view(files, end)?;
        let index_interval_bytes = self.log.limits.index_interval_bytes;
        let mut scan = Scan { log, shape: *shape, others, index_interval_bytes, index: Vec::new() };
        scan.run()?;
        *shape = scan.shape;
        Ok(scan.index)
    }

    /// Writes the index: its header and what comes after the first `kept` entries.
    fn write_index(
        &self,
        files: &SegmentFiles,
        shape: &Shape,
        kept: u32,
        entries: &[u8],
        durably: bool,
    ) -> Result<(), FilesError> {
        let path = files.path(Part::Index);
        let write = || {
            let file = self.disk.open(&path, OpenMode::ReadWrite)?;
            let end = index::entry_position(kept);
            if kept == 0 {
                file.set_len(0)?;
                file.write_all_at(&shape.index_origin().header(), 0)?;
            } else if file.len()? != end {
                file.set_len(end)?;
            }
            if !entries.is_empty() {
                file.write_all_at(entries, end)?;
            }
            if durably { file.fdatasync() } else { Ok(()) }
        };
        write().map_err(|error| FilesError::write(&path, "writing", error))
    }

    fn cut(&self, files: &SegmentFiles, part: Part, len: u64) -> Result<(), FilesError> {
        let path = files.path(part);
        let cut = self
            .disk
            .open(&path, OpenMode::ReadWrite)
            .and_then(|file| if file.len()? == len { Ok(()) } else { file.set_len(len) });
        cut.map_err(|error| FilesError::write(&path, "cutting to the checkpoint", error))
    }
}

/// What was walked must be what the checkpoint says.
fn check_end(
    files: &SegmentFiles,
    raft: &RaftFile,
    shape: &Shape,
    point: &FlushPoint,
) -> Result<(), FilesError> {
    if shape.last_index < point.index {
        // The batches are all there, so what is missing is not a batch.
        let what = format!(
            "entries up to raft index {} were durable, {} is the last",
            point.index, shape.last_index
        );
        return Err(FilesError::damaged(&files.path(Part::Raft), raft.good_bytes, what));
    }
    let found = (shape.last_index, shape.last_term, shape.next_offset);
    let wanted = (point.index, point.term, point.next_offset);
    if found == wanted {
        return Ok(());
    }
    let what =
        format!("the segment ends with (index, term, next offset) {found:?}, the checkpoint says {wanted:?}");
    Err(FilesError::damaged(&files.path(Part::Log), shape.log_bytes, what))
}

/// The entries and the terms in a `.raft` file.
fn sort_records(file: &RaftFile) -> (Vec<OtherEntry>, Vec<TermRun>) {
    let mut others = Vec::new();
    let mut terms: Vec<TermRun> = Vec::new();
    let mut note = |run: TermRun| {
        let before: Term = terms.last().map_or(file.header.previous_term, |last| last.term);
        if run.term > before {
            terms.push(run);
        }
    };
    for record in &file.records {
        match record {
            RaftRecord::TermRun { run, .. } => note(*run),
            RaftRecord::Other(other) => {
                let (first_index, term) = (other.entry.index, other.entry.term);
                note(TermRun { first_index, term, first_offset: other.entry.base_offset });
                others.push(other.clone());
            }
            RaftRecord::Seal(_) => {}
        }
    }
    (others, terms)
}

/// The names in a partition's directory.
#[derive(Default)]
struct Listing {
    bases: BTreeSet<KafkaOffset>,
    snapshots: BTreeSet<KafkaOffset>,
    /// Dropped files that were not unlinked yet, and halves of replaced ones.
    leftovers: Vec<PathBuf>,
}

impl Listing {
    fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, FilesError> {
        let mut listing = Self::default();
        for entry in disk.list_dir(dir).map_err(|error| FilesError::read(dir, error))? {
            if entry.name.ends_with(DELETED) || entry.name.ends_with(".tmp") {
                listing.leftovers.push(dir.join(entry.name));
                continue;
            }
            match parse_name(&entry.name) {
                Some((offset, "snapshot")) => listing.snapshots.insert(offset),
                Some((offset, "log" | "sidx" | "raft")) => listing.bases.insert(offset),
                _ => continue,
            };
        }
        Ok(listing)
    }

    /// The segments that count, and those that do not: beyond the checkpoint's, or wholly below the log start.
    fn split(&self, last: KafkaOffset, start: KafkaOffset) -> (Vec<KafkaOffset>, Vec<KafkaOffset>) {
        let bases: Vec<KafkaOffset> = self.bases.iter().copied().collect();
        let next_of = |base: KafkaOffset| {
            self.bases.range(KafkaOffset(base.0 + 1)..=last.max(KafkaOffset(base.0 + 1))).next()
        };
        bases.into_iter().partition(|base| {
            let below = *base < last && next_of(*base).is_some_and(|next| *next <= start);
            *base <= last && !below
        })
    }
}

fn segment_paths(dir: &Path, base: KafkaOffset) -> [PathBuf; 3] {
    Part::ALL.map(|part| dir.join(file_name(base, part.extension())))
}

fn remove_all(disk: &dyn Disk, dir: &Path, paths: impl Iterator<Item = PathBuf>) -> Result<(), FilesError> {
    let mut any = false;
    for path in paths {
        match disk.remove_file(&path) {
            Ok(()) => any = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(FilesError::write(&path, "removing what lies beyond the checkpoint", error));
            }
        }
    }
    if any {
        // ORDER: the removals are durable before new files of the same names are written.
        disk.sync_dir(dir).map_err(|error| FilesError::write(dir, "fsync of the directory", error))?;
    }
    Ok(())
}

/// At start nothing is deleted meanwhile: a file that is not there is missing.
fn missing(error: FilesError, position: u64) -> FilesError {
    match error {
        FilesError::Gone { path } => FilesError::damaged(&path, position, "the file is missing"),
        other => other,
    }
}

fn newest_snapshot(disk: &dyn Disk, log: &PartitionLog) -> Result<Option<ProducerSnapshot>, FilesError> {
    for offset in log.snapshots.range(log.start.base_offset..).rev() {
        let path = snapshot_path(&log.dir, *offset);
        let bytes = disk::read_file(disk, &path, SNAPSHOT_BYTES_MAX);
        match bytes {
            Ok(bytes) if is_good_snapshot(&bytes) => {
                return Ok(Some(ProducerSnapshot { offset: *offset, bytes: Bytes::from(bytes) }));
            }
            // An older one, or the log itself, gives the same state.
            Ok(_) => {
                tracing::warn!(path = %path.display(), "producer snapshot is damaged: using an older one")
            }
            Err(error) => return Err(FilesError::read(&path, error)),
        }
    }
    Ok(None)
}

/// Kafka's snapshot: version i16, CRC-32C u32 of all that follows, big-endian.
fn is_good_snapshot(bytes: &[u8]) -> bool {
    match bytes.get(2..6) {
        Some(crc) => crc == crc32c::crc32c(&bytes[6..]).to_be_bytes(),
        None => false,
    }
}
