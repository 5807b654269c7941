//! Turns admin requests into commands of the metadata log. Pure; lives on shard 0 of the metadata leader only.
//!
//! It plans against a state that runs ahead of the committed one by what is in flight, so that requests need not wait for
//! one another and still see each other: of two creations of one topic the second is refused at once.
//!
//! ```text
//! Leader ──▶ Controller::new(&state)
//! request ──▶ plan_…(…) ──▶ Plan { commands, response, awaited }
//!              commands empty  ──▶ send the response
//!              else propose as one batch; when its entry is applied: committed(&state), publish,
//!              then send the response once each awaited topic `is_ready(snapshot, topic)`, or soon after
//! leadership lost, or a proposal refused ──▶ fail all that wait, drop the controller (or `abandon(&state)`)
//! ```

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    AlterConfigsResponse, CreatePartitionsResponse, CreateTopicsResponse, DeleteTopicsResponse,
    IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use chronik_wal::types::NodeId;

use super::command::{Command, PartitionPlacement, Replica, RequestId};
use super::placement::{Candidate, place, ring};
use super::producer_ids::BLOCK_IDS;
use super::snapshot::Snapshot;
use super::state::{Broker, MetadataState};

pub mod configs;
mod deletion;
pub mod members;
pub mod partitions;
pub mod reassign;
pub mod topics;

/// The most partitions that one request may make (Kafka's `MAX_PARTITIONS_PER_BATCH`): a batch of the metadata log holds
/// them all, and a count in a request of a few bytes must not reserve gigabytes.
pub const REQUEST_PARTITIONS_MAX: usize = 10_000;

/// The most bytes of config values that one request may set: they go into one batch of the metadata log, which must stay
/// well below the 32 MiB that a WAL segment holds.
pub const REQUEST_CONFIG_BYTES_MAX: usize = 4 << 20;

/// What a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<R> {
    /// To be proposed as one batch. Empty when nothing is to change.
    pub commands: Vec<Command>,
    /// The answer, if the commands are committed.
    pub response: R,
    /// Topics whose partitions must all have a leader before the answer is sent.
    pub awaited: Vec<Uuid>,
}

impl<R> Plan<R> {
    /// The same plan with its answer in another form.
    pub fn map<S>(self, form: impl FnOnce(R) -> S) -> Plan<S> {
        Plan { commands: self.commands, response: form(self.response), awaited: self.awaited }
    }
}

/// What planning needs besides the state.
pub struct PlanContext<'a> {
    /// The picture of the cluster as this node knows it: which brokers are there, what this node's configs are.
    pub snapshot: &'a Snapshot,
    /// Draws a random (version 4) UUID.
    pub random: &'a mut dyn FnMut() -> Uuid,
    /// Set when another node forwarded the request (SAFETY.md, rule 21).
    pub request: Option<RequestId>,
}

/// One row of a response that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct RowError {
    /// Kafka's error.
    pub code: ResponseError,
    /// What was wrong, in a sentence.
    pub message: String,
}

impl RowError {
    fn new(code: ResponseError, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Plans every change of the metadata. See the head of this file.
#[derive(Debug)]
pub struct Controller {
    /// Committed and in flight together.
    speculative: MetadataState,
    /// Plans with commands that are not yet committed.
    in_flight: usize,
}

impl Controller {
    /// A controller for a leader that has applied everything up to its own term.
    #[must_use]
    pub fn new(state: &MetadataState) -> Self {
        Self { speculative: state.clone(), in_flight: 0 }
    }

    /// The commands of the oldest plan in flight have been applied; `state` is the state after them.
    pub fn committed(&mut self, state: &MetadataState) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            self.speculative = state.clone();
        }
    }

    /// What is in flight will not be committed by this node: forget it.
    pub fn abandon(&mut self, state: &MetadataState) {
        self.speculative = state.clone();
        self.in_flight = 0;
    }

    /// The state that the next plan is made on.
    #[must_use]
    pub fn planned(&self) -> &MetadataState {
        &self.speculative
    }

    /// Names the cluster if it has no name yet. The first plan of a new cluster (SAFETY.md, rule 18).
    pub fn plan_cluster_id(&mut self, random: &mut dyn FnMut() -> Uuid) -> Plan<()> {
        let mut commands = Vec::new();
        if self.speculative.cluster_id().is_none() {
            commands.push(Command::MintClusterId { cluster_id: uuid_base64(&random()) });
        }
        self.finish(commands, (), Vec::new())
    }

    /// Registers a broker, if what is registered differs.
    pub fn plan_registration(&mut self, node: NodeId, broker: &Broker) -> Plan<()> {
        let mut commands = Vec::new();
        if self.speculative.brokers().get(&node) != Some(broker) {
            commands.push(Command::RegisterBroker {
                node,
                directory: broker.directory,
                incarnation: broker.incarnation,
                rack: broker.rack.clone(),
                listeners: broker.listeners.clone(),
                raft: broker.raft.clone(),
            });
        }
        self.finish(commands, (), Vec::new())
    }

    /// Gives a block of producer ids to a node; the response is its first id and how many there are.
    pub fn plan_producer_ids(&mut self, node: NodeId) -> Plan<(i64, i64)> {
        let first = self.speculative.next_producer_id();
        let commands = vec![Command::AllocateProducerIds { node, first, count: BLOCK_IDS }];
        self.finish(commands, (first, BLOCK_IDS), Vec::new())
    }

    /// Applies the commands to the state that the next plan is made on.
    fn finish<R>(&mut self, commands: Vec<Command>, response: R, awaited: Vec<Uuid>) -> Plan<R> {
        for command in &commands {
            // A plan that contradicts the state it was made on would be refused on every node after it was acknowledged.
            let applied = self.speculative.apply(command);
            assert!(applied.is_ok(), "planned a command that does not fit: {applied:?}");
        }
        self.in_flight += usize::from(!commands.is_empty());
        Plan { commands, response, awaited }
    }

    /// As [`Self::finish`], for a request that may have been forwarded.
    fn finish_request<R>(
        &mut self,
        mut commands: Vec<Command>,
        response: R,
        awaited: Vec<Uuid>,
        request: Option<RequestId>,
    ) -> Plan<R> {
        if let Some(request) =
            request.filter(|request| !commands.is_empty() && !self.speculative.is_answered(request))
        {
            commands.push(Command::CompleteRequest { request });
        }
        self.finish(commands, response, awaited)
    }

    fn is_retry(&self, context: &PlanContext<'_>) -> bool {
        context.request.is_some_and(|request| self.speculative.is_answered(&request))
    }
}

/// Whether every partition of this topic has a leader. A topic that is gone again is not waited for.
#[must_use]
pub fn is_ready(snapshot: &Snapshot, awaited: &Uuid) -> bool {
    let topic = snapshot.topic_by_id(awaited);
    topic.is_none_or(|topic| topic.partitions.iter().all(|partition| partition.leader.is_some()))
}

/// A response in which every row that had succeeded can be turned into a failure: at the timeout
/// (`RequestTimedOut`; the change is made nevertheless) or when leadership is lost (`NotController`).
pub trait AdminResponse {
    /// Fails the rows that had succeeded.
    fn fail(&mut self, code: ResponseError);
}

macro_rules! admin_response {
    ($response:ty, $rows:ident) => {
        impl AdminResponse for $response {
            fn fail(&mut self, code: ResponseError) {
                for row in self.$rows.iter_mut().filter(|row| row.error_code == 0) {
                    row.error_code = code.code();
                    row.error_message = Some(StrBytes::from_string(code.to_string()));
                }
            }
        }
    };
}

admin_response!(CreateTopicsResponse, topics);
admin_response!(DeleteTopicsResponse, responses);
admin_response!(CreatePartitionsResponse, results);
admin_response!(AlterConfigsResponse, responses);
admin_response!(IncrementalAlterConfigsResponse, responses);

/// Numbers and brokers for new partitions, taken one after the other from a state.
struct Placer<'a> {
    state: &'a MetadataState,
    candidates: Vec<Candidate>,
    /// Brokers that are away: they get replicas only where there are too few others.
    away: Vec<Candidate>,
    fenced: &'a BTreeSet<NodeId>,
    this_node: NodeId,
    next_group: u64,
    next_peer: u64,
}

impl<'a> Placer<'a> {
    fn new(state: &'a MetadataState, snapshot: &'a Snapshot) -> Self {
        let (group, peer) = state.next_ids();
        let all = state.brokers().iter();
        let all = all.map(|(node, broker)| Candidate { node: *node, rack: broker.rack.clone() });
        let (away, candidates) = all.partition(|candidate| snapshot.fenced.contains(&candidate.node));
        Self {
            state,
            candidates,
            away,
            fenced: &snapshot.fenced,
            this_node: snapshot.node,
            next_group: group.0,
            next_peer: peer.0,
        }
    }

    /// So many partitions on brokers of the placement's choice.
    fn automatic(
        &mut self,
        count: usize,
        replication_factor: usize,
    ) -> Result<Vec<PartitionPlacement>, RowError> {
        let (live, away) = (ring(&self.candidates), ring(&self.away));
        // As Kafka does, and with one node of three down topics can be made; but a partition must have a quorum to begin with.
        let on_live =
            if live.len() > replication_factor / 2 { replication_factor.min(live.len()) } else { 0 };
        let mut chosen = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let seed = self.next_group + number;
            let nodes = place(&live, on_live, seed).and_then(|mut nodes| {
                if nodes.len() < replication_factor {
                    nodes.extend(place(&away, replication_factor - nodes.len(), seed)?);
                }
                Some(nodes)
            });
            let Some(nodes) = nodes else {
                let brokers = live.len();
                let message = format!(
                    "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
                     {replication_factor} cannot be reached because only {brokers} broker(s) are registered."
                );
                return Err(RowError::new(ResponseError::InvalidReplicationFactor, message));
            };
            chosen.push(nodes);
        }
        Ok(chosen.iter().map(|nodes| self.number(nodes)).collect())
    }

    /// A partition on the brokers that the request names; `expected` is how many replicas the others have.
    fn manual(
        &mut self,
        partition: i32,
        nodes: &[NodeId],
        expected: Option<usize>,
    ) -> Result<PartitionPlacement, RowError> {
        let refuse = |message: String| Err(RowError::new(ResponseError::InvalidReplicaAssignment, message));
        if nodes.is_empty() {
            return refuse("The manual partition assignment includes an empty replica list.".to_owned());
        }
        let mut seen = BTreeSet::new();
        for node in nodes {
            if !self.state.brokers().contains_key(node) {
                return refuse(format!(
                    "The manual partition assignment includes broker {node}, but no such broker is registered."
                ));
            }
            if !seen.insert(node) {
                return refuse(format!(
                    "The manual partition assignment includes the broker {node} more than once."
                ));
            }
        }
        if let Some(expected) = expected.filter(|expected| *expected != nodes.len()) {
            return refuse(format!(
                "The manual partition assignment includes a partition with {} replica(s), but this is not consistent \
                 with previous partitions, which have {expected} replica(s).",
                nodes.len()
            ));
        }
        if nodes.iter().all(|node| self.fenced.contains(node)) {
            return refuse(format!(
                "All brokers specified in the manual partition assignment for partition {partition} are fenced or in \
                 controlled shutdown."
            ));
        }
        Ok(self.number(nodes))
    }

    fn number(&mut self, nodes: &[NodeId]) -> PartitionPlacement {
        let group = chronik_wal::types::GroupId(self.next_group);
        self.next_group += 1;
        let mut replicas = Vec::with_capacity(nodes.len());
        for node in nodes {
            replicas.push(Replica { node: *node, peer: chronik_wal::types::PeerId(self.next_peer) });
            self.next_peer += 1;
        }
        // Field report 003: the metadata leader leads first where it holds a replica; balance comes later, by transfer.
        let first_leader = Some(self.this_node).filter(|node| nodes.contains(node) && nodes[0] != *node);
        PartitionPlacement { group, replicas, first_leader }
    }
}

/// A UUID as Kafka writes it: 22 characters of URL-safe base64 without padding.
#[must_use]
pub fn uuid_base64(id: &Uuid) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits are 21 digits of 6 bits and one of the last 2 bits, filled up with zeros.
    let number = id.as_u128();
    let digit = |at: u32| if at < 21 { number >> (122 - 6 * at) } else { number << 4 };
    (0..22).map(|at| char::from(DIGITS[usize::try_from(digit(at) & 63).expect("six bits")])).collect()
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
