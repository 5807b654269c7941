//! A topic's configuration: checking what somebody sets, and the typed view that partitions act on.
//!
//! The typed view is made when a topic appears or a config changes, on shard 0, and read from every shard in the snapshot.

use chronik_wal::batch::TimestampType;
use chronik_wal::compress::{self, CompressionLevels};

use super::definition::{ConfigError, split_list};
use super::layers::{BrokerLayers, ConfigMap, topic_value};
use super::tables::topic_config;

/// Largest batch a topic may allow: a record must fit a WAL segment (SAFETY.md, rule 24).
pub const MESSAGE_BYTES_MAX: i32 = 32 * 1024 * 1024;

/// What batches are stored with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As the producer sent them.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip at this level; −1 is the library's default.
    Gzip(i32),
    /// snappy; it has no levels.
    Snappy,
    /// lz4 at this level.
    Lz4(i32),
    /// zstd at this level.
    Zstd(i32),
}

/// What a partition acts on, resolved from the topic's own configs over the broker's.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// Old segments are deleted by time and size.
    pub cleanup_delete: bool,
    /// Superseded records are removed. Only for internal topics so far.
    pub cleanup_compact: bool,
    /// How long records are kept; `None` for ever.
    pub retention_ms: Option<i64>,
    /// How many bytes of a partition are kept; `None` for all.
    pub retention_bytes: Option<u64>,
    /// Size at which a segment is closed.
    pub segment_bytes: u64,
    /// Age at which a segment is closed.
    pub segment_ms: u64,
    /// The most that may be taken from `segment_ms` at random.
    pub segment_jitter_ms: u64,
    /// Largest batch accepted, as it is on the wire.
    pub max_message_bytes: u32,
    /// Replicas that must have a record on disk before acks=all is answered.
    pub min_insync_replicas: u32,
    /// Which time records carry.
    pub timestamp_type: TimestampType,
    /// How far a timestamp may lie behind the broker's clock.
    pub timestamp_before_max_ms: i64,
    /// How far a timestamp may lie ahead of the broker's clock.
    pub timestamp_after_max_ms: i64,
    /// What batches are stored with.
    pub compression: Compression,
    /// How long a deleted file stays before it is unlinked.
    pub file_delete_delay_ms: u64,
    /// Bytes of log between two index entries.
    pub index_interval_bytes: u32,
    /// How long a tombstone outlives compaction.
    pub delete_retention_ms: u64,
}

impl TopicConfig {
    /// What the metadata log itself goes by: nothing of it is ever deleted but by an image.
    #[must_use]
    pub fn internal_log() -> Self {
        let mut config = Self::resolve(&ConfigMap::new(), &BrokerLayers::default());
        config.retention_ms = None;
        config.retention_bytes = None;
        config.file_delete_delay_ms = 0;
        config
    }

    /// The codec that batches are stored with, and the levels; none for the producer's own.
    #[must_use]
    pub fn codec(&self) -> Option<(compress::Compression, CompressionLevels)> {
        let mut levels = CompressionLevels::default();
        let codec = match self.compression {
            Compression::Producer => return None,
            Compression::Uncompressed => compress::Compression::None,
            Compression::Snappy => compress::Compression::Snappy,
            Compression::Gzip(level) => {
                levels.gzip = level;
                compress::Compression::Gzip
            }
            Compression::Lz4(level) => {
                levels.lz4 = level;
                compress::Compression::Lz4
            }
            Compression::Zstd(level) => {
                levels.zstd = level;
                compress::Compression::Zstd
            }
        };
        Some((codec, levels))
    }

    /// Resolves a topic's own configs over those of the broker.
    ///
    /// # Panics
    /// When a value has not passed [`check_topic_configs`]: every layer is checked where it comes in.
    #[must_use]
    pub fn resolve(overrides: &ConfigMap, layers: &BrokerLayers) -> Self {
        let text = |name: &'static str| {
            topic_value(topic_config(name).expect("a topic config of the table"), overrides, layers)
        };
        let number = |name: &'static str| -> i64 { text(name).parse().expect("a checked number") };
        let unsigned = |name: &'static str| u64::try_from(number(name)).expect("a checked range");
        let small = |name: &'static str| u32::try_from(number(name)).expect("a checked range");
        let level = |name: &'static str| i32::try_from(number(name)).expect("a checked range");
        let policy = text("cleanup.policy");
        Self {
            cleanup_delete: split_list(&policy).contains(&"delete"),
            cleanup_compact: split_list(&policy).contains(&"compact"),
            retention_ms: Some(number("retention.ms")).filter(|ms| *ms >= 0),
            retention_bytes: u64::try_from(number("retention.bytes")).ok(),
            segment_bytes: unsigned("segment.bytes"),
            segment_ms: unsigned("segment.ms"),
            segment_jitter_ms: unsigned("segment.jitter.ms"),
            max_message_bytes: small("max.message.bytes"),
            min_insync_replicas: small("min.insync.replicas"),
            timestamp_type: match text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            compression: match text("compression.type").as_str() {
                "uncompressed" => Compression::Uncompressed,
                "gzip" => Compression::Gzip(level("compression.gzip.level")),
                "snappy" => Compression::Snappy,
                "lz4" => Compression::Lz4(level("compression.lz4.level")),
                "zstd" => Compression::Zstd(level("compression.zstd.level")),
                _ => Compression::Producer,
            },
            file_delete_delay_ms: unsigned("file.delete.delay.ms"),
            index_interval_bytes: small("index.interval.bytes"),
            delete_retention_ms: unsigned("delete.retention.ms"),
        }
    }
}

/// Checks one value for a topic of a user and brings it into the form it is kept in.
///
/// # Errors
/// Unknown name, bad value, or a value that promises what chronik does not do.
pub fn check_topic_config(name: &str, value: &str) -> Result<String, ConfigError> {
    let definition = topic_config(name)?;
    let value = definition.check(value)?;
    match definition.name {
        "cleanup.policy" if split_list(&value).contains(&"compact") => Err(ConfigError::Unsupported {
            name: definition.name,
            value,
            reason: "only delete is accepted for topics of users".to_owned(),
        }),
        "cleanup.policy" if value.is_empty() => Err(ConfigError::BadValue {
            name: definition.name,
            value,
            reason: "must name at least one policy".to_owned(),
        }),
        "max.message.bytes" if value.parse::<i32>().is_ok_and(|bytes| bytes > MESSAGE_BYTES_MAX) => {
            let reason = format!("Value must be no more than {MESSAGE_BYTES_MAX}");
            Err(ConfigError::BadValue { name: definition.name, value, reason })
        }
        _ => Ok(value),
    }
}

/// Checks a topic's configs as a whole; call it with what they will be after a change.
///
/// # Errors
/// The first that is refused.
pub fn check_topic_configs(configs: &ConfigMap) -> Result<(), ConfigError> {
    configs.iter().try_for_each(|(name, value)| check_topic_config(name, value).map(drop))?;
    check_together(configs)
}

/// Checks that a topic's configs, each of them good, fit together.
///
/// # Errors
/// The first contradiction.
pub fn check_together(configs: &ConfigMap) -> Result<(), ConfigError> {
    let lag = |name: &str, default: i64| {
        configs.get(name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(default)
    };
    if lag("min.compaction.lag.ms", 0) > lag("max.compaction.lag.ms", i64::MAX) {
        return Err(ConfigError::Contradiction(
            "conflict topic config setting min.compaction.lag.ms > max.compaction.lag.ms".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> ConfigMap {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn defaults_are_kafkas() {
        let config = TopicConfig::resolve(&ConfigMap::new(), &BrokerLayers::default());
        assert_eq!(config.retention_ms, Some(604_800_000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.segment_bytes, 1 << 30);
        assert_eq!(config.segment_ms, 604_800_000);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.min_insync_replicas, 1);
        assert_eq!(config.timestamp_type, TimestampType::CreateTime);
        assert_eq!(config.compression, Compression::Producer);
        assert_eq!(config.timestamp_after_max_ms, 3_600_000);
        assert!(config.cleanup_delete && !config.cleanup_compact);
    }

    #[test]
    fn a_topics_own_values_are_resolved_into_types() {
        let own = map(&[
            ("retention.ms", "-1"),
            ("retention.bytes", "1000"),
            ("compression.type", "zstd"),
            ("compression.zstd.level", "9"),
            ("message.timestamp.type", "LogAppendTime"),
        ]);
        check_topic_configs(&own).unwrap();
        let config = TopicConfig::resolve(&own, &BrokerLayers::default());
        assert_eq!(config.retention_ms, None);
        assert_eq!(config.retention_bytes, Some(1000));
        assert_eq!(config.compression, Compression::Zstd(9));
        assert_eq!(config.timestamp_type, TimestampType::LogAppendTime);
    }

    #[test]
    fn what_does_not_work_is_refused() {
        let refused = [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact, delete"),
            ("cleanup.policy", ""),
            ("remote.storage.enable", "true"),
            ("local.retention.ms", "1000"),
            ("max.message.bytes", "33554433"),
            ("max.message.bytes", "-1"),
            ("segment.bytes", "1048575"),
            ("min.insync.replicas", "0"),
            ("no.such.key", "1"),
        ];
        for (name, value) in refused {
            assert!(check_topic_config(name, value).is_err(), "{name}={value}");
        }
        for (name, value) in [
            ("max.message.bytes", "33554432"),
            ("remote.storage.enable", "FALSE"),
            ("cleanup.policy", " delete "),
            ("unclean.leader.election.enable", "true"),
            ("flush.messages", "1"),
        ] {
            assert!(check_topic_config(name, value).is_ok(), "{name}={value}");
        }
        let lags = map(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]);
        assert!(check_topic_configs(&lags).is_err());
    }
}
