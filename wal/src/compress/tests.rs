//! Tests of the codecs: framings, damage, bombs.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

const CODECS: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn compressed(codec: Compression, input: &[u8]) -> Vec<u8> {
    let mut output = BytesMut::new();
    compress_into(codec, &CompressionLevels::default(), input, &mut output).unwrap();
    output.to_vec()
}

fn caps(bytes_max: usize, ratio_max: usize) -> DecompressCaps {
    DecompressCaps { bytes_max, ratio_max }
}

#[test]
fn the_bytes_cap_is_exact() {
    let input = vec![b'a'; 300_000];
    for codec in CODECS {
        let payload = compressed(codec, &input);
        assert_eq!(decompress(codec, &payload, &caps(300_000, 1 << 20)).unwrap(), input);
        let refused = decompress(codec, &payload, &caps(299_999, 1 << 20)).unwrap_err();
        assert!(matches!(refused, CompressError::TooLarge { limit: 299_999, .. }), "{refused}");
    }
    let refused = decompress(Compression::None, &input, &caps(299_999, 1)).unwrap_err();
    assert!(matches!(refused, CompressError::TooLarge { .. }));
}

/// 24 MiB of zeros shrink to some kilobytes. With the ratio bounded, none of it is made beyond the free 16 MiB.
#[test]
fn a_bomb_is_an_error_under_every_codec() {
    let zeros = vec![0; 24 << 20];
    for codec in CODECS {
        let payload = compressed(codec, &zeros);
        let refused = decompress(codec, &payload, &caps(1 << 30, 10)).unwrap_err();
        let limit = (payload.len() * 10).max(RATIO_FREE_BYTES);
        let input = payload.len();
        assert!(limit < zeros.len());
        assert_eq!(refused, CompressError::TooLarge { codec, input, limit });
    }
    // zstd's own ratio is far above what the default caps believe.
    let payload = compressed(Compression::Zstd, &zeros);
    assert!(decompress(Compression::Zstd, &payload, &DecompressCaps::default()).is_err());
}

#[test]
fn small_output_is_free_of_the_ratio() {
    let zeros = vec![0; RATIO_FREE_BYTES];
    for codec in CODECS {
        let payload = compressed(codec, &zeros);
        assert_eq!(decompress(codec, &payload, &caps(1 << 30, 1)).unwrap().len(), RATIO_FREE_BYTES);
    }
}

#[test]
fn cut_and_trailed_payloads_are_damage() {
    let input: Vec<u8> = (0..50_000u32).flat_map(|number| (number % 251).to_le_bytes()).collect();
    for codec in CODECS {
        let payload = compressed(codec, &input);
        for cut in [1, 2, 5, payload.len() / 2, payload.len() - 1] {
            let cut_short = &payload[..payload.len() - cut];
            let found = decompress(codec, cut_short, &DecompressCaps::default());
            assert!(matches!(found, Err(CompressError::Damaged { .. })), "{codec:?} less {cut}");
        }
        let mut trailed = payload.clone();
        trailed.extend_from_slice(b"tail");
        let found = decompress(codec, &trailed, &DecompressCaps::default());
        assert!(matches!(found, Err(CompressError::Damaged { .. })), "{codec:?} with a tail");
    }
}

#[test]
fn snappy_is_read_raw_and_framed() {
    let input = b"chronik ".repeat(20_000);
    let raw = snap::raw::Encoder::new().compress_vec(&input).unwrap();
    assert_eq!(decompress(Compression::Snappy, &raw, &DecompressCaps::default()).unwrap(), input);
    let framed = compressed(Compression::Snappy, &input);
    assert_eq!(framed[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    assert_eq!(decompress(Compression::Snappy, &framed, &DecompressCaps::default()).unwrap(), input);
    // Nothing at all, as snappy-java writes it.
    assert!(decompress(Compression::Snappy, &framed[..16], &DecompressCaps::default()).unwrap().is_empty());
}

#[test]
fn snappy_lengths_are_not_believed() {
    let caps = DecompressCaps::default();
    // A raw block of one byte's worth of literal that announces 100 MiB.
    let raw = [0x80, 0x80, 0x80, 0x32, 0x00, b'x'];
    assert!(matches!(
        decompress(Compression::Snappy, &raw, &caps),
        Err(CompressError::Damaged { reason, .. }) if reason.contains("announces more")
    ));
    for length in [-1i32, i32::MAX, 7] {
        let mut framed = compressed(Compression::Snappy, b"")[..16].to_vec();
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&raw);
        assert!(decompress(Compression::Snappy, &framed, &caps).is_err(), "length {length}");
    }
}

#[test]
fn lz4_frames_are_those_that_java_reads() {
    let frame = compressed(Compression::Lz4, b"chronik");
    // Magic; version 1, independent blocks, no checksums, no content size; 64 KiB blocks; header checksum.
    assert_eq!(frame[..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
}

#[test]
fn codec_numbers() {
    for code in 0..=255u8 {
        assert_eq!(Compression::from_code(code).map(|codec| codec as u8), (code < 5).then_some(code));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bytes_come_back(input in proptest::collection::vec(0..4u8, 0..80_000)) {
        for codec in CODECS {
            let payload = compressed(codec, &input);
            prop_assert_eq!(&decompress(codec, &payload, &DecompressCaps::default()).unwrap(), &input);
        }
    }

    #[test]
    fn arbitrary_bytes_stay_within_the_cap(input in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for codec in CODECS {
            if let Ok(output) = decompress(codec, &input, &caps(10_000, 10)) {
                prop_assert!(output.len() <= 10_000);
            }
        }
    }

    #[test]
    fn damaged_streams_stay_within_the_cap(
        input in proptest::collection::vec(0..4u8, 1..5000), at: usize, byte: u8,
    ) {
        for codec in CODECS {
            let mut payload = compressed(codec, &input);
            let place = at % payload.len();
            payload[place] = byte;
            if let Ok(output) = decompress(codec, &payload, &caps(20_000, 10)) {
                prop_assert!(output.len() <= 20_000);
            }
        }
    }
}
