//! New partitions come into being a few at a time.
//!
//! A group is at its most expensive while it is young: it ticks, is elected, sends heartbeats until it may rest. A thousand at once
//! take a shard longer than an election timeout; then leaders step down, groups never come to rest, and it gets no better.
//! So a shard makes a bounded number in a turn, and begins others only as the young ones come to rest.
//!
//! The replica that stands for election first sets the pace: the others are made when they hear from it, or by themselves where
//! little is going on, or when they have heard nothing for a while.
//!
//! Invariant: whatever was queued is made, unless its topic is gone by then. What is lost with the process is made at the start.

use std::collections::{BTreeMap, VecDeque};

use chronik_wal::types::GroupId;
use uuid::Uuid;

use super::Shard;

/// Made in one turn: some milliseconds.
const MADE_PER_TURN_MAX: usize = 64;
/// Young groups of a shard beyond which no more are made unasked.
const YOUNG_MAX: usize = 256;
/// With so few young ones replicas do not wait for the one that stands first.
const YOUNG_FEW: usize = 64;
/// After this time a group is not young any more: one that is written to need not come to rest.
const YOUNG_MS: u64 = 1_000;
/// So long replicas wait for the one that stands first.
const HEARD_WITHIN_MS: u64 = 1_000;
/// How soon is looked again whether others may be made.
const LOOK_AGAIN_MS: u64 = 10;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    topic: Uuid,
    number: i32,
    /// This replica stands for election first.
    stands_first: bool,
    queued_at_ms: u64,
}

/// Partitions of this shard still to be made.
#[derive(Debug, Default)]
pub struct Making {
    waiting: BTreeMap<GroupId, Waiting>,
    /// Of these, the ones that stand first, in the order in which they came; those made meanwhile are passed over.
    standing: VecDeque<GroupId>,
    /// The rest, as well.
    following: VecDeque<GroupId>,
    /// Groups that were made lately, and when.
    young: VecDeque<(GroupId, u64)>,
}

impl Making {
    /// Whether the group is still to be made.
    pub(crate) fn is_waiting(&self, group: GroupId) -> bool {
        self.waiting.contains_key(&group)
    }

    /// The next one that may be made.
    fn next(&mut self, now_ms: u64) -> Option<GroupId> {
        if self.young.len() >= YOUNG_MAX {
            return None;
        }
        for queue in [&mut self.standing, &mut self.following] {
            while queue.front().is_some_and(|group| !self.waiting.contains_key(group)) {
                queue.pop_front();
            }
        }
        if let Some(group) = self.standing.pop_front() {
            return Some(group);
        }
        let first = self.waiting.get(self.following.front()?)?;
        let is_due = first.queued_at_ms + HEARD_WITHIN_MS <= now_ms || self.young.len() < YOUNG_FEW;
        if is_due { self.following.pop_front() } else { None }
    }
}

impl Shard {
    /// Has a partition of this shard made, soon.
    pub(crate) fn queue_partition(&mut self, group: GroupId, topic: Uuid, number: i32, stands_first: bool) {
        let waiting = Waiting { topic, number, stands_first, queued_at_ms: self.now.mono_ms };
        if self.making.waiting.insert(group, waiting).is_none() {
            match stands_first {
                true => self.making.standing.push_back(group),
                false => self.making.following.push_back(group),
            }
        }
    }

    /// Makes as many as a turn may. True when others may be made at once.
    pub(crate) fn make_partitions(&mut self) -> bool {
        if self.making.waiting.is_empty() {
            return false;
        }
        let now_ms = self.now.mono_ms;
        let driver = &self.driver;
        let is_young = |group: GroupId, made_ms: u64| {
            made_ms + YOUNG_MS > now_ms && driver.contains(group) && !driver.is_resting(group)
        };
        self.making.young.retain(|(group, made_ms)| is_young(*group, *made_ms));
        for _ in 0..MADE_PER_TURN_MAX {
            let Some(group) = self.making.next(now_ms) else { return false };
            self.make_partition(group);
        }
        true
    }

    /// Makes a partition that waits for it.
    pub(crate) fn make_partition(&mut self, group: GroupId) {
        let Some(waiting) = self.making.waiting.remove(&group) else { return };
        let Some(view) = self.snapshot.topic_by_id(&waiting.topic).cloned() else { return };
        let Ok(at) = usize::try_from(waiting.number) else { return };
        if view.partitions.get(at).is_none_or(|partition| partition.group != group) {
            return;
        }
        self.add_partition(&view, at);
        self.making.young.push_back((group, self.now.mono_ms));
        if waiting.stands_first {
            self.driver.campaign(group);
        }
    }

    /// When the next ones may be made.
    pub(crate) fn making_due_ms(&self) -> Option<u64> {
        (!self.making.waiting.is_empty()).then_some(self.now.mono_ms + LOOK_AGAIN_MS)
    }
}
