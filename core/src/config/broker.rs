//! A broker's configuration: checking what somebody sets, and the typed view of what the broker acts on.
//!
//! The typed view is made at start-up and whenever the metadata log changes a broker config; every shard reads it in the snapshot.

use super::definition::{ConfigDefinition, ConfigError, Kind, UpdateMode};
use super::layers::BrokerLayers;
use super::tables::broker_config;
use super::topic::MESSAGE_BYTES_MAX;

/// Most partitions that any default may ask for (Kafka bounds one request in the same way).
pub const PARTITIONS_MAX: i32 = 10_000;

/// What the broker acts on. Kafka's names with underscores; units last.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // Each field is the config of that name; its meaning stands in `broker_configs.tsv`.
pub struct BrokerConfig {
    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics_enable: bool,
    pub delete_topic_enable: bool,
    pub min_insync_replicas: i32,
    pub message_max_bytes: i32,
    pub offsets_topic_num_partitions: i32,
    pub offsets_topic_replication_factor: i16,
    pub offsets_topic_segment_bytes: i32,
    pub offsets_retention_minutes: i32,
    pub offsets_retention_check_interval_ms: i64,
    pub offsets_commit_timeout_ms: i32,
    pub offset_metadata_max_bytes: i32,
    pub group_initial_rebalance_delay_ms: i32,
    pub group_min_session_timeout_ms: i32,
    pub group_max_session_timeout_ms: i32,
    pub group_max_size: i32,
    pub socket_request_max_bytes: i32,
    pub fetch_max_bytes: i32,
    pub connections_max_idle_ms: i64,
    pub max_connections: i32,
    pub max_connections_per_ip: i32,
    pub max_connection_creation_rate: i32,
    pub max_incremental_fetch_session_cache_slots: i32,
    pub max_request_partition_size_limit: i32,
    pub queued_max_requests: i32,
    pub queued_max_request_bytes: i64,
    pub producer_id_expiration_ms: i32,
    pub log_retention_check_interval_ms: i64,
    pub replica_lag_time_max_ms: i64,
    pub auto_leader_rebalance_enable: bool,
    /// `replica.selector.class` is the rack-aware one.
    pub rack_aware_replica_selector: bool,
    pub leader_imbalance_check_interval_seconds: i64,
}

impl BrokerConfig {
    /// Reads the layers.
    ///
    /// # Panics
    /// When a value has not passed [`check_static`] or [`check_dynamic`]: every layer is checked where it comes in.
    #[must_use]
    pub fn resolve(layers: &BrokerLayers) -> Self {
        let text = |name: &'static str| layers.effective(name).expect("a config with a default");
        let long = |name: &'static str| -> i64 { text(name).parse().expect("a checked number") };
        let int = |name: &'static str| -> i32 { text(name).parse().expect("a checked number") };
        let short = |name: &'static str| -> i16 { text(name).parse().expect("a checked number") };
        let boolean = |name: &'static str| text(name) == "true";
        Self {
            num_partitions: int("num.partitions"),
            default_replication_factor: short("default.replication.factor"),
            auto_create_topics_enable: boolean("auto.create.topics.enable"),
            delete_topic_enable: boolean("delete.topic.enable"),
            min_insync_replicas: int("min.insync.replicas"),
            message_max_bytes: int("message.max.bytes"),
            offsets_topic_num_partitions: int("offsets.topic.num.partitions"),
            offsets_topic_replication_factor: short("offsets.topic.replication.factor"),
            offsets_topic_segment_bytes: int("offsets.topic.segment.bytes"),
            offsets_retention_minutes: int("offsets.retention.minutes"),
            offsets_retention_check_interval_ms: long("offsets.retention.check.interval.ms"),
            offsets_commit_timeout_ms: int("offsets.commit.timeout.ms"),
            offset_metadata_max_bytes: int("offset.metadata.max.bytes"),
            group_initial_rebalance_delay_ms: int("group.initial.rebalance.delay.ms"),
            group_min_session_timeout_ms: int("group.min.session.timeout.ms"),
            group_max_session_timeout_ms: int("group.max.session.timeout.ms"),
            group_max_size: int("group.max.size"),
            socket_request_max_bytes: int("socket.request.max.bytes"),
            fetch_max_bytes: int("fetch.max.bytes"),
            connections_max_idle_ms: long("connections.max.idle.ms"),
            max_connections: int("max.connections"),
            max_connections_per_ip: int("max.connections.per.ip"),
            max_connection_creation_rate: int("max.connection.creation.rate"),
            max_incremental_fetch_session_cache_slots: int("max.incremental.fetch.session.cache.slots"),
            max_request_partition_size_limit: int("max.request.partition.size.limit"),
            queued_max_requests: int("queued.max.requests"),
            queued_max_request_bytes: long("queued.max.request.bytes"),
            producer_id_expiration_ms: int("producer.id.expiration.ms"),
            log_retention_check_interval_ms: long("log.retention.check.interval.ms"),
            replica_lag_time_max_ms: long("replica.lag.time.max.ms"),
            rack_aware_replica_selector: layers
                .effective("replica.selector.class")
                .is_some_and(|class| class.ends_with("RackAwareReplicaSelector")),
            auto_leader_rebalance_enable: boolean("auto.leader.rebalance.enable"),
            leader_imbalance_check_interval_seconds: long("leader.imbalance.check.interval.seconds"),
        }
    }
}

/// Checks one value of the node's own configuration and brings it into the form it is kept in.
///
/// # Errors
/// Unknown name, bad value, or a value that promises what chronik does not do.
pub fn check_static(name: &str, value: &str) -> Result<String, ConfigError> {
    check(broker_config(name)?, value)
}

/// Checks one value that is to be set while running: for one broker, or for all.
///
/// # Errors
/// As [`check_static`], and [`ConfigError::ReadOnly`] or [`ConfigError::OneBrokerOnly`].
pub fn check_dynamic(name: &str, value: &str, for_all_brokers: bool) -> Result<String, ConfigError> {
    let definition = broker_config(name)?;
    check_may_change(definition, for_all_brokers)?;
    check(definition, value)
}

fn check_may_change(definition: &ConfigDefinition, for_all_brokers: bool) -> Result<(), ConfigError> {
    let name = definition.name;
    match definition.update_mode {
        UpdateMode::ReadOnly => Err(ConfigError::ReadOnly { name }),
        UpdateMode::PerBroker if for_all_brokers => Err(ConfigError::OneBrokerOnly { name }),
        UpdateMode::PerBroker | UpdateMode::ClusterWide => Ok(()),
    }
}

/// Checks that the values fit together; call it with what they will be after a change.
///
/// # Errors
/// The first contradiction.
pub fn check_together(layers: &BrokerLayers) -> Result<(), ConfigError> {
    let config = BrokerConfig::resolve(layers);
    if config.group_min_session_timeout_ms > config.group_max_session_timeout_ms {
        return Err(ConfigError::Contradiction(
            "group.min.session.timeout.ms must not be above group.max.session.timeout.ms".to_owned(),
        ));
    }
    Ok(())
}

fn check(definition: &'static ConfigDefinition, value: &str) -> Result<String, ConfigError> {
    let value = definition.check(value)?;
    let refuse =
        |reason: String| Err(ConfigError::BadValue { name: definition.name, value: value.clone(), reason });
    let number = match definition.kind {
        Kind::Int | Kind::Short | Kind::Long => value.parse::<i64>().unwrap_or(0),
        _ => 0,
    };
    match definition.name {
        "log.cleanup.policy" if value != "delete" => refuse("only delete is accepted".to_owned()),
        "message.max.bytes" if number > i64::from(MESSAGE_BYTES_MAX) => {
            refuse(format!("Value must be no more than {MESSAGE_BYTES_MAX}"))
        }
        "num.partitions" | "offsets.topic.num.partitions" if number > i64::from(PARTITIONS_MAX) => {
            refuse(format!("Value must be no more than {PARTITIONS_MAX}"))
        }
        "default.replication.factor" if number < 1 => refuse("Value must be at least 1".to_owned()),
        // Kafka's internal segments may be of any size; ours, like all segments, are of 1 MiB and more.
        "offsets.topic.segment.bytes" if number < 1 << 20 => {
            refuse("Value must be at least 1048576".to_owned())
        }
        "log.retention.ms" | "log.retention.minutes" | "log.retention.hours"
            if number < -1 || number == 0 =>
        {
            refuse("Value must be -1 (for ever) or at least 1".to_owned())
        }
        "log.roll.ms" if number < 1 => refuse("Value must be at least 1".to_owned()),
        "log.roll.jitter.ms" if number < 0 => refuse("Value must be at least 0".to_owned()),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn defaults_are_kafkas() {
        let config = BrokerConfig::resolve(&BrokerLayers::default());
        assert_eq!((config.num_partitions, config.default_replication_factor), (1, 1));
        assert!(config.auto_create_topics_enable && config.delete_topic_enable);
        assert_eq!(config.offsets_topic_num_partitions, 50);
        assert_eq!(config.socket_request_max_bytes, 104_857_600);
        assert_eq!(config.connections_max_idle_ms, 600_000);
        assert_eq!(config.fetch_max_bytes, 57_671_680);
        assert_eq!(config.queued_max_request_bytes, -1);
    }

    #[test]
    fn what_may_change_while_running_follows_kafkas_table() {
        assert_eq!(check_dynamic("log.retention.ms", "1000", true).as_deref(), Ok("1000"));
        assert_eq!(check_dynamic("log.retention.ms", "1000", false).as_deref(), Ok("1000"));
        let read_only = check_dynamic("num.partitions", "3", false).unwrap_err();
        assert_eq!(read_only.to_string(), "Cannot update these configs dynamically: [num.partitions]");
        assert!(matches!(check_dynamic("listeners", "x", true), Err(ConfigError::OneBrokerOnly { .. })));
        assert!(matches!(check_dynamic("listeners", "x", false), Err(ConfigError::Elsewhere { .. })));
        assert!(matches!(check_dynamic("nope", "x", false), Err(ConfigError::Unknown { .. })));
    }

    #[test]
    fn values_that_promise_too_much_are_refused() {
        for (name, value) in [
            ("log.cleanup.policy", "compact"),
            ("message.max.bytes", "33554433"),
            ("num.partitions", "10001"),
            ("ssl.keystore.location", "/a"),
            ("authorizer.class.name", "a.b.C"),
            ("log.retention.ms", "0"),
            ("log.roll.ms", "0"),
            ("offsets.topic.segment.bytes", "1000"),
            ("node.id", "4"),
        ] {
            assert!(check_static(name, value).is_err(), "{name}={value}");
        }
        assert!(check_static("num.io.threads", "8").is_ok());
    }

    #[test]
    fn session_timeouts_must_not_cross() {
        let fixed = [("group.min.session.timeout.ms".to_owned(), "1800001".to_owned())].into();
        let layers = BrokerLayers { fixed: Arc::new(fixed), ..BrokerLayers::default() };
        assert!(check_together(&layers).is_err());
    }
}
