//! Tests of the storage: what raft-rs reads above, at and below the tail.

use chronik_wal::entry::EntryKind;
use chronik_wal::types::{KafkaOffset, Term};

use super::*;
use crate::test_support::batch_bytes;

fn entry(index: u64, term: u64) -> LogEntry {
    let base = i64::try_from(index).unwrap() - 1;
    let data = batch_bytes(base, i32::try_from(term).unwrap(), 1, 10);
    LogEntry {
        index: RaftIndex(index),
        term: Term(term),
        kind: EntryKind::Batch,
        base_offset: KafkaOffset(base),
        data,
    }
}

/// Entries 1 to 6, of which 1 to 3 are only in files; terms 1, 1, 2, 2, 2, 3.
fn storage() -> GroupStorage {
    let tail = Tail::new(LogPosition::default());
    let runs = TermRuns::starting_at(RaftIndex(0), Term(0));
    let configuration = ConfState::from((vec![1, 2], vec![]));
    let mut storage = GroupStorage::new(tail, runs, GroupState::default(), configuration);
    for (index, term) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3)] {
        storage.append(entry(index, term));
    }
    storage.tail.release(RaftIndex(3));
    storage.tail.evict_to(RaftIndex(3));
    storage
}

fn read(
    storage: &GroupStorage,
    low: u64,
    high: u64,
    bytes_max: u64,
    can_async: bool,
) -> Result<Vec<u64>, StorageError> {
    match storage.entries(low, high, bytes_max, GetEntriesContext::empty(can_async)) {
        Ok(entries) => Ok(entries.iter().map(|entry| entry.index).collect()),
        Err(Error::Store(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn terms_are_known_for_all_of_the_log() {
    let storage = storage();
    let terms: Vec<u64> = (0..=6).map(|index| storage.term(index).unwrap()).collect();
    assert_eq!(terms, [0, 1, 1, 2, 2, 2, 3]);
    assert!(matches!(storage.term(7), Err(Error::Store(StorageError::Unavailable))));
}

#[test]
fn the_tail_answers_at_once_within_the_size() {
    let storage = storage();
    assert_eq!(read(&storage, 4, 7, u64::MAX, false), Ok(vec![4, 5, 6]));
    assert_eq!(read(&storage, 4, 7, 150, false), Ok(vec![4, 5]));
    assert_eq!(read(&storage, 4, 7, 0, false), Ok(vec![4]));
}

#[test]
fn below_the_tail_is_fetched_once_and_supplied() {
    let mut storage = storage();
    assert_eq!(read(&storage, 2, 7, 999, true), Err(StorageError::LogTemporarilyUnavailable));
    assert_eq!(read(&storage, 2, 7, 999, true), Err(StorageError::LogTemporarilyUnavailable));
    let wish = WantedRange { low: RaftIndex(2), high: RaftIndex(4), bytes_max: 999 };
    assert_eq!(storage.take_wish(), Some(wish));
    assert_eq!(storage.take_wish(), None);
    let waiters = storage.supply(RaftIndex(2), vec![entry(2, 1), entry(3, 2)]);
    assert_eq!(waiters.len(), 2);
    assert_eq!(read(&storage, 2, 7, 999, true), Ok(vec![2, 3]));
    storage.drop_supply();
    assert_eq!(read(&storage, 2, 7, 999, true), Err(StorageError::LogTemporarilyUnavailable));
}

#[test]
fn what_does_not_fit_is_not_supplied() {
    let mut storage = storage();
    assert_eq!(read(&storage, 2, 4, 999, true), Err(StorageError::LogTemporarilyUnavailable));
    assert!(storage.supply(RaftIndex(2), vec![entry(2, 2)]).is_empty());
    assert_eq!(read(&storage, 2, 4, 999, true), Err(StorageError::LogTemporarilyUnavailable));
    assert!(storage.supply(RaftIndex(2), vec![entry(3, 2)]).is_empty());
}

#[test]
fn where_raft_cannot_wait_a_hole_is_fatal() {
    assert_eq!(read(&storage(), 2, 4, 999, false), Err(StorageError::Unavailable));
}

#[test]
fn wishes_are_bounded() {
    let mut storage = storage();
    storage.tail.release(RaftIndex(6));
    storage.tail.evict_to(RaftIndex(6));
    for _ in 0..20 {
        for low in 1..=6 {
            assert!(read(&storage, low, 7, 9, true).is_err());
        }
    }
    let wishes: Vec<_> = std::iter::from_fn(|| storage.take_wish()).collect();
    assert_eq!(wishes.len(), 6);
    assert_eq!(storage.supply(RaftIndex(3), vec![entry(3, 2)]).len(), WAITERS_MAX);
}

#[test]
fn the_snapshot_lies_at_the_log_start_with_the_newest_configuration() {
    let mut storage = storage();
    assert!(matches!(
        storage.snapshot(0, 2),
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    ));
    let log_start =
        LogStart { index: RaftIndex(3), term: Term(2), offset: KafkaOffset(3), base_offset: KafkaOffset(3) };
    storage.compact_to(log_start, Bytes::from_static(b"state"));
    storage.set_configuration(ConfState::from((vec![1, 2, 3], vec![])), RaftIndex(5));
    let made = storage.snapshot(0, 2).unwrap();
    assert_eq!((made.get_metadata().index, made.get_metadata().term), (3, 2));
    assert_eq!(made.get_metadata().get_conf_state().get_voters(), [1, 2, 3]);
    let content = snapshot::read(&made).unwrap();
    assert_eq!((content.log_start, content.configuration_index), (log_start, RaftIndex(5)));
    assert_eq!(storage.first_index().unwrap(), 4);
    assert_eq!(read(&storage, 3, 4, 9, true), Err(StorageError::Compacted));
    assert!(matches!(
        storage.snapshot(4, 2),
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    ));
}
