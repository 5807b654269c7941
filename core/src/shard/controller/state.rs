//! The metadata log applied: state, changes for all shards, the published snapshot, the image that lets the log be cut.

use std::sync::Arc;

use chronik_raft::leadership::Leadership;
use chronik_wal::compress::DecompressCaps;
use chronik_wal::entry::{EntryKind, LogEntry, LogSink};
use chronik_wal::records::Records;
use chronik_wal::types::{GroupId, RaftIndex};

use super::plans::PlanAsker;
use super::refusals::Refusals;
use super::{AdminReply, Unpublished, random_uuid};
use crate::metadata::command;
use crate::metadata::command::Replica;
use crate::metadata::controller::{Controller, Plan};
use crate::metadata::snapshot::Snapshot;
use crate::metadata::state::{Change, MetadataState, changes_between};
use crate::shard::Shard;

impl Shard {
    /// Applies a committed entry of group 0.
    pub(crate) fn apply_metadata(&mut self, entry: &LogEntry) {
        let Some(host) = &mut self.controller else { return };
        if entry.kind == EntryKind::Batch {
            host.bytes_since_image += entry.data.len() as u64;
        }
        if entry.index <= host.applied {
            return;
        }
        host.applied = entry.index;
        if entry.kind != EntryKind::Batch {
            return;
        }
        let mut members_changed = false;
        for change in apply_batch(&mut host.state, &entry.data) {
            host.builder.apply(&change, &host.state);
            host.dissemination.topics_changed(&change, &mut host.builder);
            if let Change::ProducerIdsAllocated { node, first, count } = change
                && node == self.node
                // An earlier start of this node has used the blocks from before it was registered anew.
                && host.is_registered(node)
            {
                host.producer_ids.block_granted(first, count);
            }
            members_changed |= matches!(
                change,
                Change::BrokerRegistered(_)
                    | Change::BrokerReturned(..)
                    | Change::BrokerUnregistered(_)
                    | Change::MetadataReplicasPlaced
            );
            host.changes.push(change);
        }
        if members_changed {
            self.name_metadata_members();
            self.tend_within(0);
        }
    }

    /// Tells group 0's messages where its members are.
    pub(crate) fn name_metadata_members(&mut self) {
        let Some(host) = &self.controller else { return };
        let replicas = &host.state.metadata_replicas().replicas;
        let members: Vec<Replica> =
            replicas.iter().map(|member| Replica { node: member.node, peer: member.peer }).collect();
        // Before the first registration of a node on its own nobody is named; who forms a cluster is told at once.
        if !members.is_empty() {
            self.members_placed(GroupId::METADATA, members);
        }
    }

    /// The state of group 0 as of now, for the log start.
    pub(crate) fn metadata_image(&mut self) -> Vec<u8> {
        let Some(host) = &mut self.controller else { return Vec::new() };
        host.bytes_since_image = 0;
        crate::metadata::image::encode(&host.state)
    }

    /// A snapshot took the place of the metadata log.
    pub(crate) fn metadata_installed(&mut self, index: RaftIndex, image: &[u8]) {
        let Some(host) = &mut self.controller else { return };
        let Ok(state) = crate::metadata::image::decode(image) else {
            return self.fail("the metadata image that the leader sent cannot be read".to_owned());
        };
        host.builder.reset(&state);
        let changes = changes_between(&host.state, &state);
        for change in &changes {
            host.dissemination.topics_changed(change, &mut host.builder);
        }
        host.changes.extend(changes);
        host.state = state;
        host.applied = index;
        host.commit_turn = self.wal.filling_turn();
        self.name_metadata_members();
        self.tend_within(0);
    }

    pub(crate) fn controller_leadership(&mut self, leads: bool) {
        let Some(host) = &mut self.controller else { return };
        if !leads {
            host.controller = None;
            host.refusals = Refusals::default();
            self.drop_unproposed();
            return self.tend_within(0);
        }
        host.builder.controller_changed(self.node);
        let mut controller = Controller::new(&host.state);
        let Plan { commands, awaited, .. } =
            controller.plan_cluster_id(&mut || random_uuid(&mut host.random));
        host.controller = Some(controller);
        let plan = Plan { commands, response: AdminReply::Done, awaited };
        self.carry_plan(PlanAsker::Nobody, plan, u32::MAX);
        self.tend();
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
            let applied = host.applied;
            host.unpublished.push_back(Unpublished { turn, snapshot, changes, applied });
            let applied = host.plans.values_mut().filter(|plan| plan.applied);
            applied.for_each(|plan| plan.published_with = plan.published_with.or(Some(turn)));
        }
        if self.publish_durable() {
            let waiting: Vec<u64> =
                self.controller.iter().flat_map(|host| host.plans.keys().copied()).collect();
            waiting.into_iter().for_each(|number| self.finish_plan(number));
            self.look_at_elections();
        }
        self.forwards_applied();
        self.propose_plans();
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
            host.published = next.applied;
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
        if host.controller.is_some() && host.bytes_since_image >= self.limits.metadata_log_bytes {
            self.make_metadata_image();
        }
    }

    /// Has every member write the metadata as an image and drop the log before it, unless that is under way.
    pub(super) fn make_metadata_image(&mut self) {
        let group = GroupId::METADATA;
        if self.drops.is_held(group)
            || !matches!(self.driver.leadership(group), Some(Leadership::Leader { .. }))
        {
            return;
        }
        let Some(end) = self.driver.log_end_offset(group) else { return };
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        if !std::mem::replace(&mut partition.trimming, true) {
            self.propose_trim(group, end);
        }
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
