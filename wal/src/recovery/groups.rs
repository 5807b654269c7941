//! Replays frames into what each group had. Pure.

use std::collections::BTreeMap;

use super::scan::ScannedFrame;
use super::{DamagedGroups, EntryLocation, LiveSegment, RecoveredGroup};
use crate::entry::{FlushPoint, GroupState, LogStart};
use crate::frame::{FrameKind, decode_checkpoint, decode_state};
use crate::shard_wal::ledger::Ledger;
use crate::types::{GroupId, RaftIndex, TurnNumber};

#[derive(Debug, Default)]
struct Building {
    state: Option<GroupState>,
    entries: BTreeMap<RaftIndex, EntryLocation>,
    commit: RaftIndex,
}

impl Building {
    /// Applies a log start: by retention it cuts the front; after a snapshot, which the log does not reach or
    /// contradicts, it replaces the log.
    fn start_log_at(&mut self, start: &LogStart) {
        let contradicts = self.entries.get(&start.index).is_some_and(|entry| entry.term != start.term);
        if contradicts {
            self.entries.clear();
        } else {
            self.entries = self.entries.split_off(&start.index.next());
        }
    }
}

/// All groups while the log is replayed.
#[derive(Debug, Default)]
pub(super) struct GroupBuilder {
    groups: BTreeMap<GroupId, Building>,
    flushed: BTreeMap<GroupId, FlushPoint>,
    pub(super) ledger: Ledger,
}

impl GroupBuilder {
    /// Replays one frame.
    pub(super) fn apply(
        &mut self,
        segment: &LiveSegment,
        turn: TurnNumber,
        frame: &ScannedFrame<'_>,
        damage: &mut DamagedGroups,
    ) {
        let group = frame.info.group;
        match frame.info.kind {
            FrameKind::Entry | FrameKind::Rewritten => self.entry(segment, turn, frame),
            FrameKind::State => match decode_state(frame.payload) {
                Ok(state) => {
                    self.ledger.state(segment.sequence, turn, group, &state);
                    let building = self.groups.entry(group).or_default();
                    building.commit = building.commit.max(state.hard.commit);
                    building.start_log_at(&state.log_start);
                    building.state = Some(state);
                }
                Err(error) => damage.damage(group, format!("its state in turn {turn}: {error}")),
            },
            FrameKind::Removed => {
                self.ledger.removed(turn, group);
                self.groups.remove(&group);
                self.flushed.remove(&group);
                damage.reset(group);
            }
            FrameKind::Checkpoint => match decode_checkpoint(frame.payload) {
                Ok(points) => self.checkpoint(points),
                Err(error) => damage.damage_all(format!("the checkpoint in turn {turn}: {error}")),
            },
            FrameKind::End | FrameKind::Close | FrameKind::Opened => {}
        }
    }

    fn entry(&mut self, segment: &LiveSegment, turn: TurnNumber, frame: &ScannedFrame<'_>) {
        let info = &frame.info;
        let Ok(position) = u32::try_from(frame.position) else { return };
        let building = self.groups.entry(info.group).or_default();
        building.commit = building.commit.max(info.commit);
        if info.kind == FrameKind::Entry {
            truncate(&mut building.entries, info.index);
            self.ledger.entry(segment.sequence, turn, info.group, info.index);
        } else {
            self.ledger.rewritten(segment.sequence, info.group, info.index);
        }
        let location = EntryLocation {
            index: info.index,
            term: info.term,
            base_offset: info.base_offset,
            sequence: segment.sequence,
            position,
            len: info.len,
            slot: segment.slot,
            kind: info.entry_kind,
        };
        building.entries.insert(info.index, location);
    }

    /// A checkpoint holds all groups, so it replaces the one before; what it covers need not be kept.
    fn checkpoint(&mut self, points: Vec<(GroupId, FlushPoint)>) {
        self.flushed = points.into_iter().collect();
        for (group, point) in &self.flushed {
            if let Some(building) = self.groups.get_mut(group) {
                building.entries = building.entries.split_off(&point.index.next());
            }
        }
    }

    /// The groups as they are at the end of the log. A gap in a group's entries is damage.
    pub(super) fn finish(
        mut self,
        damage: &mut DamagedGroups,
    ) -> (BTreeMap<GroupId, RecoveredGroup>, Ledger) {
        for group in self.flushed.keys() {
            self.groups.entry(*group).or_default();
        }
        let mut groups = BTreeMap::new();
        for (group, building) in self.groups {
            let flushed = self.flushed.get(&group).copied();
            let recovered = finish_group(group, building, flushed, damage);
            groups.insert(group, recovered);
        }
        (groups, self.ledger)
    }
}

fn truncate(entries: &mut BTreeMap<RaftIndex, EntryLocation>, from: RaftIndex) {
    while entries.last_key_value().is_some_and(|(&last, _)| last >= from) {
        entries.pop_last();
    }
}

fn finish_group(
    group: GroupId,
    building: Building,
    flushed: Option<FlushPoint>,
    damage: &mut DamagedGroups,
) -> RecoveredGroup {
    let log_start = building.state.as_ref().map_or(RaftIndex(0), |state| state.log_start.index);
    let before = flushed.map_or(RaftIndex(0), |point| point.index).max(log_start);
    let mut entries = Vec::with_capacity(building.entries.len());
    let mut stranded = Vec::new();
    let mut last = before;
    for (index, location) in building.entries {
        if index <= before {
            continue;
        }
        if !stranded.is_empty() {
            stranded.push(location);
            continue;
        }
        if index.0 != last.0.saturating_add(1) {
            let reason =
                format!("entries {} to {} are missing from the WAL", last.0.saturating_add(1), index);
            damage.damage(group, reason);
            stranded.push(location);
            continue;
        }
        last = index;
        entries.push(location);
    }
    RecoveredGroup { state: building.state, flushed, entries, stranded, commit: building.commit }
}
