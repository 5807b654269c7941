//! The endpoint over shards that are played by plain threads: silent ones, damaged ones, more than a scrape may list.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use chronik_net::rt::mailbox::{Unbound, mailbox};
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex, ShardId, Term};
use uuid::Uuid;

use super::*;
use crate::config::layers::ConfigMap;
use crate::metadata::command::{Command, Endpoint};
use crate::metadata::snapshot::SnapshotBuilder;
use crate::metadata::state::MetadataState;
use crate::partition::PartitionName;
use crate::shard::report::{
    IncomingReport, LinkReport, MemberReport, MetadataReport, PartitionReport, RaftReport, ReportScope,
    ShardReport, Totals,
};

type Report = Box<dyn Fn(&ReportScope) -> ShardReport + Send>;

/// A serving node whose shards answer as they are told; without a report a shard is silent.
struct World {
    state: State,
    silent: Vec<Unbound<Mail>>,
    done: Arc<AtomicBool>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

impl World {
    fn new(shards: Vec<Option<Report>>, controller: bool) -> Self {
        let mut builder = SnapshotBuilder::new(NodeId(1), shards.len() as u16, ConfigMap::new());
        if controller {
            builder.controller_changed(NodeId(1));
        }
        let snapshot = Arc::new(builder.current().clone());
        let done = Arc::new(AtomicBool::new(false));
        let mut silent = Vec::new();
        let mut senders = Vec::new();
        let metrics = shards.iter().map(|_| Arc::default()).collect();
        for report in shards {
            let (sender, inbox) = mailbox::<Mail>(8).unwrap();
            senders.push(sender);
            match report {
                Some(report) => play(inbox, report, done.clone()),
                None => silent.push(inbox),
            }
        }
        let state = State::new();
        let view = NodeView {
            node: NodeId(1),
            data_dir: "/".into(),
            listeners: vec![("PLAINTEXT".to_owned(), "127.0.0.1:9092".parse().unwrap())],
            shards: senders,
            metrics,
            snapshot: Arc::new(ArcSwap::new(snapshot)),
            acceptor: Arc::default(),
        };
        state.view.set(view).unwrap();
        Self { state, silent, done }
    }

    fn get(&self, target: &str) -> (u16, String) {
        let head = format!("GET {target} HTTP/1.1\r\n\r\n");
        let response = answer(&self.state, &request::parse(head.as_bytes()).unwrap());
        (response.status, response.body)
    }

    fn json(&self, target: &str) -> (u16, serde_json::Value) {
        let (status, body) = self.get(target);
        (status, serde_json::from_str(&body).unwrap())
    }
}

fn play(inbox: Unbound<Mail>, report: Report, done: Arc<AtomicBool>) {
    thread::spawn(move || {
        while !done.load(Ordering::Acquire) {
            match inbox.try_recv() {
                Some(Mail::Inspect(inquiry)) => {
                    let _ = inquiry.answer.send(report(&inquiry.scope));
                }
                Some(other) => panic!("the endpoint sent {other:?}"),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}

fn empty(shard: u16) -> ShardReport {
    ShardReport {
        shard: ShardId(shard),
        totals: Totals::default(),
        obstacle: None,
        damaged: Vec::new(),
        metadata: None,
        links: Vec::new(),
        incoming: IncomingReport::default(),
        partitions: Vec::new(),
        groups: Vec::new(),
        high_watermarks: Vec::new(),
    }
}

fn raft(role: &'static str, members: Vec<MemberReport>) -> RaftReport {
    let leader = (role == "leader").then_some(NodeId(1));
    let (commit, applied, last) = (RaftIndex(8), RaftIndex(7), RaftIndex(9));
    RaftReport { role, leader, term: Term(1), commit, applied, last, is_resting: false, members }
}

/// Shard 0 of a node of three, whose metadata group has this role and which reaches these others.
fn of_three(role: &'static str, nodes_up: &'static [i32]) -> Option<Report> {
    Some(Box::new(move |_| {
        let member = MemberReport { node: Some(NodeId(2)), peer: PeerId(5), is_voter: true, lag: 3 };
        let up = |node: &i32| NodeId(*node);
        let link = |node: i32| LinkReport {
            node: NodeId(node),
            is_up: nodes_up.contains(&node),
            waiting: (1, 100),
            sent_frames: 7,
            dropped_frames: 2,
            connections: 1,
        };
        ShardReport {
            metadata: Some(MetadataReport {
                raft: raft(role, vec![member]),
                nodes_up: nodes_up.iter().map(up).collect(),
            }),
            links: vec![link(2), link(3)],
            incoming: IncomingReport { frames: 11, dropped_frames: 1, unsent_frames: 4 },
            totals: Totals { leaders: 5, under_replicated: 2, moving: 1, ..Totals::default() },
            ..empty(0)
        }
    }))
}

/// Nodes 1 to 3 are registered.
fn world_of_three(role: &'static str, nodes_up: &'static [i32]) -> World {
    let world = World::new(vec![of_three(role, nodes_up)], true);
    let (mut state, mut builder) =
        (MetadataState::default(), SnapshotBuilder::new(NodeId(1), 1, ConfigMap::new()));
    for node in 1..=3 {
        let endpoint = |port| Endpoint { host: "h".to_owned(), port };
        let command = Command::RegisterBroker {
            node: NodeId(node),
            directory: Uuid::nil(),
            incarnation: Uuid::nil(),
            rack: None,
            listeners: BTreeMap::from([("PLAINTEXT".to_owned(), endpoint(9092))]),
            raft: Some(endpoint(5001)),
        };
        let change = state.apply(&command).unwrap();
        builder.apply(&change, &state);
    }
    builder.controller_changed(NodeId(1));
    world.state.view.get().unwrap().snapshot.store(Arc::new(builder.current().clone()));
    world
}

#[test]
fn a_lost_majority_is_named_with_the_nodes_that_are_away() {
    let (status, body) = world_of_three("unknown", &[]).json("/health");
    assert_eq!(status, 503);
    let reason = body["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("the metadata group has lost its majority: of 3 nodes"), "{reason}");
    assert!(reason.contains(": 2, 3;") && reason.contains("recover --unsafe"), "{reason}");
    let (status, body) = world_of_three("unknown", &[2, 3]).json("/health");
    assert_eq!((status, body["reasons"][0].as_str().unwrap().contains("election")), (503, true));
}

#[test]
fn what_is_amiss_elsewhere_is_a_warning_and_keeps_no_client_away() {
    let (status, body) = world_of_three("leader", &[2]).json("/health/ready");
    assert_eq!((status, &body["reasons"]), (200, &serde_json::json!([])));
    let warnings = [
        "node 3 cannot be reached from here",
        "2 partitions led here lack a replica in sync",
        "1 partitions led here are being moved",
    ];
    assert_eq!(body["warnings"], serde_json::json!(warnings));
}

#[test]
fn the_cluster_as_one_node_sees_it() {
    let world = world_of_three("leader", &[2]);
    let (status, body) = world.json("/v1/cluster");
    assert_eq!((status, &body["metadata_leader"]), (200, &1.into()));
    assert_eq!(body["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(body["nodes"][0]["listeners"]["PLAINTEXT"], "h:9092");
    let member = serde_json::json!([{ "node": 2, "peer": 5, "voter": true, "lag_entries": 3 }]);
    assert_eq!(body["metadata_group"]["members"], member);
    assert_eq!(body["links"][1]["up"], false);
    let (_, metrics) = world.get("/metrics");
    for line in [
        "chronik_links_up{peer=\"2\"} 1",
        "chronik_links_up{peer=\"3\"} 0",
        "chronik_link_waiting_bytes{peer=\"3\"} 100",
        "chronik_link_frames_dropped_total{peer=\"2\"} 2",
        "chronik_link_frames_in_total 11",
        "chronik_metadata_committed 8",
        "chronik_reassigning_partitions 1",
        "chronik_raft_elections_total{shard=\"0\"} 0",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line} is missing");
    }
}

fn healthy(shard: u16) -> Option<Report> {
    Some(Box::new(move |_| empty(shard)))
}

/// A shard with `count` partitions of which it hands out the page that was asked for.
fn full(shard: u16, count: u64) -> Option<Report> {
    Some(Box::new(move |scope| {
        let groups: Vec<GroupId> = (1..=count).map(|number| GroupId(number * 2 + u64::from(shard))).collect();
        let row = |group: GroupId| PartitionReport {
            name: PartitionName { topic: "t".into(), topic_id: Uuid::nil(), index: group.0 as i32 },
            group,
            raft: raft("leader", Vec::new()),
            log_start: KafkaOffset(0),
            high_watermark: KafkaOffset(5),
            log_end: KafkaOffset(6),
            bytes: 7,
            segment_count: 1,
            replica_count: 1,
            in_sync: vec![NodeId(1)],
        };
        let page = scope.partitions.iter().flat_map(|page| {
            let after = groups.iter().filter(move |group| page.after.is_none_or(|after| **group > after));
            after.take(page.limit)
        });
        ShardReport {
            partitions: page.map(|group| row(*group)).collect(),
            high_watermarks: groups.iter().map(|group| (*group, KafkaOffset(5))).collect(),
            ..empty(shard)
        }
    }))
}

#[test]
fn a_healthy_node_is_live_and_ready() {
    let world = World::new(vec![healthy(0), healthy(1)], true);
    for path in ["/health", "/health/live", "/health/ready"] {
        let (status, body) = world.json(path);
        assert_eq!((status, &body["status"]), (200, &"ok".into()), "{path}");
    }
    world.state.stopping.store(true, Ordering::Release);
    assert_eq!(world.get("/health/live").0, 200, "a node that stops need not be killed");
    assert_eq!(world.get("/health/ready").0, 503, "but takes no new clients");
}

#[test]
fn a_node_that_still_recovers_is_live_but_not_ready() {
    let state = State::new();
    let get = |path: &str| {
        answer(&state, &request::parse(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap()).status
    };
    assert_eq!(get("/health/live"), 200);
    for path in ["/health", "/health/ready", "/metrics", "/v1/status", "/v1/partitions", "/v1/groups"] {
        assert_eq!(get(path), 503, "{path}");
    }
    assert_eq!(get("/nothing"), 404);
}

#[test]
fn a_silent_shard_costs_a_second_and_the_liveness() {
    let world = World::new(vec![healthy(0), None], true);
    let begun = Instant::now();
    let (status, body) = world.json("/health/live");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(status, 503);
    assert_eq!(body["reasons"], serde_json::json!(["shard 1 did not answer within a second"]));
    assert!(world.silent[0].try_recv().is_some(), "the shard was asked");

    let (status, metrics) = world.get("/metrics");
    assert_eq!(status, 200, "what is known is told");
    assert!(metrics.contains("\nchronik_shard_up{shard=\"0\"} 1\n"));
    assert!(metrics.contains("\nchronik_shard_up{shard=\"1\"} 0\n"));
}

#[test]
fn a_full_mailbox_does_not_hold_the_endpoint() {
    let world = World::new(vec![None], true);
    let (sender, _inbox) = mailbox::<Mail>(1).unwrap();
    sender.try_send(Mail::Stop).unwrap();
    let view = world.state.view.get().unwrap();
    let view = NodeView {
        shards: vec![sender],
        data_dir: "/".into(),
        snapshot: view.snapshot.clone(),
        ..empty_view()
    };
    let begun = Instant::now();
    let answers = inspect::inspect(&view, &ReportScope::default());
    assert_eq!(answers.silent, [ShardId(0)]);
    assert!(begun.elapsed() < Duration::from_secs(4));
}

fn empty_view() -> NodeView {
    let builder = SnapshotBuilder::new(NodeId(1), 1, ConfigMap::new());
    NodeView {
        node: NodeId(1),
        data_dir: "/".into(),
        listeners: Vec::new(),
        shards: Vec::new(),
        metrics: Vec::new(),
        snapshot: Arc::new(ArcSwap::new(Arc::new(builder.current().clone()))),
        acceptor: Arc::default(),
    }
}

#[test]
fn damage_and_a_missing_controller_are_named() {
    let damaged =
        |_: &ReportScope| ShardReport { damaged: vec![(GroupId(9), "entries are lost".into())], ..empty(0) };
    let world = World::new(vec![Some(Box::new(damaged))], false);
    let (status, body) = world.json("/health/ready");
    assert_eq!(status, 503);
    assert_eq!(body["reasons"][0], "the metadata group has no leader");
    assert_eq!(
        body["degraded"],
        serde_json::json!([{ "partition": "group 9", "reason": "entries are lost" }])
    );
    assert_eq!(world.get("/health/live").0, 200, "a restart would not mend it");
    assert!(world.get("/metrics").1.contains("\nchronik_damaged_partitions 1\n"));
}

#[test]
fn a_scrape_lists_no_more_than_its_limit_and_says_so() {
    let world = World::new(vec![full(0, 3_000), full(1, 3_000)], true);
    let (_, metrics) = world.get("/metrics");
    let listed = metrics.lines().filter(|line| line.starts_with("chronik_partition_size_bytes{")).count();
    assert_eq!(listed, 5_000);
    assert!(metrics.contains("\nchronik_metrics_left_out{kind=\"partition\"} 1000\n"));
}

#[test]
fn pages_hold_each_partition_once() {
    let world = World::new(vec![full(0, 25), full(1, 25)], true);
    let mut seen = BTreeMap::new();
    let mut target = "/v1/partitions?limit=7".to_owned();
    loop {
        let (status, page) = world.json(&target);
        assert_eq!(status, 200);
        for row in page["partitions"].as_array().unwrap() {
            *seen.entry(row["group"].as_u64().unwrap()).or_insert(0) += 1;
        }
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/v1/partitions?limit=7&after={next}");
    }
    assert_eq!(seen.len(), 50);
    assert!(seen.values().all(|times| *times == 1));
    for bad in ["limit=0", "limit=1001", "limit=x", "after=x"] {
        assert_eq!(world.get(&format!("/v1/partitions?{bad}")).0, 400, "{bad}");
    }
}
