//! How much a turn takes on, by how long turns take.
//!
//! A thousand visits to groups are a few milliseconds on a machine with cores to spare, and more than a second where a debug build gets a
//! tenth of one: longer than other nodes wait for a sign of life. So the edge measures, and a turn that takes too long is
//! followed by ones that do less, between which links and clients get theirs. Pure.

/// A turn is to take no longer than this: a fraction of the interval of the links' keepalives.
const TURN_MS: u64 = 20;

/// Visits where all goes well.
const VISITS_MAX: usize = 1024;

/// Visits however badly it goes.
const VISITS_MIN: usize = 32;

/// The pace of one shard.
#[derive(Debug)]
pub struct Pace {
    visits_max: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { visits_max: VISITS_MAX }
    }
}

impl Pace {
    /// A turn with so many visits took so long. How many the next may have.
    pub fn after(&mut self, visits: usize, took_ms: u64) -> usize {
        if took_ms > TURN_MS && visits >= VISITS_MIN {
            self.visits_max = (visits.min(self.visits_max) / 2).max(VISITS_MIN);
        } else if took_ms <= TURN_MS / 2 && visits >= self.visits_max {
            self.visits_max = (self.visits_max * 2).min(VISITS_MAX);
        }
        self.visits_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_turns_make_shorter_ones_until_they_are_short_enough() {
        let mut pace = Pace::default();
        let mut visits = 600;
        // A visit takes 0.2 ms.
        for _ in 0..10 {
            visits = pace.after(visits, visits as u64 / 5);
        }
        assert_eq!(visits, 75);
    }

    #[test]
    fn short_turns_that_were_full_make_longer_ones() {
        let mut pace = Pace { visits_max: VISITS_MIN };
        assert_eq!(pace.after(10, 0), VISITS_MIN, "it had no more to do");
        assert_eq!(pace.after(VISITS_MIN, 1), 2 * VISITS_MIN);
        (0..10).for_each(|_| {
            pace.after(VISITS_MAX, 1);
        });
        assert_eq!(pace.visits_max, VISITS_MAX);
    }

    #[test]
    fn what_takes_long_without_visits_says_nothing() {
        assert_eq!(Pace::default().after(3, 1_000), VISITS_MAX);
    }
}
