//! Field report 004: in cluster mode kafka-python saw 0 brokers, Metadata requests never reached their handler, AdminClient's
//! CreateTopics (v0 to v7) failed, and the benchmark's creation of topics timed out after 60 s.
//!
//! kafka-python and the Java AdminClient see all brokers and create topics against any node; CreateTopics v0 to v7; 10 topics,
//! 3,000 from 100 threads, throttled to 10 threads, and one batched request: all succeed, all are listed. With debug logging each
//! accepted connection and the API key, version and client id of each request are shown; without it none.

use chronik_net::codec::ApiKey;
use chronik_tests::cluster::{Cluster, Options};
use chronik_tests::program::{java, python, run};
use chronik_tests::toolchain::Toolchain;
use chronik_tests::wire::Connection;
use chronik_tests::{lock, report};
use std::time::{Duration, Instant};

const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn standard_clients_see_all_brokers_and_create_topics() {
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start("report-004");
    create_topics_of_all_versions(&cluster);
    for id in cluster.ids() {
        if Toolchain::Java.ready() {
            run("report", java().arg("report").arg(cluster.address(id)).arg("3"));
        }
    }
    for id in cluster.ids() {
        if Toolchain::Python.ready() {
            let mut client = python("with_kafka_python.py");
            client.env("CHRONIK_TEST_REPLICAS", "3").env("CHRONIK_STRESS", if id == 1 { "1" } else { "0" });
            run("field_report_004", client.arg("field_report_004").arg(cluster.address(id)).arg("3"));
        }
    }
    stress_on_one_connection_a_thread(&mut cluster);
    for id in cluster.ids() {
        let log = cluster.log(id);
        assert!(!log.contains("DEBUG"), "debug logging is off by default");
        assert!(!log.contains("client_id"), "no request is logged by default");
    }
}

/// The 3,000 topics from 100 threads, over the three nodes, by the small client: what Python costs is not in the figure.
fn stress_on_one_connection_a_thread(cluster: &mut Cluster) {
    let topics: usize =
        std::env::var("CHRONIK_STRESS_TOPICS").map_or(3000, |text| text.parse().expect("a number"));
    for (threads, topics) in [(100, topics), (10, topics / 10)] {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let id = 1 + i32::try_from(thread % 3).expect("a small number");
                let mut connection = cluster.connect(id);
                scope.spawn(move || {
                    for n in (thread..topics).step_by(threads) {
                        let name = format!("stress-{threads}-{n}");
                        let code =
                            chronik_tests::topics::create_replicated_code(&mut connection, &name, 1, 3, &[]);
                        assert_eq!(code, 0, "topic {name} by node {id}");
                    }
                });
            }
        });
        report(&format!("{topics} topics from {threads} threads in {:?}", started.elapsed()));
        let prefix = format!("stress-{threads}-");
        cluster.wait("all are listed and led, by each node", SETTLE_TIMEOUT, |cluster| {
            cluster.ids().into_iter().all(|id| {
                let view = cluster.view(id);
                let led = |view: &chronik_tests::cluster::view::View| {
                    let names = view.topics.keys().filter(|name| name.starts_with(&prefix));
                    names.filter(|name| view.leaders(name).is_some()).count()
                };
                view.is_some_and(|view| led(&view) == topics)
            })
        });
    }
}

/// CreateTopics as its first versions are on the wire, by hand: the codec of the tests begins with version 2.
fn create_topics_of_all_versions(cluster: &Cluster) {
    for version in 0..=7_i16 {
        for id in cluster.ids() {
            let name = format!("version-{version}-by-{id}");
            let code = match version {
                0 | 1 => create_topics_old(&mut cluster.connect(id), version, &name),
                _ => create_topics_new(&mut cluster.connect(id), version, &name),
            };
            assert_eq!(code, 0, "CreateTopics v{version} by node {id}");
        }
    }
}

fn create_topics_new(connection: &mut Connection, version: i16, name: &str) -> i16 {
    use kafka_protocol::messages::create_topics_request::CreatableTopic;
    use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
    let topic = CreatableTopic::default()
        .with_name(TopicName(chronik_tests::topics::text(name)))
        .with_num_partitions(2)
        .with_replication_factor(3);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000);
    let answer: CreateTopicsResponse =
        connection.ask(ApiKey::CreateTopics, version, &request).expect("an answer");
    answer.topics[0].error_code
}

/// Header v1, then: topics [name, partitions, replicas, assignments [], configs []], timeout, from v1 on validate-only. The
/// answer: correlation id, topics [name, code, from v1 on a message].
fn create_topics_old(connection: &mut Connection, version: i16, name: &str) -> i16 {
    let text = |text: &str| {
        let length = i16::try_from(text.len()).expect("a short name");
        [&length.to_be_bytes()[..], text.as_bytes()].concat()
    };
    let mut body = [&19_i16.to_be_bytes()[..], &version.to_be_bytes(), &7_i32.to_be_bytes()].concat();
    body.extend(text("old-client"));
    body.extend(1_i32.to_be_bytes());
    body.extend(text(name));
    body.extend(2_i32.to_be_bytes());
    body.extend(3_i16.to_be_bytes());
    body.extend([0; 8]);
    body.extend(60_000_i32.to_be_bytes());
    body.extend((version == 1).then_some(0_u8));
    connection.send_frame(&body).expect("a request can be sent");
    let answer = connection.receive().expect("an answer");
    let expected = [&7_i32.to_be_bytes()[..], &1_i32.to_be_bytes(), &text(name)].concat();
    assert_eq!(&answer[..expected.len()], &expected[..], "the answer names the topic");
    i16::from_be_bytes([answer[expected.len()], answer[expected.len() + 1]])
}

/// Debug logging shows each connection and request.
#[test]
fn debug_logging_shows_connections_and_requests() {
    let mut options = Options::default();
    options.settings.push("log = \"info,chronik_core::handlers=debug\"".into());
    let cluster = Cluster::start_with("report-004-debug", options);
    cluster.connect(2).metadata_all().expect("an answer");
    let log = cluster.log(2);
    for text in ["connection accepted", "chronik-tests", "Metadata"] {
        assert!(log.contains(text), "debug logging shows {text}:\n{log}");
    }
}
