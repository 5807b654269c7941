//! The edge between a shard and the other nodes: [`PeerOut`]s become frames on links, frames become [`Event::Peer`].
//!
//! One [`PeerNetwork`] a node, one [`Peers`] a shard: a link to each other node, and the incoming links that the
//! acceptor gave to this shard. A frame names the shard that it is for; the shard that received it decodes it and passes
//! it on by mailbox. Whether a node is up is told to each shard by its own link to it.
//!
//! Reading order: `wire.rs` (what a frame says), `members.rs` (whom to talk to), this file, `presence.rs` (who is there at this moment).
//!
//! Invariants: sending never waits: what finds no room on a link is dropped and counted, and Raft sends it again; what
//! finds no room in a mailbox stays on its connection, in order; a body that cannot be understood harms nobody.

pub(super) use members::address;

mod members;
mod presence;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use chronik_net::acceptor::Accepted;
use chronik_net::peer::{
    ClusterId, DownReason, Frame, FrameSink, Identity, IncomingLinks, Link, LinkEvent, NotSentReason,
    PeerConfig, PeerInfo, RefusalCode, Registry,
};
use chronik_net::rt::clock;
use chronik_net::rt::mailbox::Receiver;
use chronik_wal::types::{NodeId, PeerId, ShardId};

use self::members::Addresses;
use super::Notice;
use crate::metadata::command::Endpoint;
use crate::metadata::snapshot::Snapshot;
use crate::shard::Event;
use crate::shard::message::{Message, PeerMessage, PeerOut};
use crate::shard::report::{IncomingReport, LinkReport};
use crate::shard::router::{Inbound, Router};

/// What the shards of a node share of its links.
#[derive(Debug)]
pub struct PeerNetwork {
    node: NodeId,
    registry: Arc<Registry>,
    config: PeerConfig,
    /// The raft addresses of the file's peers, this node's own among them.
    configured: BTreeMap<NodeId, Endpoint>,
    /// A frame that could not be understood has been logged.
    malformed_said: AtomicBool,
}

impl PeerNetwork {
    /// The network of a node that is about to start.
    #[must_use]
    pub fn new(
        node: NodeId,
        ours: &Identity,
        configured: BTreeMap<NodeId, Endpoint>,
        snapshot: &Snapshot,
    ) -> Arc<Self> {
        let config = PeerConfig::default();
        let registry = Registry::new(ours, members::members(&configured, snapshot));
        Arc::new(Self { node, registry, config, configured, malformed_said: AtomicBool::new(false) })
    }

    /// The cluster is known, and durably so: later greetings name it.
    pub fn set_cluster(&self, id: &str) {
        match ClusterId::new(id) {
            Some(id) => self.registry.set_cluster(id),
            None => tracing::error!(id, "this cluster id cannot be told to other nodes"),
        }
    }

    fn set_members(&self, snapshot: &Snapshot) {
        self.registry.set_members(members::members(&self.configured, snapshot));
    }
}

/// What was lost on the way.
#[derive(Clone, Copy, Debug, Default)]
struct PeerStats {
    /// Frames that were not sent: the link was down or full.
    unsent_frames: u64,
    /// Frames received that could not be understood.
    malformed_frames: u64,
}

/// What this shard has been told of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// That it can be reached.
    Up,
    /// Nothing yet, or that it cannot be reached.
    Down,
    /// That its process is gone.
    Gone,
}

struct Outgoing {
    link: Link,
    address: Arc<str>,
}

/// The links of one shard.
pub struct Peers {
    /// For what runs as long as the executor does.
    own: Weak<Self>,
    shard: ShardId,
    router: Rc<Router>,
    network: Option<Arc<PeerNetwork>>,
    notices: mpsc::Sender<Notice>,
    outgoing: RefCell<BTreeMap<NodeId, Outgoing>>,
    incoming: RefCell<Option<Rc<IncomingLinks<Sink>>>>,
    addresses: RefCell<Addresses>,
    /// When the links to nodes went down that were up.
    went_ms: RefCell<BTreeMap<NodeId, u64>>,
    /// What the links and members are of.
    adopted: RefCell<Option<Arc<Snapshot>>>,
    stats: Cell<PeerStats>,
}

impl Peers {
    /// The links of the router's shard, as of the first snapshot. Without a network there are none, ever.
    #[must_use]
    pub fn start(
        router: Rc<Router>,
        network: Option<Arc<PeerNetwork>>,
        notices: mpsc::Sender<Notice>,
        snapshot: &Arc<Snapshot>,
    ) -> Rc<Self> {
        let peers = Rc::new_cyclic(|own| Self {
            own: own.clone(),
            shard: router.shard(),
            router,
            network,
            notices,
            outgoing: RefCell::default(),
            incoming: RefCell::default(),
            addresses: RefCell::default(),
            went_ms: RefCell::default(),
            adopted: RefCell::default(),
            stats: Cell::default(),
        });
        if let Some(network) = &peers.network {
            let sink = Rc::new(Sink { peers: peers.own.clone() });
            let incoming = IncomingLinks::new(network.registry.clone(), network.config, sink);
            *peers.incoming.borrow_mut() = Some(incoming);
        }
        peers.metadata(snapshot);
        peers
    }

    /// Takes the sockets that the acceptor gives to this shard, for ever.
    pub async fn serve(self: Rc<Self>, sockets: Receiver<Accepted>) {
        let incoming = self.incoming.borrow().clone();
        if let Some(incoming) = incoming {
            incoming.serve(sockets).await;
        }
    }

    /// Sends what a turn of the shard wants sent. It leaves when the pump yields.
    pub fn send(&self, messages: Vec<PeerOut>) {
        if messages.is_empty() {
            return;
        }
        let outgoing = self.outgoing.borrow();
        let mut unsent = 0;
        for PeerOut { node, message } in messages {
            let link = outgoing.get(&node).map(|outgoing| &outgoing.link);
            let Some((link, shard_count)) = link.and_then(|link| Some((link, link.shard_count()?))) else {
                unsent += 1;
                continue;
            };
            let raft = match &message {
                PeerMessage::Raft { group, message } => {
                    Some((*group, PeerId(message.to), message.get_msg_type()))
                }
                _ => None,
            };
            wire::encode(message, shard_count, |frame| {
                let Err(refused) = link.try_send(frame) else { return };
                unsent += 1;
                match refused.reason {
                    NotSentReason::Invalid(error) => {
                        tracing::error!(node = node.0, %error, "a message is too long for the link");
                    }
                    reason => tracing::trace!(node = node.0, %reason, "a frame is dropped"),
                }
                if let Some((group, to, kind)) = raft {
                    self.router.receive(Inbound::Event(Event::Unsent { group, to, kind }));
                }
            });
        }
        self.count(|stats| stats.unsent_frames += unsent);
    }

    /// The metadata are these now: nodes may have come, gone or moved.
    pub fn metadata(&self, snapshot: &Arc<Snapshot>) {
        let before = self.adopted.borrow().clone();
        let same_brokers = before.as_ref().is_some_and(|before| {
            Arc::ptr_eq(&before.brokers, &snapshot.brokers)
                && Arc::ptr_eq(&before.guests, &snapshot.guests)
                && Arc::ptr_eq(&before.departures, &snapshot.departures)
        });
        let same_cluster = before.as_ref().is_some_and(|before| before.cluster_id == snapshot.cluster_id);
        if same_brokers && same_cluster {
            return;
        }
        *self.adopted.borrow_mut() = Some(snapshot.clone());
        if self.shard == ShardId(0)
            && !same_cluster
            && let Some(id) = &snapshot.cluster_id
        {
            // The main thread is there until this shard has ended.
            let _ = self.notices.send(Notice::Cluster(id.clone()));
        }
        let Some(network) = &self.network else { return };
        if self.shard == ShardId(0) {
            network.set_members(snapshot);
        }
        let known = members::known_addresses(network.node, &network.configured, snapshot);
        self.addresses.borrow_mut().learn(known);
        self.dial(network);
    }

    /// Brings the links to the nodes and addresses that are known.
    fn dial(&self, network: &PeerNetwork) {
        let addresses = self.addresses.borrow().all();
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.retain(|node, outgoing| {
            let stays = addresses.contains_key(node);
            if !stays {
                outgoing.link.stop();
            }
            stays
        });
        for (node, address) in &addresses {
            match outgoing.get_mut(node) {
                Some(outgoing) if outgoing.address == *address => {}
                Some(outgoing) => {
                    outgoing.link.set_address(address);
                    outgoing.address.clone_from(address);
                }
                None => {
                    let link = self.start_link(network, *node, address);
                    outgoing.insert(*node, Outgoing { link, address: address.clone() });
                }
            }
        }
    }

    fn start_link(&self, network: &PeerNetwork, node: NodeId, address: &str) -> Link {
        let (peers, told) = (self.own.clone(), Cell::new(Told::Down));
        let events = move |event| {
            let Some(peers) = peers.upgrade() else { return };
            if matches!(event, LinkEvent::Down { .. }) {
                peers.not_there(node);
                if told.get() == Told::Up {
                    peers.went_ms.borrow_mut().insert(node, clock::monotonic_ms());
                }
            }
            if is_expulsion(&event) && peers.shard == ShardId(0) {
                peers.router.send(peers.shard, Message::Event(Event::Expelled { by: node }));
            }
            let now = match event {
                LinkEvent::Up(_) => Told::Up,
                LinkEvent::Down { reason: DownReason::ConnectionRefused, .. } => Told::Gone,
                // Once it is known that the process is gone, other ways not to reach it say nothing new.
                LinkEvent::Down { .. } if told.get() == Told::Gone => Told::Gone,
                LinkEvent::Down { .. } => Told::Down,
            };
            let before = told.replace(now);
            if before == now {
                return;
            }
            let event = match now {
                Told::Up => Event::NodeUp(node),
                Told::Down | Told::Gone => Event::NodeDown { node, refused: now == Told::Gone },
            };
            peers.router.send(peers.shard, Message::Event(event));
        };
        let registry = network.registry.clone();
        Link::start(registry, network.config, self.shard.0, node.0, address, rand::random, events)
    }

    /// A node has dialled this one, from this address if it said so: it can be dialled now.
    pub fn heard(&self, node: NodeId, address: Option<Arc<str>>) {
        let Some(network) = &self.network else { return };
        let up = self.outgoing.borrow().get(&node).is_some_and(|to| to.link.shard_count().is_some());
        if up || node == network.node {
            return;
        }
        if let Some(address) = address {
            self.addresses.borrow_mut().hear(node, address);
            self.dial(network);
        }
        if let Some(outgoing) = self.outgoing.borrow().get(&node) {
            outgoing.link.hurry();
        }
    }

    /// A node is not, or not any more, where it said that it was.
    fn not_there(&self, node: NodeId) {
        if let Some(network) = &self.network
            && self.addresses.borrow_mut().unhear(node)
        {
            self.dial(network);
        }
    }

    /// The shard takes messages again: connections that waited for that go on.
    pub fn resume(&self) {
        if let Some(incoming) = &*self.incoming.borrow()
            && incoming.has_paused()
            && self.router.has_room(self.shard)
        {
            incoming.resume();
        }
    }

    /// How the links stand, for the admin endpoint.
    #[must_use]
    pub fn report(&self) -> (Vec<LinkReport>, IncomingReport) {
        let outgoing = self.outgoing.borrow();
        let links = outgoing.iter().map(|(node, Outgoing { link, .. })| {
            let stats = link.stats();
            LinkReport {
                node: *node,
                is_up: link.shard_count().is_some(),
                waiting: link.waiting(),
                sent_frames: stats.sent_frames,
                dropped_frames: stats.lost_frames + stats.refused_frames,
                connections: stats.connections,
            }
        });
        let incoming = self.incoming.borrow().as_ref().map(|incoming| incoming.stats()).unwrap_or_default();
        let lost = self.stats.get();
        let incoming = IncomingReport {
            frames: incoming.received_frames,
            dropped_frames: incoming.dropped_no_shard + lost.malformed_frames,
            unsent_frames: lost.unsent_frames,
        };
        (links.collect(), incoming)
    }

    fn count(&self, change: impl FnOnce(&mut PeerStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn malformed(&self, from: &PeerInfo, kind: u8, error: wire::Malformed) {
        self.count(|stats| stats.malformed_frames += 1);
        let said = self.network.as_ref().is_none_or(|n| n.malformed_said.swap(true, Ordering::Relaxed));
        if !said {
            tracing::warn!(node = from.node, kind, %error, "a frame of another node is dropped; more of them are only counted");
        }
    }
}

/// Whether the other node says that this one was removed from the cluster.
fn is_expulsion(event: &LinkEvent) -> bool {
    let LinkEvent::Down { reason: DownReason::RefusedByPeer(refusal), .. } = event else { return false };
    refusal.code == RefusalCode::Removed
}

/// Where frames of the incoming links go.
struct Sink {
    peers: Weak<Peers>,
}

impl FrameSink for Sink {
    fn deliver(&self, from: &PeerInfo, frame: Frame) -> Result<(), Frame> {
        let Some(peers) = self.peers.upgrade() else { return Ok(()) };
        let target = ShardId(frame.target_shard);
        if !peers.router.has_room(target) {
            return Err(frame);
        }
        let kind = frame.kind;
        match wire::decode(frame) {
            Ok(message) => {
                let event = Event::Peer { from: NodeId(from.node), message };
                peers.router.send(target, Message::Event(event));
            }
            Err(error) => peers.malformed(from, kind, error),
        }
        Ok(())
    }

    fn link_up(&self, from: &PeerInfo) {
        let Some(peers) = self.peers.upgrade() else { return };
        let node = NodeId(from.node);
        peers.heard(node, from.address.clone());
        // Each shard has its own link to that node.
        peers.router.heard_of(node, from.address.as_ref());
    }
}
