//! The header before each request and response.
//!
//! Layout of a request header: api key `i16`, api version `i16`, correlation id `i32`; from header version 1 a client id
//! (nullable, with a 16-bit length in every version); in header version 2 tagged fields. A response header is the
//! correlation id; in header version 1 tagged fields. No API served here uses request header 0.

use super::api::ApiKey;
use super::wire::{FrameReader, WireError};
use super::writer::Writer;
use kafka_protocol::protocol::StrBytes;

/// What precedes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API asked for.
    pub api: ApiKey,
    /// The version of its request and response.
    pub api_version: i16,
    /// Chosen by the client, given back in the response.
    pub correlation_id: i32,
    /// Name of the client, if it gives one. A part of the request's frame: copy it to keep it.
    pub client_id: Option<StrBytes>,
}

/// The first eight bytes of every request: enough to know what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPrefix {
    /// Key of the API as sent, perhaps of none that is known.
    pub api_key: i16,
    /// Version as sent.
    pub api_version: i16,
    /// Chosen by the client, given back in the response.
    pub correlation_id: i32,
}

impl RequestPrefix {
    /// Reads the prefix; what follows depends on the header's version.
    pub fn decode(frame: &mut FrameReader) -> Result<Self, WireError> {
        frame.read(|reader| {
            Ok(Self { api_key: reader.i16()?, api_version: reader.i16()?, correlation_id: reader.i32()? })
        })
    }
}

/// Reads the client id and the tagged fields of a request header of `header_version` (0, 1 or 2), after its prefix.
pub fn decode_header_rest(
    frame: &mut FrameReader,
    header_version: i16,
) -> Result<Option<StrBytes>, WireError> {
    if header_version == 0 {
        return Ok(None);
    }
    frame.set_flexible(false);
    let client_id = frame.nullable_string()?;
    frame.set_flexible(header_version >= 2);
    frame.end_struct()?;
    Ok(client_id)
}

impl RequestHeader {
    /// Writes the header as a client does, and leaves `writer` in the encoding of the body.
    pub fn encode(&self, writer: &mut Writer) {
        writer.set_flexible(false);
        writer.i16(self.api.key());
        writer.i16(self.api_version);
        writer.i32(self.correlation_id);
        writer.nullable_string(self.client_id.as_deref());
        writer.set_flexible(self.api.flexible(self.api_version));
        writer.end_struct();
    }

    /// Starts the frame that answers this request: its header is written, the body is to follow.
    #[must_use]
    pub fn response_writer(&self, capacity: usize) -> Writer {
        let mut writer = Writer::new(false, capacity + 8);
        writer.i32(self.correlation_id);
        writer.set_flexible(self.api.response_header_version(self.api_version) >= 1);
        writer.end_struct();
        writer.set_flexible(self.api.flexible(self.api_version));
        writer
    }

    /// Reads the header of the response to this request, as a client does, and leaves `frame` at the body.
    /// Answers the correlation id.
    pub fn decode_response_header(&self, frame: &mut FrameReader) -> Result<i32, WireError> {
        frame.set_flexible(self.api.response_header_version(self.api_version) >= 1);
        let correlation_id = frame.read(|reader| {
            let correlation_id = reader.i32()?;
            reader.end_struct()?;
            Ok(correlation_id)
        })?;
        frame.set_flexible(self.api.flexible(self.api_version));
        Ok(correlation_id)
    }
}
