//! Kafka's wire format: from a frame to a request, from a response to the slices of a frame.
//!
//! Pure code, no state: every function runs on the shard of the connection (or of the client) that calls it.
//!
//! Reading order: `wire` and `writer` (checked primitives, frames to send), `api` (keys and versions), `frame`, `header`, `error`,
//! `request` and `response` (the two ways in and out), then the hand-written messages `produce`, `fetch`, `fetch_response`,
//! `metadata`, `metadata_response`, `api_versions`, `create_topics` (versions 0 and 1), and last `shape` with its
//! tables in `shapes`: the guard before `kafka_protocol`, which carries all other messages.
//!
//! Invariants:
//! - No length from the wire is trusted: nothing is allocated for it before it was found to fit in its frame, and a
//!   frame holds at most [`ELEMENTS_MAX`] array elements and [`UNKNOWN_TAGS_MAX`] unknown tagged fields.
//! - Record bytes are never copied: on the way in they are split off the frame, on the way out they are slices of it.
//! - A request either decodes whole or the connection ends; ApiVersions alone answers versions that it does not serve.

mod api;
mod api_versions;
mod create_topics;
mod error;
mod fetch;
mod fetch_response;
mod frame;
mod header;
mod metadata;
mod metadata_response;
mod produce;
mod request;
mod response;
mod shape;
mod shapes;
mod shared;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use api::{ApiKey, ApiVersionRange, SUPPORTED};
pub use api_versions::{AdvertisedRange, ApiVersionsRequest, ApiVersionsResponse, SupportedFeature};
pub use error::ErrorCode;
pub use fetch::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic, HIGH_WATERMARK_UNSUPPORTED};
pub use fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchResponse, FetchTopicResponse,
};
pub use frame::{FRAME_BYTES_MAX_DEFAULT, FrameLengthError, frame_length};
pub use header::{RequestHeader, RequestPrefix, decode_header_rest};
pub use metadata::{
    MetadataBroker, MetadataHead, MetadataPartition, MetadataRequest, MetadataRequestTopic, MetadataTopic,
    MetadataWriter, OPERATIONS_NOT_ASKED,
};
pub use metadata_response::{BrokerListing, MetadataResponse, PartitionListing, TopicListing};
pub use produce::{
    ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse, RecordError,
};
pub use request::{DecodeError, Request, decode_request, decode_request_slice};
pub use response::{Response, encode_response};
pub use shape::{ShapeError, check_request};
pub use shared::{CurrentLeader, NodeEndpoint, TopicRef};
pub use wire::{ELEMENTS_MAX, FrameReader, Reader, STRING_BYTES_MAX, UNKNOWN_TAGS_MAX, WireError};
pub use writer::{EncodeError, ResponseFrame, Writer};

/// The messages of the cold APIs, as the general codec has them.
pub use kafka_protocol::messages;
/// A string that is a part of its frame.
pub use kafka_protocol::protocol::StrBytes;
/// A topic id or directory id.
pub use uuid::Uuid;
