//! What only time changes: retention, expired producers, files to unlink; and the clean stop.

use chronik_raft::driver::Proposal;
use chronik_raft::leadership::Leadership;
use chronik_wal::entry::EntryKind;
use chronik_wal::planted::{Bug, is_planted};
use chronik_wal::types::{GroupId, KafkaOffset};

use super::{Job, JobOwner, Shard, Timer};

/// How often renamed files are looked at.
const UNLINK_EVERY_MS: u64 = 1_000;

/// A stop puts so many closing marks at most, should others go on sending.
const CLOSINGS_MAX: u32 = 50;

/// What is kept of the last rounds.
#[derive(Debug, Default)]
pub struct Housekeeping {
    retention_at_ms: u64,
    /// When fresh ids for damaged replicas may be asked for again.
    pub(crate) renewal_at_ms: u64,
    /// Closing marks that the stop has put.
    closings: u32,
}

/// How far a clean stop has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stopping {
    /// The shard runs.
    #[default]
    No,
    /// Others take over what is led here; everything is served meanwhile.
    HandingOver,
    /// What is in flight is answered.
    Draining,
    /// The last turn is on its way.
    Closing,
    /// Nothing is left to do.
    Stopped,
}

impl Shard {
    pub(crate) fn keep_house(&mut self) {
        self.set_timer(self.now.mono_ms + UNLINK_EVERY_MS, Timer::Housekeeping);
        let now_ms = self.now.mono_ms;
        self.ask_for_renewal();
        let due: Vec<GroupId> = self.partitions.keys().copied().collect();
        for group in &due {
            let job = self.partitions.get_mut(group).and_then(|partition| partition.files.tick(now_ms));
            if let Some(job) = job {
                self.start_job(JobOwner::Deleted, Job::File(job));
            }
        }
        let every_ms = u64::try_from(self.config.log_retention_check_interval_ms).unwrap_or(u64::MAX);
        if now_ms < self.housekeeping.retention_at_ms.saturating_add(every_ms) {
            return;
        }
        self.housekeeping.retention_at_ms = now_ms;
        for group in due {
            self.retain(group);
        }
    }

    /// Proposes the log start that retention asks for, and forgets producers that were quiet for too long.
    fn retain(&mut self, group: GroupId) {
        let wall_ms = self.now.wall_ms;
        let leads = matches!(self.driver.leadership(group), Some(Leadership::Leader { .. }));
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        partition.producers.expire(wall_ms);
        if !leads || partition.trimming || group == GroupId::METADATA || !partition.config.cleanup_delete {
            return;
        }
        let config = &partition.config;
        let limit = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1);
        let candidate = partition.files.retention_candidate(
            limit(config.retention_bytes),
            config.retention_ms.unwrap_or(-1),
            wall_ms,
            partition.high_watermark,
        );
        let Some(start) = candidate.filter(|start| *start > partition.log_start) else { return };
        partition.trimming = true;
        tracing::info!(
            topic = &*partition.name.topic,
            partition = partition.name.index,
            log_start = start.0,
            "retention moves the log start"
        );
        self.propose_trim(group, start);
    }

    /// Proposes a log start that nobody waits for. [`crate::partition::Partition::trimming`] is set.
    pub(crate) fn propose_trim(&mut self, group: GroupId, start: KafkaOffset) {
        if is_planted(Bug::TrimmedAlone) && group != GroupId::METADATA {
            return self.trim_alone(group, start);
        }
        let data = bytes::Bytes::copy_from_slice(&start.0.to_le_bytes());
        if self.driver.propose(group, Proposal { kind: EntryKind::LogStart, data }).is_err()
            && let Some(partition) = self.partitions.get_mut(&group)
        {
            partition.trimming = false;
        }
    }

    /// What [`Bug::TrimmedAlone`] does.
    fn trim_alone(&mut self, group: GroupId, start: KafkaOffset) {
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.trimming = false;
            partition.log_start = start;
        }
    }

    /// Begins a clean stop.
    pub(crate) fn stop(&mut self) {
        if self.stopping == Stopping::No {
            match self.begin_stop_handover() {
                true => self.stopping = Stopping::HandingOver,
                false => self.drain(),
            }
        }
    }

    fn drain(&mut self) {
        self.stopping = Stopping::Draining;
        let fetches: Vec<u64> = self.fetches.keys().copied().collect();
        fetches.into_iter().for_each(|fetch| self.fetch_due(fetch));
    }

    /// Whether requests are served as ever.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.stopping, Stopping::No | Stopping::HandingOver)
    }

    /// The next step of a clean stop, once the one before is done. Partition files are not flushed: the WAL has everything,
    /// and thousands of fsyncs would hold up the stop. The closing turn comes last.
    pub(crate) fn proceed_stop(&mut self) {
        let quiet = self.produces.is_empty() && self.stalled.is_empty();
        if self.stopping == Stopping::HandingOver && self.proceed_stop_handover() {
            self.drain();
        }
        match self.stopping {
            Stopping::Draining if quiet && self.jobs_are_done() => {
                self.checkpoint();
                self.stopping = Stopping::Closing;
            }
            Stopping::Closing | Stopping::Stopped
                if !self.wal.has_pending() && self.wal.in_flight().is_none() =>
            {
                self.close_wal();
            }
            _ => {}
        }
    }

    /// ORDER: the mark follows all that is durable, in a turn of its own. Others may still send what is to be durable here; it is
    /// acknowledged, and without a mark after it damage to it would be taken for a torn tail (SAFETY.md, rule 3).
    fn close_wal(&mut self) {
        let is_done = self.wal.is_closed() || self.housekeeping.closings >= CLOSINGS_MAX;
        if is_done {
            self.stopping = Stopping::Stopped;
        } else {
            self.housekeeping.closings += 1;
            self.wal.close();
            self.stopping = Stopping::Closing;
        }
    }

    fn jobs_are_done(&self) -> bool {
        self.jobs
            .values()
            .all(|owner| matches!(owner, JobOwner::Wal | JobOwner::Deleted | JobOwner::Buried(_)))
    }

    /// Whether a clean stop has ended.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.stopping == Stopping::Stopped && !self.wal.has_pending() && self.wal.in_flight().is_none()
    }

    /// Whether files and segments are worked on; not any more once the last turn is on its way, unless the WAL waits for it:
    /// others may still send what is to be durable here while another shard of the node answers what it has in flight.
    pub(crate) fn tends_files(&self) -> bool {
        self.serves() || self.stopping == Stopping::Draining || self.wal.waits_for_release()
    }

    /// Whether partition files are written: in a stop only what keeps the WAL from getting on, or requests that were taken in and
    /// wait for memory.
    pub(crate) fn writes_files(&self) -> bool {
        self.serves() || self.wal.waits_for_release() || !self.stalled.is_empty()
    }

    /// Whether somebody waits for something that this shard has under way.
    #[must_use]
    pub fn has_work_in_flight(&self) -> bool {
        self.wal.in_flight().is_some() || !self.jobs.is_empty() || self.pending_count() > 0
    }
}
