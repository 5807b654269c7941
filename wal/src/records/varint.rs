//! Zigzag varints as protobuf writes them, and a reader over a slice that never goes past its end.

use bytes::{BufMut, BytesMut};

/// Bytes of the longest 32-bit and 64-bit varint.
const VARINT_BYTES_MAX: u32 = 5;
const VARLONG_BYTES_MAX: u32 = 10;

/// Reads from the front of a slice; every method gives `None` when too little is left.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    /// A 32-bit zigzag varint. None also when it is longer than five bytes or does not fit.
    pub(super) fn varint(&mut self) -> Option<i32> {
        let raw = u32::try_from(self.unsigned(VARINT_BYTES_MAX)?).ok()?;
        Some(((raw >> 1) as i32) ^ -((raw & 1) as i32))
    }

    /// A 64-bit zigzag varint. None also when it is longer than ten bytes.
    pub(super) fn varlong(&mut self) -> Option<i64> {
        let raw = self.unsigned(VARLONG_BYTES_MAX)?;
        Some(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    /// A length and as many bytes; any negative length is null, as in Kafka.
    pub(super) fn nullable_bytes(&mut self) -> Option<Option<&'a [u8]>> {
        match usize::try_from(self.varint()?) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Some(None),
        }
    }

    fn unsigned(&mut self, bytes_max: u32) -> Option<u64> {
        // Most numbers of a record are below 64.
        let (&first, rest) = self.bytes.split_first()?;
        if first < 0x80 {
            self.bytes = rest;
            return Some(u64::from(first));
        }
        let mut value = 0;
        for place in 0..bytes_max {
            let byte = *self.bytes.get(place as usize)?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * place);
            if shifted >> (7 * place) != bits {
                return None;
            }
            value |= shifted;
            if byte < 0x80 {
                self.bytes = &self.bytes[place as usize + 1..];
                return Some(value);
            }
        }
        None
    }
}

/// Appends a 64-bit zigzag varint; of a 32-bit number it makes the same bytes as a 32-bit one would.
pub(super) fn put_varlong(output: &mut BytesMut, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        output.put_u8(raw as u8 | 0x80);
        raw >>= 7;
    }
    output.put_u8(raw as u8);
}

/// How many bytes [`put_varlong`] writes.
pub(super) fn varlong_bytes(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    let bits = 64 - (raw | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}
