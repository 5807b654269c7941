//! The checks of Jepsen's Kafka workload over a [`History`]. Pure.
//!
//! | anomaly | what it says |
//! |---|---|
//! | `Lost` | an acknowledged record is not in the partition's last read |
//! | `Inconsistent` | an offset held two values, in two reads or in a read and an acknowledgement |
//! | `Vanished` | a record that some consumer was given is not in the last read: it was served before it was committed |
//! | `Duplicate` | a value at two offsets |
//! | `Reordered` | a producer's records are not in the order in which it sent them |
//! | `RealTime` | a record acknowledged before another was sent has the higher offset |
//! | `Refused` | a record that was certainly refused was read |
//! | `Invented` | a value that nobody sent |
//! | `Backward`, `Skipped` | a consumer's position went back or jumped, inside a poll or across polls |
//!
//! Offsets are dense: no control batches, no compaction, no deletes in these workloads.

use super::{History, Outcome, Place, Poll, Send};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Anomalies of one kind that are listed; their number is whole.
const EXAMPLES_MAX: usize = 5;

/// A kind of anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the table above says what each is")]
pub enum Kind {
    Lost,
    Inconsistent,
    Vanished,
    Duplicate,
    Reordered,
    RealTime,
    Refused,
    Invented,
    Backward,
    Skipped,
}

/// What was found, and how much was looked at.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// How often each kind was found, with the first few in words.
    pub anomalies: BTreeMap<Kind, (usize, Vec<String>)>,
    /// Acknowledged records.
    pub acknowledged: usize,
    /// Sends of unknown outcome, and how many of them are in the log.
    pub unknown: (usize, usize),
    /// Records read by consumers, the last reads not among them.
    pub read: usize,
    /// Partitions.
    pub partitions: usize,
}

impl Findings {
    fn add(&mut self, kind: Kind, text: impl FnOnce() -> String) {
        let (count, examples) = self.anomalies.entry(kind).or_default();
        *count += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(text());
        }
    }

    /// Fails the test if there is any anomaly, or if fewer than `least` records were acknowledged or read.
    pub fn assert_clean(&self, least: usize) {
        assert!(self.anomalies.is_empty(), "{self:#?}");
        let enough = self.acknowledged >= least && self.read >= least;
        assert!(enough, "too little happened for this to say anything: {self:?}");
    }
}

/// Checks a whole history, whose last reads cover every place that was written to.
#[must_use]
pub fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let places: BTreeSet<&Place> = history.sends.iter().map(|send| &send.place).collect();
    findings.partitions = places.len();
    findings.read = history.polls.iter().map(|poll| poll.records.len()).sum();
    for place in places {
        let last = history.last_reads.iter().rfind(|(of, _)| of == place);
        let (_, last) = last.unwrap_or_else(|| panic!("there is no last read of {place:?}"));
        let sends: Vec<&Send> = history.sends.iter().filter(|send| send.place == *place).collect();
        let polls: Vec<&Poll> = history.polls.iter().filter(|poll| poll.place == *place).collect();
        Partition { place, sends, polls, last }.check(&mut findings);
    }
    positions(history, &mut findings);
    findings
}

/// One partition of a history.
struct Partition<'a> {
    place: &'a Place,
    sends: Vec<&'a Send>,
    polls: Vec<&'a Poll>,
    last: &'a [(i64, u64)],
}

impl Partition<'_> {
    fn check(&self, findings: &mut Findings) {
        let log: BTreeMap<i64, u64> = self.last.iter().copied().collect();
        let by_value: BTreeMap<u64, &Send> = self.sends.iter().map(|send| (send.value, *send)).collect();
        assert_eq!(by_value.len(), self.sends.len(), "values are unique");
        self.acknowledgements(&log, findings);
        self.reads(&log, &by_value, findings);
        self.copies(&by_value, findings);
        let offset_of = log.iter().rev().map(|(offset, value)| (*value, *offset)).collect();
        self.order_of_producers(&offset_of, findings);
        self.order_in_time(&offset_of, findings);
    }

    fn acknowledgements(&self, log: &BTreeMap<i64, u64>, findings: &mut Findings) {
        let present: BTreeSet<u64> = log.values().copied().collect();
        for send in &self.sends {
            match send.outcome {
                Outcome::Acknowledged(offset) => {
                    findings.acknowledged += 1;
                    if !present.contains(&send.value) {
                        findings.add(Kind::Lost, || format!("{send:?}"));
                    } else if let Some(offset) = offset
                        && log.get(&offset) != Some(&send.value)
                    {
                        let there = log.get(&offset);
                        findings.add(Kind::Inconsistent, || format!("{send:?}, but there is {there:?}"));
                    }
                }
                Outcome::Refused if present.contains(&send.value) => {
                    findings.add(Kind::Refused, || format!("{send:?}"));
                }
                Outcome::Refused => {}
                Outcome::Unknown => {
                    findings.unknown.0 += 1;
                    findings.unknown.1 += usize::from(present.contains(&send.value));
                }
            }
        }
    }

    /// Every read against the last one.
    fn reads(&self, log: &BTreeMap<i64, u64>, by_value: &BTreeMap<u64, &Send>, findings: &mut Findings) {
        let place = self.place;
        for poll in &self.polls {
            for (offset, value) in &poll.records {
                match log.get(offset) {
                    Some(there) if there == value => {}
                    Some(there) => findings.add(Kind::Inconsistent, || {
                        format!(
                            "{place:?} at {offset}: consumer {} got {value}, at last {there}",
                            poll.consumer
                        )
                    }),
                    None => findings.add(Kind::Vanished, || {
                        format!(
                            "{place:?} at {offset}: consumer {} got {value}, at last nothing",
                            poll.consumer
                        )
                    }),
                }
                match by_value.get(value) {
                    None => {
                        findings.add(Kind::Invented, || format!("{place:?} at {offset}: {value} in a poll"))
                    }
                    Some(send) if send.outcome == Outcome::Refused && !log.values().any(|v| v == value) => {
                        findings.add(Kind::Refused, || format!("{send:?} was read at {offset}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// Values at two offsets, and values from nowhere, in the last read.
    fn copies(&self, by_value: &BTreeMap<u64, &Send>, findings: &mut Findings) {
        let mut first_at: BTreeMap<u64, i64> = BTreeMap::new();
        for (offset, value) in self.last {
            if let Some(first) = first_at.insert(*value, *offset) {
                findings
                    .add(Kind::Duplicate, || format!("{:?}: {value} at {first} and {offset}", self.place));
            }
            if !by_value.contains_key(value) {
                findings.add(Kind::Invented, || format!("{:?} at {offset}: {value}", self.place));
            }
        }
        for (index, (offset, _)) in self.last.iter().enumerate() {
            if i64::try_from(index).ok() != Some(*offset) {
                findings.add(Kind::Skipped, || {
                    format!("{:?}: the last read has {offset} as {index}th", self.place)
                });
                return;
            }
        }
    }

    /// The records of one producer that are in the log must be there in the order in which it sent them.
    fn order_of_producers(&self, offset_of: &BTreeMap<u64, i64>, findings: &mut Findings) {
        let mut last_of: BTreeMap<u32, (i64, u64)> = BTreeMap::new();
        for send in &self.sends {
            let Some(offset) = offset_of.get(&send.value) else { continue };
            if let Some((before, value)) = last_of.insert(send.producer, (*offset, send.value))
                && before > *offset
            {
                findings.add(Kind::Reordered, || {
                    format!(
                        "{:?}: {value} at {before} was sent before {} at {offset}",
                        self.place, send.value
                    )
                });
            }
        }
    }

    /// Going down from the end: nothing may have been sent after something above it was acknowledged.
    fn order_in_time(&self, offset_of: &BTreeMap<u64, i64>, findings: &mut Findings) {
        let acknowledged = self.sends.iter().filter_map(|send| match send.outcome {
            Outcome::Acknowledged(_) => Some((*offset_of.get(&send.value)?, *send)),
            _ => None,
        });
        let by_offset: BTreeMap<i64, &Send> = acknowledged.collect();
        let mut earliest: Option<(Duration, &Send)> = None;
        for (_, send) in by_offset.into_iter().rev() {
            if let Some((completed, above)) = earliest
                && completed < send.invoked
            {
                findings.add(Kind::RealTime, || format!("{send:?} lies below {above:?}"));
            }
            if earliest.is_none_or(|(completed, _)| send.completed < completed) {
                earliest = Some((send.completed, send));
            }
        }
    }
}

/// Positions of consumers: within an assignment each record is the next one.
fn positions(history: &History, findings: &mut Findings) {
    let mut next: BTreeMap<(u32, &Place), (u64, i64)> = BTreeMap::new();
    for poll in &history.polls {
        let key = (poll.consumer, &poll.place);
        let known = next.get(&key).filter(|(assignment, _)| *assignment == poll.assignment);
        let mut expected = known.map(|(_, offset)| *offset);
        for (offset, _) in &poll.records {
            match expected {
                Some(wanted) if *offset < wanted => findings.add(Kind::Backward, || {
                    format!("consumer {} of {:?}: {offset} after {wanted} was due", poll.consumer, poll.place)
                }),
                Some(wanted) if *offset > wanted => findings.add(Kind::Skipped, || {
                    format!("consumer {} of {:?}: {offset} where {wanted} was due", poll.consumer, poll.place)
                }),
                _ => {}
            }
            expected = Some(offset + 1);
        }
        if let Some(offset) = expected {
            next.insert(key, (poll.assignment, offset));
        }
    }
}

#[cfg(test)]
mod tests;
