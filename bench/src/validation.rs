//! Checks every record: contents, order, duplicates, loss. Pure; the caller reads the topic.
//!
//! Order means: within one partition the sequences of one client of one run only rise. A client
//! that retries without idempotence may break it, and that is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::payload::{Header, read_checked};

/// A set of sequence numbers, one bit each.
#[derive(Clone, Debug, Default)]
pub struct SequenceSet {
    words: Vec<u64>,
    len: u64,
}

impl SequenceSet {
    /// Adds a number; false if it was there.
    pub fn insert(&mut self, sequence: u64) -> bool {
        let word = (sequence / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (sequence % 64);
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u64::from(fresh);
        fresh
    }

    /// How many numbers it holds.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Adds another set; returns how many numbers both had.
    pub fn union(&mut self, other: &SequenceSet) -> u64 {
        let both = other.len - other.missing_from(self);
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        self.words.iter_mut().zip(&other.words).for_each(|(mine, theirs)| *mine |= theirs);
        self.len += other.len - both;
        both
    }

    /// How many numbers of this set are missing from `other`.
    pub fn missing_from(&self, other: &SequenceSet) -> u64 {
        let other_word = |at: usize| other.words.get(at).copied().unwrap_or(0);
        self.words.iter().enumerate().map(|(at, word)| u64::from((word & !other_word(at)).count_ones())).sum()
    }
}

/// What was wrong, in numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Records that were checked and belong to the run.
    pub checked: u64,
    /// Records whose contents are not what was sent, or that this tool did not write.
    pub damaged: u64,
    /// Records behind one with a higher sequence of the same client in the same partition.
    pub out_of_order: u64,
    /// Records that were there already.
    pub duplicated: u64,
    /// Acknowledged records that were not found.
    pub lost: u64,
}

impl Findings {
    /// Nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.damaged + self.out_of_order + self.duplicated + self.lost == 0
    }

    /// Adds another part of the topic.
    pub fn add(&mut self, other: &Findings) {
        self.checked += other.checked;
        self.damaged += other.damaged;
        self.out_of_order += other.out_of_order;
        self.duplicated += other.duplicated;
        self.lost += other.lost;
    }
}

/// The records seen so far.
#[derive(Debug, Default)]
pub struct Checker {
    /// Only these records are checked for anything but damage; `None` takes all.
    run: Option<u64>,
    client: Option<u32>,
    seen: BTreeMap<(u64, u32), SequenceSet>,
    last: BTreeMap<(u64, u32, i32), u64>,
    findings: Findings,
}

impl Checker {
    /// A checker of one run's records, or of all runs'.
    pub fn new(run: Option<u64>) -> Self {
        Self { run, ..Self::default() }
    }

    /// A checker of the records of one client of a run.
    pub fn of_client(run: u64, client: u32) -> Self {
        Self { run: Some(run), client: Some(client), ..Self::default() }
    }

    /// Adds what another checker saw in other partitions.
    pub fn merge(&mut self, other: Checker) {
        for (source, set) in other.seen {
            let mine = self.seen.entry(source).or_default();
            self.findings.duplicated += mine.union(&set);
        }
        self.findings.add(&other.findings);
    }

    /// Checks a record. Returns its header if its contents are right.
    pub fn record(&mut self, partition: i32, value: &[u8]) -> Option<Header> {
        let Ok(header) = read_checked(value) else {
            self.findings.damaged += 1;
            return None;
        };
        let other_run = self.run.is_some_and(|run| run != header.run);
        if other_run || self.client.is_some_and(|client| client != header.client) {
            return None;
        }
        self.findings.checked += 1;
        let source = (header.run, header.client);
        let fresh = self.seen.entry(source).or_default().insert(header.sequence);
        if !fresh {
            self.findings.duplicated += 1;
            return None;
        }
        let last = self.last.entry((header.run, header.client, partition)).or_insert(header.sequence);
        if header.sequence < *last {
            self.findings.out_of_order += 1;
        }
        *last = header.sequence.max(*last);
        Some(header)
    }

    /// What was wrong, given the sequences that each client of the run had acknowledged.
    pub fn against_acknowledged(mut self, run: u64, acknowledged: &[SequenceSet]) -> Findings {
        let none = SequenceSet::default();
        for (client, set) in acknowledged.iter().enumerate() {
            let seen = self.seen.get(&(run, client as u32)).unwrap_or(&none);
            self.findings.lost += set.missing_from(seen);
        }
        self.findings
    }

    /// What was wrong, when nothing but the records is known: a gap between a client's first and
    /// last sequence counts as loss.
    pub fn against_gaps(mut self) -> Findings {
        for set in self.seen.values() {
            let first = set.words.iter().position(|word| *word != 0);
            let last = set.words.iter().rposition(|word| *word != 0);
            if let (Some(first), Some(last)) = (first, last) {
                let first = first as u64 * 64 + u64::from(set.words[first].trailing_zeros());
                let last = last as u64 * 64 + 63 - u64::from(set.words[last].leading_zeros());
                self.findings.lost += last - first + 1 - set.len();
            }
        }
        self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{PayloadPattern, Payloads};

    fn value(client: u32, sequence: u64) -> Vec<u8> {
        Payloads::new(PayloadPattern::Random, 100, 1, client).value(sequence, 0).to_vec()
    }

    fn set(numbers: &[u64]) -> SequenceSet {
        let mut set = SequenceSet::default();
        numbers.iter().for_each(|number| assert!(set.insert(*number)));
        set
    }

    #[test]
    fn a_clean_run_is_clean() {
        let mut checker = Checker::new(Some(1));
        for sequence in 0..200 {
            assert!(checker.record((sequence % 3) as i32, &value(0, sequence)).is_some());
            assert!(checker.record(0, &value(1, sequence)).is_some());
        }
        let all: Vec<u64> = (0..200).collect();
        let findings = checker.against_acknowledged(1, &[set(&all), set(&all)]);
        assert!(findings.is_clean());
        assert_eq!(findings.checked, 400);
    }

    #[test]
    fn a_tampered_record_is_caught() {
        let mut checker = Checker::new(Some(1));
        let mut tampered = value(0, 0);
        tampered[77] ^= 1;
        assert_eq!(checker.record(0, &tampered), None);
        let findings = checker.against_acknowledged(1, &[set(&[0])]);
        assert_eq!((findings.damaged, findings.lost), (1, 1));
        assert!(!findings.is_clean());
    }

    #[test]
    fn loss_duplicates_and_order_are_caught() {
        let mut checker = Checker::new(Some(1));
        for sequence in [0, 2, 1, 4, 4] {
            checker.record(0, &value(0, sequence));
        }
        let findings = checker.against_acknowledged(1, &[set(&[0, 1, 2, 3, 4])]);
        let expected = Findings { checked: 5, damaged: 0, out_of_order: 1, duplicated: 1, lost: 1 };
        assert_eq!(findings, expected);
    }

    #[test]
    fn order_is_by_partition() {
        let mut checker = Checker::new(None);
        checker.record(0, &value(0, 5));
        checker.record(1, &value(0, 4));
        assert!(checker.against_gaps().is_clean());
    }

    #[test]
    fn readers_of_different_partitions_are_one_reader() {
        let (mut one, mut two) = (Checker::new(None), Checker::new(None));
        [0, 2, 4].iter().for_each(|s| assert!(one.record(0, &value(0, *s)).is_some()));
        [1, 3, 4, 200].iter().for_each(|s| assert!(two.record(1, &value(0, *s)).is_some()));
        one.merge(two);
        let findings = one.against_gaps();
        let expected = Findings { checked: 7, damaged: 0, out_of_order: 0, duplicated: 1, lost: 195 };
        assert_eq!(findings, expected);
        let mut mine = Checker::of_client(1, 7);
        assert_eq!(mine.record(0, &value(6, 0)), None);
        assert!(mine.record(0, &value(7, 0)).is_some());
        assert_eq!(mine.against_gaps().checked, 1);
    }

    #[test]
    fn other_runs_are_left_alone_and_gaps_are_loss() {
        let mut other = Checker::new(Some(2));
        assert_eq!(other.record(0, &value(0, 5)), None);
        assert_eq!(other.against_acknowledged(2, &[]), Findings::default());
        let mut gaps = Checker::new(None);
        [10, 11, 150].iter().for_each(|s| assert!(gaps.record(0, &value(0, *s)).is_some()));
        assert_eq!(gaps.against_gaps().lost, 138);
    }
}
