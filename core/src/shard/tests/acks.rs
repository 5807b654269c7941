//! What acks=1 and acks=all wait for, and which replicas are in sync.

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;

use super::*;
use crate::config::layers::ConfigMap;
use crate::shard::message::*;

fn value() -> BytesMut {
    records_of(&[b"value"], WALL_MS)
}

fn with_lag_ms(ms: &str) -> Cluster {
    let configs = ConfigMap::from([("replica.lag.time.max.ms".to_owned(), ms.to_owned())]);
    Cluster::with(&Setup { configs, ..Setup::default() })
}

#[test]
fn acks_1_is_answered_from_the_leaders_disk_alone() {
    let (mut cluster, group, leader) = Cluster::led();
    cluster.isolate(leader);
    cluster[leader].hold_turns = true;
    let call = cluster.ask_produce(leader, group, value(), Acks::Leader);
    let all = cluster.ask_produce(leader, group, value(), Acks::All);
    cluster.settle();
    assert!(cluster.produced(leader, call).is_none(), "not before its disk has it");
    cluster[leader].hold_turns = false;
    cluster[leader].write_turn();
    cluster.settle();
    let outcome = cluster.produced(leader, call).expect("its disk has it");
    assert_eq!((outcome.error, outcome.base_offset.0), (ErrorCode::None, 0));
    assert_eq!(cluster.high_watermark(leader, group), 0, "nobody reads it before it is committed");
    assert!(cluster.produced(leader, all).is_none());
}

#[test]
fn acks_1_fails_with_the_leadership() {
    let (mut cluster, group, leader) = Cluster::led();
    cluster[leader].hold_turns = true;
    let call = cluster.ask_produce(leader, group, value(), Acks::Leader);
    cluster.settle();
    cluster.isolate(leader);
    cluster.advance(1_500);
    let outcome = cluster.produced(leader, call).expect("answered");
    assert_eq!(outcome.error, ErrorCode::NotLeaderOrFollower);
}

#[test]
fn acks_all_waits_for_as_many_disks_as_the_topic_wants() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[("min.insync.replicas", "3")]);
    let leader = cluster.leader(group);
    let slow = cluster.others(leader)[0];
    cluster[slow].hold_turns = true;
    let call = cluster.ask_produce(leader, group, value(), Acks::All);
    cluster.settle();
    assert_eq!(cluster.high_watermark(leader, group), 1, "the quorum has it");
    assert!(cluster.produced(leader, call).is_none(), "two disks are not three");
    cluster[slow].hold_turns = false;
    cluster[slow].write_turn();
    cluster.settle();
    assert_eq!(cluster.produced(leader, call).expect("three disks have it").error, ErrorCode::None);
}

#[test]
fn too_few_in_sync_are_refused_before_the_append_and_served_again_once_there_are_enough() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[("min.insync.replicas", "3")]);
    let leader = cluster.leader(group);
    assert_eq!(cluster.in_sync(leader, group), [1, 2, 3]);
    let gone = cluster.others(leader)[0];
    cluster.kill(gone, true);
    let outcome = cluster.produce(leader, group, value(), Acks::All);
    assert_eq!(outcome.error, ErrorCode::NotEnoughReplicas);
    assert_eq!(
        cluster[leader].shard.driver.log_end_offset(group).map(|end| end.0),
        Some(0),
        "and not appended"
    );
    assert_eq!(cluster.produce(leader, group, value(), Acks::Leader).error, ErrorCode::None);
    cluster.restart(gone);
    cluster.wait_until("it is in sync again", |cluster| cluster.in_sync(leader, group).len() == 3);
    assert_eq!(cluster.high_watermark(gone, group), 1, "it has caught up");
    assert_eq!(cluster.produce(leader, group, value(), Acks::All).error, ErrorCode::None);
}

#[test]
fn a_set_that_shrinks_meanwhile_is_told_after_the_append() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[("min.insync.replicas", "3")]);
    let leader = cluster.leader(group);
    let gone = cluster.others(leader)[0];
    cluster[gone].hold_turns = true;
    let call = cluster.ask_produce(leader, group, value(), Acks::All);
    cluster.settle();
    cluster.kill(gone, true);
    cluster.settle();
    let outcome = cluster.produced(leader, call).expect("nobody waits for what does not come");
    assert_eq!(outcome.error, ErrorCode::NotEnoughReplicasAfterAppend);
    assert_eq!(cluster.high_watermark(leader, group), 1);
}

#[test]
fn a_follower_that_lags_too_long_is_out_of_sync_until_it_has_caught_up() {
    let mut cluster = with_lag_ms("2000");
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    let silent = cluster.others(leader)[0];
    cluster.pause(silent);
    for _ in 0..15 {
        cluster.produce(leader, group, value(), Acks::All);
        cluster.advance(100);
    }
    assert_eq!(cluster.in_sync(leader, group).len(), 3, "it has some time");
    cluster.advance(1_000);
    assert!(!cluster.in_sync(leader, group).contains(&silent));
    assert_eq!(cluster.in_sync(leader, group).len(), 2);
    cluster.resume(silent);
    cluster.wait_until("it is back", |cluster| cluster.in_sync(leader, group).len() == 3);
    assert_eq!(cluster.high_watermark(silent, group), 15);
}

#[test]
fn a_follower_that_is_always_a_little_behind_is_in_sync() {
    let mut cluster = with_lag_ms("1000");
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    let slow = cluster.others(leader)[0];
    for _ in 0..20 {
        cluster[slow].hold_turns = true;
        cluster.produce(leader, group, value(), Acks::All);
        cluster.advance(80);
        cluster[slow].hold_turns = false;
        cluster[slow].write_turn();
        cluster.ask_produce(leader, group, value(), Acks::All);
        cluster.advance(20);
        assert_eq!(cluster.in_sync(leader, group).len(), 3);
    }
}

#[test]
fn a_group_at_rest_is_in_sync_while_the_link_is_up_and_not_looked_at() {
    let mut cluster = with_lag_ms("2000");
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    cluster.produce(leader, group, value(), Acks::All);
    cluster.advance(10_000);
    assert_eq!(cluster.in_sync(leader, group).len(), 3);
    let quiet = cluster.others(leader)[0];
    cluster.cut(leader, quiet);
    cluster.notice_down(chronik_wal::types::NodeId(quiet), false);
    cluster.advance(1_900);
    if cluster.leader(group) == leader {
        assert_eq!(cluster.in_sync(leader, group).len(), 3);
        cluster.advance(500);
        assert_eq!(cluster.in_sync(leader, group).len(), 2);
    }
}
