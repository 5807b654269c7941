//! The load and the checks of the cluster suites, held against a cluster of one node and, on demand, against three nodes of
//! Apache Kafka: what they find there would be a mistake of theirs.

use chronik_tests::cluster::{Cluster, Options};
use chronik_tests::reference::ReferenceKafka;
use chronik_tests::topics::{create, create_replicated};
use chronik_tests::wire::Connection;
use chronik_tests::workload::{self, Load};
use chronik_tests::{lock, report};
use std::time::Duration;

const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn a_cluster_of_one_through_kills_is_clean() {
    let _heavy = lock::heavy();
    let mut options = Options::default().shards(&[2]);
    options.settings.clear();
    let mut cluster = Cluster::start_with("workload-one", options);
    create(&mut cluster.connect(1), "load", 3, &[]);
    let load = Load::start(&workload::Options::usual(&cluster.bootstrap(), "load", 3));
    load.wait_group_settled(PROGRESS_TIMEOUT);
    for _ in 0..3 {
        load.wait_progress("before a kill", 300, PROGRESS_TIMEOUT);
        cluster.kill(1);
        cluster.restart(1);
    }
    load.wait_progress("after the last kill", 300, PROGRESS_TIMEOUT);
    let findings = load.finish(&[cluster.address(1)]).assert_clean(1000);
    report(&format!("{findings:?}"));
}

/// By hand, for it takes a minute: `cargo test -p chronik-tests --test cluster_workload -- --ignored`.
#[test]
#[ignore = "Apache Kafka takes a minute, and is not what is to be tested"]
fn apache_kafka_through_kills_is_clean() {
    let _heavy = lock::heavy();
    let mut kafka = ReferenceKafka::start_three(&[]);
    create_replicated(&mut Connection::open(&kafka.address()), "load", 3, &[]);
    let load = Load::start(&workload::Options::usual(&kafka.addresses().join(","), "load", 3));
    for number in [1, 2, 3] {
        load.wait_progress("before a kill", 1000, PROGRESS_TIMEOUT);
        kafka.kill(number);
        load.wait_progress("with one node less", 600, PROGRESS_TIMEOUT);
        kafka.spawn(number);
        kafka.wait_until_ready(number);
        std::thread::sleep(Duration::from_secs(5));
    }
    let findings = load.finish(&kafka.addresses()).assert_clean(3000);
    report(&format!("{findings:?}"));
}
