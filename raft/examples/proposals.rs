//! What a proposal costs the driver: from `propose` until the entry comes out as committed, with a WAL that only counts.
//!
//! `cargo run --release -p chronik-raft --example proposals`. Prints microseconds of one core per proposal for one group and for
//! a thousand, at several numbers of proposals a turn, and the idle memory of a group.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use bytes::Bytes;
use chronik_raft::driver::{Driver, DriverConfig, DriverOutput, NewGroup, Proposal};
use chronik_wal::entry::{EntryKind, GroupState, LogEntry, LogSink};
use chronik_wal::types::{GroupId, PeerId, RaftIndex, TurnNumber};

/// Payload of a batch: a 256-byte record with its header.
const BATCH_BYTES: usize = 61 + 270;

/// Proposals measured in each run.
const PROPOSALS: usize = 300_000;

#[derive(Default)]
struct CountingSink {
    turn: u64,
    entries: u64,
    states: u64,
}

impl LogSink for CountingSink {
    fn put_entry(&mut self, _group: GroupId, _commit: RaftIndex, _entry: &LogEntry) {
        self.entries += 1;
    }
    fn put_state(&mut self, _group: GroupId, _state: &GroupState) {
        self.states += 1;
    }
    fn put_removed(&mut self, _group: GroupId) {}
    fn filling_turn(&self) -> TurnNumber {
        TurnNumber(self.turn + 1)
    }
}

fn batch(base: i64) -> Bytes {
    let mut data = vec![0u8; BATCH_BYTES];
    data[0..8].copy_from_slice(&base.to_be_bytes());
    data[8..12].copy_from_slice(&i32::try_from(BATCH_BYTES - 12).unwrap_or(0).to_be_bytes());
    data[12..16].copy_from_slice(&1i32.to_be_bytes());
    data[16] = 2;
    data.into()
}

fn turn(driver: &mut Driver, sink: &mut CountingSink, out: &mut DriverOutput) -> usize {
    let mut committed = 0;
    for _ in 0..2 {
        loop {
            let has_more = driver.run_ready(sink, out);
            committed += out.committed.iter().map(|group| group.entries.len()).sum::<usize>();
            let applied: Vec<_> = out
                .committed
                .iter()
                .filter_map(|c| c.entries.last().map(|last| (c.group, last.index)))
                .collect();
            out.clear();
            for (group, index) in applied {
                driver.release(group, index);
            }
            if !has_more {
                break;
            }
        }
        sink.turn += 1;
        driver.on_durable(TurnNumber(sink.turn));
    }
    committed
}

fn measure(groups: u64, per_turn: usize) {
    let mut driver = Driver::new(DriverConfig { tail_budget_bytes: 8 << 20, ..DriverConfig::default() });
    let (mut sink, mut out) = (CountingSink::default(), DriverOutput::default());
    for group in 1..=groups {
        let new = NewGroup {
            group: GroupId(group),
            peer: PeerId(1),
            voters: vec![PeerId(1)],
            configuration_index: RaftIndex(0),
            snapshot_data: Bytes::new(),
        };
        driver.create_group(new, &mut sink).expect("a new group");
    }
    for _ in 0..4 {
        turn(&mut driver, &mut sink, &mut out);
    }
    let rounds = PROPOSALS / per_turn;
    let mut next = vec![0i64; usize::try_from(groups).unwrap_or(0) + 1];
    let (mut committed, mut group, mut spent) = (0, 0u64, std::time::Duration::ZERO);
    for _ in 0..rounds {
        let proposals: Vec<_> = (0..per_turn)
            .map(|_| {
                group = group % groups + 1;
                let slot = usize::try_from(group).unwrap_or(0);
                next[slot] += 1;
                (GroupId(group), batch(next[slot] - 1))
            })
            .collect();
        let start = Instant::now();
        for (group, data) in proposals {
            driver.propose(group, Proposal { kind: EntryKind::Batch, data }).expect("a leader with room");
        }
        committed += turn(&mut driver, &mut sink, &mut out);
        spent += start.elapsed();
    }
    let micros = spent.as_secs_f64() * 1e6 / (rounds * per_turn) as f64;
    println!(
        "{groups:5} groups, {per_turn:5} proposals a turn: {micros:6.3} us a proposal ({committed} committed)"
    );
}

fn main() {
    for (groups, per_turn) in [(1, 1), (1, 16), (1, 128), (1, 1024), (1000, 1), (1000, 128), (1000, 1000)] {
        measure(groups, per_turn);
    }
    let before = resident_bytes();
    let mut driver = Driver::new(DriverConfig::default());
    let (mut sink, mut out) = (CountingSink::default(), DriverOutput::default());
    for group in 1..=3000 {
        let new = NewGroup {
            group: GroupId(group),
            peer: PeerId(1),
            voters: vec![PeerId(1)],
            configuration_index: RaftIndex(0),
            snapshot_data: Bytes::new(),
        };
        driver.create_group(new, &mut sink).expect("a new group");
    }
    for _ in 0..8 {
        turn(&mut driver, &mut sink, &mut out);
    }
    println!("3000 idle groups: {} bytes resident each", resident_bytes().saturating_sub(before) / 3000);
}

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
