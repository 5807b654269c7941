//! The codecs of record batches, in the framing that Kafka's clients read and write. Pure; used on every shard.
//!
//! | codec  | framing | written as |
//! |---|---|---|
//! | gzip   | RFC 1952 | one member |
//! | snappy | xerial (snappy-java's stream: header, then length-prefixed blocks), or one raw block as librdkafka sends | xerial, 32 KiB blocks |
//! | lz4    | LZ4 frame | independent blocks of 64 KiB without checksums: the Java reader refuses linked ones |
//! | zstd   | zstd frame | one frame |
//!
//! Invariant: [`decompress`] never holds more output than its caps allow, whatever the input announces. Output is
//! made piece by piece; a length that the input announces is compared with the cap before anything is allocated.

mod snappy;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use bytes::{BufMut, BytesMut};
use thiserror::Error;

/// A codec, with its number in the attributes of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Compression {
    /// `uncompressed`
    #[default]
    None = 0,
    /// `gzip`
    Gzip = 1,
    /// `snappy`
    Snappy = 2,
    /// `lz4`
    Lz4 = 3,
    /// `zstd`
    Zstd = 4,
}

impl Compression {
    /// The codec with this number, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }
}

/// Compression levels, by the configs `compression.{gzip,lz4,zstd}.level`. Snappy has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionLevels {
    /// 1 to 9, or −1 for zlib's default.
    pub gzip: i32,
    /// 1 to 17. Kafka's default 9 stands for the *fast* compressor there, every other number for the high one.
    pub lz4: i32,
    /// −131072 to 22.
    pub zstd: i32,
}

impl Default for CompressionLevels {
    fn default() -> Self {
        Self { gzip: -1, lz4: LZ4_KAFKA_DEFAULT_LEVEL, zstd: 3 }
    }
}

const LZ4_KAFKA_DEFAULT_LEVEL: i32 = 9;

/// How much a payload may become when it is decompressed. The smaller of both bounds holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecompressCaps {
    /// Bytes of output at most.
    pub bytes_max: usize,
    /// Output to input at most, once the output is larger than [`RATIO_FREE_BYTES`].
    pub ratio_max: usize,
}

/// Output up to here is allowed at any ratio: zstd makes a few dozen bytes of a million equal ones, quite honestly.
pub const RATIO_FREE_BYTES: usize = 16 << 20;

impl Default for DecompressCaps {
    /// 128 MiB, four times the largest batch that is ever stored (32 MiB), and gzip's own greatest ratio.
    fn default() -> Self {
        Self { bytes_max: 128 << 20, ratio_max: 1032 }
    }
}

impl DecompressCaps {
    /// The most that `input_bytes` of compressed payload may become.
    #[must_use]
    pub fn output_max(&self, input_bytes: usize) -> usize {
        let by_ratio = input_bytes.saturating_mul(self.ratio_max).max(RATIO_FREE_BYTES);
        self.bytes_max.min(by_ratio)
    }
}

/// Why a payload does not decompress or compress.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompressError {
    /// More output than the caps allow: a decompression bomb, or caps set too low.
    #[error("{codec:?} payload of {input} bytes decompresses to more than {limit}")]
    TooLarge {
        /// The codec.
        codec: Compression,
        /// Compressed bytes.
        input: usize,
        /// Most that was allowed.
        limit: usize,
    },
    /// Not a payload of this codec, or a cut one.
    #[error("{codec:?} payload is damaged: {reason}")]
    Damaged {
        /// The codec.
        codec: Compression,
        /// What its decoder says.
        reason: String,
    },
    /// The encoder failed; only an impossible level or lack of memory makes it so.
    #[error("{codec:?} compression failed: {reason}")]
    Encoder {
        /// The codec.
        codec: Compression,
        /// What its encoder says.
        reason: String,
    },
}

/// Decompresses a whole payload.
///
/// # Errors
/// [`CompressError::TooLarge`] beyond `caps`, [`CompressError::Damaged`] otherwise. Bytes after the end of the
/// compressed stream are damage.
pub fn decompress(codec: Compression, input: &[u8], caps: &DecompressCaps) -> Result<Vec<u8>, CompressError> {
    let limit = caps.output_max(input.len());
    match codec {
        Compression::None if input.len() > limit => Err(too_large(codec, input, limit)),
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => read_capped(codec, flate2::bufread::MultiGzDecoder::new(input), input, limit),
        Compression::Snappy => snappy::decompress(input, limit),
        Compression::Lz4 => decompress_lz4(input, limit),
        Compression::Zstd => decompress_zstd(input, limit),
    }
}

fn decompress_lz4(input: &[u8], limit: usize) -> Result<Vec<u8>, CompressError> {
    let codec = Compression::Lz4;
    let mut decoder = lz4::Decoder::new(input).map_err(|error| damaged(codec, &error))?;
    let output = read_capped(codec, &mut decoder, input, limit)?;
    // The decoder takes the end of its input for the end of the frame; only `finish` tells them apart.
    let (rest, whole) = decoder.finish();
    if whole.is_err() {
        return Err(CompressError::Damaged { codec, reason: "the frame is cut short".to_owned() });
    }
    if !rest.is_empty() {
        return Err(CompressError::Damaged { codec, reason: "bytes follow the frame".to_owned() });
    }
    Ok(output)
}

/// Greatest window, as a power of two, that a zstd frame may ask for: 128 MiB, what level 22 uses and Java's decoder
/// takes. The decoder reserves it but touches no more of it than it puts out, which is capped.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

fn decompress_zstd(input: &[u8], limit: usize) -> Result<Vec<u8>, CompressError> {
    let codec = Compression::Zstd;
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(input).map_err(|error| damaged(codec, &error))?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| damaged(codec, &error))?;
    read_capped(codec, decoder, input, limit)
}

/// First piece of output that is made; after it the buffer doubles.
const FIRST_OUTPUT_BYTES: usize = 64 << 10;

/// Reads a decoder to its end, at most `limit` bytes, into a buffer that never grows beyond `limit`.
fn read_capped(
    codec: Compression,
    mut decoder: impl Read,
    input: &[u8],
    limit: usize,
) -> Result<Vec<u8>, CompressError> {
    let mut output = Vec::new();
    let mut filled = 0;
    loop {
        if filled == output.len() {
            if filled == limit {
                break;
            }
            output.resize((filled * 2).clamp(FIRST_OUTPUT_BYTES.min(limit), limit), 0);
        }
        match decoder.read(&mut output[filled..]) {
            Ok(0) => {
                output.truncate(filled);
                return Ok(output);
            }
            Ok(read) => filled += read,
            Err(error) => return Err(damaged(codec, &error)),
        }
    }
    // The limit is reached; the stream must end just here.
    match decoder.read(&mut [0; 1]) {
        Ok(0) => Ok(output),
        Ok(_) => Err(too_large(codec, input, limit)),
        Err(error) => Err(damaged(codec, &error)),
    }
}

fn too_large(codec: Compression, input: &[u8], limit: usize) -> CompressError {
    CompressError::TooLarge { codec, input: input.len(), limit }
}

fn damaged(codec: Compression, error: &io::Error) -> CompressError {
    CompressError::Damaged { codec, reason: error.to_string() }
}

/// Appends the compressed form of `input` to `output`.
///
/// # Errors
/// [`CompressError::Encoder`]; `output` then holds rubbish after its old end.
pub fn compress_into(
    codec: Compression,
    levels: &CompressionLevels,
    input: &[u8],
    output: &mut BytesMut,
) -> Result<(), CompressError> {
    let written = match codec {
        Compression::None => {
            output.put_slice(input);
            Ok(())
        }
        Compression::Gzip => compress_gzip(levels.gzip, input, output),
        Compression::Snappy => snappy::compress(input, output),
        Compression::Lz4 => compress_lz4(levels.lz4, input, output),
        Compression::Zstd => compress_zstd(levels.zstd, input, output),
    };
    written.map_err(|error| CompressError::Encoder { codec, reason: error.to_string() })
}

fn compress_gzip(level: i32, input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    let level = match u32::try_from(level) {
        Ok(level) => flate2::Compression::new(level.min(9)),
        Err(_) => flate2::Compression::default(),
    };
    let mut encoder = flate2::write::GzEncoder::new(output.writer(), level);
    encoder.write_all(input)?;
    encoder.finish()?;
    Ok(())
}

fn compress_lz4(level: i32, input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    // In liblz4, 0 is the fast compressor and 3 and above the high one.
    let level = if level == LZ4_KAFKA_DEFAULT_LEVEL { 0 } else { u32::try_from(level).unwrap_or(0).max(3) };
    let mut encoder = lz4::EncoderBuilder::new()
        .block_size(lz4::BlockSize::Max64KB)
        .block_mode(lz4::BlockMode::Independent)
        .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
        .checksum(lz4::ContentChecksum::NoChecksum)
        .level(level)
        .build(output.writer())?;
    encoder.write_all(input)?;
    encoder.finish().1
}

fn compress_zstd(level: i32, input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(output.writer(), level)?;
    encoder.write_all(input)?;
    encoder.finish()?;
    Ok(())
}
