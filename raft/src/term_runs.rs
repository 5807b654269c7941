//! The terms of a whole log as runs, so that raft's `term(index)` never needs a file.
//!
//! A run is made by each election that appended something: a few dozen in a partition's life, 16 bytes each.

use chronik_wal::types::{RaftIndex, Term};

/// Terms by index, from the log start (inclusive, so that the entry just before the first has a term) on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermRuns {
    /// First index of each run and its term; both strictly rising.
    runs: Vec<(RaftIndex, Term)>,
}

impl TermRuns {
    /// Runs that begin at the log start: `(log_start.index, log_start.term)`.
    #[must_use]
    pub fn starting_at(index: RaftIndex, term: Term) -> Self {
        Self { runs: vec![(index, term)] }
    }

    /// Notes the term of an entry; entries come in order of index. An index already known is a truncation to before it.
    ///
    /// # Panics
    /// When the term steps back: no log does that.
    pub fn push(&mut self, index: RaftIndex, term: Term) {
        self.truncate_from(index);
        let last = self.runs.last().map_or(Term(0), |(_, last)| *last);
        assert!(self.runs.is_empty() || term >= last, "terms never go down within a log");
        if self.runs.is_empty() || term > last {
            self.runs.push((index, term));
        }
    }

    /// Forgets the runs that begin at or above `index`.
    pub fn truncate_from(&mut self, index: RaftIndex) {
        while self.runs.last().is_some_and(|(first, _)| *first >= index) {
            self.runs.pop();
        }
    }

    /// Lets the runs begin at `index`: what lies before is compacted.
    pub fn compact_to(&mut self, index: RaftIndex) {
        let covering = self.runs.partition_point(|(first, _)| *first <= index);
        self.runs.drain(..covering.saturating_sub(1));
        if let Some((first, _)) = self.runs.first_mut() {
            *first = (*first).max(index);
        }
    }

    /// The term of the entry at this index; none below the first run.
    #[must_use]
    pub fn term(&self, index: RaftIndex) -> Option<Term> {
        let covering = self.runs.partition_point(|(first, _)| *first <= index);
        covering.checked_sub(1).map(|run| self.runs[run].1)
    }

    /// The runs, oldest first.
    #[cfg(test)]
    pub fn runs(&self) -> &[(RaftIndex, Term)] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> TermRuns {
        let mut runs = TermRuns::starting_at(RaftIndex(10), Term(2));
        for (index, term) in [(11, 2), (12, 2), (13, 4), (14, 4), (15, 7)] {
            runs.push(RaftIndex(index), Term(term));
        }
        runs
    }

    #[test]
    fn answers_every_index_from_the_start() {
        let terms: Vec<_> = (9..=16).map(|index| runs().term(RaftIndex(index)).map(|term| term.0)).collect();
        assert_eq!(terms, [None, Some(2), Some(2), Some(2), Some(4), Some(4), Some(7), Some(7)]);
    }

    #[test]
    fn truncates_when_an_index_comes_again() {
        let mut runs = runs();
        runs.push(RaftIndex(14), Term(9));
        assert_eq!(
            runs.runs(),
            [(RaftIndex(10), Term(2)), (RaftIndex(13), Term(4)), (RaftIndex(14), Term(9))]
        );
    }

    #[test]
    fn compacts_into_the_middle_of_a_run() {
        let mut runs = runs();
        runs.compact_to(RaftIndex(14));
        assert_eq!(runs.runs(), [(RaftIndex(14), Term(4)), (RaftIndex(15), Term(7))]);
        runs.compact_to(RaftIndex(15));
        assert_eq!(runs.runs(), [(RaftIndex(15), Term(7))]);
    }
}
