//! DescribeCluster 0 to 2 and ListPartitionReassignments 0, from the snapshot; DescribeQuorum 0 to 2, from what the
//! metadata leader knows of its group.

use bytes::Bytes;
use chronik_wal::types::{NodeId, RaftIndex, Term};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED};
use crate::metadata::command::Replica;
use crate::metadata::names::CLUSTER_METADATA;
use crate::metadata::snapshot::{Snapshot, TopicView};

/// What DescribeQuorum calls the address by which nodes reach each other.
const RAFT_LISTENER: &str = "RAFT";

/// The endpoints that clients of brokers use (KIP-919); 2 would be those of controllers.
const ENDPOINTS_OF_BROKERS: i8 = 1;

/// A field of a broker in DescribeCluster that Kafka does not have, empty, where the broker is being drained. Clients skip
/// tagged fields that they do not know.
pub(crate) const TAG_DRAINING: i32 = 0x4348_524b;

/// Answers a DescribeCluster request that came in on this listener.
#[must_use]
pub fn describe_cluster(
    snapshot: &Snapshot,
    request: &DescribeClusterRequest,
    listener: &str,
) -> DescribeClusterResponse {
    let text = |value: &str| StrBytes::from_string(value.to_owned());
    if request.endpoint_type != ENDPOINTS_OF_BROKERS {
        let error = match request.endpoint_type {
            2 => ResponseError::MismatchedEndpointType,
            _ => ResponseError::UnsupportedEndpointType,
        };
        return DescribeClusterResponse::default()
            .with_endpoint_type(request.endpoint_type)
            .with_error_code(error.code())
            .with_error_message(Some(text("This is an endpoint of type BROKER.")))
            .with_cluster_authorized_operations(OPERATIONS_NOT_ASKED);
    }
    let listed = snapshot.brokers.iter().filter_map(|(node, broker)| {
        let is_fenced = snapshot.fenced.contains(node);
        let endpoint =
            broker.listeners.get(listener).filter(|_| !is_fenced || request.include_fenced_brokers)?;
        let mut row = DescribeClusterBroker::default()
            .with_broker_id(BrokerId(node.0))
            .with_host(text(&endpoint.host))
            .with_port(i32::from(endpoint.port))
            .with_rack(broker.rack.as_deref().map(text))
            .with_is_fenced(is_fenced);
        if snapshot.draining.contains(node) {
            row = row.with_unknown_tagged_field(TAG_DRAINING, Bytes::new());
        }
        Some(row)
    });
    let operations = request.include_cluster_authorized_operations;
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(ENDPOINTS_OF_BROKERS)
        .with_cluster_id(text(snapshot.cluster_id.as_deref().unwrap_or_default()))
        .with_controller_id(BrokerId(snapshot.controller_for(listener).0))
        .with_brokers(listed.collect())
        .with_cluster_authorized_operations(if operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        })
}

/// Answers ListPartitionReassignments: the partitions whose replicas are to be others, among those that are named.
#[must_use]
pub fn list_reassignments(
    snapshot: &Snapshot,
    request: &ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let topics: Vec<OngoingTopicReassignment> = match &request.topics {
        None => snapshot.topics.values().filter_map(|view| ongoing(view, |_| true)).collect(),
        Some(named) => named
            .iter()
            .filter_map(|topic| {
                let view = snapshot.topic(topic.name.as_str())?;
                ongoing(view, |index| topic.partition_indexes.contains(&index))
            })
            .collect(),
    };
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
}

fn ongoing(view: &TopicView, wanted: impl Fn(i32) -> bool) -> Option<OngoingTopicReassignment> {
    let ids = |replicas: &[Replica]| replicas.iter().map(|replica| BrokerId(replica.node.0)).collect();
    let moving = view.partitions.iter().zip(0..).filter(|(partition, _)| partition.is_reassigning());
    let rows: Vec<_> = moving
        .filter(|(_, index)| wanted(*index))
        .map(|(partition, index)| {
            OngoingPartitionReassignment::default()
                .with_partition_index(index)
                .with_replicas(partition.nodes().map(|node| BrokerId(node.0)).collect())
                .with_adding_replicas(ids(&partition.adding))
                .with_removing_replicas(ids(&partition.removing))
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let name = TopicName(StrBytes::from_string(view.name.to_string()));
    Some(OngoingTopicReassignment::default().with_name(name).with_partitions(rows))
}

/// What the leader of the metadata group knows of its members.
#[derive(Clone, Debug, PartialEq)]
pub struct QuorumView {
    /// The leader.
    pub leader: NodeId,
    /// Its term.
    pub term: Term,
    /// The last entry that is committed.
    pub commit: RaftIndex,
    /// Wall clock.
    pub now_ms: i64,
    /// The members.
    pub members: Vec<QuorumMember>,
}

/// One member of the metadata group.
#[derive(Clone, Debug, PartialEq)]
pub struct QuorumMember {
    /// Its node.
    pub node: NodeId,
    /// Its data directory.
    pub directory: Uuid,
    /// It votes; else it is being filled.
    pub is_voter: bool,
    /// The last entry that it is known to have.
    pub matched: RaftIndex,
    /// It has been heard from of late.
    pub is_heard: bool,
}

/// Answers DescribeQuorum in its newest version. Entries stand for offsets: the log of the metadata group is counted by its
/// Raft index. `view` is none where this node does not lead the group.
#[must_use]
pub fn describe_quorum(
    view: Option<&QuorumView>,
    snapshot: &Snapshot,
    request: &DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let response = DescribeQuorumResponse::default().with_error_message(None);
    let rows = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |row| (topic.topic_name.as_str(), row.partition_index))
    });
    let asked: Vec<(&str, i32)> = rows.collect();
    if asked != [(CLUSTER_METADATA, 0)] {
        let refuse = |(name, index): &(&str, i32)| {
            quorum_topic(name, refused_quorum(*index, ResponseError::UnknownTopicOrPartition))
        };
        return response.with_topics(asked.iter().map(refuse).collect());
    }
    let Some(view) = view else {
        let row = refused_quorum(0, ResponseError::NotLeaderOrFollower);
        return response.with_topics(vec![quorum_topic(CLUSTER_METADATA, row)]);
    };
    let some = |is_voter: bool| {
        let members = view.members.iter().filter(move |member| member.is_voter == is_voter);
        members.map(|member| replica_state(member, view)).collect()
    };
    let row = PartitionData::default()
        .with_error_message(None)
        .with_leader_id(BrokerId(view.leader.0))
        .with_leader_epoch(view.term.leader_epoch().0)
        .with_high_watermark(offset_after(view.commit))
        .with_current_voters(some(true))
        .with_observers(some(false));
    response.with_topics(vec![quorum_topic(CLUSTER_METADATA, row)]).with_nodes(quorum_nodes(view, snapshot))
}

/// The same answer without what an older version has no room for.
#[must_use]
pub fn quorum_for_version(mut response: DescribeQuorumResponse, version: i16) -> DescribeQuorumResponse {
    if version < 2 {
        response.nodes.clear();
    }
    for row in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        for state in row.current_voters.iter_mut().chain(&mut row.observers) {
            if version < 2 {
                state.replica_directory_id = Uuid::nil();
            }
            if version < 1 {
                (state.last_fetch_timestamp, state.last_caught_up_timestamp) = (-1, -1);
            }
        }
    }
    response
}

fn replica_state(member: &QuorumMember, view: &QuorumView) -> ReplicaState {
    let time = if member.is_heard { view.now_ms } else { -1 };
    let is_level = member.is_heard && member.matched >= view.commit;
    ReplicaState::default()
        .with_replica_id(BrokerId(member.node.0))
        .with_replica_directory_id(member.directory)
        .with_log_end_offset(offset_after(member.matched))
        .with_last_fetch_timestamp(time)
        .with_last_caught_up_timestamp(if is_level { time } else { -1 })
}

fn offset_after(index: RaftIndex) -> i64 {
    i64::try_from(index.0).map_or(i64::MAX, |index| index.saturating_add(1))
}

fn quorum_nodes(view: &QuorumView, snapshot: &Snapshot) -> Vec<Node> {
    let node = |member: &QuorumMember| {
        let raft = snapshot.brokers.get(&member.node)?.raft.as_ref()?;
        let listener = Listener::default()
            .with_name(StrBytes::from_static_str(RAFT_LISTENER))
            .with_host(StrBytes::from_string(raft.host.clone()))
            .with_port(raft.port);
        Some(Node::default().with_node_id(BrokerId(member.node.0)).with_listeners(vec![listener]))
    };
    view.members.iter().filter_map(node).collect()
}

fn quorum_topic(name: &str, row: PartitionData) -> TopicData {
    let name = TopicName(StrBytes::from_string(name.to_owned()));
    TopicData::default().with_topic_name(name).with_partitions(vec![row])
}

fn refused_quorum(index: i32, error: ResponseError) -> PartitionData {
    PartitionData::default()
        .with_partition_index(index)
        .with_error_code(error.code())
        .with_error_message(None)
        .with_leader_id(BrokerId(-1))
        .with_leader_epoch(-1)
        .with_high_watermark(-1)
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
