//! What people and scripts ask: the node at a glance, its partitions and its groups, in JSON.

use std::sync::atomic::Ordering;

use chronik_wal::types::{GroupId, NodeId};
use serde_json::{Value, json};

use super::inspect::{Answers, Watermarks, inspect};
use super::process::{Process, disk};
use super::request::{Get, Response};
use super::{NodeView, State, health};
use crate::coordinator::report::GroupReport;
use crate::metrics::ShardMetrics;
use crate::shard::report::{GroupPage, PartitionPage, PartitionReport, ReportScope, ShardReport};

/// Rows of a page when the asker does not say.
const PAGE_ROWS_USUAL: usize = 100;

/// Rows of a page at most.
const PAGE_ROWS_MAX: usize = 1_000;

/// Committed offsets that are looked at for the lags of one page; a group beyond has no total.
const PAGE_OFFSETS_MAX: usize = 50_000;

/// `/`: what there is.
pub(super) fn index() -> Value {
    json!({
        "server": "chronik",
        "version": env!("CARGO_PKG_VERSION"),
        "paths": ["/metrics", "/health", "/health/live", "/health/ready", "/v1/status", "/v1/cluster", "/v1/partitions", "/v1/groups"],
    })
}

/// `/v1/status`.
pub(super) fn status(state: &State, view: &NodeView) -> Response {
    let answers = inspect(view, &ReportScope::default());
    let snapshot = view.snapshot.load();
    let partition_count: usize = snapshot.topics.iter().map(|(_, topic)| topic.partitions.len()).sum();
    let listener = |(name, address): &(String, std::net::SocketAddr)| json!({ "name": name, "address": address.to_string() });
    let damaged = health::damaged(&snapshot, &answers).into_iter();
    let damaged = damaged.map(|(partition, reason)| json!({ "partition": partition, "reason": reason }));
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": view.node.0,
        "cluster_id": snapshot.cluster_id.as_deref(),
        "uptime_ms": state.uptime_ms(),
        "state": if state.is_stopping() { "stopping" } else { "serving" },
        "controller": snapshot.controller.map(|node| node.0),
        "brokers": snapshot.brokers.keys().map(|node| node.0).collect::<Vec<_>>(),
        "listeners": view.listeners.iter().map(listener).collect::<Vec<_>>(),
        "topics": snapshot.topics.len(),
        "partitions": partition_count,
        "damaged": damaged.collect::<Vec<_>>(),
        "connections": connections(view),
        "shards": view.metrics.iter().enumerate().map(|(number, m)| shard(number, m, &answers)).collect::<Vec<_>>(),
        "process": process(),
        "disk": disk(&view.data_dir).map(|(total, free)| json!({
            "path": view.data_dir, "total_bytes": total, "free_bytes": free,
        })),
    });
    Response::json(200, &body)
}

fn connections(view: &NodeView) -> Value {
    let open: u64 = view.metrics.iter().map(|metrics| metrics.connections.get()).sum();
    json!({
        "open": open,
        "accepted": view.acceptor.accepted.load(Ordering::Relaxed),
        "refused": view.acceptor.refused.load(Ordering::Relaxed),
    })
}

fn process() -> Value {
    let process = Process::read();
    json!({
        "pid": std::process::id(),
        "resident_bytes": process.resident_bytes,
        "cpu_seconds": process.cpu_seconds,
        "open_files": process.open_files,
        "threads": process.threads,
    })
}

fn shard(number: usize, metrics: &ShardMetrics, answers: &Answers) -> Value {
    let found = answers.reports.iter().find(|report| usize::from(report.shard.0) == number);
    let Some(ShardReport { totals, .. }) = found else {
        return json!({ "shard": number, "answers": false });
    };
    json!({
        "shard": number,
        "answers": true,
        "partitions": totals.partitions,
        "leaders": totals.leaders,
        "offline": totals.offline,
        "under_replicated": totals.under_replicated,
        "connections": metrics.connections.get(),
        "busy_seconds": metrics.busy_us.get() as f64 / 1e6,
        "wal_used_bytes": totals.wal_used_bytes,
        "wal_pending_bytes": totals.wal_pending_bytes,
        "tail_bytes": totals.tail_bytes,
        "in_flight": {
            "produce": totals.produces,
            "produce_stalled": totals.stalled,
            "fetch": totals.fetches,
            "jobs": totals.jobs,
        },
    })
}

/// The `limit` of a page.
fn limit(get: &Get) -> Result<usize, Response> {
    let Some(text) = get.parameter("limit") else { return Ok(PAGE_ROWS_USUAL) };
    let limit = text.parse().ok().filter(|limit| (1..=PAGE_ROWS_MAX).contains(limit));
    limit.ok_or_else(|| Response::error(400, &format!("limit must be a number from 1 to {PAGE_ROWS_MAX}")))
}

/// `/v1/partitions`: pages in the order of Raft groups, `after` is a group's number.
pub(super) fn partitions(view: &NodeView, get: &Get) -> Response {
    let after = get.parameter("after").map(|text| text.parse::<u64>().map(GroupId));
    let (limit, after) = match (limit(get), after.transpose()) {
        (Ok(limit), Ok(after)) => (limit, after),
        (Err(refusal), _) => return refusal,
        (_, Err(_)) => {
            return Response::error(400, "after must be the group number that the last page ended with");
        }
    };
    // One more than wanted tells whether there is a next page.
    let page = PartitionPage { after, limit: limit + 1 };
    let answers = inspect(view, &ReportScope { partitions: Some(page), groups: None });
    let mut rows: Vec<&PartitionReport> =
        answers.reports.iter().flat_map(|report| &report.partitions).collect();
    rows.sort_unstable_by_key(|row| row.group);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.group.0.to_string());
    let rows: Vec<Value> = rows.into_iter().map(partition).collect();
    Response::json(200, &json!({ "partitions": rows, "next": next, "silent_shards": silent(&answers) }))
}

fn partition(row: &PartitionReport) -> Value {
    json!({
        "topic": &*row.name.topic,
        "topic_id": row.name.topic_id.to_string(),
        "partition": row.name.index,
        "group": row.group.0,
        "leader": row.raft.leader.map(|node| node.0),
        "term": row.raft.term.0,
        "raft": super::cluster::raft(&row.raft),
        "log_start_offset": row.log_start.0,
        "high_watermark": row.high_watermark.0,
        "log_end_offset": row.log_end.0,
        "size_bytes": row.bytes,
        "segments": row.segment_count,
        "replicas": row.replica_count,
        "in_sync": row.in_sync.iter().map(|NodeId(node)| *node).collect::<Vec<_>>(),
    })
}

fn silent(answers: &Answers) -> Vec<u16> {
    answers.silent.iter().map(|shard| shard.0).collect()
}

/// `/v1/groups`: pages in the order of group ids, `after` is an id.
pub(super) fn groups(view: &NodeView, get: &Get) -> Response {
    let limit = match limit(get) {
        Ok(limit) => limit,
        Err(refusal) => return refusal,
    };
    let after = get.parameter("after").map(str::to_owned);
    let page = GroupPage { after, limit: limit + 1, offsets_max: PAGE_OFFSETS_MAX };
    let answers = inspect(view, &ReportScope { partitions: None, groups: Some(page) });
    let snapshot = view.snapshot.load();
    let watermarks = Watermarks::new(&snapshot, &answers.reports);
    let mut rows: Vec<&GroupReport> = answers.reports.iter().flat_map(|report| &report.groups).collect();
    rows.sort_unstable_by_key(|row| &row.id);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.id.to_string());
    let rows: Vec<Value> = rows.into_iter().map(|row| group(row, &watermarks)).collect();
    Response::json(200, &json!({ "groups": rows, "next": next, "silent_shards": silent(&answers) }))
}

fn group(row: &GroupReport, watermarks: &Watermarks<'_>) -> Value {
    let lags = row.offsets.iter().filter_map(|at| watermarks.lag(&at.topic, at.partition, at.offset));
    let lag: i64 = lags.sum();
    json!({
        "group": &*row.id,
        "state": row.state,
        "protocol_type": row.protocol_type.as_deref(),
        "members": row.member_count,
        "committed_partitions": row.offsets.len() + row.offsets_left_out,
        "lag": (row.offsets_left_out == 0).then_some(lag),
    })
}
