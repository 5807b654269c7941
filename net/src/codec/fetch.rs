//! The Fetch request, versions 4 to 18, sessions (KIP-227) included. Its response is in `fetch_response`.
//!
//! Hot path. Topics are named up to version 12, and by id from 13; their order is the order in which to serve them.

use super::api::ApiKey;
use super::header::RequestHeader;
use super::shared::TopicRef;
use super::wire::{FrameReader, Reader, WireError};
use super::writer::{EncodeError, ResponseFrame, Writer};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// First version that names topics by id.
pub(super) const BY_ID_FROM: i16 = 13;
const LOG_START_FROM: i16 = 5;
const SESSIONS_FROM: i16 = 7;
const LEADER_EPOCH_FROM: i16 = 9;
const RACK_FROM: i16 = 11;
const FLEXIBLE_FROM: i16 = 12;
const REPLICA_STATE_FROM: i16 = 15;
const DIRECTORY_FROM: i16 = 17;
const HIGH_WATERMARK_FROM: i16 = 18;

const TAG_CLUSTER_ID: u32 = 0;
const TAG_REPLICA_STATE: u32 = 1;
const TAG_DIRECTORY: u32 = 0;
const TAG_HIGH_WATERMARK: u32 = 1;

/// What a partition says in [`FetchPartition::high_watermark`] when it does not take part in KIP-1166.
pub const HIGH_WATERMARK_UNSUPPORTED: i64 = i64::MAX;

/// A Fetch request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The cluster the sender believes it talks to; from version 12.
    pub cluster_id: Option<StrBytes>,
    /// Node id of a fetching replica, −1 for a consumer. Nothing that a client says here may be believed.
    pub replica_id: i32,
    /// Epoch of a fetching replica, −1 for a consumer; from version 15.
    pub replica_epoch: i64,
    /// How long to wait for `min_bytes`, in milliseconds.
    pub max_wait_ms: i32,
    /// Bytes to gather before answering.
    pub min_bytes: i32,
    /// Bytes to answer with at most, save for the first batch (KIP-74).
    pub max_bytes: i32,
    /// 0 reads uncommitted records too, 1 committed ones only.
    pub isolation_level: i8,
    /// The fetch session, 0 for none; from version 7.
    pub session_id: i32,
    /// Number of this request in its session; 0 opens one, −1 wants none. From version 7.
    pub session_epoch: i32,
    /// What to fetch, in the order to serve it.
    pub topics: Vec<FetchTopic>,
    /// What to take out of the session; from version 7.
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// Rack of the consumer, empty if it has none; from version 11.
    pub rack_id: StrBytes,
}

/// What to fetch of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTopic {
    /// The topic.
    pub topic: TopicRef,
    /// Its partitions.
    pub partitions: Vec<FetchPartition>,
}

/// What to fetch of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPartition {
    /// Number of the partition.
    pub partition: i32,
    /// The leader epoch that the client knows, −1 for none; from version 9.
    pub current_leader_epoch: i32,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch of the last record fetched, −1 for none; from version 12.
    pub last_fetched_epoch: i32,
    /// Log start of a fetching replica, −1 for a consumer; from version 5.
    pub log_start_offset: i64,
    /// Bytes to answer with at most, save for the first batch (KIP-74).
    pub partition_max_bytes: i32,
    /// Log directory of a fetching replica, zero for a consumer; from version 17.
    pub replica_directory_id: Uuid,
    /// High watermark of a fetching replica; from version 18.
    pub high_watermark: i64,
}

/// Partitions of one topic that leave the fetch session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgottenTopic {
    /// The topic.
    pub topic: TopicRef,
    /// Numbers of its partitions.
    pub partitions: Vec<i32>,
}

impl Default for FetchRequest {
    fn default() -> Self {
        Self {
            cluster_id: None,
            replica_id: -1,
            replica_epoch: -1,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: i32::MAX,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: StrBytes::new(),
        }
    }
}

impl FetchRequest {
    /// Reads the body of a request of `version`.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let by_id = version >= BY_ID_FROM;
        let mut request = frame.read(|reader| Self::decode_start(reader, version))?;
        let topic_bytes_min = TopicRef::bytes_min(by_id) + 1;
        request.topics = frame.array(topic_bytes_min, |frame| FetchTopic::decode(frame, version))?;
        if version >= SESSIONS_FROM {
            request.forgotten_topics = frame.array(topic_bytes_min, |frame| {
                let topic = TopicRef::decode(frame, by_id)?;
                let partitions = frame.read(|reader| {
                    let partitions = reader.i32_array()?;
                    reader.end_struct()?;
                    Ok(partitions)
                })?;
                Ok(ForgottenTopic { topic, partitions })
            })?;
        }
        if version >= RACK_FROM {
            request.rack_id = frame.string()?;
        }
        frame.read(|reader| request.decode_tagged_fields(reader, version))?;
        Ok(request)
    }

    /// Reads a body from plain bytes; an entry point for fuzzing and tools.
    pub fn decode_slice(bytes: &[u8], version: i16) -> Result<Self, WireError> {
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::Fetch.flexible(version)), version)
    }

    fn decode_start(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let mut request = Self::default();
        if version < REPLICA_STATE_FROM {
            request.replica_id = reader.i32()?;
        }
        request.max_wait_ms = reader.i32()?;
        request.min_bytes = reader.i32()?;
        request.max_bytes = reader.i32()?;
        request.isolation_level = reader.i8()?;
        if version >= SESSIONS_FROM {
            request.session_id = reader.i32()?;
            request.session_epoch = reader.i32()?;
        }
        Ok(request)
    }

    fn decode_tagged_fields(&mut self, reader: &mut Reader<'_>, version: i16) -> Result<(), WireError> {
        reader.tagged_fields(|tag, field| match tag {
            TAG_CLUSTER_ID => {
                let cluster_id = field.nullable_string()?;
                self.cluster_id = cluster_id.map(|id| StrBytes::from_string(id.to_owned()));
                Ok(true)
            }
            TAG_REPLICA_STATE if version >= REPLICA_STATE_FROM => {
                self.replica_id = field.i32()?;
                self.replica_epoch = field.i64()?;
                field.end_struct()?;
                Ok(true)
            }
            _ => Ok(false),
        })
    }

    /// Writes the whole frame of a request, as a client does.
    pub fn encode(&self, header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
        let version = header.api_version;
        let mut writer = Writer::new(false, 128);
        header.encode(&mut writer);
        if version < REPLICA_STATE_FROM {
            writer.i32(self.replica_id);
        }
        writer.i32(self.max_wait_ms);
        writer.i32(self.min_bytes);
        writer.i32(self.max_bytes);
        writer.i8(self.isolation_level);
        if version >= SESSIONS_FROM {
            writer.i32(self.session_id);
            writer.i32(self.session_epoch);
        }
        writer.length(self.topics.len());
        for topic in &self.topics {
            topic.encode(&mut writer, version);
        }
        if version >= SESSIONS_FROM {
            writer.length(self.forgotten_topics.len());
            for forgotten in &self.forgotten_topics {
                forgotten.topic.encode(&mut writer, version >= BY_ID_FROM);
                writer.i32_array(&forgotten.partitions);
                writer.end_struct();
            }
        }
        if version >= RACK_FROM {
            writer.string(&self.rack_id);
        }
        self.encode_tagged_fields(&mut writer, version);
        writer.finish()
    }

    fn encode_tagged_fields(&self, writer: &mut Writer, version: i16) {
        if version < FLEXIBLE_FROM {
            return;
        }
        let cluster_id = self.cluster_id.as_deref();
        let is_replica = self.replica_id != -1 || self.replica_epoch != -1;
        let has_state = version >= REPLICA_STATE_FROM && is_replica;
        writer.unsigned_varint(u32::from(cluster_id.is_some()) + u32::from(has_state));
        if cluster_id.is_some() {
            writer.tagged_field(TAG_CLUSTER_ID, |field| field.nullable_string(cluster_id));
        }
        if has_state {
            writer.tagged_field(TAG_REPLICA_STATE, |field| {
                field.i32(self.replica_id);
                field.i64(self.replica_epoch);
                field.end_struct();
            });
        }
    }
}

impl FetchTopic {
    fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let topic = TopicRef::decode(frame, version >= BY_ID_FROM)?;
        let partitions = frame.read(|reader| {
            // A partition takes its number, an offset and a byte limit at least.
            let count = reader.array_length(4 + 8 + 4)?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(FetchPartition::decode(reader, version)?);
            }
            reader.end_struct()?;
            Ok(partitions)
        })?;
        Ok(Self { topic, partitions })
    }

    fn encode(&self, writer: &mut Writer, version: i16) {
        self.topic.encode(writer, version >= BY_ID_FROM);
        writer.length(self.partitions.len());
        for partition in &self.partitions {
            partition.encode(writer, version);
        }
        writer.end_struct();
    }
}

impl FetchPartition {
    /// A consumer's wish for records of `partition` from `fetch_offset` on.
    #[must_use]
    pub fn from_offset(partition: i32, fetch_offset: i64, partition_max_bytes: i32) -> Self {
        Self {
            partition,
            current_leader_epoch: -1,
            fetch_offset,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            partition_max_bytes,
            replica_directory_id: Uuid::nil(),
            high_watermark: HIGH_WATERMARK_UNSUPPORTED,
        }
    }

    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let mut partition = Self {
            partition: reader.i32()?,
            current_leader_epoch: if version >= LEADER_EPOCH_FROM { reader.i32()? } else { -1 },
            fetch_offset: reader.i64()?,
            last_fetched_epoch: if version >= FLEXIBLE_FROM { reader.i32()? } else { -1 },
            log_start_offset: if version >= LOG_START_FROM { reader.i64()? } else { -1 },
            partition_max_bytes: reader.i32()?,
            replica_directory_id: Uuid::nil(),
            high_watermark: HIGH_WATERMARK_UNSUPPORTED,
        };
        reader.tagged_fields(|tag, field| match tag {
            TAG_DIRECTORY if version >= DIRECTORY_FROM => {
                partition.replica_directory_id = field.uuid()?;
                Ok(true)
            }
            TAG_HIGH_WATERMARK if version >= HIGH_WATERMARK_FROM => {
                partition.high_watermark = field.i64()?;
                Ok(true)
            }
            _ => Ok(false),
        })?;
        Ok(partition)
    }

    fn encode(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.partition);
        if version >= LEADER_EPOCH_FROM {
            writer.i32(self.current_leader_epoch);
        }
        writer.i64(self.fetch_offset);
        if version >= FLEXIBLE_FROM {
            writer.i32(self.last_fetched_epoch);
        }
        if version >= LOG_START_FROM {
            writer.i64(self.log_start_offset);
        }
        writer.i32(self.partition_max_bytes);
        if version < FLEXIBLE_FROM {
            return;
        }
        let has_directory = version >= DIRECTORY_FROM && !self.replica_directory_id.is_nil();
        let has_watermark =
            version >= HIGH_WATERMARK_FROM && self.high_watermark != HIGH_WATERMARK_UNSUPPORTED;
        writer.unsigned_varint(u32::from(has_directory) + u32::from(has_watermark));
        if has_directory {
            writer.tagged_field(TAG_DIRECTORY, |field| field.uuid(self.replica_directory_id));
        }
        if has_watermark {
            writer.tagged_field(TAG_HIGH_WATERMARK, |field| field.i64(self.high_watermark));
        }
    }
}
