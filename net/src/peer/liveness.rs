//! When to say "I am here", and when to stop believing that the other side is. Pure.
//!
//! Both sides of a connection send something at least every keepalive interval, whatever the other does; both
//! end it when nothing has come for the time-out. A side that does not read because its shard is busy still sends, so
//! back-pressure is never mistaken for death.

/// The times of a link's liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Something is sent at least this often.
    pub keepalive_ms: u64,
    /// Silence after which the other side counts as gone.
    pub timeout_ms: u64,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        // Twice the election timeout of 300 ms: a process that is killed is noticed at once by its closed sockets;
        // this is for one that stands still, or a cut network, and must not fire because a busy machine stalls a shard.
        Self { keepalive_ms: 150, timeout_ms: 600 }
    }
}

impl LivenessConfig {
    /// How often to ask [`Liveness::tick`].
    #[must_use]
    pub fn tick_ms(&self) -> u64 {
        (self.keepalive_ms / 2).clamp(1, (self.timeout_ms / 4).max(1))
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
}

impl Liveness {
    /// A connection that has just been heard from.
    #[must_use]
    pub fn new(config: LivenessConfig, now_ms: u64) -> Self {
        Self { config, heard_ms: now_ms, sent_ms: now_ms, ticked_ms: now_ms }
    }

    /// Something has come, or we did not listen until now.
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// Something has been sent.
    pub fn sent(&mut self, now_ms: u64) {
        self.sent_ms = now_ms;
    }

    /// What is due now. A tick that comes very late means that this process stood still: what the other side sent
    /// meanwhile may be still unread, so it gets another full time-out.
    pub fn tick(&mut self, now_ms: u64) -> Due {
        let gap_ms = now_ms.saturating_sub(self.ticked_ms);
        self.ticked_ms = now_ms;
        if gap_ms >= (self.config.timeout_ms / 2).max(2 * self.config.tick_ms()) {
            self.heard_ms = now_ms;
        }
        if now_ms.saturating_sub(self.heard_ms) >= self.config.timeout_ms {
            return Due::Silent;
        }
        // A keepalive that would be late by the next tick is sent now.
        if now_ms.saturating_sub(self.sent_ms) + self.config.tick_ms() > self.config.keepalive_ms {
            return Due::Keepalive;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: LivenessConfig = LivenessConfig { keepalive_ms: 100, timeout_ms: 400 };

    #[test]
    fn an_idle_connection_says_so_in_time_and_a_silent_one_ends_in_time() {
        let mut liveness = Liveness::new(CONFIG, 1_000);
        let mut keepalives = Vec::new();
        for now_ms in (1_000..).step_by(50) {
            match liveness.tick(now_ms) {
                Due::Nothing => {}
                Due::Keepalive => {
                    keepalives.push(now_ms);
                    liveness.sent(now_ms);
                }
                Due::Silent => {
                    assert_eq!(now_ms, 1_400);
                    break;
                }
            }
        }
        assert_eq!(keepalives, [1_100, 1_200, 1_300]);
    }

    #[test]
    fn whatever_comes_keeps_it_alive() {
        let mut liveness = Liveness::new(CONFIG, 0);
        for now_ms in (0..10_000).step_by(50) {
            if now_ms % 350 == 0 {
                liveness.heard(now_ms);
            }
            assert_ne!(liveness.tick(now_ms), Due::Silent, "at {now_ms}");
        }
    }

    #[test]
    fn after_a_pause_of_this_process_the_other_side_gets_its_time() {
        let mut liveness = Liveness::new(CONFIG, 0);
        assert_eq!(liveness.tick(50), Due::Nothing);
        assert_ne!(liveness.tick(60_000), Due::Silent);
        let end_ms = (60_050..).step_by(50).find(|now_ms| liveness.tick(*now_ms) == Due::Silent);
        assert_eq!(end_ms, Some(60_400));
    }
}
