//! The result of a run, in the form in which all outputs write it.

pub mod charts;
pub mod compare;
pub mod csv;
pub mod figures;
pub mod json;
pub mod page;
mod plot;
mod scale;
pub mod table;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::broker_process::BrokerProcess;
use crate::cli::Options;
use crate::host::Host;
use crate::notes::{self, Ending};
use crate::proc::Cost;
use crate::run::Measurement;
use crate::schedule::{Extent, Span};
use crate::stats::Sample;
use crate::validation::Findings;

/// The percentiles of the latency curve, three for each further nine.
const CURVE: [f64; 22] = [
    0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.975, 99.99, 99.995,
    99.9975, 99.999, 99.9995, 99.99975, 99.9999, 100.0,
];

/// Everything a run found, with its settings and the host; as they are now, or as an earlier version of this tool recorded them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report<S = Options, H = Host> {
    /// Version of this tool.
    pub version: String,
    /// Seconds since 1970 at the end of the run.
    pub finished_at: u64,
    /// All flags.
    pub settings: S,
    /// The machine of this tool.
    pub host: H,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Seconds of measurement, exactly what rates are divided by.
    pub elapsed_seconds: f64,
    /// Messages completed in the measurement.
    pub messages: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Failed messages, the warm-up's included.
    pub failures: u64,
    /// Messages of the measurement that completed after its end: in the latency, not in the rate.
    pub stragglers: u64,
    /// Messages a second.
    pub messages_per_second: f64,
    /// 10^6 bytes a second.
    pub megabytes_per_second: f64,
    /// Latency.
    pub latency: Latency,
    /// What went on beside it, or before or after it.
    #[serde(default)]
    pub beside: Vec<Beside>,
    /// The broker's cost, with `--broker-pid`.
    pub broker: Option<Cost>,
    /// What the broker calls itself, with `--broker-pid`.
    pub broker_version: Option<String>,
    /// Type of the file system of the broker's data, with `--broker-pid`.
    pub broker_file_system: Option<String>,
    /// The validation's findings, with `--validate`.
    pub validation: Option<Findings>,
    /// What went wrong, each text once.
    pub errors: Vec<String>,
    /// How the figures are to be taken: a rate that was not reached, an interruption.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The measurement by report interval.
    pub time_line: Vec<Interval>,
}

/// The report of a scenario's run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Named<S = Options, H = Host> {
    /// The run's name.
    pub name: String,
    /// What it found.
    #[serde(flatten)]
    pub report: Report<S, H>,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub count: u64,
    pub min_ms: f64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub p9999_ms: f64,
    pub max_ms: f64,
    /// Pairs of percentile and milliseconds, as far as the count of messages supports them: each
    /// percentile but the last, which is the greatest latency, has a message beyond it.
    pub curve: Vec<(f64, f64)>,
}

/// What a mode measures besides its main subject: acknowledgements, a backlog's writing, deletions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beside {
    /// What it is.
    pub name: String,
    /// Seconds of its measurement.
    pub elapsed_seconds: f64,
    /// How many there were.
    pub messages: u64,
    /// How many a second.
    pub messages_per_second: f64,
    /// 10^6 bytes a second.
    pub megabytes_per_second: f64,
    /// Latency.
    pub latency: Latency,
}

impl Beside {
    /// What a measurement says of what went on beside its main part, in the same time.
    pub fn of_part(name: &'static str, measurement: &Measurement) -> Self {
        Self::of_sample(name, &measurement.totals.beside, measurement.elapsed_ns)
    }

    /// The main part of a measurement of its own.
    pub fn of_step(name: &'static str, measurement: &Measurement) -> Self {
        Self::of_sample(name, &measurement.totals.measured, measurement.elapsed_ns)
    }

    /// What was done before the measurement: one latency for each time.
    pub fn of_latencies(name: &'static str, elapsed_ns: u64, latency_us: &Histogram<u64>) -> Self {
        Self::new(name, (latency_us.len(), 0), latency_us, elapsed_ns)
    }

    fn of_sample(name: &'static str, sample: &Sample, elapsed_ns: u64) -> Self {
        Self::new(name, (sample.message_count, sample.byte_count), &sample.latency_us, elapsed_ns)
    }

    fn new(
        name: &'static str,
        (messages, bytes): (u64, u64),
        latency_us: &Histogram<u64>,
        elapsed_ns: u64,
    ) -> Self {
        let elapsed_seconds = elapsed_ns as f64 / 1e9;
        let per_second = |amount: u64| amount as f64 / elapsed_seconds.max(1e-9);
        Self {
            name: name.to_owned(),
            elapsed_seconds,
            messages,
            messages_per_second: per_second(messages),
            megabytes_per_second: per_second(bytes) / 1e6,
            latency: Latency::new(latency_us),
        }
    }
}

/// One report interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// Seconds from the start of the measurement to the interval's start; the warm-up's are
    /// negative.
    pub at_seconds: f64,
    /// Its length: that of `--report-interval-secs`, less at the ends of a run.
    pub seconds: f64,
    /// Messages a second.
    pub messages_per_second: f64,
    /// Median latency, if there was any.
    pub p50_ms: Option<f64>,
    /// 99th percentile of the latency.
    pub p99_ms: Option<f64>,
    /// Failed messages.
    pub failures: u64,
}

impl Latency {
    fn new(histogram_us: &Histogram<u64>) -> Self {
        let at = |percentile: f64| histogram_us.value_at_percentile(percentile) as f64 / 1e3;
        let count = histogram_us.len();
        let is_supported = |percentile: f64| {
            let beyond = (1.0 - percentile / 100.0) * count as f64;
            count > 0 && (percentile == 100.0 || beyond >= 1.0 - 1e-9)
        };
        let percentiles = CURVE.into_iter().filter(|percentile| is_supported(*percentile));
        Self {
            count,
            min_ms: histogram_us.min() as f64 / 1e3,
            mean_ms: histogram_us.mean() / 1e3,
            p50_ms: at(50.0),
            p90_ms: at(90.0),
            p99_ms: at(99.0),
            p999_ms: at(99.9),
            p9999_ms: at(99.99),
            max_ms: histogram_us.max() as f64 / 1e3,
            curve: percentiles.map(|percentile| (percentile, at(percentile))).collect(),
        }
    }
}

impl Report {
    /// The report of a measurement.
    pub fn new(
        options: &Options,
        partitions: i32,
        measurement: &Measurement,
        beside: Vec<Beside>,
        validation: Option<Findings>,
        errors: Vec<String>,
    ) -> Self {
        let measured = &measurement.totals.measured;
        let elapsed_seconds = measurement.elapsed_ns as f64 / 1e9;
        let per_second = |amount: u64| amount as f64 / elapsed_seconds.max(1e-9);
        let cost = |(start, end): &(crate::proc::Usage, _)| {
            start.cost_until(end, measured.byte_count, measured.message_count)
        };
        let process = options.broker_pid.map(BrokerProcess::read).unwrap_or_default();
        let ending = Ending {
            messages: measured.message_count,
            elapsed_seconds,
            is_interrupted: measurement.is_interrupted,
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            finished_at: std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            settings: options.clone(),
            host: Host::read(),
            partitions,
            elapsed_seconds,
            messages: measured.message_count,
            bytes: measured.byte_count,
            failures: measurement.totals.failure_count,
            stragglers: measurement.totals.drained_count,
            messages_per_second: per_second(measured.message_count),
            megabytes_per_second: per_second(measured.byte_count) / 1e6,
            latency: Latency::new(&measured.latency_us),
            beside,
            broker: measurement.usage.as_ref().map(cost),
            broker_version: process.version,
            broker_file_system: process.file_system,
            validation,
            errors,
            notes: notes::after(options, ending),
            time_line: time_line(&measurement.totals.intervals, measurement.extent),
        }
    }

    /// The same with one more failure.
    pub fn with_failure(mut self, error: String) -> Self {
        self.failures += 1;
        self.errors.push(error);
        self
    }

    /// Something was measured, nothing failed and nothing was found wrong.
    pub fn is_clean(&self) -> bool {
        self.messages > 0 && self.failures == 0 && self.validation.is_none_or(|findings| findings.is_clean())
    }
}

/// All intervals from the begin of the warm-up to the end of the run, those in which
/// nothing was completed included: a stall must show.
fn time_line(samples: &BTreeMap<i64, Sample>, extent: Extent) -> Vec<Interval> {
    if samples.is_empty() && extent.elapsed_ns() == 0 {
        return Vec::new();
    }
    let numbers = extent.numbers();
    let first = samples.keys().next().map_or(numbers.start, |first| numbers.start.min(*first));
    let end = samples.keys().next_back().map_or(numbers.end, |last| numbers.end.max(*last + 1));
    (first..end).map(|number| interval(extent.span(number), samples.get(&number))).collect()
}

fn interval(span: Span, sample: Option<&Sample>) -> Interval {
    let latency = sample.map(|sample| &sample.latency_us).filter(|histogram| !histogram.is_empty());
    let at = |percentile: f64| Some(latency?.value_at_percentile(percentile) as f64 / 1e3);
    Interval {
        at_seconds: span.start_ns as f64 / 1e9,
        seconds: span.seconds(),
        messages_per_second: sample.map_or(0.0, |sample| sample.message_count as f64 / span.seconds()),
        p50_ms: at(50.0),
        p99_ms: at(99.0),
        failures: sample.map_or(0, |sample| sample.failure_count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Phase;
    use crate::stats::{Part, histogram};

    fn sample(interval: i64, message_count: u64) -> (i64, Sample) {
        let mut latency_us = histogram();
        latency_us.record_n(1_500, message_count).unwrap();
        let phase = if interval < 0 { Phase::Warmup } else { Phase::Measured };
        let (byte_count, failure_count, last_ns) = (0, 0, 0);
        let part = Part::Main;
        (
            interval,
            Sample { part, phase, interval, message_count, byte_count, failure_count, last_ns, latency_us },
        )
    }

    fn extent(warmup_ms: u64, end_ms: i64) -> Extent {
        Extent { warmup_ns: warmup_ms * 1_000_000, end_ns: end_ms * 1_000_000, interval_ns: 1_000_000_000 }
    }

    fn starts_and_rates(time_line: &[Interval]) -> Vec<(f64, f64)> {
        time_line.iter().map(|at| (at.at_seconds, at.messages_per_second)).collect()
    }

    #[test]
    fn a_stall_shows_in_the_time_line() {
        let samples = BTreeMap::from([sample(0, 100), sample(2, 100)]);
        let found = time_line(&samples, extent(0, 4_000));
        assert_eq!(starts_and_rates(&found), [(0.0, 100.0), (1.0, 0.0), (2.0, 100.0), (3.0, 0.0)]);
        assert_eq!(found[0].p50_ms.map(f64::round), Some(2.0));
        assert_eq!((found[1].p50_ms, found[1].p99_ms), (None, None));
    }

    #[test]
    fn short_intervals_at_the_ends_have_their_true_rates() {
        let samples = BTreeMap::from([sample(-1, 50), sample(0, 100), sample(1, 25)]);
        let found = time_line(&samples, extent(500, 1_250));
        assert_eq!(starts_and_rates(&found), [(-0.5, 100.0), (0.0, 100.0), (1.0, 100.0)]);
        assert_eq!(found[2].seconds, 0.25);
    }

    #[test]
    fn a_run_that_ended_in_its_warm_up_has_no_later_interval() {
        let samples = BTreeMap::from([sample(-3, 50), sample(-2, 100)]);
        let found = time_line(&samples, extent(2_500, -1_500));
        assert_eq!(starts_and_rates(&found), [(-2.5, 100.0), (-2.0, 200.0)]);
        assert_eq!(found[1].seconds, 0.5);
    }

    #[test]
    fn failures_after_the_last_message_are_kept() {
        let samples = BTreeMap::from([sample(0, 1), sample(5, 0)]);
        let found = time_line(&samples, extent(0, 500));
        assert_eq!(found.len(), 6);
        assert!(found.iter().all(|at| at.seconds > 0.0 && at.messages_per_second.is_finite()));
    }

    #[test]
    fn nothing_has_no_time_line() {
        assert!(time_line(&BTreeMap::new(), extent(5_000, 0)).is_empty());
    }

    #[test]
    fn the_curve_ends_where_the_messages_do() {
        let curve = |count| Latency::new(&sample(0, count).1.latency_us).curve;
        assert!(curve(0).is_empty());
        let percentiles = |count| curve(count).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(percentiles(1), [0.0, 100.0]);
        assert_eq!(percentiles(10), [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 100.0]);
        assert_eq!(percentiles(1_000_000), CURVE);
    }
}
