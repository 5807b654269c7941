//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords: split by owning shard, answered in the request's order.
//!
//! Runs on the connection's shard.

use std::rc::Rc;

use chronik_net::codec::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use chronik_net::codec::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use chronik_net::codec::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use chronik_net::codec::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};
use chronik_net::codec::{ErrorCode, Response};
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch, ShardId};

use super::service::{Broker, resolve_name};
use crate::shard::message::{
    DeleteItem, EpochAnswer, EpochQuery, Isolation, OffsetAnswer, OffsetQuery, Reply, Request as Question,
};

/// Asks each owning shard about its items; the answers are in the order of `items`, none where a shard has none.
async fn scatter<I: Copy, A>(
    broker: &Rc<Broker>,
    items: &[(GroupId, I)],
    question: impl Fn(Vec<I>) -> Question,
    answers_of: impl Fn(Reply) -> Vec<A>,
) -> Vec<Option<A>> {
    let mut slices: Vec<(Vec<I>, Vec<usize>)> =
        broker.router.shards().map(|_| (Vec::new(), Vec::new())).collect();
    for (place, (group, item)) in items.iter().enumerate() {
        let (slice, places) = &mut slices[usize::from(broker.router.owner(*group).0)];
        slice.push(*item);
        places.push(place);
    }
    let mut asked = Vec::new();
    for (shard, (slice, places)) in slices.into_iter().enumerate() {
        if !slice.is_empty() {
            asked.push((places, broker.router.ask(ShardId(shard as u16), question(slice)).1));
        }
    }
    let mut answers: Vec<Option<A>> = items.iter().map(|_| None).collect();
    for (places, answer) in asked {
        let Some(reply) = answer.await else { continue };
        for (place, answer) in places.into_iter().zip(answers_of(reply)) {
            answers[place] = Some(answer);
        }
    }
    answers
}

/// First ListOffsets version whose answer has a leader epoch.
const LIST_EPOCH_FROM: i16 = 4;

/// ListOffsets.
pub async fn list(broker: Rc<Broker>, version: i16, request: ListOffsetsRequest) -> Response {
    let snapshot = broker.router.snapshot();
    let isolation =
        if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let mut response = ListOffsetsResponse::default();
    let mut items = Vec::new();
    let mut places = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let mut answer = ListOffsetsPartitionResponse::default().with_partition_index(index);
            match resolve_name(&snapshot, &topic.name, index) {
                Ok(group) => {
                    places.push((response.topics.len(), partitions.len()));
                    let query = OffsetQuery {
                        group,
                        timestamp: partition.timestamp,
                        current_epoch: LeaderEpoch(partition.current_leader_epoch),
                        isolation,
                    };
                    items.push((group, query));
                }
                Err(error) => answer.error_code = error.code(),
            }
            partitions.push(answer);
        }
        response.topics.push(
            ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions),
        );
    }
    let answers = scatter(&broker, &items, Question::ListOffsets, |reply| match reply {
        Reply::Offsets(answers) => answers,
        _ => Vec::new(),
    })
    .await;
    for ((topic, partition), answer) in places.into_iter().zip(answers) {
        let place = &mut response.topics[topic].partitions[partition];
        match answer {
            Some(OffsetAnswer { error, offset, timestamp, epoch }) => {
                place.error_code = error.code();
                place.offset = offset.0;
                place.timestamp = timestamp;
                if version >= LIST_EPOCH_FROM {
                    place.leader_epoch = epoch.0;
                }
            }
            None => place.error_code = ErrorCode::NotLeaderOrFollower.code(),
        }
    }
    Response::ListOffsets(response)
}

/// OffsetForLeaderEpoch.
pub async fn epoch_ends(broker: Rc<Broker>, request: OffsetForLeaderEpochRequest) -> Response {
    let snapshot = broker.router.snapshot();
    let mut response = OffsetForLeaderEpochResponse::default();
    let mut items = Vec::new();
    let mut places = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let mut answer = EpochEndOffset::default().with_partition(partition.partition);
            answer.leader_epoch = -1;
            answer.end_offset = -1;
            match resolve_name(&snapshot, &topic.topic, partition.partition) {
                Ok(group) => {
                    places.push((response.topics.len(), partitions.len()));
                    let query = EpochQuery {
                        group,
                        current_epoch: LeaderEpoch(partition.current_leader_epoch),
                        epoch: LeaderEpoch(partition.leader_epoch),
                    };
                    items.push((group, query));
                }
                Err(error) => answer.error_code = error.code(),
            }
            partitions.push(answer);
        }
        response.topics.push(
            OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(partitions),
        );
    }
    let answers = scatter(&broker, &items, Question::EpochEnd, |reply| match reply {
        Reply::EpochEnds(answers) => answers,
        _ => Vec::new(),
    })
    .await;
    for ((topic, partition), answer) in places.into_iter().zip(answers) {
        let place = &mut response.topics[topic].partitions[partition];
        match answer {
            Some(EpochAnswer { error, epoch, end_offset }) => {
                place.error_code = error.code();
                place.leader_epoch = epoch.0;
                place.end_offset = end_offset.0;
            }
            None => place.error_code = ErrorCode::NotLeaderOrFollower.code(),
        }
    }
    Response::OffsetForLeaderEpoch(response)
}

/// DeleteRecords.
pub async fn delete_records(broker: Rc<Broker>, request: DeleteRecordsRequest) -> Response {
    let snapshot = broker.router.snapshot();
    let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
    let mut response = DeleteRecordsResponse::default();
    let mut items = Vec::new();
    let mut places = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let mut answer =
                DeleteRecordsPartitionResult::default().with_partition_index(index).with_low_watermark(-1);
            let found = match crate::metadata::names::is_internal(&topic.name) {
                true => Err(ErrorCode::InvalidTopicException),
                false => resolve_name(&snapshot, &topic.name, index),
            };
            match found {
                Ok(group) => {
                    places.push((response.topics.len(), partitions.len()));
                    items.push((group, DeleteItem { group, before: KafkaOffset(partition.offset) }));
                }
                Err(error) => answer.error_code = error.code(),
            }
            partitions.push(answer);
        }
        response.topics.push(
            DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions),
        );
    }
    let question = |items| Question::DeleteRecords { items, timeout_ms };
    let answers = scatter(&broker, &items, question, |reply| match reply {
        Reply::Deleted(answers) => answers,
        _ => Vec::new(),
    })
    .await;
    for ((topic, partition), answer) in places.into_iter().zip(answers) {
        let place = &mut response.topics[topic].partitions[partition];
        match answer {
            Some(Ok(low_watermark)) => place.low_watermark = low_watermark.0,
            Some(Err(error)) => place.error_code = error.code(),
            None => place.error_code = ErrorCode::NotLeaderOrFollower.code(),
        }
    }
    Response::DeleteRecords(response)
}
