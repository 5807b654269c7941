//! All Raft groups of a shard, and the ready loop that serves them.
//!
//! Owned by the shard's pump; one a shard. Pure: time, the WAL and the network are arguments and results. A turn of the shard:
//!
//! ```text
//!   step(..)  propose(..)  tick(now)  on_durable(turn)  on_entries_fetched(..)     in any order
//!        └────────┴─────────────┴────────────┴──────────────┘
//!                                │ marks groups dirty
//!                 run_ready(wal, out)  until it says that nothing waits
//!                                │
//!      out.messages  → peers, at once            (a leader's messages do not wait for its own disk)
//!      out.committed → apply, before the driver is called again: handed out is applied
//!      out.leadership, fetches, installed, compacted
//!      wal.submit    → one write, one fdatasync; when it returns: on_durable(turn)
//! ```
//!
//! Invariants:
//! - committed entries come out once each, in order of index, and only when they are durable here as well;
//! - a vote or an acknowledgement leaves only when the turn that holds what it promises is durable;
//! - a group is looked at only when something happened to it: idle groups cost nothing, groups of one never tick.
//!
//! **Hard states.** The term and the vote are written when they change. A commit index alone is not: each entry's frame
//! carries the commit index known at its time, and one that is lost costs a restart nothing but to be told again (a group of
//! one finds it by committing anew). Where it matters it is written: a configuration change in the log takes the hard
//! state with it, because a replica that has forgotten that the change before was committed could vote by a
//! configuration two changes old.

mod durable;
mod elections;
mod fetch;
mod gate;
mod load;
mod members;
pub(crate) mod memory;
mod output;
mod propose;
mod ready;
mod rest;
mod step;
mod tick;

use std::collections::{BTreeSet, HashMap, VecDeque};

use chronik_wal::entry::{GroupState, LogStart};
use chronik_wal::tail::{LogPosition, Tail};
use chronik_wal::types::{GroupId, KafkaOffset, RaftIndex, Term, TurnNumber};
use raft::eraftpb::ConfState;

pub use load::{GroupInit, NewGroup};
pub use members::{MemberChange, MemberProgress};
pub use memory::{Room, entry_bytes};
pub use output::{Committed, Compacted, DriverCounters, DriverOutput, EntryFetch, Installed, Outgoing};
pub use propose::Proposal;

use crate::group::Group;
use crate::leadership::Leadership;

/// How a shard's groups behave. The same on every node.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Election timeouts are drawn from this. Different on each shard of each node.
    pub seed: u64,
    /// Milliseconds between two ticks of raft's clock.
    pub tick_ms: u64,
    /// Ticks without a leader's word after which a follower stands for election; the timeout is drawn from [this, twice this).
    pub election_ticks: usize,
    /// Ticks in which a leader finds nothing to do before it offers its followers to rest.
    pub rest_ticks: usize,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Payload bytes of one append message, but for a single larger entry.
    pub size_per_message_bytes_max: u64,
    /// Append messages on their way to one follower.
    pub inflight_messages_max: usize,
    /// Payload bytes of a group that are proposed and not yet committed; beyond, [`crate::error::ProposeError::Full`].
    pub uncommitted_bytes_max: u64,
    /// Payload bytes of committed entries that one visit to a group hands out.
    pub committed_bytes_per_ready_max: u64,
    /// Tails may keep this much of what is also in files, over all groups: the cache that fetch reads.
    pub tail_budget_bytes: usize,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            tick_ms: 30,
            election_ticks: 10,
            rest_ticks: 6,
            heartbeat_ticks: 2,
            size_per_message_bytes_max: 1 << 20,
            inflight_messages_max: 64,
            uncommitted_bytes_max: 32 << 20,
            committed_bytes_per_ready_max: 4 << 20,
            tail_budget_bytes: 64 << 20,
        }
    }
}

/// All groups of a shard.
pub struct Driver {
    config: DriverConfig,
    logger: slog::Logger,
    slots: Vec<Option<Group>>,
    free_slots: Vec<usize>,
    /// Looked up, never walked: its order is random.
    by_id: HashMap<GroupId, usize>,
    /// Groups to visit, each at most once, in the order in which something happened to them.
    dirty: VecDeque<usize>,
    /// Groups that tick.
    awake: BTreeSet<usize>,
    /// Of these, the ones that did not when the clock was last looked at: time that passed before is not theirs.
    fresh: BTreeSet<usize>,
    /// Groups whose quorum has answered as was asked.
    contacts: Vec<GroupId>,
    /// Turns that groups wait for, oldest first.
    awaited: VecDeque<(TurnNumber, GroupId)>,
    /// Messages whose turn is durable.
    unheld: Vec<Outgoing>,
    /// What may be evicted, oldest first.
    evictable: VecDeque<(GroupId, RaftIndex)>,
    tail_bytes: usize,
    /// Of these, the ones of groups that this node leads.
    led_bytes: usize,
    /// Bytes of entries from leaders that have not been visited yet.
    taken_bytes: usize,
    /// Groups whose leaders were told that there is no room for their entries.
    short: BTreeSet<usize>,
    last_tick_ms: Option<u64>,
    /// The newest time that is known.
    now_ms: u64,
    /// After a pause answers of before it may be in the inbox: until then (ms) only those to a question count as contact.
    trust_from_ms: u64,
    /// Groups that are to stand for election: when, and their slots.
    elections: BTreeSet<(u64, usize)>,
    /// How many of them may be under way.
    gate: gate::Gate,
    /// Groups that one call of [`Driver::run_ready`] visits.
    visits_max: usize,
    counters: DriverCounters,
}

impl Driver {
    /// A driver without groups.
    #[must_use]
    pub fn new(config: DriverConfig) -> Self {
        Self {
            config,
            logger: crate::log::raft_logger(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            by_id: HashMap::new(),
            dirty: VecDeque::new(),
            awake: BTreeSet::new(),
            fresh: BTreeSet::new(),
            contacts: Vec::new(),
            awaited: VecDeque::new(),
            unheld: Vec::new(),
            evictable: VecDeque::new(),
            tail_bytes: 0,
            led_bytes: 0,
            taken_bytes: 0,
            short: BTreeSet::new(),
            last_tick_ms: None,
            now_ms: 0,
            trust_from_ms: 0,
            elections: BTreeSet::new(),
            gate: gate::Gate::default(),
            visits_max: ready::VISITS_PER_CALL_MAX,
            counters: DriverCounters::default(),
        }
    }

    /// Count of groups.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.by_id.len()
    }

    /// Whether this shard has the group.
    #[must_use]
    pub fn contains(&self, group: GroupId) -> bool {
        self.by_id.contains_key(&group)
    }

    /// What this replica may say about the group's leader; none for an unknown group.
    #[must_use]
    pub fn leadership(&self, group: GroupId) -> Option<Leadership> {
        self.group(group).map(Group::leadership)
    }

    /// The offset that the next batch gets: the end of the log, uncommitted entries and proposals of this turn included.
    #[must_use]
    pub fn log_end_offset(&self, group: GroupId) -> Option<KafkaOffset> {
        self.group(group).map(Group::log_end_offset)
    }

    /// The last index of the log, proposals of this turn included.
    #[must_use]
    pub fn last_index(&self, group: GroupId) -> Option<RaftIndex> {
        self.group(group).map(Group::last_index)
    }

    /// The commit index.
    #[must_use]
    pub fn commit(&self, group: GroupId) -> Option<RaftIndex> {
        self.group(group).map(Group::commit)
    }

    /// The last entry that is durable on this disk.
    #[must_use]
    pub fn persisted(&self, group: GroupId) -> Option<RaftIndex> {
        self.group(group).map(|group| RaftIndex(group.node.raft.raft_log.persisted))
    }

    /// The last entry handed out as committed, hence applied.
    #[must_use]
    pub fn applied(&self, group: GroupId) -> Option<RaftIndex> {
        self.group(group).map(|group| group.applied)
    }

    /// The newest entries. Proposals of this turn come in with [`Driver::run_ready`].
    #[must_use]
    pub fn tail(&self, group: GroupId) -> Option<&Tail> {
        self.group(group).map(|group| &group.storage().tail)
    }

    /// The term of any entry of the log that is not compacted, in files or not.
    #[must_use]
    pub fn term(&self, group: GroupId, index: RaftIndex) -> Option<Term> {
        self.group(group).and_then(|group| group.storage().term_runs.term(index))
    }

    /// What is durable, or in the filling turn, beside the entries.
    #[must_use]
    pub fn state(&self, group: GroupId) -> Option<&GroupState> {
        self.group(group).map(|group| &group.storage().state)
    }

    /// Where the log begins, or will in a moment ([`Driver::compact_to`]).
    #[must_use]
    pub fn log_start(&self, group: GroupId) -> Option<LogStart> {
        self.group(group).map(Group::log_start)
    }

    /// The applied configuration.
    #[must_use]
    pub fn configuration(&self, group: GroupId) -> Option<&ConfState> {
        self.group(group).map(|group| &group.storage().configuration)
    }

    /// The last entry that ends at or below `offset`, from the tail: what a log start at `offset` compacts to. None when the
    /// tail does not reach down that far: the partition's segment index knows.
    #[must_use]
    pub fn position_before(&self, group: GroupId, offset: KafkaOffset) -> Option<LogPosition> {
        self.group(group).and_then(|group| group.storage().tail.position_before(offset))
    }

    /// What happened so far, for metrics.
    #[must_use]
    pub fn counters(&self) -> &DriverCounters {
        &self.counters
    }

    /// Memory of all tails, by [`Tail::bytes`].
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Whether [`Driver::run_ready`] has anything to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.unheld.is_empty() || !self.contacts.is_empty()
    }

    fn group(&self, group: GroupId) -> Option<&Group> {
        self.slots[*self.by_id.get(&group)?].as_ref()
    }

    fn slot_of(&self, group: GroupId) -> Option<usize> {
        self.by_id.get(&group).copied()
    }

    /// The group in this slot.
    fn at(&mut self, slot: usize) -> &mut Group {
        self.slots[slot].as_mut().expect("a slot that is known by id or in a list is taken")
    }

    fn mark_dirty(&mut self, slot: usize) {
        let group = self.slots[slot].as_mut().expect("a slot that is known by id or in a list is taken");
        if !group.is_dirty {
            group.is_dirty = true;
            self.dirty.push_back(slot);
        }
    }

    /// Lets the group tick, unless it rests; one without another member does so for good.
    fn update_awake(&mut self, slot: usize) {
        let group = self.at(slot);
        if group.is_only_member() || group.is_resting() {
            self.awake.remove(&slot);
        } else if self.awake.insert(slot) {
            self.fresh.insert(slot);
        }
    }
}

#[cfg(test)]
mod election_tests;
#[cfg(test)]
mod member_tests;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod promise_tests;
#[cfg(test)]
mod rest_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tick_tests;
