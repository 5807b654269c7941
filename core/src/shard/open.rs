//! From what a crash left to a shard that runs.
//!
//! ```text
//! recover_wal (each shard)  ─▶  MetadataLog::open (shard 0's group 0: the state of the cluster)  ─▶  Shard::open (each)
//! ```
//! Blocking, before anything is served, through [`Disk`] alone; so the simulator restarts shards with the same code. Memory
//! stays bounded: what the WAL holds of committed entries beyond the budget goes to the partition files as it is read.
//!
//! Nothing is deleted here before the metadata are known (SAFETY.md, rule 19): a group that the WAL has and the metadata
//! have not is a deleted topic's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chronik_raft::driver::{Driver, DriverConfig, GroupInit};
use chronik_wal::disk::Disk;
use chronik_wal::entry::{FlushPoint, GroupState, LogEntry, LogSink, LogStart};
use chronik_wal::frame::WalIdentity;
use chronik_wal::partition::{FileCache, FileLimits, FileStore, PartitionIdentity, PartitionLog};
use chronik_wal::recovery::{Recovered, recover};
use chronik_wal::shard_wal::{ShardWal, WalConfig, WalError};
use chronik_wal::types::{GroupId, NodeId, PeerId, ShardId};

use super::controller::ControllerHost;
use super::topics::metadata_identity;
use super::{Shard, ShardLimits, Timer, groups, topics};
use crate::config::topic::TopicConfig;
use crate::metadata::names::{CLUSTER_METADATA, CONSUMER_OFFSETS};
use crate::metadata::snapshot::Snapshot;
use crate::metrics::ShardMetrics;
use crate::partition::{Partition, PartitionName, producer_limits};

mod files;
mod metadata_log;

pub(crate) use files::replay_files;
pub use metadata_log::MetadataLog;

use files::{few_entries, open_group, remove_files};

/// Why a shard cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The WAL cannot be read.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The files of the metadata log cannot be used.
    #[error("the metadata log: {0}")]
    Metadata(String),
    /// A group's state does not hold together.
    #[error("group {group}: {why}")]
    Group {
        /// The group.
        group: GroupId,
        /// What is wrong.
        why: String,
    },
}

/// What a shard is started with, but for what is on its disk.
#[derive(Clone)]
pub struct ShardSeed {
    /// This node.
    pub node: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// Shards of the node.
    pub shard_count: u16,
    /// Bounds.
    pub limits: ShardLimits,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The WAL's layout.
    pub wal: WalConfig,
    /// Open files and mappings, shared by the node.
    pub files: Arc<FileCache>,
    /// For election timeouts and member ids; another one at each start.
    pub seed: u64,
    /// Unix time at the start.
    pub wall_ms: i64,
    /// Where the shard counts.
    pub metrics: Arc<ShardMetrics>,
}

impl ShardSeed {
    fn store(&self) -> FileStore {
        FileStore { data_dir: self.data_dir.join("data"), cache: self.files.clone() }
    }

    fn identity(&self) -> &WalIdentity {
        &self.wal.identity
    }
}

/// Reads a shard's WAL.
///
/// # Errors
/// When the disk fails or the WAL is another node's; damage is noted in what is returned.
pub fn recover_wal(disk: &dyn Disk, seed: &ShardSeed) -> Result<Recovered, OpenError> {
    debug_assert_eq!(seed.identity().shard, seed.shard);
    Ok(recover(disk, &seed.wal)?)
}

/// What only shard 0 is given.
pub struct MetadataPart {
    /// The metadata log as it was read.
    pub log: MetadataLog,
    /// The host of the metadata group, with the state in it.
    pub host: ControllerHost,
}

/// A group that is not served. What recovery found of it stays in the WAL for `log repair`.
#[derive(Debug)]
pub(crate) struct Damaged {
    /// Whose files are in its directory, to be moved aside when it goes: the metadata may not name it any more by then.
    pub(crate) identity: PartitionIdentity,
    /// What is damaged.
    pub(crate) reason: String,
    /// The replica that it is: under this id it begins nothing anew (SAFETY.md, rule 8).
    pub(crate) peer: PeerId,
    /// Its newest state, to be put again when its segment is to be freed.
    pub(crate) state: Option<GroupState>,
    /// How far its files counted. Were a checkpoint to leave it out, the next start would take all its files for leftovers.
    pub(crate) flushed: Option<FlushPoint>,
    /// Its entries in the WAL, to be put again likewise; none when they are more than is kept in memory for that. Then their
    /// segments stay.
    pub(crate) entries: Vec<LogEntry>,
    /// The damage is in the WAL: the segment that proves it must stay, or a later start would take the group for sound.
    pub(crate) in_wal: bool,
}

impl Shard {
    /// Starts a shard: its WAL goes on in a new segment, its groups are loaded, what the metadata have more is made and
    /// what they have not is removed.
    ///
    /// # Errors
    /// When the disk fails or a group's state does not hold together.
    pub fn open(
        disk: &dyn Disk,
        seed: &ShardSeed,
        mut recovered: Recovered,
        snapshot: Arc<Snapshot>,
        metadata: Option<MetadataPart>,
    ) -> Result<Self, OpenError> {
        let wal = ShardWal::open(disk, seed.wal.clone(), &mut recovered)?;
        let mut shard = Self::empty(seed, wal, snapshot);
        if let Some(part) = metadata {
            shard.load_metadata(part)?;
        }
        shard.load_partitions(disk, seed, &mut recovered)?;
        for group in recovered.groups.keys() {
            tracing::info!(group = group.0, "a group of a deleted topic is removed");
            shard.wal.put_removed(*group);
        }
        shard.set_timer(0, Timer::Housekeeping);
        shard.set_timer(0, Timer::Balance);
        Ok(shard)
    }

    fn empty(seed: &ShardSeed, wal: ShardWal, snapshot: Arc<Snapshot>) -> Self {
        let driver = Driver::new(DriverConfig {
            seed: seed.seed,
            tail_budget_bytes: usize::try_from(seed.limits.tail_bytes_max / 4).unwrap_or(usize::MAX),
            // The shard's own budget holds produce back before this would.
            uncommitted_bytes_max: 1 << 40,
            ..DriverConfig::default()
        });
        Self {
            id: seed.shard,
            node: seed.node,
            directory: seed.identity().directory,
            shard_count: seed.shard_count,
            limits: seed.limits.clone(),
            config: snapshot.config.clone(),
            store: seed.store(),
            driver,
            wal,
            partitions: BTreeMap::new(),
            damaged: BTreeMap::new(),
            dying: BTreeMap::new(),
            leaving: BTreeMap::new(),
            coordinators: groups::Coordinators::default(),
            controller: None,
            snapshot,
            newest_group: GroupId::METADATA,
            early: std::collections::VecDeque::new(),
            early_bytes: 0,
            making: super::making::Making::default(),
            nodes_up: std::collections::BTreeSet::new(),
            leader_events: Vec::new(),
            produces: BTreeMap::new(),
            stalled: std::collections::VecDeque::new(),
            contacts: super::contact::Contacts::default(),
            is_local_due: false,
            handover: super::handover::Handover::default(),
            membership: super::membership::Membership::default(),
            catch_up: super::peers::CatchUp::default(),
            elections: super::elections::Elections::default(),
            held: super::hold::Held::default(),
            doubts: super::doubt::Doubts::default(),
            proposed_bytes: 0,
            fetches: BTreeMap::new(),
            fetch_calls: BTreeMap::new(),
            offset_requests: BTreeMap::new(),
            deletes: BTreeMap::new(),
            touched: std::collections::BTreeSet::new(),
            local_waits: std::collections::BTreeSet::new(),
            progressed: std::collections::BTreeSet::new(),
            in_sync: super::in_sync::Watch::default(),
            jobs: BTreeMap::new(),
            timers: std::collections::BTreeSet::new(),
            write_behind: super::write_behind::WriteBehind::default(),
            drops: super::drops::Drops::default(),
            recycling: super::recycle::Recycling::default(),
            next_number: 0,
            start_seed: seed.seed,
            now: super::Now::default(),
            stopping: super::housekeeping::Stopping::No,
            housekeeping: super::housekeeping::Housekeeping::default(),
            metrics: seed.metrics.clone(),
            out: super::Outputs::default(),
        }
    }

    fn load_metadata(&mut self, part: MetadataPart) -> Result<(), OpenError> {
        let MetadataPart { log, mut host } = part;
        if let Some(opened) = &log.opened {
            host.found_in_files(opened.files.bytes());
        }
        self.controller = Some(host);
        let group = GroupId::METADATA;
        let name = PartitionName { topic: CLUSTER_METADATA.into(), topic_id: uuid::Uuid::nil(), index: 0 };
        let config = Arc::new(TopicConfig::internal_log());
        let Some(opened) = log.opened else {
            let files = PartitionLog::new(
                &self.store,
                metadata_identity(),
                LogStart::default(),
                FileLimits::default(),
            );
            self.partitions.insert(group, Partition::new(name, group, config, files, &self.config));
            return Ok(());
        };
        let partition = Partition::recovered(name, group, config, opened.files, &opened.state, &self.config);
        self.add_recovered(partition, opened.state, opened.entries)?;
        self.name_metadata_members();
        Ok(())
    }

    fn load_partitions(
        &mut self,
        disk: &dyn Disk,
        seed: &ShardSeed,
        recovered: &mut Recovered,
    ) -> Result<(), OpenError> {
        let snapshot = self.snapshot.clone();
        let groups = snapshot.topics.values().flat_map(|topic| &topic.partitions).map(|view| view.group);
        self.newest_group = groups.max().unwrap_or(GroupId::METADATA);
        let mut budget = usize::try_from(seed.limits.tail_bytes_max / 4).unwrap_or(usize::MAX);
        for topic in snapshot.topics.values() {
            for (number, partition) in topic.partitions.iter().enumerate() {
                let Some(own) = self.own_replica(partition) else { continue };
                let group = partition.group;
                let identity = topics::identity(topic, number as i32, group);
                let found = recovered.groups.get(&group).and_then(|found| found.state.as_ref());
                if found.is_some_and(|state| state.peer != own) {
                    // What is here was another replica: this node's one is new, and begins with nothing (rule 8).
                    recovered.groups.remove(&group);
                    self.wal.put_removed(group);
                    remove_files(disk, &self.store, identity, topics::file_limits(topic))
                        .map_err(|error| OpenError::Group { group, why: error.to_string() })?;
                    self.add_partition(topic, number);
                    continue;
                }
                if let Some(reason) = recovered.damage.reason(group) {
                    let reason = reason.to_owned();
                    let found = recovered.groups.remove(&group).unwrap_or_default();
                    let damaged = Damaged {
                        identity,
                        reason,
                        peer: own,
                        state: found.state,
                        flushed: found.flushed,
                        entries: Vec::new(),
                        in_wal: true,
                    };
                    self.mark_damaged(&topic.name, number, group, damaged);
                    continue;
                }
                let Some(found) = recovered.groups.remove(&group) else {
                    self.add_partition(topic, number);
                    continue;
                };
                let damaged = |reason| Damaged {
                    identity: identity.clone(),
                    reason,
                    peer: own,
                    state: found.state.clone(),
                    flushed: found.flushed,
                    entries: few_entries(disk, seed, group, &found),
                    in_wal: false,
                };
                let policy = topics::roll_policy(&topic.config);
                let limits = topics::file_limits(topic);
                let opened = open_group(
                    disk,
                    seed,
                    &self.store.clone(),
                    identity.clone(),
                    limits,
                    group,
                    found.clone(),
                    &policy,
                    &mut budget,
                );
                let opened = match opened {
                    Ok(opened) => opened,
                    Err(error) => {
                        self.mark_damaged(&topic.name, number, group, damaged(error.to_string()));
                        continue;
                    }
                };
                let name = topics::partition_name(topic, number as i32);
                let written = opened.files.written().next_offset;
                let log_end = opened.entries.last().map_or(written, LogEntry::next_offset);
                let mut made = Partition::recovered(
                    name,
                    group,
                    topic.config.clone(),
                    opened.files,
                    &opened.state,
                    &self.config,
                );
                made.members = partition.replicas.to_vec();
                if let Err(error) = made.recover_producers(
                    disk,
                    opened.snapshot,
                    &opened.state.snapshot_data,
                    log_end,
                    producer_limits(&self.config),
                    seed.wall_ms,
                ) {
                    self.mark_damaged(&topic.name, number, group, damaged(error.to_string()));
                    continue;
                }
                self.add_recovered(made, opened.state, opened.entries)?;
                if &*topic.name == CONSUMER_OFFSETS {
                    self.add_coordinator(group, number as i32);
                }
            }
        }
        Ok(())
    }

    /// The partition is not served: its log has lost something that was acknowledged (SAFETY.md, rules 3 and 8).
    fn mark_damaged(&mut self, topic: &str, number: usize, group: GroupId, damaged: Damaged) {
        tracing::error!(
            group = group.0,
            reason = damaged.reason,
            "{topic}-{number} is damaged and stays offline (KAFKA_STORAGE_ERROR): stop this node and run \
             `chronik-server log repair`"
        );
        self.damaged.insert(group, damaged);
    }

    fn add_recovered(
        &mut self,
        partition: Partition,
        state: GroupState,
        entries: Vec<LogEntry>,
    ) -> Result<(), OpenError> {
        let group = partition.group;
        let init = GroupInit {
            group,
            state,
            entries,
            flushed: partition.files.written(),
            file_term_runs: partition
                .files
                .term_runs()
                .iter()
                .map(|run| (run.first_index, run.term))
                .collect(),
        };
        self.driver.add_group(init).map_err(|error| OpenError::Group { group, why: error.to_string() })?;
        self.partitions.insert(group, partition);
        self.tell_unreachable(group, &[]);
        self.drop_left_segments(group);
        Ok(())
    }
}
