//! How a shard's connections ask: each question goes to the shard that owns its subject and comes back once.
//!
//! One router a shard, shared by its connections and its pump (`Rc`, one thread). [`Router::ask`] queues the question
//! at once, so that questions reach an owner in the order in which they were asked; what it returns only waits.
//!
//! Invariant: every question gets its answer or is dropped with the router; a shard that cannot answer says
//! [`Reply::Unavailable`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use chronik_net::rt::event::{Event as Wake, OneShotReceiver, OneShotSender, oneshot};
use chronik_net::rt::mailbox::{Outbox, Sender};
use chronik_wal::identity::shard_of;
use chronik_wal::types::{GroupId, ShardId};

use super::Event;
use super::message::{Call, Message, Reply, Request};
use super::pump::Mail;
use super::report::Inquiry;
use crate::metadata::snapshot::Snapshot;

/// What waits for a shard's pump.
#[derive(Debug)]
pub(super) enum Inbound {
    /// For the shard itself.
    Event(Event),
    /// The answer to a question of this shard's connections.
    Reply { id: u64, reply: Reply },
    /// The admin endpoint wants to know how things stand.
    Inspect(Inquiry),
}

impl From<Message> for Inbound {
    fn from(message: Message) -> Self {
        match message {
            Message::Request { call, request } => Self::Event(Event::Request { call, request }),
            Message::Reply { id, reply } => Self::Reply { id, reply },
            Message::Metadata(snapshot, changes) => Self::Event(Event::Metadata(snapshot, changes)),
            Message::Leaders(events) => Self::Event(Event::Leaders(events)),
        }
    }
}

/// The way from the connections of one shard to every shard of the node.
pub struct Router {
    shard: ShardId,
    shard_count: u16,
    snapshot: Arc<ArcSwap<Snapshot>>,
    inbox: RefCell<VecDeque<Inbound>>,
    wake: Wake,
    outboxes: RefCell<Vec<Outbox<Mail>>>,
    waiting: RefCell<HashMap<u64, OneShotSender<Reply>>>,
    next_id: Cell<u64>,
}

impl Router {
    /// A router of `shard`; `senders` has the mailbox of every shard, in order.
    #[must_use]
    pub fn new(shard: ShardId, senders: &[Sender<Mail>], snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self {
            shard,
            shard_count: senders.len() as u16,
            snapshot,
            inbox: RefCell::default(),
            wake: Wake::new(),
            outboxes: RefCell::new(senders.iter().cloned().map(Outbox::new).collect()),
            waiting: RefCell::default(),
            next_id: Cell::new(0),
        }
    }

    /// The newest metadata.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The shard of this router.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Every shard of the node.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shard_count).map(ShardId)
    }

    /// The shard that owns a group.
    #[must_use]
    pub fn owner(&self, group: GroupId) -> ShardId {
        shard_of(group, self.shard_count)
    }

    /// Asks `shard`. The question is on its way when this returns.
    pub fn ask(&self, shard: ShardId, request: Request) -> (Call, OneShotReceiver<Reply>) {
        let id = self.next_id.get() + 1;
        self.next_id.set(id);
        let call = Call { origin: self.shard, id };
        let (sender, receiver) = oneshot();
        self.waiting.borrow_mut().insert(id, sender);
        self.send(shard, Message::Request { call, request });
        (call, receiver)
    }

    /// Sends without waiting for an answer.
    pub fn tell(&self, shard: ShardId, request: Request) {
        let call = Call { origin: self.shard, id: 0 };
        self.send(shard, Message::Request { call, request });
    }

    /// Queues a message for a shard.
    pub(super) fn send(&self, shard: ShardId, message: Message) {
        if shard == self.shard {
            return self.receive(message.into());
        }
        if let Some(outbox) = self.outboxes.borrow_mut().get_mut(usize::from(shard.0)) {
            outbox.send(Mail::Message(message));
        }
    }

    /// Puts something into the pump's queue and wakes it.
    pub(super) fn receive(&self, inbound: Inbound) {
        self.inbox.borrow_mut().push_back(inbound);
        self.wake.notify();
    }

    /// Hands an answer to whoever asked.
    pub(super) fn answer(&self, id: u64, reply: Reply) {
        let asker = self.waiting.borrow_mut().remove(&id);
        if let Some(asker) = asker {
            asker.send(reply);
        }
    }

    /// What waits longest for this shard's pump.
    pub(super) fn next(&self) -> Option<Inbound> {
        self.inbox.borrow_mut().pop_front()
    }

    /// Whether something waits for this shard's pump.
    pub(super) fn has_inbound(&self) -> bool {
        !self.inbox.borrow().is_empty()
    }

    /// Wakes the pump.
    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Sends what waited for room in other shards' mailboxes; false when some still waits.
    pub(super) fn flush(&self) -> bool {
        let mut outboxes = self.outboxes.borrow_mut();
        let mut flushed = true;
        for outbox in outboxes.iter_mut() {
            flushed &= outbox.flush();
        }
        flushed
    }

    /// Questions without an answer yet.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.borrow().len()
    }
}
