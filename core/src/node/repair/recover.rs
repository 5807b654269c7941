//! `chronik-server cluster recover --unsafe`: after the loss of a majority, one stopped node goes on alone with what it has
//! (SAFETY.md, rule 27).
//!
//! Every group that this node has a replica of gets this replica as its only voter, with all entries that it holds, the
//! uncommitted ones too: they may have been acknowledged. What only the others had is lost. The other brokers are taken
//! off the list, and with them their replicas; partitions that have none here stay without a leader until they are deleted.
//!
//! Each replica becomes a new incarnation: a fresh peer id and a leap of the term. Should one of the others come back with its
//! old data, nothing that it says is meant for anybody here, and what it leads it leads in an older term. Its data has to
//! go all the same: among themselves the others may be a majority.
//!
//! Nothing is changed but by one atomic step, the switch to newly written WALs; interrupted, it is run again.

use std::collections::BTreeSet;
use std::path::Path;

use chronik_raft::sole_voter_configuration;
use chronik_wal::disk::Disk;
use chronik_wal::entry::LogStart;
use chronik_wal::identity::Identity;
use chronik_wal::partition::{PartitionIdentity, PartitionLog};
use chronik_wal::recovery::RecoveredGroup;
use chronik_wal::reshard::{Mended, finish_switch, mend};
use chronik_wal::shard_wal::WalConfig;
use chronik_wal::types::{GroupId, NodeId, PeerId, RaftIndex, ShardId, Term};
use uuid::Uuid;

use super::prefix::{Prefix, TERM_LEAP};
use super::{Repair, RepairError, load_identity, shard_of};
use crate::metadata::command::{Command, MetadataReplica, Replica};
use crate::metadata::image;
use crate::metadata::snapshot::SnapshotBuilder;
use crate::metadata::state::MetadataState;
use crate::shard::topics::{identity as partition_identity, metadata_identity};

/// What a recovery comes to, before it is carried out.
pub struct Recovery<'a> {
    repair: Repair<'a>,
    data_dir: &'a Path,
    identity: Identity,
    template: WalConfig,
    survey: Survey,
}

/// What goes on here, and what is given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The node that goes on.
    pub node: NodeId,
    /// The cluster.
    pub cluster_id: String,
    /// The nodes that are given up.
    pub others: Vec<NodeId>,
    /// Partitions that go on here.
    pub kept: usize,
    /// Partitions that have no replica here.
    pub elsewhere: Vec<String>,
    /// Partitions of which this node has lost something as well, with the reason.
    pub damaged: Vec<(String, String)>,
}

/// Looks at what a recovery of this directory would come to. Changes nothing.
///
/// # Errors
/// See [`RepairError`].
pub fn survey<'a>(disk: &'a dyn Disk, data_dir: &'a Path) -> Result<Recovery<'a>, RepairError> {
    let identity = load_identity(disk, data_dir, None)?;
    let template = WalConfig::new(data_dir, identity.wal(ShardId(0)));
    survey_with(disk, data_dir, identity, template)
}

/// As [`survey`], with a WAL of these sizes.
pub(crate) fn survey_with<'a>(
    disk: &'a dyn Disk,
    data_dir: &'a Path,
    identity: Identity,
    template: WalConfig,
) -> Result<Recovery<'a>, RepairError> {
    let identity = finish_switch(disk, data_dir, identity)?;
    let repair = Repair::read(disk, data_dir, &identity, &template)?;
    let Some((prefix, state)) = repair.metadata_prefix(&identity)? else {
        return Err(RepairError::NoData(data_dir.to_owned()));
    };
    let survey = Survey {
        node: identity.node,
        cluster_id: state.cluster_id().map(ToString::to_string).unwrap_or_default(),
        others: state.brokers().keys().copied().filter(|node| *node != identity.node).collect(),
        ..Survey::default()
    };
    let mut recovery = Recovery { repair, data_dir, identity, template, survey };
    let state = recovery.partitions(state)?;
    recovery.metadata(prefix, state);
    Ok(recovery)
}

impl Recovery<'_> {
    /// What it comes to.
    #[must_use]
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`RepairError`]; nothing has been changed then.
    pub fn carry_out(self) -> Result<Survey, RepairError> {
        let Self { repair, data_dir, identity, template, survey } = self;
        // ORDER: the files are durable as far as the checkpoint of the new WALs will say.
        for (name, salvaged) in &repair.files {
            PartitionLog::sync_salvaged(repair.disk, &repair.store, name, salvaged)?;
        }
        mend(repair.disk, data_dir, identity, &template, &repair.mended)?;
        Ok(survey)
    }

    /// Makes every replica here the only one of its partition. Gives the metadata that say so.
    fn partitions(&mut self, mut state: MetadataState) -> Result<MetadataState, RepairError> {
        let node = self.identity.node;
        let mut builder = SnapshotBuilder::new(node, self.identity.shards, Default::default());
        builder.reset(&state);
        let snapshot = builder.current().clone();
        for topic in snapshot.topics.values() {
            for (partition, index) in topic.partitions.iter().zip(0..) {
                let group = partition.group;
                let name = partition_identity(topic, index, group);
                let Some(own) = partition.replica_on(node) else {
                    self.survey.elsewhere.push(name.directory_name());
                    continue;
                };
                let fresh = Replica { node, peer: state.next_ids().1 };
                let prefix = self.prefix(&name, group, own.peer)?;
                let last = prefix.as_ref().map_or(RaftIndex(0), |prefix| prefix.last);
                place_alone(&mut state, topic.id, index, (fresh, last));
                self.survey.kept += 1;
                if let Some(prefix) = prefix {
                    self.go_on(name, prefix, fresh.peer);
                }
            }
        }
        Ok(state)
    }

    /// What is sound of a group; none when it was never written to.
    fn prefix(
        &mut self,
        name: &PartitionIdentity,
        group: GroupId,
        peer: PeerId,
    ) -> Result<Option<Prefix>, RepairError> {
        let shard = shard_of(group, self.identity.shards);
        let (recovered, config) = &self.repair.shards[usize::from(shard.0)];
        let reason = recovered.damage.reason(group).map(str::to_owned);
        let found = match recovered.groups.get(&group) {
            Some(found) => found.clone(),
            None if reason.is_none() => return Ok(None),
            None => RecoveredGroup::default(),
        };
        let config = config.clone();
        self.repair.prefix(&config, name, &found, reason, peer).map(Some)
    }

    fn go_on(&mut self, name: PartitionIdentity, mut prefix: Prefix, peer: PeerId) {
        if let Some(reason) = &prefix.damage {
            self.survey.damaged.push((name.directory_name(), reason.clone()));
        }
        prefix.become_sole_voter(peer);
        let flushed = prefix.files.as_ref().and_then(|files| files.end);
        let mended = Mended { state: prefix.state, flushed, entries: prefix.entries };
        self.repair.mended.insert(name.group, mended);
        self.repair.files.extend(prefix.files.map(|files| (name, files)));
    }

    /// The metadata group begins anew where its log ends, with an image that knows of this node alone.
    fn metadata(&mut self, mut prefix: Prefix, mut state: MetadataState) {
        if let Some(reason) = &prefix.damage {
            self.survey.damaged.push((metadata_identity().directory_name(), reason.clone()));
        }
        let peer = go_alone(&mut state, &self.identity);
        let last_term = prefix.last_term();
        prefix.become_sole_voter(peer);
        let mut group = prefix.state;
        group.log_start = LogStart {
            index: prefix.last,
            term: last_term,
            offset: prefix.next_offset,
            base_offset: prefix.next_offset,
        };
        group.snapshot_data = image::encode(&state).into();
        let mended = Mended { state: group, flushed: None, entries: Vec::new() };
        self.repair.mended.insert(GroupId::METADATA, mended);
    }
}

impl Prefix {
    /// The term of its last entry.
    fn last_term(&self) -> Term {
        let in_files = || self.files.as_ref().and_then(|files| files.end).map(|end| end.term);
        let in_wal = self.entries.last().map(|entry| entry.term);
        in_wal.or_else(in_files).unwrap_or(self.state.log_start.term)
    }

    fn become_sole_voter(&mut self, peer: PeerId) {
        self.state.hard.term = Term(self.known_term.0 + TERM_LEAP);
        self.state.peer = peer;
        self.state.configuration = sole_voter_configuration(peer);
        // Changes of members in the log are behind this configuration, committed or not.
        self.state.configuration_index = self.last;
    }
}

fn apply(state: &mut MetadataState, command: &Command) {
    let applied = state.apply(command);
    assert!(applied.is_ok(), "a recovery made a command that does not fit: {applied:?}");
}

/// The replica is the only one, behind all changes of members in its log: who joins it later begins with that.
fn place_alone(state: &mut MetadataState, id: Uuid, partition: i32, (replica, index): (Replica, RaftIndex)) {
    let replicas = vec![replica];
    apply(state, &Command::PlaceReplicas { id, partition, replicas: replicas.clone() });
    apply(state, &Command::CompletePlacement { id, partition, replicas, index });
}

/// Takes all other nodes out of the cluster. Gives this node's new id in the metadata group.
fn go_alone(state: &mut MetadataState, identity: &Identity) -> PeerId {
    let (node, peer) = (identity.node, state.next_ids().1);
    let directory = Uuid::from_bytes(identity.directory);
    let replicas = vec![MetadataReplica { node, peer, directory }];
    apply(state, &Command::PlaceMetadataReplicas { replicas: replicas.clone() });
    let others: BTreeSet<NodeId> = state.brokers().keys().copied().filter(|other| *other != node).collect();
    for other in others {
        apply(state, &Command::UnregisterBroker { node: other });
    }
    apply(state, &Command::CompleteMetadataPlacement { replicas });
    peer
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
