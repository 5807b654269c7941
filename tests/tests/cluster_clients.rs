//! The client suites of one node against three, each knowing only one of the nodes, with three replicas of everything, while the
//! leaders move: the other two nodes are restarted by SIGTERM all the time. And a consumer group that outlives its coordinator.

use chronik_net::codec::ApiKey;
use chronik_tests::cluster::{Cluster, FORM_TIMEOUT, Options};
use chronik_tests::program::{go, java, python, run};
use chronik_tests::toolchain::Toolchain;
use chronik_tests::topics::{create_replicated, text};
use chronik_tests::wire::Connection;
use chronik_tests::workload::{self, Load};
use chronik_tests::{lock, report};
use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use std::process::Command;
use std::time::{Duration, Instant};

const PROGRESS_TIMEOUT: Duration = Duration::from_secs(20);
/// A restarted node stays for so long before the next one goes: three times in a row hardly long enough to join a group, then
/// longer than the clients' sessions (6 s). A coordinator that takes over gives each member a new session, as Kafka's does: a
/// member whose goodbye was lost would otherwise never be missed.
const STAYS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(8)];
/// Within a stay it is looked this often whether the client is done.
const LOOK: Duration = Duration::from_millis(100);

/// Runs scenarios one after another, each through the next node, and restarts the two others meanwhile.
fn scenarios(name: &str, toolchain: Toolchain, commands: Vec<(&'static str, Command)>) {
    if !toolchain.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start(name);
    for (turn, (scenario, mut command)) in (0..).zip(commands) {
        let through = 1 + turn % 3;
        command.arg(scenario).arg(cluster.address(through)).env("CHRONIK_TEST_REPLICAS", "3");
        let client = std::thread::spawn(move || drop(run(scenario, &mut command)));
        let others: Vec<i32> = cluster.ids().into_iter().filter(|id| *id != through).collect();
        let mut restarts = 0;
        while !client.is_finished() {
            let id = others[restarts % 2];
            cluster.stop(id);
            cluster.restart(id);
            cluster.wait_formed(FORM_TIMEOUT);
            let until = Instant::now() + STAYS[restarts % STAYS.len()];
            restarts += 1;
            while !client.is_finished() && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
        }
        client.join().unwrap_or_else(|_| panic!("{scenario} through node {through}"));
        report(&format!("{scenario} through node {through}, {restarts} restarts of others"));
    }
}

#[test]
fn java_clients() {
    let commands = ["roundtrip", "groups", "admin", "tools"].map(|scenario| (scenario, java()));
    scenarios("clients-java", Toolchain::Java, commands.into());
}

#[test]
fn librdkafka_clients() {
    let commands = ["roundtrip", "groups", "admin"].map(|name| (name, python("with_confluent.py")));
    scenarios("clients-librdkafka", Toolchain::Python, commands.into());
}

#[test]
fn kafka_python_clients() {
    let commands =
        ["roundtrip", "groups", "admin", "offsets"].map(|name| (name, python("with_kafka_python.py")));
    scenarios("clients-kafka-python", Toolchain::Python, commands.into());
}

#[test]
fn go_clients() {
    let commands =
        ["roundtrip", "groups", "sarama-roundtrip", "sarama-groups"].map(|scenario| (scenario, go()));
    scenarios("clients-go", Toolchain::Go, commands.into());
}

/// The node that coordinates a group is killed while the group works: no member is lost, so nothing is rebalanced; no commit
/// is lost; the group goes on with another coordinator.
#[test]
fn a_group_outlives_its_coordinator() {
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start("coordinator");
    create_replicated(&mut cluster.connect(1), "grouped", 6, &[]);
    cluster.wait_in_sync("grouped", PROGRESS_TIMEOUT);
    let load = Load::start(&workload::Options::usual(&cluster.bootstrap(), "grouped", 6));
    load.wait_progress("before the group", 500, PROGRESS_TIMEOUT);
    load.wait_group_settled(PROGRESS_TIMEOUT);
    cluster.wait_in_sync("__consumer_offsets", PROGRESS_TIMEOUT);
    let before = load.rebalances();
    for _ in 0..2 {
        let coordinator = coordinator_other_than(&mut cluster, 1, load.group_id(), -1);
        cluster.kill(coordinator);
        load.wait_progress("the coordinator was killed", 500, PROGRESS_TIMEOUT);
        let left = cluster.running()[0];
        let next = coordinator_other_than(&mut cluster, left, load.group_id(), coordinator);
        let read = load.read();
        cluster.wait("the group reads on", PROGRESS_TIMEOUT, |_| load.read() > read + 500);
        report(&format!("coordinator {coordinator} was killed, {next} took over"));
        cluster.restart(coordinator);
        cluster.wait_formed(FORM_TIMEOUT);
        cluster.wait_in_sync("__consumer_offsets", FORM_TIMEOUT);
    }
    // Longer than it takes a member to notice that it was lost.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(load.rebalances(), before, "no member was lost, nothing rebalanced");
    let addresses: Vec<String> = cluster.ids().into_iter().map(|id| cluster.address(id)).collect();
    let finished = load.finish(&addresses);
    assert!(finished.group.iter().all(|member| !member.commits.is_empty()), "{:?}", finished.group);
    finished.assert_clean(1000);
}

fn coordinator_other_than(cluster: &mut Cluster, through: i32, group: &str, lost: i32) -> i32 {
    let address = cluster.address(through);
    let mut found = -1;
    cluster.wait("another coordinator", PROGRESS_TIMEOUT, |_| {
        found = coordinator(&mut Connection::open(&address), group);
        ![lost, -1].contains(&found)
    });
    found
}

/// The node that coordinates a group, −1 for none.
fn coordinator(connection: &mut Connection, group: &str) -> i32 {
    let request = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![text(group)]);
    let answer: FindCoordinatorResponse =
        connection.ask(ApiKey::FindCoordinator, 4, &request).expect("FindCoordinator is answered");
    let coordinator = &answer.coordinators[0];
    if coordinator.error_code == 0 { coordinator.node_id.0 } else { -1 }
}

/// A consumer without heartbeats learns that its coordinator is another one by asking the former for offsets. librdkafka would
/// stand still then for good, were it told of a request-level NOT_COORDINATOR alone (its issue 5586).
#[test]
fn a_consumer_asks_its_former_coordinator() {
    if !Toolchain::Python.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start("former-coordinator");
    create_replicated(&mut cluster.connect(1), "offered", 2, &[]);
    coordinator_other_than(&mut cluster, 1, "makes the topic of offsets", -1);
    // Node 1 leads everything after this; the client moves the leaders back.
    for id in [2, 3] {
        cluster.wait_in_sync("offered", FORM_TIMEOUT);
        cluster.wait_in_sync("__consumer_offsets", FORM_TIMEOUT);
        cluster.stop(id);
        cluster.restart(id);
        cluster.wait_formed(FORM_TIMEOUT);
    }
    cluster.wait_in_sync("__consumer_offsets", FORM_TIMEOUT);
    let mut command = python("with_confluent.py");
    command.arg("former_coordinator").arg(cluster.bootstrap()).arg("offered");
    run("former_coordinator", &mut command);
}

/// A producer is connected to one node only, which leads all that it writes to. When that node is cut off from the others, or hears
/// them no more, it still answers Metadata, with what it knew: the producer must get to know the others all the same.
#[test]
fn a_producer_leaves_a_leader_that_is_cut_off() {
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start_with("cut-off", Options::default().cuts());
    for (topic, is_deaf) in [("cut-off", false), ("deaf", true)] {
        create_replicated(&mut cluster.connect(1), topic, 1, &[]);
        let leader = cluster.wait_led(topic, FORM_TIMEOUT)[&0];
        let mut options = workload::Options::usual(&cluster.address(leader), topic, 1);
        (options.readers, options.members) = (1, 0);
        let load = Load::start(&options);
        load.wait_progress("before the cut", 100, PROGRESS_TIMEOUT);
        let others: Vec<i32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        for id in others.clone() {
            // Which ends the connections that its clients may have had to it.
            cluster.kill(id);
            cluster.restart(id);
            cluster.wait_in_sync(topic, FORM_TIMEOUT);
        }
        match is_deaf {
            true => others.iter().for_each(|from| cluster.cuts().cut_one_way(*from, leader)),
            false => cluster.cuts().isolate(leader, &others),
        }
        let outage = load.wait_progress("the leader is cut off", 200, PROGRESS_TIMEOUT);
        report(&format!("{topic}: producers left a leader that was cut off after {outage:?}"));
        cluster.cuts().heal();
        cluster.wait_formed(FORM_TIMEOUT);
        let addresses: Vec<String> = cluster.ids().into_iter().map(|id| cluster.address(id)).collect();
        load.finish(&addresses).assert_clean(300);
    }
}
