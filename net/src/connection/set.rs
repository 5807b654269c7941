//! All connections of one shard: takes sockets in, closes idle ones, sends away those that move, ends them all at shutdown.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_lite::future::or;
use glommio::timer::Timer;

use super::budget::Budget;
use super::moving::{self, Moved, Unread, Ways};
use super::reader::Reader;
use super::shared::{Ending, Shared};
use super::{CloseReason, ConnectionConfig, ConnectionInfo, Service, writer};
use crate::acceptor::{Accepted, Permit};
use crate::rt::clock;
use crate::rt::event::Event;
use crate::rt::mailbox::{Receiver, Sender};
use crate::rt::scratch::Scratch;
use crate::rt::socket::Socket;

/// Longest pause between two looks at idle connections.
const SWEEP_MS_MAX: u64 = 1_000;
/// Half a frame that does not move for this long gives way when others wait for memory.
const STALL_MS: u64 = 30_000;

/// Counters of a shard's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    /// Open now.
    pub open: usize,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Requests started.
    pub requests: u64,
    /// Connections that came from other shards.
    pub arrivals: u64,
    /// Bytes of requests held now, under way or half received.
    pub request_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    received_bytes: Cell<u64>,
    sent_bytes: Cell<u64>,
    requests: Cell<u64>,
    arrivals: Cell<u64>,
}

impl Counters {
    pub(super) fn count_received(&self, bytes: usize) {
        self.received_bytes.set(self.received_bytes.get() + bytes as u64);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent_bytes.set(self.sent_bytes.get() + bytes as u64);
    }

    pub(super) fn count_request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    pub(super) fn count_arrival(&self) {
        self.arrivals.set(self.arrivals.get() + 1);
    }
}

/// The connections of one shard.
pub struct Connections<S: Service> {
    service: Rc<S>,
    config: ConnectionConfig,
    ways: Ways<S::Connection>,
    budget: Rc<Budget>,
    scratch: Scratch,
    counters: Counters,
    open: RefCell<BTreeMap<u64, Rc<Shared>>>,
    draining: Cell<bool>,
    one_closed: Event,
}

impl<S: Service> std::fmt::Debug for Connections<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connections({} open)", self.open.borrow().len())
    }
}

impl<S: Service> Connections<S> {
    /// An empty set on the calling shard, whose connections stay there. Idle connections are watched until the set is dropped.
    #[must_use]
    pub fn new(service: Rc<S>, config: ConnectionConfig) -> Rc<Self> {
        Self::linked(service, config, Vec::new())
    }

    /// As [`Self::new`], with connections that may move to the shards at the end of `ways`.
    #[must_use]
    pub fn linked(service: Rc<S>, config: ConnectionConfig, ways: Ways<S::Connection>) -> Rc<Self> {
        let set = Rc::new(Self {
            service,
            config,
            ways,
            budget: Rc::new(Budget::new(config.shard_request_bytes_max)),
            scratch: Scratch::default(),
            counters: Counters::default(),
            open: RefCell::default(),
            draining: Cell::new(false),
            one_closed: Event::new(),
        });
        glommio::spawn_local(sweep(Rc::downgrade(&set))).detach();
        set
    }

    /// Adopts sockets from the acceptor until [`Self::drain`].
    pub async fn serve(self: Rc<Self>, mut inbox: Receiver<Accepted>) {
        loop {
            let accepted = inbox.recv().await;
            self.adopt(accepted);
        }
    }

    /// Takes a socket in and serves it in a task of its own. Drops it when the shard is draining.
    pub fn adopt(self: &Rc<Self>, accepted: Accepted) {
        if self.draining.get() {
            return;
        }
        let Accepted { id, socket, peer, local, listener, permit } = accepted;
        let info = ConnectionInfo { id, peer, local, listener };
        let connection = self.service.connected(&info);
        let unread = Unread::new(self.config.frame_bytes_max);
        self.clone().serve_in_task(self.shared(info), Socket::adopt(socket), permit, connection, unread);
    }

    /// What the sides of a connection share here.
    pub(super) fn shared(&self, info: ConnectionInfo) -> Rc<Shared> {
        Rc::new(Shared::new(info, self.config, self.budget.clone()))
    }

    pub(super) fn serve_in_task(
        self: Rc<Self>,
        shared: Rc<Shared>,
        socket: Socket,
        permit: Permit,
        connection: S::Connection,
        unread: Unread,
    ) {
        self.open.borrow_mut().insert(shared.info.id, shared.clone());
        glommio::spawn_local(serve_one(self, shared, socket, permit, connection, unread)).detach();
    }

    pub(super) fn service(&self) -> &S {
        &self.service
    }

    pub(super) fn ways(&self) -> &[Sender<Moved<S::Connection>>] {
        &self.ways
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Stops reading everywhere, answers what is under way and closes; what is not done by then is cut off.
    /// True when nothing had to be cut off.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.draining.set(true);
        self.end_all(Ending::Flush);
        let all_closed = async {
            self.wait_until_closed().await;
            true
        };
        let too_late = async {
            Timer::new(grace).await;
            false
        };
        let clean = or(all_closed, too_late).await;
        if !clean {
            self.end_all(Ending::Now);
            self.wait_until_closed().await;
        }
        clean
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            open: self.open.borrow().len(),
            received_bytes: self.counters.received_bytes.get(),
            sent_bytes: self.counters.sent_bytes.get(),
            requests: self.counters.requests.get(),
            arrivals: self.counters.arrivals.get(),
            request_bytes: self.budget.used_bytes(),
        }
    }

    /// The connection is no longer here.
    fn forget(&self, shared: &Shared) {
        self.open.borrow_mut().remove(&shared.info.id);
        self.one_closed.notify();
    }

    async fn wait_until_closed(&self) {
        while !self.open.borrow().is_empty() {
            self.one_closed.wait().await;
        }
    }

    fn end_all(&self, ending: Ending) {
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        for shared in open {
            shared.end(ending, CloseReason::Shutdown);
        }
    }

    fn close_idle(&self, now_ms: u64) {
        let starved = self.budget.is_used_up();
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        for shared in open {
            let idle_ms = now_ms.saturating_sub(shared.last_activity_ms.get());
            let busy = shared.pipeline.borrow().waiting() > 0;
            if idle_ms >= self.config.idle_ms && !busy {
                shared.end(Ending::Now, CloseReason::Idle);
            } else if starved && shared.within_frame.get() && idle_ms >= STALL_MS {
                shared.end(Ending::Now, CloseReason::Stalled);
            }
        }
    }
}

/// Serves a connection until it ends or moves away.
async fn serve_one<S: Service>(
    set: Rc<Connections<S>>,
    shared: Rc<Shared>,
    socket: Socket,
    mut permit: Permit,
    mut connection: S::Connection,
    mut unread: Unread,
) {
    loop {
        let (service, scratch, counters) = (&*set.service, &set.scratch, &set.counters);
        let mut reader = Reader::new(&shared, &socket, service, &mut connection, scratch, counters, unread);
        let reading = async {
            reader.run().await;
            std::future::pending::<()>().await;
        };
        or(reading, writer::run(&shared, &socket, counters)).await;
        unread = reader.into_unread();
        if shared.ending().is_some() {
            break;
        }
        let Ok(duplicate) = socket.duplicate() else {
            // No descriptor is left for a moment: it goes on here.
            shared.stay();
            continue;
        };
        match set.send_away(&shared, moving::pack(&shared, duplicate, permit, connection, unread)) {
            Ok(()) => return set.forget(&shared),
            Err(back) => {
                shared.stay();
                Moved { permit, connection, unread, .. } = *back;
            }
        }
    }
    shared.forget_requests();
    socket.finish();
    let reason = shared.reason();
    tracing::debug!(connection = shared.info.id, peer = %shared.info.peer, %reason, "connection closed");
    set.service.closed(connection, &reason);
    set.forget(&shared);
    drop(permit);
}

async fn sweep<S: Service>(set: Weak<Connections<S>>) {
    loop {
        let Some(strong) = set.upgrade() else { return };
        strong.close_idle(clock::monotonic_ms());
        let pause_ms = (strong.config.idle_ms / 4).clamp(1, SWEEP_MS_MAX);
        drop(strong);
        Timer::new(Duration::from_millis(pause_ms)).await;
    }
}
