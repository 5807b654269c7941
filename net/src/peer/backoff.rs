//! How long a link waits before it tries again. Pure: randomness is passed in.

/// Bounds of the waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// After the first failure.
    pub min_ms: u64,
    /// After many.
    pub max_ms: u64,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        // A node that comes back is missed for at most half a second, and a dead one costs two connects a second.
        Self { min_ms: 20, max_ms: 500 }
    }
}

/// Doubles the wait from failure to failure, and spreads it, so that nodes that lost one another do not meet in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    next_ms: u64,
}

impl Backoff {
    /// A backoff that has seen no failure.
    #[must_use]
    pub fn new(config: BackoffConfig) -> Self {
        Self { config, next_ms: config.min_ms }
    }

    /// A try has failed: wait so many milliseconds, between half of the full wait and all of it.
    pub fn fail(&mut self, random: u64) -> u64 {
        let full_ms = self.next_ms.clamp(1, self.config.max_ms.max(1));
        self.next_ms = full_ms.saturating_mul(2);
        let half_ms = full_ms / 2;
        full_ms - random % (half_ms + 1)
    }

    /// A link has held.
    pub fn reset(&mut self) {
        self.next_ms = self.config.min_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound_and_is_spread_over_the_upper_half() {
        let mut backoff = Backoff::new(BackoffConfig { min_ms: 20, max_ms: 500 });
        let full: Vec<u64> = (0..7).map(|_| backoff.fail(0)).collect();
        assert_eq!(full, [20, 40, 80, 160, 320, 500, 500]);
        for random in [0, 1, 249, 250, 251, u64::MAX] {
            assert!((250..=500).contains(&backoff.fail(random)));
        }
        assert_ne!(backoff.fail(3), backoff.fail(77));
        backoff.reset();
        assert_eq!(backoff.fail(10), 10);
    }

    #[test]
    fn senseless_bounds_still_wait() {
        let mut backoff = Backoff::new(BackoffConfig { min_ms: 0, max_ms: 0 });
        assert_eq!(backoff.fail(u64::MAX), 1);
    }
}
