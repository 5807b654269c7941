//! What a member does once it has joined: SyncGroup, Heartbeat, LeaveGroup; and what happens when it stays
//! silent.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
    SyncGroupResponse,
};

use super::Name;
use super::api::{AppendError, GroupResponse};
use super::appends::Completion;
use super::group::{Group, State};
use super::member::{Waiter, wire};
use super::service::GroupCoordinator;
use super::store::Change;
use super::timers::TimerKey;

/// From this version on LeaveGroup names several members (KIP-345).
const VERSION_WITH_LEAVE_BATCH: i16 = 3;

impl GroupCoordinator {
    pub(super) fn sync_group(&mut self, waiter: Waiter, request: &SyncGroupRequest) {
        let Some(mut group) = self.take(&request.group_id) else {
            return self.reply_sync_error(waiter, ResponseError::UnknownMemberId);
        };
        match check_sync(&group, request) {
            Err(error) => self.reply_sync_error(waiter, error),
            Ok(()) => self.sync_member(&mut group, waiter, request),
        }
        self.put(group);
    }

    fn sync_member(&mut self, group: &mut Group, waiter: Waiter, request: &SyncGroupRequest) {
        match group.state {
            State::PreparingRebalance => self.reply_sync_error(waiter, ResponseError::RebalanceInProgress),
            State::CompletingRebalance => {
                self.note_synced(group, &request.member_id);
                let Some(member) = group.members.get_mut(request.member_id.as_str()) else { return };
                if let Some(overtaken) = member.awaiting_sync.replace(waiter) {
                    self.reply_sync_error(overtaken, ResponseError::RebalanceInProgress);
                }
                if group.is_leader(&request.member_id) {
                    self.persist_assignment(group, request);
                }
            }
            State::Stable => {
                self.note_synced(group, &request.member_id);
                let Some(member) = group.members.get(request.member_id.as_str()) else { return };
                let response = synced(group, member.assignment.clone());
                self.reply(waiter, GroupResponse::SyncGroup(response));
            }
            State::Empty | State::Dead => self.reply_sync_error(waiter, ResponseError::UnknownMemberId),
        }
    }

    /// The leader has decided. Members hear of it when it is committed.
    fn persist_assignment(&mut self, group: &Group, request: &SyncGroupRequest) {
        let mut assignments: BTreeMap<Name, Bytes> = BTreeMap::new();
        for assigned in &request.assignments {
            if group.members.contains_key(assigned.member_id.as_str()) {
                let assignment = Bytes::copy_from_slice(&assigned.assignment);
                assignments.insert(assigned.member_id.as_str().into(), assignment);
            }
        }
        let value = group.to_record(&assignments);
        let completion =
            Completion::Assignment { group: group.id.clone(), generation: group.generation, assignments };
        self.append(vec![Change::Group { group: group.id.clone(), value: Some(value) }], completion);
    }

    /// The leader's assignment is committed, or will never be.
    pub(super) fn assignment_decided(
        &mut self,
        name: &Name,
        generation: i32,
        assignments: &BTreeMap<Name, Bytes>,
        result: Result<(), AppendError>,
    ) {
        let Some(mut group) = self.take(name) else { return };
        // Otherwise somebody has joined or gone meanwhile, and the next generation is on its way.
        if group.state == State::CompletingRebalance && group.generation == generation {
            match result {
                Ok(()) => self.become_stable(&mut group, assignments),
                Err(error) => {
                    self.propagate_assignment_error(&mut group, error.client_error());
                    self.prepare_rebalance(&mut group);
                }
            }
        }
        self.put(group);
    }

    fn become_stable(&mut self, group: &mut Group, assignments: &BTreeMap<Name, Bytes>) {
        for member in group.members.values_mut() {
            member.assignment = assignments.get(&member.id).cloned().unwrap_or_default();
        }
        group.transition(State::Stable, self.clock.wall_ms);
        let member_ids: Vec<Name> = group.members.keys().cloned().collect();
        for member_id in member_ids {
            let Some(member) = group.members.get_mut(&member_id) else { continue };
            let Some(waiter) = member.awaiting_sync.take() else { continue };
            let assignment = member.assignment.clone();
            let response = synced(group, assignment);
            self.reply(waiter, GroupResponse::SyncGroup(response));
            // A session that ran out while the member waited was let pass, and nobody watches it now.
            self.restart_session(group, &member_id);
        }
    }

    /// Fails the sync phase for all who wait in it.
    pub(super) fn propagate_assignment_error(&mut self, group: &mut Group, error: ResponseError) {
        let mut synced = Vec::new();
        for member in group.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(waiter) = member.awaiting_sync.take() {
                synced.push((member.id.clone(), waiter));
            }
        }
        for (member_id, waiter) in synced {
            self.reply_sync_error(waiter, error);
            self.restart_session(group, &member_id);
        }
    }

    fn note_synced(&mut self, group: &mut Group, member_id: &str) {
        group.pending_sync.remove(member_id);
        if group.pending_sync.is_empty() {
            self.timers.cancel(&TimerKey::Sync(group.id.clone()));
        }
    }

    pub(super) fn reply_sync_error(&mut self, waiter: Waiter, error: ResponseError) {
        let response = SyncGroupResponse::default().with_error_code(error.code());
        self.reply(waiter, GroupResponse::SyncGroup(response));
    }

    pub(super) fn heartbeat(&mut self, waiter: Waiter, request: &HeartbeatRequest) {
        let result = match self.take(&request.group_id) {
            None => Err(ResponseError::UnknownMemberId),
            Some(group) => {
                let result = check_heartbeat(&group, request);
                if matches!(result, Ok(()) | Err(ResponseError::RebalanceInProgress)) {
                    self.restart_session(&group, &request.member_id);
                }
                self.put(group);
                result
            }
        };
        let code = result.err().map_or(0, |error| error.code());
        self.reply(waiter, GroupResponse::Heartbeat(HeartbeatResponse::default().with_error_code(code)));
    }

    pub(super) fn leave_group(&mut self, waiter: Waiter, request: &LeaveGroupRequest) {
        let single;
        let leaving: &[MemberIdentity] = if waiter.version >= VERSION_WITH_LEAVE_BATCH {
            &request.members
        } else {
            single = [MemberIdentity::default().with_member_id(request.member_id.clone())];
            &single
        };
        let Some(mut group) = self.take(&request.group_id) else {
            let unknown = |member| member_response(member, Err(ResponseError::UnknownMemberId));
            let members = leaving.iter().map(unknown).collect();
            let response = LeaveGroupResponse::default().with_members(members);
            return self.reply(waiter, GroupResponse::LeaveGroup(response));
        };
        if group.state == State::Dead {
            self.put(group);
            let error = ResponseError::CoordinatorNotAvailable;
            let response = LeaveGroupResponse::default().with_error_code(error.code());
            return self.reply(waiter, GroupResponse::LeaveGroup(response));
        }
        let mark = self.append_mark();
        let mut has_left = false;
        let mut members = Vec::with_capacity(leaving.len());
        for member in leaving {
            let result = self.remove_leaving(&mut group, member);
            has_left |= result.is_ok();
            members.push(member_response(member, result));
        }
        if has_left {
            match group.state {
                State::Stable | State::CompletingRebalance => self.prepare_rebalance(&mut group),
                State::PreparingRebalance => self.complete_join_if_all_joined(&mut group),
                State::Empty | State::Dead => {}
            }
        }
        self.put(group);
        let response = LeaveGroupResponse::default().with_members(members);
        self.reply_after(mark, waiter, GroupResponse::LeaveGroup(response));
    }

    fn remove_leaving(&mut self, group: &mut Group, leaving: &MemberIdentity) -> Result<(), ResponseError> {
        let instance_id = leaving.group_instance_id.as_deref();
        let member_id: Name = if leaving.member_id.is_empty() {
            // An administrator removes a static member by its instance id.
            let known = instance_id.and_then(|instance_id| group.static_member_id(instance_id));
            known.cloned().ok_or(ResponseError::UnknownMemberId)?
        } else {
            if !group.pending_members.contains(leaving.member_id.as_str()) {
                group.check_member(&leaving.member_id, instance_id)?;
            }
            leaving.member_id.as_str().into()
        };
        self.end_session(group, &member_id);
        if let Some(member) = group.remove(&member_id) {
            self.dismiss(member, ResponseError::UnknownMemberId);
        }
        Ok(())
    }

    /// A member has been silent for its session timeout.
    pub(super) fn session_is_over(&mut self, name: &Name, member_id: &Name) {
        let Some(mut group) = self.take(name) else { return };
        if group.pending_members.contains(member_id) {
            group.remove(member_id);
            self.complete_join_after_removal(&mut group);
        } else if group.members.get(member_id).is_some_and(|member| !member.is_excused()) {
            if let Some(member) = group.remove(member_id) {
                self.dismiss(member, ResponseError::UnknownMemberId);
            }
            match group.state {
                State::Stable | State::CompletingRebalance => self.prepare_rebalance(&mut group),
                _ => self.complete_join_after_removal(&mut group),
            }
        }
        self.put(group);
    }

    /// Some members of a generation have joined but never synced: they are taken for gone.
    pub(super) fn sync_time_is_up(&mut self, name: &Name) {
        let Some(mut group) = self.take(name) else { return };
        let in_generation = matches!(group.state, State::CompletingRebalance | State::Stable);
        if in_generation && !group.pending_sync.is_empty() {
            for member_id in std::mem::take(&mut group.pending_sync) {
                self.end_session(&group, &member_id);
                if let Some(member) = group.remove(&member_id) {
                    self.dismiss(member, ResponseError::UnknownMemberId);
                }
            }
            self.prepare_rebalance(&mut group);
        }
        self.put(group);
    }

    /// The member has been heard of.
    pub(super) fn restart_session(&mut self, group: &Group, member_id: &str) {
        let Some(member) = group.members.get(member_id) else { return };
        let timeout_ms = u64::try_from(member.session_timeout_ms).unwrap_or(0);
        self.schedule_session(group, &member.id, timeout_ms);
    }

    pub(super) fn schedule_session(&mut self, group: &Group, member_id: &Name, timeout_ms: u64) {
        let key = TimerKey::Session { group: group.id.clone(), member_id: member_id.clone() };
        self.timers.schedule(key, self.clock.now_ms.saturating_add(timeout_ms));
    }

    pub(super) fn end_session(&mut self, group: &Group, member_id: &str) {
        self.timers.cancel(&TimerKey::Session { group: group.id.clone(), member_id: member_id.into() });
    }

    /// Forgets all deadlines of a group and of those members and pending ids that it still has.
    pub(super) fn cancel_timers(&mut self, group: &Group) {
        self.timers.cancel(&TimerKey::Join(group.id.clone()));
        self.timers.cancel(&TimerKey::Sync(group.id.clone()));
        for member_id in group.members.keys().chain(&group.pending_members) {
            self.end_session(group, member_id);
        }
    }
}

fn check_sync(group: &Group, request: &SyncGroupRequest) -> Result<(), ResponseError> {
    let differs = |named: Option<&str>, current: Option<&str>| {
        named.zip(current).is_some_and(|(named, current)| named != current)
    };
    match group.state {
        State::Dead => return Err(ResponseError::CoordinatorNotAvailable),
        State::Empty => return Err(ResponseError::UnknownMemberId),
        _ => group.check_member(&request.member_id, request.group_instance_id.as_deref())?,
    }
    if request.generation_id != group.generation {
        return Err(ResponseError::IllegalGeneration);
    }
    if differs(request.protocol_type.as_deref(), group.protocol_type.as_deref())
        || differs(request.protocol_name.as_deref(), group.protocol.as_deref())
    {
        return Err(ResponseError::InconsistentGroupProtocol);
    }
    Ok(())
}

fn check_heartbeat(group: &Group, request: &HeartbeatRequest) -> Result<(), ResponseError> {
    if group.state == State::Dead {
        return Err(ResponseError::CoordinatorNotAvailable);
    }
    group.check_member(&request.member_id, request.group_instance_id.as_deref())?;
    if request.generation_id != group.generation {
        return Err(ResponseError::IllegalGeneration);
    }
    match group.state {
        State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
        // Consumers may heartbeat as soon as they have joined, before they sync.
        State::CompletingRebalance | State::Stable => Ok(()),
        State::Empty | State::Dead => Err(ResponseError::UnknownMemberId),
    }
}

fn member_response(member: &MemberIdentity, result: Result<(), ResponseError>) -> MemberResponse {
    MemberResponse::default()
        .with_member_id(member.member_id.clone())
        .with_group_instance_id(member.group_instance_id.clone())
        .with_error_code(result.err().map_or(0, |error| error.code()))
}

fn synced(group: &Group, assignment: Bytes) -> SyncGroupResponse {
    SyncGroupResponse::default()
        .with_protocol_type(group.protocol_type.as_deref().map(wire))
        .with_protocol_name(group.protocol.as_deref().map(wire))
        .with_assignment(assignment)
}
