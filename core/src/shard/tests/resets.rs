//! Files that begin anew: after a new image of the metadata, after a snapshot.

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_wal::types::{GroupId, KafkaOffset, RaftIndex};

use super::*;
use crate::shard::message::*;

fn value(bytes: usize) -> BytesMut {
    records_of(&[&vec![7; bytes]], WALL_MS)
}

/// Has every member drop the metadata log before here.
fn ask_for_image(cluster: &mut Cluster) {
    let leader = cluster.leader(GroupId::METADATA);
    let shard = &mut cluster[leader].shard;
    let end = shard.driver.log_end_offset(GroupId::METADATA).expect("a log");
    shard.propose_trim(GroupId::METADATA, end);
}

/// Where the group's log begins on a node, or will once that is durable.
fn log_start(cluster: &Cluster, node: i32, group: GroupId) -> RaftIndex {
    cluster[node].shard.driver.log_start(group).expect("it is there").index
}

fn written(cluster: &Cluster, node: i32, group: GroupId) -> RaftIndex {
    cluster[node].shard.partitions[&group].files.written().index
}

/// A follower is still dropping its files for one image when the next one comes: nothing may be written, and leave memory, until
/// it has dropped them for that one as well.
#[test]
fn an_image_of_the_metadata_comes_while_the_files_are_dropped_for_the_one_before() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader(GroupId::METADATA);
    let follower = cluster.others(leader)[0];
    cluster.topic("one", 1, &[]);
    cluster[follower].hold_jobs = true;
    ask_for_image(&mut cluster);
    cluster.settle();
    let first = log_start(&cluster, follower, GroupId::METADATA);
    cluster.topic("two", 1, &[]);
    ask_for_image(&mut cluster);
    // The turn with the second image stays on its way while the files are dropped for the first.
    cluster[follower].hold_turns = true;
    loop {
        cluster.step();
        if log_start(&cluster, follower, GroupId::METADATA) > first {
            break;
        }
        assert!(cluster[follower].write_turn() | cluster.step(), "the second image is made");
    }
    cluster[follower].hold_jobs = false;
    cluster.settle();
    cluster.advance(1_000);
    assert_eq!(written(&cluster, follower, GroupId::METADATA), first, "what would be dropped at once");
    cluster[follower].hold_turns = false;
    cluster[follower].write_turn();
    cluster.topic("three", 1, &[]);
    cluster.advance(2_000);
    let second = log_start(&cluster, follower, GroupId::METADATA);
    assert!(second > first);
    let shard = &cluster[follower].shard;
    let partition = &shard.partitions[&GroupId::METADATA];
    assert_eq!(partition.files.start().index, second);
    assert_eq!(partition.files.written().index, partition.applied, "it is written as ever");
    cluster.kill(follower, true);
    cluster.restart(follower);
    let snapshot = &cluster[follower].shard.snapshot;
    assert!(["one", "two", "three"].iter().all(|name| snapshot.topic(name).is_some()), "all are there");
}

/// A follower whose files hold more than one segment gets a snapshot from far above them.
fn snapshot_over_old_segments(cluster: &mut Cluster) -> (GroupId, i32, i32) {
    let group = cluster.topic(TOPIC, 1, &[("segment.bytes", "1048576")]);
    let leader = cluster.leader(group);
    let follower = cluster.others(leader)[0];
    let fill = |cluster: &mut Cluster| {
        for _ in 0..30 {
            let outcome = cluster.produce(leader, group, value(100_000), Acks::All);
            assert_eq!(outcome.error, ErrorCode::None);
        }
        cluster.advance(2_000);
    };
    fill(cluster);
    assert_eq!(cluster[follower].files(TOPIC, 0, ".log").len(), 3);
    cluster.isolate(follower);
    fill(cluster);
    delete_before(cluster, leader, group, 55);
    assert!(log_start(cluster, leader, group) > written(cluster, follower, group));
    cluster[follower].hold_jobs = true;
    cluster.heal();
    cluster.wait_until("the snapshot is there", |cluster| {
        log_start(cluster, follower, group) > written(cluster, follower, group)
    });
    (group, leader, follower)
}

fn delete_before(cluster: &mut Cluster, leader: i32, group: GroupId, before: i64) {
    let items = vec![DeleteItem { group, before: KafkaOffset(before) }];
    let deleted = cluster.answer(leader, Request::DeleteRecords { items, timeout_ms: 5_000 });
    assert!(matches!(deleted, Reply::Deleted(outcomes) if outcomes[0] == Ok(KafkaOffset(before))));
    cluster.advance(1_000);
}

/// The segments that are about to go say nothing of the log that goes on elsewhere.
#[test]
fn the_log_start_moves_while_the_files_are_dropped_for_a_snapshot() {
    let mut cluster = Cluster::new();
    let (group, leader, follower) = snapshot_over_old_segments(&mut cluster);
    for _ in 0..3 {
        cluster.produce(leader, group, value(10), Acks::All);
    }
    delete_before(&mut cluster, leader, group, 61);
    cluster.wait_until("the follower has heard", |cluster| {
        cluster[follower].shard.partitions[&group].log_start == KafkaOffset(61)
    });
    cluster[follower].hold_jobs = false;
    cluster.advance(2_000);
    let partition = &cluster[follower].shard.partitions[&group];
    assert_eq!(partition.files.written().index, partition.applied, "it is written as ever");
    assert_eq!(cluster[follower].files(TOPIC, 0, ".log").len(), 1, "what was before is gone");
    cluster.kill(follower, true);
    cluster.restart(follower);
    cluster.advance(1_000);
    assert_eq!(cluster[follower].shard.partitions[&group].log_start, KafkaOffset(61));
    assert_eq!(cluster.read_all(group, 61), [61, 62]);
}
