//! `<base>.raft`: what a segment's `.log` cannot say, because Kafka's format has no room for it (SAFETY.md, rule 6).
//!
//! Every entry of the segment that is not a batch, the first Raft index, each change of term, and at its end the seal.
//! With it, Raft index, Kafka offset and position in the `.log` file are fully known from one another.
//! It cannot be built again from the `.log`, so damage within is reported. All numbers little-endian.
//!
//! ```text
//! header (64 bytes): magic "CHRNRAFT", version u16, header bytes u16, crc32c u32 of the rest of the header,
//!                    base offset i64, first raft index u64, term of the entry before u64, group u64, created i64 (ms), zero u64
//! record (48 bytes + data): crc32c u32 of all that follows, seeded by the header's checksum, data bytes u32, kind u8,
//!                    zero [u8; 7], raft index u64, term u64, base offset i64, position in the .log u64; then the data
//! ```
//!
//! Kinds: those of [`EntryKind`], and [`TERM_RUN`] (at this index and offset a batch opens a new term) and [`SEAL`]
//! (last index and term, next offset, bytes of the `.log`; data: highest timestamp i64, last append i64 (ms), entries of the
//! index u32). A segment without a seal is the active one.

use std::path::Path;

use bytes::Bytes;

use super::error::FilesError;
use crate::entry::{EntryKind, LogEntry};
use crate::types::{GroupId, KafkaOffset, RaftIndex, Term};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 64;
/// Bytes of a record without its data.
pub(super) const RECORD_BYTES: usize = 48;
/// The version that this build writes.
pub(super) const VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"CHRNRAFT";
/// A record that marks the batch with which a new term begins.
const TERM_RUN: u8 = 16;
/// The last record of a sealed segment.
const SEAL: u8 = 17;
/// A segment whose `.raft` file has grown so far is rolled: the file is read whole at start.
pub(super) const RAFT_FILE_ROLL_BYTES: u64 = 16 << 20;
/// A longer file than this is not read: one entry (a batch's worth at most) may cross the roll bound.
pub(super) const RAFT_FILE_BYTES_MAX: usize = 128 << 20;

/// Header of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RaftFileHeader {
    pub(super) base_offset: KafkaOffset,
    pub(super) first_index: RaftIndex,
    pub(super) previous_term: Term,
    pub(super) group: GroupId,
    pub(super) created_ms: i64,
}

/// An entry that is not a batch, and where in the `.log` it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OtherEntry {
    pub(super) entry: LogEntry,
    pub(super) position: u64,
}

/// A term and where in the log it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// The first entry of the term.
    pub first_index: RaftIndex,
    /// The term.
    pub term: Term,
    /// The offset that the first batch of the term has, or would have had.
    pub first_offset: KafkaOffset,
}

/// What a sealed segment ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) last_index: RaftIndex,
    pub(super) last_term: Term,
    pub(super) next_offset: KafkaOffset,
    pub(super) log_bytes: u64,
    pub(super) max_timestamp: i64,
    pub(super) appended_ms: i64,
    pub(super) index_count: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RaftRecord {
    Other(OtherEntry),
    TermRun { run: TermRun, position: u64 },
    Seal(Seal),
}

impl RaftFileHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base_offset.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_index.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_term.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.created_ms.to_le_bytes());
        let crc = crc_around(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The checksum that seeds those of the records.
    pub(super) fn seed(&self) -> u32 {
        let bytes = self.encode();
        u32_at(&bytes, 12)
    }

    fn decode(path: &Path, file: &[u8]) -> Result<Self, FilesError> {
        let Some(bytes) = file.first_chunk::<HEADER_BYTES>() else {
            return Err(FilesError::damaged(path, 0, format!("{} bytes hold no header", file.len())));
        };
        if &bytes[..8] != MAGIC {
            return Err(FilesError::damaged(path, 0, "it does not begin with CHRNRAFT"));
        }
        if u32_at(bytes, 12) != crc_around(bytes) {
            return Err(FilesError::damaged(path, 0, "the header's checksum is wrong"));
        }
        let found = u16::from_le_bytes([bytes[8], bytes[9]]);
        if found > VERSION {
            return Err(FilesError::Version { path: path.into(), found, known: VERSION });
        }
        Ok(Self {
            base_offset: KafkaOffset(u64_at(bytes, 16).cast_signed()),
            first_index: RaftIndex(u64_at(bytes, 24)),
            previous_term: Term(u64_at(bytes, 32)),
            group: GroupId(u64_at(bytes, 40)),
            created_ms: u64_at(bytes, 48).cast_signed(),
        })
    }
}

impl RaftRecord {
    /// Appends the record's bytes.
    pub(super) fn encode(&self, seed: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + RECORD_BYTES, 0);
        let (kind, index, term, offset, position) = match self {
            Self::Other(other) => {
                let entry = &other.entry;
                assert!(entry.kind != EntryKind::Batch, "a batch belongs into the .log file");
                out.extend_from_slice(&entry.data);
                (entry.kind as u8, entry.index, entry.term, entry.base_offset, other.position)
            }
            Self::TermRun { run, position } => {
                (TERM_RUN, run.first_index, run.term, run.first_offset, *position)
            }
            Self::Seal(seal) => {
                out.extend_from_slice(&seal.max_timestamp.to_le_bytes());
                out.extend_from_slice(&seal.appended_ms.to_le_bytes());
                out.extend_from_slice(&seal.index_count.to_le_bytes());
                (SEAL, seal.last_index, seal.last_term, seal.next_offset, seal.log_bytes)
            }
        };
        let record = &mut out[start..];
        let data_bytes = u32::try_from(record.len() - RECORD_BYTES).expect("an entry is under 4 GiB");
        record[4..8].copy_from_slice(&data_bytes.to_le_bytes());
        record[8] = kind;
        record[16..24].copy_from_slice(&index.0.to_le_bytes());
        record[24..32].copy_from_slice(&term.0.to_le_bytes());
        record[32..40].copy_from_slice(&offset.0.to_le_bytes());
        record[40..48].copy_from_slice(&position.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The Raft index that the record is about.
    pub(super) fn index(&self) -> RaftIndex {
        match self {
            Self::Other(other) => other.entry.index,
            Self::TermRun { run, .. } => run.first_index,
            Self::Seal(seal) => seal.last_index,
        }
    }

    /// The record at the start of `bytes` and its length; none when no whole record verifies there.
    fn decode(seed: u32, bytes: &Bytes) -> Option<(Self, usize)> {
        if bytes.len() < RECORD_BYTES {
            return None;
        }
        let whole = RECORD_BYTES.checked_add(usize::try_from(u32_at(bytes, 4)).ok()?)?;
        if bytes.len() < whole || crc32c::crc32c_append(seed, &bytes[4..whole]) != u32_at(bytes, 0) {
            return None;
        }
        let index = RaftIndex(u64_at(bytes, 16));
        let term = Term(u64_at(bytes, 24));
        let offset = KafkaOffset(u64_at(bytes, 32).cast_signed());
        let position = u64_at(bytes, 40);
        let record = match bytes[8] {
            TERM_RUN => {
                Self::TermRun { run: TermRun { first_index: index, term, first_offset: offset }, position }
            }
            SEAL if whole == RECORD_BYTES + 20 => Self::Seal(Seal {
                last_index: index,
                last_term: term,
                next_offset: offset,
                log_bytes: position,
                max_timestamp: u64_at(bytes, 48).cast_signed(),
                appended_ms: u64_at(bytes, 56).cast_signed(),
                index_count: u32_at(bytes, 64),
            }),
            number => {
                let kind = EntryKind::from_u8(number).filter(|kind| *kind != EntryKind::Batch)?;
                // Copied: a slice would keep the whole file in memory for one small entry.
                let data = Bytes::copy_from_slice(&bytes[RECORD_BYTES..whole]);
                let entry = LogEntry { index, term, kind, base_offset: offset, data };
                Self::Other(OtherEntry { entry, position })
            }
        };
        Some((record, whole))
    }
}

/// A whole file, as far as it verifies.
pub(super) struct RaftFile {
    pub(super) header: RaftFileHeader,
    pub(super) records: Vec<RaftRecord>,
    /// Bytes up to and including the last of `records`.
    pub(super) good_bytes: u64,
}

impl RaftFile {
    /// Reads the records up to the first that does not verify, or that `wanted` refuses: that is where the file is cut
    /// to the checkpoint. Whether all that should be there is there, the caller knows.
    pub(super) fn decode(
        path: &Path,
        file: Vec<u8>,
        wanted: impl Fn(&RaftRecord) -> bool,
    ) -> Result<Self, FilesError> {
        let header = RaftFileHeader::decode(path, &file)?;
        let seed = header.seed();
        let mut rest = Bytes::from(file).slice(HEADER_BYTES..);
        let mut good_bytes = HEADER_BYTES as u64;
        let mut records = Vec::new();
        while let Some((record, bytes)) = RaftRecord::decode(seed, &rest) {
            if !wanted(&record) {
                break;
            }
            records.push(record);
            good_bytes += bytes as u64;
            rest = rest.slice(bytes..);
        }
        Ok(Self { header, records, good_bytes })
    }
}

fn crc_around(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}
