//! Messages to a shard, from other shards and from plain threads.
//!
//! A mailbox is a bounded lock-free queue, an "asleep" flag and one eventfd that the receiving shard reads
//! through its *main* ring. glommio's own channels and wakers used from another thread are not used: their
//! notifications arrive on its latency ring, where they can make it park with runnable tasks (DESIGN.md, Runtime).
//!
//! Who: any number of senders on any thread; one [`Receiver`], on the shard that bound it.
//!
//! # Why no wake-up is lost
//! The flag and the queue form Dekker's pattern: each side writes its own word, then reads the other's.
//!
//! ```text
//! sender                          receiver
//!   push to the queue               asleep = true
//!   fence(SeqCst)                   fence(SeqCst)
//!   if asleep: ring the eventfd     if the queue is empty: read the eventfd
//! ```
//!
//! Both fences are in one total order. If the sender's comes first, the receiver sees the message and does
//! not sleep; if the receiver's comes first, the sender sees `asleep` and rings. Both may happen: then a count is left
//! in the eventfd, the next read returns at once, and the receiver finds an empty queue: harmless.
//! Of several senders one alone rings, the one whose swap turns the flag from true to false.
//!
//! Measured (`tests/mailbox_soak.rs`, debug build, 2 cores): 2 million round trips, the worst 4.2 ms; with every core taken by
//! other work the worst follows the lateness of the shard's own timer (156 and 151 ms), so it is the scheduler's.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use glommio::io::BufferedFile;
use rustix::event::{EventfdFlags, eventfd};

use super::clock;
use super::safety;

/// The mailbox was full: the message comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

struct Shared<T> {
    queue: ArrayQueue<T>,
    /// True from just before the receiver reads the eventfd until someone rings or it is up again.
    asleep: AtomicBool,
    /// When the bell was last rung, monotonic nanoseconds: how late the receiver wakes is reckoned from it.
    rung_ns: AtomicU64,
    bell: OwnedFd,
    closed: AtomicBool,
}

impl<T> Shared<T> {
    fn wake_if_asleep(&self) {
        // The fence of the sender in the module's argument.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            self.rung_ns.store(clock::monotonic_ns(), Ordering::Release);
            // An eventfd refuses a write only when its count nears 2^64; it is then readable anyway.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// Makes a mailbox that holds at most `capacity` messages.
///
/// # Errors
/// When no eventfd can be had: the process is out of file descriptors.
pub fn mailbox<T: Send>(capacity: usize) -> std::io::Result<(Sender<T>, Unbound<T>)> {
    // Blocking mode: io_uring then parks the read in the kernel instead of completing it with EAGAIN.
    let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity.max(1)),
        asleep: AtomicBool::new(false),
        rung_ns: AtomicU64::new(0),
        bell,
        closed: AtomicBool::new(false),
    });
    Ok((Sender { shared: shared.clone() }, Unbound { inbox: Inbox { shared } }))
}

/// The sending end. Cheap to clone; any thread.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({} of {})", self.shared.queue.len(), self.shared.queue.capacity())
    }
}

impl<T: Send> Sender<T> {
    /// Puts a message into the mailbox and wakes the shard if it sleeps. Never blocks.
    ///
    /// # Errors
    /// The message, when the mailbox is full. A shard keeps it in an [`Outbox`]; a plain thread may wait and retry.
    pub fn try_send(&self, message: T) -> Result<(), Full<T>> {
        self.shared.queue.push(message).map_err(Full)?;
        self.shared.wake_if_asleep();
        Ok(())
    }

    /// Whether the receiving end is gone, so that nobody will ever take a message.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Number of messages that wait; out of date as soon as it is read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// Whether no message waits; out of date as soon as it is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }
}

/// The receiving end before its shard has taken it; may travel between threads.
pub struct Unbound<T> {
    inbox: Inbox<T>,
}

/// What marks the mailbox as closed when its receiving end goes, bound or not.
struct Inbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

impl<T> fmt::Debug for Unbound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unbound")
    }
}

impl<T: Send> Unbound<T> {
    /// Binds the mailbox to the shard (glommio executor) of the calling thread.
    ///
    /// # Errors
    /// When the eventfd cannot be duplicated: the process is out of file descriptors.
    ///
    /// # Panics
    /// Outside a glommio executor.
    pub fn bind(self) -> std::io::Result<Receiver<T>> {
        // The file owns a duplicate, because glommio closes it in its own time.
        let descriptor = rustix::io::fcntl_dupfd_cloexec(self.inbox.shared.bell.as_fd(), 3)?;
        // SAFETY: the descriptor was made just above and is given away here.
        let bell = unsafe { BufferedFile::from_raw_fd(descriptor.into_raw_fd()) };
        Ok(Receiver { inbox: self.inbox, bell: Rc::new(bell), ring: None, stats: Rc::default() })
    }

    /// Takes a message without a shard: for tests and for what is left at shutdown.
    pub fn try_recv(&self) -> Option<T> {
        self.inbox.shared.queue.pop()
    }
}

/// What the receiver has counted; see [`Receiver::stats`].
#[derive(Debug, Default)]
pub struct WakeStats {
    wakes: Cell<u64>,
    worst_wake_ns: Cell<u64>,
}

impl WakeStats {
    /// How often the receiver slept and was rung awake.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wakes.get()
    }

    /// The longest time between the ring of the bell and the receiver's waking, in nanoseconds.
    #[must_use]
    pub fn worst_wake_ns(&self) -> u64 {
        self.worst_wake_ns.get()
    }
}

type Ring = Pin<Box<dyn Future<Output = bool>>>;

/// The receiving end on its shard. One task uses it.
pub struct Receiver<T> {
    inbox: Inbox<T>,
    bell: Rc<BufferedFile>,
    /// The read of the eventfd that is under way. It outlives a `wait` that was dropped, so that a `wait` inside a race
    /// costs no cancellation on the ring.
    ring: Option<Ring>,
    stats: Rc<WakeStats>,
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({} of {})", self.inbox.shared.queue.len(), self.inbox.shared.queue.capacity())
    }
}

/// Bytes of an eventfd's counter.
const EVENTFD_BYTES: usize = 8;

impl<T: Send> Receiver<T> {
    /// Takes the oldest message, if any.
    pub fn try_recv(&mut self) -> Option<T> {
        self.inbox.shared.queue.pop()
    }

    /// Completes when the mailbox is not empty. May complete early: look with [`Self::try_recv`].
    /// Dropping the future loses nothing.
    pub async fn wait(&mut self) {
        if !self.inbox.shared.queue.is_empty() {
            return;
        }
        let asleep_ns = clock::monotonic_ns();
        self.inbox.shared.asleep.store(true, Ordering::Relaxed);
        // The fence of the receiver in the module's argument.
        fence(Ordering::SeqCst);
        if !self.inbox.shared.queue.is_empty() {
            self.inbox.shared.asleep.store(false, Ordering::Relaxed);
            return;
        }
        let ring = self.ring.get_or_insert_with(|| {
            let bell = self.bell.clone();
            Box::pin(async move { bell.read_at(0, EVENTFD_BYTES).await.is_ok() })
        });
        let read = ring.as_mut().await;
        self.ring = None;
        // Nothing but a closed ring makes this read fail, and then no message could ever arrive.
        assert!(read, "the eventfd of a mailbox cannot be read");
        self.inbox.shared.asleep.store(false, Ordering::Relaxed);
        self.note_wake(asleep_ns);
    }

    /// The oldest message, waited for.
    pub async fn recv(&mut self) -> T {
        loop {
            if let Some(message) = self.try_recv() {
                return message;
            }
            self.wait().await;
        }
    }

    /// Counters of this receiver, shared with whoever reports them.
    #[must_use]
    pub fn stats(&self) -> Rc<WakeStats> {
        self.stats.clone()
    }

    fn note_wake(&self, asleep_ns: u64) {
        if self.inbox.shared.queue.is_empty() {
            return;
        }
        // A count left over from before this sleep must not be taken for a late wake-up.
        let rung_ns = self.inbox.shared.rung_ns.load(Ordering::Acquire).max(asleep_ns);
        let now_ns = clock::monotonic_ns();
        let late_ns = now_ns.saturating_sub(rung_ns);
        self.stats.wakes.set(self.stats.wakes.get() + 1);
        self.stats.worst_wake_ns.set(self.stats.worst_wake_ns.get().max(late_ns));
        safety::note_wake(rung_ns, now_ns);
    }
}

/// Messages to one destination that keep their order when its mailbox is full.
///
/// Owned by one task of the sending shard, which calls [`Outbox::flush`] once a turn. The overflow is not bounded
/// here: whoever makes messages in answer to outside input must look at [`Outbox::overflow`] and stop reading.
#[derive(Debug)]
pub struct Outbox<T> {
    sender: Sender<T>,
    overflow: VecDeque<T>,
}

impl<T: Send> Outbox<T> {
    /// An empty outbox to `sender`'s mailbox.
    #[must_use]
    pub fn new(sender: Sender<T>) -> Self {
        Self { sender, overflow: VecDeque::new() }
    }

    /// Sends a message, or keeps it behind those that already wait.
    pub fn send(&mut self, message: T) {
        if !self.overflow.is_empty() {
            self.overflow.push_back(message);
            return;
        }
        if let Err(Full(message)) = self.sender.try_send(message) {
            self.overflow.push_back(message);
        }
    }

    /// Tries to send what waits; true when nothing is left.
    pub fn flush(&mut self) -> bool {
        while let Some(message) = self.overflow.pop_front() {
            if let Err(Full(message)) = self.sender.try_send(message) {
                self.overflow.push_front(message);
                return false;
            }
        }
        true
    }

    /// Whether there is room for what can as well wait elsewhere: half of the mailbox is kept for what cannot.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.overflow.is_empty() && self.sender.len() < self.sender.shared.queue.capacity().div_ceil(2)
    }

    /// Number of messages that wait for room.
    #[must_use]
    pub fn overflow(&self) -> usize {
        self.overflow.len()
    }
}

#[cfg(test)]
mod tests;
