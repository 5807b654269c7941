//! Which segments count and in what order; then replays them. Decides torn tail or corruption.

use std::collections::BTreeMap;

use super::groups::GroupBuilder;
use super::scan::{Found, SegmentScan};
use super::{DamagedGroups, LiveSegment, Recovered, Slot};
use crate::frame::{BLOCK, FIRST_TURN, FrameKind, OpenedSegment, TurnInfo, WalIdentity, decode_opened};
use crate::types::{TurnNumber, WalSeq};

/// A slot whose header is sound.
#[derive(Clone, Copy)]
struct Sound<'a> {
    slot: &'a Slot,
    len: u64,
}

struct Replay<'a> {
    identity: WalIdentity,
    sound: BTreeMap<WalSeq, Sound<'a>>,
    builder: GroupBuilder,
    damage: DamagedGroups,
    live: Vec<LiveSegment>,
    last: TurnNumber,
    /// The newest turn number in any sound turn header, torn turns too.
    newest_seen: TurnNumber,
    torn_tail: bool,
}

/// Replays all segments that count.
pub(super) fn replay(slots: &[Slot], identity: &WalIdentity) -> Recovered {
    let mut replay = Replay {
        identity: *identity,
        sound: BTreeMap::new(),
        builder: GroupBuilder::default(),
        damage: DamagedGroups::default(),
        live: Vec::new(),
        last: TurnNumber(0),
        newest_seen: TurnNumber(0),
        torn_tail: false,
    };
    let mut oldest_live = WalSeq(0);
    for slot in slots {
        let Ok(info) = slot.header else { continue };
        oldest_live = oldest_live.max(info.oldest_live);
        if replay.sound.insert(info.sequence, Sound { slot, len: info.len }).is_some() {
            replay.damage.damage_all(format!("two segments have the sequence {}", info.sequence));
        }
    }
    let newest_claimed = slots.iter().filter_map(|slot| slot.claimed).max();
    replay.run(oldest_live, newest_claimed);
    let newest = replay.sound.keys().next_back().copied().max(newest_claimed).unwrap_or_default();
    let (groups, ledger) = replay.builder.finish(&mut replay.damage);
    Recovered {
        groups,
        damage: replay.damage,
        last_turn: replay.last,
        torn_tail: replay.torn_tail,
        live: replay.live,
        slots: Vec::new(),
        ledger,
        next_sequence: WalSeq(newest.max(oldest_live).0.saturating_add(1)),
        next_turn: TurnNumber(replay.newest_seen.max(replay.last).0.saturating_add(1)),
    }
}

impl Replay<'_> {
    fn run(&mut self, oldest_live: WalSeq, newest_claimed: Option<WalSeq>) {
        let opened = self.newest_opened(oldest_live);
        let start = match opened {
            Some((sequence, before)) => {
                for segment in before.iter().filter(|segment| segment.sequence >= oldest_live) {
                    self.accepted_segment(segment);
                }
                Some(sequence)
            }
            None => self.first_without_opened(oldest_live),
        };
        let mut next = start;
        let mut newest = WalSeq(0);
        while let Some(sequence) = next {
            newest = sequence;
            next = self.segment_and_successor(sequence);
        }
        // A segment whose header is gone, newer than all that count: what it held is lost.
        if let Some(claimed) = newest_claimed.filter(|&claimed| claimed > newest) {
            self.damage.damage_all(format!("the header of segment {claimed} is damaged"));
        }
    }

    /// The newest segment that a recovery opened and that counts, with its list of those before.
    fn newest_opened(&mut self, oldest_live: WalSeq) -> Option<(WalSeq, Vec<OpenedSegment>)> {
        for (&sequence, sound) in self.sound.range(oldest_live..).rev() {
            let mut scan = SegmentScan::new(sound.slot.file.as_ref(), &self.identity, sequence, sound.len);
            if let Some((_, payload)) = scan.first_frame(FrameKind::Opened) {
                return decode_opened(&payload).ok().map(|before| (sequence, before));
            }
        }
        None
    }

    fn first_without_opened(&mut self, oldest_live: WalSeq) -> Option<WalSeq> {
        if self.sound.contains_key(&oldest_live) {
            return Some(oldest_live);
        }
        let (&first, _) = self.sound.range(oldest_live..).next()?;
        self.damage.damage_all(format!("segment {oldest_live}, the oldest that counts, is missing"));
        Some(first)
    }

    /// A segment that an earlier recovery had accepted up to `end`: whatever is bad before that is corruption.
    fn accepted_segment(&mut self, accepted: &OpenedSegment) {
        let sequence = accepted.sequence;
        let Some(&sound) = self.sound.get(&sequence) else {
            self.damage.damage_all(format!("segment {sequence} is missing"));
            return;
        };
        let end = accepted.end.min(sound.len);
        let live = LiveSegment { sequence, slot: sound.slot.number, len: sound.len, end };
        self.replay_segment(live, sound, TurnNumber(u64::MAX));
        self.live.push(live);
    }

    /// Replays a segment written since the last recovery; gives the one that follows it.
    fn segment_and_successor(&mut self, sequence: WalSeq) -> Option<WalSeq> {
        let sound = self.sound[&sequence];
        let marks: Vec<(WalSeq, TurnNumber)> = self
            .sound
            .range(WalSeq(sequence.0.saturating_add(1))..)
            .map(|(&later, sound)| {
                let scan = SegmentScan::new(sound.slot.file.as_ref(), &self.identity, later, sound.len);
                (later, scan.first_mark())
            })
            .collect();
        let newest_mark = marks.iter().map(|(_, mark)| *mark).max().unwrap_or_default();
        let mut live = LiveSegment { sequence, slot: sound.slot.number, len: sound.len, end: sound.len };
        let (end, ended) = self.replay_segment(live, sound, newest_mark);
        live.end = end;
        self.live.push(live);
        if ended {
            let next = WalSeq(sequence.0.saturating_add(1));
            if self.sound.contains_key(&next) {
                return Some(next);
            }
            self.damage.damage_all(format!("segment {sequence} has an end, but segment {next} is missing"));
        }
        marks.into_iter().find(|(_, mark)| *mark > self.last).map(|(later, mark)| {
            let reason = format!("segment {sequence} lacks turns up to {mark}, which had been durable");
            self.damage.damage_all(reason);
            later
        })
    }

    /// Replays the turns of a segment up to `live.end`. `durable` is the newest turn that other segments say was
    /// durable. Returns where the log ends in it, and whether by an end frame.
    fn replay_segment(&mut self, live: LiveSegment, sound: Sound<'_>, durable: TurnNumber) -> (u64, bool) {
        let mut scan = SegmentScan::new(sound.slot.file.as_ref(), &self.identity, live.sequence, live.end);
        let accepted = durable == TurnNumber(u64::MAX);
        let mut position = FIRST_TURN;
        loop {
            let next = match scan.look(position, self.last) {
                Found::Whole(turn) => {
                    if self.apply(&scan, live, position, turn) {
                        return (position + turn.padded_len(), true);
                    }
                    Some(position + turn.padded_len())
                }
                Found::BadFrames(turn, groups) => {
                    self.newest_seen = self.newest_seen.max(turn.turn);
                    let after = position + turn.padded_len();
                    let known = durable >= turn.turn || self.later(&scan, after, turn.turn).is_some();
                    if !known {
                        self.torn_tail = true;
                        return (position, false);
                    }
                    self.damage_turn(live, turn, groups);
                    if self.apply(&scan, live, position, turn) {
                        return (after, true);
                    }
                    Some(after)
                }
                Found::Nothing if accepted && position >= live.end => None,
                Found::Nothing => self.skip_to_later(&scan, live, position, durable),
                Found::Unreadable(error) => {
                    let reason = format!("segment {} cannot be read at {position}: {error}", live.sequence);
                    self.damage.damage_all(reason);
                    scan.later_turn(position + BLOCK as u64, self.last).ok().flatten()
                }
            };
            match next {
                Some(next) => position = next,
                None => return (position, false),
            }
        }
    }

    /// A turn's place holds none. Nothing more, or corruption if a later turn proves that there was one.
    fn skip_to_later(
        &mut self,
        scan: &SegmentScan<'_>,
        live: LiveSegment,
        position: u64,
        durable: TurnNumber,
    ) -> Option<u64> {
        let later = self.later(scan, position, TurnNumber(self.last.0.saturating_add(1)));
        if later.is_some() || durable > self.last {
            let after = self.last;
            let reason =
                format!("segment {}: the turn after {after}, at {position}, is damaged", live.sequence);
            self.damage.damage_all(reason);
        }
        later
    }

    /// Position of a turn at or after `from` whose mark says that `turn` had been durable.
    fn later(&mut self, scan: &SegmentScan<'_>, from: u64, turn: TurnNumber) -> Option<u64> {
        match scan.later_turn(from, TurnNumber(turn.0.saturating_sub(1))) {
            Ok(position) => position,
            Err(error) => {
                let reason = format!("segment {} cannot be read beyond {from}: {error}", scan.sequence);
                self.damage.damage_all(reason);
                None
            }
        }
    }

    fn damage_turn(&mut self, live: LiveSegment, turn: TurnInfo, groups: Option<Vec<crate::types::GroupId>>) {
        let reason = format!("turn {} in segment {} is damaged", turn.turn, live.sequence);
        match groups {
            Some(groups) => groups.into_iter().for_each(|group| self.damage.damage(group, reason.clone())),
            None => self.damage.damage_all(reason),
        }
    }

    /// Replays the sound frames of a turn; true when it ends the segment.
    fn apply(&mut self, scan: &SegmentScan<'_>, live: LiveSegment, position: u64, turn: TurnInfo) -> bool {
        let mut ends = false;
        for frame in scan.frames(position, turn) {
            ends |= frame.info.kind == FrameKind::End;
            self.builder.apply(&live, turn.turn, &frame, &mut self.damage);
        }
        self.last = turn.turn;
        self.newest_seen = self.newest_seen.max(turn.turn);
        ends
    }
}
