//! Produce: one request cut into a slice for each owning shard, gathered into one response.
//!
//! Runs on the connection's shard. [`start`] is synchronous up to the point where every slice is on its way, so that
//! the batches of one connection reach each partition in the order in which they came. Record bytes are split out of
//! the frame by the codec and move on uncopied.

use std::rc::Rc;

use bytes::BytesMut;
use chronik_net::codec::{
    CurrentLeader, ErrorCode, NodeEndpoint, ProducePartitionResponse, ProduceRequest, ProduceResponse,
    ProduceTopic, ProduceTopicResponse, RecordError, RequestHeader,
};
use chronik_wal::types::{NodeId, ShardId};

use super::dispatch::{Later, Outcome, frame};
use super::service::{Broker, Connection, resolve};
use crate::metadata::snapshot::Snapshot;
use crate::shard::message::{Acks, ProduceItem, ProduceOutcome, ProduceSlice, Reply, Request};

/// The only client that may write internal topics, as in Kafka.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// Where an item's outcome belongs in the response.
#[derive(Clone, Copy)]
struct Place {
    topic: usize,
    partition: usize,
}

/// A slice being filled for one shard.
#[derive(Default)]
struct Filling {
    items: Vec<ProduceItem>,
    places: Vec<Place>,
}

/// Sends the batches on their way; the future answers.
pub fn start(
    broker: &Rc<Broker>,
    connection: &Connection,
    header: RequestHeader,
    request: ProduceRequest,
) -> Later {
    let snapshot = broker.router.snapshot();
    let acks = match request.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        _ => return refuse_all(broker, header, &request, ErrorCode::InvalidRequiredAcks),
    };
    if request.transactional_id.is_some() {
        return refuse_all(broker, header, &request, ErrorCode::InvalidRequest);
    }
    let internal_allowed = header.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
    let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
    let mut response = ProduceResponse::default();
    let mut slices: Vec<Filling> = Vec::new();
    slices.resize_with(broker.router.shards().count(), Filling::default);
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let place = Place { topic: response.topics.len(), partition: partitions.len() };
            let index = partition.index;
            let found = resolve(&snapshot, &topic.topic, index, internal_allowed);
            let error = match (found, partition.records) {
                (Err(error), _) => error,
                (Ok(_), None) => ErrorCode::InvalidRecord,
                (Ok(group), Some(records)) => {
                    let slice = &mut slices[usize::from(broker.router.owner(group).0)];
                    slice.items.push(ProduceItem { group, records: unpinned(records) });
                    slice.places.push(place);
                    ErrorCode::None
                }
            };
            partitions.push(ProducePartitionResponse::refused(index, error));
        }
        response.topics.push(ProduceTopicResponse { topic: topic.topic, partitions });
    }
    let mut answers = Vec::new();
    for (shard, slice) in slices.into_iter().enumerate() {
        if slice.items.is_empty() {
            continue;
        }
        let question = Request::Produce(ProduceSlice { acks, timeout_ms, items: slice.items });
        let (_, answer) = broker.router.ask(ShardId(shard as u16), question);
        answers.push((slice.places, answer));
    }
    let listener = connection.listener.clone();
    let broker = broker.clone();
    Box::pin(async move {
        for (places, answer) in answers {
            let outcomes = match answer.await {
                Some(Reply::Produce(outcomes)) => outcomes,
                _ => vec![ProduceOutcome::refused(ErrorCode::NotLeaderOrFollower); places.len()],
            };
            for (place, outcome) in places.into_iter().zip(outcomes) {
                let partition = &mut response.topics[place.topic].partitions[place.partition];
                fill(partition, outcome);
            }
        }
        broker.metrics.produce_failed.add(refused_count(&response));
        name_leaders(&mut response, &snapshot, &listener);
        if acks == Acks::None {
            let failed = response.topics.iter().flat_map(|topic| &topic.partitions);
            // With nobody to tell, the closed connection makes the client look for the leader again.
            return match failed.map(|partition| partition.error).find(|error| *error != ErrorCode::None) {
                Some(_) => Outcome::Close,
                None => Outcome::NoReply,
            };
        }
        frame(response.encode(&header))
    })
}

/// Small batches are copied out of the buffer they came in, so that a few hundred bytes do not keep a large one alive.
fn unpinned(records: BytesMut) -> BytesMut {
    const COPY_BELOW: usize = 1024;
    if records.len() < COPY_BELOW && records.capacity() > 2 * COPY_BELOW {
        BytesMut::from(&records[..])
    } else {
        records
    }
}

fn fill(partition: &mut ProducePartitionResponse, outcome: ProduceOutcome) {
    partition.error = outcome.error;
    partition.base_offset = outcome.base_offset.0;
    partition.log_append_time_ms = outcome.log_append_time_ms;
    partition.log_start_offset = outcome.log_start_offset.0;
    partition.error_message = outcome.message.map(Into::into);
    let record_error =
        |(batch_index, message): (i32, String)| RecordError { batch_index, message: Some(message.into()) };
    partition.record_errors = outcome.record_errors.into_iter().map(record_error).collect();
    partition.current_leader =
        outcome.leader.map(|leader| CurrentLeader { leader_id: leader.node.0, leader_epoch: leader.epoch.0 });
}

/// Adds the addresses of the leaders that the response names (KIP-951).
fn name_leaders(response: &mut ProduceResponse, snapshot: &Snapshot, listener: &str) {
    let leaders = response.topics.iter().flat_map(|topic| &topic.partitions);
    let leaders = leaders.filter_map(|partition| partition.current_leader).map(|leader| leader.leader_id);
    response.node_endpoints = endpoints(leaders, snapshot, listener);
}

/// The addresses of these nodes on a listener, each once.
pub fn endpoints(nodes: impl Iterator<Item = i32>, snapshot: &Snapshot, listener: &str) -> Vec<NodeEndpoint> {
    let mut nodes: Vec<i32> = nodes.filter(|node| *node >= 0).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let address = |node_id: i32| {
        let node = NodeId(node_id);
        let endpoint = snapshot.endpoint(node, listener)?;
        let rack = snapshot.brokers.get(&node).and_then(|broker| broker.rack.clone());
        Some(NodeEndpoint {
            node_id,
            host: endpoint.host.clone().into(),
            port: i32::from(endpoint.port),
            rack: rack.map(Into::into),
        })
    };
    nodes.into_iter().filter_map(address).collect()
}

/// Partitions that were not written, for the metrics.
fn refused_count(response: &ProduceResponse) -> u64 {
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.filter(|partition| partition.error != ErrorCode::None).count() as u64
}

fn refuse_all(broker: &Broker, header: RequestHeader, request: &ProduceRequest, error: ErrorCode) -> Later {
    let refused = |topic: &ProduceTopic| ProduceTopicResponse {
        topic: topic.topic.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| ProducePartitionResponse::refused(partition.index, error))
            .collect(),
    };
    let response = ProduceResponse {
        topics: request.topics.iter().map(refused).collect(),
        throttle_time_ms: 0,
        node_endpoints: Vec::new(),
    };
    broker.metrics.produce_failed.add(refused_count(&response));
    let silent = request.acks == 0;
    Box::pin(async move { if silent { Outcome::Close } else { frame(response.encode(&header)) } })
}
