//! Which partition a directory belongs to, and the names and small text files within it, all as Apache Kafka has them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::FilesError;
use crate::disk::{self, Disk};
use crate::types::{GroupId, KafkaOffset};

/// File that names the topic id, Kafka's `partition.metadata`.
pub(super) const METADATA_FILE: &str = "partition.metadata";
/// File with the table of leader epochs, for Kafka's tools; chronik itself reads the `.raft` files.
pub(super) const EPOCHS_FILE: &str = "leader-epoch-checkpoint";
/// What a dropped file's name ends with until it is unlinked.
pub(super) const DELETED: &str = ".deleted";
/// What a deleted partition's directory ends with.
pub(super) const DELETE_SUFFIX: &str = "-delete";
/// What the directory of a partition that the metadata do not know ends with.
pub(super) const STRAY_SUFFIX: &str = "-stray";
/// Longest file name that Linux file systems take.
const NAME_BYTES_MAX: usize = 255;
/// `partition.metadata` is three short lines.
const METADATA_BYTES_MAX: usize = 4096;

/// Which partition it is. Two topics of one name that were made one after the other differ in `topic_id` and `group`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionIdentity {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The topic's id, the 16 bytes of its UUID.
    pub topic_id: [u8; 16],
    /// Its Raft group.
    pub group: GroupId,
}

impl PartitionIdentity {
    /// `<topic>-<partition>`.
    #[must_use]
    pub fn directory_name(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }

    /// `<topic>-<partition>.<topic id>-delete`, the topic shortened where the name would be too long for a file system.
    #[must_use]
    pub(super) fn deleted_name(&self) -> String {
        let tail = format!("-{}.{}{DELETE_SUFFIX}", self.partition, topic_id_text(self.topic_id));
        let room = NAME_BYTES_MAX - tail.len();
        let mut end = self.topic.len().min(room);
        while !self.topic.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{tail}", &self.topic[..end])
    }

    /// The contents of `partition.metadata`: Kafka's two lines and the group.
    pub(super) fn metadata_text(&self) -> String {
        format!("version: 0\ntopic_id: {}\ngroup_id: {}\n", topic_id_text(self.topic_id), self.group)
    }

    /// Compares with the `partition.metadata` of a directory.
    pub(super) fn check(&self, disk: &dyn Disk, dir: &Path) -> Result<(), FilesError> {
        let path = dir.join(METADATA_FILE);
        let bytes = disk::read_file(disk, &path, METADATA_BYTES_MAX)
            .map_err(|error| FilesError::read(&path, error))?;
        if bytes == self.metadata_text().as_bytes() {
            return Ok(());
        }
        let found = String::from_utf8_lossy(&bytes).trim_end().replace('\n', ", ");
        let wanted = self.metadata_text().trim_end().replace('\n', ", ");
        let what = format!("{METADATA_FILE} says \"{found}\" where \"{wanted}\" was expected");
        Err(FilesError::Identity { dir: dir.into(), what })
    }
}

/// The topic id in the `partition.metadata` of a directory, as text; none when there is no readable one.
pub(super) fn topic_id_in(disk: &dyn Disk, dir: &Path) -> Option<String> {
    let bytes = disk::read_file(disk, &dir.join(METADATA_FILE), METADATA_BYTES_MAX).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id: "))?;
    let plain =
        id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    plain.then(|| id.to_owned())
}

/// A topic id as Kafka prints it: URL-safe base64 without padding, 22 characters.
#[must_use]
pub(super) fn topic_id_text(id: [u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits are 21 digits of six bits and one of two, which stand high in the last digit.
    let number = u128::from_be_bytes(id);
    let digit = |bits: u128| char::from(ALPHABET[(bits & 63) as usize]);
    let mut text: String = (0..21).map(|place| digit(number >> (122 - 6 * place))).collect();
    text.push(digit(number << 4));
    text
}

/// `<offset, 20 digits>.<extension>`.
pub(super) fn file_name(offset: KafkaOffset, extension: &str) -> String {
    format!("{:020}.{extension}", offset.0)
}

/// The offset and the extension in a name made by [`file_name`]; none for any other name.
pub(super) fn parse_name(name: &str) -> Option<(KafkaOffset, &str)> {
    let (digits, extension) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((KafkaOffset(digits.parse().ok()?), extension))
}

/// The files of one segment. Known to the shard and to the helper threads that read and write them.
#[derive(Debug)]
pub(super) struct SegmentFiles {
    /// Unique in the process: the key of its open files in the cache.
    pub(super) id: u64,
    pub(super) dir: PathBuf,
    pub(super) base_offset: KafkaOffset,
    /// Set when the segment is dropped: a read still in flight must not bring it back into the cache, where it would keep
    /// the disk's space.
    dropped: AtomicBool,
}

/// One of a segment's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Log,
    Index,
    Raft,
}

impl Part {
    pub(super) const ALL: [Part; 3] = [Part::Log, Part::Index, Part::Raft];

    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Index => "sidx",
            Self::Raft => "raft",
        }
    }
}

impl SegmentFiles {
    pub(super) fn new(id: u64, dir: &Path, base_offset: KafkaOffset) -> Arc<Self> {
        Arc::new(Self { id, dir: dir.into(), base_offset, dropped: AtomicBool::new(false) })
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(super) fn set_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    pub(super) fn path(&self, part: Part) -> PathBuf {
        self.dir.join(file_name(self.base_offset, part.extension()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas() {
        assert_eq!(file_name(KafkaOffset(1234), "log"), "00000000000000001234.log");
        assert_eq!(parse_name("00000000000000001234.snapshot"), Some((KafkaOffset(1234), "snapshot")));
        assert_eq!(parse_name("00000000000000001234.log.deleted"), Some((KafkaOffset(1234), "log.deleted")));
        assert_eq!(parse_name("partition.metadata"), None);
        assert_eq!(parse_name("99999999999999999999.log"), None);
    }

    #[test]
    fn topic_ids_print_as_kafkas_uuid() {
        // Kafka's Uuid.METADATA_TOPIC_ID is (0, 1): "AAAAAAAAAAAAAAAAAAAAAQ".
        let mut id = [0; 16];
        id[15] = 1;
        assert_eq!(topic_id_text(id), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(topic_id_text([0xff; 16]), "_____________________w");
    }

    #[test]
    fn a_deleted_name_fits_a_file_system() {
        let identity = PartitionIdentity {
            topic: "t".repeat(249),
            partition: i32::MAX,
            topic_id: [7; 16],
            group: GroupId(3),
        };
        let name = identity.deleted_name();
        assert!(name.len() <= NAME_BYTES_MAX && name.ends_with("-2147483647.BwcHBwcHBwcHBwcHBwcHBw-delete"));
    }
}
