//! ApiVersions, versions 0 to 4: the first request of every connection.
//!
//! Its response header is always version 0. A request of a version that is not served is answered in version 0 with
//! UNSUPPORTED_VERSION and the one range that the client needs to ask again (KIP-511). Features whose minimum is 0 are
//! left out below version 4, because older clients cannot read them (KAFKA-17011). No feature is ever finalised here
//! (SAFETY.md, rule 26).

use super::api::{ApiKey, ApiVersionRange, SUPPORTED};
use super::error::ErrorCode;
use super::header::RequestHeader;
use super::wire::{FrameReader, WireError};
use super::writer::{EncodeError, ResponseFrame, Writer};
use kafka_protocol::protocol::StrBytes;

const THROTTLE_FROM: i16 = 1;
const FLEXIBLE_FROM: i16 = 3;
const ZERO_FEATURES_FROM: i16 = 4;
const TAG_SUPPORTED_FEATURES: u32 = 0;

/// An ApiVersions request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiVersionsRequest {
    /// Name of the client's library; from version 3.
    pub client_software_name: StrBytes,
    /// Version of the client's library; from version 3.
    pub client_software_version: StrBytes,
}

impl ApiVersionsRequest {
    /// Reads the body of a request of `version`.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        if version < FLEXIBLE_FROM {
            return Ok(Self::default());
        }
        let client_software_name = frame.string()?;
        let client_software_version = frame.string()?;
        frame.end_struct()?;
        Ok(Self { client_software_name, client_software_version })
    }

    /// Reads a body from plain bytes; an entry point for fuzzing and tools.
    pub fn decode_slice(bytes: &[u8], version: i16) -> Result<Self, WireError> {
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::ApiVersions.flexible(version)), version)
    }

    /// Whether name and version are well formed; if not, the answer is INVALID_REQUEST in the version asked for.
    #[must_use]
    pub fn is_valid(&self, version: i16) -> bool {
        version < FLEXIBLE_FROM
            || (is_software_word(&self.client_software_name)
                && is_software_word(&self.client_software_version))
    }

    /// Writes the whole frame of a request, as a client does.
    pub fn encode(&self, header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
        let mut writer = Writer::new(false, 64);
        header.encode(&mut writer);
        if header.api_version >= FLEXIBLE_FROM {
            writer.string(&self.client_software_name);
            writer.string(&self.client_software_version);
            writer.end_struct();
        }
        writer.finish()
    }
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`, as Kafka has it.
fn is_software_word(word: &str) -> bool {
    let bytes = word.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let inner_is_valid = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() && inner_is_valid
}

/// An ApiVersions response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiVersionsResponse {
    /// The error, or none.
    pub error: ErrorCode,
    /// Keys and versions, in the order to list them.
    pub apis: Vec<AdvertisedRange>,
    /// How long the client should wait before its next request, in milliseconds; from version 1.
    pub throttle_time_ms: i32,
    /// Feature levels that this node could run at; from version 3.
    pub supported_features: Vec<SupportedFeature>,
}

/// One key and its versions, as they stand on the wire (the key may be one that chronik does not know).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdvertisedRange {
    /// Key of the API.
    pub api_key: i16,
    /// Lowest version.
    pub min_version: i16,
    /// Highest version.
    pub max_version: i16,
}

/// A feature and the levels of it that this node could run at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportedFeature {
    /// Kafka's name of the feature, `group.version`.
    pub name: StrBytes,
    /// Lowest level.
    pub min_version: i16,
    /// Highest level.
    pub max_version: i16,
}

impl From<&ApiVersionRange> for AdvertisedRange {
    fn from(range: &ApiVersionRange) -> Self {
        Self { api_key: range.api.key(), min_version: range.advertised_min, max_version: range.max }
    }
}

impl ApiVersionsResponse {
    /// Everything that chronik serves.
    #[must_use]
    pub fn supported(supported_features: Vec<SupportedFeature>) -> Self {
        let apis = SUPPORTED.iter().map(AdvertisedRange::from).collect();
        Self { error: ErrorCode::None, apis, throttle_time_ms: 0, supported_features }
    }

    /// A refusal, with an empty list.
    #[must_use]
    pub fn refused(error: ErrorCode) -> Self {
        Self { error, apis: Vec::new(), throttle_time_ms: 0, supported_features: Vec::new() }
    }

    /// The frame for a request whose version is not served: version 0, and the range of ApiVersions alone.
    pub fn unsupported_version(correlation_id: i32) -> Result<ResponseFrame, EncodeError> {
        let versions = ApiKey::ApiVersions.versions();
        let response = Self {
            apis: vec![AdvertisedRange::from(&versions)],
            ..Self::refused(ErrorCode::UnsupportedVersion)
        };
        let header =
            RequestHeader { api: ApiKey::ApiVersions, api_version: 0, correlation_id, client_id: None };
        response.encode(&header)
    }

    /// Writes the whole frame that answers the request of `header`.
    pub fn encode(&self, header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
        let version = header.api_version;
        let mut writer = header.response_writer(32 + self.apis.len() * 7);
        writer.i16(self.error.code());
        writer.length(self.apis.len());
        for range in &self.apis {
            writer.i16(range.api_key);
            writer.i16(range.min_version);
            writer.i16(range.max_version);
            writer.end_struct();
        }
        if version >= THROTTLE_FROM {
            writer.i32(self.throttle_time_ms);
        }
        if version >= FLEXIBLE_FROM {
            self.encode_features(&mut writer, version);
        }
        writer.finish()
    }

    fn encode_features(&self, writer: &mut Writer, version: i16) {
        let readable = |feature: &&SupportedFeature| version >= ZERO_FEATURES_FROM || feature.min_version > 0;
        let count = self.supported_features.iter().filter(readable).count();
        if count == 0 {
            writer.end_struct();
            return;
        }
        writer.unsigned_varint(1);
        writer.tagged_field(TAG_SUPPORTED_FEATURES, |field| {
            field.length(count);
            for feature in self.supported_features.iter().filter(readable) {
                field.string(&feature.name);
                field.i16(feature.min_version);
                field.i16(feature.max_version);
                field.end_struct();
            }
        });
    }

    /// Reads the body of a response of `version`, as a client does. An answer to a version that the broker does not
    /// serve comes in version 0 whatever was asked: the caller must then read it as such.
    pub fn decode(frame: &mut FrameReader, version: i16) -> Result<Self, WireError> {
        frame.read(|reader| {
            let mut response = Self::refused(ErrorCode::from_wire(reader.i16()?));
            let count = reader.array_length(6)?;
            response.apis.reserve_exact(count);
            for _ in 0..count {
                response.apis.push(AdvertisedRange {
                    api_key: reader.i16()?,
                    min_version: reader.i16()?,
                    max_version: reader.i16()?,
                });
                reader.end_struct()?;
            }
            if version >= THROTTLE_FROM {
                response.throttle_time_ms = reader.i32()?;
            }
            reader.tagged_fields(|tag, field| {
                if tag != TAG_SUPPORTED_FEATURES {
                    return Ok(false);
                }
                // A feature takes an empty name, two levels and an empty tag section at least.
                let count = field.array_length(1 + 2 + 2 + 1)?;
                for _ in 0..count {
                    response.supported_features.push(SupportedFeature {
                        name: StrBytes::from_string(field.string()?.to_owned()),
                        min_version: field.i16()?,
                        max_version: field.i16()?,
                    });
                    field.end_struct()?;
                }
                Ok(true)
            })?;
            Ok(response)
        })
    }

    /// Reads a body from plain bytes; an entry point for fuzzing and tools.
    pub fn decode_slice(bytes: &[u8], version: i16) -> Result<Self, WireError> {
        Self::decode(&mut FrameReader::new(bytes.into(), ApiKey::ApiVersions.flexible(version)), version)
    }
}
