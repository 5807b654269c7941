//! The primitives: what is written reads back, and each limit is refused at its edge.

use super::super::*;
use super::payload;
use bytes::BytesMut;
use proptest::prelude::*;

fn written(flexible: bool, values: impl FnOnce(&mut Writer)) -> BytesMut {
    let mut writer = Writer::new(flexible, 0);
    values(&mut writer);
    payload(&writer.finish().unwrap())
}

proptest! {
    #[test]
    fn unsigned_varints(value in any::<u32>(), shift in 0u32..32) {
        let value = value >> shift;
        let bytes = written(true, |writer| writer.unsigned_varint(value));
        let mut reader = Reader::new(&bytes, true);
        prop_assert_eq!(reader.unsigned_varint(), Ok(value));
        prop_assert_eq!(reader.left(), 0);
        for length in 0..bytes.len() {
            prop_assert!(Reader::new(&bytes[..length], true).unsigned_varint().is_err());
        }
    }

    #[test]
    fn strings_and_arrays(flexible: bool, text in prop::option::of(".{0,200}"), numbers: Vec<i32>) {
        let bytes = written(flexible, |writer| {
            writer.nullable_string(text.as_deref());
            writer.i32_array(&numbers);
            writer.end_struct();
        });
        let mut reader = Reader::new(&bytes, flexible);
        prop_assert_eq!(reader.nullable_string(), Ok(text.as_deref()));
        prop_assert_eq!(reader.i32_array(), Ok(numbers));
        prop_assert_eq!(reader.end_struct(), Ok(()));
        prop_assert_eq!(reader.left(), 0);
    }
}

#[test]
fn varints_at_their_edges() {
    let varint = |bytes: &[u8]| Reader::new(bytes, true).unsigned_varint();
    assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
    assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x10]), Err(WireError::OverlongVarint));
    assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(WireError::OverlongVarint));
    assert_eq!(varint(&[0x80]), Err(WireError::TooShort { needed: 1, left: 0 }));

    let zigzag = |bytes: &[u8]| Reader::new(bytes, true).varint();
    assert_eq!((zigzag(&[0x01]), zigzag(&[0x02])), (Ok(-1), Ok(1)));
    assert_eq!(zigzag(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(i32::MIN));
    let long = |bytes: &[u8]| Reader::new(bytes, true).varlong();
    assert_eq!(long(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Ok(i64::MIN));
    assert_eq!(
        long(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
        Err(WireError::OverlongVarint)
    );
}

#[test]
fn lengths_at_their_edges() {
    let plain = |bytes: &'static [u8]| Reader::new(bytes, false);
    assert_eq!(plain(&[0xff, 0xff]).nullable_string(), Ok(None));
    assert_eq!(plain(&[0xff, 0xff]).string(), Err(WireError::UnexpectedNull));
    assert_eq!(plain(&[0xff, 0xfe]).nullable_string(), Err(WireError::NegativeLength(-2)));
    assert_eq!(plain(&[0, 2, b'a']).string(), Err(WireError::TooShort { needed: 2, left: 1 }));
    assert_eq!(plain(&[0, 1, 0xff]).string(), Err(WireError::NotUtf8));
    assert_eq!(plain(&[0xff; 4]).nullable_array_length(4), Ok(None));
    assert_eq!(plain(&[0x80, 0, 0, 0]).nullable_array_length(4), Err(WireError::NegativeLength(i32::MIN)));
    let largest = WireError::TooShort { needed: 4 * 0x7fff_ffff, left: 0 };
    assert_eq!(plain(&[0x7f, 0xff, 0xff, 0xff]).array_length(4), Err(largest));

    let mut long = written(true, |writer| writer.unsigned_varint(STRING_BYTES_MAX as u32 + 2));
    long.extend_from_slice(&vec![b'a'; STRING_BYTES_MAX + 1]);
    assert_eq!(Reader::new(&long, true).string(), Err(WireError::StringTooLong(STRING_BYTES_MAX + 1)));
}

#[test]
fn tagged_fields_are_read_whole_or_skipped() {
    // Field 0 of four bytes, field 9 of two.
    let bytes = [2, 0, 4, 0, 0, 0, 5, 9, 2, 0xaa, 0xbb, 0x77];
    let mut number = 0;
    let mut reader = Reader::new(&bytes, true);
    let read = reader.tagged_fields(|tag, field| {
        if tag == 0 {
            number = field.i32()?;
        }
        Ok(tag == 0)
    });
    assert_eq!((read, number, reader.left()), (Ok(()), 5, 1));

    let short = Reader::new(&bytes, true).tagged_fields(|_, field| field.i16().map(|_| true));
    assert_eq!(short, Err(WireError::TagSize { tag: 0 }));
    let beyond = Reader::new(&bytes, true).tagged_fields(|_, field| field.i64().map(|_| true));
    assert_eq!(beyond, Err(WireError::TooShort { needed: 8, left: 4 }));
    assert_eq!(Reader::new(&bytes, false).end_struct(), Ok(()));
}

#[test]
fn a_frame_counts_its_spliced_slices() {
    let mut writer = Writer::new(false, 0);
    writer.spliced_bytes(&[bytes::Bytes::from_static(b"abc"), bytes::Bytes::from_static(b"de")]);
    writer.i8(9);
    let frame = writer.finish().unwrap();
    assert_eq!(&frame.to_contiguous()[..], b"\0\0\0\x0a\0\0\0\x05abcde\x09");
    assert_eq!(frame.slices().len(), 4);
}
