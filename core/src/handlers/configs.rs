//! DescribeConfigs 1 to 4: every config that Kafka 4.3.1 knows, with its value here and where that comes from.
//!
//! Topics are described by any node, a broker only by itself: what it was started with is known to nobody else.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::config::definition::{ConfigDefinition, UpdateMode};
use crate::config::layers::{BrokerLayers, ConfigMap, Source, SourcedValue, topic_chain, topic_value};
use crate::config::tables::{broker_configs, topic_configs};
use crate::metadata::controller::configs::{RESOURCE_BROKER, RESOURCE_TOPIC};
use crate::metadata::names::check_topic_name;
use crate::metadata::snapshot::Snapshot;

/// Raft elects no unclean leader whatever is set, and says so.
const NEVER_UNCLEAN: &str = "unclean.leader.election.enable";

/// Answers a DescribeConfigs request.
#[must_use]
pub fn describe_configs(snapshot: &Snapshot, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    // A resource named many times is described once; a small frame must not ask for a million listings.
    let mut seen = BTreeSet::new();
    let fresh = request.resources.iter().filter(|resource| {
        let keys: Option<Vec<&str>> =
            resource.configuration_keys.as_ref().map(|keys| keys.iter().map(|key| &**key).collect());
        seen.insert((resource.resource_type, &*resource.resource_name, keys))
    });
    let results = fresh.map(|resource| {
        let row = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match describe(snapshot, request, resource) {
            Ok(configs) => row.with_error_message(None).with_configs(configs),
            Err((code, message)) => {
                row.with_error_code(code.code()).with_error_message(Some(StrBytes::from_string(message)))
            }
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

type Described = Result<Vec<DescribeConfigsResourceResult>, (ResponseError, String)>;

fn describe(
    snapshot: &Snapshot,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
) -> Described {
    let wanted = Wanted {
        keys: resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()),
        synonyms: request.include_synonyms,
        documentation: request.include_documentation,
    };
    let invalid = |message: String| Err((ResponseError::InvalidRequest, message));
    match (resource.resource_type, &*resource.resource_name) {
        (RESOURCE_TOPIC, name) => {
            check_topic_name(name).map_err(|e| (ResponseError::InvalidTopicException, e.to_string()))?;
            let Some(topic) = snapshot.topic(name) else {
                let message = "This server does not host this topic-partition.".to_owned();
                return Err((ResponseError::UnknownTopicOrPartition, message));
            };
            Ok(wanted.of_topic(&topic.overrides, &snapshot.layers))
        }
        (RESOURCE_BROKER, "") => Ok(wanted.of_all_brokers(&snapshot.layers)),
        (RESOURCE_BROKER, name) if name.parse() == Ok(snapshot.node.0) => {
            Ok(wanted.of_broker(&snapshot.layers))
        }
        (RESOURCE_BROKER, name) => invalid(format!(
            "Unexpected broker id, expected {} or empty string, but received {name}",
            snapshot.node
        )),
        (kind, _) => invalid(format!("Resource type {kind} is not supported by this broker.")),
    }
}

struct Wanted<'a> {
    keys: Option<&'a Vec<StrBytes>>,
    synonyms: bool,
    documentation: bool,
}

impl Wanted<'_> {
    fn includes(&self, name: &str) -> bool {
        self.keys.is_none_or(|keys| keys.iter().any(|key| &**key == name))
    }

    fn of_topic(&self, overrides: &ConfigMap, layers: &BrokerLayers) -> Vec<DescribeConfigsResourceResult> {
        let wanted = topic_configs().iter().filter(|definition| self.includes(definition.name));
        wanted
            .map(|definition| {
                let value = Some(topic_value(definition, overrides, layers));
                self.row(definition, value, topic_chain(definition, overrides, layers), false)
            })
            .collect()
    }

    fn of_broker(&self, layers: &BrokerLayers) -> Vec<DescribeConfigsResourceResult> {
        let wanted = broker_configs().iter().filter(|definition| self.includes(definition.name));
        wanted
            .map(|definition| {
                let read_only = definition.update_mode == UpdateMode::ReadOnly;
                self.row(definition, layers.own(definition.name), layers.chain(definition.name), read_only)
            })
            .collect()
    }

    /// Only what is set for all brokers.
    fn of_all_brokers(&self, layers: &BrokerLayers) -> Vec<DescribeConfigsResourceResult> {
        let set = broker_configs().iter().filter(|definition| layers.cluster.contains_key(definition.name));
        set.filter(|definition| self.includes(definition.name))
            .map(|definition| {
                let chain = layers.chain(definition.name);
                let chain =
                    chain.into_iter().filter(|entry| entry.source == Source::DynamicDefault).collect();
                let value = layers.cluster.get(definition.name).cloned();
                self.row(definition, value, chain, definition.update_mode == UpdateMode::ReadOnly)
            })
            .collect()
    }

    fn row(
        &self,
        definition: &'static ConfigDefinition,
        value: Option<String>,
        chain: Vec<SourcedValue>,
        read_only: bool,
    ) -> DescribeConfigsResourceResult {
        let shown = |value: String| match definition.is_sensitive() {
            true => None,
            false if definition.name == NEVER_UNCLEAN => Some(StrBytes::from_static_str("false")),
            false => Some(StrBytes::from_string(value)),
        };
        let source = chain.first().map_or(Source::Default, |first| first.source);
        let synonym = |entry: SourcedValue| {
            DescribeConfigsSynonym::default()
                .with_name(StrBytes::from_static_str(entry.name))
                .with_value(shown(entry.value))
                .with_source(entry.source as i8)
        };
        let synonyms = if self.synonyms { chain.into_iter().map(synonym).collect() } else { Vec::new() };
        let documentation = self.documentation && !definition.documentation.is_empty();
        DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_static_str(definition.name))
            .with_value(value.and_then(shown))
            .with_read_only(read_only)
            .with_config_source(source as i8)
            .with_is_sensitive(definition.is_sensitive())
            .with_synonyms(synonyms)
            .with_config_type(definition.kind.wire_number())
            .with_documentation(documentation.then(|| StrBytes::from_static_str(definition.documentation)))
    }
}
