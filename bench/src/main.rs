//! chronik-bench: load generator for Kafka-compatible brokers.
//!
//! Files in reading order: `cli` (flags), `schedule` (when messages are meant to be sent, what is
//! measured), `payload` (values with a header that can be checked), `stats` (histograms, one a
//! thread), `run` (clock, window, reporter), `message` (what a client sends), `intake` (what a
//! consumer does with records), `outbox` (sending, pacing), `produce`, `consume`, `round_trip`,
//! `metadata` (the modes, over librdkafka), `native` (the modes, over our own client),
//! `validation`, `proc`, `progress`, `report`.
//!
//! Invariants: latency counts from the intended time; no thread shares a histogram; the warm-up
//! is never part of a result; the elapsed time is that of the window, not of the reporter.

mod cli;
mod client;
mod consume;
mod intake;
mod message;
mod metadata;
mod native;
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

use crate::cli::{Client, Mode, Options};
use crate::report::Report;
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
    let partitions = client::prepare_topic(options)?;
    let measured = measure(options, partitions);
    if options.delete_topic_after {
        client::delete_topic(options)?;
    }
    let report = measured?;
    std::io::stdout().write_all(report::table::render(&report).as_bytes())?;
    if let Some(path) = &options.json_output {
        report::json::write(&report, path)?;
    }
    if let Some(path) = &options.csv_output {
        report::csv::append(&report, path)?;
    }
    Ok(report)
}

fn measure(options: &Options, partitions: i32) -> Result<Report> {
    let (sender, events) = mpsc::channel();
    let run = Run::new(options, sender);
    let reporter = Reporter::new(options, &run);
    match (options.mode, options.client) {
        (Mode::Produce, client) => {
            let starts = match options.validate {
                true => client::watermarks(&client::consumer(options)?, &options.topic, partitions)?,
                false => Vec::new(),
            };
            let threads = match client {
                Client::Librdkafka => produce::start(options, &run)?,
                Client::Native => native::produce::start(options, &run, partitions)?,
            };
            let measurement = reporter.wait(&events, threads.len())?;
            let (acknowledged, errors) = produce::joined(threads);
            let findings =
                options.validate.then(|| validate(options, &run, &starts, &acknowledged)).transpose()?;
            Ok(Report::new(options, partitions, &measurement, findings, errors))
        }
        (Mode::Metadata, client) => {
            let threads = match client {
                Client::Librdkafka => metadata::start(options, &run)?,
                Client::Native => native::metadata::start(options, &run)?,
            };
            let measurement = reporter.wait(&events, threads.len())?;
            let (_, errors) = produce::joined(threads);
            Ok(Report::new(options, partitions, &measurement, None, errors))
        }
        (Mode::Consume | Mode::RoundTrip, client) => {
            let threads = match (options.mode, client) {
                (Mode::Consume, Client::Native) => native::consume::start(options, &run, partitions)?,
                (Mode::Consume, Client::Librdkafka) => consume::start(options, &run, partitions)?,
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
pub fn joined<T>(thread: std::thread::JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
