//! `/metrics`: every series of the node, gathered anew for each scrape.
//!
//! Names: `chronik_` and the thing, base units, `_total` for what only grows; the process's own figures have the names
//! that every Prometheus client library gives them (`process_…`). What all Kafka dashboards look at has its counterpart:
//! under-replicated and offline partitions, active controller, bytes in and out, request latency, log end offsets, group lag.
//!
//! Bounded: series per partition, group and committed offset up to a limit each, and a gauge of what was left out.

use std::sync::atomic::Ordering;

use chronik_net::codec::{ApiKey, SUPPORTED};

use super::collector::{Families, Labels};
use super::inspect::{Answers, Watermarks, inspect};
use super::process::{Process, disk};
use super::request::Response;
use super::{NodeView, State, raft_metrics};
use crate::coordinator::report::GroupReport;
use crate::metrics::{Counter, ShardMetrics};
use crate::shard::report::{GroupPage, PartitionPage, PartitionReport, ReportScope, Totals};

/// Partitions with series of their own: five lines each, so that a scrape stays below some megabytes.
const PARTITIONS_MAX: usize = 5_000;

/// Groups with series of their own.
const GROUPS_MAX: usize = 2_000;

/// Committed offsets with series of their own.
const OFFSETS_MAX: usize = 10_000;

/// The states of consumer groups; each always has its series.
const GROUP_STATES: [&str; 5] = ["Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"];

/// APIs whose latency always has its series.
const ALWAYS_TIMED: [ApiKey; 2] = [ApiKey::Produce, ApiKey::Fetch];

/// A family: its name, its help, and where its value is found.
pub(super) type Figure<Read> = (&'static str, &'static str, Read);
type CounterOf = fn(&ShardMetrics) -> &Counter;
type TotalOf = fn(&Totals) -> usize;
type PartitionFigure = fn(&PartitionReport) -> i64;

/// `/metrics`.
pub(super) fn metrics(state: &State, view: &NodeView) -> Response {
    let scope = ReportScope {
        partitions: Some(PartitionPage { after: None, limit: PARTITIONS_MAX }),
        groups: Some(GroupPage { after: None, limit: GROUPS_MAX, offsets_max: OFFSETS_MAX }),
    };
    let answers = inspect(view, &scope);
    let mut families = Families::default();
    node(&mut families, state, view);
    shards(&mut families, view, &answers);
    wal(&mut families, view, &answers);
    requests(&mut families, view);
    traffic(&mut families, view);
    cluster(&mut families, view, &answers);
    raft_metrics::raft(&mut families, view, &answers);
    raft_metrics::links(&mut families, &answers);
    let partitions_left_out = partitions(&mut families, &answers);
    let (groups_left_out, offsets_left_out) = groups(&mut families, view, &answers);
    families
        .gauge(
            "chronik_metrics_left_out",
            "Things without series of their own because there are too many, by kind.",
        )
        .set(label("kind", "partition"), partitions_left_out)
        .set(label("kind", "group"), groups_left_out)
        .set(label("kind", "committed_offset"), offsets_left_out);
    match families.encode() {
        Ok(text) => Response::prometheus(text),
        Err(_) => Response::error(503, "the metrics cannot be encoded"),
    }
}

pub(super) fn label(name: &'static str, value: impl ToString) -> Labels {
    vec![(name, value.to_string())]
}

fn sum(view: &NodeView, counter: impl Fn(&ShardMetrics) -> &Counter) -> u64 {
    view.metrics.iter().map(|metrics| counter(metrics).get()).sum()
}

fn node(families: &mut Families, state: &State, view: &NodeView) {
    let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("node", view.node.0.to_string())];
    families.gauge("chronik_build_info", "1; the labels say which version runs on which node.").set(build, 1);
    families
        .gauge("chronik_uptime_seconds", "Time since this node was started.")
        .set_float(vec![], state.uptime_ms() as f64 / 1e3);
    let process = Process::read();
    if let Some(bytes) = process.resident_bytes {
        families.gauge("process_resident_memory_bytes", "Memory of the process in RAM.").set(vec![], bytes);
    }
    if let Some(seconds) = process.cpu_seconds {
        families
            .counter("process_cpu_seconds_total", "Processor time of all threads of the process.")
            .set_float(vec![], seconds);
    }
    if let Some(files) = process.open_files {
        families.gauge("process_open_fds", "Open file descriptors of the process.").set(vec![], files);
    }
    if let Some(files) = process.open_files_max {
        families.gauge("process_max_fds", "File descriptors that the process may have.").set(vec![], files);
    }
    if let Some(threads) = process.threads {
        families.gauge("process_threads", "Threads of the process.").set(vec![], threads);
    }
    if let Some((total, free)) = disk(&view.data_dir) {
        families.gauge("chronik_disk_total_bytes", "Size of the data directory's disk.").set(vec![], total);
        families.gauge("chronik_disk_free_bytes", "What is free of it for this node.").set(vec![], free);
    }
}

/// One sample a shard, from a counter.
pub(super) fn by_shard(
    families: &mut Families,
    view: &NodeView,
    counter: impl Fn(&ShardMetrics) -> &Counter,
) {
    for (number, metrics) in view.metrics.iter().enumerate() {
        families.set(label("shard", number), counter(metrics).get());
    }
}

/// One sample a shard in seconds, from a counter of microseconds.
fn seconds_by_shard(families: &mut Families, view: &NodeView, counter: impl Fn(&ShardMetrics) -> &Counter) {
    for (number, metrics) in view.metrics.iter().enumerate() {
        families.set_float(label("shard", number), counter(metrics).get() as f64 / 1e6);
    }
}

/// One sample a shard, from what it answered.
pub(super) fn by_answer(families: &mut Families, answers: &Answers, value: impl Fn(&Totals) -> u64) {
    for report in &answers.reports {
        families.set(label("shard", report.shard.0), value(&report.totals));
    }
}

fn shards(families: &mut Families, view: &NodeView, answers: &Answers) {
    families.gauge("chronik_shard_up", "1 when the shard answered this scrape within a second, else 0.");
    for report in &answers.reports {
        families.set(label("shard", report.shard.0), 1);
    }
    for shard in &answers.silent {
        families.set(label("shard", shard.0), 0);
    }
    families.counter(
        "chronik_shard_busy_seconds_total",
        "Processor time of the shard's thread; 1 a second is a full core.",
    );
    seconds_by_shard(families, view, |metrics| &metrics.busy_us);
    families.counter(
        "chronik_shard_safety_wakes_total",
        "Wake-ups that only the safety timer brought; they should stay rare.",
    );
    by_shard(families, view, |metrics| &metrics.safety_wakes);
    families.gauge(
        "chronik_shard_timer_late_seconds_max",
        "How late the shard's timer was at worst since the start.",
    );
    seconds_by_shard(families, view, |metrics| &metrics.safety_late_us);
    families.gauge(
        "chronik_tail_bytes",
        "Bytes of log entries in memory: not yet in files, or cached for consumers.",
    );
    by_answer(families, answers, |totals| totals.tail_bytes);
    families.gauge("chronik_produce_waiting", "Produce slices whose batches are on their way to the disks.");
    by_answer(families, answers, |totals| totals.produces as u64);
    families.gauge("chronik_produce_stalled", "Produce slices that wait for room in memory or in the WAL.");
    by_answer(families, answers, |totals| totals.stalled as u64);
    families.gauge("chronik_fetch_waiting", "Fetches that wait for records or for a file.");
    by_answer(families, answers, |totals| totals.fetches as u64);
    families.gauge("chronik_file_jobs", "Jobs on files that helper threads have or will get.");
    by_answer(families, answers, |totals| totals.jobs as u64);
}

fn wal(families: &mut Families, view: &NodeView, answers: &Answers) {
    families.histogram("chronik_wal_write_seconds", "One write and one fdatasync of the WAL.");
    for (number, metrics) in view.metrics.iter().enumerate() {
        families.set_latency(label("shard", number), [&metrics.wal_sync]);
    }
    families.counter("chronik_wal_written_bytes_total", "Bytes written to the WAL, padding included.");
    by_shard(families, view, |metrics| &metrics.wal_bytes);
    families.gauge("chronik_wal_used_bytes", "Bytes of the WAL that a restart would read.");
    by_answer(families, answers, |totals| totals.wal_used_bytes);
    families.gauge("chronik_wal_pending_bytes", "Bytes that wait for the next write of the WAL.");
    by_answer(families, answers, |totals| totals.wal_pending_bytes);
}

fn requests(families: &mut Families, view: &NodeView) {
    let of = |api: ApiKey| {
        view.metrics.iter().filter_map(move |metrics| metrics.apis.get(usize::try_from(api.key()).ok()?))
    };
    let count = |api: ApiKey| of(api).flat_map(|metrics| metrics.latency.counts()).sum::<u64>();
    let apis = || SUPPORTED.iter().map(|range| range.api);
    families.histogram(
        "chronik_request_seconds",
        "From a whole request in memory to its response ready, by API.",
    );
    for api in apis().filter(|api| ALWAYS_TIMED.contains(api) || count(*api) > 0) {
        families.set_latency(label("api", api.name()), of(api).map(|metrics| &metrics.latency));
    }
    families.counter("chronik_requests_total", "Requests answered, by API.");
    for api in apis() {
        families.set(label("api", api.name()), count(api));
    }
    families.counter("chronik_request_bytes_total", "Bytes of requests, by API.");
    for api in apis() {
        let bytes: u64 = of(api).map(|metrics| metrics.request_bytes.get()).sum();
        families.set(label("api", api.name()), bytes);
    }
}

fn traffic(families: &mut Families, view: &NodeView) {
    let counters: [Figure<CounterOf>; 5] = [
        ("chronik_record_bytes_in_total", "Bytes of record batches taken in.", |m| &m.bytes_in),
        ("chronik_records_in_total", "Records taken in.", |m| &m.records_in),
        ("chronik_record_bytes_out_total", "Bytes of record batches handed out.", |m| &m.bytes_out),
        ("chronik_produce_failed_total", "Partitions of produce requests that were refused.", |m| {
            &m.produce_failed
        }),
        ("chronik_fetch_failed_total", "Partitions of fetch requests that were refused.", |m| {
            &m.fetch_failed
        }),
    ];
    for (name, help, counter) in counters {
        families.counter(name, help).set(vec![], sum(view, counter));
    }
    families
        .gauge("chronik_connections", "Kafka connections that are open.")
        .set(vec![], sum(view, |metrics| &metrics.connections));
    families
        .counter("chronik_connections_accepted_total", "Kafka connections accepted.")
        .set(vec![], sum(view, |metrics| &metrics.connections_accepted));
    families.counter(
        "chronik_connections_moved_total",
        "Kafka connections that came to the shard from another one, because their requests are for it.",
    );
    by_shard(families, view, |metrics| &metrics.connections_moved);
    families
        .counter("chronik_connections_refused_total", "Kafka connections closed because a limit was reached.")
        .set(vec![], view.acceptor.refused.load(Ordering::Relaxed));
    families
        .gauge("chronik_fetch_sessions", "Incremental fetch sessions in the cache.")
        .set(vec![], sum(view, |metrics| &metrics.fetch_sessions));
    families
        .counter("chronik_leadership_changes_total", "New leaders of partitions that have a replica here.")
        .set(vec![], sum(view, |metrics| &metrics.leadership_changes));
}

fn cluster(families: &mut Families, view: &NodeView, answers: &Answers) {
    let snapshot = view.snapshot.load();
    let is_controller = snapshot.controller == Some(view.node);
    families
        .gauge(
            "chronik_active_controller",
            "1 on the node that leads the metadata group; the cluster's sum must be 1.",
        )
        .set(vec![], i64::from(is_controller));
    families.gauge("chronik_brokers", "Brokers that are registered.").set(vec![], snapshot.brokers.len());
    families
        .gauge("chronik_topics", "Topics of the cluster, internal ones included.")
        .set(vec![], snapshot.topics.len());
    let all = |figure: fn(&Totals) -> usize| {
        answers.reports.iter().map(|report| figure(&report.totals)).sum::<usize>()
    };
    families
        .gauge("chronik_fenced_brokers", "Registered brokers that cannot be reached, as this node knows.")
        .set(vec![], snapshot.fenced.len());
    let gauges: [Figure<TotalOf>; 8] = [
        ("chronik_partitions", "Partition replicas on this node.", |t| t.partitions),
        ("chronik_leaders", "Partitions led by this node.", |t| t.leaders),
        ("chronik_offline_partitions", "Replicas here without a leader, damaged ones included.", |t| {
            t.offline
        }),
        ("chronik_under_replicated_partitions", "Partitions led here that lack a replica in sync.", |t| {
            t.under_replicated
        }),
        ("chronik_under_min_isr_partitions", "Partitions led here below min.insync.replicas.", |t| {
            t.under_min_isr
        }),
        ("chronik_reassigning_partitions", "Partitions led here whose replicas are being moved.", |t| {
            t.moving
        }),
        ("chronik_resting_groups", "Raft groups here that are at rest: nothing is in flight.", |t| t.resting),
        ("chronik_coordinators_loading", "Group coordinators that still read their log.", |t| {
            t.coordinators_loading
        }),
    ];
    for (name, help, figure) in gauges {
        families.gauge(name, help).set(vec![], all(figure));
    }
    let damaged: usize = answers.reports.iter().map(|report| report.damaged.len()).sum();
    families
        .gauge(
            "chronik_damaged_partitions",
            "Replicas here whose log has lost something; /health names them.",
        )
        .set(vec![], damaged);
}

/// Series of partitions. Gives how many have none.
fn partitions(families: &mut Families, answers: &Answers) -> usize {
    let mut rows: Vec<&PartitionReport> =
        answers.reports.iter().flat_map(|report| &report.partitions).collect();
    let all: usize = answers.reports.iter().map(|report| report.high_watermarks.len()).sum();
    rows.sort_unstable_by_key(|row| row.group);
    rows.truncate(PARTITIONS_MAX);
    rows.sort_unstable_by(|a, b| (&a.name.topic, a.name.index).cmp(&(&b.name.topic, b.name.index)));
    let gauges: [Figure<PartitionFigure>; 5] = [
        ("chronik_partition_size_bytes", "Bytes of the partition's log.", |row| row.bytes as i64),
        ("chronik_partition_log_start_offset", "First offset that can be read.", |row| row.log_start.0),
        ("chronik_partition_log_end_offset", "Offset of the next record.", |row| row.log_end.0),
        ("chronik_partition_high_watermark", "End of what consumers may read.", |row| row.high_watermark.0),
        ("chronik_partition_segments", "Segment files of the partition.", |row| row.segment_count as i64),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help);
        for row in &rows {
            let topic = ("topic", row.name.topic.to_string());
            families.set(vec![topic, ("partition", row.name.index.to_string())], value(row));
        }
    }
    all.saturating_sub(rows.len())
}

/// Series of consumer groups. Gives how many groups, and how many committed offsets, have none.
fn groups(families: &mut Families, view: &NodeView, answers: &Answers) -> (usize, usize) {
    let totals = || answers.reports.iter().map(|report| &report.totals);
    families.gauge("chronik_groups", "Consumer groups whose coordinator is here, by state.");
    for state in GROUP_STATES {
        let count: usize = totals().filter_map(|totals| totals.group_states.get(state)).sum();
        families.set(label("state", state), count);
    }
    let all: usize = totals().flat_map(|totals| totals.group_states.values()).sum();
    let mut rows: Vec<&GroupReport> = answers.reports.iter().flat_map(|report| &report.groups).collect();
    rows.sort_unstable_by_key(|row| &row.id);
    rows.truncate(GROUPS_MAX);
    families.gauge("chronik_group_members", "Members of the group.");
    for row in &rows {
        families.set(label("group", &row.id), row.member_count);
    }
    let listed = || rows.iter().flat_map(|row| row.offsets.iter().map(move |at| (row, at))).take(OFFSETS_MAX);
    let labels = |group: &str, topic: &str, partition: i32| {
        let group = ("group", group.to_owned());
        vec![group, ("topic", topic.to_owned()), ("partition", partition.to_string())]
    };
    families.gauge("chronik_group_committed_offset", "The next offset that the group will read.");
    for (row, at) in listed() {
        families.set(labels(&row.id, &at.topic, at.partition), at.offset);
    }
    let snapshot = view.snapshot.load();
    let watermarks = Watermarks::new(&snapshot, &answers.reports);
    families.gauge("chronik_group_lag", "Records between the committed offset and the high watermark.");
    for (row, at) in listed() {
        if let Some(lag) = watermarks.lag(&at.topic, at.partition, at.offset) {
            families.set(labels(&row.id, &at.topic, at.partition), lag);
        }
    }
    let offsets: usize = rows.iter().map(|row| row.offsets.len() + row.offsets_left_out).sum();
    (all.saturating_sub(rows.len()), offsets.saturating_sub(listed().count()))
}
