//! The disk as the storage code sees it: a blocking trait with a real and a simulated implementation.
//!
//! Used by helper threads, by start-up and by recovery, never from a shard's event loop: every call here may block.
//! (The one write that a shard makes by itself, a WAL turn, goes through [`uring`].)
//!
//! What holds of every implementation:
//! - A write is durable only after [`DiskFile::fdatasync`] on any handle of the same file returned `Ok`.
//! - A name that was created, renamed or removed is durable only after [`Disk::sync_dir`] on the directory (both of
//!   them, for a rename across directories) returned `Ok`.
//! - After an error of `fdatasync` or `sync_dir` nothing is known about the writes before it; it must not be tried
//!   again (SAFETY.md, DESIGN.md decision 7).
//! - A full disk is an error of kind [`io::ErrorKind::StorageFull`], whichever call meets it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

mod aligned;
mod direct;
pub mod os;
pub mod sim;
mod sim_file;
mod sim_names;
pub mod uring;

pub use aligned::{AlignedBuffer, BLOCK_BYTES};
pub use os::OsDisk;
pub use sim::SimDisk;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; made when it is missing.
    ReadWrite,
    /// For reading and writing; an error of kind `AlreadyExists` when it is there.
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name without its directory. Names that are not UTF-8 are listed with replacement characters.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A file system. Paths are used as they are given; relative ones too.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a directory and those above it that are missing. Not durable: see [`create_dirs_durably`].
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Gives a file or a directory another name, replacing a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Unlinks a file. Handles and mappings of it stay good.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Unlinks a directory and all within.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether there is a file or directory of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Length of a file in bytes.
    fn file_len(&self, path: &Path) -> io::Result<u64>;
    /// Bytes that an unprivileged process can still write to the file system that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. Positioned only: there is no cursor, and a handle may be used from several threads.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buf.len()` bytes at `position`; 0 only at the end of the file.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `position`, lengthening the file if need be.
    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()>;
    /// Writes all slices, one after the other, at `position`.
    fn write_vectored_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()>;
    /// The same for bytes that hardly anybody reads soon: the system is asked to keep no copy in memory once they are on
    /// disk. A hint, for pieces of some hundred KiB: it changes neither what is written nor what is durable.
    fn write_past_cache_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        self.write_vectored_at(slices, position)
    }
    /// Reads as [`DiskFile::read_at`] does, for bytes that are not in memory and that hardly anybody reads again soon: the
    /// system is asked to keep no copy. A hint; it takes effect where `position` is a multiple of [`BLOCK_BYTES`] and `buf` is
    /// of an [`AlignedBuffer`] and whole blocks long.
    fn read_past_cache_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.read_at(buf, position)
    }
    /// Reserves blocks for a range so that writes to it cannot meet a full disk; lengthens the file to its end.
    fn allocate(&self, position: u64, len: u64) -> io::Result<()>;
    /// Cuts the file or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Makes everything written so far, and the length, durable.
    fn fdatasync(&self) -> io::Result<()>;
    /// Maps the first `len` bytes for reading. `len` may exceed the file's length: bytes written later show in the
    /// mapping, and the part above the file's length must not be touched before they are.
    fn map(&self, len: usize) -> io::Result<Arc<dyn Mapping>>;

    /// Whether the file holds no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `position`; an error of kind `UnexpectedEof` when the file ends within.
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let count = self.read_at(&mut buf[done..], position + done as u64)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += count;
        }
        Ok(())
    }
}

/// A read-only map of a file's first bytes.
///
/// The file under it must not be truncated or punched while it lives (SAFETY.md, rule 7): that would be a SIGBUS.
pub trait Mapping: Send + Sync {
    /// Length of the mapping in bytes.
    fn len(&self) -> usize;
    /// The bytes of a range. The caller vouches that all of it was written before, and that nothing writes to it
    /// while the slice lives: a partition file is only ever appended to.
    ///
    /// # Panics
    /// When the range does not lie within the mapping.
    fn bytes(&self, range: Range<usize>) -> &[u8];
    /// Brings the pages of a range into memory, blocking. An unreadable sector, or a range beyond the end of the
    /// file, is an error here rather than a SIGBUS when the bytes are touched.
    fn populate(&self, range: Range<usize>) -> io::Result<()>;
    /// How many bytes of a range the system holds in memory now, about; all of them where it does not tell.
    fn resident_bytes(&self, range: Range<usize>) -> usize;
    /// Nobody reads the range for now: its pages need not count as this process's memory. They may be read all the same,
    /// and are then brought in again.
    fn release(&self, range: Range<usize>);

    /// Whether it has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Makes `path` and what is missing above it, durably: each new directory's parent is synced, top first.
pub fn create_dirs_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = Some(path);
    while let Some(directory) = at {
        if directory.as_os_str().is_empty() || disk.exists(directory)? {
            break;
        }
        missing.push(directory);
        at = directory.parent();
    }
    disk.create_dir_all(path)?;
    for directory in missing.iter().rev() {
        sync_parent(disk, directory)?;
    }
    Ok(())
}

/// Makes durable what stands in a directory, and the directory where it stands itself: a process that was killed may have left
/// names there that a power cut would take, with everything that was written under them since.
pub fn settle_names(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
    disk.sync_dir(directory)?;
    sync_parent(disk, directory)
}

/// Makes the name `path` itself durable: syncs the directory that it stands in.
pub fn sync_parent(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent),
        _ => disk.sync_dir(Path::new(".")),
    }
}

/// Replaces the file `path` by `contents` so that a crash leaves either the old file or the new one, whole.
///
/// The new contents are written beside it as `<name>.tmp`, which a crash may leave behind.
pub fn replace_file(disk: &dyn Disk, path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let file = disk.open(temporary, OpenMode::ReadWrite)?;
    file.set_len(0)?;
    file.write_all_at(contents, 0)?;
    // ORDER: the contents are durable before the name leads to them, and the name before the caller goes on.
    file.fdatasync()?;
    disk.rename(temporary, path)?;
    sync_parent(disk, path)
}

/// Reads a whole file, refusing one longer than `limit` bytes with `InvalidData`.
pub fn read_file(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = usize::try_from(file.len()?).ok().filter(|&len| len <= limit).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is longer than {limit} bytes", path.display()))
    })?;
    let mut contents = vec![0; len];
    file.read_exact_at(&mut contents, 0)?;
    Ok(contents)
}

#[cfg(test)]
mod tests;
