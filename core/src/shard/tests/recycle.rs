//! The WAL stays bounded, whatever is written, and loses nothing.

use super::*;
use crate::shard::ShardLimits;
use crate::shard::message::*;

fn tight() -> Setup {
    let limits =
        ShardLimits { tail_bytes_max: 4 << 20, write_behind_bytes: 256 << 10, ..Setup::default().limits };
    Setup { limits, segments_kept: 1, wal_max_bytes: 5 << 20, ..Setup::default() }
}

#[test]
fn the_wal_stays_within_its_bound() {
    let mut rig = Rig::with(tight());
    let group = rig.topic(TOPIC, 3, &[]);
    let others = [rig.group(TOPIC, 1), rig.group(TOPIC, 2)];
    rig.fill(others[0], 1, 100);
    for round in 0..15 {
        rig.fill(group, 10, 100 << 10);
        rig.fill(others[1], 1, 3_000);
        let (_, bytes) = rig.shard.wal.usage();
        assert!(bytes <= 5 << 20, "round {round}: {bytes}");
    }
    rig.advance(100);
    assert!(
        rig.shard.wal.usage().0 <= 4,
        "segments go when they are not needed: {:?}",
        rig.shard.wal.usage()
    );
    let mut rig = rig.crash();
    assert_eq!(rig.read_all(group, 0), (0..150).collect::<Vec<_>>());
    assert_eq!(rig.read_all(others[0], 0), [0], "what nobody has written since is kept");
    assert_eq!(rig.read_all(others[1], 0), (0..15).collect::<Vec<_>>());
    rig.fill(group, 30, 100 << 10);
    assert_eq!(rig.read_all(group, 150), (150..180).collect::<Vec<_>>());
}

#[test]
fn segments_are_freed_while_their_partition_is_written_all_the_time() {
    let mut rig = Rig::with(tight());
    let group = rig.topic(TOPIC, 1, &[]);
    let mut most = 0;
    let mut calls = Vec::new();
    for _ in 0..150 {
        // There is always something new to write behind when a file job ends.
        let value = records_of(&[&vec![1; 60 << 10]], WALL_MS);
        calls.push(rig.ask(Request::Produce(slice(vec![(group, value)], Acks::All))));
        rig.step();
        most = most.max(rig.shard.wal.usage().0);
    }
    rig.settle();
    assert!(most <= 4, "{most} segments were live at once");
    assert_eq!(rig.read_all(group, 0).len(), calls.len());
}

#[test]
fn a_power_cut_at_any_turn_of_recycling_loses_nothing() {
    let mut rig = Rig::with(tight());
    let group = rig.topic(TOPIC, 2, &[]);
    let quiet = rig.group(TOPIC, 1);
    rig.fill(quiet, 2, 2_000);
    let mut acknowledged = 0;
    for round in 0..8 {
        for _ in 0..(7 + round) {
            rig.fill(group, 1, 60 << 10);
            acknowledged += 1;
        }
        for _ in 0..round {
            rig.step();
        }
        rig = rig.crash();
        assert!(rig.shard.damaged.is_empty(), "round {round}: {:?}", rig.shard.damaged);
        assert_eq!(rig.read_all(group, 0), (0..acknowledged).collect::<Vec<_>>(), "round {round}");
        assert_eq!(rig.read_all(quiet, 0), [0, 1], "round {round}");
    }
}
