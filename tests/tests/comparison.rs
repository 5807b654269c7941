//! The README's table: three nodes of Apache Kafka and three of chronik, in turn, on this machine, by the same tools.
//!
//! By hand, on a quiet machine, some twenty minutes:
//! `cargo test --release -p chronik-tests --test comparison -- --ignored --nocapture`.
//! `CHRONIK_COMPARE_ONLY=chronik` or `kafka` measures one side, `CHRONIK_COMPARE_SECONDS` (20) sets how long each load lasts,
//! `CHRONIK_COMPARE_KILLS` (20; Kafka gets a fifth) how many leaders are killed.
//!
//! chronik acknowledges what a majority has on disk (fdatasync); Kafka's defaults do not flush.

use chronik_tests::cluster::{Cluster, Options};
use chronik_tests::comparison::Three;
use chronik_tests::history::Outcome;
use chronik_tests::reference::ReferenceKafka;
use chronik_tests::workload::{self, Load, longest_gap};
use chronik_tests::{lock, report};
use std::time::Duration;

const TOPICS: usize = 3000;
/// A leader that was killed has a successor by then, even Kafka's by its defaults.
const GAP_WINDOW: Duration = Duration::from_secs(40);
const IDLE: Duration = Duration::from_secs(20);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Rows of the table for one side.
type Rows = Vec<(&'static str, String)>;

#[test]
#[ignore = "takes twenty minutes on a quiet machine, and measures rather than checks"]
fn table() {
    let _heavy = lock::heavy();
    if cfg!(debug_assertions) {
        panic!("measure in release: see the head of this file");
    }
    let only = std::env::var("CHRONIK_COMPARE_ONLY").unwrap_or_default();
    let mut columns: Vec<(&str, Rows)> = Vec::new();
    if only != "chronik" {
        columns.push(("Apache Kafka", measure(&|| Three::Kafka(Box::new(ReferenceKafka::start_three(&[]))))));
    }
    if only != "kafka" {
        let options = Options::default().shards(&[1, 1, 1]);
        let start = || Three::Chronik(Box::new(Cluster::start_with("comparison", options.clone())));
        columns.push(("chronik", measure(&start)));
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    report(&format!("| scenario | {} |", names.join(" | ")));
    report(&format!("|---|{}", "---|".repeat(names.len())));
    for (at, (scenario, _)) in columns[0].1.iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|(_, rows)| rows[at].1.as_str()).collect();
        report(&format!("| {scenario} | {} |", cells.join(" | ")));
    }
}

/// Each group of scenarios has nodes of its own, so that none starts with what another has left.
fn measure(start: &dyn Fn() -> Three) -> Rows {
    let mut rows = Rows::new();
    {
        let three = start();
        small_messages(&three, &mut rows);
        large_batches(&three, &mut rows);
        perf_tool(&three, &mut rows);
    }
    {
        let mut three = start();
        leader_kills(&mut three, &mut rows);
        rolling_restart(&mut three, &mut rows);
    }
    many_topics(&start(), &mut rows);
    rows
}

fn small_messages(three: &Three, rows: &mut Rows) {
    let seconds = format!("{}s", number("CHRONIK_COMPARE_SECONDS", 20));
    for (bytes, name) in
        [("256", "256 B, 128 producers, linger 0"), ("1024", "1 KiB, 128 producers, linger 0")]
    {
        let topic = format!("small-{bytes}");
        three.create(&topic, 1);
        let load = ["-c", "128", "--clients", "1", "-s", bytes, "-d", &seconds, "-w", "5s", "--acks", "all"];
        let found = three.bench(&topic, &load);
        let (rate, latency) = (found["messages_per_second"].as_f64().unwrap_or_default(), &found["latency"]);
        let at = |name: &str| latency[name].as_f64().unwrap_or_default();
        rows.push((name, format!("{rate:.0} msg/s, p50 {:.1} ms, p99 {:.1} ms", at("p50_ms"), at("p99_ms"))));
    }
}

fn large_batches(three: &Three, rows: &mut Rows) {
    let seconds = format!("{}s", number("CHRONIK_COMPARE_SECONDS", 20));
    three.create("large", 6);
    let before = three.cpu_seconds();
    // Without a warm-up, so that all bytes of the run are in its report.
    let load = ["-c", "2000", "-s", "4096", "--linger-ms", "10", "-d", &seconds, "-w", "0s", "--acks", "all"];
    let found = three.bench("large", &load);
    let cpu = three.cpu_seconds() - before;
    let gigabytes = found["bytes"].as_f64().unwrap_or_default() / 1e9;
    let rate = found["megabytes_per_second"].as_f64().unwrap_or_default();
    rows.push((
        "broker CPU per GB in, all three nodes, large batches",
        format!("{:.2} s/GB at {rate:.0} MB/s", cpu / gigabytes.max(1e-9)),
    ));
}

fn perf_tool(three: &Three, rows: &mut Rows) {
    three.create("perf", 6);
    rows.push((
        "kafka-producer-perf-test, 1 KiB, linger 5",
        three.producer_perf_test("perf", 500_000, 1024, 5),
    ));
}

/// A producer of librdkafka's defaults on one partition, 200 records a second.
fn load(three: &Three, topic: &str) -> Load {
    three.create(topic, 1);
    let mut options = workload::Options::usual(&three.addresses().join(","), topic, 1);
    (options.producers, options.readers, options.members) = (2, 0, 0);
    let load = Load::start(&options);
    load.wait_progress("the load begins", 500, GAP_WINDOW);
    load
}

fn leader_kills(three: &mut Three, rows: &mut Rows) {
    let kills = number("CHRONIK_COMPARE_KILLS", 20);
    let kills = if matches!(three, Three::Kafka(_)) { kills.div_ceil(5) } else { kills };
    let load = load(three, "kills");
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        let leader = three.settled_leader("kills", 0);
        killed_at.push(load.now());
        three.kill(leader);
        load.wait_progress("the leader was killed", 200, GAP_WINDOW);
        three.restart(leader);
    }
    let finished = load.finish(&three.addresses());
    finished.assert_no_anomaly();
    let place = ("kills".to_string(), 0);
    let mut gaps: Vec<u128> = killed_at
        .iter()
        .map(|at| longest_gap(&finished.history, &place, *at, *at + GAP_WINDOW.min(Duration::from_secs(8))))
        .map(|gap| gap.length.as_millis())
        .collect();
    gaps.sort_unstable();
    let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    rows.push((
        "kill -9 of the leader: time without a success",
        format!("median {median} ms, most {most} ms of {}", gaps.len()),
    ));
}

fn rolling_restart(three: &mut Three, rows: &mut Rows) {
    let load = load(three, "rolling");
    let began = load.now();
    for id in 1..=3 {
        let _ = three.settled_leader("rolling", 0);
        three.stop(id);
        load.wait_progress("a node was stopped", 200, GAP_WINDOW);
        three.restart(id);
    }
    let _ = three.settled_leader("rolling", 0);
    let ended = load.now();
    let finished = load.finish(&three.addresses());
    let sends = finished.history.sends.iter().filter(|send| (began..ended).contains(&send.invoked));
    let acknowledged = sends.filter(|send| matches!(send.outcome, Outcome::Acknowledged(_)));
    let mut times: Vec<Duration> = acknowledged.map(|send| send.completed - send.invoked).collect();
    times.sort_unstable();
    let tail = times[times.len() * 999 / 1000];
    let errors = finished.producer_errors.len();
    rows.push((
        "rolling restart: p99.9 during it",
        format!("{} ms, {errors} client errors", tail.as_millis()),
    ));
}

fn many_topics(three: &Three, rows: &mut Rows) {
    let took = three.create_many(TOPICS, 100);
    rows.push(("3,000 topics × 3 replicas from 100 threads", format!("{:.1} s", took.as_secs_f64())));
    std::thread::sleep(IDLE / 2);
    let before = three.cpu_seconds();
    std::thread::sleep(IDLE);
    let share = (three.cpu_seconds() - before) / IDLE.as_secs_f64() * 100.0;
    rows.push(("then idle: CPU of all three", format!("{share:.1} % of a core")));
    rows.push(("memory of a node that holds 3,000 replicas", format!("{} MiB", three.resident_mebibytes())));
}
