//! Tests of what becomes of each partition of an ElectLeaders request. The rows are Kafka 4.3.1's own answers.

use chronik_net::codec::messages::elect_leaders_request::TopicPartitions;
use chronik_wal::types::{NodeId, Term};
use uuid::Uuid;

use super::super::tests::World;
use super::*;

/// `t-0` to `t-3` with the replicas 1, 2, 3 each; the first is led by node 1, the others by node 2.
fn world() -> World {
    let mut world = World::new();
    world.topic(7, "t", 4);
    for index in 0..4 {
        world.builder.leader_changed(
            &Uuid::from_u128(7),
            index,
            Term(1),
            NodeId(if index == 0 { 1 } else { 2 }),
        );
    }
    world
}

fn preferred(world: &World, index: i32) -> NodeId {
    world.builder.current().topic("t").unwrap().partition(index).unwrap().replicas[0].node
}

fn ask(kind: i8, named: Option<&[(&str, i32)]>) -> ElectLeadersRequest {
    let topics = named.map(|named| {
        let one = |(topic, index): &(&str, i32)| {
            TopicPartitions::default()
                .with_topic(TopicName(StrBytes::from_string((*topic).to_owned())))
                .with_partitions(vec![*index])
        };
        named.iter().map(one).collect()
    });
    ElectLeadersRequest::default().with_election_type(kind).with_topic_partitions(topics)
}

fn rows(response: &ElectLeadersResponse) -> Vec<(String, i32, i16, String)> {
    let rows = response.replica_election_results.iter().flat_map(|topic| {
        topic.partition_result.iter().map(move |row| {
            let message = row.error_message.as_ref().map(ToString::to_string).unwrap_or_default();
            (topic.topic.to_string(), row.partition_id, row.error_code, message)
        })
    });
    rows.collect()
}

fn told(world: &World, request: &ElectLeadersRequest) -> Vec<(String, i32, i16, String)> {
    let triage = triage(world.builder.current(), request);
    rows(&response(triage.rows, request.topic_partitions.is_some()))
}

fn row(topic: &str, index: i32, code: i16, message: &str) -> (String, i32, i16, String) {
    (topic.to_owned(), index, code, message.to_owned())
}

#[test]
fn every_row_that_needs_no_election() {
    let world = world();
    let index =
        (0..4).find(|index| preferred(&world, *index) == NodeId(1)).expect("node 1 is preferred somewhere");
    let named = [("t", index), ("nope", 0), ("t", 9)];
    let expected = [
        row("t", index, 84, "Leader election not needed for topic partition."),
        row("nope", 0, 3, "No such topic as nope"),
        row("t", 9, 3, "No such partition as t-9"),
    ];
    assert_eq!(told(&world, &ask(PREFERRED, Some(&named))), expected);
    assert_eq!(told(&world, &ask(UNCLEAN, Some(&named))), expected);
    let all = told(&world, &ask(PREFERRED, None));
    assert!(all.iter().all(|row| row.1 != index && row.2 == 0), "{all:?}");
    assert_eq!(told(&world, &ask(UNCLEAN, None)), [], "asked for all, what needs nothing is not told");
}

#[test]
fn a_preferred_leader_is_elected_if_it_can_take_over() {
    let mut world = world();
    let index = 1;
    let to = preferred(&world, index);
    let request = ask(PREFERRED, Some(&[("t", index)]));
    let mut asked = triage(world.builder.current(), &request);
    let view = world.builder.current().topic("t").unwrap().partition(index).unwrap();
    let election = Election { topic_id: Uuid::from_u128(7), partition: index, group: view.group, to };
    assert_eq!(asked.elections, [(0, election)]);
    asked.note(Some(&[]));
    assert_eq!(rows(&response(asked.rows.clone(), true)), [row("t", index, 0, "")]);
    asked.note(Some(&[election]));
    let late = format!("Broker {to} has not taken over in time.");
    assert_eq!(rows(&response(asked.rows, true)), [row("t", index, 80, &late)]);

    world.builder.in_sync_changed(&Uuid::from_u128(7), index, Term(1), &[NodeId(2)]);
    assert_eq!(told(&world, &request), [row("t", index, 80, "The preferred leader is not in sync.")]);
    world.builder.broker_reachable(to, false);
    assert_eq!(told(&world, &request), [row("t", index, 80, "The preferred leader cannot be reached.")]);
}

#[test]
fn an_unclean_leader_is_never_elected() {
    let mut world = world();
    world.builder.broker_reachable(NodeId(1), false);
    let told = told(&world, &ask(UNCLEAN, Some(&[("t", 0)])));
    assert_eq!(told[0].2, 83);
    assert!(told[0].3.contains("recover --unsafe"), "{}", told[0].3);
    assert!(triage(world.builder.current(), &ask(UNCLEAN, None)).elections.is_empty());
}

#[test]
fn nothing_has_come_of_it_where_nobody_was_asked() {
    let world = world();
    let mut asked = triage(world.builder.current(), &ask(PREFERRED, None));
    assert!(!asked.elections.is_empty());
    asked.note(None);
    assert!(rows(&response(asked.rows, false)).iter().all(|row| row.2 == 80));
}
