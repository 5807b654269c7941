//! One run: the node, its clients and what befalls them, from one seed to a verdict.
//!
//! ```text
//! operations and faults ──▶ settle (no faults: everything is answered) ──▶ probe (every partition takes a record)
//!   ──▶ read everything ──▶ power cut ──▶ read everything again
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chronik_core::shard::message::Reply;
use chronik_wal::disk::SimDisk;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::clients::{Clients, Pending};
use super::faults::Weather;
use super::model::Model;
use super::node::{Node, Step, Told};
use super::queue::Queue;
use super::setup::{Planted, RunPlan, sizes};

/// No run takes so many steps.
const STEPS_MAX: u64 = 4_000_000;

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
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
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
    /// The run is over.
    Done,
}

/// What is to happen outside the node.
pub enum Happening {
    /// Clients do something.
    Clients,
    /// An answer reaches a client.
    Reply(u64, Reply),
    /// The weather changes.
    Weather,
    /// The node is started.
    Start,
}

/// A run.
pub struct World {
    pub(super) plan: RunPlan,
    pub(super) rng: SmallRng,
    pub(super) steps_of_node: Queue<Step>,
    pub(super) queue: Queue<Happening>,
    pub(super) node: Node,
    pub(super) model: Model,
    pub(super) clients: Clients,
    pub(super) weather: Weather,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) phase: Phase,
    pub(super) report: Report,
    pub(super) tail_bytes_max: u64,
}

/// Runs a plan to its end.
///
/// # Errors
/// What was violated, with the seed and the time.
pub fn run(plan: &RunPlan) -> Result<Report, String> {
    let seed = plan.seed;
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(plan.clone()).run()));
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
        let disk = SimDisk::new(rng.next_u64());
        let tail_bytes_max = limits.tail_bytes_max;
        let node = Node::new(disk, wal, limits, plan.planted);
        let report = Report { seed: plan.seed, ..Report::default() };
        Self {
            clients: Clients::new(&mut rng),
            weather: Weather::new(&plan, &mut rng),
            steps_of_node: Queue::new(),
            queue: Queue::new(),
            model: Model::default(),
            pending: BTreeMap::new(),
            phase: Phase::Work,
            plan,
            rng,
            node,
            report,
            tail_bytes_max,
        }
    }

    fn run(mut self) -> Result<Report, String> {
        self.prepare_first_start();
        self.queue.after(0, Happening::Start);
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
        self.report.disk_steps += self.node.disk.steps();
        self.report.acknowledged = self.model.acknowledged;
        Ok(self.report)
    }

    fn told_at(&self, why: &str) -> String {
        let (ms, steps, phase) = (self.now_us() / 1_000, self.report.steps, self.phase);
        format!("at {ms} ms, step {steps}, {phase:?}: {why}; {:?}", self.report.counts)
    }

    /// The virtual time in microseconds.
    pub(super) fn now_us(&self) -> u64 {
        self.queue.now_us().max(self.steps_of_node.now_us())
    }

    fn step(&mut self) -> Result<(), String> {
        let node_us = self.steps_of_node.next_us().unwrap_or(u64::MAX);
        let other_us = self.queue.next_us().unwrap_or(u64::MAX);
        if node_us <= other_us {
            let Some(step) = self.steps_of_node.pop() else { return Err("nothing happens any more".into()) };
            self.queue.set_now(node_us);
            self.trace(node_us);
            return self.node_step(step);
        }
        let Some(happening) = self.queue.pop() else { return Err("nothing happens any more".into()) };
        self.steps_of_node.set_now(other_us);
        self.trace(other_us ^ 0x5555);
        match happening {
            Happening::Clients => self.clients_step(),
            Happening::Reply(id, reply) => self.answered(id, reply),
            Happening::Weather => self.weather_step(),
            Happening::Start => self.start_node(),
        }
    }

    fn node_step(&mut self, step: Step) -> Result<(), String> {
        let mut told = Vec::new();
        self.node.step(step, &mut self.steps_of_node, &mut self.rng, &mut told);
        for item in told {
            match item {
                Told::Reply(id, reply) => self.send_answer(id, reply),
                Told::Died(why) => return self.node_died(&why),
            }
        }
        // One slice may pass when nothing else is in memory, and what the broker itself writes asks for no room.
        let slack = 64 << 10;
        let bytes = self.node.tail_bytes() as u64;
        if bytes > self.tail_bytes_max + slack {
            return Err(format!("{bytes} bytes of entries in memory, the bound is {}", self.tail_bytes_max));
        }
        if self.node.has_stopped() {
            return self.node_stopped();
        }
        Ok(())
    }

    fn send_answer(&mut self, id: u64, reply: Reply) {
        match self.plan.planted {
            Some(Planted::AnswerLost) if id.is_multiple_of(97) => return,
            Some(Planted::AnsweredTwice) if id.is_multiple_of(97) => {
                if let Reply::Produce(outcomes) = &reply {
                    let again = Reply::Produce(outcomes.clone());
                    self.queue.after(900, Happening::Reply(id, again));
                }
            }
            _ => {}
        }
        let delay_us = self.rng.random_range(10..400);
        self.queue.after(delay_us, Happening::Reply(id, reply));
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
