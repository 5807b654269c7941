//! The group coordinator: classic consumer groups and committed offsets, as Kafka 4.3.1 keeps them.
//!
//! One [`GroupCoordinator`] exists for each partition of `__consumer_offsets` that this node leads. It lives on
//! the shard that owns the partition and is a pure state machine: requests, results of appends and the clock go
//! in, replies and records to append come out. It has no clock, no randomness and no input or output of its own.
//!
//! Files in reading order: [`api`] (requests, responses, actions), [`records`] (the bytes in the partition),
//! `store` (records as state, committed and pending), `member` and `group` (the state of one group), `timers`,
//! `service` (the coordinator itself), `appends`, then what it does: `join`, `rebalance`, `session` (sync,
//! heartbeat, leave), `offsets`, `admin`.
//!
//! # Life of a coordinator
//! [`new`](GroupCoordinator::new), [`load`](GroupCoordinator::load) of every committed record in order, then
//! [`activate`](GroupCoordinator::activate); [`handle`](GroupCoordinator::handle),
//! [`appended`](GroupCoordinator::appended) and [`tick`](GroupCoordinator::tick) while this node leads;
//! [`deactivate`](GroupCoordinator::deactivate) when it does not any more. That forgets everything: a later term
//! loads again from the log start.
//!
//! # What the owner owes it
//! - Appends are proposed in the order of their tokens, and reported as committed by (index, term) only.
//! - After each event the actions are taken; before a tick, the requests at hand are handed over (a member whose
//!   heartbeat waits in the mailbox is not silent).
//! - No answer leaves while the node has not been in touch with the quorum (SAFETY.md, rule 22).
//!
//! # Invariants
//! - A commit, a deletion and a new assignment are answered with success only when their records are committed.
//! - OffsetFetch shows committed offsets only.
//! - What replaying the committed records gives is exactly the committed state.
//! - Each call is answered once: at the latest when its append is answered or times out, when the rebalance it
//!   waits for ends, or when the coordinator is deactivated.

pub mod api;
pub mod records;
pub mod report;

mod admin;
mod appends;
mod group;
mod join;
mod member;
mod offsets;
mod rebalance;
mod service;
mod session;
mod store;
mod timers;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use api::{
    Action, AppendError, AppendToken, CallId, GroupConfig, GroupRequest, GroupResponse, RequestKind,
    partition_for_group,
};
pub use service::{GroupCoordinator, MemberIdSource};

/// A name kept in coordinator state (group, member, topic …).
///
/// A copy of its own, never a slice of the request's frame: a name of 20 bytes must not pin a frame of a
/// megabyte.
pub type Name = Arc<str>;
