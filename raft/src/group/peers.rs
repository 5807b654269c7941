//! What a group knows of the links to its peers, beside what raft-rs does.

use bytes::Bytes;
use chronik_wal::types::PeerId;
use raft::eraftpb::MessageType;
use raft::{ProgressState, SnapshotStatus, StateRole};

use super::{Group, mix};

/// A peer whose node cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub peer: PeerId,
    /// This replica's place among those that are left.
    pub rank: usize,
    /// Its process is known to be gone, not only silent.
    pub is_gone: bool,
    /// It led when it was lost.
    pub has_led: bool,
}

/// An election that this replica is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Election {
    pub due_ms: u64,
    /// Tries before.
    pub tries: u32,
}

impl Group {
    /// Notes the loss; as the leader, so that the peer counts as active only when it is heard from again.
    pub(crate) fn note_lost(&mut self, lost: Lost) {
        self.lost.retain(|other| other.peer != lost.peer);
        self.lost.push(lost);
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        if !self.unheard.contains(&lost.peer) {
            self.unheard.push(lost.peer);
        }
        let progress = self.node.raft.prs().get(lost.peer.0).map(|progress| progress.state);
        match progress {
            Some(ProgressState::Snapshot) => {
                self.node.report_snapshot(lost.peer.0, SnapshotStatus::Failure);
            }
            Some(_) => self.node.report_unreachable(lost.peer.0),
            None => {}
        }
        if self.node.raft.lead_transferee == Some(lost.peer.0) {
            self.node.raft.abort_leader_transfer();
        }
        self.note_inactive(lost.peer);
        self.settle();
    }

    /// The quorum check that comes within an election timeout does not count this peer.
    pub(crate) fn note_inactive(&mut self, peer: PeerId) {
        if self.node.raft.state == StateRole::Leader
            && let Some(progress) = self.node.raft.mut_prs().get_mut(peer.0)
        {
            progress.recent_active = false;
        }
    }

    /// Forgets the leader, if it is this one: votes are granted from now on, and nobody is told that it leads.
    pub(crate) fn let_go(&mut self, leader: PeerId) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Follower && raft.leader_id == leader.0 {
            raft.leader_id = raft::INVALID_ID;
            self.settle();
        }
    }

    /// Stands for election, with a pre-vote first, whether or not the try before is still without an answer. A real vote under
    /// way is left alone. Returns whether it began.
    pub(crate) fn stand(&mut self) -> bool {
        let may = self.may_elect() && self.node.raft.promotable() && !self.is_sole_voter();
        if !may || !matches!(self.node.raft.state, StateRole::Follower | StateRole::PreCandidate) {
            return false;
        }
        self.flush_proposals();
        // The timer counts from here: this was its doing ahead of time.
        self.node.raft.election_elapsed = 0;
        self.node.campaign().expect("MsgHup never fails");
        self.settle();
        true
    }

    /// Whether its timer may make this replica stand for election: a voter of several that does not lead.
    pub(crate) fn is_electable(&self) -> bool {
        let raft = &self.node.raft;
        raft.state != StateRole::Leader && raft.promotable() && self.may_elect() && !self.is_sole_voter()
    }

    /// Whether so many voters can be reached that an election may succeed.
    pub(crate) fn has_quorum_in_reach(&self) -> bool {
        self.is_quorum(|id| !self.is_lost(PeerId(id)))
    }

    /// Stops the timer where it fires: no leader's lease holds here any more, and the next tick begins the election.
    pub(crate) fn hold_timer(&mut self) {
        let timeout = self.node.raft.randomized_election_timeout();
        self.node.raft.election_elapsed = timeout;
    }

    /// Whether its timer is where [`Self::hold_timer`] has put it.
    pub(crate) fn is_timer_held(&self) -> bool {
        self.node.raft.election_elapsed >= self.node.raft.randomized_election_timeout()
    }

    /// A seeded number below `bound`, another one at each draw.
    pub(crate) fn noise(&mut self, bound: u64) -> u64 {
        self.noise_draws += 1;
        mix(self.seed ^ mix(self.id.0) ^ mix(self.peer.0 << 32) ^ mix(!self.noise_draws)) % bound
    }
}

/// A question to the quorum whether this replica still leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    /// The question's number: heartbeats carry it and their answers give it back.
    pub question: u64,
    /// Who has answered it.
    pub answered: Vec<PeerId>,
}

impl Asking {
    /// As heartbeats carry it.
    pub fn context(&self) -> Bytes {
        Bytes::copy_from_slice(&self.question.to_le_bytes())
    }
}

/// What a leader hears from a peer.
pub(crate) struct Heard<'a> {
    pub peer: PeerId,
    pub term: u64,
    pub kind: MessageType,
    pub context: &'a [u8],
    /// Whether it is surely not from before a pause of this process.
    pub is_trusted: bool,
}

/// What a leader remembers of its peers' answers.
impl Group {
    /// Notes that a peer has answered in this term. Returns whether that makes a quorum of answers where one was asked for.
    ///
    /// Only answers to that very question count: others may have waited in an inbox while this process stood still.
    pub(crate) fn note_heard(&mut self, heard: &Heard<'_>, now_ms: u64) -> bool {
        let peer = heard.peer;
        let is_answer =
            matches!(heard.kind, MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse);
        if !is_answer || heard.term != self.node.raft.term {
            return false;
        }
        self.unheard.retain(|other| *other != peer);
        let is_asked = self.is_asking.as_ref().is_some_and(|asking| heard.context == asking.context());
        if heard.is_trusted || is_asked {
            match self.heard.iter_mut().find(|(other, _)| *other == peer) {
                Some((_, at_ms)) => *at_ms = now_ms,
                None => self.heard.push((peer, now_ms)),
            }
        }
        let Some(asking) = self.is_asking.as_mut().filter(|_| is_asked) else { return false };
        if !asking.answered.contains(&peer) {
            asking.answered.push(peer);
        }
        let Some(asking) = &self.is_asking else { return false };
        self.is_quorum(|id| id == self.peer.0 || asking.answered.contains(&PeerId(id)))
    }

    /// Whether a quorum was heard of after `since_ms`.
    pub(crate) fn has_heard_quorum(&self, since_ms: u64) -> bool {
        let has_heard = |id: u64| self.heard.iter().any(|(peer, at_ms)| peer.0 == id && *at_ms > since_ms);
        self.is_quorum(|id| id == self.peer.0 || has_heard(id))
    }
}
