//! chronik's multi-raft: all the Raft groups of a shard on raft-rs, one group for each replica of a partition.
//!
//! Knows entries, terms and peers; knows neither Kafka requests nor files, clocks or sockets. A group's log *is* the partition's
//! log: an entry is a record batch, and what raft stores is what consumers read.
//!
//! Reading order:
//! 1. [`leadership`]: the one answer to "who leads".
//! 2. [`driver`]: what a shard calls, and the turn in which it does; `driver/ready.rs` is the heart, `driver/durable.rs` its other half.
//!    `driver/rest.rs`: quiescence, and why nothing gets stuck; `driver/elections.rs`: what a broken link sets in motion;
//!    `driver/memory.rs`: a follower without room for what its leader sends.
//! 3. `group.rs`: one group; `storage.rs`: what raft-rs reads of it; `term_runs.rs`: the terms of the whole log.
//! 4. `convert.rs`: entries to raft-rs and back; `snapshot.rs`: a snapshot's data.
//! 5. `guard.rs`: which messages raft-rs never gets to see; [`frames`]: messages as bytes between nodes.
//!
//! Invariants (numbers of SAFETY.md in brackets):
//! - nothing is proposed but by a leader that has applied an entry of its own term [11]; a proposal keeps its index and term [12];
//! - offsets are dense: a batch is appended at the end of the log, uncommitted tail included, or not at all;
//! - a promise (vote, acknowledgement) leaves after the turn that holds it is durable; entries are handed out once this disk has them too [10];
//! - configuration changes count as applied once they are durable [10];
//! - all committed entries are applied before the first tick after a start [10];
//! - the same calls with the same seed give the same outputs [15]: no clock, no thread's generator, no order of a hash map;
//! - no message of a peer stops the process.
//!
//! - a group in which nothing happens neither ticks nor sends [16]; a link that breaks wakes it, and its followers elect another
//!   leader at once [17]. Both rest on the shard telling the driver of every link that breaks or comes up.
//!
//! Measured (`examples/proposals.rs`, wall clock on a 2-core machine that was also compiling, 331-byte batches, from `propose` to
//! committed, range over three runs): 0.20 to 0.61 µs a proposal in one group with 16 to 1,024 of them a turn, 1.1 to 2.2 µs with
//! one a turn; 1.4 to 3.5 µs spread over 1,000 groups. An idle group of one keeps about 1.6 KB.

// Messages and entries are protobuf structs with fields of the generator's own: they are made empty and filled in.
#![allow(clippy::field_reassign_with_default)]

pub mod driver;
pub mod error;
pub mod frames;
pub mod leadership;

mod convert;
mod group;
mod guard;
mod log;
mod snapshot;
mod storage;
mod term_runs;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod test_replica;
#[cfg(test)]
mod test_support;

pub use driver::{Driver, DriverConfig, DriverOutput, GroupInit, MemberChange, NewGroup, Proposal};
pub use error::{LoadError, ProposeError, StepError};
pub use leadership::Leadership;
/// The crate whose messages go between peers, so that users need no dependency of their own on its version.
pub use raft::eraftpb;

/// The voters in an encoded configuration ([`chronik_wal::entry::GroupState::configuration`]); none when it cannot be read.
#[must_use]
pub fn voters(configuration: &[u8]) -> Option<Vec<chronik_wal::types::PeerId>> {
    let configuration =
        <raft::eraftpb::ConfState as protobuf::Message>::parse_from_bytes(configuration).ok()?;
    Some(configuration.voters.into_iter().map(chronik_wal::types::PeerId).collect())
}

/// The encoded configuration of a group with one voter: what `log repair` writes where a group's own was lost.
#[must_use]
pub fn sole_voter_configuration(peer: chronik_wal::types::PeerId) -> bytes::Bytes {
    configuration_of(&[peer])
}

/// The encoded configuration of a group with these voters.
#[must_use]
pub fn configuration_of(voters: &[chronik_wal::types::PeerId]) -> bytes::Bytes {
    let mut configuration = raft::eraftpb::ConfState::default();
    configuration.voters.extend(voters.iter().map(|voter| voter.0));
    storage::encode_configuration(&configuration)
}
