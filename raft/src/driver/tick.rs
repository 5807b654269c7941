//! Raft's clock. Only groups that are awake tick: neither those without another member nor those at rest. Elections of groups whose
//! leader was lost begin here as well.
//!
//! **Ticks that were missed** are made up for, but what they lead to depends on how long it was:
//! - *less than the longest election timeout* (two base timeouts): the shard was busy. What it should have heard meanwhile may be in its inbox
//!   or on its way: neither does a follower stand for election nor a leader count its quorum on the strength of
//!   made-up ticks alone; the next real tick does, after the inbox was looked at. Answers that need the quorum are held back
//!   meanwhile ([`Driver::has_quorum_contact`]);
//! - *more*: the process or the machine was suspended and another leader is likely: leaders step down before they serve (rule 22).
//!
//! A group that was woken since the clock was last looked at gets none of the time that passed before. A leader that rested through a
//! pause cannot tell it from idleness: it has no contact with its quorum, and so gives no answer that needs it.

use raft::StateRole;

use super::Driver;
use super::gate::Cause;
use crate::group::rest::Rest;

/// Missed ticks that are made up for: a leader steps down after two election timeouts without its quorum. More would change
/// nothing but the work.
const CATCH_UP_ELECTION_TIMEOUTS: u64 = 3;

/// A pause of so many election timeouts is none of a busy shard: every follower has given its leader up by then.
const PAUSE_ELECTION_TIMEOUTS: u64 = 2;

impl Driver {
    /// Advances the clock to `now_ms` (CLOCK_BOOTTIME, which runs on while the machine sleeps). Ticks that were missed are made
    /// up for at once, before anything is served, so that a leader which has slept steps down (SAFETY.md, rule 22).
    /// The first call only sets the clock.
    pub fn tick(&mut self, now_ms: u64) {
        let last = *self.last_tick_ms.get_or_insert(now_ms);
        let due = now_ms.saturating_sub(last) / self.config.tick_ms;
        let fresh = std::mem::take(&mut self.fresh);
        self.now_ms = self.now_ms.max(now_ms);
        if due > 0 {
            self.last_tick_ms = Some(last + due * self.config.tick_ms);
            let timeout = self.config.election_ticks as u64;
            if due >= timeout {
                self.trust_from_ms = now_ms + timeout * self.config.tick_ms;
            }
            let awake: Vec<usize> = self.awake.difference(&fresh).copied().collect();
            for slot in awake {
                self.tick_group(slot, due);
            }
        }
        self.hold_elections();
    }

    fn tick_group(&mut self, slot: usize, due: u64) {
        let rounds = self.rounds_of(slot, due);
        if self.waits_on(slot, rounds) {
            return;
        }
        let rest_ticks = self.config.rest_ticks;
        let group = self.at(slot);
        let mut ticked = 0;
        for _ in 0..rounds {
            if !group.tick() {
                break;
            }
            ticked += 1;
        }
        if ticked > 0 {
            group.consider_rest(rest_ticks);
        }
        let has_work = group.node.has_ready();
        self.counters.group_ticks += ticked;
        if has_work {
            self.mark_dirty(slot);
        }
    }

    /// Whether ticks do no more to a follower or a candidate than let time pass, or its timer fires and it has to wait for its election
    /// to be admitted.
    fn waits_on(&mut self, slot: usize, rounds: u64) -> bool {
        let group = self.at(slot);
        if group.node.raft.state == StateRole::Leader || !group.may_elect() {
            return false;
        }
        if group.is_timer_held() && self.gate.is_in_line(slot) {
            return true;
        }
        let group = self.at(slot);
        let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
        let elapsed = group.node.raft.election_elapsed.saturating_add(rounds);
        if elapsed < group.node.raft.randomized_election_timeout() {
            // As raft's own tick, which costs more: thousands may wait for a leader.
            group.node.raft.election_elapsed = elapsed;
            group.rest = Rest::AWAKE;
            self.counters.group_ticks += rounds as u64;
            return true;
        }
        if !group.is_electable() {
            return false;
        }
        !self.is_admitted(slot, Cause::Timer)
    }

    /// How many of the ticks that are due the group gets.
    fn rounds_of(&mut self, slot: usize, due: u64) -> u64 {
        let timeout = self.config.election_ticks as u64;
        let heartbeats = 2 * self.config.heartbeat_ticks as u64;
        let raft = &self.at(slot).node.raft;
        let elapsed = raft.election_elapsed as u64;
        let made_up_max = if raft.state != StateRole::Leader {
            (raft.randomized_election_timeout() as u64).saturating_sub(elapsed + 1)
        } else if due >= PAUSE_ELECTION_TIMEOUTS * timeout {
            CATCH_UP_ELECTION_TIMEOUTS * timeout
        } else {
            // Time for an answer to a heartbeat that the made-up ticks send.
            timeout.saturating_sub(elapsed + heartbeats)
        };
        due.min(made_up_max.max(1))
    }

    /// When [`Driver::tick`] is next of use; none while no group ticks or is to stand for election.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        let election = self.elections.first().map(|(due_ms, _)| *due_ms);
        let tick =
            self.last_tick_ms.filter(|_| !self.awake.is_empty()).map(|last| last + self.config.tick_ms);
        [election, tick, self.gate.due_ms()].into_iter().flatten().min()
    }
}
