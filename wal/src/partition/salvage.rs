//! What of a partition's files is still sound, for `chronik-server log repair`. Reads only.
//!
//! Unlike a start, which trusts the seals of segments that it does not cut, this walks and checks every batch, up to the first
//! thing that does not verify. What comes before is the longest sound prefix. Only where nothing at all is left before the
//! damage (the oldest segment is missing or unreadable) does the log begin at the next segment instead: as after retention.
//!
//! A prefix may be cut out of a sealed segment: [`PartitionLog::open`] at a checkpoint there makes it the active one.

use std::path::{Path, PathBuf};

use super::error::FilesError;
use super::names::{METADATA_FILE, Part, file_name};
use super::open::Listing;
use super::open_segment::{Opener, sort_records};
use super::raft_log_file::{RAFT_FILE_BYTES_MAX, RaftFile, RaftRecord};
use super::scan::Scan;
use super::segment::Shape;
use super::{FileLimits, FileStore, PartitionIdentity, PartitionLog};
use crate::batch::BatchInfo;
use crate::disk::{self, Disk, OpenMode, replace_file};
use crate::entry::{FlushPoint, LogStart};
use crate::types::{KafkaOffset, RaftIndex};

/// How far the files may count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SalvageTo {
    /// Up to the checkpoint, as at a start. What is missing below it is damage.
    Checkpoint(FlushPoint),
    /// As far as they verify: the WAL that could say where they ended is damaged itself.
    End,
}

/// What is sound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Where the sound files begin: the log start that was asked for, or later.
    pub start: LogStart,
    /// Where they end; none when no segment survives.
    pub end: Option<FlushPoint>,
    /// What ends them before their time; none when all is sound.
    pub damage: Option<String>,
    /// The file that names the partition has to be written again.
    pub unnamed: bool,
    /// The segments that survive.
    segments: Vec<(KafkaOffset, u64)>,
}

impl PartitionLog {
    /// Looks for the longest sound prefix of a partition's files. Changes nothing.
    ///
    /// # Errors
    /// `Version` for files of a newer program, `Identity` for those of another topic, and what the disk says.
    pub fn salvage(
        disk: &dyn Disk,
        store: &FileStore,
        identity: &PartitionIdentity,
        to: SalvageTo,
        start: LogStart,
    ) -> Result<Salvaged, FilesError> {
        let log = Self::new(store, identity.clone(), start, FileLimits::default());
        let mut salvaged = Salvaged { start, ..Salvaged::default() };
        if !disk.exists(&log.dir).map_err(|error| FilesError::read(&log.dir, error))? {
            salvaged.damage =
                expected(to).then(|| format!("{}: the directory is missing", log.dir.display()));
            return Ok(salvaged);
        }
        salvaged.unnamed = is_unnamed(disk, &log)?;
        if salvaged.unnamed {
            salvaged.damage =
                Some(format!("{} is missing or damaged", log.dir.join(METADATA_FILE).display()));
        }
        let listing = Listing::read(disk, &log.dir)?;
        let last = match to {
            SalvageTo::Checkpoint(point) => point.segment_base,
            SalvageTo::End => listing.bases.last().copied().unwrap_or_default(),
        };
        let (bases, _) = listing.split(last, start.base_offset);
        let mut walk = Walk { disk, log: &log, to, found: salvaged, before: None };
        for base in bases {
            if !walk.segment(base)? {
                break;
            }
        }
        walk.finish()
    }

    /// Makes what was salvaged durable, so that a checkpoint may name it, and writes `partition.metadata` where it was lost.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync_salvaged(
        disk: &dyn Disk,
        store: &FileStore,
        identity: &PartitionIdentity,
        salvaged: &Salvaged,
    ) -> Result<(), FilesError> {
        let dir = store.data_dir.join(identity.directory_name());
        if salvaged.segments.is_empty() {
            return Ok(());
        }
        if salvaged.unnamed {
            let path = dir.join(METADATA_FILE);
            replace_file(disk, &path, identity.metadata_text().as_bytes())
                .map_err(|error| FilesError::write(&path, "writing", error))?;
        }
        for (base, _) in &salvaged.segments {
            for part in [Part::Log, Part::Raft] {
                let path = dir.join(file_name(*base, part.extension()));
                let sync = disk.open(&path, OpenMode::ReadWrite).and_then(|file| file.fdatasync());
                sync.map_err(|error| FilesError::write(&path, "fdatasync", error))?;
            }
        }
        disk.sync_dir(&dir).map_err(|error| FilesError::write(&dir, "fsync of the directory", error))
    }

    /// Gives every batch of what was salvaged.
    ///
    /// # Errors
    /// What the disk says, or damage that came up since.
    pub fn visit_salvaged(
        disk: &dyn Disk,
        store: &FileStore,
        identity: &PartitionIdentity,
        salvaged: &Salvaged,
        take: &mut dyn FnMut(&BatchInfo, &[u8]),
    ) -> Result<(), FilesError> {
        let log = Self::new(store, identity.clone(), salvaged.start, FileLimits::default());
        for (base, bytes) in salvaged.segments.iter().filter(|(_, bytes)| *bytes > 0) {
            let opener = Opener { disk, log: &log, base: *base };
            let mut view = opener.view(&opener.files(), *bytes)?;
            let (mut position, mut next) = (0, *base);
            while position < *bytes {
                let info = view.header(position, next)?;
                take(&info, view.checked(position, &info)?);
                position += info.size_bytes as u64;
                next = info.next_offset();
            }
        }
        Ok(())
    }
}

fn expected(to: SalvageTo) -> bool {
    matches!(to, SalvageTo::Checkpoint(_))
}

/// Whether the file that names the partition is missing or unreadable. One that names another topic is an error: then these
/// files are none of this partition's.
fn is_unnamed(disk: &dyn Disk, log: &PartitionLog) -> Result<bool, FilesError> {
    let Err(error) = log.identity.check(disk, &log.dir) else { return Ok(false) };
    let own = super::names::topic_id_text(log.identity.topic_id);
    match super::names::topic_id_in(disk, &log.dir) {
        Some(id) if id != own => Err(error),
        _ => Ok(true),
    }
}

/// The walk over the segments, oldest first.
struct Walk<'a> {
    disk: &'a dyn Disk,
    log: &'a PartitionLog,
    to: SalvageTo,
    found: Salvaged,
    /// The shape of the last segment that survives.
    before: Option<Shape>,
}

impl Walk<'_> {
    /// Looks at one segment; whether the next one may follow.
    fn segment(&mut self, base: KafkaOffset) -> Result<bool, FilesError> {
        let opener = Opener { disk: self.disk, log: self.log, base };
        let files = opener.files();
        let active = self.to_is_in(base);
        let wanted = |record: &RaftRecord| match self.to {
            SalvageTo::Checkpoint(point) if active => {
                record.index() <= point.index && !matches!(record, RaftRecord::Seal(_))
            }
            _ => true,
        };
        let file = match opener.raft_file(&files, wanted) {
            Ok(file) => file,
            Err(error) => return self.ends_with(error, None),
        };
        if let Some(error) = self.does_not_follow(&file, &files.path(Part::Raft)) {
            return self.ends_with(error, None);
        }
        if self.before.is_none() {
            self.begin_at(&file);
        }
        let path = files.path(Part::Log);
        let have = match self.disk.file_len(&path) {
            Ok(have) => have,
            Err(error) => {
                return self.ends_with(super::open_segment::missing(FilesError::read(&path, error), 0), None);
            }
        };
        let seal = match file.records.last() {
            Some(RaftRecord::Seal(seal)) => Some(*seal),
            _ => None,
        };
        let should = match self.to {
            SalvageTo::Checkpoint(point) if active => point.position,
            _ => seal.map_or(have, |seal| seal.log_bytes),
        };
        let (others, terms) = sort_records(&file);
        let view = opener.view(&files, should.min(have))?;
        let mut scan = Scan {
            log: view,
            shape: Shape::empty(file.header),
            others: &others,
            index_interval_bytes: u32::MAX,
            exact: Some(&terms),
            index: Vec::new(),
        };
        let walked = scan.run();
        let mut shape = scan.shape;
        shape.raft_bytes = file.good_bytes;
        if let Err(error) = walked {
            let kept = match self.knows_indexes(&file, &files.path(Part::Raft), active)? {
                true => Some(shape),
                false => self.up_to_last_record(base, &file)?,
            };
            return self.ends_with(error, kept.map(|shape| (base, shape)));
        }
        if have < should {
            let error =
                FilesError::damaged(&path, have, format!("it ends here; {should} bytes were durable"));
            return self.ends_with(error, Some((base, shape)));
        }
        self.check_end(base, shape, seal.map(|seal| (seal.last_index, seal.next_offset)), &file, active)
    }

    fn raft_path(&self, base: KafkaOffset) -> PathBuf {
        self.log.dir.join(file_name(base, Part::Raft.extension()))
    }

    /// Whether no record of the `.raft` file can be lost: each tells which index is no batch, and so shifts those after it.
    fn knows_indexes(&self, file: &RaftFile, path: &Path, active: bool) -> Result<bool, FilesError> {
        if matches!(file.records.last(), Some(RaftRecord::Seal(_))) {
            return Ok(true);
        }
        let bytes = disk::read_file(self.disk, path, RAFT_FILE_BYTES_MAX);
        let bytes = bytes.map_err(|error| FilesError::read(path, error))?;
        let len = bytes.len() as u64;
        let all = RaftFile::decode(path, bytes, |_| true)?;
        Ok(all.good_bytes == len || (active && all.good_bytes > file.good_bytes))
    }

    fn to_is_in(&self, base: KafkaOffset) -> bool {
        matches!(self.to, SalvageTo::Checkpoint(point) if point.segment_base == base)
    }

    /// What was walked must be what the seal or the checkpoint says; where entries that are no batches are lost, the batches
    /// after the last that is left cannot be given their indexes.
    fn check_end(
        &mut self,
        base: KafkaOffset,
        shape: Shape,
        seal: Option<(RaftIndex, KafkaOffset)>,
        file: &RaftFile,
        active: bool,
    ) -> Result<bool, FilesError> {
        let ends = match self.to {
            SalvageTo::Checkpoint(point) if active => Some((point.index, point.next_offset)),
            _ => seal,
        };
        match ends {
            Some(ends) if ends == (shape.last_index, shape.next_offset) => {
                self.keep(base, shape);
                Ok(true)
            }
            Some((index, offset)) => {
                let path = self.raft_path(base);
                let what = format!(
                    "it should lead to raft index {index} and offset {offset}, but leads to {} and {}",
                    shape.last_index, shape.next_offset
                );
                let error = FilesError::damaged(&path, file.good_bytes, what);
                let kept = self.up_to_last_record(base, file)?;
                self.ends_with(error, kept.map(|shape| (base, shape)))
            }
            // The newest segment, no checkpoint: it ends where it ends.
            None if self.to == SalvageTo::End
                && self.knows_indexes(file, &self.raft_path(base), active)? =>
            {
                self.keep(base, shape);
                Ok(true)
            }
            None => {
                let path = self.raft_path(base);
                let error =
                    FilesError::damaged(&path, file.good_bytes, "the seal is missing or does not verify");
                let kept = self.up_to_last_record(base, file)?;
                self.ends_with(error, kept.map(|shape| (base, shape)))
            }
        }
    }

    /// The segment up to the last sound record of its `.raft` file: all before it is known by index.
    fn up_to_last_record(&self, base: KafkaOffset, file: &RaftFile) -> Result<Option<Shape>, FilesError> {
        let position = file.records.iter().rev().find_map(|record| match record {
            RaftRecord::Other(other) => Some(other.position),
            RaftRecord::TermRun { position, .. } => Some(*position),
            RaftRecord::Seal(_) => None,
        });
        let Some(position) = position.filter(|position| *position > 0) else { return Ok(None) };
        let opener = Opener { disk: self.disk, log: self.log, base };
        let (others, terms) = sort_records(file);
        let view = opener.view(&opener.files(), position)?;
        let mut scan = Scan {
            log: view,
            shape: Shape::empty(file.header),
            others: &others,
            index_interval_bytes: u32::MAX,
            exact: Some(&terms),
            index: Vec::new(),
        };
        // What it stops at has been told already.
        let _ = scan.run();
        Ok(Some(scan.shape))
    }

    fn does_not_follow(&self, file: &RaftFile, path: &Path) -> Option<FilesError> {
        let head = &file.header;
        let follows = match &self.before {
            Some(end) => {
                end.next_offset == head.base_offset
                    && end.last_index.next() == head.first_index
                    && end.last_term == head.previous_term
            }
            None => true,
        };
        (!follows).then(|| {
            let what = format!("a segment before offset {} is missing", head.base_offset);
            FilesError::damaged(path, 0, what)
        })
    }

    /// The first segment that can be read. The log begins there, and what should come before is lost.
    fn begin_at(&mut self, file: &RaftFile) {
        let head = &file.header;
        if head.first_index > self.log.start.index.next() {
            let what = format!(
                "{}: the files before offset {} are missing or damaged",
                self.log.dir.display(),
                head.base_offset
            );
            self.found.damage.get_or_insert(what);
            let offset = self.log.start.offset.max(head.base_offset);
            let index = RaftIndex(head.first_index.0 - 1);
            self.found.start =
                LogStart { index, term: head.previous_term, offset, base_offset: head.base_offset };
        }
    }

    /// The sound files end here, but for `kept` of the segment at hand. Where nothing precedes the damage, the walk goes on.
    fn ends_with(
        &mut self,
        error: FilesError,
        kept: Option<(KafkaOffset, Shape)>,
    ) -> Result<bool, FilesError> {
        match error {
            FilesError::Version { .. } | FilesError::Identity { .. } => return Err(error),
            _ => {}
        }
        let what = match error {
            FilesError::Damaged { path, position, what } => {
                format!("{}: damaged at byte {position}: {what}", path.display())
            }
            other => other.to_string(),
        };
        self.found.damage.get_or_insert(what);
        if let Some((base, shape)) = kept.filter(|(_, shape)| shape.log_bytes > 0) {
            self.keep(base, shape);
        }
        let nothing_yet = self.before.is_none();
        if nothing_yet {
            self.found.start = self.log.start;
        }
        Ok(nothing_yet)
    }

    fn keep(&mut self, base: KafkaOffset, shape: Shape) {
        self.found.segments.push((base, shape.log_bytes));
        self.before = Some(shape);
    }

    fn finish(self) -> Result<Salvaged, FilesError> {
        let mut found = self.found;
        found.end = self.before.map(|shape| FlushPoint {
            index: shape.last_index,
            term: shape.last_term,
            next_offset: shape.next_offset,
            segment_base: shape.head.base_offset,
            position: shape.log_bytes,
        });
        if let SalvageTo::Checkpoint(point) = self.to
            && found.end != Some(point)
        {
            let path: PathBuf = self.log.dir.join(file_name(point.segment_base, "log"));
            found.damage.get_or_insert(format!("{}: it is missing", path.display()));
        }
        Ok(found)
    }
}
