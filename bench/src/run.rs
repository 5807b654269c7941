//! One run: its clock, its measured window, and (in `reporter`) who waits while threads measure.
//!
//! The window's end is an instant fixed in advance, not the moment somebody noticed it; it moves
//! only when `--message-count` or the end of a topic stops the run earlier.

mod reporter;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

pub use self::reporter::{Measurement, Reporter};
use crate::cli::Options;
use crate::schedule::Window;
use crate::stats::{Part, Recorder, Sample};

/// Instants as nanoseconds since the run's base, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
    base_wall_ns: u64,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: Instant::now(), base_wall_ns: wall.as_nanos() as u64 }
    }

    /// Nanoseconds since the base.
    pub fn now_ns(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    /// An instant as wall-clock nanoseconds since 1970.
    pub fn wall_ns(&self, at_ns: u64) -> u64 {
        self.base_wall_ns + at_ns
    }

    /// The instant of a wall-clock time, such as a message's header names; the base if it lies before it.
    pub fn intended_ns(&self, wall_ns: u64) -> u64 {
        wall_ns.saturating_sub(self.base_wall_ns)
    }
}

/// Starts a measuring thread.
pub fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    thread::Builder::new().name(name).spawn(work).context("cannot start a thread")
}

/// What measuring threads tell the reporter.
pub enum Event {
    /// The window is known.
    Begun(Window),
    /// A thread's sample.
    Sample(Box<Sample>),
    /// A thread is done. With an error if it could not go on.
    Done(Result<()>),
}

/// What all threads of a run share.
pub struct Run {
    /// The run's clock.
    pub clock: Clock,
    /// Number that marks this run's messages.
    pub id: u64,
    /// Duration of the warm-up and of the measurement.
    durations_ns: (u64, u64),
    interval_ns: u64,
    message_count: Option<u64>,
    begin_ns: AtomicU64,
    measured_count: AtomicU64,
    stop: AtomicBool,
    /// When a signal ended it, if one did.
    interrupted_ns: AtomicU64,
    at_last_record: AtomicBool,
    /// Producers that are not done yet, for consumers that read what these write.
    producers_left: AtomicU32,
    /// Readers whose end is the end of the run, if the run was told of them.
    readers_left: AtomicI64,
    events: Sender<Event>,
}

const NEVER: u64 = u64::MAX;

impl Run {
    /// A run that has not begun. Its threads report through `events`.
    pub fn new(options: &Options, events: Sender<Event>) -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::start(),
            id: rand::random(),
            durations_ns: (options.warmup_duration.as_nanos() as u64, options.duration.as_nanos() as u64),
            interval_ns: u64::from(options.report_interval_secs) * 1_000_000_000,
            message_count: options.message_count,
            begin_ns: AtomicU64::new(NEVER),
            measured_count: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            interrupted_ns: AtomicU64::new(NEVER),
            at_last_record: AtomicBool::new(false),
            producers_left: AtomicU32::new(0),
            readers_left: AtomicI64::new(0),
            events,
        })
    }

    /// Begins the warm-up now, unless another thread has; returns the window.
    pub fn begin(&self) -> Window {
        let now_ns = self.clock.now_ns();
        let first = self.begin_ns.compare_exchange(NEVER, now_ns, Ordering::AcqRel, Ordering::Acquire);
        let begin_ns = first.err().unwrap_or(now_ns);
        let start_ns = begin_ns + self.durations_ns.0;
        let window = Window { start_ns, end_ns: start_ns + self.durations_ns.1 };
        if first.is_ok() {
            self.tell(Event::Begun(window));
        }
        window
    }

    /// True once any thread has begun.
    pub fn has_begun(&self) -> bool {
        self.begin_ns.load(Ordering::Acquire) != NEVER
    }

    /// A recorder of `part` that reports to this run's reporter.
    pub fn recorder(&self, part: Part, window: Window) -> Recorder {
        let events = self.events.clone();
        // The reporter outlives the threads; a send that fails has nobody to tell.
        Recorder::new(part, window, self.interval_ns, move |sample| {
            let _ = events.send(Event::Sample(Box::new(sample)));
        })
    }

    /// Sends an event to the reporter.
    pub fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Whether one more message meant for `intended_ns` may be sent, or be counted on receipt.
    /// Counts it if `--message-count` limits the run.
    pub fn admit(&self, window: Window, intended_ns: u64) -> bool {
        if intended_ns >= window.end_ns || self.stopped() {
            return false;
        }
        let Some(limit) = self.message_count else { return true };
        intended_ns < window.start_ns || self.measured_count.fetch_add(1, Ordering::Relaxed) < limit
    }

    /// True when `--message-count` was reached.
    pub fn count_reached(&self) -> bool {
        self.message_count.is_some_and(|limit| self.measured_count.load(Ordering::Relaxed) >= limit)
    }

    /// True when no further message of the window will be sent: it is over, or the run is.
    pub fn ended(&self, window: Window) -> bool {
        self.clock.now_ns() >= window.end_ns || self.stopped() || self.count_reached()
    }

    /// Elapsed time ends with the last record: the topic had no more.
    pub fn end_at_last_record(&self) {
        self.at_last_record.store(true, Ordering::Release);
    }

    /// So many producers are about to start.
    pub fn producers_start(&self, count: u32) {
        self.producers_left.fetch_add(count, Ordering::AcqRel);
    }

    /// A producer has an answer for all that it has sent, or waits for it no longer.
    pub fn producer_ended(&self) {
        self.producers_left.fetch_sub(1, Ordering::AcqRel);
    }

    /// True when all producers that were started have ended.
    pub fn all_produced(&self) -> bool {
        self.producers_left.load(Ordering::Acquire) == 0
    }

    /// The run ends when so many readers have: producers that go on meanwhile stop then.
    pub fn stop_after_readers(&self, count: usize) {
        self.readers_left.store(count as i64, Ordering::Release);
    }

    /// A reader has read all that it was to read.
    pub fn reader_ended(&self) {
        if self.readers_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop();
        }
    }

    /// Ends the run early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// A signal asks for the end.
    fn interrupt(&self) {
        self.interrupted_ns.store(self.clock.now_ns(), Ordering::Release);
        self.stop();
    }

    /// When a signal asked for the end, if one did.
    fn interrupted_ns(&self) -> Option<u64> {
        Some(self.interrupted_ns.load(Ordering::Acquire)).filter(|at_ns| *at_ns != NEVER)
    }

    /// True when the run was ended early.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver};

    use clap::Parser;

    use super::*;

    fn run(arguments: &[&str]) -> (Arc<Run>, Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        let line = ["chronik-bench"].iter().chain(arguments);
        (Run::new(&Options::parse_from(line), sender), receiver)
    }

    #[test]
    fn the_window_is_that_of_the_first_to_begin() {
        let (run, events) = run(&["-w", "3s", "-d", "10s"]);
        assert!(!run.has_begun());
        let window = run.begin();
        assert_eq!(window.end_ns - window.start_ns, 10_000_000_000);
        assert_eq!(run.begin(), window);
        assert!(matches!(events.try_recv(), Ok(Event::Begun(w)) if w == window));
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn the_message_count_limits_what_is_measured_and_not_the_warm_up() {
        let (run, _events) = run(&["-n", "2", "-w", "1s"]);
        let window = run.begin();
        assert!((0..5).all(|_| run.admit(window, window.start_ns - 1)));
        let admitted = (0..5).filter(|_| run.admit(window, window.start_ns)).count();
        assert_eq!(admitted, 2);
        assert!(run.count_reached());
        assert!(!run.admit(window, window.end_ns));
    }
}
