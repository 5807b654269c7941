//! Appends: from a decision to records on their way, and what happens when their fate is known.
//!
//! Appends are numbered in the order in which their records must stand in the log. Whoever waits for one is
//! answered by its result or by `offsets.commit.timeout.ms`; the store waits for the result however late it
//! comes, because the log may hold what a client was told had timed out.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::DeleteGroupsResponse;

use super::Name;
use super::api::{Action, AppendError, AppendToken, CallId, GroupRequest, GroupResponse, RequestKind};
use super::group::State;
use super::member::{Member, Waiter};
use super::records::{Record, RecordKey};
use super::service::{Clock, GroupCoordinator};
use super::store::Change;
use super::timers::TimerKey;

/// Bytes of records beyond which an append is cut in two: well below `max.message.bytes` of the offsets topic,
/// so that deleting a group with a hundred thousand offsets is several batches rather than one that is refused.
const APPEND_BYTES_MAX: usize = 256 * 1024;
/// Overhead counted for a record beside its key and value.
const RECORD_OVERHEAD_BYTES: usize = 16;

/// What happens once an append is decided.
pub(super) enum Completion {
    /// Nothing: expiry, deleted topics, an emptied group.
    Nothing,
    /// An earlier part of the append `last`, which fails with it.
    Part { last: AppendToken },
    /// This answer, or its failure.
    Reply { waiter: Waiter, response: Box<GroupResponse> },
    /// A group's first record. When it fails the group was never there.
    GroupCreated { group: Name },
    /// The leader's assignment of a generation.
    Assignment { group: Name, generation: i32, assignments: BTreeMap<Name, Bytes> },
    /// A static member came back to a stable group under another id.
    StaticMember(Box<StaticRejoin>),
    /// Tombstones of groups, which are dead meanwhile.
    GroupsDeleted { reply: Option<(Waiter, Box<DeleteGroupsResponse>)>, groups: Vec<Name> },
}

/// A static member that waits for its new id to be persisted.
pub(super) struct StaticRejoin {
    pub(super) group: Name,
    pub(super) waiter: Waiter,
    /// The member as it was before, to go back to.
    pub(super) former: Member,
    pub(super) new_id: Name,
    /// The group's leader before; clients below version 9 are told this one, so that they do not assign anew.
    pub(super) former_leader: Option<Name>,
}

/// An append whose fate is not known.
pub(super) struct InFlight {
    pub(super) completion: Completion,
    /// An earlier part of the same append has failed.
    failed: Option<AppendError>,
    /// OffsetFetches that asked for stable offsets and wait until all before them is decided.
    pub(super) fetches: Vec<(CallId, Box<GroupRequest>)>,
}

impl GroupCoordinator {
    /// What became of an append. After [`AppendError::TimedOut`] a final result for the same token may follow.
    pub fn appended(
        &mut self,
        token: AppendToken,
        result: Result<(), AppendError>,
        now_ms: u64,
        wall_ms: i64,
    ) {
        self.clock = Clock { now_ms, wall_ms };
        if result == Err(AppendError::TimedOut) {
            return self.time_out_append(token);
        }
        self.timers.cancel(&TimerKey::Append(token));
        let keys = self.store.resolve(token, result.is_ok());
        self.note_committed(&keys, result.is_ok());
        let Some(append) = self.in_flight.remove(&token) else { return };
        let result = append.failed.map_or(result, Err);
        self.complete(append.completion, result);
        if result.is_err() {
            self.forget_unborn(&keys);
        }
        for (call, request) in append.fetches {
            let waiter = Waiter { call, version: request.version };
            if let RequestKind::OffsetFetch(fetch) = request.kind {
                self.answer_fetch(waiter, &fetch);
            }
        }
    }

    /// Appends records, in several batches when they are too many for one. The completion runs with the last.
    pub(super) fn append(&mut self, changes: Vec<Change>, completion: Completion) {
        let mut batches: Vec<(Vec<Record>, Vec<Change>)> = Vec::new();
        let mut batch_bytes = APPEND_BYTES_MAX;
        for change in changes {
            let record = change.record(self.clock.wall_ms);
            let record_bytes =
                RECORD_OVERHEAD_BYTES + record.key.len() + record.value.as_ref().map_or(0, Bytes::len);
            if batches.is_empty() || batch_bytes + record_bytes > APPEND_BYTES_MAX {
                batches.push((Vec::new(), Vec::new()));
                batch_bytes = 0;
            }
            batch_bytes += record_bytes;
            if let Some((records, staged)) = batches.last_mut() {
                records.push(record);
                staged.push(change);
            }
        }
        let first = self.next_token;
        self.next_token += batches.len() as u64;
        let last = AppendToken(self.next_token - 1);
        let mut completion = Some(completion);
        for (number, (records, staged)) in (first..).zip(batches) {
            let token = AppendToken(number);
            let part = Completion::Part { last };
            let completion = if token == last { completion.take().unwrap_or(part) } else { part };
            self.store.stage(token, staged);
            self.in_flight.insert(token, InFlight { completion, failed: None, fetches: Vec::new() });
            let timeout_ms = u64::try_from(self.config.offsets_commit_timeout_ms).unwrap_or(0);
            self.timers.schedule(TimerKey::Append(token), self.deadline_in(timeout_ms));
            self.actions.push(Action::Append { token, records });
        }
    }

    /// Where [`Self::reply_after`] counts from.
    pub(super) fn append_mark(&self) -> AppendToken {
        AppendToken(self.next_token)
    }

    /// Answers when what has been appended since `mark` is committed; at once when nothing has been.
    pub(super) fn reply_after(&mut self, mark: AppendToken, waiter: Waiter, response: GroupResponse) {
        match self.in_flight.last_entry() {
            Some(mut append) if *append.key() >= mark => {
                append.get_mut().completion = Completion::Reply { waiter, response: Box::new(response) };
            }
            _ => self.reply(waiter, response),
        }
    }

    /// Makes a fetch wait until everything that is in flight now has been decided. Gives it back when nothing is.
    pub(super) fn await_in_flight(&mut self, call: CallId, request: GroupRequest) -> Option<GroupRequest> {
        let append = self.store.newest_in_flight().and_then(|token| self.in_flight.get_mut(&token));
        let Some(append) = append else { return Some(request) };
        append.fetches.push((call, Box::new(request)));
        None
    }

    /// The client has waited long enough. The records may still be committed, so the store goes on waiting.
    pub(super) fn time_out_append(&mut self, token: AppendToken) {
        let Some(append) = self.in_flight.get_mut(&token) else { return };
        let fetches = std::mem::take(&mut append.fetches);
        let follow_up = match &append.completion {
            // Nobody waits; what is to be done when the result is known stays to be done.
            Completion::Nothing | Completion::Part { .. } | Completion::GroupCreated { .. } => {
                Completion::Nothing
            }
            Completion::GroupsDeleted { groups, .. } => {
                let later = Completion::GroupsDeleted { reply: None, groups: groups.clone() };
                std::mem::replace(&mut append.completion, later)
            }
            _ => std::mem::replace(&mut append.completion, Completion::Nothing),
        };
        match follow_up {
            Completion::GroupsDeleted { reply, .. } => {
                let answer = Completion::GroupsDeleted { reply, groups: Vec::new() };
                self.complete(answer, Err(AppendError::TimedOut));
            }
            other => self.complete(other, Err(AppendError::TimedOut)),
        }
        for (call, request) in fetches {
            // Old consumers retry a fetch on NOT_COORDINATOR only (Kafka's `handleOffsetFetchException`).
            let response = request.refused(ResponseError::NotCoordinator);
            self.reply(Waiter { call, version: request.version }, response);
        }
    }

    fn complete(&mut self, completion: Completion, result: Result<(), AppendError>) {
        match completion {
            Completion::Nothing => {}
            Completion::Part { last } => {
                if let (Err(error), Some(append)) = (result, self.in_flight.get_mut(&last)) {
                    append.failed = Some(error);
                }
            }
            Completion::Reply { waiter, response } => {
                let response = match result {
                    Ok(()) => *response,
                    Err(error) => response.failed(error.client_error()),
                };
                self.reply(waiter, response);
            }
            Completion::GroupCreated { group } => {
                if let Err(error) = result {
                    self.group_was_not_created(&group, error.client_error());
                }
            }
            Completion::Assignment { group, generation, assignments } => {
                self.assignment_decided(&group, generation, &assignments, result);
            }
            Completion::StaticMember(rejoin) => self.static_member_decided(*rejoin, result),
            Completion::GroupsDeleted { reply, groups } => self.groups_deleted(reply, &groups, result),
        }
    }

    /// Answers whoever waits for an append, when it does not matter any more what becomes of it. Members have
    /// been dismissed.
    pub(super) fn refuse_completion(&mut self, completion: Completion, error: ResponseError) {
        match completion {
            Completion::Reply { waiter, response } => self.reply(waiter, response.failed(error)),
            Completion::GroupsDeleted { reply: Some((waiter, response)), .. } => {
                self.reply(waiter, GroupResponse::DeleteGroups(*response).failed(error));
            }
            // These are awaited by members, which the group's own waiters stand for.
            _ => {}
        }
    }

    fn note_committed(&mut self, keys: &[RecordKey], committed: bool) {
        if !committed {
            return;
        }
        for key in keys {
            if let Some(group) = self.groups.get_mut(key.group()) {
                group.is_committed = true;
            }
        }
    }

    /// Drops groups that were made for records which will never be.
    fn forget_unborn(&mut self, keys: &[RecordKey]) {
        for key in keys {
            let name = key.group();
            let is_unborn = self.groups.get(name).is_some_and(|group| {
                !group.is_committed && group.state == State::Empty && group.pending_members.is_empty()
            });
            if is_unborn && !self.store.has_any(name) {
                self.groups.remove(name);
            }
        }
    }
}
