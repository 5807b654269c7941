//! Field report 001: the placement's first replica was reported as leader while Raft had elected another; clients looped on
//! NOT_LEADER_OR_FOLLOWER.
//!
//! Metadata names the actual leader and follows every change of it. Topic `raft-test`, 3 partitions, 3 nodes: right after each
//! election every node's Metadata leads to a node that takes the record, and the placement's order says nothing about it.

use chronik_net::codec::ErrorCode;
use chronik_tests::cluster::{Cluster, FORM_TIMEOUT};
use chronik_tests::program::{python, run};
use chronik_tests::records::{batch, read_all};
use chronik_tests::toolchain::Toolchain;
use chronik_tests::topics::create_replicated;
use chronik_tests::{lock, report};
use std::time::{Duration, Instant};

const TOPIC: &str = "raft-test";
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn metadata_names_the_leader_that_raft_elected() {
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start("report-001");
    create_replicated(&mut cluster.connect(1), TOPIC, 3, &[]);
    let mut produced = [0_usize; 3];
    produce_everywhere(&mut cluster, &mut produced);
    let mut not_first = 0;
    // Every node dies once and comes back: each partition is elected anew at least once, and led by others than the first
    // replica meanwhile.
    for victim in cluster.ids() {
        cluster.kill(victim);
        cluster.wait_led(TOPIC, SETTLE_TIMEOUT);
        produce_everywhere(&mut cluster, &mut produced);
        not_first += led_by_another_than_the_first(&cluster);
        cluster.restart(victim);
        produce_everywhere(&mut cluster, &mut produced);
        cluster.wait_formed(FORM_TIMEOUT);
        cluster.wait_in_sync(TOPIC, FORM_TIMEOUT);
    }
    assert!(
        not_first > 0,
        "no partition was ever led by another than its first replica: this tested nothing"
    );
    if Toolchain::Python.ready() {
        for id in cluster.ids() {
            let mut client = python("with_kafka_python.py");
            run("field_report_001", client.arg("field_report_001").arg(cluster.address(id)).arg(TOPIC));
        }
    }
    for (partition, leader) in cluster.wait_led(TOPIC, SETTLE_TIMEOUT) {
        let read = read_all(&mut cluster.connect(leader), TOPIC, partition).expect("readable").len();
        let least = produced[usize::try_from(partition).expect("a small number")];
        assert!(read >= least, "partition {partition}: {least} were acknowledged, {read} are there");
    }
    report(&format!(
        "{produced:?} records; {not_first} partitions were led by another than their first replica"
    ));
}

fn led_by_another_than_the_first(cluster: &Cluster) -> usize {
    let view = cluster.view(cluster.running()[0]).expect("an answer");
    view.topics[TOPIC].values().filter(|at| at.replicas.first() != Some(&at.leader)).count()
}

/// One record to each partition, at once, by the Metadata of each running node. A node that is just hearing of a change may name
/// the leader of before; within the second that follows it must not.
fn produce_everywhere(cluster: &mut Cluster, produced: &mut [usize; 3]) {
    for id in cluster.running() {
        for partition in 0..3 {
            let deadline = Instant::now() + SETTLE_TIMEOUT;
            let mut refusals = Vec::new();
            loop {
                let leader = cluster.view(id).and_then(|view| Some(view.leaders(TOPIC)?[&partition]));
                let running = leader.filter(|leader| cluster.running().contains(leader));
                if let Some(leader) = running {
                    let answer = cluster.connect(leader).produce(TOPIC, partition, batch(&["x"]));
                    let answer = answer.expect("an answer");
                    if answer.error == ErrorCode::None {
                        produced[usize::try_from(partition).expect("a small number")] += 1;
                        break;
                    }
                    refusals.push((leader, answer.error));
                }
                assert!(
                    Instant::now() < deadline,
                    "the Metadata of {id} leads nowhere: {refusals:?}\n{}",
                    cluster.describe()
                );
                std::thread::sleep(Duration::from_millis(10));
            }
            if refusals.len() > 1 {
                report(&format!("node {id}, partition {partition}: {refusals:?} first"));
            }
        }
    }
}
