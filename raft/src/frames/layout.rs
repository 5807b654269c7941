//! The fixed-size pieces of a frame, as `frames.rs` lays them out, and the bounds of what a frame holds.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only version so far.
pub(super) const VERSION: u8 = 1;

/// Bytes of the small area; the same as `net::peer`'s frames have.
pub(super) const SMALL_BYTES: usize = 24;

pub(super) const FORM_FIXED: u8 = 1;
pub(super) const FORM_APPEND: u8 = 2;
pub(super) const FORM_SNAPSHOT: u8 = 3;
pub(super) const FORM_HEARTBEATS: u8 = 4;
pub(super) const FORM_PROTOBUF: u8 = 5;

/// Flag: the message's `reject`. On a heartbeat: the groups may rest (`driver/rest.rs`).
pub(super) const FLAG_REJECT: u8 = 1;

/// Flag of a heartbeat's answer: its sender has no room for entries (`driver/memory.rs`). In other forms the commit term says it.
pub(super) const FLAG_SHORT: u8 = 2;

/// Heartbeats of one frame; 192 KiB.
pub const HEARTBEATS_MAX: usize = 4096;

/// Entries of one append: what an entry takes in memory is more than its head on the wire. A longer message is cut: the follower
/// acknowledges what it got, and raft sends the rest again. A message of 1 MiB holds fewer unless they are nearly all empty.
pub const ENTRIES_MAX: usize = 65_536;

/// Payload parts of one append; a link's frame takes 16,384 parts. Beyond, the rest goes joined in one last part, copied: such
/// payloads have a few dozen bytes each.
pub(super) const PAYLOAD_PARTS_MAX: usize = 16_000;

/// A protobuf part: a configuration of 64 members takes less than 1 KiB. What it becomes in memory can be fifty times as much.
pub(super) const PROTOBUF_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Small {
    pub(super) version: u8,
    pub(super) form: u8,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) count: U32,
    pub(super) from: U64,
    pub(super) to: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Fields {
    pub(super) term: U64,
    pub(super) log_term: U64,
    pub(super) index: U64,
    pub(super) commit: U64,
    pub(super) commit_term: U64,
    pub(super) reject_hint: U64,
    pub(super) request_snapshot: U64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct EntryHead {
    pub(super) index: U64,
    pub(super) term: U64,
    pub(super) payload_bytes: U32,
    pub(super) entry_type: u8,
    pub(super) context_bytes: u8,
    pub(super) context: [u8; CONTEXT_BYTES_MAX],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Row {
    pub(super) group: U64,
    pub(super) from: U64,
    pub(super) to: U64,
    pub(super) term: U64,
    pub(super) commit: U64,
    pub(super) round: U32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) zero: [u8; 2],
}

/// Context of an entry within its head; ours are of one byte (`convert.rs`).
pub(super) const CONTEXT_BYTES_MAX: usize = 2;

const _: () = assert!(size_of::<Small>() == SMALL_BYTES);
const _: () = assert!(size_of::<Fields>() == 56 && size_of::<EntryHead>() == 24 && size_of::<Row>() == 48);
