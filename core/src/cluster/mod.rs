//! `chronik-server cluster …`: looking at a running cluster and changing it, as a plain Kafka client.
//!
//! Everything but `recover` goes through Kafka's own requests to whichever node answers (`--bootstrap`), so that what
//! these commands do, Kafka's tools can do as well. Runs on the main thread; no shard is near.
//!
//! ```text
//! client.rs   one connection, one request at a time, to whichever node answers
//! view.rs     what the cluster says of itself, as plain data
//! plan.rs     where replicas and leaders are to go (pure)
//! status.rs   status and health, as a table or JSON (pure)
//! change.rs   carries plans out and waits: drain, add, remove, rebalance, move-leader
//! recover.rs  recover --unsafe: offline, on the data of a stopped node
//! ```
//! Exit codes: 0 done, or healthy; 1 not done, or not healthy; 2 the command line is wrong; 3 no node can be reached.

mod change;
mod client;
pub mod plan;
pub mod recover;
mod status;
pub mod view;

use std::io::{self, Write};
use std::process::ExitCode;

use chronik_net::codec::ErrorCode;
use serde_json::{Value, json};

use self::client::Client;
use self::view::View;
use crate::config::cli::{ClusterArgs, ClusterCommand};

/// Why a command has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answers.
    #[error(
        "no node of the cluster can be reached (last: {0}); give the Kafka address of a node that runs with --bootstrap HOST:PORT"
    )]
    Unreachable(String),
    /// The cluster, or what it is, does not allow it.
    #[error("{0}")]
    Refused(String),
    /// It goes on, but not in the time that was given.
    #[error("{0}")]
    NotInTime(String),
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable(_) => 3,
            _ => 1,
        }
    }
}

/// Kafka's name of an error.
pub(crate) fn error_name(code: i16) -> String {
    ErrorCode::from_code(code).map_or_else(|| format!("error {code}"), |known| known.name().to_owned())
}

/// What a command has to say when it has ended.
#[derive(Debug, Default)]
struct Outcome {
    /// For people.
    text: String,
    /// For programs.
    json: Value,
    /// Whether all is as it should be.
    is_well: bool,
}

impl Outcome {
    /// Something was done.
    fn done(text: String, json: Value) -> Self {
        Self { text, json, is_well: true }
    }
}

/// Runs one command.
#[must_use]
pub fn run(args: &ClusterArgs) -> ExitCode {
    let told = carry_out(args).and_then(|outcome| {
        let mut out = io::stdout().lock();
        match args.json {
            true => writeln!(out, "{:#}", outcome.json)?,
            false => write!(out, "{}", outcome.text)?,
        }
        Ok(u8::from(!outcome.is_well))
    });
    match told {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let said = match args.json {
                true => writeln!(io::stdout(), "{:#}", json!({ "error": failure.to_string() })),
                false => writeln!(io::stderr(), "chronik-server: {failure}"),
            };
            // With the output closed there is nobody to tell.
            let _ = said;
            ExitCode::from(failure.exit_code())
        }
    }
}

fn carry_out(args: &ClusterArgs) -> Result<Outcome, Failure> {
    if let ClusterCommand::Recover(recover) = &args.command {
        return recover::command(recover);
    }
    let mut client = Client::new(&args.bootstrap);
    let view = View::read(&mut client)?;
    let mut change = change::Change::new(client, args);
    match &args.command {
        ClusterCommand::Status => Ok(status::status(&view)),
        ClusterCommand::Health => Ok(status::health(&view, &status::ask_each(&view))),
        ClusterCommand::Drain { node, shrink } => change.drain(*node, *shrink),
        ClusterCommand::Add { node, rebalance } => change.add(*node, *rebalance),
        ClusterCommand::Remove { node } => change.remove(*node),
        ClusterCommand::Rebalance { dry_run } => change.rebalance(*dry_run),
        ClusterCommand::MoveLeader { topic, partition, node } => change.move_leader(topic, *partition, *node),
        ClusterCommand::Recover(_) => unreachable!("carried out above"),
    }
}

/// Rows as a table with a head, columns as wide as they need.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in [&head].into_iter().chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
