//! Consumers that read given partitions from known offsets up to a point: where the producers of the run have ended
//! (end-to-end mode), or offsets known in advance (backlog mode).
//!
//! The end is found by offsets and not by counting, so that a record sent twice cannot hide one that is missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::Offset;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Message};

use crate::cli::Options;
use crate::client::{Log, assign, consumer, high_watermark};
use crate::intake::age_ns;
use crate::payload::{Header, read_header};
use crate::run::{Event, Run, spawn};
use crate::schedule::Window;
use crate::stats::{Part, Recorder};
use crate::validation::Checker;

const POLL: Duration = Duration::from_millis(20);

/// Up to where a follower reads, and what it takes for a record's latency.
#[derive(Clone, Debug)]
pub enum Until {
    /// What the run's producers have written when they have ended. Only their records count, each from its intended time.
    Produced,
    /// These next offsets, one for each partition of the topic. All records count; the latency is a record's age.
    Offsets(Arc<Vec<i64>>),
}

/// A consumer that is connected and knows its partitions.
pub struct Follower {
    consumer: BaseConsumer<Log>,
    topic: String,
    /// The next offset that is wanted of each partition.
    next: BTreeMap<i32, i64>,
    /// Where it ends, once that is known.
    ends: Option<BTreeMap<i32, i64>>,
    idle_max: Duration,
}

/// `--consumers` of them, at most one a partition, which share the partitions of `starts`.
pub fn prepare(options: &Options, starts: &[i64]) -> Result<Vec<Follower>> {
    let count = options.consumers.unwrap_or(options.clients).min(starts.len() as u32).max(1) as usize;
    let follower = |index| {
        let next: BTreeMap<i32, i64> = (0..).zip(starts.iter().copied()).skip(index).step_by(count).collect();
        let consumer = consumer(options)?;
        let assigned: Vec<_> = next.iter().map(|(partition, at)| (*partition, Offset::Offset(*at))).collect();
        assign(&consumer, &options.topic, &assigned)?;
        let idle_max = Duration::from_millis(options.message_timeout_ms.into());
        Ok(Follower { consumer, topic: options.topic.clone(), next, ends: None, idle_max })
    };
    (0..count).map(follower).collect()
}

impl Follower {
    /// Starts reading; the thread reports to the run when it is done.
    pub fn start(
        self,
        options: &Options,
        run: &Arc<Run>,
        window: Window,
        until: Until,
    ) -> Result<JoinHandle<Option<Checker>>> {
        let run = Arc::clone(run);
        let checked_run = matches!(until, Until::Produced).then_some(run.id);
        let mut checker = options.validate.then(|| Checker::new(checked_run));
        let work = move || {
            let mut recorder = run.recorder(Part::Main, window);
            let result = self.read(&run, &until, &mut recorder, checker.as_mut());
            recorder.finish();
            run.reader_ended();
            run.tell(Event::Done(result));
            checker
        };
        spawn("follow".to_owned(), work)
    }

    fn read(
        mut self,
        run: &Run,
        until: &Until,
        recorder: &mut Recorder,
        mut checker: Option<&mut Checker>,
    ) -> Result<()> {
        let mut idle_since = Instant::now();
        while !self.has_ended(run, until)? {
            let message = self.consumer.poll(POLL).transpose().context("the consumer failed")?;
            let now_ns = run.clock.now_ns();
            recorder.advance(now_ns);
            if let Some(message) = message {
                idle_since = Instant::now();
                // In this order: a record that the checker refuses has been read all the same.
                self.next.insert(message.partition(), message.offset() + 1);
                received(&message, run, until, recorder, checker.as_deref_mut());
            } else if run.all_produced() && idle_since.elapsed() > self.idle_max {
                bail!("records that were acknowledged did not come within {:?}", self.idle_max);
            }
        }
        Ok(())
    }

    fn has_ended(&mut self, run: &Run, until: &Until) -> Result<bool> {
        if self.ends.is_none() {
            self.ends = match until {
                Until::Offsets(ends) => {
                    Some(self.next.keys().map(|partition| (*partition, ends[*partition as usize])).collect())
                }
                Until::Produced if run.all_produced() => {
                    let end = |partition: &i32| {
                        Ok((*partition, high_watermark(&self.consumer, &self.topic, *partition)?))
                    };
                    Some(self.next.keys().map(end).collect::<Result<_>>()?)
                }
                Until::Produced => None,
            };
        }
        let Some(ends) = &self.ends else { return Ok(false) };
        Ok(self.next.iter().all(|(partition, next)| *next >= ends[partition]))
    }
}

fn received(
    message: &BorrowedMessage<'_>,
    run: &Run,
    until: &Until,
    recorder: &mut Recorder,
    checker: Option<&mut Checker>,
) {
    let now_ns = run.clock.now_ns();
    let value = message.payload().unwrap_or(&[]);
    let header = match checker {
        Some(checker) => checker.record(message.partition(), value),
        None => read_header(value).ok(),
    };
    match (until, header) {
        (Until::Produced, Some(Header { run: of, intended_wall_ns, .. })) if of == run.id => {
            let intended_ns = run.clock.since_base_of_wall_ns(intended_wall_ns).max(0) as u64;
            recorder.complete(now_ns, intended_ns, value.len());
        }
        (Until::Produced, _) => {}
        (Until::Offsets(_), header) => {
            let timestamp_ms = message.timestamp().to_millis().unwrap_or(0);
            let age_ns = age_ns(run, header, timestamp_ms, now_ns);
            recorder.complete_with_latency(now_ns, now_ns, age_ns, value.len());
        }
    }
}
