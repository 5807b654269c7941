//! Helper threads: blocking work off the shard.
//!
//! Each shard owns a pool of its own. Jobs go in through a bounded queue, results come back through the shard's
//! mailbox. Jobs run in the order given when the pool has one thread; with more threads only their start is in order.
//! A job that panics ends the process, as a panic on a shard does.

use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use crossbeam::channel;

use super::mailbox::{Full, Sender};

/// Work for a helper thread, and the result that goes back to the shard.
pub type Job<R> = Box<dyn FnOnce() -> R + Send>;

/// How long a helper waits before it offers a result again to a mailbox that is full. The shard is then so
/// busy that nothing hangs on this millisecond.
const RESULT_RETRY: Duration = Duration::from_millis(1);

/// The helper threads of one shard.
pub struct HelperPool<R> {
    jobs: channel::Sender<Job<R>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<R> fmt::Debug for HelperPool<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HelperPool({} threads, {} jobs wait)", self.threads.len(), self.jobs.len())
    }
}

impl<R: Send + 'static> HelperPool<R> {
    /// Starts `thread_count` threads named `NAME-0`, `NAME-1`, … whose results go to `results`.
    /// At most `queue_capacity` jobs wait.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        name: &str,
        thread_count: usize,
        queue_capacity: usize,
        results: &Sender<R>,
    ) -> io::Result<Self> {
        let (jobs, queue) = channel::bounded::<Job<R>>(queue_capacity);
        let mut threads = Vec::with_capacity(thread_count);
        for number in 0..thread_count.max(1) {
            let queue = queue.clone();
            let results = results.clone();
            let thread = thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || work(&queue, &results))?;
            threads.push(thread);
        }
        Ok(Self { jobs, threads })
    }

    /// Queues a job. Never blocks.
    ///
    /// # Errors
    /// The job, when the queue is full: keep it and try again after the next result.
    pub fn try_submit(&self, job: Job<R>) -> Result<(), Job<R>> {
        self.jobs.try_send(job).map_err(channel::TrySendError::into_inner)
    }

    /// Number of jobs that wait for a thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.jobs.len()
    }

    /// Runs every job that was queued, then ends the threads. Blocks: for the end of the process, once
    /// the shard's executor no longer runs or for tests. The mailbox must be emptied meanwhile if results exceed its room.
    pub fn join(self) {
        drop(self.jobs);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn work<R: Send>(queue: &channel::Receiver<Job<R>>, results: &Sender<R>) {
    let _guard = AbortOnPanic;
    while let Ok(job) = queue.recv() {
        let mut result = job();
        while let Err(Full(back)) = results.try_send(result) {
            if results.is_closed() {
                return;
            }
            result = back;
            thread::sleep(RESULT_RETRY);
        }
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::executor::{ShardsConfig, run_shards};
    use crate::rt::mailbox::mailbox;

    #[test]
    fn results_come_back_to_the_shard() {
        let config = ShardsConfig::new(1);
        let shards = run_shards(&config, vec![()], |_, ()| async {
            let (sender, unbound) = mailbox::<(u32, String)>(4).unwrap();
            let mut results = unbound.bind().unwrap();
            let pool = HelperPool::start("helper", 1, 4, &sender).unwrap();
            let mut next = 0u32;
            let mut got = Vec::new();
            while got.len() < 100 {
                while next < 100 {
                    let number = next;
                    let job: Job<(u32, String)> =
                        Box::new(move || (number, thread::current().name().unwrap_or_default().to_owned()));
                    if pool.try_submit(job).is_err() {
                        break;
                    }
                    next += 1;
                }
                got.push(results.recv().await);
            }
            for (index, (number, name)) in got.iter().enumerate() {
                assert_eq!((*number as usize, name.as_str()), (index, "helper-0"));
            }
            pool.join();
        })
        .unwrap();
        shards.join();
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let (sender, _unbound) = mailbox::<()>(4).unwrap();
        let (release, gate) = channel::bounded::<()>(0);
        let pool = HelperPool::start("slow", 1, 1, &sender).unwrap();
        let mut refused = false;
        for _ in 0..3 {
            let gate = gate.clone();
            refused |= pool
                .try_submit(Box::new(move || {
                    let _ = gate.recv();
                }))
                .is_err();
        }
        assert!(refused, "three jobs fit a thread and a queue of one");
        drop(release);
        pool.join();
    }
}
