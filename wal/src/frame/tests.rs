//! Golden bytes, round trips, and what each checksum must tell apart.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::entry::{EntryKind, FlushPoint, GroupState, HardState, LogStart};
use crate::test_batch::batch;
use crate::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term};

const IDENTITY: WalIdentity = WalIdentity { node: NodeId(7), directory: [9; 16], shard: ShardId(2) };

fn entry_info(kind: EntryKind, payload: &[u8]) -> FrameInfo {
    FrameInfo {
        kind: FrameKind::Entry,
        entry_kind: kind,
        group: GroupId(5),
        term: Term(3),
        index: RaftIndex(17),
        base_offset: KafkaOffset(1000),
        commit: RaftIndex(16),
        len: payload.len().try_into().unwrap(),
    }
}

#[test]
fn the_layout_of_the_headers_is_fixed() {
    let info = SegmentInfo { sequence: WalSeq(0x0102), oldest_live: WalSeq(1), len: 0x40_0000 };
    let block = SegmentHeader::block(&IDENTITY, info);
    assert_eq!(block.len(), BLOCK);
    assert_eq!(&block[..8], b"chronWAL");
    assert_eq!(
        block[12..40],
        [1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0]
    );
    assert_eq!(block[40..64], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 7, 0, 0, 0, 2, 0, 0, 0]);
    let info = TurnInfo {
        turn: TurnNumber(8),
        durable: TurnNumber(7),
        body_len: 258,
        frames: 3,
        frames_crc: 0x0a0b_0c0d,
    };
    let turn = TurnHeader::new(1, WalSeq(4), &info);
    let bytes = turn.as_bytes();
    assert_eq!(&bytes[..4], b"turn");
    assert_eq!(bytes[8..32], [8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[32..48], [2, 1, 0, 0, 3, 0, 0, 0, 13, 12, 11, 10, 0, 0, 0, 0]);
    let frame = FrameHeader::new(1, &entry_info(EntryKind::LogStart, b"12345678"), b"12345678");
    let bytes = frame.as_bytes();
    assert_eq!(bytes[4..24], [8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[24..40], [17, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[40..56], [16, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0]);
    let seed = crc32c::crc32c(&[&[9; 16][..], &[2, 0], &[4, 0, 0, 0, 0, 0, 0, 0]].concat());
    assert_eq!(IDENTITY.seed(WalSeq(4)), seed);
}

#[test]
fn a_segment_header_tells_what_is_wrong_with_it() {
    let info = SegmentInfo { sequence: WalSeq(3), oldest_live: WalSeq(1), len: 1 << 20 };
    let block = SegmentHeader::block(&IDENTITY, info);
    assert_eq!(SegmentHeader::read(&block, &IDENTITY), Ok(info));
    assert_eq!(SegmentHeader::read(&[0; BLOCK], &IDENTITY), Err(HeaderFault::Blank));
    assert_eq!(SegmentHeader::read(&block[..20], &IDENTITY), Err(HeaderFault::Damaged));
    for other in [
        WalIdentity { node: NodeId(8), ..IDENTITY },
        WalIdentity { directory: [8; 16], ..IDENTITY },
        WalIdentity { shard: ShardId(1), ..IDENTITY },
    ] {
        assert_eq!(SegmentHeader::read(&block, &other), Err(HeaderFault::Foreign));
    }
    for position in 0..size_of::<SegmentHeader>() {
        let mut bad = block.clone();
        bad[position] ^= 1;
        assert_eq!(SegmentHeader::read(&bad, &IDENTITY), Err(HeaderFault::Damaged), "byte {position}");
    }
    let mut newer = block;
    newer[12] = 2;
    let crc = crc32c::crc32c(&newer[12..64]);
    newer[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(SegmentHeader::read(&newer, &IDENTITY), Err(HeaderFault::Version(2)));
}

/// Rule 2: a torn write leaves a new frame header before an old batch whose own CRC holds.
#[test]
fn a_frame_header_before_another_sound_batch_does_not_verify() {
    let (new, old) = (batch(1000, 2, b"new"), batch(900, 2, b"new"));
    assert_eq!(new[61..], old[61..], "they differ in nothing that Kafka's CRC covers");
    assert_eq!(new[12..], old[12..]);
    let info = entry_info(EntryKind::Batch, &new);
    let header = FrameHeader::new(1, &info, &new);
    assert!(header.verifies(1, &info, &new));
    assert!(!header.verifies(1, &info, &old));
    assert!(!header.verifies(2, &info, &new), "another segment's seed");
}

#[test]
fn every_bit_of_a_frame_is_covered() {
    let payload = batch(1000, 3, b"some records");
    let info = entry_info(EntryKind::Batch, &payload);
    let header = FrameHeader::new(77, &info, &payload);
    let frame = [header.as_bytes(), &payload].concat();
    for bit in 0..frame.len() * 8 {
        let mut bad = frame.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let read = FrameHeader::read(&bad);
        let sound = read.is_some_and(|(header, info)| header.verifies(77, &info, &bad[FRAME_HEADER..]));
        assert!(!sound, "bit {bit}");
    }
}

#[test]
fn a_batch_that_is_too_short_or_lies_about_its_length_is_not_sound() {
    let good = batch(0, 1, b"x");
    for bad in [&good[..10], &good[..60], &good[..good.len() - 1], &[&good[..], b"x"].concat()] {
        let info = entry_info(EntryKind::Batch, bad);
        assert!(!FrameHeader::new(1, &info, bad).verifies(1, &info, bad));
    }
}

#[test]
fn seeds_of_a_shard_differ() {
    let mut seeds: Vec<u32> = (0..10_000).map(|sequence| IDENTITY.seed(WalSeq(sequence))).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 10_000);
}

proptest! {
    #[test]
    fn turn_and_frame_headers_round_trip(
        numbers in any::<[u64; 5]>(), seed: u32, lens in any::<[u32; 3]>(), payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let turn = TurnInfo {
            turn: TurnNumber(numbers[0]), durable: TurnNumber(numbers[1]),
            body_len: lens[0], frames: lens[1], frames_crc: lens[2],
        };
        let header = TurnHeader::new(seed, WalSeq(numbers[2]), &turn);
        prop_assert_eq!(TurnHeader::read(header.as_bytes(), seed, WalSeq(numbers[2])), Some(turn));
        prop_assert_eq!(TurnHeader::read(header.as_bytes(), !seed, WalSeq(numbers[2])), None);
        prop_assert_eq!(TurnHeader::read(header.as_bytes(), seed, WalSeq(!numbers[2])), None);
        let info = FrameInfo {
            kind: FrameKind::Rewritten, entry_kind: EntryKind::ConfChange, group: GroupId(numbers[0]),
            term: Term(numbers[1]), index: RaftIndex(numbers[2]), base_offset: KafkaOffset(numbers[3].cast_signed()),
            commit: RaftIndex(numbers[4]), len: payload.len().try_into().unwrap(),
        };
        let header = FrameHeader::new(seed, &info, &payload);
        let (read, read_info) = FrameHeader::read(header.as_bytes()).unwrap();
        prop_assert_eq!(read_info, info);
        prop_assert!(read.verifies(seed, &info, &payload));
    }

    #[test]
    fn payloads_round_trip(
        numbers in any::<[u64; 7]>(), offsets in any::<[i64; 2]>(),
        configuration in prop::collection::vec(any::<u8>(), 0..50), data in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let state = GroupState {
            hard: HardState { term: Term(numbers[0]), vote: PeerId(numbers[1]), commit: RaftIndex(numbers[2]) },
            log_start: LogStart {
                index: RaftIndex(numbers[3]), term: Term(numbers[4]),
                offset: KafkaOffset(offsets[0]), base_offset: KafkaOffset(offsets[1]),
            },
            configuration: Bytes::from(configuration),
            configuration_index: RaftIndex(numbers[5]),
            peer: PeerId(numbers[6]),
            snapshot_data: Bytes::from(data),
        };
        let encoded = encode_state(&state);
        prop_assert_eq!(decode_state(&encoded).unwrap(), state);
        prop_assert!(decode_state(&encoded[..encoded.len() - 1]).is_err());
        let point = FlushPoint {
            index: RaftIndex(numbers[0]), term: Term(numbers[1]), next_offset: KafkaOffset(offsets[0]),
            segment_base: KafkaOffset(offsets[1]), position: numbers[2],
        };
        let points = vec![(GroupId(numbers[3]), point), (GroupId(numbers[4]), point)];
        prop_assert_eq!(decode_checkpoint(&encode_checkpoint(&points)).unwrap(), points);
        let opened = vec![OpenedSegment { sequence: WalSeq(numbers[0]), end: numbers[1] }];
        prop_assert_eq!(decode_opened(&encode_opened(&opened)).unwrap(), opened);
    }

    #[test]
    fn hostile_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = SegmentHeader::read(&bytes, &IDENTITY);
        let _ = TurnHeader::read(&bytes, 0, WalSeq(0));
        let _ = TurnHeader::claimed_sequence(&bytes);
        if let Some((header, info)) = FrameHeader::read(&bytes) {
            let _ = header.verifies(0, &info, &bytes[FRAME_HEADER..]);
        }
        let _ = decode_state(&bytes);
        let _ = decode_checkpoint(&bytes);
        let _ = decode_opened(&bytes);
    }
}
