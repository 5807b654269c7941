//! Tests of idempotence: windows, wraps, epochs, duplicates in flight, bounds, the snapshot file.

use proptest::prelude::*;

use super::*;
use crate::batch::peek;
use crate::records::BatchBuilder;

const TERM: Term = Term(4);

/// A batch of `count` records as it is after assignment.
fn batch(producer_id: i64, epoch: i16, sequence: i32, count: i32, base_offset: i64) -> BatchInfo {
    let mut builder =
        BatchBuilder::new().producer(producer_id, epoch, sequence).base_offset(KafkaOffset(base_offset));
    for _ in 0..count {
        builder.push(base_offset * 10, None, None);
    }
    peek(&builder.build().unwrap()).unwrap()
}

fn table() -> ProducerTable {
    ProducerTable::new(ProducerLimits::default())
}

/// Applies `count` batches of one record each of producer 7, epoch 0, from sequence and offset 0.
fn table_with(count: i32) -> ProducerTable {
    let mut table = table();
    for number in 0..count {
        let offset = i64::from(number);
        table.apply(&batch(7, 0, number, 1, offset), RaftIndex(offset as u64 + 1), 1000);
    }
    table
}

fn duplicate(base_offset: i64) -> ProducerCheck {
    ProducerCheck::Duplicate { base_offset: KafkaOffset(base_offset), timestamp: base_offset * 10 }
}

fn in_flight(index: u64, base_offset: i64) -> ProducerCheck {
    let base_offset = KafkaOffset(base_offset);
    ProducerCheck::DuplicateInFlight { index: RaftIndex(index), term: TERM, base_offset }
}

#[test]
fn batches_without_a_producer_are_not_judged() {
    let mut table = table();
    let plain = batch(-1, -1, -1, 3, 0);
    assert_eq!(table.check(&plain), ProducerCheck::New);
    table.propose(&plain, RaftIndex(1), TERM);
    table.apply(&plain, RaftIndex(1), 0);
    assert!(table.is_empty());
}

#[test]
fn the_last_five_batches_are_known_again() {
    let table = table_with(7);
    for number in 0..2 {
        let old = batch(7, 0, number, 1, 99);
        assert_eq!(table.check(&old), ProducerCheck::OutOfOrder { expected: 7 });
    }
    for number in 2..7 {
        assert_eq!(table.check(&batch(7, 0, number, 1, 99)), duplicate(i64::from(number)));
    }
    assert_eq!(table.check(&batch(7, 0, 7, 4, 99)), ProducerCheck::New);
    assert_eq!(table.check(&batch(7, 0, 8, 1, 99)), ProducerCheck::OutOfOrder { expected: 7 });
    // The same first sequence number with another last one is another batch.
    assert_eq!(table.check(&batch(7, 0, 6, 2, 99)), ProducerCheck::OutOfOrder { expected: 7 });
}

#[test]
fn an_unknown_producer_may_begin_anywhere() {
    assert_eq!(table().check(&batch(7, 0, 500, 1, 0)), ProducerCheck::New);
    assert_eq!(table_with(1).check(&batch(8, 3, 500, 1, 0)), ProducerCheck::New);
}

#[test]
fn sequences_go_on_over_the_wrap() {
    let mut table = table();
    let last = batch(7, 0, i32::MAX - 1, 4, 0);
    assert_eq!(last.last_sequence(), 1);
    table.apply(&last, RaftIndex(1), 0);
    assert_eq!(table.check(&batch(7, 0, 2, 1, 4)), ProducerCheck::New);
    assert_eq!(table.check(&last), duplicate(0));
    assert_eq!(table.check(&batch(7, 0, 3, 1, 4)), ProducerCheck::OutOfOrder { expected: 2 });

    let mut exact = ProducerTable::new(ProducerLimits::default());
    exact.apply(&batch(7, 0, i32::MAX, 1, 0), RaftIndex(1), 0);
    assert_eq!(exact.check(&batch(7, 0, 0, 1, 1)), ProducerCheck::New);
}

#[test]
fn a_new_epoch_begins_at_zero_and_fences_the_old() {
    let mut table = table_with(3);
    assert_eq!(table.check(&batch(7, 1, 3, 1, 9)), ProducerCheck::OutOfOrder { expected: 0 });
    let bumped = batch(7, 1, 0, 1, 9);
    assert_eq!(table.check(&bumped), ProducerCheck::New);
    table.propose(&bumped, RaftIndex(9), TERM);
    // Fenced from the moment that the newer epoch is in flight.
    assert_eq!(table.check(&batch(7, 0, 3, 1, 9)), ProducerCheck::InvalidEpoch { current: 1 });
    assert_eq!(table.check(&batch(7, 0, 2, 1, 9)), ProducerCheck::InvalidEpoch { current: 1 });
    table.apply(&bumped, RaftIndex(9), 0);
    assert_eq!(table.check(&batch(7, 0, 2, 1, 9)), ProducerCheck::InvalidEpoch { current: 1 });
    assert_eq!(table.check(&bumped), duplicate(9));
    assert_eq!(table.check(&batch(7, 1, 1, 1, 9)), ProducerCheck::New);
}

#[test]
fn a_batch_is_ahead_when_earlier_ones_are_not_known() {
    let table = table_with(2);
    let is_ahead = |producer, epoch, sequence| table.is_ahead(&batch(producer, epoch, sequence, 1, 9));
    let due = table.producers[&7].next_sequence();
    assert!(is_ahead(7, 0, due + 1) && is_ahead(7, 0, due + 1_000));
    assert!(!is_ahead(7, 0, due) && !is_ahead(7, 0, due - 1));
    assert!(is_ahead(7, 1, 1) && !is_ahead(7, 1, 0), "a newer epoch begins at 0");
    assert!(is_ahead(8, 0, 1) && !is_ahead(8, 0, 0), "so does a producer that is not known");
    let mut wrapping = table_with(0);
    wrapping.apply(&batch(7, 0, i32::MAX, 1, 0), RaftIndex(1), 0);
    assert!(wrapping.is_ahead(&batch(7, 0, 1, 1, 1)) && !wrapping.is_ahead(&batch(7, 0, 0, 1, 1)));
    assert!(!wrapping.is_ahead(&batch(7, 0, i32::MAX - 5, 1, 1)));
}

#[test]
fn a_duplicate_in_flight_waits_for_the_very_same_entry() {
    let mut table = table_with(2);
    for number in 2..9 {
        let next = batch(7, 0, number, 1, i64::from(number));
        assert_eq!(table.check(&next), ProducerCheck::New);
        table.propose(&next, RaftIndex(number as u64 + 1), TERM);
    }
    for number in 2..9 {
        let again = batch(7, 0, number, 1, 99);
        assert_eq!(table.check(&again), in_flight(number as u64 + 1, i64::from(number)));
    }
    assert_eq!(table.check(&batch(7, 0, 1, 1, 99)), duplicate(1));
    assert_eq!(table.check(&batch(7, 0, 10, 1, 99)), ProducerCheck::OutOfOrder { expected: 9 });

    table.apply(&batch(7, 0, 2, 1, 2), RaftIndex(3), 0);
    assert_eq!(table.check(&batch(7, 0, 2, 1, 99)), duplicate(2));
    assert_eq!(table.check(&batch(7, 0, 3, 1, 99)), in_flight(4, 3));
}

#[test]
fn a_new_producer_in_flight_is_forgotten_with_its_proposal() {
    let mut table = table_with(1);
    let first = batch(8, 0, 40, 1, 1);
    table.propose(&first, RaftIndex(2), TERM);
    assert_eq!(table.len(), 2);
    assert_eq!(table.check(&first), in_flight(2, 1));
    assert_eq!(table.check(&batch(8, 0, 42, 1, 1)), ProducerCheck::OutOfOrder { expected: 41 });
    table.abandon_in_flight();
    assert_eq!(table.len(), 1);
    assert_eq!(table.check(&first), ProducerCheck::New);
}

#[test]
fn truncation_abandons_from_an_index_up() {
    let mut table = table_with(1);
    for number in 1..4 {
        table.propose(&batch(7, 0, number, 1, i64::from(number)), RaftIndex(number as u64 + 1), TERM);
    }
    table.abandon_in_flight_from(RaftIndex(3));
    assert_eq!(table.check(&batch(7, 0, 1, 1, 99)), in_flight(2, 1));
    assert_eq!(table.check(&batch(7, 0, 2, 1, 99)), ProducerCheck::New);
    assert_eq!(table.check(&batch(7, 0, 3, 1, 99)), ProducerCheck::OutOfOrder { expected: 2 });
}

/// The proposal was truncated by another leader's entry at the same index, without word from above.
#[test]
fn an_entry_of_another_at_the_index_settles_what_was_proposed_there() {
    let mut table = table_with(1);
    table.propose(&batch(8, 0, 0, 1, 1), RaftIndex(2), TERM);
    table.apply(&batch(9, 0, 0, 1, 1), RaftIndex(2), 0);
    assert_eq!(table.len(), 2);
    assert_eq!(table.check(&batch(8, 0, 0, 1, 2)), ProducerCheck::New);
}

#[test]
fn idle_producers_expire_by_the_time_of_their_last_apply() {
    let limits = ProducerLimits { expiration_ms: 100, ..ProducerLimits::default() };
    let mut table = ProducerTable::new(limits);
    table.apply(&batch(1, 0, 0, 1, 0), RaftIndex(1), 1000);
    table.apply(&batch(2, 0, 0, 1, 1), RaftIndex(2), 1050);
    table.apply(&batch(3, 0, 0, 1, 2), RaftIndex(3), 1000);
    table.propose(&batch(3, 0, 1, 1, 3), RaftIndex(4), TERM);
    assert_eq!(table.expire(1099), 0);
    assert_eq!(table.expire(1100), 1);
    assert_eq!(table.check(&batch(1, 0, 77, 1, 9)), ProducerCheck::New);
    assert_eq!(table.check(&batch(2, 0, 0, 1, 9)), duplicate(1));
    assert_eq!(table.check(&batch(3, 0, 0, 1, 9)), duplicate(2));
}

#[test]
fn the_least_recently_used_make_room() {
    let limits = ProducerLimits { producers_max: 100, ..ProducerLimits::default() };
    let mut table = ProducerTable::new(limits);
    table.propose(&batch(0, 0, 0, 1, 0), RaftIndex(1_000_000), TERM);
    let mut index = 0;
    for producer_id in 1..1000 {
        for (id, sequence) in [(producer_id, 0), (5, producer_id as i32)] {
            index += 1;
            table.apply(&batch(id, 0, sequence, 1, index), RaftIndex(index as u64), 0);
        }
        assert!(table.len() <= 100);
    }
    assert!(table.len() > 90);
    // The busy one, the newest and the one with a batch in flight are there; an old one is not.
    assert_eq!(table.check(&batch(5, 0, 1000, 1, 0)), ProducerCheck::New);
    assert_eq!(table.check(&batch(5, 0, 1001, 1, 0)), ProducerCheck::OutOfOrder { expected: 1000 });
    assert!(matches!(table.check(&batch(999, 0, 0, 1, 0)), ProducerCheck::Duplicate { .. }));
    assert_eq!(table.check(&batch(0, 0, 0, 1, 0)), in_flight(1_000_000, 0));
    assert_eq!(table.check(&batch(1, 0, 77, 1, 0)), ProducerCheck::New);
}

#[test]
fn a_snapshot_keeps_all_five_batches() {
    let mut table = table_with(7);
    table.apply(&batch(8, 2, i32::MAX - 1, 4, 7), RaftIndex(8), 1000);
    table.propose(&batch(9, 0, 0, 1, 11), RaftIndex(9), TERM);
    let bytes = table.encode_snapshot();
    assert_eq!(bytes.len(), 10 + 46 * 6);
    let read = ProducerTable::decode_snapshot(&bytes, ProducerLimits::default(), 5000).unwrap();
    for number in 2..7 {
        assert_eq!(read.check(&batch(7, 0, number, 1, 99)), duplicate(i64::from(number)));
    }
    assert_eq!(read.check(&batch(7, 0, 8, 1, 99)), ProducerCheck::OutOfOrder { expected: 7 });
    assert_eq!(read.check(&batch(8, 2, i32::MAX - 1, 4, 99)), duplicate(7));
    assert_eq!(read.check(&batch(8, 1, 0, 1, 99)), ProducerCheck::InvalidEpoch { current: 2 });
    assert_eq!(read.check(&batch(9, 0, 5, 1, 99)), ProducerCheck::New);
    assert_eq!(read.encode_snapshot(), bytes);
}

/// A file that Kafka 4.3.1's `ProducerStateManager` wrote: producer 4242, epoch 3, one batch of two records at offset 100
/// with the sequence numbers 7 and 8.
#[test]
fn a_snapshot_of_kafka_is_read() {
    let hex = "0001151f6b740000000100000000000010920003000000080000000000000065000000010000000000\
               0003e8ffffffffffffffffffffffff";
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let read = ProducerTable::decode_snapshot(&bytes, ProducerLimits::default(), 0).unwrap();
    assert_eq!(read.check(&batch(4242, 3, 7, 2, 0)), duplicate(100));
    assert_eq!(read.check(&batch(4242, 3, 9, 1, 0)), ProducerCheck::New);
    assert_eq!(read.encode_snapshot(), bytes);
}

#[test]
fn a_replay_may_begin_before_the_snapshot() {
    let whole = table_with(9);
    let bytes = table_with(7).encode_snapshot();
    let mut read = ProducerTable::decode_snapshot(&bytes, ProducerLimits::default(), 0).unwrap();
    for number in 3..9 {
        let offset = i64::from(number);
        read.apply(&batch(7, 0, number, 1, offset), RaftIndex(offset as u64 + 1), 1000);
    }
    assert_eq!(read.encode_snapshot(), whole.encode_snapshot());
    assert_eq!(read.check(&batch(7, 0, 9, 1, 9)), ProducerCheck::New);
}

#[test]
#[should_panic(expected = "proposed at index 5, after one at 5")]
fn a_truncation_that_was_not_told_is_noticed() {
    let mut table = table();
    table.propose(&batch(1, 0, 0, 1, 0), RaftIndex(5), TERM);
    table.propose(&batch(2, 0, 0, 1, 0), RaftIndex(5), TERM);
}

#[test]
fn damaged_snapshots_are_refused() {
    let decode = |bytes: &[u8]| ProducerTable::decode_snapshot(bytes, ProducerLimits::default(), 0);
    let good = table_with(3).encode_snapshot();
    assert!(decode(&good).is_ok());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(decode(&bad).is_err(), "byte {at}");
        assert!(decode(&good[..at]).is_err(), "cut at {at}");
    }
    let sealed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let crc = crc32c::crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        decode(&bytes).unwrap_err()
    };
    let wrong_count = sealed(&|bytes| bytes[6..10].copy_from_slice(&i32::MAX.to_be_bytes()));
    assert!(matches!(wrong_count, SnapshotError::WrongSize { .. }));
    let negative_count = sealed(&|bytes| bytes[6] = 0x80);
    assert!(matches!(negative_count, SnapshotError::WrongSize { .. }));
    let trailing = sealed(&|bytes| bytes.push(0));
    assert!(matches!(trailing, SnapshotError::WrongSize { .. }));
    let negative_id = sealed(&|bytes| bytes[10] = 0x80);
    assert!(matches!(negative_id, SnapshotError::BadEntry { entry: 0, .. }));
    let negative_delta = sealed(&|bytes| bytes[32] = 0x80);
    assert!(matches!(negative_delta, SnapshotError::BadEntry { entry: 0, .. }));
    assert!(matches!(decode(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0]), Err(SnapshotError::Version { version: 2 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_snapshots_never_panic(entries in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![0, 1, 0, 0, 0, 0];
        bytes.extend_from_slice(&((entries.len() / 46) as i32).to_be_bytes());
        bytes.extend_from_slice(&entries[..entries.len() / 46 * 46]);
        let crc = crc32c::crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        if let Ok(table) = ProducerTable::decode_snapshot(&bytes, ProducerLimits::default(), 0) {
            let _ = table.check(&batch(1, 0, 0, 1, 0));
        }
    }

    /// A client that sends in order, retries at will and sees its leader change: each batch is stored exactly once, in
    /// order, whatever is lost in flight.
    #[test]
    fn each_batch_is_stored_once(steps in proptest::collection::vec((0..8u8, 0..6usize), 1..120)) {
        let mut table = table();
        let mut log: Vec<BatchInfo> = Vec::new();
        let mut applied = 0;
        let mut sequence = 0;
        for (step, back) in steps {
            match step {
                // Commits one entry.
                0 | 1 if applied < log.len() => {
                    applied += 1;
                    table.apply(&log[applied - 1], RaftIndex(applied as u64), 0);
                }
                // Leadership is lost with all that is not committed, and comes back.
                2 => {
                    log.truncate(applied);
                    table.abandon_in_flight();
                    sequence = log.len() as i32;
                }
                // Sends the next batch, or one of the last again.
                _ => {
                    let wanted = (sequence - back as i32).max(0);
                    let base_offset = log.len() as i64;
                    let sent = batch(7, 0, wanted, 1, base_offset);
                    match table.check(&sent) {
                        ProducerCheck::New => {
                            prop_assert_eq!(wanted as usize, log.len());
                            log.push(sent);
                            table.propose(&sent, RaftIndex(log.len() as u64), TERM);
                            sequence = wanted + 1;
                        }
                        ProducerCheck::Duplicate { base_offset, .. } => {
                            prop_assert_eq!(base_offset.0, i64::from(wanted));
                            prop_assert!((wanted as usize) < applied);
                        }
                        ProducerCheck::DuplicateInFlight { index, .. } => {
                            prop_assert_eq!(index.0, wanted as u64 + 1);
                            prop_assert!(wanted as usize >= applied);
                        }
                        ProducerCheck::OutOfOrder { expected } => {
                            prop_assert_eq!(expected as usize, log.len());
                            prop_assert!((wanted as usize) + BATCHES_KEPT < applied);
                        }
                        ProducerCheck::InvalidEpoch { .. } => prop_assert!(false),
                    }
                }
            }
        }
    }
}

/// As of an offset in the middle of a batch this is not in the log either.
#[test]
fn what_lies_behind_the_end_of_the_log_is_forgotten() {
    let mut table = table_with(8);
    table.apply(&batch(8, 0, 0, 3, 8), RaftIndex(9), 1000);
    table.apply(&batch(9, 0, 0, 1, 2), RaftIndex(10), 1000);
    let mut cut = table.clone();
    cut.forget_from(KafkaOffset(100));
    assert_eq!(cut.encode_snapshot(), table.encode_snapshot());
    cut.forget_from(KafkaOffset(10));
    assert_eq!(cut.len(), 2, "producer 8 has written nothing that is there");
    cut.forget_from(KafkaOffset(6));
    assert_eq!(cut.check(&batch(7, 0, 5, 1, 0)), duplicate(5));
    assert_eq!(cut.check(&batch(7, 0, 6, 1, 0)), ProducerCheck::New, "it comes with the log");
    // What then comes makes it what it was.
    for offset in [6, 7] {
        cut.apply(&batch(7, 0, offset, 1, i64::from(offset)), RaftIndex(9), 1000);
    }
    cut.apply(&batch(8, 0, 0, 3, 8), RaftIndex(9), 1000);
    assert_eq!(cut.encode_snapshot(), table.encode_snapshot());
    cut.forget_from(KafkaOffset(3));
    assert_eq!(cut.check(&batch(9, 0, 0, 1, 0)), duplicate(2));
}
