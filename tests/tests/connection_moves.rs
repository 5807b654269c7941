//! A connection goes to the shard that its requests are for, and neither producer nor consumer notices.

use chronik_net::codec::{
    ApiKey, ErrorCode, FetchPartition, FetchRequest, FetchResponse, FetchTopic, FrameReader, StrBytes,
    TopicRef,
};
use chronik_tests::broker::{Broker, Options};
use chronik_tests::cluster::view::http_get;
use chronik_tests::process::{eventually, soon};
use chronik_tests::records::{batch, idempotent_batch, read_all};
use chronik_tests::topics::create;
use chronik_tests::wire::{Connection, produce_request};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TOPIC: &str = "moves";
const SHARDS: usize = 2;
/// Connections of a test: they come to the shards in turn, so that half of them are on the wrong one.
const CONNECTIONS: usize = 6;
/// Producers of the test that stops the broker: they come to their windows' ends one after the other.
const PRODUCERS: usize = 16;
/// Between two requests to the broker, whoever sends them. A shard that is at work for more than 70 of 100 takes in no
/// connection, and a debug build is there at a thousand a second on a slow machine: these are a fifth of that.
const PACE: Duration = Duration::from_millis(5);
/// More than a decision is made over.
const BATCHES: i32 = 150;
/// Batches that a producer has under way, as many as clients allow an idempotent one.
const UNDER_WAY: usize = 5;
/// Fetches of a consumer: more than a decision is made over.
const FETCHES: i32 = 100;
const TIMEOUT: Duration = Duration::from_secs(20);

/// A broker with a topic of one partition, and the shard that owns it.
fn start(name: &str) -> (Broker, usize) {
    let broker = Broker::start_with(name, Options::default().shards(2));
    create(&mut broker.connect(), TOPIC, 1, &[]);
    let (status, body) = http_get(&broker.admin_address(), "/v1/partitions").expect("an answer");
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let rows = body["partitions"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["topic"] == TOPIC).expect("the topic");
    let group = row["group"].as_u64().expect("a number");
    (broker, usize::try_from(group).expect("a small number") % SHARDS)
}

/// The pause between two requests of one of several clients that are at work at once.
fn pause_of_one_of(clients: usize) {
    std::thread::sleep(PACE * u32::try_from(clients).expect("a small number"));
}

fn metric(broker: &Broker, series: &str) -> usize {
    let (_, text) = http_get(&broker.admin_address(), "/metrics").expect("an answer");
    let value =
        text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("no {series}"));
    value.trim().parse().expect("a number")
}

/// Connections that have come to each shard from another.
fn moved(broker: &Broker) -> [usize; SHARDS] {
    [0, 1].map(|shard| metric(broker, &format!("chronik_connections_moved_total{{shard=\"{shard}\"}}")))
}

/// Half of the connections have moved, all to the owner.
fn have_moved_to(owner: usize, broker: &Broker) -> bool {
    let mut expected = [0; SHARDS];
    expected[owner] = CONNECTIONS / SHARDS;
    moved(broker) == expected
}

fn assert_none_is_gone(broker: &Broker) {
    assert_eq!(metric(broker, "chronik_connections "), CONNECTIONS, "a move neither opens nor closes any");
}

/// The connections work until half of them have moved, and none is gone then. A shard that is too busy takes none in, and who was
/// refused tries again when it has something to do some seconds later. Gives how often all have worked.
fn work_until_moved_to(owner: usize, broker: &Broker, mut work: impl FnMut()) -> usize {
    let mut rounds = 0;
    let has_moved = soon(TIMEOUT, || {
        work();
        rounds += 1;
        have_moved_to(owner, broker)
    });
    assert!(has_moved, "{:?} connections have moved to each shard", moved(broker));
    assert_none_is_gone(broker);
    rounds
}

#[test]
fn producers_keep_order_acks_and_sequences() {
    let (broker, owner) = start("moves-produce");
    // One after the other, so that they come to the shards in turn.
    let connections: Vec<Connection> = (0..CONNECTIONS).map(|_| broker.connect()).collect();
    let is_enough = AtomicBool::new(false);
    let sent: Vec<i32> = std::thread::scope(|scope| {
        let produce = |(number, mut connection): (usize, Connection)| {
            let producer = connection.init_producer_id();
            let mut under_way = VecDeque::new();
            let mut last_offset = -1;
            let mut take = |connection: &mut Connection, header| {
                let answer = connection.produce_answer(&header).expect("an answer");
                assert_eq!(answer.error, ErrorCode::None);
                assert!(answer.base_offset > last_offset, "batches of one connection are in order");
                last_offset = answer.base_offset;
            };
            let mut sent = 0;
            while sent < BATCHES || !is_enough.load(Ordering::Relaxed) {
                let value = format!("{number} {sent}");
                let batch = idempotent_batch(producer, 0, sent, &[value]);
                under_way.push_back(connection.produce_send(TOPIC, 0, batch).expect("sent"));
                sent += 1;
                pause_of_one_of(CONNECTIONS);
                if under_way.len() == UNDER_WAY {
                    let header = under_way.pop_front().expect("one is under way");
                    take(&mut connection, header);
                }
            }
            under_way.into_iter().for_each(|header| take(&mut connection, header));
            (connection, sent)
        };
        let producing: Vec<_> =
            connections.into_iter().enumerate().map(|one| scope.spawn(move || produce(one))).collect();
        let has_moved = soon(TIMEOUT, || have_moved_to(owner, &broker));
        is_enough.store(true, Ordering::Relaxed);
        let producers: Vec<_> = producing.into_iter().map(|one| one.join().expect("a producer")).collect();
        assert!(has_moved, "{:?} connections have moved to each shard", moved(&broker));
        assert_none_is_gone(&broker);
        producers.into_iter().map(|(_, sent)| sent).collect()
    });
    let records = read_all(&mut broker.connect(), TOPIC, 0).expect("readable");
    let values: Vec<String> =
        records.into_iter().map(|record| String::from_utf8(record.value).expect("text")).collect();
    for (number, sent) in sent.into_iter().enumerate() {
        let prefix = format!("{number} ");
        let own: Vec<&str> = values.iter().filter_map(|value| value.strip_prefix(&prefix)).collect();
        let expected: Vec<String> = (0..sent).map(|sequence| sequence.to_string()).collect();
        assert_eq!(own, expected, "producer {number}");
    }
}

#[test]
fn producers_that_want_no_acks_lose_nothing() {
    let (broker, owner) = start("moves-acks-0");
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| broker.connect()).collect();
    let rounds = work_until_moved_to(owner, &broker, || {
        for connection in &mut connections {
            for number in 0..BATCHES {
                let header = connection.header(ApiKey::Produce, 9);
                let request = produce_request(TOPIC, 0, batch(&[number.to_be_bytes()]), 0);
                let frame = request.encode(&header).expect("a sound request");
                connection.send_raw(&frame.to_contiguous()).expect("sent");
                pause_of_one_of(1);
            }
            let answer = connection.produce(TOPIC, 0, batch(&[b"last"])).expect("an answer");
            assert_eq!(answer.error, ErrorCode::None);
        }
    });
    let read = read_all(&mut broker.connect(), TOPIC, 0).expect("readable").len();
    assert_eq!(read, rounds * CONNECTIONS * (usize::try_from(BATCHES).expect("a small number") + 1));
}

#[test]
fn a_stop_while_connections_move_loses_nothing_acknowledged() {
    let (mut broker, _) = start("moves-stop");
    let connections: Vec<Connection> = (0..PRODUCERS).map(|_| broker.connect()).collect();
    let acknowledged: Vec<i32> = std::thread::scope(|scope| {
        let produce = |(number, mut connection): (usize, Connection)| {
            let produce = |sequence: &i32| {
                let value = format!("{number} {sequence}");
                pause_of_one_of(PRODUCERS);
                // Once the broker stops there is no answer any more.
                connection
                    .produce(TOPIC, 0, batch(&[value]))
                    .is_ok_and(|answer| answer.error == ErrorCode::None)
            };
            i32::try_from((0..i32::MAX).take_while(produce).count()).expect("not so many")
        };
        let producing: Vec<_> =
            connections.into_iter().enumerate().map(|one| scope.spawn(move || produce(one))).collect();
        eventually("the first have moved", TIMEOUT, || moved(&broker).iter().sum::<usize>() > 0);
        broker.stop_cleanly();
        producing.into_iter().map(|one| one.join().expect("a producer")).collect()
    });
    broker.restart();
    let records = read_all(&mut broker.connect(), TOPIC, 0).expect("readable");
    let values: HashSet<Vec<u8>> = records.into_iter().map(|record| record.value).collect();
    for (number, acknowledged) in acknowledged.into_iter().enumerate() {
        let missing =
            (0..acknowledged).find(|sequence| !values.contains(format!("{number} {sequence}").as_bytes()));
        assert_eq!(missing, None, "producer {number} had {acknowledged} acknowledged");
    }
}

/// A fetch of a session: the partition from the start when it begins, what is new when it goes on.
fn fetch(
    connection: &mut Connection,
    session_id: i32,
    session_epoch: i32,
    from: Option<i64>,
) -> FetchResponse {
    let header = connection.header(ApiKey::Fetch, 12);
    let topic = |offset| FetchTopic {
        topic: TopicRef::Name(StrBytes::from_static_str(TOPIC)),
        partitions: vec![FetchPartition::from_offset(0, offset, 1 << 20)],
    };
    let request = FetchRequest {
        cluster_id: None,
        replica_id: -1,
        replica_epoch: -1,
        max_wait_ms: 1,
        min_bytes: 1,
        max_bytes: 1 << 20,
        isolation_level: 0,
        session_id,
        session_epoch,
        topics: from.map(topic).into_iter().collect(),
        forgotten_topics: Vec::new(),
        rack_id: StrBytes::default(),
    };
    let frame = request.encode(&header).expect("a sound request");
    connection.send_raw(&frame.to_contiguous()).expect("sent");
    let mut reader = FrameReader::new(connection.receive().expect("an answer"), false);
    let correlation_id = header.decode_response_header(&mut reader).expect("a header");
    assert_eq!(correlation_id, header.correlation_id);
    FetchResponse::decode(&mut reader, 12).expect("a response")
}

#[test]
fn consumers_keep_their_fetch_sessions() {
    let (broker, owner) = start("moves-fetch");
    let mut produced = 0;
    let mut consumers: Vec<(Connection, i32, i32)> = (0..CONNECTIONS)
        .map(|_| {
            let mut connection = broker.connect();
            let opened = fetch(&mut connection, 0, 0, Some(produced));
            assert_eq!(opened.error, ErrorCode::None);
            assert!(opened.session_id > 0, "a session is opened");
            (connection, opened.session_id, 0)
        })
        .collect();
    work_until_moved_to(owner, &broker, || {
        for (connection, session_id, epoch) in &mut consumers {
            // Where others have produced meanwhile, it goes on behind that.
            let mut from = Some(produced);
            for _ in 0..FETCHES {
                pause_of_one_of(1);
                *epoch += 1;
                let has_news = *epoch % 10 == 0;
                if has_news {
                    let answer = connection.produce(TOPIC, 0, batch(&[b"news"])).expect("an answer");
                    assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, produced));
                }
                // Behind news the client says where it wants to go on, and nothing otherwise.
                let response = fetch(connection, *session_id, *epoch, from.take());
                let told = (response.error, response.session_id);
                assert_eq!(told, (ErrorCode::None, *session_id), "epoch {epoch}");
                let records = response.topics.iter().any(|topic| !topic.partitions[0].records.is_empty());
                assert_eq!(records, has_news, "epoch {epoch}");
                if has_news {
                    produced += 1;
                    from = Some(produced);
                }
            }
        }
    });
    assert_eq!(metric(&broker, "chronik_fetch_sessions "), CONNECTIONS);
}
