//! A node of a run: its shards, and around each what the pump, the WAL task and the helper threads are to the real one.
//!
//! One thread, virtual time. What the real edge orders is ordered here: a mailbox is first in, first out for each sender;
//! one WAL turn is in flight; helper threads take jobs in order and end them in any. All else is drawn from the seed.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use chronik_core::metadata::snapshot::Snapshot;
use chronik_core::metadata::state::{Broker, Change};
use chronik_core::node::data::{fit_shards, open_shards};
use chronik_core::shard::message::{Call, PeerMessage, PeerOut, Reply, Request};
use chronik_core::shard::{Event, Job, JobId, Now, Outputs, Shard, ShardLimits};
use chronik_wal::disk::{OpenMode, SimDisk};
use chronik_wal::identity::{Identity, shard_of};
use chronik_wal::shard_wal::{TurnWrite, WalConfig, WalError, write_turn_blocking};
use chronik_wal::types::{NodeId, ShardId, TurnNumber};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore};
use uuid::Uuid;

use super::disk::NodeDisk;
use super::queue::Queue;
use super::setup::{DATA, Planted, WALL_START_MS, data_setup, endpoint, node_id, node_number};

/// What a node says that cannot write the id of the cluster down.
pub const NOTING: &str = "noting the cluster's id";

/// Helper threads of a shard.
const HELPERS: usize = 2;

/// A shard without work looks at its timers at the latest after this long, as the pump does.
const IDLE_WAIT_MS: u64 = 1_000;

/// Mailbox senders from here on are links of other nodes.
const LINKS: usize = 1 << 16;

/// What happens in the node.
pub enum Step {
    /// A message or completion reaches a shard's inbox.
    Arrive(usize, Event),
    /// A shard takes in what has arrived and turns.
    Turn(usize, u64),
    /// The device carries out a WAL turn.
    WriteTurn(usize, TurnWrite),
    /// A helper thread carries out a job.
    RunJob(usize, JobId, Job),
    /// A helper thread is free again.
    HelperFree(usize),
}

/// What the node tells the outside.
pub enum Told {
    /// An answer to a client.
    Reply(u64, Reply),
    /// A message of this shard for another node.
    Peer(usize, PeerOut),
    /// The process ends, for this reason.
    Died(String),
}

/// A shard with what surrounds it.
pub struct Host {
    /// The shard itself.
    pub shard: Shard,
    /// Bytes of entries that its start found in the WAL and could not know as committed: they are in memory, whatever their number.
    opened_bytes: usize,
    inbox: VecDeque<Event>,
    /// The turn that is planned: its time and number.
    planned: Option<(u64, u64)>,
    jobs: VecDeque<(JobId, Job)>,
    helpers_free: usize,
}

/// The node, running or down.
pub struct Node {
    /// Its place among the nodes of the run.
    pub number: usize,
    /// Its disk.
    pub disk: SimDisk,
    /// What is to happen in it.
    pub queue: Queue<Step>,
    /// The process stands still: nothing happens in it, and time goes on.
    pub paused: bool,
    /// When it last went on after that.
    pub resumed_us: u64,
    /// How far its wall clock is off, in milliseconds.
    pub wall_off_ms: i64,
    /// Its data directory's id.
    pub directory: [u8; 16],
    /// Counts its disks: a wiped one is another.
    pub disks: u64,
    /// The newest published metadata; what it was at the end while the node is down.
    pub snapshot: Option<Arc<Snapshot>>,
    /// How often it was started.
    pub starts: u64,
    /// The longest delay of a device write or a job now, in microseconds.
    pub delay_us_max: u64,
    wal: WalConfig,
    limits: ShardLimits,
    planted: Option<Planted>,
    /// Its shards, while it runs.
    pub hosts: Vec<Host>,
    /// Nodes that form the cluster.
    founders: usize,
    identity: Option<Identity>,
    /// When the newest message from one shard to another arrives: later ones come later.
    arrivals: BTreeMap<(usize, usize), u64>,
    turns: u64,
}

impl Node {
    /// A node that has never been started, of a cluster that so many form.
    #[must_use]
    pub fn new(
        number: usize,
        disk: SimDisk,
        wal: WalConfig,
        limits: ShardLimits,
        planted: Option<Planted>,
        founders: usize,
    ) -> Self {
        Self {
            number,
            disk,
            queue: Queue::new(),
            paused: false,
            resumed_us: 0,
            wall_off_ms: 0,
            directory: [7 + number as u8; 16],
            disks: 0,
            snapshot: None,
            starts: 0,
            delay_us_max: 400,
            wal,
            limits,
            planted,
            hosts: Vec::new(),
            founders,
            identity: None,
            arrivals: BTreeMap::new(),
            turns: 0,
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        node_id(self.number)
    }

    /// When something happens in it next.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        self.queue.next_us().filter(|_| !self.paused)
    }

    /// Both its clocks at a virtual time. Each machine counts from its own start.
    #[must_use]
    pub fn now(&self, now_us: u64) -> Now {
        let mono_ms = 1_000 + 7_777 * self.number as u64 + now_us / 1_000;
        Now { mono_ms, wall_ms: WALL_START_MS + self.wall_off_ms + (now_us / 1_000) as i64 }
    }

    /// Starts the node with so many shards, by the functions that the server uses. Each call of the disk may fail.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start(&mut self, shards: u16, rng: &mut SmallRng) -> Result<(), String> {
        assert!(self.hosts.is_empty(), "one process at a time");
        self.starts += 1;
        let disk = NodeDisk { inner: self.disk.clone(), planted: self.planted };
        let data = Path::new(DATA);
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let identity = match Identity::load(&disk, data, self.id()).map_err(|error| text(&error))? {
            Some(identity) => identity,
            None => {
                let identity = Identity::new(self.id(), self.directory, shards);
                identity.store(&disk, data).map_err(|error| text(&error))?;
                identity
            }
        };
        let wall_ms = self.now(self.queue.now_us()).wall_ms;
        let nodes = self.founders;
        let setup = data_setup(self.number, nodes, &self.wal, &self.limits, shards, rng.next_u64(), wall_ms);
        let identity = fit_shards(&disk, &setup, identity).map_err(|error| text(&error))?;
        let own = registration(&identity, self.starts);
        let starts = open_shards(&disk, &setup, &identity, own).map_err(|error| text(&error))?;
        let snapshot = starts[0].snapshot.clone();
        let mut opened = Vec::new();
        for start in starts {
            opened.push(start.open(&disk).map_err(|error| text(&error))?);
        }
        self.identity = Some(identity);
        self.snapshot = Some(snapshot);
        for (number, shard) in opened.into_iter().enumerate() {
            let (inbox, jobs) = (VecDeque::new(), VecDeque::new());
            let opened_bytes = shard.tail_bytes();
            self.hosts.push(Host { shard, opened_bytes, inbox, planned: None, jobs, helpers_free: HELPERS });
            self.plan_turn(number, self.queue.now_us());
        }
        Ok(())
    }

    /// The process is gone, with all that was in memory.
    pub fn die(&mut self) {
        self.hosts.clear();
        self.arrivals.clear();
        self.queue.clear();
        self.paused = false;
    }

    /// Sends a client's request to the shard that it is for. What comes on one connection stays in order.
    pub fn ask(&mut self, connection: u64, to: ShardId, id: u64, request: Request, rng: &mut SmallRng) {
        let origin = (connection % self.hosts.len() as u64) as usize;
        let call = Call { origin: ShardId(origin as u16), id };
        self.send(origin, usize::from(to.0), Event::Request { call, request }, rng);
    }

    /// A message of another node comes out of the link with this number, and goes to the shards that it is for.
    pub fn peer_says(&mut self, link: usize, from: NodeId, message: PeerMessage, rng: &mut SmallRng) {
        let shards = self.hosts.len() as u16;
        if shards == 0 {
            return;
        }
        let mut parts: BTreeMap<u16, PeerMessage> = BTreeMap::new();
        match message {
            PeerMessage::Raft { group, .. } => {
                parts.insert(shard_of(group, shards).0, message);
            }
            PeerMessage::Heartbeats(list) => {
                for (group, heartbeat) in list {
                    let part = parts.entry(shard_of(group, shards).0);
                    let part = part.or_insert_with(|| PeerMessage::Heartbeats(Vec::new()));
                    if let PeerMessage::Heartbeats(list) = part {
                        list.push((group, heartbeat));
                    }
                }
            }
            PeerMessage::Leaders(_) | PeerMessage::Ask { .. } | PeerMessage::Answer { .. } => {
                parts.insert(0, message);
            }
        }
        for (shard, message) in parts {
            self.send(LINKS + link, usize::from(shard), Event::Peer { from, message }, rng);
        }
    }

    /// A shard hears of a link of its own.
    pub fn link_says(&mut self, shard: usize, link: usize, event: Event, rng: &mut SmallRng) {
        if shard < self.hosts.len() {
            self.send(LINKS + link, shard, event, rng);
        }
    }

    /// Carries out one step.
    pub fn step(&mut self, step: Step, rng: &mut SmallRng, told: &mut Vec<Told>) {
        match step {
            Step::Arrive(shard, event) => {
                let Some(host) = self.hosts.get_mut(shard) else { return };
                host.inbox.push_back(event);
                let at_us = self.queue.now_us() + rng.random_range(0..60);
                self.plan_turn(shard, at_us);
            }
            Step::Turn(shard, number) => self.turn(shard, number, rng, told),
            Step::WriteTurn(shard, turn) => self.write_turn(shard, &turn, rng, told),
            Step::RunJob(shard, id, job) => {
                let disk = NodeDisk { inner: self.disk.clone(), planted: self.planted };
                let done = job.run(&disk);
                if self.disk.has_crashed() {
                    return told.push(Told::Died("the machine stopped in a job".to_owned()));
                }
                let delay_us = self.delay(rng);
                self.queue.after(delay_us, Step::Arrive(shard, Event::JobDone(id, done)));
                self.queue.after(delay_us, Step::HelperFree(shard));
            }
            Step::HelperFree(shard) => {
                if let Some(host) = self.hosts.get_mut(shard) {
                    host.helpers_free += 1;
                    self.submit_jobs(shard, rng);
                }
            }
        }
    }

    /// Tells every shard to stop cleanly.
    pub fn stop(&mut self, rng: &mut SmallRng) {
        for shard in 0..self.hosts.len() {
            self.send(shard, shard, Event::Stop, rng);
        }
    }

    /// Whether every shard has stopped.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.is_up() && self.hosts.iter().all(|host| host.shard.has_stopped())
    }

    /// Bytes of entries in the memory of the shard that has most, without what its start found beyond the bound.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        let bound = usize::try_from(self.limits.tail_bytes_max).unwrap_or(usize::MAX);
        let counted = |host: &Host| {
            let beyond = host.opened_bytes.saturating_sub(bound);
            host.shard.tail_bytes().saturating_sub(beyond)
        };
        self.hosts.iter().map(counted).max().unwrap_or(0)
    }

    fn delay(&self, rng: &mut SmallRng) -> u64 {
        // Mostly quick, now and then as slow as may be.
        let slow = rng.random_bool(0.05);
        rng.random_range(20..=if slow { self.delay_us_max } else { 20 + self.delay_us_max / 10 })
    }

    fn plan_turn(&mut self, shard: usize, at_us: u64) {
        let Some(host) = self.hosts.get_mut(shard) else { return };
        if host.planned.is_some_and(|(planned_us, _)| planned_us <= at_us) {
            return;
        }
        self.turns += 1;
        let at_us = self.queue.at(at_us, Step::Turn(shard, self.turns));
        host.planned = Some((at_us, self.turns));
    }

    fn turn(&mut self, shard: usize, number: u64, rng: &mut SmallRng, told: &mut Vec<Told>) {
        let now = self.now(self.queue.now_us());
        let Some(host) = self.hosts.get_mut(shard) else { return };
        if host.planned.is_none_or(|(_, planned)| planned != number) {
            return;
        }
        host.planned = None;
        for _ in 0..rng.random_range(1..=8) {
            let Some(event) = host.inbox.pop_front() else { break };
            host.shard.handle(event, now);
        }
        let more = host.shard.turn(now);
        let outputs = host.shard.take_outputs();
        let again = more || !host.inbox.is_empty();
        let due_ms = host.shard.next_deadline_ms().unwrap_or(u64::MAX).min(now.mono_ms + IDLE_WAIT_MS);
        let wait_us = if again { 5 } else { due_ms.saturating_sub(now.mono_ms).max(1) * 1_000 };
        self.carry_out(shard, outputs, rng, told);
        self.plan_turn(shard, self.queue.now_us() + wait_us);
    }

    fn carry_out(&mut self, shard: usize, outputs: Outputs, rng: &mut SmallRng, told: &mut Vec<Told>) {
        if let Some(why) = outputs.fatal {
            return told.push(Told::Died(why));
        }
        if let Some(turn) = outputs.turn {
            if self.planted == Some(Planted::DurableBeforeWrite) {
                let delay_us = self.delay(rng);
                self.queue.after(delay_us / 2, Step::Arrive(shard, Event::TurnDurable(turn.turn)));
                self.queue.after(delay_us, Step::WriteTurn(shard, turn));
            } else {
                let delay_us = self.delay(rng);
                self.queue.after(delay_us, Step::WriteTurn(shard, turn));
            }
        }
        for out in outputs.peer {
            told.push(Told::Peer(shard, out));
        }
        if let Some((snapshot, changes)) = outputs.publish {
            self.publish(shard, &snapshot, &changes, rng, told);
        }
        for (to, event) in outputs.messages {
            self.send(shard, usize::from(to.0), event, rng);
        }
        for (call, reply) in outputs.replies {
            if call.id != 0 {
                told.push(Told::Reply(call.id, reply));
            }
        }
        if let Some(host) = self.hosts.get_mut(shard) {
            host.jobs.extend(outputs.jobs);
            self.submit_jobs(shard, rng);
        }
    }

    /// As the pump does: everybody reads the snapshot at once, each shard acts on it when it gets the message.
    fn publish(
        &mut self,
        shard: usize,
        snapshot: &Arc<Snapshot>,
        changes: &Arc<[Change]>,
        rng: &mut SmallRng,
        told: &mut Vec<Told>,
    ) {
        self.snapshot = Some(snapshot.clone());
        for to in 0..self.hosts.len() {
            self.send(shard, to, Event::Metadata(snapshot.clone(), changes.clone()), rng);
        }
        let (Some(identity), Some(id)) = (&mut self.identity, &snapshot.cluster_id) else { return };
        if identity.cluster_id.as_deref() != Some(id) {
            identity.cluster_id = Some(id.to_string());
            if let Err(error) = identity.store(&self.disk, Path::new(DATA)) {
                told.push(Told::Died(format!("{NOTING}: {error}")));
            }
        }
    }

    /// Puts an event into another shard's mailbox. What one shard sends another stays in order.
    fn send(&mut self, from: usize, to: usize, event: Event, rng: &mut SmallRng) {
        let at_us = self.queue.now_us() + rng.random_range(1..200);
        let newest = self.arrivals.entry((from, to)).or_insert(0);
        let at_us = at_us.max(*newest);
        *newest = at_us;
        self.queue.at(at_us, Step::Arrive(to, event));
    }

    fn submit_jobs(&mut self, shard: usize, rng: &mut SmallRng) {
        while let Some(host) = self.hosts.get_mut(shard) {
            if host.helpers_free == 0 {
                return;
            }
            let Some((id, job)) = host.jobs.pop_front() else { return };
            host.helpers_free -= 1;
            let delay_us = self.delay(rng);
            self.queue.after(delay_us, Step::RunJob(shard, id, job));
        }
    }

    fn write_turn(&mut self, shard: usize, turn: &TurnWrite, rng: &mut SmallRng, told: &mut Vec<Told>) {
        let written = match self.planted {
            Some(Planted::TurnCutShort) => write_short(&self.disk, turn),
            _ => {
                let disk = NodeDisk { inner: self.disk.clone(), planted: self.planted };
                write_turn_blocking(&disk, turn)
            }
        };
        if self.disk.has_crashed() {
            return told.push(Told::Died("the machine stopped in a WAL write".to_owned()));
        }
        match written {
            Err(error) if self.planted != Some(Planted::WriteErrorIgnored) => {
                told.push(Told::Died(error.to_string()));
            }
            _ if self.planted == Some(Planted::DurableBeforeWrite) => {}
            _ => self.turn_durable(shard, turn.turn, rng),
        }
    }

    fn turn_durable(&mut self, shard: usize, turn: TurnNumber, rng: &mut SmallRng) {
        self.queue.after(rng.random_range(1..80), Step::Arrive(shard, Event::TurnDurable(turn)));
    }
}

/// The last sector of the turn does not get there: [`Planted::TurnCutShort`].
fn write_short(disk: &SimDisk, turn: &TurnWrite) -> Result<(), WalError> {
    use chronik_wal::disk::Disk;
    let bytes = turn.encode();
    let kept = (128 + turn.body_len()).saturating_sub(512).next_multiple_of(512).min(bytes.len());
    let written = disk
        .open(&turn.path, OpenMode::ReadWrite)
        .and_then(|file| file.write_all_at(&bytes[..kept], turn.position).and_then(|()| file.fdatasync()));
    written.map_err(|source| WalError::Io { what: "write", path: turn.path.clone(), source })
}

fn registration(identity: &Identity, start: u64) -> Broker {
    let listener = endpoint(node_number(identity.node));
    Broker {
        directory: Uuid::from_bytes(identity.directory),
        // Far from each other, as random ones are: requests are numbered from there on.
        incarnation: Uuid::from_u128(u128::from(start) << 40),
        rack: None,
        listeners: BTreeMap::from([("PLAINTEXT".to_owned(), listener)]),
        raft: None,
    }
}
