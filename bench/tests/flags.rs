//! Flags as a user gives them, right and wrong: what is wrong is told in one line, with an exit code that is not 0.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::Value;

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 3, 1).unwrap();
    cluster
}

fn command(servers: &str, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronik-bench"));
    command.args(["-b", servers, "-t", "t", "-w", "0"]).args(line.split(' '));
    command
}

/// What a run that must succeed reports.
#[track_caller]
fn report(servers: &str, line: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.json");
    let output = command(servers, line).arg("--json-output").arg(&path).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    read(&path)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What a run that cannot begin says: one line.
#[track_caller]
fn refusal(servers: &str, line: &str) -> String {
    let output = command(servers, line).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let ours: Vec<&str> = text.lines().filter(|line| line.starts_with("chronik-bench: ")).collect();
    assert_eq!(ours.len(), 1, "{line}: {text}");
    ours[0].to_owned()
}

fn interrupt(run: &Child) {
    let sent = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A signal in the middle: the summary and the files are of what was measured until then.
#[test]
fn an_interrupted_run_reports_what_it_measured() {
    for client in ["librdkafka", "native"] {
        let (cluster, directory) = (cluster(), tempfile::tempdir().unwrap());
        let path = directory.path().join("run.json");
        let line = format!("--client {client} -c 4 -d 600s --validate --json-output {}", path.display());
        let mut run = command(&cluster.bootstrap_servers(), &line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut progress = BufReader::new(run.stderr.take().unwrap());
        let mut first = String::new();
        progress.read_line(&mut first).unwrap();
        assert!(first.contains(" msg/s "), "{first}");
        interrupt(&run);
        let mut rest = String::new();
        progress.read_to_string(&mut rest).unwrap();
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert!(rest.contains("interrupted: "), "{rest}");
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("note               interrupted after "), "{table}");
        let report = read(&path);
        assert!(report["messages"].as_u64() > Some(0) && report["failures"] == 0, "{report}");
        assert!(report["elapsed_seconds"].as_f64() < Some(500.0), "{report}");
        assert!(report["notes"][0].as_str().unwrap().starts_with("interrupted after "), "{report}");
        assert!(report["validation"].is_null(), "not all was read back: {report}");
    }
}

/// Carries what comes for a listener, `first` included, to `server` and back.
fn forward(first: TcpStream, listener: TcpListener, server: String) {
    let carry = move |client: TcpStream| {
        let broker = TcpStream::connect(&server).unwrap();
        let ways = [(client.try_clone().unwrap(), broker.try_clone().unwrap()), (broker, client)];
        for (mut from, mut to) in ways {
            // The end of a connection, whoever makes it, is no failure.
            std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        }
    };
    std::thread::spawn(move || {
        carry(first);
        listener.incoming().for_each(|client| carry(client.unwrap()));
    });
}

/// A signal while nothing is measured: the second run's broker has been asked and does not answer yet.
#[test]
fn between_two_runs_the_first_signal_is_kept_and_the_next_one_ends_all() {
    for once_more in [false, true] {
        let (cluster, directory) = (cluster(), tempfile::tempdir().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (servers, late) = (cluster.bootstrap_servers(), listener.local_addr().unwrap());
        let (file, path) = (directory.path().join("runs.toml"), directory.path().join("runs.json"));
        let text = format!(
            "[defaults]\ntopic = \"t\"\nconcurrency = 4\nwarmup-duration = \"0s\"\nduration = \"600s\"\n\
            [[run]]\nname = \"one\"\nbootstrap-servers = \"{servers}\"\nmessage-count = 20\n\
            [[run]]\nname = \"two\"\nbootstrap-servers = \"{late}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_chronik-bench"))
            .args(["-m", "scenario"])
            .args([file.as_path(), Path::new("--json-output"), path.as_path()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (first, _) = listener.accept().unwrap();
        interrupt(&run);
        if once_more {
            let status = loop {
                std::thread::sleep(Duration::from_millis(50));
                match run.try_wait().unwrap() {
                    Some(status) => break status,
                    None => interrupt(&run),
                }
            };
            assert_eq!(status.signal(), Some(2), "{status}");
            continue;
        }
        forward(first, listener, servers);
        let status = run.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{status}");
        let runs = &read(&path)["runs"];
        assert_eq!(runs[0]["messages"], 20);
        assert!(runs[1]["notes"][0].as_str().unwrap().starts_with("interrupted after "), "{runs}");
    }
}

#[test]
fn who_does_not_answer_is_named_in_one_line() {
    std::thread::scope(|scope| {
        for mode in ["produce", "consume --client native", "connections", "topics"] {
            scope.spawn(move || {
                let said = refusal("127.0.0.1:1", &format!("-m {mode} -d 1s"));
                assert!(said.contains("no broker answers at 127.0.0.1:1"), "{said}");
            });
        }
    });
    let said = refusal("127.0.0.1:1", "-m topics --client native");
    assert!(said.contains("cannot connect to 127.0.0.1:1"), "{said}");
}

#[test]
fn what_is_taken_or_missing_is_refused_before_the_run() {
    // No broker is there: whoever began the run would be told of that.
    let refusal = |line: &str| refusal("127.0.0.1:1", line);
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = refusal(&format!("--prometheus-port {port}"));
    assert!(said.contains(&format!("cannot listen on port {port}")), "{said}");
    let said = refusal("--broker-pid 4194305");
    assert!(said.contains("--broker-pid 4194305 is no process"), "{said}");
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().display();
    for flag in ["--csv-output", "--json-output", "--report"] {
        for path in [format!("{here}/none/file"), format!("{here}"), "/proc/none".to_owned()] {
            let said = refusal(&format!("{flag} {path}"));
            assert!(said.contains(&format!("cannot write {path}")), "{said}");
        }
    }
    let foreign = directory.path().join("foreign.csv");
    std::fs::write(&foreign, "a,b\n1,2\n").unwrap();
    let said = refusal(&format!("--csv-output {}", foreign.display()));
    assert!(said.contains("its columns are not those of this version"), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "what was tried is taken away again");
}

#[test]
fn a_report_of_another_mode_is_no_comparison() {
    let (cluster, directory) = (cluster(), tempfile::tempdir().unwrap());
    let path = directory.path().join("then.json");
    let servers = cluster.bootstrap_servers();
    let line = format!("-c 4 -d 60s -n 50 --json-output {}", path.display());
    assert!(command(&servers, &line).output().unwrap().status.success());
    let said = refusal(&servers, &format!("-m round-trip --compare {}", path.display()));
    assert!(said.contains("its mode was produce, and this is round-trip"), "{said}");
}

#[test]
fn every_compression_key_and_payload_is_carried_and_read_back_whole() {
    let cluster = cluster();
    let servers = cluster.bootstrap_servers();
    for line in [
        "--compression none --payload-pattern random",
        "--compression gzip --payload-pattern text",
        "--compression snappy --payload-pattern zeros",
        "--compression lz4 --payload-pattern text --key-pattern random",
        "--compression zstd --payload-pattern text --key-pattern sequential",
        "--client native --key-pattern fixed --batch-size 5000 --linger-ms 1",
        "--acks 0",
        "--acks 1 --request-timeout-ms 5000 --message-timeout-ms 9000",
        "--acks -1 --report-interval-secs 2",
    ] {
        let report = report(&servers, &format!("{line} -c 16 -s 200 -d 60s -n 400 --validate"));
        assert_eq!(report["validation"]["checked"], 400, "{line}: {report}");
        for (flag, value) in line.split(' ').collect::<Vec<_>>().chunks(2).map(|pair| (pair[0], pair[1])) {
            let setting = &report["settings"][flag.trim_start_matches("--").replace('-', "_")];
            assert_eq!(setting.to_string().trim_matches('"'), value, "{flag} in {report}");
        }
    }
}

#[test]
fn the_grain_of_the_time_line_is_that_of_the_flag() {
    let cluster = cluster();
    let report = report(&cluster.bootstrap_servers(), "-c 4 -d 2500ms --report-interval-secs 2");
    let lengths: Vec<_> = report["time_line"].as_array().unwrap().iter().map(|at| &at["seconds"]).collect();
    assert_eq!(lengths, [2.0, 0.5]);
}

#[test]
fn brokers_come_from_the_environment_and_the_clients_log_is_shown_on_request() {
    let cluster = cluster();
    let run = |flag: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chronik-bench"));
        command.env("KAFKA_BOOTSTRAP_SERVERS", cluster.bootstrap_servers());
        command.args(["-t", "t", "-w", "0", "-d", "60s", "-n", "20"]).args([flag]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).contains("librdkafka: ")
    };
    assert!(!run("-c4") && run("-vv"));
}

#[test]
fn a_topic_that_may_not_be_made_is_missed() {
    let cluster = cluster();
    let said = refusal(&cluster.bootstrap_servers(), "-t none --create-topic false -d 1s");
    assert!(said.contains("there is no topic none"), "{said}");
}

/// The summary says what to do where --linger-ms, --concurrency and --rate-limit cannot go together.
#[test]
fn too_few_tasks_for_a_linger_are_warned_of() {
    let (cluster, directory) = (cluster(), tempfile::tempdir().unwrap());
    let path = directory.path().join("run.json");
    let line = format!("-c 2 --linger-ms 50 --rate-limit 2000 -d 1s --json-output {}", path.display());
    let output = command(&cluster.bootstrap_servers(), &line).output().unwrap();
    let advice =
        "2 task(s) that each wait --linger-ms 50 send at most 40 a second; raise --concurrency above 100";
    for text in [&output.stderr, &output.stdout, &std::fs::read(&path).unwrap()] {
        assert!(String::from_utf8_lossy(text).contains(advice), "{output:?}");
    }
}
