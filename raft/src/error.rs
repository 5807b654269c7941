//! What can go wrong when a group is loaded, proposed to or sent a message.

use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex};

/// Why a proposal was not taken. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This shard has no such group.
    #[error("group {0} is not on this shard")]
    UnknownGroup(GroupId),
    /// This replica does not lead, or has not yet applied an entry of its own term.
    #[error("this replica does not lead the group")]
    NotLeader,
    /// Leadership is being handed over: the proposal waits (SAFETY.md, rule 12) and is tried again.
    #[error("leadership is being transferred")]
    Transferring,
    /// The group has as many uncommitted bytes as it may: try again once some are committed.
    #[error("too many uncommitted bytes")]
    Full,
    /// A configuration change is in the log and not yet applied, or the configuration does not allow this one.
    #[error("the configuration cannot change now")]
    ConfigurationBusy,
    /// The change is about a replica that is no member (or, for a promotion, no learner).
    #[error("peer {0} is no member of the group that could be changed so")]
    NotMember(PeerId),
    /// The replica is a member already.
    #[error("peer {0} is a member of the group already")]
    AlreadyMember(PeerId),
    /// The learner lacks too much, or cannot be reached: as a voter it would be waited for.
    #[error("peer {0} has not caught up with the group")]
    NotCaughtUp(PeerId),
    /// Without this voter there would be none.
    #[error("peer {0} is the group's last voter")]
    LastVoter(PeerId),
}

/// Why recovered state cannot be loaded. The replica is damaged (SAFETY.md, rule 8); nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The group is there already.
    #[error("group {0} is already loaded")]
    Exists(GroupId),
    /// The replica's own id is zero, which raft reserves.
    #[error("group {0}: its own peer id is 0; the recovered state is not that of a replica")]
    NoPeer(GroupId),
    /// The configuration cannot be read or makes no sense.
    #[error("group {0}: the recovered configuration is unusable: {1}")]
    Configuration(GroupId, &'static str),
    /// Entries are missing between the files and the WAL.
    #[error("group {group}: entries {after} to {found} are missing between the partition files and the WAL")]
    Gap {
        /// The group.
        group: GroupId,
        /// The last index present before the gap.
        after: RaftIndex,
        /// The first index present after it.
        found: RaftIndex,
    },
    /// An entry's offset or term steps back.
    #[error("group {group}: entry {index} steps back in offset or term (base offset {base_offset})")]
    StepsBack {
        /// The group.
        group: GroupId,
        /// The entry.
        index: RaftIndex,
        /// Its base offset.
        base_offset: KafkaOffset,
    },
    /// The runs of terms do not cover what the files hold.
    #[error("group {0}: the terms of the entries in the files are not known down to the log start")]
    Terms(GroupId),
    /// raft-rs refused the state.
    #[error("group {0}: raft refused the recovered state: {1}")]
    Refused(GroupId, String),
}

/// Why a message from a peer was dropped. Counted; never fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// This shard has no such group.
    #[error("no such group on this shard")]
    UnknownGroup,
    /// A kind of message that no peer may send.
    #[error("this kind of message never comes from a peer")]
    Kind,
    /// The message is not for this replica or its sender is not one.
    #[error("wrong sender or receiver")]
    Address,
    /// A term or an index is zero where it may not be, or absurdly high.
    #[error("a term or index is out of range")]
    Range,
    /// The entries are not contiguous, not readable, or step back in term or offset.
    #[error("the entries are malformed")]
    Entries,
    /// The message claims that this replica holds entries which it does not: stepping it would stop the process.
    #[error("the message commits or acknowledges past the end of the log")]
    PastEnd,
    /// The snapshot cannot be used.
    #[error("the snapshot is malformed")]
    Snapshot,
    /// The replica cannot act on it at this moment; the peer's retry will find it ready.
    #[error("not now")]
    NotNow,
    /// raft-rs had no use for it (a sender that is no member).
    #[error("refused by raft")]
    Refused,
}
