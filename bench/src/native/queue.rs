//! What waits to be sent to one partition: batches that came back, full ones in order, and the
//! one that still takes messages. Pure.
//!
//! With a producer id each batch gets the number of its first record when it is first taken, and
//! keeps it: one batch at a time may then be on the wire.

use std::collections::VecDeque;

use chronik_wal::batch::{BatchError, sequence_plus};

use super::batch::{Batch, OpenBatch, Stamp};
use super::producer_id::ProducerId;
use crate::message::Message;

/// The messages of one partition that are not on the wire.
#[derive(Default)]
pub struct Queue {
    /// Were on the wire and came back: older than all others.
    returned: VecDeque<Batch>,
    full: VecDeque<OpenBatch>,
    open: Option<OpenBatch>,
    /// Numbers the batches; none once it is not known what the broker has of them.
    producer: Option<ProducerId>,
    next_record_number: i32,
    /// Requests on the wire that hold a batch of this partition.
    pub in_flight_count: u32,
    /// Nothing is sent before: the partition's leader was asked too early.
    pub retry_at_ns: u64,
    /// Whether the producer has it in its list of partitions with something to send.
    pub is_listed: bool,
}

impl Queue {
    /// An empty queue, of an idempotent producer if there is one.
    pub fn new(producer: Option<ProducerId>) -> Self {
        Self { producer, ..Self::default() }
    }

    /// Appends a message. True if this filled a batch.
    pub fn push(
        &mut self,
        message: &Message<'_>,
        intended_ns: u64,
        (now_ns, now_wall_ms): (u64, i64),
        batch_bytes_max: usize,
    ) -> bool {
        let open = self.open.get_or_insert_with(|| OpenBatch::new(now_ns));
        open.push(message, intended_ns, now_wall_ms);
        let is_full = open.is_full(batch_bytes_max);
        if is_full {
            self.full.extend(self.open.take());
        }
        is_full
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.full.is_empty() && self.returned.is_empty()
    }

    /// Whether the next batch to go still takes messages.
    pub fn next_is_open(&self) -> bool {
        self.returned.is_empty() && self.full.is_empty() && self.open.is_some()
    }

    /// When the next batch may go; none if nothing waits.
    pub fn due_ns(&self, linger_ns: u64) -> Option<u64> {
        let is_closed = !self.returned.is_empty() || !self.full.is_empty();
        let due_ns = match &self.open {
            _ if is_closed => 0,
            Some(open) => open.first_ns() + linger_ns,
            None => return None,
        };
        Some(due_ns.max(self.retry_at_ns))
    }

    /// The oldest batch, whether it is due or not.
    pub fn take(&mut self) -> Result<Option<Batch>, BatchError> {
        if let Some(batch) = self.returned.pop_front() {
            return Ok(Some(batch));
        }
        let numbered = self.producer.map(|producer| (producer, self.next_record_number));
        let open = self.full.pop_front().or_else(|| self.open.take());
        open.map(|open| open.close(numbered)).transpose()
    }

    /// A batch that was on the wire comes back: its place is before all that are younger.
    pub fn put_back(&mut self, batch: Batch) {
        let place = self.returned.partition_point(|other| other.first_sequence() < batch.first_sequence());
        self.returned.insert(place, batch);
    }

    /// The broker has stored a batch.
    pub fn stored(&mut self, record_count: i32) {
        self.next_record_number = sequence_plus(self.next_record_number, record_count);
    }

    /// It is not known whether the broker has stored a batch, or it refuses one: numbers would
    /// have a gap from here on.
    pub fn stop_numbering(&mut self) {
        self.producer = None;
    }

    /// Takes out the messages of batches whose first one came before `oldest_ns`.
    pub fn expire(&mut self, oldest_ns: u64) -> Vec<Stamp> {
        let mut expired = Vec::new();
        while self.returned.front().is_some_and(|batch| batch.first_ns < oldest_ns) {
            self.stop_numbering();
            expired.extend(self.returned.pop_front().into_iter().flat_map(|batch| batch.stamps));
        }
        while self.full.front().is_some_and(|batch| batch.first_ns() < oldest_ns) {
            expired.extend(self.full.pop_front().into_iter().flat_map(OpenBatch::into_stamps));
        }
        if self.open.as_ref().is_some_and(|open| open.first_ns() < oldest_ns) {
            expired.extend(self.open.take().into_iter().flat_map(OpenBatch::into_stamps));
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use chronik_wal::batch::peek;

    use super::*;

    const LINGER_NS: u64 = 50;

    fn push(queue: &mut Queue, sequence: u64, now_ns: u64, bytes_max: usize) -> bool {
        let message = Message { sequence, key: None, value: &[0; 100] };
        queue.push(&message, now_ns, (now_ns, 1), bytes_max)
    }

    fn sequences(batch: &Batch) -> Vec<u64> {
        batch.stamps.iter().map(|stamp| stamp.sequence).collect()
    }

    #[test]
    fn a_batch_waits_for_its_linger_unless_it_is_full() {
        let mut queue = Queue::default();
        assert_eq!(queue.due_ns(LINGER_NS), None);
        assert!(!push(&mut queue, 0, 1_000, 400));
        assert!(!push(&mut queue, 1, 1_010, 500));
        assert_eq!(queue.due_ns(LINGER_NS), Some(1_050), "the linger counts from the first message");
        assert!(push(&mut queue, 2, 1_020, 400));
        assert_eq!(queue.due_ns(LINGER_NS), Some(0));
        assert!(!push(&mut queue, 3, 1_030, 400));
        assert_eq!(sequences(&queue.take().unwrap().unwrap()), [0, 1, 2]);
        assert!(queue.next_is_open());
        assert_eq!(queue.due_ns(LINGER_NS), Some(1_080));
        assert_eq!(sequences(&queue.take().unwrap().unwrap()), [3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn batches_that_come_back_keep_their_order_and_their_pause() {
        let mut queue = Queue::default();
        (0..4).for_each(|sequence| assert!(push(&mut queue, sequence, sequence, 1)));
        let first = queue.take().unwrap().unwrap();
        let second = queue.take().unwrap().unwrap();
        queue.retry_at_ns = 900;
        queue.put_back(second);
        queue.put_back(first);
        assert_eq!(queue.due_ns(0), Some(900));
        let order: Vec<u64> =
            std::iter::from_fn(|| queue.take().unwrap()).flat_map(|batch| sequences(&batch)).collect();
        assert_eq!(order, [0, 1, 2, 3]);
    }

    #[test]
    fn what_has_waited_too_long_is_given_up() {
        let mut queue = Queue::default();
        push(&mut queue, 0, 100, 1);
        push(&mut queue, 1, 200, 1);
        push(&mut queue, 2, 300, 10_000);
        let first = queue.take().unwrap().unwrap();
        queue.put_back(first);
        assert_eq!(queue.expire(100), []);
        let expired: Vec<u64> = queue.expire(201).iter().map(|stamp| stamp.sequence).collect();
        assert_eq!(expired, [0, 1]);
        assert!(!queue.is_empty());
        assert_eq!(queue.expire(301).len(), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_batch_keeps_its_number_and_the_next_follows_what_was_stored() {
        let mut queue = Queue::new(Some(ProducerId { id: 9, epoch: 2 }));
        (0..3).for_each(|sequence| assert!(!push(&mut queue, sequence, 100, 10_000)));
        let number = |batch: &Batch| {
            let info = peek(&batch.bytes).unwrap();
            (info.producer_id, info.producer_epoch, info.base_sequence)
        };
        let first = queue.take().unwrap().unwrap();
        assert_eq!(number(&first), (9, 2, 0));
        push(&mut queue, 3, 100, 10_000);
        queue.put_back(first);
        assert_eq!(number(&queue.take().unwrap().unwrap()), (9, 2, 0), "sent again under the same number");
        queue.stored(3);
        let second = queue.take().unwrap().unwrap();
        assert_eq!(number(&second), (9, 2, 3));
        // Given up with an unknown fate: what follows cannot be numbered.
        queue.put_back(second);
        assert_eq!(queue.expire(101).len(), 1);
        push(&mut queue, 4, 200, 10_000);
        assert_eq!(number(&queue.take().unwrap().unwrap()), (-1, -1, -1));
    }
}
