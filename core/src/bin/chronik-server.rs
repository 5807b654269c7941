//! The broker's binary: command line, log output, and one line for whatever is in the way.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use chronik_core::cluster;
use chronik_core::config::cli::{CONFIG_VARIABLE, Cli, Command, LogCommand, RepairArgs, StartArgs};
use chronik_core::config::server::{self, LogFormat, ServerConfig};
use chronik_core::node;
use chronik_core::node::repair;
use chronik_wal::disk::OsDisk;
use chronik_wal::partition::dump_log;
use chronik_wal::recovery::{dump_segment, is_segment};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command.unwrap_or_else(|| Command::Start(Box::default())) {
        Command::Start(args) => start(&args),
        Command::Cluster(args) => return cluster::run(&args),
        Command::Log(LogCommand::Dump { file }) => {
            let mut out = std::io::stdout().lock();
            match is_segment(&OsDisk, &file) {
                true => dump_segment(&OsDisk, &file, &mut out).map_err(|error| error.to_string()),
                false => dump_log(&OsDisk, &file, &mut out).map_err(|error| error.to_string()),
            }
        }
        Command::Log(LogCommand::Repair(args)) => return repair_log(&args),
        Command::Version => writeln!(std::io::stdout(), "chronik-server {}", env!("CARGO_PKG_VERSION"))
            .map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "chronik-server: {message}");
    ExitCode::FAILURE
}

/// Success is that nothing is damaged any more.
fn repair_log(args: &RepairArgs) -> ExitCode {
    let report = match repair::run(args) {
        Ok(report) => report,
        Err(error) => return fail(&error.to_string()),
    };
    match write!(std::io::stdout(), "{report}") {
        Ok(()) if report.is_sound() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => fail(&error.to_string()),
    }
}

fn start(args: &StartArgs) -> Result<(), String> {
    let config = configuration(args)?;
    log_to_stderr(&config)?;
    node::run(&config).map_err(|error| error.to_string())
}

fn configuration(args: &StartArgs) -> Result<ServerConfig, String> {
    let variables: BTreeMap<String, String> = std::env::vars().collect();
    let path = args.config.clone().or_else(|| variables.get(CONFIG_VARIABLE).map(Into::into));
    let text = match &path {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read the node file {}: {error}", path.display()))?,
        ),
        None => None,
    };
    let name = path.as_ref().map(|path| path.display().to_string());
    let file = name.as_deref().zip(text.as_deref());
    server::resolve(file, &variables, args).map_err(|error| error.to_string())
}

fn log_to_stderr(config: &ServerConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| {
        format!("--log (or CHRONIK_LOG) '{}': {error}; try 'info' or 'info,chronik_core=debug'", config.log)
    })?;
    // Colours are for people: a file, a pipe or a journal gets none, nor does who set NO_COLOR (no-color.org).
    let wants_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(wants_colour && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
