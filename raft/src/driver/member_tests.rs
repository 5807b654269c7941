//! Changes of one member, as the leader takes and refuses them.

use chronik_wal::entry::EntryKind;
use chronik_wal::types::{PeerId, RaftIndex};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType, MessageType};

use super::*;
use crate::driver::members::MemberChange::{AddLearner, Promote, Remove};
use crate::error::ProposeError;
use crate::test_replica::{GROUP, Replica, append, message};
use crate::test_support::batch_bytes;

/// Peer 2, or another, has everything up to here.
fn accept(replica: &mut Replica, from: u64, index: u64) {
    let mut accept = message(MessageType::MsgAppendResponse, 1);
    (accept.from, accept.index) = (from, index);
    replica.step(accept).unwrap();
    replica.turn();
}

fn change(replica: &mut Replica, change: MemberChange) -> Result<(), ProposeError> {
    replica.driver.change_member(GROUP, change).map(|_| replica.turn())
}

#[test]
fn a_sole_voter_takes_a_learner_and_promotes_it_once_it_has_caught_up() {
    let mut replica = Replica::sole_voter();
    assert_eq!(change(&mut replica, Promote(PeerId(2))), Err(ProposeError::NotMember(PeerId(2))));
    assert_eq!(change(&mut replica, Remove(PeerId(1))), Err(ProposeError::LastVoter(PeerId(1))));
    assert_eq!(change(&mut replica, Remove(PeerId(2))), Err(ProposeError::NotMember(PeerId(2))));
    change(&mut replica, AddLearner(PeerId(2))).unwrap();
    replica.turn();
    let again = change(&mut replica, AddLearner(PeerId(2)));
    assert_eq!(again, Err(ProposeError::AlreadyMember(PeerId(2))));
    assert_eq!(change(&mut replica, Promote(PeerId(2))), Err(ProposeError::NotCaughtUp(PeerId(2))));
    accept(&mut replica, 2, 2);
    assert!(replica.driver.is_caught_up(GROUP, PeerId(2)));
    replica.driver.peer_lost(GROUP, PeerId(2), 0, false);
    let lost = change(&mut replica, Promote(PeerId(2)));
    assert_eq!(lost, Err(ProposeError::NotCaughtUp(PeerId(2))), "it would be waited for");
    replica.driver.peer_found(GROUP, PeerId(2));
    accept(&mut replica, 2, 2);
    change(&mut replica, Promote(PeerId(2))).unwrap();
    replica.turn();
    assert_eq!(replica.driver.configuration(GROUP).unwrap().get_voters(), [1, 2]);
}

/// The link is up again, to a node that may have lost its disk: it is not one of those that have everything, so that nobody goes
/// without whom there would be no quorum.
#[test]
fn who_is_back_has_caught_up_once_it_has_answered() {
    let mut replica = Replica::leader();
    accept(&mut replica, 2, 1);
    accept(&mut replica, 3, 1);
    assert!(replica.driver.is_caught_up(GROUP, PeerId(2)));
    replica.driver.peer_lost(GROUP, PeerId(2), 0, false);
    replica.driver.peer_found(GROUP, PeerId(2));
    assert!(!replica.driver.is_caught_up(GROUP, PeerId(2)));
    assert!(replica.driver.is_caught_up(GROUP, PeerId(3)));
    accept(&mut replica, 2, 1);
    assert!(replica.driver.is_caught_up(GROUP, PeerId(2)));
}

/// What it lacks is counted in entries and in bytes.
#[test]
fn a_learner_that_lacks_much_has_not_caught_up() {
    let is_caught_up = |count: usize, payload_bytes: usize| {
        let mut replica = Replica::sole_voter();
        change(&mut replica, AddLearner(PeerId(2))).unwrap();
        replica.turn();
        accept(&mut replica, 2, 2);
        for _ in 0..count {
            let base = replica.driver.log_end_offset(GROUP).unwrap().0;
            let data = batch_bytes(base, 1, 1, payload_bytes);
            replica.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data }).unwrap();
        }
        replica.turn();
        replica.driver.is_caught_up(GROUP, PeerId(2))
    };
    assert!(is_caught_up(1000, 5));
    assert!(!is_caught_up(1100, 5));
    assert!(is_caught_up(3, 1 << 20));
    assert!(!is_caught_up(5, 1 << 20));
}

#[test]
fn a_second_change_waits_for_the_first() {
    let mut replica = Replica::leader();
    change(&mut replica, AddLearner(PeerId(4))).unwrap();
    let early = change(&mut replica, Remove(PeerId(3)));
    assert_eq!(early, Err(ProposeError::ConfigurationBusy));
    accept(&mut replica, 2, 2);
    replica.turn();
    change(&mut replica, Remove(PeerId(3))).unwrap();
}

#[test]
fn a_leader_that_is_to_go_hands_over_first() {
    let mut replica = Replica::leader();
    accept(&mut replica, 3, 1);
    assert_eq!(change(&mut replica, Remove(PeerId(1))), Err(ProposeError::Transferring));
    replica.run();
    let told: Vec<_> = replica.out.messages.iter().map(|outgoing| outgoing.message.get_msg_type()).collect();
    assert_eq!((replica.out.messages[0].to, told), (PeerId(2), vec![MessageType::MsgTimeoutNow]));
    // Nobody to hand over to.
    let mut replica = Replica::leader();
    replica.driver.peer_lost(GROUP, PeerId(2), 0, true);
    replica.driver.peer_lost(GROUP, PeerId(3), 0, true);
    assert_eq!(change(&mut replica, Remove(PeerId(1))), Err(ProposeError::ConfigurationBusy));
    let mut follower = Replica::follower();
    assert_eq!(change(&mut follower, AddLearner(PeerId(4))), Err(ProposeError::NotLeader));
}

/// A joiner has a configuration without itself.
#[test]
fn who_is_no_voter_stands_for_nothing() {
    let mut replica = Replica::joiner();
    replica.driver.tick(0);
    assert!(!replica.driver.campaign(GROUP));
    let mut heartbeat = message(MessageType::MsgHeartbeat, 1);
    heartbeat.to = 4;
    replica.driver.step(PeerId(2), GROUP, heartbeat).unwrap();
    replica.turn();
    replica.driver.peer_lost(GROUP, PeerId(2), 0, true);
    let mut timeout_now = message(MessageType::MsgTimeoutNow, 1);
    timeout_now.to = 4;
    replica.driver.step(PeerId(2), GROUP, timeout_now).unwrap();
    for now_ms in (30..3000).step_by(30) {
        replica.driver.tick(now_ms);
        replica.run();
    }
    assert!(replica.out.messages.is_empty(), "{:?}", replica.out.messages);
    assert!(matches!(replica.driver.leadership(GROUP), Some(Leadership::Unknown { .. })));
}

fn changed(index: u64, kind: ConfChangeType, peer: u64) -> Entry {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = peer;
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(single);
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, 3);
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry.data = change.write_to_bytes().unwrap().into();
    entry
}

/// What led from the founders to the members that a joiner begins with is behind it, as after a snapshot. Applied again, peer 2
/// would be a learner for a while and nobody would vote, or one that has long gone would be back.
#[test]
fn a_joiner_applies_only_changes_after_the_members_it_began_with() {
    use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    // Peers 1 and 3 have made the group; 2 has come, and they have gone: with entry 6, peer 2 is the only member.
    let history =
        [(AddLearnerNode, 2), (AddNode, 2), (RemoveNode, 3), (AddNode, 9), (RemoveNode, 9), (RemoveNode, 1)];
    let later = [(AddLearnerNode, 4), (AddNode, 4)];
    let entries: Vec<Entry> = (1..)
        .zip(history.iter().chain(&later))
        .map(|(index, (kind, peer))| changed(index, *kind, *peer))
        .collect();
    let members = |replica: &Replica| {
        let members = replica.driver.configuration(GROUP).unwrap();
        let mut voters = members.get_voters().to_vec();
        voters.sort_unstable();
        (voters, members.get_learners().to_vec())
    };
    let mut replica = Replica::joiner_of_one(RaftIndex(6));
    let mut seen = Vec::new();
    for entry in entries {
        let index = entry.index;
        let mut message = append(index - 1, if index == 1 { 0 } else { 3 }, vec![entry]);
        (message.to, message.commit) = (4, index);
        replica.step(message).unwrap();
        replica.turn();
        seen.push(members(&replica));
        let expected = index.max(6);
        assert_eq!(replica.driver.state(GROUP).unwrap().configuration_index, RaftIndex(expected));
    }
    let mut expected = vec![(vec![2], vec![]); 6];
    expected.extend([(vec![2], vec![4]), (vec![2, 4], vec![])]);
    assert_eq!(seen, expected);
}
