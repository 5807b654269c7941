//! Field report 002: after a restart the Raft metadata of existing topics was never set up again; proposals were made before
//! an election and failed.
//!
//! A restart with topics in place works with nothing done by hand. Three nodes: 50 records to node 1, read back; SIGKILL node 1;
//! 50 more to node 2 with acks=all succeed; all 100 are read; node 1 returns and catches up. Nothing is lost.

use chronik_tests::cluster::{Cluster, FORM_TIMEOUT};
use chronik_tests::program::{java, python, run};
use chronik_tests::records::read_all;
use chronik_tests::toolchain::Toolchain;
use chronik_tests::topics::create_replicated;
use chronik_tests::{lock, report};

#[test]
fn restart_with_topics_and_a_killed_leader() {
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start("report-002");
    killed_leader(&mut cluster);
    restart_with_topics(&mut cluster);
}

/// By kafka-python, as the report has it: each client knows only the node that the report names.
fn killed_leader(cluster: &mut Cluster) {
    if !Toolchain::Python.ready() {
        return;
    }
    let topic = "chaos-002";
    create_replicated(&mut cluster.connect(1), topic, 1, &[]);
    let client = |cluster: &Cluster, node: i32, first: i32, total: i32| {
        let mut client = python("with_kafka_python.py");
        client.arg("field_report_002").arg(cluster.address(node)).arg(topic);
        run("field_report_002", client.arg(first.to_string()).arg(total.to_string()));
    };
    client(cluster, 1, 0, 50);
    cluster.kill(1);
    client(cluster, 2, 50, 100);
    cluster.restart(1);
    cluster.wait_formed(FORM_TIMEOUT);
    cluster.wait_in_sync(topic, FORM_TIMEOUT);
    // What node 1 caught up with is whole: with another node gone it is one of the two that must agree.
    cluster.kill(3);
    client(cluster, 1, 100, 100);
    cluster.restart(3);
    cluster.wait_formed(FORM_TIMEOUT);
}

/// All nodes stopped, all nodes started: every topic is served again by itself, and takes records.
fn restart_with_topics(cluster: &mut Cluster) {
    for n in 0..5 {
        let topic = format!("kept-{n}");
        create_replicated(&mut cluster.connect(n % 3 + 1), &topic, 3, &[]);
        for partition in 0..3 {
            cluster.produce(&topic, partition, &["before"]);
        }
    }
    for clean in [true, false] {
        for id in cluster.ids() {
            match clean {
                true => report(&format!("node {id} stopped in {:?}", cluster.stop(id))),
                false => cluster.kill(id),
            }
        }
        cluster.start_all();
        for n in 0..5 {
            let topic = format!("kept-{n}");
            for partition in 0..3 {
                let (mut connection, _) = cluster.produce(&topic, partition, &["after"]);
                let read = read_all(&mut connection, &topic, partition).expect("readable").len();
                assert_eq!(read, if clean { 2 } else { 3 }, "{topic}-{partition} has all of it");
            }
        }
    }
    if Toolchain::Java.ready() {
        let mut client = java();
        run("report", client.arg("report").arg(cluster.address(2)).arg("3"));
    }
}
