//! The plan: turns, segments, room, recycling. What a crash leaves is tested with recovery.

use std::collections::BTreeMap;

use super::rig::{Rig, small_config};
use super::*;
use crate::disk::sim::SimFaults;
use crate::disk::{Disk, SimDisk};
use crate::entry::LogStart;
use crate::recovery::recover;

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

#[test]
fn the_next_turn_starts_only_after_the_one_before_is_durable() {
    let mut rig = Rig::fresh(1);
    let durable = rig.wal.durable_turn();
    assert!(rig.wal.start_turn().is_none(), "nothing waits");
    rig.append(A, 10);
    let first = rig.wal.start_turn().unwrap();
    assert_eq!(first.turn, TurnNumber(durable.0 + 1));
    rig.append(A, 10);
    assert_eq!(rig.wal.filling_turn(), TurnNumber(first.turn.0 + 1), "it fills meanwhile");
    assert!(rig.wal.start_turn().is_none());
    assert_eq!((rig.wal.durable_turn(), rig.wal.in_flight()), (durable, Some(first.turn)));
    rig.wal.turn_done(first.turn);
    let second = rig.wal.start_turn().unwrap();
    assert_eq!(second.position, first.position + first.padded_len as u64, "no block is written twice");
    assert_eq!(second.durable, first.turn, "it carries the mark");
}

#[test]
fn turns_are_whole_blocks_and_stay_within_a_segment() {
    let mut rig = Rig::fresh(2);
    let mut position = BTreeMap::new();
    for size in 0..40 {
        rig.append(A, size * 137);
        rig.job().unwrap();
        while let Some(turn) = rig.wal.start_turn() {
            assert_eq!((turn.position % 4096, turn.padded_len % 4096), (0, 0));
            let expected = position.insert(turn.sequence, turn.position + turn.padded_len as u64);
            assert_eq!(
                turn.position,
                expected.unwrap_or(if turn.sequence == WalSeq(1) { 8192 } else { 4096 })
            );
            assert!(turn.position + turn.padded_len as u64 <= rig.wal.segments.current().len);
            rig.wal.turn_done(turn.turn);
            rig.job().unwrap();
        }
    }
    assert!(position.len() > 3);
}

#[test]
fn a_large_turn_is_split_and_asked_for_after_the_put() {
    let mut rig = Rig::fresh(3);
    let first = rig.wal.filling_turn();
    rig.append(A, 9000);
    assert_eq!(rig.wal.filling_turn(), first);
    rig.append(A, 9000);
    assert_eq!(rig.wal.filling_turn(), TurnNumber(first.0 + 1));
    assert!(rig.wal.pending_bytes() > 18_000);
    rig.drain().unwrap();
    assert_eq!((rig.wal.durable_turn(), rig.wal.pending_bytes()), (TurnNumber(first.0 + 1), 0));
}

/// Recovery must not find the removal without the state that takes the place of the log.
#[test]
fn a_removal_and_the_state_in_its_place_share_a_turn_however_full_it_is() {
    for filled in (0..12_000).step_by(37) {
        let mut rig = Rig::fresh(5);
        rig.append(A, filled);
        let state = GroupState { snapshot_data: vec![7; 300].into(), ..GroupState::default() };
        rig.wal.put_replaced(A, &state);
        let turn = rig.wal.filling_turn();
        let mut written = rig.wal.start_turn().unwrap();
        while written.turn < turn {
            rig.wal.turn_done(written.turn);
            while rig.job().unwrap() {}
            written = rig.wal.start_turn().unwrap();
        }
        let kinds: Vec<FrameKind> = written.frames.iter().map(|frame| frame.info.kind).collect();
        assert!(kinds.ends_with(&[FrameKind::Removed, FrameKind::State]), "{filled}: {kinds:?}");
    }
}

#[test]
fn a_batch_of_the_largest_size_fits() {
    let mut rig = Rig::fresh(4);
    let largest = rig.wal.config.payload_max() - 61;
    rig.append(A, largest);
    rig.append(A, 10);
    rig.append(A, largest);
    rig.drain().unwrap();
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert_eq!(recovered.groups[&A].entries.len(), 3);
    let config = WalConfig::new(std::path::Path::new("/data"), super::rig::IDENTITY);
    assert!(config.payload_max() >= 32 << 20, "rule 24");
    assert!(config.check().is_ok());
}

/// Rule 5: a full disk shows before propose, what was proposed is not lost, and room comes back by itself.
#[test]
fn a_full_disk_refuses_room_and_recovers_alone() {
    let mut rig = Rig::fresh(5);
    rig.job().unwrap();
    rig.disk.set_faults(SimFaults { capacity: Some(90_000), ..SimFaults::default() });
    while rig.wal.has_room(9100) {
        rig.append(A, 9000);
        rig.job().unwrap();
        rig.turn().unwrap();
    }
    assert!(rig.wal.disk_is_full());
    assert!(rig.wal.next_job(rig.now_ms).is_none(), "not again at once");
    // The reserve still takes a state, and the turn is written.
    rig.state(A, 2, LogStart::default());
    rig.turn().unwrap().unwrap();
    rig.disk.set_faults(SimFaults::default());
    assert!(!rig.wal.has_room(9100));
    rig.now_ms += 1000;
    assert!(rig.job().unwrap());
    assert!(rig.wal.has_room(9100) && !rig.wal.disk_is_full());
    rig.drain().unwrap();
    assert!(recover(&rig.disk, &small_config()).unwrap().damage.is_empty());
}

#[test]
fn any_other_error_of_a_preparation_is_fatal() {
    let mut rig = Rig::fresh(6);
    let job = rig.wal.next_job(0).unwrap();
    assert!(rig.wal.next_job(0).is_none(), "one job at a time");
    rig.disk.set_faults(SimFaults { sync_error: 1.0, ..SimFaults::default() });
    let result = job.run(&rig.disk);
    assert!(matches!(rig.wal.job_done(result, 0), Err(WalError::Io { .. })));
}

/// Rule 4: at the bound produce waits; recycling makes room; the files never exceed the bound.
#[test]
fn the_wal_is_bounded_and_recycled() {
    let mut rig = Rig::fresh(7);
    let mut waited = 0;
    for _ in 0..300 {
        if !rig.wal.has_room(9100) {
            waited += 1;
            assert!(rig.wal.recycle_wanted(), "whoever waits has something to wait for");
            rig.recycle().unwrap();
            rig.job().unwrap();
        }
        assert!(rig.wal.has_room(9100));
        rig.append(A, 9000);
        rig.drain().unwrap();
        let names = rig.disk.list_dir(&small_config().directory).unwrap();
        let bytes: u64 = names
            .iter()
            .map(|entry| rig.disk.file_len(&small_config().directory.join(&entry.name)).unwrap())
            .sum();
        assert!(bytes <= small_config().wal_max_bytes && rig.wal.usage().1 <= small_config().wal_max_bytes);
    }
    assert!(waited > 2);
    assert!(recover(&rig.disk, &small_config()).unwrap().damage.is_empty());
}

/// What is to be proved by the oldest segments must not keep the rest from going on, nor fill the disk.
#[test]
fn while_nothing_may_be_released_the_bound_is_twice_as_far() {
    let mut rig = Rig::fresh(7);
    let fill = |rig: &mut Rig| {
        while rig.wal.has_room(9100) {
            rig.append(A, 9000);
            rig.drain().unwrap();
        }
        rig.wal.usage().1
    };
    let bound = small_config().wal_max_bytes;
    assert!(fill(&mut rig) <= bound);
    rig.wal.pin(true);
    rig.job().unwrap();
    assert!((bound + 1..=2 * bound).contains(&fill(&mut rig)));
    rig.wal.pin(false);
    while rig.wal.recycle_wanted() {
        rig.recycle().unwrap();
    }
    assert!(rig.wal.has_room(9100), "what was freed is used again");
}

/// Each start begins a short segment. When they are released all at once, what is to go must not count against what is to come.
#[test]
fn many_short_starts_do_not_use_up_the_bound() {
    let disk = SimDisk::new(9);
    let mut base = BTreeMap::new();
    for seed in 0..6 {
        let mut rig = Rig::open(&disk, small_config(), base, seed).unwrap();
        rig.append(A, 100);
        rig.turn().unwrap().expect("there is room in the first segment");
        base = rig.model_at(TurnNumber(u64::MAX));
    }
    let mut rig = Rig::open(&disk, small_config(), base, 6).unwrap();
    while rig.wal.recycle_wanted() {
        rig.recycle().unwrap();
    }
    for _ in 0..60 {
        if !rig.wal.has_room(9100) {
            rig.recycle().unwrap();
            rig.job().unwrap();
        }
        assert!(rig.wal.has_room(9100));
        rig.append(A, 9000);
        rig.drain().unwrap();
    }
    assert!(rig.wal.usage().1 <= small_config().wal_max_bytes);
}

/// Recycling writes states and a checkpoint; at the bound, with no room left at all, it must not wait for itself.
#[test]
fn recycling_at_the_bound_never_waits_for_itself() {
    let config = WalConfig { segments_kept: 100, ..small_config() };
    let mut rig = Rig::open(&SimDisk::new(12), config, BTreeMap::new(), 12).unwrap();
    let mut recycled = 0;
    for round in 0..200 {
        // States ask nobody: they use up the reserve and all else.
        rig.state(GroupId(round % 20), 1, LogStart::default());
        for _ in 0..4 {
            if rig.wal.has_room(9100) {
                rig.append(A, 9000);
            }
        }
        while rig.turn().unwrap().is_some() || rig.job().unwrap() {}
        recycled += rig.recycle().unwrap();
        assert!(!rig.wal.has_pending());
    }
    assert!(recycled > 5);
}

/// A log of A's entries with B's state and one uncommitted entry of B in the oldest segment.
fn with_an_old_segment() -> Rig {
    let mut rig = Rig::fresh(8);
    rig.state(B, 1, LogStart::default());
    rig.append(B, 10);
    rig.append(A, 10);
    for _ in 0..16 {
        rig.append(A, 9000);
        rig.drain().unwrap();
    }
    rig
}

fn progress(committed: u64, flushed: u64) -> impl Fn(GroupId) -> GroupProgress {
    move |group| match group {
        A => GroupProgress { flushed: RaftIndex(flushed), committed: RaftIndex(committed) },
        _ => GroupProgress::default(),
    }
}

#[test]
fn the_oldest_segment_says_what_it_needs() {
    let mut rig = with_an_old_segment();
    let needs = rig.wal.oldest_needs(&progress(100, 0), 100);
    assert_eq!(needs.rewrite_states, [B]);
    assert_eq!(needs.rewrite_entries, [(B, 1..=1)]);
    assert!(matches!(needs.flush[..], [(A, RaftIndex(index))] if (1..16).contains(&index)));
    let first = rig.wal.oldest_needs(&progress(100, 0), 1);
    assert_eq!(first, Needs { rewrite_states: vec![B], ..Needs::default() }, "bounded");
    let needs = rig.wal.oldest_needs(&progress(100, 100), 100);
    assert!(needs.flush.is_empty());
    rig.remove(B);
    assert!(rig.wal.oldest_needs(&progress(100, 100), 100).is_empty());
}

#[test]
fn nothing_is_released_that_is_still_needed() {
    let mut rig = with_an_old_segment();
    let point = |index| FlushPoint { index: RaftIndex(index), ..FlushPoint::default() };
    assert_eq!(rig.wal.release_oldest(), Err(StillNeeded::NoCheckpoint));
    rig.wal.put_checkpoint(&[(A, point(100))]);
    let turn = rig.wal.filling_turn();
    assert_eq!(rig.wal.release_oldest(), Err(StillNeeded::NotDurable(turn)));
    rig.drain().unwrap();
    assert_eq!(rig.wal.release_oldest(), Err(StillNeeded::State(B)));
    rig.state(B, 1, LogStart::default());
    let turn = rig.wal.filling_turn();
    assert_eq!(rig.wal.release_oldest(), Err(StillNeeded::NotDurable(turn)));
    rig.drain().unwrap();
    assert_eq!(rig.wal.release_oldest(), Err(StillNeeded::Entries(B)));
    let entry = LogEntry {
        index: RaftIndex(1),
        term: crate::types::Term(1),
        kind: EntryKind::Empty,
        base_offset: crate::types::KafkaOffset(0),
        data: Bytes::new(),
    };
    rig.wal.rewrite_entries(B, RaftIndex(0), &[entry]);
    rig.drain().unwrap();
    rig.wal.put_checkpoint(&[(A, point(0))]);
    rig.drain().unwrap();
    assert_eq!(rig.wal.release_oldest(), Err(StillNeeded::Entries(A)), "the newest checkpoint decides");
    rig.wal.put_checkpoint(&[(A, point(100))]);
    rig.drain().unwrap();
    let oldest = rig.wal.segments.oldest().sequence;
    assert_eq!(rig.wal.release_oldest(), Ok(oldest));
    assert!(rig.wal.segments.oldest().sequence > oldest);
}

#[test]
fn the_current_segment_is_never_released() {
    let mut rig = Rig::fresh(9);
    rig.wal.put_checkpoint(&[]);
    rig.drain().unwrap();
    assert_eq!(rig.wal.release_oldest(), Err(StillNeeded::Current));
    assert!(rig.wal.oldest_needs(&progress(0, 0), 10).is_empty());
}

#[test]
fn truncated_entries_do_not_keep_a_segment() {
    let mut rig = Rig::fresh(10);
    for _ in 0..16 {
        rig.append(A, 9000);
        rig.drain().unwrap();
    }
    rig.entry(A, RaftIndex(1), 2, 10);
    rig.drain().unwrap();
    assert!(rig.wal.oldest_needs(&progress(0, 0), 10).is_empty());
}

#[test]
fn a_stop_writes_one_closing_turn() {
    let mut rig = Rig::fresh(11);
    assert!(!rig.wal.close(), "nothing was written since the start");
    rig.append(A, 10);
    assert!(rig.wal.close());
    rig.drain().unwrap();
    let durable = rig.wal.durable_turn();
    assert!(!rig.wal.close() && !rig.wal.idle_tick(0) && !rig.wal.idle_tick(1000));
    rig.append(A, 10);
    rig.drain().unwrap();
    assert!(!rig.wal.idle_tick(1000) && !rig.wal.idle_tick(1099) && rig.wal.idle_tick(1100));
    rig.drain().unwrap();
    assert_eq!(rig.wal.durable_turn(), TurnNumber(durable.0 + 2));
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let good = small_config();
    for bad in [
        WalConfig { segment_bytes: 5000, ..good.clone() },
        WalConfig { first_segment_bytes: 1 << 20, ..good.clone() },
        WalConfig { first_segment_bytes: 4096, ..good.clone() },
        WalConfig { wal_max_bytes: 0, ..good.clone() },
        WalConfig { reserve_bytes: 60 << 10, ..good.clone() },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
        let mut recovered = crate::recovery::Recovered::nothing();
        assert!(ShardWal::open(&SimDisk::new(0), bad, &mut recovered).is_err());
    }
}

#[test]
fn slots_are_named_by_number() {
    let directory = shard_directory(std::path::Path::new("/d"), crate::types::ShardId(3));
    assert_eq!(slot_path(&directory, 12), std::path::Path::new("/d/wal/3/0012.wal"));
    assert_eq!(slot_of_name("0012.wal"), Some(12));
    assert_eq!(slot_of_name("12345.wal"), Some(12_345));
    for other in ["12.wal", "0012.log", "00x2.wal", "+012.wal", "99999999999.wal", ".wal"] {
        assert_eq!(slot_of_name(other), None);
    }
}

/// The end of a segment is not written before there is a next one: on a full disk, or while one is being made, a crash
/// would leave an end without a successor, which recovery takes for corruption.
#[test]
fn a_segment_ends_only_when_the_next_one_is_prepared() {
    let mut rig = Rig::fresh(11);
    for _ in 0..12 {
        rig.append(A, 5_000);
    }
    assert!(rig.wal.filling.sequence > WalSeq(1), "the first segment is full");
    while rig.turn().unwrap().is_some() {}
    let durable = rig.wal.durable_turn();
    let whole = rig.model_at(durable);
    assert!(whole[&A].entries.len() > 5, "what comes before the end does not wait for the next segment");

    let recovered =
        recover(&rig.disk.crash(crate::disk::sim::Survival::SyncedOnly), &small_config()).unwrap();
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    assert_eq!(recovered.groups[&A].entries.len(), whole[&A].entries.len());

    rig.drain().unwrap();
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert!(recovered.damage.is_empty());
    assert_eq!(recovered.groups[&A].entries.len(), 12);
}

/// What need not ask for room, small turns of group offsets for example, can fill the last segment within the bound while
/// the files cannot be synced. The checkpoint that ends this must then not wait for the room that it alone can make.
#[test]
fn a_checkpoint_is_written_even_when_the_wal_is_at_its_bound() {
    let mut rig = Rig::fresh(12);
    rig.append(A, 5_000);
    for _ in 0..1_000 {
        rig.append(A, 3_000);
        while rig.turn().unwrap().is_some() || rig.job().unwrap() {}
        if rig.wal.has_pending() {
            break;
        }
    }
    assert!(rig.wal.has_pending() && rig.wal.recycle_wanted(), "the WAL is full and nothing moves");

    // The files are synced at last.
    let last = rig.last_index(A);
    rig.wal.put_checkpoint(&[(A, crate::entry::FlushPoint { index: last, ..Default::default() })]);
    rig.drain().unwrap();
    while rig.wal.release_oldest().is_ok() {}
    assert!(rig.wal.has_room(3_000) || rig.job().unwrap(), "there is room again");
}
