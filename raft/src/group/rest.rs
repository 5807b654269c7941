//! When a group may rest: what its leader and its followers each look at. The protocol is told in `driver/rest.rs`.

use chronik_wal::types::PeerId;
use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, StateRole};

use super::Group;

/// How far a replica is on its way to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It ticks. As a leader that finds nothing to do it counts the ticks.
    Awake { idle_ticks: usize },
    /// A leader that offers its followers to rest; these do so already, in this round.
    Offering { rested: Vec<PeerId> },
    /// It neither ticks nor sends.
    Resting,
}

impl Rest {
    pub(crate) const AWAKE: Self = Self::Awake { idle_ticks: 0 };
}

impl Group {
    pub(crate) fn is_resting(&self) -> bool {
        self.rest == Rest::Resting
    }

    /// Counts the ticks in which a leader finds nothing to do, and makes its offer after enough of them.
    pub(crate) fn consider_rest(&mut self, rest_ticks: usize) {
        if !self.is_quiet_leader() {
            self.rest = Rest::AWAKE;
            return;
        }
        if let Rest::Awake { idle_ticks } = &mut self.rest {
            *idle_ticks += 1;
            if *idle_ticks >= rest_ticks {
                // A number of its own for each offer: answers to an earlier one count no more.
                self.rest_round = self.rest_round.wrapping_add(1);
                self.rest = Rest::Offering { rested: Vec::new() };
            }
        }
    }

    /// Whether nothing is to be done here, nor for any member that can be reached.
    pub(crate) fn is_quiet_leader(&self) -> bool {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        let is_quiet = raft.state == StateRole::Leader
            && raft.apply_to_current_term()
            && raft.lead_transferee.is_none()
            && self.is_asking.is_none()
            && !raft.has_pending_conf()
            && self.is_settled();
        is_quiet
            && raft.prs().iter().all(|(id, progress)| {
                let is_matched = progress.matched == last && progress.state != ProgressState::Snapshot;
                *id == self.peer.0 || is_matched || self.is_lost(PeerId(*id))
            })
    }

    /// Whether this follower has all that its leader has, by a heartbeat that names the end of the leader's log as committed.
    pub(crate) fn is_quiet_follower(&self, leader: PeerId, term: u64, commit: u64) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Follower
            && raft.term == term
            && raft.leader_id == leader.0
            && raft.raft_log.committed == commit
            && self.election.is_none()
            && self.is_settled()
    }

    /// Whether all of the log is durable, committed and applied, and nothing waits.
    fn is_settled(&self) -> bool {
        let log = &self.node.raft.raft_log;
        let last = log.last_index();
        let is_joint = !self.storage().configuration.get_voters_outgoing().is_empty();
        let has_hold = self.installing.is_some() || self.configuration_hold.is_some();
        log.committed == last
            && log.persisted == last
            && log.applied == last
            && self.applied.0 == last
            && self.pending.is_empty()
            && self.unpersisted.is_empty()
            && self.compaction.is_none()
            && self.may_elect()
            && !is_joint
            && !has_hold
    }

    /// Takes a follower's word that it rests. Returns whether the leader may rest now: all members do that can be reached, and
    /// they are a quorum.
    pub(crate) fn note_rested(&mut self, peer: PeerId, round: u64) -> bool {
        if round != u64::from(self.rest_round) {
            return false;
        }
        let Rest::Offering { rested } = &mut self.rest else { return false };
        if !rested.contains(&peer) {
            rested.push(peer);
        }
        self.is_offer_accepted() && self.is_quiet_leader()
    }

    fn is_offer_accepted(&self) -> bool {
        let Rest::Offering { rested } = &self.rest else { return false };
        let mut members = self.node.raft.prs().iter().map(|(id, _)| PeerId(*id));
        let rests = |id: u64| id == self.peer.0 || rested.contains(&PeerId(id));
        members.all(|member| rests(member.0) || self.is_lost(member)) && self.is_quorum(rests)
    }

    /// Whether the voters of which this holds are a quorum, in both halves of a joint configuration.
    pub(crate) fn is_quorum(&self, holds: impl Fn(u64) -> bool) -> bool {
        let configuration = &self.storage().configuration;
        let has_majority = |voters: &[u64]| {
            voters.iter().filter(|id| holds(**id)).count() > voters.len() / 2 || voters.is_empty()
        };
        has_majority(configuration.get_voters()) && has_majority(configuration.get_voters_outgoing())
    }

    pub(crate) fn is_lost(&self, peer: PeerId) -> bool {
        self.lost.iter().any(|lost| lost.peer == peer)
    }

    /// Writes the offer, or the answer to one, into heartbeats on their way out; and a question, which followers give back.
    pub(crate) fn mark_heartbeat(&self, message: &mut Message) {
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && let Some(asking) = &self.is_asking
        {
            message.context = asking.context();
        }
        let is_marked = match message.get_msg_type() {
            MessageType::MsgHeartbeat => matches!(self.rest, Rest::Offering { .. }),
            MessageType::MsgHeartbeatResponse => {
                self.is_resting() && self.node.raft.state != StateRole::Leader
            }
            _ => false,
        };
        if is_marked {
            message.reject = true;
            message.index = u64::from(self.rest_round);
        }
    }
}
