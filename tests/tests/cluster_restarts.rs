//! Restarts and disasters of a cluster under load, all in one history: rolling restart by SIGTERM, kills of the leader, kill -9 of
//! all three, a disk replaced, a disk full, a flipped byte. Nothing acknowledged is lost, nothing is mended by hand.
//!
//! `CHRONIK_LEADER_KILLS=20` measures the time without a success over that many kills of a leader.

use chronik_tests::cluster::{Cluster, FORM_TIMEOUT, Options};
use chronik_tests::history::Outcome;
use chronik_tests::loopdisk::LoopDisk;
use chronik_tests::topics::create_replicated;
use chronik_tests::workload::{self, Load, Report, longest_gap};
use chronik_tests::{lock, report};
use std::path::{Path, PathBuf};
use std::time::Duration;

const TOPIC: &str = "restarts";
const PARTITIONS: i32 = 6;
/// Records are acknowledged again within this whatever was done to one node.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);
/// The same after all three were killed at once.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(40);
/// The time in which a kill's cost is looked for.
const GAP_WINDOW: Duration = Duration::from_secs(8);
/// Records that are progress: more than those that were on their way.
const PROGRESS_RECORDS: u64 = 50;

fn start(name: &str, options: Options) -> (Cluster, Load) {
    let cluster = Cluster::start_with(name, options);
    create_replicated(&mut cluster.connect(1), TOPIC, PARTITIONS, &[]);
    let load = begin(&cluster);
    (cluster, load)
}

fn begin(cluster: &Cluster) -> Load {
    let load = Load::start(&workload::Options::usual(&cluster.bootstrap(), TOPIC, PARTITIONS));
    load.wait_progress("before anything is done", 100, RECOVERY_TIMEOUT);
    load.wait_group_settled(RECOVERY_TIMEOUT);
    load
}

fn finish(cluster: &Cluster, load: Load) -> Report {
    let addresses: Vec<String> = cluster.ids().into_iter().map(|id| cluster.address(id)).collect();
    load.finish(&addresses)
}

fn milliseconds(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let listed: Vec<String> = times.iter().map(|time| time.as_millis().to_string()).collect();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    format!("median {} ms of {}", median.as_millis(), listed.join(", "))
}

/// Each node in turn by SIGTERM, and started again, with producers, readers and a group at work: no client is given an error.
#[test]
fn a_rolling_restart_gives_no_client_an_error() {
    let _heavy = lock::heavy();
    let (mut cluster, load) = start("rolling", Options::default());
    let began = load.now();
    for id in cluster.ids() {
        let stopped = cluster.stop(id);
        load.wait_progress("with one node stopped", PROGRESS_RECORDS, PROGRESS_TIMEOUT);
        let started = cluster.restart(id);
        cluster.wait_healthy(FORM_TIMEOUT);
        report(&format!("node {id}: stopped in {stopped:?}, answered {started:?} after its start"));
    }
    let ended = load.now();
    let finished = finish(&cluster, load);
    report(&latencies(&finished, began, ended));
    finished.assert_clean(500);
}

/// Latencies of the records that were sent in a time.
fn latencies(finished: &Report, from: Duration, until: Duration) -> String {
    let sends = finished.history.sends.iter().filter(|send| (from..until).contains(&send.invoked));
    let acknowledged = sends.filter(|send| matches!(send.outcome, Outcome::Acknowledged(_)));
    let mut times: Vec<Duration> = acknowledged.map(|send| send.completed - send.invoked).collect();
    times.sort_unstable();
    let at = |share: f64| {
        // Truncation finds the index below.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = (times.len() as f64 * share) as usize;
        times.get(index).copied().unwrap_or_default()
    };
    format!(
        "{} records: p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        times.last()
    )
}

/// kill -9 of the leader again and again: what each costs is printed, and that it goes on is checked. The group, whose
/// coordinator is among the killed, loses no commit.
#[test]
fn produce_goes_on_when_the_leader_is_killed() {
    let _heavy = lock::heavy();
    let kills: usize =
        std::env::var("CHRONIK_LEADER_KILLS").map_or(3, |text| text.parse().expect("a number"));
    let (mut cluster, load) = start("leader-kills", Options::default());
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        let leader = cluster.leader(TOPIC, 0);
        killed_at.push(load.now());
        cluster.kill(leader);
        load.wait_progress("the leader was killed", PROGRESS_RECORDS, PROGRESS_TIMEOUT);
        std::thread::sleep(Duration::from_secs(1));
        cluster.restart(leader);
        cluster.wait_healthy(FORM_TIMEOUT);
    }
    let finished = finish(&cluster, load);
    let place = (TOPIC.to_string(), 0);
    let mut gaps: Vec<Duration> = killed_at
        .iter()
        .map(|at| longest_gap(&finished.history, &place, *at, *at + GAP_WINDOW).length)
        .collect();
    report(&format!("without a success after a kill of the leader: {}", milliseconds(&mut gaps)));
    finished.assert_clean(500);
}

/// kill -9 of all three at once, twice: they come back by themselves with all that was acknowledged.
#[test]
fn all_three_killed_at_once_come_back_with_everything() {
    let _heavy = lock::heavy();
    let (mut cluster, load) = start("all-killed", Options::default());
    for _ in 0..2 {
        for id in cluster.ids() {
            cluster.kill(id);
        }
        for id in cluster.ids() {
            cluster.spawn(id);
        }
        let formed = cluster.wait_formed(FORM_TIMEOUT);
        let progress = load.wait_progress("all were killed", PROGRESS_RECORDS, RECOVERY_TIMEOUT);
        report(&format!("formed {formed:?} after the start, records again {progress:?} later"));
    }
    finish(&cluster, load).assert_clean(300);
}

/// A node whose disk was replaced rejoins under the same id and is filled; the cluster is healthy only then. With the other
/// two killed one after the other, it serves what it was filled with.
#[test]
fn a_wiped_node_rejoins_and_is_filled() {
    let _heavy = lock::heavy();
    let (mut cluster, load) = start("wiped", Options::default());
    cluster.kill(3);
    load.wait_progress("one node is gone", PROGRESS_RECORDS, PROGRESS_TIMEOUT);
    cluster.wipe(3);
    cluster.spawn(3);
    let filled = cluster.wait_healthy(FORM_TIMEOUT);
    report(&format!("the cluster was healthy {filled:?} after the empty node was started"));
    for id in [1, 2] {
        cluster.kill(id);
        load.wait_progress("with the node that was filled", PROGRESS_RECORDS, PROGRESS_TIMEOUT);
        cluster.restart(id);
        cluster.wait_healthy(FORM_TIMEOUT);
    }
    finish(&cluster, load).assert_clean(500);
}

/// A node whose disk is full neither stops the others nor loses anything, and catches up alone when there is space.
#[test]
fn a_full_disk_of_one_node_stops_nobody() {
    let _heavy = lock::heavy();
    let Some(disk) = LoopDisk::mount(1024) else { return };
    let options = Options::default().shards(&[1, 1, 1]).data_dir(3, &disk.path().join("data"));
    let cluster = Cluster::start_with("full-disk-of-one", options);
    create_replicated(&mut cluster.connect(1), TOPIC, PARTITIONS, &[]);
    let mut options = workload::Options::usual(&cluster.bootstrap(), TOPIC, PARTITIONS);
    // Large records, so that what the full node has made ahead is used up soon.
    (options.value_bytes, options.records_per_second) = (20_000, 150);
    let mut cluster = cluster;
    let load = Load::start(&options);
    load.wait_progress("before the disk is full", 100, PROGRESS_TIMEOUT);
    let filler = disk.fill(512);
    for _ in 0..8 {
        load.wait_progress("one disk is full", 4 * PROGRESS_RECORDS, PROGRESS_TIMEOUT);
    }
    std::fs::remove_file(filler).expect("the filler can be deleted");
    cluster.wait_in_sync(TOPIC, FORM_TIMEOUT);
    finish(&cluster, load).assert_clean(1000);
}

/// A flipped byte in the log of a stopped node: the node says so, serves nothing of it, and has itself repaired by its peers.
#[test]
fn a_flipped_byte_is_repaired_from_the_peers() {
    let _heavy = lock::heavy();
    let (mut cluster, load) = start("flipped", Options::default());
    load.wait_progress("some records to damage", 500, PROGRESS_TIMEOUT);
    cluster.kill(2);
    let damaged = damage_newest(&cluster.data_dir(2));
    report(&format!("damaged {damaged:?}"));
    for text in ["damage", "corrupt", "checksum"] {
        cluster.expect_in_log(text);
    }
    cluster.spawn(2);
    cluster.wait_healthy(FORM_TIMEOUT);
    for id in [1, 3] {
        cluster.kill(id);
        load.wait_progress("with the node that was repaired", PROGRESS_RECORDS, PROGRESS_TIMEOUT);
        cluster.restart(id);
        cluster.wait_healthy(FORM_TIMEOUT);
    }
    finish(&cluster, load).assert_clean(500);
}

/// Flips one byte in the midst of what was written of each write-ahead log of a node.
fn damage_newest(data: &Path) -> Vec<PathBuf> {
    let mut damaged = Vec::new();
    for shard in std::fs::read_dir(data.join("wal")).expect("the write-ahead logs") {
        let shard = shard.expect("a readable entry").path();
        if !shard.is_dir() {
            continue;
        }
        for segment in std::fs::read_dir(shard).expect("segments") {
            let path = segment.expect("a readable entry").path();
            let mut bytes = std::fs::read(&path).expect("a segment can be read");
            // Records of the load end in dots: such a run is in the midst of a batch.
            let Some(at) = bytes.windows(64).position(|window| window == [b'.'; 64]) else { continue };
            bytes[at + 8] ^= 1;
            std::fs::write(&path, bytes).expect("a segment can be written");
            damaged.push(path);
        }
    }
    assert!(!damaged.is_empty(), "nothing of the load is in the logs of {}", data.display());
    damaged
}
