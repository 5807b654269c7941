//! Kafka's primitive types as they stand in the records of `__consumer_offsets`, and in the consumer protocol's
//! blobs.
//!
//! Reading never trusts a length: each is checked against the bytes that are left before anything is allocated.

use bytes::{BufMut, Bytes, BytesMut};

use super::Name;
use super::records::RecordError;

/// Longest string that Kafka's non-flexible formats can hold, in bytes.
pub(super) const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// A cursor over bytes that came from a log or a client.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        if count > self.rest.len() {
            return Err(RecordError::Truncated { wanted: count, left: self.rest.len() });
        }
        let (head, tail) = self.rest.split_at(count);
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, RecordError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, RecordError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, RecordError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, RecordError> {
        self.array().map(u128::from_be_bytes)
    }

    /// An unsigned varint of at most 32 bits.
    pub(super) fn uvarint(&mut self) -> Result<u32, RecordError> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError::BadLength)
    }

    /// The length of a string, byte field or array; none for null. Compact lengths are one more than the length.
    fn length(&mut self, width: Width) -> Result<Option<usize>, RecordError> {
        let signed = match width {
            Width::Compact => i64::from(self.uvarint()?) - 1,
            Width::Short => i64::from(self.i16()?),
            Width::Int => i64::from(self.i32()?),
        };
        match signed {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| RecordError::BadLength),
        }
    }

    pub(super) fn nullable_string(&mut self, flexible: bool) -> Result<Option<Name>, RecordError> {
        let width = if flexible { Width::Compact } else { Width::Short };
        let Some(length) = self.length(width)? else { return Ok(None) };
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| RecordError::BadText)?;
        Ok(Some(text.into()))
    }

    pub(super) fn string(&mut self, flexible: bool) -> Result<Name, RecordError> {
        self.nullable_string(flexible)?.ok_or(RecordError::UnexpectedNull)
    }

    pub(super) fn bytes(&mut self, flexible: bool) -> Result<Bytes, RecordError> {
        let width = if flexible { Width::Compact } else { Width::Int };
        let length = self.length(width)?.ok_or(RecordError::UnexpectedNull)?;
        self.take(length).map(Bytes::copy_from_slice)
    }

    /// The number of elements of an array, each of which takes at least `element_bytes_min` bytes.
    pub(super) fn array_count(
        &mut self,
        flexible: bool,
        element_bytes_min: usize,
    ) -> Result<usize, RecordError> {
        let width = if flexible { Width::Compact } else { Width::Int };
        let count = self.length(width)?.ok_or(RecordError::UnexpectedNull)?;
        if count > self.remaining() / element_bytes_min {
            return Err(RecordError::BadLength);
        }
        Ok(count)
    }

    /// Walks the tagged fields that end a flexible structure, calling `field` with each tag and its bytes.
    pub(super) fn tagged_fields(
        &mut self,
        mut field: impl FnMut(u32, &[u8]) -> Result<(), RecordError>,
    ) -> Result<(), RecordError> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let length = self.uvarint()? as usize;
            field(tag, self.take(length)?)?;
        }
        Ok(())
    }
}

/// How a length is written.
#[derive(Clone, Copy)]
enum Width {
    Short,
    Int,
    Compact,
}

/// Appends an unsigned varint.
pub(super) fn put_uvarint(buffer: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        buffer.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Appends a string with a 16-bit length.
///
/// # Panics When it is longer than [`STRING_BYTES_MAX`]: requests are checked on arrival, and a cut length would
/// damage the log.
pub(super) fn put_string(buffer: &mut BytesMut, text: &str) {
    assert!(text.len() <= STRING_BYTES_MAX, "a string of {} bytes does not fit a record", text.len());
    buffer.put_i16(text.len() as i16);
    buffer.put_slice(text.as_bytes());
}

/// Appends a string with a 16-bit length, or −1 for none.
pub(super) fn put_nullable_string(buffer: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_string(buffer, text),
        None => buffer.put_i16(-1),
    }
}

/// Appends a string with a compact length.
pub(super) fn put_compact_string(buffer: &mut BytesMut, text: &str) {
    assert!(text.len() <= STRING_BYTES_MAX, "a string of {} bytes does not fit a record", text.len());
    put_uvarint(buffer, text.len() as u32 + 1);
    buffer.put_slice(text.as_bytes());
}

/// Appends bytes with a 32-bit length.
pub(super) fn put_bytes(buffer: &mut BytesMut, bytes: &[u8]) {
    let length = i32::try_from(bytes.len()).expect("a field is shorter than the frame it came in");
    buffer.put_i32(length);
    buffer.put_slice(bytes);
}
