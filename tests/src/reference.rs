//! Apache Kafka itself, from its Maven artifacts: the broker that the client programs were written against, and that
//! benchmarks compare with. One at a time, with a small heap.

use crate::process::{Process, free_port};
use crate::wire::Connection;
use crate::{lock, paths, toolchain};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A JVM on two busy cores takes its time.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// Logging to standard output, warnings and worse.
const LOG_CONFIG: &str = "status=error\n\
    rootLogger.level=warn\n\
    rootLogger.appenderRef.out.ref=out\n\
    appender.out.type=Console\n\
    appender.out.name=out\n\
    appender.out.layout.type=PatternLayout\n\
    appender.out.layout.pattern=%d %p %m (%c)%n\n";

/// A running Apache Kafka of one node, broker and controller in one.
#[derive(Debug)]
pub struct ReferenceKafka {
    process: Process,
    directory: TempDir,
    port: u16,
    _only_one: lock::Guard,
}

impl ReferenceKafka {
    /// Formats a directory, starts Kafka with the further broker configs `configs`, and waits until it answers.
    #[must_use]
    pub fn start(configs: &[(&str, &str)]) -> Self {
        let only_one = lock::acquire("reference-kafka");
        let libraries = toolchain::java_libraries();
        let directory = paths::scratch("reference-kafka");
        let port = free_port();
        let properties = write_configs(directory.path(), port, configs);
        format_storage(&libraries, directory.path(), &properties);
        let mut command = java(&libraries, directory.path());
        command.args(["-Xms256m", "-Xmx512m"]).arg("kafka.Kafka").arg(&properties);
        let log = directory.path().join("kafka.log");
        let process = Process::start("kafka", &mut command, &log).expect("java starts");
        let mut kafka = Self { process, directory, port, _only_one: only_one };
        kafka.wait_until_ready(&log);
        kafka
    }

    fn wait_until_ready(&mut self, log: &Path) {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !Connection::try_open(&self.address())
            .is_ok_and(|mut connection| connection.metadata_all().is_ok())
        {
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(self.process.exited().is_none(), "Apache Kafka left at start:\n{}", said());
            assert!(Instant::now() < deadline, "no answer from Apache Kafka:\n{}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where its log segments are.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

fn write_configs(directory: &Path, port: u16, further: &[(&str, &str)]) -> PathBuf {
    let controller = free_port();
    let mut text = format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\noffsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\nlog.cleaner.dedupe.buffer.size=2097152\n",
        directory.join("data").display()
    );
    for (name, value) in further {
        text.push_str(&format!("{name}={value}\n"));
    }
    std::fs::write(directory.join("log4j2.properties"), LOG_CONFIG).expect("the log config can be written");
    let path = directory.join("server.properties");
    std::fs::write(&path, text).expect("the broker config can be written");
    path
}

fn format_storage(libraries: &str, directory: &Path, properties: &Path) {
    let mut command = java(libraries, directory);
    command.args(["-Xmx128m", "kafka.tools.StorageTool", "format", "--standalone"]);
    // Any 16 bytes in URL-safe base64 will do as the id of a cluster that lives for one test.
    command.args(["--cluster-id", "Y2hyb25pay10ZXN0cy0wMQ", "--config"]).arg(properties);
    let output = command.output().expect("java starts");
    assert!(output.status.success(), "formatting failed: {}", String::from_utf8_lossy(&output.stderr));
}

fn java(libraries: &str, directory: &Path) -> Command {
    let mut command = Command::new("java");
    command.arg("-XX:+UseSerialGC");
    command.arg(format!("-Dlog4j2.configurationFile={}", directory.join("log4j2.properties").display()));
    command.args(["-cp", libraries]);
    command.current_dir(directory);
    command
}
