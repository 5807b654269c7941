//! DescribeTopicPartitions 0 (KIP-966): topics in the order of their names, a page at a time.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::{NodeIds, PartitionRow, TOPIC_OPERATIONS};
use crate::metadata::names::{check_topic_name, is_internal};
use crate::metadata::snapshot::{Snapshot, TopicView};

/// Metadata's version in which a missing listener has an error of its own; this API is newer.
const AS_METADATA_VERSION: i16 = 13;

/// Answers a DescribeTopicPartitions request.
///
/// # Errors
/// INVALID_REQUEST for a cursor that points before the first partition: every topic asked for gets it, or, when none is
/// named, the connection is closed.
pub fn describe_topic_partitions(
    snapshot: &Snapshot,
    request: &DescribeTopicPartitionsRequest,
    listener: &str,
) -> Result<DescribeTopicPartitionsResponse, ResponseError> {
    let (from_topic, from_partition) = match &request.cursor {
        Some(cursor) if cursor.partition_index < 0 => return Err(ResponseError::InvalidRequest),
        Some(cursor) => (cursor.topic_name.to_string(), cursor.partition_index),
        None => (String::new(), 0),
    };
    let limit = request.response_partition_limit.min(snapshot.config.max_request_partition_size_limit).max(1);
    let mut page = Page {
        snapshot,
        listener,
        partitions_left: usize::try_from(limit).unwrap_or(1),
        response: DescribeTopicPartitionsResponse::default().with_next_cursor(None),
    };
    let first_partition = |name: &str| if name == from_topic { from_partition } else { 0 };
    if request.topics.is_empty() {
        for (name, view) in snapshot.topics.range_from(from_topic.as_str()) {
            if !page.add(name, Some(view), first_partition(name)) {
                break;
            }
        }
        return Ok(page.response);
    }
    let names: BTreeSet<&str> = request.topics.iter().map(|topic| &**topic.name).collect();
    for name in names.range(from_topic.as_str()..) {
        if !page.add(name, snapshot.topic(name).map(|view| &**view), first_partition(name)) {
            break;
        }
    }
    Ok(page.response)
}

/// The answer to a request as a whole refused: every topic that it names has the error.
#[must_use]
pub fn refused(
    request: &DescribeTopicPartitionsRequest,
    code: ResponseError,
) -> DescribeTopicPartitionsResponse {
    let topics = request.topics.iter().map(|topic| {
        DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(topic.name.clone()))
            .with_error_code(code.code())
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics.collect()).with_next_cursor(None)
}

struct Page<'a> {
    snapshot: &'a Snapshot,
    listener: &'a str,
    partitions_left: usize,
    response: DescribeTopicPartitionsResponse,
}

impl Page<'_> {
    /// Adds a topic from a partition on. Gives false when the page is full; then the cursor is set.
    fn add(&mut self, name: &str, view: Option<&TopicView>, from: i32) -> bool {
        let topic_name = TopicName(StrBytes::from_string(name.to_owned()));
        let row = DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(topic_name.clone()))
            .with_is_internal(is_internal(name))
            .with_topic_authorized_operations(TOPIC_OPERATIONS);
        let Some(view) = view else {
            let error = match check_topic_name(name) {
                Ok(()) => ResponseError::UnknownTopicOrPartition,
                Err(_) => ResponseError::InvalidTopicException,
            };
            self.response.topics.push(row.with_error_code(error.code()));
            return true;
        };
        if self.partitions_left == 0 {
            self.response.next_cursor = Some(cursor(topic_name, from));
            return false;
        }
        let skipped = usize::try_from(from).unwrap_or(0);
        let rows = (0i32..).zip(&view.partitions).skip(skipped).take(self.partitions_left);
        let partitions: Vec<_> = rows
            .map(|(number, partition)| {
                partition_row(PartitionRow::new(
                    self.snapshot,
                    self.listener,
                    AS_METADATA_VERSION,
                    number,
                    partition,
                    &BTreeSet::new(),
                ))
            })
            .collect();
        let next = skipped.saturating_add(partitions.len());
        self.partitions_left -= partitions.len();
        self.response.topics.push(row.with_topic_id(view.id).with_partitions(partitions));
        if next < view.partitions.len() {
            self.response.next_cursor = Some(cursor(topic_name, i32::try_from(next).unwrap_or(i32::MAX)));
            return false;
        }
        true
    }
}

fn cursor(topic: TopicName, partition: i32) -> Cursor {
    Cursor::default().with_topic_name(topic).with_partition_index(partition)
}

fn partition_row(row: PartitionRow) -> DescribeTopicPartitionsResponsePartition {
    let ids = |nodes: NodeIds| nodes.into_iter().map(BrokerId).collect::<Vec<_>>();
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(row.error_code)
        .with_partition_index(row.partition)
        .with_leader_id(BrokerId(row.leader_id))
        .with_leader_epoch(row.leader_epoch)
        .with_replica_nodes(ids(row.replicas))
        .with_isr_nodes(ids(row.in_sync))
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
        .with_offline_replicas(ids(row.offline))
}
