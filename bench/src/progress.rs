//! Progress while a run lasts: one line that changes on a terminal, plain lines otherwise, both
//! on standard error so that standard output holds nothing but the result.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{Mode, Options};
use crate::stats::Sample;

/// Shows progress.
pub struct Progress {
    bar: Option<ProgressBar>,
    warmup_s: i64,
}

impl Progress {
    /// Progress of a run with these settings.
    pub fn new(options: &Options) -> Self {
        let total_s = (options.warmup_duration + options.duration).as_secs();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total_s.max(1));
            // These end when they are done, whenever that is.
            let template = match options.mode {
                Mode::Backlog | Mode::Topics => "{spinner:.cyan} {pos}s {msg}",
                _ => "{spinner:.cyan} [{bar:30.cyan/blue}] {pos}/{len}s {msg}",
            };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, warmup_s: options.warmup_duration.as_secs() as i64 }
    }

    /// An interval is complete.
    pub fn interval(&self, interval: i64, interval_ns: u64, sample: &Sample) {
        let line = line(interval, interval_ns, sample);
        match &self.bar {
            Some(bar) => {
                let interval_s = (interval_ns / 1_000_000_000) as i64;
                bar.set_position((self.warmup_s + (interval + 1) * interval_s).max(0) as u64);
                bar.set_message(line);
            }
            // Progress that nobody can read is no reason to stop measuring.
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(interval: i64, interval_ns: u64, sample: &Sample) -> String {
    let seconds = interval_ns as f64 / 1e9;
    let phase = if interval < 0 { "warm-up " } else { "" };
    let failures = match sample.failure_count {
        0 => String::new(),
        count => format!("  {count} failed"),
    };
    format!(
        "{phase}{:>5}s  {:>9.0} msg/s  {:>8.1} MB/s  p50 {:>8.2} ms  p99 {:>8.2} ms{failures}",
        (interval + 1) * (interval_ns / 1_000_000_000) as i64,
        sample.message_count as f64 / seconds,
        sample.byte_count as f64 / seconds / 1e6,
        sample.latency_us.value_at_quantile(0.5) as f64 / 1e3,
        sample.latency_us.value_at_quantile(0.99) as f64 / 1e3,
    )
}
