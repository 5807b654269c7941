//! Many connections, many topics: all are served, and what they cost is reported and bounded.

use chronik_net::codec::ErrorCode;
use chronik_tests::broker::Broker;
use chronik_tests::records::{batch, read_all};
use chronik_tests::topics::{create, create_code};
use chronik_tests::wire::Connection;
use chronik_tests::{lock, report};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const IDLE: usize = 1000;
const BUSY: usize = 200;
/// Memory that an idle connection may cost, in bytes.
const IDLE_BYTES_MAX: u64 = 64 << 10;
/// Memory of a broker with all of them, in bytes. (Of a debug build; a release build needs less.)
const TOTAL_BYTES_MAX: u64 = 512 << 20;

#[test]
fn a_thousand_idle_connections_and_two_hundred_busy_ones() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start("connections");
    create(&mut broker.connect(), "busy", 8, &[]);
    let empty = broker.process().resident_bytes();
    let mut idle: Vec<Connection> = (0..IDLE).map(|_| broker.connect()).collect();
    for connection in &mut idle {
        connection.metadata_all().expect("each is served once");
    }
    let with_idle = broker.process().resident_bytes();
    let sent = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..BUSY {
            let (mut connection, sent) = (broker.connect(), &sent);
            scope.spawn(move || {
                let partition = i32::try_from(n % 8).expect("a small number");
                while started.elapsed() < Duration::from_secs(4) {
                    let answer =
                        connection.produce("busy", partition, batch(&[[7_u8; 1000]])).expect("an answer");
                    assert_eq!(answer.error, ErrorCode::None);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let sent = sent.into_inner();
    let (after, peak) = (broker.process().resident_bytes(), broker.process().peak_resident_bytes());
    let per_idle = with_idle.saturating_sub(empty) / u64::try_from(IDLE).expect("a small number");
    report(&format!(
        "resident: {} MiB empty, {} MiB with {IDLE} idle connections ({per_idle} bytes each), {} MiB after {sent} batches \
         from {BUSY} busy ones, {} MiB at most",
        empty >> 20,
        with_idle >> 20,
        after >> 20,
        peak >> 20
    ));
    assert!(per_idle < IDLE_BYTES_MAX, "an idle connection costs {per_idle} bytes");
    assert!(peak < TOTAL_BYTES_MAX, "the broker needed {} MiB", peak >> 20);
    let read: usize =
        (0..8).map(|n| read_all(&mut broker.connect(), "busy", n).expect("readable").len()).sum();
    assert_eq!(read, sent, "every acknowledged record, none twice");
    for connection in &mut idle {
        connection.metadata_all().expect("the idle ones are served still");
    }
}

/// 3,000 topics from 100 connections, one request each; then listed, none failed, and kept over a kill.
#[test]
fn three_thousand_topics_from_a_hundred_connections() {
    let _heavy = lock::heavy();
    let mut broker = Broker::start("many-topics");
    let started = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..100 {
            let mut connection = broker.connect();
            scope.spawn(move || {
                for n in 0..30 {
                    let name = format!("many-{worker}-{n}");
                    assert_eq!(create_code(&mut connection, &name, 1, &[]), 0, "topic {name}");
                }
            });
        }
    });
    let made = started.elapsed();
    let count = |broker: &Broker| {
        let topics = broker.connect().metadata_all().expect("metadata").topics;
        topics.iter().filter(|topic| topic.error == ErrorCode::None && topic.partitions.len() == 1).count()
    };
    assert_eq!(count(&broker), 3000, "all are listed");
    let resident = broker.process().resident_bytes();
    broker.kill();
    let restarted = broker.restart();
    assert_eq!(count(&broker), 3000, "all are listed after a kill");
    let mut connection = broker.connect();
    for topic in ["many-0-0", "many-99-29"] {
        connection.ensure_topic(topic);
        let answer = connection.produce(topic, 0, batch(&["works"])).expect("an answer");
        assert_eq!(answer.error, ErrorCode::None, "{topic} can be produced to");
    }
    report(&format!(
        "3,000 topics made in {made:?}, {} MiB resident, restarted in {restarted:?}",
        resident >> 20
    ));
}
