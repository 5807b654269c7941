//! Readers and group members that write down every record they get.

use super::{Options, Shared, client_config, value_of};
use crate::history::{Place, Poll};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One wait for a record.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);
/// How often a reader jumps back to some earlier offset.
const JUMP_INTERVAL: Duration = Duration::from_secs(5);
/// How often a member commits.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// A coordinator is found and has loaded its groups by then.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(30);
/// Consumers go on for so long after the producers were told to stop.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Counts changes of its assignment; everything else of a client's chatter is left out.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    rebalances: Arc<AtomicU64>,
}

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.rebalances.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a consumer has seen so far.
#[derive(Debug, Default)]
struct Seen {
    polls: Vec<Poll>,
    errors: Vec<String>,
    /// The next offset of each partition.
    next: BTreeMap<Place, i64>,
}

impl Seen {
    /// Takes what a poll gave.
    fn take(
        &mut self,
        shared: &Shared,
        consumer: u32,
        assignment: u64,
        polled: Result<rdkafka::message::BorrowedMessage<'_>, KafkaError>,
    ) {
        let message = match polled {
            Ok(message) => message,
            Err(error) => return self.error(&error),
        };
        shared.read.fetch_add(1, Ordering::Relaxed);
        let place = (message.topic().to_string(), message.partition());
        let value = message.payload().map(value_of);
        let Some(Ok(value)) = value else {
            self.errors.push(format!("{place:?} at {}: not a record of this load", message.offset()));
            return;
        };
        self.next.insert(place.clone(), message.offset() + 1);
        let record = (message.offset(), value);
        match self.polls.last_mut() {
            Some(poll) if poll.place == place && poll.assignment == assignment => poll.records.push(record),
            _ => self.polls.push(Poll { consumer, assignment, place, records: vec![record] }),
        }
    }

    /// Lost connections and timeouts are the client's own business; what a broker refuses is not.
    fn error(&mut self, error: &KafkaError) {
        let local = [
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::AllBrokersDown,
            RDKafkaErrorCode::OperationTimedOut,
            RDKafkaErrorCode::Resolve,
        ];
        if !error.rdkafka_error_code().is_some_and(|code| local.contains(&code)) {
            self.errors.push(error.to_string());
        }
    }
}

/// Reads all partitions from the start and jumps back now and then.
#[derive(Debug)]
pub(super) struct Reader {
    thread: JoinHandle<Vec<String>>,
}

impl Reader {
    pub(super) fn start(id: u32, options: &Options, places: &[Place], shared: &Arc<Shared>) -> Self {
        let mut config = client_config(&options.bootstrap, &format!("reader-{id}"));
        config
            .set("group.id", format!("reader-{id}"))
            .set("enable.auto.commit", "false")
            // An offset that was there and is not any more is an error to be told of, not a place to jump from.
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "100");
        let client: BaseConsumer<Quiet> =
            config.create_with_context(Quiet::default()).expect("a consumer can be made");
        let (places, shared) = (places.to_vec(), Arc::clone(shared));
        Self { thread: std::thread::spawn(move || read_and_jump(id, &client, &places, &shared)) }
    }

    /// Waits for its end; the errors that it was given.
    pub(super) fn join(self) -> Vec<String> {
        self.thread.join().expect("a reader ends well")
    }
}

fn read_and_jump(id: u32, client: &BaseConsumer<Quiet>, places: &[Place], shared: &Shared) -> Vec<String> {
    let mut random = SmallRng::seed_from_u64(u64::from(id));
    let mut seen = Seen::default();
    let mut assignment = 0;
    client.assign(&offsets(places, |_| 0)).expect("partitions can be assigned");
    let mut jump_at = Instant::now() + JUMP_INTERVAL;
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end) {
        if end.is_none() && shared.stopping.load(Ordering::SeqCst) {
            end = Some(Instant::now() + AFTERWARDS);
        }
        if let Some(polled) = client.poll(POLL_TIMEOUT) {
            seen.take(shared, id, assignment, polled);
        }
        if Instant::now() > jump_at {
            jump_at = Instant::now() + JUMP_INTERVAL;
            assignment += 1;
            // Not far back: with a long history a reader would never get to its end again.
            let back = random.random_range(0..500);
            let targets = offsets(places, |place| (seen.next.get(place).copied().unwrap_or(0) - back).max(0));
            // Not by another assignment: the client stops its partitions for that, and closed meanwhile it stops them twice and aborts
            // (`rd_kafka_assignment_partition_stopped`, as of 2.12.1). What was fetched before is not given any more once this is back.
            client.seek_partitions(targets, Duration::ZERO).expect("assigned partitions can be sought in");
        }
    }
    shared.recorder.polls(seen.polls);
    seen.errors
}

fn offsets(places: &[Place], offset: impl Fn(&Place) -> i64) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for place in places {
        let at = Offset::Offset(offset(place));
        list.add_partition_offset(&place.0, place.1, at).expect("a sound partition");
    }
    list
}

/// What a member of the group has to say.
#[derive(Debug, Clone, Default)]
pub struct GroupReport {
    /// How often its partitions changed.
    pub rebalances: u64,
    /// The highest offset that it has committed, by partition; each was acknowledged.
    pub commits: BTreeMap<Place, i64>,
    /// Errors that it was given instead of records.
    pub errors: Vec<String>,
}

/// A member of the group that reads all topics.
#[derive(Debug)]
pub(super) struct Member {
    rebalances: Arc<AtomicU64>,
    thread: JoinHandle<GroupReport>,
}

impl Member {
    pub(super) fn start(id: u32, group: &str, options: &Options, shared: &Arc<Shared>) -> Self {
        let mut config = client_config(&options.bootstrap, &format!("member-{id}"));
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "30000")
            .set("heartbeat.interval.ms", "500")
            .set("fetch.wait.max.ms", "100");
        let rebalances = Arc::new(AtomicU64::new(0));
        let context = Quiet { rebalances: Arc::clone(&rebalances) };
        let client: BaseConsumer<Quiet> =
            config.create_with_context(context).expect("a consumer can be made");
        let topics: Vec<String> = options.topics.iter().map(|(topic, _)| topic.clone()).collect();
        let (shared, counter) = (Arc::clone(shared), Arc::clone(&rebalances));
        let thread = std::thread::spawn(move || read_as_member(id, &client, &topics, &shared, &counter));
        Self { rebalances, thread }
    }

    pub(super) fn rebalances(&self) -> u64 {
        self.rebalances.load(Ordering::SeqCst)
    }

    pub(super) fn join(self) -> GroupReport {
        self.thread.join().expect("a member ends well")
    }
}

fn read_as_member(
    id: u32,
    client: &BaseConsumer<Quiet>,
    topics: &[String],
    shared: &Shared,
    rebalances: &AtomicU64,
) -> GroupReport {
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    client.subscribe(&topics).expect("a group can be joined");
    let (mut seen, mut report) = (Seen::default(), GroupReport::default());
    let mut commit_at = Instant::now() + COMMIT_INTERVAL;
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end) {
        if end.is_none() && shared.stopping.load(Ordering::SeqCst) {
            end = Some(Instant::now() + AFTERWARDS);
        }
        let polled = client.poll(POLL_TIMEOUT);
        // Rebalances are served inside poll, before what it gives.
        let assignment = rebalances.load(Ordering::SeqCst);
        if let Some(polled) = polled {
            seen.take(shared, id, assignment, polled);
        }
        if Instant::now() > commit_at {
            commit_at = Instant::now() + COMMIT_INTERVAL;
            commit(client, &mut report);
        }
    }
    commit(client, &mut report);
    report.rebalances = rebalances.load(Ordering::SeqCst);
    report.errors = seen.errors;
    shared.recorder.polls(seen.polls);
    report
}

/// Commits the positions. A refusal is no error: after a rebalance the partitions are another member's.
fn commit(client: &BaseConsumer<Quiet>, report: &mut GroupReport) {
    let Ok(positions) = client.position() else { return };
    let mut list = TopicPartitionList::new();
    for element in positions.elements() {
        if let Offset::Offset(offset) = element.offset() {
            let added =
                list.add_partition_offset(element.topic(), element.partition(), Offset::Offset(offset));
            added.expect("a sound partition");
        }
    }
    if list.count() == 0 || client.commit(&list, CommitMode::Sync).is_err() {
        return;
    }
    for element in list.elements() {
        if let Offset::Offset(offset) = element.offset() {
            let place = (element.topic().to_string(), element.partition());
            let highest = report.commits.entry(place).or_default();
            *highest = (*highest).max(offset);
        }
    }
}

/// What a group has committed, as a client that was never a member is told.
pub(super) fn committed(bootstrap: &str, group: &str, places: &[Place]) -> BTreeMap<Place, i64> {
    let mut config = client_config(bootstrap, "committed");
    let client: BaseConsumer = config.set("group.id", group).create().expect("a consumer can be made");
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    let asked_at = Instant::now();
    let answer = loop {
        match client.committed_offsets(list.clone(), COMMITTED_TIMEOUT) {
            Ok(answer) => break answer,
            // While the coordinator moves or loads; librdkafka leaves the next attempt to its caller.
            Err(_) if asked_at.elapsed() < COMMITTED_TIMEOUT => {}
            Err(error) => panic!("committed offsets are not answered: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset()
    {
        Offset::Offset(offset) => Some(((element.topic().to_string(), element.partition()), offset)),
        _ => None,
    };
    answer.elements().iter().filter_map(offset).collect()
}
