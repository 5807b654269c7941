//! Runs of chronik-bench, and what they report.

use crate::broker::{Broker, bench_binary};
use crate::topics::create;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// One run of chronik-bench: how it ended, and its report.
pub struct Run {
    /// How it ended and what it printed.
    pub output: Output,
    /// Its JSON output; null if it wrote none.
    pub report: Value,
}

impl Run {
    /// A number of the report.
    #[track_caller]
    #[must_use]
    pub fn number(&self, field: &str) -> u64 {
        self.report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {}", self.report))
    }

    /// A number of the validation.
    #[track_caller]
    #[must_use]
    pub fn found(&self, field: &str) -> u64 {
        self.report["validation"][field].as_u64().unwrap_or_else(|| panic!("no {field} in {}", self.report))
    }

    /// What it said on standard error.
    #[must_use]
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The run must have ended well, nothing failed.
    #[track_caller]
    #[allow(
        clippy::must_use_candidate,
        clippy::return_self_not_must_use,
        reason = "it is called for its check"
    )]
    pub fn succeeded(self) -> Self {
        assert!(self.output.status.success(), "{:?}", self.output);
        assert_eq!(self.number("failures"), 0, "{}", self.report);
        self
    }
}

fn command(address: &str, arguments: &str, report: &Path) -> Command {
    let mut command = Command::new(bench_binary());
    command.args(["-b", address, "--json-output"]).arg(report);
    command.args(arguments.split_whitespace());
    command
}

fn report_in(directory: &TempDir) -> PathBuf {
    directory.path().join("report.json")
}

fn finished(output: Output, directory: &TempDir) -> Run {
    let report = std::fs::read(report_in(directory))
        .map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).expect("the report is JSON"));
    Run { output, report }
}

/// A broker that has `topics` of so many partitions.
#[must_use]
pub fn broker_with(name: &str, partitions: i32, topics: &[&str]) -> Broker {
    let broker = Broker::start(name);
    let mut connection = broker.connect();
    topics.iter().for_each(|topic| create(&mut connection, topic, partitions, &[]));
    broker
}

/// Runs chronik-bench to its end.
#[must_use]
pub fn bench(broker: &Broker, arguments: &str) -> Run {
    let directory = tempfile::tempdir().expect("a directory");
    let output = command(&broker.address(), arguments, &report_in(&directory))
        .output()
        .expect("chronik-bench can be started");
    finished(output, &directory)
}

/// Starts chronik-bench, whose report will be in the directory.
#[must_use]
pub fn start(address: &str, arguments: &str, directory: &TempDir) -> Child {
    let mut command = command(address, arguments, &report_in(directory));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("chronik-bench can be started")
}

/// Waits for its end.
#[must_use]
pub fn end(child: Child, directory: &TempDir) -> Run {
    finished(child.wait_with_output().expect("chronik-bench ends"), directory)
}
