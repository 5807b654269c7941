//! Ticks that were missed: a busy shard deposes and elects nobody, a suspended one steps down.

use chronik_wal::types::PeerId;
use raft::eraftpb::MessageType;

use super::*;
use crate::test_replica::{GROUP, Replica, message};

fn answer_all(replica: &mut Replica) {
    for from in [2, 3] {
        let mut answer = message(MessageType::MsgHeartbeatResponse, 1);
        answer.from = from;
        replica.step(answer).unwrap();
    }
}

fn leads(replica: &Replica) -> bool {
    matches!(replica.driver.leadership(GROUP), Some(Leadership::Leader { .. }))
}

/// A leader that ticks, at this place between two quorum checks, and whose followers answer.
fn leader(phase: u64) -> (Replica, u64) {
    let mut replica = Replica::leader();
    replica.driver.tick(0);
    let now_ms = (10 + phase) * 30;
    for tick_ms in (30..=now_ms).step_by(30) {
        answer_all(&mut replica);
        replica.driver.tick(tick_ms);
        replica.turn();
    }
    (replica, now_ms)
}

/// Whatever the phase: the answers of before the stall are in the inbox, those to the heartbeats after it come in time.
#[test]
fn a_leader_whose_shard_stalls_goes_on_leading() {
    for phase in 0..10 {
        for stall_ms in [100, 310, 400, 590] {
            let (mut replica, mut now_ms) = leader(phase);
            answer_all(&mut replica);
            now_ms += stall_ms;
            replica.driver.tick(now_ms);
            assert!(leads(&replica), "phase {phase}, {stall_ms} ms");
            if stall_ms > 300 {
                assert!(!replica.driver.has_quorum_contact(GROUP, now_ms), "but it answers nothing yet");
            }
            // Answers take 60 ms.
            for later_ms in (30..900).step_by(30) {
                if later_ms > 60 {
                    answer_all(&mut replica);
                }
                replica.driver.tick(now_ms + later_ms);
                replica.turn();
                assert!(leads(&replica), "phase {phase}, {stall_ms} ms and {later_ms} more");
            }
            assert!(replica.driver.has_quorum_contact(GROUP, now_ms + 900));
        }
    }
}

#[test]
fn a_leader_that_hears_of_nobody_after_a_stall_steps_down() {
    for phase in 0..10 {
        let (mut replica, now_ms) = leader(phase);
        replica.driver.tick(now_ms + 400);
        (0..=600).step_by(30).for_each(|later_ms| replica.driver.tick(now_ms + 400 + later_ms));
        assert!(!leads(&replica), "phase {phase}");
    }
}

#[test]
fn a_leader_that_was_suspended_steps_down_at_once() {
    for phase in 0..10 {
        let (mut replica, now_ms) = leader(phase);
        answer_all(&mut replica);
        replica.driver.tick(now_ms + 700);
        assert!(!leads(&replica), "phase {phase}");
    }
}

/// However long it stood still: what it should have heard may be in its inbox.
#[test]
fn a_follower_whose_shard_stalls_stands_for_nothing() {
    for stall_ms in [310, 400, 700, 60_000] {
        let mut replica = Replica::follower();
        replica.driver.tick(0);
        replica.driver.tick(30);
        let leadership = replica.driver.leadership(GROUP);
        replica.driver.tick(30 + stall_ms);
        assert_eq!(replica.driver.leadership(GROUP), leadership, "{stall_ms}");
        replica.step(message(MessageType::MsgHeartbeat, 3)).unwrap();
        replica.driver.tick(60 + stall_ms);
        assert_eq!(replica.driver.leadership(GROUP), leadership, "{stall_ms}");
        // And when nothing comes it does.
        let silent_ms = (90..=90 + 600).step_by(30).map(|later_ms| stall_ms + later_ms);
        silent_ms.for_each(|now_ms| replica.driver.tick(now_ms));
        assert_ne!(replica.driver.leadership(GROUP), leadership, "{stall_ms}");
    }
}

/// However many ticks are made up for: each follower is sent one heartbeat.
#[test]
fn made_up_ticks_bring_one_heartbeat() {
    let (mut replica, now_ms) = leader(3);
    answer_all(&mut replica);
    replica.turn();
    replica.driver.tick(now_ms + 240);
    replica.run();
    let mut to: Vec<PeerId> = replica.out.heartbeats.iter().map(|outgoing| outgoing.to).collect();
    to.sort_unstable();
    assert_eq!(to, [PeerId(2), PeerId(3)]);
}
