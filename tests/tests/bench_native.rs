//! chronik-bench's own client (`--client native`) against a real broker, and against librdkafka: each reads what the other
//! wrote, every acknowledgement level keeps its word, a broker may be killed under load. One test at a time: each loads a broker.

use chronik_net::codec::ErrorCode;
use chronik_tests::bench_run::{bench, broker_with, end, start};
use chronik_tests::broker::Broker;
use chronik_tests::cluster::Cluster;
use chronik_tests::lock;
use chronik_tests::process::eventually;
use chronik_tests::records::read_all;
use chronik_tests::reference::ReferenceKafka;
use chronik_tests::toolchain::Toolchain;
use chronik_tests::topics::{create, create_replicated};
use chronik_tests::wire::Connection;
use std::time::Duration;

/// Any run here is over by then, on a machine busy with other tests.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);
/// What acks=0 promises nothing about arrives soon nevertheless.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(20);

fn record_count(broker: &Broker, topic: &str, partitions: i32) -> usize {
    let mut connection = broker.connect();
    (0..partitions).map(|at| read_all(&mut connection, topic, at).expect("readable").len()).sum()
}

fn next_offset(broker: &Broker, topic: &str) -> i64 {
    let answer = broker.connect().fetch(topic, 0, 0, 0).expect("an answer");
    assert_eq!(answer.error, ErrorCode::None);
    answer.high_watermark
}

#[test]
fn every_acknowledgement_level_keeps_its_word() {
    let _heavy = lock::heavy();
    let broker = broker_with("bench-native-acks", 3, &["acks1", "acksall", "acks-1", "acks0"]);
    for acks in ["1", "all", "-1"] {
        let line = format!(
            "--client native -t acks{acks} -p 3 -c 50 --clients 2 -s 100 -n 5000 -d 60s -w 0s --validate --acks {acks}"
        );
        let run = bench(&broker, &line).succeeded();
        assert_eq!((run.number("messages"), run.found("checked"), run.found("lost")), (5000, 5000, 0));
        assert_eq!(run.report["settings"]["client"], "native");
        assert_eq!(run.report["latency"]["count"], 5000);
    }
    let line = "--client native -t acks0 -p 3 -c 50 -s 100 -n 5000 -d 60s -w 0s --acks 0";
    assert_eq!(bench(&broker, line).succeeded().number("messages"), 5000);
    eventually("what acks=0 sent has arrived", ARRIVAL_TIMEOUT, || record_count(&broker, "acks0", 3) == 5000);
}

#[test]
fn each_client_reads_what_the_other_wrote() {
    let _heavy = lock::heavy();
    let broker = Broker::start("bench-native-cross");
    for (writer, reader) in [("native", "librdkafka"), ("librdkafka", "native"), ("native", "native")] {
        for keys in ["", "--key-pattern random"] {
            let topic = format!("{writer}-{reader}-{}", keys.len());
            create(&mut broker.connect(), &topic, 5, &[]);
            let line = format!(
                "--client {writer} -t {topic} -p 5 -c 64 -s 300 -n 10000 -d 60s -w 0s {keys} --payload-pattern text"
            );
            assert_eq!(bench(&broker, &line).succeeded().number("messages"), 10_000);
            let line =
                format!("--client {reader} -t {topic} -m consume -c 3 --clients 2 -d 60s -w 0s --validate");
            let run = bench(&broker, &line).succeeded();
            assert_eq!((run.number("messages"), run.found("checked")), (10_000, 10_000), "{topic}");
            for wrong in ["damaged", "out_of_order", "duplicated", "lost"] {
                assert_eq!(run.found(wrong), 0, "{wrong} in {topic}");
            }
            assert_eq!(run.report["latency"]["count"], 10_000);
        }
    }
}

#[test]
fn keyless_messages_reach_every_partition_and_one_key_only_its_own() {
    let _heavy = lock::heavy();
    let broker = broker_with("bench-native-partitions", 4, &["keyless", "fixed"]);
    bench(&broker, "--client native -t keyless -p 4 -c 32 -s 50 -n 4000 -d 60s -w 0s").succeeded();
    bench(&broker, "--client native -t fixed -p 4 -c 32 -s 50 -n 4000 -d 60s -w 0s --key-pattern fixed")
        .succeeded();
    let mut connection = broker.connect();
    let mut counts = |topic: &str| -> Vec<usize> {
        (0..4).map(|at| read_all(&mut connection, topic, at).expect("readable").len()).collect()
    };
    let keyless = counts("keyless");
    assert!(keyless.iter().all(|count| *count > 0) && keyless.iter().sum::<usize>() == 4000, "{keyless:?}");
    let mut fixed = counts("fixed");
    fixed.sort_unstable();
    assert_eq!(fixed, [0, 0, 0, 4000]);
}

#[test]
fn batches_keep_to_their_size_and_wait_for_their_linger() {
    let _heavy = lock::heavy();
    let broker = broker_with("bench-native-batches", 1, &["sized"]);
    let line =
        "--client native -t sized -p 1 -c 64 -s 100 -n 2000 -d 60s -w 0s --batch-size 2000 --linger-ms 100";
    bench(&broker, line).succeeded();
    let mut connection = broker.connect();
    let (mut offset, mut sizes) = (0, Vec::new());
    while offset < 2000 {
        let answer = connection.fetch("sized", 0, offset, 0).expect("an answer");
        for batch in chronik_wal::batch::batches(&answer.records.concat()) {
            let (info, _) = batch.expect("a sound batch");
            offset = info.next_offset().0;
            sizes.push(info.size_bytes);
        }
    }
    let full = sizes.iter().filter(|size| **size > 1500).count();
    assert!(sizes.iter().all(|size| *size <= 2000), "{sizes:?}");
    assert!(full > sizes.len() / 2, "64 tasks fill batches while these wait: {sizes:?}");
}

#[test]
fn a_rate_sends_each_message_of_its_schedule() {
    let _heavy = lock::heavy();
    let broker = broker_with("bench-native-rate", 2, &["rated"]);
    let line =
        "--client native -t rated -p 2 -c 500 --clients 2 -s 60 -d 2s -w 0s --rate-limit 2000 --validate";
    let run = bench(&broker, line).succeeded();
    assert_eq!(run.number("messages") + run.number("stragglers"), 4000);
    assert_eq!((run.found("checked"), run.report["latency"]["count"].as_u64()), (4000, Some(4000)));
}

#[test]
fn a_broker_killed_under_load_loses_nothing_that_was_acknowledged() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start("bench-native-kill");
    create(&mut broker.connect(), "killed", 1, &[]);
    let directory = tempfile::tempdir().expect("a directory");
    let line = "--client native -t killed -c 64 -s 200 -n 150000 -d 600s -w 0s --validate";
    let mut child = start(&broker.address(), line, &directory);
    eventually("records arrive", RUN_TIMEOUT, || next_offset(&broker, "killed") > 5_000);
    broker.kill();
    assert!(child.try_wait().expect("its state").is_none(), "the kill must come under load");
    broker.restart();
    let run = end(child, &directory);
    assert!(run.error_text().contains("native: "), "it says that it lost the broker: {}", run.error_text());
    let run = run.succeeded();
    assert_eq!((run.number("messages"), run.found("checked")), (150_000, 150_000));
    // An exit code of 0 says so too; this names what was wrong.
    for wrong in ["lost", "damaged", "out_of_order", "duplicated"] {
        assert_eq!(run.found(wrong), 0, "{wrong} in {}", run.report);
    }
}

/// Partitions lead on three nodes; one of them is killed and comes back.
#[test]
fn leaders_may_move_under_load() {
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start("bench-native-cluster");
    create_replicated(&mut cluster.connect(1), "moved", 6, &[]);
    let killed = cluster.leader("moved", 0);
    let directory = tempfile::tempdir().expect("a directory");
    let line = "--client native -t moved -c 96 --clients 2 -s 200 -n 200000 -d 600s -w 0s --validate";
    let mut child = start(&cluster.bootstrap(), line, &directory);
    cluster.wait("records arrive", RUN_TIMEOUT, |cluster| {
        let ids = cluster.ids();
        ids.into_iter().map(|id| stored(&mut cluster.connect(id), "moved", 6)).sum::<i64>() > 3_000
    });
    cluster.kill(killed);
    assert!(child.try_wait().expect("its state").is_none(), "the kill must come under load");
    cluster.wait_led("moved", RUN_TIMEOUT);
    cluster.restart(killed);
    let run = end(child, &directory).succeeded();
    assert!(run.error_text().contains("native: "), "it says that it lost a broker: {}", run.error_text());
    assert_eq!((run.number("messages"), run.found("checked"), run.found("lost")), (200_000, 200_000, 0));

    let directory = tempfile::tempdir().expect("a directory");
    let line = "--client native -t moved -m consume -c 2 --clients 2 -d 60s -w 0s --validate";
    let run = end(start(&cluster.bootstrap(), line, &directory), &directory).succeeded();
    assert_eq!((run.number("messages"), run.found("checked")), (200_000, 200_000));
}

/// Apache Kafka, which the codecs were written after and which never saw them: all acknowledgement levels, an idempotent
/// producer, reading back, sending and reading at once, Metadata, topics made and deleted.
#[test]
fn apache_kafka_is_served_as_well() {
    if !Toolchain::Java.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let kafka = ReferenceKafka::start(&[]);
    let run = |line: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        end(start(&kafka.address(), &format!("--client native {line}"), &directory), &directory).succeeded()
    };
    for acks in ["all", "1"] {
        let line =
            format!("-t kafka-{acks} -p 4 -c 40 -s 150 -n 8000 -d 100s -w 0s --validate --acks {acks}");
        assert_eq!(run(&line).found("checked"), 8000);
    }
    assert_eq!(
        run("-t kafka-all -c 40 -s 150 -n 2000 -d 100s -w 0s --acks 0 --key-pattern random")
            .number("messages"),
        2000
    );
    let read = run("-t kafka-1 -m consume -c 4 --clients 2 -d 100s -w 0s --validate");
    assert_eq!((read.number("messages"), read.found("checked")), (8000, 8000));
    assert_eq!(run("-t kafka-1 -m metadata -c 5 -d 100s -w 0s -n 300").number("messages"), 300);
    let round = run("-t kafka-all -m round-trip -c 16 -s 150 -n 500 -d 100s -w 0s --validate");
    assert_eq!((round.number("messages"), round.found("checked")), (500, 500));
    let followed = run("-t kafka-all -m end-to-end -c 64 -s 150 -d 2s -w 0s --rate-limit 300 --validate");
    assert_eq!(followed.found("checked"), 600);
    let behind = run("-t kafka-all -m backlog -c 64 -s 150 -n 5000 -d 100s --consumers 2 --validate");
    assert_eq!((behind.number("messages"), behind.found("lost")), (5000, 0));
    let topics = run("-m topics -t many -n 20 -c 4 -p 2");
    assert_eq!((topics.number("messages"), topics.report["beside"][0]["messages"].as_u64()), (20, Some(20)));
}

/// Records that the partitions led by this node hold.
fn stored(connection: &mut Connection, topic: &str, partitions: i32) -> i64 {
    let high_watermark = |at| connection.fetch(topic, at, 0, 0).expect("an answer").high_watermark.max(0);
    (0..partitions).map(high_watermark).sum()
}

#[test]
fn what_is_not_acknowledged_in_time_fails_and_says_why() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start("bench-native-timeout");
    create(&mut broker.connect(), "late", 1, &[]);
    let directory = tempfile::tempdir().expect("a directory");
    let line = "--client native -t late -c 8 -s 50 -d 10s -w 0s --message-timeout-ms 700";
    let child = start(&broker.address(), line, &directory);
    eventually("records arrive", RUN_TIMEOUT, || next_offset(&broker, "late") > 100);
    broker.kill();
    let run = end(child, &directory);
    assert_eq!(run.output.status.code(), Some(2), "{:?}", run.output);
    assert!(run.number("failures") >= 8 && run.number("messages") > 0, "{}", run.report);
    let errors = run.report["errors"].to_string();
    assert!(errors.contains("not acknowledged within 700 ms"), "{errors}");
}

#[test]
fn a_refusal_has_the_brokers_words() {
    let _heavy = lock::heavy();
    let broker = Broker::start("bench-native-refusal");
    create(&mut broker.connect(), "small", 1, &[("max.message.bytes", "1000")]);
    let run = bench(&broker, "--client native -t small -c 4 -s 2000 -n 20 -d 60s -w 0s");
    assert_eq!(run.output.status.code(), Some(2), "{:?}", run.output);
    assert_eq!((run.number("failures"), run.number("messages")), (20, 0));
    let errors = run.report["errors"].to_string();
    assert!(errors.contains("MESSAGE_TOO_LARGE"), "{errors}");
}

#[test]
fn a_compressed_topic_is_refused_in_one_line() {
    let _heavy = lock::heavy();
    let broker = broker_with("bench-native-compressed", 1, &["packed"]);
    bench(&broker, "-t packed -c 16 -s 200 -n 100 -d 60s -w 0s --compression lz4 --payload-pattern zeros")
        .succeeded();
    let run = bench(&broker, "--client native -t packed -m consume -d 60s -w 0s");
    assert_eq!(run.output.status.code(), Some(1), "{:?}", run.output);
    let text = run.error_text();
    let line = text.trim();
    assert!(
        line.contains("packed-0 holds compressed batches") && line.contains("--client librdkafka"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn metadata_is_asked_again_and_again() {
    let _heavy = lock::heavy();
    let broker = broker_with("bench-native-metadata", 3, &["listed"]);
    for client in ["native --clients 2", "librdkafka"] {
        let line = format!("--client {client} -m metadata -t listed -p 3 -c 9 -n 600 -d 60s -w 0s");
        let run = bench(&broker, &line).succeeded();
        assert_eq!(run.number("messages"), 600, "{client}");
        assert_eq!(run.report["latency"]["count"], 600, "{client}");
        let line = format!("--client {client} -m metadata -t listed -c 30 -d 1s -w 0s --rate-limit 300");
        let run = bench(&broker, &line).succeeded();
        assert_eq!(run.number("messages") + run.number("stragglers"), 300, "{client}");
    }
}
