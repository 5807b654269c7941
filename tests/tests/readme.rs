//! The README is true: its commands are these, and they do what it says.

use std::process::Command;
use std::time::Duration;

use chronik_tests::broker::server_binary;
use chronik_tests::process::{Process, eventually};
use chronik_tests::program::run;
use chronik_tests::toolchain::Toolchain;
use chronik_tests::{lock, paths};

/// Three nodes on a busy machine form within this.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that is still there after this hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// The commands of the README's shell blocks, block by block, comments taken off.
fn commands() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(paths::repository().join("README.md")).expect("there is a README");
    let mut blocks = Vec::new();
    for block in text.split("```sh\n").skip(1) {
        let body = block.split("```").next().unwrap_or_default();
        let lines = body.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned());
        blocks.push(lines.filter(|line| !line.is_empty()).collect());
    }
    blocks
}

#[test]
fn its_first_two_commands_run_and_test_everything() {
    let blocks = commands();
    assert_eq!(blocks[0], ["cargo run --release --bin chronik-server"]);
    assert_eq!(blocks[1], ["cargo test --workspace --locked"]);
    let gate = std::fs::read_to_string(paths::repository().join(".ci/run")).expect("there is a gate");
    assert!(gate.contains(&blocks[1][0]), ".ci/run runs the README's test command");
    // What bench/compare starts is tried by tests/bench_compare.rs.
    assert!(blocks.iter().any(|block| block[0] == "bench/compare"), "the README shows it");
    let compare = std::fs::read_to_string(paths::repository().join("bench/compare")).expect("it is there");
    assert!(compare.contains("-p chronik-tests --bin compare"), "{compare}");
}

#[test]
fn a_broker_with_nothing_configured_serves_what_it_shows() {
    if !Toolchain::Kcat.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let directory = paths::scratch("readme");
    let log = directory.path().join("server.log");
    let mut command = Command::new(server_binary());
    command.current_dir(directory.path());
    let mut server = Process::start("chronik-server", &mut command, &log).expect("the broker starts");
    let listens = || std::net::TcpStream::connect("127.0.0.1:9092").is_ok();
    eventually("127.0.0.1:9092 answers", Duration::from_secs(20), listens);

    let blocks = commands();
    let kcat = blocks.iter().find(|block| block[0].starts_with("kcat")).expect("the README shows kcat");
    let outputs: Vec<String> =
        kcat.iter().map(|line| run(line, Command::new("sh").args(["-c", line]))).collect();
    assert!(outputs[0].contains("broker 1 at 127.0.0.1:9092"), "{}", outputs[0]);
    assert_eq!(outputs[2].trim(), "1000");

    for path in [
        "/metrics",
        "/health",
        "/health/live",
        "/health/ready",
        "/v1/status",
        "/v1/cluster",
        "/v1/partitions",
        "/v1/groups",
    ] {
        let url = format!("http://127.0.0.1:9644{path}");
        run(path, Command::new("curl").args(["--fail", "--silent", "--show-error", &url]));
    }
    assert!(directory.path().join("chronik-data/meta.properties").exists(), "its data is in ./chronik-data");
    server.signal(libc::SIGINT);
    let status = server.wait(STOP_TIMEOUT).expect("Ctrl-C ends it");
    assert!(status.success(), "it leaves with {status}");
}

#[test]
fn three_nodes_start_and_are_looked_at_as_it_shows() {
    let _heavy = lock::heavy();
    let directory = paths::scratch("readme-three");
    let blocks = commands();
    let shown = "target/release/chronik-server";
    let starts = blocks.iter().find(|block| block.len() == 4 && block[1].starts_with(shown));
    let starts = &starts.expect("the README shows three nodes")[1..];
    let server = server_binary();
    let server = server.to_str().expect("a path that is text");
    let deployed = format!("{}/core/deploy", paths::repository().display());
    let here = |line: &str| line.replace(shown, server).replace("core/deploy", &deployed);
    let start = |(number, line): (usize, &String)| {
        let line = format!("exec {}", here(line.trim_end_matches('&')));
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(directory.path());
        let log = directory.path().join(format!("server{number}.log"));
        Process::start("chronik-server", &mut command, &log).expect("the node starts")
    };
    let mut nodes: Vec<Process> = starts.iter().enumerate().map(start).collect();
    let looks = blocks.iter().find(|block| block[0].contains("cluster health")).expect("it shows health");
    let look = |line: &str| Command::new("sh").args(["-c", &here(line)]).output().expect("sh starts");
    eventually("the three nodes are healthy", START_TIMEOUT, || look(&looks[0]).status.success());
    let outputs: Vec<String> =
        looks.iter().map(|line| String::from_utf8_lossy(&look(line).stdout).into_owned()).collect();
    assert_eq!(outputs[0], "healthy\n");
    assert!(outputs[1].contains("nodes 3 (3 up)"), "{}", outputs[1]);
    for node in 1..=3 {
        assert!(directory.path().join(format!("chronik-data/node{node}/meta.properties")).exists());
    }
    nodes.iter_mut().for_each(|node| node.signal(libc::SIGTERM));
    for node in &mut nodes {
        let status = node.wait(STOP_TIMEOUT).expect("it ends");
        assert!(status.success(), "it leaves with {status}");
    }
}
