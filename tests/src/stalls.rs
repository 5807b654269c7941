//! Whether the machine itself stood still: on virtual machines whole cores are taken away for half a second now and then.
//!
//! A test that demands calm of a cluster (no election, say) must not blame the broker for that. One thread a core sleeps a few
//! milliseconds again and again, and notes how late it is woken. A broker that keeps a core busy does not make it late: the
//! kernel lets others have their share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(5);
/// Cores that are watched; more are not what our tests run on.
const CORES_MAX: usize = 64;

/// Watches the machine until it is dropped.
#[derive(Debug)]
pub struct Stalls {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    worst_us: AtomicU64,
}

impl Stalls {
    /// Begins to watch all cores that this process may use.
    #[must_use]
    pub fn watch() -> Self {
        let shared = Arc::new(Shared::default());
        let watch = |core: usize| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                stay_on(core);
                shared.watch();
            })
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(CORES_MAX);
        let threads = (0..cores).map(watch).collect();
        Self { shared, threads }
    }

    /// The longest time that a core stood still since the last call.
    #[must_use]
    pub fn take_worst(&self) -> Duration {
        Duration::from_micros(self.shared.worst_us.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a watch does not panic");
        }
    }
}

impl Shared {
    fn watch(&self) {
        let mut slept_at = Instant::now();
        while !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
            let late = slept_at.elapsed().saturating_sub(LOOK);
            slept_at = Instant::now();
            self.worst_us.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Keeps this thread on one core. Where that is not allowed it watches whichever core it is given.
fn stay_on(core: usize) {
    // SAFETY: a set of cores is plain bits, of which all zeros is the empty set; the call only reads it.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_gone() {
        let shared = Arc::new(Shared::default());
        let stalls = Stalls { shared: shared.clone(), threads: Vec::new() };
        shared.worst_us.store(7, Ordering::Relaxed);
        assert_eq!(stalls.take_worst(), Duration::from_micros(7));
        assert_eq!(stalls.take_worst(), Duration::ZERO);
    }

    #[test]
    fn a_watch_looks_and_ends() {
        let stalls = Stalls::watch();
        crate::process::eventually("a thread is never woken to the microsecond", LOOK * 2_000, || {
            stalls.take_worst() > Duration::ZERO
        });
    }
}
