//! What a fetch may read: epochs, bounds, and where the bytes are.
//!
//! Pure. Record bytes are never copied: from the tail they are the very `Bytes` that were proposed, from files they
//! are slices of a mapped segment or of what was read past the page cache, which a helper thread prepares.

use bytes::Bytes;
use chronik_net::codec::ErrorCode;
use chronik_wal::tail::{Tail, TailRead};
use chronik_wal::types::{KafkaOffset, LeaderEpoch, NodeId, Term};

use super::Partition;
use crate::shard::message::{FetchItem, FetchOutcome, Isolation};

/// Where the records of a fetch come from.
pub enum Source {
    /// Nothing to read, or refused: the outcome is complete.
    Done(FetchOutcome),
    /// Records from memory: the outcome is complete.
    Memory(FetchOutcome),
    /// The records are in the files only: read from `from` up to `below`, then complete the outcome.
    Files {
        /// The outcome but for its records.
        outcome: FetchOutcome,
        /// The first offset wanted.
        from: KafkaOffset,
        /// The first offset that may not be read.
        below: KafkaOffset,
    },
}

/// How one item is read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Which records may be seen.
    pub isolation: Isolation,
    /// Bytes at most.
    pub max_bytes: usize,
    /// The first batch is given however large it is (KIP-74).
    pub at_least_one: bool,
}

/// The log as its leader has it.
#[derive(Clone, Copy)]
pub struct LeaderLog<'a> {
    /// The term in which it leads.
    pub term: Term,
    /// The newest entries.
    pub tail: &'a Tail,
    /// The log end offset.
    pub end: KafkaOffset,
}

impl Partition {
    /// Decides one item of a fetch on the leader.
    pub fn read(&self, item: &FetchItem, reading: &Reading, log: &LeaderLog<'_>) -> Source {
        let Reading { isolation, max_bytes, at_least_one } = *reading;
        let LeaderLog { term, tail, end: log_end_offset } = *log;
        if let Err(code) = check_epoch(item.current_epoch, term) {
            return Source::Done(FetchOutcome::refused(code));
        }
        let mut outcome = self.bounds();
        if let Some(diverging) = self.diverging(item, log_end_offset) {
            outcome.diverging = Some(diverging);
            return Source::Done(outcome);
        }
        if item.offset < self.log_start || item.offset > log_end_offset {
            let mut refused = self.bounds();
            refused.error = ErrorCode::OffsetOutOfRange;
            refused.high_watermark = KafkaOffset(-1);
            refused.last_stable_offset = KafkaOffset(-1);
            return Source::Done(refused);
        }
        let below = match isolation {
            Isolation::ReadUncommitted => self.high_watermark,
            Isolation::ReadCommitted => self.last_stable_offset(),
        };
        if item.offset >= below || (max_bytes == 0 && !at_least_one) {
            return Source::Done(outcome);
        }
        match tail.read(item.offset, below, max_bytes, at_least_one) {
            TailRead::Batches(batches, _) => {
                outcome.records = batches;
                Source::Memory(outcome)
            }
            TailRead::Empty => Source::Done(outcome),
            TailRead::BelowTail => Source::Files { outcome, from: item.offset, below },
        }
    }

    fn bounds(&self) -> FetchOutcome {
        FetchOutcome {
            error: ErrorCode::None,
            high_watermark: self.high_watermark,
            last_stable_offset: self.last_stable_offset(),
            log_start_offset: self.log_start,
            records: Vec::<Bytes>::new(),
            diverging: None,
            leader: None,
            is_orphaned: false,
            preferred: None,
        }
    }

    /// Decides one item of a fetch on a replica that does not lead (KIP-392). It knows of nothing above its own high watermark,
    /// which another may: so that is not out of range (SAFETY.md, rule 23).
    pub fn read_follower(&self, item: &FetchItem, reading: &Reading, log: &LeaderLog<'_>) -> Source {
        let log = LeaderLog { end: self.high_watermark, ..*log };
        if item.offset > self.high_watermark && check_epoch(item.current_epoch, log.term).is_ok() {
            return Source::Done(FetchOutcome::refused(ErrorCode::OffsetNotAvailable));
        }
        self.read(item, reading, &log)
    }

    /// Tells the client to read from another replica.
    #[must_use]
    pub fn read_elsewhere(&self, item: &FetchItem, term: Term, preferred: NodeId) -> FetchOutcome {
        match check_epoch(item.current_epoch, term) {
            Ok(()) => FetchOutcome { preferred: Some(preferred), ..self.bounds() },
            Err(code) => FetchOutcome::refused(code),
        }
    }

    /// The first offset that a read-committed consumer may not see. Without transactions: the high watermark.
    #[must_use]
    pub fn last_stable_offset(&self) -> KafkaOffset {
        self.high_watermark
    }

    /// Whether the client's log left this one: it has records of an epoch that ended before its fetch offset.
    fn diverging(&self, item: &FetchItem, log_end_offset: KafkaOffset) -> Option<(LeaderEpoch, KafkaOffset)> {
        if item.last_fetched_epoch == LeaderEpoch::UNKNOWN {
            return None;
        }
        let (epoch, end) = self.epochs.end_offset_for(item.last_fetched_epoch, log_end_offset);
        let known = epoch != LeaderEpoch::UNKNOWN;
        (known && (epoch < item.last_fetched_epoch || end < item.offset)).then_some((epoch, end))
    }
}

/// KIP-320: a client that believes in an older or newer epoch than the leader's is told so.
///
/// # Errors
/// FENCED_LEADER_EPOCH for an older one, UNKNOWN_LEADER_EPOCH for a newer one.
pub fn check_epoch(believed: LeaderEpoch, term: Term) -> Result<(), ErrorCode> {
    let current = term.leader_epoch();
    if believed == LeaderEpoch::UNKNOWN || believed == current {
        return Ok(());
    }
    Err(if believed < current { ErrorCode::FencedLeaderEpoch } else { ErrorCode::UnknownLeaderEpoch })
}
