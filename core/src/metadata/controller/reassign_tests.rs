//! Tests of reassignments and of those who join and leave: a row for each of Kafka 4.3.1's answers, and what is planned.

use kafka_protocol::messages::{BrokerId, TopicName};

use super::super::tests::{World, assigned, name, text};
use super::*;
use crate::metadata::admin::Reached;
use crate::metadata::command::RequestId;

fn move_to(topic: &str, index: i32, replicas: Option<&[i32]>) -> AlterPartitionReassignmentsRequest {
    let nodes = replicas.map(|nodes| nodes.iter().map(|node| BrokerId(*node)).collect());
    let row = ReassignablePartition::default().with_partition_index(index).with_replicas(nodes);
    let topic = ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![row]);
    AlterPartitionReassignmentsRequest::default().with_topics(vec![topic])
}

/// Plans, commits, and gives the only row.
fn alter(world: &mut World, request: &AlterPartitionReassignmentsRequest) -> (i16, Option<String>) {
    let plan = world.plan(|controller, context| controller.plan_reassignments(request, context));
    let response = world.commit(plan);
    assert_eq!(response.error_code, 0);
    let row = &response.responses[0].partitions[0];
    (row.error_code, row.error_message.as_ref().map(ToString::to_string))
}

fn nodes(replicas: &[Replica]) -> Vec<i32> {
    replicas.iter().map(|replica| replica.node.0).collect()
}

/// The replicas of `t-0`: all, those that come, those that go.
fn placed(world: &World) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let partition = &world.state.topic("t").unwrap().partitions[0];
    (nodes(&partition.replicas), nodes(&partition.adding), nodes(&partition.removing))
}

fn world() -> World {
    let mut world = World::with(5, &[]);
    let made = world.create(vec![assigned("t", &[(0, &[1, 2, 3])])]);
    assert_eq!(made.topics[0].error_code, 0);
    world
}

fn complete(world: &mut World) {
    let topic = world.state.topic("t").unwrap();
    let replicas = topic.partitions[0].target();
    let command = Command::CompletePlacement {
        id: topic.id,
        partition: 0,
        replicas,
        index: chronik_wal::types::RaftIndex(0),
    };
    let plan = Plan { commands: vec![command], response: (), awaited: Vec::new() };
    world.commit(plan);
    world.controller.abandon(&world.state);
}

#[test]
fn a_reassignment_is_a_target_with_fresh_peer_ids_for_newcomers() {
    let mut world = world();
    let before = world.state.topic("t").unwrap().partitions[0].replicas.clone();
    let next = world.state.next_ids().1;
    assert_eq!(alter(&mut world, &move_to("t", 0, Some(&[4, 2, 5]))), (0, None));
    assert_eq!(placed(&world), (vec![4, 2, 5, 1, 3], vec![4, 5], vec![1, 3]));
    let partition = &world.state.topic("t").unwrap().partitions[0];
    assert_eq!(partition.replicas[1], before[1], "who stays keeps its id");
    assert_eq!(partition.replicas[0].peer, next);
    complete(&mut world);
    assert_eq!(placed(&world), (vec![4, 2, 5], vec![], vec![]));
}

#[test]
fn another_order_is_there_at_once_and_the_same_order_is_nothing() {
    let mut world = world();
    let request = move_to("t", 0, Some(&[1, 2, 3]));
    let plan = world.plan(|controller, context| controller.plan_reassignments(&request, context));
    assert_eq!(plan.commands, []);
    assert_eq!(alter(&mut world, &move_to("t", 0, Some(&[3, 1, 2]))), (0, None));
    assert_eq!(placed(&world), (vec![3, 1, 2], vec![], vec![]));
}

#[test]
fn a_cancelled_reassignment_brings_back_the_very_same_peers() {
    let mut world = world();
    let before = world.state.topic("t").unwrap().partitions[0].replicas.clone();
    alter(&mut world, &move_to("t", 0, Some(&[4, 5])));
    assert_eq!(alter(&mut world, &move_to("t", 0, None)), (0, None));
    let partition = &world.state.topic("t").unwrap().partitions[0];
    assert_eq!(partition.target(), before.to_vec());
    assert_eq!(nodes(&partition.removing), [4, 5], "they may vote by now: the leader takes them out");
    complete(&mut world);
    let none = Some("No partition reassignment is in progress.".to_owned());
    assert_eq!(alter(&mut world, &move_to("t", 0, None)), (85, none));
}

#[test]
fn every_error_of_a_reassignment_is_kafkas() {
    let mut world = world();
    let mut row = |topic: &str, index, replicas: &[i32]| {
        let (code, message) = alter(&mut world, &move_to(topic, index, Some(replicas)));
        (code, message.unwrap_or_default())
    };
    let expect = |code: i16, message: &str| (code, message.to_owned());
    assert_eq!(row("nope", 0, &[1]), expect(3, "Unable to find a topic named nope."));
    assert_eq!(row("t", 7, &[1]), expect(3, "Unable to find partition t:7."));
    assert_eq!(
        row("t", 0, &[]),
        expect(39, "The manual partition assignment includes an empty replica list.")
    );
    let unknown = "The manual partition assignment includes broker 9, but no such broker is registered.";
    assert_eq!(row("t", 0, &[9]), expect(39, unknown));
    let twice = "The manual partition assignment includes the broker 1 more than once.";
    assert_eq!(row("t", 0, &[1, 1]), expect(39, twice));
    let fewer = move_to("t", 0, Some(&[1, 2])).with_allow_replication_factor_change(false);
    let message = Some("The replication factor is changed from 3 to 2".to_owned());
    assert_eq!(alter(&mut world, &fewer), (38, message));
}

#[test]
fn a_request_of_too_many_partitions_is_refused_whole() {
    let mut world = world();
    let rows = vec![ReassignablePartition::default(); REQUEST_PARTITIONS_MAX + 1];
    let topic = ReassignableTopic::default().with_name(TopicName(text("t"))).with_partitions(rows);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let plan = world.plan(|controller, context| controller.plan_reassignments(&request, context));
    assert_eq!((plan.response.error_code, plan.commands.len()), (42, 0));
}

fn unregister(world: &mut World, node: i32, request: Option<RequestId>) -> (i16, String) {
    let asked = UnregisterBrokerRequest::default().with_broker_id(BrokerId(node));
    let plan =
        world.with_context(request, |controller, context| controller.plan_unregistration(&asked, context));
    let response = world.commit(plan);
    (response.error_code, response.error_message.unwrap_or_default().to_string())
}

#[test]
fn a_broker_leaves_once_it_holds_nothing_or_is_down() {
    let mut world = world();
    assert_eq!(unregister(&mut world, 9, None), (102, "Broker ID 9 is not currently registered".to_owned()));
    let (code, message) = unregister(&mut world, 1, None);
    assert_eq!(code, 42);
    assert!(message.contains("holds 1 replica(s)") && message.contains("cluster drain 1"), "{message}");
    let request = Some(RequestId { node: NodeId(2), incarnation: 1, sequence: 1 });
    assert_eq!(unregister(&mut world, 4, request).0, 0);
    assert!(world.state.brokers().get(&NodeId(4)).is_none());
    assert!(
        world.state.metadata_replicas().of_node(NodeId(4)).is_none(),
        "it leaves the metadata group as well"
    );
    assert_eq!(unregister(&mut world, 4, request).0, 0, "a retry is not told that it is gone");
    world.builder.broker_reachable(NodeId(1), false);
    assert_eq!(unregister(&mut world, 1, None).0, 0, "as in Kafka: it is dead");
}

#[test]
fn the_last_broker_stays() {
    let mut world = World::with(1, &[]);
    assert_eq!(unregister(&mut world, 1, None), (42, "Broker 1 is the last one".to_owned()));
}

fn add_voter(world: &mut World, node: i32, directory: Uuid, cluster: Option<&str>) -> (i16, String) {
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(cluster.map(text))
        .with_voter_id(node)
        .with_voter_directory_id(directory);
    let plan = world.plan(|controller, context| controller.plan_voter(&request, context));
    let response = world.commit(plan);
    (response.error_code, response.error_message.unwrap_or_default().to_string())
}

fn remove_voter(world: &mut World, node: i32, directory: Uuid) -> (i16, String) {
    let request = RemoveRaftVoterRequest::default().with_voter_id(node).with_voter_directory_id(directory);
    let plan = world.plan(|controller, context| controller.plan_voter_removal(&request, context));
    let response = world.commit(plan);
    (response.error_code, response.error_message.unwrap_or_default().to_string())
}

#[test]
fn voters_come_and_go() {
    let mut world = world();
    let directory = Uuid::nil();
    let told = add_voter(&mut world, 4, directory, None);
    assert_eq!(told.0, 126);
    assert!(
        told.1.starts_with(
            "The voter id for ReplicaKey(id=4, directoryId=AAAAAAAAAAAAAAAAAAAAAA) is already part of the set of \
             voters [ReplicaKey(id=1, "
        ),
        "{}",
        told.1
    );
    let wrong = (104, "The given id \"nope\" doesn't match the cluster id \"\"".to_owned());
    assert_eq!(add_voter(&mut world, 7, directory, Some("nope")), wrong);
    assert_eq!(add_voter(&mut world, 7, directory, None).0, 42, "it has never registered");
    assert_eq!(remove_voter(&mut world, 4, Uuid::from_u128(5)).0, 127, "another directory");
    assert_eq!(remove_voter(&mut world, 9, directory).0, 127);
    assert_eq!(remove_voter(&mut world, 1, directory).0, 42, "it holds a replica");
    let before = world.state.metadata_replicas().of_node(NodeId(4)).copied().unwrap();
    assert_eq!(remove_voter(&mut world, 4, directory).0, 0);
    assert!(world.state.metadata_replicas().of_node(NodeId(4)).is_none());
    assert_eq!(add_voter(&mut world, 4, Uuid::from_u128(5), None).0, 125);
    assert_eq!(add_voter(&mut world, 4, directory, None).0, 0);
    let after = world.state.metadata_replicas().of_node(NodeId(4)).copied().unwrap();
    assert!(after.peer > before.peer, "a peer id is never used again");
}

/// A word of the placement before, which has the same target: Raft has a member by now that only the present one will take out.
#[test]
fn what_was_reached_for_another_placement_does_not_complete_this_one() {
    let mut world = world();
    assert_eq!(alter(&mut world, &move_to("t", 0, Some(&[1, 2, 4]))), (0, None));
    let reached_for = |world: &World| {
        let partition = &world.state.topic("t").unwrap().partitions[0];
        let (replicas, going) = (partition.target(), Some(partition.removing.to_vec()));
        Reached { replicas, index: chronik_wal::types::RaftIndex(9), going }
    };
    let early = reached_for(&world);
    assert_eq!(alter(&mut world, &move_to("t", 0, Some(&[1, 2, 4, 5]))), (0, None));
    assert_eq!(alter(&mut world, &move_to("t", 0, Some(&[1, 2, 4]))), (0, None));
    let id = world.state.topic("t").unwrap().id;
    assert_eq!(world.state.topic("t").unwrap().partitions[0].target(), early.replicas);
    assert!(world.controller.plan_completed_placement(&id, 0, &early).commands.is_empty());
    let now = reached_for(&world);
    let plan = world.controller.plan_completed_placement(&id, 0, &now);
    assert_eq!(plan.commands.len(), 1);
    world.commit(plan);
    assert!(!world.state.topic("t").unwrap().partitions[0].is_reassigning());
}

#[test]
fn the_last_voter_stays() {
    let mut world = World::with(1, &[]);
    assert_eq!(remove_voter(&mut world, 1, Uuid::nil()).0, 127);
}

#[test]
fn a_refused_change_fails_as_a_whole() {
    let mut response = AlterPartitionReassignmentsResponse::default();
    response.fail(ResponseError::NotController);
    response.fail(ResponseError::RequestTimedOut);
    assert_eq!(response.error_code, 41, "the first reason stands");
}
