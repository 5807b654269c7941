//! What a partition knows of its idempotent producers (KIP-98), so that a batch sent twice is stored once.
//!
//! Owned by the partition, on its shard; pure. Every replica calls [`ProducerTable::apply`] for each committed batch, in
//! log order, also at replay; only a leader calls [`ProducerTable::check`] and [`ProducerTable::propose`].
//!
//! Per producer id there is *applied* state, the epoch and the last five batches, and on a leader the batches *in
//! flight*, proposed but not committed. A batch is judged against the newest of both. A duplicate of an applied batch
//! gets that batch's offset at once; a duplicate of one in flight must wait for the very same entry (index, term), for
//! until that is committed the original may yet be lost, and an acknowledgement now would be of nothing.
//!
//! Invariants
//! - At most [`BATCHES_KEPT`] applied batches a producer, their sequence ranges adjoining, oldest first.
//! - A producer with batches in flight or an open transaction is neither expired nor evicted.
//! - `in_flight` lists exactly the entries in the producers' own queues.
//! - A new leader judges nothing before it has applied all entries of earlier terms (SAFETY.md, rule 11), so what
//!   [`ProducerTable::abandon_in_flight`] forgets has been applied, or is gone from the log, by the next check.

mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use snapshot::SnapshotError;

use crate::batch::{BatchInfo, NO_TIMESTAMP, sequence_plus};
use crate::types::{KafkaOffset, RaftIndex, Term};

/// Applied batches kept a producer: clients send at most five at once (`max.in.flight.requests.per.connection`).
pub const BATCHES_KEPT: usize = 5;
/// Producers remembered a partition unless told otherwise: some 3 MiB. Kafka has no bound but time.
pub const PRODUCERS_MAX_DEFAULT: usize = 10_000;
/// `producer.id.expiration.ms` unless told otherwise: a day.
pub const EXPIRATION_MS_DEFAULT: i64 = 86_400_000;

/// Sequence numbers wrap at 2^31: within half of that a batch is ahead of another, beyond it behind.
const AHEAD_MAX: i32 = 1 << 30;
const NO_PRODUCER_EPOCH: i16 = -1;
const NO_COORDINATOR_EPOCH: i32 = -1;
/// Share of the table that one eviction clears, so that its pass over all producers is paid for by many inserts.
const EVICTION_SHARE: usize = 16;

/// Bounds of a [`ProducerTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerLimits {
    /// Producers remembered at most; beyond it the least recently applied are forgotten.
    pub producers_max: usize,
    /// `producer.id.expiration.ms`: idle time after which a producer is forgotten.
    pub expiration_ms: i64,
}

impl Default for ProducerLimits {
    fn default() -> Self {
        Self { producers_max: PRODUCERS_MAX_DEFAULT, expiration_ms: EXPIRATION_MS_DEFAULT }
    }
}

/// What to do with a produced batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerCheck {
    /// Propose it.
    New,
    /// It is in the log already and committed: answer as the first time, with no error.
    Duplicate {
        /// The original's base offset.
        base_offset: KafkaOffset,
        /// The original's max timestamp: the log append time to answer, where the topic has that.
        timestamp: i64,
    },
    /// It has been proposed already. Answer when, and only if, that entry is committed in that term.
    DuplicateInFlight {
        /// The original's entry.
        index: RaftIndex,
        /// And its term.
        term: Term,
        /// The original's base offset.
        base_offset: KafkaOffset,
    },
    /// A gap, or older than the batches kept: OUT_OF_ORDER_SEQUENCE_NUMBER (45).
    OutOfOrder {
        /// The base sequence that is due.
        expected: i32,
    },
    /// A newer incarnation of the producer has written: INVALID_PRODUCER_EPOCH (47).
    InvalidEpoch {
        /// The newest epoch known.
        current: i16,
    },
}

/// The producers of one partition.
#[derive(Clone, Debug, Default)]
pub struct ProducerTable {
    limits: ProducerLimits,
    producers: BTreeMap<i64, Producer>,
    /// Producer of every entry in flight, by index.
    in_flight: BTreeMap<RaftIndex, i64>,
    /// Counts applied batches; the measure of recent use.
    applied_count: u64,
}

/// One producer id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    /// Applied epoch, −1 while nothing has been applied.
    epoch: i16,
    /// Epoch of the transaction coordinator that wrote the last marker; −1 for none. For transactions to come.
    coordinator_epoch: i32,
    /// Where the open transaction began. For transactions to come.
    current_txn_first_offset: Option<KafkaOffset>,
    /// Applied batches of `epoch`, oldest first.
    batches: VecDeque<AppliedBatch>,
    in_flight: VecDeque<InFlightBatch>,
    /// Wall clock of the last apply. Not the batch's own timestamp, which the client chooses.
    applied_wall_ms: i64,
    /// The table's `applied_count` at the last apply.
    applied_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AppliedBatch {
    sequences: SequenceRange,
    base_offset: KafkaOffset,
    last_offset_delta: i32,
    timestamp: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InFlightBatch {
    epoch: i16,
    sequences: SequenceRange,
    base_offset: KafkaOffset,
    index: RaftIndex,
    term: Term,
}

/// First and last sequence number of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SequenceRange {
    first: i32,
    last: i32,
}

impl SequenceRange {
    fn of(info: &BatchInfo) -> Self {
        Self { first: info.base_sequence, last: info.last_sequence() }
    }
}

impl ProducerTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: ProducerLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Changes the bounds, as a config change does. Takes effect at the next expiry and insert.
    pub fn set_limits(&mut self, limits: ProducerLimits) {
        self.limits = limits;
    }

    /// Producers known, those included of which only a batch in flight is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Judges a batch that this leader has received. Changes nothing.
    ///
    /// As in Kafka, the first batch of a producer that is not known may have any sequence number: its state may have
    /// expired, or gone with deleted records.
    #[must_use]
    pub fn check(&self, info: &BatchInfo) -> ProducerCheck {
        if !is_tracked(info) {
            return ProducerCheck::New;
        }
        let Some(producer) = self.producers.get(&info.producer_id) else {
            return ProducerCheck::New;
        };
        let epoch = producer.newest_epoch();
        if info.producer_epoch < epoch {
            return ProducerCheck::InvalidEpoch { current: epoch };
        }
        if info.producer_epoch > epoch {
            // A new incarnation begins at 0, unless none was known before it.
            return match info.base_sequence {
                0 => ProducerCheck::New,
                _ if epoch == NO_PRODUCER_EPOCH => ProducerCheck::New,
                _ => ProducerCheck::OutOfOrder { expected: 0 },
            };
        }
        if let Some(duplicate) = producer.find_duplicate(info) {
            return duplicate;
        }
        let expected = producer.next_sequence();
        if info.base_sequence == expected {
            ProducerCheck::New
        } else {
            ProducerCheck::OutOfOrder { expected }
        }
    }

    /// Whether batches of the producer come before this one that are not known here: by the sequence number that is due, or,
    /// of a producer that is not known or has a newer epoch, by one above 0.
    #[must_use]
    pub fn is_ahead(&self, info: &BatchInfo) -> bool {
        if !is_tracked(info) {
            return false;
        }
        let due = match self.producers.get(&info.producer_id) {
            Some(producer) if info.producer_epoch < producer.newest_epoch() => return false,
            Some(producer) if info.producer_epoch == producer.newest_epoch() => producer.next_sequence(),
            _ => 0,
        };
        let distance = info.base_sequence.wrapping_sub(due) & i32::MAX;
        (1..=AHEAD_MAX).contains(&distance)
    }

    /// Notes a batch that [`Self::check`] found new and raft has accepted at (`index`, `term`). `info` has its assigned
    /// base offset.
    ///
    /// # Panics
    /// When something is in flight at `index` or above: a truncation or the loss of leadership was not told.
    pub fn propose(&mut self, info: &BatchInfo, index: RaftIndex, term: Term) {
        if !is_tracked(info) {
            return;
        }
        let producer = self.producer_mut(info.producer_id);
        producer.in_flight.push_back(InFlightBatch {
            epoch: info.producer_epoch,
            sequences: SequenceRange::of(info),
            base_offset: info.base_offset,
            index,
            term,
        });
        if let Some((newest, _)) = self.in_flight.last_key_value() {
            assert!(*newest < index, "proposed at index {index}, after one at {newest}");
        }
        self.in_flight.insert(index, info.producer_id);
    }

    /// Takes a committed batch into the state. Called on every replica, in log order, also at replay. `wall_ms` is the
    /// time now; at replay that too, which only makes a producer live longer.
    ///
    /// A batch at or below the producer's newest offset changes nothing: a replay may begin before the place that a
    /// snapshot was taken at.
    pub fn apply(&mut self, info: &BatchInfo, index: RaftIndex, wall_ms: i64) {
        self.settle_in_flight(index);
        if !is_tracked(info) {
            return;
        }
        self.applied_count += 1;
        let applied_at = self.applied_count;
        let producer = self.producer_mut(info.producer_id);
        producer.applied_wall_ms = wall_ms;
        producer.applied_at = applied_at;
        if producer.batches.back().is_some_and(|newest| info.base_offset <= newest.base_offset) {
            return;
        }
        producer.push_applied(
            info.producer_epoch,
            AppliedBatch {
                sequences: SequenceRange::of(info),
                base_offset: info.base_offset,
                last_offset_delta: info.last_offset_delta,
                timestamp: info.max_timestamp,
            },
        );
    }

    /// Forgets every batch in flight: leadership is lost.
    pub fn abandon_in_flight(&mut self) {
        self.abandon_in_flight_from(RaftIndex(0));
    }

    /// Forgets the batches in flight at `index` and above: the log has been truncated there.
    pub fn abandon_in_flight_from(&mut self, index: RaftIndex) {
        let abandoned = self.in_flight.split_off(&index);
        for producer_id in abandoned.into_values() {
            let Some(producer) = self.producers.get_mut(&producer_id) else { continue };
            producer.in_flight.retain(|batch| batch.index < index);
            self.drop_if_blank(producer_id);
        }
    }

    /// Forgets every applied batch that reaches `end` or beyond: the log ends there. A snapshot may have been taken further on.
    pub fn forget_from(&mut self, end: KafkaOffset) {
        self.producers.retain(|_, producer| {
            let had_batches = !producer.batches.is_empty();
            let is_below =
                |batch: &AppliedBatch| batch.base_offset.0 + i64::from(batch.last_offset_delta) < end.0;
            producer.batches.retain(is_below);
            // One without batches is known by its epoch alone, which a marker has told.
            !had_batches || !producer.batches.is_empty() || producer.is_held()
        });
    }

    /// Forgets producers idle for `producer.id.expiration.ms`; gives how many. To be called every ten minutes or so.
    pub fn expire(&mut self, wall_ms: i64) -> usize {
        let before = self.producers.len();
        let expiration_ms = self.limits.expiration_ms;
        self.producers.retain(|_, producer| {
            producer.is_held() || wall_ms.saturating_sub(producer.applied_wall_ms) < expiration_ms
        });
        before - self.producers.len()
    }

    /// Takes the entry at `index`, and any below, out of what is in flight.
    fn settle_in_flight(&mut self, index: RaftIndex) {
        while let Some(first) = self.in_flight.first_entry() {
            if *first.key() > index {
                return;
            }
            let producer_id = first.remove();
            if let Some(producer) = self.producers.get_mut(&producer_id) {
                producer.in_flight.pop_front();
            }
            self.drop_if_blank(producer_id);
        }
    }

    fn drop_if_blank(&mut self, producer_id: i64) {
        if self.producers.get(&producer_id).is_some_and(Producer::is_blank) {
            self.producers.remove(&producer_id);
        }
    }

    /// The producer with this id, made if need be, for which others may have to go.
    fn producer_mut(&mut self, producer_id: i64) -> &mut Producer {
        if self.producers.len() >= self.limits.producers_max && !self.producers.contains_key(&producer_id) {
            self.evict();
        }
        self.producers.entry(producer_id).or_insert_with(Producer::blank)
    }

    /// Forgets the least recently applied sixteenth of the producers.
    fn evict(&mut self) {
        let mut idle: Vec<(u64, i64)> = self
            .producers
            .iter()
            .filter(|(_, producer)| !producer.is_held())
            .map(|(producer_id, producer)| (producer.applied_at, *producer_id))
            .collect();
        if idle.is_empty() {
            return;
        }
        let count = (self.producers.len() / EVICTION_SHARE + 1).min(idle.len());
        idle.select_nth_unstable(count - 1);
        for (_, producer_id) in &idle[..count] {
            self.producers.remove(producer_id);
        }
    }
}

impl Producer {
    /// One of which nothing is known yet.
    fn blank() -> Self {
        Self {
            epoch: NO_PRODUCER_EPOCH,
            coordinator_epoch: NO_COORDINATOR_EPOCH,
            current_txn_first_offset: None,
            batches: VecDeque::new(),
            in_flight: VecDeque::new(),
            applied_wall_ms: NO_TIMESTAMP,
            applied_at: 0,
        }
    }

    fn is_blank(&self) -> bool {
        self.epoch == NO_PRODUCER_EPOCH && !self.is_held()
    }

    /// Whether it must stay whatever its age.
    fn is_held(&self) -> bool {
        !self.in_flight.is_empty() || self.current_txn_first_offset.is_some()
    }

    fn newest_epoch(&self) -> i16 {
        self.in_flight.back().map_or(self.epoch, |batch| batch.epoch)
    }

    /// The base sequence due next in the newest epoch; 0 when nothing of it has been kept.
    fn next_sequence(&self) -> i32 {
        let newest = match self.in_flight.back() {
            Some(batch) => Some(batch.sequences),
            None => self.batches.back().map(|batch| batch.sequences),
        };
        newest.map_or(0, |sequences| sequence_plus(sequences.last, 1))
    }

    /// The batch that this one repeats: same epoch, same first and last sequence number.
    fn find_duplicate(&self, info: &BatchInfo) -> Option<ProducerCheck> {
        let sequences = SequenceRange::of(info);
        // Newest first: a retry is nearly always of a recent one.
        let in_flight = self.in_flight.iter().rev();
        for batch in in_flight.take_while(|batch| batch.epoch == info.producer_epoch) {
            if batch.sequences == sequences {
                let (index, term, base_offset) = (batch.index, batch.term, batch.base_offset);
                return Some(ProducerCheck::DuplicateInFlight { index, term, base_offset });
            }
        }
        if self.epoch != info.producer_epoch {
            return None;
        }
        let original = self.batches.iter().rev().find(|batch| batch.sequences == sequences)?;
        let (base_offset, timestamp) = (original.base_offset, original.timestamp);
        Some(ProducerCheck::Duplicate { base_offset, timestamp })
    }

    fn push_applied(&mut self, epoch: i16, batch: AppliedBatch) {
        if self.epoch != epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
        if self.batches.len() == BATCHES_KEPT {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }
}

/// Whether a batch bears on this table: it has a producer id and sequence numbers and is no marker.
fn is_tracked(info: &BatchInfo) -> bool {
    info.has_producer_id() && info.base_sequence >= 0 && !info.is_control()
}
