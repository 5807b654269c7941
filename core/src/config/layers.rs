//! Where the value of a config comes from, and which one wins.
//!
//! For a broker, best first: set for this broker, set for all brokers (both in the metadata log), the node's own
//! configuration, Kafka's default. A topic's own value wins over all of them (KIP-226).
//!
//! Pure, immutable once published; part of the metadata snapshot of this node. Every value in it has passed its check.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::definition::ConfigDefinition;
use super::tables::{broker_config, broker_synonyms};

/// Configs by name, as they were set.
pub type ConfigMap = BTreeMap<String, String>;

/// Where a value was set; the numbers are DescribeConfigs' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// On the topic.
    Topic = 1,
    /// For this broker, while running.
    DynamicBroker = 2,
    /// For all brokers, while running.
    DynamicDefault = 3,
    /// In the node's file, environment or flags.
    Static = 4,
    /// Nowhere.
    Default = 5,
}

/// One place that gives a config a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcedValue {
    /// The name it was set by: the config's own, or one that means the same.
    pub name: &'static str,
    /// The value, in the unit of `name`.
    pub value: String,
    /// Where.
    pub source: Source,
    /// What to multiply by to come to the unit of the config that was asked for.
    factor: i64,
}

/// The layers of one broker's configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BrokerLayers {
    /// What the node was started with.
    pub fixed: Arc<ConfigMap>,
    /// Set for all brokers, in the metadata log.
    pub cluster: Arc<ConfigMap>,
    /// Set for this broker, in the metadata log.
    pub broker: Arc<ConfigMap>,
}

impl BrokerLayers {
    /// Every place that gives `name` a value, the one that wins first; its synonyms included.
    #[must_use]
    pub fn chain(&self, name: &'static str) -> Vec<SourcedValue> {
        let synonyms = broker_synonyms(name);
        let layers = [
            (Source::DynamicBroker, &self.broker),
            (Source::DynamicDefault, &self.cluster),
            (Source::Static, &self.fixed),
        ];
        let mut found = Vec::new();
        for (source, layer) in layers {
            for (synonym, factor) in &synonyms {
                if let Some(value) = layer.get(*synonym) {
                    found.push(SourcedValue { name: synonym, value: value.clone(), source, factor: *factor });
                }
            }
        }
        for (synonym, factor) in synonyms {
            let default = broker_config(synonym).ok().and_then(|definition| definition.default);
            if let Some(value) = default {
                let value = value.to_owned();
                found.push(SourcedValue { name: synonym, value, source: Source::Default, factor });
            }
        }
        found
    }

    /// The value that counts for `name`, in its own unit: its own or a synonym's. `None` for null.
    #[must_use]
    pub fn effective(&self, name: &'static str) -> Option<String> {
        self.chain(name).into_iter().next().map(|first| first.in_unit_asked_for())
    }

    /// The value set by this very name, as DescribeConfigs shows it.
    #[must_use]
    pub fn own(&self, name: &'static str) -> Option<String> {
        self.chain(name).into_iter().find(|entry| entry.name == name).map(|entry| entry.value)
    }
}

impl SourcedValue {
    /// The value in the unit of the config that was asked for. Negative numbers mean "none" in every unit.
    #[must_use]
    pub fn in_unit_asked_for(self) -> String {
        match self.value.parse::<i64>() {
            Ok(number) if self.factor != 1 && number > 0 => number.saturating_mul(self.factor).to_string(),
            _ => self.value,
        }
    }
}

/// Every place that gives a topic's config a value, the one that wins first. Empty when only Kafka's default applies
/// and no broker config stands behind it.
#[must_use]
pub fn topic_chain(
    definition: &ConfigDefinition,
    overrides: &ConfigMap,
    layers: &BrokerLayers,
) -> Vec<SourcedValue> {
    let mut chain = Vec::new();
    if let Some(value) = overrides.get(definition.name) {
        chain.push(SourcedValue {
            name: definition.name,
            value: value.clone(),
            source: Source::Topic,
            factor: 1,
        });
    }
    if let Some(server_default) = definition.server_default {
        chain.extend(layers.chain(server_default));
    }
    chain
}

/// The value that counts for a topic.
#[must_use]
pub fn topic_value(definition: &ConfigDefinition, overrides: &ConfigMap, layers: &BrokerLayers) -> String {
    match topic_chain(definition, overrides, layers).into_iter().next() {
        Some(first) => first.in_unit_asked_for(),
        None => definition.default.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tables::topic_config;

    fn map(entries: &[(&str, &str)]) -> ConfigMap {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_nearest_layer_wins_and_units_are_converted() {
        let retention = topic_config("retention.ms").unwrap();
        let mut layers = BrokerLayers::default();
        let none = ConfigMap::new();
        assert_eq!(topic_value(retention, &none, &layers), "604800000");
        layers.fixed = Arc::new(map(&[("log.retention.minutes", "2")]));
        assert_eq!(topic_value(retention, &none, &layers), "120000");
        layers.fixed = Arc::new(map(&[("log.retention.minutes", "2"), ("log.retention.ms", "-1")]));
        assert_eq!(topic_value(retention, &none, &layers), "-1");
        layers.cluster = Arc::new(map(&[("log.retention.ms", "5000")]));
        assert_eq!(topic_value(retention, &none, &layers), "5000");
        layers.broker = Arc::new(map(&[("log.retention.ms", "6000")]));
        assert_eq!(topic_value(retention, &none, &layers), "6000");
        let own = map(&[("retention.ms", "7000")]);
        assert_eq!(topic_value(retention, &own, &layers), "7000");
        let sources: Vec<Source> =
            topic_chain(retention, &own, &layers).into_iter().map(|entry| entry.source).collect();
        assert_eq!(
            sources,
            [
                Source::Topic,
                Source::DynamicBroker,
                Source::DynamicDefault,
                Source::Static,
                Source::Static,
                Source::Default
            ]
        );
    }

    #[test]
    fn minus_one_hours_is_for_ever() {
        let retention = topic_config("retention.ms").unwrap();
        let layers = BrokerLayers {
            fixed: Arc::new(map(&[("log.retention.hours", "-1")])),
            ..BrokerLayers::default()
        };
        assert_eq!(topic_value(retention, &ConfigMap::new(), &layers), "-1");
    }
}
