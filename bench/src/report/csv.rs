//! One line of CSV for each run, appended; the header is written once, into a new file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::Report;

/// Appends the report to a file.
pub fn append(report: &Report, path: &Path) -> Result<()> {
    append_columns(&columns(report), path).with_context(|| format!("cannot write {}", path.display()))
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

fn columns(report: &Report) -> Vec<(&'static str, String)> {
    let settings = &report.settings;
    let optional = |value: Option<f64>| value.map_or(String::new(), |number| format!("{number:.4}"));
    let number = |value: f64| format!("{value:.3}");
    let findings = report.validation;
    vec![
        ("finished_at", report.finished_at.to_string()),
        ("mode", settings.mode.name().to_owned()),
        ("bootstrap_servers", settings.bootstrap_servers.clone()),
        ("topic", settings.topic.clone()),
        ("partitions", report.partitions.to_string()),
        ("replication_factor", settings.replication_factor.to_string()),
        ("acks", settings.acks.clone()),
        ("concurrency", settings.concurrency.to_string()),
        ("clients", settings.clients.to_string()),
        ("message_size", settings.message_size.to_string()),
        ("linger_ms", settings.linger_ms.to_string()),
        ("batch_size", settings.batch_size.to_string()),
        ("compression", settings.compression.name().to_owned()),
        ("rate_limit", settings.rate_limit.map_or(String::new(), |rate| rate.to_string())),
        ("elapsed_s", number(report.elapsed_seconds)),
        ("messages", report.messages.to_string()),
        ("bytes", report.bytes.to_string()),
        ("failures", report.failures.to_string()),
        ("messages_per_s", number(report.messages_per_second)),
        ("megabytes_per_s", number(report.megabytes_per_second)),
        ("latency_p50_ms", number(report.latency.p50_ms)),
        ("latency_p90_ms", number(report.latency.p90_ms)),
        ("latency_p99_ms", number(report.latency.p99_ms)),
        ("latency_p999_ms", number(report.latency.p999_ms)),
        ("latency_p9999_ms", number(report.latency.p9999_ms)),
        ("latency_max_ms", number(report.latency.max_ms)),
        ("broker_cpu_s", optional(report.broker.map(|b| b.cpu_seconds))),
        ("broker_cpu_s_per_gb", optional(report.broker.map(|b| b.cpu_seconds_per_gb))),
        ("broker_cpu_us_per_message", optional(report.broker.map(|b| b.cpu_seconds_per_million))),
        ("broker_resident_bytes", report.broker.map_or(String::new(), |b| b.resident_bytes.to_string())),
        ("broker_anonymous_bytes", report.broker.map_or(String::new(), |b| b.anonymous_bytes.to_string())),
        ("validation", findings.map_or("", |f| if f.is_clean() { "clean" } else { "wrong" }).to_owned()),
        ("load", report.host.load.clone()),
        ("client", settings.client.name().to_owned()),
    ]
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
