//! Open files and mappings of segments, a bounded LRU that all partitions of the node share.
//!
//! Used by the helper threads that run the jobs, never by a shard: opening and mapping block.
//! Dropping an entry here closes nothing that is in use: a handle or a mapping lives as long as somebody holds it
//! (SAFETY.md, rule 7: a mapped file is unlinked after its last reader, because the mapping keeps the inode).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::mapped::{IdleWindows, MappedLog};
use super::names::{Part, SegmentFiles};
use super::read_past::ReadBuffers;
use crate::disk::{Disk, DiskFile, Mapping, OpenMode};

/// The mapping of a growing segment reaches this much beyond its end, so that it serves later reads too.
const MAP_AHEAD_BYTES: u64 = 64 << 20;

/// The LRU. Share one by `Arc` in the whole process.
pub struct FileCache {
    state: Mutex<State>,
    capacity: usize,
    next_id: AtomicU64,
    idle: Arc<IdleWindows>,
    /// For reads past the page cache.
    pub(super) buffers: Arc<ReadBuffers>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<Key, (Held, u64)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    segment: u64,
    slot: Slot,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Write(Part),
    Read(Part),
    Map,
}

#[derive(Clone)]
enum Held {
    File(Arc<dyn DiskFile>),
    Map(Arc<MappedLog>),
}

impl FileCache {
    /// A cache of at most `capacity` descriptors and mappings; 4096 suits a limit of 16,384 open files.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (state, idle, buffers) = (Mutex::default(), Arc::default(), Arc::default());
        Self { state, capacity: capacity.max(1), next_id: AtomicU64::new(1), idle, buffers }
    }

    /// How many descriptors and mappings are held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number for a new segment.
    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The file opened for writing, made when it is missing.
    pub(super) fn writer(
        &self,
        disk: &dyn Disk,
        files: &SegmentFiles,
        part: Part,
    ) -> io::Result<Arc<dyn DiskFile>> {
        self.file(disk, files, part, Slot::Write(part), OpenMode::ReadWrite)
    }

    /// The file opened for reading.
    pub(super) fn reader(
        &self,
        disk: &dyn Disk,
        files: &SegmentFiles,
        part: Part,
    ) -> io::Result<Arc<dyn DiskFile>> {
        self.file(disk, files, part, Slot::Read(part), OpenMode::Read)
    }

    /// A handle good for fdatasync: the writer's if it is open, else a new one that cannot make a missing file.
    pub(super) fn syncer(
        &self,
        disk: &dyn Disk,
        files: &SegmentFiles,
        part: Part,
    ) -> io::Result<Arc<dyn DiskFile>> {
        match self.get(Key { segment: files.id, slot: Slot::Write(part) }) {
            Some(Held::File(file)) => Ok(file),
            _ => self.reader(disk, files, part),
        }
    }

    fn file(
        &self,
        disk: &dyn Disk,
        files: &SegmentFiles,
        part: Part,
        slot: Slot,
        mode: OpenMode,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let key = Key { segment: files.id, slot };
        if let Some(Held::File(file)) = self.get(key) {
            return Ok(file);
        }
        let file = disk.open(&files.path(part), mode)?;
        self.put(files, key, Held::File(Arc::clone(&file)));
        Ok(file)
    }

    /// A mapping of the `.log` file that covers at least its first `bytes`. With `growing`, some more.
    pub(super) fn map(
        &self,
        disk: &dyn Disk,
        files: &SegmentFiles,
        bytes: u64,
        growing: bool,
    ) -> io::Result<Arc<MappedLog>> {
        let key = Key { segment: files.id, slot: Slot::Map };
        if let Some(Held::Map(map)) = self.get(key)
            && map.len() as u64 >= bytes
        {
            return Ok(map);
        }
        let ahead = if growing { MAP_AHEAD_BYTES } else { 0 };
        let len = usize::try_from(bytes + ahead).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let map = self.watch(disk.open(&files.path(Part::Log), OpenMode::Read)?.map(len)?);
        self.put(files, key, Held::Map(Arc::clone(&map)));
        Ok(map)
    }

    /// A mapping that is not kept here, but whose idle pages count with those of the others.
    pub(super) fn watch(&self, map: Arc<dyn Mapping>) -> Arc<MappedLog> {
        MappedLog::new(map, &self.idle)
    }

    /// Lets go of everything of a segment that is dropped, for good.
    pub(super) fn forget(&self, files: &SegmentFiles) {
        files.set_dropped();
        self.let_go(files);
    }

    /// Lets go of everything of a segment; it is opened again when it is next needed.
    pub(super) fn let_go(&self, files: &SegmentFiles) {
        let mut state = self.lock();
        let first = Key { segment: files.id, slot: Slot::Write(Part::Log) };
        let last = Key { segment: files.id, slot: Slot::Map };
        let keys: Vec<Key> = state.open.range(first..=last).map(|(key, _)| *key).collect();
        for key in keys {
            state.remove(key);
        }
        drop(state);
        self.buffers.forget(files.id);
    }

    fn get(&self, key: Key) -> Option<Held> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (held, used) = state.open.get_mut(&key)?;
        state.by_use.remove(used);
        state.uses += 1;
        *used = state.uses;
        state.by_use.insert(state.uses, key);
        Some(held.clone())
    }

    fn put(&self, files: &SegmentFiles, key: Key, held: Held) {
        let mut state = self.lock();
        if files.is_dropped() {
            return;
        }
        state.remove(key);
        state.uses += 1;
        let used = state.uses;
        state.open.insert(key, (held, used));
        state.by_use.insert(used, key);
        while state.open.len() > self.capacity {
            let Some((_, oldest)) = state.by_use.first_key_value().map(|(used, key)| (*used, *key)) else {
                return;
            };
            state.remove(oldest);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, key: Key) {
        if let Some((_, used)) = self.open.remove(&key) {
            self.by_use.remove(&used);
        }
    }
}
