//! chronik's storage. (Reading order and invariants are written when the crate is whole.)

pub mod entry;
pub mod types;
// --- record batches (owner: batch)
pub mod batch;
pub mod compress;
pub mod epochs;
pub mod producer_state;
pub mod records;
// --- shard WAL, disk, recovery (owner: walog)
pub mod disk;
pub mod frame;
pub mod identity;
pub mod lock;
pub mod recovery;
pub mod reshard;
pub mod shard_wal;
#[cfg(test)]
pub(crate) mod test_batch;
// --- partition files (owner: files)
pub mod partition;
// --- tail cache (owner: raft)
