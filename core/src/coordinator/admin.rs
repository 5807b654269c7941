//! What administrators ask: ListGroups, DescribeGroups, DeleteGroups.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    ListGroupsRequest, ListGroupsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::Name;
use super::api::{AppendError, GroupResponse};
use super::appends::Completion;
use super::group::{Group, State};
use super::member::{Waiter, wire};
use super::offsets::offset_tombstone;
use super::service::GroupCoordinator;
use super::store::Change;

/// The type that ListGroups gives to these groups (KIP-848).
const GROUP_TYPE: &str = "classic";
/// From this version on DescribeGroups says that a group is missing (KIP-1043).
const VERSION_WITH_GROUP_ID_NOT_FOUND: i16 = 6;

impl GroupCoordinator {
    pub(super) fn list_groups(&mut self, waiter: Waiter, request: &ListGroupsRequest) {
        let states: BTreeSet<String> =
            request.states_filter.iter().map(|state| state.trim().to_lowercase()).collect();
        let is_type_wanted = request.types_filter.is_empty()
            || request.types_filter.iter().any(|name| name.trim().eq_ignore_ascii_case(GROUP_TYPE));
        let listed = self.groups.values().filter(|group| {
            let is_state_wanted = states.is_empty() || states.contains(&group.state.name().to_lowercase());
            group.is_committed && group.state != State::Dead && is_type_wanted && is_state_wanted
        });
        let groups = listed.map(|group| {
            ListedGroup::default()
                .with_group_id(GroupId(wire(&group.id)))
                .with_protocol_type(group.protocol_type.as_deref().map(wire).unwrap_or_default())
                .with_group_state(StrBytes::from_static_str(group.state.name()))
                .with_group_type(StrBytes::from_static_str(GROUP_TYPE))
        });
        let response = ListGroupsResponse::default().with_groups(groups.collect());
        self.reply(waiter, GroupResponse::ListGroups(response));
    }

    pub(super) fn describe_groups(&mut self, waiter: Waiter, request: &DescribeGroupsRequest) {
        // Each group once, however often it is named: the answer must not be a multiple of the question.
        let mut named = BTreeSet::new();
        let asked = request.groups.iter().filter(|group_id| named.insert(group_id.as_str()));
        let groups = asked.map(|group_id| {
            let group = self.groups.get(group_id.as_str());
            match group.filter(|group| group.is_committed && group.state != State::Dead) {
                Some(group) => described(group),
                None => missing(group_id, waiter.version),
            }
        });
        let response = DescribeGroupsResponse::default().with_groups(groups.collect());
        self.reply(waiter, GroupResponse::DescribeGroups(response));
    }

    pub(super) fn delete_groups(&mut self, waiter: Waiter, request: &DeleteGroupsRequest) {
        let mut changes = Vec::new();
        let mut deleted: Vec<Name> = Vec::new();
        let mut results = Vec::with_capacity(request.groups_names.len());
        for group_id in &request.groups_names {
            let result = DeletableGroupResult::default().with_group_id(group_id.clone());
            let state = self.groups.get(group_id.as_str()).map(|group| group.state);
            let error = match state {
                None | Some(State::Dead) => Some(ResponseError::GroupIdNotFound),
                Some(State::Empty) => None,
                Some(_) => Some(ResponseError::NonEmptyGroup),
            };
            if error.is_none() {
                let name: Name = group_id.as_str().into();
                self.push_deletion(&name, &mut changes);
                self.bury(std::slice::from_ref(&name));
                deleted.push(name);
            }
            results.push(result.with_error_code(error.map_or(0, |error| error.code())));
        }
        let response = DeleteGroupsResponse::default().with_results(results);
        if changes.is_empty() {
            return self.reply(waiter, GroupResponse::DeleteGroups(response));
        }
        let reply = Some((waiter, Box::new(response)));
        self.append(changes, Completion::GroupsDeleted { reply, groups: deleted });
    }

    /// The records that delete a group: first its offsets, last the group, so that a part of them leaves a group
    /// that is still there.
    fn push_deletion(&self, name: &Name, changes: &mut Vec<Change>) {
        for (topic, slots) in self.store.offsets_of(name).into_iter().flatten() {
            let live = slots.iter().filter(|(_, slot)| slot.newest().is_some());
            changes.extend(live.map(|(index, _)| offset_tombstone(name, topic, *index)));
        }
        changes.push(Change::Group { group: name.clone(), value: None });
    }

    /// Groups whose tombstones are on their way answer nobody until that is decided.
    pub(super) fn bury(&mut self, names: &[Name]) {
        for name in names {
            let Some(mut group) = self.take(name) else { continue };
            // Ids that were handed out for it are worth nothing now.
            self.cancel_timers(&group);
            group.pending_members.clear();
            group.state = State::Dead;
            self.put(group);
        }
    }

    /// The tombstones of groups are committed, or will never be.
    pub(super) fn groups_deleted(
        &mut self,
        reply: Option<(Waiter, Box<DeleteGroupsResponse>)>,
        names: &[Name],
        result: Result<(), AppendError>,
    ) {
        for name in names {
            match result {
                Ok(()) => {
                    self.groups.remove(name);
                }
                Err(_) => {
                    if let Some(group) = self.groups.get_mut(name) {
                        group.state = State::Empty;
                    }
                }
            }
        }
        if let Some((waiter, response)) = reply {
            let response = GroupResponse::DeleteGroups(*response);
            let response = match result {
                Ok(()) => response,
                Err(error) => response.failed(error.client_error()),
            };
            self.reply(waiter, response);
        }
    }
}

fn described(group: &Group) -> DescribedGroup {
    let protocol = group.protocol.as_deref().filter(|_| group.state == State::Stable);
    DescribedGroup::default()
        .with_group_id(GroupId(wire(&group.id)))
        .with_group_state(StrBytes::from_static_str(group.state.name()))
        .with_protocol_type(group.protocol_type.as_deref().map(wire).unwrap_or_default())
        .with_protocol_data(protocol.map(wire).unwrap_or_default())
        .with_members(group.members.values().map(|member| member.described(protocol)).collect())
}

fn missing(group_id: &GroupId, version: i16) -> DescribedGroup {
    let answer = DescribedGroup::default()
        .with_group_id(group_id.clone())
        .with_group_state(StrBytes::from_static_str(State::Dead.name()));
    if version < VERSION_WITH_GROUP_ID_NOT_FOUND {
        return answer;
    }
    answer
        .with_error_code(ResponseError::GroupIdNotFound.code())
        .with_error_message(Some(StrBytes::from_string(format!("Group {} not found.", group_id.as_str()))))
}
