//! What must never be in a node's log, whatever is done to the cluster.
//!
//! A panic and "Cannot propose" (field report 003) are never expected. A line of level ERROR is a defect too: losing peers,
//! leaderships and clients is everyday business and is logged at WARN at most. A test that provokes a real error (a damaged file)
//! says so with [`super::Cluster::expect_in_log`].

/// Never, and no test may expect them.
const FORBIDDEN: [&str; 4] = ["panicked at", "Cannot propose", "cannot propose", "stack backtrace"];

/// The first line that must not be there. `expected` are parts of lines that the test has provoked.
#[must_use]
pub fn first_bad_line<'a>(log: &'a str, expected: &[String]) -> Option<&'a str> {
    log.lines().find(|line| {
        let forbidden = FORBIDDEN.iter().any(|text| line.contains(text));
        let error = is_error(line) && !expected.iter().any(|text| line.contains(text.as_str()));
        forbidden || error
    })
}

/// Whether a line of the text format has the level ERROR: "TIME LEVEL target: message".
fn is_error(line: &str) -> bool {
    line.split_whitespace().nth(1) == Some("ERROR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_found_and_expected_errors_are_not() {
        let error = "2026-11-21T11:00:00Z ERROR chronik: a disk is damaged";
        let info = "2026-11-21T11:00:00Z INFO chronik: an ERROR was mended";
        assert_eq!(first_bad_line(&format!("{info}\n{error}"), &[]), Some(error));
        assert_eq!(first_bad_line(error, &["damaged".into()]), None);
        let panic = "thread 'main' panicked at core/src/lib.rs";
        assert_eq!(first_bad_line(panic, &["panicked".into()]), Some(panic));
    }
}
