//! Consume mode: threads with a consumer each read all partitions from their start, or as the
//! members of a group. The run begins with the first record, so that connecting and joining are
//! not measured. It ends with its duration, with `--message-count`, or when nothing has come for
//! a second; then the elapsed time ends with the last record.
//!
//! The latency is a record's age on receipt: since its intended time if this tool sent it, else
//! since its timestamp.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;

use crate::cli::Options;
use crate::client::{Log, assign, consumer, high_watermarks};
use crate::intake::Intake;
use crate::run::{Event, Run, spawn};
use crate::validation::Checker;

const POLL: Duration = Duration::from_millis(20);

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
                let mut intake = Intake::new(&run, options.validate);
                let result = read(&consumer, &mut intake, &run);
                let checker = intake.finish();
                run.tell(Event::Done(result));
                checker
            };
            spawn(format!("consume-{index}"), work)
        })
        .collect()
}

fn read(consumer: &BaseConsumer<Log>, intake: &mut Intake, run: &Run) -> Result<()> {
    while !run.stopped() {
        let message = consumer.poll(POLL).transpose().context("the consumer failed")?;
        let now_ns = run.clock.now_ns();
        let goes_on = match message {
            Some(message) => {
                let timestamp_ms = message.timestamp().to_millis().unwrap_or(0);
                intake.record(now_ns, message.partition(), timestamp_ms, message.payload().unwrap_or(&[]))
            }
            None => intake.idle(now_ns)?,
        };
        if !goes_on {
            break;
        }
    }
    Ok(())
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
