//! What shard 0 looks after by itself, now and then: its own part in the cluster, what waits, and, where it leads the metadata
//! group, the members of that group.

use chronik_raft::leadership::Leadership;
use chronik_wal::types::GroupId;

use super::AdminReply;
use super::plans::PlanAsker;
use crate::metadata::membership::{Step, Target, next_step};
use crate::shard::{Shard, Timer};

/// How often a node with others looks after all of this.
const TEND_EVERY_MS: u64 = 200;

impl Shard {
    /// Sets the time of the next [`Shard::tend`], unless it is due earlier.
    pub(in crate::shard) fn tend_within(&mut self, ms: u64) {
        let at_ms = self.now.mono_ms + ms;
        let Some(host) = &mut self.controller else { return };
        if host.tend_at_ms.is_some_and(|set_ms| set_ms <= at_ms) {
            return;
        }
        if let Some(later_ms) = host.tend_at_ms.replace(at_ms) {
            self.timers.remove(&(later_ms, Timer::Tend));
        }
        self.set_timer(at_ms, Timer::Tend);
    }

    /// Looks after everything that is not an answer to something.
    pub(in crate::shard) fn tend(&mut self) {
        if let Some(host) = &mut self.controller
            && let Some(at_ms) = host.tend_at_ms.take()
        {
            self.timers.remove(&(at_ms, Timer::Tend));
        }
        self.bootstrap();
        self.register();
        self.proceed_all();
        self.disseminate();
        self.lead_metadata_group();
        self.grow_internal_topics();
        let Some(host) = &self.controller else { return };
        let waits =
            !host.forwards.is_empty() || !host.id_waiters.is_empty() || !host.is_registered(self.node);
        if host.has_others() || waits {
            self.tend_within(TEND_EVERY_MS);
        }
    }

    /// Gives internal topics the replicas that more brokers allow.
    fn grow_internal_topics(&mut self) {
        let Some(host) = &mut self.controller else { return };
        let Some(controller) = &mut host.controller else { return };
        if !host.unproposed.is_empty() {
            return;
        }
        let plan = controller.plan_growth(host.builder.current()).map(|()| AdminReply::Done);
        if !plan.commands.is_empty() {
            self.carry_plan(PlanAsker::Nobody, plan, u32::MAX);
        }
    }

    /// Brings the members of the metadata group to what they are to be, one change at a time.
    fn lead_metadata_group(&mut self) {
        let group = GroupId::METADATA;
        let Some(Leadership::Leader { .. }) = self.driver.leadership(group) else { return };
        let Some(host) = &mut self.controller else { return };
        let members = host.state.metadata_replicas();
        let target = Target::of(members);
        let is_complete = members.is_complete();
        let (Some(configuration), Some(own)) =
            (self.driver.configuration(group), self.driver.state(group).map(|state| state.peer))
        else {
            return;
        };
        if target.members.is_empty() {
            return;
        }
        let last = self.driver.last_index(group).unwrap_or_default();
        match next_step(configuration, &target, &self.driver.progress(group), own, last) {
            Step::Wait => {}
            Step::Reached if is_complete => {}
            // It may bring or take a member for a target that is another by now.
            Step::Reached if self.driver.is_changing_members(group) => {}
            Step::Reached => {
                let Some(controller) = &mut host.controller else { return };
                let placed = host.state.metadata_replicas();
                let plan = controller.plan_completed_metadata_placement(placed).map(|()| AdminReply::Done);
                self.carry_plan(PlanAsker::Nobody, plan, u32::MAX);
            }
            Step::Change(change) => {
                // A joiner begins with nothing but the list of members: the metadata come as an image, never as a log from
                // its first entry on, which would not begin with what the founders began with.
                if self.driver.log_start(group).unwrap_or_default().index.0 == 0 {
                    return self.make_metadata_image();
                }
                match self.driver.propose_configuration(group, &change) {
                    Ok(_) => tracing::info!(?change, "the metadata group changes"),
                    Err(error) => tracing::debug!(%error, "the metadata group cannot change now"),
                }
            }
            Step::HandOver(peer) => {
                self.driver.transfer_leader(group, peer);
            }
        }
    }
}
