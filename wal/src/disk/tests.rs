//! Both disks keep the trait's promises; the simulated one fails as it says.

use std::path::Path;

use super::sim::{SimFaults, Survival};
use super::*;

/// What every disk must do, run against the real one and the simulated one.
fn exercise(disk: &dyn Disk, root: &Path) {
    let directory = root.join("a/b");
    create_dirs_durably(disk, &directory).unwrap();
    let path = directory.join("file");
    assert_eq!(disk.open(&path, OpenMode::Read).err().unwrap().kind(), io::ErrorKind::NotFound);
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    assert_eq!(disk.open(&path, OpenMode::CreateNew).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    assert!(file.is_empty().unwrap());
    let mapping = file.map(16 << 10).unwrap();

    file.write_vectored_at(&[b"hello", b"", b" ", b"world"], 3).unwrap();
    let mut read = [0; 11];
    file.read_exact_at(&mut read, 3).unwrap();
    assert_eq!(&read, b"hello world");
    assert_eq!(file.len().unwrap(), 14);
    assert_eq!(file.read_exact_at(&mut read, 4).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    file.fdatasync().unwrap();
    mapping.populate(0..14).unwrap();
    assert_eq!(mapping.bytes(3..14), b"hello world", "a mapping shows what is written after it was made");
    assert!(mapping.populate(0..16 << 10).is_err(), "beyond the end is an error, not a SIGBUS");

    // More slices than one call takes, and an end within a page.
    let slices: Vec<&[u8]> = (0..3000).map(|number| [&b"abc"[..], b"", b"defgh"][number % 3]).collect();
    file.write_past_cache_at(&slices, 14).unwrap();
    file.write_past_cache_at(&[b"short"], 14 + 8000).unwrap();
    file.write_past_cache_at(&[], 7).unwrap();
    let mut all = vec![0; 8019];
    file.read_exact_at(&mut all, 0).unwrap();
    assert_eq!(file.len().unwrap(), 8019);
    assert!(
        all[3..14] == *b"hello world"
            && all[14..8014] == b"abcdefgh".repeat(1000)
            && all[8014..] == *b"short"
    );
    mapping.populate(0..8019).unwrap();
    assert_eq!(mapping.bytes(0..8019), all);
    mapping.release(0..8019);
    mapping.release(8192..16 << 10);
    assert_eq!(mapping.bytes(0..8019), all, "what was let go of may be read all the same");
    file.set_len(14).unwrap();

    file.allocate(0, 8192).unwrap();
    assert_eq!(file.len().unwrap(), 8192);
    file.set_len(14).unwrap();
    assert_eq!(disk.file_len(&path).unwrap(), 14);

    let renamed = directory.join("other");
    disk.rename(&path, &renamed).unwrap();
    disk.sync_dir(&directory).unwrap();
    assert!(!disk.exists(&path).unwrap());
    let names: Vec<_> = disk.list_dir(&root.join("a")).unwrap();
    assert_eq!(names, [DirEntry { name: "b".into(), is_dir: true }]);
    assert_eq!(disk.list_dir(&directory).unwrap()[0].name, "other");
    replace_file(disk, &renamed, b"new").unwrap();
    assert_eq!(read_file(disk, &renamed, 3).unwrap(), b"new");
    assert_eq!(read_file(disk, &renamed, 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
    disk.remove_file(&renamed).unwrap();
    assert_eq!(mapping.bytes(3..8), b"hello", "an unlinked file stays mapped");
    disk.remove_dir_all(&root.join("a")).unwrap();
    assert!(!disk.exists(&directory).unwrap());
    assert!(disk.free_space(root).unwrap() > 0);
}

#[test]
fn the_real_disk_keeps_the_promises() {
    let root = tempfile::tempdir().unwrap();
    exercise(&OsDisk, root.path());
}

#[test]
fn the_simulated_disk_keeps_the_promises() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/root")).unwrap();
    exercise(&disk, Path::new("/root"));
}

#[test]
fn an_unsynced_write_is_torn_at_sectors() {
    let mut torn = false;
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let path = Path::new("f");
        let file = disk.open(path, OpenMode::ReadWrite).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.fdatasync().unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        file.write_all_at(&[2; 4096], 0).unwrap();
        assert_eq!(disk.crash(Survival::SyncedOnly).contents(path).unwrap(), [1; 4096]);
        assert_eq!(disk.crash(Survival::All).contents(path).unwrap(), [2; 4096]);
        let left = disk.crash(Survival::Random).contents(path).unwrap();
        assert!(left.chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]), "sectors are whole");
        torn |= left.contains(&1) && left.contains(&2);
    }
    assert!(torn);
}

#[test]
fn a_name_without_a_directory_sync_is_lost() {
    let disk = SimDisk::new(3);
    let (old, new) = (Path::new("/d/old"), Path::new("/d/new"));
    create_dirs_durably(&disk, Path::new("/d")).unwrap();
    disk.open(old, OpenMode::CreateNew).unwrap().fdatasync().unwrap();
    assert!(!disk.crash(Survival::SyncedOnly).exists(old).unwrap());
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.rename(old, new).unwrap();
    let left = disk.crash(Survival::SyncedOnly);
    assert!(left.exists(old).unwrap() && !left.exists(new).unwrap());
    disk.sync_dir(Path::new("/d")).unwrap();
    let left = disk.crash(Survival::SyncedOnly);
    assert!(!left.exists(old).unwrap() && left.exists(new).unwrap());
    assert_eq!(left.counts().names_lost, 0);
}

#[test]
fn faults_strike_and_are_counted() {
    let disk = SimDisk::new(4);
    let file = disk.open(Path::new("f"), OpenMode::ReadWrite).unwrap();
    file.write_all_at(&[0; 64], 0).unwrap();
    disk.set_faults(SimFaults { capacity: Some(64), latency_us_max: 9, ..SimFaults::default() });
    assert_eq!(file.write_all_at(&[0], 64).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(0, 65).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_all_at(&[0; 64], 0).unwrap();
    disk.set_faults(SimFaults { sync_error: 1.0, bit_flip: 1.0, ..SimFaults::default() });
    assert!(file.fdatasync().is_err());
    let mut read = [0; 64];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    disk.set_faults(SimFaults { read_error: 1.0, write_error: 1.0, ..SimFaults::default() });
    assert!(file.write_all_at(&[0], 0).is_err());
    assert!(file.read_at(&mut read, 0).is_err());
    let counts = disk.counts();
    assert_eq!((counts.full, counts.sync_errors, counts.bit_flips), (2, 1, 1));
    assert_eq!((counts.write_errors, counts.read_errors), (1, 1));
    assert!(disk.take_latency_us() > 0);
}

#[test]
fn the_machine_crashes_at_the_step_asked_for() {
    let disk = SimDisk::new(5);
    let file = disk.open(Path::new("f"), OpenMode::ReadWrite).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk.crash_after(2);
    file.write_all_at(&[1; 8], 0).unwrap();
    assert!(file.fdatasync().is_err() && disk.has_crashed());
    assert!(file.write_all_at(&[1; 8], 8).is_err(), "a crashed machine does nothing more");
    assert_eq!(disk.crash(Survival::SyncedOnly).contents(Path::new("f")).unwrap(), [0u8; 0]);
}

/// Appends past the cache while others read through a mapping, or past the cache too, the page that is still growing above all:
/// no reader may ever see other bytes than those written.
#[test]
fn readers_see_what_is_written_past_the_cache() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    const TOTAL: usize = 48 << 20;
    const PERIOD: usize = 65_521;
    const PIECE_MAX: usize = 700_000;
    const LOOK_MAX: usize = 300_000;
    let pattern: Vec<u8> =
        (0..PERIOD + PIECE_MAX).map(|at| (((at % PERIOD) * 2_654_435_761) >> 11) as u8).collect();
    let bytes_at = |position: usize, len: usize| &pattern[position % PERIOD..][..len];
    let root = tempfile::tempdir().unwrap();
    let file = OsDisk.open(&root.path().join("log"), OpenMode::ReadWrite).unwrap();
    let written = AtomicUsize::new(0);
    let write = || {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut at = 0;
        while at < TOTAL {
            let len = rng.random_range(1..PIECE_MAX).min(TOTAL - at);
            file.allocate(at as u64, len as u64).unwrap();
            let slices: Vec<&[u8]> = bytes_at(at, len).chunks(16_001).collect();
            // As small pieces of a partition go through the cache, beside long ones that do not.
            let past_cache = rng.random_bool(0.7);
            let write = if past_cache { DiskFile::write_past_cache_at } else { DiskFile::write_vectored_at };
            write(&*file, &slices, at as u64).unwrap();
            at += len;
            written.store(at, Ordering::Release);
            if rng.random_bool(0.1) {
                file.fdatasync().unwrap();
            }
        }
    };
    let read = |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mapping = file.map(TOTAL).unwrap();
        let mut buffer = AlignedBuffer::new(LOOK_MAX + 2 * BLOCK_BYTES).unwrap();
        let mut looks = 0;
        while looks < 200 || written.load(Ordering::Acquire) < TOTAL {
            let end = written.load(Ordering::Acquire);
            if end == 0 {
                std::thread::yield_now();
                continue;
            }
            looks += 1;
            // Half of the looks end where the written bytes end just now.
            let to = if rng.random_bool(0.5) { end } else { rng.random_range(1..=end) };
            let from = to.saturating_sub(rng.random_range(1..LOOK_MAX));
            if rng.random_bool(0.3) {
                let start = from / BLOCK_BYTES * BLOCK_BYTES;
                let blocks = &mut buffer.as_mut_bytes()[..(to - start).next_multiple_of(BLOCK_BYTES)];
                let count = file.read_past_cache_at(blocks, start as u64).unwrap();
                assert!(count >= to - start, "{from}..{to} of {end} ends after {count} bytes");
                assert!(
                    blocks[from - start..to - start] == *bytes_at(from, to - from),
                    "{from}..{to} of {end}"
                );
            }
            mapping.populate(from..to).unwrap();
            assert!(mapping.resident_bytes(from..to) > 0, "what was just brought in is there");
            assert!(mapping.bytes(from..to) == bytes_at(from, to - from), "{from}..{to} of {end}");
            if rng.random_bool(0.5) {
                mapping.release(from..to);
            }
            assert!(mapping.bytes(from..to) == bytes_at(from, to - from), "{from}..{to} of {end}, again");
        }
    };
    std::thread::scope(|threads| {
        threads.spawn(write);
        threads.spawn(|| read(1));
        threads.spawn(|| read(2));
    });
    file.fdatasync().unwrap();
    let mut all = vec![0; TOTAL];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all.chunks(PERIOD).all(|chunk| *chunk == pattern[..chunk.len()]));
}
