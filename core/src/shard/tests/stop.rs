//! The clean stop.

use chronik_net::codec::ErrorCode;
use chronik_wal::disk::sim::SimFaults;
use chronik_wal::types::NodeId;

use super::*;
use crate::shard::message::*;
use crate::shard::{Event, ShardLimits};

#[test]
fn a_stop_answers_what_is_in_flight_and_closes_the_wal() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 3, 1_000);
    rig.hold_turns = true;
    let produce = rig.ask(Request::Produce(slice(vec![(group, records_of(&[b"x"], WALL_MS))], Acks::All)));
    let fetch = rig.ask(Request::Fetch(fetch_of(&[(group, 3)], 60_000)));
    rig.settle();
    rig.handle(Event::Stop);
    rig.settle();
    assert!(matches!(rig.take(fetch), Some(Reply::Fetch(_))), "nobody waits for a node that stops");
    assert!(rig.take(produce).is_none() && !rig.shard.has_stopped(), "what is on its way is waited for");
    let refused = rig.ask(Request::Produce(slice(vec![(group, records_of(&[b"x"], WALL_MS))], Acks::All)));
    rig.settle();
    assert!(matches!(rig.take(refused), Some(Reply::Unavailable)));
    rig.hold_turns = false;
    rig.write_turn();
    rig.settle();
    assert!(
        matches!(rig.take(produce), Some(Reply::Produce(outcomes)) if outcomes[0].error == ErrorCode::None)
    );
    assert!(rig.shard.has_stopped() && rig.shard.wal.is_closed());
    let steps = rig.disk.steps();
    rig.advance(10_000);
    assert_eq!(rig.disk.steps(), steps, "a shard that has stopped writes nothing more");
    let mut rig = rig.crash();
    assert_eq!(rig.read_all(group, 0), [0, 1, 2, 3]);
}

#[test]
fn a_stop_ends_on_a_full_disk() {
    let limits = ShardLimits { write_behind_age_ms: 100_000, ..Setup::default().limits };
    let mut rig = Rig::with(Setup { limits, ..Setup::default() });
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 3, 1_000);
    rig.disk.set_faults(SimFaults { capacity: Some(1), ..SimFaults::default() });
    rig.shard.flush_soon(group, chronik_wal::types::RaftIndex(3));
    rig.settle();
    rig.stop();
    rig.disk.set_faults(SimFaults::default());
    let mut rig = rig.crash();
    assert_eq!(rig.read_all(group, 0), [0, 1, 2]);
}

/// A batch that waits for memory when the stop begins: only files that are written make room for it.
#[test]
fn a_stop_does_not_wait_for_a_batch_that_waits_for_memory() {
    let limits = ShardLimits { tail_bytes_max: 64 << 10, ..Setup::default().limits };
    let mut rig = Rig::with(Setup { limits, ..Setup::default() });
    let group = rig.topic(TOPIC, 1, &[]);
    let produce = |rig: &mut Rig| {
        let records = records_of(&[&vec![7; 30 << 10]], WALL_MS);
        rig.ask(Request::Produce(slice(vec![(group, records)], Acks::Leader)))
    };
    let calls = [produce(&mut rig), produce(&mut rig), produce(&mut rig)];
    rig.stop();
    for call in calls {
        let Some(Reply::Produce(outcomes)) = rig.take(call) else { panic!("an answer to Produce") };
        assert_eq!(outcomes[0].error, ErrorCode::None);
    }
    let mut rig = rig.crash();
    assert_eq!(rig.read_all(group, 0), [0, 1, 2]);
}

/// Another shard of the node may take long to answer what it has in flight. The others elect new leaders meanwhile, and terms ask
/// for no room in the WAL.
#[test]
fn a_stop_ends_though_the_others_fill_the_wal() {
    let limits = ShardLimits { tail_bytes_max: 16 << 20, ..Setup::default().limits };
    let setup = Setup { limits, segments_kept: 1, wal_max_bytes: 5 << 20, ..Setup::default() };
    let mut cluster = Cluster::with(&setup);
    let group = cluster.topic(TOPIC, 1, &[]);
    let mut leader = cluster.leader(group);
    let controller = cluster.leader(chronik_wal::types::GroupId::METADATA);
    let stops = cluster.others(leader).into_iter().find(|node| *node != controller).expect("leads nothing");
    cluster[stops].handle(Event::Stop);
    for _ in 0..40 {
        let records = records_of(&[&vec![7; 100 << 10]], WALL_MS);
        assert_eq!(cluster.produce(leader, group, records, Acks::All).error, ErrorCode::None);
    }
    for _ in 0..500 {
        let to = cluster.others(leader).into_iter().find(|node| *node != stops);
        cluster.answer(leader, Request::TransferLeader { group, to: to.map(NodeId) });
        leader = cluster.leader(group);
    }
    cluster.wait_until("it has stopped", |cluster| cluster[stops].shard.has_stopped());
}

#[test]
fn every_start_and_stop_keeps_everything() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    for round in 0..6 {
        rig.fill(group, 2, 5_000);
        rig.advance(if round % 2 == 0 { 1_000 } else { 10 });
        rig = if round % 3 == 0 { rig.crash() } else { rig.restart() };
        assert_eq!(rig.read_all(group, 0), (0..2 * (round + 1)).collect::<Vec<_>>());
    }
}

/// The newest turn of a node that has stopped cleanly is a mark for all before it: else damage to what was acknowledged last would
/// pass for a torn tail.
#[test]
fn the_closing_mark_comes_after_what_others_still_send() {
    let (mut cluster, group, leader) = Cluster::led();
    let follower = cluster.others(leader)[0];
    cluster[follower].handle(Event::Stop);
    for _ in 0..2_000 {
        cluster.ask_produce(leader, group, records_of(&[b"x"], WALL_MS), Acks::All);
        cluster.step();
        if cluster[follower].shard.has_stopped() {
            break;
        }
    }
    assert!(cluster[follower].shard.has_stopped(), "a stop ends though others go on");
    // One more comes before the process has ended.
    cluster.ask_produce(leader, group, records_of(&[b"x"], WALL_MS), Acks::All);
    for _ in 0..100 {
        cluster.step();
    }
    assert!(cluster[follower].shard.has_stopped() && cluster[follower].shard.wal.is_closed());
}
