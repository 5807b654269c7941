//! No message of a peer stops the process: each row of the guard's table by hand, and whatever a generator comes up with.

use bytes::Bytes;
use chronik_wal::types::{GroupId, KafkaOffset};
use raft::eraftpb::EntryType;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::driver::{Driver, DriverConfig, Proposal};
use crate::leadership::Leadership;
use crate::test_replica::{GROUP, Replica, append, entry, message, snapshot};
use crate::test_support::batch_bytes;

#[test]
fn kinds_that_no_peer_sends_are_dropped() {
    use MessageType as Kind;
    for kind in [
        Kind::MsgPropose,
        Kind::MsgHup,
        Kind::MsgBeat,
        Kind::MsgCheckQuorum,
        Kind::MsgUnreachable,
        Kind::MsgSnapStatus,
        Kind::MsgTransferLeader,
        Kind::MsgReadIndex,
        Kind::MsgReadIndexResp,
    ] {
        assert_eq!(Replica::follower().step(message(kind, 3)), Err(StepError::Kind), "{kind:?}");
        assert_eq!(Replica::leader().step(message(kind, 1)), Err(StepError::Kind), "{kind:?}");
    }
    let mut replica = Replica::leader();
    let _ = replica.step(message(Kind::MsgPropose, 1));
    assert_eq!(replica.driver.counters().dropped_kind, 1);
    assert_eq!(replica.driver.last_index(GROUP), Some(RaftIndex(1)), "nothing was appended");
}

#[test]
fn unknown_groups_and_wrong_addresses_are_dropped() {
    let mut replica = Replica::follower();
    let heartbeat = message(MessageType::MsgHeartbeat, 3);
    assert_eq!(replica.driver.step(PeerId(2), GroupId(5), heartbeat.clone()), Err(StepError::UnknownGroup));
    assert_eq!(replica.driver.step(PeerId(3), GROUP, heartbeat.clone()), Err(StepError::Address));
    let mut other = heartbeat;
    other.to = 3;
    assert_eq!(replica.step(other), Err(StepError::Address));
    assert_eq!(replica.driver.counters().dropped_unknown_group, 1);
}

#[test]
fn appends_that_would_bend_the_log_are_dropped() {
    let mut unknown = entry(3, 3, 2);
    unknown.context = Bytes::from_static(&[77]);
    let mut torn = entry(3, 3, 2);
    torn.data = torn.data.slice(..40);
    let mut change = entry(3, 3, 2);
    change.set_entry_type(EntryType::EntryConfChange);
    change.data = Bytes::from_static(&[0xff]);
    for (name, message, expected) in [
        ("a gap past the end", append(9, 0, vec![entry(10, 3, 9)]), StepError::Range),
        ("not contiguous", append(2, 3, vec![entry(3, 3, 2), entry(5, 3, 3)]), StepError::Entries),
        ("index zero", append(2, 3, vec![entry(0, 3, 2)]), StepError::Entries),
        ("term steps back", append(2, 3, vec![entry(3, 2, 2)]), StepError::Entries),
        ("term beyond the leader's", append(2, 3, vec![entry(3, 4, 2)]), StepError::Entries),
        ("offset steps back", append(2, 3, vec![entry(3, 3, 1)]), StepError::Entries),
        ("offset steps back within", append(2, 3, vec![entry(3, 3, 5), entry(4, 3, 5)]), StepError::Entries),
        ("unknown context", append(2, 3, vec![unknown]), StepError::Entries),
        ("torn batch", append(2, 3, vec![torn]), StepError::Entries),
        ("unreadable change", append(2, 3, vec![change]), StepError::Entries),
        ("index overflow", append(u64::MAX, 3, vec![entry(0, 3, 2)]), StepError::Range),
    ] {
        let mut replica = Replica::follower();
        assert_eq!(replica.step(message), Err(expected), "{name}");
        replica.turn();
        assert_eq!(replica.driver.last_index(GROUP), Some(RaftIndex(2)), "{name}");
        assert_eq!(replica.driver.counters().dropped_malformed, 1, "{name}");
    }
    let mut replica = Replica::follower();
    assert_eq!(replica.step(append(1, 3, vec![entry(2, 3, 1), entry(3, 3, 2)])), Ok(()));
    replica.turn();
    assert_eq!(replica.driver.log_end_offset(GROUP), Some(KafkaOffset(3)));
}

#[test]
fn terms_and_indexes_out_of_range_are_dropped() {
    for term in [0, u64::MAX, 1 << 31] {
        let heartbeat = message(MessageType::MsgHeartbeat, term);
        assert_eq!(Replica::follower().step(heartbeat), Err(StepError::Range));
    }
    let mut heartbeat = message(MessageType::MsgHeartbeat, 3);
    heartbeat.commit = 3;
    assert_eq!(Replica::follower().step(heartbeat), Err(StepError::PastEnd));
}

#[test]
fn answers_about_entries_that_a_leader_never_had_are_dropped() {
    let mut accept = message(MessageType::MsgAppendResponse, 1);
    accept.index = 2;
    assert_eq!(Replica::leader().step(accept.clone()), Err(StepError::PastEnd));
    assert_eq!(Replica::follower().step(accept.clone()), Ok(()), "nobody looks at it");
    accept.index = 1;
    accept.reject = true;
    accept.reject_hint = u64::MAX >> 2;
    assert_eq!(Replica::leader().step(accept.clone()), Err(StepError::PastEnd));
    accept.reject_hint = 0;
    accept.request_snapshot = 1;
    assert_eq!(Replica::leader().step(accept), Err(StepError::Kind));
    let mut stranger = message(MessageType::MsgHeartbeatResponse, 1);
    stranger.from = 44;
    assert_eq!(Replica::leader().step(stranger), Err(StepError::Refused));
}

#[test]
fn unusable_snapshots_are_dropped_and_a_good_one_replaces_the_log() {
    for (name, message) in [
        ("no voters", snapshot(9, 9, vec![])),
        ("a voter twice", snapshot(9, 9, vec![1, 1])),
        ("index zero", snapshot(0, 9, vec![1, 2])),
        ("offset behind what is committed", snapshot(9, 0, vec![1, 2])),
        ("index out of range", snapshot(u64::MAX, 9, vec![1, 2])),
    ] {
        assert_eq!(Replica::follower().step(message), Err(StepError::Snapshot), "{name}");
    }
    let mut replica = Replica::follower();
    assert_eq!(replica.step(snapshot(9, 9, vec![1, 2])), Ok(()));
    while replica.driver.run_ready(&mut replica.sink, &mut replica.out) {}
    assert_eq!(replica.out.installed.len(), 1);
    assert_eq!(replica.driver.log_end_offset(GROUP), Some(KafkaOffset(9)));
    // Until it is durable there is no election here, whatever comes.
    assert_eq!(replica.step(message(MessageType::MsgTimeoutNow, 3)), Err(StepError::NotNow));
    assert_eq!(replica.step(snapshot(12, 9, vec![1, 2])), Err(StepError::NotNow));
    assert!(!replica.driver.campaign(GROUP));
    for now_ms in (0..3000).step_by(30) {
        replica.driver.tick(now_ms);
    }
    replica.turn();
    assert_eq!(replica.driver.applied(GROUP), Some(RaftIndex(9)));
    let recovered = replica.sink.recover(GROUP, &[]).unwrap();
    assert!(recovered.entries.is_empty(), "old entries are not taken for the log's continuation");
    assert_eq!(Driver::new(DriverConfig::default()).add_group(recovered), Ok(()));
}

/// Whatever comes in, the process goes on and the log stays a log.
#[test]
fn no_message_stops_the_process() {
    for seed in 0..1500u64 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut replica = match seed % 3 {
            0 => Replica::new(),
            1 => Replica::follower(),
            _ => Replica::leader(),
        };
        for round in 0..40u64 {
            let message = arbitrary(&mut random);
            let _ = replica.driver.step(PeerId(message.from), GROUP, message);
            if let Some(Leadership::Leader { term }) = replica.driver.leadership(GROUP)
                && random.random_bool(0.3)
            {
                let base = replica.driver.log_end_offset(GROUP).unwrap().0;
                let data = batch_bytes(base, term.leader_epoch().0, 1, 5);
                let kind = chronik_wal::entry::EntryKind::Batch;
                let _ = replica.driver.propose(GROUP, Proposal { kind, data });
            }
            if random.random_bool(0.2) {
                replica.driver.tick(round * 200);
            }
            match random.random_range(0..3) {
                0 => replica.turn(),
                1 => {
                    while replica.driver.run_ready(&mut replica.sink, &mut replica.out) {}
                    replica.sink.submit();
                }
                _ => {}
            }
        }
        replica.turn();
        assert!(replica.driver.leadership(GROUP).is_some(), "seed {seed}");
    }
}

fn arbitrary(random: &mut SmallRng) -> Message {
    let kinds = [
        MessageType::MsgAppend,
        MessageType::MsgAppend,
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgTimeoutNow,
        MessageType::MsgSnapshot,
        MessageType::MsgTransferLeader,
        MessageType::MsgPropose,
    ];
    let kind = kinds[random.random_range(0..kinds.len())];
    let mut message = message(kind, random.random_range(0..6));
    message.from = random.random_range(0..5);
    message.index = small_or_huge(random);
    message.log_term = random.random_range(0..5);
    message.commit = small_or_huge(random);
    message.commit_term = random.random_range(0..5);
    message.reject = random.random_bool(0.4);
    message.reject_hint = small_or_huge(random);
    message.request_snapshot = u64::from(random.random_bool(0.1));
    let mut index = message.index.wrapping_add(u64::from(random.random_bool(0.95)));
    let mut base = random.random_range(-1..8);
    for _ in 0..random.random_range(0..4) {
        let mut entry = entry(index, random.random_range(0..5), base);
        if random.random_bool(0.3) {
            entry.data = Bytes::new();
        }
        if random.random_bool(0.1) {
            entry.set_entry_type(EntryType::EntryConfChangeV2);
        }
        message.mut_entries().push(entry);
        index = index.wrapping_add(1);
        base += random.random_range(0..3);
    }
    if kind == MessageType::MsgSnapshot {
        let voters = (0..random.random_range(0..4)).map(|_| random.random_range(0..4)).collect();
        let mut inner = snapshot(small_or_huge(random), random.random_range(-1..9), voters);
        inner.mut_snapshot().mut_metadata().term = random.random_range(0..5);
        message.set_snapshot(inner.take_snapshot());
    }
    message
}

fn small_or_huge(random: &mut SmallRng) -> u64 {
    if random.random_bool(0.05) { u64::MAX - random.random_range(0..3) } else { random.random_range(0..6) }
}
