//! Figures, not checks: `cargo test -p chronik-net --release codec::tests::speed -- --ignored --nocapture --test-threads 1`.

use super::super::*;
use super::*;
use bytes::Bytes;
use std::hint::black_box;
use std::time::{Duration, Instant};

const BATCHES: usize = 400;
const CALLS_A_BATCH: usize = 500;

/// Prints nanoseconds for one call of `work` on what `prepare` makes, and for the drop of its result.
fn measure<I, O>(what: &str, mut prepare: impl FnMut() -> I, mut work: impl FnMut(I) -> O) {
    let mut spent = Duration::ZERO;
    for _ in 0..BATCHES {
        let inputs: Vec<I> = (0..CALLS_A_BATCH).map(|_| prepare()).collect();
        let start = Instant::now();
        for input in inputs {
            drop(black_box(work(black_box(input))));
        }
        spent += start.elapsed();
    }
    report(what, spent.as_nanos() / (BATCHES * CALLS_A_BATCH) as u128);
}

#[allow(clippy::print_stderr, reason = "the figure is the purpose of this ignored test")]
fn report(what: &str, nanoseconds: u128) {
    eprintln!("{what}: {nanoseconds} ns");
}

fn produce_frame(version: i16, partitions: i32, record_bytes: usize) -> BytesMut {
    let partitions = (0..partitions)
        .map(|index| ProducePartition { index, records: Some(BytesMut::from(&vec![1; record_bytes][..])) })
        .collect();
    let topic = if version >= 13 { TopicRef::Id(Uuid::from_u128(9)) } else { TopicRef::Name(text("events")) };
    let topics = vec![ProduceTopic { topic, partitions }];
    let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 30_000, topics };
    payload(&request.encode(&header(ApiKey::Produce, version)).unwrap())
}

fn fetch_response(version: i16, partitions: i32) -> FetchResponse {
    let records = Bytes::from(vec![1; 16 * 1024]);
    let partitions = (0..partitions)
        .map(|partition| FetchPartitionResponse {
            records: vec![records.clone()],
            ..FetchPartitionResponse::refused(partition, ErrorCode::None)
        })
        .collect();
    let topic = if version >= 13 { TopicRef::Id(Uuid::from_u128(9)) } else { TopicRef::Name(text("events")) };
    FetchResponse { topics: vec![FetchTopicResponse { topic, partitions }], ..FetchResponse::default() }
}

#[test]
#[ignore = "measures"]
fn figures() {
    let frame = produce_frame(13, 1, 300);
    measure("drop of a frame of 300 bytes, for comparison", || BytesMut::from(&frame[..]), drop);
    for (version, partitions) in [(9, 1), (13, 1), (13, 10), (13, 100)] {
        let frame = produce_frame(version, partitions, 300);
        let what = format!("Produce v{version} decode, {partitions} partitions");
        measure(&what, || BytesMut::from(&frame[..]), |frame| decode_request(frame).unwrap());
    }
    for (version, partitions) in [(12, 1), (18, 1), (18, 10), (18, 100)] {
        let response = fetch_response(version, partitions);
        let header = header(ApiKey::Fetch, version);
        let what = format!("Fetch v{version} encode, {partitions} partitions of 16 KiB");
        measure(&what, || (), |()| response.encode(&header).unwrap());
    }
    let header = header(ApiKey::Produce, 13);
    let response = ProduceResponse {
        topics: vec![ProduceTopicResponse {
            topic: TopicRef::Id(Uuid::from_u128(9)),
            partitions: vec![ProducePartitionResponse::refused(0, ErrorCode::None)],
        }],
        ..ProduceResponse::default()
    };
    measure("Produce v13 response encode, 1 partition", || (), |()| response.encode(&header).unwrap());
}
