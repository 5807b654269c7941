//! The lock on a data directory: one process at a time. Taken first of all at start-up and held until the process
//! ends; the kernel gives it back however that happens.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Holds a data directory as long as it lives.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Why a data directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{} is in use by another chronik-server{}; stop it, or give this one another data_dir",
        directory.display(),
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Held {
        /// The data directory.
        directory: PathBuf,
        /// Its process id, if it could be read.
        holder: Option<u32>,
    },
    /// The directory cannot be made or written.
    #[error("cannot lock {}: {source}; is the data directory writable?", directory.display())]
    Io {
        /// The data directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DirectoryLock {
    /// Makes the directory if it is missing and locks it, by `flock` on its file `.lock`.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::Io { directory: directory.to_path_buf(), source };
        std::fs::create_dir_all(directory).map_err(fail)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(".lock"))
            .map_err(fail)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let read = (&mut file).take(20).read_to_string(&mut pid);
                let holder = read.ok().and_then(|_| pid.trim().parse().ok());
                return Err(LockError::Held { directory: directory.to_path_buf(), holder });
            }
            Err(error) => return Err(fail(error.into())),
        }
        // For the message of whoever comes next; the lock itself is the flock, so this need not be durable.
        file.set_len(0).map_err(fail)?;
        writeln!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_once_and_the_holder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("data");
        let lock = DirectoryLock::acquire(&directory).unwrap();
        let error = DirectoryLock::acquire(&directory).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        DirectoryLock::acquire(&directory).unwrap();
    }

    #[test]
    fn a_place_that_is_no_directory_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(DirectoryLock::acquire(file.path()), Err(LockError::Io { .. })));
    }
}
