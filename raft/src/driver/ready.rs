//! The ready loop: what raft-rs has decided becomes writes, messages and committed entries.

use chronik_wal::entry::{EntryKind, HardState, LogEntry, LogSink};
use chronik_wal::planted::{Bug, is_planted};
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term, TurnNumber};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Ready, StateRole};

use super::output::{Committed, Compacted, EntryFetch, Installed, Outgoing};
use super::{Driver, DriverOutput};
use crate::convert;
use crate::group::{Group, Unpersisted};
use crate::leadership::Leadership;
use crate::snapshot;

/// Visits of one call: some milliseconds at most, so that the shard comes back to its connections.
pub(super) const VISITS_PER_CALL_MAX: usize = 1024;

/// However slow the machine: a call gets somewhere.
const VISITS_PER_CALL_MIN: usize = 32;

/// Payload bytes written and handed out in one call; about what one WAL turn takes.
const BYTES_PER_CALL_MAX: usize = 16 << 20;

impl Driver {
    /// Serves the groups to which something has happened: writes go to `wal`, the rest to `out`, which the caller drains before it
    /// calls the driver again. Entries handed out as committed count as applied from then on.
    ///
    /// Bounded work; returns whether more waits, in which case the caller calls again after it has drained `out`.
    pub fn run_ready(&mut self, wal: &mut dyn LogSink, out: &mut DriverOutput) -> bool {
        for outgoing in self.unheld.drain(..) {
            send(out, outgoing);
        }
        out.contacts.append(&mut self.contacts);
        let mut bytes = 0;
        for _ in 0..self.visits_max {
            if bytes >= BYTES_PER_CALL_MAX {
                break;
            }
            let Some(slot) = self.dirty.pop_front() else { break };
            bytes += self.visit(slot, wal, out);
        }
        self.evict();
        !self.dirty.is_empty()
    }

    /// How many groups a call of [`Self::run_ready`] may visit, within bounds. For the edge, which knows how long its turns take: on a
    /// starved machine a thousand visits take longer than the others wait for a sign of life.
    pub fn set_visits_max(&mut self, visits_max: usize) {
        self.visits_max = visits_max.clamp(VISITS_PER_CALL_MIN, VISITS_PER_CALL_MAX);
    }

    /// How many groups a call of [`Self::run_ready`] may visit.
    #[must_use]
    pub fn visits_max(&self) -> usize {
        self.visits_max
    }

    /// Serves one group. Returns the payload bytes that were moved.
    fn visit(&mut self, slot: usize, wal: &mut dyn LogSink, out: &mut DriverOutput) -> usize {
        self.counters.visits += 1;
        let group = self.at(slot);
        group.is_dirty = false;
        let taken_bytes = std::mem::take(&mut group.taken_bytes);
        group.flush_proposals();
        let bytes = if group.node.has_ready() { self.serve_ready(slot, wal, out) } else { 0 };
        self.at(slot).advance_applied();
        self.compact(slot, wal, out);
        self.taken_bytes -= taken_bytes;
        self.count_tail(slot);

        let group = self.at(slot);
        while let Some(range) = group.storage_mut().take_wish() {
            let (low, high, bytes_max) = (range.low, range.high, range.bytes_max);
            out.fetches.push(EntryFetch { group: group.id, low, high, bytes_max });
        }
        if group.is_sole_voter() {
            group.campaign();
        }
        let has_more = group.node.has_ready();
        self.tell_leadership(slot, out);
        if has_more {
            self.mark_dirty(slot);
        }
        bytes
    }

    fn serve_ready(&mut self, slot: usize, wal: &mut dyn LogSink, out: &mut DriverOutput) -> usize {
        self.counters.readies += 1;
        let (ready_bytes, entries, states, needs_disk, committed) = {
            let group = self.at(slot);
            let mut ready = group.node.ready();
            let mut writes = Writes { bytes: 0, entries: 0, states: 0, needs_disk: ready.must_sync() };
            if !ready.snapshot().is_empty() {
                install(group, &ready, wal, out, &mut writes);
            }
            write_log(group, &mut ready, wal, &mut writes);
            let committed = ready.take_committed_entries();
            let persisted = route_messages(group, &mut ready, wal, out, &writes);
            // ORDER: the storage has the entries and the snapshot before raft-rs drops its own copies of them.
            group.node.advance_append_async(ready);
            if let Some(number) = persisted {
                group.node.on_persist_ready(number);
            }
            (writes.bytes, writes.entries, writes.states, writes.needs_disk, committed)
        };
        self.counters.entries_written += entries;
        self.counters.states_written += states;
        if needs_disk {
            let id = self.at(slot).id;
            self.await_turn((wal.filling_turn(), id));
        }
        self.update_awake(slot);
        ready_bytes + self.hand_out(slot, committed, wal, out)
    }

    /// Notes that a group waits for a turn; once is enough.
    fn await_turn(&mut self, awaited: (TurnNumber, GroupId)) {
        if self.awaited.back() != Some(&awaited) {
            assert!(
                self.awaited.back().is_none_or(|(turn, _)| *turn <= awaited.0),
                "turns are filled in order"
            );
            self.awaited.push_back(awaited);
        }
    }

    /// Hands out committed entries, which thereby are applied; applies configuration changes among them.
    fn hand_out(
        &mut self,
        slot: usize,
        committed: Vec<Entry>,
        wal: &mut dyn LogSink,
        out: &mut DriverOutput,
    ) -> usize {
        if committed.is_empty() {
            return 0;
        }
        let group = self.at(slot);
        let mut entries: Vec<LogEntry> = Vec::with_capacity(committed.len());
        let mut first_change = None;
        let mut bytes = 0;
        for raft_entry in committed {
            let index = RaftIndex(raft_entry.index);
            assert_eq!(index, group.applied.next(), "committed entries come once each, in order");
            let entry =
                group.storage().tail.entry(index).expect("entries above the applied ones are in the tail");
            assert_eq!(entry.term, Term(raft_entry.term), "the tail holds what raft has committed");
            bytes += entry.data.len();
            entries.push(entry.clone());
            group.applied = index;
            if apply_configuration(group, &raft_entry) {
                first_change.get_or_insert(index);
            }
        }
        let count = entries.len() as u64;
        let id = group.id;
        if let Some(first_change) = first_change {
            // ORDER: raft-rs learns that the change is applied only once this state is durable (rule 10).
            wal.put_state(id, &group.storage().state);
            let turn = wal.filling_turn();
            let first = group.configuration_hold.map_or(first_change, |(_, first)| first);
            group.configuration_hold = Some((turn, first));
            self.counters.states_written += 1;
            self.await_turn((turn, id));
            self.update_awake(slot);
        }
        self.counters.entries_committed += count;
        out.committed.push(Committed { group: id, entries });
        bytes
    }

    /// Moves the log start, if that is wished and raft-rs has applied that far.
    fn compact(&mut self, slot: usize, wal: &mut dyn LogSink, out: &mut DriverOutput) {
        let group = self.at(slot);
        let reach = group.raft_applied();
        let Some((log_start, data)) = group.compaction.take_if(|(log_start, _)| log_start.index <= reach)
        else {
            return;
        };
        // A snapshot installed meanwhile may have moved the log start further.
        if log_start.index < group.storage().state.log_start.index {
            return;
        }
        group.storage_mut().compact_to(log_start, data);
        let id = group.id;
        wal.put_state(id, &group.storage().state);
        out.compacted.push(Compacted { group: id, log_start, turn: wal.filling_turn() });
        self.counters.states_written += 1;
        self.evictable.push_back((id, log_start.index));
    }

    fn tell_leadership(&mut self, slot: usize, out: &mut DriverOutput) {
        let group = self.at(slot);
        let leadership = group.leadership();
        if group.told == Some(leadership) {
            return;
        }
        group.told = Some(leadership);
        out.leadership.push((group.id, leadership));
        let is_follower = group.node.raft.state == StateRole::Follower;
        match leadership {
            Leadership::Elected { .. } => self.gate.won(slot),
            Leadership::Leader { .. } | Leadership::Follower { .. } => self.gate.forget(slot),
            // Another one is about to win.
            Leadership::Unknown { .. } if is_follower => self.gate.ended(slot),
            Leadership::Unknown { .. } => {}
        }
        self.counters.leadership_changes += 1;
        self.counters.term_max = self.counters.term_max.max(leadership.term());
    }
}

/// What one Ready has brought to the WAL.
struct Writes {
    bytes: usize,
    entries: u64,
    states: u64,
    needs_disk: bool,
}

/// A snapshot takes the place of the log.
fn install(
    group: &mut Group,
    ready: &Ready,
    wal: &mut dyn LogSink,
    out: &mut DriverOutput,
    writes: &mut Writes,
) {
    let content = snapshot::read(ready.snapshot()).expect("snapshots are checked before raft sees them");
    let configuration = ready.snapshot().get_metadata().get_conf_state().clone();
    let log_start = content.log_start;
    group.storage_mut().install(log_start, content.data.clone());
    group.storage_mut().set_configuration(configuration, content.configuration_index);
    group.applied = log_start.index;
    group.flushed_to = log_start.index;
    group.compaction = None;
    group.configuration_hold = None;
    note_hard_state(group, ready);
    // ORDER: old entries above the snapshot's index would otherwise be taken for the log's continuation by recovery. Both
    // records are in one turn, which is all or nothing.
    wal.put_replaced(group.id, &group.storage().state);
    let turn = wal.filling_turn();
    group.installing = Some(turn);
    writes.states += 1;
    out.installed.push(Installed { group: group.id, log_start, data: content.data, turn });
}

/// Takes over raft's hard state. Returns whether term or vote changed.
fn note_hard_state(group: &mut Group, ready: &Ready) -> bool {
    let Some(hard) = ready.hs() else { return false };
    let new = HardState { term: Term(hard.term), vote: PeerId(hard.vote), commit: RaftIndex(hard.commit) };
    let old = std::mem::replace(&mut group.storage_mut().state.hard, new);
    (old.term, old.vote) != (new.term, new.vote)
}

fn write_log(group: &mut Group, ready: &mut Ready, wal: &mut dyn LogSink, writes: &mut Writes) {
    let commit = group.commit();
    let mut changes_configuration = false;
    for raft_entry in ready.take_entries() {
        let end = end_before(group, raft_entry.index);
        let entry = convert::from_raft(raft_entry, end);
        changes_configuration |= is_configuration_kind(entry.kind);
        if is_planted(Bug::TruncationSkipped) && entry.index <= group.storage().tail.last_index() {
            continue;
        }
        writes.bytes += entry.data.len();
        writes.entries += 1;
        wal.put_entry(group.id, commit, &entry);
        group.storage_mut().append(entry);
    }
    let is_new_term_or_vote = note_hard_state(group, ready);
    if (is_new_term_or_vote && !is_planted(Bug::HardStateDropped)) || changes_configuration {
        // ORDER: after the entries that this state commits.
        wal.put_state(group.id, &group.storage().state);
        writes.states += 1;
    }
}

/// The offset after the entry before `index`, which is in the tail by now.
fn end_before(group: &Group, index: u64) -> KafkaOffset {
    let before = RaftIndex(index - 1);
    group.storage().tail.next_offset_after(before).expect("raft appends within or right after the tail")
}

/// Sends what may leave now and holds what promises something that is not durable yet. Returns the Ready's number when there is
/// nothing to wait for. A Ready that writes nothing waits with the one before it, if that is still unwritten.
///
/// A leader's messages do not wait for its disk, but for one case: a sole voter makes itself leader without a round of votes, so
/// that its term may not be durable yet. Were it to tell learners of entries of a term that it may forget in a crash, it
/// could use that term again for other entries.
///
/// Answers to heartbeats wait for nothing but their term either: they promise nothing of the log. A disk that stands still for an
/// election timeout would otherwise take a leader its quorum, and the groups would elect where none can commit.
fn route_messages(
    group: &mut Group,
    ready: &mut Ready,
    wal: &mut dyn LogSink,
    out: &mut DriverOutput,
    writes: &Writes,
) -> Option<u64> {
    let term = Term(group.node.raft.term);
    let mut held = ready.take_persisted_messages();
    if group.durable_term < term {
        held.extend(ready.take_messages());
    } else {
        send_all(group, out, ready.take_messages());
        let answers = held
            .extract_if(.., |message| message.get_msg_type() == MessageType::MsgHeartbeatResponse)
            .collect();
        send_all(group, out, answers);
    }
    let number = ready.number();
    if writes.needs_disk {
        group.unpersisted.push_back(Unpersisted { number, turn: wal.filling_turn(), term, held });
        return None;
    }
    if let Some(last) = group.unpersisted.back_mut() {
        last.number = number;
        last.held.extend(held);
        return None;
    }
    assert!(group.durable_term == term || held.is_empty(), "nothing is promised before its term is durable");
    send_all(group, out, held);
    Some(number)
}

fn send_all(group: &Group, out: &mut DriverOutput, mut messages: Vec<Message>) {
    keep_last_heartbeats(&mut messages);
    for mut message in messages {
        group.mark_heartbeat(&mut message);
        group.mark_short(&mut message);
        send(out, Outgoing { to: PeerId(message.to), group: group.id, message });
    }
}

/// Ticks that are made up for at once bring a heartbeat each: one says as much as all of them, and costs those who are starved too only
/// once.
fn keep_last_heartbeats(messages: &mut Vec<Message>) {
    let is_heartbeat = |message: &Message| message.get_msg_type() == MessageType::MsgHeartbeat;
    let mut at = messages.len();
    while at > 0 {
        at -= 1;
        let to = messages[at].to;
        if is_heartbeat(&messages[at])
            && messages[at + 1..].iter().any(|later| later.to == to && is_heartbeat(later))
        {
            messages.remove(at);
        }
    }
}

fn send(out: &mut DriverOutput, outgoing: Outgoing) {
    let kind = outgoing.message.get_msg_type();
    let is_heartbeat = matches!(kind, MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse);
    if is_heartbeat && outgoing.message.context.is_empty() {
        out.heartbeats.push(outgoing);
    } else {
        out.messages.push(outgoing);
    }
}

/// Applies a committed configuration change to raft-rs and to the state. Returns whether it did.
fn apply_configuration(group: &mut Group, entry: &Entry) -> bool {
    let index = RaftIndex(entry.index);
    if convert::kind_of(entry).is_none_or(|kind| !is_configuration_kind(kind)) {
        return false;
    }
    // A configuration that came with a snapshot, or that is durable since before the start, holds these already (rule 9).
    if index <= group.storage().state.configuration_index {
        return false;
    }
    let change = convert::configuration_change(entry).expect("entries are checked before raft sees them");
    let configuration = match group.node.apply_conf_change(&change) {
        Ok(configuration) => configuration,
        Err(error) => {
            // Every replica comes to the same verdict, since all have the same configuration here.
            tracing::warn!(group = %group.id, %index, %error, "a committed configuration change is void");
            return false;
        }
    };
    group.storage_mut().set_configuration(configuration, index);
    // raft-rs leaves a leader in office that is no voter any more, and stops the process when it next commits something.
    if group.node.raft.state == StateRole::Leader && !group.node.raft.promotable() {
        let term = group.node.raft.term;
        group.node.raft.become_follower(term, raft::INVALID_ID);
    }
    group.settle();
    true
}

fn is_configuration_kind(kind: EntryKind) -> bool {
    matches!(kind, EntryKind::ConfChange | EntryKind::ConfChangeV2)
}
