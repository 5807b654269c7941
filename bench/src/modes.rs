//! What each mode does: prepares the topic, starts the threads of a run or of two in turn, waits, and makes the report.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{Client, Mode, Options};
use crate::follow::Until;
use crate::interrupt;
use crate::live::Live;
use crate::notes;
use crate::proc::Usage;
use crate::produce::Outcome;
use crate::report::{Beside, Report};
use crate::run::{Event, Measurement, Reporter, Run};
use crate::stats::Part;
use crate::topics::Step;
use crate::validation::{Checker, SequenceSet};
use crate::{client, consume, follow, metadata, native, produce, round_trip, topics};

/// The second half of a mode that has two is not ended by `--duration`, but by being done; or after this long.
const SECOND_HALF_MAX: Duration = Duration::from_secs(3_600);

/// Without a rate each connection of connections mode sends a request once in so many seconds.
const SECONDS_A_REQUEST: u64 = 10;

/// Open files of this process that are no connections of connections mode.
const FILES_BESIDE: u64 = 200;

/// Carries out one run, from the making of its topic to its deletion.
pub fn carry_out(options: &Options, live: Option<&Live>) -> Result<Report> {
    options.check()?;
    if let Some(process_id) = options.broker_pid {
        Usage::read(process_id)
            .with_context(|| format!("--broker-pid {process_id} is no process that can be read"))?;
    }
    if let Some(text) = notes::before(options) {
        // A warning that nobody can read is no reason not to measure.
        let _ = writeln!(std::io::stderr(), "chronik-bench: {text}");
    }
    if options.mode == Mode::Topics {
        return many_topics(options, live);
    }
    let partitions = client::prepare_topic(options)?;
    let measured = match options.mode {
        Mode::Produce => produced(options, partitions, live),
        Mode::Metadata => asked(options, partitions, live),
        Mode::Connections => connections(options, partitions, live),
        Mode::Consume => read(options, partitions, live),
        Mode::RoundTrip => sent_and_received(options, partitions, live),
        Mode::EndToEnd => end_to_end(options, partitions, live),
        Mode::Backlog => backlog(options, partitions, live),
        Mode::Topics | Mode::Scenario => unreachable!("these have no topic of their own"),
    };
    if options.delete_topic_after
        && let Err(error) = client::delete_topic(options)
    {
        // What was measured, or why nothing was, is not lost for it.
        return measured.map(|report| report.with_failure(format!("{error:#}")));
    }
    measured
}

/// A run and the two ends of what its threads tell.
struct Started<'a> {
    run: Arc<Run>,
    events: mpsc::Receiver<Event>,
    reporter: Reporter<'a>,
}

impl<'a> Started<'a> {
    fn new(options: &'a Options, live: Option<&'a Live>) -> Self {
        let (sender, events) = mpsc::channel();
        let run = Run::new(options, sender);
        let reporter = Reporter::new(options, &run, live);
        Self { run, events, reporter }
    }

    fn wait(self, thread_count: usize) -> Result<Measurement> {
        interrupt::expect()?;
        self.reporter.wait(&self.events, thread_count)
    }
}

fn produced(options: &Options, partitions: i32, live: Option<&Live>) -> Result<Report> {
    let started = Started::new(options, live);
    let run = Arc::clone(&started.run);
    let starts = match options.validate {
        true => client::high_watermarks(options, partitions)?,
        false => Vec::new(),
    };
    let threads = start_producers(options, &run, partitions, Part::Main)?;
    let measurement = started.wait(threads.len())?;
    let Outcomes { acknowledged, errors, .. } = outcomes(threads);
    let findings = match options.validate {
        // Who interrupts wants the end, not a check of part of the records.
        true if !measurement.is_interrupted => follow::read_back(options, run.id, &starts)?
            .map(|checker| checker.against_acknowledged(run.id, &acknowledged)),
        _ => None,
    };
    Ok(Report::new(options, partitions, &measurement, Vec::new(), findings, errors))
}

/// Starts producers over the client that the flags name.
fn start_producers(
    options: &Options,
    run: &Arc<Run>,
    partitions: i32,
    part: Part,
) -> Result<Vec<JoinHandle<Outcome>>> {
    match options.client {
        Client::Librdkafka => produce::start(options, run, part),
        Client::Native => native::produce::start(options, run, partitions, part),
    }
}

fn read(options: &Options, partitions: i32, live: Option<&Live>) -> Result<Report> {
    let started = Started::new(options, live);
    let threads = consume::start(options, &started.run, partitions)?;
    let measurement = started.wait(threads.len())?;
    let findings = merged(threads.into_iter().filter_map(joined)).map(Checker::against_gaps);
    Ok(Report::new(options, partitions, &measurement, Vec::new(), findings, Vec::new()))
}

fn sent_and_received(options: &Options, partitions: i32, live: Option<&Live>) -> Result<Report> {
    let started = Started::new(options, live);
    let threads = match options.client {
        Client::Librdkafka => round_trip::start(options, &started.run, partitions)?,
        Client::Native => native::round_trip::start(options, &started.run, partitions)?,
    };
    let measurement = started.wait(threads.len())?;
    let Outcomes { checkers, errors, .. } = outcomes(threads);
    let findings = merged(checkers.into_iter()).map(Checker::against_gaps);
    Ok(Report::new(options, partitions, &measurement, Vec::new(), findings, errors))
}

fn asked(options: &Options, partitions: i32, live: Option<&Live>) -> Result<Report> {
    let started = Started::new(options, live);
    let threads = match options.client {
        Client::Librdkafka => metadata::start(options, &started.run)?,
        Client::Native => native::metadata::start(options, &started.run)?.0,
    };
    let measurement = started.wait(threads.len())?;
    let Outcomes { errors, .. } = outcomes(threads);
    Ok(Report::new(options, partitions, &measurement, Vec::new(), None, errors))
}

/// Holds a connection for each task, which asks for the topic's metadata now and then.
fn connections(options: &Options, partitions: i32, live: Option<&Live>) -> Result<Report> {
    let rate =
        options.rate_limit.unwrap_or_else(|| (u64::from(options.concurrency) / SECONDS_A_REQUEST).max(1));
    let paced = Options { rate_limit: Some(rate), client: Client::Native, ..options.clone() };
    allow_open_files(u64::from(options.concurrency) + FILES_BESIDE)?;
    let started = Started::new(&paced, live);
    let (threads, connecting) = native::metadata::start(&paced, &started.run)?;
    let measurement = started.wait(threads.len())?;
    let Outcomes { errors, .. } = outcomes(threads);
    let beside = Beside::of_latencies("connected", connecting.elapsed_ns, &connecting.latency_us);
    Ok(Report::new(&paced, partitions, &measurement, vec![beside], None, errors))
}

/// Raises this process's limit of open files as far as it needs and may.
fn allow_open_files(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < count) {
        let maximum = limit.maximum.unwrap_or_default();
        bail!(
            "--concurrency needs {count} open files and {maximum} are allowed: raise `ulimit -n` or ask for fewer"
        );
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), ..limit })
        .context("cannot allow more open files")
}

/// Consumers are there before the first message is sent, and read on until all is read that was acknowledged.
fn end_to_end(options: &Options, partitions: i32, live: Option<&Live>) -> Result<Report> {
    let started = Started::new(options, live);
    let run = Arc::clone(&started.run);
    let asked = Arc::new(client::consumer(options)?);
    let starts = client::watermarks(&asked, &options.topic, partitions)?;
    let starts: Vec<i64> = starts.into_iter().map(|(_, next)| next).collect();
    let followers = follow::prepare(options, run.clock, &starts)?;
    let producers = start_producers(options, &run, partitions, Part::Beside)?;
    let window = run.begin();
    let consumers = followers
        .into_iter()
        .map(|follower| follower.start(options, &run, window, Until::Produced(Arc::clone(&asked))))
        .collect::<Result<Vec<_>>>()?;
    let measurement = started.wait(producers.len() + consumers.len())?;
    let Outcomes { acknowledged, errors, .. } = outcomes(producers);
    let findings = merged(consumers.into_iter().filter_map(joined))
        .map(|checker| checker.against_acknowledged(run.id, &acknowledged));
    let beside = vec![Beside::of_part("acknowledged", &measurement)];
    Ok(Report::new(options, partitions, &measurement, beside, findings, errors))
}

/// First the backlog is written, as fast as it goes, then it is read; with a rate, more is written meanwhile.
fn backlog(options: &Options, partitions: i32, live: Option<&Live>) -> Result<Report> {
    let starts = client::high_watermarks(options, partitions)?;
    let filling = Options { rate_limit: None, warmup_duration: Duration::ZERO, ..options.clone() };
    let filled = Started::new(&filling, live);
    let id = filled.run.id;
    let threads = start_producers(&filling, &filled.run, partitions, Part::Main)?;
    let fill = filled.wait(threads.len())?;
    let Outcomes { acknowledged, mut errors, .. } = outcomes(threads);

    let reading = Options { duration: SECOND_HALF_MAX, message_count: None, ..filling.clone() };
    let writing = Options { rate_limit: options.rate_limit, ..reading.clone() };
    let started = Started::new(&reading, live);
    let run = Arc::clone(&started.run);
    run.end_at_last_record();
    let ends = Arc::new(client::high_watermarks(options, partitions)?);
    let followers = follow::prepare(options, run.clock, &starts)?;
    let producers = match options.rate_limit {
        Some(_) => start_producers(&writing, &run, partitions, Part::Beside)?,
        None => Vec::new(),
    };
    let window = run.begin();
    run.stop_after_readers(followers.len());
    let consumers = followers
        .into_iter()
        .map(|follower| follower.start(options, &run, window, Until::Offsets(Arc::clone(&ends))))
        .collect::<Result<Vec<_>>>()?;
    let measurement = started.wait(producers.len() + consumers.len())?;
    errors.extend(outcomes(producers).errors);
    // What was not read because of an interruption is not lost.
    let checked = merged(consumers.into_iter().filter_map(joined)).filter(|_| !measurement.is_interrupted);
    let findings = checked.map(|checker| checker.against_acknowledged(id, &acknowledged));
    let mut beside = vec![Beside::of_step("written before", &fill)];
    if options.rate_limit.is_some() {
        beside.push(Beside::of_part("written meanwhile", &measurement));
    }
    let mut report = Report::new(options, partitions, &measurement, beside, findings, errors);
    report.failures += fill.totals.failure_count;
    Ok(report)
}

fn many_topics(options: &Options, live: Option<&Live>) -> Result<Report> {
    let no_warm_up = Options { warmup_duration: Duration::ZERO, message_count: None, ..options.clone() };
    let started = Started::new(&no_warm_up, live);
    let run = Arc::clone(&started.run);
    let threads = topics::start(options, &run, Step::Create, topics::names(options, &run))?;
    let creation = started.wait(threads.len())?;
    let (made, mut errors) = done_to(threads);
    let deletion = match options.keep_topics {
        true => None,
        false => {
            let unbounded = Options { duration: SECOND_HALF_MAX, ..no_warm_up.clone() };
            let mut started = Started::new(&unbounded, live);
            started.reporter = started.reporter.until_done();
            let run = Arc::clone(&started.run);
            let threads = topics::start(options, &run, Step::Delete, made)?;
            let deletion = started.wait(threads.len())?;
            errors.extend(done_to(threads).1);
            Some(deletion)
        }
    };
    let beside = deletion.iter().map(|deletion| Beside::of_step("deleted", deletion)).collect();
    let failures = deletion.as_ref().map_or(0, |deletion| deletion.totals.failure_count);
    let partitions = options.partitions.unwrap_or(1) as i32;
    let mut report = Report::new(options, partitions, &creation, beside, None, errors);
    report.failures += failures;
    Ok(report)
}

/// What producers and askers learned together.
struct Outcomes {
    /// What was acknowledged, in the order of the clients.
    acknowledged: Vec<SequenceSet>,
    checkers: Vec<Checker>,
    /// Why they failed, each text once.
    errors: Vec<String>,
}

fn outcomes(threads: Vec<JoinHandle<Outcome>>) -> Outcomes {
    let (mut acknowledged, mut checkers, mut errors) = (Vec::new(), Vec::new(), BTreeSet::new());
    for outcome in threads.into_iter().map(joined) {
        acknowledged.extend(outcome.acknowledged);
        checkers.extend(outcome.checker);
        errors.extend(outcome.errors);
    }
    Outcomes { acknowledged, checkers, errors: errors.into_iter().collect() }
}

fn done_to(threads: Vec<JoinHandle<topics::Outcome>>) -> (Vec<String>, Vec<String>) {
    let mut all = topics::Outcome::default();
    for outcome in threads.into_iter().map(joined) {
        all.topics.extend(outcome.topics);
        all.errors.extend(outcome.errors);
    }
    (all.topics, all.errors)
}

/// What several checked together, if they did.
fn merged(mut checkers: impl Iterator<Item = Checker>) -> Option<Checker> {
    let mut all = checkers.next()?;
    checkers.for_each(|other| all.merge(other));
    Some(all)
}

/// A thread's result. Panics abort the process, so there always is one.
fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|_| unreachable!("a panic aborts"))
}
