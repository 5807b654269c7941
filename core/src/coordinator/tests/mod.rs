//! Tests of the coordinator from outside: requests in, replies and records out, with a log and a clock of the
//! test's own.

mod admin;
mod failover;
mod membership;
mod offsets;
mod simulation;
mod statics;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::records::Record;
use super::*;

/// Unix time at which the tests begin.
pub(super) const EPOCH_MS: i64 = 1_700_000_000_000;

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A coordinator with its log. Appends are committed at once unless `is_stalled`.
pub(super) struct Bench {
    pub(super) coordinator: GroupCoordinator,
    pub(super) log: Vec<Record>,
    pub(super) in_flight: VecDeque<(AppendToken, Vec<Record>)>,
    pub(super) replies: BTreeMap<CallId, GroupResponse>,
    pub(super) versions: BTreeMap<CallId, i16>,
    pub(super) is_stalled: bool,
    pub(super) now_ms: u64,
    pub(super) config: GroupConfig,
    next_call: u64,
    next_id: u128,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    pub(super) fn with(config: GroupConfig) -> Self {
        let mut bench = Self {
            coordinator: coordinator(&config, 0),
            log: Vec::new(),
            in_flight: VecDeque::new(),
            replies: BTreeMap::new(),
            versions: BTreeMap::new(),
            is_stalled: false,
            now_ms: 0,
            config,
            next_call: 1,
            next_id: 0,
        };
        bench.coordinator.activate(0, EPOCH_MS);
        bench
    }

    pub(super) fn wall_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.now_ms).unwrap()
    }

    /// Sends a request; its answer may come later.
    pub(super) fn send(&mut self, version: i16, kind: RequestKind) -> CallId {
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.versions.insert(call, version);
        let (client_id, client_host) = (text("client"), text("/10.0.0.1"));
        let request = GroupRequest { version, client_id, client_host, kind };
        let wall_ms = self.wall_ms();
        self.coordinator.handle(call, request, self.now_ms, wall_ms);
        self.drain();
        call
    }

    /// Sends a request that must be answered at once.
    pub(super) fn ask(&mut self, version: i16, kind: RequestKind) -> GroupResponse {
        let call = self.send(version, kind);
        self.answer(call).expect("answered at once")
    }

    pub(super) fn answer(&mut self, call: CallId) -> Option<GroupResponse> {
        self.replies.remove(&call)
    }

    /// Takes the actions. No call is ever answered twice, and each answer can be encoded for its version.
    pub(super) fn drain(&mut self) {
        loop {
            let actions = self.coordinator.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Reply { call, response } => {
                        let version = self.versions.remove(&call).expect("each call is answered once");
                        assert_encodes(&response, version);
                        self.replies.insert(call, response);
                    }
                    Action::Append { token, records } => {
                        assert!(!records.is_empty());
                        self.in_flight.push_back((token, records));
                    }
                }
            }
            if !self.is_stalled {
                self.commit_all();
            }
        }
    }

    pub(super) fn commit_all(&mut self) {
        while self.commit_one() {}
    }

    /// The oldest append in flight is committed.
    pub(super) fn commit_one(&mut self) -> bool {
        let Some((token, records)) = self.in_flight.pop_front() else { return false };
        self.log.extend(records);
        let wall_ms = self.wall_ms();
        self.coordinator.appended(token, Ok(()), self.now_ms, wall_ms);
        self.drain();
        true
    }

    /// The oldest append in flight fails.
    pub(super) fn fail_one(&mut self, error: AppendError) {
        let (token, _) = self.in_flight.pop_front().expect("an append is in flight");
        let wall_ms = self.wall_ms();
        self.coordinator.appended(token, Err(error), self.now_ms, wall_ms);
        self.drain();
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn advance(&mut self, by_ms: u64) {
        let until_ms = self.now_ms + by_ms;
        while let Some(deadline_ms) = self.coordinator.next_deadline_ms().filter(|at_ms| *at_ms <= until_ms) {
            self.now_ms = self.now_ms.max(deadline_ms);
            let wall_ms = self.wall_ms();
            self.coordinator.tick(self.now_ms, wall_ms);
            self.drain();
        }
        self.now_ms = until_ms;
    }

    /// Another coordinator takes over: it reads the log.
    pub(super) fn fail_over(&mut self) {
        self.coordinator.deactivate();
        self.drain();
        assert!(self.versions.is_empty(), "a deposed coordinator leaves nobody waiting");
        self.in_flight.clear();
        self.next_id += 1 << 64;
        self.coordinator = coordinator(&self.config, self.next_id);
        load(&mut self.coordinator, &self.log);
        let wall_ms = self.wall_ms();
        self.coordinator.activate(self.now_ms, wall_ms);
        self.drain();
    }

    /// The member joins (with the second request that KIP-394 asks for) and waits.
    pub(super) fn join(&mut self, group: &str, member_id: &str) -> (CallId, String) {
        let mut member_id = member_id.to_owned();
        let call = self.send(9, join_request(group, &member_id));
        if !member_id.is_empty() {
            return (call, member_id);
        }
        let asked = joined(self.answer(call));
        assert_eq!(asked.error_code, 79);
        member_id = asked.member_id.to_string();
        (self.send(9, join_request(group, &member_id)), member_id)
    }

    /// Makes a stable group of that many members; returns their ids, the leader first.
    pub(super) fn stable_group(&mut self, group: &str, count: usize) -> Vec<String> {
        let joins: Vec<_> = (0..count).map(|_| self.join(group, "")).collect();
        // The initial delay, and once more because of those who came after the first.
        self.advance(6_000);
        let mut members: Vec<String> = Vec::new();
        let mut leader = String::new();
        for (call, member_id) in joins {
            let response = joined(self.answer(call));
            assert_eq!(response.error_code, 0);
            leader = response.leader.to_string();
            members.push(member_id);
        }
        let generation = self.generation_of(group);
        let assignments: Vec<_> = members.iter().map(|id| (id.as_str(), id.as_bytes())).collect();
        let calls: Vec<_> = members
            .iter()
            .map(|id| {
                let assignments = if *id == leader { &assignments[..] } else { &[] };
                self.send(5, sync_request(group, id, generation, assignments))
            })
            .collect();
        for (call, member_id) in calls.into_iter().zip(&members) {
            let response = synced(self.answer(call));
            assert_eq!((response.error_code, &response.assignment[..]), (0, member_id.as_bytes()));
        }
        members.sort_by_key(|id| *id != leader);
        members
    }

    /// The generation as DescribeGroups does not tell it: from the newest record of the group.
    pub(super) fn generation_of(&self, group: &str) -> i32 {
        self.coordinator.groups[group].generation
    }

    pub(super) fn state_of(&self, group: &str) -> &'static str {
        self.coordinator.groups.get(group).map_or("none", |group| group.state.name())
    }

    pub(super) fn heartbeat(&mut self, group: &str, member_id: &str, generation: i32) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(text(member_id))
            .with_generation_id(generation);
        match self.ask(4, RequestKind::Heartbeat(request)) {
            GroupResponse::Heartbeat(response) => response.error_code,
            other => panic!("not a heartbeat: {other:?}"),
        }
    }

    /// The committed offset of partition 0 of topic `t`.
    pub(super) fn fetched(&mut self, group: &str) -> i64 {
        match self.ask(9, fetch_request(group, &[("t", 0)], false)) {
            GroupResponse::OffsetFetch(response) => {
                response.groups[0].topics[0].partitions[0].committed_offset
            }
            other => panic!("not an offset fetch: {other:?}"),
        }
    }
}

pub(super) fn coordinator(config: &GroupConfig, first_id: u128) -> GroupCoordinator {
    let mut id = first_id;
    let ids = move || {
        id += 1;
        id
    };
    GroupCoordinator::new(config.clone(), 0, Box::new(ids))
}

pub(super) fn load(coordinator: &mut GroupCoordinator, log: &[Record]) {
    for record in log {
        coordinator.load(&record.key, record.value.as_deref()).expect("what was written can be read");
    }
}

fn assert_encodes(response: &GroupResponse, version: i16) {
    let mut buffer = bytes::BytesMut::new();
    let encoded = match response {
        GroupResponse::JoinGroup(response) => response.encode(&mut buffer, version),
        GroupResponse::SyncGroup(response) => response.encode(&mut buffer, version),
        GroupResponse::Heartbeat(response) => response.encode(&mut buffer, version),
        GroupResponse::LeaveGroup(response) => response.encode(&mut buffer, version),
        GroupResponse::OffsetCommit(response) => response.encode(&mut buffer, version),
        GroupResponse::OffsetFetch(response) => response.encode(&mut buffer, version),
        GroupResponse::OffsetDelete(response) => response.encode(&mut buffer, version),
        GroupResponse::ListGroups(response) => response.encode(&mut buffer, version),
        GroupResponse::DescribeGroups(response) => response.encode(&mut buffer, version),
        GroupResponse::DeleteGroups(response) => response.encode(&mut buffer, version),
    };
    encoded.unwrap_or_else(|error| panic!("{response:?} does not fit version {version}: {error}"));
}

/// Metadata of a consumer that subscribes to topic `t`.
pub(super) fn subscription() -> Bytes {
    Bytes::from_static(&[0, 1, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff])
}

pub(super) fn protocol(name: &str) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(subscription())
}

pub(super) fn join_body(group: &str, member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_member_id(text(member_id))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol("range")])
}

pub(super) fn join_request(group: &str, member_id: &str) -> RequestKind {
    RequestKind::JoinGroup(join_body(group, member_id))
}

pub(super) fn sync_request(
    group: &str,
    member_id: &str,
    generation: i32,
    assignments: &[(&str, &[u8])],
) -> RequestKind {
    let assignments = assignments.iter().map(|(id, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(id))
            .with_assignment(Bytes::copy_from_slice(assignment))
    });
    RequestKind::SyncGroup(
        SyncGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(text(member_id))
            .with_generation_id(generation)
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect()),
    )
}

pub(super) fn leave_request(group: &str, members: &[(&str, Option<&str>)]) -> RequestKind {
    let members = members.iter().map(|(id, instance)| {
        MemberIdentity::default().with_member_id(text(id)).with_group_instance_id(instance.map(text))
    });
    RequestKind::LeaveGroup(
        LeaveGroupRequest::default().with_group_id(GroupId(text(group))).with_members(members.collect()),
    )
}

pub(super) fn commit_body(group: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("note")));
    let topic =
        OffsetCommitRequestTopic::default().with_name(TopicName(text("t"))).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

/// A commit without membership, to partition 0 of topic `t`.
pub(super) fn commit_request(group: &str, offset: i64) -> RequestKind {
    RequestKind::OffsetCommit(commit_body(group, offset))
}

pub(super) fn member_commit(group: &str, member_id: &str, generation: i32, offset: i64) -> RequestKind {
    let body = commit_body(group, offset);
    RequestKind::OffsetCommit(
        body.with_member_id(text(member_id)).with_generation_id_or_member_epoch(generation),
    )
}

pub(super) fn fetch_request(group: &str, partitions: &[(&str, i32)], require_stable: bool) -> RequestKind {
    let topics = partitions.iter().map(|(topic, index)| {
        OffsetFetchRequestTopics::default()
            .with_name(TopicName(text(topic)))
            .with_partition_indexes(vec![*index])
    });
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(Some(topics.collect()));
    RequestKind::OffsetFetch(
        OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(require_stable),
    )
}

pub(super) fn joined(response: Option<GroupResponse>) -> JoinGroupResponse {
    match response {
        Some(GroupResponse::JoinGroup(response)) => response,
        other => panic!("not a JoinGroup answer: {other:?}"),
    }
}

pub(super) fn synced(response: Option<GroupResponse>) -> SyncGroupResponse {
    match response {
        Some(GroupResponse::SyncGroup(response)) => response,
        other => panic!("not a SyncGroup answer: {other:?}"),
    }
}

pub(super) fn left(response: Option<GroupResponse>) -> LeaveGroupResponse {
    match response {
        Some(GroupResponse::LeaveGroup(response)) => response,
        other => panic!("not a LeaveGroup answer: {other:?}"),
    }
}

/// The error code of a commit's only partition.
pub(super) fn commit_code(response: Option<GroupResponse>) -> i16 {
    match response {
        Some(GroupResponse::OffsetCommit(response)) => response.topics[0].partitions[0].error_code,
        other => panic!("not an OffsetCommit answer: {other:?}"),
    }
}
