//! Batches out of sequence: only a leader that its quorum has just confirmed says so.

use chronik_net::codec::ErrorCode;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::NodeId;

use super::*;
use crate::shard::message::*;

#[test]
fn a_deposed_leader_calls_nothing_out_of_order() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    let old = cluster.leader(group);
    assert_eq!(cluster.produce(old, group, idempotent(5, 0, 0, 2), Acks::All).error, ErrorCode::None);
    cluster.isolate(old);
    cluster.notice_down(NodeId(old), true);
    cluster.wait_until("another leads", |cluster| cluster.leader_now(group) != Some(old));
    let new = cluster.leader(group);
    assert_eq!(cluster.produce(new, group, idempotent(5, 0, 2, 1), Acks::All).error, ErrorCode::None);
    let believes = cluster[old].shard.driver.leadership(group);
    assert!(matches!(believes, Some(Leadership::Leader { .. })), "{believes:?}");

    // What it has heard of its quorum is young still, but from before.
    let outcome = cluster.produce(old, group, idempotent(5, 0, 3, 1), Acks::All);
    assert_eq!(outcome.error, ErrorCode::NotLeaderOrFollower);
    assert_eq!(cluster.produce(new, group, idempotent(5, 0, 3, 1), Acks::All).error, ErrorCode::None);
    assert_eq!(cluster[old].shard.doubts.bytes(), 0);
}

#[test]
fn a_leader_says_so_once_its_quorum_has_answered() {
    let (mut cluster, group, leader) = Cluster::led();
    assert_eq!(cluster.produce(leader, group, idempotent(5, 0, 0, 2), Acks::All).error, ErrorCode::None);
    for rest_ms in [0, 10_000] {
        cluster.advance(rest_ms);
        // The second comes while the question for the first is under way.
        let asked = [9, 12]
            .map(|sequence| cluster.ask_produce(leader, group, idempotent(5, 0, sequence, 1), Acks::All));
        let retried = cluster.ask_produce(leader, group, idempotent(5, 0, 0, 2), Acks::All);
        cluster.settle();
        for call in asked {
            let outcome = cluster.produced(leader, call).expect("after a round trip or two");
            assert_eq!(outcome.error, ErrorCode::OutOfOrderSequenceNumber);
        }
        let outcome = cluster.produced(leader, retried).expect("answered");
        assert_eq!((outcome.error, outcome.base_offset.0), (ErrorCode::None, 0));
    }
    assert_eq!(cluster[leader].shard.doubts.bytes(), 0);
}
