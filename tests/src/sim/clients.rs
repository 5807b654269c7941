//! The clients of a run: what they have sent, what they wait for, and what they do next.
//!
//! A request is answered once or lost with the process that had it; a request with a timeout is answered in time. Clients
//! reach every node that runs, whatever is cut between the nodes, and believe any node's metadata.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chronik_core::metadata::names::CONSUMER_OFFSETS;
use chronik_core::metadata::snapshot::Snapshot;
use chronik_core::shard::message::{EpochQuery, Reply, Request};
use chronik_wal::identity::shard_of;
use chronik_wal::types::{GroupId, ShardId};
use rand::Rng;
use rand::rngs::SmallRng;

use super::admin::AdminAsk;
use super::groups::MemberAsk;
use super::model::Bounds;
use super::node::Node;
use super::records::{Place, Sent};
use super::setup::node_number;
use super::world::{Happening, Phase, World};

/// How much later than its timeout a request may be answered: deliveries, turns and slow jobs take their time.
const LATE_US_MAX: u64 = 20_000_000;

/// A cluster has its first topic after so long, whatever befalls it.
const FORMING_US_MAX: u64 = 60_000_000;

/// So long after its own timeout a client gives up a connection that says nothing.
const PATIENCE_US: u64 = 300_000;

/// Batches of one producer for one partition that are under way at once.
const WINDOW: usize = 3;

/// A broker knows the newest five batches of a producer when they come again. So no producer sends more, as long as the oldest of
/// them may have to be sent again.
const REMEMBERED: u64 = 5;

/// A batch of an idempotent producer until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Unacknowledged {
    pub(super) sent: Sent,
    /// How many batches were sent before it.
    pub(super) before: u64,
    /// Requests in flight with it.
    pub(super) in_flight: u32,
}

/// What one idempotent producer sends to one partition.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    pub(super) next_sequence: i32,
    /// Batches sent so far.
    pub(super) batches: u64,
    pub(super) unacknowledged: VecDeque<Unacknowledged>,
    /// The newest batch that was acknowledged, to be sent again on purpose.
    pub(super) last: Option<(Sent, i64)>,
    /// A request with one of its batches was answered as timed out: see `World::gives_up`.
    pub(super) timed_out: bool,
    /// Where its batches under way were sent: the node and its run.
    pub(super) sent_to: (usize, u64),
    /// The topic is gone, or the producer gave up.
    pub(super) dead: bool,
}

/// An idempotent producer.
#[derive(Clone, Debug, Default)]
pub struct Producer {
    pub(super) id: Option<i64>,
    pub(super) asking: bool,
    pub(super) lanes: BTreeMap<Place, Lane>,
}

/// A batch in a produce request.
#[derive(Clone, Debug)]
pub struct InRequest {
    pub(super) sent: Sent,
    /// The idempotent producer that sent it.
    pub(super) producer: Option<usize>,
    /// It was acknowledged before, with this base offset, and is sent again on purpose.
    pub(super) again: Option<i64>,
}

/// A question under way.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Produce.
    Produce(Vec<InRequest>),
    /// Produce onto the leader's disk alone: it may be lost again.
    ProduceToLeader(Vec<InRequest>),
    /// Fetch of some partitions, from offsets, with what was known of them.
    Fetch(Vec<(Place, i64, Bounds)>),
    /// Fetch from whoever is near, whether it leads or not, from an offset.
    FetchNearby(Place, i64),
    /// The end of an epoch.
    EpochEnd(Place, EpochQuery, Bounds),
    /// ListOffsets: the special timestamp.
    Offsets(Place, i64, Bounds),
    /// DeleteRecords, up to an offset.
    DeleteRecords(Place, i64, Bounds),
    /// A change of metadata.
    Admin(AdminAsk),
    /// A producer id.
    ProducerId(usize),
    /// A group commits an offset.
    Commit(String, Place, i64),
    /// A group reads its offset, with the newest one known to be committed.
    Committed(String, Place, Option<i64>),
    /// What a member asks of its coordinator.
    Member(MemberAsk),
    /// Fetch in the reading at the end.
    Read(Place, i64),
    /// ListOffsets in the reading at the end: earliest and latest.
    Ends(Place),
    /// The record of the probe.
    Probe(Sent),
    /// A search by time in the reading at the end.
    Time(Place, i64),
}

/// Where a question goes: the shard of a node that is believed to lead a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub(super) node: usize,
    pub(super) shard: ShardId,
    pub(super) group: GroupId,
}

/// A question under way, and until when it must be answered.
#[derive(Clone, Debug)]
pub struct Pending {
    pub(super) asked: Asked,
    pub(super) node: usize,
    pub(super) groups: Vec<GroupId>,
    pub(super) asked_us: u64,
    pub(super) deadline_us: u64,
    /// When the client gives up, should the node stand still.
    patience_us: u64,
}

/// All clients.
pub struct Clients {
    pub(super) producers: Vec<Producer>,
    pub(super) next_record: u64,
    pub(super) next_call: u64,
    pub(super) operations: u64,
    /// Questions that nobody waits for any more.
    pub(super) gone: BTreeSet<u64>,
    /// Groups that wait for the outcome of a commit.
    pub(super) committing: BTreeSet<(String, Place)>,
    pub(super) member: super::groups::Member,
    pub(super) admin: super::admin::Names,
    pub(super) reading: super::finish::Reading,
    /// The longest time between two operations, in microseconds.
    pub(super) pace_us: u64,
}

impl Clients {
    /// Clients that have done nothing yet.
    pub fn new(rng: &mut SmallRng, nodes: usize) -> Self {
        let paces_us = if nodes == 1 { [600, 4_000, 20_000] } else { [6_000, 20_000, 50_000] };
        Self {
            gone: BTreeSet::new(),
            producers: vec![Producer::default(); 3],
            next_record: 1,
            next_call: 1,
            operations: 0,
            committing: BTreeSet::new(),
            member: super::groups::Member::default(),
            admin: super::admin::Names::default(),
            reading: super::finish::Reading::default(),
            pace_us: paces_us[rng.random_range(0..3)],
        }
    }
}

impl World {
    /// The clients' turn.
    pub(super) fn clients_step(&mut self) -> Result<(), String> {
        self.check_deadlines()?;
        self.lose_patience();
        if self.nodes.iter().any(|node| node.is_up()) {
            match self.phase {
                Phase::Work => self.work(),
                _ => self.finish_step()?,
            }
        }
        if self.phase != Phase::Done {
            let delay_us = self.rng.random_range(50..self.clients.pace_us);
            self.queue.after(delay_us, Happening::Clients);
        }
        Ok(())
    }

    fn work(&mut self) {
        // Until there is a cluster with a topic, nothing that clients do counts; for a while.
        if !self.model.topics.is_empty() || self.now_us() > FORMING_US_MAX {
            self.clients.operations += 1;
        }
        if self.clients.operations >= self.plan.operations {
            self.phase = Phase::Settle;
            self.faults_end();
            return;
        }
        if self.plan.moves && self.rng.random_bool(0.15) {
            return match self.rng.random_range(0..10) {
                0..4 => self.fetch_nearby(),
                4..7 => self.ask_epoch_end(),
                _ => self.member_step(),
            };
        }
        match self.rng.random_range(0..100) {
            0..45 => self.produce_idempotent(),
            45..58 => self.produce_plain(),
            58..75 => self.fetch_something(),
            75..80 => self.ask_offsets(),
            80..83 => self.delete_records(),
            83..91 => self.commit_or_read_offset(),
            91..99 => self.administrate(),
            _ => self.repeat_on_purpose(),
        }
    }

    /// Sends a request. The node runs.
    pub(super) fn ask(
        &mut self,
        to: Target,
        groups: Vec<GroupId>,
        connection: u64,
        asked: Asked,
        timeout_ms: u64,
        request: Request,
    ) {
        let id = self.clients.next_call;
        self.clients.next_call += 1;
        let (deadline_us, patience_us) = match timeout_ms {
            u64::MAX => (u64::MAX, u64::MAX),
            ms => {
                let timeout_us = self.now_us() + ms * 1_000;
                (timeout_us + LATE_US_MAX, timeout_us + PATIENCE_US)
            }
        };
        let asked_us = self.now_us();
        let pending = Pending { asked, node: to.node, groups, asked_us, deadline_us, patience_us };
        self.pending.insert(id, pending);
        let Self { nodes, rng, .. } = self;
        nodes[to.node].ask(connection, to.shard, id, request, rng);
    }

    fn check_deadlines(&mut self) -> Result<(), String> {
        let now_us = self.now_us();
        let late = |pending: &&Pending| pending.deadline_us < now_us && !self.nodes[pending.node].paused;
        match self.pending.values().find(late) {
            Some(pending) => Err(format!("never answered by node {}: {:?}", pending.node, pending.asked)),
            None => Ok(()),
        }
    }

    /// Producers do not wait for a node that stands still; when it goes on, it finds what they had sent.
    fn lose_patience(&mut self) {
        if !self.network.is_troubled() {
            return;
        }
        let now_us = self.now_us();
        let mut given_up = Vec::new();
        for (id, pending) in &self.pending {
            let still = self.nodes[pending.node].paused && pending.patience_us < now_us;
            if still && matches!(pending.asked, Asked::Produce(_)) {
                given_up.push(*id);
            }
        }
        for id in given_up {
            self.count("given up");
            self.clients.gone.insert(id);
            if let Some(pending) = self.pending.remove(&id) {
                self.not_decided(pending.asked);
            }
        }
    }

    /// What a client believes: the metadata of any node that answers.
    pub(super) fn some_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        // One that is no part of a cluster yet knows nothing.
        let knows = |node: &&Node| node.snapshot.as_ref().is_some_and(|known| known.cluster_id.is_some());
        let up = self.nodes.iter().filter(|node| node.is_up() && !node.paused).filter(knows);
        let up: Vec<usize> = up.map(|node| node.number).collect();
        if up.is_empty() {
            return None;
        }
        // One node is asked without a draw.
        let node = if up.len() == 1 { up[0] } else { up[self.rng.random_range(0..up.len())] };
        self.nodes[node].snapshot.clone()
    }

    /// A place that takes records, and who is believed to lead it.
    pub(super) fn some_place(&mut self) -> Option<(Place, Target)> {
        let places = self.places();
        (!places.is_empty()).then(|| places[self.rng.random_range(0..places.len())])
    }

    /// Every partition that clients see and that has a leader whom they reach.
    pub(super) fn places(&mut self) -> Vec<(Place, Target)> {
        let Some(snapshot) = self.some_snapshot() else { return Vec::new() };
        let mut places = Vec::new();
        for topic in snapshot.topics.values().filter(|topic| &*topic.name != CONSUMER_OFFSETS) {
            if !self.model.topics.contains_key(&topic.id) {
                continue;
            }
            for (number, view) in topic.partitions.iter().enumerate() {
                let leader = view.leader.map(|leader| node_number(leader.node));
                if let Some(target) = leader.and_then(|node| self.target(node, view.group)) {
                    places.push(((topic.id, number as i32), target));
                }
            }
        }
        places
    }

    /// The shard of a group on a node, if the node runs.
    pub(super) fn target(&self, node: usize, group: GroupId) -> Option<Target> {
        let shards = self.nodes.get(node)?.hosts.len() as u16;
        (shards > 0).then(|| Target { node, shard: shard_of(group, shards), group })
    }

    /// An answer has reached its client.
    pub(super) fn answered(&mut self, id: u64, reply: Reply, stale: &[(GroupId, u64)]) -> Result<(), String> {
        let Some(pending) = self.pending.remove(&id) else {
            // Answers of a process that is gone arrive when the client has given up on the connection.
            if self.clients.gone.remove(&id) {
                return Ok(());
            }
            return Err(format!("request {id} was answered twice"));
        };
        if matches!(reply, Reply::Unavailable) {
            self.count("unavailable");
            if let Asked::Produce(items) = &pending.asked {
                for item in items {
                    if let Some(lane) = self.lane(item) {
                        lane.timed_out = true;
                    }
                }
            }
            self.not_decided(pending.asked);
            return Ok(());
        }
        // When the time is up the leader's word is passed on, though what it says may not have come to this node yet: its disk was
        // full all the while. It is so all the same, and the end of the run shows it. (Nodes count whole milliseconds.)
        let late_us = u64::from(super::admin::TIMEOUT_MS - 1) * 1_000;
        if matches!(pending.asked, Asked::Admin(_)) && self.now_us() >= pending.asked_us + late_us {
            self.count("answered late");
            self.not_decided(pending.asked);
            return Ok(());
        }
        self.check_stale(&pending, &reply, stale)?;
        let (node, asked) = (pending.node, pending.asked.clone());
        self.check_answer(node, pending.asked_us, pending.asked, reply, stale)
            .map_err(|why| format!("{why}; told by node {node}, {stale:?}: {asked:?}"))
    }

    /// The process is gone with all its connections: what was under way may or may not have happened.
    pub(super) fn lose_pending(&mut self, node: usize) {
        let of_node = |(id, pending): (&u64, &Pending)| (pending.node == node).then_some(*id);
        let lost: Vec<u64> = self.pending.iter().filter_map(of_node).collect();
        for id in lost {
            self.clients.gone.insert(id);
            if let Some(pending) = self.pending.remove(&id) {
                self.not_decided(pending.asked);
            }
        }
    }

    /// Whether the request took effect is not known.
    pub(super) fn not_decided(&mut self, asked: Asked) {
        match asked {
            Asked::Produce(items) => {
                for item in items {
                    self.batch_not_decided(&item);
                }
            }
            Asked::Admin(ask) => self.admin_not_decided(&ask),
            Asked::ProducerId(producer) => self.clients.producers[producer].asking = false,
            Asked::Commit(group, place, _) => {
                self.clients.committing.remove(&(group, place));
            }
            Asked::Member(ask) => self.member_not_decided(ask),
            Asked::Probe(_) | Asked::Read(..) | Asked::Ends(_) | Asked::Time(..) => self.reading_failed(),
            _ => {}
        }
    }

    pub(super) fn batch_not_decided(&mut self, item: &InRequest) {
        if let Some(lane) = self.lane(item)
            && let Some(waiting) =
                lane.unacknowledged.iter_mut().find(|other| other.sent.first == item.sent.first)
        {
            waiting.in_flight = waiting.in_flight.saturating_sub(1);
        }
    }

    pub(super) fn lane(&mut self, item: &InRequest) -> Option<&mut Lane> {
        self.clients.producers.get_mut(item.producer?)?.lanes.get_mut(&item.sent.place)
    }
}

impl Lane {
    /// Whether a new batch may be sent: none has to be sent again, and the window is open.
    ///
    /// While a partition does not know the producer, it takes any first sequence. So where leaders change, a second batch
    /// waits until the first is acknowledged, and none goes to another node while others are under way.
    pub(super) fn is_open(&self, to: Option<(usize, u64)>) -> bool {
        let waits = to.is_some_and(|to| !self.unacknowledged.is_empty() && self.sent_to != to);
        let window = if to.is_some() && self.last.is_none() { 1 } else { WINDOW };
        !self.dead
            && !waits
            && self.unacknowledged.len() < window
            && self.unacknowledged.front().is_none_or(|oldest| self.batches - oldest.before < REMEMBERED)
            && self.unacknowledged.iter().all(|waiting| waiting.in_flight > 0)
    }

    /// Whether batches are to be sent again: something failed, and nothing is under way any more.
    pub(super) fn wants_resend(&self) -> bool {
        let idle = self.unacknowledged.iter().all(|waiting| waiting.in_flight == 0);
        !self.dead && idle && !self.unacknowledged.is_empty()
    }
}
