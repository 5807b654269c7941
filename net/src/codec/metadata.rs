//! Metadata, versions 0 to 13: the request, and a writer that puts the response straight into its frame.
//!
//! A response may hold thousands of partitions and is written from the metadata snapshot of the shard, so no tree of structs
//! is built: [`MetadataWriter`] takes borrowed values one at a time. Reading a response is in `metadata_response`.

use super::api::ApiKey;
use super::error::ErrorCode;
use super::header::RequestHeader;
use super::wire::{FrameReader, WireError};
use super::writer::{EncodeError, ResponseFrame, Writer};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// First version where a null list of topics, not an empty one, means all of them. Also adds rack, controller id and
/// "is internal".
pub(super) const NULL_MEANS_ALL_FROM: i16 = 1;
pub(super) const CLUSTER_ID_FROM: i16 = 2;
pub(super) const THROTTLE_FROM: i16 = 3;
const AUTO_CREATION_FROM: i16 = 4;
pub(super) const OFFLINE_REPLICAS_FROM: i16 = 5;
pub(super) const LEADER_EPOCH_FROM: i16 = 7;
pub(super) const AUTHORIZED_OPERATIONS_FROM: i16 = 8;
pub(super) const CLUSTER_OPERATIONS_UNTIL: i16 = 10;
pub(super) const TOPIC_ID_FROM: i16 = 10;
const NULL_NAME_IN_RESPONSE_FROM: i16 = 12;
pub(super) const ERROR_CODE_FROM: i16 = 13;

/// What stands for "not asked for" where authorized operations are listed.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

/// A Metadata request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataRequest {
    /// The topics to describe; none means all of them, whichever way the version says so.
    pub topics: Option<Vec<MetadataRequestTopic>>,
    /// Whether topics that do not exist may be created; true before version 4.
    pub allow_auto_topic_creation: bool,
    /// Whether to say what the client may do with the cluster; versions 8 to 10.
    pub include_cluster_authorized_operations: bool,
    /// Whether to say what the client may do with each topic; from version 8.
    pub include_topic_authorized_operations: bool,
}

/// One topic of a Metadata request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataRequestTopic {
    /// Its id, zero when it is asked for by name; from version 10.
    pub topic_id: Uuid,
    /// Its name; null, from version 10, when it is asked for by id.
    pub name: Option<StrBytes>,
}

impl Default for MetadataRequest {
    fn default() -> Self {
        Self {
            topics: None,
            allow_auto_topic_creation: true,
            include_cluster_authorized_operations: false,
            include_topic_authorized_operations: false,
        }
    }
}

impl MetadataRequest {
    /// Reads the body of a request of `version`.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let mut topics = frame.nullable_array(1, |frame| MetadataRequestTopic::decode(frame, version))?;
        if version < NULL_MEANS_ALL_FROM {
            topics = match topics {
                None => return Err(WireError::UnexpectedNull),
                Some(named) if named.is_empty() => None,
                named => named,
            };
        }
        frame.read(|reader| {
            let mut request = Self { topics, ..Self::default() };
            if version >= AUTO_CREATION_FROM {
                request.allow_auto_topic_creation = reader.bool()?;
            }
            if (AUTHORIZED_OPERATIONS_FROM..=CLUSTER_OPERATIONS_UNTIL).contains(&version) {
                request.include_cluster_authorized_operations = reader.bool()?;
            }
            if version >= AUTHORIZED_OPERATIONS_FROM {
                request.include_topic_authorized_operations = reader.bool()?;
            }
            reader.end_struct()?;
            Ok(request)
        })
    }

    /// Reads a body from plain bytes; an entry point for fuzzing and tools.
    pub fn decode_slice(bytes: &[u8], version: i16) -> Result<Self, WireError> {
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::Metadata.flexible(version)), version)
    }

    /// Writes the whole frame of a request, as a client does.
    pub fn encode(&self, header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
        let version = header.api_version;
        let mut writer = Writer::new(false, 64);
        header.encode(&mut writer);
        match &self.topics {
            None if version >= NULL_MEANS_ALL_FROM => writer.null_length(),
            None => writer.length(0),
            Some(topics) => {
                if topics.is_empty() && version < NULL_MEANS_ALL_FROM {
                    writer.refuse(EncodeError::UnexpectedNull);
                }
                writer.length(topics.len());
                for topic in topics {
                    topic.encode(&mut writer, version);
                }
            }
        }
        if version >= AUTO_CREATION_FROM {
            writer.bool(self.allow_auto_topic_creation);
        }
        if (AUTHORIZED_OPERATIONS_FROM..=CLUSTER_OPERATIONS_UNTIL).contains(&version) {
            writer.bool(self.include_cluster_authorized_operations);
        }
        if version >= AUTHORIZED_OPERATIONS_FROM {
            writer.bool(self.include_topic_authorized_operations);
        }
        writer.end_struct();
        writer.finish()
    }
}

impl MetadataRequestTopic {
    fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let has_id = version >= TOPIC_ID_FROM;
        let topic_id = if has_id { frame.read(|reader| reader.uuid())? } else { Uuid::nil() };
        let name = if has_id { frame.nullable_string()? } else { Some(frame.string()?) };
        frame.end_struct()?;
        Ok(Self { topic_id, name })
    }

    fn encode(&self, writer: &mut Writer, version: i16) {
        if version >= TOPIC_ID_FROM {
            writer.uuid(self.topic_id);
        } else if self.name.is_none() {
            writer.refuse(EncodeError::UnexpectedNull);
        }
        writer.nullable_string(self.name.as_deref());
        writer.end_struct();
    }
}

/// A broker as Metadata lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataBroker<'a> {
    /// Its node id.
    pub node_id: i32,
    /// Its advertised host, on the listener that the client came in on.
    pub host: &'a str,
    /// Its advertised port.
    pub port: i32,
    /// Its rack, if it has one; from version 1.
    pub rack: Option<&'a str>,
}

/// What precedes the topics of a Metadata response.
#[derive(Debug, Clone, Copy)]
pub struct MetadataHead<'a> {
    /// How long the client should wait before its next request, in milliseconds; from version 3.
    pub throttle_time_ms: i32,
    /// The brokers.
    pub brokers: &'a [MetadataBroker<'a>],
    /// Id of the cluster; from version 2.
    pub cluster_id: Option<&'a str>,
    /// Node id of a broker that takes admin requests, −1 for none; from version 1.
    pub controller_id: i32,
    /// How many topics will be written.
    pub topic_count: usize,
    /// How many partitions they will have in all: only a hint for the size of the buffer.
    pub partition_count_hint: usize,
}

/// A topic as Metadata lists it.
#[derive(Debug, Clone, Copy)]
pub struct MetadataTopic<'a> {
    /// The error of the topic, or none.
    pub error: ErrorCode,
    /// Its name; null only for an id that is unknown, and only from version 12.
    pub name: Option<&'a str>,
    /// Its id, zero for a name that is unknown; from version 10.
    pub topic_id: Uuid,
    /// Whether it belongs to the broker itself; from version 1.
    pub is_internal: bool,
    /// Bits of the operations that the client may do, or [`OPERATIONS_NOT_ASKED`]; from version 8.
    pub authorized_operations: i32,
    /// How many partitions will be written.
    pub partition_count: usize,
}

/// A partition as Metadata lists it.
#[derive(Debug, Clone, Copy)]
pub struct MetadataPartition<'a> {
    /// The error of the partition, or none.
    pub error: ErrorCode,
    /// Its number.
    pub partition: i32,
    /// Node id of its leader, −1 for none.
    pub leader_id: i32,
    /// Epoch of its leader, −1 when not known; from version 7.
    pub leader_epoch: i32,
    /// Node ids of its replicas.
    pub replicas: &'a [i32],
    /// Those in sync.
    pub in_sync_replicas: &'a [i32],
    /// Those whose node is away; from version 5.
    pub offline_replicas: &'a [i32],
}

/// Writes a Metadata response: the head, then each topic followed by its partitions, then the end.
///
/// # Panics
/// When topics or partitions are written in another number than was announced: the frame would be unreadable.
#[derive(Debug)]
pub struct MetadataWriter {
    writer: Writer,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    /// Written after a topic's last partition; none outside a topic.
    open_topic_operations: Option<i32>,
}

impl MetadataWriter {
    /// Starts the frame that answers the request of `header`.
    #[must_use]
    pub fn new(header: &RequestHeader, head: &MetadataHead<'_>) -> Self {
        let version = header.api_version;
        let capacity = 128 + head.brokers.len() * 48 + head.topic_count * 64 + head.partition_count_hint * 48;
        let mut writer = header.response_writer(capacity);
        if version >= THROTTLE_FROM {
            writer.i32(head.throttle_time_ms);
        }
        writer.length(head.brokers.len());
        for broker in head.brokers {
            writer.i32(broker.node_id);
            writer.string(broker.host);
            writer.i32(broker.port);
            if version >= NULL_MEANS_ALL_FROM {
                writer.nullable_string(broker.rack);
            }
            writer.end_struct();
        }
        if version >= CLUSTER_ID_FROM {
            writer.nullable_string(head.cluster_id);
        }
        if version >= NULL_MEANS_ALL_FROM {
            writer.i32(head.controller_id);
        }
        writer.length(head.topic_count);
        Self {
            writer,
            version,
            topics_left: head.topic_count,
            partitions_left: 0,
            open_topic_operations: None,
        }
    }

    /// Starts the next topic.
    pub fn topic(&mut self, topic: &MetadataTopic<'_>) {
        self.end_topic();
        assert!(self.topics_left > 0, "more topics written than were announced");
        self.topics_left -= 1;
        self.partitions_left = topic.partition_count;
        self.open_topic_operations = Some(topic.authorized_operations);

        let writer = &mut self.writer;
        writer.i16(topic.error.code());
        if topic.name.is_none() && self.version < NULL_NAME_IN_RESPONSE_FROM {
            writer.refuse(EncodeError::UnexpectedNull);
        }
        writer.nullable_string(topic.name);
        if self.version >= TOPIC_ID_FROM {
            writer.uuid(topic.topic_id);
        }
        if self.version >= NULL_MEANS_ALL_FROM {
            writer.bool(topic.is_internal);
        }
        writer.length(topic.partition_count);
    }

    /// Writes the next partition of the topic that was started last.
    pub fn partition(&mut self, partition: &MetadataPartition<'_>) {
        assert!(self.partitions_left > 0, "more partitions written than were announced");
        self.partitions_left -= 1;

        let writer = &mut self.writer;
        writer.i16(partition.error.code());
        writer.i32(partition.partition);
        writer.i32(partition.leader_id);
        if self.version >= LEADER_EPOCH_FROM {
            writer.i32(partition.leader_epoch);
        }
        writer.i32_array(partition.replicas);
        writer.i32_array(partition.in_sync_replicas);
        if self.version >= OFFLINE_REPLICAS_FROM {
            writer.i32_array(partition.offline_replicas);
        }
        writer.end_struct();
    }

    /// Ends the response. `cluster_operations` is written in versions 8 to 10, `error` from 13.
    pub fn finish(mut self, cluster_operations: i32, error: ErrorCode) -> Result<ResponseFrame, EncodeError> {
        self.end_topic();
        assert_eq!(self.topics_left, 0, "fewer topics written than were announced");
        if (AUTHORIZED_OPERATIONS_FROM..=CLUSTER_OPERATIONS_UNTIL).contains(&self.version) {
            self.writer.i32(cluster_operations);
        }
        if self.version >= ERROR_CODE_FROM {
            self.writer.i16(error.code());
        }
        self.writer.end_struct();
        self.writer.finish()
    }

    fn end_topic(&mut self) {
        assert_eq!(self.partitions_left, 0, "fewer partitions written than were announced");
        let Some(authorized_operations) = self.open_topic_operations.take() else { return };
        if self.version >= AUTHORIZED_OPERATIONS_FROM {
            self.writer.i32(authorized_operations);
        }
        self.writer.end_struct();
    }
}
