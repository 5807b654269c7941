//! Fetch against the second codec, every version.

use super::super::*;
use super::oracle_produce::{any_endpoints, any_error, any_leader, any_topic};
use super::*;
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{
    FetchPartition as OraclePartition, FetchTopic as OracleTopic, ForgottenTopic as OracleForgotten,
    ReplicaState,
};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction as OracleAborted, EpochEndOffset as OracleEpoch, FetchableTopicResponse,
    LeaderIdAndEpoch, NodeEndpoint as OracleEndpoint, PartitionData, SnapshotId,
};
use kafka_protocol::messages::{FetchRequest as OracleRequest, FetchResponse as OracleResponse};

fn any_partition(version: i16) -> impl Strategy<Value = FetchPartition> {
    let epochs = (any::<i32>(), any::<i32>(), prop_oneof![Just(Uuid::nil()), any_uuid()]);
    let watermark = prop_oneof![Just(HIGH_WATERMARK_UNSUPPORTED), any::<i64>()];
    (any::<i32>(), any::<i64>(), any::<i64>(), any::<i32>(), epochs, watermark).prop_map(
        move |(partition, fetch_offset, log_start, max_bytes, epochs, high_watermark)| FetchPartition {
            partition,
            current_leader_epoch: if version >= 9 { epochs.0 } else { -1 },
            fetch_offset,
            last_fetched_epoch: if version >= 12 { epochs.1 } else { -1 },
            log_start_offset: if version >= 5 { log_start } else { -1 },
            partition_max_bytes: max_bytes,
            replica_directory_id: if version >= 17 { epochs.2 } else { Uuid::nil() },
            high_watermark: if version >= 18 { high_watermark } else { HIGH_WATERMARK_UNSUPPORTED },
        },
    )
}

fn any_request() -> impl Strategy<Value = (i16, FetchRequest)> {
    (4i16..=18).prop_flat_map(|version| {
        let by_id = version >= 13;
        let topic = (any_topic(by_id), prop::collection::vec(any_partition(version), 0..4))
            .prop_map(|(topic, partitions)| FetchTopic { topic, partitions });
        let forgotten = (any_topic(by_id), prop::collection::vec(any::<i32>(), 0..4))
            .prop_map(|(topic, partitions)| ForgottenTopic { topic, partitions });
        let lists = (prop::collection::vec(topic, 0..4), prop::collection::vec(forgotten, 0..3));
        let limits = (any::<i32>(), any::<i32>(), any::<i32>(), 0..2i8);
        let session = (any::<i32>(), any::<i32>());
        let replica = prop_oneof![Just((-1, -1)), (any::<i32>(), any::<i64>())];
        let texts = (prop::option::of(any_text()), any_text());
        (lists, limits, session, replica, texts).prop_map(move |(lists, limits, session, replica, texts)| {
            let request = FetchRequest {
                cluster_id: texts.0.filter(|_| version >= 12),
                replica_id: replica.0,
                replica_epoch: if version >= 15 { replica.1 } else { -1 },
                max_wait_ms: limits.0,
                min_bytes: limits.1,
                max_bytes: limits.2,
                isolation_level: limits.3,
                session_id: if version >= 7 { session.0 } else { 0 },
                session_epoch: if version >= 7 { session.1 } else { -1 },
                topics: lists.0,
                forgotten_topics: if version >= 7 { lists.1 } else { Vec::new() },
                rack_id: if version >= 11 { texts.1 } else { StrBytes::new() },
            };
            (version, request)
        })
    })
}

fn oracle_of_fetch_partition(partition: &FetchPartition) -> OraclePartition {
    OraclePartition::default()
        .with_partition(partition.partition)
        .with_current_leader_epoch(partition.current_leader_epoch)
        .with_fetch_offset(partition.fetch_offset)
        .with_last_fetched_epoch(partition.last_fetched_epoch)
        .with_log_start_offset(partition.log_start_offset)
        .with_partition_max_bytes(partition.partition_max_bytes)
        .with_replica_directory_id(partition.replica_directory_id)
        .with_high_watermark(partition.high_watermark)
}

fn oracle_of_request(request: &FetchRequest, version: i16) -> OracleRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(oracle_of_fetch_partition).collect();
        let named = OracleTopic::default().with_partitions(partitions);
        match &topic.topic {
            TopicRef::Name(name) => named.with_topic(name.clone().into()),
            TopicRef::Id(id) => named.with_topic_id(*id),
        }
    });
    let forgotten = request.forgotten_topics.iter().map(|topic| {
        let named = OracleForgotten::default().with_partitions(topic.partitions.clone());
        match &topic.topic {
            TopicRef::Name(name) => named.with_topic(name.clone().into()),
            TopicRef::Id(id) => named.with_topic_id(*id),
        }
    });
    let oracle = OracleRequest::default()
        .with_cluster_id(request.cluster_id.clone())
        .with_max_wait_ms(request.max_wait_ms)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes)
        .with_isolation_level(request.isolation_level)
        .with_session_id(request.session_id)
        .with_session_epoch(request.session_epoch)
        .with_topics(topics.collect())
        .with_forgotten_topics_data(forgotten.collect())
        .with_rack_id(request.rack_id.clone());
    if version < 15 {
        return oracle.with_replica_id(request.replica_id.into());
    }
    let state = ReplicaState::default()
        .with_replica_id(request.replica_id.into())
        .with_replica_epoch(request.replica_epoch);
    oracle.with_replica_state(state)
}

fn any_partition_response(version: i16) -> impl Strategy<Value = FetchPartitionResponse> {
    let flexible = version >= 12;
    let epoch = || {
        prop::option::of((0..9i32, 0..9i64))
            .prop_map(|epoch| epoch.map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset }))
    };
    let aborted = (any::<i64>(), any::<i64>())
        .prop_map(|(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset });
    let records = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4);
    let numbers = (any::<i32>(), any_error(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i32>());
    let tags = (epoch(), prop::option::of(any_leader()), epoch());
    (numbers, tags, prop::option::of(prop::collection::vec(aborted, 0..3)), records).prop_map(
        move |(numbers, tags, aborted_transactions, records)| FetchPartitionResponse {
            partition: numbers.0,
            error: numbers.1,
            high_watermark: numbers.2,
            last_stable_offset: numbers.3,
            log_start_offset: if version >= 5 { numbers.4 } else { -1 },
            diverging_epoch: tags.0.filter(|_| flexible),
            current_leader: tags.1.filter(|_| flexible),
            snapshot_id: tags.2.filter(|_| flexible),
            aborted_transactions,
            preferred_read_replica: if version >= 11 { numbers.5 } else { -1 },
            records: records.into_iter().map(Bytes::from).collect(),
        },
    )
}

fn any_response() -> impl Strategy<Value = (i16, FetchResponse)> {
    (4i16..=18).prop_flat_map(|version| {
        let partitions = prop::collection::vec(any_partition_response(version), 0..4);
        let topic = (any_topic(version >= 13), partitions)
            .prop_map(|(topic, partitions)| FetchTopicResponse { topic, partitions });
        let numbers = (any::<i32>(), any_error(), any::<i32>());
        (prop::collection::vec(topic, 0..4), numbers, any_endpoints()).prop_map(
            move |(topics, numbers, endpoints)| {
                let response = FetchResponse {
                    throttle_time_ms: numbers.0,
                    error: if version >= 7 { numbers.1 } else { ErrorCode::None },
                    session_id: if version >= 7 { numbers.2 } else { 0 },
                    topics,
                    node_endpoints: if version >= 16 { endpoints } else { Vec::new() },
                };
                (version, response)
            },
        )
    })
}

fn oracle_of_partition(partition: &FetchPartitionResponse) -> PartitionData {
    let aborted = partition.aborted_transactions.as_ref().map(|all| {
        let transaction = |aborted: &AbortedTransaction| {
            OracleAborted::default()
                .with_producer_id(aborted.producer_id.into())
                .with_first_offset(aborted.first_offset)
        };
        all.iter().map(transaction).collect()
    });
    let mut oracle = PartitionData::default()
        .with_partition_index(partition.partition)
        .with_error_code(partition.error.code())
        .with_high_watermark(partition.high_watermark)
        .with_last_stable_offset(partition.last_stable_offset)
        .with_log_start_offset(partition.log_start_offset)
        .with_aborted_transactions(aborted)
        .with_preferred_read_replica(partition.preferred_read_replica.into())
        .with_records(Some(partition.records.concat().into()));
    if let Some(epoch) = partition.diverging_epoch {
        let epoch = OracleEpoch::default().with_epoch(epoch.epoch).with_end_offset(epoch.end_offset);
        oracle = oracle.with_diverging_epoch(epoch);
    }
    if let Some(leader) = partition.current_leader {
        let leader = LeaderIdAndEpoch::default()
            .with_leader_id(leader.leader_id.into())
            .with_leader_epoch(leader.leader_epoch);
        oracle = oracle.with_current_leader(leader);
    }
    if let Some(snapshot) = partition.snapshot_id {
        let snapshot = SnapshotId::default().with_epoch(snapshot.epoch).with_end_offset(snapshot.end_offset);
        oracle = oracle.with_snapshot_id(snapshot);
    }
    oracle
}

fn oracle_of_response(response: &FetchResponse) -> OracleResponse {
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(oracle_of_partition).collect();
        let named = FetchableTopicResponse::default().with_partitions(partitions);
        match &topic.topic {
            TopicRef::Name(name) => named.with_topic(name.clone().into()),
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
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_error_code(response.error.code())
        .with_session_id(response.session_id)
        .with_responses(topics.collect())
        .with_node_endpoints(endpoints.collect())
}

/// The response as a reader sees it: the slices of a partition in one.
fn with_joined_records(mut response: FetchResponse) -> FetchResponse {
    for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let joined = Bytes::from(partition.records.concat());
        partition.records = if joined.is_empty() { Vec::new() } else { vec![joined] };
    }
    response
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn requests((version, request) in any_request()) {
        let header = header(ApiKey::Fetch, version);
        let frame = request.encode(&header).unwrap();
        let oracle = oracle_request(&header, &oracle_of_request(&request, version));
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle[..]);

        let decoded = decode_request(payload(&frame)).unwrap();
        prop_assert_eq!(decoded, (header, Request::Fetch(request)));
    }

    #[test]
    fn responses((version, response) in any_response()) {
        let header = header(ApiKey::Fetch, version);
        let frame = encode_response(&header, Response::Fetch(response.clone())).unwrap();
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle_response(&header, &oracle_of_response(&response))[..]);

        let mut body = response_body(&header, &frame);
        prop_assert_eq!(FetchResponse::decode(&mut body, version), Ok(with_joined_records(response)));
        prop_assert!(body.rest().is_empty());
    }
}

#[test]
fn records_go_out_as_the_slices_that_came_in() {
    let slices = [Bytes::from(vec![1; 100]), Bytes::new(), Bytes::from(vec![2; 50])];
    let mut partition = FetchPartitionResponse::refused(0, ErrorCode::None);
    partition.records = slices.to_vec();
    let topic = FetchTopicResponse { topic: TopicRef::Id(Uuid::from_u128(1)), partitions: vec![partition] };
    let response = FetchResponse { topics: vec![topic], ..FetchResponse::default() };
    let frame = response.encode(&header(ApiKey::Fetch, 16)).unwrap();
    let sent: Vec<_> = frame.slices().iter().map(|slice| slice.as_ptr()).collect();
    assert_eq!(sent.len(), 4, "header, two slices of records, trailer");
    assert_eq!((sent[1], sent[2]), (slices[0].as_ptr(), slices[2].as_ptr()));
}
