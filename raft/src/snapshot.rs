//! What a group's snapshot holds, and which configurations are usable.
//!
//! A snapshot lies at the log start (SAFETY.md, rule 9): the retained log follows by ordinary appends. So its data is small:
//!
//! | bytes | field |
//! |-------|-------|
//! | 0     | version, 1 |
//! | 1..9  | log start offset, i64 little-endian |
//! | 9..17 | offset that the entry after the snapshot's index begins at, i64 little-endian |
//! | 17..25| index of the entry that made the configuration, u64 little-endian |
//! | 25..  | `GroupState::snapshot_data`: producer state or metadata image as of the log start, opaque here |

use bytes::{BufMut, Bytes, BytesMut};
use chronik_wal::entry::{GroupState, LogStart};
use chronik_wal::types::{KafkaOffset, RaftIndex, Term};
use raft::eraftpb::{ConfState, Snapshot};

/// The only version of the data so far.
const VERSION: u8 = 1;

/// Bytes before the opaque part.
const HEADER_BYTES: usize = 25;

/// Members of one configuration, learners included; Kafka's own replica lists are far shorter. Bounds what a peer can make us hold.
const MEMBERS_MAX: usize = 64;

/// A snapshot's data, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotContent {
    pub log_start: LogStart,
    pub configuration_index: RaftIndex,
    pub data: Bytes,
}

/// The data field of the snapshot of a group in this state.
pub(crate) fn encode_data(state: &GroupState) -> Bytes {
    let mut data = BytesMut::with_capacity(HEADER_BYTES + state.snapshot_data.len());
    data.put_u8(VERSION);
    data.put_i64_le(state.log_start.offset.0);
    data.put_i64_le(state.log_start.base_offset.0);
    data.put_u64_le(state.configuration_index.0);
    data.put_slice(&state.snapshot_data);
    data.freeze()
}

/// Reads a snapshot from a peer; none when it is malformed.
pub(crate) fn read(snapshot: &Snapshot) -> Option<SnapshotContent> {
    let meta = snapshot.get_metadata();
    let data = &snapshot.data;
    if data.len() < HEADER_BYTES || data[0] != VERSION || meta.index == 0 || meta.term == 0 {
        return None;
    }
    let number = |at: usize| -> [u8; 8] { data[at..at + 8].try_into().expect("eight bytes") };
    let log_start = LogStart {
        index: RaftIndex(meta.index),
        term: Term(meta.term),
        offset: KafkaOffset(i64::from_le_bytes(number(1))),
        base_offset: KafkaOffset(i64::from_le_bytes(number(9))),
    };
    let in_range = 0 <= log_start.base_offset.0 && log_start.base_offset <= log_start.offset;
    if !in_range || configuration_fault(meta.get_conf_state()).is_some() {
        return None;
    }
    let configuration_index = RaftIndex(u64::from_le_bytes(number(17)));
    Some(SnapshotContent { log_start, configuration_index, data: data.slice(HEADER_BYTES..) })
}

/// What is wrong with a configuration; none when raft-rs can restore it. (raft-rs stops the process at one that it cannot.)
pub(crate) fn configuration_fault(state: &ConfState) -> Option<&'static str> {
    let (voters, outgoing) = (state.get_voters(), state.get_voters_outgoing());
    let (learners, learners_next) = (state.get_learners(), state.get_learners_next());
    let lists = [voters, outgoing, learners, learners_next];
    if voters.is_empty() {
        return Some("it has no voters");
    }
    if lists.iter().map(|list| list.len()).sum::<usize>() > MEMBERS_MAX {
        return Some("it has too many members");
    }
    if lists.iter().any(|list| list.contains(&0)) {
        return Some("a member has id 0");
    }
    if lists.iter().any(|list| has_duplicate(list)) {
        return Some("a member is listed twice");
    }
    if learners.iter().any(|id| voters.contains(id) || outgoing.contains(id)) {
        return Some("a learner is also a voter");
    }
    if learners_next.iter().any(|id| voters.contains(id) || !outgoing.contains(id)) {
        return Some("a learner to be is no outgoing voter");
    }
    if outgoing.is_empty() && state.auto_leave {
        return Some("it is to leave a joint state that it is not in");
    }
    None
}

fn has_duplicate(list: &[u64]) -> bool {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> GroupState {
        GroupState {
            log_start: LogStart {
                index: RaftIndex(9),
                term: Term(3),
                offset: KafkaOffset(0x0102),
                base_offset: KafkaOffset(0x0101),
            },
            configuration_index: RaftIndex(12),
            snapshot_data: Bytes::from_static(b"pid"),
            ..GroupState::default()
        }
    }

    fn snapshot(data: Bytes) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.data = data;
        snapshot.mut_metadata().index = 9;
        snapshot.mut_metadata().term = 3;
        snapshot.mut_metadata().set_conf_state(ConfState::from((vec![1, 2], vec![3])));
        snapshot
    }

    #[test]
    fn golden_bytes() {
        let data = encode_data(&state());
        let expected = b"\x01\x02\x01\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0pid";
        assert_eq!(&data[..], &expected[..]);
    }

    #[test]
    fn reads_what_it_wrote() {
        let content = read(&snapshot(encode_data(&state()))).unwrap();
        assert_eq!(content.log_start, state().log_start);
        assert_eq!(content.configuration_index, RaftIndex(12));
        assert_eq!(&content.data[..], b"pid");
    }

    #[test]
    fn refuses_what_is_malformed() {
        let good = encode_data(&state());
        assert_eq!(read(&snapshot(good.slice(..24))), None);
        let mut newer = good.to_vec();
        newer[0] = 2;
        assert_eq!(read(&snapshot(newer.into())), None);
        let mut no_voters = snapshot(good.clone());
        no_voters.mut_metadata().set_conf_state(ConfState::from((vec![], vec![3])));
        assert_eq!(read(&no_voters), None);
        let mut no_index = snapshot(good);
        no_index.mut_metadata().index = 0;
        assert_eq!(read(&no_index), None);
    }

    /// Each configuration that passes is one that raft-rs restores without stopping the process, and the other way round.
    #[test]
    fn usable_configurations_are_those_that_raft_restores() {
        let joint = |voters: &[u64], outgoing: &[u64], learners: &[u64], next: &[u64], auto: bool| {
            let mut state = ConfState::from((voters.to_vec(), learners.to_vec()));
            state.set_voters_outgoing(outgoing.to_vec());
            state.set_learners_next(next.to_vec());
            state.auto_leave = auto;
            state
        };
        for good in [
            joint(&[1], &[], &[], &[], false),
            joint(&[1, 2, 3], &[1, 2, 4], &[5], &[4], true),
            joint(&[4], &[1, 2, 3], &[], &[1], false),
        ] {
            assert_eq!(configuration_fault(&good), None);
            let store = raft::storage::MemStorage::new_with_conf_state(good);
            let mut config = raft::Config::new(1);
            config.max_size_per_msg = 1;
            raft::RawNode::new(&config, store, &crate::log::raft_logger()).unwrap();
        }
        for bad in [
            joint(&[], &[], &[1], &[], false),
            joint(&[0], &[], &[], &[], false),
            joint(&[1, 1], &[], &[], &[], false),
            joint(&[1], &[], &[1], &[], false),
            joint(&[1], &[], &[], &[2], false),
            joint(&[1], &[], &[], &[], true),
        ] {
            assert!(configuration_fault(&bad).is_some(), "{bad:?}");
        }
    }
}
