//! This run against an earlier one: figures side by side with their ratio, and everything in
//! which the two runs differ, so that nobody takes a change of the settings or of the machine for
//! one of the broker.
//!
//! Both sides are read from the same form, the JSON output, by the same code.

mod row;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use self::row::rows;
pub use self::row::{Change, Row};

use crate::cli::Options;
use crate::report::figures::bytes;
use crate::report::{Named, Report};
use crate::scenario;

/// Settings that say where results go and what is shown of them, not what is measured.
const INCIDENTAL: [&str; 9] = [
    "broker_pid",
    "compare",
    "csv_output",
    "json_output",
    "prometheus_port",
    "report",
    "report_interval_secs",
    "scenario",
    "verbose",
];
/// What the load averages say is of a moment, not of the machine.
const MOMENTARY: &str = "load";

/// A report as it was recorded, by this version of this tool or by another: settings and host may have other fields.
type Recorded = Report<Map<String, Value>, Map<String, Value>>;

/// An earlier run or the runs of a scenario, and where they were read.
#[derive(Debug)]
pub struct Earlier {
    path: PathBuf,
    /// By name; that of a run outside of a scenario is empty.
    runs: BTreeMap<String, Recorded>,
}

/// What the file holds.
#[derive(Deserialize)]
struct Runs {
    runs: Vec<Named<Map<String, Value>, Map<String, Value>>>,
}

/// What will be run.
#[derive(Clone, Copy, Debug)]
pub enum Planned<'a> {
    /// One run.
    Single(&'a Options),
    /// The runs of a scenario.
    Scenario(&'a [scenario::Planned]),
}

impl Earlier {
    /// Reads a report that `--json-output` wrote, which must fit what will be run: as single or as a scenario, and in the modes.
    pub fn read(path: &Path, planned: Planned<'_>) -> Result<Self> {
        let text =
            fs::read(path).with_context(|| format!("cannot read {} to compare with", path.display()))?;
        let runs =
            parse(&text, planned).with_context(|| format!("cannot compare with {}", path.display()))?;
        Ok(Self { path: path.to_owned(), runs })
    }

    /// Compares a run with the earlier one of this name, if there is one.
    pub fn compare(&self, name: &str, report: &Report) -> Result<Option<Comparison>> {
        let now = serde_json::from_value(serde_json::to_value(report)?)?;
        Ok(self.runs.get(name).map(|then| Comparison::of(&self.path, then, &now)))
    }
}

fn parse(text: &[u8], planned: Planned<'_>) -> Result<BTreeMap<String, Recorded>> {
    const FOREIGN: &str = "not a report that chronik-bench wrote with --json-output";
    let value: Value = serde_json::from_slice(text).context(FOREIGN)?;
    let is_scenario = value.get("runs").is_some();
    let runs: BTreeMap<String, Recorded> = match is_scenario {
        true => {
            let found: Runs = serde_json::from_value(value).context(FOREIGN)?;
            found.runs.into_iter().map(|run| (run.name, run.report)).collect()
        }
        false => BTreeMap::from([(String::new(), serde_json::from_value(value).context(FOREIGN)?)]),
    };
    ensure!(runs.values().all(|run| mode_of(run).is_some()), "{FOREIGN}: no mode is named");
    let same_mode = |name: &str, options: &Options| match runs.get(name).and_then(mode_of) {
        Some(then) if then != options.mode.name() => {
            bail!(
                "its mode was {then}, and this is {}: their figures are of different things",
                options.mode.name()
            )
        }
        _ => Ok(()),
    };
    match planned {
        Planned::Single(_) if is_scenario => {
            bail!("it holds the runs of a scenario, and this is a single run")
        }
        Planned::Single(options) => same_mode("", options)?,
        Planned::Scenario(_) if !is_scenario => bail!("it holds a single run, and this is a scenario"),
        Planned::Scenario(planned) => {
            ensure!(
                planned.iter().any(|run| runs.contains_key(&run.name)),
                "it has none of this scenario's runs, but {}",
                runs.into_keys().collect::<Vec<_>>().join(", ")
            );
            for run in planned {
                same_mode(&run.name, &run.options).with_context(|| format!("run \"{}\"", run.name))?;
            }
        }
    }
    Ok(runs)
}

fn mode_of(run: &Recorded) -> Option<&str> {
    run.settings.get("mode")?.as_str()
}

/// Two runs side by side.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The file of the earlier run.
    pub path: PathBuf,
    /// Seconds from the earlier run's end to this one's.
    pub age_seconds: u64,
    /// The figures.
    pub rows: Vec<Row>,
    /// Settings that differ and bear on the result.
    pub settings: Vec<Difference>,
    /// Names of other settings that differ.
    pub incidental: Vec<String>,
    /// What differs in the machine.
    pub host: Vec<Difference>,
    /// What differs in the broker and in this tool.
    pub programs: Vec<Difference>,
}

/// Something of two values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// In the earlier run.
    pub then: String,
    /// In this run.
    pub now: String,
}

impl Comparison {
    /// All that differs and bears on the result, in named groups.
    pub fn groups(&self) -> [(&'static str, &[Difference]); 3] {
        [("settings", &self.settings), ("programs", &self.programs), ("host", &self.host)]
    }

    fn of(path: &Path, then: &Recorded, now: &Recorded) -> Self {
        let (incidental, mut settings) = differences(&then.settings, &now.settings)
            .into_iter()
            .partition::<Vec<_>, _>(|difference| INCIDENTAL.contains(&difference.name.as_str()));
        settings.iter_mut().for_each(|difference| difference.name = flag_of(&difference.name));
        let partitions = ("partitions of the topic", then.partitions.into(), now.partitions.into());
        settings.extend(difference(partitions));
        let mut host = differences(&then.host, &now.host);
        host.retain(|difference| difference.name != MOMENTARY);
        host.iter_mut().for_each(|difference| difference.name = host_label(&difference.name));
        let text = |known: &Option<String>| known.clone().unwrap_or("unknown".to_owned()).into();
        let programs = [
            ("chronik-bench", then.version.clone().into(), now.version.clone().into()),
            ("broker", text(&then.broker_version), text(&now.broker_version)),
            (
                "file system of the broker's data",
                text(&then.broker_file_system),
                text(&now.broker_file_system),
            ),
        ];
        Self {
            path: path.to_owned(),
            age_seconds: now.finished_at.saturating_sub(then.finished_at),
            rows: rows(then, now),
            settings,
            incidental: incidental.into_iter().map(|difference| flag_of(&difference.name)).collect(),
            host,
            programs: programs.into_iter().filter_map(difference).collect(),
        }
    }
}

/// What differs in two sets of values, by name. A value that one side does not have is unknown
/// there, not equal.
fn differences(then: &Map<String, Value>, now: &Map<String, Value>) -> Vec<Difference> {
    let mut names: Vec<&String> = then.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let value = |side: &Map<String, Value>, name: &str| match side.get(name) {
        Some(value) => shown(name, value),
        None => "not recorded".to_owned(),
    };
    let all = names.into_iter().map(|name| Difference {
        then: value(then, name),
        now: value(now, name),
        name: name.clone(),
    });
    all.filter(|difference| difference.then != difference.now).collect()
}

fn difference((name, then, now): (&str, Value, Value)) -> Option<Difference> {
    let (name, then, now) = (name.to_owned(), shown(name, &then), shown(name, &now));
    (then != now).then_some(Difference { name, then, now })
}

/// The flag of a setting.
pub fn flag_of(setting: &str) -> String {
    format!("--{}", setting.replace('_', "-"))
}

/// What a field of the host is called.
pub fn host_label(field: &str) -> String {
    field.strip_suffix("_bytes").unwrap_or(field).replace('_', " ")
}

/// The value of a field of the JSON output for people: durations in seconds, nothing as `none`.
pub fn shown(field: &str, value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| shown(field, item)).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let part = |name| fields.get(name).and_then(Value::as_f64);
            match (part("secs"), part("nanos"), fields.len()) {
                (Some(seconds), Some(nanoseconds), 2) => format!("{} s", seconds + nanoseconds / 1e9),
                _ => value.to_string(),
            }
        }
        Value::Number(number) => match number.as_u64().filter(|_| field == "memory_bytes") {
            Some(count) => bytes(count),
            None => number.to_string(),
        },
        Value::Bool(_) => value.to_string(),
    }
}

/// A length of time for people, in its greatest whole unit.
pub fn age(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit}")
}

/// The comparison for people, several lines.
pub fn render(comparison: &Comparison) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "\ncompared with    {}, {} earlier",
        comparison.path.display(),
        age(comparison.age_seconds)
    );
    let _ = writeln!(text, "{:<36} {:>12} {:>12} {:>8}", "", "then", "now", "ratio");
    for row in &comparison.rows {
        let [then, now, ratio] = row.texts();
        let _ = writeln!(text, "{:<36} {then:>12} {now:>12} {ratio:>8}", row.name);
    }
    for (group, differences) in comparison.groups() {
        if differences.is_empty() {
            let _ = writeln!(text, "{group:<16} the same");
        }
        for Difference { name, then, now } in differences {
            let _ = writeln!(text, "{group:<16} DIFFER: {name} was {then}, is {now}");
        }
    }
    if !comparison.incidental.is_empty() {
        let _ = writeln!(text, "{:<16} {} differ too", "of no influence", comparison.incidental.join(", "));
    }
    text
}

#[cfg(test)]
mod tests;
