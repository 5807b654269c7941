//! Bugs planted on purpose: the simulator of `tests/` shows with them that it would find their like.
//!
//! Each is asked for where the right thing is done, by [`is_planted`], which is `false` at compile time in release builds. In
//! debug builds a thread may [`plant`] one for itself; nobody but the simulator does.

#[cfg(debug_assertions)]
use std::cell::Cell;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A new term or vote is not written.
    HardStateDropped,
    /// Entries that take the place of others do not.
    TruncationSkipped,
    /// A new leader knows no producers.
    ProducersForgotten,
    /// A leader without its quorum goes on leading.
    QuorumUnchecked,
    /// Whoever waits for an entry is content with any at its index.
    WaiterByIndex,
    /// Retention moves the log start of the leader alone.
    TrimmedAlone,
    /// A WAL segment is used again whatever it holds.
    RecycledEarly,
}

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in everything that this thread does from now on, or none.
#[cfg(debug_assertions)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted here.
#[cfg(debug_assertions)]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Bugs are planted in debug builds only.
///
/// # Panics
/// When one is to be planted all the same.
#[cfg(not(debug_assertions))]
pub fn plant(bug: Option<Bug>) {
    assert!(bug.is_none(), "bugs are planted in debug builds only");
}

/// Whether this bug is planted here: never.
#[cfg(not(debug_assertions))]
#[must_use]
#[inline(always)]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}
