//! What is measured on three nodes: replication 3, min.insync 2.

use super::one::{KIB, SMALL, at, small_load};
use super::side::{Kind, Side};
use super::{Figure, Group, Plan, Target};
use crate::history::Outcome;
use crate::workload::{self, Load, longest_gap};
use std::time::Duration;

const TOPICS: usize = 3_000;
/// A leader that was killed has a successor by then, even Kafka's by its defaults.
const GAP_WINDOW: Duration = Duration::from_secs(40);
/// The last success before a kill comes at most so long before it, where nothing is amiss.
const APART: Duration = Duration::from_millis(100);
const LARGE: &str = "4 KiB, 2,000 outstanding, linger 10, 6 partitions";
const KILL: &str = "kill -9 of the leader under load: time without a success";
const ROLLING: &str = "rolling restart under load";
const MANY: &str = "3,000 topics × 3 replicas from 100 connections";

/// The groups, in the table's order.
#[must_use]
pub fn groups() -> Vec<Group> {
    vec![
        Group { name: "loads", run: loads },
        Group { name: "faults", run: faults },
        Group { name: "topics", run: topics },
    ]
}

fn loads(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    let seconds = plan.load.as_secs();
    let mut figures = Vec::new();
    for (bytes, scenario) in [(256, SMALL), (1024, KIB)] {
        let topic = format!("small-{bytes}");
        side.create(&topic, 1, &[]);
        let found = side.bench(&topic, &small_load(bytes, plan));
        let rate = at(&found, "/messages_per_second");
        figures.push(Figure::new(scenario, "messages a second", "msg/s", rate).aims(Target::AtLeast(20.0)));
        let p99_ms = at(&found, "/latency/p99_ms");
        figures.push(Figure::new(scenario, "p99", "ms", p99_ms).aims(Target::AtMost(0.2)));
    }
    side.create("large", 6, &[]);
    let before = side.cpu_seconds();
    // Without a warm-up, so that all bytes of the run are in its report.
    let load = format!("-c 2000 -s 4096 --linger-ms 10 --acks all -w 0s -d {seconds}s");
    let found = side.bench("large", &load);
    let cost = (side.cpu_seconds() - before) / (at(&found, "/bytes") / 1e9);
    figures.push(Figure::new(LARGE, "in", "MB/s", at(&found, "/megabytes_per_second")));
    let measure = "CPU of all three nodes a GB in";
    figures.push(Figure::new(LARGE, measure, "s", cost).aims(Target::AtMost(0.25)));
    figures
}

/// Producers of librdkafka's defaults on one partition, 400 records a second.
fn produce(side: &Side, topic: &str) -> Load {
    side.create(topic, 1, &[]);
    let mut options = workload::Options::usual(&side.addresses().join(","), topic, 1);
    (options.producers, options.readers, options.members) = (2, 0, 0);
    let load = Load::start(&options);
    load.wait_progress("the load begins", 500, GAP_WINDOW);
    load
}

fn faults(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    let mut figures = kills(side, plan);
    figures.extend(rolling_restart(side));
    figures
}

fn kills(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    let kills = plan.kills.div_ceil(plan.rounds);
    let kills = if side.kind() == Kind::Kafka { kills.div_ceil(5) } else { kills };
    let load = produce(side, "kills");
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        let leader = side.settled_leader("kills", 0);
        killed_at.push(load.now());
        side.kill(leader);
        load.wait_progress("the leader was killed", 200, GAP_WINDOW);
        let _ = side.restart(leader);
    }
    let finished = load.finish(&side.addresses());
    finished.assert_no_anomaly();
    let place = ("kills".to_string(), 0);
    // What a kill cost is looked for until shortly before the next one.
    let ends = killed_at.iter().skip(1).map(|next| next.saturating_sub(APART)).chain([Duration::MAX]);
    let gap = |(at, end): (&Duration, Duration)| {
        longest_gap(&finished.history, &place, *at, end.min(*at + GAP_WINDOW / 3)).length
    };
    let mut gaps: Vec<Duration> = killed_at.iter().zip(ends).map(gap).collect();
    gaps.sort_unstable();
    let (median, most) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    vec![
        Figure::new(KILL, "median", "s", median.as_secs_f64()).aims(Target::AtMostAbsolute(0.5)),
        Figure::new(KILL, "most", "s", most.as_secs_f64()).aims(Target::AtMostAbsolute(1.0)),
    ]
}

fn rolling_restart(side: &mut Side) -> Vec<Figure> {
    let load = produce(side, "rolling");
    let began = load.now();
    for id in 1..=3 {
        let _ = side.settled_leader("rolling", 0);
        side.stop(id);
        load.wait_progress("a node was stopped", 200, GAP_WINDOW);
        let _ = side.restart(id);
    }
    let _ = side.settled_leader("rolling", 0);
    let ended = load.now();
    let finished = load.finish(&side.addresses());
    let sends = finished.history.sends.iter().filter(|send| (began..ended).contains(&send.invoked));
    let acknowledged = sends.filter(|send| matches!(send.outcome, Outcome::Acknowledged(_)));
    let mut times: Vec<Duration> = acknowledged.map(|send| send.completed - send.invoked).collect();
    times.sort_unstable();
    let tail = times[times.len() * 999 / 1000];
    #[allow(clippy::cast_precision_loss, reason = "a few")]
    let errors = finished.producer_errors.len() as f64;
    vec![
        Figure::new(ROLLING, "p99.9 during it", "s", tail.as_secs_f64()).aims(Target::AtMostAbsolute(1.0)),
        Figure::new(ROLLING, "client errors", "", errors).aims(Target::AtMostAbsolute(0.0)),
    ]
}

fn topics(side: &mut Side, plan: &Plan) -> Vec<Figure> {
    let took = side.create_many(TOPICS, 100).as_secs_f64();
    std::thread::sleep(plan.idle);
    let idle = side.idle_percent(plan.idle);
    let memory = side.resident_mebibytes();
    vec![
        Figure::new(MANY, "time", "s", took).aims(Target::AtMost(0.2)),
        Figure::new(MANY, "then idle: CPU of all three", "% of a core", idle)
            .aims(Target::AtMostAbsolute(5.0)),
        Figure::new(MANY, "memory of a node", "MiB", memory).aims(Target::AtMostAbsolute(256.0)),
    ]
}
