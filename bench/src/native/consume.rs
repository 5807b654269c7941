//! Consume mode over our own client. Each of `--clients` is a thread with an event loop; the
//! consumers, of which there are `--concurrency`, are shared out among the threads. A consumer
//! has connections of its own, and one Fetch on each at a time.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use chronik_net::codec::{
    ApiKey, ErrorCode, FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic,
    StrBytes, TopicRef,
};

use super::batch::read_records;
use super::channel::Finished;
use super::cluster::{Cluster, Event as ClusterEvent};
use super::{FETCH_VERSION, NANOS_PER_MILLISECOND, SLEEP_NS_MAX};
use crate::cli::Options;
use crate::client::{consumer, watermarks};
use crate::intake::Intake;
use crate::run::{Event, Run, spawn};
use crate::validation::Checker;

/// How long a broker may wait for records.
const MAX_WAIT_MS: i32 = 500;
/// Bytes of one answer.
const ANSWER_BYTES_MAX: i32 = 50 << 20;
/// Bytes of one partition in it.
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// How long a partition that could not be read is left alone, as with librdkafka here.
const RETRY_NS: u64 = 20 * NANOS_PER_MILLISECOND;

/// Reading one partition.
#[derive(Clone, Copy)]
struct Position {
    next_offset: i64,
    retry_at_ns: u64,
}

/// The consumers of one thread.
struct Reader {
    options: Options,
    run: Arc<Run>,
    intake: Intake,
    cluster: Cluster<()>,
    /// By partition; none for those that other threads read.
    positions: Vec<Option<Position>>,
    fetch_count: usize,
}

/// Starts the consumers' threads; each reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>, partitions: i32) -> Result<Vec<JoinHandle<Option<Checker>>>> {
    let consumer_count = options.concurrency.min(partitions as u32) as usize;
    let thread_count = consumer_count.min(options.clients as usize);
    let starts = watermarks(&consumer(options)?, &options.topic, partitions)?;
    (0..thread_count)
        .map(|index| {
            let lanes = lanes(index, thread_count, consumer_count, starts.len());
            let position = |(lane, (first, _)): (&Option<usize>, &(i64, i64))| {
                lane.map(|_| Position { next_offset: *first, retry_at_ns: 0 })
            };
            let mut reader = Reader {
                intake: Intake::new(run, options.validate),
                positions: lanes.iter().zip(&starts).map(position).collect(),
                cluster: Cluster::connect(options, lanes, &run.clock)?,
                options: options.clone(),
                run: Arc::clone(run),
                fetch_count: 0,
            };
            let work = move || {
                let result = reader.read();
                let checker = reader.intake.finish();
                reader.run.tell(Event::Done(result));
                checker
            };
            spawn(format!("consume-{index}"), work)
        })
        .collect()
}

/// The consumer of each partition among those of thread `index`: partitions go to consumers in
/// turn, and consumers to threads.
fn lanes(
    index: usize,
    thread_count: usize,
    consumer_count: usize,
    partition_count: usize,
) -> Vec<Option<usize>> {
    let consumer_of = |partition: usize| partition % consumer_count;
    (0..partition_count)
        .map(|partition| (consumer_of(partition) % thread_count == index).then(|| consumer_of(partition)))
        .collect()
}

impl Reader {
    /// The event loop: until the window is over, or the topic.
    fn read(&mut self) -> Result<()> {
        while !self.run.stopped() {
            let now_ns = self.run.clock.now_ns();
            self.cluster.turn(now_ns)?;
            while let Some(event) = self.cluster.next_event(now_ns) {
                if !self.handle(event)? {
                    return Ok(());
                }
            }
            if !self.intake.idle(self.run.clock.now_ns())? {
                return Ok(());
            }
            self.fetch();
            self.cluster.wait(SLEEP_NS_MAX)?;
        }
        Ok(())
    }

    /// Asks on each channel that has no request outstanding for all partitions it leads.
    fn fetch(&mut self) {
        let now_ns = self.run.clock.now_ns();
        let mut wanted: Vec<Vec<FetchPartition>> = Vec::new();
        wanted.resize_with(self.cluster.channel_count(), Vec::new);
        for (partition, position) in self.positions.iter().enumerate() {
            let (Some(position), Some(channel)) = (position, self.cluster.leader(partition)) else {
                continue;
            };
            if position.retry_at_ns <= now_ns && self.cluster.in_flight_count(channel) == 0 {
                wanted[channel].push(FetchPartition::from_offset(
                    partition as i32,
                    position.next_offset,
                    PARTITION_BYTES_MAX,
                ));
            }
        }
        for (channel, mut partitions) in wanted.into_iter().enumerate() {
            if !partitions.is_empty() {
                // An answer may be full before the last partition's turn comes: each begins once.
                self.fetch_count += 1;
                let first = self.fetch_count % partitions.len();
                partitions.rotate_left(first);
                let request = fetch_request(&self.options.topic, partitions);
                let api = (ApiKey::Fetch, FETCH_VERSION);
                // A loss has nothing to give back: what was not read is asked for again.
                self.cluster.send(channel, api, |header| request.encode(header), |_| (), true, now_ns);
            }
        }
    }

    /// False when the run is over.
    fn handle(&mut self, event: ClusterEvent<()>) -> Result<bool> {
        let ClusterEvent::Finished(Finished { answer: Some(mut answer), .. }) = event else {
            return Ok(true);
        };
        let now_ns = self.run.clock.now_ns();
        let response =
            FetchResponse::decode(&mut answer, FETCH_VERSION).context("unreadable answer to Fetch")?;
        if response.error != ErrorCode::None && !response.error.retriable() {
            bail!("the broker refuses to be read: {}", response.error);
        }
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            if !self.received(partition, now_ns)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn received(&mut self, answer: &FetchPartitionResponse, now_ns: u64) -> Result<bool> {
        let slot = usize::try_from(answer.partition).ok().and_then(|at| self.positions.get_mut(at));
        let Some(Some(position)) = slot else {
            bail!("the broker answered for the partition {} that was not asked", answer.partition);
        };
        let name = || format!("{}-{}", self.options.topic, answer.partition);
        match answer.error {
            ErrorCode::None => {}
            error if error.retriable() => {
                position.retry_at_ns = now_ns + RETRY_NS;
                self.cluster.refresh(now_ns);
                return Ok(true);
            }
            ErrorCode::OffsetOutOfRange => bail!(
                "{} has no offset {} any more: records were deleted before they were read",
                name(),
                position.next_offset
            ),
            error => bail!("cannot read {}: {error}", name()),
        }
        for bytes in answer.records.iter().filter(|bytes| !bytes.is_empty()) {
            let mut goes_on = true;
            position.next_offset =
                read_records(bytes, position.next_offset, &name, |timestamp_ms, value| {
                    goes_on = self.intake.record(now_ns, answer.partition, timestamp_ms, value);
                    goes_on
                })?;
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn fetch_request(topic: &str, partitions: Vec<FetchPartition>) -> FetchRequest {
    let topic = TopicRef::Name(StrBytes::from_string(topic.to_owned()));
    FetchRequest {
        max_wait_ms: MAX_WAIT_MS,
        min_bytes: 1,
        max_bytes: ANSWER_BYTES_MAX,
        topics: vec![FetchTopic { topic, partitions }],
        ..FetchRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_one_reader() {
        for (thread_count, consumer_count, partition_count) in [(1, 1, 3), (2, 3, 7), (3, 3, 3), (1, 4, 9)] {
            let threads: Vec<_> = (0..thread_count)
                .map(|index| lanes(index, thread_count, consumer_count, partition_count))
                .collect();
            for partition in 0..partition_count {
                let readers: Vec<usize> = threads.iter().filter_map(|lanes| lanes[partition]).collect();
                assert_eq!(readers, [partition % consumer_count]);
            }
            assert!(threads.iter().all(|lanes| lanes.iter().any(Option::is_some)));
        }
    }
}
