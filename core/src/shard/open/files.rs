//! A group's files and its entries in the WAL, opened and read at a start. Blocking, through [`Disk`] alone.

use chronik_wal::batch::BatchInfo;
use chronik_wal::disk::Disk;
use chronik_wal::entry::{FlushPoint, GroupState, LogEntry, LogStart};
use chronik_wal::partition::{
    FileDone, FileJob, FileLimits, FileStore, FilesError, Opened, PartitionIdentity, PartitionLog, RollPolicy,
};
use chronik_wal::recovery::{EntryReader, RecoveredGroup};
use chronik_wal::types::GroupId;

use super::{OpenError, ShardSeed};

/// Bytes read from a partition's files at a time while its producers are found again.
const REPLAY_BYTES: usize = 1 << 20;

/// Bytes of entries gathered before they are written to files during recovery.
const FLUSH_BYTES: usize = 4 << 20;

/// Bytes of WAL entries kept in memory of a group that is not served.
const DAMAGED_BYTES_MAX: u64 = 1 << 20;

/// A group whose files are open and whose WAL entries are read.
pub(super) struct OpenedGroup {
    pub(super) files: PartitionLog,
    pub(super) snapshot: Option<chronik_wal::partition::ProducerSnapshot>,
    pub(super) state: GroupState,
    pub(super) entries: Vec<LogEntry>,
}

/// Removes all files of a replica.
pub(super) fn remove_files(
    disk: &dyn Disk,
    store: &FileStore,
    identity: PartitionIdentity,
    limits: FileLimits,
) -> Result<(), FilesError> {
    let files = PartitionLog::new(store, identity, LogStart::default(), limits);
    let FileDone::Moved(Ok(Some(path))) = files.delete().run(disk) else { return Ok(()) };
    match FileJob::remove_directory(path).run(disk) {
        FileDone::Unlinked(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

/// The entries that a group whose files are damaged has in the WAL, if they are few.
pub(super) fn few_entries(
    disk: &dyn Disk,
    seed: &ShardSeed,
    group: GroupId,
    found: &RecoveredGroup,
) -> Vec<LogEntry> {
    let bytes: u64 = found.entries.iter().map(|location| u64::from(location.len)).sum();
    if bytes > DAMAGED_BYTES_MAX {
        return Vec::new();
    }
    let mut reader = EntryReader::new(disk, &seed.wal);
    let entries = found.entries.iter().map(|location| reader.read(group, location));
    // Without all of them, none: what is put again must be without a hole.
    entries.collect::<Result<_, _>>().unwrap_or_default()
}

/// Opens a group's files at the checkpoint and reads what the WAL has beyond. Committed entries beyond `budget` bytes are
/// written to the files as they are read.
#[expect(clippy::too_many_arguments, reason = "one call site a kind of group")]
pub(super) fn open_group(
    disk: &dyn Disk,
    seed: &ShardSeed,
    store: &FileStore,
    identity: PartitionIdentity,
    limits: FileLimits,
    group: GroupId,
    recovered: RecoveredGroup,
    policy: &RollPolicy,
    budget: &mut usize,
) -> Result<OpenedGroup, OpenError> {
    let fail = |why: String| OpenError::Group { group, why };
    let state = recovered.state.ok_or_else(|| fail("the WAL has entries of it but no state".to_owned()))?;
    let start = state.log_start;
    let opened = PartitionLog::open(disk, store, identity, recovered.flushed, start, limits);
    let Opened { log: mut files, snapshot, replay_from: _ } =
        opened.map_err(|error| fail(error.to_string()))?;
    let sole = is_sole_voter(&state);
    let mut reader = EntryReader::new(disk, &seed.wal);
    let mut entries = Vec::new();
    let mut bytes = 0;
    let from: FlushPoint = files.written();
    for location in recovered.entries.iter().filter(|location| location.index > from.index) {
        let entry = reader.read(group, location)?;
        bytes += entry.data.len();
        entries.push(entry);
        let committed = sole || location.index <= recovered.commit;
        if committed && bytes > FLUSH_BYTES && *budget < bytes {
            append_all(disk, &mut files, &entries, policy).map_err(|error| fail(error.to_string()))?;
            entries.clear();
            bytes = 0;
        }
    }
    *budget = budget.saturating_sub(bytes);
    let mut state = state;
    state.hard.commit = state.hard.commit.max(recovered.commit);
    Ok(OpenedGroup { files, snapshot, state, entries })
}

/// With one voter an entry on the disk is committed.
pub(super) fn is_sole_voter(state: &GroupState) -> bool {
    chronik_raft::voters(&state.configuration).is_some_and(|voters| voters == [state.peer])
}

fn append_all(
    disk: &dyn Disk,
    files: &mut PartitionLog,
    entries: &[LogEntry],
    policy: &RollPolicy,
) -> Result<(), FilesError> {
    let mut rest = entries;
    while let Some(job) = files.append(rest, *policy, 0, &mut |_| None) {
        files.finished(job.run(disk))?;
        let written = files.written().index;
        rest = &rest[rest.partition_point(|entry| entry.index <= written)..];
    }
    Ok(())
}

/// Gives every batch in the files from an offset on.
pub(crate) fn replay_files(
    disk: &dyn Disk,
    files: &PartitionLog,
    from: chronik_wal::types::KafkaOffset,
    take: &mut dyn FnMut(&BatchInfo, &[u8]),
) -> Result<(), FilesError> {
    let end = files.written().next_offset;
    let mut next = from;
    while let Some(job) = files.read(next, end, REPLAY_BYTES, true) {
        let FileDone::Read(read) = job.run(disk) else { return Ok(()) };
        let read = read?;
        for (info, batch) in chronik_wal::batch::batches(&read.data).flatten() {
            take(&info, batch);
        }
        if read.next_offset <= next {
            break;
        }
        next = read.next_offset;
    }
    files.unmap();
    Ok(())
}
