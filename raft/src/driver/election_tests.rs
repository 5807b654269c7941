//! A replica whose links to its peers break and come back.

use chronik_wal::types::{PeerId, RaftIndex, Term};
use raft::eraftpb::{Message, MessageType};

use bytes::Bytes;

use super::*;
use crate::error::StepError;
use crate::test_replica::{GROUP, Replica, append, entry, message};

/// What it sends to peer 3 at this time.
fn sent_at(replica: &mut Replica, now_ms: u64) -> Vec<MessageType> {
    replica.driver.tick(now_ms);
    replica.run();
    replica.sink.submit();
    if let Some(turn) = replica.sink.complete() {
        replica.driver.on_durable(turn);
    }
    replica.run();
    let sent = replica.out.messages.drain(..).filter(|outgoing| outgoing.to == PeerId(3));
    let kinds = sent.map(|outgoing| outgoing.message.get_msg_type()).collect();
    replica.out.clear();
    kinds
}

fn follower() -> Replica {
    let mut replica = Replica::follower();
    replica.driver.tick(1000);
    replica
}

fn vote_request(kind: MessageType, from: u64, last: (u64, u64)) -> Message {
    let mut request = message(kind, 4);
    request.from = from;
    (request.index, request.log_term) = last;
    request
}

const PRE_VOTE: MessageType = MessageType::MsgRequestPreVote;

#[test]
fn the_first_in_line_stands_at_once_when_the_leaders_process_is_gone() {
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 0, true);
    assert_eq!(replica.driver.next_wake_ms(), Some(1000));
    assert_eq!(sent_at(&mut replica, 1000), [PRE_VOTE]);
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Unknown { term: Term(3) }));
    // The other had not noticed yet and said nothing: tried again soon, not an election timeout later.
    assert_eq!(sent_at(&mut replica, 1014), []);
    assert_eq!(sent_at(&mut replica, 1024), [PRE_VOTE]);
    let mut granted = message(MessageType::MsgRequestPreVoteResponse, 4);
    granted.from = 3;
    replica.step(granted).unwrap();
    assert_eq!(sent_at(&mut replica, 1030), [MessageType::MsgRequestVote]);
    let mut vote = message(MessageType::MsgRequestVoteResponse, 4);
    vote.from = 3;
    replica.step(vote).unwrap();
    assert_eq!(sent_at(&mut replica, 1040), [MessageType::MsgAppend]);
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Elected { term: Term(4) }));
    assert_eq!(sent_at(&mut replica, 1090), [], "no more tries");
    assert_eq!(replica.driver.counters().elections_begun, 2);
}

#[test]
fn the_second_in_line_waits_and_votes_at_once() {
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 1, true);
    assert_eq!(sent_at(&mut replica, 1050), []);
    // Without the loss the lease of the leader would hold and nothing would be answered.
    replica.step(vote_request(PRE_VOTE, 3, (2, 3))).unwrap();
    assert_eq!(sent_at(&mut replica, 1060), [MessageType::MsgRequestPreVoteResponse]);
    replica.step(vote_request(MessageType::MsgRequestVote, 3, (2, 3))).unwrap();
    assert_eq!(sent_at(&mut replica, 1070), [MessageType::MsgRequestVoteResponse]);
    // A candidate as good as this puts its own election off.
    assert_eq!(sent_at(&mut replica, 1120), []);
    assert_eq!(sent_at(&mut replica, 1180), [PRE_VOTE]);
}

#[test]
fn without_the_loss_the_lease_holds() {
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(3), 0, true);
    replica.step(vote_request(PRE_VOTE, 3, (2, 3))).unwrap();
    assert_eq!(sent_at(&mut replica, 1010), [], "a follower's loss ends no lease");
    let leader = Leadership::Follower { leader: PeerId(2), term: Term(3) };
    assert_eq!(replica.driver.leadership(GROUP), Some(leader));
}

#[test]
fn whoever_has_more_of_the_log_than_the_candidate_stands_itself() {
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 1, true);
    replica.step(vote_request(PRE_VOTE, 3, (1, 3))).unwrap();
    assert_eq!(sent_at(&mut replica, 1001), [MessageType::MsgRequestPreVoteResponse, PRE_VOTE]);
}

#[test]
fn words_of_a_leader_that_is_gone_renew_nothing() {
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 1, true);
    replica.step(append(2, 3, vec![entry(3, 3, 2)])).unwrap();
    assert_eq!(sent_at(&mut replica, 1010), []);
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Unknown { term: Term(3) }));
    replica.step(vote_request(PRE_VOTE, 3, (3, 3))).unwrap();
    assert_eq!(sent_at(&mut replica, 1020), [MessageType::MsgRequestPreVoteResponse]);
}

#[test]
fn a_leader_of_which_only_the_link_is_down_is_given_a_moment() {
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 0, false);
    assert_eq!(sent_at(&mut replica, 1029), []);
    assert_eq!(sent_at(&mut replica, 1030), [PRE_VOTE]);

    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 0, false);
    let mut heard_ms = 1000;
    while heard_ms < 1500 {
        heard_ms += 20;
        replica.step(message(MessageType::MsgHeartbeat, 3)).unwrap();
        assert_eq!(sent_at(&mut replica, heard_ms), [], "it lives");
    }
    assert_eq!(sent_at(&mut replica, heard_ms + 120), [PRE_VOTE], "and now it does not");

    // Closed first, refused a moment later.
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 0, false);
    replica.driver.peer_lost(GROUP, PeerId(2), 0, true);
    assert_eq!(sent_at(&mut replica, 1000), [PRE_VOTE]);
}

#[test]
fn a_link_that_comes_back_with_the_leader_calls_the_election_off() {
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 1, false);
    replica.driver.peer_found(GROUP, PeerId(2));
    replica.step(message(MessageType::MsgHeartbeat, 3)).unwrap();
    assert_eq!(sent_at(&mut replica, 1190), []);
    // A leader that came back as a new process says nothing of the kind.
    let mut replica = follower();
    replica.driver.peer_lost(GROUP, PeerId(2), 1, true);
    replica.driver.peer_found(GROUP, PeerId(2));
    assert_eq!(sent_at(&mut replica, 1190), [PRE_VOTE]);
}

#[test]
fn a_leader_that_lost_its_quorum_steps_down_within_an_election_timeout() {
    let mut replica = Replica::leader();
    replica.driver.tick(1000);
    for now_ms in [1100, 1200, 1250] {
        for from in [2, 3] {
            let mut answer = message(MessageType::MsgHeartbeatResponse, 1);
            answer.from = from;
            replica.step(answer).unwrap();
        }
        replica.driver.tick(now_ms);
    }
    for peer in [2, 3] {
        replica.driver.peer_lost(GROUP, PeerId(peer), 0, true);
        let mut late = message(MessageType::MsgHeartbeatResponse, 1);
        late.from = peer;
        replica.step(late).unwrap();
    }
    (1280..=1560).step_by(10).for_each(|now_ms| replica.driver.tick(now_ms));
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Unknown { term: Term(1) }));
}

/// The first replica of a new group stands for election before the others have the group.
#[test]
fn an_election_asked_for_is_tried_again_soon() {
    let mut replica = Replica::new();
    replica.driver.tick(1000);
    assert!(replica.driver.campaign(GROUP));
    assert_eq!(sent_at(&mut replica, 1000), [PRE_VOTE]);
    assert_eq!(sent_at(&mut replica, 1014), []);
    assert_eq!(sent_at(&mut replica, 1024), [PRE_VOTE]);
    let mut heartbeat = message(MessageType::MsgHeartbeat, 3);
    heartbeat.from = 3;
    replica.step(heartbeat).unwrap();
    assert_eq!(sent_at(&mut replica, 1200), [], "somebody leads");
    assert_eq!(replica.driver.next_wake_ms(), Some(1210), "the next tick");
}

#[test]
fn a_transfer_to_a_lost_peer_is_given_up() {
    let mut replica = Replica::leader();
    replica.driver.tick(1000);
    assert!(replica.driver.transfer_leader(GROUP, PeerId(3)));
    replica.driver.peer_lost(GROUP, PeerId(3), 0, false);
    let data = crate::test_support::batch_bytes(0, 1, 1, 5);
    let proposal = Proposal { kind: chronik_wal::entry::EntryKind::Batch, data };
    assert!(replica.driver.propose(GROUP, proposal).is_ok());
}

/// A tick, and the votes of peer 3 for whoever stands then; how many that are.
fn stand_and_win(replica: &mut Replica, now_ms: u64) -> u64 {
    replica.driver.tick(now_ms);
    replica.run();
    let sent = replica.out.messages.drain(..).filter(|outgoing| outgoing.to == PeerId(3));
    let groups: Vec<GroupId> = sent.map(|outgoing| outgoing.group).collect();
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        for group in &groups {
            let mut vote = message(kind, 4);
            vote.from = 3;
            assert_eq!(replica.driver.step(PeerId(3), *group, vote), Ok(()));
        }
        replica.turn();
    }
    groups.len() as u64
}

/// A node that led thousands of groups is lost: elections begin in order, a bounded number a tick.
#[test]
fn a_storm_of_elections_is_bounded() {
    const GROUPS: u64 = 1000;
    let mut replica = Replica::new();
    let voters = vec![PeerId(1), PeerId(2), PeerId(3)];
    for id in 2..=GROUPS {
        let new = NewGroup {
            group: GroupId(id),
            peer: PeerId(1),
            voters: voters.clone(),
            configuration_index: RaftIndex(0),
            snapshot_data: Bytes::new(),
        };
        replica.driver.create_group(new, &mut replica.sink).unwrap();
    }
    replica.turn();
    replica.driver.tick(1000);
    for id in 1..=GROUPS {
        let result: Result<(), StepError> =
            replica.driver.step(PeerId(2), GroupId(id), message(MessageType::MsgHeartbeat, 3));
        assert_eq!(result, Ok(()));
    }
    replica.turn();
    for id in 1..=GROUPS {
        replica.driver.peer_lost(GroupId(id), PeerId(2), 0, true);
    }
    let mut begun = 0;
    let mut now_ms = 1000;
    while begun < GROUPS {
        let stand = stand_and_win(&mut replica, now_ms);
        assert!((1..=256).contains(&stand), "{stand} at a time");
        begun += stand;
        now_ms += 5;
    }
    assert!(now_ms < 1050, "{now_ms}: the more succeed the more are admitted");
    assert_eq!(begun, GROUPS);
    for id in 2..=GROUPS {
        replica.driver.remove_group(GroupId(id), &mut replica.sink);
    }
    assert!(replica.driver.elections.len() <= 1);
}

/// Votes that nobody answers do not lead to more and more votes.
#[test]
fn elections_that_are_not_answered_become_few() {
    let mut replica = Replica::new();
    let voters = vec![PeerId(1), PeerId(2), PeerId(3)];
    for id in 2..=1000 {
        let (group, voters) = (GroupId(id), voters.clone());
        let new = NewGroup {
            group,
            peer: PeerId(1),
            voters,
            configuration_index: RaftIndex(0),
            snapshot_data: Bytes::new(),
        };
        replica.driver.create_group(new, &mut replica.sink).unwrap();
    }
    replica.turn();
    let mut sent_in_the_last_second = 0;
    for now_ms in (0..5000).step_by(30) {
        let sent = sent_at(&mut replica, now_ms).len();
        sent_in_the_last_second += if now_ms >= 4000 { sent } else { 0 };
    }
    assert!((60..200).contains(&sent_in_the_last_second), "{sent_in_the_last_second}");
}
