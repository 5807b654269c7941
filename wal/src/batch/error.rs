//! What can be wrong with a record batch, and which Kafka error code says so to the client.

use thiserror::Error;

use crate::compress::{CompressError, Compression};

/// One record that the broker refuses, for the `RecordErrors` of a Produce response (KIP-467).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Place of the record in its batch, from 0.
    pub index: i32,
    /// What is wrong with it.
    pub message: String,
}

/// Why a batch is refused. Each variant names the Kafka error code that a producer gets; see [`BatchError::kafka_code`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the header or its length field calls for. INVALID_RECORD (87), as Kafka, which sees no batch.
    #[error("record batch is cut short: {have} bytes of {needed}")]
    Truncated {
        /// Bytes that a whole one has.
        needed: usize,
        /// Bytes there are.
        have: usize,
    },
    /// Bytes after the batch; a producer sends exactly one a partition. INVALID_RECORD (87).
    #[error("{extra} bytes follow the record batch, where a producer may send exactly one")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The length field cannot be right. CORRUPT_MESSAGE (2).
    #[error("record batch length {length} is less than a header")]
    BadLength {
        /// The field.
        length: i32,
    },
    /// Another format. INVALID_RECORD (87) for the formats 0 and 1 of old clients, else CORRUPT_MESSAGE (2).
    #[error(
        "record batch has magic {magic}; only 2 is supported (message formats 0 and 1 ended with Kafka 4.0)"
    )]
    BadMagic {
        /// The field.
        magic: i8,
    },
    /// The bytes are not those that the producer summed. CORRUPT_MESSAGE (2), which clients retry.
    #[error("record batch CRC-32C is {computed:#010x} but its header says {stored:#010x}")]
    BadCrc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Larger than `max.message.bytes`. MESSAGE_TOO_LARGE (10), upon which the Java producer splits the batch.
    #[error("record batch of {size} bytes exceeds max.message.bytes {limit}")]
    TooLarge {
        /// The whole batch.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A codec number that means nothing. UNSUPPORTED_COMPRESSION_TYPE (76).
    #[error("compression codec {codec} is unknown")]
    UnknownCompression {
        /// The number, 5 to 7.
        codec: u8,
    },
    /// A codec that the request's version does not allow (zstd before Produce v7). UNSUPPORTED_COMPRESSION_TYPE (76).
    #[error("{codec:?} compression needs Produce version 7 or later")]
    CompressionNotAllowed {
        /// The codec.
        codec: Compression,
    },
    /// The payload does not decompress, or to too much. INVALID_RECORD (87): sending it again will not help.
    #[error("records cannot be decompressed: {0}")]
    Decompression(#[from] CompressError),
    /// A header field that contradicts the others or is not a producer's to set. INVALID_RECORD (87).
    #[error("record batch {field} is {value}: {rule}")]
    InvalidField {
        /// Which.
        field: &'static str,
        /// Its value.
        value: i64,
        /// What should hold.
        rule: &'static str,
    },
    /// A record that cannot be parsed. INVALID_RECORD (87).
    #[error("record {index} of the batch is malformed: {reason}")]
    MalformedRecord {
        /// Place of the record in its batch, from 0.
        index: i32,
        /// What is wrong.
        reason: &'static str,
    },
    /// Well-formed records that this topic refuses. INVALID_RECORD (87), with the list.
    #[error("{} of the batch's records are refused, first: {}", errors.len(), first(errors))]
    RefusedRecords {
        /// The first [`RECORD_ERRORS_MAX`](super::RECORD_ERRORS_MAX) of them.
        errors: Vec<RecordError>,
    },
    /// Timestamps outside the topic's bounds, or set by the producer to LogAppendTime. INVALID_TIMESTAMP (32), with the
    /// list when the records were looked at, and an empty one when only the header was.
    #[error("timestamps are refused: {reason}")]
    InvalidTimestamp {
        /// What is wrong, of the first.
        reason: String,
        /// The first [`RECORD_ERRORS_MAX`](super::RECORD_ERRORS_MAX) of the refused records.
        errors: Vec<RecordError>,
    },
}

impl BatchError {
    pub(crate) fn field(field: &'static str, value: i64, rule: &'static str) -> Self {
        Self::InvalidField { field, value, rule }
    }

    /// The error code of the Kafka protocol that a producer of this batch gets.
    #[must_use]
    pub fn kafka_code(&self) -> i16 {
        const CORRUPT_MESSAGE: i16 = 2;
        const MESSAGE_TOO_LARGE: i16 = 10;
        const INVALID_TIMESTAMP: i16 = 32;
        const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
        const INVALID_RECORD: i16 = 87;
        match self {
            Self::BadMagic { magic: 0 | 1 } => INVALID_RECORD,
            Self::BadLength { .. } | Self::BadMagic { .. } | Self::BadCrc { .. } => CORRUPT_MESSAGE,
            Self::TooLarge { .. } => MESSAGE_TOO_LARGE,
            Self::InvalidTimestamp { .. } => INVALID_TIMESTAMP,
            Self::UnknownCompression { .. } | Self::CompressionNotAllowed { .. } => {
                UNSUPPORTED_COMPRESSION_TYPE
            }
            Self::Truncated { .. }
            | Self::TrailingBytes { .. }
            | Self::Decompression(_)
            | Self::InvalidField { .. }
            | Self::MalformedRecord { .. }
            | Self::RefusedRecords { .. } => INVALID_RECORD,
        }
    }

    /// The refused records, where they are known one by one.
    #[must_use]
    pub fn record_errors(&self) -> &[RecordError] {
        match self {
            Self::RefusedRecords { errors } | Self::InvalidTimestamp { errors, .. } => errors,
            _ => &[],
        }
    }
}

fn first(errors: &[RecordError]) -> &str {
    errors.first().map_or("", |error| &error.message)
}
