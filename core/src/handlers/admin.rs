//! Metadata and its changes: answers from the snapshot, and what has to go to the metadata leader.
//!
//! Runs on the connection's shard. Only a change waits, for its commit; a Metadata request that makes topics waits for
//! these and answers anew.

use std::rc::Rc;

use chronik_net::codec::messages::alter_configs_response::AlterConfigsResourceResponse;
use chronik_net::codec::messages::create_partitions_response::CreatePartitionsTopicResult;
use chronik_net::codec::messages::delete_topics_response::DeletableTopicResult;
use chronik_net::codec::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalRow;
use chronik_net::codec::messages::{
    AddRaftVoterResponse, AlterConfigsResponse, AlterPartitionReassignmentsResponse,
    CreatePartitionsResponse, DeleteTopicsResponse, FindCoordinatorRequest, IncrementalAlterConfigsResponse,
    RemoveRaftVoterResponse, UnregisterBrokerResponse,
};
use chronik_net::codec::{
    ErrorCode, MetadataBroker, MetadataHead, MetadataPartition, MetadataRequest, MetadataTopic,
    MetadataWriter, Request, RequestHeader, Response,
};
use chronik_wal::types::ShardId;
use kafka_protocol::ResponseError;

use super::metadata::{MetadataAnswer, MetadataQuery, TopicKey, TopicSelection, metadata};
use super::service::Broker;
use super::settle::{LEADERS_MAX, settle};
use super::{cluster, configs, creation, elections, find_coordinator, topic_partitions};
use crate::metadata::controller::AdminResponse;
use crate::metadata::names::CONSUMER_OFFSETS;
use crate::shard::controller::{AdminReply, AdminRequest};
use crate::shard::message::{Reply, Request as Question};

/// How long a request waits for topics that are made for it.
const AUTO_CREATE_MS: u32 = 5_000;

/// How long a change of configs may take; its request names no time.
const ALTER_MS: u32 = 30_000;

/// How long DescribeQuorum looks for a leader of the metadata group.
const QUORUM_MS: u32 = 2_000;

/// Answers; none when the protocol has no answer and the connection is to be closed.
pub async fn answer(
    broker: Rc<Broker>,
    header: &RequestHeader,
    listener: &str,
    request: Request,
) -> Option<Response> {
    let version = header.api_version;
    let snapshot = broker.router.snapshot();
    Some(match request {
        Request::Metadata(request) => return answer_metadata(&broker, header, listener, request).await,
        Request::FindCoordinator(request) => find(&broker, request, version, listener).await,
        Request::DescribeCluster(request) => {
            Response::DescribeCluster(cluster::describe_cluster(&snapshot, &request, listener))
        }
        Request::DescribeTopicPartitions(request) => Response::DescribeTopicPartitions(
            match topic_partitions::describe_topic_partitions(&snapshot, &request, listener) {
                Ok(response) => response,
                Err(_) if request.topics.is_empty() => return None,
                Err(code) => topic_partitions::refused(&request, code),
            },
        ),
        Request::DescribeConfigs(request) => {
            Response::DescribeConfigs(configs::describe_configs(&snapshot, &request))
        }
        Request::ListPartitionReassignments(request) => {
            Response::ListPartitionReassignments(cluster::list_reassignments(&snapshot, &request))
        }
        Request::ElectLeaders(request) => elections::elect(&broker, request).await,
        request => change(&broker, version, request).await?,
    })
}

/// What the metadata leader decides.
async fn change(broker: &Rc<Broker>, version: i16, request: Request) -> Option<Response> {
    let timeout = |timeout_ms: i32| u32::try_from(timeout_ms).unwrap_or(0);
    let (request, original, timeout_ms) = match request {
        Request::CreateTopics(request) => {
            return Some(Response::CreateTopics(creation::create_topics(broker, request).await));
        }
        Request::DeleteTopics(request) => {
            let timeout_ms = timeout(request.timeout_ms);
            (AdminRequest::DeleteTopics(request.clone(), version), Request::DeleteTopics(request), timeout_ms)
        }
        Request::CreatePartitions(request) => {
            let timeout_ms = timeout(request.timeout_ms);
            (AdminRequest::CreatePartitions(request.clone()), Request::CreatePartitions(request), timeout_ms)
        }
        Request::AlterConfigs(request) => {
            (AdminRequest::AlterConfigs(request.clone()), Request::AlterConfigs(request), ALTER_MS)
        }
        Request::IncrementalAlterConfigs(request) => {
            let asked = AdminRequest::IncrementalAlterConfigs(request.clone());
            (asked, Request::IncrementalAlterConfigs(request), ALTER_MS)
        }
        request => return change_cluster(broker, version, request).await,
    };
    Some(match ask(broker, request, timeout_ms).await {
        AdminReply::DeleteTopics(response) => Response::DeleteTopics(response),
        AdminReply::CreatePartitions(response) => Response::CreatePartitions(response),
        AdminReply::AlterConfigs(response) => Response::AlterConfigs(response),
        AdminReply::IncrementalAlterConfigs(response) => Response::IncrementalAlterConfigs(response),
        AdminReply::Refused(code, _) => refused(&original, code)?,
        _ => refused(&original, ResponseError::NotController)?,
    })
}

/// The same for where replicas and voters are; each of these answers fails as a whole.
async fn change_cluster(broker: &Rc<Broker>, version: i16, request: Request) -> Option<Response> {
    let timeout = |timeout_ms: i32| u32::try_from(timeout_ms).unwrap_or(0);
    let (asked, timeout_ms) = match request.clone() {
        Request::AlterPartitionReassignments(request) => {
            let timeout_ms = timeout(request.timeout_ms);
            (AdminRequest::Reassign(request), timeout_ms)
        }
        Request::AddRaftVoter(request) => {
            let timeout_ms = timeout(request.timeout_ms);
            (AdminRequest::AddVoter(request), timeout_ms)
        }
        Request::RemoveRaftVoter(request) => (AdminRequest::RemoveVoter(request), ALTER_MS),
        Request::UnregisterBroker(request) => (AdminRequest::UnregisterBroker(request), ALTER_MS),
        Request::DescribeQuorum(request) => (AdminRequest::DescribeQuorum(request), QUORUM_MS),
        _ => return None,
    };
    let response = match ask(broker, asked, timeout_ms).await {
        AdminReply::Reassign(response) => Response::AlterPartitionReassignments(response),
        AdminReply::UnregisterBroker(response) => Response::UnregisterBroker(response),
        AdminReply::AddVoter(response) => Response::AddRaftVoter(response),
        AdminReply::RemoveVoter(response) => Response::RemoveRaftVoter(response),
        AdminReply::DescribeQuorum(response) => {
            Response::DescribeQuorum(cluster::quorum_for_version(response, version))
        }
        AdminReply::Refused(code, _) => refused_whole(broker, &request, code)?,
        _ => refused_whole(broker, &request, ResponseError::NotController)?,
    };
    Some(response)
}

/// The answer of an API that fails as a whole, where nobody could decide.
fn refused_whole(broker: &Rc<Broker>, request: &Request, code: ResponseError) -> Option<Response> {
    Some(match request {
        Request::AlterPartitionReassignments(request) => {
            let factor = request.allow_replication_factor_change;
            let response =
                AlterPartitionReassignmentsResponse::default().with_allow_replication_factor_change(factor);
            Response::AlterPartitionReassignments(failed(response, code))
        }
        Request::AddRaftVoter(_) => Response::AddRaftVoter(failed(AddRaftVoterResponse::default(), code)),
        Request::RemoveRaftVoter(_) => {
            Response::RemoveRaftVoter(failed(RemoveRaftVoterResponse::default(), code))
        }
        Request::UnregisterBroker(_) => {
            Response::UnregisterBroker(failed(UnregisterBrokerResponse::default(), code))
        }
        Request::DescribeQuorum(request) => {
            Response::DescribeQuorum(cluster::describe_quorum(None, &broker.router.snapshot(), request))
        }
        _ => return None,
    })
}

fn failed<R: AdminResponse>(mut response: R, code: ResponseError) -> R {
    response.fail(code);
    response
}

pub(super) async fn ask(broker: &Rc<Broker>, request: AdminRequest, timeout_ms: u32) -> AdminReply {
    let question = Question::Admin { request: Box::new(request), timeout_ms };
    match broker.router.ask(ShardId(0), question).1.await {
        Some(Reply::Admin(reply)) => *reply,
        _ => AdminReply::NotController,
    }
}

/// The answer where this node may not decide: each row of the request with this error.
fn refused(request: &Request, code: ResponseError) -> Option<Response> {
    let code = code.code();
    Some(match request {
        Request::DeleteTopics(request) => {
            let by_name = request.topic_names.iter().map(|name| (Some(name.clone()), uuid::Uuid::nil()));
            let by_id = request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id));
            let row = |(name, id)| {
                DeletableTopicResult::default().with_name(name).with_topic_id(id).with_error_code(code)
            };
            Response::DeleteTopics(
                DeleteTopicsResponse::default().with_responses(by_name.chain(by_id).map(row).collect()),
            )
        }
        Request::CreatePartitions(request) => {
            let rows = request.topics.iter().map(|topic| {
                CreatePartitionsTopicResult::default().with_name(topic.name.clone()).with_error_code(code)
            });
            Response::CreatePartitions(CreatePartitionsResponse::default().with_results(rows.collect()))
        }
        Request::AlterConfigs(request) => {
            let rows = request.resources.iter().map(|resource| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(code)
            });
            Response::AlterConfigs(AlterConfigsResponse::default().with_responses(rows.collect()))
        }
        Request::IncrementalAlterConfigs(request) => {
            let rows = request.resources.iter().map(|resource| {
                IncrementalRow::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(code)
            });
            let response = IncrementalAlterConfigsResponse::default().with_responses(rows.collect());
            Response::IncrementalAlterConfigs(response)
        }
        _ => return None,
    })
}

/// FindCoordinator; the first one for a group makes `__consumer_offsets`.
async fn find(
    broker: &Rc<Broker>,
    request: FindCoordinatorRequest,
    version: i16,
    listener: &str,
) -> Response {
    let lost = settle(broker, |snapshot| find_coordinator::leaders(snapshot, &request, version)).await;
    let find = || {
        let snapshot = broker.router.snapshot();
        find_coordinator::find_coordinator(&snapshot, &request, version, listener, &lost)
    };
    let answer = find();
    if !answer.needs_offsets_topic {
        return Response::FindCoordinator(answer.response);
    }
    let make = AdminRequest::AutoCreate(vec![CONSUMER_OFFSETS.to_owned()]);
    ask(broker, make, AUTO_CREATE_MS).await;
    Response::FindCoordinator(find().response)
}

async fn answer_metadata(
    broker: &Rc<Broker>,
    header: &RequestHeader,
    listener: &str,
    request: MetadataRequest,
) -> Option<Response> {
    let keys = request.topics.as_ref().map(|topics| {
        topics.iter().map(|topic| TopicKey { name: topic.name.as_deref(), id: topic.topic_id }).collect()
    });
    let query = MetadataQuery {
        version: header.api_version,
        listener,
        topics: TopicSelection::new(header.api_version, keys),
        allow_auto_topic_creation: request.allow_auto_topic_creation,
        include_cluster_authorized_operations: request.include_cluster_authorized_operations,
        include_topic_authorized_operations: request.include_topic_authorized_operations,
    };
    let lost = settle(broker, |snapshot| query.topics.leaders(snapshot, LEADERS_MAX)).await;
    let mut answer = metadata(&broker.router.snapshot(), &query);
    if !answer.to_create.is_empty() {
        let names = std::mem::take(&mut answer.to_create);
        let failed = creation::auto_create(broker, &names, AUTO_CREATE_MS).await;
        answer = metadata(&broker.router.snapshot(), &query);
        answer.creation_failed(&failed);
    }
    answer.lost = lost;
    write_metadata(header, &answer)
}

/// Writes the answer straight from the snapshot: no name is copied twice.
fn write_metadata(header: &RequestHeader, answer: &MetadataAnswer) -> Option<Response> {
    let brokers: Vec<MetadataBroker<'_>> = answer
        .brokers()
        .map(|row| MetadataBroker { node_id: row.node_id, host: row.host, port: row.port, rack: row.rack })
        .collect();
    let head = MetadataHead {
        throttle_time_ms: 0,
        brokers: &brokers,
        cluster_id: answer.cluster_id(),
        controller_id: answer.controller_id(),
        topic_count: answer.topics.len(),
        partition_count_hint: answer.topics.iter().map(super::metadata::TopicRow::partition_count).sum(),
    };
    let code = |code| ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError);
    let mut writer = MetadataWriter::new(header, &head);
    for topic in &answer.topics {
        writer.topic(&MetadataTopic {
            error: code(topic.error_code),
            name: topic.name.as_deref(),
            topic_id: topic.id,
            is_internal: topic.is_internal,
            authorized_operations: topic.authorized_operations,
            partition_count: topic.partition_count(),
        });
        for partition in topic.partitions(answer) {
            writer.partition(&MetadataPartition {
                error: code(partition.error_code),
                partition: partition.partition,
                leader_id: partition.leader_id,
                leader_epoch: partition.leader_epoch,
                replicas: &partition.replicas,
                in_sync_replicas: &partition.in_sync,
                offline_replicas: &partition.offline,
            });
        }
    }
    let frame = writer.finish(answer.cluster_authorized_operations, code(answer.error_code));
    frame
        .inspect_err(|error| tracing::error!(%error, "Metadata could not be encoded"))
        .ok()
        .map(Response::Metadata)
}
