//! The builder of snapshots, on shard 0 of each node.
//!
//! It collects committed changes and leadership events; `publish` gives a new snapshot at most once a turn, which costs a few
//! pointers (the maps share structure).
//!
//! Invariants: the epoch of a partition's leader never goes down for a topic id; a report of "no leader" changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_wal::types::{NodeId, Term};
use uuid::Uuid;

use super::{Departures, Leader, PartitionView, Snapshot, TopicView};
use crate::config::broker::BrokerConfig;
use crate::config::layers::{BrokerLayers, ConfigMap};
use crate::config::topic::TopicConfig;
use crate::metadata::chunk_map::ChunkMap;
use crate::metadata::command::{ConfigScope, Endpoint, Replica};
use crate::metadata::state::{Change, MetadataState, Partition, Topic};

/// Fresh nodes that are remembered: more do not come at once.
const GUESTS_MAX: usize = 64;

/// Makes the snapshots. One on each node, on shard 0.
#[derive(Debug)]
pub struct SnapshotBuilder {
    working: Snapshot,
    dirty: bool,
    /// The config of topics that set nothing of their own; shared by all of them.
    plain_config: Arc<TopicConfig>,
}

impl SnapshotBuilder {
    /// A builder for a node, before any metadata is known. `fixed` is what the node was started with, by Kafka's names.
    #[must_use]
    pub fn new(node: NodeId, shard_count: u16, fixed: ConfigMap) -> Self {
        let layers = BrokerLayers { fixed: Arc::new(fixed), ..BrokerLayers::default() };
        let working = Snapshot {
            node,
            shard_count,
            cluster_id: None,
            controller: None,
            brokers: Arc::default(),
            departures: Arc::default(),
            draining: Arc::default(),
            fenced: Arc::default(),
            guests: Arc::default(),
            topics: ChunkMap::default(),
            names: ChunkMap::default(),
            config: Arc::new(BrokerConfig::resolve(&layers)),
            layers: Arc::new(layers),
        };
        let plain_config = Arc::new(TopicConfig::resolve(&ConfigMap::new(), &working.layers));
        Self { working, dirty: true, plain_config }
    }

    /// The picture as it is now, published or not.
    #[must_use]
    pub fn current(&self) -> &Snapshot {
        &self.working
    }

    /// The next snapshot, if anything has changed since the last one.
    pub fn publish(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.dirty).then(|| Arc::new(self.working.clone()))
    }

    /// Takes over a whole state: after a start, or after a snapshot of the metadata group was installed.
    /// Leaders known for the same topic id in a newer term are kept.
    pub fn reset(&mut self, state: &MetadataState) {
        self.dirty = true;
        self.working.cluster_id = state.cluster_id().cloned();
        self.working.brokers = Arc::clone(state.brokers());
        self.working.draining = Arc::clone(state.draining());
        self.read_departures(state);
        self.read_layers(state);
        let before = std::mem::take(&mut self.working.topics);
        self.working.names = ChunkMap::default();
        for topic in state.topics().values() {
            let known = before.get(&*topic.name).filter(|view| view.id == topic.id).cloned();
            self.put_topic(topic, known.as_deref());
        }
    }

    /// Takes over one committed change; `state` is the state after it.
    pub fn apply(&mut self, change: &Change, state: &MetadataState) {
        self.dirty = true;
        if matches!(
            change,
            Change::BrokerRegistered(_)
                | Change::BrokerReturned(..)
                | Change::BrokerUnregistered(_)
                | Change::MetadataReplicasPlaced
        ) {
            self.read_departures(state);
        }
        match change {
            Change::ClusterId(id) => self.working.cluster_id = Some(Arc::clone(id)),
            Change::BrokerRegistered(node) => {
                self.working.brokers = Arc::clone(state.brokers());
                Arc::make_mut(&mut self.working.guests).remove(node);
            }
            Change::BrokerReturned(node, placed) => {
                self.working.brokers = Arc::clone(state.brokers());
                Arc::make_mut(&mut self.working.guests).remove(node);
                let topics: BTreeSet<Uuid> = placed.iter().map(|(topic, _)| topic.id).collect();
                for topic in topics.iter().filter_map(|id| state.topic_by_id(id)) {
                    self.refresh_topic(topic);
                }
            }
            Change::BrokerUnregistered(node) => {
                self.working.brokers = Arc::clone(state.brokers());
                self.working.draining = Arc::clone(state.draining());
                Arc::make_mut(&mut self.working.fenced).remove(node);
            }
            Change::DrainingMarked(_) => self.working.draining = Arc::clone(state.draining()),
            Change::TopicDeleted(topic) => {
                self.working.names.remove(&topic.id);
                self.working.topics.remove(&*topic.name);
            }
            Change::TopicCreated(topic) => self.put_topic(topic, None),
            Change::PartitionsAdded(topic, _)
            | Change::ReplicasPlaced(topic, _)
            | Change::LeaderRecorded(topic, _) => self.refresh_topic(topic),
            Change::ConfigsChanged(ConfigScope::Topic(id)) => {
                if let Some(topic) = state.topic_by_id(id) {
                    self.refresh_topic(topic);
                }
            }
            Change::ConfigsChanged(ConfigScope::Broker(node)) if *node != self.working.node => {}
            Change::ConfigsChanged(_) => {
                self.read_layers(state);
                self.resolve_all_topics();
            }
            Change::ProducerIdsAllocated { .. }
            | Change::FeatureChanged(_)
            | Change::RequestCompleted(_)
            | Change::MetadataReplicasPlaced => {}
        }
    }

    /// A partition has a leader in this term. Gives false, and changes nothing, when that is not news: unknown topic or
    /// partition, an older term, or the same leader.
    pub fn leader_changed(&mut self, topic: &Uuid, number: i32, term: Term, node: NodeId) -> bool {
        let leader = Leader { node, epoch: term.leader_epoch() };
        let news = self.working.partition(topic, number).is_some_and(|view| match view.leader {
            Some(known) => leader.epoch > known.epoch,
            None => true,
        });
        if news && let Some(view) = self.view_mut(topic, number) {
            view.leader = Some(leader);
            self.dirty = true;
        }
        news
    }

    /// The leader of this term says which replicas are in sync. Gives false when it is not the newest leader known.
    pub fn in_sync_changed(&mut self, topic: &Uuid, number: i32, term: Term, in_sync: &[NodeId]) -> bool {
        let epoch = term.leader_epoch();
        let current = self
            .working
            .partition(topic, number)
            .and_then(|view| view.leader)
            .is_some_and(|l| l.epoch == epoch);
        if current && let Some(view) = self.view_mut(topic, number) {
            view.in_sync = in_sync.into();
            self.dirty = true;
        }
        current
    }

    /// Whether there is such a partition.
    #[must_use]
    pub fn has_partition(&self, topic: &Uuid, number: i32) -> bool {
        self.working.partition(topic, number).is_some()
    }

    /// The metadata group has this leader.
    pub fn controller_changed(&mut self, node: NodeId) {
        self.dirty |= self.working.controller != Some(node);
        self.working.controller = Some(node);
    }

    /// A fresh node asks to be let in; it can be reached there.
    pub fn guest_known(&mut self, node: NodeId, raft: Endpoint) {
        let known = self.working.brokers.get(&node).and_then(|broker| broker.raft.as_ref());
        let guests = &self.working.guests;
        if guests.get(&node).or(known) == Some(&raft) || guests.len() >= GUESTS_MAX {
            return;
        }
        Arc::make_mut(&mut self.working.guests).insert(node, raft);
        self.dirty = true;
    }

    /// A broker can be reached, or not.
    pub fn broker_reachable(&mut self, node: NodeId, reachable: bool) {
        if reachable == self.working.fenced.contains(&node) {
            let fenced = Arc::make_mut(&mut self.working.fenced);
            if reachable {
                fenced.remove(&node)
            } else {
                fenced.insert(node)
            };
            self.dirty = true;
        }
    }

    fn view_mut(&mut self, topic: &Uuid, number: i32) -> Option<&mut PartitionView> {
        let name = self.working.names.get(topic)?;
        let view = Arc::make_mut(self.working.topics.get_mut(name)?);
        view.partitions.get_mut(usize::try_from(number).ok()?)
    }

    /// Keeps the picture's own pointer while nothing has changed: the links are brought to it whenever it is another one.
    fn read_departures(&mut self, state: &MetadataState) {
        let departures = Departures {
            leaving: state.leaving().map(|departed| (departed.node, departed.clone())).collect(),
            removed: state.removed().map(|departed| departed.directory).collect(),
        };
        if *self.working.departures != departures {
            self.working.departures = Arc::new(departures);
        }
    }

    fn read_layers(&mut self, state: &MetadataState) {
        let layers = BrokerLayers {
            fixed: Arc::clone(&self.working.layers.fixed),
            cluster: Arc::clone(state.cluster_configs()),
            broker: state.broker_configs(self.working.node),
        };
        self.working.config = Arc::new(BrokerConfig::resolve(&layers));
        self.plain_config = Arc::new(TopicConfig::resolve(&ConfigMap::new(), &layers));
        self.working.layers = Arc::new(layers);
    }

    fn resolve_all_topics(&mut self) {
        let names: Vec<Arc<str>> = self.working.topics.iter().map(|(name, _)| Arc::clone(name)).collect();
        for name in names {
            let Some(view) = self.working.topics.get(&*name) else { continue };
            let config = self.resolve(&view.overrides);
            if let Some(view) = self.working.topics.get_mut(&*name) {
                Arc::make_mut(view).config = config;
            }
        }
    }

    fn resolve(&self, overrides: &ConfigMap) -> Arc<TopicConfig> {
        match overrides.is_empty() {
            true => Arc::clone(&self.plain_config),
            false => Arc::new(TopicConfig::resolve(overrides, &self.working.layers)),
        }
    }

    fn refresh_topic(&mut self, topic: &Topic) {
        let known = self.working.topics.get(&*topic.name).cloned();
        self.put_topic(topic, known.as_deref());
    }

    fn put_topic(&mut self, topic: &Topic, known: Option<&TopicView>) {
        let view = |(number, partition): (usize, &Partition)| {
            partition_view(partition, known.and_then(|view| view.partitions.get(number)))
        };
        let view = TopicView {
            id: topic.id,
            name: Arc::clone(&topic.name),
            overrides: Arc::clone(&topic.configs),
            config: self.resolve(&topic.configs),
            partitions: topic.partitions.iter().enumerate().map(view).collect(),
        };
        self.working.names.insert(topic.id, Arc::clone(&topic.name));
        self.working.topics.insert(Arc::clone(&topic.name), Arc::new(view));
    }
}

/// A partition of the log's, with the leader that events told of when that one is newer.
fn partition_view(partition: &Partition, known: Option<&PartitionView>) -> PartitionView {
    let recorded = partition.leader.map(|(term, node)| Leader { node, epoch: term.leader_epoch() });
    let by_event = known.filter(|view| {
        let epoch = |leader: Option<Leader>| leader.map(|leader| leader.epoch);
        epoch(view.leader) >= epoch(recorded) && view.leader.is_some()
    });
    PartitionView {
        group: partition.group,
        replicas: Arc::clone(&partition.replicas),
        adding: Arc::clone(&partition.adding),
        removing: Arc::clone(&partition.removing),
        base_index: partition.base_index,
        base: match partition.is_reassigning() {
            true => partition.base().into(),
            false => Arc::clone(&partition.replicas),
        },
        leader: by_event.map_or(recorded, |view| view.leader),
        in_sync: listed(by_event.map_or(&partition.in_sync, |view| &view.in_sync), &partition.replicas),
    }
}

/// Of these nodes, the ones that hold a replica.
fn listed(nodes: &Arc<[NodeId]>, replicas: &[Replica]) -> Arc<[NodeId]> {
    let holds = |node: &NodeId| replicas.iter().any(|replica| replica.node == *node);
    match nodes.iter().all(holds) {
        true => Arc::clone(nodes),
        false => nodes.iter().copied().filter(holds).collect(),
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
