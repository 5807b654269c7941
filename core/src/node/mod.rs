//! A node: from its configuration to running shards, and back to nothing in flight.
//!
//! ```text
//! start::open  checks, lock, identity, shard count, ports, recovery of the WALs and of the metadata log
//!      └─▶ run  one executor a shard ─▶ acceptor ─▶ serving … signal ─▶ connections drained ─▶ files written ─▶ end
//! ```
//! Everything that can refuse the start does so before the first port answers; each refusal is one line that says how
//! to mend it.

pub mod data;
pub mod peers;
pub mod repair;
pub mod shard_task;
pub mod start;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chronik_net::acceptor::{Accepted, Acceptor, BoundListener, ConnectionLimits};
use chronik_net::connection::{Moved, Ways};
use chronik_net::peer::listener::serve_port;
use chronik_net::rt::executor::{ShardsConfig, ShardsError, run_shards};
use chronik_net::rt::mailbox::{Sender, Unbound, mailbox};
use chronik_net::rt::signal;
use chronik_wal::disk::Disk;
use chronik_wal::identity::Identity;
use chronik_wal::types::NodeId;
use uuid::Uuid;

use self::peers::PeerNetwork;
use self::shard_task::ShardTask;
use self::start::{Opened, StartError};
use crate::admin::NodeView;
use crate::config::server::ServerConfig;
use crate::handlers::service::Connection;
use crate::metadata::snapshot::Snapshot;
use crate::shard::pump::{Mail, Remaining};

/// Messages that a shard's mailbox holds; senders keep the rest in order.
const MAILBOX_CAPACITY: usize = 16_384;

/// Sockets on their way to a shard.
const SOCKETS_CAPACITY: usize = 1_024;

/// Connections on their way from other shards to a shard; one that finds no room stays where it is.
const MOVED_CAPACITY: usize = 256;

/// How long a start waits for the metadata to be as new as it is itself before it lets clients in, new or not: what is left of
/// a cluster answers all the same.
const CAUGHT_UP_WAIT: Duration = Duration::from_secs(3);

/// How long a start waits for its groups to be led before it lets clients in, led or not.
const LEADERS_WAIT: Duration = Duration::from_millis(500);

/// Where the connections that move to a shard come in.
type MovedInbox = Option<Unbound<Moved<Connection>>>;

/// What the main thread of a running node is told.
#[derive(Debug)]
pub enum Notice {
    /// The cluster has this id, as is committed.
    Cluster(Arc<str>),
    /// A signal asks for the end.
    Stop(&'static str),
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// Why it cannot start, in one line.
pub fn run(config: &ServerConfig) -> Result<(), StartError> {
    let opened = start::open(config)?;
    serve(config, opened)
}

fn serve(config: &ServerConfig, opened: Opened) -> Result<(), StartError> {
    let Opened { identity, incarnation, snapshot, shards, listeners, network, admin, disk, lock, metrics } =
        opened;
    let shard_count = shards.len();
    let published = Arc::new(ArcSwap::new(snapshot.clone()));
    let shards_left = || Arc::new(AtomicUsize::new(shard_count));
    let remaining = Remaining { serving: shards_left(), running: shards_left() };
    let (ready_sender, ready) = mpsc::channel();
    let mut mail = Vec::with_capacity(shard_count);
    let mut sockets = Vec::with_capacity(shard_count);
    let mut peer_sockets = Vec::with_capacity(shard_count);
    let (raft_listener, network) = network.unzip();
    let (notice_sender, notices) = mpsc::channel();
    let mut inboxes = Vec::with_capacity(shard_count);
    for _ in 0..shard_count {
        let (mail_sender, mail_inbox) = mailbox::<Mail>(MAILBOX_CAPACITY).map_err(StartError::Mailbox)?;
        let (socket_sender, socket_inbox) =
            mailbox::<Accepted>(SOCKETS_CAPACITY).map_err(StartError::Mailbox)?;
        mail.push(mail_sender);
        sockets.push(socket_sender);
        let mut peers = None;
        if let Some(network) = &network {
            let (sender, inbox) = mailbox::<Accepted>(SOCKETS_CAPACITY).map_err(StartError::Mailbox)?;
            peer_sockets.push(sender);
            peers = Some((network.clone(), inbox));
        }
        inboxes.push((mail_inbox, socket_inbox, peers));
    }
    let (ways, moved) = ways(shard_count)?;
    let tasks = shards.into_iter().zip(inboxes).zip(moved).map(
        |((start, (mail_inbox, socket_inbox, network)), moved)| ShardTask {
            start,
            mail: mail_inbox,
            sockets: socket_inbox,
            moved,
            ways: ways.clone(),
            of_all: metrics.clone(),
            senders: mail.clone(),
            snapshot: published.clone(),
            disk: disk.clone(),
            network,
            notices: notice_sender.clone(),
            remaining: remaining.clone(),
            ready: ready_sender.clone(),
        },
    );
    let running = run_shards(&ShardsConfig::new(shard_count), tasks.collect(), |_, task| task.run())?;
    for _ in 0..shard_count {
        match ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(StartError::Shard(error)),
            Err(_) => return Err(StartError::ShardEnded),
        }
    }
    let limits = ConnectionLimits {
        total: usize::try_from(snapshot.config.max_connections).unwrap_or(usize::MAX),
        per_ip: usize::try_from(snapshot.config.max_connections_per_ip).unwrap_or(usize::MAX),
    };
    let named = |listener: &BoundListener| (listener.name().to_owned(), listener.address());
    let bound: Vec<(String, SocketAddr)> = listeners.iter().map(named).collect();
    let addresses: Vec<String> = bound.iter().map(|(name, address)| format!("{name}://{address}")).collect();
    // ORDER: other nodes are let in once every shard is there to take what they say.
    let raft_acceptor = raft_listener.map(|listener| serve_port(listener, peer_sockets)).transpose();
    let raft_acceptor = raft_acceptor.map_err(StartError::Acceptor)?;
    let signals = signal::listen(move |name| {
        // The receiver lives as long as this process serves.
        let _ = notice_sender.send(Notice::Stop(name));
    });
    let _signals = signals.map_err(StartError::Signals)?;
    // One of several that has never been part of a cluster has nothing to catch up with, and answers by that.
    if identity.cluster_id.is_some() || config.peers.len() <= 1 {
        wait_until_caught_up(&published, config.node_id, incarnation);
    }
    wait_for_leaders(&published);
    let mut acceptor = Acceptor::start(listeners, sockets, limits).map_err(StartError::Acceptor)?;
    admin.serves(NodeView {
        node: config.node_id,
        data_dir: config.data_dir.clone(),
        listeners: bound,
        shards: mail.clone(),
        metrics,
        snapshot: published.clone(),
        acceptor: acceptor.shared_stats(),
    });
    tracing::info!(node = config.node_id.0, shards = shard_count, listeners = ?addresses, "ready");

    let note = ClusterNote { identity, network: network.as_deref(), disk: &*disk, config };
    let name = note.until_stop(&notices)?;
    tracing::info!(signal = name, "stopping: no new connections, answering what is in flight");
    admin.stops();
    acceptor.stop();
    mail.iter().for_each(stop_shard);
    running.join();
    debug_assert_eq!(remaining.serving.load(Ordering::Acquire), 0, "every shard drained its connections");
    // ORDER: the port for other nodes closes last; that it refuses them says that this process is gone.
    drop(raft_acceptor);
    drop(admin);
    drop(lock);
    tracing::info!("stopped");
    Ok(())
}

/// The ways by which connections move between shards, and where each ends; none for a shard that has no other.
fn ways(shard_count: usize) -> Result<(Ways<Connection>, Vec<MovedInbox>), StartError> {
    if shard_count == 1 {
        return Ok((Vec::new(), vec![None]));
    }
    let mailboxes = (0..shard_count).map(|_| mailbox(MOVED_CAPACITY).map_err(StartError::Mailbox));
    let mailboxes = mailboxes.collect::<Result<Vec<_>, _>>()?;
    Ok(mailboxes.into_iter().map(|(sender, inbox)| (sender, Some(inbox))).unzip())
}

fn stop_shard(mail: &Sender<Mail>) {
    // A full mailbox empties within a turn or two.
    while let Err(chronik_net::rt::mailbox::Full(_)) = mail.try_send(Mail::Stop) {
        std::thread::yield_now();
    }
}

/// Gives the metadata log the moment that it takes to catch up, so that a client which asks a node that was away is not told that
/// a topic made meanwhile does not exist. Where this very start is registered, all that was committed before it is known. A fresh
/// node of its own waits as well: librdkafka's admin client, told of no broker at all, asks again only when its request has timed out.
fn wait_until_caught_up(published: &ArcSwap<Snapshot>, node: NodeId, incarnation: Uuid) {
    wait_until(published, CAUGHT_UP_WAIT, |snapshot| {
        snapshot.brokers.get(&node).is_some_and(|broker| broker.incarnation == incarnation)
    });
}

/// Gives the groups of a sole node the moment that they take to elect themselves, and one of several the moment to hear who
/// leads, so that a client which comes at once (the ports are bound, it waits in their backlog) is not sent away with a
/// retriable error.
fn wait_for_leaders(published: &ArcSwap<Snapshot>) {
    // Damaged partitions never have a leader: the wait ends all the same.
    wait_until(published, LEADERS_WAIT, |snapshot| {
        let mut partitions = snapshot.topics.values().flat_map(|topic| &topic.partitions);
        snapshot.controller.is_some() && partitions.all(|partition| partition.leader.is_some())
    });
}

/// Waits until a snapshot is published of which this holds, no longer than `longest`.
fn wait_until(published: &ArcSwap<Snapshot>, longest: Duration, holds: impl Fn(&Snapshot) -> bool) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < longest && !holds(&published.load()) {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Notes the cluster's id in `meta.properties` when it is committed, so that the data can never be used in another one.
///
/// Nothing waits for it: the node votes and acknowledges before, in groups that only this cluster has. A node that ends
/// in between learns the id again from its own metadata log.
struct ClusterNote<'a> {
    identity: Identity,
    network: Option<&'a PeerNetwork>,
    disk: &'a dyn Disk,
    config: &'a ServerConfig,
}

impl ClusterNote<'_> {
    /// Takes notices until one asks for the end: who does.
    fn until_stop(mut self, notices: &mpsc::Receiver<Notice>) -> Result<&'static str, StartError> {
        loop {
            match notices.recv() {
                Ok(Notice::Cluster(id)) => self.note(&id)?,
                Ok(Notice::Stop(name)) => return Ok(name),
                Err(mpsc::RecvError) => return Ok("nobody"),
            }
        }
    }

    fn note(&mut self, id: &str) -> Result<(), StartError> {
        if self.identity.cluster_id.as_deref() != Some(id) {
            self.identity.check_cluster(&self.config.data_dir, id)?;
            self.identity.cluster_id = Some(id.to_owned());
            self.identity.store(self.disk, &self.config.data_dir)?;
            tracing::info!(cluster = id, "this node belongs to the cluster");
        }
        // ORDER: durable before other nodes are told.
        if let Some(network) = self.network {
            network.set_cluster(id);
        }
        Ok(())
    }
}

impl From<ShardsError> for StartError {
    fn from(error: ShardsError) -> Self {
        Self::Shards(error)
    }
}
