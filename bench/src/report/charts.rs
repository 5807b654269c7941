//! The three charts of the page: throughput and latency over time, and the curve of percentiles.

use maud::Markup;

use crate::report::figures::{figure, grouped, plain, short};
use crate::report::plot::{ACROSS, Axis, Plot, Series, Style, UPWARDS};
use crate::report::scale::{
    Scale, logarithmic_domain, logarithmic_ticks, nines, nines_label, ticks_from_zero, time_label,
    time_ticks, time_unit,
};
use crate::report::{Interval, Latency};

/// Throughput over time, with the intervals in which something failed.
pub fn throughput(time_line: &[Interval], unit: &str) -> Markup {
    let rates: Vec<_> = time_line.iter().map(|interval| Some(interval.messages_per_second)).collect();
    let ticks = ticks_from_zero(greatest(&rates));
    let y = Axis {
        scale: Scale::linear((0.0, ticks[ticks.len() - 1]), UPWARDS),
        ticks: ticks.into_iter().map(|tick| (tick, short(tick))).collect(),
        title: format!("{unit}/s"),
    };
    let mut series = vec![Series {
        name: format!("{unit}/s"),
        class: "rate",
        style: Style::Area,
        values: rates,
        text: |rate| grouped(rate.round() as u64),
    }];
    let failures =
        time_line.iter().map(|interval| (interval.failures > 0).then_some(interval.failures as f64));
    let failures: Vec<_> = failures.collect();
    if failures.iter().any(Option::is_some) {
        series.push(Series {
            name: format!("failed {unit}"),
            class: "failed",
            style: Style::Marks,
            values: failures,
            text: |count| grouped(count as u64),
        });
    }
    over_time("throughput", "Throughput", time_line, y, series).figure("No interval was measured.")
}

/// Median and 99th percentile over time.
pub fn latency(time_line: &[Interval], what: &str) -> Markup {
    let of = |name: &str, class, values: Vec<Option<f64>>| Series {
        name: name.to_owned(),
        class,
        style: Style::Line,
        values,
        text: milliseconds,
    };
    let series = vec![
        of("p99", "p99", time_line.iter().map(|interval| interval.p99_ms).collect()),
        of("p50", "p50", time_line.iter().map(|interval| interval.p50_ms).collect()),
    ];
    let values: Vec<_> = series.iter().flat_map(|series| series.values.iter().copied()).collect();
    // A chart of intervals that all lack latencies would be empty axes.
    let time_line = if values.iter().any(Option::is_some) { time_line } else { &[] };
    let title = format!("Latency over time: {what}");
    over_time("latency", &title, time_line, milliseconds_axis(&values), series)
        .figure("No latencies were measured.")
}

/// The latency that a share of the messages did not exceed, over the share.
pub fn percentiles(latency: &Latency, what: &str) -> Markup {
    let place = |percentile| nines(percentile, latency.count);
    let label = |percentile: f64| match percentile {
        100.0 => "max".to_owned(),
        0.0 => "min".to_owned(),
        _ => format!("{} %", plain(percentile)),
    };
    let points: Vec<_> =
        latency.curve.iter().map(|(percentile, _)| (place(*percentile), label(*percentile))).collect();
    let values: Vec<_> = latency.curve.iter().map(|(_, milliseconds)| Some(*milliseconds)).collect();
    let last = place(100.0).max(1.0);
    let mut ticks: Vec<_> = (0..=last.floor() as usize).map(|n| (n as f64, nines_label(n))).collect();
    ticks.insert(1, (nines(50.0, u64::MAX), "50 %".to_owned()));
    // Where there is room beside the last of the nines.
    if last.fract() > 0.35 {
        ticks.push((last, "max".to_owned()));
    }
    let x = Axis {
        scale: Scale::linear((0.0, last), ACROSS),
        ticks,
        title: "share of the messages that were not slower (%)".to_owned(),
    };
    let y = milliseconds_axis(&values);
    let name = what.to_owned();
    let series = vec![Series { name, class: "curve", style: Style::Line, values, text: milliseconds }];
    let title = format!("Latency by percentile: {what}");
    Plot { id: "percentiles", title, x, y, points, series, shaded: None }
        .figure("No latencies were measured.")
}

fn milliseconds(value: f64) -> String {
    format!("{} ms", figure(value))
}

fn greatest(values: &[Option<f64>]) -> f64 {
    values.iter().flatten().copied().fold(0.0, f64::max)
}

fn milliseconds_axis(values: &[Option<f64>]) -> Axis {
    let least = values.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let domain = logarithmic_domain(least.min(greatest(values)), greatest(values));
    Axis {
        scale: Scale::logarithmic(domain, UPWARDS),
        ticks: logarithmic_ticks(domain).into_iter().map(|tick| (tick, plain(tick))).collect(),
        title: "ms (logarithmic)".to_owned(),
    }
}

/// A plot over the intervals of a run. The point of an interval is in its middle.
fn over_time(id: &'static str, title: &str, time_line: &[Interval], y: Axis, series: Vec<Series>) -> Plot {
    let end = |interval: &Interval| interval.at_seconds + interval.seconds;
    let first = time_line.first().map_or(0.0, |interval| interval.at_seconds);
    let last = time_line.last().map_or(1.0, end);
    let length = last - first;
    let label = |interval: &Interval| {
        let (from, to) = (time_label(interval.at_seconds, length), time_label(end(interval), length));
        let phase = if interval.at_seconds < 0.0 { ", warm-up" } else { "" };
        format!("{from} to {to} {}{phase}", time_unit(length))
    };
    let x = Axis {
        scale: Scale::linear((first, last), ACROSS),
        ticks: time_ticks(first, last).into_iter().map(|tick| (tick, time_label(tick, length))).collect(),
        title: format!("time since the start of the measurement ({})", time_unit(length)),
    };
    let middle = |interval: &Interval| f64::midpoint(interval.at_seconds, end(interval));
    let points = time_line.iter().map(|interval| (middle(interval), label(interval))).collect();
    let shaded = (first < 0.0).then_some((first, 0.0_f64.min(last), "warm-up"));
    Plot { id, title: title.to_owned(), x, y, points, series, shaded }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(at_seconds: i32, rate: f64, p50_ms: Option<f64>) -> Interval {
        Interval {
            at_seconds: f64::from(at_seconds),
            seconds: 1.0,
            messages_per_second: rate,
            p50_ms,
            p99_ms: p50_ms.map(|p50| p50 * 3.0),
            failures: 0,
        }
    }

    /// The number of points of the path of a class.
    fn point_count(page: &str, class: &str) -> usize {
        let (_, rest) = page.split_once(&format!("<path class=\"line {class}\" d=\"")).expect("a path");
        rest.split('"').next().unwrap().matches(['M', 'L']).count()
    }

    #[test]
    fn runs_of_any_length_have_all_their_points() {
        for count in [1, 2, 61, 3_600] {
            let time_line: Vec<_> =
                (0..count).map(|at| interval(at, 1e5 + f64::from(at), Some(0.5 + f64::from(at)))).collect();
            assert_eq!(
                point_count(&throughput(&time_line, "messages").into_string(), "rate"),
                count as usize
            );
            let page = latency(&time_line, "ack latency").into_string();
            assert_eq!(point_count(&page, "p50"), count as usize);
            assert_eq!(point_count(&page, "p99"), count as usize);
        }
    }

    #[test]
    fn a_stall_is_a_gap_in_the_latency_and_zero_in_the_throughput() {
        let time_line = [interval(0, 9.0, Some(1.0)), interval(1, 0.0, None), interval(2, 9.0, Some(1.0))];
        assert_eq!(point_count(&throughput(&time_line, "messages").into_string(), "rate"), 3);
        assert_eq!(point_count(&latency(&time_line, "x").into_string(), "p50"), 2);
    }

    #[test]
    fn the_warm_up_is_set_apart() {
        let with = throughput(&[interval(-1, 1.0, None), interval(0, 2.0, None)], "messages").into_string();
        assert!(with.contains("class=\"shade\"") && with.contains("−1 to 0 s, warm-up"), "{with}");
        let without = throughput(&[interval(0, 2.0, None)], "messages").into_string();
        assert!(!without.contains("class=\"shade\""), "{without}");
    }

    #[test]
    fn failures_are_marked_where_they_were() {
        let mut time_line = vec![interval(0, 9.0, None), interval(1, 9.0, None)];
        assert!(!throughput(&time_line, "messages").into_string().contains("failed messages"));
        time_line[1].failures = 3;
        let page = throughput(&time_line, "messages").into_string();
        assert!(page.contains("failed messages"));
        assert_eq!(page.matches("<circle class=\"point failed\"").count(), 1);
    }

    #[test]
    fn without_latencies_the_charts_say_so() {
        let page = latency(&[interval(0, 9.0, None)], "x").into_string();
        assert!(page.contains("No latencies were measured.") && !page.contains("<svg"), "{page}");
        let empty = Latency::new(&crate::stats::histogram());
        let page = percentiles(&empty, "x").into_string();
        assert!(page.contains("No latencies were measured.") && !page.contains("<svg"), "{page}");
        assert!(throughput(&[], "messages").into_string().contains("No interval was measured."));
    }

    #[test]
    fn the_curve_goes_as_far_as_the_count_of_messages() {
        for (count, label) in [(1, "0 %"), (50, "90 %"), (200_000, "99.999 %")] {
            let mut histogram = crate::stats::histogram();
            (0..count).for_each(|value| histogram.record(value + 1).unwrap());
            let latency = Latency::new(&histogram);
            let page = percentiles(&latency, "x").into_string();
            assert_eq!(point_count(&page, "curve"), latency.curve.len(), "{count} messages");
            assert!(page.contains(&format!(">{label}</text>")), "{count} messages: {page}");
            assert!(!page.contains(">99.9999 %</text>"), "{count} messages");
            assert!(page.contains("\"max\""), "{count} messages");
        }
    }
}
