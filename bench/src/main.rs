//! chronik-bench: load generator for Kafka-compatible brokers.
//!
//! Files in reading order: `cli` (flags), `schedule` (when messages are meant to be sent, what is
//! measured), `payload` (values with a header that can be checked), `stats` (histograms, one a
//! thread), `run` (clock, window, reporter), `message` (what a client sends), `intake` (what a
//! consumer does with records), `outbox` (sending, pacing), `produce`, `consume`, `round_trip`,
//! `follow`, `topics`, `metadata` (what threads do, over librdkafka), `native` (the same over our
//! own client), `modes` (which of it a mode is made of), `scenario`, `validation`, `proc`, `progress`, `live`, `report`.
//!
//! Invariants: latency counts from the intended time; no thread shares a histogram; the warm-up
//! is never part of a result; the elapsed time is that of the window, not of the reporter.

mod cli;
mod client;
mod consume;
mod follow;
mod intake;
mod live;
mod message;
mod metadata;
mod modes;
mod native;
mod outbox;
mod payload;
mod proc;
mod produce;
mod progress;
mod report;
mod round_trip;
mod run;
mod scenario;
mod schedule;
mod stats;
mod topics;
mod validation;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::cli::Options;
use crate::live::Live;
use crate::report::Named;

/// Exit code when messages failed or the validation found something wrong.
const EXIT_UNCLEAN: u8 = 2;

fn main() -> ExitCode {
    let matches = Options::command().get_matches();
    let options = Options::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match bench(&options, &matches) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_UNCLEAN),
        Err(error) => {
            // If standard error is closed there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "chronik-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True when nothing failed and nothing was found wrong.
fn bench(options: &Options, command_line: &ArgMatches) -> Result<bool> {
    options.check()?;
    let planned = options.scenario.as_deref().map(|path| scenario::read(path, command_line)).transpose()?;
    let live = options.prometheus_port.map(Live::serve).transpose()?;
    let Some(planned) = planned else {
        let report = modes::carry_out(options, live.as_ref())?;
        std::io::stdout().write_all(report::table::render(&report).as_bytes())?;
        if let Some(path) = &options.json_output {
            report::json::write(&report, path)?;
        }
        if let Some(path) = &options.csv_output {
            report::csv::append(&report, path)?;
        }
        return Ok(report.is_clean());
    };
    let mut runs = Vec::new();
    let mut outcome = Ok(());
    for scenario::Planned { name, options: planned } in planned {
        let result = modes::carry_out(&planned, live.as_ref()).with_context(|| format!("run \"{name}\""));
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                // What was measured before it is written all the same.
                outcome = Err(error);
                break;
            }
        };
        let table = report::table::render(&report);
        std::io::stdout().write_all(format!("== {name}\n{table}\n").as_bytes())?;
        if let Some(path) = &options.csv_output {
            report::csv::append(&report, path)?;
        }
        runs.push(Named { name, report });
    }
    finish_scenario(&runs, options.json_output.as_deref())?;
    outcome.map(|()| runs.iter().all(|run| run.report.is_clean()))
}

fn finish_scenario(runs: &[Named], json_output: Option<&Path>) -> Result<()> {
    std::io::stdout().write_all(report::table::overview(runs).as_bytes())?;
    json_output.map_or(Ok(()), |path| report::json::write(&serde_json::json!({ "runs": runs }), path))
}
