//! The page of `chronik-bench --report` in a real browser: headless Chromium draws it, and what it drew is held against
//! the figures of the same run.

use chronik_tests::broker::{Broker, bench_binary};
use chronik_tests::program::run;
use chronik_tests::toolchain::Toolchain;
use chronik_tests::{lock, paths};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Asks the drawn page for what only a browser knows: how large each path is, and what the page's own script shows when the
/// pointer is over the middle of a chart. The answers are written into the page.
const PROBE: &str = r#"<script>
document.querySelectorAll(".plot svg").forEach((svg) => {
  const box = svg.getBoundingClientRect();
  const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true };
  svg.dispatchEvent(new PointerEvent("pointermove", at));
  const lines = [...svg.querySelectorAll("path.line")];
  const note = document.createElement("pre");
  note.className = "probe";
  note.textContent = JSON.stringify({
    chart: svg.closest("figure").dataset.chart,
    width: box.width,
    lines: lines.map((line) => ({
      name: line.classList[1],
      points: (line.getAttribute("d").match(/[ML]/g) || []).length,
      width: line.getBBox().width,
      stroke: getComputedStyle(line).stroke,
    })),
    tip: svg.parentElement.querySelector(".tip").hidden ? null : svg.parentElement.querySelector(".tip").innerText,
  });
  document.body.append(note);
});
</script>"#;

struct Run {
    json: PathBuf,
    page: PathBuf,
    report: Value,
}

/// Runs the load generator with a page and a JSON file of its result.
fn bench(broker: &mut Broker, directory: &Path, name: &str, arguments: &[&str]) -> Run {
    let (json, page) = (directory.join(format!("{name}.json")), directory.join(format!("{name}.html")));
    let process_id = broker.process().id().to_string();
    let mut command = Command::new(bench_binary());
    command.args(["-b", &broker.address(), "-t", "report", "-c", "16", "-s", "256", "--validate"]);
    command.args(["--broker-pid", &process_id]).args(arguments);
    command.arg("--json-output").arg(&json).arg("--report").arg(&page);
    run("chronik-bench", &mut command);
    let text = std::fs::read_to_string(&json).expect("chronik-bench writes its report");
    let report = serde_json::from_str(&text).expect("the report is JSON");
    Run { json, page, report }
}

/// The page as Chromium leaves it after its scripts have run, with the probe's answers.
fn rendered(page: &Path, directory: &Path) -> String {
    let probed = directory.join("probed.html");
    let source = std::fs::read_to_string(page).expect("chronik-bench writes its page");
    let (before, after) = source.rsplit_once("</body>").expect("a page has a body");
    std::fs::write(&probed, format!("{before}{PROBE}</body>{after}")).expect("the page can be copied");
    let profile = tempfile::tempdir_in(directory).expect("a profile can be made");
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--window-size=1280,900", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("file://{}", probed.display()));
    run("chromium", &mut command)
}

/// What the probe found of a chart.
fn probe(dom: &str, chart: &str) -> Value {
    let answers = dom.split("<pre class=\"probe\">").skip(1);
    let texts =
        answers.filter_map(|rest| rest.split_once("</pre>")).map(|(text, _)| text.replace("&amp;", "&"));
    let mut found = texts.map(|text| serde_json::from_str::<Value>(&text).expect("the probe writes JSON"));
    found
        .find(|answer| answer["chart"] == chart)
        .unwrap_or_else(|| panic!("no drawn chart {chart} in\n{dom}"))
}

/// The chart has these lines with so many points each, drawn with an extent and a colour, and shows values.
fn assert_drawn(dom: &str, chart: &str, names: &[&str], point_count: usize) {
    let answer = probe(dom, chart);
    assert!(answer["width"].as_f64() > Some(500.0), "{answer}");
    let lines = answer["lines"].as_array().expect("a list of lines");
    assert_eq!(lines.iter().map(|line| &line["name"]).collect::<Vec<_>>(), names, "{answer}");
    for line in lines {
        assert_eq!(line["points"], point_count, "{answer}");
        assert_eq!(line["width"].as_f64() > Some(0.0), point_count > 1, "{answer}");
        assert!(line["stroke"].as_str().is_some_and(|stroke| stroke.starts_with("rgb")), "{answer}");
    }
    let tip = answer["tip"].as_str().unwrap_or_else(|| panic!("no values under the pointer: {answer}"));
    assert!(tip.contains(|c: char| c.is_ascii_digit()), "{answer}");
}

/// Intervals of the time line with a latency: one that lacks it is a gap in the line.
fn latency_point_count(report: &Value) -> usize {
    let time_line = report["time_line"].as_array().expect("a time line");
    time_line.iter().filter(|interval| !interval["p50_ms"].is_null()).count()
}

fn assert_all_drawn(run: &Run, dom: &str) {
    assert!(!dom.contains("class=\"script-error\""), "a script of the page failed:\n{dom}");
    let interval_count = run.report["time_line"].as_array().expect("a time line").len();
    let percentile_count = run.report["latency"]["curve"].as_array().expect("a curve").len();
    assert_drawn(dom, "throughput", &["rate"], interval_count);
    assert_drawn(dom, "latency", &["p99", "p50"], latency_point_count(&run.report));
    assert_drawn(dom, "percentiles", &["curve"], percentile_count);
}

#[test]
fn chromium_draws_every_chart_of_a_report() {
    if !Toolchain::Chromium.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let directory = paths::scratch("bench-report");
    let mut broker = Broker::start("bench-report-broker");

    let single = bench(&mut broker, directory.path(), "single", &["-d", "1s", "-w", "0s"]);
    assert_eq!(single.report["time_line"].as_array().map(Vec::len), Some(1));
    assert_all_drawn(&single, &rendered(&single.page, directory.path()));

    let earlier = single.json.to_str().expect("scratch paths are text");
    // A file's name may be anything: it shows what the page makes of a hostile text.
    let hostile = directory.path().join("<b id=\"injected\">&amp;.csv");
    let hostile = hostile.to_str().expect("scratch paths are text");
    let arguments = ["-d", "4s", "-w", "1s", "--compare", earlier, "--csv-output", hostile];
    let compared = bench(&mut broker, directory.path(), "compared", &arguments);
    let dom = rendered(&compared.page, directory.path());
    assert_all_drawn(&compared, &dom);
    assert!(!dom.contains("<b id=\"injected\""), "a setting became an element:\n{dom}");
    assert!(dom.contains("&lt;b id="), "the setting is shown as text:\n{dom}");
    assert!(dom.contains("id=\"comparison\"") && dom.contains("These settings differ"), "{dom}");

    let version = concat!("chronik-server ", env!("CARGO_PKG_VERSION"));
    assert_eq!(compared.report["broker_version"], version, "read from the running broker");
    assert!(dom.contains(version), "{dom}");
    assert!(compared.report["broker_file_system"].is_string(), "{}", compared.report);
}

/// The recorder of script errors works: else their absence would mean nothing.
#[test]
fn an_error_of_a_script_is_recorded_in_the_page() {
    if !Toolchain::Chromium.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let directory = paths::scratch("bench-report");
    let mut broker = Broker::start("bench-report-broker");
    let run = bench(&mut broker, directory.path(), "broken", &["-d", "1s", "-w", "0s"]);
    let source = std::fs::read_to_string(&run.page).expect("chronik-bench writes its page");
    let broken = source.replace("\"series\":", "\"serious\":");
    assert_ne!(source, broken, "the page holds the values of its charts");
    std::fs::write(&run.page, broken).expect("the page can be changed");
    let dom = rendered(&run.page, directory.path());
    assert!(dom.contains("class=\"script-error\"") && dom.contains("script error: "), "{dom}");
}
