//! Field report 000: a node was elected, yet 90 s later its own "who leads?" answered nobody; every Metadata, topic creation,
//! produce and fetch failed with "no Raft leader elected after 4 retries".
//!
//! Three brokers register themselves; only then is anything placed. From then on every node answers Metadata from its own
//! memory, all the time and at once, and serves topic creation, produce and fetch. CI watches for half a minute;
//! `CHRONIK_SOAK_SECONDS=600` for ten minutes.

use chronik_net::codec::ErrorCode;
use chronik_tests::cluster::view::View;
use chronik_tests::cluster::{Cluster, Options};
use chronik_tests::records::read_all;
use chronik_tests::topics::{create_code_within, create_replicated_code};
use chronik_tests::wire::Connection;
use chronik_tests::{lock, report};
use std::time::{Duration, Instant};

const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a partition may be without a leader when one was lost.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds of questions.
const ROUND_INTERVAL: Duration = Duration::from_millis(500);

#[test]
fn a_leader_is_known_from_the_start_and_later_on() {
    let _heavy = lock::heavy();
    let seconds = std::env::var("CHRONIK_SOAK_SECONDS").map_or(30, |text| text.parse().expect("a number"));
    nothing_is_placed_before_all_are_registered();
    let mut cluster = Cluster::start("report-000");
    for id in cluster.ids() {
        serves(&mut cluster, id, &format!("at-start-{id}"));
    }
    let (started, mut longest, mut rounds) = (Instant::now(), Duration::ZERO, 0);
    while started.elapsed() < Duration::from_secs(seconds) {
        for id in cluster.ids() {
            let asked = Instant::now();
            let view = View::of(&cluster.address(id)).expect("Metadata is answered at any time");
            longest = longest.max(asked.elapsed());
            assert_eq!(view.brokers.len(), 3, "node {id} after {:?}: {view:?}", started.elapsed());
            assert!(view.controller > 0, "node {id} names a controller: {view:?}");
            if !is_led(&view) {
                // A core of the machine was taken away for longer than an election timeout.
                cluster.wait("leaders are known again", ELECTION_TIMEOUT, |cluster| {
                    cluster.view(id).is_some_and(|view| is_led(&view))
                });
            }
        }
        rounds += 1;
        std::thread::sleep(ROUND_INTERVAL);
    }
    for id in cluster.ids() {
        serves(&mut cluster, id, &format!("after-{seconds}-seconds-{id}"));
        let log = cluster.log(id);
        for text in ["no Raft leader", "retries"] {
            assert!(!log.contains(text), "node {id} never asks in vain who leads:\n{log}");
        }
    }
    report(&format!("{rounds} rounds over {seconds} s, the slowest answer after {longest:?}"));
}

fn is_led(view: &View) -> bool {
    let partitions = view.topics.values().flat_map(|partitions| partitions.values());
    partitions.into_iter().all(|at| at.leader > 0 && at.error == ErrorCode::None)
}

/// A node on its own does not form a cluster of three, nor do two: a topic cannot be made yet.
fn nothing_is_placed_before_all_are_registered() {
    let mut cluster = Cluster::prepare("report-000-alone", Options::default());
    for id in [1, 2] {
        cluster.spawn(id);
        std::thread::sleep(Duration::from_millis(500));
        // A node that waits for others may refuse connections, or answer that it has no controller.
        if let Ok(mut connection) = Connection::try_open(&cluster.address(id)) {
            let view = View::of(&cluster.address(id)).expect("Metadata is answered");
            assert!(view.topics.is_empty() && view.brokers.len() < 3, "{view:?}");
            let code = create_code_within(&mut connection, "too-early", 1, 3, &[], 1000);
            assert_ne!(code, 0, "nothing can be placed on {id} of three nodes");
        }
    }
    cluster.spawn(3);
    cluster.wait_formed(SETTLE_TIMEOUT);
    let view = cluster.view(3).expect("an answer");
    assert!(!view.topics.contains_key("too-early"), "what was refused was not made: {view:?}");
}

/// Topic creation, produce and fetch, asked of one node.
fn serves(cluster: &mut Cluster, id: i32, topic: &str) {
    assert_eq!(
        create_replicated_code(&mut cluster.connect(id), topic, 3, -1, &[]),
        0,
        "{topic} is made by {id}"
    );
    for partition in 0..3 {
        let (mut connection, offset) = cluster.produce(topic, partition, &["a", "b"]);
        assert_eq!(offset, 0, "{topic}-{partition}");
        assert_eq!(read_all(&mut connection, topic, partition).expect("readable").len(), 2);
    }
}
