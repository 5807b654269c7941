//! The thread that waits while others measure: progress, the broker's usage, and the exact length of what was measured.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::Result;

use super::{Event, Run};
use crate::cli::Options;
use crate::interrupt;
use crate::live::Live;
use crate::proc::Usage;
use crate::progress::Progress;
use crate::schedule::{Extent, Span, Window};
use crate::stats::Totals;

/// How late after an interval's end its line is printed, so that all threads have reported.
const LINE_DELAY_NS: u64 = 50_000_000;

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
        let extent = self.extent(self.end_ns(now_ns));
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
            let whole = self.extent((window.end_ns - window.start_ns) as i64);
            self.tell_interval(whole.span(self.next_line));
        }
    }

    /// Tells what came after the last whole interval.
    fn tell_rest(&mut self, extent: Extent) {
        while self.next_line < extent.numbers().end {
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

    fn extent(&self, end_ns: i64) -> Extent {
        Extent { warmup_ns: self.run.durations_ns.0, end_ns, interval_ns: self.run.interval_ns }
    }

    /// The run's exact end, counted from the start of the measurement, known now that all threads are done.
    fn end_ns(&self, now_ns: u64) -> i64 {
        // What has not begun has not come to its warm-up.
        let Some(window) = self.window else { return -(self.run.durations_ns.0 as i64) };
        let at_last_record = self.run.at_last_record.load(Ordering::Acquire);
        let ended_early = self.run.stopped() || self.run.count_reached() || at_last_record;
        let last_ns = self.totals.measured.last_ns;
        let end_ns = match self.run.interrupted_ns() {
            Some(at_ns) if !at_last_record || last_ns == 0 => {
                // Also in the warm-up what is completed after the signal takes its time.
                let completed_ns = self.totals.intervals.values().map(|sample| sample.last_ns).max();
                at_ns.max(completed_ns.unwrap_or(0)).min(window.end_ns)
            }
            _ if ended_early && last_ns > 0 => last_ns,
            _ if ended_early => now_ns.min(window.end_ns),
            _ => window.end_ns,
        };
        end_ns as i64 - window.start_ns as i64
    }

    fn read_usage(&self) -> Option<Usage> {
        Usage::read(self.options.broker_pid?).ok()
    }

    fn measurement(mut self, extent: Extent) -> Measurement {
        let end_of_usage = self.usage.1.take().or_else(|| self.read_usage());
        Measurement {
            elapsed_ns: extent.elapsed_ns(),
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
    use crate::stats::Part;

    /// The lengths of the intervals of a run whose messages were completed at these milliseconds of the measurement.
    fn measured(arguments: &[&str], ends: impl Fn(&Run), completed_ms: &[i64]) -> Measurement {
        let options = Options::parse_from(["chronik-bench"].iter().chain(arguments));
        let (sender, events) = mpsc::channel();
        let run = Run::new(&options, sender);
        let window = run.begin();
        let mut recorder = run.recorder(Part::Main, window);
        for at_ms in completed_ms {
            let at_ns = window.start_ns.saturating_add_signed(at_ms * 1_000_000);
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
    fn a_run_that_ends_in_its_warm_up_ends_before_its_measurement() {
        let line = ["-w", "60s", "-d", "60s"];
        for ends in [Run::interrupt, Run::stop] {
            let early = measured(&line, ends, &[]);
            assert!(early.elapsed_ns == 0 && early.extent.end_ns < 0, "{:?}", early.extent);
        }
        let drained = measured(&line, Run::interrupt, &[-30_000]);
        assert_eq!((drained.elapsed_ns, drained.extent.end_ns), (0, -30_000_000_000));
    }

    #[test]
    fn no_line_is_of_an_interval_after_the_end() {
        let options = Options::parse_from(["chronik-bench", "-w", "60s"]);
        let run = Run::new(&options, mpsc::channel().0);
        let mut reporter = Reporter::new(&options, &run, None);
        reporter.next_line = -60;
        reporter.tell_rest(reporter.extent(-57_500_000_000));
        assert_eq!(reporter.next_line, -57);
    }
}
