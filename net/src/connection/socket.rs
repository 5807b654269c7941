//! The socket of one connection, used by its reading and its writing side.
//!
//! Owned by the connection's task and closed with it, even while requests that are still under way keep the rest alive.
//! Both sides belong to one task, so the cell is borrowed for the length of one call and never across an await.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

/// Reads of unread input at the end: 1 MiB, more than a socket usually holds, and no client can make it longer.
const FINISH_READS_MAX: usize = 64;
const FINISH_READ_BYTES: usize = 16 << 10;

pub(super) struct Socket(RefCell<TcpStream>);

impl Socket {
    /// Takes a connected socket to the calling shard.
    pub(super) fn new(socket: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned here and is given away.
        Self(RefCell::new(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }))
    }

    pub(super) fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(context, buffer)
    }

    pub(super) fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(context, bytes)
    }

    /// Runs `act` on the descriptor.
    pub(super) fn with_descriptor<R>(&self, act: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
        let stream = self.0.borrow();
        // SAFETY: the stream owns the descriptor and is borrowed, hence open, for the length of the call.
        act(unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) })
    }

    /// Closes in an orderly way: what was sent arrives even when the client had sent more than was read.
    pub(super) fn finish(self) {
        // Closing with unread input makes the kernel send a reset, which can overtake the last answers: read it away.
        self.with_descriptor(|socket| {
            // The peer may be gone; then there is nothing to be orderly about.
            let _ = shutdown(socket, Shutdown::Write);
            let mut sink = [0u8; FINISH_READ_BYTES];
            for _ in 0..FINISH_READS_MAX {
                match recv(socket, &mut sink[..], RecvFlags::DONTWAIT) {
                    Ok((_, count)) if count > 0 => {}
                    _ => break,
                }
            }
        });
    }
}
