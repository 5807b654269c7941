//! Opening one segment: the sealed ones by their seal, the active one cut to the checkpoint. Part of [`super::open`].

use std::sync::Arc;

use super::PartitionLog;
use super::error::FilesError;
use super::index::{self, IndexReader};
use super::names::{Part, SegmentFiles};
use super::raft_log_file::{OtherEntry, RAFT_FILE_BYTES_MAX, RaftFile, RaftRecord, Seal, TermRun};
use super::scan::{Scan, rewind};
use super::segment::{Segment, Shape};
use super::view::LogView;
use crate::disk::{self, Disk, OpenMode};
use crate::entry::FlushPoint;
use crate::types::{KafkaOffset, Term};

/// Opens one segment.
pub(super) struct Opener<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) log: &'a PartitionLog,
    pub(super) base: KafkaOffset,
}

impl Opener<'_> {
    pub(super) fn files(&self) -> Arc<SegmentFiles> {
        SegmentFiles::new(self.log.store.cache.new_id(), &self.log.dir, self.base)
    }

    pub(super) fn raft_file(
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
    pub(super) fn sealed(&self) -> Result<Segment, FilesError> {
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
    pub(super) fn active(&self, point: &FlushPoint) -> Result<(Segment, u32), FilesError> {
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

    pub(super) fn view(&self, files: &SegmentFiles, end: u64) -> Result<LogView, FilesError> {
        let path = files.path(Part::Log);
        let failed = |error| FilesError::read(&path, error);
        // A mapping has a byte at least; none of an empty file is touched.
        let len = usize::try_from(end.max(1)).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let map = self.disk.open(&path, OpenMode::Read).and_then(|file| file.map(len)).map_err(failed)?;
        Ok(LogView::new(self.log.store.cache.watch(map), path, end))
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
        let mut scan =
            Scan { log, shape: *shape, others, index_interval_bytes, exact: None, index: Vec::new() };
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
pub(super) fn sort_records(file: &RaftFile) -> (Vec<OtherEntry>, Vec<TermRun>) {
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

/// At start nothing is deleted meanwhile: a file that is not there is missing.
pub(super) fn missing(error: FilesError, position: u64) -> FilesError {
    match error {
        FilesError::Gone { path } => FilesError::damaged(&path, position, "the file is missing"),
        other => other,
    }
}
