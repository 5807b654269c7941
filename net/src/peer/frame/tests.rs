//! Golden bytes, round trips in any pieces, and everything a hostile or broken sender could do.

use super::*;
use proptest::prelude::*;

fn frame(parts: &[&'static [u8]]) -> Frame {
    Frame {
        kind: 3,
        source_shard: 0x0102,
        target_shard: 0x0304,
        group: 0x1122_3344_5566_7788,
        small: std::array::from_fn(|index| index as u8),
        parts: parts.iter().map(|part| Bytes::from_static(part)).collect(),
    }
}

fn wire(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut bytes = Vec::new();
    for frame in frames {
        encoder.encode(frame.clone(), 1, |slice| bytes.extend_from_slice(&slice));
    }
    bytes
}

fn decoder() -> Decoder {
    let mut decoder = Decoder::default();
    decoder.agree(1);
    decoder
}

fn read(decoder: &mut Decoder, mut input: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    while !input.is_empty() {
        frames.extend(decoder.feed(&mut input)?);
    }
    Ok(frames)
}

/// A header with any fields and a checksum that fits.
fn forge(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::read_from_bytes(&wire(&[Frame::new(1, 0, 0)])).unwrap();
    change(&mut header);
    header.header_crc = header.checksum().into();
    header.as_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let bytes = wire(&[frame(&[b"ab", b"", b"cde"])]);
    let body = "020000000000000003000000".to_owned() + &hex(b"abcde");
    assert_eq!(hex(&bytes[64..]), body);
    let body_crc = crc32c::crc32c(&bytes[64..]);
    assert_eq!(hex(&bytes[8..12]), hex(&body_crc.to_le_bytes()));
    let fixed = "11000000".to_owned() // body bytes: 3 lengths and 5 bytes
        + "0100" + "0300" // version, parts
        + "0201" + "0403" // shards
        + "8877665544332211" // group
        + "0300000000000000" // kind, zeros
        + "000102030405060708090a0b0c0d0e0f1011121314151617";
    assert_eq!(hex(&bytes[12..64]), fixed);
    assert_eq!(&bytes[..4], b"CHRK");
    assert_eq!(hex(&bytes[4..8]), hex(&crc32c::crc32c(&bytes[8..64]).to_le_bytes()));
    // CRC-32C itself: the check value of its definition.
    assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    assert_eq!(hex(&bytes[4..12]), GOLDEN_CHECKSUMS);
}

/// Reckoned by another implementation (bit by bit, in Python), so that a change of either checksum's reach is noticed.
const GOLDEN_CHECKSUMS: &str = "3416e540dcb7a9fd";

#[test]
fn payload_is_not_copied_on_the_way_out_and_is_one_buffer_on_the_way_in() {
    let payload = Bytes::from(vec![7; 5_000]);
    let sent = Frame { parts: vec![payload.slice(..100), payload.slice(100..)], ..Frame::new(1, 2, 3) };
    let mut slices = Vec::new();
    Encoder::default().encode(sent.clone(), 1, |slice| slices.push(slice));
    assert_eq!(slices.len(), 3);
    assert_eq!(slices[1].as_ptr(), payload.as_ptr());
    assert_eq!(slices[2].as_ptr(), payload[100..].as_ptr());
    let got = read(&mut decoder(), &slices.concat()).unwrap().remove(0);
    assert_eq!(got, sent);
    assert_eq!(got.parts[0].as_ptr_range().end, got.parts[1].as_ptr());
}

#[test]
fn frames_split_at_every_byte_come_out_whole_and_every_truncation_gives_none() {
    let frames = vec![frame(&[]), frame(&[b"x"]), frame(&[b"", b"yz", b""])];
    let bytes = wire(&frames);
    for split in 0..=bytes.len() {
        let mut decoder = decoder();
        let mut got = read(&mut decoder, &bytes[..split]).unwrap();
        assert!(got.len() < frames.len() || split == bytes.len());
        got.extend(read(&mut decoder, &bytes[split..]).unwrap());
        assert_eq!(got, frames, "split at {split}");
        assert!(!decoder.is_within_frame());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = wire(&[frame(&[b"some payload", b"more"])]);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        read(&mut decoder(), &bytes).expect_err("a flipped bit went through");
    }
}

#[test]
fn lengths_out_of_bounds_are_refused_before_anything_is_allocated() {
    for bytes in [u32::MAX, i32::MAX as u32, BODY_BYTES_MAX as u32 + 1] {
        let mut decoder = decoder();
        let header = forge(|header| {
            header.body_bytes = bytes.into();
            header.part_count = 1.into();
        });
        let error = read(&mut decoder, &header).unwrap_err();
        assert_eq!(error, FrameError::TooLong { bytes: bytes as usize, max: BODY_BYTES_MAX });
        assert_eq!(decoder.held_bytes(), 0);
    }
    for (bytes, parts) in [(0, 1), (3, 1), (4, 2), (1, 0), (65_536, PARTS_MAX as u16 + 1)] {
        let header = forge(|header| {
            header.body_bytes = U32::new(bytes);
            header.part_count = U16::new(parts);
        });
        assert_eq!(read(&mut decoder(), &header).unwrap_err(), FrameError::Parts, "{bytes} {parts}");
    }
}

#[test]
fn part_lengths_that_do_not_make_up_the_body_are_refused() {
    for lengths in [[1u32, 1], [3, 0], [u32::MAX, 3], [u32::MAX, u32::MAX], [0, 0]] {
        let mut body: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        body.extend_from_slice(b"xxxx");
        let mut bytes = forge(|header| {
            header.body_bytes = U32::new(body.len() as u32);
            header.part_count = U16::new(2);
            header.body_crc = crc32c::crc32c(&body).into();
        });
        bytes.extend_from_slice(&body);
        assert_eq!(read(&mut decoder(), &bytes).unwrap_err(), FrameError::Parts, "{lengths:?}");
    }
}

#[test]
fn versions_kinds_and_reserved_bytes_are_checked() {
    let of_version = |version: u16| forge(|header| header.version = version.into());
    assert!(read(&mut decoder(), &of_version(1)).is_ok());
    let error = read(&mut decoder(), &of_version(2)).unwrap_err();
    assert_eq!(error, FrameError::Version { got: 2, expected: Some(1) });
    let error = read(&mut Decoder::default(), &of_version(1)).unwrap_err();
    assert_eq!(error, FrameError::Version { got: 1, expected: None });
    assert!(matches!(read(&mut decoder(), &forge(|h| h.kind = 0)), Err(FrameError::Kind { .. })));
    assert!(matches!(read(&mut decoder(), &forge(|h| h.zero[6] = 1)), Err(FrameError::Kind { .. })));
    let control = forge(|header| {
        header.kind = KIND_MAX + 1;
        header.version = CONTROL_VERSION.into();
        header.body_bytes = U32::new(CONTROL_BODY_BYTES_MAX as u32 + 1);
        header.part_count = 1.into();
    });
    assert!(matches!(read(&mut Decoder::default(), &control), Err(FrameError::TooLong { max: 512, .. })));
}

#[test]
fn other_protocols_are_told_apart_by_their_first_bytes() {
    for garbage in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"\0\0\0\x17\0\x12", b"C\0"] {
        assert_eq!(read(&mut Decoder::default(), garbage).unwrap_err(), FrameError::Magic);
    }
}

#[test]
fn memory_grows_only_with_what_arrives() {
    let mut decoder = decoder();
    let header = forge(|header| {
        header.body_bytes = U32::new(BODY_BYTES_MAX as u32);
        header.part_count = 1.into();
    });
    read(&mut decoder, &header).unwrap();
    assert!(decoder.held_bytes() <= FIRST_STEP_BYTES);
    let chunk = vec![7; 60_000];
    let mut sent = 0;
    while sent < 5 * FIRST_STEP_BYTES {
        assert!(read(&mut decoder, &chunk).unwrap().is_empty());
        sent += chunk.len();
        assert!(decoder.held_bytes() <= (2 * sent).max(FIRST_STEP_BYTES));
    }
}

#[test]
fn a_large_frame_is_received_in_place() {
    let payload = Bytes::from((0..3_000_001u32).map(|index| (index % 251) as u8).collect::<Vec<_>>());
    let sent = Frame { parts: vec![payload.slice(..7), payload.slice(7..)], ..Frame::new(9, 1, 2) };
    let bytes = wire(std::slice::from_ref(&sent));
    let mut decoder = decoder();
    assert!(read(&mut decoder, &bytes[..100]).unwrap().is_empty());
    let mut position = 100;
    let mut got = None;
    while let Some(space) = decoder.direct_space() {
        let count = space.len().min(100_000);
        for (slot, byte) in space[..count].iter_mut().zip(&bytes[position..]) {
            slot.write(*byte);
        }
        position += count;
        // SAFETY: written just above.
        got = unsafe { decoder.direct_received(count) }.unwrap();
    }
    assert!(position > 2_900_000);
    let got = got.unwrap_or_else(|| read(&mut decoder, &bytes[position..]).unwrap().remove(0));
    assert!(got == sent, "the frame was damaged");
}

prop_compose! {
    fn any_frame()(
        kind in 1..=KIND_MAX, source_shard: u16, target_shard: u16, group: u64, small: [u8; SMALL_BYTES],
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
    ) -> Frame {
        let parts = parts.into_iter().map(Bytes::from).collect();
        Frame { kind, source_shard, target_shard, group, small, parts }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_frames_in_any_pieces(
        frames in prop::collection::vec(any_frame(), 0..12),
        pieces in prop::collection::vec(1usize..400, 1..40),
    ) {
        let bytes = wire(&frames);
        prop_assert_eq!(bytes.len(), frames.iter().map(Frame::wire_bytes).sum::<usize>());
        let (mut decoder, mut got, mut rest) = (decoder(), Vec::new(), &bytes[..]);
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            got.extend(read(&mut decoder, now).unwrap());
            rest = later;
        }
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn garbage_never_panics_nor_allocates(
        bytes in prop::collection::vec(any::<u8>(), 0..500), magic: bool, good: bool,
    ) {
        let mut bytes = bytes;
        if magic && bytes.len() >= HEADER_BYTES {
            bytes[..4].copy_from_slice(&MAGIC);
            if good {
                let crc = crc32c::crc32c(&bytes[8..HEADER_BYTES]);
                bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let mut decoder = decoder();
        let _ = read(&mut decoder, &bytes);
        prop_assert!(decoder.held_bytes() <= FIRST_STEP_BYTES);
    }
}
