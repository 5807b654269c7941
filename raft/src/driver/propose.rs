//! What a leader is asked: append this, change the configuration, hand over. And: stand for election.

use bytes::Bytes;
use chronik_wal::entry::EntryKind;
use chronik_wal::types::{GroupId, PeerId, RaftIndex, Term};
use protobuf::Message as _;
use raft::eraftpb::ConfChangeV2;

use super::Driver;
use super::gate::Cause;
use crate::error::ProposeError;

/// An entry to append.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// `Batch`, `LogStart`, or `Empty` (a barrier). Configuration changes have a call of their own.
    pub kind: EntryKind,
    /// The payload. A batch has been checked and carries [`Driver::log_end_offset`] and the leader's term as epoch.
    pub data: Bytes,
}

impl Driver {
    /// Appends an entry to the log of a group that this replica leads. The index and term given stay the entry's own:
    /// the proposal succeeded when that very pair comes out as committed, and failed when another entry has that index.
    ///
    /// # Errors
    /// Nothing is appended; see [`ProposeError`].
    ///
    /// # Panics
    /// When a batch does not carry the offset and epoch that it must have: it would be stored so for ever.
    pub fn propose(&mut self, group: GroupId, proposal: Proposal) -> Result<(RaftIndex, Term), ProposeError> {
        let Proposal { kind, data } = proposal;
        match kind {
            EntryKind::Empty => assert!(data.is_empty(), "an empty entry has no payload"),
            EntryKind::Batch => {}
            EntryKind::LogStart => assert_eq!(data.len(), size_of::<i64>(), "a log start is one offset"),
            EntryKind::ConfChange | EntryKind::ConfChangeV2 => {
                panic!("configuration changes go through propose_configuration")
            }
        }
        let slot = self.slot_of(group).ok_or(ProposeError::UnknownGroup(group))?;
        let result = self.at(slot).propose(kind, data);
        match result {
            Ok(_) => {
                self.counters.proposals += 1;
                self.wake(slot);
                self.mark_dirty(slot);
            }
            Err(ProposeError::Full) => self.counters.proposals_full += 1,
            Err(_) => {}
        }
        result
    }

    /// Whether [`Driver::propose`] would take a proposal of so many bytes now, and in which term.
    ///
    /// # Errors
    /// As [`Driver::propose`].
    pub fn may_propose(&self, group: GroupId, bytes: usize) -> Result<Term, ProposeError> {
        self.group(group).ok_or(ProposeError::UnknownGroup(group))?.check_proposable(bytes)
    }

    /// Appends a configuration change. One at a time: the next is taken once this one is applied and durable here.
    ///
    /// A change of more than one member goes through a joint configuration, which raft leaves by itself.
    ///
    /// # Errors
    /// Nothing is appended; see [`ProposeError`].
    pub fn propose_configuration(
        &mut self,
        group: GroupId,
        change: &ConfChangeV2,
    ) -> Result<(RaftIndex, Term), ProposeError> {
        let slot = self.slot_of(group).ok_or(ProposeError::UnknownGroup(group))?;
        let group = self.at(slot);
        group.check_proposable(0)?;
        group.flush_proposals();
        let is_joint = !group.storage().configuration.get_voters_outgoing().is_empty();
        let wants_to_leave = change.get_changes().is_empty();
        if group.node.raft.has_pending_conf() || is_joint != wants_to_leave {
            return Err(ProposeError::ConfigurationBusy);
        }
        let data = change.write_to_bytes().expect("a change without required fields is written");
        let result = group.propose(EntryKind::ConfChangeV2, Bytes::from(data));
        group.flush_proposals();
        self.wake(slot);
        self.mark_dirty(slot);
        result
    }

    /// Asks the leader, which this replica is, to hand over to `to`. It takes no proposals until that has happened, or an
    /// election timeout has passed. Returns whether the transfer is under way.
    pub fn transfer_leader(&mut self, group: GroupId, to: PeerId) -> bool {
        let Some(slot) = self.slot_of(group) else { return false };
        let group = self.at(slot);
        if group.check_proposable(0).is_err() || to == group.peer {
            return false;
        }
        self.wake(slot);
        let group = self.at(slot);
        group.flush_proposals();
        group.node.transfer_leader(to.0);
        group.settle();
        let is_under_way = group.node.raft.lead_transferee == Some(to.0);
        self.mark_dirty(slot);
        is_under_way
    }

    /// Stands for election now, with a pre-vote first: the placement's first replica of a new group, or when the leader's node is
    /// known to be down. Tried again soon, a few times: the others may not have a new group yet. Returns whether an election began.
    pub fn campaign(&mut self, group: GroupId) -> bool {
        let Some(slot) = self.slot_of(group) else { return false };
        self.wake(slot);
        if self.at(slot).is_electable() && !self.is_admitted(slot, Cause::Known) {
            return false;
        }
        let has_begun = self.at(slot).campaign();
        self.mark_dirty(slot);
        if has_begun {
            self.try_again(slot);
        }
        has_begun
    }
}
