//! The summary for people.

use std::fmt::Write;

use crate::cli::Mode;
use crate::report::Report;

/// The summary table, several lines.
pub fn render(report: &Report) -> String {
    let mut rows = Vec::new();
    settings(report, &mut rows);
    results(report, &mut rows);
    if let Some(broker) = &report.broker {
        rows.push(("broker CPU", format!("{:.2} s", broker.cpu_seconds)));
        rows.push(("  per GB", format!("{:.3} s", broker.cpu_seconds_per_gb)));
        rows.push(("  per message", format!("{:.3} µs", broker.cpu_seconds_per_million)));
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
        let _ = writeln!(text, "{name:<16} {value}");
    }
    text
}

/// The settings that shape the load, as rows of name and value.
pub fn settings(report: &Report, rows: &mut Vec<(&'static str, String)>) {
    let settings = &report.settings;
    rows.push(("mode", settings.mode.name().to_owned()));
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
    rows.push((
        "load",
        format!("{} task(s) on {} client(s), {rate}", settings.concurrency, settings.clients),
    ));
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

fn results(report: &Report, rows: &mut Vec<(&'static str, String)>) {
    let latency = &report.latency;
    rows.push(("measured", format!("{} messages in {:.3} s", report.messages, report.elapsed_seconds)));
    rows.push((
        "throughput",
        format!("{:.0} msg/s, {:.1} MB/s", report.messages_per_second, report.megabytes_per_second),
    ));
    rows.push(("failed", report.failures.to_string()));
    let text = format!(
        "p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  p99.99 {:.3}  max {:.3}  mean {:.3} ms",
        latency.p50_ms,
        latency.p90_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.p9999_ms,
        latency.max_ms,
        latency.mean_ms
    );
    rows.push((latency_name(report.settings.mode), text));
}

/// What latency means in a mode.
pub fn latency_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Produce => "ack latency",
        Mode::Consume => "age on receipt",
        Mode::RoundTrip => "end to end",
    }
}
