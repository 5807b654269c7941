//! Answers that must not be stale, from leaders that were cut off, slept, or rest.

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, LeaderEpoch};

use super::*;
use crate::shard::message::*;

fn value() -> BytesMut {
    records_of(&[b"value"], WALL_MS)
}

fn latest(group: GroupId) -> Request {
    Request::ListOffsets(vec![OffsetQuery {
        group,
        timestamp: -1,
        current_epoch: LeaderEpoch::UNKNOWN,
        isolation: Isolation::ReadUncommitted,
    }])
}

fn offset(reply: Reply) -> (ErrorCode, i64) {
    match reply {
        Reply::Offsets(answers) => (answers[0].error, answers[0].offset.0),
        other => panic!("an answer to ListOffsets, not {other:?}"),
    }
}

#[test]
fn a_leader_that_slept_does_not_answer_from_before_its_sleep() {
    for slept_ms in [350, 700, 3_000] {
        let mut cluster = Cluster::new();
        let group = cluster.topic(TOPIC, 1, &[]);
        let old = cluster.leader(group);
        cluster.produce(old, group, value(), Acks::All);
        cluster.pause(old);
        cluster.notice_down(chronik_wal::types::NodeId(old), false);
        cluster.advance(slept_ms);
        let acknowledged = cluster.leader_now(group).map_or(1, |new| {
            let outcome = cluster.produce(new, group, value(), Acks::All);
            1 + i64::from(outcome.error == ErrorCode::None)
        });
        cluster.resume(old);
        // The question is there before any word of the others, and is looked at first.
        let asked = cluster[old].ask(latest(group));
        let written = cluster.ask_produce(old, group, value(), Acks::Leader);
        let (error, end) = offset(cluster.answer_to(old, asked));
        assert!(
            error == ErrorCode::NotLeaderOrFollower || end >= acknowledged,
            "{slept_ms}: {error:?} {end}, but {acknowledged} are acknowledged"
        );
        let answered = |cluster: &Cluster| cluster[old].replies.iter().any(|(call, _)| *call == written);
        cluster.wait_until("acks=1 is answered", answered);
        let outcome = cluster.produced(old, written).expect("answered");
        if outcome.error == ErrorCode::None {
            assert!(cluster.read_all(group, 0).contains(&outcome.base_offset.0), "{slept_ms}");
        }
    }
}

#[test]
fn a_leader_cut_off_says_nothing_until_it_knows() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    cluster.produce(old, group, value(), Acks::All);
    cluster.isolate(old);
    cluster.advance(310);
    let asked = cluster[old].ask(latest(group));
    let written = cluster.ask_produce(old, group, value(), Acks::Leader);
    let (error, _) = offset(cluster.answer_to(old, asked));
    assert_eq!(error, ErrorCode::NotLeaderOrFollower);
    assert_eq!(cluster.produced(old, written).expect("answered too").error, ErrorCode::NotLeaderOrFollower);
    assert_eq!(cluster[old].shard.contacts.count(), 0);
}

#[test]
fn a_leader_at_rest_asks_its_quorum_first() {
    let (mut cluster, group, leader) = Cluster::led();
    cluster.produce(leader, group, value(), Acks::All);
    cluster.advance(10_000);
    assert!(!cluster[leader].shard.driver.has_quorum_contact(group, cluster.now.mono_ms), "it rests");
    let before_ms = cluster.now.mono_ms;
    let asked = cluster[leader].ask(latest(group));
    assert!(cluster[leader].take(asked).is_none());
    cluster.settle();
    assert_eq!(offset(cluster[leader].take(asked).expect("after a round trip")), (ErrorCode::None, 1));
    assert_eq!(cluster.now.mono_ms, before_ms);
}

/// Whoever has read further elsewhere would begin anew.
#[test]
fn a_leader_asks_its_quorum_before_it_calls_an_offset_out_of_range() {
    let (mut cluster, group, leader) = Cluster::led();
    cluster.produce(leader, group, value(), Acks::All);
    cluster.advance(10_000);
    let before_ms = cluster.now.mono_ms;
    assert_eq!(cluster.fetch(leader, group, 1).error, ErrorCode::None, "at the end");
    assert_eq!(cluster.fetch(leader, group, 2).error, ErrorCode::OffsetOutOfRange);
    assert_eq!(cluster.now.mono_ms, before_ms, "after a round trip");
    cluster.advance(10_000);
    cluster.isolate(leader);
    assert_eq!(cluster.fetch(leader, group, 2).error, ErrorCode::NotLeaderOrFollower);
    assert_eq!(cluster[leader].shard.contacts.count(), 0);
}

#[test]
fn a_replica_that_knows_of_no_leader_for_long_says_so() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    cluster.produce(old, group, value(), Acks::All);
    let says = |cluster: &mut Cluster, wait_ms| {
        cluster.advance(wait_ms);
        let produced = cluster.produce(old, group, value(), Acks::All);
        let fetched = cluster.fetch(old, group, 0);
        assert_eq!(
            (produced.error, fetched.error),
            (ErrorCode::NotLeaderOrFollower, ErrorCode::NotLeaderOrFollower)
        );
        assert_eq!(produced.is_orphaned, fetched.is_orphaned);
        produced.is_orphaned
    };
    cluster.isolate(old);
    assert!(!says(&mut cluster, 1_000), "an election may be under way");
    assert!(says(&mut cluster, 2_500));
    cluster.heal();
    cluster.wait_until("it knows the leader", |cluster| {
        matches!(cluster[old].shard.driver.leadership(group), Some(Leadership::Follower { .. }))
    });
    let produced = cluster.produce(old, group, value(), Acks::All);
    assert!(produced.leader.is_some() && !produced.is_orphaned);
}
