//! What befalls the node: crashes of the process and of the machine, errors, full and slow disks, other shard counts.
//!
//! Every death has a cause that was injected; a node that dies or refuses to start by itself is a finding.

use chronik_wal::disk::sim::{SimFaults, Survival};
use rand::Rng;
use rand::rngs::SmallRng;

use super::disk::forget_producers;
use super::setup::{Planted, RunPlan};
use super::world::{Happening, Phase, World};

/// What is wrong with the world just now.
#[derive(Debug)]
pub struct Weather {
    crashes_left: u32,
    /// The node may die, and why.
    doom: Option<&'static str>,
    /// A fault of the disk is on until the next change.
    disk_fault: bool,
    shards: u16,
    stopping: bool,
    /// Steps counted when the disk was last replaced: the crash points of a scripted run count on.
    scripted: Option<(u64, Option<u64>)>,
}

impl Weather {
    /// Fair weather.
    pub fn new(plan: &RunPlan, rng: &mut SmallRng) -> Self {
        let shards = if plan.crash_at_steps.is_some() { 2 } else { rng.random_range(1..=3) };
        let scripted = plan.crash_at_steps;
        Self { crashes_left: plan.crashes, doom: None, disk_fault: false, shards, stopping: false, scripted }
    }
}

impl World {
    pub(super) fn prepare_first_start(&mut self) {
        if let Some((first, _)) = self.weather.scripted {
            self.node.disk.crash_after(first);
            self.weather.doom = Some("scripted crash");
        }
    }

    /// The weather changes at random while the clients work.
    pub(super) fn weather_step(&mut self) -> Result<(), String> {
        // Some twenty changes in a run, however fast its clients are.
        let next_us = self.clients.pace_us * self.rng.random_range(2..40);
        self.queue.after(next_us, Happening::Weather);
        if self.weather.disk_fault {
            self.weather.disk_fault = false;
            self.clear_up();
            return Ok(());
        }
        let busy = !self.node.is_up() || self.weather.doom.is_some() || self.weather.stopping;
        if self.phase != Phase::Work || busy || self.weather.scripted.is_some() {
            return Ok(());
        }
        match self.rng.random_range(0..10) {
            0..6 if self.weather.crashes_left > 0 => {
                self.weather.crashes_left -= 1;
                self.storm()
            }
            6..8 if self.plan.disk_faults => {
                self.weather.disk_fault = true;
                self.bad_disk();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The disk is slow, or full, for a while.
    fn bad_disk(&mut self) {
        if self.rng.random_bool(0.5) {
            self.count("slow disk");
            self.node.delay_us_max = self.rng.random_range(5_000..300_000);
        } else {
            self.count("full disk");
            let capacity = Some(self.node.disk.used_bytes() + self.rng.random_range(0..40_000));
            self.node.disk.set_faults(SimFaults { capacity, ..SimFaults::default() });
        }
    }

    fn clear_up(&mut self) {
        self.node.delay_us_max = 400;
        self.node.disk.set_faults(SimFaults::default());
    }

    /// Ends the process: now, at a coming write, or by an error of the disk.
    fn storm(&mut self) -> Result<(), String> {
        let kinds = if self.plan.disk_faults { 8 } else { 6 };
        match self.rng.random_range(0..kinds) {
            0 => {
                self.weather.doom = Some("killed");
                self.node_died("killed")
            }
            1 => {
                self.count("clean stop");
                self.weather.stopping = true;
                self.node.stop(&mut self.steps_of_node, &mut self.rng);
                Ok(())
            }
            2..6 => {
                self.weather.doom = Some("crash at a write");
                let steps = self.rng.random_range(1..40);
                self.node.disk.crash_after(steps);
                Ok(())
            }
            6 => {
                self.weather.doom = Some("write error");
                self.node.disk.set_faults(SimFaults { write_error: 0.1, ..SimFaults::default() });
                Ok(())
            }
            _ => {
                self.weather.doom = Some("sync error");
                self.node.disk.set_faults(SimFaults { sync_error: 0.1, ..SimFaults::default() });
                Ok(())
            }
        }
    }

    /// The process has ended. The machine may have, too.
    pub(super) fn node_died(&mut self, why: &str) -> Result<(), String> {
        let Some(doom) = self.weather.doom.take() else {
            return Err(format!("the node died without a cause: {why}"));
        };
        self.count(doom);
        self.trace(self.node.disk.steps());
        self.down()
    }

    /// The process has ended as it was told to.
    pub(super) fn node_stopped(&mut self) -> Result<(), String> {
        self.weather.stopping = false;
        self.down()
    }

    /// After a scripted crash and at the end of a run, the machine loses its power for certain.
    pub(super) fn power_cut(&mut self) -> Result<(), String> {
        self.count("power cut");
        self.replace_disk(Survival::SyncedOnly);
        self.node.die(&mut self.steps_of_node);
        self.lose_pending();
        self.queue.after(1_000, Happening::Start);
        Ok(())
    }

    fn down(&mut self) -> Result<(), String> {
        self.node.die(&mut self.steps_of_node);
        self.weather.stopping = false;
        self.fall();
        self.lose_pending();
        let delay_us = self.rng.random_range(1_000..50_000);
        self.queue.after(delay_us, Happening::Start);
        Ok(())
    }

    /// What becomes of the disk when the process has ended.
    fn fall(&mut self) {
        let kind = if self.plan.power_cuts { self.rng.random_range(0..5) } else { 0 };
        match kind {
            0 => {
                self.count("process killed");
                self.node.disk.revive();
            }
            1 | 2 => {
                self.count("power cut");
                self.replace_disk(Survival::SyncedOnly);
            }
            _ => {
                self.count("power cut, torn");
                self.replace_disk(Survival::Random);
            }
        }
        self.clear_up();
        self.weather.disk_fault = false;
    }

    fn replace_disk(&mut self, survival: Survival) {
        self.report.disk_steps += self.node.disk.steps();
        self.node.disk = self.node.disk.crash(survival);
        if self.plan.planted == Some(Planted::ProducersForgotten) {
            forget_producers(&self.node.disk);
        }
    }

    /// Starts the node, perhaps with another shard count, perhaps only to die on the way.
    pub(super) fn start_node(&mut self) -> Result<(), String> {
        if self.plan.reshard && self.phase == Phase::Work && self.rng.random_bool(0.25) {
            self.weather.shards = self.rng.random_range(1..=4);
            self.count("another shard count");
        }
        self.arm_start();
        let shards = self.weather.shards;
        match self.node.start(shards, &mut self.steps_of_node, &mut self.rng) {
            Ok(()) => {
                self.count("started");
                if self.node.disk.has_crashed() {
                    return self.node_died("at the last write of the start");
                }
                self.node_started()
            }
            Err(why) if self.weather.doom.is_some() && self.node.disk.has_crashed() => {
                self.count("died while starting");
                self.node_died(&why)
            }
            Err(why) => Err(format!("the node does not start: {why}")),
        }
    }

    fn arm_start(&mut self) {
        if let Some((_, second)) = self.weather.scripted {
            if self.node.starts == 1
                && let Some(second) = second
            {
                self.node.disk.crash_after(second);
                self.weather.doom = Some("scripted crash");
            }
            return;
        }
        let may_die = self.phase == Phase::Work && self.weather.crashes_left > 0 && self.node.starts > 0;
        if may_die && self.weather.doom.is_none() && self.rng.random_bool(0.3) {
            self.weather.crashes_left -= 1;
            self.weather.doom = Some("crash in or after a start");
            let steps = self.rng.random_range(1..30);
            self.node.disk.crash_after(steps);
        }
    }

    /// No more faults from here on.
    pub(super) fn faults_end(&mut self) {
        self.weather.doom = None;
        self.weather.crashes_left = 0;
        self.weather.disk_fault = false;
        self.node.disk.revive();
        self.clear_up();
    }
}
