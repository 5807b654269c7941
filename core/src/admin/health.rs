//! Liveness and readiness.
//!
//! *Live*: every shard answers within a second; a node that is not should be started anew. *Ready*: the metadata group
//! is led, the listeners accept, no partition is damaged; clients may be sent here. A node that recovers its data is live and
//! not ready.

use serde_json::{Value, json};

use super::inspect::{Answers, inspect, name_of};
use super::request::Response;
use super::{NodeView, State};
use crate::metadata::snapshot::Snapshot;
use crate::shard::report::ReportScope;

/// Damaged partitions named in an answer; their number is always whole.
const DEGRADED_NAMED_MAX: usize = 100;

/// Why a node is not what was asked, and what else is amiss.
#[derive(Clone, Debug, Default)]
struct Verdict {
    reasons: Vec<String>,
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
    Verdict { reasons, degraded: Vec::new() }
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
    if snapshot.controller.is_none() {
        reasons.push("the metadata group has no leader".to_owned());
    }
    let Some(answers) = answers else { return verdict };
    reasons.extend(silent(answers));
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

/// The damaged partitions of all shards: name and what is wrong.
pub(super) fn damaged(snapshot: &Snapshot, answers: &Answers) -> Vec<(String, String)> {
    let damaged = answers.reports.iter().flat_map(|report| &report.damaged);
    damaged.map(|(group, reason)| (name_of(snapshot, *group), reason.clone())).collect()
}
