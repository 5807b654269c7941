//! The last look before an answer names a leader on another node: is that node still there?
//!
//! A client whose leader was killed asks another node for metadata within a millisecond, often before that node's own links have
//! told it that the leader is gone; librdkafka, told of the old leader then, does not ask again for a whole second, while the
//! new leader is there after five milliseconds. So the nodes that an answer is about to name are asked for a sign of life (one round
//! trip of the link between the nodes), and where one goes instead of answering, its successor is waited for a moment. A node that
//! merely is slow changes nothing: the answer is that of the snapshot, [`WAIT_MS`] later at the most.
//!
//! [`Look`] decides, [`settle`] carries it out on the connection's shard.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use chronik_net::rt::clock;
use chronik_net::rt::executor::sleep;
use chronik_wal::types::NodeId;
use futures_lite::future::or;

use super::service::Broker;
use crate::metadata::snapshot::{Leader, Snapshot};

/// An answer is held back so long at the most.
const WAIT_MS: u64 = 50;

/// While a successor is waited for, it is looked this often.
const LOOK: Duration = Duration::from_millis(2);

/// Leaders that are looked at: a client that names more partitions has other sources of delay.
pub const LEADERS_MAX: usize = 256;

/// Who knows whether other nodes are there.
pub trait Witness {
    /// Whether a node is there at this moment; true as well for this node, and for those that could not be asked for a while.
    fn is_there(&self, node: NodeId) -> Pin<Box<dyn Future<Output = bool>>>;
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask whether this node is there.
    Ask(NodeId),
    /// Look again in a moment.
    Wait,
    /// Answer.
    Answer,
}

/// What is known of the leaders that an answer is to name.
#[derive(Debug)]
pub struct Look {
    deadline_ms: u64,
    there: BTreeSet<NodeId>,
    lost: BTreeSet<NodeId>,
}

impl Look {
    /// A look by `own` node that begins now.
    #[must_use]
    pub fn new(own: NodeId, now_ms: u64) -> Self {
        Self { deadline_ms: now_ms + WAIT_MS, there: BTreeSet::from([own]), lost: BTreeSet::new() }
    }

    /// What to do next, given the leaders as they are known now.
    #[must_use]
    pub fn step(&self, leaders: &[Leader], now_ms: u64) -> Step {
        if now_ms >= self.deadline_ms {
            return Step::Answer;
        }
        let is_open = |node: &NodeId| !self.there.contains(node) && !self.lost.contains(node);
        if let Some(node) = leaders.iter().map(|leader| leader.node).find(is_open) {
            return Step::Ask(node);
        }
        // Its successor comes with the next snapshots.
        let waits = leaders.iter().any(|leader| self.lost.contains(&leader.node));
        if waits { Step::Wait } else { Step::Answer }
    }

    /// What came of [`Step::Ask`].
    pub fn heard(&mut self, node: NodeId, is_there: bool) {
        if is_there {
            self.there.insert(node)
        } else {
            self.lost.insert(node)
        };
    }

    /// The nodes that went while they were asked.
    #[must_use]
    pub fn into_lost(self) -> BTreeSet<NodeId> {
        self.lost
    }
}

/// Waits until the leaders that `leaders` finds in the newest snapshot are known to be there, a moment at the most. Gives the nodes
/// that have just gone.
pub async fn settle(broker: &Broker, leaders: impl Fn(&Snapshot) -> Vec<Leader>) -> BTreeSet<NodeId> {
    let mut look = Look::new(broker.router.snapshot().node, clock::monotonic_ms());
    loop {
        let found = leaders(&broker.router.snapshot());
        let now_ms = clock::monotonic_ms();
        match look.step(&found, now_ms) {
            Step::Answer => return look.into_lost(),
            Step::Wait => sleep(LOOK).await,
            Step::Ask(node) => {
                let rest = Duration::from_millis(look.deadline_ms.saturating_sub(now_ms));
                let too_late = async {
                    sleep(rest).await;
                    true
                };
                let is_there = or(broker.witness.is_there(node), too_late).await;
                look.heard(node, is_there);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chronik_wal::types::LeaderEpoch;

    use super::*;

    fn leader(node: i32, epoch: i32) -> Leader {
        Leader { node: NodeId(node), epoch: LeaderEpoch(epoch) }
    }

    #[test]
    fn each_other_leader_is_asked_once_and_this_node_never() {
        let mut look = Look::new(NodeId(1), 0);
        let leaders = [leader(1, 1), leader(2, 1), leader(3, 1), leader(2, 7)];
        assert_eq!(look.step(&leaders, 1), Step::Ask(NodeId(2)));
        look.heard(NodeId(2), true);
        assert_eq!(look.step(&leaders, 1), Step::Ask(NodeId(3)));
        look.heard(NodeId(3), true);
        assert_eq!(look.step(&leaders, 1), Step::Answer);
        assert!(look.into_lost().is_empty());
        assert_eq!(Look::new(NodeId(1), 0).step(&[leader(1, 1)], 0), Step::Answer);
        assert_eq!(Look::new(NodeId(1), 0).step(&[], 0), Step::Answer);
    }

    #[test]
    fn the_successor_of_a_node_that_went_is_waited_for_and_asked_as_well() {
        let mut look = Look::new(NodeId(1), 0);
        assert_eq!(look.step(&[leader(2, 1)], 0), Step::Ask(NodeId(2)));
        look.heard(NodeId(2), false);
        assert_eq!(look.step(&[leader(2, 1)], 1), Step::Wait);
        assert_eq!(look.step(&[leader(3, 2)], 5), Step::Ask(NodeId(3)));
        look.heard(NodeId(3), true);
        assert_eq!(look.step(&[leader(3, 2)], 6), Step::Answer);
        assert_eq!(look.into_lost(), BTreeSet::from([NodeId(2)]));
    }

    #[test]
    fn it_ends_in_time_whatever_comes() {
        let mut look = Look::new(NodeId(1), 100);
        look.heard(NodeId(2), false);
        assert_eq!(look.step(&[leader(2, 1)], 100 + WAIT_MS - 1), Step::Wait);
        assert_eq!(look.step(&[leader(2, 1)], 100 + WAIT_MS), Step::Answer);
        assert_eq!(look.step(&[leader(3, 1)], 100 + WAIT_MS), Step::Answer);
    }
}
