//! Which leader epoch wrote which part of a partition (KIP-101, KIP-320), and its `leader-epoch-checkpoint` file.
//!
//! Owned by the partition, on its shard; pure. It answers OffsetForLeaderEpoch and the diverging-epoch check of Fetch,
//! by which a consumer learns that what it read has been truncated. An epoch is here only if it has written a batch.
//!
//! Invariant: epochs and start offsets both strictly increase.

#[cfg(test)]
mod tests;

use std::fmt::Write;

use thiserror::Error;

use crate::types::{KafkaOffset, LeaderEpoch};

/// What OffsetForLeaderEpoch answers for an end offset that is not known.
pub const UNDEFINED_OFFSET: KafkaOffset = KafkaOffset(-1);

const FILE_VERSION: &str = "0";

/// One epoch and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Offset of its first batch, or the log start when that lies within it.
    pub start_offset: KafkaOffset,
}

/// The epochs of one partition, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochTable {
    entries: Vec<EpochStart>,
}

/// Why a checkpoint file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("leader-epoch-checkpoint, line {line}: {reason}")]
pub struct EpochFileError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

impl EpochTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The epochs, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The newest epoch, if any has written.
    #[must_use]
    pub fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    /// Notes that a batch of `epoch` begins at `base_offset`. Cheap when the epoch is the one before, as it nearly always
    /// is. Entries that contradict it, at or above its epoch or offset, were truncated and go. True when the table changed.
    pub fn append(&mut self, epoch: LeaderEpoch, base_offset: KafkaOffset) -> bool {
        if epoch.0 < 0 || base_offset.0 < 0 {
            return false;
        }
        if let Some(last) = self.entries.last()
            && last.epoch == epoch
            && last.start_offset <= base_offset
        {
            return false;
        }
        while let Some(last) = self.entries.last()
            && (last.epoch >= epoch || last.start_offset >= base_offset)
        {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start_offset: base_offset });
        true
    }

    /// Drops what begins at or after `end_offset`: the log has been truncated there. True when the table changed.
    pub fn truncate_from_end(&mut self, end_offset: KafkaOffset) -> bool {
        let keep = self.entries.partition_point(|entry| entry.start_offset < end_offset);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// Moves the log start: the epoch that holds it begins there now, those before are gone. The newest epoch stays even
    /// when all records go, so that an emptied partition knows its last epoch. True when the table changed.
    pub fn advance_start(&mut self, log_start_offset: KafkaOffset) -> bool {
        let below = self.entries.partition_point(|entry| entry.start_offset <= log_start_offset);
        if below == 0 {
            return false;
        }
        let changed = below > 1 || self.entries[0].start_offset != log_start_offset;
        self.entries.drain(..below - 1);
        self.entries[0].start_offset = log_start_offset;
        changed
    }

    /// The epoch that wrote `offset`, if the table reaches back to it. The caller knows that the log has it.
    #[must_use]
    pub fn epoch_at(&self, offset: KafkaOffset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).map(|place| self.entries[place].epoch)
    }

    /// What OffsetForLeaderEpoch answers: the largest epoch not above `epoch`, and the offset after its last record.
    ///
    /// For the newest epoch that is the log end; for one above it (−1, −1), unknown; for one below the oldest, that very
    /// epoch and the start of the oldest, for all its records are gone. As `LeaderEpochFileCache.endOffsetFor`.
    #[must_use]
    pub fn end_offset_for(
        &self,
        epoch: LeaderEpoch,
        log_end_offset: KafkaOffset,
    ) -> (LeaderEpoch, KafkaOffset) {
        let unknown = (LeaderEpoch::UNKNOWN, UNDEFINED_OFFSET);
        if epoch.0 < 0 {
            return unknown;
        }
        if self.latest().is_some_and(|latest| latest.epoch == epoch) {
            return (epoch, log_end_offset);
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let Some(next) = self.entries.get(above) else {
            return unknown;
        };
        let found = above.checked_sub(1).map_or(epoch, |place| self.entries[place].epoch);
        (found, next.start_offset)
    }

    /// The table as the text of Kafka's `leader-epoch-checkpoint`: version 0, count, then "epoch offset" a line.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{FILE_VERSION}\n{}\n", self.entries.len());
        for entry in &self.entries {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {}", entry.epoch, entry.start_offset);
        }
        text
    }

    /// The table of a checkpoint's bytes.
    ///
    /// # Errors
    /// [`EpochFileError`] with the line. The remedy is to rebuild the table from the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, EpochFileError> {
        let fault = |line, reason| EpochFileError { line, reason };
        let text = str::from_utf8(bytes).map_err(|_| fault(1, "not UTF-8"))?;
        let mut lines = text.lines();
        if lines.next() != Some(FILE_VERSION) {
            return Err(fault(1, "the version is not 0"));
        }
        let count: usize = lines
            .next()
            .and_then(|line| line.trim().parse().ok())
            .ok_or_else(|| fault(2, "the number of entries is missing"))?;
        let mut table = Self::new();
        for (place, line) in lines.enumerate() {
            let number = place + 3;
            let entry = parse_line(line).ok_or_else(|| fault(number, "not an epoch and an offset"))?;
            if let Some(last) = table.latest()
                && (last.epoch >= entry.epoch || last.start_offset >= entry.start_offset)
            {
                return Err(fault(number, "epochs or offsets do not increase"));
            }
            table.entries.push(entry);
        }
        if table.entries.len() != count {
            return Err(fault(2, "the number of entries is not that of the lines that follow"));
        }
        Ok(table)
    }
}

fn parse_line(line: &str) -> Option<EpochStart> {
    let (epoch, offset) = line.split_once(' ')?;
    let epoch: i32 = epoch.parse().ok()?;
    let offset: i64 = offset.parse().ok()?;
    if epoch < 0 || offset < 0 {
        return None;
    }
    Some(EpochStart { epoch: LeaderEpoch(epoch), start_offset: KafkaOffset(offset) })
}
