//! Starts the shards: one thread and one glommio executor each, named `shard-N`.
//!
//! Called once by the process's main thread. A shard is pinned to a core of its own when there are cores enough, and
//! free to move otherwise. A panic on a shard ends the process, in every build profile: a broken invariant
//! must stop the node, never leave a shard half alive.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};

use super::{registered, safety};

/// Completions that one ring takes at once. The completion queue holds twice as many: enough for thousands of sockets.
pub const RING_DEPTH: usize = 1_024;
/// More shards than this have no use, and their number is written in the data directory.
pub const SHARDS_MAX: usize = 256;

/// How the shards are run.
#[derive(Clone, Debug)]
pub struct ShardsConfig {
    /// Number of shards, at least one and at most [`SHARDS_MAX`].
    pub count: usize,
    /// Cores to use; empty means those the process may run on. Shards are pinned when there are as many of them.
    pub cpus: Vec<usize>,
    /// Depth of each ring.
    pub ring_depth: usize,
    /// Size of glommio's registered buffers.
    pub io_memory_bytes: usize,
    /// Spin this long before sleeping: a faster wake-up for a core that nobody else needs.
    pub spin_before_park: Option<Duration>,
}

impl ShardsConfig {
    /// `count` shards with every other setting at its default.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            count,
            cpus: Vec::new(),
            ring_depth: RING_DEPTH,
            io_memory_bytes: registered::memory_bytes(count),
            spin_before_park: None,
        }
    }
}

/// What a shard knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardContext {
    /// This shard, counted from zero.
    pub shard: usize,
    /// Number of shards.
    pub shard_count: usize,
    /// The core it is pinned to, if it is.
    pub cpu: Option<usize>,
}

/// Why the shards cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ShardsError {
    /// The configuration asks for something that cannot be.
    #[error("{count} shards asked for: give between 1 and {SHARDS_MAX}")]
    Count {
        /// What was asked for.
        count: usize,
    },
    /// The number of seeds is not the number of shards.
    #[error("{seeds} shard states given for {count} shards")]
    Seeds {
        /// Seeds given.
        seeds: usize,
        /// Shards to start.
        count: usize,
    },
    /// The thread of a shard cannot be started.
    #[error("cannot start the thread of shard {shard}: {source}")]
    Thread {
        /// The shard.
        shard: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The rings of a shard cannot be made.
    #[error(
        "cannot set up io_uring for shard {shard}: {reason} \
         (raise the memlock limit with `ulimit -l unlimited`, or run fewer shards)"
    )]
    Ring {
        /// The shard.
        shard: usize,
        /// What glommio said.
        reason: String,
    },
}

/// The running shards.
#[derive(Debug)]
pub struct Shards {
    threads: Vec<thread::JoinHandle<()>>,
}

impl Shards {
    /// Waits until each shard's future has completed.
    pub fn join(self) {
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// The cores that this process may run on, in ascending order.
#[must_use]
pub fn available_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

/// Starts the shards. Each gets its own of `seeds` (its mailboxes and whatever else is made before the start) and runs
/// `body` to completion. No body runs before the rings of all shards have been made.
///
/// # Errors
/// When the numbers do not fit, a thread cannot be started, or a ring cannot be made; then no shard is left running.
pub fn run_shards<S, F, Fut>(config: &ShardsConfig, seeds: Vec<S>, body: F) -> Result<Shards, ShardsError>
where
    S: Send + 'static,
    F: Fn(ShardContext, S) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    if config.count == 0 || config.count > SHARDS_MAX {
        return Err(ShardsError::Count { count: config.count });
    }
    if seeds.len() != config.count {
        return Err(ShardsError::Seeds { seeds: seeds.len(), count: config.count });
    }
    let cpus = if config.cpus.is_empty() { available_cpus() } else { config.cpus.clone() };
    let pinned = config.count <= cpus.len();
    let mut threads = Vec::with_capacity(config.count);
    let mut starts = Vec::with_capacity(config.count);
    let (ready, all_ready) = mpsc::channel();
    for (shard, seed) in seeds.into_iter().enumerate() {
        let cpu = pinned.then(|| cpus[shard]);
        let context = ShardContext { shard, shard_count: config.count, cpu };
        let config = config.clone();
        let body = body.clone();
        let ready = ready.clone();
        let (start, started) = mpsc::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || run_shard(&config, context, &ready, &started, move || body(context, seed)))
            .map_err(|source| ShardsError::Thread { shard, source })?;
        threads.push(thread);
        starts.push(start);
    }
    for result in all_ready.iter().take(config.count) {
        // Leaving drops `starts`, which ends the shards that are ready.
        result?;
    }
    for start in starts {
        // A shard that said it was ready waits for this.
        let _ = start.send(());
    }
    Ok(Shards { threads })
}

/// The thread of one shard: makes its rings, says so, waits for the start, runs.
fn run_shard<Fut>(
    config: &ShardsConfig,
    context: ShardContext,
    ready: &mpsc::Sender<Result<(), ShardsError>>,
    started: &mpsc::Receiver<()>,
    body: impl FnOnce() -> Fut,
) where
    Fut: Future<Output = ()> + 'static,
{
    let _guard = AbortOnPanic;
    let executor = match make_executor(config, context) {
        Ok(executor) => executor,
        Err(error) => {
            // Whoever starts the shards listens until each has spoken or one has failed.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    if started.recv().is_err() {
        return;
    }
    executor.run(async move {
        safety::start();
        body().await;
    });
}

fn make_executor(config: &ShardsConfig, context: ShardContext) -> Result<LocalExecutor, ShardsError> {
    let placement = context.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let mut builder = LocalExecutorBuilder::new(placement)
        .name(&format!("shard-{}", context.shard))
        .ring_depth(config.ring_depth)
        .io_memory(config.io_memory_bytes)
        // glommio's default places its blocking thread on the very core of the shard.
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
    if let Some(spin) = config.spin_before_park {
        builder = builder.spin_before_park(spin);
    }
    builder.make().map_err(|error| ShardsError::Ring { shard: context.shard, reason: error.to_string() })
}

/// Runs a future as a task of the calling shard, to its end. It runs at once up to its first wait: hold no borrow.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(future).detach();
}

/// Completes after `pause`. One such timer a task is fine, one a request is not.
pub async fn sleep(pause: Duration) {
    glommio::timer::Timer::new(pause).await;
}

/// Lets the executor take what has completed (sockets, timers, mailboxes) before the calling task goes on.
///
/// `yield_if_needed` alone does not: it looks at the latency ring only, while sockets and mailboxes are on the main ring.
/// Nor does a pause of nothing: glommio's timer is ready at its first poll when its time has come by then, and the reactor
/// is not entered. This one is still ahead at its first poll and past when the reactor looks, which hence does not park.
pub async fn breathe() {
    const AHEAD: Duration = Duration::from_micros(10);
    glommio::timer::Timer::new(AHEAD).await;
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
    use crate::rt::mailbox::mailbox;
    use std::sync::{Arc, Mutex};

    #[test]
    fn shards_run_under_their_names_and_are_joined() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let config = ShardsConfig::new(3);
        let seeds = vec![seen.clone(), seen.clone(), seen.clone()];
        let shards = run_shards(&config, seeds, |context, seen| async move {
            let name = thread::current().name().map(str::to_owned);
            breathe().await;
            seen.lock().unwrap().push((context.shard, context.shard_count, name));
        })
        .unwrap();
        shards.join();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort();
        let expected: Vec<_> = (0..3).map(|shard| (shard, 3, Some(format!("shard-{shard}")))).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_task_that_breathes_lets_timers_and_mailboxes_of_its_shard_in() {
        let shards = run_shards(&ShardsConfig::new(1), vec![()], |_, ()| async move {
            let (sender, inbox) = mailbox::<()>(1).unwrap();
            let mut inbox = inbox.bind().unwrap();
            let heard = std::rc::Rc::new(std::cell::Cell::new(false));
            let hears = heard.clone();
            spawn(async move {
                inbox.recv().await;
                hears.set(true);
            });
            breathe().await;
            let teller = thread::spawn(move || sender.try_send(()).unwrap());
            // Far more breaths than the mail takes to come, far less than it would take a task that keeps the shard.
            for _ in 0..100_000 {
                if heard.get() {
                    break;
                }
                breathe().await;
            }
            assert!(heard.get(), "the mail came in while the task went on");
            teller.join().unwrap();
        });
        shards.unwrap().join();
    }

    #[test]
    fn shards_are_pinned_only_when_there_are_cores_enough() {
        let cores = available_cpus().len();
        for (count, pinned) in [(1, cores >= 1), (cores + 1, false)] {
            let shards =
                run_shards(&ShardsConfig::new(count), vec![(); count], move |context, ()| async move {
                    assert_eq!(context.cpu.is_some(), pinned);
                    if pinned {
                        assert_eq!(available_cpus().len(), 1);
                    }
                })
                .unwrap();
            shards.join();
        }
    }

    #[test]
    fn wrong_counts_are_refused() {
        let none = run_shards(&ShardsConfig::new(0), Vec::<()>::new(), |_, ()| async {});
        assert!(matches!(none, Err(ShardsError::Count { count: 0 })));
        let short = run_shards(&ShardsConfig::new(2), vec![()], |_, ()| async {});
        assert!(matches!(short, Err(ShardsError::Seeds { seeds: 1, count: 2 })));
    }

    #[test]
    fn a_ring_that_cannot_be_made_is_told_and_no_shard_runs() {
        let config = ShardsConfig { ring_depth: 1 << 20, ..ShardsConfig::new(2) };
        let error = run_shards(&config, vec![(), ()], |_, ()| async { panic!("started all the same") });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("io_uring") && !message.contains('\n'), "{message}");
    }

    const CHILD: &str = "CHRONIK_TEST_EXECUTOR_CHILD";

    #[test]
    fn a_panic_of_a_task_ends_the_process() {
        if std::env::var_os(CHILD).is_none() {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rt::executor::tests::a_panic_of_a_task_ends_the_process"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
            assert_eq!(signal, Some(libc::SIGABRT));
            return;
        }
        let shards = run_shards(&ShardsConfig::new(1), vec![()], |_, ()| async {
            spawn(async {
                breathe().await;
                panic!("a broken invariant");
            });
            sleep(Duration::from_secs(10)).await;
        });
        shards.unwrap().join();
    }

    #[test]
    fn a_plain_thread_wakes_a_shard() {
        let (sender, unbound) = mailbox::<u64>(8).unwrap();
        let total = Arc::new(Mutex::new(0));

        let result = total.clone();
        let shards = run_shards(&ShardsConfig::new(1), vec![unbound], move |_, seed| {
            let result = result.clone();
            async move {
                let mut receiver = seed.bind().unwrap();
                for _ in 0..100 {
                    *result.lock().unwrap() += receiver.recv().await;
                }
            }
        })
        .unwrap();
        for number in 0..100u64 {
            let mut message = number;
            while let Err(full) = sender.try_send(message) {
                message = full.0;
                thread::yield_now();
            }
            if number % 10 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        shards.join();
        assert_eq!(*total.lock().unwrap(), 4_950);
    }
}
