//! Whole partitions: deletion, and what the start does with directories that nobody knows (SAFETY.md, rule 19).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::PartitionLog;
use super::error::FilesError;
use super::jobs::{FileJob, Work, move_directory};
use super::names::{DELETE_SUFFIX, PartitionIdentity, STRAY_SUFFIX, topic_id_in, topic_id_text};
use crate::disk::Disk;

/// What [`sweep`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Directories of partitions deleted before the stop that were still there, now removed.
    pub removed: Vec<PathBuf>,
    /// Directories that the metadata do not know: the new names that they were given. Never deleted by chronik.
    pub stray: Vec<PathBuf>,
}

impl PartitionLog {
    /// A job that deletes the partition: renames its directory so that no successor meets it, and makes that durable. Its
    /// outcome says what to remove with [`FileJob::remove_directory`], after `file.delete.delay.ms`.
    ///
    /// # Panics
    /// While a job that changes files is in flight.
    #[must_use]
    pub fn delete(self) -> FileJob {
        assert!(!self.is_busy(), "one job that changes files at a time");
        let to = self.store.data_dir.join(self.identity.deleted_name());
        let segments = self.segments.into_iter().map(|segment| segment.files).collect();
        let topic_id = self.identity.topic_id;
        FileJob(Work::Delete { cache: self.store.cache, segments, topic_id, from: self.dir, to })
    }
}

/// Tidies the data directory at start: finishes deletions, moves directories of unknown partitions aside.
///
/// To be called when the metadata group has caught up, not before: until then nobody knows what is unknown.
///
/// # Errors
/// What the disk says. Nothing of a known partition has been touched.
pub fn sweep(
    disk: &dyn Disk,
    data_dir: &Path,
    known: &BTreeSet<PartitionIdentity>,
) -> Result<SweepReport, FilesError> {
    let mut report = SweepReport::default();
    if !disk.exists(data_dir).map_err(|error| FilesError::read(data_dir, error))? {
        return Ok(report);
    }
    let known: BTreeSet<(String, String)> =
        known.iter().map(|identity| (identity.directory_name(), topic_id_text(identity.topic_id))).collect();
    let entries = disk.list_dir(data_dir).map_err(|error| FilesError::read(data_dir, error))?;
    for entry in entries.iter().filter(|entry| entry.is_dir && !entry.name.ends_with(STRAY_SUFFIX)) {
        let path = data_dir.join(&entry.name);
        if entry.name.ends_with(DELETE_SUFFIX) && entry.name.contains('.') {
            disk.remove_dir_all(&path).map_err(|error| FilesError::write(&path, "removing", error))?;
            report.removed.push(path);
            continue;
        }
        let topic_id = topic_id_in(disk, &path);
        let is_known = match &topic_id {
            Some(id) => known.contains(&(entry.name.clone(), id.clone())),
            // A crash before the first sync may leave no metadata; such a directory holds nothing that counts.
            None => known.iter().any(|(name, _)| *name == entry.name),
        };
        if is_known {
            continue;
        }
        let id = topic_id.unwrap_or_else(|| "unknown".to_owned());
        let aside = free_name(disk, data_dir, &entry.name, &id)?;
        report.stray.extend(move_directory(disk, &path, aside)?);
    }
    Ok(report)
}

/// `<name>.<topic id>-stray`, numbered where that is taken and shortened where it would be too long.
fn free_name(disk: &dyn Disk, data_dir: &Path, name: &str, id: &str) -> Result<PathBuf, FilesError> {
    let short: String = name.chars().take(200).collect();
    let mut number = 0_u32;
    loop {
        let tail = if number == 0 { String::new() } else { format!(".{number}") };
        let path = data_dir.join(format!("{short}.{id}{tail}{STRAY_SUFFIX}"));
        if !disk.exists(&path).map_err(|error| FilesError::read(&path, error))? {
            return Ok(path);
        }
        number += 1;
    }
}
