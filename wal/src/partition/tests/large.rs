//! The time to open does not grow with what a partition holds.

use std::time::{Duration, Instant};

use super::reading::on_disk;
use super::*;

/// Opens a partition of many small segments on a real disk.
fn open_many(segment_count: usize) -> Duration {
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
fn a_thousand_segments_open_in_bounded_time() {
    // Some 30 ms; the bound leaves room for a machine that does eight other things.
    let took = open_many(1000);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn opening_reads_only_the_tail_of_the_log() {
    let disk = Arc::new(SimDisk::new(1));
    let mut rig = Rig::at(disk.clone(), store());
    rig.policy.segment_bytes = 400_000;
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..500).map(|_| maker.batch(1, 2000)).collect();
    rig.append(&entries);
    let point = rig.sync();
    assert_eq!(rig.log.segment_count(), 3);
    // Whoever read the segments from their start would stumble over this.
    for segment in &rig.log.segments {
        let log = segment.files.path(names::Part::Log);
        disk.flip_bit(&log, 20 * entries[0].data.len() as u64 + 80, 3);
    }
    rig.reopen(point, LogStart::default());
    assert_eq!(rig.log.written(), point);
}

#[test]
#[ignore = "a measurement: writes 4 GB; run it alone, with --release and --nocapture"]
fn measure() {
    let (store, _guard) = on_disk();
    let mut rig = Rig::at(Arc::new(crate::disk::OsDisk), store);
    rig.log = PartitionLog::new(&rig.store, identity(), LogStart::default(), FileLimits::default());
    rig.policy.segment_bytes = 1 << 30;
    let mut maker = Maker::new();
    let mut appending = Duration::ZERO;
    while rig.log.bytes() < 4 << 30 {
        let entries: Vec<_> = (0..512).map(|_| maker.batch(1, 16_000)).collect();
        let begun = Instant::now();
        rig.append(&entries);
        appending += begun.elapsed();
    }
    report("append", rig.log.bytes(), appending);
    let begun = Instant::now();
    let point = rig.sync();
    report("sync", 0, begun.elapsed());
    let begun = Instant::now();
    rig.reopen(point, LogStart::default());
    report("open", rig.log.bytes(), begun.elapsed());
    let begun = Instant::now();
    let (mut next, mut bytes) = (0, 0);
    while let Some(read) = rig.try_read(next, READ_BYTES_MAX, true) {
        let read = read.unwrap();
        bytes += read.data.len() as u64;
        next = read.next_offset.0;
    }
    report("read", bytes, begun.elapsed());
    report("open 10,000 segments", 0, open_many(10_000));

    let mut many = Duration::ZERO;
    rig.policy.segment_bytes = 1 << 30;
    for _ in 0..20_000 {
        let entry = maker.batch(1, 4000);
        let begun = Instant::now();
        rig.append(&[entry]);
        many += begun.elapsed();
    }
    report("20,000 appends of 4 KB", 80_000_000, many);
}

fn report(what: &str, bytes: u64, took: Duration) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{what}: {bytes} bytes in {took:?}");
}
