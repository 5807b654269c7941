//! Numbers as people read them, the same in the page and in the table of a comparison.

/// A whole number with its thousands apart: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of any size with three digits that count, or all of those before the point.
pub fn figure(number: f64) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    let size = number.abs();
    if size >= 99.95 {
        let sign = if number < 0.0 { "-" } else { "" };
        return format!("{sign}{}", grouped(size.round() as u64));
    }
    let decimals = match size {
        0.0 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

/// A rate for an axis, as short as it can be: `250`, `1.5k`, `20k`, `3M`.
pub fn short(number: f64) -> String {
    let (scaled, unit) = match number.abs() {
        size if size >= 1e9 => (number / 1e9, "G"),
        size if size >= 1e6 => (number / 1e6, "M"),
        size if size >= 1e3 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    format!("{}{unit}", plain(scaled))
}

/// A number without zeros behind the point: `0.05`, `2.5`, `1000`.
pub fn plain(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A memory size in the unit that suits it.
pub fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        _ if count >= 1024.0 * 1024.0 * 1024.0 => format!("{} GiB", figure(count / f64::from(1 << 30))),
        _ => format!("{} MiB", figure(count / f64::from(1 << 20))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1_000, 1_234_567].map(grouped));
    }

    #[test]
    fn three_digits_count() {
        let numbers = [0.0, 0.001, 0.5, 1.0, 9.99, 9.996, 12.34, 99.94, 99.96, 1234.5, -1234.5];
        let texts = ["0", "0.001", "0.500", "1.00", "9.99", "10.0", "12.3", "99.9", "100", "1,235", "-1,235"];
        assert_eq!(numbers.map(figure), texts);
        assert_eq!(figure(f64::NAN), "–");
        assert_eq!(figure(f64::INFINITY), "–");
    }

    #[test]
    fn rates_are_short() {
        assert_eq!([0.0, 250.0, 1_500.0, 20_000.0, 3e6].map(short), ["0", "250", "1.5k", "20k", "3M"]);
        assert_eq!([0.05, 0.001, 2.5, 1000.0].map(plain), ["0.05", "0.001", "2.5", "1000"]);
    }

    #[test]
    fn memory_has_its_unit() {
        assert_eq!(bytes(12 << 20), "12.0 MiB");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
    }
}
