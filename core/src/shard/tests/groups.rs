//! Coordinators on their partitions: commits, loads, compaction.

use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::join_group_request::JoinGroupRequestProtocol;
use chronik_net::codec::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_net::codec::messages::offset_fetch_request::OffsetFetchRequestTopic;
use chronik_net::codec::messages::{
    GroupId as GroupName, JoinGroupRequest, OffsetCommitRequest, OffsetFetchRequest, TopicName,
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
        let call = rig.ask(commit(partition, &group, number));
        rig.settle();
        assert_eq!(commit_code(rig.take(call)), 0);
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
        let call = rig.ask(commit(partition, &format!("group-{which}"), number));
        rig.settle();
        assert_eq!(commit_code(rig.take(call)), 0);
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
