//! The files of one partition: committed entries, in segments that are byte for byte Apache Kafka's.
//!
//! [`PartitionLog`] is pure state, owned by the shard that owns the partition. What it wants done on the disk it hands
//! out as [`FileJob`]s; a helper thread runs them and the shard feeds the [`FileDone`] back. Nothing takes effect before
//! that.
//!
//! ```text
//! data/<topic>-<partition>/               made by the first append
//!     00000000000000000000.log            record batches and nothing else
//!     00000000000000000000.sidx           sparse index (index.rs), can be built again
//!     00000000000000000000.raft           entries that are not batches, terms, the seal (raft_log_file.rs)
//!     00000000000000004711.snapshot       producer state as of an offset, Kafka's format, the caller's bytes
//!     leader-epoch-checkpoint             for Kafka's tools
//!     partition.metadata                  which topic it is
//! ```
//!
//! Reading order: this file, `segment`, `append`, `read` (over `view`, `index`), `retention`, `open` (over `scan`), `delete`.
//!
//! Invariants:
//! - Only committed entries are appended, each one after the one before, so a file is never cut while the node runs.
//! - At most one job that changes files is in flight. Reads run beside it, below the length that was written when they
//!   were made.
//! - Only [`PartitionLog::synced`] is durable. At start everything beyond the checkpoint made from it is cut off, whatever it
//!   is; the shard's WAL has it.
//! - Every segment but the last is sealed, holds a batch at least, and never changes again.

mod append;
mod cache;
mod delete;
mod dump;
mod error;
mod index;
mod jobs;
mod names;
mod open;
mod raft_log_file;
mod read;
mod retention;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

pub use append::ProducerSnapshot;
pub use cache::FileCache;
pub use delete::{SweepReport, sweep};
pub use dump::dump_log;
pub use error::FilesError;
pub use jobs::{FileDone, FileJob};
pub use names::PartitionIdentity;
pub use open::Opened;
pub use raft_log_file::TermRun;
pub use read::{READ_BYTES_MAX, ReadBatches};

use append::Plan;
use jobs::{SyncJob, Work};
use names::{Part, SegmentFiles};
use raft_log_file::RaftFileHeader;
use read::SegmentView;
use segment::{Segment, Shape};

use crate::entry::{FlushPoint, LogEntry, LogStart};
use crate::epochs::EpochTable;
use crate::types::{KafkaOffset, RaftIndex, Term};

/// Most record bytes of one append job: large enough for the disk's full speed, small enough that a job ends soon.
pub const APPEND_BYTES_MAX: usize = 8 << 20;
/// Most entries of one append job.
const APPEND_ENTRIES_MAX: usize = 65_536;
/// Index entries of the active segment that may be unsynced: they save a start from scanning 64 × 4 KiB per partition
/// after a power cut, and cost an fdatasync each time, so they are synced only when there are so many.
const INDEX_UNSYNCED_MAX: u32 = 64;

/// What all partitions of a node share. Cheap to clone.
#[derive(Clone)]
pub struct FileStore {
    /// The directory that the partitions' directories stand in, `<data dir>/data`.
    pub data_dir: PathBuf,
    /// Open files and mappings.
    pub cache: Arc<FileCache>,
}

/// Bounds of the index files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// `index.interval.bytes`: an index entry each time this many bytes have been appended.
    pub index_interval_bytes: u32,
    /// `segment.index.bytes`: a segment is rolled when Kafka's index of it would be as large.
    pub index_bytes_max: u64,
}

impl Default for FileLimits {
    /// Kafka's: 4 KiB and 10 MiB.
    fn default() -> Self {
        Self { index_interval_bytes: 4096, index_bytes_max: 10 << 20 }
    }
}

/// When a new segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollPolicy {
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// How much sooner than `segment_ms`: drawn by the caller below `segment.jitter.ms`.
    pub jitter_ms: i64,
}

/// The files of one partition.
pub struct PartitionLog {
    store: FileStore,
    identity: PartitionIdentity,
    limits: FileLimits,
    dir: PathBuf,
    /// Where the files begin: all that is at or below its index is gone from them.
    start: LogStart,
    /// Oldest first; the last one is active.
    segments: VecDeque<Segment>,
    /// Whether the directory and its `partition.metadata` were made.
    made: bool,
    dirty: Dirty,
    synced: FlushPoint,
    pending: Option<Pending>,
    /// Offsets of the producer snapshots on disk.
    snapshots: BTreeSet<KafkaOffset>,
    /// Renamed files and when they are to be unlinked, monotonic ms.
    unlinks: VecDeque<(u64, Vec<PathBuf>)>,
}

/// The job in flight that changes files, and what it will have changed.
enum Pending {
    Append {
        segments: Vec<append::PlannedSegment>,
        continues: bool,
        snapshots: Vec<KafkaOffset>,
        made: bool,
    },
    Sync {
        point: FlushPoint,
    },
    Drop {
        start: LogStart,
        count: usize,
        renamed: Vec<PathBuf>,
        unlink_at_ms: u64,
        snapshots: Vec<KafkaOffset>,
    },
}

/// What was written and is not durable.
#[derive(Default)]
struct Dirty {
    segments: Vec<DirtySegment>,
    snapshots: Vec<PathBuf>,
    names: bool,
    made: bool,
    epochs: bool,
}

struct DirtySegment {
    files: Arc<SegmentFiles>,
    log: bool,
    raft: bool,
    index_entries: u32,
}

impl PartitionLog {
    /// A partition with nothing on disk: a new one, or one that begins at a snapshot.
    #[must_use]
    pub fn new(store: &FileStore, identity: PartitionIdentity, start: LogStart, limits: FileLimits) -> Self {
        let dir = store.data_dir.join(identity.directory_name());
        let mut log = Self {
            store: store.clone(),
            identity,
            limits,
            dir,
            start,
            segments: VecDeque::new(),
            made: false,
            dirty: Dirty::default(),
            synced: FlushPoint::default(),
            pending: None,
            snapshots: BTreeSet::new(),
            unlinks: VecDeque::new(),
        };
        log.synced = log.written();
        log
    }

    /// Which partition it is.
    #[must_use]
    pub fn identity(&self) -> &PartitionIdentity {
        &self.identity
    }

    /// How far the files hold the log, durably or not. Entries up to here may leave memory.
    #[must_use]
    pub fn written(&self) -> FlushPoint {
        let end = self.end();
        FlushPoint {
            index: end.last_index,
            term: end.last_term,
            next_offset: end.next_offset,
            segment_base: end.head.base_offset,
            position: end.log_bytes,
        }
    }

    /// How far the files hold the log durably. A checkpoint may say so.
    #[must_use]
    pub fn synced(&self) -> FlushPoint {
        self.synced
    }

    /// Where the files begin.
    #[must_use]
    pub fn start(&self) -> LogStart {
        self.start
    }

    /// Whether a job that changes files is in flight: [`Self::append`], [`Self::sync`], [`Self::drop_below`] and
    /// [`Self::reset`] have to wait for it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// Bytes of all `.log` files: what DescribeLogDirs and the metrics call the partition's size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.shape.log_bytes).sum()
    }

    /// How many segments there are.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The highest timestamp of any record in the files; −1 for none. [`Self::find_time`] of it finds its record.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        let timestamps = self.segments.iter().map(|segment| segment.shape.max_timestamp);
        timestamps.max().unwrap_or(segment::NO_TIMESTAMP)
    }

    /// The terms of the files' entries, oldest first.
    #[must_use]
    pub fn term_runs(&self) -> Vec<TermRun> {
        let mut runs: Vec<TermRun> = self.segments.iter().flat_map(|segment| segment.terms.clone()).collect();
        let first_index = self.start.index.next();
        let goes_on = runs.first().is_none_or(|run| run.first_index > first_index);
        if goes_on && self.written().index >= first_index {
            let (term, first_offset) = (self.start.term, self.start.offset);
            runs.insert(0, TermRun { first_index, term, first_offset });
        }
        runs
    }

    /// The leader epochs that wrote the batches in the files.
    #[must_use]
    pub fn epoch_table(&self) -> EpochTable {
        let runs = self.term_runs();
        let end = self.written().next_offset;
        let mut table = EpochTable::new();
        for (number, run) in runs.iter().enumerate() {
            let run_end = runs.get(number + 1).map_or(end, |next| next.first_offset);
            if run_end > run.first_offset {
                table.append(run.term.leader_epoch(), run.first_offset);
            }
        }
        table
    }

    /// The term of an entry in the files, or of the last one before them.
    #[must_use]
    pub fn term_of(&self, index: RaftIndex) -> Option<Term> {
        if index < self.start.index || index > self.written().index {
            return None;
        }
        let later = self.segments.partition_point(|segment| segment.shape.head.first_index <= index);
        let Some(segment) = later.checked_sub(1).map(|number| &self.segments[number]) else {
            return Some(self.start.term);
        };
        let run = segment.terms.iter().rev().find(|run| run.first_index <= index);
        Some(run.map_or(segment.shape.head.previous_term, |run| run.term))
    }

    /// The entries in the files that are not batches, from an index on.
    pub fn other_entries(&self, from: RaftIndex) -> impl Iterator<Item = &LogEntry> {
        let others = self.segments.iter().flat_map(|segment| segment.others.iter());
        others.map(|other| &other.entry).filter(move |entry| entry.index >= from)
    }

    /// A job that appends as many of `entries` as fit one ([`APPEND_BYTES_MAX`], or one entry); none when there are none.
    /// When it is done, [`Self::written`] says how far it came. They follow [`Self::written`] without a gap, and are
    /// committed.
    ///
    /// `snapshot` is asked at each roll for the producer state, with the offset where the new segment begins; it may give that of
    /// a later offset, or none: then recovery replays more.
    ///
    /// # Panics
    /// When a job that changes files is in flight, when an entry does not follow the one before it, or when a batch does not
    /// carry its own offset and epoch: written, each of these would be a corrupt log.
    pub fn append(
        &mut self,
        entries: &[LogEntry],
        policy: RollPolicy,
        wall_ms: i64,
        snapshot: &mut dyn FnMut(KafkaOffset) -> Option<ProducerSnapshot>,
    ) -> Option<FileJob> {
        assert!(!self.is_busy(), "one job that changes files at a time");
        if entries.is_empty() {
            return None;
        }
        let mut plan = Plan {
            dir: self.dir.clone(),
            group: self.identity.group,
            cache: &self.store.cache,
            limits: self.limits,
            policy,
            wall_ms,
            segments: Vec::new(),
            snapshots: Vec::new(),
            continues: false,
        };
        match self.segments.back() {
            Some(active) => plan.resume(&active.files, active.shape),
            None => plan.create(&self.end()),
        }
        let mut bytes = 0;
        for (count, entry) in entries.iter().take(APPEND_ENTRIES_MAX).enumerate() {
            bytes += entry.data.len();
            if count > 0 && bytes > APPEND_BYTES_MAX {
                break;
            }
            plan.add(entry, snapshot);
        }
        let metadata = (!self.made).then(|| self.identity.metadata_text());
        let job = plan.job(metadata);
        let snapshots = plan.snapshots.iter().map(|snapshot| snapshot.offset).collect();
        let (segments, continues) = (plan.segments, plan.continues);
        self.pending = Some(Pending::Append { segments, continues, snapshots, made: !self.made });
        Some(FileJob(Work::Append(job)))
    }

    /// A job that makes durable all that is written; none when all of it is, or when another job is in flight.
    pub fn sync(&mut self) -> Option<FileJob> {
        let point = self.written();
        if self.is_busy() || point == self.synced {
            return None;
        }
        let active = self.segments.back().map(|segment| segment.files.id);
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut files = Vec::new();
        for segment in &mut dirty.segments {
            let sealed = Some(segment.files.id) != active;
            let index = segment.index_entries >= INDEX_UNSYNCED_MAX || (sealed && segment.index_entries > 0);
            let parts = [(Part::Log, segment.log), (Part::Index, index), (Part::Raft, segment.raft)];
            let chosen = parts.into_iter().filter(|(_, chosen)| *chosen);
            files.extend(chosen.map(|(part, _)| (Arc::clone(&segment.files), part)));
            if index {
                segment.index_entries = 0;
            }
            (segment.log, segment.raft) = (false, false);
        }
        dirty.segments.retain(|segment| segment.index_entries > 0);
        let epochs = dirty.epochs.then(|| self.epoch_table().encode());
        let others = if dirty.made { vec![self.dir.join(names::METADATA_FILE)] } else { Vec::new() };
        let job = SyncJob {
            cache: Arc::clone(&self.store.cache),
            dir: self.dir.clone(),
            files,
            others: others.into_iter().chain(dirty.snapshots).collect(),
            names: dirty.names,
            made: dirty.made,
            epochs,
        };
        self.dirty.segments = dirty.segments;
        self.pending = Some(Pending::Sync { point });
        Some(FileJob(Work::Sync(job)))
    }

    /// Takes note of a finished job.
    ///
    /// # Errors
    /// The job's own. [`FilesError::NoSpace`] changes nothing: make the job again later. [`FilesError::Fatal`] must stop the
    /// process. The outcome of a read is the caller's business and is only passed over here.
    ///
    /// # Panics
    /// When no such job is in flight.
    pub fn finished(&mut self, done: FileDone) -> Result<(), FilesError> {
        let result = match done {
            FileDone::Appended(result) | FileDone::Synced(result) | FileDone::Dropped(result) => result,
            FileDone::Unlinked(result) => return result,
            FileDone::Moved(_) | FileDone::Read(_) | FileDone::Entries(_) | FileDone::FoundTime(_) => {
                return Ok(());
            }
        };
        let pending = self.pending.take().expect("a job that changes files is in flight");
        result?;
        match pending {
            Pending::Append { segments, continues, snapshots, made } => {
                self.made = true;
                self.dirty.made |= made;
                self.dirty.names |= made || !snapshots.is_empty();
                let paths = snapshots.iter().map(|offset| append::snapshot_path(&self.dir, *offset));
                self.dirty.snapshots.extend(paths);
                self.snapshots.extend(snapshots);
                self.appended(segments, continues);
            }
            Pending::Sync { point } => self.synced = point,
            Pending::Drop { start, count, renamed, unlink_at_ms, snapshots } => {
                self.dropped(start, count, &snapshots);
                self.unlinks.push_back((unlink_at_ms, renamed));
            }
        }
        Ok(())
    }

    fn appended(&mut self, segments: Vec<append::PlannedSegment>, continues: bool) {
        for (number, planned) in segments.into_iter().enumerate() {
            let before = if planned.created { Shape::empty(planned.shape.head) } else { self.end() };
            self.dirty.epochs |= !planned.new_terms.is_empty();
            self.dirty.names |= planned.created;
            self.mark_dirty(&planned, &before);
            if number == 0 && continues {
                let active = self.segments.back_mut().expect("there was an active segment");
                active.shape = planned.shape;
                Arc::make_mut(&mut active.others).extend(planned.new_others);
                active.terms.extend(planned.new_terms);
            } else {
                let (files, shape) = (planned.files, planned.shape);
                let (others, terms) = (Arc::new(planned.new_others), planned.new_terms);
                self.segments.push_back(Segment { files, shape, others, terms });
            }
        }
    }

    fn mark_dirty(&mut self, planned: &append::PlannedSegment, before: &Shape) {
        let shape = &planned.shape;
        let known = self.dirty.segments.iter().position(|dirty| dirty.files.id == planned.files.id);
        let number = known.unwrap_or_else(|| {
            let files = Arc::clone(&planned.files);
            self.dirty.segments.push(DirtySegment { files, log: false, raft: false, index_entries: 0 });
            self.dirty.segments.len() - 1
        });
        let dirty = &mut self.dirty.segments[number];
        dirty.log |= planned.created || shape.log_bytes > before.log_bytes;
        dirty.raft |= planned.created || shape.raft_bytes > before.raft_bytes;
        dirty.index_entries += shape.index_count - before.index_count;
    }

    /// A job that reads batches, from the one that holds `from` up to `up_to_exclusive`; none when the files hold nothing
    /// there. `max_bytes` is cut to [`READ_BYTES_MAX`]; the outcome says where to go on.
    #[must_use]
    pub fn read(
        &self,
        from: KafkaOffset,
        up_to_exclusive: KafkaOffset,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Option<FileJob> {
        if from < self.start.base_offset || from >= up_to_exclusive.min(self.written().next_offset) {
            return None;
        }
        // The segment before the first one that ends at or below `from` has been left behind, gaps included.
        let number = self.segments.partition_point(|segment| segment.shape.next_offset <= from);
        let (view, up_to) = (self.view(number)?, up_to_exclusive);
        Some(FileJob(Work::Read { view, from, up_to, max_bytes, min_one_batch }))
    }

    /// A job that reads the entries from `from_index` on, one at least; none when the files do not hold it.
    #[must_use]
    pub fn read_entries(&self, from_index: RaftIndex, max_bytes: usize) -> Option<FileJob> {
        if from_index <= self.start.index || from_index > self.written().index {
            return None;
        }
        let number = self.segments.partition_point(|segment| segment.shape.last_index < from_index);
        let view = self.view(number)?;
        Some(FileJob(Work::Entries { view, from: from_index, max_bytes }))
    }

    /// A job that finds the first record with a timestamp of at least `timestamp` and an offset in `from..up_to_exclusive`;
    /// none when the files have no such timestamp.
    #[must_use]
    pub fn find_time(
        &self,
        timestamp: i64,
        from: KafkaOffset,
        up_to_exclusive: KafkaOffset,
    ) -> Option<FileJob> {
        let fits =
            |segment: &Segment| segment.shape.max_timestamp >= timestamp && segment.shape.next_offset > from;
        let numbers = (0..self.segments.len()).filter(|number| fits(&self.segments[*number]));
        // Two: in the first one the record may lie below `from`; of the second one every record is above it.
        let views: Vec<SegmentView> = numbers.take(2).filter_map(|number| self.view(number)).collect();
        if views.is_empty() {
            return None;
        }
        let up_to = up_to_exclusive;
        Some(FileJob(Work::FindTime { views, timestamp, from, up_to }))
    }

    fn view(&self, number: usize) -> Option<SegmentView> {
        let segment = self.segments.get(number)?;
        Some(SegmentView {
            cache: Arc::clone(&self.store.cache),
            files: Arc::clone(&segment.files),
            shape: segment.shape,
            active: number + 1 == self.segments.len(),
            others: Arc::clone(&segment.others),
        })
    }

    /// The last segment; without one, an empty one that begins where the files would.
    fn end(&self) -> Shape {
        self.segments.back().map_or_else(|| Shape::empty(self.empty_head()), |segment| segment.shape)
    }

    fn empty_head(&self) -> RaftFileHeader {
        RaftFileHeader {
            base_offset: self.start.base_offset,
            first_index: self.start.index.next(),
            previous_term: self.start.term,
            group: self.identity.group,
            created_ms: 0,
        }
    }
}
