//! Batches that a leader would refuse for their sequence number wait until its quorum says that it leads.
//!
//! A client takes OUT_OF_ORDER_SEQUENCE_NUMBER for lost data: librdkafka ends the producer for good. A leader that was deposed
//! and has not heard of it has an old producer state, by which what follows on a batch that its successor took is out of order.
//! So it asks its quorum first, with a question begun after the batch came: contact within an election timeout is not enough. What
//! is decided then is judged by the state of that moment.
//!
//! Owned by the shard. Bounded as `hold.rs` is: the bytes count for the shard's budget, and each slice has a deadline. Raft tells of
//! the contact or of the loss of leadership within two election timeouts.

use std::collections::BTreeMap;

use chronik_wal::types::GroupId;

use super::Shard;
use super::hold::HeldItem;

/// Batches of one group.
#[derive(Debug, Default)]
struct Doubt {
    /// They came before the question that is under way.
    asked: Vec<HeldItem>,
    /// They wait for the next one.
    later: Vec<HeldItem>,
}

/// The batches that wait.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    groups: BTreeMap<GroupId, Doubt>,
    bytes: u64,
}

impl Doubts {
    /// Bytes of record batches in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Shard {
    /// Keeps a batch until the quorum has answered.
    pub(crate) fn doubt(&mut self, held: HeldItem) {
        let group = held.item.group;
        self.doubts.bytes += held.item.records.len() as u64;
        let is_new = self.driver.ask_quorum(group);
        let doubt = self.doubts.groups.entry(group).or_default();
        match is_new {
            true => doubt.asked.push(held),
            false => doubt.later.push(held),
        }
    }

    /// The group's quorum has answered, or this replica leads it no more.
    pub(crate) fn settle_doubts(&mut self, group: GroupId) {
        let Some(Doubt { asked, later }) = self.doubts.groups.remove(&group) else { return };
        for held in asked {
            self.doubts.bytes -= held.item.records.len() as u64;
            self.propose_held(held, true);
        }
        for held in later {
            self.doubts.bytes -= held.item.records.len() as u64;
            // Asks again where it leads and still finds it out of order.
            self.propose_held(held, false);
        }
    }
}
