//! Three nodes: what is acknowledged stays, whoever leads.

use chronik_net::codec::ErrorCode;
use chronik_wal::types::GroupId;

use super::*;
use crate::shard::message::*;

#[test]
fn a_record_is_on_every_node_and_outlives_each() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    for round in 0..3 {
        let leader = cluster.leader(group);
        let outcome = cluster.produce(leader, group, records_of(&[b"value"], WALL_MS), Acks::All);
        assert_eq!((outcome.error, outcome.base_offset.0), (ErrorCode::None, round));
        cluster.kill(leader, true);
        let other = cluster.leader(group);
        assert_ne!(other, leader);
        assert_eq!(cluster.read_all(group, 0), (0..=round).collect::<Vec<_>>());
        cluster.restart(leader);
        cluster.wait_until("it has caught up", |cluster| cluster.high_watermark(leader, group) > round);
    }
    cluster.leader(GroupId::METADATA);
}

#[test]
fn a_leader_cut_off_acknowledges_nothing_and_its_rest_gives_way() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    cluster.produce(old, group, records_of(&[b"kept"], WALL_MS), Acks::All);
    cluster.isolate(old);
    let lost = cluster.ask_produce(old, group, records_of(&[b"lost"], WALL_MS), Acks::All);
    cluster.advance(1_500);
    let outcome = cluster.produced(old, lost).expect("answered once it knows that it leads no more");
    assert_eq!(outcome.error, ErrorCode::NotLeaderOrFollower);
    let new = cluster.leader(group);
    assert!(cluster.others(old).contains(&new));
    assert_eq!(cluster.fetch(old, group, 0).error, ErrorCode::NotLeaderOrFollower);
    let kept = cluster.produce(new, group, records_of(&[b"a", b"b"], WALL_MS), Acks::All);
    assert_eq!((kept.error, kept.base_offset.0), (ErrorCode::None, 1));
    cluster.heal();
    cluster.wait_until("the old one follows", |cluster| cluster.high_watermark(old, group) == 3);
    assert_eq!(cluster.read_all(group, 0), [0, 1, 2]);
}

#[test]
fn a_node_that_slept_catches_up() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    cluster.pause(old);
    cluster.advance(5_000);
    let new = cluster.leader(group);
    cluster.produce(new, group, records_of(&[b"value"], WALL_MS), Acks::All);
    cluster.resume(old);
    cluster.wait_until("it has caught up", |cluster| cluster.high_watermark(old, group) == 1);
    assert_eq!(cluster.leader(group), new);
}

/// The last entry of the metadata log may not be known as committed when all start again: what belongs to the topic that it
/// made must wait for it.
#[test]
fn a_new_topic_and_its_records_outlive_a_power_cut_of_all() {
    let (mut cluster, group, leader) = Cluster::led();
    let outcome = cluster.produce(leader, group, records_of(&[b"value"], WALL_MS), Acks::All);
    assert_eq!(outcome.error, ErrorCode::None);
    cluster.names().into_iter().for_each(|node| cluster.kill(node, false));
    cluster.names().into_iter().for_each(|node| cluster.restart(node));
    cluster.wait_until("the topic is known everywhere", |cluster| {
        cluster.names().iter().all(|node| cluster[*node].shard.snapshot.topic(TOPIC).is_some())
    });
    assert_eq!(cluster.read_all(group, 0), [0]);
}
