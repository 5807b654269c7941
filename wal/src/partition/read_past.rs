//! Large reads past the page cache, for what is in nobody's memory: into buffers that are used again, with no page of the cache
//! to be found for them and no page table to be filled.
//!
//! More is read at a time than is asked for; the rest waits in its buffer for the read that goes on there. Where more partitions
//! are read in turn than rests may wait, only what is asked for is read. What a consumer that is behind reads is read once, as
//! a rule. What is read a second time goes through the page cache, from where a third reader has it too ([`ReadPast`]).
//! What is in the page cache is read there, by its mapping. When all buffers are out (slow clients hold them until their
//! answer is sent) reads go through the page cache as well, and so they do when the disk fails: the mapping then
//! tells which bytes cannot be read.
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
pub(super) const READ_PAST_BYTES_MIN: usize = 256 << 10;
/// What is read at a time, with the rest of the blocks at both ends: a huge page of most machines.
const BUFFER_BYTES: usize = 2 << 20;
/// Buffers that may be out at a time, of all partitions of the node.
const BUFFERS_MAX: usize = 32;
/// Buffers that are kept for the next reads.
const BUFFERS_KEPT_MAX: usize = 4;
/// Pieces whose rest was not asked for yet, of all partitions of the node.
const AHEAD_MAX: usize = 8;
/// A piece whose rest has not been asked for while so many others were read is given up.
const AHEAD_READS_MAX: u64 = 64;
/// What [`ReadPast`] remembers about by one bit.
const UNIT_BYTES: usize = 64 << 10;

/// What of a file was handed out past the cache since it was mapped.
#[derive(Default)]
pub(super) struct ReadPast(OnceLock<Box<[AtomicU64]>>);

impl ReadPast {
    /// Notes that a range of a file of so many bytes is handed out.
    fn note(&self, range: &Range<u64>, file_bytes: usize) {
        let words = self.0.get_or_init(|| {
            let words = file_bytes.div_ceil(UNIT_BYTES).div_ceil(u64::BITS as usize);
            (0..words).map(|_| AtomicU64::new(0)).collect()
        });
        for (word, bit) in units(range) {
            if let Some(word) = words.get(word) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether most of a range was handed out before.
    fn knows(&self, range: &Range<u64>) -> bool {
        let Some(words) = self.0.get() else { return false };
        let is_known = |(word, bit): &(usize, u64)| {
            words.get(*word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
        };
        units(range).filter(is_known).count() * 2 > units(range).count()
    }
}

/// The bits of the units that begin in a range: of two reads that follow one another neither has the other's.
fn units(range: &Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let unit = |position: u64| (position as usize).div_ceil(UNIT_BYTES);
    let bits = u64::BITS as usize;
    (unit(range.start)..unit(range.end)).map(move |unit| (unit / bits, 1 << (unit % bits)))
}

/// The buffers of a node.
#[derive(Default)]
pub(super) struct ReadBuffers {
    kept: Mutex<Vec<AlignedBuffer>>,
    out: AtomicUsize,
    ahead: Mutex<Ahead>,
}

/// Pieces of files whose rest waits.
#[derive(Default)]
struct Ahead {
    /// The oldest first.
    pieces: Vec<Piece>,
    /// Reads so far.
    reads: u64,
}

struct Piece {
    segment: u64,
    /// Which of the reads it was.
    read: u64,
    loaded: Loaded,
}

impl Ahead {
    /// Takes out the oldest piece that has waited for longer than so many reads.
    fn give_up(&mut self, reads: u64) -> Option<Piece> {
        let oldest = self.pieces.first()?;
        (oldest.read + reads < self.reads).then(|| self.pieces.remove(0))
    }
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

    /// A buffer for another read. When all are out, one of a piece that waits, if it has waited for long.
    fn lend_for_read(self: &Arc<Self>) -> Option<Lent> {
        self.lend().or_else(|| {
            let given_up = lock(&self.ahead).give_up(AHEAD_READS_MAX);
            drop(given_up?);
            self.lend()
        })
    }

    /// Counts a read, and tells whether the rest of what it reads may wait.
    fn may_read_ahead(&self) -> bool {
        let mut ahead = lock(&self.ahead);
        ahead.reads += 1;
        let given_up = if ahead.pieces.len() < AHEAD_MAX { None } else { ahead.give_up(AHEAD_READS_MAX) };
        let is_room = ahead.pieces.len() < AHEAD_MAX;
        // A buffer comes back by another lock.
        drop(ahead);
        drop(given_up);
        is_room
    }

    /// What was read ahead of a segment at a place, if it is worth a read; the rest of it is kept.
    fn take_ahead(&self, segment: u64, wanted: &Range<u64>) -> Option<Loaded> {
        let mut ahead = lock(&self.ahead);
        let place = ahead.pieces.iter().position(|piece| {
            let range = &piece.loaded.range;
            let end = range.end.min(wanted.end);
            let at_hand = end.saturating_sub(wanted.start);
            let is_enough = end == wanted.end || at_hand >= READ_PAST_BYTES_MIN as u64;
            piece.segment == segment && range.contains(&wanted.start) && is_enough
        })?;
        let loaded = ahead.pieces[place].loaded.clone();
        if loaded.range.end <= wanted.end {
            ahead.pieces.remove(place);
        }
        Some(loaded)
    }

    fn keep_ahead(&self, segment: u64, loaded: Loaded) {
        let mut ahead = lock(&self.ahead);
        let is_in_place =
            |piece: &mut Piece| piece.segment == segment && piece.loaded.range.contains(&loaded.range.start);
        let mut gone: Vec<_> = ahead.pieces.extract_if(.., is_in_place).collect();
        let read = ahead.reads;
        ahead.pieces.push(Piece { segment, read, loaded });
        if ahead.pieces.len() > AHEAD_MAX {
            gone.push(ahead.pieces.remove(0));
        }
        // Buffers come back by another lock.
        drop(ahead);
        drop(gone);
    }

    /// Lets go of what was read ahead of a segment.
    pub(super) fn forget(&self, segment: u64) {
        let of_segment = |piece: &mut Piece| piece.segment == segment;
        let forgotten: Vec<_> = lock(&self.ahead).pieces.extract_if(.., of_segment).collect();
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
    pub(super) fn load(self, open: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>) -> Option<Loaded> {
        if self.range.end - self.range.start < READ_PAST_BYTES_MIN as u64 {
            return None;
        }
        let ahead = self.buffers.take_ahead(self.segment, &self.range);
        let loaded = ahead.or_else(|| self.read(open))?;
        self.map.read_past.note(&self.range, self.map.len());
        Some(loaded)
    }

    fn read(&self, open: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>) -> Option<Loaded> {
        let wanted = self.range.start as usize..self.range.end as usize;
        let is_better_mapped = self.map.read_past.knows(&self.range)
            || self.map.resident_bytes(wanted.clone()) * 2 > wanted.len();
        if is_better_mapped {
            return None;
        }
        let mut lent = self.buffers.lend_for_read()?;
        let within = wanted.start % BLOCK_BYTES;
        let end = if self.buffers.may_read_ahead() { self.end } else { self.range.end };
        let len = (BUFFER_BYTES - within).min((end - self.range.start) as usize);
        let blocks =
            &mut lent.buffer.as_mut()?.as_mut_bytes()[..(within + len).next_multiple_of(BLOCK_BYTES)];
        let count = open().ok()?.read_past_cache_at(blocks, self.range.start - within as u64).ok()?;
        if count < within + len {
            return None;
        }
        let range = self.range.start..self.range.start + len as u64;
        let loaded = Loaded { range, bytes: Bytes::from_owner(lent).slice(within..within + len) };
        if loaded.range.end > self.range.end {
            self.buffers.keep_ahead(self.segment, loaded.clone());
        }
        Some(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_is_known_and_what_follows_is_not() {
        let read_past = ReadPast::default();
        const READ: u64 = 1 << 20;
        let file_bytes = 10 << 20;
        let mut at = 1000;
        while at + READ < file_bytes {
            assert!(!read_past.knows(&(at..at + READ)), "at {at}");
            read_past.note(&(at..at + READ), file_bytes as usize);
            // The last batch did not fit whole.
            at += READ - 60_000;
        }
        assert!(read_past.knows(&(5_000..5_000 + READ)));
        let beyond = 2 * file_bytes..2 * file_bytes + READ;
        read_past.note(&beyond, file_bytes as usize);
        assert!(!read_past.knows(&beyond), "beyond what is mapped");
    }

    #[test]
    fn buffers_are_used_again_and_bounded() {
        let buffers = Arc::new(ReadBuffers::default());
        let lent: Vec<_> = (0..BUFFERS_MAX).map(|_| buffers.lend().expect("a buffer")).collect();
        assert!(buffers.lend_for_read().is_none(), "all are out");
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

    fn piece(start: u64) -> Loaded {
        Loaded { range: start..start + 1_000_000, bytes: Bytes::from(vec![0; 1_000_000]) }
    }

    #[test]
    fn what_was_read_ahead_is_taken_once() {
        let buffers = ReadBuffers::default();
        buffers.keep_ahead(7, piece(5_000));
        assert!(buffers.take_ahead(8, &(5_000..600_000)).is_none(), "of another segment");
        assert!(buffers.take_ahead(7, &(4_000..600_000)).is_none(), "what was asked for begins before it");
        assert!(buffers.take_ahead(7, &(900_000..1_900_000)).is_none(), "too little of it");
        assert!(buffers.take_ahead(7, &(5_000..600_000)).is_some());
        assert!(buffers.take_ahead(7, &(600_000..1_600_000)).is_some(), "the rest is still there");
        assert!(buffers.take_ahead(7, &(600_000..1_600_000)).is_none(), "all was taken");
        buffers.keep_ahead(7, piece(5_000));
        buffers.keep_ahead(7, piece(900_000));
        assert_eq!(lock(&buffers.ahead).pieces.len(), 1, "the later one takes the place of the other's rest");
        buffers.forget(7);
        assert!(buffers.take_ahead(7, &(900_000..1_500_000)).is_none());
    }

    #[test]
    fn rests_that_wait_are_bounded_and_give_way_when_they_are_old() {
        let buffers = ReadBuffers::default();
        for segment in 0..AHEAD_MAX as u64 {
            assert!(buffers.may_read_ahead());
            buffers.keep_ahead(segment, piece(0));
        }
        for _ in 0..=AHEAD_READS_MAX - AHEAD_MAX as u64 {
            assert!(!buffers.may_read_ahead(), "all are young");
        }
        assert!(buffers.may_read_ahead(), "the oldest has waited for long enough");
        assert!(
            buffers.take_ahead(0, &(0..500_000)).is_none() && buffers.take_ahead(1, &(0..500_000)).is_some()
        );
    }
}
