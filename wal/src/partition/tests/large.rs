//! The time to open does not grow with what a partition holds.

use std::time::Instant;

use super::reading::on_disk;
use super::*;

/// Many small segments on a real disk. Run with `--ignored --nocapture` for the figures in the crate's documentation.
fn open_many(segment_count: usize) -> std::time::Duration {
    let (store, _guard) = on_disk();
    let mut rig = Rig::at(Arc::new(crate::disk::OsDisk), store);
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..segment_count).map(|_| maker.batch(1, 10)).collect();
    rig.policy.segment_bytes = 1;
    rig.append(&entries);
    let point = rig.log.written();
    assert_eq!(rig.log.segment_count(), segment_count);
    let begun = Instant::now();
    rig.reopen(point, LogStart::default());
    let took = begun.elapsed();
    assert_eq!(rig.log.segment_count(), segment_count);
    assert_eq!(rig.read_all(segment_count as i64 - 3), batch_bytes(&entries[segment_count - 3..]));
    took
}

#[test]
fn a_thousand_segments_open_quickly() {
    let took = open_many(1000);
    assert!(took.as_millis() < 2000, "{took:?}");
}

#[test]
fn opening_reads_only_the_tail_of_the_active_segment() {
    let disk = Arc::new(SimDisk::new(1));
    let mut rig = Rig::at(disk.clone(), store());
    rig.policy.segment_bytes = 1 << 30;
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..500).map(|_| maker.batch(1, 2000)).collect();
    rig.append(&entries);
    let point = rig.sync();
    // Whoever read the log from its start would stumble over this.
    let log = rig.dir().join("00000000000000000000.log");
    disk.flip_bit(&log, 100 * entries[0].data.len() as u64 + 80, 3);
    rig.reopen(point, LogStart::default());
    assert_eq!(rig.log.written(), point);
}

#[test]
#[ignore = "a measurement: needs a quiet machine"]
fn measure_opening_ten_thousand_segments() {
    let took = open_many(10_000);
    assert!(took.as_millis() < 5000, "{took:?}");
    std::fs::write("/tmp/chronik-open-10k.txt", format!("{took:?}\n")).unwrap();
}
