//! Faults for a cluster under load, one after another: kill, pause, cut, in turn, each on a random node or on the leader.
//!
//! The order of kinds is fixed, everything else drawn from one seed, which is printed; so the faults of a run can be repeated,
//! their exact moments not. After each fault the cluster heals, and records must be acknowledged again.

use crate::cluster::{Cluster, FORM_TIMEOUT};
use crate::workload::Load;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

/// From one fault to the next.
pub const FAULT_INTERVAL: Duration = Duration::from_secs(10);
/// With one node of three at fault records are acknowledged again within this.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Records that are progress: more than those that were on their way.
const PROGRESS_RECORDS: u64 = 20;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and a start some seconds later.
    Kill,
    /// SIGSTOP, and SIGCONT some seconds later.
    Pause,
    /// A node hears nobody and is heard by nobody.
    Isolate,
    /// A node is heard by nobody but hears all.
    Mute,
    /// A node hears nobody but is heard by all.
    Deafen,
    /// Two nodes do not hear each other; the third hears both.
    Split,
    /// Everything between two nodes takes longer.
    Slow,
}

/// The order in which they come. Kill, pause and cut take turns; the kinds of cut change from round to round.
const ORDER: [Fault; 15] = [
    Fault::Kill,
    Fault::Pause,
    Fault::Isolate,
    Fault::Kill,
    Fault::Pause,
    Fault::Mute,
    Fault::Kill,
    Fault::Pause,
    Fault::Deafen,
    Fault::Kill,
    Fault::Pause,
    Fault::Split,
    Fault::Kill,
    Fault::Pause,
    Fault::Slow,
];

/// One fault as it happened.
#[derive(Debug, Clone)]
pub struct Injected {
    /// What was done.
    pub fault: Fault,
    /// To which node.
    pub node: i32,
    /// Whether it led the watched partition.
    pub leader: bool,
    /// When, in the time of the load's history.
    pub at: Duration,
    /// Until records were acknowledged again.
    pub progress_after: Duration,
}

/// Makes faults.
#[derive(Debug)]
pub struct Faults {
    random: SmallRng,
    count: usize,
    /// The partition whose leader is now and then the victim.
    watched: (String, i32),
}

impl Faults {
    /// Faults of this seed.
    #[must_use]
    pub fn new(seed: u64, topic: &str, partition: i32) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), count: 0, watched: (topic.to_string(), partition) }
    }

    /// Makes faults under `load` until `duration` is over and each round is whole.
    pub fn run(&mut self, cluster: &mut Cluster, load: &Load, duration: Duration) -> Vec<Injected> {
        let (started, mut injected) = (Instant::now(), Vec::new());
        while started.elapsed() < duration {
            let began = Instant::now();
            injected.push(self.inject(cluster, load));
            std::thread::sleep(FAULT_INTERVAL.saturating_sub(began.elapsed()));
        }
        injected
    }

    /// Makes one fault, heals it, and waits until all nodes are well again.
    fn inject(&mut self, cluster: &mut Cluster, load: &Load) -> Injected {
        let fault = ORDER[self.count % ORDER.len()];
        self.count += 1;
        let leader = cluster.leader(&self.watched.0, self.watched.1);
        let ids = cluster.ids();
        let node = if self.random.random_bool(0.5) {
            leader
        } else {
            *ids.choose(&mut self.random).expect("a cluster has nodes")
        };
        let lasting = Duration::from_millis(self.random.random_range(1000..4000));
        let at = load.now();
        self.begin(cluster, fault, node, &ids);
        let what = format!("{fault:?} of node {node}");
        let progress_after = load.wait_progress(&what, PROGRESS_RECORDS, PROGRESS_TIMEOUT);
        std::thread::sleep(lasting.saturating_sub(progress_after));
        end(cluster, fault, node);
        cluster.wait_formed(FORM_TIMEOUT);
        cluster.wait_in_sync(&self.watched.0, FORM_TIMEOUT);
        load.wait_progress(&format!("after {what}"), PROGRESS_RECORDS, PROGRESS_TIMEOUT);
        Injected { fault, node, leader: node == leader, at, progress_after }
    }

    fn begin(&mut self, cluster: &mut Cluster, fault: Fault, node: i32, ids: &[i32]) {
        let others: Vec<i32> = ids.iter().copied().filter(|id| *id != node).collect();
        let other = *others.choose(&mut self.random).expect("a cluster has other nodes");
        match fault {
            Fault::Kill => cluster.kill(node),
            Fault::Pause => cluster.pause(node),
            Fault::Isolate => cluster.cuts().isolate(node, &others),
            Fault::Mute => others.iter().for_each(|to| cluster.cuts().cut_one_way(node, *to)),
            Fault::Deafen => others.iter().for_each(|from| cluster.cuts().cut_one_way(*from, node)),
            Fault::Split => cluster.cuts().cut_between(node, other),
            Fault::Slow => {
                let delay = Duration::from_millis(self.random.random_range(20..200));
                cluster.cuts().delay_between(node, other, delay);
            }
        }
    }
}

fn end(cluster: &mut Cluster, fault: Fault, node: i32) {
    match fault {
        Fault::Kill => cluster.spawn(node),
        Fault::Pause => cluster.resume(node),
        _ => cluster.cuts().heal(),
    }
}
