//! Links between nodes: one from each shard to each other node, carrying frames one way.
//!
//! Knows nothing of Raft. A frame has a kind, a target shard, a group, a small fixed area and slices of payload, none of which the
//! link interprets. Answers travel by the other node's own links. Links lose what was under way when they break and
//! say so; they never reorder, duplicate or damage.
//!
//! # Files, in reading order
//! - pure, for the simulator as well: [`frame`] (bytes), [`handshake`] (who talks to whom), [`registry`] (one connection a link,
//!   no two nodes with one id), [`queue`] (bounds), [`backoff`], [`liveness`];
//! - the edge: [`link`] (the dialling side), [`listener`] (the listening side), `session` (what both share), `socket`.
//!
//! # How a node uses it
//! One [`Registry`] a node. On each shard one [`link::Link`] for each other node, and one [`listener::IncomingLinks`], fed by
//! [`listener::listen`]. The shard's pump calls [`link::Link::try_send`] for each message of a turn; they leave in one
//! vectored write when the pump yields. [`link::LinkEvent`] tells what raft and quiescence rest on.
//!
//! # Measured
//! `tests::throughput` (release, both shards on one core of a machine with a load of 6): a frame without payload 0.65 µs, of 256
//! bytes 1.0 µs (CPU 0.47 on the sending, 0.49 on the receiving shard), of 64 KiB 45 µs, which is 1.45 GB/s.
//!
//! # Invariants
//! - Frames of a link come out in the order they went in, across reconnects too; a lost one is lost with all that were under
//!   way at that moment, and [`link::LinkEvent::Down`] says so.
//! - Nothing from the network is believed before its checksum; no length before its bound; memory is bounded by
//!   queue, frame and number of connections.
//! - No borrow is held across an await; sending never blocks the pump.

pub mod backoff;
pub mod frame;
pub mod handshake;
pub mod link;
pub mod listener;
pub mod liveness;
pub mod queue;
pub mod registry;
mod resolve;
mod session;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use uuid::Uuid;

pub use frame::Frame;
pub use handshake::{ClusterId, Members, Refusal, RefusalCode};
pub use link::{Link, LinkEvent, LinkStats};
pub use listener::{FrameSink, IncomingLinks, listen};
pub use queue::{NotSent, NotSentReason};
pub use registry::{Identity, Registry};

/// The node on the other side, as it has said in its greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its node id.
    pub node: i32,
    /// Its data directory.
    pub directory: Uuid,
    /// Its number of shards: frames for it name a target below this.
    pub shard_count: u16,
    /// Its cluster; none while it is fresh.
    pub cluster: Option<ClusterId>,
    /// The shard whose link this is: ours when we dialled, theirs when they did.
    pub source_shard: u16,
    /// The protocol version agreed on.
    pub version: u16,
    /// Where it is reached, `host:port`, if it says so.
    pub address: Option<Arc<str>>,
}

/// Bounds and times of links. The same on every node of a cluster, or at least each keepalive below the others' time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Frames that wait on one link.
    pub queue_frames_max: usize,
    /// Bytes that wait on one link; a larger frame goes alone. Beyond it a slow node must be fed by Raft's flow control.
    pub queue_bytes_max: usize,
    /// Waiting between tries.
    pub backoff: backoff::BackoffConfig,
    /// Keepalives and silence.
    pub liveness: liveness::LivenessConfig,
    /// For a connection to be made.
    pub connect_ms: u64,
    /// For greetings to be exchanged, once connected.
    pub handshake_ms: u64,
    /// For one frame to arrive once it has begun, not counting the time in which we do not read: 34 MiB at 1 MiB/s.
    pub frame_ms: u64,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            queue_frames_max: 16_384,
            queue_bytes_max: 64 << 20,
            backoff: backoff::BackoffConfig::default(),
            liveness: liveness::LivenessConfig::default(),
            connect_ms: 1_000,
            handshake_ms: 2_000,
            frame_ms: 34_000,
        }
    }
}

/// Why a link is not up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// Nobody listens at the address: the process is gone.
    #[error("connection refused: no process listens there")]
    ConnectionRefused,
    /// The name cannot be resolved.
    #[error("its address cannot be resolved")]
    Unresolved,
    /// Connecting or greeting took too long.
    #[error("no connection within the time allowed")]
    ConnectTimeout,
    /// The socket failed.
    #[error("socket error: {0}")]
    Socket(io::ErrorKind),
    /// The other side closed the connection.
    #[error("closed by the other side")]
    Closed,
    /// Nothing has come for the liveness time-out.
    #[error("silent for too long")]
    Silent,
    /// A frame began and did not end in time.
    #[error("stalled within a frame")]
    Stalled,
    /// The other side sent what is no frame of this protocol.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    /// A frame came that may not come here.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// The other side refused us.
    #[error("refused by the other side: {0}")]
    RefusedByPeer(Refusal),
    /// We refused the other side.
    #[error("refused: {0}")]
    RefusedByUs(Refusal),
    /// The node has a newer connection, or is no longer a member.
    #[error("superseded by a newer connection, or no longer a member")]
    Superseded,
    /// This side was stopped.
    #[error("stopped")]
    Stopped,
}
