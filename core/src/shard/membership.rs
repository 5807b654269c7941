//! The leader of a partition drives Raft's configuration towards the placement in the metadata (SAFETY.md, rule 9).
//!
//! ```text
//! the placement is to be another ─▶ learner ─▶ filled ─▶ voter ─▶ whoever is to go goes ─▶ CompletePlacement to the controller
//! ```
//! One change at a time, what comes before what goes, so that a partition never has fewer disks than it had. One whose disk is
//! gone goes before its successor comes: it has nothing, and as long as both were voters the loss of one more node would leave
//! the group without a quorum though all replicas are in sync. A leader that is itself to go hands over first, and the next one
//! drives on. Only so many replicas are filled at a time, and what is read for them from files is bounded (`peers.rs`), so that
//! produce and fetch go on.
//!
//! The metadata group's own members are the controller's (`controller/chores.rs`).

use std::collections::{BTreeMap, BTreeSet};

use chronik_raft::driver::MemberChange;
use chronik_raft::eraftpb::ConfState;
use chronik_raft::error::ProposeError;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, PeerId, RaftIndex, ShardId};

use super::controller::AdminRequest;
use super::message::{Call, Request};
use super::{Event, Shard, Timer};
use crate::metadata::admin::Reached;
use crate::metadata::command::Replica;
use crate::metadata::snapshot::PartitionView;

/// Groups whose placement is to change are looked at this often while they get on.
const DRIVE_EVERY_MS: u64 = 50;

/// And this often while none of them does: a learner is being filled, or a node cannot be reached.
const LOOK_EVERY_MS: u64 = 200;

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
        self.time_membership(DRIVE_EVERY_MS);
    }

    fn time_membership(&mut self, ms: u64) {
        if !std::mem::replace(&mut self.membership.is_timed, true) {
            self.set_timer(self.now.mono_ms + ms, Timer::Membership);
        }
    }

    /// The partition as the metadata have it; none for the metadata group, or for one of which the topic is gone.
    pub(crate) fn placement(&self, group: GroupId) -> Option<&PartitionView> {
        let name = &self.partitions.get(&group)?.name;
        self.snapshot.partition(&name.topic_id, name.index)
    }

    /// The members that the group is to have, where they are to be others than those it has.
    ///
    /// One that was to go and is to stay after all is not listed as coming, but may be out of Raft by then, or about to be. And a
    /// leader that had not heard of the newest placement may have brought one that nobody wants any more.
    fn reassignment(&self, group: GroupId) -> Option<Vec<Replica>> {
        let view = self.placement(group)?;
        let target = view.target();
        let configuration = self.driver.configuration(group)?;
        let lacks = |replica: &Replica| !configuration.get_voters().contains(&replica.peer.0);
        let differs = view.is_reassigning()
            || target.iter().any(lacks)
            || !configuration.get_learners().is_empty()
            || self.driver.is_changing_members(group);
        differs.then_some(target)
    }

    /// It is time for the next steps.
    pub(crate) fn membership_due(&mut self) {
        self.membership.is_timed = false;
        let groups = self.membership.groups.clone();
        let mut filling: usize = groups.iter().map(|group| self.filling(*group)).sum();
        let mut gets_on = false;
        for group in groups {
            if let Some(target) = self.reassignment(group) {
                gets_on |= self.drive_group(group, &target, &mut filling);
            } else {
                self.drive_membership(group);
            }
        }
        if !self.membership.groups.is_empty() {
            self.time_membership(if gets_on { DRIVE_EVERY_MS } else { LOOK_EVERY_MS });
        }
    }

    /// Replicas of a group that are being filled. One on a node that cannot be reached costs nothing, and holds nobody up.
    fn filling(&self, group: GroupId) -> usize {
        let Some(configuration) = self.driver.configuration(group) else { return 0 };
        let learners = configuration.get_learners().iter().copied().map(PeerId);
        learners.filter(|learner| self.reachable(group, *learner).is_some()).count()
    }

    /// Returns whether the group's members are others from now on.
    fn drive_group(&mut self, group: GroupId, target: &[Replica], filling: &mut usize) -> bool {
        let (Some(configuration), Some(state), Some(partition)) =
            (self.driver.configuration(group), self.driver.state(group), self.partitions.get(&group))
        else {
            return false;
        };
        let peers: Vec<PeerId> = target.iter().map(|replica| replica.peer).collect();
        let known = Known {
            own: state.peer,
            gone: &partition.gone,
            is_caught_up: |peer| self.driver.is_caught_up(group, peer),
            may_be_filled: |peer| *filling < FILLING_MAX && self.reachable(group, peer).is_some(),
        };
        let is_to_change = self.placement(group).is_some_and(PartitionView::is_reassigning);
        match next_step(configuration, &peers, &known) {
            Step::Wait => {}
            // A placement is completed but once.
            Step::Reached if !is_to_change => {}
            // Who has come by a newer placement than this leader knows stays, once it votes.
            Step::Change(MemberChange::Remove(peer))
                if !is_to_change && configuration.get_voters().contains(&peer.0) => {}
            // Either it went and is wanted back, or this leader has not heard that it is gone for good. The controller knows: in the
            // former case its node begins again under a fresh id, and that is a placement like any other.
            Step::Change(MemberChange::AddLearner(peer)) if !is_to_change => self.ask_for_return(group, peer),
            // A change that was begun for another placement may still come: nobody would look after the member that it brings.
            Step::Reached if self.driver.is_changing_members(group) => {}
            Step::Change(change) => match self.driver.change_member(group, change) {
                Ok(_) => {
                    tracing::info!(group = group.0, ?change, "a partition's replicas change");
                    *filling += usize::from(matches!(change, MemberChange::AddLearner(_)));
                    return true;
                }
                Err(ProposeError::NotLeader) => self.drive_membership(group),
                Err(error) => tracing::debug!(group = group.0, ?change, %error, "not now"),
            },
            Step::Reached => self.tell_reached(group, target),
        }
        false
    }

    /// Whether the controller may be told something of the group, or asked, again.
    fn may_tell(&mut self, group: GroupId) -> bool {
        let now_ms = self.now.mono_ms;
        let told_ms = self.membership.told_ms.get(&group);
        let may = told_ms.is_none_or(|at_ms| now_ms >= at_ms + TELL_EVERY_MS);
        if may {
            self.membership.told_ms.insert(group, now_ms);
        }
        may
    }

    fn ask_for_return(&mut self, group: GroupId, peer: PeerId) {
        let Some(node) = self.node_of(group, peer) else { return };
        let Some(name) = self.partitions.get(&group).map(|partition| partition.name.clone()) else { return };
        if self.may_tell(group) {
            let (topic, partition, replica) = (name.topic_id, name.index, Replica { node, peer });
            self.ask_controller(AdminRequest::RenewReplica { topic, partition, replica });
        }
    }

    fn tell_reached(&mut self, group: GroupId, target: &[Replica]) {
        if !self.may_tell(group) {
            return;
        }
        // A joiner begins with these members: what made them so is behind it.
        let index = self.driver.state(group).map_or(RaftIndex(0), |state| state.configuration_index);
        let going = self.placement(group).map(|view| view.removing.to_vec());
        let Some(name) = self.partitions.get(&group).map(|partition| &partition.name) else { return };
        let (topic, partition) = (name.topic_id, name.index);
        let reached = Reached { replicas: target.to_vec(), index, going };
        let request = AdminRequest::CompletePlacement { topic, partition, reached };
        let timeout_ms = u32::try_from(TELL_EVERY_MS).unwrap_or(u32::MAX);
        // Nobody waits for the answer: the metadata log tells.
        let call = Call { origin: self.id, id: 0 };
        if self.id == ShardId(0) {
            return self.admin_request(call, request, timeout_ms);
        }
        let request = Request::Admin { request: Box::new(request), timeout_ms };
        self.out.messages.push((ShardId(0), Event::Request { call, request }));
    }
}

/// What the leader of a group knows of its members.
struct Known<'a, C, F> {
    own: PeerId,
    /// Those that are no more, as the metadata have it: their nodes have newer ones.
    gone: &'a [PeerId],
    is_caught_up: C,
    /// Whether a replica may begin to be filled now.
    may_be_filled: F,
}

/// The next step from a configuration to the members that are wanted.
fn next_step<C, F>(configuration: &ConfState, target: &[PeerId], known: &Known<'_, C, F>) -> Step
where
    C: Fn(PeerId) -> bool,
    F: Fn(PeerId) -> bool,
{
    let peers = |ids: &[u64]| ids.iter().copied().map(PeerId).collect::<Vec<_>>();
    let (voters, learners) = (peers(configuration.get_voters()), peers(configuration.get_learners()));
    if !configuration.get_voters_outgoing().is_empty() {
        return Step::Wait;
    }
    if let Some(unwanted) = learners.iter().find(|learner| !target.contains(learner)) {
        return Step::Change(MemberChange::Remove(*unwanted));
    }
    // Nobody goes as long as too few of those that would stay have everything, or the group would be without a quorum until they
    // come back, if ever.
    let leaves_a_quorum = |voter: &PeerId| {
        let stays = |other: &&PeerId| *other != voter;
        let ready = voters.iter().filter(stays).filter(|other| (known.is_caught_up)(**other)).count();
        ready > (voters.len() - 1) / 2
    };
    let is_gone = |voter: &&PeerId| {
        known.gone.contains(voter) && !target.contains(voter) && !(known.is_caught_up)(**voter)
    };
    if let Some(gone) = voters.iter().filter(is_gone).find(|voter| leaves_a_quorum(voter)) {
        return Step::Change(MemberChange::Remove(*gone));
    }
    // Before others come: who is filled makes room for the next one, here or in another group.
    if let Some(ready) = learners.iter().find(|learner| (known.is_caught_up)(**learner)) {
        return Step::Change(MemberChange::Promote(*ready));
    }
    let is_missing = |peer: &PeerId| !voters.contains(peer) && !learners.contains(peer);
    let missing: Vec<PeerId> = target.iter().copied().filter(is_missing).collect();
    if let Some(next) = missing.iter().find(|peer| (known.may_be_filled)(**peer)) {
        return Step::Change(MemberChange::AddLearner(*next));
    }
    if !learners.is_empty() || !missing.is_empty() {
        return Step::Wait;
    }
    // Who is behind goes first and the leader last: whom it hands over to is one of those that stay.
    let mut unwanted: Vec<PeerId> = voters.iter().copied().filter(|voter| !target.contains(voter)).collect();
    unwanted.sort_by_key(|voter| (*voter == known.own, (known.is_caught_up)(*voter)));
    match unwanted.iter().find(|voter| leaves_a_quorum(voter)) {
        Some(goes) => Step::Change(MemberChange::Remove(*goes)),
        None if unwanted.is_empty() => Step::Reached,
        None => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use chronik_wal::types::NodeId;

    use super::*;
    use crate::shard::peers::gone_among;

    /// Of a leader that can reach everybody.
    fn step(configuration: &ConfState, target: &[PeerId], caught_up: bool, own: u64) -> Step {
        let known =
            Known { own: PeerId(own), gone: &[], is_caught_up: |_| caught_up, may_be_filled: |_| true };
        next_step(configuration, target, &known)
    }

    #[test]
    fn what_comes_comes_before_what_goes_goes_and_the_leader_goes_last() {
        let (mut voters, mut learners) = (vec![1, 2, 3], Vec::new());
        let target = [PeerId(4), PeerId(5), PeerId(3)];
        let (mut steps, mut gone) = (0, Vec::new());
        loop {
            let configuration = ConfState::from((voters.clone(), learners.clone()));
            match step(&configuration, &target, true, 1) {
                Step::Change(MemberChange::AddLearner(peer)) => learners.push(peer.0),
                Step::Change(MemberChange::Promote(peer)) => {
                    learners.retain(|id| *id != peer.0);
                    voters.push(peer.0);
                }
                Step::Change(MemberChange::Remove(peer)) => {
                    voters.retain(|id| *id != peer.0);
                    gone.push(peer.0);
                }
                Step::Reached => break,
                Step::Wait => panic!("nothing is to be waited for"),
            }
            assert!(voters.len() >= 3, "never fewer than before: {voters:?}");
            steps += 1;
            assert!(steps < 20);
        }
        assert_eq!((voters, learners, gone), (vec![3, 4, 5], vec![], vec![2, 1]));
    }

    #[test]
    fn a_learner_gets_no_vote_before_it_has_caught_up_and_goes_when_called_off() {
        let configuration = ConfState::from((vec![1], vec![2]));
        let target = [PeerId(1), PeerId(2)];
        assert_eq!(step(&configuration, &target, false, 1), Step::Wait);
        let called_off = step(&configuration, &[PeerId(1)], false, 1);
        assert_eq!(called_off, Step::Change(MemberChange::Remove(PeerId(2))));
    }

    /// Peer 3 is lost: were 2 to go, 1 could decide nothing alone, for ever if the disk of 3 is lost too.
    #[test]
    fn nobody_goes_who_is_needed_while_another_is_lost_and_the_lost_one_goes_first() {
        let is_caught_up = |peer| peer != PeerId(3);
        let known = Known { own: PeerId(1), gone: &[], is_caught_up, may_be_filled: |_| true };
        let three = ConfState::from((vec![1, 2, 3], vec![]));
        assert_eq!(next_step(&three, &[PeerId(1), PeerId(3)], &known), Step::Wait);
        let with_its_successor = ConfState::from((vec![1, 2, 3, 4], vec![]));
        let lost = Step::Change(MemberChange::Remove(PeerId(3)));
        assert_eq!(next_step(&with_its_successor, &[PeerId(1), PeerId(4)], &known), lost);
        let without = ConfState::from((vec![1, 2, 4], vec![]));
        let second = Step::Change(MemberChange::Remove(PeerId(2)));
        assert_eq!(next_step(&without, &[PeerId(1), PeerId(4)], &known), second);
    }

    /// The disk of 3 was replaced, and 4 is its successor: were both voters, the group would stand still without one more.
    #[test]
    fn who_has_lost_its_disk_goes_before_its_successor_comes() {
        let [one, two, three, four] = [1, 2, 3, 4].map(PeerId);
        let on = |peer, node| Replica { node: NodeId(node), peer };
        let placed = [on(one, 1), on(two, 2), on(four, 3), on(three, 3), on(PeerId(9), 7)];
        let gone = gone_among(&placed);
        assert_eq!(gone, [three], "9 moves away with its log");
        let step = |voters: &[u64], caught_up: &[u64], may_be_filled: bool| {
            let is_caught_up = |peer: PeerId| caught_up.contains(&peer.0);
            let known = Known { own: one, gone: &gone, is_caught_up, may_be_filled: |_| may_be_filled };
            next_step(&ConfState::from((voters.to_vec(), vec![])), &[one, two, four], &known)
        };
        assert_eq!(step(&[1, 2, 3], &[1, 2], true), Step::Change(MemberChange::Remove(three)));
        assert_eq!(step(&[1, 2], &[1, 2], true), Step::Change(MemberChange::AddLearner(four)));
        let lags = "what 2 lacks may be on nobody's disk but the leader's";
        assert_eq!(step(&[1, 2, 3], &[1], true), Step::Change(MemberChange::AddLearner(four)), "{lags}");
        assert_eq!(
            step(&[1, 2, 3], &[1, 2, 3], true),
            Step::Change(MemberChange::AddLearner(four)),
            "it is there"
        );
    }

    /// Where no other may be filled now, those that are filled get their vote nevertheless; else they would hold up each other.
    #[test]
    fn who_is_filled_gets_its_vote_though_no_other_may_come_and_nobody_goes_before_all_are_there() {
        let target = [PeerId(2), PeerId(3), PeerId(4)];
        let known = |caught_up: bool, fillable: u64| Known {
            own: PeerId(1),
            gone: &[],
            is_caught_up: move |_| caught_up,
            may_be_filled: move |peer| peer == PeerId(fillable),
        };
        let half = ConfState::from((vec![1], vec![2]));
        let promoted = Step::Change(MemberChange::Promote(PeerId(2)));
        assert_eq!(next_step(&half, &target, &known(true, 0)), promoted);
        let whole = ConfState::from((vec![1, 2], vec![]));
        assert_eq!(next_step(&whole, &target, &known(true, 0)), Step::Wait);
        let other = Step::Change(MemberChange::AddLearner(PeerId(4)));
        assert_eq!(next_step(&half, &target, &known(false, 4)), other, "the first that can be reached");
    }
}
