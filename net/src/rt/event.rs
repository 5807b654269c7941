//! Wake-ups between tasks of one shard: an event, a queue, a one-shot value.
//!
//! All three live on one shard, hold no atomics and may be cloned freely among its tasks. Each has one
//! waiting task at most; a second waiter takes the place of the first, which is then never woken.
//! Invariant: a notification is never lost, because it is kept in a flag until a waiter takes it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A flag that one task of the shard waits for and any task of the shard sets.
///
/// Several notifications before a wait count as one.
#[derive(Debug, Default)]
pub struct Event {
    notified: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Event {
    /// An event that has not been notified.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiting task, or the next one to wait.
    pub fn notify(&self) {
        if self.notified.replace(true) {
            return;
        }
        // The waker leaves the cell before it is called: waking may run code that waits again.
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waker) = waiter {
            waker.wake();
        }
    }

    /// Completes once notified, and takes the notification. Dropping the future loses nothing.
    pub fn wait(&self) -> Wait<'_> {
        Wait { event: self }
    }

    /// Takes a notification if there is one, without waiting.
    pub fn take(&self) -> bool {
        self.notified.take()
    }
}

/// The future of [`Event::wait`].
#[derive(Debug)]
#[must_use = "a future does nothing unless awaited"]
pub struct Wait<'a> {
    event: &'a Event,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.event.notified.take() {
            return Poll::Ready(());
        }
        let mut waiter = self.event.waiter.borrow_mut();
        match waiter.as_mut() {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => *waiter = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// A bounded queue between tasks of one shard, read by one task.
#[derive(Debug)]
pub struct LocalQueue<T> {
    items: RefCell<VecDeque<T>>,
    capacity: usize,
    filled: Event,
}

impl<T> LocalQueue<T> {
    /// A queue that holds at most `capacity` items.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { items: RefCell::new(VecDeque::new()), capacity, filled: Event::new() }
    }

    /// Adds an item and wakes the reader; gives the item back when the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.items.borrow_mut();
        if items.len() >= self.capacity {
            return Err(item);
        }
        items.push_back(item);
        drop(items);
        self.filled.notify();
        Ok(())
    }

    /// Takes the oldest item, if any.
    pub fn try_pop(&self) -> Option<T> {
        self.items.borrow_mut().pop_front()
    }

    /// Takes the oldest item, waiting for one.
    pub async fn pop(&self) -> T {
        loop {
            if let Some(item) = self.try_pop() {
                return item;
            }
            self.filled.wait().await;
        }
    }

    /// Number of items that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.borrow().len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.borrow().is_empty()
    }
}

#[derive(Debug)]
enum OneShot<T> {
    Empty,
    Waiting(Waker),
    Full(T),
    SenderGone,
}

/// The half of a one-shot that gives the value.
#[derive(Debug)]
pub struct OneShotSender<T> {
    cell: Rc<RefCell<OneShot<T>>>,
}

/// The half of a one-shot that awaits the value; `None` when the sender was dropped without giving one.
#[derive(Debug)]
#[must_use = "a future does nothing unless awaited"]
pub struct OneShotReceiver<T> {
    cell: Rc<RefCell<OneShot<T>>>,
}

/// A value that one task gives and another of the same shard awaits: one allocation, no atomics.
pub fn oneshot<T>() -> (OneShotSender<T>, OneShotReceiver<T>) {
    let cell = Rc::new(RefCell::new(OneShot::Empty));
    (OneShotSender { cell: cell.clone() }, OneShotReceiver { cell })
}

impl<T> OneShotSender<T> {
    /// Gives the value and wakes the receiver. A receiver that is gone drops it.
    pub fn send(self, value: T) {
        let before = self.cell.replace(OneShot::Full(value));
        if let OneShot::Waiting(waker) = before {
            waker.wake();
        }
    }

    /// Whether the receiver has been dropped.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Rc::strong_count(&self.cell) == 1
    }
}

impl<T> Drop for OneShotSender<T> {
    fn drop(&mut self) {
        if matches!(*self.cell.borrow(), OneShot::Full(_)) {
            return;
        }
        if let OneShot::Waiting(waker) = self.cell.replace(OneShot::SenderGone) {
            waker.wake();
        }
    }
}

impl<T> Future for OneShotReceiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut cell = self.cell.borrow_mut();
        match std::mem::replace(&mut *cell, OneShot::SenderGone) {
            OneShot::Full(value) => Poll::Ready(Some(value)),
            OneShot::SenderGone => Poll::Ready(None),
            OneShot::Empty | OneShot::Waiting(_) => {
                *cell = OneShot::Waiting(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once, zip};

    #[test]
    fn a_notification_before_the_wait_is_kept_and_counts_once() {
        let event = Event::new();
        event.notify();
        event.notify();
        block_on(event.wait());
        assert!(block_on(poll_once(event.wait())).is_none());
    }

    #[test]
    fn a_waiting_task_is_woken() {
        let event = Event::new();
        block_on(zip(event.wait(), async { event.notify() }));
    }

    #[test]
    fn queue_keeps_order_and_its_bound() {
        let queue = LocalQueue::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(3));
        assert_eq!(block_on(queue.pop()), 1);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.try_pop(), Some(2));
        assert!(queue.is_empty());
        let (popped, ()) = block_on(zip(queue.pop(), async { queue.push(4).unwrap() }));
        assert_eq!(popped, 4);
    }

    #[test]
    fn one_shot_gives_its_value_or_tells_that_the_sender_is_gone() {
        let (sender, receiver) = oneshot();
        let (got, ()) = block_on(zip(receiver, async { sender.send(7) }));
        assert_eq!(got, Some(7));

        let (sender, receiver) = oneshot::<u8>();
        let (got, ()) = block_on(zip(receiver, async { drop(sender) }));
        assert_eq!(got, None);

        let (sender, receiver) = oneshot::<u8>();
        drop(receiver);
        assert!(sender.is_abandoned());
        sender.send(1);
    }
}
