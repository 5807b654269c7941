//! What comes from other nodes and goes to them: Raft's messages, catch-up reads for followers, installed snapshots.
//!
//! Runs on every shard. The edge (`node/peers.rs`) carries [`PeerOut`]s; a message lost there is lost for good, and Raft
//! sends another. A peer id is translated to a node by the partition's members: the placement, and whoever wrote to us.
//!
//! Invariants: nothing is sent to a node whose link is down (it would wait in a queue for a reader that may never come), nor to a
//! replica that a newer one on the same node has taken the place of; a peer is never believed to be on two nodes.

use std::collections::VecDeque;

use chronik_raft::driver::{EntryFetch, Installed, Outgoing, entry_bytes};
use chronik_raft::eraftpb::{Message, MessageType};
use chronik_wal::entry::LogEntry;
use chronik_wal::partition::FileDone;
use chronik_wal::types::{GroupId, NodeId, PeerId, RaftIndex};

use super::drops::Drop;
use super::message::{PeerMessage, PeerOut};
use super::{Job, JobOwner, Shard, Timer};
use crate::metadata::command::Replica;
use crate::partition::{Partition, producer_limits};

/// Members of one group that are remembered from what they wrote: more than any placement has.
const MEMBERS_MAX: usize = 32;

/// Messages kept for groups that this node has not heard of yet: of some thousand topics made at once.
const EARLY_MAX: usize = 16_384;

/// Reads from files for followers that run at the same time; the helper threads serve fetches too.
const CATCH_UP_READS_MAX: usize = 2;

/// Reads that wait: about one for each follower of each group that lags.
const CATCH_UPS_WAITING_MAX: usize = 4_096;

/// Bytes that a shard reads from files for followers in a second: filling a replica must leave disk and links to clients.
const CATCH_UP_BYTES_PER_S: u64 = 64 << 20;

/// What is read from files for followers.
#[derive(Debug, Default)]
pub struct CatchUp {
    waiting: VecDeque<EntryFetch>,
    reading: usize,
    /// When the next read may begin.
    free_at_ms: u64,
}

impl Shard {
    /// A shard of another node says something.
    pub(crate) fn peer_says(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft { group, message } => self.step(from, group, message),
            PeerMessage::Heartbeats(list) => {
                for (group, message) in list {
                    self.step(from, group, message);
                }
            }
            PeerMessage::Leaders(events) => self.leaders_told(from, events),
            PeerMessage::Ask { id, body } => self.asked(from, id, &body),
            PeerMessage::Answer { id, body } => self.answered(from, id, &body),
        }
    }

    fn step(&mut self, from: NodeId, group: GroupId, message: Message) {
        // The node that leads the metadata group applies the entry that makes a group first, and its call for votes may come
        // before the word that the entry is committed. Without these messages the first leader would wait for a timeout.
        if group > self.newest_group && !self.driver.contains(group) {
            return self.keep_early(from, group, message);
        }
        if self.making.is_waiting(group) {
            self.make_partition(group);
        }
        let peer = PeerId(message.from);
        if !self.is_replica_on(group, peer, from) {
            return tracing::debug!(group = group.0, peer = peer.0, node = from.0, "not its replica");
        }
        self.follower_heard(group);
        let taken = match group {
            GroupId::METADATA => self.driver.step(peer, group, message),
            _ => {
                let room = self.room_to_follow(message_bytes(&message));
                self.driver.step_within(peer, group, message, room)
            }
        };
        if let Err(error) = taken {
            tracing::debug!(group = group.0, node = from.0, %error, "a message of a peer is dropped");
        }
    }

    /// Keeps a message for a group still to come, without its entries when there is no room for them: they come again.
    fn keep_early(&mut self, from: NodeId, group: GroupId, mut message: Message) {
        if self.early.len() >= EARLY_MAX {
            let oldest = self.early.pop_front();
            self.early_bytes -= oldest.map_or(0, |(_, _, message)| message_bytes(&message));
        }
        let bytes = message_bytes(&message);
        if bytes > self.room_to_follow(bytes).bytes {
            message.entries.clear();
        }
        self.early_bytes += message_bytes(&message);
        self.early.push_back((from, group, message));
    }

    /// Whether a node may speak for a replica. One that the placement does not name is believed: it may name it only later, or
    /// not any more.
    fn is_replica_on(&mut self, group: GroupId, peer: PeerId, node: NodeId) -> bool {
        let Some(partition) = self.partitions.get_mut(&group) else { return true };
        if let Some(member) = partition.members.iter().find(|member| member.peer == peer) {
            return member.node == node;
        }
        if partition.members.len() >= MEMBERS_MAX {
            let view = self.snapshot.partition(&partition.name.topic_id, partition.name.index);
            // None of the metadata group, which is no topic's: it forgets with its next placement.
            let Some(view) = view.filter(|view| (1..MEMBERS_MAX).contains(&view.replicas.len())) else {
                return false;
            };
            partition.members.retain(|member| view.replicas.contains(member));
        }
        partition.members.push(Replica { node, peer });
        true
    }

    /// The placement of a partition is another one: whom it names on nodes that cannot be reached is not waited for.
    pub(crate) fn members_placed(&mut self, group: GroupId, placed: Vec<Replica>) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        let before = std::mem::replace(&mut partition.members, placed);
        self.tell_unreachable(group, &before);
    }

    /// Groups up to `newest` are known now: takes in what came for them before.
    pub(crate) fn groups_known(&mut self, newest: GroupId) {
        self.newest_group = self.newest_group.max(newest);
        let early = std::mem::take(&mut self.early);
        self.early_bytes = 0;
        for (from, group, message) in early {
            self.step(from, group, message);
        }
    }

    /// Sends what Raft wants sent.
    pub(crate) fn send_out(&mut self, messages: Vec<Outgoing>, heartbeats: Vec<Outgoing>) {
        for Outgoing { to, group, message } in messages {
            match self.reachable(group, to) {
                Some(node) => {
                    self.out.peer.push(PeerOut { node, message: PeerMessage::Raft { group, message } });
                }
                None => self.not_sent(group, to, message.get_msg_type()),
            }
        }
        let mut by_node: Vec<(NodeId, Vec<(GroupId, Message)>)> = Vec::new();
        for Outgoing { to, group, message } in heartbeats {
            let Some(node) = self.reachable(group, to) else { continue };
            match by_node.iter_mut().find(|(other, _)| *other == node) {
                Some((_, list)) => list.push((group, message)),
                None => by_node.push((node, vec![(group, message)])),
            }
        }
        for (node, list) in by_node {
            self.out.peer.push(PeerOut { node, message: PeerMessage::Heartbeats(list) });
        }
    }

    /// A message could not go out: Raft sends it again when the other side has answered, instead of at once and in vain.
    pub(crate) fn not_sent(&mut self, group: GroupId, to: PeerId, kind: MessageType) {
        match kind {
            MessageType::MsgSnapshot => self.driver.report_snapshot(group, to, false),
            MessageType::MsgAppend => self.driver.report_unreachable(group, to),
            _ => {}
        }
    }

    /// The node of a replica, if it is there: a link to it is up, and the replica is not gone.
    pub(crate) fn reachable(&self, group: GroupId, peer: PeerId) -> Option<NodeId> {
        let node = self.node_of(group, peer).filter(|node| self.nodes_up.contains(node))?;
        (!self.partitions.get(&group)?.gone.contains(&peer)).then_some(node)
    }

    /// A node can be reached now.
    pub(crate) fn node_up(&mut self, node: NodeId) {
        self.nodes_up.insert(node);
        self.handover_node(node, true);
        for (group, peer) in self.replicas_on(node) {
            if self.reachable(group, peer).is_some() {
                self.driver.peer_found(group, peer);
            }
            self.watch_in_sync(group);
        }
        self.reachable_changed(node, true, false);
    }

    /// A node cannot be reached any more: the groups that it leads look for another leader, one replica after the other.
    pub(crate) fn node_down(&mut self, node: NodeId, refused: bool) {
        for (group, _) in self.replicas_on(node) {
            // Until now a group at rest had everything there.
            self.refresh_in_sync(group);
        }
        self.nodes_up.remove(&node);
        self.handover_node(node, false);
        for (group, peer) in self.replicas_on(node) {
            let Some(partition) = self.partitions.get(&group) else { continue };
            let others = partition.members.iter().filter(|member| member.node != node);
            let rank = others.take_while(|member| member.node != self.node).count();
            self.driver.peer_lost(group, peer, rank, refused);
            match refused {
                true => self.out_of_sync(group, peer),
                false => self.watch_in_sync(group),
            }
        }
        self.reachable_changed(node, false, refused);
    }

    /// Members that are new to this shard, all but those `known` before: which of them cannot be reached. A leader does not wait for
    /// these before the group rests; a link that comes up says otherwise. Nor for those that are gone since: it would keep the
    /// group awake, and write to them, for as long as their successors are being filled.
    pub(crate) fn tell_unreachable(&mut self, group: GroupId, known: &[Replica]) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        let gone = gone_among(&partition.members);
        let before = std::mem::replace(&mut partition.gone, gone);
        let is_lost = |member: &&Replica| {
            let is_away = !self.nodes_up.contains(&member.node) && !known.contains(member);
            is_away || partition.gone.contains(&member.peer) && !before.contains(&member.peer)
        };
        for member in partition.members.iter().filter(|member| member.node != self.node).filter(is_lost) {
            self.driver.peer_lost(group, member.peer, 0, false);
        }
    }

    /// All replicas on a node. It has two of a partition while it is filled anew after it lost its disk: the one that it had, and
    /// the one that comes.
    pub(crate) fn replicas_on(&self, node: NodeId) -> Vec<(GroupId, PeerId)> {
        let on_node = |(group, partition): (&GroupId, &Partition)| {
            let group = *group;
            let here = partition.members.iter().filter(move |member| member.node == node);
            here.map(move |member| (group, member.peer)).collect::<Vec<_>>()
        };
        self.partitions.iter().flat_map(on_node).collect()
    }

    /// Raft wants entries for a follower that only the files have.
    pub(crate) fn read_for_follower(&mut self, fetch: EntryFetch) {
        if self.catch_up.waiting.len() >= CATCH_UPS_WAITING_MAX {
            // Raft asks again when the follower is next heard from.
            return self.driver.on_entries_fetched(fetch.group, fetch.low, Vec::new());
        }
        self.catch_up.waiting.push_back(fetch);
        self.catch_up_due();
    }

    /// Begins reads for followers, as many as may run and as fast as they may.
    pub(crate) fn catch_up_due(&mut self) {
        let now_ms = self.now.mono_ms;
        while self.catch_up.reading < CATCH_UP_READS_MAX {
            if self.catch_up.waiting.is_empty() {
                return;
            }
            if now_ms < self.catch_up.free_at_ms {
                return self.set_timer(self.catch_up.free_at_ms, Timer::CatchUp);
            }
            if let Some(fetch) = self.catch_up.waiting.pop_front() {
                self.start_catch_up(fetch);
            }
        }
    }

    fn start_catch_up(&mut self, fetch: EntryFetch) {
        let EntryFetch { group, low, high, bytes_max } = fetch;
        let bytes = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let job = self.partitions.get(&group).and_then(|partition| partition.files.read_entries(low, bytes));
        match job {
            Some(job) => {
                self.catch_up.reading += 1;
                self.start_job(JobOwner::CatchUp { group, low, high }, Job::File(job));
            }
            None => self.driver.on_entries_fetched(group, low, Vec::new()),
        }
    }

    /// Entries for a follower have been read.
    pub(crate) fn read_for_follower_done(
        &mut self,
        group: GroupId,
        low: RaftIndex,
        high: RaftIndex,
        done: FileDone,
    ) {
        self.catch_up.reading -= 1;
        let FileDone::Entries(read) = done else { return };
        let mut entries: Vec<LogEntry> = match read {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(group = group.0, %low, %error, "entries for a follower cannot be read");
                Vec::new()
            }
        };
        entries.truncate(entries.partition_point(|entry| entry.index < high));
        let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
        self.metrics.catch_up_bytes.add(bytes as u64);
        let cost_ms = bytes as u64 * 1_000 / CATCH_UP_BYTES_PER_S;
        self.catch_up.free_at_ms = self.catch_up.free_at_ms.max(self.now.mono_ms) + cost_ms;
        self.driver.on_entries_fetched(group, low, entries);
        self.catch_up_due();
    }

    /// A snapshot took the place of a replica's whole log.
    pub(crate) fn installed(&mut self, installed: &Installed) {
        let Installed { group, log_start, data, turn } = installed;
        let mut decided = Vec::new();
        let limits = producer_limits(&self.config);
        let wall_ms = self.now.wall_ms;
        let Some(partition) = self.partitions.get_mut(group) else { return };
        tracing::info!(group = group.0, start = log_start.offset.0, "a snapshot takes the place of the log");
        partition.fail_waiters(&mut decided);
        partition.install(*log_start, data, limits, wall_ms);
        if *group == GroupId::METADATA {
            self.metadata_installed(log_start.index, data);
        }
        // ORDER: the files are obsolete at once, but they go only when the turn that says so is durable.
        self.drops.hold(*group, log_start.index);
        self.drops.after(*turn, *group, Drop::All(*log_start));
        self.touched.insert(*group);
        self.decide(*group, decided);
    }
}

/// Of the replicas that a placement names, those with a newer one on their node. Ids are given in order, and a node has one data
/// directory: they went with the directory, or the log, that the node had before (SAFETY.md, rule 8).
pub(super) fn gone_among(placed: &[Replica]) -> Vec<PeerId> {
    let is_newer = |other: &Replica, one: &Replica| other.node == one.node && other.peer > one.peer;
    let gone = placed.iter().filter(|one| placed.iter().any(|other| is_newer(other, one)));
    gone.map(|replica| replica.peer).collect()
}

/// What the entries of an append take in memory.
fn message_bytes(message: &Message) -> u64 {
    message.entries.iter().map(|entry| entry_bytes(entry) as u64).sum()
}
