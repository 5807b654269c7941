//! The bytes of the shard WAL: segment header, turn header, frame. Pure layouts and checksums; little-endian.
//!
//! ```text
//! segment   | header block, 4 KiB | turn | turn | … | turn with an end frame | unused |
//! turn      | turn header | frame | frame | … | zeros up to a multiple of 4 KiB |
//! frame     | frame header | payload |
//! ```
//!
//! Every checksum of a segment starts from a seed made of the directory id, the shard and the segment's sequence
//! number, so that what an earlier use of the slot left behind never verifies (SAFETY.md, rules 1 to 3).
//!
//! A frame's checksum covers its header and its payload; of a record batch only the first 61 bytes, among them the
//! batch's own CRC-32C, which covers the rest. That is enough: a torn write can join a new frame header to an old,
//! self-consistent batch, and the 61 bytes tell them apart (rule 2).

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::types::{NodeId, ShardId, TurnNumber, WalSeq};

mod header;
mod payload;

pub use header::{FRAME_HEADER, FrameHeader, FrameInfo, FrameKind};
pub use payload::{
    OpenedSegment, PayloadError, decode_checkpoint, decode_opened, decode_state, encode_checkpoint,
    encode_opened, encode_state,
};

/// The unit in which turns are written: what O_DIRECT needs of position and length, and what rule 1 pads to.
pub const BLOCK: usize = 4096;
/// Where the first turn of a segment starts.
pub const FIRST_TURN: u64 = BLOCK as u64;
/// Bytes of a record batch that the frame checksum covers: the whole v2 batch header.
pub const BATCH_HEADER: usize = 61;
/// The format of this file. A newer one is refused (rule 25).
pub const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"chronWAL";
const TURN_MAGIC: u32 = u32::from_le_bytes(*b"turn");

/// Whose WAL this is. All of it is in every segment header; a segment of another owner is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIdentity {
    /// The node's Kafka broker id.
    pub node: NodeId,
    /// Identity of the data directory, random, made once (see `identity`).
    pub directory: [u8; 16],
    /// The shard.
    pub shard: ShardId,
}

impl WalIdentity {
    /// What the checksums of a segment start from.
    ///
    /// A CRC tells any two inputs apart that differ within 32 bits only, so two segments of a shard differ in it for
    /// the first four thousand million sequence numbers.
    #[must_use]
    pub fn seed(&self, sequence: WalSeq) -> u32 {
        let crc = crc32c::crc32c(&self.directory);
        let crc = crc32c::crc32c_append(crc, &self.shard.0.to_le_bytes());
        crc32c::crc32c_append(crc, &sequence.0.to_le_bytes())
    }
}

/// The first bytes of a segment. All within one sector, so that a write of it is never torn.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    magic: [u8; 8],
    /// CRC-32C of what follows.
    crc: U32,
    version: U32,
    sequence: U64,
    oldest_live: U64,
    segment_len: U64,
    directory: [u8; 16],
    node: I32,
    shard: U16,
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<SegmentHeader>() == 64);

/// Why a header block is not a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// All zeros: the segment was never finished.
    Blank,
    /// Neither blank nor a header that verifies.
    Damaged,
    /// A newer format than this program knows.
    Version(u32),
    /// Sound, but of another directory, node or shard.
    Foreign,
}

/// What a segment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Which use of the slot this is.
    pub sequence: WalSeq,
    /// The oldest segment that still mattered when the header was written. Older ones may have been overwritten.
    pub oldest_live: WalSeq,
    /// Length of the segment in bytes, header block included.
    pub len: u64,
}

impl SegmentHeader {
    /// The header block of a segment.
    #[must_use]
    pub fn block(identity: &WalIdentity, info: SegmentInfo) -> Vec<u8> {
        let mut header = SegmentHeader {
            magic: SEGMENT_MAGIC,
            crc: U32::new(0),
            version: U32::new(FORMAT_VERSION),
            sequence: U64::new(info.sequence.0),
            oldest_live: U64::new(info.oldest_live.0),
            segment_len: U64::new(info.len),
            directory: identity.directory,
            node: I32::new(identity.node.0),
            shard: U16::new(identity.shard.0),
            reserved: [0; 2],
        };
        header.crc = U32::new(crc32c::crc32c(&header.as_bytes()[12..]));
        let mut block = vec![0; BLOCK];
        block[..size_of::<SegmentHeader>()].copy_from_slice(header.as_bytes());
        block
    }

    /// Reads a header block.
    ///
    /// # Errors
    /// When it is no sound header of this owner and a known format.
    pub fn read(block: &[u8], identity: &WalIdentity) -> Result<SegmentInfo, HeaderFault> {
        match Self::read_any(block)? {
            (owner, info) if owner == *identity => Ok(info),
            _ => Err(HeaderFault::Foreign),
        }
    }

    /// Reads a header block of whatever owner.
    ///
    /// # Errors
    /// When it is no sound header of a known format.
    pub fn read_any(block: &[u8]) -> Result<(WalIdentity, SegmentInfo), HeaderFault> {
        if block.iter().all(|&byte| byte == 0) {
            return Err(HeaderFault::Blank);
        }
        let (header, _) = SegmentHeader::read_from_prefix(block).map_err(|_| HeaderFault::Damaged)?;
        if header.magic != SEGMENT_MAGIC || header.crc.get() != crc32c::crc32c(&header.as_bytes()[12..]) {
            return Err(HeaderFault::Damaged);
        }
        if header.version.get() > FORMAT_VERSION {
            return Err(HeaderFault::Version(header.version.get()));
        }
        let owner = WalIdentity {
            node: NodeId(header.node.get()),
            directory: header.directory,
            shard: ShardId(header.shard.get()),
        };
        let info = SegmentInfo {
            sequence: WalSeq(header.sequence.get()),
            oldest_live: WalSeq(header.oldest_live.get()),
            len: header.segment_len.get(),
        };
        Ok((owner, info))
    }

    /// Whether the file is meant to be a segment, sound or not.
    #[must_use]
    pub fn is_claimed(block: &[u8]) -> bool {
        block.starts_with(&SEGMENT_MAGIC)
    }
}

/// The first bytes of a turn.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TurnHeader {
    magic: U32,
    /// Seeded CRC-32C of what follows.
    crc: U32,
    turn: U64,
    durable: U64,
    sequence: U64,
    body_len: U32,
    frames: U32,
    /// Seeded CRC-32C over all frame headers, one after the other.
    frames_crc: U32,
    reserved: U32,
}

/// Bytes of a turn header.
pub const TURN_HEADER: usize = size_of::<TurnHeader>();
const _: () = assert!(TURN_HEADER == 48);

/// What a turn header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnInfo {
    /// Its number.
    pub turn: TurnNumber,
    /// The newest turn known to be durable when this one was made. Always the one before, or nearer still.
    pub durable: TurnNumber,
    /// Bytes of all frames.
    pub body_len: u32,
    /// How many frames.
    pub frames: u32,
    /// Checksum over their headers.
    pub frames_crc: u32,
}

impl TurnInfo {
    /// Bytes that the turn takes in the segment.
    #[must_use]
    pub fn padded_len(&self) -> u64 {
        padded_turn_len(self.body_len as usize) as u64
    }
}

/// Bytes that a turn with so many bytes of frames takes: a multiple of [`BLOCK`].
#[must_use]
pub fn padded_turn_len(body_len: usize) -> usize {
    (TURN_HEADER + body_len).next_multiple_of(BLOCK)
}

impl TurnHeader {
    /// A turn's header, checksum included.
    #[must_use]
    pub fn new(seed: u32, sequence: WalSeq, info: &TurnInfo) -> Self {
        let mut header = Self {
            magic: U32::new(TURN_MAGIC),
            crc: U32::new(0),
            turn: U64::new(info.turn.0),
            durable: U64::new(info.durable.0),
            sequence: U64::new(sequence.0),
            body_len: U32::new(info.body_len),
            frames: U32::new(info.frames),
            frames_crc: U32::new(info.frames_crc),
            reserved: U32::new(0),
        };
        header.crc = U32::new(crc32c::crc32c_append(seed, &header.as_bytes()[8..]));
        header
    }

    /// Reads and verifies a turn header; none when there is no sound one of this segment.
    #[must_use]
    pub fn read(block: &[u8], seed: u32, sequence: WalSeq) -> Option<TurnInfo> {
        let (header, _) = TurnHeader::read_from_prefix(block).ok()?;
        let sound = header.magic.get() == TURN_MAGIC
            && header.sequence.get() == sequence.0
            && header.crc.get() == crc32c::crc32c_append(seed, &header.as_bytes()[8..]);
        sound.then(|| TurnInfo {
            turn: TurnNumber(header.turn.get()),
            durable: TurnNumber(header.durable.get()),
            body_len: header.body_len.get(),
            frames: header.frames.get(),
            frames_crc: header.frames_crc.get(),
        })
    }

    /// The sequence that a block claims as the turn header it may be, unverified.
    #[must_use]
    pub fn claimed_sequence(block: &[u8]) -> Option<WalSeq> {
        let (header, _) = TurnHeader::read_from_prefix(block).ok()?;
        (header.magic.get() == TURN_MAGIC).then(|| WalSeq(header.sequence.get()))
    }
}

#[cfg(test)]
mod tests;
