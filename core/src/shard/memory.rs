//! How much may come in: what clients produce here, and what leaders on other nodes send (SAFETY.md, rules 4, 5 and 7).
//!
//! Both share one budget, [`super::ShardLimits::tail_bytes_max`], of which neither takes more than three quarters: a node whose clients
//! fill its memory still follows the leaders on other nodes, which wait for its acknowledgements, and the other way round.
//! What does not fit waits with the client (produce), or with the leader (`chronik_raft::driver::Room`), which sends it again.
//!
//! Never refused: entries of the metadata group, what coordinators and the controller write, heartbeats, votes, snapshots. All are small.
//!
//! **Nothing gets stuck.** What is in memory waits either for this node's disk, or for others to commit it. As long as anything
//! waits for the disk there is no more than the budget; when the disk has done its part, memory is freed. When nothing does, memory
//! is full of entries that lack a quorum, which may be lacking just because other nodes are full likewise: then one entry is let in
//! beyond the budget, whatever its group; when that one is on disk, and no sooner, another.

use chronik_raft::driver::Room;

use super::Shard;

/// Leaders are told that there is room again when it is this part of the budget: not for every batch written.
const ROOM_AGAIN_PART: u64 = 8;

impl Shard {
    /// Whether so many bytes may be proposed.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let (in_memory, budget) = (self.memory_bytes(), self.limits.tail_bytes_max);
        let led = self.driver.led_bytes() as u64 + self.unfollowed_bytes();
        // A batch larger than the whole budget still passes when nothing else is in the way.
        let fits = in_memory == 0 || (in_memory + bytes <= budget && led + bytes <= share(budget));
        fits && self.has_wal_room(bytes)
    }

    pub(crate) fn disk_is_full(&self) -> bool {
        self.wal.disk_is_full() || self.write_behind.is_full()
    }

    /// What may come in from leaders on other nodes, of so many bytes that do.
    pub(crate) fn room_to_follow(&self, wanted: u64) -> Room {
        let (in_memory, budget) = (self.memory_bytes(), self.limits.tail_bytes_max);
        let followed = in_memory - self.driver.led_bytes() as u64 - self.unfollowed_bytes();
        let room = budget.saturating_sub(in_memory).min(share(budget).saturating_sub(followed));
        let mut bytes = room.min(wanted);
        while bytes > 0 && !self.has_wal_room(bytes) {
            bytes /= 2;
        }
        Room { bytes, takes_one: !self.waits_for_disk() }
    }

    /// Tells the leaders that were told to send no more that they may, once there is room worth the while.
    pub(crate) fn let_leaders_send(&mut self) {
        if self.driver.is_short() {
            let wanted = self.limits.tail_bytes_max / ROOM_AGAIN_PART;
            let room = self.room_to_follow(wanted);
            if room.takes_one || room.bytes >= wanted {
                self.driver.room_again();
            }
        }
    }

    /// Bytes of entries in memory, those on their way into the log and into groups still to come among them.
    fn memory_bytes(&self) -> u64 {
        self.driver.tail_bytes() as u64
            + self.driver.taken_bytes() as u64
            + self.early_bytes
            + self.unfollowed_bytes()
    }

    /// Of these, what clients have sent and no tail counts yet.
    fn unfollowed_bytes(&self) -> u64 {
        self.proposed_bytes + self.held.bytes() + self.doubts.bytes()
    }

    fn has_wal_room(&self, bytes: u64) -> bool {
        let unseen = self.proposed_bytes + self.driver.taken_bytes() as u64;
        self.wal.has_room(usize::try_from(unseen + bytes).unwrap_or(usize::MAX))
    }

    /// Whether there is anything in memory that only this node's disk keeps there.
    fn waits_for_disk(&self) -> bool {
        self.driver.awaits_turn()
            || self.proposed_bytes > 0
            || self.write_behind.is_busy()
            || self.disk_is_full()
    }
}

/// What of the budget is for entries that this node leads, or for those that it follows.
fn share(budget: u64) -> u64 {
    budget - budget / 4
}
