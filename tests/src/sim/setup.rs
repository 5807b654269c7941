//! How a run is set up: sizes so small that rolling, recycling, retention and compaction happen within seconds of
//! virtual time, the planted bugs, and the faults that may strike.

use std::collections::BTreeMap;
use std::path::Path;

use chronik_core::config::server::Peer;
use chronik_core::metadata::command::Endpoint;
use chronik_core::node::data::DataSetup;
use chronik_core::shard::ShardLimits;
use chronik_wal::frame::WalIdentity;
use chronik_wal::planted::Bug;
use chronik_wal::shard_wal::WalConfig;
use chronik_wal::types::{NodeId, ShardId};
use rand::Rng;
use rand::rngs::SmallRng;

/// The data directory on the simulated disk.
pub const DATA: &str = "/data";

/// The node in this place.
#[must_use]
pub fn node_id(number: usize) -> NodeId {
    NodeId(number as i32 + 1)
}

/// The place of a node.
#[must_use]
pub fn node_number(node: NodeId) -> usize {
    node.0 as usize - 1
}

/// Unix time at the start of a run.
pub const WALL_START_MS: i64 = 1_750_000_000_000;

/// A bug of the kind that the simulator must catch, put between the shard and the disk or the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A turn is reported durable before it is written.
    DurableBeforeWrite,
    /// The fdatasync of WAL segments is left out.
    TurnNotSynced,
    /// The last sectors of a turn are not written.
    TurnCutShort,
    /// The fdatasync of partition files is left out.
    FilesNotSynced,
    /// Directories are never synced.
    NamesNotSynced,
    /// Producer snapshots come back empty after a crash.
    ProducersForgotten,
    /// An error of a WAL write is passed over.
    WriteErrorIgnored,
    /// Some answers are sent twice.
    AnsweredTwice,
    /// Some answers are never sent.
    AnswerLost,
    /// The high watermark in an answer lies beyond the log's.
    WatermarkAhead,
    /// A node whose disk was wiped comes back as the replica that it was.
    WipedVotes,
    /// A bug within the product.
    Within(Bug),
}

/// What a run is allowed to meet.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// Where all randomness comes from.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// How many of them come later, with an empty disk, to the cluster that the others have formed.
    pub joiners: usize,
    /// Operations of the clients before the faults stop.
    pub operations: u64,
    /// Crashes, at most.
    pub crashes: u32,
    /// Whether crashes are power cuts, kills of the process, or either.
    pub power_cuts: bool,
    /// Errors of the disk (each ends the process), full disks and slow ones.
    pub disk_faults: bool,
    /// Starts with another shard count.
    pub reshard: bool,
    /// Cut networks, and processes that stand still.
    pub cuts: bool,
    /// Raft's messages may come twice and out of order.
    pub disorder: bool,
    /// Wall clocks that jump.
    pub clock_jumps: bool,
    /// Disks may be lost for good, one after the other.
    pub wipes: bool,
    /// Bits of a stopped node's WAL may turn over, as seldom.
    pub bit_rot: bool,
    /// Replicas are moved, and names of topics go out of use and others come.
    pub moves: bool,
    /// Crash at this writing step of the disk, counted from the start, and at that one of the recovery after it.
    pub crash_at_steps: Option<(u64, Option<u64>)>,
    /// The bug to be found.
    pub planted: Option<Planted>,
}

impl RunPlan {
    /// A random run of a node that is its own cluster: everything that can happen, happens.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        Self {
            seed,
            nodes: 1,
            joiners: 0,
            operations: 700,
            crashes: 6,
            power_cuts: true,
            disk_faults: true,
            reshard: true,
            cuts: false,
            disorder: false,
            clock_jumps: false,
            wipes: false,
            bit_rot: false,
            moves: false,
            crash_at_steps: None,
            planted: None,
        }
    }

    /// A random run of a cluster that so many nodes form; in every fourth another one joins.
    #[must_use]
    pub fn cluster(seed: u64, nodes: usize) -> Self {
        let joiners = usize::from(seed % 4 == 1);
        Self { nodes: nodes + joiners, joiners, moves: true, ..Self::fixed_cluster(seed, nodes) }
    }

    /// A random run of so many nodes, of which none joins and none leaves, and no replica moves but off a lost disk.
    #[must_use]
    pub fn fixed_cluster(seed: u64, nodes: usize) -> Self {
        Self {
            nodes,
            operations: 900,
            cuts: true,
            disorder: seed.is_multiple_of(3),
            clock_jumps: true,
            wipes: true,
            bit_rot: true,
            reshard: false,
            ..Self::random(seed)
        }
    }

    /// How many nodes form the cluster.
    #[must_use]
    pub fn founders(&self) -> usize {
        self.nodes - self.joiners
    }

    /// How many replicas a topic gets.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.nodes.min(3)
    }
}

/// Sizes of a run, drawn from its seed.
#[must_use]
pub fn sizes(rng: &mut SmallRng) -> (WalConfig, ShardLimits) {
    let identity = WalIdentity { node: node_id(0), directory: [7; 16], shard: ShardId(0) };
    let segment_bytes = [64 << 10, 96 << 10, 128 << 10][rng.random_range(0..3)];
    let wal = WalConfig {
        segment_bytes,
        first_segment_bytes: 48 << 10,
        wal_max_bytes: segment_bytes * rng.random_range(5..9),
        turn_bytes_max: 12 << 10,
        reserve_bytes: 16 << 10,
        segments_kept: 2,
        idle_ms: 100,
        ..WalConfig::new(Path::new(DATA), identity)
    };
    let limits = ShardLimits {
        tail_bytes_max: rng.random_range(96..400) << 10,
        write_behind_bytes: rng.random_range(2..24) << 10,
        write_behind_age_ms: rng.random_range(20..400),
        pending_max: 1_000,
        metadata_log_bytes: rng.random_range(2..16) << 10,
        coordinator_log_bytes: rng.random_range(2..16) << 10,
    };
    (wal, limits)
}

/// The broker configs of a node.
#[must_use]
pub fn broker_configs(number: usize, nodes: usize) -> BTreeMap<String, String> {
    let replicas = nodes.min(3).to_string();
    let in_sync = if nodes >= 3 { "2" } else { "1" };
    let configs = [
        ("node.id", node_id(number).0.to_string()),
        ("offsets.topic.num.partitions", "2".to_owned()),
        ("offsets.topic.replication.factor", replicas),
        ("min.insync.replicas", in_sync.to_owned()),
        ("log.retention.check.interval.ms", "500".to_owned()),
        ("log.segment.delete.delay.ms", "700".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    configs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a start of a node is given.
#[must_use]
pub fn data_setup(
    number: usize,
    founders: usize,
    wal: &WalConfig,
    limits: &ShardLimits,
    shards: u16,
    seed: u64,
    wall_ms: i64,
) -> DataSetup {
    // Who joins lists those who are there, and itself.
    let listed = (0..founders).chain((number >= founders).then_some(number)).map(peer).collect();
    DataSetup {
        node: node_id(number),
        peers: if founders > 1 { listed } else { BTreeMap::new() },
        data_dir: DATA.into(),
        shards,
        wal: wal.clone(),
        limits: limits.clone(),
        configs: broker_configs(number, founders),
        open_files_max: 24,
        // One after the other: a run is repeated by its seed.
        recovery_threads: 1,
        seed,
        wall_ms,
    }
}

/// Where clients reach a node.
#[must_use]
pub fn endpoint(number: usize) -> Endpoint {
    Endpoint { host: "localhost".to_owned(), port: 9092 + number as u16 }
}

fn peer(number: usize) -> (NodeId, Peer) {
    let raft = Endpoint { host: "localhost".to_owned(), port: 5001 + number as u16 };
    (node_id(number), Peer { kafka: endpoint(number), raft })
}
