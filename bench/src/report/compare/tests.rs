//! Comparisons of small reports made by hand.

use serde_json::json;

use super::*;

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
        "messages_per_second": 1000.0,
        "megabytes_per_second": 1.0,
        "latency": {
            "count": 5, "p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0, "p9999_ms": 4.0, "max_ms": 5.0
        },
        "broker": null
    })
}

fn compare(then: Value, now: Value) -> Comparison {
    let summary = |value| serde_json::from_value::<Summary>(value).unwrap();
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
        "cpu_seconds_per_gb": 1.0, "cpu_seconds_per_million": 2.0, "resident_bytes": 1 << 20,
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
        format!("{:#}", Earlier::read(&path, None).unwrap_err())
    };
    let mut without_mode = report();
    without_mode["settings"] = json!({});
    for text in ["", "[]", "{\"latency\": 1}", "{\"runs\": 1}", "a,b\n1,2\n", &without_mode.to_string()] {
        let said = refusal(text);
        assert!(said.contains("other.json: not a report that chronik-bench wrote"), "{said}");
    }
    std::fs::write(&path, report().to_string()).unwrap();
    Earlier::read(&path, None).unwrap();
    let missing = format!("{:#}", Earlier::read(&directory.path().join("none"), None).unwrap_err());
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
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let runs = parse(&scenario, Some(&names(&["large", "new"]))).unwrap();
    assert_eq!(runs.keys().collect::<Vec<_>>(), ["large", "small"]);
    let said = |text: &[u8], names: Option<&[String]>| parse(text, names).unwrap_err().to_string();
    assert!(
        said(&scenario, Some(&names(&["new"]))).contains("none of this scenario's runs, but large, small")
    );
    assert!(said(&scenario, None).contains("the runs of a scenario"));
    assert!(said(&single, Some(&names(&["small"]))).contains("a single run"));
}

#[test]
fn ages_have_their_unit() {
    assert_eq!([5, 300, 7_300, 700_000].map(age), ["5 s", "5 min", "2 h", "8 days"]);
}
