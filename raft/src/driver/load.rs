//! Groups come (from recovery, or new) and go.

use bytes::Bytes;
use chronik_wal::entry::{FlushPoint, GroupState, HardState, LogEntry, LogSink};
use chronik_wal::planted::{Bug, is_planted};
use chronik_wal::tail::{LogPosition, Tail};
use chronik_wal::types::{GroupId, PeerId, RaftIndex, Term};
use protobuf::Message as _;
use raft::eraftpb::ConfState;
use raft::{Config, RawNode};

use super::Driver;
use super::memory::Counted;
use crate::error::LoadError;
use crate::group::Group;
use crate::snapshot;
use crate::storage::{GroupStorage, encode_configuration};
use crate::term_runs::TermRuns;

/// A group as recovery found it.
#[derive(Clone, Debug, Default)]
pub struct GroupInit {
    /// The group.
    pub group: GroupId,
    /// Its newest state. `hard.commit` may be raised to the newest commit index that a frame of its entries carries.
    pub state: GroupState,
    /// Entries of the WAL, contiguous by index. Those at or below `flushed` or the log start are ignored.
    pub entries: Vec<LogEntry>,
    /// How far the partition's files reach; all of that is committed and applied. Zero when there are no files.
    pub flushed: FlushPoint,
    /// First index and term of each run of entries in the files, oldest first, from the log start on.
    pub file_term_runs: Vec<(RaftIndex, Term)>,
}

/// A group that did not exist before.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// The group.
    pub group: GroupId,
    /// This replica.
    pub peer: PeerId,
    /// The first configuration: the placement in the entry that made the group (SAFETY.md, rule 9). Not empty.
    pub voters: Vec<PeerId>,
    /// The entry with which these became the voters, if they were not from the beginning: for a replica that joins later. What
    /// changed the configuration up to there is not applied again.
    pub configuration_index: RaftIndex,
    /// State before the first entry.
    pub snapshot_data: Bytes,
}

impl Driver {
    /// Loads a group at the start. Its committed entries come out of the first [`Driver::run_ready`] calls, before it ticks or
    /// stands for election; a sole voter then elects itself at once.
    ///
    /// # Errors
    /// When the state does not hold together. The caller marks the replica damaged (SAFETY.md, rule 8).
    pub fn add_group(&mut self, init: GroupInit) -> Result<(), LoadError> {
        let id = init.group;
        if self.contains(id) {
            return Err(LoadError::Exists(id));
        }
        if init.state.peer == PeerId(0) {
            return Err(LoadError::NoPeer(id));
        }
        let mut configuration = ConfState::default();
        if configuration.merge_from_bytes(&init.state.configuration).is_err() {
            return Err(LoadError::Configuration(id, "it cannot be read"));
        }
        if let Some(fault) = snapshot::configuration_fault(&configuration) {
            return Err(LoadError::Configuration(id, fault));
        }
        let start = start_of(&init);
        let term_runs = runs_to(&init, start)?;
        let mut storage = GroupStorage::new(Tail::new(start), term_runs, init.state, configuration);
        append_recovered(id, &mut storage, init.entries)?;
        restore_hard_state(id, start, &mut storage);
        self.insert(id, storage, start.index, init.flushed.index)
    }

    /// Makes a new group. Its first state goes to the WAL; nothing of it leaves this node before that is durable.
    ///
    /// # Errors
    /// When it exists or the voters are no configuration.
    pub fn create_group(&mut self, new: NewGroup, wal: &mut dyn LogSink) -> Result<(), LoadError> {
        if self.contains(new.group) {
            return Err(LoadError::Exists(new.group));
        }
        if new.peer == PeerId(0) {
            return Err(LoadError::NoPeer(new.group));
        }
        let voters: Vec<u64> = new.voters.iter().map(|peer| peer.0).collect();
        let configuration = ConfState::from((voters, Vec::new()));
        if let Some(fault) = snapshot::configuration_fault(&configuration) {
            return Err(LoadError::Configuration(new.group, fault));
        }
        let state = GroupState {
            configuration: encode_configuration(&configuration),
            configuration_index: new.configuration_index,
            peer: new.peer,
            snapshot_data: new.snapshot_data,
            ..GroupState::default()
        };
        wal.put_state(new.group, &state);
        self.counters.states_written += 1;
        let runs = TermRuns::starting_at(RaftIndex(0), Term(0));
        let storage = GroupStorage::new(Tail::new(LogPosition::default()), runs, state, configuration);
        self.insert(new.group, storage, RaftIndex(0), RaftIndex(0))
    }

    /// Forgets a group, here and in the WAL. Returns whether there was one.
    pub fn remove_group(&mut self, group: GroupId, wal: &mut dyn LogSink) -> bool {
        let Some(slot) = self.by_id.remove(&group) else { return false };
        self.cancel_election(slot);
        let removed = self.slots[slot].take().expect("a slot that is known by id is taken");
        self.count_change(removed.counted, Counted::default());
        self.taken_bytes -= removed.taken_bytes;
        self.short.remove(&slot);
        if removed.is_dirty {
            self.dirty.retain(|dirty| *dirty != slot);
        }
        self.awake.remove(&slot);
        self.fresh.remove(&slot);
        self.gate.forget(slot);
        self.free_slots.push(slot);
        wal.put_removed(group);
        true
    }

    fn insert(
        &mut self,
        id: GroupId,
        storage: GroupStorage,
        applied: RaftIndex,
        flushed_to: RaftIndex,
    ) -> Result<(), LoadError> {
        let config = self.raft_config(storage.state.peer, applied);
        let hard = storage.state.hard;
        let flushed_to = flushed_to.max(storage.tail.released()).min(storage.tail.last_index());
        let node = RawNode::new(&config, storage, &self.logger)
            .map_err(|error| LoadError::Refused(id, error.to_string()))?;
        let group = Group::new(id, node, &self.config, hard.commit, flushed_to, hard.term);
        let slot = self.free_slots.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(group);
        self.count_tail(slot);
        self.by_id.insert(id, slot);
        self.update_awake(slot);
        self.mark_dirty(slot);
        Ok(())
    }

    fn raft_config(&self, peer: PeerId, applied: RaftIndex) -> Config {
        Config {
            id: peer.0,
            applied: applied.0,
            election_tick: self.config.election_ticks,
            heartbeat_tick: self.config.heartbeat_ticks,
            max_size_per_msg: self.config.size_per_message_bytes_max,
            max_inflight_msgs: self.config.inflight_messages_max,
            check_quorum: !is_planted(Bug::QuorumUnchecked),
            pre_vote: true,
            // raft-rs 0.7.0 merges entries into an empty append message that lies elsewhere in the log (its
            // `is_continuous_ents` takes no entries for continuous), and the follower's index arithmetic then underflows.
            // Proposals of a turn are one step and hence one message here anyway.
            batch_append: false,
            max_uncommitted_size: self.config.uncommitted_bytes_max,
            max_committed_size_per_ready: self.config.committed_bytes_per_ready_max,
            ..Config::default()
        }
    }
}

/// Where the tail begins: after the files, or after the log start when that is further (files emptied, snapshot installed).
fn start_of(init: &GroupInit) -> LogPosition {
    let (flushed, log_start) = (init.flushed, init.state.log_start);
    if flushed.index > log_start.index {
        LogPosition { index: flushed.index, term: flushed.term, next_offset: flushed.next_offset }
    } else {
        LogPosition { index: log_start.index, term: log_start.term, next_offset: log_start.base_offset }
    }
}

fn runs_to(init: &GroupInit, start: LogPosition) -> Result<TermRuns, LoadError> {
    let log_start = init.state.log_start;
    let mut runs = TermRuns::starting_at(log_start.index, log_start.term);
    let mut last = log_start.term;
    for (first, term) in &init.file_term_runs {
        if *first <= log_start.index || *first > start.index {
            continue;
        }
        if *term < last {
            return Err(LoadError::Terms(init.group));
        }
        runs.push(*first, *term);
        last = *term;
    }
    if runs.term(start.index) == Some(start.term) { Ok(runs) } else { Err(LoadError::Terms(init.group)) }
}

fn append_recovered(
    id: GroupId,
    storage: &mut GroupStorage,
    entries: Vec<LogEntry>,
) -> Result<(), LoadError> {
    for entry in entries {
        let last = storage.tail.last_index();
        if entry.index <= storage.tail.start().index {
            continue;
        }
        if entry.index != last.next() {
            return Err(LoadError::Gap { group: id, after: last, found: entry.index });
        }
        let end = storage.tail.next_offset();
        let is_batch = entry.kind == chronik_wal::entry::EntryKind::Batch;
        let offset_fits = if is_batch { entry.base_offset >= end } else { entry.base_offset == end };
        if !offset_fits || entry.term < storage.tail.last_term() {
            return Err(LoadError::StepsBack {
                group: id,
                index: entry.index,
                base_offset: entry.base_offset,
            });
        }
        storage.append(entry);
    }
    Ok(())
}

/// SAFETY.md, rule 10: the commit index is at least what is applied, never past the end; the term at least the last entry's.
fn restore_hard_state(id: GroupId, start: LogPosition, storage: &mut GroupStorage) {
    let (last, last_term) = (storage.tail.last_index(), storage.tail.last_term());
    let configuration_index = storage.state.configuration_index;
    let hard = &mut storage.state.hard;
    if hard.commit > last {
        let commit = hard.commit;
        tracing::error!(group = %id, %commit, %last, "the log ends before its commit index: committed entries are missing");
    }
    // A configuration that came with a snapshot may be made by an entry that has not arrived yet.
    let commit = hard.commit.max(start.index).max(configuration_index);
    // A vote belongs to the term it was cast in.
    let vote = if last_term > hard.term { PeerId(0) } else { hard.vote };
    *hard = HardState { term: hard.term.max(last_term), vote, commit: commit.min(last) };
}
