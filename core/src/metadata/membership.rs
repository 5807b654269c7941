//! The next step from the configuration that a Raft group has to the members that it is to have. Pure.
//!
//! One change at a time: learners that are not wanted go, those that are missing come as learners, each gets its vote when it
//! has caught up, and only then do voters go that are not wanted. So the group never has fewer disks than it had. A voter whose
//! disk is gone goes before its successor comes: were both voters, the loss of one more node would leave no quorum.

use chronik_raft::driver::MemberProgress;
use chronik_raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use chronik_wal::types::{PeerId, RaftIndex};

use super::state::MetadataReplicas;

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

/// The members that the group is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// All of them.
    pub members: Vec<PeerId>,
    /// Those that have lost their logs: see [`MetadataReplicas::is_lost`].
    pub lost: Vec<PeerId>,
}

impl Target {
    /// As the metadata have it.
    #[must_use]
    pub fn of(replicas: &MetadataReplicas) -> Self {
        let lost = replicas.removing.iter().filter(|replica| replicas.is_lost(replica));
        Self {
            members: replicas.target().iter().map(|member| member.peer).collect(),
            lost: lost.map(|replica| replica.peer).collect(),
        }
    }
}

/// The next step towards `target`, for the leader `own` whose log ends at `last`.
#[must_use]
pub fn next_step(
    configuration: &ConfState,
    target: &Target,
    progress: &[MemberProgress],
    own: PeerId,
    last: RaftIndex,
) -> Step {
    if !configuration.get_voters_outgoing().is_empty() || !configuration.get_learners_next().is_empty() {
        return Step::Wait;
    }
    let peers = |ids: &[u64]| ids.iter().copied().map(PeerId).collect::<Vec<_>>();
    let (voters, learners) = (peers(configuration.get_voters()), peers(configuration.get_learners()));
    let is_caught_up = |peer: &PeerId| {
        let member = progress.iter().find(|member| member.peer == *peer);
        member.is_some_and(|member| {
            member.is_recently_active
                && member.matched.0 + CAUGHT_UP_ENTRIES >= last.0
                && member.matched.0 > 0
        })
    };
    if let Some(unwanted) = learners.iter().find(|learner| !target.members.contains(learner)) {
        return Step::Change(change(ConfChangeType::RemoveNode, *unwanted));
    }
    // Nobody goes while too few of the others have everything: they could decide nothing until they come back, if ever.
    let leaves_a_quorum = |gone: &PeerId| {
        let ready = voters.iter().filter(|voter| *voter != gone && (**voter == own || is_caught_up(voter)));
        ready.count() > (voters.len() - 1) / 2
    };
    let is_lost = |voter: &&PeerId| target.lost.contains(voter) && **voter != own;
    if let Some(gone) = voters.iter().filter(is_lost).find(|voter| leaves_a_quorum(voter)) {
        return Step::Change(change(ConfChangeType::RemoveNode, *gone));
    }
    let is_missing = |peer: &&PeerId| !voters.contains(peer) && !learners.contains(peer);
    if let Some(missing) = target.members.iter().find(is_missing) {
        return Step::Change(change(ConfChangeType::AddLearnerNode, *missing));
    }
    if let Some(ready) = learners.iter().find(|learner| is_caught_up(learner)) {
        return Step::Change(change(ConfChangeType::AddNode, *ready));
    }
    if !learners.is_empty() {
        return Step::Wait;
    }
    let unwanted: Vec<PeerId> =
        voters.iter().copied().filter(|voter| !target.members.contains(voter)).collect();
    match unwanted.iter().find(|voter| **voter != own && leaves_a_quorum(voter)) {
        Some(goes) => Step::Change(change(ConfChangeType::RemoveNode, *goes)),
        None if unwanted.is_empty() => Step::Reached,
        None if unwanted == [own] => {
            let heir = target.members.iter().find(|peer| is_caught_up(peer));
            heir.map_or(Step::Wait, |heir| Step::HandOver(*heir))
        }
        None => Step::Wait,
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
    use chronik_wal::types::NodeId;

    use super::*;
    use crate::metadata::command::MetadataReplica;

    fn configuration(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState::from((voters.to_vec(), learners.to_vec()))
    }

    fn target(members: &[u64], lost: &[u64]) -> Target {
        let peers = |of: &[u64]| of.iter().copied().map(PeerId).collect();
        Target { members: peers(members), lost: peers(lost) }
    }

    fn member(peer: u64, matched: u64, is_recently_active: bool) -> MemberProgress {
        let (peer, matched) = (PeerId(peer), RaftIndex(matched));
        MemberProgress { peer, is_voter: true, matched, is_recently_active }
    }

    /// Follows the steps to the end, each learner caught up at once; gives the configurations on the way.
    fn walk(voters: &[u64], members: &[u64]) -> Vec<(Vec<u64>, Vec<u64>)> {
        let (mut voters, mut learners) = (voters.to_vec(), Vec::new());
        let mut own = PeerId(voters[0]);
        let mut seen = Vec::new();
        for _ in 0..32 {
            let all = voters.iter().chain(&learners);
            let progress: Vec<MemberProgress> = all.map(|peer| member(*peer, 9, true)).collect();
            let configuration = configuration(&voters, &learners);
            match next_step(&configuration, &target(members, &[]), &progress, own, RaftIndex(10)) {
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
        let configuration = configuration(&[1], &[2]);
        for (matched, active, step) in
            [(100, true, Step::Wait), (990, false, Step::Wait), (0, true, Step::Wait)]
        {
            let progress = [member(1, 1000, true), member(2, matched, active)];
            let target = target(&[1, 2], &[]);
            assert_eq!(next_step(&configuration, &target, &progress, PeerId(1), RaftIndex(1000)), step);
        }
        let joint = {
            let mut joint = configuration.clone();
            joint.mut_voters_outgoing().push(1);
            joint
        };
        assert_eq!(next_step(&joint, &target(&[1], &[]), &[], PeerId(1), RaftIndex(9)), Step::Wait);
    }

    /// The disk of 3 was replaced, and 4 is its successor: were both voters, the group would stand still without one more.
    #[test]
    fn who_has_lost_its_disk_goes_before_its_successor_comes() {
        let step = |voters: &[u64], matched: u64| {
            let progress = [member(1, 100, true), member(2, matched, true), member(3, 100, true)];
            let target = target(&[1, 2, 4], &[3]);
            next_step(&configuration(voters, &[]), &target, &progress, PeerId(1), RaftIndex(100))
        };
        assert_eq!(step(&[1, 2, 3], 100), Step::Change(change(ConfChangeType::RemoveNode, PeerId(3))));
        let comes = Step::Change(change(ConfChangeType::AddLearnerNode, PeerId(4)));
        assert_eq!(step(&[1, 2], 100), comes);
        assert_eq!(step(&[1, 2, 3], 0), comes, "1 alone could decide nothing");
    }

    /// 3 is gone for now: were 2 to go, 1 alone could not even take 3 out.
    #[test]
    fn nobody_goes_who_is_needed_while_another_is_away() {
        let step = |members: &[u64]| {
            let progress = [member(1, 100, true), member(2, 100, true), member(3, 100, false)];
            let three = configuration(&[1, 2, 3], &[]);
            next_step(&three, &target(members, &[]), &progress, PeerId(1), RaftIndex(100))
        };
        assert_eq!(step(&[1, 3]), Step::Wait);
        assert_eq!(step(&[1, 2]), Step::Change(change(ConfChangeType::RemoveNode, PeerId(3))));
        assert_eq!(step(&[1]), step(&[1, 2]), "who is away goes first");
    }

    #[test]
    fn lost_is_who_has_a_successor_on_its_node() {
        let member = |node, peer| MetadataReplica {
            node: NodeId(node),
            peer: PeerId(peer),
            directory: uuid::Uuid::from_u128(u128::from(peer)),
        };
        let replicas = MetadataReplicas {
            replicas: vec![member(1, 1), member(3, 4), member(3, 3), member(2, 2)],
            adding: vec![member(3, 4)],
            removing: vec![member(3, 3), member(2, 2)],
        };
        assert_eq!(Target::of(&replicas), target(&[1, 4], &[3]), "2 leaves with its log");
    }
}
