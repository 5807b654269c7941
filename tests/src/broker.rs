//! A real `chronik-server`: built, started on free ports, waited for, killed, started again on the same data.
//!
//! The server is built by the first test that needs it, in the profile of the test, so that `cargo test` from a clean clone
//! needs nothing else. Dropping a [`Broker`] stops it and fails the test if its log holds a panic.

use crate::process::{Process, eventually, free_port};
use crate::wire::Connection;
use crate::{lock, paths};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Start-up waits for the disk only; ten seconds pass on a machine where all tests run at once.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Batches are in their partition's file two seconds after they were produced, or sooner.
const WRITE_BEHIND_TIMEOUT: Duration = Duration::from_secs(15);
/// What must never be in a log: a panic, or the "Cannot propose" of field report 003.
const FORBIDDEN_IN_LOG: [&str; 3] = ["panicked at", "Cannot propose", "stack backtrace"];

/// How a broker is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of shards.
    pub shards: u16,
    /// Broker configs by Kafka's own names.
    pub kafka: Vec<(String, String)>,
    /// Further command line arguments.
    pub arguments: Vec<String>,
    /// Where its data is; a directory of its own by default.
    pub data_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        // Kafka waits three seconds for more members of a new group; tests know when theirs are there.
        let quick = ("group.initial.rebalance.delay.ms".to_string(), "200".to_string());
        Self { shards: 2, kafka: vec![quick], arguments: Vec::new(), data_dir: None }
    }
}

impl Options {
    /// With `count` shards.
    #[must_use]
    pub fn shards(mut self, count: u16) -> Self {
        self.shards = count;
        self
    }

    /// With the broker config `name` set.
    #[must_use]
    pub fn kafka(mut self, name: &str, value: &str) -> Self {
        self.kafka.retain(|(set, _)| set != name);
        self.kafka.push((name.to_string(), value.to_string()));
        self
    }

    /// With one more command line argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_string());
        self
    }

    /// With its data in `directory`.
    #[must_use]
    pub fn data_dir(mut self, directory: &Path) -> Self {
        self.data_dir = Some(directory.to_path_buf());
        self
    }
}

/// A chronik broker of one node.
#[derive(Debug)]
pub struct Broker {
    process: Option<Process>,
    options: Options,
    directory: TempDir,
    kafka_port: u16,
    admin_port: u16,
    /// A broker that was asked to fail may have anything in its log.
    log_checked: bool,
}

impl Broker {
    /// Starts a broker with default options and waits until it answers.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_with(name, Options::default())
    }

    /// Starts a broker and waits until it answers.
    #[must_use]
    pub fn start_with(name: &str, options: Options) -> Self {
        let mut broker = Self::prepare(name, options);
        broker.restart();
        broker
    }

    /// A broker that has not been started: ports and directories are set.
    #[must_use]
    pub fn prepare(name: &str, options: Options) -> Self {
        let directory = paths::scratch(name);
        let (kafka_port, admin_port) = (free_port(), free_port());
        Self { process: None, options, directory, kafka_port, admin_port, log_checked: true }
    }

    /// Starts the broker again, on the same ports and data, and waits until it answers. Gives the time that took.
    pub fn restart(&mut self) -> Duration {
        let started = Instant::now();
        self.spawn();
        self.wait_until_ready();
        started.elapsed()
    }

    /// Starts the broker again with another number of shards.
    pub fn restart_with_shards(&mut self, shards: u16) {
        self.options.shards = shards;
        self.restart();
    }

    /// Starts the process without waiting for it to answer.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the broker runs already");
        let mut command = self.command();
        self.process = Some(
            Process::start("chronik-server", &mut command, &self.log_path()).expect("chronik-server starts"),
        );
    }

    /// The command line of this broker, for those who want to run it in a way of their own.
    #[must_use]
    pub fn command(&self) -> Command {
        let config = self.directory.path().join("node.toml");
        std::fs::write(&config, self.config_text()).expect("the config file can be written");
        let mut command = Command::new(server_binary());
        command.current_dir(self.directory.path());
        command.arg("start").arg("--config").arg(config);
        command.arg("--data-dir").arg(self.data_dir());
        command.arg("--kafka").arg(self.address());
        command.arg("--admin").arg(self.admin_address());
        command.arg("--shards").arg(self.options.shards.to_string());
        command.args(&self.options.arguments);
        command
    }

    fn config_text(&self) -> String {
        let mut text = String::from("[kafka]\n");
        for (name, value) in &self.options.kafka {
            writeln!(text, "\"{name}\" = \"{value}\"").expect("writing to a string succeeds");
        }
        text
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(status) = self.process().exited() {
                panic!("chronik-server left with {status} at start:\n{}", self.log_tail());
            }
            if Connection::try_open(&self.address())
                .is_ok_and(|mut connection| connection.metadata_all().is_ok())
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "no answer to Metadata within {READY_TIMEOUT:?}:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Address of the Kafka listener.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_port)
    }

    /// Address of the admin endpoint.
    #[must_use]
    pub fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// Where its data is.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// The first segment file of a partition.
    #[must_use]
    pub fn first_segment(&self, topic: &str, partition: i32) -> PathBuf {
        self.data_dir().join(format!("data/{topic}-{partition}/00000000000000000000.log"))
    }

    /// Waits until the first segment of a partition holds `bytes`: partition files are written behind the write-ahead log.
    pub fn wait_for_file(&self, topic: &str, partition: i32, bytes: &[u8]) {
        let path = self.first_segment(topic, partition);
        let holds =
            || std::fs::read(&path).is_ok_and(|file| file.windows(bytes.len()).any(|window| window == bytes));
        eventually("a partition's file has what was produced", WRITE_BEHIND_TIMEOUT, holds);
    }

    /// The process. The broker must have been started.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the broker runs")
    }

    /// A connection to it.
    #[must_use]
    pub fn connect(&self) -> Connection {
        Connection::open(&self.address())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Sends `signal` and waits until the broker has left; how long that took, and how it left.
    pub fn stop(&mut self, signal: i32, timeout: Duration) -> (Duration, ExitStatus) {
        let started = Instant::now();
        let process = self.process.as_mut().expect("the broker runs");
        process.signal(signal);
        let Some(status) = process.wait(timeout) else {
            panic!("the broker is still there {timeout:?} after signal {signal}:\n{}", self.log_tail());
        };
        self.process = None;
        (started.elapsed(), status)
    }

    /// SIGTERM, which must end in success.
    pub fn stop_cleanly(&mut self) {
        let (_, status) = self.stop(libc::SIGTERM, Duration::from_secs(30));
        assert!(status.success(), "the broker left with {status} after SIGTERM:\n{}", self.log_tail());
    }

    /// Waits until a broker that must refuse to start has left; its status, and all it said.
    pub fn wait_for_refusal(&mut self, timeout: Duration) -> (ExitStatus, String) {
        self.log_checked = false;
        let status = self.process().wait(timeout);
        let log = self.log();
        let status = status.unwrap_or_else(|| panic!("the broker did not refuse to start:\n{log}"));
        self.process = None;
        assert!(!log.contains("panicked at"), "a refusal is one clear line, not a panic:\n{log}");
        (status, log)
    }

    /// Where its log is.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("broker.log")
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            eprintln!("--- log of the broker ---\n{}\n--- end ---", self.log_tail());
            return;
        }
        if self.log_checked {
            let log = self.log();
            let bad = log.lines().find(|line| FORBIDDEN_IN_LOG.iter().any(|text| line.contains(text)));
            assert!(
                bad.is_none(),
                "the broker's log holds: {}\n{}",
                bad.unwrap_or_default(),
                self.log_tail()
            );
        }
    }
}

/// The server's binary, built in the profile of this test if it is not up to date; `CHRONIK_SERVER` names another.
#[must_use]
pub fn server_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let given = || std::env::var_os("CHRONIK_SERVER").map(PathBuf::from);
    BINARY.get_or_init(|| given().unwrap_or_else(|| build("chronik-core", "chronik-server"))).clone()
}

/// The load generator's binary, likewise.
#[must_use]
pub fn bench_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("chronik-bench", "chronik-bench")).clone()
}

fn build(package: &str, binary: &str) -> PathBuf {
    let _guard = lock::acquire("server-build");
    let directory = paths::profile_directory();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repository());
    command.args(["build", "--quiet", "--locked", "--package", package, "--bin", binary]);
    command.arg("--target-dir").arg(directory.parent().expect("a profile is in the target directory"));
    if directory.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo starts");
    assert!(status.success(), "{binary} does not build");
    directory.join(binary)
}
