//! Leaders that a client wants changed (ElectLeaders), on shard 0 of the node that it asked.
//!
//! Whoever leads a partition is asked to hand it over: a shard of this node, or shard 0 of another one, which passes the
//! word on. Nobody answers that; what counts is what the snapshot says. While it does not say so, the leader of the
//! moment is asked again, until the client's time is up.
//!
//! Invariants: the number outstanding is bounded; each ends by its deadline.

use std::collections::BTreeMap;

use chronik_wal::identity::shard_of;
use chronik_wal::types::{GroupId, NodeId};
use uuid::Uuid;

use super::message::{Call, PeerMessage, PeerOut, Reply, Request};
use super::{Event, Shard, Timer};
use crate::metadata::forward::{Ask, encode_ask};
use crate::metadata::snapshot::Snapshot;

/// Requests outstanding on a node; more are answered as if nothing had come of them.
const ELECTIONS_MAX: usize = 1_000;

/// How long a leader has before it, or the next one, is asked again: a transfer that fails ends with an election timeout.
const ASK_AGAIN_MS: u64 = 1_500;

/// A leader that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Election {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// Its group.
    pub group: GroupId,
    /// Who is to lead it.
    pub to: NodeId,
}

#[derive(Debug)]
struct Pending {
    call: Call,
    /// Those still to come.
    left: Vec<Election>,
    deadline_ms: u64,
}

/// The elections that clients wait for.
#[derive(Debug, Default)]
pub struct Elections {
    pending: BTreeMap<u64, Pending>,
}

impl Shard {
    /// A client wants these leaders. Answered when they lead, with those that do not when the time is up.
    pub(crate) fn elect(&mut self, call: Call, elections: Vec<Election>, timeout_ms: u32) {
        if self.controller.is_none() {
            return self.reply(call, Reply::Unavailable);
        }
        if self.elections.pending.len() >= ELECTIONS_MAX {
            return self.reply(call, Reply::Elected(elections));
        }
        let number = self.number();
        let deadline_ms = self.now.mono_ms + u64::from(timeout_ms);
        self.elections.pending.insert(number, Pending { call, left: elections, deadline_ms });
        self.proceed_election(number);
    }

    /// A snapshot has been published: some may lead by now.
    pub(crate) fn look_at_elections(&mut self) {
        let Some(host) = &self.controller else { return };
        let snapshot = host.builder.current();
        let mut done = Vec::new();
        for (number, pending) in &mut self.elections.pending {
            pending.left.retain(|election| !has_come(snapshot, election));
            if pending.left.is_empty() {
                done.push(*number);
            }
        }
        done.into_iter().for_each(|number| self.end_election(number));
    }

    /// Asks the leaders of the moment, or ends it.
    pub(crate) fn proceed_election(&mut self, number: u64) {
        self.look_at_elections();
        let now_ms = self.now.mono_ms;
        let Some(pending) = self.elections.pending.get(&number) else { return };
        if pending.deadline_ms <= now_ms {
            return self.end_election(number);
        }
        let (left, deadline_ms) = (pending.left.clone(), pending.deadline_ms);
        self.ask_leaders(&left);
        self.set_timer(deadline_ms.min(now_ms + ASK_AGAIN_MS), Timer::Election(number));
    }

    fn end_election(&mut self, number: u64) {
        if let Some(Pending { call, left, .. }) = self.elections.pending.remove(&number) {
            self.reply(call, Reply::Elected(left));
        }
    }

    fn ask_leaders(&mut self, elections: &[Election]) {
        let Some(host) = &self.controller else { return };
        let mut by_leader: BTreeMap<NodeId, Vec<(GroupId, NodeId)>> = BTreeMap::new();
        for election in elections {
            let view = host.builder.current().partition(&election.topic_id, election.partition);
            if let Some(leader) = view.and_then(|view| view.leader) {
                by_leader.entry(leader.node).or_default().push((election.group, election.to));
            }
        }
        for (leader, transfers) in by_leader {
            if leader == self.node {
                self.pass_on_transfers(&transfers);
            } else if self.nodes_up.contains(&leader) {
                let id = self.number();
                let body = encode_ask(&Ask::Transfer { transfers });
                self.out.peer.push(PeerOut { node: leader, message: PeerMessage::Ask { id, body } });
            }
        }
    }

    /// Has this node's shards hand over these groups. Those that do not lead them, or cannot, let it be.
    pub(crate) fn pass_on_transfers(&mut self, transfers: &[(GroupId, NodeId)]) {
        for (group, to) in transfers {
            // Number 0: nobody waits for the answer.
            let call = Call { origin: self.id, id: 0 };
            let owner = shard_of(*group, self.shard_count);
            if owner == self.id {
                self.transfer_asked(call, *group, Some(*to));
            } else {
                let request = Request::TransferLeader { group: *group, to: Some(*to) };
                self.out.messages.push((owner, Event::Request { call, request }));
            }
        }
    }
}

/// Whether the wanted one leads, or there is nothing left to lead.
fn has_come(snapshot: &Snapshot, election: &Election) -> bool {
    let view = snapshot.partition(&election.topic_id, election.partition);
    view.is_none_or(|view| view.leader.is_some_and(|leader| leader.node == election.to))
}
