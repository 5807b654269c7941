//! chronik's storage: record batches, the shard WAL, partition files, recovery.
//!
//! Knows neither Raft nor Kafka requests: terms, votes and configurations are numbers and bytes here. Everything is
//! pure but for [`disk`], the only place that touches files (and [`disk::uring`], the only one that knows glommio).
//!
//! ```text
//! Raft entries ──▶ shard_wal ──▶ one write + one fdatasync a turn         durable: may be acknowledged
//!       └────────▶ tail (memory) ──committed──▶ partition files, behind   large pieces, synced before a WAL segment is reused
//! ```
//!
//! # Files, in reading order
//! 1. [`types`], [`entry`]: the numbers and the vocabulary shared by all crates.
//! 2. [`batch`], [`records`], [`compress`]: Kafka's record batch v2: header view, checks, records, codecs.
//! 3. [`producer_state`], [`epochs`]: what a partition remembers beside its records.
//! 4. [`disk`]: blocking files behind a trait: the real ones, and simulated ones that tear, lose, flip and fill.
//! 5. [`frame`], [`shard_wal`], [`recovery`]: the WAL of a shard, its bytes, its segments, and reading it back.
//! 6. [`tail`]: the newest entries of a group in memory. 7. [`partition`]: the files of a partition.
//! 8. [`identity`], [`lock`], [`reshard`]: whose data directory it is, who holds it, another number of shards.
//!
//! # Invariants
//! - A turn is all or nothing; turn n+1 is handed out only when n is durable; a durable block is never written again
//!   while its segment lives.
//! - A segment is used again only when all that matters in it is durable elsewhere, which is checked at that very moment.
//! - Partition files hold committed batches only, byte for byte Apache Kafka's, and are never cut while the node runs.
//! - What recovery cannot verify is a torn tail (above every durable mark) or damage (below one): never silently skipped.
//! - Every length read from a disk or a producer is checked before it is used.

pub mod batch;
pub mod compress;
pub mod disk;
pub mod entry;
pub mod epochs;
pub mod frame;
pub mod identity;
pub mod lock;
pub mod partition;
pub mod planted;
pub mod producer_state;
pub mod records;
pub mod recovery;
pub mod reshard;
pub mod shard_wal;
pub mod tail;
#[cfg(test)]
pub(crate) mod test_batch;
pub mod types;
