//! A node's own store of producer ids: it takes blocks from the metadata group and hands ids out one by one.
//!
//! Lives on shard 0 of each node. A block that was not used up when the node stops is lost; ids are never used twice: a block is
//! for the start of its node that is registered where the block stands in the log. (A node that lost its power may hear anew of
//! the blocks that it has used.)

/// Ids in a block (Kafka's `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`): one metadata entry for a thousand producers.
pub const BLOCK_IDS: i64 = 1000;

/// What came of asking for an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Here it is.
    Id(i64),
    /// None left, and a block must be asked for now; ask again when it has come.
    RequestBlock,
    /// None left; a block has been asked for already, or cannot be yet.
    Wait,
}

/// The ids that this node may hand out.
#[derive(Clone, Debug, Default)]
pub struct ProducerIds {
    next: i64,
    end: i64,
    requested: bool,
}

impl ProducerIds {
    /// The next id. `is_registered`: this start of the node is, so that it may ask for blocks.
    pub fn take(&mut self, is_registered: bool) -> Take {
        if self.next < self.end {
            self.next += 1;
            return Take::Id(self.next - 1);
        }
        if self.requested || !is_registered {
            return Take::Wait;
        }
        self.requested = true;
        Take::RequestBlock
    }

    /// A block that the metadata group gave to this start of the node has been committed.
    pub fn block_granted(&mut self, first: i64, count: i64) {
        self.next = first;
        self.end = first + count;
        self.requested = false;
    }

    /// The request for a block came to nothing; the next [`Self::take`] asks again.
    pub fn block_failed(&mut self) {
        self.requested = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_once_and_hands_out_each_id_once() {
        let mut ids = ProducerIds::default();
        assert_eq!(ids.take(false), Take::Wait);
        assert_eq!(ids.take(true), Take::RequestBlock);
        assert_eq!(ids.take(true), Take::Wait);
        ids.block_granted(2000, 2);
        assert_eq!(
            [ids.take(true), ids.take(false), ids.take(true)],
            [Take::Id(2000), Take::Id(2001), Take::RequestBlock]
        );
        ids.block_failed();
        assert_eq!(ids.take(true), Take::RequestBlock);
    }
}
