//! A connected socket on its shard: a client's connection or a link between nodes, used by all parts of the task that owns it.
//!
//! Closed with that task, even while requests that are still under way keep the rest alive. The cell is borrowed for the
//! length of one call and never across an await.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

/// Reads of unread input at the end: 1 MiB, more than a socket usually holds, and nobody can make it longer.
const FINISH_READS_MAX: usize = 64;
const FINISH_READ_BYTES: usize = 16 << 10;

pub(crate) struct Socket(RefCell<TcpStream>);

impl Socket {
    /// Takes a connected socket to the calling shard.
    pub(crate) fn adopt(socket: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned here and is given away.
        Self(RefCell::new(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }))
    }

    /// Connects from the calling shard.
    pub(crate) async fn connect(address: SocketAddr, timeout_ms: u64) -> io::Result<Self> {
        let timeout = Duration::from_millis(timeout_ms.max(1));
        let stream = TcpStream::connect_timeout(address, timeout).await.map_err(io::Error::from)?;
        stream.set_nodelay(true).map_err(io::Error::from)?;
        Ok(Self(RefCell::new(stream)))
    }

    pub(crate) fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(context, buffer)
    }

    pub(crate) fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(context, bytes)
    }

    /// Runs `act` on the descriptor.
    pub(crate) fn with_descriptor<R>(&self, act: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
        let stream = self.0.borrow();
        // SAFETY: the stream owns the descriptor and is borrowed, hence open, for the length of the call.
        act(unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) })
    }

    /// A descriptor of the same socket that outlives this one, for another shard.
    ///
    /// glommio's stream does not give up its own. Dropping that one ends its polls on this shard's ring and nothing else, as
    /// long as [`Self::finish`] is not called: both descriptors are of one socket.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.with_descriptor(|socket| Ok(rustix::io::fcntl_dupfd_cloexec(socket, 3)?))
    }

    /// Closes in an orderly way: what was sent arrives even when the client had sent more than was read.
    pub(crate) fn finish(self) {
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
