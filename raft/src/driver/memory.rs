//! What the groups hold in memory, and how much of an append a follower takes while its shard is short of it (SAFETY.md, rule 7).
//!
//! ```text
//!   leader                                          follower, short of memory
//!     ── append, entries 8..20 ──────────────────▶  takes 8..11, as if no more had been sent
//!     ◀── accepted to 11, short ──────────────────
//!   probes this follower, and is silent but
//!   for heartbeats
//!     ◀── answer to a heartbeat, short ───────────  raft-rs does not see it: it would send at once
//!     ◀── answer to a heartbeat ──────────────────  there is room again
//!     ── append, entries 12.. ────────────────────▶
//! ```
//!
//! To take fewer entries than came is always right: a leader might have sent no more. What an append says of commits, and a
//! conflict that it finds, count in any case. The word "short" rides in a field that raft-rs leaves alone in these messages;
//! it is repeated with each answer, so that nothing has to be remembered about it and nothing gets stuck when one is lost.

use bytes::Bytes;
use chronik_wal::tail::ENTRY_OVERHEAD_BYTES;
use chronik_wal::types::{GroupId, PeerId};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{ProgressState, StateRole};

use super::Driver;
use crate::error::StepError;
use crate::group::Group;

/// `commit_term` of an answer that says "short".
pub(crate) const SHORT: u64 = 1;

/// What a shard's memory has left for entries of other leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many bytes, by [`chronik_wal::tail::Tail::bytes`].
    pub bytes: u64,
    /// Even if it is less than that, one entry may pass.
    pub takes_one: bool,
}

/// What an entry of an append takes in memory, as [`chronik_wal::tail::Tail::bytes`] counts it.
#[must_use]
pub fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

impl Driver {
    /// As [`Driver::step`], but of an append's entries only as many are taken as there is room for.
    ///
    /// # Errors
    /// As [`Driver::step`].
    pub fn step_within(
        &mut self,
        from: PeerId,
        group: GroupId,
        mut message: Message,
        room: Room,
    ) -> Result<(), StepError> {
        let is_append = message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty();
        let Some(slot) = self.slot_of(group).filter(|_| is_append) else {
            return self.step(from, group, message);
        };
        let taken_bytes = self.cut_to_fit(slot, &mut message, room);
        let result = self.step(from, group, message);
        if result.is_ok() {
            self.taken_bytes += taken_bytes;
            self.at(slot).taken_bytes += taken_bytes;
        }
        result
    }

    /// Leaves out the entries for which there is no room. Gives the bytes of the new ones that stay.
    fn cut_to_fit(&mut self, slot: usize, message: &mut Message, room: Room) -> usize {
        let group = self.at(slot);
        let log = &group.node.raft.raft_log;
        // What the log has already takes no room, and its leader must learn that it is here.
        let is_known = |index, term| index <= log.last_index() && log.match_term(index, term);
        let mut kept = message.entries.iter().take_while(|entry| is_known(entry.index, entry.term)).count();
        let mut bytes = 0;
        for entry in message.entries.iter().skip(kept) {
            let with_entry = bytes + entry_bytes(entry);
            if with_entry as u64 > room.bytes && !(room.takes_one && bytes == 0) {
                break;
            }
            bytes = with_entry;
            kept += 1;
        }
        if kept == message.entries.len() {
            return bytes;
        }
        cut(message, kept);
        group.is_short = true;
        self.short.insert(slot);
        self.counters.appends_cut += 1;
        bytes
    }

    /// Whether a leader was told that there is no room for its entries, and not yet that there is again.
    #[must_use]
    pub fn is_short(&self) -> bool {
        !self.short.is_empty()
    }

    /// There is room again: leaders send on when they next hear from their followers here.
    pub fn room_again(&mut self) {
        for slot in std::mem::take(&mut self.short) {
            self.at(slot).is_short = false;
        }
    }

    /// Memory of the tails of groups that this node leads; part of [`Driver::tail_bytes`].
    #[must_use]
    pub fn led_bytes(&self) -> usize {
        self.led_bytes
    }

    /// Bytes of entries taken from leaders that no tail counts yet.
    #[must_use]
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// Whether something waits for a turn of the WAL.
    #[must_use]
    pub fn awaits_turn(&self) -> bool {
        !self.awaited.is_empty() || self.taken_bytes > 0
    }

    /// Counts a group's tail anew: after all that changes it, or the group's role.
    pub(super) fn count_tail(&mut self, slot: usize) {
        let group = self.at(slot);
        let old = group.counted;
        let new = Counted {
            bytes: group.storage().tail.bytes(),
            leads: group.node.raft.state == StateRole::Leader,
        };
        group.counted = new;
        self.count_change(old, new);
    }

    pub(super) fn count_change(&mut self, old: Counted, new: Counted) {
        self.tail_bytes = self.tail_bytes + new.bytes - old.bytes;
        self.led_bytes = self.led_bytes + new.led_bytes() - old.led_bytes();
    }
}

/// What a group's tail was last counted as.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub bytes: usize,
    pub leads: bool,
}

impl Counted {
    fn led_bytes(self) -> usize {
        if self.leads { self.bytes } else { 0 }
    }
}

/// Cuts an append to its first `kept` entries.
fn cut(message: &mut Message, kept: usize) {
    let bytes_of = |message: &Message| message.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
    let whole = bytes_of(message);
    message.entries.truncate(kept);
    if bytes_of(message) * 2 < whole {
        // The payloads of an append lie in one buffer: little of it would keep the whole in memory, uncounted.
        for entry in message.entries.iter_mut() {
            entry.data = Bytes::copy_from_slice(&entry.data);
        }
    }
}

impl Group {
    /// Writes into an answer to the leader that this follower has no room for entries.
    pub(crate) fn mark_short(&self, message: &mut Message) {
        use MessageType::{MsgAppendResponse, MsgHeartbeatResponse};
        if self.is_short && matches!(message.get_msg_type(), MsgAppendResponse | MsgHeartbeatResponse) {
            message.commit_term = SHORT;
        }
    }

    /// Whether a member tells this leader that it has no room for entries.
    pub(crate) fn hears_short(&self, message: &Message) -> bool {
        use MessageType::{MsgAppendResponse, MsgHeartbeatResponse};
        let raft = &self.node.raft;
        message.commit_term == SHORT
            && matches!(message.get_msg_type(), MsgAppendResponse | MsgHeartbeatResponse)
            && raft.state == StateRole::Leader
            && raft.term == message.term
            && raft.prs().get(message.from).is_some()
    }

    /// Takes the word of a member that has no room. It gets no entries until one of its answers says otherwise.
    pub(crate) fn step_short(&mut self, message: Message) -> raft::Result<()> {
        let from = message.from;
        if message.get_msg_type() == MessageType::MsgAppendResponse {
            self.step(message)?;
            let is_in_vain = |message: &Message| {
                message.to == from
                    && message.get_msg_type() == MessageType::MsgAppend
                    && !message.entries.is_empty()
            };
            self.node.raft.msgs.retain(|message| !is_in_vain(message));
        } else if let Some(progress) = self.node.raft.mut_prs().get_mut(from) {
            // All that raft-rs takes from the answer to a heartbeat, but for sending to whoever gave it.
            progress.recent_active = true;
            progress.update_committed(message.commit);
        }
        if let Some(progress) = self.node.raft.mut_prs().get_mut(from) {
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            if progress.state == ProgressState::Probe {
                progress.pause();
            }
        }
        Ok(())
    }
}
