//! One line of CSV for each run, appended; the header is written once, into a new file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::report::Report;

/// Appends the report to a file.
pub fn append(report: &Report, path: &Path) -> Result<()> {
    let columns = COLUMNS.map(|(name, of)| (name, of(report)));
    append_columns(&columns, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Refuses a file whose columns are others: its lines would not fit below each other.
pub fn check_header(path: &Path) -> Result<()> {
    // A pipe or a terminal has no earlier lines, and reading it would wait for some.
    if !path.is_file() {
        return Ok(());
    }
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let names = join(COLUMNS.iter().map(|(name, _)| (*name).to_owned()));
    let is_ours = text.is_empty() || text.lines().next() == Some(names.trim_end());
    ensure!(
        is_ours,
        "cannot append to {}: its columns are not those of this version, name a new file",
        path.display()
    );
    Ok(())
}

fn append_columns(columns: &[(&str, String)], path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut text = String::new();
    if file.metadata()?.len() == 0 {
        text.push_str(&join(columns.iter().map(|(name, _)| (*name).to_owned())));
    }
    text.push_str(&join(columns.iter().map(|(_, value)| quoted(value))));
    file.write_all(text.as_bytes())
}

fn join(fields: impl Iterator<Item = String>) -> String {
    fields.collect::<Vec<_>>().join(",") + "\n"
}

fn quoted(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

/// A column: its name and what it takes from a report.
type Column = (&'static str, fn(&Report) -> String);

const COLUMNS: [Column; 34] = [
    ("finished_at", |report| report.finished_at.to_string()),
    ("mode", |report| report.settings.mode.name().to_owned()),
    ("bootstrap_servers", |report| report.settings.bootstrap_servers.clone()),
    ("topic", |report| report.settings.topic.clone()),
    ("partitions", |report| report.partitions.to_string()),
    ("replication_factor", |report| report.settings.replication_factor.to_string()),
    ("acks", |report| report.settings.acks.clone()),
    ("concurrency", |report| report.settings.concurrency.to_string()),
    ("clients", |report| report.settings.clients.to_string()),
    ("message_size", |report| report.settings.message_size.to_string()),
    ("linger_ms", |report| report.settings.linger_ms.to_string()),
    ("batch_size", |report| report.settings.batch_size.to_string()),
    ("compression", |report| report.settings.compression.name().to_owned()),
    ("rate_limit", |report| report.settings.rate_limit.map_or(String::new(), |rate| rate.to_string())),
    ("elapsed_s", |report| number(report.elapsed_seconds)),
    ("messages", |report| report.messages.to_string()),
    ("bytes", |report| report.bytes.to_string()),
    ("failures", |report| report.failures.to_string()),
    ("messages_per_s", |report| number(report.messages_per_second)),
    ("megabytes_per_s", |report| number(report.megabytes_per_second)),
    ("latency_p50_ms", |report| number(report.latency.p50_ms)),
    ("latency_p90_ms", |report| number(report.latency.p90_ms)),
    ("latency_p99_ms", |report| number(report.latency.p99_ms)),
    ("latency_p999_ms", |report| number(report.latency.p999_ms)),
    ("latency_p9999_ms", |report| number(report.latency.p9999_ms)),
    ("latency_max_ms", |report| number(report.latency.max_ms)),
    ("broker_cpu_s", |report| optional(report.broker.map(|b| b.cpu_seconds))),
    ("broker_cpu_s_per_gb", |report| optional(report.broker.map(|b| b.cpu_seconds_per_gb))),
    ("broker_cpu_us_per_message", |report| optional(report.broker.map(|b| b.cpu_seconds_per_million))),
    ("broker_resident_bytes", |report| report.broker.map_or(String::new(), |b| b.resident_bytes.to_string())),
    ("broker_anonymous_bytes", |report| {
        report.broker.map_or(String::new(), |b| b.anonymous_bytes.to_string())
    }),
    ("validation", |report| {
        report.validation.map_or("", |f| if f.is_clean() { "clean" } else { "wrong" }).to_owned()
    }),
    ("load", |report| report.host.load.clone()),
    ("client", |report| report.settings.client.name().to_owned()),
];

fn optional(value: Option<f64>) -> String {
    value.map_or(String::new(), |number| format!("{number:.4}"))
}

fn number(value: f64) -> String {
    format!("{value:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runs.csv");
        let row = |value: &str| [("a", value.to_owned()), ("b", "x,\"y\"".to_owned())];
        append_columns(&row("1"), &path).unwrap();
        append_columns(&row("2"), &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "a,b\n1,\"x,\"\"y\"\"\"\n2,\"x,\"\"y\"\"\"\n");
    }
}
