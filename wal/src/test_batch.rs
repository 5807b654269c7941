//! Record batches for the WAL's tests: a sound v2 header around bytes that need not be records.

use bytes::Bytes;

/// A batch of `count` records from `base_offset`; its CRC holds.
pub(crate) fn batch(base_offset: i64, count: i32, records: &[u8]) -> Bytes {
    let mut batch = vec![0; 61 + records.len()];
    let length = i32::try_from(batch.len() - 12).expect("a small batch");
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    batch[61..].copy_from_slice(records);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}
