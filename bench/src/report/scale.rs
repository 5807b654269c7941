//! From values to places in a drawing, and which values an axis names. Pure arithmetic.
//!
//! Invariants: a scale's domain is never empty; places lie within its range whatever the value;
//! ticks rise and lie within the domain.

use crate::report::figures::plain;

/// Nothing shorter is measured: a microsecond, in milliseconds. Logarithms begin here.
const LATENCY_MS_MIN: f64 = 0.001;
/// The powers of ten between which latencies lie.
const EXPONENTS: std::ops::RangeInclusive<i32> = -3..=9;
/// Steps of a time axis in seconds, each a whole number of the one that people count in.
const TIME_STEPS_SECONDS: [f64; 21] = [
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
    14_400.0, 21_600.0, 43_200.0, 86_400.0,
];
/// Times up to this length are given in seconds.
const SECONDS_SHOWN_MAX: f64 = 180.0;
/// Times up to this length are given in minutes and seconds.
const MINUTES_SHOWN_MAX: f64 = 10_800.0;

/// A straight way from values to places.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    first: f64,
    last: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    /// Equal differences are equally far apart.
    pub fn linear((first, last): (f64, f64), (start, end): (f64, f64)) -> Self {
        let last = if last > first { last } else { first + 1.0 };
        Self { first, last, start, end, logarithmic: false }
    }

    /// Equal ratios are equally far apart. The domain is positive.
    pub fn logarithmic((first, last): (f64, f64), (start, end): (f64, f64)) -> Self {
        let first = first.max(LATENCY_MS_MIN);
        let last = if last > first { last } else { first * 10.0 };
        Self { first, last, start, end, logarithmic: true }
    }

    /// Where a value is drawn.
    pub fn place(&self, value: f64) -> f64 {
        let part = match self.logarithmic {
            false => (value - self.first) / (self.last - self.first),
            true => (value.max(self.first) / self.first).ln() / (self.last / self.first).ln(),
        };
        self.start + part.clamp(0.0, 1.0) * (self.end - self.start)
    }
}

/// Ticks of an axis from zero to at least `greatest`, some five of them. The last is the axis' end.
pub fn ticks_from_zero(greatest: f64) -> Vec<f64> {
    let greatest = if greatest > 0.0 && greatest.is_finite() { greatest } else { 1.0 };
    let step = round_step(greatest / 5.0);
    let count = (greatest / step - 1e-9).ceil() as u32;
    (0..=count).map(|number| f64::from(number) * step).collect()
}

/// The least of 1, 2, 2.5 and 5 times a power of ten that is not less than `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powi(step.log10().floor() as i32);
    let multiples = [1.0, 2.0, 2.5, 5.0].map(|multiple| multiple * power);
    multiples.into_iter().find(|round| *round >= step * (1.0 - 1e-9)).unwrap_or(power * 10.0)
}

/// The first and last value of a logarithmic axis for values from `least` to `greatest`: each 1, 2
/// or 5 times a power of ten, and a factor of five apart at least.
pub fn logarithmic_domain(least: f64, greatest: f64) -> (f64, f64) {
    let marks = marks(&[1.0, 2.0, 5.0]);
    let least = least.max(LATENCY_MS_MIN);
    let below = marks.iter().rposition(|mark| *mark <= least).unwrap_or(0);
    let above = marks.iter().position(|mark| *mark >= greatest).unwrap_or(marks.len() - 1);
    let above = above.max(below + 2).min(marks.len() - 1);
    (marks[below.min(above - 2)], marks[above])
}

/// Ticks of a logarithmic axis: powers of ten, with 2 and 5 times them if there are few.
pub fn logarithmic_ticks((first, last): (f64, f64)) -> Vec<f64> {
    let multiples: &[f64] = if last / first > 1_001.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let mut ticks = marks(multiples);
    ticks.retain(|mark| (first..=last).contains(mark));
    ticks
}

fn marks(multiples: &[f64]) -> Vec<f64> {
    let of_power = |power: f64| multiples.iter().map(move |multiple| multiple * power);
    // Through text, because 10^-3 by multiplication is not the number that is written 0.001.
    EXPONENTS.flat_map(|exponent| of_power(10_f64.powi(exponent))).map(tidy).collect()
}

fn tidy(number: f64) -> f64 {
    plain(number).parse().unwrap_or(number)
}

/// Ticks of a time axis, ten at most but for very long runs.
pub fn time_ticks(first: f64, last: f64) -> Vec<f64> {
    let wanted = (last - first) / 10.0;
    let days = 86_400.0;
    let step = TIME_STEPS_SECONDS.into_iter().find(|step| *step >= wanted);
    let step = step.unwrap_or_else(|| (wanted / days).ceil() * days);
    let from = (first / step - 1e-9).ceil() as i64;
    let to = (last / step + 1e-9).floor() as i64;
    (from..=to).map(|number| number as f64 * step).collect()
}

/// An instant of a run that is `length_seconds` long.
pub fn time_label(seconds: f64, length_seconds: f64) -> String {
    let sign = if seconds < 0.0 { "−" } else { "" };
    let size = seconds.abs();
    let whole = size.round() as u64;
    match length_seconds {
        length if length <= SECONDS_SHOWN_MAX => format!("{sign}{}", plain((size * 10.0).round() / 10.0)),
        length if length <= MINUTES_SHOWN_MAX => format!("{sign}{}:{:02}", whole / 60, whole % 60),
        _ => format!("{sign}{}:{:02}", whole / 3600, whole / 60 % 60),
    }
}

/// The unit of [`time_label`].
pub fn time_unit(length_seconds: f64) -> &'static str {
    match length_seconds {
        length if length <= SECONDS_SHOWN_MAX => "s",
        length if length <= MINUTES_SHOWN_MAX => "min:s",
        _ => "h:min",
    }
}

/// How far out a percentile lies: the number of its nines. 90 % is 1, 99 % is 2; of `count`
/// values the greatest is as far out as one in `count`.
pub fn nines(percentile: f64, count: u64) -> f64 {
    let beyond = (1.0 - percentile / 100.0).max(1.0 / count.max(1) as f64);
    -beyond.log10()
}

/// The percentile with this number of nines: `90 %`, `99 %`, `99.9 %`.
pub fn nines_label(nines: usize) -> String {
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        _ => format!("99.{} %", "9".repeat(nines - 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_places() {
        let linear = Scale::linear((0.0, 10.0), (100.0, 200.0));
        assert_eq!([0.0, 5.0, 10.0].map(|value| linear.place(value)), [100.0, 150.0, 200.0]);
        // A vertical axis runs upwards: its places fall.
        let logarithmic = Scale::logarithmic((0.1, 10.0), (200.0, 0.0));
        assert!((logarithmic.place(1.0) - 100.0).abs() < 1e-9);
        assert_eq!([0.1, 10.0].map(|value| logarithmic.place(value)), [200.0, 0.0]);
    }

    #[test]
    fn what_lies_outside_is_drawn_at_the_edge() {
        let linear = Scale::linear((0.0, 10.0), (0.0, 100.0));
        assert_eq!([-5.0, 20.0].map(|value| linear.place(value)), [0.0, 100.0]);
        let logarithmic = Scale::logarithmic((0.1, 10.0), (0.0, 100.0));
        assert_eq!([0.0, -1.0, 1e9].map(|value| logarithmic.place(value)), [0.0, 0.0, 100.0]);
    }

    #[test]
    fn no_domain_is_empty() {
        assert!(Scale::linear((3.0, 3.0), (0.0, 1.0)).place(3.0).is_finite());
        assert!(Scale::logarithmic((0.0, 0.0), (0.0, 1.0)).place(0.0).is_finite());
    }

    #[test]
    fn ticks_from_zero_are_round_and_reach_the_greatest() {
        assert_eq!(ticks_from_zero(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks_from_zero(199_482.0), [0.0, 50_000.0, 100_000.0, 150_000.0, 200_000.0]);
        assert_eq!(ticks_from_zero(0.0), ticks_from_zero(1.0));
        assert_eq!(ticks_from_zero(f64::NAN), ticks_from_zero(1.0));
        for exponent in -30..200 {
            let greatest = 1.17_f64.powi(exponent);
            let ticks = ticks_from_zero(greatest);
            assert!((3..=7).contains(&ticks.len()), "{greatest}: {ticks:?}");
            assert!(*ticks.last().unwrap() >= greatest * (1.0 - 1e-9), "{greatest}: {ticks:?}");
        }
    }

    #[test]
    fn a_logarithmic_axis_holds_its_values_between_round_ends() {
        assert_eq!(logarithmic_domain(0.6, 41.0), (0.5, 50.0));
        assert_eq!(logarithmic_domain(1.0, 1.0), (1.0, 5.0));
        assert_eq!(logarithmic_domain(0.0, 0.0), (0.001, 0.005));
        let (first, last) = logarithmic_domain(5e9, 5e9);
        assert!(first < last);
        for exponent in -33..80 {
            let least = 1.23_f64.powi(exponent);
            let (first, last) = logarithmic_domain(least, least * 37.0);
            assert!(first <= least && last >= least * 37.0, "{least}: {first} to {last}");
        }
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten_when_there_are_many() {
        assert_eq!(logarithmic_ticks((0.5, 20.0)), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(logarithmic_ticks((0.002, 50.0)), [0.01, 0.1, 1.0, 10.0]);
    }

    #[test]
    fn time_ticks_are_what_clocks_count_in() {
        assert_eq!(time_ticks(0.0, 0.45), [0.0, 0.1, 0.2, 0.1 * 3.0, 0.4]);
        assert_eq!(time_ticks(0.0, 5.0), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]);
        assert_eq!(time_ticks(-3.0, 10.0), [-2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(time_ticks(-5.0, 3600.0), [0.0, 600.0, 1200.0, 1800.0, 2400.0, 3000.0, 3600.0]);
        assert!(time_ticks(0.0, 3600.0 * 3600.0).len() <= 11);
    }

    #[test]
    fn times_have_a_unit_that_suits_the_run() {
        assert_eq!([time_label(7.0, 60.0), time_label(-2.5, 60.0)], ["7", "−2.5"]);
        assert_eq!([time_label(605.0, 3600.0), time_label(-5.0, 3600.0)], ["10:05", "−0:05"]);
        assert_eq!(time_label(7_260.0, 86_400.0), "2:01");
        assert_eq!([60.0, 3600.0, 86_400.0].map(time_unit), ["s", "min:s", "h:min"]);
    }

    #[test]
    fn percentiles_are_counted_in_nines() {
        let close = |nines: f64, expected: f64| assert!((nines - expected).abs() < 1e-6, "{nines}");
        close(nines(0.0, 1_000_000), 0.0);
        close(nines(90.0, 1_000_000), 1.0);
        close(nines(99.99, 1_000_000), 4.0);
        close(nines(100.0, 1_000_000), 6.0);
        close(nines(100.0, 0), 0.0);
        let labels = [0, 1, 2, 3, 5].map(nines_label);
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.999 %"]);
    }
}
