//! Fetch: sessions, a slice for each owning shard, one response within the byte limits.
//!
//! Runs on the connection's shard. The first shard that has enough ends the wait of the others (`FetchNow`), so a fetch
//! over many shards waits no longer than one over a single shard.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use chronik_net::codec::{
    CurrentLeader, EpochEndOffset, ErrorCode, FetchPartition, FetchPartitionResponse, FetchRequest,
    FetchResponse, FetchTopicResponse, RequestHeader, TopicRef,
};
use chronik_net::rt::clock;
use chronik_wal::types::{KafkaOffset, LeaderEpoch, ShardId};

use super::dispatch::{Later, frame, frame_or_leave};
use super::fetch_session::{PartitionKey, Plan, SessionRequest, Told, TopicKey, Wanted};
use super::gather::{First, first};
use super::service::{Broker, Connection, resolve_key};
use crate::metadata::snapshot::Snapshot;
use crate::shard::fetch::trim;
use crate::shard::message::{FetchItem, FetchOutcome, FetchSlice, Isolation, Reply, Request};

/// First version with topic ids.
const BY_ID_FROM: i16 = 13;
/// First version in which a client says where it is.
const RACK_FROM: i16 = 11;
/// First version with sessions; before, a request has the defaults that mean "none".
const SESSIONS_FROM: i16 = 7;

/// What the client asked for, resolved: outcomes are in the order of `partitions`.
struct Reading {
    plan: Plan,
    outcomes: Vec<FetchOutcome>,
    slices: Vec<(FetchSlice, Vec<usize>)>,
}

/// Plans the fetch and sends its slices; the future answers.
pub fn start(
    broker: &Rc<Broker>,
    connection: &mut Connection,
    header: RequestHeader,
    request: FetchRequest,
) -> Later {
    let snapshot = broker.router.snapshot();
    let session = session_request(&request, header.api_version);
    let planned = broker.sessions.borrow_mut().plan(session, clock::monotonic_ms());
    broker.count_sessions();
    let plan = match planned {
        Ok(plan) => plan,
        Err(error) => {
            broker.metrics.fetch_failed.add(1);
            let response = FetchResponse { error, ..FetchResponse::default() };
            return Box::pin(async move { frame(response.encode(&header)) });
        }
    };
    connection.session_id = plan.session_id;
    let max_bytes = request.max_bytes.min(snapshot.config.fetch_max_bytes);
    let max_bytes = u32::try_from(max_bytes).unwrap_or(0);
    let reading = prepare(broker, &snapshot, &request, plan, max_bytes);
    let filled = reading.slices.iter().enumerate().filter(|(_, (slice, _))| !slice.items.is_empty());
    connection.note_owners(&broker.router, filled.map(|(shard, _)| ShardId(shard as u16)));
    let rack = rack_of(&request, header.api_version);
    let asked: Vec<_> = reading
        .slices
        .into_iter()
        .enumerate()
        .filter(|(_, (slice, _))| !slice.items.is_empty())
        .map(|(shard, (slice, places))| {
            let shard = ShardId(shard as u16);
            let question = match &rack {
                Some(rack) => Request::FetchFrom { slice, rack: rack.clone() },
                None => Request::Fetch(slice),
            };
            let (call, answer) = broker.router.ask(shard, question);
            (shard, call, places, answer)
        })
        .collect();
    let broker = broker.clone();
    let listener = connection.listener.clone();
    let mut outcomes = reading.outcomes;
    let plan = reading.plan;
    Box::pin(async move {
        let mut waiting = asked;
        while !waiting.is_empty() {
            let First { place, value } = first(waiting.iter_mut().map(|(_, _, _, answer)| answer)).await;
            let (_, _, places, _) = waiting.swap_remove(place);
            take_in(&mut outcomes, &places, value);
            for (shard, fetch, _, _) in &waiting {
                broker.router.tell(*shard, Request::FetchNow { fetch: *fetch });
            }
        }
        trim(&mut outcomes, max_bytes as usize);
        let is_orphaned = outcomes.iter().any(|outcome| outcome.is_orphaned);
        let response = respond(&broker, &snapshot, &listener, plan, outcomes);
        frame_or_leave(response.encode(&header), is_orphaned)
    })
}

/// Where the client is, if it says so (KIP-392).
fn rack_of(request: &FetchRequest, version: i16) -> Option<Arc<str>> {
    (version >= RACK_FROM && !request.rack_id.is_empty()).then(|| Arc::from(&*request.rack_id))
}

fn session_request(request: &FetchRequest, version: i16) -> SessionRequest {
    let (id, epoch) =
        if version >= SESSIONS_FROM { (request.session_id, request.session_epoch) } else { (0, -1) };
    let mut partitions = Vec::new();
    for topic in &request.topics {
        let key = topic_key(&topic.topic);
        for partition in &topic.partitions {
            let key = PartitionKey { topic: key.clone(), partition: partition.partition };
            partitions.push((key, wanted(partition)));
        }
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics {
        let key = topic_key(&topic.topic);
        let keys = topic.partitions.iter().map(|p| PartitionKey { topic: key.clone(), partition: *p });
        forgotten.extend(keys);
    }
    SessionRequest { id, epoch, by_id: version >= BY_ID_FROM, partitions, forgotten }
}

/// A session outlives the request's frame, so names are copied out of it.
fn topic_key(topic: &TopicRef) -> TopicKey {
    match topic {
        TopicRef::Name(name) => TopicKey::Name(Bytes::copy_from_slice(name.as_bytes())),
        TopicRef::Id(id) => TopicKey::Id(*id),
    }
}

fn wanted(partition: &FetchPartition) -> Wanted {
    Wanted {
        offset: KafkaOffset(partition.fetch_offset),
        max_bytes: u32::try_from(partition.partition_max_bytes).unwrap_or(0),
        current_epoch: LeaderEpoch(partition.current_leader_epoch),
        last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
    }
}

fn prepare(
    broker: &Broker,
    snapshot: &Snapshot,
    request: &FetchRequest,
    plan: Plan,
    max_bytes: u32,
) -> Reading {
    let slice = FetchSlice {
        min_bytes: u32::try_from(request.min_bytes).unwrap_or(0),
        max_bytes,
        max_wait_ms: u32::try_from(request.max_wait_ms).unwrap_or(0),
        isolation: if request.isolation_level == 1 {
            Isolation::ReadCommitted
        } else {
            Isolation::ReadUncommitted
        },
        items: Vec::new(),
    };
    let mut slices: Vec<_> = broker.router.shards().map(|_| (slice.clone(), Vec::new())).collect();
    let mut outcomes = Vec::with_capacity(plan.partitions.len());
    let mut refused = false;
    for (place, (key, wanted)) in plan.partitions.iter().enumerate() {
        let group = match resolve_key(snapshot, key) {
            Ok(group) => group,
            Err(error) => {
                refused = true;
                outcomes.push(FetchOutcome::refused(error));
                continue;
            }
        };
        let (slice, places) = &mut slices[usize::from(broker.router.owner(group).0)];
        slice.items.push(FetchItem {
            group,
            offset: wanted.offset,
            max_bytes: wanted.max_bytes,
            current_epoch: wanted.current_epoch,
            last_fetched_epoch: wanted.last_fetched_epoch,
        });
        places.push(place);
        outcomes.push(FetchOutcome::refused(ErrorCode::NotLeaderOrFollower));
    }
    if refused {
        // An error is news: the client hears of it at once.
        slices.iter_mut().for_each(|(slice, _)| slice.max_wait_ms = 0);
    }
    Reading { plan, outcomes, slices }
}

fn take_in(outcomes: &mut [FetchOutcome], places: &[usize], reply: Option<Reply>) {
    let Some(Reply::Fetch(found)) = reply else { return };
    for (place, outcome) in places.iter().zip(found) {
        outcomes[*place] = outcome;
    }
}

fn respond(
    broker: &Broker,
    snapshot: &Snapshot,
    listener: &str,
    plan: Plan,
    outcomes: Vec<FetchOutcome>,
) -> FetchResponse {
    let mut response = FetchResponse { session_id: plan.session_id, ..FetchResponse::default() };
    let mut sessions = broker.sessions.borrow_mut();
    let mut leaders = Vec::new();
    let mut failed = 0;
    for ((key, _), outcome) in plan.partitions.into_iter().zip(outcomes) {
        let told = Told {
            high_watermark: outcome.high_watermark,
            log_start_offset: outcome.log_start_offset,
            error: outcome.error != ErrorCode::None,
        };
        failed += u64::from(told.error);
        let news =
            plan.session_id == 0 || sessions.tell(plan.session_id, &key, told, !outcome.records.is_empty());
        if plan.incremental && !news && outcome.diverging.is_none() && outcome.preferred.is_none() {
            continue;
        }
        leaders.extend(outcome.leader.map(|leader| leader.node.0));
        let topic = topic_ref(&key.topic);
        let partition = partition_response(key.partition, outcome);
        match response.topics.last_mut() {
            Some(last) if last.topic == topic => last.partitions.push(partition),
            _ => response.topics.push(FetchTopicResponse { topic, partitions: vec![partition] }),
        }
    }
    broker.metrics.fetch_failed.add(failed);
    response.node_endpoints = super::produce::endpoints(leaders.into_iter(), snapshot, listener);
    response
}

fn topic_ref(key: &TopicKey) -> TopicRef {
    match key {
        // It came in as a string, so it still is one.
        TopicKey::Name(name) => TopicRef::Name(String::from_utf8_lossy(name).into_owned().into()),
        TopicKey::Id(id) => TopicRef::Id(*id),
    }
}

fn partition_response(partition: i32, outcome: FetchOutcome) -> FetchPartitionResponse {
    let mut response = FetchPartitionResponse::refused(partition, outcome.error);
    response.high_watermark = outcome.high_watermark.0;
    response.last_stable_offset = outcome.last_stable_offset.0;
    response.log_start_offset = outcome.log_start_offset.0;
    response.diverging_epoch =
        outcome.diverging.map(|(epoch, end)| EpochEndOffset { epoch: epoch.0, end_offset: end.0 });
    response.current_leader =
        outcome.leader.map(|leader| CurrentLeader { leader_id: leader.node.0, leader_epoch: leader.epoch.0 });
    response.preferred_read_replica = outcome.preferred.map_or(-1, |node| node.0);
    response.records = outcome.records;
    response
}
