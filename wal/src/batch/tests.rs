//! Tests of the batch header, of the judgement of produced batches, and of the patches in place.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::compress::{CompressionLevels, DecompressCaps};
use crate::records::BatchBuilder;

/// Time of the first golden record.
const GOLDEN_MS: i64 = 1_700_000_000_000;

/// A batch as Kafka's own client makes it; see `golden.txt`.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let lines = include_str!("golden.txt").lines();
    let hex = lines.filter_map(|line| line.split_once(' ')).find(|(key, _)| *key == name).unwrap().1;
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn limits() -> ProduceLimits {
    ProduceLimits { wall_ms: GOLDEN_MS, ..ProduceLimits::default() }
}

fn batch_of(count: i32) -> BytesMut {
    let mut builder = BatchBuilder::new().producer(9, 0, 100);
    for number in 0..count {
        builder.push(GOLDEN_MS + i64::from(number), Some(b"key"), Some(b"value"));
    }
    builder.build().unwrap()
}

/// Changes a header field, makes the CRC right again, and gives what validation says.
fn validate_with(change: impl FnOnce(&mut BatchHeader)) -> Result<BatchInfo, BatchError> {
    let mut batch = batch_of(3);
    change(produce::header_mut(&mut batch));
    store_crc(&mut batch);
    validate_produced(&batch, &limits())
}

#[test]
fn golden_headers_are_read() {
    for (name, codec) in [
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ] {
        let batch = golden(name);
        let info = validate_produced(&batch, &limits()).unwrap();
        assert_eq!(info, peek(&batch).unwrap());
        assert_eq!(info.compression(), Ok(codec));
        assert_eq!(info.size_bytes, batch.len());
        assert_eq!((info.producer_id, info.producer_epoch, info.base_sequence), (4242, 3, 7));
        assert_eq!((info.record_count, info.last_offset_delta, info.last_sequence()), (3, 2, 9));
        assert_eq!((info.base_timestamp, info.max_timestamp), (GOLDEN_MS, GOLDEN_MS + 5));
        assert_eq!(info.timestamp_type(), TimestampType::CreateTime);
        assert_eq!(info.leader_epoch, LeaderEpoch::UNKNOWN);
        assert!(!info.is_transactional() && !info.is_control() && !info.has_delete_horizon());
    }
    let simple = validate_produced(&golden("SIMPLE"), &limits()).unwrap();
    assert!(!simple.has_producer_id());
    assert_eq!(simple.last_sequence(), NO_SEQUENCE);
}

#[test]
fn a_clients_control_batch_is_refused() {
    let batch = golden("CONTROL");
    let info = peek(&batch).unwrap();
    assert!(info.is_control() && info.is_transactional());
    let refused = validate_produced(&batch, &limits()).unwrap_err();
    assert!(matches!(refused, BatchError::InvalidField { field: "attributes", .. }), "{refused}");
    assert_eq!(refused.kafka_code(), 87);
}

#[test]
fn contradictory_headers_are_refused() {
    assert!(validate_with(|_| ()).is_ok());
    let code = |change: fn(&mut BatchHeader)| validate_with(change).unwrap_err().kafka_code();
    assert_eq!(code(|header| header.base_offset.set(1)), 87);
    assert_eq!(code(|header| header.last_offset_delta.set(3)), 87);
    assert_eq!(code(|header| header.last_offset_delta.set(-1)), 87);
    assert_eq!(code(|header| header.record_count.set(2)), 87);
    assert_eq!(code(|header| header.record_count.set(0)), 87);
    assert_eq!(code(|header| header.base_sequence.set(-1)), 87);
    assert_eq!(code(|header| header.producer_epoch.set(-1)), 87);
    assert_eq!(code(|header| header.attributes.set(DELETE_HORIZON_BIT)), 87);
    assert_eq!(code(|header| header.attributes.set(TIMESTAMP_TYPE_BIT)), 32);
    assert_eq!(code(|header| header.attributes.set(5)), 76);
    assert_eq!(code(|header| header.magic = 1), 87);
    assert_eq!(code(|header| header.magic = 3), 2);
    assert_eq!(code(|header| header.length.set(48)), 2);
    assert_eq!(code(|header| header.length.set(-1)), 2);
    let transactional = |header: &mut BatchHeader| {
        header.attributes.set(TRANSACTIONAL_BIT);
        header.producer_id.set(-1);
    };
    assert_eq!(code(transactional), 87);
    assert!(validate_with(|header| header.attributes.set(TRANSACTIONAL_BIT)).is_ok());
    // What kafkajs sends for no producer id.
    let no_producer = |header: &mut BatchHeader| {
        header.producer_id.set(-1);
        header.producer_epoch.set(0);
        header.base_sequence.set(0);
    };
    assert!(validate_with(no_producer).is_ok());
}

#[test]
fn count_and_delta_that_agree_must_agree_with_the_records() {
    let more = validate_with(|header| {
        header.record_count.set(4);
        header.last_offset_delta.set(3);
    });
    assert!(matches!(more, Err(BatchError::MalformedRecord { index: 3, .. })), "{more:?}");
    let fewer = validate_with(|header| {
        header.record_count.set(2);
        header.last_offset_delta.set(1);
    });
    assert!(matches!(fewer, Err(BatchError::MalformedRecord { index: 2, .. })), "{fewer:?}");
    let absurd = validate_with(|header| {
        header.record_count.set(i32::MAX);
        header.last_offset_delta.set(i32::MAX - 1);
    });
    assert!(matches!(absurd, Err(BatchError::InvalidField { field: "record count", .. })), "{absurd:?}");
}

#[test]
fn exactly_one_whole_batch_within_the_limit_is_taken() {
    let batch = batch_of(3);
    for cut in 0..batch.len() {
        let refused = validate_produced(&batch[..cut], &limits()).unwrap_err();
        assert!(matches!(refused, BatchError::Truncated { .. }), "cut at {cut}: {refused}");
    }
    let mut two = batch.clone();
    two.extend_from_slice(&batch);
    let refused = validate_produced(&two, &limits()).unwrap_err();
    assert_eq!(refused, BatchError::TrailingBytes { extra: batch.len() });

    let exact = ProduceLimits { max_message_bytes: batch.len(), ..limits() };
    assert!(validate_produced(&batch, &exact).is_ok());
    let less = ProduceLimits { max_message_bytes: batch.len() - 1, ..limits() };
    let refused = validate_produced(&batch, &less).unwrap_err();
    assert_eq!(refused.kafka_code(), 10);
}

#[test]
fn zstd_needs_its_version() {
    let old = ProduceLimits { zstd_allowed: false, ..limits() };
    assert_eq!(validate_produced(&golden("zstd"), &old).unwrap_err().kafka_code(), 76);
    assert!(validate_produced(&golden("lz4"), &old).is_ok());
}

#[test]
fn timestamps_are_bounded_record_by_record() {
    let mut builder = BatchBuilder::new();
    for timestamp in [GOLDEN_MS, GOLDEN_MS - 11, -1, GOLDEN_MS + 11, GOLDEN_MS + 10, GOLDEN_MS - 10] {
        builder.push(timestamp, None, Some(b"v"));
    }
    let batch = builder.build().unwrap();
    let bounded = ProduceLimits { timestamp_before_max_ms: 10, timestamp_after_max_ms: 10, ..limits() };
    let refused = validate_produced(&batch, &bounded).unwrap_err();
    assert_eq!(refused.kafka_code(), 32);
    let indexes: Vec<i32> = refused.record_errors().iter().map(|error| error.index).collect();
    assert_eq!(indexes, [1, 3]);
    let stamped = ProduceLimits { timestamp_type: TimestampType::LogAppendTime, ..bounded };
    assert!(validate_produced(&batch, &stamped).is_ok());
}

#[test]
fn a_compressed_batch_is_bounded_by_its_header() {
    let batch = golden("lz4");
    let late = ProduceLimits { wall_ms: GOLDEN_MS - 3_600_000 + 4, ..limits() };
    let refused = validate_produced(&batch, &late).unwrap_err();
    assert_eq!((refused.kafka_code(), refused.record_errors().len()), (32, 0));
    let just = ProduceLimits { wall_ms: GOLDEN_MS - 3_600_000 + 5, ..limits() };
    assert!(validate_produced(&batch, &just).is_ok());
}

#[test]
fn a_compacted_topic_sees_keys_through_compression() {
    let compacted = ProduceLimits { key_required: true, ..limits() };
    for name in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let refused = validate_produced(&golden(name), &compacted).unwrap_err();
        assert_eq!(refused.kafka_code(), 87);
        let indexes: Vec<i32> = refused.record_errors().iter().map(|error| error.index).collect();
        assert_eq!(indexes, [1], "{name}");
    }
    assert!(validate_produced(&batch_of(3), &compacted).is_ok());
    let mut keyless = BatchBuilder::new();
    for _ in 0..10_000 {
        keyless.push(GOLDEN_MS, None, None);
    }
    let refused = validate_produced(&keyless.build().unwrap(), &compacted).unwrap_err();
    assert_eq!(refused.record_errors().len(), produce::RECORD_ERRORS_MAX);
}

#[test]
fn a_wrong_max_timestamp_is_found_and_mended() {
    let mut batch = batch_of(3);
    produce::header_mut(&mut batch).max_timestamp.set(GOLDEN_MS + 77);
    store_crc(&mut batch);
    let info = validate_produced(&batch, &limits()).unwrap();
    assert_eq!(info.max_timestamp, GOLDEN_MS + 2);
    store_max_timestamp(&mut batch, &info);
    assert_eq!(batch, batch_of(3));
    store_max_timestamp(&mut batch, &info);
    assert_eq!(batch, batch_of(3));
}

#[test]
fn assignment_leaves_the_crc_right() {
    let mut batch = batch_of(3);
    assign(&mut batch, KafkaOffset(1 << 40), LeaderEpoch(17));
    check_crc(&batch).unwrap();
    let info = peek(&batch).unwrap();
    assert_eq!((info.base_offset, info.leader_epoch), (KafkaOffset(1 << 40), LeaderEpoch(17)));
    assert_eq!(info.last_offset(), KafkaOffset((1 << 40) + 2));
    assert_eq!(info.next_offset(), KafkaOffset((1 << 40) + 3));
}

#[test]
fn log_append_time_is_stamped_under_a_new_crc() {
    let mut batch = golden("zstd");
    let before = peek(&batch).unwrap();
    stamp_log_append_time(&mut batch, 1_800_000_000_000);
    check_crc(&batch).unwrap();
    let after = peek(&batch).unwrap();
    assert_eq!(after.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(after.max_timestamp, 1_800_000_000_000);
    assert_eq!(after.compression(), Ok(Compression::Zstd));
    assert_ne!(after.crc, before.crc);
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(sequence_plus(5, 4), 9);
    assert_eq!(sequence_plus(i32::MAX, 0), i32::MAX);
    assert_eq!(sequence_plus(i32::MAX, 1), 0);
    assert_eq!(sequence_plus(i32::MAX - 1, 4), 2);
    assert_eq!(sequence_plus(i32::MAX, i32::MAX), i32::MAX - 1);
}

#[test]
fn batches_end_cleanly_at_a_cut_tail_and_stop_at_damage() {
    let one = batch_of(2);
    let mut log = one.to_vec();
    log.extend_from_slice(&golden("gzip"));
    let whole = log.len();
    for tail in 0..one.len() {
        log.truncate(whole);
        log.extend_from_slice(&one[..tail]);
        let mut iter = batches(&log);
        assert_eq!(iter.next().unwrap().unwrap().1, &one[..]);
        assert_eq!(iter.next().unwrap().unwrap().0.record_count, 3);
        assert_eq!(iter.next(), None);
        assert_eq!(iter.rest().len(), tail);
    }
    log.truncate(whole);
    log[one.len() + MAGIC_POSITION] = 1;
    let mut iter = batches(&log);
    assert!(iter.next().unwrap().is_ok());
    assert_eq!(iter.next(), Some(Err(BatchError::BadMagic { magic: 1 })));
    assert_eq!(iter.next(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = validate_produced(&bytes, &limits());
        let _ = batches(&bytes).count();
    }

    /// Random headers that get past length, magic and CRC, so that the checks behind are reached.
    #[test]
    fn plausible_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..300),
        codec in 0..5i16,
        count in 1..20i32,
        key_required: bool,
    ) {
        let length = bytes.len() as i32 - LENGTH_PREFIX_BYTES as i32;
        let header = produce::header_mut(&mut bytes);
        header.base_offset.set(0);
        header.length.set(length);
        header.magic = MAGIC;
        header.attributes.set(codec);
        header.record_count.set(count);
        header.last_offset_delta.set(count - 1);
        store_crc(&mut bytes);
        let _ = validate_produced(&bytes, &ProduceLimits { key_required, ..limits() });
    }

    /// Any one bit turned over is refused, or lies in the leader epoch, which the broker writes itself.
    #[test]
    fn any_flipped_bit_is_refused_or_harmless(bit in 0..8 * 90usize, name in 0..5usize) {
        let name = ["none", "gzip", "snappy", "lz4", "zstd"][name];
        let mut batch = golden(name);
        let sent = peek(&batch).unwrap();
        batch[bit / 8] ^= 1 << (bit % 8);
        if let Ok(info) = validate_produced(&batch, &limits()) {
            prop_assert!((12..16).contains(&(bit / 8)), "bit {} was not noticed", bit);
            prop_assert_eq!(BatchInfo { leader_epoch: sent.leader_epoch, ..info }, sent);
        }
    }

    #[test]
    fn what_is_built_validates(
        records in proptest::collection::vec((0..1000i64, any::<Option<[u8; 4]>>(), any::<Option<[u8; 9]>>()), 1..30),
        codec in 0..5u8,
    ) {
        let codec = Compression::from_code(codec).unwrap();
        let mut builder = BatchBuilder::new().compression(codec, CompressionLevels::default());
        for (delta, key, value) in &records {
            builder.push(GOLDEN_MS + delta, key.as_ref().map(|key| &key[..]), value.as_ref().map(|value| &value[..]));
        }
        let batch = builder.build().unwrap();
        let info = validate_produced(&batch, &limits()).unwrap();
        prop_assert_eq!(info.record_count as usize, records.len());
        let latest = records.iter().map(|record| record.0).max().unwrap();
        prop_assert_eq!(info.max_timestamp, GOLDEN_MS + latest);
        prop_assert!(crate::records::Records::open(&batch, &DecompressCaps::default()).is_ok());
    }
}
