//! AlterConfigs and IncrementalAlterConfigs: of topics, of one broker, of all brokers.

use std::collections::{BTreeMap, BTreeSet};

use chronik_wal::types::NodeId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalRow;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Controller, Plan, PlanContext, REQUEST_CONFIG_BYTES_MAX, RowError};
use crate::config::broker::check_dynamic;
use crate::config::definition::{ConfigDefinition, ConfigError, Kind, split_list};
use crate::config::layers::{BrokerLayers, ConfigMap, topic_value};
use crate::config::tables::{broker_config, topic_config};
use crate::config::topic::{check_together, check_topic_config};
use crate::metadata::command::{Command, ConfigScope};
use crate::metadata::names::is_internal;
use crate::metadata::state::MetadataState;

/// Resource type of a topic.
pub const RESOURCE_TOPIC: i8 = 2;
/// Resource type of a broker; the empty name means all brokers.
pub const RESOURCE_BROKER: i8 = 4;

/// What to do with one config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Set,
    Delete,
    Append,
    Subtract,
}

struct Alteration<'a> {
    name: &'a str,
    operation: Operation,
    value: Option<&'a str>,
}

/// One resource of either request.
struct Resource<'a> {
    kind: i8,
    name: &'a str,
    /// The legacy request: whatever is not named is removed.
    replace: bool,
    alterations: Result<Vec<Alteration<'a>>, RowError>,
}

impl Controller {
    /// AlterConfigs 0 to 2: each resource gets exactly the configs that are named.
    pub fn plan_alter_configs(
        &mut self,
        request: &AlterConfigsRequest,
        context: &PlanContext<'_>,
    ) -> Plan<AlterConfigsResponse> {
        let resources = request.resources.iter().map(|resource| Resource {
            kind: resource.resource_type,
            name: &resource.resource_name,
            replace: true,
            alterations: Ok(resource
                .configs
                .iter()
                .map(|config| Alteration {
                    name: &config.name,
                    operation: Operation::Set,
                    value: config.value.as_deref(),
                })
                .collect()),
        });
        let (commands, errors) = self.plan_resources(resources.collect(), context);
        let rows = request.resources.iter().zip(errors).map(|(resource, error)| {
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_code(error.as_ref().map_or(0, |error| error.code.code()))
                .with_error_message(error.map(|error| StrBytes::from_string(error.message)))
        });
        let response = AlterConfigsResponse::default().with_responses(rows.collect());
        let commands = if request.validate_only { Vec::new() } else { commands };
        self.finish_request(commands, response, Vec::new(), context.request)
    }

    /// IncrementalAlterConfigs 0 to 1: SET, DELETE, APPEND, SUBTRACT.
    pub fn plan_incremental_alter_configs(
        &mut self,
        request: &IncrementalAlterConfigsRequest,
        context: &PlanContext<'_>,
    ) -> Plan<IncrementalAlterConfigsResponse> {
        let resources = request.resources.iter().map(|resource| Resource {
            kind: resource.resource_type,
            name: &resource.resource_name,
            replace: false,
            alterations: resource
                .configs
                .iter()
                .map(|config| {
                    let operation = operation(config.config_operation)?;
                    Ok(Alteration { name: &config.name, operation, value: config.value.as_deref() })
                })
                .collect(),
        });
        let (commands, errors) = self.plan_resources(resources.collect(), context);
        let rows = request.resources.iter().zip(errors).map(|(resource, error)| {
            IncrementalRow::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_code(error.as_ref().map_or(0, |error| error.code.code()))
                .with_error_message(error.map(|error| StrBytes::from_string(error.message)))
        });
        let response = IncrementalAlterConfigsResponse::default().with_responses(rows.collect());
        let commands = if request.validate_only { Vec::new() } else { commands };
        self.finish_request(commands, response, Vec::new(), context.request)
    }

    fn plan_resources(
        &self,
        resources: Vec<Resource<'_>>,
        context: &PlanContext<'_>,
    ) -> (Vec<Command>, Vec<Option<RowError>>) {
        let mut counts: BTreeMap<(i8, &str), usize> = BTreeMap::new();
        resources.iter().for_each(|r| *counts.entry((r.kind, r.name)).or_default() += 1);
        let mut bytes_left = REQUEST_CONFIG_BYTES_MAX;
        let (mut commands, mut errors) = (Vec::new(), Vec::new());
        for resource in &resources {
            let planned = match counts[&(resource.kind, resource.name)] {
                1 => plan_resource(resource, &self.speculative, &context.snapshot.layers, &mut bytes_left),
                _ => Err(invalid_request("Each resource must appear at most once.")),
            };
            match planned {
                Ok(command) => {
                    commands.extend(command);
                    errors.push(None);
                }
                Err(error) => errors.push(Some(error)),
            }
        }
        (commands, errors)
    }
}

fn invalid_request(message: impl Into<String>) -> RowError {
    RowError::new(ResponseError::InvalidRequest, message)
}

fn operation(number: i8) -> Result<Operation, RowError> {
    Ok(match number {
        0 => Operation::Set,
        1 => Operation::Delete,
        2 => Operation::Append,
        3 => Operation::Subtract,
        other => return Err(invalid_request(format!("Unknown operation type id {other}"))),
    })
}

fn config_error(error: &ConfigError) -> RowError {
    let code = match error {
        ConfigError::ReadOnly { .. } | ConfigError::OneBrokerOnly { .. } => ResponseError::InvalidRequest,
        _ => ResponseError::InvalidConfig,
    };
    RowError::new(code, error.to_string())
}

/// The command for one resource; none when nothing is to change.
fn plan_resource(
    resource: &Resource<'_>,
    state: &MetadataState,
    layers: &BrokerLayers,
    bytes_left: &mut usize,
) -> Result<Option<Command>, RowError> {
    let alterations = resource.alterations.as_ref().map_err(RowError::clone)?;
    check_shape(alterations, bytes_left)?;
    let (scope, current) = find_resource(resource, state)?;
    let mut changes = BTreeMap::new();
    if resource.replace {
        let kept: BTreeSet<&str> = alterations.iter().map(|alteration| alteration.name).collect();
        let removed = current.keys().filter(|name| !kept.contains(name.as_str()));
        changes.extend(removed.map(|name| (name.clone(), None)));
    }
    for alteration in alterations {
        let value = altered_value(alteration, &scope, current, layers)?;
        changes.insert(alteration.name.to_owned(), value);
    }
    if matches!(scope, ConfigScope::Topic(_)) && is_internal(resource.name) {
        keep_internal_policy(resource.replace, &mut changes)?;
    }
    changes.retain(|name, value| current.get(name) != value.as_ref());
    let mut after = current.clone();
    for (name, value) in &changes {
        match value {
            Some(value) => after.insert(name.clone(), value.clone()),
            None => after.remove(name),
        };
    }
    if matches!(scope, ConfigScope::Topic(_)) {
        check_together(&after).map_err(|error| config_error(&error))?;
    }
    Ok((!changes.is_empty()).then_some(Command::ChangeConfigs { scope, changes }))
}

fn check_shape(alterations: &[Alteration<'_>], bytes_left: &mut usize) -> Result<(), RowError> {
    let mut seen = BTreeSet::new();
    for alteration in alterations {
        if !seen.insert(alteration.name) {
            return Err(invalid_request(format!("Error due to duplicate config keys : {}", alteration.name)));
        }
        if alteration.value.is_none() && alteration.operation != Operation::Delete {
            return Err(invalid_request(format!("Null value not supported for : {}", alteration.name)));
        }
        let bytes = alteration.value.map_or(0, str::len);
        *bytes_left = bytes_left.checked_sub(bytes).ok_or_else(|| {
            let message = "The config values of this request are too large together.";
            RowError::new(ResponseError::PolicyViolation, message)
        })?;
    }
    Ok(())
}

/// Whose configs these are, and what is set now.
fn find_resource<'a>(
    resource: &Resource<'_>,
    state: &'a MetadataState,
) -> Result<(ConfigScope, &'a ConfigMap), RowError> {
    match (resource.kind, resource.name) {
        (RESOURCE_TOPIC, name) => match state.topic(name) {
            Some(topic) => Ok((ConfigScope::Topic(topic.id), &topic.configs)),
            None => Err(RowError::new(
                ResponseError::UnknownTopicOrPartition,
                format!("The topic '{name}' does not exist."),
            )),
        },
        (RESOURCE_BROKER, "") => Ok((ConfigScope::Cluster, state.cluster_configs())),
        (RESOURCE_BROKER, name) => {
            let node: i32 = name
                .parse()
                .map_err(|_| invalid_request(format!("Node id must be an integer, but it is: {name}")))?;
            let node = NodeId(node);
            if !state.brokers().contains_key(&node) {
                let message = format!("No broker with id {node} found.");
                return Err(RowError::new(ResponseError::BrokerIdNotRegistered, message));
            }
            Ok((ConfigScope::Broker(node), state.set_for_broker(node)))
        }
        (kind, _) => Err(invalid_request(format!("Resource type {kind} is not supported by this broker."))),
    }
}

/// What the config is to be; none to remove it.
fn altered_value(
    alteration: &Alteration<'_>,
    scope: &ConfigScope,
    current: &ConfigMap,
    layers: &BrokerLayers,
) -> Result<Option<String>, RowError> {
    let of_topic = matches!(scope, ConfigScope::Topic(_));
    let definition = if of_topic { topic_config(alteration.name) } else { broker_config(alteration.name) };
    let for_all = *scope == ConfigScope::Cluster;
    if alteration.operation == Operation::Delete {
        // What cannot be set is not set: Kafka refuses no removal (asked of 4.3.1).
        return Ok(None);
    }
    let definition = definition.map_err(|error| config_error(&error))?;
    let given = alteration.value.unwrap_or_default();
    let value = match alteration.operation {
        Operation::Append | Operation::Subtract => {
            let now = value_now(definition, of_topic, current, layers);
            merged_list(definition, alteration.operation, &now, given)?
        }
        Operation::Set | Operation::Delete => given.to_owned(),
    };
    let checked = match of_topic {
        true => check_topic_config(definition.name, &value),
        false => check_dynamic(definition.name, &value, for_all),
    };
    checked.map(Some).map_err(|error| match (&error, of_topic) {
        // Kafka answers a value that a broker config cannot have so, and only of a topic with INVALID_CONFIG (asked of 4.3.1).
        (ConfigError::BadValue { .. }, false) => invalid_request(error.to_string()),
        _ => config_error(&error),
    })
}

fn value_now(
    definition: &'static ConfigDefinition,
    of_topic: bool,
    current: &ConfigMap,
    layers: &BrokerLayers,
) -> String {
    match (of_topic, current.get(definition.name)) {
        (_, Some(value)) => value.clone(),
        (true, None) => topic_value(definition, current, layers),
        (false, None) => layers.effective(definition.name).unwrap_or_default(),
    }
}

fn merged_list(
    definition: &ConfigDefinition,
    operation: Operation,
    now: &str,
    given: &str,
) -> Result<String, RowError> {
    if definition.kind != Kind::List {
        let verb = if operation == Operation::Append { "APPEND to" } else { "SUBTRACT from" };
        let message = format!("Can't {verb} key {} because its type is not LIST.", definition.name);
        return Err(RowError::new(ResponseError::InvalidConfig, message));
    }
    let mut items = split_list(now);
    let given = split_list(given);
    match operation {
        Operation::Subtract => items.retain(|item| !given.contains(item)),
        _ => {
            for item in given {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
        }
    }
    Ok(items.join(","))
}

/// The coordinators rely on the policy of their topics: it stays as the broker set it.
fn keep_internal_policy(
    replace: bool,
    changes: &mut BTreeMap<String, Option<String>>,
) -> Result<(), RowError> {
    match changes.get("cleanup.policy") {
        None => Ok(()),
        Some(None) if replace => {
            changes.remove("cleanup.policy");
            Ok(())
        }
        Some(_) => Err(RowError::new(
            ResponseError::InvalidConfig,
            "cleanup.policy of an internal topic is set by the broker",
        )),
    }
}
