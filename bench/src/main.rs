//! chronik-bench: load generator for Kafka-compatible brokers.
//!
//! Files in reading order: `cli` (flags), `schedule` (when messages are meant to be sent, what is
//! measured), `payload` (values with a header that can be checked), `stats` (histograms, one a
//! thread), `run` (clock, window, reporter), `outbox` (sending, pacing), `produce`, `consume`,
//! `round_trip` (the modes), `validation`, `proc`, `broker_process`, `mounts`, `host` (what `/proc`
//! says), `progress`, `report`.
//!
//! Invariants: latency counts from the intended time; no thread shares a histogram; the warm-up
//! is never part of a result; the elapsed time is that of the window, not of the reporter.

mod broker_process;
mod cli;
mod client;
mod consume;
mod host;
mod mounts;
mod outbox;
mod payload;
mod proc;
mod produce;
mod progress;
mod report;
mod round_trip;
mod run;
mod schedule;
mod stats;
mod validation;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;

use anyhow::Result;
use clap::Parser;

use crate::cli::{Mode, Options};
use crate::report::Report;
use crate::report::compare::{Comparison, Earlier};
use crate::run::{Reporter, Run};
use crate::validation::{Checker, Findings};

/// Exit code when messages failed or the validation found something wrong.
const EXIT_UNCLEAN: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    match bench(&options) {
        Ok(report) if report.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_UNCLEAN),
        Err(error) => {
            // If standard error is closed there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "chronik-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<Report> {
    options.check()?;
    // What is wrong with a file must show before an hour of measuring, not after it.
    report::check_outputs(options)?;
    let earlier = options.compare.as_deref().map(Earlier::read).transpose()?;
    let partitions = client::prepare_topic(options)?;
    let measured = measure(options, partitions);
    if options.delete_topic_after {
        client::delete_topic(options)?;
    }
    let report = measured?;
    std::io::stdout().write_all(report::table::render(&report).as_bytes())?;
    let comparison = earlier.map(|earlier| Comparison::new(&earlier, &report)).transpose()?;
    if let Some(comparison) = &comparison {
        std::io::stdout().write_all(report::compare::render(comparison).as_bytes())?;
    }
    if let Some(path) = &options.json_output {
        report::json::write(&report, path)?;
    }
    if let Some(path) = &options.csv_output {
        report::csv::append(&report, path)?;
    }
    if let Some(path) = &options.report {
        report::page::write(&report, comparison.as_ref(), path)?;
    }
    Ok(report)
}

fn measure(options: &Options, partitions: i32) -> Result<Report> {
    let (sender, events) = mpsc::channel();
    let run = Run::new(options, sender);
    let reporter = Reporter::new(options, &run);
    match options.mode {
        Mode::Produce => {
            let starts = match options.validate {
                true => client::watermarks(&client::consumer(options)?, &options.topic, partitions)?,
                false => Vec::new(),
            };
            let threads = produce::start(options, &run)?;
            let measurement = reporter.wait(&events, threads.len())?;
            let mut acknowledged = Vec::new();
            let mut errors = std::collections::BTreeSet::new();
            for outcome in threads.into_iter().map(joined) {
                acknowledged.extend(outcome.acknowledged);
                errors.extend(outcome.errors);
            }
            let findings =
                options.validate.then(|| validate(options, &run, &starts, &acknowledged)).transpose()?;
            Ok(Report::new(options, partitions, &measurement, findings, errors.into_iter().collect()))
        }
        Mode::Consume | Mode::RoundTrip => {
            let threads = match options.mode {
                Mode::Consume => consume::start(options, &run, partitions)?,
                _ => round_trip::start(options, &run, partitions)?,
            };
            let measurement = reporter.wait(&events, threads.len())?;
            let mut checker = Checker::default();
            threads.into_iter().filter_map(joined).for_each(|other| checker.merge(other));
            let findings = options.validate.then(|| checker.against_gaps());
            Ok(Report::new(options, partitions, &measurement, findings, Vec::new()))
        }
    }
}

fn validate(
    options: &Options,
    run: &Run,
    starts: &[(i64, i64)],
    acknowledged: &[validation::SequenceSet],
) -> Result<Findings> {
    let mut checker = Checker::new(Some(run.id));
    consume::read_back(options, &mut checker, starts)?;
    Ok(checker.against_acknowledged(run.id, acknowledged))
}

/// A thread's result. Panics abort the process, so there always is one.
fn joined<T>(thread: std::thread::JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
