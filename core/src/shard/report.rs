//! What a shard tells the admin endpoint: figures copied out between two turns, bounded by what was asked for.
//!
//! Pure: [`Shard::report`] only reads. The admin thread asks by mailbox (`Mail::Inspect`) and waits; the shard never does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::mpsc;

use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, KafkaOffset, NodeId, ShardId, Term};

use super::Shard;
use crate::coordinator::report::GroupReport;
use crate::partition::{Partition, PartitionName};

/// A question of the admin endpoint, and where its answer goes.
#[derive(Debug)]
pub struct Inquiry {
    /// What is asked for beside the totals.
    pub scope: ReportScope,
    /// Where the report goes; sending to it never blocks.
    pub answer: mpsc::Sender<ShardReport>,
}

/// What a report holds beside the totals.
#[derive(Clone, Debug, Default)]
pub struct ReportScope {
    /// Which partitions.
    pub partitions: Option<PartitionPage>,
    /// Which consumer groups.
    pub groups: Option<GroupPage>,
}

/// Partitions in the order of their Raft groups.
#[derive(Clone, Copy, Debug)]
pub struct PartitionPage {
    /// Only those after this one.
    pub after: Option<GroupId>,
    /// At most so many.
    pub limit: usize,
}

/// Consumer groups in the order of their ids.
#[derive(Clone, Debug)]
pub struct GroupPage {
    /// Only those after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
    /// At most so many committed offsets, over all of them.
    pub offsets_max: usize,
}

/// The answer to an [`Inquiry`].
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Whose it is.
    pub shard: ShardId,
    /// The figures of the whole shard.
    pub totals: Totals,
    /// On shard 0, why this node has no part in a cluster, or none any more.
    pub obstacle: Option<String>,
    /// Partitions whose log has lost something, with the reason.
    pub damaged: Vec<(GroupId, String)>,
    /// The page of partitions that was asked for.
    pub partitions: Vec<PartitionReport>,
    /// The page of groups that was asked for, in no order across coordinators.
    pub groups: Vec<GroupReport>,
    /// Every partition's high watermark, by group; only when groups were asked for: their lag needs it.
    pub high_watermarks: Vec<(GroupId, KafkaOffset)>,
}

/// Figures of a whole shard.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Replicas here, the metadata group's excepted.
    pub partitions: usize,
    /// Of these, led here.
    pub leaders: usize,
    /// Of these, without a leader, and the damaged ones.
    pub offline: usize,
    /// Led here with fewer members in sync than there are replicas.
    pub under_replicated: usize,
    /// Led here with fewer members in sync than `min.insync.replicas`.
    pub under_min_isr: usize,
    /// Bytes of entries in memory.
    pub tail_bytes: u64,
    /// Bytes of the WAL that a restart would read.
    pub wal_used_bytes: u64,
    /// Bytes of frames that no WAL turn has taken yet.
    pub wal_pending_bytes: u64,
    /// Produce slices whose batches are on their way.
    pub produces: usize,
    /// Produce slices that wait for room.
    pub stalled: usize,
    /// Fetches that wait for records or are being read.
    pub fetches: usize,
    /// Jobs with the helper threads.
    pub jobs: usize,
    /// Consumer groups by state.
    pub group_states: BTreeMap<&'static str, usize>,
    /// Coordinators that are still reading their partition.
    pub coordinators_loading: usize,
}

/// One partition of a shard.
#[derive(Clone, Debug)]
pub struct PartitionReport {
    /// Its name.
    pub name: PartitionName,
    /// Its Raft group.
    pub group: GroupId,
    /// Who leads, as far as this replica knows.
    pub leader: Option<NodeId>,
    /// The newest term that this replica has seen.
    pub term: Term,
    /// Where its log starts for clients.
    pub log_start: KafkaOffset,
    /// End of the committed log.
    pub high_watermark: KafkaOffset,
    /// End of the log.
    pub log_end: KafkaOffset,
    /// Bytes of its log, in files and not yet in files.
    pub bytes: u64,
    /// Segment files.
    pub segment_count: usize,
    /// How many replicas it has.
    pub replica_count: usize,
    /// Which are in sync, as the leader knows; empty where this replica does not lead.
    pub in_sync: Vec<NodeId>,
}

/// How well a partition that is led here is replicated.
struct InSync {
    replica_count: usize,
    nodes: Vec<NodeId>,
}

impl Shard {
    /// The figures of now.
    #[must_use]
    pub fn report(&self, scope: &ReportScope) -> ShardReport {
        let page = scope.partitions.iter().flat_map(|page| {
            let after = page.after.map_or(Bound::Unbounded, Bound::Excluded);
            self.partitions.range((after, Bound::Unbounded)).take(page.limit)
        });
        let partitions = page.map(|(group, partition)| self.partition_report(*group, partition)).collect();
        let high_watermark = |(group, partition): (&GroupId, &Partition)| (*group, partition.high_watermark);
        ShardReport {
            shard: self.id,
            totals: self.totals(),
            obstacle: self.controller.as_ref().and_then(|host| host.obstacle.clone()),
            damaged: self.damaged.iter().map(|(group, damaged)| (*group, damaged.reason.clone())).collect(),
            partitions,
            groups: scope.groups.as_ref().map_or_else(Vec::new, |page| self.coordinators.reports(page)),
            high_watermarks: match scope.groups {
                Some(_) => self.partitions.iter().map(high_watermark).collect(),
                None => Vec::new(),
            },
        }
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals {
            offline: self.damaged.len(),
            tail_bytes: self.driver.tail_bytes() as u64,
            wal_used_bytes: self.wal.used_bytes(),
            wal_pending_bytes: self.wal.pending_bytes() as u64,
            produces: self.produces.len(),
            stalled: self.stalled.len(),
            fetches: self.fetches.len(),
            jobs: self.jobs.len(),
            group_states: self.coordinators.group_counts(),
            coordinators_loading: self.coordinators.loading_count(),
            ..Totals::default()
        };
        for (group, partition) in &self.partitions {
            if *group == GroupId::METADATA {
                continue;
            }
            totals.partitions += 1;
            match self.driver.leadership(*group) {
                Some(Leadership::Leader { .. }) => {
                    totals.leaders += 1;
                    let in_sync = self.in_sync_of(partition);
                    let count = in_sync.nodes.len();
                    totals.under_replicated += usize::from(count < in_sync.replica_count);
                    totals.under_min_isr +=
                        usize::from(count < partition.config.min_insync_replicas as usize);
                }
                Some(Leadership::Unknown { .. }) | None => totals.offline += 1,
                Some(Leadership::Elected { .. } | Leadership::Follower { .. }) => {}
            }
        }
        totals
    }

    fn partition_report(&self, group: GroupId, partition: &Partition) -> PartitionReport {
        let leadership = self.driver.leadership(group);
        let leader = match leadership {
            Some(Leadership::Leader { .. }) => Some(self.node),
            Some(Leadership::Follower { leader, .. }) => self.node_of(group, leader),
            _ => None,
        };
        let leads = matches!(leadership, Some(Leadership::Leader { .. }));
        let mut in_sync = self.in_sync_of(partition);
        if !leads {
            in_sync.nodes.clear();
        }
        PartitionReport {
            name: partition.name.clone(),
            group,
            leader,
            term: leadership.map(Leadership::term).unwrap_or_default(),
            log_start: partition.log_start,
            high_watermark: partition.high_watermark,
            log_end: self.driver.log_end_offset(group).unwrap_or_default(),
            bytes: partition.files.bytes() + partition.unwritten_bytes,
            segment_count: partition.files.segment_count(),
            replica_count: in_sync.replica_count,
            in_sync: in_sync.nodes,
        }
    }

    /// The members in sync of a partition that is led here.
    fn in_sync_of(&self, partition: &Partition) -> InSync {
        let topic = self.snapshot.topic_by_id(&partition.name.topic_id);
        let Some(view) = topic.and_then(|topic| topic.partition(partition.name.index)) else {
            // The metadata group, or a topic that is going away: this replica is all that is known.
            return InSync { replica_count: 1, nodes: vec![self.node] };
        };
        if let [only] = &*view.replicas {
            return InSync { replica_count: 1, nodes: vec![only.node] };
        }
        InSync { replica_count: view.replicas.len(), nodes: partition.in_sync.nodes().to_vec() }
    }
}
