//! Consumers that read given partitions from known offsets up to a point: where the producers of the run have ended (end-to-end
//! mode), or offsets known in advance (backlog mode, and what produce mode reads back).
//!
//! The end is found by offsets and not by counting, so that a record sent twice cannot hide one that is missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::consumer::BaseConsumer;

use crate::cli::{Client, Options};
use crate::client::{Log, high_watermark, high_watermarks};
use crate::intake::age_ns;
use crate::interrupt;
use crate::payload::{Header, read_header};
use crate::run::{Clock, Event, Run, spawn};
use crate::schedule::Window;
use crate::source::{Polled, Received, Source};
use crate::stats::{Part, Recorder};
use crate::validation::Checker;

/// Up to where a follower reads, and what it takes for a record's latency.
#[derive(Clone)]
pub enum Until {
    /// What the run's producers have written when they have ended. Only their records count, each from its intended time. The
    /// consumer is one that is asked for offsets; it is connected, so that the answer is quick.
    Produced(Arc<BaseConsumer<Log>>),
    /// These next offsets, one for each partition of the topic. All records count; the latency is a record's age.
    Offsets(Arc<Vec<i64>>),
}

/// A consumer that is connected and knows its partitions.
pub struct Follower {
    source: Source,
    topic: String,
    /// The next offset that is wanted of each partition.
    next: BTreeMap<i32, i64>,
    idle_max: Duration,
}

/// `--consumers` of them, at most one a partition, which share the partitions of `starts`.
pub fn prepare(options: &Options, clock: Clock, starts: &[i64]) -> Result<Vec<Follower>> {
    let count = options.consumers.unwrap_or(options.clients).min(starts.len() as u32).max(1) as usize;
    let sources = Source::shared(options, clock, starts, (count, count))?;
    let follower = |(index, source)| Follower {
        source,
        topic: options.topic.clone(),
        next: (0..).zip(starts.iter().copied()).skip(index).step_by(count).collect(),
        idle_max: Duration::from_millis(options.message_timeout_ms.into()),
    };
    Ok(sources.into_iter().enumerate().map(follower).collect())
}

/// Reads what lies between these offsets and the topic's end and checks the records of a run. For produce mode. Nothing if a signal
/// asks for the end meanwhile. It is librdkafka that reads, also what our own client wrote.
pub fn read_back(options: &Options, run: u64, starts: &[i64]) -> Result<Option<Checker>> {
    let until = Until::Offsets(Arc::new(high_watermarks(options, starts.len() as i32)?));
    let mut checker = Checker::new(Some(run));
    let alone = Options { client: Client::Librdkafka, consumers: Some(1), ..options.clone() };
    for follower in prepare(&alone, Clock::start(), starts)? {
        let check = |record: Option<&Received<'_>>| {
            if let Some(record) = record {
                checker.record(record.partition, record.value);
            }
            !interrupt::asked()
        };
        follower.read(&until, || true, check).context("cannot read the topic back")?;
    }
    Ok(Some(checker).filter(|_| !interrupt::asked()))
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
        let checked_run = matches!(until, Until::Produced(_)).then_some(run.id);
        let mut checker = options.validate.then(|| Checker::new(checked_run));
        let work = move || {
            let mut recorder = run.recorder(Part::Main, window);
            let each = |record: Option<&Received<'_>>| {
                recorder.advance(record.map_or_else(|| run.clock.now_ns(), |record| record.now_ns));
                record.inspect(|record| received(record, &run, &until, &mut recorder, checker.as_mut()));
                // What producers wrote is read to its end even if the run is stopped: only then is it known what was lost.
                matches!(until, Until::Produced(_)) || !run.stopped()
            };
            let result = self.read(&until, || run.all_produced(), each);
            recorder.finish();
            run.reader_ended();
            run.tell(Event::Done(result));
            checker
        };
        spawn("follow".to_owned(), work)
    }

    /// Gives each record to `each`, and nothing where nothing has come for a moment, until the end or until it answers false.
    fn read(
        mut self,
        until: &Until,
        all_produced: impl Fn() -> bool,
        mut each: impl FnMut(Option<&Received<'_>>) -> bool,
    ) -> Result<()> {
        let mut idle_since = Instant::now();
        let mut ends = None;
        while !self.has_ended(until, &mut ends, &all_produced)? {
            let next = &mut self.next;
            let polled = self.source.poll(|record| {
                // In this order: a record that the checker refuses has been read all the same.
                next.insert(record.partition, record.offset + 1);
                each(Some(&record))
            })?;
            match polled {
                Polled::Refused => return Ok(()),
                Polled::Taken => idle_since = Instant::now(),
                Polled::Nothing if !each(None) => return Ok(()),
                Polled::Nothing if ends.is_some() && idle_since.elapsed() > self.idle_max => {
                    bail!("records that were acknowledged did not come within {:?}", self.idle_max);
                }
                Polled::Nothing => {}
            }
        }
        Ok(())
    }

    /// Whether each partition was read up to its end, once that is known: then it is kept in `ends`.
    fn has_ended(
        &self,
        until: &Until,
        ends: &mut Option<BTreeMap<i32, i64>>,
        all_produced: &impl Fn() -> bool,
    ) -> Result<bool> {
        if ends.is_none() {
            let partitions = self.next.keys().copied();
            *ends = match until {
                Until::Offsets(ends) => Some(partitions.map(|at| (at, ends[at as usize])).collect()),
                Until::Produced(asked) if all_produced() => {
                    let end = |at| Ok((at, high_watermark(asked, &self.topic, at)?));
                    Some(partitions.map(end).collect::<Result<_>>()?)
                }
                Until::Produced(_) => None,
            };
        }
        let Some(ends) = ends else { return Ok(false) };
        Ok(self.next.iter().all(|(partition, next)| *next >= ends[partition]))
    }
}

fn received(
    record: &Received<'_>,
    run: &Run,
    until: &Until,
    recorder: &mut Recorder,
    checker: Option<&mut Checker>,
) {
    let (now_ns, size) = (record.now_ns, record.value.len());
    let header = match checker {
        Some(checker) => checker.record(record.partition, record.value),
        None => read_header(record.value).ok(),
    };
    match (until, header) {
        (Until::Produced(_), Some(Header { run: of, intended_wall_ns, .. })) if of == run.id => {
            recorder.complete(now_ns, run.clock.intended_ns(intended_wall_ns), size);
        }
        (Until::Produced(_), _) => {}
        (Until::Offsets(_), header) => {
            let age_ns = age_ns(run, header, record.timestamp_ms, now_ns);
            recorder.complete_with_latency(now_ns, now_ns, age_ns, size);
        }
    }
}
