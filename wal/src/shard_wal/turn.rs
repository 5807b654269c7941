//! One turn: what a single write and a single fdatasync make durable. Pure; made by the shard's WAL, encoded at the
//! edge straight into the aligned buffer. That is the one copy of record bytes on the way in.

use std::path::PathBuf;

use bytes::Bytes;
use zerocopy::IntoBytes;

use crate::frame::{
    FRAME_HEADER, FrameHeader, FrameInfo, TURN_HEADER, TurnHeader, TurnInfo, WalIdentity, padded_turn_len,
};
use crate::types::{TurnNumber, WalSeq};

/// A frame that waits to be written.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) info: FrameInfo,
    pub(crate) payload: Bytes,
}

impl Frame {
    pub(crate) fn len(&self) -> usize {
        FRAME_HEADER + self.payload.len()
    }
}

/// The write of one turn. `position` and `padded_len` are multiples of 4 KiB.
#[derive(Clone, Debug)]
pub struct TurnWrite {
    /// The slot's file.
    pub path: PathBuf,
    /// The slot's number, for whoever keeps open files.
    pub slot: u32,
    /// Where in the file the turn goes.
    pub position: u64,
    /// Bytes to write.
    pub padded_len: usize,
    /// Its number.
    pub turn: TurnNumber,
    pub(crate) sequence: WalSeq,
    pub(crate) durable: TurnNumber,
    pub(crate) identity: WalIdentity,
    pub(crate) frames: Vec<Frame>,
    pub(crate) body_len: usize,
}

impl TurnWrite {
    /// Writes the turn into the first `padded_len` bytes of `buf`; whatever was there is overwritten.
    ///
    /// # Panics
    /// When `buf` is shorter than `padded_len`.
    pub fn encode_into(&self, buf: &mut [u8]) {
        assert_eq!(
            self.padded_len,
            padded_turn_len(self.body_len),
            "the length was planned for these frames"
        );
        let buf = &mut buf[..self.padded_len];
        let seed = self.identity.seed(self.sequence);
        let mut frames_crc = seed;
        let mut at = TURN_HEADER;
        for frame in &self.frames {
            let header = FrameHeader::new(seed, &frame.info, &frame.payload);
            frames_crc = crc32c::crc32c_append(frames_crc, header.as_bytes());
            buf[at..at + FRAME_HEADER].copy_from_slice(header.as_bytes());
            at += FRAME_HEADER;
            buf[at..at + frame.payload.len()].copy_from_slice(&frame.payload);
            at += frame.payload.len();
        }
        assert_eq!(at, TURN_HEADER + self.body_len, "all frames are in");
        buf[at..].fill(0);
        let info = TurnInfo {
            turn: self.turn,
            durable: self.durable,
            body_len: u32::try_from(self.body_len).expect("a turn fits a segment, which fits u32"),
            frames: u32::try_from(self.frames.len()).expect("fewer frames than bytes"),
            frames_crc,
        };
        let header = TurnHeader::new(seed, self.sequence, &info);
        buf[..TURN_HEADER].copy_from_slice(header.as_bytes());
    }

    /// The turn as bytes, for those who need no aligned buffer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut buf = vec![0; self.padded_len];
        self.encode_into(&mut buf);
        buf
    }

    /// Bytes of frames in it, padding aside.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body_len
    }
}
