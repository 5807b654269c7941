//! What a reader of the figures must know to take them for what they are. Pure.

use std::time::Duration;

use crate::cli::{Mode, Options};

/// The share of a rate at which it counts as kept.
const RATE_REACHED: f64 = 0.95;

/// How a measurement ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Messages that were completed in it.
    pub messages: u64,
    /// Its length.
    pub elapsed_seconds: f64,
    /// A signal ended it.
    pub is_interrupted: bool,
}

/// What can be said before a run: its tasks cannot reach its rate.
pub fn before(options: &Options) -> Option<String> {
    let rate = options.rate_limit?;
    let ceiling = linger_ceiling(options).filter(|ceiling| *ceiling < rate)?;
    Some(format!(
        "--rate-limit {rate} cannot be reached: {} task(s) that each wait --linger-ms {} send at most {ceiling} a second; {}",
        options.concurrency,
        options.linger_ms,
        instead(options, rate)
    ))
}

/// What there is to say of a run that is over.
pub fn after(options: &Options, ending: Ending) -> Vec<String> {
    let interrupted = ending
        .is_interrupted
        .then(|| format!("interrupted after {:.1} s of {:?}", ending.elapsed_seconds, options.duration));
    let nothing = (ending.messages == 0).then(|| match options.warmup_duration {
        Duration::ZERO => "nothing was measured".to_owned(),
        warmup => format!("nothing was measured after the --warmup-duration of {warmup:?}"),
    });
    interrupted.into_iter().chain(nothing.or_else(|| behind(options, ending))).collect()
}

/// An open loop fell behind its schedule: the latency counts from the intended times then, and grows without end.
fn behind(options: &Options, ending: Ending) -> Option<String> {
    // The rate of a backlog is that of what is written meanwhile.
    let rate = options.rate_limit.filter(|_| options.mode != Mode::Backlog)?;
    let reached = ending.messages as f64 / ending.elapsed_seconds.max(1e-9);
    if reached >= RATE_REACHED * rate as f64 || options.message_count.is_some() {
        return None;
    }
    let advice = match linger_ceiling(options) {
        Some(ceiling) if ceiling < rate => format!(
            "{} task(s) that each wait --linger-ms {} send at most {ceiling} a second; {}",
            options.concurrency,
            options.linger_ms,
            instead(options, rate)
        ),
        _ => format!("ask for less, or raise --concurrency {}", options.concurrency),
    };
    Some(format!(
        "behind: {reached:.0} of {rate} a second were reached, and latency counts from the intended times: {advice}"
    ))
}

fn instead(options: &Options, rate: u64) -> String {
    let needed = (u128::from(rate) * u128::from(options.linger_ms)).div_ceil(1_000);
    format!("raise --concurrency above {needed}, or lower --linger-ms")
}

/// Messages a second at most, where each task's message waits for the linger: where all tasks together do not fill a batch.
fn linger_ceiling(options: &Options) -> Option<u64> {
    let sends = matches!(options.mode, Mode::Produce | Mode::EndToEnd | Mode::RoundTrip);
    let tasks = u64::from(options.concurrency);
    let tasks_a_client = tasks.div_ceil(u64::from(options.clients));
    let fills_batches =
        tasks_a_client.saturating_mul(options.message_size as u64) >= options.batch_size.into();
    (sends && options.linger_ms > 0 && !fills_batches).then(|| tasks * 1_000 / u64::from(options.linger_ms))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn options(line: &str) -> Options {
        Options::parse_from(format!("chronik-bench {line}").split(' '))
    }

    fn after_a_second(line: &str, messages: u64) -> Vec<String> {
        after(&options(line), Ending { messages, elapsed_seconds: 1.0, is_interrupted: false })
    }

    #[test]
    fn too_few_tasks_for_linger_and_rate_are_told_before_and_after() {
        let line = "-c 64 --linger-ms 5 --rate-limit 20000";
        let before_it = before(&options(line)).unwrap();
        let after_it = after_a_second(line, 12_000).concat();
        for text in [&before_it, &after_it] {
            assert!(
                text.contains("64 task(s) that each wait --linger-ms 5 send at most 12800 a second"),
                "{text}"
            );
            assert!(text.ends_with("raise --concurrency above 100, or lower --linger-ms"), "{text}");
            assert!(!text.contains('\n'));
        }
        assert!(after_it.starts_with("behind: 12000 of 20000 a second were reached"), "{after_it}");
        assert!(after_a_second(line, 19_900).is_empty());
    }

    #[test]
    fn who_has_tasks_enough_or_fills_batches_is_not_warned() {
        for line in [
            "-c 100 --linger-ms 5 --rate-limit 20000",
            "-c 64 --linger-ms 0 --rate-limit 20000",
            "-c 64 --linger-ms 5 --rate-limit 20000 --batch-size 16384",
            "-c 64 --linger-ms 5",
            "-m metadata -c 64 --linger-ms 5 --rate-limit 20000",
        ] {
            assert_eq!(before(&options(line)), None, "{line}");
        }
        let other = after_a_second("-c 64 --rate-limit 20000", 5).concat();
        assert!(other.ends_with("ask for less, or raise --concurrency 64"), "{other}");
    }

    #[test]
    fn a_count_or_a_backlog_is_not_behind() {
        assert!(after_a_second("-n 10 --rate-limit 20000", 10).is_empty());
        assert!(after_a_second("-m backlog --rate-limit 20000", 10).is_empty());
    }

    #[test]
    fn nothing_and_an_interruption_are_told() {
        assert_eq!(after_a_second("-d 5s -w 0", 0), ["nothing was measured"]);
        let warm = after_a_second("-d 5s -w 3s", 0);
        assert_eq!(warm, ["nothing was measured after the --warmup-duration of 3s"]);
        let ending = Ending { messages: 9, elapsed_seconds: 1.25, is_interrupted: true };
        assert_eq!(after(&options("-d 5s"), ending), ["interrupted after 1.2 s of 5s"]);
    }
}
