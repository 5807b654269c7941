//! Shard 0's part: the metadata group, its state, the snapshot for everybody, and the changes that are asked for.
//!
//! The state follows the committed log of group 0 on every node. Where this node leads the group, a [`Controller`] plans
//! changes ahead of it; a plan is proposed as one batch and answered when that very entry is applied and the partitions
//! that it made have leaders, or when the asker's time is up.
//!
//! Reading order: `requests.rs` (what is asked becomes a plan), `plans.rs` (plans on their way through the log),
//! `refusals.rs` (what was answered without a change), `state.rs` (the log applied, published, cut), `producer_ids.rs`, `chores.rs` (what the leader does unasked). Beside this
//! folder: `forward.rs` (requests that go to the leader on another node), `formation.rs` (how group 0 comes to be here),
//! `registration.rs`, `dissemination.rs` (who leads, who can be reached).
//!
//! Invariants: a snapshot is published at most once a turn, and before the answers that rest on it; no answer about
//! metadata waits for the group; nothing is planned but by the leader of the group that has applied its term.

mod chores;
mod plans;
mod producer_ids;
mod refusals;
mod requests;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chronik_wal::types::{NodeId, RaftIndex, TurnNumber};
use rand::RngCore;
use rand::rngs::SmallRng;
use uuid::Uuid;

pub use crate::metadata::admin::{AdminReply, AdminRequest};
pub use state::apply_batch;

pub(in crate::shard) use self::plans::PlanAsker;

use self::plans::PendingPlan;
use self::refusals::Refusals;
use super::dissemination::Dissemination;
use super::forward::Forwards;
use super::message::Call;
use super::registration::Registration;
use crate::metadata::bootstrap::Bootstrap;
use crate::metadata::controller::Controller;
use crate::metadata::producer_ids::ProducerIds;
use crate::metadata::snapshot::{Snapshot, SnapshotBuilder};
use crate::metadata::state::{Broker, Change, MetadataState};

/// A snapshot that waits for this disk to know that what it tells is committed.
struct Unpublished {
    turn: TurnNumber,
    snapshot: Arc<Snapshot>,
    changes: Arc<[Change]>,
    /// The last entry in it.
    applied: RaftIndex,
}

/// What shard 0 keeps beside its partitions.
pub struct ControllerHost {
    pub(super) state: MetadataState,
    pub(super) builder: SnapshotBuilder,
    /// While this node leads the metadata group.
    controller: Option<Controller>,
    pub(super) own: Broker,
    changes: Vec<Change>,
    /// Snapshots still to be published, in order.
    unpublished: VecDeque<Unpublished>,
    /// The last entry in what was published last.
    published: RaftIndex,
    /// The turn that holds the newest commit index of group 0.
    commit_turn: TurnNumber,
    plans: BTreeMap<u64, PendingPlan>,
    /// Plans whose commands are not proposed yet, in order.
    unproposed: VecDeque<u64>,
    refusals: Refusals,
    producer_ids: ProducerIds,
    id_waiters: VecDeque<(Call, u64)>,
    random: SmallRng,
    bytes_since_image: u64,
    /// The last entry in `state`: what start-up has applied already is not applied again.
    pub(super) applied: RaftIndex,
    pub(super) forwards: Forwards,
    pub(super) registration: Registration,
    pub(super) dissemination: Dissemination,
    /// While there is no metadata group here.
    pub(super) bootstrap: Option<Bootstrap>,
    /// A node that says that this one was removed from the cluster. It has that from the metadata, so it stays so.
    pub(super) expelled_by: Option<NodeId>,
    /// Why this node has no part in a cluster yet, or no more; for people.
    pub(super) obstacle: Option<String>,
    /// When that was last said.
    pub(super) complained_at_ms: Option<u64>,
    /// When [`super::Timer::Tend`] is set for.
    pub(super) tend_at_ms: Option<u64>,
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
            changes: Vec::new(),
            unpublished: VecDeque::new(),
            published: applied,
            commit_turn: TurnNumber::default(),
            plans: BTreeMap::new(),
            unproposed: VecDeque::new(),
            refusals: Refusals::default(),
            producer_ids: ProducerIds::default(),
            id_waiters: VecDeque::new(),
            random,
            bytes_since_image: 0,
            applied,
            forwards: Forwards::new(own.incarnation),
            registration: Registration::default(),
            dissemination: Dissemination::default(),
            bootstrap: None,
            expelled_by: None,
            obstacle: None,
            complained_at_ms: None,
            tend_at_ms: None,
            own,
        }
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> &MetadataState {
        &self.state
    }

    /// Whether this node leads the metadata group.
    pub(super) fn leads(&self) -> bool {
        self.controller.is_some()
    }

    /// Notes how much of the log was in files at the start.
    pub(crate) fn found_in_files(&mut self, bytes: u64) {
        self.bytes_since_image = bytes;
    }

    /// The turn with which all that is applied is published; none while the newest changes belong to no snapshot yet.
    fn published_with(&self) -> Option<TurnNumber> {
        let newest = self.unpublished.back().map_or(TurnNumber::default(), |newest| newest.turn);
        self.changes.is_empty().then_some(newest)
    }

    /// The last entry of which everybody on this node can read what it did.
    pub(in crate::shard) fn readable(&self) -> RaftIndex {
        let is_published = self.unpublished.is_empty() && self.changes.is_empty();
        if is_published { self.applied } else { self.published }
    }

    /// Whether the state has entries after this one in it.
    pub(crate) fn is_ahead_of(&self, index: RaftIndex) -> bool {
        self.applied > index
    }

    /// Whether this node is registered as it is now.
    pub(super) fn is_registered(&self, node: NodeId) -> bool {
        self.state.brokers().get(&node) == Some(&self.own)
    }

    /// Whether there are, or are to be, other nodes.
    pub(super) fn has_others(&self) -> bool {
        self.state.brokers().len() > 1
            || self.state.metadata_replicas().replicas.len() > 1
            || self.bootstrap.is_some()
    }
}

fn random_uuid(random: &mut SmallRng) -> Uuid {
    let mut bytes = [0; 16];
    random.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
