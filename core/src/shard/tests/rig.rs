//! One node of one shard: what the pump does, without glommio. Several of them make a [`super::Cluster`].

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_raft::driver::NewGroup;
use chronik_wal::disk::sim::Survival;
use chronik_wal::disk::{Disk, SimDisk};
use chronik_wal::frame::WalIdentity;
use chronik_wal::partition::FileCache;
use chronik_wal::shard_wal::{TurnWrite, WalConfig, write_turn_blocking};
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch, NodeId, PeerId, RaftIndex, ShardId};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use uuid::Uuid;

use super::{creation, fetch_of, offsets_in, records_of, slice};
use crate::config::layers::ConfigMap;
use crate::metadata::command::{Command, MetadataReplica, Replica};
use crate::metadata::image;
use crate::metadata::snapshot::SnapshotBuilder;
use crate::metadata::state::{Broker, MetadataState, Topic};
use crate::metrics::ShardMetrics;
use crate::shard::controller::{AdminReply, AdminRequest, ControllerHost};
use crate::shard::message::*;
use crate::shard::open::{MetadataLog, MetadataPart, ShardSeed, recover_wal};
use crate::shard::{Event, Job, JobId, Now, Outputs, Shard, ShardLimits};

/// Unix time at which the tests begin.
pub(crate) const WALL_MS: i64 = 1_700_000_000_000;
/// The topic that most tests use.
pub(crate) const TOPIC: &str = "orders";

/// How often [`Rig::answer`] lets 5 ms pass.
const ANSWER_TRIES: usize = 20;

/// How a rig differs from the usual.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) node: NodeId,
    /// The nodes that begin as voters of the metadata group; none for a node on its own.
    pub(crate) cluster: Vec<NodeId>,
    /// They begin with nothing instead, and have to find each other.
    pub(crate) fresh: bool,
    /// How often the node has got another disk.
    pub(crate) disks: u64,
    pub(crate) racks: BTreeMap<NodeId, String>,
    pub(crate) limits: ShardLimits,
    pub(crate) configs: ConfigMap,
    pub(crate) wal_max_bytes: u64,
    pub(crate) segments_kept: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = ShardLimits { write_behind_age_ms: 500, ..ShardLimits::default() };
        Self {
            node: NodeId(1),
            cluster: Vec::new(),
            fresh: false,
            disks: 0,
            racks: BTreeMap::new(),
            limits,
            configs: ConfigMap::new(),
            wal_max_bytes: 8 << 20,
            segments_kept: 4,
        }
    }
}

/// A shard, its disk and its clock.
pub(crate) struct Rig {
    pub(crate) shard: Shard,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) now: Now,
    pub(crate) replies: VecDeque<(Call, Reply)>,
    /// While set, WAL turns stay in [`Rig::turn`].
    pub(crate) hold_turns: bool,
    pub(crate) turn: Option<TurnWrite>,
    /// While set, jobs stay in [`Rig::jobs`].
    pub(crate) hold_jobs: bool,
    pub(crate) jobs: VecDeque<(JobId, Job)>,
    /// What goes to other nodes, until [`super::Cluster`] takes it.
    pub(crate) peer: Vec<PeerOut>,
    pub(crate) fatal: Option<String>,
    pub(crate) setup: Setup,
    starts: u64,
    next_call: u64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let now = Now { mono_ms: 1_000_000, wall_ms: WALL_MS };
        Self::start(Arc::new(SimDisk::new(7)), setup, now, 1)
    }

    /// A node on what another one has left on its disk.
    pub(crate) fn on(disk: Arc<SimDisk>, setup: Setup, now: Now) -> Self {
        Self::start(disk, setup, now, 1_000)
    }

    pub(super) fn start(disk: Arc<SimDisk>, setup: Setup, now: Now, starts: u64) -> Self {
        let shard = open(&*disk, &setup, now, starts);
        let mut rig = Self {
            shard,
            disk,
            now,
            replies: VecDeque::new(),
            hold_turns: false,
            turn: None,
            hold_jobs: false,
            jobs: VecDeque::new(),
            peer: Vec::new(),
            fatal: None,
            setup,
            starts,
            next_call: starts << 32,
        };
        rig.settle();
        rig
    }

    /// The machine loses power; the node starts again on what the disk kept.
    pub(crate) fn crash(self) -> Self {
        let now = self.now;
        self.crash_at(now)
    }

    /// As [`Rig::crash`], with the start at another time.
    pub(crate) fn crash_at(self, now: Now) -> Self {
        let disk = Arc::new(self.disk.crash(Survival::SyncedOnly));
        Self::start(disk, self.setup, now, self.starts + 1)
    }

    /// A clean stop and a start.
    pub(crate) fn restart(mut self) -> Self {
        self.stop();
        self.crash()
    }

    pub(crate) fn stop(&mut self) {
        self.handle(Event::Stop);
        self.settle();
        assert!(self.shard.has_stopped(), "a clean stop ends");
    }

    pub(crate) fn handle(&mut self, event: Event) {
        self.shard.handle(event, self.now);
    }

    /// Asks; the answer comes with a later turn.
    pub(crate) fn ask(&mut self, request: Request) -> Call {
        self.next_call += 1;
        let call = Call { origin: ShardId(0), id: self.next_call };
        self.handle(Event::Request { call, request });
        call
    }

    /// Asks, works until there is nothing left to do, and lets a little time pass if that is not enough.
    pub(crate) fn answer(&mut self, request: Request) -> Reply {
        let call = self.ask(request);
        self.settle();
        for _ in 0..ANSWER_TRIES {
            if let Some(reply) = self.take(call) {
                return reply;
            }
            // What waits for room is taken up as segments are freed, a few milliseconds later.
            self.advance(5);
        }
        panic!("the request is answered")
    }

    pub(crate) fn take(&mut self, call: Call) -> Option<Reply> {
        let place = self.replies.iter().position(|(asked, _)| *asked == call)?;
        self.replies.remove(place).map(|(_, reply)| reply)
    }

    /// One turn, and what it asks for. True when there is more to do without any time passing.
    pub(crate) fn step(&mut self) -> bool {
        let more = self.shard.turn(self.now);
        let outputs = self.shard.take_outputs();
        let Outputs { replies, messages, peer, turn, jobs, publish, fatal } = outputs;
        assert!(
            peer.is_empty() || !self.setup.cluster.is_empty(),
            "a node on its own has nobody to write to"
        );
        self.peer.extend(peer);
        assert!(messages.is_empty(), "there is one shard only");
        if let Some(why) = fatal {
            self.fatal.get_or_insert(why);
        }
        self.replies.extend(replies);
        let mut worked = more || publish.is_some();
        if let Some((snapshot, changes)) = publish {
            self.handle(Event::Metadata(snapshot, changes));
        }
        if let Some(turn) = turn {
            assert!(self.turn.is_none(), "one turn is in flight at most");
            self.turn = Some(turn);
        }
        self.jobs.extend(jobs);
        if !self.hold_turns {
            worked |= self.write_turn();
        }
        if !self.hold_jobs {
            worked |= self.run_jobs();
        }
        worked
    }

    /// Makes the turn in flight durable.
    pub(crate) fn write_turn(&mut self) -> bool {
        let Some(turn) = self.turn.take() else { return false };
        write_turn_blocking(&*self.disk, &turn).expect("the WAL is written");
        self.handle(Event::TurnDurable(turn.turn));
        true
    }

    pub(crate) fn run_jobs(&mut self) -> bool {
        let jobs = std::mem::take(&mut self.jobs);
        let any = !jobs.is_empty();
        for (id, job) in jobs {
            let done = job.run(&*self.disk);
            self.handle(Event::JobDone(id, done));
        }
        any
    }

    /// Works until nothing is left to do now. As with the pump, a shard that says so is not turned again.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the shard never comes to rest");
    }

    /// Works until the entry just proposed is applied and what it has set in motion waits for its turn.
    pub(crate) fn settle_once(&mut self) {
        self.step();
        self.step();
    }

    /// Has all of a partition synced, and writes that down.
    pub(crate) fn checkpoint(&mut self, group: GroupId) {
        let applied = self.shard.partitions[&group].applied;
        self.shard.flush_soon(group, applied);
        self.settle();
        assert_eq!(self.shard.partitions[&group].files.synced().index, applied);
        self.shard.checkpoint();
        self.settle();
    }

    /// Lets time pass, from one deadline to the next.
    pub(crate) fn advance(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        self.settle();
        while self.now.mono_ms < end {
            let due = self.shard.next_deadline_ms().unwrap_or(end);
            let next = due.clamp(self.now.mono_ms + 1, end);
            self.now.wall_ms += (next - self.now.mono_ms) as i64;
            self.now.mono_ms = next;
            self.settle();
        }
    }

    // --- topics

    pub(crate) fn admin(&mut self, request: AdminRequest) -> AdminReply {
        match self.answer(Request::Admin { request: Box::new(request), timeout_ms: 10_000 }) {
            Reply::Admin(reply) => *reply,
            other => panic!("an answer of the controller, not {other:?}"),
        }
    }

    /// Makes a topic; its partitions lead when this returns.
    pub(crate) fn topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> GroupId {
        let Reply::Admin(reply) = self.answer(creation(name, partitions, configs)) else {
            panic!("an answer of the controller")
        };
        let AdminReply::CreateTopics(made) = *reply else { panic!("an answer to CreateTopics") };
        assert_eq!(made.topics[0].error_code, 0, "{made:?}");
        self.group(name, 0)
    }

    pub(crate) fn group(&self, topic: &str, partition: usize) -> GroupId {
        self.shard.snapshot.topic(topic).expect("the topic is there").partitions[partition].group
    }

    /// The topic as the metadata group has it.
    pub(crate) fn state_topic(&self, name: &str) -> Arc<Topic> {
        let host = self.shard.controller.as_ref().expect("shard 0 has the controller");
        host.state().topics().get(name).expect("the topic is there").clone()
    }

    // --- records

    pub(crate) fn produce(&mut self, group: GroupId, records: BytesMut) -> ProduceOutcome {
        self.produce_with(group, records, Acks::All)
    }

    pub(crate) fn produce_with(&mut self, group: GroupId, records: BytesMut, acks: Acks) -> ProduceOutcome {
        match self.answer(Request::Produce(slice(vec![(group, records)], acks))) {
            Reply::Produce(mut outcomes) => outcomes.remove(0),
            other => panic!("an answer to Produce, not {other:?}"),
        }
    }

    /// Produces batches of one record of `bytes` each.
    pub(crate) fn fill(&mut self, group: GroupId, count: usize, bytes: usize) {
        for number in 0..count {
            let outcome = self.produce(group, records_of(&[&vec![number as u8; bytes]], self.now.wall_ms));
            assert_eq!(outcome.error, ErrorCode::None, "batch {number}: {outcome:?}");
        }
    }

    pub(crate) fn fetch(&mut self, group: GroupId, offset: i64) -> FetchOutcome {
        let mut outcomes = self.fetch_slice(fetch_of(&[(group, offset)], 0));
        outcomes.remove(0)
    }

    pub(crate) fn fetch_slice(&mut self, slice: FetchSlice) -> Vec<FetchOutcome> {
        match self.answer(Request::Fetch(slice)) {
            Reply::Fetch(outcomes) => outcomes,
            other => panic!("an answer to Fetch, not {other:?}"),
        }
    }

    /// The offsets of all records from `from` to the high watermark, read piece by piece.
    pub(crate) fn read_all(&mut self, group: GroupId, from: i64) -> Vec<i64> {
        let mut all = Vec::new();
        let mut next = from;
        loop {
            let outcome = self.fetch(group, next);
            assert_eq!(outcome.error, ErrorCode::None);
            if KafkaOffset(next) >= outcome.high_watermark {
                return all;
            }
            let found = offsets_in(&outcome.records);
            let found: Vec<i64> = found.into_iter().filter(|offset| *offset >= next).collect();
            next = found.last().expect("a fetch below the high watermark gives something") + 1;
            all.extend(found);
        }
    }

    pub(crate) fn list_offset(&mut self, group: GroupId, timestamp: i64) -> OffsetAnswer {
        let query = OffsetQuery {
            group,
            timestamp,
            current_epoch: LeaderEpoch::UNKNOWN,
            isolation: Isolation::ReadUncommitted,
        };
        match self.answer(Request::ListOffsets(vec![query])) {
            Reply::Offsets(answers) => answers[0],
            other => panic!("an answer to ListOffsets, not {other:?}"),
        }
    }

    pub(crate) fn delete_records(&mut self, group: GroupId, before: i64) -> Result<KafkaOffset, ErrorCode> {
        let items = vec![DeleteItem { group, before: KafkaOffset(before) }];
        match self.answer(Request::DeleteRecords { items, timeout_ms: 5_000 }) {
            Reply::Deleted(outcomes) => outcomes[0],
            other => panic!("an answer to DeleteRecords, not {other:?}"),
        }
    }

    /// Names of the partition's files as they are on the disk, by their ending.
    pub(crate) fn files(&self, topic: &str, partition: i32, ending: &str) -> Vec<String> {
        let dir = data_dir().join("data").join(format!("{topic}-{partition}"));
        let listed = self.disk.list_dir(&dir).unwrap_or_default();
        let mut names: Vec<String> = listed.into_iter().map(|entry| entry.name).collect();
        names.retain(|name| name.ends_with(ending));
        names.sort();
        names
    }
}

fn data_dir() -> PathBuf {
    PathBuf::from("/chronik")
}

fn open(disk: &dyn Disk, setup: &Setup, now: Now, starts: u64) -> Shard {
    let node = setup.node;
    let identity = WalIdentity { node, directory: directory(setup, node).into_bytes(), shard: ShardId(0) };
    let mut wal = WalConfig::new(&data_dir(), identity);
    wal.segment_bytes = 1 << 20;
    wal.first_segment_bytes = 256 << 10;
    wal.reserve_bytes = 128 << 10;
    wal.turn_bytes_max = 256 << 10;
    wal.wal_max_bytes = setup.wal_max_bytes;
    wal.segments_kept = setup.segments_kept;
    let seed = ShardSeed {
        node,
        shard: ShardId(0),
        shard_count: 1,
        limits: setup.limits.clone(),
        data_dir: data_dir(),
        wal,
        files: Arc::new(FileCache::new(64)),
        seed: starts,
        wall_ms: now.wall_ms,
        metrics: Arc::new(ShardMetrics::default()),
    };
    let mut recovered = recover_wal(disk, &seed).expect("the WAL is read");
    let mut log = MetadataLog::open(disk, &seed, &mut recovered).expect("the metadata log is read");
    let begins = log.is_missing() && !setup.cluster.is_empty() && !setup.fresh;
    if begins {
        log.state = formed(setup);
    }
    let mut builder = SnapshotBuilder::new(node, 1, setup.configs.clone());
    builder.reset(&log.state);
    let snapshot = Arc::new(builder.current().clone());
    let own = Broker { incarnation: Uuid::from_u128(u128::from(starts)), ..broker(setup, node) };
    let image = image::encode(&log.state);
    let host =
        ControllerHost::new(log.state.clone(), log.applied, builder, own, SmallRng::seed_from_u64(starts));
    let part = MetadataPart { log, host };
    let mut shard = Shard::open(disk, &seed, recovered, snapshot, Some(part)).expect("the shard starts");
    if setup.cluster.is_empty() || setup.fresh {
        shard.begin_cluster(&setup.cluster).expect("the metadata group is made");
        return shard;
    }
    let members = members(setup);
    let own = members.iter().find(|member| member.node == node).expect("a node of the cluster").peer;
    if !shard.driver.contains(GroupId::METADATA) {
        let voters = members.iter().map(|member| member.peer).collect();
        let group = NewGroup {
            group: GroupId::METADATA,
            peer: own,
            voters,
            configuration_index: RaftIndex(0),
            snapshot_data: image.into(),
        };
        shard.driver.create_group(group, &mut shard.wal).expect("the metadata group is made");
    }
    shard.partitions.get_mut(&GroupId::METADATA).expect("it has a partition").members = members;
    shard
}

/// Replicas of the metadata group.
fn members(setup: &Setup) -> Vec<Replica> {
    (1..).zip(&setup.cluster).map(|(peer, node)| Replica { node: *node, peer: PeerId(peer) }).collect()
}

fn directory(setup: &Setup, node: NodeId) -> Uuid {
    let disks = if node == setup.node { setup.disks } else { 0 };
    Uuid::from_u64_pair(disks, node.0 as u64)
}

fn broker(setup: &Setup, node: NodeId) -> Broker {
    Broker {
        directory: directory(setup, node),
        incarnation: Uuid::from_u128(1),
        rack: setup.racks.get(&node).cloned(),
        listeners: BTreeMap::new(),
        raft: None,
    }
}

/// The metadata that the nodes of a cluster begin with: all of them are registered.
fn formed(setup: &Setup) -> MetadataState {
    let member = |member: &Replica| {
        let Replica { node, peer } = *member;
        MetadataReplica { node, peer, directory: directory(setup, node) }
    };
    let replicas = members(setup).iter().map(member).collect();
    let mut commands = vec![
        Command::MintClusterId { cluster_id: "cluster-of-the-tests".to_owned() },
        Command::PlaceMetadataReplicas { replicas },
    ];
    for node in &setup.cluster {
        let Broker { directory, incarnation, rack, listeners, raft } = broker(setup, *node);
        let node = *node;
        commands.push(Command::RegisterBroker { node, directory, incarnation, rack, listeners, raft });
    }
    let mut state = MetadataState::default();
    assert!(state.apply_batch(&commands).iter().all(Result::is_ok));
    state
}
