//! What a new leader knows at once: idempotent producers and leader epochs.

use chronik_net::codec::ErrorCode;
use chronik_wal::types::{GroupId, LeaderEpoch, NodeId};

use super::*;
use crate::shard::message::*;

fn send(cluster: &mut Cluster, node: i32, group: GroupId, sequence: i32) -> (ErrorCode, i64) {
    let outcome = cluster.produce(node, group, idempotent(5, 0, sequence, 1), Acks::All);
    (outcome.error, outcome.base_offset.0)
}

/// Hands the leadership to a node.
fn transfer(cluster: &mut Cluster, group: GroupId, to: i32) {
    let leader = cluster.leader(group);
    cluster.wait_until("it is in sync", |cluster| cluster.in_sync(leader, group).contains(&to));
    match cluster.answer(leader, Request::TransferLeader { group, to: Some(NodeId(to)) }) {
        Reply::Transferred(result) => assert_eq!(result, Ok(())),
        other => panic!("an answer to TransferLeader, not {other:?}"),
    }
}

#[test]
fn a_new_leader_knows_what_the_old_one_has_acknowledged() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    assert_eq!(send(&mut cluster, old, group, 0), (ErrorCode::None, 0));
    assert_eq!(send(&mut cluster, old, group, 1), (ErrorCode::None, 1));
    cluster.kill(old, true);
    let new = cluster.leader(group);
    assert_eq!(send(&mut cluster, new, group, 1), (ErrorCode::None, 1), "the first answer again");
    assert_eq!(send(&mut cluster, new, group, 2), (ErrorCode::None, 2));
    assert_eq!(cluster.read_all(group, 0), [0, 1, 2]);
}

/// As librdkafka does when the old leader's refusal of the earlier batch comes after the later one went to the new leader.
#[test]
fn a_batch_that_overtakes_another_after_a_change_of_leader_is_to_come_again() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    assert_eq!(send(&mut cluster, old, group, 0), (ErrorCode::None, 0));
    assert_eq!(send(&mut cluster, old, group, 2).0, ErrorCode::OutOfOrderSequenceNumber, "it has led alone");
    cluster.kill(old, true);
    let new = cluster.leader(group);
    assert_eq!(send(&mut cluster, new, group, 2).0, ErrorCode::NotLeaderOrFollower);
    assert_eq!(send(&mut cluster, new, group, 1), (ErrorCode::None, 1));
    assert_eq!(send(&mut cluster, new, group, 2), (ErrorCode::None, 2));

    // A producer of which nothing has come yet, too: its first batch is on its way.
    let first = |cluster: &mut Cluster, sequence| {
        let outcome = cluster.produce(new, group, idempotent(6, 0, sequence, 1), Acks::All);
        (outcome.error, outcome.base_offset.0)
    };
    assert_eq!(first(&mut cluster, 1).0, ErrorCode::NotLeaderOrFollower);
    assert_eq!(first(&mut cluster, 0), (ErrorCode::None, 3));
    assert_eq!(first(&mut cluster, 1), (ErrorCode::None, 4));

    // What does not close by itself is told, and what was idle for a day is taken.
    assert_eq!(send(&mut cluster, new, group, 9).0, ErrorCode::NotLeaderOrFollower);
    let idle = |cluster: &mut Cluster| cluster.produce(new, group, idempotent(7, 0, 9, 1), Acks::All).error;
    assert_eq!(idle(&mut cluster), ErrorCode::NotLeaderOrFollower);
    cluster.advance(2_500);
    assert_eq!(send(&mut cluster, new, group, 9).0, ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(idle(&mut cluster), ErrorCode::None);
    assert_eq!(cluster.read_all(group, 0), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn what_was_in_flight_and_survived_is_a_duplicate_at_the_new_leader() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    // The followers get the batch; the old leader never hears of it.
    cluster.lose = Some(Box::new(move |_, to, _| to == NodeId(old)));
    let call = cluster.ask_produce(old, group, idempotent(5, 0, 0, 1), Acks::All);
    cluster.settle();
    assert!(cluster.produced(old, call).is_none());
    cluster.kill(old, true);
    cluster.lose = None;
    let new = cluster.leader(group);
    assert_eq!(send(&mut cluster, new, group, 0), (ErrorCode::None, 0));
    assert_eq!(send(&mut cluster, new, group, 1), (ErrorCode::None, 1));
    assert_eq!(cluster.read_all(group, 0), [0, 1]);
}

#[test]
fn what_was_in_flight_and_is_lost_is_forgotten_with_its_offset() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    cluster.produce(old, group, records_of(&[b"first"], WALL_MS), Acks::All);
    cluster.isolate(old);
    let lost = cluster.ask_produce(old, group, idempotent(5, 0, 0, 1), Acks::All);
    cluster.advance(1_500);
    assert_eq!(cluster.produced(old, lost).expect("answered").error, ErrorCode::NotLeaderOrFollower);
    let new = cluster.leader(group);
    cluster.produce(new, group, records_of(&[b"a", b"b"], WALL_MS), Acks::All);
    cluster.heal();
    cluster.wait_until("its tail has given way", |cluster| cluster.high_watermark(old, group) == 3);
    transfer(&mut cluster, group, old);
    assert_eq!(send(&mut cluster, old, group, 0), (ErrorCode::None, 3), "it is new");
    assert_eq!(send(&mut cluster, old, group, 0), (ErrorCode::None, 3), "and known from then on");
    assert_eq!(send(&mut cluster, old, group, 1), (ErrorCode::None, 4));
    assert_eq!(cluster.read_all(group, 0), [0, 1, 2, 3, 4]);
}

#[test]
fn epochs_end_at_the_same_offsets_whoever_leads() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let mut ends = Vec::new();
    for _ in 0..3 {
        let leader = cluster.leader(group);
        cluster.produce(leader, group, records_of(&[b"a", b"b"], WALL_MS), Acks::All);
        let term = cluster[leader].shard.driver.leadership(group).expect("it leads").term();
        ends.push((term.leader_epoch(), cluster.high_watermark(leader, group)));
        cluster.kill(leader, true);
        cluster.leader(group);
        cluster.restart(leader);
        cluster.wait_until("it is back", |cluster| {
            cluster.high_watermark(leader, group) == ends.len() as i64 * 2
        });
    }
    let leader = cluster.leader(group);
    for (epoch, end) in ends {
        let query = EpochQuery { group, current_epoch: LeaderEpoch::UNKNOWN, epoch };
        match cluster.answer(leader, Request::EpochEnd(vec![query])) {
            Reply::EpochEnds(answers) => {
                assert_eq!(
                    (answers[0].error, answers[0].epoch, answers[0].end_offset.0),
                    (ErrorCode::None, epoch, end)
                );
            }
            other => panic!("an answer to OffsetForLeaderEpoch, not {other:?}"),
        }
    }
}
