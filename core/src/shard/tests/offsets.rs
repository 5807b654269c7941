//! ListOffsets, DeleteRecords, retention, epochs: where the log begins and ends.

use std::sync::Arc;

use chronik_net::codec::ErrorCode;
use chronik_wal::disk::sim::Survival;
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch};

use super::*;
use crate::shard::message::*;

const SEGMENTS: [(&str, &str); 2] = [("segment.bytes", "1048576"), ("file.delete.delay.ms", "0")];

fn at_times(rig: &mut Rig, group: GroupId, times: &[i64]) {
    for time in times {
        let outcome = rig.produce(group, records_of(&[b"x"], WALL_MS + time));
        assert_eq!(outcome.error, ErrorCode::None);
    }
}

fn by_time(rig: &mut Rig, group: GroupId, time: i64) -> i64 {
    rig.list_offset(group, WALL_MS + time).offset.0
}

#[test]
fn special_timestamps() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    at_times(&mut rig, group, &[100, 300, 200]);
    rig.delete_records(group, 1).expect("deleted");
    for (timestamp, offset) in [(-1, 3), (-2, 1), (-3, 1), (-4, 1), (-5, -1)] {
        let answer = rig.list_offset(group, timestamp);
        assert_eq!((answer.error, answer.offset.0), (ErrorCode::None, offset), "{timestamp}");
    }
    assert_eq!(rig.list_offset(group, -6).error, ErrorCode::UnsupportedVersion);
    assert_eq!(rig.list_offset(GroupId(999), -1).error, ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn by_time_in_memory_and_in_files() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    at_times(&mut rig, group, &[100, 300, 200]);
    for in_files in [false, true] {
        for (time, offset) in [(50, 0), (100, 0), (101, 1), (300, 1), (301, -1)] {
            assert_eq!(by_time(&mut rig, group, time), offset, "{time}, in files: {in_files}");
        }
        assert_eq!(rig.list_offset(group, -3).offset.0, 1);
        let epoch = rig.list_offset(group, WALL_MS).epoch;
        assert_ne!(epoch, LeaderEpoch::UNKNOWN, "in files: {in_files}");
        rig.advance(2_000);
        assert_eq!(rig.files(TOPIC, 0, ".log").len(), 1);
    }
    at_times(&mut rig, group, &[400]);
    assert_eq!(by_time(&mut rig, group, 301), 3, "the newest is in memory");
    assert_eq!(rig.list_offset(group, -3).offset.0, 3);
}

#[test]
fn by_time_looks_past_records_below_the_log_start() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    at_times(&mut rig, group, &[5_000, 1_000]);
    rig.advance(2_000);
    rig.delete_records(group, 1).expect("deleted");
    at_times(&mut rig, group, &[4_000]);
    assert_eq!(by_time(&mut rig, group, 3_000), 2, "what the files have of that time is deleted");
    let batch = records_of(&[b"a", b"b", b"c"], WALL_MS + 9_000);
    assert_eq!(rig.produce(group, batch).base_offset.0, 3);
    rig.delete_records(group, 5).expect("deleted");
    assert_eq!(by_time(&mut rig, group, 0), 5, "also within a batch");
}

#[test]
fn epochs_end_where_the_next_one_began() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 2, 10);
    let old = rig.list_offset(group, -1).epoch;
    let mut rig = rig.crash();
    rig.fill(group, 3, 10);
    let new = rig.list_offset(group, -1).epoch;
    let query = |epoch| EpochQuery { group, current_epoch: LeaderEpoch::UNKNOWN, epoch };
    let Reply::EpochEnds(ends) = rig.answer(Request::EpochEnd(vec![query(old), query(new)])) else {
        panic!("an answer to EpochEnd")
    };
    let ends: Vec<_> = ends.iter().map(|end| (end.epoch, end.end_offset.0)).collect();
    assert_eq!(ends, [(old, 2), (new, 5)]);
}

#[test]
fn deleted_records_stay_deleted() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &SEGMENTS);
    rig.fill(group, 25, 100 << 10);
    rig.advance(2_000);
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 3);
    assert_eq!(rig.delete_records(group, 26), Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(rig.delete_records(group, 15), Ok(KafkaOffset(15)));
    assert_eq!(rig.delete_records(group, 3), Ok(KafkaOffset(15)), "never back");
    rig.advance(3_000);
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 2, "the first segment is wholly below");
    let mut rig = rig.crash();
    assert_eq!(rig.list_offset(group, -2).offset.0, 15);
    assert_eq!(rig.read_all(group, 15), (15..25).collect::<Vec<_>>());
}

/// Everything goes, the segment that was still growing too; the end offset stays.
fn emptied(mut rig: Rig, group: GroupId, end: i64) {
    for round in 0..3 {
        assert_eq!(rig.list_offset(group, -2).offset.0, end, "round {round}");
        // After a crash the WAL alone has what is left.
        let below = rig.files(TOPIC, 0, "").iter().any(|name| name.as_str() < format!("{end:020}").as_str());
        assert!(!below, "round {round}: {:?}", rig.files(TOPIC, 0, ""));
        rig = if round == 1 { rig.restart() } else { rig.crash() };
        assert!(rig.shard.damaged.is_empty(), "round {round}: {:?}", rig.shard.damaged);
    }
    assert_eq!(rig.produce(group, records_of(&[b"next"], rig.now.wall_ms)).base_offset.0, end);
    assert_eq!(rig.read_all(group, end), [end]);
}

#[test]
fn an_emptied_partition_keeps_its_end_and_drops_its_files() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &SEGMENTS);
    rig.fill(group, 25, 100 << 10);
    rig.advance(2_000);
    assert_eq!(rig.delete_records(group, -1), Ok(KafkaOffset(25)));
    rig.advance(5_000);
    emptied(rig, group, 25);
}

#[test]
fn a_crash_anywhere_in_a_deletion_damages_nothing() {
    let mut base = Rig::new();
    let group = base.topic(TOPIC, 1, &SEGMENTS);
    base.fill(group, 25, 100 << 10);
    base.advance(2_000);
    base.checkpoint(group);
    for (survival, held_for, steps) in places() {
        let case = format!("{survival:?}, turns held for {held_for} of {steps} steps");
        let disk = Arc::new(base.disk.crash(Survival::All));
        let mut rig = Rig::on(disk, base.setup.clone(), base.now);
        let items = vec![DeleteItem { group, before: KafkaOffset(-1) }];
        let call = rig.ask(Request::DeleteRecords { items, timeout_ms: 60_000 });
        rig.settle_once();
        for step in 0..steps {
            // Files go on while the turn with the durable log start is on its way.
            rig.hold_turns = step < held_for;
            rig.step();
            rig.now.mono_ms += 300;
        }
        let answered = rig.take(call).is_some();
        let disk = Arc::new(rig.disk.crash(survival));
        let mut rig = Rig::on(disk, base.setup.clone(), rig.now);
        assert!(rig.shard.damaged.is_empty(), "{case}: {:?}", rig.shard.damaged);
        let start = rig.list_offset(group, -2).offset.0;
        assert!(start == 25 || (start == 0 && !answered), "{case}: {start}");
        assert_eq!(rig.read_all(group, start).len() as i64, 25 - start, "{case}");
        assert_eq!(rig.list_offset(group, -1).offset.0, 25, "{case}");
    }
}

#[test]
fn files_go_no_further_than_the_durable_log_start() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &SEGMENTS);
    rig.fill(group, 25, 100 << 10);
    rig.advance(2_000);
    rig.checkpoint(group);
    rig.ask(Request::DeleteRecords {
        items: vec![DeleteItem { group, before: KafkaOffset(-1) }],
        timeout_ms: 60_000,
    });
    rig.step();
    // The turn that moves the durable log start to the last segment is held; meanwhile that segment is closed, so that it may
    // go too, but only with the turn after.
    rig.hold_turns = true;
    for _ in 0..4 {
        rig.step();
        rig.now.mono_ms += 300;
    }
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 4, "{:?}", rig.files(TOPIC, 0, ".log"));
    assert!(rig.write_turn());
    for _ in 0..4 {
        rig.step();
    }
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 2, "{:?}", rig.files(TOPIC, 0, ".log"));
    let disk = Arc::new(rig.disk.crash(Survival::All));
    let mut rig = Rig::on(disk, rig.setup.clone(), rig.now);
    assert!(rig.shard.damaged.is_empty(), "{:?}", rig.shard.damaged);
    assert_eq!(rig.list_offset(group, -2).offset.0, 25);
    rig.advance(5_000);
    let below = format!("{:020}", 25);
    assert!(!rig.files(TOPIC, 0, "").iter().any(|name| *name < below), "{:?}", rig.files(TOPIC, 0, ""));
}

fn places() -> impl Iterator<Item = (Survival, usize, usize)> {
    let survivals = [Survival::SyncedOnly, Survival::All];
    let held = |survival| [0, 4, 8].into_iter().map(move |held_for| (survival, held_for));
    survivals.into_iter().flat_map(held).flat_map(|(survival, held_for)| {
        (held_for..held_for + 8).map(move |steps| (survival, held_for, steps))
    })
}

#[test]
fn retention_by_time_empties_a_partition() {
    let mut rig = Rig::new();
    let configs = [SEGMENTS[0], SEGMENTS[1], ("retention.ms", "60000")];
    let group = rig.topic(TOPIC, 1, &configs);
    rig.fill(group, 25, 100 << 10);
    rig.advance(2_000);
    assert_eq!(rig.list_offset(group, -2).offset.0, 0);
    rig.advance(305_000);
    emptied(rig, group, 25);
}

#[test]
fn retention_by_size_drops_whole_segments() {
    let mut rig = Rig::new();
    let configs = [SEGMENTS[0], SEGMENTS[1], ("retention.bytes", "1200000")];
    let group = rig.topic(TOPIC, 1, &configs);
    rig.fill(group, 25, 100 << 10);
    rig.advance(306_000);
    let start = rig.list_offset(group, -2).offset.0;
    assert_eq!(start, 10, "one segment of ten batches is in excess");
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 2);
    let mut rig = rig.crash();
    assert_eq!(rig.list_offset(group, -2).offset.0, 10);
    assert_eq!(rig.read_all(group, 10), (10..25).collect::<Vec<_>>());
}
