//! Requests that are well-formed and wrong: each gets the error that Apache Kafka gives (run with `CHRONIK_TEST_SUBJECT=kafka` to
//! ask it), and the connection goes on.

use bytes::{BufMut, BytesMut};
use chronik_net::codec::{ApiKey, ErrorCode, ProducePartitionResponse};
use chronik_tests::records::{batch, now_ms};
use chronik_tests::subject::Subject;
use chronik_tests::topics::{create, create_code, text};
use chronik_tests::wire::{Connection, produce_request};
use chronik_wal::compress::{Compression, CompressionLevels};
use chronik_wal::records::BatchBuilder;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use std::time::Duration;

// Places of fields in a record batch.
const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_DELTA_AT: usize = 23;
const COUNT_AT: usize = 57;

fn with_crc(mut batch: BytesMut) -> BytesMut {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn put_i32(mut batch: BytesMut, at: usize, value: i32) -> BytesMut {
    batch[at..at + 4].copy_from_slice(&value.to_be_bytes());
    batch
}

fn sound() -> BytesMut {
    batch(&["one", "two", "three"])
}

/// A batch with one thing wrong, and the error for it.
fn wrong_batches() -> Vec<(&'static str, BytesMut, ErrorCode)> {
    let mut flipped = sound();
    *flipped.last_mut().expect("a batch has bytes") ^= 1;
    let length = i32::try_from(sound().len() - 12).expect("a small batch");
    let mut two = sound();
    two.extend_from_slice(&sound());
    let mut old_magic = sound();
    old_magic[MAGIC_AT] = 1;
    let mut control = sound();
    control[ATTRIBUTES_AT + 1] |= 0x20;
    let mut future = BatchBuilder::new();
    future.push(now_ms() + 7_200_000, None, Some(b"two hours ahead"));
    vec![
        ("wrong CRC", flipped, ErrorCode::CorruptMessage),
        ("size beyond the end", put_i32(sound(), LENGTH_AT, length + 100), ErrorCode::InvalidRecord),
        ("size of nothing", put_i32(sound(), LENGTH_AT, 0), ErrorCode::CorruptMessage),
        ("negative size", put_i32(sound(), LENGTH_AT, -1), ErrorCode::CorruptMessage),
        ("two batches", two, ErrorCode::InvalidRecord),
        ("magic 1", old_magic, ErrorCode::InvalidRecord),
        ("a control batch", with_crc(control), ErrorCode::InvalidRecord),
        ("count too large", with_crc(put_i32(sound(), COUNT_AT, 4)), ErrorCode::InvalidRecord),
        ("count INT_MAX", with_crc(put_i32(sound(), COUNT_AT, i32::MAX)), ErrorCode::InvalidRecord),
        ("negative count", with_crc(put_i32(sound(), COUNT_AT, -1)), ErrorCode::InvalidRecord),
        ("last offset too large", with_crc(put_i32(sound(), LAST_DELTA_AT, 9)), ErrorCode::InvalidRecord),
        ("a time two hours ahead", future.build().expect("a sound batch"), ErrorCode::InvalidTimestamp),
        ("too large", batch(&[vec![7; 1_100_000]]), ErrorCode::MessageTooLarge),
    ]
}

fn produce(connection: &mut Connection, topic: &str, batch: BytesMut) -> ProducePartitionResponse {
    connection.produce(topic, 0, batch).expect("the request is answered")
}

#[test]
fn wrong_batches_are_refused_and_the_next_is_taken() {
    let subject = Subject::start("wrong-batches");
    let mut connection = Connection::open(&subject.address());
    connection.ensure_topic("wrong");
    let mut differences = Vec::new();
    for (what, batch, expected) in wrong_batches() {
        match connection.produce("wrong", 0, batch) {
            Ok(answer) if answer.error == expected => {}
            Ok(answer) => differences.push(format!("{what}: {:?} where {expected:?} is right", answer.error)),
            Err(error) => {
                differences.push(format!("{what}: {error} where {expected:?} is right"));
                connection = Connection::open(&subject.address());
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let answer = produce(&mut connection, "wrong", sound());
    assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, 0), "nothing of all that was appended");
}

/// A few kilobytes that unpack to 300 MB. Where the broker must look inside (another compression is asked for), it refuses; where it
/// need not, it takes the batch as it is. Memory stays bounded either way.
#[test]
fn a_decompression_bomb_costs_no_memory() {
    let mut subject = Subject::start("bomb");
    let mut connection = Connection::open(&subject.address());
    create(&mut connection, "bomb", 1, &[("compression.type", "lz4")]);
    let before = subject.process().peak_resident_bytes();
    for codec in [Compression::Gzip, Compression::Zstd] {
        let answer = produce(&mut connection, "bomb", bomb(codec));
        assert_ne!(answer.error, ErrorCode::None, "a bomb of {codec:?} is refused");
    }
    let growth = subject.process().peak_resident_bytes() - before;
    if matches!(subject, Subject::Chronik(_)) {
        // A batch may be unpacked to 128 MiB, and not a byte more.
        assert!(growth < 192 << 20, "memory grew by {} MiB", growth >> 20);
    }
    assert_eq!(produce(&mut connection, "bomb", sound()).error, ErrorCode::None, "the next is taken");
}

/// One record of 300 MB of zeros, compressed to less than max.message.bytes.
fn bomb(codec: Compression) -> BytesMut {
    let mut builder = BatchBuilder::new().compression(codec, CompressionLevels::default());
    let zeros = vec![0; 300_000_000];
    builder.push(now_ms(), None, Some(&zeros));
    let bomb = builder.build().expect("a sound batch");
    assert!(bomb.len() < 1_000_000, "the bomb of {codec:?} has {} bytes", bomb.len());
    bomb
}

#[test]
fn unknown_places_and_wrong_acks() {
    let subject = Subject::start("unknown");
    let mut connection = Connection::open(&subject.address());
    connection.ensure_topic("known");
    let answer = produce(&mut connection, "unknown", sound());
    assert_eq!(answer.error, ErrorCode::UnknownTopicOrPartition, "a topic that is not there");
    let answer = connection.produce("known", 7, sound()).expect("an answer");
    assert_eq!(answer.error, ErrorCode::UnknownTopicOrPartition, "a partition that is not there");
    let answer = connection.produce("known", -1, sound()).expect("an answer");
    assert_eq!(answer.error, ErrorCode::UnknownTopicOrPartition, "a negative partition");
    let header = connection.header(ApiKey::Produce, 9);
    let frame = produce_request("known", 0, sound(), 5).encode(&header).expect("a frame");
    connection.send_raw(&frame.to_contiguous()).expect("a frame can be sent");
    let answer = connection.produce_answer(&header).expect("an answer");
    assert_eq!(answer.error, ErrorCode::InvalidRequiredAcks, "acks=5");
    for (offset, expected) in
        [(-1, ErrorCode::OffsetOutOfRange), (1, ErrorCode::OffsetOutOfRange), (0, ErrorCode::None)]
    {
        let answer = connection.fetch("known", 0, offset, 0).expect("an answer");
        assert_eq!(answer.error, expected, "fetch at {offset} of an empty partition");
    }
    for (topic, partition) in [("unknown", 0), ("known", 7)] {
        let answer = connection.fetch(topic, partition, 0, 0).expect("an answer");
        assert_eq!(answer.error, ErrorCode::UnknownTopicOrPartition, "fetch of {topic}-{partition}");
    }
}

/// acks=0 has no answer, so that an error is told by closing the connection.
#[test]
fn an_error_with_acks_0_closes_the_connection() {
    let subject = Subject::start("acks-0");
    let mut connection = Connection::open(&subject.address());
    let header = connection.header(ApiKey::Produce, 9);
    let frame = produce_request("unknown", 0, sound(), 0).encode(&header).expect("a frame");
    connection.send_raw(&frame.to_contiguous()).expect("a frame can be sent");
    assert!(connection.closes_within(Duration::from_secs(5)), "the connection is closed");
}

/// An idempotent producer: duplicates get their first offset, gaps are refused, an older epoch is fenced.
#[test]
fn sequences_out_of_order() {
    use chronik_tests::records::idempotent_batch;
    let subject = Subject::start("sequences");
    let mut connection = Connection::open(&subject.address());
    connection.ensure_topic("sequences");
    let id = connection.init_producer_id();
    let mut send = |epoch, sequence| {
        let answer =
            produce(&mut connection, "sequences", idempotent_batch(id, epoch, sequence, &["a", "b"]));
        (answer.error, answer.base_offset)
    };
    for n in 0..6 {
        assert_eq!(send(0, n * 2), (ErrorCode::None, i64::from(n) * 2), "in order");
    }
    assert_eq!(send(0, 10), (ErrorCode::None, 10), "the last once more: its first offset");
    assert_eq!(send(0, 2), (ErrorCode::None, 2), "the fifth last is remembered");
    assert_eq!(send(0, 20).0, ErrorCode::OutOfOrderSequenceNumber, "a gap");
    assert_eq!(send(0, 12), (ErrorCode::None, 12), "and on it goes");
    assert_eq!(send(1, 0), (ErrorCode::None, 14), "a newer epoch begins at 0");
    assert_eq!(send(0, 14).0, ErrorCode::InvalidProducerEpoch, "the older epoch is fenced");
    assert_eq!(send(2, 5).0, ErrorCode::OutOfOrderSequenceNumber, "a newer epoch does not begin at 5");
}

#[test]
fn wrong_names_and_configs() {
    let subject = Subject::start("names");
    let mut connection = Connection::open(&subject.address());
    let long = "x".repeat(250);
    for name in ["..", ".", "", "a/b", "../../etc/passwd", "a b", "ü", "a\0b", long.as_str()] {
        assert_eq!(create_code(&mut connection, name, 1, &[]), 17, "topic {name:?}");
        let answer = connection.metadata(name, true).expect("metadata is answered");
        assert_eq!(answer.topics[0].error, ErrorCode::InvalidTopicException, "metadata of {name:?}");
    }
    create(&mut connection, "with_one.dot", 1, &[]);
    assert_eq!(
        create_code(&mut connection, "with.one.dot", 1, &[]),
        17,
        "collides where '.' and '_' are one"
    );
    for config in [
        ("no.such.config", "1"),
        ("retention.ms", "soon"),
        ("retention.ms", "-2"),
        ("max.message.bytes", "-1"),
        ("cleanup.policy", "burn"),
        ("min.insync.replicas", "0"),
        ("compression.type", "rar"),
        ("segment.bytes", "1"),
        ("message.timestamp.type", "Sometimes"),
    ] {
        assert_eq!(
            create_code(&mut connection, "wrong-config", 1, &[config]),
            40,
            "{config:?} when a topic is made"
        );
        assert_eq!(alter_code(&mut connection, "with_one.dot", config), 40, "{config:?} when it is altered");
    }
    assert_eq!(create_code(&mut connection, "wrong-config", 1, &[]), 0, "none of the refused ones was made");
}

fn alter_code(connection: &mut Connection, topic: &str, (name, value): (&str, &str)) -> i16 {
    let config = AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer: IncrementalAlterConfigsResponse =
        connection.ask(ApiKey::IncrementalAlterConfigs, 1, &request).expect("an answer");
    answer.responses[0].error_code
}

/// A request without end in its records: the frame is sound, the records field is not.
#[test]
fn records_of_no_bytes() {
    let subject = Subject::start("no-records");
    let mut connection = Connection::open(&subject.address());
    connection.ensure_topic("empty");
    let mut short = BytesMut::new();
    short.put_bytes(0, 60);
    for (what, bytes) in [("no bytes", BytesMut::new()), ("60 zeros", short)] {
        let answer = connection.produce("empty", 0, bytes);
        let refused = answer.as_ref().is_ok_and(|answer| answer.error != ErrorCode::None);
        assert!(refused || answer.is_err(), "{what}: {answer:?}");
        connection = Connection::open(&subject.address());
    }
    assert_eq!(produce(&mut connection, "empty", sound()).base_offset, 0, "nothing was appended");
}
