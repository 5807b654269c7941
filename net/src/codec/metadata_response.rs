//! Reading a Metadata response, as a client does. Writing one is `metadata::MetadataWriter`.

use super::api::ApiKey;
use super::error::ErrorCode;
use super::metadata::{
    AUTHORIZED_OPERATIONS_FROM, CLUSTER_ID_FROM, CLUSTER_OPERATIONS_UNTIL, ERROR_CODE_FROM,
    LEADER_EPOCH_FROM, NULL_MEANS_ALL_FROM, OFFLINE_REPLICAS_FROM, OPERATIONS_NOT_ASKED, THROTTLE_FROM,
    TOPIC_ID_FROM,
};
use super::wire::{FrameReader, Reader, WireError};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// A Metadata response, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataResponse {
    /// How long to wait before the next request, in milliseconds.
    pub throttle_time_ms: i32,
    /// The brokers.
    pub brokers: Vec<BrokerListing>,
    /// Id of the cluster.
    pub cluster_id: Option<StrBytes>,
    /// Node id of a broker that takes admin requests, −1 for none.
    pub controller_id: i32,
    /// The topics.
    pub topics: Vec<TopicListing>,
    /// Operations allowed on the cluster; versions 8 to 10.
    pub cluster_operations: i32,
    /// An error of the whole request; from version 13.
    pub error: ErrorCode,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerListing {
    /// Its node id.
    pub node_id: i32,
    /// Its host.
    pub host: StrBytes,
    /// Its port.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<StrBytes>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicListing {
    /// Its error, or none.
    pub error: ErrorCode,
    /// Its name.
    pub name: Option<StrBytes>,
    /// Its id; zero before version 10.
    pub topic_id: Uuid,
    /// Whether it belongs to the broker itself.
    pub is_internal: bool,
    /// Its partitions.
    pub partitions: Vec<PartitionListing>,
    /// Operations allowed on it; from version 8.
    pub authorized_operations: i32,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionListing {
    /// Its error, or none.
    pub error: ErrorCode,
    /// Its number.
    pub partition: i32,
    /// Node id of its leader, −1 for none.
    pub leader_id: i32,
    /// Epoch of its leader, −1 when not known.
    pub leader_epoch: i32,
    /// Node ids of its replicas.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync_replicas: Vec<i32>,
    /// Those whose node is away.
    pub offline_replicas: Vec<i32>,
}

impl MetadataResponse {
    /// Reads the body of a response of `version`.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let throttle_time_ms = if version >= THROTTLE_FROM { frame.read(|reader| reader.i32())? } else { 0 };
        // A broker takes its id, an empty host and its port at least.
        let brokers = frame.array(4 + 1 + 4, |frame| BrokerListing::decode(frame, version))?;
        let cluster_id = if version >= CLUSTER_ID_FROM { frame.nullable_string()? } else { None };
        let controller_id =
            if version >= NULL_MEANS_ALL_FROM { frame.read(|reader| reader.i32())? } else { -1 };
        // A topic takes an error, a name and a partition count at least.
        let topics = frame.array(2 + 1 + 1, |frame| TopicListing::decode(frame, version))?;
        frame.read(|reader| {
            let has_operations = (AUTHORIZED_OPERATIONS_FROM..=CLUSTER_OPERATIONS_UNTIL).contains(&version);
            let cluster_operations = if has_operations { reader.i32()? } else { OPERATIONS_NOT_ASKED };
            let error = if version >= ERROR_CODE_FROM { reader.i16()? } else { 0 };
            reader.end_struct()?;
            let error = ErrorCode::from_wire(error);
            Ok(Self {
                throttle_time_ms,
                brokers,
                cluster_id,
                controller_id,
                topics,
                cluster_operations,
                error,
            })
        })
    }

    /// Reads a body from plain bytes; an entry point for fuzzing and tools.
    pub fn decode_slice(bytes: &[u8], version: i16) -> Result<Self, WireError> {
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::Metadata.flexible(version)), version)
    }
}

impl BrokerListing {
    fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let node_id = frame.read(|reader| reader.i32())?;
        let host = frame.string()?;
        let port = frame.read(|reader| reader.i32())?;
        let rack = if version >= NULL_MEANS_ALL_FROM { frame.nullable_string()? } else { None };
        frame.end_struct()?;
        Ok(Self { node_id, host, port, rack })
    }
}

impl TopicListing {
    fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let error = ErrorCode::from_wire(frame.read(|reader| reader.i16())?);
        let name = frame.nullable_string()?;
        frame.read(|reader| {
            let topic_id = if version >= TOPIC_ID_FROM { reader.uuid()? } else { Uuid::nil() };
            let is_internal = version >= NULL_MEANS_ALL_FROM && reader.bool()?;
            // A partition takes an error, its number, its leader and two counts at least.
            let count = reader.array_length(2 + 4 + 4 + 1 + 1)?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(PartitionListing::decode(reader, version)?);
            }
            let has_operations = version >= AUTHORIZED_OPERATIONS_FROM;
            let authorized_operations = if has_operations { reader.i32()? } else { OPERATIONS_NOT_ASKED };
            reader.end_struct()?;
            Ok(Self { error, name, topic_id, is_internal, partitions, authorized_operations })
        })
    }
}

impl PartitionListing {
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let partition = Self {
            error: ErrorCode::from_wire(reader.i16()?),
            partition: reader.i32()?,
            leader_id: reader.i32()?,
            leader_epoch: if version >= LEADER_EPOCH_FROM { reader.i32()? } else { -1 },
            replicas: reader.i32_array()?,
            in_sync_replicas: reader.i32_array()?,
            offline_replicas: if version >= OFFLINE_REPLICAS_FROM { reader.i32_array()? } else { Vec::new() },
        };
        reader.end_struct()?;
        Ok(partition)
    }
}
