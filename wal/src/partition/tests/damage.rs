//! Damage: what can be made again is, what cannot is reported with its place.

use super::*;
use crate::partition::names::Part;

/// Three segments or more, synced; the entries and the checkpoint.
fn filled(disk: &Arc<SimDisk>) -> (Rig, Vec<LogEntry>, FlushPoint) {
    let mut rig = Rig::at(disk.clone(), store());
    rig.policy.segment_bytes = 3000;
    let entries = Maker::new().mixed(100);
    rig.append(&entries);
    let point = rig.sync();
    assert!(rig.log.segment_count() >= 3);
    (rig, entries, point)
}

fn names(disk: &SimDisk, rig: &Rig, extension: &str) -> Vec<PathBuf> {
    let listed = disk.list_dir(&rig.dir()).unwrap();
    let named = listed.iter().filter(|entry| entry.name.ends_with(extension));
    named.map(|entry| rig.dir().join(&entry.name)).collect()
}

#[test]
fn an_index_that_is_lost_or_damaged_is_made_again() {
    let disk = Arc::new(SimDisk::new(1));
    let (mut rig, entries, point) = filled(&disk);
    let paths = names(&disk, &rig, ".sidx");
    let good: Vec<_> = paths.iter().map(|path| disk.contents(path).unwrap()).collect();
    assert!(good.iter().filter(|bytes| bytes.len() > 64).count() >= 3);
    type Harm = fn(&SimDisk, &PathBuf);
    let harms: [Harm; 4] = [
        |disk, path| disk.remove_file(path).unwrap(),
        |disk, path| disk.plant(path, Vec::new()),
        |disk, path| disk.flip_bit(path, 3, 1),
        |disk, path| disk.flip_bit(path, disk.contents(path).unwrap().len() as u64 - 10, 1),
    ];
    for harm in harms {
        paths.iter().for_each(|path| harm(&disk, path));
        rig.reopen(point, LogStart::default());
        for (path, good) in paths.iter().zip(&good) {
            assert_eq!(&disk.contents(path).unwrap(), good, "{}", path.display());
        }
        assert_eq!(rig.entries(1), entries);
    }
    // Damage in the midst of an index is met by a look-up, which then walks further.
    for (path, _) in paths.iter().zip(&good).filter(|(_, good)| good.len() > 64) {
        disk.flip_bit(path, 32 + 5, 1);
    }
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Batch) {
        assert_eq!(rig.try_read(entry.base_offset.0, 1, true).unwrap().unwrap().data, entry.data);
    }
}

#[test]
fn a_damaged_batch_is_never_handed_out() {
    let disk = Arc::new(SimDisk::new(1));
    let (mut rig, entries, point) = filled(&disk);
    let path = rig.dir().join("00000000000000000000.log");
    let second = entries.iter().filter(|entry| entry.kind == EntryKind::Batch).nth(1).unwrap();
    let position = entries[1].data.len() as u64;
    disk.flip_bit(&path, position + 70, 4);
    // Sealed segments are not read at start, so that a start is quick.
    rig.store.cache = Arc::new(FileCache::new(64));
    rig.reopen(point, LogStart::default());
    let error = rig.try_read(second.base_offset.0, 1000, true).unwrap().unwrap_err();
    let FilesError::Damaged { path: found, position: at, .. } = error else { panic!("{error}") };
    assert_eq!((found, at), (path, position));
    let job = rig.log.read_entries(second.index, 1000).unwrap();
    assert!(matches!(job.run(&*rig.disk), FileDone::Entries(Err(FilesError::Damaged { .. }))));
    // Its neighbours are well.
    assert_eq!(rig.try_read(0, 1, true).unwrap().unwrap().data, entries[1].data);
}

#[test]
fn damage_below_the_checkpoint_is_reported_with_its_place() {
    let disk = Arc::new(SimDisk::new(1));
    let (mut rig, _, point) = filled(&disk);
    let log = rig.dir().join(names::file_name(point.segment_base, "log"));
    let raft = names(&disk, &rig, ".raft");
    let tail = point.position - 10;
    disk.flip_bit(&log, tail, 0);
    let error = rig.try_reopen(Some(point), LogStart::default()).err().unwrap();
    assert!(
        matches!(&error, FilesError::Damaged { path, position, .. } if *path == log && *position < tail),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&log.display().to_string()) && text.contains("damaged at byte"), "{text}");
    disk.flip_bit(&log, tail, 0);

    let good = disk.contents(&log).unwrap();
    disk.plant(&log, good[..good.len() - 1].to_vec());
    let error = rig.try_reopen(Some(point), LogStart::default()).err().unwrap();
    assert!(matches!(&error, FilesError::Damaged { position, .. } if *position == point.position - 1));
    disk.plant(&log, good);

    // Any bit of any `.raft` file.
    for path in &raft {
        let good = disk.contents(path).unwrap();
        for position in 0..good.len() as u64 {
            disk.flip_bit(path, position, (position % 8) as u8);
            let error = rig.try_reopen(Some(point), LogStart::default()).err();
            assert!(
                matches!(error, Some(FilesError::Damaged { .. } | FilesError::Version { .. })),
                "{} at {position}: {error:?}",
                path.display()
            );
            disk.flip_bit(path, position, (position % 8) as u8);
        }
        disk.remove_file(path).unwrap();
        assert!(matches!(
            rig.try_reopen(Some(point), LogStart::default()).err(),
            Some(FilesError::Damaged { .. })
        ));
        disk.plant(path, good);
    }
    rig.reopen(point, LogStart::default());
}

#[test]
fn a_missing_segment_is_reported() {
    let disk = Arc::new(SimDisk::new(1));
    let (mut rig, _, point) = filled(&disk);
    let logs = names(&disk, &rig, ".log");
    for path in &logs {
        let good = disk.contents(path).unwrap();
        disk.remove_file(path).unwrap();
        let error = rig.try_reopen(Some(point), LogStart::default()).err().unwrap();
        assert!(matches!(&error, FilesError::Damaged { path: found, .. } if found == path), "{error}");
        disk.plant(path, good);
    }
    // All three files of one.
    let base = rig.log.segments[1].files.path(Part::Log);
    for extension in ["log", "sidx", "raft"] {
        disk.remove_file(&base.with_extension(extension)).unwrap();
    }
    assert!(matches!(
        rig.try_reopen(Some(point), LogStart::default()).err(),
        Some(FilesError::Damaged { .. })
    ));
    disk.remove_dir_all(&rig.dir()).unwrap();
    assert!(matches!(
        rig.try_reopen(Some(point), LogStart::default()).err(),
        Some(FilesError::Damaged { .. })
    ));
}

#[test]
fn a_newer_format_is_refused() {
    let disk = Arc::new(SimDisk::new(1));
    let (mut rig, _, point) = filled(&disk);
    let path = names(&disk, &rig, ".raft").remove(0);
    let mut bytes = disk.contents(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.plant(&path, bytes);
    let error = rig.try_reopen(Some(point), LogStart::default()).err().unwrap();
    assert!(matches!(error, FilesError::Version { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn an_older_snapshot_stands_in_for_a_damaged_one() {
    let disk = Arc::new(SimDisk::new(1));
    let (mut rig, _, point) = filled(&disk);
    let snapshots = names(&disk, &rig, ".snapshot");
    let offsets: Vec<KafkaOffset> =
        rig.log.segments.iter().skip(1).map(|segment| segment.files.base_offset).collect();
    assert_eq!(snapshots.len(), offsets.len());
    for (path, offset) in snapshots.iter().zip(&offsets).rev() {
        let (found, replay_from) = rig.reopen(point, LogStart::default());
        assert_eq!(found, snapshot(*offset));
        assert_eq!(replay_from, *offset);
        disk.flip_bit(path, 9, 2);
    }
    assert_eq!(rig.reopen(point, LogStart::default()), (None, KafkaOffset(0)));
}
