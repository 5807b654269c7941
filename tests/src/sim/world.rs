//! One run: the nodes, their clients and what befalls them, from one seed to a verdict.
//!
//! ```text
//! operations and faults ──▶ settle (no faults: everything is answered) ──▶ probe (every partition takes a record)
//!   ──▶ read everything ──▶ power cut ──▶ read everything again
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chronik_core::shard::message::Reply;
use chronik_wal::disk::SimDisk;
use chronik_wal::planted::plant;
use chronik_wal::types::GroupId;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::clients::{Clients, Pending};
use super::faults::Weather;
use super::model::Model;
use super::network::{NetEvent, Network};
use super::node::{Node, Step, Told};
use super::queue::Queue;
use super::setup::{Planted, RunPlan, sizes};
use super::watch::Watch;

/// No run takes so many steps.
const STEPS_MAX: u64 = 4_000_000;

/// Who joins a cluster is started at the latest after so long.
const JOINS_US_MAX: u64 = 12_000_000;

/// What is left of a run that went well.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Steps of the simulation.
    pub steps: u64,
    /// A hash of everything that happened, in order.
    pub trace: u64,
    /// Writing steps of all the disks.
    pub disk_steps: u64,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
}

/// What counts as a fault.
const FAULTS: [&str; 22] = [
    "at the last write of the start",
    "bit rot",
    "clean stop",
    "clock jump",
    "crash at a write",
    "crash in or after a start",
    "cut off",
    "disk wiped",
    "full disk",
    "killed",
    "links broken",
    "nobody is heard",
    "one way cut",
    "power cut",
    "power cut, torn",
    "process killed",
    "process paused",
    "scripted crash",
    "slow disk",
    "sync error",
    "two apart",
    "write error",
];

impl Report {
    /// How many faults struck.
    #[must_use]
    pub fn faults(&self) -> u64 {
        FAULTS.iter().filter_map(|name| self.counts.get(name)).sum()
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Clients do what they like; faults strike.
    Work,
    /// Faults have stopped; everything must be answered.
    Settle,
    /// Every partition takes a record.
    Probe,
    /// Everything is read; the number counts the readings.
    Read(u32),
    /// Nobody asks anything: the nodes have nothing to say to each other.
    Quiet,
    /// The run is over.
    Done,
}

/// What is to happen outside the nodes.
pub enum Happening {
    /// Clients do something.
    Clients,
    /// An answer reaches a client, with the groups of which its node was not the newest leader when it left, and since when.
    Reply(u64, Reply, Vec<(GroupId, u64)>),
    /// The weather changes.
    Weather,
    /// A node is started.
    Start(usize),
    /// A process that stood still goes on.
    Resume(usize),
    /// What was cut is whole again, unless it was cut anew.
    Heal(u64),
    /// Something in the network.
    Network(NetEvent),
}

/// A run.
pub struct World {
    pub(super) plan: RunPlan,
    pub(super) rng: SmallRng,
    pub(super) queue: Queue<Happening>,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) watch: Watch,
    pub(super) model: Model,
    pub(super) clients: Clients,
    pub(super) weather: Weather,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) phase: Phase,
    pub(super) report: Report,
    pub(super) tail_bytes_max: u64,
    /// Whoever asks what is unsettled wants every replica told, which takes long.
    pub(super) tells_all: bool,
}

/// Runs a plan to its end.
///
/// # Errors
/// What was violated, with the seed and the time.
pub fn run(plan: &RunPlan) -> Result<Report, String> {
    let seed = plan.seed;
    let bug = match plan.planted {
        Some(Planted::Within(bug)) => Some(bug),
        _ => None,
    };
    plant(bug);
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(plan.clone()).run()));
    plant(None);
    match outcome {
        Ok(outcome) => outcome.map_err(|why| format!("seed {seed}: {why}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Err(format!("seed {seed}: panic: {text}"))
        }
    }
}

impl World {
    fn new(plan: RunPlan) -> Self {
        let mut rng = SmallRng::seed_from_u64(plan.seed);
        let (wal, limits) = sizes(&mut rng);
        let tail_bytes_max = limits.tail_bytes_max;
        let node = |number| {
            let disk = SimDisk::new(rng.next_u64());
            Node::new(number, disk, wal.clone(), limits.clone(), plan.planted, plan.founders())
        };
        let nodes = (0..plan.nodes).map(node).collect();
        let network = Network::new(plan.disorder);
        let report = Report { seed: plan.seed, ..Report::default() };
        Self {
            clients: Clients::new(&mut rng, plan.nodes),
            weather: Weather::new(&plan, &mut rng),
            queue: Queue::new(),
            nodes,
            network,
            watch: Watch::default(),
            model: Model::default(),
            pending: BTreeMap::new(),
            phase: Phase::Work,
            plan,
            rng,
            report,
            tail_bytes_max,
            tells_all: false,
        }
    }

    fn run(mut self) -> Result<Report, String> {
        self.prepare_first_start();
        for node in 0..self.plan.founders() {
            self.queue.after(0, Happening::Start(node));
        }
        for node in self.plan.founders()..self.plan.nodes {
            let joins_us = self.rng.random_range(500_000..JOINS_US_MAX);
            self.queue.after(joins_us, Happening::Start(node));
        }
        self.queue.after(1_000, Happening::Clients);
        self.queue.after(5_000, Happening::Weather);
        while self.phase != Phase::Done {
            self.report.steps += 1;
            if self.report.steps > STEPS_MAX {
                return Err(self.told_at("the run does not end"));
            }
            if let Err(why) = self.step() {
                return Err(self.told_at(&why));
            }
        }
        self.report.disk_steps += self.nodes.iter().map(|node| node.disk.steps()).sum::<u64>();
        self.report.virtual_ms = self.now_us() / 1_000;
        self.report.acknowledged = self.model.acknowledged;
        Ok(self.report)
    }

    fn told_at(&self, why: &str) -> String {
        let (ms, steps, phase) = (self.now_us() / 1_000, self.report.steps, self.phase);
        format!("at {ms} ms, step {steps}, {phase:?}: {why}; {:?}", self.report.counts)
    }

    /// The virtual time in microseconds.
    pub(super) fn now_us(&self) -> u64 {
        self.queue.now_us()
    }

    fn step(&mut self) -> Result<(), String> {
        let next = self.nodes.iter().filter_map(|node| Some((node.next_us()?, node.number))).min();
        let other_us = self.queue.next_us().unwrap_or(u64::MAX);
        let (time_us, node) = match next {
            Some((node_us, node)) if node_us <= other_us => (node_us, Some(node)),
            _ => (other_us, None),
        };
        if time_us == u64::MAX {
            return Err("nothing happens any more".into());
        }
        self.queue.set_now(time_us);
        self.nodes.iter_mut().for_each(|node| node.queue.set_now(time_us));
        if let Some(node) = node {
            self.trace(time_us ^ node as u64);
            let step = self.nodes[node].queue.pop();
            return step.map_or(Ok(()), |step| self.node_step(node, step));
        }
        self.trace(time_us ^ 0x5555);
        match self.queue.pop() {
            Some(Happening::Clients) => self.clients_step(),
            Some(Happening::Reply(id, reply, stale)) => self.answered(id, reply, &stale),
            Some(Happening::Weather) => self.weather_step(),
            Some(Happening::Start(node)) => self.start_node(node),
            Some(Happening::Resume(node)) => {
                self.resume(node);
                Ok(())
            }
            Some(Happening::Heal(cut)) => {
                self.heal_cut(cut);
                Ok(())
            }
            Some(Happening::Network(event)) => {
                self.network_step(event);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn node_step(&mut self, node: usize, step: Step) -> Result<(), String> {
        let mut told = Vec::new();
        let turned = match &step {
            Step::Turn(shard, _) => Some(*shard),
            _ => None,
        };
        self.nodes[node].step(step, &mut self.rng, &mut told);
        if let Some(host) = turned.and_then(|shard| self.nodes[node].hosts.get(shard)) {
            let disk = self.nodes[node].disks;
            self.watch.look(node, disk, &host.shard, self.queue.now_us())?;
        }
        for item in told {
            match item {
                Told::Reply(id, reply) => self.send_answer(node, id, reply),
                Told::Peer(shard, out) => self.send_peer(node, shard, out),
                Told::Died(why) => return self.node_died(node, &why),
            }
        }
        // One slice may pass when nothing else is in memory, and what the broker itself writes asks for no room.
        let slack = 64 << 10;
        let bytes = self.nodes[node].tail_bytes() as u64;
        let bound = self.tail_bytes_max;
        if bytes > bound + slack {
            return Err(format!("{bytes} bytes of entries in memory, the bound is {bound}"));
        }
        if self.nodes[node].has_stopped() {
            return self.node_stopped(node);
        }
        Ok(())
    }

    fn send_answer(&mut self, node: usize, id: u64, reply: Reply) {
        let stale = match self.pending.get(&id) {
            Some(pending) => self.superseded(node, &pending.groups),
            None => Vec::new(),
        };
        match self.plan.planted {
            Some(Planted::AnswerLost) if id.is_multiple_of(97) => return,
            Some(Planted::AnsweredTwice) if id.is_multiple_of(97) => {
                if let Reply::Produce(outcomes) = &reply {
                    let again = Reply::Produce(outcomes.clone());
                    self.queue.after(900, Happening::Reply(id, again, stale.clone()));
                }
            }
            _ => {}
        }
        let delay_us = self.rng.random_range(10..400);
        self.queue.after(delay_us, Happening::Reply(id, reply, stale));
    }

    /// Which of these groups another node leads in a newer term, and since when.
    fn superseded(&self, node: usize, groups: &[GroupId]) -> Vec<(GroupId, u64)> {
        let since = |group: &GroupId| Some((*group, self.watch.superseded_since(node, *group)?));
        groups.iter().filter_map(since).collect()
    }

    /// Mixes something into the hash of the run.
    pub(super) fn trace(&mut self, what: u64) {
        let mixed = (self.report.trace ^ what).wrapping_mul(0x0000_0100_0000_01b3);
        self.report.trace = mixed.rotate_left(23);
    }

    /// Counts that something happened.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.report.counts.entry(what).or_insert(0) += 1;
    }
}
