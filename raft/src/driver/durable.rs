//! What happens when a turn of the WAL is on disk.

use chronik_wal::types::{GroupId, PeerId, TurnNumber};

use super::{Driver, Outgoing};

impl Driver {
    /// Notes that every turn up to `turn` is durable. Messages that waited for it come out of the next [`Driver::run_ready`], and
    /// so do the entries that this commits.
    pub fn on_durable(&mut self, turn: TurnNumber) {
        while let Some((awaited, group)) = self.awaited.front().copied() {
            if awaited > turn {
                return;
            }
            self.awaited.pop_front();
            if let Some(slot) = self.slot_of(group) {
                self.group_durable(slot, group, turn);
            }
        }
    }

    fn group_durable(&mut self, slot: usize, id: GroupId, turn: TurnNumber) {
        let group = self.slots[slot].as_mut().expect("a slot that is known by id is taken");
        group.flush_proposals();
        while let Some(front) = group.unpersisted.front() {
            if front.turn > turn {
                break;
            }
            let done = group.unpersisted.pop_front().expect("there is a front");
            group.durable_term = group.durable_term.max(done.term);
            group.node.on_persist_ready(done.number);
            self.unheld.extend(done.held.into_iter().map(|mut message| {
                group.mark_short(&mut message);
                Outgoing { to: PeerId(message.to), group: id, message }
            }));
        }
        if group.installing.is_some_and(|installing| installing <= turn) {
            group.installing = None;
        }
        if group.configuration_hold.is_some_and(|(hold, _)| hold <= turn) {
            group.configuration_hold = None;
        }
        group.advance_applied();
        self.mark_dirty(slot);
    }
}
