//! Asking the shards how they stand: one letter into each mailbox, one deadline for all answers.
//!
//! Called on the endpoint's threads. A shard that does not answer in time is simply missing from what comes back.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use chronik_net::rt::mailbox::{Full, Sender};
use chronik_wal::types::{GroupId, KafkaOffset, ShardId};

use super::NodeView;
use crate::metadata::snapshot::Snapshot;
use crate::shard::pump::Mail;
use crate::shard::report::{Inquiry, ReportScope, ShardReport};

/// A shard that has not answered after this long does not live.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// Pause before a full mailbox is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// The answers of the shards, in order, without those that did not answer.
#[derive(Debug)]
pub(super) struct Answers {
    /// In the order of the shards.
    pub(super) reports: Vec<ShardReport>,
    /// The shards that did not answer.
    pub(super) silent: Vec<ShardId>,
}

/// Asks every shard.
pub(super) fn inspect(view: &NodeView, scope: &ReportScope) -> Answers {
    let deadline = Instant::now() + ANSWER_DEADLINE;
    let (answer, answers) = mpsc::channel();
    for shard in &view.shards {
        post(shard, Inquiry { scope: scope.clone(), answer: answer.clone() }, deadline);
    }
    drop(answer);
    let mut reports = BTreeMap::new();
    while reports.len() < view.shards.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        // Ends early when every shard has answered or is gone.
        let Ok(report) = answers.recv_timeout(left) else { break };
        reports.insert(report.shard, report);
    }
    let all = (0..view.shards.len()).map(|number| ShardId(number as u16));
    let silent = all.filter(|shard| !reports.contains_key(shard)).collect();
    Answers { reports: reports.into_values().collect(), silent }
}

fn post(shard: &Sender<Mail>, inquiry: Inquiry, deadline: Instant) {
    let mut mail = Mail::Inspect(inquiry);
    while let Err(Full(back)) = shard.try_send(mail) {
        if Instant::now() >= deadline || shard.is_closed() {
            return;
        }
        mail = back;
        thread::sleep(RETRY_PAUSE);
    }
}

/// The high watermarks of all partitions that have a replica here.
#[derive(Debug)]
pub(super) struct Watermarks<'a> {
    snapshot: &'a Snapshot,
    by_group: BTreeMap<GroupId, KafkaOffset>,
}

impl<'a> Watermarks<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, reports: &[ShardReport]) -> Self {
        let by_group = reports.iter().flat_map(|report| report.high_watermarks.iter().copied()).collect();
        Self { snapshot, by_group }
    }

    /// What a group that has committed `offset` has not read yet; none when the partition is gone or not here.
    pub(super) fn lag(&self, topic: &str, partition: i32, offset: i64) -> Option<i64> {
        let group = self.snapshot.topic(topic)?.partition(partition)?.group;
        let end = self.by_group.get(&group)?;
        Some((end.0 - offset).max(0))
    }
}

/// The name of a partition by its Raft group, as `topic-partition`. Walks all topics: for the few damaged ones only.
pub(super) fn name_of(snapshot: &Snapshot, group: GroupId) -> String {
    for (name, topic) in snapshot.topics.iter() {
        if let Some(index) = topic.partitions.iter().position(|partition| partition.group == group) {
            return format!("{name}-{index}");
        }
    }
    format!("group {}", group.0)
}
