//! Links to peers that break and come back, and the elections that follow at once.
//!
//! A follower whose leader's node is lost lets go of that leader (so that it grants votes, which raft-rs otherwise refuses within
//! an election timeout of the leader's last word) and stands for election after a delay by its rank. All of this is a
//! pre-vote first: a leader that lives and is heard by a majority is never deposed by it. Elections are queued by due time and a
//! bounded number begins a tick, so that thousands of groups do not starve the shard.
//!
//! | known | delay of the first try |
//! |-------|------------------------|
//! | the leader's process is gone (`refused`) | rank × 100 ms |
//! | the link is closed or silent | 30 ms + rank × 100 ms; a word of the leader puts it off again |
//!
//! How many stand at a time is bounded (`gate.rs`). Tries repeat after 15, 30, 60, … ms, since the others may learn of the loss a little later and refuse until then.
//! A candidate whose log is behind brings the election of whoever sees that forward; one that is up to date puts it off.

use chronik_wal::types::{GroupId, PeerId};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::Driver;
use super::gate::{Cause, PLACE_MS};
use crate::group::peers::{Election, Lost};

/// Elections that one tick begins; about a millisecond of work. The rest begins with the next call, after messages were handled.
const ELECTIONS_PER_TICK_MAX: usize = 256;

/// Between the first tries of two replicas that are left: an election takes a few round trips and three turns of the disk.
const RANK_DELAY_MS: u64 = 100;

/// How long a leader of which it is only known that its link is down may take to be heard again.
const DOUBT_MS: u64 = 30;

/// Noise on every delay, so that groups and replicas do not go in step.
const NOISE_MS: u64 = 8;

/// The first try is repeated after this, the next after twice this, and so on.
const RETRY_MS: u64 = 15;

/// Tries before it is left to raft's own timer.
const TRIES_MAX: u32 = 6;

/// What of a message matters after raft has taken it.
pub(super) struct Seen {
    from: PeerId,
    kind: MessageType,
    index: u64,
    log_term: u64,
}

impl Seen {
    pub(super) fn of(message: &Message) -> Self {
        let kind = message.get_msg_type();
        Self { from: PeerId(message.from), kind, index: message.index, log_term: message.log_term }
    }

    /// Whether it answers an election.
    pub(super) fn is_vote(&self) -> bool {
        matches!(self.kind, MessageType::MsgRequestPreVoteResponse | MessageType::MsgRequestVoteResponse)
    }
}

impl Driver {
    /// Notes that the link to a peer's node is down. Where the peer led, this replica stands for election, the sooner the lower
    /// its `rank` among those that are left; `refused` says that the peer's process is known to be gone. May be told again when
    /// more is known. Where this replica leads, the peer no longer counts for its quorum until it is heard from.
    pub fn peer_lost(&mut self, group: GroupId, peer: PeerId, rank: usize, refused: bool) {
        let Some(slot) = self.slot_of(group) else { return };
        let group = self.at(slot);
        if peer == group.peer {
            return;
        }
        group.flush_proposals();
        let led = group.node.raft.leader_id == peer.0;
        let was_let_go = group.lost.iter().any(|lost| lost.peer == peer && lost.has_led);
        let lost = Lost { peer, rank, is_gone: refused, has_led: led || was_let_go };
        group.note_lost(lost);
        let leads = group.node.raft.state == StateRole::Leader;
        self.mark_dirty(slot);
        if leads || lost.has_led {
            self.wake(slot);
        }
        if lost.has_led {
            self.leader_lost(slot, lost);
        }
    }

    /// Notes that the link to a peer's node is up again.
    pub fn peer_found(&mut self, group: GroupId, peer: PeerId) {
        let Some(slot) = self.slot_of(group) else { return };
        self.gate.link_up();
        // An election that is due stays so: what came back may be a new process, which leads nothing.
        let group = self.at(slot);
        group.lost.retain(|lost| lost.peer != peer);
        // It may be a new process, which knows no leader, or lack something: as the leader, tell it.
        if group.node.raft.state == StateRole::Leader {
            self.wake(slot);
        }
    }

    fn leader_lost(&mut self, slot: usize, lost: Lost) {
        let now_ms = self.now_ms;
        let group = self.at(slot);
        group.let_go(lost.peer);
        if group.node.raft.leader_id != raft::INVALID_ID || !group.node.raft.promotable() {
            return;
        }
        let rank = u64::try_from(lost.rank).unwrap_or(u64::MAX).min(64);
        let doubt_ms = if lost.is_gone { 0 } else { DOUBT_MS };
        let due_ms = now_ms + doubt_ms + rank * RANK_DELAY_MS + self.noise_ms(slot, rank);
        let earlier = self.at(slot).election.map_or(due_ms, |election| election.due_ms.min(due_ms));
        self.schedule(slot, Election { due_ms: earlier, tries: 0 });
    }

    fn noise_ms(&mut self, slot: usize, rank: u64) -> u64 {
        // The first in line goes at once; groups differ anyway.
        if rank == 0 { 0 } else { self.at(slot).noise(NOISE_MS) }
    }

    fn schedule(&mut self, slot: usize, election: Election) {
        self.cancel_election(slot);
        self.at(slot).election = Some(election);
        self.elections.insert((election.due_ms, slot));
    }

    pub(super) fn cancel_election(&mut self, slot: usize) {
        if let Some(election) = self.at(slot).election.take() {
            self.elections.remove(&(election.due_ms, slot));
        }
    }

    /// Whether the group may stand now ([`super::gate`]). If not, it does so when its turn comes. Where no quorum is in reach it may do
    /// as it likes: nothing is sent.
    pub(super) fn is_admitted(&mut self, slot: usize, cause: Cause) -> bool {
        if !self.at(slot).has_quorum_in_reach() || self.gate.admit(slot, cause, self.now_ms) {
            return true;
        }
        self.at(slot).hold_timer();
        false
    }

    /// Those that have waited for it stand.
    fn admit_elections(&mut self) {
        self.gate.expire(self.now_ms);
        while let Some(slot) = self.gate.next(self.now_ms) {
            let is_resting = !self.awake.contains(&slot);
            let group = self.at(slot);
            // A leader may have been heard since.
            if is_resting || !group.is_electable() || !group.is_timer_held() {
                self.gate.ended(slot);
                continue;
            }
            group.tick();
            self.mark_dirty(slot);
        }
    }

    /// Begins the elections that are due, a bounded number of them.
    pub(super) fn hold_elections(&mut self) {
        self.admit_elections();
        for _ in 0..ELECTIONS_PER_TICK_MAX {
            let Some((due_ms, slot)) = self.elections.first().copied() else { return };
            if due_ms > self.now_ms {
                return;
            }
            self.hold_election(slot);
        }
    }

    fn hold_election(&mut self, slot: usize) {
        let Some(election) = self.at(slot).election else { return };
        self.cancel_election(slot);
        let group = self.at(slot);
        // A leader that was heard after its link broke, and then no more.
        let silent =
            group.lost.iter().find(|lost| lost.peer.0 == group.node.raft.leader_id).map(|lost| lost.peer);
        if let Some(silent) = silent {
            group.let_go(silent);
        }
        if group.node.raft.leader_id != raft::INVALID_ID || !group.node.raft.promotable() {
            return;
        }
        if !self.is_admitted(slot, Cause::Known) {
            return;
        }
        let has_begun = self.at(slot).stand();
        self.counters.elections_begun += u64::from(has_begun);
        self.mark_dirty(slot);
        self.schedule_retry(slot, election.tries);
    }

    /// After a first try that was asked for.
    pub(super) fn try_again(&mut self, slot: usize) {
        if !self.at(slot).is_sole_voter() {
            self.schedule_retry(slot, 0);
        }
    }

    fn schedule_retry(&mut self, slot: usize, tries: u32) {
        // Where answers are late there is nothing to be gained by asking twice within the same place.
        let retry_ms =
            if self.gate.is_narrow() { PLACE_MS.max(RETRY_MS << tries) } else { RETRY_MS << tries };
        let due_ms = self.now_ms + retry_ms + self.at(slot).noise(NOISE_MS);
        if tries + 1 < TRIES_MAX {
            self.schedule(slot, Election { due_ms, tries: tries + 1 });
        }
    }

    /// Follows up on a message that raft has taken, where links are down or an election is due.
    pub(super) fn after_step(&mut self, slot: usize, seen: &Seen) {
        use MessageType::{MsgAppend, MsgHeartbeat, MsgRequestPreVote, MsgRequestVote, MsgSnapshot};
        let group = self.at(slot);
        if group.lost.is_empty() && group.election.is_none() {
            return;
        }
        let lost = group.lost.iter().find(|lost| lost.peer == seen.from).copied();
        match seen.kind {
            MsgRequestVote | MsgRequestPreVote => self.saw_candidate(slot, seen),
            MsgAppend | MsgHeartbeat | MsgSnapshot if group.node.raft.leader_id == seen.from.0 => {
                match lost {
                    None => self.cancel_election(slot),
                    Some(lost) if lost.is_gone => self.saw_leftover(slot, lost),
                    Some(_) => self.put_off(slot),
                }
            }
            _ => {
                if let Some(lost) = lost.filter(|lost| lost.is_gone) {
                    group.note_inactive(lost.peer);
                }
            }
        }
    }

    /// Words of a leader that is gone, and that were under way, renew nothing.
    fn saw_leftover(&mut self, slot: usize, lost: Lost) {
        let has_election = self.at(slot).election.is_some();
        self.at(slot).let_go(lost.peer);
        if !has_election {
            self.at(slot).note_lost(Lost { has_led: true, ..lost });
            self.leader_lost(slot, lost);
        }
    }

    fn saw_candidate(&mut self, slot: usize, seen: &Seen) {
        let now_ms = self.now_ms;
        let group = self.at(slot);
        let Some(election) = group.election else { return };
        if group.node.raft.leader_id != raft::INVALID_ID {
            return;
        }
        if group.node.raft.raft_log.is_up_to_date(seen.index, seen.log_term) {
            self.put_off(slot);
        } else if election.due_ms > now_ms && election.tries == 0 {
            self.schedule(slot, Election { due_ms: now_ms, ..election });
        }
    }

    fn put_off(&mut self, slot: usize) {
        let now_ms = self.now_ms;
        let group = self.at(slot);
        let Some(election) = group.election else { return };
        let due_ms = now_ms + RANK_DELAY_MS + group.noise(NOISE_MS);
        // Each word of a leader puts it off; moving it by less is not worth the work.
        if due_ms > election.due_ms + NOISE_MS {
            self.schedule(slot, Election { due_ms, ..election });
        }
    }
}
