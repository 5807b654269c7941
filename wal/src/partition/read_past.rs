//! Large reads past the page cache, for what is in nobody's memory: into buffers that are used again, with no page of the cache
//! to be found for them and no page table to be filled.
//!
//! More is read at a time than is asked for; the rest waits in its buffer for the read that goes on there. What a consumer that is
//! behind reads is read once, as a rule. What is read a second time goes through the page cache, from where a third
//! reader has it too ([`ReadPast`]). What is in the page cache is read there, by its mapping. When all buffers are out (slow
//! clients hold them until their answer is sent) reads go through the page cache as well.
//!
//! Used by helper threads; a buffer comes back from whichever thread drops the last slice of it.
//!
//! Measured (2-core virtual machine, Linux 6.18, ext4, a disk that reads 1 GB/s; the broker's CPU seconds a GB and the rate of one
//! consumer of six partitions, 1 KiB records in batches of 64 KiB):
//!
//! | | through the page cache | past it |
//! |---|---|---|
//! | not in memory | 1.9 s/GB, 340–460 MB/s | 0.47–0.50 s/GB, 700–750 MB/s |
//! | in the page cache, just written | 0.46–0.54 s/GB, 1,300–1,500 MB/s | (read by its mapping) |
//!
//! With small pages instead of huge ones and 1 MiB at a time it was 0.66 s/GB and 650 MB/s.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::mapped::MappedLog;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, DiskFile};

/// A shorter read goes through the page cache: its wait for the disk costs more than the pages, and what follows is brought in
/// with it.
pub(super) const PAST_CACHE_BYTES_MIN: usize = 256 << 10;
/// What is read at a time, with the rest of the blocks at both ends: a huge page of most machines.
const BUFFER_BYTES: usize = 2 << 20;
/// Buffers that may be out at a time, of all partitions of the node.
const BUFFERS_MAX: usize = 32;
/// Buffers that are kept for the next reads.
const BUFFERS_KEPT_MAX: usize = 8;
/// Pieces that were read and not asked for yet, of all partitions of the node: the one that waits longest goes first.
const AHEAD_MAX: usize = 12;
/// What [`ReadPast`] remembers about by one bit.
const UNIT_BYTES: usize = 64 << 10;

/// What of a file was read past the cache since it was mapped.
#[derive(Default)]
pub(super) struct ReadPast(OnceLock<Box<[AtomicU64]>>);

impl ReadPast {
    /// Notes that a range of a file of so many bytes is read. Tells whether most of it was read before.
    fn note(&self, range: &Range<usize>, file_bytes: usize) -> bool {
        let words = self.0.get_or_init(|| {
            let words = file_bytes.div_ceil(UNIT_BYTES).div_ceil(u64::BITS as usize);
            (0..words).map(|_| AtomicU64::new(0)).collect()
        });
        // Units that begin in the range: of two reads that follow one another neither notes the other's.
        let units = range.start.div_ceil(UNIT_BYTES)..range.end.div_ceil(UNIT_BYTES);
        let count = units.len();
        let known = units.filter(|unit| {
            let bit = 1 << (unit % u64::BITS as usize);
            let word = words.get(unit / u64::BITS as usize);
            word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit != 0)
        });
        known.count() * 2 > count
    }
}

/// The buffers of a node.
#[derive(Default)]
pub(super) struct ReadBuffers {
    kept: Mutex<Vec<AlignedBuffer>>,
    out: AtomicUsize,
    /// Pieces of files, by the number of their segment, the oldest first.
    ahead: Mutex<Vec<(u64, Loaded)>>,
}

/// A buffer that is out.
struct Lent {
    /// Here until it is dropped.
    buffer: Option<AlignedBuffer>,
    from: Arc<ReadBuffers>,
}

/// Bytes of a file that were read past the cache.
#[derive(Clone)]
pub(super) struct Loaded {
    /// Where they lie in the file.
    pub(super) range: Range<u64>,
    pub(super) bytes: Bytes,
}

impl ReadBuffers {
    /// How many are out.
    #[cfg(test)]
    pub(super) fn out(&self) -> usize {
        self.out.load(Ordering::Relaxed)
    }

    fn lend(self: &Arc<Self>) -> Option<Lent> {
        let is_room = |out| (out < BUFFERS_MAX).then_some(out + 1);
        self.out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_room).ok()?;
        let mut lent = Lent { buffer: lock(&self.kept).pop(), from: Arc::clone(self) };
        if lent.buffer.is_none() {
            lent.buffer = Some(AlignedBuffer::new(BUFFER_BYTES).ok()?);
        }
        Some(lent)
    }

    /// What was read ahead of a segment at a place, if it is worth a read; the rest of it is kept.
    fn take_ahead(&self, segment: u64, wanted: &Range<u64>) -> Option<Loaded> {
        let mut ahead = lock(&self.ahead);
        let place = ahead.iter().position(|(of, loaded)| {
            let end = loaded.range.end.min(wanted.end);
            let at_hand = end.saturating_sub(wanted.start);
            let is_enough = end == wanted.end || at_hand >= PAST_CACHE_BYTES_MIN as u64;
            *of == segment && loaded.range.contains(&wanted.start) && is_enough
        })?;
        let loaded = ahead.get(place)?.1.clone();
        if loaded.range.end <= wanted.end {
            ahead.remove(place);
        }
        Some(loaded)
    }

    fn keep_ahead(&self, segment: u64, loaded: Loaded) {
        let mut ahead = lock(&self.ahead);
        let is_in_place =
            |(of, other): &mut (u64, Loaded)| *of == segment && other.range.contains(&loaded.range.start);
        let mut gone: Vec<_> = ahead.extract_if(.., is_in_place).collect();
        ahead.push((segment, loaded));
        if ahead.len() > AHEAD_MAX {
            gone.push(ahead.remove(0));
        }
        // Buffers come back by another lock.
        drop(ahead);
        drop(gone);
    }

    /// Lets go of what was read ahead of a segment.
    pub(super) fn forget(&self, segment: u64) {
        let forgotten: Vec<_> = lock(&self.ahead).extract_if(.., |(of, _)| *of == segment).collect();
        drop(forgotten);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], AlignedBuffer::as_bytes)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let mut kept = lock(&self.from.kept);
            if kept.len() < BUFFERS_KEPT_MAX {
                kept.push(buffer);
            }
        }
        self.from.out.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to be read of a mapped file.
pub(super) struct Wanted<'a> {
    /// The number of the segment.
    pub(super) segment: u64,
    pub(super) map: &'a MappedLog,
    pub(super) buffers: &'a Arc<ReadBuffers>,
    /// What is asked for.
    pub(super) range: Range<u64>,
    /// Where the written bytes end.
    pub(super) end: u64,
}

impl Wanted<'_> {
    /// Reads it past the cache; nothing when it is better read by the mapping.
    pub(super) fn load(
        self,
        open: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<Option<Loaded>> {
        if self.range.end - self.range.start < PAST_CACHE_BYTES_MIN as u64 {
            return Ok(None);
        }
        if let Some(loaded) = self.buffers.take_ahead(self.segment, &self.range) {
            return Ok(Some(loaded));
        }
        let within = (self.range.start % BLOCK_BYTES as u64) as usize;
        let piece = self.range.start..self.end.min(self.range.start + (BUFFER_BYTES - within) as u64);
        let mapped = piece.start as usize..piece.end as usize;
        let len = mapped.len();
        if self.map.resident_bytes(mapped.clone()) * 2 > len
            || self.map.read_past.note(&mapped, self.map.len())
        {
            return Ok(None);
        }
        let Some(mut lent) = self.buffers.lend() else { return Ok(None) };
        let Some(buffer) = &mut lent.buffer else { return Ok(None) };
        let blocks = &mut buffer.as_mut_bytes()[..(within + len).next_multiple_of(BLOCK_BYTES)];
        let count = open()?.read_past_cache_at(blocks, piece.start - within as u64)?;
        if count < within + len {
            return Ok(None);
        }
        let bytes = Bytes::from_owner(lent).slice(within..within + len);
        let loaded = Loaded { range: piece, bytes };
        if loaded.range.end > self.range.end {
            self.buffers.keep_ahead(self.segment, loaded.clone());
        }
        Ok(Some(loaded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_is_known_and_what_follows_is_not() {
        let read_past = ReadPast::default();
        let file_bytes = 10 << 20;
        let mut at = 1000;
        while at + BUFFER_BYTES < file_bytes {
            assert!(!read_past.note(&(at..at + BUFFER_BYTES), file_bytes), "at {at}");
            // The last batch did not fit whole.
            at += BUFFER_BYTES - 60_000;
        }
        assert!(read_past.note(&(5_000..5_000 + BUFFER_BYTES), file_bytes));
        assert!(
            !read_past.note(&(file_bytes..file_bytes + BUFFER_BYTES), file_bytes),
            "beyond what is mapped"
        );
    }

    #[test]
    fn buffers_are_used_again_and_bounded() {
        let buffers = Arc::new(ReadBuffers::default());
        let lent: Vec<_> = (0..BUFFERS_MAX).map(|_| buffers.lend().expect("a buffer")).collect();
        assert!(buffers.lend().is_none(), "all are out");
        let first = lent[0].as_ref().as_ptr();
        assert!(first.addr().is_multiple_of(BLOCK_BYTES) && lent[0].as_ref().len() == BUFFER_BYTES);
        drop(lent);
        assert_eq!(lock(&buffers.kept).len(), BUFFERS_KEPT_MAX);
        assert_eq!(buffers.out(), 0);
        let again = buffers.lend().expect("a buffer");
        assert_eq!(lock(&buffers.kept).len(), BUFFERS_KEPT_MAX - 1);
        let slice = Bytes::from_owner(again).slice(5..9);
        let other = slice.clone();
        drop(slice);
        assert_eq!(buffers.out(), 1, "a slice keeps it");
        drop(other);
        assert_eq!(buffers.out(), 0);
    }

    #[test]
    fn what_was_read_ahead_is_taken_once_and_bounded() {
        let buffers = ReadBuffers::default();
        let piece =
            |start: u64| Loaded { range: start..start + 1_000_000, bytes: Bytes::from(vec![0; 1_000_000]) };
        buffers.keep_ahead(7, piece(5_000));
        assert!(buffers.take_ahead(8, &(5_000..600_000)).is_none(), "of another segment");
        assert!(buffers.take_ahead(7, &(4_000..600_000)).is_none(), "what was asked for begins before it");
        assert!(buffers.take_ahead(7, &(900_000..1_900_000)).is_none(), "too little of it");
        assert!(buffers.take_ahead(7, &(5_000..600_000)).is_some());
        assert!(buffers.take_ahead(7, &(600_000..1_600_000)).is_some(), "the rest is still there");
        assert!(buffers.take_ahead(7, &(600_000..1_600_000)).is_none(), "all was taken");
        buffers.keep_ahead(7, piece(5_000));
        buffers.keep_ahead(7, piece(900_000));
        assert_eq!(lock(&buffers.ahead).len(), 1, "the later one takes the place of the other's rest");
        buffers.forget(7);
        (0..AHEAD_MAX as u64 + 1).for_each(|segment| buffers.keep_ahead(segment, piece(0)));
        assert!(buffers.take_ahead(0, &(0..500_000)).is_none(), "the oldest has gone");
        buffers.forget(1);
        assert!(buffers.take_ahead(1, &(0..500_000)).is_none());
        assert!(buffers.take_ahead(2, &(0..500_000)).is_some());
    }
}
