//! Field report 003: a call that meant "a leader exists" was used as "I am the leader": all three nodes ran elections and
//! proposed; the log filled with "Cannot propose".
//!
//! Only the leader proposes. The first leader of a new partition is the metadata leader if it holds a replica. Half a minute and
//! more with three nodes (`CHRONIK_SOAK_SECONDS`), topics made and records produced all the time: no failed proposal in any log,
//! and no election either, for nothing happens that calls for one.

use chronik_tests::cluster::Cluster;
use chronik_tests::cluster::view::View;
use chronik_tests::topics::create_replicated;
use chronik_tests::workload::{self, Load};
use chronik_tests::{lock, report};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TOPIC: &str = "soak";
const PARTITIONS: i32 = 6;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two topics that are made.
const TOPIC_INTERVAL: Duration = Duration::from_secs(1);

#[test]
fn only_the_leader_proposes() {
    let _heavy = lock::heavy();
    let seconds = std::env::var("CHRONIK_SOAK_SECONDS").map_or(30, |text| text.parse().expect("a number"));
    let mut cluster = Cluster::start("report-003");
    first_leader_is_the_controller(&mut cluster);
    create_replicated(&mut cluster.connect(1), TOPIC, PARTITIONS, &[]);
    cluster.wait_in_sync(TOPIC, SETTLE_TIMEOUT);
    let load = Load::start(&workload::Options::usual(&cluster.bootstrap(), TOPIC, PARTITIONS));
    load.wait_progress("the soak begins", 100, SETTLE_TIMEOUT);
    let before = epochs(&cluster);
    let started = Instant::now();
    let mut made = 0;
    while started.elapsed() < Duration::from_secs(seconds) {
        let id = 1 + made % 3;
        create_replicated(&mut cluster.connect(id), &format!("made-{made}"), 3, &[]);
        made += 1;
        std::thread::sleep(TOPIC_INTERVAL);
    }
    let after = epochs(&cluster);
    let addresses: Vec<String> = cluster.ids().into_iter().map(|id| cluster.address(id)).collect();
    let findings = load.finish(&addresses).assert_clean(1000);
    assert_eq!(before, after, "nobody had a reason to hold an election");
    for id in cluster.ids() {
        let log = cluster.log(id).to_lowercase();
        for text in ["cannot propose", "proposal dropped", "failed proposal", "not the leader"] {
            assert!(!log.contains(text), "node {id} proposes what is not its own to propose: {text}\n{log}");
        }
    }
    report(&format!("{made} topics and {findings:?} in {seconds} s"));
}

/// Leader and epoch of each partition of the soak's topic.
fn epochs(cluster: &Cluster) -> BTreeMap<i32, (i32, i32)> {
    let view = cluster.view(1).expect("an answer");
    view.topics[TOPIC].iter().map(|(partition, at)| (*partition, (at.leader, at.epoch))).collect()
}

/// The moment after a topic was made, before balance moves anything, its first leader is a node that holds a replica; all nodes say
/// the same.
fn first_leader_is_the_controller(cluster: &mut Cluster) {
    let view = View::of(&cluster.address(1)).expect("an answer");
    create_replicated(&mut cluster.connect(view.controller), "first", 1, &[]);
    let leaders = cluster.wait_led("first", SETTLE_TIMEOUT);
    let replicas = &cluster.view(1).expect("an answer").topics["first"][&0].replicas;
    assert!(replicas.contains(&leaders[&0]), "the leader holds a replica: {leaders:?} of {replicas:?}");
    report(&format!("controller {}, first leader {leaders:?}", view.controller));
}
