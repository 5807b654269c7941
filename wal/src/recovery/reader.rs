//! Reads recovered entries back, one at a time: what a start-up flush to the partition files and the refill of the
//! tail go through.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::EntryLocation;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::entry::LogEntry;
use crate::frame::{FRAME_HEADER, FrameHeader, WalIdentity};
use crate::shard_wal::{WalConfig, WalError, slot_path};
use crate::types::GroupId;

/// Reads entries where recovery found them. Good until the segment they lie in is released.
pub struct EntryReader<'a> {
    disk: &'a dyn Disk,
    directory: PathBuf,
    identity: WalIdentity,
    files: BTreeMap<u32, Arc<dyn DiskFile>>,
}

impl<'a> EntryReader<'a> {
    /// A reader of a shard's WAL. Keeps one open file for each slot that it meets.
    #[must_use]
    pub fn new(disk: &'a dyn Disk, config: &WalConfig) -> Self {
        Self { disk, directory: config.directory.clone(), identity: config.identity, files: BTreeMap::new() }
    }

    /// The entry at `location`, verified once more.
    ///
    /// # Errors
    /// When the disk fails, or another frame stands there than recovery saw.
    pub fn read(&mut self, group: GroupId, location: &EntryLocation) -> Result<LogEntry, WalError> {
        let path = slot_path(&self.directory, location.slot);
        let fail = |why: String| WalError::Entry {
            group: group.0,
            index: location.index.0,
            path: path.clone(),
            why,
        };
        let file = match self.files.get(&location.slot) {
            Some(file) => Arc::clone(file),
            None => {
                let file = self.disk.open(&path, OpenMode::Read).map_err(|error| fail(error.to_string()))?;
                self.files.insert(location.slot, Arc::clone(&file));
                file
            }
        };
        let mut frame = vec![0; FRAME_HEADER + location.len as usize];
        file.read_exact_at(&mut frame, u64::from(location.position))
            .map_err(|error| fail(error.to_string()))?;
        let (header, info) =
            FrameHeader::read(&frame).ok_or_else(|| fail("no frame stands there".to_owned()))?;
        let seed = self.identity.seed(location.sequence);
        let same = info.group == group && info.index == location.index && info.term == location.term;
        if !same || !header.verifies(seed, &info, &frame[FRAME_HEADER..]) {
            return Err(fail("the frame does not verify".to_owned()));
        }
        Ok(LogEntry {
            index: info.index,
            term: info.term,
            kind: info.entry_kind,
            base_offset: info.base_offset,
            data: Bytes::from(frame).slice(FRAME_HEADER..),
        })
    }
}
