//! The clients of a run: what they have sent, what they wait for, and what they do next.
//!
//! A request is answered once or lost with the process that had it; a request with a timeout is answered in time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chronik_core::metadata::names::CONSUMER_OFFSETS;
use chronik_core::metadata::snapshot::PartitionView;
use chronik_core::shard::message::{Reply, Request};
use chronik_wal::types::ShardId;
use rand::Rng;
use rand::rngs::SmallRng;

use super::admin::AdminAsk;
use super::model::Bounds;
use super::records::{Place, Sent};
use super::world::{Happening, Phase, World};

/// How much later than its timeout a request may be answered: deliveries, turns and slow jobs take their time.
const LATE_US_MAX: u64 = 20_000_000;

/// Batches of one producer for one partition that are under way at once.
const WINDOW: usize = 3;

/// A batch of an idempotent producer until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Unacknowledged {
    pub(super) sent: Sent,
    /// Requests in flight with it.
    pub(super) in_flight: u32,
}

/// What one idempotent producer sends to one partition.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    pub(super) next_sequence: i32,
    pub(super) unacknowledged: VecDeque<Unacknowledged>,
    /// The newest batch that was acknowledged, to be sent again on purpose.
    pub(super) last: Option<(Sent, i64)>,
    /// A request with one of its batches was answered as timed out: see `World::gives_up`.
    pub(super) timed_out: bool,
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
    /// Fetch of some partitions, from offsets, with what was known of them.
    Fetch(Vec<(Place, i64, Bounds)>),
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
    /// Fetch in the reading at the end.
    Read(Place, i64),
    /// ListOffsets in the reading at the end: earliest and latest.
    Ends(Place),
    /// The record of the probe.
    Probe(Sent),
    /// A search by time in the reading at the end.
    Time(Place, i64),
}

/// A question under way, and until when it must be answered.
#[derive(Clone, Debug)]
pub struct Pending {
    pub(super) asked: Asked,
    pub(super) deadline_us: u64,
}

/// All clients.
pub struct Clients {
    pub(super) producers: Vec<Producer>,
    pub(super) next_record: u64,
    pub(super) next_call: u64,
    pub(super) operations: u64,
    /// Groups that wait for the outcome of a commit.
    pub(super) committing: BTreeSet<(String, Place)>,
    pub(super) admin: super::admin::Names,
    pub(super) reading: super::finish::Reading,
    /// The longest time between two operations, in microseconds.
    pub(super) pace_us: u64,
}

impl Clients {
    /// Clients that have done nothing yet.
    pub fn new(rng: &mut SmallRng) -> Self {
        Self {
            producers: vec![Producer::default(); 3],
            next_record: 1,
            next_call: 1,
            operations: 0,
            committing: BTreeSet::new(),
            admin: super::admin::Names::default(),
            reading: super::finish::Reading::default(),
            pace_us: [600, 4_000, 20_000][rng.random_range(0..3)],
        }
    }
}

impl World {
    /// The clients' turn.
    pub(super) fn clients_step(&mut self) -> Result<(), String> {
        self.check_deadlines()?;
        if self.node.is_up() {
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
        self.clients.operations += 1;
        if self.clients.operations >= self.plan.operations {
            self.phase = Phase::Settle;
            self.faults_end();
            return;
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

    /// Sends a request; nothing is sent to a node that is down.
    pub(super) fn ask(
        &mut self,
        to: ShardId,
        connection: u64,
        asked: Asked,
        timeout_ms: u64,
        request: Request,
    ) {
        let id = self.clients.next_call;
        self.clients.next_call += 1;
        let deadline_us = match timeout_ms {
            u64::MAX => u64::MAX,
            ms => self.now_us() + ms * 1_000 + LATE_US_MAX,
        };
        self.pending.insert(id, Pending { asked, deadline_us });
        self.node.ask(connection, to, id, request, &mut self.steps_of_node, &mut self.rng);
    }

    fn check_deadlines(&mut self) -> Result<(), String> {
        let now_us = self.now_us();
        match self.pending.values().find(|pending| pending.deadline_us < now_us) {
            Some(pending) => Err(format!("never answered: {:?}", pending.asked)),
            None => Ok(()),
        }
    }

    /// A place that takes records, and its group's shard.
    pub(super) fn some_place(&mut self) -> Option<(Place, PartitionView, ShardId)> {
        let places = self.places();
        (!places.is_empty()).then(|| places[self.rng.random_range(0..places.len())].clone())
    }

    /// Every partition that clients see and that has a leader.
    pub(super) fn places(&mut self) -> Vec<(Place, PartitionView, ShardId)> {
        let Some(snapshot) = self.node.snapshot.clone() else { return Vec::new() };
        let mut places = Vec::new();
        for topic in snapshot.topics.values().filter(|topic| &*topic.name != CONSUMER_OFFSETS) {
            if !self.model.topics.contains_key(&topic.id) {
                continue;
            }
            for (number, view) in topic.partitions.iter().enumerate() {
                if view.leader.is_some() {
                    places.push(((topic.id, number as i32), view.clone(), snapshot.shard_of(view.group)));
                }
            }
        }
        places
    }

    /// An answer has reached its client.
    pub(super) fn answered(&mut self, id: u64, reply: Reply) -> Result<(), String> {
        let Some(pending) = self.pending.remove(&id) else {
            // Answers of a process that is gone arrive when the client has given up on the connection.
            if self.lost(id) {
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
        self.check_answer(pending.asked, reply)
    }

    fn lost(&self, id: u64) -> bool {
        id < self.clients.admin.first_call_of_process
    }

    /// The process is gone with all its connections: what was under way may or may not have happened.
    pub(super) fn lose_pending(&mut self) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.not_decided(pending.asked);
        }
        self.clients.admin.first_call_of_process = self.clients.next_call;
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
    pub(super) fn is_open(&self) -> bool {
        !self.dead
            && self.unacknowledged.len() < WINDOW
            && self.unacknowledged.iter().all(|waiting| waiting.in_flight > 0)
    }

    /// Whether batches are to be sent again: something failed, and nothing is under way any more.
    pub(super) fn wants_resend(&self) -> bool {
        let idle = self.unacknowledged.iter().all(|waiting| waiting.in_flight == 0);
        !self.dead && idle && !self.unacknowledged.is_empty()
    }
}
