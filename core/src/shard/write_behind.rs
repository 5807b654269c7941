//! Write-behind: applied entries go from Raft's tail into the partitions' files, in large pieces, off the shard.
//!
//! Nothing waits for it but memory: an entry may leave the tail once it is in its file, and a WAL segment may be used
//! again once the files that it covers are synced (`recycle.rs`). A partition is written when it has a piece of
//! `write_behind_bytes`, when its oldest unwritten entry has reached `write_behind_age_ms`, when memory runs short, or
//! when recycling asks for it.
//!
//! ORDER: only applied, hence committed, entries are written (SAFETY.md, rule 6); none while the files are about to begin anew
//! (`drops.rs`, `log_start.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use chronik_wal::entry::LogEntry;
use chronik_wal::partition::{FileDone, FileJob, FilesError, ProducerSnapshot, RollPolicy};
use chronik_wal::types::{GroupId, RaftIndex};

use super::{Job, JobOwner, Shard};

/// Jobs on partition files in flight at once: enough to keep the helper threads busy.
const FILE_JOBS_MAX: usize = 16;

/// Most entries looked at for one append.
const APPEND_BYTES_MAX: u64 = 8 << 20;

/// A consumer that is behind what is in memory will soon want what is written now: as long as one has read a partition's files within
/// this time, what is written to them stays in the page cache. Else nobody needs it there, and large pieces are written past
/// it. Measured, 64 KiB batches: 2.1 against 1.55 s of CPU a GB on one node, 4.25 against 3.15 on three together.
const READ_LATELY_MS: u64 = 60_000;

/// Bytes of batches that a start replays at most, about, to find a partition's producers again.
const KEEP_PRODUCERS_BYTES: u64 = 16 << 20;

/// After the disk was full, files are tried again after this long.
const FULL_RETRY_MS: u64 = 1_000;

/// While the files of a deleted topic of the same name are in the way, files are tried again after this long.
const OCCUPIED_RETRY_MS: u64 = 20;

/// What is to be written, and what is on its way.
#[derive(Debug, Default)]
pub struct WriteBehind {
    /// Partitions to be written now.
    urgent: BTreeSet<GroupId>,
    /// Partitions with unwritten entries, by the time of the oldest.
    by_age: BTreeSet<(u64, GroupId)>,
    /// Partitions whose files are to be synced once they are written up to this index.
    to_sync: BTreeMap<GroupId, RaftIndex>,
    in_flight: usize,
    /// The disk was full; files are tried again then.
    retry_at_ms: Option<u64>,
    /// Partitions for whose files the disk had no room; none once anything has been written since.
    without_room: BTreeSet<GroupId>,
    /// The partition that was written last: the others have their turn before it has another.
    last: GroupId,
}

impl WriteBehind {
    /// Whether the disk has no room for partition files.
    pub(crate) fn is_full(&self) -> bool {
        !self.without_room.is_empty()
    }

    /// Whether there is anything that helper threads or the disk have still to do.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight > 0 || !(self.urgent.is_empty() && self.by_age.is_empty() && self.to_sync.is_empty())
    }

    /// Urgent partitions, the one after the last written first.
    fn urgent_in_turn(&self) -> impl Iterator<Item = GroupId> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        self.urgent.range(after).chain(self.urgent.range(..=self.last)).copied()
    }

    /// The partition is gone.
    pub(crate) fn forget(&mut self, group: GroupId) {
        self.urgent.remove(&group);
        self.to_sync.remove(&group);
        self.without_room.remove(&group);
    }
}

impl Shard {
    /// Notes that entries of the group were applied.
    pub(crate) fn unwritten(&mut self, group: GroupId) {
        let Some(partition) = self.partitions.get(&group) else { return };
        let Some(since_ms) = partition.unwritten_since_ms else { return };
        if partition.unwritten_bytes >= self.limits.write_behind_bytes {
            self.write_behind.urgent.insert(group);
        } else if partition.unwritten_bytes > 0 {
            // An entry that only opens a term waits for the first batch: thousands of empty partitions make no file.
            self.write_behind.by_age.insert((since_ms, group));
        }
    }

    /// Has the group's files written up to an applied entry and synced as soon as may be.
    pub(crate) fn flush_soon(&mut self, group: GroupId, up_to: RaftIndex) {
        let Some(partition) = self.partitions.get(&group) else { return };
        if partition.files.written().index < up_to {
            self.write_behind.urgent.insert(group);
        }
        let target = self.write_behind.to_sync.entry(group).or_insert(up_to);
        *target = up_to.max(*target);
    }

    /// Starts as many jobs as may run.
    pub(crate) fn write_behind(&mut self) {
        if !self.writes_files() {
            return;
        }
        self.choose_by_age();
        if self.write_behind.retry_at_ms.is_some_and(|at_ms| at_ms > self.now.mono_ms) {
            return;
        }
        self.write_behind.retry_at_ms = None;
        self.drops.ready().into_iter().for_each(|group| self.start_drop(group));
        // Syncs first: a partition that is written all the time would otherwise never be synced, and its WAL never freed.
        let to_sync: Vec<GroupId> = self.write_behind.to_sync.keys().copied().collect();
        to_sync.into_iter().for_each(|group| self.start_sync(group));
        let free = FILE_JOBS_MAX.saturating_sub(self.write_behind.in_flight);
        let ready = |group: &GroupId| !self.partitions.get(group).is_some_and(|p| p.files.is_busy());
        let urgent: Vec<GroupId> = self.write_behind.urgent_in_turn().filter(ready).take(free).collect();
        urgent.into_iter().for_each(|group| self.start_append(group));
    }

    fn choose_by_age(&mut self) {
        let short = self.driver.tail_bytes() as u64 > self.limits.tail_bytes_max / 2 || self.is_waited_for();
        while let Some((since_ms, group)) = self.write_behind.by_age.first().copied() {
            let due = since_ms + self.limits.write_behind_age_ms <= self.now.mono_ms;
            let pressed = short && self.write_behind.urgent.len() < FILE_JOBS_MAX;
            if !due && !pressed {
                return;
            }
            self.write_behind.by_age.pop_first();
            self.write_behind.urgent.insert(group);
        }
    }

    /// When the oldest unwritten entry is due.
    pub(crate) fn write_behind_due_ms(&self) -> Option<u64> {
        let by_age = self.write_behind.by_age.first();
        let due = by_age.map(|(since_ms, _)| since_ms + self.limits.write_behind_age_ms);
        [due, self.write_behind.retry_at_ms].into_iter().flatten().min()
    }

    /// Whether a job on the group's files may be started.
    pub(crate) fn may_start(&self, group: GroupId) -> bool {
        let busy = self.partitions.get(&group).is_none_or(|partition| partition.files.is_busy());
        !busy && self.write_behind.in_flight < FILE_JOBS_MAX
    }

    fn start_append(&mut self, group: GroupId) {
        if !self.partitions.contains_key(&group) {
            return self.write_behind.forget(group);
        }
        if !self.may_start(group) || self.drops.is_in_the_way(group) {
            return;
        }
        self.write_behind.urgent.remove(&group);
        let (Some(partition), Some(tail)) = (self.partitions.get_mut(&group), self.driver.tail(group)) else {
            return;
        };
        let written = partition.files.written().index;
        let entries: Vec<LogEntry> =
            tail.entries(written.next(), partition.applied.next(), APPEND_BYTES_MAX).cloned().collect();
        let config = &partition.config;
        let jitter_ms = jitter(group, written.0, config.segment_jitter_ms);
        let policy = RollPolicy { jitter_ms, ..super::topics::roll_policy(config) };
        let offset = partition.high_watermark;
        let producers = &partition.producers;
        // Without any producer too: a start reads the log from the newest snapshot on.
        let mut snapshot = |_| Some(ProducerSnapshot { offset, bytes: producers.encode_snapshot().into() });
        let read_at_ms = partition.files_read_at_ms;
        let is_read = read_at_ms.is_some_and(|at_ms| at_ms + READ_LATELY_MS > self.now.mono_ms);
        partition.files.set_past_cache(!is_read);
        let job = partition.files.append(&entries, policy, self.now.wall_ms, &mut snapshot);
        self.write_behind.last = group;
        match job {
            Some(job) => self.start_file_job(group, job),
            // What it wanted to write is no more.
            None => drop(self.write_behind.without_room.remove(&group)),
        }
    }

    fn start_sync(&mut self, group: GroupId) {
        let Some(partition) = self.partitions.get_mut(&group) else {
            return self.write_behind.forget(group);
        };
        let target = self.write_behind.to_sync.get(&group).copied().unwrap_or_default();
        if partition.files.written().index < target || partition.files.is_busy() {
            return;
        }
        if self.write_behind.in_flight >= FILE_JOBS_MAX {
            return;
        }
        self.write_behind.to_sync.remove(&group);
        if let Some(job) = partition.files.sync() {
            self.start_file_job(group, job);
        }
    }

    /// Starts a job that changes a partition's files. Its end comes to [`Shard::files_done`].
    pub(crate) fn start_file_job(&mut self, group: GroupId, job: FileJob) {
        self.write_behind.in_flight += 1;
        self.start_job(JobOwner::Files(group), Job::File(job));
    }

    /// An append, sync or drop has ended.
    pub(crate) fn files_done(&mut self, group: GroupId, done: FileDone) {
        self.write_behind.in_flight -= 1;
        if let Some(files) = self.dying.get_mut(&group) {
            // The partition is deleted; what became of its last job matters no more.
            let _ = files.finished(done);
            return self.bury(group);
        }
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        let before = partition.files.written().index;
        let dropped = matches!(done, FileDone::Dropped(_));
        let synced = matches!(done, FileDone::Synced(_));
        match partition.files.finished(done) {
            Ok(()) if dropped => {
                self.write_behind.without_room.remove(&group);
                return self.dropped(group);
            }
            Ok(()) if synced => return self.keep_producers(group),
            Ok(()) => {}
            Err(FilesError::NoSpace { .. }) => {
                tracing::warn!(
                    group = group.0,
                    "no space for partition files: produce waits, reads and deletes go on"
                );
                self.write_behind.without_room.insert(group);
                return self.try_files_again(group, dropped, FULL_RETRY_MS);
            }
            Err(FilesError::Occupied { .. }) => {
                return self.try_files_again(group, dropped, OCCUPIED_RETRY_MS);
            }
            Err(error) => return self.fail(format!("partition files of group {group}: {error}")),
        }
        let written = partition.files.written().index;
        if written > before {
            self.write_behind.without_room.clear();
            self.written(group, before, written);
            self.drop_closed_segments(group);
        }
    }

    /// Nothing has changed; the same is done again after a while.
    fn try_files_again(&mut self, group: GroupId, dropping: bool, after_ms: u64) {
        self.write_behind.retry_at_ms = Some(self.now.mono_ms + after_ms);
        if dropping {
            self.drops.failed(group);
        } else {
            self.write_behind.urgent.insert(group);
        }
    }

    /// Keeps the producer state in a file when a start would have much to replay without it.
    fn keep_producers(&mut self, group: GroupId) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        if partition.unkept_bytes < KEEP_PRODUCERS_BYTES {
            return;
        }
        let offset = partition.high_watermark;
        let bytes = partition.producers.encode_snapshot().into();
        if let Some(job) = partition.files.keep_snapshot(ProducerSnapshot { offset, bytes }) {
            partition.unkept_bytes = 0;
            self.start_file_job(group, job);
        }
    }

    /// The files have begun anew: they go on with what the tail has.
    pub(crate) fn write_anew(&mut self, group: GroupId) {
        let (Some(partition), Some(tail)) = (self.partitions.get_mut(&group), self.driver.tail(group)) else {
            return;
        };
        let written = partition.files.written().index;
        let rest = tail.entries(written.next().max(tail.first_index()), partition.applied.next(), u64::MAX);
        partition.unwritten_bytes = rest.map(|entry| entry.data.len() as u64).sum();
        self.write_behind.urgent.insert(group);
    }

    /// The files hold the log up to `written` now: the tail may let go of it.
    fn written(&mut self, group: GroupId, before: RaftIndex, written: RaftIndex) {
        let (Some(partition), Some(tail)) = (self.partitions.get_mut(&group), self.driver.tail(group)) else {
            return;
        };
        // A log start that moved meanwhile has taken entries out of the tail.
        let low = before.next().max(tail.first_index());
        let entries = tail.entries(low, written.next().max(low), u64::MAX);
        let bytes: u64 = entries.map(|entry| entry.data.len() as u64).sum();
        partition.unwritten_bytes = partition.unwritten_bytes.saturating_sub(bytes);
        let rest = partition.applied > written;
        partition.unwritten_since_ms = rest.then_some(self.now.mono_ms);
        self.driver.release(group, written);
        if self.write_behind.to_sync.get(&group).is_some_and(|target| *target > written) {
            self.write_behind.urgent.insert(group);
        } else if rest {
            self.unwritten(group);
        }
    }

    /// The node cannot go on; the pump ends the process.
    pub(crate) fn fail(&mut self, why: String) {
        self.out.fatal.get_or_insert(why);
    }
}

/// A partition's share of `segment.jitter.ms`: the same for a segment whenever it is asked, another for the next.
fn jitter(group: GroupId, index: u64, max_ms: u64) -> i64 {
    if max_ms == 0 {
        return 0;
    }
    let mixed = (group.0 ^ index.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    i64::try_from(mixed % max_ms).unwrap_or(0)
}
