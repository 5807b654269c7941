//! The metadata log as it is found at a start: the state of the cluster, as far as this disk knows that it is committed.

use chronik_wal::disk::Disk;
use chronik_wal::entry::EntryKind;
use chronik_wal::partition::{FileLimits, RollPolicy};
use chronik_wal::recovery::Recovered;
use chronik_wal::types::{GroupId, RaftIndex};

use super::files::{OpenedGroup, is_sole_voter, open_group, replay_files};
use super::{OpenError, ShardSeed};
use crate::metadata::image;
use crate::metadata::state::MetadataState;
use crate::shard::controller::apply_batch;
use crate::shard::topics::metadata_identity;

/// The state of the cluster as shard 0's disk has it.
pub struct MetadataLog {
    /// The state as of [`MetadataLog::applied`].
    pub state: MetadataState,
    /// The last entry of group 0 in it.
    pub applied: RaftIndex,
    pub(super) opened: Option<OpenedGroup>,
}

impl MetadataLog {
    /// Whether the WAL knows no metadata group at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.opened.is_none()
    }

    /// Reads the metadata log. An empty directory gives an empty state.
    ///
    /// # Errors
    /// When it is damaged: a node that does not know its topics must not guess.
    pub fn open(disk: &dyn Disk, seed: &ShardSeed, recovered: &mut Recovered) -> Result<Self, OpenError> {
        if let Some(reason) = recovered.damage.reason(GroupId::METADATA) {
            return Err(OpenError::Metadata(format!(
                "it is damaged ({reason}); restore the data directory from a backup, or run `chronik-server log repair`, \
                 which tells what would be lost"
            )));
        }
        let Some(group) = recovered.groups.remove(&GroupId::METADATA) else {
            return Ok(Self { state: MetadataState::default(), applied: RaftIndex(0), opened: None });
        };
        let store = seed.store();
        let mut budget = usize::MAX;
        let opened = open_group(
            disk,
            seed,
            &store,
            metadata_identity(),
            FileLimits::default(),
            GroupId::METADATA,
            group,
            &metadata_policy(),
            &mut budget,
        )?;
        let mut state = match opened.state.snapshot_data.is_empty() {
            true => MetadataState::default(),
            false => image::decode(&opened.state.snapshot_data)
                .map_err(|error| OpenError::Metadata(format!("its image: {error}")))?,
        };
        replay_files(disk, &opened.files, opened.files.start().base_offset, &mut |_, batch| {
            apply_batch(&mut state, batch);
        })
        .map_err(|error| OpenError::Metadata(error.to_string()))?;
        let mut applied = opened.files.written().index.max(opened.state.log_start.index);
        let sole = is_sole_voter(&opened.state);
        for entry in &opened.entries {
            if !sole && entry.index > opened.state.hard.commit {
                break;
            }
            if entry.kind == EntryKind::Batch {
                apply_batch(&mut state, &entry.data);
            }
            applied = entry.index;
        }
        Ok(Self { state, applied, opened: Some(opened) })
    }
}

fn metadata_policy() -> RollPolicy {
    RollPolicy { segment_bytes: 64 << 20, segment_ms: i64::MAX, jitter_ms: 0 }
}
