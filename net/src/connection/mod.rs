//! Connections: from a socket to frames, from frames to a [`Service`], and the answers back in order.
//!
//! Each connection lives on one shard at a time, as one task that both reads and writes: what arrives in one read is dispatched
//! and what is answered at once leaves in one vectored write, without a second task in between. Between two requests it may
//! move to another shard, when its service asks for that ([`Slot::move_to`]).
//!
//! Measured (`examples/echo.rs`, 2 cores shared with a blocking client): a lone 128-byte request 61 µs round trip and
//! 17 µs of CPU on the shard; 256-byte requests 128 at a time 0.25 µs of CPU each; frames of 1 MiB 3.8 GB/s and 0.09 s of CPU a GB.
//!
//! Reading order: this file (the service's view), `pipeline` (order), `budget` (memory), `shared` (state and
//! answers), `socket`, `reader`, `writer`, `set` (all connections of a shard: adoption, idle clients, shutdown), `moving`
//! (from one shard to another).
//!
//! Invariants: requests start in the order of their arrival, a request that is not pipelined alone; responses leave in
//! the order of requests; requests, their bytes and unsent answers are bounded per connection, request bytes per shard
//! too, and whoever is over a bound is not read from.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

mod budget;
mod moving;
#[cfg(test)]
mod moving_tests;
mod pipeline;
mod reader;
mod set;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

pub use moving::{Moved, Ways};
pub use set::{ConnectionStats, Connections};
pub use shared::{Responder, Slot};

/// What a service may know of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Number of the connection, unique in this process.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// Our address as the client used it.
    pub local: SocketAddr,
    /// Name of the listener it came by.
    pub listener: Arc<str>,
}

/// A whole response, its length prefix included: one slice or several, sent as they are.
#[derive(Clone, Debug)]
pub enum ResponseFrame {
    /// One slice.
    One(Bytes),
    /// Several, in order.
    Many(Vec<Bytes>),
}

impl ResponseFrame {
    /// Length of the whole response.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::One(slice) => slice.len(),
            Self::Many(slices) => slices.iter().map(Bytes::len).sum(),
        }
    }

    /// Hands out the slices in order.
    pub fn for_each(self, mut take: impl FnMut(Bytes)) {
        match self {
            Self::One(slice) => take(slice),
            Self::Many(slices) => slices.into_iter().for_each(take),
        }
    }
}

impl From<Bytes> for ResponseFrame {
    fn from(slice: Bytes) -> Self {
        Self::One(slice)
    }
}

impl From<Vec<Bytes>> for ResponseFrame {
    fn from(slices: Vec<Bytes>) -> Self {
        Self::Many(slices)
    }
}

/// The end of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Send this.
    Reply(ResponseFrame),
    /// Send this, then start no request of this connection for so many milliseconds (Kafka's throttling).
    ReplyThenMute {
        /// The response.
        frame: ResponseFrame,
        /// How long.
        mute_ms: u64,
    },
    /// Send this, and close once it has left.
    ReplyThenClose {
        /// The response.
        frame: ResponseFrame,
        /// Why.
        reason: CloseReason,
    },
    /// Send nothing (produce with acks=0); the next answer may leave.
    NoReply,
    /// Send nothing, and close once the answers before this one have left.
    Close(CloseReason),
}

/// What [`Service::call`] makes of a request.
pub enum Call {
    /// It has ended already.
    Done(Outcome),
    /// It ends when this future does. It runs as a task of its own and is not cancelled when the client goes.
    Later(Pin<Box<dyn Future<Output = Outcome>>>),
    /// It ends when the [`Responder`] taken from the slot is used; no task is made.
    Deferred,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(outcome) => write!(f, "Done({outcome:?})"),
            Self::Later(_) => f.write_str("Later"),
            Self::Deferred => f.write_str("Deferred"),
        }
    }
}

/// Answers requests. One instance a shard.
pub trait Service: 'static {
    /// What the service keeps for each connection (client id, session, credentials). It moves along with the connection.
    type Connection: Send + 'static;

    /// A client has come.
    fn connected(&self, info: &ConnectionInfo) -> Self::Connection;

    /// Whether a request may run beside other pipelined requests of its connection (in Kafka's terms: Produce).
    /// Asked with the whole frame, before [`Service::call`]; must not trust it.
    fn pipelines(&self, frame: &[u8]) -> bool;

    /// Starts a request. `frame` is without its length prefix. Called in the order of arrival and not async, so that the order
    /// of dispatch is the order of arrival.
    fn call(&self, connection: &mut Self::Connection, frame: BytesMut, slot: &Slot) -> Call;

    /// The connection has ended; requests under way may still complete, to no effect.
    fn closed(&self, connection: Self::Connection, reason: &CloseReason);

    /// The connection is about to be sent to another shard: what this one keeps of it goes along in `connection`.
    fn leaves(&self, connection: &mut Self::Connection) {
        let _ = connection;
    }

    /// After [`Service::leaves`]: the other shard takes none now, and the connection goes on here.
    fn stays(&self, connection: &mut Self::Connection) {
        let _ = connection;
    }

    /// A connection has come from another shard. It was announced by [`Service::connected`] on its first one.
    fn arrives(&self, connection: &mut Self::Connection) {
        let _ = connection;
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The client closed it.
    #[error("closed by the client")]
    Client,
    /// The socket failed.
    #[error("socket error: {0}")]
    Socket(std::io::ErrorKind),
    /// The client sent a length that is no frame's.
    #[error(transparent)]
    Frame(#[from] crate::frame_reader::FrameError),
    /// Nothing came for `connections.max.idle.ms`.
    #[error("idle for too long")]
    Idle,
    /// Half a frame held memory that others wait for.
    #[error("half a frame, and others wait for its memory")]
    Stalled,
    /// The service asked for it.
    #[error("{0}")]
    Service(&'static str),
    /// A request was dropped without an answer.
    #[error("a request was dropped without an answer")]
    Abandoned,
    /// The server ends.
    #[error("the server shuts down")]
    Shutdown,
}

/// Bounds of the connections of one shard.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionConfig {
    /// `socket.request.max.bytes`: no frame is longer.
    pub frame_bytes_max: usize,
    /// Requests of one connection that are under way or whose answer has not left.
    pub requests_max: usize,
    /// Bytes of requests under way on one connection; a single larger request is let in alone.
    pub request_bytes_max: usize,
    /// Bytes of requests, under way or half received, on the shard.
    pub shard_request_bytes_max: usize,
    /// Unsent answers beyond which no further request of the connection starts.
    pub unsent_bytes_max: usize,
    /// `connections.max.idle.ms`.
    pub idle_ms: u64,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            frame_bytes_max: crate::frame_reader::FRAME_BYTES_MAX,
            // Clients pipeline 5 (Java) to a few hundred (librdkafka) requests.
            requests_max: 1_024,
            request_bytes_max: 32 << 20,
            shard_request_bytes_max: 256 << 20,
            unsent_bytes_max: 1 << 20,
            idle_ms: 600_000,
        }
    }
}
