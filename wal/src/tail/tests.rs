//! Tests of the tail: a model in plain vectors, and the edges by hand.

use proptest::prelude::*;

use super::*;

/// Smallest payload that `LogEntry::next_offset` reads.
fn batch(index: u64, term: u64, base: i64, records: i32, padding: usize) -> LogEntry {
    let mut data = vec![0u8; 27 + padding];
    data[0..8].copy_from_slice(&base.to_be_bytes());
    data[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    LogEntry {
        index: RaftIndex(index),
        term: Term(term),
        kind: EntryKind::Batch,
        base_offset: KafkaOffset(base),
        data: data.into(),
    }
}

fn empty(index: u64, term: u64, base: i64) -> LogEntry {
    LogEntry {
        index: RaftIndex(index),
        term: Term(term),
        kind: EntryKind::Empty,
        base_offset: KafkaOffset(base),
        data: Bytes::new(),
    }
}

/// Offsets 0..3 in entry 2, 3..5 in entry 3, 5..6 in entry 5; 1 and 4 are empty.
fn sample() -> Tail {
    let mut tail = Tail::new(LogPosition::default());
    tail.append(empty(1, 1, 0));
    tail.append(batch(2, 1, 0, 3, 100));
    tail.append(batch(3, 1, 3, 2, 100));
    tail.append(empty(4, 2, 5));
    tail.append(batch(5, 2, 5, 1, 100));
    tail
}

fn bases(read: &TailRead) -> Vec<i64> {
    let TailRead::Batches(batches, _) = read else { panic!("{read:?}") };
    batches.iter().map(|data| i64::from_be_bytes(data[0..8].try_into().unwrap())).collect()
}

#[test]
fn reads_whole_batches_below_the_limit() {
    let tail = sample();
    let all = tail.read(KafkaOffset(0), KafkaOffset(6), usize::MAX, true);
    assert_eq!(bases(&all), [0, 3, 5]);
    assert!(matches!(all, TailRead::Batches(_, KafkaOffset(6))));
    assert_eq!(bases(&tail.read(KafkaOffset(2), KafkaOffset(6), usize::MAX, true)), [0, 3, 5]);
    assert_eq!(bases(&tail.read(KafkaOffset(3), KafkaOffset(5), usize::MAX, true)), [3]);
    assert_eq!(tail.read(KafkaOffset(3), KafkaOffset(4), usize::MAX, true), TailRead::Empty);
    assert_eq!(tail.read(KafkaOffset(6), KafkaOffset(6), usize::MAX, true), TailRead::Empty);
}

#[test]
fn the_first_batch_comes_even_when_too_large_only_if_asked() {
    let tail = sample();
    assert_eq!(bases(&tail.read(KafkaOffset(0), KafkaOffset(6), 1, true)), [0]);
    assert_eq!(tail.read(KafkaOffset(0), KafkaOffset(6), 1, false), TailRead::Empty);
    assert_eq!(bases(&tail.read(KafkaOffset(0), KafkaOffset(6), 2 * 127, false)), [0, 3]);
}

#[test]
fn a_conflicting_entry_replaces_the_suffix() {
    let mut tail = sample();
    let before = tail.bytes();
    tail.append(empty(3, 3, 3));
    assert_eq!(tail.last_index(), RaftIndex(3));
    assert_eq!(tail.last_term(), Term(3));
    assert_eq!(tail.next_offset(), KafkaOffset(3));
    assert_eq!(before - tail.bytes(), 2 * 127 + 2 * ENTRY_OVERHEAD_BYTES);
}

#[test]
fn eviction_keeps_the_position_before() {
    let mut tail = sample();
    tail.release(RaftIndex(4));
    tail.evict_to(RaftIndex(2));
    assert_eq!(tail.start(), LogPosition { index: RaftIndex(2), term: Term(1), next_offset: KafkaOffset(3) });
    assert_eq!(tail.read(KafkaOffset(2), KafkaOffset(6), usize::MAX, true), TailRead::BelowTail);
    assert_eq!(bases(&tail.read(KafkaOffset(3), KafkaOffset(6), usize::MAX, true)), [3, 5]);
    assert_eq!(tail.term(RaftIndex(2)), Some(Term(1)));
    assert_eq!(tail.term(RaftIndex(1)), None);
    assert_eq!(tail.position_before(KafkaOffset(2)), None);
    assert_eq!(tail.position_before(KafkaOffset(4)).map(|place| place.index), Some(RaftIndex(2)));
    assert_eq!(tail.position_before(KafkaOffset(5)).map(|place| place.index), Some(RaftIndex(4)));
}

#[test]
#[should_panic(expected = "may leave memory")]
fn what_is_not_released_is_not_evicted() {
    let mut tail = sample();
    tail.release(RaftIndex(2));
    tail.evict_to(RaftIndex(3));
}

#[test]
#[should_panic(expected = "never replaced")]
fn what_is_released_is_not_truncated() {
    let mut tail = sample();
    tail.release(RaftIndex(3));
    tail.append(empty(3, 9, 3));
}

#[test]
#[should_panic(expected = "contiguous")]
fn a_gap_is_refused() {
    sample().append(batch(7, 2, 6, 1, 0));
}

#[test]
#[should_panic(expected = "never go down")]
fn an_offset_that_goes_back_is_refused() {
    sample().append(batch(6, 2, 4, 1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any mix of appends, truncations, releases and evictions equals a plain list of entries.
    #[test]
    fn behaves_as_a_list(steps in prop::collection::vec((0u8..4, 0u64..8, 1i32..5), 1..60)) {
        let mut tail = Tail::new(LogPosition::default());
        let mut model: Vec<LogEntry> = Vec::new();
        let (mut released, mut evicted, mut term) = (0usize, 0usize, 1u64);
        for (action, back, records) in steps {
            match action {
                0 | 1 => {
                    if action == 1 {
                        let keep = model.len().saturating_sub(back as usize).max(released);
                        model.truncate(keep);
                        term += 1;
                    }
                    let base = model.last().map_or(KafkaOffset(0), LogEntry::next_offset);
                    let index = model.len() as u64 + 1;
                    let entry = if records == 4 { empty(index, term, base.0) } else { batch(index, term, base.0, records, 9) };
                    model.push(entry.clone());
                    tail.append(entry);
                }
                2 => {
                    released = released.max(model.len().saturating_sub(back as usize));
                    tail.release(RaftIndex(released as u64));
                }
                _ => {
                    evicted = evicted.max(released.saturating_sub(back as usize));
                    tail.evict_to(RaftIndex(evicted as u64));
                }
            }
            prop_assert_eq!(tail.last_index().0 as usize, model.len());
            prop_assert_eq!(tail.len(), model.len() - evicted);
            prop_assert_eq!(tail.bytes(), model[evicted..].iter().map(cost).sum::<usize>());
            let all: Vec<_> = tail.entries(tail.first_index(), tail.last_index().next(), u64::MAX).cloned().collect();
            prop_assert_eq!(&all[..], &model[evicted..]);
            let end = tail.next_offset();
            for from in tail.first_offset().0..end.0 {
                let expected: Vec<i64> = model[evicted..].iter()
                    .filter(|entry| entry.kind == EntryKind::Batch && entry.next_offset().0 > from)
                    .map(|entry| entry.base_offset.0).collect();
                prop_assert_eq!(bases(&tail.read(KafkaOffset(from), end, usize::MAX, true)), expected);
            }
        }
    }
}
