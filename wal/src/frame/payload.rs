//! Payloads of the frames that are not entries: group state, checkpoint, opened segments. Pure; little-endian.
//!
//! The frame's checksum was verified before these are decoded; they still trust no length.

use bytes::Bytes;

use crate::entry::{FlushPoint, GroupState, HardState, LogStart};
use crate::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term, WalSeq};

/// A payload that does not parse: a damaged frame that verifies all the same, or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload of a WAL frame ends early or has bytes left over")]
pub struct PayloadError;

/// Bytes of one group in a checkpoint.
const CHECKPOINT_GROUP: usize = 48;
/// Bytes of one segment in an opened frame.
const OPENED_SEGMENT: usize = 16;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PayloadError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(PayloadError)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, PayloadError> {
        let (taken, rest) = self.0.split_first_chunk::<8>().ok_or(PayloadError)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*taken))
    }

    fn i64(&mut self) -> Result<i64, PayloadError> {
        Ok(self.u64()?.cast_signed())
    }

    fn bytes(&mut self) -> Result<Bytes, PayloadError> {
        let len = usize::try_from(self.u64()?).map_err(|_| PayloadError)?;
        Ok(Bytes::copy_from_slice(self.take(len)?))
    }

    fn finish<T>(self, value: T) -> Result<T, PayloadError> {
        if self.0.is_empty() { Ok(value) } else { Err(PayloadError) }
    }
}

/// A group's state as a frame holds it: nine u64, then configuration and snapshot data with a u64 length each.
#[must_use]
pub fn encode_state(state: &GroupState) -> Bytes {
    let mut out = Vec::with_capacity(88 + state.configuration.len() + state.snapshot_data.len());
    let numbers = [
        state.hard.term.0,
        state.hard.vote.0,
        state.hard.commit.0,
        state.log_start.index.0,
        state.log_start.term.0,
        state.log_start.offset.0.cast_unsigned(),
        state.log_start.base_offset.0.cast_unsigned(),
        state.configuration_index.0,
        state.peer.0,
    ];
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for bytes in [&state.configuration, &state.snapshot_data] {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.into()
}

/// The reverse of [`encode_state`].
///
/// # Errors
/// When the payload does not parse.
pub fn decode_state(payload: &[u8]) -> Result<GroupState, PayloadError> {
    let mut reader = Reader(payload);
    let state = GroupState {
        hard: HardState {
            term: Term(reader.u64()?),
            vote: PeerId(reader.u64()?),
            commit: RaftIndex(reader.u64()?),
        },
        log_start: LogStart {
            index: RaftIndex(reader.u64()?),
            term: Term(reader.u64()?),
            offset: KafkaOffset(reader.i64()?),
            base_offset: KafkaOffset(reader.i64()?),
        },
        configuration_index: RaftIndex(reader.u64()?),
        peer: PeerId(reader.u64()?),
        configuration: reader.bytes()?,
        snapshot_data: reader.bytes()?,
    };
    reader.finish(state)
}

/// A checkpoint as a frame holds it: 48 bytes a group.
#[must_use]
pub fn encode_checkpoint(points: &[(GroupId, FlushPoint)]) -> Bytes {
    let mut out = Vec::with_capacity(points.len() * CHECKPOINT_GROUP);
    for (group, point) in points {
        out.extend_from_slice(&group.0.to_le_bytes());
        out.extend_from_slice(&point.index.0.to_le_bytes());
        out.extend_from_slice(&point.term.0.to_le_bytes());
        out.extend_from_slice(&point.next_offset.0.to_le_bytes());
        out.extend_from_slice(&point.segment_base.0.to_le_bytes());
        out.extend_from_slice(&point.position.to_le_bytes());
    }
    out.into()
}

/// The reverse of [`encode_checkpoint`].
///
/// # Errors
/// When the payload does not parse.
pub fn decode_checkpoint(payload: &[u8]) -> Result<Vec<(GroupId, FlushPoint)>, PayloadError> {
    let mut reader = Reader(payload);
    let mut points = Vec::with_capacity(payload.len() / CHECKPOINT_GROUP);
    while !reader.0.is_empty() {
        let group = GroupId(reader.u64()?);
        let point = FlushPoint {
            index: RaftIndex(reader.u64()?),
            term: Term(reader.u64()?),
            next_offset: KafkaOffset(reader.i64()?),
            segment_base: KafkaOffset(reader.i64()?),
            position: reader.u64()?,
        };
        points.push((group, point));
    }
    Ok(points)
}

/// How far recovery accepted a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedSegment {
    /// The segment.
    pub sequence: WalSeq,
    /// Position after its last turn that counts.
    pub end: u64,
}

/// The list of an opened frame: 16 bytes a segment.
#[must_use]
pub fn encode_opened(segments: &[OpenedSegment]) -> Bytes {
    let mut out = Vec::with_capacity(segments.len() * OPENED_SEGMENT);
    for segment in segments {
        out.extend_from_slice(&segment.sequence.0.to_le_bytes());
        out.extend_from_slice(&segment.end.to_le_bytes());
    }
    out.into()
}

/// The reverse of [`encode_opened`].
///
/// # Errors
/// When the payload does not parse.
pub fn decode_opened(payload: &[u8]) -> Result<Vec<OpenedSegment>, PayloadError> {
    let mut reader = Reader(payload);
    let mut segments = Vec::with_capacity(payload.len() / OPENED_SEGMENT);
    while !reader.0.is_empty() {
        segments.push(OpenedSegment { sequence: WalSeq(reader.u64()?), end: reader.u64()? });
    }
    Ok(segments)
}
