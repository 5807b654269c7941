//! The admin endpoint: metrics, health and status of this node over HTTP, on a port of its own.
//!
//! ```text
//! GET /metrics                     Prometheus text (prometheus.rs)
//! GET /health, /health/live|ready  200 or 503, with the reasons in JSON (health.rs)
//! GET /v1/status                   the node at a glance (status.rs)
//! GET /v1/cluster                  nodes, the metadata group, links (cluster.rs)
//! GET /v1/partitions?after=&limit= partitions of this node, page by page
//! GET /v1/groups?after=&limit=     consumer groups of this node, page by page
//! ```
//! Runs on plain threads, never on a shard. Figures that change all the time are atomics; what needs a look into a shard
//! is asked for by mailbox (inspect.rs) with a deadline, so that a shard which hangs never takes this endpoint with it.
//!
//! Reading order: `http.rs` (the server), this file (what answers what), `inspect.rs`, then one file an answer.
//!
//! Invariants: a scrape never blocks a shard; every answer is bounded by a named limit; the endpoint serves from before
//! recovery to the end of a clean stop.

mod cluster;
mod collector;
mod health;
mod http;
mod inspect;
mod process;
mod prometheus;
mod raft_metrics;
mod request;
mod status;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use chronik_net::acceptor::{AcceptorStats, BoundListener};
use chronik_net::rt::clock;
use chronik_net::rt::mailbox::Sender;
use chronik_wal::types::NodeId;

use self::http::Server;
use self::request::{Get, Response};
use crate::metadata::snapshot::Snapshot;
use crate::metrics::ShardMetrics;
use crate::shard::pump::Mail;

/// The parts of a serving node that the endpoint looks at.
#[derive(Debug)]
pub struct NodeView {
    /// This node.
    pub node: NodeId,
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// Its Kafka listeners: name and address.
    pub listeners: Vec<(String, SocketAddr)>,
    /// The mailbox of every shard, in order.
    pub shards: Vec<Sender<Mail>>,
    /// The counters of every shard, in order.
    pub metrics: Vec<Arc<ShardMetrics>>,
    /// The published metadata.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The counters of the acceptor.
    pub acceptor: Arc<AcceptorStats>,
}

/// What the endpoint's threads share.
#[derive(Debug)]
struct State {
    started_ms: u64,
    /// Empty until the node serves.
    view: OnceLock<NodeView>,
    stopping: AtomicBool,
}

impl State {
    fn new() -> Self {
        let started_ms = clock::boottime_ms();
        Self { started_ms, view: OnceLock::new(), stopping: AtomicBool::new(false) }
    }

    fn uptime_ms(&self) -> u64 {
        clock::boottime_ms().saturating_sub(self.started_ms)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// The running endpoint. Dropping it closes the port.
#[derive(Debug)]
pub struct AdminEndpoint {
    state: Arc<State>,
    address: SocketAddr,
    _server: Server,
}

impl AdminEndpoint {
    /// Serves on a port that is bound. Until [`AdminEndpoint::serves`] everything but liveness is answered 503.
    ///
    /// # Errors
    /// When the thread or its eventfd cannot be had.
    pub fn start(listener: BoundListener) -> io::Result<Self> {
        let state = Arc::new(State::new());
        let address = listener.address();
        let answering = state.clone();
        let server = Server::start(listener, Arc::new(move |get: &Get| answer(&answering, get)))?;
        Ok(Self { state, address, _server: server })
    }

    /// The address it listens on, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node serves from now on. To be called once.
    pub fn serves(&self, view: NodeView) {
        let first = self.state.view.set(view).is_ok();
        debug_assert!(first, "a node begins to serve once");
    }

    /// The node stops: it is not ready any more.
    pub fn stops(&self) {
        self.state.stopping.store(true, Ordering::Release);
    }
}

/// Every path and what answers it once the node serves.
fn answer(state: &State, get: &Get) -> Response {
    match get.path() {
        "/health" => return health::both(state),
        "/health/live" => return health::live(state),
        "/health/ready" => return health::ready(state),
        "/" => return Response::json(200, &status::index()),
        "/metrics" | "/v1/status" | "/v1/cluster" | "/v1/partitions" | "/v1/groups" => {}
        _ => return Response::error(404, "no such path; GET / lists them"),
    }
    let Some(view) = state.view.get() else {
        return Response::error(503, "starting: the data is being recovered");
    };
    match get.path() {
        "/metrics" => prometheus::metrics(state, view),
        "/v1/status" => status::status(state, view),
        "/v1/cluster" => cluster::cluster(view),
        "/v1/partitions" => status::partitions(view, get),
        _ => status::groups(view, get),
    }
}

#[cfg(test)]
mod tests;
