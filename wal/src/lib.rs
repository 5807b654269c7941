//! chronik's storage. (Reading order and invariants are written when the crate is whole.)

pub mod entry;
pub mod types;
// --- record batches (owner: batch)
// --- shard WAL, disk, recovery (owner: walog)
// --- partition files (owner: files)
// --- tail cache (owner: raft)
pub mod tail;
