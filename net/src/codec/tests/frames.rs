//! Whole frames: headers, versions that are not served, and the messages whose layout differs from the general codec's.

use super::super::*;
use super::cold::frame_of;
use super::*;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{
    CreateTopicsResponse, HeartbeatResponse, ListGroupsResponse, OffsetDeleteResponse,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// Key 18, the version, correlation id 7, client id "x", then what a newer client may send.
fn api_versions_frame(version: i16) -> BytesMut {
    let mut frame = hex("0012");
    frame.extend(version.to_be_bytes());
    frame.extend(hex("00000007 0001 78 00 0261 0262 00"));
    BytesMut::from(&frame[..])
}

/// The very bytes that Kafka 4.1.0 answered to versions 5 and 127 (protocol.md, behaviour 2).
#[test]
fn api_versions_of_an_unknown_version_is_answered_in_version_0() {
    for version in [5, 127, -1] {
        let error = decode_request(api_versions_frame(version)).unwrap_err();
        let reply = error.reply().unwrap();
        let live = hex("00000007 0023 00000001 0012 0000 0004");
        assert_eq!(&payload(&reply)[..], &live[..]);
    }
    assert!(decode_request(api_versions_frame(4)).is_ok());
}

#[test]
fn other_unknown_versions_and_keys_close_the_connection() {
    let cases = [
        ("0000 0002", "Produce 2"),
        ("0001 0003", "Fetch 3"),
        ("03e7 0000", "key 999"),
        ("0003 000e", "Metadata 14"),
    ];
    for (start, what) in cases {
        let mut frame = hex(start);
        frame.extend(hex("00000007 ffff 00000000 00000000"));
        let error = decode_request_slice(&frame).unwrap_err();
        assert!(error.reply().is_none(), "{what}: {error}");
        let expected =
            matches!(error, DecodeError::UnknownApi { .. } | DecodeError::UnsupportedVersion { .. });
        assert!(expected, "{what}: {error}");
    }
    assert!(matches!(decode_request_slice(&[0, 18, 0]), Err(DecodeError::Header(_))));
}

#[test]
fn request_headers_skip_tagged_fields_and_take_a_null_client_id() {
    // Heartbeat 4 is flexible: header 2, here with two unknown tagged fields and no client id.
    let frame = hex("000c 0004 00000009 ffff 02 05 02 aabb 07 00   02 67 00000001 02 6d 00 00");
    let (header, request) = decode_request_slice(&frame).unwrap();
    assert_eq!(header.client_id, None);
    assert_eq!(header.correlation_id, 9);
    let Request::Heartbeat(heartbeat) = request else { panic!("a Heartbeat") };
    assert_eq!((heartbeat.group_id.as_str(), heartbeat.generation_id), ("g", 1));

    // A tagged field that goes beyond the frame.
    let frame = hex("000c 0004 00000009 ffff 01 05 7f aabb");
    assert!(matches!(decode_request_slice(&frame), Err(DecodeError::Header(WireError::TooShort { .. }))));
}

#[test]
fn software_names_follow_kafkas_pattern() {
    let request = |name: &str, version: &str| ApiVersionsRequest {
        client_software_name: text(name),
        client_software_version: text(version),
    };
    for word in ["a", "apache-kafka-java", "4.3.1", "x-.y"] {
        assert!(request(word, "1").is_valid(3), "{word}");
    }
    for word in ["", "-a", "a.", "a b", "ä", "a_b"] {
        assert!(!request(word, "1").is_valid(3), "{word}");
        assert!(!request("a", word).is_valid(4), "{word}");
        assert!(request(word, word).is_valid(2), "older versions have no such field");
    }
}

#[test]
fn api_versions_advertises_what_is_served_and_finalises_nothing() {
    for version in 0..=4 {
        let header = header(ApiKey::ApiVersions, version);
        let response = ApiVersionsResponse::supported(Vec::new());
        let frame = encode_response(&header, Response::ApiVersions(response)).unwrap();
        let oracle: messages::ApiVersionsResponse = oracle_decodes(&header, &frame);
        assert_eq!(oracle.api_keys.len(), SUPPORTED.len());
        assert_eq!((oracle.finalized_features_epoch, oracle.finalized_features.len()), (-1, 0));
        let produce = &oracle.api_keys[0];
        assert_eq!((produce.api_key, produce.min_version, produce.max_version), (0, 0, 13));
    }
}

#[test]
fn cold_responses_have_the_right_header() {
    for version in 0..=4 {
        let header = header(ApiKey::Heartbeat, version);
        let response = HeartbeatResponse::default().with_error_code(ErrorCode::RebalanceInProgress.code());
        let frame = encode_response(&header, Response::Heartbeat(response.clone())).unwrap();
        assert_eq!(&frame.to_contiguous()[..], &oracle_response(&header, &response)[..]);
        assert_eq!(oracle_decodes::<HeartbeatResponse>(&header, &frame), response);
    }
    let header = header(ApiKey::OffsetDelete, 0);
    let frame = encode_response(&header, Response::OffsetDelete(OffsetDeleteResponse::default())).unwrap();
    assert_eq!(&frame.to_contiguous()[..], &hex("0000000e 00000007 0000 00000000 00000000")[..]);
}

#[test]
fn a_response_that_does_not_fit_its_request_is_an_error_not_a_frame() {
    let list = Response::ListGroups(ListGroupsResponse::default());
    let wrong = encode_response(&header(ApiKey::Heartbeat, 0), list);
    assert!(matches!(wrong, Err(EncodeError::WrongApi { .. })));
    let long = ProducePartitionResponse {
        error_message: Some(text(&"x".repeat(40_000))),
        ..ProducePartitionResponse::refused(0, ErrorCode::InvalidRecord)
    };
    let topic = ProduceTopicResponse { topic: TopicRef::Name(text("t")), partitions: vec![long] };
    let response = ProduceResponse { topics: vec![topic], ..ProduceResponse::default() };
    let wrong = encode_response(&header(ApiKey::Produce, 8), Response::Produce(response));
    assert_eq!(wrong, Err(EncodeError::StringTooLong(40_000)));
}

/// Laid out by hand from the schemas of Kafka 2.x, the last that had versions 0 and 1.
#[test]
fn create_topics_0_and_1() {
    let topics =
        "00000001 0001 74 00000003 0001 00000001 00000000 00000001 00000005 00000001 0001 6b 0001 76";
    for version in 0..=1 {
        let mut body = hex(topics);
        body.extend(hex("00001388"));
        if version == 1 {
            body.push(1);
        }
        let header = header(ApiKey::CreateTopics, version);
        let mut frame = frame_of(&header, &body);
        frame.extend_from_slice(&[0xff; 3]);
        let Request::CreateTopics(request) = decode_request(frame).unwrap().1 else {
            panic!("a CreateTopics")
        };
        let topic = &request.topics[0];
        assert_eq!((topic.name.as_str(), topic.num_partitions, topic.replication_factor), ("t", 3, 1));
        assert_eq!(topic.assignments[0].broker_ids, [messages::BrokerId(5)]);
        assert_eq!((topic.configs[0].name.as_str(), topic.configs[0].value.as_deref()), ("k", Some("v")));
        assert_eq!((request.timeout_ms, request.validate_only), (5000, version == 1));

        let result = CreatableTopicResult::default()
            .with_name(text("t").into())
            .with_error_code(ErrorCode::TopicAlreadyExists.code())
            .with_error_message(Some(text("it is")));
        let response = CreateTopicsResponse::default().with_throttle_time_ms(9).with_topics(vec![result]);
        let frame = encode_response(&header, Response::CreateTopics(response)).unwrap();
        let expected = match version {
            0 => "00000007 00000001 0001 74 0024",
            _ => "00000007 00000001 0001 74 0024 0005 6974206973",
        };
        assert_eq!(&payload(&frame)[..], &hex(expected)[..]);
    }
}
