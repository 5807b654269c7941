//! For the tests of this crate: one replica of a group of three, whose peers are the test.

use bytes::Bytes;
use chronik_wal::entry::{GroupState, LogStart};
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex};
use raft::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot};

use crate::driver::{Driver, DriverConfig, DriverOutput, NewGroup};
use crate::error::StepError;
use crate::leadership::Leadership;
use crate::test_support::{TestSink, batch_bytes};

/// Its group.
pub(crate) const GROUP: GroupId = GroupId(1);

/// Peer 1 of three.
pub(crate) struct Replica {
    pub driver: Driver,
    pub sink: TestSink,
    pub out: DriverOutput,
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self::with_voters(PeerId(1), vec![PeerId(1), PeerId(2), PeerId(3)])
    }

    /// Peer 4, which is to join peers 1 to 3.
    pub(crate) fn joiner() -> Self {
        Self::with_voters(PeerId(4), vec![PeerId(1), PeerId(2), PeerId(3)])
    }

    /// Peer 4, which is to join peer 2, who became the only member with this entry.
    pub(crate) fn joiner_of_one(index: RaftIndex) -> Self {
        Self::made(PeerId(4), vec![PeerId(2)], index)
    }

    fn with_voters(peer: PeerId, voters: Vec<PeerId>) -> Self {
        Self::made(peer, voters, RaftIndex(0))
    }

    fn made(peer: PeerId, voters: Vec<PeerId>, configuration_index: RaftIndex) -> Self {
        let mut replica = Self {
            driver: Driver::new(DriverConfig::default()),
            sink: TestSink::default(),
            out: DriverOutput::default(),
        };
        let new = NewGroup { group: GROUP, peer, voters, configuration_index, snapshot_data: Bytes::new() };
        replica.driver.create_group(new, &mut replica.sink).unwrap();
        replica.turn();
        replica
    }

    /// The only member of its group, and its leader in term 1.
    pub(crate) fn sole_voter() -> Self {
        Self::with_voters(PeerId(1), vec![PeerId(1)])
    }

    /// Serves all groups; what they ask for is in `out`.
    pub(crate) fn run(&mut self) {
        while self.driver.run_ready(&mut self.sink, &mut self.out) {}
    }

    /// A whole turn, written and durable.
    pub(crate) fn turn(&mut self) {
        self.run();
        self.sink.submit();
        if let Some(turn) = self.sink.complete() {
            self.driver.on_durable(turn);
        }
        self.run();
        self.out.clear();
    }

    pub(crate) fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.driver.step(PeerId(message.from), GROUP, message)
    }

    /// Makes it a follower of peer 2 in term 3 with two batches, offsets 0 and 1, of which the first is committed.
    pub(crate) fn follower() -> Self {
        let mut replica = Self::new();
        let mut append = message(MessageType::MsgAppend, 3);
        append.set_entries(vec![entry(1, 3, 0), entry(2, 3, 1)].into());
        append.commit = 1;
        assert_eq!(replica.step(append), Ok(()));
        replica.turn();
        replica
    }

    /// Makes it the leader of term 1.
    pub(crate) fn leader() -> Self {
        let mut replica = Self::new();
        assert!(replica.driver.campaign(GROUP));
        for (kind, term) in
            [(MessageType::MsgRequestPreVoteResponse, 1), (MessageType::MsgRequestVoteResponse, 1)]
        {
            replica.turn();
            assert_eq!(replica.step(message(kind, term)), Ok(()));
        }
        replica.turn();
        let mut accept = message(MessageType::MsgAppendResponse, 1);
        accept.index = 1;
        assert_eq!(replica.step(accept), Ok(()));
        replica.turn();
        assert!(matches!(replica.driver.leadership(GROUP), Some(Leadership::Leader { .. })));
        replica
    }
}

pub(crate) fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = 2;
    message.to = 1;
    message.term = term;
    message
}

pub(crate) fn entry(index: u64, term: u64, base: i64) -> Entry {
    let mut entry = Entry::default();
    entry.index = index;
    entry.term = term;
    entry.data = batch_bytes(base, i32::try_from(term).unwrap(), 1, 5);
    entry
}

pub(crate) fn append(index: u64, log_term: u64, entries: Vec<Entry>) -> Message {
    let mut append = message(MessageType::MsgAppend, 3);
    append.index = index;
    append.log_term = log_term;
    append.set_entries(entries.into());
    append
}

pub(crate) fn snapshot(index: u64, base: i64, voters: Vec<u64>) -> Message {
    let state = GroupState {
        log_start: LogStart {
            offset: KafkaOffset(base),
            base_offset: KafkaOffset(base),
            ..Default::default()
        },
        ..Default::default()
    };
    let mut snapshot = Snapshot::default();
    snapshot.data = crate::snapshot::encode_data(&state);
    snapshot.mut_metadata().index = index;
    snapshot.mut_metadata().term = 3;
    snapshot.mut_metadata().set_conf_state(ConfState::from((voters, vec![])));
    let mut message = message(MessageType::MsgSnapshot, 3);
    message.set_snapshot(snapshot);
    message
}
