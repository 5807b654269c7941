//! Which replicas are in sync with a partition that is led here (SAFETY.md, rule 14).
//!
//! In sync is a voter that had everything at some moment of the last `replica.lag.time.max.ms`, and whose process is not known
//! to be gone. The set is kept with the partition, so that a produce request costs no walk over Raft's trackers, and
//! looked at again when something may have changed it: entries were applied and somebody lags, a link came or
//! went, leadership began. A group at rest is not looked at: its followers have everything, and a link that
//! breaks is told. Shard 0 hears of each change with the leaders.
//!
//! What is acknowledged never rests on this set but on what followers hold; it decides only what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_raft::driver::MemberProgress;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, NodeId, PeerId, RaftIndex};

use super::message::LeaderEvent;
use super::{Shard, Timer};

/// Groups in which somebody lags are looked at this often.
const LOOK_EVERY_MS: u64 = 100;

/// A follower as its leader sees it over time.
#[derive(Clone, Copy, Debug, Default)]
struct Follower {
    /// The last time at which it is known to have had everything.
    caught_up_ms: Option<u64>,
    /// The end of the log when it was last looked at, and when that was.
    seen_end: RaftIndex,
    seen_ms: u64,
}

impl Follower {
    fn look(&mut self, matched: RaftIndex, end: RaftIndex, now_ms: u64) {
        if matched >= end {
            self.caught_up_ms = Some(now_ms);
        } else if self.seen_end > RaftIndex(0) && matched >= self.seen_end {
            // It has by now all that there was then.
            self.caught_up_ms = self.caught_up_ms.max(Some(self.seen_ms));
        }
        (self.seen_end, self.seen_ms) = (end, now_ms);
    }
}

/// The replicas in sync with one partition, as its leader knows; empty where this replica does not lead.
#[derive(Debug, Default)]
pub struct InSync {
    followers: BTreeMap<PeerId, Follower>,
    nodes: Arc<[NodeId]>,
}

impl InSync {
    /// The nodes, in the order of the placement.
    #[must_use]
    pub fn nodes(&self) -> &Arc<[NodeId]> {
        &self.nodes
    }

    /// How many there are, the leader included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }
}

/// The groups that are looked at again.
#[derive(Debug, Default)]
pub struct Watch {
    groups: BTreeSet<GroupId>,
    is_timed: bool,
}

impl Shard {
    /// This replica leads from now on: those that can be reached are believed to be in sync until they prove not to be.
    pub(crate) fn in_sync_begins(&mut self, group: GroupId) {
        let members = self.driver.progress(group);
        let now_ms = self.now.mono_ms;
        let reached = |peer: PeerId| self.reachable(group, peer).map(|_| now_ms);
        let follower = |member: &MemberProgress| {
            (member.peer, Follower { caught_up_ms: reached(member.peer), ..Follower::default() })
        };
        let followers = members.iter().map(follower).collect();
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        partition.in_sync = InSync { followers, nodes: Arc::default() };
        self.refresh_in_sync(group);
    }

    /// This replica does not lead any more.
    pub(crate) fn in_sync_ends(&mut self, group: GroupId) {
        self.in_sync.groups.remove(&group);
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.in_sync = InSync::default();
        }
    }

    /// Something happened to a group that may leave somebody behind.
    pub(crate) fn watch_in_sync(&mut self, group: GroupId) {
        let has_followers =
            self.partitions.get(&group).is_some_and(|p| p.in_sync.count() > 0 && p.members.len() > 1);
        if has_followers {
            self.in_sync.groups.insert(group);
            self.time_in_sync();
        }
    }

    fn time_in_sync(&mut self) {
        if !std::mem::replace(&mut self.in_sync.is_timed, true) {
            self.set_timer(self.now.mono_ms + LOOK_EVERY_MS, Timer::InSync);
        }
    }

    /// It is time to look at those that are watched.
    pub(crate) fn in_sync_due(&mut self) {
        self.in_sync.is_timed = false;
        for group in std::mem::take(&mut self.in_sync.groups) {
            self.refresh_in_sync(group);
        }
    }

    /// A node's process is gone for certain: its replicas are out of sync until they have caught up again.
    pub(crate) fn out_of_sync(&mut self, group: GroupId, peer: PeerId) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        if let Some(follower) = partition.in_sync.followers.get_mut(&peer) {
            *follower = Follower::default();
            self.refresh_in_sync(group);
        }
    }

    /// Looks at a group anew, tells shard 0 when its set has changed, and goes on watching it while somebody lags.
    pub(crate) fn refresh_in_sync(&mut self, group: GroupId) {
        let Some(Leadership::Leader { .. }) = self.driver.leadership(group) else { return };
        let members = self.driver.progress(group);
        let end = self.driver.last_index(group).unwrap_or_default();
        let lag_ms = u64::try_from(self.config.replica_lag_time_max_ms).unwrap_or(0);
        let (now_ms, own) = (self.now.mono_ms, self.node);
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        let nodes_up = &self.nodes_up;
        let placed = &partition.members;
        let node_of = |peer| placed.iter().find(|member| member.peer == peer).map(|member| member.node);
        let in_sync = &mut partition.in_sync;
        in_sync.followers.retain(|peer, _| members.iter().any(|member| member.peer == *peer));
        let mut lags = false;
        let mut peers = BTreeSet::new();
        for member in &members {
            let node = node_of(member.peer);
            let follower = in_sync.followers.entry(member.peer).or_default();
            let is_reached = node.is_some_and(|node| node == own || nodes_up.contains(&node));
            if is_reached {
                follower.look(member.matched, end, now_ms);
            }
            let is_recent = follower.caught_up_ms.is_some_and(|at_ms| now_ms - at_ms <= lag_ms);
            // While its link is down only time changes anything, and that only once.
            lags |= node != Some(own) && if is_reached { member.matched < end } else { is_recent };
            if member.is_voter && (is_recent || node == Some(own)) {
                peers.insert(member.peer);
            }
        }
        let nodes = placed.iter().filter(|member| peers.contains(&member.peer)).map(|member| member.node);
        let nodes: Arc<[NodeId]> = nodes.collect();
        let has_changed = nodes != in_sync.nodes;
        in_sync.nodes = nodes;
        if has_changed {
            self.tell_in_sync(group);
            self.progressed.insert(group);
        }
        if lags {
            self.watch_in_sync(group);
        }
    }

    fn tell_in_sync(&mut self, group: GroupId) {
        let (Some(partition), Some(Leadership::Leader { term })) =
            (self.partitions.get(&group), self.driver.leadership(group))
        else {
            return;
        };
        if group == GroupId::METADATA {
            return;
        }
        self.leader_events.push(LeaderEvent {
            topic_id: partition.name.topic_id,
            partition: partition.name.index,
            term,
            leader: self.node,
            in_sync: Some(partition.in_sync.nodes.clone()),
        });
    }
}
