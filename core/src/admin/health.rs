//! Liveness and readiness.
//!
//! *Live*: every shard answers within a second; a node that is not should be started anew. *Ready*: the metadata group
//! is led, the listeners accept, no partition is damaged; clients may be sent here. A node that recovers its data is live and
//! not ready.

use chronik_wal::types::NodeId;
use serde_json::{Value, json};

use super::inspect::{Answers, inspect, name_of};
use super::request::Response;
use super::{NodeView, State};
use crate::metadata::snapshot::Snapshot;
use crate::shard::report::{MetadataReport, ReportScope, Totals};

/// Damaged partitions named in an answer; their number is always whole.
const DEGRADED_NAMED_MAX: usize = 100;

/// Why a node is not what was asked, and what else is amiss.
#[derive(Clone, Debug, Default)]
struct Verdict {
    reasons: Vec<String>,
    /// What is amiss but does not keep clients away.
    warnings: Vec<String>,
    /// Damaged partitions: name and what is wrong.
    degraded: Vec<(String, String)>,
}

impl Verdict {
    fn holds(&self) -> bool {
        self.reasons.is_empty()
    }

    fn json(&self, what: &str) -> Value {
        let degraded = self.degraded.iter().take(DEGRADED_NAMED_MAX);
        let degraded =
            degraded.map(|(partition, reason)| json!({ "partition": partition, "reason": reason }));
        json!({
            "status": if self.holds() { "ok" } else { "failing" },
            what: self.holds(),
            "reasons": self.reasons,
            "warnings": self.warnings,
            "degraded": degraded.collect::<Vec<_>>(),
        })
    }
}

/// `/health/live`.
pub(super) fn live(state: &State) -> Response {
    respond(&liveness(ask(state).as_ref()), "live")
}

/// `/health/ready`.
pub(super) fn ready(state: &State) -> Response {
    respond(&readiness(state, ask(state).as_ref()), "ready")
}

/// `/health`.
pub(super) fn both(state: &State) -> Response {
    let answers = ask(state);
    let (live, ready) = (liveness(answers.as_ref()), readiness(state, answers.as_ref()));
    let holds = live.holds() && ready.holds();
    let mut body = ready.json("ready");
    body["status"] = json!(if holds { "ok" } else { "failing" });
    body["live"] = json!(live.holds());
    Response::json(if holds { 200 } else { 503 }, &body)
}

fn respond(verdict: &Verdict, what: &str) -> Response {
    Response::json(if verdict.holds() { 200 } else { 503 }, &verdict.json(what))
}

fn ask(state: &State) -> Option<Answers> {
    // A shard that has stopped has no more answers; that is no illness.
    state.view.get().filter(|_| !state.is_stopping()).map(|view| inspect(view, &ReportScope::default()))
}

fn silent(answers: &Answers) -> impl Iterator<Item = String> {
    answers.silent.iter().map(|shard| format!("shard {} did not answer within a second", shard.0))
}

fn liveness(answers: Option<&Answers>) -> Verdict {
    let reasons = answers.into_iter().flat_map(silent).collect();
    Verdict { reasons, ..Verdict::default() }
}

fn readiness(state: &State, answers: Option<&Answers>) -> Verdict {
    let mut verdict = Verdict::default();
    let reasons = &mut verdict.reasons;
    if state.is_stopping() {
        reasons.push("stopping: no new connections are accepted".to_owned());
    }
    let Some(NodeView { snapshot, .. }) = state.view.get() else {
        reasons.push("starting: the data is being recovered, the listeners do not accept yet".to_owned());
        return verdict;
    };
    let snapshot = snapshot.load();
    let Some(answers) = answers else {
        if snapshot.controller.is_none() {
            reasons.push("the metadata group has no leader".to_owned());
        }
        return verdict;
    };
    reasons.extend(silent(answers));
    reasons.extend(leaderless(&snapshot, answers));
    verdict.warnings = warnings(&snapshot, answers);
    reasons.extend(answers.reports.iter().filter_map(|report| report.obstacle.clone()));
    verdict.degraded = damaged(&snapshot, answers);
    let count = verdict.degraded.len();
    if count > 0 {
        verdict
            .reasons
            .push(format!("{count} damaged partitions are offline; the log says how each is mended"));
    }
    verdict
}

/// Why nothing can be changed, if so: the metadata group has no leader. Clients that only produce and consume may not notice.
fn leaderless(snapshot: &Snapshot, answers: &Answers) -> Option<String> {
    let Some(metadata) = super::cluster::metadata(answers) else {
        return snapshot.controller.is_none().then(|| "the metadata group has no leader".to_owned());
    };
    match metadata.raft.role {
        "leader" | "follower" => None,
        // Why a cluster has not been formed is said in words of its own.
        "absent" if answers.reports.iter().any(|report| report.obstacle.is_some()) => None,
        _ => {
            let away: Vec<String> = unreachable(snapshot, metadata).iter().map(ToString::to_string).collect();
            let members = snapshot.brokers.len();
            Some(match away.len() * 2 >= members.max(1) && members > 1 {
                true => format!(
                    "the metadata group has lost its majority: of {members} nodes these cannot be reached from here: {}; \
                     nothing can be changed and nothing is acknowledged until one of them is back (if their disks are lost: \
                     chronik-server cluster recover --unsafe)",
                    away.join(", ")
                ),
                false => "the metadata group has no leader: an election is due or under way".to_owned(),
            })
        }
    }
}

fn unreachable(snapshot: &Snapshot, metadata: &MetadataReport) -> Vec<NodeId> {
    let others = snapshot.brokers.keys().copied().filter(|node| *node != snapshot.node);
    others.filter(|node| !metadata.nodes_up.contains(node)).collect()
}

fn warnings(snapshot: &Snapshot, answers: &Answers) -> Vec<String> {
    let mut warnings = Vec::new();
    let away = super::cluster::metadata(answers).map(|metadata| unreachable(snapshot, metadata));
    for node in away.unwrap_or_default() {
        warnings.push(format!("node {node} cannot be reached from here"));
    }
    let sum = |figure: fn(&Totals) -> usize| {
        answers.reports.iter().map(|report| figure(&report.totals)).sum::<usize>()
    };
    let figures: [(&str, usize); 4] = [
        ("replicas here have no leader", sum(|totals| totals.offline)),
        ("partitions led here lack a replica in sync", sum(|totals| totals.under_replicated)),
        (
            "partitions led here are below min.insync.replicas: acks=all is refused",
            sum(|totals| totals.under_min_isr),
        ),
        ("partitions led here are being moved", sum(|totals| totals.moving)),
    ];
    let told = figures.iter().filter(|(_, count)| *count > 0);
    warnings.extend(told.map(|(what, count)| format!("{count} {what}")));
    warnings
}

/// The damaged partitions of all shards: name and what is wrong.
pub(super) fn damaged(snapshot: &Snapshot, answers: &Answers) -> Vec<(String, String)> {
    let damaged = answers.reports.iter().flat_map(|report| &report.damaged);
    damaged.map(|(group, reason)| (name_of(snapshot, *group), reason.clone())).collect()
}
