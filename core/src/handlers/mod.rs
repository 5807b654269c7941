//! Request handlers, a file an API family.
//!
//! The ones here answer from the metadata snapshot alone, on whichever shard the connection is: pure functions
//! `(snapshot, request, context) -> response`. None of them waits, and none asks another shard or node for what it answers
//! (field report 000); `settle` only looks, for a moment, whether the leaders that are about to be named are still there.
//! Changes of the metadata are planned by `metadata::controller`.

pub mod admin;
pub mod affinity;
pub mod cluster;
pub mod configs;
mod creation;
pub mod dispatch;
pub mod elections;
pub mod fetch;
pub mod fetch_session;
pub mod find_coordinator;
pub mod gather;
pub mod groups;
pub mod log_dirs;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producer_id;
pub mod service;
pub mod settle;
pub mod topic_partitions;

use std::collections::BTreeSet;

use chronik_wal::types::NodeId;
use kafka_protocol::error::ResponseError;
use smallvec::SmallVec;

use crate::metadata::snapshot::{PartitionView, Snapshot};

/// No error.
pub const NONE: i16 = 0;
/// What stands for "not asked for" among authorized operations.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Every operation that a topic knows, as bits: READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS,
/// ALTER_CONFIGS. Without an authorizer everybody may do everything.
pub const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// Every operation that the cluster knows: CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS,
/// IDEMPOTENT_WRITE.
pub const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// Broker ids of one partition; four replicas fit without an allocation.
pub type NodeIds = SmallVec<[i32; 4]>;

/// One partition as clients of one listener see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRow {
    /// Kafka's error; 0 for none.
    pub error_code: i16,
    /// Its number.
    pub partition: i32,
    /// Its leader; −1 for none.
    pub leader_id: i32,
    /// The leader's epoch; −1 before the first election.
    pub leader_epoch: i32,
    /// Its replicas, the preferred leader first.
    pub replicas: NodeIds,
    /// The replicas in sync.
    pub in_sync: NodeIds,
    /// Replicas whose broker cannot be reached.
    pub offline: NodeIds,
}

impl PartitionRow {
    /// The row of a partition. `version` is that of Metadata: below 6 a missing listener is told as a missing leader. Who leads by
    /// what is known and is `lost` is told as a missing leader too.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        listener: &str,
        version: i16,
        partition: i32,
        view: &PartitionView,
        lost: &BTreeSet<NodeId>,
    ) -> Self {
        let reachable = |node: NodeId| snapshot.endpoint(node, listener).is_some();
        let leader = view.leader.filter(|leader| !lost.contains(&leader.node));
        let error_code = match leader {
            Some(leader) if reachable(leader.node) => NONE,
            Some(leader) if version >= 6 && is_up(snapshot, leader.node) => {
                ResponseError::ListenerNotFound.code()
            }
            _ => ResponseError::LeaderNotAvailable.code(),
        };
        let leader_id = leader.filter(|_| error_code == NONE).map_or(-1, |leader| leader.node.0);
        let nodes = || view.nodes();
        Self {
            error_code,
            partition,
            leader_id,
            leader_epoch: view.leader.map_or(-1, |leader| leader.epoch.0),
            replicas: nodes().map(|node| node.0).collect(),
            in_sync: view.in_sync.iter().map(|node| node.0).collect(),
            offline: nodes().filter(|node| !is_up(snapshot, *node)).map(|node| node.0).collect(),
        }
    }
}

fn is_up(snapshot: &Snapshot, node: NodeId) -> bool {
    snapshot.brokers.contains_key(&node) && !snapshot.fenced.contains(&node)
}

#[cfg(test)]
mod tests;
