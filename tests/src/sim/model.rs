//! What must hold: the log of each partition as the clients know it, grown from answers alone. Pure.
//!
//! A node of its own commits what is durable; so whatever a client was ever told of a log is true for ever, restarts
//! included: a record at an offset, a high watermark, a log start. That makes the checks simple and strict.

use std::collections::{BTreeMap, BTreeSet};

use chronik_wal::types::GroupId;
use uuid::Uuid;

use super::records::{Place, Seen, Sent};

/// One partition as it is known.
#[derive(Debug, Default)]
pub struct PartitionModel {
    /// Its group.
    pub group: GroupId,
    /// What is known to lie at which offset.
    pub log: BTreeMap<i64, Seen>,
    /// The highest high watermark that was told.
    pub high_watermark: i64,
    /// The highest log start that was told.
    pub log_start: i64,
    /// The highest bounds that replicas have shown that need not lead, in `high_watermark` and `log_start`.
    ///
    /// A quorum without the leader's own disk commits, so a follower may have applied what its leader has yet to apply: for a
    /// moment the leader may tell less. But it has it in its log, and once all is settled it tells as much.
    pub nearby: Bounds,
    /// The highest offset before which anybody asked to delete records.
    pub delete_asked: i64,
}

/// Retention of a topic's name: the least that was ever asked for.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Least `retention.ms`.
    pub ms: i64,
    /// Least `retention.bytes`.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { ms: i64::MAX, bytes: u64::MAX }
    }
}

/// One life of a topic name.
#[derive(Debug)]
pub struct TopicModel {
    /// Its name.
    pub name: String,
    /// The partitions known to exist.
    pub partitions: BTreeMap<i32, PartitionModel>,
    /// Whether somebody asked to delete it.
    pub delete_asked: bool,
    /// Whether the deletion was acknowledged.
    pub deleted: bool,
    /// The last acknowledged `segment.ms`, and those asked for since.
    pub segment_ms: (Option<u64>, Vec<u64>),
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Model {
    /// Topics by id, deleted ones included.
    pub topics: BTreeMap<Uuid, TopicModel>,
    /// Where a record was found.
    pub found: BTreeMap<u64, (Place, i64)>,
    /// Groups that were ever given to a partition.
    pub groups: BTreeSet<GroupId>,
    /// Producer ids that were ever given out.
    pub producer_ids: BTreeSet<i64>,
    /// Committed offsets by group and place: the newest one acknowledged, and all that were asked for. They only grow.
    pub commits: BTreeMap<(String, Place), (Option<i64>, BTreeSet<i64>)>,
    /// What retention may delete, by topic name.
    pub retention: BTreeMap<String, Retention>,
    /// Where the batches of each producer lie, by the number of their first record: in the order in which they were made.
    pub order: BTreeMap<(usize, Place), BTreeMap<u64, i64>>,
    /// Where epochs ended, by the epoch that was asked for: the epoch told, and its end.
    pub epoch_ends: BTreeMap<(Place, i32), (i32, i64)>,
    /// Records acknowledged.
    pub acknowledged: u64,
}

impl Model {
    /// A partition that is known.
    pub fn partition(&mut self, place: Place) -> Option<&mut PartitionModel> {
        self.topics.get_mut(&place.0)?.partitions.get_mut(&place.1)
    }

    /// A partition was seen to exist.
    ///
    /// # Errors
    /// When its group served another one before.
    pub fn partition_seen(&mut self, place: Place, group: GroupId) -> Result<(), String> {
        let Some(topic) = self.topics.get_mut(&place.0) else { return Ok(()) };
        if let Some(known) = topic.partitions.get(&place.1) {
            return match known.group == group {
                true => Ok(()),
                false => Err(format!("{place:?} was group {}, now it is {group}", known.group)),
            };
        }
        if !self.groups.insert(group) {
            return Err(format!("group {group} of {place:?} served another partition before"));
        }
        topic.partitions.insert(place.1, PartitionModel { group, ..PartitionModel::default() });
        Ok(())
    }

    /// A record lies at an offset.
    ///
    /// # Errors
    /// When another lies there, or the same one elsewhere.
    pub fn record_at(&mut self, place: Place, seen: Seen) -> Result<(), String> {
        let at = (place, seen.offset);
        let before = *self.found.entry(seen.record).or_insert(at);
        if before != at {
            return Err(format!(
                "record {} lies at {at:?} and at {before:?}: it is in the log twice",
                seen.record
            ));
        }
        let Some(partition) = self.partition(place) else { return Ok(()) };
        match partition.log.get_mut(&seen.offset) {
            Some(known) if known.record != seen.record => Err(format!(
                "{place:?} had record {} at offset {}, now it has {}",
                known.record, seen.offset, seen.record
            )),
            Some(known) if known.epoch.is_some() && seen.epoch.is_some() && known.epoch != seen.epoch => {
                Err(format!("{place:?}: {known:?} is now {seen:?}: another leader epoch"))
            }
            Some(known) => {
                known.epoch = known.epoch.or(seen.epoch);
                known.timestamp = seen.timestamp;
                known.batch_bytes = known.batch_bytes.max(seen.batch_bytes);
                Ok(())
            }
            None => {
                partition.log.insert(seen.offset, seen);
                Ok(())
            }
        }
    }

    /// A batch was acknowledged: its records lie from `base` on, and the high watermark is behind them.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn acknowledged(&mut self, sent: &Sent, base: i64) -> Result<(), String> {
        let Sent { place, first, count, .. } = *sent;
        if base < 0 {
            return Err(format!("{place:?}: acknowledged at offset {base}"));
        }
        for number in 0..count {
            let offset = base + number as i64;
            let known = self.found.get(&(first + number)).copied();
            let timestamp = sent.timestamp + number as i64;
            let seen = Seen { offset, record: first + number, timestamp, epoch: None, batch_bytes: 0 };
            if known.is_none() {
                self.record_at(place, seen)?;
                self.acknowledged += 1;
            } else if known != Some((place, offset)) {
                return Err(format!("record {} is at {known:?}, told {place:?} {offset}", first + number));
            }
        }
        if let Some(partition) = self.partition(place) {
            partition.high_watermark = partition.high_watermark.max(base + count as i64);
        }
        Ok(())
    }

    /// A batch of an idempotent producer lies where it was acknowledged.
    ///
    /// # Errors
    /// When it lies before one that the producer sent earlier, or behind a later one.
    pub fn in_order(&mut self, producer: usize, sent: &Sent, base: i64) -> Result<(), String> {
        let lane = self.order.entry((producer, sent.place)).or_default();
        lane.insert(sent.first, base);
        let before = lane.range(..sent.first).next_back();
        let after = lane.range(sent.first + 1..).next();
        if before.is_some_and(|(_, offset)| *offset >= base)
            || after.is_some_and(|(_, offset)| *offset <= base)
        {
            return Err(format!(
                "producer {producer} of {:?}: {before:?}, {:?}, {after:?} are out of order",
                sent.place,
                (sent.first, base)
            ));
        }
        Ok(())
    }

    /// What an answer said of a partition's bounds. The floors are what was known when the question was sent.
    ///
    /// # Errors
    /// When one of them went back.
    pub fn bounds(&mut self, place: Place, floor: Bounds, told: Bounds) -> Result<(), String> {
        if told.high_watermark < floor.high_watermark || told.log_start < floor.log_start {
            return Err(format!("{place:?} was told {told:?} after {floor:?} had been told"));
        }
        if told.log_start > told.high_watermark {
            return Err(format!("{place:?}: the log starts beyond its high watermark: {told:?}"));
        }
        let Some(partition) = self.partition(place) else { return Ok(()) };
        partition.high_watermark = partition.high_watermark.max(told.high_watermark);
        partition.log_start = partition.log_start.max(told.log_start);
        Ok(())
    }

    /// Whether a record is certain to be in the log still: no retention, and no deletion reaches it.
    #[must_use]
    pub fn is_kept(&self, place: Place, offset: i64) -> bool {
        let Some(topic) = self.topics.get(&place.0) else { return false };
        let Some(partition) = topic.partitions.get(&place.1) else { return false };
        !self.retention.get(&topic.name).is_some_and(|r| r.ms != i64::MAX || r.bytes != u64::MAX)
            && offset >= partition.delete_asked
    }

    /// What is known of a partition's bounds now.
    pub fn floor(&mut self, place: Place) -> Bounds {
        self.partition(place).map_or(Bounds::default(), |partition| Bounds {
            high_watermark: partition.high_watermark,
            log_start: partition.log_start,
            shown: partition.high_watermark.max(partition.nearby.high_watermark),
        })
    }

    /// A replica that need not lead has shown these bounds.
    pub fn shown_nearby(&mut self, place: Place, told: Bounds) {
        let Some(partition) = self.partition(place) else { return };
        let nearby = &mut partition.nearby;
        nearby.high_watermark = nearby.high_watermark.max(told.high_watermark);
        nearby.log_start = nearby.log_start.max(told.log_start);
    }

    /// Everything is applied everywhere: from now on leaders tell no less than what any replica has shown.
    pub fn settled(&mut self) {
        let partitions = self.topics.values_mut().flat_map(|topic| topic.partitions.values_mut());
        for partition in partitions {
            partition.high_watermark = partition.high_watermark.max(partition.nearby.high_watermark);
            partition.log_start = partition.log_start.max(partition.nearby.log_start);
        }
    }

    /// Whether the log start of a partition is where deletions and retention may have put it.
    ///
    /// # Errors
    /// When records are gone that nobody allowed to go.
    pub fn check_log_start(&self, place: Place, wall_ms: i64) -> Result<(), String> {
        let Some(topic) = self.topics.get(&place.0) else { return Ok(()) };
        let Some(partition) = topic.partitions.get(&place.1) else { return Ok(()) };
        if partition.log_start <= partition.delete_asked {
            return Ok(());
        }
        let retention = self.retention.get(&topic.name).copied().unwrap_or_default();
        let Retention { ms, bytes } = retention;
        let gone = partition.log.range(partition.delete_asked..partition.log_start);
        let young = gone.map(|(_, seen)| seen).find(|seen| seen.timestamp > wall_ms.saturating_sub(ms));
        let kept: u64 = partition.log.range(partition.log_start..).map(|(_, seen)| seen.batch_bytes).sum();
        match young {
            Some(young) if bytes == u64::MAX || kept < bytes => Err(format!(
                "{place:?}: record {} at offset {} is gone; the log starts at {}, deletions were asked up to {}, {kept} \
                 bytes are left and retention is {:?}",
                young.record, young.offset, partition.log_start, partition.delete_asked, retention
            )),
            _ => Ok(()),
        }
    }
}

/// The bounds of a partition as clients see them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// The high watermark.
    pub high_watermark: i64,
    /// The log start.
    pub log_start: i64,
    /// Of what is known: the highest high watermark that anybody was shown, by a follower too. No leader's log ends before it.
    pub shown: i64,
}
