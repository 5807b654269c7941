//! Hostile input: no panic, and no memory claimed beyond what the frame itself justifies.

use super::super::*;
use super::cold::{Seeded, cold_versions, frame_of, random_body};
use super::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what this thread holds and held at most since it was last reset; other tests' threads do not disturb it.
struct CountingAllocator;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // The thread-local is gone while a thread ends; what is allocated then is nobody's business here.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: forwards every call unchanged to the system's allocator, and only counts beside it.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The most bytes held at one time while `work` ran, over what was held before.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    let peak = PEAK.get() - before;
    drop(result);
    usize::try_from(peak).unwrap()
}

/// A struct of up to about 200 bytes for a few bytes on the wire, and the frame's own copy.
fn allowed_bytes(frame: usize) -> usize {
    64 * 1024 + 128 * frame
}

fn decode_within_bounds(frame: &[u8]) {
    let peak = peak_bytes(|| decode_request_slice(frame));
    assert!(
        peak <= allowed_bytes(frame.len()),
        "{peak} bytes held for a frame of {}: {frame:x?}",
        frame.len()
    );
}

fn hot_bodies() -> Vec<(ApiKey, i16, BytesMut)> {
    let mut bodies = Vec::new();
    for version in 3..=13 {
        let topic =
            if version >= 13 { TopicRef::Id(Uuid::from_u128(9)) } else { TopicRef::Name(text("topic")) };
        let records = Some(BytesMut::from(&[1u8; 20][..]));
        let partitions = vec![ProducePartition { index: 1, records }];
        let topics = vec![ProduceTopic { topic, partitions }];
        let request = ProduceRequest { transactional_id: Some(text("tx")), acks: -1, timeout_ms: 9, topics };
        bodies.push((
            ApiKey::Produce,
            version,
            payload(&request.encode(&header(ApiKey::Produce, version)).unwrap()),
        ));
    }
    for version in 4..=18 {
        let topic =
            if version >= 13 { TopicRef::Id(Uuid::from_u128(9)) } else { TopicRef::Name(text("topic")) };
        let partition = FetchPartition { high_watermark: 3, ..FetchPartition::from_offset(0, 1, 2) };
        let request = FetchRequest {
            cluster_id: Some(text("id")),
            topics: vec![FetchTopic { topic: topic.clone(), partitions: vec![partition] }],
            forgotten_topics: vec![ForgottenTopic { topic, partitions: vec![1, 2] }],
            ..FetchRequest::default()
        };
        bodies.push((
            ApiKey::Fetch,
            version,
            payload(&request.encode(&header(ApiKey::Fetch, version)).unwrap()),
        ));
    }
    for version in 0..=13 {
        let topic = MetadataRequestTopic { topic_id: Uuid::nil(), name: Some(text("topic")) };
        let request = MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() };
        bodies.push((
            ApiKey::Metadata,
            version,
            payload(&request.encode(&header(ApiKey::Metadata, version)).unwrap()),
        ));
    }
    for version in 0..=4 {
        let request =
            ApiVersionsRequest { client_software_name: text("a"), client_software_version: text("1") };
        let frame = request.encode(&header(ApiKey::ApiVersions, version)).unwrap();
        bodies.push((ApiKey::ApiVersions, version, payload(&frame)));
    }
    bodies
}

/// One good frame of every API and version.
fn good_frames() -> Vec<BytesMut> {
    let cold =
        cold_versions().map(|(api, version)| frame_of(&header(api, version), &random_body(api, version, 11)));
    hot_bodies().into_iter().map(|(_, _, frame)| frame).chain(cold).collect()
}

#[test]
fn frames_cut_at_every_byte() {
    for frame in good_frames() {
        assert!(decode_request(frame.clone()).is_ok());
        for length in 0..frame.len() {
            decode_within_bounds(&frame[..length]);
        }
    }
    for (api, version, frame) in hot_bodies() {
        for length in 0..frame.len() {
            assert!(
                decode_request_slice(&frame[..length]).is_err(),
                "{} v{version} cut at {length}",
                api.name()
            );
        }
    }
}

/// Wherever a length may stand, put those that broke other brokers: −1, −2, INT_MIN, INT_MAX, and varints of 2^31, 2^32−1 and
/// beyond their five bytes.
#[test]
fn bad_lengths_at_every_byte() {
    let bad: [&[u8]; 10] = [
        &[0xff, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0x80, 0, 0, 0],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x7f, 0xff],
        &[0xff, 0xff],
        &[0x80, 0x80, 0x80, 0x80, 0x08],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x00, 0xff, 0xff, 0xff],
    ];
    for frame in good_frames() {
        for at in 8..frame.len() {
            for length in bad {
                let mut hostile = frame.to_vec();
                let end = (at + length.len()).min(hostile.len());
                hostile.splice(at..end, length.iter().copied());
                decode_within_bounds(&hostile);
            }
        }
    }
}

#[test]
fn random_bodies_of_every_version() {
    let mut random = Seeded(42);
    for range in SUPPORTED {
        for version in range.served_min..=range.max {
            for _ in 0..200 {
                // Small bytes make plausible lengths, so that the walk gets deep.
                let largest = if random.below(2) == 0 { 4 } else { 256 };
                let body: Vec<u8> = (0..random.below(80)).map(|_| random.below(largest) as u8).collect();
                decode_within_bounds(&frame_of(&header(range.api, version), &body));
            }
        }
    }
}

/// Responses are read by our own clients: the same rules.
#[test]
fn random_responses() {
    let mut random = Seeded(43);
    for _ in 0..20_000 {
        let largest = if random.below(2) == 0 { 4 } else { 256 };
        let body: Vec<u8> = (0..random.below(80)).map(|_| random.below(largest) as u8).collect();
        let version = random.below(19) as i16;
        let peak = peak_bytes(|| {
            let produce = ProduceResponse::decode_slice(&body, version).is_ok();
            let fetch = FetchResponse::decode_slice(&body, version).is_ok();
            let metadata = MetadataResponse::decode_slice(&body, version).is_ok();
            let api_versions = ApiVersionsResponse::decode_slice(&body, version).is_ok();
            [produce, fetch, metadata, api_versions]
        });
        assert!(peak <= allowed_bytes(body.len()), "{peak} bytes held for {body:x?}");
    }
}

/// The densest frames there are: as many of the smallest elements as the bytes allow.
#[test]
fn elements_and_tags_are_limited_over_the_whole_frame() {
    // ListGroups 5: one array of empty strings of a byte each, more than a frame may hold.
    let elements = ELEMENTS_MAX + 1;
    let mut body = BytesMut::new();
    let mut writer = Writer::new(true, 0);
    writer.length(elements);
    body.extend_from_slice(&payload(&writer.finish().unwrap()));
    body.extend_from_slice(&vec![1; elements]);
    body.extend_from_slice(&[1, 0]);
    let refused = check_request(ApiKey::ListGroups, 5, &body);
    assert_eq!(refused, Err(ShapeError { field: "StatesFilter", cause: WireError::TooManyElements }));

    // Heartbeat 4: more unknown tagged fields than a frame may hold, each empty.
    let tags = UNKNOWN_TAGS_MAX + 1;
    let mut writer = Writer::new(true, 0);
    writer.string("g");
    writer.i32(1);
    writer.string("m");
    writer.nullable_string(None);
    writer.unsigned_varint(tags as u32);
    for _ in 0..tags {
        writer.unsigned_varint(9);
        writer.unsigned_varint(0);
    }
    let body = payload(&writer.finish().unwrap());
    let refused = check_request(ApiKey::Heartbeat, 4, &body);
    assert_eq!(refused, Err(ShapeError { field: "Heartbeat", cause: WireError::TooManyElements }));
}

/// CreateTopics makes the largest structs of the fewest bytes: what a full frame of them takes has a bound.
#[test]
fn the_worst_honest_shape_stays_within_its_bound() {
    let mut writer = Writer::new(true, 1 << 22);
    writer.length(ELEMENTS_MAX);
    for _ in 0..ELEMENTS_MAX {
        writer.string("");
        writer.i32(1);
        writer.i16(1);
        writer.length(0);
        writer.length(0);
        writer.end_struct();
    }
    writer.i32(1000);
    writer.bool(false);
    writer.end_struct();
    let body = payload(&writer.finish().unwrap());
    let frame = frame_of(&header(ApiKey::CreateTopics, 7), &body);
    let peak = peak_bytes(|| decode_request_slice(&frame).unwrap());
    assert!(peak < 48 << 20, "{peak} bytes");
}
