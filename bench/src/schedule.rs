//! When each message is meant to be sent. Pure arithmetic on nanoseconds since the run's base.
//!
//! Invariant: the intended time of message `k` depends on `k` and the rate alone, never on how
//! late an earlier message was. Latency counted from it shows what a user of a slow broker would
//! have waited (no coordinated omission).

use std::ops::Range;

use crate::cli::Options;

const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// How long after the window's end messages that were due in it are still sent.
pub const LATE_MAX_NS: u64 = 10_000_000_000;

/// An open-loop schedule of one client.
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    rate_per_second: u64,
    client: u64,
    client_count: u64,
    next: u64,
}

impl Schedule {
    /// The schedule of client `client` of `client_count`, which together send `rate_per_second`
    /// messages from `start_ns` on. The clients take turns, so that their sum is even.
    pub fn new(start_ns: u64, rate_per_second: u64, client: u32, client_count: u32) -> Self {
        assert!(rate_per_second > 0 && client < client_count);
        Self { start_ns, rate_per_second, client: client.into(), client_count: client_count.into(), next: 0 }
    }

    /// The schedule that `--rate-limit` asks of client `client` of `client_count`; it begins with
    /// the warm-up. None without a rate.
    pub fn of(options: &Options, window: Window, client: u32, client_count: u32) -> Option<Self> {
        let start_ns = window.start_ns - options.warmup_duration.as_nanos() as u64;
        Some(Self::new(start_ns, options.rate_limit?, client, client_count))
    }

    /// Intended time of the next message, in nanoseconds since the run's base.
    pub fn next_ns(&self) -> u64 {
        let global = u128::from(self.next * self.client_count + self.client);
        self.start_ns + (global * NANOS_PER_SECOND / u128::from(self.rate_per_second)) as u64
    }

    /// Takes the next message if its time has come.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let intended_ns = self.next_ns();
        if intended_ns > now_ns {
            return None;
        }
        self.next += 1;
        Some(intended_ns)
    }
}

/// The measured part of a run, in nanoseconds since the run's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// End of the warm-up.
    pub start_ns: u64,
    /// End of the measurement.
    pub end_ns: u64,
}

/// Where an instant lies in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the measurement.
    Warmup,
    /// In it.
    Measured,
    /// After it: only stragglers, whose latency counts and whose number does not.
    Drain,
}

impl Window {
    /// The phase of an instant. The start belongs to the measurement, the end does not.
    pub fn phase(&self, at_ns: u64) -> Phase {
        if at_ns < self.start_ns {
            Phase::Warmup
        } else if at_ns < self.end_ns {
            Phase::Measured
        } else {
            Phase::Drain
        }
    }

    /// Number of the report interval an instant lies in, counted from the start of the
    /// measurement; the warm-up's are negative.
    pub fn interval(&self, at_ns: u64, interval_ns: u64) -> i64 {
        (at_ns as i64 - self.start_ns as i64).div_euclid(interval_ns as i64)
    }
}

/// The time of a run that its report intervals share out. The first and the last of them may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length of the warm-up.
    pub warmup_ns: u64,
    /// Its end, counted from the start of the measurement; negative if the run ended in its warm-up.
    pub end_ns: i64,
    /// Length of a whole interval.
    pub interval_ns: u64,
}

/// A report interval as it was: in nanoseconds since the start of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its start, negative in the warm-up.
    pub start_ns: i64,
    /// Its end.
    pub end_ns: i64,
}

impl Extent {
    /// Length of the measurement, none if the run did not come to it.
    pub fn elapsed_ns(&self) -> u64 {
        self.end_ns.max(0) as u64
    }

    /// The intervals that took place, the first and the last at least in part.
    pub fn numbers(&self) -> Range<i64> {
        let (begin_ns, interval_ns) = (-(self.warmup_ns as i64), self.interval_ns as i64);
        let first = begin_ns.div_euclid(interval_ns);
        if self.end_ns <= begin_ns {
            first..first
        } else {
            first..(self.end_ns - 1).div_euclid(interval_ns) + 1
        }
    }

    /// Interval `number`, counted as [`Window::interval`] does.
    pub fn span(&self, number: i64) -> Span {
        let whole_ns = number * self.interval_ns as i64;
        let whole = Span { start_ns: whole_ns, end_ns: whole_ns + self.interval_ns as i64 };
        let start_ns = whole.start_ns.max(-(self.warmup_ns as i64));
        let end_ns = whole.end_ns.min(self.end_ns);
        // A sample may lie outside of both, if all it holds are failures after the last message.
        if end_ns > start_ns { Span { start_ns, end_ns } } else { whole }
    }
}

impl Span {
    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        (self.end_ns - self.start_ns) as f64 / 1e9
    }
}

/// When the next message of a client comes: at once when a task is free, or along a schedule.
pub struct Pacing {
    schedule: Option<Schedule>,
    window: Window,
}

impl Pacing {
    /// What the flags ask of client `client` of `client_count`.
    pub fn new(options: &Options, window: Window, client: u32, client_count: u32) -> Self {
        Self { schedule: Schedule::of(options, window, client, client_count), window }
    }

    /// Takes the next message if there is one for now: when it was meant to be sent.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        if self.is_over(now_ns) {
            return None;
        }
        match &mut self.schedule {
            None => Some(now_ns),
            Some(schedule) if schedule.next_ns() >= self.window.end_ns => None,
            Some(schedule) => schedule.take_due(now_ns),
        }
    }

    /// When the next message is meant to be sent, if that is settled.
    pub fn next_ns(&self) -> Option<u64> {
        self.schedule.as_ref().map(Schedule::next_ns)
    }

    /// Whether the window has no message left. Those that were due in it and could not be sent
    /// are for a while.
    pub fn is_over(&self, now_ns: u64) -> bool {
        let is_behind = self.next_ns().is_some_and(|next_ns| next_ns < self.window.end_ns);
        now_ns >= self.window.end_ns + if is_behind { LATE_MAX_NS } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn times_do_not_drift() {
        let mut schedule = Schedule::new(1_000, 3, 0, 1);
        let times: Vec<u64> = (0..7).map(|_| schedule.take_due(u64::MAX).unwrap() - 1_000).collect();
        assert_eq!(
            times,
            [0, 333_333_333, 666_666_666, 1_000_000_000, 1_333_333_333, 1_666_666_666, 2_000_000_000]
        );
    }

    #[test]
    fn a_stall_does_not_move_later_messages() {
        let mut schedule = Schedule::new(0, 1_000, 0, 1);
        assert_eq!(schedule.take_due(0), Some(0));
        assert_eq!(schedule.take_due(999_999), None);
        // A stall of ten milliseconds: ten messages are due, each at its own time.
        let due: Vec<u64> = std::iter::from_fn(|| schedule.take_due(10_000_000)).collect();
        assert_eq!(due, (1..=10).map(|k| k * 1_000_000).collect::<Vec<_>>());
    }

    #[test]
    fn clients_interleave() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|client| {
                let mut schedule = Schedule::new(0, 1_000_000, client, 4);
                std::iter::from_fn(move || schedule.take_due(99_000)).collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).map(|k| k * 1_000).collect::<Vec<_>>());
    }

    #[test]
    fn phases_and_intervals() {
        let window = Window { start_ns: 3_000, end_ns: 5_000 };
        assert_eq!(window.phase(2_999), Phase::Warmup);
        assert_eq!(window.phase(3_000), Phase::Measured);
        assert_eq!(window.phase(5_000), Phase::Drain);
        assert_eq!(window.interval(2_999, 1_000), -1);
        assert_eq!(window.interval(3_000, 1_000), 0);
        assert_eq!(window.interval(4_999, 1_000), 1);
    }

    #[test]
    fn the_first_and_the_last_interval_are_as_long_as_they_were() {
        let extent = Extent { warmup_ns: 250, end_ns: 2_500, interval_ns: 1_000 };
        let spans = [-1, 0, 1, 2].map(|number| extent.span(number)).map(|span| (span.start_ns, span.end_ns));
        assert_eq!(spans, [(-250, 0), (0, 1_000), (1_000, 2_000), (2_000, 2_500)]);
        assert_eq!(extent.span(2).seconds(), 500e-9);
        assert_eq!(extent.span(7), Span { start_ns: 7_000, end_ns: 8_000 });
        assert_eq!((extent.numbers(), extent.elapsed_ns()), (-1..3, 2_500));
    }

    #[test]
    fn a_run_that_ends_in_its_warm_up_has_no_later_interval() {
        let ended = |end_ns| Extent { warmup_ns: 4_500, end_ns, interval_ns: 1_000 };
        assert_eq!((ended(-2_750).numbers(), ended(-2_750).elapsed_ns()), (-5..-2, 0));
        assert_eq!(ended(-2_750).span(-3), Span { start_ns: -3_000, end_ns: -2_750 });
        // The end belongs to no interval.
        assert_eq!([ended(-4_000), ended(-3_999)].map(|extent| extent.numbers()), [-5..-4, -5..-3]);
        assert!(ended(-4_500).numbers().is_empty() && ended(-6_000).numbers().is_empty());
    }

    #[test]
    fn what_was_due_in_the_window_is_sent_after_it() {
        let window = Window { start_ns: 1_000_000_000, end_ns: 2_000_000_000 };
        let options = Options::parse_from(["chronik-bench", "-w", "1s", "--rate-limit", "4"]);
        let mut pacing = Pacing::new(&options, window, 0, 1);
        assert_eq!(
            (pacing.take_due(0), pacing.take_due(0), pacing.next_ns()),
            (Some(0), None, Some(250_000_000))
        );
        let late_ns = window.end_ns + LATE_MAX_NS;
        assert!(!pacing.is_over(late_ns - 1) && pacing.is_over(late_ns));
        let due = std::iter::from_fn(|| pacing.take_due(late_ns - 1)).collect::<Vec<_>>();
        assert_eq!(due, (1..8).map(|quarter| quarter * 250_000_000).collect::<Vec<_>>());
        assert!(pacing.is_over(window.end_ns) && !pacing.is_over(window.end_ns - 1));
    }

    #[test]
    fn without_a_rate_a_message_is_always_due() {
        let window = Window { start_ns: 0, end_ns: 100 };
        let mut pacing = Pacing::new(&Options::parse_from(["chronik-bench", "-w", "0s"]), window, 0, 1);
        assert_eq!((pacing.take_due(5), pacing.take_due(5), pacing.next_ns()), (Some(5), Some(5), None));
        assert!(pacing.is_over(100) && pacing.take_due(100).is_none());
    }
}
