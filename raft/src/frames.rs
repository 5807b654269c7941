//! Raft messages as frames between nodes: a small fixed area and slices, so that no record byte is copied.
//!
//! Pure, on any shard. A peer link (`net::peer`) carries the small area and the parts as they are, with a group and a checksum of
//! its own. All numbers are little-endian.
//!
//! ```text
//! small:  0 version u8   1 form u8   2 message type u8   3 flags u8   4 count u32   8 from u64   16 to u64
//!
//! form 1, fixed:       part 0 = fields (56)                       [part 1 = context, if there is one]
//! form 2, append:      part 0 = fields (56), count × head (24)    then the payloads that are not empty, in order, a part each
//! form 3, snapshot:    part 0 = fields (56)   part 1 = eraftpb.SnapshotMetadata   part 2 = the snapshot's data
//! form 4, heartbeats:  part 0 = count × row (48)                  (from, to, type and flags are zero: each row has its own)
//! form 5, protobuf:    part 0 = eraftpb.Message                   (what no other form can say; raft-rs makes none such)
//!
//! fields: term, log term, index, commit, commit term, reject hint, requested snapshot: u64 each
//! head:   index u64   term u64   payload bytes u32   entry type u8   context bytes u8   context [2]
//! row:    group u64   from u64   to u64   term u64   commit u64   round u32   type u8   flags u8   zero [2]
//! ```
//!
//! Invariants: a newer version is refused (SAFETY.md, rule 25); every length is checked before anything is allocated for it, and
//! what is allocated is bounded by what was received; bytes from a peer never cause a panic. Whether a message that could be
//! read makes sense is for `guard.rs` to say.

mod append;
mod layout;

use bytes::{Bytes, BytesMut};
use chronik_wal::types::GroupId;
use protobuf::{Message as _, ProtobufEnum as _};
use raft::eraftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use zerocopy::{FromBytes, IntoBytes};

use self::append::{decode_append, encode_append};
use self::layout::{
    CONTEXT_BYTES_MAX, FLAG_REJECT, FLAG_SHORT, FORM_APPEND, FORM_FIXED, FORM_HEARTBEATS, FORM_PROTOBUF,
    FORM_SNAPSHOT, Fields, PROTOBUF_BYTES_MAX, Row, SMALL_BYTES, Small, VERSION,
};
pub use self::layout::{ENTRIES_MAX, HEARTBEATS_MAX};
use crate::driver::memory::SHORT;

/// A message as a link carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Small fixed fields.
    pub small: [u8; SMALL_BYTES],
    /// The rest. Payloads are the very `Bytes` of the message.
    pub parts: Vec<Bytes>,
}

/// Why a frame from a peer is no message. The link was intact (it has a checksum): the peer is wrong, or newer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The version is not ours.
    #[error(
        "version {0} of a raft frame; this node knows version {VERSION}: finish the upgrade of all nodes"
    )]
    Version(u8),
    /// The form is unknown or does not belong here.
    #[error("form {0} of a raft frame is unknown or does not belong here")]
    Form(u8),
    /// There is no such type of message or entry, or not in this place.
    #[error("type {0} of a raft message or entry is unknown or does not belong here")]
    Kind(u8),
    /// A length or a count does not fit what was received.
    #[error("a length or a count of a raft frame does not fit")]
    Length,
    /// The protobuf part cannot be read.
    #[error("the protobuf part of a raft frame cannot be read")]
    Protobuf,
}

/// Puts a message into the form that suits it. Payloads of entries are moved, not copied.
#[must_use]
pub fn encode(mut message: Message) -> Encoded {
    if has_odd_fields(&message) {
        return encode_protobuf(&message);
    }
    if message.get_msg_type() == MessageType::MsgAppend {
        if !message.context.is_empty() || !message.entries.iter().all(fits_head) {
            return encode_protobuf(&message);
        }
        return encode_append(&mut message);
    }
    if !message.entries.is_empty() {
        return encode_protobuf(&message);
    }
    if message.get_msg_type() == MessageType::MsgSnapshot {
        return encode_snapshot(&mut message);
    }
    let mut parts = vec![Bytes::copy_from_slice(fields_of(&message).as_bytes())];
    if !message.context.is_empty() {
        parts.push(std::mem::take(&mut message.context));
    }
    Encoded { small: small_of(&message, FORM_FIXED, 0), parts }
}

/// Reads a message. The group is named by the link's frame; it is for the log line that a fault may be worth.
///
/// # Errors
/// When this is no message of this version.
pub fn decode(group: GroupId, small: &[u8; SMALL_BYTES], parts: Vec<Bytes>) -> Result<Message, FrameFault> {
    let small = read_small(small)?;
    let result = match small.form {
        FORM_FIXED => decode_fixed(&small, parts),
        FORM_APPEND => decode_append(&small, parts),
        FORM_SNAPSHOT => decode_snapshot(&small, parts),
        FORM_PROTOBUF => decode_protobuf(&small, parts),
        form => Err(FrameFault::Form(form)),
    };
    if let Err(fault) = &result {
        tracing::debug!(group = group.0, %fault, "a frame of a peer is no raft message");
    }
    result
}

/// Puts heartbeats and their answers into frames, in order. They have no context: those that have one go alone, by [`encode`].
#[must_use]
pub fn encode_heartbeats(heartbeats: &[(GroupId, Message)]) -> Vec<Encoded> {
    let frame_of = |chunk: &[(GroupId, Message)]| {
        let mut rows = BytesMut::with_capacity(size_of_val(chunk).min(chunk.len() * size_of::<Row>()));
        for (group, message) in chunk {
            rows.extend_from_slice(row_of(*group, message).as_bytes());
        }
        let count = u32::try_from(chunk.len()).expect("a chunk is bounded");
        let small = Small {
            version: VERSION,
            form: FORM_HEARTBEATS,
            kind: 0,
            flags: 0,
            count: count.into(),
            from: 0.into(),
            to: 0.into(),
        };
        Encoded { small: zerocopy::transmute!(small), parts: vec![rows.freeze()] }
    };
    heartbeats.chunks(HEARTBEATS_MAX).map(frame_of).collect()
}

/// Reads a frame of heartbeats.
///
/// # Errors
/// When this is no such frame of this version; none of its rows counts then.
pub fn decode_heartbeats(
    small: &[u8; SMALL_BYTES],
    parts: &[Bytes],
) -> Result<Vec<(GroupId, Message)>, FrameFault> {
    let small = read_small(small)?;
    if small.form != FORM_HEARTBEATS {
        return Err(FrameFault::Form(small.form));
    }
    let [part] = parts else { return Err(FrameFault::Length) };
    let rows = <[Row]>::ref_from_bytes(part).map_err(|_| FrameFault::Length)?;
    if rows.len() > HEARTBEATS_MAX || rows.len() != small.count.get() as usize {
        return Err(FrameFault::Length);
    }
    rows.iter().map(heartbeat_of).collect()
}

/// Fields that only protobuf can say: none of ours has them.
fn has_odd_fields(message: &Message) -> bool {
    let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot && message.context.is_empty();
    message.has_snapshot() != is_snapshot
        || !unknown_is_empty(&message.get_snapshot().unknown_fields)
        || message.priority != 0
        || message.deprecated_priority != 0
        || !unknown_is_empty(&message.unknown_fields)
}

fn unknown_is_empty(unknown: &protobuf::UnknownFields) -> bool {
    unknown.fields.is_none()
}

fn fits_head(entry: &Entry) -> bool {
    entry.context.len() <= CONTEXT_BYTES_MAX
        && !entry.sync_log
        && unknown_is_empty(&entry.unknown_fields)
        && u32::try_from(entry.data.len()).is_ok()
}

fn small_of(message: &Message, form: u8, count: usize) -> [u8; SMALL_BYTES] {
    let small = Small {
        version: VERSION,
        form,
        kind: kind_byte(message.get_msg_type()),
        flags: if message.reject { FLAG_REJECT } else { 0 },
        count: u32::try_from(count).expect("counts are bounded").into(),
        from: message.from.into(),
        to: message.to.into(),
    };
    zerocopy::transmute!(small)
}

fn read_small(small: &[u8; SMALL_BYTES]) -> Result<Small, FrameFault> {
    let small: Small = zerocopy::transmute!(*small);
    if small.version == VERSION { Ok(small) } else { Err(FrameFault::Version(small.version)) }
}

fn kind_byte(kind: MessageType) -> u8 {
    u8::try_from(kind.value()).expect("raft has fewer than 256 types of message")
}

fn kind_of(byte: u8) -> Result<MessageType, FrameFault> {
    MessageType::from_i32(i32::from(byte)).ok_or(FrameFault::Kind(byte))
}

fn fields_of(message: &Message) -> Fields {
    Fields {
        term: message.term.into(),
        log_term: message.log_term.into(),
        index: message.index.into(),
        commit: message.commit.into(),
        commit_term: message.commit_term.into(),
        reject_hint: message.reject_hint.into(),
        request_snapshot: message.request_snapshot.into(),
    }
}

fn message_of(small: &Small, fields: &Fields) -> Result<Message, FrameFault> {
    let mut message = Message::default();
    message.set_msg_type(kind_of(small.kind)?);
    message.from = small.from.get();
    message.to = small.to.get();
    message.reject = small.flags & FLAG_REJECT != 0;
    message.term = fields.term.get();
    message.log_term = fields.log_term.get();
    message.index = fields.index.get();
    message.commit = fields.commit.get();
    message.commit_term = fields.commit_term.get();
    message.reject_hint = fields.reject_hint.get();
    message.request_snapshot = fields.request_snapshot.get();
    Ok(message)
}

fn decode_fixed(small: &Small, mut parts: Vec<Bytes>) -> Result<Message, FrameFault> {
    let context = if parts.len() == 2 { parts.pop() } else { None };
    let [part] = parts.as_slice() else { return Err(FrameFault::Length) };
    let fields = Fields::read_from_bytes(part).map_err(|_| FrameFault::Length)?;
    let mut message = message_of(small, &fields)?;
    // An append has a form of its own; a snapshot without one would only be taken for an odd one later.
    if matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgSnapshot) {
        return Err(FrameFault::Kind(small.kind));
    }
    message.context = context.unwrap_or_default();
    Ok(message)
}

fn encode_snapshot(message: &mut Message) -> Encoded {
    let mut snapshot = message.take_snapshot();
    let fields = Bytes::copy_from_slice(fields_of(message).as_bytes());
    let meta = snapshot.take_metadata().write_to_bytes().expect("metadata has no required fields");
    let data = std::mem::take(&mut snapshot.data);
    Encoded { small: small_of(message, FORM_SNAPSHOT, 0), parts: vec![fields, meta.into(), data] }
}

fn decode_snapshot(small: &Small, parts: Vec<Bytes>) -> Result<Message, FrameFault> {
    if kind_of(small.kind)? != MessageType::MsgSnapshot {
        return Err(FrameFault::Kind(small.kind));
    }
    let [fields, meta, data]: [Bytes; 3] = parts.try_into().map_err(|_| FrameFault::Length)?;
    let fields = Fields::read_from_bytes(&fields).map_err(|_| FrameFault::Length)?;
    if meta.len() > PROTOBUF_BYTES_MAX {
        return Err(FrameFault::Length);
    }
    let mut snapshot = Snapshot::default();
    snapshot.set_metadata(SnapshotMetadata::parse_from_bytes(&meta).map_err(|_| FrameFault::Protobuf)?);
    snapshot.data = data;
    let mut message = message_of(small, &fields)?;
    message.set_snapshot(snapshot);
    Ok(message)
}

fn encode_protobuf(message: &Message) -> Encoded {
    let part = message.write_to_bytes().expect("a message without required fields is written");
    Encoded { small: small_of(message, FORM_PROTOBUF, 0), parts: vec![part.into()] }
}

fn decode_protobuf(small: &Small, parts: Vec<Bytes>) -> Result<Message, FrameFault> {
    let [part] = parts.as_slice() else { return Err(FrameFault::Length) };
    if part.len() > PROTOBUF_BYTES_MAX {
        return Err(FrameFault::Length);
    }
    // Slices of the part, where the plain call would copy.
    let message = Message::parse_from_carllerche_bytes(part).map_err(|_| FrameFault::Protobuf)?;
    if kind_byte(message.get_msg_type()) != small.kind {
        return Err(FrameFault::Kind(small.kind));
    }
    Ok(message)
}

fn row_of(group: GroupId, message: &Message) -> Row {
    debug_assert!(message.context.is_empty() && message.entries.is_empty(), "heartbeats carry nothing");
    Row {
        group: group.0.into(),
        from: message.from.into(),
        to: message.to.into(),
        term: message.term.into(),
        commit: message.commit.into(),
        round: u32::try_from(message.index).unwrap_or(0).into(),
        kind: kind_byte(message.get_msg_type()),
        flags: if message.reject { FLAG_REJECT } else { 0 }
            | if message.commit_term == SHORT { FLAG_SHORT } else { 0 },
        zero: [0; 2],
    }
}

fn heartbeat_of(row: &Row) -> Result<(GroupId, Message), FrameFault> {
    let kind = kind_of(row.kind)?;
    if !matches!(kind, MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse) {
        return Err(FrameFault::Kind(row.kind));
    }
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = row.from.get();
    message.to = row.to.get();
    message.term = row.term.get();
    message.commit = row.commit.get();
    message.index = u64::from(row.round.get());
    message.reject = row.flags & FLAG_REJECT != 0;
    message.commit_term = if row.flags & FLAG_SHORT != 0 { SHORT } else { 0 };
    Ok((GroupId(row.group.get()), message))
}

#[cfg(test)]
mod tests;
