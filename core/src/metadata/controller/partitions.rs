//! CreatePartitions.

use std::collections::BTreeMap;

use chronik_wal::types::NodeId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{Controller, Placer, Plan, PlanContext, REQUEST_PARTITIONS_MAX, RowError};
use crate::metadata::command::{Command, PartitionPlacement};
use crate::metadata::state::{MetadataState, Topic};

impl Controller {
    /// CreatePartitions 0 to 3.
    pub fn plan_create_partitions(
        &mut self,
        request: &CreatePartitionsRequest,
        context: &PlanContext<'_>,
    ) -> Plan<CreatePartitionsResponse> {
        let retry = self.is_retry(context);
        let mut counts: BTreeMap<&TopicName, usize> = BTreeMap::new();
        request.topics.iter().for_each(|topic| *counts.entry(&topic.name).or_default() += 1);
        let mut state = self.speculative.clone();
        let (mut commands, mut awaited, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut partitions_left = REQUEST_PARTITIONS_MAX;
        for (name, _) in counts.iter().filter(|(_, count)| **count > 1) {
            let error = RowError::new(ResponseError::InvalidRequest, "Duplicate topic name.");
            rows.push(row(name, Some(&error)));
        }
        for topic in request.topics.iter().filter(|topic| counts[&topic.name] == 1) {
            let planned = plan_topic(topic, &state, context, &mut partitions_left, retry);
            let error = match planned {
                Ok(Some(command)) => {
                    let applied = state.apply(&command);
                    assert!(applied.is_ok(), "planned partitions that do not fit: {applied:?}");
                    awaited.extend(state.topic(&topic.name).map(|topic| topic.id));
                    commands.push(command);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            rows.push(row(&topic.name, error.as_ref()));
        }
        if request.validate_only {
            (commands, awaited) = (Vec::new(), Vec::new());
        }
        let response = CreatePartitionsResponse::default().with_results(rows);
        self.finish_request(commands, response, awaited, context.request)
    }
}

fn row(name: &TopicName, error: Option<&RowError>) -> CreatePartitionsTopicResult {
    let message = error.map(|error| StrBytes::from_string(error.message.clone()));
    CreatePartitionsTopicResult::default()
        .with_name(name.clone())
        .with_error_code(error.map_or(0, |error| error.code.code()))
        .with_error_message(message)
}

/// The command, or none when a retry finds its work done.
fn plan_topic(
    request: &CreatePartitionsTopic,
    state: &MetadataState,
    context: &PlanContext<'_>,
    partitions_left: &mut usize,
    retry: bool,
) -> Result<Option<Command>, RowError> {
    let name: &str = &request.name;
    let Some(topic) = state.topic(name) else {
        let message = "This server does not host this topic-partition.";
        return Err(RowError::new(ResponseError::UnknownTopicOrPartition, message));
    };
    let now = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    if request.count == now && retry {
        return Ok(None);
    }
    if request.count == now {
        let message = format!("Topic already has {now} partition(s).");
        return Err(RowError::new(ResponseError::InvalidPartitions, message));
    }
    let Some(added) = request.count.checked_sub(now).filter(|added| *added > 0) else {
        let message = format!(
            "The topic {name} currently has {now} partition(s); {} would not be an increase.",
            request.count
        );
        return Err(RowError::new(ResponseError::InvalidPartitions, message));
    };
    let added = usize::try_from(added).unwrap_or(usize::MAX);
    *partitions_left = partitions_left.checked_sub(added).ok_or_else(|| {
        let message = "Excessively large number of partitions per request.";
        RowError::new(ResponseError::PolicyViolation, message)
    })?;
    let partitions = placements(request, topic, added, Placer::new(state, context.snapshot))?;
    Ok(Some(Command::AddPartitions { id: topic.id, first: now, partitions }))
}

fn placements(
    request: &CreatePartitionsTopic,
    topic: &Topic,
    added: usize,
    mut placer: Placer<'_>,
) -> Result<Vec<PartitionPlacement>, RowError> {
    let replication_factor = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    let Some(assignments) = &request.assignments else {
        return placer.automatic(added, replication_factor);
    };
    if assignments.len() != added {
        let message = format!(
            "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
            assignments.len()
        );
        return Err(RowError::new(ResponseError::InvalidReplicaAssignment, message));
    }
    let first = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    let mut partitions = Vec::with_capacity(added);
    for (number, assignment) in (first..).zip(assignments) {
        let nodes: Vec<NodeId> = assignment.broker_ids.iter().map(|id| NodeId(id.0)).collect();
        partitions.push(placer.manual(number, &nodes, Some(replication_factor))?);
    }
    Ok(partitions)
}
