//! Three nodes of one shard each, wired by hand: what a shard writes to another node comes to that node's shard at once, in
//! order, unless the link is cut, or the node is down or paused.
//!
//! Time stands still but for [`Cluster::advance`]. Nodes are named by their ids, from 1.

use std::collections::{BTreeSet, VecDeque};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_raft::leadership::Leadership;
use chronik_wal::disk::SimDisk;
use chronik_wal::types::{GroupId, KafkaOffset, NodeId};

use super::{Rig, Setup, TOPIC, WALL_MS, creation_of, fetch_of, offsets_in, slice};
use crate::shard::controller::{AdminReply, AdminRequest};
use crate::shard::message::*;
use crate::shard::{Event, Now};

/// How long [`Cluster`] waits for something that needs elections at most.
const PATIENCE_MS: u64 = 10_000;

/// Says whether a message from one node to another is lost.
pub(crate) type Loss = Box<dyn FnMut(NodeId, NodeId, &PeerMessage) -> bool>;

/// A message on its way: from, to, what.
type OnTheWay = (NodeId, NodeId, PeerMessage);

/// Some nodes, the links between them and their common clock.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Rig>,
    pub(crate) now: Now,
    down: BTreeSet<NodeId>,
    /// Nodes that are stopped in their tracks, as by SIGSTOP: what comes for them waits.
    paused: BTreeSet<NodeId>,
    cut: BTreeSet<(NodeId, NodeId)>,
    mail: VecDeque<OnTheWay>,
    /// Messages for which this says so are lost.
    pub(crate) lose: Option<Loss>,
}

impl Index<i32> for Cluster {
    type Output = Rig;

    fn index(&self, node: i32) -> &Rig {
        &self.nodes[node as usize - 1]
    }
}

impl IndexMut<i32> for Cluster {
    fn index_mut(&mut self, node: i32) -> &mut Rig {
        &mut self.nodes[node as usize - 1]
    }
}

impl Cluster {
    /// Three nodes with a leader of the metadata group.
    pub(crate) fn new() -> Self {
        Self::with(&Setup::default())
    }

    /// With a topic of one partition; its group, and who leads it.
    pub(crate) fn led() -> (Self, GroupId, i32) {
        let mut cluster = Self::new();
        let group = cluster.topic(TOPIC, 1, &[]);
        let leader = cluster.leader(group);
        (cluster, group, leader)
    }

    /// As [`Cluster::new`], each node set up like this.
    pub(crate) fn with(setup: &Setup) -> Self {
        let mut cluster = Self::start(setup);
        cluster.leader(GroupId::METADATA);
        cluster
    }

    /// As [`Cluster::with`], before anything has happened.
    pub(crate) fn start(setup: &Setup) -> Self {
        let now = Now { mono_ms: 1_000_000, wall_ms: WALL_MS };
        let names: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let start = |node: &NodeId| {
            let setup = Setup { node: *node, cluster: names.clone(), ..setup.clone() };
            let seed = node.0 as u64;
            Rig::start(Arc::new(SimDisk::new(seed)), setup, now, seed)
        };
        let nodes = names.iter().map(start).collect();
        let mut cluster = Self {
            nodes,
            now,
            down: BTreeSet::new(),
            paused: BTreeSet::new(),
            cut: BTreeSet::new(),
            mail: VecDeque::new(),
            lose: None,
        };
        for node in &names {
            cluster.links_up(*node);
        }
        cluster
    }

    /// A killed node starts again with an empty disk.
    pub(crate) fn restart_wiped(&mut self, node: i32) {
        assert!(self.down.remove(&NodeId(node)), "it was killed");
        let place = node as usize - 1;
        let killed = self.nodes.remove(place);
        let disks = killed.setup.disks + 1;
        let setup = Setup { fresh: true, disks, ..killed.setup };
        let seed = 100 * disks + node as u64;
        let wiped = Rig::start(Arc::new(SimDisk::new(seed)), setup, self.now, seed);
        self.nodes.insert(place, wiped);
        self.links_up(NodeId(node));
    }

    fn runs(&self, node: NodeId) -> bool {
        !self.down.contains(&node) && !self.paused.contains(&node)
    }

    /// The ids of all nodes.
    pub(crate) fn names(&self) -> Vec<i32> {
        (1..=self.nodes.len() as i32).collect()
    }

    fn links_up(&mut self, node: NodeId) {
        for other in self.names().into_iter().map(NodeId) {
            if other != node && !self.down.contains(&other) {
                self[node.0].handle(Event::NodeUp(other));
                self[other.0].handle(Event::NodeUp(node));
            }
        }
    }

    // --- faults

    /// The machine of a node loses power. `noticed`: the others see at once that its port refuses connections.
    pub(crate) fn kill(&mut self, node: i32, noticed: bool) {
        let node = NodeId(node);
        self.down.insert(node);
        self.mail.retain(|(from, to, _)| *from != node && *to != node);
        if noticed {
            self.notice_down(node, true);
        }
    }

    /// The links of the others to a node are down.
    pub(crate) fn notice_down(&mut self, node: NodeId, refused: bool) {
        for other in self.names().into_iter().map(NodeId) {
            if other != node && !self.down.contains(&other) {
                self[other.0].handle(Event::NodeDown { node, refused });
            }
        }
    }

    /// A killed node starts again on what its disk kept.
    pub(crate) fn restart(&mut self, node: i32) {
        assert!(self.down.remove(&NodeId(node)), "it was killed");
        let place = node as usize - 1;
        let killed = self.nodes.remove(place);
        self.nodes.insert(place, killed.crash_at(self.now));
        self.links_up(NodeId(node));
    }

    /// A node is stopped in its tracks.
    pub(crate) fn pause(&mut self, node: i32) {
        self.paused.insert(NodeId(node));
    }

    /// A paused node goes on. What came for it meanwhile waits in its mailbox; the clock has moved.
    pub(crate) fn resume(&mut self, node: i32) {
        assert!(self.paused.remove(&NodeId(node)), "it was paused");
        let now = self.now;
        self[node].now = now;
    }

    /// Nothing goes between two nodes any more, and nobody is told.
    pub(crate) fn cut(&mut self, one: i32, other: i32) {
        self.cut.insert((NodeId(one), NodeId(other)));
        self.cut.insert((NodeId(other), NodeId(one)));
    }

    /// Nothing goes from or to this node any more, and nobody is told.
    pub(crate) fn isolate(&mut self, node: i32) {
        self.names().into_iter().filter(|other| *other != node).for_each(|other| self.cut(node, other));
    }

    /// Every link works again.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    // --- time

    /// One turn of each node that runs, and the mail. True when something happened.
    pub(crate) fn step(&mut self) -> bool {
        let mut worked = false;
        for node in self.names() {
            if self.runs(NodeId(node)) {
                worked |= self[node].step();
                for PeerOut { node: to, message } in std::mem::take(&mut self[node].peer) {
                    self.post(NodeId(node), to, message);
                }
            }
        }
        worked | self.deliver()
    }

    fn post(&mut self, from: NodeId, to: NodeId, message: PeerMessage) {
        let lost = self.lose.as_mut().is_some_and(|lose| lose(from, to, &message));
        if !lost && !self.cut.contains(&(from, to)) && !self.down.contains(&to) {
            self.mail.push_back((from, to, message));
        }
    }

    fn deliver(&mut self) -> bool {
        let mut delivered = false;
        for (from, to, message) in std::mem::take(&mut self.mail) {
            if self.paused.contains(&to) {
                self.mail.push_back((from, to, message));
                continue;
            }
            delivered = true;
            self[to.0].handle(Event::Peer { from, message });
        }
        delivered
    }

    /// Works until nothing is left to do without time passing.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    /// Lets time pass, from one deadline to the next.
    pub(crate) fn advance(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        self.settle();
        while self.now.mono_ms < end {
            let running = self.nodes.iter().filter(|rig| self.runs(rig.setup.node));
            let due = running.filter_map(|rig| rig.shard.next_deadline_ms()).min().unwrap_or(end);
            let next = due.clamp(self.now.mono_ms + 1, end);
            self.now.wall_ms += (next - self.now.mono_ms) as i64;
            self.now.mono_ms = next;
            let now = self.now;
            for node in self.names() {
                if self.runs(NodeId(node)) {
                    self[node].now = now;
                }
            }
            self.settle();
        }
    }

    /// Lets time pass until this holds.
    pub(crate) fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        self.settle();
        let end_ms = self.now.mono_ms + PATIENCE_MS;
        while !holds(self) {
            assert!(self.now.mono_ms < end_ms, "this never happens: {what}");
            self.advance(5);
        }
    }

    // --- what the nodes say

    /// Which running node leads a group; waits for one.
    pub(crate) fn leader(&mut self, group: GroupId) -> i32 {
        self.wait_until("somebody leads", |cluster| cluster.leader_now(group).is_some());
        self.leader_now(group).expect("somebody leads")
    }

    /// Which running node leads a group in the newest term.
    pub(crate) fn leader_now(&self, group: GroupId) -> Option<i32> {
        let leading = self.nodes.iter().filter(|rig| self.runs(rig.setup.node)).filter_map(|rig| {
            match rig.shard.driver.leadership(group) {
                Some(Leadership::Leader { term }) => Some((term, rig.setup.node.0)),
                _ => None,
            }
        });
        leading.max().map(|(_, node)| node)
    }

    /// The other nodes than this one, the running ones.
    pub(crate) fn others(&self, node: i32) -> Vec<i32> {
        let names = self.names().into_iter();
        names.filter(|other| *other != node && self.runs(NodeId(*other))).collect()
    }

    /// How far the group's log is committed on a node; −1 where it has no replica.
    pub(crate) fn high_watermark(&self, node: i32, group: GroupId) -> i64 {
        self[node].shard.partitions.get(&group).map_or(-1, |partition| partition.high_watermark.0)
    }

    /// The replicas in sync, as the leader knows.
    pub(crate) fn in_sync(&self, leader: i32, group: GroupId) -> Vec<i32> {
        let nodes = self[leader].shard.partitions[&group].in_sync.nodes();
        let mut nodes: Vec<i32> = nodes.iter().map(|node| node.0).collect();
        nodes.sort_unstable();
        nodes
    }

    /// Makes a topic on all nodes; its partitions lead when this returns.
    pub(crate) fn topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> GroupId {
        self.topic_of(name, partitions, 3, configs)
    }

    /// Asks the controller.
    pub(crate) fn admin(&mut self, request: AdminRequest) -> AdminReply {
        let controller = self.leader(GroupId::METADATA);
        match self.answer(controller, Request::Admin { request: Box::new(request), timeout_ms: 10_000 }) {
            Reply::Admin(reply) => *reply,
            other => panic!("an answer of the controller, not {other:?}"),
        }
    }

    /// As [`Cluster::topic`], with so many replicas of each partition.
    pub(crate) fn topic_of(
        &mut self,
        name: &str,
        partitions: i32,
        replicas: i16,
        configs: &[(&str, &str)],
    ) -> GroupId {
        let controller = self.leader(GroupId::METADATA);
        let request = creation_of(name, partitions, replicas, configs);
        let Reply::Admin(reply) = self.answer(controller, request) else {
            panic!("an answer of the controller")
        };
        let AdminReply::CreateTopics(made) = *reply else { panic!("an answer to CreateTopics") };
        assert_eq!(made.topics[0].error_code, 0, "{made:?}");
        let groups: Vec<GroupId> =
            (0..partitions).map(|number| self[controller].group(name, number as usize)).collect();
        for group in &groups {
            self.leader(*group);
        }
        groups[0]
    }

    /// Asks a node and waits for the answer.
    pub(crate) fn answer(&mut self, node: i32, request: Request) -> Reply {
        let call = self[node].ask(request);
        self.answer_to(node, call)
    }

    /// Waits for the answer to something asked before.
    pub(crate) fn answer_to(&mut self, node: i32, call: Call) -> Reply {
        let answered = |cluster: &Self| cluster[node].replies.iter().any(|(asked, _)| *asked == call);
        self.wait_until("the request is answered", answered);
        self[node].take(call).expect("it is answered")
    }

    /// Produces to a node.
    pub(crate) fn produce(
        &mut self,
        node: i32,
        group: GroupId,
        records: BytesMut,
        acks: Acks,
    ) -> ProduceOutcome {
        match self.answer(node, Request::Produce(slice(vec![(group, records)], acks))) {
            Reply::Produce(mut outcomes) => outcomes.remove(0),
            other => panic!("an answer to Produce, not {other:?}"),
        }
    }

    /// Asks a node to produce; the answer comes with a later turn.
    pub(crate) fn ask_produce(&mut self, node: i32, group: GroupId, records: BytesMut, acks: Acks) -> Call {
        self[node].ask(Request::Produce(slice(vec![(group, records)], acks)))
    }

    /// The outcome of [`Cluster::ask_produce`], if there is one.
    pub(crate) fn produced(&mut self, node: i32, call: Call) -> Option<ProduceOutcome> {
        match self[node].take(call)? {
            Reply::Produce(mut outcomes) => Some(outcomes.remove(0)),
            other => panic!("an answer to Produce, not {other:?}"),
        }
    }

    /// Fetches from a node, without waiting for more records.
    pub(crate) fn fetch(&mut self, node: i32, group: GroupId, offset: i64) -> FetchOutcome {
        match self.answer(node, Request::Fetch(fetch_of(&[(group, offset)], 0))) {
            Reply::Fetch(mut outcomes) => outcomes.remove(0),
            other => panic!("an answer to Fetch, not {other:?}"),
        }
    }

    /// The offsets of all records from `from` to the high watermark, read from the leader piece by piece.
    pub(crate) fn read_all(&mut self, group: GroupId, from: i64) -> Vec<i64> {
        let mut all = Vec::new();
        let mut next = from;
        loop {
            let leader = self.leader(group);
            let outcome = self.fetch(leader, group, next);
            assert_eq!(outcome.error, ErrorCode::None);
            if KafkaOffset(next) >= outcome.high_watermark {
                return all;
            }
            let found = offsets_in(&outcome.records).into_iter().filter(|offset| *offset >= next);
            all.extend(found);
            next = all.last().expect("a fetch below the high watermark gives something") + 1;
        }
    }
}
