//! Produce, versions 3 to 13: hand-written, and zero-copy for record bytes.
//!
//! Hot path. Decoding splits each partition's records out of the frame as a `BytesMut` of its own, so that the owner shard
//! can patch base offset and leader epoch in place. Topics are named up to version 12, and by id from 13.

use super::api::ApiKey;
use super::error::ErrorCode;
use super::header::RequestHeader;
use super::shared::{CurrentLeader, NodeEndpoint, TopicRef};
use super::wire::{FrameReader, WireError};
use super::writer::{EncodeError, ResponseFrame, Writer};
use bytes::BytesMut;
use kafka_protocol::protocol::StrBytes;

/// First version that names topics by id.
const BY_ID_FROM: i16 = 13;
/// First version whose response has the log start offset.
const LOG_START_FROM: i16 = 5;
/// First version whose response has record errors and a message.
const RECORD_ERRORS_FROM: i16 = 8;
/// First version whose response names the current leader (KIP-951).
const CURRENT_LEADER_FROM: i16 = 10;
/// Tagged field of a partition's response.
const TAG_CURRENT_LEADER: u32 = 0;
/// Tagged field of the response.
const TAG_NODE_ENDPOINTS: u32 = 0;

/// A Produce request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceRequest {
    /// The transactional id of a transactional producer.
    pub transactional_id: Option<StrBytes>,
    /// 0: no answer; 1: the leader's word; −1: all in-sync replicas. Not checked here.
    pub acks: i16,
    /// How long the broker may wait for the replicas, in milliseconds.
    pub timeout_ms: i32,
    /// The batches, by topic.
    pub topics: Vec<ProduceTopic>,
}

/// What a Produce request holds for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceTopic {
    /// The topic.
    pub topic: TopicRef,
    /// The batches, by partition.
    pub partitions: Vec<ProducePartition>,
}

/// What a Produce request holds for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducePartition {
    /// Number of the partition.
    pub index: i32,
    /// The record batches as sent, unchecked; none when the client sent null.
    pub records: Option<BytesMut>,
}

impl ProduceRequest {
    /// Reads the body of a request of `version`.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let by_id = version >= BY_ID_FROM;
        let transactional_id = frame.nullable_string()?;
        let (acks, timeout_ms) = frame.read(|reader| Ok((reader.i16()?, reader.i32()?)))?;
        // A topic takes its name or id and at least one byte of array length.
        let topics =
            frame.array(TopicRef::bytes_min(by_id) + 1, |frame| ProduceTopic::decode(frame, by_id))?;
        frame.end_struct()?;
        Ok(Self { transactional_id, acks, timeout_ms, topics })
    }

    /// Reads a body from plain bytes; an entry point for fuzzing and tools.
    pub fn decode_slice(bytes: &[u8], version: i16) -> Result<Self, WireError> {
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::Produce.flexible(version)), version)
    }

    /// Writes the whole frame of a request, as a client does. The records are moved into it uncopied.
    pub fn encode(self, header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
        let by_id = header.api_version >= BY_ID_FROM;
        let mut writer = Writer::new(false, 128);
        header.encode(&mut writer);
        writer.nullable_string(self.transactional_id.as_deref());
        writer.i16(self.acks);
        writer.i32(self.timeout_ms);
        writer.length(self.topics.len());
        for topic in self.topics {
            topic.topic.encode(&mut writer, by_id);
            writer.length(topic.partitions.len());
            for partition in topic.partitions {
                writer.i32(partition.index);
                match partition.records {
                    Some(records) => writer.spliced_bytes(&[records.freeze()]),
                    None => writer.null_length(),
                }
                writer.end_struct();
            }
            writer.end_struct();
        }
        writer.end_struct();
        writer.finish()
    }
}

impl ProduceTopic {
    fn decode(frame: &mut FrameReader, by_id: bool) -> Result<Self, WireError> {
        let topic = TopicRef::decode(frame, by_id)?;
        // A partition takes its number and at least one byte of records length.
        let partitions = frame.array(4 + 1, |frame| {
            let index = frame.read(|reader| reader.i32())?;
            let records = frame.nullable_bytes()?;
            frame.end_struct()?;
            Ok(ProducePartition { index, records })
        })?;
        frame.end_struct()?;
        Ok(Self { topic, partitions })
    }
}

/// A Produce response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProduceResponse {
    /// What became of the batches, by topic.
    pub topics: Vec<ProduceTopicResponse>,
    /// How long the client should wait before its next request, in milliseconds.
    pub throttle_time_ms: i32,
    /// Where the leaders named in partitions are reached; written from version 10, empty otherwise.
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// What became of one topic's batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceTopicResponse {
    /// The topic, named as in the request.
    pub topic: TopicRef,
    /// One answer a partition.
    pub partitions: Vec<ProducePartitionResponse>,
}

/// What became of one partition's batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducePartitionResponse {
    /// Number of the partition.
    pub index: i32,
    /// Why the batch was refused, or none.
    pub error: ErrorCode,
    /// Offset of the first record, −1 with an error.
    pub base_offset: i64,
    /// The broker's time of the append, −1 unless the topic stamps records with it. Unix milliseconds.
    pub log_append_time_ms: i64,
    /// First offset of the partition, −1 when not known; from version 5.
    pub log_start_offset: i64,
    /// The records that are to blame; from version 8.
    pub record_errors: Vec<RecordError>,
    /// The reason in words; from version 8.
    pub error_message: Option<StrBytes>,
    /// The leader to turn to; from version 10.
    pub current_leader: Option<CurrentLeader>,
}

/// A record that made the broker refuse its batch (KIP-467).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// Position of the record in its batch, from zero.
    pub batch_index: i32,
    /// What is wrong with it.
    pub message: Option<StrBytes>,
}

impl ProducePartitionResponse {
    /// The answer for a batch that was refused with `error`.
    #[must_use]
    pub fn refused(index: i32, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }

    fn encode(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.index);
        writer.i16(self.error.code());
        writer.i64(self.base_offset);
        writer.i64(self.log_append_time_ms);
        if version >= LOG_START_FROM {
            writer.i64(self.log_start_offset);
        }
        if version >= RECORD_ERRORS_FROM {
            writer.length(self.record_errors.len());
            for record in &self.record_errors {
                writer.i32(record.batch_index);
                writer.nullable_string(record.message.as_deref());
                writer.end_struct();
            }
            writer.nullable_string(self.error_message.as_deref());
        }
        match self.current_leader {
            Some(leader) if version >= CURRENT_LEADER_FROM => {
                writer.unsigned_varint(1);
                writer.tagged_field(TAG_CURRENT_LEADER, |field| leader.encode(field));
            }
            _ => writer.end_struct(),
        }
    }

    fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let mut partition = frame.read(|reader| {
            Ok(Self {
                index: reader.i32()?,
                error: ErrorCode::from_wire(reader.i16()?),
                base_offset: reader.i64()?,
                log_append_time_ms: reader.i64()?,
                log_start_offset: if version >= LOG_START_FROM { reader.i64()? } else { -1 },
                record_errors: Vec::new(),
                error_message: None,
                current_leader: None,
            })
        })?;
        if version >= RECORD_ERRORS_FROM {
            // A record error takes its index and at least one byte of message length.
            partition.record_errors = frame.array(4 + 1, |frame| {
                let batch_index = frame.read(|reader| reader.i32())?;
                let message = frame.nullable_string()?;
                frame.end_struct()?;
                Ok(RecordError { batch_index, message })
            })?;
            partition.error_message = frame.nullable_string()?;
        }
        frame.read(|reader| {
            reader.tagged_fields(|tag, field| {
                let is_known = tag == TAG_CURRENT_LEADER && version >= CURRENT_LEADER_FROM;
                if is_known {
                    partition.current_leader = Some(CurrentLeader::decode(field)?);
                }
                Ok(is_known)
            })
        })?;
        Ok(partition)
    }
}

impl ProduceResponse {
    /// Writes the whole frame that answers the request of `header`.
    pub fn encode(&self, header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
        let version = header.api_version;
        let partition_count: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let mut writer = header.response_writer(32 + self.topics.len() * 40 + partition_count * 48);
        writer.length(self.topics.len());
        for topic in &self.topics {
            topic.topic.encode(&mut writer, version >= BY_ID_FROM);
            writer.length(topic.partitions.len());
            for partition in &topic.partitions {
                partition.encode(&mut writer, version);
            }
            writer.end_struct();
        }
        writer.i32(self.throttle_time_ms);
        if version >= CURRENT_LEADER_FROM && !self.node_endpoints.is_empty() {
            writer.unsigned_varint(1);
            writer.tagged_field(TAG_NODE_ENDPOINTS, |field| {
                NodeEndpoint::encode_all(&self.node_endpoints, field)
            });
        } else {
            writer.end_struct();
        }
        writer.finish()
    }

    /// Reads the body of a response of `version`, as a client does.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let by_id = version >= BY_ID_FROM;
        let topics = frame.array(TopicRef::bytes_min(by_id) + 1, |frame| {
            let topic = TopicRef::decode(frame, by_id)?;
            // A partition takes its number, an error and two offsets at least.
            let partitions =
                frame.array(4 + 2 + 8 + 8, |frame| ProducePartitionResponse::decode(frame, version))?;
            frame.end_struct()?;
            Ok(ProduceTopicResponse { topic, partitions })
        })?;
        let mut response = Self { topics, ..Self::default() };
        frame.read(|reader| {
            response.throttle_time_ms = reader.i32()?;
            reader.tagged_fields(|tag, field| {
                let is_known = tag == TAG_NODE_ENDPOINTS && version >= CURRENT_LEADER_FROM;
                if is_known {
                    response.node_endpoints = NodeEndpoint::decode_all(field)?;
                }
                Ok(is_known)
            })
        })?;
        Ok(response)
    }

    /// Reads a body from plain bytes; an entry point for fuzzing and tools.
    pub fn decode_slice(bytes: &[u8], version: i16) -> Result<Self, WireError> {
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::Produce.flexible(version)), version)
    }
}
