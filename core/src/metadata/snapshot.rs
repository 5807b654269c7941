//! What every shard reads: an immutable picture of the cluster. The builder on shard 0 makes the next one (`builder.rs`).
//!
//! Metadata, FindCoordinator and the like are answered from it alone.
//!
//! Invariant: no answer waits for the metadata group.

mod builder;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_wal::identity::shard_of;
use chronik_wal::types::{GroupId, LeaderEpoch, NodeId, RaftIndex, ShardId};
use uuid::Uuid;

use super::chunk_map::ChunkMap;
use super::command::{Endpoint, Replica};
use super::names::is_internal;
use super::state::{Broker, Departed};
use crate::config::broker::BrokerConfig;
use crate::config::layers::{BrokerLayers, ConfigMap};
use crate::config::topic::TopicConfig;

pub use builder::SnapshotBuilder;

/// Who leads a partition, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The leader.
    pub node: NodeId,
    /// The term in which it leads.
    pub epoch: LeaderEpoch,
}

/// A partition as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionView {
    /// Its Raft group.
    pub group: GroupId,
    /// Its replicas, the preferred leader first, those that come and those that go included.
    pub replicas: Arc<[Replica]>,
    /// Of these, the ones that join (see [`Partition::adding`]).
    pub adding: Arc<[Replica]>,
    /// Of these, the ones that are to go (see [`Partition::removing`]).
    pub removing: Arc<[Replica]>,
    /// See [`Partition::base_index`].
    pub base_index: RaftIndex,
    /// The replicas that a joiner takes for the group's first configuration.
    pub base: Arc<[Replica]>,
    /// The newest leader known; none only before the first election.
    pub leader: Option<Leader>,
    /// The replicas in sync.
    pub in_sync: Arc<[NodeId]>,
}

impl PartitionView {
    /// The replicas as they are to be: what the leader drives Raft towards.
    #[must_use]
    pub fn target(&self) -> Vec<Replica> {
        self.replicas.iter().copied().filter(|replica| !self.removing.contains(replica)).collect()
    }

    /// Whether its replicas are to be others.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// What this node holds of it: the replica that stays, else the one that is to go.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<Replica> {
        let here = || self.replicas.iter().copied().filter(|replica| replica.node == node);
        here().find(|replica| !self.removing.contains(replica)).or_else(|| here().next())
    }

    /// The brokers that hold it, each once: one that comes back with another directory is both joining and leaving.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let first = |(at, replica): &(usize, &Replica)| {
            !self.replicas[..*at].iter().any(|before| before.node == replica.node)
        };
        self.replicas.iter().enumerate().filter(first).map(|(_, replica)| replica.node)
    }
}

/// A topic as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicView {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// What is set on the topic itself.
    pub overrides: Arc<ConfigMap>,
    /// What its partitions act on.
    pub config: Arc<TopicConfig>,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionView>,
}

impl TopicView {
    /// Whether the broker itself keeps state in it.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }

    /// A partition by number.
    #[must_use]
    pub fn partition(&self, number: i32) -> Option<&PartitionView> {
        self.partitions.get(usize::try_from(number).ok()?)
    }
}

/// The nodes that were removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Departures {
    /// Those that are still in the metadata group: talked to until they are out, for it may need their votes.
    pub leaving: BTreeMap<NodeId, Departed>,
    /// Directories of those that are out: not talked to any more.
    pub removed: BTreeSet<Uuid>,
}

/// A picture of the cluster.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// This node.
    pub node: NodeId,
    /// How many shards this node has.
    pub shard_count: u16,
    /// The cluster's id, once it has been minted.
    pub cluster_id: Option<Arc<str>>,
    /// The leader of the metadata group, as far as known.
    pub controller: Option<NodeId>,
    /// The registered brokers.
    pub brokers: Arc<BTreeMap<NodeId, Broker>>,
    /// The nodes that were removed.
    pub departures: Arc<Departures>,
    /// Brokers that are being drained.
    pub draining: Arc<BTreeSet<NodeId>>,
    /// Brokers that are registered but cannot be reached: not listed, given no partitions.
    pub fenced: Arc<BTreeSet<NodeId>>,
    /// Where fresh nodes that ask to be let in are to be reached: their answers go there.
    pub guests: Arc<BTreeMap<NodeId, Endpoint>>,
    /// The topics by name.
    pub topics: ChunkMap<Arc<str>, Arc<TopicView>>,
    /// The names by id.
    pub names: ChunkMap<Uuid, Arc<str>>,
    /// Where this node's configs come from.
    pub layers: Arc<BrokerLayers>,
    /// What this node acts on.
    pub config: Arc<BrokerConfig>,
}

impl Snapshot {
    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicView>> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: &Uuid) -> Option<&Arc<TopicView>> {
        self.topics.get(self.names.get(id)?)
    }

    /// A partition by its topic's id.
    #[must_use]
    pub fn partition(&self, topic: &Uuid, number: i32) -> Option<&PartitionView> {
        self.topic_by_id(topic)?.partition(number)
    }

    /// The shard of a group on this node.
    #[must_use]
    pub fn shard_of(&self, group: GroupId) -> ShardId {
        shard_of(group, self.shard_count)
    }

    /// Where clients of a listener reach a broker; none when it is not there or has no such listener.
    #[must_use]
    pub fn endpoint(&self, node: NodeId, listener: &str) -> Option<&Endpoint> {
        if self.fenced.contains(&node) {
            return None;
        }
        self.brokers.get(&node)?.listeners.get(listener)
    }

    /// The brokers that clients of a listener can reach.
    pub fn reachable<'a>(
        &'a self,
        listener: &'a str,
    ) -> impl Iterator<Item = (NodeId, &'a Endpoint, Option<&'a str>)> {
        let live = self.brokers.iter().filter(|(node, _)| !self.fenced.contains(node));
        live.filter_map(move |(node, broker)| {
            broker.listeners.get(listener).map(|endpoint| (*node, endpoint, broker.rack.as_deref()))
        })
    }

    /// Whom admin requests are to be sent to: the metadata leader if clients can reach it, else any broker that they can
    /// (it forwards); −1 when there is none.
    #[must_use]
    pub fn controller_for(&self, listener: &str) -> NodeId {
        let leader = self.controller.filter(|node| self.endpoint(*node, listener).is_some());
        let this = Some(self.node).filter(|node| self.endpoint(*node, listener).is_some());
        let any = || self.reachable(listener).map(|(node, _, _)| node).next();
        leader.or(this).or_else(any).unwrap_or(NodeId(-1))
    }
}
