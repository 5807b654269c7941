//! Start-up: from the slots of a shard's WAL to what each group had made durable.
//!
//! Reads only; runs before anything is served, over the blocking [`Disk`]. Record bytes are verified but not kept:
//! entries are yielded as [`EntryLocation`]s, read on demand with [`EntryReader`]. So memory is bounded by the number
//! of entries since the newest checkpoint's flush points, at some 70 bytes each, whatever they hold.
//!
//! How it decides (SAFETY.md, rules 1 to 4):
//! - A slot counts by its header block: sequence, and the oldest segment that mattered when it was written. Segments
//!   are taken in order of sequence, from the newest one that a recovery opened (its first frame lists what counts of
//!   those before), else from the oldest live one; a segment with an end frame must have a successor.
//! - A turn counts whole or not at all. One that does not verify is a torn tail when no turn after it exists; then the
//!   log ends before it. That a later turn exists, with its mark that the turns before it were durable, that the
//!   segment has a successor, or that an earlier recovery had accepted it, makes it corruption.
//! - Corruption of a turn whose frame headers verify is damage to the groups of the bad frames; any other damages all
//!   groups of the shard, as does a missing segment, a damaged header of a segment that counts, and an unreadable
//!   sector. A damaged header in a slot that holds no live segment is harmless.
//! - Nothing is ever appended to a recovered segment: `ShardWal::open` starts a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::disk::{Disk, DiskFile, OpenMode, settle_names};
use crate::entry::{EntryKind, FlushPoint, GroupState};
use crate::frame::{BLOCK, HeaderFault, SegmentHeader, SegmentInfo, WalIdentity};
use crate::shard_wal::ledger::Ledger;
use crate::shard_wal::{WalConfig, WalError, slot_of_name, slot_path};
use crate::types::{GroupId, KafkaOffset, RaftIndex, Term, TurnNumber, WalSeq};

mod chain;
mod dump;
mod groups;
mod reader;
mod scan;

pub use dump::{DumpError, dump_segment, is_segment};
pub use reader::EntryReader;

/// The most slots that are looked at: far more than any bound of a WAL makes.
const SLOTS_MAX: usize = 65_536;

/// Where an entry lies in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLocation {
    /// Its place in the Raft log.
    pub index: RaftIndex,
    /// Its term.
    pub term: Term,
    /// As [`crate::entry::LogEntry::base_offset`].
    pub base_offset: KafkaOffset,
    /// The segment.
    pub sequence: WalSeq,
    /// Position of its frame in the segment.
    pub position: u32,
    /// Bytes of its payload.
    pub len: u32,
    /// The slot that the segment lies in.
    pub slot: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// What the WAL knows of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Its newest state; none when the WAL holds none.
    pub state: Option<GroupState>,
    /// Up to where its files count, by the newest checkpoint. They are to be cut there.
    pub flushed: Option<FlushPoint>,
    /// Entries after the flush point and the log start, consecutive.
    pub entries: Vec<EntryLocation>,
    /// Entries beyond a gap, which is damage. Of use only to whoever finds the missing ones in the partition's files.
    pub stranded: Vec<EntryLocation>,
    /// The highest index that was known to be committed. May lie beyond the last entry: a leader's group commits on
    /// the disks of its followers before its own has the entry.
    pub commit: RaftIndex,
}

/// What was lost or changed that had been durable. A replica of a damaged group must neither vote nor acknowledge
/// under its old id (SAFETY.md, rule 8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DamagedGroups {
    /// All groups of the shard are suspect, for this reason.
    pub all: Option<String>,
    /// These groups are, for these reasons.
    pub groups: BTreeMap<GroupId, String>,
    /// Groups that were removed or begun anew after all groups had been damaged, and are therefore sound.
    pub sound: BTreeSet<GroupId>,
}

impl DamagedGroups {
    /// Why a group is suspect; none when it is sound.
    #[must_use]
    pub fn reason(&self, group: GroupId) -> Option<&str> {
        if let Some(reason) = self.groups.get(&group) {
            return Some(reason);
        }
        self.all.as_deref().filter(|_| !self.sound.contains(&group))
    }

    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.groups.is_empty()
    }

    fn damage_all(&mut self, reason: String) {
        tracing::error!(reason, "WAL corruption: all groups of the shard are suspect");
        self.sound.clear();
        self.all.get_or_insert(reason);
    }

    fn damage(&mut self, group: GroupId, reason: String) {
        tracing::error!(group = group.0, reason, "WAL corruption: the group is suspect");
        self.groups.entry(group).or_insert(reason);
    }

    fn reset(&mut self, group: GroupId) {
        self.groups.remove(&group);
        if self.all.is_some() {
            self.sound.insert(group);
        }
    }
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovered {
    /// Every group that the WAL knows and that was not removed.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// What was lost.
    pub damage: DamagedGroups,
    /// The newest whole turn.
    pub last_turn: TurnNumber,
    /// Bytes after it in the last segment that look like a torn turn; for the log.
    pub torn_tail: bool,
    pub(crate) live: Vec<LiveSegment>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) ledger: Ledger,
    pub(crate) next_sequence: WalSeq,
    pub(crate) next_turn: TurnNumber,
}

impl Recovered {
    /// What is found where there is no WAL yet.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            groups: BTreeMap::new(),
            damage: DamagedGroups::default(),
            last_turn: TurnNumber(0),
            torn_tail: false,
            live: Vec::new(),
            slots: Vec::new(),
            ledger: Ledger::default(),
            next_sequence: WalSeq(1),
            next_turn: TurnNumber(1),
        }
    }
}

/// A segment that counts, up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveSegment {
    pub(crate) sequence: WalSeq,
    pub(crate) slot: u32,
    pub(crate) len: u64,
    pub(crate) end: u64,
}

/// A slot's file and what its header block says.
pub(crate) struct Slot {
    pub(crate) number: u32,
    pub(crate) file_len: u64,
    pub(crate) header: Result<SegmentInfo, HeaderFault>,
    /// For a damaged header: the sequence of the turn that follows it, if one verifies.
    pub(crate) claimed: Option<WalSeq>,
    file: std::sync::Arc<dyn DiskFile>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slot {} of {} bytes: {:?}", self.number, self.file_len, self.header)
    }
}

/// Recovers a shard's WAL. A directory that is missing or empty is an empty WAL.
///
/// # Errors
/// When the directory cannot be read, or holds segments of another owner or a newer format. Damage is not an error:
/// see [`Recovered::damage`].
pub fn recover(disk: &dyn Disk, config: &WalConfig) -> Result<Recovered, WalError> {
    let slots = read_slots(disk, config)?;
    let mut recovered = chain::replay(&slots, &config.identity);
    recovered.slots = slots;
    Ok(recovered)
}

fn read_slots(disk: &dyn Disk, config: &WalConfig) -> Result<Vec<Slot>, WalError> {
    let directory = &config.directory;
    if !disk.exists(directory).map_err(WalError::io("look-up", directory))? {
        return Ok(Vec::new());
    }
    // ORDER: a slot whose name a killed process has left is used again as it is; its name must be durable by then.
    settle_names(disk, directory).map_err(WalError::io("fsync", directory))?;
    let names = disk.list_dir(directory).map_err(WalError::io("listing", directory))?;
    let mut slots = Vec::new();
    for entry in names.iter().filter(|entry| !entry.is_dir).take(SLOTS_MAX) {
        if let Some(number) = slot_of_name(&entry.name) {
            slots.push(read_slot(disk, &config.identity, number, slot_path(directory, number))?);
        }
    }
    Ok(slots)
}

fn read_slot(disk: &dyn Disk, identity: &WalIdentity, number: u32, path: PathBuf) -> Result<Slot, WalError> {
    let file = disk.open(&path, OpenMode::ReadWrite).map_err(WalError::io("opening", &path))?;
    // ORDER: what is read is made durable before anything is built on it. A turn that a killed process left in the
    // drive's cache would be accepted now and gone after a power cut.
    file.fdatasync().map_err(WalError::io("sync", &path))?;
    let file_len = file.len().map_err(WalError::io("look-up", &path))?;
    let mut block = vec![0; BLOCK];
    let header = match file.read_exact_at(&mut block, 0) {
        Ok(()) => SegmentHeader::read(&block, identity),
        // Shorter than a header block: it was never finished.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(HeaderFault::Blank),
        Err(_) => Err(HeaderFault::Damaged),
    };
    let header = match header {
        Err(HeaderFault::Version(version)) => return Err(WalError::NewerFormat { path, version }),
        Err(HeaderFault::Foreign) => return Err(WalError::Foreign { path }),
        // A file cut short has lost turns; positions must fit the locations' u32.
        Ok(info) if info.len > file_len || info.len > u64::from(u32::MAX) => Err(HeaderFault::Damaged),
        header => header,
    };
    let claimed = match header {
        Ok(_) => None,
        Err(_) => scan::claimed_sequence(file.as_ref(), identity),
    };
    Ok(Slot { number, file_len, header, claimed, file })
}

/// Recovers from a WAL that is one segment's bytes: the entrance for fuzzers. Never panics, allocates no more than a
/// small multiple of the image.
///
/// # Errors
/// As [`recover`].
pub fn recover_image(image: &[u8], identity: WalIdentity) -> Result<Recovered, WalError> {
    let disk = crate::disk::SimDisk::new(0);
    let config = WalConfig::new(std::path::Path::new("/"), identity);
    disk.plant(&slot_path(&config.directory, 0), image.to_vec());
    recover(&disk, &config)
}

#[cfg(test)]
mod tests;
