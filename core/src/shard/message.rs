//! What travels between shards: requests to the shard that owns a partition, and its replies.
//!
//! A connection's shard decodes a Kafka request, cuts it into one slice for each owning shard and sends these by
//! mailbox; the owner answers each slice once. Record bytes travel as `BytesMut`/`Bytes`: a reference count moves,
//! never the bytes. A slice names partitions by their Raft group, which the sender took from the metadata snapshot.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_net::codec::ErrorCode;
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch, NodeId, ShardId, Term};
use uuid::Uuid;

use super::Event;
use super::controller::{AdminReply, AdminRequest};
use super::elections::Election;
use crate::coordinator::{GroupRequest, GroupResponse};

/// Where the answer to a request goes: the shard that asked, and its number for the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// The shard that waits.
    pub origin: ShardId,
    /// Its own number for this question, never used twice.
    pub id: u64,
}

/// A message in a shard's mailbox, from a shard of this node.
#[derive(Debug)]
pub enum Message {
    /// Something happened to the shard.
    Event(Event),
    /// The answer to a question that this shard's connections asked.
    Reply {
        /// The number that this shard gave the question.
        id: u64,
        /// The answer.
        reply: Reply,
    },
}

/// What shards of different nodes say to each other. Lost with the link that carries it, never reordered on one.
#[derive(Clone, Debug)]
pub enum PeerMessage {
    /// A message of a Raft group, to the shard that owns the group there.
    Raft {
        /// The group.
        group: GroupId,
        /// The message, from one peer id to another.
        message: chronik_raft::eraftpb::Message,
    },
    /// Heartbeats and their answers, of many groups at once; the edge cuts them by owning shard of the receiver.
    Heartbeats(Vec<(GroupId, chronik_raft::eraftpb::Message)>),
    /// Leaders, told by the node that leads (shard 0 to shard 0).
    Leaders(Vec<LeaderEvent>),
    /// A question to the other node's shard 0, in the form of `metadata::forward`.
    Ask {
        /// The asking node's number for it.
        id: u64,
        /// The question.
        body: Bytes,
    },
    /// The answer to an [`PeerMessage::Ask`].
    Answer {
        /// The number that the asking node gave.
        id: u64,
        /// The answer.
        body: Bytes,
    },
}

/// A message on its way to another node.
#[derive(Clone, Debug)]
pub struct PeerOut {
    /// The receiver.
    pub node: NodeId,
    /// What is said.
    pub message: PeerMessage,
}

/// A partition has a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderEvent {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: i32,
    /// The term in which it leads.
    pub term: Term,
    /// Who leads.
    pub leader: NodeId,
    /// The replicas in sync, where the leader itself says so.
    pub in_sync: Option<Arc<[NodeId]>>,
}

/// A question to the shard that owns what it is about.
#[derive(Debug)]
pub enum Request {
    /// Append batches.
    Produce(ProduceSlice),
    /// Read batches, waiting for them if there are too few.
    Fetch(FetchSlice),
    /// As [`Request::Fetch`], by a client that says where it is (KIP-392): it may be sent to a replica nearby, and a replica that
    /// does not lead serves it as well.
    FetchFrom {
        /// What is read.
        slice: FetchSlice,
        /// The client's rack; not empty.
        rack: Arc<str>,
    },
    /// Answer the fetch with this number now, with whatever there is.
    FetchNow {
        /// The call of the fetch.
        fetch: Call,
    },
    /// Look up offsets by time or by name.
    ListOffsets(Vec<OffsetQuery>),
    /// Where an epoch ended (KIP-320).
    EpochEnd(Vec<EpochQuery>),
    /// Move log starts forward.
    DeleteRecords {
        /// What to delete up to where.
        items: Vec<DeleteItem>,
        /// How long to wait for the commit.
        timeout_ms: u32,
    },
    /// Hand a group's leadership over, to this node or to the preferred replica; to the shard that leads it.
    TransferLeader {
        /// The group.
        group: GroupId,
        /// To whom; none for the replica that placement names first.
        to: Option<NodeId>,
    },
    /// Bring these leaders about, wherever the partitions are led now; shard 0 only.
    Elect {
        /// The leaders wanted.
        elections: Vec<Election>,
        /// How long the client waits.
        timeout_ms: u32,
    },
    /// Sizes of the partitions of this shard.
    Sizes,
    /// A group request, to the coordinator of this `__consumer_offsets` partition.
    Group {
        /// The Raft group of the offsets partition.
        partition: GroupId,
        /// The request.
        request: Box<GroupRequest>,
    },
    /// The same for every coordinator of the shard (ListGroups).
    GroupAll(Box<GroupRequest>),
    /// A change of metadata; shard 0 only.
    Admin {
        /// The request.
        request: Box<AdminRequest>,
        /// How long the client waits.
        timeout_ms: u32,
    },
    /// A new producer id; shard 0 only.
    ProducerId,
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub enum Reply {
    /// One outcome for each item of the slice, in the slice's order.
    Produce(Vec<ProduceOutcome>),
    /// One outcome for each item of the slice, in the slice's order.
    Fetch(Vec<FetchOutcome>),
    /// In the order of the questions.
    Offsets(Vec<OffsetAnswer>),
    /// In the order of the questions.
    EpochEnds(Vec<EpochAnswer>),
    /// In the order of the items: the low watermark, or why not.
    Deleted(Vec<Result<KafkaOffset, ErrorCode>>),
    /// The other replica leads now, or why it does not: NOT_LEADER_OR_FOLLOWER, ELECTION_NOT_NEEDED,
    /// PREFERRED_LEADER_NOT_AVAILABLE.
    Transferred(Result<(), ErrorCode>),
    /// The elections that have not come about in time.
    Elected(Vec<Election>),
    /// Every partition of the shard.
    Sizes(Vec<PartitionSize>),
    /// A coordinator's answer.
    Group(Box<GroupResponse>),
    /// Every coordinator's answer.
    GroupAll(Vec<GroupResponse>),
    /// The metadata leader's answer.
    Admin(Box<AdminReply>),
    /// A producer id nobody had before.
    ProducerId(Result<i64, ErrorCode>),
    /// The shard cannot answer: it is full or stopping. Retriable.
    Unavailable,
}

/// What a produce request asks for before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// No answer at all.
    None,
    /// On the leader's disk.
    Leader,
    /// Committed: on the disks of a majority, and of `min.insync.replicas` voters.
    All,
}

/// The batches of one produce request that one shard owns.
#[derive(Debug)]
pub struct ProduceSlice {
    /// When the outcomes are due.
    pub acks: Acks,
    /// Kafka's `timeout.ms`: after it, whatever is not committed is answered REQUEST_TIMED_OUT.
    pub timeout_ms: u32,
    /// At most one for each partition.
    pub items: Vec<ProduceItem>,
}

/// One batch for one partition.
#[derive(Debug)]
pub struct ProduceItem {
    /// The partition's group.
    pub group: GroupId,
    /// The batch as it came from the client.
    pub records: BytesMut,
}

/// What became of a [`ProduceItem`].
#[derive(Clone, Debug)]
pub struct ProduceOutcome {
    /// NONE when the batch is as durable as was asked.
    pub error: ErrorCode,
    /// The first record's offset; −1 with an error.
    pub base_offset: KafkaOffset,
    /// The broker's timestamp where the topic uses it, else −1.
    pub log_append_time_ms: i64,
    /// The log start offset; −1 where not known.
    pub log_start_offset: KafkaOffset,
    /// Indexes of the records that were refused, with the reason (INVALID_RECORD).
    pub record_errors: Vec<(i32, String)>,
    /// For people: why it was refused.
    pub message: Option<String>,
    /// With NOT_LEADER_OR_FOLLOWER: who leads, as far as this node knows (KIP-951).
    pub leader: Option<LeaderHint>,
    /// With NOT_LEADER_OR_FOLLOWER: nobody has led for a while that this node knows of.
    pub is_orphaned: bool,
}

impl ProduceOutcome {
    /// A refusal.
    #[must_use]
    pub fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            base_offset: KafkaOffset(-1),
            log_append_time_ms: -1,
            log_start_offset: KafkaOffset(-1),
            record_errors: Vec::new(),
            message: None,
            leader: None,
            is_orphaned: false,
        }
    }
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader's node; −1 for nobody.
    pub node: NodeId,
    /// Its epoch; −1 when not known.
    pub epoch: LeaderEpoch,
}

/// Which records a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// The partitions of one fetch request that one shard owns.
#[derive(Clone, Debug)]
pub struct FetchSlice {
    /// Answer once this many bytes are there (or an error, or the deadline).
    pub min_bytes: u32,
    /// At most this many bytes in all; the first batch of the first non-empty partition always fits.
    pub max_bytes: u32,
    /// How long to wait for `min_bytes`.
    pub max_wait_ms: u32,
    /// Which records may be seen.
    pub isolation: Isolation,
    /// In the request's order.
    pub items: Vec<FetchItem>,
}

/// One partition of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchItem {
    /// The partition's group.
    pub group: GroupId,
    /// Where to read from.
    pub offset: KafkaOffset,
    /// At most this many bytes of this partition.
    pub max_bytes: u32,
    /// The epoch that the client believes in; −1 for none (KIP-320).
    pub current_epoch: LeaderEpoch,
    /// The epoch of the last record that the client has; −1 for none (KIP-595).
    pub last_fetched_epoch: LeaderEpoch,
}

/// What a fetch of one partition gives.
#[derive(Clone, Debug)]
pub struct FetchOutcome {
    /// NONE, or why there is nothing.
    pub error: ErrorCode,
    /// The high watermark; −1 with an error.
    pub high_watermark: KafkaOffset,
    /// The last stable offset.
    pub last_stable_offset: KafkaOffset,
    /// The log start offset.
    pub log_start_offset: KafkaOffset,
    /// Whole batches, uncopied.
    pub records: Vec<Bytes>,
    /// Where the client's log left this one (KIP-320): the epoch and its end offset here.
    pub diverging: Option<(LeaderEpoch, KafkaOffset)>,
    /// With NOT_LEADER_OR_FOLLOWER or FENCED_LEADER_EPOCH.
    pub leader: Option<LeaderHint>,
    /// With NOT_LEADER_OR_FOLLOWER: nobody has led for a while that this node knows of.
    pub is_orphaned: bool,
    /// Where this client had better read from (KIP-392).
    pub preferred: Option<NodeId>,
}

impl FetchOutcome {
    /// A refusal.
    #[must_use]
    pub fn refused(error: ErrorCode) -> Self {
        let none = KafkaOffset(-1);
        Self {
            error,
            high_watermark: none,
            last_stable_offset: none,
            log_start_offset: none,
            records: Vec::new(),
            diverging: None,
            leader: None,
            is_orphaned: false,
            preferred: None,
        }
    }

    /// Bytes of records in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// A ListOffsets question.
#[derive(Clone, Copy, Debug)]
pub struct OffsetQuery {
    /// The partition's group.
    pub group: GroupId,
    /// A Unix time in ms, or one of Kafka's special negative values.
    pub timestamp: i64,
    /// The epoch that the client believes in; −1 for none.
    pub current_epoch: LeaderEpoch,
    /// Whose end is asked for.
    pub isolation: Isolation,
}

/// The answer to an [`OffsetQuery`]; offset and timestamp are −1 when nothing matches.
#[derive(Clone, Copy, Debug)]
pub struct OffsetAnswer {
    /// NONE, or why there is no answer.
    pub error: ErrorCode,
    /// The offset found.
    pub offset: KafkaOffset,
    /// The timestamp of the record there, where one was looked for.
    pub timestamp: i64,
    /// The epoch of the record there; −1 where not known.
    pub epoch: LeaderEpoch,
}

/// An OffsetForLeaderEpoch question.
#[derive(Clone, Copy, Debug)]
pub struct EpochQuery {
    /// The partition's group.
    pub group: GroupId,
    /// The epoch that the client believes in; −1 for none.
    pub current_epoch: LeaderEpoch,
    /// The epoch whose end is asked for.
    pub epoch: LeaderEpoch,
}

/// The answer to an [`EpochQuery`].
#[derive(Clone, Copy, Debug)]
pub struct EpochAnswer {
    /// NONE, or why there is no answer.
    pub error: ErrorCode,
    /// The largest epoch at or below the one asked for; −1 for none.
    pub epoch: LeaderEpoch,
    /// Where it ended; −1 for none.
    pub end_offset: KafkaOffset,
}

/// One partition of DeleteRecords.
#[derive(Clone, Copy, Debug)]
pub struct DeleteItem {
    /// The partition's group.
    pub group: GroupId,
    /// Delete what lies below; −1 for the high watermark.
    pub before: KafkaOffset,
}

/// How much a partition holds.
#[derive(Clone, Copy, Debug)]
pub struct PartitionSize {
    /// The partition's group.
    pub group: GroupId,
    /// Bytes of its log, in files and in memory.
    pub bytes: u64,
    /// Its log end offset.
    pub log_end_offset: KafkaOffset,
    /// Its log start offset.
    pub log_start_offset: KafkaOffset,
    /// Its high watermark.
    pub high_watermark: KafkaOffset,
    /// Segment files.
    pub segment_count: u32,
}
