//! Writing a frame: small values into one buffer, record slices in between, uncopied; and the frame that comes of it.
//!
//! Pure code, used on whichever shard owns the connection. Invariant: the 4-byte length at the start of a
//! [`ResponseFrame`] counts exactly the bytes of its slices that follow it.

use super::wire::STRING_BYTES_MAX;
use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Why a message could not be written: always a mistake of the side that writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string longer than [`STRING_BYTES_MAX`].
    #[error("string of {0} bytes is longer than the protocol allows")]
    StringTooLong(usize),
    /// A null where the version has none.
    #[error("null where this version of the message requires a value")]
    UnexpectedNull,
    /// A topic named by id in a version that names it by name, or the other way round.
    #[error("topic is named by id where this version wants its name, or by name where it wants its id")]
    WrongTopicReference,
    /// The frame, or an array or byte field in it, has a size beyond 31 bits.
    #[error("message is larger than a frame can be")]
    TooLarge,
    /// A message of another API than the request asked for.
    #[error("{response} answers no {request} request")]
    WrongApi {
        /// Name of the request's API.
        request: &'static str,
        /// Name of the response's API.
        response: &'static str,
    },
    /// The general codec refused the message.
    #[error("{api} v{version}: {reason}")]
    Refused {
        /// Name of the API.
        api: &'static str,
        /// Version of the message.
        version: i16,
        /// What the codec said.
        reason: String,
    },
}

/// One whole frame to send, its 4-byte length included, in slices for a vectored write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseFrame {
    slices: Vec<Bytes>,
    length: usize,
}

impl ResponseFrame {
    /// The slices in order; none is empty.
    #[must_use]
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// The slices in order, to be owned by a write.
    #[must_use]
    pub fn into_slices(self) -> Vec<Bytes> {
        self.slices
    }

    /// Bytes in all slices together.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// All slices in one buffer. Copies: for tests and tools.
    #[must_use]
    pub fn to_contiguous(&self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.length);
        for slice in &self.slices {
            whole.extend_from_slice(slice);
        }
        whole.freeze()
    }
}

/// Writes one frame. Small values go to a buffer of its own, record slices are spliced in uncopied.
///
/// A value that cannot be written makes [`Writer::finish`] fail, so that callers need not check each write.
#[derive(Debug)]
pub struct Writer {
    /// The 4-byte length, then all bytes but the spliced ones.
    own: BytesMut,
    /// Spliced slices, each with its position in `own`.
    spliced: Vec<(usize, Bytes)>,
    flexible: bool,
    error: Option<EncodeError>,
}

impl Writer {
    /// A frame whose own bytes are expected to take about `capacity` bytes.
    #[must_use]
    pub fn new(flexible: bool, capacity: usize) -> Self {
        let mut own = BytesMut::with_capacity(capacity + 4);
        own.put_i32(0);
        Self { own, spliced: Vec::new(), flexible, error: None }
    }

    /// From here on write the compact forms, or no longer.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// The buffer behind this writer, for the codec of the cold messages. Append only.
    pub(super) fn own_buffer(&mut self) -> &mut BytesMut {
        &mut self.own
    }

    /// A signed byte.
    #[inline]
    pub fn i8(&mut self, value: i8) {
        self.own.put_i8(value);
    }

    /// A boolean in one byte.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.own.put_u8(u8::from(value));
    }

    /// A 16-bit integer.
    #[inline]
    pub fn i16(&mut self, value: i16) {
        self.own.put_i16(value);
    }

    /// A 32-bit integer.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.own.put_i32(value);
    }

    /// A 64-bit integer.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.own.put_i64(value);
    }

    /// A uuid of 16 bytes.
    #[inline]
    pub fn uuid(&mut self, value: Uuid) {
        self.own.put_slice(value.as_bytes());
    }

    /// An unsigned varint.
    #[inline]
    pub fn unsigned_varint(&mut self, value: u32) {
        let mut rest = value;
        while rest >= 0x80 {
            self.own.put_u8((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.own.put_u8(rest as u8);
    }

    /// A string that is there.
    #[inline]
    pub fn string(&mut self, value: &str) {
        let length = value.len();
        if length > STRING_BYTES_MAX {
            self.error.get_or_insert(EncodeError::StringTooLong(length));
            return;
        }
        match self.flexible {
            true => self.unsigned_varint(length as u32 + 1),
            false => self.i16(length as i16),
        }
        self.own.put_slice(value.as_bytes());
    }

    /// A string or null.
    #[inline]
    pub fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            Some(text) => self.string(text),
            None if self.flexible => self.unsigned_varint(0),
            None => self.i16(-1),
        }
    }

    /// The length of an array or of a byte field that follows.
    #[inline]
    pub fn length(&mut self, length: usize) {
        // One more than the length must fit in 31 bits too, as Kafka reads it into an `int`.
        if length >= i32::MAX as usize {
            self.error.get_or_insert(EncodeError::TooLarge);
            return;
        }
        match self.flexible {
            true => self.unsigned_varint(length as u32 + 1),
            false => self.i32(length as i32),
        }
    }

    /// A null array or byte field.
    #[inline]
    pub fn null_length(&mut self) {
        match self.flexible {
            true => self.unsigned_varint(0),
            false => self.i32(-1),
        }
    }

    /// An array of 32-bit integers.
    #[inline]
    pub fn i32_array(&mut self, values: &[i32]) {
        self.length(values.len());
        for value in values {
            self.i32(*value);
        }
    }

    /// Makes [`Writer::finish`] fail with `error`, unless an earlier one does.
    pub fn refuse(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// A byte field made of `slices`, which go out as they are.
    #[inline]
    pub fn spliced_bytes(&mut self, slices: &[Bytes]) {
        self.length(slices.iter().map(Bytes::len).sum());
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            self.spliced.push((self.own.len(), slice.clone()));
        }
    }

    /// Ends a struct that has no tagged field to write. Nothing in a version that is not flexible.
    #[inline]
    pub fn end_struct(&mut self) {
        if self.flexible {
            self.own.put_u8(0);
        }
    }

    /// A tagged field whose value, written by `value`, is small.
    pub fn tagged_field(&mut self, tag: u32, value: impl FnOnce(&mut Writer)) {
        let mut field = Writer {
            own: BytesMut::with_capacity(64),
            spliced: Vec::new(),
            flexible: self.flexible,
            error: None,
        };
        value(&mut field);
        debug_assert!(field.spliced.is_empty(), "records are never in a tagged field");
        if let Some(error) = field.error {
            self.error.get_or_insert(error);
        }
        self.unsigned_varint(tag);
        self.unsigned_varint(u32::try_from(field.own.len()).unwrap_or(u32::MAX));
        self.own.put_slice(&field.own);
    }

    /// Fills in the length of the frame and cuts its slices.
    pub fn finish(mut self) -> Result<ResponseFrame, EncodeError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let spliced_bytes: usize = self.spliced.iter().map(|(_, slice)| slice.len()).sum();
        let length = self.own.len() + spliced_bytes;
        let announced = i32::try_from(length - 4).map_err(|_| EncodeError::TooLarge)?;
        self.own[..4].copy_from_slice(&announced.to_be_bytes());

        let own = self.own.freeze();
        let mut slices = Vec::with_capacity(2 * self.spliced.len() + 1);
        let mut start = 0;
        for (position, slice) in self.spliced {
            if position > start {
                slices.push(own.slice(start..position));
            }
            slices.push(slice);
            start = position;
        }
        if start < own.len() {
            slices.push(own.slice(start..));
        }
        Ok(ResponseFrame { slices, length })
    }
}
