//! The deadlines of one coordinator: one per key, the earliest at hand.

use std::collections::{BTreeMap, BTreeSet};

use super::Name;
use super::api::AppendToken;

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    /// The time by which an append must be answered.
    Append(AppendToken),
    /// The end of a group's join phase.
    Join(Name),
    /// The time by which all members of a generation must have synced.
    Sync(Name),
    /// The session of a member, or of a member id handed out and not yet used.
    Session { group: Name, member_id: Name },
    /// The next search for expired offsets.
    Expiry,
}

/// Deadlines by key. Scheduling a key again replaces its deadline.
#[derive(Default)]
pub(super) struct Timers {
    by_key: BTreeMap<TimerKey, u64>,
    by_time: BTreeSet<(u64, TimerKey)>,
}

impl Timers {
    /// Sets the deadline of `key`.
    pub(super) fn schedule(&mut self, key: TimerKey, deadline_ms: u64) {
        self.cancel(&key);
        self.by_key.insert(key.clone(), deadline_ms);
        self.by_time.insert((deadline_ms, key));
    }

    /// Forgets the deadline of `key`, if there is one.
    pub(super) fn cancel(&mut self, key: &TimerKey) {
        if let Some(deadline_ms) = self.by_key.remove(key) {
            self.by_time.remove(&(deadline_ms, key.clone()));
        }
    }

    /// Removes and returns the earliest key whose deadline is not after `now_ms`.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<TimerKey> {
        let (deadline_ms, _) = self.by_time.first()?;
        if *deadline_ms > now_ms {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// The earliest deadline.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Whether `key` has a deadline.
    #[cfg(test)]
    pub(super) fn is_scheduled(&self, key: &TimerKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Forgets all deadlines.
    pub(super) fn clear(&mut self) {
        self.by_key.clear();
        self.by_time.clear();
    }
}
