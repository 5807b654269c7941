//! Comparisons of small reports made by hand.

use clap::Parser;
use serde_json::json;

use super::*;

fn latency(p50_ms: f64) -> Value {
    json!({
        "count": 5, "min_ms": 0.5, "mean_ms": 1.5, "p50_ms": p50_ms, "p90_ms": 1.8, "p99_ms": 2.0, "p999_ms": 3.0,
        "p9999_ms": 4.0, "max_ms": 5.0, "curve": [[0.0, 0.5], [100.0, 5.0]]
    })
}

fn report() -> Value {
    json!({
        "version": "0.1.0",
        "finished_at": 1_000,
        "settings": {
            "mode": "produce", "acks": "all", "duration": {"secs": 10, "nanos": 500_000_000},
            "json_output": "a.json", "rate_limit": null
        },
        "host": {"cpu": "A", "cpu_count": 2, "load": "1 2 3"},
        "partitions": 1,
        "elapsed_seconds": 10.5,
        "messages": 10_500,
        "bytes": 10_500_000,
        "failures": 0,
        "stragglers": 0,
        "errors": [],
        "time_line": [],
        "messages_per_second": 1000.0,
        "megabytes_per_second": 1.0,
        "latency": latency(1.0),
        "broker": null
    })
}

fn options(mode: &str) -> Options {
    Options::parse_from(["chronik-bench", "-m", mode])
}

fn compare(then: Value, now: Value) -> Comparison {
    let summary = |value| serde_json::from_value::<Recorded>(value).unwrap();
    Comparison::of(Path::new("then.json"), &summary(then), &summary(now))
}

#[test]
fn equal_runs_have_ratios_of_one_and_no_difference() {
    let comparison = compare(report(), report());
    assert!(comparison.settings.is_empty() && comparison.host.is_empty());
    assert!(comparison.programs.is_empty() && comparison.incidental.is_empty());
    assert_eq!(comparison.rows[0].ratio(), Some(1.0));
    assert!(comparison.rows.iter().all(|row| row.change() == Change::Same));
    let text = render(&comparison);
    assert!(text.contains("host             the same") && !text.contains("DIFFER"), "{text}");
}

#[test]
fn ratios_are_now_by_then() {
    let mut now = report();
    now["messages_per_second"] = json!(2_500.0);
    now["latency"]["p99_ms"] = json!(3.0);
    now["latency"]["max_ms"] = json!(0.2);
    let rows = compare(report(), now).rows;
    let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap();
    assert_eq!(row("messages/s").texts(), ["1,000", "2,500", "2.50"]);
    assert_eq!(row("messages/s").change(), Change::Better);
    assert_eq!(row("latency p99 (ms)").texts(), ["2.00", "3.00", "1.50"]);
    assert_eq!(row("latency p99 (ms)").change(), Change::Worse);
    assert_eq!(row("latency max (ms)").texts()[2], "0.0400");
    assert_eq!(row("latency max (ms)").change(), Change::Better);
}

#[test]
fn what_is_missing_has_no_ratio() {
    let mut now = report();
    now["latency"]["count"] = json!(0);
    now["broker"] = json!({
        "cpu_seconds": 1.0, "resident_peak_bytes": 1 << 20, "cpu_seconds_per_gb": 1.0, "cpu_seconds_per_million": 2.0, "resident_bytes": 1 << 20,
        "anonymous_bytes": 0
    });
    let rows = compare(report(), now).rows;
    let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap();
    assert_eq!(row("latency p50 (ms)").texts(), ["1.00", "–", "–"]);
    assert_eq!(row("broker memory").texts(), ["–", "1.00 MiB", "–"]);
    assert_eq!(row("broker memory").change(), Change::Same);
}

#[test]
fn every_setting_that_differs_is_named() {
    let mut now = report();
    now["settings"]["acks"] = json!("1");
    now["settings"]["duration"] = json!({"secs": 10, "nanos": 0});
    now["settings"]["rate_limit"] = json!(7);
    now["settings"]["client"] = json!("native");
    now["settings"]["json_output"] = json!("b.json");
    now["partitions"] = json!(6);
    let comparison = compare(report(), now);
    let found: Vec<_> = comparison
        .settings
        .iter()
        .map(|difference| (&*difference.name, &*difference.then, &*difference.now))
        .collect();
    let expected = [
        ("--acks", "all", "1"),
        ("--client", "not recorded", "native"),
        ("--duration", "10.5 s", "10 s"),
        ("--rate-limit", "none", "7"),
        ("partitions of the topic", "1", "6"),
    ];
    assert_eq!(found, expected);
    assert_eq!(comparison.incidental, ["--json-output"]);
    let text = render(&comparison);
    assert!(text.contains("settings         DIFFER: --acks was all, is 1"), "{text}");
    assert!(text.contains("--json-output differ too"), "{text}");
}

#[test]
fn another_machine_is_named_and_another_load_is_not() {
    let mut now = report();
    now["host"]["load"] = json!("9 9 9");
    assert!(compare(report(), now.clone()).host.is_empty());
    now["host"]["cpu"] = json!("B");
    now["host"]["memory_bytes"] = json!(4_u64 << 30);
    now["broker_version"] = json!("chronik-server 0.2.0");
    let comparison = compare(report(), now);
    assert_eq!((comparison.host.len(), comparison.programs.len()), (2, 1));
    let text = render(&comparison);
    assert!(text.contains("host             DIFFER: cpu was A, is B"), "{text}");
    assert!(text.contains("DIFFER: memory was not recorded, is 4.00 GiB"), "{text}");
    assert!(text.contains("broker was unknown, is chronik-server 0.2.0"), "{text}");
}

#[test]
fn a_file_that_is_not_ours_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.json");
    let refusal = |text: &str| {
        std::fs::write(&path, text).unwrap();
        format!("{:#}", Earlier::read(&path, Planned::Single(&options("produce"))).unwrap_err())
    };
    let mut without_mode = report();
    without_mode["settings"] = json!({});
    for text in ["", "[]", "{\"latency\": 1}", "{\"runs\": 1}", "a,b\n1,2\n", &without_mode.to_string()] {
        let said = refusal(text);
        assert!(said.contains("other.json: not a report that chronik-bench wrote"), "{said}");
    }
    std::fs::write(&path, report().to_string()).unwrap();
    Earlier::read(&path, Planned::Single(&options("produce"))).unwrap();
    let missing = format!(
        "{:#}",
        Earlier::read(&directory.path().join("none"), Planned::Single(&options("produce"))).unwrap_err()
    );
    assert!(missing.contains("cannot read"), "{missing}");
}

#[test]
fn the_runs_of_a_scenario_are_compared_by_name() {
    let named = |name: &str| {
        let mut run = report();
        run["name"] = json!(name);
        run
    };
    let scenario = json!({ "runs": [named("small"), named("large")] }).to_string().into_bytes();
    let single = report().to_string().into_bytes();
    let planned = |names: &[&str]| {
        let run = |name: &&str| scenario::Planned { name: (*name).to_owned(), options: options("produce") };
        names.iter().map(run).collect::<Vec<_>>()
    };
    let runs = parse(&scenario, Planned::Scenario(&planned(&["large", "new"]))).unwrap();
    assert_eq!(runs.keys().collect::<Vec<_>>(), ["large", "small"]);
    let said = |text: &[u8], planned: Planned<'_>| format!("{:#}", parse(text, planned).unwrap_err());
    let new = planned(&["new"]);
    assert!(
        said(&scenario, Planned::Scenario(&new)).contains("none of this scenario's runs, but large, small")
    );
    let mut other = planned(&["small"]);
    assert!(said(&single, Planned::Scenario(&other)).contains("a single run"));
    other[0].options = options("consume");
    let text = said(&scenario, Planned::Scenario(&other));
    assert!(text.contains("run \"small\": its mode was produce, and this is consume"), "{text}");
    assert!(said(&scenario, Planned::Single(&options("produce"))).contains("the runs of a scenario"));
}

#[test]
fn a_run_of_another_mode_is_refused() {
    let text = report().to_string().into_bytes();
    parse(&text, Planned::Single(&options("produce"))).unwrap();
    let said = parse(&text, Planned::Single(&options("end-to-end"))).unwrap_err().to_string();
    assert!(said.contains("its mode was produce, and this is end-to-end"), "{said}");
}

#[test]
fn what_went_on_beside_is_compared_by_its_name() {
    let beside = |name: &str, rate: f64, p50_ms: f64| {
        json!({
            "name": name, "elapsed_seconds": 1.0, "messages": 5, "messages_per_second": rate,
            "megabytes_per_second": 1.0, "latency": latency(p50_ms)
        })
    };
    let (mut then, mut now) = (report(), report());
    then["beside"] = json!([beside("acknowledged", 100.0, 4.0), beside("gone", 1.0, 1.0)]);
    now["beside"] = json!([beside("acknowledged", 150.0, 2.0)]);
    let comparison = compare(then, now);
    let row = |name: &str| comparison.rows.iter().find(|row| row.name == name).unwrap();
    assert_eq!(row("acknowledged: messages/s").texts(), ["100", "150", "1.50"]);
    assert_eq!(row("acknowledged: messages/s").change(), Change::Better);
    assert_eq!(row("acknowledged: p50 (ms)").texts(), ["4.00", "2.00", "0.50"]);
    assert_eq!(row("acknowledged: max (ms)").ratio(), Some(1.0));
    assert_eq!(row("gone: p99.9 (ms)").texts(), ["3.00", "–", "–"]);
    assert!(render(&comparison).contains("\nacknowledged: p99.99 (ms) "));
}

#[test]
fn ages_have_their_unit() {
    assert_eq!([5, 300, 7_300, 700_000].map(age), ["5 s", "5 min", "2 h", "8 days"]);
}
