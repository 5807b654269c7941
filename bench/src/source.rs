//! Where a consumer's records come from: librdkafka, or our own client. What is done with them does not depend on it.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;

use crate::cli::{Client, Options};
use crate::client::{Log, assign, consumer};
use crate::native::fetch::{Fetcher, lanes};
use crate::run::Clock;

/// How long one look for records lasts; they are given at once, this only bounds how late the end of the run is noticed.
const POLL: Duration = Duration::from_millis(20);

/// A record that was received.
pub struct Received<'a> {
    /// When, nanoseconds since the clock's base.
    pub now_ns: u64,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp_ms: i64,
    /// Its value; empty where it has none.
    pub value: &'a [u8],
}

/// What one look for records found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Nothing has come.
    Nothing,
    /// Records, and all were taken.
    Taken,
    /// A record that was not taken: no more are wanted.
    Refused,
}

/// One thread's records.
pub struct Source {
    clock: Clock,
    client: Reading,
}

enum Reading {
    Librdkafka(BaseConsumer<Log>),
    Native(Box<Fetcher>),
}

impl Source {
    /// A member of the consumer group, which is given its partitions.
    pub fn member(options: &Options, clock: Clock) -> Result<Self> {
        let consumer = consumer(options)?;
        consumer.subscribe(&[&options.topic]).context("cannot subscribe")?;
        Ok(Self { clock, client: Reading::Librdkafka(consumer) })
    }

    /// `consumer_count` consumers that share the partitions of `starts` and read each from there. With librdkafka each has a thread;
    /// with our own client so do `thread_count` at most, which share out the consumers.
    pub fn shared(
        options: &Options,
        clock: Clock,
        starts: &[i64],
        (consumer_count, thread_count): (usize, usize),
    ) -> Result<Vec<Self>> {
        let thread_count = match options.client {
            Client::Librdkafka => consumer_count,
            Client::Native => consumer_count.min(thread_count),
        };
        let source = |index| {
            let lanes = lanes(index, thread_count, consumer_count, starts.len());
            let client = match options.client {
                Client::Librdkafka => Reading::Librdkafka(assigned(options, &lanes, starts)?),
                Client::Native => Reading::Native(Box::new(Fetcher::connect(options, clock, lanes, starts)?)),
            };
            Ok(Self { clock, client })
        };
        (0..thread_count).map(source).collect()
    }

    /// One consumer that reads all partitions of `starts`, each from there.
    pub fn of_all(options: &Options, clock: Clock, starts: &[i64]) -> Result<Self> {
        let only = Self::shared(options, clock, starts, (1, 1))?.pop();
        only.context("one consumer was asked for")
    }

    /// Gives the records that have come to `each` until it answers false; waits a moment for the first.
    pub fn poll(&mut self, mut each: impl FnMut(Received<'_>) -> bool) -> Result<Polled> {
        let consumer = match &mut self.client {
            Reading::Native(fetcher) => return fetcher.poll(POLL.as_nanos() as u64, &mut each),
            Reading::Librdkafka(consumer) => consumer,
        };
        let Some(message) = consumer.poll(POLL).transpose().context("the consumer failed")? else {
            return Ok(Polled::Nothing);
        };
        let received = Received {
            now_ns: self.clock.now_ns(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            value: message.payload().unwrap_or(&[]),
        };
        Ok(if each(received) { Polled::Taken } else { Polled::Refused })
    }
}

/// A consumer with the partitions that have a lane.
fn assigned(options: &Options, lanes: &[Option<usize>], starts: &[i64]) -> Result<BaseConsumer<Log>> {
    let consumer = consumer(options)?;
    let partitions = (0..).zip(lanes.iter().zip(starts));
    let mine: Vec<_> = partitions
        .filter_map(|(partition, (lane, start))| lane.map(|_| (partition, Offset::Offset(*start))))
        .collect();
    assign(&consumer, &options.topic, &mine)?;
    Ok(consumer)
}
