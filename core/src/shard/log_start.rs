//! A log start that moves: the group's durable state says so first, then files go (`drops.rs`).
//!
//! Two logs go on elsewhere, with all of their files obsolete at once: the metadata log at a new image, and a follower's at a
//! snapshot (`peers.rs`). Else whole segments go, as far as the log start has passed them.

use chronik_raft::driver::Compacted;
use chronik_wal::entry::LogStart;
use chronik_wal::types::{GroupId, KafkaOffset, RaftIndex};

use super::Shard;
use super::drops::Drop;

impl Shard {
    /// The log starts at `offset` now. Raft's log start follows as far as whole segments may go; the offset itself is
    /// kept in the group's state, so that it outlives the entry that set it.
    pub(crate) fn log_start_moved(&mut self, group: GroupId, offset: KafkaOffset, at: RaftIndex) {
        if group == GroupId::METADATA {
            return self.image_due(offset, at);
        }
        let Some(partition) = self.partitions.get(&group) else { return };
        let begins = self.driver.log_start(group).unwrap_or_default();
        let start = self.drop_point(group).unwrap_or(LogStart { offset, ..begins });
        let producers = partition.producers_as_data();
        self.driver.compact_to(group, start, producers);
    }

    /// The metadata are written as an image that holds everything before the entry at `at`.
    fn image_due(&mut self, offset: KafkaOffset, at: RaftIndex) {
        if self.controller.as_ref().is_some_and(|host| host.is_ahead_of(at)) {
            // At a start the state has come further than the log that is applied again: no image is of this entry.
            return;
        }
        let group = GroupId::METADATA;
        let index = RaftIndex(at.0 - 1);
        let term = self.driver.term(group, index).unwrap_or_default();
        let start = LogStart { index, term, offset, base_offset: offset };
        let image = self.metadata_image();
        self.drops.hold(group, index);
        self.driver.compact_to(group, start, image.into());
    }

    /// The group's state with a new log start is on its way to the disk.
    pub(crate) fn compacted(&mut self, compacted: &Compacted) {
        let drop = match compacted.group {
            GroupId::METADATA => Drop::All(compacted.log_start),
            _ => Drop::Below(compacted.log_start),
        };
        self.drops.after(compacted.turn, compacted.group, drop);
    }

    /// A segment that was still growing when the log start passed over it may go once it is closed: the durable log start
    /// moves on, and with it the files.
    pub(crate) fn drop_closed_segments(&mut self, group: GroupId) {
        if let Some(point) = self.drop_point(group)
            && let (Some(begins), Some(partition)) =
                (self.driver.log_start(group), self.partitions.get(&group))
            && point.index > begins.index
        {
            let producers = partition.producers_as_data();
            self.driver.compact_to(group, point, producers);
        }
    }

    /// At a start: a crash may have come between the durable log start and the drop of what lies below it.
    pub(crate) fn drop_left_segments(&mut self, group: GroupId) {
        let begins = self.driver.log_start(group).unwrap_or_default();
        match self.drop_point(group) {
            Some(point) if point.index > begins.index => self.drop_closed_segments(group),
            Some(_) => self.drops.now(group, Drop::Below(begins)),
            None => {}
        }
    }

    /// Where the files would begin if everything below the log start went. Of files that are about to begin anew nothing counts: the
    /// log goes on above them.
    fn drop_point(&self, group: GroupId) -> Option<LogStart> {
        if group == GroupId::METADATA || self.drops.is_held(group) {
            return None;
        }
        let partition = self.partitions.get(&group)?;
        partition.files.drop_point(partition.log_start)
    }

    /// Starts the drop that is ready for the group, if its files have nothing else to do.
    pub(crate) fn start_drop(&mut self, group: GroupId) {
        if !self.may_start(group) {
            return;
        }
        let (Some(partition), Some(drop)) = (self.partitions.get_mut(&group), self.drops.take(group)) else {
            return;
        };
        let (now_ms, delay_ms) = (self.now.mono_ms, partition.config.file_delete_delay_ms);
        let job = match drop {
            Drop::Below(durable) => partition.files.drop_below(durable, now_ms, delay_ms),
            Drop::All(start) => partition.files.reset(start, now_ms, delay_ms),
        };
        if let Some(job) = job {
            self.drops.runs(group, drop);
            self.start_file_job(group, job);
        }
    }

    /// Segments are gone.
    pub(crate) fn dropped(&mut self, group: GroupId) {
        if self.drops.done(group) {
            self.write_anew(group);
        }
    }
}
