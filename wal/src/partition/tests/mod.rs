//! Tests of the partition files: a rig that appends and reads in one thread, over either disk.

mod crash;
mod damage;
mod large;
mod model;
mod reading;
mod retention;
mod salvage;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::disk::{Disk, SimDisk};
use crate::entry::EntryKind;
use crate::records::BatchBuilder;
use crate::types::{GroupId, LeaderEpoch};

const NO_LIMIT: KafkaOffset = KafkaOffset(i64::MAX);
const POLICY: RollPolicy = RollPolicy { segment_bytes: 1 << 20, segment_ms: i64::MAX, jitter_ms: 0 };
/// An index entry for nearly every batch of these tests.
const LIMITS: FileLimits = FileLimits { index_interval_bytes: 300, index_bytes_max: 10 << 20 };

fn identity() -> PartitionIdentity {
    PartitionIdentity { topic: "orders".into(), partition: 3, topic_id: [9; 16], group: GroupId(77) }
}

fn store() -> FileStore {
    FileStore { data_dir: PathBuf::from("/chronik/data"), cache: Arc::new(FileCache::new(64)) }
}

/// A batch of `count` records of `value_bytes` each whose timestamps count up from `timestamp`.
fn batch(base: i64, term: u64, count: i64, timestamp: i64, value_bytes: usize) -> Bytes {
    let mut builder =
        BatchBuilder::new().base_offset(KafkaOffset(base)).leader_epoch(Term(term).leader_epoch());
    for number in 0..count {
        builder.push(timestamp + number, None, Some(&vec![number as u8; value_bytes]));
    }
    builder.build().expect("a batch builds").freeze()
}

/// Makes entries that follow one another.
struct Maker {
    index: u64,
    offset: i64,
    term: u64,
    clock_ms: i64,
}

impl Maker {
    fn new() -> Self {
        Self { index: 0, offset: 0, term: 1, clock_ms: 1000 }
    }

    fn batch(&mut self, count: i64, value_bytes: usize) -> LogEntry {
        self.clock_ms += 100;
        let data = batch(self.offset, self.term, count, self.clock_ms, value_bytes);
        let base_offset = KafkaOffset(self.offset);
        self.index += 1;
        self.offset += count;
        LogEntry {
            index: RaftIndex(self.index),
            term: Term(self.term),
            kind: EntryKind::Batch,
            base_offset,
            data,
        }
    }

    fn other(&mut self, kind: EntryKind, data: &[u8]) -> LogEntry {
        self.index += 1;
        LogEntry {
            index: RaftIndex(self.index),
            term: Term(self.term),
            kind,
            base_offset: KafkaOffset(self.offset),
            data: Bytes::copy_from_slice(data),
        }
    }

    fn log_start(&mut self, offset: i64) -> LogEntry {
        self.other(EntryKind::LogStart, &offset.to_le_bytes())
    }

    fn election(&mut self) -> LogEntry {
        self.term += 1;
        self.other(EntryKind::Empty, &[])
    }

    /// `count` entries: batches of three records with an election now and then.
    fn mixed(&mut self, count: usize) -> Vec<LogEntry> {
        let entry = |maker: &mut Self, number: usize| match number % 7 {
            0 => maker.election(),
            5 => maker.other(EntryKind::ConfChange, b"peers"),
            _ => maker.batch(3, 20 + number % 50),
        };
        (0..count).map(|number| entry(self, number)).collect()
    }
}

/// A partition and its disk.
struct Rig {
    disk: Arc<dyn Disk>,
    store: FileStore,
    log: PartitionLog,
    policy: RollPolicy,
    wall_ms: i64,
}

impl Rig {
    fn new(disk: impl Disk + 'static) -> Self {
        Self::at(Arc::new(disk), store())
    }

    fn at(disk: Arc<dyn Disk>, store: FileStore) -> Self {
        disk.create_dir_all(&store.data_dir).unwrap();
        let log = PartitionLog::new(&store, identity(), LogStart::default(), LIMITS);
        Self { disk, store, log, policy: POLICY, wall_ms: 5000 }
    }

    fn small_segments(segment_bytes: u64) -> Self {
        let mut rig = Self::new(SimDisk::new(1));
        rig.policy.segment_bytes = segment_bytes;
        rig
    }

    fn dir(&self) -> PathBuf {
        self.store.data_dir.join(identity().directory_name())
    }

    fn run(&mut self, job: FileJob) -> Result<(), FilesError> {
        let done = job.run(&*self.disk);
        self.log.finished(done)
    }

    fn try_append(&mut self, entries: &[LogEntry]) -> Result<(), FilesError> {
        let mut rest = entries;
        while let Some(job) = self.log.append(rest, self.policy, self.wall_ms, &mut snapshot) {
            self.run(job)?;
            let written = self.log.written().index;
            rest = &rest[rest.partition_point(|entry| entry.index <= written)..];
        }
        Ok(())
    }

    fn append(&mut self, entries: &[LogEntry]) {
        self.try_append(entries).unwrap();
    }

    fn sync(&mut self) -> FlushPoint {
        if let Some(job) = self.log.sync() {
            self.run(job).unwrap();
        }
        assert_eq!(self.log.synced(), self.log.written());
        self.log.synced()
    }

    fn try_read(
        &self,
        from: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> Option<Result<ReadBatches, FilesError>> {
        match self.log.read(KafkaOffset(from), NO_LIMIT, max_bytes, min_one)?.run(&*self.disk) {
            FileDone::Read(result) => Some(result),
            other => panic!("{other:?}"),
        }
    }

    /// All batch bytes from an offset on.
    fn read_all(&self, from: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = from;
        while let Some(read) = self.try_read(next, 700, true) {
            let read = read.unwrap();
            assert!(read.next_offset.0 > next, "a read goes on");
            bytes.extend_from_slice(&read.data);
            next = read.next_offset.0;
        }
        bytes
    }

    /// All entries from an index on.
    fn entries(&self, from: u64) -> Vec<LogEntry> {
        let mut entries = Vec::new();
        let mut next = RaftIndex(from);
        while let Some(job) = self.log.read_entries(next, 500) {
            match job.run(&*self.disk) {
                FileDone::Entries(result) => entries.extend(result.unwrap()),
                other => panic!("{other:?}"),
            }
            next = entries.last().map_or(next, |entry: &LogEntry| entry.index.next());
        }
        entries
    }

    fn find_time(&self, timestamp: i64, from: i64) -> Option<(i64, i64)> {
        match self.log.find_time(timestamp, KafkaOffset(from), NO_LIMIT)?.run(&*self.disk) {
            FileDone::FoundTime(result) => result.unwrap().map(|(offset, timestamp)| (offset.0, timestamp)),
            other => panic!("{other:?}"),
        }
    }

    fn try_reopen(&mut self, checkpoint: Option<FlushPoint>, start: LogStart) -> Result<Opened, FilesError> {
        PartitionLog::open(&*self.disk, &self.store, identity(), checkpoint, start, LIMITS)
    }

    /// Opens again; the log is what was opened.
    fn reopen(&mut self, checkpoint: FlushPoint, start: LogStart) -> (Option<ProducerSnapshot>, KafkaOffset) {
        let opened = self.try_reopen(Some(checkpoint), start).unwrap();
        self.log = opened.log;
        (opened.snapshot, opened.replay_from)
    }
}

/// A snapshot in the outer shape of Kafka's: version, checksum, and the offset for contents.
fn snapshot(offset: KafkaOffset) -> Option<ProducerSnapshot> {
    let body = offset.0.to_be_bytes();
    let mut bytes = vec![0, 1];
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    bytes.extend_from_slice(&body);
    Some(ProducerSnapshot { offset, bytes: bytes.into() })
}

fn batch_bytes(entries: &[LogEntry]) -> Vec<u8> {
    let batches = entries.iter().filter(|entry| entry.kind == EntryKind::Batch);
    batches.flat_map(|entry| entry.data.to_vec()).collect()
}

#[test]
fn a_term_is_the_leader_epoch_in_the_batch() {
    let entry = Maker { index: 0, offset: 5, term: 8, clock_ms: 0 }.batch(2, 1);
    let info = crate::batch::peek(&entry.data).unwrap();
    assert_eq!((info.leader_epoch, info.base_offset), (LeaderEpoch(8), KafkaOffset(5)));
}
