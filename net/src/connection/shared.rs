//! What the reading and the writing side of a connection share, and the handle by which a request is answered.
//!
//! Lives on the shard where the connection is, one for each stay; kept alive by requests that are still under way when the client has gone.
//! No `RefCell` here is borrowed across an await or while the service runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::budget::Budget;
use super::pipeline::{Answer, Pipeline};
use super::{CloseReason, ConnectionConfig, ConnectionInfo, Outcome};
use crate::rt::clock;
use crate::rt::event::Event;
use crate::rt::safety::{self, Outstanding};
use crate::rt::writev::OutQueue;

/// How the connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// Answer what is under way, then close.
    Flush,
    /// Close at once.
    Now,
}

pub(super) struct Shared {
    pub(super) info: ConnectionInfo,
    pub(super) config: ConnectionConfig,
    pub(super) budget: Rc<Budget>,
    pub(super) pipeline: RefCell<Pipeline>,
    pub(super) out: RefCell<OutQueue>,
    /// Something that a request of this connection waits for has changed: wakes the reading side.
    pub(super) progress: Rc<Event>,
    /// An answer may leave: wakes the writing side.
    pub(super) answered: Event,
    /// An end was asked for: wakes the reading side out of a receive, the writing side out of a full socket.
    pub(super) ending_asked: Event,
    pub(super) ending_asked_of_writer: Event,
    ending: Cell<Option<Ending>>,
    reason: RefCell<Option<CloseReason>>,
    /// The shard that the connection is to go on on, once all is answered.
    leaving: Cell<Option<usize>>,
    pub(super) muted_until_ms: Cell<u64>,
    pub(super) last_activity_ms: Cell<u64>,
    pub(super) within_frame: Cell<bool>,
    outstanding: RefCell<Option<Outstanding>>,
}

impl Shared {
    pub(super) fn new(info: ConnectionInfo, config: ConnectionConfig, budget: Rc<Budget>) -> Self {
        Self {
            info,
            config,
            budget,
            pipeline: RefCell::default(),
            out: RefCell::default(),
            progress: Rc::default(),
            answered: Event::new(),
            ending_asked: Event::new(),
            ending_asked_of_writer: Event::new(),
            ending: Cell::new(None),
            reason: RefCell::new(None),
            leaving: Cell::new(None),
            muted_until_ms: Cell::new(0),
            last_activity_ms: Cell::new(clock::monotonic_ms()),
            within_frame: Cell::new(false),
            outstanding: RefCell::new(None),
        }
    }

    /// Asks for an end. The first reason stays; a more urgent ending replaces a patient one.
    pub(super) fn end(&self, ending: Ending, reason: CloseReason) {
        self.reason.borrow_mut().get_or_insert(reason);
        if self.ending.get() < Some(ending) {
            self.ending.set(Some(ending));
            self.ending_asked.notify();
            self.ending_asked_of_writer.notify();
            self.progress.notify();
            self.answered.notify();
        }
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    pub(super) fn reason(&self) -> CloseReason {
        self.reason.borrow().clone().unwrap_or(CloseReason::Client)
    }

    /// Where the connection is to go, if anywhere.
    pub(super) fn leaving(&self) -> Option<usize> {
        self.leaving.get()
    }

    fn leave(&self, shard: usize) {
        self.leaving.set(Some(shard));
        // The writing side decides when all is answered: it may be so already.
        self.answered.notify();
    }

    /// The connection does not leave after all.
    pub(super) fn stay(&self) {
        self.leaving.set(None);
    }

    /// Gives a request its place.
    pub(super) fn open(&self, request_bytes: usize, pipelined: bool) -> u64 {
        self.budget.start(self.info.id, request_bytes);
        let mut pipeline = self.pipeline.borrow_mut();
        if pipeline.waiting() == 0 {
            *self.outstanding.borrow_mut() = Some(safety::outstanding());
        }
        pipeline.open(request_bytes, pipelined)
    }

    /// Ends a request. A second end of the same request has no effect.
    fn complete(&self, number: u64, outcome: Outcome) {
        let answer = match outcome {
            Outcome::Reply(frame) => Answer::Frame(frame),
            Outcome::ReplyThenMute { frame, mute_ms } => {
                let until_ms = clock::monotonic_ms().saturating_add(mute_ms);
                self.muted_until_ms.set(self.muted_until_ms.get().max(until_ms));
                Answer::Frame(frame)
            }
            Outcome::ReplyThenClose { frame, reason } => Answer::Last(frame, reason),
            Outcome::NoReply => Answer::Frame(super::ResponseFrame::Many(Vec::new())),
            Outcome::Close(reason) => Answer::Last(super::ResponseFrame::Many(Vec::new()), reason),
        };
        let mut pipeline = self.pipeline.borrow_mut();
        let Some(request_bytes) = pipeline.fill(number, answer) else {
            return;
        };
        let idle = pipeline.waiting() == 0;
        drop(pipeline);
        if idle {
            *self.outstanding.borrow_mut() = None;
        }
        self.budget.finish(request_bytes);
        self.answered.notify();
        self.progress.notify();
    }

    /// Gives up every request under way: they may still complete, to no effect.
    pub(super) fn forget_requests(&self) {
        let request_bytes = self.pipeline.borrow_mut().forget_all();
        *self.outstanding.borrow_mut() = None;
        self.budget.finish(request_bytes);
    }

    /// Whether a request of so many bytes may start now.
    pub(super) fn may_start(&self, request_bytes: usize, pipelined: bool) -> bool {
        let pipeline = self.pipeline.borrow();
        let fits = pipeline.request_bytes() == 0
            || pipeline.request_bytes() + request_bytes <= self.config.request_bytes_max;
        pipeline.may_start(pipelined)
            && fits
            && pipeline.len() < self.config.requests_max
            && pipeline.answer_bytes() + self.out.borrow().len_bytes() < self.config.unsent_bytes_max
            && self.ending.get().is_none()
            && self.leaving.get().is_none()
            && !self.is_muted()
    }

    pub(super) fn is_muted(&self) -> bool {
        self.muted_until_ms.get() > 0 && clock::monotonic_ms() < self.muted_until_ms.get()
    }
}

/// The place of the request that is being started; see [`super::Service::call`].
pub struct Slot {
    pub(super) shared: Rc<Shared>,
    pub(super) number: u64,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({} of connection {})", self.number, self.shared.info.id)
    }
}

impl Slot {
    /// The connection.
    #[must_use]
    pub fn info(&self) -> &ConnectionInfo {
        &self.shared.info
    }

    /// Asks that the connection go on on another shard of the node. It does, once this request and those before it have been
    /// answered and the answers sent, unless that takes too long or that shard takes none now: then it stays. To be used
    /// within [`super::Service::call`] alone: a request that waits for its start is safe then.
    pub fn move_to(&self, shard: usize) {
        self.shared.leave(shard);
    }

    /// A handle that ends this request later, from any task of this shard. To be used with [`super::Call::Deferred`].
    pub fn responder(&self) -> Responder {
        Responder { shared: self.shared.clone(), number: self.number }
    }
}

/// Ends one request. Dropped unused, it closes the connection: the client would wait for ever.
#[derive(Debug)]
#[must_use = "a request whose responder is dropped closes its connection"]
pub struct Responder {
    shared: Rc<Shared>,
    number: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connection {}", self.info.id)
    }
}

impl Responder {
    /// Ends the request. Without effect when the connection has gone.
    pub fn complete(self, outcome: Outcome) {
        self.shared.complete(self.number, outcome);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Completing twice has no effect, so this concerns only a responder that was never used.
        self.shared.complete(self.number, Outcome::Close(CloseReason::Abandoned));
    }
}
