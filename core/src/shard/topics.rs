//! Following the metadata: partitions of this shard are made, configured and deleted as the committed log says.
//!
//! Shard 0 sends each published snapshot with what changed since the last one; a shard acts on what concerns its own
//! groups. Making a partition costs no file and no fsync of its own (SAFETY.md, rule 21): one frame in the next turn.

use std::sync::Arc;

use bytes::Bytes;
use chronik_raft::driver::NewGroup;
use chronik_wal::entry::{LogSink, LogStart};
use chronik_wal::identity::shard_of;
use chronik_wal::partition::{FileDone, FileJob, FileLimits, PartitionIdentity, PartitionLog, RollPolicy};
use chronik_wal::types::{GroupId, PeerId};

use super::controller::AdminRequest;
use super::{Job, JobOwner, Shard};
use crate::config::topic::TopicConfig;
use crate::metadata::command::{ConfigScope, Replica};
use crate::metadata::names::{CLUSTER_METADATA, CONSUMER_OFFSETS};
use crate::metadata::snapshot::{PartitionView, Snapshot, TopicView};
use crate::metadata::state::{Change, Topic};
use crate::partition::{Partition, PartitionName, producer_limits};

/// How often fresh ids are asked for, while damaged replicas have none.
const RENEWAL_EVERY_MS: u64 = 5_000;
/// Asked for at a time.
const RENEWALS_MAX: usize = 64;

impl Shard {
    /// Takes over a newer snapshot.
    pub(crate) fn adopt(&mut self, snapshot: Arc<Snapshot>, changes: &[Change]) {
        let (node, known) = (self.node, snapshot.brokers.contains_key(&self.node));
        if known && self.is_registered(&self.snapshot) && !self.is_registered(&snapshot) {
            // Its replicas have other ids now, which belong to the other directory.
            return self.fail(format!(
                "node {node} was registered with another data directory: what is here counts no more; should this be the \
                 node to go on, stop the other one and start this one with an empty data directory"
            ));
        }
        self.config = snapshot.config.clone();
        self.snapshot = snapshot;
        let mut newest = None;
        for change in changes {
            match change {
                Change::TopicCreated(topic) => {
                    self.add_partitions(topic, 0);
                    newest = newest.max(topic.partitions.iter().map(|partition| partition.group).max());
                }
                Change::PartitionsAdded(topic, first) => {
                    self.add_partitions(topic, *first as usize);
                    newest = newest.max(topic.partitions.iter().map(|partition| partition.group).max());
                }
                Change::TopicDeleted(topic) => self.topic_deleted(topic),
                Change::ReplicasPlaced(topic, number) => self.replicas_placed(topic, *number),
                Change::BrokerReturned(_, placed) => {
                    placed.iter().for_each(|(topic, number)| self.replicas_placed(topic, *number));
                }
                Change::ConfigsChanged(ConfigScope::Topic(id)) => {
                    if let Some(topic) = self.snapshot.topic_by_id(id).cloned() {
                        self.configure(&topic);
                    }
                }
                Change::ConfigsChanged(_) => self.configure_all(),
                _ => {}
            }
        }
        if let Some(newest) = newest {
            self.make_partitions();
            self.groups_known(newest);
        }
    }

    fn add_partitions(&mut self, topic: &Topic, first: usize) {
        // The topic may be gone again by the time this snapshot was published.
        let Some(view) = self.snapshot.topic_by_id(&topic.id).cloned() else { return };
        for (number, partition) in (0i32..).zip(&view.partitions).skip(first) {
            if self.own_replica(partition).is_none() {
                continue;
            }
            let placed = usize::try_from(number).ok().and_then(|at| topic.partitions.get(at));
            let stands_first = placed.is_some_and(|placed| placed.first_leader == self.node);
            self.queue_partition(partition.group, topic.id, number, stands_first);
        }
    }

    /// The replicas of a partition are others than before: one here may come, go, or know of others.
    fn replicas_placed(&mut self, topic: &Topic, number: i32) {
        let Some(view) = self.snapshot.topic_by_id(&topic.id).cloned() else { return };
        let Ok(at) = usize::try_from(number) else { return };
        let Some(partition) = view.partitions.get(at) else { return };
        let (group, own) = (partition.group, self.own_replica(partition));
        if own.is_some() && self.damaged.get(&group).map(|damaged| damaged.peer) == own {
            // Others come or go. This one waits for a fresh id: with its log and its vote gone it must not begin under the old one.
            return;
        }
        let held = self.driver.state(group).map(|state| state.peer);
        if held.is_some() && held == own {
            self.members_placed(group, partition.replicas.to_vec());
            self.drive_membership(group);
            return self.watch_in_sync(group);
        }
        // What is here belongs to a replica that is none any more, or to one that has lost its log.
        self.remove_partition(group);
        self.add_partition(&view, at);
    }

    /// Asks for fresh ids for the replicas here that have lost part of their log and that others have too: under its old id a
    /// replica must neither vote nor acknowledge (SAFETY.md, rule 8).
    pub(crate) fn ask_for_renewal(&mut self) {
        let now_ms = self.now.mono_ms;
        if self.damaged.is_empty() || now_ms < self.housekeeping.renewal_at_ms {
            return;
        }
        self.housekeeping.renewal_at_ms = now_ms + RENEWAL_EVERY_MS;
        let mut asked = Vec::new();
        for topic in self.snapshot.topics.values() {
            for (number, view) in (0i32..).zip(&topic.partitions) {
                if !self.damaged.contains_key(&view.group) || view.target().len() < 2 {
                    continue;
                }
                if let Some(peer) = self.own_replica(view) {
                    let replica = Replica { node: self.node, peer };
                    asked.push(AdminRequest::RenewReplica { topic: topic.id, partition: number, replica });
                }
            }
        }
        asked.into_iter().take(RENEWALS_MAX).for_each(|request| self.ask_controller(request));
    }

    /// Whether the cluster knows this node by the data directory that it has.
    fn is_registered(&self, snapshot: &Snapshot) -> bool {
        let directory = uuid::Uuid::from_bytes(self.directory);
        snapshot.brokers.get(&self.node).is_some_and(|broker| broker.directory == directory)
    }

    pub(crate) fn add_partition(&mut self, topic: &TopicView, number: usize) {
        let partition = &topic.partitions[number];
        let Some(peer) = self.own_replica(partition) else { return };
        if self.damaged.contains_key(&partition.group) {
            return;
        }
        // Where old files are still on their way out, this comes once they are.
        if self.driver.contains(partition.group) || self.leaving.contains_key(&partition.group) {
            return;
        }
        // A joiner is not among them: it waits for the log, or a snapshot, to make it a voter.
        let voters: Vec<PeerId> = partition.base.iter().map(|replica| replica.peer).collect();
        let new = NewGroup {
            group: partition.group,
            peer,
            voters,
            configuration_index: partition.base_index,
            snapshot_data: Bytes::new(),
        };
        if let Err(error) = self.driver.create_group(new, &mut self.wal) {
            return self.fail(format!("group {} of {}-{number}: {error}", partition.group, topic.name));
        }
        let files = PartitionLog::new(
            &self.store,
            identity(topic, number as i32, partition.group),
            LogStart::default(),
            file_limits(topic),
        );
        let name = partition_name(topic, number as i32);
        let mut made = Partition::new(name, partition.group, topic.config.clone(), files, &self.config);
        made.members = partition.replicas.to_vec();
        self.partitions.insert(partition.group, made);
        self.tell_unreachable(partition.group, &[]);
        if &*topic.name == CONSUMER_OFFSETS {
            self.add_coordinator(partition.group, number as i32);
        }
    }

    /// This node's replica of a partition, if the partition is this shard's. None while the cluster knows the node by another
    /// data directory: the replicas that it lists are that one's.
    pub(crate) fn own_replica(&self, partition: &PartitionView) -> Option<PeerId> {
        if shard_of(partition.group, self.shard_count) != self.id || !self.is_registered(&self.snapshot) {
            return None;
        }
        partition.replica_on(self.node).map(|replica| replica.peer)
    }

    fn configure(&mut self, topic: &TopicView) {
        for partition in &topic.partitions {
            if let Some(own) = self.partitions.get_mut(&partition.group) {
                own.config = topic.config.clone();
            }
        }
    }

    fn configure_all(&mut self) {
        let limits = producer_limits(&self.config);
        self.partitions.values_mut().for_each(|partition| partition.producers.set_limits(limits));
        let snapshot = self.snapshot.clone();
        snapshot.topics.values().for_each(|topic| self.configure(topic));
    }

    fn topic_deleted(&mut self, topic: &Topic) {
        for partition in &topic.partitions {
            self.remove_partition(partition.group);
        }
        self.forget_offsets(&topic.name, topic.id);
    }

    pub(super) fn remove_partition(&mut self, group: GroupId) {
        if let Some(damaged) = self.damaged.remove(&group) {
            self.wal.put_removed(group);
            self.bury_damaged(group, damaged.identity);
        }
        if !self.partitions.contains_key(&group) {
            return;
        }
        self.remove_coordinator(group);
        let mut decided = Vec::new();
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.fail_waiters(&mut decided);
        }
        self.decide(group, decided);
        let Some(partition) = self.partitions.remove(&group) else { return };
        self.driver.remove_group(group, &mut self.wal);
        self.contact_settled(group);
        self.write_behind.forget(group);
        self.drops.forget(group);
        for fetch in partition.fetch_waiters {
            self.read_again(fetch, group);
            self.decide_fetch(fetch);
        }
        self.leaving.insert(group, (partition.name.topic_id, partition.name.index));
        self.dying.insert(group, partition.files);
        self.bury(group);
    }

    /// Moves the files of a replica that was not served aside.
    fn bury_damaged(&mut self, group: GroupId, identity: PartitionIdentity) {
        self.leaving.insert(group, (uuid::Uuid::from_bytes(identity.topic_id), identity.partition));
        let files = PartitionLog::new(&self.store, identity, LogStart::default(), FileLimits::default());
        self.start_job(JobOwner::Buried(group), Job::File(files.delete()));
    }

    /// Moves the files of a deleted partition aside once no job works on them.
    pub(crate) fn bury(&mut self, group: GroupId) {
        if self.dying.get(&group).is_none_or(PartitionLog::is_busy) {
            return;
        }
        if let Some(files) = self.dying.remove(&group) {
            self.start_job(JobOwner::Buried(group), Job::File(files.delete()));
        }
    }

    /// A step of removing a replica's files has ended. A new one of the same partition may come now, if there is to be one.
    pub(crate) fn buried(&mut self, group: GroupId, done: FileDone) {
        if let FileDone::Moved(Ok(Some(path))) = done {
            return self.start_job(JobOwner::Buried(group), Job::File(FileJob::remove_directory(path)));
        }
        self.deleted_files(done);
        let Some((topic, number)) = self.leaving.remove(&group) else { return };
        let view = self.snapshot.topic_by_id(&topic).cloned();
        if let (Some(view), Ok(at)) = (view, usize::try_from(number))
            && at < view.partitions.len()
        {
            self.add_partition(&view, at);
        }
    }

    /// A step of deleting files has ended.
    pub(crate) fn deleted_files(&mut self, done: FileDone) {
        match done {
            // A topic of the same name could never write its files.
            FileDone::Moved(Err(error)) => self.fail(format!("files of a deleted partition: {error}")),
            FileDone::Unlinked(Err(error)) => {
                tracing::warn!(%error, "files of a deleted partition stay until the next start");
            }
            _ => {}
        }
    }
}

/// How a partition's files name it.
pub(crate) fn identity(topic: &TopicView, partition: i32, group: GroupId) -> PartitionIdentity {
    PartitionIdentity { topic: topic.name.to_string(), partition, topic_id: *topic.id.as_bytes(), group }
}

/// How the files of the metadata log name it.
pub(crate) fn metadata_identity() -> PartitionIdentity {
    PartitionIdentity {
        topic: CLUSTER_METADATA.to_owned(),
        partition: 0,
        topic_id: [0; 16],
        group: GroupId::METADATA,
    }
}

pub(crate) fn partition_name(topic: &TopicView, index: i32) -> PartitionName {
    PartitionName { topic: topic.name.clone(), topic_id: topic.id, index }
}

pub(crate) fn roll_policy(config: &TopicConfig) -> RollPolicy {
    RollPolicy {
        segment_bytes: config.segment_bytes,
        segment_ms: i64::try_from(config.segment_ms).unwrap_or(i64::MAX),
        jitter_ms: 0,
    }
}

pub(crate) fn file_limits(topic: &TopicView) -> FileLimits {
    FileLimits { index_interval_bytes: topic.config.index_interval_bytes, ..FileLimits::default() }
}
