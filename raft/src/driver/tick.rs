//! Raft's clock. Only groups with other members tick. Elections of groups whose leader was lost begin here as well.

use super::Driver;

/// Missed ticks that are made up for: a leader steps down after one election timeout without its quorum, a follower stands for
/// election after two. More would change nothing but the work.
const CATCH_UP_ELECTION_TIMEOUTS: u64 = 3;

impl Driver {
    /// Advances the clock to `now_ms` (CLOCK_BOOTTIME, which runs on while the machine sleeps). Ticks that were missed are made
    /// up for at once, before anything is served, so that a leader which has slept steps down (SAFETY.md, rule 22).
    /// The first call only sets the clock.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.tick_groups(now_ms);
        self.hold_elections();
    }

    fn tick_groups(&mut self, now_ms: u64) {
        let last = *self.last_tick_ms.get_or_insert(now_ms);
        let due = now_ms.saturating_sub(last) / self.config.tick_ms;
        if due == 0 {
            return;
        }
        self.last_tick_ms = Some(last + due * self.config.tick_ms);
        let rounds = due.min(CATCH_UP_ELECTION_TIMEOUTS * self.config.election_ticks as u64);
        let awake: Vec<usize> = self.awake.iter().copied().collect();
        for slot in awake {
            self.tick_group(slot, rounds);
        }
    }

    fn tick_group(&mut self, slot: usize, rounds: u64) {
        let group = self.at(slot);
        let mut ticked = 0;
        for _ in 0..rounds {
            if !group.tick() {
                break;
            }
            ticked += 1;
        }
        let has_work = group.node.has_ready();
        self.counters.group_ticks += ticked;
        if has_work {
            self.mark_dirty(slot);
        }
    }

    /// When [`Driver::tick`] is next of use; none while no group ticks or is to stand for election.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        let election = self.elections.first().map(|(due_ms, _)| *due_ms);
        let tick =
            self.last_tick_ms.filter(|_| !self.awake.is_empty()).map(|last| last + self.config.tick_ms);
        [election, tick].into_iter().flatten().min()
    }
}
