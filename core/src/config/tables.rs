//! The configs of Kafka 4.3.1, read once from the two tables beside this file.
//!
//! `broker_configs.tsv` and `topic_configs.tsv` hold Kafka's documentation (name, type, default, valid values, importance,
//! update mode or server default) and two columns of ours: what chronik does with the config, and one sentence about it.

use std::sync::OnceLock;

use super::definition::{ConfigDefinition, ConfigError, Kind, Support, UpdateMode, Validator};
use super::suggest::nearest;

static BROKER_TABLE: &str = include_str!("broker_configs.tsv");
static TOPIC_TABLE: &str = include_str!("topic_configs.tsv");

/// All broker configs, sorted by name.
#[must_use]
pub fn broker_configs() -> &'static [ConfigDefinition] {
    static DEFINITIONS: OnceLock<Vec<ConfigDefinition>> = OnceLock::new();
    DEFINITIONS.get_or_init(|| sorted(BROKER_TABLE.lines().skip(1).map(broker_row)))
}

/// All topic configs, sorted by name.
#[must_use]
pub fn topic_configs() -> &'static [ConfigDefinition] {
    static DEFINITIONS: OnceLock<Vec<ConfigDefinition>> = OnceLock::new();
    DEFINITIONS.get_or_init(|| sorted(TOPIC_TABLE.lines().skip(1).map(topic_row)))
}

/// The broker config of this name.
///
/// # Errors
/// [`ConfigError::Unknown`], with the nearest name that exists.
pub fn broker_config(name: &str) -> Result<&'static ConfigDefinition, ConfigError> {
    find(broker_configs(), "broker", name)
}

/// The topic config of this name.
///
/// # Errors
/// [`ConfigError::Unknown`], with the nearest name that exists.
pub fn topic_config(name: &str) -> Result<&'static ConfigDefinition, ConfigError> {
    find(topic_configs(), "topic", name)
}

/// The broker configs that mean the same as this one, in the order in which they win: its own name first.
///
/// Kafka's `DynamicBrokerConfig.brokerConfigSynonyms`. The second value is the factor to this config's unit.
#[must_use]
pub fn broker_synonyms(name: &'static str) -> Vec<(&'static str, i64)> {
    const HOUR: i64 = 3_600_000;
    let others: &[(&'static str, i64)] = match name {
        "log.retention.ms" | "log.retention.minutes" | "log.retention.hours" => {
            &[("log.retention.ms", 1), ("log.retention.minutes", 60_000), ("log.retention.hours", HOUR)]
        }
        "log.roll.ms" | "log.roll.hours" => &[("log.roll.ms", 1), ("log.roll.hours", HOUR)],
        "log.roll.jitter.ms" | "log.roll.jitter.hours" => {
            &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR)]
        }
        "log.flush.interval.ms" => &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)],
        _ => return vec![(name, 1)],
    };
    others.to_vec()
}

fn sorted(definitions: impl Iterator<Item = ConfigDefinition>) -> Vec<ConfigDefinition> {
    let mut definitions: Vec<ConfigDefinition> = definitions.collect();
    definitions.sort_by_key(|definition| definition.name);
    definitions
}

fn find(
    definitions: &'static [ConfigDefinition],
    scope: &'static str,
    name: &str,
) -> Result<&'static ConfigDefinition, ConfigError> {
    definitions.binary_search_by(|definition| definition.name.cmp(name)).map(|at| &definitions[at]).map_err(
        |_| {
            let nearest = nearest(name, definitions.iter().map(|definition| definition.name));
            ConfigError::Unknown { scope, name: name.to_owned(), nearest }
        },
    )
}

/// # Panics
/// On a row that cannot be read: the tables are part of the program, and a test reads them all.
fn broker_row(line: &'static str) -> ConfigDefinition {
    let columns: Vec<&'static str> = line.split('\t').collect();
    let update_mode = match columns[5] {
        "read-only" => UpdateMode::ReadOnly,
        "per-broker" => UpdateMode::PerBroker,
        "cluster-wide" => UpdateMode::ClusterWide,
        other => panic!("update mode of {}: {other}", columns[0]),
    };
    ConfigDefinition { update_mode, server_default: None, ..common(&columns) }
}

/// # Panics
/// As [`broker_row`].
fn topic_row(line: &'static str) -> ConfigDefinition {
    let columns: Vec<&'static str> = line.split('\t').collect();
    let server_default = (columns[5] != "null").then_some(columns[5]);
    ConfigDefinition { update_mode: UpdateMode::ClusterWide, server_default, ..common(&columns) }
}

fn common(columns: &[&'static str]) -> ConfigDefinition {
    let name = columns[0];
    let support = match columns[6] {
        "honoured" => Support::Honoured,
        "accepted" => Support::Accepted,
        "unsupported" => Support::Unsupported,
        "node" => Support::Node(columns[7]),
        other => panic!("support of {name}: {other}"),
    };
    ConfigDefinition {
        name,
        kind: Kind::parse(columns[1]).unwrap_or_else(|| panic!("type of {name}")),
        default: match columns[2] {
            "null" => None,
            "\"\"" => Some(""),
            text => Some(text),
        },
        validator: Validator::parse(columns[3]).unwrap_or_else(|| panic!("valid values of {name}")),
        importance: columns[4],
        update_mode: UpdateMode::ReadOnly,
        support,
        server_default: None,
        documentation: if matches!(support, Support::Node(_)) { "" } else { columns[7] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_reads_and_every_default_passes_its_own_check() {
        assert_eq!(topic_configs().len(), 33);
        assert_eq!(broker_configs().len(), 343);
        for definition in topic_configs().iter().chain(broker_configs()) {
            let Some(default) = definition.default else { continue };
            if matches!(definition.support, Support::Node(_)) {
                continue;
            }
            // Kafka's own table gives "" to two lists that may not be set empty.
            if definition.validator == Validator::NonEmpty && default.is_empty() {
                continue;
            }
            assert_eq!(definition.check(default).as_deref(), Ok(default), "{}", definition.name);
        }
    }

    #[test]
    fn every_server_default_is_a_broker_config() {
        for definition in topic_configs() {
            if let Some(name) = definition.server_default {
                assert!(broker_config(name).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn bad_values_are_refused_with_kafkas_words() {
        let refused =
            |name: &str, value: &str| topic_config(name).unwrap().check(value).unwrap_err().to_string();
        assert_eq!(
            refused("retention.ms", "soon"),
            "Invalid value soon for configuration retention.ms: Not a number of type LONG"
        );
        assert_eq!(
            refused("retention.ms", "-2"),
            "Invalid value -2 for configuration retention.ms: Value must be at least -1"
        );
        assert!(refused("compression.type", "brotli").contains("must be one of: uncompressed, zstd"));
        assert!(refused("cleanup.policy", "delete,shred").contains("must be one of"));
        assert!(refused("remote.storage.enable", "true").contains("only false is accepted"));
        assert!(refused("preallocate", "yes").contains("either true or false"));
        assert!(refused("segment.bytes", "9999999999").contains("Not a number of type INT"));
        assert!(refused("leader.replication.throttled.replicas", "1-2").contains("partitionId"));
        let gzip = topic_config("compression.gzip.level").unwrap();
        assert!(gzip.check("0").is_err() && gzip.check("10").is_err() && gzip.check("-1").is_ok());
        let unknown = topic_config("retenton.ms").unwrap_err().to_string();
        assert_eq!(unknown, "Unknown topic config name: retenton.ms (did you mean retention.ms?)");
    }
}
