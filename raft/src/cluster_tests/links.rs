//! The links between the nodes, as the peer transport gives them: each node knows of its own outgoing ones whether they are up.
//! A process that dies is noticed within milliseconds, a cut by silence. Nothing is sent on a link that is down.

use chronik_wal::types::{GroupId, PeerId};
use raft::eraftpb::{Message, MessageType};
use rand::Rng;

use super::{Cluster, GROUPS, NODES};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub is_up: bool,
    /// Which life of the other node it leads to.
    restarts: u64,
    /// When it breaks or comes up, if things stay as they are.
    change_due_ms: Option<u64>,
}

impl Cluster {
    pub(super) fn step_links(&mut self) {
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                if self.nodes[from].is_up && !self.is_stalled(from) {
                    self.step_link(from, to);
                }
            }
        }
    }

    fn step_link(&mut self, from: usize, to: usize) {
        let mut link = self.nodes[from].links[to];
        let is_alive = self.nodes[to].is_up;
        let is_same_life = is_alive && self.nodes[to].restarts == link.restarts;
        let is_silent = self.sides[from] != self.sides[to] || self.is_stalled(to);
        let is_right = if link.is_up { is_same_life && !is_silent } else { !is_alive || is_silent };
        if is_right {
            link.change_due_ms = None;
        } else {
            let after_ms = match (link.is_up, is_same_life) {
                (true, true) => 500..700,
                (true, false) => 0..10,
                (false, _) => 5..100,
            };
            let random = &mut self.random;
            let due_ms =
                *link.change_due_ms.get_or_insert_with(|| self.now_ms + random.random_range(after_ms));
            if due_ms <= self.now_ms {
                link.change_due_ms = None;
                link.is_up = !link.is_up;
                link.restarts = self.nodes[to].restarts;
                self.nodes[from].links[to] = link;
                self.tell_link(from, to, !is_alive);
            }
        }
        self.nodes[from].links[to] = link;
    }

    fn tell_link(&mut self, from: usize, to: usize, is_gone: bool) {
        let peer = PeerId(to as u64 + 1);
        let is_refused = is_gone && self.random.random_bool(0.7);
        let rank = (0..from).filter(|other| *other != to).count();
        let node = &mut self.nodes[from];
        for group in GROUPS {
            if node.links[to].is_up {
                node.driver.peer_found(group, peer);
            } else {
                node.driver.peer_lost(group, peer, rank, is_refused);
            }
        }
    }

    /// Says whether there is a link for it; the driver is told what could not be sent.
    pub(super) fn has_link(&mut self, from: usize, to: usize, group: GroupId, message: &Message) -> bool {
        let node = &mut self.nodes[from];
        if node.links[to].is_up {
            return true;
        }
        let peer = PeerId(to as u64 + 1);
        match message.get_msg_type() {
            MessageType::MsgSnapshot => node.driver.report_snapshot(group, peer, false),
            MessageType::MsgAppend => node.driver.report_unreachable(group, peer),
            _ => {}
        }
        false
    }
}
