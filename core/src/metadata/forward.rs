//! What nodes ask each other's shard 0, and the answers, as bytes: the bodies of `PeerMessage::Ask` and `::Answer`.
//!
//! Layout: the length of the head (u32, little-endian), the head in JSON, then, where the head says so, a message in
//! Kafka's encoding and in the version that the head names. The head carries the version of this format; a newer one is
//! refused (SAFETY.md, rule 25). Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chronik_wal::types::{GroupId, NodeId, RaftIndex};
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::{Decodable, Encodable};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::admin::{AdminReply, AdminRequest, Reached};
use super::bootstrap::Hello;
use super::command::{Endpoint, Replica, RequestId, uuid_text};
use super::state::Broker;

/// The newest version that this build reads, and the one it writes.
const FORMAT_VERSION: u32 = 1;

/// A body that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Cut short.
    #[error("a body that ends within its head")]
    Short,
    /// Written by a newer chronik.
    #[error("a body of version {0}, this chronik reads up to {FORMAT_VERSION}: upgrade this node")]
    Newer(u32),
    /// Not a head.
    #[error("the head cannot be read: {0}")]
    Head(#[from] serde_json::Error),
    /// The message after the head.
    #[error("the message of kind {key}, version {version} cannot be read: {why}")]
    Message {
        /// Its api key.
        key: i16,
        /// Its version.
        version: i16,
        /// What is wrong.
        why: String,
    },
}

/// A question to another node's shard 0.
#[derive(Clone, Debug)]
pub enum Ask {
    /// How do you stand? Asked by nodes that have no metadata yet.
    Hello {
        /// Where the asker can be reached: the other node may have never heard of it.
        raft: Option<Endpoint>,
    },
    /// Hand over what you lead of these groups, each to this node. Not answered.
    Transfer {
        /// The groups, and to whom.
        transfers: Vec<(GroupId, NodeId)>,
    },
    /// Do this, if you lead the metadata group.
    Request {
        /// Tells a retry from a new one.
        id: RequestId,
        /// How long the asker waits.
        timeout_ms: u32,
        /// What.
        request: AdminRequest,
    },
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// So I stand.
    Hello(Hello),
    /// Done, or refused for good.
    Done {
        /// Where the metadata log was by then: the asker waits until it has applied as much, and so reads what it wrote.
        index: RaftIndex,
        /// The answer.
        reply: AdminReply,
    },
    /// Ask this one, if it is known; later, if not.
    NotController {
        /// The leader of the metadata group.
        leader: Option<NodeId>,
    },
}

#[derive(Serialize, Deserialize)]
struct Head<T> {
    version: u32,
    #[serde(flatten)]
    head: T,
}

#[derive(Deserialize)]
struct VersionIn {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AskHead {
    Hello { raft: Option<Endpoint> },
    Transfer { transfers: Vec<(GroupId, NodeId)> },
    Request { id: RequestId, timeout_ms: u32, request: RequestHead },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AnswerHead {
    Hello { hello: Hello },
    Done { index: RaftIndex, reply: ReplyHead },
    NotController { leader: Option<NodeId> },
}

/// A request, but for what is in Kafka's encoding.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum RequestHead {
    Kafka {
        key: i16,
        api_version: i16,
    },
    AutoCreate {
        names: Vec<String>,
    },
    ProducerIds {
        node: NodeId,
    },
    Register {
        node: NodeId,
        broker: Box<Broker>,
    },
    CompletePlacement {
        #[serde(with = "uuid_text")]
        topic: Uuid,
        partition: i32,
        #[serde(flatten)]
        reached: Reached,
    },
    RenewReplica {
        #[serde(with = "uuid_text")]
        topic: Uuid,
        partition: i32,
        replica: Replica,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum ReplyHead {
    Kafka { key: i16, api_version: i16 },
    AutoCreate { failed: Vec<(String, i16)> },
    Done,
    Refused { code: i16, why: String },
    NotController,
}

const CREATE_TOPICS: (i16, i16) = (19, 7);
const DELETE_TOPICS: i16 = 20;
const DELETE_TOPICS_VERSIONS: (i16, i16) = (1, 6);
const CREATE_PARTITIONS: (i16, i16) = (37, 3);
const ALTER_CONFIGS: (i16, i16) = (33, 2);
const INCREMENTAL_ALTER_CONFIGS: (i16, i16) = (44, 1);
const ALTER_PARTITION_REASSIGNMENTS: (i16, i16) = (45, 1);
const UNREGISTER_BROKER: (i16, i16) = (64, 0);
const ADD_RAFT_VOTER: (i16, i16) = (80, 0);
const REMOVE_RAFT_VOTER: (i16, i16) = (81, 0);
const DESCRIBE_QUORUM: (i16, i16) = (55, 2);

/// A question as bytes.
#[must_use]
pub fn encode_ask(ask: &Ask) -> Bytes {
    let mut message = BytesMut::new();
    let head = match ask {
        Ask::Hello { raft } => AskHead::Hello { raft: raft.clone() },
        Ask::Transfer { transfers } => AskHead::Transfer { transfers: transfers.clone() },
        Ask::Request { id, timeout_ms, request } => AskHead::Request {
            id: *id,
            timeout_ms: *timeout_ms,
            request: request_head(request, &mut message),
        },
    };
    body(head, &message)
}

/// The question that [`encode_ask`] wrote.
///
/// # Errors
/// See [`ForwardError`].
pub fn decode_ask(bytes: &Bytes) -> Result<Ask, ForwardError> {
    let (head, mut message) = split(bytes)?;
    Ok(match head {
        AskHead::Hello { raft } => Ask::Hello { raft },
        AskHead::Transfer { transfers } => Ask::Transfer { transfers },
        AskHead::Request { id, timeout_ms, request } => {
            Ask::Request { id, timeout_ms, request: request_of(request, &mut message)? }
        }
    })
}

/// An answer as bytes.
#[must_use]
pub fn encode_answer(answer: &Answer) -> Bytes {
    let mut message = BytesMut::new();
    let head = match answer {
        Answer::Hello(hello) => AnswerHead::Hello { hello: hello.clone() },
        Answer::Done { index, reply } => {
            AnswerHead::Done { index: *index, reply: reply_head(reply, &mut message) }
        }
        Answer::NotController { leader } => AnswerHead::NotController { leader: *leader },
    };
    body(head, &message)
}

/// The answer that [`encode_answer`] wrote.
///
/// # Errors
/// See [`ForwardError`].
pub fn decode_answer(bytes: &Bytes) -> Result<Answer, ForwardError> {
    let (head, mut message) = split(bytes)?;
    Ok(match head {
        AnswerHead::Hello { hello } => Answer::Hello(hello),
        AnswerHead::Done { index, reply } => Answer::Done { index, reply: reply_of(reply, &mut message)? },
        AnswerHead::NotController { leader } => Answer::NotController { leader },
    })
}

// --- requests: one line each way

fn request_head(request: &AdminRequest, out: &mut BytesMut) -> RequestHead {
    let (key, api_version) = match request {
        AdminRequest::CreateTopics(request) => put(request, CREATE_TOPICS, out),
        AdminRequest::DeleteTopics(request, version) => {
            let (oldest, newest) = DELETE_TOPICS_VERSIONS;
            put(request, (DELETE_TOPICS, (*version).clamp(oldest, newest)), out)
        }
        AdminRequest::CreatePartitions(request) => put(request, CREATE_PARTITIONS, out),
        AdminRequest::AlterConfigs(request) => put(request, ALTER_CONFIGS, out),
        AdminRequest::IncrementalAlterConfigs(request) => put(request, INCREMENTAL_ALTER_CONFIGS, out),
        AdminRequest::Reassign(request) => put(request, ALTER_PARTITION_REASSIGNMENTS, out),
        AdminRequest::UnregisterBroker(request) => put(request, UNREGISTER_BROKER, out),
        AdminRequest::AddVoter(request) => put(request, ADD_RAFT_VOTER, out),
        AdminRequest::RemoveVoter(request) => put(request, REMOVE_RAFT_VOTER, out),
        AdminRequest::DescribeQuorum(request) => put(request, DESCRIBE_QUORUM, out),
        AdminRequest::AutoCreate(names) => return RequestHead::AutoCreate { names: names.clone() },
        AdminRequest::ProducerIds(node) => return RequestHead::ProducerIds { node: *node },
        AdminRequest::Register(node, broker) => {
            return RequestHead::Register { node: *node, broker: broker.clone() };
        }
        AdminRequest::CompletePlacement { topic, partition, reached } => {
            let (topic, partition, reached) = (*topic, *partition, reached.clone());
            return RequestHead::CompletePlacement { topic, partition, reached };
        }
        AdminRequest::RenewReplica { topic, partition, replica } => {
            let (topic, partition, replica) = (*topic, *partition, *replica);
            return RequestHead::RenewReplica { topic, partition, replica };
        }
    };
    RequestHead::Kafka { key, api_version }
}

fn request_of(head: RequestHead, message: &mut Bytes) -> Result<AdminRequest, ForwardError> {
    let (key, version) = match head {
        RequestHead::Kafka { key, api_version } => (key, api_version),
        RequestHead::AutoCreate { names } => return Ok(AdminRequest::AutoCreate(names)),
        RequestHead::ProducerIds { node } => return Ok(AdminRequest::ProducerIds(node)),
        RequestHead::Register { node, broker } => return Ok(AdminRequest::Register(node, broker)),
        RequestHead::CompletePlacement { topic, partition, reached } => {
            return Ok(AdminRequest::CompletePlacement { topic, partition, reached });
        }
        RequestHead::RenewReplica { topic, partition, replica } => {
            return Ok(AdminRequest::RenewReplica { topic, partition, replica });
        }
    };
    let kind = (key, version);
    Ok(match kind {
        CREATE_TOPICS => AdminRequest::CreateTopics(take(kind, message)?),
        (DELETE_TOPICS, version) => AdminRequest::DeleteTopics(take(kind, message)?, version),
        CREATE_PARTITIONS => AdminRequest::CreatePartitions(take(kind, message)?),
        ALTER_CONFIGS => AdminRequest::AlterConfigs(take(kind, message)?),
        INCREMENTAL_ALTER_CONFIGS => AdminRequest::IncrementalAlterConfigs(take(kind, message)?),
        ALTER_PARTITION_REASSIGNMENTS => AdminRequest::Reassign(take(kind, message)?),
        UNREGISTER_BROKER => AdminRequest::UnregisterBroker(take(kind, message)?),
        ADD_RAFT_VOTER => AdminRequest::AddVoter(take(kind, message)?),
        REMOVE_RAFT_VOTER => AdminRequest::RemoveVoter(take(kind, message)?),
        DESCRIBE_QUORUM => AdminRequest::DescribeQuorum(take(kind, message)?),
        _ => return Err(unknown(kind)),
    })
}

fn reply_head(reply: &AdminReply, out: &mut BytesMut) -> ReplyHead {
    let (key, api_version) = match reply {
        AdminReply::CreateTopics(response) => put(response, CREATE_TOPICS, out),
        AdminReply::DeleteTopics(response) => put(response, (DELETE_TOPICS, DELETE_TOPICS_VERSIONS.1), out),
        AdminReply::CreatePartitions(response) => put(response, CREATE_PARTITIONS, out),
        AdminReply::AlterConfigs(response) => put(response, ALTER_CONFIGS, out),
        AdminReply::IncrementalAlterConfigs(response) => put(response, INCREMENTAL_ALTER_CONFIGS, out),
        AdminReply::Reassign(response) => put(response, ALTER_PARTITION_REASSIGNMENTS, out),
        AdminReply::UnregisterBroker(response) => put(response, UNREGISTER_BROKER, out),
        AdminReply::AddVoter(response) => put(response, ADD_RAFT_VOTER, out),
        AdminReply::RemoveVoter(response) => put(response, REMOVE_RAFT_VOTER, out),
        AdminReply::DescribeQuorum(response) => put(response, DESCRIBE_QUORUM, out),
        AdminReply::AutoCreate(failed) => {
            let failed = failed.iter().map(|(name, code)| (name.clone(), code.code())).collect();
            return ReplyHead::AutoCreate { failed };
        }
        AdminReply::Done => return ReplyHead::Done,
        AdminReply::Refused(code, why) => return ReplyHead::Refused { code: code.code(), why: why.clone() },
        AdminReply::NotController => return ReplyHead::NotController,
    };
    ReplyHead::Kafka { key, api_version }
}

fn reply_of(head: ReplyHead, message: &mut Bytes) -> Result<AdminReply, ForwardError> {
    let error = |code| ResponseError::try_from_code(code).unwrap_or(ResponseError::UnknownServerError);
    let (key, version) = match head {
        ReplyHead::Kafka { key, api_version } => (key, api_version),
        ReplyHead::AutoCreate { failed } => {
            let failed = failed.into_iter().map(|(name, code)| (name, error(code))).collect();
            return Ok(AdminReply::AutoCreate(failed));
        }
        ReplyHead::Done => return Ok(AdminReply::Done),
        ReplyHead::Refused { code, why } => return Ok(AdminReply::Refused(error(code), why)),
        ReplyHead::NotController => return Ok(AdminReply::NotController),
    };
    let kind = (key, version);
    Ok(match kind {
        CREATE_TOPICS => AdminReply::CreateTopics(take(kind, message)?),
        (DELETE_TOPICS, _) => AdminReply::DeleteTopics(take(kind, message)?),
        CREATE_PARTITIONS => AdminReply::CreatePartitions(take(kind, message)?),
        ALTER_CONFIGS => AdminReply::AlterConfigs(take(kind, message)?),
        INCREMENTAL_ALTER_CONFIGS => AdminReply::IncrementalAlterConfigs(take(kind, message)?),
        ALTER_PARTITION_REASSIGNMENTS => AdminReply::Reassign(take(kind, message)?),
        UNREGISTER_BROKER => AdminReply::UnregisterBroker(take(kind, message)?),
        ADD_RAFT_VOTER => AdminReply::AddVoter(take(kind, message)?),
        REMOVE_RAFT_VOTER => AdminReply::RemoveVoter(take(kind, message)?),
        DESCRIBE_QUORUM => AdminReply::DescribeQuorum(take(kind, message)?),
        _ => return Err(unknown(kind)),
    })
}

// --- the pieces

/// Appends a message in Kafka's encoding and gives its kind.
fn put<T: Encodable>(message: &T, kind: (i16, i16), out: &mut BytesMut) -> (i16, i16) {
    // What a client could say in an older version, or the controller answers, the version of the table can say too.
    message.encode(out, kind.1).expect("every field fits the version of the table");
    kind
}

fn take<T: Decodable>(kind: (i16, i16), message: &mut Bytes) -> Result<T, ForwardError> {
    let (key, version) = kind;
    // The link's checksum has passed: what is here is what a member of this cluster wrote.
    T::decode(message, version).map_err(|error| ForwardError::Message {
        key,
        version,
        why: error.to_string(),
    })
}

fn unknown((key, version): (i16, i16)) -> ForwardError {
    ForwardError::Message { key, version, why: "it is not known here".to_owned() }
}

fn body<T: Serialize>(head: T, message: &[u8]) -> Bytes {
    let head = serde_json::to_vec(&Head { version: FORMAT_VERSION, head }).expect("a head is plain data");
    let mut out = BytesMut::with_capacity(4 + head.len() + message.len());
    out.put_u32_le(u32::try_from(head.len()).expect("a head is far below 4 GiB"));
    out.put_slice(&head);
    out.put_slice(message);
    out.freeze()
}

fn split<T: serde::de::DeserializeOwned>(bytes: &Bytes) -> Result<(T, Bytes), ForwardError> {
    let mut rest = bytes.clone();
    let length = rest.try_get_u32_le().map_err(|_| ForwardError::Short)?;
    let length = usize::try_from(length).map_err(|_| ForwardError::Short)?;
    if length > rest.len() {
        return Err(ForwardError::Short);
    }
    let head = rest.split_to(length);
    let VersionIn { version } = serde_json::from_slice(&head)?;
    if version > FORMAT_VERSION {
        return Err(ForwardError::Newer(version));
    }
    let Head { head, .. } = serde_json::from_slice::<Head<T>>(&head)?;
    Ok((head, rest))
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
