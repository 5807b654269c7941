//! What leaves memory is in files; every partition has its turn.

use std::collections::BTreeSet;

use chronik_wal::disk::sim::SimFaults;
use chronik_wal::types::GroupId;

use super::*;
use crate::shard::{JobOwner, ShardLimits};

#[test]
fn small_amounts_are_written_by_age_and_large_ones_at_once() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 1, 1_000);
    assert!(rig.files(TOPIC, 0, ".log").is_empty());
    rig.advance(499);
    assert!(rig.files(TOPIC, 0, ".log").is_empty());
    rig.advance(2);
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 1);
    assert_eq!(rig.shard.partitions[&group].unwritten_bytes, 0);
    rig.fill(group, 2, 600 << 10);
    rig.settle();
    let partition = &rig.shard.partitions[&group];
    assert_eq!((partition.files.written().next_offset.0, partition.unwritten_bytes), (3, 0));
}

#[test]
fn segments_are_closed_by_size_and_by_time() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[("segment.bytes", "1048576"), ("segment.ms", "60000")]);
    rig.fill(group, 12, 100 << 10);
    rig.advance(1_000);
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 2, "by size");
    rig.advance(61_000);
    rig.fill(group, 1, 10);
    rig.advance(1_000);
    assert_eq!(rig.files(TOPIC, 0, ".log").len(), 3, "by time");
    assert_eq!(rig.read_all(group, 0), (0..13).collect::<Vec<_>>());
}

#[test]
fn low_numbers_do_not_starve_the_others() {
    let limits = ShardLimits { write_behind_bytes: 1_000, ..Setup::default().limits };
    let mut rig = Rig::with(Setup { limits, ..Setup::default() });
    rig.topic(TOPIC, 40, &[]);
    let groups: Vec<GroupId> = (0..40).map(|number| rig.group(TOPIC, number)).collect();
    rig.hold_jobs = true;
    let mut written = BTreeSet::new();
    for _ in 0..4 {
        for group in &groups {
            rig.fill(*group, 1, 2_000);
        }
        let files = rig.shard.jobs.values().filter_map(|owner| match owner {
            JobOwner::Files(group) => Some(*group),
            _ => None,
        });
        written.extend(files);
        rig.run_jobs();
    }
    assert_eq!(written.len(), groups.len(), "each was written once before any was written often");
}

#[test]
fn a_start_goes_on_where_files_and_wal_end() {
    let limits = ShardLimits { tail_bytes_max: 512 << 10, ..Setup::default().limits };
    let mut rig = Rig::with(Setup { limits, segments_kept: 1, ..Setup::default() });
    let group = rig.topic(TOPIC, 1, &[("segment.bytes", "1048576")]);
    rig.fill(group, 60, 50 << 10);
    rig.advance(1_000);
    rig.fill(group, 1, 100);
    for _ in 0..3 {
        rig = rig.crash();
        let tail = rig.shard.driver.tail(group).expect("a tail");
        assert!(tail.bytes() <= 512 << 10, "memory stays bounded: {}", tail.bytes());
        assert_eq!(rig.read_all(group, 0), (0..61).collect::<Vec<_>>());
    }
    let unwritten = rig.shard.partitions[&group].unwritten_bytes;
    rig.advance(1_000);
    assert_eq!(rig.shard.partitions[&group].unwritten_bytes, 0, "of {unwritten}");
}

#[test]
fn what_consumers_read_from_the_files_stays_in_the_page_cache() {
    let limits = ShardLimits { tail_bytes_max: 512 << 10, ..Setup::default().limits };
    let mut rig = Rig::with(Setup { limits, ..Setup::default() });
    let group = rig.topic(TOPIC, 1, &[]);
    let past_cache = |rig: &mut Rig| {
        rig.fill(group, 20, 50 << 10);
        rig.advance(3_000);
        rig.shard.partitions[&group].files.writes_past_cache()
    };
    assert!(past_cache(&mut rig), "nobody has read");
    let end = rig.shard.partitions[&group].high_watermark;
    rig.fetch(group, end.0);
    assert!(past_cache(&mut rig), "who reads at the end reads from memory");
    assert!(!rig.read_all(group, 0).is_empty());
    assert!(!past_cache(&mut rig), "somebody is behind");
    rig.advance(60_000);
    assert!(past_cache(&mut rig), "nobody is any more");
}

/// The partition that found the disk full is deleted, and nothing else is to be written: what it could not write does not count any more.
#[test]
fn a_disk_that_was_full_for_a_deleted_partition_is_not_full_any_more() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    // The metadata are written by then: they would be a success.
    rig.advance(1_000);
    rig.disk.set_faults(SimFaults { capacity: Some(1), ..SimFaults::default() });
    rig.fill(group, 1, 1_000);
    rig.advance(1_000);
    assert!(rig.shard.write_behind.is_full());
    rig.disk.set_faults(SimFaults::default());
    rig.shard.remove_partition(group);
    rig.advance(5_000);
    assert!(!rig.shard.write_behind.is_full());
}
