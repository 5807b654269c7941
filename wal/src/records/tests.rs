//! Tests of reading, building, recompressing and searching records.

use bytes::BytesMut;
use proptest::prelude::*;

use super::varint::{put_varlong, varlong_bytes};
use super::*;
use crate::batch::tests::golden;
use crate::batch::{ProduceLimits, check_crc, stamp_log_append_time, validate_produced};
use crate::compress::CompressionLevels;
use crate::types::LeaderEpoch;

const GOLDEN_MS: i64 = 1_700_000_000_000;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn caps() -> DecompressCaps {
    DecompressCaps::default()
}

/// The three records of `golden.txt`.
fn golden_builder() -> BatchBuilder {
    let text = b"chronik ".repeat(40);
    let mut builder = BatchBuilder::new().producer(4242, 3, 7);
    builder.push_with_headers(GOLDEN_MS, Some(b"k1"), Some(b"v1"), &[(b"h1", Some(b"a")), (b"h2", None)]);
    builder.push(GOLDEN_MS + 5, None, Some(&text));
    builder.push(GOLDEN_MS + 2, Some(b"k3"), None);
    builder
}

#[test]
fn the_builder_makes_the_very_bytes_of_kafkas_client() {
    assert_eq!(golden_builder().build().unwrap(), golden("none"));
    let mut simple = BatchBuilder::new();
    simple.push(GOLDEN_MS, None, Some(b"plain"));
    assert_eq!(simple.build().unwrap(), golden("SIMPLE"));
    let mut marker = BatchBuilder::new().producer(4242, 3, -1).transactional().control();
    marker.push(GOLDEN_MS, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]));
    assert_eq!(marker.build().unwrap(), golden("CONTROL"));
}

#[test]
fn golden_records_are_read_under_every_codec() {
    for name in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let batch = golden(name);
        let records = Records::open(&batch, &caps()).unwrap();
        let read: Vec<Record<'_>> = records.iter().map(Result::unwrap).collect();
        assert_eq!(read.len(), 3);
        assert_eq!((read[0].offset, read[0].timestamp), (KafkaOffset(0), GOLDEN_MS));
        assert_eq!((read[0].key, read[0].value), (Some(&b"k1"[..]), Some(&b"v1"[..])));
        let headers: Vec<_> = read[0].headers.collect();
        assert_eq!(headers, [(&b"h1"[..], Some(&b"a"[..])), (&b"h2"[..], None)]);
        assert_eq!((read[1].key, read[1].value), (None, Some(&b"chronik ".repeat(40)[..])));
        assert_eq!((read[2].timestamp, read[2].key, read[2].value), (GOLDEN_MS + 2, Some(&b"k3"[..]), None));
        assert!(read[2].headers.is_empty());
    }
}

#[test]
fn recompression_keeps_everything_but_the_codec() {
    for source in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for target in CODECS {
            let batch = golden(source);
            let made = recompress(&batch, target, &CompressionLevels::default(), &caps()).unwrap();
            let limits = ProduceLimits { wall_ms: GOLDEN_MS, ..ProduceLimits::default() };
            let info = validate_produced(&made, &limits).unwrap();
            assert_eq!(info.compression(), Ok(target));
            assert_eq!((info.producer_id, info.producer_epoch, info.base_sequence), (4242, 3, 7));
            let plain = recompress(&made, Compression::None, &CompressionLevels::default(), &caps()).unwrap();
            assert_eq!(plain, golden("none"), "{source} to {target:?}");
        }
    }
}

#[test]
fn recompression_keeps_a_log_append_time() {
    let mut batch = golden("none");
    stamp_log_append_time(&mut batch, GOLDEN_MS + 1000);
    let made = recompress(&batch, Compression::Lz4, &CompressionLevels::default(), &caps()).unwrap();
    check_crc(&made).unwrap();
    let info = peek(&made).unwrap();
    assert_eq!(info.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(info.max_timestamp, GOLDEN_MS + 1000);
}

#[test]
fn levels_reach_the_encoders() {
    // Words in an order without a pattern, but the same at each run.
    let words = ["epoch", "offset", "leader", "batch", "record", "quorum", "segment", "turn"];
    let order = (0..40_000u32).map(|number| number.wrapping_mul(2_654_435_761) >> 13);
    let text: Vec<u8> = order.flat_map(|number| words[number as usize % words.len()].bytes()).collect();
    let build = |codec, levels| {
        let mut builder = BatchBuilder::new().compression(codec, levels);
        builder.push(0, None, Some(&text));
        let batch = builder.build().unwrap();
        let records = Records::open(&batch, &caps()).unwrap();
        assert_eq!(records.iter().next().unwrap().unwrap().value, Some(&text[..]));
        batch.len()
    };
    let size = |codec, gzip, lz4, zstd| build(codec, CompressionLevels { gzip, lz4, zstd });
    assert!(size(Compression::Gzip, 9, 9, 3) < size(Compression::Gzip, 1, 9, 3));
    assert_eq!(size(Compression::Gzip, -1, 9, 3), size(Compression::Gzip, 6, 9, 3));
    // 9 is Kafka's default and means the fast compressor.
    assert!(size(Compression::Lz4, -1, 8, 3) < size(Compression::Lz4, -1, 9, 3));
    assert!(size(Compression::Zstd, -1, 9, 19) < size(Compression::Zstd, -1, 9, -5));
}

#[test]
fn timestamps_are_found() {
    for name in ["none", "zstd"] {
        let mut batch = golden(name);
        crate::batch::assign(&mut batch, KafkaOffset(500), LeaderEpoch(1));
        let find = |timestamp| find_timestamp(&batch, timestamp, &caps()).unwrap();
        assert_eq!(find(0), Some((KafkaOffset(500), GOLDEN_MS)));
        assert_eq!(find(GOLDEN_MS), Some((KafkaOffset(500), GOLDEN_MS)));
        assert_eq!(find(GOLDEN_MS + 1), Some((KafkaOffset(501), GOLDEN_MS + 5)));
        assert_eq!(find(GOLDEN_MS + 5), Some((KafkaOffset(501), GOLDEN_MS + 5)));
        assert_eq!(find(GOLDEN_MS + 6), None);
        let newest = max_timestamp_record(&batch, &caps()).unwrap();
        assert_eq!(newest, Some((KafkaOffset(501), GOLDEN_MS + 5)));

        stamp_log_append_time(&mut batch, GOLDEN_MS + 9);
        let found = find_timestamp(&batch, GOLDEN_MS + 6, &caps()).unwrap();
        assert_eq!(found, Some((KafkaOffset(500), GOLDEN_MS + 9)));
        let newest = max_timestamp_record(&batch, &caps()).unwrap();
        assert_eq!(newest, Some((KafkaOffset(500), GOLDEN_MS + 9)));
    }
}

#[test]
fn a_compacted_batch_with_gaps_is_read() {
    let mut builder = BatchBuilder::new().base_offset(KafkaOffset(10));
    builder.push(1, Some(b"a"), None).push(2, Some(b"b"), None);
    let mut batch = builder.build().unwrap();
    // The second record's offset delta, from 1 to 5.
    let at = batch.len() - 5;
    assert_eq!(batch[at], 2);
    batch[at] = 10;
    batch[23..27].copy_from_slice(&7i32.to_be_bytes());
    let offsets: Vec<i64> =
        Records::open(&batch, &caps()).unwrap().iter().map(|record| record.unwrap().offset.0).collect();
    assert_eq!(offsets, [10, 15]);
    assert_eq!(peek(&batch).unwrap().next_offset(), KafkaOffset(18));
}

#[test]
fn malformed_records_end_the_reading() {
    let mut builder = BatchBuilder::new();
    builder.push(5, Some(b"key"), Some(b"value")).push(6, Some(b"key"), Some(b"value"));
    let good = builder.build().unwrap();
    let body = HEADER_BYTES;
    // Place in the first record, new byte, and what must be said.
    for (at, byte, reason) in [
        (0, 0x01, "its length is negative"),
        (0, 0x7e, "it is longer than the batch"),
        (0, 0x00, "its attributes are cut short"),
        (0, 0x02, "its timestamp is cut short"),
        (3, 0x02 + 0x02, "its offset is out of order"),
        (3, 0x01, "its offset is out of order"),
        (4, 0x40, "its key is cut short"),
        (8, 0x40, "its value is cut short"),
        (8, 0x0c, "its header count is cut short"),
        (14, 0x01, "its header count is negative"),
        (14, 0x7e, "so many headers do not fit the record"),
        (8, 0x08, "its header count is negative"),
    ] {
        let mut batch = good.clone();
        batch[body + at] = byte;
        let records = Records::open(&batch, &caps()).unwrap();
        let mut iter = records.iter();
        let mut found = iter.next().unwrap();
        if found.is_ok() {
            found = iter.next().unwrap();
        }
        match found {
            Err(BatchError::MalformedRecord { reason: said, .. }) => assert_eq!(said, reason, "at {at}"),
            other => panic!("at {at}: {other:?}"),
        }
        assert!(iter.next().is_none(), "reading ends after an error");
    }
}

#[test]
fn a_timestamp_that_overflows_is_an_error() {
    let mut builder = BatchBuilder::new();
    builder.push(i64::MAX, None, None).push(i64::MIN, None, None);
    let batch = builder.build().unwrap();
    let records = Records::open(&batch, &caps()).unwrap();
    let mut iter = records.iter();
    assert_eq!(iter.next().unwrap().unwrap().timestamp, i64::MAX);
    let overflow = BatchError::MalformedRecord { index: 1, reason: "its timestamp overflows" };
    assert_eq!(iter.next(), Some(Err(overflow)));
}

#[test]
fn an_empty_batch_is_not_built() {
    assert!(BatchBuilder::new().is_empty());
    assert!(BatchBuilder::new().build().is_err());
}

#[test]
fn size_is_told_before_building() {
    let builder = golden_builder();
    assert_eq!(builder.len(), 3);
    assert_eq!(builder.size_bytes(), builder.build().unwrap().len());
}

#[test]
fn overlong_varints_are_refused() {
    let read = |bytes: &[u8]| Reader::new(bytes).varint();
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Some(i32::MIN));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), None);
    assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), None);
    assert_eq!(read(&[0x80]), None);
    let mut long = [0xff; 10];
    long[9] = 0x01;
    assert_eq!(Reader::new(&long).varlong(), Some(i64::MIN));
    long[9] = 0x03;
    assert_eq!(Reader::new(&long).varlong(), None);
}

type OwnedHeader = (Vec<u8>, Option<Vec<u8>>);
type OwnedRecord = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<OwnedHeader>);

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..80)
}

fn any_record() -> impl Strategy<Value = OwnedRecord> {
    let header = (any_bytes(), proptest::option::of(any_bytes()));
    (
        0..1i64 << 50,
        proptest::option::of(any_bytes()),
        proptest::option::of(any_bytes()),
        proptest::collection::vec(header, 0..4),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn varints_come_back(value: i64, small: i32) {
        let mut bytes = BytesMut::new();
        put_varlong(&mut bytes, value);
        prop_assert_eq!(bytes.len(), varlong_bytes(value));
        prop_assert_eq!(Reader::new(&bytes).varlong(), Some(value));
        bytes.clear();
        put_varlong(&mut bytes, i64::from(small));
        prop_assert_eq!(Reader::new(&bytes).varint(), Some(small));
    }

    #[test]
    fn records_come_back(records in proptest::collection::vec(any_record(), 1..20), codec in 0..5usize) {
        let mut builder = BatchBuilder::new()
            .compression(CODECS[codec], CompressionLevels::default())
            .base_offset(KafkaOffset(77));
        for (timestamp, key, value, headers) in &records {
            let headers: Vec<_> = headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
            builder.push_with_headers(*timestamp, key.as_deref(), value.as_deref(), &headers);
        }
        let batch = builder.build().unwrap();
        check_crc(&batch).unwrap();
        let opened = Records::open(&batch, &caps()).unwrap();
        let mut read = Vec::new();
        for (place, record) in opened.iter().enumerate() {
            let record = record.unwrap();
            prop_assert_eq!(record.offset, KafkaOffset(77 + place as i64));
            let headers = record.headers.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
            read.push((record.timestamp, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), headers));
        }
        prop_assert_eq!(read, records);
    }

    /// Damage behind the header, as compaction or a reader without CRC check would meet it.
    #[test]
    fn damaged_payloads_never_panic(
        at in 0..1000usize, byte: u8, name in 0..5usize, cut in 0..40usize,
    ) {
        let mut batch = golden(["none", "gzip", "snappy", "lz4", "zstd"][name]);
        let payload = batch.len() - HEADER_BYTES;
        batch[HEADER_BYTES + at % payload] = byte;
        batch.truncate(batch.len() - cut);
        let length = (batch.len() - crate::batch::LENGTH_PREFIX_BYTES) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        if let Ok(records) = Records::open(&batch, &caps()) {
            let _ = records.iter().count();
        }
        let _ = find_timestamp(&batch, GOLDEN_MS + 1, &caps());
        let _ = recompress(&batch, Compression::Snappy, &CompressionLevels::default(), &caps());
    }
}
