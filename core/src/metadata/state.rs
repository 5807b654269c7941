//! What the metadata log adds up to. Every node has its own, on shard 0; all are equal at the same index of the log.
//!
//! `clone` is cheap (shared structure), so that the controller can plan on a copy that runs ahead of what is committed.
//! A command that does not fit is a conflict: nothing of it is applied, on any node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chronik_wal::types::{GroupId, NodeId, PeerId, RaftIndex, Term};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::chunk_map::ChunkMap;
use super::command::{Command, ConfigScope, Endpoint, Replica, RequestId, uuid_text};
use super::names::{collision_key, is_internal};
use crate::config::layers::ConfigMap;

mod apply;
mod difference;
mod placement;

pub use difference::changes_between;
pub use placement::MetadataReplicas;
pub(super) use placement::same_members;

/// Answered requests remembered: a retry comes within seconds, and no node sends this many in that time.
pub const REQUESTS_KEPT_MAX: usize = 1024;

/// Removed brokers remembered: whoever starts one of them again does so within days, and few are removed.
pub const DEPARTED_KEPT_MAX: usize = 256;

/// A command that contradicts the state. Never seen unless a leader planned on a wrong state, so it is logged as an error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("metadata command refused: {0}")]
pub struct Conflict(pub String);

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    /// Its data directory.
    #[serde(with = "uuid_text")]
    pub directory: Uuid,
    /// Drawn anew at each of its starts.
    #[serde(with = "uuid_text")]
    pub incarnation: Uuid,
    /// Its rack.
    pub rack: Option<String>,
    /// Its Kafka listeners by name.
    pub listeners: BTreeMap<String, Endpoint>,
    /// Where its peers reach it.
    pub raft: Option<Endpoint>,
}

/// A broker that was removed, as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Departed {
    /// The broker.
    pub node: NodeId,
    /// Its data directory: another one is another node.
    #[serde(with = "uuid_text")]
    pub directory: Uuid,
    /// Where its peers reached it.
    pub raft: Option<Endpoint>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its id, never used for another one.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Its own configs.
    pub configs: Arc<ConfigMap>,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// Whether the broker itself keeps state in it.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }
}

/// A partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Its Raft group.
    pub group: GroupId,
    /// Its replicas, those that come and those that go included; the first is preferred as leader.
    pub replicas: Arc<[Replica]>,
    /// Of these, the ones that were none when the last placement was complete: they join the group, without a vote at first.
    pub adding: Arc<[Replica]>,
    /// Of these, the ones that are to go. One that is in `adding` as well was called off before it had arrived.
    pub removing: Arc<[Replica]>,
    /// The entry of its log with which the replicas that are not in `adding` became the members of its Raft group; 0 for those
    /// that made it, or where it is not known.
    pub base_index: RaftIndex,
    /// Those members, when `replicas` does not name all of them any more; else empty.
    pub base: Arc<[Replica]>,
    /// The replica that campaigns first when the partition has just been made.
    pub first_leader: NodeId,
    /// The newest leader that was recorded, and its term. A hint.
    pub leader: Option<(Term, NodeId)>,
    /// The replicas in sync when that was recorded; all of them before.
    pub in_sync: Arc<[NodeId]>,
}

/// What a command changed, for those who act on it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The cluster has its id.
    ClusterId(Arc<str>),
    /// A broker was registered.
    BrokerRegistered(NodeId),
    /// A broker has left.
    BrokerUnregistered(NodeId),
    /// A topic was made: make the groups of its partitions.
    TopicCreated(Arc<Topic>),
    /// A topic was deleted: remove its groups and files.
    TopicDeleted(Arc<Topic>),
    /// Partitions from this number on were added.
    PartitionsAdded(Arc<Topic>, i32),
    /// The replicas of this partition are to be others, or have become what they were to be.
    ReplicasPlaced(Arc<Topic>, i32),
    /// A broker was registered with another data directory: its replicas of these partitions have new peer ids.
    BrokerReturned(NodeId, Vec<(Arc<Topic>, i32)>),
    /// The members of the metadata group are to be others, or have become what they were to be.
    MetadataReplicasPlaced,
    /// A leader and an in-sync set were recorded for this partition.
    LeaderRecorded(Arc<Topic>, i32),
    /// Configs of a topic, of a broker or of all brokers changed.
    ConfigsChanged(ConfigScope),
    /// A node got a block of producer ids.
    ProducerIdsAllocated {
        /// To whom.
        node: NodeId,
        /// The first id.
        first: i64,
        /// How many.
        count: i64,
    },
    /// A broker is being drained, or is so no more.
    DrainingMarked(NodeId),
    /// A feature has another level.
    FeatureChanged(String),
    /// A forwarded request has been answered.
    RequestCompleted(RequestId),
}

/// The state of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataState {
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) metadata_replicas: Arc<MetadataReplicas>,
    pub(super) brokers: Arc<BTreeMap<NodeId, Broker>>,
    /// The brokers that were removed last, oldest first.
    pub(super) departed: Arc<Vec<Departed>>,
    /// Brokers that are being drained: internal topics do not grow onto these.
    pub(super) draining: Arc<BTreeSet<NodeId>>,
    pub(super) topics: ChunkMap<Arc<str>, Arc<Topic>>,
    pub(super) names: ChunkMap<Uuid, Arc<str>>,
    /// Names with '.' or '_' by what they collide on.
    pub(super) collisions: ChunkMap<String, Arc<str>>,
    pub(super) cluster_configs: Arc<ConfigMap>,
    pub(super) broker_configs: Arc<BTreeMap<NodeId, Arc<ConfigMap>>>,
    pub(super) features: Arc<BTreeMap<String, i16>>,
    /// The highest ids used so far.
    pub(super) last_group: u64,
    pub(super) last_peer: u64,
    pub(super) next_producer_id: i64,
    pub(super) requests: Arc<AnsweredRequests>,
}

/// The newest requests answered, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AnsweredRequests {
    pub(super) order: VecDeque<RequestId>,
    pub(super) set: BTreeSet<RequestId>,
}

impl MetadataState {
    /// What a node knows when group 0 has just come to be there: who its members are.
    #[must_use]
    pub fn of_members(replicas: MetadataReplicas) -> Self {
        let mut state = Self { metadata_replicas: Arc::new(replicas), ..Self::default() };
        state.last_peer = state.highest_peer();
        state
    }

    /// The cluster's id, once it has been minted.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&Arc<str>> {
        self.cluster_id.as_ref()
    }

    /// The registered brokers.
    #[must_use]
    pub fn brokers(&self) -> &Arc<BTreeMap<NodeId, Broker>> {
        &self.brokers
    }

    /// Whether the broker with this data directory was removed.
    #[must_use]
    pub fn is_departed(&self, directory: &Uuid) -> bool {
        self.departed.iter().any(|departed| departed.directory == *directory)
    }

    /// The removed brokers that are out of the metadata group as well: nobody waits for a word of theirs any more.
    pub fn removed(&self) -> impl Iterator<Item = &Departed> {
        self.departed.iter().filter(|departed| !self.is_member(&departed.directory))
    }

    /// The removed brokers that are still in the metadata group: until they are out, it may need their votes.
    pub fn leaving(&self) -> impl Iterator<Item = &Departed> {
        self.departed.iter().filter(|departed| self.is_member(&departed.directory))
    }

    fn is_member(&self, directory: &Uuid) -> bool {
        self.metadata_replicas.replicas.iter().any(|member| member.directory == *directory)
    }

    /// The brokers that are being drained.
    #[must_use]
    pub fn draining(&self) -> &Arc<BTreeSet<NodeId>> {
        &self.draining
    }

    /// The topics by name.
    #[must_use]
    pub fn topics(&self) -> &ChunkMap<Arc<str>, Arc<Topic>> {
        &self.topics
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: &Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(id)?)
    }

    /// A partition by its topic's id.
    #[must_use]
    pub fn partition(&self, topic: &Uuid, number: i32) -> Option<&Partition> {
        self.topic_by_id(topic)?.partitions.get(usize::try_from(number).ok()?)
    }

    /// The topic whose name collides with this one (itself not counted).
    #[must_use]
    pub fn colliding_topic(&self, name: &str) -> Option<&Arc<str>> {
        self.collisions.get(&collision_key(name)?).filter(|other| &***other != name)
    }

    /// What is set for all brokers.
    #[must_use]
    pub fn cluster_configs(&self) -> &Arc<ConfigMap> {
        &self.cluster_configs
    }

    /// What is set for one broker.
    #[must_use]
    pub fn broker_configs(&self, node: NodeId) -> Arc<ConfigMap> {
        self.broker_configs.get(&node).cloned().unwrap_or_default()
    }

    /// As [`Self::broker_configs`], borrowed.
    #[must_use]
    pub fn set_for_broker(&self, node: NodeId) -> &ConfigMap {
        static NONE: ConfigMap = ConfigMap::new();
        self.broker_configs.get(&node).map_or(&NONE, |configs| configs)
    }

    /// The level of a feature; 0 when it is not set.
    #[must_use]
    pub fn feature_level(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// Whether a forwarded request was answered before.
    #[must_use]
    pub fn is_answered(&self, request: &RequestId) -> bool {
        self.requests.set.contains(request)
    }

    /// The first producer id not yet given away.
    #[must_use]
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// The next group id and the next peer id that were never used.
    #[must_use]
    pub fn next_ids(&self) -> (GroupId, PeerId) {
        (GroupId(self.last_group + 1), PeerId(self.highest_peer() + 1))
    }

    /// The members of the metadata group. Empty before the first broker has registered.
    #[must_use]
    pub fn metadata_replicas(&self) -> &Arc<MetadataReplicas> {
        &self.metadata_replicas
    }

    /// Applies the commands of one batch in order; a conflict skips that command alone.
    pub fn apply_batch(&mut self, commands: &[Command]) -> Vec<Result<Change, Conflict>> {
        commands.iter().map(|command| self.apply(command)).collect()
    }

    /// Applies one command.
    ///
    /// # Errors
    /// [`Conflict`] when it does not fit; then nothing has changed.
    pub fn apply(&mut self, command: &Command) -> Result<Change, Conflict> {
        match command {
            Command::MintClusterId { cluster_id } => self.mint(cluster_id),
            Command::RegisterBroker { node, directory, incarnation, rack, listeners, raft } => {
                let broker = Broker {
                    directory: *directory,
                    incarnation: *incarnation,
                    rack: rack.clone(),
                    listeners: listeners.clone(),
                    raft: raft.clone(),
                };
                Ok(self.register_broker(*node, broker))
            }
            Command::UnregisterBroker { node } => self.unregister_broker(*node),
            Command::CreateTopic { id, name, configs, partitions } => {
                self.create_topic(*id, name, configs, partitions)
            }
            Command::DeleteTopic { id } => self.delete_topic(id),
            Command::AddPartitions { id, first, partitions } => self.add_partitions(id, *first, partitions),
            Command::ChangeConfigs { scope, changes } => self.change_configs(scope, changes),
            Command::AllocateProducerIds { node, first, count } => {
                self.allocate_producer_ids(*node, *first, *count)
            }
            Command::RecordLeader { id, partition, term, leader, in_sync } => {
                self.record_leader(id, *partition, (*term, *leader), in_sync)
            }
            Command::PlaceReplicas { id, partition, replicas } => {
                self.place_replicas(id, *partition, replicas)
            }
            Command::CompletePlacement { id, partition, replicas, index } => {
                self.complete_placement(id, *partition, replicas, *index)
            }
            Command::PlaceMetadataReplicas { replicas } => self.place_metadata_replicas(replicas),
            Command::CompleteMetadataPlacement { replicas } => self.complete_metadata_placement(replicas),
            Command::MarkDraining { node, draining } => self.mark_draining(*node, *draining),
            Command::SetFeature { name, level } => {
                let features = Arc::make_mut(&mut self.features);
                if *level == 0 {
                    features.remove(name)
                } else {
                    features.insert(name.clone(), *level)
                };
                Ok(Change::FeatureChanged(name.clone()))
            }
            Command::CompleteRequest { request } => self.complete_request(*request),
        }
    }
}

fn conflict<T>(what: String) -> Result<T, Conflict> {
    Err(Conflict(what))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
