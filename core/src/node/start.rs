//! Everything between reading the configuration and the first executor: checks, lock, identity, ports, recovery.
//!
//! Runs on the main thread and blocks. Nothing is served yet, so a refusal here loses nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use chronik_net::acceptor::{self, BindError, BoundListener, ListenerConfig};
use chronik_net::peer::ClusterId;
use chronik_net::rt::clock;
use chronik_net::rt::executor::{ShardsError, available_cpus};
use chronik_net::rt::preflight::{self, PreflightError};
use chronik_wal::disk::{Disk, OsDisk};
use chronik_wal::identity::{Identity, IdentityError, new_directory_id};
use chronik_wal::lock::{DirectoryLock, LockError};
use chronik_wal::partition::FilesError;
use chronik_wal::reshard::ReshardError;
use chronik_wal::shard_wal::WalConfig;
use chronik_wal::types::ShardId;
use uuid::Uuid;

use super::data::{self, DataSetup, OPEN_FILES_MAX, ShardStart};
use super::peers::{self, PeerNetwork};
use crate::admin::AdminEndpoint;
use crate::config::server::{Listener, ServerConfig};
use crate::metadata::command::Endpoint;
use crate::metadata::snapshot::Snapshot;
use crate::metadata::state::Broker;
use crate::metrics::ShardMetrics;
use crate::shard::ShardLimits;
use crate::shard::open::OpenError;

/// How the port for other nodes is called in what is said of it.
const RAFT_LISTENER: &str = "raft";

/// WALs read at the same time. More gain nothing: the disk is what is waited for.
const RECOVERY_THREADS_MAX: usize = 8;

/// How the admin port is called in what is said of it.
const ADMIN_LISTENER: &str = "admin";

/// Why a node does not start. Each is one line with the remedy in it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Reshard(#[from] ReshardError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(
        "listener {name}: '{host}:{port}' is no address: give an IP address or a host name that resolves ({source})"
    )]
    Address { name: String, host: String, port: u16, source: io::Error },
    #[error("cannot read the data: {0}")]
    Open(#[from] OpenError),
    #[error("cannot tidy the data directory: {0}")]
    Sweep(#[from] FilesError),
    #[error("cannot start the shards: {0}")]
    Shards(ShardsError),
    #[error("a shard cannot start: {0}")]
    Shard(String),
    #[error("a shard ended before it was ready; the log says why")]
    ShardEnded,
    #[error("cannot make a mailbox: {0}; raise the limit of open files (ulimit -n)")]
    Mailbox(io::Error),
    #[error("cannot start the admin endpoint: {0}")]
    Admin(io::Error),
    #[error("cannot start the acceptor: {0}")]
    Acceptor(io::Error),
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
    #[error("the metadata log names another cluster than meta.properties: {0}")]
    Cluster(String),
}

/// A node that may be run.
pub struct Opened {
    /// Whose data it is.
    pub identity: Identity,
    /// What this start is registered by.
    pub incarnation: Uuid,
    /// The metadata as of the start.
    pub snapshot: Arc<Snapshot>,
    /// The shards.
    pub shards: Vec<ShardStart>,
    /// Its ports, bound.
    pub listeners: Vec<BoundListener>,
    /// The port for other nodes, bound, and what there is to know of them; none for a node on its own.
    pub network: Option<(BoundListener, Arc<PeerNetwork>)>,
    /// Its admin endpoint, which answers already.
    pub admin: AdminEndpoint,
    /// Its disk.
    pub disk: Arc<dyn Disk>,
    /// Held as long as the node runs.
    pub lock: DirectoryLock,
    /// What the shards count.
    pub metrics: Vec<Arc<ShardMetrics>>,
}

/// Opens a node's data and ports.
///
/// # Errors
/// The first thing that is in the way.
pub fn open(config: &ServerConfig) -> Result<Opened, StartError> {
    preflight::check_machine()?;
    let lock = DirectoryLock::acquire(&config.data_dir)?;
    preflight::check_data_directory(&config.data_dir)?;
    let listeners = bind_all(config)?;
    let raft = bind_raft(config)?;
    let admin = open_admin(config)?;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let identity = open_identity(config, &*disk)?;
    let setup = setup(config, &identity);
    let identity = data::fit_shards(&*disk, &setup, identity)?;
    let own = own_registration(config, &identity, &listeners, raft.as_ref());
    let (advertised, incarnation) = (own.raft.clone(), own.incarnation);
    let shards = data::open_shards(&*disk, &setup, &identity, own)?;
    let snapshot = shards[0].snapshot.clone();
    let metrics = shards.iter().map(|start| start.seed.metrics.clone()).collect();
    let network =
        raft.map(|listener| (listener, peer_network(config, &identity, &snapshot, advertised.as_ref())));
    Ok(Opened { identity, incarnation, snapshot, shards, listeners, network, admin, disk, lock, metrics })
}

/// Reads the identity of the data directory, or mints one.
fn open_identity(config: &ServerConfig, disk: &dyn Disk) -> Result<Identity, StartError> {
    if let Some(identity) = Identity::load(disk, &config.data_dir, config.node_id)? {
        return Ok(identity);
    }
    let cores = u16::try_from(available_cpus().len()).unwrap_or(1).max(1);
    let identity = Identity::new(config.node_id, new_directory_id(), config.shards.unwrap_or(cores));
    // ORDER: durable before anything is written under it (SAFETY.md, rule 8).
    identity.store(disk, &config.data_dir)?;
    Ok(identity)
}

fn setup(config: &ServerConfig, identity: &Identity) -> DataSetup {
    DataSetup {
        node: config.node_id,
        peers: config.peers.clone(),
        data_dir: config.data_dir.clone(),
        shards: config.shards.unwrap_or(identity.shards),
        wal: WalConfig::new(&config.data_dir, identity.wal(ShardId(0))),
        limits: ShardLimits::default(),
        configs: static_configs(config),
        open_files_max: OPEN_FILES_MAX,
        recovery_threads: available_cpus().len().clamp(1, RECOVERY_THREADS_MAX),
        seed: rand::random(),
        wall_ms: clock::wall_ms(),
    }
}

fn bind_all(config: &ServerConfig) -> Result<Vec<BoundListener>, StartError> {
    let bind = |(name, listener): (&String, &Listener)| {
        let address = resolve(name, &listener.bind)?;
        Ok(acceptor::bind(&ListenerConfig { name: name.clone(), address })?)
    };
    config.listeners.iter().map(bind).collect()
}

/// The port for other nodes, where there is to be one.
fn bind_raft(config: &ServerConfig) -> Result<Option<BoundListener>, StartError> {
    let Some(raft) = &config.raft else { return Ok(None) };
    let address = resolve(RAFT_LISTENER, &raft.bind)?;
    Ok(Some(acceptor::bind(&ListenerConfig { name: RAFT_LISTENER.to_owned(), address })?))
}

/// What this node says of itself to others, and whom it looks for.
fn peer_network(
    config: &ServerConfig,
    identity: &Identity,
    snapshot: &Snapshot,
    advertised: Option<&Endpoint>,
) -> Arc<PeerNetwork> {
    let ours = chronik_net::peer::Identity {
        node: config.node_id.0,
        directory: Uuid::from_bytes(identity.directory),
        incarnation: rand::random(),
        shard_count: identity.shards,
        cluster: identity.cluster_id.as_deref().and_then(ClusterId::new),
        address: advertised.map(|endpoint| peers::address(endpoint).into()),
    };
    let configured = config.peers.iter().map(|(node, peer)| (*node, peer.raft.clone())).collect();
    PeerNetwork::new(config.node_id, &ours, configured, snapshot)
}

/// The admin endpoint answers from here on: who watches a long recovery is told that the node lives.
fn open_admin(config: &ServerConfig) -> Result<AdminEndpoint, StartError> {
    let address = resolve(ADMIN_LISTENER, &config.admin)?;
    let listener = acceptor::bind(&ListenerConfig { name: ADMIN_LISTENER.to_owned(), address })?;
    let admin = AdminEndpoint::start(listener).map_err(StartError::Admin)?;
    tracing::info!(address = %admin.address(), "admin endpoint listens");
    Ok(admin)
}

/// The first address of a host.
///
/// # Errors
/// When it has none.
pub fn resolve(name: &str, endpoint: &Endpoint) -> Result<SocketAddr, StartError> {
    let Endpoint { host, port } = endpoint;
    let fail =
        |source| StartError::Address { name: name.to_owned(), host: host.clone(), port: *port, source };
    let mut addresses = (host.as_str(), *port).to_socket_addrs().map_err(fail)?;
    addresses.next().ok_or_else(|| fail(io::Error::from(io::ErrorKind::NotFound)))
}

/// How this node registers: port 0 stands for the port that the system chose.
fn own_registration(
    config: &ServerConfig,
    identity: &Identity,
    bound: &[BoundListener],
    raft: Option<&BoundListener>,
) -> Broker {
    let mut listeners = BTreeMap::new();
    for (name, listener) in &config.listeners {
        let mut endpoint = listener.advertise.clone();
        let chosen = bound.iter().find(|bound| bound.name() == name).map(|bound| bound.address().port());
        if endpoint.port == 0 {
            endpoint.port = chosen.unwrap_or(0);
        }
        listeners.insert(name.clone(), endpoint);
    }
    Broker {
        directory: Uuid::from_bytes(identity.directory),
        incarnation: Uuid::new_v4(),
        rack: config.rack.clone(),
        listeners,
        raft: config.raft.as_ref().zip(raft).map(|(listener, bound)| {
            let Endpoint { host, port } = listener.advertise.clone();
            Endpoint { host, port: if port == 0 { bound.address().port() } else { port } }
        }),
    }
}

/// The broker configs that the node was started with, by Kafka's names.
fn static_configs(config: &ServerConfig) -> BTreeMap<String, String> {
    let mut configs = config.kafka.clone();
    let list = |endpoint: fn(&Listener) -> &Endpoint| {
        let one = |(name, listener): (&String, &Listener)| {
            let Endpoint { host, port } = endpoint(listener);
            format!("{name}://{host}:{port}")
        };
        config.listeners.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let mut set = |name: &str, value: String| {
        configs.entry(name.to_owned()).or_insert(value);
    };
    set("node.id", config.node_id.to_string());
    set("broker.id", config.node_id.to_string());
    set("log.dirs", config.data_dir.display().to_string());
    set("listeners", list(|listener| &listener.bind));
    set("advertised.listeners", list(|listener| &listener.advertise));
    if let Some(rack) = &config.rack {
        set("broker.rack", rack.clone());
    }
    configs
}
