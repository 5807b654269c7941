//! One shard's executor: opens the shard, then runs its pump, its mail and its connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chronik_net::acceptor::Accepted;
use chronik_net::connection::{ConnectionConfig, Connections, Moved, Ways};
use chronik_net::rt::event::Event as Wake;
use chronik_net::rt::helper::HelperPool;
use chronik_net::rt::mailbox::{Sender, Unbound};
use chronik_wal::disk::Disk;
use chronik_wal::disk::uring::TurnWriter;

use super::Notice;
use super::data::ShardStart;
use super::peers::{PeerNetwork, Peers};
use crate::config::broker::BrokerConfig;
use crate::handlers::fetch_session::SessionCache;
use crate::handlers::service::{Broker, BrokerService, Connection};
use crate::metadata::snapshot::Snapshot;
use crate::metrics::ShardMetrics;
use crate::shard::pump::{Mail, Pump, Remaining, take_mail};
use crate::shard::router::Router;

/// Threads for blocking work of one shard.
const HELPER_THREADS: usize = 2;

/// Jobs that wait for a helper thread.
const HELPER_QUEUE: usize = 512;

/// How long a stop waits for the answers in flight before it cuts connections off: the whole stop takes under 2 s.
const DRAIN_GRACE: Duration = Duration::from_millis(1_000);

/// What one shard's thread is given.
pub struct ShardTask {
    /// What it is started with.
    pub start: ShardStart,
    /// Its mailbox.
    pub mail: Unbound<Mail>,
    /// Its sockets.
    pub sockets: Unbound<Accepted>,
    /// The connections that other shards send; none for the only shard.
    pub moved: Option<Unbound<Moved<Connection>>>,
    /// The ways to send connections to every shard, in order; empty for the only shard.
    pub ways: Ways<Connection>,
    /// What every shard counts, in order.
    pub of_all: Vec<Arc<ShardMetrics>>,
    /// Every shard's mailbox, in order.
    pub senders: Vec<Sender<Mail>>,
    /// The published metadata.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The links with other nodes and the sockets of those who dial; none for a node on its own.
    pub network: Option<(Arc<PeerNetwork>, Unbound<Accepted>)>,
    /// The main thread, to be told what it has to do.
    pub notices: mpsc::Sender<Notice>,
    /// What the node waits for at its end.
    pub remaining: Remaining,
    /// Told once the shard serves, or why it cannot.
    pub ready: mpsc::Sender<Result<(), String>>,
}

impl ShardTask {
    /// Runs the shard to its end.
    pub async fn run(self) {
        let ready = self.ready.clone();
        if let Err(error) = self.serve().await {
            // The main thread ends the process with this line.
            let _ = ready.send(Err(error));
        }
    }

    async fn serve(self) -> Result<(), String> {
        let Self {
            start,
            mail,
            sockets,
            moved,
            ways,
            of_all,
            senders,
            snapshot,
            disk,
            network,
            notices,
            remaining,
            ready,
        } = self;
        let (seed, first_snapshot) = (start.seed.clone(), start.snapshot.clone());
        let config = &first_snapshot.config;
        let shard = start.open(&*disk).map_err(text)?;
        let mailbox = mail.bind().map_err(text)?;
        let sockets = sockets.bind().map_err(text)?;
        let name = format!("helper-{}", seed.shard);
        let own = &senders[usize::from(seed.shard.0)];
        let helpers = HelperPool::start(&name, HELPER_THREADS, HELPER_QUEUE, own).map_err(text)?;
        let router = Rc::new(Router::new(seed.shard, &senders, snapshot.clone()));

        let (network, peer_sockets) = network.unzip();
        let peers = Peers::start(router.clone(), network, notices, &first_snapshot);
        let broker = Rc::new(Broker {
            router: router.clone(),
            witness: Box::new(peers.clone()),
            metrics: seed.metrics.clone(),
            of_all,
            sessions: RefCell::new(sessions(config, &seed)),
            data_dir: seed.data_dir.clone(),
        });
        let bounds = connection_config(config, seed.shard_count);
        let connections = Connections::linked(Rc::new(BrokerService(broker)), bounds, ways);
        let stop = Rc::new(Wake::new());
        if let Some(sockets) = peer_sockets {
            let sockets = sockets.bind().map_err(text)?;
            glommio::spawn_local(peers.clone().serve(sockets)).detach();
        }
        glommio::spawn_local(take_mail(mailbox, router.clone(), peers.clone(), stop.clone())).detach();
        glommio::spawn_local(connections.clone().serve(sockets)).detach();
        if let Some(moved) = moved {
            let moved = moved.bind().map_err(text)?;
            glommio::spawn_local(connections.clone().serve_moved(moved)).detach();
        }
        let drained = remaining.serving.clone();
        glommio::spawn_local(async move {
            stop.wait().await;
            connections.drain(DRAIN_GRACE).await;
            drained.fetch_sub(1, Ordering::AcqRel);
        })
        .detach();
        // The main thread waits for this and nothing else.
        let _ = ready.send(Ok(()));
        let pump = Pump::new(shard, router, peers, snapshot, helpers, disk, remaining);
        pump.run(TurnWriter::new()).await;
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn sessions(config: &BrokerConfig, seed: &crate::shard::open::ShardSeed) -> SessionCache {
    let slots = usize::try_from(config.max_incremental_fetch_session_cache_slots).unwrap_or(0);
    let own = slots.div_ceil(usize::from(seed.shard_count).max(1));
    // The low half of the seed: session ids of this start differ from those of the last one.
    SessionCache::new(own, seed.shard.0, seed.shard_count, (seed.seed & 0xffff_ffff) as u32)
}

fn connection_config(config: &BrokerConfig, shard_count: u16) -> ConnectionConfig {
    let defaults = ConnectionConfig::default();
    let queued = usize::try_from(config.queued_max_request_bytes).unwrap_or(0);
    let share = queued / usize::from(shard_count).max(1);
    ConnectionConfig {
        frame_bytes_max: usize::try_from(config.socket_request_max_bytes).unwrap_or(defaults.frame_bytes_max),
        shard_request_bytes_max: if queued == 0 { defaults.shard_request_bytes_max } else { share.max(1) },
        idle_ms: u64::try_from(config.connections_max_idle_ms).unwrap_or(u64::MAX),
        ..defaults
    }
}
