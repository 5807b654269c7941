//! The group coordinators of a shard: one for each `__consumer_offsets` partition that this shard leads.
//!
//! A coordinator is pure; here it gets its log. When its partition becomes leader the committed log is replayed into
//! it, from files and tail, piece by piece so that no turn is long; then it answers. What it wants written is appended
//! to the partition like any batch and reported back when that very entry is applied (SAFETY.md, rules 11 and 12).
//!
//! The partition is kept bounded by writing the live state again at its end and moving the log start there.

mod appends;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use chronik_raft::leadership::Leadership;
use chronik_wal::batch::{self, BatchError};
use chronik_wal::compress::DecompressCaps;
use chronik_wal::partition::{FileDone, FilesError};
use chronik_wal::records::Records;
use chronik_wal::tail::TailRead;
use chronik_wal::types::{GroupId, KafkaOffset};
use kafka_protocol::ResponseError;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use uuid::Uuid;

use super::message::{Call, Reply};
use super::report::GroupPage;
use super::{Job, JobOwner, Shard, Timer};
use crate::config::broker::BrokerConfig;
use crate::coordinator::records::Record;
use crate::coordinator::report::GroupReport;
use crate::coordinator::{
    Action, AppendToken, CallId, GroupConfig, GroupCoordinator, GroupRequest, GroupResponse,
};

/// Bytes of the log replayed in one step.
const LOAD_BYTES: usize = 1 << 20;

/// Bytes of records in one batch that a coordinator appends.
const BATCH_BYTES_MAX: usize = 512 << 10;

enum Phase {
    /// The partition does not lead.
    Idle,
    /// Replaying; the next offset to read. A read from files may be on its way.
    Loading { next: KafkaOffset, reading: bool },
    /// Answering.
    Active,
}

struct Host {
    coordinator: GroupCoordinator,
    phase: Phase,
    timer_ms: Option<u64>,
    /// Appends on their way.
    in_flight: usize,
    /// Appends that wait for room, or for the live state to be written, in the order of their tokens. The coordinator bounds
    /// how many there are.
    waiting: VecDeque<(AppendToken, Vec<Record>)>,
    /// Bytes appended or replayed since the live state was written last.
    appended_bytes: u64,
    /// Bytes of the live state when it was written last.
    live_bytes: u64,
    /// A whole batch could not be read: the live state must not take the place of the log.
    incomplete: bool,
}

impl Host {
    fn wants_compaction(&self, at_least_bytes: u64) -> bool {
        let active = matches!(self.phase, Phase::Active);
        active && self.appended_bytes >= at_least_bytes.max(4 * self.live_bytes)
    }
}

/// An append of a coordinator: it may span several batches and is done when the last one is.
struct Append {
    token: AppendToken,
    batches: usize,
    failed: bool,
}

/// A request to all coordinators of the shard.
struct Everyone {
    call: Call,
    missing: usize,
    answers: Vec<GroupResponse>,
}

/// Whose question a coordinator answers.
enum Asker {
    One(Call),
    Everyone(u64),
}

/// The coordinators of one shard.
#[derive(Default)]
pub struct Coordinators {
    hosts: BTreeMap<GroupId, Host>,
    askers: BTreeMap<u64, Asker>,
    everyone: BTreeMap<u64, Everyone>,
    appends: BTreeMap<u64, Append>,
    busy: BTreeSet<GroupId>,
    /// Coordinators with appends for which there was no room.
    without_room: BTreeSet<GroupId>,
}

impl Coordinators {
    /// Questions and appends that are not answered.
    #[cfg(test)]
    pub(crate) fn waiting_count(&self) -> usize {
        self.askers.len() + self.everyone.len() + self.appends.len()
    }

    /// Whether a coordinator waits for its turn.
    pub(crate) fn has_work(&self) -> bool {
        !self.busy.is_empty()
    }

    /// A page of the groups of every coordinator that answers, in no order across coordinators.
    pub(super) fn reports(&self, page: &GroupPage) -> Vec<GroupReport> {
        let mut reports = Vec::new();
        let mut offsets_room = page.offsets_max;
        for host in self.hosts.values().filter(|host| host.coordinator.is_active()) {
            let found = host.coordinator.reports(page.after.as_deref(), page.limit, offsets_room);
            offsets_room -= found.iter().map(|group| group.offsets.len()).sum::<usize>();
            reports.extend(found);
        }
        reports
    }

    /// Groups by state.
    pub(super) fn group_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (state, count) in self.hosts.values().flat_map(|host| host.coordinator.group_counts()) {
            *counts.entry(state).or_default() += count;
        }
        counts
    }

    /// Coordinators that are still reading their partition.
    pub(super) fn loading_count(&self) -> usize {
        self.hosts.values().filter(|host| matches!(host.phase, Phase::Loading { .. })).count()
    }
}

impl Shard {
    /// Makes a coordinator for an offsets partition of this shard.
    pub(crate) fn add_coordinator(&mut self, group: GroupId, partition: i32) {
        let config = group_config(&self.config);
        let seed = self.number() ^ (group.0 << 20) ^ self.start_seed;
        let mut random = SmallRng::seed_from_u64(seed);
        let ids = Box::new(move || (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64()));
        let host = Host {
            coordinator: GroupCoordinator::new(config, partition, ids),
            phase: Phase::Idle,
            timer_ms: None,
            in_flight: 0,
            waiting: VecDeque::new(),
            appended_bytes: 0,
            live_bytes: 0,
            incomplete: false,
        };
        self.coordinators.hosts.insert(group, host);
        if matches!(self.driver.leadership(group), Some(Leadership::Leader { .. })) {
            self.coordinator_leadership(group, true);
        }
    }

    pub(crate) fn remove_coordinator(&mut self, group: GroupId) {
        self.coordinator_leadership(group, false);
        self.run_coordinators();
        self.coordinators.hosts.remove(&group);
    }

    pub(crate) fn group_request(&mut self, call: Call, partition: GroupId, request: GroupRequest) {
        let number = self.number();
        let now = self.now;
        let serves = self.serves();
        let host = self.coordinators.hosts.get_mut(&partition).filter(|_| serves);
        let Some(host) = host.filter(|host| !matches!(host.phase, Phase::Idle)) else {
            let refused = request.refused(ResponseError::NotCoordinator);
            return self.reply(call, Reply::Group(Box::new(refused)));
        };
        self.coordinators.askers.insert(number, Asker::One(call));
        host.coordinator.handle(CallId(number), request, now.mono_ms, now.wall_ms);
        self.coordinators.busy.insert(partition);
    }

    pub(crate) fn group_request_all(&mut self, call: Call, request: &GroupRequest) {
        let everyone = self.number();
        let now = self.now;
        let answering: Vec<GroupId> = self
            .coordinators
            .hosts
            .iter()
            .filter(|(_, host)| !matches!(host.phase, Phase::Idle))
            .map(|(group, _)| *group)
            .collect();
        if answering.is_empty() {
            return self.reply(call, Reply::GroupAll(Vec::new()));
        }
        let missing = answering.len();
        self.coordinators.everyone.insert(everyone, Everyone { call, missing, answers: Vec::new() });
        for group in answering {
            let number = self.number();
            self.coordinators.askers.insert(number, Asker::Everyone(everyone));
            if let Some(host) = self.coordinators.hosts.get_mut(&group) {
                host.coordinator.handle(CallId(number), request.clone(), now.mono_ms, now.wall_ms);
            }
            self.coordinators.busy.insert(group);
        }
    }

    /// The partition of a coordinator began or ceased to lead.
    pub(crate) fn coordinator_leadership(&mut self, group: GroupId, leads: bool) {
        let Some(partition) = self.partitions.get(&group) else { return };
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        match (leads, &host.phase) {
            (true, Phase::Idle) => {
                host.phase = Phase::Loading { next: partition.log_start, reading: false };
                host.appended_bytes = 0;
                host.in_flight = 0;
                host.incomplete = false;
            }
            (false, Phase::Loading { .. } | Phase::Active) => {
                host.phase = Phase::Idle;
                host.waiting.clear();
                host.coordinator.deactivate();
            }
            _ => return,
        }
        self.coordinators.busy.insert(group);
    }

    /// A topic is gone: so are the offsets that groups committed for it.
    pub(crate) fn forget_offsets(&mut self, topic: &str, topic_id: Uuid) {
        let now = self.now;
        for (group, host) in &mut self.coordinators.hosts {
            host.coordinator.topic_deleted(topic, Some(topic_id), now.mono_ms, now.wall_ms);
            self.coordinators.busy.insert(*group);
        }
    }

    /// Gives the coordinators that have something to do their turn.
    pub(crate) fn run_coordinators(&mut self) {
        for group in std::mem::take(&mut self.coordinators.busy) {
            self.load_some(group);
            self.compact_coordinator(group);
            self.carry_out(group);
            self.reset_timer(group);
        }
    }

    pub(crate) fn coordinator_due(&mut self, group: GroupId) {
        let now = self.now;
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        host.timer_ms = None;
        host.coordinator.tick(now.mono_ms, now.wall_ms);
        self.coordinators.busy.insert(group);
    }

    fn reset_timer(&mut self, group: GroupId) {
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        let due = host.coordinator.next_deadline_ms();
        let before = std::mem::replace(&mut host.timer_ms, due);
        if before == due {
            return;
        }
        if let Some(at_ms) = before {
            self.timers.remove(&(at_ms, Timer::Coordinator(group)));
        }
        if let Some(at_ms) = due {
            self.set_timer(at_ms, Timer::Coordinator(group));
        }
    }

    fn load_some(&mut self, group: GroupId) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        let Phase::Loading { next, reading: false } = host.phase else { return };
        let end = partition.high_watermark;
        if next >= end {
            host.phase = Phase::Active;
            host.coordinator.activate(now.mono_ms, now.wall_ms);
            return;
        }
        let Some(tail) = self.driver.tail(group) else { return };
        match tail.read(next, end, LOAD_BYTES, true) {
            TailRead::Batches(batches, reached) => self.replay(group, &batches, reached),
            TailRead::Empty => self.replay(group, &[], end),
            TailRead::BelowTail => {
                let Some(job) = partition.files.read(next, end, LOAD_BYTES, true) else { return };
                host.phase = Phase::Loading { next, reading: true };
                self.start_job(JobOwner::Load(group, next), Job::File(job));
            }
        }
    }

    /// A piece of the log, read from files, is back.
    pub(crate) fn coordinator_read(&mut self, group: GroupId, from: KafkaOffset, done: FileDone) {
        let FileDone::Read(result) = done else { return };
        let Some(log_start) = self.partitions.get(&group).map(|partition| partition.log_start) else {
            return;
        };
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        // What was asked for in an earlier term is not the next piece.
        if !matches!(host.phase, Phase::Loading { next, reading: true } if next == from) {
            return;
        }
        match result {
            Ok(read) => self.replay(group, &[read.data], read.next_offset),
            Err(FilesError::Gone { .. }) => {
                // The log start has passed over it: what still counts begins there.
                host.phase = Phase::Loading { next: from.max(log_start), reading: false };
                self.coordinators.busy.insert(group);
            }
            Err(error) => {
                tracing::error!(group = group.0, %error, "the offsets partition cannot be read: its groups are not served");
            }
        }
    }

    /// Takes in batches up to `reached`.
    fn replay(&mut self, group: GroupId, pieces: &[Bytes], reached: KafkaOffset) {
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        let Phase::Loading { next, .. } = host.phase else { return };
        for (info, batch) in pieces.iter().flat_map(|piece| batch::batches(piece)).flatten() {
            host.appended_bytes += batch.len() as u64;
            if let Err(error) = load_batch(&mut host.coordinator, batch) {
                host.incomplete = true;
                tracing::warn!(group = group.0, offset = info.base_offset.0, %error, "a batch of the offsets partition was skipped");
            }
        }
        if reached <= next {
            tracing::error!(
                group = group.0,
                offset = next.0,
                "the offsets partition cannot be read on from here"
            );
            return;
        }
        host.phase = Phase::Loading { next: reached, reading: false };
        self.coordinators.busy.insert(group);
    }

    fn carry_out(&mut self, group: GroupId) {
        let Some(host) = self.coordinators.hosts.get_mut(&group) else { return };
        for action in host.coordinator.take_actions() {
            match action {
                Action::Reply { call, response } => self.coordinator_answered(call, response),
                Action::Append { token, records } => {
                    if let Some(host) = self.coordinators.hosts.get_mut(&group) {
                        host.waiting.push_back((token, records));
                    }
                }
            }
        }
        self.append_waiting(group);
    }

    fn coordinator_answered(&mut self, call: CallId, response: GroupResponse) {
        match self.coordinators.askers.remove(&call.0) {
            Some(Asker::One(call)) => self.reply(call, Reply::Group(Box::new(response))),
            Some(Asker::Everyone(number)) => {
                let Some(everyone) = self.coordinators.everyone.get_mut(&number) else { return };
                everyone.answers.push(response);
                everyone.missing -= 1;
                if everyone.missing > 0 {
                    return;
                }
                if let Some(everyone) = self.coordinators.everyone.remove(&number) {
                    self.reply(everyone.call, Reply::GroupAll(everyone.answers));
                }
            }
            None => {}
        }
    }
}

fn load_batch(coordinator: &mut GroupCoordinator, batch: &[u8]) -> Result<(), BatchError> {
    for record in &Records::open(batch, &DecompressCaps::default())? {
        let record = record?;
        let Some(key) = record.key else { continue };
        if let Err(error) = coordinator.load(key, record.value) {
            tracing::warn!(%error, offset = record.offset.0, "a record of the offsets partition was skipped");
        }
    }
    Ok(())
}

fn record_bytes(record: &Record) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, Bytes::len) + 16
}

/// The coordinators' settings, from the broker's configs.
fn group_config(broker: &BrokerConfig) -> GroupConfig {
    GroupConfig {
        min_session_timeout_ms: broker.group_min_session_timeout_ms,
        max_session_timeout_ms: broker.group_max_session_timeout_ms,
        initial_rebalance_delay_ms: broker.group_initial_rebalance_delay_ms,
        max_size: broker.group_max_size,
        offset_metadata_max: broker.offset_metadata_max_bytes,
        offsets_retention_ms: i64::from(broker.offsets_retention_minutes) * 60_000,
        offsets_retention_check_interval_ms: broker.offsets_retention_check_interval_ms,
        offsets_commit_timeout_ms: broker.offsets_commit_timeout_ms,
    }
}
