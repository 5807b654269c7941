//! Record batches for the small client, and reading a partition back.

use crate::wire::Connection;
use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_wal::compress::DecompressCaps;
use chronik_wal::records::{BatchBuilder, Records};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a partition may have no leader after a start.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Wall time in milliseconds, the timestamp of records.
#[must_use]
pub fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(elapsed.as_millis()).expect("the clock is before the year 292 million")
}

/// A batch of records with these values.
#[must_use]
pub fn batch<V: AsRef<[u8]>>(values: &[V]) -> BytesMut {
    build(BatchBuilder::new(), values)
}

/// A batch of an idempotent producer.
#[must_use]
pub fn idempotent_batch<V: AsRef<[u8]>>(
    producer_id: i64,
    epoch: i16,
    sequence: i32,
    values: &[V],
) -> BytesMut {
    build(BatchBuilder::new().producer(producer_id, epoch, sequence), values)
}

fn build<V: AsRef<[u8]>>(mut builder: BatchBuilder, values: &[V]) -> BytesMut {
    let now = now_ms();
    for value in values {
        builder.push(now, None, Some(value.as_ref()));
    }
    builder.build().expect("a sound batch can be built")
}

/// One record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// Its offset.
    pub offset: i64,
    /// Its value; empty for null.
    pub value: Vec<u8>,
}

/// All records of a partition from `offset` to its high watermark. Offsets must be dense. Retriable errors are waited out,
/// as any client does, but for damage, which does not pass.
pub fn read_from(
    connection: &mut Connection,
    topic: &str,
    partition: i32,
    mut offset: i64,
) -> Result<Vec<ReadRecord>> {
    let mut records = Vec::new();
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let answer = connection.fetch(topic, partition, offset, 0)?;
        let passes = answer.error.retriable() && answer.error != ErrorCode::KafkaStorageError;
        if passes && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        ensure!(answer.error == ErrorCode::None, "fetch at {offset}: {:?}", answer.error);
        let bytes: Vec<u8> = answer.records.concat();
        for batch in chronik_wal::batch::batches(&bytes) {
            // The last batch of an answer may be cut short.
            let Ok((_, batch)) = batch else { break };
            collect(batch, &mut offset, &mut records)?;
        }
        if offset >= answer.high_watermark {
            return Ok(records);
        }
        ensure!(!bytes.is_empty(), "nothing at {offset} below the high watermark {}", answer.high_watermark);
    }
}

/// All records of a partition from its first offset on.
pub fn read_all(connection: &mut Connection, topic: &str, partition: i32) -> Result<Vec<ReadRecord>> {
    read_from(connection, topic, partition, 0)
}

fn collect(batch: &[u8], offset: &mut i64, records: &mut Vec<ReadRecord>) -> Result<()> {
    chronik_wal::batch::check_crc(batch).context("a batch that was read")?;
    let opened = Records::open(batch, &DecompressCaps::default()).context("a batch that was read")?;
    let base = opened.info().base_offset.0;
    for record in opened.iter() {
        let record = record.context("a record that was read")?;
        let at = base + i64::from(record.offset_delta);
        // A batch may begin before the offset that was asked for.
        if at < *offset {
            continue;
        }
        ensure!(at == *offset, "offset {at} where {offset} was expected");
        *offset += 1;
        records.push(ReadRecord { offset: at, value: record.value.unwrap_or_default().to_vec() });
    }
    Ok(())
}
