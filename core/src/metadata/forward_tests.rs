//! What is asked of another node arrives as it was.

use std::collections::BTreeMap;

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::create_topics_response::{CreatableTopicResult, CreateTopicsResponse};
use kafka_protocol::messages::delete_topics_request::DeleteTopicsRequest;
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::metadata::bootstrap::Standing;

fn name(name: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(name))
}

fn round_trip(request: AdminRequest) -> String {
    let id = RequestId { node: NodeId(2), incarnation: u64::MAX, sequence: 7 };
    let ask = Ask::Request { id, timeout_ms: 5, request };
    let read = decode_ask(&encode_ask(&ask)).expect("it is read");
    assert_eq!(format!("{read:?}"), format!("{ask:?}"));
    format!("{read:?}")
}

#[test]
fn requests_of_clients_and_of_nodes_arrive_whole() {
    let topic =
        CreatableTopic::default().with_name(name("t")).with_num_partitions(3).with_replication_factor(-1);
    let create =
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(9).with_validate_only(true);
    assert!(round_trip(AdminRequest::CreateTopics(create)).contains("\"t\""));
    let by_name = DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
    round_trip(AdminRequest::DeleteTopics(by_name, 3));
    round_trip(AdminRequest::AutoCreate(vec!["a".to_owned(), "é".to_owned()]));
    round_trip(AdminRequest::ProducerIds(NodeId(3)));
    let broker = Broker {
        directory: Uuid::from_u128(1),
        incarnation: Uuid::from_u128(2),
        rack: Some("r".to_owned()),
        listeners: BTreeMap::from([("PLAINTEXT".to_owned(), Endpoint { host: "h".to_owned(), port: 9092 })]),
        raft: None,
    };
    round_trip(AdminRequest::Register(NodeId(3), Box::new(broker)));
    let replica = Replica { node: NodeId(1), peer: chronik_wal::types::PeerId(u64::MAX) };
    let topic = Uuid::from_u128(u128::MAX);
    for going in [None, Some(Vec::new()), Some(vec![replica])] {
        let index = chronik_wal::types::RaftIndex(7);
        let reached = Reached { replicas: vec![replica], index, going };
        round_trip(AdminRequest::CompletePlacement { topic, partition: 0, reached });
    }
    round_trip(AdminRequest::RenewReplica { topic, partition: 0, replica });
}

#[test]
fn answers_arrive_whole() {
    let row = CreatableTopicResult::default().with_name(name("t")).with_topic_id(Uuid::from_u128(5));
    let replies = [
        AdminReply::CreateTopics(CreateTopicsResponse::default().with_topics(vec![row])),
        AdminReply::AutoCreate(vec![("x".to_owned(), ResponseError::InvalidTopicException)]),
        AdminReply::Done,
        AdminReply::Refused(ResponseError::DuplicateBrokerRegistration, "why".to_owned()),
    ];
    for reply in replies {
        let answer = Answer::Done { index: RaftIndex(u64::MAX), reply };
        let read = decode_answer(&encode_answer(&answer)).expect("it is read");
        assert_eq!(format!("{read:?}"), format!("{answer:?}"));
    }
    let standing = Standing::Fresh { peers: vec![NodeId(1)], known: Vec::new() };
    let hello = Hello { node: NodeId(1), directory: Uuid::from_u128(1), standing };
    for answer in [Answer::Hello(hello), Answer::NotController { leader: Some(NodeId(-1)) }] {
        let read = decode_answer(&encode_answer(&answer)).expect("it is read");
        assert_eq!(format!("{read:?}"), format!("{answer:?}"));
    }
}

#[test]
fn newer_and_broken_bodies_are_refused() {
    let newer = br#"{"version":2,"type":"something_new"}"#;
    let newer = [&(newer.len() as u32).to_le_bytes()[..], newer].concat();
    assert!(matches!(decode_ask(&newer.into()), Err(ForwardError::Newer(2))));
    let whole = encode_ask(&Ask::Request {
        id: RequestId { node: NodeId(1), incarnation: 1, sequence: 1 },
        timeout_ms: 1,
        request: AdminRequest::CreateTopics(
            CreateTopicsRequest::default()
                .with_topics(vec![CreatableTopic::default().with_name(name("topic"))]),
        ),
    });
    for length in 0..whole.len() {
        assert!(decode_ask(&whole.slice(..length)).is_err(), "cut at {length}");
    }
}
