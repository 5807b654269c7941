//! Requests for the metadata leader, from wherever they came in: planned here if this node leads, else sent to the node that
//! does, and again to the next one when leadership moves or a link breaks, until there is an answer or the time is up.
//!
//! ```text
//! submit ─▶ Waiting ──(this node leads)──▶ Planned ─▶ answer
//!              ▲  └──(another one does)──▶ Sent ─▶ Answered: once this node has applied as much of the metadata log
//!              └── leadership or link lost, no answer for a while ──┘
//! ```
//! Every request carries an id, so that one that was carried out already is not carried out twice (SAFETY.md, rule 21).
//! Shard 0 only. Invariants: a node never sends to itself; the number outstanding is bounded; each ends by its deadline.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, NodeId, RaftIndex, ShardId};
use kafka_protocol::ResponseError;
use uuid::Uuid;

use super::controller::{AdminReply, AdminRequest};
use super::message::{Call, PeerMessage, PeerOut, Reply, Request};
use super::{Event, Shard, Timer};
use crate::metadata::command::RequestId;
use crate::metadata::forward::{Answer, Ask, decode_answer, encode_answer, encode_ask};

/// Requests outstanding on a node; more are answered as unavailable.
const FORWARDS_MAX: usize = 10_000;

/// Without an answer for so long the request is sent again: an answer may be lost with its link.
const RESEND_MS: u64 = 2_000;

/// A request that is not the leader's to answer yet is tried again after this.
const RETRY_MS: u64 = 50;

/// How long a request of a shard of this node may take; it asks again.
const OWN_REQUEST_MS: u32 = 5_000;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A connection of this node, or nobody where its id is 0.
    Client(Call),
    /// This node needs producer ids.
    ProducerIds,
    /// This node registers.
    Registration,
}

#[derive(Debug)]
enum Stage {
    /// Nobody has it.
    Waiting,
    /// The controller of this node has it.
    Planned,
    /// This node has it. The question has the same number each time: whichever answer comes first counts, and who is asked twice
    /// knows it.
    Sent { to: NodeId, at_ms: u64 },
    /// Here is the answer, for when this node has applied so much.
    Answered { index: RaftIndex, reply: AdminReply },
}

#[derive(Debug)]
struct Forward {
    asker: Asker,
    request: Box<AdminRequest>,
    deadline_ms: u64,
    stage: Stage,
}

/// The requests outstanding.
#[derive(Debug, Default)]
pub struct Forwards {
    by_sequence: BTreeMap<u64, Forward>,
    sequence: u64,
    incarnation: u64,
    /// Whom to ask while Raft does not say.
    hint: Option<NodeId>,
}

impl Forwards {
    /// None outstanding, on a node of this incarnation.
    #[must_use]
    pub fn new(incarnation: Uuid) -> Self {
        let (_, low) = incarnation.as_u64_pair();
        Self { incarnation: low, ..Self::default() }
    }

    /// Whether nothing is outstanding.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_sequence.is_empty()
    }

    /// Somebody says that this node leads the metadata group.
    pub(crate) fn set_hint(&mut self, leader: Option<NodeId>) {
        self.hint = leader;
    }

    /// The number of the question that a request goes out as: not that of one from before a restart.
    fn ask_number(&self, sequence: u64) -> u64 {
        self.incarnation.wrapping_add(sequence)
    }

    /// The request that went out under this number and has no answer yet.
    fn asked_as(&mut self, number: u64) -> Option<&mut Forward> {
        let forward = self.by_sequence.get_mut(&number.wrapping_sub(self.incarnation))?;
        matches!(forward.stage, Stage::Sent { .. } | Stage::Waiting).then_some(forward)
    }
}

impl Shard {
    /// A client of this node asks for a change of metadata.
    pub(crate) fn admin_request(&mut self, call: Call, request: AdminRequest, timeout_ms: u32) {
        if self.controller.is_none() {
            return self.reply(call, Reply::Unavailable);
        }
        self.submit(Asker::Client(call), request, timeout_ms);
    }

    /// A shard of this node asks for a change of metadata; whether it comes shows in the metadata.
    pub(crate) fn ask_controller(&mut self, request: AdminRequest) {
        let call = Call { origin: self.id, id: 0 };
        if self.controller.is_some() {
            return self.submit(Asker::Client(call), request, OWN_REQUEST_MS);
        }
        let request = Request::Admin { request: Box::new(request), timeout_ms: OWN_REQUEST_MS };
        self.out.messages.push((ShardId(0), Event::Request { call, request }));
    }

    /// Takes a request on its way to the metadata leader.
    pub(crate) fn submit(&mut self, asker: Asker, request: AdminRequest, timeout_ms: u32) {
        let deadline_ms = self.now.mono_ms + u64::from(timeout_ms);
        let Some(host) = &mut self.controller else { return };
        if host.forwards.by_sequence.len() >= FORWARDS_MAX {
            let why = "too many changes of the metadata are waiting on this node".to_owned();
            return self.tell_asker(asker, AdminReply::Refused(ResponseError::NotController, why));
        }
        host.forwards.sequence += 1;
        let sequence = host.forwards.sequence;
        let forward = Forward { asker, request: Box::new(request), deadline_ms, stage: Stage::Waiting };
        host.forwards.by_sequence.insert(sequence, forward);
        self.set_timer(deadline_ms, Timer::Forward(sequence));
        self.proceed(sequence);
    }

    /// Has a waiting request planned, or sends it to the leader.
    fn proceed(&mut self, sequence: u64) {
        let (now_ms, too_many) = (self.now.mono_ms, self.has_too_many_plans());
        let leader = self.metadata_leader();
        let Some(host) = &mut self.controller else { return };
        let leads = host.leads();
        let id = RequestId { node: self.node, incarnation: host.forwards.incarnation, sequence };
        let number = host.forwards.ask_number(sequence);
        let Some(forward) = host.forwards.by_sequence.get_mut(&sequence) else { return };
        let timeout_ms = u32::try_from(forward.deadline_ms.saturating_sub(now_ms)).unwrap_or(u32::MAX);
        if leads && !too_many {
            forward.stage = Stage::Planned;
            let request = forward.request.clone();
            return self.plan_request(super::controller::PlanAsker::Own(sequence), id, &request, timeout_ms);
        }
        let reachable = leader.filter(|leader| self.nodes_up.contains(leader));
        let Some(to) = reachable.filter(|_| !leads) else { return self.tend_within(RETRY_MS) };
        forward.stage = Stage::Sent { to, at_ms: now_ms };
        let body = encode_ask(&Ask::Request { id, timeout_ms, request: (*forward.request).clone() });
        self.out.peer.push(PeerOut { node: to, message: PeerMessage::Ask { id: number, body } });
        self.tend_within(RESEND_MS);
    }

    /// The other node that leads the metadata group, as far as this one knows.
    pub(crate) fn metadata_leader(&self) -> Option<NodeId> {
        let group = GroupId::METADATA;
        let hint = || self.controller.as_ref().and_then(|host| host.forwards.hint);
        let leader = match self.driver.leadership(group) {
            Some(Leadership::Follower { leader, .. }) => self.node_of(group, leader),
            Some(Leadership::Leader { .. } | Leadership::Elected { .. }) => None,
            Some(Leadership::Unknown { .. }) | None => hint(),
        };
        leader.filter(|leader| *leader != self.node)
    }

    /// What waits may go on; what was sent to a node that cannot be reached, or long ago, goes again.
    pub(crate) fn proceed_all(&mut self) {
        let (now_ms, leader) = (self.now.mono_ms, self.metadata_leader());
        let Some(host) = &mut self.controller else { return };
        let leads = host.leads();
        let mut due = Vec::new();
        for (sequence, forward) in &mut host.forwards.by_sequence {
            let stale = match &forward.stage {
                Stage::Waiting => true,
                Stage::Sent { to, at_ms } => {
                    let is_elsewhere = leads || leader.is_some_and(|leader| leader != *to);
                    is_elsewhere || at_ms + RESEND_MS <= now_ms || !self.nodes_up.contains(to)
                }
                Stage::Planned | Stage::Answered { .. } => false,
            };
            if stale {
                forward.stage = Stage::Waiting;
                due.push(*sequence);
            }
        }
        due.into_iter().for_each(|sequence| self.proceed(sequence));
    }

    /// This node does not lead any more: the next leader is to be asked.
    pub(crate) fn forward_again(&mut self, sequence: u64) {
        let Some(host) = &mut self.controller else { return };
        if let Some(forward) = host.forwards.by_sequence.get_mut(&sequence) {
            forward.stage = Stage::Waiting;
            self.tend_within(0);
        }
    }

    /// Another node has answered.
    pub(crate) fn answered(&mut self, from: NodeId, number: u64, body: &Bytes) {
        let answer = match decode_answer(body) {
            Ok(answer) => answer,
            Err(error) => return tracing::warn!(node = from.0, %error, "an answer cannot be read"),
        };
        match answer {
            Answer::Hello(hello) => self.hello_heard(from, hello),
            Answer::Done { index, reply } => {
                let Some(host) = &mut self.controller else { return };
                let Some(forward) = host.forwards.asked_as(number) else { return };
                forward.stage = Stage::Answered { index, reply };
                self.forwards_applied();
            }
            Answer::NotController { leader } => {
                let Some(host) = &mut self.controller else { return };
                let Some(forward) = host.forwards.asked_as(number) else { return };
                if !matches!(forward.stage, Stage::Sent { to, .. } if to == from) {
                    return;
                }
                forward.stage = Stage::Waiting;
                host.forwards.hint = leader;
                // At once it would ask the same node again, before either has heard of the new leader.
                self.tend_within(RETRY_MS);
            }
        }
    }

    /// Hands out the answers for which this node has published enough of the metadata log.
    pub(crate) fn forwards_applied(&mut self) {
        let joins = !self.driver.contains(GroupId::METADATA);
        let Some(host) = &mut self.controller else { return };
        let readable = host.readable();
        let is_due = |(sequence, forward): (&u64, &Forward)| match &forward.stage {
            Stage::Answered { index, .. } if joins || *index <= readable => Some(*sequence),
            _ => None,
        };
        let due: Vec<u64> = host.forwards.by_sequence.iter().filter_map(is_due).collect();
        for sequence in due {
            self.end_forward(sequence, None);
        }
    }

    /// The controller of this node has answered.
    pub(crate) fn forward_done(&mut self, sequence: u64, reply: AdminReply) {
        self.end_forward(sequence, Some(reply));
    }

    /// The asker's time is up.
    pub(crate) fn forward_timed_out(&mut self, sequence: u64) {
        let why = "the metadata leader has not answered in time".to_owned();
        self.end_forward(sequence, Some(AdminReply::Refused(ResponseError::RequestTimedOut, why)));
    }

    /// Ends a request with the answer that has come for it, else with this one.
    fn end_forward(&mut self, sequence: u64, reply: Option<AdminReply>) {
        let Some(host) = &mut self.controller else { return };
        let Some(forward) = host.forwards.by_sequence.remove(&sequence) else { return };
        self.timers.remove(&(forward.deadline_ms, Timer::Forward(sequence)));
        let answered = match forward.stage {
            Stage::Answered { reply, .. } => Some(reply),
            Stage::Waiting | Stage::Planned | Stage::Sent { .. } => None,
        };
        if let Some(reply) = answered.or(reply) {
            self.tell_asker(forward.asker, reply);
        }
    }

    fn tell_asker(&mut self, asker: Asker, reply: AdminReply) {
        match asker {
            Asker::Client(Call { id: 0, .. }) => {}
            Asker::Client(call) => self.reply(call, Reply::Admin(Box::new(reply))),
            Asker::ProducerIds => self.producer_ids_asked(),
            Asker::Registration => self.registration_answered(&reply),
        }
    }

    /// Answers a question of another node.
    pub(crate) fn answer_node(&mut self, node: NodeId, ask: u64, answer: &Answer) {
        self.send_answer(node, ask, encode_answer(answer));
    }

    /// As [`Self::answer_node`], with the answer's bytes.
    pub(crate) fn send_answer(&mut self, node: NodeId, ask: u64, body: Bytes) {
        self.out.peer.push(PeerOut { node, message: PeerMessage::Answer { id: ask, body } });
    }
}
