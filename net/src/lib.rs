//! chronik's wire: Kafka's codecs, connections, listeners, and the runtime that shards run on.
//!
//! Knows neither Raft nor partitions. `codec` is pure, and so is most of `peer`; `rt`, `acceptor`, `connection` and the
//! links of `peer` are the edge: sockets, clocks, threads and glommio appear here.
//!
//! # Files, in reading order
//! 1. [`rt`]: executors, mailboxes between shards, events on one shard, helper threads, clocks, start-up checks.
//! 2. [`acceptor`]: ports, and sockets handed to the shards in turn. [`frame_reader`], [`connection`]: from a socket to
//!    frames, from frames to a [`connection::Service`], and the answers back in order.
//! 3. [`peer`]: links between nodes: frames from shard to shard, greetings, reconnecting, liveness.
//! 4. [`codec`]: from a frame to a request, from a response to the slices of a frame.
//!
//! # Invariants
//! - Responses leave a connection in the order of its requests.
//! - No length from the wire is trusted; memory for requests is bounded per connection and per shard.
//! - Record bytes are not copied between the socket's buffer and the WAL, nor on the way out.
//! - A message between shards is never lost and wakes its receiver; senders never block.

pub mod acceptor;
pub mod codec;
pub mod connection;
pub mod frame_reader;
pub mod peer;
pub mod rt;
