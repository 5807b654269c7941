//! What is sound of one group's log: its files up to the first thing that does not verify, then the entries of the WAL for as
//! long as they follow one another.

use std::collections::BTreeMap;

use chronik_raft::sole_voter_configuration;
use chronik_wal::entry::{FlushPoint, GroupState, HardState, LogStart};
use chronik_wal::partition::{PartitionIdentity, PartitionLog, SalvageTo, Salvaged};
use chronik_wal::recovery::{EntryLocation, EntryReader, RecoveredGroup};
use chronik_wal::shard_wal::WalConfig;
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term};

use super::{Repair, RepairError};

/// By how much the term rises where turns of the WAL are lost: they may have held elections, one a start.
pub(super) const TERM_LEAP: u64 = 1_000;

/// The sound prefix of one group.
pub(super) struct Prefix {
    pub(super) state: GroupState,
    pub(super) files: Option<Salvaged>,
    pub(super) entries: Vec<EntryLocation>,
    /// End of the prefix.
    pub(super) last: RaftIndex,
    pub(super) next_offset: KafkaOffset,
    /// The log start as the WAL has it.
    pub(super) known_start: KafkaOffset,
    /// The highest offset and term that anything told of.
    pub(super) known_end: KafkaOffset,
    pub(super) known_term: Term,
    pub(super) damage: Option<String>,
}

impl Repair<'_> {
    /// The longest sound prefix of a group's log. `peer` is who this replica is, for a group whose state was lost.
    pub(super) fn prefix(
        &self,
        config: &WalConfig,
        name: &PartitionIdentity,
        found: &RecoveredGroup,
        reason: Option<String>,
        peer: PeerId,
    ) -> Result<Prefix, RepairError> {
        let in_wal = reason.is_some();
        let state = found.state.clone().unwrap_or_else(|| GroupState {
            peer,
            configuration: sole_voter_configuration(peer),
            ..GroupState::default()
        });
        let mut damage = reason;
        if found.state.is_none() {
            damage.get_or_insert_with(|| "the WAL has no state of it".to_owned());
        }
        let located: BTreeMap<RaftIndex, EntryLocation> =
            found.entries.iter().chain(&found.stranded).map(|location| (location.index, *location)).collect();
        let mut reader = EntryReader::new(self.disk, config);
        let files = self.files(name, &state, found, in_wal, &located, &mut reader)?;
        let mut prefix = Prefix {
            last: state.log_start.index,
            next_offset: state.log_start.base_offset,
            known_start: state.log_start.offset,
            known_end: state.log_start.base_offset,
            known_term: state.hard.term,
            state,
            files: None,
            entries: Vec::new(),
            damage,
        };
        let mut term = prefix.state.log_start.term;
        if let Some(files) = files {
            prefix.damage = prefix.damage.or_else(|| files.damage.clone());
            let start = files.start;
            (prefix.last, prefix.next_offset, term) = match files.end {
                Some(end) => (end.index, end.next_offset, end.term),
                None => (start.index, start.base_offset, start.term),
            };
            prefix.files = Some(files);
        }
        prefix.known_term = prefix.known_term.max(term);
        prefix.note_point(found.flushed);
        for location in located.values() {
            prefix.known_term = prefix.known_term.max(location.term);
        }
        let mut sound = true;
        for location in located.range(prefix.last.next()..).map(|(_, location)| location) {
            let entry = reader.read(name.group, location);
            let end = entry.as_ref().map_or(location.base_offset, chronik_wal::entry::LogEntry::next_offset);
            prefix.known_end = prefix.known_end.max(end);
            let follows = location.index == prefix.last.next()
                && location.term >= term
                && location.base_offset >= prefix.next_offset;
            sound &= follows && entry.is_ok();
            if sound {
                (prefix.last, prefix.next_offset, term) = (location.index, end, location.term);
                prefix.entries.push(*location);
            } else if prefix.damage.is_none() {
                let why = entry.err().map_or_else(|| "does not follow".to_owned(), |error| error.to_string());
                prefix.damage = Some(format!("entry {}: {why}", location.index));
            }
        }
        prefix.finish(in_wal);
        Ok(prefix)
    }

    /// What is sound of the files; none when none count.
    fn files(
        &self,
        name: &PartitionIdentity,
        state: &GroupState,
        found: &RecoveredGroup,
        in_wal: bool,
        located: &BTreeMap<RaftIndex, EntryLocation>,
        reader: &mut EntryReader<'_>,
    ) -> Result<Option<Salvaged>, RepairError> {
        let start = state.log_start;
        let checkpoint = found.flushed.filter(|point| point.index > start.index);
        let look = |to| PartitionLog::salvage(self.disk, &self.store, name, to, start);
        if in_wal {
            let mut all = look(SalvageTo::End)?;
            let end = all.end.unwrap_or_default();
            if end.index >= checkpoint.unwrap_or_default().index
                && fits_wal(name.group, &end, located, reader)
            {
                // What does not verify beyond the checkpoint is a write that was under way.
                all.damage = None;
                return Ok(all.end.is_some().then_some(all));
            }
        }
        Ok(match checkpoint {
            Some(point) => Some(look(SalvageTo::Checkpoint(point))?),
            None => None,
        })
    }
}

impl Prefix {
    fn note_point(&mut self, point: Option<FlushPoint>) {
        let point = point.unwrap_or_default();
        self.known_end = self.known_end.max(point.next_offset).max(self.next_offset);
        self.known_term = self.known_term.max(point.term);
    }

    /// The state with which the group goes on.
    fn finish(&mut self, in_wal: bool) {
        let leap = if in_wal { TERM_LEAP } else { 1 };
        let term = Term(self.known_term.0 + leap);
        self.state.hard = HardState { term, vote: PeerId(0), commit: self.last };
        self.state.configuration_index = self.state.configuration_index.min(self.last);
        if let Some(files) =
            self.files.as_ref().filter(|files| files.start.index > self.state.log_start.index)
        {
            self.state.log_start = files.start;
        }
        let start: &mut LogStart = &mut self.state.log_start;
        start.offset = start.offset.min(self.next_offset).max(start.base_offset);
    }
}

/// Whether files that reach beyond their checkpoint agree with what the WAL has of the same entries.
fn fits_wal(
    group: GroupId,
    end: &FlushPoint,
    located: &BTreeMap<RaftIndex, EntryLocation>,
    reader: &mut EntryReader<'_>,
) -> bool {
    let at_end = located.get(&end.index).is_none_or(|location| {
        let entry = reader.read(group, location);
        location.term == end.term && entry.is_ok_and(|entry| entry.next_offset() == end.next_offset)
    });
    let after = located.get(&end.index.next());
    at_end
        && after.is_none_or(|location| location.base_offset >= end.next_offset && location.term >= end.term)
}
