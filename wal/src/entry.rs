//! What a group keeps in its log and beside it: the vocabulary between Raft, the WAL and the partition files.
//!
//! Pure data. `wal` knows no Raft: terms, votes and configurations are numbers and bytes to it.

use bytes::Bytes;

use crate::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term, TurnNumber};

/// What an entry of a group's log is. The numbers are those of the WAL frame and of the `.raft` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// Appended by a new leader to open its term, or the filler for an entry that compaction removed. No payload.
    Empty = 0,
    /// One Kafka record batch, byte for byte as consumers get it.
    Batch = 1,
    /// Moves the log start (retention, DeleteRecords). Payload: the new log start offset, i64 little-endian.
    LogStart = 2,
    /// A Raft configuration change, protobuf `ConfChange`.
    ConfChange = 3,
    /// A Raft joint configuration change, protobuf `ConfChangeV2`.
    ConfChangeV2 = 4,
}

impl EntryKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Empty,
            1 => Self::Batch,
            2 => Self::LogStart,
            3 => Self::ConfChange,
            4 => Self::ConfChangeV2,
            _ => return None,
        })
    }
}

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the Raft log.
    pub index: RaftIndex,
    /// The term it was proposed in; for a batch, also the leader epoch within its header.
    pub term: Term,
    /// What the payload is.
    pub kind: EntryKind,
    /// A batch's base offset. For every other kind: the offset that the next batch gets.
    pub base_offset: KafkaOffset,
    /// The payload.
    pub data: Bytes,
}

impl LogEntry {
    /// The offset after this entry: what the next batch gets.
    ///
    /// Reads a batch's last offset delta (bytes 23..27 of its header, big-endian); any other kind takes no offset.
    #[must_use]
    pub fn next_offset(&self) -> KafkaOffset {
        match self.kind {
            EntryKind::Batch => {
                let field: [u8; 4] = self.data[23..27].try_into().expect("a batch has a whole header");
                self.base_offset.plus(i64::from(i32::from_be_bytes(field)) + 1)
            }
            _ => self.base_offset,
        }
    }
}

/// Raft's hard state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Whom this replica voted for in that term; 0 for nobody.
    pub vote: PeerId,
    /// The highest index known to be committed when this was written. May lag.
    pub commit: RaftIndex,
}

/// Where a group's log begins: everything at or below `index` is gone, by retention or before a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStart {
    /// The last index that is gone.
    pub index: RaftIndex,
    /// Its term.
    pub term: Term,
    /// Kafka's log start offset. May lie within the first batch kept (DeleteRecords cuts at any offset).
    pub offset: KafkaOffset,
    /// The offset that the entry after `index` starts at: at most `offset`.
    pub base_offset: KafkaOffset,
}

/// What must survive for a group beside its entries. Written whole, so that the newest copy is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Term, vote, commit.
    pub hard: HardState,
    /// Where the log begins.
    pub log_start: LogStart,
    /// The applied Raft configuration, opaque here, and the index that it belongs to.
    pub configuration: Bytes,
    /// Index of the entry that made `configuration`; entries at or below are not applied to it again.
    pub configuration_index: RaftIndex,
    /// This replica's own Raft id.
    pub peer: PeerId,
    /// State as of the log start that is not in the log any more (producer state, metadata image). Opaque here.
    pub snapshot_data: Bytes,
}

/// How far a partition's files hold its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushPoint {
    /// The last entry in the files.
    pub index: RaftIndex,
    /// Its term.
    pub term: Term,
    /// The offset after it.
    pub next_offset: KafkaOffset,
    /// Base offset (file name) of the segment that it lies in.
    pub segment_base: KafkaOffset,
    /// Bytes of that segment up to and including it.
    pub position: u64,
}

/// Where the Raft driver puts what must become durable. `ShardWal` is the real one; tests have their own.
///
/// Everything put since the last turn began lands in the turn that [`LogSink::filling_turn`] names.
pub trait LogSink {
    /// Appends an entry. Any entry of the group at or above its index, put before, is thereby truncated.
    /// `commit` is the group's commit index as known now.
    fn put_entry(&mut self, group: GroupId, commit: RaftIndex, entry: &LogEntry);
    /// Writes the group's state; replaces the one before.
    fn put_state(&mut self, group: GroupId, state: &GroupState);
    /// Notes that the group is gone; recovery forgets all of it.
    fn put_removed(&mut self, group: GroupId);
    /// Notes that the group's log goes on from this state alone: a removal and the state, in one turn.
    fn put_replaced(&mut self, group: GroupId, state: &GroupState) {
        self.put_removed(group);
        self.put_state(group, state);
    }
    /// The turn that these go to.
    fn filling_turn(&self) -> TurnNumber;
}
