//! The header of one frame, and what its checksum covers. Pure.

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::BATCH_HEADER;
use crate::entry::EntryKind;
use crate::types::{GroupId, KafkaOffset, RaftIndex, Term};

/// What a frame is. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// An entry; truncates the group's log from its index on.
    Entry = 1,
    /// The copy of an entry that lies in a segment to be recycled; truncates nothing.
    Rewritten = 2,
    /// A group's state, whole.
    State = 3,
    /// The group is gone, and all of it before this frame.
    Removed = 4,
    /// The flush points of all groups.
    Checkpoint = 5,
    /// Nothing follows in this segment.
    End = 6,
    /// Nothing was waiting when this was written: the mark of an idle or stopped shard.
    Close = 7,
    /// The first frame of a segment that recovery opened: which segments before it count, and up to where.
    Opened = 8,
}

impl FrameKind {
    fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Entry,
            2 => Self::Rewritten,
            3 => Self::State,
            4 => Self::Removed,
            5 => Self::Checkpoint,
            6 => Self::End,
            7 => Self::Close,
            8 => Self::Opened,
            _ => return None,
        })
    }
}

/// What a frame says beside its payload. Fields that a kind has no use for are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// What it is.
    pub kind: FrameKind,
    /// What the entry is; [`EntryKind::Empty`] for other kinds.
    pub entry_kind: EntryKind,
    /// Whose it is.
    pub group: GroupId,
    /// Term of the entry.
    pub term: Term,
    /// Index of the entry.
    pub index: RaftIndex,
    /// As [`crate::entry::LogEntry::base_offset`].
    pub base_offset: KafkaOffset,
    /// The group's commit index as known when the frame was made.
    pub commit: RaftIndex,
    /// Bytes of the payload.
    pub len: u32,
}

impl FrameInfo {
    /// A frame without group or entry.
    #[must_use]
    pub fn bare(kind: FrameKind, len: u32) -> Self {
        Self {
            kind,
            entry_kind: EntryKind::Empty,
            group: GroupId(0),
            term: Term(0),
            index: RaftIndex(0),
            base_offset: KafkaOffset(0),
            commit: RaftIndex(0),
            len,
        }
    }

    /// How many bytes of the payload the frame's own checksum covers.
    fn covered(&self, payload: usize) -> usize {
        if self.holds_batch() { payload.min(BATCH_HEADER) } else { payload }
    }

    /// Whether the payload is a record batch.
    #[must_use]
    pub fn holds_batch(&self) -> bool {
        matches!(self.kind, FrameKind::Entry | FrameKind::Rewritten) && self.entry_kind == EntryKind::Batch
    }
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// Seeded CRC-32C of what follows, and of the payload (its first 61 bytes, if it is a batch).
    crc: U32,
    len: U32,
    group: U64,
    term: U64,
    index: U64,
    base_offset: I64,
    commit: U64,
    kind: u8,
    entry_kind: u8,
    reserved: [u8; 6],
}

/// Bytes of a frame header.
pub const FRAME_HEADER: usize = size_of::<FrameHeader>();
const _: () = assert!(FRAME_HEADER == 56);

impl FrameHeader {
    /// A frame's header, checksum included.
    #[must_use]
    pub fn new(seed: u32, info: &FrameInfo, payload: &[u8]) -> Self {
        assert_eq!(info.len as usize, payload.len(), "the header states the payload's length");
        let mut header = Self {
            crc: U32::new(0),
            len: U32::new(info.len),
            group: U64::new(info.group.0),
            term: U64::new(info.term.0),
            index: U64::new(info.index.0),
            base_offset: I64::new(info.base_offset.0),
            commit: U64::new(info.commit.0),
            kind: info.kind as u8,
            entry_kind: info.entry_kind as u8,
            reserved: [0; 6],
        };
        header.crc = U32::new(header.checksum(seed, &payload[..info.covered(payload.len())]));
        header
    }

    fn checksum(&self, seed: u32, covered: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(seed, &self.as_bytes()[4..]), covered)
    }

    /// Reads a frame header, unverified; none when a number in it has no meaning or `bytes` is too short.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, FrameInfo)> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        let info = FrameInfo {
            kind: FrameKind::from_u8(header.kind)?,
            entry_kind: EntryKind::from_u8(header.entry_kind)?,
            group: GroupId(header.group.get()),
            term: Term(header.term.get()),
            index: RaftIndex(header.index.get()),
            base_offset: KafkaOffset(header.base_offset.get()),
            commit: RaftIndex(header.commit.get()),
            len: header.len.get(),
        };
        Some((header, info))
    }

    /// Whether header and payload belong together and are sound, a batch's own CRC included.
    #[must_use]
    pub fn verifies(&self, seed: u32, info: &FrameInfo, payload: &[u8]) -> bool {
        payload.len() == info.len as usize
            && self.crc.get() == self.checksum(seed, &payload[..info.covered(payload.len())])
            && (!info.holds_batch() || batch_is_sound(payload))
    }
}

/// Whether a record batch's length field fits and its CRC-32C holds.
fn batch_is_sound(batch: &[u8]) -> bool {
    let (Some(length), Some(crc)) = (batch.get(8..12), batch.get(17..21)) else { return false };
    if batch.len() < BATCH_HEADER {
        return false;
    }
    let length = i32::from_be_bytes(length.try_into().unwrap_or_default());
    let crc = u32::from_be_bytes(crc.try_into().unwrap_or_default());
    usize::try_from(length).is_ok_and(|length| length + 12 == batch.len())
        && crc == crc32c::crc32c(&batch[21..])
}
