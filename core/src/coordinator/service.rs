//! The coordinator itself: its life, its requests and its clock. What it does for groups is in the files beside.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::JoinGroupResponse;

use super::Name;
use super::api::{
    Action, AppendToken, CallId, GroupConfig, GroupRequest, GroupResponse, RequestKind, join_error,
};
use super::appends::InFlight;
use super::group::Group;
use super::member::{Member, Waiter};
use super::records::{Record, RecordError};
use super::store::{Change, Store};
use super::timers::{TimerKey, Timers};

/// Appends that may be in flight. Beyond, requests that must write are told to come again: each holds its keys
/// in memory.
const APPENDS_IN_FLIGHT_MAX: usize = 16_384;
/// Groups that one partition may hold; a new one beyond it is refused. Each takes some hundred bytes for ever.
pub(super) const GROUPS_MAX: usize = 1_000_000;

/// Whether the coordinator answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Inactive,
}

/// What the clock showed when the event at hand came in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Monotonic milliseconds, for timers.
    pub(super) now_ms: u64,
    /// Unix milliseconds, for timestamps and retention.
    pub(super) wall_ms: i64,
}

/// Where member ids come from: 128 bits that nobody else has drawn, for a version 4 UUID.
pub type MemberIdSource = Box<dyn FnMut() -> u128 + Send>;

/// The group coordinator of one partition of `__consumer_offsets`.
pub struct GroupCoordinator {
    pub(super) config: GroupConfig,
    partition: i32,
    phase: Phase,
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) groups: BTreeMap<Name, Group>,
    pub(super) timers: Timers,
    ids: MemberIdSource,
    pub(super) in_flight: BTreeMap<AppendToken, InFlight>,
    pub(super) next_token: u64,
    unreadable_count: u64,
    /// The last group that the running search for expired offsets has looked at.
    pub(super) expiry_cursor: Option<Name>,
    pub(super) actions: Vec<Action>,
}

impl GroupCoordinator {
    /// A coordinator that has loaded nothing yet. `ids` gives the random part of member ids.
    #[must_use]
    pub fn new(config: GroupConfig, partition: i32, ids: MemberIdSource) -> Self {
        Self {
            config,
            partition,
            phase: Phase::Loading,
            clock: Clock::default(),
            store: Store::default(),
            groups: BTreeMap::new(),
            timers: Timers::default(),
            ids,
            in_flight: BTreeMap::new(),
            next_token: 1,
            unreadable_count: 0,
            expiry_cursor: None,
            actions: Vec::new(),
        }
    }

    /// The partition of `__consumer_offsets` that it keeps.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Takes one committed record of the partition; all of them come in order, before
    /// [`GroupCoordinator::activate`].
    ///
    /// # Errors
    /// When the record is damaged or of a newer version: it is skipped and counted, and the caller should log it.
    ///
    /// # Panics
    /// When the coordinator is active: its state would leave the log's.
    pub fn load(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        assert!(self.phase != Phase::Active, "records are loaded before a coordinator is active");
        self.phase = Phase::Loading;
        let loaded = self.store.load(key, value);
        if loaded.is_err() {
            self.unreadable_count += 1;
        }
        loaded
    }

    /// How many records [`GroupCoordinator::load`] had to skip. While it is not zero, the partition must not be
    /// shortened to [`GroupCoordinator::live_records`]: what could not be read would be lost.
    #[must_use]
    pub fn unreadable_count(&self) -> u64 {
        self.unreadable_count
    }

    /// All records are loaded and this node leads: starts to answer. Sessions of loaded members begin anew.
    pub fn activate(&mut self, now_ms: u64, wall_ms: i64) {
        self.clock = Clock { now_ms, wall_ms };
        self.phase = Phase::Active;
        let mut groups: BTreeMap<Name, Group> = BTreeMap::new();
        for (name, slot) in self.store.group_values() {
            if let Some(value) = slot.committed() {
                groups.insert(name.clone(), Group::from_record(name.clone(), value));
            }
        }
        for name in self.store.groups_with_offsets() {
            let simple = || {
                let mut group = Group::new(name.clone(), wall_ms);
                group.is_committed = true;
                group
            };
            groups.entry(name.clone()).or_insert_with(simple);
        }
        for (_, mut group) in groups {
            let member_ids: Vec<Name> = group.members.keys().cloned().collect();
            for member_id in member_ids {
                self.restart_session(&group, &member_id);
            }
            if group.members.len() > self.size_max() {
                self.prepare_rebalance(&mut group);
            }
            self.put(group);
        }
        self.schedule_expiry();
    }

    /// This node leads no more: everybody who waits is told NOT_COORDINATOR, and all state is forgotten. Records
    /// in flight may be in the next leader's log or not; whoever leads next reads them there.
    pub fn deactivate(&mut self) {
        let error = ResponseError::NotCoordinator;
        for (_, group) in std::mem::take(&mut self.groups) {
            for member in group.members.into_values() {
                self.dismiss(member, error);
            }
        }
        for (_, append) in std::mem::take(&mut self.in_flight) {
            self.refuse_completion(append.completion, error);
            for (call, request) in append.fetches {
                let response = request.refused(error);
                self.reply(Waiter { call, version: request.version }, response);
            }
        }
        // Appends that were not taken yet must not be made under another term.
        self.actions.retain(|action| matches!(action, Action::Reply { .. }));
        self.store = Store::default();
        self.timers.clear();
        self.unreadable_count = 0;
        self.expiry_cursor = None;
        self.phase = Phase::Inactive;
    }

    /// Whether it answers.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// Takes a request. The answer comes as an [`Action::Reply`], now or later.
    pub fn handle(&mut self, call: CallId, request: GroupRequest, now_ms: u64, wall_ms: i64) {
        self.clock = Clock { now_ms, wall_ms };
        let waiter = Waiter { call, version: request.version };
        if let Some(response) = self.refusal(&request) {
            return self.reply(waiter, response);
        }
        let GroupRequest { version: _, client_id, client_host, kind } = request;
        match kind {
            RequestKind::JoinGroup(request) => self.join_group(waiter, &client_id, &client_host, &request),
            RequestKind::SyncGroup(request) => self.sync_group(waiter, &request),
            RequestKind::Heartbeat(request) => self.heartbeat(waiter, &request),
            RequestKind::LeaveGroup(request) => self.leave_group(waiter, &request),
            RequestKind::OffsetCommit(request) => self.commit_offsets(waiter, &request),
            RequestKind::OffsetFetch(request) => self.fetch_offsets(waiter, request),
            RequestKind::OffsetDelete(request) => self.delete_offsets(waiter, &request),
            RequestKind::ListGroups(request) => self.list_groups(waiter, &request),
            RequestKind::DescribeGroups(request) => self.describe_groups(waiter, &request),
            RequestKind::DeleteGroups(request) => self.delete_groups(waiter, &request),
        }
    }

    /// Lets time pass: joins, sessions, offsets and appends whose time is up.
    pub fn tick(&mut self, now_ms: u64, wall_ms: i64) {
        self.clock = Clock { now_ms, wall_ms };
        while let Some(key) = self.timers.pop_due(now_ms) {
            match key {
                TimerKey::Append(token) => self.time_out_append(token),
                TimerKey::Join(group) => self.join_time_is_up(&group),
                TimerKey::Sync(group) => self.sync_time_is_up(&group),
                TimerKey::Session { group, member_id } => self.session_is_over(&group, &member_id),
                TimerKey::Expiry => self.expire_offsets(),
            }
        }
    }

    /// When [`GroupCoordinator::tick`] has something to do next.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.next_deadline_ms()
    }

    /// What there is to do, in order. To be called after each event.
    #[must_use]
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The whole state as records: what the partition must still hold. Records in flight count as written, so
    /// every append taken so far must stand before these in the log, and one refused outright must have been
    /// reported.
    pub fn live_records(&self) -> impl Iterator<Item = Record> {
        let timestamp_ms = self.clock.wall_ms;
        let groups = self.store.group_values().filter_map(move |(group, slot)| {
            let value = slot.newest()?.clone();
            Some(Change::Group { group: group.clone(), value: Some(value) }.record(timestamp_ms))
        });
        let offsets = self.store.all_offsets().filter_map(move |(group, topic, partition, slot)| {
            let value = slot.newest()?.clone();
            let change =
                Change::Offset { group: group.clone(), topic: topic.clone(), partition, value: Some(value) };
            Some(change.record(timestamp_ms))
        });
        groups.chain(offsets)
    }

    /// All committed offsets: group, topic, partition, offset.
    pub fn committed_offsets(&self) -> impl Iterator<Item = (&str, &str, i32, i64)> {
        self.store.all_offsets().filter_map(|(group, topic, partition, slot)| {
            slot.committed().map(|value| (&**group, &**topic, partition, value.offset))
        })
    }

    /// Groups by state, for the metrics: name of the state and count.
    #[must_use]
    pub fn group_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for group in self.groups.values() {
            *counts.entry(group.state.name()).or_default() += 1;
        }
        counts
    }

    fn refusal(&self, request: &GroupRequest) -> Option<GroupResponse> {
        match self.phase {
            Phase::Loading if matches!(request.kind, RequestKind::Heartbeat(_)) => {
                // Kafka's way: nobody loses its session because the coordinator is still reading.
                return Some(GroupResponse::Heartbeat(Default::default()));
            }
            Phase::Loading => return Some(request.refused(ResponseError::CoordinatorLoadInProgress)),
            Phase::Inactive => return Some(request.refused(ResponseError::NotCoordinator)),
            Phase::Active => {}
        }
        let needs_group = match &request.kind {
            RequestKind::JoinGroup(request) => request.group_id.is_empty(),
            RequestKind::SyncGroup(request) => request.group_id.is_empty(),
            RequestKind::Heartbeat(request) => request.group_id.is_empty(),
            RequestKind::LeaveGroup(request) => request.group_id.is_empty(),
            RequestKind::OffsetDelete(request) => request.group_id.is_empty(),
            // Offsets may be kept under the empty group id, as old consumers do.
            _ => false,
        };
        if needs_group {
            return Some(request.refused(ResponseError::InvalidGroupId));
        }
        if !request.fits_limits() {
            return Some(request.refused(ResponseError::InvalidRequest));
        }
        let writes = matches!(
            request.kind,
            RequestKind::JoinGroup(_)
                | RequestKind::OffsetCommit(_)
                | RequestKind::OffsetDelete(_)
                | RequestKind::DeleteGroups(_)
        );
        if writes && self.store.in_flight_count() >= APPENDS_IN_FLIGHT_MAX {
            return Some(request.refused(ResponseError::CoordinatorNotAvailable));
        }
        None
    }

    pub(super) fn reply(&mut self, waiter: Waiter, response: GroupResponse) {
        let response = response.for_version(waiter.version);
        self.actions.push(Action::Reply { call: waiter.call, response });
    }

    pub(super) fn reply_join(&mut self, waiter: Waiter, response: JoinGroupResponse) {
        self.reply(waiter, GroupResponse::JoinGroup(response));
    }

    /// Takes a group out of the map, to be worked on and [`put`](Self::put) back.
    pub(super) fn take(&mut self, group: &str) -> Option<Group> {
        self.groups.remove(group)
    }

    pub(super) fn put(&mut self, group: Group) {
        self.groups.insert(group.id.clone(), group);
    }

    pub(super) fn deadline_in(&self, delay_ms: u64) -> u64 {
        self.clock.now_ms.saturating_add(delay_ms)
    }

    /// The random part of a member id.
    pub(super) fn draw_id(&mut self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes((self.ids)().to_be_bytes()).into_uuid()
    }

    /// Answers a member that is no longer one.
    pub(super) fn dismiss(&mut self, member: Member, error: ResponseError) {
        if let Some(waiter) = member.awaiting_join {
            let member_id = match error {
                ResponseError::UnknownMemberId => Default::default(),
                _ => super::member::wire(&member.id),
            };
            self.reply_join(waiter, join_error(member_id, error));
        }
        if let Some(waiter) = member.awaiting_sync {
            self.reply_sync_error(waiter, error);
        }
    }
}
