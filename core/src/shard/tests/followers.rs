//! Reading from replicas that do not lead (KIP-392), and leader epochs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch, NodeId};

use super::*;
use crate::config::layers::ConfigMap;
use crate::shard::message::*;

fn value() -> BytesMut {
    records_of(&[b"value"], WALL_MS)
}

fn racks(configs: ConfigMap) -> Cluster {
    let racks = [(1, "a"), (2, "b"), (3, "c")].map(|(node, rack)| (NodeId(node), rack.to_owned()));
    Cluster::with(&Setup { racks: BTreeMap::from(racks), configs, ..Setup::default() })
}

fn rack_aware() -> Cluster {
    let class = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    racks(ConfigMap::from([("replica.selector.class".to_owned(), class.to_owned())]))
}

fn rack_of(node: i32) -> &'static str {
    ["a", "b", "c"][node as usize - 1]
}

fn fetch_from(cluster: &mut Cluster, node: i32, item: FetchItem, rack: &str) -> FetchOutcome {
    let slice = FetchSlice { items: vec![item], ..fetch_of(&[], 0) };
    match cluster.answer(node, Request::FetchFrom { slice, rack: Arc::from(rack) }) {
        Reply::Fetch(mut outcomes) => outcomes.remove(0),
        other => panic!("an answer to Fetch, not {other:?}"),
    }
}

fn epoch(cluster: &Cluster, node: i32, group: GroupId) -> LeaderEpoch {
    cluster[node].shard.driver.leadership(group).expect("it is there").term().leader_epoch()
}

#[test]
fn a_consumer_is_sent_to_a_replica_in_sync_in_its_rack_and_reads_there() {
    let mut cluster = rack_aware();
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    let near = cluster.others(leader)[0];
    let before_ms = cluster.now.mono_ms;
    let call = cluster.ask_produce(leader, group, value(), Acks::All);
    cluster.settle();
    assert_eq!(cluster.produced(leader, call).expect("acknowledged").error, ErrorCode::None);
    let sent = fetch_from(&mut cluster, leader, fetch_item(group, 0), rack_of(near));
    assert_eq!((sent.error, sent.preferred, sent.bytes()), (ErrorCode::None, Some(NodeId(near)), 0));
    assert_eq!(cluster.now.mono_ms, before_ms);
    cluster.wait_until("it hears of the commit", |cluster| cluster.high_watermark(near, group) == 1);
    assert!(cluster.now.mono_ms - before_ms <= 100, "soon: {} ms", cluster.now.mono_ms - before_ms);
    let read = fetch_from(&mut cluster, near, fetch_item(group, 0), rack_of(near));
    assert_eq!((read.error, offsets_in(&read.records)), (ErrorCode::None, vec![0]));
    for rack in [rack_of(leader), "elsewhere"] {
        let own = fetch_from(&mut cluster, leader, fetch_item(group, 0), rack);
        assert_eq!((own.preferred, offsets_in(&own.records)), (None, vec![0]));
    }
    cluster.kill(near, true);
    let gone = fetch_from(&mut cluster, leader, fetch_item(group, 0), rack_of(near));
    assert_eq!(gone.preferred, None, "it is not in sync any more");
}

#[test]
fn nobody_is_sent_away_unless_the_broker_is_told_so() {
    let mut cluster = racks(ConfigMap::new());
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    cluster.produce(leader, group, value(), Acks::All);
    let near = cluster.others(leader)[0];
    let own = fetch_from(&mut cluster, leader, fetch_item(group, 0), rack_of(near));
    assert_eq!((own.preferred, offsets_in(&own.records)), (None, vec![0]));
}

#[test]
fn a_follower_knows_its_bounds_and_the_epoch() {
    let mut cluster = rack_aware();
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    let near = cluster.others(leader)[0];
    cluster.produce(leader, group, value(), Acks::All);
    cluster.advance(200);
    let ahead = fetch_from(&mut cluster, near, fetch_item(group, 5), rack_of(near));
    assert_eq!(ahead.error, ErrorCode::OffsetNotAvailable);
    let ahead = fetch_from(&mut cluster, leader, fetch_item(group, 5), rack_of(leader));
    assert_eq!(ahead.error, ErrorCode::OffsetOutOfRange);
    let end = fetch_from(&mut cluster, near, fetch_item(group, 1), rack_of(near));
    assert_eq!((end.error, end.high_watermark), (ErrorCode::None, KafkaOffset(1)));
    let unnamed = cluster.fetch(near, group, 0);
    assert_eq!(
        (unnamed.error, unnamed.leader.map(|hint| hint.node.0)),
        (ErrorCode::NotLeaderOrFollower, Some(leader))
    );
    let current = epoch(&cluster, near, group);
    for node in [leader, near] {
        let at = |epoch: i32| FetchItem { current_epoch: LeaderEpoch(epoch), ..fetch_item(group, 0) };
        let same = fetch_from(&mut cluster, node, at(current.0), rack_of(node));
        assert_eq!(same.error, ErrorCode::None);
        let newer = fetch_from(&mut cluster, node, at(current.0 + 1), rack_of(node));
        assert_eq!(newer.error, ErrorCode::UnknownLeaderEpoch);
        let older = fetch_from(&mut cluster, node, at(current.0 - 1), rack_of(node));
        assert_eq!(older.error, ErrorCode::FencedLeaderEpoch);
        assert_eq!(older.leader, Some(LeaderHint { node: NodeId(leader), epoch: current }));
    }
}

#[test]
fn a_fetch_that_waits_at_a_follower_is_woken_by_the_commit() {
    let mut cluster = rack_aware();
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    let near = cluster.others(leader)[0];
    let slice = fetch_of(&[(group, 0)], 5_000);
    let call = cluster[near].ask(Request::FetchFrom { slice, rack: Arc::from(rack_of(near)) });
    cluster.settle();
    cluster.produce(leader, group, value(), Acks::All);
    match cluster.answer_to(near, call) {
        Reply::Fetch(outcomes) => assert_eq!(offsets_in(&outcomes[0].records), [0]),
        other => panic!("an answer to Fetch, not {other:?}"),
    }
}

/// A quorum without the leader's own disk commits: followers may show what the leader has yet to apply. Whoever goes on from there
/// at the leader waits a moment, and must not be told that there is no such offset: a consumer would begin elsewhere.
#[test]
fn a_leader_with_a_slow_disk_never_calls_out_of_range_what_a_follower_has_shown() {
    let mut cluster = rack_aware();
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    let near = cluster.others(leader)[0];
    cluster[leader].hold_turns = true;
    let call = cluster.ask_produce(leader, group, value(), Acks::All);
    cluster.wait_until("it is committed", |cluster| cluster.high_watermark(near, group) == 1);
    assert_eq!(cluster.high_watermark(leader, group), 0, "its own disk has yet to have it");
    assert!(cluster.produced(leader, call).is_none());
    let read = fetch_from(&mut cluster, near, fetch_item(group, 0), rack_of(near));
    assert_eq!((read.error, offsets_in(&read.records)), (ErrorCode::None, vec![0]));
    let goes_on = cluster.fetch(leader, group, 1);
    assert_eq!((goes_on.error, goes_on.bytes()), (ErrorCode::None, 0));
    cluster[leader].hold_turns = false;
    cluster[leader].write_turn();
    cluster.wait_until("it has caught up", |cluster| cluster.high_watermark(leader, group) == 1);
}
