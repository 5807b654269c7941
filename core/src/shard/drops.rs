//! Which of a partition's files go, and when. Pure.
//!
//! ```text
//!   the log start moves ──▶ a turn with it is on its way ──▶ it is durable ──▶ the drop is ready ──▶ it runs ──▶ it is done
//!   a log goes on elsewhere: its files are held from the first step to the last, nothing is written to them
//! ```
//!
//! ORDER: files go up to where the durable state says that they begin, no further: a start that finds fewer entries than that
//! takes it for damage.
//!
//! Invariant: files are held until they have been dropped for the **newest** place that the log goes on from. More than one may
//! be on the way: a follower whose disk is slow gets a new image of the metadata while it drops its files for the one before. Were
//! the files written in between, what is written would leave the tail, the WAL perhaps, and then the files as well.

use std::collections::BTreeMap;

use chronik_wal::entry::LogStart;
use chronik_wal::types::{GroupId, RaftIndex, TurnNumber};

/// What to drop from a partition's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The segments wholly below this log start, which is durable.
    Below(LogStart),
    /// Everything: the log goes on at this start.
    All(LogStart),
}

/// The drops of a shard's partitions.
#[derive(Debug, Default)]
pub struct Drops {
    /// Log starts that become durable with a turn; then files may go.
    by_turn: BTreeMap<TurnNumber, Vec<(GroupId, Drop)>>,
    /// Drops that may be done.
    ready: BTreeMap<GroupId, Drop>,
    /// Drops that are being done.
    running: BTreeMap<GroupId, Drop>,
    /// Partitions whose files begin anew, and the newest index that they begin after: not written until then.
    held: BTreeMap<GroupId, RaftIndex>,
}

impl Drops {
    /// The group's log goes on after `begins`: its files are obsolete from now on.
    pub(crate) fn hold(&mut self, group: GroupId, begins: RaftIndex) {
        let newest = self.held.entry(group).or_default();
        *newest = begins.max(*newest);
    }

    /// Whether the group's files are about to begin anew.
    pub(crate) fn is_held(&self, group: GroupId) -> bool {
        self.held.contains_key(&group)
    }

    /// Whether the group's files may not be written now.
    pub(crate) fn is_in_the_way(&self, group: GroupId) -> bool {
        self.is_held(group) || self.ready.contains_key(&group)
    }

    /// Files may go once `turn` is durable.
    pub(crate) fn after(&mut self, turn: TurnNumber, group: GroupId, drop: Drop) {
        self.by_turn.entry(turn).or_default().push((group, drop));
    }

    /// Files may go at once.
    pub(crate) fn now(&mut self, group: GroupId, drop: Drop) {
        if self.is_wanted(group, drop) {
            self.ready.insert(group, drop);
        }
    }

    /// Turns up to this one are durable.
    pub(crate) fn durable(&mut self, turn: TurnNumber) {
        while let Some(entry) = self.by_turn.first_entry()
            && *entry.key() <= turn
        {
            entry.remove().into_iter().for_each(|(group, drop)| self.now(group, drop));
        }
    }

    /// Groups whose files may go.
    pub(crate) fn ready(&self) -> Vec<GroupId> {
        self.ready.keys().copied().collect()
    }

    /// What to drop of the group's files now.
    pub(crate) fn take(&mut self, group: GroupId) -> Option<Drop> {
        let drop = self.ready.remove(&group)?;
        self.is_wanted(group, drop).then_some(drop)
    }

    /// What was taken runs.
    pub(crate) fn runs(&mut self, group: GroupId, drop: Drop) {
        self.running.insert(group, drop);
    }

    /// What ran for the group is done. True when its files have begun anew with that, and may be written again.
    pub(crate) fn done(&mut self, group: GroupId) -> bool {
        let Some(Drop::All(start)) = self.running.remove(&group) else { return false };
        let ends = self.held.get(&group).is_some_and(|newest| *newest <= start.index);
        if ends {
            self.held.remove(&group);
        }
        ends
    }

    /// What ran for the group has changed nothing: it is to be done again.
    pub(crate) fn failed(&mut self, group: GroupId) {
        if let Some(drop) = self.running.remove(&group)
            && !self.ready.contains_key(&group)
        {
            self.now(group, drop);
        }
    }

    /// The partition is gone. Its like may come back under the same id, with files of its own.
    pub(crate) fn forget(&mut self, group: GroupId) {
        self.ready.remove(&group);
        self.running.remove(&group);
        self.held.remove(&group);
        self.by_turn.values_mut().for_each(|drops| drops.retain(|(other, _)| *other != group));
    }

    /// While files are held, nothing short of what they are held for is worth doing.
    fn is_wanted(&self, group: GroupId, drop: Drop) -> bool {
        self.held.get(&group).is_none_or(|newest| match drop {
            Drop::Below(_) => false,
            Drop::All(start) => start.index >= *newest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);

    fn start(index: u64) -> LogStart {
        LogStart { index: RaftIndex(index), ..LogStart::default() }
    }

    fn all(index: u64) -> Drop {
        Drop::All(start(index))
    }

    fn below(index: u64) -> Drop {
        Drop::Below(start(index))
    }

    /// Runs what is ready; gives what it was.
    fn begin(drops: &mut Drops) -> Option<Drop> {
        let drop = drops.take(GROUP)?;
        drops.runs(GROUP, drop);
        Some(drop)
    }

    #[test]
    fn nothing_goes_before_its_turn_is_durable() {
        let mut drops = Drops::default();
        drops.after(TurnNumber(3), GROUP, below(5));
        drops.durable(TurnNumber(2));
        assert_eq!(drops.take(GROUP), None);
        drops.durable(TurnNumber(3));
        assert_eq!((drops.ready(), drops.take(GROUP)), (vec![GROUP], Some(below(5))));
    }

    #[test]
    fn files_are_held_until_the_newest_reset_is_done() {
        let mut drops = Drops::default();
        drops.hold(GROUP, RaftIndex(12));
        drops.after(TurnNumber(1), GROUP, all(12));
        drops.durable(TurnNumber(1));
        assert_eq!(begin(&mut drops), Some(all(12)));
        drops.hold(GROUP, RaftIndex(22));
        assert!(!drops.done(GROUP), "another one is to come");
        assert!(drops.is_held(GROUP) && drops.is_in_the_way(GROUP));
        drops.after(TurnNumber(2), GROUP, all(22));
        drops.durable(TurnNumber(2));
        assert_eq!(begin(&mut drops), Some(all(22)));
        assert!(drops.done(GROUP));
        assert!(!drops.is_held(GROUP) && !drops.is_in_the_way(GROUP));
    }

    #[test]
    fn what_a_newer_reset_takes_with_it_is_not_done_before() {
        let mut drops = Drops::default();
        drops.now(GROUP, below(3));
        drops.hold(GROUP, RaftIndex(12));
        assert_eq!(drops.take(GROUP), None, "all of it goes");
        drops.now(GROUP, all(12));
        drops.hold(GROUP, RaftIndex(22));
        assert_eq!(drops.take(GROUP), None, "it is out of date");
        drops.now(GROUP, all(22));
        drops.now(GROUP, below(22));
        assert_eq!(drops.take(GROUP), Some(all(22)), "a drop of less does not take its place");
    }

    #[test]
    fn what_failed_is_done_again_as_far_as_it_is_durable() {
        let mut drops = Drops::default();
        drops.now(GROUP, below(3));
        assert_eq!(begin(&mut drops), Some(below(3)));
        drops.failed(GROUP);
        assert_eq!(begin(&mut drops), Some(below(3)));
        drops.now(GROUP, below(9));
        drops.failed(GROUP);
        assert_eq!(begin(&mut drops), Some(below(9)), "the newer one has come meanwhile");
        assert!(!drops.done(GROUP));
        drops.hold(GROUP, RaftIndex(12));
        drops.now(GROUP, all(12));
        assert_eq!(begin(&mut drops), Some(all(12)));
        drops.hold(GROUP, RaftIndex(22));
        drops.failed(GROUP);
        assert_eq!(drops.take(GROUP), None, "the next one is not durable yet");
    }

    #[test]
    fn a_partition_that_comes_back_begins_afresh() {
        let mut drops = Drops::default();
        drops.hold(GROUP, RaftIndex(12));
        drops.after(TurnNumber(1), GROUP, all(12));
        drops.after(TurnNumber(1), GroupId(8), all(1));
        drops.forget(GROUP);
        drops.durable(TurnNumber(1));
        assert!(!drops.is_in_the_way(GROUP));
        assert_eq!((drops.take(GROUP), drops.take(GroupId(8))), (None, Some(all(1))));
    }
}
