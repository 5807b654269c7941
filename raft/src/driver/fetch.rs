//! Entries that raft wants for a follower that lags and that only files have; and the eviction that brings this about.

use bytes::Bytes;
use chronik_wal::entry::{LogEntry, LogStart};
use chronik_wal::types::{GroupId, RaftIndex};

use super::Driver;

/// Releases that one call looks at for eviction; a shard calls once a turn or more often.
const EVICTIONS_PER_CALL_MAX: usize = 256;

impl Driver {
    /// Gives the entries of an [`super::EntryFetch`]: contiguous from its `low`, at least one. An empty list says that they could not be
    /// read; raft asks again when the follower is next heard from.
    pub fn on_entries_fetched(&mut self, group: GroupId, low: RaftIndex, entries: Vec<LogEntry>) {
        let Some(slot) = self.slot_of(group) else { return };
        let group = self.at(slot);
        group.flush_proposals();
        let waiters = group.storage_mut().supply(low, entries);
        for waiter in waiters {
            group.node.on_entries_fetched(waiter);
        }
        group.storage_mut().drop_supply();
        group.settle();
        self.mark_dirty(slot);
    }

    /// Notes that the group's entries up to `up_to` are in the partition's files (written; the WAL still holds them until they
    /// are synced), so that the tail may drop them when the budget asks for it.
    ///
    /// # Panics
    /// When entries above the applied ones are said to be in files: only committed entries ever get there.
    pub fn release(&mut self, group: GroupId, up_to: RaftIndex) {
        let Some(slot) = self.slot_of(group) else { return };
        let group = self.at(slot);
        assert!(up_to <= group.applied, "only applied entries are in files");
        if up_to <= group.flushed_to {
            return;
        }
        group.flushed_to = up_to;
        group.advance_applied();
        let id = group.id;
        self.evictable.push_back((id, up_to));
        self.evict();
    }

    /// Moves the log start: the group's log begins after `log_start.index`, its first readable offset is `log_start.offset`.
    /// `snapshot_data` is the state as of there. Called when a `LogStart` entry was applied and the index is known
    /// ([`Driver::position_before`], or the segment index). It takes effect, durably, with a [`super::DriverOutput::compacted`].
    ///
    /// # Panics
    /// When the log start moves back, lies above what is applied, or names an entry that the log does not have.
    pub fn compact_to(&mut self, group: GroupId, log_start: LogStart, snapshot_data: Bytes) {
        let Some(slot) = self.slot_of(group) else { return };
        let group = self.at(slot);
        let old = group.log_start();
        assert!(
            log_start.index >= old.index && log_start.offset >= old.offset,
            "a log start never moves back"
        );
        assert!(log_start.index <= group.applied, "only applied entries are compacted");
        assert!(log_start.base_offset <= log_start.offset, "what is kept begins at or before the log start");
        let term = group.storage().term_runs.term(log_start.index);
        assert_eq!(term, Some(log_start.term), "the log start names an entry of the log");
        group.compaction = Some((log_start, snapshot_data));
        self.mark_dirty(slot);
    }

    /// Drops released entries, the longest released first, until the tails fit their budget.
    pub(super) fn evict(&mut self) {
        for _ in 0..EVICTIONS_PER_CALL_MAX {
            if self.tail_bytes <= self.config.tail_budget_bytes {
                return;
            }
            let Some((id, up_to)) = self.evictable.pop_front() else { return };
            let Some(slot) = self.slot_of(id) else { continue };
            let tail = &mut self.at(slot).storage_mut().tail;
            tail.evict_to(up_to.min(tail.released()));
            self.count_tail(slot);
        }
    }
}
