//! Groups of one voter: the broker of one node. And many groups on one driver.

use bytes::Bytes;
use chronik_wal::entry::{EntryKind, LogEntry, LogSink as _, LogStart};
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term};
use protobuf::Message as _;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::{LoadError, ProposeError};
use crate::test_support::{TestSink, batch_bytes, log_start_at};

const GROUP: GroupId = GroupId(7);

/// A shard around a driver, with one group or many of one voter each.
struct Shard {
    driver: Driver,
    sink: TestSink,
    out: DriverOutput,
    committed: Vec<LogEntry>,
}

impl Shard {
    fn new() -> Self {
        let driver = Driver::new(DriverConfig::default());
        Self { driver, sink: TestSink::default(), out: DriverOutput::default(), committed: Vec::new() }
    }

    fn with_group() -> Self {
        let mut shard = Self::new();
        shard.create(GROUP);
        shard.settle();
        shard
    }

    fn create(&mut self, group: GroupId) {
        let new = NewGroup {
            group,
            peer: PeerId(1),
            voters: vec![PeerId(1)],
            configuration_index: RaftIndex(0),
            snapshot_data: Bytes::new(),
        };
        self.driver.create_group(new, &mut self.sink).unwrap();
    }

    /// Runs the ready loop; what is committed must be durable.
    fn run(&mut self) {
        while self.driver.run_ready(&mut self.sink, &mut self.out) {}
        for committed in self.out.committed.drain(..) {
            let last = committed.entries.last().unwrap().index;
            assert!(last <= self.sink.last_index(committed.group), "committed before durable");
            self.committed.extend(committed.entries);
        }
        assert!(self.out.messages.is_empty() && self.out.heartbeats.is_empty(), "a group of one is silent");
    }

    /// One whole turn. Returns whether there was anything to write.
    fn turn(&mut self) -> bool {
        self.run();
        let has_written = self.sink.submit().is_some();
        if let Some(turn) = self.sink.complete() {
            self.driver.on_durable(turn);
            self.run();
        }
        has_written
    }

    fn settle(&mut self) {
        while self.turn() {}
    }

    fn propose(&mut self, records: i32) -> Result<(RaftIndex, Term), ProposeError> {
        let Some(Leadership::Leader { term }) = self.driver.leadership(GROUP) else {
            return Err(ProposeError::NotLeader);
        };
        let base = self.driver.log_end_offset(GROUP).unwrap().0;
        let data = batch_bytes(base, term.leader_epoch().0, records, 20);
        self.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data })
    }
}

#[test]
fn a_new_group_leads_once_its_own_disk_has_its_first_entry() {
    let mut shard = Shard::new();
    shard.create(GROUP);
    assert_eq!(shard.driver.leadership(GROUP), Some(Leadership::Unknown { term: Term(0) }));
    shard.run();
    assert_eq!(shard.driver.leadership(GROUP), Some(Leadership::Elected { term: Term(1) }));
    assert_eq!(shard.propose(1), Err(ProposeError::NotLeader));
    let data = batch_bytes(0, 1, 1, 0);
    let early = shard.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data });
    assert_eq!(early, Err(ProposeError::NotLeader));
    shard.settle();
    assert_eq!(shard.driver.leadership(GROUP), Some(Leadership::Leader { term: Term(1) }));
    let told: Vec<_> = shard.out.leadership.iter().map(|(_, leadership)| *leadership).collect();
    assert_eq!(told.last(), Some(&Leadership::Leader { term: Term(1) }));
    assert_eq!(shard.driver.next_wake_ms(), None);
}

#[test]
fn proposals_of_a_turn_share_it_and_come_out_in_order() {
    let mut shard = Shard::with_group();
    let turns_before = shard.sink.filling_turn();
    let mut expected = Vec::new();
    for records in [3, 1, 5] {
        expected.push(shard.propose(records).unwrap());
    }
    assert_eq!(shard.driver.log_end_offset(GROUP), Some(KafkaOffset(9)));
    assert_eq!(shard.driver.last_index(GROUP), Some(RaftIndex(4)));
    shard.settle();
    let batches: Vec<_> = shard.committed.iter().filter(|entry| entry.kind == EntryKind::Batch).collect();
    let places: Vec<_> = batches.iter().map(|entry| (entry.index, entry.term)).collect();
    assert_eq!(places, expected);
    let bases: Vec<_> = batches.iter().map(|entry| entry.base_offset.0).collect();
    assert_eq!(bases, [0, 3, 4]);
    assert_eq!(shard.sink.filling_turn().0 - turns_before.0, 1, "one turn for three proposals");
    assert_eq!(shard.driver.commit(GROUP), Some(RaftIndex(4)));
    assert_eq!(shard.driver.tail(GROUP).unwrap().next_offset(), KafkaOffset(9));
}

#[test]
fn nothing_is_committed_while_the_turn_is_in_flight() {
    let mut shard = Shard::with_group();
    shard.propose(1).unwrap();
    shard.run();
    shard.sink.submit().unwrap();
    shard.propose(1).unwrap();
    shard.run();
    assert_eq!(shard.driver.applied(GROUP), Some(RaftIndex(1)));
    let turn = shard.sink.complete().unwrap();
    shard.driver.on_durable(turn);
    shard.run();
    assert_eq!(shard.driver.applied(GROUP), Some(RaftIndex(2)));
}

#[test]
fn too_many_uncommitted_bytes_are_refused_and_come_back() {
    let mut shard = Shard::new();
    shard.driver = Driver::new(DriverConfig {
        uncommitted_bytes_max: 1000,
        size_per_message_bytes_max: 1000,
        ..DriverConfig::default()
    });
    shard.create(GROUP);
    shard.settle();
    let mut taken = 0;
    while shard.propose(1).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 1000 / 81);
    assert_eq!(shard.propose(1), Err(ProposeError::Full));
    shard.run();
    assert_eq!(shard.propose(1), Err(ProposeError::Full));
    shard.settle();
    assert!(shard.propose(1).is_ok());
    // One entry larger than the whole bound is taken when nothing else waits.
    shard.settle();
    let base = shard.driver.log_end_offset(GROUP).unwrap().0;
    let data = batch_bytes(base, 1, 1, 5000);
    shard.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data }).unwrap();
    assert_eq!(shard.propose(1), Err(ProposeError::Full));
    shard.settle();
    assert!(shard.propose(1).is_ok());
}

#[test]
#[should_panic(expected = "from the end of the log")]
fn a_batch_with_a_wrong_offset_stops_the_process() {
    let mut shard = Shard::with_group();
    let _ = shard.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data: batch_bytes(1, 1, 1, 0) });
}

#[test]
#[should_panic(expected = "the epoch is the term")]
fn a_batch_with_a_wrong_epoch_stops_the_process() {
    let mut shard = Shard::with_group();
    let _ = shard.driver.propose(GROUP, Proposal { kind: EntryKind::Batch, data: batch_bytes(0, 2, 1, 0) });
}

/// Crashes at every stage of a turn, with the turn being written kept or lost, many times over. What was committed is
/// committed again after each restart, in the same order with the same offsets, before anything new is.
#[test]
fn what_was_committed_survives_a_crash_at_every_boundary() {
    let mut committed_count = 0;
    for seed in 0..200u64 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut shard = Shard::with_group();
        let mut truth: Vec<LogEntry> = Vec::new();
        let mut files = 0;
        for _ in 0..12 {
            for _ in 0..random.random_range(0..4) {
                let _ = shard.propose(random.random_range(1..4));
            }
            let stage = random.random_range(0..5);
            if stage >= 1 {
                shard.run();
            }
            if stage >= 2 {
                shard.sink.submit();
                let _ = shard.propose(1);
                shard.run();
            }
            if stage >= 3
                && let Some(turn) = shard.sink.complete()
            {
                shard.driver.on_durable(turn);
            }
            if stage >= 4 {
                shard.settle();
            }
            merge(&mut truth, &shard.committed, seed);
            if random.random_bool(0.5) {
                files = random.random_range(files..=truth.len());
                if let Some(last) = truth[..files].last() {
                    shard.driver.release(GROUP, last.index);
                }
            }
            if random.random_bool(0.6) {
                shard = restart(shard, random.random_bool(0.5), &truth[..files]);
                shard.run();
                shard.settle();
                merge(&mut truth, &shard.committed, seed);
            }
        }
        let offsets: Vec<_> =
            truth.windows(2).map(|pair| (pair[0].next_offset(), pair[1].base_offset)).collect();
        assert!(offsets.iter().all(|(end, base)| end == base), "seed {seed}: offsets are dense");
        committed_count += truth.len();
    }
    assert!(committed_count > 200 * 12, "something happened: {committed_count}");
}

fn restart(mut shard: Shard, is_turn_kept: bool, files: &[LogEntry]) -> Shard {
    shard.sink.crash(is_turn_kept);
    let mut next = Shard { sink: shard.sink, ..Shard::new() };
    // The very first turn may be lost too; then the group is made again.
    match next.sink.recover(GROUP, files) {
        Some(init) => next.driver.add_group(init).unwrap(),
        None => next.create(GROUP),
    }
    next
}

/// Adds what a shard has handed out since its start to what is known to be committed; where both overlap they agree.
fn merge(truth: &mut Vec<LogEntry>, committed: &[LogEntry], seed: u64) {
    for entry in committed {
        let at = usize::try_from(entry.index.0).unwrap() - 1;
        match truth.get(at) {
            Some(known) => assert_eq!(known, entry, "seed {seed}: a committed entry has changed"),
            None => {
                assert_eq!(at, truth.len(), "seed {seed}: committed entries come without a gap");
                truth.push(entry.clone());
            }
        }
    }
}

#[test]
fn after_a_restart_committed_entries_come_before_leadership() {
    let mut shard = Shard::with_group();
    for _ in 0..3 {
        shard.propose(2).unwrap();
        shard.settle();
    }
    let mut shard = restart(shard, true, &[]);
    assert_eq!(shard.driver.applied(GROUP), Some(RaftIndex(0)));
    shard.run();
    // The last commit index rode on the last frame: one behind at most. All of it is applied, none of it served yet.
    assert!(shard.committed.len() >= 3);
    assert_eq!(shard.driver.leadership(GROUP), Some(Leadership::Elected { term: Term(2) }));
    shard.settle();
    assert_eq!(shard.driver.leadership(GROUP), Some(Leadership::Leader { term: Term(2) }));
    assert_eq!(shard.driver.log_end_offset(GROUP), Some(KafkaOffset(6)));
}

#[test]
fn the_log_start_moves_when_asked_and_survives_a_restart() {
    let mut shard = Shard::with_group();
    for _ in 0..4 {
        shard.propose(5).unwrap();
    }
    let data = Bytes::copy_from_slice(&12i64.to_le_bytes());
    shard.driver.propose(GROUP, Proposal { kind: EntryKind::LogStart, data }).unwrap();
    shard.settle();
    let place = shard.driver.position_before(GROUP, KafkaOffset(12)).unwrap();
    let applied = shard.driver.applied(GROUP).unwrap();
    let expected = log_start_at(LogStart::default(), &shard.committed, KafkaOffset(12), applied);
    let log_start = LogStart {
        index: place.index,
        term: place.term,
        offset: KafkaOffset(12),
        base_offset: place.next_offset,
    };
    assert_eq!(log_start, expected);
    assert_eq!(log_start.base_offset, KafkaOffset(10), "the batch that holds offset 12 stays");
    shard.driver.compact_to(GROUP, log_start, Bytes::from_static(b"producers"));
    shard.settle();
    assert_eq!(shard.out.compacted.len(), 1);
    let mut shard = restart(shard, true, &[]);
    shard.settle();
    let state = shard.driver.state(GROUP).unwrap();
    assert_eq!((state.log_start, &state.snapshot_data[..]), (log_start, &b"producers"[..]));
    assert_eq!(shard.driver.term(GROUP, RaftIndex(2)), None);
    assert_eq!(shard.driver.log_end_offset(GROUP), Some(KafkaOffset(20)));
}

/// An emptied partition keeps its end offset and its last term.
#[test]
fn an_emptied_group_goes_on_at_its_end() {
    let mut shard = Shard::with_group();
    shard.propose(5).unwrap();
    shard.settle();
    let applied = shard.driver.applied(GROUP).unwrap();
    let log_start =
        LogStart { index: applied, term: Term(1), offset: KafkaOffset(5), base_offset: KafkaOffset(5) };
    shard.driver.compact_to(GROUP, log_start, Bytes::new());
    shard.settle();
    let mut shard = restart(shard, true, &[]);
    shard.settle();
    assert_eq!(shard.driver.log_end_offset(GROUP), Some(KafkaOffset(5)));
    assert_eq!(shard.driver.leadership(GROUP), Some(Leadership::Leader { term: Term(2) }));
    let (index, _) = shard.propose(1).unwrap();
    assert_eq!(index, RaftIndex(4));
}

#[test]
fn the_tail_keeps_within_its_budget_and_never_drops_what_is_only_there() {
    let mut shard = Shard::new();
    shard.driver = Driver::new(DriverConfig { tail_budget_bytes: 10_000, ..DriverConfig::default() });
    shard.create(GROUP);
    shard.settle();
    for _ in 0..200 {
        shard.propose(1).unwrap();
        shard.settle();
    }
    assert!(shard.driver.tail_bytes() > 30_000, "nothing is released yet");
    let last = shard.driver.applied(GROUP).unwrap();
    for index in (10..=last.0).step_by(10) {
        shard.driver.release(GROUP, RaftIndex(index));
    }
    assert!(shard.driver.tail_bytes() <= 10_000);
    assert_eq!(shard.driver.tail_bytes(), shard.driver.tail(GROUP).unwrap().bytes());
    assert!(shard.driver.tail(GROUP).unwrap().len() > 20, "the newest stay as cache");
    shard.propose(1).unwrap();
    shard.settle();
    assert!(shard.driver.remove_group(GROUP, &mut shard.sink));
    assert_eq!(shard.driver.tail_bytes(), 0);
}

#[test]
fn broken_recovered_state_is_an_error_that_names_the_group() {
    let mut shard = Shard::with_group();
    for _ in 0..3 {
        shard.propose(2).unwrap();
    }
    shard.settle();
    let good = shard.sink.recover(GROUP, &[]).unwrap();
    let load = |change: fn(&mut GroupInit)| {
        let mut init = good.clone();
        change(&mut init);
        Driver::new(DriverConfig::default()).add_group(init)
    };
    assert_eq!(load(|_| {}), Ok(()));
    assert_eq!(load(|init| init.state.peer = PeerId(0)), Err(LoadError::NoPeer(GROUP)));
    let garbage = load(|init| init.state.configuration = Bytes::from_static(b"\xff\xff"));
    assert_eq!(garbage, Err(LoadError::Configuration(GROUP, "it cannot be read")));
    let nobody = load(|init| init.state.configuration = Bytes::new());
    assert_eq!(nobody, Err(LoadError::Configuration(GROUP, "it has no voters")));
    let gap = load(|init| drop(init.entries.remove(1)));
    assert_eq!(gap, Err(LoadError::Gap { group: GROUP, after: RaftIndex(1), found: RaftIndex(3) }));
    let back = load(|init| init.entries[3].base_offset = KafkaOffset(1));
    assert!(matches!(back, Err(LoadError::StepsBack { index: RaftIndex(4), .. })), "{back:?}");
    let terms = load(|init| {
        init.flushed = chronik_wal::entry::FlushPoint {
            index: RaftIndex(2),
            term: Term(1),
            next_offset: KafkaOffset(2),
            ..Default::default()
        };
    });
    assert_eq!(terms, Err(LoadError::Terms(GROUP)));
    let beyond = load(|init| init.state.hard.commit = RaftIndex(99));
    assert_eq!(beyond, Ok(()), "the commit index never goes past the end");
}

/// The cost of groups to which nothing happens is counted, not timed.
#[test]
fn three_thousand_idle_groups_cost_nothing() {
    const GROUPS: u64 = 3000;
    let mut shard = Shard::new();
    for group in 1..=GROUPS {
        shard.create(GroupId(group));
    }
    shard.settle();
    assert!(
        (1..=GROUPS)
            .all(|id| { shard.driver.leadership(GroupId(id)) == Some(Leadership::Leader { term: Term(1) }) })
    );
    let turns = shard.sink.filling_turn();
    assert!(turns.0 < 10, "all groups share the turns: {turns:?}");
    let before = *shard.driver.counters();
    for now_ms in (0..60_000).step_by(10) {
        shard.driver.tick(now_ms);
        shard.run();
    }
    assert_eq!(*shard.driver.counters(), before, "a minute of idling does no work at all");

    // One busy group among them costs what it costs alone.
    for _ in 0..100 {
        shard.propose(1).unwrap();
        shard.settle();
    }
    let after = shard.driver.counters();
    assert!(after.visits - before.visits <= 400, "visits: {}", after.visits - before.visits);
    assert_eq!(after.states_written, before.states_written, "a commit alone writes no state");
}

#[test]
fn groups_come_and_go() {
    let mut shard = Shard::new();
    for round in 0..20u64 {
        for group in 0..100 {
            shard.create(GroupId(1 + round * 100 + group));
        }
        shard.run();
        shard.sink.submit();
        for group in 0..100 {
            assert!(shard.driver.remove_group(GroupId(1 + round * 100 + group), &mut shard.sink));
        }
        assert!(!shard.driver.remove_group(GroupId(1), &mut shard.sink));
        let turn = shard.sink.complete().unwrap();
        shard.driver.on_durable(turn);
        shard.run();
        shard.settle();
    }
    assert_eq!(shard.driver.group_count(), 0);
    assert_eq!(shard.driver.slots.len(), 100, "slots are used again");
    assert_eq!(shard.driver.tail_bytes(), 0);
    assert!(shard.sink.groups().is_empty(), "recovery forgets them");
}

#[test]
fn a_sole_voter_grows_to_three_by_learners() {
    let mut shard = Shard::with_group();
    let mut change = raft::eraftpb::ConfChangeV2::default();
    for id in [2, 3] {
        let mut single = raft::eraftpb::ConfChangeSingle::default();
        single.set_change_type(raft::eraftpb::ConfChangeType::AddLearnerNode);
        single.node_id = id;
        change.mut_changes().push(single);
    }
    let expected = shard.driver.propose_configuration(GROUP, &change).unwrap();
    assert_eq!(expected.0, RaftIndex(2));
    assert_eq!(shard.driver.propose_configuration(GROUP, &change), Err(ProposeError::ConfigurationBusy));
    while shard.driver.run_ready(&mut shard.sink, &mut shard.out) {}
    for _ in 0..5 {
        shard.sink.submit();
        if let Some(turn) = shard.sink.complete() {
            shard.driver.on_durable(turn);
        }
        while shard.driver.run_ready(&mut shard.sink, &mut shard.out) {}
    }
    assert_eq!(shard.driver.configuration(GROUP).unwrap().get_learners(), [2, 3]);
    assert!(shard.out.messages.iter().any(|outgoing| outgoing.to == PeerId(3)));
    assert!(shard.driver.next_wake_ms().is_some() || shard.driver.last_tick_ms.is_none());
    let init = shard.sink.recover(GROUP, &[]).unwrap();
    let mut durable = ConfState::default();
    durable.merge_from_bytes(&init.state.configuration).unwrap();
    assert_eq!(durable.get_learners(), [2, 3]);
    let mut restarted = Driver::new(DriverConfig::default());
    restarted.add_group(init).unwrap();
    let mut out = DriverOutput::default();
    while restarted.run_ready(&mut shard.sink, &mut out) {}
    // Its new term is not durable yet: no learner may hear of it.
    assert_eq!(restarted.leadership(GROUP), Some(Leadership::Elected { term: Term(2) }));
    assert!(out.messages.is_empty() && out.heartbeats.is_empty());
    shard.sink.submit();
    restarted.on_durable(shard.sink.complete().unwrap());
    while restarted.run_ready(&mut shard.sink, &mut out) {}
    assert!(!out.messages.is_empty());
}
