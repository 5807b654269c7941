//! The series of `/metrics` about Raft and the links between nodes. A few for each shard or other node, none for each group.

use std::collections::BTreeMap;

use chronik_raft::driver::DriverCounters;

use super::NodeView;
use super::collector::Families;
use super::inspect::Answers;
use super::prometheus::{Figure, by_answer, by_shard, label};
use crate::shard::report::{IncomingReport, LinkReport};

type CountOf = fn(&DriverCounters) -> u64;
type LinkOf = fn(&LinkReport) -> u64;

/// Raft of all groups together, by shard: a series a group would be too many.
pub(super) fn raft(families: &mut Families, view: &NodeView, answers: &Answers) {
    let counters: [Figure<CountOf>; 6] = [
        ("chronik_raft_elections_total", "Elections begun here because the leader's node was lost.", |c| {
            c.elections_begun
        }),
        ("chronik_raft_messages_in_total", "Raft messages of other nodes that were taken.", |c| {
            c.messages_stepped
        }),
        ("chronik_raft_messages_dropped_total", "Raft messages of other nodes that were not taken.", |c| {
            c.dropped_unknown_group + c.dropped_kind + c.dropped_malformed + c.dropped_refused
        }),
        (
            "chronik_raft_appends_throttled_total",
            "Appends of leaders on other nodes not taken whole: no room in memory or in the WAL. They come again.",
            |c| c.appends_cut,
        ),
        ("chronik_raft_rests_total", "Times that a group went to rest.", |c| c.rests),
        ("chronik_raft_wakes_total", "Times that a group at rest was woken.", |c| c.wakes),
    ];
    for (name, help, counter) in counters {
        families.counter(name, help);
        by_answer(families, answers, |totals| counter(&totals.raft));
    }
    families.counter("chronik_catch_up_bytes_total", "Bytes of log read from files for followers that lag.");
    by_shard(families, view, |metrics| &metrics.catch_up_bytes);
    if let Some(metadata) = super::cluster::metadata(answers) {
        let raft = &metadata.raft;
        families
            .gauge("chronik_metadata_log_end_offset", "Last entry of the metadata log here.")
            .set(vec![], raft.last.0);
        families
            .gauge(
                "chronik_metadata_committed",
                "Last entry of the metadata log that is committed, as known here.",
            )
            .set(vec![], raft.commit.0);
        families
            .gauge("chronik_metadata_applied", "Last entry of the metadata log that is applied here.")
            .set(vec![], raft.applied.0);
        families.gauge("chronik_metadata_epoch", "Term of the metadata group.").set(vec![], raft.term.0);
    }
}

/// The links to other nodes, by node: all shards together.
pub(super) fn links(families: &mut Families, answers: &Answers) {
    let mut by_node: BTreeMap<i32, Vec<&LinkReport>> = BTreeMap::new();
    for link in answers.reports.iter().flat_map(|report| &report.links) {
        by_node.entry(link.node.0).or_default().push(link);
    }
    let gauges: [Figure<LinkOf>; 2] = [
        ("chronik_links_up", "Links of this node's shards to the other node that are up.", |l| {
            u64::from(l.is_up)
        }),
        ("chronik_link_waiting_bytes", "Bytes that wait to be sent to the other node.", |l| {
            l.waiting.1 as u64
        }),
    ];
    for (name, help, figure) in gauges {
        families.gauge(name, help);
        for (node, links) in &by_node {
            families.set(label("peer", node), links.iter().map(|link| figure(link)).sum::<u64>());
        }
    }
    let counters: [Figure<LinkOf>; 3] = [
        ("chronik_link_frames_out_total", "Frames sent to the other node.", |l| l.sent_frames),
        (
            "chronik_link_frames_dropped_total",
            "Frames for the other node that were not sent, or lost on the way.",
            |l| l.dropped_frames,
        ),
        ("chronik_link_connections_total", "Times that a link to the other node came up.", |l| l.connections),
    ];
    for (name, help, figure) in counters {
        families.counter(name, help);
        for (node, links) in &by_node {
            families.set(label("peer", node), links.iter().map(|link| figure(link)).sum::<u64>());
        }
    }
    let sum = |figure: fn(&IncomingReport) -> u64| -> u64 {
        answers.reports.iter().map(|report| figure(&report.incoming)).sum()
    };
    families
        .counter("chronik_link_frames_in_total", "Frames that came in from other nodes.")
        .set(vec![], sum(|incoming| incoming.frames));
    families
        .counter("chronik_link_frames_in_dropped_total", "Frames from other nodes that meant nothing here.")
        .set(vec![], sum(|incoming| incoming.dropped_frames));
    families
        .counter("chronik_link_frames_unsent_total", "Frames for other nodes that had no link to go by.")
        .set(vec![], sum(|incoming| incoming.unsent_frames));
}
