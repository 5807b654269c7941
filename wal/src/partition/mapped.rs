//! A mapped `.log` file, and how much of all of them counts as this process's memory.
//!
//! Whoever reads a range holds it ([`Held`]). What nobody holds stays mapped for a while, since small reads come again and
//! again to the same place; of the whole node no more than [`IDLE_WINDOWS_MAX`] windows, the ones let go of first leave
//! first. The page cache keeps the bytes: only this process's page table lets go of them. So a node that reads a long backlog
//! shows some megabytes more, not the backlog.
//!
//! Used by helper threads and, when the last slice of an answer is dropped, by shards: an atomic number a window of 1 MiB,
//! a short lock when a window falls idle, and a system call when one more falls idle than may be.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::read_past::ReadPast;
use crate::disk::Mapping;

/// What is let go of at once.
const WINDOW_BYTES: usize = 1 << 20;
/// Idle windows that stay mapped, of all files of the node.
pub(super) const IDLE_WINDOWS_MAX: usize = 32;
/// Bit of a window's number that says that it is in the queue of idle windows; the others count its holders.
const QUEUED: u32 = 1 << 31;

/// The windows of all mapped files that nobody holds, the one that fell idle first at the front.
#[derive(Default)]
pub(super) struct IdleWindows {
    queue: Mutex<VecDeque<(Weak<MappedLog>, usize)>>,
}

impl IdleWindows {
    fn push(&self, log: &Arc<MappedLog>, window: usize) {
        let oldest = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back((Arc::downgrade(log), window));
            if queue.len() > IDLE_WINDOWS_MAX { queue.pop_front() } else { None }
        };
        // Outside the lock: the system call takes a while, and letting go of the last reference unmaps.
        if let Some((log, window)) = oldest
            && let Some(log) = log.upgrade()
        {
            log.leave(window);
        }
    }
}

/// A mapping and who holds what of it.
pub(super) struct MappedLog {
    map: Arc<dyn Mapping>,
    /// What has been read past the cache: see [`super::read_past`].
    pub(super) read_past: ReadPast,
    /// Of each window: how many hold some of it, and [`QUEUED`].
    holders: Box<[AtomicU32]>,
    idle: Arc<IdleWindows>,
}

impl MappedLog {
    pub(super) fn new(map: Arc<dyn Mapping>, idle: &Arc<IdleWindows>) -> Arc<Self> {
        let windows = map.len().div_ceil(WINDOW_BYTES);
        let holders = (0..windows).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self { map, read_past: ReadPast::default(), holders, idle: Arc::clone(idle) })
    }

    /// How many bytes of a range are in the page cache now, about.
    pub(super) fn resident_bytes(&self, range: Range<usize>) -> usize {
        self.map.resident_bytes(range)
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Holds a range, so that it stays mapped once it is populated.
    pub(super) fn hold(self: &Arc<Self>, range: Range<usize>) -> Held {
        for holders in &self.holders[windows(&range)] {
            let before = holders.fetch_add(1, Ordering::AcqRel);
            assert!(before & !QUEUED < QUEUED - 1, "fewer holders than the count takes");
        }
        Held { log: Arc::clone(self), range }
    }

    /// The window has left the queue of idle ones: it is unmapped, unless somebody holds it again. Who takes hold of it
    /// at this very moment reads it all the same; the pages come back when they are touched.
    fn leave(&self, window: usize) {
        if self.holders[window].fetch_and(!QUEUED, Ordering::AcqRel) == QUEUED {
            let start = window * WINDOW_BYTES;
            self.map.release(start..self.map.len().min(start + WINDOW_BYTES));
        }
    }
}

/// A range of a mapped file that somebody uses.
pub(super) struct Held {
    log: Arc<MappedLog>,
    range: Range<usize>,
}

impl Held {
    /// Brings a part of the file in that is held. Blocks.
    pub(super) fn populate(&self, range: Range<usize>) -> std::io::Result<()> {
        assert!(self.range.start <= range.start && range.end <= self.range.end, "what is brought in is held");
        self.log.map.populate(range)
    }

    /// Bytes of the file that are held.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(self.range.start <= range.start && range.end <= self.range.end, "what is read is held");
        self.log.map.bytes(range)
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.log.map.bytes(self.range.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for window in windows(&self.range) {
            let holders = &self.log.holders[window];
            // The last one, of a window that is not in the queue.
            if holders.fetch_sub(1, Ordering::AcqRel) == 1
                && holders.compare_exchange(0, QUEUED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                self.log.idle.push(&self.log, window);
            }
        }
    }
}

fn windows(range: &Range<usize>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / WINDOW_BYTES..range.end.div_ceil(WINDOW_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping that notes what it is told to let go of.
    struct Noting {
        bytes: Vec<u8>,
        released: Mutex<Vec<Range<usize>>>,
    }

    impl Mapping for Noting {
        fn len(&self) -> usize {
            self.bytes.len()
        }

        fn bytes(&self, range: Range<usize>) -> &[u8] {
            &self.bytes[range]
        }

        fn populate(&self, _range: Range<usize>) -> std::io::Result<()> {
            Ok(())
        }

        fn resident_bytes(&self, _range: Range<usize>) -> usize {
            0
        }

        fn release(&self, range: Range<usize>) {
            self.released.lock().unwrap().push(range);
        }
    }

    fn mapped(windows: usize) -> (Arc<Noting>, Arc<MappedLog>) {
        let bytes = vec![0; windows * WINDOW_BYTES - 5];
        let noting = Arc::new(Noting { bytes, released: Mutex::default() });
        (noting.clone(), MappedLog::new(noting, &Arc::default()))
    }

    #[test]
    fn windows_are_those_that_a_range_touches() {
        assert_eq!(windows(&(7..7)), 0..0);
        assert_eq!(windows(&(0..1)), 0..1);
        assert_eq!(windows(&(WINDOW_BYTES - 1..WINDOW_BYTES + 1)), 0..2);
        assert_eq!(windows(&(WINDOW_BYTES..2 * WINDOW_BYTES)), 1..2);
    }

    #[test]
    fn the_windows_that_fell_idle_first_leave_first() {
        let (noting, log) = mapped(IDLE_WINDOWS_MAX + 3);
        let window =
            |number: usize| number * WINDOW_BYTES..(number * WINDOW_BYTES + WINDOW_BYTES).min(log.len());
        let kept = log.hold(window(1));
        for number in 0..IDLE_WINDOWS_MAX + 1 {
            drop(log.hold(window(number)));
        }
        assert!(
            noting.released.lock().unwrap().is_empty(),
            "one is held, so that no more are idle than may be"
        );
        drop(log.hold(window(IDLE_WINDOWS_MAX + 1)));
        assert_eq!(*noting.released.lock().unwrap(), [window(0)]);
        drop(kept);
        assert_eq!(*noting.released.lock().unwrap(), [window(0), window(2)]);
        drop(log.hold(window(IDLE_WINDOWS_MAX + 2)));
        assert_eq!(*noting.released.lock().unwrap(), [window(0), window(2), window(3)]);
    }

    #[test]
    fn small_reads_of_one_place_let_go_of_nothing() {
        let (noting, log) = mapped(2);
        for number in 0..10 * IDLE_WINDOWS_MAX {
            drop(log.hold(number..WINDOW_BYTES + number));
        }
        assert!(noting.released.lock().unwrap().is_empty());
        assert_eq!(log.idle.queue.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_is_held_again_is_not_let_go_of() {
        let (noting, log) = mapped(IDLE_WINDOWS_MAX + 1);
        drop(log.hold(0..1));
        let held = (log.hold(0..1), log.hold(5..6));
        for number in 1..=IDLE_WINDOWS_MAX {
            drop(log.hold(number * WINDOW_BYTES..number * WINDOW_BYTES + 1));
        }
        assert!(noting.released.lock().unwrap().is_empty(), "the first in the queue is held");
        drop(held);
        assert_eq!(noting.released.lock().unwrap().len(), 1, "now it is in the queue again, one too many");
    }

    #[test]
    fn a_mapping_that_nobody_has_any_more_is_gone() {
        let (noting, log) = mapped(1);
        let idle = Arc::clone(&log.idle);
        drop(log.hold(0..1));
        drop(log);
        assert_eq!(Arc::strong_count(&noting), 1, "the queue keeps no mapping alive");
        assert_eq!(idle.queue.lock().unwrap().len(), 1);
    }

    #[test]
    fn many_threads_hold_and_let_go() {
        let (noting, log) = mapped(2 * IDLE_WINDOWS_MAX);
        std::thread::scope(|threads| {
            for thread in 0..4_usize {
                let log = &log;
                threads.spawn(move || {
                    for round in 0..20_000 {
                        let window = (round * 7 + thread * 13) % (2 * IDLE_WINDOWS_MAX - 1);
                        let held = log.hold(window * WINDOW_BYTES + 9..(window + 1) * WINDOW_BYTES + 1);
                        assert_eq!(held.as_ref().len(), WINDOW_BYTES - 8);
                    }
                });
            }
        });
        let queue = log.idle.queue.lock().unwrap();
        assert!(!noting.released.lock().unwrap().is_empty() && queue.len() <= IDLE_WINDOWS_MAX);
        let queued = |window: usize| queue.iter().filter(|(_, other)| *other == window).count();
        for (window, holders) in log.holders.iter().enumerate() {
            let holders = holders.load(Ordering::Acquire);
            assert_eq!(holders, if queued(window) == 1 { QUEUED } else { 0 }, "window {window}");
            assert!(queued(window) <= 1);
        }
    }
}
