//! An append as a frame: heads of the entries in one part, their payloads a part each.

use bytes::{Bytes, BytesMut};
use protobuf::ProtobufEnum as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use zerocopy::{FromBytes, IntoBytes};

use super::layout::{
    CONTEXT_BYTES_MAX, ENTRIES_MAX, EntryHead, FORM_APPEND, Fields, PAYLOAD_PARTS_MAX, Small,
};
use super::{Encoded, FrameFault, fields_of, kind_of, message_of, small_of};

pub(super) fn encode_append(message: &mut Message) -> Encoded {
    let mut entries = message.take_entries().into_vec();
    entries.truncate(ENTRIES_MAX);
    let head_bytes = size_of::<Fields>() + entries.len() * size_of::<EntryHead>();
    let mut heads = BytesMut::with_capacity(head_bytes);
    heads.extend_from_slice(fields_of(message).as_bytes());
    let small = small_of(message, FORM_APPEND, entries.len());
    let mut parts = Vec::with_capacity(1 + entries.len().min(PAYLOAD_PARTS_MAX));
    parts.push(Bytes::new());
    let mut joined = BytesMut::new();
    for entry in entries {
        heads.extend_from_slice(head_of(&entry).as_bytes());
        if entry.data.is_empty() {
            continue;
        }
        if parts.len() < PAYLOAD_PARTS_MAX {
            parts.push(entry.data);
        } else {
            joined.extend_from_slice(&entry.data);
        }
    }
    parts[0] = heads.freeze();
    if !joined.is_empty() {
        parts.push(joined.freeze());
    }
    Encoded { small, parts }
}

fn head_of(entry: &Entry) -> EntryHead {
    let mut context = [0; CONTEXT_BYTES_MAX];
    context[..entry.context.len()].copy_from_slice(&entry.context);
    EntryHead {
        index: entry.index.into(),
        term: entry.term.into(),
        payload_bytes: u32::try_from(entry.data.len()).expect("checked by fits_head").into(),
        entry_type: u8::try_from(entry.get_entry_type().value()).expect("raft has three types of entry"),
        context_bytes: u8::try_from(entry.context.len()).expect("checked by fits_head"),
        context,
    }
}

pub(super) fn decode_append(small: &Small, parts: Vec<Bytes>) -> Result<Message, FrameFault> {
    if kind_of(small.kind)? != MessageType::MsgAppend {
        return Err(FrameFault::Kind(small.kind));
    }
    let mut parts = parts.into_iter();
    let first = parts.next().ok_or(FrameFault::Length)?;
    let (fields, heads) = Fields::read_from_prefix(&first).map_err(|_| FrameFault::Length)?;
    let heads = <[EntryHead]>::ref_from_bytes(heads).map_err(|_| FrameFault::Length)?;
    if heads.len() > ENTRIES_MAX || heads.len() != small.count.get() as usize {
        return Err(FrameFault::Length);
    }
    let mut message = message_of(small, &fields)?;
    let mut payloads = Payloads { current: Bytes::new(), rest: parts };
    let entries: Result<Vec<Entry>, FrameFault> =
        heads.iter().map(|head| entry_of(head, &mut payloads)).collect();
    message.set_entries(entries?.into());
    if payloads.is_used_up() { Ok(message) } else { Err(FrameFault::Length) }
}

fn entry_of(head: &EntryHead, payloads: &mut Payloads) -> Result<Entry, FrameFault> {
    let mut entry = Entry::default();
    let kind = EntryType::from_i32(i32::from(head.entry_type)).ok_or(FrameFault::Kind(head.entry_type))?;
    entry.set_entry_type(kind);
    entry.index = head.index.get();
    entry.term = head.term.get();
    let context = head.context.get(..usize::from(head.context_bytes)).ok_or(FrameFault::Length)?;
    if !context.is_empty() {
        entry.context = Bytes::copy_from_slice(context);
    }
    entry.data = payloads.take(head.payload_bytes.get() as usize)?;
    Ok(entry)
}

/// Cuts payloads from parts. One lies within one part.
struct Payloads {
    current: Bytes,
    rest: std::vec::IntoIter<Bytes>,
}

impl Payloads {
    fn take(&mut self, bytes: usize) -> Result<Bytes, FrameFault> {
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        if self.current.is_empty() {
            self.current = self.rest.next().ok_or(FrameFault::Length)?;
        }
        if bytes > self.current.len() { Err(FrameFault::Length) } else { Ok(self.current.split_to(bytes)) }
    }

    fn is_used_up(&mut self) -> bool {
        self.current.is_empty() && self.rest.next().is_none()
    }
}
