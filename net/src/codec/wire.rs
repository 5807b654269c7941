//! The primitives of Kafka's wire format: checked readers over untrusted bytes.
//!
//! Pure code, used on whichever shard owns the connection. Invariants: nothing is allocated on the word of a length
//! from the wire before that length was found to fit in the bytes that are left; a whole frame may hold at most
//! [`ELEMENTS_MAX`] array elements; a failed read leaves no partial value behind.

use bytes::{Buf, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// Array elements that one frame may hold in all. An element of a few bytes becomes a struct of up to about 200 bytes, so
/// this bounds the memory one request can claim to some 50 MiB; the largest honest requests (one entry a partition)
/// stay far below.
pub const ELEMENTS_MAX: usize = 1 << 18;

/// Unknown tagged fields that one frame may hold in all. Clients send a handful at most; each costs a map entry.
pub const UNKNOWN_TAGS_MAX: usize = 1024;

/// Longest string of the protocol in bytes, as Kafka has it for both encodings.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Bytes of the longest unsigned varint that holds 32 bits.
const VARINT_BYTES_MAX: usize = 5;

/// Bytes of the longest unsigned varint that holds 64 bits.
const VARLONG_BYTES_MAX: usize = 10;

/// Why bytes from the wire could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A value, or a length that announces one, goes beyond the end of the frame.
    #[error("{needed} bytes announced where {left} are left")]
    TooShort {
        /// Bytes that the value needs at least.
        needed: u64,
        /// Bytes left in the frame.
        left: usize,
    },
    /// A length below −1, or below zero where null is not allowed.
    #[error("length {0} where none below zero is allowed")]
    NegativeLength(i32),
    /// A field that may not be null is null.
    #[error("null where a value is required")]
    UnexpectedNull,
    /// A variable-length integer with more bytes or bits than its type holds.
    #[error("variable-length integer is too long")]
    OverlongVarint,
    /// A string longer than [`STRING_BYTES_MAX`].
    #[error("string of {0} bytes is longer than the protocol allows")]
    StringTooLong(usize),
    /// A string that is not UTF-8.
    #[error("string is not UTF-8")]
    NotUtf8,
    /// More than [`ELEMENTS_MAX`] array elements, or more than [`UNKNOWN_TAGS_MAX`] unknown tagged fields.
    #[error("more array elements or tagged fields than one request may hold")]
    TooManyElements,
    /// A tagged field whose announced size differs from what its value takes.
    #[error("tagged field {tag} does not fill its announced size")]
    TagSize {
        /// Number of the tagged field.
        tag: u32,
    },
}

/// A checked cursor over bytes from the wire. In a flexible version strings, arrays and structs take their compact form.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    flexible: bool,
    limits: Limits,
}

/// What a frame may still claim; counted down over the whole frame.
#[derive(Debug, Clone, Copy)]
struct Limits {
    elements_left: usize,
    unknown_tags_left: usize,
}

impl Limits {
    const FULL: Limits = Limits { elements_left: ELEMENTS_MAX, unknown_tags_left: UNKNOWN_TAGS_MAX };
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self { bytes, flexible, limits: Limits::FULL }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// The next `count` bytes.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            return Err(WireError::TooShort { needed: count as u64, left: self.bytes.len() });
        };
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some((taken, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(WireError::TooShort { needed: N as u64, left: self.bytes.len() });
        };
        self.bytes = rest;
        Ok(*taken)
    }

    /// A signed byte.
    #[inline]
    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.fixed()?))
    }

    /// A boolean: one byte, true unless zero.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.i8()? != 0)
    }

    /// A 16-bit integer, big-endian as all fixed ones.
    #[inline]
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.fixed()?))
    }

    /// A 32-bit integer.
    #[inline]
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }

    /// A 64-bit integer.
    #[inline]
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }

    /// A uuid of 16 bytes.
    #[inline]
    pub fn uuid(&mut self) -> Result<Uuid, WireError> {
        Ok(Uuid::from_bytes(self.fixed()?))
    }

    /// An unsigned varint of at most 32 bits.
    #[inline]
    pub fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        // Nearly all of them take one byte.
        if let [byte, rest @ ..] = self.bytes
            && *byte < 0x80
        {
            self.bytes = rest;
            return Ok(u32::from(*byte));
        }
        let value = self.unsigned_varlong_within(VARINT_BYTES_MAX)?;
        u32::try_from(value).map_err(|_| WireError::OverlongVarint)
    }

    /// A zigzag varint of at most 32 bits.
    pub fn varint(&mut self) -> Result<i32, WireError> {
        let raw = self.unsigned_varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A zigzag varint of at most 64 bits.
    pub fn varlong(&mut self) -> Result<i64, WireError> {
        let raw = self.unsigned_varlong_within(VARLONG_BYTES_MAX)?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    #[inline]
    fn unsigned_varlong_within(&mut self, bytes_max: usize) -> Result<u64, WireError> {
        let mut value: u64 = 0;
        for index in 0..bytes_max {
            let [byte] = self.fixed()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds bit 63 alone.
            if index == VARLONG_BYTES_MAX - 1 && bits > 1 {
                return Err(WireError::OverlongVarint);
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::OverlongVarint)
    }

    /// A string that may not be null.
    #[inline]
    pub fn string(&mut self) -> Result<&'a str, WireError> {
        self.nullable_string()?.ok_or(WireError::UnexpectedNull)
    }

    /// A string or null.
    #[inline]
    pub fn nullable_string(&mut self) -> Result<Option<&'a str>, WireError> {
        let Some(length) = self.string_length()? else { return Ok(None) };
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| WireError::NotUtf8)?;
        Ok(Some(text))
    }

    /// The length of a string whose bytes follow, at most [`STRING_BYTES_MAX`] and known to be there; none for null.
    #[inline]
    pub fn string_length(&mut self) -> Result<Option<usize>, WireError> {
        let length = match self.flexible {
            true => self.compact_length()?,
            false => signed_length(i32::from(self.i16()?))?,
        };
        match length {
            Some(bytes) if bytes > STRING_BYTES_MAX => Err(WireError::StringTooLong(bytes)),
            Some(bytes) => self.fits(bytes, 1).map(Some),
            None => Ok(None),
        }
    }

    /// The length of a byte or records field whose bytes follow and are known to be there; none for null.
    #[inline]
    pub fn bytes_length(&mut self) -> Result<Option<usize>, WireError> {
        let length = self.any_length()?;
        length.map(|bytes| self.fits(bytes, 1)).transpose()
    }

    /// The length of an array that may not be null, whose elements take at least `element_bytes_min` bytes each.
    #[inline]
    pub fn array_length(&mut self, element_bytes_min: usize) -> Result<usize, WireError> {
        self.nullable_array_length(element_bytes_min)?.ok_or(WireError::UnexpectedNull)
    }

    /// The length of an array, none for null. Elements are counted against the frame's [`ELEMENTS_MAX`].
    #[inline]
    pub fn nullable_array_length(&mut self, element_bytes_min: usize) -> Result<Option<usize>, WireError> {
        let Some(count) = self.any_length()? else { return Ok(None) };
        self.fits(count, element_bytes_min.max(1))?;
        let elements_left = self.limits.elements_left.checked_sub(count);
        self.limits.elements_left = elements_left.ok_or(WireError::TooManyElements)?;
        Ok(Some(count))
    }

    /// An array of 32-bit integers that may not be null.
    pub fn i32_array(&mut self) -> Result<Vec<i32>, WireError> {
        let count = self.array_length(4)?;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.i32()?);
        }
        Ok(values)
    }

    /// Ends a struct without known tagged fields: skips those of a newer peer.
    #[inline]
    pub fn end_struct(&mut self) -> Result<(), WireError> {
        self.tagged_fields(|_, _| Ok(false))
    }

    /// Ends a struct. `known` is called with the number and the bytes of each tagged field; it answers whether it knows
    /// the field, and must then have read all of it. Does nothing in a version that is not flexible.
    #[inline]
    pub fn tagged_fields(
        &mut self,
        mut known: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, WireError>,
    ) -> Result<(), WireError> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            let mut field = Reader { bytes: self.take(size)?, flexible: self.flexible, limits: self.limits };
            let is_known = known(tag, &mut field)?;
            self.limits = field.limits;
            if is_known && !field.bytes.is_empty() {
                return Err(WireError::TagSize { tag });
            }
            if !is_known {
                let tags_left = self.limits.unknown_tags_left.checked_sub(1);
                self.limits.unknown_tags_left = tags_left.ok_or(WireError::TooManyElements)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn any_length(&mut self) -> Result<Option<usize>, WireError> {
        match self.flexible {
            true => self.compact_length(),
            false => signed_length(self.i32()?),
        }
    }

    #[inline]
    fn compact_length(&mut self) -> Result<Option<usize>, WireError> {
        Ok((self.unsigned_varint()? as usize).checked_sub(1))
    }

    #[inline]
    fn fits(&self, count: usize, bytes_each: usize) -> Result<usize, WireError> {
        let needed = count as u64 * bytes_each as u64;
        if needed > self.bytes.len() as u64 {
            return Err(WireError::TooShort { needed, left: self.bytes.len() });
        }
        Ok(count)
    }
}

#[inline]
fn signed_length(length: i32) -> Result<Option<usize>, WireError> {
    match length {
        -1 => Ok(None),
        _ => usize::try_from(length).map(Some).map_err(|_| WireError::NegativeLength(length)),
    }
}

/// Reads a frame that it owns, and hands out its strings and byte fields as parts of the frame itself, uncopied.
///
/// A part keeps the whole frame's memory alive: copy what outlives the request (a client id kept with a group member).
#[derive(Debug)]
pub struct FrameReader {
    frame: BytesMut,
    flexible: bool,
    limits: Limits,
}

impl FrameReader {
    /// Reads from the start of `frame`.
    #[must_use]
    pub fn new(frame: BytesMut, flexible: bool) -> Self {
        Self { frame, flexible, limits: Limits::FULL }
    }

    /// From here on read the compact forms, or no longer.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// What has not been read.
    #[must_use]
    pub fn into_rest(self) -> BytesMut {
        self.frame
    }

    /// The bytes that have not been read.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.frame
    }

    /// Reads several values at once; the frame advances past them only when all could be read.
    #[inline]
    pub fn read<T>(
        &mut self,
        values: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        let mut reader = Reader { bytes: &self.frame, flexible: self.flexible, limits: self.limits };
        let value = values(&mut reader)?;
        let consumed = self.frame.len() - reader.left();
        self.limits = reader.limits;
        self.frame.advance(consumed);
        Ok(value)
    }

    /// A string that may not be null.
    #[inline]
    pub fn string(&mut self) -> Result<StrBytes, WireError> {
        self.nullable_string()?.ok_or(WireError::UnexpectedNull)
    }

    /// A string or null.
    #[inline]
    pub fn nullable_string(&mut self) -> Result<Option<StrBytes>, WireError> {
        let Some(length) = self.read(|reader| reader.string_length())? else { return Ok(None) };
        let bytes = self.frame.split_to(length).freeze();
        StrBytes::from_utf8(bytes).map(Some).map_err(|_| WireError::NotUtf8)
    }

    /// A byte or records field, or null.
    #[inline]
    pub fn nullable_bytes(&mut self) -> Result<Option<BytesMut>, WireError> {
        let length = self.read(|reader| reader.bytes_length())?;
        Ok(length.map(|bytes| self.frame.split_to(bytes)))
    }

    /// An array that may not be null, whose elements take at least `element_bytes_min` bytes each.
    #[inline]
    pub fn array<T>(
        &mut self,
        element_bytes_min: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.read(|reader| reader.array_length(element_bytes_min))?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// An array or null, as [`FrameReader::array`].
    pub fn nullable_array<T>(
        &mut self,
        element_bytes_min: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<Vec<T>>, WireError> {
        let Some(count) = self.read(|reader| reader.nullable_array_length(element_bytes_min))? else {
            return Ok(None);
        };
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    /// Ends a struct without known tagged fields.
    #[inline]
    pub fn end_struct(&mut self) -> Result<(), WireError> {
        self.read(|reader| reader.end_struct())
    }
}
