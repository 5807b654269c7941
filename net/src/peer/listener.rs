//! The listening side: binds the raft port, greets those who dial, and hands their frames to the shard.
//!
//! Sockets come from an [`Acceptor`], shard by shard in turn; each connection then lives on the shard that got it. A frame's
//! target may be any shard of the node: the [`FrameSink`] passes it on. While the sink has no room the connection
//! is not read from, which the sending node feels as a full link.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::or;

use super::frame::{Frame, FrameError};
use super::handshake::{
    Greeting, KIND_HELLO, KIND_KEEPALIVE, KIND_PROBE, KIND_REFUSAL, KIND_WELCOME, Refusal,
};
use super::link::{ADMISSION_RETRY, Held};
use super::registry::{Admission, Direction, Registry};
use super::session::{FrameReceiver, Session, down, within};
use super::{DownReason, PeerConfig, PeerInfo};
use crate::acceptor::{Accepted, Acceptor, BindError, BoundListener, ConnectionLimits, ListenerConfig, bind};
use crate::rt::clock;
use crate::rt::event::Event;
use crate::rt::executor::{breathe, sleep, spawn};
use crate::rt::mailbox::{Receiver, Sender};
use crate::rt::scratch::Scratch;
use crate::rt::socket::Socket;

/// Connections on the raft port: sixteen nodes of 256 shards. Whoever does not greet in time gives the place back.
const CONNECTIONS_MAX: usize = 4_096;
/// A sink without room is asked again after this even when nobody calls [`IncomingLinks::resume`].
const SINK_RETRY: Duration = Duration::from_millis(10);
/// Frames in a row after which a connection lets the rest of its shard go first.
const FRAMES_PER_TURN: usize = 256;
/// Bytes of frames in a row after which it does.
const BYTES_PER_TURN: usize = 1 << 20;

/// Takes the frames that arrive on a shard.
pub trait FrameSink: 'static {
    /// Takes a frame of `from`, for shard `frame.target_shard` of this node. Not async, so that order is kept.
    ///
    /// # Errors
    /// The frame, when there is no room: it is offered again, before any other of its connection.
    fn deliver(&self, from: &PeerInfo, frame: Frame) -> Result<(), Frame>;

    /// A node's link has come up.
    fn link_up(&self, from: &PeerInfo) {
        let _ = from;
    }

    /// A node's link has ended.
    fn link_down(&self, from: &PeerInfo, reason: &DownReason) {
        let _ = (from, reason);
    }
}

/// Why the raft port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The accepting thread cannot be had.
    #[error("cannot start the thread that accepts links: {0}")]
    Thread(#[from] std::io::Error),
}

/// Binds the raft port and hands its connections to the shards in turn. The address with the port that the system chose.
///
/// # Errors
/// When the port cannot be had, with the remedy.
pub fn listen(
    address: SocketAddr,
    shards: Vec<Sender<Accepted>>,
) -> Result<(Acceptor, SocketAddr), ListenError> {
    let listener = bind(&ListenerConfig { name: "raft".to_owned(), address })?;
    let bound = listener.address();
    Ok((serve_port(listener, shards)?, bound))
}

/// Hands the connections of a raft port that is bound to the shards in turn.
///
/// # Errors
/// When the accepting thread cannot be had.
pub fn serve_port(listener: BoundListener, shards: Vec<Sender<Accepted>>) -> std::io::Result<Acceptor> {
    let limits = ConnectionLimits { total: CONNECTIONS_MAX, ..ConnectionLimits::default() };
    Acceptor::start(vec![listener], shards, limits)
}

/// Counters of a shard's incoming links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncomingStats {
    /// Connections open now, greeted or not.
    pub open: usize,
    /// Frames delivered.
    pub received_frames: u64,
    /// Bytes received on connections that have ended.
    pub received_bytes: u64,
    /// How often a sink had no room.
    pub paused: u64,
    /// Frames dropped because they name a shard that this node has not.
    pub dropped_no_shard: u64,
    /// Connections refused or closed in the greeting.
    pub refused: u64,
}

struct Open {
    stop: Rc<Event>,
    room: Rc<Event>,
}

/// The incoming links of a shard.
pub struct IncomingLinks<S: FrameSink> {
    registry: Arc<Registry>,
    config: PeerConfig,
    sink: Rc<S>,
    scratch: Scratch,
    open: RefCell<BTreeMap<u64, Open>>,
    stats: Cell<IncomingStats>,
    /// Connections that wait for the sink.
    paused: Cell<usize>,
    stopped: Cell<bool>,
}

impl<S: FrameSink> fmt::Debug for IncomingLinks<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IncomingLinks({} open)", self.open.borrow().len())
    }
}

impl<S: FrameSink> IncomingLinks<S> {
    /// No links yet.
    #[must_use]
    pub fn new(registry: Arc<Registry>, config: PeerConfig, sink: Rc<S>) -> Rc<Self> {
        Rc::new(Self {
            registry,
            config,
            sink,
            scratch: Scratch::default(),
            open: RefCell::default(),
            stats: Cell::default(),
            paused: Cell::default(),
            stopped: Cell::new(false),
        })
    }

    /// Adopts sockets from the acceptor, for ever.
    pub async fn serve(self: Rc<Self>, mut inbox: Receiver<Accepted>) {
        loop {
            let accepted = inbox.recv().await;
            self.adopt(accepted);
        }
    }

    /// Takes a socket in and serves it in a task of its own. Drops it when stopped.
    pub fn adopt(self: &Rc<Self>, accepted: Accepted) {
        if self.stopped.get() {
            return;
        }
        let events = (Rc::new(Event::new()), Rc::new(Event::new()));
        let open = Open { stop: events.0.clone(), room: events.1.clone() };
        self.open.borrow_mut().insert(accepted.id, open);
        spawn(serve_one(self.clone(), accepted, events.0, events.1));
    }

    /// Whether any connection waits for the sink.
    #[must_use]
    pub fn has_paused(&self) -> bool {
        self.paused.get() > 0
    }

    /// The sink has room again: paused connections go on at once.
    pub fn resume(&self) {
        let rooms: Vec<_> = self.open.borrow().values().map(|open| open.room.clone()).collect();
        for room in rooms {
            room.notify();
        }
    }

    /// Closes all connections and takes no more.
    pub fn stop(&self) {
        self.stopped.set(true);
        let stops: Vec<_> = self.open.borrow().values().map(|open| open.stop.clone()).collect();
        for stop in stops {
            stop.notify();
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> IncomingStats {
        IncomingStats { open: self.open.borrow().len(), ..self.stats.get() }
    }

    fn count(&self, change: impl FnOnce(&mut IncomingStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }
}

/// One connection, from its first byte to its end.
async fn serve_one<S: FrameSink>(
    links: Rc<IncomingLinks<S>>,
    accepted: Accepted,
    stop: Rc<Event>,
    room: Rc<Event>,
) {
    let Accepted { id, socket, peer, permit, .. } = accepted;
    let session = Session::new(Socket::adopt(socket), links.config);
    let mut receiver = FrameReceiver::default();
    let greeting = within(links.config.handshake_ms, greet(&links, &session, &mut receiver));
    let stopping = async {
        stop.wait().await;
        Err(DownReason::Stopped)
    };
    match or(greeting, stopping).await {
        Ok((from, held)) => {
            tracing::debug!(node = from.node, shard = from.source_shard, %peer, "incoming link is up");
            links.sink.link_up(&from);
            let stopping = async {
                stop.wait().await;
                DownReason::Stopped
            };
            let receiving = receive(&links, &from, receiver, &session, &held, &room);
            let watching = or(keep_alive(&session), session.watch(&held.claim));
            let reason = or(stopping, or(receiving, watching)).await;
            if let DownReason::RefusedByPeer(refusal) = &reason
                && refusal.code != super::RefusalCode::Removed
                && links.registry.is_news(from.node, Direction::In, refusal.code, clock::monotonic_ms())
            {
                tracing::error!(node = from.node, by = "the other node", reason = %refusal, "link between nodes refused");
            }
            tracing::debug!(node = from.node, shard = from.source_shard, %peer, %reason, "incoming link has ended");
            links.sink.link_down(&from, &reason);
            links.count(|stats| stats.received_bytes += session.received_bytes.get());
            session.socket.finish();
            // The place is given back last: a newer connection of this link starts after the sink has heard the end of this one.
            drop(held);
        }
        Err(reason) => {
            links.count(|stats| stats.refused += 1);
            turn_away(&links, session, peer, reason);
        }
    }
    links.open.borrow_mut().remove(&id);
    drop(permit);
}

/// Says why there will be no link, to the other side where it would understand, and to the log.
fn turn_away<S: FrameSink>(links: &IncomingLinks<S>, session: Session, peer: SocketAddr, reason: DownReason) {
    match reason {
        DownReason::RefusedByUs(refusal) => session.refuse(&refusal),
        DownReason::Frame(FrameError::Magic) => {
            // The same for every stranger: -1 is no node's id.
            let refusal = super::RefusalCode::Malformed;
            if links.registry.is_news(-1, Direction::In, refusal, clock::monotonic_ms()) {
                tracing::warn!(%peer, %reason, "connection on the raft port closed");
            }
            session.socket.finish();
        }
        reason => {
            tracing::debug!(%peer, %reason, "connection on the raft port closed before it was greeted");
            session.socket.finish();
        }
    }
}

/// Waits for a greeting, decides, and answers it.
async fn greet<S: FrameSink>(
    links: &IncomingLinks<S>,
    session: &Session,
    receiver: &mut FrameReceiver,
) -> Result<(PeerInfo, Held), DownReason> {
    let frame = receiver.next(session, &links.scratch).await?;
    if frame.kind != KIND_HELLO {
        return Err(DownReason::Protocol("the first frame is no greeting"));
    }
    let theirs = Greeting::from_frame(&frame).map_err(DownReason::RefusedByUs)?;
    let refused = |refusal: Refusal| {
        if links.registry.is_news(theirs.node, Direction::In, refusal.code, clock::monotonic_ms()) {
            tracing::error!(node = theirs.node, by = "this node", reason = %refusal, "link between nodes refused");
        }
        DownReason::RefusedByUs(refusal)
    };
    let version = links.registry.judge(None, &theirs).map_err(refused)?;
    let held = loop {
        let timeout_ms = links.config.liveness.timeout_ms;
        let now_ms = clock::monotonic_ms();
        match links.registry.admit(Direction::In, theirs.source_shard, &theirs, now_ms, timeout_ms) {
            Admission::Admitted(claim) => break Held { registry: links.registry.clone(), claim },
            Admission::Refused(refusal) => return Err(refused(refusal)),
            Admission::Wait => sleep(ADMISSION_RETRY).await,
        }
    };
    session.enqueue_control(links.registry.greeting().to_frame(KIND_WELCOME));
    session.flush().await.map_err(|error| down(&error))?;
    receiver.decoder.agree(version);
    let from = PeerInfo {
        node: theirs.node,
        directory: theirs.directory,
        shard_count: theirs.shard_count,
        cluster: theirs.cluster,
        source_shard: theirs.source_shard,
        version,
        address: theirs.address,
    };
    Ok((from, held))
}

/// Receives and delivers frames until the connection ends.
async fn receive<S: FrameSink>(
    links: &IncomingLinks<S>,
    from: &PeerInfo,
    mut receiver: FrameReceiver,
    session: &Session,
    held: &Held,
    room: &Event,
) -> DownReason {
    let shard_count = links.registry.greeting().shard_count;
    let (mut frames, mut bytes) = (0, 0);
    loop {
        let frame = match receiver.next(session, &links.scratch).await {
            Ok(frame) => frame,
            Err(reason) => return reason,
        };
        frames += 1;
        bytes += frame.wire_bytes();
        if frames >= FRAMES_PER_TURN || bytes >= BYTES_PER_TURN {
            (frames, bytes) = (0, 0);
            breathe().await;
        }
        if frame.kind == KIND_KEEPALIVE || !receiver.has_ready() {
            held.claim.heard(clock::monotonic_ms());
        }
        match frame.kind {
            KIND_KEEPALIVE => continue,
            KIND_PROBE => {
                session.answer_probe(frame.group);
                continue;
            }
            KIND_REFUSAL => return DownReason::RefusedByPeer(Refusal::from_frame(&frame)),
            KIND_HELLO | KIND_WELCOME => return DownReason::Protocol("a second greeting"),
            _ if frame.kind > super::frame::KIND_MAX => continue,
            _ => {}
        }
        if frame.source_shard != from.source_shard {
            return DownReason::Protocol("a frame of another shard's link");
        }
        if frame.target_shard >= shard_count {
            links.count(|stats| stats.dropped_no_shard += 1);
            continue;
        }
        if let Err(reason) = deliver(links, from, frame, session, held, room).await {
            return reason;
        }
    }
}

/// Gives a frame to the sink, waiting for room; nothing is read meanwhile.
async fn deliver<S: FrameSink>(
    links: &IncomingLinks<S>,
    from: &PeerInfo,
    mut frame: Frame,
    session: &Session,
    held: &Held,
    room: &Event,
) -> Result<(), DownReason> {
    loop {
        // ORDER: a connection that has been superseded delivers nothing more; the next one starts when this has ended.
        if held.claim.is_superseded() {
            return Err(DownReason::Superseded);
        }
        match links.sink.deliver(from, frame) {
            Ok(()) => break,
            Err(back) => frame = back,
        }
        if !session.paused.replace(true) {
            links.count(|stats| stats.paused += 1);
        }
        let _paused = Paused::enter(&links.paused);
        or(room.wait(), sleep(SINK_RETRY)).await;
    }
    links.count(|stats| stats.received_frames += 1);
    if session.paused.get() {
        session.resume();
    }
    Ok(())
}

/// Counts a connection as waiting for as long as it does.
struct Paused<'a>(&'a Cell<usize>);

impl<'a> Paused<'a> {
    fn enter(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Sends keepalives until the socket fails.
async fn keep_alive(session: &Session) -> DownReason {
    loop {
        session.wake_sender.wait().await;
        session.enqueue_keepalive();
        if let Err(error) = session.flush().await {
            return down(&error);
        }
    }
}
