//! One turn of a shard: everything that happened becomes one ready pass, one WAL write and one batch of answers.
//!
//! ```text
//! timers, stalled produce ─▶ Raft ready ─▶ apply committed ─▶ coordinators, fetches ─▶ write-behind, recycling ─▶ WAL turn
//!                               ▲──────────── proposals made on the way ─────┘
//! ```
//! Group commit arises by itself: while one WAL turn is on its way to the disk, the next one fills.

use chronik_raft::driver::DriverOutput;
use chronik_raft::leadership::Leadership;
use chronik_wal::entry::LogEntry;
use chronik_wal::planted::{Bug, is_planted};
use chronik_wal::producer_state::ProducerTable;
use chronik_wal::types::{GroupId, NodeId, PeerId};

use super::hold::SUCCESSOR_MS;
use super::{Job, JobOwner, Now, Shard, Timer};
use crate::partition::apply::Applied;
use crate::partition::{Waiter, Waiting, producer_limits};

/// Ready passes in one turn. More is left for the next turn, so that no turn keeps the executor for long.
const PASSES_MAX: usize = 8;

impl Shard {
    /// Carries on with everything that events have set in motion. True when there is more to do at once.
    pub fn turn(&mut self, now: Now) -> bool {
        self.now = now;
        // ORDER: missed ticks are made up for before anything is answered or expires, so that a leader that has slept
        // steps down (SAFETY.md, rule 22).
        self.driver.tick(now.mono_ms);
        if std::mem::take(&mut self.is_local_due) {
            self.local_durable();
        }
        self.fire_timers();
        self.let_leaders_send();
        self.retry_held();
        self.retry_stalled();
        self.retry_coordinators();
        let makes_more = self.make_partitions();
        let mut more = true;
        let visits_before = self.driver.counters().visits;
        for _ in 0..PASSES_MAX {
            let mut output = DriverOutput::default();
            more = self.driver.run_ready(&mut self.wal, &mut output);
            self.proposed_bytes = 0;
            self.take_in(output);
            self.run_coordinators();
            if self.controller.is_some() {
                self.tell_leaders();
            }
            self.run_controller();
            // What coordinators and the controller have just proposed belongs into this very turn: nothing else would wake
            // the shard for it.
            more |= self.driver.has_work() || self.coordinators.has_work();
            let is_full = self.driver.counters().visits - visits_before >= self.driver.visits_max() as u64;
            if !more || is_full {
                break;
            }
        }
        if !more {
            self.proposed_bytes = 0;
        }
        self.settle_lagging();
        self.wake_touched();
        if self.tends_files() {
            self.write_behind();
            self.recycle();
        }
        self.proceed_stop();
        self.tell_leaders();
        self.tell_news();
        self.wal.idle_tick(now.mono_ms);
        while let Some(job) = self.wal.next_job(now.mono_ms) {
            self.start_job(JobOwner::Wal, Job::Wal(job));
        }
        if let Some(turn) = self.wal.start_turn() {
            self.metrics.wal_bytes.add(turn.padded_len as u64);
            self.out.turn = Some(turn);
        }
        more || makes_more
    }

    /// When the next timer is due, in monotonic ms.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let raft = self.driver.next_wake_ms();
        let files = self.write_behind_due_ms();
        let recycling = self.recycle_due_ms();
        [timer, raft, files, recycling, self.wal_idle_ms(), self.making_due_ms()].into_iter().flatten().min()
    }

    /// When the WAL is to be looked at again for its closing mark: while something was written since the last one.
    fn wal_idle_ms(&self) -> Option<u64> {
        const LOOK_AGAIN_MS: u64 = 100;
        (!self.wal.is_closed()).then_some(self.now.mono_ms + LOOK_AGAIN_MS)
    }

    fn fire_timers(&mut self) {
        while let Some((at_ms, timer)) = self.timers.first().copied() {
            if at_ms > self.now.mono_ms {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Produce(slice) => self.produce_timed_out(slice),
                Timer::Fetch(fetch) => self.fetch_due(fetch),
                Timer::Delete(request) => self.finish_delete(request, true),
                Timer::Plan(plan) => self.plan_timed_out(plan),
                Timer::Election(number) => self.proceed_election(number),
                Timer::Forward(sequence) => self.forward_timed_out(sequence),
                Timer::Tend => self.tend(),
                Timer::Coordinator(group) => self.coordinator_due(group),
                Timer::Balance => self.balance(),
                // The turn goes on with a stop; those who asked for a transfer hear what became of it.
                Timer::Handover => self.handover_due(),
                Timer::Membership => self.membership_due(),
                Timer::CatchUp => self.catch_up_due(),
                Timer::InSync => self.in_sync_due(),
                Timer::Housekeeping => self.keep_house(),
            }
        }
    }

    fn take_in(&mut self, output: DriverOutput) {
        for installed in &output.installed {
            self.installed(installed);
        }
        for committed in output.committed {
            self.apply(committed.group, &committed.entries);
        }
        // ORDER: a replica leads only once it has applied what its term opened with (SAFETY.md, rule 11).
        for (group, leadership) in output.leadership {
            self.leadership_changed(group, leadership);
        }
        for group in output.contacts {
            self.contact_settled(group);
            self.is_local_due |= self.local_waits.contains(&group);
        }
        if std::mem::take(&mut self.is_local_due) {
            self.local_durable();
        }
        self.send_out(output.messages, output.heartbeats);
        for fetch in output.fetches {
            self.read_for_follower(fetch);
        }
        for compacted in output.compacted {
            self.compacted(&compacted);
        }
    }

    fn apply(&mut self, group: GroupId, entries: &[LogEntry]) {
        let mut decided = Vec::new();
        for entry in entries {
            let Some(partition) = self.partitions.get_mut(&group) else { return };
            let applied = partition.apply(entry, self.now.mono_ms, self.now.wall_ms);
            partition.take_waiters(entry.index, entry.term, &mut decided);
            if let Applied::LogStart(offset) = applied {
                self.log_start_moved(group, offset, entry.index);
            }
            if group == GroupId::METADATA {
                self.apply_metadata(entry);
            }
        }
        if group == GroupId::METADATA {
            self.keep_metadata_commit(entries);
        }
        self.watch_in_sync(group);
        self.touched.insert(group);
        self.unwritten(group);
        self.decide(group, decided);
    }

    fn leadership_changed(&mut self, group: GroupId, leadership: Leadership) {
        tracing::debug!(group = group.0, ?leadership, "leadership");
        if matches!(leadership, Leadership::Leader { .. } | Leadership::Follower { .. }) {
            self.metrics.leadership_changes.add(1);
        }
        let leads = matches!(leadership, Leadership::Leader { .. });
        if let Some(partition) = self.partitions.get_mut(&group) {
            let is_leaderless = matches!(leadership, Leadership::Unknown { .. });
            let since_ms = partition.leaderless_since_ms.or(Some(self.now.mono_ms));
            partition.leaderless_since_ms = since_ms.filter(|_| is_leaderless);
        }
        if !leads {
            let mut decided = Vec::new();
            if let Some(partition) = self.partitions.get_mut(&group) {
                partition.fail_waiters(&mut decided);
                if !partition.in_sync.nodes().is_empty() {
                    partition.successor_until_ms = self.now.mono_ms + SUCCESSOR_MS;
                }
                partition.producers.abandon_in_flight();
                partition.gaps.clear();
                partition.has_been_led |= matches!(leadership, Leadership::Follower { .. });
                partition.trimming = false;
            }
            self.decide(group, decided);
        } else {
            self.succeeds(group);
        }
        if leads && is_planted(Bug::ProducersForgotten) {
            let limits = producer_limits(&self.config);
            if let Some(partition) = self.partitions.get_mut(&group) {
                partition.producers = ProducerTable::new(limits);
            }
        }
        self.retry_held_of(group);
        self.touched.insert(group);
        match leads {
            true => self.in_sync_begins(group),
            false => self.in_sync_ends(group),
        }
        self.handover_changed(group, leadership);
        self.drive_membership(group);
        self.coordinator_leadership(group, leads);
        if !leads {
            self.contact_settled(group);
        }
        if group == GroupId::METADATA {
            self.controller_leadership(leads);
        }
        self.report_leader(group, leadership);
    }

    /// This replica leads: after another, or after itself before a restart, whose batches may still be on their way.
    fn succeeds(&mut self, group: GroupId) {
        let is_empty = self.driver.log_end_offset(group).unwrap_or_default().0 == 0;
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        if partition.has_been_led || !is_empty {
            partition.gaps.expect(self.now.mono_ms);
        }
        partition.has_been_led = true;
    }

    /// Tells shard 0 who leads, so that every snapshot of this node names the Raft leader.
    fn report_leader(&mut self, group: GroupId, leadership: Leadership) {
        let (term, leader) = match leadership {
            Leadership::Leader { term } => (term, Some(self.node)),
            Leadership::Follower { leader, term } => (term, self.node_of(group, leader)),
            // That nobody leads just now does not erase who led: it stays as the hint.
            Leadership::Elected { .. } | Leadership::Unknown { .. } => return,
        };
        let Some(leader) = leader else { return };
        self.leader_known(group, term, leader);
    }

    /// The node of a replica.
    pub(crate) fn node_of(&self, group: GroupId, peer: PeerId) -> Option<NodeId> {
        let members = &self.partitions.get(&group)?.members;
        members.iter().find(|member| member.peer == peer).map(|member| member.node)
    }

    /// Hands out what became of those who waited for an entry.
    pub(crate) fn decide(&mut self, group: GroupId, decided: Vec<(Waiter, bool)>) {
        for (waiter, applied) in decided {
            match waiter.who {
                Waiting::Produce { .. } => self.produce_applied(group, waiter, applied),
                Waiting::Delete { .. } => self.delete_decided(waiter.who, applied),
                Waiting::Coordinator { token } => self.coordinator_appended(group, token, applied),
                Waiting::Metadata { plan } => self.plan_committed(plan, applied),
            }
        }
    }

    fn wake_touched(&mut self) {
        for group in std::mem::take(&mut self.touched) {
            self.wake_fetches(group);
        }
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }
}
