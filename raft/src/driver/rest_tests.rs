//! A replica that goes to rest and is woken, message by message.

use bytes::Bytes;
use chronik_wal::entry::EntryKind;
use chronik_wal::types::{PeerId, RaftIndex, Term};
use raft::eraftpb::{Message, MessageType};

use super::*;
use crate::test_replica::{GROUP, Replica, append, entry, message};
use crate::test_support::batch_bytes;

/// A leader whose followers match; its clock stands at 0.
fn leader() -> Replica {
    let mut replica = Replica::leader();
    let mut accept = answer(MessageType::MsgAppendResponse, 3);
    accept.index = 1;
    replica.step(accept).unwrap();
    replica.driver.tick(0);
    replica.turn();
    replica
}

fn answer(kind: MessageType, from: u64) -> Message {
    let mut answer = message(kind, 1);
    (answer.from, answer.commit) = (from, 1);
    answer
}

fn rests(from: u64, round: u64) -> Message {
    let mut rests = answer(MessageType::MsgHeartbeatResponse, from);
    (rests.reject, rests.index) = (true, round);
    rests
}

/// Ticks until it offers, and gives the round.
fn offer(replica: &mut Replica, now_ms: &mut u64) -> u64 {
    loop {
        *now_ms += 30;
        replica.driver.tick(*now_ms);
        replica.run();
        let offers: Vec<Message> =
            replica.out.heartbeats.drain(..).map(|outgoing| outgoing.message).collect();
        for from in [2, 3] {
            replica.step(answer(MessageType::MsgHeartbeatResponse, from)).unwrap();
        }
        if let Some(offer) = offers.iter().find(|offer| offer.reject) {
            assert!(
                offers.len() == 2 && offers.iter().all(|other| other.reject && other.index == offer.index)
            );
            return offer.index;
        }
        assert!(*now_ms < 3000, "no offer");
    }
}

fn resting_leader(now_ms: &mut u64) -> Replica {
    let mut replica = leader();
    let round = offer(&mut replica, now_ms);
    replica.step(rests(2, round)).unwrap();
    assert!(!replica.driver.is_resting(GROUP), "one is awake still");
    replica.step(rests(3, round)).unwrap();
    assert!(replica.driver.is_resting(GROUP));
    replica.turn();
    replica
}

#[test]
fn a_leader_rests_once_all_its_followers_do() {
    let mut now_ms = 0;
    let mut replica = resting_leader(&mut now_ms);
    assert_eq!(replica.driver.next_wake_ms(), None);
    let before = *replica.driver.counters();
    replica.driver.tick(now_ms + 60_000);
    replica.run();
    assert!(replica.out.heartbeats.is_empty());
    assert_eq!(*replica.driver.counters(), before, "nothing is done");
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Leader { term: Term(1) }));
}

#[test]
fn answers_to_an_earlier_offer_do_not_count() {
    let mut now_ms = 0;
    let mut replica = leader();
    let first = offer(&mut replica, &mut now_ms);
    replica.step(rests(2, first)).unwrap();
    replica.driver.report_unreachable(GROUP, PeerId(3));
    let second = offer(&mut replica, &mut now_ms);
    assert_ne!(first, second);
    replica.step(rests(2, first)).unwrap();
    replica.step(rests(3, second)).unwrap();
    assert!(!replica.driver.is_resting(GROUP), "2 rested in the first round only");
    replica.step(rests(2, second)).unwrap();
    assert!(replica.driver.is_resting(GROUP));
}

#[test]
fn a_leader_with_a_follower_that_lacks_something_does_not_rest() {
    let mut replica = Replica::leader();
    replica.driver.tick(0);
    for now_ms in (30..1500).step_by(30) {
        replica.driver.tick(now_ms);
        replica.run();
        assert!(replica.out.heartbeats.drain(..).all(|outgoing| !outgoing.message.reject));
        for from in [2, 3] {
            replica.step(answer(MessageType::MsgHeartbeatResponse, from)).unwrap();
        }
    }
}

#[test]
fn a_lost_follower_is_not_waited_for_but_a_quorum_is() {
    let mut now_ms = 0;
    let mut replica = resting_leader(&mut now_ms);
    replica.driver.peer_lost(GROUP, PeerId(3), 0, true);
    assert!(!replica.driver.is_resting(GROUP), "a loss wakes");
    let round = offer(&mut replica, &mut now_ms);
    replica.step(rests(2, round)).unwrap();
    assert!(replica.driver.is_resting(GROUP));
    replica.driver.peer_found(GROUP, PeerId(3));
    assert!(!replica.driver.is_resting(GROUP), "so does its return");
    replica.driver.peer_lost(GROUP, PeerId(3), 0, true);
    replica.driver.peer_lost(GROUP, PeerId(2), 0, true);
    let round = offer(&mut replica, &mut now_ms);
    replica.step(rests(2, round + 1)).unwrap();
    assert!(!replica.driver.is_resting(GROUP), "alone it is no quorum");
}

#[test]
fn a_resting_leader_is_woken_by_work_and_by_members() {
    type Event = fn(&mut Replica);
    let events: [(&str, Event); 5] = [
        ("proposal", |replica| {
            let data = batch_bytes(0, 1, 1, 5);
            replica.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data }).unwrap();
        }),
        ("transfer", |replica| assert!(replica.driver.transfer_leader(GROUP, PeerId(2)))),
        ("pre-vote", |replica| {
            replica.step(message(MessageType::MsgRequestPreVote, 2)).unwrap();
        }),
        ("answer", |replica| replica.step(answer(MessageType::MsgHeartbeatResponse, 2)).unwrap()),
        ("question", |replica| assert!(replica.driver.ask_quorum(GROUP))),
    ];
    for (name, event) in events {
        let mut now_ms = 0;
        let mut replica = resting_leader(&mut now_ms);
        event(&mut replica);
        assert!(!replica.driver.is_resting(GROUP), "{name}");
        // The time at rest does not count: it leads on.
        replica.driver.tick(now_ms + 60_000);
        replica.turn();
        let leadership = replica.driver.leadership(GROUP);
        assert_eq!(leadership, Some(Leadership::Leader { term: Term(1) }), "{name}");
    }
    let mut replica = resting_leader(&mut 0);
    let mut stranger = message(MessageType::MsgRequestPreVote, 2);
    stranger.from = 9;
    replica.step(stranger).unwrap();
    assert!(replica.driver.is_resting(GROUP), "who is no member wakes nobody");
}

#[test]
fn a_leader_deposed_at_rest_follows() {
    let mut replica = resting_leader(&mut 0);
    let mut heartbeat = message(MessageType::MsgHeartbeat, 2);
    heartbeat.from = 3;
    replica.step(heartbeat).unwrap();
    assert!(!replica.driver.is_resting(GROUP));
    let follower = Leadership::Follower { leader: PeerId(3), term: Term(2) };
    assert_eq!(replica.driver.leadership(GROUP), Some(follower));
}

/// A follower of peer 2 in term 3 whose log of two entries is committed and applied.
fn follower() -> Replica {
    let mut replica = Replica::follower();
    let mut heartbeat = message(MessageType::MsgHeartbeat, 3);
    heartbeat.commit = 2;
    replica.step(heartbeat).unwrap();
    replica.turn();
    replica.driver.tick(0);
    replica
}

fn offered(commit: u64, round: u64) -> Message {
    let mut offered = message(MessageType::MsgHeartbeat, 3);
    (offered.commit, offered.reject, offered.index) = (commit, true, round);
    offered
}

#[test]
fn a_follower_rests_when_offered_and_says_so() {
    let mut replica = follower();
    replica.step(offered(2, 7)).unwrap();
    assert!(replica.driver.is_resting(GROUP));
    replica.run();
    let said: Vec<Message> = replica.out.heartbeats.drain(..).map(|outgoing| outgoing.message).collect();
    assert!(said.len() == 1 && said[0].reject && said[0].index == 7, "{said:?}");
    replica.driver.tick(60_000);
    replica.run();
    assert!(replica.out.messages.is_empty(), "it stands for nothing");
    assert_eq!(replica.driver.next_wake_ms(), None);
    // Offered again, it says so again.
    replica.step(offered(2, 8)).unwrap();
    replica.run();
    assert!(replica.driver.is_resting(GROUP) && replica.out.heartbeats[0].message.index == 8);
}

#[test]
fn a_follower_whose_log_is_another_does_not_rest() {
    // An entry above what the leader has committed: the append overtook the offer.
    let mut replica = follower();
    replica.step(append(2, 3, vec![entry(3, 3, 2)])).unwrap();
    replica.turn();
    replica.step(offered(2, 1)).unwrap();
    assert!(!replica.driver.is_resting(GROUP));
    replica.run();
    assert!(replica.out.heartbeats.iter().all(|outgoing| !outgoing.message.reject), "and does not say so");
    // Committed by this very offer, not yet applied.
    let mut replica = Replica::follower();
    replica.step(offered(2, 1)).unwrap();
    assert!(!replica.driver.is_resting(GROUP));
    replica.turn();
    replica.step(offered(2, 1)).unwrap();
    assert!(replica.driver.is_resting(GROUP), "applied now");
    // An offer of an old term.
    let mut replica = follower();
    let mut old = offered(2, 1);
    old.term = 2;
    replica.step(old).unwrap();
    assert!(!replica.driver.is_resting(GROUP));
}

#[test]
fn a_resting_follower_keeps_to_its_leader_while_that_can_be_reached() {
    let mut replica = follower();
    replica.step(offered(2, 1)).unwrap();
    replica.turn();
    let mut candidate = message(MessageType::MsgRequestPreVote, 4);
    (candidate.from, candidate.index, candidate.log_term) = (3, 2, 3);
    replica.step(candidate.clone()).unwrap();
    replica.run();
    assert!(replica.out.messages.is_empty(), "no vote");
    assert!(replica.driver.is_resting(GROUP));
    replica.driver.peer_lost(GROUP, PeerId(3), 0, true);
    assert!(replica.driver.is_resting(GROUP), "another follower's loss is the leader's affair");
    replica.driver.peer_lost(GROUP, PeerId(2), 1, true);
    assert!(!replica.driver.is_resting(GROUP));
    replica.step(candidate).unwrap();
    replica.run();
    assert_eq!(replica.out.messages[0].message.get_msg_type(), MessageType::MsgRequestPreVoteResponse);
}

/// It stood still after its offer, found its quorum silent, and leads no more; its links have held.
#[test]
fn a_resting_follower_is_woken_when_its_leader_asks_for_votes() {
    let mut replica = follower();
    replica.step(offered(2, 1)).unwrap();
    replica.turn();
    let mut candidate = message(MessageType::MsgRequestPreVote, 4);
    (candidate.index, candidate.log_term) = (2, 3);
    assert_eq!(candidate.from, 2, "from the leader");
    replica.step(candidate.clone()).unwrap();
    assert!(!replica.driver.is_resting(GROUP));
    let grants = |now_ms: u64| {
        replica.driver.tick(now_ms);
        replica.step(candidate.clone()).unwrap();
        replica.run();
        let said = replica.out.messages.drain(..).map(|outgoing| outgoing.message);
        said.into_iter().any(|m| m.get_msg_type() == MessageType::MsgRequestPreVoteResponse && !m.reject)
    };
    assert!((30..=900).step_by(30).any(grants), "within three election timeouts");
}

#[test]
fn a_resting_follower_is_woken_by_its_leaders_work() {
    let plain = message(MessageType::MsgHeartbeat, 3);
    for wakes in [plain, append(2, 3, vec![entry(3, 3, 2)]), offered(1, 2)] {
        let mut replica = follower();
        replica.step(offered(2, 1)).unwrap();
        replica.turn();
        replica.step(wakes).unwrap();
        assert!(!replica.driver.is_resting(GROUP));
        // An hour at rest is no hour of silence.
        replica.driver.tick(3_600_000);
        replica.driver.tick(3_600_030);
        replica.run();
        assert!(replica.out.messages.iter().all(|outgoing| outgoing.to == PeerId(2)), "no election");
    }
}

#[test]
fn contact_with_the_quorum_is_by_its_answers() {
    let mut now_ms = 0;
    let mut replica = resting_leader(&mut now_ms);
    assert!(replica.driver.has_quorum_contact(GROUP, now_ms));
    now_ms += 10_000;
    assert!(!replica.driver.has_quorum_contact(GROUP, now_ms), "rest is no contact");
    replica.driver.tick(now_ms);
    replica.driver.ask_quorum(GROUP);
    replica.run();
    let questions = std::mem::take(&mut replica.out.messages);
    assert_eq!(questions.len(), 2, "asked at once");
    assert!(!replica.driver.ask_quorum(GROUP), "one question at a time");
    // What was under way since before, perhaps while this process stood still, says nothing of now.
    for kind in [MessageType::MsgHeartbeatResponse, MessageType::MsgAppendResponse] {
        replica.step(answer(kind, 2)).unwrap();
        replica.step(answer(kind, 3)).unwrap();
    }
    replica.run();
    assert!(replica.out.contacts.is_empty());
    let mut answered = answer(MessageType::MsgHeartbeatResponse, 3);
    answered.context = questions[0].message.context.clone();
    replica.step(answered.clone()).unwrap();
    replica.run();
    assert_eq!(replica.out.contacts, [GROUP]);
    assert!(replica.driver.has_quorum_contact(GROUP, now_ms + 299));
    assert!(!replica.driver.has_quorum_contact(GROUP, now_ms + 300));
    replica.out.contacts.clear();
    assert!(replica.driver.ask_quorum(GROUP), "another question");
    replica.step(answered).unwrap();
    replica.run();
    assert!(replica.out.contacts.is_empty(), "an answer to the one before");
    let mut sole = Replica::sole_voter();
    assert!(sole.driver.has_quorum_contact(GROUP, 5_000), "alone it is the quorum");
    sole.driver.ask_quorum(GROUP);
    sole.run();
    assert_eq!(sole.out.contacts, [GROUP]);
    assert!(!Replica::follower().driver.has_quorum_contact(GROUP, 0));
}

/// Three thousand groups of three led here, with all followers answering, come to rest and cost nothing.
#[test]
fn thousands_of_resting_groups_cost_nothing() {
    const GROUPS: u64 = 3000;
    let mut replica = leader();
    let voters = vec![PeerId(1), PeerId(2), PeerId(3)];
    for id in 2..=GROUPS {
        let (voters, snapshot_data) = (voters.clone(), Bytes::new());
        let new = NewGroup {
            group: GroupId(id),
            peer: PeerId(1),
            voters,
            configuration_index: RaftIndex(0),
            snapshot_data,
        };
        replica.driver.create_group(new, &mut replica.sink).unwrap();
        replica.driver.campaign(GroupId(id));
    }
    let mut now_ms = 0;
    while replica.driver.resting_count() < usize::try_from(GROUPS).unwrap() {
        now_ms += 30;
        assert!(now_ms < 3000, "{} rest", replica.driver.resting_count());
        replica.driver.tick(now_ms);
        replica.run();
        replica.sink.submit();
        if let Some(turn) = replica.sink.complete() {
            replica.driver.on_durable(turn);
        }
        replica.run();
        let outgoing = replica.out.messages.drain(..).chain(replica.out.heartbeats.drain(..));
        for outgoing in outgoing.collect::<Vec<_>>() {
            let answer = answer_of(&outgoing.message);
            replica.driver.step(outgoing.to, outgoing.group, answer).unwrap();
        }
        replica.out.clear();
    }
    replica.run();
    let before = *replica.driver.counters();
    for later_ms in (now_ms..now_ms + 60_000).step_by(10) {
        replica.driver.tick(later_ms);
        replica.run();
    }
    assert_eq!(*replica.driver.counters(), before);
    assert_eq!(replica.driver.next_wake_ms(), None);
}

/// What a follower says that agrees with everything.
fn answer_of(asked: &Message) -> Message {
    use MessageType::{
        MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgRequestPreVote,
        MsgRequestPreVoteResponse, MsgRequestVote, MsgRequestVoteResponse,
    };
    let kind = match asked.get_msg_type() {
        MsgAppend => MsgAppendResponse,
        MsgHeartbeat => MsgHeartbeatResponse,
        MsgRequestPreVote => MsgRequestPreVoteResponse,
        MsgRequestVote => MsgRequestVoteResponse,
        kind => panic!("{kind:?}"),
    };
    let mut answer = message(kind, asked.term);
    (answer.from, answer.commit, answer.reject) = (asked.to, asked.commit, asked.reject);
    answer.index = asked.index + asked.entries.len() as u64;
    answer
}
