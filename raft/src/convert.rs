//! How an entry of a group's log looks to raft-rs, and back.
//!
//! | `EntryKind`                  | raft entry type | context | data |
//! |------------------------------|-----------------|---------|------|
//! | `Empty`                      | normal          | empty   | empty |
//! | `Batch`                      | normal          | empty   | the batch, base offset and epoch patched in |
//! | `LogStart`                   | normal          | `[2]`   | the new log start offset, i64 little-endian |
//! | `ConfChange`, `ConfChangeV2` | by name         | empty   | protobuf (a `ConfChangeV2` may be empty: leave joint) |
//!
//! Payloads are `Bytes` on both sides: no byte of a batch is copied.

use bytes::Bytes;
use chronik_wal::entry::{EntryKind, LogEntry};
use chronik_wal::types::{KafkaOffset, RaftIndex, Term};
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType};

/// Context of an entry that moves the log start: its `EntryKind` number.
const CONTEXT_LOG_START: &[u8] = &[EntryKind::LogStart as u8];

/// Bytes of a record batch v2 header; a shorter payload is none.
const BATCH_HEADER_BYTES: usize = 61;

/// Bytes of a batch before the length field's count begins: base offset (8) and the length itself (4).
const BATCH_PREFIX_BYTES: usize = 12;

/// Offsets above this are refused from peers, so that sums of offsets never overflow.
const OFFSET_MAX: i64 = 1 << 62;

/// An entry as raft-rs has it, with index and term.
pub(crate) fn to_raft(entry: &LogEntry) -> Entry {
    let mut raft_entry = to_proposal(entry.kind, entry.data.clone());
    raft_entry.index = entry.index.0;
    raft_entry.term = entry.term.0;
    raft_entry
}

/// An entry to propose: raft-rs sets index and term.
pub(crate) fn to_proposal(kind: EntryKind, data: Bytes) -> Entry {
    let mut raft_entry = Entry::default();
    match kind {
        EntryKind::Empty | EntryKind::Batch => {}
        EntryKind::LogStart => raft_entry.context = Bytes::from_static(CONTEXT_LOG_START),
        EntryKind::ConfChange => raft_entry.set_entry_type(EntryType::EntryConfChange),
        EntryKind::ConfChangeV2 => raft_entry.set_entry_type(EntryType::EntryConfChangeV2),
    }
    raft_entry.data = data;
    raft_entry
}

/// What a raft entry is; none for a context or a mixture that this version does not know.
pub(crate) fn kind_of(entry: &Entry) -> Option<EntryKind> {
    match (entry.get_entry_type(), entry.context.as_ref()) {
        (EntryType::EntryNormal, []) if entry.data.is_empty() => Some(EntryKind::Empty),
        (EntryType::EntryNormal, []) => Some(EntryKind::Batch),
        (EntryType::EntryNormal, CONTEXT_LOG_START) => Some(EntryKind::LogStart),
        (EntryType::EntryConfChange, []) => Some(EntryKind::ConfChange),
        (EntryType::EntryConfChangeV2, []) => Some(EntryKind::ConfChangeV2),
        _ => None,
    }
}

/// A raft entry as the log keeps it; `next_offset` is the offset after the entry before.
///
/// # Panics
/// When the entry is malformed: entries are checked by [`is_well_formed`] before raft-rs sees them.
pub(crate) fn from_raft(entry: Entry, next_offset: KafkaOffset) -> LogEntry {
    let kind = kind_of(&entry).expect("entries are checked before raft sees them");
    let base_offset = match kind {
        EntryKind::Batch => batch_base_offset(&entry.data),
        _ => next_offset,
    };
    LogEntry { index: RaftIndex(entry.index), term: Term(entry.term), kind, base_offset, data: entry.data }
}

/// The offset after this raft entry, if it is a batch; none for every other kind.
pub(crate) fn offset_after(entry: &Entry) -> Option<KafkaOffset> {
    (kind_of(entry) == Some(EntryKind::Batch))
        .then(|| batch_base_offset(&entry.data).plus(i64::from(batch_last_delta(&entry.data)) + 1))
}

/// Base offset in a batch's header (bytes 0..8).
pub(crate) fn batch_base_offset(batch: &[u8]) -> KafkaOffset {
    KafkaOffset(i64::from_be_bytes(batch[0..8].try_into().expect("a batch has a whole header")))
}

/// Leader epoch in a batch's header (bytes 12..16).
pub(crate) fn batch_leader_epoch(batch: &[u8]) -> i32 {
    i32::from_be_bytes(batch[12..16].try_into().expect("a batch has a whole header"))
}

fn batch_last_delta(batch: &[u8]) -> i32 {
    i32::from_be_bytes(batch[23..27].try_into().expect("a batch has a whole header"))
}

/// Whether this payload has the shape of one record batch v2. Its CRC is not checked here: the peer link's frame has its own.
pub(crate) fn is_batch(batch: &[u8]) -> bool {
    if batch.len() < BATCH_HEADER_BYTES {
        return false;
    }
    let length = i32::from_be_bytes(batch[8..12].try_into().expect("four bytes"));
    let is_whole = usize::try_from(length).is_ok_and(|length| length + BATCH_PREFIX_BYTES == batch.len());
    let base = batch_base_offset(batch).0;
    is_whole && batch[16] == 2 && (0..OFFSET_MAX).contains(&base) && batch_last_delta(batch) >= 0
}

/// Whether this entry, from a peer, can be stored and applied.
pub(crate) fn is_well_formed(entry: &Entry) -> bool {
    match kind_of(entry) {
        None => false,
        Some(EntryKind::Empty) => true,
        Some(EntryKind::Batch) => is_batch(&entry.data),
        Some(EntryKind::LogStart) => entry.data.len() == size_of::<i64>(),
        Some(EntryKind::ConfChange | EntryKind::ConfChangeV2) => configuration_change(entry).is_some(),
    }
}

/// The configuration change that an entry holds; none when it cannot be read.
pub(crate) fn configuration_change(entry: &Entry) -> Option<ConfChangeV2> {
    use raft::eraftpb::EntryType::{EntryConfChange, EntryConfChangeV2};
    match entry.get_entry_type() {
        EntryConfChange => {
            let mut change = ConfChange::default();
            change.merge_from_bytes(&entry.data).ok()?;
            Some(raft_v2(&change))
        }
        EntryConfChangeV2 => {
            let mut change = ConfChangeV2::default();
            change.merge_from_bytes(&entry.data).ok()?;
            Some(change)
        }
        _ => None,
    }
}

fn raft_v2(change: &ConfChange) -> ConfChangeV2 {
    let mut single = raft::eraftpb::ConfChangeSingle::default();
    single.set_change_type(change.get_change_type());
    single.node_id = change.node_id;
    let mut v2 = ConfChangeV2::default();
    v2.context = change.context.clone();
    v2.set_changes(vec![single].into());
    v2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::batch_bytes;

    #[test]
    fn every_kind_survives_the_way_to_raft_and_back() {
        let kinds = [
            (EntryKind::Empty, Bytes::new()),
            (EntryKind::Batch, batch_bytes(7, 3, 2, 10)),
            (EntryKind::LogStart, Bytes::copy_from_slice(&5i64.to_le_bytes())),
            (EntryKind::ConfChange, Bytes::from(ConfChange::default().write_to_bytes().unwrap())),
            (EntryKind::ConfChangeV2, Bytes::new()),
        ];
        for (kind, data) in kinds {
            let entry =
                LogEntry { index: RaftIndex(4), term: Term(3), kind, base_offset: KafkaOffset(7), data };
            let raft_entry = to_raft(&entry);
            assert!(is_well_formed(&raft_entry), "{kind:?}");
            assert_eq!(from_raft(raft_entry, KafkaOffset(7)), entry);
        }
    }

    #[test]
    fn what_is_unknown_or_malformed_is_told_apart() {
        let mut unknown = Entry::default();
        unknown.context = Bytes::from_static(&[9]);
        assert!(!is_well_formed(&unknown));
        let mut short = Entry::default();
        short.data = Bytes::from_static(&[0; 60]);
        assert!(!is_well_formed(&short));
        let mut cut = Entry::default();
        cut.data = batch_bytes(0, 1, 1, 10).slice(..70);
        assert!(!is_well_formed(&cut));
        let mut start = to_proposal(EntryKind::LogStart, Bytes::from_static(&[1, 2]));
        start.index = 1;
        assert!(!is_well_formed(&start));
        let mut change = Entry::default();
        change.set_entry_type(EntryType::EntryConfChangeV2);
        change.data = Bytes::from_static(&[0xff, 0xff, 0xff]);
        assert!(!is_well_formed(&change));
    }
}
