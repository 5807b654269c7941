//! Proposals while a group hands its leadership over.

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_wal::types::GroupId;

use super::*;
use crate::shard::message::*;

fn value() -> BytesMut {
    records_of(&[b"value"], WALL_MS)
}

/// A cluster whose topic's leader has begun to hand over to a node that does not answer.
fn handing_over() -> (Cluster, GroupId, i32, i32) {
    let (mut cluster, group, leader) = Cluster::led();
    let other = cluster.others(leader)[0];
    cluster.pause(other);
    let members = &cluster[leader].shard.partitions[&group].members;
    let to = members.iter().find(|member| member.node.0 == other).expect("a replica").peer;
    assert!(cluster[leader].shard.driver.transfer_leader(group, to));
    (cluster, group, leader, other)
}

#[test]
fn proposals_wait_and_are_refused_with_the_new_leader_when_it_is_there() {
    let (mut cluster, group, leader, other) = handing_over();
    let call = cluster.ask_produce(leader, group, value(), Acks::All);
    cluster.advance(20);
    assert!(cluster.produced(leader, call).is_none(), "it waits");
    cluster.resume(other);
    cluster.settle();
    assert_eq!(cluster.leader(group), other);
    let outcome = cluster.produced(leader, call).expect("it is told at once");
    assert_eq!(outcome.error, ErrorCode::NotLeaderOrFollower);
    assert_eq!(outcome.leader.map(|hint| hint.node.0), Some(other));
    assert_eq!(cluster.produce(other, group, value(), Acks::All).base_offset.0, 0);
}

#[test]
fn proposals_go_on_in_order_when_nothing_comes_of_the_transfer() {
    let (mut cluster, group, leader, _) = handing_over();
    let calls: Vec<Call> = (0..3).map(|_| cluster.ask_produce(leader, group, value(), Acks::All)).collect();
    cluster.advance(20);
    cluster.advance(700);
    assert_eq!(cluster.leader(group), leader, "the transfer was given up");
    for (offset, call) in (0..).zip(calls) {
        let outcome = cluster.produced(leader, call).expect("answered");
        assert_eq!((outcome.error, outcome.base_offset.0), (ErrorCode::None, offset));
    }
    assert!(cluster[leader].shard.produces.is_empty());
}

#[test]
fn what_timed_out_while_it_waited_is_never_written() {
    let (mut cluster, group, leader, _) = handing_over();
    let slice = ProduceSlice { timeout_ms: 100, ..slice(vec![(group, value())], Acks::All) };
    let call = cluster[leader].ask(Request::Produce(slice));
    cluster.advance(150);
    let outcome = cluster.produced(leader, call).expect("its time is up");
    assert_eq!(outcome.error, ErrorCode::RequestTimedOut);
    cluster.advance(700);
    assert_eq!(cluster.high_watermark(leader, group), 0);
    assert_eq!(cluster[leader].shard.held.bytes(), 0);
}
