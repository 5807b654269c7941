//! The report as one page for a browser: style, script, charts and data are in the file itself,
//! and a policy in its head lets the browser load nothing else.
//!
//! All text goes through maud, which escapes it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use crate::cli::Options;
use crate::report::compare::{Change, Comparison, age, flag_of, host_label, shown};
use crate::report::figures::{bytes, figure, grouped};
use crate::report::{Beside, Latency, Named, Report, charts, table};

const STYLE: &str = include_str!("../assets/page.css");
/// Stands before everything else, so that an error of the other script is recorded as well.
const ERRORS_SCRIPT: &str = include_str!("../assets/errors.js");
const SCRIPT: &str = include_str!("../assets/page.js");
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// A longer figure is set in smaller type, so that its tile holds it.
const TILE_CHARS_MAX: usize = 6;

/// Writes the page of a run to a file, replacing it.
pub fn write_run(report: &Report, comparison: Option<&Comparison>, path: &Path) -> Result<()> {
    write(run_page(report, comparison)?, path)
}

/// Writes the page of a scenario's runs to a file, replacing it.
pub fn write_scenario(options: &Options, runs: &[(&Named, &Option<Comparison>)], path: &Path) -> Result<()> {
    write(scenario_page(options, runs)?, path)
}

fn write(page: Markup, path: &Path) -> Result<()> {
    fs::write(path, page.into_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn run_page(report: &Report, comparison: Option<&Comparison>) -> Result<Markup> {
    let title = format!("{} · {}", report.settings.mode.name(), report.settings.topic);
    Ok(frame(&title, run(report, comparison, &title)?))
}

fn scenario_page(options: &Options, runs: &[(&Named, &Option<Comparison>)]) -> Result<Markup> {
    let file = options.scenario.as_deref().and_then(Path::file_name).unwrap_or_default();
    let title = format!("scenario · {}", file.to_string_lossy());
    let parts = runs.iter().map(|(named, comparison)| run(&named.report, comparison.as_ref(), &named.name));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let reports: Vec<_> = runs.iter().map(|(named, _)| *named).collect();
    let body = html! {
        header { h1 { (title) } }
        (overview(&reports))
        @for (at, part) in parts.iter().enumerate() { article id={ "run-" (at) } { (part) } }
    };
    Ok(frame(&title, body))
}

/// The page around what it shows.
fn frame(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – chronik-bench" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                script { (PreEscaped(ERRORS_SCRIPT)) }
                (body)
                footer { "chronik-bench " (env!("CARGO_PKG_VERSION")) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// All of one run.
fn run(report: &Report, comparison: Option<&Comparison>, title: &str) -> Result<Markup> {
    let mode = report.settings.mode;
    let latency_name = table::latency_name(mode);
    let settings = serde_json::to_value(&report.settings)?;
    let host = serde_json::to_value(&report.host)?;
    Ok(html! {
        (header(report, title))
        (tiles(report, latency_name))
        @if let Some(comparison) = comparison { (compared(comparison)) }
        (charts::throughput(&report.time_line, table::unit(mode)))
        (charts::latency(&report.time_line, latency_name))
        (charts::percentiles(&report.latency, latency_name))
        div.columns {
            (pairs("Settings", entries(&settings, flag_of)))
            div {
                (pairs("Result", result(report)))
                @for beside in &report.beside { (pairs(&beside.name, of_beside(beside, table::unit(mode)))) }
                @if let Some(rows) = broker(report) { (pairs("Broker", rows)) }
                (validation(report))
                (pairs("Host of chronik-bench", entries(&host, host_label)))
            }
        }
    })
}

/// The runs of a scenario, one a line.
fn overview(runs: &[&Named]) -> Markup {
    let heads = [
        "run",
        "per second",
        "MB/s",
        "p50 (ms)",
        "p99 (ms)",
        "p99.9 (ms)",
        "broker CPU (µs each)",
        "verdict",
    ];
    let cells = |report: &Report| {
        let (rates, latency) = ([report.messages_per_second, report.megabytes_per_second], &report.latency);
        let latencies = [latency.p50_ms, latency.p99_ms, latency.p999_ms];
        let latencies = latencies.map(|value| if latency.count > 0 { figure(value) } else { "–".to_owned() });
        let cost = report.broker.map_or("–".to_owned(), |cost| figure(cost.cpu_seconds_per_million));
        rates.map(figure).into_iter().chain(latencies).chain([cost]).collect::<Vec<_>>()
    };
    html! {
        section.card id="overview" {
            h2 { "Runs" }
            table {
                thead { tr { @for head in heads { th.number[head != "run"] { (head) } } } }
                tbody {
                    @for (at, Named { name, report }) in runs.iter().enumerate() {
                        tr {
                            th { a href={ "#run-" (at) } { (name) } }
                            @for cell in cells(report) { td.number { (cell) } }
                            td.number { (badge(report)) }
                        }
                    }
                }
            }
        }
    }
}

fn header(report: &Report, title: &str) -> Markup {
    let mut load = Vec::new();
    table::settings(report, &mut load);
    let broker = report.broker_version.as_deref().unwrap_or("broker");
    html! {
        header {
            h1 { (title) " " (badge(report)) }
            p {
                (broker) " at " (report.settings.bootstrap_servers) ", finished "
                time data-seconds=(report.finished_at) { (report.finished_at) " s after 1970" }
            }
            @for (name, value) in load.iter().filter(|(name, _)| !["mode", "topic"].contains(name)) {
                p.load { b { (name) } " " (value) }
            }
            @for note in &report.notes { p.load.note { b { "note" } " " (note) } }
        }
    }
}

fn badge(report: &Report) -> Markup {
    let (class, text) = match (report.failures, report.validation) {
        (_, Some(found)) if !found.is_clean() => ("badge bad", "validation found errors".to_owned()),
        (0, _) if report.messages == 0 => ("badge bad", "nothing was measured".to_owned()),
        (0, Some(found)) => ("badge good", format!("clean: {} records checked", grouped(found.checked))),
        (0, None) => ("badge good", "no message failed".to_owned()),
        (count, _) => ("badge bad", format!("{} messages failed", grouped(count))),
    };
    html! { span class=(class) { (text) } }
}

/// One figure in large type, with its unit and a remark below it.
fn tile(name: &str, value: &str, unit: &str, remark: &str) -> Markup {
    html! {
        div.tile {
            div.name { (name) }
            div.value.long[value.len() > TILE_CHARS_MAX] { (value) }
            div.unit { (unit) }
            div.remark { (remark) }
        }
    }
}

fn tiles(report: &Report, latency_name: &str) -> Markup {
    let (latency, unit) = (&report.latency, table::unit(report.settings.mode));
    let measured = format!("{} in {} s", grouped(report.messages), figure(report.elapsed_seconds));
    let percentile = |name: &str, value: f64| tile(name, &figure(value), "ms", latency_name);
    html! {
        section.tiles {
            (tile("throughput", &figure(report.messages_per_second), &format!("{unit}/s"), &measured))
            @if report.bytes > 0 {
                (tile("volume", &figure(report.megabytes_per_second), "MB/s", "10⁶ bytes of values"))
            }
            @if latency.count > 0 {
                (percentile("p50", latency.p50_ms))
                (percentile("p99", latency.p99_ms))
                (percentile("p99.9", latency.p999_ms))
                (percentile("max", latency.max_ms))
            }
            @if let Some(cost) = &report.broker {
                @let by_bytes = match report.bytes {
                    0 => String::new(),
                    _ => format!("{} s per GB", figure(cost.cpu_seconds_per_gb)),
                };
                (tile("broker CPU", &figure(cost.cpu_seconds_per_million), "µs each", &by_bytes))
                @let [all, own] = [cost.resident_bytes, cost.anonymous_bytes].map(mebibytes);
                (tile("broker memory", &all, "MiB", &format!("{own} of its own")))
            }
        }
    }
}

fn mebibytes(count: u64) -> String {
    figure(count as f64 / f64::from(1 << 20))
}

fn compared(comparison: &Comparison) -> Markup {
    let class = |change| match change {
        Change::Better => "number better",
        Change::Worse => "number worse",
        Change::Same => "number",
    };
    let groups = comparison.groups();
    let same: Vec<_> = groups.iter().filter(|(_, found)| found.is_empty()).map(|(name, _)| *name).collect();
    html! {
        section.card id="comparison" {
            h2 { "Compared with " (comparison.path.display()) ", " (age(comparison.age_seconds)) " earlier" }
            div.columns {
                table {
                    thead { tr { th {} th.number { "then" } th.number { "now" } th.number { "ratio" } } }
                    tbody {
                        @for row in &comparison.rows {
                            @let [then, now, ratio] = row.texts();
                            tr {
                                th { (row.name) } td.number { (then) } td.number { (now) }
                                td class=(class(row.change())) { (ratio) }
                            }
                        }
                    }
                }
                div {
                    @for (group, differences) in groups {
                        @if !differences.is_empty() {
                            h3.differ { "These " (group) " differ" }
                            table.differences {
                                thead { tr { th {} th { "then" } th { "now" } } }
                                tbody {
                                    @for found in differences {
                                        tr { th { (found.name) } td { (found.then) } td { (found.now) } }
                                    }
                                }
                            }
                        }
                    }
                    @if !same.is_empty() { p { "The same: " (same.join(", ")) "." } }
                    @if !comparison.incidental.is_empty() {
                        p { "Differ without influence: " (comparison.incidental.join(", ")) "." }
                    }
                }
            }
        }
    }
}

/// A table of names and values.
fn pairs(title: &str, rows: Vec<(String, String)>) -> Markup {
    html! {
        section.card {
            h2 { (title) }
            table { tbody { @for (name, value) in rows { tr { th { (name) } td { (value) } } } } }
        }
    }
}

/// The fields of a part of the JSON output.
fn entries(part: &Value, label: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let fields = part.as_object().into_iter().flatten();
    fields.map(|(field, value)| (label(field), shown(field, value))).collect()
}

fn result(report: &Report) -> Vec<(String, String)> {
    let latency = &report.latency;
    let mut rows = vec![
        (table::unit(report.settings.mode).to_owned(), grouped(report.messages)),
        ("bytes of values".to_owned(), grouped(report.bytes)),
        ("measured for".to_owned(), format!("{:.3} s", report.elapsed_seconds)),
        ("failed".to_owned(), grouped(report.failures)),
        ("completed after the end".to_owned(), grouped(report.stragglers)),
        ("partitions of the topic".to_owned(), report.partitions.to_string()),
    ];
    rows.extend(latencies(latency));
    rows
}

/// What a mode measures besides its main subject.
fn of_beside(beside: &Beside, unit: &str) -> Vec<(String, String)> {
    let mut rows = vec![
        (unit.to_owned(), grouped(beside.messages)),
        ("measured for".to_owned(), format!("{:.3} s", beside.elapsed_seconds)),
        (format!("{unit}/s"), figure(beside.messages_per_second)),
        ("MB/s".to_owned(), figure(beside.megabytes_per_second)),
    ];
    rows.extend(latencies(&beside.latency));
    rows
}

fn latencies(latency: &Latency) -> Vec<(String, String)> {
    let values = [
        ("min", latency.min_ms),
        ("mean", latency.mean_ms),
        ("p50", latency.p50_ms),
        ("p90", latency.p90_ms),
        ("p99", latency.p99_ms),
        ("p99.9", latency.p999_ms),
        ("p99.99", latency.p9999_ms),
        ("max", latency.max_ms),
    ];
    let row = |(name, value)| (format!("latency, {name}"), format!("{} ms", figure(value)));
    values.into_iter().filter(|_| latency.count > 0).map(row).collect()
}

fn broker(report: &Report) -> Option<Vec<(String, String)>> {
    let text = |value: &Option<String>| value.clone().unwrap_or("unknown".to_owned());
    let process = report.settings.broker_pid?;
    let mut rows = vec![
        ("process".to_owned(), process.to_string()),
        ("version".to_owned(), text(&report.broker_version)),
        ("file system of its data".to_owned(), text(&report.broker_file_system)),
    ];
    if let Some(cost) = &report.broker {
        let unit = table::unit(report.settings.mode);
        if report.bytes > 0 {
            rows.push(("CPU per GB".to_owned(), format!("{} s", figure(cost.cpu_seconds_per_gb))));
        }
        rows.extend([
            ("CPU while measuring".to_owned(), format!("{} s", figure(cost.cpu_seconds))),
            (format!("CPU per million {unit}"), format!("{} s", figure(cost.cpu_seconds_per_million))),
            ("memory at the end".to_owned(), bytes(cost.resident_bytes)),
            ("memory of its own".to_owned(), bytes(cost.anonymous_bytes)),
            ("greatest memory".to_owned(), bytes(cost.resident_peak_bytes)),
        ]);
    }
    Some(rows)
}

fn validation(report: &Report) -> Markup {
    let findings = report.validation.map(|found| {
        let counts = [
            ("checked", found.checked),
            ("damaged", found.damaged),
            ("out of order", found.out_of_order),
            ("duplicated", found.duplicated),
            ("lost", found.lost),
        ];
        counts.map(|(name, count)| (name.to_owned(), grouped(count))).to_vec()
    });
    html! {
        @match findings {
            Some(rows) => { (pairs("Validation", rows)) }
            None => {
                section.card { h2 { "Validation" } p { "Not asked for: --validate checks every record." } }
            }
        }
        @if !report.errors.is_empty() {
            section.card { h2 { "Errors" } ul.errors { @for error in &report.errors { li { (error) } } } }
        }
    }
}

#[cfg(test)]
mod tests;
