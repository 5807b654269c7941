//! The records of a run: each has a number of its own, and everything about it follows from that number, so that any
//! record read anywhere can be told from any other, and a single wrong byte shows.

use bytes::BytesMut;
use chronik_wal::batch::{self, BatchError};
use chronik_wal::compress::{Compression, CompressionLevels, DecompressCaps};
use chronik_wal::records::{BatchBuilder, Records};
use uuid::Uuid;

/// The topic and partition that a record is for.
pub type Place = (Uuid, i32);

/// A record as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its offset.
    pub offset: i64,
    /// Its number.
    pub record: u64,
    /// Its timestamp.
    pub timestamp: i64,
    /// The leader epoch that it was appended in; none while nobody has read it.
    pub epoch: Option<i32>,
    /// Bytes of the batch that it is the first record of; 0 for the others.
    pub batch_bytes: u64,
}

/// A batch to be sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Numbers of its records: `first` and those after it.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Where it goes.
    pub place: Place,
    /// The timestamp of its first record; each has one more than the one before.
    pub timestamp: i64,
    /// Producer id, epoch and first sequence; none for one that is not idempotent.
    pub producer: Option<(i64, i32)>,
    /// How it is compressed.
    pub codec: Compression,
}

impl Sent {
    /// The batch as bytes.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut builder = BatchBuilder::new();
        if let Some((id, sequence)) = self.producer {
            builder = builder.producer(id, 0, sequence);
        }
        builder = builder.compression(self.codec, CompressionLevels::default());
        for number in self.first..self.first + self.count {
            let timestamp = self.timestamp + (number - self.first) as i64;
            let value = value(number, self.place);
            builder.push(timestamp, Some(&number.to_be_bytes()), Some(&value));
        }
        builder.build().expect("a small batch")
    }
}

/// What the record of this number holds.
fn value(number: u64, place: Place) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(place.0.as_bytes());
    bytes.extend_from_slice(&place.1.to_be_bytes());
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let filler = 8 + state.rotate_left(17) % if number.is_multiple_of(17) { 6_000 } else { 300 };
    for _ in 0..filler {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push(state as u8);
    }
    bytes
}

/// The records in what a fetch gave, which must be whole batches without a gap between their offsets.
///
/// # Errors
/// What is wrong with them.
pub fn read(pieces: &[bytes::Bytes], place: Place) -> Result<Vec<Seen>, String> {
    let mut seen = Vec::new();
    let mut next = None;
    for piece in pieces {
        for item in batch::batches(piece) {
            let (info, bytes) = item.map_err(|error| format!("a batch that was fetched: {error}"))?;
            if next.is_some_and(|next| next != info.base_offset.0) {
                return Err(format!("a batch at {} where {next:?} comes next", info.base_offset));
            }
            next = Some(info.next_offset().0);
            batch::check_crc(bytes).map_err(|error| format!("batch {}: {error}", info.base_offset))?;
            read_batch(bytes, place, info.leader_epoch.0, &mut seen)
                .map_err(|e| format!("batch {}: {e}", info.base_offset))?;
        }
    }
    Ok(seen)
}

fn read_batch(bytes: &[u8], place: Place, epoch: i32, seen: &mut Vec<Seen>) -> Result<(), String> {
    let text = |error: BatchError| error.to_string();
    let mut batch_bytes = bytes.len() as u64;
    for record in &Records::open(bytes, &DecompressCaps::default()).map_err(text)? {
        let record = record.map_err(text)?;
        let number = record.key.and_then(|key| key.try_into().ok()).map(u64::from_be_bytes);
        let number = number.ok_or("a record without a number")?;
        if record.value != Some(&value(number, place)) {
            return Err(format!("record {number} does not hold what was sent, or was sent elsewhere"));
        }
        let offset = record.offset.0;
        let (timestamp, epoch) = (record.timestamp, Some(epoch));
        seen.push(Seen { offset, record: number, timestamp, epoch, batch_bytes });
        batch_bytes = 0;
    }
    Ok(())
}
