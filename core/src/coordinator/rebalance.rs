//! The join phase: how a rebalance begins, how long it waits for members, and how a generation comes out of it.

use kafka_protocol::ResponseError;

use super::Name;
use super::appends::Completion;
use super::group::{Group, InitialDelay, State};
use super::join::joined;
use super::service::GroupCoordinator;
use super::store::Change;
use super::timers::TimerKey;

impl GroupCoordinator {
    /// Somebody has joined or gone: a rebalance begins, or the one that runs may now be complete.
    pub(super) fn prepare_rebalance_or_complete_join(&mut self, group: &mut Group) {
        match group.state {
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(group),
            State::PreparingRebalance => self.complete_join_if_all_joined(group),
            State::Dead => {}
        }
    }

    /// Begins a rebalance.
    pub(super) fn prepare_rebalance(&mut self, group: &mut Group) {
        if group.state == State::CompletingRebalance {
            self.propagate_assignment_error(group, ResponseError::RebalanceInProgress);
        }
        group.pending_sync.clear();
        self.timers.cancel(&TimerKey::Sync(group.id.clone()));
        let is_initial = group.state == State::Empty;
        group.transition(State::PreparingRebalance, self.clock.wall_ms);
        if is_initial {
            // Nobody waits for an assignment yet: give others the time to come, rather than rebalance for each.
            let delay_ms = self.initial_delay_ms();
            let remaining_ms = group.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.schedule_initial_delay(group, delay_ms, remaining_ms);
        } else if group.have_all_joined() {
            self.complete_join(group);
        } else {
            self.schedule_join(group, group.rebalance_timeout_ms());
        }
    }

    /// Ends the join phase when everybody is there, unless an initial delay runs.
    pub(super) fn complete_join_if_all_joined(&mut self, group: &mut Group) {
        let may_complete = group.state == State::PreparingRebalance && group.previous_state != State::Empty;
        if may_complete && group.have_all_joined() {
            self.complete_join(group);
        }
    }

    /// Somebody has gone during the join phase, by time: the initial delay does not hold it up then (as in
    /// Kafka).
    pub(super) fn complete_join_after_removal(&mut self, group: &mut Group) {
        if group.state == State::PreparingRebalance && group.have_all_joined() {
            self.complete_join(group);
        }
    }

    /// Ends the join phase with those who have come: a new generation, or an empty group.
    pub(super) fn complete_join(&mut self, group: &mut Group) {
        self.timers.cancel(&TimerKey::Join(group.id.clone()));
        group.initial_delay = None;
        if group.state == State::Dead {
            return;
        }
        self.remove_who_did_not_rejoin(group);
        if !group.elect_joined_leader() && !group.members.is_empty() {
            // Only static members are left, and none has come: wait until one does or their sessions end.
            self.schedule_join(group, group.rebalance_timeout_ms());
            return;
        }
        group.start_generation(self.clock.wall_ms);
        if group.members.is_empty() {
            let value = group.to_record(&Default::default());
            // If this fails, the generation before comes back with the next coordinator and times out there.
            self.append(
                vec![Change::Group { group: group.id.clone(), value: Some(value) }],
                Completion::Nothing,
            );
            return;
        }
        self.answer_joins(group);
        let deadline_ms = self.deadline_in(group.rebalance_timeout_ms());
        self.timers.schedule(TimerKey::Sync(group.id.clone()), deadline_ms);
    }

    fn remove_who_did_not_rejoin(&mut self, group: &mut Group) {
        let missing: Vec<Name> = group
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.group_instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for member_id in missing {
            self.end_session(group, &member_id);
            if let Some(member) = group.remove(&member_id) {
                self.dismiss(member, ResponseError::UnknownMemberId);
            }
        }
    }

    fn answer_joins(&mut self, group: &mut Group) {
        let member_ids: Vec<Name> = group.members.keys().cloned().collect();
        for member_id in member_ids {
            let members = if group.is_leader(&member_id) { group.joined_members() } else { Vec::new() };
            let response = joined(group, &member_id).with_members(members);
            let Some(member) = group.members.get_mut(&member_id) else { continue };
            member.is_new = false;
            if let Some(waiter) = member.awaiting_join.take() {
                self.reply_join(waiter, response);
            }
            group.pending_sync.insert(member_id.clone());
            self.restart_session(group, &member_id);
        }
    }

    fn initial_delay_ms(&self) -> u64 {
        u64::try_from(self.config.initial_rebalance_delay_ms).unwrap_or(0)
    }

    fn schedule_initial_delay(&mut self, group: &mut Group, delay_ms: u64, remaining_ms: u64) {
        group.initial_delay = Some(InitialDelay { delay_ms, remaining_ms, new_member_added: false });
        self.schedule_join(group, delay_ms);
    }

    fn schedule_join(&mut self, group: &Group, delay_ms: u64) {
        let deadline_ms = self.deadline_in(delay_ms);
        self.timers.schedule(TimerKey::Join(group.id.clone()), deadline_ms);
    }

    /// The join phase has taken as long as it may, or a stretch of the initial delay is over.
    pub(super) fn join_time_is_up(&mut self, name: &Name) {
        let Some(mut group) = self.take(name) else { return };
        match group.initial_delay {
            Some(delay) if delay.new_member_added && delay.remaining_ms > 0 => {
                let next_ms = self.initial_delay_ms().min(delay.remaining_ms);
                let remaining_ms = delay.remaining_ms.saturating_sub(delay.delay_ms);
                self.schedule_initial_delay(&mut group, next_ms, remaining_ms);
            }
            _ if group.state == State::PreparingRebalance => self.complete_join(&mut group),
            _ => {}
        }
        self.put(group);
    }
}
