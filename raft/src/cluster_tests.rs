//! A cluster of drivers in one process, on a simulated network and simulated disks, all from one seed.
//!
//! Nodes crash and lose what was not durable; messages are lost, delayed, reordered, doubled and cut off by partitions; leaders
//! change the configuration, hand over, move the log start; tails are evicted so that followers are fed from files, and
//! compacted so that they need snapshots. Checked all along:
//! - one leader a term;
//! - what is committed never changes, on no node, not after a restart; every node commits the same entries;
//! - offsets are dense;
//! - after healing, each group commits again and all its members come to the same end.

mod calm;
mod links;
mod members;

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_wal::entry::{EntryKind, LogEntry};
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term, TurnNumber};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Message};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::driver::{Driver, DriverConfig, DriverOutput, EntryFetch, NewGroup, Proposal};
use crate::leadership::Leadership;
use crate::test_support::{TestSink, batch_bytes, log_start_at};

const GROUPS: [GroupId; 2] = [GroupId(0), GroupId(9)];
const NODES: usize = 5;

/// Members at first; the other nodes join and leave.
const VOTERS: [PeerId; 3] = [PeerId(1), PeerId(2), PeerId(3)];

/// A partition's files: what is in them is durable at once.
#[derive(Clone, Debug, Default)]
struct Files {
    entries: Vec<LogEntry>,
}

struct Node {
    driver: Driver,
    sink: TestSink,
    files: BTreeMap<GroupId, Files>,
    /// Entries handed out and not yet in files.
    unflushed: BTreeMap<GroupId, Vec<LogEntry>>,
    /// What to do to files once a turn is durable: drop all, or below an index.
    on_durable: Vec<(TurnNumber, GroupId, Option<RaftIndex>)>,
    fetches: Vec<EntryFetch>,
    disk_done_ms: u64,
    is_up: bool,
    restarts: u64,
    links: [links::Link; NODES],
    /// It stands still until then, and what is sent to it waits.
    stalled_until_ms: u64,
    inbox: Vec<InTransit>,
}

struct InTransit {
    from: usize,
    to: usize,
    group: GroupId,
    message: Message,
}

#[derive(Default)]
struct Truth {
    /// Committed entries by index, from 1.
    committed: BTreeMap<GroupId, Vec<LogEntry>>,
    leaders: BTreeMap<(GroupId, Term), PeerId>,
    /// When the first leader of a term was ready to serve.
    led_from_ms: BTreeMap<(GroupId, Term), u64>,
    rests: u64,
    snapshots_installed: u64,
    fetches_served: u64,
    configurations: u64,
}

struct Cluster {
    seed: u64,
    random: SmallRng,
    now_ms: u64,
    sent: u64,
    nodes: Vec<Node>,
    network: BTreeMap<(u64, u64), InTransit>,
    /// Which side of a partition each node is on.
    sides: [u8; NODES],
    loss: f64,
    truth: Truth,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut cluster = Self {
            seed,
            random: SmallRng::seed_from_u64(seed),
            now_ms: 1000,
            sent: 0,
            nodes: Vec::new(),
            network: BTreeMap::new(),
            sides: [0; NODES],
            loss: 0.0,
            truth: Truth::default(),
        };
        for number in 0..NODES {
            let mut node = Node {
                driver: Driver::new(config(seed, number, 0)),
                sink: TestSink::default(),
                files: BTreeMap::new(),
                unflushed: BTreeMap::new(),
                on_durable: Vec::new(),
                fetches: Vec::new(),
                disk_done_ms: 0,
                is_up: true,
                restarts: 0,
                links: Default::default(),
                stalled_until_ms: 0,
                inbox: Vec::new(),
            };
            create_missing(&mut node, number);
            cluster.nodes.push(node);
        }
        cluster
    }

    /// One step of a few milliseconds: the network, clocks, disks and the drivers of all nodes.
    fn step(&mut self) {
        self.now_ms += self.random.random_range(1..8);
        self.step_links();
        self.deliver();
        for number in 0..NODES {
            if self.nodes[number].is_up && !self.is_stalled(number) {
                self.step_node(number);
            }
        }
    }

    fn deliver(&mut self) {
        let later = self.network.split_off(&(self.now_ms + 1, 0));
        for (_, transit) in std::mem::replace(&mut self.network, later) {
            let is_cut = self.sides[transit.from] != self.sides[transit.to];
            let node = &mut self.nodes[transit.to];
            if is_cut || !node.is_up {
                continue;
            }
            node.inbox.push(transit);
        }
    }

    fn is_stalled(&self, number: usize) -> bool {
        self.nodes[number].stalled_until_ms > self.now_ms
    }

    /// What has arrived, before the clock is looked at.
    fn drain_inbox(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        for transit in std::mem::take(&mut node.inbox) {
            let from = PeerId(transit.from as u64 + 1);
            let kind = transit.message.get_msg_type();
            let result = node.driver.step(from, transit.group, transit.message);
            use crate::error::StepError::{NotNow, Refused};
            assert!(
                matches!(result, Ok(()) | Err(NotNow | Refused)),
                "seed {}: an honest {kind:?} was refused: {result:?}",
                self.seed
            );
        }
    }

    fn step_node(&mut self, number: usize) {
        self.drain_inbox(number);
        let node = &mut self.nodes[number];
        node.driver.tick(self.now_ms);
        if node.sink.is_writing() && node.disk_done_ms <= self.now_ms {
            let turn = node.sink.complete().unwrap();
            node.apply_to_files(turn);
            node.driver.on_durable(turn);
        }
        for fetch in std::mem::take(&mut self.nodes[number].fetches) {
            self.nodes[number].serve_fetch(fetch);
            self.truth.fetches_served += 1;
        }
        self.run(number);
        self.check_contact(number);
        let node = &mut self.nodes[number];
        if node.sink.submit().is_some() {
            node.disk_done_ms = self.now_ms + self.random.random_range(1..25);
        }
    }

    fn run(&mut self, number: usize) {
        let mut out = DriverOutput::default();
        loop {
            let node = &mut self.nodes[number];
            let has_more = node.driver.run_ready(&mut node.sink, &mut out);
            self.take_output(number, &mut out);
            if !has_more {
                return;
            }
        }
    }

    /// Whoever may answer for the newest state has been in contact with a quorum for less than an election timeout (300 ms, and 60 for
    /// the slowest message): no other leader was ready to serve before.
    fn check_contact(&mut self, number: usize) {
        for group in GROUPS {
            let driver = &self.nodes[number].driver;
            let Some(Leadership::Leader { term }) = driver.leadership(group) else { continue };
            self.truth.led_from_ms.entry((group, term)).or_insert(self.now_ms);
            if driver.has_quorum_contact(group, self.now_ms) {
                let next = self.truth.led_from_ms.range((group, Term(term.0 + 1))..).next();
                let is_stale =
                    next.is_some_and(|((other, _), from_ms)| *other == group && from_ms + 370 < self.now_ms);
                assert!(!is_stale, "seed {}: a leader of {group} is stale and does not know", self.seed);
            }
        }
    }

    fn take_output(&mut self, number: usize, out: &mut DriverOutput) {
        for installed in out.installed.drain(..) {
            let node = &mut self.nodes[number];
            node.on_durable.push((installed.turn, installed.group, None));
            node.unflushed.remove(&installed.group);
            assert_eq!(
                &installed.data[..],
                installed.log_start.offset.0.to_le_bytes(),
                "state of the log start"
            );
            self.truth.snapshots_installed += 1;
        }
        for committed in out.committed.drain(..) {
            for entry in committed.entries {
                self.check_committed(number, committed.group, &entry);
                self.apply(number, committed.group, entry);
            }
        }
        for (group, leadership) in out.leadership.drain(..) {
            let (Leadership::Leader { term } | Leadership::Elected { term }) = leadership else { continue };
            let peer = PeerId(number as u64 + 1);
            let leader = *self.truth.leaders.entry((group, term)).or_insert(peer);
            assert_eq!(leader, peer, "seed {}: two leaders in term {term} of group {group}", self.seed);
        }
        let node = &mut self.nodes[number];
        node.on_durable.extend(
            out.compacted
                .drain(..)
                .map(|compacted| (compacted.turn, compacted.group, Some(compacted.log_start.index))),
        );
        node.fetches.append(&mut out.fetches);
        let outgoing = out.messages.drain(..).chain(out.heartbeats.drain(..));
        for outgoing in outgoing.collect::<Vec<_>>() {
            self.send(number, outgoing.to, outgoing.group, outgoing.message);
        }
    }

    fn send(&mut self, from: usize, to: PeerId, group: GroupId, message: Message) {
        let to = usize::try_from(to.0).unwrap() - 1;
        if !self.has_link(from, to, group, &message) {
            return;
        }
        let copies = if self.random.random_bool(0.02) { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.random_bool(self.loss) {
                continue;
            }
            self.sent += 1;
            let delay_ms = if self.random.random_bool(0.05) { 60 } else { 6 };
            let due_ms = self.now_ms + self.random.random_range(1..delay_ms);
            let transit = InTransit { from, to, group, message: message.clone() };
            self.network.insert((due_ms, self.sent), transit);
        }
    }

    fn check_committed(&mut self, number: usize, group: GroupId, entry: &LogEntry) {
        let seed = self.seed;
        let is_durable = entry.index <= self.nodes[number].sink.last_index(group);
        assert!(is_durable, "seed {seed}: node {number} committed what its disk does not have");
        let committed = self.truth.committed.entry(group).or_default();
        let at = usize::try_from(entry.index.0).unwrap() - 1;
        let Some(known) = committed.get(at) else {
            assert_eq!(at, committed.len(), "seed {seed}: a gap");
            let end = committed.last().map_or(KafkaOffset(0), LogEntry::next_offset);
            assert_eq!(entry.base_offset, end, "seed {seed}: offsets are dense");
            committed.push(entry.clone());
            return;
        };
        assert_eq!(known, entry, "seed {seed}: node {number}, group {group}: a committed entry has changed");
    }

    /// What a partition does with a committed entry.
    fn apply(&mut self, number: usize, group: GroupId, entry: LogEntry) {
        let node = &mut self.nodes[number];
        let log_start = (entry.kind == EntryKind::LogStart)
            .then(|| KafkaOffset(i64::from_le_bytes(entry.data[..].try_into().unwrap())));
        if matches!(entry.kind, EntryKind::ConfChangeV2) {
            self.truth.configurations += 1;
        }
        node.unflushed.entry(group).or_default().push(entry);
        if let Some(offset) = log_start {
            let old = node.driver.log_start(group).unwrap();
            let all = &self.truth.committed[&group];
            let reach = node.driver.applied(group).unwrap().min(all.last().unwrap().index);
            let new = log_start_at(old, all, offset, reach);
            if let Some(place) = node.driver.position_before(group, new.offset)
                && place.index > old.index
                && place.index <= reach
            {
                assert_eq!(
                    (place.index, place.term, place.next_offset),
                    (new.index, new.term, new.base_offset)
                );
            }
            node.driver.compact_to(group, new, Bytes::copy_from_slice(&new.offset.0.to_le_bytes()));
        }
    }

    /// One thing that users, operators or fate may do.
    fn disturb(&mut self, is_calm: bool) {
        let number = self.random.random_range(0..NODES);
        let group = GROUPS[self.random.random_range(0..GROUPS.len())];
        let first = if is_calm { 75 } else { 0 };
        match self.random.random_range(first..100) {
            0..=59 => self.propose_somewhere(group),
            60..=66 => self.move_log_start(group),
            67..=74 => self.change_configuration(group),
            75..=77 => {
                let to = PeerId(self.random.random_range(1..=NODES as u64));
                if let Some(leader) = self.leader_of(group) {
                    self.nodes[leader].driver.transfer_leader(group, to);
                }
            }
            78..=84 if self.nodes[number].is_up => self.crash(number),
            85..=89 if !self.nodes[number].is_up => self.restart(number),
            90..=91 => self.sides = std::array::from_fn(|_| u8::from(self.random.random_bool(0.4))),
            92..=94 => self.sides = [0; NODES],
            95 => self.loss = self.random.random_range(0.0..0.3),
            96 => self.nodes[number].stalled_until_ms = self.now_ms + self.random.random_range(100..900),
            _ if self.nodes[number].is_up => self.flush(number, group),
            _ => {}
        }
    }

    fn leader_of(&self, group: GroupId) -> Option<usize> {
        (0..NODES).find(|number| self.leads(*number, group))
    }

    fn leads(&self, number: usize, group: GroupId) -> bool {
        let node = &self.nodes[number];
        node.is_up && matches!(node.driver.leadership(group), Some(Leadership::Leader { .. }))
    }

    /// The nodes that are members, as the leader knows, and do not rest.
    fn awake_members(&self, group: GroupId) -> Vec<usize> {
        let Some(leader) = self.leader_of(group) else { return (0..NODES).collect() };
        let members = self.nodes[leader].driver.progress(group).into_iter();
        let numbers = members.map(|member| usize::try_from(member.peer.0).unwrap() - 1);
        let is_awake =
            |number: &usize| !self.nodes[*number].is_up || !self.nodes[*number].driver.is_resting(group);
        numbers.filter(is_awake).collect()
    }

    /// Every node that believes it leads takes some records, stale leaders too.
    fn propose_somewhere(&mut self, group: GroupId) {
        for number in 0..NODES {
            let count = self.random.random_range(1..4);
            let node = &mut self.nodes[number];
            let Some(Leadership::Leader { term }) = node.driver.leadership(group) else { continue };
            for records in 1..=count {
                if !node.is_up {
                    continue;
                }
                let base = node.driver.log_end_offset(group).unwrap().0;
                let data = batch_bytes(base, term.leader_epoch().0, records, 30 + number);
                let _ = node.driver.propose(group, Proposal { kind: EntryKind::Batch, data });
            }
        }
    }

    fn move_log_start(&mut self, group: GroupId) {
        let Some(leader) = self.leader_of(group) else { return };
        let end = self
            .truth
            .committed
            .get(&group)
            .and_then(|all| all.last())
            .map_or(0, |last| last.next_offset().0);
        let offset = self.random.random_range(0..=end);
        let data = Bytes::copy_from_slice(&offset.to_le_bytes());
        let _ = self.nodes[leader].driver.propose(group, Proposal { kind: EntryKind::LogStart, data });
    }

    fn change_configuration(&mut self, group: GroupId) {
        let Some(leader) = self.leader_of(group) else { return };
        let mut change = ConfChangeV2::default();
        for _ in 0..self.random.random_range(1..3) {
            let mut single = ConfChangeSingle::default();
            single.node_id = self.random.random_range(1..=NODES as u64);
            single.set_change_type(match self.random.random_range(0..5) {
                0 | 1 => ConfChangeType::AddNode,
                2 | 3 => ConfChangeType::AddLearnerNode,
                _ => ConfChangeType::RemoveNode,
            });
            change.mut_changes().push(single);
        }
        let _ = self.nodes[leader].driver.propose_configuration(group, &change);
    }

    fn crash(&mut self, number: usize) {
        let is_turn_kept = self.random.random_bool(0.5);
        let node = &mut self.nodes[number];
        node.sink.crash(is_turn_kept);
        node.is_up = false;
        node.inbox.clear();
        self.truth.rests += node.driver.counters().rests;
        node.fetches.clear();
        node.unflushed.clear();
        // Files are changed only after the turn that says so; a crash before leaves them as they were.
        node.on_durable.clear();
    }

    fn restart(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.restarts += 1;
        node.driver = Driver::new(config(self.seed, number, node.restarts));
        for group in node.sink.groups() {
            let files = node.files.entry(group).or_default();
            let init = node.sink.recover(group, &files.entries).unwrap();
            // Recovery drops files of a log that a snapshot has replaced.
            if files.entries.last().is_some_and(|last| last.index <= init.state.log_start.index) {
                files.entries.clear();
            }
            node.driver.add_group(init).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        }
        create_missing(node, number);
        node.links = Default::default();
        node.stalled_until_ms = 0;
        node.is_up = true;
    }

    /// Write-behind: some of what was applied goes to the files and may leave memory.
    fn flush(&mut self, number: usize, group: GroupId) {
        let node = &mut self.nodes[number];
        if node.on_durable.iter().any(|(_, pending, all)| *pending == group && all.is_none()) {
            return;
        }
        let unflushed = node.unflushed.entry(group).or_default();
        let count = self.random.random_range(0..=unflushed.len());
        let files = node.files.entry(group).or_default();
        for entry in unflushed.drain(..count) {
            let last = files.entries.last().map_or(RaftIndex(0), |last| last.index);
            if entry.index > last {
                files.entries.push(entry);
            }
        }
        if let Some(last) = files.entries.last().map(|last| last.index)
            && node.driver.applied(group).is_some_and(|applied| last <= applied)
        {
            node.driver.release(group, last);
        }
    }

    fn heal(&mut self) {
        self.sides = [0; NODES];
        self.loss = 0.0;
        for number in 0..NODES {
            if !self.nodes[number].is_up {
                self.restart(number);
            }
        }
    }

    /// After healing each group has a leader that commits, and its members come to the same end.
    fn check_liveness(&mut self) {
        self.heal();
        let before: Vec<usize> = GROUPS.iter().map(|group| self.committed_len(*group)).collect();
        for round in 0..1500 {
            self.step();
            if round % 50 == 0 {
                for group in GROUPS {
                    self.propose_somewhere(group);
                }
            }
        }
        for _ in 0..700 {
            self.step();
        }
        for (group, before) in GROUPS.into_iter().zip(before) {
            let leader =
                self.leader_of(group).unwrap_or_else(|| panic!("seed {}: no leader of {group}", self.seed));
            assert!(self.committed_len(group) > before, "seed {}: group {group} commits again", self.seed);
            assert_eq!(self.awake_members(group), [], "seed {}: all members of {group} rest", self.seed);
            let driver = &self.nodes[leader].driver;
            let last = driver.last_index(group).unwrap();
            assert_eq!(driver.commit(group), Some(last), "seed {}: all is committed", self.seed);
            for member in driver.progress(group) {
                let number = usize::try_from(member.peer.0).unwrap() - 1;
                let applied = self.nodes[number].driver.applied(group);
                assert_eq!(
                    applied,
                    Some(last),
                    "seed {}: member {} of {group} caught up",
                    self.seed,
                    member.peer
                );
            }
        }
    }

    fn committed_len(&self, group: GroupId) -> usize {
        self.truth.committed.get(&group).map_or(0, Vec::len)
    }
}

impl Node {
    fn apply_to_files(&mut self, turn: TurnNumber) {
        for (awaited, group, below) in std::mem::take(&mut self.on_durable) {
            if awaited > turn {
                self.on_durable.push((awaited, group, below));
                continue;
            }
            let files = self.files.entry(group).or_default();
            match below {
                None => files.entries.clear(),
                Some(index) => files.entries.retain(|entry| entry.index > index),
            }
        }
    }

    fn serve_fetch(&mut self, fetch: EntryFetch) {
        let files = self.files.entry(fetch.group).or_default();
        let wanted =
            files.entries.iter().filter(|entry| fetch.low <= entry.index && entry.index < fetch.high);
        let entries = wanted.take(7).cloned().collect();
        self.driver.on_entries_fetched(fetch.group, fetch.low, entries);
    }
}

fn config(seed: u64, number: usize, restarts: u64) -> DriverConfig {
    DriverConfig {
        seed: seed.wrapping_mul(31) ^ (number as u64) << 40 ^ restarts << 50,
        // Small, so that followers are fed in pieces, from files, and proposals are refused at times.
        size_per_message_bytes_max: 400,
        uncommitted_bytes_max: 4000,
        committed_bytes_per_ready_max: 500,
        inflight_messages_max: 4,
        tail_budget_bytes: 2000,
        ..DriverConfig::default()
    }
}

/// Every node has a replica of every group, member or not: a later member starts from the first configuration.
fn create_missing(node: &mut Node, number: usize) {
    let peer = PeerId(number as u64 + 1);
    for group in GROUPS {
        if !node.driver.contains(group) {
            let new = NewGroup {
                group,
                peer,
                voters: VOTERS.to_vec(),
                configuration_index: RaftIndex(0),
                snapshot_data: Bytes::new(),
            };
            node.driver.create_group(new, &mut node.sink).unwrap();
        }
    }
}

/// One life of a cluster. Returns what happened, so that runs can be compared.
fn run_seed(seed: u64, steps: usize) -> Truth {
    let mut cluster = Cluster::new(seed);
    let mut is_calm = false;
    for step in 0..steps {
        cluster.step();
        if step % 100 == 0 {
            is_calm = cluster.random.random_bool(0.3);
        }
        if cluster.random.random_bool(if is_calm { 0.02 } else { 0.15 }) {
            cluster.disturb(is_calm);
        }
    }
    cluster.check_liveness();
    cluster.truth.rests += cluster.nodes.iter().map(|node| node.driver.counters().rests).sum::<u64>();
    cluster.truth
}

/// Tells the seed of a run that panicked.
fn run_named(seed: u64, steps: usize) -> Truth {
    let result = std::panic::catch_unwind(|| run_seed(seed, steps));
    result.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        panic!("cluster of seed {seed} failed: {}", text.unwrap_or_default())
    })
}

#[test]
fn clusters_keep_their_promises() {
    let first: u64 = std::env::var("CHRONIK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("CHRONIK_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let mut total = (0usize, 0u64, 0u64, 0u64, 0usize);
    let mut rests = 0;
    for seed in first..first + count {
        let truth = run_named(seed, 1500);
        total.0 += truth.committed.values().map(Vec::len).sum::<usize>();
        total.1 += truth.snapshots_installed;
        total.2 += truth.fetches_served;
        total.3 += truth.configurations;
        total.4 += truth.leaders.len();
        rests += truth.rests;
    }
    let (entries, snapshots, fetches, configurations, leaders) = total;
    tracing::info!(entries, snapshots, fetches, configurations, leaders, "clusters done");
    // A simulation in which nothing happens proves nothing.
    assert!(entries as u64 > 100 * count, "{total:?}");
    assert!(count < 50 || (snapshots > 10 && fetches > 10 && configurations > 10), "{total:?}");
    assert!(leaders as u64 > 3 * count && rests > 10 * count, "{total:?}, {rests} rests");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4] {
        let (one, other) = (run_seed(seed, 600), run_seed(seed, 600));
        assert_eq!(one.committed, other.committed);
        assert_eq!(one.leaders, other.leaders);
    }
}
