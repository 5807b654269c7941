//! Progress while a run lasts: one line that changes on a terminal, plain lines otherwise, both
//! on standard error so that standard output holds nothing but the result.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{Mode, Options};
use crate::schedule::Span;
use crate::stats::Sample;

/// Shows progress.
pub struct Progress {
    bar: Option<ProgressBar>,
    warmup_ns: i64,
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
        Self { bar, warmup_ns: options.warmup_duration.as_nanos() as i64 }
    }

    /// An interval is complete.
    pub fn interval(&self, span: Span, sample: &Sample) {
        let line = line(span, sample);
        match &self.bar {
            Some(bar) => {
                bar.set_position((self.warmup_ns + span.end_ns).max(0) as u64 / 1_000_000_000);
                bar.set_message(line);
            }
            None => self.say(&line),
        }
    }

    /// Shows a line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
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

fn line(span: Span, sample: &Sample) -> String {
    let seconds = span.seconds();
    let phase = if span.start_ns < 0 { "warm-up " } else { "" };
    // A whole interval ends with a whole second.
    let decimals = if span.end_ns % 1_000_000_000 == 0 { 0 } else { 2 };
    let failures = match sample.failure_count {
        0 => String::new(),
        count => format!("  {count} failed"),
    };
    format!(
        "{phase}{:>5.decimals$}s  {:>9.0} msg/s  {:>8.1} MB/s  p50 {:>8.2} ms  p99 {:>8.2} ms{failures}",
        span.end_ns as f64 / 1e9,
        sample.message_count as f64 / seconds,
        sample.byte_count as f64 / seconds / 1e6,
        sample.latency_us.value_at_quantile(0.5) as f64 / 1e3,
        sample.latency_us.value_at_quantile(0.99) as f64 / 1e3,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Totals;

    #[test]
    fn a_short_interval_has_its_true_rate() {
        let mut sample = Totals::default().measured;
        (sample.message_count, sample.byte_count) = (500, 500_000);
        let text = |start_ms: i64, end_ms: i64| {
            line(Span { start_ns: start_ms * 1_000_000, end_ns: end_ms * 1_000_000 }, &sample)
        };
        let whole = text(2_000, 3_000);
        assert!(whole.starts_with("    3s        500 msg/s       0.5 MB/s"), "{whole}");
        let last = text(3_000, 3_250);
        assert!(last.starts_with(" 3.25s       2000 msg/s       2.0 MB/s"), "{last}");
        let first = text(-500, 0);
        assert!(first.starts_with("warm-up     0s       1000 msg/s"), "{first}");
    }
}
