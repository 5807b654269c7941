//! CreateTopics, versions 0 and 1, which the general codec lacks and older clients (kafka-python, field report 004) send.
//!
//! A request of version 1 is laid out as one of version 2; version 0 has no "validate only" at its end. A response of
//! version 0 lists names and error codes; version 1 adds error messages; only version 2 has a throttle time.

use super::header::RequestHeader;
use super::writer::{EncodeError, ResponseFrame};
use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use kafka_protocol::protocol::Decodable;

/// First version that the general codec knows.
pub(super) const GENERAL_FROM: i16 = 2;

/// Reads a body of version 0 or 1 that the shape guard has passed, and that ends where its shape does.
pub(super) fn decode_old(mut body: BytesMut, version: i16) -> Result<CreateTopicsRequest, String> {
    if version == 0 {
        body.put_u8(u8::from(false));
    }
    CreateTopicsRequest::decode(&mut body.freeze(), GENERAL_FROM).map_err(|error| error.to_string())
}

/// Writes a frame of version 0 or 1.
pub(super) fn encode_old(
    header: &RequestHeader,
    response: &CreateTopicsResponse,
) -> Result<ResponseFrame, EncodeError> {
    let mut writer = header.response_writer(response.topics.len() * 32);
    writer.length(response.topics.len());
    for topic in &response.topics {
        writer.string(&topic.name);
        writer.i16(topic.error_code);
        if header.api_version >= 1 {
            writer.nullable_string(topic.error_message.as_deref());
        }
    }
    writer.finish()
}
