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

pub mod recover;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_raft::sole_voter_configuration;
use chronik_wal::disk::{Disk, OsDisk};
use chronik_wal::entry::{EntryKind, FlushPoint, GroupState, HardState, LogStart};
use chronik_wal::identity::{Identity, IdentityError, identity_path, shard_of};
use chronik_wal::lock::{DirectoryLock, LockError};
use chronik_wal::partition::{
    FileCache, FileStore, FilesError, PartitionIdentity, PartitionLog, SalvageTo, Salvaged,
};
use chronik_wal::recovery::{EntryLocation, EntryReader, Recovered, RecoveredGroup, recover};
use chronik_wal::reshard::{Mended, ReshardError, finish_switch, mend};
use chronik_wal::shard_wal::{WalConfig, WalError};
use chronik_wal::types::{GroupId, KafkaOffset, NodeId, PeerId, RaftIndex, ShardId, Term};

pub use self::report::{Damage, Report};
use crate::config::cli::RepairArgs;
use crate::metadata::image;
use crate::metadata::snapshot::SnapshotBuilder;
use crate::metadata::state::MetadataState;
use crate::shard::controller::apply_batch;
use crate::shard::topics::{identity as partition_identity, metadata_identity};

/// By how much the term rises where turns of the WAL are lost: they may have held elections, one a start.
const TERM_LEAP: u64 = 1_000;

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

/// The sound prefix of one group.
struct Prefix {
    state: GroupState,
    files: Option<Salvaged>,
    entries: Vec<EntryLocation>,
    /// End of the prefix.
    last: RaftIndex,
    next_offset: KafkaOffset,
    /// The log start as the WAL has it.
    known_start: KafkaOffset,
    /// The highest offset and term that anything told of.
    known_end: KafkaOffset,
    known_term: Term,
    damage: Option<String>,
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

    /// The longest sound prefix of a group's log. `peer` is who this replica is, for a group whose state was lost.
    fn prefix(
        &self,
        config: &WalConfig,
        name: &PartitionIdentity,
        found: &RecoveredGroup,
        reason: Option<String>,
        peer: PeerId,
    ) -> Result<Prefix, RepairError> {
        let in_wal = reason.is_some();
        let state = found.state.clone().unwrap_or_else(|| GroupState {
            peer,
            configuration: sole_voter_configuration(peer),
            ..GroupState::default()
        });
        let mut damage = reason;
        if found.state.is_none() {
            damage.get_or_insert_with(|| "the WAL has no state of it".to_owned());
        }
        let located: BTreeMap<RaftIndex, EntryLocation> =
            found.entries.iter().chain(&found.stranded).map(|location| (location.index, *location)).collect();
        let mut reader = EntryReader::new(self.disk, config);
        let files = self.files(name, &state, found, in_wal, &located, &mut reader)?;
        let mut prefix = Prefix {
            last: state.log_start.index,
            next_offset: state.log_start.base_offset,
            known_start: state.log_start.offset,
            known_end: state.log_start.base_offset,
            known_term: state.hard.term,
            state,
            files: None,
            entries: Vec::new(),
            damage,
        };
        let mut term = prefix.state.log_start.term;
        if let Some(files) = files {
            prefix.damage = prefix.damage.or_else(|| files.damage.clone());
            let start = files.start;
            (prefix.last, prefix.next_offset, term) = match files.end {
                Some(end) => (end.index, end.next_offset, end.term),
                None => (start.index, start.base_offset, start.term),
            };
            prefix.files = Some(files);
        }
        prefix.known_term = prefix.known_term.max(term);
        prefix.note_point(found.flushed);
        for location in located.values() {
            prefix.known_term = prefix.known_term.max(location.term);
        }
        let mut sound = true;
        for location in located.range(prefix.last.next()..).map(|(_, location)| location) {
            let entry = reader.read(name.group, location);
            let end = entry.as_ref().map_or(location.base_offset, chronik_wal::entry::LogEntry::next_offset);
            prefix.known_end = prefix.known_end.max(end);
            let follows = location.index == prefix.last.next()
                && location.term >= term
                && location.base_offset >= prefix.next_offset;
            sound &= follows && entry.is_ok();
            if sound {
                (prefix.last, prefix.next_offset, term) = (location.index, end, location.term);
                prefix.entries.push(*location);
            } else if prefix.damage.is_none() {
                let why = entry.err().map_or_else(|| "does not follow".to_owned(), |error| error.to_string());
                prefix.damage = Some(format!("entry {}: {why}", location.index));
            }
        }
        prefix.finish(in_wal);
        Ok(prefix)
    }

    /// What is sound of the files; none when none count.
    fn files(
        &self,
        name: &PartitionIdentity,
        state: &GroupState,
        found: &RecoveredGroup,
        in_wal: bool,
        located: &BTreeMap<RaftIndex, EntryLocation>,
        reader: &mut EntryReader<'_>,
    ) -> Result<Option<Salvaged>, RepairError> {
        let start = state.log_start;
        let checkpoint = found.flushed.filter(|point| point.index > start.index);
        let look = |to| PartitionLog::salvage(self.disk, &self.store, name, to, start);
        if in_wal {
            let mut all = look(SalvageTo::End)?;
            let end = all.end.unwrap_or_default();
            if end.index >= checkpoint.unwrap_or_default().index
                && fits_wal(name.group, &end, located, reader)
            {
                // What does not verify beyond the checkpoint is a write that was under way.
                all.damage = None;
                return Ok(all.end.is_some().then_some(all));
            }
        }
        Ok(match checkpoint {
            Some(point) => Some(look(SalvageTo::Checkpoint(point))?),
            None => None,
        })
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

impl Prefix {
    fn note_point(&mut self, point: Option<FlushPoint>) {
        let point = point.unwrap_or_default();
        self.known_end = self.known_end.max(point.next_offset).max(self.next_offset);
        self.known_term = self.known_term.max(point.term);
    }

    /// The state with which the group goes on.
    fn finish(&mut self, in_wal: bool) {
        let leap = if in_wal { TERM_LEAP } else { 1 };
        let term = Term(self.known_term.0 + leap);
        self.state.hard = HardState { term, vote: PeerId(0), commit: self.last };
        self.state.configuration_index = self.state.configuration_index.min(self.last);
        if let Some(files) =
            self.files.as_ref().filter(|files| files.start.index > self.state.log_start.index)
        {
            self.state.log_start = files.start;
        }
        let start: &mut LogStart = &mut self.state.log_start;
        start.offset = start.offset.min(self.next_offset).max(start.base_offset);
    }
}

/// Whether files that reach beyond their checkpoint agree with what the WAL has of the same entries.
fn fits_wal(
    group: GroupId,
    end: &FlushPoint,
    located: &BTreeMap<RaftIndex, EntryLocation>,
    reader: &mut EntryReader<'_>,
) -> bool {
    let at_end = located.get(&end.index).is_none_or(|location| {
        let entry = reader.read(group, location);
        location.term == end.term && entry.is_ok_and(|entry| entry.next_offset() == end.next_offset)
    });
    let after = located.get(&end.index.next());
    at_end
        && after.is_none_or(|location| location.base_offset >= end.next_offset && location.term >= end.term)
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
