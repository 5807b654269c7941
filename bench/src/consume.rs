//! Consume mode: threads read all partitions from their start, or as the members of a group. The run begins with the first
//! record, so that connecting and joining are not measured. It ends with its duration, with `--message-count`, or when all that was
//! there at its start has been read and nothing has come for a second; then the elapsed time ends with the last record.
//!
//! The latency is a record's age on receipt: since its intended time if this tool sent it, else
//! since its timestamp.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;

use crate::cli::Options;
use crate::client::{consumer, watermarks};
use crate::intake::{Intake, Unread};
use crate::run::{Event, Run, spawn};
use crate::source::{Polled, Received, Source};
use crate::validation::Checker;

/// Starts the consumers; each thread reports to the run when it is done.
pub fn start(options: &Options, run: &Arc<Run>, partitions: i32) -> Result<Vec<JoinHandle<Option<Checker>>>> {
    let (sources, unread) = sources(options, run, partitions)?;
    let begin = |(index, mut source): (usize, Source)| {
        let (validate, run, unread) = (options.validate, Arc::clone(run), unread.clone());
        let work = move || {
            let mut intake = Intake::new(&run, validate, unread);
            let result = read(&mut source, &mut intake, &run);
            let checker = intake.finish();
            run.tell(Event::Done(result));
            checker
        };
        spawn(format!("consume-{index}"), work)
    };
    sources.into_iter().enumerate().map(begin).collect()
}

/// As many consumers as there are tasks, at most one for each partition; and what they have to read, which the members of a
/// group do not know.
fn sources(options: &Options, run: &Run, partitions: i32) -> Result<(Vec<Source>, Option<Arc<Unread>>)> {
    let count = options.concurrency.min(partitions as u32) as usize;
    if options.consumer_group.is_some() {
        let members: Result<_> = (0..count).map(|_| Source::member(options, run.clock)).collect();
        return Ok((members?, None));
    }
    let found = watermarks(&consumer(options)?, &options.topic, partitions)?;
    let unread = Unread::new(found.iter().map(|(first, next)| next - first).sum());
    let starts: Vec<i64> = found.into_iter().map(|(first, _)| first).collect();
    let sources = Source::shared(options, run.clock, &starts, (count, options.clients as usize))?;
    Ok((sources, Some(unread)))
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
