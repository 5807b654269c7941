//! Requests and batches for the tests, and what is in the answers.

use bytes::{Bytes, BytesMut};
use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use chronik_net::codec::messages::{CreateTopicsRequest, TopicName};
use chronik_wal::batch;
use chronik_wal::compress::DecompressCaps;
use chronik_wal::records::{BatchBuilder, Records};
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch};

use super::WALL_MS;
use crate::shard::controller::AdminRequest;
use crate::shard::message::*;

/// CreateTopics for one topic of one partition.
pub(crate) fn create(name: &str) -> Request {
    creation(name, 1, &[])
}

pub(crate) fn creation(name: &str, partitions: i32, configs: &[(&str, &str)]) -> Request {
    creation_of(name, partitions, 1, configs)
}

pub(crate) fn creation_of(name: &str, partitions: i32, replicas: i16, configs: &[(&str, &str)]) -> Request {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let config = |(key, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_timeout_ms(5_000).with_topics(vec![topic]);
    Request::Admin { request: Box::new(AdminRequest::CreateTopics(request)), timeout_ms: 10_000 }
}

/// A produce request of these batches.
pub(crate) fn slice(batches: Vec<(GroupId, BytesMut)>, acks: Acks) -> ProduceSlice {
    let items = batches.into_iter().map(|(group, records)| ProduceItem { group, records });
    ProduceSlice { acks, timeout_ms: 5_000, items: items.collect() }
}

/// A batch of records with these values.
pub(crate) fn records_of(values: &[&[u8]], timestamp: i64) -> BytesMut {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(timestamp, None, Some(value));
    }
    builder.build().expect("a batch")
}

/// A batch of `count` records of an idempotent producer.
pub(crate) fn idempotent(producer: i64, epoch: i16, sequence: i32, count: usize) -> BytesMut {
    let mut builder = BatchBuilder::new().producer(producer, epoch, sequence);
    for _ in 0..count {
        builder.push(WALL_MS, None, Some(b"value"));
    }
    builder.build().expect("a batch")
}

pub(crate) fn fetch_item(group: GroupId, offset: i64) -> FetchItem {
    FetchItem {
        group,
        offset: KafkaOffset(offset),
        max_bytes: 1 << 20,
        current_epoch: LeaderEpoch::UNKNOWN,
        last_fetched_epoch: LeaderEpoch::UNKNOWN,
    }
}

/// A fetch that waits for at least one byte.
pub(crate) fn fetch_of(items: &[(GroupId, i64)], max_wait_ms: u32) -> FetchSlice {
    FetchSlice {
        min_bytes: 1,
        max_bytes: 8 << 20,
        max_wait_ms,
        isolation: Isolation::ReadUncommitted,
        items: items.iter().map(|(group, offset)| fetch_item(*group, *offset)).collect(),
    }
}

/// The offsets of the records in these pieces.
pub(crate) fn offsets_in(pieces: &[Bytes]) -> Vec<i64> {
    let mut offsets = Vec::new();
    for (_, batch) in pieces.iter().flat_map(|piece| batch::batches(piece)).map(|batch| batch.expect("sound"))
    {
        let records = Records::open(batch, &DecompressCaps::default()).expect("records");
        offsets.extend(records.into_iter().map(|record| record.expect("a record").offset.0));
    }
    offsets
}
