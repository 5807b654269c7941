//! Metric families of one scrape, and their way through `prometheus-client`'s encoder.
//!
//! The encoder appends `_total` to counters only below a `# TYPE` line without it, as OpenMetrics wants. The classic text
//! format, which every scraper reads, has the same name in both places: so counters are given their whole name and are
//! encoded as plain values under the type `counter`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::metrics::{LATENCY_BOUNDS_US, Latency};

/// The labels of a sample.
pub(super) type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Value {
    Integer(i64),
    Float(f64),
    Histogram { sum_seconds: f64, buckets: Vec<(f64, u64)> },
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Labels, Value)>,
}

/// The families of one scrape, in the order in which they are declared.
#[derive(Debug, Default)]
pub(super) struct Families {
    families: Vec<Family>,
}

impl Families {
    /// Begins a counter. Its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> &mut Self {
        debug_assert!(name.ends_with("_total"), "{name} counts");
        self.family(name, help, MetricType::Counter)
    }

    /// Begins a gauge.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> &mut Self {
        self.family(name, help, MetricType::Gauge)
    }

    /// Begins a histogram. Its name ends in its unit.
    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str) -> &mut Self {
        self.family(name, help, MetricType::Histogram)
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: MetricType) -> &mut Self {
        self.families.push(Family { name, help, kind, samples: Vec::new() });
        self
    }

    /// A whole number for the family begun last.
    pub(super) fn set(&mut self, labels: Labels, value: impl TryInto<i64>) -> &mut Self {
        self.sample(labels, Value::Integer(value.try_into().unwrap_or(i64::MAX)))
    }

    /// A number for the family begun last.
    pub(super) fn set_float(&mut self, labels: Labels, value: f64) -> &mut Self {
        self.sample(labels, Value::Float(value))
    }

    /// The sum of latencies for the family begun last, in seconds.
    pub(super) fn set_latency<'a>(
        &mut self,
        labels: Labels,
        of: impl IntoIterator<Item = &'a Latency>,
    ) -> &mut Self {
        let mut counts = [0; LATENCY_BOUNDS_US.len() + 1];
        let mut sum_us = 0;
        for latency in of {
            counts.iter_mut().zip(latency.counts()).for_each(|(sum, count)| *sum += count);
            sum_us += latency.sum_us();
        }
        let bounds = LATENCY_BOUNDS_US.iter().map(|bound_us| *bound_us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets = bounds.zip(counts).collect();
        self.sample(labels, Value::Histogram { sum_seconds: sum_us as f64 / 1e6, buckets })
    }

    fn sample(&mut self, labels: Labels, value: Value) -> &mut Self {
        if let Some(family) = self.families.last_mut() {
            family.samples.push((labels, value));
        }
        self
    }

    /// The families as Prometheus text. A family without samples is left out.
    ///
    /// # Errors
    /// When the encoder refuses a value.
    pub(super) fn encode(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode_registry(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in self.families.iter().filter(|family| !family.samples.is_empty()) {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    encode_value(&mut metric, value)?;
                } else {
                    encode_value(&mut metric.encode_family(labels)?, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(metric: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Integer(value) => metric.encode_gauge(value),
        Value::Float(value) => metric.encode_gauge(value),
        Value::Histogram { sum_seconds, buckets } => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(*sum_seconds, count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_encoded_in_the_classic_text_format() {
        let latency = Latency::default();
        latency.record(60);
        latency.record(20_000_000);
        let mut families = Families::default();
        families.counter("a_total", "Counts.").set(vec![], 7u64);
        families.gauge("empty", "Nothing.");
        families.gauge("g", "Has.").set(vec![("x", "q\"\\\n".into())], -2).set_float(vec![], 0.5);
        families
            .histogram("h_seconds", "Took.")
            .set_latency(vec![("api", "Fetch".into())], [&latency, &latency]);
        let text = families.encode().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["# HELP a_total Counts.", "# TYPE a_total counter", "a_total 7"]);
        assert_eq!(
            lines[3..7],
            ["# HELP g Has.", "# TYPE g gauge", "g{x=\"q\\\"\\\\\\n\"} -2", "g 0.5"],
            "a family without samples is left out"
        );
        assert_eq!(lines[8], "# TYPE h_seconds histogram");
        assert!(lines.contains(&"h_seconds_sum{api=\"Fetch\"} 40.00012"));
        assert!(lines.contains(&"h_seconds_count{api=\"Fetch\"} 4"));
        assert!(lines.contains(&"h_seconds_bucket{le=\"0.0001\",api=\"Fetch\"} 2"), "{text}");
        assert_eq!(*lines.last().unwrap(), "h_seconds_bucket{le=\"+Inf\",api=\"Fetch\"} 4");
    }
}
