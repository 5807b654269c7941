//! The slots of a shard's WAL: which hold live segments, which are prepared, which are free, and the jobs that prepare
//! them. The planning is pure; [`WalJob::run`] is for a helper thread.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use super::{ShardWal, WalConfig, WalError, slot_path};
use crate::disk::{Disk, OpenMode};
use crate::frame::{BLOCK, SegmentHeader, SegmentInfo};
use crate::types::WalSeq;

/// How much one write of zeros covers.
const ZEROS: usize = 1 << 20;

/// One use of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) sequence: WalSeq,
    pub(crate) slot: u32,
    pub(crate) len: u64,
}

/// A slot that holds nothing that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSlot {
    pub(crate) slot: u32,
    /// Its blocks have been written once, over this length; none when that is not known.
    pub(crate) filled: Option<u64>,
}

/// What a segment is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// For what will be put.
    Ahead,
    /// Frames wait for it that need not ask for room. They alone get the last segment within the bound.
    FramesWait,
    /// The checkpoint that will release a segment waits for it. Recycling must not wait for itself, so this one may
    /// exceed the bound; there is one such checkpoint at a time, and each gives a segment back.
    CheckpointWaits,
}

/// All slots of a shard.
#[derive(Debug)]
pub(crate) struct Segments {
    /// Oldest first; the last one is the current.
    live: VecDeque<Segment>,
    prepared: VecDeque<Segment>,
    free: VecDeque<FreeSlot>,
    /// Segments of another length than the configured one that are not needed; their files go once a newer header says so.
    retired: Vec<Segment>,
    next_slot: u32,
    /// The job that runs: the segment, its slot, and the retired segments that it removes.
    job: Option<(Segment, FreeSlot, Vec<Segment>)>,
    /// The disk was full; not before this time again.
    retry_at_ms: Option<u64>,
    /// Bytes of slots that are kept though nothing can be read from them.
    quarantined: u64,
    /// Nothing is released for now.
    pinned: bool,
}

impl Segments {
    pub(crate) fn new(
        live: VecDeque<Segment>,
        free: Vec<FreeSlot>,
        next_slot: u32,
        quarantined: u64,
    ) -> Self {
        assert!(!live.is_empty(), "there is always a current segment");
        Self {
            live,
            prepared: VecDeque::new(),
            free: free.into(),
            retired: Vec::new(),
            next_slot,
            job: None,
            retry_at_ms: None,
            quarantined,
            pinned: false,
        }
    }

    pub(crate) fn current(&self) -> &Segment {
        self.live.back().expect("there is always a current segment")
    }

    pub(crate) fn oldest(&self) -> &Segment {
        self.live.front().expect("there is always a current segment")
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Bytes of the live segments before `sequence`.
    pub(crate) fn full_bytes(&self, sequence: WalSeq) -> u64 {
        let full = self.live.iter().filter(|segment| segment.sequence < sequence);
        full.map(|segment| segment.len).sum()
    }

    /// Makes `sequence` the current segment if it is not; false when it has not been prepared.
    pub(crate) fn advance_to(&mut self, sequence: WalSeq) -> bool {
        if self.current().sequence == sequence {
            return true;
        }
        if self.prepared.front().is_none_or(|next| next.sequence != sequence) {
            return false;
        }
        self.live.extend(self.prepared.pop_front());
        true
    }

    /// How many segments are prepared beyond `sequence`; none when that one is not prepared itself.
    pub(crate) fn prepared_from(&self, sequence: WalSeq) -> Option<usize> {
        if self.current().sequence == sequence {
            return Some(self.prepared.len());
        }
        let place = self.prepared.iter().position(|segment| segment.sequence == sequence)?;
        Some(self.prepared.len() - place - 1)
    }

    /// Gives the oldest segment's slot back.
    pub(crate) fn release_oldest(&mut self, config: &WalConfig) -> WalSeq {
        assert!(self.live.len() > 1, "the current segment is never released");
        let segment = self.live.pop_front().expect("checked");
        if segment.len == config.segment_bytes {
            self.free.push_back(FreeSlot { slot: segment.slot, filled: Some(segment.len) });
        } else {
            self.retired.push(segment);
        }
        segment.sequence
    }

    /// Bytes of all slots.
    fn bytes(&self, config: &WalConfig) -> u64 {
        let removed = self.job.iter().flat_map(|(_, _, removed)| removed);
        let going = self.retired.iter().chain(removed).map(|segment| segment.len).sum::<u64>();
        self.staying_bytes(config) + going
    }

    /// Bytes of all slots but those that go with the next segment that is made: did they count, none could be made any more once they
    /// alone fill the bound.
    fn staying_bytes(&self, config: &WalConfig) -> u64 {
        let made = self.live.iter().chain(&self.prepared).map(|segment| segment.len).sum::<u64>();
        let others = self.free.len() + usize::from(self.job.is_some());
        made + others as u64 * config.segment_bytes + self.quarantined
    }

    /// Whether no further segment can be made before one is released.
    fn at_bound(&self, config: &WalConfig, urgency: Urgency) -> bool {
        let kept_back = match urgency {
            Urgency::Ahead => config.segment_bytes,
            Urgency::FramesWait => 0,
            Urgency::CheckpointWaits => return false,
        };
        let bound = config.wal_max_bytes << u32::from(self.pinned);
        let room = bound.saturating_sub(kept_back + config.segment_bytes);
        self.free.is_empty() && self.staying_bytes(config) > room
    }

    /// A slot for a segment that is to be made now; none at the bound of the WAL.
    fn take_slot(&mut self, config: &WalConfig, urgency: Urgency) -> Option<FreeSlot> {
        if self.at_bound(config, urgency) {
            return None;
        }
        if let Some(free) = self.free.pop_front() {
            return Some(free);
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        Some(FreeSlot { slot, filled: None })
    }
}

/// Work for a helper thread: makes a segment ready for its first turn.
#[derive(Clone, Debug)]
pub struct WalJob {
    path: PathBuf,
    directory: PathBuf,
    header: Vec<u8>,
    len: u64,
    fill: bool,
    remove: Vec<PathBuf>,
}

impl WalJob {
    pub(crate) fn prepare(config: &WalConfig, segment: Segment, free: FreeSlot, oldest_live: WalSeq) -> Self {
        let info = SegmentInfo { sequence: segment.sequence, oldest_live, len: segment.len };
        Self {
            path: slot_path(&config.directory, segment.slot),
            directory: config.directory.clone(),
            header: SegmentHeader::block(&config.identity, info),
            len: segment.len,
            fill: free.filled != Some(segment.len),
            remove: Vec::new(),
        }
    }

    /// Does it. Blocks: a new segment is written full of zeros.
    ///
    /// # Errors
    /// Of the disk. `StorageFull` is no harm; the result goes to [`ShardWal::job_done`] either way.
    pub fn run(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(&self.path, OpenMode::ReadWrite)?;
        if self.fill {
            // Space is taken before anything is written, so that a full disk shows here and nowhere later.
            file.allocate(0, self.len)?;
            file.set_len(self.len)?;
            let zeros = vec![0; ZEROS.min(usize::try_from(self.len).unwrap_or(ZEROS))];
            let mut at = 0;
            while at < self.len {
                let count = (self.len - at).min(zeros.len() as u64);
                let zeros = &zeros[..usize::try_from(count).unwrap_or(zeros.len())];
                file.write_past_cache_at(&[zeros], at)?;
                at += count;
            }
            // ORDER: zeros first. A header before them could vouch for blocks that were never written.
            file.fdatasync()?;
        }
        assert_eq!(self.header.len(), BLOCK, "the header block is one write");
        file.write_all_at(&self.header, 0)?;
        file.fdatasync()?;
        if self.fill {
            disk.sync_dir(&self.directory)?;
        }
        // ORDER: the header just synced names the oldest live segment, so that recovery will not miss these.
        for path in &self.remove {
            match disk.remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }
}

impl ShardWal {
    /// Whether nothing is released for now, because the oldest segments prove that something is damaged. As long as that is so the
    /// WAL may grow to twice its bound: what ends it, a fresh replica, is itself told through this log.
    pub fn pin(&mut self, pinned: bool) {
        self.segments.pinned = pinned;
    }

    /// Work for a helper thread, if a segment should be prepared: less than one is ready beyond the current one. One
    /// job at a time; its result goes to [`ShardWal::job_done`].
    pub fn next_job(&mut self, now_ms: u64) -> Option<WalJob> {
        if self.segments.job.is_some() || self.segments.retry_at_ms.is_some_and(|at| now_ms < at) {
            return None;
        }
        if !self.wants_segment() {
            return None;
        }
        let free = self.segments.take_slot(&self.config, self.urgency())?;
        let newest = self.segments.prepared.back().unwrap_or(self.segments.current()).sequence;
        let segment =
            Segment { sequence: WalSeq(newest.0 + 1), slot: free.slot, len: self.config.segment_bytes };
        let mut job = WalJob::prepare(&self.config, segment, free, self.segments.oldest().sequence);
        let retired = std::mem::take(&mut self.segments.retired);
        job.remove = retired.iter().map(|segment| slot_path(&self.config.directory, segment.slot)).collect();
        self.segments.job = Some((segment, free, retired));
        Some(job)
    }

    fn wants_segment(&self) -> bool {
        let filling = &self.filling;
        let rest = filling.segment_len.saturating_sub(filling.position + filling.body_len as u64);
        let beyond = self.segments.prepared_from(filling.sequence);
        let ready = beyond.map_or(0, |count| rest + count as u64 * self.config.segment_bytes);
        ready < self.config.segment_bytes + self.config.reserve_bytes
    }

    /// Whether a segment is wanted and none can be made before one is released.
    pub(super) fn is_at_bound(&self) -> bool {
        let idle = self.segments.job.is_none();
        idle && self.wants_segment() && self.segments.at_bound(&self.config, self.urgency())
    }

    /// Whether frames wait for a segment that cannot be made before one is released: without recycling nothing gets on.
    #[must_use]
    pub fn waits_for_release(&self) -> bool {
        matches!(self.urgency(), Urgency::FramesWait) && self.has_pending() && self.is_at_bound()
    }

    fn urgency(&self) -> Urgency {
        let is_missing = |sequence| self.segments.prepared_from(sequence).is_none();
        match &self.checkpoint {
            Some(mark) if mark.turn > self.durable && is_missing(mark.sequence) => Urgency::CheckpointWaits,
            _ if is_missing(self.filling.sequence) => Urgency::FramesWait,
            _ => Urgency::Ahead,
        }
    }

    /// The job of [`ShardWal::next_job`] has ended.
    ///
    /// # Errors
    /// When it failed for another reason than a full disk. That is fatal: the process must stop.
    ///
    /// # Panics
    /// When there was no job.
    pub fn job_done(&mut self, result: io::Result<()>, now_ms: u64) -> Result<(), WalError> {
        let (segment, free, retired) = self.segments.job.take().expect("a job was handed out");
        match result {
            Ok(()) => {
                self.segments.prepared.push_back(segment);
                self.segments.retry_at_ms = None;
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // The same slot gets the same sequence at the next try, so that no sequence is left out. It is
                // filled anew: where it stopped is not known.
                self.segments.free.push_front(FreeSlot { filled: None, ..free });
                self.segments.retired.extend(retired);
                self.segments.retry_at_ms = Some(now_ms + self.config.retry_ms);
            }
            Err(error) => {
                let path = slot_path(&self.config.directory, segment.slot);
                return Err(WalError::io("preparation of a segment", &path)(error));
            }
        }
        Ok(())
    }

    /// Whether the disk was full when a segment was last to be made.
    #[must_use]
    pub fn disk_is_full(&self) -> bool {
        self.segments.retry_at_ms.is_some()
    }

    /// Live segments, the current one included, and bytes of all slots.
    #[must_use]
    pub fn usage(&self) -> (usize, u64) {
        (self.segments.live_count(), self.segments.bytes(&self.config))
    }
}
