//! The chronik broker: shards, partitions, metadata, coordinators, request handlers; and `chronik-server`.
//!
//! # A produce request, from socket to socket
//! ```text
//! net::connection          a frame; requests of a connection start in order
//!  └ handlers::dispatch    decoded; records split off, uncopied
//!     └ handlers::produce  one slice for each owning shard, sent at once (shard::router)
//!        └ shard::produce      room? leader? ─▶ partition::append: checks, sequence, offset and epoch written in
//!           └ raft::driver         proposed; ready ─▶ wal::shard_wal: a frame of the turn that fills
//!              └ shard::turn           one WAL turn: one write, one fdatasync (shard::pump ─▶ wal::disk::uring)
//!              ◀ durable ─▶ committed ─▶ partition::apply: the high watermark moves
//!        ◀ shard::produce      the waiter of that very (index, term) is answered
//!     ◀ handlers::produce  slices gathered, response encoded
//! net::connection          leaves in the order of the requests, in one vectored write
//! ```
//! A fetch: `handlers::fetch` (sessions) → `shard::fetch` → `partition::read`: the tail's own bytes, else those of a
//! segment's file, brought in by a helper thread, else a wait until the high watermark moves.
//!
//! # Files, in reading order
//! 1. [`shard`]: the pure state machine, its messages, its turn; `pump` is its edge.
//! 2. [`partition`]: append, apply, read. 3. [`handlers`]: a file an API family, on the connection's shard.
//! 4. [`metadata`]: the log of the cluster's topics and configs, its state, the snapshot that every shard reads.
//! 5. [`coordinator`]: consumer groups. 6. [`config`]: the node's and the topics' configuration.
//! 7. [`node`]: start, recovery, stop. 8. [`metrics`]: what the shards count. 9. [`admin`]: its HTTP endpoint.
//! 10. [`cluster`]: the `cluster` command line, a plain Kafka client.
//!
//! # Invariants
//! - A partition is changed only by the shard that owns it; what several shards read is an immutable snapshot.
//! - Nothing is acknowledged before the WAL turn that holds it is durable and Raft has committed that very entry.
//! - The high watermark never moves back; the log start moves only by a committed entry.
//! - Metadata, FindCoordinator and their like are answered from the snapshot and wait for nobody.
//! - Every queue, waiter and buffer has a named bound.

pub mod admin;
pub mod cluster;
pub mod config;
pub mod coordinator;
pub mod handlers;
pub mod metadata;
pub mod metrics;
pub mod node;
pub mod partition;
pub mod shard;
