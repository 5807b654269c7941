//! Committed offsets: OffsetCommit, OffsetFetch, OffsetDelete, expiry, and what a topic's deletion takes with it.

use std::ops::Bound;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::Name;
use super::api::{GroupRequest, GroupResponse, RequestKind, commit_error, fetch_groups, fetch_response};
use super::appends::Completion;
use super::group::{Group, State};
use super::member::{Waiter, wire};
use super::records::OffsetAndMetadata;
use super::service::{Clock, GROUPS_MAX, GroupCoordinator};
use super::store::{Change, Slot};
use super::timers::TimerKey;

/// From this version on a commit for a missing group is told so (KIP-848).
const VERSION_WITH_GROUP_ID_NOT_FOUND: i16 = 9;
/// Groups that one tick searches for expired offsets: about a millisecond of work when each has a few dozen.
const EXPIRY_GROUPS_PER_TICK: usize = 500;
/// What OffsetCommit says when the broker shall decide how long to keep the offset.
const DEFAULT_RETENTION_TIME: i64 = -1;

impl GroupCoordinator {
    pub(super) fn commit_offsets(&mut self, waiter: Waiter, request: &OffsetCommitRequest) {
        if let Err(error) = self.check_commit(waiter, request) {
            return self.reply(waiter, GroupResponse::OffsetCommit(commit_error(request, error)));
        }
        let name: Name = request.group_id.as_str().into();
        if let Some(group) = self.take(&name) {
            if matches!(group.state, State::Stable | State::PreparingRebalance) {
                // A commit is a sign of life.
                self.restart_session(&group, &request.member_id);
            }
            self.put(group);
        }
        let (response, changes) = self.committed(&name, request);
        if changes.is_empty() {
            return self.reply(waiter, GroupResponse::OffsetCommit(response));
        }
        // Offsets without a group make a simple group: empty, without a protocol.
        let wall_ms = self.clock.wall_ms;
        self.groups.entry(name).or_insert_with_key(|name| Group::new(name.clone(), wall_ms));
        let response = Box::new(GroupResponse::OffsetCommit(response));
        self.append(changes, Completion::Reply { waiter, response });
    }

    fn check_commit(&self, waiter: Waiter, request: &OffsetCommitRequest) -> Result<(), ResponseError> {
        let generation = request.generation_id_or_member_epoch;
        let Some(group) = self.groups.get(request.group_id.as_str()) else {
            return match generation {
                ..0 if self.groups.len() >= GROUPS_MAX => Err(ResponseError::CoordinatorNotAvailable),
                ..0 => Ok(()),
                _ if waiter.version >= VERSION_WITH_GROUP_ID_NOT_FOUND => Err(ResponseError::GroupIdNotFound),
                _ => Err(ResponseError::IllegalGeneration),
            };
        };
        let instance_id = request.group_instance_id.as_deref();
        if group.state == State::Dead {
            return Err(ResponseError::CoordinatorNotAvailable);
        }
        if generation < 0 && group.state == State::Empty {
            // An administrator, or a consumer that does not use group management.
            return Ok(());
        }
        if generation < 0 && request.member_id.is_empty() && instance_id.is_none() {
            return Err(ResponseError::UnknownMemberId);
        }
        group.check_member(&request.member_id, instance_id)?;
        if generation != group.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if group.state == State::CompletingRebalance {
            // It is a member of this generation, but has no assignment yet to commit for.
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }

    fn committed(&self, name: &Name, request: &OffsetCommitRequest) -> (OffsetCommitResponse, Vec<Change>) {
        let expire_timestamp_ms = (request.retention_time_ms != DEFAULT_RETENTION_TIME)
            .then(|| self.clock.wall_ms.saturating_add(request.retention_time_ms));
        let mut changes = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let topic_name: Name = topic.name.as_str().into();
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let answer =
                    OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
                if self.is_metadata_too_large(partition) {
                    let error = ResponseError::OffsetMetadataTooLarge;
                    partitions.push(answer.with_error_code(error.code()));
                    continue;
                }
                partitions.push(answer);
                changes.push(Change::Offset {
                    group: name.clone(),
                    topic: topic_name.clone(),
                    partition: partition.partition_index,
                    value: Some(OffsetAndMetadata {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch.max(-1),
                        metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
                        commit_timestamp_ms: self.clock.wall_ms,
                        expire_timestamp_ms,
                        topic_id: topic.topic_id,
                    }),
                });
            }
            topics.push(
                OffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        (OffsetCommitResponse::default().with_topics(topics), changes)
    }

    fn is_metadata_too_large(&self, partition: &OffsetCommitRequestPartition) -> bool {
        let max = usize::try_from(self.config.offset_metadata_max).unwrap_or(0);
        let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
        // UTF-16 units are never more than bytes, which are known without counting.
        metadata.len() > max && metadata.encode_utf16().count() > max
    }

    pub(super) fn fetch_offsets(&mut self, waiter: Waiter, request: OffsetFetchRequest) {
        let is_unsettled = request.require_stable
            && fetch_groups(&request, waiter.version).iter().any(|group| self.is_unsettled(&group.group_id));
        if !is_unsettled {
            return self.answer_fetch(waiter, &request);
        }
        // Whoever takes a partition over must not start before a commit that its former owner is about to be
        // told of.
        let waiting = GroupRequest {
            version: waiter.version,
            client_id: StrBytes::new(),
            client_host: StrBytes::new(),
            kind: RequestKind::OffsetFetch(request),
        };
        if let Some(GroupRequest { kind: RequestKind::OffsetFetch(request), .. }) =
            self.await_in_flight(waiter.call, waiting)
        {
            self.answer_fetch(waiter, &request);
        }
    }

    fn is_unsettled(&self, group: &str) -> bool {
        let topics = self.store.offsets_of(group);
        topics.is_some_and(|topics| topics.values().flat_map(|topic| topic.values()).any(Slot::is_pending))
    }

    pub(super) fn answer_fetch(&mut self, waiter: Waiter, request: &OffsetFetchRequest) {
        let groups = fetch_groups(request, waiter.version);
        let answers = groups.iter().map(|group| self.fetched_group(group)).collect();
        let response = fetch_response(answers, waiter.version);
        self.reply(waiter, GroupResponse::OffsetFetch(response));
    }

    fn fetched_group(&self, group: &OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
        let topics = match &group.topics {
            Some(topics) => topics.iter().map(|topic| self.fetched_topic(&group.group_id, topic)).collect(),
            None => self.all_fetched_topics(&group.group_id),
        };
        OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone()).with_topics(topics)
    }

    fn fetched_topic(&self, group: &str, topic: &OffsetFetchRequestTopics) -> OffsetFetchResponseTopics {
        let partitions = topic.partition_indexes.iter().map(|index| {
            let slot = self.store.offset(group, &topic.name, *index);
            let value = slot.and_then(Slot::committed).filter(|value| {
                // An offset in a topic that had the same name is none in this one.
                value.topic_id.is_nil() || topic.topic_id.is_nil() || value.topic_id == topic.topic_id
            });
            fetched_partition(*index, value)
        });
        OffsetFetchResponseTopics::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    }

    fn all_fetched_topics(&self, group: &str) -> Vec<OffsetFetchResponseTopics> {
        let mut topics = Vec::new();
        for (topic, slots) in self.store.offsets_of(group).into_iter().flatten() {
            let committed = |(index, slot): (&i32, &Slot<OffsetAndMetadata>)| {
                slot.committed().map(|value| fetched_partition(*index, Some(value)))
            };
            let partitions: Vec<_> = slots.iter().filter_map(committed).collect();
            if !partitions.is_empty() {
                let name = TopicName(wire(topic));
                topics.push(OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions));
            }
        }
        topics
    }

    pub(super) fn delete_offsets(&mut self, waiter: Waiter, request: &OffsetDeleteRequest) {
        let refusal = match self.groups.get(request.group_id.as_str()) {
            None => Some(ResponseError::GroupIdNotFound),
            Some(group) => check_offset_delete(group),
        };
        if let Some(error) = refusal {
            let response = OffsetDeleteResponse::default().with_error_code(error.code());
            return self.reply(waiter, GroupResponse::OffsetDelete(response));
        }
        let Some(group) = self.groups.get(request.group_id.as_str()) else { return };
        let mut changes = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let is_subscribed = group.is_subscribed(&topic.name);
            let error_code = if is_subscribed { ResponseError::GroupSubscribedToTopic.code() } else { 0 };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let index = partition.partition_index;
                partitions.push(
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(error_code),
                );
                let exists = self
                    .store
                    .offset(&group.id, &topic.name, index)
                    .is_some_and(|slot| slot.newest().is_some());
                if !is_subscribed && exists {
                    changes.push(offset_tombstone(&group.id, &topic.name.as_str().into(), index));
                }
            }
            topics.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        let response = GroupResponse::OffsetDelete(OffsetDeleteResponse::default().with_topics(topics));
        if changes.is_empty() {
            return self.reply(waiter, response);
        }
        self.append(changes, Completion::Reply { waiter, response: Box::new(response) });
    }

    /// A topic is gone: so are the offsets in it, in every group. With an id, offsets of other topics of that
    /// name are kept.
    pub fn topic_deleted(&mut self, topic: &str, topic_id: Option<Uuid>, now_ms: u64, wall_ms: i64) {
        if !self.is_active() {
            return;
        }
        self.clock = Clock { now_ms, wall_ms };
        let is_of_topic = |value: &OffsetAndMetadata| {
            value.topic_id.is_nil() || topic_id.is_none_or(|topic_id| value.topic_id == topic_id)
        };
        let deleted = self.store.offsets_in_topic(topic);
        let changes: Vec<Change> = deleted
            .filter(|(_, _, _, slot)| slot.newest().is_some_and(is_of_topic))
            .map(|(group, name, index, _)| offset_tombstone(group, name, index))
            .collect();
        self.append(changes, Completion::Nothing);
    }

    pub(super) fn schedule_expiry(&mut self) {
        let interval_ms = u64::try_from(self.config.offsets_retention_check_interval_ms).unwrap_or(0).max(1);
        let deadline_ms = self.deadline_in(interval_ms);
        self.timers.schedule(TimerKey::Expiry, deadline_ms);
    }

    /// Deletes the offsets that nobody has needed for `offsets.retention.minutes`, and empty groups left without
    /// any.
    ///
    /// Looks at some groups at a time, so that the shard is never held up by the whole of them.
    pub(super) fn expire_offsets(&mut self) {
        let from = self.expiry_cursor.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut changes = Vec::new();
        let mut ended = Vec::new();
        let mut looked_at_count = 0;
        for group in self.groups.range::<Name, _>((from, Bound::Unbounded)).map(|(_, group)| group) {
            let expired = self.expired_offsets(group);
            let is_ending = expired.is_all && group.state == State::Empty && group.pending_members.is_empty();
            changes.extend(expired.tombstones);
            if is_ending {
                changes.push(Change::Group { group: group.id.clone(), value: None });
                ended.push(group.id.clone());
            }
            looked_at_count += 1;
            if looked_at_count == EXPIRY_GROUPS_PER_TICK {
                self.expiry_cursor = Some(group.id.clone());
                break;
            }
        }
        self.bury(&ended);
        self.append(changes, Completion::GroupsDeleted { reply: None, groups: ended });
        if self.expiry_cursor.is_some() {
            let next_ms = self.deadline_in(1);
            self.timers.schedule(TimerKey::Expiry, next_ms);
        } else {
            self.schedule_expiry();
        }
    }

    fn expired_offsets(&self, group: &Group) -> Expired {
        let mut expired = Expired { tombstones: Vec::new(), is_all: true };
        for (topic, slots) in self.store.offsets_of(&group.id).into_iter().flatten() {
            for (index, slot) in slots {
                let is_expired = !slot.is_pending()
                    && slot.committed().is_some_and(|value| self.is_expired(group, topic, value));
                if is_expired {
                    expired.tombstones.push(offset_tombstone(&group.id, topic, *index));
                } else {
                    expired.is_all = false;
                }
            }
        }
        expired
    }

    /// Kafka's rule (KIP-211): a simple group counts from the commit, an empty group from when it became empty,
    /// a stable group of consumers from the commit and only for topics that nobody subscribes to any more. Any
    /// other group keeps all.
    fn is_expired(&self, group: &Group, topic: &str, value: &OffsetAndMetadata) -> bool {
        let since_ms = match (&group.protocol_type, group.state) {
            (None, _) => value.commit_timestamp_ms,
            (Some(_), State::Empty) => group.state_timestamp_ms.unwrap_or(value.commit_timestamp_ms),
            (Some(_), State::Stable) if group.uses_consumer_protocol() && group.knows_subscriptions() => {
                value.commit_timestamp_ms
            }
            _ => return false,
        };
        if group.is_subscribed(topic) {
            return false;
        }
        match value.expire_timestamp_ms {
            Some(expire_timestamp_ms) => self.clock.wall_ms >= expire_timestamp_ms,
            None => self.clock.wall_ms.saturating_sub(since_ms) >= self.config.offsets_retention_ms,
        }
    }
}

/// What has expired in one group.
struct Expired {
    tombstones: Vec<Change>,
    /// Nothing is left (or nothing was there).
    is_all: bool,
}

/// The change that deletes an offset.
pub(super) fn offset_tombstone(group: &Name, topic: &Name, partition: i32) -> Change {
    Change::Offset { group: group.clone(), topic: topic.clone(), partition, value: None }
}

fn check_offset_delete(group: &Group) -> Option<ResponseError> {
    match group.state {
        State::Dead => Some(ResponseError::GroupIdNotFound),
        State::Empty => None,
        // Of other protocols it is not known which offsets are in use.
        _ if group.uses_consumer_protocol() => None,
        _ => Some(ResponseError::NonEmptyGroup),
    }
}

fn fetched_partition(index: i32, value: Option<&OffsetAndMetadata>) -> OffsetFetchResponsePartitions {
    let answer = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match value {
        Some(value) => answer
            .with_committed_offset(value.offset)
            .with_committed_leader_epoch(value.leader_epoch)
            .with_metadata(Some(wire(&value.metadata))),
        None => answer
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::new())),
    }
}
