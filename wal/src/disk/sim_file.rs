//! A file of the simulated disk: its bytes as the process sees them, and what a crash would leave instead.
//!
//! Owned by the [`SimDisk`](super::SimDisk) that names it; a handle keeps an unlinked file alive.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use memmap2::{MmapOptions, MmapRaw};
use rand::Rng;
use rand::rngs::SmallRng;

use super::sim::{SimDisk, Step, Survival};
use super::{DiskFile, Mapping};

/// What a disk writes as a whole or not at all.
pub(super) const SECTOR: usize = 512;

pub(super) struct Content {
    pub(super) data: Vec<u8>,
    /// For each sector with unsynced writes, what was durable there.
    before: BTreeMap<usize, [u8; SECTOR]>,
    durable_len: usize,
    mappings: Vec<Weak<SimMapping>>,
}

pub(super) struct Inode(Mutex<Content>);

impl Inode {
    pub(super) fn of(data: Vec<u8>) -> Self {
        let durable_len = data.len();
        Self(Mutex::new(Content { data, before: BTreeMap::new(), durable_len, mappings: Vec::new() }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that a crash leaves, and how many sectors it took.
    pub(super) fn crash(&self, survival: Survival, rng: &mut SmallRng) -> (Inode, u64) {
        let content = self.lock();
        let mut data = content.data.clone();
        let keep_len = match survival {
            Survival::All => true,
            Survival::SyncedOnly => false,
            Survival::Random => rng.random_bool(0.5),
        };
        if !keep_len {
            data.resize(content.durable_len, 0);
        }
        let mut lost = 0;
        // A third of the random crashes keep a prefix of the sectors, as a disk that writes in order would.
        let in_order = rng.random_range(0..3) == 0;
        let cut = rng.random_range(0..=content.before.len());
        for (number, (sector, before)) in content.before.iter().enumerate() {
            let keep = match survival {
                Survival::All => true,
                Survival::SyncedOnly => false,
                Survival::Random if in_order => number < cut,
                Survival::Random => rng.random_bool(0.5),
            };
            if !keep {
                lost += 1;
                let start = sector * SECTOR;
                let end = data.len().min(start + SECTOR);
                if start < end {
                    data[start..end].copy_from_slice(&before[..end - start]);
                }
            }
        }
        (Inode::of(data), lost)
    }
}

impl Content {
    fn remember(&mut self, range: Range<usize>) {
        for sector in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            let start = sector * SECTOR;
            let data = &self.data;
            self.before.entry(sector).or_insert_with(|| {
                let mut old = [0; SECTOR];
                let end = data.len().min(start + SECTOR);
                if start < end {
                    old[..end - start].copy_from_slice(&data[start..end]);
                }
                old
            });
        }
    }

    fn write(&mut self, bytes: &[u8], position: usize) {
        let end = position + bytes.len();
        self.remember(position..end);
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[position..end].copy_from_slice(bytes);
        self.mappings.retain(|mapping| match mapping.upgrade() {
            Some(mapping) => {
                mapping.show(bytes, position);
                true
            }
            None => false,
        });
    }

    fn resize(&mut self, len: usize) {
        if len < self.data.len() {
            self.remember(len..self.data.len());
        }
        self.data.resize(len, 0);
    }
}

/// An open file of the simulated disk.
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: Arc<Inode>,
    pub(super) writable: bool,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBADF)) }
    }
}

fn to_usize(number: u64) -> io::Result<usize> {
    // A terabyte in memory is surely a mistake of the caller.
    usize::try_from(number)
        .ok()
        .filter(|&number| number < 1 << 40)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.step(&Step::Read)?;
        let content = self.inode.lock();
        let start = to_usize(position)?.min(content.data.len());
        let count = buf.len().min(content.data.len() - start);
        buf[..count].copy_from_slice(&content.data[start..start + count]);
        let probability = state.faults.bit_flip;
        if count > 0 && probability > 0.0 && state.rng.random_bool(probability) {
            state.counts.bit_flips += 1;
            let at = state.rng.random_range(0..count);
            buf[at] ^= 1 << state.rng.random_range(0..8);
        }
        Ok(count)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.write_vectored_at(&[buf], position)
    }

    fn write_vectored_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        self.check_writable()?;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut at = to_usize(position)?;
        let mut state = self.disk.lock();
        let growth = (at + total).saturating_sub(self.inode.lock().data.len());
        state.take_space(growth as u64)?;
        state.step(&Step::Write)?;
        let mut content = self.inode.lock();
        for slice in slices {
            content.write(slice, at);
            at += slice.len();
        }
        state.outcome()
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let end = to_usize(position + len)?;
        let mut state = self.disk.lock();
        let growth = end.saturating_sub(self.inode.lock().data.len());
        state.take_space(growth as u64)?;
        state.step(&Step::Write)?;
        let mut content = self.inode.lock();
        let longer = content.data.len().max(end);
        content.resize(longer);
        state.outcome()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.lock();
        state.step(&Step::Write)?;
        self.inode.lock().resize(to_usize(len)?);
        state.outcome()
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.lock().step(&Step::Read)?;
        Ok(self.inode.lock().data.len() as u64)
    }

    fn fdatasync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step(&Step::Sync)?;
        state.outcome()?;
        let mut content = self.inode.lock();
        content.before.clear();
        content.durable_len = content.data.len();
        Ok(())
    }

    fn map(&self, len: usize) -> io::Result<Arc<dyn Mapping>> {
        self.disk.lock().step(&Step::Read)?;
        let map = MmapOptions::new().len(len).map_anon()?;
        let mapping = Arc::new(SimMapping {
            map: map.into(),
            disk: self.disk.clone(),
            inode: Arc::downgrade(&self.inode),
        });
        let mut content = self.inode.lock();
        mapping.show(&content.data, 0);
        content.mappings.push(Arc::downgrade(&mapping));
        Ok(mapping)
    }
}

/// A mapping in anonymous memory; writes to the file are copied into it as they happen.
struct SimMapping {
    map: MmapRaw,
    disk: SimDisk,
    inode: Weak<Inode>,
}

impl SimMapping {
    fn show(&self, bytes: &[u8], position: usize) {
        if position >= self.map.len() {
            return;
        }
        let count = bytes.len().min(self.map.len() - position);
        // SAFETY: the target lies within the anonymous mapping that `self` owns. That no slice of these bytes is alive
        // is what readers vouch for: they touch only what was written before (see `Mapping::bytes`).
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(position), count);
        }
    }
}

impl Mapping for SimMapping {
    fn len(&self) -> usize {
        self.map.len()
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.map.len(), "range within the mapping");
        // SAFETY: within the mapping, which lives as long as `self`; the caller vouches that nothing writes here.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(range.start), range.len()) }
    }

    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.map.len(), "range within the mapping");
        self.disk.lock().step(&Step::Read)?;
        // An unlinked file stays mapped; its length no longer matters.
        let page = rustix::param::page_size();
        let readable = self.inode.upgrade().map_or(usize::MAX, |inode| {
            let content = inode.lock();
            content.data.len().next_multiple_of(page)
        });
        if range.end > readable {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        Ok(())
    }

    /// None: what can be read past the cache is.
    fn resident_bytes(&self, range: Range<usize>) -> usize {
        assert!(range.start <= range.end && range.end <= self.map.len(), "range within the mapping");
        0
    }

    fn release(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.map.len(), "range within the mapping");
    }
}
