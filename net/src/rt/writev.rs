//! Vectored writes to a socket, which glommio lacks: many slices, one system call, no copy.
//!
//! [`OutQueue`] holds the bytes that a connection still has to send, [`send_some`] offers them to the kernel. The call never
//! blocks the shard; a socket that takes nothing is reported, and the caller waits for it by glommio's own `poll_write`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use bytes::{Buf, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// Slices of one call. The kernel's own limit (IOV_MAX) is 1,024; beyond a hundred a call is as long as its copying.
pub const SLICES_PER_CALL: usize = 128;

/// Bytes to send, in order.
#[derive(Debug, Default)]
pub struct OutQueue {
    slices: VecDeque<Bytes>,
    bytes: usize,
}

impl OutQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes at the end; an empty slice is dropped.
    pub fn push(&mut self, slice: Bytes) {
        if slice.is_empty() {
            return;
        }
        self.bytes += slice.len();
        self.slices.push_back(slice);
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// The oldest slice, or an empty one.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        self.slices.front().map_or(&[], |slice| slice)
    }

    /// Forgets `sent` bytes at the front and drops the slices that are done.
    ///
    /// # Panics
    /// When more were sent than waited.
    pub fn advance(&mut self, mut sent: usize) {
        assert!(sent <= self.bytes, "{sent} bytes sent of {}", self.bytes);
        self.bytes -= sent;
        while let Some(first) = self.slices.front_mut() {
            if sent < first.len() {
                first.advance(sent);
                return;
            }
            sent -= first.len();
            self.slices.pop_front();
        }
    }
}

/// Sends as much of the queue as the socket takes now, in as few calls as it needs, and forgets it.
///
/// Returns the number of bytes sent; the queue is not empty afterwards when the socket is full.
///
/// # Errors
/// What the socket says; "would block" is not an error.
pub fn send_some(socket: BorrowedFd<'_>, queue: &mut OutQueue) -> io::Result<usize> {
    let mut total = 0;
    while !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES_PER_CALL];
        let mut count = 0;
        let mut offered = 0;
        for (slot, slice) in slices.iter_mut().zip(&queue.slices) {
            *slot = IoSlice::new(slice);
            offered += slice.len();
            count += 1;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match sendmsg(socket, &slices[..count], &mut SendAncillaryBuffer::default(), flags) {
            Ok(sent) => sent,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        };
        queue.advance(sent);
        total += sent;
        if sent < offered {
            break;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn many_slices_arrive_in_order_through_a_small_socket() {
        let (sender, mut receiver) = UnixStream::pair().unwrap();
        let mut queue = OutQueue::new();
        let mut expected = Vec::new();
        for number in 0..5_000usize {
            let slice: Vec<u8> = (0..number % 257).map(|byte| (byte + number) as u8).collect();
            expected.extend_from_slice(&slice);
            queue.push(Bytes::from(slice));
        }
        assert_eq!(queue.len_bytes(), expected.len());
        let mut got = Vec::new();
        let mut stalls = 0;
        while !queue.is_empty() {
            let sent = send_some(sender.as_fd(), &mut queue).unwrap();
            let mut chunk = vec![0; sent];
            receiver.read_exact(&mut chunk).unwrap();
            got.extend_from_slice(&chunk);
            stalls += 1;
        }
        assert!(stalls > 1, "the socket took everything at once: partial writes were not tried");
        assert_eq!(got, expected);
    }

    #[test]
    fn a_closed_peer_is_an_error_and_no_signal() {
        let (sender, receiver) = UnixStream::pair().unwrap();
        drop(receiver);
        let mut queue = OutQueue::new();
        queue.push(Bytes::from_static(b"x"));
        let error = send_some(sender.as_fd(), &mut queue).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    #[should_panic(expected = "bytes sent of")]
    fn more_sent_than_waited_is_a_broken_invariant() {
        let mut queue = OutQueue::new();
        queue.push(Bytes::from_static(b"ab"));
        queue.advance(3);
    }
}
