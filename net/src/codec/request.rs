//! From a frame to a request: the header, then the hand-written codec of a hot API, or the shape guard and the general codec of
//! a cold one.
//!
//! Pure; runs on the connection's shard. A [`DecodeError`] ends the connection, with one exception: ApiVersions of an unknown
//! version, which has an answer.

use super::api::ApiKey;
use super::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use super::create_topics;
use super::fetch::FetchRequest;
use super::header::{RequestHeader, RequestPrefix, decode_header_rest};
use super::metadata::MetadataRequest;
use super::produce::ProduceRequest;
use super::shape::{ShapeError, check_request};
use super::wire::{FrameReader, WireError};
use super::writer::ResponseFrame;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages;
use kafka_protocol::protocol::Decodable;

/// Why a frame is no request that can be answered in its own terms. The connection is to be closed, unless
/// [`DecodeError::reply`] has an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header could not be read.
    #[error("request header: {0}")]
    Header(#[source] WireError),
    /// An API that is not served.
    #[error("unknown api key {api_key} (version {api_version})")]
    UnknownApi {
        /// Its key.
        api_key: i16,
        /// The version asked for.
        api_version: i16,
    },
    /// A version that is not served, of an API that is.
    #[error("{} version {version} is not served, only {} to {}", api.name(), api.versions().served_min, api.versions().max)]
    UnsupportedVersion {
        /// The API.
        api: ApiKey,
        /// The version asked for.
        version: i16,
    },
    /// ApiVersions of a version that is not served.
    #[error("ApiVersions version {version} is not served; answered in version 0")]
    UnsupportedApiVersions {
        /// The version asked for.
        version: i16,
        /// To be given back in the answer.
        correlation_id: i32,
    },
    /// The body of a hand-written API could not be read.
    #[error("{} version {version}: {cause}", api.name())]
    Malformed {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// The body of a cold API does not fit its shape.
    #[error("{} version {version}: {cause}", api.name())]
    Misshapen {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// Where and why.
        #[source]
        cause: ShapeError,
    },
    /// The body of a cold API has the right shape, but the general codec refused it (a string that is not UTF-8).
    #[error("{} version {version}: {reason}", api.name())]
    Refused {
        /// The API.
        api: ApiKey,
        /// Its version.
        version: i16,
        /// What the codec said.
        reason: String,
    },
}

impl DecodeError {
    /// The answer to send before going on with the connection; none when the connection is to be closed at once.
    #[must_use]
    pub fn reply(&self) -> Option<ResponseFrame> {
        match self {
            DecodeError::UnsupportedApiVersions { correlation_id, .. } => {
                ApiVersionsResponse::unsupported_version(*correlation_id).ok()
            }
            _ => None,
        }
    }
}

macro_rules! requests {
    ($($name:ident($cold:ident),)*) => {
        /// A request of any API.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            /// Produce.
            Produce(ProduceRequest),
            /// Fetch.
            Fetch(FetchRequest),
            /// Metadata.
            Metadata(MetadataRequest),
            /// ApiVersions.
            ApiVersions(ApiVersionsRequest),
            $(
                #[doc = concat!(stringify!($name), ".")]
                $name(messages::$cold),
            )*
        }

        impl Request {
            /// The API of this request.
            #[must_use]
            pub fn api(&self) -> ApiKey {
                match self {
                    Request::Produce(_) => ApiKey::Produce,
                    Request::Fetch(_) => ApiKey::Fetch,
                    Request::Metadata(_) => ApiKey::Metadata,
                    Request::ApiVersions(_) => ApiKey::ApiVersions,
                    $(Request::$name(_) => ApiKey::$name,)*
                }
            }
        }

        fn decode_body(header: &RequestHeader, mut frame: FrameReader) -> Result<Request, DecodeError> {
            let (api, version) = (header.api, header.api_version);
            let malformed = |cause| DecodeError::Malformed { api, version, cause };
            match api {
                ApiKey::Produce => ProduceRequest::decode(&mut frame, version).map(Request::Produce),
                ApiKey::Fetch => FetchRequest::decode(&mut frame, version).map(Request::Fetch),
                ApiKey::Metadata => MetadataRequest::decode(&mut frame, version).map(Request::Metadata),
                ApiKey::ApiVersions => ApiVersionsRequest::decode(&mut frame, version).map(Request::ApiVersions),
                ApiKey::CreateTopics if version < create_topics::GENERAL_FROM => {
                    let body = checked_body(api, version, frame.into_rest())?;
                    return create_topics::decode_old(body, version)
                        .map(Request::CreateTopics)
                        .map_err(|reason| DecodeError::Refused { api, version, reason });
                }
                $(ApiKey::$name => return decode_cold(api, version, frame.into_rest()).map(Request::$name),)*
            }
            .map_err(malformed)
        }
    };
}

requests! {
    ListOffsets(ListOffsetsRequest),
    OffsetCommit(OffsetCommitRequest),
    OffsetFetch(OffsetFetchRequest),
    FindCoordinator(FindCoordinatorRequest),
    JoinGroup(JoinGroupRequest),
    Heartbeat(HeartbeatRequest),
    LeaveGroup(LeaveGroupRequest),
    SyncGroup(SyncGroupRequest),
    DescribeGroups(DescribeGroupsRequest),
    ListGroups(ListGroupsRequest),
    CreateTopics(CreateTopicsRequest),
    DeleteTopics(DeleteTopicsRequest),
    DeleteRecords(DeleteRecordsRequest),
    InitProducerId(InitProducerIdRequest),
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest),
    DescribeConfigs(DescribeConfigsRequest),
    AlterConfigs(AlterConfigsRequest),
    DescribeLogDirs(DescribeLogDirsRequest),
    CreatePartitions(CreatePartitionsRequest),
    DeleteGroups(DeleteGroupsRequest),
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    OffsetDelete(OffsetDeleteRequest),
    DescribeCluster(DescribeClusterRequest),
    DescribeTopicPartitions(DescribeTopicPartitionsRequest),
    ElectLeaders(ElectLeadersRequest),
    AlterPartitionReassignments(AlterPartitionReassignmentsRequest),
    ListPartitionReassignments(ListPartitionReassignmentsRequest),
    DescribeQuorum(DescribeQuorumRequest),
    UnregisterBroker(UnregisterBrokerRequest),
    AddRaftVoter(AddRaftVoterRequest),
    RemoveRaftVoter(RemoveRaftVoterRequest),
}

/// Reads one request from its frame, the 4-byte length already taken off. Strings, byte fields and records are parts of the
/// frame. Bytes after the body are ignored, as Kafka does.
pub fn decode_request(frame: BytesMut) -> Result<(RequestHeader, Request), DecodeError> {
    let mut frame = FrameReader::new(frame, false);
    let header = decode_header(&mut frame)?;
    let request = decode_body(&header, frame)?;
    Ok((header, request))
}

/// [`decode_request`] from plain bytes; an entry point for fuzzing.
pub fn decode_request_slice(frame: &[u8]) -> Result<(RequestHeader, Request), DecodeError> {
    decode_request(BytesMut::from(frame))
}

fn decode_header(frame: &mut FrameReader) -> Result<RequestHeader, DecodeError> {
    let prefix = RequestPrefix::decode(frame).map_err(DecodeError::Header)?;
    let RequestPrefix { api_key, api_version, correlation_id } = prefix;
    let Some(api) = ApiKey::from_key(api_key) else {
        return Err(DecodeError::UnknownApi { api_key, api_version });
    };
    if !api.serves(api_version) {
        // The rest of a header that is newer than ours may be anything; the correlation id is all the answer needs.
        return Err(match api {
            ApiKey::ApiVersions => {
                DecodeError::UnsupportedApiVersions { version: api_version, correlation_id }
            }
            _ => DecodeError::UnsupportedVersion { api, version: api_version },
        });
    }
    let client_id =
        decode_header_rest(frame, api.request_header_version(api_version)).map_err(DecodeError::Header)?;
    frame.set_flexible(api.flexible(api_version));
    Ok(RequestHeader { api, api_version, correlation_id, client_id })
}

/// The body cut to its shape, once the guard has passed it.
fn checked_body(api: ApiKey, version: i16, mut body: BytesMut) -> Result<BytesMut, DecodeError> {
    let length =
        check_request(api, version, &body).map_err(|cause| DecodeError::Misshapen { api, version, cause })?;
    body.truncate(length);
    Ok(body)
}

fn decode_cold<M: Decodable>(api: ApiKey, version: i16, body: BytesMut) -> Result<M, DecodeError> {
    let mut body: Bytes = checked_body(api, version, body)?.freeze();
    M::decode(&mut body, version).map_err(|error| DecodeError::Refused {
        api,
        version,
        reason: error.to_string(),
    })
}
