//! From a frame to a handler: decode, note at debug, hand to the family of the API.
//!
//! Runs on the connection's shard, once a request, in the order of arrival. What is answered from the metadata snapshot
//! alone is answered at once; what needs an owner is a future.

use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use chronik_net::codec::{
    ApiKey, ApiVersionsResponse, DecodeError, EncodeError, ErrorCode, Request, RequestHeader, Response,
    ResponseFrame, SupportedFeature, decode_request, encode_response,
};

use super::service::{Broker, Connection};
use super::{admin, fetch, groups, log_dirs, offsets, produce, producer_id};

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Send this.
    Reply(ResponseFrame),
    /// Send this, and close the connection: the leader is unknown here and may be known elsewhere.
    ReplyThenLeave(ResponseFrame),
    /// Send nothing (acks=0).
    NoReply,
    /// Close the connection: there is no answer in the protocol.
    Close,
}

/// An answer on its way.
pub type Later = std::pin::Pin<Box<dyn Future<Output = Outcome>>>;

/// Whether a request may start before those before it are answered. Only Produce: its order is kept by the owners.
#[must_use]
pub fn pipelines(frame: &[u8]) -> bool {
    frame.get(..2).is_some_and(|key| key == ApiKey::Produce.key().to_be_bytes())
}

/// What ends a request that no task waits for.
pub type Done = Box<dyn FnOnce(Outcome)>;

/// How a request goes on.
pub enum Started {
    /// It has ended.
    Ended(Outcome),
    /// It ends when this future does.
    Later(Later),
    /// It ends when [`Done`] is called.
    Deferred,
}

/// Starts a request. `done` makes what ends it where no task is to wait for it.
pub fn dispatch(
    broker: &Rc<Broker>,
    connection: &mut Connection,
    request_frame: BytesMut,
    done: impl FnOnce() -> Done,
) -> Started {
    let bytes = request_frame.len();
    let (header, request) = match decode_request(request_frame) {
        Ok(decoded) => decoded,
        Err(error) => return undecodable(connection, &error),
    };
    tracing::debug!(
        connection = connection.id,
        peer = %connection.peer,
        api = header.api.name(),
        key = header.api.key(),
        version = header.api_version,
        client_id = header.client_id.as_deref().unwrap_or(""),
        correlation_id = header.correlation_id,
        "request"
    );
    let api_key = header.api.key();
    let started = Instant::now();
    let counted = broker.clone();
    let count = move || counted.metrics.answered(api_key, bytes, started.elapsed().as_micros() as u64);
    let answer = match request {
        Request::Produce(request) => {
            let done = done();
            let counted = Box::new(move |outcome| {
                count();
                done(outcome);
            });
            produce::start(broker, connection, header, request, counted);
            return Started::Deferred;
        }
        request => start(broker, connection, header, request),
    };
    Started::Later(Box::pin(async move {
        let outcome = answer.await;
        count();
        outcome
    }))
}

fn undecodable(connection: &Connection, error: &DecodeError) -> Started {
    tracing::debug!(connection = connection.id, peer = %connection.peer, %error, "request refused");
    Started::Ended(error.reply().map_or(Outcome::Close, Outcome::Reply))
}

fn start(broker: &Rc<Broker>, connection: &mut Connection, header: RequestHeader, request: Request) -> Later {
    match request {
        Request::Fetch(request) => fetch::start(broker, connection, header, request),
        Request::ApiVersions(request) => {
            let response = if request.is_valid(header.api_version) {
                connection.software =
                    format!("{} {}", request.client_software_name, request.client_software_version);
                ApiVersionsResponse::supported(Vec::<SupportedFeature>::new())
            } else {
                ApiVersionsResponse::refused(ErrorCode::InvalidRequest)
            };
            now(&header, Response::ApiVersions(response))
        }
        request => slow(broker, connection, header, request),
    }
}

/// The requests that are not worth a path of their own.
fn slow(broker: &Rc<Broker>, connection: &Connection, header: RequestHeader, request: Request) -> Later {
    let broker = broker.clone();
    let listener = connection.listener.clone();
    let context = groups::Context::new(&header, connection);
    Box::pin(async move {
        let response = match request {
            Request::ListOffsets(request) => Some(offsets::list(broker, header.api_version, request).await),
            Request::OffsetForLeaderEpoch(request) => Some(offsets::epoch_ends(broker, request).await),
            Request::DeleteRecords(request) => Some(offsets::delete_records(broker, request).await),
            Request::DescribeLogDirs(request) => {
                Some(log_dirs::describe(broker, header.api_version, request).await)
            }
            Request::InitProducerId(request) => Some(producer_id::init(broker, request).await),
            request @ (Request::JoinGroup(_)
            | Request::SyncGroup(_)
            | Request::Heartbeat(_)
            | Request::LeaveGroup(_)
            | Request::OffsetCommit(_)
            | Request::OffsetFetch(_)
            | Request::OffsetDelete(_)
            | Request::DescribeGroups(_)
            | Request::DeleteGroups(_)
            | Request::ListGroups(_)) => groups::answer(broker, context, request).await,
            request => admin::answer(broker, &header, &listener, request).await,
        };
        match response {
            Some(response) => frame(encode_response(&header, response)),
            None => Outcome::Close,
        }
    })
}

fn now(header: &RequestHeader, response: Response) -> Later {
    let outcome = frame(encode_response(header, response));
    Box::pin(std::future::ready(outcome))
}

/// As [`frame`]. `is_orphaned` says that a partition in it has had no leader that this node knows of for a while: it may be cut off.
/// A client that is told so would ask this very node for metadata, and again: clients ask the nodes that they are connected to. The
/// closed connection makes it ask another one.
pub fn frame_or_leave(encoded: Result<ResponseFrame, EncodeError>, is_orphaned: bool) -> Outcome {
    match frame(encoded) {
        Outcome::Reply(frame) if is_orphaned => Outcome::ReplyThenLeave(frame),
        outcome => outcome,
    }
}

/// An encoded response as an outcome. A handler that made a response its version cannot carry ends the connection.
pub fn frame(encoded: Result<ResponseFrame, EncodeError>) -> Outcome {
    match encoded {
        Ok(frame) => Outcome::Reply(frame),
        Err(error) => {
            tracing::error!(%error, "a response could not be encoded");
            Outcome::Close
        }
    }
}
