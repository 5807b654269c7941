//! Sending: one producer with the values, keys and sequence of one client, and the pacer that
//! follows an open schedule.
//!
//! A message's intended time travels as the delivery's opaque number, so no table of what is
//! outstanding is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord};

use crate::cli::Options;
use crate::client::Deliveries;
use crate::message::Messages;
use crate::run::Run;
use crate::schedule::{LATE_MAX_NS, Schedule, Window};

/// The longest the pacer sleeps before it looks whether the run was stopped.
const PACER_SLEEP_MAX: Duration = Duration::from_millis(20);
/// How long a full client queue is left alone.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);

/// One client's sending side.
pub struct Outbox {
    producer: Arc<BaseProducer<Deliveries>>,
    run: Arc<Run>,
    topic: String,
    messages: Messages,
}

/// What became of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The client has it and will report its delivery.
    Queued,
    /// The client's queue is full: try again later.
    Full,
    /// The client refuses it for good.
    Refused,
}

impl Outbox {
    /// The sending side of client `client`.
    pub fn new(
        producer: Arc<BaseProducer<Deliveries>>,
        run: Arc<Run>,
        options: &Options,
        client: u32,
    ) -> Self {
        Self { producer, topic: options.topic.clone(), messages: Messages::new(options, &run, client), run }
    }

    /// Sends the next message, which is meant for `intended_ns`.
    pub fn send(&mut self, intended_ns: u64) -> Sent {
        let message = self.messages.next(self.run.clock.wall_ns(intended_ns));
        let mut record = BaseRecord::with_opaque_to(&self.topic, intended_ns as usize).payload(message.value);
        if let Some(key) = message.key {
            record = record.key(key);
        }
        match self.producer.send(record) {
            Ok(()) => {
                self.messages.take();
                Sent::Queued
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Sent::Full,
            Err(_) => Sent::Refused,
        }
    }
}

/// How many messages of a client may be outstanding, shared by pacer and completions.
pub struct Permits {
    free: AtomicU32,
    total: u32,
    waiting: AtomicBool,
    pacer: std::sync::OnceLock<Thread>,
}

impl Permits {
    /// `total` permits, all free.
    pub fn new(total: u32) -> Arc<Self> {
        Arc::new(Self {
            free: AtomicU32::new(total),
            total,
            waiting: AtomicBool::new(false),
            pacer: std::sync::OnceLock::new(),
        })
    }

    /// Takes one if there is one. Only the pacer takes.
    pub fn take(&self) -> bool {
        let free = self.free.load(Ordering::Acquire);
        if free > 0 {
            self.free.fetch_sub(1, Ordering::AcqRel);
        }
        free > 0
    }

    /// Gives one back and wakes the pacer if it waits.
    pub fn give_back(&self) {
        self.free.fetch_add(1, Ordering::AcqRel);
        if self.waiting.swap(false, Ordering::AcqRel)
            && let Some(pacer) = self.pacer.get()
        {
            pacer.unpark();
        }
    }

    /// How many are taken.
    pub fn taken_count(&self) -> u32 {
        self.total - self.free.load(Ordering::Acquire)
    }

    fn wait(&self) {
        self.pacer.get_or_init(thread::current);
        self.waiting.store(true, Ordering::Release);
        // A permit given back before `waiting` was set is seen here; one given back after it
        // unparks. The bound on the sleep only serves a run that is stopped.
        if self.free.load(Ordering::Acquire) == 0 {
            thread::park_timeout(PACER_SLEEP_MAX);
        }
        self.waiting.store(false, Ordering::Release);
    }
}

/// Sends along the schedule until the window ends. A message whose permit comes late is sent
/// late and keeps its intended time.
pub fn pace(outbox: &mut Outbox, schedule: &mut Schedule, window: Window, permits: &Permits) -> u64 {
    let run = Arc::clone(&outbox.run);
    let mut refused = 0;
    while !run.stopped() && schedule.next_ns() < window.end_ns {
        let now_ns = run.clock.now_ns();
        if now_ns >= window.end_ns + LATE_MAX_NS {
            break;
        }
        let next_ns = schedule.next_ns();
        if next_ns > now_ns {
            thread::sleep(Duration::from_nanos(next_ns - now_ns).min(PACER_SLEEP_MAX));
            continue;
        }
        if !permits.take() {
            permits.wait();
            continue;
        }
        let Some(intended_ns) = schedule.take_due(now_ns) else { continue };
        if !run.admit(window, intended_ns) {
            permits.give_back();
            break;
        }
        refused += u64::from(send_patiently(outbox, &run, intended_ns, permits));
    }
    refused
}

/// Sends one message, waiting while the client's queue is full. True if it was refused.
fn send_patiently(outbox: &mut Outbox, run: &Run, intended_ns: u64, permits: &Permits) -> bool {
    loop {
        match outbox.send(intended_ns) {
            Sent::Queued => return false,
            Sent::Full if !run.stopped() => thread::sleep(QUEUE_FULL_PAUSE),
            Sent::Full | Sent::Refused => {
                permits.give_back();
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_bound_what_is_outstanding_and_wake_the_pacer() {
        let permits = Permits::new(2);
        assert!(permits.take() && permits.take() && !permits.take());
        let given = Arc::clone(&permits);
        let helper = thread::spawn(move || given.give_back());
        while !permits.take() {
            permits.wait();
        }
        helper.join().unwrap();
        assert_eq!(permits.taken_count(), 2);
        permits.give_back();
        permits.give_back();
        assert_eq!(permits.taken_count(), 0);
    }
}
