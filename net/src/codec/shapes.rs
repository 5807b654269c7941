//! The shapes of the cold requests, printed by `generate_shapes.py` from the schemas of Kafka 4.3.1. Do not edit.

use super::shape::Kind::{Array, Bytes, Fixed, String, Struct};
use super::shape::{Field, LATEST};

/// ListOffsets, key 2.
pub(super) static LIST_OFFSETS: &[Field] = &[
    Field::new("ReplicaId", 0, LATEST, Fixed(4)),
    Field::new("IsolationLevel", 2, LATEST, Fixed(1)),
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new(
                "Partitions",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("PartitionIndex", 0, LATEST, Fixed(4)),
                    Field::new("CurrentLeaderEpoch", 4, LATEST, Fixed(4)),
                    Field::new("Timestamp", 0, LATEST, Fixed(8)),
                ])),
            ),
        ])),
    ),
    Field::new("TimeoutMs", 10, LATEST, Fixed(4)),
];

/// OffsetCommit, key 8.
pub(super) static OFFSET_COMMIT: &[Field] = &[
    Field::new("GroupId", 0, LATEST, String),
    Field::new("GenerationIdOrMemberEpoch", 1, LATEST, Fixed(4)),
    Field::new("MemberId", 1, LATEST, String),
    Field::new("GroupInstanceId", 7, LATEST, String).nullable(7, LATEST),
    Field::new("RetentionTimeMs", 2, 4, Fixed(8)),
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, 9, String),
            Field::new("TopicId", 10, LATEST, Fixed(16)),
            Field::new(
                "Partitions",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("PartitionIndex", 0, LATEST, Fixed(4)),
                    Field::new("CommittedOffset", 0, LATEST, Fixed(8)),
                    Field::new("CommittedLeaderEpoch", 6, LATEST, Fixed(4)),
                    Field::new("CommittedMetadata", 0, LATEST, String).nullable(0, LATEST),
                ])),
            ),
        ])),
    ),
];

/// OffsetFetch, key 9.
pub(super) static OFFSET_FETCH: &[Field] = &[
    Field::new("GroupId", 0, 7, String),
    Field::new(
        "Topics",
        0,
        7,
        Array(&Struct(&[
            Field::new("Name", 0, 7, String),
            Field::new("PartitionIndexes", 0, 7, Array(&Fixed(4))),
        ])),
    )
    .nullable(2, 7),
    Field::new(
        "Groups",
        8,
        LATEST,
        Array(&Struct(&[
            Field::new("GroupId", 8, LATEST, String),
            Field::new("MemberId", 9, LATEST, String).nullable(9, LATEST),
            Field::new("MemberEpoch", 9, LATEST, Fixed(4)),
            Field::new(
                "Topics",
                8,
                LATEST,
                Array(&Struct(&[
                    Field::new("Name", 8, 9, String),
                    Field::new("TopicId", 10, LATEST, Fixed(16)),
                    Field::new("PartitionIndexes", 8, LATEST, Array(&Fixed(4))),
                ])),
            )
            .nullable(8, LATEST),
        ])),
    ),
    Field::new("RequireStable", 7, LATEST, Fixed(1)),
];

/// FindCoordinator, key 10.
pub(super) static FIND_COORDINATOR: &[Field] = &[
    Field::new("Key", 0, 3, String),
    Field::new("KeyType", 1, LATEST, Fixed(1)),
    Field::new("CoordinatorKeys", 4, LATEST, Array(&String)),
];

/// JoinGroup, key 11.
pub(super) static JOIN_GROUP: &[Field] = &[
    Field::new("GroupId", 0, LATEST, String),
    Field::new("SessionTimeoutMs", 0, LATEST, Fixed(4)),
    Field::new("RebalanceTimeoutMs", 1, LATEST, Fixed(4)),
    Field::new("MemberId", 0, LATEST, String),
    Field::new("GroupInstanceId", 5, LATEST, String).nullable(5, LATEST),
    Field::new("ProtocolType", 0, LATEST, String),
    Field::new(
        "Protocols",
        0,
        LATEST,
        Array(&Struct(&[Field::new("Name", 0, LATEST, String), Field::new("Metadata", 0, LATEST, Bytes)])),
    ),
    Field::new("Reason", 8, LATEST, String).nullable(8, LATEST),
];

/// Heartbeat, key 12.
pub(super) static HEARTBEAT: &[Field] = &[
    Field::new("GroupId", 0, LATEST, String),
    Field::new("GenerationId", 0, LATEST, Fixed(4)),
    Field::new("MemberId", 0, LATEST, String),
    Field::new("GroupInstanceId", 3, LATEST, String).nullable(3, LATEST),
];

/// LeaveGroup, key 13.
pub(super) static LEAVE_GROUP: &[Field] = &[
    Field::new("GroupId", 0, LATEST, String),
    Field::new("MemberId", 0, 2, String),
    Field::new(
        "Members",
        3,
        LATEST,
        Array(&Struct(&[
            Field::new("MemberId", 3, LATEST, String),
            Field::new("GroupInstanceId", 3, LATEST, String).nullable(3, LATEST),
            Field::new("Reason", 5, LATEST, String).nullable(5, LATEST),
        ])),
    ),
];

/// SyncGroup, key 14.
pub(super) static SYNC_GROUP: &[Field] = &[
    Field::new("GroupId", 0, LATEST, String),
    Field::new("GenerationId", 0, LATEST, Fixed(4)),
    Field::new("MemberId", 0, LATEST, String),
    Field::new("GroupInstanceId", 3, LATEST, String).nullable(3, LATEST),
    Field::new("ProtocolType", 5, LATEST, String).nullable(5, LATEST),
    Field::new("ProtocolName", 5, LATEST, String).nullable(5, LATEST),
    Field::new(
        "Assignments",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("MemberId", 0, LATEST, String),
            Field::new("Assignment", 0, LATEST, Bytes),
        ])),
    ),
];

/// DescribeGroups, key 15.
pub(super) static DESCRIBE_GROUPS: &[Field] = &[
    Field::new("Groups", 0, LATEST, Array(&String)),
    Field::new("IncludeAuthorizedOperations", 3, LATEST, Fixed(1)),
];

/// ListGroups, key 16.
pub(super) static LIST_GROUPS: &[Field] = &[
    Field::new("StatesFilter", 4, LATEST, Array(&String)),
    Field::new("TypesFilter", 5, LATEST, Array(&String)),
];

/// CreateTopics, key 19.
pub(super) static CREATE_TOPICS: &[Field] = &[
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new("NumPartitions", 0, LATEST, Fixed(4)),
            Field::new("ReplicationFactor", 0, LATEST, Fixed(2)),
            Field::new(
                "Assignments",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("PartitionIndex", 0, LATEST, Fixed(4)),
                    Field::new("BrokerIds", 0, LATEST, Array(&Fixed(4))),
                ])),
            ),
            Field::new(
                "Configs",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("Name", 0, LATEST, String),
                    Field::new("Value", 0, LATEST, String).nullable(0, LATEST),
                ])),
            ),
        ])),
    ),
    Field::new("timeoutMs", 0, LATEST, Fixed(4)),
    Field::new("validateOnly", 1, LATEST, Fixed(1)),
];

/// DeleteTopics, key 20.
pub(super) static DELETE_TOPICS: &[Field] = &[
    Field::new(
        "Topics",
        6,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 6, LATEST, String).nullable(6, LATEST),
            Field::new("TopicId", 6, LATEST, Fixed(16)),
        ])),
    ),
    Field::new("TopicNames", 0, 5, Array(&String)),
    Field::new("TimeoutMs", 0, LATEST, Fixed(4)),
];

/// DeleteRecords, key 21.
pub(super) static DELETE_RECORDS: &[Field] = &[
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new(
                "Partitions",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("PartitionIndex", 0, LATEST, Fixed(4)),
                    Field::new("Offset", 0, LATEST, Fixed(8)),
                ])),
            ),
        ])),
    ),
    Field::new("TimeoutMs", 0, LATEST, Fixed(4)),
];

/// InitProducerId, key 22.
pub(super) static INIT_PRODUCER_ID: &[Field] = &[
    Field::new("TransactionalId", 0, LATEST, String).nullable(0, LATEST),
    Field::new("TransactionTimeoutMs", 0, LATEST, Fixed(4)),
    Field::new("ProducerId", 3, LATEST, Fixed(8)),
    Field::new("ProducerEpoch", 3, LATEST, Fixed(2)),
    Field::new("Enable2Pc", 6, LATEST, Fixed(1)),
    Field::new("KeepPreparedTxn", 6, LATEST, Fixed(1)),
];

/// OffsetForLeaderEpoch, key 23.
pub(super) static OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    Field::new("ReplicaId", 3, LATEST, Fixed(4)),
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Topic", 0, LATEST, String),
            Field::new(
                "Partitions",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("Partition", 0, LATEST, Fixed(4)),
                    Field::new("CurrentLeaderEpoch", 2, LATEST, Fixed(4)),
                    Field::new("LeaderEpoch", 0, LATEST, Fixed(4)),
                ])),
            ),
        ])),
    ),
];

/// DescribeConfigs, key 32.
pub(super) static DESCRIBE_CONFIGS: &[Field] = &[
    Field::new(
        "Resources",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("ResourceType", 0, LATEST, Fixed(1)),
            Field::new("ResourceName", 0, LATEST, String),
            Field::new("ConfigurationKeys", 0, LATEST, Array(&String)).nullable(0, LATEST),
        ])),
    ),
    Field::new("IncludeSynonyms", 1, LATEST, Fixed(1)),
    Field::new("IncludeDocumentation", 3, LATEST, Fixed(1)),
];

/// AlterConfigs, key 33.
pub(super) static ALTER_CONFIGS: &[Field] = &[
    Field::new(
        "Resources",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("ResourceType", 0, LATEST, Fixed(1)),
            Field::new("ResourceName", 0, LATEST, String),
            Field::new(
                "Configs",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("Name", 0, LATEST, String),
                    Field::new("Value", 0, LATEST, String).nullable(0, LATEST),
                ])),
            ),
        ])),
    ),
    Field::new("ValidateOnly", 0, LATEST, Fixed(1)),
];

/// DescribeLogDirs, key 35.
pub(super) static DESCRIBE_LOG_DIRS: &[Field] = &[Field::new(
    "Topics",
    0,
    LATEST,
    Array(&Struct(&[
        Field::new("Topic", 0, LATEST, String),
        Field::new("Partitions", 0, LATEST, Array(&Fixed(4))),
    ])),
)
.nullable(0, LATEST)];

/// CreatePartitions, key 37.
pub(super) static CREATE_PARTITIONS: &[Field] = &[
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new("Count", 0, LATEST, Fixed(4)),
            Field::new(
                "Assignments",
                0,
                LATEST,
                Array(&Struct(&[Field::new("BrokerIds", 0, LATEST, Array(&Fixed(4)))])),
            )
            .nullable(0, LATEST),
        ])),
    ),
    Field::new("TimeoutMs", 0, LATEST, Fixed(4)),
    Field::new("ValidateOnly", 0, LATEST, Fixed(1)),
];

/// DeleteGroups, key 42.
pub(super) static DELETE_GROUPS: &[Field] = &[Field::new("GroupsNames", 0, LATEST, Array(&String))];

/// IncrementalAlterConfigs, key 44.
pub(super) static INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    Field::new(
        "Resources",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("ResourceType", 0, LATEST, Fixed(1)),
            Field::new("ResourceName", 0, LATEST, String),
            Field::new(
                "Configs",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("Name", 0, LATEST, String),
                    Field::new("ConfigOperation", 0, LATEST, Fixed(1)),
                    Field::new("Value", 0, LATEST, String).nullable(0, LATEST),
                ])),
            ),
        ])),
    ),
    Field::new("ValidateOnly", 0, LATEST, Fixed(1)),
];

/// OffsetDelete, key 47.
pub(super) static OFFSET_DELETE: &[Field] = &[
    Field::new("GroupId", 0, LATEST, String),
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new(
                "Partitions",
                0,
                LATEST,
                Array(&Struct(&[Field::new("PartitionIndex", 0, LATEST, Fixed(4))])),
            ),
        ])),
    ),
];

/// DescribeCluster, key 60.
pub(super) static DESCRIBE_CLUSTER: &[Field] = &[
    Field::new("IncludeClusterAuthorizedOperations", 0, LATEST, Fixed(1)),
    Field::new("EndpointType", 1, LATEST, Fixed(1)),
    Field::new("IncludeFencedBrokers", 2, LATEST, Fixed(1)),
];

/// DescribeTopicPartitions, key 75.
pub(super) static DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    Field::new("Topics", 0, LATEST, Array(&Struct(&[Field::new("Name", 0, LATEST, String)]))),
    Field::new("ResponsePartitionLimit", 0, LATEST, Fixed(4)),
    Field::new(
        "Cursor",
        0,
        LATEST,
        Struct(&[
            Field::new("TopicName", 0, LATEST, String),
            Field::new("PartitionIndex", 0, LATEST, Fixed(4)),
        ]),
    )
    .nullable(0, LATEST),
];

/// ElectLeaders, key 43.
pub(super) static ELECT_LEADERS: &[Field] = &[
    Field::new("ElectionType", 1, LATEST, Fixed(1)),
    Field::new(
        "TopicPartitions",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Topic", 0, LATEST, String),
            Field::new("Partitions", 0, LATEST, Array(&Fixed(4))),
        ])),
    )
    .nullable(0, LATEST),
    Field::new("TimeoutMs", 0, LATEST, Fixed(4)),
];

/// AlterPartitionReassignments, key 45.
pub(super) static ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    Field::new("TimeoutMs", 0, LATEST, Fixed(4)),
    Field::new("AllowReplicationFactorChange", 1, LATEST, Fixed(1)),
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new(
                "Partitions",
                0,
                LATEST,
                Array(&Struct(&[
                    Field::new("PartitionIndex", 0, LATEST, Fixed(4)),
                    Field::new("Replicas", 0, LATEST, Array(&Fixed(4))).nullable(0, LATEST),
                ])),
            ),
        ])),
    ),
];

/// ListPartitionReassignments, key 46.
pub(super) static LIST_PARTITION_REASSIGNMENTS: &[Field] = &[
    Field::new("TimeoutMs", 0, LATEST, Fixed(4)),
    Field::new(
        "Topics",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new("PartitionIndexes", 0, LATEST, Array(&Fixed(4))),
        ])),
    )
    .nullable(0, LATEST),
];

/// DescribeQuorum, key 55.
pub(super) static DESCRIBE_QUORUM: &[Field] = &[Field::new(
    "Topics",
    0,
    LATEST,
    Array(&Struct(&[
        Field::new("TopicName", 0, LATEST, String),
        Field::new(
            "Partitions",
            0,
            LATEST,
            Array(&Struct(&[Field::new("PartitionIndex", 0, LATEST, Fixed(4))])),
        ),
    ])),
)];

/// UnregisterBroker, key 64.
pub(super) static UNREGISTER_BROKER: &[Field] = &[Field::new("BrokerId", 0, LATEST, Fixed(4))];

/// AddRaftVoter, key 80.
pub(super) static ADD_RAFT_VOTER: &[Field] = &[
    Field::new("ClusterId", 0, LATEST, String).nullable(0, LATEST),
    Field::new("TimeoutMs", 0, LATEST, Fixed(4)),
    Field::new("VoterId", 0, LATEST, Fixed(4)),
    Field::new("VoterDirectoryId", 0, LATEST, Fixed(16)),
    Field::new(
        "Listeners",
        0,
        LATEST,
        Array(&Struct(&[
            Field::new("Name", 0, LATEST, String),
            Field::new("Host", 0, LATEST, String),
            Field::new("Port", 0, LATEST, Fixed(2)),
        ])),
    ),
    Field::new("AckWhenCommitted", 1, LATEST, Fixed(1)),
];

/// RemoveRaftVoter, key 81.
pub(super) static REMOVE_RAFT_VOTER: &[Field] = &[
    Field::new("ClusterId", 0, LATEST, String).nullable(0, LATEST),
    Field::new("VoterId", 0, LATEST, Fixed(4)),
    Field::new("VoterDirectoryId", 0, LATEST, Fixed(16)),
];
