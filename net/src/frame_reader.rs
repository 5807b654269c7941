//! Cuts a byte stream into frames: a 4-byte big-endian length, then that many bytes.
//!
//! Pure: fed with bytes, it hands out frames without their prefix. Owned by the reading side of one connection.
//! Invariants: a length is checked before anything is allocated for it; a frame's buffer has exactly its length once it
//! is complete, so that nothing else is pinned by its slices; a client that sends only a prefix gets at most
//! [`FIRST_STEP_BYTES`] of (untouched) memory, which then doubles only as bytes arrive.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};

/// `socket.request.max.bytes` by default.
pub const FRAME_BYTES_MAX: usize = 104_857_600;
/// What is allocated for a frame before more of it has come.
pub const FIRST_STEP_BYTES: usize = 1 << 20;
/// When this much of a frame is missing it is worth receiving straight into the frame; below, one read for several
/// frames costs less than the copy.
pub const DIRECT_BYTES_MIN: usize = 16 << 10;
const PREFIX_BYTES: usize = 4;

/// A length that no client of this protocol sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes: between 1 and {max_bytes} are allowed (socket.request.max.bytes)")]
pub struct FrameError {
    /// The length as read, signed as the protocol has it.
    pub length: i32,
    /// The limit.
    pub max_bytes: usize,
}

#[derive(Debug)]
struct Partial {
    /// A vector, because unlike `BytesMut` it grows by exactly what is asked for.
    buffer: Vec<u8>,
    length: usize,
}

/// The frame that is being received.
#[derive(Debug)]
pub struct FrameReader {
    max_bytes: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    partial: Option<Partial>,
}

impl FrameReader {
    /// A reader that refuses frames over `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, prefix: [0; PREFIX_BYTES], prefix_bytes: 0, partial: None }
    }

    /// Takes bytes from the front of `input` until a frame is complete or the input is used up.
    ///
    /// # Errors
    /// When a length is not positive or over the limit; the stream cannot be read on.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<BytesMut>, FrameError> {
        if self.partial.is_none() && !self.feed_prefix(input)? {
            return Ok(None);
        }
        if let Some(partial) = self.partial.as_mut() {
            let take = input.len().min(partial.length - partial.buffer.len());
            partial.make_room(take);
            partial.buffer.extend_from_slice(&input[..take]);
            *input = &input[take..];
        }
        Ok(self.take_complete())
    }

    /// Reads the length; true once the frame has begun.
    fn feed_prefix(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        let take = input.len().min(PREFIX_BYTES - self.prefix_bytes);
        self.prefix[self.prefix_bytes..self.prefix_bytes + take].copy_from_slice(&input[..take]);
        self.prefix_bytes += take;
        *input = &input[take..];
        if self.prefix_bytes < PREFIX_BYTES {
            return Ok(false);
        }
        self.prefix_bytes = 0;
        let length = i32::from_be_bytes(self.prefix);
        match usize::try_from(length) {
            Ok(bytes) if bytes > 0 && bytes <= self.max_bytes => {
                let buffer = Vec::with_capacity(bytes.min(FIRST_STEP_BYTES));
                self.partial = Some(Partial { buffer, length: bytes });
                Ok(true)
            }
            _ => Err(FrameError { length, max_bytes: self.max_bytes }),
        }
    }

    /// Where the rest of a large frame can be received directly; none when little or nothing of a frame is missing.
    pub fn direct_space(&mut self) -> Option<&mut [MaybeUninit<u8>]> {
        let partial = self.partial.as_mut()?;
        let missing = partial.length - partial.buffer.len();
        if missing < DIRECT_BYTES_MIN {
            return None;
        }
        partial.make_room(1);
        let space = partial.buffer.spare_capacity_mut();
        let length = space.len().min(missing);
        Some(&mut space[..length])
    }

    /// Counts bytes that were received into [`Self::direct_space`]; the frame, when it is now complete.
    ///
    /// # Safety
    /// The first `count` bytes of that space must have been written.
    pub unsafe fn direct_received(&mut self, count: usize) -> Option<BytesMut> {
        let partial = self.partial.as_mut()?;
        let length = partial.buffer.len() + count;
        assert!(
            length <= partial.length.min(partial.buffer.capacity()),
            "received beyond the end of a frame"
        );
        // SAFETY: the caller has written these bytes, and they are within the capacity.
        unsafe { partial.buffer.set_len(length) };
        self.take_complete()
    }

    /// Whether a frame has begun and is not complete.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        self.partial.is_some() || self.prefix_bytes > 0
    }

    /// Bytes allocated for the frame that is being received.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.buffer.capacity())
    }

    fn take_complete(&mut self) -> Option<BytesMut> {
        let partial = self.partial.take_if(|partial| partial.buffer.len() == partial.length)?;
        // Neither conversion copies: the vector is full and nobody shares it.
        Some(BytesMut::from(Bytes::from(partial.buffer)))
    }
}

impl Partial {
    /// Makes sure that `more` bytes fit, doubling the buffer within the frame's length.
    fn make_room(&mut self, more: usize) {
        let held = self.buffer.len();
        if self.buffer.capacity() - held >= more {
            return;
        }
        let wanted = (self.buffer.capacity() * 2).max(held + more).min(self.length);
        self.buffer.reserve_exact(wanted - held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend_from_slice(&i32::try_from(frame.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(frame);
        }
        bytes
    }

    fn read(reader: &mut FrameReader, mut input: &[u8]) -> Result<Vec<BytesMut>, FrameError> {
        let mut frames = Vec::new();
        while !input.is_empty() {
            frames.extend(reader.feed(&mut input)?);
        }
        Ok(frames)
    }

    #[test]
    fn frames_split_at_every_byte_come_out_whole() {
        let frames = vec![vec![1], vec![2; 300], vec![3, 4, 5], vec![6; 70]];
        let bytes = wire(&frames);
        for split in 0..=bytes.len() {
            let mut reader = FrameReader::new(FRAME_BYTES_MAX);
            let mut got = read(&mut reader, &bytes[..split]).unwrap();
            got.extend(read(&mut reader, &bytes[split..]).unwrap());
            assert_eq!(got, frames, "split at {split}");
            assert!(!reader.is_within_frame());
        }
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        let got: Vec<_> = bytes.iter().flat_map(|byte| read(&mut reader, &[*byte]).unwrap()).collect();
        assert_eq!(got, frames);
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_anything_is_allocated() {
        for length in [0, -1, i32::MIN, 101, i32::MAX] {
            let mut reader = FrameReader::new(100);
            let error = reader.feed(&mut &length.to_be_bytes()[..]).unwrap_err();
            assert_eq!(error, FrameError { length, max_bytes: 100 });
            assert_eq!(reader.held_bytes(), 0);
        }
        assert!(FrameReader::new(100).feed(&mut &100i32.to_be_bytes()[..]).is_ok());
        // "GET / HTTP/1.1" read as a length is over a gigabyte.
        assert!(FrameReader::new(FRAME_BYTES_MAX).feed(&mut &b"GET / HTTP/1.1"[..]).is_err());
    }

    #[test]
    fn a_prefix_alone_takes_little_memory_and_the_buffer_grows_with_what_comes() {
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        reader.feed(&mut &i32::try_from(FRAME_BYTES_MAX).unwrap().to_be_bytes()[..]).unwrap();
        assert!(reader.held_bytes() <= FIRST_STEP_BYTES);
        let chunk = vec![7; 64 << 10];
        let mut sent = 0;
        while sent < 3 * FIRST_STEP_BYTES {
            assert!(reader.feed(&mut &chunk[..]).unwrap().is_none());
            sent += chunk.len();
            assert!(reader.held_bytes() <= (2 * sent).max(FIRST_STEP_BYTES));
        }
    }

    #[test]
    fn a_large_frame_is_received_in_place_and_has_its_exact_size() {
        let length = 3 * FIRST_STEP_BYTES + 123;
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        reader.feed(&mut &i32::try_from(length).unwrap().to_be_bytes()[..]).unwrap();
        let mut received = 0;
        let mut frame = None;
        let mut end = std::ptr::null();
        while let Some(space) = reader.direct_space() {
            let count = space.len().min(100_000);
            end = space[count..].as_ptr().cast::<u8>();
            space[..count].fill(MaybeUninit::new(9));
            received += count;
            // SAFETY: filled just above.
            frame = unsafe { reader.direct_received(count) };
            assert!(frame.is_none() || received == length);
        }
        let rest = vec![9; length - received];
        if frame.is_none() {
            frame = reader.feed(&mut &rest[..]).unwrap();
            end = end.wrapping_add(rest.len());
        }
        let frame = frame.unwrap();
        assert_eq!((frame.len(), frame.capacity()), (length, length));
        assert_eq!(frame.as_ptr_range().end, end, "the frame was copied when it was complete");
        assert!(frame.iter().all(|byte| *byte == 9));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_frames_in_any_pieces(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..20),
            pieces in prop::collection::vec(1usize..150, 1..50),
        ) {
            let bytes = wire(&frames);
            let mut reader = FrameReader::new(1_000);
            let (mut got, mut rest) = (Vec::new(), &bytes[..]);
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                got.extend(read(&mut reader, now).unwrap());
                rest = later;
            }
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut reader = FrameReader::new(300);
            let _ = read(&mut reader, &bytes);
        }
    }
}
