//! The figures of two runs, side by side with their ratio.

use std::collections::BTreeSet;

use super::{Recorded, mode_of};
use crate::report::Latency;
use crate::report::figures::{bytes, figure};

/// A ratio within this distance from one is no difference worth a colour.
const RATIO_NOISE: f64 = 0.05;

/// A figure of both runs.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name, with its unit.
    pub name: String,
    /// The earlier run's.
    pub then: Option<f64>,
    /// This run's.
    pub now: Option<f64>,
    /// Whether more of it is better.
    more_is_better: bool,
    text: fn(f64) -> String,
}

/// Which way a figure went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Better by more than runs differ by themselves.
    Better,
    /// Worse likewise.
    Worse,
    /// Neither, or unknown.
    Same,
}

impl Row {
    /// This run's figure divided by the earlier one's.
    pub fn ratio(&self) -> Option<f64> {
        let ratio = self.now? / self.then.filter(|then| *then > 0.0)?;
        ratio.is_finite().then_some(ratio)
    }

    /// Which way it went.
    pub fn change(&self) -> Change {
        match self.ratio() {
            Some(ratio) if ratio > 1.0 + RATIO_NOISE && self.more_is_better => Change::Better,
            Some(ratio) if ratio < 1.0 - RATIO_NOISE && !self.more_is_better => Change::Better,
            Some(ratio) if (ratio - 1.0).abs() > RATIO_NOISE => Change::Worse,
            _ => Change::Same,
        }
    }

    /// Then, now and ratio as they are shown.
    pub fn texts(&self) -> [String; 3] {
        let shown = |value: Option<f64>| value.map_or("–".to_owned(), self.text);
        let ratio = self.ratio().map_or("–".to_owned(), |ratio| match ratio {
            small if small < 0.1 => format!("{small:.4}"),
            _ => format!("{ratio:.2}"),
        });
        [shown(self.then), shown(self.now), ratio]
    }
}

pub fn rows(then: &Recorded, now: &Recorded) -> Vec<Row> {
    let row = |name: &str, of: &dyn Fn(&Recorded) -> Option<f64>, text| Row {
        name: name.to_owned(),
        then: of(then),
        now: of(now),
        more_is_better: false,
        text,
    };
    let more = |name: &str, of: &dyn Fn(&Recorded) -> Option<f64>| Row {
        more_is_better: true,
        ..row(name, of, figure)
    };
    let (unit, each) = match mode_of(now) {
        Some("topics") => ("topics/s", "broker CPU per million topics (s)"),
        _ => ("messages/s", "broker CPU per million messages (s)"),
    };
    let mut rows = vec![
        more(unit, &|run| Some(run.messages_per_second)),
        more("MB/s", &|run| Some(run.megabytes_per_second)),
    ];
    rows.extend(
        PERCENTILES
            .map(|(name, of)| row(&format!("latency {name} (ms)"), &|run| latency(&run.latency, of), figure)),
    );
    // A mode without messages has no bytes to share the cost out on.
    let per_gigabyte = |run: &Recorded| run.broker.filter(|_| run.megabytes_per_second > 0.0);
    rows.extend([
        row("broker CPU per GB (s)", &|run| Some(per_gigabyte(run)?.cpu_seconds_per_gb), figure),
        row(each, &|run| Some(run.broker?.cpu_seconds_per_million), figure),
        row("broker memory", &|run| Some(run.broker?.resident_bytes as f64), memory),
        row("broker memory of its own", &|run| Some(run.broker?.anonymous_bytes as f64), memory),
    ]);
    let mut names: Vec<&str> = now.beside.iter().chain(&then.beside).map(|beside| &*beside.name).collect();
    let mut known = BTreeSet::new();
    names.retain(|name| known.insert(*name));
    for name in names {
        let find = |run: &Recorded| run.beside.iter().find(|beside| beside.name == name).cloned();
        rows.push(more(&format!("{name}: {unit}"), &|run| Some(find(run)?.messages_per_second)));
        rows.extend(PERCENTILES.map(|(percentile, of)| {
            row(&format!("{name}: {percentile} (ms)"), &|run| latency(&find(run)?.latency, of), figure)
        }));
    }
    rows
}

/// A percentile's name, and what it is of a run.
type Percentile = (&'static str, fn(&Latency) -> f64);

/// The percentiles that are compared.
const PERCENTILES: [Percentile; 5] = [
    ("p50", |latency| latency.p50_ms),
    ("p99", |latency| latency.p99_ms),
    ("p99.9", |latency| latency.p999_ms),
    ("p99.99", |latency| latency.p9999_ms),
    ("max", |latency| latency.max_ms),
];

/// A percentile, if there are latencies at all.
fn latency(latency: &Latency, of: fn(&Latency) -> f64) -> Option<f64> {
    (latency.count > 0).then(|| of(latency))
}

fn memory(count: f64) -> String {
    bytes(count as u64)
}
