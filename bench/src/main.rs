//! chronik-bench: load generator for Kafka-compatible brokers.
//!
//! Files in reading order: `cli` (flags), `schedule` (when messages are meant to be sent, what is
//! measured), `payload` (values with a header that can be checked), `stats` (histograms, one a
//! thread), `run` (clock, window, reporter), `interrupt` (Ctrl-C), `message` (what a client sends), `intake` (what a
//! consumer does with records), `source` (where these come from), `outbox` (sending, pacing), `produce`, `consume`, `round_trip`,
//! `follow`, `topics`, `metadata` (what threads do, over librdkafka), `native` (the same over our
//! own client), `modes` (which of it a mode is made of), `scenario`, `validation`, `proc`,
//! `broker_process`, `mounts`, `host` (what `/proc` says), `progress`, `live`, `notes` (how to take the figures), `report`, `outputs`.
//!
//! Invariants: latency counts from the intended time; no thread shares a histogram; the warm-up
//! is never part of a result; the elapsed time is that of the window, not of the reporter.

mod broker_process;
mod cli;
mod client;
mod consume;
mod follow;
mod host;
mod intake;
mod interrupt;
mod live;
mod message;
mod metadata;
mod modes;
mod mounts;
mod native;
mod notes;
mod outbox;
mod outputs;
mod payload;
mod proc;
mod produce;
mod progress;
mod report;
mod round_trip;
mod run;
mod scenario;
mod schedule;
mod source;
mod stats;
mod topics;
mod validation;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::cli::Options;
use crate::live::Live;
use crate::outputs::Outputs;

/// Exit code when messages failed, nothing was measured or the validation found something wrong.
const EXIT_UNCLEAN: u8 = 2;

fn main() -> ExitCode {
    let matches = Options::command().get_matches();
    let options = Options::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match bench(&options, &matches) {
        Ok(_) if interrupt::asked() => ExitCode::from(interrupt::EXIT_INTERRUPTED),
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_UNCLEAN),
        Err(error) => {
            // If standard error is closed there is nobody left to tell.
            let text = format!("{error:#}").replace('\n', " ");
            let _ = writeln!(std::io::stderr(), "chronik-bench: {text}");
            ExitCode::FAILURE
        }
    }
}

/// True when nothing failed and nothing was found wrong.
fn bench(options: &Options, command_line: &ArgMatches) -> Result<bool> {
    options.check()?;
    let planned = options.scenario.as_deref().map(|path| scenario::read(path, command_line)).transpose()?;
    let mut outputs = Outputs::prepare(options, planned.as_deref())?;
    let live = options.prometheus_port.map(Live::serve).transpose()?;
    let Some(planned) = planned else {
        outputs.add(String::new(), modes::carry_out(options, live.as_ref())?)?;
        return outputs.finish();
    };
    let mut outcome = Ok(());
    for scenario::Planned { name, options: planned } in planned {
        match modes::carry_out(&planned, live.as_ref()).with_context(|| format!("run \"{name}\"")) {
            Ok(report) => outputs.add(name, report)?,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        if interrupt::asked() {
            break;
        }
    }
    // What was measured before an error is written all the same.
    let is_clean = outputs.finish()?;
    outcome.map(|()| is_clean)
}
