//! One run: its clock, its measured window, and the reporter that waits while threads measure.
//!
//! The window's end is an instant fixed in advance, not the moment somebody noticed it; it moves
//! only when `--message-count` or the end of a topic stops the run earlier.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::cli::Options;
use crate::interrupt;
use crate::live::Live;
use crate::proc::Usage;
use crate::progress::Progress;
use crate::schedule::{Extent, Span, Window};
use crate::stats::{Part, Recorder, Sample, Totals};

/// How late after an interval's end its line is printed, so that all threads have reported.
const LINE_DELAY_NS: u64 = 50_000_000;

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

/// What a run measured.
pub struct Measurement {
    /// All samples.
    pub totals: Totals,
    /// Exact length of what throughput is divided by.
    pub elapsed_ns: u64,
    /// The time that its intervals share out.
    pub extent: Extent,
    /// A signal ended it.
    pub is_interrupted: bool,
    /// The broker's use of the machine at the measurement's start and end.
    pub usage: Option<(Usage, Usage)>,
}

/// The thread that waits, prints progress and merges.
pub struct Reporter<'a> {
    options: &'a Options,
    run: Arc<Run>,
    totals: Totals,
    progress: Progress,
    live: Option<&'a Live>,
    window: Option<Window>,
    usage: (Option<Usage>, Option<Usage>),
    next_line: i64,
    /// Whether a signal ends the run.
    heeds_signals: bool,
}

impl<'a> Reporter<'a> {
    /// A reporter of `run`, which also tells `live` what it hears.
    pub fn new(options: &'a Options, run: &Arc<Run>, live: Option<&'a Live>) -> Self {
        Self {
            options,
            run: Arc::clone(run),
            totals: Totals::default(),
            progress: Progress::new(options),
            live,
            window: None,
            usage: (None, None),
            next_line: 0,
            heeds_signals: true,
        }
    }

    /// The run goes to its end although a signal asks for another one, which is for what cleans up.
    pub fn until_done(self) -> Self {
        Self { heeds_signals: false, ..self }
    }

    /// Waits until `thread_count` threads are done.
    pub fn wait(mut self, events: &Receiver<Event>, thread_count: usize) -> Result<Measurement> {
        let mut running = thread_count;
        let mut failure = None;
        while running > 0 {
            if self.heeds_signals && self.run.interrupted_ns().is_none() && interrupt::asked() {
                self.run.interrupt();
                self.progress
                    .say("interrupted: what is on its way comes to its end; once more ends all at once");
            }
            match events.recv_timeout(self.until_next()) {
                Ok(Event::Begun(window)) => self.begun(window),
                Ok(Event::Sample(sample)) => {
                    self.totals.add(&sample);
                    self.live.inspect(|live| live.add(&sample));
                }
                Ok(Event::Done(result)) => {
                    running -= 1;
                    if let Err(error) = result {
                        self.run.stop();
                        failure = failure.or(Some(error));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.on_time(self.run.clock.now_ns());
        }
        let now_ns = self.run.clock.now_ns();
        self.on_time(now_ns);
        let extent = self.extent(self.elapsed_ns(now_ns));
        self.tell_rest(extent);
        self.progress.finish();
        match failure {
            Some(error) => Err(error),
            None => Ok(self.measurement(extent)),
        }
    }

    fn begun(&mut self, window: Window) {
        self.window = Some(window);
        self.next_line = window.interval(self.run.clock.now_ns(), self.run.interval_ns);
    }

    fn line_due_ns(&self, window: Window) -> u64 {
        let end = (self.next_line + 1) * self.run.interval_ns as i64 + window.start_ns as i64;
        end.max(0) as u64 + LINE_DELAY_NS
    }

    fn until_next(&self) -> Duration {
        let Some(window) = self.window else { return Duration::from_millis(100) };
        let now_ns = self.run.clock.now_ns();
        let mut next_ns = self.line_due_ns(window);
        if next_ns <= now_ns {
            // No line is left to print.
            next_ns = now_ns + 100_000_000;
        }
        for at_ns in [window.start_ns, window.end_ns] {
            if at_ns > now_ns {
                next_ns = next_ns.min(at_ns);
            }
        }
        Duration::from_nanos(next_ns.saturating_sub(now_ns).min(100_000_000))
    }

    fn on_time(&mut self, now_ns: u64) {
        let Some(window) = self.window else { return };
        if self.usage.0.is_none() && now_ns >= window.start_ns {
            self.usage.0 = self.read_usage();
        }
        let ended = now_ns >= window.end_ns || self.run.stopped() || self.run.count_reached();
        if self.usage.1.is_none() && ended {
            self.usage.1 = self.read_usage();
        }
        // The last interval of a run that ended early is told when its end is known.
        let ended_early = self.run.stopped() || self.run.count_reached();
        while now_ns >= self.line_due_ns(window) && !ended_early {
            if self.line_due_ns(window) - LINE_DELAY_NS > window.end_ns {
                break;
            }
            self.tell_interval(self.extent(window.end_ns - window.start_ns).span(self.next_line));
        }
    }

    /// Tells what came after the last whole interval.
    fn tell_rest(&mut self, extent: Extent) {
        while self.next_line * (extent.interval_ns as i64) < extent.elapsed_ns as i64 {
            self.tell_interval(extent.span(self.next_line));
        }
    }

    /// Tells of the next interval, which was so long.
    fn tell_interval(&mut self, span: Span) {
        let empty = Totals::default().measured;
        let sample = self.totals.intervals.get(&self.next_line).unwrap_or(&empty);
        self.progress.interval(span, sample);
        self.live.inspect(|live| live.interval(span, sample));
        self.next_line += 1;
    }

    fn extent(&self, elapsed_ns: u64) -> Extent {
        Extent { warmup_ns: self.run.durations_ns.0, elapsed_ns, interval_ns: self.run.interval_ns }
    }

    /// The exact length of the measurement, known now that all threads are done.
    fn elapsed_ns(&self, now_ns: u64) -> u64 {
        let Some(window) = self.window else { return 0 };
        let at_last_record = self.run.at_last_record.load(Ordering::Acquire);
        let ended_early = self.run.stopped() || self.run.count_reached() || at_last_record;
        let last_ns = self.totals.measured.last_ns;
        let end_ns = match self.run.interrupted_ns() {
            Some(at_ns) if !at_last_record || last_ns == 0 => at_ns.max(last_ns).min(window.end_ns),
            _ if ended_early && last_ns > 0 => last_ns,
            _ if ended_early => now_ns.min(window.end_ns),
            _ => window.end_ns,
        };
        end_ns.saturating_sub(window.start_ns)
    }

    fn read_usage(&self) -> Option<Usage> {
        Usage::read(self.options.broker_pid?).ok()
    }

    fn measurement(mut self, extent: Extent) -> Measurement {
        let end_of_usage = self.usage.1.take().or_else(|| self.read_usage());
        Measurement {
            elapsed_ns: extent.elapsed_ns,
            extent,
            is_interrupted: self.run.interrupted_ns().is_some(),
            totals: self.totals,
            usage: self.usage.0.zip(end_of_usage),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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

    /// The lengths of the intervals of a run whose messages were completed at these milliseconds of the measurement.
    fn measured(arguments: &[&str], ends: impl Fn(&Run), completed_ms: &[u64]) -> Measurement {
        let (run, events) = run(arguments);
        let options = Options::parse_from(["chronik-bench"].iter().chain(arguments));
        let window = run.begin();
        let mut recorder = run.recorder(Part::Main, window);
        for at_ms in completed_ms {
            let at_ns = window.start_ns + at_ms * 1_000_000;
            recorder.complete(at_ns, at_ns, 1);
        }
        recorder.finish();
        ends(&run);
        run.tell(Event::Done(Ok(())));
        Reporter::new(&options, &run, None).wait(&events, 1).unwrap()
    }

    #[test]
    fn the_last_interval_is_as_long_as_it_was() {
        let counted = measured(&["-w", "0", "-d", "60s", "-n", "3"], |run| run.stop(), &[100, 1_200, 2_250]);
        assert_eq!((counted.elapsed_ns, counted.is_interrupted), (2_250_000_000, false));
        assert_eq!(counted.extent.span(2).seconds(), 0.25);
        let whole = measured(&["-w", "250ms", "-d", "2500ms"], |_| (), &[100]);
        assert_eq!(whole.elapsed_ns, 2_500_000_000);
        assert_eq!([-1, 1, 2].map(|number| whole.extent.span(number).seconds()), [0.25, 1.0, 0.5]);
    }

    #[test]
    fn an_interruption_ends_the_measurement_when_it_comes() {
        let early = measured(&["-w", "0", "-d", "60s"], Run::interrupt, &[]);
        assert!(early.is_interrupted && early.elapsed_ns < 60_000_000_000);
        let stopped = measured(&["-w", "0", "-d", "60s"], Run::stop, &[]);
        assert!(!stopped.is_interrupted && stopped.elapsed_ns < 60_000_000_000);
        // What was completed after it counts, and so does its time.
        let drained = measured(&["-w", "0", "-d", "60s"], Run::interrupt, &[2_000]);
        assert_eq!(drained.elapsed_ns, 2_000_000_000);
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
