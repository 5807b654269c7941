//! Recycling: when the oldest segment may be written over (SAFETY.md, rule 4). Pure.
//!
//! The shard, in small steps, whenever [`ShardWal::recycle_wanted`] says so:
//! 1. asks [`ShardWal::oldest_needs`], flushes and syncs the partition files it names, puts the states and the
//!    uncommitted entries it names again; until nothing is named any more;
//! 2. puts a checkpoint with the flush points of all groups;
//! 3. calls [`ShardWal::release_oldest`] until it succeeds: after the checkpoint's turn is durable.
//!
//! Segments go strictly oldest first. So a removed mark needs no copy: whatever it covers goes before it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::ShardWal;
use crate::planted::{Bug, is_planted};
use crate::types::{GroupId, RaftIndex, TurnNumber, WalSeq};

/// A checkpoint that was put.
#[derive(Debug)]
pub(crate) struct CheckpointMark {
    pub(crate) turn: TurnNumber,
    pub(crate) sequence: WalSeq,
    pub(crate) flushed: BTreeMap<GroupId, RaftIndex>,
}

/// How far a group is, as the shard knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupProgress {
    /// The last index that is in synced partition files.
    pub flushed: RaftIndex,
    /// The last index that is committed and can be written to them.
    pub committed: RaftIndex,
}

/// What keeps the oldest segment alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Partition files that must hold their group's log up to here, synced.
    pub flush: Vec<(GroupId, RaftIndex)>,
    /// States to be put again.
    pub rewrite_states: Vec<GroupId>,
    /// Uncommitted entries to be put again with [`ShardWal::rewrite_entries`], each range in one call.
    pub rewrite_entries: Vec<(GroupId, RangeInclusive<u64>)>,
}

impl Needs {
    /// Whether nothing is left to do but the checkpoint.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flush.is_empty() && self.rewrite_states.is_empty() && self.rewrite_entries.is_empty()
    }

    fn len(&self) -> usize {
        self.flush.len() + self.rewrite_states.len() + self.rewrite_entries.len()
    }
}

/// Why the oldest segment cannot be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StillNeeded {
    /// It is the one being written.
    #[error("it is the current segment")]
    Current,
    /// No checkpoint lies in a later segment.
    #[error("there is no checkpoint in a later segment")]
    NoCheckpoint,
    /// The checkpoint, or a frame that replaces one of the segment's, is not durable.
    #[error("turn {0} is not durable yet")]
    NotDurable(TurnNumber),
    /// It holds the newest state of this group.
    #[error("it holds the newest state of group {0}")]
    State(GroupId),
    /// It holds entries of this group beyond the checkpoint's flush point.
    #[error("it holds entries of group {0} that no partition file has")]
    Entries(GroupId),
}

impl ShardWal {
    /// Whether the oldest segment should be freed: more full ones are live than the configuration keeps, or the WAL
    /// is at its bound and no segment can be prepared.
    #[must_use]
    pub fn recycle_wanted(&self) -> bool {
        let full = self.segments.live_count() - 1;
        full > 0 && (full > self.config.segments_kept || self.is_at_bound())
    }

    /// What keeps the oldest segment alive: at most about `limit` things, so that a call does bounded work. Nothing
    /// when the oldest segment is the current one.
    #[must_use]
    pub fn oldest_needs(&self, progress: &dyn Fn(GroupId) -> GroupProgress, limit: usize) -> Needs {
        let mut needs = Needs::default();
        let oldest = self.segments.oldest().sequence;
        if oldest >= self.filling.sequence {
            return needs;
        }
        let Some(held) = self.ledger.held(oldest) else { return needs };
        needs.rewrite_states.extend(held.states.iter().take(limit));
        for (&group, &(first, last)) in &held.entries {
            if needs.len() >= limit {
                break;
            }
            let GroupProgress { flushed, committed } = progress(group);
            if flushed >= last {
                continue;
            }
            if committed > flushed && committed >= first {
                needs.flush.push((group, committed.min(last)));
            }
            if committed < last {
                let from = first.max(committed.next()).max(flushed.next());
                needs.rewrite_entries.push((group, from.0..=last.0));
            }
        }
        needs
    }

    /// Frees the oldest segment, if all that matters in it is durable elsewhere; to be called after each turn once a
    /// checkpoint was put.
    ///
    /// # Errors
    /// What still needs it. Nothing has changed then.
    pub fn release_oldest(&mut self) -> Result<WalSeq, StillNeeded> {
        let oldest = self.segments.oldest().sequence;
        if self.segments.live_count() == 1 || oldest >= self.filling.sequence {
            return Err(StillNeeded::Current);
        }
        let checkpoint = self.checkpoint.as_ref().ok_or(StillNeeded::NoCheckpoint)?;
        if checkpoint.sequence <= oldest {
            return Err(StillNeeded::NoCheckpoint);
        }
        if checkpoint.turn > self.durable {
            return Err(StillNeeded::NotDurable(checkpoint.turn));
        }
        let held = self.ledger.held(oldest).filter(|_| !is_planted(Bug::RecycledEarly));
        if let Some(held) = held {
            if held.superseded_by > self.durable {
                return Err(StillNeeded::NotDurable(held.superseded_by));
            }
            if let Some(&group) = held.states.first() {
                return Err(StillNeeded::State(group));
            }
            let flushed = |group| checkpoint.flushed.get(group).copied().unwrap_or_default();
            if let Some((&group, _)) = held.entries.iter().find(|(group, range)| flushed(group) < range.1) {
                return Err(StillNeeded::Entries(group));
            }
        }
        self.ledger.forget_segment(oldest);
        Ok(self.segments.release_oldest(&self.config))
    }
}
