//! A batch on its way in: judged as Kafka's `LogValidator` and `UnifiedLog.append` judge it, then patched in place.
//!
//! Runs on the shard that owns the partition, once per produced batch: the checks of the header and the CRC always, the
//! walk over the records when they are not compressed. A compressed batch is taken at its header's word (SAFETY.md,
//! rule 24): nobody but its readers ever opens it. Only a compacted topic, which must see the keys, opens it here.
//!
//! Where this is stricter than Kafka: bytes after the batch are refused rather than cut off; LogAppendTime or a delete
//! horizon set by a producer is always refused; offset deltas must be 0 to n−1; a transactional batch needs a producer
//! id, and a producer id an epoch that is not negative. In 20,000 batches damaged at random under a right CRC, Kafka
//! 4.3.1's `LogValidator` refused nothing that passes here, and passed nothing else that is refused.

use zerocopy::FromBytes;

use super::{
    BatchError, BatchHeader, BatchInfo, CRC_START, NO_TIMESTAMP, RecordError, TIMESTAMP_TYPE_BIT,
    TimestampType, peek,
};
use crate::compress::{Compression, DecompressCaps};
use crate::records::{Record, Records};
use crate::types::{KafkaOffset, LeaderEpoch};

/// Most record errors that are listed for one batch. The Java producer fails every record of the batch either way, and
/// a hostile one could make millions.
pub const RECORD_ERRORS_MAX: usize = 100;

/// What a topic and the request's version ask of a produced batch.
#[derive(Clone, Copy, Debug)]
pub struct ProduceLimits {
    /// `max.message.bytes`: of the whole batch, header and compression included.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`. With LogAppendTime the producer's timestamps are not judged.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a timestamp may lie before `wall_ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far after.
    pub timestamp_after_max_ms: i64,
    /// The time now, Unix ms.
    pub wall_ms: i64,
    /// Whether each record needs a key (`cleanup.policy` has `compact`).
    pub key_required: bool,
    /// Whether the request may carry zstd: Produce v7 and later.
    pub zstd_allowed: bool,
    /// Bounds of decompression, where a compacted topic makes it necessary.
    pub caps: DecompressCaps,
}

impl Default for ProduceLimits {
    /// Kafka's defaults for a topic, at time 0.
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            wall_ms: 0,
            key_required: false,
            zstd_allowed: true,
            caps: DecompressCaps::default(),
        }
    }
}

/// Judges what a producer sent for one partition: exactly one whole, sound batch that the topic may take.
///
/// The result's `max_timestamp` is the records' own where they were walked. Clients exist that put another one in the
/// header, upon which Kafka corrects it: call [`store_max_timestamp`] with the result before the batch is stored.
///
/// # Errors
/// [`BatchError`]; its variants name the Kafka error codes.
pub fn validate_produced(batch: &[u8], limits: &ProduceLimits) -> Result<BatchInfo, BatchError> {
    let info = peek(batch)?;
    if info.size_bytes > batch.len() {
        return Err(BatchError::Truncated { needed: info.size_bytes, have: batch.len() });
    }
    if info.size_bytes < batch.len() {
        return Err(BatchError::TrailingBytes { extra: batch.len() - info.size_bytes });
    }
    if info.size_bytes > limits.max_message_bytes {
        return Err(BatchError::TooLarge { size: info.size_bytes, limit: limits.max_message_bytes });
    }
    check_crc(batch)?;
    check_producers_header(&info)?;
    let codec = info.compression()?;
    if codec == Compression::Zstd && !limits.zstd_allowed {
        return Err(BatchError::CompressionNotAllowed { codec });
    }
    if codec != Compression::None && !limits.key_required {
        return check_header_timestamp(info, limits);
    }
    let records = Records::open(batch, &limits.caps)?;
    let max_timestamp = walk(&records, limits)?;
    Ok(BatchInfo { max_timestamp, ..info })
}

/// Compares the CRC of a whole batch with the one in its header.
///
/// # Errors
/// [`BatchError::BadCrc`]; [`BatchError::Truncated`] when there is no header.
pub fn check_crc(batch: &[u8]) -> Result<(), BatchError> {
    let Ok((header, _)) = BatchHeader::ref_from_prefix(batch) else {
        return Err(BatchError::Truncated { needed: super::HEADER_BYTES, have: batch.len() });
    };
    let stored = header.crc.get();
    let computed = crc32c::crc32c(&batch[CRC_START..]);
    if stored != computed {
        return Err(BatchError::BadCrc { stored, computed });
    }
    Ok(())
}

/// The fields of a client's header that contradict each other, or that are not a client's to set.
fn check_producers_header(info: &BatchInfo) -> Result<(), BatchError> {
    if info.base_offset != KafkaOffset(0) {
        return Err(BatchError::field("base offset", info.base_offset.0, "a producer must send 0"));
    }
    if i64::from(info.record_count) != i64::from(info.last_offset_delta) + 1 {
        let count = i64::from(info.record_count);
        return Err(BatchError::field("record count", count, "it must be the last offset delta plus 1"));
    }
    if info.is_control() {
        let attributes = i64::from(info.attributes);
        return Err(BatchError::field("attributes", attributes, "clients may not write control records"));
    }
    if info.has_delete_horizon() {
        let attributes = i64::from(info.attributes);
        return Err(BatchError::field("attributes", attributes, "clients may not set a delete horizon"));
    }
    if info.has_producer_id() && info.base_sequence < 0 {
        let sequence = i64::from(info.base_sequence);
        return Err(BatchError::field("base sequence", sequence, "a batch with a producer id needs one"));
    }
    if info.has_producer_id() && info.producer_epoch < 0 {
        let epoch = i64::from(info.producer_epoch);
        return Err(BatchError::field("producer epoch", epoch, "a batch with a producer id needs one"));
    }
    if info.is_transactional() && !info.has_producer_id() {
        return Err(BatchError::field("producer id", info.producer_id, "a transactional batch needs one"));
    }
    if info.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::InvalidTimestamp {
            reason: "a producer may not set the timestamp type to LogAppendTime".to_owned(),
            errors: Vec::new(),
        });
    }
    Ok(())
}

/// For a batch that stays closed: its greatest timestamp, by its header, must lie within the bounds.
fn check_header_timestamp(info: BatchInfo, limits: &ProduceLimits) -> Result<BatchInfo, BatchError> {
    match timestamp_fault(info.max_timestamp, limits) {
        Some(reason) => Err(BatchError::InvalidTimestamp { reason, errors: Vec::new() }),
        None => Ok(info),
    }
}

/// Walks every record of a produced batch and gives their greatest timestamp.
fn walk(records: &Records<'_>, limits: &ProduceLimits) -> Result<i64, BatchError> {
    let mut max_timestamp = NO_TIMESTAMP;
    let mut errors = Vec::new();
    let mut any_timestamp = false;
    let mut iter = records.iter();
    let mut index: i32 = 0;
    while let Some(record) = iter.next_record()? {
        if record.offset_delta != index {
            let reason = "offset deltas of a produced batch must count up from 0";
            return Err(BatchError::MalformedRecord { index, reason });
        }
        max_timestamp = max_timestamp.max(record.timestamp);
        if let Some((is_timestamp, message)) = record_fault(&record, limits)
            && errors.len() < RECORD_ERRORS_MAX
        {
            any_timestamp |= is_timestamp;
            errors.push(RecordError { index, message });
        }
        index += 1;
    }
    if errors.is_empty() {
        return Ok(max_timestamp);
    }
    // As in Kafka, one bad timestamp makes the whole answer INVALID_TIMESTAMP.
    if any_timestamp {
        let reason = errors[0].message.clone();
        return Err(BatchError::InvalidTimestamp { reason, errors });
    }
    Err(BatchError::RefusedRecords { errors })
}

/// Why the topic refuses this record, if it does, and whether for its timestamp.
fn record_fault(record: &Record<'_>, limits: &ProduceLimits) -> Option<(bool, String)> {
    if limits.key_required && record.key.is_none() {
        return Some((false, "a compacted topic cannot accept a record without a key".to_owned()));
    }
    timestamp_fault(record.timestamp, limits).map(|message| (true, message))
}

/// Why a timestamp lies outside the topic's bounds, if it does. A record without one passes.
fn timestamp_fault(timestamp: i64, limits: &ProduceLimits) -> Option<String> {
    if limits.timestamp_type == TimestampType::LogAppendTime || timestamp == NO_TIMESTAMP {
        return None;
    }
    let earliest = limits.wall_ms.saturating_sub(limits.timestamp_before_max_ms);
    let latest = limits.wall_ms.saturating_add(limits.timestamp_after_max_ms);
    if (earliest..=latest).contains(&timestamp) {
        return None;
    }
    Some(format!("timestamp {timestamp} is outside [{earliest}, {latest}]"))
}

/// Writes base offset and leader epoch into a batch, in place. Neither is covered by its CRC.
///
/// # Panics
/// When `batch` is shorter than a header: it has not been validated.
pub fn assign(batch: &mut [u8], base_offset: KafkaOffset, leader_epoch: LeaderEpoch) {
    let header = header_mut(batch);
    header.base_offset.set(base_offset.0);
    header.leader_epoch.set(leader_epoch.0);
}

/// Makes LogAppendTime of a batch: attribute bit 3, `wall_ms` as max timestamp, CRC computed anew.
///
/// # Panics
/// When `batch` is shorter than a header: it has not been validated.
pub fn stamp_log_append_time(batch: &mut [u8], wall_ms: i64) {
    let header = header_mut(batch);
    header.attributes.set(header.attributes.get() | TIMESTAMP_TYPE_BIT);
    header.max_timestamp.set(wall_ms);
    store_crc(batch);
}

/// Puts the max timestamp that [`validate_produced`] found into the header where another one stands, with a new CRC.
/// Does nothing, and sums nothing, in the ordinary case that they agree.
///
/// # Panics
/// When `batch` is shorter than a header: it has not been validated.
pub fn store_max_timestamp(batch: &mut [u8], info: &BatchInfo) {
    let header = header_mut(batch);
    if header.max_timestamp.get() == info.max_timestamp {
        return;
    }
    header.max_timestamp.set(info.max_timestamp);
    store_crc(batch);
}

pub(crate) fn store_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    header_mut(batch).crc.set(crc);
}

pub(crate) fn header_mut(batch: &mut [u8]) -> &mut BatchHeader {
    let Ok((header, _)) = BatchHeader::mut_from_prefix(batch) else {
        panic!("a record batch to patch is shorter than its header");
    };
    header
}
