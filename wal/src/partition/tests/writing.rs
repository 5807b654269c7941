//! What is written where: Kafka's bytes, rolls, space, deletion.

use std::collections::BTreeSet;

use super::*;
use crate::disk::sim::SimFaults;

#[test]
fn log_files_hold_the_batches_and_nothing_else() {
    let disk = Arc::new(SimDisk::new(1));
    let mut rig = Rig::at(disk.clone(), store());
    let entries = Maker::new().mixed(40);
    rig.append(&entries);
    let path = rig.dir().join("00000000000000000000.log");
    assert_eq!(disk.contents(&path).unwrap(), batch_bytes(&entries));
    assert_eq!(rig.log.bytes(), batch_bytes(&entries).len() as u64);
    let metadata = disk.contents(&rig.dir().join("partition.metadata")).unwrap();
    assert_eq!(
        String::from_utf8(metadata).unwrap(),
        "version: 0\ntopic_id: CQkJCQkJCQkJCQkJCQkJCQ\ngroup_id: 77\n"
    );
    rig.sync();
    let epochs = disk.contents(&rig.dir().join("leader-epoch-checkpoint")).unwrap();
    assert!(String::from_utf8(epochs).unwrap().starts_with("0\n6\n2 0\n3 15\n"));
}

#[test]
fn a_partition_without_entries_costs_no_file() {
    let mut rig = Rig::new(SimDisk::new(1));
    assert!(rig.log.sync().is_none());
    assert!(!rig.disk.exists(&rig.dir()).unwrap());
    let opened = rig.try_reopen(None, LogStart::default()).unwrap();
    assert_eq!(opened.log.written(), rig.log.written());
    assert!(!rig.disk.exists(&rig.dir()).unwrap());
}

#[test]
fn segments_roll_by_size() {
    let mut maker = Maker::new();
    let first = maker.batch(1, 100);
    let size = first.data.len() as u64;
    let mut rig = Rig::small_segments(3 * size);
    rig.append(&[first]);
    rig.append(&(0..6).map(|_| maker.batch(1, 100)).collect::<Vec<_>>());
    assert_eq!(rig.log.segment_count(), 3);
    assert_eq!(rig.log.segments_to_drop(KafkaOffset(6)), [KafkaOffset(0), KafkaOffset(3)]);
    // A batch longer than a segment gets one of its own rather than none.
    rig.append(&[maker.batch(1, 5000), maker.batch(1, 1)]);
    assert_eq!(rig.log.segment_count(), 5);
}

#[test]
fn segments_roll_by_the_time_of_their_first_batch() {
    let mut rig = Rig::new(SimDisk::new(1));
    rig.policy.segment_ms = 1000;
    rig.policy.jitter_ms = 100;
    let mut maker = Maker::new();
    maker.clock_ms = 50_000;
    // Timestamps 50,100 … 51,000: the last is 900 ms after the first.
    rig.append(&(0..10).map(|_| maker.batch(1, 1)).collect::<Vec<_>>());
    assert_eq!(rig.log.segment_count(), 1);
    rig.wall_ms += 1_000_000;
    rig.append(&[maker.other(EntryKind::Empty, &[])]);
    assert_eq!(rig.log.segment_count(), 1, "the wall clock does not count, and only a batch rolls");
    rig.append(&[maker.batch(1, 1)]);
    assert_eq!(rig.log.segment_count(), 2);
}

#[test]
fn segments_roll_when_kafkas_index_would_be_full() {
    let mut rig = Rig::new(SimDisk::new(1));
    let limits = FileLimits { index_interval_bytes: 0, index_bytes_max: 60 };
    rig.log = PartitionLog::new(&rig.store, identity(), LogStart::default(), limits);
    let mut maker = Maker::new();
    rig.append(&(0..20).map(|_| maker.batch(1, 1)).collect::<Vec<_>>());
    assert_eq!(rig.log.segment_count(), 4);
}

#[test]
fn a_log_start_at_the_end_opens_the_next_segment() {
    let mut rig = Rig::new(SimDisk::new(1));
    let mut maker = Maker::new();
    rig.append(&[maker.batch(4, 10), maker.log_start(2)]);
    assert_eq!(rig.log.segment_count(), 1, "the segment still holds offsets 2 and 3");
    rig.append(&[maker.log_start(4), maker.log_start(4)]);
    assert_eq!(rig.log.segment_count(), 2);
    assert_eq!(rig.log.segments_to_drop(KafkaOffset(4)), [KafkaOffset(0)]);
}

#[test]
fn a_full_disk_changes_nothing_and_is_forgotten_when_space_returns() {
    let disk = Arc::new(SimDisk::new(4));
    let mut rig = Rig::at(disk.clone(), store());
    rig.policy.segment_bytes = 3000;
    let mut maker = Maker::new();
    let first = maker.mixed(30);
    rig.append(&first);
    let before = rig.sync();
    let more = maker.mixed(60);
    let used: u64 = disk_bytes(&disk, &rig);
    let mut refused = 0;
    for room in (0..20_000).step_by(700) {
        disk.set_faults(SimFaults { capacity: Some(used + room), ..SimFaults::default() });
        match rig.try_append(&more) {
            Err(FilesError::NoSpace { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok(()) => break,
        }
        assert_eq!(rig.log.written(), before);
        assert_eq!(rig.read_all(0), batch_bytes(&first));
    }
    assert!(refused > 3);
    disk.set_faults(SimFaults::default());
    if rig.log.written() == before {
        rig.append(&more);
    }
    let all = [first, more].concat();
    assert_eq!(rig.entries(1), all);
    let point = rig.sync();
    rig.reopen(point, LogStart::default());
    assert_eq!(rig.entries(1), all);
}

#[test]
fn a_segment_that_a_full_disk_refused_leaves_nothing_behind() {
    let disk = Arc::new(SimDisk::new(4));
    let mut rig = Rig::at(disk.clone(), store());
    let mut maker = Maker::new();
    let first = maker.mixed(10);
    rig.append(&first);
    let listed = disk.list_dir(&rig.dir()).unwrap();
    let more = maker.mixed(20);
    rig.policy.segment_bytes = 600;
    let used = disk_bytes(&disk, &rig);
    disk.set_faults(SimFaults { capacity: Some(used + 1500), ..SimFaults::default() });
    assert!(matches!(rig.try_append(&more), Err(FilesError::NoSpace { .. })));
    assert_eq!(disk.list_dir(&rig.dir()).unwrap(), listed);
    // Meanwhile the topic's segments have become longer: the next attempt does not roll there.
    disk.set_faults(SimFaults::default());
    rig.policy.segment_bytes = 5000;
    rig.append(&more);
    rig.append(&maker.mixed(200));
    let point = rig.sync();
    assert!(rig.log.segment_count() > 1);
    rig.reopen(point, LogStart::default());
    assert_eq!(rig.entries(1).len(), 230);
}

/// Two rolls may give the same snapshot, of a later offset than both: the second one fails, and must leave the first one's alone.
#[test]
fn a_full_disk_takes_no_snapshot_that_was_there_before() {
    let disk = Arc::new(SimDisk::new(4));
    let mut rig = Rig::at(disk.clone(), store());
    let mut maker = Maker::new();
    let state = ProducerSnapshot { offset: KafkaOffset(10_000), bytes: bytes::Bytes::from_static(b"state") };
    let mut later = |_| Some(state.clone());
    rig.policy.segment_bytes = 600;
    let (wall_ms, policy) = (rig.wall_ms, rig.policy);
    let entries = maker.mixed(20);
    let job = rig.log.append(&entries, policy, wall_ms, &mut later).expect("entries to append");
    rig.run(job).unwrap();
    assert_eq!(rig.log.written().index, entries.last().expect("some").index);
    let path = append::snapshot_path(&rig.dir(), state.offset);
    assert_eq!(disk.contents(&path).as_deref(), Some(&b"state"[..]));
    let used = disk_bytes(&disk, &rig);
    disk.set_faults(SimFaults { capacity: Some(used + 1500), ..SimFaults::default() });
    let more = maker.mixed(20);
    let job = rig.log.append(&more, policy, wall_ms, &mut later).expect("entries to append");
    assert!(matches!(rig.run(job), Err(FilesError::NoSpace { .. })));
    disk.set_faults(SimFaults::default());
    assert_eq!(disk.contents(&path).as_deref(), Some(&b"state"[..]));
    rig.sync();
}

fn disk_bytes(disk: &SimDisk, rig: &Rig) -> u64 {
    let names = disk.list_dir(&rig.dir()).unwrap();
    names.iter().map(|entry| disk.file_len(&rig.dir().join(&entry.name)).unwrap()).sum()
}

#[test]
fn any_other_error_is_fatal() {
    let disk = Arc::new(SimDisk::new(4));
    let mut rig = Rig::at(disk.clone(), store());
    let mut maker = Maker::new();
    rig.append(&maker.mixed(9));
    disk.set_faults(SimFaults { sync_error: 1.0, ..SimFaults::default() });
    let job = rig.log.sync().unwrap();
    assert!(matches!(rig.run(job), Err(FilesError::Fatal { .. })));
    disk.set_faults(SimFaults { write_error: 1.0, ..SimFaults::default() });
    assert!(matches!(rig.try_append(&maker.mixed(9)), Err(FilesError::Fatal { .. })));
}

#[test]
#[should_panic(expected = "entries follow one another")]
fn a_gap_is_refused() {
    let mut rig = Rig::new(SimDisk::new(1));
    let mut maker = Maker::new();
    maker.batch(1, 1);
    rig.append(&[maker.batch(1, 1)]);
}

#[test]
fn one_append_is_bounded_and_says_how_far_it_came() {
    let mut rig = Rig::new(SimDisk::new(1));
    rig.policy.segment_bytes = 1 << 30;
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..5).map(|_| maker.batch(1, 3 << 20)).collect();
    let job = rig.log.append(&entries, rig.policy, 0, &mut snapshot).unwrap();
    rig.run(job).unwrap();
    assert_eq!(rig.log.written().index, RaftIndex(2));
    rig.append(&entries[2..]);
    // And a batch longer than a read goes out whole when it is the first.
    assert!(rig.try_read(0, 10, false).unwrap().unwrap().data.is_empty());
    assert_eq!(rig.try_read(0, 4 << 20, false).unwrap().unwrap().data, entries[0].data);
    assert_eq!(rig.try_read(0, 10, true).unwrap().unwrap().data, entries[0].data);
}

#[test]
fn deletion_renames_at_once_and_the_sweep_finishes_it() {
    let mut rig = Rig::new(SimDisk::new(1));
    let mut maker = Maker::new();
    rig.append(&maker.mixed(20));
    rig.sync();
    let log = std::mem::replace(
        &mut rig.log,
        PartitionLog::new(&rig.store, identity(), LogStart::default(), LIMITS),
    );
    let FileDone::Moved(Ok(Some(moved))) = log.delete().run(&*rig.disk) else { panic!("not moved") };
    assert!(!rig.disk.exists(&rig.dir()).unwrap());
    assert!(moved.ends_with("orders-3.CQkJCQkJCQkJCQkJCQkJCQ-delete"));

    // Its successor of the same name, and one that nobody knows.
    let mut maker = Maker::new();
    rig.append(&maker.mixed(20));
    let point = rig.sync();
    let stranger = PartitionIdentity { topic: "gone".into(), ..identity() };
    let mut other = PartitionLog::new(&rig.store, stranger, LogStart::default(), LIMITS);
    let job = other.append(&Maker::new().mixed(3), POLICY, 0, &mut snapshot).unwrap();
    other.finished(job.run(&*rig.disk)).unwrap();

    let known = BTreeSet::from([identity()]);
    let report = sweep(&*rig.disk, &rig.store.data_dir, &known).unwrap();
    assert_eq!(report.removed, [moved]);
    assert_eq!(report.stray.len(), 1);
    assert!(report.stray[0].ends_with("gone-3.CQkJCQkJCQkJCQkJCQkJCQ-stray"));
    assert_eq!(sweep(&*rig.disk, &rig.store.data_dir, &known).unwrap(), SweepReport::default());
    rig.reopen(point, LogStart::default());

    // The same name with another topic id is a stranger too.
    let known = BTreeSet::from([PartitionIdentity { topic_id: [8; 16], ..identity() }]);
    let wrong = PartitionLog::open(
        &*rig.disk,
        &rig.store,
        PartitionIdentity { topic_id: [8; 16], ..identity() },
        Some(point),
        LogStart::default(),
        LIMITS,
    );
    assert!(matches!(wrong.err(), Some(FilesError::Identity { .. })));
    assert_eq!(sweep(&*rig.disk, &rig.store.data_dir, &known).unwrap().stray.len(), 1);
}

#[test]
fn a_dump_says_what_is_there() {
    let mut rig = Rig::new(SimDisk::new(1));
    let mut maker = Maker::new();
    rig.append(&[maker.batch(3, 10), maker.batch(2, 10)]);
    let path = rig.dir().join("00000000000000000000.log");
    let mut text = Vec::new();
    dump_log(&*rig.disk, &path, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("position 0 offsets 0..2 count 3 base timestamp 1100 max timestamp 1102"));
    assert!(lines[1].contains("offsets 3..4 count 2") && lines[1].contains("codec none"));
    assert!(lines.iter().all(|line| line.ends_with(" ok")));
}

/// A topic is deleted and made again faster than the helper threads work: whichever comes first, each keeps to its own files.
#[test]
fn a_successor_of_the_same_name_waits_for_the_directory() {
    let mut maker = Maker::new();
    let mut rig = Rig::small_segments(1 << 20);
    let entries = maker.mixed(5);
    rig.append(&entries);
    let successor = PartitionIdentity { topic_id: [10; 16], group: GroupId(78), ..identity() };
    let mut next = PartitionLog::new(&rig.store, successor.clone(), LogStart::default(), LIMITS);

    let job = next.append(&entries, POLICY, 0, &mut snapshot).unwrap();
    let refused = next.finished(job.run(&*rig.disk));
    assert!(matches!(refused, Err(FilesError::Occupied { .. })), "{refused:?}");
    assert_eq!(next.written(), FlushPoint::default());

    let Rig { disk, store, log, .. } = rig;
    assert!(matches!(log.delete().run(&*disk), FileDone::Moved(Ok(Some(_)))));
    let job = next.append(&entries, POLICY, 0, &mut snapshot).unwrap();
    next.finished(job.run(&*disk)).unwrap();

    // A partition that never had files deletes none of its successor's.
    let third = PartitionIdentity { topic_id: [11; 16], group: GroupId(79), ..identity() };
    let empty = PartitionLog::new(&store, third, LogStart::default(), LIMITS);
    assert!(matches!(empty.delete().run(&*disk), FileDone::Moved(Ok(None))));
    assert!(disk.exists(&store.data_dir.join(successor.directory_name())).unwrap());
}
