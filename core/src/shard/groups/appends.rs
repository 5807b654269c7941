//! What coordinators append to their partitions, and how these are kept short.
//!
//! Appends are proposed in the order of their tokens and reported when that very entry is applied. They wait while there is
//! no room, and while the live state is to be written.

use chronik_raft::driver::Proposal;
use chronik_raft::leadership::Leadership;
use chronik_wal::batch;
use chronik_wal::entry::EntryKind;
use chronik_wal::records::BatchBuilder;
use chronik_wal::types::GroupId;

use super::{Append, BATCH_BYTES_MAX, record_bytes};
use crate::coordinator::records::Record;
use crate::coordinator::{AppendError, AppendToken};
use crate::partition::{Waiter, Waiting};
use crate::shard::Shard;

impl Shard {
    /// Proposes what waits, oldest first, as far as there is room: what coordinators write may not use up the segment that the
    /// WAL needs to free others (SAFETY.md, rule 4).
    pub(super) fn append_waiting(&mut self, group: GroupId) {
        let at_least_bytes = self.limits.coordinator_log_bytes;
        loop {
            let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
            // What is on its way ends within a turn or two; then the live state is written, then this goes on.
            if host.wants_compaction(at_least_bytes) && host.in_flight > 0 {
                return;
            }
            let Some((_, records)) = host.waiting.front() else { return };
            let bytes: usize = records.iter().map(record_bytes).sum();
            if !self.has_room(bytes as u64) || self.takes_none_now(group, bytes) {
                self.coordinators.without_room.insert(group);
                return;
            }
            let next = self.coordinators.hosts.get_mut(&group).and_then(|host| host.waiting.pop_front());
            let Some((token, records)) = next else { return };
            self.coordinator_append(group, token, &records);
        }
    }

    /// Once a turn: there may be room again.
    pub(crate) fn retry_coordinators(&mut self) {
        self.coordinators.busy.append(&mut self.coordinators.without_room);
    }

    fn coordinator_append(&mut self, group: GroupId, token: AppendToken, records: &[Record]) {
        let number = self.number();
        let batches = self.propose_records(group, records, Waiting::Coordinator { token: number });
        if let Some(host) = self.coordinators.hosts.get_mut(&group) {
            host.in_flight += 1;
        }
        let (batches, failed) = match batches {
            Ok(batches) => (batches, false),
            Err(batches) => (batches, true),
        };
        self.coordinators.appends.insert(number, Append { token, batches, failed });
        if batches == 0 {
            self.finish_append(group, number);
        }
    }

    /// Proposes records as one or more batches.
    ///
    /// # Errors
    /// The number of batches proposed before one was refused.
    fn propose_records(&mut self, group: GroupId, records: &[Record], who: Waiting) -> Result<usize, usize> {
        let mut batches = 0;
        let mut rest = records;
        while !rest.is_empty() {
            let Some(Leadership::Leader { term }) = self.driver.leadership(group) else {
                return Err(batches);
            };
            let mut builder = BatchBuilder::new();
            let mut bytes = 0;
            let fits = rest.iter().take_while(|record| {
                let first = bytes == 0;
                bytes += record_bytes(record);
                first || bytes <= BATCH_BYTES_MAX
            });
            let count = fits.count();
            for record in &rest[..count] {
                builder.push(record.timestamp_ms, Some(&record.key), record.value.as_deref());
            }
            rest = &rest[count..];
            let Ok(mut data) = builder.build() else { return Err(batches) };
            let offset = self.driver.log_end_offset(group).unwrap_or_default();
            batch::assign(&mut data, offset, term.leader_epoch());
            let data = data.freeze();
            let size = data.len() as u64;
            let Ok((index, term)) = self.driver.propose(group, Proposal { kind: EntryKind::Batch, data })
            else {
                return Err(batches);
            };
            self.wait_for(group, Waiter { index, term, who });
            self.proposed_bytes += size;
            batches += 1;
            if let Some(host) = self.coordinators.hosts.get_mut(&group) {
                host.appended_bytes += size;
            }
        }
        Ok(batches)
    }

    /// One batch of an append is applied, or will never be.
    pub(crate) fn coordinator_appended(&mut self, group: GroupId, number: u64, applied: bool) {
        let Some(append) = self.coordinators.appends.get_mut(&number) else { return };
        append.batches -= 1;
        append.failed |= !applied;
        if append.batches == 0 {
            self.finish_append(group, number);
        }
    }

    fn finish_append(&mut self, group: GroupId, number: u64) {
        let Some(append) = self.coordinators.appends.remove(&number) else { return };
        let now = self.now;
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        host.in_flight = host.in_flight.saturating_sub(1);
        let result = if append.failed { Err(AppendError::NotLeader) } else { Ok(()) };
        host.coordinator.appended(append.token, result, now.mono_ms, now.wall_ms);
        self.coordinators.busy.insert(group);
    }

    /// Writes the live state again at the end of the log and moves the log start there.
    ///
    /// ORDER: only while no append is on its way, so that nothing which the live state lacks lies below the new log
    /// start. The log start entry follows the state in the log: when it is committed, so is all of the state.
    pub(super) fn compact_coordinator(&mut self, group: GroupId) {
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        if host.in_flight > 0 || !host.wants_compaction(self.limits.coordinator_log_bytes) {
            return;
        }
        if host.incomplete || host.coordinator.unreadable_count() > 0 {
            // What could not be read is not in the live state, and must not be lost.
            return;
        }
        let live: Vec<Record> = host.coordinator.live_records().collect();
        let live_bytes = live.iter().map(|record| record_bytes(record) as u64).sum();
        if !self.has_room(live_bytes) {
            self.coordinators.without_room.insert(group);
            return;
        }
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        host.live_bytes = live_bytes;
        host.appended_bytes = 0;
        let start = self.driver.log_end_offset(group).unwrap_or_default();
        let nobody = Waiting::Coordinator { token: 0 };
        if self.propose_records(group, &live, nobody).is_ok() {
            self.propose_log_start(group, start, nobody);
        }
    }
}
