//! DescribeLogDirs: how much each partition holds on this node, and the room of its disk.
//!
//! Runs on the connection's shard; every shard tells the sizes of its own partitions. A node has one log directory.

use std::collections::BTreeMap;
use std::rc::Rc;

use chronik_net::codec::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use chronik_net::codec::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use chronik_net::codec::{Response, StrBytes};

use super::service::Broker;
use crate::shard::message::{Reply, Request as Question};

/// First version that tells the room of the disk.
const SPACE_FROM: i16 = 4;

/// Answers DescribeLogDirs.
pub async fn describe(broker: Rc<Broker>, version: i16, request: DescribeLogDirsRequest) -> Response {
    let asked: Vec<_> =
        broker.router.shards().map(|shard| broker.router.ask(shard, Question::Sizes).1).collect();
    let mut sizes = BTreeMap::new();
    for answer in asked {
        if let Some(Reply::Sizes(parts)) = answer.await {
            sizes.extend(parts.into_iter().map(|size| (size.group, size.bytes)));
        }
    }
    let snapshot = broker.router.snapshot();
    let mut topics = Vec::new();
    for view in snapshot.topics.values() {
        let wanted = |index: i32| match &request.topics {
            None => true,
            Some(topics) => topics
                .iter()
                .any(|topic| *topic.topic.as_str() == *view.name && topic.partitions.contains(&index)),
        };
        let partition = |(number, partition): (usize, &crate::metadata::snapshot::PartitionView)| {
            let index = number as i32;
            let bytes = sizes.get(&partition.group).filter(|_| wanted(index))?;
            Some(
                DescribeLogDirsPartition::default()
                    .with_partition_index(index)
                    .with_partition_size(i64::try_from(*bytes).unwrap_or(i64::MAX)),
            )
        };
        let partitions: Vec<_> = view.partitions.iter().enumerate().filter_map(partition).collect();
        if !partitions.is_empty() {
            let name = TopicName(StrBytes::from_string(view.name.to_string()));
            topics.push(DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions));
        }
    }
    let (total, usable) = if version >= SPACE_FROM { space(&broker) } else { (-1, -1) };
    let result = DescribeLogDirsResult::default()
        .with_log_dir(StrBytes::from_string(broker.data_dir.display().to_string()))
        .with_topics(topics)
        .with_total_bytes(total)
        .with_usable_bytes(usable);
    Response::DescribeLogDirs(DescribeLogDirsResponse::default().with_results(vec![result]))
}

/// Bytes of the data directory's file system, in all and free; −1 where it does not tell.
fn space(broker: &Broker) -> (i64, i64) {
    let Ok(stat) = rustix::fs::statvfs(&broker.data_dir) else { return (-1, -1) };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    (bytes(stat.f_blocks), bytes(stat.f_bavail))
}
