//! kill -9 in the midst of producers with acks=all, twenty times over: after each restart every acknowledged record is read
//! back, in order, none twice.

use chronik_net::codec::ErrorCode;
use chronik_tests::broker::Broker;
use chronik_tests::process::Process;
use chronik_tests::program::{java, python};
use chronik_tests::records::{ReadRecord, batch, read_all};
use chronik_tests::toolchain::Toolchain;
use chronik_tests::wire::Connection;
use chronik_tests::{lock, report};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const KILLS: u64 = 20;
/// Offset and value of each acknowledged record.
type Acknowledged = Vec<(i64, u64)>;

/// Requests that our own producer has in flight.
const PIPELINE: usize = 8;

/// Values produced by a plain client: not idempotent, many requests in flight, none repeated. A record whose answer never
/// came may or may not be there; one that was acknowledged must be at its offset, and order must hold.
#[test]
fn acknowledged_records_survive_twenty_kills() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start("chaos-wire");
    let topics = ["chaos-a", "chaos-b", "chaos-c"];
    for topic in topics {
        broker.connect().ensure_topic(topic);
    }
    let acknowledged: Vec<Arc<Mutex<Acknowledged>>> = topics.iter().map(|_| Arc::default()).collect();
    let mut restart_longest = Duration::ZERO;
    for kill in 0..KILLS {
        let producers: Vec<JoinHandle<()>> = topics
            .iter()
            .zip(&acknowledged)
            .map(|(topic, log)| {
                let (connection, topic, log) = (broker.connect(), (*topic).to_string(), Arc::clone(log));
                std::thread::spawn(move || produce_until_cut(connection, &topic, kill << 32, &log))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(60 + 23 * kill));
        broker.kill();
        for producer in producers {
            producer.join().expect("a producer ends with its connection");
        }
        restart_longest = restart_longest.max(broker.restart());
        for (topic, log) in topics.iter().zip(&acknowledged) {
            let read = read_all(&mut broker.connect(), topic, 0).expect("the partition can be read");
            check_acknowledged(topic, &read, &log.lock().expect("no poison"));
        }
    }
    let total: usize = acknowledged.iter().map(|log| log.lock().expect("no poison").len()).sum();
    assert!(total > 1000, "only {total} records were acknowledged: this tested nothing");
    report(&format!("{total} acknowledged records over {KILLS} kills; longest start {restart_longest:?}"));
}

/// Sends values `first`, `first + 1`, … with [`PIPELINE`] requests in flight until the connection breaks.
fn produce_until_cut(
    mut connection: Connection,
    topic: &str,
    first: u64,
    acknowledged: &Mutex<Acknowledged>,
) {
    let mut in_flight = VecDeque::new();
    for value in first.. {
        let Ok(header) = connection.produce_send(topic, 0, batch(&[value.to_be_bytes()])) else { return };
        in_flight.push_back((header, value));
        if in_flight.len() < PIPELINE {
            continue;
        }
        let (header, value) = in_flight.pop_front().expect("the pipeline is full");
        let Ok(answer) = connection.produce_answer(&header) else { return };
        assert_eq!(answer.error, ErrorCode::None, "a healthy broker takes every batch");
        acknowledged.lock().expect("no poison").push((answer.base_offset, value));
    }
}

fn check_acknowledged(topic: &str, read: &[ReadRecord], acknowledged: &[(i64, u64)]) {
    let values: Vec<u64> = read
        .iter()
        .map(|record| u64::from_be_bytes(record.value.as_slice().try_into().expect("eight bytes")))
        .collect();
    assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{topic}: in order, none twice");
    for (offset, value) in acknowledged {
        let at = usize::try_from(*offset).expect("offsets are not negative");
        assert_eq!(values.get(at), Some(value), "{topic}: acknowledged record at offset {offset}");
    }
}

#[test]
fn java_idempotent_producer_through_twenty_kills() {
    if Toolchain::Java.ready() {
        let mut command = java();
        command.arg("chaos");
        idempotent_producer_through_kills("chaos-java", command);
    }
}

#[test]
fn librdkafka_idempotent_producer_through_twenty_kills() {
    if Toolchain::Python.ready() {
        let mut command = python("with_confluent.py");
        command.arg("chaos");
        idempotent_producer_through_kills("chaos-librdkafka", command);
    }
}

/// One idempotent producer lives through all kills and repeats what it has no answer for. It prints `acked VALUE OFFSET` for each
/// acknowledged record and `sent COUNT` at its end; then exactly 0, 1, 2… must be in the partition.
fn idempotent_producer_through_kills(name: &str, mut command: Command) {
    let _heavy = lock::heavy();
    let mut broker = Broker::start(name);
    let topic = "chaos";
    broker.connect().ensure_topic(topic);
    command.arg(broker.address()).arg(topic).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut producer = Process::spawn(name, &mut command).expect("the producer starts");
    let output = producer.child().stdout.take().expect("standard output is a pipe");
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let reader = {
        let lines = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                lines.lock().expect("no poison").push(line.expect("the producer prints text"));
            }
        })
    };
    for kill in 0..KILLS {
        wait_for_progress(&lines);
        std::thread::sleep(Duration::from_millis(50 + 13 * kill));
        broker.kill();
        let acknowledged = lines.lock().expect("no poison").clone();
        broker.restart();
        let read = read_all(&mut broker.connect(), topic, 0).expect("the partition can be read");
        check_printed(&read, &acknowledged);
    }
    wait_for_progress(&lines);
    let input = producer.child().stdin.as_mut().expect("standard input is a pipe");
    input.write_all(b"stop\n").expect("the producer can be told to stop");
    let status = producer.wait(Duration::from_secs(60)).expect("the producer stops when told to");
    reader.join().expect("the reader ends");
    let lines = lines.lock().expect("no poison");
    assert!(status.success(), "{name} left with {status}: {:?}", lines.last());
    let sent =
        lines.iter().find_map(|line| line.strip_prefix("sent ")).expect("the producer says how many it sent");
    let sent: usize = sent.parse().expect("a number");
    let read = read_all(&mut broker.connect(), topic, 0).expect("the partition can be read");
    let values: Vec<String> =
        read.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect();
    let expected: Vec<String> = (0..sent).map(|n| n.to_string()).collect();
    assert!(
        values == expected,
        "{name}: {sent} sent, {} read: not each exactly once, in order",
        values.len()
    );
    report(&format!("{name}: {sent} records, each exactly once, over {KILLS} kills"));
}

/// Waits until the producer has had more records acknowledged.
fn wait_for_progress(lines: &Mutex<Vec<String>>) {
    let count = || lines.lock().expect("no poison").len();
    let (before, deadline) = (count(), Instant::now() + Duration::from_secs(60));
    while count() < before + 50 {
        assert!(
            Instant::now() < deadline,
            "the producer makes no progress: {:?}",
            lines.lock().expect("no poison").last()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn check_printed(read: &[ReadRecord], lines: &[String]) {
    for line in lines.iter().filter_map(|line| line.strip_prefix("acked ")) {
        let (value, offset) = line.split_once(' ').expect("a value and an offset");
        let offset: usize = offset.parse().expect("a number");
        let found = read.get(offset).map(|record| String::from_utf8_lossy(&record.value).into_owned());
        assert_eq!(found.as_deref(), Some(value), "acknowledged record at offset {offset}");
    }
}
