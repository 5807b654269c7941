//! A crash at every step that changes the disk: what is then opened at the last durable checkpoint is exactly the log
//! up to it, and goes on from there.

use super::*;
use crate::disk::sim::Survival;

/// What the shard's WAL would hold when the machine stops.
#[derive(Clone, Copy, Default)]
struct Durable {
    checkpoint: Option<FlushPoint>,
    start: LogStart,
}

/// Runs a partition's life until the disk gives up; what was durable then.
fn live(rig: &mut Rig, entries: &[LogEntry]) -> Durable {
    let mut durable = Durable::default();
    let mut rest = entries;
    let mut round = 0;
    while !rest.is_empty() {
        round += 1;
        let count = rest.len().min(6);
        if rig.try_append(&rest[..count]).is_err() {
            return durable;
        }
        rest = &rest[count..];
        if round % 2 == 0
            && let Some(job) = rig.log.sync()
        {
            if rig.run(job).is_err() {
                return durable;
            }
            durable.checkpoint = Some(rig.log.synced());
        }
        if round % 5 == 0 {
            let log_start = KafkaOffset(rig.log.written().next_offset.0 * 2 / 3);
            if let Some(point) = rig.log.drop_point(log_start) {
                durable.start = point;
                let job = rig.drop_below(log_start, round, 1).unwrap();
                if rig.run(job).is_err() {
                    return durable;
                }
            }
        }
        if let Some(job) = rig.log.tick(round)
            && rig.run(job).is_err()
        {
            return durable;
        }
    }
    durable
}

fn check_after_crash(entries: &[LogEntry], disk: SimDisk, durable: Durable, what: &str) {
    let disk = Arc::new(disk);
    let mut rig = Rig::at(disk, store());
    rig.policy.segment_bytes = 1200;
    // A crash during the opening itself must not matter either: open twice.
    for _ in 0..2 {
        let opened = rig.try_reopen(durable.checkpoint, durable.start);
        rig.log = opened.unwrap_or_else(|error| panic!("{what}: {error}")).log;
    }
    let wanted = durable.checkpoint.filter(|point| point.index > durable.start.index);
    let last = wanted.map_or(durable.start.index, |point| point.index);
    assert_eq!(rig.log.written().index, last, "{what}");
    let first = rig.log.start().index.0;
    assert!(first <= durable.start.index.0, "{what}: entries above the log start are gone");
    assert_eq!(rig.entries(first + 1), entries[first as usize..last.0 as usize], "{what}");
    // It goes on as if nothing had been.
    rig.append(&entries[last.0 as usize..]);
    assert_eq!(rig.entries(first + 1), entries[first as usize..], "{what}");
    let point = rig.sync();
    let start = rig.log.start();
    rig.reopen(point, start);
    assert_eq!(rig.entries(first + 1), entries[first as usize..], "{what}");
}

#[test]
fn the_log_up_to_the_checkpoint_survives_a_crash_at_every_step() {
    crash_everywhere(&Maker::new().mixed(90), RaftIndex(30));
}

/// Without a change of term nothing but the roll itself makes the new names durable.
#[test]
fn a_roll_survives_a_crash_at_every_step() {
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..50).map(|_| maker.batch(2, 60)).collect();
    crash_everywhere(&entries, RaftIndex(5));
}

/// Crashes a partition's life at each step. The run must have dropped what is at or below `dropped`.
fn crash_everywhere(entries: &[LogEntry], dropped: RaftIndex) {
    let steps = {
        let disk = Arc::new(SimDisk::new(0));
        let mut rig = Rig::at(disk.clone(), store());
        rig.policy.segment_bytes = 1200;
        let before = disk.steps();
        live(&mut rig, entries);
        assert!(rig.log.start().index > dropped, "the run drops segments");
        disk.steps() - before
    };
    for step in 1..=steps {
        let survivals = [Survival::SyncedOnly, Survival::All, Survival::Random];
        let disk = Arc::new(SimDisk::new(step));
        let mut rig = Rig::at(disk.clone(), store());
        crate::disk::sync_parent(&*disk, &rig.store.data_dir).unwrap();
        rig.policy.segment_bytes = 1200;
        disk.crash_after(step);
        let durable = live(&mut rig, entries);
        for survival in survivals {
            let what = format!("step {step} of {steps}, {survival:?}");
            check_after_crash(entries, disk.crash(survival), durable, &what);
        }
    }
}

#[test]
fn opening_may_be_interrupted_anywhere() {
    let entries = Maker::new().mixed(80);
    let disk = Arc::new(SimDisk::new(3));
    let mut rig = Rig::at(disk.clone(), store());
    crate::disk::sync_parent(&*disk, &rig.store.data_dir).unwrap();
    rig.policy.segment_bytes = 1200;
    rig.append(&entries[..30]);
    let checkpoint = Some(rig.sync());
    rig.append(&entries[30..]);
    let durable = Durable { checkpoint, start: LogStart::default() };
    for step in 1.. {
        let left = disk.crash(Survival::All);
        left.crash_after(step);
        let opened = PartitionLog::open(&left, &store(), identity(), checkpoint, durable.start, LIMITS);
        let finished = opened.is_ok() && !left.has_crashed();
        for survival in [Survival::SyncedOnly, Survival::Random, Survival::All] {
            let what = format!("opening, step {step}, {survival:?}");
            check_after_crash(&entries, left.crash(survival), durable, &what);
        }
        if finished {
            assert!(step > 10, "opening cut something");
            break;
        }
    }
}

#[test]
fn what_was_never_synced_is_gone() {
    let mut rig = Rig::small_segments(900);
    let entries = Maker::new().mixed(50);
    rig.append(&entries);
    let opened = rig.try_reopen(None, LogStart::default()).unwrap();
    assert_eq!(opened.log.written().index, RaftIndex(0));
    rig.log = opened.log;
    rig.append(&entries);
    assert_eq!(rig.entries(1), entries);
}
