//! What clients did and saw, written down as it happened, and the checks over it: those of Jepsen's Kafka workload.
//!
//! A history is made by real clients (see [`crate::workload`], and programs in other languages, whose output [`lines`] reads).
//! Values are unique over the whole history. [`check`] is pure: it knows nothing of brokers, and its own tests plant each kind
//! of anomaly.

pub mod check;
pub mod lines;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A topic and a partition of it.
pub type Place = (String, i32);

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, at this offset if it was told: the answer to a repeated batch may leave it out.
    Acknowledged(Option<i64>),
    /// Certainly not in the log.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One record that a producer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Which producer.
    pub producer: u32,
    /// Where to.
    pub place: Place,
    /// Its value.
    pub value: u64,
    /// When the client took it, since the start of the history.
    pub invoked: Duration,
    /// When the answer came.
    pub completed: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Records that a consumer got, in the order it got them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// Which consumer.
    pub consumer: u32,
    /// Counts this consumer's assignments and seeks: within one of them its positions only go forward.
    pub assignment: u64,
    /// Where from.
    pub place: Place,
    /// Offset and value of each record.
    pub records: Vec<(i64, u64)>,
}

/// All that is to be checked.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All sends. Those of one producer to one place are in the order in which the client took them.
    pub sends: Vec<Send>,
    /// All polls; those of one consumer in their order.
    pub polls: Vec<Poll>,
    /// The whole of each partition, read after everything had healed: offset and value.
    pub last_reads: Vec<(Place, Vec<(i64, u64)>)>,
}

/// A history that several clients write at once.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    history: Mutex<History>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { started: Instant::now(), history: Mutex::default() }
    }
}

impl Recorder {
    /// Time since the start of the history.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes down all sends of a producer.
    pub fn sends(&self, sends: Vec<Send>) {
        self.with(|history| history.sends.extend(sends));
    }

    /// Writes down all polls of a consumer.
    pub fn polls(&self, polls: Vec<Poll>) {
        self.with(|history| history.polls.extend(polls));
    }

    /// Writes down the last read of a partition.
    pub fn last_read(&self, place: Place, records: Vec<(i64, u64)>) {
        self.with(|history| history.last_reads.push((place, records)));
    }

    fn with<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The history so far.
    #[must_use]
    pub fn finish(self) -> History {
        self.history.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
