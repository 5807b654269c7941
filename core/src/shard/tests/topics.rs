//! Topics come, change and go.

use bytes::BytesMut;
use chronik_net::codec::messages::create_partitions_request::CreatePartitionsTopic;
use chronik_net::codec::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use chronik_net::codec::messages::{
    CreatePartitionsRequest, DeleteTopicsRequest, IncrementalAlterConfigsRequest, TopicName,
};
use chronik_net::codec::{ErrorCode, StrBytes};
use chronik_wal::shard_wal::{shard_directory, slot_path};
use chronik_wal::types::{GroupId, KafkaOffset, ShardId};

use super::*;
use crate::metadata::state::Change;
use crate::shard::Event;
use crate::shard::controller::{AdminReply, AdminRequest};
use crate::shard::message::*;

fn delete(rig: &mut Rig) {
    let name = TopicName(StrBytes::from_static_str(TOPIC));
    let request = DeleteTopicsRequest::default().with_topic_names(vec![name]).with_timeout_ms(1_000);
    match rig.admin(AdminRequest::DeleteTopics(request, 3)) {
        AdminReply::DeleteTopics(response) => assert_eq!(response.responses[0].error_code, 0),
        other => panic!("an answer to DeleteTopics, not {other:?}"),
    }
}

fn value() -> BytesMut {
    records_of(&[b"value"], WALL_MS)
}

#[test]
fn a_topic_made_again_has_nothing_of_its_namesake() {
    let mut rig = Rig::new();
    let old = rig.topic(TOPIC, 2, &[]);
    rig.fill(old, 3, 10);
    rig.advance(1_000);
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 1);
    delete(&mut rig);
    assert_eq!(rig.produce(old, value()).error, ErrorCode::UnknownTopicOrPartition);
    assert!(rig.files(TOPIC, 0, "").is_empty(), "its files are gone");
    let new = rig.topic(TOPIC, 1, &[]);
    assert_ne!(new, old, "a group id is never used again");
    assert_eq!(rig.produce(new, value()).base_offset.0, 0);
    let mut rig = rig.crash();
    assert_eq!(rig.read_all(new, 0), [0]);
    assert_eq!(rig.fetch(old, 0).error, ErrorCode::UnknownTopicOrPartition);
    assert!(!rig.shard.partitions.contains_key(&old));
}

#[test]
fn what_waits_for_a_deleted_partition_is_answered() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 2, 10);
    rig.hold_turns = true;
    let produce = rig.ask(Request::Produce(slice(vec![(group, value())], Acks::All)));
    let items = vec![DeleteItem { group, before: KafkaOffset(1) }];
    let deletion = rig.ask(Request::DeleteRecords { items, timeout_ms: 60_000 });
    rig.settle();
    assert!(rig.replies.is_empty());
    // The deletion of the topic overtakes their turn.
    let change = Change::TopicDeleted(rig.state_topic(TOPIC));
    let snapshot = rig.shard.snapshot.clone();
    rig.handle(Event::Metadata(snapshot, vec![change].into()));
    rig.settle();
    assert!(
        matches!(rig.take(produce), Some(Reply::Produce(outcomes)) if outcomes[0].error != ErrorCode::None)
    );
    assert!(matches!(rig.take(deletion), Some(Reply::Deleted(outcomes)) if outcomes[0].is_err()));
    rig.hold_turns = false;
    rig.write_turn();
    rig.advance(1_000);
    assert!(rig.shard.produces.is_empty() && rig.shard.deletes.is_empty());
}

#[test]
fn a_drop_that_waits_for_a_deleted_partition_is_forgotten() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[("segment.bytes", "1048576")]);
    rig.fill(group, 25, 100 << 10);
    rig.advance(2_000);
    rig.hold_jobs = true;
    rig.fill(group, 1, 100);
    rig.advance(600);
    assert!(rig.delete_records(group, 15).is_ok());
    rig.settle();
    assert!(rig.shard.drops.is_in_the_way(group), "the drop waits for the write under way");
    delete(&mut rig);
    rig.hold_jobs = false;
    rig.run_jobs();
    rig.settle();
    assert!(!rig.shard.drops.is_in_the_way(group));
    rig.stop();
}

/// Else the next topic of that name could never write its files, nor its shard free its WAL.
#[test]
fn the_files_of_a_damaged_partition_go_with_its_topic() {
    let mut rig = Rig::new();
    let old = rig.topic(TOPIC, 1, &[]);
    for number in 0..10 {
        let text = format!("the value of number {number}");
        assert_eq!(rig.produce(old, records_of(&[text.as_bytes()], WALL_MS)).error, ErrorCode::None);
    }
    rig.checkpoint(old);
    let path = slot_path(&shard_directory(std::path::Path::new("/chronik"), ShardId(0)), 0);
    let contents = rig.disk.contents(&path).expect("the first segment");
    let needle = b"the value of number 3";
    let at = contents.windows(needle.len()).position(|window| window == needle).expect("it is there");
    rig.disk.flip_bit(&path, at as u64, 1);
    let mut rig = rig.crash();
    assert!(rig.shard.damaged.contains_key(&old));
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 1);
    delete(&mut rig);
    rig.settle();
    assert!(rig.files(TOPIC, 0, "").is_empty(), "{:?}", rig.files(TOPIC, 0, ""));
    let group = rig.topic(TOPIC, 1, &[]);
    assert_eq!(rig.produce(group, value()).base_offset.0, 0);
    rig.advance(1_000);
    let partition = &rig.shard.partitions[&group];
    assert_eq!(partition.files.written().index, partition.applied);
}

#[test]
fn partitions_are_added() {
    let mut rig = Rig::new();
    rig.topic(TOPIC, 1, &[]);
    let name = TopicName(StrBytes::from_static_str(TOPIC));
    let topic = CreatePartitionsTopic::default().with_name(name).with_count(3).with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
    match rig.admin(AdminRequest::CreatePartitions(request)) {
        AdminReply::CreatePartitions(response) => assert_eq!(response.results[0].error_code, 0),
        other => panic!("an answer to CreatePartitions, not {other:?}"),
    }
    let groups: Vec<GroupId> = (0..3).map(|number| rig.group(TOPIC, number)).collect();
    for group in &groups {
        assert_eq!(rig.produce(*group, value()).error, ErrorCode::None, "it leads at once");
    }
    let mut rig = rig.crash();
    for group in groups {
        assert_eq!(rig.read_all(group, 0), [0]);
    }
}

#[test]
fn a_changed_config_holds_at_once_and_after_a_start() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    assert_eq!(rig.produce(group, value()).error, ErrorCode::None);
    let config = AlterableConfig::default()
        .with_name(StrBytes::from_static_str("max.message.bytes"))
        .with_value(Some(StrBytes::from_static_str("10")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_static_str(TOPIC))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    match rig.admin(AdminRequest::IncrementalAlterConfigs(request)) {
        AdminReply::IncrementalAlterConfigs(response) => assert_eq!(response.responses[0].error_code, 0),
        other => panic!("an answer to IncrementalAlterConfigs, not {other:?}"),
    }
    assert_eq!(rig.produce(group, value()).error, ErrorCode::MessageTooLarge);
    let mut rig = rig.crash();
    assert_eq!(rig.produce(group, value()).error, ErrorCode::MessageTooLarge);
}
