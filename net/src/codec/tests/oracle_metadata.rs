//! Metadata and ApiVersions against the second codec, every version.

use super::super::*;
use super::oracle_produce::any_error;
use super::*;
use kafka_protocol::messages::api_versions_response::{ApiVersion, SupportedFeatureKey};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic as OracleTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsRequest as OracleApiVersionsRequest, ApiVersionsResponse as OracleApiVersions,
    MetadataRequest as OracleRequest, MetadataResponse as OracleResponse,
};

fn any_request() -> impl Strategy<Value = (i16, MetadataRequest)> {
    (0i16..=13).prop_flat_map(|version| {
        let topic =
            (any_uuid(), prop::option::of(any_text())).prop_map(move |(id, name)| MetadataRequestTopic {
                topic_id: if version >= 10 { id } else { Uuid::nil() },
                name: if version >= 10 { name } else { Some(name.unwrap_or_default()) },
            });
        let topics = prop::option::of(prop::collection::vec(topic, 0..4));
        (topics, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            move |(topics, create, cluster, topic)| {
                let request = MetadataRequest {
                    // Version 0 has no way to ask for no topic at all.
                    topics: topics.filter(|topics| version > 0 || !topics.is_empty()),
                    allow_auto_topic_creation: create || version < 4,
                    include_cluster_authorized_operations: cluster && (8..=10).contains(&version),
                    include_topic_authorized_operations: topic && version >= 8,
                };
                (version, request)
            },
        )
    })
}

fn oracle_of_request(request: &MetadataRequest, version: i16) -> OracleRequest {
    let topics = request.topics.as_ref().map(|topics| {
        let topic = |topic: &MetadataRequestTopic| {
            OracleTopic::default().with_topic_id(topic.topic_id).with_name(topic.name.clone().map(Into::into))
        };
        topics.iter().map(topic).collect()
    });
    OracleRequest::default()
        .with_topics(if version == 0 { Some(topics.unwrap_or_default()) } else { topics })
        .with_allow_auto_topic_creation(request.allow_auto_topic_creation)
        .with_include_cluster_authorized_operations(request.include_cluster_authorized_operations)
        .with_include_topic_authorized_operations(request.include_topic_authorized_operations)
}

fn any_partition(version: i16) -> impl Strategy<Value = PartitionListing> {
    let nodes = || prop::collection::vec(any::<i32>(), 0..4);
    (any_error(), any::<i32>(), any::<i32>(), any::<i32>(), nodes(), nodes(), nodes()).prop_map(
        move |(error, partition, leader_id, leader_epoch, replicas, in_sync_replicas, offline)| {
            PartitionListing {
                error,
                partition,
                leader_id,
                leader_epoch: if version >= 7 { leader_epoch } else { -1 },
                replicas,
                in_sync_replicas,
                offline_replicas: if version >= 5 { offline } else { Vec::new() },
            }
        },
    )
}

fn any_topic(version: i16) -> impl Strategy<Value = TopicListing> {
    let partitions = prop::collection::vec(any_partition(version), 0..4);
    (any_error(), prop::option::of(any_text()), any_uuid(), any::<bool>(), any::<i32>(), partitions).prop_map(
        move |(error, name, topic_id, is_internal, operations, partitions)| TopicListing {
            error,
            name: if version >= 12 { name } else { Some(name.unwrap_or_default()) },
            topic_id: if version >= 10 { topic_id } else { Uuid::nil() },
            is_internal: is_internal && version >= 1,
            partitions,
            authorized_operations: if version >= 8 { operations } else { OPERATIONS_NOT_ASKED },
        },
    )
}

fn any_response() -> impl Strategy<Value = (i16, MetadataResponse)> {
    (0i16..=13).prop_flat_map(|version| {
        let broker = (any::<i32>(), any_text(), any::<i32>(), prop::option::of(any_text())).prop_map(
            move |(node_id, host, port, rack)| BrokerListing {
                node_id,
                host,
                port,
                rack: rack.filter(|_| version >= 1),
            },
        );
        let lists = (prop::collection::vec(broker, 0..4), prop::collection::vec(any_topic(version), 0..4));
        let numbers = (any::<i32>(), any::<i32>(), any::<i32>());
        (lists, numbers, prop::option::of(any_text()), any_error()).prop_map(
            move |(lists, numbers, cluster_id, error)| {
                let has_operations = (8..=10).contains(&version);
                let response = MetadataResponse {
                    throttle_time_ms: if version >= 3 { numbers.0 } else { 0 },
                    brokers: lists.0,
                    cluster_id: cluster_id.filter(|_| version >= 2),
                    controller_id: if version >= 1 { numbers.1 } else { -1 },
                    topics: lists.1,
                    cluster_operations: if has_operations { numbers.2 } else { OPERATIONS_NOT_ASKED },
                    error: if version >= 13 { error } else { ErrorCode::None },
                };
                (version, response)
            },
        )
    })
}

fn oracle_of_topic(topic: &TopicListing) -> MetadataResponseTopic {
    let nodes = |nodes: &[i32]| nodes.iter().map(|node| (*node).into()).collect();
    let partitions = topic.partitions.iter().map(|partition| {
        MetadataResponsePartition::default()
            .with_error_code(partition.error.code())
            .with_partition_index(partition.partition)
            .with_leader_id(partition.leader_id.into())
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(nodes(&partition.replicas))
            .with_isr_nodes(nodes(&partition.in_sync_replicas))
            .with_offline_replicas(nodes(&partition.offline_replicas))
    });
    MetadataResponseTopic::default()
        .with_error_code(topic.error.code())
        .with_name(topic.name.clone().map(Into::into))
        .with_topic_id(topic.topic_id)
        .with_is_internal(topic.is_internal)
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(topic.authorized_operations)
}

fn oracle_of_response(response: &MetadataResponse) -> OracleResponse {
    let brokers = response.brokers.iter().map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(broker.node_id.into())
            .with_host(broker.host.clone())
            .with_port(broker.port)
            .with_rack(broker.rack.clone())
    });
    OracleResponse::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_brokers(brokers.collect())
        .with_cluster_id(response.cluster_id.clone())
        .with_controller_id(response.controller_id.into())
        .with_topics(response.topics.iter().map(oracle_of_topic).collect())
        .with_cluster_authorized_operations(response.cluster_operations)
        .with_error_code(response.error.code())
}

/// Writes an owned response through the writer, as a handler does from its snapshot.
pub(super) fn write(
    header: &RequestHeader,
    response: &MetadataResponse,
) -> Result<ResponseFrame, EncodeError> {
    let broker =
        |broker: &BrokerListing| (broker.node_id, broker.host.clone(), broker.port, broker.rack.clone());
    let owned: Vec<_> = response.brokers.iter().map(broker).collect();
    let brokers: Vec<_> = owned
        .iter()
        .map(|(node_id, host, port, rack)| MetadataBroker {
            node_id: *node_id,
            host,
            port: *port,
            rack: rack.as_deref(),
        })
        .collect();
    let head = MetadataHead {
        throttle_time_ms: response.throttle_time_ms,
        brokers: &brokers,
        cluster_id: response.cluster_id.as_deref(),
        controller_id: response.controller_id,
        topic_count: response.topics.len(),
        partition_count_hint: 0,
    };
    let mut writer = MetadataWriter::new(header, &head);
    for topic in &response.topics {
        writer.topic(&MetadataTopic {
            error: topic.error,
            name: topic.name.as_deref(),
            topic_id: topic.topic_id,
            is_internal: topic.is_internal,
            authorized_operations: topic.authorized_operations,
            partition_count: topic.partitions.len(),
        });
        for partition in &topic.partitions {
            writer.partition(&MetadataPartition {
                error: partition.error,
                partition: partition.partition,
                leader_id: partition.leader_id,
                leader_epoch: partition.leader_epoch,
                replicas: &partition.replicas,
                in_sync_replicas: &partition.in_sync_replicas,
                offline_replicas: &partition.offline_replicas,
            });
        }
    }
    writer.finish(response.cluster_operations, response.error)
}

fn any_api_versions() -> impl Strategy<Value = (i16, ApiVersionsResponse)> {
    let range = (any::<i16>(), any::<i16>(), any::<i16>()).prop_map(|(api_key, min_version, max_version)| {
        AdvertisedRange { api_key, min_version, max_version }
    });
    let feature = (any_text(), 0i16..3, any::<i16>())
        .prop_map(|(name, min_version, max_version)| SupportedFeature { name, min_version, max_version });
    let lists = (prop::collection::vec(range, 0..9), prop::collection::vec(feature, 0..4));
    (0i16..=4, lists, any_error(), any::<i32>()).prop_map(|(version, lists, error, throttle)| {
        let response = ApiVersionsResponse {
            error,
            apis: lists.0,
            throttle_time_ms: if version >= 1 { throttle } else { 0 },
            supported_features: if version >= 3 { lists.1 } else { Vec::new() },
        };
        (version, response)
    })
}

fn oracle_of_api_versions(response: &ApiVersionsResponse) -> OracleApiVersions {
    let apis = response.apis.iter().map(|range| {
        ApiVersion::default()
            .with_api_key(range.api_key)
            .with_min_version(range.min_version)
            .with_max_version(range.max_version)
    });
    let features = response.supported_features.iter().map(|feature| {
        SupportedFeatureKey::default()
            .with_name(feature.name.clone())
            .with_min_version(feature.min_version)
            .with_max_version(feature.max_version)
    });
    OracleApiVersions::default()
        .with_error_code(response.error.code())
        .with_api_keys(apis.collect())
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_supported_features(features.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn requests((version, request) in any_request()) {
        let header = header(ApiKey::Metadata, version);
        let frame = request.encode(&header).unwrap();
        let oracle = oracle_request(&header, &oracle_of_request(&request, version));
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle[..]);

        let decoded = decode_request(payload(&frame)).unwrap();
        prop_assert_eq!(decoded, (header, Request::Metadata(request)));
    }

    #[test]
    fn responses((version, response) in any_response()) {
        let header = header(ApiKey::Metadata, version);
        let frame = write(&header, &response).unwrap();
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle_response(&header, &oracle_of_response(&response))[..]);

        let mut body = response_body(&header, &frame);
        prop_assert_eq!(MetadataResponse::decode(&mut body, version), Ok(response));
        prop_assert!(body.rest().is_empty());
    }

    #[test]
    fn api_versions_requests(version in 0i16..=4, name in any_text(), software in any_text()) {
        let request = match version {
            0..3 => ApiVersionsRequest::default(),
            _ => ApiVersionsRequest { client_software_name: name, client_software_version: software },
        };
        let oracle = OracleApiVersionsRequest::default()
            .with_client_software_name(request.client_software_name.clone())
            .with_client_software_version(request.client_software_version.clone());
        let header = header(ApiKey::ApiVersions, version);
        let frame = request.encode(&header).unwrap();
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle_request(&header, &oracle)[..]);
        prop_assert_eq!(decode_request(payload(&frame)).unwrap(), (header, Request::ApiVersions(request)));
    }

    #[test]
    fn api_versions_responses((version, mut response) in any_api_versions()) {
        let header = header(ApiKey::ApiVersions, version);
        let frame = encode_response(&header, Response::ApiVersions(response.clone())).unwrap();
        // What older clients cannot read is not written.
        response.supported_features.retain(|feature| version >= 4 || feature.min_version > 0);
        prop_assert_eq!(&frame.to_contiguous()[..], &oracle_response(&header, &oracle_of_api_versions(&response))[..]);

        let mut body = response_body(&header, &frame);
        prop_assert_eq!(ApiVersionsResponse::decode(&mut body, version), Ok(response));
        prop_assert!(body.rest().is_empty());
    }
}

#[test]
fn a_null_topic_name_before_version_12_is_an_error_of_ours() {
    let topic = TopicListing {
        error: ErrorCode::UnknownTopicId,
        name: None,
        topic_id: Uuid::from_u128(5),
        is_internal: false,
        partitions: Vec::new(),
        authorized_operations: OPERATIONS_NOT_ASKED,
    };
    let response = MetadataResponse {
        throttle_time_ms: 0,
        brokers: Vec::new(),
        cluster_id: None,
        controller_id: -1,
        topics: vec![topic],
        cluster_operations: OPERATIONS_NOT_ASKED,
        error: ErrorCode::None,
    };
    assert_eq!(write(&header(ApiKey::Metadata, 11), &response), Err(EncodeError::UnexpectedNull));
    assert!(write(&header(ApiKey::Metadata, 12), &response).is_ok());
}
