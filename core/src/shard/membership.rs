//! The leader of a partition drives Raft's configuration towards the placement in the metadata (SAFETY.md, rule 9).
//!
//! ```text
//! the placement is to be another ─▶ learner ─▶ filled ─▶ voter ─▶ whoever is to go goes ─▶ CompletePlacement to the controller
//! ```
//! One change at a time, what comes before what goes, so that a partition never has fewer disks than it had. A leader that is
//! itself to go hands over first, and the next one drives on. Only so many replicas are filled at a time, and what is read
//! for them from files is bounded (`peers.rs`), so that produce and fetch go on.
//!
//! The metadata group's own members are the controller's (`controller/chores.rs`).

use std::collections::{BTreeMap, BTreeSet};

use chronik_raft::driver::MemberChange;
use chronik_raft::eraftpb::ConfState;
use chronik_raft::error::ProposeError;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, PeerId, ShardId};

use super::controller::AdminRequest;
use super::message::{Call, Message, Request};
use super::{Shard, Timer};
use crate::metadata::command::Replica;

/// Groups whose placement is to change are looked at this often.
const DRIVE_EVERY_MS: u64 = 50;

/// Replicas of the groups of one shard that are filled at the same time.
const FILLING_MAX: usize = 4;

/// The controller is told again that a placement is reached after this long.
const TELL_EVERY_MS: u64 = 2_000;

/// What is being driven.
#[derive(Debug, Default)]
pub struct Membership {
    /// Groups led here whose placement is to change.
    groups: BTreeSet<GroupId>,
    /// When the controller was told last that these have reached it.
    told_ms: BTreeMap<GroupId, u64>,
    is_timed: bool,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Change(MemberChange),
    Wait,
    Reached,
}

impl Shard {
    /// A group's placement, or its leader, has changed.
    pub(crate) fn drive_membership(&mut self, group: GroupId) {
        let leads = matches!(self.driver.leadership(group), Some(Leadership::Leader { .. }));
        if !leads || self.reassignment(group).is_none() {
            self.membership.groups.remove(&group);
            self.membership.told_ms.remove(&group);
            return;
        }
        self.membership.groups.insert(group);
        self.time_membership();
    }

    fn time_membership(&mut self) {
        if !std::mem::replace(&mut self.membership.is_timed, true) {
            self.set_timer(self.now.mono_ms + DRIVE_EVERY_MS, Timer::Membership);
        }
    }

    /// The members that the group is to have, where they are to be others than those it has.
    fn reassignment(&self, group: GroupId) -> Option<Vec<Replica>> {
        let name = &self.partitions.get(&group)?.name;
        let view = self.snapshot.topic_by_id(&name.topic_id)?.partition(name.index)?;
        view.is_reassigning().then(|| view.target())
    }

    /// It is time for the next steps.
    pub(crate) fn membership_due(&mut self) {
        self.membership.is_timed = false;
        let groups = self.membership.groups.clone();
        let learners = |group: &GroupId| {
            self.driver.configuration(*group).map_or(0, |configuration| configuration.get_learners().len())
        };
        let mut filling: usize = groups.iter().map(learners).sum();
        for group in groups {
            if let Some(target) = self.reassignment(group) {
                self.drive_group(group, &target, &mut filling);
            } else {
                self.drive_membership(group);
            }
        }
        if !self.membership.groups.is_empty() {
            self.time_membership();
        }
    }

    fn drive_group(&mut self, group: GroupId, target: &[Replica], filling: &mut usize) {
        let Some(configuration) = self.driver.configuration(group) else { return };
        let peers: Vec<PeerId> = target.iter().map(|replica| replica.peer).collect();
        match next_step(configuration, &peers, |peer| self.driver.is_caught_up(group, peer)) {
            Step::Wait => {}
            Step::Change(MemberChange::AddLearner(_)) if *filling >= FILLING_MAX => {}
            Step::Change(change) => {
                let changed = self.driver.change_member(group, change);
                match changed {
                    Ok(_) => {
                        tracing::info!(group = group.0, ?change, "a partition's replicas change");
                        *filling += usize::from(matches!(change, MemberChange::AddLearner(_)));
                    }
                    Err(ProposeError::NotLeader) => self.drive_membership(group),
                    Err(error) => tracing::debug!(group = group.0, ?change, %error, "not now"),
                }
            }
            Step::Reached => self.tell_reached(group, target),
        }
    }

    fn tell_reached(&mut self, group: GroupId, target: &[Replica]) {
        let now_ms = self.now.mono_ms;
        let told_ms = self.membership.told_ms.get(&group);
        if told_ms.is_some_and(|at_ms| now_ms < at_ms + TELL_EVERY_MS) {
            return;
        }
        self.membership.told_ms.insert(group, now_ms);
        let Some(name) = self.partitions.get(&group).map(|partition| &partition.name) else { return };
        let (topic, partition, replicas) = (name.topic_id, name.index, target.to_vec());
        let request = AdminRequest::CompletePlacement { topic, partition, replicas };
        let timeout_ms = u32::try_from(TELL_EVERY_MS).unwrap_or(u32::MAX);
        // Nobody waits for the answer: the metadata log tells.
        let call = Call { origin: self.id, id: 0 };
        if self.id == ShardId(0) {
            return self.admin_request(call, request, timeout_ms);
        }
        let request = Request::Admin { request: Box::new(request), timeout_ms };
        self.out.messages.push((ShardId(0), Message::Request { call, request }));
    }
}

/// The next step from a configuration to the members that are wanted.
fn next_step(configuration: &ConfState, target: &[PeerId], caught_up: impl Fn(PeerId) -> bool) -> Step {
    let peers = |ids: &[u64]| ids.iter().copied().map(PeerId).collect::<Vec<_>>();
    let (voters, learners) = (peers(configuration.get_voters()), peers(configuration.get_learners()));
    if !configuration.get_voters_outgoing().is_empty() {
        return Step::Wait;
    }
    if let Some(unwanted) = learners.iter().find(|learner| !target.contains(learner)) {
        return Step::Change(MemberChange::Remove(*unwanted));
    }
    let is_missing = |peer: &&PeerId| !voters.contains(peer) && !learners.contains(peer);
    if let Some(missing) = target.iter().find(is_missing) {
        return Step::Change(MemberChange::AddLearner(*missing));
    }
    if let Some(ready) = learners.iter().find(|learner| caught_up(**learner)) {
        return Step::Change(MemberChange::Promote(*ready));
    }
    if !learners.is_empty() {
        return Step::Wait;
    }
    match voters.iter().find(|voter| !target.contains(voter)) {
        Some(unwanted) => Step::Change(MemberChange::Remove(*unwanted)),
        None => Step::Reached,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_comes_before_what_goes_goes() {
        let (mut voters, mut learners) = (vec![1, 2, 3], Vec::new());
        let target = [PeerId(4), PeerId(5), PeerId(3)];
        let mut steps = 0;
        loop {
            let configuration = ConfState::from((voters.clone(), learners.clone()));
            match next_step(&configuration, &target, |_| true) {
                Step::Change(MemberChange::AddLearner(peer)) => learners.push(peer.0),
                Step::Change(MemberChange::Promote(peer)) => {
                    learners.retain(|id| *id != peer.0);
                    voters.push(peer.0);
                }
                Step::Change(MemberChange::Remove(peer)) => voters.retain(|id| *id != peer.0),
                Step::Reached => break,
                Step::Wait => panic!("nothing is to be waited for"),
            }
            assert!(voters.len() >= 3, "never fewer than before: {voters:?}");
            steps += 1;
            assert!(steps < 20);
        }
        assert_eq!((voters, learners), (vec![3, 4, 5], vec![]));
    }

    #[test]
    fn a_learner_gets_no_vote_before_it_has_caught_up_and_goes_when_called_off() {
        let configuration = ConfState::from((vec![1], vec![2]));
        let target = [PeerId(1), PeerId(2)];
        assert_eq!(next_step(&configuration, &target, |_| false), Step::Wait);
        let step = next_step(&configuration, &[PeerId(1)], |_| false);
        assert_eq!(step, Step::Change(MemberChange::Remove(PeerId(2))));
    }
}
