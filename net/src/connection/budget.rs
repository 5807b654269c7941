//! The memory that requests of one shard may hold: frames being received and requests being answered.
//!
//! Shared by the shard's connections. A connection that finds the budget used up stops reading, which its client feels as
//! back-pressure, and goes on when an answer frees memory. The bound is soft by one step of one frame.
//! Since half-received frames alone could use it all up, one connection at a time may then overdraw until its frame is
//! complete: the shard never holds more than the limit, one frame and one step.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::rt::event::Event;

#[derive(Debug)]
pub(super) struct Budget {
    limit_bytes: usize,
    used_bytes: Cell<usize>,
    /// The part that belongs to requests being answered, and therefore frees itself.
    answering_bytes: Cell<usize>,
    overdraft: Cell<Option<u64>>,
    waiting: RefCell<Vec<Rc<Event>>>,
}

impl Budget {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            used_bytes: Cell::new(0),
            answering_bytes: Cell::new(0),
            overdraft: Cell::new(None),
            waiting: RefCell::default(),
        }
    }

    /// Whether `connection` may take more memory now.
    pub(super) fn may_read(&self, connection: u64) -> bool {
        if self.used_bytes.get() < self.limit_bytes || self.overdraft.get() == Some(connection) {
            return true;
        }
        if self.answering_bytes.get() == 0 && self.overdraft.get().is_none() {
            self.overdraft.set(Some(connection));
            return true;
        }
        false
    }

    /// Whether connections wait for memory, or would.
    pub(super) fn is_used_up(&self) -> bool {
        self.used_bytes.get() >= self.limit_bytes
    }

    /// Wakes `event` when memory comes free.
    pub(super) fn wait(&self, event: &Rc<Event>) {
        self.waiting.borrow_mut().push(event.clone());
    }

    /// A frame being received has grown from `before` to `now` bytes.
    pub(super) fn resize(&self, before: usize, now: usize) {
        self.used_bytes.set(self.used_bytes.get() - before + now);
        if now < before {
            self.wake();
        }
    }

    /// A frame is complete and its request starts.
    pub(super) fn start(&self, connection: u64, bytes: usize) {
        self.used_bytes.set(self.used_bytes.get() + bytes);
        self.answering_bytes.set(self.answering_bytes.get() + bytes);
        self.end_overdraft(connection);
    }

    /// A request has been answered.
    pub(super) fn finish(&self, bytes: usize) {
        self.used_bytes.set(self.used_bytes.get() - bytes);
        self.answering_bytes.set(self.answering_bytes.get() - bytes);
        self.wake();
    }

    /// `connection` needs its overdraft no more: its frame is complete, or it is gone.
    pub(super) fn end_overdraft(&self, connection: u64) {
        if self.overdraft.get() == Some(connection) {
            self.overdraft.set(None);
            self.wake();
        }
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }

    fn wake(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for event in waiting {
            event.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_up_by_requests_means_wait_and_by_half_frames_one_may_overdraw() {
        let budget = Budget::new(100);
        let event = Rc::new(Event::new());
        budget.start(1, 100);
        assert!(!budget.may_read(2));
        budget.wait(&event);
        budget.finish(100);
        assert!(event.take() && budget.may_read(2));

        budget.resize(0, 60);
        budget.resize(0, 60);
        assert!(budget.is_used_up());
        assert!(budget.may_read(2), "the first to ask may finish its frame");
        assert!(!budget.may_read(3));
        budget.wait(&event);
        budget.resize(60, 0);
        budget.start(2, 60);
        assert!(event.take());
        assert!(!budget.may_read(3), "an answer will free memory");
        budget.finish(60);
        assert_eq!(budget.used_bytes(), 60);
        assert!(budget.may_read(3));
    }
}
