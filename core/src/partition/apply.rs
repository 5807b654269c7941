//! What committing an entry does to a partition: the only place where the high watermark moves.
//!
//! The same on leaders and followers, and at start-up when the log is applied again.

use bytes::Bytes;
use chronik_wal::batch::{self, BatchInfo};
use chronik_wal::entry::{EntryKind, LogEntry};
use chronik_wal::types::KafkaOffset;

use super::Partition;

/// What applying an entry changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that a client sees.
    Nothing,
    /// The high watermark is behind this batch now.
    Batch(BatchInfo),
    /// The log starts here now.
    LogStart(KafkaOffset),
}

impl Partition {
    /// Applies the next committed entry.
    ///
    /// # Panics
    /// When the entry is not the next one, or a committed batch has a broken header: going on would corrupt the log.
    pub fn apply(&mut self, entry: &LogEntry, now_ms: u64, wall_ms: i64) -> Applied {
        assert_eq!(entry.index, self.applied.next(), "entries are applied once and in order");
        self.applied = entry.index;
        self.unwritten_bytes += entry.data.len() as u64;
        self.unwritten_since_ms.get_or_insert(now_ms);
        self.epochs.append(entry.term.leader_epoch(), entry.base_offset);
        match entry.kind {
            EntryKind::Batch => {
                let info =
                    batch::peek(&entry.data).expect("a committed batch was checked before it was proposed");
                assert_eq!(entry.base_offset, self.high_watermark, "offsets are dense");
                self.high_watermark = info.next_offset();
                self.unkept_bytes += entry.data.len() as u64;
                self.producers.apply(&info, entry.index, wall_ms);
                Applied::Batch(info)
            }
            EntryKind::LogStart => match log_start_offset(&entry.data) {
                Some(offset) if offset > self.log_start && offset <= self.high_watermark => {
                    self.log_start = offset;
                    self.trimming = false;
                    self.epochs.advance_start(offset);
                    Applied::LogStart(offset)
                }
                _ => {
                    self.trimming = false;
                    Applied::Nothing
                }
            },
            EntryKind::Empty | EntryKind::ConfChange | EntryKind::ConfChangeV2 => Applied::Nothing,
        }
    }
}

/// The offset in the payload of a log start entry.
#[must_use]
pub fn log_start_offset(data: &Bytes) -> Option<KafkaOffset> {
    let field: [u8; 8] = data.as_ref().try_into().ok()?;
    Some(KafkaOffset(i64::from_le_bytes(field)))
}
