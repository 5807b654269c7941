//! Produce: one request cut into a slice for each owning shard, gathered into one response.
//!
//! Runs on the connection's shard. [`start`] is synchronous up to the point where every slice is on its way, so that
//! the batches of one connection reach each partition in the order in which they came. Record bytes are split out of
//! the frame by the codec and move on uncopied.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use chronik_net::codec::{
    CurrentLeader, ErrorCode, NodeEndpoint, ProducePartitionResponse, ProduceRequest, ProduceResponse,
    ProduceTopic, ProduceTopicResponse, RecordError, RequestHeader,
};
use chronik_wal::types::{NodeId, ShardId};

use super::dispatch::{Done, Outcome, frame, frame_or_leave};
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

/// A produce request whose slices are on their way.
struct Gather {
    broker: Rc<Broker>,
    snapshot: Arc<Snapshot>,
    listener: Arc<str>,
    header: RequestHeader,
    silent: bool,
    response: ProduceResponse,
    /// A partition has had no leader that is known here for a while.
    is_orphaned: bool,
    missing: usize,
    done: Option<Done>,
}

/// Sends the batches on their way; `done` is called with the answer, perhaps at once.
pub fn start(
    broker: &Rc<Broker>,
    connection: &mut Connection,
    header: RequestHeader,
    request: ProduceRequest,
    done: Done,
) {
    let refusal = match request.acks {
        _ if request.transactional_id.is_some() => Some(ErrorCode::InvalidRequest),
        -1..=1 => None,
        _ => Some(ErrorCode::InvalidRequiredAcks),
    };
    if let Some(error) = refusal {
        return done(refuse_all(broker, &header, &request, error));
    }
    let acks = match request.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        _ => Acks::All,
    };
    let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
    let mut gather = Gather {
        broker: broker.clone(),
        snapshot: broker.router.snapshot(),
        listener: connection.listener.clone(),
        header,
        silent: acks == Acks::None,
        response: ProduceResponse::default(),
        is_orphaned: false,
        missing: 0,
        done: Some(done),
    };
    let slices = gather.cut(request);
    let filled = slices.iter().enumerate().filter(|(_, slice)| !slice.items.is_empty());
    connection.note_owners(&broker.router, filled.map(|(shard, _)| ShardId(shard as u16)));
    gather.missing = slices.iter().filter(|slice| !slice.items.is_empty()).count();
    if gather.missing == 0 {
        return gather.answer();
    }
    let gather = Rc::new(RefCell::new(gather));
    for (shard, slice) in slices.into_iter().enumerate() {
        if slice.items.is_empty() {
            continue;
        }
        let Filling { items, places } = slice;
        let question = Request::Produce(ProduceSlice { acks, timeout_ms, items });
        let gather = gather.clone();
        let then = Box::new(move |reply| gather.borrow_mut().take_in(&places, reply));
        broker.router.ask_then(ShardId(shard as u16), question, then);
    }
}

impl Gather {
    /// Cuts the request into a slice for each shard; what is refused at once is in the response already.
    fn cut(&mut self, request: ProduceRequest) -> Vec<Filling> {
        let internal_allowed = self.header.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
        let router = &self.broker.router;
        let mut slices: Vec<Filling> = router.shards().map(|_| Filling::default()).collect();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in topic.partitions {
                let place = Place { topic: self.response.topics.len(), partition: partitions.len() };
                let found = resolve(&self.snapshot, &topic.topic, partition.index, internal_allowed);
                let error = match (found, partition.records) {
                    (Err(error), _) => error,
                    (Ok(_), None) => ErrorCode::InvalidRecord,
                    (Ok(group), Some(records)) => {
                        let slice = &mut slices[usize::from(router.owner(group).0)];
                        slice.items.push(ProduceItem { group, records });
                        slice.places.push(place);
                        ErrorCode::None
                    }
                };
                partitions.push(ProducePartitionResponse::refused(partition.index, error));
            }
            self.response.topics.push(ProduceTopicResponse { topic: topic.topic, partitions });
        }
        slices
    }

    /// Takes a slice's outcomes in; the last one completes the request.
    fn take_in(&mut self, places: &[Place], reply: Reply) {
        let outcomes = match reply {
            Reply::Produce(outcomes) => outcomes,
            _ => vec![ProduceOutcome::refused(ErrorCode::NotLeaderOrFollower); places.len()],
        };
        for (place, outcome) in places.iter().zip(outcomes) {
            self.is_orphaned |= outcome.is_orphaned;
            fill(&mut self.response.topics[place.topic].partitions[place.partition], outcome);
        }
        self.missing -= 1;
        if self.missing == 0 {
            self.answer();
        }
    }

    fn answer(&mut self) {
        let Some(done) = self.done.take() else { return };
        let refused = refused_count(&self.response);
        self.broker.metrics.produce_failed.add(refused);
        if self.silent {
            // With nobody to tell, the closed connection makes the client look for the leader again.
            return done(if refused == 0 { Outcome::NoReply } else { Outcome::Close });
        }
        name_leaders(&mut self.response, &self.snapshot, &self.listener);
        done(frame_or_leave(self.response.encode(&self.header), self.is_orphaned));
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

/// The whole request refused.
fn refuse_all(
    broker: &Broker,
    header: &RequestHeader,
    request: &ProduceRequest,
    error: ErrorCode,
) -> Outcome {
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
    if request.acks == 0 { Outcome::Close } else { frame(response.encode(header)) }
}
