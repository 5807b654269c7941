//! Metrics of the run while it lasts, for Prometheus: `--prometheus-port`. The reporter adds each thread's sample as it comes;
//! a thread of its own answers `GET /metrics` on all addresses of the host.

use std::sync::atomic::AtomicU64;
use std::thread;

use anyhow::{Result, anyhow};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tiny_http::{Header, Method, Request, Response, Server};

use crate::schedule::{Phase, Span};
use crate::stats::{Part, Sample};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Percentiles of the last interval's latency.
const QUANTILES: [(&str, f64); 4] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999)];

/// Which messages a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Counted {
    phase: &'static str,
    part: &'static str,
}

/// A percentile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quantile {
    quantile: &'static str,
}

/// What `/metrics` shows.
#[derive(Debug, Default)]
pub struct Live {
    messages: Family<Counted, Counter>,
    bytes: Family<Counted, Counter>,
    failures: Family<Counted, Counter>,
    messages_per_second: Gauge<f64, AtomicU64>,
    latency_seconds: Family<Quantile, Gauge<f64, AtomicU64>>,
}

impl Live {
    /// Metrics that are served on `port`.
    pub fn serve(port: u16) -> Result<Self> {
        let live = Self::default();
        let registry = live.registry();
        let server = Server::http(("0.0.0.0", port))
            .map_err(|error| anyhow!("cannot listen on port {port} for Prometheus: {error}"))?;
        thread::spawn(move || {
            for request in server.incoming_requests() {
                // Who asks and does not wait for the answer is nobody's trouble.
                let _ = answer(request, &registry);
            }
        });
        Ok(live)
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("chronik_bench");
        registry.register("messages", "Messages completed", self.messages.clone());
        registry.register("bytes", "Bytes of their values", self.bytes.clone());
        registry.register("failures", "Messages that failed", self.failures.clone());
        let rate = self.messages_per_second.clone();
        registry.register("messages_per_second", "Messages a second in the last interval", rate);
        let latency = self.latency_seconds.clone();
        registry.register("latency_seconds", "Latency in the last interval", latency);
        registry
    }

    /// A thread's sample.
    pub fn add(&self, sample: &Sample) {
        let phase = match sample.phase {
            Phase::Warmup => "warm-up",
            Phase::Measured => "measured",
            Phase::Drain => "drain",
        };
        let part = match sample.part {
            Part::Main => "main",
            Part::Beside => "beside",
        };
        let counted = Counted { phase, part };
        self.messages.get_or_create(&counted).inc_by(sample.message_count);
        self.bytes.get_or_create(&counted).inc_by(sample.byte_count);
        self.failures.get_or_create(&counted).inc_by(sample.failure_count);
    }

    /// An interval is complete.
    pub fn interval(&self, span: Span, sample: &Sample) {
        self.messages_per_second.set(sample.message_count as f64 / span.seconds());
        for (name, quantile) in QUANTILES {
            let latency_us = sample.latency_us.value_at_quantile(quantile);
            self.latency_seconds.get_or_create(&Quantile { quantile: name }).set(latency_us as f64 / 1e6);
        }
    }
}

fn answer(request: Request, registry: &Registry) -> std::io::Result<()> {
    if request.method() != &Method::Get || request.url() != "/metrics" {
        let elsewhere = Response::from_string("the metrics are at /metrics\n").with_status_code(404);
        return request.respond(elsewhere);
    }
    let mut text = String::new();
    encode(&mut text, registry).map_err(std::io::Error::other)?;
    let kind = Header::from_bytes("Content-Type", CONTENT_TYPE).expect("a constant header is valid");
    request.respond(Response::from_string(text).with_header(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Totals;

    #[test]
    fn a_short_interval_has_its_true_rate() {
        let live = Live::default();
        let mut sample = Totals::default().measured;
        sample.message_count = 500;
        live.interval(Span { start_ns: 3_000_000_000, end_ns: 3_250_000_000 }, &sample);
        assert_eq!(live.messages_per_second.get(), 2_000.0);
    }
}
