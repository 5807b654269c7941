//! A disk in memory that fails as real ones do, from one seed.
//!
//! For tests and the simulator; never part of a running server. It keeps what a process sees apart from what a
//! power cut leaves:
//! - A written sector (512 bytes) is durable only after `fdatasync`; at a crash each unsynced sector survives or not by
//!   itself, so a write may be torn anywhere. A file's length likewise.
//! - Names are durable only after `sync_dir`; at a crash a prefix of the unsynced changes survives, as in a journal.
//! - [`SimDisk::crash_after`] stops the machine at a chosen step, so that a test can crash at every write boundary.
//!
//! Lock order: the disk's state before a file's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::sim_file::{Inode, SimFile};
use super::sim_names::{NameChange, Names};
use super::{DirEntry, Disk, DiskFile, OpenMode};

/// Which faults are injected, beside those that a test asks for by name. Probabilities are per call.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimFaults {
    /// A read fails with EIO.
    pub read_error: f64,
    /// A write, or an allocation, fails with EIO.
    pub write_error: f64,
    /// An `fdatasync` or `sync_dir` fails with EIO, and nothing becomes durable.
    pub sync_error: f64,
    /// A read returns one flipped bit.
    pub bit_flip: f64,
    /// Bytes that all files together may take; none means no limit.
    pub capacity: Option<u64>,
    /// The longest virtual delay of one call, in microseconds; see [`SimDisk::take_latency_us`].
    pub latency_us_max: u64,
}

/// How often each fault struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Reads failed.
    pub read_errors: u64,
    /// Writes failed.
    pub write_errors: u64,
    /// Syncs failed.
    pub sync_errors: u64,
    /// Reads with a bit flipped.
    pub bit_flips: u64,
    /// Calls refused for want of space.
    pub full: u64,
    /// Sectors that a crash took.
    pub sectors_lost: u64,
    /// Name changes that a crash took.
    pub names_lost: u64,
}

/// What a crash leaves of unsynced writes and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing that was not synced.
    SyncedOnly,
    /// Any subset of the sectors, and a prefix of the name changes, as the seed has it.
    Random,
    /// Everything: the process died, the machine did not.
    All,
}

pub(super) enum Step {
    Read,
    Write,
    Sync,
}

pub(super) struct State {
    pub(super) rng: SmallRng,
    pub(super) faults: SimFaults,
    pub(super) counts: SimCounts,
    names: Names,
    durable: Names,
    pending: Vec<NameChange>,
    /// Writing steps so far: writes, syncs, changes of names.
    steps: u64,
    /// The step that the machine does not live to finish.
    crash_at: Option<u64>,
    crashed: bool,
    latency_us: u64,
}

impl State {
    /// Counts a call, lets time pass and decides whether it fails.
    pub(super) fn step(&mut self, step: &Step) -> io::Result<()> {
        if self.crashed {
            return Err(io::Error::other("the simulated machine has crashed"));
        }
        if self.faults.latency_us_max > 0 {
            self.latency_us += self.rng.random_range(0..=self.faults.latency_us_max);
        }
        let probability = match step {
            Step::Read => self.faults.read_error,
            Step::Write => self.faults.write_error,
            Step::Sync => self.faults.sync_error,
        };
        if !matches!(step, Step::Read) {
            self.steps += 1;
            self.crashed = self.crash_at.is_some_and(|at| self.steps >= at);
        }
        if probability > 0.0 && self.rng.random_bool(probability) {
            match step {
                Step::Read => self.counts.read_errors += 1,
                Step::Write => self.counts.write_errors += 1,
                Step::Sync => self.counts.sync_errors += 1,
            }
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// The error for the step during which the machine crashed, after what it did is recorded as unsynced.
    pub(super) fn outcome(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the simulated machine has crashed")) } else { Ok(()) }
    }

    /// Refuses growth beyond the capacity.
    pub(super) fn take_space(&mut self, growth: u64) -> io::Result<()> {
        let Some(capacity) = self.faults.capacity else { return Ok(()) };
        if growth == 0 || self.used() + growth <= capacity {
            return Ok(());
        }
        self.counts.full += 1;
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    fn used(&self) -> u64 {
        self.names.files.values().map(|inode| inode.lock().data.len() as u64).sum()
    }

    fn change(&mut self, change: NameChange) -> io::Result<()> {
        self.step(&Step::Write)?;
        self.names.apply(&change);
        self.pending.push(change);
        self.outcome()
    }
}

/// The simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    pub(super) state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_names(SmallRng::seed_from_u64(seed), Names::default())
    }

    fn with_names(rng: SmallRng, names: Names) -> Self {
        let state = State {
            rng,
            faults: SimFaults::default(),
            counts: SimCounts::default(),
            durable: names.clone(),
            names,
            pending: Vec::new(),
            steps: 0,
            crash_at: None,
            crashed: false,
            latency_us: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: SimFaults) {
        self.lock().faults = faults;
    }

    /// How often each fault struck so far, crashes of the disk's forebears included.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.lock().counts
    }

    /// Writing steps so far: writes, syncs, allocations, changes of names.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Crashes the machine during the `count`-th writing step from now (1 is the next one). That step counts as begun
    /// and not synced; every later call fails. [`SimDisk::crash`] then gives the disk that is left.
    pub fn crash_after(&self, count: u64) {
        let mut state = self.lock();
        state.crash_at = Some(state.steps + count);
    }

    /// Whether the step set by [`SimDisk::crash_after`] was reached.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The disk as the next start finds it. This one is left as it is, but open handles must not be used on.
    #[must_use]
    pub fn crash(&self, survival: Survival) -> SimDisk {
        let mut state = self.lock();
        let kept = match survival {
            Survival::SyncedOnly => 0,
            Survival::All => state.pending.len(),
            Survival::Random => {
                let count = state.pending.len();
                state.rng.random_range(0..=count)
            }
        };
        let mut names = state.durable.clone();
        for change in &state.pending[..kept] {
            names.apply(change);
        }
        let mut counts = state.counts;
        counts.names_lost += (state.pending.len() - kept) as u64;
        let mut files = BTreeMap::new();
        for (path, inode) in &names.files {
            let (survivor, lost) = inode.crash(survival, &mut state.rng);
            counts.sectors_lost += lost;
            files.insert(path.clone(), Arc::new(survivor));
        }
        let seed = state.rng.random();
        let disk =
            Self::with_names(SmallRng::seed_from_u64(seed), Names { files, directories: names.directories });
        disk.lock().counts = counts;
        disk
    }

    /// The disk goes on after [`SimDisk::crash_after`] has struck, with everything written and nothing more synced: the
    /// process died, the machine did not, and a later power cut still takes what was never synced.
    pub fn revive(&self) {
        let mut state = self.lock();
        state.crashed = false;
        state.crash_at = None;
    }

    /// The names of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.lock().names.files.keys().cloned().collect()
    }

    /// Bytes that all files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().used()
    }

    /// Virtual time that calls have taken since this was last asked, in microseconds.
    #[must_use]
    pub fn take_latency_us(&self) -> u64 {
        std::mem::take(&mut self.lock().latency_us)
    }

    /// Flips one bit of a file, at rest and durably.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip_bit(&self, path: &Path, position: u64, bit: u8) {
        let inode = Arc::clone(&self.lock().names.files[path]);
        let mut content = inode.lock();
        let position = usize::try_from(position).expect("a position in memory");
        content.data[position] ^= 1 << bit;
    }

    /// The contents of a file as the process sees them.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let inode = Arc::clone(self.lock().names.files.get(path)?);
        let content = inode.lock();
        Some(content.data.clone())
    }

    /// Puts a file there, durably, whatever the faults.
    pub fn plant(&self, path: &Path, contents: Vec<u8>) {
        let mut state = self.lock();
        let inode = Arc::new(Inode::of(contents));
        for directory in path.ancestors().skip(1).filter(|name| !name.as_os_str().is_empty()) {
            state.names.directories.insert(directory.to_path_buf());
            state.durable.directories.insert(directory.to_path_buf());
        }
        state.names.files.insert(path.to_path_buf(), Arc::clone(&inode));
        state.durable.files.insert(path.to_path_buf(), inode);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        let known = state.names.files.get(path).cloned();
        let inode = match (known, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => {
                state.step(&Step::Read)?;
                inode
            }
            (None, OpenMode::Read) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::ReadWrite | OpenMode::CreateNew) => {
                let parent = path.parent().unwrap_or(Path::new(""));
                if !parent.as_os_str().is_empty() && !state.names.directories.contains(parent) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = Arc::new(Inode::of(Vec::new()));
                state.change(NameChange::Put(path.to_path_buf(), Arc::clone(&inode)))?;
                inode
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode, writable: mode != OpenMode::Read }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|name| !name.as_os_str().is_empty() && !state.names.directories.contains(*name))
            .map(Path::to_path_buf)
            .collect();
        for directory in missing.into_iter().rev() {
            state.change(NameChange::MakeDir(directory))?;
        }
        Ok(())
    }

    fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.lock();
        state.step(&Step::Read)?;
        if !state.names.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |name: &PathBuf, is_dir| {
            let within = name.parent() == Some(path);
            within.then(|| DirEntry {
                name: name.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                is_dir,
            })
        };
        let files = state.names.files.keys().filter_map(|name| entry(name, false));
        let directories = state.names.directories.iter().filter_map(|name| entry(name, true));
        let mut entries: Vec<_> = files.chain(directories).collect();
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.has(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.directories.contains(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change(NameChange::Rename(from.to_path_buf(), to.to_path_buf()))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Remove(path.to_path_buf()))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Remove(path.to_path_buf()))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(&Step::Sync)?;
        state.outcome()?;
        let covered =
            state.pending.iter().rposition(|change| change.touches(path)).map_or(0, |last| last + 1);
        let changes: Vec<NameChange> = state.pending.drain(..covered).collect();
        for change in &changes {
            state.durable.apply(change);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.lock();
        state.step(&Step::Read)?;
        Ok(state.names.has(path))
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.lock();
        state.step(&Step::Read)?;
        let inode = state.names.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(inode.lock().data.len() as u64)
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let mut state = self.lock();
        state.step(&Step::Read)?;
        let used = state.used();
        Ok(state.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used)))
    }
}
