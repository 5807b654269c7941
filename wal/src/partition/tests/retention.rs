//! Which segments go, and when.

use super::*;

const WEEK_MS: i64 = 604_800_000;

/// Ten batches, two a segment, 100 ms apart from 1,100 on.
fn ten_batches() -> (Rig, Maker, u64) {
    let mut maker = Maker::new();
    let entries: Vec<_> = (0..10).map(|_| maker.batch(1, 100)).collect();
    let bytes = entries[0].data.len() as u64;
    let mut rig = Rig::small_segments(2 * bytes);
    rig.append(&entries);
    assert_eq!(rig.log.segment_count(), 5);
    (rig, maker, bytes)
}

#[test]
fn segments_go_when_their_last_record_is_too_old() {
    let (rig, ..) = ten_batches();
    let candidate =
        |wall_ms| rig.log.retention_candidate(-1, 1000, wall_ms, KafkaOffset(10)).map(|offset| offset.0);
    assert_eq!(candidate(2100), None);
    assert_eq!(
        candidate(2200),
        None,
        "the first segment's highest timestamp is 1200: just not older than 1000"
    );
    assert_eq!(candidate(2201), Some(2));
    assert_eq!(candidate(2601), Some(6));
    assert_eq!(candidate(WEEK_MS), Some(10), "all of the active one has expired too");
    assert_eq!(rig.log.retention_candidate(-1, -1, WEEK_MS, KafkaOffset(10)), None);
    assert_eq!(
        rig.log.retention_candidate(-1, 1000, WEEK_MS, KafkaOffset(5)),
        Some(KafkaOffset(4)),
        "never beyond the high watermark"
    );
}

#[test]
fn segments_go_when_the_rest_is_large_enough() {
    let (rig, _, bytes) = ten_batches();
    let candidate = |batches: u64, more: i64| {
        let retained = (batches * bytes).cast_signed() + more;
        rig.log.retention_candidate(retained, -1, 0, KafkaOffset(10)).map(|offset| offset.0)
    };
    assert_eq!(candidate(10, 0), None);
    assert_eq!(candidate(8, 1), None, "as in Kafka, at least so much stays");
    assert_eq!(candidate(8, 0), Some(2));
    assert_eq!(candidate(3, 0), Some(6));
    assert_eq!(candidate(0, 0), Some(10));
}

#[test]
fn batches_without_timestamps_age_from_when_they_were_appended() {
    let mut rig = Rig::new(SimDisk::new(1));
    let mut entry = Maker::new().batch(1, 1);
    entry.data = {
        let mut builder = crate::records::BatchBuilder::new().leader_epoch(LeaderEpoch(1));
        builder.push(-1, None, Some(b"x"));
        builder.build().unwrap().freeze()
    };
    rig.wall_ms = 5000;
    rig.append(&[entry]);
    assert_eq!(rig.log.max_timestamp(), -1);
    assert!(rig.log.find_time(0, KafkaOffset(0), NO_LIMIT).is_none());
    assert_eq!(rig.log.retention_candidate(-1, 1000, 6000, KafkaOffset(1)), None);
    assert_eq!(rig.log.retention_candidate(-1, 1000, 6001, KafkaOffset(1)), Some(KafkaOffset(1)));
}

#[test]
fn an_expired_partition_keeps_its_end_offset_and_term() {
    let (mut rig, mut maker, _) = ten_batches();
    let candidate = rig.log.retention_candidate(-1, 1000, WEEK_MS, KafkaOffset(10)).unwrap();
    rig.append(&[maker.log_start(candidate.0)]);
    let start = rig.log.drop_point(candidate).unwrap();
    assert_eq!((start.index, start.term, start.offset), (RaftIndex(10), Term(1), KafkaOffset(10)));
    let job = rig.drop_below(candidate, 0, 60_000).unwrap();
    rig.run(job).unwrap();
    assert_eq!((rig.log.segment_count(), rig.log.bytes()), (1, 0));
    assert_eq!(rig.log.start(), start);
    let written = rig.log.written();
    assert_eq!((written.index, written.term, written.next_offset), (RaftIndex(11), Term(1), KafkaOffset(10)));
    assert_eq!(rig.log.term_of(RaftIndex(10)), Some(Term(1)));
    assert_eq!(rig.log.term_of(RaftIndex(9)), None);
    assert_eq!(rig.log.retention_candidate(0, 0, WEEK_MS, KafkaOffset(10)), None);

    let point = rig.sync();
    rig.reopen(point, start);
    assert_eq!((rig.log.written(), rig.log.start()), (written, start));
    let entry = maker.batch(2, 10);
    rig.append(std::slice::from_ref(&entry));
    assert_eq!(rig.read_all(10), entry.data);
}

#[test]
fn a_log_start_within_a_segment_keeps_it() {
    let (mut rig, ..) = ten_batches();
    assert!(rig.log.drop_point(KafkaOffset(1)).is_none());
    assert!(rig.drop_below(KafkaOffset(1), 0, 0).is_none());
    let job = rig.drop_below(KafkaOffset(3), 0, 0).unwrap();
    rig.run(job).unwrap();
    assert_eq!(rig.log.start().base_offset, KafkaOffset(2));
    assert_eq!(rig.try_read(3, 1, true).unwrap().unwrap().next_offset, KafkaOffset(4));
    assert!(rig.drop_below(KafkaOffset(10), 0, 0).is_some(), "but the active one stays");
}

#[test]
fn dropped_files_are_unlinked_after_the_delay() {
    let (mut rig, ..) = ten_batches();
    let deleted = |rig: &Rig| {
        let names = rig.disk.list_dir(&rig.dir()).unwrap();
        names.iter().filter(|entry| entry.name.ends_with(".deleted")).count()
    };
    let job = rig.drop_below(KafkaOffset(4), 1000, 60_000).unwrap();
    assert!(rig.log.is_busy() && rig.log.sync().is_none());
    rig.run(job).unwrap();
    // Two segments of three files, and the snapshot taken where the second one begins.
    assert_eq!(deleted(&rig), 7);
    assert!(rig.log.tick(60_999).is_none());
    let job = rig.log.tick(61_000).unwrap();
    rig.run(job).unwrap();
    assert_eq!(deleted(&rig), 0);
    assert!(rig.log.tick(u64::MAX).is_none());
}

#[test]
fn a_reset_begins_anew_at_the_snapshot() {
    let (mut rig, mut maker, _) = ten_batches();
    rig.sync();
    let start = LogStart {
        index: RaftIndex(500),
        term: Term(9),
        offset: KafkaOffset(1003),
        base_offset: KafkaOffset(1000),
    };
    let job = rig.log.reset(start, 0, 0).unwrap();
    rig.run(job).unwrap();
    assert_eq!((rig.log.written().index, rig.log.written().next_offset), (RaftIndex(500), KafkaOffset(1000)));
    assert_eq!(rig.log.synced(), rig.log.written());
    (maker.index, maker.offset, maker.term) = (500, 1000, 9);
    let entries = maker.mixed(20);
    rig.append(&entries);
    assert_eq!(rig.entries(501), entries);
    let point = rig.sync();
    rig.reopen(point, start);
    assert_eq!(rig.entries(501), entries);
    assert_eq!(rig.log.start().index, RaftIndex(500));
}

/// A segment that is rolled between the durable log start and the drop stays, although it too lies below the offset.
#[test]
fn only_what_the_durable_log_start_says_is_dropped() {
    let (mut rig, mut maker, _) = ten_batches();
    let end = rig.log.written().next_offset;
    let durable = rig.log.drop_point(end).unwrap();
    let segments = rig.log.segment_count();

    let more: Vec<LogEntry> = (0..4).map(|_| maker.batch(1, 40)).collect();
    rig.append(&more);
    assert!(rig.log.segment_count() > segments, "the segment that was active is sealed now");
    assert!(rig.log.drop_point(end).unwrap().index > durable.index);
    let job = rig.log.drop_below(durable, 0, 0).unwrap();
    rig.run(job).unwrap();
    assert_eq!(rig.log.start(), durable);
}
