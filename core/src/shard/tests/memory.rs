//! Nodes that are short of memory, because of their disks or of each other.

use std::cell::Cell;
use std::rc::Rc;

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_raft::eraftpb::MessageType;
use chronik_wal::types::{GroupId, NodeId};

use super::*;
use crate::shard::ShardLimits;
use crate::shard::message::*;

const BUDGET: usize = 256 << 10;
const VALUE: usize = 10 << 10;

fn value() -> BytesMut {
    records_of(&[&vec![7; VALUE]], WALL_MS)
}

fn tail_bytes(cluster: &Cluster, node: i32) -> usize {
    cluster[node].shard.driver.tail_bytes()
}

/// Three nodes with little memory, a partition that `slow` follows, and one that it leads.
struct Slow {
    cluster: Cluster,
    slow: i32,
    leader: i32,
    followed: GroupId,
    led: GroupId,
}

fn slow() -> Slow {
    let limits = ShardLimits { tail_bytes_max: BUDGET as u64, ..Setup::default().limits };
    let mut cluster = Cluster::with(&Setup { limits, ..Setup::default() });
    cluster.topic(TOPIC, 2, &[]);
    let (followed, led) = (cluster[1].group(TOPIC, 0), cluster[1].group(TOPIC, 1));
    let slow = cluster.leader(led);
    let leader = cluster.others(slow)[0];
    let now = cluster.leader(followed);
    if now != leader {
        transfer(&mut cluster, now, followed, leader);
    }
    Slow { cluster, slow, leader, followed, led }
}

fn transfer(cluster: &mut Cluster, from: i32, group: GroupId, to: i32) {
    cluster.advance(500);
    let request = Request::TransferLeader { group, to: Some(NodeId(to)) };
    assert!(matches!(cluster.answer(from, request), Reply::Transferred(Ok(()))));
    assert_eq!(cluster.leader(group), to);
}

impl Slow {
    /// Produces to the partition that `slow` follows; the others are quorum enough.
    fn produce(&mut self, count: usize) {
        for _ in 0..count {
            let outcome = self.cluster.produce(self.leader, self.followed, value(), Acks::All);
            assert_eq!(outcome.error, ErrorCode::None);
            self.cluster.advance(20);
            let bytes = tail_bytes(&self.cluster, self.slow);
            assert!(bytes <= BUDGET, "{bytes}");
        }
    }

    fn refused(&self) -> u64 {
        self.cluster[self.slow].shard.driver.counters().appends_cut
    }

    /// How many messages with entries the leader sends to `slow` in this time.
    fn appends_in(&mut self, ms: u64) -> usize {
        let (count, slow) = (Rc::new(Cell::new(0)), NodeId(self.slow));
        let counted = count.clone();
        self.cluster.lose = Some(Box::new(move |_, to, message| {
            if let PeerMessage::Raft { message, .. } = message
                && message.get_msg_type() == MessageType::MsgAppend
                && !message.entries.is_empty()
                && to == slow
            {
                counted.set(counted.get() + 1);
            }
            false
        }));
        self.cluster.advance(ms);
        self.cluster.lose = None;
        count.get()
    }

    /// It gets and keeps all that was acknowledged.
    fn catches_up(&mut self, records: i64) {
        let Self { slow, followed, .. } = *self;
        self.cluster
            .wait_until("it has caught up", |cluster| cluster.high_watermark(slow, followed) == records);
        assert!(!self.cluster[slow].shard.driver.is_short());
        assert_eq!(self.cluster.produce(self.leader, followed, value(), Acks::All).error, ErrorCode::None);
        transfer(&mut self.cluster, self.leader, followed, slow);
        assert_eq!(self.cluster.read_all(followed, 0), (0..=records).collect::<Vec<_>>());
    }
}

#[test]
fn a_follower_whose_files_lag_keeps_within_its_memory() {
    let mut test = slow();
    let slow = test.slow;
    test.cluster[slow].hold_jobs = true;
    test.produce(40);
    assert!(tail_bytes(&test.cluster, slow) > BUDGET / 2, "it takes what it has room for");
    assert!(test.refused() > 0);
    assert!(test.cluster.high_watermark(slow, test.followed) < 40);
    // The leader neither sends in vain nor reads what it would send from its files.
    let read = test.cluster[test.leader].shard.metrics.catch_up_bytes.get();
    assert_eq!(test.appends_in(2_000), 0);
    assert_eq!(test.cluster[test.leader].shard.metrics.catch_up_bytes.get(), read);
    // What it leads itself has a share of its own.
    let own = test.cluster.produce(slow, test.led, value(), Acks::All);
    assert_eq!(own.error, ErrorCode::None);
    assert!(tail_bytes(&test.cluster, slow) <= BUDGET);
    test.cluster[slow].hold_jobs = false;
    test.catches_up(40);
}

#[test]
fn a_follower_whose_wal_stands_still_keeps_within_its_memory() {
    let mut test = slow();
    let slow = test.slow;
    test.cluster[slow].hold_turns = true;
    test.produce(40);
    assert!(test.refused() > 0);
    test.cluster[slow].hold_turns = false;
    test.catches_up(40);
}

/// Each of two nodes, the third being gone, has its memory full of what it leads, for which it needs the other.
#[test]
fn nodes_that_are_full_of_what_they_lead_still_follow_each_other() {
    let mut test = slow();
    let Slow { slow, leader, followed, led, .. } = test;
    let third = 6 - slow - leader;
    test.cluster.kill(third, true);
    test.cluster.advance(100);
    test.cluster.cut(slow, leader);
    let mut calls = Vec::new();
    for _ in 0..40 {
        calls.push((leader, test.cluster.ask_produce(leader, followed, value(), Acks::All)));
        calls.push((slow, test.cluster.ask_produce(slow, led, value(), Acks::All)));
        test.cluster.settle();
    }
    for node in [slow, leader] {
        let bytes = tail_bytes(&test.cluster, node);
        assert!((BUDGET / 2..BUDGET * 3 / 4 + VALUE).contains(&bytes), "{bytes}");
        assert!(!test.cluster[node].shard.stalled.is_empty(), "what has no room waits");
    }
    test.cluster.heal();
    for (node, call) in calls {
        test.cluster.wait_until("it is acknowledged", |cluster| {
            cluster[node].replies.iter().any(|(asked, _)| *asked == call)
        });
        let outcome = test.cluster.produced(node, call).expect("there is an answer");
        assert_eq!(outcome.error, ErrorCode::None);
        for node in [slow, leader] {
            assert!(tail_bytes(&test.cluster, node) <= BUDGET);
        }
    }
    assert_eq!(test.cluster.read_all(followed, 0).len(), 40);
    assert_eq!(test.cluster.read_all(led, 0).len(), 40);
}
