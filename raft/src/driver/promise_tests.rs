//! What a replica promises, and when: each test here is one order of steps that a crash would punish.

use chronik_wal::entry::EntryKind;
use chronik_wal::types::{KafkaOffset, PeerId, RaftIndex, Term};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, MessageType};

use super::*;
use crate::error::ProposeError;
use crate::test_replica::{GROUP, Replica, append, entry, message, snapshot};
use crate::test_support::batch_bytes;

fn change(kind: ConfChangeType, peer: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = peer;
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(single);
    change
}

fn sent(replica: &mut Replica) -> Vec<MessageType> {
    replica.run();
    replica.out.messages.drain(..).map(|outgoing| outgoing.message.get_msg_type()).collect()
}

#[test]
fn a_follower_acknowledges_only_what_is_durable() {
    let mut replica = Replica::follower();
    let third = || append(2, 3, vec![entry(3, 3, 2)]);
    replica.step(third()).unwrap();
    assert!(sent(&mut replica).is_empty(), "entry 3 is not durable yet");
    replica.sink.submit().unwrap();
    // The same again asks nothing of the disk, and yet its answer may not overtake the first.
    replica.step(third()).unwrap();
    assert!(sent(&mut replica).is_empty(), "entry 3 is still not durable");
    let turn = replica.sink.complete().unwrap();
    replica.driver.on_durable(turn);
    assert_eq!(sent(&mut replica), [MessageType::MsgAppendResponse; 2]);
}

/// Were it to wait, a disk that stalls for an election timeout would cost a leader its quorum, and gain nothing.
#[test]
fn an_answer_to_a_heartbeat_waits_for_no_entry() {
    let mut replica = Replica::follower();
    replica.step(append(2, 3, vec![entry(3, 3, 2)])).unwrap();
    assert!(sent(&mut replica).is_empty(), "entry 3 is not durable yet");
    replica.step(message(MessageType::MsgHeartbeat, 3)).unwrap();
    replica.run();
    let answers: Vec<_> = replica.out.heartbeats.drain(..).map(|outgoing| outgoing.message).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((answers[0].get_msg_type(), answers[0].term), (MessageType::MsgHeartbeatResponse, 3));
    assert!(replica.out.messages.is_empty(), "the entry is still not durable");
}

#[test]
fn an_answer_to_a_heartbeat_waits_for_its_term() {
    let mut replica = Replica::follower();
    replica.step(message(MessageType::MsgHeartbeat, 9)).unwrap();
    replica.run();
    assert!(replica.out.heartbeats.is_empty(), "term 9 is not durable yet");
    replica.sink.submit().unwrap();
    let turn = replica.sink.complete().unwrap();
    replica.driver.on_durable(turn);
    replica.run();
    let answers: Vec<_> = replica.out.heartbeats.drain(..).map(|outgoing| outgoing.message.term).collect();
    assert_eq!(answers, [9]);
}

#[test]
fn a_vote_leaves_only_when_it_is_durable() {
    let mut replica = Replica::new();
    let mut request = message(MessageType::MsgRequestVote, 5);
    request.commit_term = 0;
    replica.step(request).unwrap();
    assert!(sent(&mut replica).is_empty());
    replica.sink.submit().unwrap();
    assert!(sent(&mut replica).is_empty());
    let turn = replica.sink.complete().unwrap();
    let durable = replica.sink.recover(GROUP, &[]).unwrap().state.hard;
    assert_eq!((durable.term, durable.vote), (Term(5), PeerId(2)));
    replica.driver.on_durable(turn);
    assert_eq!(sent(&mut replica), [MessageType::MsgRequestVoteResponse]);
}

#[test]
fn a_snapshot_also_replaces_the_entries_above_it() {
    let mut replica = Replica::follower();
    replica.step(append(2, 3, vec![entry(3, 3, 2), entry(4, 3, 3)])).unwrap();
    replica.turn();
    let mut other_history = snapshot(2, 7, vec![1, 2, 3]);
    other_history.term = 4;
    other_history.mut_snapshot().mut_metadata().term = 4;
    replica.step(other_history).unwrap();
    replica.turn();
    assert_eq!(replica.driver.last_index(GROUP), Some(RaftIndex(2)));
    let recovered = replica.sink.recover(GROUP, &[]).unwrap();
    assert_eq!(recovered.entries, [], "entries 3 and 4 belong to the log that is gone");
    assert_eq!(recovered.state.log_start.base_offset, KafkaOffset(7));
}

#[test]
fn a_configuration_counts_as_applied_once_it_is_durable() {
    let mut replica = Replica::leader();
    replica.driver.propose_configuration(GROUP, &change(ConfChangeType::AddLearnerNode, 4)).unwrap();
    replica.turn();
    let mut accept = message(MessageType::MsgAppendResponse, 1);
    accept.index = 2;
    replica.step(accept).unwrap();
    replica.run();
    assert_eq!(replica.driver.configuration(GROUP).unwrap().get_learners(), [4], "it is in force");
    let next = change(ConfChangeType::AddLearnerNode, 5);
    assert_eq!(replica.driver.propose_configuration(GROUP, &next), Err(ProposeError::ConfigurationBusy));
    replica.turn();
    replica.driver.propose_configuration(GROUP, &next).unwrap();
}

/// raft-rs makes a sole voter leader on the spot and stops the process if its log is not all durable by then.
#[test]
fn a_sole_voter_that_was_deposed_waits_for_its_disk() {
    let mut replica = Replica::sole_voter();
    replica.driver.propose_configuration(GROUP, &change(ConfChangeType::AddLearnerNode, 2)).unwrap();
    replica.turn();
    replica.turn();
    let term = Term(1);
    let data = batch_bytes(0, 1, 1, 5);
    replica.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data }).unwrap();
    replica.run();
    replica.sink.submit().unwrap();
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Leader { term }));
    replica.step(message(MessageType::MsgHeartbeatResponse, 9)).unwrap();
    replica.run();
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Unknown { term: Term(9) }));
    for _ in 0..4 {
        replica.turn();
    }
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Leader { term: Term(10) }));
    assert_eq!(replica.driver.log_end_offset(GROUP), Some(KafkaOffset(1)), "the batch is still there");
}

#[test]
fn nothing_is_proposed_during_a_transfer_and_it_ends_in_time() {
    let mut replica = Replica::leader();
    replica.driver.tick(0);
    assert!(replica.driver.transfer_leader(GROUP, PeerId(3)));
    let data = batch_bytes(0, 1, 1, 5);
    let batch = || Proposal { kind: EntryKind::Batch, data: data.clone() };
    assert_eq!(replica.driver.propose(GROUP, batch()), Err(ProposeError::Transferring));
    replica.step(message(MessageType::MsgHeartbeatResponse, 1)).unwrap();
    (30..=330).step_by(30).for_each(|now_ms| replica.driver.tick(now_ms));
    assert!(replica.driver.propose(GROUP, batch()).is_ok(), "given up after an election timeout");
}

#[test]
fn a_leader_that_was_asleep_steps_down_before_it_serves() {
    let mut replica = Replica::leader();
    replica.driver.tick(0);
    replica.driver.tick(60_000);
    assert_eq!(replica.driver.leadership(GROUP), Some(Leadership::Unknown { term: Term(1) }));
}
