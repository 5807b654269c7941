//! The chronik broker. (Reading order and invariants are written when the crate is whole.)
// --- config, metadata, admin handlers (owner: meta)
pub mod config;
pub mod handlers;
pub mod metadata;
// --- group coordinator (owner: group)
pub mod coordinator;
// --- metrics, health and status over HTTP (owner: admin)
pub mod admin;
// --- shards, partitions, produce and fetch (owner: lead)
pub mod metrics;
pub mod node;
pub mod partition;
pub mod shard;
