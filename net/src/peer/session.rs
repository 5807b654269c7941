//! What both ends of a connection do: receive frames, send bytes, keep alive, notice silence.
//!
//! One session a connection, within one task of one shard: its parts run side by side by `or` and share cells.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::future::{or, poll_fn};
use rustix::net::{RecvFlags, recv};

use super::frame::{CONTROL_VERSION, Decoder, Encoder, Frame};
use super::handshake::{KIND_KEEPALIVE, KIND_PROBE, Refusal};
use super::liveness::{Due, Liveness};
use super::registry::Claim;
use super::{DownReason, PeerConfig};
use crate::rt::clock;
use crate::rt::event::{Event, OneShotReceiver, OneShotSender, oneshot};
use crate::rt::executor::sleep;
use crate::rt::scratch::Scratch;
use crate::rt::socket::Socket;
use crate::rt::writev::{OutQueue, send_some};

/// State of one connection that its parts share.
pub(super) struct Session {
    pub(super) socket: Socket,
    pub(super) config: PeerConfig,
    out: RefCell<OutQueue>,
    encoder: RefCell<Encoder>,
    liveness: RefCell<Liveness>,
    keepalive_due: Cell<bool>,
    /// Since when the frame that is being received has been under way.
    within_since_ms: Cell<Option<u64>>,
    /// The shard has no room for frames; silence then says nothing.
    pub(super) paused: Cell<bool>,
    /// Wakes the sending part.
    pub(super) wake_sender: Event,
    pub(super) sent_bytes: Cell<u64>,
    pub(super) received_bytes: Cell<u64>,
    /// Who asked whether the other side is there, by number. They go with the session, which answers them as well.
    probes: RefCell<VecDeque<(u64, OneShotSender<()>)>>,
    last_probe: Cell<u64>,
}

impl Session {
    pub(super) fn new(socket: Socket, config: PeerConfig) -> Self {
        Self {
            socket,
            config,
            out: RefCell::default(),
            encoder: RefCell::default(),
            liveness: RefCell::new(Liveness::new(config.liveness, clock::monotonic_ms())),
            keepalive_due: Cell::new(false),
            within_since_ms: Cell::new(None),
            paused: Cell::new(false),
            wake_sender: Event::new(),
            sent_bytes: Cell::new(0),
            received_bytes: Cell::new(0),
            probes: RefCell::default(),
            last_probe: Cell::new(0),
        }
    }

    /// Asks the other side for a sign of life. The receiver gets nothing when the session ends before it comes.
    pub(super) fn probe(&self) -> OneShotReceiver<()> {
        let number = self.last_probe.get() + 1;
        self.last_probe.set(number);
        let (sender, receiver) = oneshot();
        let mut probes = self.probes.borrow_mut();
        // Those who wait no longer leave nothing behind.
        probes.retain(|(_, sender)| !sender.is_abandoned());
        probes.push_back((number, sender));
        self.enqueue_control(Frame::new(KIND_PROBE, 0, number));
        self.wake_sender.notify();
        receiver
    }

    /// The answer to a probe: it answers those before it as well.
    pub(super) fn probe_answered(&self, number: u64) {
        loop {
            let mut probes = self.probes.borrow_mut();
            if probes.front().is_none_or(|(asked, _)| *asked > number) {
                return;
            }
            let answered = probes.pop_front();
            // Given back before the waiter is woken: waking may run code that asks again.
            drop(probes);
            if let Some((_, sender)) = answered {
                sender.send(());
            }
        }
    }

    /// Sends a probe back.
    pub(super) fn answer_probe(&self, number: u64) {
        self.enqueue_control(Frame::new(KIND_PROBE, 0, number));
        self.wake_sender.notify();
    }

    /// Puts a frame behind what waits to be sent.
    pub(super) fn enqueue(&self, frame: Frame, version: u16) {
        let mut out = self.out.borrow_mut();
        self.encoder.borrow_mut().encode(frame, version, |slice| out.push(slice));
    }

    pub(super) fn enqueue_control(&self, frame: Frame) {
        self.enqueue(frame, CONTROL_VERSION);
    }

    /// Bytes encoded and not yet taken by the socket.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.out.borrow().len_bytes()
    }

    /// Queues a keepalive when one is due and nothing else says that we are here.
    pub(super) fn enqueue_keepalive(&self) {
        if self.keepalive_due.take() && self.unsent_bytes() == 0 {
            self.enqueue_control(Frame::new(KIND_KEEPALIVE, 0, 0));
        }
    }

    /// Sends what the socket takes of what waits; waits for it when it takes nothing.
    pub(super) async fn send(&self) -> io::Result<()> {
        let sent =
            self.socket.with_descriptor(|descriptor| send_some(descriptor, &mut self.out.borrow_mut()))?;
        self.note_sent(sent);
        if self.out.borrow().is_empty() {
            return Ok(());
        }
        // glommio knows no other way to wait for room than to write itself.
        let sent = poll_fn(|context| self.socket.poll_write(context, self.out.borrow().first())).await?;
        self.out.borrow_mut().advance(sent);
        self.note_sent(sent);
        Ok(())
    }

    /// Sends everything that waits.
    pub(super) async fn flush(&self) -> io::Result<()> {
        while self.unsent_bytes() > 0 {
            self.send().await?;
        }
        Ok(())
    }

    /// Tells the other side why it is refused, as far as the socket takes it at once, and closes.
    pub(super) fn refuse(self, refusal: &Refusal) {
        self.enqueue_control(refusal.to_frame());
        // A peer that does not take one small frame learns nothing; the connection closes all the same.
        let _ = self.socket.with_descriptor(|descriptor| send_some(descriptor, &mut self.out.borrow_mut()));
        self.socket.finish();
    }

    fn note_sent(&self, count: usize) {
        if count > 0 {
            self.sent_bytes.set(self.sent_bytes.get() + count as u64);
            self.liveness.borrow_mut().sent(clock::monotonic_ms());
        }
    }

    fn note_received(&self, count: usize, within_frame: bool, frame_ended: bool) {
        let now_ms = clock::monotonic_ms();
        self.received_bytes.set(self.received_bytes.get() + count as u64);
        self.liveness.borrow_mut().heard(now_ms);
        if !within_frame {
            self.within_since_ms.set(None);
        } else if frame_ended || self.within_since_ms.get().is_none() {
            self.within_since_ms.set(Some(now_ms));
        }
    }

    /// The shard takes frames again.
    pub(super) fn resume(&self) {
        self.paused.set(false);
        let now_ms = clock::monotonic_ms();
        self.liveness.borrow_mut().heard(now_ms);
        if self.within_since_ms.get().is_some() {
            self.within_since_ms.set(Some(now_ms));
        }
    }

    /// Asks for keepalives and ends when the other side is silent, stalls, or has a newer connection.
    pub(super) async fn watch(&self, claim: &Claim) -> DownReason {
        loop {
            let pause_ms = self.liveness.borrow_mut().pause_ms(clock::monotonic_ms());
            sleep(Duration::from_millis(pause_ms)).await;
            if claim.is_superseded() {
                return DownReason::Superseded;
            }
            let now_ms = clock::monotonic_ms();
            if self.paused.get() {
                self.liveness.borrow_mut().heard(now_ms);
            }
            let due = self.liveness.borrow_mut().tick(now_ms);
            match due {
                Due::Silent => return DownReason::Silent,
                Due::Keepalive => {
                    self.keepalive_due.set(true);
                    self.wake_sender.notify();
                }
                Due::Nothing => {}
            }
            let since_ms = self.within_since_ms.get().filter(|_| !self.paused.get());
            if since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= self.config.frame_ms) {
                return DownReason::Stalled;
            }
        }
    }
}

/// The receiving part of a session.
#[derive(Default)]
pub(super) struct FrameReceiver {
    pub(super) decoder: Decoder,
    /// Frames of the last receive that have not been taken: at most what [`SCRATCH_BYTES`] hold.
    ready: VecDeque<Frame>,
}

impl FrameReceiver {
    /// The next frame, waited for.
    pub(super) async fn next(&mut self, session: &Session, scratch: &Scratch) -> Result<Frame, DownReason> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            poll_fn(|context| self.poll_receive(session, scratch, context)).await?;
        }
    }

    /// Whether [`Self::next`] would give a frame without a receive.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn poll_receive(
        &mut self,
        session: &Session,
        scratch: &Scratch,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), DownReason>> {
        if self.receive_direct(session)? {
            return Poll::Ready(Ok(()));
        }
        scratch.with(|buffer| match session.socket.poll_read(context, buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(DownReason::Closed)),
            Poll::Ready(Ok(count)) => {
                let mut left = &buffer[..count];
                while !left.is_empty() {
                    self.ready.extend(self.decoder.feed(&mut left)?);
                }
                session.note_received(count, self.decoder.is_within_frame(), self.has_ready());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(socket_error(&error)),
        })
    }

    /// Receives into the frame that is being received, when it is large; true when anything came.
    fn receive_direct(&mut self, session: &Session) -> Result<bool, DownReason> {
        let Some(space) = self.decoder.direct_space() else {
            return Ok(false);
        };
        let received =
            session.socket.with_descriptor(|descriptor| recv(descriptor, space, RecvFlags::DONTWAIT));
        let count = match received {
            Ok((_, 0)) => return Err(DownReason::Closed),
            Ok((_, count)) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return socket_error(&error.into()).map(|()| false),
        };
        // SAFETY: the kernel has written `count` bytes into that space.
        let frame = unsafe { self.decoder.direct_received(count) }?;
        self.ready.extend(frame);
        session.note_received(count, self.decoder.is_within_frame(), self.has_ready());
        Ok(true)
    }
}

/// The end that an error of the socket means.
pub(super) fn down(error: &io::Error) -> DownReason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DownReason::ConnectionRefused,
        io::ErrorKind::TimedOut => DownReason::ConnectTimeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => DownReason::Closed,
        kind => DownReason::Socket(kind),
    }
}

fn socket_error(error: &io::Error) -> Result<(), DownReason> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(down(error)),
    }
}

/// Runs `future` for at most so long.
pub(super) async fn within<T>(
    timeout_ms: u64,
    future: impl Future<Output = Result<T, DownReason>>,
) -> Result<T, DownReason> {
    let too_late = async {
        sleep(Duration::from_millis(timeout_ms)).await;
        Err(DownReason::ConnectTimeout)
    };
    or(future, too_late).await
}
