//! Group APIs: each group's request goes to the coordinator that owns it; what names several groups is gathered.
//!
//! Runs on the connection's shard. A group belongs to the partition of `__consumer_offsets` that the hash of its name
//! picks; the coordinator lives with that partition, on the shard that owns it.

use std::rc::Rc;

use chronik_net::codec::messages::describe_groups_response::DescribedGroup;
use chronik_net::codec::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    ListGroupsRequest, ListGroupsResponse, OffsetFetchRequest, OffsetFetchResponse,
};
use chronik_net::codec::{ErrorCode, Request, RequestHeader, Response};
use kafka_protocol::ResponseError;

use super::find_coordinator::group_partition;
use super::service::{Broker, Connection};
use crate::coordinator::{GroupRequest, GroupResponse, RequestKind};
use crate::shard::message::{Reply, Request as Question};

/// First OffsetFetch version that asks for several groups.
const FETCH_BATCH_FROM: i16 = 8;

/// Answers a group request.
pub async fn answer(broker: Rc<Broker>, context: Context, request: Request) -> Option<Response> {
    Some(match request {
        Request::JoinGroup(request) => {
            one(&broker, &context, &request.group_id.clone(), RequestKind::JoinGroup(request)).await
        }
        Request::SyncGroup(request) => {
            one(&broker, &context, &request.group_id.clone(), RequestKind::SyncGroup(request)).await
        }
        Request::Heartbeat(request) => {
            one(&broker, &context, &request.group_id.clone(), RequestKind::Heartbeat(request)).await
        }
        Request::LeaveGroup(request) => {
            one(&broker, &context, &request.group_id.clone(), RequestKind::LeaveGroup(request)).await
        }
        Request::OffsetCommit(request) => {
            one(&broker, &context, &request.group_id.clone(), RequestKind::OffsetCommit(request)).await
        }
        Request::OffsetDelete(request) => {
            one(&broker, &context, &request.group_id.clone(), RequestKind::OffsetDelete(request)).await
        }
        Request::OffsetFetch(request) if context.version < FETCH_BATCH_FROM => {
            one(&broker, &context, &request.group_id.clone(), RequestKind::OffsetFetch(request)).await
        }
        Request::OffsetFetch(request) => fetch_many(&broker, &context, request).await,
        Request::DescribeGroups(request) => describe(&broker, &context, request).await,
        Request::DeleteGroups(request) => delete(&broker, &context, request).await,
        Request::ListGroups(request) => list(&broker, &context, request).await,
        _ => return None,
    })
}

/// What a coordinator is told of the client.
pub struct Context {
    /// The request's version.
    pub version: i16,
    client_id: String,
    client_host: String,
}

impl Context {
    /// Of a request on a connection.
    #[must_use]
    pub fn new(header: &RequestHeader, connection: &Connection) -> Self {
        Self {
            version: header.api_version,
            client_id: header.client_id.as_deref().unwrap_or_default().to_owned(),
            client_host: format!("/{}", connection.peer.ip()),
        }
    }

    fn request(&self, kind: RequestKind) -> GroupRequest {
        GroupRequest {
            version: self.version,
            client_id: self.client_id.clone().into(),
            client_host: self.client_host.clone().into(),
            kind,
        }
    }
}

async fn ask(broker: &Rc<Broker>, context: &Context, group: &GroupId, kind: RequestKind) -> GroupResponse {
    let request = context.request(kind);
    let snapshot = broker.router.snapshot();
    let Some((_, view)) = group_partition(&snapshot, group) else {
        return request.refused(ResponseError::NotCoordinator);
    };
    let partition = view.group;
    let fallback = request.clone();
    let question = Question::Group { partition, request: Box::new(request) };
    let (_, answer) = broker.router.ask(broker.router.owner(partition), question);
    match answer.await {
        Some(Reply::Group(response)) => *response,
        _ => fallback.refused(ResponseError::NotCoordinator),
    }
}

async fn one(broker: &Rc<Broker>, context: &Context, group: &GroupId, kind: RequestKind) -> Response {
    response(ask(broker, context, group, kind).await)
}

fn response(answer: GroupResponse) -> Response {
    match answer {
        GroupResponse::JoinGroup(response) => Response::JoinGroup(response),
        GroupResponse::SyncGroup(response) => Response::SyncGroup(response),
        GroupResponse::Heartbeat(response) => Response::Heartbeat(response),
        GroupResponse::LeaveGroup(response) => Response::LeaveGroup(response),
        GroupResponse::OffsetCommit(response) => Response::OffsetCommit(response),
        GroupResponse::OffsetFetch(response) => Response::OffsetFetch(response),
        GroupResponse::OffsetDelete(response) => Response::OffsetDelete(response),
        GroupResponse::ListGroups(response) => Response::ListGroups(response),
        GroupResponse::DescribeGroups(response) => Response::DescribeGroups(response),
        GroupResponse::DeleteGroups(response) => Response::DeleteGroups(response),
    }
}

async fn fetch_many(broker: &Rc<Broker>, context: &Context, request: OffsetFetchRequest) -> Response {
    let mut merged = OffsetFetchResponse::default();
    for group in request.groups {
        let id = group.group_id.clone();
        let part = OffsetFetchRequest::default()
            .with_require_stable(request.require_stable)
            .with_groups(vec![group]);
        if let GroupResponse::OffsetFetch(answer) =
            ask(broker, context, &id, RequestKind::OffsetFetch(part)).await
        {
            merged.groups.extend(answer.groups);
        }
    }
    Response::OffsetFetch(merged)
}

async fn describe(broker: &Rc<Broker>, context: &Context, request: DescribeGroupsRequest) -> Response {
    let mut merged = DescribeGroupsResponse::default();
    for group in request.groups {
        let part = DescribeGroupsRequest::default()
            .with_include_authorized_operations(request.include_authorized_operations)
            .with_groups(vec![group.clone()]);
        match ask(broker, context, &group, RequestKind::DescribeGroups(part)).await {
            GroupResponse::DescribeGroups(answer) => merged.groups.extend(answer.groups),
            _ => merged.groups.push(
                DescribedGroup::default()
                    .with_group_id(group)
                    .with_error_code(ErrorCode::CoordinatorNotAvailable.code()),
            ),
        }
    }
    Response::DescribeGroups(merged)
}

async fn delete(broker: &Rc<Broker>, context: &Context, request: DeleteGroupsRequest) -> Response {
    let mut merged = DeleteGroupsResponse::default();
    for group in request.groups_names {
        let part = DeleteGroupsRequest::default().with_groups_names(vec![group.clone()]);
        if let GroupResponse::DeleteGroups(answer) =
            ask(broker, context, &group, RequestKind::DeleteGroups(part)).await
        {
            merged.results.extend(answer.results);
        }
    }
    Response::DeleteGroups(merged)
}

async fn list(broker: &Rc<Broker>, context: &Context, request: ListGroupsRequest) -> Response {
    let request = context.request(RequestKind::ListGroups(request));
    let ask = |shard| broker.router.ask(shard, Question::GroupAll(Box::new(request.clone()))).1;
    let answers: Vec<_> = broker.router.shards().map(ask).collect();
    let mut merged = ListGroupsResponse::default();
    for answer in answers {
        let Some(Reply::GroupAll(parts)) = answer.await else {
            merged.error_code = ErrorCode::CoordinatorNotAvailable.code();
            continue;
        };
        for part in parts {
            let GroupResponse::ListGroups(part) = part else { continue };
            if part.error_code != 0 {
                merged.error_code = part.error_code;
            }
            merged.groups.extend(part.groups);
        }
    }
    merged.groups.sort_by(|one, other| one.group_id.cmp(&other.group_id));
    Response::ListGroups(merged)
}
