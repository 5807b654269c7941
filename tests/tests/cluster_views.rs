//! What any node of three says, asked alone: all nodes, and the leaders of now; also with the majority gone. One cluster for
//! all of it, in the order of the functions below.

use chronik_net::codec::ErrorCode;
use chronik_tests::cluster::view::View;
use chronik_tests::cluster::{Cluster, FORM_TIMEOUT, Options};
use chronik_tests::records::{batch, read_all};
use chronik_tests::topics::{create_replicated, create_replicated_code};
use chronik_tests::{lock, report};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TOPIC: &str = "spread";
const PARTITIONS: i32 = 6;
/// Bound of the waits; what is measured is printed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// Looks at something that may change meanwhile.
const LOOKS: usize = 5;
/// Leaders move to the replicas that placement names first, a few at a time.
const BALANCE_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn every_node_names_all_nodes_and_the_leaders_of_now() {
    let _heavy = lock::heavy();
    // Every five minutes by default, as Kafka's.
    let options = Options::default().kafka("leader.imbalance.check.interval.seconds", "3");
    let mut cluster = Cluster::start_with("views", options);
    create_replicated(&mut cluster.connect(2), TOPIC, PARTITIONS, &[]);
    each_alone_names_all(&mut cluster);
    leaders_are_real(&mut cluster);
    a_change_is_known_everywhere(&mut cluster);
    a_node_that_comes_back_knows_what_was_made_without_it(&mut cluster);
    with_the_majority_gone(&mut cluster);
    leaders_are_spread(&mut cluster);
}

/// A client that knows one address finds all three nodes, and hears the same from each.
fn each_alone_names_all(cluster: &mut Cluster) {
    cluster.wait_led(TOPIC, CHANGE_TIMEOUT);
    let expected: BTreeMap<i32, String> =
        cluster.ids().into_iter().map(|id| (id, cluster.address(id))).collect();
    let views: Vec<View> = cluster.ids().iter().map(|id| cluster.view(*id).expect("an answer")).collect();
    for view in &views {
        assert_eq!(view.brokers, expected, "all nodes with their own addresses");
        assert_eq!(view.cluster_id, views[0].cluster_id, "one cluster");
        assert!(view.cluster_id.is_some() && expected.contains_key(&view.controller), "{view:?}");
        let replicas = |view: &View| -> Vec<Vec<i32>> {
            view.topics[TOPIC].values().map(|partition| partition.replicas.clone()).collect()
        };
        assert_eq!(replicas(view), replicas(&views[0]), "the same placement");
        assert!(replicas(view).iter().all(|nodes| nodes.len() == 3), "three replicas by default: {view:?}");
    }
    cluster.wait_in_sync(TOPIC, CHANGE_TIMEOUT);
}

/// With all nodes back each leads its share: two of six.
fn leaders_are_spread(cluster: &mut Cluster) {
    let spread = |leaders: &BTreeMap<i32, i32>| {
        let of = |id: i32| leaders.values().filter(|leader| **leader == id).count();
        (1..=3).all(|id| of(id) == 2)
    };
    let after = cluster.wait("each node leads its share", BALANCE_TIMEOUT, |cluster| {
        cluster.agreed_leaders(TOPIC).is_some_and(|leaders| spread(&leaders))
    });
    report(&format!("leaders are balanced {after:?} after all nodes were back"));
}

/// A node takes records for just what Metadata says that it leads.
fn leaders_are_real(cluster: &mut Cluster) {
    let taken_by_leaders = |cluster: &mut Cluster| -> Result<(), String> {
        let leaders = cluster.wait_led(TOPIC, CHANGE_TIMEOUT);
        for id in cluster.ids() {
            let mut connection = cluster.connect(id);
            for (partition, leader) in &leaders {
                let answer = connection.produce(TOPIC, *partition, batch(&["x"])).expect("an answer").error;
                let expected = if *leader == id { ErrorCode::None } else { ErrorCode::NotLeaderOrFollower };
                if answer != expected {
                    return Err(format!("node {id}, partition {partition} led by {leader}: {answer:?}"));
                }
            }
        }
        Ok(())
    };
    // Leaders may move while they are asked, for the sake of balance.
    let tries: Vec<String> = (0..LOOKS).map_while(|_| taken_by_leaders(cluster).err()).collect();
    assert!(tries.len() < LOOKS, "{tries:?}");
}

/// From the moment when the first node names a new leader until the last one does.
fn a_change_is_known_everywhere(cluster: &mut Cluster) {
    for victim in cluster.ids() {
        let before = cluster.wait_led(TOPIC, CHANGE_TIMEOUT);
        cluster.kill(victim);
        let killed = Instant::now();
        let lost = |leaders: &BTreeMap<i32, i32>| leaders.values().any(|leader| *leader == victim);
        if !lost(&before) {
            report(&format!("node {victim} led nothing"));
        }
        let moved = |id: i32| {
            let leaders = View::of(&cluster.address(id)).ok().and_then(|view| view.leaders(TOPIC));
            leaders.is_some_and(|leaders| !lost(&leaders))
        };
        let mut waiting: Vec<i32> = cluster.running();
        let mut first = None;
        while !waiting.is_empty() {
            waiting.retain(|id| !moved(*id));
            first = first.or((waiting.len() < 2).then(|| killed.elapsed()));
            assert!(killed.elapsed() < CHANGE_TIMEOUT, "{}", cluster.describe());
        }
        let (first, last) = (first.unwrap_or_default(), killed.elapsed());
        report(&format!(
            "node {victim} killed: one other names new leaders after {first:?}, both after {last:?}"
        ));
        cluster.wait_led(TOPIC, CHANGE_TIMEOUT);
        cluster.restart(victim);
        cluster.wait_in_sync(TOPIC, FORM_TIMEOUT);
    }
}

/// A node that was away when topics were made names them soon after its start.
fn a_node_that_comes_back_knows_what_was_made_without_it(cluster: &mut Cluster) {
    cluster.kill(3);
    for n in 0..20 {
        let code = create_replicated_code(&mut cluster.connect(1), &format!("meanwhile-{n}"), 1, 3, &[]);
        assert_eq!(code, 0, "a topic can be made with one node gone");
    }
    cluster.spawn(3);
    let started = Instant::now();
    let known = |view: &View| view.topics.keys().filter(|name| name.starts_with("meanwhile-")).count();
    let first = loop {
        match View::of(&cluster.address(3)) {
            Ok(view) => break view,
            Err(error) => assert!(started.elapsed() < FORM_TIMEOUT, "{error:#}"),
        }
    };
    let (answered, at_first) = (started.elapsed(), known(&first));
    cluster.wait("it knows all new topics", CHANGE_TIMEOUT, |cluster| {
        cluster.view(3).is_some_and(|view| known(&view) == 20)
    });
    let all = started.elapsed();
    report(&format!(
        "first answer {answered:?} after the start, with {at_first} of 20 new topics; all after {all:?}"
    ));
    cluster.wait_formed(FORM_TIMEOUT);
}

/// Two nodes of three lost: no write is acknowledged, Metadata is answered from memory, `/health` says why.
fn with_the_majority_gone(cluster: &mut Cluster) {
    let (left, records) = (2, produce_to_leader(cluster, 0));
    cluster.kill(1);
    cluster.kill(3);
    let lost = Instant::now();
    cluster.wait("health says that most nodes are gone", CHANGE_TIMEOUT, |cluster| {
        let health = cluster.health(left);
        health.is_some_and(|health| !health.ok && !health.reasons().is_empty())
    });
    let reasons = cluster.health(left).expect("an answer").reasons();
    report(&format!("health after {:?}: {reasons:?}", lost.elapsed()));
    let mut longest = Duration::ZERO;
    while lost.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        let view = View::of(&cluster.address(left)).expect("Metadata is answered");
        longest = longest.max(asked.elapsed());
        assert_eq!(view.brokers.len(), 3, "all nodes are named: {view:?}");
        // A node that can name no leader closes the connection behind its answer, so that clients ask another one.
        let mut connection = cluster.connect(left);
        let answer = connection.produce_within(TOPIC, 0, batch(&["refused"]), 500).expect("an answer");
        assert_ne!(answer.error, ErrorCode::None, "nothing is acknowledged by one of three");
        assert!(answer.error.retriable(), "{:?} makes a client try again", answer.error);
    }
    report(&format!("Metadata took {longest:?} at most"));
    cluster.spawn(1);
    cluster.spawn(3);
    cluster.wait_formed(FORM_TIMEOUT);
    assert!(produce_to_leader(cluster, 0) > records, "records are taken again");
}

/// Produces one record and gives the number of records that are there then.
fn produce_to_leader(cluster: &mut Cluster, partition: i32) -> usize {
    let deadline = Instant::now() + FORM_TIMEOUT;
    loop {
        let (mut connection, _) = cluster.produce(TOPIC, partition, &["kept"]);
        match read_all(&mut connection, TOPIC, partition) {
            Ok(records) => return records.len(),
            // The leader has moved.
            Err(error) => assert!(Instant::now() < deadline, "{error:#}: {}", cluster.describe()),
        }
    }
}
