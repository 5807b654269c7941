//! A [`ProducerTable`] as a file: Kafka's own `.snapshot` format, version 1, so that `kafka-dump-log` reads it.
//!
//! ```text
//! version i16 = 1 | crc u32 (CRC-32C of all that follows) | count i32 |
//! { producer id i64 | epoch i16 | last sequence i32 | last offset i64 | offset delta i32 | timestamp i64
//!   | coordinator epoch i32 | first offset of the open transaction i64, or −1 } * count
//! ```
//!
//! Big-endian. Kafka writes one entry a producer, and so forgets four of its five batches with each restart. Here a
//! producer has an entry for each batch kept, oldest first: Kafka's reader lets the last one of an id win, which is the
//! very one that it would have written, and our own puts the five together again.

use std::collections::VecDeque;

use thiserror::Error;
use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{AppliedBatch, NO_PRODUCER_EPOCH, Producer, ProducerLimits, ProducerTable, SequenceRange};
use crate::batch::{NO_SEQUENCE, NO_TIMESTAMP};
use crate::types::KafkaOffset;

const VERSION: i16 = 1;
/// Where the bytes begin that the CRC covers: with the count.
const CRC_START: usize = 6;
const ENTRIES_START: usize = 10;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileHeader {
    version: I16,
    crc: U32,
    count: I32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileEntry {
    producer_id: I64,
    epoch: I16,
    last_sequence: I32,
    last_offset: I64,
    offset_delta: I32,
    timestamp: I64,
    coordinator_epoch: I32,
    current_txn_first_offset: I64,
}

const _: () = assert!(size_of::<FileHeader>() == ENTRIES_START);
const _: () = assert!(std::mem::offset_of!(FileHeader, count) == CRC_START);
const _: () = assert!(size_of::<FileEntry>() == 46);

/// Why a producer snapshot cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Not even a header, or not as many entries as it counts.
    #[error("producer snapshot is {have} bytes long where its header calls for {needed}")]
    WrongSize {
        /// Bytes there are.
        have: usize,
        /// Bytes that there should be.
        needed: usize,
    },
    /// Written by something newer.
    #[error("producer snapshot has version {version}; this release reads 1")]
    Version {
        /// The field.
        version: i16,
    },
    /// The bytes have changed since they were written.
    #[error("producer snapshot CRC-32C is {computed:#010x} but its header says {stored:#010x}")]
    BadCrc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Numbers that no producer state has.
    #[error("producer snapshot entry {entry} is impossible: {reason}")]
    BadEntry {
        /// Which, from 0.
        entry: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

impl ProducerTable {
    /// The applied state as a snapshot file's bytes. What is in flight is not part of it.
    #[must_use]
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut bytes = vec![0; ENTRIES_START];
        let mut count = 0;
        for (producer_id, producer) in &self.producers {
            if producer.epoch == NO_PRODUCER_EPOCH {
                continue;
            }
            for entry in producer.file_entries(*producer_id) {
                bytes.extend_from_slice(entry.as_bytes());
                count += 1;
            }
        }
        bytes[CRC_START..ENTRIES_START].copy_from_slice(I32::new(count).as_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_START..]);
        bytes[..2].copy_from_slice(I16::new(VERSION).as_bytes());
        bytes[2..CRC_START].copy_from_slice(U32::new(crc).as_bytes());
        bytes
    }

    /// The table of a snapshot file. Its producers count as used at `wall_ms`: the file keeps only the time that the
    /// client gave its records, which says nothing of when they came.
    ///
    /// # Errors
    /// [`SnapshotError`]. The remedy is to replay the log from its start.
    pub fn decode_snapshot(
        bytes: &[u8],
        limits: ProducerLimits,
        wall_ms: i64,
    ) -> Result<Self, SnapshotError> {
        let entries = checked_entries(bytes)?;
        let mut table = Self::new(limits);
        for (place, entry) in entries.iter().enumerate() {
            let producer_id = entry.producer_id.get();
            if producer_id < 0 || entry.epoch.get() < 0 {
                return Err(SnapshotError::BadEntry {
                    entry: place,
                    reason: "negative producer id or epoch",
                });
            }
            let batch = entry.batch().map_err(|reason| SnapshotError::BadEntry { entry: place, reason })?;
            table.applied_count += 1;
            let applied_at = table.applied_count;
            let producer = table.producer_mut(producer_id);
            match batch {
                Some(batch) => producer.push_applied(entry.epoch.get(), batch),
                None => {
                    producer.batches = VecDeque::new();
                    producer.epoch = entry.epoch.get();
                }
            }
            producer.coordinator_epoch = entry.coordinator_epoch.get();
            producer.current_txn_first_offset =
                Some(KafkaOffset(entry.current_txn_first_offset.get())).filter(|offset| offset.0 >= 0);
            producer.applied_wall_ms = wall_ms;
            producer.applied_at = applied_at;
        }
        Ok(table)
    }
}

/// The entries of a file whose version, size and CRC are right.
fn checked_entries(bytes: &[u8]) -> Result<&[FileEntry], SnapshotError> {
    let Ok((header, rest)) = FileHeader::ref_from_prefix(bytes) else {
        return Err(SnapshotError::WrongSize { have: bytes.len(), needed: ENTRIES_START });
    };
    if header.version.get() != VERSION {
        return Err(SnapshotError::Version { version: header.version.get() });
    }
    let stored = header.crc.get();
    let computed = crc32c::crc32c(&bytes[CRC_START..]);
    if stored != computed {
        return Err(SnapshotError::BadCrc { stored, computed });
    }
    let count = usize::try_from(header.count.get()).unwrap_or(usize::MAX);
    let needed = count.saturating_mul(size_of::<FileEntry>());
    match <[FileEntry]>::ref_from_bytes(rest) {
        Ok(entries) if entries.len() == count => Ok(entries),
        _ => {
            Err(SnapshotError::WrongSize { have: bytes.len(), needed: needed.saturating_add(ENTRIES_START) })
        }
    }
}

impl FileEntry {
    /// The batch that it tells of, if it tells of one.
    fn batch(&self) -> Result<Option<AppliedBatch>, &'static str> {
        let (last_offset, delta) = (self.last_offset.get(), self.offset_delta.get());
        let last_sequence = self.last_sequence.get();
        if last_offset < 0 || last_sequence == NO_SEQUENCE {
            return Ok(None);
        }
        if delta < 0 || last_sequence < 0 || i64::from(delta) > last_offset {
            return Err("negative sequence number, offset or offset delta");
        }
        // Back over the wrap from 0 to 2^31−1, if the batch went over it.
        let first = (i64::from(last_sequence) - i64::from(delta)) & i64::from(i32::MAX);
        Ok(Some(AppliedBatch {
            sequences: SequenceRange { first: first as i32, last: last_sequence },
            base_offset: KafkaOffset(last_offset - i64::from(delta)),
            last_offset_delta: delta,
            timestamp: self.timestamp.get(),
        }))
    }
}

impl Producer {
    fn file_entries(&self, producer_id: i64) -> Vec<FileEntry> {
        let blank = FileEntry {
            producer_id: producer_id.into(),
            epoch: self.epoch.into(),
            last_sequence: NO_SEQUENCE.into(),
            last_offset: (-1).into(),
            offset_delta: 0.into(),
            timestamp: NO_TIMESTAMP.into(),
            coordinator_epoch: self.coordinator_epoch.into(),
            current_txn_first_offset: self.current_txn_first_offset.map_or(-1, |offset| offset.0).into(),
        };
        if self.batches.is_empty() {
            return vec![blank];
        }
        let entry = |batch: &AppliedBatch| FileEntry {
            last_sequence: batch.sequences.last.into(),
            last_offset: batch.base_offset.plus(i64::from(batch.last_offset_delta)).0.into(),
            offset_delta: batch.last_offset_delta.into(),
            timestamp: batch.timestamp.into(),
            ..blank
        };
        self.batches.iter().map(entry).collect()
    }
}
