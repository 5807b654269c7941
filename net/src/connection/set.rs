//! All connections of one shard: takes sockets in, closes idle ones, ends them all at shutdown.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_lite::future::or;
use glommio::timer::Timer;

use super::budget::Budget;
use super::reader::Reader;
use super::shared::{Ending, Shared};
use super::{CloseReason, ConnectionConfig, ConnectionInfo, Service, writer};
use crate::acceptor::{Accepted, Permit};
use crate::rt::clock;
use crate::rt::event::Event;
use crate::rt::mailbox::Receiver;
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
    /// Bytes of requests held now, under way or half received.
    pub request_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    received_bytes: Cell<u64>,
    sent_bytes: Cell<u64>,
    requests: Cell<u64>,
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
}

/// The connections of one shard.
pub struct Connections<S: Service> {
    service: Rc<S>,
    config: ConnectionConfig,
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
    /// An empty set on the calling shard. Idle connections are watched until the set is dropped.
    #[must_use]
    pub fn new(service: Rc<S>, config: ConnectionConfig) -> Rc<Self> {
        let set = Rc::new(Self {
            service,
            config,
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
        let shared = Rc::new(Shared::new(info, self.config, self.budget.clone()));
        self.open.borrow_mut().insert(id, shared.clone());
        glommio::spawn_local(serve_one(self.clone(), shared, Socket::adopt(socket), permit)).detach();
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
            request_bytes: self.budget.used_bytes(),
        }
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

async fn serve_one<S: Service>(set: Rc<Connections<S>>, shared: Rc<Shared>, socket: Socket, permit: Permit) {
    let mut connection = set.service.connected(&shared.info);
    {
        let mut reader =
            Reader::new(&shared, &socket, &*set.service, &mut connection, &set.scratch, &set.counters);
        let reading = async {
            reader.run().await;
            std::future::pending::<()>().await;
        };
        or(reading, writer::run(&shared, &socket, &set.counters)).await;
    }
    shared.forget_requests();
    socket.finish();
    let reason = shared.reason();
    tracing::debug!(connection = shared.info.id, peer = %shared.info.peer, %reason, "connection closed");
    set.service.closed(connection, &reason);
    set.open.borrow_mut().remove(&shared.info.id);
    set.one_closed.notify();
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
