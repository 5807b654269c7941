//! Shard 0's part: the metadata group, its state, the snapshot for everybody, and the changes that clients ask for.
//!
//! The state follows the committed log of group 0 on every node. Where this node leads the group, a [`Controller`] plans
//! changes ahead of it; a plan is proposed as one batch and answered when that very entry is applied and the partitions
//! that it made have leaders, or when the client's time is up.
//!
//! Invariants: a snapshot is published at most once a turn, and before the answers that rest on it; no answer about
//! metadata waits for the group.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chronik_net::codec::ErrorCode;
use chronik_net::codec::messages::{
    AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use chronik_raft::driver::Proposal;
use chronik_raft::leadership::Leadership;
use chronik_wal::batch;
use chronik_wal::compress::DecompressCaps;
use chronik_wal::entry::{EntryKind, LogEntry, LogSink};
use chronik_wal::records::{BatchBuilder, Records};
use chronik_wal::types::{GroupId, NodeId, RaftIndex, ShardId, Term, TurnNumber};
use kafka_protocol::ResponseError;
use rand::RngCore;
use rand::rngs::SmallRng;
use uuid::Uuid;

use super::message::{Call, LeaderEvent, Message, Reply};
use super::{Shard, Timer};
use crate::metadata::command::{self, Command};
use crate::metadata::controller::{AdminResponse, Controller, Plan, PlanContext, is_ready};
use crate::metadata::producer_ids::{ProducerIds, Take};
use crate::metadata::snapshot::{Snapshot, SnapshotBuilder};
use crate::metadata::state::{Broker, Change, MetadataState};
use crate::partition::{Waiter, Waiting};

/// Requests for a producer id that may wait for the next block.
const ID_WAITERS_MAX: usize = 10_000;

/// A change of metadata that a client, or this node itself, asks for.
#[derive(Debug)]
pub enum AdminRequest {
    /// CreateTopics.
    CreateTopics(CreateTopicsRequest),
    /// DeleteTopics, with its version.
    DeleteTopics(DeleteTopicsRequest, i16),
    /// CreatePartitions.
    CreatePartitions(CreatePartitionsRequest),
    /// AlterConfigs.
    AlterConfigs(AlterConfigsRequest),
    /// IncrementalAlterConfigs.
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    /// Topics that a Metadata request named and that do not exist.
    AutoCreate(Vec<String>),
}

/// The answer to an [`AdminRequest`].
#[derive(Debug)]
pub enum AdminReply {
    /// CreateTopics.
    CreateTopics(CreateTopicsResponse),
    /// DeleteTopics.
    DeleteTopics(DeleteTopicsResponse),
    /// CreatePartitions.
    CreatePartitions(CreatePartitionsResponse),
    /// AlterConfigs.
    AlterConfigs(AlterConfigsResponse),
    /// IncrementalAlterConfigs.
    IncrementalAlterConfigs(IncrementalAlterConfigsResponse),
    /// The names that could not be made, and why.
    AutoCreate(Vec<(String, ResponseError)>),
    /// This node does not lead the metadata group.
    NotController,
}

impl AdminReply {
    fn fail(&mut self, code: ResponseError) {
        match self {
            Self::CreateTopics(response) => response.fail(code),
            Self::DeleteTopics(response) => response.fail(code),
            Self::CreatePartitions(response) => response.fail(code),
            Self::AlterConfigs(response) => response.fail(code),
            Self::IncrementalAlterConfigs(response) => response.fail(code),
            Self::AutoCreate(_) | Self::NotController => {}
        }
    }
}

/// A plan on its way through the log.
struct PendingPlan {
    call: Option<Call>,
    reply: AdminReply,
    awaited: Vec<Uuid>,
    applied: bool,
    /// The snapshot with it in is published once this turn is durable; none while there is no such snapshot.
    published_with: Option<TurnNumber>,
    deadline_ms: u64,
}

/// A snapshot that waits for this disk to know that what it tells is committed.
struct Unpublished {
    turn: TurnNumber,
    snapshot: Arc<Snapshot>,
    changes: Arc<[Change]>,
}

/// What shard 0 keeps beside its partitions.
pub struct ControllerHost {
    state: MetadataState,
    builder: SnapshotBuilder,
    controller: Option<Controller>,
    own: Broker,
    changes: Vec<Change>,
    /// Snapshots still to be published, in order.
    unpublished: VecDeque<Unpublished>,
    /// The turn that holds the newest commit index of group 0.
    commit_turn: TurnNumber,
    plans: BTreeMap<u64, PendingPlan>,
    producer_ids: ProducerIds,
    id_waiters: VecDeque<Call>,
    random: SmallRng,
    bytes_since_image: u64,
    /// The last entry in `state`: what start-up has applied already is not applied again.
    applied: RaftIndex,
}

impl ControllerHost {
    /// A host whose state is as of the last applied entry of group 0.
    #[must_use]
    pub fn new(
        state: MetadataState,
        applied: RaftIndex,
        builder: SnapshotBuilder,
        own: Broker,
        random: SmallRng,
    ) -> Self {
        Self {
            state,
            builder,
            controller: None,
            own,
            changes: Vec::new(),
            unpublished: VecDeque::new(),
            commit_turn: TurnNumber::default(),
            plans: BTreeMap::new(),
            producer_ids: ProducerIds::default(),
            id_waiters: VecDeque::new(),
            random,
            bytes_since_image: 0,
            applied,
        }
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> &MetadataState {
        &self.state
    }

    /// Notes how much of the log was in files at the start.
    pub(crate) fn found_in_files(&mut self, bytes: u64) {
        self.bytes_since_image = bytes;
    }

    /// Whether the state has entries after this one in it.
    pub(crate) fn is_ahead_of(&self, index: RaftIndex) -> bool {
        self.applied > index
    }
}

impl Shard {
    pub(crate) fn admin_request(&mut self, call: Call, request: &AdminRequest, timeout_ms: u32) {
        let Some(host) = &mut self.controller else { return self.reply(call, Reply::Unavailable) };
        let Some(controller) = &mut host.controller else {
            return self.reply(call, Reply::Admin(Box::new(AdminReply::NotController)));
        };
        let snapshot = host.builder.current().clone();
        let random = &mut || random_uuid(&mut host.random);
        let mut context = PlanContext { snapshot: &snapshot, random, request: None };
        let plan = match request {
            AdminRequest::CreateTopics(request) => {
                controller.plan_create_topics(request, &mut context).map(AdminReply::CreateTopics)
            }
            AdminRequest::DeleteTopics(request, version) => {
                controller.plan_delete_topics(request, *version, &context).map(AdminReply::DeleteTopics)
            }
            AdminRequest::CreatePartitions(request) => {
                controller.plan_create_partitions(request, &context).map(AdminReply::CreatePartitions)
            }
            AdminRequest::AlterConfigs(request) => {
                controller.plan_alter_configs(request, &context).map(AdminReply::AlterConfigs)
            }
            AdminRequest::IncrementalAlterConfigs(request) => controller
                .plan_incremental_alter_configs(request, &context)
                .map(AdminReply::IncrementalAlterConfigs),
            AdminRequest::AutoCreate(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                controller.plan_auto_creation(&names, &mut context).map(AdminReply::AutoCreate)
            }
        };
        self.carry_plan(Some(call), plan, timeout_ms);
    }

    /// Proposes a plan's commands, or answers at once when there are none.
    fn carry_plan(&mut self, call: Option<Call>, plan: Plan<AdminReply>, timeout_ms: u32) {
        let number = self.number();
        let deadline_ms = self.now.mono_ms + u64::from(timeout_ms);
        let mut pending = PendingPlan {
            call,
            reply: plan.response,
            awaited: plan.awaited,
            applied: plan.commands.is_empty(),
            published_with: plan.commands.is_empty().then(TurnNumber::default),
            deadline_ms,
        };
        if !plan.commands.is_empty()
            && let Err(code) = self.propose_commands(&plan.commands, Waiting::Metadata { plan: number })
        {
            pending.reply.fail(code);
            self.abandon_plans();
            return self.answer_plan(pending);
        }
        if let Some(host) = &mut self.controller {
            host.plans.insert(number, pending);
        }
        self.set_timer(deadline_ms, Timer::Plan(number));
        self.finish_plan(number);
    }

    fn propose_commands(&mut self, commands: &[Command], who: Waiting) -> Result<(), ResponseError> {
        let group = GroupId::METADATA;
        let Some(Leadership::Leader { term }) = self.driver.leadership(group) else {
            return Err(ResponseError::NotController);
        };
        let mut builder = BatchBuilder::new();
        for value in command::encode(commands) {
            builder.push(self.now.wall_ms, None, Some(&value));
        }
        let mut data = builder.build().map_err(|_| ResponseError::UnknownServerError)?;
        let offset = self.driver.log_end_offset(group).unwrap_or_default();
        batch::assign(&mut data, offset, term.leader_epoch());
        let data = data.freeze();
        let proposal = Proposal { kind: EntryKind::Batch, data };
        let (index, term) = self.driver.propose(group, proposal).map_err(|_| ResponseError::NotController)?;
        self.wait_for(group, Waiter { index, term, who });
        Ok(())
    }

    /// The entry of a plan is applied, or will never be.
    pub(crate) fn plan_committed(&mut self, number: u64, applied: bool) {
        let Some(host) = &mut self.controller else { return };
        if applied {
            if let Some(controller) = &mut host.controller {
                controller.committed(&host.state);
            }
            if let Some(plan) = host.plans.get_mut(&number) {
                plan.applied = true;
            }
        } else if let Some(mut plan) = host.plans.remove(&number) {
            plan.reply.fail(ResponseError::NotController);
            self.timers.remove(&(plan.deadline_ms, Timer::Plan(number)));
            self.answer_plan(plan);
        }
    }

    /// Answers a plan that is applied and whose partitions have leaders.
    fn finish_plan(&mut self, number: u64) {
        let Some(host) = &mut self.controller else { return };
        let Some(plan) = host.plans.get(&number) else { return };
        let is_published = plan.published_with.is_some_and(|turn| turn <= self.wal.durable_turn());
        if !plan.applied || !is_published || !is_ready(host.builder.current(), &plan.awaited) {
            return;
        }
        if let Some(plan) = host.plans.remove(&number) {
            self.timers.remove(&(plan.deadline_ms, Timer::Plan(number)));
            self.answer_plan(plan);
        }
    }

    pub(crate) fn plan_timed_out(&mut self, number: u64) {
        let Some(host) = &mut self.controller else { return };
        if let Some(mut plan) = host.plans.remove(&number) {
            plan.reply.fail(ResponseError::RequestTimedOut);
            self.answer_plan(plan);
        }
    }

    fn answer_plan(&mut self, plan: PendingPlan) {
        if let Some(call) = plan.call {
            self.reply(call, Reply::Admin(Box::new(plan.reply)));
        }
    }

    fn abandon_plans(&mut self) {
        let Some(host) = &mut self.controller else { return };
        if let Some(controller) = &mut host.controller {
            controller.abandon(&host.state);
        }
    }

    /// Applies a committed entry of group 0.
    pub(crate) fn apply_metadata(&mut self, entry: &LogEntry) {
        let Some(host) = &mut self.controller else { return };
        if entry.kind != EntryKind::Batch {
            return;
        }
        host.bytes_since_image += entry.data.len() as u64;
        if entry.index <= host.applied {
            return;
        }
        host.applied = entry.index;
        for change in apply_batch(&mut host.state, &entry.data) {
            host.builder.apply(&change, &host.state);
            if let Change::ProducerIdsAllocated { node, first, count } = change
                && node == self.node
            {
                host.producer_ids.block_granted(first, count);
            }
            host.changes.push(change);
        }
    }

    /// The state of group 0 as of now, for the log start.
    pub(crate) fn metadata_image(&mut self) -> Vec<u8> {
        let Some(host) = &mut self.controller else { return Vec::new() };
        host.bytes_since_image = 0;
        crate::metadata::image::encode(&host.state)
    }

    pub(crate) fn controller_leadership(&mut self, leads: bool) {
        let Some(host) = &mut self.controller else { return };
        if !leads {
            host.controller = None;
            host.producer_ids.block_failed();
            return;
        }
        host.builder.controller_changed(self.node);
        let mut controller = Controller::new(&host.state);
        let cluster = controller.plan_cluster_id(&mut || random_uuid(&mut host.random));
        let registration = controller.plan_registration(self.node, &host.own);
        host.controller = Some(controller);
        for plan in [cluster, registration] {
            let nobody =
                Plan { commands: plan.commands, response: AdminReply::NotController, awaited: Vec::new() };
            self.carry_plan(None, nobody, u32::MAX);
        }
    }

    /// Notes in the WAL how far group 0 is committed.
    ///
    /// ORDER: before anybody acts on these entries. A start takes a group that the metadata do not name for a deleted topic's;
    /// were the entry that made it not known as committed by then, acknowledged records would go with the group. A sole voter
    /// knows that all of its log is committed.
    pub(crate) fn keep_metadata_commit(&mut self, entries: &[LogEntry]) {
        let group = GroupId::METADATA;
        let voters = self.driver.configuration(group).map_or(0, |configuration| configuration.voters.len());
        let (Some(last), Some(host)) = (entries.last(), &mut self.controller) else { return };
        if voters > 1 {
            self.wal.put_commit(group, last.index, last);
            host.commit_turn = self.wal.filling_turn();
        }
    }

    /// Publishes, answers what can be answered now, and keeps the log of group 0 short. Once a turn.
    pub(crate) fn run_controller(&mut self) {
        let Some(host) = &mut self.controller else { return };
        if let Some(snapshot) = host.builder.publish() {
            let changes = std::mem::take(&mut host.changes).into();
            let turn = host.commit_turn;
            host.unpublished.push_back(Unpublished { turn, snapshot, changes });
            for plan in host.plans.values_mut().filter(|plan| plan.applied) {
                plan.published_with.get_or_insert(turn);
            }
        }
        if self.publish_durable() {
            let waiting: Vec<u64> =
                self.controller.iter().flat_map(|host| host.plans.keys().copied()).collect();
            waiting.into_iter().for_each(|number| self.finish_plan(number));
        }
        self.serve_producer_ids();
        self.shorten_metadata_log();
    }

    /// Publishes what may be. False when there was nothing.
    fn publish_durable(&mut self) -> bool {
        let durable = self.wal.durable_turn();
        let mut published = false;
        while let Some(host) = &mut self.controller
            && host.unpublished.front().is_some_and(|next| next.turn <= durable)
            && let Some(next) = host.unpublished.pop_front()
        {
            self.publish(next.snapshot, next.changes);
            published = true;
        }
        published
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>, changes: Arc<[Change]>) {
        // Two publications before the outputs are taken become one, with the changes of both.
        match &mut self.out.publish {
            Some((newest, before)) => {
                *newest = snapshot;
                *before = before.iter().chain(changes.iter()).cloned().collect();
            }
            None => self.out.publish = Some((snapshot, changes)),
        }
    }

    fn shorten_metadata_log(&mut self) {
        let Some(host) = &self.controller else { return };
        if host.controller.is_none() || host.bytes_since_image < self.limits.metadata_log_bytes {
            return;
        }
        if self.write_behind.is_resetting(GroupId::METADATA) {
            return;
        }
        let Some(end) = self.driver.log_end_offset(GroupId::METADATA) else { return };
        let Some(partition) = self.partitions.get_mut(&GroupId::METADATA) else { return };
        if std::mem::replace(&mut partition.trimming, true) {
            return;
        }
        self.propose_trim(GroupId::METADATA, end);
    }

    pub(crate) fn producer_id(&mut self, call: Call) {
        let Some(host) = &mut self.controller else { return self.reply(call, Reply::Unavailable) };
        if host.id_waiters.len() >= ID_WAITERS_MAX {
            return self.reply(call, Reply::ProducerId(Err(ErrorCode::CoordinatorLoadInProgress)));
        }
        host.id_waiters.push_back(call);
        self.serve_producer_ids();
    }

    fn serve_producer_ids(&mut self) {
        while let Some(host) = &mut self.controller {
            let Some(call) = host.id_waiters.front().copied() else { return };
            match host.producer_ids.take() {
                Take::Id(id) => {
                    host.id_waiters.pop_front();
                    self.reply(call, Reply::ProducerId(Ok(id)));
                }
                Take::Wait => return,
                Take::RequestBlock => return self.request_producer_ids(),
            }
        }
    }

    fn request_producer_ids(&mut self) {
        let node = self.node;
        let Some(host) = &mut self.controller else { return };
        let Some(controller) = &mut host.controller else {
            host.producer_ids.block_failed();
            let waiters = std::mem::take(&mut host.id_waiters);
            for call in waiters {
                self.reply(call, Reply::ProducerId(Err(ErrorCode::CoordinatorNotAvailable)));
            }
            return;
        };
        let plan = controller.plan_producer_ids(node).map(|_| AdminReply::NotController);
        self.carry_plan(None, plan, u32::MAX);
    }

    /// Another node says which partitions it leads.
    pub(crate) fn leaders_told(&mut self, _from: NodeId, events: Vec<LeaderEvent>) {
        self.leaders_reported(events);
    }

    /// Another node asks something of this node's shard 0.
    pub(crate) fn asked(&mut self, from: NodeId, id: u64, _body: bytes::Bytes) {
        tracing::debug!(node = from.0, id, "a question");
    }

    /// Another node has answered.
    pub(crate) fn answered(&mut self, from: NodeId, id: u64, _body: bytes::Bytes) {
        tracing::debug!(node = from.0, id, "an answer");
    }

    /// A node's link has come up or gone.
    pub(crate) fn reachable_changed(&mut self, node: NodeId, reachable: bool) {
        if let Some(host) = &mut self.controller {
            host.builder.broker_reachable(node, reachable);
        }
    }

    /// A snapshot took the place of the metadata log.
    pub(crate) fn metadata_installed(&mut self, index: RaftIndex, image: &[u8]) {
        let Some(host) = &mut self.controller else { return };
        let Ok(state) = crate::metadata::image::decode(image) else {
            return self.fail("the metadata image that the leader sent cannot be read".to_owned());
        };
        host.builder.reset(&state);
        host.state = state;
        host.applied = index;
        host.commit_turn = self.wal.filling_turn();
    }

    /// Leaders that other shards of this node report.
    pub(crate) fn leaders_reported(&mut self, events: Vec<LeaderEvent>) {
        let Some(host) = &mut self.controller else { return };
        for event in events {
            host.builder.leader_changed(&event.topic_id, event.partition, event.term, event.leader);
        }
    }

    /// A group of this shard has a leader: shard 0 hears of it with the end of the turn.
    pub(crate) fn leader_known(&mut self, group: GroupId, term: Term, leader: NodeId) {
        let Some(partition) = self.partitions.get(&group) else { return };
        if group == GroupId::METADATA {
            if let Some(host) = &mut self.controller {
                host.builder.controller_changed(leader);
            }
            return;
        }
        let event = LeaderEvent {
            topic_id: partition.name.topic_id,
            partition: partition.name.index,
            term,
            leader,
            in_sync: None,
        };
        self.leader_events.push(event);
    }

    /// Sends what [`Shard::leader_known`] has gathered.
    pub(crate) fn tell_leaders(&mut self) {
        if self.leader_events.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.leader_events);
        if self.controller.is_some() {
            return self.leaders_reported(events);
        }
        self.out.messages.push((ShardId(0), Message::Leaders(events)));
    }
}

/// Applies the commands in a batch of the metadata log. A command that does not fit is passed over, on every node alike.
pub fn apply_batch(state: &mut MetadataState, data: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let records = match Records::open(data, &DecompressCaps::default()) {
        Ok(records) => records,
        Err(error) => panic!("a committed batch of the metadata log cannot be read: {error}"),
    };
    for record in &records {
        let value = record.ok().and_then(|record| record.value);
        let command = value.ok_or_else(|| "no value".to_owned());
        match command.and_then(|value| command::decode(value).map_err(|error| error.to_string())) {
            Ok(command) => match state.apply(&command) {
                Ok(change) => changes.push(change),
                Err(conflict) => tracing::error!(%conflict, "metadata"),
            },
            // Going on without a command that this version does not know would make this node's state differ.
            Err(error) => panic!("a record of the metadata log cannot be understood: {error}"),
        }
    }
    changes
}

fn random_uuid(random: &mut SmallRng) -> Uuid {
    let mut bytes = [0; 16];
    random.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
