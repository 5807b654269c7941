//! For tests: a WAL on a simulated disk beside a model of what it must hold after each turn.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{GroupProgress, ShardWal, WalConfig, WalError, write_turn_blocking};
use crate::disk::SimDisk;
use crate::entry::{EntryKind, FlushPoint, GroupState, HardState, LogEntry, LogSink, LogStart};
use crate::frame::WalIdentity;
use crate::recovery::{EntryReader, Recovered, recover};
use crate::test_batch::batch;
use crate::types::{GroupId, KafkaOffset, NodeId, PeerId, RaftIndex, ShardId, Term, TurnNumber};

pub(crate) const IDENTITY: WalIdentity =
    WalIdentity { node: NodeId(1), directory: *b"directory-for-te", shard: ShardId(0) };

/// Small segments, so that tests cross many of their ends.
pub(crate) fn small_config() -> WalConfig {
    WalConfig {
        segment_bytes: 64 << 10,
        first_segment_bytes: 48 << 10,
        wal_max_bytes: 6 * (64 << 10),
        turn_bytes_max: 12 << 10,
        reserve_bytes: 16 << 10,
        segments_kept: 2,
        idle_ms: 100,
        ..WalConfig::new(Path::new("/data"), IDENTITY)
    }
}

/// What a group holds; also what recovery must find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelGroup {
    pub(crate) state: Option<GroupState>,
    pub(crate) entries: BTreeMap<RaftIndex, LogEntry>,
    pub(crate) flushed: Option<FlushPoint>,
}

pub(crate) type Model = BTreeMap<GroupId, ModelGroup>;

#[derive(Clone)]
enum Op {
    Entry(GroupId, LogEntry),
    State(GroupId, GroupState),
    Removed(GroupId),
    Checkpoint(Vec<(GroupId, FlushPoint)>),
}

fn apply(model: &mut Model, op: &Op) {
    match op {
        Op::Entry(group, entry) => {
            let entries = &mut model.entry(*group).or_default().entries;
            entries.split_off(&entry.index);
            entries.insert(entry.index, entry.clone());
        }
        Op::State(group, state) => model.entry(*group).or_default().state = Some(state.clone()),
        Op::Removed(group) => {
            model.remove(group);
        }
        Op::Checkpoint(points) => {
            for group in model.values_mut() {
                group.flushed = None;
            }
            for (group, point) in points {
                model.entry(*group).or_default().flushed = Some(*point);
            }
        }
    }
}

/// A WAL, its disk, and what was put into it.
pub(crate) struct Rig {
    pub(crate) disk: SimDisk,
    pub(crate) wal: ShardWal,
    pub(crate) now_ms: u64,
    /// Segments that the script has recycled.
    pub(crate) released: usize,
    base: Model,
    ops: Vec<(TurnNumber, Op)>,
    rng: SmallRng,
}

impl Rig {
    /// Recovers what is on the disk and opens a WAL on it. `base` is what recovery is known to find there.
    pub(crate) fn open(disk: &SimDisk, config: WalConfig, base: Model, seed: u64) -> Result<Rig, WalError> {
        let mut recovered = recover(disk, &config)?;
        let wal = ShardWal::open(disk, config, &mut recovered)?;
        let rng = SmallRng::seed_from_u64(seed);
        Ok(Rig { disk: disk.clone(), wal, now_ms: 0, released: 0, base, ops: Vec::new(), rng })
    }

    pub(crate) fn fresh(seed: u64) -> Rig {
        Self::open(&SimDisk::new(seed), small_config(), Model::new(), seed).unwrap()
    }

    /// What the log holds after `turn`, as recovery must find it.
    pub(crate) fn model_at(&self, turn: TurnNumber) -> Model {
        let mut model = self.base.clone();
        for (_, op) in self.ops.iter().filter(|(at, _)| *at <= turn) {
            apply(&mut model, op);
        }
        for group in model.values_mut() {
            let flushed = group.flushed.map_or(RaftIndex(0), |point| point.index);
            let start = group.state.as_ref().map_or(RaftIndex(0), |state| state.log_start.index);
            group.entries = group.entries.split_off(&flushed.max(start).next());
        }
        model
    }

    fn now(&self) -> Model {
        self.model_at(TurnNumber(u64::MAX))
    }

    fn note(&mut self, op: Op) {
        self.ops.push((self.wal.filling_turn(), op));
    }

    pub(crate) fn last_index(&self, group: GroupId) -> RaftIndex {
        self.now().get(&group).map_or(RaftIndex(0), |model| {
            let flushed = model.flushed.map_or(RaftIndex(0), |point| point.index);
            model.entries.keys().next_back().copied().unwrap_or(RaftIndex(0)).max(flushed)
        })
    }

    fn committed(last: RaftIndex) -> RaftIndex {
        RaftIndex(last.0.saturating_sub(3))
    }

    pub(crate) fn entry(&mut self, group: GroupId, index: RaftIndex, term: u64, bytes: usize) {
        let mut records = vec![0; bytes];
        self.rng.fill(&mut records[..]);
        let offset = i64::try_from(index.0 * 10).unwrap();
        let data = batch(offset, 10, &records);
        let (term, base_offset) = (Term(term), KafkaOffset(offset));
        let entry = LogEntry { index, term, kind: EntryKind::Batch, base_offset, data };
        self.wal.put_entry(group, Self::committed(index), &entry);
        self.note(Op::Entry(group, entry));
    }

    pub(crate) fn append(&mut self, group: GroupId, bytes: usize) {
        let next = self.last_index(group).next();
        self.entry(group, next, 1, bytes);
    }

    pub(crate) fn state(&mut self, group: GroupId, term: u64, log_start: LogStart) {
        let state = GroupState {
            hard: HardState { term: Term(term), vote: PeerId(2), commit: RaftIndex(0) },
            log_start,
            configuration: Bytes::from_static(b"configuration"),
            ..GroupState::default()
        };
        self.wal.put_state(group, &state);
        self.note(Op::State(group, state));
    }

    pub(crate) fn remove(&mut self, group: GroupId) {
        self.wal.put_removed(group);
        self.note(Op::Removed(group));
    }

    /// Writes and syncs one turn, if there is one.
    pub(crate) fn turn(&mut self) -> Result<Option<TurnNumber>, WalError> {
        let Some(turn) = self.wal.start_turn() else { return Ok(None) };
        write_turn_blocking(&self.disk, &turn)?;
        self.wal.turn_done(turn.turn);
        Ok(Some(turn.turn))
    }

    /// Writes all that waits, preparing segments as asked.
    pub(crate) fn drain(&mut self) -> Result<(), WalError> {
        loop {
            self.job()?;
            let turned = self.turn()?.is_some();
            if !turned && !self.wal.has_pending() {
                return Ok(());
            }
            if !turned {
                assert!(self.job()?, "the log waits for a segment and none is made");
            }
        }
    }

    pub(crate) fn job(&mut self) -> Result<bool, WalError> {
        let Some(job) = self.wal.next_job(self.now_ms) else { return Ok(false) };
        let result = job.run(&self.disk);
        self.wal.job_done(result, self.now_ms)?;
        Ok(true)
    }

    /// Frees the oldest segments as the shard does, until enough are free.
    pub(crate) fn recycle(&mut self) -> Result<usize, WalError> {
        let mut released = 0;
        while self.wal.recycle_wanted() && released < 8 {
            let model = self.now();
            let mut flushed: BTreeMap<GroupId, RaftIndex> = BTreeMap::new();
            let known = |group: &GroupId| model[group].flushed.map_or(RaftIndex(0), |point| point.index);
            let last = |group: &GroupId| {
                model[group].entries.keys().next_back().copied().unwrap_or_default().max(known(group))
            };
            for _ in 0..100 {
                let progress = |group: GroupId| GroupProgress {
                    flushed: flushed.get(&group).copied().unwrap_or_default().max(known(&group)),
                    committed: Self::committed(last(&group)),
                };
                let needs = self.wal.oldest_needs(&progress, 2);
                if needs.is_empty() {
                    break;
                }
                flushed.extend(needs.flush.iter().copied());
                for group in needs.rewrite_states {
                    self.wal.put_state(group, model[&group].state.as_ref().unwrap());
                    let state = model[&group].state.clone().unwrap();
                    self.note(Op::State(group, state));
                }
                for (group, range) in needs.rewrite_entries {
                    let entries: Vec<LogEntry> =
                        range.map(|index| model[&group].entries[&RaftIndex(index)].clone()).collect();
                    self.wal.rewrite_entries(group, Self::committed(last(&group)), &entries);
                }
            }
            let points: Vec<(GroupId, FlushPoint)> = model
                .keys()
                .map(|&group| {
                    let index = flushed.get(&group).copied().unwrap_or_default().max(known(&group));
                    (group, FlushPoint { index, position: index.0 * 100, ..FlushPoint::default() })
                })
                .filter(|(_, point)| point.index > RaftIndex(0))
                .collect();
            self.wal.put_checkpoint(&points);
            self.note(Op::Checkpoint(points));
            self.drain()?;
            self.wal.release_oldest().expect("all its needs were met");
            released += 1;
        }
        Ok(released)
    }

    /// A workload of so many rounds: appends, truncations, states, log starts, removals, recycling.
    pub(crate) fn script(&mut self, rounds: usize) -> Result<(), WalError> {
        for _ in 0..rounds {
            for _ in 0..self.rng.random_range(1..4) {
                let group = GroupId(self.rng.random_range(0..4));
                self.script_step(group);
            }
            if self.rng.random_bool(0.5) {
                self.turn()?;
            } else {
                self.drain()?;
            }
            self.released += self.recycle()?;
        }
        self.wal.close();
        self.drain()
    }

    fn script_step(&mut self, group: GroupId) {
        let last = self.last_index(group);
        let model = self.now().get(&group).cloned().unwrap_or_default();
        let term = model.state.as_ref().map_or(1, |state| state.hard.term.0);
        let start = model.state.as_ref().map_or(LogStart::default(), |state| state.log_start);
        let flushed = model.flushed.map_or(RaftIndex(0), |point| point.index);
        match self.rng.random_range(0..20) {
            0 => self.state(group, term + 1, start),
            1 if last > Self::committed(last).next() => {
                // The uncommitted tail is replaced by entries of a new term.
                self.state(group, term + 1, start);
                let from = Self::committed(last).next().max(flushed.next());
                self.entry(group, from, term + 1, 300);
            }
            2 if Self::committed(last) > start.index => {
                let index = Self::committed(last);
                let at = model.entries.get(&index).map_or(Term(term), |entry| entry.term);
                self.state(group, term, LogStart { index, term: at, ..start });
            }
            3 if group.0 == 3 && !model.entries.is_empty() => self.remove(group),
            _ => {
                let bytes = *[10, 200, 900, 5000, 9000].get(self.rng.random_range(0..5)).unwrap();
                self.entry(group, last.next(), term, bytes);
            }
        }
    }
}

/// What recovery found, with every entry read back.
pub(crate) fn found(disk: &SimDisk, config: &WalConfig, recovered: &Recovered) -> Model {
    let mut reader = EntryReader::new(disk, config);
    let mut model = Model::new();
    for (&group, found) in &recovered.groups {
        let entries = found
            .entries
            .iter()
            .map(|location| (location.index, reader.read(group, location).unwrap()))
            .collect();
        model.insert(group, ModelGroup { state: found.state.clone(), entries, flushed: found.flushed });
    }
    model
}
