//! `chronik-server log repair`: what is damaged in the data of a stopped node, and, with `--accept-loss`, the way back
//! to service for partitions that have no other replica (SAFETY.md, rule 8).
//!
//! A damaged partition keeps the longest sound prefix of its log: its files up to the first thing that does not verify,
//! then the WAL's entries for as long as they follow one another. Where the WAL is damaged, the files count as far as they
//! verify, beyond their checkpoint too: only committed entries are ever written there. What comes after the prefix is
//! dropped, and the term leaps: the next leader epoch is one that no lost batch can have carried, so consumers that had
//! read on are told of the truncation (KIP-320) rather than given other records at offsets they know.
//!
//! Nothing is changed but by one atomic step, the switch to newly written WALs (`reshard::mend`); a repair that is
//! interrupted has changed nothing and is run again. What the files have too much is cut off by the next start, as ever.
//!
//! The metadata log says which topics there are and is never guessed. If it is damaged, a repair needs a prefix that holds
//! the cluster's id at least. Topics that were made after that prefix are forgotten: the next start moves their directories
//! aside (`-stray`) and deletes none. A backup is the better way.

mod prefix;
pub mod recover;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_wal::disk::{Disk, OsDisk};
use chronik_wal::entry::EntryKind;
use chronik_wal::identity::{Identity, IdentityError, identity_path, shard_of};
use chronik_wal::lock::{DirectoryLock, LockError};
use chronik_wal::partition::{FileCache, FileStore, FilesError, PartitionIdentity, PartitionLog, Salvaged};
use chronik_wal::recovery::{EntryReader, Recovered, RecoveredGroup, recover};
use chronik_wal::reshard::{Mended, ReshardError, finish_switch, mend};
use chronik_wal::shard_wal::{WalConfig, WalError};
use chronik_wal::types::{GroupId, NodeId, PeerId, RaftIndex, ShardId};

use self::prefix::Prefix;
pub use self::report::{Damage, Report};
use crate::config::cli::RepairArgs;
use crate::metadata::image;
use crate::metadata::snapshot::SnapshotBuilder;
use crate::metadata::state::MetadataState;
use crate::shard::controller::apply_batch;
use crate::shard::topics::{identity as partition_identity, metadata_identity};

/// Open files of partitions; a repair looks at one partition at a time.
const OPEN_FILES_MAX: usize = 64;

/// Why nothing can be reported or repaired. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// There is no node's data.
    #[error("{} is no data directory: it has no meta.properties; check --data-dir", .0.display())]
    NoData(PathBuf),
    /// A server uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Of `meta.properties`.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Of a WAL.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// Of the new WALs.
    #[error(transparent)]
    Rewrite(#[from] ReshardError),
    /// Of a partition's files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Too little of the metadata log survives.
    #[error(
        "the metadata log is damaged and too little of it survives ({0}); restore the data directory from a backup"
    )]
    MetadataLost(String),
    /// Other nodes have the records.
    #[error(
        "{0} has replicas on other nodes: it is restored from them, not by dropping records; start the node"
    )]
    HasReplicas(String),
}

/// Reports and repairs, under the lock of the data directory.
///
/// # Errors
/// In one line, why nothing was done.
pub fn run(args: &RepairArgs) -> Result<Report, RepairError> {
    let disk = OsDisk;
    if !identity_path(&args.data_dir).exists() {
        return Err(RepairError::NoData(args.data_dir.clone()));
    }
    let _lock = DirectoryLock::acquire(&args.data_dir)?;
    repair(&disk, &args.data_dir, args.node_id.map(NodeId), args.accept_loss)
}

/// Reports what is damaged in a data directory; with `accept_loss`, keeps what survives and drops the rest.
///
/// # Errors
/// See [`RepairError`].
pub fn repair(
    disk: &dyn Disk,
    data_dir: &Path,
    node: Option<NodeId>,
    accept_loss: bool,
) -> Result<Report, RepairError> {
    let identity = load_identity(disk, data_dir, node)?;
    let template = WalConfig::new(data_dir, identity.wal(ShardId(0)));
    repair_with(disk, data_dir, identity, &template, accept_loss)
}

fn load_identity(disk: &dyn Disk, data_dir: &Path, node: Option<NodeId>) -> Result<Identity, RepairError> {
    let loaded = match Identity::load(disk, data_dir, node.unwrap_or_default()) {
        Err(IdentityError::OtherNode { found, .. }) if node.is_none() => {
            Identity::load(disk, data_dir, found)
        }
        loaded => loaded,
    };
    loaded?.ok_or_else(|| RepairError::NoData(data_dir.to_owned()))
}

/// As [`repair`], with a WAL of these sizes.
pub(crate) fn repair_with(
    disk: &dyn Disk,
    data_dir: &Path,
    identity: Identity,
    template: &WalConfig,
    accept_loss: bool,
) -> Result<Report, RepairError> {
    let identity = finish_switch(disk, data_dir, identity)?;
    let mut repair = Repair::read(disk, data_dir, &identity, template)?;
    let state = repair.metadata(&identity)?;
    repair.partitions(&identity, &state)?;
    if accept_loss && !repair.report.damaged.is_empty() {
        repair.carry_out(data_dir, identity, template)?;
    }
    Ok(repair.report)
}

/// A repair at work.
struct Repair<'a> {
    disk: &'a dyn Disk,
    store: FileStore,
    shards: Vec<(Recovered, WalConfig)>,
    report: Report,
    mended: BTreeMap<GroupId, Mended>,
    /// What must be durable in files before a checkpoint names it.
    files: Vec<(PartitionIdentity, Salvaged)>,
    /// A damaged partition that has other replicas.
    shared: Option<String>,
}

impl<'a> Repair<'a> {
    /// Reads the WALs of all shards.
    fn read(
        disk: &'a dyn Disk,
        data_dir: &Path,
        identity: &Identity,
        template: &WalConfig,
    ) -> Result<Self, RepairError> {
        let mut shards = Vec::new();
        for number in 0..identity.shards {
            let config = WalConfig {
                directory: chronik_wal::shard_wal::shard_directory(data_dir, ShardId(number)),
                identity: identity.wal(ShardId(number)),
                ..template.clone()
            };
            shards.push((recover(disk, &config)?, config));
        }
        let cache = Arc::new(FileCache::new(OPEN_FILES_MAX));
        Ok(Self {
            disk,
            store: FileStore { data_dir: data_dir.join("data"), cache },
            shards,
            report: Report::default(),
            mended: BTreeMap::new(),
            files: Vec::new(),
            shared: None,
        })
    }

    /// The state of the metadata, from the sound prefix of their log. Damage is noted.
    fn metadata(&mut self, identity: &Identity) -> Result<MetadataState, RepairError> {
        let Some((prefix, state)) = self.metadata_prefix(identity)? else {
            return Ok(MetadataState::default());
        };
        self.note(ShardId(0), metadata_identity(), prefix, false);
        Ok(state)
    }

    /// The sound prefix of the metadata log and what it adds up to; none for a node that was never started.
    fn metadata_prefix(&self, identity: &Identity) -> Result<Option<(Prefix, MetadataState)>, RepairError> {
        let group = GroupId::METADATA;
        let (recovered, config) = &self.shards[0];
        let reason = recovered.damage.reason(group).map(str::to_owned);
        let found = match (recovered.groups.get(&group), &reason) {
            (Some(found), _) if found.state.is_some() => found.clone(),
            // A node that was never started.
            (None, None) if identity.cluster_id.is_none() => return Ok(None),
            _ => {
                return Err(RepairError::MetadataLost(
                    reason.unwrap_or_else(|| "it is not in the WAL".to_owned()),
                ));
            }
        };
        let config = config.clone();
        let name = metadata_identity();
        let prefix = self.prefix(&config, &name, &found, reason, PeerId(0))?;
        let lost = |why: String| RepairError::MetadataLost(why);
        if prefix.state.log_start.index != found.state.map_or(RaftIndex(0), |state| state.log_start.index) {
            return Err(lost("its beginning is gone".to_owned()));
        }
        let mut state = match prefix.state.snapshot_data.is_empty() {
            true => MetadataState::default(),
            false => image::decode(&prefix.state.snapshot_data).map_err(|error| lost(error.to_string()))?,
        };
        if let Some(files) = &prefix.files {
            PartitionLog::visit_salvaged(self.disk, &self.store, &name, files, &mut |_, batch| {
                apply_batch(&mut state, batch);
            })?;
        }
        let mut reader = EntryReader::new(self.disk, &config);
        for location in prefix.entries.iter().filter(|location| location.kind == EntryKind::Batch) {
            apply_batch(&mut state, &reader.read(group, location)?.data);
        }
        if state.cluster_id().map(|id| &**id) != identity.cluster_id.as_deref()
            && identity.cluster_id.is_some()
        {
            return Err(lost("the cluster's id is gone".to_owned()));
        }
        Ok(Some((prefix, state)))
    }

    fn partitions(&mut self, identity: &Identity, state: &MetadataState) -> Result<(), RepairError> {
        let mut builder = SnapshotBuilder::new(identity.node, identity.shards, BTreeMap::new());
        builder.reset(state);
        let snapshot = builder.current().clone();
        for topic in snapshot.topics.values() {
            for (number, partition) in topic.partitions.iter().enumerate() {
                let own = partition.replicas.iter().find(|replica| replica.node == identity.node);
                let Some(own) = own else { continue };
                let group = partition.group;
                let shard = shard_of(group, identity.shards);
                let (recovered, config) = &self.shards[usize::from(shard.0)];
                let reason = recovered.damage.reason(group).map(str::to_owned);
                let found = match recovered.groups.get(&group) {
                    Some(found) => found.clone(),
                    // It was made by the metadata and never written to.
                    None if reason.is_none() => continue,
                    None => RecoveredGroup::default(),
                };
                let config = config.clone();
                let name = partition_identity(topic, i32::try_from(number).unwrap_or(i32::MAX), group);
                let prefix = self.prefix(&config, &name, &found, reason, own.peer)?;
                self.note(shard, name, prefix, partition.replicas.len() > 1);
            }
        }
        Ok(())
    }

    /// Notes a group if it is damaged, and what is to become of it.
    fn note(&mut self, shard: ShardId, name: PartitionIdentity, prefix: Prefix, has_replicas: bool) {
        let Some(reason) = prefix.damage else { return };
        let partition = name.directory_name();
        if has_replicas {
            self.shared.get_or_insert_with(|| partition.clone());
        }
        let start = prefix.state.log_start.offset;
        self.report.damaged.push(Damage {
            shard,
            partition,
            survives: (start, prefix.next_offset.max(start)),
            wal_entries: prefix.entries.len(),
            known_end: prefix.known_end,
            known_start: prefix.known_start,
            reason,
        });
        let flushed = prefix.files.as_ref().and_then(|files| files.end);
        let mended = Mended { state: prefix.state, flushed, entries: prefix.entries };
        self.mended.insert(name.group, mended);
        self.files.extend(prefix.files.map(|files| (name, files)));
    }

    fn carry_out(
        &mut self,
        data_dir: &Path,
        identity: Identity,
        template: &WalConfig,
    ) -> Result<(), RepairError> {
        if let Some(partition) = self.shared.take() {
            return Err(RepairError::HasReplicas(partition));
        }
        // ORDER: the files are durable as far as the checkpoint of the new WALs will say.
        for (name, salvaged) in &self.files {
            PartitionLog::sync_salvaged(self.disk, &self.store, name, salvaged)?;
        }
        mend(self.disk, data_dir, identity, template, &self.mended)?;
        self.report.repaired = true;
        Ok(())
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
