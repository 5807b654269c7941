//! What `log repair` keeps of damaged files: a run of the very entries that were written, opened again like any other log.

use super::*;
use crate::disk::sim::Survival;
use crate::partition::names::METADATA_FILE;

/// Four segments or more, synced; the entries and the checkpoint.
fn filled() -> (Arc<SimDisk>, PathBuf, Vec<LogEntry>, FlushPoint) {
    let disk = Arc::new(SimDisk::new(1));
    let mut rig = Rig::at(disk.clone(), store());
    rig.policy.segment_bytes = 3000;
    let entries = Maker::new().mixed(120);
    rig.append(&entries);
    let point = rig.sync();
    assert!(rig.log.segment_count() >= 4);
    let dir = rig.dir();
    (disk, dir, entries, point)
}

fn salvage(disk: &SimDisk, to: SalvageTo) -> Salvaged {
    PartitionLog::salvage(disk, &store(), &identity(), to, LogStart::default()).unwrap()
}

/// Opens what was salvaged: its entries, of all kinds.
fn opened(disk: SimDisk, salvaged: &Salvaged) -> Vec<LogEntry> {
    PartitionLog::sync_salvaged(&disk, &store(), &identity(), salvaged).unwrap();
    let mut rig = Rig::at(Arc::new(disk), store());
    let log = rig.try_reopen(salvaged.end, salvaged.start).unwrap().log;
    rig.log = log;
    rig.entries(rig.log.start().index.0 + 1)
}

fn paths(disk: &SimDisk, dir: &Path, extension: &str) -> Vec<PathBuf> {
    let names = disk.list_dir(dir).unwrap().into_iter().map(|entry| dir.join(entry.name));
    names.filter(|path| path.extension().is_some_and(|own| own == extension)).collect()
}

#[test]
fn sound_files_are_kept_whole() {
    let (disk, _, entries, point) = filled();
    for to in [SalvageTo::Checkpoint(point), SalvageTo::End] {
        let salvaged = salvage(&disk, to);
        assert_eq!((salvaged.end, &salvaged.damage), (Some(point), &None));
        assert_eq!(opened(disk.crash(Survival::All), &salvaged), entries);
        let mut bytes = Vec::new();
        PartitionLog::visit_salvaged(&*disk, &store(), &identity(), &salvaged, &mut |_, batch| {
            bytes.extend_from_slice(batch);
        })
        .unwrap();
        assert_eq!(bytes, batch_bytes(&entries));
    }
}

#[test]
fn a_flipped_bit_anywhere_leaves_a_run_of_what_was_written() {
    let (disk, dir, entries, point) = filled();
    let mut shorter = 0;
    for path in ["log", "raft"].iter().flat_map(|extension| paths(&disk, &dir, extension)) {
        let len = disk.contents(&path).unwrap().len() as u64;
        for position in (0..len).step_by(61) {
            let damaged = disk.crash(Survival::All);
            damaged.flip_bit(&path, position, 2);
            let salvaged = salvage(&damaged, SalvageTo::Checkpoint(point));
            let place = format!("{} at {position}: {salvaged:?}", path.display());
            if salvaged.end == Some(point) && salvaged.start == LogStart::default() {
                assert!(salvaged.damage.is_none(), "{place}");
                continue;
            }
            assert!(salvaged.damage.is_some(), "{place}");
            let kept = opened(damaged, &salvaged);
            let from = salvaged.start.index.0 as usize;
            assert_eq!(kept, entries[from..from + kept.len()], "{place}");
            shorter += 1;
        }
    }
    assert!(shorter > 100, "{shorter}");
}

#[test]
fn a_bad_batch_costs_what_follows_and_nothing_before() {
    let (disk, dir, entries, point) = filled();
    let second = &paths(&disk, &dir, "log")[1];
    let base: i64 = second.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let batches: Vec<&LogEntry> = entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Batch && entry.base_offset.0 >= base)
        .take(3)
        .collect();
    let position: usize = batches[..2].iter().map(|entry| entry.data.len()).sum();
    disk.flip_bit(second, position as u64 + 65, 1);
    let salvaged = salvage(&disk, SalvageTo::Checkpoint(point));
    assert_eq!(salvaged.end.unwrap().next_offset, batches[2].base_offset);
    let kept = opened(disk.crash(Survival::All), &salvaged);
    assert_eq!(kept, entries[..batches[2].index.0 as usize - 1]);
}

#[test]
fn without_its_oldest_segment_the_log_begins_at_the_next() {
    let (disk, dir, entries, point) = filled();
    let logs = paths(&disk, &dir, "log");
    disk.remove_file(&logs[0]).unwrap();
    disk.remove_file(&paths(&disk, &dir, "raft")[0]).unwrap();
    let salvaged = salvage(&disk, SalvageTo::Checkpoint(point));
    let base: i64 = logs[1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert_eq!(salvaged.start.base_offset, KafkaOffset(base));
    assert_eq!(salvaged.end, Some(point));
    assert!(salvaged.damage.as_ref().unwrap().contains("is missing"), "{salvaged:?}");
    let kept = opened(disk.crash(Survival::All), &salvaged);
    assert_eq!(kept, entries[salvaged.start.index.0 as usize..]);
}

#[test]
fn a_lost_name_is_written_again_and_a_foreign_one_refused() {
    let (disk, dir, entries, point) = filled();
    let name = dir.join(METADATA_FILE);
    disk.remove_file(&name).unwrap();
    let salvaged = salvage(&disk, SalvageTo::Checkpoint(point));
    assert!(salvaged.unnamed && salvaged.end == Some(point));
    assert_eq!(opened(disk.crash(Survival::All), &salvaged), entries);
    let other = PartitionIdentity { topic_id: [1; 16], ..identity() };
    disk.plant(&name, other.metadata_text().into_bytes());
    let to = SalvageTo::Checkpoint(point);
    let error = PartitionLog::salvage(&*disk, &store(), &identity(), to, LogStart::default()).unwrap_err();
    assert!(matches!(error, FilesError::Identity { .. }), "{error}");
}

#[test]
fn a_batch_with_another_base_offset_is_never_handed_out() {
    let (disk, dir, entries, point) = filled();
    let batches: Vec<&LogEntry> =
        entries.iter().filter(|entry| entry.kind == EntryKind::Batch).take(3).collect();
    let position = batches[0].data.len() as u64;
    let path = &paths(&disk, &dir, "log")[0];
    for (byte, bit) in [(7, 2), (7, 3), (5, 0), (1, 6)] {
        let disk = disk.crash(Survival::All);
        disk.flip_bit(path, position + byte, bit);
        let mut rig = Rig::at(Arc::new(disk), store());
        rig.reopen(point, LogStart::default());
        let read = rig.try_read(0, 1 << 20, true).unwrap().unwrap();
        assert_eq!(read.data, batches[0].data, "byte {byte}");
        let read = rig.try_read(batches[1].base_offset.0, 1 << 20, true).unwrap();
        assert!(matches!(read, Err(FilesError::Damaged { .. })), "byte {byte}");
        assert!(rig.try_read(batches[2].base_offset.0, 1, true).unwrap().is_ok(), "byte {byte}");
    }
}

#[test]
fn a_read_gives_what_comes_before_the_damage() {
    let (disk, dir, entries, point) = filled();
    let first: Vec<&LogEntry> =
        entries.iter().filter(|entry| entry.kind == EntryKind::Batch).take(3).collect();
    let position: usize = first[..2].iter().map(|entry| entry.data.len()).sum();
    disk.flip_bit(&paths(&disk, &dir, "log")[0], position as u64 + 65, 1);
    let mut rig = Rig::at(disk, store());
    rig.reopen(point, LogStart::default());
    let read = rig.try_read(0, 1 << 20, true).unwrap().unwrap();
    assert_eq!(read.data, batch_bytes(&entries[..first[2].index.0 as usize - 1]));
    assert_eq!(read.next_offset, first[2].base_offset);
    assert!(matches!(
        rig.try_read(first[2].base_offset.0, 1 << 20, true),
        Some(Err(FilesError::Damaged { .. }))
    ));
}
