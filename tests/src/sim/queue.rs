//! What is to happen, in the order of virtual time. Pure.
//!
//! Two things at one time happen in the order in which they were put, so that a run is determined by its seed alone.

use std::collections::BTreeMap;

/// Things to come.
#[derive(Debug)]
pub struct Queue<T> {
    entries: BTreeMap<(u64, u64), T>,
    now_us: u64,
    puts: u64,
}

impl<T> Queue<T> {
    /// An empty queue at time 0.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BTreeMap::new(), now_us: 0, puts: 0 }
    }

    /// The time, in microseconds since the start of the run.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Puts something at a time; the past counts as now. Returns the time.
    pub fn at(&mut self, time_us: u64, what: T) -> u64 {
        self.puts += 1;
        let time_us = time_us.max(self.now_us);
        self.entries.insert((time_us, self.puts), what);
        time_us
    }

    /// Puts something so many microseconds from now.
    pub fn after(&mut self, delay_us: u64, what: T) -> u64 {
        self.at(self.now_us + delay_us, what)
    }

    /// The next thing, if any; the clock moves to its time, unless that is past already.
    pub fn pop(&mut self) -> Option<T> {
        let ((time_us, _), what) = self.entries.pop_first()?;
        self.now_us = self.now_us.max(time_us);
        Some(what)
    }

    /// When the next thing is due.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        self.entries.keys().next().map(|(time_us, _)| *time_us)
    }

    /// Moves the clock, which never goes back.
    pub fn set_now(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}
