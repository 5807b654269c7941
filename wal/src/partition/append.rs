//! Appending: which entry goes into which file at which place is decided here, in pure code, on the shard;
//! [`AppendJob::run`] carries it out on a helper thread.
//!
//! Nothing of a plan takes effect in [`super::PartitionLog`] before its job has succeeded. A job that failed for want
//! of space has therefore changed nothing: what it wrote lies beyond what anybody reads and is written again.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::cache::FileCache;
use super::error::FilesError;
use super::index::{self, IndexEntry};
use super::names::{METADATA_FILE, Part, PartitionIdentity, SegmentFiles, topic_id_in, topic_id_text};
use super::raft_log_file::{OtherEntry, RAFT_FILE_ROLL_BYTES, RaftFileHeader, RaftRecord, TermRun};
use super::segment::Shape;
use super::{FileLimits, RollPolicy};
use crate::batch::peek;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::entry::{EntryKind, LogEntry};
use crate::types::{GroupId, KafkaOffset, RaftIndex};

/// Kafka keeps offsets relative to a segment's base in 31 bits; its tools refuse a wider segment.
const OFFSET_SPAN_MAX: i64 = i32::MAX as i64;
/// What an entry costs in Kafka's time index: `segment.index.bytes` counts these, so that it means here what it means there.
const KAFKA_INDEX_ENTRY_BYTES: u64 = 12;
/// A shorter piece goes through the page cache even where nobody reads it: a write past the cache goes to the disk at once,
/// one by one, while cached ones of a quiet partition are joined until the next sync.
const WRITE_PAST_BYTES_MIN: u64 = 256 << 10;

/// Producer state as of an offset, in Kafka's snapshot format, to be kept as `<offset>.snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSnapshot {
    /// The state covers every batch below this offset.
    pub offset: KafkaOffset,
    /// The file's contents.
    pub bytes: Bytes,
}

/// One segment as the plan changes it.
pub(super) struct PlannedSegment {
    pub(super) files: Arc<SegmentFiles>,
    pub(super) created: bool,
    pub(super) shape: Shape,
    pub(super) new_others: Vec<OtherEntry>,
    pub(super) new_terms: Vec<TermRun>,
    write: SegmentWrite,
}

/// Bytes for one segment's files.
#[derive(Default)]
struct SegmentWrite {
    log_at: u64,
    log: Vec<Bytes>,
    index_at: u64,
    index: Vec<u8>,
    raft_at: u64,
    raft: Vec<u8>,
    raft_seed: u32,
}

/// An append being planned. The last segment is the one that grows.
pub(super) struct Plan<'a> {
    pub(super) dir: PathBuf,
    pub(super) group: GroupId,
    pub(super) cache: &'a Arc<FileCache>,
    pub(super) limits: FileLimits,
    pub(super) policy: RollPolicy,
    pub(super) wall_ms: i64,
    pub(super) segments: Vec<PlannedSegment>,
    pub(super) snapshots: Vec<ProducerSnapshot>,
    /// Whether `segments[0]` was there before.
    pub(super) continues: bool,
}

impl Plan<'_> {
    /// Begins a segment at the log's end.
    pub(super) fn create(&mut self, end: &Shape) {
        let head = RaftFileHeader {
            base_offset: end.next_offset,
            first_index: end.last_index.next(),
            previous_term: end.last_term,
            group: self.group,
            created_ms: self.wall_ms,
        };
        let mut shape = Shape::empty(head);
        shape.raft_bytes = super::raft_log_file::HEADER_BYTES as u64;
        let files = SegmentFiles::new(self.cache.new_id(), &self.dir, head.base_offset);
        let write = SegmentWrite {
            index: shape.index_origin().header().to_vec(),
            raft: head.encode().to_vec(),
            raft_seed: head.seed(),
            ..SegmentWrite::default()
        };
        let (new_others, new_terms) = (Vec::new(), Vec::new());
        self.segments.push(PlannedSegment { files, created: true, shape, new_others, new_terms, write });
    }

    /// Goes on with the active segment.
    pub(super) fn resume(&mut self, files: &Arc<SegmentFiles>, shape: Shape) {
        let write = SegmentWrite {
            log_at: shape.log_bytes,
            index_at: index::entry_position(shape.index_count),
            raft_at: shape.raft_bytes,
            raft_seed: shape.head.seed(),
            ..SegmentWrite::default()
        };
        let files = Arc::clone(files);
        let (new_others, new_terms) = (Vec::new(), Vec::new());
        self.segments.push(PlannedSegment { files, created: false, shape, new_others, new_terms, write });
        self.continues = true;
    }

    /// Adds one entry, after a roll when one is due.
    pub(super) fn add(
        &mut self,
        entry: &LogEntry,
        snapshot: &mut dyn FnMut(KafkaOffset) -> Option<ProducerSnapshot>,
    ) {
        let shape = &self.active().shape;
        assert_eq!(entry.index, shape.last_index.next(), "entries follow one another");
        assert!(
            entry.term >= shape.last_term,
            "terms never go down: {} after {}",
            entry.term,
            shape.last_term
        );
        assert!(entry.base_offset >= shape.next_offset, "offsets never go down");
        if self.must_roll(entry) {
            self.roll(snapshot);
        }
        match entry.kind {
            EntryKind::Batch => self.add_batch(entry),
            _ => self.add_other(entry),
        }
        let wall_ms = self.wall_ms;
        let shape = &mut self.active().shape;
        shape.last_index = entry.index;
        shape.last_term = entry.term;
        shape.next_offset = entry.next_offset();
        shape.appended_ms = wall_ms;
    }

    fn active(&mut self) -> &mut PlannedSegment {
        self.segments.last_mut().expect("a plan has a segment")
    }

    /// Kafka's `LogSegment.shouldRoll`, and one case of ours: a log start that ends every batch of the segment begins the
    /// next one, on every replica alike, so that the segment can go.
    fn must_roll(&mut self, entry: &LogEntry) -> bool {
        let (policy, limits, wall_ms) = (self.policy, self.limits, self.wall_ms);
        let shape = &self.active().shape;
        if shape.log_bytes == 0 {
            // Without a batch the next segment would have the same base offset, thus the same name.
            return false;
        }
        if entry.kind != EntryKind::Batch {
            return shape.raft_bytes > RAFT_FILE_ROLL_BYTES
                || log_start_of(entry).is_some_and(|start| start >= shape.next_offset);
        }
        let header = peek(&entry.data).expect("a batch in the log has a good header");
        let waited_ms = match shape.first_timestamp {
            Some(first) if first >= 0 => header.max_timestamp.saturating_sub(first),
            _ => wall_ms.saturating_sub(shape.head.created_ms),
        };
        shape.log_bytes + header.size_bytes as u64 > policy.segment_bytes
            || waited_ms > policy.segment_ms.saturating_sub(policy.jitter_ms)
            || u64::from(shape.index_count + 1) * KAFKA_INDEX_ENTRY_BYTES > limits.index_bytes_max
            || header.next_offset().0 - shape.head.base_offset.0 > OFFSET_SPAN_MAX
            || entry.index.0 - shape.head.first_index.0 > OFFSET_SPAN_MAX.unsigned_abs()
    }

    fn roll(&mut self, snapshot: &mut dyn FnMut(KafkaOffset) -> Option<ProducerSnapshot>) {
        let sealed = self.active();
        let seed = sealed.write.raft_seed;
        let before = sealed.write.raft.len();
        RaftRecord::Seal(sealed.shape.seal()).encode(seed, &mut sealed.write.raft);
        sealed.shape.raft_bytes += (sealed.write.raft.len() - before) as u64;
        let end = sealed.shape;
        self.snapshots.extend(snapshot(end.next_offset));
        self.create(&end);
    }

    fn add_batch(&mut self, entry: &LogEntry) {
        let header = peek(&entry.data).expect("a batch in the log has a good header");
        assert_eq!(header.size_bytes, entry.data.len(), "an entry is one whole batch");
        assert_eq!(header.base_offset, entry.base_offset, "the batch carries the offset that it was given");
        assert_eq!(
            header.leader_epoch.term(),
            Some(entry.term),
            "the batch carries its term as leader epoch"
        );
        let interval = u64::from(self.limits.index_interval_bytes);
        let segment = self.active();
        let shape = &mut segment.shape;
        if entry.term > shape.last_term {
            let run = TermRun { first_index: entry.index, term: entry.term, first_offset: entry.base_offset };
            let before = segment.write.raft.len();
            let record = RaftRecord::TermRun { run, position: shape.log_bytes };
            record.encode(segment.write.raft_seed, &mut segment.write.raft);
            shape.raft_bytes += (segment.write.raft.len() - before) as u64;
            segment.new_terms.push(run);
        }
        if shape.unindexed_bytes > interval {
            let mark = index_entry(shape, entry.index, entry.base_offset);
            segment.write.index.extend_from_slice(&shape.index_origin().encode(&mark));
            shape.index_count += 1;
            shape.unindexed_bytes = 0;
        }
        shape.unindexed_bytes += header.size_bytes as u64;
        shape.log_bytes += header.size_bytes as u64;
        shape.max_timestamp = shape.max_timestamp.max(header.max_timestamp);
        shape.first_timestamp.get_or_insert(header.max_timestamp);
        segment.write.log.push(entry.data.clone());
    }

    fn add_other(&mut self, entry: &LogEntry) {
        let segment = self.active();
        let shape = &mut segment.shape;
        let other = OtherEntry { entry: entry.clone(), position: shape.log_bytes };
        let before = segment.write.raft.len();
        let record = RaftRecord::Other(other.clone());
        record.encode(segment.write.raft_seed, &mut segment.write.raft);
        shape.raft_bytes += (segment.write.raft.len() - before) as u64;
        shape.other_count += 1;
        if entry.term > shape.last_term {
            let (first_index, first_offset) = (entry.index, entry.base_offset);
            segment.new_terms.push(TermRun { first_index, term: entry.term, first_offset });
        }
        segment.new_others.push(other);
    }

    /// The job that writes what was added.
    pub(super) fn job(&mut self, make: Option<PartitionIdentity>, past_cache: bool) -> AppendJob {
        let writes = self
            .segments
            .iter_mut()
            .map(|segment| {
                let write = std::mem::take(&mut segment.write);
                (Arc::clone(&segment.files), segment.created, write)
            })
            .collect();
        AppendJob {
            dir: self.dir.clone(),
            make,
            cache: Arc::clone(self.cache),
            writes,
            snapshots: self.snapshots.clone(),
            past_cache,
        }
    }
}

/// The index entry for a batch that is appended to a segment of this shape.
pub(super) fn index_entry(shape: &Shape, index: RaftIndex, offset: KafkaOffset) -> IndexEntry {
    IndexEntry {
        position: shape.log_bytes,
        offset,
        index,
        others_before: shape.other_count,
        max_timestamp_before: shape.max_timestamp,
    }
}

/// The offset in a log start entry.
fn log_start_of(entry: &LogEntry) -> Option<KafkaOffset> {
    let payload: [u8; 8] = entry.data.as_ref().try_into().ok()?;
    (entry.kind == EntryKind::LogStart).then(|| KafkaOffset(i64::from_le_bytes(payload)))
}

/// The disk work of one append.
pub(super) struct AppendJob {
    dir: PathBuf,
    /// Whose directory is to be made; none when it was made before.
    make: Option<PartitionIdentity>,
    cache: Arc<FileCache>,
    writes: Vec<(Arc<SegmentFiles>, bool, SegmentWrite)>,
    snapshots: Vec<ProducerSnapshot>,
    /// Nobody is expected to read the batches soon.
    past_cache: bool,
}

impl AppendJob {
    pub(super) fn run(self, disk: &dyn Disk) -> Result<(), FilesError> {
        self.check_vacant(disk)?;
        let result = self.write(disk);
        if result.is_err() {
            self.remove_created(disk);
        }
        result
    }

    /// Removes the files that a failed attempt made: the next one may roll elsewhere, and a start must not take them for
    /// segments. What cannot be removed, a start removes for lying beyond the checkpoint.
    fn remove_created(&self, disk: &dyn Disk) {
        let created = self.writes.iter().filter(|(_, created, _)| *created);
        for (files, ..) in created {
            self.cache.forget(files);
            for part in Part::ALL {
                let _ = disk.remove_file(&files.path(part));
            }
        }
        for snapshot in &self.snapshots {
            let _ = disk.remove_file(&snapshot_path(&self.dir, snapshot.offset));
        }
    }

    /// A topic made again has the directory names of the one that was deleted, whose helper thread may not have moved them
    /// aside yet.
    fn check_vacant(&self, disk: &dyn Disk) -> Result<(), FilesError> {
        let Some(identity) = &self.make else { return Ok(()) };
        match topic_id_in(disk, &self.dir) {
            Some(id) if id != topic_id_text(identity.topic_id) => {
                Err(FilesError::Occupied { dir: self.dir.clone() })
            }
            _ => Ok(()),
        }
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), FilesError> {
        if let Some(identity) = &self.make {
            let failed = |error| FilesError::write(&self.dir, "making the directory", error);
            disk.create_dir_all(&self.dir).map_err(failed)?;
            write_whole(disk, &self.dir.join(METADATA_FILE), identity.metadata_text().as_bytes())?;
        }
        // ORDER: space for all is reserved before the first byte is written, so that a full disk is met before.
        for (files, created, write) in &self.writes {
            for part in Part::ALL {
                let path = files.path(part);
                let (at, bytes) = write.extent(part);
                if bytes == 0 && !created {
                    continue;
                }
                let failed = |error| FilesError::write(&path, "reserving space", error);
                let file = self.cache.writer(disk, files, part).map_err(failed)?;
                if *created {
                    // What an attempt before this one may have left; nobody has mapped it.
                    file.set_len(0).map_err(failed)?;
                }
                reserve(&*file, at, bytes).map_err(failed)?;
            }
        }
        for snapshot in &self.snapshots {
            write_whole(disk, &snapshot_path(&self.dir, snapshot.offset), &snapshot.bytes)?;
        }
        for (files, _, write) in &self.writes {
            for part in Part::ALL {
                self.write_part(disk, files, part, write)?;
            }
        }
        Ok(())
    }

    fn write_part(
        &self,
        disk: &dyn Disk,
        files: &SegmentFiles,
        part: Part,
        write: &SegmentWrite,
    ) -> Result<(), FilesError> {
        let (at, bytes) = write.extent(part);
        if bytes == 0 {
            return Ok(());
        }
        let path = files.path(part);
        let failed = |error| FilesError::write(&path, "writing", error);
        let file = self.cache.writer(disk, files, part).map_err(failed)?;
        match part {
            Part::Log => {
                let past_cache = self.past_cache && bytes >= WRITE_PAST_BYTES_MIN;
                write_slices(&*file, at, &write.log, past_cache)
            }
            Part::Index => file.write_all_at(&write.index, at),
            Part::Raft => file.write_all_at(&write.raft, at),
        }
        .map_err(failed)
    }
}

impl SegmentWrite {
    /// Where the bytes of a part go, and how many they are.
    fn extent(&self, part: Part) -> (u64, u64) {
        match part {
            Part::Log => (self.log_at, self.log.iter().map(|slice| slice.len() as u64).sum()),
            Part::Index => (self.index_at, self.index.len() as u64),
            Part::Raft => (self.raft_at, self.raft.len() as u64),
        }
    }
}

/// Where the producer state as of an offset is kept.
pub(super) fn snapshot_path(dir: &std::path::Path, offset: KafkaOffset) -> PathBuf {
    dir.join(super::names::file_name(offset, "snapshot"))
}

fn write_slices(file: &dyn DiskFile, at: u64, slices: &[Bytes], past_cache: bool) -> std::io::Result<()> {
    let slices: Vec<&[u8]> = slices.iter().map(|slice| &slice[..]).collect();
    if past_cache { file.write_past_cache_at(&slices, at) } else { file.write_vectored_at(&slices, at) }
}

fn reserve(file: &dyn DiskFile, at: u64, bytes: u64) -> std::io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match file.allocate(at, bytes) {
        // A file system without fallocate: the write itself meets the full disk, with the same outcome.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

fn write_whole(disk: &dyn Disk, path: &std::path::Path, contents: &[u8]) -> Result<(), FilesError> {
    let write = || {
        let file = disk.open(path, OpenMode::ReadWrite)?;
        file.set_len(0)?;
        file.write_all_at(contents, 0)
    };
    write().map_err(|error| FilesError::write(path, "writing", error))
}
