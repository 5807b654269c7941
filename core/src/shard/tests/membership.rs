//! Replicas that come and go while clients work.

use bytes::BytesMut;
use chronik_net::codec::messages::AlterPartitionReassignmentsRequest;
use chronik_net::codec::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use chronik_net::codec::messages::{BrokerId, TopicName};
use chronik_net::codec::{ErrorCode, StrBytes};
use chronik_raft::eraftpb::MessageType;
use chronik_wal::shard_wal::{shard_directory, slot_path};
use chronik_wal::types::{GroupId, KafkaOffset, NodeId, ShardId};

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

/// The members are those that are wanted while the one that was called off is on its way into Raft: once it is in, it has to go.
#[test]
fn a_replica_that_is_called_off_while_it_joins_is_not_left_behind() {
    let mut cluster = Cluster::new();
    let group = cluster.topic_of(TOPIC, 1, 2, &[]);
    let leader = cluster.leader(group);
    let views =
        |cluster: &Cluster| cluster[leader].shard.snapshot.topic(TOPIC).expect("there").partitions[0].clone();
    let stay: Vec<i32> = views(&cluster).replicas.iter().map(|replica| replica.node.0).collect();
    let comes = cluster.names().into_iter().find(|node| !stay.contains(node)).expect("a third node");
    // Nothing is committed, and everybody hears from the leader.
    cluster.lose = Some(Box::new(move |_, _, message| match message {
        PeerMessage::Raft { group: of, message } => {
            *of == group && message.get_msg_type() == MessageType::MsgAppend
        }
        _ => false,
    }));
    reassign(&mut cluster, &[stay[0], stay[1], comes]);
    let is_changing = |cluster: &Cluster| cluster[leader].shard.driver.is_changing_members(group);
    cluster.wait_until("it is to come", is_changing);
    reassign(&mut cluster, &stay);
    cluster.advance(400);
    assert!(is_changing(&cluster) && cluster.leader(group) == leader, "it is still on its way");
    cluster.lose = None;
    cluster.wait_until("the placement is complete", |cluster| {
        !views(cluster).is_reassigning() && !is_changing(cluster)
    });
    cluster.advance(3_000);
    let members = cluster[leader].shard.driver.configuration(group).expect("it is there");
    assert_eq!((members.get_voters().len(), members.get_learners()), (2, &[][..]), "{members:?}");
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

/// It would take the members that it was told for others on the way, had it no word of how far they are behind it.
#[test]
fn a_joiner_that_is_filled_from_the_log_does_not_live_through_old_members_again() {
    let mut cluster = Cluster::new();
    let group = cluster.topic_of(TOPIC, 1, 1, &[]);
    let first = cluster.leader(group);
    let (second, third) = (cluster.others(first)[0], cluster.others(first)[1]);
    let mut acknowledged = 0;
    for target in [vec![first, second], vec![second]] {
        reassign(&mut cluster, &target);
        acknowledged += reach(&mut cluster, group, &target);
    }
    let state_of = |cluster: &Cluster, node: i32| {
        let driver = &cluster[node].shard.driver;
        driver.state(group).map(|state| (state.configuration_index, driver.log_start(group)))
    };
    let Some((told, log_start)) = state_of(&cluster, second) else { panic!("it leads") };
    assert!(told.0 >= 5, "a learner, a voter, another learner less and so on: {told}");
    assert_eq!(log_start.map(|start| start.index.0), Some(0), "no snapshot will be sent");
    reassign(&mut cluster, &[second, third]);
    cluster.wait_until("it begins", |cluster| state_of(cluster, third).is_some());
    let voters = |cluster: &Cluster, node: i32| {
        let members = cluster[node].shard.driver.configuration(group).expect("it is there");
        members.get_voters().iter().copied().collect::<std::collections::BTreeSet<u64>>()
    };
    let mut power_cut = false;
    for _ in 0..400 {
        if let Some((index, _)) = state_of(&cluster, third) {
            assert!(index >= told, "as of {index}, and was told {told}");
            if !power_cut && index > told {
                power_cut = true;
                cluster.kill(third, true);
                cluster.restart(third);
            }
        }
        cluster.advance(5);
    }
    acknowledged += reach(&mut cluster, group, &[second, third]);
    assert!(power_cut);
    assert_eq!(voters(&cluster, third), voters(&cluster, second));
    assert_eq!(voters(&cluster, third).len(), 2);
    cluster.wait_until("it is in sync", |cluster| cluster.in_sync(second, group).len() == 2);
    assert_eq!(cluster.read_all(group, 0).len(), acknowledged);
}

/// The snapshot was taken where the log ended later than it does here until its entries have come. A power cut in between, at
/// whichever step, must not make the producers unknown whose batches are all below the log start.
#[test]
fn producers_below_the_log_start_are_known_after_a_power_cut_while_a_snapshot_is_installed() {
    for steps in 0..8 {
        let limits = crate::shard::ShardLimits { tail_bytes_max: 512 << 10, ..Setup::default().limits };
        let mut cluster = Cluster::with(&Setup { limits, ..Setup::default() });
        let group = cluster.topic_of(TOPIC, 1, 1, &[("segment.bytes", "1048576")]);
        let leader = cluster.leader(group);
        let old = |cluster: &mut Cluster, node| {
            let outcome = cluster.produce(node, group, idempotent(5, 0, 0, 1), Acks::All);
            (outcome.error, outcome.base_offset.0)
        };
        assert_eq!(old(&mut cluster, leader), (ErrorCode::None, 0));
        for sequence in 0..24 {
            cluster.produce(leader, group, value(100_000), Acks::All);
            cluster.produce(leader, group, idempotent(6, 0, sequence, 1), Acks::All);
            cluster.advance(50);
        }
        cluster.advance(2_000);
        let items = vec![DeleteItem { group, before: KafkaOffset(24) }];
        let deleted = cluster.answer(leader, Request::DeleteRecords { items, timeout_ms: 5_000 });
        assert!(matches!(deleted, Reply::Deleted(outcomes) if outcomes[0] == Ok(KafkaOffset(24))));
        cluster.advance(1_000);
        let start = |cluster: &Cluster, node: i32| {
            cluster[node].shard.driver.log_start(group).map_or(0, |start| start.index.0)
        };
        assert!(start(&cluster, leader) > 0, "the log begins later");
        let target = [leader, leader % 3 + 1];
        let joiner = target[1];
        // The snapshot arrives, and nothing after it.
        let mut is_sent = false;
        cluster.lose = Some(Box::new(move |_, to, message| {
            let PeerMessage::Raft { group: of, message } = message else { return false };
            if *of != group || to != NodeId(joiner) {
                return false;
            }
            is_sent |= message.get_msg_type() == MessageType::MsgSnapshot;
            is_sent && message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty()
        }));
        reassign(&mut cluster, &target);
        for _ in 0..100_000 {
            if start(&cluster, joiner) > 0 {
                break;
            }
            if !cluster.step() {
                cluster.advance(5);
            }
        }
        assert!(start(&cluster, joiner) > 0, "the snapshot is there");
        for _ in 0..steps {
            cluster.step();
        }
        cluster.kill(joiner, true);
        cluster.lose = None;
        cluster.advance(100);
        cluster.restart(joiner);
        reach(&mut cluster, group, &target);
        cluster.wait_until("it is in sync", |cluster| cluster.in_sync(leader, group).len() == 2);
        match cluster.answer(leader, Request::TransferLeader { group, to: Some(NodeId(joiner)) }) {
            Reply::Transferred(result) => assert_eq!(result, Ok(())),
            other => panic!("an answer to TransferLeader, not {other:?}"),
        }
        assert_eq!(cluster.leader(group), joiner);
        assert_eq!(old(&mut cluster, joiner), (ErrorCode::None, 0), "after {steps} steps");
        let next = cluster.produce(joiner, group, idempotent(6, 0, 24, 1), Acks::All);
        assert_eq!(next.error, ErrorCode::None);
    }
}

/// With its log its vote is gone: an empty one under the same id could vote and acknowledge again (SAFETY.md, rule 8).
#[test]
fn a_damaged_replica_begins_nothing_anew_under_its_old_id_when_others_come_or_go() {
    let (mut cluster, group, leader) = Cluster::led();
    let controller = cluster.leader(GroupId::METADATA);
    let damaged =
        cluster.others(leader).into_iter().find(|node| *node != controller).expect("it leads nothing");
    for number in 0..10 {
        let text = format!("the value of number {number}");
        let sent = cluster.produce(leader, group, records_of(&[text.as_bytes()], WALL_MS), Acks::All);
        assert_eq!(sent.error, ErrorCode::None);
        cluster.advance(20);
    }
    let peer_of = |cluster: &Cluster| cluster[damaged].shard.driver.state(group).map(|state| state.peer);
    let old = peer_of(&cluster).expect("it has a replica");
    cluster.kill(damaged, true);
    let path = slot_path(&shard_directory(std::path::Path::new("/chronik"), ShardId(0)), 0);
    let contents = cluster[damaged].disk.contents(&path).expect("the first segment");
    let needle = b"the value of number 3";
    let at = contents.windows(needle.len()).position(|window| window == needle).expect("it is there");
    cluster[damaged].disk.flip_bit(&path, at as u64, 1);
    // It cannot ask for another id for now.
    cluster.lose = Some(Box::new(move |from, _, message| {
        from == NodeId(damaged) && matches!(message, PeerMessage::Ask { .. })
    }));
    cluster.restart(damaged);
    let is_damaged = |cluster: &Cluster| cluster[damaged].shard.damaged.contains_key(&group);
    assert!(is_damaged(&cluster) && peer_of(&cluster).is_none());
    reassign(&mut cluster, &[leader, damaged]);
    cluster.wait_until("it hears of the placement", |cluster| {
        let snapshot = &cluster[damaged].shard.snapshot;
        snapshot.topic(TOPIC).is_some_and(|topic| topic.partitions[0].is_reassigning())
    });
    cluster.advance(500);
    assert!(is_damaged(&cluster) && peer_of(&cluster).is_none(), "{:?} under its old id", peer_of(&cluster));
    cluster.lose = None;
    cluster.wait_until("it has another id", |cluster| peer_of(cluster).is_some());
    assert_ne!(peer_of(&cluster), Some(old));
    cluster.wait_until("it has all", |cluster| cluster.high_watermark(damaged, group) == 10);
}
