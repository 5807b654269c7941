//! A follower without room, and a leader that hears of one.

use chronik_wal::entry::EntryKind;
use chronik_wal::types::{PeerId, RaftIndex};
use raft::eraftpb::{Message, MessageType};

use super::memory::SHORT;
use super::*;
use crate::test_replica::{GROUP, Replica, append, entry, message};
use crate::test_support::batch_bytes;

const NONE: Room = Room { bytes: 0, takes_one: false };

fn follow(replica: &mut Replica, message: Message, room: Room) {
    replica.driver.step_within(PeerId(message.from), GROUP, message, room).unwrap();
}

fn last(replica: &Replica) -> u64 {
    replica.driver.last_index(GROUP).unwrap().0
}

/// What it says to a peer when all that it wrote is on disk.
fn answers(replica: &mut Replica, to: u64) -> Vec<Message> {
    replica.run();
    replica.sink.submit();
    if let Some(turn) = replica.sink.complete() {
        replica.driver.on_durable(turn);
    }
    replica.run();
    let sent = replica.out.messages.drain(..).chain(replica.out.heartbeats.drain(..));
    let answers =
        sent.filter(|outgoing| outgoing.to == PeerId(to)).map(|outgoing| outgoing.message).collect();
    replica.out.clear();
    answers
}

fn entry_bytes() -> u64 {
    (entry(3, 3, 2).data.len() + chronik_wal::tail::ENTRY_OVERHEAD_BYTES) as u64
}

#[test]
fn a_follower_takes_what_it_has_room_for_and_says_so() {
    let mut replica = Replica::follower();
    let three = || append(2, 3, vec![entry(3, 3, 2), entry(4, 3, 3), entry(5, 3, 4)]);
    let before = replica.driver.tail_bytes();
    follow(&mut replica, three(), Room { bytes: 2 * entry_bytes() + 1, takes_one: false });
    assert_eq!(last(&replica), 4);
    assert_eq!(replica.driver.taken_bytes() as u64, 2 * entry_bytes());
    assert!(replica.driver.awaits_turn() && replica.driver.is_short());
    let accepted = answers(&mut replica, 2).remove(0);
    assert_eq!((accepted.index, accepted.reject, accepted.commit_term), (4, false, SHORT));
    assert_eq!(replica.driver.taken_bytes(), 0);
    assert_eq!((replica.driver.tail_bytes() - before) as u64, 2 * entry_bytes());
    assert!(!replica.driver.awaits_turn());

    // Nothing fits: the message says what it says of commits all the same.
    let mut rest = append(4, 3, vec![entry(5, 3, 4)]);
    rest.commit = 4;
    follow(&mut replica, rest.clone(), NONE);
    assert_eq!((last(&replica), replica.driver.commit(GROUP)), (4, Some(RaftIndex(4))));
    let accepted = answers(&mut replica, 2).remove(0);
    assert_eq!((accepted.index, accepted.reject, accepted.commit_term), (4, false, SHORT));
    follow(&mut replica, message(MessageType::MsgHeartbeat, 3), NONE);
    assert_eq!(answers(&mut replica, 2).remove(0).commit_term, SHORT);

    replica.driver.room_again();
    follow(&mut replica, message(MessageType::MsgHeartbeat, 3), NONE);
    assert_eq!(answers(&mut replica, 2).remove(0).commit_term, 0);
    follow(&mut replica, rest, Room { bytes: 0, takes_one: true });
    assert_eq!(last(&replica), 5, "one entry passes whatever its size");
    assert_eq!(answers(&mut replica, 2).remove(0).commit_term, 0);
    assert_eq!(replica.driver.counters().appends_cut, 2);
}

#[test]
fn what_a_follower_has_already_takes_no_room() {
    let mut replica = Replica::follower();
    follow(&mut replica, append(1, 3, vec![entry(2, 3, 1), entry(3, 3, 2)]), NONE);
    let accepted = answers(&mut replica, 2).remove(0);
    assert_eq!((accepted.index, accepted.reject), (2, false), "its leader learns of what is here");
    // Other entries in the place of these do.
    let mut other = append(1, 3, vec![entry(2, 4, 1), entry(3, 4, 2)]);
    other.term = 4;
    follow(&mut replica, other, Room { bytes: entry_bytes(), takes_one: false });
    assert_eq!(answers(&mut replica, 2).remove(0).index, 2);
    assert_eq!(replica.driver.term(GROUP, RaftIndex(2)), Some(Term(4)));
}

#[test]
fn little_of_a_large_message_does_not_keep_the_whole_of_it() {
    let mut replica = Replica::follower();
    let whole = bytes::Bytes::from([&entry(3, 3, 2).data[..], &entry(4, 3, 3).data, &[0; 999]].concat());
    let size = entry(3, 3, 2).data.len();
    let mut entries = vec![entry(3, 3, 2), entry(4, 3, 3), entry(5, 3, 4)];
    entries[0].data = whole.slice(..size);
    entries[1].data = whole.slice(size..2 * size);
    follow(&mut replica, append(2, 3, entries), Room { bytes: entry_bytes(), takes_one: false });
    replica.turn();
    assert!(whole.is_unique(), "nothing refers to it any more");
    assert_eq!(last(&replica), 3);
}

#[test]
fn tails_are_counted_by_who_leads() {
    let mut leader = Replica::leader();
    assert!(leader.driver.tail_bytes() > 0);
    assert_eq!(leader.driver.led_bytes(), leader.driver.tail_bytes());
    leader.step(message(MessageType::MsgHeartbeat, 5)).unwrap();
    leader.turn();
    assert_eq!(leader.driver.led_bytes(), 0, "another leads");
    assert!(leader.driver.tail_bytes() > 0);
    let follower = Replica::follower();
    assert_eq!(follower.driver.led_bytes(), 0);
}

#[test]
fn a_group_that_goes_takes_what_it_is_counted_for_along() {
    let mut replica = Replica::follower();
    follow(
        &mut replica,
        append(2, 3, vec![entry(3, 3, 2), entry(4, 3, 3)]),
        Room { bytes: entry_bytes(), takes_one: false },
    );
    assert!(replica.driver.remove_group(GROUP, &mut replica.sink));
    assert_eq!((replica.driver.tail_bytes(), replica.driver.taken_bytes()), (0, 0));
    assert!(!replica.driver.is_short());
}

/// Whom it sends entries to, how many messages.
fn sends(replica: &mut Replica, to: u64) -> usize {
    let has_entries = |message: &&Message| !message.entries.is_empty();
    answers(replica, to).iter().filter(has_entries).count()
}

fn propose(replica: &mut Replica) {
    let base = replica.driver.log_end_offset(GROUP).unwrap().0;
    let data = batch_bytes(base, 1, 1, 5);
    replica.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data }).unwrap();
}

fn answer(kind: MessageType, index: u64, commit_term: u64) -> Message {
    let mut answer = message(kind, 1);
    answer.from = 3;
    (answer.index, answer.commit_term) = (index, commit_term);
    answer
}

#[test]
fn a_leader_sends_no_entries_to_a_follower_without_room() {
    let mut leader = Replica::leader();
    leader.step(answer(MessageType::MsgAppendResponse, 1, 0)).unwrap();
    propose(&mut leader);
    propose(&mut leader);
    assert_eq!(sends(&mut leader, 3), 1);
    leader.step(answer(MessageType::MsgAppendResponse, 2, SHORT)).unwrap();
    assert_eq!(sends(&mut leader, 3), 0);
    for _ in 0..5 {
        propose(&mut leader);
        assert_eq!((sends(&mut leader, 3), leader.driver.commit(GROUP).unwrap().0), (0, 2));
        leader.step(answer(MessageType::MsgHeartbeatResponse, 0, SHORT)).unwrap();
        assert_eq!(sends(&mut leader, 3), 0);
    }
    // It counts for the quorum's contact, as whoever answers.
    leader.driver.tick(1_000);
    leader.step(answer(MessageType::MsgHeartbeatResponse, 0, SHORT)).unwrap();
    assert!(leader.driver.has_quorum_contact(GROUP, 1_000));
    // There is room: all that it lacks comes at once.
    leader.step(answer(MessageType::MsgHeartbeatResponse, 0, 0)).unwrap();
    let sent = answers(&mut leader, 3);
    assert_eq!(
        sent.iter().map(|message| (message.index, message.entries.len())).collect::<Vec<_>>(),
        [(2, 6)]
    );
    leader.step(answer(MessageType::MsgAppendResponse, 8, 0)).unwrap();
    propose(&mut leader);
    assert_eq!(sends(&mut leader, 3), 1);
}

/// What was refused is not lost: a leader that never hears the word finds out by itself, and one that hears it late too.
#[test]
fn a_follower_that_refused_is_sent_the_same_again() {
    let mut leader = Replica::leader();
    leader.step(answer(MessageType::MsgAppendResponse, 1, 0)).unwrap();
    propose(&mut leader);
    assert_eq!(sends(&mut leader, 3), 1);
    leader.step(answer(MessageType::MsgAppendResponse, 1, SHORT)).unwrap();
    assert_eq!(sends(&mut leader, 3), 0);
    for _ in 0..3 {
        leader.step(answer(MessageType::MsgHeartbeatResponse, 0, 0)).unwrap();
        assert_eq!(sends(&mut leader, 3), 1);
    }
    // Of a member that is none, or of another term, the word means nothing.
    let mut stranger = answer(MessageType::MsgHeartbeatResponse, 0, SHORT);
    stranger.from = 7;
    assert!(leader.step(stranger).is_err());
}
