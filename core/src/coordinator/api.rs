//! What goes into a group coordinator and what comes out: requests, responses, appends, settings.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::records::Record;
use super::wire::STRING_BYTES_MAX;

/// Protocols that a member may offer. Clients offer one to three; each is compared with those of all other
/// members.
const PROTOCOLS_MAX: usize = 64;

/// A request's handle: chosen by the caller, given back with the answer. Never used twice at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Names an append. Tokens grow in the order in which the records must stand in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendToken(pub u64);

/// Why an append will never be committed, or is not known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// This node does not lead the partition any more. The records may or may not be in the log of the next
    /// leader.
    NotLeader,
    /// Too few replicas are in sync; nothing was appended.
    NotEnoughReplicas,
    /// The disk refuses; nothing was appended.
    Storage,
    /// The batch is larger than `max.message.bytes`; nothing was appended.
    TooLarge,
    /// Not committed in time. It may still be: a final answer for the same token may follow.
    TimedOut,
}

impl AppendError {
    /// What a client that waited for the append is told (Kafka's mapping in
    /// `CoordinatorOperationExceptionHelper`).
    pub(super) fn client_error(self) -> ResponseError {
        match self {
            Self::NotLeader | Self::Storage => ResponseError::NotCoordinator,
            Self::NotEnoughReplicas | Self::TimedOut => ResponseError::CoordinatorNotAvailable,
            Self::TooLarge => ResponseError::UnknownServerError,
        }
    }
}

/// What the owner of a coordinator has to do.
#[derive(Debug)]
pub enum Action {
    /// Answer a call.
    Reply {
        /// The call.
        call: CallId,
        /// The answer, fit for the request's version.
        response: GroupResponse,
    },
    /// Append these records as one batch, after those of all earlier appends, and report with
    /// [`appended`](super::GroupCoordinator::appended).
    Append {
        /// The handle to report with.
        token: AppendToken,
        /// The records, at least one.
        records: Vec<Record>,
    },
}

/// The broker settings that groups and offsets obey. Names and defaults are Kafka's.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`
    pub max_size: i32,
    /// `offset.metadata.max.bytes` (Kafka counts UTF-16 units, and so does this)
    pub offset_metadata_max: i32,
    /// `offsets.retention.minutes`, in milliseconds
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval_ms: i64,
    /// `offsets.commit.timeout.ms`: after it, whoever waits for an append is answered COORDINATOR_NOT_AVAILABLE
    pub offsets_commit_timeout_ms: i32,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: i32::MAX,
            offset_metadata_max: 4_096,
            offsets_retention_ms: 10_080 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            offsets_commit_timeout_ms: 5_000,
        }
    }
}

/// A request with what the connection knows of its sender.
#[derive(Clone, Debug)]
pub struct GroupRequest {
    /// The API version that it came with; the answer fits it.
    pub version: i16,
    /// The client id of its header, empty for none.
    pub client_id: StrBytes,
    /// The sender's address as Kafka writes it: a slash and the IP address.
    pub client_host: StrBytes,
    /// The request.
    pub kind: RequestKind,
}

/// The requests that a group coordinator answers.
///
/// The handler has already refused unknown topics of an OffsetCommit, checked authorization, and split requests
/// for several groups by partition ([`partition_for_group`]). It may fill in topic ids.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum RequestKind {
    JoinGroup(JoinGroupRequest),
    SyncGroup(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    LeaveGroup(LeaveGroupRequest),
    OffsetCommit(OffsetCommitRequest),
    OffsetFetch(OffsetFetchRequest),
    OffsetDelete(OffsetDeleteRequest),
    ListGroups(ListGroupsRequest),
    DescribeGroups(DescribeGroupsRequest),
    DeleteGroups(DeleteGroupsRequest),
}

/// The answers.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum GroupResponse {
    JoinGroup(JoinGroupResponse),
    SyncGroup(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    LeaveGroup(LeaveGroupResponse),
    OffsetCommit(OffsetCommitResponse),
    OffsetFetch(OffsetFetchResponse),
    OffsetDelete(OffsetDeleteResponse),
    ListGroups(ListGroupsResponse),
    DescribeGroups(DescribeGroupsResponse),
    DeleteGroups(DeleteGroupsResponse),
}

/// The partition of `__consumer_offsets` that keeps a group: Java's hash of its id, modulo their number.
#[must_use]
pub fn partition_for_group(group_id: &str, partition_count: i32) -> i32 {
    let hash =
        group_id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka's `Utils.abs` makes 0 of the one number that has no positive counterpart.
    hash.checked_abs().unwrap_or(0) % partition_count.max(1)
}

impl GroupRequest {
    /// The whole request refused with one error.
    #[must_use]
    pub fn refused(&self, error: ResponseError) -> GroupResponse {
        let code = error.code();
        match &self.kind {
            RequestKind::JoinGroup(request) => {
                GroupResponse::JoinGroup(join_error(request.member_id.clone(), error))
            }
            RequestKind::SyncGroup(_) => {
                GroupResponse::SyncGroup(SyncGroupResponse::default().with_error_code(code))
            }
            RequestKind::Heartbeat(_) => {
                GroupResponse::Heartbeat(HeartbeatResponse::default().with_error_code(code))
            }
            RequestKind::LeaveGroup(_) => {
                GroupResponse::LeaveGroup(LeaveGroupResponse::default().with_error_code(code))
            }
            RequestKind::OffsetCommit(request) => GroupResponse::OffsetCommit(commit_error(request, error)),
            RequestKind::OffsetFetch(request) => {
                let groups = fetch_groups(request, self.version);
                let refused =
                    groups.iter().map(|group| fetch_group_error(group, error, self.version)).collect();
                GroupResponse::OffsetFetch(fetch_response(refused, self.version))
            }
            RequestKind::OffsetDelete(_) => {
                GroupResponse::OffsetDelete(OffsetDeleteResponse::default().with_error_code(code))
            }
            RequestKind::ListGroups(_) => {
                GroupResponse::ListGroups(ListGroupsResponse::default().with_error_code(code))
            }
            RequestKind::DescribeGroups(request) => {
                let refuse = |group: &kafka_protocol::messages::GroupId| {
                    DescribedGroup::default().with_group_id(group.clone()).with_error_code(code)
                };
                let groups = request.groups.iter().map(refuse).collect();
                GroupResponse::DescribeGroups(DescribeGroupsResponse::default().with_groups(groups))
            }
            RequestKind::DeleteGroups(request) => {
                let refuse = |group: &kafka_protocol::messages::GroupId| {
                    DeletableGroupResult::default().with_group_id(group.clone()).with_error_code(code)
                };
                let results = request.groups_names.iter().map(refuse).collect();
                GroupResponse::DeleteGroups(DeleteGroupsResponse::default().with_results(results))
            }
        }
    }

    /// Whether what would be kept is within bounds: few enough protocols, and names that fit Kafka's 16-bit
    /// string lengths (compact strings on the wire may be longer).
    pub(super) fn fits_limits(&self) -> bool {
        let fits = |text: &str| text.len() <= STRING_BYTES_MAX;
        let option_fits = |text: &Option<StrBytes>| text.as_deref().is_none_or(fits);
        // Member ids are the client or instance id with a dash and a UUID.
        let prefix_fits = |text: &str| text.len() <= STRING_BYTES_MAX - 37;
        match &self.kind {
            RequestKind::JoinGroup(request) => {
                fits(&request.group_id)
                    && fits(&request.member_id)
                    && fits(&self.client_host)
                    && prefix_fits(&self.client_id)
                    && request.group_instance_id.as_deref().is_none_or(prefix_fits)
                    && fits(&request.protocol_type)
                    && request.protocols.len() <= PROTOCOLS_MAX
                    && request.protocols.iter().all(|protocol| fits(&protocol.name))
            }
            RequestKind::OffsetCommit(request) => {
                fits(&request.group_id)
                    && request.topics.iter().all(|topic| {
                        fits(&topic.name)
                            && topic
                                .partitions
                                .iter()
                                .all(|partition| option_fits(&partition.committed_metadata))
                    })
            }
            _ => true,
        }
    }
}

impl GroupResponse {
    /// The same answer as a failure: what was prepared as success could not be made durable.
    pub(super) fn failed(mut self, error: ResponseError) -> Self {
        let code = error.code();
        match &mut self {
            Self::JoinGroup(response) => *response = join_error(response.member_id.clone(), error),
            Self::SyncGroup(response) => *response = SyncGroupResponse::default().with_error_code(code),
            Self::Heartbeat(response) => response.error_code = code,
            Self::LeaveGroup(response) => *response = LeaveGroupResponse::default().with_error_code(code),
            Self::OffsetCommit(response) => {
                let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                partitions.for_each(|partition| partition.error_code = code);
            }
            Self::OffsetDelete(response) => *response = OffsetDeleteResponse::default().with_error_code(code),
            Self::DeleteGroups(response) => {
                response.results.iter_mut().for_each(|result| result.error_code = code);
            }
            // Never wait for an append of their own.
            Self::OffsetFetch(_) | Self::ListGroups(_) | Self::DescribeGroups(_) => {}
        }
        self
    }

    /// Brings the answer into the form of the request's version.
    pub(super) fn for_version(mut self, version: i16) -> Self {
        match &mut self {
            Self::JoinGroup(response) if version < 7 => {
                // The protocol's name may be null from version 7 on only.
                response.protocol_name.get_or_insert_default();
            }
            Self::LeaveGroup(response) if version < 3 => {
                if response.error_code == 0 {
                    response.error_code = response.members.first().map_or(0, |member| member.error_code);
                }
                response.members.clear();
            }
            _ => {}
        }
        self
    }
}

/// A JoinGroup answer that is an error. Kafka names no protocol in it, not even an empty one.
pub(super) fn join_error(member_id: StrBytes, error: ResponseError) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_member_id(member_id)
        .with_generation_id(-1)
        .with_protocol_name(None)
        .with_error_code(error.code())
}

/// An OffsetCommit answer that gives every partition the same error.
pub(super) fn commit_error(request: &OffsetCommitRequest, error: ResponseError) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// The groups that an OffsetFetch asks for, in the form of version 8 and later.
pub(super) fn fetch_groups(request: &OffsetFetchRequest, version: i16) -> Vec<OffsetFetchRequestGroup> {
    if version >= 8 {
        return request.groups.clone();
    }
    let topics = request.topics.as_ref().map(|topics| {
        let modern = topics.iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name.clone())
                .with_partition_indexes(topic.partition_indexes.clone())
        });
        modern.collect()
    });
    vec![OffsetFetchRequestGroup::default().with_group_id(request.group_id.clone()).with_topics(topics)]
}

/// First OffsetFetch version whose clients know UNSTABLE_OFFSET_COMMIT (KIP-447).
const UNSTABLE_FROM: i16 = 7;

/// One group of an OffsetFetch refused. Version 1 has no place for an error but each partition.
///
/// librdkafka looks for another coordinator upon NOT_COORDINATOR, but does not ask that one: it goes over the partitions of the
/// answer, and where there are none, as in Kafka's, its consumer keeps its assignment and waits for offsets for good (its issue
/// 5586). A partition that is not settled yet it does ask for again. Java's clients and kafka-python look at the error of the group
/// first, and no further.
pub(super) fn fetch_group_error(
    group: &OffsetFetchRequestGroup,
    error: ResponseError,
    version: i16,
) -> OffsetFetchResponseGroup {
    let answer = OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
    let has_moved = matches!(error, ResponseError::NotCoordinator | ResponseError::CoordinatorNotAvailable);
    if version < 2 {
        answer.with_topics(refused_topics(group, error))
    } else if version >= UNSTABLE_FROM && has_moved {
        let topics = refused_topics(group, ResponseError::UnstableOffsetCommit);
        answer.with_error_code(error.code()).with_topics(topics)
    } else {
        answer.with_error_code(error.code())
    }
}

/// What a fetch asks for, each partition with `error`.
fn refused_topics(group: &OffsetFetchRequestGroup, error: ResponseError) -> Vec<OffsetFetchResponseTopics> {
    let topics = group.topics.iter().flatten().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_metadata(Some(StrBytes::new()))
                .with_error_code(error.code())
        });
        OffsetFetchResponseTopics::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    topics.collect()
}

/// An OffsetFetch answer in the form of the request's version: one group at the top below version 8.
pub(super) fn fetch_response(mut groups: Vec<OffsetFetchResponseGroup>, version: i16) -> OffsetFetchResponse {
    if version >= 8 {
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let Some(group) = groups.pop() else { return OffsetFetchResponse::default() };
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_error_code(group.error_code).with_topics(topics.collect())
}

#[cfg(test)]
mod api_tests {
    use super::*;

    #[test]
    fn groups_hash_as_in_java() {
        // "console-consumer".hashCode() == 1716832281, "".hashCode() == 0, the last one is Integer.MIN_VALUE.
        assert_eq!(partition_for_group("", 50), 0);
        assert_eq!(partition_for_group("a", 50), 97 % 50);
        assert_eq!(partition_for_group("ab", 50), (97 * 31 + 98) % 50);
        assert_eq!(partition_for_group("polygenelubricants", 50), 0);
        assert_eq!(partition_for_group("group", 50), 98_629_247 % 50);
    }
}
