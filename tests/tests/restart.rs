//! Stopping and starting again: signals, ports, directories, shards.

use chronik_tests::broker::{Broker, Options};
use chronik_tests::records::{batch, read_all, read_from};
use chronik_tests::wire::Connection;
use chronik_tests::{lock, report};
use std::time::{Duration, Instant};

/// A broker that is still there after this hangs; how long it takes is printed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn produce(broker: &Broker, topic: &str, values: std::ops::Range<usize>) {
    let mut connection = broker.connect();
    connection.ensure_topic(topic);
    for n in values {
        let answer = connection.produce(topic, 0, batch(&[format!("{topic} {n}")])).expect("an answer");
        assert_eq!(answer.error, chronik_net::codec::ErrorCode::None);
        assert_eq!(answer.base_offset, i64::try_from(n).expect("a small number"));
    }
}

fn check(broker: &Broker, topic: &str, count: usize) {
    let read = read_all(&mut broker.connect(), topic, 0).expect("the partition can be read");
    let values: Vec<String> = read.iter().map(|r| String::from_utf8_lossy(&r.value).into_owned()).collect();
    let expected: Vec<String> = (0..count).map(|n| format!("{topic} {n}")).collect();
    assert_eq!(values, expected, "all records of {topic}, in order, none twice");
}

/// The very first answer of a fresh node names it, and itself as the controller: librdkafka's admin client, told of no broker at all,
/// asks again only when its request has timed out, a minute later.
#[test]
fn the_first_answer_of_a_fresh_node_names_it() {
    for _ in 0..5 {
        let mut broker = Broker::prepare("first-answer", Options::default());
        broker.spawn();
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut connection = loop {
            match Connection::try_open(&broker.address()) {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < deadline, "no connection: {error}"),
            }
        };
        let answer = connection.metadata_all().expect("an answer");
        let named: Vec<i32> = answer.brokers.iter().map(|broker| broker.node_id).collect();
        assert_eq!((named, answer.controller_id), (vec![1], 1));
    }
}

/// SIGTERM and SIGINT leave soon, with success, and with nothing lost.
#[test]
fn signals_leave_quickly_and_lose_nothing() {
    let _heavy = lock::heavy();
    for (signal, name) in [(libc::SIGTERM, "sigterm"), (libc::SIGINT, "sigint")] {
        let mut broker = Broker::start(name);
        produce(&broker, "kept", 0..100);
        let mut waiting = broker.connect();
        let (elapsed, status) = {
            // One client is in the middle of a long poll, another one idles.
            let _idle = broker.connect();
            std::thread::scope(|scope| {
                let poll = scope.spawn(move || waiting.fetch("kept", 0, 100, 30_000));
                std::thread::sleep(Duration::from_millis(200));
                let left = broker.stop(signal, STOP_TIMEOUT);
                // The poll ends, whether with an answer or with the connection.
                let _ = poll.join().expect("the client does not panic");
                left
            })
        };
        report(&format!("{name} took {elapsed:?}"));
        assert!(status.success(), "{name} left with {status}");
        broker.restart();
        check(&broker, "kept", 100);
        produce(&broker, "kept", 100..110);
        check(&broker, "kept", 110);
    }
}

/// Field report 002 on one node: a restart with topics in place works with nothing done by hand.
#[test]
fn topics_survive_many_restarts() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start("restarts");
    for round in 0..5 {
        for topic in TOPICS {
            produce(&broker, topic, round * 20..(round + 1) * 20);
        }
        if round % 2 == 0 {
            broker.kill()
        } else {
            broker.stop_cleanly()
        }
        broker.restart();
        for topic in TOPICS {
            check(&broker, topic, (round + 1) * 20);
        }
    }
    let names = broker.connect().metadata_all().expect("metadata").topics;
    assert!(names.iter().filter(|topic| !topic.is_internal).count() == TOPICS.len(), "just these topics");
}

/// Rule 20: another number of shards keeps every record, with clean stops and with kills between.
#[test]
fn another_number_of_shards_keeps_every_record() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start_with("shards", Options::default().shards(1));
    let mut written = 0;
    for (step, shards) in [4, 2, 1, 3].into_iter().enumerate() {
        for topic in TOPICS {
            produce(&broker, topic, written..written + 30);
        }
        written += 30;
        if step % 2 == 0 {
            broker.kill()
        } else {
            broker.stop_cleanly()
        }
        broker.restart_with_shards(shards);
        for topic in TOPICS {
            check(&broker, topic, written);
        }
    }
}

/// A kill in the middle of moving to another number of shards leaves a directory that starts.
#[test]
fn a_kill_while_the_shards_change_is_harmless() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start_with("reshard-kill", Options::default().shards(1));
    for topic in TOPICS {
        produce(&broker, topic, 0..50);
    }
    broker.kill();
    let shards = [4, 2, 1, 4, 2, 1];
    for (step, count) in shards.into_iter().enumerate() {
        let mut options = Options::default().shards(count).data_dir(&broker.data_dir());
        options.kafka.push(("num.partitions".into(), "1".into()));
        let mut interrupted = Broker::prepare("reshard-interrupted", options);
        interrupted.spawn();
        std::thread::sleep(Duration::from_millis(15 * u64::try_from(step).expect("a small number")));
        interrupted.kill();
    }
    broker.restart();
    for topic in TOPICS {
        check(&broker, topic, 50);
    }
}

/// glommio sets SO_REUSEPORT: two servers on one port would share it in silence.
#[test]
fn a_busy_port_is_refused() {
    let first = Broker::start("port-first");
    let busy = first.address();
    let mut second = Broker::prepare("port-second", Options::default().argument("--kafka").argument(&busy));
    // The last --kafka counts, or clap refuses two of them: either way there is one line and no second server.
    second.spawn();
    let (status, log) = second.wait_for_refusal(Duration::from_secs(10));
    assert!(!status.success(), "a refusal is a failure:\n{log}");
    check_alive(&first);
}

#[test]
fn a_directory_in_use_is_refused() {
    let first = Broker::start("lock-first");
    let mut second = Broker::prepare("lock-second", Options::default().data_dir(&first.data_dir()));
    second.spawn();
    let (status, log) = second.wait_for_refusal(Duration::from_secs(10));
    assert!(!status.success(), "a refusal is a failure:\n{log}");
    assert!(log.contains("data directory") || log.contains("in use"), "the reason is named:\n{log}");
    check_alive(&first);
}

fn check_alive(broker: &Broker) {
    produce(broker, "alive", 0..1);
    let read = read_from(&mut broker.connect(), "alive", 0, 0).expect("the first broker goes on");
    assert_eq!(read.len(), 1);
}
