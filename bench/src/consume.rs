//! Consume mode: threads read all partitions from their start, or as the members of a group. The run begins with the first
//! record, so that connecting and joining are not measured. It ends with its duration, with `--message-count`, or when nothing
//! has come for a second; then the elapsed time ends with the last record.
//!
//! The latency is a record's age on receipt: since its intended time if this tool sent it, else
//! since its timestamp.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;

use crate::cli::Options;
use crate::client::{consumer, watermarks};
use crate::intake::Intake;
use crate::run::{Event, Run, spawn};
use crate::source::{Polled, Received, Source};
use crate::validation::Checker;

/// Starts the consumers; each thread reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>, partitions: i32) -> Result<Vec<JoinHandle<Option<Checker>>>> {
    let begin = |(index, mut source): (usize, Source)| {
        let (validate, run) = (options.validate, Arc::clone(run));
        let work = move || {
            let mut intake = Intake::new(&run, validate);
            let result = read(&mut source, &mut intake, &run);
            let checker = intake.finish();
            run.tell(Event::Done(result));
            checker
        };
        spawn(format!("consume-{index}"), work)
    };
    sources(options, run, partitions)?.into_iter().enumerate().map(begin).collect()
}

/// As many consumers as there are tasks, at most one for each partition.
fn sources(options: &Options, run: &Run, partitions: i32) -> Result<Vec<Source>> {
    let count = options.concurrency.min(partitions as u32) as usize;
    if options.consumer_group.is_some() {
        return (0..count).map(|_| Source::member(options, run.clock)).collect();
    }
    let found = watermarks(&consumer(options)?, &options.topic, partitions)?;
    let starts: Vec<i64> = found.into_iter().map(|(first, _)| first).collect();
    Source::shared(options, run.clock, &starts, (count, options.clients as usize))
}

fn read(source: &mut Source, intake: &mut Intake, run: &Run) -> Result<()> {
    while !run.stopped() {
        let take = |record: Received<'_>| {
            intake.record(record.now_ns, record.partition, record.timestamp_ms, record.value)
        };
        let goes_on = match source.poll(take)? {
            Polled::Taken => true,
            Polled::Refused => false,
            Polled::Nothing => intake.idle(run.clock.now_ns())?,
        };
        if !goes_on {
            break;
        }
    }
    Ok(())
}
