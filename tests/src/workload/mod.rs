//! Load from real clients (librdkafka) that writes down all it does and sees, for the checks of [`crate::history`].
//!
//! - [`producer`]: idempotent, acks=all, values unique over the whole load, many requests in flight, paced;
//! - [`consumer`]: readers that follow everything from the start and now and then jump back, and members of one group.
//!
//! Clients have their defaults but for what makes them notice a dead or paused node in seconds rather than in a minute.

pub mod consumer;
pub mod producer;

use crate::cluster::view::View;
use crate::history::check::{Findings, check};
use crate::history::{History, Outcome, Place, Recorder};
use crate::records;
use crate::wire::Connection;
use anyhow::{Context, Result};
use consumer::{GroupReport, Member, Reader};
use producer::Producer;
use rdkafka::ClientConfig;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A group in which nothing has changed for so long has settled.
const GROUP_SETTLED: Duration = Duration::from_secs(2);

/// How long the last read of a partition may look for its leader.
const LAST_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How much load, and on what.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses as clients take them.
    pub bootstrap: String,
    /// The topics, with their numbers of partitions; they exist.
    pub topics: Vec<(String, i32)>,
    /// Number of producers.
    pub producers: u32,
    /// Number of readers.
    pub readers: u32,
    /// Number of members of one group; none for no group.
    pub members: u32,
    /// Records a second of each producer.
    pub records_per_second: u32,
    /// Bytes of a record's value.
    pub value_bytes: usize,
    /// Further client configs of the producers.
    pub producer_configs: Vec<(String, String)>,
}

impl Options {
    /// Three producers, two readers and three members of a group on one topic.
    #[must_use]
    pub fn usual(bootstrap: &str, topic: &str, partitions: i32) -> Self {
        Self {
            bootstrap: bootstrap.to_string(),
            topics: vec![(topic.to_string(), partitions)],
            producers: 3,
            readers: 2,
            members: 3,
            records_per_second: 200,
            value_bytes: 100,
            producer_configs: Vec::new(),
        }
    }

    /// All partitions of all topics.
    fn places(&self) -> Vec<Place> {
        let of_topic = |(topic, count): &(String, i32)| {
            let topic = topic.clone();
            (0..*count).map(move |partition| (topic.clone(), partition)).collect::<Vec<Place>>()
        };
        self.topics.iter().flat_map(of_topic).collect()
    }
}

/// What all clients of a load share.
#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    recorder: Recorder,
    acknowledged: AtomicU64,
    read: AtomicU64,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    places: Vec<Place>,
    group_id: String,
    producers: Vec<Producer>,
    readers: Vec<Reader>,
    members: Vec<Member>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Report {
    /// All that was done and seen, with the last read of each partition.
    pub history: History,
    /// Errors that a producer was given for a record.
    pub producer_errors: Vec<String>,
    /// Errors that a consumer was given instead of a record.
    pub consumer_errors: Vec<String>,
    /// What the members of the group say.
    pub group: Vec<GroupReport>,
    /// What the group has committed, asked for by a new client at the end.
    pub committed: BTreeMap<Place, i64>,
}

impl Load {
    /// Starts it.
    #[must_use]
    pub fn start(options: &Options) -> Self {
        let shared = Arc::new(Shared::default());
        let places = options.places();
        let group_id = format!("load-{}", uuid::Uuid::new_v4());
        let producers = (1..=options.producers).map(|id| Producer::start(id, options, &places, &shared));
        let producers = producers.collect();
        let readers = (1..=options.readers).map(|id| Reader::start(id, options, &places, &shared)).collect();
        let first_member = options.readers + 1;
        let members = (first_member..first_member + options.members)
            .map(|id| Member::start(id, &group_id, options, &shared))
            .collect();
        Self { shared, places, group_id, producers, readers, members }
    }

    /// Time since its start, the time of its history.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.recorder.now()
    }

    /// Records acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Records that consumers have got so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.shared.read.load(Ordering::Relaxed)
    }

    /// The id of the group.
    #[must_use]
    pub fn group_id(&self) -> &str {
        &self.group_id
    }

    /// How often members of the group had their partitions changed so far.
    #[must_use]
    pub fn rebalances(&self) -> u64 {
        self.members.iter().map(Member::rebalances).sum()
    }

    /// Waits until all members of the group have partitions and nothing has changed about that for two seconds. A member that joins
    /// while its coordinator leaves is told NOT_COORDINATOR, by Kafka too, and librdkafka hands that to its user.
    pub fn wait_group_settled(&self, timeout: Duration) {
        let started = Instant::now();
        let mut seen = (0, Instant::now());
        while self.members.iter().any(|member| member.rebalances() == 0) || seen.1.elapsed() < GROUP_SETTLED {
            assert!(started.elapsed() < timeout, "the group does not settle within {timeout:?}");
            std::thread::sleep(Duration::from_millis(20));
            let now = self.rebalances();
            if now != seen.0 {
                seen = (now, Instant::now());
            }
        }
    }

    /// Waits until `count` more records have been acknowledged; how long that took. `what` names the wait if it lasts too long.
    pub fn wait_progress(&self, what: &str, count: u64, timeout: Duration) -> Duration {
        let (started, wanted) = (Instant::now(), self.acknowledged() + count);
        while self.acknowledged() < wanted {
            assert!(started.elapsed() < timeout, "no progress within {timeout:?}: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
        started.elapsed()
    }

    /// Stops producers, lets consumers go on for a moment, and reads every partition to its end through the nodes at
    /// `addresses`.
    pub fn finish(self, addresses: &[String]) -> Report {
        let Self { shared, places, group_id, producers, readers, members } = self;
        shared.stopping.store(true, Ordering::SeqCst);
        let producer_errors = producers.into_iter().flat_map(Producer::join).collect();
        let mut consumer_errors: Vec<String> = readers.into_iter().flat_map(Reader::join).collect();
        let group: Vec<GroupReport> = members.into_iter().map(Member::join).collect();
        consumer_errors.extend(group.iter().flat_map(|report| report.errors.clone()));
        let committed = match group.is_empty() {
            true => BTreeMap::new(),
            false => consumer::committed(&addresses.join(","), &group_id, &places),
        };
        for place in places {
            let records = read_partition(addresses, &place);
            shared.recorder.last_read(place, records);
        }
        let shared = Arc::try_unwrap(shared).expect("all clients have ended");
        Report { history: shared.recorder.finish(), producer_errors, consumer_errors, group, committed }
    }
}

impl Report {
    /// Fails the test when the history has an anomaly, whatever the clients were told.
    pub fn assert_no_anomaly(&self) {
        check(&self.history).assert_clean(0);
    }

    /// Fails the test when the history has an anomaly, a client was given an error, or a commit is lost. `least` records must have
    /// been acknowledged, and read.
    pub fn assert_clean(&self, least: usize) -> Findings {
        let findings = check(&self.history);
        findings.assert_clean(least);
        assert_eq!(self.producer_errors, Vec::<String>::new(), "no record may fail");
        assert_eq!(self.consumer_errors, Vec::<String>::new(), "no consumer may be given an error");
        for (place, offset) in self.group.iter().flat_map(|member| &member.commits) {
            let now = self.committed.get(place).copied().unwrap_or(-1);
            assert!(
                now >= *offset,
                "{place:?}: offset {offset} was committed, {now} is what the group has now"
            );
        }
        findings
    }
}

/// Reads a partition from its leader, as one of the nodes at `addresses` names it: offset and value of each record.
#[must_use]
pub fn read_partition(addresses: &[String], place: &Place) -> Vec<(i64, u64)> {
    let deadline = Instant::now() + LAST_READ_TIMEOUT;
    for address in addresses.iter().cycle() {
        match try_read_partition(address, place) {
            Ok(records) => return records,
            Err(error) => assert!(Instant::now() < deadline, "{place:?} cannot be read: {error:#}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no node to read from");
}

fn try_read_partition(address: &str, (topic, partition): &Place) -> Result<Vec<(i64, u64)>> {
    let view = View::of(address)?;
    let leaders = view.leaders(topic).context("the topic has no leaders")?;
    let leader = leaders.get(partition).context("an unknown partition")?;
    let leader = view.brokers.get(leader).context("an unknown leader")?;
    let mut connection = Connection::try_open(leader)?;
    let records = records::read_all(&mut connection, topic, *partition)?;
    records.iter().map(|record| Ok((record.offset, value_of(&record.value)?))).collect()
}

/// The value of a record of the load: its first eight bytes.
fn value_of(payload: &[u8]) -> Result<u64> {
    let first = payload.first_chunk().context("a record of fewer than eight bytes")?;
    Ok(u64::from_be_bytes(*first))
}

/// What producers and consumers have in common. A node that is dead or paused is noticed in seconds.
fn client_config(bootstrap: &str, name: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("client.id", name)
        .set("socket.timeout.ms", "4000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("log_level", "0");
    config
}

/// A time without a success.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gap {
    /// When the last success before it was, in the time of the history.
    pub begin: Duration,
    /// How long it lasted.
    pub length: Duration,
}

/// The longest gap that begins before `until` and ends after `from`: what a fault at `from` cost the producers of one
/// partition.
#[must_use]
pub fn longest_gap(history: &History, place: &Place, from: Duration, until: Duration) -> Gap {
    let acknowledged = history
        .sends
        .iter()
        .filter(|send| send.place == *place && matches!(send.outcome, Outcome::Acknowledged(_)));
    let mut times: Vec<Duration> = acknowledged.map(|send| send.completed).collect();
    times.sort_unstable();
    let around = times.windows(2).filter(|pair| pair[1] > from && pair[0] < until);
    let gaps = around.map(|pair| Gap { begin: pair[0], length: pair[1] - pair[0] });
    gaps.max_by_key(|gap| gap.length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Send;

    #[test]
    fn the_longest_gap_is_that_of_the_fault_and_of_the_partition() {
        let send = |partition, completed, outcome| Send {
            producer: 1,
            place: ("t".to_string(), partition),
            value: completed,
            invoked: Duration::ZERO,
            completed: Duration::from_secs(completed),
            outcome,
        };
        let done = Outcome::Acknowledged(None);
        let history = History {
            sends: vec![
                send(0, 1, done),
                send(0, 20, done),
                send(0, 21, done),
                send(0, 23, Outcome::Unknown),
                send(0, 25, done),
                send(1, 22, done),
                send(0, 60, done),
            ],
            ..History::default()
        };
        let seconds = Duration::from_secs;
        let gap = longest_gap(&history, &("t".to_string(), 0), seconds(21), seconds(25));
        assert_eq!((gap.begin, gap.length), (seconds(21), seconds(4)));
    }
}
