//! The Kafka record batch, format v2 (magic 2), seen through its header. Pure; used on every shard, owned by none.
//!
//! A batch is 61 bytes of header and then its records, compressed or not (KIP-98). All integers are big-endian:
//!
//! ```text
//!  0 base offset i64 ┐ patched by the leader: neither the        21 attributes i16        43 producer id i64
//!  8 length i32      │ CRC nor its range covers these            23 last offset delta i32  51 producer epoch i16
//! 12 leader epoch i32│ (length: bytes after this field)          27 base timestamp i64     53 base sequence i32
//! 16 magic i8 = 2    ┘                                           35 max timestamp i64      57 record count i32
//! 17 CRC-32C u32 of everything from byte 21 to the end           61 records
//! ```
//!
//! Attributes: bits 0 to 2 compression, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon.
//!
//! Invariants: no function here trusts a length before it has compared it with the bytes at hand; none allocates by one.
//! [`peek`] reads any batch, [`validate_produced`] judges one from a client, [`assign`] and
//! [`stamp_log_append_time`] are the only changes that a leader makes to a client's bytes.

mod error;
mod produce;
#[cfg(test)]
pub(crate) mod tests;

use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use error::{BatchError, RecordError};
pub(crate) use produce::store_crc;
pub use produce::{
    ProduceLimits, RECORD_ERRORS_MAX, assign, check_crc, stamp_log_append_time, store_max_timestamp,
    validate_produced,
};

use crate::compress::Compression;
use crate::types::{KafkaOffset, LeaderEpoch};

/// Bytes of a batch header; the records begin here.
pub const HEADER_BYTES: usize = 61;
/// Bytes before those that the length field counts: base offset and the length field itself.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// The only batch format that there still is (Kafka 4.0 dropped the others).
pub const MAGIC: i8 = 2;
/// First byte that the batch's CRC covers.
pub const CRC_START: usize = 21;
/// Value of a timestamp that was not given.
pub const NO_TIMESTAMP: i64 = -1;
/// Value of the producer id of a batch without one.
pub const NO_PRODUCER_ID: i64 = -1;
/// Value of the base sequence of a batch without a producer id.
pub const NO_SEQUENCE: i32 = -1;

const MAGIC_POSITION: usize = 16;
pub(crate) const COMPRESSION_MASK: i16 = 0x07;
pub(crate) const TIMESTAMP_TYPE_BIT: i16 = 1 << 3;
pub(crate) const TRANSACTIONAL_BIT: i16 = 1 << 4;
pub(crate) const CONTROL_BIT: i16 = 1 << 5;
const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// The header as it lies in memory; see the layout above.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: I64,
    /// Bytes after this field.
    pub length: I32,
    /// Leader epoch that the batch was appended in.
    pub leader_epoch: I32,
    /// Format version, 2.
    pub magic: i8,
    /// CRC-32C from `attributes` to the end.
    pub crc: U32,
    /// Flags and codec.
    pub attributes: I16,
    /// Offset of the last record less the base offset.
    pub last_offset_delta: I32,
    /// Timestamp that the records' deltas count from, ms.
    pub base_timestamp: I64,
    /// Greatest timestamp of the records, ms; with LogAppendTime that of all of them.
    pub max_timestamp: I64,
    /// Idempotent producer, −1 for none.
    pub producer_id: I64,
    /// Its epoch.
    pub producer_epoch: I16,
    /// Sequence number of the first record.
    pub base_sequence: I32,
    /// Records in the batch.
    pub record_count: I32,
}

const _: () = assert!(size_of::<BatchHeader>() == HEADER_BYTES);
const _: () = assert!(align_of::<BatchHeader>() == 1);
const _: () = assert!(std::mem::offset_of!(BatchHeader, magic) == MAGIC_POSITION);
const _: () = assert!(std::mem::offset_of!(BatchHeader, attributes) == CRC_START);

/// Whose clock a batch's timestamps come from (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, at append; the header's max timestamp stands for every record.
    LogAppendTime,
}

/// A batch's header as plain numbers, copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    /// Offset of the first record.
    pub base_offset: KafkaOffset,
    /// Offset of the last record less the base offset. Never negative.
    pub last_offset_delta: i32,
    /// The whole batch in bytes, the 12 that the length field does not count included. At least 61.
    pub size_bytes: usize,
    /// Leader epoch that it was appended in.
    pub leader_epoch: LeaderEpoch,
    /// Stored CRC-32C.
    pub crc: u32,
    /// Flags and codec, raw.
    pub attributes: i16,
    /// Timestamp that the records' deltas count from, ms.
    pub base_timestamp: i64,
    /// Greatest timestamp of the records, ms; −1 for none.
    pub max_timestamp: i64,
    /// Idempotent producer, −1 for none.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Sequence number of the first record, −1 for none.
    pub base_sequence: i32,
    /// Records in the batch. Less than `last_offset_delta + 1` once it has been compacted.
    pub record_count: i32,
}

impl BatchInfo {
    /// The codec of the records.
    ///
    /// # Errors
    /// [`BatchError::UnknownCompression`] for the numbers 5 to 7, which no Kafka release has given out.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let codec = self.compression_code();
        Compression::from_code(codec).ok_or(BatchError::UnknownCompression { codec })
    }

    /// The codec's number, known or not: 0 to 7.
    #[must_use]
    pub fn compression_code(&self) -> u8 {
        (self.attributes & COMPRESSION_MASK) as u8
    }

    /// Whose clock the timestamps are from.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// Whether it belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether its records are markers written by the broker, hidden from consumers.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the base timestamp is the time from which compaction may drop its tombstones (KIP-534).
    #[must_use]
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// Whether an idempotent producer wrote it. Kafka takes every negative id for none.
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> KafkaOffset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> KafkaOffset {
        self.base_offset.plus(i64::from(self.last_offset_delta) + 1)
    }

    /// Sequence number of the last record; after 2^31−1 comes 0. −1 when there is no base sequence.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return NO_SEQUENCE;
        }
        sequence_plus(self.base_sequence, self.last_offset_delta)
    }
}

/// The sequence number `delta` after `sequence`, with 0 after 2^31−1. Neither may be negative.
#[must_use]
pub fn sequence_plus(sequence: i32, delta: i32) -> i32 {
    debug_assert!(sequence >= 0 && delta >= 0);
    let sum = i64::from(sequence) + i64::from(delta);
    (sum & i64::from(i32::MAX)) as i32
}

/// Reads a batch's header. Needs only the header's bytes and checks only that it makes sense:
/// length of at least a header, magic 2, no negative delta or count, offsets that do not overflow.
///
/// # Errors
/// [`BatchError::Truncated`] below 61 bytes; `BadLength`, `BadMagic`, `InvalidField` for nonsense.
pub fn peek(bytes: &[u8]) -> Result<BatchInfo, BatchError> {
    let size_bytes = announced_size(bytes)?;
    let Ok((header, _)) = BatchHeader::ref_from_prefix(bytes) else {
        return Err(BatchError::Truncated { needed: HEADER_BYTES, have: bytes.len() });
    };
    let info = BatchInfo {
        base_offset: KafkaOffset(header.base_offset.get()),
        last_offset_delta: header.last_offset_delta.get(),
        size_bytes,
        leader_epoch: LeaderEpoch(header.leader_epoch.get()),
        crc: header.crc.get(),
        attributes: header.attributes.get(),
        base_timestamp: header.base_timestamp.get(),
        max_timestamp: header.max_timestamp.get(),
        producer_id: header.producer_id.get(),
        producer_epoch: header.producer_epoch.get(),
        base_sequence: header.base_sequence.get(),
        record_count: header.record_count.get(),
    };
    check_sense(&info)?;
    Ok(info)
}

/// What must hold of any batch, so that the methods of [`BatchInfo`] cannot overflow.
fn check_sense(info: &BatchInfo) -> Result<(), BatchError> {
    if info.last_offset_delta < 0 {
        let value = i64::from(info.last_offset_delta);
        return Err(BatchError::field("last offset delta", value, "it may not be negative"));
    }
    if info.record_count < 0 {
        let value = i64::from(info.record_count);
        return Err(BatchError::field("record count", value, "it may not be negative"));
    }
    let base_offset = info.base_offset.0;
    if base_offset.checked_add(i64::from(info.last_offset_delta) + 1).is_none() {
        return Err(BatchError::field("base offset", base_offset, "its last offset would overflow"));
    }
    Ok(())
}

/// The whole size of the batch at the head of `bytes`, from its length field; magic checked when it is at hand.
fn announced_size(bytes: &[u8]) -> Result<usize, BatchError> {
    let Some(field) = bytes.get(8..LENGTH_PREFIX_BYTES) else {
        return Err(BatchError::Truncated { needed: HEADER_BYTES, have: bytes.len() });
    };
    let length = i32::from_be_bytes([field[0], field[1], field[2], field[3]]);
    if let Some(&magic) = bytes.get(MAGIC_POSITION)
        && magic as i8 != MAGIC
    {
        return Err(BatchError::BadMagic { magic: magic as i8 });
    }
    match usize::try_from(length) {
        Ok(length) if length >= HEADER_BYTES - LENGTH_PREFIX_BYTES => Ok(length + LENGTH_PREFIX_BYTES),
        _ => Err(BatchError::BadLength { length }),
    }
}

/// Cuts the first batch off: it, and what follows.
///
/// # Errors
/// [`BatchError::Truncated`] when the first batch is not whole; `BadLength`, `BadMagic` when it is none.
pub fn split_first(bytes: &[u8]) -> Result<(&[u8], &[u8]), BatchError> {
    let size = announced_size(bytes)?;
    if size > bytes.len() {
        return Err(BatchError::Truncated { needed: size, have: bytes.len() });
    }
    Ok(bytes.split_at(size))
}

/// The whole batches of `bytes`, in order.
#[must_use]
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

/// Iterator of [`batches`]. Ends quietly at a cut tail; yields an error once, then ends, at what is no batch.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// What has not been yielded: empty, or the cut tail.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchInfo, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (batch, rest) = match split_first(self.rest) {
            Ok(parts) => parts,
            Err(BatchError::Truncated { .. }) => return None,
            Err(error) => {
                self.rest = &[];
                return Some(Err(error));
            }
        };
        match peek(batch) {
            Ok(info) => {
                self.rest = rest;
                Some(Ok((info, batch)))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}
