//! Produce against the second codec, every version.

use super::super::*;
use super::*;
use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint as OracleEndpoint, PartitionProduceResponse,
    TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest as OracleRequest, ProduceResponse as OracleResponse};

pub(super) fn any_topic(by_id: bool) -> impl Strategy<Value = TopicRef> {
    (any_text(), any_uuid()).prop_map(move |(name, id)| match by_id {
        true => TopicRef::Id(id),
        false => TopicRef::Name(name),
    })
}

pub(super) fn any_error() -> impl Strategy<Value = ErrorCode> {
    (-1i16..=133).prop_map(ErrorCode::from_wire)
}

pub(super) fn any_leader() -> impl Strategy<Value = CurrentLeader> {
    (0..9i32, 0..9i32).prop_map(|(leader_id, leader_epoch)| CurrentLeader { leader_id, leader_epoch })
}

pub(super) fn any_endpoints() -> impl Strategy<Value = Vec<NodeEndpoint>> {
    let endpoint = (any::<i32>(), any_text(), any::<i32>(), prop::option::of(any_text()))
        .prop_map(|(node_id, host, port, rack)| NodeEndpoint { node_id, host, port, rack });
    prop::collection::vec(endpoint, 0..3)
}

fn any_request() -> impl Strategy<Value = (i16, ProduceRequest)> {
    (3i16..=13).prop_flat_map(|version| {
        let records = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
        let partition = (any::<i32>(), records).prop_map(|(index, records)| ProducePartition {
            index,
            records: records.map(|bytes| BytesMut::from(&bytes[..])),
        });
        let topic = (any_topic(version >= 13), prop::collection::vec(partition, 0..4))
            .prop_map(|(topic, partitions)| ProduceTopic { topic, partitions });
        let topics = prop::collection::vec(topic, 0..4);
        (prop::option::of(any_text()), any::<i16>(), any::<i32>(), topics).prop_map(
            move |(transactional_id, acks, timeout_ms, topics)| {
                (version, ProduceRequest { transactional_id, acks, timeout_ms, topics })
            },
        )
    })
}

fn oracle_of_request(request: &ProduceRequest) -> OracleRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            PartitionProduceData::default()
                .with_index(partition.index)
                .with_records(partition.records.clone().map(BytesMut::freeze))
        });
        let named = TopicProduceData::default().with_partition_data(partitions.collect());
        match &topic.topic {
            TopicRef::Name(name) => named.with_name(name.clone().into()),
            TopicRef::Id(id) => named.with_topic_id(*id),
        }
    });
    OracleRequest::default()
        .with_transactional_id(request.transactional_id.clone().map(Into::into))
        .with_acks(request.acks)
        .with_timeout_ms(request.timeout_ms)
        .with_topic_data(topics.collect())
}

fn any_partition_response(version: i16) -> impl Strategy<Value = ProducePartitionResponse> {
    let record_error = (any::<i32>(), prop::option::of(any_text()))
        .prop_map(|(batch_index, message)| RecordError { batch_index, message });
    let errors = prop::collection::vec(record_error, 0..3);
    let numbers = (any::<i32>(), any_error(), any::<i64>(), any::<i64>(), any::<i64>());
    (numbers, errors, prop::option::of(any_text()), prop::option::of(any_leader())).prop_map(
        move |(numbers, record_errors, error_message, current_leader)| ProducePartitionResponse {
            index: numbers.0,
            error: numbers.1,
            base_offset: numbers.2,
            log_append_time_ms: numbers.3,
            log_start_offset: if version >= 5 { numbers.4 } else { -1 },
            record_errors: if version >= 8 { record_errors } else { Vec::new() },
            error_message: error_message.filter(|_| version >= 8),
            current_leader: current_leader.filter(|_| version >= 10),
        },
    )
}

fn any_response() -> impl Strategy<Value = (i16, ProduceResponse)> {
    (3i16..=13).prop_flat_map(|version| {
        let partitions = prop::collection::vec(any_partition_response(version), 0..4);
        let topic = (any_topic(version >= 13), partitions)
            .prop_map(|(topic, partitions)| ProduceTopicResponse { topic, partitions });
        (prop::collection::vec(topic, 0..4), any::<i32>(), any_endpoints()).prop_map(
            move |(topics, throttle_time_ms, endpoints)| {
                let node_endpoints = if version >= 10 { endpoints } else { Vec::new() };
                (version, ProduceResponse { topics, throttle_time_ms, node_endpoints })
            },
        )
    })
}

fn oracle_of_partition(partition: &ProducePartitionResponse) -> PartitionProduceResponse {
    let errors = partition.record_errors.iter().map(|error| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(error.batch_index)
            .with_batch_index_error_message(error.message.clone())
    });
    let oracle = PartitionProduceResponse::default()
        .with_index(partition.index)
        .with_error_code(partition.error.code())
        .with_base_offset(partition.base_offset)
        .with_log_append_time_ms(partition.log_append_time_ms)
        .with_log_start_offset(partition.log_start_offset)
        .with_record_errors(errors.collect())
        .with_error_message(partition.error_message.clone());
    let Some(leader) = partition.current_leader else { return oracle };
    let leader = LeaderIdAndEpoch::default()
        .with_leader_id(leader.leader_id.into())
        .with_leader_epoch(leader.leader_epoch);
    oracle.with_current_leader(leader)
}

fn oracle_of_response(response: &ProduceResponse) -> OracleResponse {
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(oracle_of_partition).collect();
        let named = TopicProduceResponse::default().with_partition_responses(partitions);
        match &topic.topic {
            TopicRef::Name(name) => named.with_name(name.clone().into()),
            TopicRef::Id(id) => named.with_topic_id(*id),
        }
    });
    let endpoints = response.node_endpoints.iter().map(|endpoint| {
        OracleEndpoint::default()
            .with_node_id(endpoint.node_id.into())
            .with_host(endpoint.host.clone())
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.clone())
    });
    OracleResponse::default()
        .with_responses(topics.collect())
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_node_endpoints(endpoints.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn requests((version, request) in any_request()) {
        let header = header(ApiKey::Produce, version);
        let frame = request.clone().encode(&header).unwrap();
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle_request(&header, &oracle_of_request(&request))[..]);

        let decoded = decode_request(payload(&frame)).unwrap();
        prop_assert_eq!(decoded, (header, Request::Produce(request)));
    }

    #[test]
    fn responses((version, response) in any_response()) {
        let header = header(ApiKey::Produce, version);
        let frame = encode_response(&header, Response::Produce(response.clone())).unwrap();
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle_response(&header, &oracle_of_response(&response))[..]);

        let mut body = response_body(&header, &frame);
        prop_assert_eq!(ProduceResponse::decode(&mut body, version), Ok(response));
        prop_assert!(body.rest().is_empty());
    }
}

#[test]
fn records_are_split_off_the_frame_uncopied() {
    let partitions = (0..3)
        .map(|index| ProducePartition { index, records: Some(BytesMut::from(&[index as u8; 1000][..])) })
        .collect();
    let topics = vec![ProduceTopic { topic: TopicRef::Name(text("t")), partitions }];
    let request = ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 1, topics };
    for version in [3, 9, 12] {
        let frame = payload(&request.clone().encode(&header(ApiKey::Produce, version)).unwrap());
        let memory = frame.as_ptr_range();
        let Request::Produce(decoded) = decode_request(frame).unwrap().1 else { panic!("a Produce request") };
        for partition in &decoded.topics[0].partitions {
            let records = partition.records.as_ref().unwrap();
            assert!(memory.contains(&records.as_ptr()), "version {version} copies");
        }
    }
}

#[test]
fn a_topic_named_in_the_wrong_way_is_an_error_of_ours() {
    let topic = ProduceTopicResponse { topic: TopicRef::Name(text("t")), partitions: Vec::new() };
    let response = ProduceResponse { topics: vec![topic], ..ProduceResponse::default() };
    let refused = response.encode(&header(ApiKey::Produce, 13));
    assert_eq!(refused, Err(EncodeError::WrongTopicReference));
    let _: Bytes = response.encode(&header(ApiKey::Produce, 12)).unwrap().to_contiguous();
}
