//! Members come and go, one at a time: the leader drives a group towards its placement (SAFETY.md, rule 9).
//!
//! ```text
//! AddLearner ──▶ it is fed, by snapshot or log ──▶ caught up ──▶ Promote ──▶ Remove whoever leaves
//! ```
//!
//! A joiner creates its group with the voters that it was told and the entry that made them so, itself not among them: it takes appends and snapshots from whoever
//! leads, and stands for no election before the log or a snapshot has made it a voter. A replica that was removed and does not
//! know asks for pre-votes, which nobody grants who hears from a leader.

use chronik_wal::types::{GroupId, PeerId, RaftIndex, Term};
use raft::ProgressState;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use super::Driver;
use crate::error::ProposeError;
use crate::group::Group;

/// A learner that lacks no more than this has caught up: on a busy partition that much is on its way. As a voter it may be waited for.
const CATCH_UP_ENTRIES_MAX: u64 = 1024;

/// And no more bytes than these: some milliseconds.
const CATCH_UP_BYTES_MAX: usize = 4 << 20;

/// A change of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// It is fed from now on, and does not vote.
    AddLearner(PeerId),
    /// A learner that has caught up becomes a voter.
    Promote(PeerId),
    /// It belongs to the group no more, voter or learner.
    Remove(PeerId),
}

/// How far a member of a group has come, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// The member.
    pub peer: PeerId,
    /// Whether it votes (in either half of a joint configuration); else it is a learner.
    pub is_voter: bool,
    /// The last entry that it is known to hold durably.
    pub matched: RaftIndex,
    /// Whether it was heard from since the last quorum check, or rests with the group.
    pub is_recently_active: bool,
}

impl Driver {
    /// The members as their leader sees them, by peer id; empty where this replica does not lead.
    #[must_use]
    pub fn progress(&self, group: GroupId) -> Vec<MemberProgress> {
        let Some(group) = self.group(group) else { return Vec::new() };
        if group.node.raft.state != raft::StateRole::Leader {
            return Vec::new();
        }
        let trackers = group.node.raft.prs();
        let mut members: Vec<MemberProgress> = trackers
            .iter()
            .map(|(id, progress)| MemberProgress {
                peer: PeerId(*id),
                is_voter: trackers.conf().voters().contains(*id),
                matched: RaftIndex(progress.matched),
                is_recently_active: *id == group.peer.0
                    || progress.recent_active
                    || group.is_resting() && !group.is_lost(PeerId(*id)),
            })
            .collect();
        members.sort_unstable_by_key(|member| member.peer);
        members
    }

    /// Whether a change of members is in the log of this replica and not applied; not where it does not lead.
    #[must_use]
    pub fn is_changing_members(&self, group: GroupId) -> bool {
        let leading = self.group(group).filter(|group| group.node.raft.state == raft::StateRole::Leader);
        leading.is_some_and(|group| group.node.raft.has_pending_conf())
    }

    /// Whether a member can be reached and lacks so little that it may be promoted; not where this replica does not lead.
    #[must_use]
    pub fn is_caught_up(&self, group: GroupId, peer: PeerId) -> bool {
        let leading = self.group(group).filter(|group| group.node.raft.state == raft::StateRole::Leader);
        leading.is_some_and(|group| group.is_caught_up(peer))
    }

    /// Changes one member of a group that this replica leads. One change at a time: the next is taken once this one is applied
    /// and durable here ([`ProposeError::ConfigurationBusy`] until then, also while a joint configuration is being left).
    ///
    /// A leader that is to remove itself hands over first: it answers [`ProposeError::Transferring`], and the next leader is asked.
    ///
    /// # Errors
    /// Nothing is appended; see [`ProposeError`].
    pub fn change_member(
        &mut self,
        group: GroupId,
        change: MemberChange,
    ) -> Result<(RaftIndex, Term), ProposeError> {
        let slot = self.slot_of(group).ok_or(ProposeError::UnknownGroup(group))?;
        self.at(slot).check_proposable(0)?;
        if !self.at(slot).storage().configuration.get_voters_outgoing().is_empty() {
            // raft-rs leaves it by itself, unless the leader changed in between.
            let _ = self.propose_configuration(group, &ConfChangeV2::default());
            return Err(ProposeError::ConfigurationBusy);
        }
        self.at(slot).check_change(change)?;
        let (kind, peer) = match change {
            MemberChange::AddLearner(peer) => (ConfChangeType::AddLearnerNode, peer),
            MemberChange::Promote(peer) => (ConfChangeType::AddNode, peer),
            MemberChange::Remove(peer) if peer == self.at(slot).peer => return Err(self.hand_over(slot)),
            MemberChange::Remove(peer) => (ConfChangeType::RemoveNode, peer),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = peer.0;
        let mut change = ConfChangeV2::default();
        change.mut_changes().push(single);
        self.propose_configuration(group, &change)
    }

    /// Hands leadership to the voter that has most of the log, of those that can be reached.
    fn hand_over(&mut self, slot: usize) -> ProposeError {
        let group = self.at(slot);
        let id = group.id;
        let heir = group.heir();
        match heir {
            Some(heir) if self.transfer_leader(id, heir) => ProposeError::Transferring,
            _ => ProposeError::ConfigurationBusy,
        }
    }
}

impl Group {
    /// Whether the configuration allows this change; it is not joint.
    fn check_change(&self, change: MemberChange) -> Result<(), ProposeError> {
        let configuration = &self.storage().configuration;
        let is_voter = |peer: PeerId| configuration.get_voters().contains(&peer.0);
        let is_learner = |peer: PeerId| configuration.get_learners().contains(&peer.0);
        match change {
            MemberChange::AddLearner(peer) if peer == PeerId(0) => Err(ProposeError::NotMember(peer)),
            MemberChange::AddLearner(peer) if is_voter(peer) || is_learner(peer) => {
                Err(ProposeError::AlreadyMember(peer))
            }
            MemberChange::Promote(peer) if is_voter(peer) => Err(ProposeError::AlreadyMember(peer)),
            MemberChange::Promote(peer) if !is_learner(peer) => Err(ProposeError::NotMember(peer)),
            MemberChange::Promote(peer) if !self.is_caught_up(peer) => Err(ProposeError::NotCaughtUp(peer)),
            MemberChange::Remove(peer) if !is_voter(peer) && !is_learner(peer) => {
                Err(ProposeError::NotMember(peer))
            }
            MemberChange::Remove(peer) if is_voter(peer) && configuration.get_voters().len() == 1 => {
                Err(ProposeError::LastVoter(peer))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn is_caught_up(&self, peer: PeerId) -> bool {
        if peer == self.peer {
            return true;
        }
        let Some(progress) = self.node.raft.prs().get(peer.0) else { return false };
        // A node that is back may have another disk: what it had counts again once it has said so.
        let is_there = !self.is_lost(peer) && !self.unheard.contains(&peer);
        let is_fed = progress.matched > 0 && progress.state != ProgressState::Snapshot && is_there;
        if !is_fed || progress.matched + CATCH_UP_ENTRIES_MAX < self.last_index().0 {
            return false;
        }
        let tail = &self.storage().tail;
        let (first, end) = (RaftIndex(progress.matched).next(), tail.last_index().next());
        let lacks_bytes =
            |first| tail.entries(first, end, u64::MAX).map(|entry| entry.data.len()).sum::<usize>();
        first >= tail.first_index() && (first >= end || lacks_bytes(first) <= CATCH_UP_BYTES_MAX)
    }

    fn heir(&self) -> Option<PeerId> {
        let voters = self.storage().configuration.get_voters().iter().map(|id| PeerId(*id));
        let others = voters.filter(|voter| *voter != self.peer && !self.is_lost(*voter));
        let matched = |peer: &PeerId| self.node.raft.prs().get(peer.0).map_or(0, |progress| progress.matched);
        others.max_by_key(|peer| (matched(peer), std::cmp::Reverse(*peer)))
    }
}
