//! The sparse index of a segment, `<base>.sidx`: from an offset, a Raft index or a time to a place in the `.log` file.
//!
//! Wholly derived: it can be built again from the `.log` and `.raft` files, so damage here is mended, never reported.
//! All numbers little-endian.
//!
//! ```text
//! header (32 bytes): magic "CHRNSIDX", version u16, entry bytes u16, crc32c u32 of the rest of the header,
//!                    base offset i64, first raft index u64
//! entry  (32 bytes): position u32, offset delta u32, index delta u32, other entries u32, max timestamp i64,
//!                    zero u32, crc32c u32 of the 28 bytes before, seeded by the header's checksum
//! ```
//!
//! An entry stands for the batch at `position`: its base offset and its Raft index, both relative to the segment's, and
//! *of all that lies before it in the segment*: the highest timestamp, and how many entries that are not batches there are.

use std::io;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::types::{KafkaOffset, RaftIndex};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 32;
/// The version that this build writes.
pub(super) const VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"CHRNSIDX";

/// One entry of the index, with absolute numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) position: u64,
    pub(super) offset: KafkaOffset,
    pub(super) index: RaftIndex,
    pub(super) others_before: u32,
    pub(super) max_timestamp_before: i64,
}

/// What the entries of one file are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexOrigin {
    base_offset: KafkaOffset,
    first_index: RaftIndex,
    /// The header's checksum: seeds those of the entries, so that an entry of another file never verifies.
    seed: u32,
}

impl IndexOrigin {
    pub(super) fn new(base_offset: KafkaOffset, first_index: RaftIndex) -> Self {
        let mut origin = Self { base_offset, first_index, seed: 0 };
        let header = origin.header();
        origin.seed = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
        origin
    }

    /// The file's header.
    pub(super) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10..12].copy_from_slice(&(ENTRY_BYTES as u16).to_le_bytes());
        header[12..16].copy_from_slice(&self.seed.to_le_bytes());
        header[16..24].copy_from_slice(&self.base_offset.0.to_le_bytes());
        header[24..32].copy_from_slice(&self.first_index.0.to_le_bytes());
        header
    }

    /// An entry as it stands in the file.
    ///
    /// # Panics
    /// When a number does not fit 32 bits: a segment is rolled before that.
    pub(super) fn encode(&self, entry: &IndexEntry) -> [u8; ENTRY_BYTES] {
        let offset_delta =
            u32::try_from(entry.offset.0 - self.base_offset.0).expect("rolled before 2^31 offsets");
        let index_delta =
            u32::try_from(entry.index.0 - self.first_index.0).expect("rolled before 2^31 entries");
        let position = u32::try_from(entry.position).expect("a segment is under 4 GiB");
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&position.to_le_bytes());
        bytes[4..8].copy_from_slice(&offset_delta.to_le_bytes());
        bytes[8..12].copy_from_slice(&index_delta.to_le_bytes());
        bytes[12..16].copy_from_slice(&entry.others_before.to_le_bytes());
        bytes[16..24].copy_from_slice(&entry.max_timestamp_before.to_le_bytes());
        let crc = crc32c::crc32c_append(self.seed, &bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The entry in these bytes; none when they do not verify.
    pub(super) fn decode(&self, bytes: &[u8; ENTRY_BYTES]) -> Option<IndexEntry> {
        if u32_at(bytes, 28) != crc32c::crc32c_append(self.seed, &bytes[..28]) {
            return None;
        }
        let timestamp: [u8; 8] = bytes[16..24].try_into().ok()?;
        Some(IndexEntry {
            position: u64::from(u32_at(bytes, 0)),
            offset: self.base_offset.plus(i64::from(u32_at(bytes, 4))),
            index: RaftIndex(self.first_index.0 + u64::from(u32_at(bytes, 8))),
            others_before: u32_at(bytes, 12),
            max_timestamp_before: i64::from_le_bytes(timestamp),
        })
    }
}

/// Where the entry with this number stands in the file.
pub(super) fn entry_position(number: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(number) * ENTRY_BYTES as u64
}

/// An index file open for look-ups, on a helper thread or at start.
pub(super) struct IndexReader {
    file: Arc<dyn DiskFile>,
    origin: IndexOrigin,
    count: u32,
}

impl IndexReader {
    /// The first `count` entries of a file, or as many whole ones as it has; none when the header is not ours.
    pub(super) fn new(file: Arc<dyn DiskFile>, origin: IndexOrigin, count: u32) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        let file_bytes = file.len()?;
        if file_bytes < HEADER_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        if header != origin.header() {
            return Ok(None);
        }
        let whole = (file_bytes - HEADER_BYTES as u64) / ENTRY_BYTES as u64;
        let count = count.min(u32::try_from(whole).unwrap_or(u32::MAX));
        Ok(Some(Self { file, origin, count }))
    }

    /// How many entries there are to look at.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The entry with this number; none when it does not verify.
    pub(super) fn entry(&self, number: u32) -> io::Result<Option<IndexEntry>> {
        let mut bytes = [0; ENTRY_BYTES];
        self.file.read_exact_at(&mut bytes, entry_position(number))?;
        Ok(self.origin.decode(&bytes))
    }

    /// How many leading entries satisfy `before`, which must not come true again once it was false, and the last of
    /// them. An entry that does not verify counts as one that does not satisfy it: the caller then scans more of the
    /// log from an earlier entry, which is slower and still right.
    pub(super) fn last_where(
        &self,
        before: impl Fn(&IndexEntry) -> bool,
    ) -> io::Result<(u32, Option<IndexEntry>)> {
        let (mut low, mut high) = (0, self.count);
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle)? {
                Some(entry) if before(&entry) => {
                    found = Some(entry);
                    low = middle + 1;
                }
                _ => high = middle,
            }
        }
        Ok((low, found))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
