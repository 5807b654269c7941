//! JoinGroup: who may become a member, under which id, and when that starts a rebalance.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;

use super::Name;
use super::api::{AppendError, join_error};
use super::appends::{Completion, StaticRejoin};
use super::group::{Group, State};
use super::member::{Member, Waiter, protocols_of, wire};
use super::service::{GROUPS_MAX, GroupCoordinator};
use super::store::Change;

/// From this version on a member without an id must come back with the one it is given (KIP-394).
const VERSION_WITH_MEMBER_ID_REQUIRED: i16 = 4;
/// From this version on a returning static leader can be told to leave the assignment as it is (KIP-814).
const VERSION_WITH_SKIP_ASSIGNMENT: i16 = 9;
/// How long the first JoinGroup of a member may wait: it cannot heartbeat yet (Kafka's
/// `classicGroupNewMemberJoinTimeoutMs`).
const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60 * 1000;
/// Member ids of one group that may be handed out and not yet be used. Each costs a JoinGroup of a few bytes to
/// make.
const PENDING_MEMBERS_MAX: usize = 10_000;

/// What a JoinGroup says, with what its connection knows.
pub(super) struct Joining<'a> {
    waiter: Waiter,
    client_id: &'a str,
    client_host: &'a str,
    request: &'a JoinGroupRequest,
}

impl Joining<'_> {
    fn rebalance_timeout_ms(&self) -> i32 {
        // Version 0 has no field for it.
        if self.waiter.version == 0 {
            self.request.session_timeout_ms
        } else {
            self.request.rebalance_timeout_ms
        }
    }

    fn instance_id(&self) -> Option<&str> {
        self.request.group_instance_id.as_deref()
    }
}

impl GroupCoordinator {
    pub(super) fn join_group(
        &mut self,
        waiter: Waiter,
        client_id: &str,
        client_host: &str,
        request: &JoinGroupRequest,
    ) {
        let joining = Joining { waiter, client_id, client_host, request };
        let allowed = self.config.min_session_timeout_ms..=self.config.max_session_timeout_ms;
        if !allowed.contains(&request.session_timeout_ms) {
            return self.refuse_join(&joining, ResponseError::InvalidSessionTimeout);
        }
        let Some(mut group) = self.take(&request.group_id) else {
            return self.join_new_group(&joining);
        };
        self.join_existing_group(&mut group, &joining);
        self.put(group);
    }

    fn join_new_group(&mut self, joining: &Joining<'_>) {
        if !joining.request.member_id.is_empty() {
            return self.refuse_join(joining, ResponseError::UnknownMemberId);
        }
        if self.groups.len() >= GROUPS_MAX {
            return self.refuse_join(joining, ResponseError::CoordinatorNotAvailable);
        }
        let mut group = Group::new(joining.request.group_id.as_str().into(), self.clock.wall_ms);
        let value = group.to_record(&Default::default());
        self.join_new_member(&mut group, joining);
        if group.members.is_empty() && group.pending_members.is_empty() {
            return;
        }
        // The record says that the group exists; Kafka writes it too before there is any member.
        let change = Change::Group { group: group.id.clone(), value: Some(value) };
        let created = Completion::GroupCreated { group: group.id.clone() };
        self.put(group);
        self.append(vec![change], created);
    }

    fn join_existing_group(&mut self, group: &mut Group, joining: &Joining<'_>) {
        let member_id = joining.request.member_id.as_str();
        if !self.has_room(group, member_id) {
            if let Some(member) = group.remove(member_id) {
                self.end_session(group, member_id);
                self.dismiss(member, ResponseError::GroupMaxSizeReached);
                self.complete_join_if_all_joined(group);
            }
            let refused = join_error(StrBytes::new(), ResponseError::GroupMaxSizeReached);
            return self.reply_join(joining.waiter, refused);
        }
        if member_id.is_empty() {
            self.join_new_member(group, joining);
        } else {
            self.join_known_member(group, joining);
        }
    }

    /// `group.max.size`
    pub(super) fn size_max(&self) -> usize {
        usize::try_from(self.config.max_size).unwrap_or(0)
    }

    fn has_room(&self, group: &Group, member_id: &str) -> bool {
        match group.state {
            State::Empty | State::Dead => true,
            // Those who have come back count, not the members of before: the last ones to rejoin are left out
            // when the limit has been lowered.
            State::PreparingRebalance => {
                let member = group.members.get(member_id);
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || group.awaiting_join_count() < self.size_max()
            }
            State::CompletingRebalance | State::Stable => {
                group.members.contains_key(member_id) || group.members.len() < self.size_max()
            }
        }
    }

    fn refuse_join(&mut self, joining: &Joining<'_>, error: ResponseError) {
        self.reply_join(joining.waiter, join_error(joining.request.member_id.clone(), error));
    }

    /// A member without an id.
    fn join_new_member(&mut self, group: &mut Group, joining: &Joining<'_>) {
        let request = joining.request;
        if group.state == State::Dead {
            return self.refuse_join(joining, ResponseError::CoordinatorNotAvailable);
        }
        if !group.supports(&request.protocol_type, &protocols_of(&request.protocols)) {
            return self.refuse_join(joining, ResponseError::InconsistentGroupProtocol);
        }
        let prefix = joining.instance_id().unwrap_or(joining.client_id);
        let member_id: Name = format!("{prefix}-{}", self.draw_id()).into();
        if let Some(instance_id) = joining.instance_id() {
            return match group.static_member_id(instance_id).cloned() {
                Some(former_id) => self.rejoin_static_member(group, joining, &former_id, &member_id),
                None => self.add_member(group, joining, member_id),
            };
        }
        if joining.waiter.version < VERSION_WITH_MEMBER_ID_REQUIRED {
            return self.add_member(group, joining, member_id);
        }
        if group.pending_members.len() >= PENDING_MEMBERS_MAX {
            return self.refuse_join(joining, ResponseError::CoordinatorNotAvailable);
        }
        let answer = join_error(wire(&member_id), ResponseError::MemberIdRequired);
        group.pending_members.insert(member_id.clone());
        let session_timeout_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0);
        self.schedule_session(group, &member_id, session_timeout_ms);
        self.reply_join(joining.waiter, answer);
    }

    /// A member that brings an id.
    fn join_known_member(&mut self, group: &mut Group, joining: &Joining<'_>) {
        let request = joining.request;
        let protocols = protocols_of(&request.protocols);
        if group.state == State::Dead {
            return self.refuse_join(joining, ResponseError::CoordinatorNotAvailable);
        }
        if !group.supports(&request.protocol_type, &protocols) {
            return self.refuse_join(joining, ResponseError::InconsistentGroupProtocol);
        }
        if group.pending_members.contains(request.member_id.as_str()) {
            if joining.instance_id().is_some() {
                // Ids with an instance are never pending; Kafka fails on this request with an internal error.
                return self.refuse_join(joining, ResponseError::UnknownMemberId);
            }
            return self.add_member(group, joining, request.member_id.as_str().into());
        }
        if let Err(error) = group.check_member(&request.member_id, joining.instance_id()) {
            return self.refuse_join(joining, error);
        }
        let Some(member) = group.members.get(request.member_id.as_str()) else { return };
        let has_changed = member.protocols != protocols;
        let is_leader = group.is_leader(&member.id);
        match group.state {
            State::PreparingRebalance => self.rejoin_member(group, joining),
            State::CompletingRebalance if has_changed => self.rejoin_member(group, joining),
            // A leader that joins a stable group wants a rebalance: the topics may have changed, not its
            // metadata.
            State::Stable if has_changed || is_leader => self.rejoin_member(group, joining),
            // It has missed the answer of this generation's join phase, or asks again: tell it.
            State::CompletingRebalance | State::Stable => {
                let members = if is_leader { group.joined_members() } else { Vec::new() };
                let response = joined(group, &request.member_id).with_members(members);
                self.reply_join(joining.waiter, response);
            }
            State::Empty | State::Dead => self.refuse_join(joining, ResponseError::UnknownMemberId),
        }
    }

    fn add_member(&mut self, group: &mut Group, joining: &Joining<'_>, member_id: Name) {
        let request = joining.request;
        if group.members.is_empty() {
            group.protocol_type = Some(request.protocol_type.as_str().into());
        }
        if group.state == State::PreparingRebalance
            && let Some(delay) = &mut group.initial_delay
        {
            delay.new_member_added = true;
        }
        group.insert(Member {
            id: member_id.clone(),
            group_instance_id: joining.instance_id().map(Name::from),
            client_id: joining.client_id.into(),
            client_host: joining.client_host.into(),
            rebalance_timeout_ms: joining.rebalance_timeout_ms(),
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols_of(&request.protocols),
            assignment: Default::default(),
            awaiting_join: Some(joining.waiter),
            awaiting_sync: None,
            is_new: true,
        });
        // The client may be gone without our knowing, because nothing is read from a connection that waits.
        self.schedule_session(group, &member_id, NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.prepare_rebalance_or_complete_join(group);
    }

    /// Takes a member's new metadata and its JoinGroup as waiting.
    fn update_member(&mut self, group: &mut Group, member_id: &str, joining: &Joining<'_>) {
        let Some(member) = group.members.get_mut(member_id) else { return };
        member.protocols = protocols_of(&joining.request.protocols);
        member.rebalance_timeout_ms = joining.rebalance_timeout_ms();
        member.session_timeout_ms = joining.request.session_timeout_ms;
        let overtaken = member.awaiting_join.replace(joining.waiter);
        if let Some(overtaken) = overtaken {
            let error = ResponseError::RebalanceInProgress;
            self.reply_join(overtaken, join_error(wire(member_id), error));
        }
    }

    fn rejoin_member(&mut self, group: &mut Group, joining: &Joining<'_>) {
        self.update_member(group, &joining.request.member_id, joining);
        self.prepare_rebalance_or_complete_join(group);
    }

    /// A static member is back without its id, so with a new one (KIP-345). Its former self is fenced.
    fn rejoin_static_member(
        &mut self,
        group: &mut Group,
        joining: &Joining<'_>,
        former_id: &Name,
        new_id: &Name,
    ) {
        let former_leader = group.leader.clone();
        let Some(mut former) = group.replace_static(former_id, new_id) else { return };
        self.end_session(group, former_id);
        self.dismiss(former.clone(), ResponseError::FencedInstanceId);
        former.awaiting_join = None;
        former.awaiting_sync = None;
        self.update_member(group, new_id, joining);
        self.restart_session(group, new_id);
        match group.state {
            State::Stable if group.vote() == group.protocol => {
                // Nothing changes for the others: no rebalance. The new id must outlive this coordinator, though.
                let value = group.to_record(&group.assignments());
                let change = Change::Group { group: group.id.clone(), value: Some(value) };
                let rejoin = StaticRejoin {
                    group: group.id.clone(),
                    waiter: joining.waiter,
                    former,
                    new_id: new_id.clone(),
                    former_leader,
                };
                self.append(vec![change], Completion::StaticMember(Box::new(rejoin)));
            }
            State::Stable => self.prepare_rebalance_or_complete_join(group),
            // The leader may be computing an assignment for the former id.
            State::CompletingRebalance => self.prepare_rebalance(group),
            State::PreparingRebalance | State::Empty | State::Dead => self.complete_join_if_all_joined(group),
        }
    }

    /// The new id of a static member is persisted, or will never be.
    pub(super) fn static_member_decided(&mut self, rejoin: StaticRejoin, result: Result<(), AppendError>) {
        let Some(mut group) = self.take(&rejoin.group) else { return };
        let is_waiting = group
            .members
            .get(&rejoin.new_id)
            .is_some_and(|member| member.awaiting_join == Some(rejoin.waiter));
        // When the group rebalances meanwhile, the member's JoinGroup is part of that and is answered at its end.
        if is_waiting && group.state == State::Stable {
            match result {
                Ok(()) => self.answer_static_rejoin(&mut group, &rejoin),
                Err(error) => self.revert_static_rejoin(&mut group, rejoin, error.client_error()),
            }
        }
        self.put(group);
    }

    fn answer_static_rejoin(&mut self, group: &mut Group, rejoin: &StaticRejoin) {
        let is_leader = group.is_leader(&rejoin.new_id);
        let mut response = joined(group, &rejoin.new_id);
        if rejoin.waiter.version >= VERSION_WITH_SKIP_ASSIGNMENT {
            response.skip_assignment = is_leader;
            response.members = if is_leader { group.joined_members() } else { Vec::new() };
        } else {
            // Told that somebody else leads, it does not assign anew.
            response.leader = rejoin.former_leader.as_deref().map(wire).unwrap_or_default();
        }
        if let Some(member) = group.members.get_mut(&rejoin.new_id) {
            member.awaiting_join = None;
        }
        self.restart_session(group, &rejoin.new_id);
        self.reply_join(rejoin.waiter, response);
    }

    fn revert_static_rejoin(&mut self, group: &mut Group, rejoin: StaticRejoin, error: ResponseError) {
        let former_id = rejoin.former.id.clone();
        let led = group.is_leader(&rejoin.new_id);
        group.remove(&rejoin.new_id);
        group.insert(rejoin.former);
        if led {
            group.leader = Some(former_id.clone());
        }
        self.end_session(group, &rejoin.new_id);
        self.restart_session(group, &former_id);
        self.reply_join(rejoin.waiter, join_error(StrBytes::new(), error));
    }

    /// The first record of a group is refused: the group was never there.
    pub(super) fn group_was_not_created(&mut self, name: &Name, error: ResponseError) {
        if self.groups.get(name).is_none_or(|group| group.is_committed) {
            return;
        }
        let Some(mut group) = self.take(name) else { return };
        for member in std::mem::take(&mut group.members).into_values() {
            self.end_session(&group, &member.id);
            self.dismiss(member, error);
        }
        self.cancel_timers(&group);
    }
}

/// The answer that makes somebody a member of the present generation.
pub(super) fn joined(group: &Group, member_id: &str) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_member_id(wire(member_id))
        .with_generation_id(group.generation)
        .with_protocol_type(group.protocol_type.as_deref().map(wire))
        .with_protocol_name(group.protocol.as_deref().map(wire))
        .with_leader(group.leader.as_deref().map(wire).unwrap_or_default())
}
