//! Where replicas are to be: AlterPartitionReassignments, the members of the metadata group (AddRaftVoter, RemoveRaftVoter),
//! and the brokers that leave (UnregisterBroker).
//!
//! A reassignment is only a target in the metadata log; the partition's leader drives its Raft group there, one change at
//! a time, and reports when it has arrived (SAFETY.md, rule 9). Brokers that hold a replica already keep its peer id, new
//! ones get one that was never used (rule 8).

use std::collections::BTreeSet;

use chronik_wal::types::{NodeId, PeerId};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
    UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{AdminResponse, Controller, Plan, PlanContext, REQUEST_PARTITIONS_MAX, RowError};
use crate::metadata::command::{Command, MetadataReplica, Replica};
use crate::metadata::state::{MetadataState, Partition};
use uuid::Uuid;

impl Controller {
    /// AlterPartitionReassignments 0 and 1.
    pub fn plan_reassignments(
        &mut self,
        request: &AlterPartitionReassignmentsRequest,
        context: &PlanContext<'_>,
    ) -> Plan<AlterPartitionReassignmentsResponse> {
        let mut response = AlterPartitionReassignmentsResponse::default()
            .with_allow_replication_factor_change(request.allow_replication_factor_change)
            .with_error_message(None);
        let asked: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
        if asked > REQUEST_PARTITIONS_MAX {
            let message = format!(
                "{asked} partitions in one request; at most {REQUEST_PARTITIONS_MAX} are moved at once."
            );
            response.error_code = ResponseError::InvalidRequest.code();
            response.error_message = Some(StrBytes::from_string(message));
            return self.finish(Vec::new(), response, Vec::new());
        }
        let mut state = self.speculative.clone();
        let mut commands = Vec::new();
        for topic in &request.topics {
            let mut rows = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let planned =
                    plan_partition(topic, partition, request.allow_replication_factor_change, &state);
                let error = match planned {
                    Ok(command) => {
                        let is_called_off = partition.replicas.is_none();
                        let marks = command.as_ref().map(|placed| marks_of(&state, placed, is_called_off));
                        for command in command.into_iter().chain(marks.into_iter().flatten()) {
                            let applied = state.apply(&command);
                            assert!(applied.is_ok(), "planned a placement that does not fit: {applied:?}");
                            commands.push(command);
                        }
                        None
                    }
                    Err(error) => Some(error),
                };
                rows.push(row(partition.partition_index, error));
            }
            let topic =
                ReassignableTopicResponse::default().with_name(topic.name.clone()).with_partitions(rows);
            response.responses.push(topic);
        }
        self.finish_request(commands, response, Vec::new(), context.request)
    }

    /// AddRaftVoter 0. A broker joins the metadata group when it registers; this asks one back in that was taken out.
    pub fn plan_voter(
        &mut self,
        request: &AddRaftVoterRequest,
        context: &PlanContext<'_>,
    ) -> Plan<AddRaftVoterResponse> {
        let (node, directory) = (NodeId(request.voter_id), request.voter_directory_id);
        let mut response = AddRaftVoterResponse::default().with_error_message(None);
        let checked = self.check_cluster(request.cluster_id.as_ref());
        match checked.and_then(|()| self.check_voter(node, directory, context)) {
            Ok(directory) => {
                let peer = self.speculative.next_ids().1;
                let mut replicas = self.speculative.metadata_replicas().target();
                if replicas.iter().all(|replica| replica.node != node) {
                    replicas.push(MetadataReplica { node, peer, directory });
                    let commands = vec![Command::PlaceMetadataReplicas { replicas }];
                    return self.finish_request(commands, response, Vec::new(), context.request);
                }
            }
            Err(error) => {
                response.error_code = error.code.code();
                response.error_message = Some(StrBytes::from_string(error.message));
            }
        }
        self.finish(Vec::new(), response, Vec::new())
    }

    /// RemoveRaftVoter 0. Beyond what Kafka asks, a broker that clients can reach must have been drained: without the metadata
    /// log it does not know what becomes of its replicas.
    pub fn plan_voter_removal(
        &mut self,
        request: &RemoveRaftVoterRequest,
        context: &PlanContext<'_>,
    ) -> Plan<RemoveRaftVoterResponse> {
        let (node, directory) = (NodeId(request.voter_id), request.voter_directory_id);
        let mut response = RemoveRaftVoterResponse::default().with_error_message(None);
        let checked = self.check_cluster(request.cluster_id.as_ref());
        match checked.and_then(|()| self.check_removal(node, directory, context)) {
            Ok(replicas) => {
                let commands = match replicas == self.speculative.metadata_replicas().target() {
                    true => Vec::new(),
                    false => vec![Command::PlaceMetadataReplicas { replicas }],
                };
                self.finish_request(commands, response, Vec::new(), context.request)
            }
            Err(error) => {
                response.error_code = error.code.code();
                response.error_message = Some(StrBytes::from_string(error.message));
                self.finish(Vec::new(), response, Vec::new())
            }
        }
    }

    fn check_cluster(&self, given: Option<&StrBytes>) -> Result<(), RowError> {
        let own = self.speculative.cluster_id().map_or("", |id| &**id);
        match given.filter(|given| given.as_str() != own) {
            None => Ok(()),
            Some(given) => {
                let message = format!("The given id \"{given}\" doesn't match the cluster id \"{own}\"");
                Err(RowError::new(ResponseError::InconsistentClusterId, message))
            }
        }
    }

    /// Gives the directory that the node has registered.
    fn check_voter(&self, node: NodeId, given: Uuid, context: &PlanContext<'_>) -> Result<Uuid, RowError> {
        let Some(broker) = self.speculative.brokers().get(&node) else {
            let message = format!(
                "Node {node} has not registered: start it with the nodes of this cluster as its peers, and it joins by \
                 itself."
            );
            return Err(RowError::new(ResponseError::InvalidRequest, message));
        };
        let members = self.speculative.metadata_replicas();
        if members.of_node(node).is_some() && !self.is_retry(context) {
            let voters = voter_keys(&members.target());
            let message = format!(
                "The voter id for {} is already part of the set of voters {voters}.",
                voter_key(node, &given)
            );
            return Err(RowError::new(ResponseError::DuplicateVoter, message));
        }
        if !given.is_nil() && given != broker.directory {
            let message = format!("Node {node} has registered another data directory than the one given.");
            return Err(RowError::new(ResponseError::InvalidVoterKey, message));
        }
        Ok(broker.directory)
    }

    /// Gives the members without the node.
    fn check_removal(
        &self,
        node: NodeId,
        given: Uuid,
        context: &PlanContext<'_>,
    ) -> Result<Vec<MetadataReplica>, RowError> {
        let voters = self.speculative.metadata_replicas().target();
        let others: Vec<MetadataReplica> = voters
            .iter()
            .copied()
            .filter(|member| member.node != node || member.directory != given)
            .collect();
        if self.is_retry(context) {
            return Ok(others);
        }
        if others.len() == voters.len() || others.is_empty() {
            let message = format!(
                "Cannot remove voter {} from the set of voters {}",
                voter_key(node, &given),
                voter_keys(&voters)
            );
            return Err(RowError::new(ResponseError::VoterNotFound, message));
        }
        self.check_drained(node, context)?;
        Ok(others)
    }

    fn check_drained(&self, node: NodeId, context: &PlanContext<'_>) -> Result<(), RowError> {
        let held = replica_count(&self.speculative, node);
        if held == 0 || context.snapshot.fenced.contains(&node) {
            return Ok(());
        }
        let message = format!(
            "Node {node} is up and holds {held} replica(s): move them away first (chronik-server cluster drain {node})."
        );
        Err(RowError::new(ResponseError::InvalidRequest, message))
    }

    /// UnregisterBroker 0. Beyond what Kafka asks, a broker that clients can reach must have been drained: taken off the
    /// list while it leads partitions, nobody would find these any more.
    pub fn plan_unregistration(
        &mut self,
        request: &UnregisterBrokerRequest,
        context: &PlanContext<'_>,
    ) -> Plan<UnregisterBrokerResponse> {
        let node = NodeId(request.broker_id.0);
        let mut response = UnregisterBrokerResponse::default().with_error_message(None);
        match self.check_unregistration(node, context) {
            Ok(()) => {
                let is_there = self.speculative.brokers().contains_key(&node);
                let commands: Vec<Command> =
                    is_there.then_some(Command::UnregisterBroker { node }).into_iter().collect();
                self.finish_request(commands, response, Vec::new(), context.request)
            }
            Err(error) => {
                response.error_code = error.code.code();
                response.error_message = Some(StrBytes::from_string(error.message));
                self.finish(Vec::new(), response, Vec::new())
            }
        }
    }

    fn check_unregistration(&self, node: NodeId, context: &PlanContext<'_>) -> Result<(), RowError> {
        if self.is_retry(context) {
            return Ok(());
        }
        if !self.speculative.brokers().contains_key(&node) {
            let message = format!("Broker ID {node} is not currently registered");
            return Err(RowError::new(ResponseError::BrokerIdNotRegistered, message));
        }
        if self.speculative.metadata_replicas().target().iter().all(|member| member.node == node) {
            let message = format!("Broker {node} is the last one");
            return Err(RowError::new(ResponseError::InvalidRequest, message));
        }
        self.check_drained(node, context)
    }
}

/// A voter as Kafka writes it.
fn voter_key(node: NodeId, directory: &Uuid) -> String {
    format!("ReplicaKey(id={node}, directoryId={})", super::uuid_base64(directory))
}

fn voter_keys(members: &[MetadataReplica]) -> String {
    let keys: Vec<String> = members.iter().map(|member| voter_key(member.node, &member.directory)).collect();
    format!("[{}]", keys.join(", "))
}

/// How many partitions have a replica on this broker.
#[must_use]
pub fn replica_count(state: &MetadataState, node: NodeId) -> usize {
    let partitions = state.topics().values().flat_map(|topic| &topic.partitions);
    partitions.filter(|partition| partition.replicas.iter().any(|replica| replica.node == node)).count()
}

/// Marks brokers as being drained off which a placement takes replicas without putting any elsewhere, and lifts the marks of
/// those that it gives some: internal topics would grow back onto the former as soon as nothing moves.
fn marks_of(state: &MetadataState, command: &Command, is_called_off: bool) -> Vec<Command> {
    let Command::PlaceReplicas { id, partition, replicas } = command else { return Vec::new() };
    let Some(before) = state.partition(id, *partition).map(Partition::target) else { return Vec::new() };
    let without = |some: &[Replica], others: &[Replica]| -> Vec<NodeId> {
        let is_other = |node: NodeId| others.iter().any(|replica| replica.node == node);
        some.iter().map(|replica| replica.node).filter(|node| !is_other(*node)).collect()
    };
    let given = without(replicas, &before).into_iter().map(|node| (node, false));
    let taken = without(&before, replicas).into_iter().map(|node| (node, true));
    let taken = taken.filter(|_| replicas.len() < before.len() && !is_called_off);
    let is_news = |(node, draining): &(NodeId, bool)| {
        state.brokers().contains_key(node) && state.draining().contains(node) != *draining
    };
    let mark = |(node, draining)| Command::MarkDraining { node, draining };
    given.chain(taken).filter(is_news).map(mark).collect()
}

/// The command for one partition; none when it is where it is wanted.
fn plan_partition(
    topic: &ReassignableTopic,
    request: &ReassignablePartition,
    factor_may_change: bool,
    state: &MetadataState,
) -> Result<Option<Command>, RowError> {
    let unknown = |message: String| RowError::new(ResponseError::UnknownTopicOrPartition, message);
    let name: &str = &topic.name;
    let known = state.topic(name).ok_or_else(|| unknown(format!("Unable to find a topic named {name}.")))?;
    let index = request.partition_index;
    let at = usize::try_from(index).ok();
    let partition = at
        .and_then(|at| known.partitions.get(at))
        .ok_or_else(|| unknown(format!("Unable to find partition {name}:{index}.")))?;
    let wanted: Vec<NodeId> = match &request.replicas {
        Some(nodes) => nodes.iter().map(|node| NodeId(node.0)).collect(),
        None => cancelled(partition)?,
    };
    check_nodes(&wanted, state)?;
    let target = partition.target();
    let factor = target.len();
    if !factor_may_change && request.replicas.is_some() && wanted.len() != factor {
        let message = format!("The replication factor is changed from {factor} to {}", wanted.len());
        return Err(RowError::new(ResponseError::InvalidReplicationFactor, message));
    }
    let replicas = numbered(&wanted, partition, state.next_ids().1);
    if replicas == target {
        return Ok(None);
    }
    Ok(Some(Command::PlaceReplicas { id: known.id, partition: index, replicas }))
}

/// The replicas as they were before the reassignment in progress.
fn cancelled(partition: &Partition) -> Result<Vec<NodeId>, RowError> {
    if !partition.is_reassigning() {
        let message = "No partition reassignment is in progress.";
        return Err(RowError::new(ResponseError::NoReassignmentInProgress, message));
    }
    let mut nodes: Vec<NodeId> = Vec::new();
    for replica in partition.base() {
        if !nodes.contains(&replica.node) {
            nodes.push(replica.node);
        }
    }
    Ok(nodes)
}

fn check_nodes(nodes: &[NodeId], state: &MetadataState) -> Result<(), RowError> {
    let refuse = |message: String| Err(RowError::new(ResponseError::InvalidReplicaAssignment, message));
    if nodes.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".to_owned());
    }
    let mut seen = BTreeSet::new();
    for node in nodes {
        if !state.brokers().contains_key(node) {
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
    Ok(())
}

/// These brokers with the peer ids that they have, or with new ones. One that is to go keeps its id when it is wanted
/// again: it keeps its log, its term and its vote until the reassignment is complete.
fn numbered(nodes: &[NodeId], partition: &Partition, next: PeerId) -> Vec<Replica> {
    let mut next = next.0;
    let mut replicas = Vec::with_capacity(nodes.len());
    for node in nodes {
        let here = partition.replicas.iter().filter(|replica| replica.node == *node);
        // Of two incarnations on one node the newer one has the directory that is there.
        let known = here.max_by_key(|replica| replica.peer);
        replicas.push(known.copied().unwrap_or_else(|| {
            let fresh = Replica { node: *node, peer: PeerId(next) };
            next += 1;
            fresh
        }));
    }
    replicas
}

fn row(index: i32, error: Option<RowError>) -> ReassignablePartitionResponse {
    let (code, message) = match error {
        Some(error) => (error.code.code(), Some(StrBytes::from_string(error.message))),
        None => (0, None),
    };
    ReassignablePartitionResponse::default()
        .with_partition_index(index)
        .with_error_code(code)
        .with_error_message(message)
}

macro_rules! fails_as_a_whole {
    ($($response:ty)*) => {$(
        impl AdminResponse for $response {
            fn fail(&mut self, code: ResponseError) {
                if self.error_code == 0 {
                    self.error_code = code.code();
                    self.error_message = Some(StrBytes::from_string(code.to_string()));
                }
            }
        }
    )*};
}

fails_as_a_whole!(AlterPartitionReassignmentsResponse UnregisterBrokerResponse AddRaftVoterResponse RemoveRaftVoterResponse);

#[cfg(test)]
#[path = "reassign_tests.rs"]
mod tests;
