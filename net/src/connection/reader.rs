//! The reading side of a connection: receives, cuts frames, starts requests.
//!
//! All connections of a shard receive into one buffer (the system call is synchronous, so none holds it while it waits);
//! an idle connection therefore owns no buffer. The rest of a large frame is received straight into that frame.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_lite::future::{or, poll_fn};
use rustix::net::{RecvFlags, recv};

use super::moving::Unread;
use super::set::Counters;
use super::shared::{Ending, Shared, Slot};
use super::{Call, CloseReason, Service};
use crate::rt::clock;
use crate::rt::executor::breathe;
use crate::rt::scratch::Scratch;
use crate::rt::socket::Socket;

/// Reads in a row after which a connection lets the others of its shard go first.
const READS_PER_TURN: usize = 16;
/// How long a connection that is to move waits for its last answers before it stays: longer than consumers wait for records
/// (half a second by default), shorter than clients notice.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

/// Reads one connection until its end.
pub(super) struct Reader<'a, S: Service> {
    shared: &'a Rc<Shared>,
    socket: &'a Socket,
    service: &'a S,
    connection: &'a mut S::Connection,
    scratch: &'a Scratch,
    counters: &'a Counters,
    unread: Unread,
    /// What the budget knows of it.
    charged_bytes: usize,
    /// Receives since the connection last waited.
    reads: usize,
}

impl<'a, S: Service> Reader<'a, S> {
    pub(super) fn new(
        shared: &'a Rc<Shared>,
        socket: &'a Socket,
        service: &'a S,
        connection: &'a mut S::Connection,
        scratch: &'a Scratch,
        counters: &'a Counters,
        unread: Unread,
    ) -> Self {
        shared.within_frame.set(unread.frames.is_within_frame());
        let mut reader = Self {
            shared,
            socket,
            service,
            connection,
            scratch,
            counters,
            unread,
            charged_bytes: 0,
            reads: 0,
        };
        reader.settle();
        reader
    }

    /// What was received and has not become a request, for a reader on another shard.
    pub(super) fn into_unread(mut self) -> Unread {
        let frame_bytes_max = self.shared.config.frame_bytes_max;
        std::mem::replace(&mut self.unread, Unread::new(frame_bytes_max))
    }

    /// Reads until the connection is to end; the end has then been asked for. May be dropped while the connection is to move,
    /// and run again.
    pub(super) async fn run(&mut self) {
        if let Err(reason) = self.read_on().await {
            self.shared.end(Ending::Flush, reason);
        }
    }

    async fn read_on(&mut self) -> Result<(), CloseReason> {
        while self.shared.ending().is_none() {
            if self.shared.leaving().is_some() {
                self.wait_to_leave().await;
                continue;
            }
            if let Some((frame, pipelined)) = self.unread.held.take() {
                self.wait_to_start(frame.len(), pipelined).await;
                if self.shared.ending().is_some() {
                    return Ok(());
                }
                self.start(frame, pipelined);
                let mut rest = std::mem::take(&mut self.unread.rest);
                let consumed = self.absorb(&rest)?;
                rest.advance(consumed);
                self.unread.rest = rest;
                self.settle();
                continue;
            }
            self.wait_for_memory().await;
            poll_fn(|context| self.poll_receive(context)).await?;
            self.reads += 1;
            if self.reads == READS_PER_TURN {
                self.reads = 0;
                breathe().await;
            }
        }
        Ok(())
    }

    /// One successful receive, or the end.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        if self.shared.ending().is_some() {
            return Poll::Ready(Ok(()));
        }
        if self.receive_direct()? {
            return Poll::Ready(Ok(()));
        }
        let ending = pin!(self.shared.ending_asked.wait());
        if ending.poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let scratch = self.scratch;
        scratch.with(|buffer| match self.socket.poll_read(context, buffer) {
            Poll::Pending => {
                self.reads = 0;
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Err(CloseReason::Client)),
            Poll::Ready(Ok(count)) => {
                self.note_received(count);
                let consumed = self.absorb(&buffer[..count])?;
                self.unread.rest.extend_from_slice(&buffer[consumed..count]);
                self.settle();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(self.failed(&error)),
        })
    }

    /// Receives into the frame that is being received, when it is large; true when anything came.
    fn receive_direct(&mut self) -> Result<bool, CloseReason> {
        let Some(space) = self.unread.frames.direct_space() else {
            return Ok(false);
        };
        let received = self.socket.with_descriptor(|descriptor| recv(descriptor, space, RecvFlags::DONTWAIT));
        let count = match received {
            Ok((_, 0)) => return Err(CloseReason::Client),
            Ok((_, count)) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => {
                self.failed(&error.into())?;
                return Ok(false);
            }
        };
        self.note_received(count);
        // SAFETY: the kernel has written `count` bytes into that space.
        let frame = unsafe { self.unread.frames.direct_received(count) };
        if let Some(frame) = frame {
            self.take_frame(frame);
        }
        self.settle();
        Ok(true)
    }

    /// Cuts frames from `input` and starts them while they may start; bytes consumed.
    fn absorb(&mut self, input: &[u8]) -> Result<usize, CloseReason> {
        let mut left = input;
        while self.unread.held.is_none() && !left.is_empty() && self.shared.ending().is_none() {
            if let Some(frame) = self.unread.frames.feed(&mut left)? {
                self.take_frame(frame);
            }
        }
        self.shared.within_frame.set(self.unread.frames.is_within_frame());
        Ok(input.len() - left.len())
    }

    /// Starts a frame, or holds it until it may start.
    fn take_frame(&mut self, frame: BytesMut) {
        self.shared.within_frame.set(false);
        let pipelined = self.service.pipelines(&frame);
        if self.shared.may_start(frame.len(), pipelined) {
            self.start(frame, pipelined);
        } else {
            self.unread.held = Some((frame, pipelined));
        }
    }

    fn start(&mut self, frame: BytesMut, pipelined: bool) {
        self.counters.count_request();
        let number = self.shared.open(frame.len(), pipelined);
        let slot = Slot { shared: self.shared.clone(), number };
        match self.service.call(self.connection, frame, &slot) {
            Call::Done(outcome) => slot.responder().complete(outcome),
            Call::Deferred => {}
            Call::Later(future) => {
                let responder = slot.responder();
                glommio::spawn_local(async move { responder.complete(future.await) }).detach();
            }
        }
    }

    async fn wait_to_start(&self, request_bytes: usize, pipelined: bool) {
        while !self.shared.may_start(request_bytes, pipelined) && self.shared.ending().is_none() {
            if self.shared.is_muted() {
                let left_ms = self.shared.muted_until_ms.get().saturating_sub(clock::monotonic_ms());
                let pause = async {
                    glommio::timer::Timer::new(Duration::from_millis(left_ms.max(1))).await;
                };
                or(self.shared.progress.wait(), pause).await;
            } else {
                self.shared.progress.wait().await;
            }
        }
    }

    /// Receives nothing while the last answers are waited for. The writing side says when all are sent; after too long a time
    /// the connection stays.
    async fn wait_to_leave(&self) {
        let ended = async {
            while self.shared.ending().is_none() {
                self.shared.ending_asked.wait().await;
            }
        };
        let too_long = async {
            glommio::timer::Timer::new(LEAVE_WAIT).await;
            self.shared.stay();
        };
        or(ended, too_long).await;
    }

    async fn wait_for_memory(&self) {
        while !self.shared.budget.may_read(self.shared.info.id) && self.shared.ending().is_none() {
            self.shared.budget.wait(&self.shared.progress);
            self.shared.progress.wait().await;
        }
    }

    /// Tells the budget what this side holds now.
    fn settle(&mut self) {
        self.charge(self.unread.held_bytes());
    }

    fn charge(&mut self, bytes: usize) {
        if bytes != self.charged_bytes {
            self.shared.budget.resize(self.charged_bytes, bytes);
            self.charged_bytes = bytes;
        }
    }

    fn note_received(&self, count: usize) {
        self.counters.count_received(count);
        self.shared.last_activity_ms.set(clock::monotonic_ms());
    }

    /// A socket that failed has nothing more to send or to get.
    fn failed(&self, error: &io::Error) -> Result<(), CloseReason> {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
            return Ok(());
        }
        self.shared.end(Ending::Now, CloseReason::Socket(error.kind()));
        Ok(())
    }
}

impl<S: Service> Drop for Reader<'_, S> {
    /// However the connection ends, what it held is given back.
    fn drop(&mut self) {
        self.charge(0);
        self.shared.budget.end_overdraft(self.shared.info.id);
    }
}
