//! A node's data, from whatever the last run left to shards that are ready to be opened: identity, shard count, recovery
//! of the WALs and of the metadata log, tidying.
//!
//! Blocking, through [`Disk`] alone, with nothing drawn from the machine: clock, randomness and sizes come in with
//! [`DataSetup`]. So the simulator of `tests/` starts nodes with this very code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use chronik_wal::disk::Disk;
use chronik_wal::identity::Identity;
use chronik_wal::partition::{FileCache, sweep};
use chronik_wal::recovery::Recovered;
use chronik_wal::reshard::reshard;
use chronik_wal::shard_wal::{WalConfig, shard_directory};
use chronik_wal::types::{NodeId, ShardId};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::start::StartError;
use crate::config::server::Peer;
use crate::metadata::snapshot::{Snapshot, SnapshotBuilder};
use crate::metadata::state::Broker;
use crate::metrics::ShardMetrics;
use crate::shard::controller::ControllerHost;
use crate::shard::open::{MetadataLog, MetadataPart, OpenError, ShardSeed, recover_wal};
use crate::shard::topics::{identity as partition_identity, metadata_identity};
use crate::shard::{Shard, ShardLimits};

/// Files and mappings of partitions that are open at once.
pub const OPEN_FILES_MAX: usize = 4_096;

/// What the data of a node are opened with.
#[derive(Clone, Debug)]
pub struct DataSetup {
    /// The node.
    pub node: NodeId,
    /// The nodes that are to form a cluster, this one included; empty for a node on its own.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// How many shards it is to have.
    pub shards: u16,
    /// The sizes of the WALs; directory and identity are put in for each shard.
    pub wal: WalConfig,
    /// The bounds of each shard.
    pub limits: ShardLimits,
    /// The broker configs that the node was started with, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Open files and mappings at once.
    pub open_files_max: usize,
    /// WALs that are read at the same time.
    pub recovery_threads: usize,
    /// For election timeouts, ids and member names; another one at each start.
    pub seed: u64,
    /// Unix time at the start.
    pub wall_ms: i64,
}

/// A shard about to start: its seed and what was recovered.
pub struct ShardStart {
    /// What it is started with.
    pub seed: ShardSeed,
    /// What its WAL holds.
    pub recovered: Recovered,
    /// The first snapshot.
    pub snapshot: Arc<Snapshot>,
    /// On shard 0, the metadata.
    pub metadata: Option<MetadataPart>,
    /// The nodes that are to form a cluster.
    peers: Vec<NodeId>,
}

impl ShardStart {
    /// Opens the shard. Shard 0 sets out to form a cluster, or join one, if it has no metadata yet.
    ///
    /// # Errors
    /// When the disk fails or a group's state does not hold together.
    pub fn open(self, disk: &dyn Disk) -> Result<Shard, OpenError> {
        let mut shard = Shard::open(disk, &self.seed, self.recovered, self.snapshot, self.metadata)?;
        shard.begin_cluster(&self.peers)?;
        Ok(shard)
    }
}

/// Brings the WALs of a data directory to the shard count of the setup.
///
/// # Errors
/// When something is damaged, or of the disk. Nothing is lost; the next start tries again.
pub fn fit_shards(disk: &dyn Disk, setup: &DataSetup, identity: Identity) -> Result<Identity, StartError> {
    Ok(reshard(disk, &setup.data_dir, identity, setup.shards, &setup.wal)?)
}

/// Recovers the WALs and the metadata log and tidies the data directory. `own` is how the node registers.
///
/// # Errors
/// The first thing that is in the way. Nothing is served yet, so a refusal loses nothing.
pub fn open_shards(
    disk: &dyn Disk,
    setup: &DataSetup,
    identity: &Identity,
    own: Broker,
) -> Result<Vec<ShardStart>, StartError> {
    let seeds = seeds(setup, identity);
    let mut recovered = recover_wals(disk, &seeds, setup.recovery_threads)?;
    let log = MetadataLog::open(disk, &seeds[0], &mut recovered[0])?;
    if let (Some(named), Some(id)) = (log.state.cluster_id(), &identity.cluster_id)
        && **named != **id
    {
        return Err(StartError::Cluster(format!("{named} and {id}")));
    }
    if log.is_missing()
        && let Some(id) = &identity.cluster_id
    {
        // It may have voted: as the same replica, without its log, it must not do so again (SAFETY.md, rule 8).
        return Err(OpenError::Metadata(format!(
            "it is missing, though meta.properties names the cluster {id}: restore the data directory, or empty it \
             wholly, so that the other nodes fill it anew"
        ))
        .into());
    }
    let mut builder = SnapshotBuilder::new(setup.node, identity.shards, setup.configs.clone());
    builder.reset(&log.state);
    let snapshot = Arc::new(builder.current().clone());
    tidy(disk, setup, &snapshot)?;
    let random = SmallRng::seed_from_u64(seeds[0].seed);
    let host = ControllerHost::new(log.state.clone(), log.applied, builder, own, random);
    let mut metadata = Some(MetadataPart { log, host });
    let starts = seeds.into_iter().zip(recovered).map(|(seed, recovered)| ShardStart {
        seed,
        recovered,
        snapshot: snapshot.clone(),
        metadata: metadata.take(),
        peers: setup.peers.keys().copied().collect(),
    });
    Ok(starts.collect())
}

/// Recovers the WALs of all shards, in their order, several at a time.
fn recover_wals(disk: &dyn Disk, seeds: &[ShardSeed], threads: usize) -> Result<Vec<Recovered>, OpenError> {
    if threads <= 1 || seeds.len() == 1 {
        return seeds.iter().map(|seed| recover_wal(disk, seed)).collect();
    }
    let mut recovered = Vec::with_capacity(seeds.len());
    for together in seeds.chunks(threads) {
        std::thread::scope(|scope| {
            let reading: Vec<_> =
                together.iter().map(|seed| scope.spawn(move || recover_wal(disk, seed))).collect();
            for thread in reading {
                recovered.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok::<_, OpenError>(())
        })?;
    }
    Ok(recovered)
}

fn seeds(setup: &DataSetup, identity: &Identity) -> Vec<ShardSeed> {
    let files = Arc::new(FileCache::new(setup.open_files_max));
    let seed = |number: u16| {
        let shard = ShardId(number);
        let wal = WalConfig {
            directory: shard_directory(&setup.data_dir, shard),
            identity: identity.wal(shard),
            ..setup.wal.clone()
        };
        ShardSeed {
            node: setup.node,
            shard,
            shard_count: identity.shards,
            limits: setup.limits.clone(),
            data_dir: setup.data_dir.clone(),
            wal,
            files: files.clone(),
            // Another one for each shard, all from the one of this start.
            seed: setup.seed.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            wall_ms: setup.wall_ms,
            metrics: Arc::new(ShardMetrics::default()),
        }
    };
    (0..identity.shards).map(seed).collect()
}

/// Finishes deletions and moves what is no replica of this node aside. The metadata may be older than the cluster's, but never
/// than anything that this node has done: nobody acts on an entry before this disk knows that it is committed.
fn tidy(disk: &dyn Disk, setup: &DataSetup, snapshot: &Snapshot) -> Result<(), StartError> {
    let mut known = BTreeSet::from([metadata_identity()]);
    for topic in snapshot.topics.values() {
        let partitions = topic.partitions.iter().enumerate();
        let partitions = partitions.filter(|(_, view)| view.replica_on(setup.node).is_some());
        known.extend(partitions.map(|(number, view)| partition_identity(topic, number as i32, view.group)));
    }
    let report = sweep(disk, &setup.data_dir.join("data"), &known)?;
    tracing::debug!(?report, "data directory tidied");
    Ok(())
}
