//! The safety timer: no wake-up of a shard is later than its interval.
//!
//! glommio can park although tasks are runnable (DESIGN.md, Runtime). A timer of the shard ends any such sleep:
//! it runs every [`ACTIVE_INTERVAL_MS`] while something is outstanding or was a moment ago, and every
//! [`QUIET_INTERVAL_MS`] otherwise, so that an idle shard costs nothing and yet never hangs for ever.
//! Lives on each shard started by [`super::executor::run_shards`]; all state is the shard's own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use glommio::timer::Timer;

use super::clock;
use super::event::Event;

/// Interval while something is outstanding: half of the 20 ms that no wake-up may exceed.
pub const ACTIVE_INTERVAL_MS: u64 = 10;
/// Interval on a shard at rest: a backstop against what nobody has thought of.
pub const QUIET_INTERVAL_MS: u64 = 1_000;
/// Active intervals without anything outstanding before the timer slows down: starting it again costs a task run,
/// which a busy shard should not pay for each request.
const CALM_INTERVALS: u32 = 10;
/// A wake-up later than this, past a tick of the timer, is counted as the timer's doing.
const PROMPT_NS: u64 = 1_000_000;

#[derive(Default)]
struct Timekeeper {
    outstanding: Cell<usize>,
    /// Set by any activity since the last tick.
    touched: Cell<bool>,
    quiet: Cell<bool>,
    /// When the timer that runs now is due, monotonic nanoseconds.
    due_ns: Cell<u64>,
    rescues: Cell<u64>,
    ticks: Cell<u64>,
    worst_tick_late_ns: Cell<u64>,
    restart: Event,
}

thread_local! {
    static TIMEKEEPER: RefCell<Option<Rc<Timekeeper>>> = const { RefCell::new(None) };
}

fn with<R>(act: impl FnOnce(&Rc<Timekeeper>) -> R) -> Option<R> {
    TIMEKEEPER.with(|cell| cell.borrow().as_ref().map(act))
}

/// Counters of the shard's safety timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SafetyStats {
    /// Ticks of the timer.
    pub ticks: u64,
    /// Wake-ups of a mailbox that came only after a tick although the bell had rung over a millisecond before it.
    /// An upper bound of the wake-ups that the runtime lost: a shard that gets no CPU counts here as well.
    pub rescues: u64,
    /// The latest tick, in nanoseconds past its time: how long the shard was kept from its loop, by a task that did not
    /// yield or by a machine that gave it no CPU.
    pub worst_tick_late_ns: u64,
}

/// Counters of the calling shard's timer.
#[must_use]
pub fn stats() -> SafetyStats {
    with(|keeper| SafetyStats {
        ticks: keeper.ticks.get(),
        rescues: keeper.rescues.get(),
        worst_tick_late_ns: keeper.worst_tick_late_ns.get(),
    })
    .unwrap_or_default()
}

/// While it lives, the shard's safety timer runs at its short interval.
#[derive(Debug)]
pub struct Outstanding {
    _private: (),
}

/// Says that something of this shard is outstanding: a request, an IO, an answer of another shard.
#[must_use]
pub fn outstanding() -> Outstanding {
    with(|keeper| {
        keeper.outstanding.set(keeper.outstanding.get() + 1);
        keeper.touch();
    });
    Outstanding { _private: () }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        with(|keeper| keeper.outstanding.set(keeper.outstanding.get().saturating_sub(1)));
    }
}

impl Timekeeper {
    fn touch(&self) {
        self.touched.set(true);
        if self.quiet.get() {
            self.restart.notify();
        }
    }
}

/// A mailbox woke: its bell had been rung at `rung_ns`, and it is `now_ns`.
pub(super) fn note_wake(rung_ns: u64, now_ns: u64) {
    with(|keeper| {
        keeper.touch();
        let due_ns = keeper.due_ns.get();
        if rung_ns + PROMPT_NS < due_ns && due_ns <= now_ns {
            keeper.rescues.set(keeper.rescues.get() + 1);
        }
    });
}

/// Starts the timer of the calling shard; it ends with the executor.
pub(super) fn start() {
    let keeper = Rc::new(Timekeeper::default());
    TIMEKEEPER.with(|cell| *cell.borrow_mut() = Some(keeper.clone()));
    glommio::spawn_local(run(keeper)).detach();
}

async fn run(keeper: Rc<Timekeeper>) {
    let mut calm_intervals = 0;
    loop {
        let quiet = calm_intervals >= CALM_INTERVALS;
        keeper.quiet.set(quiet);
        let interval_ms = if quiet { QUIET_INTERVAL_MS } else { ACTIVE_INTERVAL_MS };
        keeper.due_ns.set(clock::monotonic_ns() + interval_ms * 1_000_000);
        let tick = async {
            Timer::new(Duration::from_millis(interval_ms)).await;
        };
        if quiet {
            future::or(tick, keeper.restart.wait()).await;
        } else {
            tick.await;
        }
        keeper.ticks.set(keeper.ticks.get() + 1);
        let late_ns = clock::monotonic_ns().saturating_sub(keeper.due_ns.get());
        keeper.worst_tick_late_ns.set(keeper.worst_tick_late_ns.get().max(late_ns));
        let active = keeper.touched.take() || keeper.outstanding.get() > 0;
        calm_intervals = if active { 0 } else { calm_intervals.saturating_add(1) };
    }
}
