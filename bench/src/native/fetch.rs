//! Reading over our own client: a fetcher serves one thread's consumers. A consumer has connections of its own, and one Fetch on
//! each at a time. The caller drives it, alone or beside a producer.

use anyhow::{Context, Result, bail};
use chronik_net::codec::{
    ApiKey, ErrorCode, FetchPartition, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic,
    StrBytes, TopicRef,
};

use super::batch::read_records;
use super::channel::Finished;
use super::cluster::{Cluster, Event as ClusterEvent};
use super::{FETCH_VERSION, NANOS_PER_MILLISECOND};
use crate::cli::Options;
use crate::run::Clock;
use crate::source::{Polled, Received};

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
pub struct Fetcher {
    topic: String,
    clock: Clock,
    cluster: Cluster<()>,
    /// By partition; none for those that other threads read.
    positions: Vec<Option<Position>>,
    fetch_count: usize,
}

/// The consumer of each partition among those of thread `index`: partitions go to consumers in
/// turn, and consumers to threads.
pub fn lanes(
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

impl Fetcher {
    /// Connects to the leaders of the partitions that have a lane and asks for what is there from `starts` on.
    pub fn connect(
        options: &Options,
        clock: Clock,
        lanes: Vec<Option<usize>>,
        starts: &[i64],
    ) -> Result<Self> {
        let position = |(lane, start): (&Option<usize>, &i64)| {
            lane.map(|_| Position { next_offset: *start, retry_at_ns: 0 })
        };
        let mut fetcher = Self {
            positions: lanes.iter().zip(starts).map(position).collect(),
            cluster: Cluster::connect(options, lanes, &clock)?,
            topic: options.topic.clone(),
            clock,
            fetch_count: 0,
        };
        fetcher.fetch();
        Ok(fetcher)
    }

    /// The brokers, for who waits for more than this fetcher.
    pub fn cluster(&self) -> &Cluster<()> {
        &self.cluster
    }

    /// Waits for an answer, at most `timeout_ns`; gives the records that have come to `each` until it answers false; asks for more.
    pub fn poll(&mut self, timeout_ns: u64, each: &mut impl FnMut(Received<'_>) -> bool) -> Result<Polled> {
        self.cluster.wait(timeout_ns)?;
        let now_ns = self.clock.now_ns();
        self.cluster.turn(now_ns)?;
        let mut found = Polled::Nothing;
        while let Some(event) = self.cluster.next_event(now_ns) {
            match self.handle(event, each)? {
                Polled::Nothing => {}
                Polled::Taken => found = Polled::Taken,
                Polled::Refused => return Ok(Polled::Refused),
            }
        }
        self.fetch();
        Ok(found)
    }

    /// Asks on each channel that has no request outstanding for all partitions it leads.
    fn fetch(&mut self) {
        let now_ns = self.clock.now_ns();
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
                let request = fetch_request(&self.topic, partitions);
                let api = (ApiKey::Fetch, FETCH_VERSION);
                // A loss has nothing to give back: what was not read is asked for again.
                self.cluster.send(channel, api, |header| request.encode(header), |_| (), true, now_ns);
            }
        }
    }

    fn handle(
        &mut self,
        event: ClusterEvent<()>,
        each: &mut impl FnMut(Received<'_>) -> bool,
    ) -> Result<Polled> {
        let ClusterEvent::Finished(Finished { answer: Some(mut answer), .. }) = event else {
            return Ok(Polled::Nothing);
        };
        let now_ns = self.clock.now_ns();
        let response =
            FetchResponse::decode(&mut answer, FETCH_VERSION).context("unreadable answer to Fetch")?;
        if response.error != ErrorCode::None && !response.error.retriable() {
            bail!("the broker refuses to be read: {}", response.error);
        }
        let mut found = Polled::Nothing;
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            match self.received(partition, now_ns, each)? {
                Polled::Nothing => {}
                Polled::Taken => found = Polled::Taken,
                Polled::Refused => return Ok(Polled::Refused),
            }
        }
        Ok(found)
    }

    fn received(
        &mut self,
        answer: &FetchPartitionResponse,
        now_ns: u64,
        each: &mut impl FnMut(Received<'_>) -> bool,
    ) -> Result<Polled> {
        let partition = answer.partition;
        let slot = usize::try_from(partition).ok().and_then(|at| self.positions.get_mut(at));
        let Some(Some(position)) = slot else {
            bail!("the broker answered for the partition {partition} that was not asked");
        };
        let name = || format!("{}-{partition}", self.topic);
        match answer.error {
            ErrorCode::None => {}
            error if error.retriable() => {
                position.retry_at_ns = now_ns + RETRY_NS;
                self.cluster.refresh(now_ns);
                return Ok(Polled::Nothing);
            }
            ErrorCode::OffsetOutOfRange => bail!(
                "{} has no offset {} any more: records were deleted before they were read",
                name(),
                position.next_offset
            ),
            error => bail!("cannot read {}: {error}", name()),
        }
        let mut found = Polled::Nothing;
        for bytes in answer.records.iter().filter(|bytes| !bytes.is_empty()) {
            position.next_offset =
                read_records(bytes, position.next_offset, &name, |offset, timestamp_ms, value| {
                    let is_taken = each(Received { now_ns, partition, offset, timestamp_ms, value });
                    found = if is_taken { Polled::Taken } else { Polled::Refused };
                    is_taken
                })?;
            if found == Polled::Refused {
                break;
            }
        }
        Ok(found)
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
