//! Which replicas a partition has, unasked: what leaders report as reached, replicas that have lost their log, internal topics
//! that grow with the cluster. What clients ask for is in `reassign.rs`.

use std::collections::BTreeSet;

use chronik_wal::types::{NodeId, PeerId};
use uuid::Uuid;

use super::{Controller, Plan};
use crate::metadata::admin::Reached;
use crate::metadata::command::{Command, Replica};
use crate::metadata::names::{CONSUMER_OFFSETS, TRANSACTION_STATE};
use crate::metadata::placement::{Candidate, place, ring};
use crate::metadata::snapshot::Snapshot;
use crate::metadata::state::{MetadataReplicas, Partition, same_members};

/// Partitions of internal topics that get replicas at a time: each fills a new disk before the next ones do.
const GROWING_MAX: usize = 10;

impl Controller {
    /// The leader of a partition has brought Raft to these members; of no consequence when the placement is another by now.
    pub fn plan_completed_placement(&mut self, topic: &Uuid, number: i32, reached: &Reached) -> Plan<()> {
        let partition = self.speculative.partition(topic, number);
        let is_so = |partition: &Partition| {
            let going = reached.going.as_ref().is_none_or(|going| same_members(going, &partition.removing));
            partition.is_reassigning() && going && same_members(&reached.replicas, &partition.target())
        };
        let mut commands = Vec::new();
        if partition.is_some_and(is_so) {
            let (id, partition, replicas, index) = (*topic, number, reached.replicas.clone(), reached.index);
            commands.push(Command::CompletePlacement { id, partition, replicas, index });
        }
        self.finish(commands, (), Vec::new())
    }

    /// Raft has brought the metadata group to the target of this placement; of no consequence when it is another by now.
    pub fn plan_completed_metadata_placement(&mut self, placed: &MetadataReplicas) -> Plan<()> {
        let members = self.speculative.metadata_replicas();
        let mut commands = Vec::new();
        if !members.is_complete() && **members == *placed {
            commands.push(Command::CompleteMetadataPlacement { replicas: members.target() });
        }
        self.finish(commands, (), Vec::new())
    }

    /// A replica has lost part of its log: its node gets a fresh one, if others have the log.
    pub fn plan_renewal(&mut self, topic: &Uuid, number: i32, lost: Replica) -> Plan<()> {
        let target = self.speculative.partition(topic, number).map(Partition::target);
        let mut commands = Vec::new();
        if let Some(mut replicas) = target.filter(|target| target.len() > 1 && target.contains(&lost)) {
            let (_, peer) = self.speculative.next_ids();
            for replica in replicas.iter_mut().filter(|replica| **replica == lost) {
                replica.peer = peer;
            }
            commands.push(Command::PlaceReplicas { id: *topic, partition: number, replicas });
        }
        self.finish(commands, (), Vec::new())
    }

    /// Internal topics that were made while there were fewer brokers get more replicas, some partitions at a time. Empty while
    /// there is nothing to do, or some are still growing. Never onto brokers that are being drained: each would undo the other.
    pub fn plan_growth(&mut self, snapshot: &Snapshot) -> Plan<()> {
        let wanted = internal_replicas(snapshot, self.speculative.brokers().len());
        let candidates = candidates(self, snapshot);
        let ring = ring(&candidates);
        let mut commands = Vec::new();
        let (_, PeerId(mut peer)) = self.speculative.next_ids();
        let internal: Vec<_> = [CONSUMER_OFFSETS, TRANSACTION_STATE]
            .iter()
            .filter_map(|name| self.speculative.topic(name))
            .collect();
        if internal.iter().flat_map(|topic| &topic.partitions).any(Partition::is_reassigning) {
            return self.finish(Vec::new(), (), Vec::new());
        }
        for topic in internal {
            for (number, partition) in (0i32..).zip(&topic.partitions) {
                let missing = wanted.min(ring.len()).saturating_sub(partition.replicas.len());
                if missing == 0 || commands.len() >= GROWING_MAX {
                    continue;
                }
                let mut replicas = partition.replicas.to_vec();
                let here: BTreeSet<NodeId> = replicas.iter().map(|replica| replica.node).collect();
                let order = place(&ring, ring.len(), partition.group.0).unwrap_or_default();
                for node in order.into_iter().filter(|node| !here.contains(node)).take(missing) {
                    replicas.push(Replica { node, peer: PeerId(peer) });
                    peer += 1;
                }
                commands.push(Command::PlaceReplicas { id: topic.id, partition: number, replicas });
            }
        }
        self.finish(commands, (), Vec::new())
    }
}

fn candidates(controller: &Controller, snapshot: &Snapshot) -> Vec<Candidate> {
    let (brokers, draining) = (controller.speculative.brokers().iter(), controller.speculative.draining());
    let live = brokers.filter(|(node, _)| !snapshot.fenced.contains(node) && !draining.contains(node));
    live.map(|(node, broker)| Candidate { node: *node, rack: broker.rack.clone() }).collect()
}

/// How many replicas a partition of an internal topic is to have: as configured, but no more than there are brokers.
pub(super) fn internal_replicas(snapshot: &Snapshot, brokers: usize) -> usize {
    let configured = usize::try_from(snapshot.config.offsets_topic_replication_factor).unwrap_or(1);
    configured.clamp(1, brokers.max(1))
}
