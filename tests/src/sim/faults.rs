//! What befalls the nodes: crashes of the process and of the machine, errors, full and slow disks, other shard counts,
//! cut networks, processes that stand still, clocks that jump.
//!
//! Every death has a cause that was injected; a node that dies or refuses to start by itself is a finding.

use std::path::PathBuf;

use chronik_wal::disk::SimDisk;
use chronik_wal::disk::sim::{SimFaults, Survival};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore};

use super::disk::forget_producers;
use super::node::NOTING;
use super::setup::{Planted, RunPlan};
use super::world::{Happening, Phase, World};

/// Wall clocks are off by no more than this, in milliseconds: a producer's records would count as from the future.
pub const WALL_OFF_MS_MAX: i64 = 1_500_000;

/// So many disks are lost in a run, one after the other.
const LOSSES_MAX: u32 = 3;

/// A request may still be carried out so long after it was sent.
const ASKED_US_MAX: u64 = 12_000_000;

/// So long after a disk was lost every link to its node has noticed.
const NOTICED_US: u64 = 2_000_000;

/// What is wrong with the world just now.
#[derive(Debug)]
pub struct Weather {
    crashes_left: u32,
    nodes: Vec<NodeWeather>,
    /// How many disks may still be lost, one after the other.
    losses_left: u32,
    /// When the last one was lost.
    lost_us: Option<u64>,
    /// When anybody last asked for fewer replicas.
    thinned_us: Option<u64>,
    /// Counts cuts: the end of an older one does not end a newer one.
    cut: u64,
    /// Steps counted when the disk was last replaced: the crash points of a scripted run count on.
    scripted: Option<(u64, Option<u64>)>,
}

/// What is wrong with one node.
#[derive(Debug)]
struct NodeWeather {
    /// The node may die, and why.
    doom: Option<&'static str>,
    /// A fault of the disk is on until the next change.
    disk_fault: bool,
    shards: u16,
    stopping: bool,
    /// A bit of its disk has turned over.
    rotten: bool,
}

impl Weather {
    /// Fair weather.
    pub fn new(plan: &RunPlan, rng: &mut SmallRng) -> Self {
        let scripted = plan.crash_at_steps;
        let node = |_| {
            let shards = if scripted.is_some() { 2 } else { rng.random_range(1..=3) };
            NodeWeather { doom: None, disk_fault: false, shards, stopping: false, rotten: false }
        };
        let nodes = (0..plan.nodes).map(node).collect();
        Self {
            crashes_left: plan.crashes,
            nodes,
            losses_left: LOSSES_MAX,
            lost_us: None,
            thinned_us: None,
            cut: 0,
            scripted,
        }
    }
}

impl World {
    pub(super) fn prepare_first_start(&mut self) {
        if let Some((first, _)) = self.weather.scripted {
            self.nodes[0].disk.crash_after(first);
            self.weather.nodes[0].doom = Some("scripted crash");
        }
    }

    /// The weather changes at random while the clients work.
    pub(super) fn weather_step(&mut self) -> Result<(), String> {
        // Some twenty changes in a run, however fast its clients are; an election takes its time.
        let next_us = match self.plan.nodes {
            1 => self.clients.pace_us * self.rng.random_range(2..40),
            _ => self.rng.random_range(20_000..1_200_000),
        };
        self.queue.after(next_us, Happening::Weather);
        let node = self.rng.random_range(0..self.plan.nodes);
        let weather = &mut self.weather.nodes[node];
        if weather.disk_fault {
            weather.disk_fault = false;
            self.clear_up(node);
            return Ok(());
        }
        let busy = !self.nodes[node].is_up() || weather.doom.is_some() || weather.stopping;
        if self.phase != Phase::Work || busy || self.weather.scripted.is_some() {
            return Ok(());
        }
        match self.rng.random_range(0..if self.plan.nodes == 1 { 10 } else { 20 }) {
            0..6 if self.weather.crashes_left > 0 => {
                self.weather.crashes_left -= 1;
                self.storm(node)
            }
            6..8 if self.plan.disk_faults => {
                self.weather.nodes[node].disk_fault = true;
                self.bad_disk(node);
                Ok(())
            }
            10..13 if self.plan.cuts => {
                self.stand_still(node);
                Ok(())
            }
            13..18 if self.plan.cuts => {
                self.cut_off(node);
                Ok(())
            }
            18 if self.plan.clock_jumps => {
                self.count("clock jump");
                let off_ms = self.rng.random_range(-WALL_OFF_MS_MAX..=WALL_OFF_MS_MAX);
                self.nodes[node].wall_off_ms = off_ms;
                Ok(())
            }
            19 if self.plan.cuts => {
                self.network.delay_us_max = [400, 400, 5_000, 40_000][self.rng.random_range(0..4)];
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A process stands still for a while: shorter and longer than an election, and than links bear.
    fn stand_still(&mut self, node: usize) {
        if self.nodes[node].paused {
            return;
        }
        self.count("process paused");
        self.pause(node);
        let for_us = [100_000, 700_000, 3_000_000][self.rng.random_range(0..3)];
        let for_us = self.rng.random_range(10_000..for_us);
        self.queue.after(for_us, Happening::Resume(node));
    }

    /// Some of a node's ways to others are cut for a while.
    fn cut_off(&mut self, node: usize) {
        let others: Vec<usize> = (0..self.plan.nodes).filter(|other| *other != node).collect();
        match self.rng.random_range(0..4) {
            0 => {
                self.count("one way cut");
                let other = others[self.rng.random_range(0..others.len())];
                self.cut(node, other);
            }
            1 => {
                self.count("nobody is heard");
                others.into_iter().for_each(|other| self.cut(other, node));
            }
            2 => {
                self.count("two apart");
                let other = others[self.rng.random_range(0..others.len())];
                self.cut(node, other);
                self.cut(other, node);
            }
            _ => {
                self.count("cut off");
                for other in others {
                    self.cut(node, other);
                    self.cut(other, node);
                }
            }
        }
        self.weather.cut += 1;
        let for_us = [300_000, 1_000_000, 4_000_000][self.rng.random_range(0..3)];
        let for_us = self.rng.random_range(10_000..for_us);
        self.queue.after(for_us, Happening::Heal(self.weather.cut));
    }

    /// A cut ends, and with it those before.
    pub(super) fn heal_cut(&mut self, cut: u64) {
        if cut == self.weather.cut {
            self.heal();
        }
    }

    /// The disk is slow, or full, for a while.
    fn bad_disk(&mut self, node: usize) {
        if self.rng.random_bool(0.5) {
            self.count("slow disk");
            self.nodes[node].delay_us_max = self.rng.random_range(5_000..300_000);
        } else {
            self.count("full disk");
            let capacity = Some(self.nodes[node].disk.used_bytes() + self.rng.random_range(0..40_000));
            self.nodes[node].disk.set_faults(SimFaults { capacity, ..SimFaults::default() });
        }
    }

    fn clear_up(&mut self, node: usize) {
        self.nodes[node].delay_us_max = 400;
        self.nodes[node].disk.set_faults(SimFaults::default());
    }

    /// Ends the process: now, at a coming write, or by an error of the disk.
    fn storm(&mut self, node: usize) -> Result<(), String> {
        let kinds = if self.plan.disk_faults { 8 } else { 6 };
        match self.rng.random_range(0..kinds) {
            0 => {
                self.weather.nodes[node].doom = Some("killed");
                self.node_died(node, "killed")
            }
            1 => {
                self.count("clean stop");
                self.weather.nodes[node].stopping = true;
                self.nodes[node].stop(&mut self.rng);
                Ok(())
            }
            2..6 => {
                self.weather.nodes[node].doom = Some("crash at a write");
                let steps = self.rng.random_range(1..40);
                self.nodes[node].disk.crash_after(steps);
                Ok(())
            }
            6 => {
                self.weather.nodes[node].doom = Some("write error");
                self.nodes[node].disk.set_faults(SimFaults { write_error: 0.1, ..SimFaults::default() });
                Ok(())
            }
            _ => {
                self.weather.nodes[node].doom = Some("sync error");
                self.nodes[node].disk.set_faults(SimFaults { sync_error: 0.1, ..SimFaults::default() });
                Ok(())
            }
        }
    }

    /// The process has ended. The machine may have, too.
    pub(super) fn node_died(&mut self, node: usize, why: &str) -> Result<(), String> {
        // A node ends rather than go on in a directory that does not name its cluster, and is started again once there is space.
        let is_full = why.starts_with(NOTING) && self.weather.nodes[node].disk_fault;
        if is_full {
            self.weather.nodes[node].disk_fault = false;
            self.clear_up(node);
        }
        let full = is_full.then_some("ended by a full disk");
        let Some(doom) = self.weather.nodes[node].doom.take().or(full) else {
            return Err(format!("node {node} died without a cause: {why}"));
        };
        self.count(doom);
        self.trace(self.nodes[node].disk.steps());
        self.down(node)
    }

    /// The process has ended as it was told to.
    pub(super) fn node_stopped(&mut self, node: usize) -> Result<(), String> {
        self.weather.nodes[node].stopping = false;
        let rots = self.plan.bit_rot && self.may_lose_a_disk() && self.rng.random_bool(0.7);
        self.down(node)?;
        if rots {
            self.rot(node);
        }
        Ok(())
    }

    /// A bit of the WAL of a node that was stopped cleanly turns over. After a crash the newest turn may be a torn one, and
    /// nobody could tell; a clean stop has marked it as durable (SAFETY.md, rule 3).
    fn rot(&mut self, node: usize) {
        let disk = &self.nodes[node].disk;
        let is_wal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wal");
        let mut written = Vec::new();
        for path in disk.files().into_iter().filter(is_wal) {
            let contents = disk.contents(&path).unwrap_or_default();
            // Where zeros were, nothing was written, mostly.
            let bytes = (0..contents.len()).filter(|position| contents[*position] != 0);
            written.extend(bytes.map(|position| (path.clone(), position as u64)));
        }
        if written.is_empty() {
            return;
        }
        let (path, position) = written.swap_remove(self.rng.random_range(0..written.len()));
        self.nodes[node].disk.flip_bit(&path, position, self.rng.random_range(0..8));
        self.weather.nodes[node].rotten = true;
        self.disk_lost();
        self.count("bit rot");
    }

    /// At the end of a run every machine loses its power at once.
    pub(super) fn power_cut(&mut self) {
        self.count("power cut");
        for node in 0..self.plan.nodes {
            self.replace_disk(node, Survival::SyncedOnly);
            self.forget_process(node, true);
        }
        for node in 0..self.plan.nodes {
            self.queue.after(1_000, Happening::Start(node));
        }
    }

    fn down(&mut self, node: usize) -> Result<(), String> {
        self.weather.nodes[node].stopping = false;
        let machine_off = self.fall(node);
        self.forget_process(node, machine_off);
        let longest_us = if self.plan.nodes == 1 { 50_000 } else { 2_000_000 };
        let delay_us = self.rng.random_range(1_000..longest_us);
        self.queue.after(delay_us, Happening::Start(node));
        Ok(())
    }

    fn forget_process(&mut self, node: usize, machine_off: bool) {
        self.nodes[node].die();
        self.watch.node_died(node);
        self.links_end(node, machine_off);
        self.lose_pending(node);
    }

    /// What becomes of the disk when the process has ended. True when the machine went with it.
    fn fall(&mut self, node: usize) -> bool {
        let kind = if self.plan.power_cuts { self.rng.random_range(0..5) } else { 0 };
        match kind {
            _ if self.wipe(node) => {}
            0 => {
                self.count("process killed");
                self.nodes[node].disk.revive();
            }
            1 | 2 => {
                self.count("power cut");
                self.replace_disk(node, Survival::SyncedOnly);
            }
            _ => {
                self.count("power cut, torn");
                self.replace_disk(node, Survival::Random);
            }
        }
        self.clear_up(node);
        self.weather.nodes[node].disk_fault = false;
        kind != 0
    }

    /// A machine comes back with an empty disk, as another incarnation of its node.
    fn wipe(&mut self, node: usize) -> bool {
        if !self.plan.wipes || !self.may_lose_a_disk() || self.rng.random_bool(0.5) {
            return false;
        }
        self.disk_lost();
        self.replace_by_an_empty_one(node);
        true
    }

    fn replace_by_an_empty_one(&mut self, node: usize) {
        self.count("disk wiped");
        self.weather.nodes[node].rotten = false;
        self.report.disk_steps += self.nodes[node].disk.steps();
        self.nodes[node].disk = SimDisk::new(self.rng.next_u64());
        self.nodes[node].disks += 1;
        if self.plan.planted != Some(Planted::WipedVotes) {
            self.nodes[node].directory[15] += 0x10;
        }
    }

    /// Whether a disk may be lost now: there is a cluster that can fill it again, and nothing that an earlier one held is
    /// still missing. Two of three copies gone at once are a majority.
    fn may_lose_a_disk(&self) -> bool {
        let formed = !self.model.topics.is_empty();
        formed
            && !self.is_thinning()
            && self.weather.losses_left > 0
            && !self.is_any_thin()
            && self.not_whole().is_none()
    }

    /// Whether a request for fewer replicas may still be carried out.
    fn is_thinning(&self) -> bool {
        self.weather.thinned_us.is_some_and(|at_us| self.now_us() < at_us + ASKED_US_MAX)
    }

    fn disk_lost(&mut self) {
        self.weather.losses_left -= 1;
        self.weather.lost_us = Some(self.now_us());
    }

    /// Somebody would have fewer replicas of something. No leader can tell a disk that is lost from one that is about to be:
    /// so not just after one was.
    pub(super) fn may_thin(&mut self) -> bool {
        let now_us = self.now_us();
        if self.weather.lost_us.is_some_and(|at_us| now_us < at_us + NOTICED_US) {
            return false;
        }
        self.weather.thinned_us = Some(now_us);
        true
    }

    /// Somebody would have another partition of a topic. It gets as many replicas as the topic's first one has by then; were these
    /// fewer, with one on a node whose disk is lost and that nobody misses yet, it would never have a quorum (SAFETY.md, rule
    /// 27). So where that may be, no disk is lost, as with requests for fewer replicas.
    pub(super) fn may_grow(&mut self) -> bool {
        let now_us = self.now_us();
        if !self.is_thinning() && !self.is_any_thin() {
            return true;
        }
        let rotten = |node: usize| self.weather.nodes[node].rotten && !self.nodes[node].is_up();
        if self.is_any_disk_unknown() || (0..self.plan.nodes).any(rotten) {
            return false;
        }
        self.weather.thinned_us = Some(now_us);
        true
    }

    fn replace_disk(&mut self, node: usize, survival: Survival) {
        self.report.disk_steps += self.nodes[node].disk.steps();
        self.nodes[node].disk = self.nodes[node].disk.crash(survival);
        if self.plan.planted == Some(Planted::ProducersForgotten) {
            forget_producers(&self.nodes[node].disk);
        }
    }

    /// Starts the node, perhaps with another shard count, perhaps only to die on the way.
    pub(super) fn start_node(&mut self, node: usize) -> Result<(), String> {
        if self.plan.reshard && self.phase == Phase::Work && self.rng.random_bool(0.25) {
            self.weather.nodes[node].shards = self.rng.random_range(1..=4);
            self.count("another shard count");
        }
        self.arm_start(node);
        let shards = self.weather.nodes[node].shards;
        match self.nodes[node].start(shards, &mut self.rng) {
            Ok(()) => {
                self.count("started");
                if self.nodes[node].disk.has_crashed() {
                    return self.node_died(node, "at the last write of the start");
                }
                self.links_start(node);
                self.node_started(node)
            }
            Err(why) if self.weather.nodes[node].doom.is_some() && self.nodes[node].disk.has_crashed() => {
                self.count("died while starting");
                self.node_died(node, &why)
            }
            Err(_) if self.weather.nodes[node].rotten => {
                // What the metadata or the node itself cannot do without: its operator replaces the disk.
                self.replace_by_an_empty_one(node);
                self.queue.after(100_000, Happening::Start(node));
                Ok(())
            }
            Err(why) => Err(format!("node {node} does not start: {why}")),
        }
    }

    fn arm_start(&mut self, node: usize) {
        if let Some((_, second)) = self.weather.scripted {
            if self.nodes[node].starts == 1
                && let Some(second) = second
            {
                self.nodes[node].disk.crash_after(second);
                self.weather.nodes[node].doom = Some("scripted crash");
            }
            return;
        }
        let may_die =
            self.phase == Phase::Work && self.weather.crashes_left > 0 && self.nodes[node].starts > 0;
        if may_die && self.weather.nodes[node].doom.is_none() && self.rng.random_bool(0.3) {
            self.weather.crashes_left -= 1;
            self.weather.nodes[node].doom = Some("crash in or after a start");
            let steps = self.rng.random_range(1..30);
            self.nodes[node].disk.crash_after(steps);
        }
    }

    /// No more faults from here on.
    pub(super) fn faults_end(&mut self) {
        self.weather.crashes_left = 0;
        self.network.delay_us_max = 400;
        for node in 0..self.plan.nodes {
            self.weather.nodes[node].doom = None;
            self.weather.nodes[node].disk_fault = false;
            self.nodes[node].disk.revive();
            self.clear_up(node);
            self.resume(node);
        }
        self.heal();
    }
}
