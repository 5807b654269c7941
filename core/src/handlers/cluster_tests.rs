//! Tests of ListPartitionReassignments and DescribeQuorum.

use chronik_net::codec::messages::describe_quorum_request;
use chronik_net::codec::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use chronik_wal::types::PeerId;
use kafka_protocol::protocol::Encodable;

use super::super::tests::World;
use super::*;
use crate::metadata::command::Command;

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A partition's number, its replicas, those that come, those that go.
type Row = (i32, Vec<i32>, Vec<i32>, Vec<i32>);

fn list(world: &World, named: Option<(&str, i32)>) -> Vec<Row> {
    let topics = named.map(|(name, index)| {
        vec![
            ListPartitionReassignmentsTopics::default()
                .with_name(topic_name(name))
                .with_partition_indexes(vec![index]),
        ]
    });
    let request = ListPartitionReassignmentsRequest::default().with_topics(topics);
    let response = list_reassignments(world.builder.current(), &request);
    let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
    let rows = response.topics.iter().flat_map(|topic| &topic.partitions);
    rows.map(|row| {
        (row.partition_index, ids(&row.replicas), ids(&row.adding_replicas), ids(&row.removing_replicas))
    })
    .collect()
}

#[test]
fn only_partitions_that_move_are_listed() {
    let mut world = World::new();
    world.topic(7, "t", 2);
    assert_eq!(list(&world, None), []);
    let topic = world.state.topic("t").unwrap().clone();
    let stays = topic.partitions[1].replicas[0];
    let peer = world.state.next_ids().1;
    let command = Command::RegisterBroker {
        node: NodeId(4),
        directory: Uuid::nil(),
        incarnation: Uuid::nil(),
        rack: None,
        listeners: Default::default(),
        raft: None,
    };
    world.apply(&command);
    let newcomer = Replica { node: NodeId(4), peer: PeerId(peer.0 + 10) };
    world.apply(&Command::PlaceReplicas { id: topic.id, partition: 1, replicas: vec![stays, newcomer] });
    let goes: Vec<i32> = topic.partitions[1].replicas[1..].iter().map(|replica| replica.node.0).collect();
    let all: Vec<i32> = [vec![stays.node.0, 4], goes.clone()].concat();
    let expected = [(1, all, vec![4], goes)];
    assert_eq!(list(&world, None), expected);
    assert_eq!(list(&world, Some(("t", 1))), expected);
    assert_eq!(list(&world, Some(("t", 0))), []);
    assert_eq!(list(&world, Some(("nope", 1))), []);
}

fn quorum_request(name: &str, index: i32) -> DescribeQuorumRequest {
    let row = describe_quorum_request::PartitionData::default().with_partition_index(index);
    let topic = describe_quorum_request::TopicData::default()
        .with_topic_name(topic_name(name))
        .with_partitions(vec![row]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

fn view() -> QuorumView {
    let member = |node: i32, is_voter, matched, is_heard| QuorumMember {
        node: NodeId(node),
        directory: Uuid::from_u128(node as u128),
        is_voter,
        matched: RaftIndex(matched),
        is_heard,
    };
    QuorumView {
        leader: NodeId(2),
        term: Term(9),
        commit: RaftIndex(41),
        now_ms: 1_000,
        members: vec![
            member(1, true, 40, false),
            member(2, true, 41, true),
            member(3, true, 30, true),
            member(4, false, 5, true),
        ],
    }
}

#[test]
fn the_quorum_as_its_leader_knows_it() {
    let world = World::new();
    let request = quorum_request(CLUSTER_METADATA, 0);
    let response = describe_quorum(Some(&view()), world.builder.current(), &request);
    let row = &response.topics[0].partitions[0];
    assert_eq!((row.error_code, row.leader_id.0, row.leader_epoch, row.high_watermark), (0, 2, 9, 42));
    let states = |states: &[ReplicaState]| -> Vec<(i32, i64, i64, i64)> {
        let one = |s: &ReplicaState| {
            (s.replica_id.0, s.log_end_offset, s.last_fetch_timestamp, s.last_caught_up_timestamp)
        };
        states.iter().map(one).collect()
    };
    assert_eq!(states(&row.current_voters), [(1, 41, -1, -1), (2, 42, 1_000, 1_000), (3, 31, 1_000, -1)]);
    assert_eq!(states(&row.observers), [(4, 6, 1_000, -1)]);
    assert_eq!(row.current_voters[2].replica_directory_id, Uuid::from_u128(3));
    for version in 0..=2 {
        let mut out = bytes::BytesMut::new();
        quorum_for_version(response.clone(), version).encode(&mut out, version).unwrap();
    }
}

#[test]
fn who_does_not_lead_does_not_know_and_nothing_else_has_a_quorum() {
    let world = World::new();
    let refused = describe_quorum(None, world.builder.current(), &quorum_request(CLUSTER_METADATA, 0));
    assert_eq!((refused.error_code, refused.topics[0].partitions[0].error_code), (0, 6));
    for (name, index) in [("t", 0), (CLUSTER_METADATA, 1)] {
        let refused = describe_quorum(Some(&view()), world.builder.current(), &quorum_request(name, index));
        let row = &refused.topics[0].partitions[0];
        assert_eq!((row.error_code, row.partition_index), (3, index));
    }
    let nothing = describe_quorum(Some(&view()), world.builder.current(), &DescribeQuorumRequest::default());
    assert_eq!(nothing.topics, []);
}
