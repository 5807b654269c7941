//! The binary from end to end, against the mock cluster that librdkafka carries in itself.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

/// Both clients keep to the same rules.
const CLIENTS: [&str; 2] = ["--client librdkafka", "--client native"];

fn cluster(topic: &str, partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    cluster
}

fn bench(cluster: &MockCluster<'_, DefaultProducerContext>, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chronik-bench"))
        .args(["-b", &cluster.bootstrap_servers()])
        .args(arguments.split(' '))
        .output()
        .unwrap()
}

/// What a run that must succeed reports.
fn report(cluster: &MockCluster<'_, DefaultProducerContext>, arguments: &str) -> serde_json::Value {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let output = bench(cluster, &format!("{arguments} --json-output {}", path.display()));
    assert!(output.status.success(), "{output:?}");
    json(&path)
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn produce_validates_and_writes_every_output() {
    let directory = tempfile::tempdir().unwrap();
    let (json_path, csv_path) = (directory.path().join("run.json"), directory.path().join("runs.csv"));
    let cluster = cluster("t", 3);
    for _ in 0..2 {
        let line = format!(
            "-t t -p 3 -c 16 -s 100 -d 1s -w 500ms --rate-limit 2000 --validate --key-pattern random --broker-pid {} --json-output {} --csv-output {}",
            std::process::id(),
            json_path.display(),
            csv_path.display()
        );
        let output = bench(&cluster, &line);
        assert!(output.status.success(), "{output:?}");
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("clean: "), "{table}");
    }
    let report = json(&json_path);
    assert_eq!(report["elapsed_seconds"], 1.0);
    assert_eq!(report["settings"]["acks"], "all");
    assert_eq!(report["failures"], 0);
    let (messages, checked) = (&report["messages"], &report["validation"]["checked"]);
    // The warm-up is checked and not counted.
    assert!(messages.as_u64() > Some(0) && checked.as_u64() > messages.as_u64(), "{report}");
    assert!(report["latency"]["count"].as_u64() > Some(0));
    let csv = std::fs::read_to_string(&csv_path).unwrap();
    assert_eq!(csv.lines().count(), 3);
    assert_eq!(csv.lines().filter(|line| line.starts_with("finished_at,")).count(), 1);
}

/// The mock keeps 5 MiB of a partition: what it threw away must be found to be missing.
#[test]
fn what_the_broker_lost_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let cluster = cluster("t", 1);
    let line =
        format!("-t t -c 64 -s 10000 -d 30s -w 0s -n 2000 --validate --json-output {}", path.display());
    let output = bench(&cluster, &line);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let validation = &json(&path)["validation"];
    assert!(validation["lost"].as_u64() > Some(1_000), "{validation}");
    assert_eq!(validation["damaged"], 0);
}

#[test]
fn the_rate_and_the_message_count_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let cluster = cluster("t", 1);
    let rated = bench(
        &cluster,
        &format!("-t t -c 8 -d 1s -w 200ms --rate-limit 500 --json-output {}", path.display()),
    );
    assert!(rated.status.success(), "{rated:?}");
    let rated = json(&path);
    // Each message of the second, those answered after its end as well; what is left of the warm-up may be answered in it.
    assert_eq!(rated["latency"]["count"], 500, "{rated}");
    let answered = rated["messages"].as_u64().unwrap() + rated["stragglers"].as_u64().unwrap();
    assert!((500..=600).contains(&answered), "{rated}");
    // One task at a time cannot: whoever reads the latency is told why it is what it is.
    let behind = bench(&cluster, "-t t -c 1 -d 1s -w 0 --rate-limit 1000000");
    assert!(
        String::from_utf8_lossy(&behind.stdout).contains("of 1000000 a second were reached"),
        "{behind:?}"
    );
    let counted = bench(&cluster, &format!("-t t -c 8 -d 60s -w 0s -n 100 --json-output {}", path.display()));
    assert!(counted.status.success(), "{counted:?}");
    assert_eq!(json(&path)["messages"], 100);
    assert!(json(&path)["elapsed_seconds"].as_f64() < Some(30.0));
}

#[test]
fn consume_reads_what_is_there_and_finds_a_record_that_is_not_ours() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let cluster = cluster("t", 2);
    let produced = bench(&cluster, "-t t -c 8 -s 200 -d 10s -w 0s -n 500");
    assert!(produced.status.success(), "{produced:?}");
    let consume = format!("-t t -m consume -c 2 -d 20s -w 0s --validate --json-output {}", path.display());
    let output = bench(&cluster, &consume);
    assert!(output.status.success(), "{output:?}");
    let report = json(&path);
    assert_eq!((&report["messages"], &report["validation"]["checked"]), (&500.into(), &500.into()));
    assert_eq!(report["latency"]["count"], 500);

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer = BaseProducer::from_config(&config).unwrap();
    producer.send(BaseRecord::<(), str>::to("t").payload("tampered")).unwrap();
    producer.flush(std::time::Duration::from_secs(10)).unwrap();
    let output = bench(&cluster, &consume);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(json(&path)["validation"]["damaged"], 1);
}

#[test]
fn round_trips_come_back_clean() {
    let cluster = cluster("t", 2);
    for client in CLIENTS {
        for rate in ["", " --rate-limit 200"] {
            let line = format!("-t t -m round-trip -c 64 --clients 2 -d 1s -w 200ms --validate{rate}");
            let report = report(&cluster, &format!("{client} {line}"));
            assert!(report["messages"].as_u64() > Some(0), "{report}");
            assert_eq!(report["validation"]["lost"], 0);
            // Also those of the warm-up came back, and nothing else was taken for ours.
            assert!(report["validation"]["checked"].as_u64() > report["messages"].as_u64(), "{report}");
        }
    }
}

#[test]
fn latency_is_measured_end_to_end_while_producing() {
    let cluster = cluster("t", 3);
    for client in CLIENTS {
        let line = "-t t -m end-to-end -c 8 --clients 2 -d 1s -w 200ms --rate-limit 500 --validate";
        let report = report(&cluster, &format!("{client} {line}"));
        let beside = &report["beside"][0];
        let (received, acknowledged) = (&report["latency"]["count"], &beside["latency"]["count"]);
        // Both count the messages that were meant for the measurement: the same ones.
        assert_eq!(received, acknowledged, "{report}");
        assert_eq!(received, 500, "{report}");
        assert_eq!((&beside["name"], &report["validation"]["lost"]), (&"acknowledged".into(), &0.into()));
    }
}

#[test]
fn a_backlog_is_written_and_then_read_to_its_end() {
    let cluster = cluster("t", 2);
    for client in CLIENTS {
        for (rate, parts) in [("", 1), (" --rate-limit 300", 2)] {
            let line = format!("-t t -m backlog -c 32 -s 100 -n 3000 --consumers 2 --validate{rate}");
            let report = report(&cluster, &format!("{client} {line}"));
            // What comes while it is read may be read with it.
            assert!(report["messages"].as_u64() >= Some(3_000), "{report}");
            assert_eq!(report["beside"][0]["messages"], 3_000);
            assert_eq!(report["beside"].as_array().map(Vec::len), Some(parts));
            assert!(report["validation"]["checked"].as_u64() >= Some(3_000), "{report}");
        }
    }
}

#[test]
fn a_scenario_is_its_runs_in_turn() {
    let directory = tempfile::tempdir().unwrap();
    let (path, file) = (directory.path().join("runs.json"), directory.path().join("runs.toml"));
    let cluster = cluster("t", 1);
    let text = "[defaults]\ntopic = \"t\"\nconcurrency = 4\nwarmup-duration = 0\nmessage-count = 50\n\
        [[run]]\nname = \"small\"\nmessage-size = 10\n\
        [[run]]\nname = \"checked\"\nmessage-size = 100\nvalidate = true\n";
    std::fs::write(&file, text).unwrap();
    let line = format!("-m scenario {} --json-output {}", file.display(), path.display());
    let output = bench(&cluster, &line);
    assert!(output.status.success(), "{output:?}");
    let runs = &json(&path)["runs"];
    assert_eq!((&runs[0]["name"], &runs[0]["bytes"]), (&"small".into(), &500.into()));
    assert_eq!((&runs[1]["name"], &runs[1]["validation"]["checked"]), (&"checked".into(), &50.into()));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.lines().filter(|line| line.ends_with("clean")).count(), 2, "{table}");

    std::fs::write(&file, "[[run]]\nname = \"a\"\nmesage-size = 1").unwrap();
    let output = bench(&cluster, &format!("-m scenario {}", file.display()));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("run \"a\": unknown flag `mesage-size`") && text.lines().count() == 1, "{text}");
}

#[test]
fn prometheus_sees_the_run_while_it_lasts() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cluster = cluster("t", 1);
    let mut run = Command::new(env!("CARGO_BIN_EXE_chronik-bench"))
        .args(["-b", &cluster.bootstrap_servers(), "-t", "t", "-c", "4", "-w", "0", "-d", "60s"])
        .args(["--prometheus-port", &port.to_string()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ask = |path: &str| -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let measured = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("chronik_bench_messages_total{"))?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(50);
    let text = loop {
        let text = ask("/metrics").unwrap_or_default();
        if measured(&text).is_some_and(|count| count > 0) && text.contains("quantile=\"0.99\"") {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "no metrics of the run: {text}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    let elsewhere = ask("/").unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("application/openmetrics-text"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(elsewhere.starts_with("HTTP/1.1 404"), "{elsewhere}");
}

#[test]
fn connections_are_made_and_held_and_ask_now_and_then() {
    let cluster = cluster("t", 1);
    let report = report(&cluster, "-t t -m connections -c 300 --clients 2 -d 1s -w 0 --rate-limit 200");
    let made = &report["beside"][0];
    assert_eq!((&made["name"], &made["messages"]), (&"connected".into(), &300.into()));
    assert_eq!(made["latency"]["count"], 300);
    // Each answer is to a request of the schedule.
    assert!((100..=200).contains(&report["latency"]["count"].as_u64().unwrap()), "{report}");
    let refused = bench(&cluster, "-t t -m connections -c 4 -d 1s --validate");
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn a_wrong_number_of_partitions_is_refused_with_one_line() {
    let cluster = cluster("t", 3);
    let output = bench(&cluster, "-t t -p 5 -d 1s");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        text.trim(),
        "chronik-bench: the topic t has 3 partitions, not 5: choose another with --topic"
    );
}

/// The mock is not our broker: it speaks the protocol as librdkafka's authors read it.
#[test]
fn the_native_client_serves_another_broker_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let cluster = cluster("t", 3);
    let line = format!(
        "-t t --client native -c 16 --clients 2 -s 100 -d 30s -w 0s -n 3000 --validate --json-output {}",
        path.display()
    );
    let output = bench(&cluster, &line);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(json(&path)["validation"]["checked"], 3000);
    let line = format!(
        "-t t --client native -m consume -c 2 --clients 2 -d 30s -w 0s --validate --json-output {}",
        path.display()
    );
    let output = bench(&cluster, &line);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        (&json(&path)["messages"], &json(&path)["validation"]["checked"]),
        (&3000.into(), &3000.into())
    );
    let line =
        format!("-t t --client native -m metadata -c 3 -d 30s -w 0s -n 50 --json-output {}", path.display());
    let output = bench(&cluster, &line);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(json(&path)["messages"], 50);
}
