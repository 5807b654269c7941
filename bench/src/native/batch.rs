//! Record batches: made in place in one buffer, with the checksum at the end, and read without
//! a copy. Both are `chronik_wal`'s; here is what a client adds: who waits for which record, and
//! what it cannot read.

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use chronik_wal::batch::{BatchError, batches};
use chronik_wal::compress::{Compression, DecompressCaps};
use chronik_wal::records::{BatchBuilder, Records};

use super::producer_id::ProducerId;
use crate::message::Message;

/// What a record takes at most beside its key and value: lengths, deltas and counts.
const RECORD_OVERHEAD_BYTES_MAX: usize = 32;

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When it was meant to be sent, nanoseconds since the run's base.
    pub intended_ns: u64,
    /// Its number within the client.
    pub sequence: u64,
}

/// A batch that takes more records.
pub struct OpenBatch {
    builder: BatchBuilder,
    stamps: Vec<Stamp>,
    first_ns: u64,
    record_bytes_max: usize,
}

/// A batch as it goes over the wire.
#[derive(Debug)]
pub struct Batch {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its messages; none once they have all been given up.
    pub stamps: Vec<Stamp>,
    /// When the first of them came.
    pub first_ns: u64,
}

impl OpenBatch {
    /// An empty batch.
    pub fn new(now_ns: u64) -> Self {
        Self { builder: BatchBuilder::new(), stamps: Vec::new(), first_ns: now_ns, record_bytes_max: 0 }
    }

    /// Appends a message.
    pub fn push(&mut self, message: &Message<'_>, intended_ns: u64, timestamp_ms: i64) {
        self.builder.push(timestamp_ms, message.key, Some(message.value));
        self.stamps.push(Stamp { intended_ns, sequence: message.sequence });
        let record_bytes =
            message.key.map_or(0, <[u8]>::len) + message.value.len() + RECORD_OVERHEAD_BYTES_MAX;
        self.record_bytes_max = self.record_bytes_max.max(record_bytes);
    }

    /// Whether another message like those in it would make it larger than `bytes_max`.
    pub fn is_full(&self, bytes_max: usize) -> bool {
        self.builder.size_bytes() + self.record_bytes_max > bytes_max
    }

    /// When its first message came.
    pub fn first_ns(&self) -> u64 {
        self.first_ns
    }

    /// The finished batch, that of an idempotent producer if it is given with the number of the
    /// first record.
    pub fn close(self, numbered: Option<(ProducerId, i32)>) -> Result<Batch, BatchError> {
        let builder = match numbered {
            Some((producer, number)) => self.builder.producer(producer.id, producer.epoch, number),
            None => self.builder,
        };
        let bytes = builder.build()?.freeze();
        Ok(Batch { bytes, stamps: self.stamps, first_ns: self.first_ns })
    }

    /// Its messages, when it is not to be sent any more.
    pub fn into_stamps(self) -> Vec<Stamp> {
        self.stamps
    }
}

impl Batch {
    /// Number of its first message within the client; none when it was given up.
    pub fn first_sequence(&self) -> Option<u64> {
        self.stamps.first().map(|stamp| stamp.sequence)
    }
}

/// Calls `each` with offset, timestamp and value of every record from `offset` on, in order, until
/// it answers false; the offset to go on from. `name` gives the partition's name for errors.
pub fn read_records(
    bytes: &[u8],
    offset: i64,
    name: &dyn Fn() -> String,
    mut each: impl FnMut(i64, i64, &[u8]) -> bool,
) -> Result<i64> {
    let mut next_offset = offset;
    let broken = |error: BatchError| anyhow!("an unreadable batch in {} at {offset}: {error}", name());
    for batch in batches(bytes) {
        let (info, batch) = batch.map_err(broken)?;
        if info.compression() != Ok(Compression::None) {
            bail!(
                "{} holds compressed batches (at offset {}), which --client native cannot read: use --client librdkafka",
                name(),
                info.base_offset.0
            );
        }
        if !info.is_control() {
            let records = Records::open(batch, &DecompressCaps::default()).map_err(broken)?;
            for record in &records {
                let record = record.map_err(broken)?;
                // A batch may begin before the offset that was asked for.
                if record.offset.0 >= next_offset
                    && !each(record.offset.0, record.timestamp, record.value.unwrap_or_default())
                {
                    return Ok(record.offset.0);
                }
            }
        }
        next_offset = next_offset.max(info.next_offset().0);
    }
    if next_offset == offset && !bytes.is_empty() {
        bail!(
            "the broker's answer for {} at {offset} holds {} bytes and no whole batch",
            name(),
            bytes.len()
        );
    }
    Ok(next_offset)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use chronik_wal::compress::CompressionLevels;
    use kafka_protocol::indexmap::IndexMap;
    use kafka_protocol::records::{
        Compression as OracleCompression, Record, RecordBatchDecoder, RecordBatchEncoder,
        RecordEncodeOptions, TimestampType,
    };

    use super::*;

    /// Timestamp, key and value.
    type Plain<'a> = (i64, Option<&'a [u8]>, &'a [u8]);

    fn oracle(records: &[Plain<'_>]) -> BytesMut {
        let record = |(at, (timestamp, key, value)): (usize, &Plain<'_>)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: at as i64,
            // One batch as long as these rise with the offsets; the first is "none".
            sequence: at as i32 - 1,
            timestamp: *timestamp,
            key: key.map(Bytes::copy_from_slice),
            value: Some(Bytes::copy_from_slice(value)),
            headers: IndexMap::new(),
        };
        let records: Vec<Record> = records.iter().enumerate().map(record).collect();
        let options = RecordEncodeOptions { version: 2, compression: OracleCompression::None };
        let mut bytes = BytesMut::new();
        RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
        bytes
    }

    fn batch(records: &[Plain<'_>]) -> Batch {
        let mut open = OpenBatch::new(5);
        for (sequence, (timestamp, key, value)) in records.iter().enumerate() {
            let message = Message { sequence: sequence as u64, key: *key, value };
            open.push(&message, 7, *timestamp);
        }
        open.close(None).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_second_codec() {
        let (long, longer) = (vec![7; 200], vec![9; 20_000]);
        let mut records: Vec<Plain<'_>> =
            vec![(1_700_000_000_000, None, b""), (1_700_000_000_003, Some(b"key"), &long)];
        assert_eq!(batch(&records[..1]).bytes, oracle(&records[..1]));
        assert_eq!(batch(&records).bytes, oracle(&records));
        // More than 64 and more than 8192 records: offset deltas of two and three bytes.
        records.extend((0..9_000).map(|at| (1_700_000_000_003 + at, None, &b"x"[..])));
        records.push((1_700_000_100_000, Some(&long), &longer));
        let ours = batch(&records);
        assert_eq!(ours.bytes, oracle(&records));
        let decoded = RecordBatchDecoder::decode(&mut ours.bytes.clone()).unwrap();
        assert_eq!(decoded.records.len(), 9_003);
        assert_eq!((ours.stamps.len(), ours.first_ns), (9_003, 5));
        assert_eq!(ours.stamps[9_002], Stamp { intended_ns: 7, sequence: 9_002 });
    }

    #[test]
    fn a_batch_is_full_before_it_is_too_large() {
        for bytes_max in [100, 1_000, 16_384] {
            let mut open = OpenBatch::new(0);
            let mut count = 0;
            loop {
                open.push(&Message { sequence: count, key: Some(b"0123"), value: &[1; 300] }, 0, 0);
                count += 1;
                if open.is_full(bytes_max) {
                    break;
                }
            }
            let size = open.close(None).unwrap().bytes.len();
            assert!(size <= bytes_max || count == 1, "{size} bytes where {bytes_max} are allowed");
            assert!(size + 400 > bytes_max, "{size} bytes where {bytes_max} are allowed");
        }
    }

    /// Timestamps and values, and the offset to go on from.
    type Found = (Vec<(i64, Vec<u8>)>, i64);

    fn read(bytes: &[u8], offset: i64) -> Result<Found> {
        let mut found = Vec::new();
        let next = read_records(bytes, offset, &|| "t-0".to_owned(), |_, timestamp, value| {
            found.push((timestamp, value.to_vec()));
            true
        })?;
        Ok((found, next))
    }

    #[test]
    fn records_are_read_from_the_offset_that_was_asked_for() {
        let bytes = batch(&[(10, None, b"a"), (11, None, b"b"), (12, None, b"c")]).bytes;
        let (found, next) = read(&bytes, 1).unwrap();
        assert_eq!(found, [(11, b"b".to_vec()), (12, b"c".to_vec())]);
        assert_eq!(next, 3);
        // The last batch of an answer may be cut short: it is asked for again.
        let mut two = bytes.to_vec();
        let mut second = bytes.to_vec();
        second[..8].copy_from_slice(&3_i64.to_be_bytes());
        two.extend_from_slice(&second[..second.len() - 1]);
        let (found, next) = read(&two, 0).unwrap();
        assert_eq!((found.len(), next), (3, 3));
        assert!(read(&two[..bytes.len() - 1], 0).unwrap_err().to_string().contains("no whole batch"));
        let stopped =
            read_records(&bytes, 0, &|| "t-0".to_owned(), |_, timestamp, _| timestamp < 11).unwrap();
        assert_eq!(stopped, 1);
    }

    #[test]
    fn a_compressed_batch_is_refused_in_words() {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let mut builder = BatchBuilder::new().compression(codec, CompressionLevels::default());
            builder.push(1, None, Some(b"value"));
            let error = read(&builder.build().unwrap(), 0).unwrap_err().to_string();
            assert!(
                error.contains("t-0 holds compressed batches") && error.contains("librdkafka"),
                "{error}"
            );
        }
    }
}
