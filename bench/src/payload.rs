//! Values and keys of messages. Everything random is made before the run; the hot loop only
//! writes the header of 48 bytes.
//!
//! ```text
//! 0   magic        u32  "CHRB"
//! 4   size         u32  of the whole value
//! 8   run          u64  a random number for each run
//! 16  sequence     u64  from 0, for each client
//! 24  intended     u64  wall-clock nanoseconds since 1970 at which it was meant to be sent
//! 32  client       u32
//! 36  body crc     u32  CRC-32C of everything behind the header
//! 40  reserved     u32  zero
//! 44  header crc   u32  CRC-32C of bytes 0 to 43
//! ```
//! All little-endian. A value too small for it carries no header.

use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde::Serialize;

use crate::cli::KeyPattern;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 48;
const MAGIC: u32 = u32::from_le_bytes(*b"CHRB");
/// Bodies that differ, so that a broker's or a client's compression sees more than one value.
const POOL_COUNT_MAX: usize = 256;
/// Memory for all bodies of one client.
const POOL_BYTES_MAX: usize = 16 << 20;
/// Keys made in advance by `random`.
const KEY_COUNT: usize = 1 << 16;
const KEY_BYTES: usize = 16;
const WORDS: &[&str] = &[
    "broker",
    "shard",
    "record",
    "batch",
    "offset",
    "leader",
    "epoch",
    "segment",
    "quorum",
    "commit",
    "append",
    "fetch",
    "produce",
    "consumer",
    "group",
    "topic",
    "partition",
    "replica",
    "snapshot",
    "ring",
];

/// What values consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PayloadPattern {
    /// Bytes that do not compress.
    Random,
    /// Zeros.
    Zeros,
    /// English words, which compress about as well as log lines.
    Text,
}

/// A header read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the run that sent it.
    pub run: u64,
    /// Client within the run.
    pub client: u32,
    /// Sequence within the client.
    pub sequence: u64,
    /// Intended time, wall-clock nanoseconds.
    pub intended_wall_ns: u64,
}

/// Why a value is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Too short, or another magic number: not written by this tool.
    Foreign,
    /// The header's checksum is wrong.
    Header,
    /// The value's size is not the one it was sent with.
    Size,
    /// The body's checksum is wrong.
    Body,
}

/// The values of one client.
pub struct Payloads {
    pool: Vec<Vec<u8>>,
    body_crcs: Vec<u32>,
    run: u64,
    client: u32,
}

impl Payloads {
    /// Makes the pool of values of `size` bytes for a client.
    pub fn new(pattern: PayloadPattern, size: usize, run: u64, client: u32) -> Self {
        let count = (POOL_BYTES_MAX / size.max(1)).clamp(1, POOL_COUNT_MAX);
        let mut random = SmallRng::seed_from_u64(run ^ u64::from(client));
        let pool: Vec<Vec<u8>> = (0..count).map(|_| fill(pattern, size, &mut random)).collect();
        let body_crcs =
            pool.iter().map(|value| crc32c::crc32c(value.get(HEADER_BYTES..).unwrap_or(&[]))).collect();
        Self { pool, body_crcs, run, client }
    }

    /// The value of message `sequence`, with its header written if it fits.
    pub fn value(&mut self, sequence: u64, intended_wall_ns: u64) -> &[u8] {
        let slot = (sequence % self.pool.len() as u64) as usize;
        let value = &mut self.pool[slot];
        if value.len() >= HEADER_BYTES {
            let header = Header { run: self.run, client: self.client, sequence, intended_wall_ns };
            write_header(value, &header, self.body_crcs[slot]);
        }
        value
    }
}

fn fill(pattern: PayloadPattern, size: usize, random: &mut SmallRng) -> Vec<u8> {
    let mut value = vec![0; size];
    match pattern {
        PayloadPattern::Zeros => {}
        PayloadPattern::Random => random.fill_bytes(&mut value),
        PayloadPattern::Text => {
            let mut text = String::with_capacity(size + 16);
            while text.len() < size {
                text.push_str(WORDS[random.random_range(0..WORDS.len())]);
                text.push(' ');
            }
            value.copy_from_slice(&text.as_bytes()[..size]);
        }
    }
    value
}

fn write_header(value: &mut [u8], header: &Header, body_crc: u32) {
    let size = value.len() as u32;
    value[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    value[4..8].copy_from_slice(&size.to_le_bytes());
    value[8..16].copy_from_slice(&header.run.to_le_bytes());
    value[16..24].copy_from_slice(&header.sequence.to_le_bytes());
    value[24..32].copy_from_slice(&header.intended_wall_ns.to_le_bytes());
    value[32..36].copy_from_slice(&header.client.to_le_bytes());
    value[36..40].copy_from_slice(&body_crc.to_le_bytes());
    value[40..44].fill(0);
    let crc = crc32c::crc32c(&value[..44]);
    value[44..48].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a header without checking the body: for latency.
pub fn read_header(value: &[u8]) -> Result<Header, Damage> {
    let Some(header) = value.first_chunk::<HEADER_BYTES>() else { return Err(Damage::Foreign) };
    if u32_at(header, 0) != MAGIC {
        return Err(Damage::Foreign);
    }
    if crc32c::crc32c(&header[..44]) != u32_at(header, 44) {
        return Err(Damage::Header);
    }
    Ok(Header {
        run: u64_at(header, 8),
        client: u32_at(header, 32),
        sequence: u64_at(header, 16),
        intended_wall_ns: u64_at(header, 24),
    })
}

/// Reads a header and checks every byte of the value.
pub fn read_checked(value: &[u8]) -> Result<Header, Damage> {
    let header = read_header(value)?;
    if u32_at(value, 4) as usize != value.len() {
        return Err(Damage::Size);
    }
    if crc32c::crc32c(&value[HEADER_BYTES..]) != u32_at(value, 36) {
        return Err(Damage::Body);
    }
    Ok(header)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The keys of one client.
pub struct Keys {
    pattern: Option<KeyPattern>,
    pool: Vec<[u8; KEY_BYTES]>,
    current: [u8; KEY_BYTES],
}

impl Keys {
    /// Makes the keys in advance.
    pub fn new(pattern: Option<KeyPattern>, run: u64, client: u32) -> Self {
        let mut random = SmallRng::seed_from_u64(run.rotate_left(17) ^ u64::from(client));
        let count = if pattern == Some(KeyPattern::Random) { KEY_COUNT } else { 0 };
        let pool = (0..count).map(|_| hexadecimal(random.next_u64())).collect();
        Self { pattern, pool, current: hexadecimal(0) }
    }

    /// The key of message `sequence`.
    pub fn key(&mut self, sequence: u64) -> Option<&[u8]> {
        match self.pattern? {
            KeyPattern::Random => return Some(&self.pool[(sequence % KEY_COUNT as u64) as usize]),
            KeyPattern::Sequential => self.current = hexadecimal(sequence),
            KeyPattern::Fixed => {}
        }
        Some(&self.current)
    }
}

fn hexadecimal(number: u64) -> [u8; KEY_BYTES] {
    std::array::from_fn(|at| b"0123456789abcdef"[(number >> (60 - 4 * at)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let mut payloads = Payloads::new(PayloadPattern::Random, 256, 7, 3);
        for sequence in [0, 1, 255, 256, 1_000_000] {
            let value = payloads.value(sequence, 42).to_vec();
            assert_eq!(value.len(), 256);
            let header = Header { run: 7, client: 3, sequence, intended_wall_ns: 42 };
            assert_eq!(read_checked(&value), Ok(header));
        }
    }

    #[test]
    fn every_flipped_bit_is_caught() {
        let mut payloads = Payloads::new(PayloadPattern::Text, 100, 7, 3);
        let value = payloads.value(5, 42).to_vec();
        for bit in 0..value.len() * 8 {
            let mut tampered = value.clone();
            tampered[bit / 8] ^= 1 << (bit % 8);
            assert!(read_checked(&tampered).is_err(), "bit {bit}");
        }
        assert_eq!(read_checked(&value[..99]), Err(Damage::Size));
        assert_eq!(read_checked(&value[..47]), Err(Damage::Foreign));
    }

    #[test]
    fn patterns_differ_as_named() {
        let mut random = SmallRng::seed_from_u64(1);
        assert_eq!(fill(PayloadPattern::Zeros, 8, &mut random), [0; 8]);
        assert!(
            fill(PayloadPattern::Text, 200, &mut random).iter().all(|b| b.is_ascii_lowercase() || *b == b' ')
        );
        let noise = fill(PayloadPattern::Random, 4096, &mut random);
        let distinct: std::collections::BTreeSet<u8> = noise.iter().copied().collect();
        assert!(distinct.len() > 200);
    }

    #[test]
    fn small_values_carry_no_header_and_pools_are_bounded() {
        let mut small = Payloads::new(PayloadPattern::Zeros, 10, 1, 0);
        assert_eq!(small.value(9, 9), [0; 10]);
        let large = Payloads::new(PayloadPattern::Zeros, 8 << 20, 1, 0);
        assert_eq!(large.pool.len(), 2);
    }

    #[test]
    fn keys_follow_their_pattern() {
        assert_eq!(Keys::new(None, 1, 0).key(5), None);
        assert_eq!(Keys::new(Some(KeyPattern::Sequential), 1, 0).key(255), Some(&b"00000000000000ff"[..]));
        let mut fixed = Keys::new(Some(KeyPattern::Fixed), 1, 0);
        let first = fixed.key(1).map(<[u8]>::to_vec);
        assert_eq!(fixed.key(2).map(<[u8]>::to_vec), first);
        let mut random = Keys::new(Some(KeyPattern::Random), 1, 0);
        assert_ne!(random.key(1).map(<[u8]>::to_vec), random.key(2).map(<[u8]>::to_vec));
    }
}
