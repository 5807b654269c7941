//! The records of the partition as state: for each key its committed value and the values on their way to the
//! log.
//!
//! Reads that clients see take the committed value. Decisions about what to write next take the newest one,
//! because it stands before the next record in the log.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::Name;
use super::api::AppendToken;
use super::records::{GroupValue, OffsetAndMetadata, Record, RecordError, RecordKey};

/// A record that has been decided on.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Sets or deletes the metadata of a group.
    Group { group: Name, value: Option<GroupValue> },
    /// Sets or deletes the offset of a group in a partition.
    Offset { group: Name, topic: Name, partition: i32, value: Option<OffsetAndMetadata> },
}

impl Change {
    fn key(&self) -> RecordKey {
        match self {
            Self::Group { group, .. } => RecordKey::Group { group: group.clone() },
            Self::Offset { group, topic, partition, .. } => {
                RecordKey::Offset { group: group.clone(), topic: topic.clone(), partition: *partition }
            }
        }
    }

    /// The record that makes the change durable.
    pub(super) fn record(&self, timestamp_ms: i64) -> Record {
        let value = match self {
            Self::Group { value, .. } => value.as_ref().map(GroupValue::encode),
            Self::Offset { value, .. } => value.as_ref().map(OffsetAndMetadata::encode),
        };
        Record { key: self.key().encode(), value, timestamp_ms }
    }
}

/// One key: its committed value and what is on the way, oldest first.
pub(super) struct Slot<T> {
    committed: Option<T>,
    pending: SmallVec<[(AppendToken, Option<T>); 1]>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { committed: None, pending: SmallVec::new() }
    }
}

impl<T> Slot<T> {
    /// The committed value.
    pub(super) fn committed(&self) -> Option<&T> {
        self.committed.as_ref()
    }

    /// The value that the next record follows.
    pub(super) fn newest(&self) -> Option<&T> {
        match self.pending.last() {
            Some((_, value)) => value.as_ref(),
            None => self.committed.as_ref(),
        }
    }

    /// Whether anything is on the way.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn commit(&mut self, token: AppendToken) {
        // Whatever was staged before stands earlier in the log, so this value replaces it whatever became of it.
        let kept = self.pending.iter().position(|(staged, _)| *staged > token).unwrap_or(self.pending.len());
        for (staged, value) in self.pending.drain(..kept) {
            if staged == token {
                self.committed = value;
            }
        }
    }

    fn abort(&mut self, token: AppendToken) {
        self.pending.retain(|(staged, _)| *staged != token);
    }

    fn is_vacant(&self) -> bool {
        self.committed.is_none() && self.pending.is_empty()
    }
}

/// The offsets of one group: by topic, by partition.
pub(super) type GroupOffsets = BTreeMap<Name, BTreeMap<i32, Slot<OffsetAndMetadata>>>;

/// All records of the partition.
#[derive(Default)]
pub(super) struct Store {
    groups: BTreeMap<Name, Slot<GroupValue>>,
    offsets: BTreeMap<Name, GroupOffsets>,
    in_flight: BTreeMap<AppendToken, Vec<RecordKey>>,
}

impl Store {
    /// Takes a committed record from the log.
    pub(super) fn load(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        let key = RecordKey::decode(key)?;
        match &key {
            RecordKey::Group { group } => {
                let value = value.map(GroupValue::decode).transpose()?;
                self.groups.entry(group.clone()).or_default().committed = value;
            }
            RecordKey::Offset { group, topic, partition } => {
                let value = value.map(OffsetAndMetadata::decode).transpose()?;
                self.offset_slot(group, topic, *partition).committed = value;
            }
        }
        self.drop_if_vacant(&key);
        Ok(())
    }

    /// Notes changes whose records are about to be appended together.
    pub(super) fn stage(&mut self, token: AppendToken, changes: Vec<Change>) {
        let keys = changes.iter().map(Change::key).collect();
        for change in changes {
            match change {
                Change::Group { group, value } => {
                    self.groups.entry(group).or_default().pending.push((token, value));
                }
                Change::Offset { group, topic, partition, value } => {
                    self.offset_slot(&group, &topic, partition).pending.push((token, value));
                }
            }
        }
        self.in_flight.insert(token, keys);
    }

    /// The append is committed (or will never be). Returns the keys that it wrote; none if it was not in flight.
    pub(super) fn resolve(&mut self, token: AppendToken, committed: bool) -> Vec<RecordKey> {
        let keys = self.in_flight.remove(&token).unwrap_or_default();
        for key in &keys {
            match key {
                RecordKey::Group { group } => {
                    if let Some(slot) = self.groups.get_mut(group) {
                        if committed { slot.commit(token) } else { slot.abort(token) }
                    }
                }
                RecordKey::Offset { group, topic, partition } => {
                    let slot = self.offset_slot(group, topic, *partition);
                    if committed { slot.commit(token) } else { slot.abort(token) }
                }
            }
            self.drop_if_vacant(key);
        }
        keys
    }

    /// The newest append that is still in flight.
    pub(super) fn newest_in_flight(&self) -> Option<AppendToken> {
        self.in_flight.last_key_value().map(|(token, _)| *token)
    }

    /// How many appends are in flight.
    pub(super) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// The offsets of a group.
    pub(super) fn offsets_of(&self, group: &str) -> Option<&GroupOffsets> {
        self.offsets.get(group)
    }

    /// The offset of a group in a partition.
    pub(super) fn offset(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> Option<&Slot<OffsetAndMetadata>> {
        self.offsets.get(group)?.get(topic)?.get(&partition)
    }

    /// The names of all groups that have offsets.
    pub(super) fn groups_with_offsets(&self) -> impl Iterator<Item = &Name> {
        self.offsets.keys()
    }

    /// All offsets: group, topic, partition and the slot.
    pub(super) fn all_offsets(&self) -> impl Iterator<Item = (&Name, &Name, i32, &Slot<OffsetAndMetadata>)> {
        self.offsets.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(partition, slot)| (group, topic, *partition, slot))
            })
        })
    }

    /// The offsets of all groups in a topic. Takes as long as there are groups, not offsets.
    pub(super) fn offsets_in_topic<'a>(
        &'a self,
        topic: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a Name, i32, &'a Slot<OffsetAndMetadata>)> {
        self.offsets.iter().flat_map(move |(group, topics)| {
            let found = topics.get_key_value(topic);
            found.into_iter().flat_map(move |(name, partitions)| {
                partitions.iter().map(move |(partition, slot)| (group, name, *partition, slot))
            })
        })
    }

    /// All groups that have a metadata record.
    pub(super) fn group_values(&self) -> impl Iterator<Item = (&Name, &Slot<GroupValue>)> {
        self.groups.iter()
    }

    /// Whether any record of this group exists or is on the way.
    pub(super) fn has_any(&self, group: &str) -> bool {
        self.groups.contains_key(group) || self.offsets.contains_key(group)
    }

    fn offset_slot(&mut self, group: &Name, topic: &Name, partition: i32) -> &mut Slot<OffsetAndMetadata> {
        let topics = self.offsets.entry(group.clone()).or_default();
        topics.entry(topic.clone()).or_default().entry(partition).or_default()
    }

    fn drop_if_vacant(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Group { group } => {
                if self.groups.get(group).is_some_and(Slot::is_vacant) {
                    self.groups.remove(group);
                }
            }
            RecordKey::Offset { group, topic, partition } => {
                let Some(topics) = self.offsets.get_mut(group) else { return };
                let Some(partitions) = topics.get_mut(topic) else { return };
                if partitions.get(partition).is_some_and(Slot::is_vacant) {
                    partitions.remove(partition);
                }
                if partitions.is_empty() {
                    topics.remove(topic);
                }
                if topics.is_empty() {
                    self.offsets.remove(group);
                }
            }
        }
    }
}
