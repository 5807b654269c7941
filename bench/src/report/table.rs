//! The summary for people.

use std::fmt::Write;

use crate::cli::{Client, Mode};
use crate::metadata::THREADS_MAX;
use crate::report::{Latency, Named, Report};

/// The summary table, several lines.
pub fn render(report: &Report) -> String {
    let mut rows = Vec::new();
    settings(report, &mut rows);
    results(report, &mut rows);
    if let Some(broker) = &report.broker {
        rows.push(("broker CPU", format!("{:.2} s", broker.cpu_seconds)));
        if report.bytes > 0 {
            rows.push(("  per GB", format!("{:.3} s", broker.cpu_seconds_per_gb)));
        }
        let per_one = if report.settings.mode == Mode::Topics { "  per topic" } else { "  per message" };
        rows.push((per_one, format!("{:.3} µs", broker.cpu_seconds_per_million)));
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let [all, own, peak] =
            [broker.resident_bytes, broker.anonymous_bytes, broker.resident_peak_bytes].map(mebibytes);
        rows.push(("broker memory", format!("{all:.0} MiB, {own:.0} of its own, at most {peak:.0} MiB")));
    }
    if let Some(version) = &report.broker_version {
        let file_system = report.broker_file_system.as_deref().unwrap_or("an unknown file system");
        rows.push(("broker", format!("{version}, data on {file_system}")));
    }
    if let Some(found) = &report.validation {
        let verdict = if found.is_clean() { "clean" } else { "WRONG" };
        let text = format!(
            "{verdict}: {} checked, {} damaged, {} out of order, {} duplicated, {} lost",
            found.checked, found.damaged, found.out_of_order, found.duplicated, found.lost
        );
        rows.push(("validation", text));
    }
    rows.extend(report.errors.iter().map(|error| ("error", error.clone())));
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
    }
    text
}

/// One line for each run of a scenario.
pub fn overview(runs: &[Named]) -> String {
    let width = runs.iter().map(|run| run.name.chars().count()).max().unwrap_or(0).max(4);
    let head = ["per second", "MB/s", "p50 ms", "p99 ms", "p99.9 ms", "failed", "broker µs", "verdict"];
    let mut text = format!("{:<width$}", "run");
    head.iter().for_each(|name| text.push_str(&format!("  {name:>10}")));
    text.push('\n');
    for Named { name, report } in runs {
        let cost =
            report.broker.map_or("-".to_owned(), |cost| format!("{:.3}", cost.cpu_seconds_per_million));
        let cells = [
            format!("{:.0}", report.messages_per_second),
            format!("{:.1}", report.megabytes_per_second),
            format!("{:.3}", report.latency.p50_ms),
            format!("{:.3}", report.latency.p99_ms),
            format!("{:.3}", report.latency.p999_ms),
            report.failures.to_string(),
            cost,
            if report.is_clean() { "clean" } else { "WRONG" }.to_owned(),
        ];
        text.push_str(&format!("{name:<width$}"));
        cells.iter().for_each(|cell| text.push_str(&format!("  {cell:>10}")));
        text.push('\n');
    }
    text
}

/// The settings that shape the load, as rows of name and value.
pub fn settings(report: &Report, rows: &mut Vec<(&str, String)>) {
    let settings = &report.settings;
    rows.push(("mode", format!("{}, client {}", settings.mode.name(), settings.client.name())));
    if settings.mode == Mode::Topics {
        let text = format!(
            "{} request(s) at a time on {} client(s), {} partition(s) × {} replica(s) each",
            settings.concurrency, settings.clients, report.partitions, settings.replication_factor
        );
        rows.push(("topics", text));
        return;
    }
    rows.push(("topic", format!("{}, {} partition(s)", settings.topic, report.partitions)));
    if settings.mode == Mode::Consume {
        let group = settings.consumer_group.as_deref().unwrap_or("none");
        rows.push((
            "consumers",
            format!("{}, group {group}", settings.concurrency.min(report.partitions as u32)),
        ));
        return;
    }
    let rate = settings.rate_limit.map_or("as fast as it goes".to_owned(), |rate| format!("{rate} msg/s"));
    let tasks = match (settings.mode, settings.client) {
        (Mode::Metadata, Client::Librdkafka) => settings.concurrency.min(THREADS_MAX),
        _ => settings.concurrency,
    };
    rows.push(("load", format!("{tasks} task(s) on {} client(s), {rate}", settings.clients)));
    if matches!(settings.mode, Mode::Metadata | Mode::Connections) {
        return;
    }
    let text = format!(
        "{} bytes, acks {}, linger {} ms, batch {} bytes, compression {}",
        settings.message_size,
        settings.acks,
        settings.linger_ms,
        settings.batch_size,
        settings.compression.name()
    );
    rows.push(("messages", text));
}

fn results<'a>(report: &'a Report, rows: &mut Vec<(&'a str, String)>) {
    let what = match report.settings.mode {
        Mode::Topics => "topics made",
        Mode::Metadata | Mode::Connections => "answers",
        _ => "messages",
    };
    rows.push(("measured", format!("{} {what} in {:.3} s", report.messages, report.elapsed_seconds)));
    rows.push(("throughput", rate(report, report.messages_per_second, report.megabytes_per_second)));
    rows.push(("failed", report.failures.to_string()));
    rows.push((latency_name(report.settings.mode), curve(&report.latency)));
    rows.extend(report.notes.iter().map(|note| ("note", note.clone())));
    for beside in &report.beside {
        let rate = rate(report, beside.messages_per_second, beside.megabytes_per_second);
        rows.push((&beside.name, format!("{} in {:.3} s, {rate}", beside.messages, beside.elapsed_seconds)));
        rows.push(("  latency", curve(&beside.latency)));
    }
}

/// What a mode counts.
pub fn unit(mode: Mode) -> &'static str {
    match mode {
        Mode::Topics => "topics",
        _ => "messages",
    }
}

/// What latency means in a mode.
pub fn latency_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Produce => "ack latency",
        Mode::Consume => "age on receipt",
        Mode::RoundTrip | Mode::EndToEnd => "end to end",
        Mode::Backlog => "age on receipt",
        Mode::Metadata | Mode::Connections => "answer latency",
        Mode::Topics | Mode::Scenario => "request latency",
    }
}

fn rate(report: &Report, per_second: f64, megabytes_per_second: f64) -> String {
    match report.settings.mode {
        Mode::Topics => format!("{per_second:.1} topics/s"),
        Mode::Metadata | Mode::Connections => format!("{per_second:.0} answers/s"),
        _ => format!("{per_second:.0} msg/s, {megabytes_per_second:.1} MB/s"),
    }
}

fn curve(latency: &Latency) -> String {
    format!(
        "p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  p99.99 {:.3}  max {:.3}  mean {:.3} ms",
        latency.p50_ms,
        latency.p90_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.p9999_ms,
        latency.max_ms,
        latency.mean_ms
    )
}
