//! What comes from peers.

use chronik_wal::types::{GroupId, PeerId, Term};
use raft::SnapshotStatus;
use raft::eraftpb::Message;

use super::Driver;
use super::elections::Seen;
use super::rest::Before;
use crate::error::StepError;
use crate::guard;

impl Driver {
    /// Takes a message from a peer. What could stop the process or bend the log is dropped and counted.
    ///
    /// # Errors
    /// Why it was dropped. Nothing to do about it but perhaps a line at debug level: raft lives with lost messages.
    pub fn step(&mut self, from: PeerId, group: GroupId, message: Message) -> Result<(), StepError> {
        let result = self.step_checked(from, group, message);
        match result {
            Ok(()) => self.counters.messages_stepped += 1,
            Err(StepError::UnknownGroup) => self.counters.dropped_unknown_group += 1,
            Err(StepError::Kind) => self.counters.dropped_kind += 1,
            Err(StepError::NotNow | StepError::Refused) => self.counters.dropped_refused += 1,
            Err(_) => self.counters.dropped_malformed += 1,
        }
        result
    }

    fn step_checked(&mut self, from: PeerId, group: GroupId, message: Message) -> Result<(), StepError> {
        let slot = self.slot_of(group).ok_or(StepError::UnknownGroup)?;
        let group = self.at(slot);
        // Proposals first: the guard compares with the end of raft's own log.
        group.flush_proposals();
        guard::check(group, from, &message)?;
        let seen = Seen::of(&message);
        let before = Before::of(group, &message);
        let result = match group.hears_short(&message) {
            true => group.step_short(message),
            false => group.step(message),
        };
        let result = result.map_err(|_| StepError::Refused);
        let term = Term(group.node.raft.term);
        self.counters.term_max = self.counters.term_max.max(term);
        self.mark_dirty(slot);
        if seen.is_vote() {
            self.gate.answered(slot);
        }
        self.after_step(slot, &seen);
        self.rest_after_step(slot, &before);
        result
    }

    /// Notes that the link to a peer is down, or that messages to it were dropped: raft probes before it sends more.
    pub fn report_unreachable(&mut self, group: GroupId, peer: PeerId) {
        self.report(group, |group| group.node.report_unreachable(peer.0));
    }

    /// Notes how the sending of a snapshot ended. Without this the follower is never sent anything again.
    pub fn report_snapshot(&mut self, group: GroupId, peer: PeerId, is_sent: bool) {
        let status = if is_sent { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.report(group, |group| group.node.report_snapshot(peer.0, status));
    }

    fn report(&mut self, group: GroupId, report: impl FnOnce(&mut crate::group::Group)) {
        let Some(slot) = self.slot_of(group) else { return };
        self.wake(slot);
        let group = self.at(slot);
        group.flush_proposals();
        report(group);
        group.settle();
        self.mark_dirty(slot);
    }
}
