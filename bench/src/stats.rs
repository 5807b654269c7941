//! What was measured. Each thread owns one [`Recorder`] and shares nothing: at the end of every
//! report interval it hands the interval's [`Sample`] over and begins an empty one. The reporter
//! merges samples into [`Totals`]. No lock, no dropped value, no clock in here.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::schedule::{Phase, Window};

/// Latencies above an hour are recorded as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Three significant digits: an error of at most one in a thousand.
const SIGNIFICANT_DIGITS: u8 = 3;

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).expect("constant bounds are valid")
}

/// What a recorder measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the mode is about.
    Main,
    /// What goes on beside it and is reported on its own: the acknowledgements while end-to-end latency is measured,
    /// deletions, connects.
    Beside,
}

/// What one thread saw in one report interval.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it measures.
    pub part: Part,
    /// Phase of the completions in it.
    pub phase: Phase,
    /// Interval, counted from the start of the measurement.
    pub interval: i64,
    /// Completions.
    pub message_count: u64,
    /// Bytes of their values.
    pub byte_count: u64,
    /// Messages that failed.
    pub failure_count: u64,
    /// Instant of the last completion, nanoseconds since the run's base.
    pub last_ns: u64,
    /// Latencies in microseconds, of messages whose intended time is not in an earlier phase
    /// than the sample's (the drain takes those of the measurement).
    pub latency_us: Histogram<u64>,
}

impl Sample {
    fn new(part: Part, phase: Phase, interval: i64) -> Self {
        Self {
            part,
            phase,
            interval,
            message_count: 0,
            byte_count: 0,
            failure_count: 0,
            last_ns: 0,
            latency_us: histogram(),
        }
    }

    fn is_empty(&self) -> bool {
        self.message_count == 0 && self.failure_count == 0 && self.latency_us.is_empty()
    }

    fn merge(&mut self, other: &Sample) {
        self.message_count += other.message_count;
        self.byte_count += other.byte_count;
        self.failure_count += other.failure_count;
        self.last_ns = self.last_ns.max(other.last_ns);
        self.latency_us.add(&other.latency_us).expect("histograms have the same bounds");
    }
}

/// The measurements of one thread.
pub struct Recorder {
    window: Window,
    interval_ns: u64,
    current: Sample,
    send: Box<dyn FnMut(Sample) + Send>,
}

impl Recorder {
    /// A recorder of `part` that hands finished samples to `send`.
    pub fn new(
        part: Part,
        window: Window,
        interval_ns: u64,
        send: impl FnMut(Sample) + Send + 'static,
    ) -> Self {
        let current = Sample::new(part, window.phase(0), window.interval(0, interval_ns));
        Self { window, interval_ns, current, send: Box::new(send) }
    }

    /// A message that was meant for `intended_ns` is complete at `now_ns`.
    pub fn complete(&mut self, now_ns: u64, intended_ns: u64, byte_count: usize) {
        self.complete_with_latency(now_ns, intended_ns, now_ns.saturating_sub(intended_ns), byte_count);
    }

    /// As [`Recorder::complete`], with a latency measured on another clock.
    pub fn complete_with_latency(
        &mut self,
        now_ns: u64,
        intended_ns: u64,
        latency_ns: u64,
        byte_count: usize,
    ) {
        self.advance(now_ns);
        self.current.message_count += 1;
        self.current.byte_count += byte_count as u64;
        self.current.last_ns = now_ns;
        let counted = match self.current.phase {
            Phase::Warmup => true,
            Phase::Measured | Phase::Drain => self.window.phase(intended_ns) != Phase::Warmup,
        };
        if counted {
            self.current.latency_us.saturating_record(latency_ns / 1_000);
        }
    }

    /// A message failed at `now_ns`.
    pub fn fail(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.current.failure_count += 1;
    }

    /// Time passes: a finished interval is handed over.
    pub fn advance(&mut self, now_ns: u64) {
        let phase = self.window.phase(now_ns);
        let interval = self.window.interval(now_ns, self.interval_ns);
        if interval == self.current.interval && phase == self.current.phase {
            return;
        }
        let next = Sample::new(self.current.part, phase, interval);
        let finished = std::mem::replace(&mut self.current, next);
        self.hand_over(finished);
    }

    /// Hands the last sample over.
    pub fn finish(mut self) {
        let empty = Sample::new(self.current.part, Phase::Drain, 0);
        let last = std::mem::replace(&mut self.current, empty);
        self.hand_over(last);
    }

    fn hand_over(&mut self, sample: Sample) {
        if !sample.is_empty() {
            (self.send)(sample);
        }
    }
}

/// All samples of a run, merged.
pub struct Totals {
    /// The measured phase; latencies include those of the drain.
    pub measured: Sample,
    /// The same of what goes on beside it. Empty in modes that have no such thing.
    pub beside: Sample,
    /// Completions after the end of the measurement, which throughput leaves out.
    pub drained_count: u64,
    /// Failures in any phase.
    pub failure_count: u64,
    /// Measured intervals for the time line.
    pub intervals: BTreeMap<i64, Sample>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            measured: Sample::new(Part::Main, Phase::Measured, 0),
            beside: Sample::new(Part::Beside, Phase::Measured, 0),
            drained_count: 0,
            failure_count: 0,
            intervals: BTreeMap::new(),
        }
    }
}

impl Totals {
    /// Adds a thread's sample.
    pub fn add(&mut self, sample: &Sample) {
        self.failure_count += sample.failure_count;
        let is_main = sample.part == Part::Main;
        let total = if is_main { &mut self.measured } else { &mut self.beside };
        match sample.phase {
            Phase::Measured => total.merge(sample),
            Phase::Drain => {
                total.latency_us.add(&sample.latency_us).expect("histograms have the same bounds");
                self.drained_count += if is_main { sample.message_count } else { 0 };
            }
            Phase::Warmup => {}
        }
        if is_main && sample.phase != Phase::Drain {
            let fresh = || Sample::new(Part::Main, sample.phase, sample.interval);
            self.intervals.entry(sample.interval).or_insert_with(fresh).merge(sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const WINDOW: Window = Window { start_ns: 1_000_000, end_ns: 3_000_000 };

    fn run(events: &[(u64, u64)]) -> (Vec<Sample>, Totals) {
        let (sender, receiver) = mpsc::channel();
        record(Part::Main, sender, events);
        let samples: Vec<Sample> = receiver.iter().collect();
        let mut totals = Totals::default();
        samples.iter().for_each(|sample| totals.add(sample));
        (samples, totals)
    }

    fn record(part: Part, sender: mpsc::Sender<Sample>, events: &[(u64, u64)]) {
        let send = move |sample| sender.send(sample).unwrap();
        let mut recorder = Recorder::new(part, WINDOW, 1_000_000, send);
        for &(now_ns, intended_ns) in events {
            recorder.complete(now_ns, intended_ns, 10);
        }
        recorder.finish();
    }

    #[test]
    fn what_goes_on_beside_is_counted_on_its_own() {
        let (sender, receiver) = mpsc::channel();
        record(Part::Main, sender.clone(), &[(1_500_000, 1_400_000)]);
        record(Part::Beside, sender, &[(1_500_000, 1_000_000), (9_000_000, 1_000_000)]);
        let mut totals = Totals::default();
        receiver.iter().for_each(|sample| totals.add(&sample));
        assert_eq!((totals.measured.message_count, totals.measured.latency_us.max()), (1, 100));
        assert_eq!((totals.beside.message_count, totals.beside.latency_us.len()), (1, 2));
        assert_eq!(totals.drained_count, 0);
        assert_eq!(totals.intervals.values().map(|s| s.message_count).sum::<u64>(), 1);
    }

    #[test]
    fn the_warm_up_is_not_counted() {
        let (_, totals) =
            run(&[(500_000, 400_000), (999_999, 0), (1_000_000, 1_000_000), (2_500_000, 2_000_000)]);
        assert_eq!(totals.measured.message_count, 2);
        assert_eq!(totals.measured.byte_count, 20);
        assert_eq!(totals.measured.latency_us.len(), 2);
        assert_eq!(totals.measured.latency_us.max(), 500);
        assert_eq!(totals.measured.last_ns, 2_500_000);
    }

    #[test]
    fn stragglers_count_in_latency_and_not_in_throughput() {
        let (_, totals) = run(&[(1_500_000, 1_400_000), (9_000_000, 2_000_000)]);
        assert_eq!(totals.measured.message_count, 1);
        assert_eq!(totals.drained_count, 1);
        assert_eq!(totals.measured.latency_us.len(), 2);
        assert!(totals.measured.latency_us.max() >= 7_000 - 7);
    }

    #[test]
    fn a_message_of_the_warm_up_counts_in_throughput_only() {
        let (_, totals) = run(&[(1_500_000, 900_000)]);
        assert_eq!((totals.measured.message_count, totals.measured.latency_us.len()), (1, 0));
    }

    #[test]
    fn merging_loses_nothing() {
        let mut totals = Totals::default();
        for thread in 0..4_u64 {
            let events: Vec<(u64, u64)> =
                (0..1_000).map(|k| (1_000_000 + k * 1_900 + thread, 1_000_000)).collect();
            run(&events).0.iter().for_each(|sample| totals.add(sample));
        }
        assert_eq!(totals.measured.message_count, 4_000);
        assert_eq!(totals.measured.latency_us.len(), 4_000);
        assert_eq!(totals.intervals.values().map(|s| s.message_count).sum::<u64>(), 4_000);
        assert_eq!(totals.intervals.len(), 2);
    }

    #[test]
    fn what_is_too_long_is_recorded_as_the_longest() {
        let (_, totals) = run(&[(u64::MAX / 4, 1_500_000)]);
        assert_eq!(totals.measured.latency_us.len(), 1);
    }
}
