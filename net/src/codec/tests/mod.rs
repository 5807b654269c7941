//! Tests of the codecs as a whole: against a second codec (`kafka_protocol`), against bytes of Kafka's own classes, and
//! against hostile input.

mod cold;
mod frames;
mod golden;
mod golden_cluster;
mod hostile;
mod oracle_fetch;
mod oracle_metadata;
mod oracle_produce;
mod speed;
mod wire;

use super::{ApiKey, FrameReader, RequestHeader, ResponseFrame, StrBytes, Uuid};
use bytes::{Buf, BytesMut};
use kafka_protocol::messages::{self, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;

/// The header that test requests carry.
pub(super) fn header(api: ApiKey, api_version: i16) -> RequestHeader {
    RequestHeader { api, api_version, correlation_id: 7, client_id: Some(text("tester")) }
}

pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// The frame of a request as the second codec writes it.
pub(super) fn oracle_request<M: Encodable>(header: &RequestHeader, body: &M) -> Vec<u8> {
    let oracle_header = messages::RequestHeader::default()
        .with_request_api_key(header.api.key())
        .with_request_api_version(header.api_version)
        .with_correlation_id(header.correlation_id)
        .with_client_id(header.client_id.clone());
    let header_version = header.api.request_header_version(header.api_version);
    let mut frame = BytesMut::new();
    oracle_header.encode(&mut frame, header_version).unwrap();
    body.encode(&mut frame, header.api_version).unwrap();
    with_length(&frame)
}

/// The frame of a response as the second codec writes it.
pub(super) fn oracle_response<M: Encodable>(header: &RequestHeader, body: &M) -> Vec<u8> {
    let oracle_header = ResponseHeader::default().with_correlation_id(header.correlation_id);
    let header_version = header.api.response_header_version(header.api_version);
    let mut frame = BytesMut::new();
    oracle_header.encode(&mut frame, header_version).unwrap();
    body.encode(&mut frame, header.api_version).unwrap();
    with_length(&frame)
}

fn with_length(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap();
    [&length.to_be_bytes()[..], frame].concat()
}

/// Bytes of a frame behind its length, whose truth is checked.
pub(super) fn payload(frame: &ResponseFrame) -> BytesMut {
    let mut whole = BytesMut::from(&frame.to_contiguous()[..]);
    assert_eq!(whole.len(), frame.length());
    let length = whole.get_i32();
    assert_eq!(usize::try_from(length).unwrap(), whole.len());
    assert!(frame.slices().iter().all(|slice| !slice.is_empty()));
    whole
}

/// The body of a response frame, its header read as a client does.
pub(super) fn response_body(header: &RequestHeader, frame: &ResponseFrame) -> FrameReader {
    let mut reader = FrameReader::new(payload(frame), false);
    assert_eq!(header.decode_response_header(&mut reader), Ok(header.correlation_id));
    reader
}

/// The second codec reads all of `frame`.
pub(super) fn oracle_decodes<M: Decodable>(header: &RequestHeader, frame: &ResponseFrame) -> M {
    let mut bytes = payload(frame).freeze();
    let header_version = header.api.response_header_version(header.api_version);
    let oracle_header = ResponseHeader::decode(&mut bytes, header_version).unwrap();
    assert_eq!(oracle_header.correlation_id, header.correlation_id);
    let body = M::decode(&mut bytes, header.api_version).unwrap();
    assert!(bytes.is_empty(), "the second codec leaves {} bytes", bytes.len());
    body
}

/// A short string.
pub(super) fn any_text() -> impl Strategy<Value = StrBytes> {
    prop::collection::vec(prop::char::range('a', 'ż'), 0..12)
        .prop_map(|letters| text(&letters.into_iter().collect::<String>()))
}

pub(super) fn any_uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}
