//! The disk work of a partition, to be run on a helper thread, and its outcome.
//!
//! A job owns all it needs; running it touches no state of the shard. Only one that changes files (append, sync, drop,
//! reset) is in flight for a partition at a time; reads and unlinks run beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::append::AppendJob;
use super::cache::FileCache;
use super::error::FilesError;
use super::names::{DELETED, EPOCHS_FILE, Part, SegmentFiles, topic_id_in, topic_id_text};
use super::read::{ReadBatches, SegmentView};
use crate::disk::{self, Disk};
use crate::entry::LogEntry;
use crate::types::{KafkaOffset, RaftIndex};

/// Blocking work on a partition's files. Run it with [`FileJob::run`] and hand the outcome to
/// [`super::PartitionLog::finished`].
pub struct FileJob(pub(super) Work);

pub(super) enum Work {
    Append(AppendJob),
    Sync(SyncJob),
    Snapshot(SnapshotJob),
    Drop(DropJob),
    Unlink(Vec<PathBuf>),
    Delete {
        cache: Arc<FileCache>,
        segments: Vec<Arc<SegmentFiles>>,
        topic_id: [u8; 16],
        from: PathBuf,
        to: PathBuf,
    },
    RemoveDirectory(PathBuf),
    Read {
        view: SegmentView,
        from: KafkaOffset,
        up_to: KafkaOffset,
        max_bytes: usize,
        min_one_batch: bool,
    },
    Entries {
        view: SegmentView,
        from: RaftIndex,
        max_bytes: usize,
    },
    FindTime {
        views: Vec<SegmentView>,
        timestamp: i64,
        from: KafkaOffset,
        up_to: KafkaOffset,
    },
}

/// The outcome of a [`FileJob`].
#[derive(Debug)]
pub enum FileDone {
    /// Of an append.
    Appended(Result<(), FilesError>),
    /// Of a sync.
    Synced(Result<(), FilesError>),
    /// Of [`super::PartitionLog::keep_snapshot`].
    Kept(Result<(), FilesError>),
    /// Of a drop or a reset: the files do not count any more.
    Dropped(Result<(), FilesError>),
    /// Of unlinking what was dropped. An error leaves files that the next start unlinks.
    Unlinked(Result<(), FilesError>),
    /// Of the deletion of a partition: where its directory is now, to be removed by [`FileJob::remove_directory`]; none when
    /// it had none.
    Moved(Result<Option<PathBuf>, FilesError>),
    /// Of a read of batches.
    Read(Result<ReadBatches, FilesError>),
    /// Of a read of entries.
    Entries(Result<Vec<LogEntry>, FilesError>),
    /// Of a search by time: offset and timestamp of the record found.
    FoundTime(Result<Option<(KafkaOffset, i64)>, FilesError>),
}

impl FileJob {
    /// Removes a deleted partition's directory and all within. Its outcome is `Unlinked`.
    #[must_use]
    pub fn remove_directory(path: PathBuf) -> Self {
        Self(Work::RemoveDirectory(path))
    }

    /// Does the work. Blocks.
    pub fn run(self, disk: &dyn Disk) -> FileDone {
        match self.0 {
            Work::Append(job) => FileDone::Appended(job.run(disk)),
            Work::Sync(job) => FileDone::Synced(job.run(disk)),
            Work::Snapshot(job) => FileDone::Kept(job.run(disk)),
            Work::Drop(job) => FileDone::Dropped(job.run(disk)),
            Work::Unlink(paths) => FileDone::Unlinked(unlink_all(disk, &paths)),
            Work::Delete { cache, segments, topic_id, from, to } => {
                // A partition without files has no directory; there may be one of a successor of the same name.
                let own = topic_id_in(disk, &from).is_some_and(|id| id == topic_id_text(topic_id));
                let moved = if own { move_directory(disk, &from, to) } else { Ok(None) };
                segments.iter().for_each(|files| cache.forget(files));
                FileDone::Moved(moved)
            }
            Work::RemoveDirectory(path) => {
                let removed = disk.remove_dir_all(&path);
                FileDone::Unlinked(removed.map_err(|error| FilesError::write(&path, "removing", error)))
            }
            Work::Read { view, from, up_to, max_bytes, min_one_batch } => {
                FileDone::Read(view.read(disk, from, up_to, max_bytes, min_one_batch))
            }
            Work::Entries { view, from, max_bytes } => FileDone::Entries(view.entries(disk, from, max_bytes)),
            Work::FindTime { views, timestamp, from, up_to } => {
                FileDone::FoundTime(find_time(disk, &views, timestamp, from, up_to))
            }
        }
    }
}

impl std::fmt::Debug for FileJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Work::Append(_) => "FileJob::Append",
            Work::Sync(_) => "FileJob::Sync",
            Work::Snapshot(_) => "FileJob::Snapshot",
            Work::Drop(_) => "FileJob::Drop",
            Work::Unlink(_) => "FileJob::Unlink",
            Work::Delete { .. } => "FileJob::Delete",
            Work::RemoveDirectory(_) => "FileJob::RemoveDirectory",
            Work::Read { .. } => "FileJob::Read",
            Work::Entries { .. } => "FileJob::Entries",
            Work::FindTime { .. } => "FileJob::FindTime",
        })
    }
}

/// Makes durable what was written since the last one.
pub(super) struct SyncJob {
    pub(super) cache: Arc<FileCache>,
    pub(super) dir: PathBuf,
    pub(super) files: Vec<(Arc<SegmentFiles>, Part)>,
    pub(super) others: Vec<PathBuf>,
    /// Names were made in the directory.
    pub(super) names: bool,
    /// The directory itself was made.
    pub(super) made: bool,
    /// New contents of `leader-epoch-checkpoint`.
    pub(super) epochs: Option<String>,
}

impl SyncJob {
    fn run(self, disk: &dyn Disk) -> Result<(), FilesError> {
        for (files, part) in &self.files {
            let path = files.path(*part);
            let file = self.cache.syncer(disk, files, *part);
            let synced = file.and_then(|file| file.fdatasync());
            synced.map_err(|error| fatal(&path, "fdatasync", error))?;
        }
        for path in &self.others {
            let synced = disk.open(path, disk::OpenMode::Read).and_then(|file| file.fdatasync());
            synced.map_err(|error| fatal(path, "fdatasync", error))?;
        }
        if let Some(epochs) = &self.epochs {
            let path = self.dir.join(EPOCHS_FILE);
            match disk::replace_file(disk, &path, epochs.as_bytes()) {
                Ok(()) => {}
                // The table is for Kafka's tools only, and made anew at the next change: no reason to hold up the log.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {}
                Err(error) => return Err(fatal(&path, "replacing", error)),
            }
        }
        if self.names {
            disk.sync_dir(&self.dir).map_err(|error| fatal(&self.dir, "fsync of the directory", error))?;
        }
        if self.made {
            disk::sync_parent(disk, &self.dir)
                .map_err(|error| fatal(&self.dir, "fsync of its parent", error))?;
        }
        Ok(())
    }
}

/// Renames dropped files, so that no later start takes them for part of the log; they are unlinked later.
/// Keeps a producer snapshot, then lets go of those that it replaces.
pub(super) struct SnapshotJob {
    pub(super) dir: PathBuf,
    pub(super) path: PathBuf,
    pub(super) bytes: bytes::Bytes,
    pub(super) obsolete: Vec<PathBuf>,
}

impl SnapshotJob {
    fn run(self, disk: &dyn Disk) -> Result<(), FilesError> {
        let failed = |error| FilesError::write(&self.dir, "keeping a producer snapshot", error);
        // ORDER: the new one is durable, name included, before an older one goes.
        disk::replace_file(disk, &self.path, &self.bytes).map_err(failed)?;
        unlink_all(disk, &self.obsolete)
    }
}

pub(super) struct DropJob {
    pub(super) cache: Arc<FileCache>,
    /// Oldest first: what a crash leaves is then still a log without a hole.
    pub(super) segments: Vec<Arc<SegmentFiles>>,
    pub(super) snapshots: Vec<PathBuf>,
}

impl DropJob {
    fn run(self, disk: &dyn Disk) -> Result<(), FilesError> {
        for files in &self.segments {
            for part in Part::ALL {
                rename_deleted(disk, &files.path(part))?;
            }
            self.cache.forget(files);
        }
        self.snapshots.iter().try_for_each(|path| rename_deleted(disk, path))
    }

    /// The names after the job.
    pub(super) fn renamed(&self) -> Vec<PathBuf> {
        let parts = self.segments.iter().flat_map(|files| Part::ALL.map(|part| files.path(part)));
        parts.chain(self.snapshots.iter().cloned()).map(|path| deleted_path(&path)).collect()
    }
}

fn fatal(path: &Path, doing: &'static str, error: std::io::Error) -> FilesError {
    FilesError::Fatal { path: path.into(), doing, source: Arc::new(error) }
}

fn deleted_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DELETED);
    name.into()
}

fn rename_deleted(disk: &dyn Disk, path: &Path) -> Result<(), FilesError> {
    match disk.rename(path, &deleted_path(path)) {
        Ok(()) => Ok(()),
        // Dropped before by a job that failed half way.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FilesError::write(path, "renaming", error)),
    }
}

fn unlink_all(disk: &dyn Disk, paths: &[PathBuf]) -> Result<(), FilesError> {
    for path in paths {
        match disk.remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(FilesError::write(path, "unlinking", error)),
        }
    }
    Ok(())
}

pub(super) fn move_directory(
    disk: &dyn Disk,
    from: &Path,
    to: PathBuf,
) -> Result<Option<PathBuf>, FilesError> {
    let failed = |error| FilesError::write(from, "moving aside", error);
    if !disk.exists(from).map_err(failed)? {
        return Ok(None);
    }
    disk.rename(from, &to).map_err(failed)?;
    // ORDER: the deletion is durable before anybody forgets about the partition (SAFETY.md, rule 19).
    disk::sync_parent(disk, from).map_err(failed)?;
    Ok(Some(to))
}

fn find_time(
    disk: &dyn Disk,
    views: &[SegmentView],
    timestamp: i64,
    from: KafkaOffset,
    up_to: KafkaOffset,
) -> Result<Option<(KafkaOffset, i64)>, FilesError> {
    for view in views {
        if let Some(found) = view.find_time(disk, timestamp, from, up_to)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
