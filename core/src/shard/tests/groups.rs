//! Coordinators on their partitions: commits, loads, compaction.

use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::join_group_request::JoinGroupRequestProtocol;
use chronik_net::codec::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_net::codec::messages::offset_fetch_request::OffsetFetchRequestTopic;
use chronik_net::codec::messages::sync_group_request::SyncGroupRequestAssignment;
use chronik_net::codec::messages::{
    GroupId as GroupName, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest, TopicName,
};
use chronik_wal::types::{GroupId, KafkaOffset};

use super::*;
use crate::coordinator::{GroupRequest, GroupResponse, RequestKind};
use crate::metadata::names::CONSUMER_OFFSETS;
use crate::shard::ShardLimits;
use crate::shard::controller::AdminRequest;
use crate::shard::message::*;

fn setup() -> Setup {
    let mut setup = Setup::default();
    setup.configs.insert("offsets.topic.num.partitions".into(), "1".into());
    setup.configs.insert("offsets.topic.replication.factor".into(), "1".into());
    setup.configs.insert("group.initial.rebalance.delay.ms".into(), "0".into());
    setup
}

fn rig(setup: Setup) -> (Rig, GroupId) {
    let mut rig = Rig::with(setup);
    rig.topic(TOPIC, 1, &[]);
    rig.admin(AdminRequest::AutoCreate(vec![CONSUMER_OFFSETS.to_owned()]));
    let partition = rig.group(CONSUMER_OFFSETS, 0);
    (rig, partition)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn request(partition: GroupId, version: i16, kind: RequestKind) -> Request {
    let request = GroupRequest { version, client_id: text("client"), client_host: text("/127.0.0.1"), kind };
    Request::Group { partition, request: Box::new(request) }
}

fn commit(partition: GroupId, group: &str, offset: i64) -> Request {
    let row = OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(offset);
    let topic =
        OffsetCommitRequestTopic::default().with_name(TopicName(text(TOPIC))).with_partitions(vec![row]);
    let body = OffsetCommitRequest::default()
        .with_group_id(GroupName(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    request(partition, 8, RequestKind::OffsetCommit(body))
}

fn commit_code(reply: Option<Reply>) -> i16 {
    match reply {
        Some(Reply::Group(response)) => match *response {
            GroupResponse::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
            other => panic!("an answer to OffsetCommit, not {other:?}"),
        },
        other => panic!("an answer of a group, not {other:?}"),
    }
}

fn committed(rig: &mut Rig, partition: GroupId, group: &str) -> i64 {
    let topic =
        OffsetFetchRequestTopic::default().with_name(TopicName(text(TOPIC))).with_partition_indexes(vec![0]);
    let body =
        OffsetFetchRequest::default().with_group_id(GroupName(text(group))).with_topics(Some(vec![topic]));
    match rig.answer(request(partition, 5, RequestKind::OffsetFetch(body))) {
        Reply::Group(response) => match *response {
            GroupResponse::OffsetFetch(response) => {
                assert_eq!(response.error_code, 0);
                response.topics[0].partitions[0].committed_offset
            }
            other => panic!("an answer to OffsetFetch, not {other:?}"),
        },
        other => panic!("an answer of a group, not {other:?}"),
    }
}

#[test]
fn a_commit_goes_out_with_the_turn_that_takes_it_in() {
    let (mut rig, partition) = rig(setup());
    rig.hold_turns = true;
    let call = rig.ask(commit(partition, "g", 7));
    rig.step();
    assert!(rig.turn.is_some(), "it must not wait for another event");
    rig.settle();
    assert!(rig.take(call).is_none(), "answered when it is durable, not before");
    rig.hold_turns = false;
    rig.write_turn();
    rig.settle();
    assert_eq!(commit_code(rig.take(call)), 0);
    assert_eq!(committed(&mut rig, partition, "g"), 7);
}

#[test]
fn committed_offsets_are_loaded_after_a_start() {
    let limits =
        ShardLimits { tail_bytes_max: 64 << 10, write_behind_bytes: 8 << 10, ..Setup::default().limits };
    let (mut rig, partition) = rig(Setup { limits, ..setup() });
    for number in 0..600 {
        let group = format!("group-{}", number % 50);
        assert_eq!(commit_code(Some(rig.answer(commit(partition, &group, number)))), 0);
    }
    rig.advance(1_000);
    for _ in 0..2 {
        rig = rig.crash();
        for number in 550..600 {
            assert_eq!(committed(&mut rig, partition, &format!("group-{}", number % 50)), number);
        }
    }
}

#[test]
fn the_offsets_partition_is_kept_short_and_complete() {
    let limits = ShardLimits { coordinator_log_bytes: 16 << 10, ..Setup::default().limits };
    let (mut rig, partition) = rig(Setup { limits, ..setup() });
    let mut newest = [0; 7];
    for number in 1..=1_500_i64 {
        let which = (number % 7) as usize;
        assert_eq!(commit_code(Some(rig.answer(commit(partition, &format!("group-{which}"), number)))), 0);
        newest[which] = number;
        if number % 250 == 0 {
            rig = rig.crash();
            for (which, offset) in newest.iter().enumerate() {
                assert_eq!(committed(&mut rig, partition, &format!("group-{which}")), *offset);
            }
        }
    }
    let log = &rig.shard.partitions[&partition];
    assert!(log.log_start > KafkaOffset(1_000), "the log start follows: {:?}", log.log_start);
    assert!(log.high_watermark.0 - log.log_start.0 < 500);
}

#[test]
fn a_member_joins_and_its_group_is_there_after_a_start() {
    let (mut rig, partition) = rig(setup());
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let body = JoinGroupRequest::default()
        .with_group_id(GroupName(text("g")))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let call = rig.ask(request(partition, 3, RequestKind::JoinGroup(body)));
    rig.advance(100);
    let Some(Reply::Group(response)) = rig.take(call) else { panic!("answered") };
    let GroupResponse::JoinGroup(joined) = *response else { panic!("an answer to JoinGroup") };
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(joined.leader, joined.member_id);
}

#[test]
fn groups_end_with_their_partition_and_without_a_leak() {
    let (mut rig, partition) = rig(setup());
    rig.hold_turns = true;
    let call = rig.ask(commit(partition, "g", 7));
    rig.settle();
    rig.shard.remove_coordinator(partition);
    rig.settle();
    assert_ne!(commit_code(rig.take(call)), 0, "refused, not forgotten");
    rig.hold_turns = false;
    rig.write_turn();
    rig.settle();
    let call = rig.ask(commit(partition, "g", 8));
    rig.settle();
    assert_eq!(commit_code(rig.take(call)), 16, "NOT_COORDINATOR");
    assert_eq!(rig.shard.coordinators.waiting_count(), 0);
}

#[test]
fn commits_do_not_take_the_room_that_the_wal_needs_to_free_segments() {
    let (mut rig, partition) = rig(Setup { segments_kept: 1, wal_max_bytes: 4 << 20, ..setup() });
    // Nothing is freed while the clock stands still.
    let calls: Vec<Call> = (0..3_000)
        .map(|number| {
            let call = rig.ask(commit(partition, "g", number));
            rig.settle();
            call
        })
        .collect();
    assert!(rig.replies.len() < calls.len(), "some wait");
    rig.advance(1_000);
    for call in calls {
        assert_eq!(commit_code(rig.take(call)), 0);
    }
    assert_eq!(committed(&mut rig, partition, "g"), 2_999);
}

// --- three nodes

fn cluster() -> (Cluster, GroupId) {
    let mut setup = setup();
    setup.configs.insert("offsets.topic.replication.factor".into(), "3".into());
    let mut cluster = Cluster::with(&setup);
    cluster.topic(TOPIC, 1, &[]);
    cluster.admin(AdminRequest::AutoCreate(vec![CONSUMER_OFFSETS.to_owned()]));
    cluster.wait_until("the offsets topic is known everywhere", |cluster| {
        cluster.names().iter().all(|node| cluster[*node].shard.snapshot.topic(CONSUMER_OFFSETS).is_some())
    });
    let partition = cluster[1].group(CONSUMER_OFFSETS, 0);
    cluster.leader(partition);
    (cluster, partition)
}

fn of_group(reply: Reply) -> GroupResponse {
    match reply {
        Reply::Group(response) => *response,
        other => panic!("an answer of a group, not {other:?}"),
    }
}

/// Joins a group alone and gets an assignment. Gives the member's id.
fn join_and_sync(cluster: &mut Cluster, node: i32, partition: GroupId) -> StrBytes {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let body = JoinGroupRequest::default()
        .with_group_id(GroupName(text("g")))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let reply = cluster.answer(node, request(partition, 3, RequestKind::JoinGroup(body)));
    let GroupResponse::JoinGroup(joined) = of_group(reply) else { panic!("an answer to JoinGroup") };
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let member = joined.member_id;
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(member.clone())
        .with_assignment(bytes::Bytes::from_static(b"everything"));
    let body = SyncGroupRequest::default()
        .with_group_id(GroupName(text("g")))
        .with_generation_id(1)
        .with_member_id(member.clone())
        .with_assignments(vec![assignment]);
    let reply = cluster.answer(node, request(partition, 3, RequestKind::SyncGroup(body)));
    let GroupResponse::SyncGroup(synced) = of_group(reply) else { panic!("an answer to SyncGroup") };
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"everything"[..]));
    member
}

fn heartbeat(cluster: &mut Cluster, node: i32, partition: GroupId, member: &StrBytes) -> i16 {
    let body = HeartbeatRequest::default()
        .with_group_id(GroupName(text("g")))
        .with_generation_id(1)
        .with_member_id(member.clone());
    match of_group(cluster.answer(node, request(partition, 3, RequestKind::Heartbeat(body)))) {
        GroupResponse::Heartbeat(response) => response.error_code,
        other => panic!("an answer to Heartbeat, not {other:?}"),
    }
}

fn committed_at(cluster: &mut Cluster, node: i32, partition: GroupId) -> (i16, i64) {
    let topic =
        OffsetFetchRequestTopic::default().with_name(TopicName(text(TOPIC))).with_partition_indexes(vec![0]);
    let body =
        OffsetFetchRequest::default().with_group_id(GroupName(text("h"))).with_topics(Some(vec![topic]));
    match of_group(cluster.answer(node, request(partition, 5, RequestKind::OffsetFetch(body)))) {
        GroupResponse::OffsetFetch(response) => {
            let row = response.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset);
            (response.error_code, row)
        }
        other => panic!("an answer to OffsetFetch, not {other:?}"),
    }
}

#[test]
fn a_group_moves_with_its_partition_and_loses_neither_members_nor_commits() {
    let (mut cluster, partition) = cluster();
    let first = cluster.leader(partition);
    let member = join_and_sync(&mut cluster, first, partition);
    for offset in 1..=5 {
        assert_eq!(commit_code(Some(cluster.answer(first, commit(partition, "h", offset)))), 0);
    }
    cluster.kill(first, true);
    let second = cluster.leader(partition);
    assert_eq!(committed_at(&mut cluster, second, partition), (0, 5));
    assert_eq!(heartbeat(&mut cluster, second, partition, &member), 0, "member and generation go on");
    assert_eq!(commit_code(Some(cluster.answer(second, commit(partition, "h", 6)))), 0);
    cluster.restart(first);
    cluster.wait_until("it follows", |cluster| {
        cluster.high_watermark(first, partition) == cluster.high_watermark(second, partition)
    });
    assert_eq!(heartbeat(&mut cluster, first, partition, &member), 16, "NOT_COORDINATOR");
    // And back again, by a transfer this time.
    cluster.wait_until("it is in sync", |cluster| cluster.in_sync(second, partition).contains(&first));
    let to = Some(chronik_wal::types::NodeId(first));
    let moved = cluster.answer(second, Request::TransferLeader { group: partition, to });
    assert!(matches!(moved, Reply::Transferred(Ok(()))));
    assert_eq!(heartbeat(&mut cluster, first, partition, &member), 0);
    assert_eq!(committed_at(&mut cluster, first, partition), (0, 6));
    assert_eq!(committed_at(&mut cluster, second, partition).0, 16);
}

#[test]
fn what_a_coordinator_cut_off_has_under_way_is_answered_not_coordinator() {
    let (mut cluster, partition) = cluster();
    let old = cluster.leader(partition);
    assert_eq!(commit_code(Some(cluster.answer(old, commit(partition, "h", 1)))), 0);
    cluster.isolate(old);
    let lost = cluster[old].ask(commit(partition, "h", 2));
    cluster.advance(2_000);
    assert_eq!(commit_code(cluster[old].take(lost)), 16);
    let new = cluster.leader(partition);
    assert_eq!(committed_at(&mut cluster, new, partition), (0, 1));
    assert_eq!(commit_code(Some(cluster.answer(new, commit(partition, "h", 3)))), 0);
    assert_eq!(committed_at(&mut cluster, old, partition).0, 16);
    cluster.heal();
    cluster.wait_until("it follows", |cluster| {
        cluster.high_watermark(old, partition) == cluster.high_watermark(new, partition)
    });
    assert_eq!(cluster[old].shard.coordinators.waiting_count(), 0);
    assert_eq!(committed_at(&mut cluster, new, partition), (0, 3));
}
