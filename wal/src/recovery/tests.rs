//! Crashes at every write boundary, torn tails against corruption, and hostile bytes.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::disk::sim::{SimFaults, Survival};
use crate::disk::{OpenMode, SimDisk};
use crate::entry::LogSink;
use crate::frame::FIRST_TURN;
use crate::shard_wal::rig::{IDENTITY, Model, Rig, found, small_config};
use crate::shard_wal::{ShardWal, slot_path};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

/// Recovers, and asserts that the result is what the log held after `acked` or after the turn that followed it.
fn recover_whole_turns(disk: &SimDisk, rig: &Rig, acked: TurnNumber) -> Model {
    let recovered = recover(disk, &small_config()).unwrap();
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    let model = found(disk, &small_config(), &recovered);
    let acceptable = [acked, TurnNumber(acked.0 + 1)].map(|turn| rig.model_at(turn));
    assert!(
        acceptable.contains(&model),
        "turn {acked} was acknowledged, turn {} was found\n{}",
        recovered.last_turn,
        differences(&acceptable[0], &model)
    );
    model
}

fn differences(expected: &Model, found: &Model) -> String {
    let brief = |model: &Model| {
        model
            .iter()
            .map(|(group, group_model)| {
                let entries: Vec<_> =
                    group_model.entries.values().map(|entry| (entry.index.0, entry.term.0)).collect();
                format!("{group}: {:?} {:?} {entries:?}\n", group_model.state, group_model.flushed)
            })
            .collect::<String>()
    };
    format!("expected\n{}found\n{}", brief(expected), brief(found))
}

fn script_steps(seed: u64, rounds: usize) -> u64 {
    let mut rig = Rig::fresh(seed);
    let before = rig.disk.steps();
    rig.script(rounds).unwrap();
    assert!(rig.released > 3, "segments are recycled: {}", rig.released);
    rig.disk.steps() - before
}

/// Rules 1, 3 and 4: whatever write, sync or rename the machine dies at, every acknowledged turn is found, turns are
/// found whole, and nothing of a recycled segment comes back; and the same once more after a crash during the
/// start-up that follows.
#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged() {
    const ROUNDS: usize = 50;
    for seed in [1, 2] {
        let steps = script_steps(seed, ROUNDS);
        assert!(steps > 150, "the script writes: {steps}");
        for step in 1..=steps {
            let mut rig = Rig::fresh(seed);
            rig.disk.crash_after(step);
            assert!(rig.script(ROUNDS).is_err(), "step {step} of {steps} crashed");
            let acked = rig.wal.durable_turn();
            let survival = [Survival::SyncedOnly, Survival::Random, Survival::All][(step % 3) as usize];
            let disk = rig.disk.crash(survival);
            let model = recover_whole_turns(&disk, &rig, acked);
            crash_in_the_next_start(&disk, &rig, acked, step);
            let mut rig = Rig::open(&disk, small_config(), model, seed + step).unwrap();
            rig.script(5).unwrap();
            let acked = rig.wal.durable_turn();
            recover_whole_turns(&disk.crash(Survival::SyncedOnly), &rig, acked);
        }
    }
}

fn crash_in_the_next_start(disk: &SimDisk, rig: &Rig, acked: TurnNumber, step: u64) {
    let disk = disk.crash(Survival::All);
    disk.crash_after(1 + step % 9);
    let _ = Rig::open(&disk, small_config(), Model::new(), step);
    recover_whole_turns(&disk.crash(Survival::Random), rig, acked);
}

/// Reads are made durable before they are believed: a process that is killed leaves its last turn in the drive's
/// cache; once a start has served from it, a power cut must not take it back.
#[test]
fn what_recovery_saw_survives_a_power_cut() {
    let mut rig = Rig::fresh(9);
    rig.append(A, 100);
    let turn = rig.wal.start_turn().unwrap();
    let file = rig.disk.open(&turn.path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&turn.encode(), turn.position).unwrap();
    let killed = rig.disk.crash(Survival::SyncedOnly);
    assert!(recover(&killed, &small_config()).unwrap().groups.is_empty(), "it was not synced");
    // The same disk goes on: the process alone died.
    let seen = recover(&rig.disk, &small_config()).unwrap();
    assert_eq!(seen.groups[&A].entries.len(), 1);
    let after = recover(&rig.disk.crash(Survival::SyncedOnly), &small_config()).unwrap();
    assert_eq!(after.groups, seen.groups);
}

/// A process is killed while it starts, or makes a segment ready, at each writing step; the next one goes on with what it has left,
/// names included.
#[test]
fn what_is_built_on_what_a_killed_process_left_survives_a_power_cut() {
    let start = |disk: &SimDisk| Rig::open(disk, small_config(), Model::new(), 1);
    let segment = |disk: &SimDisk| start(disk).map(|mut rig| rig.wal.next_job(0).unwrap());
    let mut step = 0;
    loop {
        step += 1;
        let disk = SimDisk::new(step);
        // The first segment holds the log, the second one is being made.
        let job = segment(&disk).unwrap();
        disk.crash_after(step);
        let killed = job.run(&disk).is_err() || start(&disk).is_err();
        disk.revive();
        let mut rig = start(&disk).unwrap();
        rig.append(A, 100);
        let turn = rig.wal.start_turn().unwrap();
        crate::shard_wal::write_turn_blocking(&rig.disk, &turn).unwrap();
        let after = recover(&rig.disk.crash(Survival::SyncedOnly), &small_config()).unwrap();
        assert_eq!(after.groups.get(&A).map(|group| group.entries.len()), Some(1), "killed at step {step}");
        if !killed {
            break;
        }
    }
    assert!(step > 10, "a segment and a start take {step} steps");
}

/// A log of three turns in one segment; gives the positions of the turns.
fn three_turns(rig: &mut Rig) -> Vec<u64> {
    let mut positions = Vec::new();
    for group in [A, B, A] {
        rig.append(group, 700);
        let turn = rig.wal.start_turn().unwrap();
        positions.push(turn.position);
        crate::shard_wal::write_turn_blocking(&rig.disk, &turn).unwrap();
        rig.wal.turn_done(turn.turn);
    }
    positions
}

fn slot(number: u32) -> PathBuf {
    slot_path(&small_config().directory, number)
}

#[test]
fn a_bad_last_turn_is_a_torn_tail() {
    for byte in [0, 8, 60, 110, 180, 800] {
        let mut rig = Rig::fresh(10);
        let positions = three_turns(&mut rig);
        rig.disk.flip_bit(&slot(0), positions[2] + byte, 3);
        let recovered = recover(&rig.disk, &small_config()).unwrap();
        assert!(recovered.damage.is_empty(), "byte {byte}: {:?}", recovered.damage);
        assert_eq!(recovered.groups[&A].entries.len(), 1, "the turn counts not at all");
        assert_eq!(recovered.groups[&B].entries.len(), 1);
    }
}

/// Rule 3: the closing turn of an idle shard tells that the turn before it had been durable.
#[test]
fn a_bad_turn_below_a_mark_is_corruption() {
    for byte in [0, 8, 60, 110, 180, 800] {
        let mut rig = Rig::fresh(11);
        let positions = three_turns(&mut rig);
        assert!(!rig.wal.idle_tick(0));
        assert!(rig.wal.idle_tick(100));
        rig.drain().unwrap();
        assert!(!rig.wal.idle_tick(300), "one closing turn is enough");
        rig.disk.flip_bit(&slot(0), positions[2] + byte, 3);
        let recovered = recover(&rig.disk, &small_config()).unwrap();
        assert!(recovered.damage.reason(A).is_some(), "byte {byte}");
    }
}

#[test]
fn a_bad_batch_in_the_middle_damages_its_group_alone() {
    let mut rig = Rig::fresh(12);
    let positions = three_turns(&mut rig);
    rig.disk.flip_bit(&slot(0), positions[1] + 300, 0);
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert!(recovered.damage.reason(B).is_some() && recovered.damage.reason(A).is_none());
    assert_eq!(recovered.groups[&A].entries.len(), 2, "the others' entries are all there");
}

#[test]
fn a_bad_turn_header_in_the_middle_damages_all_groups() {
    let mut rig = Rig::fresh(13);
    let positions = three_turns(&mut rig);
    rig.disk.flip_bit(&slot(0), positions[1] + 20, 0);
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert!(recovered.damage.all.is_some());
    assert!(recovered.damage.reason(A).is_some() && recovered.damage.reason(GroupId(77)).is_some());
    assert_eq!(recovered.groups[&A].entries.len(), 2, "turns after it are still read");
}

/// Damage is not forgotten by the next start, until the group is begun anew.
#[test]
fn damage_lasts_until_the_group_is_removed() {
    let mut rig = Rig::fresh(14);
    let positions = three_turns(&mut rig);
    rig.disk.flip_bit(&slot(0), positions[1] + 20, 0);
    let mut rig = Rig::open(&rig.disk, small_config(), Model::new(), 1).unwrap();
    assert!(recover(&rig.disk, &small_config()).unwrap().damage.reason(A).is_some());
    rig.remove(A);
    rig.append(A, 10);
    rig.drain().unwrap();
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert!(recovered.damage.reason(A).is_none() && recovered.damage.reason(B).is_some());
    assert_eq!(recovered.groups[&A].entries.len(), 1);
}

/// A recovered torn tail lies in the middle of the log from then on; the next recovery must not take it for
/// corruption, nor its remains for turns.
#[test]
fn a_torn_tail_stays_one_after_the_log_went_on() {
    let mut rig = Rig::fresh(15);
    let positions = three_turns(&mut rig);
    rig.disk.flip_bit(&slot(0), positions[2] + 800, 3);
    let mut rig = Rig::open(&rig.disk, small_config(), Model::new(), 1).unwrap();
    rig.append(GroupId(9), 50);
    rig.drain().unwrap();
    // The torn turn heals, as it would had the bit been misread.
    rig.disk.flip_bit(&slot(0), positions[2] + 800, 3);
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    assert_eq!(recovered.groups[&A].entries.len(), 1, "what a recovery cut off never comes back");
    assert_eq!(recovered.groups[&GroupId(9)].entries.len(), 1);
}

/// A log over several segments, with nothing recycled; gives the slots in order.
fn several_segments(rig: &mut Rig) -> Vec<u32> {
    for _ in 0..12 {
        rig.append(A, 9000);
        rig.drain().unwrap();
    }
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert!(recovered.damage.is_empty() && recovered.live.len() >= 3, "{:?}", recovered.live);
    recovered.live.iter().map(|live| live.slot).collect()
}

#[test]
fn the_damaged_header_of_a_segment_that_counts_damages_all_groups() {
    let mut rig = Rig::fresh(16);
    let slots = several_segments(&mut rig);
    for slot_number in slots {
        rig.disk.flip_bit(&slot(slot_number), 17, 1);
        let recovered = recover(&rig.disk, &small_config()).unwrap();
        assert!(recovered.damage.all.is_some(), "slot {slot_number}");
        rig.disk.flip_bit(&slot(slot_number), 17, 1);
    }
}

/// The last turn of a full segment: nothing follows in its segment, but a successor's first turn is a mark.
#[test]
fn a_bad_end_of_a_segment_with_a_successor_is_corruption() {
    for byte in [20, 60, 100] {
        let mut rig = Rig::fresh(25);
        several_segments(&mut rig);
        let entries = recover(&rig.disk, &small_config()).unwrap().groups[&A].entries.clone();
        let first = &entries[0];
        let last = entries.iter().rfind(|entry| entry.slot == first.slot).unwrap();
        let block = u64::from(last.position) / BLOCK as u64 * BLOCK as u64;
        // The turn of that entry, and the turn with the end frame after it.
        for position in [block, (u64::from(last.position) + 9200).next_multiple_of(BLOCK as u64)] {
            rig.disk.flip_bit(&slot(first.slot), position + byte, 1);
            let recovered = recover(&rig.disk, &small_config()).unwrap();
            assert!(recovered.damage.reason(A).is_some(), "position {position}, byte {byte}");
            let last_found = recovered.groups[&A].entries.last().map(|entry| entry.index);
            let reached_the_end = last_found == entries.last().map(|entry| entry.index);
            assert!(reached_the_end || position == block, "later segments are read all the same");
            rig.disk.flip_bit(&slot(first.slot), position + byte, 1);
        }
    }
}

/// The first turn of a segment that recovery opened is damaged after the log went on in it.
#[test]
fn a_bad_opening_turn_is_corruption_once_the_log_went_on() {
    for byte in [20, 60, 100] {
        let mut rig = Rig::fresh(26);
        rig.append(A, 10);
        rig.drain().unwrap();
        let mut rig = Rig::open(&rig.disk, small_config(), Model::new(), 1).unwrap();
        let opened = rig.wal.start_turn();
        assert!(opened.is_none(), "the opening turn is written by open");
        rig.append(B, 10);
        let turn = rig.wal.start_turn().unwrap();
        crate::shard_wal::write_turn_blocking(&rig.disk, &turn).unwrap();
        rig.disk.flip_bit(&turn.path, FIRST_TURN + byte, 1);
        let recovered = recover(&rig.disk, &small_config()).unwrap();
        assert!(recovered.damage.all.is_some(), "byte {byte}");
    }
}

#[test]
fn a_missing_segment_damages_all_groups() {
    let slots = several_segments(&mut Rig::fresh(17));
    for slot_number in slots.into_iter().rev().skip(1) {
        let mut rig = Rig::fresh(17);
        several_segments(&mut rig);
        rig.disk.remove_file(&slot(slot_number)).unwrap();
        assert!(recover(&rig.disk, &small_config()).unwrap().damage.all.is_some(), "slot {slot_number}");
    }
}

#[test]
fn the_damaged_header_of_an_unused_slot_is_harmless() {
    let mut rig = Rig::fresh(18);
    rig.append(A, 10);
    rig.drain().unwrap();
    assert!(rig.disk.exists(&slot(1)).unwrap(), "a segment is prepared ahead");
    rig.disk.flip_bit(&slot(1), 17, 1);
    assert!(recover(&rig.disk, &small_config()).unwrap().damage.is_empty());
}

#[test]
fn an_unreadable_sector_damages_all_groups() {
    let mut rig = Rig::fresh(19);
    three_turns(&mut rig);
    let mut struck = 0;
    for _ in 0..30 {
        rig.disk.set_faults(SimFaults { read_error: 0.1, ..SimFaults::default() });
        let result = recover(&rig.disk, &small_config());
        rig.disk.set_faults(SimFaults::default());
        let Ok(recovered) = result else { continue };
        let whole = recovered.groups.get(&A).is_some_and(|group| group.entries.len() == 2);
        assert!(whole || recovered.damage.all.is_some(), "an entry is missing and nothing is said");
        struck += u32::from(recovered.damage.all.is_some());
    }
    assert!(struck > 0);
}

#[test]
fn another_owner_and_a_newer_format_are_refused() {
    let rig = Rig::fresh(20);
    let mut other = small_config();
    other.identity.node = crate::types::NodeId(2);
    assert!(matches!(recover(&rig.disk, &other), Err(WalError::Foreign { .. })));
    let mut header = rig.disk.contents(&slot(0)).unwrap();
    header[12] = 9;
    let crc = crc32c::crc32c(&header[12..64]);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    let disk = SimDisk::new(1);
    disk.plant(&slot(0), header);
    assert!(matches!(recover(&disk, &small_config()), Err(WalError::NewerFormat { version: 9, .. })));
}

/// Entries are read where they lie, and not without being verified again.
#[test]
fn an_entry_that_changed_since_recovery_is_not_served() {
    let mut rig = Rig::fresh(21);
    rig.append(A, 500);
    rig.drain().unwrap();
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    let location = recovered.groups[&A].entries[0];
    let config = small_config();
    let mut reader = EntryReader::new(&rig.disk, &config);
    assert_eq!(reader.read(A, &location).unwrap().index, RaftIndex(1));
    assert!(reader.read(B, &location).is_err());
    rig.disk.flip_bit(&slot(0), u64::from(location.position) + 400, 0);
    assert!(reader.read(A, &location).is_err());
}

/// A follower that installs a snapshot: what it had is replaced, not joined.
#[test]
fn a_log_start_that_contradicts_the_log_replaces_it() {
    use crate::entry::LogStart;
    for (term, index, left) in [(1, 2, 3), (2, 2, 0), (1, 9, 0)] {
        let mut rig = Rig::fresh(22);
        for _ in 0..5 {
            rig.append(A, 10);
        }
        let log_start = LogStart { index: RaftIndex(index), term: Term(term), ..LogStart::default() };
        rig.state(A, 2, log_start);
        rig.drain().unwrap();
        let recovered = recover(&rig.disk, &small_config()).unwrap();
        assert_eq!(recovered.groups[&A].entries.len(), left, "log start {index} of term {term}");
        assert!(recovered.damage.is_empty());
    }
}

#[test]
fn a_gap_in_a_groups_entries_is_damage() {
    let mut rig = Rig::fresh(23);
    rig.append(A, 10);
    rig.entry(A, RaftIndex(3), 1, 10);
    rig.drain().unwrap();
    let recovered = recover(&rig.disk, &small_config()).unwrap();
    assert!(recovered.damage.reason(A).unwrap().contains("2 to 3"));
    assert_eq!(recovered.groups[&A].entries.len(), 1, "only what is consecutive is kept");
}

fn sample_image() -> Vec<u8> {
    let mut rig = Rig::fresh(24);
    three_turns(&mut rig);
    rig.state(B, 3, crate::entry::LogStart::default());
    rig.wal.put_checkpoint(&[(A, FlushPoint { index: RaftIndex(1), ..FlushPoint::default() })]);
    let _ = rig.wal.filling_turn();
    rig.drain().unwrap();
    rig.disk.contents(&slot(0)).unwrap()
}

#[test]
fn one_segment_can_be_recovered_from_its_bytes() {
    let recovered = recover_image(&sample_image(), IDENTITY).unwrap();
    assert!(recovered.damage.is_empty());
    assert_eq!(recovered.groups[&A].entries.len(), 1);
    assert_eq!(recovered.groups[&B].state.as_ref().unwrap().hard.term, Term(3));
}

/// Whatever bit is flipped: no panic, and either everything is found, or less with the reason said, or less at the
/// tail.
#[test]
fn no_flipped_bit_passes_for_data() {
    let image = sample_image();
    let whole = recover_image(&image, IDENTITY).unwrap();
    let end = FIRST_TURN as usize + 5 * BLOCK;
    for position in (0..end).step_by(7) {
        let mut bad = image.clone();
        bad[position] ^= 1 << (position % 8);
        let Ok(recovered) = recover_image(&bad, IDENTITY) else { continue };
        let tail = position >= FIRST_TURN as usize + 4 * BLOCK;
        assert!(recovered.groups == whole.groups || !recovered.damage.is_empty() || tail, "byte {position}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_images_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        position in 0usize..30_000,
        cut in 0usize..40_000,
    ) {
        let mut image = sample_image();
        let end = image.len().min(position + bytes.len());
        if position < end {
            image[position..end].copy_from_slice(&bytes[..end - position]);
        }
        image.truncate(cut);
        let _ = recover_image(&image, IDENTITY);
        let _ = recover_image(&bytes, IDENTITY);
    }
}

#[test]
fn an_empty_or_missing_directory_is_an_empty_wal() {
    let disk = SimDisk::new(1);
    let recovered = recover(&disk, &small_config()).unwrap();
    assert!(recovered.groups.is_empty() && recovered.damage.is_empty());
    disk.create_dir_all(Path::new("/data/wal/0")).unwrap();
    let mut recovered = recover(&disk, &small_config()).unwrap();
    let wal = ShardWal::open(&disk, small_config(), &mut recovered).unwrap();
    assert_eq!(wal.durable_turn(), TurnNumber(1), "the opening turn");
}
