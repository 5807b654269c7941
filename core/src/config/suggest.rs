//! The nearest known name to one that is not known, for error lines.

/// Names farther than this many edits from what was typed are not worth offering: it takes more than a slip of the finger.
const EDITS_MAX: usize = 8;

/// The candidate with the fewest edits from `name`, if any is near: at most a third of the name's length.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3 + 1).min(EDITS_MAX);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, without regard to case and with `-`, `_` and `.` taken as equal.
fn edit_distance(left: &str, right: &str) -> usize {
    let fold = |c: char| if matches!(c, '-' | '_') { '.' } else { c.to_ascii_lowercase() };
    let right: Vec<char> = right.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().map(fold).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_the_nearest_and_nothing_far_away() {
        let known = ["retention.ms", "retention.bytes", "segment.ms"];
        assert_eq!(nearest("retenton.ms", known), Some("retention.ms"));
        assert_eq!(nearest("retention_ms", known), Some("retention.ms"));
        assert_eq!(nearest("completely.different.thing", known), None);
    }
}
