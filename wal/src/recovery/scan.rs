//! Reads the turns of one segment and decides which are whole. No memory beyond a window of the file and one turn.
//!
//! A start reads all that the WAL holds, once, and nobody wants it in the page cache, where turns are not written to either: it
//! is read past it, a window at a time.

use std::io;
use std::ops::Range;

use zerocopy::IntoBytes;

use crate::disk::{AlignedBuffer, BLOCK_BYTES, DiskFile};
use crate::frame::{
    BLOCK, FIRST_TURN, FRAME_HEADER, FrameHeader, FrameInfo, FrameKind, TURN_HEADER, TurnHeader, TurnInfo,
    WalIdentity,
};
use crate::types::{GroupId, TurnNumber, WalSeq};

/// How much is read at once when looking for a later turn.
const SEARCH_STEP: usize = 1 << 20;

/// How much is read at once of what follows: several of the longest turns, but for those of one huge batch.
const WINDOW_BYTES: usize = 8 << 20;
/// The first window of a segment: of many only the first turn is looked at.
const FIRST_WINDOW_BYTES: usize = 256 << 10;

const _: () = assert!(BLOCK.is_multiple_of(BLOCK_BYTES), "turns begin where O_DIRECT can read");

/// One frame of a turn that verified.
pub(super) struct ScannedFrame<'a> {
    pub(super) info: FrameInfo,
    pub(super) payload: &'a [u8],
    /// Position of its header in the segment.
    pub(super) position: u64,
}

/// What stands at a position where a turn is expected.
pub(super) enum Found {
    /// A turn, all of it sound. Its frames are in the buffer.
    Whole(TurnInfo),
    /// A sound turn header; some frames are bad, and their groups are known when the frame headers are sound.
    BadFrames(TurnInfo, Option<Vec<GroupId>>),
    /// No turn header of this segment, or one of an older turn.
    Nothing,
    /// The disk cannot read it.
    Unreadable(io::Error),
}

/// One segment, read turn by turn.
pub(super) struct SegmentScan<'a> {
    pub(super) file: &'a dyn DiskFile,
    pub(super) seed: u32,
    pub(super) sequence: WalSeq,
    /// Bytes that may be read.
    pub(super) limit: u64,
    /// Bytes of the file, and where they lie in it.
    window: Option<AlignedBuffer>,
    in_window: Range<u64>,
    /// How much the next window takes in; none once one could not be read: then every turn is read by itself.
    window_bytes: usize,
    /// The body of the turn that was looked at last.
    body: Body,
}

/// Where the body of a turn is.
enum Body {
    /// In the window, at this range of the file.
    Window(Range<u64>),
    /// In memory of its own: it is longer than the window, or the window could not be read.
    Own(Vec<u8>),
}

impl<'a> SegmentScan<'a> {
    pub(super) fn new(
        file: &'a dyn DiskFile,
        identity: &WalIdentity,
        sequence: WalSeq,
        limit: u64,
    ) -> SegmentScan<'a> {
        let (seed, body) = (identity.seed(sequence), Body::Own(Vec::new()));
        let (window, in_window, window_bytes) = (None, 0..0, FIRST_WINDOW_BYTES);
        SegmentScan { file, seed, sequence, limit, window, in_window, window_bytes, body }
    }

    /// Brings a range into the window; tells whether it is there. An error is the concern of whoever then reads the range by
    /// itself: a sector that cannot be read says nothing of the turns before it.
    fn bring_in(&mut self, range: &Range<u64>) -> bool {
        if self.in_window.start <= range.start && range.end <= self.in_window.end {
            return true;
        }
        if range.end - range.start > WINDOW_BYTES as u64 || self.window_bytes == 0 {
            return false;
        }
        if self.window.is_none() {
            self.window = AlignedBuffer::new(WINDOW_BYTES).ok();
        }
        let Some(window) = &mut self.window else { return false };
        // Turns begin and end with blocks.
        let wanted = (range.end - range.start).max(self.window_bytes as u64);
        let whole = (self.limit - range.start).min(wanted) / BLOCK as u64 * BLOCK as u64;
        let bytes = &mut window.as_mut_bytes()[..usize::try_from(whole).unwrap_or(WINDOW_BYTES)];
        let read = self.file.read_past_cache_at(bytes, range.start);
        // A sector that cannot be read is asked for once by each turn that it is in, and not by those before it.
        self.window_bytes = if read.is_ok() { WINDOW_BYTES } else { 0 };
        self.in_window = range.start..range.start + read.unwrap_or(0) as u64;
        range.end <= self.in_window.end
    }

    fn in_window(&self, range: &Range<u64>) -> &[u8] {
        let at = |position: u64| usize::try_from(position - self.in_window.start).unwrap_or(WINDOW_BYTES);
        let window = self.window.as_ref().map_or(&[][..], AlignedBuffer::as_bytes);
        &window[at(range.start)..at(range.end)]
    }

    fn body(&self) -> &[u8] {
        match &self.body {
            Body::Window(range) => self.in_window(range),
            Body::Own(bytes) => bytes,
        }
    }

    /// What stands at `position`; only a turn after `last` counts.
    pub(super) fn look(&mut self, position: u64, last: TurnNumber) -> Found {
        let mut block = [0; TURN_HEADER];
        if position + BLOCK as u64 > self.limit {
            return Found::Nothing;
        }
        let first = position..position + BLOCK as u64;
        if self.bring_in(&first) {
            block.copy_from_slice(&self.in_window(&first)[..TURN_HEADER]);
        } else if let Err(error) = self.file.read_exact_at(&mut block, position) {
            return Found::Unreadable(error);
        }
        let Some(turn) = TurnHeader::read(&block, self.seed, self.sequence) else { return Found::Nothing };
        // The length was checked with the header, and is checked against the segment before anything is allocated.
        if turn.turn <= last || position + turn.padded_len() > self.limit {
            return Found::Nothing;
        }
        if self.bring_in(&(position..position + turn.padded_len())) {
            let start = position + TURN_HEADER as u64;
            self.body = Body::Window(start..start + u64::from(turn.body_len));
        } else {
            let mut body = vec![0; turn.body_len as usize];
            if let Err(error) = self.file.read_exact_at(&mut body, position + TURN_HEADER as u64) {
                return Found::Unreadable(error);
            }
            self.body = Body::Own(body);
        }
        self.judge(turn)
    }

    fn judge(&self, turn: TurnInfo) -> Found {
        let mut headers_crc = self.seed;
        let mut bad = Vec::new();
        let mut at = 0;
        for _ in 0..turn.frames {
            let Some((header, info, payload)) = self.frame_at(at) else {
                return Found::BadFrames(turn, None);
            };
            headers_crc = crc32c::crc32c_append(headers_crc, header.as_bytes());
            if !header.verifies(self.seed, &info, payload) {
                bad.push(info.group);
            }
            at += FRAME_HEADER + payload.len();
        }
        if headers_crc != turn.frames_crc || at != self.body().len() {
            return Found::BadFrames(turn, None);
        }
        if bad.is_empty() { Found::Whole(turn) } else { Found::BadFrames(turn, Some(bad)) }
    }

    fn frame_at(&self, at: usize) -> Option<(FrameHeader, FrameInfo, &[u8])> {
        let bytes = self.body().get(at..)?;
        let (header, info) = FrameHeader::read(bytes)?;
        let payload = bytes.get(FRAME_HEADER..FRAME_HEADER.checked_add(info.len as usize)?)?;
        Some((header, info, payload))
    }

    /// The sound frames of the turn that was just looked at, which stands at `position`.
    pub(super) fn frames(&self, position: u64, turn: TurnInfo) -> impl Iterator<Item = ScannedFrame<'_>> {
        let mut at = 0;
        (0..turn.frames).filter_map(move |_| {
            let (header, info, payload) = self.frame_at(at)?;
            let frame_position = position + (TURN_HEADER + at) as u64;
            at += FRAME_HEADER + payload.len();
            header.verifies(self.seed, &info, payload).then_some(ScannedFrame {
                info,
                payload,
                position: frame_position,
            })
        })
    }

    /// The first turn header at or after `from` that says that turns after `last` had been durable.
    pub(super) fn later_turn(&self, from: u64, last: TurnNumber) -> io::Result<Option<u64>> {
        let mut buffer = vec![0; SEARCH_STEP.min(usize::try_from(self.limit).unwrap_or(SEARCH_STEP))];
        let mut at = from;
        while at + BLOCK as u64 <= self.limit {
            let whole = (self.limit - at).min(buffer.len() as u64) / BLOCK as u64 * BLOCK as u64;
            let chunk = &mut buffer[..usize::try_from(whole).unwrap_or(BLOCK)];
            self.file.read_exact_at(chunk, at)?;
            for (number, block) in chunk.chunks_exact(BLOCK).enumerate() {
                let turn = TurnHeader::read(block, self.seed, self.sequence);
                if turn.is_some_and(|turn| turn.turn > last && turn.durable > last) {
                    return Ok(Some(at + (number * BLOCK) as u64));
                }
            }
            at += chunk.len() as u64;
        }
        Ok(None)
    }

    /// The payload of the first frame of the first turn, if that turn is whole and the frame is of this kind.
    pub(super) fn first_frame(&mut self, kind: FrameKind) -> Option<(TurnInfo, Vec<u8>)> {
        let Found::Whole(turn) = self.look(FIRST_TURN, TurnNumber(0)) else { return None };
        let frame = self.frames(FIRST_TURN, turn).next()?;
        (frame.info.kind == kind).then(|| (turn, frame.payload.to_vec()))
    }

    /// The newest turn that this segment's first two turns say was durable before them.
    ///
    /// Two, because the first one may be what a recovery wrote last before a crash, torn; then it has no second. Or it
    /// was damaged later; then the second one tells.
    pub(super) fn first_mark(&self) -> TurnNumber {
        let first = self.header_at(FIRST_TURN);
        let second = self.header_at(FIRST_TURN + first.map_or(BLOCK as u64, |turn| turn.padded_len()));
        let mark = |turn: Option<TurnInfo>| turn.map_or(TurnNumber(0), |turn| turn.durable);
        mark(first).max(mark(second))
    }

    fn header_at(&self, position: u64) -> Option<TurnInfo> {
        let mut block = [0; TURN_HEADER];
        if position + BLOCK as u64 > self.limit || self.file.read_exact_at(&mut block, position).is_err() {
            return None;
        }
        TurnHeader::read(&block, self.seed, self.sequence)
    }
}

/// The sequence of the turn after a header block that cannot be read, if that turn's header verifies.
pub(super) fn claimed_sequence(file: &dyn DiskFile, identity: &WalIdentity) -> Option<WalSeq> {
    let mut block = [0; TURN_HEADER];
    file.read_exact_at(&mut block, FIRST_TURN).ok()?;
    let sequence = TurnHeader::claimed_sequence(&block)?;
    TurnHeader::read(&block, identity.seed(sequence), sequence).map(|_| sequence)
}
