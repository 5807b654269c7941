//! Damage, end to end: the real binary on a real directory, spoken to over TCP. What is damaged is refused, never guessed
//! (SAFETY.md, rules 3, 8 and 25); what is not damaged is served; `log repair` brings the rest back.

mod damage_rig;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use damage_rig::{Client, Server, free_segments, repair, start_fails};

const STORAGE_ERROR: i16 = 56;
const NONE: i16 = 0;

/// Flips one bit of the file that holds `needle`, within it. Needles are record values: unique in the data directory.
fn flip(dir: &Path, extension: &str, needle: &str) -> PathBuf {
    for path in files(dir, extension) {
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("no {extension} file under {} holds {needle}", dir.display());
}

fn holds(dir: &Path, extension: &str, needle: &str) -> bool {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    };
    files(dir, extension).iter().any(holds)
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // A directory appears with the first write-behind.
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn value(partition: i32, number: i64) -> String {
    format!("record-{number:05}-of-partition-{partition}")
}

/// The target directory lies on a real disk, which the WAL's O_DIRECT needs.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Two partitions with `count` records each, one a batch.
fn fill(client: &mut Client, count: i64) {
    client.create("orders", 2, &[]);
    for number in 0..count {
        for partition in [0, 1] {
            assert_eq!(client.produce("orders", partition, &value(partition, number)), (NONE, number));
        }
    }
}

fn assert_serves(client: &mut Client, partition: i32, count: i64) {
    let read = client.read_all("orders", partition);
    let wanted: Vec<String> = (0..count).map(|number| value(partition, number)).collect();
    assert_eq!(read, Ok(wanted));
}

fn assert_offline(client: &mut Client, partition: i32) {
    assert_eq!(client.produce("orders", partition, "refused").0, STORAGE_ERROR);
    assert_eq!(client.fetch("orders", partition, 0, -1).error, STORAGE_ERROR);
    assert_eq!(client.end_offset("orders", partition).0, STORAGE_ERROR);
    assert_eq!(client.partitions("orders"), BTreeSet::from([0, 1]), "Metadata lists it still");
}

#[test]
fn a_flipped_bit_in_the_wal_takes_one_partition_offline_until_it_is_repaired() {
    let root = scratch();
    let dir = root.path().join("data");
    let server = Server::start(&dir);
    let epoch = {
        let mut client = server.client();
        fill(&mut client, 20);
        client.epoch("orders", 0)
    };
    server.kill();
    // Killed before a checkpoint: the WAL alone counts. The partition's files are taken away, so that it alone has it.
    flip(&dir, "wal", &value(0, 12));
    std::fs::remove_dir_all(dir.join("data/orders-0")).ok();

    let server = Server::start(&dir);
    let mut client = server.client();
    assert_offline(&mut client, 0);
    assert_serves(&mut client, 1, 20);
    assert_eq!(client.produce("orders", 1, &value(1, 20)), (NONE, 20));
    assert!(server.log().contains("orders-0 is damaged and stays offline"), "{}", server.log());
    let (code, _, error) = repair(&dir, &[]);
    assert!(code == 1 && error.contains("in use by another chronik-server"), "{error}");
    server.stop();

    let (code, report, _) = repair(&dir, &["--node-id", "1"]);
    assert_eq!(code, 1, "{report}");
    assert!(report.contains("orders-0") && !report.contains("orders-1"), "{report}");
    assert!(report.contains("offsets 0..12") && report.contains("12..20"), "{report}");
    let server = Server::start(&dir);
    assert_offline(&mut server.client(), 0);
    server.stop();

    let (code, report, error) = repair(&dir, &["--accept-loss"]);
    assert_eq!(code, 0, "{report}{error}");
    let (code, report, _) = repair(&dir, &[]);
    assert!(code == 0 && report.contains("No damage"), "{report}");
    let server = Server::start(&dir);
    let mut client = server.client();
    assert_serves(&mut client, 0, 12);
    assert_serves(&mut client, 1, 21);
    assert!(client.epoch("orders", 0) > epoch + 1);
    let fetched = client.fetch("orders", 0, 20, epoch);
    assert_eq!(
        (fetched.error, fetched.diverging),
        (NONE, Some((epoch, 12))),
        "KIP-320: the log was truncated"
    );
    assert_eq!(client.produce("orders", 0, &value(0, 12)), (NONE, 12));
    let fetched = client.fetch("orders", 0, 13, epoch);
    assert_eq!(fetched.diverging, Some((epoch, 12)), "offset 12 is another record now");
    server.stop();
    let server = Server::start(&dir);
    assert_serves(&mut server.client(), 0, 13);
    server.stop();
}

#[test]
fn what_the_files_have_beyond_the_damage_in_the_wal_is_not_lost() {
    let root = scratch();
    let dir = root.path().join("data");
    let server = Server::start(&dir);
    fill(&mut server.client(), 20);
    // Write-behind is in no hurry with so little.
    let begun = Instant::now();
    while !holds(&dir.join("data"), "log", &value(0, 19)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is written behind");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop();
    flip(&dir, "wal", &value(0, 12));
    let server = Server::start(&dir);
    assert_offline(&mut server.client(), 0);
    server.stop();
    let (code, report, _) = repair(&dir, &["--accept-loss"]);
    assert!(code == 0 && report.contains("offsets 0..20") && report.contains("nothing known"), "{report}");
    let server = Server::start(&dir);
    assert_serves(&mut server.client(), 0, 20);
    server.stop();
}

#[test]
fn a_torn_tail_after_a_kill_is_no_damage() {
    let root = scratch();
    let dir = root.path().join("data");
    let server = Server::start(&dir);
    fill(&mut server.client(), 30);
    server.kill();
    // Garbage right after the last turn, where the next one would have been torn.
    let path = files(&dir, "wal").into_iter().next().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 4096 * 4096 + 4096;
    for (number, byte) in bytes[end..end + 10_000].iter_mut().enumerate() {
        *byte = (number * 7 + 13) as u8;
    }
    std::fs::write(&path, bytes).unwrap();
    let server = Server::start(&dir);
    for partition in [0, 1] {
        assert_serves(&mut server.client(), partition, 30);
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
    server.stop();
    assert_eq!(repair(&dir, &[]).0, 0);
}

/// A partition of several segments, all but the newest sealed and below a checkpoint.
fn with_sealed_segments(dir: &Path) -> i64 {
    let server = Server::start(dir);
    let mut client = server.client();
    client.create("orders", 2, &[("segment.bytes", "1048576")]);
    let pad = "p".repeat(100_000);
    for number in 0..60 {
        assert_eq!(client.produce("orders", 0, &format!("{}{pad}", value(0, number))), (NONE, number));
    }
    assert_eq!(client.produce("orders", 1, &value(1, 0)), (NONE, 0));
    server.stop();
    free_segments(dir);
    60
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_never_served() {
    let root = scratch();
    let dir = root.path().join("data");
    let count = with_sealed_segments(&dir);
    flip(&dir.join("data/orders-0"), "log", &value(0, 15));
    let server = Server::start(&dir);
    let mut client = server.client();
    for number in 0..count {
        let fetched = client.fetch("orders", 0, number, -1);
        if number == 15 {
            assert_eq!((fetched.error, fetched.values.len()), (STORAGE_ERROR, 0));
            continue;
        }
        assert_eq!(fetched.error, NONE, "offset {number}");
        assert!(fetched.values[0].starts_with(&value(0, number)), "offset {number}");
        if number < 15 {
            assert!(fetched.values.len() as i64 <= 15 - number);
        }
    }
    assert_eq!(client.produce("orders", 0, "goes on"), (NONE, count));
    server.stop();

    let (code, report, _) = repair(&dir, &[]);
    assert!(code == 1 && report.contains("offsets 0..15") && report.contains("15..61"), "{report}");
    let (code, report, error) = repair(&dir, &["--accept-loss"]);
    assert_eq!(code, 0, "{report}{error}");
    let server = Server::start(&dir);
    let mut client = server.client();
    let read = client.read_all("orders", 0).unwrap();
    assert_eq!(read.len(), 15);
    assert!(read[14].starts_with(&value(0, 14)));
    assert_eq!(client.produce("orders", 0, "after the repair"), (NONE, 15));
    server.stop();
    assert_eq!(repair(&dir, &[]).0, 0);
}

#[test]
fn a_missing_segment_takes_the_partition_offline_and_stays_so_until_repaired() {
    let root = scratch();
    let dir = root.path().join("data");
    with_sealed_segments(&dir);
    let logs = files(&dir.join("data/orders-0"), "log");
    assert!(logs.len() > 3, "{logs:?}");
    std::fs::remove_file(&logs[1]).unwrap();
    // Many starts, with checkpoints between: none may take what is left for a leftover.
    free_segments(&dir);
    let server = Server::start(&dir);
    let mut client = server.client();
    assert_offline(&mut client, 0);
    assert_eq!(client.produce("orders", 1, &value(1, 1)), (NONE, 1));
    server.stop();
    assert_eq!(files(&dir.join("data/orders-0"), "log").len(), logs.len() - 1, "nothing was removed");
    let (code, report, error) = repair(&dir, &["--accept-loss"]);
    assert_eq!(code, 0, "{report}{error}");
    let first_lost: i64 = logs[1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(report.contains(&format!("offsets 0..{first_lost}")), "{report}");
    let server = Server::start(&dir);
    assert_eq!(server.client().read_all("orders", 0).unwrap().len() as i64, first_lost);
    assert_eq!(server.client().produce("orders", 0, "again"), (NONE, first_lost));
    server.stop();
}

#[test]
fn a_damaged_metadata_log_stops_the_start_until_it_is_repaired() {
    let root = scratch();
    let dir = root.path().join("data");
    let server = Server::start(&dir);
    fill(&mut server.client(), 3);
    server.client().create("later", 1, &[]);
    server.kill();
    std::fs::remove_dir_all(dir.join("data")).ok();
    flip(&dir, "wal", "\"later\"");
    let error = start_fails(&dir, &[]);
    assert!(error.contains("the metadata log: it is damaged") && error.contains("log repair"), "{error}");
    let (code, report, _) = repair(&dir, &[]);
    assert!(code == 1 && report.contains("__cluster_metadata-0"), "{report}");
    assert_eq!(repair(&dir, &["--accept-loss"]).0, 0);
    let server = Server::start(&dir);
    let mut client = server.client();
    assert_serves(&mut client, 0, 3);
    assert!(client.partitions("later").is_empty());
    client.create("later", 1, &[]);
    server.stop();
}

#[test]
fn a_start_on_what_is_not_its_own_is_refused_in_one_line() {
    let root = scratch();
    let dir = root.path().join("data");
    let server = Server::start(&dir);
    let error = start_fails(&dir, &[]);
    assert!(error.contains("in use by another chronik-server"), "{error}");
    server.stop();
    let error = start_fails(&dir, &["--node-id", "2"]);
    assert!(error.contains("belongs to node 1, this is node 2"), "{error}");
    let (code, _, error) = repair(&dir, &["--node-id", "2"]);
    assert!(code == 1 && error.contains("belongs to node 1, this is node 2"), "{error}");
    let (code, _, error) = repair(&dir.join("data"), &[]);
    assert!(code == 1 && error.contains("is no data directory"), "{error}");

    let properties = dir.join("meta.properties");
    let good = std::fs::read_to_string(&properties).unwrap();
    std::fs::write(&properties, good.replace("shards=1", "shards=3")).unwrap();
    let error = start_fails(&dir, &[]);
    assert!(error.contains("meta.properties is damaged: the checksum does not fit"), "{error}");
    std::fs::write(&properties, good.replace("version=1", "version=2")).unwrap();
    let error = start_fails(&dir, &[]);
    assert!(error.contains("has version 2, this program knows up to 1; start a newer one"), "{error}");
    std::fs::write(&properties, good).unwrap();
    Server::start(&dir).stop();
}
