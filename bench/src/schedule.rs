//! When each message is meant to be sent. Pure arithmetic on nanoseconds since the run's base.
//!
//! Invariant: the intended time of message `k` depends on `k` and the rate alone, never on how
//! late an earlier message was. Latency counted from it shows what a user of a slow broker would
//! have waited (no coordinated omission).

const NANOS_PER_SECOND: u128 = 1_000_000_000;

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

#[cfg(test)]
mod tests {
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
}
