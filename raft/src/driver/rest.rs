//! Quiescence: a group in which nothing happens neither ticks nor sends (SAFETY.md, rule 16).
//!
//! ```text
//!   leader                                             follower
//!   all followers match, all is applied,
//!   for a few ticks
//!     ── heartbeat, may rest, round r, commit c ──▶    log ends at c, all durable and applied: rests
//!     ◀── answer, rests, round r ───────────────
//!   all members that can be reached rest, and they
//!   are a quorum: rests
//! ```
//!
//! The marks ride in fields of heartbeats that raft-rs does not read (`reject`, and `index` for the round). From then on the
//! liveness of the links between the nodes stands for the group's: a link that breaks wakes it ([`Driver::peer_lost`]), and so do
//! a proposal, a transfer, an election asked for, a link that comes back, and any message but those listed below.
//!
//! Why nothing gets stuck:
//! - *A mark is lost*: the leader goes on offering with each heartbeat until all have answered.
//! - *A mark arrives late, after an append*: it names a commit index that is not the end of that log, or is followed by the
//!   append, which wakes. A follower may rest while its leader does not: the leader's next message that is no offer wakes it.
//! - *An answer arrives late*: each offer has a round, and answers to another one do not count. Within a round the leader has sent
//!   nothing that wakes.
//! - *A follower's log differs* (a tail of an old term, commits or configuration not applied): it does not rest, does not say
//!   so, and the leader goes on.
//! - *A resting leader is deposed*: only a quorum can do that, of which each has let go of it, having lost its link; the new leader
//!   then sends to it, and goes on until it has answered. Until then it can do no harm: what it proposes is not committed,
//!   and answers that need its quorum's contact wait for that ([`Driver::has_quorum_contact`]), which rest does not stand for.
//! - *A node restarts*: its links break and come back; both wake the leader, which then sends heartbeats. If the restarted follower is
//!   faster it asks for pre-votes: those who rest with a leader in sight neither grant them nor wake, but the leader does.
//! - *A leader steps down before all have answered its offer* (its process stood still for less than its links bear): it soon asks
//!   for votes itself, and that wakes those who rest with it in sight.
//! - *A member cannot be reached*: the others may rest without it if they are a quorum; its link coming back wakes the leader.
//! - *A replica that is no member any more* wakes nobody.

use bytes::Bytes;
use chronik_wal::types::{GroupId, PeerId};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::Driver;
use crate::group::Group;
use crate::group::peers::{Asking, Heard};
use crate::group::rest::Rest;

/// What raft knew before a message, and what of the message matters to a group at rest.
pub(super) struct Before {
    role: (u64, StateRole, u64),
    from: PeerId,
    kind: MessageType,
    term: u64,
    commit: u64,
    /// The round, if the message offers rest or says that its sender rests.
    mark: Option<u64>,
    /// The question that it answers.
    context: Bytes,
}

impl Before {
    pub(super) fn of(group: &Group, message: &Message) -> Self {
        Self {
            role: role(group),
            from: PeerId(message.from),
            kind: message.get_msg_type(),
            term: message.term,
            commit: message.commit,
            mark: message.reject.then_some(message.index),
            context: message.context.clone(),
        }
    }
}

fn role(group: &Group) -> (u64, StateRole, u64) {
    let raft = &group.node.raft;
    (raft.term, raft.state, raft.leader_id)
}

impl Driver {
    /// Whether the group costs nothing now: it rests, or has no other member.
    #[must_use]
    pub fn is_resting(&self, group: GroupId) -> bool {
        self.slot_of(group).is_some_and(|slot| !self.awake.contains(&slot))
    }

    /// How many groups cost nothing now.
    #[must_use]
    pub fn resting_count(&self) -> usize {
        self.by_id.len() - self.awake.len()
    }

    /// Whether this replica leads and a quorum has answered it within the last election timeout: what an answer needs that must not be
    /// stale (SAFETY.md, rule 22). `now_ms` is the clock of [`Driver::tick`]. A leader at rest has no such contact; nor for a
    /// moment has one that was busy or suspended for long. Then [`Driver::ask_quorum`].
    #[must_use]
    pub fn has_quorum_contact(&self, group: GroupId, now_ms: u64) -> bool {
        let Some(group) = self.group(group) else { return false };
        let election_timeout_ms = self.config.election_ticks as u64 * self.config.tick_ms;
        group.node.raft.state == StateRole::Leader
            && group.has_heard_quorum(now_ms.saturating_sub(election_timeout_ms))
    }

    /// Sends heartbeats now; when a quorum has answered these the group comes out in [`super::DriverOutput::contacts`]. Nothing comes of it
    /// where this replica does not lead, or not for long: the change of leadership is told instead.
    ///
    /// Returns whether this is a new question: false when an earlier one has not been answered yet, whose answers may be older
    /// than this call.
    pub fn ask_quorum(&mut self, group: GroupId) -> bool {
        let Some(slot) = self.slot_of(group) else { return false };
        self.wake(slot);
        let group = self.at(slot);
        if group.node.raft.state != StateRole::Leader || group.is_asking.is_some() {
            return false;
        }
        group.flush_proposals();
        group.questions += 1;
        group.is_asking = Some(Asking { question: group.questions, answered: Vec::new() });
        group.node.raft.ping();
        if group.is_quorum(|id| id == group.peer.0) {
            self.contacted(slot);
        }
        self.mark_dirty(slot);
        true
    }

    fn contacted(&mut self, slot: usize) {
        let group = self.at(slot);
        group.is_asking = None;
        let id = group.id;
        self.contacts.push(id);
    }

    /// Lets a resting group tick again, and takes back an offer to rest.
    pub(super) fn wake(&mut self, slot: usize) {
        let group = self.at(slot);
        let was_resting = group.is_resting();
        group.rest = Rest::AWAKE;
        if !was_resting {
            return;
        }
        // Until now the link has stood for the leader's word, or for the quorum's: an election timeout counts from here.
        group.node.raft.election_elapsed = 0;
        self.counters.wakes += 1;
        self.update_awake(slot);
    }

    /// Follows up on a message that raft has taken.
    pub(super) fn rest_after_step(&mut self, slot: usize, before: &Before) {
        let now_ms = self.now_ms;
        let is_trusted = now_ms >= self.trust_from_ms;
        let group = self.at(slot);
        if role(group) != before.role {
            return self.wake(slot);
        }
        if group.node.raft.state == StateRole::Leader {
            let heard = Heard {
                peer: before.from,
                term: before.term,
                kind: before.kind,
                context: &before.context,
                is_trusted,
            };
            if group.note_heard(&heard, now_ms) {
                self.contacted(slot);
            }
            return self.leader_rest(slot, before);
        }
        use MessageType::{MsgAppend, MsgHeartbeat, MsgRequestPreVote, MsgRequestVote, MsgSnapshot};
        let asks_for_votes = matches!(before.kind, MsgRequestPreVote | MsgRequestVote);
        if asks_for_votes && group.node.raft.leader_id == before.from.0 {
            return self.wake(slot);
        }
        let is_leaders = matches!(before.kind, MsgAppend | MsgHeartbeat | MsgSnapshot)
            && group.node.raft.leader_id == before.from.0
            && group.node.raft.term == before.term;
        if !is_leaders {
            return;
        }
        let offer = before.mark.filter(|_| before.kind == MsgHeartbeat);
        match offer {
            Some(round) if group.is_quiet_follower(before.from, before.term, before.commit) => {
                group.rest_round = u32::try_from(round).unwrap_or(0);
                self.rest(slot);
            }
            _ => self.wake(slot),
        }
    }

    fn leader_rest(&mut self, slot: usize, before: &Before) {
        let group = self.at(slot);
        if group.node.raft.prs().get(before.from.0).is_none() {
            return;
        }
        let answer = before.mark.filter(|_| before.kind == MessageType::MsgHeartbeatResponse);
        if let Some(round) = answer
            && before.term == group.node.raft.term
        {
            if group.note_rested(before.from, round) {
                self.rest(slot);
            }
            return;
        }
        if group.is_resting() {
            self.wake(slot);
        }
    }

    fn rest(&mut self, slot: usize) {
        let group = self.at(slot);
        if group.is_resting() {
            return;
        }
        group.rest = Rest::Resting;
        group.node.raft.maybe_free_inflight_buffers();
        self.awake.remove(&slot);
        self.counters.rests += 1;
    }
}
