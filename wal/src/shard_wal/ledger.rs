//! What each live segment still holds that matters: the bookkeeping that decides when a segment may be recycled.
//!
//! Pure; part of the shard's WAL, and filled by recovery in the order of the log. Its size is bounded by groups times
//! live segments, never by entries.

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::GroupState;
use crate::types::{GroupId, RaftIndex, TurnNumber, WalSeq};

/// What one segment holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// Lowest and highest index of each group's entries in it that are part of the group's log.
    pub(crate) entries: BTreeMap<GroupId, (RaftIndex, RaftIndex)>,
    /// Groups whose newest state lies in it.
    pub(crate) states: BTreeSet<GroupId>,
    /// The turn that last made something in it superfluous. The segment must outlive that turn's sync.
    pub(crate) superseded_by: TurnNumber,
}

#[derive(Clone, Copy, Debug, Default)]
struct Track {
    last: RaftIndex,
    log_start: RaftIndex,
    state_in: Option<WalSeq>,
}

/// The bookkeeping of all live segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    segments: BTreeMap<WalSeq, Held>,
    groups: BTreeMap<GroupId, Track>,
}

impl Ledger {
    /// What a segment holds; none when nothing was ever noted for it.
    pub(crate) fn held(&self, segment: WalSeq) -> Option<&Held> {
        self.segments.get(&segment)
    }

    /// The segment is no more.
    pub(crate) fn forget_segment(&mut self, segment: WalSeq) {
        self.segments.remove(&segment);
    }

    /// An entry was put in `segment` with `turn`. It ends the group's log: what was at or above its index is gone.
    pub(crate) fn entry(&mut self, segment: WalSeq, turn: TurnNumber, group: GroupId, index: RaftIndex) {
        let track = self.groups.entry(group).or_default();
        let truncates = index <= track.last;
        track.last = index;
        if truncates {
            self.truncate(turn, group, index);
        }
        let range = self.segments.entry(segment).or_default().entries.entry(group).or_insert((index, index));
        range.0 = range.0.min(index);
        range.1 = range.1.max(index);
    }

    fn truncate(&mut self, turn: TurnNumber, group: GroupId, from: RaftIndex) {
        for held in self.segments.values_mut() {
            let Some(range) = held.entries.get_mut(&group) else { continue };
            if range.1 < from {
                continue;
            }
            held.superseded_by = turn;
            if range.0 >= from {
                held.entries.remove(&group);
            } else {
                range.1 = RaftIndex(from.0 - 1);
            }
        }
    }

    /// An entry of the group's log was put again in `segment`; it truncates nothing.
    pub(crate) fn rewritten(&mut self, segment: WalSeq, group: GroupId, index: RaftIndex) {
        let track = self.groups.entry(group).or_default();
        track.last = track.last.max(index);
        let range = self.segments.entry(segment).or_default().entries.entry(group).or_insert((index, index));
        range.0 = range.0.min(index);
        range.1 = range.1.max(index);
    }

    /// Entries `first..=last` were put again by `turn`: `old` needs to keep only those below, if these are the last
    /// that it holds of the group.
    pub(crate) fn supersede(
        &mut self,
        old: WalSeq,
        turn: TurnNumber,
        group: GroupId,
        (first, last): (RaftIndex, RaftIndex),
    ) {
        let Some(held) = self.segments.get_mut(&old) else { return };
        let Some(range) = held.entries.get_mut(&group) else { return };
        if last < range.1 || first > range.1 {
            return;
        }
        held.superseded_by = turn;
        if first <= range.0 {
            held.entries.remove(&group);
        } else {
            range.1 = RaftIndex(first.0 - 1);
        }
    }

    /// The group's state was put in `segment` with `turn`; the one before counts no more.
    pub(crate) fn state(&mut self, segment: WalSeq, turn: TurnNumber, group: GroupId, state: &GroupState) {
        let track = self.groups.entry(group).or_default();
        let before = track.state_in.replace(segment);
        let log_start = state.log_start.index;
        let start_moved = log_start > track.log_start;
        track.log_start = track.log_start.max(log_start);
        if let Some(held) = before.filter(|&old| old != segment).and_then(|old| self.segments.get_mut(&old)) {
            held.states.remove(&group);
            held.superseded_by = turn;
        }
        if start_moved {
            self.drop_below(turn, group, log_start);
        }
        self.segments.entry(segment).or_default().states.insert(group);
    }

    fn drop_below(&mut self, turn: TurnNumber, group: GroupId, log_start: RaftIndex) {
        for held in self.segments.values_mut() {
            let Some(range) = held.entries.get_mut(&group) else { continue };
            if range.0 > log_start {
                continue;
            }
            held.superseded_by = turn;
            if range.1 <= log_start {
                held.entries.remove(&group);
            } else {
                range.0 = log_start.next();
            }
        }
    }

    /// The group is gone, by a mark put with `turn`.
    pub(crate) fn removed(&mut self, turn: TurnNumber, group: GroupId) {
        self.groups.remove(&group);
        for held in self.segments.values_mut() {
            let entries = held.entries.remove(&group).is_some();
            let state = held.states.remove(&group);
            if entries || state {
                held.superseded_by = turn;
            }
        }
    }
}
