//! What can go wrong with partition files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An error of the partition files. Cheap to clone, because one failed job may have to be told to many waiters.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FilesError {
    /// The disk is full. Nothing has changed; the same call may be made again when there is space (SAFETY.md, rule 5).
    #[error("no space left on the disk for {}; free some, writing goes on by itself", path.display())]
    NoSpace {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The directory is that of a deleted topic of the same name and has not been moved aside yet. Nothing has changed; the
    /// same call may be made again in a moment.
    #[error("{} still holds the files of a deleted topic of the same name", dir.display())]
    Occupied {
        /// The directory.
        dir: PathBuf,
    },
    /// Bytes that were durable are not what was written. This replica must not serve or vote on them.
    #[error("{}: damaged at byte {position}: {what}; restore the replica from its peers or run `chronik-server log repair`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What was expected and what is there.
        what: String,
    },
    /// A write, rename or fsync failed for another reason than a full disk. The process must stop: nothing is known
    /// about what the disk holds now (DESIGN.md, decision 7).
    #[error("{}: {doing} failed: {source}", path.display())]
    Fatal {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The operating system's word.
        source: Arc<io::Error>,
    },
    /// A read failed in the operating system (EIO, too many open files).
    #[error("{}: reading failed: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: Arc<io::Error>,
    },
    /// The segment was dropped between the request and the read: look at the log start and ask again.
    #[error("{} was deleted meanwhile", path.display())]
    Gone {
        /// The file that was there.
        path: PathBuf,
    },
    /// The directory belongs to another partition, or to an older topic of the same name (SAFETY.md, rule 19).
    #[error("{}: {what}", dir.display())]
    Identity {
        /// The directory.
        dir: PathBuf,
        /// How it differs.
        what: String,
    },
    /// The file was written by a newer chronik.
    #[error("{}: format version {found} is newer than {known}, the newest this build knows; start the build that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u16,
        /// The newest known.
        known: u16,
    },
}

impl FilesError {
    /// An error of a call that changes the disk.
    pub(super) fn write(path: &Path, doing: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path: path.into() },
            _ => Self::Fatal { path: path.into(), doing, source: Arc::new(source) },
        }
    }

    /// An error of a call that only reads.
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Gone { path: path.into() },
            _ => Self::Read { path: path.into(), source: Arc::new(source) },
        }
    }

    /// Bytes that are not what was written.
    pub(super) fn damaged(path: &Path, position: u64, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), position, what: what.into() }
    }
}
