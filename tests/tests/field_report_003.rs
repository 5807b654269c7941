//! Field report 003: a call that meant "a leader exists" was used as "I am the leader": all three nodes ran elections and
//! proposed; the log filled with "Cannot propose".
//!
//! Only the leader proposes. The first leader of a new partition is the metadata leader if it holds a replica. Half a minute and
//! more with three nodes (`CHRONIK_SOAK_SECONDS`), topics made and records produced all the time: no failed proposal in any log,
//! and no election either, for nothing happens that calls for one. Where the machine itself stands still for a while something
//! does: seconds with that do not count.

use chronik_tests::cluster::Cluster;
use chronik_tests::cluster::view::View;
use chronik_tests::stalls::Stalls;
use chronik_tests::topics::create_replicated;
use chronik_tests::workload::{self, Load};
use chronik_tests::{lock, report};
use std::collections::BTreeMap;
use std::time::Duration;

const TOPIC: &str = "soak";
const PARTITIONS: i32 = 6;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two topics that are made.
const TOPIC_INTERVAL: Duration = Duration::from_secs(1);
/// A core that stands still for so long may cost an election: half of the shortest time after which one is held (300 ms).
const STALL: Duration = Duration::from_millis(150);
/// The soak goes on for so many times its length in search of calm seconds.
const LENGTHS_MAX: u64 = 4;

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
    let made = soak(&cluster, seconds);
    let addresses: Vec<String> = cluster.ids().into_iter().map(|id| cluster.address(id)).collect();
    let findings = load.finish(&addresses).assert_clean(1000);
    for id in cluster.ids() {
        let log = cluster.log(id).to_lowercase();
        for text in ["cannot propose", "proposal dropped", "failed proposal", "not the leader"] {
            assert!(!log.contains(text), "node {id} proposes what is not its own to propose: {text}\n{log}");
        }
    }
    report(&format!("{made} topics and {findings:?} in {seconds} s"));
}

/// Makes topics until `seconds` calm intervals have passed, in none of which an election may be held. How many were made.
fn soak(cluster: &Cluster, seconds: u64) -> u64 {
    let stalls = Stalls::watch();
    let (mut made, mut calm) = (0, 0);
    let mut before = epochs(cluster);
    // An election may also come right after the machine went on.
    let mut stood_still = false;
    while calm < seconds {
        assert!(made < seconds * LENGTHS_MAX, "the machine stands still all the time: {calm} calm seconds");
        let id = 1 + i32::try_from(made % 3).expect("a small number");
        create_replicated(&mut cluster.connect(id), &format!("made-{made}"), 3, &[]);
        made += 1;
        std::thread::sleep(TOPIC_INTERVAL);
        let after = epochs(cluster);
        if before != after {
            // A core that still stands still is known when it goes on.
            std::thread::sleep(TOPIC_INTERVAL);
        }
        let worst = stalls.take_worst();
        if worst < STALL && !stood_still {
            assert_eq!(before, after, "nobody had a reason to hold an election");
            calm += 1;
        } else {
            report(&format!("the machine stood still for {worst:?}"));
        }
        stood_still = worst >= STALL;
        before = after;
    }
    made
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
