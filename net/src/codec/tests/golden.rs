//! Golden bytes: what Kafka's own generated classes (kafka-clients 4.3.1) write for every hand-written message and version.
//!
//! `golden.txt` is printed by `Golden.java` beside it, whose values the samples here repeat. Each line must decode into
//! its sample and be what our encoder writes for it.

use super::super::*;
use super::oracle_metadata::write;
use super::*;
use bytes::Bytes;

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn topic(version: i16, by_id_from: i16) -> TopicRef {
    if version >= by_id_from { TopicRef::Id(ID) } else { TopicRef::Name(text("orders")) }
}

/// The value in the versions that have it, else what an absent field reads as.
fn since<T>(from: i16, version: i16, value: T, absent: T) -> T {
    if version >= from { value } else { absent }
}

fn endpoint(rack: Option<StrBytes>) -> NodeEndpoint {
    NodeEndpoint { node_id: 2, host: text("host"), port: 9092, rack }
}

fn produce_request(version: i16) -> ProduceRequest {
    let partitions = vec![
        ProducePartition { index: 0, records: Some(BytesMut::from("batch")) },
        ProducePartition { index: 7, records: None },
    ];
    ProduceRequest {
        transactional_id: Some(text("tx")),
        acks: -1,
        timeout_ms: 1500,
        topics: vec![ProduceTopic { topic: topic(version, 13), partitions }],
    }
}

fn produce_response(version: i16) -> ProduceResponse {
    let record_errors = vec![
        RecordError { batch_index: 3, message: Some(text("bad key")) },
        RecordError { batch_index: 4, message: None },
    ];
    let leader = CurrentLeader { leader_id: 2, leader_epoch: 9 };
    let partition = ProducePartitionResponse {
        index: 4,
        error: ErrorCode::NotLeaderOrFollower,
        base_offset: 42,
        log_append_time_ms: 1000,
        log_start_offset: since(5, version, 5, -1),
        record_errors: since(8, version, record_errors, Vec::new()),
        error_message: since(8, version, Some(text("no")), None),
        current_leader: since(10, version, Some(leader), None),
    };
    ProduceResponse {
        topics: vec![ProduceTopicResponse { topic: topic(version, 13), partitions: vec![partition] }],
        throttle_time_ms: 11,
        node_endpoints: since(10, version, vec![endpoint(Some(text("r1")))], Vec::new()),
    }
}

fn fetch_request(version: i16) -> FetchRequest {
    let partition = FetchPartition {
        partition: 4,
        current_leader_epoch: since(9, version, 6, -1),
        fetch_offset: 100,
        last_fetched_epoch: since(12, version, 5, -1),
        log_start_offset: since(5, version, 2, -1),
        partition_max_bytes: 4096,
        replica_directory_id: since(17, version, ID, Uuid::nil()),
        high_watermark: since(18, version, 55, HIGH_WATERMARK_UNSUPPORTED),
    };
    let forgotten = ForgottenTopic { topic: topic(version, 13), partitions: vec![1, 2] };
    FetchRequest {
        cluster_id: since(12, version, Some(text("cid")), None),
        replica_id: 3,
        replica_epoch: since(15, version, 77, -1),
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1_000_000,
        isolation_level: 1,
        session_id: since(7, version, 8, 0),
        session_epoch: since(7, version, 2, -1),
        topics: vec![FetchTopic { topic: topic(version, 13), partitions: vec![partition] }],
        forgotten_topics: since(7, version, vec![forgotten], Vec::new()),
        rack_id: since(11, version, text("ra"), text("")),
    }
}

fn fetch_response(version: i16) -> FetchResponse {
    let flexible = version >= 12;
    let full = FetchPartitionResponse {
        partition: 4,
        error: ErrorCode::NotLeaderOrFollower,
        high_watermark: 100,
        last_stable_offset: 90,
        log_start_offset: since(5, version, 2, -1),
        diverging_epoch: flexible.then_some(EpochEndOffset { epoch: 5, end_offset: 80 }),
        current_leader: flexible.then_some(CurrentLeader { leader_id: 2, leader_epoch: 9 }),
        snapshot_id: flexible.then_some(EpochEndOffset { epoch: 4, end_offset: 70 }),
        aborted_transactions: Some(vec![AbortedTransaction { producer_id: 1000, first_offset: 60 }]),
        preferred_read_replica: since(11, version, 3, -1),
        records: vec![Bytes::from_static(b"batches")],
    };
    let empty = FetchPartitionResponse {
        high_watermark: 7,
        last_stable_offset: 7,
        ..FetchPartitionResponse::refused(5, ErrorCode::None)
    };
    FetchResponse {
        throttle_time_ms: 3,
        error: since(7, version, ErrorCode::FetchSessionIdNotFound, ErrorCode::None),
        session_id: since(7, version, 8, 0),
        topics: vec![FetchTopicResponse { topic: topic(version, 13), partitions: vec![full, empty] }],
        node_endpoints: since(16, version, vec![endpoint(None)], Vec::new()),
    }
}

fn metadata_request(version: i16) -> MetadataRequest {
    let mut topics = vec![MetadataRequestTopic { topic_id: Uuid::nil(), name: Some(text("orders")) }];
    if version >= 10 {
        topics.push(MetadataRequestTopic { topic_id: ID, name: None });
    }
    MetadataRequest {
        topics: Some(topics),
        allow_auto_topic_creation: version < 4,
        include_cluster_authorized_operations: (8..=10).contains(&version),
        include_topic_authorized_operations: version >= 8,
    }
}

fn metadata_response(version: i16) -> MetadataResponse {
    let partition = PartitionListing {
        error: ErrorCode::LeaderNotAvailable,
        partition: 3,
        leader_id: -1,
        leader_epoch: since(7, version, 12, -1),
        replicas: vec![1, 2],
        in_sync_replicas: vec![2],
        offline_replicas: since(5, version, vec![1], Vec::new()),
    };
    let topic = TopicListing {
        error: ErrorCode::None,
        name: Some(text("orders")),
        topic_id: since(10, version, ID, Uuid::nil()),
        is_internal: version >= 1,
        partitions: vec![partition],
        authorized_operations: since(8, version, 255, OPERATIONS_NOT_ASKED),
    };
    let rack = since(1, version, Some(text("r")), None);
    let has_operations = (8..=10).contains(&version);
    MetadataResponse {
        throttle_time_ms: since(3, version, 11, 0),
        brokers: vec![
            BrokerListing { node_id: 1, host: text("h1"), port: 9092, rack },
            BrokerListing { node_id: 2, host: text("h2"), port: 9093, rack: None },
        ],
        cluster_id: since(2, version, Some(text("cid")), None),
        controller_id: since(1, version, 1, -1),
        topics: vec![topic],
        cluster_operations: if has_operations { 127 } else { OPERATIONS_NOT_ASKED },
        error: since(13, version, ErrorCode::RebootstrapRequired, ErrorCode::None),
    }
}

fn api_versions_request(version: i16) -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: since(3, version, text("apache-kafka-java"), text("")),
        client_software_version: since(3, version, text("4.3.1"), text("")),
    }
}

fn api_versions_response(version: i16) -> ApiVersionsResponse {
    let feature = |name: &str, min_version, max_version| SupportedFeature {
        name: text(name),
        min_version,
        max_version,
    };
    let mut supported_features = Vec::new();
    if version >= 4 {
        supported_features.push(feature("group.version", 0, 1));
    }
    if version >= 3 {
        supported_features.push(feature("metadata.version", 7, 27));
    }
    ApiVersionsResponse {
        error: ErrorCode::None,
        apis: vec![
            AdvertisedRange { api_key: 0, min_version: 0, max_version: 13 },
            AdvertisedRange { api_key: 18, min_version: 0, max_version: 4 },
        ],
        throttle_time_ms: since(1, version, 4, 0),
        supported_features,
    }
}

/// Body of a request frame in hex, the header of [`header`] taken off.
fn request_hex(api: ApiKey, version: i16, frame: &ResponseFrame) -> String {
    let mut writer = Writer::new(false, 0);
    header(api, version).encode(&mut writer);
    let header_bytes = payload(&writer.finish().unwrap());
    let whole = payload(frame);
    hex(whole.strip_prefix(&header_bytes[..]).unwrap())
}

fn response_hex(api: ApiKey, version: i16, frame: &ResponseFrame) -> String {
    hex(response_body(&header(api, version), frame).rest())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// Reads `golden`, which must be the sample, and answers what we write for the sample.
fn check_and_encode(message: &str, version: i16, golden: &[u8]) -> String {
    macro_rules! check {
        ($sample:expr, $kind:ident, $api:expr, $hex:ident, $encode:expr) => {{
            let sample = $sample;
            assert_eq!($kind::decode_slice(golden, version).as_ref(), Ok(&sample), "{message} v{version}");
            let header = header($api, version);
            $hex($api, version, &$encode(sample, &header).unwrap())
        }};
    }
    match message {
        "ProduceRequest" => check!(
            produce_request(version),
            ProduceRequest,
            ApiKey::Produce,
            request_hex,
            ProduceRequest::encode
        ),
        "ProduceResponse" => check!(
            produce_response(version),
            ProduceResponse,
            ApiKey::Produce,
            response_hex,
            |sample: ProduceResponse, header: &RequestHeader| sample.encode(header)
        ),
        "FetchRequest" => check!(
            fetch_request(version),
            FetchRequest,
            ApiKey::Fetch,
            request_hex,
            |sample: FetchRequest, header: &RequestHeader| sample.encode(header)
        ),
        "FetchResponse" => check!(
            fetch_response(version),
            FetchResponse,
            ApiKey::Fetch,
            response_hex,
            |sample: FetchResponse, header: &RequestHeader| sample.encode(header)
        ),
        "MetadataRequest" => check!(
            metadata_request(version),
            MetadataRequest,
            ApiKey::Metadata,
            request_hex,
            |sample: MetadataRequest, header: &RequestHeader| sample.encode(header)
        ),
        "MetadataResponse" => check!(
            metadata_response(version),
            MetadataResponse,
            ApiKey::Metadata,
            response_hex,
            |sample: MetadataResponse, header: &RequestHeader| write(header, &sample)
        ),
        "ApiVersionsRequest" => check!(
            api_versions_request(version),
            ApiVersionsRequest,
            ApiKey::ApiVersions,
            request_hex,
            |sample: ApiVersionsRequest, header: &RequestHeader| sample.encode(header)
        ),
        "ApiVersionsResponse" => check!(
            api_versions_response(version),
            ApiVersionsResponse,
            ApiKey::ApiVersions,
            response_hex,
            |sample: ApiVersionsResponse, header: &RequestHeader| sample.encode(header)
        ),
        unknown => panic!("golden.txt has an unknown message {unknown}"),
    }
}

#[test]
fn every_message_and_version_is_byte_for_byte_kafkas() {
    let mut checked = 0;
    for line in include_str!("golden.txt").lines() {
        let mut words = line.split(' ');
        let (message, version) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
        let golden = words.next().unwrap_or_default();
        assert_eq!(check_and_encode(message, version, &unhex(golden)), golden, "{message} v{version}");
        checked += 1;
    }
    assert_eq!(checked, 2 * (11 + 15 + 14 + 5), "both directions of every version");
}
