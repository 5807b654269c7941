//! Snappy as Kafka's clients frame it.
//!
//! Java and most others write snappy-java's ("xerial") stream:
//!
//! ```text
//! 0x82 "SNAPPY" 0x00 | version i32 = 1 | least compatible version i32 = 1 | { block length i32 | raw snappy block }*
//! ```
//!
//! all big-endian; librdkafka and some others write one raw block with nothing around it. A raw block cannot begin like
//! the stream's header: 0x82 0x53 would announce an output of 10,626 bytes whose first element is 0x4e, a copy before
//! any output.

use std::io;

use bytes::{BufMut, BytesMut};

use super::{CompressError, Compression, too_large};

const STREAM_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const STREAM_VERSION: i32 = 1;
/// Magic and two version numbers.
const STREAM_HEADER_BYTES: usize = 16;
/// Input bytes a block: snappy-java's default, so that its readers need no larger buffer than for their own.
const BLOCK_BYTES: usize = 32 << 10;
/// The format's best: an element of three bytes copies at most 64. What announces more is lying.
const RATIO_MAX: usize = 22;

/// Decompresses either framing to at most `limit` bytes.
pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, CompressError> {
    let mut output = Vec::new();
    if !input.starts_with(&STREAM_MAGIC) {
        append_block(input, &mut output, input, limit)?;
        return Ok(output);
    }
    let Some(mut rest) = input.get(STREAM_HEADER_BYTES..) else {
        return Err(damaged("the stream header is cut short"));
    };
    while !rest.is_empty() {
        let Some((field, after)) = rest.split_first_chunk::<4>() else {
            return Err(damaged("a block length is cut short"));
        };
        let length = usize::try_from(i32::from_be_bytes(*field)).unwrap_or(usize::MAX);
        if length > after.len() {
            return Err(damaged("a block is cut short"));
        }
        let (block, next) = after.split_at(length);
        append_block(block, &mut output, input, limit)?;
        rest = next;
    }
    Ok(output)
}

/// Decompresses one raw block onto the end of `output`.
fn append_block(block: &[u8], output: &mut Vec<u8>, input: &[u8], limit: usize) -> Result<(), CompressError> {
    let announced = snap::raw::decompress_len(block).map_err(|error| damaged(&error.to_string()))?;
    if announced > block.len().saturating_mul(RATIO_MAX) {
        return Err(damaged("a block announces more than snappy can hold"));
    }
    if announced > limit - output.len() {
        return Err(too_large(Compression::Snappy, input, limit));
    }
    let start = output.len();
    output.resize(start + announced, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut output[start..])
        .map_err(|error| damaged(&error.to_string()))?;
    if written != announced {
        return Err(damaged("a block holds less than it announces"));
    }
    Ok(())
}

fn damaged(reason: &str) -> CompressError {
    CompressError::Damaged { codec: Compression::Snappy, reason: reason.to_owned() }
}

/// Appends the stream form of `input` to `output`.
pub(super) fn compress(input: &[u8], output: &mut BytesMut) -> io::Result<()> {
    output.put_slice(&STREAM_MAGIC);
    output.put_i32(STREAM_VERSION);
    output.put_i32(STREAM_VERSION);
    let mut encoder = snap::raw::Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(BLOCK_BYTES.min(input.len()))];
    for piece in input.chunks(BLOCK_BYTES) {
        let length = encoder.compress(piece, &mut block)?;
        output.put_i32(i32::try_from(length).map_err(io::Error::other)?);
        output.put_slice(&block[..length]);
    }
    Ok(())
}
