//! The Fetch response, versions 4 to 18: small pieces of header between the record slices, which go out uncopied.
//!
//! Hot path. A records field is a list of slices (entries of the tail cache, or a part of a segment); the frame's
//! length counts them all, and the connection writes the whole list with one vectored write.

use super::api::ApiKey;
use super::error::ErrorCode;
use super::fetch::BY_ID_FROM;
use super::header::RequestHeader;
use super::shared::{CurrentLeader, NodeEndpoint, TopicRef};
use super::wire::{FrameReader, Reader, WireError};
use super::writer::{EncodeError, ResponseFrame, Writer};
use bytes::Bytes;

const LOG_START_FROM: i16 = 5;
const SESSIONS_FROM: i16 = 7;
const READ_REPLICA_FROM: i16 = 11;
const FLEXIBLE_FROM: i16 = 12;
const NODE_ENDPOINTS_FROM: i16 = 16;

const TAG_DIVERGING_EPOCH: u32 = 0;
const TAG_CURRENT_LEADER: u32 = 1;
const TAG_SNAPSHOT_ID: u32 = 2;
const TAG_NODE_ENDPOINTS: u32 = 0;

/// A Fetch response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchResponse {
    /// How long the client should wait before its next request, in milliseconds.
    pub throttle_time_ms: i32,
    /// An error of the whole request, of its session for one; from version 7.
    pub error: ErrorCode,
    /// The fetch session, 0 for none; from version 7.
    pub session_id: i32,
    /// The records, by topic.
    pub topics: Vec<FetchTopicResponse>,
    /// Where the leaders named in partitions are reached; written from version 16.
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// The records of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTopicResponse {
    /// The topic, named as in the request.
    pub topic: TopicRef,
    /// The records, by partition.
    pub partitions: Vec<FetchPartitionResponse>,
}

/// The records of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartitionResponse {
    /// Number of the partition.
    pub partition: i32,
    /// Why there are no records, or none.
    pub error: ErrorCode,
    /// The high watermark, −1 when not known.
    pub high_watermark: i64,
    /// The last stable offset, −1 when not known.
    pub last_stable_offset: i64,
    /// First offset of the partition, −1 when not known; from version 5.
    pub log_start_offset: i64,
    /// Where the client's log parts from the leader's; from version 12.
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader to turn to; from version 12.
    pub current_leader: Option<CurrentLeader>,
    /// The snapshot to fetch instead (metadata log only); from version 12.
    pub snapshot_id: Option<EpochEndOffset>,
    /// The aborted transactions among the records; none (null) for a reader of uncommitted records.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica to read from instead, −1 for none; from version 11.
    pub preferred_read_replica: i32,
    /// The record batches, in slices. Null on the wire is read as none.
    pub records: Vec<Bytes>,
}

/// The last epoch that two logs share, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The epoch.
    pub epoch: i32,
    /// Offset after its last record.
    pub end_offset: i64,
}

/// A transaction whose records the reader must skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

impl FetchPartitionResponse {
    /// The answer for a partition that cannot be read.
    #[must_use]
    pub fn refused(partition: i32, error: ErrorCode) -> Self {
        Self {
            partition,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            snapshot_id: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
        }
    }

    /// Bytes of records.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    fn encode(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.partition);
        writer.i16(self.error.code());
        writer.i64(self.high_watermark);
        writer.i64(self.last_stable_offset);
        if version >= LOG_START_FROM {
            writer.i64(self.log_start_offset);
        }
        match &self.aborted_transactions {
            None => writer.null_length(),
            Some(aborted) => {
                writer.length(aborted.len());
                for transaction in aborted {
                    writer.i64(transaction.producer_id);
                    writer.i64(transaction.first_offset);
                    writer.end_struct();
                }
            }
        }
        if version >= READ_REPLICA_FROM {
            writer.i32(self.preferred_read_replica);
        }
        writer.spliced_bytes(&self.records);
        if version >= FLEXIBLE_FROM {
            self.encode_tagged_fields(writer);
        }
    }

    fn encode_tagged_fields(&self, writer: &mut Writer) {
        let count = usize::from(self.diverging_epoch.is_some())
            + usize::from(self.current_leader.is_some())
            + usize::from(self.snapshot_id.is_some());
        writer.unsigned_varint(count as u32);
        if let Some(diverging) = self.diverging_epoch {
            writer.tagged_field(TAG_DIVERGING_EPOCH, |field| {
                field.i32(diverging.epoch);
                field.i64(diverging.end_offset);
                field.end_struct();
            });
        }
        if let Some(leader) = self.current_leader {
            writer.tagged_field(TAG_CURRENT_LEADER, |field| leader.encode(field));
        }
        if let Some(snapshot) = self.snapshot_id {
            // The same two values as a diverging epoch, the other way round.
            writer.tagged_field(TAG_SNAPSHOT_ID, |field| {
                field.i64(snapshot.end_offset);
                field.i32(snapshot.epoch);
                field.end_struct();
            });
        }
    }

    fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let mut partition = frame.read(|reader| Self::decode_start(reader, version))?;
        let records = frame.nullable_bytes()?.unwrap_or_default().freeze();
        if !records.is_empty() {
            partition.records.push(records);
        }
        frame.read(|reader| {
            reader.tagged_fields(|tag, field| {
                match tag {
                    TAG_DIVERGING_EPOCH => {
                        partition.diverging_epoch =
                            Some(EpochEndOffset { epoch: field.i32()?, end_offset: field.i64()? });
                        field.end_struct()?;
                    }
                    TAG_CURRENT_LEADER => partition.current_leader = Some(CurrentLeader::decode(field)?),
                    TAG_SNAPSHOT_ID => {
                        let end_offset = field.i64()?;
                        partition.snapshot_id = Some(EpochEndOffset { epoch: field.i32()?, end_offset });
                        field.end_struct()?;
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })
        })?;
        Ok(partition)
    }

    fn decode_start(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let index = reader.i32()?;
        let mut partition = Self::refused(index, ErrorCode::from_wire(reader.i16()?));
        partition.high_watermark = reader.i64()?;
        partition.last_stable_offset = reader.i64()?;
        if version >= LOG_START_FROM {
            partition.log_start_offset = reader.i64()?;
        }
        if let Some(count) = reader.nullable_array_length(8 + 8)? {
            let mut aborted = Vec::with_capacity(count);
            for _ in 0..count {
                aborted.push(AbortedTransaction { producer_id: reader.i64()?, first_offset: reader.i64()? });
                reader.end_struct()?;
            }
            partition.aborted_transactions = Some(aborted);
        }
        if version >= READ_REPLICA_FROM {
            partition.preferred_read_replica = reader.i32()?;
        }
        Ok(partition)
    }
}

impl FetchResponse {
    /// Writes the whole frame that answers the request of `header`; the record slices are shared with it, not copied.
    pub fn encode(&self, header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
        let version = header.api_version;
        let partition_count: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let mut writer = header.response_writer(48 + self.topics.len() * 40 + partition_count * 56);
        writer.i32(self.throttle_time_ms);
        if version >= SESSIONS_FROM {
            writer.i16(self.error.code());
            writer.i32(self.session_id);
        }
        writer.length(self.topics.len());
        for topic in &self.topics {
            topic.topic.encode(&mut writer, version >= BY_ID_FROM);
            writer.length(topic.partitions.len());
            for partition in &topic.partitions {
                partition.encode(&mut writer, version);
            }
            writer.end_struct();
        }
        if version >= NODE_ENDPOINTS_FROM && !self.node_endpoints.is_empty() {
            writer.unsigned_varint(1);
            writer.tagged_field(TAG_NODE_ENDPOINTS, |field| {
                NodeEndpoint::encode_all(&self.node_endpoints, field)
            });
        } else {
            writer.end_struct();
        }
        writer.finish()
    }

    /// Reads the body of a response of `version`, as a client does; records are parts of the frame.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        let by_id = version >= BY_ID_FROM;
        let mut response = frame.read(|reader| {
            let throttle_time_ms = reader.i32()?;
            let mut response = Self { throttle_time_ms, ..Self::default() };
            if version >= SESSIONS_FROM {
                response.error = ErrorCode::from_wire(reader.i16()?);
                response.session_id = reader.i32()?;
            }
            Ok(response)
        })?;
        response.topics = frame.array(TopicRef::bytes_min(by_id) + 1, |frame| {
            let topic = TopicRef::decode(frame, by_id)?;
            // A partition takes its number, an error, two offsets and two lengths at least.
            let partitions =
                frame.array(4 + 2 + 8 + 8 + 1 + 1, |frame| FetchPartitionResponse::decode(frame, version))?;
            frame.end_struct()?;
            Ok(FetchTopicResponse { topic, partitions })
        })?;
        frame.read(|reader| {
            reader.tagged_fields(|tag, field| {
                let is_known = tag == TAG_NODE_ENDPOINTS && version >= NODE_ENDPOINTS_FROM;
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
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::Fetch.flexible(version)), version)
    }
}
