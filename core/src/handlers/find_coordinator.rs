//! FindCoordinator 0 to 6, and which partition of `__consumer_offsets` a group belongs to.

use std::collections::{BTreeMap, BTreeSet};

use chronik_wal::types::NodeId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::settle::LEADERS_MAX;
use crate::coordinator::partition_for_group;
use crate::metadata::names::CONSUMER_OFFSETS;
use crate::metadata::snapshot::{Leader, PartitionView, Snapshot};

/// Key type of a group.
const GROUP: i8 = 0;

/// An answer, and whether it waits for a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct FindCoordinatorAnswer {
    /// What to send; COORDINATOR_NOT_AVAILABLE, which clients retry, where the topic is missing.
    pub response: FindCoordinatorResponse,
    /// `__consumer_offsets` does not exist: have the controller make it (`plan_offsets_topic`), then answer anew or send this.
    pub needs_offsets_topic: bool,
}

/// The partition of `__consumer_offsets` that a group belongs to; none while the topic does not exist.
#[must_use]
pub fn group_partition<'a>(snapshot: &'a Snapshot, group: &str) -> Option<(i32, &'a PartitionView)> {
    let topic = snapshot.topic(CONSUMER_OFFSETS)?;
    let partition = partition_for_group(group, i32::try_from(topic.partitions.len()).ok()?);
    topic.partition(partition).map(|view| (partition, view))
}

/// The leaders that are the coordinators of what a request names, the first few of them.
#[must_use]
pub fn leaders(snapshot: &Snapshot, request: &FindCoordinatorRequest, version: i16) -> Vec<Leader> {
    let keys = match version {
        0..=3 => std::slice::from_ref(&request.key),
        _ => &request.coordinator_keys,
    };
    let leader = |key: &StrBytes| group_partition(snapshot, key).and_then(|(_, view)| view.leader);
    keys.iter().take(LEADERS_MAX).filter_map(leader).collect()
}

/// Answers a FindCoordinator request of this version that came in on this listener. Nodes that are `lost` coordinate nothing.
#[must_use]
pub fn find_coordinator(
    snapshot: &Snapshot,
    request: &FindCoordinatorRequest,
    version: i16,
    listener: &str,
    lost: &BTreeSet<NodeId>,
) -> FindCoordinatorAnswer {
    let coordinator = |key: &StrBytes, key_type| coordinator(snapshot, key, key_type, listener, lost);
    let key_type = if version == 0 { GROUP } else { request.key_type };
    let needs_offsets_topic = key_type == GROUP && snapshot.topic(CONSUMER_OFFSETS).is_none();
    let response = match version {
        0..=3 => {
            let found = coordinator(&request.key, key_type);
            FindCoordinatorResponse::default()
                .with_error_code(found.error_code)
                .with_error_message(found.error_message)
                .with_node_id(found.node_id)
                .with_host(found.host)
                .with_port(found.port)
        }
        _ => {
            // A key named twice is answered once, as its coordinator is one: and a frame of empty keys stays small.
            let keys: BTreeMap<&str, &StrBytes> =
                request.coordinator_keys.iter().map(|key| (&**key, key)).collect();
            let found = keys.values().map(|key| coordinator(key, key_type));
            FindCoordinatorResponse::default().with_coordinators(found.collect())
        }
    };
    FindCoordinatorAnswer { response, needs_offsets_topic }
}

fn coordinator(
    snapshot: &Snapshot,
    key: &StrBytes,
    key_type: i8,
    listener: &str,
    lost: &BTreeSet<NodeId>,
) -> Coordinator {
    let failed = |code: ResponseError, message: &'static str| {
        Coordinator::default()
            .with_key(key.clone())
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code.code())
            .with_error_message(Some(StrBytes::from_static_str(message)))
    };
    match key_type {
        GROUP => {}
        // INVALID_REQUEST is what clients do not retry: they tell their user at once, with this text.
        1 => return failed(ResponseError::InvalidRequest, "Transactions are not available on this broker."),
        2 => return failed(ResponseError::InvalidRequest, "Share groups are not available on this broker."),
        _ => return failed(ResponseError::InvalidRequest, "Unknown coordinator type."),
    }
    let leader = group_partition(snapshot, key).and_then(|(_, view)| view.leader);
    let leader = leader.filter(|leader| !lost.contains(&leader.node));
    let reachable = leader.and_then(|leader| Some((leader.node, snapshot.endpoint(leader.node, listener)?)));
    match reachable {
        None => failed(ResponseError::CoordinatorNotAvailable, "The coordinator is not available."),
        Some((node, endpoint)) => Coordinator::default()
            .with_key(key.clone())
            .with_node_id(BrokerId(node.0))
            .with_host(StrBytes::from_string(endpoint.host.clone()))
            .with_port(i32::from(endpoint.port))
            .with_error_message(None),
    }
}
