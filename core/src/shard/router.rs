//! How a shard's connections ask: each question goes to the shard that owns its subject and comes back once.
//!
//! One router a shard, shared by its connections and its pump (`Rc`, one thread). [`Router::ask`] queues the question
//! at once, so that questions reach an owner in the order in which they were asked; what it returns only waits.
//!
//! Invariant: every question gets its answer or is dropped with the router; a shard that cannot answer says
//! [`Reply::Unavailable`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use arc_swap::ArcSwap;
use chronik_net::rt::event::{Event as Wake, OneShotReceiver, oneshot};
use chronik_net::rt::mailbox::{Outbox, Sender};
use chronik_wal::identity::shard_of;
use chronik_wal::types::{GroupId, NodeId, ShardId};

use super::Event;
use super::message::{Call, Message, Reply, Request};
use super::pump::Mail;
use super::report::Inquiry;
use crate::metadata::snapshot::Snapshot;

/// Messages that wait for a shard's pump before other nodes have to wait: some turns' worth.
const INBOX_MAX: usize = 8_192;

/// What waits for a shard's pump.
#[derive(Debug)]
pub(crate) enum Inbound {
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
            Message::Event(event) => Self::Event(event),
            Message::Reply { id, reply } => Self::Reply { id, reply },
        }
    }
}

/// What is done with an answer.
pub type Then = Box<dyn FnOnce(Reply)>;

/// Who waits for an answer: places used again, each time under another number, so that a late answer finds nobody.
#[derive(Default)]
struct Waiting {
    places: Vec<(u32, Option<Then>)>,
    free: Vec<u32>,
    count: usize,
}

impl Waiting {
    /// Keeps `then`; its number is never 0.
    fn put(&mut self, then: Then) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            // As many questions as a u32 counts do not fit in memory.
            (self.places.len() - 1) as u32
        });
        let (generation, kept) = &mut self.places[place as usize];
        *generation = generation.wrapping_add(1).max(1);
        *kept = Some(then);
        self.count += 1;
        u64::from(*generation) << 32 | u64::from(place)
    }

    fn take(&mut self, id: u64) -> Option<Then> {
        let place = (id & u64::from(u32::MAX)) as u32;
        let (generation, kept) = self.places.get_mut(place as usize)?;
        if u64::from(*generation) != id >> 32 {
            return None;
        }
        let then = kept.take()?;
        self.free.push(place);
        self.count -= 1;
        Some(then)
    }
}

/// The way from the connections of one shard to every shard of the node.
pub struct Router {
    shard: ShardId,
    shard_count: u16,
    snapshot: Arc<ArcSwap<Snapshot>>,
    inbox: RefCell<VecDeque<Inbound>>,
    wake: Wake,
    /// There is room in the inbox again.
    room: Wake,
    outboxes: RefCell<Vec<Outbox<Mail>>>,
    waiting: RefCell<Waiting>,
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
            room: Wake::new(),
            outboxes: RefCell::new(senders.iter().cloned().map(Outbox::new).collect()),
            waiting: RefCell::default(),
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

    /// Whether the node has other shards than this one.
    #[must_use]
    pub fn has_other_shards(&self) -> bool {
        self.shard_count > 1
    }

    /// The shard that owns a group.
    #[must_use]
    pub fn owner(&self, group: GroupId) -> ShardId {
        shard_of(group, self.shard_count)
    }

    /// Asks `shard`. The question is on its way when this returns.
    pub fn ask(&self, shard: ShardId, request: Request) -> (Call, OneShotReceiver<Reply>) {
        let (sender, receiver) = oneshot();
        (self.ask_then(shard, request, Box::new(move |reply| sender.send(reply))), receiver)
    }

    /// As [`Router::ask`], with a function that takes the answer: no task waits, which is the cheap way for Produce.
    pub fn ask_then(&self, shard: ShardId, request: Request, then: Then) -> Call {
        let id = self.waiting.borrow_mut().put(then);
        let call = Call { origin: self.shard, id };
        self.send(shard, Message::Event(Event::Request { call, request }));
        call
    }

    /// Sends without waiting for an answer.
    pub fn tell(&self, shard: ShardId, request: Request) {
        let call = Call { origin: self.shard, id: 0 };
        self.send(shard, Message::Event(Event::Request { call, request }));
    }

    /// Queues a message for a shard.
    pub(crate) fn send(&self, shard: ShardId, message: Message) {
        if shard == self.shard {
            return self.receive(message.into());
        }
        self.post(shard, Mail::Message(message));
    }

    fn post(&self, shard: ShardId, mail: Mail) {
        let mut outboxes = self.outboxes.borrow_mut();
        let Some(outbox) = outboxes.get_mut(usize::from(shard.0)) else { return };
        outbox.send(mail);
        if outbox.overflow() > 0 {
            // The pump tries again what found no room.
            self.wake.notify();
        }
    }

    /// Whether a shard takes more from outside the node now. What shards of this node say to each other is always taken.
    pub(crate) fn has_room(&self, shard: ShardId) -> bool {
        if shard == self.shard {
            return self.inbox.borrow().len() < INBOX_MAX;
        }
        self.outboxes.borrow().get(usize::from(shard.0)).is_some_and(Outbox::has_room)
    }

    /// Tells the other shards that a node has been heard of.
    pub(crate) fn heard_of(&self, node: NodeId, address: Option<&Arc<str>>) {
        for shard in self.shards().filter(|shard| *shard != self.shard) {
            self.post(shard, Mail::Heard(node, address.cloned()));
        }
    }

    /// Puts something into the pump's queue and wakes it.
    pub(crate) fn receive(&self, inbound: Inbound) {
        self.inbox.borrow_mut().push_back(inbound);
        self.wake.notify();
    }

    /// Hands an answer to whoever asked.
    pub(super) fn answer(&self, id: u64, reply: Reply) {
        let asker = self.waiting.borrow_mut().take(id);
        if let Some(then) = asker {
            then(reply);
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

    /// Waits until the pump has caught up, when it is far behind: what comes in waits in the mailbox meanwhile.
    pub(super) async fn room(&self) {
        while self.inbox.borrow().len() >= INBOX_MAX {
            self.room.wait().await;
        }
    }

    /// The pump has taken in what a turn takes in.
    pub(super) fn caught_up(&self) {
        if self.inbox.borrow().len() < INBOX_MAX {
            self.room.notify();
        }
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
        self.waiting.borrow().count
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn an_answer_finds_its_asker_once_and_a_late_one_finds_nobody() {
        let mut waiting = Waiting::default();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let then = |name: &'static str| -> Then {
            let heard = heard.clone();
            Box::new(move |_| heard.borrow_mut().push(name))
        };
        let first = waiting.put(then("first"));
        let second = waiting.put(then("second"));
        assert!(first != 0 && first != second);
        waiting.take(first).expect("it waits")(Reply::Unavailable);
        assert!(waiting.take(first).is_none(), "answered once");
        let third = waiting.put(then("third"));
        assert_ne!(third, first, "the place is used again under another number");
        assert!(waiting.take(first).is_none());
        assert_eq!(waiting.count, 2);
        waiting.take(third).expect("it waits")(Reply::Unavailable);
        waiting.take(second).expect("it waits")(Reply::Unavailable);
        assert_eq!(*heard.borrow(), ["first", "third", "second"]);
        assert_eq!(waiting.count, 0);
    }
}
