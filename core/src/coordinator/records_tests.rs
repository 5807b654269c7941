//! Golden bytes, made by Kafka 4.3.1's own generated classes (`MessageUtil.toVersionPrefixedByteBuffer`), and
//! hostile input.

use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn offset(offset: i64, leader_epoch: i32, metadata: &str) -> OffsetAndMetadata {
    OffsetAndMetadata {
        offset,
        leader_epoch,
        metadata: metadata.into(),
        commit_timestamp_ms: 1_700_000_000_000,
        expire_timestamp_ms: None,
        topic_id: Uuid::nil(),
    }
}

fn group(version: i16) -> GroupValue {
    GroupValue {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("c-1".into()),
        state_timestamp_ms: if version >= 2 { 1_700_000_000_000 } else { -1 },
        members: vec![MemberValue {
            member_id: "c-1".into(),
            group_instance_id: (version >= 3).then(|| "i-1".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: if version >= 1 { 60_000 } else { -1 },
            session_timeout_ms: 45_000,
            subscription: Bytes::from_static(&[1, 2, 3]),
            assignment: Bytes::from_static(&[9]),
        }],
    }
}

const GROUP_V3: &str = "00030008636f6e73756d657200000003000572616e67650003632d310000018bcfe56800000000010003632d310003692d31\
                        000163000a2f3132372e302e302e310000ea600000afc8000000030102030000000109";

#[test]
fn keys_are_kafkas() {
    let offset_key = RecordKey::Offset { group: "my-group".into(), topic: "orders".into(), partition: 7 };
    let offset_bytes = bytes("000100086d792d67726f757000066f726465727300000007");
    assert_eq!(offset_key.encode(), offset_bytes);
    assert_eq!(RecordKey::decode(&offset_bytes), Ok(offset_key.clone()));
    let legacy_bytes = [&[0, 0], &offset_bytes[2..]].concat();
    assert_eq!(RecordKey::decode(&legacy_bytes), Ok(offset_key));

    let group_key = RecordKey::Group { group: "my-group".into() };
    let group_bytes = bytes("000200086d792d67726f7570");
    assert_eq!(group_key.encode(), group_bytes);
    assert_eq!(RecordKey::decode(&group_bytes), Ok(group_key));
}

#[test]
fn offsets_are_written_as_kafka_writes_them() {
    let plain = offset(123_456_789, 5, "meta");
    let plain_bytes = bytes("000400000000075bcd1500000005056d6574610000018bcfe5680000");
    assert_eq!(plain.encode(), plain_bytes);
    assert_eq!(OffsetAndMetadata::decode(&plain_bytes), Ok(plain));

    let topic_id = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    let with_id = OffsetAndMetadata { topic_id, ..offset(1, -1, "") };
    let id_bytes =
        bytes("00040000000000000001ffffffff010000018bcfe568000100100102030405060708090a0b0c0d0e0f10");
    assert_eq!(with_id.encode(), id_bytes);
    assert_eq!(OffsetAndMetadata::decode(&id_bytes), Ok(with_id));

    let expiring = OffsetAndMetadata { expire_timestamp_ms: Some(1_700_000_100_000), ..offset(42, -1, "m") };
    let expiring_bytes = bytes("0001000000000000002a00016d0000018bcfe568000000018bcfe6eea0");
    assert_eq!(expiring.encode(), expiring_bytes);
    assert_eq!(OffsetAndMetadata::decode(&expiring_bytes), Ok(expiring));
}

#[test]
fn old_versions_of_offsets_are_read() {
    let rows = [
        ("0000000000000000002a00016d0000018bcfe56800", offset(42, -1, "m")),
        ("0002000000000000002a00016d0000018bcfe56800", offset(42, -1, "m")),
        ("0003000000000000002a0000000500016d0000018bcfe56800", offset(42, 5, "m")),
    ];
    for (hex, expected) in rows {
        assert_eq!(OffsetAndMetadata::decode(&bytes(hex)), Ok(expected), "{hex}");
    }
}

#[test]
fn groups_are_written_as_kafka_writes_them() {
    assert_eq!(group(3).encode(), bytes(GROUP_V3));
    let empty = GroupValue {
        protocol_type: "".into(),
        generation: 0,
        protocol: None,
        leader: None,
        state_timestamp_ms: 1_700_000_000_000,
        members: Vec::new(),
    };
    let empty_bytes = bytes("0003000000000000ffffffff0000018bcfe5680000000000");
    assert_eq!(empty.encode(), empty_bytes);
    assert_eq!(GroupValue::decode(&empty_bytes), Ok(empty));
}

#[test]
fn all_versions_of_groups_are_read() {
    let rows = [
        "00000008636f6e73756d657200000003000572616e67650003632d31000000010003632d31000163000a2f3132372e302e302e31\
         0000afc8000000030102030000000109",
        "00010008636f6e73756d657200000003000572616e67650003632d31000000010003632d31000163000a2f3132372e302e302e31\
         0000ea600000afc8000000030102030000000109",
        "00020008636f6e73756d657200000003000572616e67650003632d310000018bcfe56800000000010003632d31000163\
         000a2f3132372e302e302e310000ea600000afc8000000030102030000000109",
        GROUP_V3,
        "000409636f6e73756d6572000000030672616e676504632d310000018bcfe568000204632d3104692d3102630b2f3132372e302e30\
         2e310000ea600000afc80401020302090000",
    ];
    for (version, hex) in (0..).zip(rows) {
        assert_eq!(GroupValue::decode(&bytes(hex)), Ok(group(version)), "version {version}");
    }
}

#[test]
fn what_a_newer_version_wrote_is_named() {
    assert_eq!(RecordKey::decode(&[0, 3, 0, 1, b'g']), Err(RecordError::UnknownKey(3)));
    let unknown = |key| RecordError::UnknownValueVersion { key, version: 5 };
    assert_eq!(OffsetAndMetadata::decode(&[0, 5, 0]), Err(unknown(1)));
    assert_eq!(GroupValue::decode(&[0, 5, 0]), Err(unknown(2)));
}

#[test]
fn lengths_beyond_the_record_are_refused() {
    // A member count of two thousand million, and a string of 32767 bytes that is not there.
    let huge_count = bytes("00030000000000000000ffff0000018bcfe568007fffffff");
    assert_eq!(GroupValue::decode(&huge_count), Err(RecordError::BadLength));
    assert_eq!(
        RecordKey::decode(&[0, 2, 0x7f, 0xff, b'g']),
        Err(RecordError::Truncated { wanted: 32_767, left: 1 })
    );
    assert_eq!(RecordKey::decode(&[0, 2, 0xff, 0xff]), Err(RecordError::UnexpectedNull));
    assert_eq!(RecordKey::decode(&[0, 2, 0xff, 0xfe]), Err(RecordError::BadLength));
    assert_eq!(RecordKey::decode(&[0, 2, 0, 1, 0xff]), Err(RecordError::BadText));
}

#[test]
fn every_cut_of_a_record_is_an_error() {
    for whole in [bytes(GROUP_V3), group(3).encode().to_vec()] {
        for end in 0..whole.len() {
            assert!(GroupValue::decode(&whole[..end]).is_err(), "cut at {end}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_records_never_panic(noise in proptest::collection::vec(any::<u8>(), 0..96), version in 0u8..6) {
        let prefixed = [&[0, version], &noise[..]].concat();
        let _ = RecordKey::decode(&prefixed);
        let _ = OffsetAndMetadata::decode(&prefixed);
        let _ = GroupValue::decode(&prefixed);
    }

    #[test]
    fn a_flipped_byte_never_panics(position in 0usize..80, flip in 1u8..) {
        let mut whole = bytes(GROUP_V3);
        let position = position % whole.len();
        whole[position] ^= flip;
        let _ = GroupValue::decode(&whole);
    }

    #[test]
    fn offsets_survive_the_log(at in any::<i64>(), epoch in -1i32.., metadata in ".{0,40}", expire in proptest::option::of(0i64..)) {
        let value = OffsetAndMetadata { expire_timestamp_ms: expire, ..offset(at, epoch, &metadata) };
        let read = OffsetAndMetadata::decode(&value.encode()).unwrap();
        let leader_epoch = if expire.is_some() { -1 } else { epoch };
        prop_assert_eq!(read, OffsetAndMetadata { leader_epoch, ..value });
    }
}
