//! The page, the comparison and what is said of host and broker, from the built binary.

use std::path::Path;
use std::process::{Command, Output};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::Value;

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    cluster
}

fn bench(servers: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chronik-bench"))
        .args(["-b", servers, "-t", "t", "-c", "8", "-s", "100", "-w", "0s", "-n", "500"])
        .args(arguments)
        .output()
        .unwrap()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_run_is_compared_with_an_earlier_one_in_table_and_page() {
    let directory = tempfile::tempdir().unwrap();
    let [then, now, page] = ["then.json", "now.json", "page.html"].map(|name| directory.path().join(name));
    let [then, now, page] = [&then, &now, &page].map(|path| path.to_str().unwrap());
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let first = bench(&servers, &["-d", "20s", "--json-output", then]);
    assert!(first.status.success(), "{first:?}");
    let arguments = ["-d", "20s", "--acks", "1", "--json-output", now, "--compare", then, "--report", page];
    let second = bench(&servers, &arguments);
    assert!(second.status.success(), "{second:?}");

    let rate = |path: &str| {
        let report: Value = serde_json::from_str(&text(Path::new(path))).unwrap();
        report["messages_per_second"].as_f64().unwrap()
    };
    let ratio = format!("{:.2}", rate(now) / rate(then));
    let table = String::from_utf8(second.stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with("messages/s ")).expect("a row of the comparison");
    assert_eq!(row.split_whitespace().last(), Some(ratio.as_str()), "{table}");
    assert!(table.contains("DIFFER: --acks was all, is 1"), "{table}");
    assert!(table.contains("host             the same"), "{table}");
    let page = text(Path::new(page));
    assert!(page.contains("<th>--acks</th><td>all</td><td>1</td>"), "{page}");
    assert!(page.contains("<th>messages/s</th>") && page.contains(&format!(">{ratio}</td>")), "{page}");
}

/// A scenario's runs share one page, and are compared with the earlier ones of the same names.
#[test]
fn a_scenario_has_one_page_and_is_compared_by_names() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["runs.toml", "more.toml", "then.json", "now.json", "page.html"];
    let [runs, more, then, now, page] = names.map(|name| directory.path().join(name));
    let run =
        |name: &str, mode: &str| format!("[[run]]\nname = \"{name}\"\nmode = \"{mode}\"\nduration = 20\n");
    std::fs::write(&runs, run("first", "produce") + &run("second", "consume")).unwrap();
    std::fs::write(&more, run("second", "consume") + &run("third <b>", "produce")).unwrap();
    let [runs, more, then, now, page] = [&runs, &more, &then, &now, &page].map(|path| path.to_str().unwrap());
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    let first = bench(&servers, &["-m", "scenario", runs, "--json-output", then]);
    assert!(first.status.success(), "{first:?}");
    let arguments = ["-m", "scenario", more, "--json-output", now, "--compare", then, "--report", page];
    let second = bench(&servers, &arguments);
    assert!(second.status.success(), "{second:?}");

    let table = String::from_utf8(second.stdout).unwrap();
    assert_eq!(table.matches("compared with ").count(), 1, "{table}");
    assert!(table.contains("no run \"third <b>\" in "), "{table}");
    let page = text(Path::new(page));
    assert_eq!(page.matches("data-chart=\"throughput\"").count(), 2, "{page}");
    assert_eq!(page.matches("id=\"comparison\"").count(), 1, "{page}");
    assert!(page.contains("third &lt;b&gt;") && !page.contains("third <b>"), "{page}");
    let single = bench(&servers, &["-d", "20s", "--compare", then]);
    assert_eq!(single.status.code(), Some(1), "{single:?}");
    assert!(String::from_utf8(single.stderr).unwrap().contains("the runs of a scenario"));
}

#[test]
fn what_is_wrong_with_a_file_shows_before_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let [other, page] = ["other.json", "none/page.html"].map(|name| directory.path().join(name));
    let [other, page] = [&other, &page].map(|path| path.to_str().unwrap());
    std::fs::write(other, "{}").unwrap();
    // No broker is there: whoever began the run would be told of that.
    let refusal = |arguments: &[&str]| {
        let output = bench("127.0.0.1:1", arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refusal(&["--compare", other]);
    assert!(said.contains(other) && said.contains("not a report that chronik-bench wrote"), "{said}");
    let said = refusal(&["--report", page]);
    assert!(said.contains(page) && said.contains("a directory that exists"), "{said}");
}

#[test]
fn host_and_time_line_are_in_the_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let cluster = cluster();
    let output = bench(&cluster.bootstrap_servers(), &["-d", "20s", "--json-output", path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&text(&path)).unwrap();
    assert!(report["host"]["memory_bytes"].as_u64() > Some(0), "{report}");
    assert!(report["host"]["file_system"].is_string(), "{report}");
    assert!(report["broker_version"].is_null() && report["broker_file_system"].is_null(), "{report}");
    let time_line = report["time_line"].as_array().unwrap();
    let messages: f64 = time_line
        .iter()
        .map(|at| at["messages_per_second"].as_f64().unwrap() * at["seconds"].as_f64().unwrap())
        .sum();
    // Rates by interval are over the intervals' true lengths: together they are all messages.
    assert_eq!(messages.round() as u64, report["messages"].as_u64().unwrap(), "{report}");
    let curve = report["latency"]["curve"].as_array().unwrap();
    assert_eq!(curve.last().unwrap()[0], 100.0);
    assert_eq!(curve.last().unwrap()[1], report["latency"]["max_ms"]);
}
