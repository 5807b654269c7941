//! Which segments may go, and letting them go.
//!
//! Retention only proposes: the leader turns [`PartitionLog::retention_candidate`] into a log start entry, and files go when
//! that is committed and applied (SAFETY.md, rule 13). So deleted records do not come back with another leader.

use std::path::PathBuf;
use std::sync::Arc;

use super::PartitionLog;
use super::append::snapshot_path;
use super::jobs::{DropJob, FileJob, Work};
use super::names::SegmentFiles;
use super::write::Pending;
use crate::entry::LogStart;
use crate::types::KafkaOffset;

impl PartitionLog {
    /// The log start that retention asks for: the end of the last segment, from the oldest on, that is too old
    /// (`retention_ms`) or in excess (`retention_bytes`); −1 switches either off. None when nothing is to go.
    ///
    /// As in Kafka only whole segments go, and a segment's age is that of its highest timestamp. The active segment goes
    /// too when all of it has expired: the log start entry itself then opens the next one, on every replica.
    #[must_use]
    pub fn retention_candidate(
        &self,
        retention_bytes: i64,
        retention_ms: i64,
        wall_ms: i64,
        high_watermark: KafkaOffset,
    ) -> Option<KafkaOffset> {
        let mut excess = match u64::try_from(retention_bytes) {
            Ok(retained) => self.bytes().saturating_sub(retained),
            Err(_) => 0,
        };
        let mut candidate = None;
        for segment in &self.segments {
            let shape = &segment.shape;
            let too_old =
                retention_ms >= 0 && wall_ms.saturating_sub(shape.retention_timestamp()) > retention_ms;
            let too_much = shape.log_bytes <= excess;
            if shape.log_bytes == 0 || shape.next_offset > high_watermark || !(too_old || too_much) {
                break;
            }
            excess = excess.saturating_sub(shape.log_bytes);
            candidate = Some(shape.next_offset);
        }
        candidate.filter(|candidate| *candidate > self.start.offset)
    }

    /// The base offsets of the segments that lie wholly below a log start. The active one is never among them.
    #[must_use]
    pub fn segments_to_drop(&self, log_start: KafkaOffset) -> Vec<KafkaOffset> {
        let droppable = self.segments.iter().take(self.droppable(log_start));
        droppable.map(|segment| segment.files.base_offset).collect()
    }

    /// Where the files will begin once [`Self::drop_below`] has run with this log start; none when no segment goes.
    ///
    /// ORDER: the group's state with this log start must be durable in the WAL before [`Self::drop_below`] is called; a start
    /// that finds fewer entries than its log start promises takes that for damage.
    #[must_use]
    pub fn drop_point(&self, log_start: KafkaOffset) -> Option<LogStart> {
        let last = self.droppable(log_start).checked_sub(1)?;
        let shape = &self.segments[last].shape;
        let base_offset = self.segments[last + 1].files.base_offset;
        Some(LogStart { index: shape.last_index, term: shape.last_term, offset: log_start, base_offset })
    }

    /// A job that drops the segments below a log start that is durable: they are renamed at once and unlinked by
    /// [`Self::tick`] after `delete_delay_ms`. None when none goes or while another job is in flight: call it again later.
    ///
    /// ORDER: only what `durable` says is gone may go. A segment that was rolled after [`Self::drop_point`] was asked may lie
    /// below the same offset and yet above the index in the durable state; a start would then find entries missing.
    pub fn drop_below(&mut self, durable: LogStart, now_ms: u64, delete_delay_ms: u64) -> Option<FileJob> {
        if self.is_busy() {
            return None;
        }
        let dropped = self.segments.iter().take_while(|segment| segment.shape.last_index <= durable.index);
        let count = dropped.count().min(self.segments.len().saturating_sub(1));
        let shape = &self.segments[count.checked_sub(1)?].shape;
        let base_offset = self.segments[count].files.base_offset;
        let (index, term, offset) = (shape.last_index, shape.last_term, durable.offset);
        let start = LogStart { index, term, offset, base_offset };
        let snapshots = self.snapshots.range(..start.base_offset).copied().collect();
        Some(self.drop_job(start, count, snapshots, now_ms + delete_delay_ms))
    }

    /// A job that drops everything, because the group goes on at `start` after a snapshot. None while another job is in
    /// flight. The ORDER of [`Self::drop_point`] holds here too.
    pub fn reset(&mut self, start: LogStart, now_ms: u64, delete_delay_ms: u64) -> Option<FileJob> {
        if self.is_busy() {
            return None;
        }
        let snapshots = self.snapshots.iter().copied().collect();
        Some(self.drop_job(start, self.segments.len(), snapshots, now_ms + delete_delay_ms))
    }

    /// A job that unlinks what was dropped long enough ago; none when nothing is due. It runs beside any other.
    pub fn tick(&mut self, now_ms: u64) -> Option<FileJob> {
        let (due_ms, _) = self.unlinks.front()?;
        if *due_ms > now_ms {
            return None;
        }
        self.unlinks.pop_front().map(|(_, paths)| FileJob(Work::Unlink(paths)))
    }

    fn droppable(&self, log_start: KafkaOffset) -> usize {
        let followers = self.segments.iter().skip(1);
        followers.take_while(|segment| segment.files.base_offset <= log_start).count()
    }

    fn drop_job(
        &mut self,
        start: LogStart,
        count: usize,
        snapshots: Vec<KafkaOffset>,
        unlink_at_ms: u64,
    ) -> FileJob {
        let segments: Vec<Arc<SegmentFiles>> =
            self.segments.iter().take(count).map(|segment| Arc::clone(&segment.files)).collect();
        let paths: Vec<PathBuf> = snapshots.iter().map(|offset| snapshot_path(&self.dir, *offset)).collect();
        let job = DropJob { cache: Arc::clone(&self.store.cache), segments, snapshots: paths };
        let renamed = job.renamed();
        self.pending = Some(Pending::Drop { start, count, renamed, unlink_at_ms, snapshots });
        FileJob(Work::Drop(job))
    }

    pub(super) fn dropped(&mut self, start: LogStart, count: usize, snapshots: &[KafkaOffset]) {
        for segment in self.segments.drain(..count) {
            self.dirty.segments.retain(|dirty| dirty.files.id != segment.files.id);
        }
        for offset in snapshots {
            self.snapshots.remove(offset);
            let path = snapshot_path(&self.dir, *offset);
            self.dirty.snapshots.retain(|dirty| *dirty != path);
        }
        self.start = start;
        self.dirty.epochs = true;
        if self.segments.is_empty() {
            self.synced = self.written();
        }
    }
}
