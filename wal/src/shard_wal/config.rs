//! Sizes and bounds of a shard's WAL, its errors, and the names of its files.

use std::io;
use std::path::{Path, PathBuf};

use crate::frame::{BLOCK, FRAME_HEADER, TURN_HEADER, WalIdentity};
use crate::types::ShardId;

/// The longest payload of one frame: a record batch of 32 MiB (SAFETY.md, rule 24) and room to spare for states.
pub const PAYLOAD_MAX: usize = 40 << 20;

/// How a shard's WAL is laid out.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The directory of this shard's segments; see [`shard_directory`].
    pub directory: PathBuf,
    /// Whose WAL it is.
    pub identity: WalIdentity,
    /// Length of a segment in bytes, a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// Length of the segment that is made at start when no recycled one is at hand; short, so that a first start does
    /// not wait for 64 MiB of zeros. A multiple of 4 KiB.
    pub first_segment_bytes: u64,
    /// All segments together take no more than this. Produce leaves the last segment of it to recycling.
    pub wal_max_bytes: u64,
    /// A turn takes frames up to so many bytes (one larger frame gets a turn of its own).
    pub turn_bytes_max: usize,
    /// Room that produce leaves free for states, metadata, deletes and what recycling writes.
    pub reserve_bytes: u64,
    /// Recycling is asked for when more full segments than this are live. It bounds what a start has to read, and the
    /// memory that recovery takes.
    pub segments_kept: usize,
    /// After so long without a turn, a closing turn is written.
    pub idle_ms: u64,
    /// How long to wait before trying again to make a segment on a full disk.
    pub retry_ms: u64,
}

impl WalConfig {
    /// The defaults, for a data directory and an owner.
    #[must_use]
    pub fn new(data_directory: &Path, identity: WalIdentity) -> Self {
        Self {
            directory: shard_directory(data_directory, identity.shard),
            identity,
            segment_bytes: 64 << 20,
            first_segment_bytes: 8 << 20,
            wal_max_bytes: 1 << 30,
            turn_bytes_max: 4 << 20,
            reserve_bytes: 4 << 20,
            segments_kept: 2,
            idle_ms: 200,
            retry_ms: 1000,
        }
    }

    /// The longest payload that fits a segment of this configuration.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        // Header block, one block kept for the end frame, the header of the turn, and those of the frame and of a removal
        // that may have to share its turn.
        let overhead = 2 * BLOCK + TURN_HEADER + 2 * FRAME_HEADER;
        let room = usize::try_from(self.segment_bytes).unwrap_or(usize::MAX).saturating_sub(overhead);
        room.min(PAYLOAD_MAX)
    }

    pub(crate) fn check(&self) -> Result<(), WalError> {
        let block = BLOCK as u64;
        let wrong = |what: &str| Err(WalError::Config(what.to_owned()));
        if !self.segment_bytes.is_multiple_of(block) || !self.first_segment_bytes.is_multiple_of(block) {
            return wrong("segment sizes must be multiples of 4096 bytes");
        }
        if self.segment_bytes > 1 << 30 || self.first_segment_bytes > self.segment_bytes {
            return wrong("a segment has at most 1 GiB, and the first one no more than the others");
        }
        if self.first_segment_bytes < 4 * block {
            return wrong("a segment has at least 16384 bytes");
        }
        if self.wal_max_bytes < 4 * self.segment_bytes {
            return wrong("wal_max_bytes must hold at least four segments");
        }
        if self.reserve_bytes * 2 > self.segment_bytes {
            return wrong("the reserve takes at most half a segment");
        }
        Ok(())
    }
}

/// Where a shard's segments lie: `<data directory>/wal/<shard>`.
#[must_use]
pub fn shard_directory(data_directory: &Path, shard: ShardId) -> PathBuf {
    data_directory.join("wal").join(shard.to_string())
}

/// The file of a slot. Slots are reused, never renamed; which segment one holds is in its header block.
#[must_use]
pub fn slot_path(directory: &Path, slot: u32) -> PathBuf {
    directory.join(format!("{slot:04}.wal"))
}

/// The slot of a file name, if it is one.
#[must_use]
pub fn slot_of_name(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".wal")?;
    let digits = number.len() >= 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| number.parse().ok()).flatten()
}

/// Why a WAL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The configuration makes no sense.
    #[error("WAL configuration: {0}")]
    Config(String),
    /// The disk failed. Of a write or a sync this is fatal: the process must stop (DESIGN.md, decision 7).
    #[error("WAL {what} of {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a newer program.
    #[error("{} has WAL format {version}, this program knows up to {}; start a newer one", path.display(), crate::frame::FORMAT_VERSION)]
    NewerFormat {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A segment of another node, data directory or shard.
    #[error("{} belongs to another node, data directory or shard; was the directory copied or mixed up?", path.display())]
    Foreign {
        /// The segment.
        path: PathBuf,
    },
    /// An entry cannot be read back though recovery had verified it.
    #[error("entry {index} of group {group} cannot be read back from {}: {why}", path.display())]
    Entry {
        /// The group.
        group: u64,
        /// The entry.
        index: u64,
        /// The segment's file.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
}

impl WalError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WalError {
        move |source| WalError::Io { what, path: path.to_path_buf(), source }
    }
}
