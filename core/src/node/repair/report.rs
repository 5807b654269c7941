//! What `log repair` says: the damaged partitions, what survives of each, and what is lost.

use std::fmt;

use chronik_wal::types::{KafkaOffset, ShardId};

/// One damaged partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The shard.
    pub shard: ShardId,
    /// `<topic>-<partition>`.
    pub partition: String,
    /// The offsets that survive, from and up to (exclusive).
    pub survives: (KafkaOffset, KafkaOffset),
    /// Entries of the log that survive in the WAL, beyond the files.
    pub wal_entries: usize,
    /// The offset that the lost ones end before, as far as it is known; at most the end of `survives` when nothing is known
    /// to be lost.
    pub known_end: KafkaOffset,
    /// The log start as it was; lower than what survives when the oldest files are lost.
    pub known_start: KafkaOffset,
    /// What is damaged.
    pub reason: String,
}

impl Damage {
    /// What a repair drops, in words.
    #[must_use]
    pub fn lost(&self) -> String {
        let (from, to) = self.survives;
        let mut lost = Vec::new();
        if self.known_start < from {
            lost.push(format!("offsets {}..{from}", self.known_start));
        }
        if to < self.known_end {
            lost.push(format!("offsets {to}..{} and what followed", self.known_end));
        }
        match lost.is_empty() {
            true => "nothing known, at most what followed".to_owned(),
            false => lost.join(", "),
        }
    }
}

/// What was found, and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The damaged partitions.
    pub damaged: Vec<Damage>,
    /// They have been repaired.
    pub repaired: bool,
}

impl Report {
    /// Whether nothing is damaged any more.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() || self.repaired
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.damaged.is_empty() {
            return writeln!(f, "No damage found: nothing to do.");
        }
        let survives = |damage: &Damage| {
            format!(
                "offsets {}..{} ({} entries in the WAL)",
                damage.survives.0, damage.survives.1, damage.wal_entries
            )
        };
        let rows: Vec<[String; 5]> = self
            .damaged
            .iter()
            .map(|d| [d.shard.to_string(), d.partition.clone(), survives(d), d.lost(), d.reason.clone()])
            .collect();
        let lost = if self.repaired { "LOST" } else { "WOULD BE LOST" };
        let head = ["SHARD", "PARTITION", "SURVIVES", lost, "REASON"].map(str::to_owned);
        let widths: [usize; 4] = std::array::from_fn(|column| {
            rows.iter().chain([&head]).map(|row| row[column].len()).max().unwrap_or(0)
        });
        for row in [&head].into_iter().chain(&rows) {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", row[4])?;
        }
        let count = self.damaged.len();
        match self.repaired {
            true => {
                writeln!(f, "Repaired: {count}. Start the node; consumers beyond the new ends are told so.")
            }
            false => writeln!(
                f,
                "Damaged: {count}. Copy the data directory, then run again with --accept-loss to keep what survives, or \
                 restore it from a backup."
            ),
        }
    }
}
