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
use chronik_wal::planted::{Bug, is_planted};
use chronik_wal::shard_wal::GroupProgress;
use chronik_wal::types::{GroupId, RaftIndex, TurnNumber};

use super::Shard;

/// Things put again or asked for in one turn.
const STEP_MAX: usize = 256;

/// A group whose unwritten entries take no more than this has them put again rather than flushed.
const COPY_BYTES_MAX: u64 = 1024;

/// How long files are given to be written and synced before the WAL is asked again what it needs.
const ASK_EVERY_MS: u64 = 5;

/// Bytes of uncommitted entries put again in one go.
const REWRITE_BYTES_MAX: u64 = 64 << 20;

/// Where recycling stands.
#[derive(Debug, Default)]
pub struct Recycling {
    /// The turn of the last checkpoint, until a segment was released by it.
    checkpoint: Option<TurnNumber>,
    /// What the oldest segment needs is asked again at this time: with thousands of groups the question is not free.
    ask_at_ms: u64,
}

impl Shard {
    /// One step, if the WAL wants a segment back.
    pub(crate) fn recycle(&mut self) {
        self.wal.pin(self.is_damage_in_wal());
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
        if self.may_recycle() && self.now.mono_ms >= self.recycling.ask_at_ms {
            self.recycling.ask_at_ms = self.now.mono_ms + ASK_EVERY_MS;
            self.prepare_release();
        }
    }

    /// When the next step is due, if one is.
    pub(crate) fn recycle_due_ms(&self) -> Option<u64> {
        self.may_recycle().then_some(self.recycling.ask_at_ms)
    }

    /// While damage is in the WAL nothing of it goes. At twice the WAL's bound produce then waits for the repair.
    fn may_recycle(&self) -> bool {
        self.wal.recycle_wanted() && !self.is_damage_in_wal()
    }

    fn is_damage_in_wal(&self) -> bool {
        self.damaged.values().any(|damaged| damaged.in_wal)
    }

    fn prepare_release(&mut self) {
        let (partitions, damaged, driver) = (&self.partitions, &self.damaged, &self.driver);
        let progress = |group: GroupId| {
            let partition = partitions.get(&group);
            let kept = || damaged.get(&group).and_then(|damaged| damaged.flushed);
            let flushed = partition.map(|p| p.files.synced()).or_else(kept).unwrap_or_default().index;
            let applied = driver.applied(group).unwrap_or_default();
            let written = partition.map_or(RaftIndex(0), |p| p.files.written().index);
            // A few hundred bytes are put again rather than written to a file of their own and synced: as if they were not
            // committed yet. They must all be in memory still, so only where nothing waits for its sync.
            let is_small =
                partition.is_some_and(|p| p.unwritten_bytes <= COPY_BYTES_MAX) && written == flushed;
            let committed = if is_small { flushed } else { applied };
            GroupProgress { flushed, committed }
        };
        let needs = self.wal.oldest_needs(&progress, STEP_MAX);
        if needs.is_empty() || is_planted(Bug::RecycledEarly) {
            return self.checkpoint();
        }
        for (group, up_to) in needs.flush {
            self.flush_soon(group, up_to);
        }
        for group in needs.rewrite_states {
            let kept = || self.damaged.get(&group).and_then(|damaged| damaged.state.as_ref());
            if let Some(state) = self.driver.state(group).or_else(kept) {
                self.wal.put_state(group, state);
            }
        }
        for (group, range) in needs.rewrite_entries {
            let commit = self.driver.commit(group).unwrap_or_default();
            let Some(tail) = self.driver.tail(group) else {
                let kept = self.damaged.get(&group).map_or(&[][..], |damaged| &damaged.entries);
                let wanted = kept.iter().filter(|entry| range.contains(&entry.index.0));
                self.wal.rewrite_entries(group, commit, &wanted.cloned().collect::<Vec<_>>());
                continue;
            };
            let (low, high) = (RaftIndex(*range.start()), RaftIndex(range.end() + 1));
            if low < tail.first_index() || high > tail.last_index().next() {
                // The log start has just moved over them; with the state that says so they are needed no more.
                continue;
            }
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
            // The metadata group has a place here before it is made: of that, recovery must find nothing.
            .filter(|(group, _)| self.driver.contains(**group))
            .map(|(group, partition)| (*group, partition.files.synced()))
            .chain(damaged)
            .collect();
        self.wal.put_checkpoint(&points);
        self.recycling.checkpoint = Some(self.wal.filling_turn());
    }
}
