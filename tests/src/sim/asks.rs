//! What clients ask of partitions and groups while they work.

use chronik_core::coordinator::{GroupRequest, RequestKind, partition_for_group};
use chronik_core::metadata::names::CONSUMER_OFFSETS;
use chronik_core::metadata::snapshot::Snapshot;
use chronik_core::shard::message::{
    Acks, DeleteItem, FetchItem, FetchSlice, Isolation, OffsetQuery, ProduceItem, ProduceSlice, Request,
};
use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_net::codec::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use chronik_wal::compress::Compression;
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch};
use rand::Rng;

use super::clients::{Asked, InRequest, Target, Unacknowledged};
use super::records::{Place, Sent};
use super::setup::{WALL_START_MS, node_number};
use super::world::World;

impl World {
    /// A new batch for a place.
    pub(super) fn new_batch(&mut self, place: Place, producer: Option<(i64, i32)>) -> Sent {
        let count = self.rng.random_range(1..5);
        let first = self.clients.next_record;
        self.clients.next_record += count;
        let codecs = [Compression::None, Compression::None, Compression::Lz4, Compression::Snappy];
        let codec = codecs[self.rng.random_range(0..codecs.len())];
        let timestamp = WALL_START_MS + (self.now_us() / 1_000) as i64;
        Sent { first, count, place, timestamp, producer, codec }
    }

    /// A producer sends its next batch, or again what was not acknowledged.
    pub(super) fn produce_idempotent(&mut self) {
        let number = self.rng.random_range(0..self.clients.producers.len());
        let Some(id) = self.clients.producers[number].id else { return self.ask_producer_id(number) };
        let Some((place, target)) = self.some_place() else { return };
        let lane = self.clients.producers[number].lanes.entry(place).or_default();
        if lane.wants_resend() {
            return self.resend(number, place, target);
        }
        let run = (target.node, self.nodes[target.node].starts);
        if !lane.is_open((self.plan.nodes > 1).then_some(run)) {
            return;
        }
        lane.sent_to = run;
        let sequence = lane.next_sequence;
        let sent = self.new_batch(place, Some((id, sequence)));
        if let Some(lane) = self.clients.producers[number].lanes.get_mut(&place) {
            lane.next_sequence += sent.count as i32;
            let before = lane.batches;
            lane.batches += 1;
            lane.unacknowledged.push_back(Unacknowledged { sent: sent.clone(), before, in_flight: 1 });
        }
        let mut items = vec![(target.group, InRequest { sent, producer: Some(number), again: None })];
        if self.rng.random_bool(0.3) {
            self.add_plain(&mut items, target);
        }
        self.produce(number as u64, target, items);
    }

    /// Sends what was not acknowledged again, in order, on the producer's connection; where leaders change, one batch after
    /// the other, as Kafka's producers do.
    pub(super) fn resend(&mut self, number: usize, place: Place, target: Target) {
        self.count("batches sent again");
        let run = (target.node, self.nodes[target.node].starts);
        let Some(lane) = self.clients.producers[number].lanes.get_mut(&place) else { return };
        lane.sent_to = run;
        let count = if self.plan.nodes > 1 { 1 } else { lane.unacknowledged.len() };
        lane.unacknowledged.iter_mut().take(count).for_each(|waiting| waiting.in_flight += 1);
        let again: Vec<Sent> =
            lane.unacknowledged.iter().take(count).map(|waiting| waiting.sent.clone()).collect();
        for sent in again {
            let item = InRequest { sent, producer: Some(number), again: None };
            self.produce(number as u64, target, vec![(target.group, item)]);
        }
    }

    /// A batch that is under way, or the newest one that was acknowledged, is sent once more on purpose.
    pub(super) fn repeat_on_purpose(&mut self) {
        let number = self.rng.random_range(0..self.clients.producers.len());
        let Some((place, target)) = self.some_place() else { return };
        let Some(lane) = self.clients.producers[number].lanes.get_mut(&place) else { return };
        let newest = lane.unacknowledged.back_mut();
        let again = match newest {
            Some(waiting) if waiting.in_flight > 0 => {
                waiting.in_flight += 1;
                (waiting.sent.clone(), None)
            }
            Some(_) => return,
            None => match lane.last.clone() {
                Some((sent, base)) if self.model.is_kept(place, base) => (sent, Some(base)),
                _ => return,
            },
        };
        self.count("batches repeated on purpose");
        let item = InRequest { sent: again.0, producer: Some(number), again: again.1 };
        self.produce(number as u64, target, vec![(target.group, item)]);
    }

    /// A batch without a producer id, never sent again.
    pub(super) fn produce_plain(&mut self) {
        let Some((_, target)) = self.some_place() else { return };
        let mut items = Vec::new();
        self.add_plain(&mut items, target);
        self.add_plain(&mut items, target);
        if !items.is_empty() {
            self.produce(7, target, items);
        }
    }

    fn add_plain(&mut self, items: &mut Vec<(GroupId, InRequest)>, to: Target) {
        let Some((place, target)) = self.some_place() else { return };
        let same = target.node == to.node && target.shard == to.shard;
        if same && items.iter().all(|(group, _)| *group != target.group) {
            let sent = self.new_batch(place, None);
            items.push((target.group, InRequest { sent, producer: None, again: None }));
        }
    }

    pub(super) fn produce(&mut self, connection: u64, to: Target, items: Vec<(GroupId, InRequest)>) {
        self.count("produce");
        // What only the leader has may be lost with it, and idempotent producers never ask for so little.
        let little = self.plan.nodes == 1 || items.iter().all(|(_, item)| item.producer.is_none());
        let acks = if self.rng.random_bool(0.25) && little { Acks::Leader } else { Acks::All };
        let timeout_ms = if self.rng.random_bool(0.1) { 30 } else { 5_000 };
        let slice = ProduceSlice {
            acks,
            timeout_ms,
            items: items
                .iter()
                .map(|(group, item)| ProduceItem { group: *group, records: item.sent.encode() })
                .collect(),
        };
        let groups = items.iter().map(|(group, _)| *group).collect();
        let items = items.into_iter().map(|(_, item)| item).collect();
        let asked = match acks {
            Acks::Leader if self.plan.nodes > 1 => Asked::ProduceToLeader(items),
            _ => Asked::Produce(items),
        };
        self.ask(to, groups, connection, asked, u64::from(timeout_ms), Request::Produce(slice));
    }

    fn ask_producer_id(&mut self, number: usize) {
        let Some(target) = self.some_shard_0() else { return };
        if std::mem::replace(&mut self.clients.producers[number].asking, true) {
            return;
        }
        let asked = Asked::ProducerId(number);
        self.ask(target, Vec::new(), number as u64, asked, u64::MAX, Request::ProducerId);
    }

    /// A fetch from anywhere in a partition or two; at the end it waits for more.
    pub(super) fn fetch_something(&mut self) {
        let Some((_, to)) = self.some_place() else { return };
        let mut asked = Vec::new();
        let mut items = Vec::new();
        for _ in 0..self.rng.random_range(1..=2) {
            let Some((place, target)) = self.some_place() else { return };
            let same = target.node == to.node && target.shard == to.shard;
            if !same || items.iter().any(|item: &FetchItem| item.group == target.group) {
                continue;
            }
            let floor = self.model.floor(place);
            let offset = match self.rng.random_range(0..4) {
                0 => floor.shown,
                1 => floor.log_start,
                2 => 0,
                _ => self.rng.random_range(floor.log_start..=floor.high_watermark.max(floor.log_start)),
            };
            asked.push((place, offset, floor));
            let max_bytes = [1, 600, 8_000, 1 << 20][self.rng.random_range(0..4)];
            items.push(FetchItem { max_bytes, ..fetch_item(target.group, offset) });
        }
        if items.is_empty() {
            return;
        }
        self.count("fetch");
        let max_wait_ms = self.rng.random_range(0..500);
        let min_bytes = [0, 1, 5_000][self.rng.random_range(0..3)];
        let slice = FetchSlice {
            min_bytes,
            max_bytes: 1 << 20,
            max_wait_ms,
            isolation: Isolation::ReadUncommitted,
            items,
        };
        let groups = slice.items.iter().map(|item| item.group).collect();
        self.ask(to, groups, 11, Asked::Fetch(asked), u64::from(max_wait_ms), Request::Fetch(slice));
    }

    pub(super) fn ask_offsets(&mut self) {
        let Some((place, target)) = self.some_place() else { return };
        let now_ms = WALL_START_MS + (self.now_us() / 1_000) as i64;
        let timestamp = match self.rng.random_range(0..5) {
            0 => -2,
            1 => -3,
            2 => now_ms - self.rng.random_range(0..5_000),
            _ => -1,
        };
        let floor = self.model.floor(place);
        let query = offset_query(target.group, timestamp);
        let asked = Asked::Offsets(place, timestamp, floor);
        self.ask(target, vec![target.group], 3, asked, 1_000, Request::ListOffsets(vec![query]));
    }

    pub(super) fn delete_records(&mut self) {
        let Some((place, target)) = self.some_place() else { return };
        let floor = self.model.floor(place);
        if floor.high_watermark == 0 || self.rng.random_bool(0.5) {
            return;
        }
        let before = self.rng.random_range(floor.log_start..=floor.high_watermark.max(floor.log_start));
        if let Some(partition) = self.model.partition(place) {
            partition.delete_asked = partition.delete_asked.max(before);
        }
        self.count("delete records");
        let items = vec![DeleteItem { group: target.group, before: KafkaOffset(before) }];
        let request = Request::DeleteRecords { items, timeout_ms: 5_000 };
        let asked = Asked::DeleteRecords(place, before, floor);
        self.ask(target, vec![target.group], 3, asked, 5_000, request);
    }

    /// A group commits an offset of the topic that is never deleted, or asks for it.
    pub(super) fn commit_or_read_offset(&mut self) {
        let group = format!("group-{}", self.rng.random_range(0..3));
        if self.rng.random_bool(0.4) {
            return self.read_some_offset(group);
        }
        self.commit_offset(group);
    }

    /// A topic that is never deleted, and who coordinates the group.
    fn place_to_commit(&mut self, group: &str) -> Option<(Place, Target)> {
        let snapshot = self.some_snapshot()?;
        let kept = snapshot.topic("kept")?;
        let place = (kept.id, self.rng.random_range(0..kept.partitions.len() as i32));
        let known = self.model.topics.contains_key(&kept.id);
        known.then(|| self.coordinator(group, &snapshot)).flatten().map(|target| (place, target))
    }

    fn read_some_offset(&mut self, group: String) {
        if let Some((place, target)) = self.place_to_commit(&group) {
            self.read_committed(group, place, target);
        }
    }

    /// A group commits an offset: one with a member by that.
    pub(super) fn commit_offset(&mut self, group: String) {
        let Some((place, target)) = self.place_to_commit(&group) else { return };
        if !self.clients.committing.insert((group.clone(), place)) {
            return;
        }
        self.count("commit");
        let offset = self.clients.next_call as i64;
        self.model.commits.entry((group.clone(), place)).or_default().1.insert(offset);
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(place.1)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::from_static_str("by the simulator")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(StrBytes::from_static_str("kept").into())
            .with_partitions(vec![partition]);
        let member = &self.clients.member;
        let identity = if member.group() == group { member.identity() } else { None };
        let (id, generation) = identity.unwrap_or((StrBytes::default(), -1));
        let kind = OffsetCommitRequest::default()
            .with_group_id(StrBytes::from_string(group.clone()).into())
            .with_member_id(id)
            .with_generation_id_or_member_epoch(generation)
            .with_topics(vec![topic]);
        let request = group_request(target.group, RequestKind::OffsetCommit(kind), 9);
        self.ask(target, vec![target.group], 5, Asked::Commit(group, place, offset), 6_000, request);
    }

    /// Who is believed to coordinate a group.
    pub(super) fn coordinator(&self, group: &str, snapshot: &Snapshot) -> Option<Target> {
        let offsets = snapshot.topic(CONSUMER_OFFSETS)?;
        let number = partition_for_group(group, offsets.partitions.len() as i32);
        let view = offsets.partition(number)?;
        self.target(node_number(view.leader?.node), view.group)
    }

    /// Shard 0 of any node that answers: whatever concerns the metadata may be asked anywhere.
    pub(super) fn some_shard_0(&mut self) -> Option<Target> {
        let snapshot = self.some_snapshot()?;
        self.target(node_number(snapshot.node), GroupId::METADATA)
    }

    /// Asks for a committed offset.
    pub(super) fn read_committed(&mut self, group: String, place: Place, to: Target) {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(StrBytes::from_static_str("kept").into())
            .with_partition_indexes(vec![place.1]);
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(StrBytes::from_string(group.clone()).into())
            .with_topics(Some(vec![topic]));
        let kind = OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(true);
        let request = group_request(to.group, RequestKind::OffsetFetch(kind), 8);
        let floor = self.model.commits.get(&(group.clone(), place)).and_then(|known| known.0);
        self.ask(to, vec![to.group], 5, Asked::Committed(group, place, floor), 10_000, request);
    }
}

/// A fetch of one partition without fencing.
#[must_use]
pub fn fetch_item(group: GroupId, offset: i64) -> FetchItem {
    FetchItem {
        group,
        offset: KafkaOffset(offset),
        max_bytes: 1 << 20,
        current_epoch: LeaderEpoch::UNKNOWN,
        last_fetched_epoch: LeaderEpoch::UNKNOWN,
    }
}

/// A question for an offset without fencing.
#[must_use]
pub fn offset_query(group: GroupId, timestamp: i64) -> OffsetQuery {
    let current_epoch = LeaderEpoch::UNKNOWN;
    OffsetQuery { group, timestamp, current_epoch, isolation: Isolation::ReadUncommitted }
}

/// A request of a group to its coordinator.
#[must_use]
pub fn group_request(partition: GroupId, kind: RequestKind, version: i16) -> Request {
    let request = GroupRequest {
        version,
        client_id: StrBytes::from_static_str("simulator"),
        client_host: StrBytes::from_static_str("/127.0.0.1"),
        kind,
    };
    Request::Group { partition, request: Box::new(request) }
}
