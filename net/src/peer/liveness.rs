//! When to say "I am here", and when to stop believing that the other side is. Pure.
//!
//! Both sides of a connection send something at least every two keepalive intervals, whatever the other does; both
//! end it when nothing has come for the time-out. A side that does not read because its shard is busy still sends, so
//! back-pressure is never mistaken for death.
//!
//! Connections of a shard tick together, at multiples of the interval: idle links wake it once for all of them.

/// The times of a link's liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// How often it is looked whether something has been sent since the last time.
    pub keepalive_ms: u64,
    /// Silence after which the other side counts as gone.
    pub timeout_ms: u64,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        // Twice the election timeout of 300 ms: a process that is killed is noticed at once by its closed sockets;
        // this is for one that stands still, or a cut network, and must not fire because a busy machine stalls a shard.
        Self { keepalive_ms: 100, timeout_ms: 600 }
    }
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Send a keepalive.
    Keepalive,
    /// The other side has been silent for too long: end the connection.
    Silent,
}

/// The liveness of one connection.
#[derive(Clone, Debug)]
pub struct Liveness {
    config: LivenessConfig,
    heard_ms: u64,
    sent_ms: u64,
    ticked_ms: u64,
    due_ms: u64,
}

impl Liveness {
    /// A connection that has just been heard from.
    #[must_use]
    pub fn new(config: LivenessConfig, now_ms: u64) -> Self {
        Self { config, heard_ms: now_ms, sent_ms: now_ms, ticked_ms: now_ms, due_ms: now_ms }
    }

    /// Something has come, or we did not listen until now.
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// Something has been sent.
    pub fn sent(&mut self, now_ms: u64) {
        self.sent_ms = now_ms;
    }

    /// How long to wait before [`Liveness::tick`]: until the next multiple of the interval, or until it is known that the other
    /// side is silent.
    pub fn pause_ms(&mut self, now_ms: u64) -> u64 {
        let interval_ms = self.config.keepalive_ms.max(1);
        let silent_ms = (self.heard_ms + self.config.timeout_ms).saturating_sub(now_ms);
        let pause_ms = (interval_ms - now_ms % interval_ms).min(silent_ms.max(1));
        self.due_ms = now_ms + pause_ms;
        pause_ms
    }

    /// What is due now. A tick that comes very late means that this process stood still: what the other side sent
    /// meanwhile may be still unread, so it gets another full time-out.
    pub fn tick(&mut self, now_ms: u64) -> Due {
        let late_ms = now_ms.saturating_sub(self.due_ms);
        let before_ms = std::mem::replace(&mut self.ticked_ms, now_ms);
        if late_ms >= self.config.timeout_ms / 2 {
            self.heard_ms = now_ms;
        }
        if now_ms.saturating_sub(self.heard_ms) >= self.config.timeout_ms {
            return Due::Silent;
        }
        // Nothing was sent since the last tick: with the next one it would be two intervals.
        if self.sent_ms <= before_ms { Due::Keepalive } else { Due::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: LivenessConfig = LivenessConfig { keepalive_ms: 100, timeout_ms: 450 };

    /// Ticks from `now_ms` on until the other side counts as silent; `act` sees each tick.
    fn run(liveness: &mut Liveness, mut now_ms: u64, mut act: impl FnMut(&mut Liveness, u64, Due)) -> u64 {
        for _ in 0..1_000 {
            now_ms += liveness.pause_ms(now_ms);
            let due = liveness.tick(now_ms);
            act(liveness, now_ms, due);
            if due == Due::Silent {
                return now_ms;
            }
        }
        0
    }

    #[test]
    fn an_idle_connection_says_so_in_time_and_a_silent_one_ends_in_time() {
        let mut liveness = Liveness::new(CONFIG, 1_030);
        let mut keepalives = Vec::new();
        let end_ms = run(&mut liveness, 1_030, |liveness, now_ms, due| {
            if due == Due::Keepalive {
                keepalives.push(now_ms);
                liveness.sent(now_ms);
            }
        });
        assert_eq!(end_ms, 1_480);
        assert_eq!(keepalives, [1_100, 1_200, 1_300, 1_400]);
    }

    #[test]
    fn what_is_sent_anyway_needs_no_keepalive_and_no_gap_exceeds_two_intervals() {
        let mut liveness = Liveness::new(CONFIG, 0);
        let mut last_ms = 0;
        let mut keepalives = 0;
        run(&mut liveness, 0, |liveness, now_ms, due| {
            assert!(now_ms - last_ms <= 200, "silent from {last_ms} to {now_ms}");
            liveness.heard(now_ms);
            if due == Due::Keepalive {
                keepalives += 1;
            }
            if due == Due::Keepalive || now_ms % 300 != 0 {
                // Traffic of its own, somewhere between two ticks, is as good as a keepalive.
                last_ms = now_ms + 1;
                liveness.sent(last_ms);
            }
        });
        assert!((1..=400).contains(&keepalives), "{keepalives}");
    }

    #[test]
    fn whatever_comes_keeps_it_alive() {
        let mut liveness = Liveness::new(CONFIG, 0);
        let mut next_ms = 0;
        let end_ms = run(&mut liveness, 0, |liveness, now_ms, _| {
            if now_ms >= next_ms {
                liveness.heard(now_ms);
                next_ms = now_ms + 350;
            }
        });
        assert_eq!(end_ms, 0);
    }

    #[test]
    fn after_a_pause_of_this_process_the_other_side_gets_its_time() {
        let mut liveness = Liveness::new(CONFIG, 0);
        assert_eq!(liveness.pause_ms(0), 100);
        assert_eq!(liveness.tick(100), Due::Keepalive);
        assert_eq!(liveness.pause_ms(100), 100);
        assert_ne!(liveness.tick(60_000), Due::Silent);
        assert_eq!(run(&mut liveness, 60_000, |_, _, _| {}), 60_450);
    }
}
