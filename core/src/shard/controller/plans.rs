//! Plans on their way through the metadata log: proposed in order, each as one batch; answered once.
//!
//! While the WAL has no room, or leadership of the group is handed over, plans wait in the order in which they were made:
//! each rests on those before. When leadership is lost, those that are not applied come to nothing here, and whoever
//! asked asks the next leader.

use chronik_raft::driver::Proposal;
use chronik_raft::error::ProposeError;
use chronik_raft::leadership::Leadership;
use chronik_wal::batch;
use chronik_wal::entry::EntryKind;
use chronik_wal::records::BatchBuilder;
use chronik_wal::types::{GroupId, NodeId, TurnNumber};
use kafka_protocol::ResponseError;
use uuid::Uuid;

use super::AdminReply;
use crate::metadata::command::{self, Command};
use crate::metadata::controller::{Plan, is_ready};
use crate::metadata::forward::{Answer, encode_answer};
use crate::partition::{Waiter, Waiting};
use crate::shard::{Shard, Timer};

/// Plans that may be on their way; more are answered as if this node did not lead, and asked again.
pub(super) const PLANS_MAX: usize = 10_000;

/// How long an answer waits for leaders of what is made already. Kafka waits for none; a client that writes to a new topic at once is
/// spared a retry, but a topic whose replicas are away has no leader for as long as they are.
const LEADERS_WAIT_MS: u64 = 1_000;

/// How soon plans that could not be proposed are tried again.
const RETRY_MS: u64 = 20;

/// Whom a plan's answer goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum PlanAsker {
    /// This node's own doing.
    Nobody,
    /// A request that came in on this node, by its sequence number.
    Own(u64),
    /// A question of another node, by its number there.
    Node { node: NodeId, ask: u64 },
}

/// A plan on its way through the log.
pub(super) struct PendingPlan {
    pub(super) asker: PlanAsker,
    /// Until they are proposed.
    commands: Vec<Command>,
    /// It never had any.
    changes_nothing: bool,
    reply: AdminReply,
    /// Topics that may have no leaders yet.
    awaited: Vec<Uuid>,
    /// It is published, and waits for leaders alone.
    awaits_leaders: bool,
    pub(super) applied: bool,
    /// The newest plan before it that was on its way: what an answer without commands says rests on plans that may still be lost.
    rests_on: Option<u64>,
    /// Its answer says what this node knew when its quorum had not been heard for long: a newer leader may know better.
    is_unsure: bool,
    /// The snapshot with it in is published once this turn is durable; none while there is no such snapshot.
    pub(super) published_with: Option<TurnNumber>,
    deadline_ms: u64,
}

impl PendingPlan {
    /// Whether its answer rests on what may be lost, or was overtaken.
    fn may_be_wrong(&self) -> bool {
        self.is_unsure || self.rests_on.is_some()
    }

    /// Whether another node waits for it.
    pub(super) fn is_for_node(&self) -> bool {
        matches!(self.asker, PlanAsker::Node { .. })
    }
}

impl Shard {
    /// Proposes a plan's commands, or answers at once when there are none.
    pub(super) fn carry_plan(&mut self, asker: PlanAsker, plan: Plan<AdminReply>, timeout_ms: u32) {
        let number = self.number();
        let deadline_ms = self.now.mono_ms + u64::from(timeout_ms);
        let applied = plan.commands.is_empty();
        // Who leads the quorum is told even by one that may not lead it any more.
        let asks_who_leads = matches!(plan.response, AdminReply::DescribeQuorum(_));
        let is_unsure = applied && !asks_who_leads && self.lacks_contact(GroupId::METADATA);
        if is_unsure {
            self.driver.ask_quorum(GroupId::METADATA);
        }
        let Some(host) = &mut self.controller else { return };
        // What it rests on may be applied and not published yet: a request carried out already, by an earlier leader.
        let published = host.published_with();
        let rests_on = host.plans.iter().rev().find(|(_, before)| !before.applied).map(|(before, _)| *before);
        let pending = PendingPlan {
            asker,
            commands: plan.commands,
            changes_nothing: applied,
            reply: plan.response,
            awaited: plan.awaited,
            awaits_leaders: false,
            applied,
            rests_on: rests_on.filter(|_| applied),
            is_unsure,
            published_with: published.filter(|_| applied),
            deadline_ms,
        };
        host.plans.insert(number, pending);
        if !applied {
            host.unproposed.push_back(number);
        }
        self.set_timer(deadline_ms, Timer::Plan(number));
        self.propose_plans();
        self.finish_plan(number);
    }

    /// Whether so many plans are on their way that no more are taken.
    pub(in crate::shard) fn has_too_many_plans(&self) -> bool {
        self.controller.as_ref().is_some_and(|host| host.plans.len() >= PLANS_MAX)
    }

    /// Proposes what waits, in order, as far as there is room.
    pub(super) fn propose_plans(&mut self) {
        while let Some(host) = &mut self.controller
            && let Some(number) = host.unproposed.front().copied()
        {
            let Some(plan) = host.plans.get_mut(&number) else {
                host.unproposed.pop_front();
                continue;
            };
            let commands = std::mem::take(&mut plan.commands);
            let proposed = self.propose_commands(&commands, Waiting::Metadata { plan: number });
            let Some(host) = &mut self.controller else { return };
            if proposed {
                host.unproposed.pop_front();
                continue;
            }
            if let Some(plan) = host.plans.get_mut(&number) {
                plan.commands = commands;
            }
            return self.tend_within(RETRY_MS);
        }
    }

    /// Proposes commands as one batch. False when that cannot be done now.
    fn propose_commands(&mut self, commands: &[Command], who: Waiting) -> bool {
        let group = GroupId::METADATA;
        let Some(Leadership::Leader { term }) = self.driver.leadership(group) else { return false };
        let mut builder = BatchBuilder::new();
        for value in command::encode(commands) {
            builder.push(self.now.wall_ms, None, Some(&value));
        }
        let mut data = match builder.build() {
            Ok(data) => data,
            Err(error) => {
                self.fail(format!("commands of the metadata log that make no batch: {error}"));
                return false;
            }
        };
        if !self.has_room(data.len() as u64) {
            return false;
        }
        let offset = self.driver.log_end_offset(group).unwrap_or_default();
        batch::assign(&mut data, offset, term.leader_epoch());
        let data = data.freeze();
        let size = data.len() as u64;
        match self.driver.propose(group, Proposal { kind: EntryKind::Batch, data }) {
            Ok((index, term)) => {
                self.proposed_bytes += size;
                self.wait_for(group, Waiter { index, term, who });
                true
            }
            // Both pass within an election timeout: a transfer succeeds, and the plans are another leader's, or is given up.
            Err(ProposeError::Full | ProposeError::Transferring) => false,
            Err(error) => {
                tracing::debug!(%error, "a change of the metadata waits");
                false
            }
        }
    }

    /// The entry of a plan is applied, or will never be.
    pub(crate) fn plan_committed(&mut self, number: u64, applied: bool) {
        let Some(host) = &mut self.controller else { return };
        if !applied {
            return self.plan_lost(number);
        }
        if let Some(controller) = &mut host.controller {
            controller.committed(&host.state);
        }
        if let Some(plan) = host.plans.get_mut(&number) {
            plan.applied = true;
        }
    }

    /// This node does not lead any more: what is not proposed never will be, and what rests on others may be wrong.
    pub(super) fn drop_unproposed(&mut self) {
        let Some(host) = &mut self.controller else { return };
        let resting = host.plans.iter().filter(|(_, plan)| plan.may_be_wrong()).map(|(number, _)| *number);
        let resting: Vec<u64> = resting.collect();
        resting.into_iter().for_each(|number| self.plan_lost(number));
        let Some(host) = &mut self.controller else { return };
        for number in std::mem::take(&mut host.unproposed) {
            self.plan_lost(number);
        }
    }

    /// A plan has come to nothing here: whoever asked asks the next leader.
    fn plan_lost(&mut self, number: u64) {
        let Some(host) = &mut self.controller else { return };
        let Some(plan) = host.plans.remove(&number) else { return };
        self.timers.remove(&(plan.deadline_ms, Timer::Plan(number)));
        match plan.asker {
            PlanAsker::Nobody => {}
            PlanAsker::Own(sequence) => self.forward_again(sequence),
            PlanAsker::Node { node, ask } => {
                self.answer_node(node, ask, &Answer::NotController { leader: None });
            }
        }
    }

    /// The quorum of the metadata group was heard: what this node said is as true as if it had been asked now.
    pub(in crate::shard) fn plans_are_sure(&mut self) {
        let Some(host) = &mut self.controller else { return };
        let mut sure = Vec::new();
        for (number, plan) in host.plans.iter_mut().filter(|(_, plan)| plan.is_unsure) {
            plan.is_unsure = false;
            sure.push(*number);
        }
        sure.into_iter().for_each(|number| self.finish_plan(number));
    }

    /// Answers a plan that is applied, published and whose partitions have leaders.
    pub(super) fn finish_plan(&mut self, number: u64) {
        let durable = self.wal.durable_turn();
        let Some(host) = &mut self.controller else { return };
        let Some(plan) = host.plans.get(&number) else { return };
        if let Some(last) = plan.rests_on
            && host.plans.range(..=last).any(|(_, before)| !before.applied)
        {
            return;
        }
        if plan.is_unsure {
            return;
        }
        let published = host.published_with();
        let Some(plan) = host.plans.get_mut(&number) else { return };
        if plan.rests_on.take().is_some() {
            // What it rests on is applied now.
            plan.published_with = published;
        }
        if !plan.applied || plan.published_with.is_none_or(|turn| turn > durable) {
            return;
        }
        // A leader that is known once is known for good: each topic is looked at until then.
        let snapshot = host.builder.current();
        while plan.awaited.last().is_some_and(|topic| is_ready(snapshot, topic)) {
            plan.awaited.pop();
        }
        if plan.awaited.is_empty() {
            return self.end_plan(number);
        }
        let (before_ms, until_ms) = (plan.deadline_ms, self.now.mono_ms + LEADERS_WAIT_MS);
        if !std::mem::replace(&mut plan.awaits_leaders, true) && until_ms < before_ms {
            plan.deadline_ms = until_ms;
            self.timers.remove(&(before_ms, Timer::Plan(number)));
            self.set_timer(until_ms, Timer::Plan(number));
        }
    }

    /// Answers a plan, which is done.
    fn end_plan(&mut self, number: u64) {
        let Some(host) = &mut self.controller else { return };
        let Some(plan) = host.plans.remove(&number) else { return };
        self.timers.remove(&(plan.deadline_ms, Timer::Plan(number)));
        match plan.asker {
            PlanAsker::Node { node, ask } if plan.changes_nothing => {
                let body = encode_answer(&Answer::Done { index: host.applied, reply: plan.reply });
                host.refusals.note(node, ask, body.clone(), self.now.mono_ms);
                self.send_answer(node, ask, body);
            }
            asker => self.answer_plan(asker, plan.reply),
        }
    }

    pub(crate) fn plan_timed_out(&mut self, number: u64) {
        let Some(host) = &mut self.controller else { return };
        let Some(plan) = host.plans.get_mut(&number) else { return };
        if plan.awaits_leaders {
            return self.end_plan(number);
        }
        let asker = std::mem::replace(&mut plan.asker, PlanAsker::Nobody);
        let mut reply = match plan.may_be_wrong() {
            true => AdminReply::Refused(
                ResponseError::RequestTimedOut,
                "the quorum of the metadata group was not heard in time".to_owned(),
            ),
            false => plan.reply.clone(),
        };
        // What is not applied yet stays: later plans rest on it.
        if plan.applied {
            host.plans.remove(&number);
        }
        reply.fail(ResponseError::RequestTimedOut);
        self.answer_plan(asker, reply);
    }

    fn answer_plan(&mut self, asker: PlanAsker, reply: AdminReply) {
        let index = self.controller.as_ref().map(|host| host.applied).unwrap_or_default();
        match asker {
            PlanAsker::Nobody => {}
            PlanAsker::Own(sequence) => self.forward_done(sequence, reply),
            PlanAsker::Node { node, ask } => self.answer_node(node, ask, &Answer::Done { index, reply }),
        }
    }
}
