//! What a shard tells the admin endpoint: figures copied out between two turns, bounded by what was asked for.
//!
//! Pure: [`Shard::report`] only reads. The admin thread asks by mailbox (`Mail::Inspect`) and waits; the shard never does.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::mpsc;

use chronik_raft::driver::{DriverCounters, MemberProgress};
use chronik_raft::leadership::Leadership;
use chronik_wal::types::{GroupId, KafkaOffset, NodeId, PeerId, RaftIndex, ShardId, Term};

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
    /// Shard 0 only: the metadata group, and who can be reached.
    pub metadata: Option<MetadataReport>,
    /// The links that this shard has dialled. The pump fills them in: they are not the shard's.
    pub links: Vec<LinkReport>,
    /// What came in from other nodes. The pump's, too.
    pub incoming: IncomingReport,
    /// The page of partitions that was asked for.
    pub partitions: Vec<PartitionReport>,
    /// The page of groups that was asked for, in no order across coordinators.
    pub groups: Vec<GroupReport>,
    /// Every partition's high watermark, by group; only when groups were asked for: their lag needs it.
    pub high_watermarks: Vec<(GroupId, KafkaOffset)>,
}

/// The metadata group as this node sees it.
#[derive(Clone, Debug)]
pub struct MetadataReport {
    /// Its standing here.
    pub raft: RaftReport,
    /// The nodes that this one can reach.
    pub nodes_up: Vec<NodeId>,
}

/// How one replica of a Raft group stands.
#[derive(Clone, Debug)]
pub struct RaftReport {
    /// `leader`, `elected`, `follower`, `unknown`; `absent` where the group is not here.
    pub role: &'static str,
    /// Who leads, as far as this replica knows.
    pub leader: Option<NodeId>,
    /// The newest term that this replica has seen.
    pub term: Term,
    /// The last entry known to be committed.
    pub commit: RaftIndex,
    /// The last entry applied.
    pub applied: RaftIndex,
    /// The last entry of the log.
    pub last: RaftIndex,
    /// At rest: nothing is in flight and nobody ticks.
    pub is_resting: bool,
    /// The members as the leader sees them; empty where this replica does not lead.
    pub members: Vec<MemberReport>,
}

/// One member of a group as its leader sees it.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// Its node, if known.
    pub node: Option<NodeId>,
    /// Its Raft id.
    pub peer: PeerId,
    /// It votes; else it is being filled.
    pub is_voter: bool,
    /// Entries that it is behind.
    pub lag: u64,
}

/// A link to another node.
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// The node.
    pub node: NodeId,
    /// It is up.
    pub is_up: bool,
    /// Frames and bytes that wait to be sent.
    pub waiting: (usize, usize),
    /// Frames handed to the socket since the start.
    pub sent_frames: u64,
    /// Frames lost or refused since the start.
    pub dropped_frames: u64,
    /// Times that it came up.
    pub connections: u64,
}

/// What came in from other nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct IncomingReport {
    /// Frames delivered since the start.
    pub frames: u64,
    /// Frames dropped since the start: malformed, or for a shard that is not here.
    pub dropped_frames: u64,
    /// Frames that had no link to go by since the start.
    pub unsent_frames: u64,
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
    /// Replicas here that are being moved, as far as their leader is here.
    pub moving: usize,
    /// Replicas here whose groups are at rest.
    pub resting: usize,
    /// Of all groups, since the start.
    pub raft: DriverCounters,
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
    /// Its Raft group here.
    pub raft: RaftReport,
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
            metadata: self.controller.is_some().then(|| MetadataReport {
                raft: self.raft_report(GroupId::METADATA),
                nodes_up: self.nodes_up.iter().copied().collect(),
            }),
            links: Vec::new(),
            incoming: IncomingReport::default(),
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
            raft: *self.driver.counters(),
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
            totals.resting += usize::from(self.driver.is_resting(*group));
            match self.driver.leadership(*group) {
                Some(Leadership::Leader { .. }) => {
                    totals.leaders += 1;
                    totals.moving += usize::from(self.is_moving(partition));
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
        let raft = self.raft_report(group);
        let mut in_sync = self.in_sync_of(partition);
        if raft.role != "leader" {
            in_sync.nodes.clear();
        }
        PartitionReport {
            name: partition.name.clone(),
            group,
            raft,
            log_start: partition.log_start,
            high_watermark: partition.high_watermark,
            log_end: self.driver.log_end_offset(group).unwrap_or_default(),
            bytes: partition.files.bytes() + partition.unwritten_bytes,
            segment_count: partition.files.segment_count(),
            replica_count: in_sync.replica_count,
            in_sync: in_sync.nodes,
        }
    }

    fn raft_report(&self, group: GroupId) -> RaftReport {
        let leadership = self.driver.leadership(group);
        let (role, leader) = match leadership {
            Some(Leadership::Leader { .. }) => ("leader", Some(self.node)),
            Some(Leadership::Elected { .. }) => ("elected", None),
            Some(Leadership::Follower { leader, .. }) => ("follower", self.node_of(group, leader)),
            Some(Leadership::Unknown { .. }) => ("unknown", None),
            None => ("absent", None),
        };
        let last = self.driver.last_index(group).unwrap_or_default();
        let member = |member: MemberProgress| MemberReport {
            node: self.node_of(group, member.peer),
            peer: member.peer,
            is_voter: member.is_voter,
            lag: last.0.saturating_sub(member.matched.0),
        };
        RaftReport {
            role,
            leader,
            term: leadership.map(Leadership::term).unwrap_or_default(),
            commit: self.driver.commit(group).unwrap_or_default(),
            applied: self.driver.applied(group).unwrap_or_default(),
            last,
            is_resting: self.driver.is_resting(group),
            members: self.driver.progress(group).into_iter().map(member).collect(),
        }
    }

    fn is_moving(&self, partition: &Partition) -> bool {
        let view = self.snapshot.partition(&partition.name.topic_id, partition.name.index);
        view.is_some_and(crate::metadata::snapshot::PartitionView::is_reassigning)
    }

    /// The members in sync of a partition that is led here.
    fn in_sync_of(&self, partition: &Partition) -> InSync {
        let Some(view) = self.snapshot.partition(&partition.name.topic_id, partition.name.index) else {
            // The metadata group, or a topic that is going away: this replica is all that is known.
            return InSync { replica_count: 1, nodes: vec![self.node] };
        };
        if let [only] = &*view.replicas {
            return InSync { replica_count: 1, nodes: vec![only.node] };
        }
        InSync { replica_count: view.replicas.len(), nodes: partition.in_sync.nodes().to_vec() }
    }
}
