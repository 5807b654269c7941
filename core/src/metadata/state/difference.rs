//! What has changed from one state to another: for the shards, when a snapshot took the place of the log between the two.

use std::sync::Arc;

use super::{Change, MetadataState, Topic};
use crate::metadata::command::ConfigScope;

/// The changes that lead from `before` to `after`, as far as anybody acts on them.
#[must_use]
pub fn changes_between(before: &MetadataState, after: &MetadataState) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(id) = after.cluster_id.as_ref().filter(|id| before.cluster_id.as_ref() != Some(*id)) {
        changes.push(Change::ClusterId(Arc::clone(id)));
    }
    for node in before.brokers.keys().filter(|node| !after.brokers.contains_key(node)) {
        changes.push(Change::BrokerUnregistered(*node));
    }
    for (node, broker) in &*after.brokers {
        if before.brokers.get(node) != Some(broker) {
            changes.push(Change::BrokerRegistered(*node));
        }
    }
    if before.metadata_replicas != after.metadata_replicas {
        changes.push(Change::MetadataReplicasPlaced);
    }
    // What goes first: a topic made again has the name of the one before.
    for topic in before.topics.values().filter(|topic| after.topic_by_id(&topic.id).is_none()) {
        changes.push(Change::TopicDeleted(Arc::clone(topic)));
    }
    for topic in after.topics.values() {
        match before.topic_by_id(&topic.id) {
            None => changes.push(Change::TopicCreated(Arc::clone(topic))),
            Some(known) => topic_changes(known, topic, &mut changes),
        }
    }
    let brokers = before.broker_configs != after.broker_configs;
    if brokers || before.cluster_configs != after.cluster_configs {
        changes.push(Change::ConfigsChanged(ConfigScope::Cluster));
    }
    changes
}

fn topic_changes(before: &Topic, after: &Arc<Topic>, changes: &mut Vec<Change>) {
    for (number, (known, partition)) in (0i32..).zip(before.partitions.iter().zip(&after.partitions)) {
        let same = known.replicas == partition.replicas
            && known.adding == partition.adding
            && known.removing == partition.removing;
        if !same {
            changes.push(Change::ReplicasPlaced(Arc::clone(after), number));
        }
    }
    if after.partitions.len() > before.partitions.len() {
        let first = i32::try_from(before.partitions.len()).unwrap_or(i32::MAX);
        changes.push(Change::PartitionsAdded(Arc::clone(after), first));
    }
    if before.configs != after.configs {
        changes.push(Change::ConfigsChanged(ConfigScope::Topic(after.id)));
    }
}
