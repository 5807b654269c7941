//! Consume mode: threads with a consumer each read all partitions from their start, or as the
//! members of a group. The run begins with the first record, so that connecting and joining are
//! not measured. It ends with its duration, with `--message-count`, or when nothing has come for
//! a second; then the elapsed time ends with the last record.
//!
//! The latency is a record's age on receipt: since its intended time if this tool sent it, else
//! since its timestamp.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};

use crate::cli::Options;
use crate::client::{Log, assign, consumer, high_watermarks};
use crate::payload::{Header, read_header};
use crate::run::{Event, Run};
use crate::schedule::Window;
use crate::stats::{Part, Recorder};
use crate::validation::Checker;

const POLL: Duration = Duration::from_millis(20);
/// A topic that gives nothing for this long is at its end.
const IDLE_END_NS: u64 = 1_000_000_000;
/// How long the first record may take.
const FIRST_RECORD_TIMEOUT_NS: u64 = 30_000_000_000;

/// Starts the consumers; each reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>, partitions: i32) -> Result<Vec<JoinHandle<Option<Checker>>>> {
    let count = options.concurrency.min(partitions as u32);
    (0..count)
        .map(|index| {
            let consumer = consumer(options)?;
            if options.consumer_group.is_some() {
                consumer.subscribe(&[&options.topic]).context("cannot subscribe")?;
            } else {
                let mine: Vec<_> = (0..partitions)
                    .filter(|p| *p as u32 % count == index)
                    .map(|p| (p, Offset::Beginning))
                    .collect();
                assign(&consumer, &options.topic, &mine)?;
            }
            let (options, run) = (options.clone(), Arc::clone(run));
            let work = move || {
                let mut thread = Reader { run: &run, checker: options.validate.then(|| Checker::new(None)) };
                let result = thread.read(&consumer);
                run.tell(Event::Done(result));
                thread.checker
            };
            thread::Builder::new()
                .name(format!("consume-{index}"))
                .spawn(work)
                .context("cannot start a thread")
        })
        .collect()
}

struct Reader<'a> {
    run: &'a Run,
    checker: Option<Checker>,
}

impl Reader<'_> {
    fn read(&mut self, consumer: &BaseConsumer<Log>) -> Result<()> {
        let mut measuring: Option<(Window, Recorder)> = None;
        let mut last_ns = self.run.clock.now_ns();
        while !self.run.stopped() {
            let message = consumer.poll(POLL).transpose().context("the consumer failed")?;
            let now_ns = self.run.clock.now_ns();
            if message.is_none() && !self.run.has_begun() {
                if now_ns > FIRST_RECORD_TIMEOUT_NS {
                    bail!(
                        "no record came within {} s: is the topic empty?",
                        FIRST_RECORD_TIMEOUT_NS / 1_000_000_000
                    );
                }
                last_ns = now_ns;
                continue;
            }
            let (window, recorder) = measuring.get_or_insert_with(|| {
                let window = self.run.begin();
                (window, self.run.recorder(Part::Main, window))
            });
            let now_ns = self.run.clock.now_ns();
            recorder.advance(now_ns);
            if !message.as_ref().is_none_or(|_| self.run.admit(*window, now_ns)) || now_ns >= window.end_ns {
                break;
            }
            if let Some(message) = message {
                last_ns = now_ns;
                self.received(&message, recorder, now_ns);
            } else if now_ns - last_ns > IDLE_END_NS {
                // Others may still have records; the run ends when all have stopped.
                self.run.end_at_last_record();
                break;
            }
        }
        if let Some((_, recorder)) = measuring {
            recorder.finish();
        }
        Ok(())
    }

    fn received(&mut self, message: &BorrowedMessage<'_>, recorder: &mut Recorder, now_ns: u64) {
        let value = message.payload().unwrap_or(&[]);
        let header = match &mut self.checker {
            Some(checker) => checker.record(message.partition(), value),
            None => read_header(value).ok(),
        };
        recorder.complete_with_latency(
            now_ns,
            now_ns,
            age_ns(self.run, message, header, now_ns),
            value.len(),
        );
    }
}

/// The age of a record that has come: since its intended time if this tool sent it, else since its timestamp.
pub fn age_ns(run: &Run, message: &BorrowedMessage<'_>, header: Option<Header>, now_ns: u64) -> u64 {
    let sent_wall_ns = match header {
        Some(header) => header.intended_wall_ns,
        None => message.timestamp().to_millis().unwrap_or(0).max(0) as u64 * 1_000_000,
    };
    run.clock.wall_ns(now_ns).saturating_sub(sent_wall_ns)
}

/// Reads what lies between two sets of offsets and checks each record. For produce mode.
pub fn read_back(options: &Options, checker: &mut Checker, starts: &[i64]) -> Result<()> {
    let consumer = consumer(options)?;
    let ends = high_watermarks(options, starts.len() as i32)?;
    let from: Vec<_> =
        (0..).zip(starts).map(|(partition, next)| (partition, Offset::Offset(*next))).collect();
    assign(&consumer, &options.topic, &from)?;
    let mut left: Vec<bool> = starts.iter().zip(&ends).map(|(start, end)| start < end).collect();
    let mut idle_polls = 0;
    while left.iter().any(|open| *open) {
        let Some(message) = consumer.poll(POLL).transpose().context("cannot read the topic back")? else {
            idle_polls += 1;
            if idle_polls > READ_BACK_IDLE_POLLS_MAX {
                bail!("reading the topic back came to a halt before its end");
            }
            continue;
        };
        idle_polls = 0;
        let partition = message.partition() as usize;
        checker.record(message.partition(), message.payload().unwrap_or(&[]));
        left[partition] = message.offset() + 1 < ends[partition];
    }
    Ok(())
}

/// 30 seconds without a record.
const READ_BACK_IDLE_POLLS_MAX: u32 = 1_500;
