//! One shard: a set of partitions with their Raft groups and one WAL, as a pure state machine.
//!
//! `(event, now) → outputs`. A [`Shard`] reads no clock, opens no file and knows no socket: the pump (`pump.rs`, the
//! only file here that knows glommio) feeds it events and carries out what it puts into [`Outputs`]. The simulator
//! under `tests/` runs the very same struct.
//!
//! Reading order: `message.rs` (what shards say to each other), `turn.rs` (one turn: ready, apply, WAL write),
//! `produce.rs`, `memory.rs` (how much may come in), `acks.rs`, `in_sync.rs`, `fetch.rs`, `offsets.rs` (requests), `write_behind.rs`, `log_start.rs` and `recycle.rs`
//! (files and the WAL's end),
//! `groups.rs` (coordinators), `controller.rs` (shard 0 only: the metadata group), `open.rs` (start-up and recovery),
//! `report.rs` (what the admin endpoint is told).
//!
//! Invariants: every change of a partition happens here, on its owner; nothing is answered as durable before the WAL
//! turn that holds it is; every pending request has a deadline.

pub mod acks;
pub mod contact;
pub mod controller;
pub mod dissemination;
pub(crate) mod doubt;
pub(crate) mod drops;
pub mod elections;
pub mod fetch;
pub mod formation;
pub mod forward;
pub mod groups;
pub mod handover;
pub mod hold;
pub mod housekeeping;
pub mod in_sync;
pub(crate) mod log_start;
pub mod making;
pub mod membership;
pub(crate) mod memory;
pub mod message;
pub mod offsets;
pub mod open;
pub mod pace;
pub mod peers;
pub mod produce;
pub mod pump;
mod quorum;
pub mod recycle;
pub mod registration;
pub mod report;
pub mod router;
pub mod topics;
pub mod turn;
pub mod write_behind;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chronik_raft::driver::Driver;
use chronik_raft::eraftpb::MessageType;
use chronik_wal::disk::Disk;
use chronik_wal::partition::{FileDone, FileJob, FileStore, PartitionLog};
use chronik_wal::shard_wal::{ShardWal, TurnWrite, WalJob};
use chronik_wal::types::{GroupId, KafkaOffset, NodeId, PeerId, RaftIndex, ShardId, TurnNumber};

use self::message::{Call, LeaderEvent, PeerMessage, PeerOut, Reply, Request};
use crate::config::broker::BrokerConfig;
use crate::metadata::snapshot::Snapshot;
use crate::metadata::state::Change;
use crate::metrics::ShardMetrics;
use crate::partition::Partition;

/// The time of an event: the monotonic clock for timers, the wall clock for timestamps and retention only (rule 22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back.
    pub mono_ms: u64,
    /// Unix time in milliseconds.
    pub wall_ms: i64,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum Event {
    /// A question from a connection of this node.
    Request {
        /// Where the answer goes.
        call: Call,
        /// The question.
        request: Request,
    },
    /// The WAL turn with this number is on the disk.
    TurnDurable(TurnNumber),
    /// A job has ended.
    JobDone(JobId, JobDone),
    /// The metadata snapshot changed, and by what.
    Metadata(Arc<Snapshot>, Arc<[Change]>),
    /// Leaders changed on another shard (shard 0 only).
    Leaders(Vec<LeaderEvent>),
    /// A shard of another node says something.
    Peer {
        /// The node.
        from: NodeId,
        /// What it says.
        message: PeerMessage,
    },
    /// A node can be reached now.
    NodeUp(NodeId),
    /// A node cannot be reached any more.
    NodeDown {
        /// The node.
        node: NodeId,
        /// Its process is known to be gone, not only silent.
        refused: bool,
    },
    /// A node says that this one was removed from the cluster (shard 0 only).
    Expelled {
        /// The node.
        by: NodeId,
    },
    /// A message of Raft found no room on the link to its node.
    Unsent {
        /// The group.
        group: GroupId,
        /// The replica that it was for.
        to: PeerId,
        /// What it was.
        kind: MessageType,
    },
    /// Stop: refuse what is new, answer what is in flight, write everything out.
    Stop,
}

/// Names a job of a shard; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// Blocking work for a helper thread.
#[derive(Debug)]
pub enum Job {
    /// On a partition's files.
    File(FileJob),
    /// On the WAL's segments.
    Wal(WalJob),
}

impl Job {
    /// Does it. Blocks.
    #[must_use]
    pub fn run(self, disk: &dyn Disk) -> JobDone {
        match self {
            Self::File(job) => JobDone::File(job.run(disk)),
            Self::Wal(job) => JobDone::Wal(job.run(disk)),
        }
    }
}

/// What came of a [`Job`].
#[derive(Debug)]
pub enum JobDone {
    /// Of a partition's files.
    File(FileDone),
    /// Of the WAL.
    Wal(std::io::Result<()>),
}

/// What a shard wants done. Drained after each turn.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Answers, to the shard of the connection that asked.
    pub replies: Vec<(Call, Reply)>,
    /// What other shards of this node (or this one) are to take in.
    pub messages: Vec<(ShardId, Event)>,
    /// Messages to other nodes, in order.
    pub peer: Vec<PeerOut>,
    /// The WAL turn to write and sync. At most one is in flight.
    pub turn: Option<TurnWrite>,
    /// Jobs for the helper threads.
    pub jobs: Vec<(JobId, Job)>,
    /// A new metadata snapshot for all shards, and what changed (shard 0 only).
    pub publish: Option<(Arc<Snapshot>, Arc<[Change]>)>,
    /// The node cannot go on: the process must end at once, without another write.
    pub fatal: Option<String>,
}

/// The bounds of a shard.
#[derive(Clone, Debug)]
pub struct ShardLimits {
    /// Bytes of entries in memory (uncommitted, not yet written, and cached): the budget of rule 7. Neither what this node leads
    /// nor what it follows takes more than three quarters (`memory.rs`).
    pub tail_bytes_max: u64,
    /// Bytes of a partition that are written to its files in one job.
    pub write_behind_bytes: u64,
    /// Applied entries reach the files at the latest after this time.
    pub write_behind_age_ms: u64,
    /// Requests that wait for something (produce, fetch, offsets); more are answered as unavailable.
    pub pending_max: usize,
    /// A coordinator writes its live state again when its partition has grown by this much, and by four times that state.
    pub coordinator_log_bytes: u64,
    /// The metadata are written as an image, and the log before it is dropped, when the log has grown by this much.
    pub metadata_log_bytes: u64,
}

impl Default for ShardLimits {
    fn default() -> Self {
        Self {
            tail_bytes_max: 128 << 20,
            write_behind_bytes: 1 << 20,
            write_behind_age_ms: 2_000,
            pending_max: 100_000,
            coordinator_log_bytes: 16 << 20,
            metadata_log_bytes: 8 << 20,
        }
    }
}

/// Who waits for a job.
#[derive(Debug)]
pub(crate) enum JobOwner {
    /// An append or sync of the partition's files.
    Files(GroupId),
    /// A read for a fetch item.
    Fetch { fetch: u64, item: usize },
    /// A search by time.
    Offsets { request: u64, item: usize },
    /// Entries in `low..high` for a follower that lags.
    CatchUp { group: GroupId, low: RaftIndex, high: RaftIndex },
    /// The replay of a coordinator's partition, from this offset on.
    Load(GroupId, KafkaOffset),
    /// The WAL itself.
    Wal,
    /// Files that were dropped.
    Deleted,
    /// All files of a replica that was removed.
    Buried(GroupId),
}

/// A time at which something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Produce(u64),
    Fetch(u64),
    Delete(u64),
    Plan(u64),
    Forward(u64),
    /// Shard 0 looks after its part in the cluster.
    Tend,
    Coordinator(GroupId),
    /// Time to give leaderships back to the preferred replicas.
    Balance,
    /// Time for the next steps towards other placements.
    Membership,
    /// Time to read on for followers.
    CatchUp,
    /// Leaders that somebody wants are asked for again, or given up.
    Election(u64),
    /// Time to look at transfers of leadership.
    Handover,
    /// Time to look at who is in sync.
    InSync,
    /// Time to look at what only time changes: expired segments, producers, renamed files.
    Housekeeping,
}

/// One shard of a node. See the module's documentation.
pub struct Shard {
    pub(crate) id: ShardId,
    pub(crate) node: NodeId,
    /// The id of its data directory.
    pub(crate) directory: [u8; 16],
    pub(crate) shard_count: u16,
    pub(crate) limits: ShardLimits,
    pub(crate) config: Arc<BrokerConfig>,
    pub(crate) store: FileStore,
    pub(crate) driver: Driver,
    pub(crate) wal: ShardWal,
    pub(crate) partitions: BTreeMap<GroupId, Partition>,
    /// Partitions of this shard whose log has lost something: not served.
    pub(crate) damaged: BTreeMap<GroupId, open::Damaged>,
    /// Files of deleted partitions on which a job still works.
    pub(crate) dying: BTreeMap<GroupId, PartitionLog>,
    /// Partitions whose old files are on their way out, by topic and number: a new replica of one waits for that.
    pub(crate) leaving: BTreeMap<GroupId, (uuid::Uuid, i32)>,
    pub(crate) coordinators: groups::Coordinators,
    pub(crate) controller: Option<controller::ControllerHost>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// The newest group that the metadata have named, on whatever shard: ids grow, and those above are still to come.
    pub(crate) newest_group: GroupId,
    /// Partitions that are known and still to be made.
    pub(crate) making: making::Making,
    /// Messages for groups still to come.
    pub(crate) early: VecDeque<(NodeId, GroupId, chronik_raft::eraftpb::Message)>,
    /// Bytes of the entries in these.
    pub(crate) early_bytes: u64,
    /// Nodes whose links are up.
    pub(crate) nodes_up: BTreeSet<NodeId>,
    /// Leaders that shard 0 is to hear of with the end of the turn.
    pub(crate) leader_events: Vec<LeaderEvent>,
    pub(crate) produces: BTreeMap<u64, produce::PendingProduce>,
    pub(crate) stalled: VecDeque<produce::Stalled>,
    /// Questions that wait for a quorum's word.
    pub(crate) contacts: contact::Contacts,
    pub(crate) handover: handover::Handover,
    pub(crate) membership: membership::Membership,
    pub(crate) catch_up: peers::CatchUp,
    pub(crate) elections: elections::Elections,
    /// Batches that wait for a group which takes no proposals just now.
    pub(crate) held: hold::Held,
    pub(crate) doubts: doubt::Doubts,
    /// Bytes proposed since Raft was last asked what is ready: neither the WAL nor the tails count them yet.
    pub(crate) proposed_bytes: u64,
    pub(crate) fetches: BTreeMap<u64, fetch::PendingFetch>,
    /// The numbers of these by their calls.
    pub(crate) fetch_calls: BTreeMap<Call, u64>,
    pub(crate) offset_requests: BTreeMap<u64, offsets::PendingOffsets>,
    pub(crate) deletes: BTreeMap<u64, offsets::PendingDelete>,
    pub(crate) touched: BTreeSet<GroupId>,
    /// A turn has become durable since [`Shard::local_waits`] was looked at.
    pub(crate) is_local_due: bool,
    /// Groups with somebody who waits for this disk alone.
    pub(crate) local_waits: BTreeSet<GroupId>,
    /// Groups whose followers may hold more than when those who wait for them were last looked at.
    pub(crate) progressed: BTreeSet<GroupId>,
    pub(crate) in_sync: in_sync::Watch,
    pub(crate) jobs: BTreeMap<JobId, JobOwner>,
    pub(crate) timers: BTreeSet<(u64, Timer)>,
    pub(crate) write_behind: write_behind::WriteBehind,
    /// Files that go.
    pub(crate) drops: drops::Drops,
    pub(crate) recycling: recycle::Recycling,
    pub(crate) next_number: u64,
    pub(crate) start_seed: u64,
    pub(crate) now: Now,
    pub(crate) stopping: housekeeping::Stopping,
    pub(crate) housekeeping: housekeeping::Housekeeping,
    pub(crate) metrics: Arc<ShardMetrics>,
    pub(crate) out: Outputs,
}

impl Shard {
    /// Takes in one event. What it leads to is in [`Shard::take_outputs`] after the next [`Shard::turn`].
    pub fn handle(&mut self, event: Event, now: Now) {
        self.now = now;
        // Before anything is served: a leader that has slept steps down first (SAFETY.md, rule 22).
        self.driver.tick(now.mono_ms);
        match event {
            Event::Request { call, request } => self.request(call, request),
            Event::TurnDurable(turn) => {
                self.wal.turn_done(turn);
                self.driver.on_durable(turn);
                self.is_local_due = true;
                self.drops.durable(turn);
            }
            Event::JobDone(id, done) => self.job_done(id, done),
            Event::Metadata(snapshot, changes) => self.adopt(snapshot, &changes),
            Event::Leaders(events) => self.leaders_reported(events),
            Event::Peer { from, message } => self.peer_says(from, message),
            Event::NodeUp(node) => self.node_up(node),
            Event::NodeDown { node, refused } => self.node_down(node, refused),
            Event::Expelled { by } => self.expelled(by),
            Event::Unsent { group, to, kind } => self.not_sent(group, to, kind),
            Event::Stop => self.stop(),
        }
    }

    fn request(&mut self, call: Call, request: Request) {
        if let Some(request) = self.until_contact(call, request) {
            self.serve(call, request);
        }
    }

    pub(crate) fn serve(&mut self, call: Call, request: Request) {
        match request {
            Request::Produce(slice) => self.produce(call, slice),
            Request::Fetch(slice) => self.fetch(call, slice, None),
            Request::FetchFrom { slice, rack } => self.fetch(call, slice, Some(rack)),
            Request::FetchNow { fetch } => self.fetch_now(fetch),
            Request::ListOffsets(queries) => self.list_offsets(call, &queries),
            Request::EpochEnd(queries) => self.epoch_ends(call, &queries),
            Request::DeleteRecords { items, timeout_ms } => self.delete_records(call, &items, timeout_ms),
            Request::Elect { elections, timeout_ms } => self.elect(call, elections, timeout_ms),
            Request::TransferLeader { group, to } => self.transfer_asked(call, group, to),
            Request::Sizes => self.sizes(call),
            Request::Group { partition, request } => self.group_request(call, partition, *request),
            Request::GroupAll(request) => self.group_request_all(call, &request),
            Request::Admin { request, timeout_ms } => self.admin_request(call, *request, timeout_ms),
            Request::ProducerId => self.producer_id(call),
        }
    }

    fn job_done(&mut self, id: JobId, done: JobDone) {
        let Some(owner) = self.jobs.remove(&id) else { return };
        match (owner, done) {
            (JobOwner::Wal, JobDone::Wal(done)) => self.wal_job_done(done),
            (JobOwner::Files(group), JobDone::File(done)) => self.files_done(group, done),
            (JobOwner::Fetch { fetch, item }, JobDone::File(done)) => self.fetch_read(fetch, item, done),
            (JobOwner::Offsets { request, item }, JobDone::File(done)) => {
                self.offset_found(request, item, done);
            }
            (JobOwner::CatchUp { group, low, high }, JobDone::File(done)) => {
                self.read_for_follower_done(group, low, high, done);
            }
            (JobOwner::Load(group, from), JobDone::File(done)) => self.coordinator_read(group, from, done),
            (JobOwner::Deleted, JobDone::File(done)) => self.deleted_files(done),
            (JobOwner::Buried(group), JobDone::File(done)) => self.buried(group, done),
            (owner, done) => unreachable!("a job of {owner:?} ended as {done:?}"),
        }
    }

    /// What the shard wants done since the last call.
    pub fn take_outputs(&mut self) -> Outputs {
        std::mem::take(&mut self.out)
    }

    fn wal_job_done(&mut self, done: std::io::Result<()>) {
        if let Err(error) = self.wal.job_done(done, self.now.mono_ms) {
            self.fail(format!("preparing a WAL segment: {error}"));
        }
    }

    pub(crate) fn reply(&mut self, call: Call, reply: Reply) {
        self.out.replies.push((call, reply));
    }

    pub(crate) fn start_job(&mut self, owner: JobOwner, job: Job) {
        let id = JobId(self.number());
        self.jobs.insert(id, owner);
        self.out.jobs.push((id, job));
    }

    /// Bytes of entries in memory: what [`ShardLimits::tail_bytes_max`] bounds.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.driver.tail_bytes()
    }

    /// Its Raft groups, for who watches (the simulator).
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// How many groups a turn may visit.
    pub fn set_visits_max(&mut self, visits_max: usize) {
        self.driver.set_visits_max(visits_max);
    }

    /// Its replicas, for who watches (the simulator).
    #[must_use]
    pub fn partitions(&self) -> &BTreeMap<GroupId, Partition> {
        &self.partitions
    }

    /// A number that this shard has not used before.
    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(crate) fn set_timer(&mut self, at_ms: u64, timer: Timer) {
        self.timers.insert((at_ms, timer));
    }

    pub(crate) fn pending_count(&self) -> usize {
        // A stalled slice is among `produces` too.
        self.produces.len()
            + self.fetches.len()
            + self.offset_requests.len()
            + self.deletes.len()
            + self.contacts.count()
    }
}

#[cfg(test)]
mod tests;
