//! The APIs that chronik serves: keys, names, version ranges, and the header versions that follow from them.
//!
//! The only table of versions: what ApiVersions advertises, what is served, and where the flexible encoding begins. The
//! ranges are those of Kafka 4.1.0 (a coherent release: some clients infer the broker's version from the set), which
//! end where the codec of the cold messages ends. Two minima differ from what Kafka serves: Produce is advertised from
//! 0 because librdkafka before 2.11.1 takes compression for unsupported otherwise (KAFKA-18659), and CreateTopics is
//! advertised and served from 0.

/// The versions of one API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiVersionRange {
    /// The API.
    pub api: ApiKey,
    /// Lowest version that ApiVersions names.
    pub advertised_min: i16,
    /// Lowest version that is answered; between it and `advertised_min` the connection is closed.
    pub served_min: i16,
    /// Highest version, advertised and served.
    pub max: i16,
    /// First version of the flexible encoding (KIP-482); `i16::MAX` where there is none.
    pub flexible_from: i16,
}

/// Stands for "never flexible" in [`ApiVersionRange::flexible_from`].
const NEVER: i16 = i16::MAX;

macro_rules! apis {
    ($($name:ident = $key:literal: advertised $advertised:literal, served $served:literal to $max:literal, flexible $flexible:expr;)*) => {
        /// An API of Kafka's protocol that chronik serves.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $(
                #[doc = concat!("`", stringify!($name), "`, key ", stringify!($key), ".")]
                $name = $key,
            )*
        }

        /// Every API that is served, in the order of keys: the list that ApiVersions answers.
        pub const SUPPORTED: &[ApiVersionRange] = &[$(
            ApiVersionRange {
                api: ApiKey::$name,
                advertised_min: $advertised,
                served_min: $served,
                max: $max,
                flexible_from: $flexible,
            },
        )*];

        impl ApiKey {
            /// The API of a key on the wire; none for one that is not served.
            #[must_use]
            pub fn from_key(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name of the API.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }

            /// The versions of this API.
            #[must_use]
            pub const fn versions(self) -> ApiVersionRange {
                match self {
                    $(ApiKey::$name => ApiVersionRange {
                        api: ApiKey::$name,
                        advertised_min: $advertised,
                        served_min: $served,
                        max: $max,
                        flexible_from: $flexible,
                    },)*
                }
            }
        }
    };
}

apis! {
    Produce = 0: advertised 0, served 3 to 13, flexible 9;
    Fetch = 1: advertised 4, served 4 to 18, flexible 12;
    ListOffsets = 2: advertised 1, served 1 to 10, flexible 6;
    Metadata = 3: advertised 0, served 0 to 13, flexible 9;
    OffsetCommit = 8: advertised 2, served 2 to 9, flexible 8;
    OffsetFetch = 9: advertised 1, served 1 to 9, flexible 6;
    FindCoordinator = 10: advertised 0, served 0 to 6, flexible 3;
    JoinGroup = 11: advertised 0, served 0 to 9, flexible 6;
    Heartbeat = 12: advertised 0, served 0 to 4, flexible 4;
    LeaveGroup = 13: advertised 0, served 0 to 5, flexible 4;
    SyncGroup = 14: advertised 0, served 0 to 5, flexible 4;
    DescribeGroups = 15: advertised 0, served 0 to 6, flexible 5;
    ListGroups = 16: advertised 0, served 0 to 5, flexible 3;
    ApiVersions = 18: advertised 0, served 0 to 4, flexible 3;
    CreateTopics = 19: advertised 0, served 0 to 7, flexible 5;
    DeleteTopics = 20: advertised 1, served 1 to 6, flexible 4;
    DeleteRecords = 21: advertised 0, served 0 to 2, flexible 2;
    InitProducerId = 22: advertised 0, served 0 to 5, flexible 2;
    OffsetForLeaderEpoch = 23: advertised 2, served 2 to 4, flexible 4;
    DescribeConfigs = 32: advertised 1, served 1 to 4, flexible 4;
    AlterConfigs = 33: advertised 0, served 0 to 2, flexible 2;
    DescribeLogDirs = 35: advertised 1, served 1 to 4, flexible 2;
    CreatePartitions = 37: advertised 0, served 0 to 3, flexible 2;
    DeleteGroups = 42: advertised 0, served 0 to 2, flexible 2;
    ElectLeaders = 43: advertised 0, served 0 to 2, flexible 2;
    IncrementalAlterConfigs = 44: advertised 0, served 0 to 1, flexible 1;
    AlterPartitionReassignments = 45: advertised 0, served 0 to 1, flexible 0;
    ListPartitionReassignments = 46: advertised 0, served 0 to 0, flexible 0;
    OffsetDelete = 47: advertised 0, served 0 to 0, flexible NEVER;
    DescribeQuorum = 55: advertised 0, served 0 to 2, flexible 0;
    DescribeCluster = 60: advertised 0, served 0 to 2, flexible 0;
    UnregisterBroker = 64: advertised 0, served 0 to 0, flexible 0;
    DescribeTopicPartitions = 75: advertised 0, served 0 to 0, flexible 0;
    AddRaftVoter = 80: advertised 0, served 0 to 0, flexible 0;
    RemoveRaftVoter = 81: advertised 0, served 0 to 0, flexible 0;
}

impl ApiKey {
    /// The number on the wire.
    #[must_use]
    pub fn key(self) -> i16 {
        self as i16
    }

    /// Whether a request of this version is answered.
    #[must_use]
    pub fn serves(self, version: i16) -> bool {
        let versions = self.versions();
        (versions.served_min..=versions.max).contains(&version)
    }

    /// Whether the body of this version has the flexible encoding.
    #[must_use]
    pub fn flexible(self, version: i16) -> bool {
        version >= self.versions().flexible_from
    }

    /// Version of the header that precedes a request.
    #[must_use]
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.flexible(version) { 2 } else { 1 }
    }

    /// Version of the header that precedes a response. ApiVersions stays at 0, so that a client which does not know
    /// the broker yet can read it whatever version it asked for (KIP-511).
    #[must_use]
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self.flexible(version) && self != ApiKey::ApiVersions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_versions_agree_with_the_second_codec() {
        for range in SUPPORTED {
            let oracle = kafka_protocol::messages::ApiKey::try_from(range.api.key()).unwrap();
            for version in range.advertised_min..=range.max {
                let at = (range.api, version);
                assert_eq!(
                    range.api.request_header_version(version),
                    oracle.request_header_version(version),
                    "{at:?}"
                );
                assert_eq!(
                    range.api.response_header_version(version),
                    oracle.response_header_version(version),
                    "{at:?}"
                );
            }
        }
    }

    #[test]
    fn the_table_is_sorted_and_consistent() {
        assert!(SUPPORTED.is_sorted_by_key(|range| range.api.key()));
        for range in SUPPORTED {
            assert_eq!(ApiKey::from_key(range.api.key()), Some(range.api));
            assert_eq!(range.api.versions(), *range);
            assert!(range.advertised_min <= range.served_min && range.served_min <= range.max);
            assert!(!range.api.serves(range.served_min - 1) && !range.api.serves(range.max + 1));
        }
        assert!(!ApiKey::Produce.serves(2), "advertised for librdkafka, but not served");
        assert_eq!(ApiKey::from_key(999), None);
    }

    /// Lines of Kafka 4.3.1's own answer for the keys served here; those that differ on purpose are left out.
    #[test]
    fn ranges_are_kafkas_own() {
        let kafka = "0:0-13 1:4-18 3:0-13 10:0-6 11:0-9 12:0-4 13:0-5 14:0-5 15:0-6 16:0-5 18:0-4 20:1-6 21:0-2 \
                     22:0-5 23:2-4 32:1-4 33:0-2 37:0-3 42:0-2 43:0-2 44:0-1 45:0-1 46:0-0 47:0-0 55:0-2 60:0-2 64:0-0 75:0-0 81:0-0";
        let ours: Vec<String> = SUPPORTED
            .iter()
            .filter(|range| {
                use ApiKey::*;
                !matches!(
                    range.api,
                    ListOffsets | OffsetCommit | OffsetFetch | CreateTopics | DescribeLogDirs | AddRaftVoter
                )
            })
            .map(|range| format!("{}:{}-{}", range.api.key(), range.advertised_min, range.max))
            .collect();
        assert_eq!(ours.join(" "), kafka);
    }
}
