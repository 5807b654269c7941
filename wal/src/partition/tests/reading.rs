//! What is read is what was appended.

use super::*;

#[test]
fn reads_cross_segments_and_begin_at_the_batch_that_holds_the_offset() {
    let mut rig = Rig::small_segments(1500);
    let entries = Maker::new().mixed(120);
    rig.append(&entries);
    assert!(rig.log.segment_count() > 4);
    let all = batch_bytes(&entries);
    assert_eq!(rig.read_all(0), all);
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Batch) {
        let position = all.windows(8).position(|bytes| bytes == entry.base_offset.0.to_be_bytes()).unwrap();
        for inside in 0..3 {
            let read = rig.try_read(entry.base_offset.0 + inside, 1, true).unwrap().unwrap();
            assert_eq!(read.data, entry.data, "at position {position}");
            assert_eq!(read.next_offset, entry.next_offset());
        }
    }
    let end = rig.log.written().next_offset;
    assert!(rig.try_read(end.0, 1000, true).is_none());
    assert!(rig.log.read(KafkaOffset(5), KafkaOffset(5), 1000, true).is_none());
}

#[test]
fn a_read_stops_at_a_batch_boundary_below_its_bounds() {
    let mut rig = Rig::new(SimDisk::new(1));
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..4).map(|_| maker.batch(3, 10)).collect();
    rig.append(&entries);
    let read = |up_to, bytes| {
        let job = rig.log.read(KafkaOffset(0), KafkaOffset(up_to), bytes, true).unwrap();
        match job.run(&*rig.disk) {
            FileDone::Read(Ok(read)) => (read.data.len() / entries[0].data.len(), read.next_offset.0),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(12, 1 << 20), (4, 12));
    assert_eq!(read(11, 1 << 20), (3, 9));
    assert_eq!(read(2, 1 << 20), (0, 0));
    assert_eq!(read(12, entries[0].data.len() * 2 + 1), (2, 6));
    assert_eq!(read(12, 0), (1, 3));
}

#[test]
fn entries_come_back_in_the_order_of_raft() {
    let mut rig = Rig::small_segments(1500);
    let entries = Maker::new().mixed(150);
    rig.append(&entries);
    for from in 1..=150 {
        assert_eq!(rig.entries(from), entries[from as usize - 1..]);
    }
    assert!(rig.log.read_entries(RaftIndex(0), 100).is_none());
    assert!(rig.log.read_entries(RaftIndex(151), 100).is_none());
    for entry in &entries {
        assert_eq!(rig.log.term_of(entry.index), Some(entry.term));
    }
    let others: Vec<_> = entries.iter().filter(|entry| entry.kind != EntryKind::Batch).collect();
    assert_eq!(rig.log.other_entries(RaftIndex(1)).collect::<Vec<_>>(), others);
    let terms: Vec<_> = rig.log.term_runs().iter().map(|run| run.term.0).collect();
    assert_eq!(terms, (2..=maker_term(&entries)).collect::<Vec<_>>());
}

fn maker_term(entries: &[LogEntry]) -> u64 {
    entries.last().unwrap().term.0
}

#[test]
fn a_time_is_found_where_a_scan_finds_it() {
    let mut rig = Rig::small_segments(1500);
    let mut maker = Maker::new();
    let mut entries = maker.mixed(40);
    // Time goes back and forth.
    maker.clock_ms -= 3000;
    entries.extend(maker.mixed(30));
    maker.clock_ms += 9000;
    entries.extend(maker.mixed(30));
    rig.append(&entries);
    let mut records = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Batch) {
        let opened = crate::records::Records::open(&entry.data, &Default::default()).unwrap();
        for record in &opened {
            let record = record.unwrap();
            records.push((record.offset.0, record.timestamp));
        }
    }
    for timestamp in (900..16_000).step_by(37) {
        for from in [0, 7, 100] {
            let wanted = records.iter().find(|record| record.1 >= timestamp && record.0 >= from);
            assert_eq!(rig.find_time(timestamp, from), wanted.copied(), "{timestamp} from {from}");
        }
    }
    let highest = records.iter().map(|record| record.1).max().unwrap();
    assert_eq!(rig.log.max_timestamp(), highest);
    assert_eq!(rig.find_time(highest, 0).unwrap().1, highest);
    let job = rig.log.find_time(highest, KafkaOffset(0), KafkaOffset(10)).unwrap();
    assert!(matches!(job.run(&*rig.disk), FileDone::FoundTime(Ok(None))));
}

#[test]
fn a_reader_sees_what_was_written_when_it_asked() {
    let mut rig = Rig::new(SimDisk::new(1));
    let mut maker = Maker::new();
    let first = maker.batch(3, 10);
    rig.append(std::slice::from_ref(&first));
    let job = rig.log.read(KafkaOffset(0), NO_LIMIT, 1 << 20, true).unwrap();
    let held = rig.try_read(0, 1 << 20, true).unwrap().unwrap();
    rig.append(&[maker.batch(3, 10)]);
    match job.run(&*rig.disk) {
        FileDone::Read(Ok(read)) => assert_eq!(read.data, first.data),
        other => panic!("{other:?}"),
    }
    assert_eq!(held.data, first.data);
}

#[test]
fn bytes_outlive_the_segment_that_they_come_from() {
    let (store, _guard) = on_disk();
    let mut rig = Rig::at(Arc::new(crate::disk::OsDisk), store);
    rig.policy.segment_bytes = 500;
    let entries = Maker::new().mixed(60);
    rig.append(&entries);
    let read = rig.try_read(0, 400, true).unwrap().unwrap();
    let late = rig.log.read(KafkaOffset(0), NO_LIMIT, 100, true).unwrap();
    let start = rig.log.written().next_offset;
    let job = rig.drop_below(start, 0, 0).unwrap();
    rig.run(job).unwrap();
    let unlink = rig.log.tick(0).unwrap();
    rig.run(unlink).unwrap();
    assert_eq!(read.data, batch_bytes(&entries)[..read.data.len()]);
    assert!(matches!(late.run(&*rig.disk), FileDone::Read(Err(FilesError::Gone { .. }))));
    // Nothing in the cache keeps the space of what is gone: only files of the segment that stays.
    assert!(rig.store.cache.len() <= 5, "{} handles", rig.store.cache.len());
    assert!(rig.try_read(0, 100, true).is_none());
}

/// Batches of up to 90 KB, some longer than a whole read, read in large pieces: what comes from a buffer is what comes from
/// the mapping, whichever of the two it was.
fn large_reads(mut rig: Rig) -> Rig {
    rig.policy.segment_bytes = 6 << 20;
    rig.log.set_past_cache(true);
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..200_usize)
        .map(|number| maker.batch(2, if number % 67 == 40 { 700_000 } else { number * 7_919 % 45_000 }))
        .collect();
    rig.append(&entries);
    assert!(rig.log.segment_count() > 1);
    let all = batch_bytes(&entries);
    for max_bytes in [300_000, 1 << 20, 2 << 20] {
        for _ in 0..2 {
            let (mut read_bytes, mut next) = (Vec::new(), 0);
            while let Some(read) = rig.try_read(next, max_bytes, true) {
                let read = read.unwrap();
                assert!(read.next_offset.0 > next, "a read goes on");
                read_bytes.extend_from_slice(&read.data);
                next = read.next_offset.0;
            }
            assert!(read_bytes == all, "{} bytes of {}", read_bytes.len(), all.len());
        }
    }
    rig
}

#[test]
fn large_reads_of_what_is_not_in_memory_go_past_the_cache_once() {
    let rig = large_reads(Rig::new(SimDisk::new(1)));
    let out = |rig: &Rig| rig.store.cache.buffers.out();
    let forget =
        |rig: &Rig| rig.log.segments.iter().for_each(|segment| rig.store.cache.let_go(&segment.files));
    forget(&rig);
    assert_eq!(out(&rig), 0, "every buffer has come back");
    // Opened anew, nothing is known of what was read before.
    let first = rig.try_read(0, 1 << 20, true).unwrap().unwrap();
    assert_eq!(out(&rig), 1, "read past the cache");
    let second = rig.try_read(first.next_offset.0, 900_000, true).unwrap().unwrap();
    assert_eq!(out(&rig), 1, "what follows was read with it");
    assert!(!first.data.is_empty() && !second.data.is_empty());
    drop(second);
    rig.store.cache.buffers.forget(rig.log.segments[0].files.id);
    let again = rig.try_read(0, 1 << 20, true).unwrap().unwrap();
    assert!(first.data == again.data && out(&rig) == 1, "read a second time by the mapping");
    drop((first, again));
    let small = rig.try_read(0, 200_000, true).unwrap().unwrap();
    assert!(!small.data.is_empty() && out(&rig) == 0, "small reads are left to the page cache");
}

#[test]
fn large_reads_of_a_real_file_give_what_was_written() {
    let (store, _guard) = on_disk();
    large_reads(Rig::at(Arc::new(crate::disk::OsDisk), store));
}

#[test]
fn the_cache_stays_bounded() {
    let (mut store, _guard) = on_disk();
    store.cache = Arc::new(FileCache::new(5));
    let mut rig = Rig::at(Arc::new(crate::disk::OsDisk), store);
    rig.policy.segment_bytes = 500;
    let entries = Maker::new().mixed(100);
    rig.append(&entries);
    rig.sync();
    assert_eq!(rig.read_all(0), batch_bytes(&entries));
    assert_eq!(rig.entries(1), entries);
    assert!(rig.store.cache.len() <= 5);
}

/// Kilobytes of a file that count as this process's memory through mappings.
fn mapped_kib(path: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut of_file = false;
    let mut total = 0;
    for line in maps.lines() {
        match line.split_once(char::is_whitespace) {
            Some((first, _)) if !first.ends_with(':') => of_file = line.ends_with(path.to_str().unwrap()),
            Some(("Rss:", rest)) if of_file => {
                total += rest.trim().trim_end_matches(" kB").parse::<usize>().unwrap();
            }
            _ => {}
        }
    }
    total
}

#[test]
fn a_backlog_that_was_read_does_not_stay_in_memory() {
    let (store, _guard) = on_disk();
    let mut rig = Rig::at(Arc::new(crate::disk::OsDisk), store);
    rig.policy.segment_bytes = 1 << 30;
    let mut maker = Maker::new();
    let size_kib = 128 << 10;
    while rig.log.bytes() < size_kib << 10 {
        rig.append(&[maker.batch(1, 1_000_000)]);
    }
    let log = rig.log.segments[0].files.path(names::Part::Log);
    let bound_kib = (mapped::IDLE_WINDOWS_MAX + 3) << 10;
    let mut held = Vec::new();
    for keep in [false, true] {
        let mut next = 0;
        while let Some(read) = rig.try_read(next, READ_BYTES_MAX, true) {
            let read = read.unwrap();
            next = read.next_offset.0;
            held.push(read.data);
            if !keep {
                held.clear();
                let kib = mapped_kib(&log);
                assert!(kib <= bound_kib, "{kib} KiB are mapped at offset {next}");
            }
        }
    }
    let kib = mapped_kib(&log);
    assert!(kib as u64 > size_kib * 9 / 10, "{kib} KiB are mapped while all of it is in use");
    drop(held);
    let kib = mapped_kib(&log);
    assert!(kib <= bound_kib, "{kib} KiB are mapped after use");
}

/// A store in a directory of its own, which the guard removes.
pub(super) fn on_disk() -> (FileStore, tempfile::TempDir) {
    let guard = tempfile::tempdir().unwrap();
    let data_dir = guard.path().join("data");
    (FileStore { data_dir, cache: Arc::new(FileCache::new(64)) }, guard)
}
