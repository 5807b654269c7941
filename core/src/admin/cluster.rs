//! `/v1/cluster`: the cluster as this node sees it, and its links to the others, in JSON.

use chronik_wal::types::NodeId;
use serde_json::{Value, json};

use super::NodeView;
use super::inspect::{Answers, inspect};
use super::request::Response;
use crate::metadata::snapshot::Snapshot;
use crate::shard::report::{LinkReport, MemberReport, MetadataReport, RaftReport, ReportScope};

/// `/v1/cluster`.
pub(super) fn cluster(view: &NodeView) -> Response {
    let answers = inspect(view, &ReportScope::default());
    let snapshot = view.snapshot.load();
    let metadata = metadata(&answers);
    let obstacles: Vec<&str> =
        answers.reports.iter().filter_map(|report| report.obstacle.as_deref()).collect();
    let nodes: Vec<Value> = snapshot.brokers.keys().map(|id| node(&snapshot, view.node, *id)).collect();
    let body = json!({
        "cluster_id": snapshot.cluster_id.as_deref(),
        "node": view.node.0,
        "metadata_leader": snapshot.controller.map(|node| node.0),
        "not_formed_because": obstacles,
        "nodes": nodes,
        "metadata_group": metadata.map(|metadata| raft(&metadata.raft)),
        "links": links(&answers),
        "silent_shards": answers.silent.iter().map(|shard| shard.0).collect::<Vec<_>>(),
    });
    Response::json(200, &body)
}

/// What shard 0 says of the metadata group.
pub(super) fn metadata(answers: &Answers) -> Option<&MetadataReport> {
    answers.reports.iter().find_map(|report| report.metadata.as_ref())
}

fn node(snapshot: &Snapshot, own: NodeId, id: NodeId) -> Value {
    let broker = &snapshot.brokers[&id];
    let text = |endpoint: &crate::metadata::command::Endpoint| format!("{}:{}", endpoint.host, endpoint.port);
    let listeners = broker.listeners.iter().map(|(name, endpoint)| (name.clone(), json!(text(endpoint))));
    json!({
        "node": id.0,
        "this": id == own,
        "up": !snapshot.fenced.contains(&id),
        "rack": broker.rack,
        "directory": broker.directory.to_string(),
        "listeners": listeners.collect::<serde_json::Map<_, _>>(),
        "raft": broker.raft.as_ref().map(text),
    })
}

/// A Raft group's standing on this node.
pub(super) fn raft(report: &RaftReport) -> Value {
    let member = |member: &MemberReport| {
        json!({
            "node": member.node.map(|node| node.0),
            "peer": member.peer.0,
            "voter": member.is_voter,
            "lag_entries": member.lag,
        })
    };
    json!({
        "role": report.role,
        "leader": report.leader.map(|node| node.0),
        "term": report.term.0,
        "commit": report.commit.0,
        "applied": report.applied.0,
        "last": report.last.0,
        "resting": report.is_resting,
        "members": report.members.iter().map(member).collect::<Vec<_>>(),
    })
}

fn links(answers: &Answers) -> Vec<Value> {
    let all =
        answers.reports.iter().flat_map(|report| report.links.iter().map(move |link| (report.shard, link)));
    let one = |(shard, link): (chronik_wal::types::ShardId, &LinkReport)| {
        json!({
            "shard": shard.0,
            "node": link.node.0,
            "up": link.is_up,
            "waiting_frames": link.waiting.0,
            "waiting_bytes": link.waiting.1,
            "sent_frames": link.sent_frames,
            "dropped_frames": link.dropped_frames,
            "connections": link.connections,
        })
    };
    all.map(one).collect()
}
