//! The metadata of the cluster: brokers, topics, configs, producer ids.
//!
//! Reading order: `command` (what the metadata log holds), `state` (what the log adds up to) with `chunk_map` below it and
//! `image` (the state as bytes), `controller` (turns admin requests into commands), `placement`, `snapshot` (what every
//! shard reads), `producer_ids`.
//!
//! The state and the controller live on shard 0; the snapshot is published there, once a turn, for all shards.
//!
//! Invariants: only `state::MetadataState::apply` changes the state, and only with committed commands; group ids and peer
//! ids are never used twice; a topic made again has another id; a leader in the snapshot is replaced only by one of a
//! newer term and never erased.

pub mod admin;
pub mod bootstrap;
pub mod chunk_map;
pub mod command;
pub mod controller;
pub mod forward;
pub mod image;
pub mod membership;
pub mod names;
pub mod placement;
pub mod producer_ids;
pub mod snapshot;
pub mod state;
