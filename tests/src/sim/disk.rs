//! The simulated disk as the node gets it: with the planted bug in it, if there is one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_wal::disk::{DirEntry, Disk, DiskFile, Mapping, OpenMode, SimDisk};

use super::setup::Planted;

/// A [`SimDisk`] that forgets to sync what the planted bug says.
pub struct NodeDisk {
    /// The disk itself.
    pub inner: SimDisk,
    /// The bug.
    pub planted: Option<Planted>,
}

struct UnsyncedFile {
    inner: Arc<dyn DiskFile>,
}

impl NodeDisk {
    fn leaves_unsynced(&self, path: &Path) -> bool {
        let wal = path.extension().is_some_and(|extension| extension == "wal");
        match self.planted {
            Some(Planted::TurnNotSynced) => wal,
            Some(Planted::FilesNotSynced) => !wal && path.starts_with("/data/data"),
            _ => false,
        }
    }
}

impl Disk for NodeDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, mode)?;
        if self.leaves_unsynced(path) { Ok(Arc::new(UnsyncedFile { inner })) } else { Ok(inner) }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.planted == Some(Planted::NamesNotSynced) { Ok(()) } else { self.inner.sync_dir(path) }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        self.inner.file_len(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }
}

impl DiskFile for UnsyncedFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buf, position)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.inner.write_all_at(buf, position)
    }

    fn write_vectored_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        self.inner.write_vectored_at(slices, position)
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(position, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn fdatasync(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self, len: usize) -> io::Result<Arc<dyn Mapping>> {
        self.inner.map(len)
    }
}

/// Puts an empty table in the place of every producer snapshot: what [`Planted::ProducersForgotten`] does at a crash.
pub fn forget_producers(disk: &SimDisk) {
    use chronik_wal::producer_state::{ProducerLimits, ProducerTable};
    let empty = ProducerTable::new(ProducerLimits::default()).encode_snapshot();
    let snapshots: Vec<PathBuf> = disk
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"))
        .collect();
    for path in snapshots {
        disk.plant(&path, empty.clone());
    }
}
