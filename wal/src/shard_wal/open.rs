//! From what recovery found to a WAL that runs. Blocks; at start-up only.

use std::collections::VecDeque;
use std::path::Path;

use super::segments::{FreeSlot, Segment, Segments, WalJob};
use super::turn::{Frame, TurnWrite};
use super::{Filling, ShardWal, WalConfig, WalError, frame_len, slot_path};
use crate::disk::{Disk, OpenMode, create_dirs_durably};
use crate::frame::{
    FIRST_TURN, FRAME_HEADER, FrameInfo, FrameKind, HeaderFault, OpenedSegment, encode_opened,
    padded_turn_len,
};
use crate::recovery::{LiveSegment, Recovered, Slot};
use crate::types::{TurnNumber, WalSeq};

impl ShardWal {
    /// Starts a WAL after recovery, or a new one. Nothing is appended to recovered segments: a new one is opened, and
    /// its first turn, durable when this returns, lists which of the others count and up to where.
    ///
    /// Takes from `recovered` what it needs; groups and damage stay for the caller.
    ///
    /// # Errors
    /// Of the disk, and when the configuration makes no sense.
    pub fn open(disk: &dyn Disk, config: WalConfig, recovered: &mut Recovered) -> Result<ShardWal, WalError> {
        config.check()?;
        let live = std::mem::take(&mut recovered.live);
        let slots = std::mem::take(&mut recovered.slots);
        let next_slot = slots.iter().map(|slot| slot.number + 1).max().unwrap_or(0);
        let (mut free, quarantined) = sort_slots(&slots, &live, recovered.damage.all.is_some());
        drop(slots);

        let slot = take_best(&mut free, &config).unwrap_or(FreeSlot { slot: next_slot, filled: None });
        let len = match slot.filled {
            Some(len) if len == config.segment_bytes => len,
            _ => config.first_segment_bytes,
        };
        let segment = Segment { sequence: recovered.next_sequence, slot: slot.slot, len };
        let oldest_live = live.first().map_or(segment.sequence, |oldest| oldest.sequence);
        create_dirs_durably(disk, &config.directory).map_err(WalError::io("making", &config.directory))?;
        let path = slot_path(&config.directory, segment.slot);
        WalJob::prepare(&config, segment, slot, oldest_live)
            .run(disk)
            .map_err(WalError::io("preparation of a segment", &path))?;
        let first = opened_turn(&config, segment, &live, recovered.next_turn, recovered.last_turn);
        write_turn(disk, &path, &first)?;

        let mut all: VecDeque<Segment> = live
            .iter()
            .map(|live| Segment { sequence: live.sequence, slot: live.slot, len: live.len })
            .collect();
        all.push_back(segment);
        Ok(ShardWal {
            segments: Segments::new(all, free, next_slot.max(slot.slot + 1), quarantined),
            ledger: std::mem::take(&mut recovered.ledger),
            filling: Filling {
                turn: TurnNumber(first.turn.0 + 1),
                sequence: segment.sequence,
                segment_len: segment.len,
                position: FIRST_TURN + first.padded_len as u64,
                frames: Vec::new(),
                body_len: 0,
            },
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            in_flight: None,
            durable: first.turn,
            // The opened turn is a mark for all before it, and holds nothing that could be lost.
            closed: true,
            idle_since_ms: None,
            checkpoint: None,
            config,
        })
    }
}

/// The slots that may be written over, and the bytes of those that are kept out because their content may be wanted
/// by whoever repairs the damage.
fn sort_slots(slots: &[Slot], live: &[LiveSegment], all_damaged: bool) -> (Vec<FreeSlot>, u64) {
    let mut free = Vec::new();
    let mut quarantined = 0;
    for slot in slots {
        if live.iter().any(|live| live.slot == slot.number) {
            continue;
        }
        match slot.header {
            Ok(info) => free.push(FreeSlot { slot: slot.number, filled: Some(info.len) }),
            Err(HeaderFault::Damaged) if all_damaged => quarantined += slot.file_len,
            Err(_) => free.push(FreeSlot { slot: slot.number, filled: None }),
        }
    }
    (free, quarantined)
}

/// A free slot whose blocks have been written, the longest first.
fn take_best(free: &mut Vec<FreeSlot>, config: &WalConfig) -> Option<FreeSlot> {
    let filled = |len: u64| move |slot: &FreeSlot| slot.filled == Some(len);
    let best = free
        .iter()
        .position(filled(config.segment_bytes))
        .or_else(|| free.iter().position(filled(config.first_segment_bytes)))
        .or(if free.is_empty() { None } else { Some(0) })?;
    Some(free.swap_remove(best))
}

fn opened_turn(
    config: &WalConfig,
    segment: Segment,
    live: &[LiveSegment],
    turn: TurnNumber,
    durable: TurnNumber,
) -> TurnWrite {
    let before: Vec<OpenedSegment> =
        live.iter().map(|live| OpenedSegment { sequence: live.sequence, end: live.end }).collect();
    let payload = encode_opened(&before);
    let info = FrameInfo::bare(FrameKind::Opened, frame_len(&payload));
    let body_len = FRAME_HEADER + payload.len();
    TurnWrite {
        path: slot_path(&config.directory, segment.slot),
        slot: segment.slot,
        position: FIRST_TURN,
        padded_len: padded_turn_len(body_len),
        turn,
        sequence: WalSeq(segment.sequence.0),
        durable,
        identity: config.identity,
        frames: vec![Frame { info, payload }],
        body_len,
    }
}

fn write_turn(disk: &dyn Disk, path: &Path, turn: &TurnWrite) -> Result<(), WalError> {
    let file = disk.open(path, OpenMode::ReadWrite).map_err(WalError::io("opening", path))?;
    file.write_all_at(&turn.encode(), turn.position).map_err(WalError::io("write", path))?;
    file.fdatasync().map_err(WalError::io("sync", path))
}

/// Writes a turn through the blocking trait: what the edge does with O_DIRECT, for tools, tests and the simulator.
///
/// # Errors
/// Of the disk; fatal to the process.
pub fn write_turn_blocking(disk: &dyn Disk, turn: &TurnWrite) -> Result<(), WalError> {
    write_turn(disk, &turn.path, turn)
}
