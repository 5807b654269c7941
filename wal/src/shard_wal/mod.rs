//! The WAL of one shard: what all its groups must make durable goes into one file, with one write and one fdatasync a
//! turn (DESIGN.md, decisions 1 and 2).
//!
//! Pure: it plans; the edge executes. Owned by the shard, lives on the shard's thread.
//!
//! ```text
//! put_* ──▶ filling turn ──(full, or segment full)──▶ sealed turns ──start_turn──▶ one in flight ──turn_done──▶ durable
//! next_job ──▶ helper thread prepares a segment ahead of need ──job_done──▶ prepared
//! oldest_needs ──▶ flush, rewrite ──▶ put_checkpoint ──durable──▶ release_oldest ──▶ free slot ──▶ next_job
//! ```
//!
//! What always holds (SAFETY.md, rules 1 to 5):
//! - Turn n+1 is handed out only after turn n is durable; a block once written is never written again while its
//!   segment lives; a turn lies within one segment.
//! - The place of every frame is planned when it is put, with one block of each segment kept for its end frame.
//! - A segment is released only when everything in it that matters is durable elsewhere: [`ShardWal::release_oldest`]
//!   checks it, whatever the caller believes.
//! - Any error of a WAL write is fatal to the process. That the disk is full shows only in [`ShardWal::has_room`].

use std::collections::VecDeque;

use bytes::Bytes;

use crate::entry::{EntryKind, FlushPoint, GroupState, LogEntry, LogSink};
use crate::frame::{
    BATCH_HEADER, BLOCK, FIRST_TURN, FRAME_HEADER, FrameInfo, FrameKind, encode_checkpoint, encode_state,
    padded_turn_len,
};
use crate::types::{GroupId, RaftIndex, TurnNumber, WalSeq};

mod config;
pub(crate) mod ledger;
mod open;
mod recycle;
mod segments;
mod turn;

pub use config::{PAYLOAD_MAX, WalConfig, WalError, shard_directory, slot_of_name, slot_path};
pub use open::write_turn_blocking;
pub use recycle::{GroupProgress, Needs, StillNeeded};
pub use segments::WalJob;
pub use turn::TurnWrite;

use ledger::Ledger;
use recycle::CheckpointMark;
use segments::{Segment, Segments};
use turn::Frame;

/// A turn whose place is decided.
#[derive(Debug)]
struct SealedTurn {
    turn: TurnNumber,
    sequence: WalSeq,
    position: u64,
    frames: Vec<Frame>,
    body_len: usize,
}

/// The turn that fills, and where it will go.
#[derive(Debug)]
struct Filling {
    turn: TurnNumber,
    sequence: WalSeq,
    /// Length of that segment.
    segment_len: u64,
    position: u64,
    frames: Vec<Frame>,
    body_len: usize,
}

/// The WAL of one shard. See the module.
#[derive(Debug)]
pub struct ShardWal {
    config: WalConfig,
    segments: Segments,
    ledger: Ledger,
    filling: Filling,
    sealed: VecDeque<SealedTurn>,
    sealed_bytes: usize,
    in_flight: Option<TurnNumber>,
    durable: TurnNumber,
    /// The newest turn ends with a close frame and nothing was put since.
    closed: bool,
    /// When the shard was first seen idle after the last turn.
    idle_since_ms: Option<u64>,
    checkpoint: Option<CheckpointMark>,
}

impl ShardWal {
    /// The next turn to write, if one may be written now: nothing is in flight, something waits, and a segment has
    /// been made for it. The caller writes all of it, syncs, and says [`ShardWal::turn_done`]; an error must stop the
    /// process.
    pub fn start_turn(&mut self) -> Option<TurnWrite> {
        if self.in_flight.is_some() {
            return None;
        }
        let sequence = self.sealed.front().map_or(self.filling.sequence, |turn| turn.sequence);
        let something_waits = !self.sealed.is_empty() || !self.filling.frames.is_empty();
        if !something_waits || !self.segments.advance_to(sequence) || self.end_must_wait() {
            return None;
        }
        if self.sealed.is_empty() {
            self.seal();
        }
        let sealed = self.sealed.pop_front().expect("just sealed");
        self.sealed_bytes -= sealed.body_len;
        // ORDER: one turn at a time. That turn n exists is the proof that n − 1 was durable (rule 1).
        self.in_flight = Some(sealed.turn);
        let segment = self.segments.current();
        assert!(
            segment.sequence == sealed.sequence
                && sealed.position + padded_turn_len(sealed.body_len) as u64 <= segment.len,
            "a turn lies within the segment it was planned for"
        );
        Some(self.turn_write(segment, sealed))
    }

    fn turn_write(&self, segment: &Segment, sealed: SealedTurn) -> TurnWrite {
        TurnWrite {
            path: slot_path(&self.config.directory, segment.slot),
            slot: segment.slot,
            position: sealed.position,
            padded_len: padded_turn_len(sealed.body_len),
            turn: sealed.turn,
            sequence: sealed.sequence,
            durable: self.durable,
            identity: self.config.identity,
            frames: sealed.frames,
            body_len: sealed.body_len,
        }
    }

    /// The turn in flight is on disk.
    ///
    /// # Panics
    /// When it is not the one in flight.
    pub fn turn_done(&mut self, turn: TurnNumber) {
        assert_eq!(self.in_flight, Some(turn), "the turn that was started");
        self.in_flight = None;
        self.durable = turn;
        self.idle_since_ms = None;
    }

    /// The newest turn on disk; all before it are too.
    #[must_use]
    pub fn durable_turn(&self) -> TurnNumber {
        self.durable
    }

    /// The turn being written, if any.
    #[must_use]
    pub fn in_flight(&self) -> Option<TurnNumber> {
        self.in_flight
    }

    /// Whether something was put that no turn has taken yet.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.sealed.is_empty() || !self.filling.frames.is_empty()
    }

    /// Bytes of frames that no turn has taken yet.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.sealed_bytes + self.filling.body_len
    }

    /// Bytes of the live segments up to the place of the next turn: what a restart would read.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let filling = self.filling.sequence;
        self.segments.full_bytes(filling) + self.filling.position
    }

    /// Where its segments lie.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        &self.config.directory
    }

    /// Bytes of frames that a turn takes.
    #[must_use]
    pub fn turn_bytes_max(&self) -> usize {
        self.config.turn_bytes_max
    }

    /// Whether produce may propose so many bytes: they fit what is prepared and leave the reserve alone (rule 5). To
    /// be asked before propose. States, deletes and metadata need not ask.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        let need = padded_turn_len(bytes + FRAME_HEADER) as u64 + self.config.reserve_bytes;
        let filling = &self.filling;
        let prepared = self.segments.prepared_from(filling.sequence);
        let Some(beyond) = prepared else { return false };
        let taken = filling.position + padded_turn_len(filling.body_len) as u64 + BLOCK as u64;
        let rest = filling.segment_len.saturating_sub(taken);
        rest >= need || beyond as u64 * (self.config.segment_bytes - 2 * BLOCK as u64) >= need
    }

    /// Puts the closing mark of an idle shard when nothing was written for `idle_ms`. True when a turn is now to be
    /// started. To be called at each tick.
    pub fn idle_tick(&mut self, now_ms: u64) -> bool {
        if self.closed || self.has_pending() || self.in_flight.is_some() {
            self.idle_since_ms = None;
            return false;
        }
        let since = *self.idle_since_ms.get_or_insert(now_ms);
        now_ms.saturating_sub(since) >= self.config.idle_ms && self.close()
    }

    /// Whether the newest turn put is a closing mark, so that nothing waits for one.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed && !self.has_pending() && self.in_flight.is_none()
    }

    /// Puts the closing mark of a clean stop, unless the newest turn is one already. True when turns are to be
    /// written before the process ends.
    pub fn close(&mut self) -> bool {
        if !self.closed {
            self.put_frame(FrameInfo::bare(FrameKind::Close, 0), Bytes::new());
            self.closed = true;
        }
        self.has_pending() || self.in_flight.is_some()
    }

    /// Puts the flush points of all groups of the shard. Their files must have been synced up to there; groups that
    /// have no files need not appear. See [`ShardWal::release_oldest`].
    pub fn put_checkpoint(&mut self, points: &[(GroupId, FlushPoint)]) {
        let payload = encode_checkpoint(points);
        let len = frame_len(&payload);
        self.put_frame(FrameInfo::bare(FrameKind::Checkpoint, len), payload);
        let flushed = points.iter().map(|(group, point)| (*group, point.index)).collect();
        let (turn, sequence) = (self.filling.turn, self.filling.sequence);
        self.checkpoint = Some(CheckpointMark { turn, sequence, flushed });
    }

    /// Puts entries of a group again, because they are not committed and lie in the oldest segment. They must be
    /// consecutive and reach at least the last one that [`ShardWal::oldest_needs`] named.
    pub fn rewrite_entries(&mut self, group: GroupId, commit: RaftIndex, entries: &[LogEntry]) {
        for entry in entries {
            let info = entry_info(FrameKind::Rewritten, group, commit, entry);
            self.put_frame(info, entry.data.clone());
            self.ledger.rewritten(self.filling.sequence, group, entry.index);
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let oldest = self.segments.oldest().sequence;
            assert!(oldest < self.filling.sequence, "a segment still being written is not recycled");
            self.ledger.supersede(oldest, self.filling.turn, group, (first.index, last.index));
        }
    }

    /// Puts a committed entry again for the commit index that its frame carries: a state would carry it too, but is large
    /// where it holds an image.
    pub fn put_commit(&mut self, group: GroupId, commit: RaftIndex, entry: &LogEntry) {
        self.put_frame(entry_info(FrameKind::Rewritten, group, commit, entry), entry.data.clone());
        self.ledger.rewritten(self.filling.sequence, group, entry.index);
    }

    /// Adds a frame to the filling turn, or to a later one if it does not fit, and thereby decides its place.
    fn put_frame(&mut self, info: FrameInfo, payload: Bytes) {
        assert!(payload.len() <= self.config.payload_max(), "a payload fits a segment: the limits see to it");
        let frame = Frame { info, payload };
        self.make_room(frame.len());
        self.filling.body_len += frame.len();
        self.filling.frames.push(frame);
        self.closed = false;
    }

    /// Frames of this length fit the filling turn after this, which is a new one if they did not.
    fn make_room(&mut self, frames_len: usize) {
        let grown = self.filling.body_len + frames_len;
        if !self.filling.frames.is_empty() && grown > self.config.turn_bytes_max {
            self.seal();
        }
        if !self.fits(frames_len) {
            self.end_segment();
        }
        assert!(self.fits(frames_len), "an empty segment takes any frame");
    }

    fn fits(&self, frame_len: usize) -> bool {
        let filling = &self.filling;
        let end = filling.position + padded_turn_len(filling.body_len + frame_len) as u64;
        // One block stays free, so that an end frame always fits.
        end + BLOCK as u64 <= filling.segment_len
    }

    /// ORDER: an end frame says that there is a successor, and recovery takes a missing one for corruption. So it is
    /// written only when the successor's header is durable; what comes after it goes there and has to wait anyhow.
    fn end_must_wait(&self) -> bool {
        let Some(next) = self.sealed.front() else { return false };
        let is_end = next.frames.iter().any(|frame| frame.info.kind == FrameKind::End);
        is_end && self.segments.prepared_from(WalSeq(next.sequence.0 + 1)).is_none()
    }

    /// The end frame has a turn of its own, in the block that is kept for it, so that what was put before does not wait
    /// for the next segment.
    fn end_segment(&mut self) {
        if !self.filling.frames.is_empty() {
            self.seal();
        }
        let end = Frame { info: FrameInfo::bare(FrameKind::End, 0), payload: Bytes::new() };
        self.filling.body_len += end.len();
        self.filling.frames.push(end);
        self.seal();
        self.filling.sequence = WalSeq(self.filling.sequence.0 + 1);
        self.filling.segment_len = self.config.segment_bytes;
        self.filling.position = FIRST_TURN;
    }

    fn seal(&mut self) {
        let filling = &mut self.filling;
        self.sealed.push_back(SealedTurn {
            turn: filling.turn,
            sequence: filling.sequence,
            position: filling.position,
            frames: std::mem::take(&mut filling.frames),
            body_len: filling.body_len,
        });
        self.sealed_bytes += filling.body_len;
        filling.turn = TurnNumber(filling.turn.0 + 1);
        filling.position += padded_turn_len(filling.body_len) as u64;
        filling.body_len = 0;
    }
}

impl LogSink for ShardWal {
    fn put_entry(&mut self, group: GroupId, commit: RaftIndex, entry: &LogEntry) {
        self.put_frame(entry_info(FrameKind::Entry, group, commit, entry), entry.data.clone());
        self.ledger.entry(self.filling.sequence, self.filling.turn, group, entry.index);
    }

    fn put_state(&mut self, group: GroupId, state: &GroupState) {
        let payload = encode_state(state);
        let mut info = FrameInfo::bare(FrameKind::State, frame_len(&payload));
        info.group = group;
        info.commit = state.hard.commit;
        self.put_frame(info, payload);
        self.ledger.state(self.filling.sequence, self.filling.turn, group, state);
    }

    fn put_removed(&mut self, group: GroupId) {
        let mut info = FrameInfo::bare(FrameKind::Removed, 0);
        info.group = group;
        self.put_frame(info, Bytes::new());
        self.ledger.removed(self.filling.turn, group);
    }

    /// ORDER: recovery must not find one without the other.
    fn put_replaced(&mut self, group: GroupId, state: &GroupState) {
        let removed = FrameInfo::bare(FrameKind::Removed, 0);
        let removed_len = Frame { info: removed, payload: Bytes::new() }.len();
        let payload = encode_state(state);
        let info = FrameInfo::bare(FrameKind::State, frame_len(&payload));
        self.make_room(removed_len + Frame { info, payload }.len());
        let turn = self.filling.turn;
        self.put_removed(group);
        self.put_state(group, state);
        assert_eq!(self.filling.turn, turn, "the removal and the new state share a turn");
    }

    /// To be asked after putting: a frame that did not fit the turn that was filling went to the next one.
    fn filling_turn(&self) -> TurnNumber {
        self.filling.turn
    }
}

fn frame_len(payload: &Bytes) -> u32 {
    u32::try_from(payload.len()).expect("payloads are bounded by PAYLOAD_MAX")
}

fn entry_info(kind: FrameKind, group: GroupId, commit: RaftIndex, entry: &LogEntry) -> FrameInfo {
    assert!(entry.kind != EntryKind::Batch || entry.data.len() >= BATCH_HEADER, "a batch has a whole header");
    FrameInfo {
        kind,
        entry_kind: entry.kind,
        group,
        term: entry.term,
        index: entry.index,
        base_offset: entry.base_offset,
        commit,
        len: frame_len(&entry.data),
    }
}

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;
