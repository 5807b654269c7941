//! Tests of the epoch table and its file.

use proptest::prelude::*;

use super::*;

fn table(entries: &[(i32, i64)]) -> EpochTable {
    let mut table = EpochTable::new();
    for (epoch, offset) in entries {
        assert!(table.append(LeaderEpoch(*epoch), KafkaOffset(*offset)));
    }
    table
}

fn pairs(table: &EpochTable) -> Vec<(i32, i64)> {
    table.entries().iter().map(|entry| (entry.epoch.0, entry.start_offset.0)).collect()
}

fn end_offset(table: &EpochTable, epoch: i32) -> (i32, i64) {
    let (epoch, offset) = table.end_offset_for(LeaderEpoch(epoch), KafkaOffset(100));
    (epoch.0, offset.0)
}

#[test]
fn end_offsets_are_kafkas() {
    let table = table(&[(2, 10), (3, 20), (7, 50)]);
    assert_eq!(end_offset(&table, -1), (-1, -1));
    assert_eq!(end_offset(&table, 0), (0, 10));
    assert_eq!(end_offset(&table, 2), (2, 20));
    assert_eq!(end_offset(&table, 3), (3, 50));
    assert_eq!(end_offset(&table, 5), (3, 50));
    assert_eq!(end_offset(&table, 7), (7, 100));
    assert_eq!(end_offset(&table, 8), (-1, -1));
    assert_eq!(end_offset(&EpochTable::new(), 0), (-1, -1));
}

#[test]
fn only_the_first_batch_of_an_epoch_counts() {
    let mut table = table(&[(1, 0), (2, 5)]);
    assert!(!table.append(LeaderEpoch(2), KafkaOffset(6)));
    assert!(!table.append(LeaderEpoch(-1), KafkaOffset(6)));
    assert_eq!(pairs(&table), [(1, 0), (2, 5)]);
}

#[test]
fn entries_that_contradict_a_new_one_go() {
    let mut table = table(&[(1, 0), (3, 5), (4, 9)]);
    assert!(table.append(LeaderEpoch(5), KafkaOffset(5)));
    assert_eq!(pairs(&table), [(1, 0), (5, 5)]);
    assert!(table.append(LeaderEpoch(2), KafkaOffset(9)));
    assert_eq!(pairs(&table), [(1, 0), (2, 9)]);
    assert!(table.append(LeaderEpoch(2), KafkaOffset(7)));
    assert_eq!(pairs(&table), [(1, 0), (2, 7)]);
}

#[test]
fn truncation_takes_the_end() {
    let mut table = table(&[(1, 0), (3, 5), (4, 9)]);
    assert!(!table.truncate_from_end(KafkaOffset(10)));
    assert!(table.truncate_from_end(KafkaOffset(9)));
    assert_eq!(pairs(&table), [(1, 0), (3, 5)]);
    assert!(table.truncate_from_end(KafkaOffset(0)));
    assert_eq!(table.latest(), None);
}

#[test]
fn the_start_moves_and_the_last_epoch_stays() {
    let mut table = table(&[(1, 0), (3, 5), (4, 9)]);
    assert!(!table.advance_start(KafkaOffset(0)));
    assert!(table.advance_start(KafkaOffset(3)));
    assert_eq!(pairs(&table), [(1, 3), (3, 5), (4, 9)]);
    assert!(table.advance_start(KafkaOffset(5)));
    assert_eq!(pairs(&table), [(3, 5), (4, 9)]);
    assert!(!table.advance_start(KafkaOffset(4)));
    assert!(table.advance_start(KafkaOffset(50)));
    assert_eq!(pairs(&table), [(4, 50)]);
    assert_eq!(table.epoch_at(KafkaOffset(49)), None);
    assert_eq!(table.epoch_at(KafkaOffset(50)), Some(LeaderEpoch(4)));
}

#[test]
fn the_file_is_kafkas() {
    let table = table(&[(0, 0), (3, 1234567890123)]);
    assert_eq!(table.encode(), "0\n2\n0 0\n3 1234567890123\n");
    assert_eq!(EpochTable::decode(table.encode().as_bytes()), Ok(table));
    assert_eq!(EpochTable::decode(b"0\n0\n"), Ok(EpochTable::new()));
}

#[test]
fn damaged_files_name_the_line() {
    for (text, line) in [
        (&b""[..], 1),
        (b"1\n0\n", 1),
        (b"\xff", 1),
        (b"0\n", 2),
        (b"0\nmany\n", 2),
        (b"0\n2\n0 0\n", 2),
        (b"0\n1\n0 0\n1 5\n", 2),
        (b"0\n1\n0\n", 3),
        (b"0\n1\n0 -1\n", 3),
        (b"0\n2\n1 5\n1 6\n", 4),
        (b"0\n2\n1 5\n2 5\n", 4),
        (b"0\n18446744073709551615\n1 5\n", 2),
    ] {
        assert_eq!(EpochTable::decode(text).unwrap_err().line, line, "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = EpochTable::decode(&bytes);
    }

    #[test]
    fn any_table_strictly_increases_and_comes_back(steps in proptest::collection::vec((0..4u8, 0..20i32, 0..50i64), 0..40)) {
        let mut table = EpochTable::new();
        for (kind, epoch, offset) in steps {
            match kind {
                0 => table.truncate_from_end(KafkaOffset(offset)),
                1 => table.advance_start(KafkaOffset(offset)),
                _ => table.append(LeaderEpoch(epoch), KafkaOffset(offset)),
            };
            for pair in table.entries().windows(2) {
                prop_assert!(pair[0].epoch < pair[1].epoch && pair[0].start_offset < pair[1].start_offset);
            }
        }
        prop_assert_eq!(EpochTable::decode(table.encode().as_bytes()), Ok(table));
    }
}
