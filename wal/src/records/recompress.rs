//! A batch under another codec, for a topic whose `compression.type` is not the producer's.

use bytes::{BufMut, BytesMut};
use zerocopy::FromBytes;

use super::{Records, builder::seal};
use crate::batch::{BatchError, BatchHeader, COMPRESSION_MASK, HEADER_BYTES, TimestampType};
use crate::compress::{Compression, CompressionLevels, DecompressCaps};

/// The same records under `target`: offset deltas, timestamps, producer fields and flags stay as they are. The max
/// timestamp becomes the records' own, and the CRC is new.
///
/// Reads every record, so a damaged payload is refused. The result may be larger than the original: hold it against
/// `max.message.bytes` once more, as Kafka does.
///
/// # Errors
/// As [`Records::open`] and [`super::RecordIter::next_record`], and when the encoder fails.
pub fn recompress(
    batch: &[u8],
    target: Compression,
    levels: &CompressionLevels,
    caps: &DecompressCaps,
) -> Result<BytesMut, BatchError> {
    let records = Records::open(batch, caps)?;
    let info = *records.info();
    let mut max_timestamp = crate::batch::NO_TIMESTAMP;
    for record in &records {
        max_timestamp = max_timestamp.max(record?.timestamp);
    }
    let Ok((mut header, _)) = BatchHeader::read_from_prefix(batch) else {
        return Err(BatchError::Truncated { needed: HEADER_BYTES, have: batch.len() });
    };
    header.attributes.set(info.attributes & !COMPRESSION_MASK);
    if info.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp.set(max_timestamp);
    }
    let mut plain = BytesMut::with_capacity(HEADER_BYTES + records.body().len());
    plain.put_bytes(0, HEADER_BYTES);
    plain.put_slice(records.body());
    seal(header, target, levels, plain)
}
