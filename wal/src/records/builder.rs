//! Builds record batches: for the broker's own records (group offsets, metadata) and for tests.

use bytes::{BufMut, Bytes, BytesMut};
use zerocopy::IntoBytes;

use super::varint::{put_varlong, varlong_bytes};
use crate::batch::{
    BatchError, BatchHeader, CONTROL_BIT, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC, NO_PRODUCER_ID,
    NO_SEQUENCE, NO_TIMESTAMP, TRANSACTIONAL_BIT, store_crc,
};
use crate::compress::{Compression, CompressionLevels, compress_into};
use crate::types::{KafkaOffset, LeaderEpoch};

/// A batch in the making. Records get the offset deltas 0, 1, 2… in the order in which they are pushed.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    base_offset: KafkaOffset,
    leader_epoch: LeaderEpoch,
    codec: Compression,
    levels: CompressionLevels,
    flags: i16,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    /// Space for the header, then the records.
    bytes: BytesMut,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch: base offset 0, leader epoch −1, no producer, uncompressed, CreateTime.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = BytesMut::with_capacity(256);
        bytes.put_bytes(0, HEADER_BYTES);
        Self {
            base_offset: KafkaOffset(0),
            leader_epoch: LeaderEpoch::UNKNOWN,
            codec: Compression::None,
            levels: CompressionLevels::default(),
            flags: 0,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: -1,
            base_sequence: NO_SEQUENCE,
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            count: 0,
            bytes,
        }
    }

    /// Sets the base offset; `assign` does it later for a batch that is proposed.
    #[must_use]
    pub fn base_offset(mut self, base_offset: KafkaOffset) -> Self {
        self.base_offset = base_offset;
        self
    }

    /// Sets the leader epoch.
    #[must_use]
    pub fn leader_epoch(mut self, leader_epoch: LeaderEpoch) -> Self {
        self.leader_epoch = leader_epoch;
        self
    }

    /// Makes it the batch of an idempotent producer.
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Marks it as part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.flags |= TRANSACTIONAL_BIT;
        self
    }

    /// Marks it as a control batch.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.flags |= CONTROL_BIT;
        self
    }

    /// Compresses the records when the batch is built.
    #[must_use]
    pub fn compression(mut self, codec: Compression, levels: CompressionLevels) -> Self {
        self.codec = codec;
        self.levels = levels;
        self
    }

    /// Appends a record without headers. `timestamp` in ms, −1 for none.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> &mut Self {
        self.push_with_headers(timestamp, key, value, &[])
    }

    /// Appends a record. `timestamp` in ms, −1 for none.
    pub fn push_with_headers(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> &mut Self {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        // Wrapping, so that no pair of timestamps panics; the reader's addition is checked.
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let offset_delta = i64::from(self.count);
        self.count += 1;

        let header_bytes: usize =
            headers.iter().map(|(key, value)| bytes_size(Some(key)) + bytes_size(*value)).sum();
        let record_bytes = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(offset_delta)
            + bytes_size(key)
            + bytes_size(value)
            + varlong_bytes(headers.len() as i64)
            + header_bytes;
        put_varlong(&mut self.bytes, record_bytes as i64);
        self.bytes.put_u8(0);
        put_varlong(&mut self.bytes, timestamp_delta);
        put_varlong(&mut self.bytes, offset_delta);
        put_bytes(&mut self.bytes, key);
        put_bytes(&mut self.bytes, value);
        put_varlong(&mut self.bytes, headers.len() as i64);
        for (key, value) in headers {
            put_bytes(&mut self.bytes, Some(key));
            put_bytes(&mut self.bytes, *value);
        }
        self
    }

    /// Records pushed so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether no record has been pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the batch as it stands, in bytes, before compression.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The finished batch.
    ///
    /// # Errors
    /// [`BatchError::InvalidField`] without any record; [`BatchError::TooLarge`] beyond what a length field can say;
    /// [`BatchError::Decompression`] when the encoder fails.
    pub fn build(self) -> Result<BytesMut, BatchError> {
        if self.count == 0 {
            return Err(BatchError::field("record count", 0, "a batch needs a record"));
        }
        let header = self.header();
        let (codec, levels) = (self.codec, self.levels);
        seal(header, codec, &levels, self.bytes)
    }

    fn header(&self) -> BatchHeader {
        BatchHeader {
            base_offset: self.base_offset.0.into(),
            length: 0.into(),
            leader_epoch: self.leader_epoch.0.into(),
            magic: MAGIC,
            crc: 0.into(),
            attributes: self.flags.into(),
            last_offset_delta: (self.count - 1).into(),
            base_timestamp: self.base_timestamp.into(),
            max_timestamp: self.max_timestamp.into(),
            producer_id: self.producer_id.into(),
            producer_epoch: self.producer_epoch.into(),
            base_sequence: self.base_sequence.into(),
            record_count: self.count.into(),
        }
    }
}

/// Makes a batch of a header and its records, which lie in `plain` after the space for the header: compresses them, and
/// sets codec, length and CRC.
pub(super) fn seal(
    mut header: BatchHeader,
    codec: Compression,
    levels: &CompressionLevels,
    plain: BytesMut,
) -> Result<BytesMut, BatchError> {
    let mut batch = match codec {
        Compression::None => plain,
        codec => {
            let mut batch = BytesMut::with_capacity(HEADER_BYTES + plain.len() / 2);
            batch.put_bytes(0, HEADER_BYTES);
            compress_into(codec, levels, &plain[HEADER_BYTES..], &mut batch)?;
            batch
        }
    };
    let Ok(length) = i32::try_from(batch.len() - LENGTH_PREFIX_BYTES) else {
        return Err(BatchError::TooLarge { size: batch.len(), limit: i32::MAX as usize });
    };
    header.length.set(length);
    header.attributes.set(header.attributes.get() | codec as i16);
    batch[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    store_crc(&mut batch);
    Ok(batch)
}

fn bytes_size(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varlong_bytes(bytes.len() as i64) + bytes.len(),
        None => 1,
    }
}

fn put_bytes(output: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varlong(output, bytes.len() as i64);
            output.put_slice(bytes);
        }
        None => put_varlong(output, -1),
    }
}

impl TryFrom<BatchBuilder> for Bytes {
    type Error = BatchError;

    fn try_from(builder: BatchBuilder) -> Result<Self, BatchError> {
        builder.build().map(BytesMut::freeze)
    }
}
