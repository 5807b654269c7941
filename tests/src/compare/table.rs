//! Medians of both sides, their ratio, and whether it is what was aimed at. As Markdown, for the README.

use super::side::Kind;
use super::{Figure, Target};

/// All figures, in the order in which they first came.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    scenario: &'static str,
    measure: &'static str,
    unit: &'static str,
    target: Option<Target>,
    chronik: Vec<f64>,
    kafka: Vec<f64>,
}

impl Table {
    /// Adds a figure to its row.
    pub fn add(&mut self, kind: Kind, figure: Figure) {
        let same = |row: &Row| row.scenario == figure.scenario && row.measure == figure.measure;
        let at = self.rows.iter().position(same).unwrap_or_else(|| {
            let (scenario, measure, unit) = (figure.scenario, figure.measure, figure.unit);
            let (chronik, kafka) = (Vec::new(), Vec::new());
            self.rows.push(Row { scenario, measure, unit, target: None, chronik, kafka });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        row.target = row.target.or(figure.target);
        match kind {
            Kind::Chronik => row.chronik.push(figure.value),
            Kind::Kafka => row.kafka.push(figure.value),
        }
    }

    /// The table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text =
            "| scenario | | chronik | Apache Kafka | ratio | target |\n|---|---|---|---|---|---|\n"
                .to_string();
        let mut last = "";
        for row in &self.rows {
            let scenario = if row.scenario == last { "" } else { row.scenario };
            last = row.scenario;
            let (chronik, kafka) = (median(&row.chronik), median(&row.kafka));
            let comparable = chronik.zip(kafka).filter(|(_, theirs)| *theirs > 0.0);
            let ratio = comparable.map(|(ours, theirs)| ours / theirs);
            let cell = |value: Option<f64>| {
                value.map_or("–".to_string(), |value| {
                    format!("{} {}", number(value), row.unit).trim_end().to_string()
                })
            };
            text.push_str(&format!(
                "| {scenario} | {} | {} | {} | {} | {} |\n",
                row.measure,
                cell(chronik),
                cell(kafka),
                ratio.map_or("–".to_string(), |ratio| format!("{} ×", number(ratio))),
                row.target.map_or(String::new(), |target| verdict(target, chronik, ratio))
            ));
        }
        text
    }
}

fn verdict(target: Target, chronik: Option<f64>, ratio: Option<f64>) -> String {
    let (aim, met) = match target {
        Target::AtLeast(wanted) => (format!("≥ {} ×", number(wanted)), ratio.map(|ratio| ratio >= wanted)),
        Target::AtMost(wanted) => (format!("≤ {} ×", number(wanted)), ratio.map(|ratio| ratio <= wanted)),
        Target::AtMostAbsolute(wanted) => {
            (format!("≤ {}", number(wanted)), chronik.map(|value| value <= wanted))
        }
    };
    match met {
        Some(true) => format!("{aim}: met"),
        Some(false) => format!("{aim}: missed"),
        None => aim,
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Three significant digits, and no more than the value has.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_string(),
        size if size >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 && digits.as_bytes()[at - 1] != b'-' {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_targets() {
        let mut table = Table::default();
        let figure = |value| Figure::new("s", "m", "ms", value).aims(Target::AtMost(0.6));
        for value in [1.0, 9.0, 2.0] {
            table.add(Kind::Chronik, figure(value));
        }
        for value in [4.0, 6.0] {
            table.add(Kind::Kafka, figure(value));
        }
        table.add(Kind::Chronik, Figure::new("s", "n", "msg/s", 1_234_567.0).aims(Target::AtLeast(2.0)));
        let text = table.markdown();
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows[0], "| s | m | 2.00 ms | 5.00 ms | 0.400 × | ≤ 0.600 ×: met |");
        assert_eq!(rows[1], "|  | n | 1,234,567 msg/s | – | – | ≥ 2.00 × |");
        assert_eq!(verdict(Target::AtMostAbsolute(5.0), Some(6.0), None), "≤ 5.00: missed");
    }

    #[test]
    fn numbers_are_as_long_as_they_say_something() {
        let cases = [
            (0.0, "0"),
            (0.0123, "0.012"),
            (2.34567, "2.35"),
            (31.4159, "31.4"),
            (999.6, "1,000"),
            (-1234.0, "-1,234"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
