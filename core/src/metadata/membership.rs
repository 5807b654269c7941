//! The next step from the configuration that a Raft group has to the members that it is to have. Pure.
//!
//! One change at a time: learners that are not wanted go, those that are missing come as learners, each gets its vote when it
//! has caught up, and only then do voters go that are not wanted. So the group never has fewer disks than it had.

use chronik_raft::driver::MemberProgress;
use chronik_raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use chronik_wal::types::{PeerId, RaftIndex};

/// A learner gets its vote when it is no more than so many entries behind: what is left comes within a round trip.
pub const CAUGHT_UP_ENTRIES: u64 = 64;

/// What the leader is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The group has the members that it is to have.
    Reached,
    /// A change is under way, or a learner is still catching up.
    Wait,
    /// Propose this.
    Change(ConfChangeV2),
    /// Hand over to this peer first: the leader itself is to go.
    HandOver(PeerId),
}

/// The next step towards `target`, for the leader `own` whose log ends at `last`.
#[must_use]
pub fn next_step(
    configuration: &ConfState,
    target: &[PeerId],
    progress: &[MemberProgress],
    own: PeerId,
    last: RaftIndex,
) -> Step {
    if !configuration.get_voters_outgoing().is_empty() || !configuration.get_learners_next().is_empty() {
        return Step::Wait;
    }
    let is_voter = |peer: PeerId| configuration.get_voters().contains(&peer.0);
    let is_learner = |peer: PeerId| configuration.get_learners().contains(&peer.0);
    let mut learners = configuration.get_learners().iter().copied().map(PeerId);
    if let Some(unwanted) = learners.find(|learner| !target.contains(learner)) {
        return Step::Change(change(ConfChangeType::RemoveNode, unwanted));
    }
    if let Some(missing) = target.iter().copied().find(|peer| !is_voter(*peer) && !is_learner(*peer)) {
        return Step::Change(change(ConfChangeType::AddLearnerNode, missing));
    }
    let caught_up = |peer: PeerId| {
        let member = progress.iter().find(|member| member.peer == peer);
        member.is_some_and(|member| {
            member.is_recently_active
                && member.matched.0 + CAUGHT_UP_ENTRIES >= last.0
                && member.matched.0 > 0
        })
    };
    let waiting: Vec<PeerId> = target.iter().copied().filter(|peer| is_learner(*peer)).collect();
    if let Some(ready) = waiting.iter().copied().find(|peer| caught_up(*peer)) {
        return Step::Change(change(ConfChangeType::AddNode, ready));
    }
    if !waiting.is_empty() {
        return Step::Wait;
    }
    let mut voters = configuration.get_voters().iter().copied().map(PeerId);
    match voters.find(|voter| !target.contains(voter)) {
        Some(unwanted) if unwanted == own => {
            let heir = target.iter().copied().find(|peer| caught_up(*peer));
            heir.map_or(Step::Wait, Step::HandOver)
        }
        Some(unwanted) => Step::Change(change(ConfChangeType::RemoveNode, unwanted)),
        None => Step::Reached,
    }
}

fn change(kind: ConfChangeType, peer: PeerId) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = peer.0;
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(single);
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState::from((voters.to_vec(), learners.to_vec()))
    }

    fn peers(of: &[u64]) -> Vec<PeerId> {
        of.iter().copied().map(PeerId).collect()
    }

    /// Follows the steps to the end, each learner caught up at once; gives the configurations on the way.
    fn walk(voters: &[u64], target: &[u64]) -> Vec<(Vec<u64>, Vec<u64>)> {
        let (mut voters, mut learners) = (voters.to_vec(), Vec::new());
        let mut own = PeerId(voters[0]);
        let mut seen = Vec::new();
        for _ in 0..32 {
            let all = voters.iter().chain(&learners);
            let progress: Vec<MemberProgress> = all
                .map(|peer| MemberProgress {
                    peer: PeerId(*peer),
                    is_voter: voters.contains(peer),
                    matched: RaftIndex(9),
                    is_recently_active: true,
                })
                .collect();
            match next_step(&configuration(&voters, &learners), &peers(target), &progress, own, RaftIndex(10))
            {
                Step::Reached => return seen,
                Step::Wait => panic!("nothing is to be waited for"),
                Step::HandOver(peer) => own = peer,
                Step::Change(change) => {
                    let single = &change.get_changes()[0];
                    voters.retain(|peer| *peer != single.node_id);
                    learners.retain(|peer| *peer != single.node_id);
                    match single.get_change_type() {
                        ConfChangeType::AddNode => voters.push(single.node_id),
                        ConfChangeType::AddLearnerNode => learners.push(single.node_id),
                        ConfChangeType::RemoveNode => {}
                    }
                    seen.push((voters.clone(), learners.clone()));
                }
            }
        }
        panic!("the target is never reached");
    }

    #[test]
    fn what_comes_comes_before_what_goes_goes() {
        assert_eq!(walk(&[1], &[1]), []);
        let steps = walk(&[1, 2, 3], &[4, 2, 3]);
        let expected: [(&[u64], &[u64]); 3] = [(&[1, 2, 3], &[4]), (&[1, 2, 3, 4], &[]), (&[2, 3, 4], &[])];
        let expected: Vec<_> = expected.iter().map(|(v, l)| (v.to_vec(), l.to_vec())).collect();
        assert_eq!(steps, expected, "the leader hands over before it goes");
        for (voters, target) in [(&[1][..], &[1, 2, 3][..]), (&[1, 2, 3], &[4, 5, 6]), (&[1, 2, 3], &[2])] {
            let steps = walk(voters, target);
            let fewest = voters.len().min(target.len());
            assert!(steps.iter().all(|(voters, _)| voters.len() >= fewest));
            let mut last = steps.last().unwrap().0.clone();
            last.sort_unstable();
            assert_eq!(last, target);
        }
    }

    #[test]
    fn a_learner_that_lags_or_is_silent_gets_no_vote() {
        let member = |peer, matched, is_recently_active| MemberProgress {
            peer: PeerId(peer),
            is_voter: peer == 1,
            matched: RaftIndex(matched),
            is_recently_active,
        };
        let configuration = configuration(&[1], &[2]);
        for (matched, active, step) in
            [(100, true, Step::Wait), (990, false, Step::Wait), (0, true, Step::Wait)]
        {
            let progress = [member(1, 1000, true), member(2, matched, active)];
            assert_eq!(
                next_step(&configuration, &peers(&[1, 2]), &progress, PeerId(1), RaftIndex(1000)),
                step
            );
        }
        let joint = {
            let mut joint = configuration.clone();
            joint.mut_voters_outgoing().push(1);
            joint
        };
        assert_eq!(next_step(&joint, &peers(&[1]), &[], PeerId(1), RaftIndex(9)), Step::Wait);
    }
}
