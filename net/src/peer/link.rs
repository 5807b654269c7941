//! The dialling side: the link from one shard to one other node.
//!
//! Lives on its shard, as one task that connects, greets, sends and connects again, until it is stopped. [`Link`] is the
//! handle that the shard's pump holds; a clone costs a reference count.
//!
//! Invariants: frames leave in the order of [`Link::try_send`]; everything queued in one turn of the pump leaves in one
//! vectored write, because the task runs only when the pump yields; nothing waits while the link is down.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::or;

use super::backoff::Backoff;
use super::frame::Frame;
use super::handshake::{
    Greeting, KIND_HELLO, KIND_KEEPALIVE, KIND_PROBE, KIND_REFUSAL, KIND_WELCOME, Refusal, RefusalCode,
};
use super::queue::{NotSent, NotSentReason, SendQueue};
use super::registry::{Admission, Claim, Direction, Registry};
use super::resolve::resolve;
use super::session::{FrameReceiver, Session, down, within};
use super::{DownReason, PeerConfig, PeerInfo};
use crate::rt::clock;
use crate::rt::event::{Event, OneShotReceiver};
use crate::rt::executor::{breathe, sleep, spawn};
use crate::rt::scratch::Scratch;
use crate::rt::socket::Socket;

/// Frames are encoded and checksummed in portions of this size, so that a long queue does not hold up the shard.
const GATHER_BYTES: usize = 1 << 20;
/// Pause between two looks at whether the connection before this one has ended.
pub(super) const ADMISSION_RETRY: Duration = Duration::from_millis(5);

/// What becomes of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Frames can be sent now.
    Up(PeerInfo),
    /// The link has been up and is not any more: what was under way may be lost. Or a try has failed, for the first time or for
    /// another reason than the one before.
    Down {
        /// The node.
        node: i32,
        /// Why.
        reason: DownReason,
    },
}

/// Counters of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Frames handed to the socket.
    pub sent_frames: u64,
    /// Frames dropped because the link went down with them.
    pub lost_frames: u64,
    /// Frames refused: full or down.
    pub refused_frames: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Connections that came up.
    pub connections: u64,
    /// Tries that failed.
    pub failures: u64,
}

struct Core {
    node: i32,
    source_shard: u16,
    address: RefCell<String>,
    registry: Arc<Registry>,
    config: PeerConfig,
    queue: RefCell<SendQueue>,
    /// The session that is up; its sender is woken by [`Link::try_send`].
    up: RefCell<Option<(PeerInfo, Rc<Session>)>>,
    stats: Cell<LinkStats>,
    hurry: Event,
    stop: Event,
    stopped: Cell<bool>,
    last_down: RefCell<Option<DownReason>>,
    events: Box<dyn Fn(LinkEvent)>,
}

/// The link of a shard to a node.
#[derive(Clone)]
pub struct Link {
    core: Rc<Core>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.peer().is_some() { "up" } else { "down" };
        write!(f, "Link(to node {}, {state}, {} frames wait)", self.core.node, self.waiting().0)
    }
}

impl Link {
    /// Starts a link of the calling shard `source_shard` to `node` at `address` (`host:port`). `random` is drawn from once a failed
    /// try. `events` is called from the link's task, never from within [`Self::try_send`].
    #[must_use]
    pub fn start(
        registry: Arc<Registry>,
        config: PeerConfig,
        source_shard: u16,
        node: i32,
        address: &str,
        random: impl FnMut() -> u64 + 'static,
        events: impl Fn(LinkEvent) + 'static,
    ) -> Self {
        let core = Rc::new(Core {
            node,
            source_shard,
            address: RefCell::new(address.to_owned()),
            registry,
            config,
            queue: RefCell::new(SendQueue::new(config.queue_frames_max, config.queue_bytes_max)),
            up: RefCell::new(None),
            stats: Cell::default(),
            hurry: Event::new(),
            stop: Event::new(),
            stopped: Cell::new(false),
            last_down: RefCell::new(None),
            events: Box::new(events),
        });
        spawn(run(core.clone(), random));
        Self { core }
    }

    /// Queues a frame. It leaves when the calling task yields, with all others of its turn. Never blocks.
    ///
    /// # Errors
    /// The frame and why it was not taken.
    pub fn try_send(&self, mut frame: Frame) -> Result<(), NotSent> {
        frame.source_shard = self.core.source_shard;
        let up = self.core.up.borrow();
        let Some((_, session)) = &*up else {
            self.core.count(|stats| stats.refused_frames += 1);
            return Err(NotSent { frame, reason: NotSentReason::Down });
        };
        let pushed = self.core.queue.borrow_mut().push(frame);
        match pushed {
            Ok(()) => session.wake_sender.notify(),
            Err(_) => self.core.count(|stats| stats.refused_frames += 1),
        }
        pushed
    }

    /// The node on the other side while the link is up.
    #[must_use]
    pub fn peer(&self) -> Option<PeerInfo> {
        self.core.up.borrow().as_ref().map(|(peer, _)| peer.clone())
    }

    /// The number of shards of the node on the other side while the link is up.
    #[must_use]
    pub fn shard_count(&self) -> Option<u16> {
        self.core.up.borrow().as_ref().map(|(peer, _)| peer.shard_count)
    }

    /// Frames and bytes that wait in the queue.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.core.queue.borrow();
        (queue.len(), queue.len_bytes())
    }

    /// Asks the other node whether it is there. `None` when the link is down and there is nobody to ask; the receiver gets nothing
    /// when the link goes down before the answer comes.
    #[must_use]
    pub fn probe(&self) -> Option<OneShotReceiver<()>> {
        self.core.up.borrow().as_ref().map(|(_, session)| session.probe())
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let stats = self.core.stats.get();
        let under_way = self.core.up.borrow().as_ref().map_or(0, |(_, session)| session.sent_bytes.get());
        LinkStats { sent_bytes: stats.sent_bytes + under_way, ..stats }
    }

    /// Dials another address from the next try on.
    pub fn set_address(&self, address: &str) {
        address.clone_into(&mut self.core.address.borrow_mut());
        // That nobody is there either is news.
        *self.core.last_down.borrow_mut() = None;
    }

    /// Ends the wait between two tries: the node has just been heard of otherwise.
    pub fn hurry(&self) {
        self.core.hurry.notify();
    }

    /// Ends the link for good; the last event is `Down` when it was up.
    pub fn stop(&self) {
        self.core.stopped.set(true);
        self.core.stop.notify();
    }
}

/// Who has refused a link.
const THE_OTHER: &str = "the other node";

impl Core {
    fn count(&self, change: impl FnOnce(&mut LinkStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn greeting(&self) -> Greeting {
        let ours = self.registry.greeting();
        Greeting { source_shard: self.source_shard, dialled_node: self.node, ..ours }
    }

    fn log_refusal(&self, refusal: &Refusal, by: &'static str) {
        if by == THE_OTHER && refusal.code == RefusalCode::Removed {
            // Said once, by whoever hears the event, not once for each node.
            return;
        }
        if self.registry.is_news(self.node, Direction::Out, refusal.code, clock::monotonic_ms()) {
            let address = &*self.address.borrow();
            tracing::error!(node = self.node, address, by, reason = %refusal, "link between nodes refused");
        }
    }

    /// Tells of the end of a try or of a connection.
    fn ended(&self, was_up: bool, reason: DownReason) {
        match &reason {
            DownReason::RefusedByPeer(refusal) => self.log_refusal(refusal, THE_OTHER),
            DownReason::RefusedByUs(refusal) => self.log_refusal(refusal, "this node"),
            reason => tracing::debug!(node = self.node, %reason, was_up, "link between nodes is down"),
        }
        let repeated = self.last_down.borrow().as_ref() == Some(&reason);
        if was_up || !repeated {
            *self.last_down.borrow_mut() = Some(reason.clone());
            (self.events)(LinkEvent::Down { node: self.node, reason });
        }
    }
}

/// The link's task.
async fn run(core: Rc<Core>, mut random: impl FnMut() -> u64) {
    let mut backoff = Backoff::new(core.config.backoff);
    let scratch = Scratch::default();
    while !core.stopped.get() {
        let began_ms = clock::monotonic_ms();
        let stopping = async {
            core.stop.wait().await;
            DownReason::Stopped
        };
        let reason = or(connect_and_serve(&core, &scratch), stopping).await;
        // Only a link that has held for a while was a success: one that breaks at once must not be tried without end.
        let up_ms = clock::monotonic_ms().saturating_sub(began_ms);
        let ended = core.up.borrow_mut().take();
        let was_up = ended.is_some();
        if let Some((_, session)) = ended {
            core.count(|stats| stats.sent_bytes += session.sent_bytes.get());
            let lost = core.queue.borrow_mut().clear();
            core.count(|stats| stats.lost_frames += lost as u64);
            if up_ms >= core.config.liveness.timeout_ms {
                backoff.reset();
            }
        } else {
            core.count(|stats| stats.failures += 1);
        }
        if core.stopped.get() {
            if was_up {
                core.ended(true, DownReason::Stopped);
            }
            return;
        }
        // A process that was killed refuses the next try: that it is gone is known at once, not after a wait.
        let redial = was_up && reason == DownReason::Closed && up_ms >= core.config.liveness.timeout_ms;
        core.ended(was_up, reason);
        let pause_ms = backoff.fail(random());
        if was_up {
            // What came while it was being made is answered.
            core.hurry.take();
        }
        if !redial {
            let pause = sleep(Duration::from_millis(pause_ms));
            or(pause, or(core.hurry.wait(), core.stop.wait())).await;
        }
    }
}

/// One connection, from dialling to its end.
async fn connect_and_serve(core: &Rc<Core>, scratch: &Scratch) -> DownReason {
    match connect(core, scratch).await {
        Ok((session, claim, receiver, version)) => {
            let claim = Held { registry: core.registry.clone(), claim };
            let sending = send_frames(core, &session, version);
            let receiving = receive_controls(receiver, &session, scratch, &claim.claim);
            or(receiving, or(sending, session.watch(&claim.claim))).await
        }
        Err(reason) => reason,
    }
}

/// Gives a claim back when the connection ends, however it ends.
pub(super) struct Held {
    pub(super) registry: Arc<Registry>,
    pub(super) claim: Claim,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.registry.release(&self.claim);
    }
}

async fn connect(
    core: &Rc<Core>,
    scratch: &Scratch,
) -> Result<(Rc<Session>, Claim, FrameReceiver, u16), DownReason> {
    let address = core.address.borrow().clone();
    let address = resolve(&address).await.ok_or(DownReason::Unresolved)?;
    let socket = Socket::connect(address, core.config.connect_ms).await.map_err(|error| down(&error))?;
    let session = Session::new(socket, core.config);
    let mut receiver = FrameReceiver::default();
    let theirs = within(core.config.handshake_ms, greet(core, &session, &mut receiver, scratch)).await?;
    let version = match core.registry.judge(Some(core.node), &theirs) {
        Ok(version) => version,
        Err(refusal) => {
            session.refuse(&refusal);
            return Err(DownReason::RefusedByUs(refusal));
        }
    };
    let timeout_ms = core.config.liveness.timeout_ms;
    let now_ms = clock::monotonic_ms();
    let claim = match core.registry.admit(Direction::Out, core.source_shard, &theirs, now_ms, timeout_ms) {
        Admission::Admitted(claim) => claim,
        Admission::Wait => return Err(DownReason::Protocol("two links of one shard to one node")),
        Admission::Refused(refusal) => {
            session.refuse(&refusal);
            return Err(DownReason::RefusedByUs(refusal));
        }
    };
    let peer = PeerInfo {
        node: theirs.node,
        directory: theirs.directory,
        shard_count: theirs.shard_count,
        cluster: theirs.cluster,
        source_shard: core.source_shard,
        version,
        address: theirs.address,
    };
    let session = Rc::new(session);
    *core.up.borrow_mut() = Some((peer.clone(), session.clone()));
    *core.last_down.borrow_mut() = None;
    core.count(|stats| stats.connections += 1);
    tracing::debug!(node = core.node, %address, "link between nodes is up");
    (core.events)(LinkEvent::Up(peer));
    Ok((session, claim, receiver, version))
}

/// Sends our greeting and waits for theirs.
async fn greet(
    core: &Core,
    session: &Session,
    receiver: &mut FrameReceiver,
    scratch: &Scratch,
) -> Result<Greeting, DownReason> {
    session.enqueue_control(core.greeting().to_frame(KIND_HELLO));
    session.flush().await.map_err(|error| down(&error))?;
    let frame = receiver.next(session, scratch).await?;
    match frame.kind {
        KIND_WELCOME => Greeting::from_frame(&frame).map_err(DownReason::RefusedByUs),
        KIND_REFUSAL => Err(DownReason::RefusedByPeer(Refusal::from_frame(&frame))),
        _ => Err(DownReason::Protocol("an answer to the greeting that is none")),
    }
}

/// Sends what is queued, and keepalives, until the socket fails.
async fn send_frames(core: &Core, session: &Session, version: u16) -> DownReason {
    loop {
        if session.unsent_bytes() < GATHER_BYTES {
            gather(core, session, version);
        }
        session.enqueue_keepalive();
        if session.unsent_bytes() == 0 {
            session.wake_sender.wait().await;
            continue;
        }
        if let Err(error) = session.send().await {
            return down(&error);
        }
        if !core.queue.borrow().is_empty() {
            breathe().await;
        }
    }
}

/// Moves frames from the queue to the bytes to be sent, up to a portion.
fn gather(core: &Core, session: &Session, version: u16) {
    let mut queue = core.queue.borrow_mut();
    let mut count = 0;
    while session.unsent_bytes() < GATHER_BYTES
        && let Some(frame) = queue.pop()
    {
        session.enqueue(frame, version);
        count += 1;
    }
    core.count(|stats| stats.sent_frames += count);
}

/// Hears keepalives until the connection ends.
async fn receive_controls(
    mut receiver: FrameReceiver,
    session: &Session,
    scratch: &Scratch,
    claim: &Claim,
) -> DownReason {
    loop {
        match receiver.next(session, scratch).await {
            Ok(frame) if frame.kind == KIND_KEEPALIVE => claim.heard(clock::monotonic_ms()),
            Ok(frame) if frame.kind == KIND_PROBE => {
                claim.heard(clock::monotonic_ms());
                session.probe_answered(frame.group);
            }
            Ok(frame) if frame.kind == KIND_REFUSAL => {
                return DownReason::RefusedByPeer(Refusal::from_frame(&frame));
            }
            Ok(_) => return DownReason::Protocol("a frame against the link's direction"),
            Err(reason) => return reason,
        }
    }
}
