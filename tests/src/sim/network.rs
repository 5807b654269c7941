//! The links between the nodes of a run, as `chronik_net::peer` makes them: one from each shard to each other node, one way.
//!
//! A link loses nothing and changes no order while it holds. When it breaks, everything under way is lost, and the shard
//! that it belongs to hears of it: at once when the other process ended, after some silence when the network is cut or the
//! other one stands still. While a direction is cut, what is sent waits, and comes if the cut ends before the link does.
//!
//! In disorder mode, messages of Raft also come twice and out of turn: no link does that, and Raft must bear it all the same.

use std::collections::{BTreeMap, VecDeque};

use chronik_core::shard::Event;
use chronik_core::shard::message::{PeerMessage, PeerOut};
use rand::Rng;

use super::setup::{node_id, node_number};
use super::world::{Happening, World};

/// Silence after which a link counts as broken.
const SILENCE_US: u64 = 600_000;

/// How long after that it is noticed.
const NOTICE_US: u64 = 150_000;

/// A link tries to connect again at the latest after this long.
const BACKOFF_US_MAX: u64 = 500_000;

/// Names a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId {
    from: usize,
    shard: usize,
    to: usize,
}

#[derive(Debug, Default)]
struct Link {
    /// Counts connections and breaks: what belongs to an older one is lost.
    epoch: u64,
    up: bool,
    /// Which run of the other node it is connected with.
    run: u64,
    fails: u32,
    refused_told: bool,
    newest_us: u64,
    /// What waits for the end of a cut.
    held: VecDeque<PeerMessage>,
}

/// What happens in the network.
pub enum NetEvent {
    /// A message comes out of a link.
    Arrive(LinkId, u64, PeerMessage),
    /// A link tries to connect.
    Dial(LinkId, u64),
    /// A link has been silent for long, perhaps.
    Silent(LinkId, u64),
    /// A link breaks because the other process is gone.
    Break(LinkId, u64),
}

/// The network.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<LinkId, Link>,
    /// Directions that are cut, and since when.
    cuts: BTreeMap<(usize, usize), u64>,
    /// Since when which nodes stand still.
    paused: BTreeMap<usize, u64>,
    /// Nodes whose machine is off: nothing answers there, not even to refuse.
    off: BTreeMap<usize, ()>,
    /// The longest way of a message, in microseconds.
    pub delay_us_max: u64,
    /// Messages of Raft may come twice and out of turn.
    pub disorder: bool,
    /// Messages sent.
    pub sent: u64,
    /// Those of Raft among them.
    pub sent_by_raft: u64,
}

impl Network {
    /// A quick network without links.
    #[must_use]
    pub fn new(disorder: bool) -> Self {
        Self { delay_us_max: 400, disorder, ..Self::default() }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    /// Since when nothing comes back to a link's end.
    fn silent_since(&self, link: LinkId) -> Option<u64> {
        let LinkId { from, to, .. } = link;
        let cuts = [self.cuts.get(&(from, to)), self.cuts.get(&(to, from))];
        let pauses = [self.paused.get(&from), self.paused.get(&to)];
        cuts.into_iter().chain(pauses).flatten().copied().min()
    }

    /// Whether any direction is cut or any node stands still.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        !self.cuts.is_empty() || !self.paused.is_empty()
    }

    fn of_node(&self, node: usize) -> Vec<LinkId> {
        self.links.keys().copied().filter(|link| link.from == node || link.to == node).collect()
    }
}

impl World {
    /// A node has started: its links connect, and those of others notice that it is another process.
    pub(super) fn links_start(&mut self, node: usize) {
        self.network.off.remove(&node);
        for shard in 0..self.nodes[node].hosts.len() {
            for to in (0..self.nodes.len()).filter(|to| *to != node) {
                let id = LinkId { from: node, shard, to };
                let link = self.network.links.entry(id).or_default();
                *link = Link { epoch: link.epoch + 1, ..Link::default() };
                let (epoch, delay_us) = (link.epoch, self.rng.random_range(10..5_000));
                self.queue.after(delay_us, Happening::Network(NetEvent::Dial(id, epoch)));
            }
        }
        self.break_links_to(node, 1..10_000);
    }

    /// A node's process has ended; when its machine went with it, the others only notice the silence.
    pub(super) fn links_end(&mut self, node: usize, machine_off: bool) {
        self.network.paused.remove(&node);
        for (id, link) in self.network.links.iter_mut().filter(|(id, _)| id.from == node) {
            let _ = id;
            *link = Link { epoch: link.epoch + 1, ..Link::default() };
        }
        if machine_off {
            self.network.off.insert(node, ());
            self.break_links_to(node, SILENCE_US..SILENCE_US + NOTICE_US);
        } else {
            self.break_links_to(node, 1..10_000);
        }
    }

    fn break_links_to(&mut self, node: usize, within_us: std::ops::Range<u64>) {
        let up = |(id, link): (&LinkId, &Link)| (id.to == node && link.up).then_some((*id, link.epoch));
        let links: Vec<(LinkId, u64)> = self.network.links.iter().filter_map(up).collect();
        for (id, epoch) in links {
            let delay_us = self.rng.random_range(within_us.clone());
            self.queue.after(delay_us, Happening::Network(NetEvent::Break(id, epoch)));
        }
    }

    /// Cuts one direction.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        let now_us = self.now_us();
        self.network.cuts.entry((from, to)).or_insert(now_us);
        self.watch_silence(from, Some(to));
    }

    /// Ends every cut: what waited in links that still hold comes now.
    pub(super) fn heal(&mut self) {
        let cuts = std::mem::take(&mut self.network.cuts);
        let links: Vec<LinkId> = self.network.links.keys().copied().collect();
        for id in links.into_iter().filter(|id| cuts.contains_key(&(id.from, id.to))) {
            let held = self.network.links.get_mut(&id).map(|link| std::mem::take(&mut link.held));
            held.into_iter().flatten().for_each(|message| self.carry(id, message));
        }
    }

    /// A process stands still.
    pub(super) fn pause(&mut self, node: usize) {
        let now_us = self.now_us();
        self.nodes[node].paused = true;
        self.network.paused.insert(node, now_us);
        self.watch_silence(node, None);
    }

    /// A process goes on: everything that came meanwhile is in its sockets.
    pub(super) fn resume(&mut self, node: usize) {
        let Some(since_us) = self.network.paused.remove(&node) else { return };
        let now_us = self.now_us();
        self.nodes[node].paused = false;
        self.nodes[node].resumed_us = now_us;
        for pending in self.pending.values_mut().filter(|pending| pending.node == node) {
            pending.deadline_us = pending.deadline_us.saturating_add(now_us - since_us);
        }
    }

    fn watch_silence(&mut self, node: usize, other: Option<usize>) {
        for id in self.network.of_node(node) {
            if other.is_some_and(|other| id.from != other && id.to != other) {
                continue;
            }
            let epoch = self.network.links[&id].epoch;
            let delay_us = SILENCE_US + self.rng.random_range(1..NOTICE_US);
            self.queue.after(delay_us, Happening::Network(NetEvent::Silent(id, epoch)));
        }
    }

    /// A shard sends something to another node.
    pub(super) fn send_peer(&mut self, from: usize, shard: usize, out: PeerOut) {
        let to = node_number(out.node);
        let id = LinkId { from, shard, to };
        let Some(target) = self.nodes.get(to) else { return };
        let Some(link) = self.network.links.get(&id) else { return };
        if !link.up || link.run != target.starts || !target.is_up() {
            return;
        }
        self.network.sent += 1;
        if matches!(out.message, PeerMessage::Raft { .. } | PeerMessage::Heartbeats(_)) {
            self.network.sent_by_raft += 1;
        }
        self.carry(id, out.message);
    }

    fn carry(&mut self, id: LinkId, message: PeerMessage) {
        let is_cut = self.network.is_cut(id.from, id.to);
        let delay_us = self.rng.random_range(20..self.network.delay_us_max);
        let of_raft = matches!(message, PeerMessage::Raft { .. } | PeerMessage::Heartbeats(_));
        let disorder = self.network.disorder && of_raft && !is_cut;
        let now_us = self.now_us();
        let Some(link) = self.network.links.get_mut(&id) else { return };
        if is_cut {
            return link.held.push_back(message);
        }
        if disorder && self.rng.random_bool(0.04) {
            let late_us = delay_us + self.rng.random_range(0..20_000);
            let copy = NetEvent::Arrive(id, link.epoch, message.clone());
            self.queue.at(now_us + late_us, Happening::Network(copy));
        }
        let mut at_us = now_us + delay_us;
        if disorder && self.rng.random_bool(0.04) {
            at_us += self.rng.random_range(0..10_000);
        } else {
            at_us = at_us.max(link.newest_us);
            link.newest_us = at_us;
        }
        self.queue.at(at_us, Happening::Network(NetEvent::Arrive(id, link.epoch, message)));
    }

    pub(super) fn network_step(&mut self, event: NetEvent) {
        match event {
            NetEvent::Arrive(id, epoch, message) => {
                let link = &self.network.links[&id];
                if link.epoch != epoch || link.run != self.nodes[id.to].starts {
                    return self.count("messages lost");
                }
                let number = id.from * 64 + id.shard;
                let Self { nodes, rng, .. } = self;
                nodes[id.to].peer_says(number, node_id(id.from), message, rng);
            }
            NetEvent::Dial(id, epoch) => self.dial(id, epoch),
            NetEvent::Silent(id, epoch) => {
                let since_us = self.network.silent_since(id);
                if since_us.is_some_and(|since_us| since_us + SILENCE_US <= self.now_us()) {
                    self.break_link(id, epoch, false);
                }
            }
            NetEvent::Break(id, epoch) => {
                // Whether the other process is gone or only the connection shows with the next try.
                let refused = !self.network.off.contains_key(&id.to) && self.rng.random_bool(0.5);
                self.break_link(id, epoch, refused && !self.nodes[id.to].is_up());
            }
        }
    }

    fn break_link(&mut self, id: LinkId, epoch: u64, refused: bool) {
        let Some(link) = self.network.links.get_mut(&id) else { return };
        if link.epoch != epoch || !link.up {
            return;
        }
        *link = Link { epoch: epoch + 1, refused_told: refused, ..Link::default() };
        self.count("links broken");
        self.tell_link(id, Event::NodeDown { node: node_id(id.to), refused });
        let delay_us = self.rng.random_range(10..20_000);
        self.queue.after(delay_us, Happening::Network(NetEvent::Dial(id, epoch + 1)));
    }

    fn tell_link(&mut self, id: LinkId, event: Event) {
        let Self { nodes, rng, .. } = self;
        nodes[id.from].link_says(id.shard, 4_096 + id.to * 64 + id.shard, event, rng);
    }

    fn dial(&mut self, id: LinkId, epoch: u64) {
        let (from, to) = (&self.nodes[id.from], &self.nodes[id.to]);
        let Some(link) = self.network.links.get_mut(&id) else { return };
        if link.epoch != epoch || link.up || id.shard >= from.hosts.len() {
            return;
        }
        let cut = self.network.cuts.contains_key(&(id.from, id.to))
            || self.network.cuts.contains_key(&(id.to, id.from));
        if from.paused || to.paused || cut || !to.is_up() {
            link.fails = (link.fails + 1).min(10);
            let full_us = (20_000u64 << link.fails.min(6)).min(BACKOFF_US_MAX);
            let refused = !cut && !to.is_up() && !self.network.off.contains_key(&id.to) && !from.paused;
            let news = refused && !link.refused_told;
            link.refused_told |= refused;
            let delay_us = self.rng.random_range(full_us / 2..full_us);
            self.queue.after(delay_us, Happening::Network(NetEvent::Dial(id, epoch)));
            if news {
                self.tell_link(id, Event::NodeDown { node: node_id(id.to), refused: true });
            }
            return;
        }
        *link = Link { epoch: epoch + 1, up: true, run: to.starts, ..Link::default() };
        self.tell_link(id, Event::NodeUp(node_id(id.to)));
    }
}
