//! Who leads and who can be reached: told to the other nodes at once, told again every few seconds, and taken from them.
//!
//! ```text
//! shards of this node ─LeaderEvent─▶ shard 0 ─▶ snapshot of this node
//!                                        └──▶ Leaders, to every other node that is up: what has just changed, once a turn;
//!                                             all that this node leads, every few seconds and when a node comes up
//! ```
//! Only the leader itself tells other nodes, so that each event has one source; what followers know serves their own node.
//! Events of topics that the metadata log has not brought yet are kept, within a bound, until it does.
//!
//! Shard 0 only. Invariants: an event of an older term changes nothing; that nobody leads is never told.

use std::collections::BTreeMap;

use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, NodeId, ShardId, Term};
use uuid::Uuid;

use super::message::{LeaderEvent, PeerMessage, PeerOut};
use super::{Event, Shard};
use crate::metadata::snapshot::SnapshotBuilder;
use crate::metadata::state::Change;

/// How often everything that this node leads is told again.
const TELL_ALL_EVERY_MS: u64 = 3_000;
/// Events in one message: some 100 KiB.
const EVENTS_PER_MESSAGE_MAX: usize = 2_048;
/// Events kept for topics that are not known yet; told again every few seconds, so nothing is lost for good.
const PENDING_MAX: usize = 20_000;
/// A broker that cannot be reached for so long is left out of Metadata: a restart of its process takes less.
const FENCE_AFTER_MS: u64 = 3_000;

/// What is known of leaders and nodes, beside what the snapshot says.
#[derive(Debug, Default)]
pub struct Dissemination {
    /// What this node leads, as told last.
    led: BTreeMap<(Uuid, i32), LeaderEvent>,
    /// What is to be told with the end of the turn.
    news: Vec<LeaderEvent>,
    /// Events of partitions that are not known yet.
    pending: BTreeMap<(Uuid, i32), LeaderEvent>,
    told_all_at_ms: Option<u64>,
    /// When each node last told its leaders.
    heard: BTreeMap<NodeId, u64>,
    /// Since when brokers cannot be reached.
    down_since: BTreeMap<NodeId, u64>,
}

impl Dissemination {
    /// When a node that has its part in the cluster was last heard of.
    pub(crate) fn heard_at_ms(&self, node: NodeId) -> Option<u64> {
        self.heard.get(&node).copied()
    }

    /// This node has its part in the cluster now: the others are to hear of it soon.
    pub(crate) fn begin(&mut self) {
        self.told_all_at_ms = None;
    }

    /// Takes over an event, or keeps it for later.
    fn take(&mut self, event: LeaderEvent, builder: &mut SnapshotBuilder) {
        let key = (event.topic_id, event.partition);
        if builder.has_partition(&event.topic_id, event.partition) {
            builder.leader_changed(&event.topic_id, event.partition, event.term, event.leader);
            if let Some(in_sync) = &event.in_sync {
                builder.in_sync_changed(&event.topic_id, event.partition, event.term, in_sync);
            }
            return;
        }
        let known = self.pending.get(&key);
        if known.is_some_and(|known| known.term >= event.term && event.in_sync.is_none())
            || (known.is_none() && self.pending.len() >= PENDING_MAX)
        {
            return;
        }
        self.pending.insert(key, event);
    }

    /// A shard of this node reports who leads; what this node itself leads is told to the others.
    fn report(&mut self, event: &LeaderEvent, this_node: NodeId) {
        let key = (event.topic_id, event.partition);
        let known = self.led.get(&key);
        if event.leader != this_node {
            if known.is_some_and(|known| known.term < event.term) {
                self.led.remove(&key);
            }
            return;
        }
        let mut event = event.clone();
        if let Some(known) = known {
            if known.term > event.term {
                return;
            }
            if known.term == event.term && event.in_sync.is_none() {
                event.in_sync.clone_from(&known.in_sync);
            }
        }
        self.led.insert(key, event.clone());
        self.news.push(event);
    }

    /// Partitions come and go: what was kept for those that have come is taken over.
    pub(crate) fn topics_changed(&mut self, change: &Change, builder: &mut SnapshotBuilder) {
        let all_of = |id: Uuid| (id, i32::MIN)..=(id, i32::MAX);
        match change {
            Change::TopicCreated(topic) | Change::PartitionsAdded(topic, _) => {
                let keys: Vec<(Uuid, i32)> =
                    self.pending.range(all_of(topic.id)).map(|(key, _)| *key).collect();
                for key in keys {
                    if let Some(event) = self.pending.remove(&key) {
                        self.take(event, builder);
                    }
                }
            }
            Change::TopicDeleted(topic) => {
                for kept in [&mut self.pending, &mut self.led] {
                    kept.retain(|(id, _), _| *id != topic.id);
                }
            }
            _ => {}
        }
    }
}

impl Shard {
    /// A group of this shard has a leader: shard 0 hears of it with the end of the turn.
    pub(crate) fn leader_known(&mut self, group: GroupId, term: Term, leader: NodeId) {
        let Some(partition) = self.partitions.get(&group) else { return };
        if group == GroupId::METADATA {
            if let Some(host) = &mut self.controller {
                host.builder.controller_changed(leader);
                self.tend_within(0);
            }
            return;
        }
        let event = LeaderEvent {
            topic_id: partition.name.topic_id,
            partition: partition.name.index,
            term,
            leader,
            in_sync: None,
        };
        self.leader_events.push(event);
    }

    /// Sends what [`Shard::leader_known`] has gathered.
    pub(crate) fn tell_leaders(&mut self) {
        if self.leader_events.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.leader_events);
        if self.controller.is_some() {
            return self.leaders_reported(events);
        }
        self.out.messages.push((ShardId(0), Event::Leaders(events)));
    }

    /// Leaders that shards of this node report.
    pub(crate) fn leaders_reported(&mut self, events: Vec<LeaderEvent>) {
        let Some(host) = &mut self.controller else { return };
        for event in events {
            host.dissemination.report(&event, self.node);
            host.dissemination.take(event, &mut host.builder);
        }
    }

    /// Another node says which partitions it leads.
    pub(crate) fn leaders_told(&mut self, from: NodeId, events: Vec<LeaderEvent>) {
        let now_ms = self.now.mono_ms;
        let Some(host) = &mut self.controller else { return };
        host.dissemination.heard.insert(from, now_ms);
        for event in events.into_iter().filter(|event| event.leader == from) {
            host.dissemination.take(event, &mut host.builder);
        }
    }

    /// Tells the other nodes what has changed in this turn.
    pub(crate) fn tell_news(&mut self) {
        let Some(host) = &mut self.controller else { return };
        if host.dissemination.news.is_empty() {
            return;
        }
        let news = std::mem::take(&mut host.dissemination.news);
        let nodes: Vec<NodeId> = self.nodes_up.iter().copied().collect();
        nodes.into_iter().for_each(|node| self.tell_node(node, &news));
    }

    fn tell_node(&mut self, node: NodeId, events: &[LeaderEvent]) {
        // With nothing to tell it says that this node is alive.
        let chunks = events.chunks(EVENTS_PER_MESSAGE_MAX).chain(events.is_empty().then_some(events));
        for chunk in chunks {
            self.out.peer.push(PeerOut { node, message: PeerMessage::Leaders(chunk.to_vec()) });
        }
    }

    fn tell_all_to(&mut self, nodes: &[NodeId]) {
        let Some(host) = &self.controller else { return };
        if host.bootstrap.is_some() {
            // A node that has no part in the cluster yet gives no sign of life as a member.
            return;
        }
        let led: Vec<LeaderEvent> = host.dissemination.led.values().cloned().collect();
        nodes.iter().for_each(|node| self.tell_node(*node, &led));
    }

    /// A node's link has come up or gone.
    pub(crate) fn reachable_changed(&mut self, node: NodeId, reachable: bool, refused: bool) {
        let Some(host) = &mut self.controller else { return };
        if refused {
            host.dissemination.heard.remove(&node);
        }
        if reachable {
            host.dissemination.down_since.remove(&node);
            host.builder.broker_reachable(node, true);
            self.tell_all_to(&[node]);
        } else if let Some(bootstrap) = &mut host.bootstrap {
            bootstrap.lost(node);
        }
        self.tend_within(0);
    }

    /// Tells everything again when it is time, and looks who has been out of reach for too long.
    pub(crate) fn disseminate(&mut self) {
        let now_ms = self.now.mono_ms;
        let nodes: Vec<NodeId> = self.nodes_up.iter().copied().collect();
        let in_contact = self.is_in_contact();
        let Some(host) = &mut self.controller else { return };
        let told = &mut host.dissemination.told_all_at_ms;
        let due = told.is_none_or(|at_ms| at_ms + TELL_ALL_EVERY_MS <= now_ms);
        if due {
            *told = Some(now_ms);
        }
        let brokers: Vec<NodeId> =
            host.state.brokers().keys().copied().filter(|node| *node != self.node).collect();
        host.dissemination.down_since.retain(|node, _| brokers.contains(node));
        for node in brokers {
            if self.nodes_up.contains(&node) {
                host.dissemination.down_since.remove(&node);
                host.builder.broker_reachable(node, true);
                continue;
            }
            let since_ms = *host.dissemination.down_since.entry(node).or_insert(now_ms);
            // A node that is cut off itself knows nothing of the others: better all of them than none.
            let fenced = in_contact && since_ms + FENCE_AFTER_MS <= now_ms;
            host.builder.broker_reachable(node, !fenced);
        }
        if due {
            self.tell_all_to(&nodes);
        }
    }

    /// Whether this node is in contact with the quorum of the metadata group.
    fn is_in_contact(&self) -> bool {
        let group = GroupId::METADATA;
        match self.driver.leadership(group) {
            Some(Leadership::Leader { .. }) => true,
            Some(Leadership::Follower { leader, .. }) => {
                self.node_of(group, leader).is_some_and(|node| self.nodes_up.contains(&node))
            }
            Some(Leadership::Elected { .. } | Leadership::Unknown { .. }) | None => false,
        }
    }
}
