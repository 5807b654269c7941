//! What a link still has to send, bounded in frames and bytes. Pure; in order, nothing overtakes.

use std::collections::VecDeque;

use super::frame::{Frame, FrameError};

/// Why a frame was not taken. The frame comes back: the shard decides what to drop.
#[derive(Debug, PartialEq, Eq)]
pub struct NotSent {
    /// The frame, as it was given.
    pub frame: Frame,
    /// Why.
    pub reason: NotSentReason,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSentReason {
    /// The link's queue is full.
    #[error("the link's queue is full")]
    Full,
    /// The link is not up: what waits for a connection would be stale when it comes.
    #[error("the link is down")]
    Down,
    /// No such frame can be sent, ever.
    #[error(transparent)]
    Invalid(FrameError),
}

/// The frames that wait.
#[derive(Debug)]
pub struct SendQueue {
    frames: VecDeque<Frame>,
    bytes: usize,
    frames_max: usize,
    bytes_max: usize,
}

impl SendQueue {
    /// An empty queue with its bounds.
    #[must_use]
    pub fn new(frames_max: usize, bytes_max: usize) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, frames_max, bytes_max }
    }

    /// Adds a frame at the end. A frame larger than the whole bound is taken when nothing else waits, so that every legal
    /// frame can be sent.
    ///
    /// # Errors
    /// The frame, when there is no room or it is out of bounds itself.
    pub fn push(&mut self, frame: Frame) -> Result<(), NotSent> {
        if let Err(error) = frame.check() {
            return Err(NotSent { frame, reason: NotSentReason::Invalid(error) });
        }
        let bytes = frame.wire_bytes();
        let fits = self.frames.len() < self.frames_max && self.bytes + bytes <= self.bytes_max;
        if !fits && !self.frames.is_empty() {
            return Err(NotSent { frame, reason: NotSentReason::Full });
        }
        self.bytes += bytes;
        self.frames.push_back(frame);
        Ok(())
    }

    /// Takes the oldest frame.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.wire_bytes();
        Some(frame)
    }

    /// Forgets everything; the number of frames forgotten.
    pub fn clear(&mut self) -> usize {
        self.bytes = 0;
        let count = self.frames.len();
        self.frames.clear();
        count
    }

    /// Frames that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that wait, headers included.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{HEADER_BYTES, PARTS_MAX};
    use super::*;
    use bytes::Bytes;

    fn frame(group: u64, bytes: usize) -> Frame {
        Frame { parts: vec![Bytes::from(vec![0; bytes])], ..Frame::new(1, 0, group) }
    }

    #[test]
    fn bounds_hold_in_frames_and_bytes_and_order_is_kept() {
        let mut queue = SendQueue::new(3, 1_000);
        for group in 0..3 {
            queue.push(frame(group, 10)).unwrap();
        }
        let refused = queue.push(frame(3, 10)).unwrap_err();
        assert_eq!((refused.frame.group, refused.reason), (3, NotSentReason::Full));
        assert_eq!(queue.len_bytes(), 3 * (HEADER_BYTES + 4 + 10));
        assert_eq!(queue.pop().unwrap().group, 0);
        assert_eq!(queue.push(frame(4, 900)).unwrap_err().reason, NotSentReason::Full);
        queue.push(frame(5, 10)).unwrap();
        let groups: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|frame| frame.group).collect();
        assert_eq!(groups, [1, 2, 5]);
        assert_eq!((queue.len_bytes(), queue.is_empty()), (0, true));
    }

    #[test]
    fn a_frame_over_the_bound_goes_alone_and_an_illegal_one_never() {
        let mut queue = SendQueue::new(10, 100);
        queue.push(frame(1, 5_000)).unwrap();
        assert_eq!(queue.push(frame(2, 0)).unwrap_err().reason, NotSentReason::Full);
        assert_eq!((queue.clear(), queue.len_bytes()), (1, 0));
        for illegal in [
            Frame { kind: 0, ..frame(1, 1) },
            Frame { kind: 240, ..frame(1, 1) },
            Frame { parts: vec![Bytes::new(); PARTS_MAX + 1], ..frame(1, 1) },
        ] {
            assert!(matches!(queue.push(illegal).unwrap_err().reason, NotSentReason::Invalid(_)));
        }
        assert!(queue.is_empty());
    }
}
