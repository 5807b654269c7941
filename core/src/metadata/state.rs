//! What the metadata log adds up to. Every node has its own, on shard 0; all are equal at the same index of the log.
//!
//! `clone` is cheap (shared structure), so that the controller can plan on a copy that runs ahead of what is committed.
//! A command that does not fit is a conflict: nothing of it is applied, on any node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chronik_wal::types::{GroupId, NodeId, PeerId, Term};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::chunk_map::ChunkMap;
use super::command::{Command, ConfigScope, Endpoint, PartitionPlacement, Replica, RequestId, uuid_text};
use super::names::{collision_key, is_internal};
use crate::config::layers::ConfigMap;

/// Answered requests remembered: a retry comes within seconds, and no node sends this many in that time.
pub const REQUESTS_KEPT_MAX: usize = 1024;

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
    /// Its replicas; the first is preferred as leader.
    pub replicas: Arc<[Replica]>,
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
    /// The replicas of this partition are to be others.
    ReplicasPlaced(Arc<Topic>, i32),
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
    /// A feature has another level.
    FeatureChanged(String),
    /// A forwarded request has been answered.
    RequestCompleted(RequestId),
}

/// The state of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataState {
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) brokers: Arc<BTreeMap<NodeId, Broker>>,
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
        (GroupId(self.last_group + 1), PeerId(self.last_peer + 1))
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
                Arc::make_mut(&mut self.brokers).insert(*node, broker);
                Ok(Change::BrokerRegistered(*node))
            }
            Command::UnregisterBroker { node } => match Arc::make_mut(&mut self.brokers).remove(node) {
                Some(_) => Ok(Change::BrokerUnregistered(*node)),
                None => conflict(format!("broker {node} is not registered")),
            },
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

    fn mint(&mut self, cluster_id: &str) -> Result<Change, Conflict> {
        if let Some(id) = &self.cluster_id {
            return conflict(format!("the cluster has the id {id} already"));
        }
        let id: Arc<str> = cluster_id.into();
        self.cluster_id = Some(Arc::clone(&id));
        Ok(Change::ClusterId(id))
    }

    fn create_topic(
        &mut self,
        id: Uuid,
        name: &str,
        configs: &ConfigMap,
        placements: &[PartitionPlacement],
    ) -> Result<Change, Conflict> {
        if self.topics.contains_key(name) || self.names.contains_key(&id) {
            return conflict(format!("topic {name} ({id}) exists"));
        }
        if let Some(other) = self.colliding_topic(name) {
            return conflict(format!("topic {name} collides with {other}"));
        }
        if placements.is_empty() || i32::try_from(placements.len()).is_err() {
            return conflict(format!("topic {name} with {} partitions", placements.len()));
        }
        let partitions = self.new_partitions(placements)?;
        let name: Arc<str> = name.into();
        let topic =
            Arc::new(Topic { id, name: Arc::clone(&name), configs: Arc::new(configs.clone()), partitions });
        if let Some(key) = collision_key(&name) {
            self.collisions.insert(key, Arc::clone(&name));
        }
        self.names.insert(id, Arc::clone(&name));
        self.topics.insert(name, Arc::clone(&topic));
        Ok(Change::TopicCreated(topic))
    }

    fn delete_topic(&mut self, id: &Uuid) -> Result<Change, Conflict> {
        let Some(name) = self.names.remove(id) else {
            return conflict(format!("no topic {id} to delete"));
        };
        if let Some(key) = collision_key(&name) {
            self.collisions.remove(&key);
        }
        let topic = self.topics.remove(&name).expect("every id in `names` has its topic");
        Ok(Change::TopicDeleted(topic))
    }

    fn add_partitions(
        &mut self,
        id: &Uuid,
        first: i32,
        placements: &[PartitionPlacement],
    ) -> Result<Change, Conflict> {
        let count = self.topic_by_id(id).map(|topic| topic.partitions.len());
        if count.is_none() || count != usize::try_from(first).ok() {
            return conflict(format!("partitions of {id} from {first} on, but there are {count:?}"));
        }
        if i32::try_from(placements.len()).ok().and_then(|added| first.checked_add(added)).is_none() {
            return conflict(format!("too many partitions for {id}"));
        }
        let added = self.new_partitions(placements)?;
        let topic = self.topic_mut(id).expect("looked up above");
        topic.partitions.extend(added);
        Ok(Change::PartitionsAdded(self.topic_by_id(id).expect("looked up above").clone(), first))
    }

    fn change_configs(
        &mut self,
        scope: &ConfigScope,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Change, Conflict> {
        let configs = match scope {
            ConfigScope::Topic(id) => match self.topic_mut(id) {
                Some(topic) => &mut topic.configs,
                None => return conflict(format!("configs of {id}, which does not exist")),
            },
            ConfigScope::Broker(node) => Arc::make_mut(&mut self.broker_configs).entry(*node).or_default(),
            ConfigScope::Cluster => &mut self.cluster_configs,
        };
        let configs = Arc::make_mut(configs);
        for (name, value) in changes {
            match value {
                Some(value) => configs.insert(name.clone(), value.clone()),
                None => configs.remove(name),
            };
        }
        Ok(Change::ConfigsChanged(scope.clone()))
    }

    fn allocate_producer_ids(&mut self, node: NodeId, first: i64, count: i64) -> Result<Change, Conflict> {
        let end = first.checked_add(count);
        let Some(end) = end.filter(|_| count > 0 && first >= self.next_producer_id) else {
            return conflict(format!("producer ids {first}+{count}, next is {}", self.next_producer_id));
        };
        self.next_producer_id = end;
        Ok(Change::ProducerIdsAllocated { node, first, count })
    }

    fn record_leader(
        &mut self,
        id: &Uuid,
        number: i32,
        leader: (Term, NodeId),
        in_sync: &[NodeId],
    ) -> Result<Change, Conflict> {
        let partition = self.partition_mut(id, number)?;
        if partition
            .leader
            .is_some_and(|(term, node)| term > leader.0 || (term == leader.0 && node != leader.1))
        {
            return conflict(format!("leader of {id}-{number} in term {}, newer is known", leader.0));
        }
        partition.leader = Some(leader);
        partition.in_sync = in_sync.into();
        Ok(Change::LeaderRecorded(self.topic_by_id(id).expect("looked up above").clone(), number))
    }

    fn place_replicas(&mut self, id: &Uuid, number: i32, replicas: &[Replica]) -> Result<Change, Conflict> {
        let last_peer = self.last_peer;
        let partition = self.partition_mut(id, number)?;
        let fits = |replica: &Replica| replica.peer.0 > last_peer || partition.replicas.contains(replica);
        if replicas.is_empty() || !replicas.iter().all(fits) || !distinct(replicas) {
            return conflict(format!("replicas of {id}-{number}: {replicas:?}"));
        }
        partition.replicas = replicas.into();
        let highest = replicas.iter().map(|replica| replica.peer.0).max().unwrap_or(0);
        self.last_peer = last_peer.max(highest);
        Ok(Change::ReplicasPlaced(self.topic_by_id(id).expect("looked up above").clone(), number))
    }

    fn complete_request(&mut self, request: RequestId) -> Result<Change, Conflict> {
        let requests = Arc::make_mut(&mut self.requests);
        if !requests.set.insert(request) {
            return conflict(format!("request {request:?} was answered before"));
        }
        requests.order.push_back(request);
        if requests.order.len() > REQUESTS_KEPT_MAX
            && let Some(oldest) = requests.order.pop_front()
        {
            requests.set.remove(&oldest);
        }
        Ok(Change::RequestCompleted(request))
    }

    /// Checks that the placements use ids never used before, and uses them.
    fn new_partitions(&mut self, placements: &[PartitionPlacement]) -> Result<Vec<Partition>, Conflict> {
        let (mut last_group, mut last_peer) = (self.last_group, self.last_peer);
        let mut partitions = Vec::with_capacity(placements.len());
        for placement in placements {
            let mut fresh = placement.group.0 > last_group && !placement.replicas.is_empty();
            last_group = placement.group.0;
            for replica in &placement.replicas {
                fresh &= replica.peer.0 > last_peer;
                last_peer = replica.peer.0;
            }
            let first_leader =
                placement.first_leader.or(placement.replicas.first().map(|replica| replica.node));
            let Some(first_leader) = first_leader.filter(|_| fresh && distinct(&placement.replicas)) else {
                return conflict(format!(
                    "placement {placement:?} uses an id again, or names no broker or one twice"
                ));
            };
            partitions.push(Partition {
                group: placement.group,
                replicas: placement.replicas.clone().into(),
                first_leader,
                leader: None,
                in_sync: placement.replicas.iter().map(|replica| replica.node).collect(),
            });
        }
        (self.last_group, self.last_peer) = (last_group, last_peer);
        Ok(partitions)
    }

    fn topic_mut(&mut self, id: &Uuid) -> Option<&mut Topic> {
        let name = self.names.get(id)?;
        self.topics.get_mut(name).map(Arc::make_mut)
    }

    fn partition_mut(&mut self, id: &Uuid, number: i32) -> Result<&mut Partition, Conflict> {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let exists = self.topic_by_id(id).is_some_and(|topic| at < topic.partitions.len());
        if !exists {
            return conflict(format!("partition {number} of {id} does not exist"));
        }
        Ok(&mut self.topic_mut(id).expect("looked up above").partitions[at])
    }
}

/// Whether no node and no peer id is named twice.
fn distinct(replicas: &[Replica]) -> bool {
    let nodes: BTreeSet<NodeId> = replicas.iter().map(|replica| replica.node).collect();
    let peers: BTreeSet<PeerId> = replicas.iter().map(|replica| replica.peer).collect();
    nodes.len() == replicas.len() && peers.len() == replicas.len()
}

fn conflict<T>(what: String) -> Result<T, Conflict> {
    Err(Conflict(what))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
