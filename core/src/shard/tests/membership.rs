//! Replicas that come and go while clients work.

use bytes::BytesMut;
use chronik_net::codec::messages::AlterPartitionReassignmentsRequest;
use chronik_net::codec::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use chronik_net::codec::messages::{BrokerId, TopicName};
use chronik_net::codec::{ErrorCode, StrBytes};
use chronik_wal::types::{GroupId, KafkaOffset, NodeId};

use super::*;
use crate::shard::controller::{AdminReply, AdminRequest};
use crate::shard::message::*;

fn value(bytes: usize) -> BytesMut {
    records_of(&[&vec![7; bytes]], WALL_MS)
}

/// Asks for other replicas of the topic's partition 0.
fn reassign(cluster: &mut Cluster, nodes: &[i32]) {
    reassign_partition(cluster, 0, nodes);
}

fn reassign_partition(cluster: &mut Cluster, number: i32, nodes: &[i32]) {
    let replicas = nodes.iter().map(|node| BrokerId(*node)).collect();
    let partition =
        ReassignablePartition::default().with_partition_index(number).with_replicas(Some(replicas));
    let topic = ReassignableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let AdminReply::Reassign(response) = cluster.admin(AdminRequest::Reassign(request)) else {
        panic!("an answer to AlterPartitionReassignments")
    };
    assert_eq!(response.responses[0].partitions[0].error_code, 0, "{response:?}");
}

/// The nodes that hold a replica.
fn holders(cluster: &Cluster, group: GroupId) -> Vec<i32> {
    let holds = |node: &i32| cluster[*node].shard.partitions.contains_key(&group);
    cluster.names().into_iter().filter(holds).collect()
}

/// Waits until the placement is complete, producing all the while. Gives how many records were acknowledged.
fn reach(cluster: &mut Cluster, group: GroupId, nodes: &[i32]) -> usize {
    let mut acknowledged = 0;
    for _ in 0..1_000 {
        let leader = cluster.leader(group);
        let outcome = cluster.produce(leader, group, value(10), Acks::All);
        acknowledged += usize::from(outcome.error == ErrorCode::None);
        let view = cluster[1].shard.snapshot.topic(TOPIC).expect("it is there").partitions[0].clone();
        let placed: Vec<i32> = view.replicas.iter().map(|replica| replica.node.0).collect();
        if placed == nodes && !view.is_reassigning() {
            cluster.settle();
            return acknowledged;
        }
        cluster.advance(10);
    }
    panic!("{nodes:?} is never reached");
}

#[test]
fn a_partition_grows_from_one_node_to_three() {
    let mut cluster = Cluster::new();
    let group = cluster.topic_of(TOPIC, 1, 1, &[]);
    let leader = cluster.leader(group);
    for _ in 0..20 {
        cluster.produce(leader, group, value(10), Acks::All);
    }
    reassign(&mut cluster, &[leader, leader % 3 + 1, (leader + 1) % 3 + 1]);
    let target = [leader, leader % 3 + 1, (leader + 1) % 3 + 1];
    let more = reach(&mut cluster, group, &target);
    assert_eq!(holders(&cluster, group), [1, 2, 3]);
    cluster.wait_until("all are in sync", |cluster| cluster.in_sync(leader, group).len() == 3);
    cluster.kill(leader, true);
    assert_eq!(cluster.read_all(group, 0).len(), 20 + more);
}

/// Whether all partitions of the topic have these replicas, as node 1 says.
fn all_are_on(cluster: &Cluster, nodes: &[i32]) -> bool {
    let views = &cluster[1].shard.snapshot.topic(TOPIC).expect("it is there").partitions;
    let mut nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
    nodes.sort_unstable();
    views.iter().all(|view| {
        let mut placed: Vec<NodeId> = view.replicas.iter().map(|replica| replica.node).collect();
        placed.sort_unstable();
        placed == nodes && !view.is_reassigning()
    })
}

/// More partitions than are filled at a time, each with two replicas to come, and nobody who produces.
#[test]
fn many_partitions_that_rest_grow_from_one_node_to_three() {
    let mut cluster = Cluster::new();
    cluster.topic_of(TOPIC, 24, 1, &[]);
    cluster.advance(1_000);
    for number in 0..24 {
        reassign_partition(&mut cluster, number, &[1, 2, 3]);
    }
    cluster.wait_until("all have grown", |cluster| all_are_on(cluster, &[1, 2, 3]));
}

/// What is to come to a node that is down holds up nothing that comes to another.
#[test]
fn a_node_that_is_down_holds_up_only_what_is_to_come_there() {
    let mut cluster = Cluster::new();
    let controller = cluster.leader(GroupId::METADATA);
    let victim = cluster.others(controller)[0];
    let other = cluster.others(controller)[1];
    cluster.topic_of(TOPIC, 24, 1, &[]);
    cluster.kill(victim, true);
    cluster.advance(1_000);
    let snapshot = cluster[controller].shard.snapshot.clone();
    let views = snapshot.topic(TOPIC).expect("it is there").partitions.clone();
    let alive = (0..).zip(&views).filter(|(_, view)| view.replicas[0].node != NodeId(victim));
    let alive: Vec<i32> = alive.map(|(number, _)| number).collect();
    assert!(alive.len() > 8, "more than are filled at a time: {alive:?}");
    for number in &alive {
        reassign_partition(&mut cluster, *number, &[victim, controller, other]);
    }
    cluster.wait_until("the live ones have all", |cluster| {
        alive.iter().all(|number| {
            let group = views[*number as usize].group;
            let Some(leader) = cluster.leader_now(group) else { return false };
            let configuration = cluster[leader].shard.driver.configuration(group);
            configuration.is_some_and(|members| members.get_voters().len() == 2)
        })
    });
    cluster.restart(victim);
    cluster.wait_until("the one that was down has all", |cluster| {
        let views = &cluster[controller].shard.snapshot.topic(TOPIC).expect("it is there").partitions;
        alive.iter().all(|number| {
            let view = &views[*number as usize];
            view.replicas.len() == 3 && !view.is_reassigning()
        })
    });
}

#[test]
fn a_partition_moves_to_other_nodes_and_its_leader_goes_last() {
    let mut cluster = Cluster::new();
    let group = cluster.topic_of(TOPIC, 1, 1, &[]);
    let old = cluster.leader(group);
    for _ in 0..20 {
        cluster.produce(old, group, value(10), Acks::All);
    }
    let others = cluster.others(old);
    reassign(&mut cluster, &others);
    let more = reach(&mut cluster, group, &others);
    cluster.wait_until("it has let go", |cluster| holders(cluster, group) == others);
    assert_eq!(cluster.read_all(group, 0).len(), 20 + more);
    let leader = cluster.leader(group);
    let voters = cluster[leader].shard.driver.configuration(group).expect("it is there").voters.len();
    assert_eq!(voters, 2);
    cluster.kill(old, true);
    assert_eq!(cluster.produce(leader, group, value(10), Acks::All).error, ErrorCode::None);
}

/// Whenever it is wanted back: it may be out of Raft by then, and the metadata then list nothing that is to come.
#[test]
fn a_replica_that_was_to_go_comes_back_when_it_is_wanted_after_all() {
    for wait_ms in [0, 40, 80, 120, 160, 200, 300] {
        let mut cluster = Cluster::new();
        let group = cluster.topic_of(TOPIC, 1, 3, &[]);
        let leader = cluster.leader(group);
        let goes = cluster.others(leader)[1];
        let stays = [leader, cluster.others(leader)[0]];
        let all = [stays[0], stays[1], goes];
        reassign(&mut cluster, &stays);
        cluster.advance(wait_ms);
        reassign(&mut cluster, &all);
        cluster.wait_until("all vote", |cluster| {
            let configuration = cluster[leader].shard.driver.configuration(group);
            let all_vote = configuration.is_some_and(|members| members.get_voters().len() == 3);
            all_vote && !cluster[leader].shard.driver.is_changing_members(group) && all_are_on(cluster, &all)
        });
        cluster.advance(3_000);
        let configuration = cluster[leader].shard.driver.configuration(group).expect("it is there");
        assert_eq!(configuration.get_voters().len(), 3, "{wait_ms} ms: {configuration:?}");
    }
}

/// What is below the log start, and what only files have, comes to a new replica as a snapshot and as reads from files.
#[test]
fn a_new_replica_is_filled_from_the_log_start_on() {
    let limits = crate::shard::ShardLimits { tail_bytes_max: 512 << 10, ..Setup::default().limits };
    let mut cluster = Cluster::with(&Setup { limits, ..Setup::default() });
    let group = cluster.topic_of(TOPIC, 1, 1, &[("segment.bytes", "1048576")]);
    let leader = cluster.leader(group);
    for _ in 0..30 {
        cluster.produce(leader, group, value(100_000), Acks::All);
        cluster.advance(50);
    }
    cluster.advance(2_000);
    let items = vec![DeleteItem { group, before: KafkaOffset(15) }];
    let deleted = cluster.answer(leader, Request::DeleteRecords { items, timeout_ms: 5_000 });
    assert!(matches!(deleted, Reply::Deleted(outcomes) if outcomes[0] == Ok(KafkaOffset(15))));
    cluster.advance(1_000);
    let start = cluster[leader].shard.driver.log_start(group).expect("it is there");
    assert!(start.index.0 > 0, "the log begins later");
    let target = [leader, leader % 3 + 1];
    reassign(&mut cluster, &target);
    let more = reach(&mut cluster, group, &target) as i64;
    cluster.wait_until("it is filled", |cluster| cluster.high_watermark(target[1], group) == 30 + more);
    cluster.wait_until("it is in sync", |cluster| cluster.in_sync(leader, group).len() == 2);
    match cluster.answer(leader, Request::TransferLeader { group, to: Some(NodeId(target[1])) }) {
        Reply::Transferred(result) => assert_eq!(result, Ok(())),
        other => panic!("an answer to TransferLeader, not {other:?}"),
    }
    assert_eq!(cluster.leader(group), target[1]);
    assert_eq!(cluster.read_all(group, 15), (15..30 + more).collect::<Vec<_>>());
    assert_eq!(cluster[target[1]].shard.partitions[&group].log_start, KafkaOffset(15));
}
