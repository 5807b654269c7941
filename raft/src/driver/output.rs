//! What the driver asks of its shard, and what it counts.

use bytes::Bytes;
use chronik_wal::entry::{LogEntry, LogStart};
use chronik_wal::types::{GroupId, PeerId, RaftIndex, Term, TurnNumber};
use raft::eraftpb::Message;

use crate::leadership::Leadership;

/// A message to a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The receiver: a replica of the group.
    pub to: PeerId,
    /// The group.
    pub group: GroupId,
    /// The message.
    pub message: Message,
}

/// Entries of a group that are committed and durable here: to be applied now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The group.
    pub group: GroupId,
    /// In order of index, without a gap to the ones handed out before. Every kind, configuration changes included (those are
    /// for information: the driver has applied them).
    pub entries: Vec<LogEntry>,
}

/// Entries that raft wants to send to a follower and that are only in the partition's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFetch {
    /// The group.
    pub group: GroupId,
    /// First index wanted. Names the fetch in [`crate::driver::Driver::on_entries_fetched`].
    pub low: RaftIndex,
    /// One above the last index wanted. Fewer may be given, but at least one.
    pub high: RaftIndex,
    /// Payload bytes wanted at most, but for a single larger entry.
    pub bytes_max: u64,
}

/// A snapshot took the place of the whole log of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The group.
    pub group: GroupId,
    /// The log is empty and goes on from here.
    pub log_start: LogStart,
    /// The state as of there (`GroupState::snapshot_data`).
    pub data: Bytes,
    /// The partition's files are obsolete at once but may be deleted only when this turn is durable.
    pub turn: TurnNumber,
}

/// A log start has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The group.
    pub group: GroupId,
    /// Where the log begins now.
    pub log_start: LogStart,
    /// Files below it may be deleted when this turn is durable.
    pub turn: TurnNumber,
}

/// What came of [`crate::driver::Driver::run_ready`]. Reused from turn to turn; the shard drains it after each call:
/// first `installed`, then `committed`, then `leadership`.
#[derive(Debug, Default)]
pub struct DriverOutput {
    /// Messages to send now, in order for each receiver.
    pub messages: Vec<Outgoing>,
    /// Heartbeats and their answers, apart so that one frame a node can carry those of all groups.
    pub heartbeats: Vec<Outgoing>,
    /// Snapshots that were installed.
    pub installed: Vec<Installed>,
    /// Entries to apply.
    pub committed: Vec<Committed>,
    /// Changes of leadership; the last of a group holds.
    pub leadership: Vec<(GroupId, Leadership)>,
    /// Groups whose quorum has answered ([`crate::driver::Driver::ask_quorum`]).
    pub contacts: Vec<GroupId>,
    /// Entries to read from files.
    pub fetches: Vec<EntryFetch>,
    /// Log starts that moved.
    pub compacted: Vec<Compacted>,
}

impl DriverOutput {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.heartbeats.clear();
        self.installed.clear();
        self.committed.clear();
        self.leadership.clear();
        self.contacts.clear();
        self.fetches.clear();
        self.compacted.clear();
    }
}

/// What happened on a shard's groups since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounters {
    /// Visits to groups by the ready loop.
    pub visits: u64,
    /// Readies handled.
    pub readies: u64,
    /// Ticks given to groups.
    pub group_ticks: u64,
    /// Times that a group went to rest.
    pub rests: u64,
    /// Times that a group was woken.
    pub wakes: u64,
    /// Elections begun because the leader's node was lost.
    pub elections_begun: u64,
    /// Messages stepped.
    pub messages_stepped: u64,
    /// Proposals taken.
    pub proposals: u64,
    /// Proposals refused because of too many uncommitted bytes.
    pub proposals_full: u64,
    /// Entries given to the WAL.
    pub entries_written: u64,
    /// Group states given to the WAL.
    pub states_written: u64,
    /// Entries handed out as committed.
    pub entries_committed: u64,
    /// Changes of leadership told.
    pub leadership_changes: u64,
    /// Messages dropped: unknown group.
    pub dropped_unknown_group: u64,
    /// Messages dropped: a kind that no peer may send, `MsgPropose` among them.
    pub dropped_kind: u64,
    /// Messages dropped: they would have stopped the process or bent the log (see the guard's table).
    pub dropped_malformed: u64,
    /// Messages dropped: not now, or refused by raft.
    pub dropped_refused: u64,
    /// Appends of which entries were left out, to be sent again: there was no room for them.
    pub appends_cut: u64,
    /// The highest term seen on any group.
    pub term_max: Term,
}
