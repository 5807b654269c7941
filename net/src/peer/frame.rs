//! The frames of a peer link: a fixed header, a table of part lengths, and the parts.
//!
//! Pure. The sending side makes [`Bytes`] of header and table and hands the parts out as they are; the receiving side
//! gets one buffer a frame, of exactly its size, and the parts are slices of it.
//!
//! ```text
//!  0 magic u32   4 header crc u32   8 body crc u32   12 body bytes u32
//! 16 version u16 18 part count u16 20 source shard u16 22 target shard u16
//! 24 group u64  32 kind u8  33 zero [7]  40 small [24]                      64: end of the header
//! 64 part lengths: part count × u32, then the parts; together "body bytes"     (all little-endian)
//! ```
//!
//! **Checksums** are CRC-32C. The header's covers bytes 8 to 63, hence the body's checksum and length too: no length is
//! believed, and nothing allocated, before it verifies. The body's covers the table and every part, record batches
//! included although they carry a CRC: Kafka's covers neither base offset, length, leader epoch nor magic, and a
//! receiver of a verified frame need not check the batch again, so the work is moved, not added.
//!
//! Invariants: a length is checked before anything is allocated for it; a peer that sends only a header gets at most
//! [`FIRST_STEP_BYTES`] of memory, which then doubles only as bytes arrive.

use std::mem::{MaybeUninit, offset_of, size_of};

use bytes::{Bytes, BytesMut};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every frame: "CHRK".
pub const MAGIC: [u8; 4] = *b"CHRK";
/// Size of the header.
pub const HEADER_BYTES: usize = 64;
/// Size of the header's area for the caller.
pub const SMALL_BYTES: usize = 24;
/// Table and parts of one frame: a record batch of 32 MiB, the largest that a topic may allow (SAFETY.md, rule 24), and 2 MiB for
/// what describes it. Raft packs more than one entry only up to 1 MiB.
pub const BODY_BYTES_MAX: usize = 34 << 20;
/// Parts of one frame: 1 MiB of the smallest record batches (61 bytes and a record each) fits.
pub const PARTS_MAX: usize = 16_384;
/// The largest kind that callers may use; those above belong to the link itself.
pub const KIND_MAX: u8 = 239;
/// Body of a frame of the link itself: a greeting or a refusal.
pub const CONTROL_BODY_BYTES_MAX: usize = 512;
/// What is allocated for a frame before more of it has come; untouched memory until it does. As much as Raft packs into one
/// message, so that such a frame never moves.
pub const FIRST_STEP_BYTES: usize = 1 << 20;
/// When this much of a frame is missing it is worth receiving straight into the frame.
const DIRECT_BYTES_MIN: usize = 16 << 10;
/// Headers and tables are cut from blocks of this size: one allocation for some 200 frames.
const ARENA_BYTES: usize = 16 << 10;
/// Version in the header of the link's own frames. Their layout never changes: they are how versions are agreed on.
pub(super) const CONTROL_VERSION: u16 = 0;
const LENGTH_BYTES: usize = 4;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    header_crc: U32,
    body_crc: U32,
    body_bytes: U32,
    version: U16,
    part_count: U16,
    source_shard: U16,
    target_shard: U16,
    group: U64,
    kind: u8,
    zero: [u8; 7],
    small: [u8; SMALL_BYTES],
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(offset_of!(Header, group) == 24 && offset_of!(Header, small) == 40);
const _: () = assert!(PARTS_MAX <= u16::MAX as usize && BODY_BYTES_MAX <= u32::MAX as usize);
const CHECKED_FROM: usize = offset_of!(Header, body_crc);

impl Header {
    fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[CHECKED_FROM..])
    }
}

/// A message between shards of two nodes. The link gives it no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is, from 1 to [`KIND_MAX`]; the caller's numbering.
    pub kind: u8,
    /// The shard it comes from. Set by the link when it is sent.
    pub source_shard: u16,
    /// The shard of the receiving node that it is for.
    pub target_shard: u16,
    /// The group it concerns, where it concerns one.
    pub group: u64,
    /// For the caller: small fixed fields, which cost no slice.
    pub small: [u8; SMALL_BYTES],
    /// The payload. Never copied on the way out, slices of one buffer on the way in.
    pub parts: Vec<Bytes>,
}

impl Frame {
    /// A frame without payload.
    #[must_use]
    pub fn new(kind: u8, target_shard: u16, group: u64) -> Self {
        Self { kind, source_shard: 0, target_shard, group, small: [0; SMALL_BYTES], parts: Vec::new() }
    }

    /// Its size on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes()
    }

    fn body_bytes(&self) -> usize {
        self.parts.iter().map(|part| LENGTH_BYTES + part.len()).sum()
    }

    /// Whether callers may send it.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn check(&self) -> Result<(), FrameError> {
        if self.kind == 0 || self.kind > KIND_MAX {
            return Err(FrameError::Kind { kind: self.kind });
        }
        if self.parts.len() > PARTS_MAX {
            return Err(FrameError::Parts);
        }
        let bytes = self.body_bytes();
        if bytes > BODY_BYTES_MAX {
            return Err(FrameError::TooLong { bytes, max: BODY_BYTES_MAX });
        }
        Ok(())
    }
}

/// What is wrong with bytes that ought to be a frame. The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Whoever speaks is no chronik node.
    #[error("not chronik's protocol between nodes (is a client using the raft port?)")]
    Magic,
    /// The header is damaged.
    #[error("a frame header fails its checksum")]
    HeaderChecksum,
    /// The body is damaged.
    #[error("a frame of {bytes} bytes fails its checksum")]
    BodyChecksum {
        /// Length of the body.
        bytes: usize,
    },
    /// Another version than the one agreed on.
    #[error("a frame of version {got} where {expected:?} was agreed on")]
    Version {
        /// What the frame says.
        got: u16,
        /// What was agreed on; none before the greeting is done.
        expected: Option<u16>,
    },
    /// A length beyond the bound.
    #[error("a frame of {bytes} bytes: at most {max} are allowed")]
    TooLong {
        /// Length of the body.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Part lengths that do not make up the body, or too many.
    #[error("the part lengths of a frame do not fit its length, or there are more than {PARTS_MAX}")]
    Parts,
    /// A kind that there is not, or bytes that must be zero.
    #[error("a frame of kind {kind}, or with reserved bytes set, cannot be")]
    Kind {
        /// What the frame says.
        kind: u8,
    },
}

/// Makes headers. One a connection.
#[derive(Debug, Default)]
pub struct Encoder {
    arena: BytesMut,
}

impl Encoder {
    /// Hands out the slices of a frame in order: header and table as one, then the parts as they are.
    ///
    /// # Panics
    /// When the frame is out of bounds: see [`Frame::check`].
    pub fn encode(&mut self, frame: Frame, version: u16, mut take: impl FnMut(Bytes)) {
        let part_count = u16::try_from(frame.parts.len()).expect("parts are bounded");
        let body_bytes = u32::try_from(frame.body_bytes()).expect("a body is bounded");
        assert!(body_bytes as usize <= BODY_BYTES_MAX, "a frame of {body_bytes} bytes");
        let front_bytes = HEADER_BYTES + LENGTH_BYTES * frame.parts.len();
        if self.arena.capacity() < front_bytes {
            self.arena = BytesMut::with_capacity(front_bytes.max(ARENA_BYTES));
        }
        self.arena.extend_from_slice(&[0; HEADER_BYTES]);
        for part in &frame.parts {
            let length = u32::try_from(part.len()).expect("a body is bounded");
            self.arena.extend_from_slice(&length.to_le_bytes());
        }
        let mut front = self.arena.split();
        let mut body_crc = crc32c::crc32c(&front[HEADER_BYTES..]);
        for part in &frame.parts {
            body_crc = crc32c::crc32c_append(body_crc, part);
        }
        let mut header = Header {
            magic: MAGIC,
            header_crc: U32::ZERO,
            body_crc: body_crc.into(),
            body_bytes: body_bytes.into(),
            version: version.into(),
            part_count: part_count.into(),
            source_shard: frame.source_shard.into(),
            target_shard: frame.target_shard.into(),
            group: frame.group.into(),
            kind: frame.kind,
            zero: [0; 7],
            small: frame.small,
        };
        header.header_crc = header.checksum().into();
        front[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        take(front.freeze());
        frame.parts.into_iter().for_each(take);
    }
}

struct Partial {
    header: Header,
    /// A vector, because unlike `BytesMut` it grows by exactly what is asked for.
    body: Vec<u8>,
    body_bytes: usize,
    crc: u32,
}

/// Cuts a byte stream into frames. One a connection.
pub struct Decoder {
    version: Option<u16>,
    header: Header,
    header_bytes: usize,
    partial: Option<Partial>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { version: None, header: Header::new_zeroed(), header_bytes: 0, partial: None }
    }
}

impl Decoder {
    /// Frames of callers are of this version from now on. Before that only the link's own frames are taken.
    pub fn agree(&mut self, version: u16) {
        self.version = Some(version);
    }

    /// Takes bytes from the front of `input` until a frame is complete or the input is used up.
    ///
    /// # Errors
    /// [`FrameError`]; the stream cannot be read on.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if self.partial.is_none() && !self.feed_header(input)? {
            return Ok(None);
        }
        if let Some(partial) = self.partial.as_mut() {
            let take = input.len().min(partial.body_bytes - partial.body.len());
            partial.make_room(take);
            partial.crc = crc32c::crc32c_append(partial.crc, &input[..take]);
            partial.body.extend_from_slice(&input[..take]);
            *input = &input[take..];
        }
        self.take_complete()
    }

    /// True once the header is complete and has been found good.
    fn feed_header(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        let take = input.len().min(HEADER_BYTES - self.header_bytes);
        let filled = self.header_bytes + take;
        self.header.as_mut_bytes()[self.header_bytes..filled].copy_from_slice(&input[..take]);
        self.header_bytes = filled;
        *input = &input[take..];
        let known = filled.min(MAGIC.len());
        if self.header.magic[..known] != MAGIC[..known] {
            return Err(FrameError::Magic);
        }
        if filled < HEADER_BYTES {
            return Ok(false);
        }
        self.header_bytes = 0;
        let body_bytes = self.check_header()?;
        let body = Vec::with_capacity(body_bytes.min(FIRST_STEP_BYTES));
        self.partial = Some(Partial { header: self.header, body, body_bytes, crc: 0 });
        Ok(true)
    }

    fn check_header(&self) -> Result<usize, FrameError> {
        let header = &self.header;
        if header.header_crc.get() != header.checksum() {
            return Err(FrameError::HeaderChecksum);
        }
        let is_control = header.kind > KIND_MAX;
        let expected = if is_control { Some(CONTROL_VERSION) } else { self.version };
        let got = header.version.get();
        if expected != Some(got) {
            return Err(FrameError::Version { got, expected });
        }
        if header.kind == 0 || header.zero != [0; 7] {
            return Err(FrameError::Kind { kind: header.kind });
        }
        let bytes = header.body_bytes.get() as usize;
        let max = if is_control { CONTROL_BODY_BYTES_MAX } else { BODY_BYTES_MAX };
        if bytes > max {
            return Err(FrameError::TooLong { bytes, max });
        }
        let part_count = usize::from(header.part_count.get());
        if part_count > PARTS_MAX || part_count * LENGTH_BYTES > bytes || (part_count == 0 && bytes > 0) {
            return Err(FrameError::Parts);
        }
        Ok(bytes)
    }

    /// Where the rest of a large frame can be received directly; none when little or nothing of a frame is missing.
    pub fn direct_space(&mut self) -> Option<&mut [MaybeUninit<u8>]> {
        let partial = self.partial.as_mut()?;
        let missing = partial.body_bytes - partial.body.len();
        if missing < DIRECT_BYTES_MIN {
            return None;
        }
        partial.make_room(1);
        let space = partial.body.spare_capacity_mut();
        let length = space.len().min(missing);
        Some(&mut space[..length])
    }

    /// Counts bytes that were received into [`Self::direct_space`]; the frame, when it is now complete.
    ///
    /// # Errors
    /// When the frame is complete and damaged.
    ///
    /// # Safety
    /// The first `count` bytes of that space must have been written.
    pub unsafe fn direct_received(&mut self, count: usize) -> Result<Option<Frame>, FrameError> {
        let Some(partial) = self.partial.as_mut() else { return Ok(None) };
        let before = partial.body.len();
        let length = before + count;
        assert!(
            length <= partial.body_bytes.min(partial.body.capacity()),
            "received beyond the end of a frame"
        );
        // SAFETY: the caller has written these bytes, and they are within the capacity.
        unsafe { partial.body.set_len(length) };
        partial.crc = crc32c::crc32c_append(partial.crc, &partial.body[before..]);
        self.take_complete()
    }

    /// Whether a frame has begun and is not complete.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        self.partial.is_some() || self.header_bytes > 0
    }

    /// Bytes allocated for the frame that is being received.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.body.capacity())
    }

    fn take_complete(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(partial) = self.partial.take_if(|partial| partial.body.len() == partial.body_bytes) else {
            return Ok(None);
        };
        let header = &partial.header;
        if partial.crc != header.body_crc.get() {
            return Err(FrameError::BodyChecksum { bytes: partial.body_bytes });
        }
        Ok(Some(Frame {
            kind: header.kind,
            source_shard: header.source_shard.get(),
            target_shard: header.target_shard.get(),
            group: header.group.get(),
            small: header.small,
            parts: cut(Bytes::from(partial.body), usize::from(header.part_count.get()))?,
        }))
    }
}

/// The parts of a body whose table has been found to fit in it.
fn cut(body: Bytes, part_count: usize) -> Result<Vec<Bytes>, FrameError> {
    let (table, _) = body.split_at(part_count * LENGTH_BYTES);
    let mut position = table.len();
    let mut parts = Vec::with_capacity(part_count);
    for length in table.chunks_exact(LENGTH_BYTES) {
        let length = U32::ref_from_bytes(length).map_or(0, |length| length.get() as usize);
        let end = position.checked_add(length).filter(|end| *end <= body.len()).ok_or(FrameError::Parts)?;
        parts.push(body.slice(position..end));
        position = end;
    }
    if position != body.len() {
        return Err(FrameError::Parts);
    }
    Ok(parts)
}

impl Partial {
    /// Makes sure that `more` bytes fit, doubling the buffer within the frame's length.
    fn make_room(&mut self, more: usize) {
        let held = self.body.len();
        if self.body.capacity() - held >= more {
            return;
        }
        let wanted = (self.body.capacity() * 2).max(held + more).min(self.body_bytes);
        self.body.reserve_exact(wanted - held);
    }
}

#[cfg(test)]
mod tests;
