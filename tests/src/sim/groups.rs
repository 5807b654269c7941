//! A member of a consumer group that outlives the group's coordinators: it joins, says that it is there and commits.
//!
//! Once it was told its generation and its assignment, every coordinator of the group knows both, the one after a change of
//! leader too: none may call the member unknown or its generation old. A member of which the joining was not answered may
//! be there or not; so a new group takes its place.

use bytes::Bytes;
use chronik_core::coordinator::{GroupResponse, RequestKind};
use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::heartbeat_request::HeartbeatRequest;
use chronik_net::codec::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use chronik_net::codec::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use rand::Rng;

use super::asks::group_request;
use super::clients::{Asked, Target};
use super::world::World;

/// The longest session that brokers allow: no run is so long.
const SESSION_MS: i32 = 1_800_000;

/// How long a join or a sync may take.
const TIMEOUT_MS: u64 = 10_000;

/// A rebalance is going on, the coordinator is loading or elsewhere, or a commit was not in time: the client asks again.
const ASK_AGAIN: [i16; 6] = [7, 14, 15, 16, 19, 27];

/// The member.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Groups that it was in before, and left for good.
    groups: u32,
    /// Its id, once it has one.
    pub(super) id: Option<StrBytes>,
    /// Its generation, once it has joined.
    pub(super) generation: Option<i32>,
    /// It was told its assignment: from here on it is never lost.
    settled: bool,
    asking: bool,
}

/// What a member asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberAsk {
    /// JoinGroup.
    Join,
    /// SyncGroup.
    Sync,
    /// Heartbeat.
    Heartbeat,
}

impl Member {
    /// The group that it is in.
    pub(super) fn group(&self) -> String {
        format!("members-{}", self.groups)
    }

    /// What it commits with, once it is settled.
    pub(super) fn identity(&self) -> Option<(StrBytes, i32)> {
        self.settled.then(|| self.id.clone().zip(self.generation)).flatten()
    }
}

impl World {
    /// The member's next step.
    pub(super) fn member_step(&mut self) {
        if self.clients.member.asking {
            return;
        }
        let group = self.clients.member.group();
        let Some(snapshot) = self.some_snapshot() else { return };
        let Some(target) = self.coordinator(&group, &snapshot) else { return };
        let member = &self.clients.member;
        match (member.generation, member.settled) {
            (None, _) => self.ask_as_member(target, MemberAsk::Join, join(member), 9),
            (Some(generation), false) => {
                let request = sync(member, generation);
                self.ask_as_member(target, MemberAsk::Sync, request, 5);
            }
            (Some(generation), true) => {
                if self.rng.random_bool(0.5) {
                    return self.commit_offset(group);
                }
                let request = HeartbeatRequest::default()
                    .with_group_id(StrBytes::from_string(group).into())
                    .with_generation_id(generation)
                    .with_member_id(self.clients.member.id.clone().unwrap_or_default());
                self.ask_as_member(target, MemberAsk::Heartbeat, RequestKind::Heartbeat(request), 4);
            }
        }
    }

    fn ask_as_member(&mut self, target: Target, ask: MemberAsk, kind: RequestKind, version: i16) {
        self.count("member asks");
        self.clients.member.asking = true;
        let request = group_request(target.group, kind, version);
        self.ask(target, vec![target.group], 6, Asked::Member(ask), TIMEOUT_MS, request);
    }

    /// Whether the coordinator did what the member asked is not known.
    pub(super) fn member_not_decided(&mut self, ask: MemberAsk) {
        self.clients.member.asking = false;
        if ask == MemberAsk::Join {
            self.clients.member = Member { groups: self.clients.member.groups + 1, ..Member::default() };
        }
    }

    /// An answer to the member.
    pub(super) fn member_told(&mut self, ask: MemberAsk, response: &GroupResponse) -> Result<(), String> {
        self.clients.member.asking = false;
        let code = match response {
            GroupResponse::JoinGroup(response) => response.error_code,
            GroupResponse::SyncGroup(response) => response.error_code,
            GroupResponse::Heartbeat(response) => response.error_code,
            response => return Err(format!("{ask:?} was answered with {response:?}")),
        };
        match (ask, code, response) {
            // MEMBER_ID_REQUIRED.
            (MemberAsk::Join, 79, GroupResponse::JoinGroup(response)) => {
                self.clients.member.id = Some(response.member_id.clone());
            }
            (MemberAsk::Join, 0, GroupResponse::JoinGroup(response)) => {
                self.count("member joined");
                self.clients.member.id = Some(response.member_id.clone());
                self.clients.member.generation = Some(response.generation_id);
            }
            (MemberAsk::Sync, 0, _) => {
                self.count("member settled");
                self.clients.member.settled = true;
            }
            (MemberAsk::Heartbeat, 0, _) => self.count("member heard"),
            // What was not told its assignment was in memory only, and may be lost with its coordinator.
            (MemberAsk::Join | MemberAsk::Sync, _, _) if !ASK_AGAIN[..4].contains(&code) => {
                self.count("member starts over");
                self.member_not_decided(MemberAsk::Join);
            }
            _ if ASK_AGAIN.contains(&code) => self.count("member to ask again"),
            (ask, code, _) => {
                let member = &self.clients.member;
                return Err(format!("{ask:?} of {member:?} of {} was refused with {code}", member.group()));
            }
        }
        Ok(())
    }

    /// A commit by the member was refused.
    pub(super) fn member_commit_refused(&self, code: i16) -> Result<(), String> {
        match ASK_AGAIN.contains(&code) {
            true => Ok(()),
            false => Err(format!("a commit of {:?} was refused with {code}", self.clients.member)),
        }
    }
}

fn join(member: &Member) -> RequestKind {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(Bytes::from_static(b"anything"));
    let request = JoinGroupRequest::default()
        .with_group_id(StrBytes::from_string(member.group()).into())
        .with_session_timeout_ms(SESSION_MS)
        .with_rebalance_timeout_ms(SESSION_MS)
        .with_member_id(member.id.clone().unwrap_or_default())
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![protocol]);
    RequestKind::JoinGroup(request)
}

fn sync(member: &Member, generation: i32) -> RequestKind {
    let id = member.id.clone().unwrap_or_default();
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(id.clone())
        .with_assignment(Bytes::from_static(b"everything"));
    let request = SyncGroupRequest::default()
        .with_group_id(StrBytes::from_string(member.group()).into())
        .with_generation_id(generation)
        .with_member_id(id)
        .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
        .with_protocol_name(Some(StrBytes::from_static_str("range")))
        .with_assignments(vec![assignment]);
    RequestKind::SyncGroup(request)
}
