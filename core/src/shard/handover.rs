//! Leadership given away on purpose: at a clean stop, to the preferred replica now and then, and when somebody asks for it.
//!
//! A transfer goes to a voter in sync whose node can be reached: Raft lets it catch up, tells it to stand, and takes no
//! proposals meanwhile (`hold.rs` holds them back). One that comes to nothing ends with an election timeout.
//!
//! ```text
//! stop:     every group that is led here, a bounded number at a time, the metadata group last ─▶ drain (housekeeping.rs)
//! balance:  every leader.imbalance.check.interval.seconds: groups whose first replica is another, a few a second
//! ```
//! Groups of one voter are led on to the end.

use std::collections::{BTreeMap, BTreeSet};

use chronik_net::codec::ErrorCode;
use chronik_raft::error::ProposeError;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, NodeId, PeerId};

use super::message::{Call, Reply};
use super::{Shard, Timer};

/// Transfers under way at once while the node stops: each ends within a few round trips and turns of the disk.
const TRANSFERS_MAX: usize = 128;

/// A stop waits so long for others to take over, at most.
const STOP_MS: u64 = 2_000;

/// While it waits it looks this often.
const STOP_LOOK_MS: u64 = 5;

/// Leaderships that balance gives away in one go, and how often it does.
const BALANCE_MAX: usize = 4;
const BALANCE_EVERY_MS: u64 = 1_000;

/// Balance leaves a leader in office so long, and takes a node for stable that has been up so long.
const SETTLED_MS: u64 = 5_000;

/// Somebody who asked for a transfer is told after this long that nothing has come of it: two election timeouts.
const ASKED_MS: u64 = 1_200;

/// A transfer that somebody asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    call: Call,
    group: GroupId,
    to: PeerId,
    deadline_ms: u64,
}

/// What is being handed over.
#[derive(Debug, Default)]
pub struct Handover {
    /// Since when the nodes that are up have been.
    up_since_ms: BTreeMap<NodeId, u64>,
    /// Since when groups are led here.
    led_since_ms: BTreeMap<GroupId, u64>,
    /// Groups that this round of balance still looks at.
    to_balance: BTreeSet<GroupId>,
    next_round_ms: u64,
    asked: Vec<Asked>,
    /// The end of a stop's patience.
    stop_deadline_ms: u64,
}

impl Shard {
    pub(crate) fn handover_node(&mut self, node: NodeId, up: bool) {
        match up {
            true => drop(self.handover.up_since_ms.insert(node, self.now.mono_ms)),
            false => drop(self.handover.up_since_ms.remove(&node)),
        }
    }

    /// A group's leadership has changed.
    pub(crate) fn handover_changed(&mut self, group: GroupId, leadership: Leadership) {
        match leadership {
            Leadership::Leader { .. } => drop(self.handover.led_since_ms.insert(group, self.now.mono_ms)),
            _ => drop(self.handover.led_since_ms.remove(&group)),
        }
        if let Leadership::Follower { leader, .. } = leadership {
            let (done, rest) = std::mem::take(&mut self.handover.asked)
                .into_iter()
                .partition::<Vec<_>, _>(|asked| asked.group == group);
            self.handover.asked = rest;
            for asked in done {
                let result = if asked.to == leader { Ok(()) } else { Err(ErrorCode::NotLeaderOrFollower) };
                self.reply(asked.call, Reply::Transferred(result));
            }
        }
    }

    // --- on request

    /// Hands a group's leadership to a node, or to its preferred replica. Answered when it leads.
    pub(crate) fn transfer_asked(&mut self, call: Call, group: GroupId, to: Option<NodeId>) {
        match self.begin_asked(group, to) {
            Ok(to) => {
                let deadline_ms = self.now.mono_ms + ASKED_MS;
                self.handover.asked.push(Asked { call, group, to, deadline_ms });
                self.set_timer(deadline_ms, Timer::Handover);
            }
            Err(code) => self.reply(call, Reply::Transferred(Err(code))),
        }
    }

    fn begin_asked(&mut self, group: GroupId, to: Option<NodeId>) -> Result<PeerId, ErrorCode> {
        self.leading(group).map_err(|outcome| outcome.error)?;
        if self.pending_count() >= self.limits.pending_max {
            return Err(ErrorCode::PreferredLeaderNotAvailable);
        }
        let node = to.or_else(|| self.preferred(group)).ok_or(ErrorCode::PreferredLeaderNotAvailable)?;
        if node == self.node {
            return Err(ErrorCode::ElectionNotNeeded);
        }
        let heir = self.heirs(group).into_iter().find(|(heir, _)| *heir == node);
        let (_, peer) = heir.ok_or(ErrorCode::PreferredLeaderNotAvailable)?;
        let is_under_way = self.driver.transfer_leader(group, peer);
        is_under_way.then_some(peer).ok_or(ErrorCode::PreferredLeaderNotAvailable)
    }

    /// The replica that placement names first, of those that stay.
    fn preferred(&self, group: GroupId) -> Option<NodeId> {
        self.placement(group)?.target().first().map(|replica| replica.node)
    }

    /// The other replicas that could lead: voters in sync whose nodes are up, the one with the most first.
    fn heirs(&self, group: GroupId) -> Vec<(NodeId, PeerId)> {
        let Some(partition) = self.partitions.get(&group) else { return Vec::new() };
        let in_sync = partition.in_sync.nodes();
        let may =
            |node: NodeId| node != self.node && in_sync.contains(&node) && self.nodes_up.contains(&node);
        let voters = self.driver.progress(group).into_iter().filter(|member| member.is_voter);
        let mut heirs: Vec<_> = voters
            .filter_map(|member| {
                let place = partition.members.iter().position(|placed| placed.peer == member.peer)?;
                let node = partition.members[place].node;
                may(node).then_some((std::cmp::Reverse(member.matched), place, node, member.peer))
            })
            .collect();
        heirs.sort_unstable();
        heirs.into_iter().map(|(_, _, node, peer)| (node, peer)).collect()
    }

    /// Tells those who asked in vain.
    pub(crate) fn handover_due(&mut self) {
        let now_ms = self.now.mono_ms;
        let (late, rest) = std::mem::take(&mut self.handover.asked)
            .into_iter()
            .partition::<Vec<_>, _>(|asked| asked.deadline_ms <= now_ms);
        self.handover.asked = rest;
        for asked in late {
            self.reply(asked.call, Reply::Transferred(Err(ErrorCode::PreferredLeaderNotAvailable)));
        }
    }

    // --- at a stop

    /// Begins to hand over everything. False when there is nothing to hand over.
    pub(crate) fn begin_stop_handover(&mut self) -> bool {
        self.handover.stop_deadline_ms = self.now.mono_ms + STOP_MS;
        !self.led_with_others().is_empty()
    }

    /// Groups that are led here, or about to be, and that others could lead.
    fn led_with_others(&self) -> Vec<GroupId> {
        let leads = |group: &GroupId| {
            let leadership = self.driver.leadership(*group);
            matches!(leadership, Some(Leadership::Leader { .. } | Leadership::Elected { .. }))
        };
        let has_others = |group: &GroupId| {
            let configuration = self.driver.configuration(*group);
            configuration.is_some_and(|configuration| configuration.voters.len() > 1)
        };
        self.partitions.keys().copied().filter(|group| leads(group) && has_others(group)).collect()
    }

    /// Hands over more. True when nothing is left, or patience is at its end.
    pub(crate) fn proceed_stop_handover(&mut self) -> bool {
        let mut led = self.led_with_others();
        if led.is_empty() || self.now.mono_ms >= self.handover.stop_deadline_ms {
            if !led.is_empty() {
                tracing::warn!(
                    groups = led.len(),
                    "nobody has taken over these groups; this node stops all the same"
                );
            }
            return true;
        }
        // The others need the metadata group to tell each other who leads.
        if led.len() > 1 {
            led.retain(|group| *group != GroupId::METADATA);
        }
        let (under_way, rest): (Vec<_>, Vec<_>) = led
            .into_iter()
            .partition(|group| matches!(self.driver.may_propose(*group, 0), Err(ProposeError::Transferring)));
        for group in rest.into_iter().take(TRANSFERS_MAX.saturating_sub(under_way.len())) {
            if let Some((_, heir)) = self.heirs(group).first().copied() {
                self.driver.transfer_leader(group, heir);
            }
        }
        self.set_timer(self.now.mono_ms + STOP_LOOK_MS, Timer::Handover);
        false
    }

    // --- balance

    /// Gives a few leaderships back to the replicas that placement prefers.
    pub(crate) fn balance(&mut self) {
        let now_ms = self.now.mono_ms;
        self.set_timer(now_ms + BALANCE_EVERY_MS, Timer::Balance);
        if !self.config.auto_leader_rebalance_enable || self.nodes_up.is_empty() {
            return;
        }
        if now_ms >= self.handover.next_round_ms {
            let every_s = u64::try_from(self.config.leader_imbalance_check_interval_seconds).unwrap_or(1);
            self.handover.next_round_ms = now_ms + every_s.saturating_mul(1_000);
            self.handover.to_balance = self.handover.led_since_ms.keys().copied().collect();
        }
        let mut given = 0;
        while given < BALANCE_MAX {
            let Some(group) = self.handover.to_balance.pop_first() else { return };
            given += usize::from(self.give_back(group));
        }
    }

    fn give_back(&mut self, group: GroupId) -> bool {
        let since = |at_ms: Option<&u64>| at_ms.map_or(0, |at_ms| self.now.mono_ms - at_ms);
        let Some(node) = self.preferred(group).filter(|node| *node != self.node) else { return false };
        let is_settled = since(self.handover.up_since_ms.get(&node)) >= SETTLED_MS
            && since(self.handover.led_since_ms.get(&group)) >= SETTLED_MS;
        let Some((_, peer)) = self.heirs(group).into_iter().find(|(heir, _)| is_settled && *heir == node)
        else {
            return false;
        };
        tracing::debug!(group = group.0, to = node.0, "the preferred leader takes over");
        self.driver.transfer_leader(group, peer)
    }
}
