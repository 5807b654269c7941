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
use super::names::{DELETED, Part, PartitionIdentity, file_name, parse_name, topic_id_in, topic_id_text};
use super::open_segment::{Opener, missing};
use super::segment::Segment;
use super::write::DirtySegment;
use super::{FileLimits, FileStore, PartitionLog};
use crate::disk::{self, Disk};
use crate::entry::{FlushPoint, LogStart};
use crate::types::{KafkaOffset, RaftIndex};

/// A longer producer snapshot is not read: it would hold more than a million producers.
const SNAPSHOT_BYTES_MAX: usize = 128 << 20;

/// A partition found on disk.
pub struct Opened {
    /// Its files, cut to the checkpoint. [`PartitionLog::written`] is the checkpoint, or where the log starts if that is
    /// later. [`PartitionLog::start`] may lie below the log start by as much as a segment, or more after a crash amidst a
    /// drop: call [`PartitionLog::drop_below`] again.
    pub log: PartitionLog,
    /// The newest good producer snapshot. It may be of an offset beyond the checkpoint: what it covers was committed, so the
    /// WAL has it, unless something was lost.
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
    // Not made durable: nothing counts in this directory before a checkpoint says so, and the sync before that covers its
    // names. Thousands of such directories may be there after a crash, and each fsync takes a millisecond.
    unlink(disk, files.chain(snapshots).chain(listing.leftovers))?;
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
    // Newest first: what a crash leaves is then still without a hole.
    let files = gone.iter().rev().flat_map(|base| segment_paths(&log.dir, *base));
    remove_all(disk, &log.dir, files.chain(listing.leftovers))?;

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
    log.snapshots = listing.snapshots;
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

/// The names in a partition's directory.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) bases: BTreeSet<KafkaOffset>,
    snapshots: BTreeSet<KafkaOffset>,
    /// Dropped files that were not unlinked yet, and halves of replaced ones.
    leftovers: Vec<PathBuf>,
}

impl Listing {
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, FilesError> {
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
    pub(super) fn split(
        &self,
        last: KafkaOffset,
        start: KafkaOffset,
    ) -> (Vec<KafkaOffset>, Vec<KafkaOffset>) {
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
    if unlink(disk, paths)? {
        // ORDER: the removals are durable before new files of the same names are written.
        disk.sync_dir(dir).map_err(|error| FilesError::write(dir, "fsync of the directory", error))?;
    }
    Ok(())
}

/// Unlinks what is there; true when something was.
fn unlink(disk: &dyn Disk, paths: impl Iterator<Item = PathBuf>) -> Result<bool, FilesError> {
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
    Ok(any)
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
