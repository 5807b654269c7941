//! One shard's service: what its connections have in common, and how frames come in and answers go out.
//!
//! The bridge between `chronik_net::connection`, which knows no Kafka message, and the handlers, which know no socket.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use chronik_net::codec::{ErrorCode, TopicRef};
use chronik_net::connection::{self, Call, CloseReason, ConnectionInfo, Service, Slot};
use chronik_net::rt::clock;
use chronik_wal::types::{GroupId, ShardId};

use super::affinity::{self, Affinity};
use super::dispatch::{self, Done, Outcome, Started};
use super::fetch_session::{PartitionKey, SessionCache, SessionParcel, TopicKey};
use super::settle::Witness;
use crate::metadata::names::is_internal;
use crate::metadata::snapshot::{Snapshot, TopicView};
use crate::metrics::ShardMetrics;
use crate::shard::router::Router;

/// What the handlers of one shard share.
pub struct Broker {
    /// The way to the shards.
    pub router: Rc<Router>,
    /// Who knows whether other nodes are there.
    pub witness: Box<dyn Witness>,
    /// Where requests are counted.
    pub metrics: Arc<ShardMetrics>,
    /// What every shard of the node counts, in order.
    pub of_all: Vec<Arc<ShardMetrics>>,
    /// The fetch sessions of the connections that are on this shard.
    pub sessions: RefCell<SessionCache>,
    /// The data directory, for DescribeLogDirs.
    pub data_dir: PathBuf,
}

/// A shard that is busier than this (in thousandths of its core) does its own work and leaves its clients' to the others: what one
/// shard does for them, reading, checking and answering, another can do beside it.
const JOIN_LOAD_MAX_PERMILLE: u64 = 700;

impl Broker {
    /// Whether another shard is to take in one more connection.
    fn may_join(&self, shard: ShardId) -> bool {
        let metrics = self.of_all.get(usize::from(shard.0));
        metrics.is_some_and(|metrics| metrics.load_permille.get() <= JOIN_LOAD_MAX_PERMILLE)
    }

    /// Tells the metrics how many fetch sessions there are.
    pub fn count_sessions(&self) {
        self.metrics.fetch_sessions.set(self.sessions.borrow().sizes().0 as u64);
    }
}

/// What is kept of a connection. It moves from shard to shard with the connection.
#[derive(Debug)]
pub struct Connection {
    /// Its number.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// The listener that it came by.
    pub listener: Arc<str>,
    /// What the client says it is (ApiVersions v3 and up).
    pub software: String,
    /// The fetch session that its client uses; 0 for none.
    pub session_id: i32,
    /// That session while the connection moves: it goes along.
    session: Option<SessionParcel>,
    affinity: Affinity,
    /// Where its last request has shown it to belong; taken when that request has started.
    destination: Option<ShardId>,
}

impl Connection {
    /// What is kept of a connection that has just come.
    #[must_use]
    pub fn new(info: &ConnectionInfo) -> Self {
        Self {
            id: info.id,
            peer: info.peer,
            listener: info.listener.clone(),
            software: String::new(),
            session_id: 0,
            session: None,
            affinity: Affinity::default(),
            destination: None,
        }
    }

    /// Notes which shards a Produce or a Fetch is for.
    pub fn note_owners(&mut self, router: &Router, owners: impl Iterator<Item = ShardId>) {
        if router.has_other_shards() {
            let owner = affinity::sole(owners);
            self.destination = self.affinity.note(router.shard(), owner, clock::monotonic_ms);
        }
    }
}

/// The service of one shard.
pub struct BrokerService(pub Rc<Broker>);

impl Service for BrokerService {
    type Connection = Connection;

    fn connected(&self, info: &ConnectionInfo) -> Connection {
        tracing::debug!(connection = info.id, peer = %info.peer, listener = &*info.listener, "connection accepted");
        self.0.metrics.connections.add(1);
        self.0.metrics.connections_accepted.add(1);
        Connection::new(info)
    }

    fn pipelines(&self, frame: &[u8]) -> bool {
        dispatch::pipelines(frame)
    }

    fn call(&self, connection: &mut Connection, frame: BytesMut, slot: &Slot) -> Call {
        let done = || -> Done {
            let responder = slot.responder();
            Box::new(move |outcome| responder.complete(outcome.into()))
        };
        let started = dispatch::dispatch(&self.0, connection, frame, done);
        if let Some(shard) = connection.destination.take()
            && self.0.may_join(shard)
        {
            slot.move_to(usize::from(shard.0));
        }
        match started {
            Started::Ended(outcome) => Call::Done(outcome.into()),
            Started::Later(answer) => Call::Later(Box::pin(async move { answer.await.into() })),
            Started::Deferred => Call::Deferred,
        }
    }

    fn closed(&self, connection: Connection, reason: &CloseReason) {
        self.0.metrics.connections.sub(1);
        tracing::debug!(
            connection = connection.id,
            peer = %connection.peer,
            software = connection.software,
            %reason,
            "connection closed"
        );
    }

    fn leaves(&self, connection: &mut Connection) {
        self.0.metrics.connections.sub(1);
        connection.session = self.0.sessions.borrow_mut().take(connection.session_id);
        self.0.count_sessions();
    }

    fn stays(&self, connection: &mut Connection) {
        self.0.metrics.connections.add(1);
        self.keep_session(connection);
    }

    fn arrives(&self, connection: &mut Connection) {
        self.0.metrics.connections.add(1);
        self.0.metrics.connections_moved.add(1);
        connection.affinity.moved(clock::monotonic_ms());
        self.keep_session(connection);
    }
}

impl BrokerService {
    /// Takes in the session that came with a connection. Without room for it the client is told that it does not exist.
    fn keep_session(&self, connection: &mut Connection) {
        if let Some(session) = connection.session.take() {
            self.0.sessions.borrow_mut().put(session, clock::monotonic_ms());
            self.0.count_sessions();
        }
    }
}

impl From<Outcome> for connection::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Reply(frame) => Self::Reply(connection::ResponseFrame::Many(frame.into_slices())),
            Outcome::ReplyThenLeave(frame) => Self::ReplyThenClose {
                frame: connection::ResponseFrame::Many(frame.into_slices()),
                reason: CloseReason::Service("no leader is known here: another node may know it"),
            },
            Outcome::NoReply => Self::NoReply,
            Outcome::Close => Self::Close(CloseReason::Service("the request has no answer in the protocol")),
        }
    }
}

/// The group of a partition that a request names.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID, or INVALID_TOPIC_EXCEPTION for internal topics where they are not
/// allowed.
pub fn resolve(
    snapshot: &Snapshot,
    topic: &TopicRef,
    partition: i32,
    internal_allowed: bool,
) -> Result<GroupId, ErrorCode> {
    let (view, unknown) = match topic {
        TopicRef::Name(name) => (snapshot.topic(name), ErrorCode::UnknownTopicOrPartition),
        TopicRef::Id(id) => (snapshot.topic_by_id(id), ErrorCode::UnknownTopicId),
    };
    let view = view.ok_or(unknown)?;
    if !internal_allowed && is_internal(&view.name) {
        return Err(ErrorCode::InvalidTopicException);
    }
    group_of(view, partition)
}

/// As [`resolve`], for a partition of a fetch session.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION or UNKNOWN_TOPIC_ID.
pub fn resolve_key(snapshot: &Snapshot, key: &PartitionKey) -> Result<GroupId, ErrorCode> {
    match &key.topic {
        TopicKey::Name(name) => {
            let name = std::str::from_utf8(name).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
            resolve_name(snapshot, name, key.partition)
        }
        TopicKey::Id(id) => {
            let view = snapshot.topic_by_id(id).ok_or(ErrorCode::UnknownTopicId)?;
            group_of(view, key.partition)
        }
    }
}

/// The group of a partition by its topic's name.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION.
pub fn resolve_name(snapshot: &Snapshot, topic: &str, partition: i32) -> Result<GroupId, ErrorCode> {
    let view = snapshot.topic(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    group_of(view, partition)
}

fn group_of(view: &TopicView, partition: i32) -> Result<GroupId, ErrorCode> {
    view.partition(partition).map(|partition| partition.group).ok_or(ErrorCode::UnknownTopicOrPartition)
}
