//! The result of a run, in the form in which all outputs write it.

pub mod csv;
pub mod json;
pub mod table;

use std::fs;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::Options;
use crate::proc::Cost;
use crate::run::Measurement;
use crate::stats::Sample;
use crate::validation::Findings;

/// The percentiles of the latency curve.
const CURVE: [f64; 17] = [
    0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999, 99.9999,
    100.0,
];

/// Everything a run found, with its settings and the host.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this tool.
    pub version: &'static str,
    /// Seconds since 1970 at the end of the run.
    pub finished_at: u64,
    /// All flags.
    pub settings: Options,
    /// The machine of this tool.
    pub host: Host,
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
    pub beside: Vec<Beside>,
    /// The broker's cost, with `--broker-pid`.
    pub broker: Option<Cost>,
    /// The validation's findings, with `--validate`.
    pub validation: Option<Findings>,
    /// What went wrong, each text once.
    pub errors: Vec<String>,
    /// The measurement by report interval.
    pub time_line: Vec<Interval>,
}

/// The report of a scenario's run.
#[derive(Debug, Serialize)]
pub struct Named {
    /// The run's name.
    pub name: String,
    /// What it found.
    #[serde(flatten)]
    pub report: Report,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Serialize)]
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
    /// Pairs of percentile and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

/// What a mode measures besides its main subject: acknowledgements, a backlog's writing, deletions.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    /// What it is.
    pub name: &'static str,
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
        Self::new(name, &measurement.totals.beside, measurement.elapsed_ns)
    }

    /// The main part of a measurement of its own.
    pub fn of_step(name: &'static str, measurement: &Measurement) -> Self {
        Self::new(name, &measurement.totals.measured, measurement.elapsed_ns)
    }

    fn new(name: &'static str, sample: &Sample, elapsed_ns: u64) -> Self {
        let elapsed_seconds = elapsed_ns as f64 / 1e9;
        let per_second = |amount: u64| amount as f64 / elapsed_seconds.max(1e-9);
        Self {
            name,
            elapsed_seconds,
            messages: sample.message_count,
            messages_per_second: per_second(sample.message_count),
            megabytes_per_second: per_second(sample.byte_count) / 1e6,
            latency: Latency::new(&sample.latency_us),
        }
    }
}

/// One report interval.
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// Seconds from the start of the measurement to the interval's start; the warm-up's are
    /// negative.
    pub at_seconds: i64,
    /// Messages a second.
    pub messages_per_second: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// 99th percentile of the latency.
    pub p99_ms: f64,
    /// Failed messages.
    pub failures: u64,
}

/// The machine this tool ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Model of the first processor.
    pub cpu: String,
    /// Processors.
    pub cpu_count: usize,
    /// Kernel.
    pub kernel: String,
    /// Load averages over 1, 5 and 15 minutes at the end.
    pub load: String,
    /// librdkafka's version.
    pub librdkafka: String,
}

impl Host {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            cpu_count: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            librdkafka: rdkafka::util::get_rdkafka_version().1,
        }
    }
}

impl Latency {
    fn new(histogram_us: &Histogram<u64>) -> Self {
        let at = |percentile: f64| histogram_us.value_at_percentile(percentile) as f64 / 1e3;
        Self {
            count: histogram_us.len(),
            min_ms: histogram_us.min() as f64 / 1e3,
            mean_ms: histogram_us.mean() / 1e3,
            p50_ms: at(50.0),
            p90_ms: at(90.0),
            p99_ms: at(99.0),
            p999_ms: at(99.9),
            p9999_ms: at(99.99),
            max_ms: histogram_us.max() as f64 / 1e3,
            curve: CURVE.iter().map(|&percentile| (percentile, at(percentile))).collect(),
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
        Self {
            version: env!("CARGO_PKG_VERSION"),
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
            validation,
            errors,
            time_line: time_line(options, measurement),
        }
    }

    /// Nothing failed and nothing was found wrong.
    pub fn is_clean(&self) -> bool {
        self.failures == 0 && self.validation.is_none_or(|findings| findings.is_clean())
    }
}

fn time_line(options: &Options, measurement: &Measurement) -> Vec<Interval> {
    let seconds = i64::from(options.report_interval_secs);
    let point = |(&interval, sample): (&i64, &Sample)| Interval {
        at_seconds: interval * seconds,
        messages_per_second: sample.message_count as f64 / seconds as f64,
        p50_ms: sample.latency_us.value_at_percentile(50.0) as f64 / 1e3,
        p99_ms: sample.latency_us.value_at_percentile(99.0) as f64 / 1e3,
        failures: sample.failure_count,
    };
    measurement.totals.intervals.iter().map(point).collect()
}
