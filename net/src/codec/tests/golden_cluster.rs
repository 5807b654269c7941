//! Golden bytes of the cluster APIs, printed by `GoldenCluster.java` from Kafka's own classes: the general codec writes
//! them byte for byte, reads them back whole, and the guard before it lets the requests pass.

use super::super::{SUPPORTED, check_request};
use super::golden::unhex;
use super::*;
use messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use messages::describe_cluster_response::DescribeClusterBroker;
use messages::describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use messages::elect_leaders_request::TopicPartitions;
use messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use messages::{add_raft_voter_request, describe_quorum_request, *};

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn orders() -> TopicName {
    TopicName(text("orders"))
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn elect_leaders_request(version: i16) -> ElectLeadersRequest {
    let topic = TopicPartitions::default().with_topic(orders()).with_partitions(vec![0, 7]);
    ElectLeadersRequest::default()
        .with_election_type(i8::from(version >= 1))
        .with_topic_partitions(Some(vec![topic]))
        .with_timeout_ms(1500)
}

fn elect_leaders_response(version: i16) -> ElectLeadersResponse {
    let row = PartitionResult::default()
        .with_partition_id(7)
        .with_error_code(80)
        .with_error_message(Some(text("no")));
    let topic = ReplicaElectionResult::default().with_topic(orders()).with_partition_result(vec![row]);
    ElectLeadersResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(if version >= 1 { 41 } else { 0 })
        .with_replica_election_results(vec![topic])
}

fn alter_request(version: i16) -> AlterPartitionReassignmentsRequest {
    let partition = |index, replicas: Option<Vec<BrokerId>>| {
        ReassignablePartition::default().with_partition_index(index).with_replicas(replicas)
    };
    let partitions = vec![partition(0, Some(brokers(&[2, 3]))), partition(7, None)];
    AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(1500)
        .with_allow_replication_factor_change(version < 1)
        .with_topics(vec![ReassignableTopic::default().with_name(orders()).with_partitions(partitions)])
}

fn alter_response(version: i16) -> AlterPartitionReassignmentsResponse {
    let row = ReassignablePartitionResponse::default()
        .with_partition_index(7)
        .with_error_code(85)
        .with_error_message(None);
    let topic = ReassignableTopicResponse::default().with_name(orders()).with_partitions(vec![row]);
    AlterPartitionReassignmentsResponse::default()
        .with_throttle_time_ms(3)
        .with_allow_replication_factor_change(version < 1)
        .with_error_code(41)
        .with_error_message(Some(text("no")))
        .with_responses(vec![topic])
}

fn list_request(_: i16) -> ListPartitionReassignmentsRequest {
    let topic =
        ListPartitionReassignmentsTopics::default().with_name(orders()).with_partition_indexes(vec![0, 7]);
    ListPartitionReassignmentsRequest::default().with_timeout_ms(1500).with_topics(Some(vec![topic]))
}

fn list_response(_: i16) -> ListPartitionReassignmentsResponse {
    let row = OngoingPartitionReassignment::default()
        .with_partition_index(7)
        .with_replicas(brokers(&[1, 2, 3]))
        .with_adding_replicas(brokers(&[3]))
        .with_removing_replicas(brokers(&[1]));
    let topic = OngoingTopicReassignment::default().with_name(orders()).with_partitions(vec![row]);
    ListPartitionReassignmentsResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(41)
        .with_error_message(Some(text("no")))
        .with_topics(vec![topic])
}

fn quorum_request(_: i16) -> DescribeQuorumRequest {
    let partition = describe_quorum_request::PartitionData::default().with_partition_index(0);
    let topic = describe_quorum_request::TopicData::default()
        .with_topic_name(TopicName(text("__cluster_metadata")))
        .with_partitions(vec![partition]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

fn quorum_response(version: i16) -> DescribeQuorumResponse {
    let mut voter = ReplicaState::default().with_replica_id(BrokerId(1)).with_log_end_offset(42);
    if version >= 1 {
        voter = voter.with_last_fetch_timestamp(1000).with_last_caught_up_timestamp(1001);
    }
    if version >= 2 {
        voter = voter.with_replica_directory_id(ID);
    }
    let mut partition = PartitionData::default()
        .with_error_code(6)
        .with_leader_id(BrokerId(1))
        .with_leader_epoch(9)
        .with_high_watermark(41)
        .with_current_voters(vec![voter]);
    let mut response = DescribeQuorumResponse::default().with_error_code(41);
    if version >= 2 {
        partition = partition.with_error_message(Some(text("no")));
        let listener = Listener::default().with_name(text("RAFT")).with_host(text("host")).with_port(5001);
        let node = Node::default().with_node_id(BrokerId(1)).with_listeners(vec![listener]);
        response = response.with_error_message(Some(text("why"))).with_nodes(vec![node]);
    }
    let topic = TopicData::default()
        .with_topic_name(TopicName(text("__cluster_metadata")))
        .with_partitions(vec![partition]);
    response.with_topics(vec![topic])
}

fn cluster_request(version: i16) -> DescribeClusterRequest {
    DescribeClusterRequest::default()
        .with_include_cluster_authorized_operations(true)
        .with_endpoint_type(if version >= 1 { 2 } else { 1 })
        .with_include_fenced_brokers(version >= 2)
}

fn cluster_response(version: i16) -> DescribeClusterResponse {
    let broker = DescribeClusterBroker::default()
        .with_broker_id(BrokerId(1))
        .with_host(text("h1"))
        .with_port(9092)
        .with_rack(Some(text("r")))
        .with_is_fenced(version >= 2);
    DescribeClusterResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(41)
        .with_error_message(Some(text("no")))
        .with_endpoint_type(if version >= 1 { 2 } else { 1 })
        .with_cluster_id(text("cid"))
        .with_controller_id(BrokerId(1))
        .with_brokers(vec![broker])
        .with_cluster_authorized_operations(255)
}

fn unregister_request(_: i16) -> UnregisterBrokerRequest {
    UnregisterBrokerRequest::default().with_broker_id(BrokerId(3))
}

fn unregister_response(_: i16) -> UnregisterBrokerResponse {
    UnregisterBrokerResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(41)
        .with_error_message(Some(text("no")))
}

fn add_voter_request(_: i16) -> AddRaftVoterRequest {
    let listener = add_raft_voter_request::Listener::default()
        .with_name(text("RAFT"))
        .with_host(text("host"))
        .with_port(5001);
    AddRaftVoterRequest::default()
        .with_cluster_id(Some(text("cid")))
        .with_timeout_ms(1500)
        .with_voter_id(3)
        .with_voter_directory_id(ID)
        .with_listeners(vec![listener])
}

fn add_voter_response(_: i16) -> AddRaftVoterResponse {
    AddRaftVoterResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(126)
        .with_error_message(Some(text("no")))
}

fn remove_voter_request(_: i16) -> RemoveRaftVoterRequest {
    RemoveRaftVoterRequest::default()
        .with_cluster_id(Some(text("cid")))
        .with_voter_id(3)
        .with_voter_directory_id(ID)
}

fn remove_voter_response(_: i16) -> RemoveRaftVoterResponse {
    RemoveRaftVoterResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(127)
        .with_error_message(Some(text("no")))
}

fn check<M>(sample: fn(i16) -> M, version: i16, golden: &[u8], at: &str)
where
    M: Encodable + Decodable + PartialEq + std::fmt::Debug,
{
    let mut out = BytesMut::new();
    sample(version).encode(&mut out, version).unwrap();
    assert_eq!(out, golden, "{at}");
    let mut rest = out.freeze();
    assert_eq!(M::decode(&mut rest, version).unwrap(), sample(version), "{at}");
    assert!(rest.is_empty(), "{at}");
}

#[test]
fn the_cluster_apis_are_byte_for_byte_kafkas() {
    let mut checked = 0;
    for line in include_str!("golden_cluster.txt").lines() {
        let [message, version, digits] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (version, golden) = (version.parse().unwrap(), unhex(digits));
        match message {
            "ElectLeadersRequest" => check(elect_leaders_request, version, &golden, line),
            "ElectLeadersResponse" => check(elect_leaders_response, version, &golden, line),
            "AlterPartitionReassignmentsRequest" => check(alter_request, version, &golden, line),
            "AlterPartitionReassignmentsResponse" => check(alter_response, version, &golden, line),
            "ListPartitionReassignmentsRequest" => check(list_request, version, &golden, line),
            "ListPartitionReassignmentsResponse" => check(list_response, version, &golden, line),
            "DescribeQuorumRequest" => check(quorum_request, version, &golden, line),
            "DescribeQuorumResponse" => check(quorum_response, version, &golden, line),
            "DescribeClusterRequest" => check(cluster_request, version, &golden, line),
            "DescribeClusterResponse" => check(cluster_response, version, &golden, line),
            "UnregisterBrokerRequest" => check(unregister_request, version, &golden, line),
            "UnregisterBrokerResponse" => check(unregister_response, version, &golden, line),
            "AddRaftVoterRequest" => check(add_voter_request, version, &golden, line),
            "AddRaftVoterResponse" => check(add_voter_response, version, &golden, line),
            "RemoveRaftVoterRequest" => check(remove_voter_request, version, &golden, line),
            "RemoveRaftVoterResponse" => check(remove_voter_response, version, &golden, line),
            unknown => panic!("golden_cluster.txt has an unknown message {unknown}"),
        }
        let of = |end: &str| SUPPORTED.iter().find(|range| format!("{}{end}", range.api.name()) == message);
        let range = of("Request").or(of("Response")).expect("a served API");
        let api = range.api;
        assert!(api.serves(version), "{line}");
        if message.ends_with("Request") {
            assert_eq!(check_request(api, version, &golden), Ok(golden.len()), "{line}");
        }
        checked += 1;
    }
    assert_eq!(checked, 2 * (3 + 2 + 1 + 3 + 3 + 1 + 1 + 1), "both directions of every version");
}
