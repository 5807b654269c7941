//! Freeing the oldest WAL segment, a little in each turn (SAFETY.md, rule 4).
//!
//! ```text
//! what does the oldest segment hold that nothing else does? ─▶ write and sync those files, put those states and entries
//! again ─▶ checkpoint ─▶ once it is durable: release
//! ```
//! [`ShardWal::release_oldest`] checks everything again, so a mistake here can only keep a segment too long.
//!
//! [`ShardWal::release_oldest`]: chronik_wal::shard_wal::ShardWal::release_oldest

use chronik_wal::entry::{FlushPoint, LogEntry, LogSink};
use chronik_wal::shard_wal::GroupProgress;
use chronik_wal::types::{GroupId, RaftIndex, TurnNumber};

use super::Shard;

/// Things put again or asked for in one turn.
const STEP_MAX: usize = 256;

/// Bytes of uncommitted entries put again in one go.
const REWRITE_BYTES_MAX: u64 = 64 << 20;

/// Where recycling stands.
#[derive(Debug, Default)]
pub struct Recycling {
    /// The turn of the last checkpoint, until a segment was released by it.
    checkpoint: Option<TurnNumber>,
}

impl Shard {
    /// One step, if the WAL wants a segment back.
    pub(crate) fn recycle(&mut self) {
        if let Some(turn) = self.recycling.checkpoint {
            if self.wal.durable_turn() < turn {
                return;
            }
            self.recycling.checkpoint = None;
            match self.wal.release_oldest() {
                Ok(sequence) => tracing::debug!(shard = self.id.0, segment = sequence.0, "WAL segment freed"),
                Err(reason) => tracing::trace!(shard = self.id.0, %reason, "WAL segment kept"),
            }
        }
        // While damage is in the WAL nothing of it goes. At the WAL's bound produce then waits for the repair.
        let proves_damage = self.damaged.values().any(|damaged| damaged.in_wal);
        if self.wal.recycle_wanted() && !proves_damage {
            self.prepare_release();
        }
    }

    fn prepare_release(&mut self) {
        let (partitions, damaged, driver) = (&self.partitions, &self.damaged, &self.driver);
        let synced = |group: GroupId| match partitions.get(&group) {
            Some(partition) => Some(partition.files.synced()),
            None => damaged.get(&group).and_then(|damaged| damaged.flushed),
        };
        let progress = |group: GroupId| GroupProgress {
            flushed: synced(group).unwrap_or_default().index,
            committed: driver.applied(group).unwrap_or_default(),
        };
        let needs = self.wal.oldest_needs(&progress, STEP_MAX);
        if needs.is_empty() {
            return self.checkpoint();
        }
        for (group, _) in needs.flush {
            self.flush_soon(group);
        }
        for group in needs.rewrite_states {
            let kept = || self.damaged.get(&group).and_then(|damaged| damaged.state.as_ref());
            if let Some(state) = self.driver.state(group).or_else(kept) {
                self.wal.put_state(group, state);
            }
        }
        for (group, range) in needs.rewrite_entries {
            let commit = self.driver.commit(group).unwrap_or_default();
            let Some(tail) = self.driver.tail(group) else { continue };
            let (low, high) = (RaftIndex(*range.start()), RaftIndex(range.end() + 1));
            let entries: Vec<LogEntry> = tail.entries(low, high, REWRITE_BYTES_MAX).cloned().collect();
            self.wal.rewrite_entries(group, commit, &entries);
        }
    }

    /// Writes down how far the files of every partition are synced.
    pub(crate) fn checkpoint(&mut self) {
        let damaged = self.damaged.iter().filter_map(|(group, damaged)| Some((*group, damaged.flushed?)));
        let points: Vec<(GroupId, FlushPoint)> = self
            .partitions
            .iter()
            .map(|(group, partition)| (*group, partition.files.synced()))
            .chain(damaged)
            .collect();
        self.wal.put_checkpoint(&points);
        self.recycling.checkpoint = Some(self.wal.filling_turn());
    }
}
