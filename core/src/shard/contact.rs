//! Answers that must not be stale wait until the quorum has been heard (SAFETY.md, rule 22).
//!
//! Latest offsets, ends of epochs and everything that a group coordinator says are true only where this replica still leads.
//! Between two words of its quorum it cannot know: another may lead since. So such a question is served at once while a quorum
//! has answered within an election timeout, and otherwise after the answer to a heartbeat sent for it. A node that slept
//! therefore answers nothing from before its sleep, and a leader at rest asks first.
//!
//! Every question comes out again: Raft tells of the contact or of the loss of leadership, whichever comes first, within
//! two election timeouts. Questions about a group stay in order.

use std::collections::{BTreeMap, BTreeSet};

use chronik_raft::leadership::Leadership;
use chronik_wal::types::GroupId;

use super::Shard;
use super::message::{Call, Request};

/// A question that waits, and for the quorums of which groups.
#[derive(Debug)]
struct Waiting {
    call: Call,
    request: Request,
    missing: BTreeSet<GroupId>,
}

/// The questions that wait.
#[derive(Debug, Default)]
pub struct Contacts {
    waiting: BTreeMap<u64, Waiting>,
    by_group: BTreeMap<GroupId, BTreeSet<u64>>,
}

impl Contacts {
    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.waiting.len()
    }
}

impl Shard {
    /// Keeps a question until its quorums are heard; gives it back when that is so already.
    pub(crate) fn until_contact(&mut self, call: Call, request: Request) -> Option<Request> {
        let missing = self.without_contact(&request);
        if missing.is_empty() || self.pending_count() >= self.limits.pending_max {
            return Some(request);
        }
        self.wait_for_contact(call, request, missing);
        None
    }

    /// Serves the request once the quorums of these groups are heard, or it is known that they will not be.
    pub(crate) fn wait_for_contact(&mut self, call: Call, request: Request, missing: BTreeSet<GroupId>) {
        let number = self.number();
        for group in &missing {
            self.contacts.by_group.entry(*group).or_default().insert(number);
            self.driver.ask_quorum(*group);
        }
        self.contacts.waiting.insert(number, Waiting { call, request, missing });
    }

    fn without_contact(&self, request: &Request) -> BTreeSet<GroupId> {
        let lacks =
            |group: &GroupId| self.contacts.by_group.contains_key(group) || self.lacks_contact(*group);
        match request {
            Request::ListOffsets(queries) => queries.iter().map(|query| query.group).filter(lacks).collect(),
            // Another leader may have what is to be deleted: out of range is final.
            Request::DeleteRecords { items, .. } => {
                items.iter().map(|item| item.group).filter(lacks).collect()
            }
            Request::EpochEnd(queries) => queries.iter().map(|query| query.group).filter(lacks).collect(),
            Request::Group { partition, .. } => [*partition].into_iter().filter(lacks).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Whether this replica leads a group and cannot be sure that it still does.
    pub(crate) fn lacks_contact(&self, group: GroupId) -> bool {
        matches!(self.driver.leadership(group), Some(Leadership::Leader { .. }))
            && self.voter_count(group) > 1
            && !self.driver.has_quorum_contact(group, self.now.mono_ms)
    }

    /// The group's quorum was heard, or this replica does not lead it any more: what waited for that is served.
    pub(crate) fn contact_settled(&mut self, group: GroupId) {
        self.settle_doubts(group);
        if group == GroupId::METADATA
            && matches!(self.driver.leadership(group), Some(Leadership::Leader { .. }))
        {
            self.plans_are_sure();
        }
        for number in self.contacts.by_group.remove(&group).unwrap_or_default() {
            let Some(waiting) = self.contacts.waiting.get_mut(&number) else { continue };
            waiting.missing.remove(&group);
            if waiting.missing.is_empty()
                && let Some(Waiting { call, request, .. }) = self.contacts.waiting.remove(&number)
            {
                self.serve(call, request);
            }
        }
    }
}
