//! From a response to the slices of its frame, header and length included.
//!
//! Pure; runs on the connection's shard. Hot responses are hand-written, cold ones go through the general codec. An
//! [`EncodeError`] is a mistake of the handler (a field that the version lacks): log it and close the connection.

use super::api::ApiKey;
use super::api_versions::ApiVersionsResponse;
use super::create_topics;
use super::fetch_response::FetchResponse;
use super::header::RequestHeader;
use super::produce::ProduceResponse;
use super::writer::{EncodeError, ResponseFrame};
use kafka_protocol::messages;
use kafka_protocol::protocol::Encodable;

macro_rules! responses {
    ($($name:ident($cold:ident),)*) => {
        /// A response of any API.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Response {
            /// Produce.
            Produce(ProduceResponse),
            /// Fetch.
            Fetch(FetchResponse),
            /// Metadata, written by `MetadataWriter` for this very request.
            Metadata(ResponseFrame),
            /// ApiVersions.
            ApiVersions(ApiVersionsResponse),
            $(
                #[doc = concat!(stringify!($name), ".")]
                $name(messages::$cold),
            )*
        }

        impl Response {
            /// The API that this answers.
            #[must_use]
            pub fn api(&self) -> ApiKey {
                match self {
                    Response::Produce(_) => ApiKey::Produce,
                    Response::Fetch(_) => ApiKey::Fetch,
                    Response::Metadata(_) => ApiKey::Metadata,
                    Response::ApiVersions(_) => ApiKey::ApiVersions,
                    $(Response::$name(_) => ApiKey::$name,)*
                }
            }
        }

        fn encode_body(header: &RequestHeader, response: Response) -> Result<ResponseFrame, EncodeError> {
            match response {
                Response::Produce(response) => response.encode(header),
                Response::Fetch(response) => response.encode(header),
                Response::Metadata(frame) => Ok(frame),
                Response::ApiVersions(response) => response.encode(header),
                Response::CreateTopics(response) if header.api_version < create_topics::GENERAL_FROM => {
                    create_topics::encode_old(header, &response)
                }
                $(Response::$name(response) => encode_cold(header, &response),)*
            }
        }
    };
}

responses! {
    ListOffsets(ListOffsetsResponse),
    OffsetCommit(OffsetCommitResponse),
    OffsetFetch(OffsetFetchResponse),
    FindCoordinator(FindCoordinatorResponse),
    JoinGroup(JoinGroupResponse),
    Heartbeat(HeartbeatResponse),
    LeaveGroup(LeaveGroupResponse),
    SyncGroup(SyncGroupResponse),
    DescribeGroups(DescribeGroupsResponse),
    ListGroups(ListGroupsResponse),
    CreateTopics(CreateTopicsResponse),
    DeleteTopics(DeleteTopicsResponse),
    DeleteRecords(DeleteRecordsResponse),
    InitProducerId(InitProducerIdResponse),
    OffsetForLeaderEpoch(OffsetForLeaderEpochResponse),
    DescribeConfigs(DescribeConfigsResponse),
    AlterConfigs(AlterConfigsResponse),
    DescribeLogDirs(DescribeLogDirsResponse),
    CreatePartitions(CreatePartitionsResponse),
    DeleteGroups(DeleteGroupsResponse),
    IncrementalAlterConfigs(IncrementalAlterConfigsResponse),
    OffsetDelete(OffsetDeleteResponse),
    DescribeCluster(DescribeClusterResponse),
    DescribeTopicPartitions(DescribeTopicPartitionsResponse),
    ElectLeaders(ElectLeadersResponse),
    AlterPartitionReassignments(AlterPartitionReassignmentsResponse),
    ListPartitionReassignments(ListPartitionReassignmentsResponse),
    DescribeQuorum(DescribeQuorumResponse),
    UnregisterBroker(UnregisterBrokerResponse),
    AddRaftVoter(AddRaftVoterResponse),
    RemoveRaftVoter(RemoveRaftVoterResponse),
}

/// Writes the frame of `response` to the request of `header`.
pub fn encode_response(header: &RequestHeader, response: Response) -> Result<ResponseFrame, EncodeError> {
    if response.api() != header.api {
        return Err(EncodeError::WrongApi { request: header.api.name(), response: response.api().name() });
    }
    encode_body(header, response)
}

fn encode_cold<M: Encodable>(header: &RequestHeader, message: &M) -> Result<ResponseFrame, EncodeError> {
    let (api, version) = (header.api.name(), header.api_version);
    let refused = |error: String| EncodeError::Refused { api, version, reason: error };
    let capacity = message.compute_size(version).map_err(|error| refused(error.to_string()))?;
    let mut writer = header.response_writer(capacity);
    message.encode(writer.own_buffer(), version).map_err(|error| refused(error.to_string()))?;
    writer.finish()
}
