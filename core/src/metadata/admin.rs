//! What the metadata leader is asked to do, and its answers: by clients of any node, and by the nodes themselves.
//!
//! A variant that is Kafka's own travels between nodes in Kafka's encoding, in the version named here; the rest in JSON
//! (`forward.rs`). To add one: the variant in [`AdminRequest`] and [`AdminReply`], its line in the two tables of
//! `forward.rs`, its plan in `shard/controller/requests.rs`.

use chronik_net::codec::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, AlterConfigsRequest, AlterConfigsResponse,
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, CreatePartitionsRequest,
    CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeQuorumRequest, DescribeQuorumResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
    UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use chronik_wal::types::{NodeId, RaftIndex};
use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::Replica;
use super::controller::AdminResponse;
use super::state::Broker;

/// The members that a partition's leader has brought Raft to, all of them voters, and which placement it had in mind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The members.
    pub replicas: Vec<Replica>,
    /// The entry with which they became the members.
    #[serde(default)]
    pub index: RaftIndex,
    /// Who was to go by that placement. Another one may have the same target and yet more to do: whoever it called off may be a
    /// member by now. None from a node that does not say.
    #[serde(default)]
    pub going: Option<Vec<Replica>>,
}

/// A change of metadata that a client, or a node itself, asks for.
#[derive(Clone, Debug)]
pub enum AdminRequest {
    /// CreateTopics.
    CreateTopics(CreateTopicsRequest),
    /// DeleteTopics, with its version.
    DeleteTopics(DeleteTopicsRequest, i16),
    /// CreatePartitions.
    CreatePartitions(CreatePartitionsRequest),
    /// AlterConfigs.
    AlterConfigs(AlterConfigsRequest),
    /// IncrementalAlterConfigs.
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    /// AlterPartitionReassignments.
    Reassign(AlterPartitionReassignmentsRequest),
    /// UnregisterBroker.
    UnregisterBroker(UnregisterBrokerRequest),
    /// AddRaftVoter.
    AddVoter(AddRaftVoterRequest),
    /// RemoveRaftVoter.
    RemoveVoter(RemoveRaftVoterRequest),
    /// DescribeQuorum: changes nothing, but only the leader of the group knows.
    DescribeQuorum(DescribeQuorumRequest),
    /// Topics that a Metadata request named and that do not exist.
    AutoCreate(Vec<String>),
    /// A block of producer ids for a node; it comes with the metadata log.
    ProducerIds(NodeId),
    /// A node has started, or has other addresses.
    Register(NodeId, Box<Broker>),
    /// The leader of a partition has brought Raft to these members: what is to be of `PartitionView::target`.
    CompletePlacement {
        /// The topic.
        topic: Uuid,
        /// The partition.
        partition: i32,
        /// What it has brought Raft to.
        reached: Reached,
    },
    /// A replica has lost part of its log: its node begins again under a fresh id (SAFETY.md, rule 8).
    RenewReplica {
        /// The topic.
        topic: Uuid,
        /// The partition.
        partition: i32,
        /// The replica that is no more.
        replica: Replica,
    },
}

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug)]
pub enum AdminReply {
    /// CreateTopics.
    CreateTopics(CreateTopicsResponse),
    /// DeleteTopics.
    DeleteTopics(DeleteTopicsResponse),
    /// CreatePartitions.
    CreatePartitions(CreatePartitionsResponse),
    /// AlterConfigs.
    AlterConfigs(AlterConfigsResponse),
    /// IncrementalAlterConfigs.
    IncrementalAlterConfigs(IncrementalAlterConfigsResponse),
    /// AlterPartitionReassignments.
    Reassign(AlterPartitionReassignmentsResponse),
    /// UnregisterBroker.
    UnregisterBroker(UnregisterBrokerResponse),
    /// AddRaftVoter.
    AddVoter(AddRaftVoterResponse),
    /// RemoveRaftVoter.
    RemoveVoter(RemoveRaftVoterResponse),
    /// DescribeQuorum.
    DescribeQuorum(DescribeQuorumResponse),
    /// The names that could not be made, and why.
    AutoCreate(Vec<(String, ResponseError)>),
    /// Done; there is nothing to say.
    Done,
    /// The request as a whole came to nothing, with the reason.
    Refused(ResponseError, String),
    /// Nobody leads the metadata group, as far as this node knows.
    NotController,
}

impl AdminReply {
    /// Fails what had succeeded: the time is up, or the change did not come about.
    pub fn fail(&mut self, code: ResponseError) {
        match self {
            Self::CreateTopics(response) => response.fail(code),
            Self::DeleteTopics(response) => response.fail(code),
            Self::CreatePartitions(response) => response.fail(code),
            Self::AlterConfigs(response) => response.fail(code),
            Self::IncrementalAlterConfigs(response) => response.fail(code),
            Self::Reassign(response) => response.fail(code),
            Self::UnregisterBroker(response) => response.fail(code),
            Self::AddVoter(response) => response.fail(code),
            Self::RemoveVoter(response) => response.fail(code),
            Self::Done => *self = Self::Refused(code, code.to_string()),
            Self::DescribeQuorum(_) | Self::AutoCreate(_) | Self::Refused(..) | Self::NotController => {}
        }
    }
}
