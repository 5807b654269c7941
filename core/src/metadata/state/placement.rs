//! Who belongs to which group: brokers, replicas of partitions, members of the metadata group.
//!
//! A placement is a target. What was there before stays listed until the group's leader has brought Raft to the target:
//!
//! ```text
//! replicas = target, then what goes      adding = replicas not there at the last completion      removing = replicas not in the target
//! joiners begin with  replicas - adding  as their first configuration, as of the entry that made it;  the leader drives towards  replicas - removing
//! (with  base  where one of these has lost its log while it was to go)
//! ```
//! One that is called off while it joins stays in both `adding` and `removing` until the leader has it out of Raft: it may
//! vote by then, and what is acknowledged may rest on its disk.
//!
//! Invariants: a peer id is never given twice, in any group; a broker that comes back with another directory is another
//! peer in every group (SAFETY.md, rule 8), in the very command that registers it.

use std::sync::Arc;

use chronik_wal::types::{NodeId, PeerId, RaftIndex};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::apply::distinct;
use super::{
    Broker, Change, Conflict, DEPARTED_KEPT_MAX, Departed, MetadataState, Partition, Topic, conflict,
};
use crate::metadata::command::{MetadataReplica, Replica};

/// The members of the metadata group. The three lists are as those of [`Partition`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataReplicas {
    /// All of them, those that come and those that go included.
    pub replicas: Vec<MetadataReplica>,
    /// Those that were none when the last placement was complete.
    #[serde(default)]
    pub adding: Vec<MetadataReplica>,
    /// Those that are to go.
    #[serde(default)]
    pub removing: Vec<MetadataReplica>,
}

impl MetadataReplicas {
    /// The members that a joiner takes for the first configuration.
    #[must_use]
    pub fn base(&self) -> Vec<MetadataReplica> {
        without(&self.replicas, &self.adding)
    }

    /// The members as they are to be.
    #[must_use]
    pub fn target(&self) -> Vec<MetadataReplica> {
        without(&self.replicas, &self.removing)
    }

    /// Whether they are as they are to be.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.adding.is_empty() && self.removing.is_empty()
    }

    /// What this node is to be in the group, with its peer id; none when it is no member or is to go.
    #[must_use]
    pub fn of_node(&self, node: NodeId) -> Option<&MetadataReplica> {
        let stays = |replica: &&MetadataReplica| replica.node == node && !self.removing.contains(replica);
        self.replicas.iter().find(stays)
    }

    /// Whether its log is gone: it is to go, and its node is a member by another directory (SAFETY.md, rule 8).
    #[must_use]
    pub fn is_lost(&self, replica: &MetadataReplica) -> bool {
        self.removing.contains(replica) && self.of_node(replica.node).is_some()
    }

    /// The node of a peer.
    #[must_use]
    pub fn node_of(&self, peer: PeerId) -> Option<NodeId> {
        self.replicas.iter().find(|replica| replica.peer == peer).map(|replica| replica.node)
    }

    fn place(&mut self, target: &[MetadataReplica]) {
        let (replicas, adding, removing) = placed(&self.replicas, &self.adding, target);
        *self = Self { replicas, adding, removing };
    }
}

impl Partition {
    /// The replicas that a joiner takes for the first configuration.
    #[must_use]
    pub fn base(&self) -> Vec<Replica> {
        match self.base.is_empty() {
            true => without(&self.replicas, &self.adding),
            false => self.base.to_vec(),
        }
    }

    /// The replicas as they are to be.
    #[must_use]
    pub fn target(&self) -> Vec<Replica> {
        without(&self.replicas, &self.removing)
    }

    /// Whether its replicas are to be others.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    fn place(&mut self, target: &[Replica]) {
        let (replicas, adding, removing) = placed(&self.replicas, &self.adding, target);
        (self.replicas, self.adding, self.removing) = (replicas.into(), adding.into(), removing.into());
    }
}

impl MetadataState {
    /// The highest peer id used so far, in any group.
    pub(super) fn highest_peer(&self) -> u64 {
        let metadata = self.metadata_replicas.replicas.iter().map(|replica| replica.peer.0).max();
        self.last_peer.max(metadata.unwrap_or(0))
    }

    fn fresh_peer(&mut self) -> PeerId {
        self.last_peer = self.highest_peer() + 1;
        PeerId(self.last_peer)
    }

    pub(super) fn register_broker(&mut self, node: NodeId, broker: Broker) -> Change {
        let directory = broker.directory;
        let before = self.brokers.get(&node).map(|known| known.directory);
        Arc::make_mut(&mut self.brokers).insert(node, broker);
        if self.is_departed(&directory) {
            // No controller of this version does that; one that knew nothing of it may have.
            Arc::make_mut(&mut self.departed).retain(|departed| departed.directory != directory);
        }
        self.admit(node, directory);
        match before.is_some_and(|before| before != directory) {
            true => Change::BrokerReturned(node, self.renew_replicas(node)),
            false => Change::BrokerRegistered(node),
        }
    }

    /// Every broker is a member of the metadata group, by its present directory.
    fn admit(&mut self, node: NodeId, directory: Uuid) {
        if self.metadata_replicas.replicas.is_empty() {
            // The first broker of all has made the group, as its first peer.
            let replica = MetadataReplica { node, peer: PeerId(1), directory };
            self.metadata_replicas =
                Arc::new(MetadataReplicas { replicas: vec![replica], ..MetadataReplicas::default() });
            return;
        }
        if self.metadata_replicas.of_node(node).is_some_and(|known| known.directory == directory) {
            return;
        }
        let peer = self.fresh_peer();
        let members = Arc::make_mut(&mut self.metadata_replicas);
        let mut target = members.target();
        target.retain(|replica| replica.node != node);
        target.push(MetadataReplica { node, peer, directory });
        members.place(&target);
    }

    /// The replicas of a node are others from now on: their logs are gone, and with them their votes.
    fn renew_replicas(&mut self, node: NodeId) -> Vec<(Arc<Topic>, i32)> {
        let stays = |partition: &Partition| {
            partition.replicas.iter().any(|r| r.node == node && !partition.removing.contains(r))
        };
        let affected = |topic: &&Arc<Topic>| topic.partitions.iter().any(stays);
        let topics: Vec<Uuid> = self.topics.values().filter(affected).map(|topic| topic.id).collect();
        let mut renewed = self.renew_leaving(node);
        for id in topics {
            let Some(topic) = self.topic_by_id(&id) else { continue };
            let numbers: Vec<usize> =
                (0..topic.partitions.len()).filter(|number| stays(&topic.partitions[*number])).collect();
            for number in &numbers {
                let peer = self.fresh_peer();
                let number = i32::try_from(*number).expect("partition numbers are i32");
                let partition = self.partition_mut(&id, number).expect("found above");
                let renew = |replica: Replica| match replica.node == node {
                    true => Replica { node, peer },
                    false => replica,
                };
                let target: Vec<Replica> = partition.target().into_iter().map(renew).collect();
                partition.place(&target);
            }
            let topic = self.topic_by_id(&id).expect("found above").clone();
            let number = |number: usize| (Arc::clone(&topic), i32::try_from(number).unwrap_or(i32::MAX));
            renewed.extend(numbers.into_iter().map(number));
        }
        renewed
    }

    /// A replica that is to go is another as well until it is gone: the empty one must not vote under the id of the lost one. It
    /// counts as one that comes, so that nobody takes it for a voter. The lost one stays a member of Raft's group until its leader has
    /// it out: a joiner that did not know of it would count other quorums than the rest.
    fn renew_leaving(&mut self, node: NodeId) -> Vec<(Arc<Topic>, i32)> {
        let mut leaving = Vec::new();
        for topic in self.topics.values() {
            for (number, partition) in (0i32..).zip(&topic.partitions) {
                // Where another one of the node stays, that is the one that it makes; and joiners begin with somebody.
                let stays = partition.target().iter().any(|replica| replica.node == node);
                let has_others = partition.base().iter().any(|replica| replica.node != node);
                let is_made = !stays && has_others;
                let goes = partition.removing.iter().filter(|replica| is_made && replica.node == node);
                leaving.extend(goes.map(|replica| (topic.id, number, *replica)));
            }
        }
        let mut renewed = Vec::new();
        for (id, number, lost) in leaving {
            let fresh = Replica { node, peer: self.fresh_peer() };
            let partition = self.partition_mut(&id, number).expect("found above");
            let renew = |replica: &Replica| if *replica == lost { fresh } else { *replica };
            let base = partition.base();
            if base.contains(&lost) {
                partition.base = base.into();
            }
            let mut adding = without(&partition.adding, &[lost]);
            adding.push(fresh);
            partition.replicas = partition.replicas.iter().map(renew).collect();
            partition.removing = partition.removing.iter().map(renew).collect();
            partition.adding = adding.into();
            renewed.push((self.topic_by_id(&id).expect("found above").clone(), number));
        }
        renewed
    }

    pub(super) fn unregister_broker(&mut self, node: NodeId) -> Result<Change, Conflict> {
        let Some(broker) = self.brokers.get(&node) else {
            return conflict(format!("broker {node} is not registered"));
        };
        let departed = Departed { node, directory: broker.directory, raft: broker.raft.clone() };
        let mut target = self.metadata_replicas.target();
        target.retain(|replica| replica.node != node);
        if target.is_empty() {
            return conflict(format!("broker {node} is the last one"));
        }
        Arc::make_mut(&mut self.metadata_replicas).place(&target);
        Arc::make_mut(&mut self.brokers).remove(&node);
        Arc::make_mut(&mut self.draining).remove(&node);
        let all = Arc::make_mut(&mut self.departed);
        all.push(departed);
        all.drain(..all.len().saturating_sub(DEPARTED_KEPT_MAX));
        Ok(Change::BrokerUnregistered(node))
    }

    pub(super) fn mark_draining(&mut self, node: NodeId, draining: bool) -> Result<Change, Conflict> {
        if !self.brokers.contains_key(&node) {
            return conflict(format!("broker {node} is not registered"));
        }
        let marked = Arc::make_mut(&mut self.draining);
        match draining {
            true => marked.insert(node),
            false => marked.remove(&node),
        };
        Ok(Change::DrainingMarked(node))
    }

    pub(super) fn place_replicas(
        &mut self,
        id: &Uuid,
        number: i32,
        target: &[Replica],
    ) -> Result<Change, Conflict> {
        let last_peer = self.last_peer;
        let partition = self.partition_mut(id, number)?;
        let fits = |replica: &Replica| replica.peer.0 > last_peer || partition.replicas.contains(replica);
        if target.is_empty() || !target.iter().all(fits) || !distinct(target) {
            return conflict(format!("replicas of {id}-{number}: {target:?}"));
        }
        partition.place(target);
        let highest = target.iter().map(|replica| replica.peer.0).max().unwrap_or(0);
        self.last_peer = last_peer.max(highest);
        Ok(Change::ReplicasPlaced(self.topic_by_id(id).expect("looked up above").clone(), number))
    }

    pub(super) fn complete_placement(
        &mut self,
        id: &Uuid,
        number: i32,
        reached: &[Replica],
        index: RaftIndex,
    ) -> Result<Change, Conflict> {
        let partition = self.partition_mut(id, number)?;
        let target = partition.target();
        if !same_members(&target, reached) {
            return conflict(format!("{id}-{number} has reached {reached:?}, but is to have {target:?}"));
        }
        let nodes = |node: &NodeId| target.iter().any(|replica| replica.node == *node);
        partition.in_sync = partition.in_sync.iter().copied().filter(nodes).collect();
        (partition.replicas, partition.base_index) = (target.into(), index);
        (partition.adding, partition.removing, partition.base) = Default::default();
        Ok(Change::ReplicasPlaced(self.topic_by_id(id).expect("looked up above").clone(), number))
    }

    pub(super) fn place_metadata_replicas(&mut self, target: &[MetadataReplica]) -> Result<Change, Conflict> {
        let highest = self.highest_peer();
        let known = &self.metadata_replicas.replicas;
        let fits = |replica: &MetadataReplica| replica.peer.0 > highest || known.contains(replica);
        let plain: Vec<Replica> =
            target.iter().map(|replica| Replica { node: replica.node, peer: replica.peer }).collect();
        if target.is_empty() || !target.iter().all(fits) || !distinct(&plain) {
            return conflict(format!("members of the metadata group: {target:?}"));
        }
        let members = Arc::make_mut(&mut self.metadata_replicas);
        match members.replicas.is_empty() {
            true => members.replicas = target.to_vec(),
            false => members.place(target),
        }
        self.last_peer = self.highest_peer();
        Ok(Change::MetadataReplicasPlaced)
    }

    pub(super) fn complete_metadata_placement(
        &mut self,
        reached: &[MetadataReplica],
    ) -> Result<Change, Conflict> {
        let target = self.metadata_replicas.target();
        if !same_members(&target, reached) {
            return conflict(format!(
                "the metadata group has reached {reached:?}, but is to have {target:?}"
            ));
        }
        self.metadata_replicas =
            Arc::new(MetadataReplicas { replicas: target, ..MetadataReplicas::default() });
        Ok(Change::MetadataReplicasPlaced)
    }
}

/// The lists after `target` has been set: all, those that come, those that go.
fn placed<T: Copy + PartialEq>(replicas: &[T], adding: &[T], target: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
    let base = without(replicas, adding);
    let leaving = without(replicas, target);
    let mut all = target.to_vec();
    all.extend_from_slice(&leaving);
    let joining = without(&all, &base);
    (all, joining, leaving)
}

fn without<T: Copy + PartialEq>(all: &[T], some: &[T]) -> Vec<T> {
    all.iter().copied().filter(|one| !some.contains(one)).collect()
}

/// Whether two lists name the same, in whatever order.
pub(in crate::metadata) fn same_members<T: PartialEq>(left: &[T], right: &[T]) -> bool {
    left.len() == right.len() && left.iter().all(|one| right.contains(one))
}
