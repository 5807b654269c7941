//! Pages of reports made by hand.

use clap::Parser;

use super::*;
use crate::run::Measurement;
use crate::schedule::Extent;
use crate::stats::Totals;
use crate::validation::Findings;

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>&\"'";

fn report(options: &[&str], errors: Vec<String>) -> Report {
    let options = Options::parse_from(["chronik-bench"].iter().chain(options));
    let measurement = Measurement {
        totals: Totals::default(),
        elapsed_ns: 2_000_000_000,
        extent: Extent { warmup_ns: 0, end_ns: 2_000_000_000, interval_ns: 1_000_000_000 },
        is_interrupted: false,
        usage: None,
    };
    Report::new(&options, 1, &measurement, Vec::new(), None, errors)
}

fn page(report: &Report) -> String {
    run_page(report, None).unwrap().into_string()
}

#[test]
fn hostile_texts_are_escaped_everywhere() {
    let report = report(&["-t", HOSTILE, "-b", HOSTILE, "--acks", "1"], vec![HOSTILE.to_owned()]);
    let page = page(&report);
    assert!(!page.contains("<img"), "{page}");
    assert!(page.matches("&lt;img src=x onerror=alert(1)&gt;&amp;&quot;").count() >= 4, "{page}");
    let scripts = page.matches("<script").count();
    assert_eq!(scripts, page.matches("</script>").count(), "{page}");
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let page = page(&report(&[], Vec::new()));
    for address in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(address), "{address} in {page}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn a_run_without_a_message_has_a_page() {
    let page = page(&report(&["-d", "2s", "-w", "0s"], Vec::new()));
    assert!(page.contains("No latencies were measured."));
    assert!(page.contains("data-chart=\"throughput\" data-points=\"2\""), "{page}");
}

#[test]
fn every_setting_is_shown_by_its_flag() {
    let report = report(&["--rate-limit", "777"], Vec::new());
    let page = page(&report);
    let settings = serde_json::to_value(&report.settings).unwrap();
    for name in settings.as_object().unwrap().keys() {
        assert!(page.contains(&format!("<th>{}</th>", flag_of(name))), "{name}");
    }
    assert!(page.contains("<tr><th>--rate-limit</th><td>777</td></tr>"));
    assert!(page.contains("<tr><th>--warmup-duration</th><td>5 s</td></tr>"));
}

#[test]
fn a_scenario_has_a_page_with_all_its_runs() {
    let named = |name: &str| Named { name: name.to_owned(), report: report(&["-d", "2s"], Vec::new()) };
    let (one, two) = (named("<one>"), named("two"));
    let options = Options::parse_from(["chronik-bench", "-m", "scenario", "dir/<runs>.toml"]);
    let page = scenario_page(&options, &[(&one, &None), (&two, &None)]).unwrap().into_string();
    assert!(page.contains("<h1>scenario · &lt;runs&gt;.toml</h1>"), "{page}");
    assert!(page.contains("<a href=\"#run-0\">&lt;one&gt;</a>") && page.contains("id=\"run-1\""), "{page}");
    assert_eq!(page.matches("data-chart=\"throughput\"").count(), 2);
    assert_eq!(page.matches("<!DOCTYPE html>").count(), 1);
}

#[test]
fn what_the_validation_found_is_the_verdict() {
    let mut report = report(&[], Vec::new());
    assert!(page(&report).contains("nothing was measured"));
    report.messages = 1;
    assert!(page(&report).contains("no message failed"));
    report.validation = Some(Findings { checked: 5, ..Findings::default() });
    assert!(page(&report).contains("clean: 5 records checked"));
    report.validation = Some(Findings { checked: 5, lost: 1, ..Findings::default() });
    let text = page(&report);
    assert!(text.contains("validation found errors") && text.contains("<th>lost</th><td>1</td>"));
    report.validation = None;
    report.failures = 1_234;
    assert!(page(&report).contains("1,234 messages failed"));
}

#[test]
fn notes_stand_below_the_title() {
    let page = page(&report(&["-w", "0"], Vec::new()));
    assert!(page.contains("<p class=\"load note\"><b>note</b> nothing was measured</p>"), "{page}");
}
