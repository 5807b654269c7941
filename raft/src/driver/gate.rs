//! How many elections of a shard may be under way at once. Pure.
//!
//! Raft's timers know nothing of load. Where so many groups look for a leader that a vote is answered later than an election timeout,
//! each timer that fires asks for more votes, which makes every answer later still: the shard is busy for good with elections
//! of which none succeeds. So a group stands only when it is admitted: a window of them at a time, the others wait in line.
//!
//! - A place is held until the election has ended, or for [`PLACE_MS`]: answers that come later still count for raft.
//! - The window begins small, grows by one with each election that succeeds (so it doubles with each round of them), and is halved when
//!   an election has heard nothing at all by the time its place is taken from it; once for those that stood together.
//! - Groups of which it is known that a leader was lost, and new ones, go before those whose timer has fired.
//!
//! Invariants: a slot is in line at most once; whoever is in line is admitted sooner or later, whether or not anybody answers.

use std::collections::{BTreeMap, BTreeSet};

/// Elections at a time where all goes well: about a millisecond of work.
const WINDOW_MAX: usize = 256;
/// At the beginning, and after a link has come up.
const WINDOW_FIRST: usize = 64;
/// However badly it goes.
const WINDOW_MIN: usize = 8;
/// How long an election keeps its place: a few times what it takes on a machine that is not starved, a fraction of raft's own timeout.
pub(super) const PLACE_MS: u64 = 100;

/// Why a group is to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// Its leader's node was lost, or it is new.
    Known,
    /// Its timer has fired.
    Timer,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    until_ms: u64,
    /// Elections begun before this one.
    number: u64,
    is_answered: bool,
}

/// Who stands and who waits, by slot.
#[derive(Debug)]
pub(super) struct Gate {
    window: usize,
    standing: BTreeMap<usize, Place>,
    /// The same by the end of their places.
    ends: BTreeSet<(u64, usize)>,
    line: BTreeMap<(Cause, u64), usize>,
    /// The same by slot.
    in_line: BTreeMap<usize, (Cause, u64)>,
    queued: u64,
    begun: u64,
    /// Elections begun when the window was last halved: those before say nothing about what it is now.
    halved_at: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            window: WINDOW_FIRST,
            standing: BTreeMap::new(),
            ends: BTreeSet::new(),
            line: BTreeMap::new(),
            in_line: BTreeMap::new(),
            queued: 0,
            begun: 0,
            halved_at: 0,
        }
    }
}

impl Gate {
    /// Whether elections go unanswered, so that nothing should be asked twice.
    pub fn is_narrow(&self) -> bool {
        self.window < WINDOW_FIRST
    }

    /// Whether the group waits for a place.
    pub fn is_in_line(&self, slot: usize) -> bool {
        self.in_line.contains_key(&slot)
    }

    /// Asks for a place. False: the group is in line now, and comes out of [`Self::next`].
    pub fn admit(&mut self, slot: usize, cause: Cause, now_ms: u64) -> bool {
        if self.standing.contains_key(&slot) {
            return true;
        }
        let is_first = self.line.first_key_value().is_none_or(|((first, _), _)| *first > cause);
        if self.standing.len() < self.window && is_first {
            self.leave_line(slot);
            self.stand(slot, now_ms);
            return true;
        }
        if self.in_line.get(&slot).is_none_or(|(known, _)| *known > cause) {
            self.leave_line(slot);
            self.in_line.insert(slot, (cause, self.queued));
            self.line.insert((cause, self.queued), slot);
            self.queued += 1;
        }
        false
    }

    fn leave_line(&mut self, slot: usize) {
        if let Some(place) = self.in_line.remove(&slot) {
            self.line.remove(&place);
        }
    }

    fn stand(&mut self, slot: usize, now_ms: u64) {
        let place = Place { until_ms: now_ms + PLACE_MS, number: self.begun, is_answered: false };
        self.begun += 1;
        self.standing.insert(slot, place);
        self.ends.insert((place.until_ms, slot));
    }

    /// The next in line for which there is a place, which it has now.
    pub fn next(&mut self, now_ms: u64) -> Option<usize> {
        if self.standing.len() >= self.window {
            return None;
        }
        let (_, slot) = self.line.pop_first()?;
        self.in_line.remove(&slot);
        self.stand(slot, now_ms);
        Some(slot)
    }

    /// Takes places from those that have held them for long enough.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((until_ms, slot)) = self.ends.first().copied() {
            if until_ms > now_ms {
                return;
            }
            self.ends.pop_first();
            let Some(place) = self.standing.remove(&slot) else { continue };
            if !place.is_answered && place.number >= self.halved_at {
                self.window = (self.window / 2).max(WINDOW_MIN);
                self.halved_at = self.begun;
            }
        }
    }

    /// Somebody has answered an election of this group.
    pub fn answered(&mut self, slot: usize) {
        if let Some(place) = self.standing.get_mut(&slot) {
            place.is_answered = true;
        }
    }

    /// This replica leads.
    pub fn won(&mut self, slot: usize) {
        self.window = (self.window + 1).min(WINDOW_MAX);
        self.forget(slot);
    }

    /// The group does not stand any more.
    pub fn ended(&mut self, slot: usize) {
        if let Some(place) = self.standing.remove(&slot) {
            self.ends.remove(&(place.until_ms, slot));
        }
    }

    /// The group looks for no leader any more.
    pub fn forget(&mut self, slot: usize) {
        self.ended(slot);
        self.leave_line(slot);
    }

    /// A link has come up: what went unanswered before says nothing any more.
    pub fn link_up(&mut self) {
        self.window = self.window.max(WINDOW_FIRST);
    }

    /// When there may be something to do.
    pub fn due_ms(&self) -> Option<u64> {
        (!self.in_line.is_empty()).then(|| self.ends.first().map_or(0, |(until_ms, _)| *until_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits as many of these as there are places for.
    fn admit(gate: &mut Gate, slots: std::ops::Range<usize>, now_ms: u64) -> usize {
        slots.filter(|slot| gate.admit(*slot, Cause::Timer, now_ms)).count()
    }

    fn next(gate: &mut Gate, now_ms: u64) -> Vec<usize> {
        std::iter::from_fn(|| gate.next(now_ms)).collect()
    }

    #[test]
    fn the_window_doubles_with_each_round_that_succeeds() {
        let mut gate = Gate::default();
        assert_eq!(admit(&mut gate, 0..1_000, 0), WINDOW_FIRST);
        assert_eq!(next(&mut gate, 1), [], "no places");
        let mut standing: Vec<usize> = (0..WINDOW_FIRST).collect();
        for expected in [128, 256, 256] {
            standing.iter().for_each(|slot| gate.won(*slot));
            standing = next(&mut gate, 2);
            assert_eq!(standing.len(), expected);
        }
        assert!(!gate.is_narrow());
    }

    #[test]
    fn what_goes_unanswered_narrows_it_and_nobody_waits_for_good() {
        let mut gate = Gate::default();
        let mut admitted = admit(&mut gate, 0..1_000, 0);
        let mut now_ms = 0;
        let mut widths = Vec::new();
        while admitted < 1_000 {
            now_ms += PLACE_MS;
            gate.expire(now_ms);
            let more = next(&mut gate, now_ms).len();
            widths.push(more);
            admitted += more;
            assert!(now_ms < 100_000, "{admitted} of 1,000");
        }
        assert_eq!(widths[..5], [32, 16, WINDOW_MIN, WINDOW_MIN, WINDOW_MIN]);
        assert!(gate.is_narrow());
        gate.link_up();
        assert!(!gate.is_narrow());
    }

    #[test]
    fn what_is_answered_late_does_not_narrow_it() {
        let mut gate = Gate::default();
        assert_eq!(admit(&mut gate, 0..100, 0), WINDOW_FIRST);
        (0..WINDOW_FIRST).for_each(|slot| gate.answered(slot));
        gate.expire(PLACE_MS);
        assert!(!gate.is_narrow());
        assert_eq!(next(&mut gate, PLACE_MS).len(), 100 - WINDOW_FIRST);
    }

    #[test]
    fn those_that_stood_together_halve_it_once() {
        let mut gate = Gate::default();
        (0..10).for_each(|slot| assert!(gate.admit(slot, Cause::Timer, slot as u64)));
        (PLACE_MS..PLACE_MS + 10).for_each(|now_ms| gate.expire(now_ms));
        assert_eq!(gate.window, WINDOW_FIRST / 2);
    }

    #[test]
    fn known_losses_go_first_and_nobody_is_in_line_twice() {
        let mut gate = Gate::default();
        admit(&mut gate, 0..WINDOW_FIRST, 0);
        for _ in 0..2 {
            assert!(!gate.admit(100, Cause::Timer, 1));
            assert!(!gate.admit(101, Cause::Timer, 1));
            assert!(!gate.admit(102, Cause::Known, 1));
        }
        assert_eq!(gate.due_ms(), Some(PLACE_MS));
        gate.forget(101);
        (0..3).for_each(|slot| gate.forget(slot));
        assert_eq!(next(&mut gate, 1), [102, 100]);
        assert_eq!(gate.due_ms(), None);
        assert!(gate.admit(102, Cause::Timer, 1), "it stands");
    }
}
