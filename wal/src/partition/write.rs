//! The three calls that change files: append, sync, and taking note of what has finished.

use std::path::PathBuf;
use std::sync::Arc;

use super::append::{self, Plan, PlannedSegment, ProducerSnapshot};
use super::error::FilesError;
use super::jobs::{FileDone, FileJob, SnapshotJob, SyncJob, Work};
use super::names::{self, Part, SegmentFiles};
use super::segment::{Segment, Shape};
use super::{PartitionLog, RollPolicy};
use crate::entry::{FlushPoint, LogEntry, LogStart};
use crate::types::KafkaOffset;

/// Most record bytes of one append job: large enough for the disk's full speed, small enough that a job ends soon.
pub const APPEND_BYTES_MAX: usize = 8 << 20;
/// Most entries of one append job.
const APPEND_ENTRIES_MAX: usize = 65_536;
/// Index entries of the active segment that may be unsynced: they save a start from scanning 64 × 4 KiB per partition
/// after a power cut, and cost an fdatasync each time, so they are synced only when there are so many.
const INDEX_UNSYNCED_MAX: u32 = 64;

/// The job in flight that changes files, and what it will have changed.
pub(super) enum Pending {
    Append {
        segments: Vec<PlannedSegment>,
        continues: bool,
        snapshots: Vec<KafkaOffset>,
        made: bool,
    },
    Sync {
        point: FlushPoint,
    },
    Snapshot {
        offset: KafkaOffset,
        obsolete: Vec<KafkaOffset>,
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
pub(super) struct Dirty {
    pub(super) segments: Vec<DirtySegment>,
    pub(super) snapshots: Vec<PathBuf>,
    pub(super) names: bool,
    pub(super) made: bool,
    pub(super) epochs: bool,
}

pub(super) struct DirtySegment {
    pub(super) files: Arc<SegmentFiles>,
    pub(super) log: bool,
    pub(super) raft: bool,
    pub(super) index_entries: u32,
}

impl PartitionLog {
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
        // One that is there already stays as it is: should this job fail, it removes what it has made.
        plan.snapshots.retain(|snapshot| !self.snapshots.contains(&snapshot.offset));
        plan.snapshots.dedup_by_key(|snapshot| snapshot.offset);
        let make = (!self.made).then(|| self.identity.clone());
        let job = plan.job(make, self.past_cache);
        let snapshots = plan.snapshots.iter().map(|snapshot| snapshot.offset).collect();
        let (segments, continues) = (plan.segments, plan.continues);
        self.pending = Some(Pending::Append { segments, continues, snapshots, made: !self.made });
        Some(FileJob(Work::Append(job)))
    }

    /// Whether batches are written past the page cache from now on: for a partition whose newest batches nobody reads from
    /// its files. They are read all the same, from the disk.
    pub fn set_past_cache(&mut self, past_cache: bool) {
        self.past_cache = past_cache;
    }

    /// Whether batches are written past the page cache.
    #[must_use]
    pub fn writes_past_cache(&self) -> bool {
        self.past_cache
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

    /// A job that keeps the producer state between rolls, durably, so that a start replays little: none while another job
    /// is in flight, or when there is a newer one. Its offset may lie beyond what is written: the WAL has the rest.
    ///
    /// Snapshots that neither begin a segment nor are the newest go with it.
    pub fn keep_snapshot(&mut self, snapshot: ProducerSnapshot) -> Option<FileJob> {
        let newest = self.snapshots.last().copied();
        if self.is_busy() || !self.made || newest.is_some_and(|newest| newest >= snapshot.offset) {
            return None;
        }
        let begins_segment =
            |offset: &KafkaOffset| self.segments.iter().any(|segment| segment.files.base_offset == *offset);
        let obsolete: Vec<KafkaOffset> =
            self.snapshots.iter().copied().filter(|offset| !begins_segment(offset)).collect();
        let job = SnapshotJob {
            dir: self.dir.clone(),
            path: append::snapshot_path(&self.dir, snapshot.offset),
            bytes: snapshot.bytes,
            obsolete: obsolete.iter().map(|offset| append::snapshot_path(&self.dir, *offset)).collect(),
        };
        self.pending = Some(Pending::Snapshot { offset: snapshot.offset, obsolete });
        Some(FileJob(Work::Snapshot(job)))
    }

    /// Takes note of a finished job.
    ///
    /// # Errors
    /// The job's own. [`FilesError::NoSpace`] and [`FilesError::Occupied`] change nothing: make the job again later. [`FilesError::Fatal`] must stop the
    /// process. The outcome of a read is the caller's business and is only passed over here.
    ///
    /// # Panics
    /// When no such job is in flight.
    pub fn finished(&mut self, done: FileDone) -> Result<(), FilesError> {
        let result = match done {
            FileDone::Appended(result)
            | FileDone::Synced(result)
            | FileDone::Dropped(result)
            | FileDone::Kept(result) => result,
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
            Pending::Snapshot { offset, obsolete } => {
                self.snapshots.insert(offset);
                for offset in obsolete {
                    self.snapshots.remove(&offset);
                }
            }
            Pending::Drop { start, count, renamed, unlink_at_ms, snapshots } => {
                self.dropped(start, count, &snapshots);
                self.unlinks.push_back((unlink_at_ms, renamed));
            }
        }
        Ok(())
    }

    fn appended(&mut self, segments: Vec<PlannedSegment>, continues: bool) {
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

    fn mark_dirty(&mut self, planned: &PlannedSegment, before: &Shape) {
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
}
