//! What each command does to topics, configs, ids and leaders. Membership of groups is in `placement.rs`.
//!
//! Every function checks first and changes afterwards: a conflict leaves everything as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_wal::types::{NodeId, PeerId, RaftIndex, Term};
use uuid::Uuid;

use super::{Change, Conflict, MetadataState, Partition, REQUESTS_KEPT_MAX, Topic, conflict};
use crate::config::layers::ConfigMap;
use crate::metadata::command::{ConfigScope, PartitionPlacement, Replica, RequestId};
use crate::metadata::names::collision_key;

impl MetadataState {
    pub(super) fn mint(&mut self, cluster_id: &str) -> Result<Change, Conflict> {
        if let Some(id) = &self.cluster_id {
            return conflict(format!("the cluster has the id {id} already"));
        }
        let id: Arc<str> = cluster_id.into();
        self.cluster_id = Some(Arc::clone(&id));
        Ok(Change::ClusterId(id))
    }

    pub(super) fn create_topic(
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

    pub(super) fn delete_topic(&mut self, id: &Uuid) -> Result<Change, Conflict> {
        let Some(name) = self.names.remove(id) else {
            return conflict(format!("no topic {id} to delete"));
        };
        if let Some(key) = collision_key(&name) {
            self.collisions.remove(&key);
        }
        let topic = self.topics.remove(&name).expect("every id in `names` has its topic");
        Ok(Change::TopicDeleted(topic))
    }

    pub(super) fn add_partitions(
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

    pub(super) fn change_configs(
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

    pub(super) fn allocate_producer_ids(
        &mut self,
        node: NodeId,
        first: i64,
        count: i64,
    ) -> Result<Change, Conflict> {
        let end = first.checked_add(count);
        let Some(end) = end.filter(|_| count > 0 && first >= self.next_producer_id) else {
            return conflict(format!("producer ids {first}+{count}, next is {}", self.next_producer_id));
        };
        self.next_producer_id = end;
        Ok(Change::ProducerIdsAllocated { node, first, count })
    }

    pub(super) fn record_leader(
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

    pub(super) fn complete_request(&mut self, request: RequestId) -> Result<Change, Conflict> {
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
                adding: Arc::default(),
                removing: Arc::default(),
                base_index: RaftIndex(0),
                base: Arc::default(),
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

    pub(super) fn partition_mut(&mut self, id: &Uuid, number: i32) -> Result<&mut Partition, Conflict> {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let exists = self.topic_by_id(id).is_some_and(|topic| at < topic.partitions.len());
        if !exists {
            return conflict(format!("partition {number} of {id} does not exist"));
        }
        Ok(&mut self.topic_mut(id).expect("looked up above").partitions[at])
    }
}

/// Whether no node and no peer id is named twice.
pub(super) fn distinct(replicas: &[Replica]) -> bool {
    let nodes: BTreeSet<NodeId> = replicas.iter().map(|replica| replica.node).collect();
    let peers: BTreeSet<PeerId> = replicas.iter().map(|replica| replica.peer).collect();
    nodes.len() == replicas.len() && peers.len() == replicas.len()
}
