//! Fetch on the shard that owns the partitions: read, and wait for more when there is too little.
//!
//! A fetch that waits is registered with each of its partitions; when a high watermark moves, only that partition is
//! read again. The decision to wait and the registration happen in one step on the owner, so no wake-up is lost.
//! Records below the tail are read by a helper thread; the fetch is decided when its last read is back.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use chronik_net::codec::ErrorCode;
use chronik_raft::leadership::Leadership;
use chronik_wal::partition::{FileDone, FilesError};
use chronik_wal::types::{GroupId, KafkaOffset, NodeId};

use super::message::{Call, FetchItem, FetchOutcome, FetchSlice, LeaderHint, Reply, Request};
use super::{Job, JobOwner, Shard, Timer};
use crate::partition::Partition;
use crate::partition::read::{LeaderLog, Reading, Source};

/// A read from files takes at most this much at a time, so that little is brought in for a slow client.
const FILE_READ_BYTES_MAX: usize = 1 << 20;

/// A fetch that is being read, or waits for records.
#[derive(Debug)]
pub struct PendingFetch {
    call: Call,
    slice: FetchSlice,
    /// Where the client is, if it says so.
    rack: Option<Arc<str>>,
    outcomes: Vec<FetchOutcome>,
    reads: usize,
    deadline_ms: u64,
    registered: bool,
    now: bool,
    /// Items whose segment went away while it was read.
    gone: Vec<usize>,
}

impl PendingFetch {
    fn bytes(&self) -> usize {
        self.outcomes.iter().map(FetchOutcome::bytes).sum()
    }

    fn decided(&self, now_ms: u64) -> bool {
        let urgent = |outcome: &FetchOutcome| {
            outcome.error != ErrorCode::None || outcome.diverging.is_some() || outcome.preferred.is_some()
        };
        self.now
            || now_ms >= self.deadline_ms
            || self.bytes() >= self.slice.min_bytes as usize
            || self.outcomes.iter().any(urgent)
    }
}

impl Shard {
    pub(crate) fn fetch(&mut self, call: Call, slice: FetchSlice, rack: Option<Arc<str>>) {
        if self.pending_count() >= self.limits.pending_max {
            return self.reply(call, Reply::Unavailable);
        }
        if !self.serves() {
            return self.refuse_fetch(call, &slice);
        }
        let number = self.number();
        let deadline_ms = self.now.mono_ms + u64::from(slice.max_wait_ms);
        let mut budget = slice.max_bytes as usize;
        let mut empty_so_far = true;
        let mut reads = Vec::new();
        let mut outcomes = Vec::with_capacity(slice.items.len());
        for (place, item) in slice.items.iter().enumerate() {
            let max_bytes = budget.min(item.max_bytes as usize);
            let outcome = match self.read_item(item, &slice, rack.as_deref(), max_bytes, empty_so_far) {
                Source::Done(outcome) | Source::Memory(outcome) => outcome,
                Source::Files { outcome, from, below } => {
                    let max_bytes = max_bytes.min(FILE_READ_BYTES_MAX);
                    reads.push((place, item.group, from, below, max_bytes, empty_so_far));
                    budget = budget.saturating_sub(max_bytes);
                    empty_so_far = false;
                    outcome
                }
            };
            budget = budget.saturating_sub(outcome.bytes());
            empty_so_far &= outcome.records.is_empty();
            outcomes.push(outcome);
        }
        let unsure = self.beyond_what_is_sure(&slice, &outcomes);
        if !unsure.is_empty() {
            let request = match rack {
                Some(rack) => Request::FetchFrom { slice, rack },
                None => Request::Fetch(slice),
            };
            return self.wait_for_contact(call, request, unsure);
        }
        let pending = PendingFetch {
            call,
            slice,
            rack,
            outcomes,
            reads: 0,
            deadline_ms,
            registered: false,
            now: false,
            gone: Vec::new(),
        };
        self.fetches.insert(number, pending);
        self.fetch_calls.insert(call, number);
        for (place, group, from, below, max_bytes, at_least_one) in reads {
            self.start_read(number, place, group, from, below, max_bytes, at_least_one);
        }
        self.decide_fetch(number);
    }

    /// Groups of which an offset above the end of the log is asked while another leader may have a longer one: a client that has read
    /// there would be told to begin anew (SAFETY.md, rule 23).
    fn beyond_what_is_sure(&self, slice: &FetchSlice, outcomes: &[FetchOutcome]) -> BTreeSet<GroupId> {
        let refused =
            slice.items.iter().zip(outcomes).filter(|(_, out)| out.error == ErrorCode::OffsetOutOfRange);
        let beyond = refused.map(|(item, _)| item).filter(|item| {
            self.driver.log_end_offset(item.group).is_some_and(|end| item.offset > end)
                && self.lacks_contact(item.group)
        });
        beyond.map(|item| item.group).collect()
    }

    /// This node is about to end: names those who lead now.
    fn refuse_fetch(&mut self, call: Call, slice: &FetchSlice) {
        let outcomes: Vec<_> = slice.items.iter().map(|item| self.fetch_elsewhere(item.group)).collect();
        let is_any_led = outcomes.iter().any(|outcome| outcome.leader.is_some());
        self.reply(call, if is_any_led { Reply::Fetch(outcomes) } else { Reply::Unavailable });
    }

    fn fetch_elsewhere(&self, group: GroupId) -> FetchOutcome {
        let mut refused = FetchOutcome::refused(ErrorCode::NotLeaderOrFollower);
        (refused.leader, refused.is_orphaned) = self.leader_elsewhere(group);
        refused
    }

    fn read_item(
        &mut self,
        item: &FetchItem,
        slice: &FetchSlice,
        rack: Option<&str>,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Source {
        let Some(partition) = self.partitions.get(&item.group) else {
            return Source::Done(FetchOutcome::refused(self.absence(item.group)));
        };
        let reading = Reading { isolation: slice.isolation, max_bytes, at_least_one };
        if let (Some(Leadership::Follower { term, .. }), Some(tail), Some(_)) =
            (self.driver.leadership(item.group), self.driver.tail(item.group), rack)
        {
            let log = LeaderLog { term, tail, end: partition.high_watermark };
            return self.name_leader(item.group, partition.read_follower(item, &reading, &log));
        }
        let (Some(Leadership::Leader { term }), Some(tail)) =
            (self.driver.leadership(item.group), self.driver.tail(item.group))
        else {
            return Source::Done(self.fetch_elsewhere(item.group));
        };
        if let Some(preferred) = rack.and_then(|rack| self.replica_near(partition, rack, item.offset)) {
            let elsewhere = Source::Done(partition.read_elsewhere(item, term, preferred));
            return self.name_leader(item.group, elsewhere);
        }
        let end = self.driver.log_end_offset(item.group).unwrap_or_default();
        let source = partition.read(item, &reading, &LeaderLog { term, tail, end });
        self.name_leader(item.group, source)
    }

    /// A client that believes in an older leader is told of the present one.
    fn name_leader(&self, group: GroupId, mut source: Source) -> Source {
        if let Source::Done(outcome) = &mut source
            && matches!(outcome.error, ErrorCode::FencedLeaderEpoch)
        {
            outcome.leader = match self.driver.leadership(group) {
                Some(Leadership::Leader { term }) => {
                    Some(LeaderHint { node: self.node, epoch: term.leader_epoch() })
                }
                _ => self.leader_hint(group),
            };
        }
        source
    }

    /// A replica in sync in the client's rack that has the offset, where this one is elsewhere and the broker is to look for one.
    fn replica_near(&self, partition: &Partition, rack: &str, offset: KafkaOffset) -> Option<NodeId> {
        let brokers = &self.snapshot.brokers;
        let is_near =
            |node: &NodeId| brokers.get(node).and_then(|broker| broker.rack.as_deref()) == Some(rack);
        if !self.config.rack_aware_replica_selector
            || is_near(&self.node)
            || offset > partition.high_watermark
        {
            return None;
        }
        let in_sync = partition.in_sync.nodes().iter();
        in_sync.copied().find(|node| is_near(node) && self.nodes_up.contains(node))
    }

    #[expect(clippy::too_many_arguments, reason = "one call, each named at the caller")]
    fn start_read(
        &mut self,
        fetch: u64,
        place: usize,
        group: GroupId,
        from: chronik_wal::types::KafkaOffset,
        below: chronik_wal::types::KafkaOffset,
        max_bytes: usize,
        at_least_one: bool,
    ) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        partition.files_read_at_ms = Some(self.now.mono_ms);
        let Some(job) = partition.files.read(from, below, max_bytes, at_least_one) else { return };
        if let Some(pending) = self.fetches.get_mut(&fetch) {
            pending.reads += 1;
        }
        self.start_job(JobOwner::Fetch { fetch, item: place }, Job::File(job));
    }

    /// A read from files is back.
    pub(crate) fn fetch_read(&mut self, fetch: u64, place: usize, done: FileDone) {
        let FileDone::Read(result) = done else { return };
        let Some(pending) = self.fetches.get_mut(&fetch) else { return };
        pending.reads -= 1;
        if let Some(outcome) = pending.outcomes.get_mut(place) {
            match result {
                Ok(read) => outcome.records = vec![read.data],
                // The segment was dropped meanwhile: the item is read anew, and then lies below the log start.
                Err(FilesError::Gone { .. }) => pending.gone.push(place),
                Err(error) => {
                    tracing::error!(%error, "reading a segment failed");
                    *outcome = FetchOutcome::refused(ErrorCode::KafkaStorageError);
                }
            }
        }
        self.read_gone(fetch);
        self.decide_fetch(fetch);
    }

    fn read_gone(&mut self, fetch: u64) {
        let Some(pending) = self.fetches.get_mut(&fetch) else { return };
        for place in std::mem::take(&mut pending.gone) {
            let group =
                self.fetches.get(&fetch).and_then(|pending| pending.slice.items.get(place)).map(|i| i.group);
            if let Some(group) = group {
                self.read_again(fetch, group);
            }
        }
    }

    pub(crate) fn decide_fetch(&mut self, fetch: u64) {
        let Some(pending) = self.fetches.get(&fetch) else { return };
        if pending.reads > 0 {
            return;
        }
        if pending.decided(self.now.mono_ms) {
            return self.finish_fetch(fetch);
        }
        self.register_fetch(fetch);
    }

    fn register_fetch(&mut self, fetch: u64) {
        let Some(pending) = self.fetches.get_mut(&fetch) else { return };
        if std::mem::replace(&mut pending.registered, true) {
            return;
        }
        let deadline_ms = pending.deadline_ms;
        for item in &pending.slice.items {
            if let Some(partition) = self.partitions.get_mut(&item.group) {
                partition.fetch_waiters.insert(fetch);
            }
        }
        self.set_timer(deadline_ms, Timer::Fetch(fetch));
    }

    fn finish_fetch(&mut self, fetch: u64) {
        let Some(pending) = self.fetches.remove(&fetch) else { return };
        self.fetch_calls.remove(&pending.call);
        if pending.registered {
            self.timers.remove(&(pending.deadline_ms, Timer::Fetch(fetch)));
            for item in &pending.slice.items {
                if let Some(partition) = self.partitions.get_mut(&item.group) {
                    partition.fetch_waiters.remove(&fetch);
                }
            }
        }
        self.metrics.bytes_out.add(pending.bytes() as u64);
        self.reply(pending.call, Reply::Fetch(pending.outcomes));
    }

    /// The time is up, or another shard has enough: answer with what is there.
    pub(crate) fn fetch_due(&mut self, fetch: u64) {
        let Some(pending) = self.fetches.get_mut(&fetch) else { return };
        pending.now = true;
        self.decide_fetch(fetch);
    }

    pub(crate) fn fetch_now(&mut self, call: Call) {
        if let Some(number) = self.fetch_calls.get(&call) {
            self.fetch_due(*number);
        }
    }

    /// The high watermark, the log start or the leader of a partition changed: read it again for those who wait.
    pub(crate) fn wake_fetches(&mut self, group: GroupId) {
        let Some(partition) = self.partitions.get(&group) else { return };
        for fetch in partition.fetch_waiters.clone() {
            self.read_again(fetch, group);
            self.decide_fetch(fetch);
        }
    }

    pub(crate) fn read_again(&mut self, fetch: u64, group: GroupId) {
        let Some(pending) = self.fetches.get(&fetch) else { return };
        let Some(place) = pending.slice.items.iter().position(|item| item.group == group) else { return };
        let others: usize = pending.bytes() - pending.outcomes[place].bytes();
        let item = pending.slice.items[place];
        let slice = FetchSlice { items: Vec::new(), ..pending.slice };
        let rack = pending.rack.clone();
        let max_bytes = (slice.max_bytes as usize).saturating_sub(others).min(item.max_bytes as usize);
        match self.read_item(&item, &slice, rack.as_deref(), max_bytes, others == 0) {
            Source::Done(outcome) | Source::Memory(outcome) => {
                if let Some(pending) = self.fetches.get_mut(&fetch) {
                    pending.outcomes[place] = outcome;
                }
            }
            Source::Files { outcome, from, below } => {
                if let Some(pending) = self.fetches.get_mut(&fetch) {
                    pending.outcomes[place] = outcome;
                }
                let max_bytes = max_bytes.min(FILE_READ_BYTES_MAX);
                self.start_read(fetch, place, group, from, below, max_bytes, others == 0);
            }
        }
    }
}

/// Cuts the outcomes of several shards to what one response may hold, in the request's order: the first batch of the
/// first partition with records always stays (KIP-74).
pub fn trim(outcomes: &mut [FetchOutcome], max_bytes: usize) {
    let mut budget = max_bytes;
    let mut first = true;
    for outcome in outcomes {
        let bytes = outcome.bytes();
        if bytes <= budget {
            budget -= bytes;
        } else if first {
            outcome.records.truncate(1);
            budget = budget.saturating_sub(outcome.bytes());
        } else {
            outcome.records = Vec::<Bytes>::new();
        }
        first &= outcome.records.is_empty();
    }
}
