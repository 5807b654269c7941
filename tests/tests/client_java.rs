//! Kafka's own Java clients and console tools, 4.3.1, unchanged, against a real broker. What is checked is in
//! `tests/clients/java`, one class a scenario.

use chronik_tests::broker::Broker;
use chronik_tests::process::eventually;
use chronik_tests::program::{java, java_class, run, scenario};
use chronik_tests::toolchain::Toolchain;
use chronik_tests::topics::create;
use chronik_tests::{lock, records};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[test]
fn producer_and_consumer_round_trips() {
    scenario(Toolchain::Java, java, "roundtrip");
}

#[test]
fn consumer_groups() {
    scenario(Toolchain::Java, java, "groups");
}

#[test]
fn admin_client() {
    scenario(Toolchain::Java, java, "admin");
}

/// kafka-topics, kafka-configs, console producer and consumer, kafka-consumer-groups, kafka-get-offsets,
/// kafka-delete-records, kafka-log-dirs, both perf tests, end-to-end latency, kafka-cluster, kafka-broker-api-versions.
#[test]
fn console_tools() {
    scenario(Toolchain::Java, java, "tools");
}

/// `kafka-dump-log` reads our segment files without complaint: of a topic, of `__consumer_offsets`, and the snapshot of
/// producer states beside them.
#[test]
fn kafka_dump_log_reads_our_files() {
    if !Toolchain::Java.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let mut broker = Broker::start("dump-log");
    // The groups' scenario leaves records of idempotent producers, and commits.
    run("groups", java().arg("groups").arg(broker.address()));
    broker.connect().ensure_topic("dumped");
    for n in 0..100 {
        let value = format!("value {n}");
        broker.connect().produce("dumped", 0, records::batch(&[value])).expect("a batch is taken");
    }
    broker.wait_for_file("dumped", 0, b"value 99");
    broker.stop_cleanly();

    let dumped = dump(&[broker.first_segment("dumped", 0)], &["--deep-iteration", "--print-data-log"]);
    for n in [0, 50, 99] {
        assert!(dumped.contains(&format!("payload: value {n}")), "value {n} in\n{dumped}");
    }
    let data = broker.data_dir().join("data");
    let segments = all_files(&data, "java-group", ".log");
    assert!(!segments.is_empty(), "the idempotent producers' records are in files");
    dump(&segments, &["--deep-iteration"]);
    let offsets = all_files(&data, "__consumer_offsets-", ".log");
    assert!(!offsets.is_empty(), "commits are in a partition of __consumer_offsets");
    let commits = dump(&offsets, &["--offsets-decoder", "--print-data-log"]);
    assert!(commits.contains("java-group"), "the decoder finds the groups:\n{commits}");
}

/// The snapshot of producer states beside a rolled segment, and segments after the first.
#[test]
fn kafka_dump_log_reads_rolled_segments_and_snapshots() {
    if !Toolchain::Java.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let mut broker = Broker::start("dump-rolled");
    let mut connection = broker.connect();
    create(&mut connection, "rolled", 1, &[("segment.bytes", "1048576")]);
    let value = vec![b'v'; 100_000];
    for n in 0..40 {
        let batch = records::idempotent_batch(4711, 0, n, &[&value]);
        let answer = connection.produce("rolled", 0, batch).expect("an answer");
        assert_eq!(answer.error, chronik_net::codec::ErrorCode::None);
    }
    let data = broker.data_dir().join("data");
    let snapshots = || all_files(&data, "rolled-0", ".snapshot");
    eventually("snapshots beside rolled segments", Duration::from_secs(15), || snapshots().len() >= 3);
    broker.stop_cleanly();
    let segments = all_files(&data, "rolled-0", ".log");
    assert!(segments.len() >= 3, "4 MB in segments of 1 MiB: {segments:?}");
    dump(&segments, &["--deep-iteration"]);
    assert!(dump(&snapshots(), &[]).contains("producerId: 4711"), "the producer is in the snapshots");
}

/// Runs kafka-dump-log over all these files, which must not displease it.
fn dump(files: &[PathBuf], options: &[&str]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let mut command = java_class("org.apache.kafka.tools.DumpLogSegments");
    let output = run("kafka-dump-log", command.arg("--files").arg(names.join(",")).args(options));
    for complaint in ["isvalid: false", "Found invalid", "mismatch", "Exception", "Could not"] {
        assert!(!output.contains(complaint), "kafka-dump-log complains about {names:?}:\n{output}");
    }
    output
}

/// Files with this ending in the partition directories whose names begin so, if they hold anything.
fn all_files(data: &Path, prefix: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data).expect("the data directory can be read");
    let directories = entries.map(|entry| entry.expect("a readable entry").path());
    let wanted = directories.filter(|path| name(path).starts_with(prefix));
    let mut found: Vec<PathBuf> = wanted.flat_map(|directory| files(&directory, ending)).collect();
    found.retain(|path| std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0));
    found
}

fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    files.retain(|path| name(path).ends_with(ending));
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
