//! A replica of one partition as its owning shard sees it, above Raft and beside its files.
//!
//! Owned by one [`crate::shard::Shard`]; nobody else touches it. What Raft has committed is *applied* here, in order:
//! the high watermark moves, producer state and leader epochs follow. What is applied and not yet in the partition's
//! files is written behind from Raft's tail.
//!
//! Reading order: `append.rs` (what a produce request goes through), `apply.rs` (what commit does), `read.rs`
//! (fetch).
//!
//! Invariants: the high watermark is the end of the applied log and never moves back; the log start moves only when a
//! committed entry says so; a batch is acknowledged only when the very entry (index, term) it became is applied.

pub mod append;
pub mod apply;
pub mod gaps;
pub mod read;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use chronik_wal::disk::Disk;
use chronik_wal::entry::{GroupState, LogStart};
use chronik_wal::epochs::EpochTable;
use chronik_wal::partition::{FilesError, PartitionLog, ProducerSnapshot};
use chronik_wal::planted::{Bug, is_planted};
use chronik_wal::producer_state::{ProducerLimits, ProducerTable};
use chronik_wal::types::{GroupId, KafkaOffset, PeerId, RaftIndex, Term};
use uuid::Uuid;

use self::gaps::Gaps;
use crate::config::broker::BrokerConfig;
use crate::config::topic::TopicConfig;
use crate::metadata::command::Replica;
use crate::shard::acks::insert_sorted;
use crate::shard::in_sync::InSync;

/// Names a partition in Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionName {
    /// The topic.
    pub topic: Arc<str>,
    /// Its id: another topic of the same name has another one.
    pub topic_id: Uuid,
    /// The partition's number.
    pub index: i32,
}

/// Somebody who waits for an entry to be applied: exactly the pair (index, term), never the index alone (rule 12).
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// The entry's index.
    pub index: RaftIndex,
    /// The term it was proposed in.
    pub term: Term,
    /// Who waits.
    pub who: Waiting,
}

/// Who waits for an entry.
#[derive(Clone, Copy, Debug)]
pub enum Waiting {
    /// A produce slice: its number on the shard, the item within it, and the offset it gets.
    Produce {
        /// The slice's number on the shard.
        slice: u64,
        /// The item's place in the slice.
        item: u32,
        /// What the client is told.
        base_offset: KafkaOffset,
        /// The broker's timestamp, or −1.
        log_append_time_ms: i64,
    },
    /// A DeleteRecords request.
    Delete {
        /// The request's number on the shard.
        request: u64,
        /// The item's place in it.
        item: u32,
    },
    /// Records that the partition's own coordinator appended.
    Coordinator {
        /// The coordinator's token.
        token: u64,
    },
    /// A change of metadata (group 0 only).
    Metadata {
        /// The plan's number.
        plan: u64,
    },
}

/// First byte of [`Partition::producers_as_data`]; then the offset (i64, little-endian) below which every batch is in it, then
/// a snapshot in Kafka's format.
const PRODUCER_DATA_VERSION: u8 = 1;

/// More than some thousand producers are kept in files only: this goes into a frame of the WAL with each change of a term.
const PRODUCER_DATA_MAX: usize = 1 << 20;

fn producers_from_data(data: &Bytes) -> Option<ProducerSnapshot> {
    let (&version, rest) = data.split_first()?;
    let (offset, _) = rest.split_first_chunk::<8>()?;
    let offset = KafkaOffset(i64::from_le_bytes(*offset));
    (version == PRODUCER_DATA_VERSION).then(|| ProducerSnapshot { offset, bytes: data.slice(9..) })
}

/// The bounds of a partition's producers, from the broker's configs.
#[must_use]
pub fn producer_limits(broker: &BrokerConfig) -> ProducerLimits {
    let expiration_ms = i64::from(broker.producer_id_expiration_ms);
    ProducerLimits { expiration_ms, ..ProducerLimits::default() }
}

/// One replica of a partition.
pub struct Partition {
    /// Whose partition.
    pub name: PartitionName,
    /// Its Raft group.
    pub group: GroupId,
    /// Its replicas, in the order of the placement, and other members that wrote to this one.
    pub members: Vec<Replica>,
    /// Of those that the placement names, the ones that are no more: the node has a newer one. Nothing is sent to them.
    pub gone: Vec<PeerId>,
    /// The topic's configuration, resolved.
    pub config: Arc<TopicConfig>,
    /// End of the committed and applied log.
    pub high_watermark: KafkaOffset,
    /// Where the log starts for clients.
    pub log_start: KafkaOffset,
    /// The last entry applied.
    pub applied: RaftIndex,
    /// Idempotent producers.
    pub producers: ProducerTable,
    /// Gaps of these that may close by themselves, where this replica leads.
    pub gaps: Gaps,
    /// Somebody has led the group, as far as this replica has seen.
    pub has_been_led: bool,
    /// Where each leader epoch started.
    pub epochs: EpochTable,
    /// The partition's files.
    pub files: PartitionLog,
    /// Who waits for an entry to be applied, by index.
    pub waiters: VecDeque<Waiter>,
    /// Who waits for an entry to be on the leader's own disk, by index.
    pub local_waiters: VecDeque<Waiter>,
    /// Whose entry is applied and waits for more disks than the quorum's, by index.
    pub lagging_waiters: VecDeque<Waiter>,
    /// The replicas in sync, where this one leads.
    pub in_sync: InSync,
    /// Fetches (by their number on the shard) that wait for the high watermark to move.
    pub fetch_waiters: BTreeSet<u64>,
    /// Applied bytes that are not in the files yet.
    pub unwritten_bytes: u64,
    /// When the oldest of these was applied (monotonic ms).
    pub unwritten_since_ms: Option<u64>,
    /// When a fetch last had to read the files (monotonic ms).
    pub files_read_at_ms: Option<u64>,
    /// Bytes of batches applied since the producer state was last kept in a file.
    pub unkept_bytes: u64,
    /// This replica led until a moment ago: until then (monotonic ms) requests wait for word of the new leader.
    pub successor_until_ms: u64,
    /// Since when (monotonic ms) this replica knows of no leader.
    pub leaderless_since_ms: Option<u64>,
    /// A proposal that moves the log start is on its way.
    pub trimming: bool,
}

impl Partition {
    /// A partition with an empty log.
    #[must_use]
    pub fn new(
        name: PartitionName,
        group: GroupId,
        config: Arc<TopicConfig>,
        files: PartitionLog,
        broker: &BrokerConfig,
    ) -> Self {
        let limits = producer_limits(broker);
        Self {
            name,
            group,
            members: Vec::new(),
            gone: Vec::new(),
            config,
            high_watermark: KafkaOffset(0),
            log_start: KafkaOffset(0),
            applied: RaftIndex(0),
            producers: ProducerTable::new(limits),
            gaps: Gaps::default(),
            has_been_led: false,
            epochs: EpochTable::new(),
            files,
            waiters: VecDeque::new(),
            local_waiters: VecDeque::new(),
            lagging_waiters: VecDeque::new(),
            in_sync: InSync::default(),
            fetch_waiters: BTreeSet::new(),
            unwritten_bytes: 0,
            unwritten_since_ms: None,
            files_read_at_ms: None,
            unkept_bytes: 0,
            successor_until_ms: 0,
            leaderless_since_ms: None,
            trimming: false,
        }
    }

    /// A partition as its files and its group's state have it. What the WAL has beyond the files is applied again.
    #[must_use]
    pub fn recovered(
        name: PartitionName,
        group: GroupId,
        config: Arc<TopicConfig>,
        files: PartitionLog,
        state: &GroupState,
        broker: &BrokerConfig,
    ) -> Self {
        let written = files.written();
        let mut partition = Self::new(name, group, config, files, broker);
        partition.applied = written.index.max(state.log_start.index);
        partition.high_watermark = written.next_offset.max(state.log_start.base_offset);
        partition.log_start = state.log_start.offset;
        for run in partition.files.term_runs() {
            partition.epochs.append(run.term.leader_epoch(), run.first_offset);
        }
        partition.epochs.advance_start(partition.log_start);
        partition
    }

    /// Goes on from a snapshot: the log is empty and begins at `start`.
    pub fn install(&mut self, start: LogStart, data: &Bytes, limits: ProducerLimits, wall_ms: i64) {
        self.applied = start.index;
        self.high_watermark = start.base_offset;
        self.log_start = start.offset;
        self.epochs = EpochTable::new();
        self.epochs.append(start.term.leader_epoch(), start.base_offset);
        self.producers = producers_from_data(data)
            .filter(|_| self.group != GroupId::METADATA)
            .and_then(|snapshot| ProducerTable::decode_snapshot(&snapshot.bytes, limits, wall_ms).ok())
            .unwrap_or_else(|| ProducerTable::new(limits));
        self.unwritten_bytes = 0;
        self.unwritten_since_ms = None;
        self.trimming = false;
    }

    /// Brings the producer state up to the end of the files, from the newest snapshot (a file, or what the group's state keeps)
    /// and the batches after it.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn recover_producers(
        &mut self,
        disk: &dyn Disk,
        snapshot: Option<ProducerSnapshot>,
        data: &Bytes,
        log_end: KafkaOffset,
        limits: ProducerLimits,
        wall_ms: i64,
    ) -> Result<(), FilesError> {
        // A file that speaks of what is lost is not believed: batches that come anew would be taken for duplicates. What the
        // group's state keeps was taken when the log start moved, where the log may have ended later than here: a snapshot
        // that took the log's place is durable before the entries after it have come. Nothing else knows of the producers
        // below the log start, so of that as much is believed as this log has.
        let file = snapshot.filter(|snapshot| snapshot.offset <= log_end);
        let believed = [file, producers_from_data(data)].into_iter().flatten();
        let believed = believed.max_by_key(|snapshot| snapshot.offset.min(log_end));
        let mut from = believed.as_ref().map_or(self.files.start().base_offset, |snapshot| snapshot.offset);
        if let Some(snapshot) = believed {
            match ProducerTable::decode_snapshot(&snapshot.bytes, limits, wall_ms) {
                Ok(mut producers) => {
                    if snapshot.offset > log_end {
                        producers.forget_from(log_end);
                        from = self.files.start().base_offset;
                    }
                    self.producers = producers;
                }
                Err(error) => {
                    tracing::warn!(group = self.group.0, %error, "a producer snapshot is read from the log instead");
                    from = self.files.start().base_offset;
                }
            }
        }
        let producers = &mut self.producers;
        crate::shard::open::replay_files(disk, &self.files, from, &mut |info, _| {
            producers.apply(info, RaftIndex(0), info.max_timestamp.min(wall_ms));
        })
    }

    /// The producer state as the group's state keeps it when the log start moves: what is deleted from the log is not forgotten
    /// by a start, and a producer that sends once more is not written once more.
    #[must_use]
    pub fn producers_as_data(&self) -> Bytes {
        if self.producers.is_empty() {
            return Bytes::new();
        }
        let snapshot = self.producers.encode_snapshot();
        if snapshot.len() > PRODUCER_DATA_MAX {
            return Bytes::new();
        }
        let mut data = Vec::with_capacity(1 + 8 + snapshot.len());
        data.push(PRODUCER_DATA_VERSION);
        data.extend_from_slice(&self.high_watermark.0.to_le_bytes());
        data.extend_from_slice(&snapshot);
        data.into()
    }

    /// Has somebody wait for an entry to be applied.
    pub fn wait_applied(&mut self, waiter: Waiter) {
        insert_sorted(&mut self.waiters, waiter);
    }

    /// Has somebody wait for an entry to be on this disk.
    pub fn wait_local(&mut self, waiter: Waiter) {
        insert_sorted(&mut self.local_waiters, waiter);
    }

    /// Takes the waiters that an applied entry, or the loss of leadership, has decided.
    ///
    /// Those of a lower index whose entry is gone come out as failed: a waiter succeeds only for its own pair.
    pub fn take_waiters(&mut self, index: RaftIndex, term: Term, decided: &mut Vec<(Waiter, bool)>) {
        while let Some(first) = self.waiters.front().copied() {
            if first.index > index {
                return;
            }
            self.waiters.pop_front();
            let is_own = first.term == term || is_planted(Bug::WaiterByIndex);
            decided.push((first, first.index == index && is_own));
        }
    }

    /// Every waiter, because this replica does not lead any more.
    pub fn fail_waiters(&mut self, decided: &mut Vec<(Waiter, bool)>) {
        if is_planted(Bug::WaiterByIndex) {
            return;
        }
        let queues = [&mut self.lagging_waiters, &mut self.waiters, &mut self.local_waiters];
        decided.extend(queues.into_iter().flat_map(|queue| queue.drain(..)).map(|waiter| (waiter, false)));
    }
}
