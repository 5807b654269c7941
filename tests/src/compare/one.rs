//! What is measured on one node.

use super::side::{Kind, Side};
use super::{Figure, Group, Plan, Target};
use serde_json::Value;

const TOPICS: usize = 3_000;
const THREADS: usize = 100;
/// Retention deletes while the run lasts: segments of 16 MiB, four of them at the most.
const DELETING: [(&str, &str); 2] = [("segment.bytes", "16777216"), ("retention.bytes", "67108864")];
pub(super) const SMALL: &str = "256 B, 128 outstanding on one client, linger 0, acks=all, one partition";
pub(super) const KIB: &str = "1 KiB, the same";
const LARGE: &str = "1 KiB records, batches of 64 KiB, 6 partitions";
const STEADY: &str = "20,000 msg/s of 256 B, retention deleting, end to end";
const MANY: &str = "3,000 topics from 100 connections";

/// The groups, in the table's order.
#[must_use]
pub fn groups() -> Vec<Group> {
    vec![
        Group { name: "small", run: small },
        Group { name: "large", run: large },
        Group { name: "steady", run: steady },
        Group { name: "partitions", run: partitions },
        Group { name: "start", run: start },
        Group { name: "topics", run: topics },
        Group { name: "restart", run: restart },
    ]
}

/// A number of a report, by its path.
pub(super) fn at(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {report}"))
}

/// The load of small messages, one outstanding for each of 128 tasks.
pub(super) fn small_load(bytes: u32, plan: &Plan) -> String {
    format!("-c 128 --clients 1 -s {bytes} --acks all -w 3s -d {}s", plan.load.as_secs())
}

fn small(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (bytes, scenario, more, latency, cost) in [(256, SMALL, 1.3, 0.6, 0.3), (1024, KIB, 1.5, 0.4, 0.25)] {
        let load = small_load(bytes, plan);
        let topic = format!("small-{bytes}");
        side.create(&topic, 1, &[]);
        let found = side.bench(&topic, &load);
        let rate = at(&found, "/messages_per_second");
        figures.push(Figure::new(scenario, "messages a second", "msg/s", rate).aims(Target::AtLeast(more)));
        let p99_ms = at(&found, "/latency/p99_ms");
        figures.push(Figure::new(scenario, "p99", "ms", p99_ms).aims(Target::AtMost(latency)));
        let cost_us = at(&found, "/broker/cpu_seconds_per_million");
        figures.push(Figure::new(scenario, "broker CPU a message", "µs", cost_us).aims(Target::AtMost(cost)));

        let steady = side.bench(&topic, &format!("{load} --rate-limit 20000"));
        let cost_us = at(&steady, "/broker/cpu_seconds_per_million");
        let measure = "broker CPU a message at 20,000 msg/s";
        figures.push(Figure::new(scenario, measure, "µs", cost_us).aims(Target::AtMost(cost)));

        let flushed = match side.kind() {
            Kind::Chronik => rate,
            Kind::Kafka => {
                let topic = format!("flushed-{bytes}");
                side.create(&topic, 1, &[("flush.messages", "1")]);
                at(&side.bench(&topic, &load), "/messages_per_second")
            }
        };
        let measure = "messages a second, Kafka with flush.messages=1";
        figures.push(Figure::new(scenario, measure, "msg/s", flushed).aims(Target::AtLeast(60.0)));
    }
    figures
}

fn large(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    side.create("large", 6, &[]);
    let seconds = plan.load.as_secs();
    let load = format!("-c 4000 -s 1024 --linger-ms 5 --batch-size 65536 --acks all -w 1s -d {seconds}s");
    let found = side.bench("large", &load);
    let read = side.bench("large", "-m consume -c 2 -w 0s -d 60s");
    let cost = |report| at(report, "/broker/cpu_seconds_per_gb");
    vec![
        Figure::new(LARGE, "in", "MB/s", at(&found, "/megabytes_per_second")),
        Figure::new(LARGE, "broker CPU a GB in", "s", cost(&found)).aims(Target::AtMost(0.2)),
        Figure::new(LARGE, "out", "MB/s", at(&read, "/megabytes_per_second")),
        Figure::new(LARGE, "broker CPU a GB out", "s", cost(&read)).aims(Target::AtMost(0.5)),
        Figure::new(LARGE, "memory after it", "MiB", side.resident_mebibytes()),
    ]
}

fn steady(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    side.create("steady", 1, &DELETING);
    let seconds = plan.load.as_secs().max(20);
    let load = format!("-m end-to-end -c 4000 -s 256 --rate-limit 20000 --acks all -w 3s -d {seconds}s");
    let found = side.bench("steady", &load);
    vec![
        Figure::new(STEADY, "p99", "ms", at(&found, "/latency/p99_ms")).aims(Target::AtMost(0.5)),
        Figure::new(STEADY, "p99.99", "ms", at(&found, "/latency/p9999_ms")).aims(Target::AtMost(0.3)),
    ]
}

fn partitions(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    side.create("wide", 1_000, &[]);
    let seconds = plan.load.as_secs();
    let load = format!("-c 2000 -s 256 --key-pattern random --acks all -w 3s -d {seconds}s");
    let rate = at(&side.bench("wide", &load), "/messages_per_second");
    let scenario = "1,000 partitions, small batches to all";
    vec![Figure::new(scenario, "messages a second", "msg/s", rate).aims(Target::AtLeast(3.0))]
}

fn start(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    side.stop(1);
    let took = side.restart(1);
    std::thread::sleep(plan.idle / 3);
    let memory = side.resident_mebibytes();
    vec![
        Figure::new("start to the first Metadata answer", "", "s", took.as_secs_f64())
            .aims(Target::AtMost(0.05)),
        Figure::new("idle", "memory", "MiB", memory).aims(Target::AtMostAbsolute(64.0)),
        Figure::new("idle", "CPU", "% of a core", side.idle_percent(plan.idle)),
    ]
}

fn topics(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    let took = side.create_many(TOPICS, THREADS).as_secs_f64();
    std::thread::sleep(plan.idle);
    vec![
        Figure::new(MANY, "time", "s", took).aims(Target::AtMost(0.15)),
        Figure::new(MANY, "then idle: CPU", "% of a core", side.idle_percent(plan.idle))
            .aims(Target::AtMost(0.5)),
        Figure::new(MANY, "memory", "MiB", side.resident_mebibytes()),
    ]
}

/// After kill -9, so that nothing was tidied up before.
fn restart(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    side.create("log", 6, &[]);
    let messages = plan.restart_bytes / 4096;
    let load = format!("-c 4000 -s 4096 --linger-ms 5 --acks all -w 0s -d 600s -n {messages}");
    let _ = side.bench("log", &load);
    side.kill(1);
    let took = side.restart(1).as_secs_f64();
    let scenario = "kill -9 and restart with the log of --restart-gib";
    vec![
        Figure::new(scenario, "until it answers", "s", took).aims(Target::AtMostAbsolute(2.0)),
        Figure::new(scenario, "memory", "MiB", side.resident_mebibytes()),
    ]
}
