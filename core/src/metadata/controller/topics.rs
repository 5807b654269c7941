//! CreateTopics, and the topics that the broker makes by itself.

use std::sync::Arc;

use chronik_wal::types::NodeId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::members::internal_replicas;
use super::{
    Controller, Placer, Plan, PlanContext, REQUEST_CONFIG_BYTES_MAX, REQUEST_PARTITIONS_MAX, RowError,
};
use crate::config::broker::BrokerConfig;
use crate::config::layers::{BrokerLayers, ConfigMap, Source, topic_chain, topic_value};
use crate::config::tables::topic_configs;
use crate::config::topic::{check_topic_config, check_topic_configs};
use crate::metadata::command::{Command, PartitionPlacement};
use crate::metadata::names::{CLUSTER_METADATA, CONSUMER_OFFSETS, check_topic_name, is_internal};
use crate::metadata::state::{MetadataState, Topic};

/// A topic that passed every check.
struct NewTopic {
    configs: ConfigMap,
    partitions: Vec<PartitionPlacement>,
}

impl Controller {
    /// CreateTopics 0 to 7. One row for each name; those that pass are made together.
    pub fn plan_create_topics(
        &mut self,
        request: &CreateTopicsRequest,
        context: &mut PlanContext<'_>,
    ) -> Plan<CreateTopicsResponse> {
        let retry = self.is_retry(context);
        let layers = Arc::clone(&context.snapshot.layers);
        let (duplicates, singles) = split_duplicates(&request.topics);
        let mut rows: Vec<CreatableTopicResult> = duplicates.into_iter().map(duplicate_row).collect();
        let too_many = total_partitions(&singles, &context.snapshot.config) > REQUEST_PARTITIONS_MAX;
        let mut state = self.speculative.clone();
        let (mut commands, mut awaited) = (Vec::new(), Vec::new());
        let mut echo = Echo::default();
        let mut config_bytes_left = REQUEST_CONFIG_BYTES_MAX;
        for topic in singles {
            if let Some(existing) = state.topic(&topic.name).filter(|_| retry) {
                awaited.push(existing.id);
                rows.push(made_row(existing, &layers, &mut echo));
                continue;
            }
            let planned = match too_many {
                true => Err(RowError::new(
                    ResponseError::PolicyViolation,
                    "Excessively large number of partitions per request.",
                )),
                false => plan_topic(topic, &state, context, &mut config_bytes_left),
            };
            match planned {
                Ok(new) => {
                    let command = create_command((context.random)(), &topic.name, new);
                    let made = apply_create(&mut state, &command);
                    awaited.push(made.id);
                    rows.push(made_row(&made, &layers, &mut echo));
                    commands.push(command);
                }
                Err(error) => rows.push(failed_row(&topic.name, &error)),
            }
        }
        if request.validate_only {
            // Nothing is made, so there is no id to name.
            rows.iter_mut().for_each(|row| row.topic_id = Uuid::nil());
            (commands, awaited) = (Vec::new(), Vec::new());
        }
        let response = CreateTopicsResponse::default().with_topics(rows);
        self.finish_request(commands, response, awaited, context.request)
    }

    /// Makes the topics that a Metadata request named and that do not exist (field report 000: from any node).
    /// The response has the error of each name that cannot be made; a name that exists by now is no error.
    pub fn plan_auto_creation(
        &mut self,
        names: &[&str],
        context: &mut PlanContext<'_>,
    ) -> Plan<Vec<(String, ResponseError)>> {
        let mut state = self.speculative.clone();
        let (mut commands, mut awaited, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let mut partitions = 0;
        for name in names {
            if let Some(existing) = state.topic(name) {
                awaited.push(existing.id);
                continue;
            }
            let mut config_bytes_left = REQUEST_CONFIG_BYTES_MAX;
            let topic = automatic_topic(name, &context.snapshot.config);
            partitions += usize::try_from(topic.num_partitions).unwrap_or(1);
            if partitions > REQUEST_PARTITIONS_MAX {
                // The client asks again for those that are still missing.
                failed.push(((*name).to_owned(), ResponseError::UnknownTopicOrPartition));
                continue;
            }
            let planned = match is_internal(name) {
                true => plan_internal(&topic, &state, context),
                false => plan_topic(&topic, &state, context, &mut config_bytes_left),
            };
            match planned {
                Ok(new) => {
                    let command = create_command((context.random)(), name, new);
                    awaited.push(apply_create(&mut state, &command).id);
                    commands.push(command);
                }
                Err(error) => failed.push(((*name).to_owned(), error.code)),
            }
        }
        self.finish_request(commands, failed, awaited, context.request)
    }

    /// Makes `__consumer_offsets` if it is not there: on the first FindCoordinator.
    pub fn plan_offsets_topic(
        &mut self,
        context: &mut PlanContext<'_>,
    ) -> Plan<Vec<(String, ResponseError)>> {
        self.plan_auto_creation(&[CONSUMER_OFFSETS], context)
    }
}

pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(super) fn message(error: &RowError) -> Option<StrBytes> {
    Some(text(&error.message))
}

/// Names that occur more than once, each once; and the topics whose names occur once.
fn split_duplicates(topics: &[CreatableTopic]) -> (Vec<&TopicName>, Vec<&CreatableTopic>) {
    let mut counts = std::collections::BTreeMap::new();
    topics.iter().for_each(|topic| *counts.entry(&topic.name).or_insert(0) += 1);
    let duplicates = counts.iter().filter(|(_, count)| **count > 1).map(|(name, _)| *name).collect();
    (duplicates, topics.iter().filter(|topic| counts[&topic.name] == 1).collect())
}

fn total_partitions(topics: &[&CreatableTopic], config: &BrokerConfig) -> usize {
    topics.iter().map(|topic| partitions_of(topic, config)).fold(0, usize::saturating_add)
}

/// How many partitions a topic is to have; 0 where the request makes no sense.
#[must_use]
pub fn partitions_of(topic: &CreatableTopic, config: &BrokerConfig) -> usize {
    match (topic.assignments.len(), topic.num_partitions) {
        (0, -1) => usize::try_from(config.num_partitions).unwrap_or(0),
        (0, count) => usize::try_from(count).unwrap_or(0),
        (assigned, _) => assigned,
    }
}

fn plan_topic(
    topic: &CreatableTopic,
    state: &MetadataState,
    context: &PlanContext<'_>,
    config_bytes_left: &mut usize,
) -> Result<NewTopic, RowError> {
    let name: &str = &topic.name;
    check_topic_name(name).map_err(|e| RowError::new(ResponseError::InvalidTopicException, e.to_string()))?;
    if name == CLUSTER_METADATA {
        let message = "Creation of internal topic __cluster_metadata is prohibited.";
        return Err(RowError::new(ResponseError::InvalidRequest, message));
    }
    if state.topic(name).is_some() {
        return Err(RowError::new(
            ResponseError::TopicAlreadyExists,
            format!("Topic '{name}' already exists."),
        ));
    }
    if let Some(other) = state.colliding_topic(name) {
        return Err(RowError::new(
            ResponseError::InvalidTopicException,
            format!("Topic '{name}' collides with existing topic: {other}"),
        ));
    }
    // The broker keeps state in its own topics; whoever makes one by hand gets what the broker would have made.
    if is_internal(name) {
        return plan_internal(topic, state, context);
    }
    let configs = requested_configs(topic, config_bytes_left)?;
    let partitions = requested_partitions(topic, state, context)?;
    Ok(NewTopic { configs, partitions })
}

/// An internal topic: configs are the broker's, since its own coordinators rely on them.
fn plan_internal(
    topic: &CreatableTopic,
    state: &MetadataState,
    context: &PlanContext<'_>,
) -> Result<NewTopic, RowError> {
    if &**topic.name != CONSUMER_OFFSETS {
        let message = "The transaction coordinator is not available on this broker.";
        return Err(RowError::new(ResponseError::InvalidTopicException, message));
    }
    let segment_bytes = context.snapshot.config.offsets_topic_segment_bytes.to_string();
    let configs =
        [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", &segment_bytes)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut topic = topic.clone();
    if topic.assignments.is_empty() {
        // As many as there are brokers for: it gets more when more come.
        let live = state.brokers().keys().filter(|node| !context.snapshot.fenced.contains(node)).count();
        let replicas = internal_replicas(context.snapshot, live);
        topic.replication_factor = i16::try_from(replicas).unwrap_or(i16::MAX);
    }
    let partitions = requested_partitions(&topic, state, context)?;
    Ok(NewTopic { configs: configs.into(), partitions })
}

fn requested_configs(topic: &CreatableTopic, bytes_left: &mut usize) -> Result<ConfigMap, RowError> {
    let refuse = |message: String| RowError::new(ResponseError::InvalidConfig, message);
    let mut configs = ConfigMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return Err(refuse(format!("Null value not supported for topic configs: {}", &*config.name)));
        };
        *bytes_left = bytes_left.checked_sub(value.len()).ok_or_else(|| {
            let message = "The config values of this request are too large together.";
            RowError::new(ResponseError::PolicyViolation, message)
        })?;
        let value = check_topic_config(&config.name, value).map_err(|error| refuse(error.to_string()))?;
        configs.insert(config.name.to_string(), value);
    }
    check_topic_configs(&configs).map_err(|error| refuse(error.to_string()))?;
    Ok(configs)
}

fn requested_partitions(
    topic: &CreatableTopic,
    state: &MetadataState,
    context: &PlanContext<'_>,
) -> Result<Vec<PartitionPlacement>, RowError> {
    let mut placer = Placer::new(state, context.snapshot);
    let invalid = |message: &str| Err(RowError::new(ResponseError::InvalidRequest, message));
    if !topic.assignments.is_empty() {
        if topic.replication_factor != -1 {
            return invalid(
                "A manual partition assignment was specified, but replication factor was not set to -1.",
            );
        }
        if topic.num_partitions != -1 {
            return invalid(
                "A manual partition assignment was specified, but numPartitions was not set to -1.",
            );
        }
        return assigned_partitions(topic, &mut placer);
    }
    let config = &context.snapshot.config;
    let replication_factor = match topic.replication_factor {
        -1 => config.default_replication_factor,
        factor => factor,
    };
    let Some(replication_factor) = usize::try_from(replication_factor).ok().filter(|factor| *factor > 0)
    else {
        let message = "Replication factor must be larger than 0, or -1 to use the default value.";
        return Err(RowError::new(ResponseError::InvalidReplicationFactor, message));
    };
    let count = if topic.num_partitions == -1 { config.num_partitions } else { topic.num_partitions };
    let Some(count) = usize::try_from(count).ok().filter(|count| *count > 0) else {
        let message = "Number of partitions was set to an invalid non-positive value.";
        return Err(RowError::new(ResponseError::InvalidPartitions, message));
    };
    placer.automatic(count, replication_factor)
}

fn assigned_partitions(
    topic: &CreatableTopic,
    placer: &mut Placer<'_>,
) -> Result<Vec<PartitionPlacement>, RowError> {
    let mut sorted: Vec<_> = topic.assignments.iter().collect();
    sorted.sort_by_key(|assignment| assignment.partition_index);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].partition_index == pair[1].partition_index) {
        let message =
            format!("Found multiple manual partition assignments for partition {}", pair[0].partition_index);
        return Err(RowError::new(ResponseError::InvalidReplicaAssignment, message));
    }
    let mut partitions: Vec<PartitionPlacement> = Vec::with_capacity(sorted.len());
    for (number, assignment) in (0i32..).zip(sorted) {
        let nodes: Vec<NodeId> = assignment.broker_ids.iter().map(|id| NodeId(id.0)).collect();
        let expected = partitions.first().map(|first| first.replicas.len());
        let placed = placer.manual(assignment.partition_index, &nodes, expected)?;
        if assignment.partition_index != number {
            let message = "partitions should be a consecutive 0-based integer sequence";
            return Err(RowError::new(ResponseError::InvalidReplicaAssignment, message));
        }
        partitions.push(placed);
    }
    Ok(partitions)
}

/// What the broker asks of itself when a topic is made without anybody's CreateTopics.
fn automatic_topic(name: &str, config: &BrokerConfig) -> CreatableTopic {
    let (partitions, replication_factor) = match name {
        CONSUMER_OFFSETS => (config.offsets_topic_num_partitions, config.offsets_topic_replication_factor),
        _ => (config.num_partitions, config.default_replication_factor),
    };
    CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
}

fn create_command(id: Uuid, name: &str, new: NewTopic) -> Command {
    Command::CreateTopic { id, name: name.to_owned(), configs: new.configs, partitions: new.partitions }
}

/// Applies a planned creation to the state that the next topic of the same request is planned on.
fn apply_create(state: &mut MetadataState, command: &Command) -> Arc<Topic> {
    let Command::CreateTopic { name, .. } = command else { unreachable!("only creations come here") };
    let applied = state.apply(command);
    assert!(applied.is_ok(), "planned a topic that does not fit: {applied:?}");
    Arc::clone(state.topic(name).expect("just made"))
}

fn duplicate_row(name: &TopicName) -> CreatableTopicResult {
    failed_row(name, &RowError::new(ResponseError::InvalidRequest, "Duplicate topic name."))
}

fn failed_row(name: &TopicName, error: &RowError) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name.clone())
        .with_error_code(error.code.code())
        .with_error_message(message(error))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(Some(Vec::new()))
}

/// The configs of the topic before, as its row has them: most topics of a request have the same, and each row has some thirty.
#[derive(Default)]
struct Echo {
    last: Option<(Arc<ConfigMap>, Vec<CreatableTopicConfigs>)>,
}

impl Echo {
    fn of(&mut self, configs: &Arc<ConfigMap>, layers: &BrokerLayers) -> Vec<CreatableTopicConfigs> {
        match &self.last {
            Some((known, rows)) if known == configs => rows.clone(),
            _ => {
                let rows = echoed_configs(configs, layers);
                self.last = Some((Arc::clone(configs), rows.clone()));
                rows
            }
        }
    }
}

fn made_row(topic: &Topic, layers: &BrokerLayers, echo: &mut Echo) -> CreatableTopicResult {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let replicas = topic.partitions.first().map_or(0, |partition| partition.replicas.len());
    CreatableTopicResult::default()
        .with_name(TopicName(text(&topic.name)))
        .with_topic_id(topic.id)
        .with_error_message(None)
        .with_num_partitions(count(topic.partitions.len()))
        .with_replication_factor(i16::try_from(replicas).unwrap_or(i16::MAX))
        .with_configs(Some(echo.of(&topic.configs, layers)))
}

fn echoed_configs(configs: &ConfigMap, layers: &BrokerLayers) -> Vec<CreatableTopicConfigs> {
    let row = |definition| {
        let chain = topic_chain(definition, configs, layers);
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(definition.name))
            .with_value(Some(StrBytes::from_string(topic_value(definition, configs, layers))))
            .with_read_only(false)
            .with_config_source(chain.first().map_or(Source::Default, |first| first.source) as i8)
            .with_is_sensitive(definition.is_sensitive())
    };
    topic_configs().iter().map(row).collect()
}
