//! The records within a batch: reading, building, finding by timestamp. Pure; used on every shard.
//!
//! A record (KIP-98), all numbers zigzag varints:
//!
//! ```text
//! length | attributes i8 | timestamp delta | offset delta | key length (−1 null), key | value length (−1 null), value
//!        | header count | { key length, key | value length (−1 null), value }*
//! ```
//!
//! Invariants: a record is yielded only when it has been parsed to its last header and fills its length exactly, so a
//! [`Record`]'s headers iterate without errors; nothing is allocated but the decompressed payload, within
//! [`DecompressCaps`].

mod builder;
mod recompress;
#[cfg(test)]
mod tests;
mod varint;

use std::borrow::Cow;

pub use builder::BatchBuilder;
pub use recompress::recompress;

use crate::batch::{BatchError, BatchInfo, HEADER_BYTES, TimestampType, peek};
use crate::compress::{Compression, DecompressCaps, decompress};
use crate::types::KafkaOffset;
use varint::Reader;

/// The least that a record takes: its length, attributes, two deltas, two null lengths, no headers.
const RECORD_BYTES_MIN: usize = 7;

/// A batch whose records can be read: decompressed when they had to be.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    info: BatchInfo,
    body: Cow<'a, [u8]>,
}

impl<'a> Records<'a> {
    /// Opens a whole batch. Checks neither CRC nor records; the latter are checked as they are read.
    ///
    /// # Errors
    /// What [`peek`] refuses, a cut batch, an unknown codec, a damaged or too large payload, an impossible record count.
    pub fn open(batch: &'a [u8], caps: &DecompressCaps) -> Result<Self, BatchError> {
        let info = peek(batch)?;
        let Some(payload) = batch.get(HEADER_BYTES..info.size_bytes) else {
            return Err(BatchError::Truncated { needed: info.size_bytes, have: batch.len() });
        };
        let body = match info.compression()? {
            Compression::None => Cow::Borrowed(payload),
            codec => Cow::Owned(decompress(codec, payload, caps)?),
        };
        let count = usize::try_from(info.record_count).unwrap_or(usize::MAX);
        if count > body.len() / RECORD_BYTES_MIN {
            let value = i64::from(info.record_count);
            return Err(BatchError::field("record count", value, "so many records do not fit the batch"));
        }
        Ok(Self { info, body })
    }

    /// The batch's header.
    #[must_use]
    pub fn info(&self) -> &BatchInfo {
        &self.info
    }

    /// The records as they lie in an uncompressed batch.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The records in order.
    #[must_use]
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter {
            reader: Reader::new(&self.body),
            info: self.info,
            index: 0,
            last_delta: -1,
            failed: false,
        }
    }
}

impl<'r> IntoIterator for &'r Records<'_> {
    type Item = Result<Record<'r>, BatchError>;
    type IntoIter = RecordIter<'r>;

    fn into_iter(self) -> RecordIter<'r> {
        self.iter()
    }
}

/// One record, its fields still in the batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: KafkaOffset,
    /// Its offset less the batch's base offset.
    pub offset_delta: i32,
    /// Its timestamp in ms; with LogAppendTime the batch's max timestamp.
    pub timestamp: i64,
    /// Key, if not null.
    pub key: Option<&'a [u8]>,
    /// Value; null is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers, already checked.
    pub headers: Headers<'a>,
}

/// A record's headers. Iterates over (key, value); their bytes have been checked when the record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl Headers<'_> {
    /// How many are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let header = read_header(&mut reader)?;
        self.bytes = reader.rest();
        Some(header)
    }
}

/// Iterator of [`Records::iter`]. After an error it ends.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    reader: Reader<'a>,
    info: BatchInfo,
    index: i32,
    last_delta: i32,
    failed: bool,
}

impl<'a> RecordIter<'a> {
    /// The next record; none after the last one that the header counts.
    ///
    /// # Errors
    /// [`BatchError::MalformedRecord`], also for bytes left over after the last record.
    pub fn next_record(&mut self) -> Result<Option<Record<'a>>, BatchError> {
        if self.failed {
            return Ok(None);
        }
        if self.index == self.info.record_count {
            if self.reader.rest().is_empty() {
                return Ok(None);
            }
            return Err(self.fail("bytes follow the last record"));
        }
        match self.parse() {
            Ok(record) => {
                self.index += 1;
                self.last_delta = record.offset_delta;
                Ok(Some(record))
            }
            Err(reason) => Err(self.fail(reason)),
        }
    }

    fn fail(&mut self, reason: &'static str) -> BatchError {
        self.failed = true;
        BatchError::MalformedRecord { index: self.index, reason }
    }

    fn parse(&mut self) -> Result<Record<'a>, &'static str> {
        let length = self.reader.varint().ok_or("its length is cut short")?;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        let bytes = self.reader.take(length).ok_or("it is longer than the batch")?;
        let mut record = Reader::new(bytes);
        record.take(1).ok_or("its attributes are cut short")?;
        let timestamp_delta = record.varlong().ok_or("its timestamp is cut short")?;
        let offset_delta = record.varint().ok_or("its offset is cut short")?;
        if offset_delta <= self.last_delta || offset_delta > self.info.last_offset_delta {
            return Err("its offset is out of order");
        }
        let key = record.nullable_bytes().ok_or("its key is cut short")?;
        let value = record.nullable_bytes().ok_or("its value is cut short")?;
        let headers = parse_headers(&mut record)?;
        Ok(Record {
            offset: self.info.base_offset.plus(i64::from(offset_delta)),
            offset_delta,
            timestamp: self.timestamp(timestamp_delta)?,
            key,
            value,
            headers,
        })
    }

    fn timestamp(&self, delta: i64) -> Result<i64, &'static str> {
        match self.info.timestamp_type() {
            TimestampType::LogAppendTime => Ok(self.info.max_timestamp),
            TimestampType::CreateTime => {
                self.info.base_timestamp.checked_add(delta).ok_or("its timestamp overflows")
            }
        }
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

/// Takes the headers, which must be the rest of the record.
fn parse_headers<'a>(record: &mut Reader<'a>) -> Result<Headers<'a>, &'static str> {
    let count = record.varint().ok_or("its header count is cut short")?;
    let count = usize::try_from(count).map_err(|_| "its header count is negative")?;
    let bytes = record.rest();
    // A header takes two bytes at least. Checked first, so that a hostile count costs no loop.
    if count > bytes.len() / 2 {
        return Err("so many headers do not fit the record");
    }
    for _ in 0..count {
        read_header(record).ok_or("a header is cut short")?;
    }
    if !record.rest().is_empty() {
        return Err("bytes follow its headers");
    }
    Ok(Headers { bytes, count })
}

fn read_header<'a>(reader: &mut Reader<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let key_length = usize::try_from(reader.varint()?).ok()?;
    let key = reader.take(key_length)?;
    Some((key, reader.nullable_bytes()?))
}

/// The first record whose timestamp is at least `timestamp`: its offset and timestamp. What ListOffsets by time asks.
///
/// # Errors
/// As [`Records::open`] and [`RecordIter::next_record`].
pub fn find_timestamp(
    batch: &[u8],
    timestamp: i64,
    caps: &DecompressCaps,
) -> Result<Option<(KafkaOffset, i64)>, BatchError> {
    if peek(batch)?.max_timestamp < timestamp {
        return Ok(None);
    }
    let records = Records::open(batch, caps)?;
    for record in &records {
        let record = record?;
        if record.timestamp >= timestamp {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

/// The first record that has the batch's greatest timestamp: its offset and timestamp. What ListOffsets −3 asks.
/// None for a batch without records.
///
/// # Errors
/// As [`Records::open`] and [`RecordIter::next_record`].
pub fn max_timestamp_record(
    batch: &[u8],
    caps: &DecompressCaps,
) -> Result<Option<(KafkaOffset, i64)>, BatchError> {
    let records = Records::open(batch, caps)?;
    let mut best: Option<(KafkaOffset, i64)> = None;
    for record in &records {
        let record = record?;
        if best.is_none_or(|(_, timestamp)| record.timestamp > timestamp) {
            best = Some((record.offset, record.timestamp));
        }
    }
    Ok(best)
}
