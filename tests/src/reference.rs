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

/// Any 16 bytes in URL-safe base64 will do as the id of a cluster that lives for one test.
const CLUSTER_ID: &str = "Y2hyb25pay10ZXN0cy0wMQ";
/// The directories of the controllers that a cluster begins with, likewise.
const DIRECTORY_IDS: [&str; 3] =
    ["Y2hyb25pay1kaXItMDAwMQ", "Y2hyb25pay1kaXItMDAwMg", "Y2hyb25pay1kaXItMDAwMw"];

/// A running Apache Kafka of one node or three, each broker and controller in one.
#[derive(Debug)]
pub struct ReferenceKafka {
    nodes: Vec<Node>,
    directory: TempDir,
    libraries: String,
    _only_one: lock::Guard,
}

/// One of its nodes.
#[derive(Debug)]
struct Node {
    process: Option<Process>,
    port: u16,
}

impl ReferenceKafka {
    /// Formats a directory, starts Kafka with the further broker configs `configs`, and waits until it answers.
    #[must_use]
    pub fn start(configs: &[(&str, &str)]) -> Self {
        Self::start_nodes(1, configs)
    }

    /// The same with three nodes, and topics of three replicas of which two must be in sync.
    #[must_use]
    pub fn start_three(configs: &[(&str, &str)]) -> Self {
        let replicated = [("default.replication.factor", "3"), ("min.insync.replicas", "2")];
        Self::start_nodes(3, &[&replicated, configs].concat())
    }

    fn start_nodes(count: usize, configs: &[(&str, &str)]) -> Self {
        let only_one = lock::acquire("reference-kafka");
        let libraries = toolchain::java_libraries();
        let directory = paths::scratch("reference-kafka");
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let nodes = ports.iter().map(|(port, _)| Node { process: None, port: *port }).collect();
        let mut kafka = Self { nodes, directory, libraries, _only_one: only_one };
        for number in 1..=count {
            let home = kafka.home(number);
            std::fs::create_dir_all(&home).expect("a node's directory can be made");
            let properties = write_configs(&home, number, &ports, configs);
            format_storage(&kafka.libraries, &home, &properties, &ports);
        }
        (1..=count).for_each(|number| kafka.spawn(number));
        (1..=count).for_each(|number| kafka.wait_until_ready(number));
        kafka
    }

    fn home(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("node{number}"))
    }

    /// Starts a node that does not run. Nodes count from 1.
    pub fn spawn(&mut self, number: usize) {
        let home = self.home(number);
        let mut command = java(&self.libraries, &home);
        command.args(["-Xms256m", "-Xmx512m"]).arg("kafka.Kafka").arg(home.join("server.properties"));
        let process = Process::start("kafka", &mut command, &home.join("kafka.log")).expect("java starts");
        self.nodes[number - 1].process = Some(process);
    }

    /// kill -9.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number - 1].process = None;
    }

    /// SIGTERM, and waits until it has left.
    pub fn stop(&mut self, number: usize) {
        let mut process = self.nodes[number - 1].process.take().expect("the node runs");
        process.signal(libc::SIGTERM);
        assert!(process.wait(READY_TIMEOUT).is_some(), "Apache Kafka does not stop");
    }

    /// Waits until a node answers and knows all nodes.
    pub fn wait_until_ready(&mut self, number: usize) {
        let (deadline, count) = (Instant::now() + READY_TIMEOUT, self.nodes.len());
        let (address, log) = (self.address_of(number), self.home(number).join("kafka.log"));
        let ready = || {
            let metadata =
                Connection::try_open(&address).and_then(|mut connection| connection.metadata_all());
            metadata.is_ok_and(|metadata| metadata.brokers.len() == count)
        };
        while !ready() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            let process = self.nodes[number - 1].process.as_mut().expect("the node runs");
            assert!(process.exited().is_none(), "Apache Kafka left at start:\n{}", said());
            assert!(Instant::now() < deadline, "no answer from Apache Kafka:\n{}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn address_of(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[number - 1].port)
    }

    /// The address of its first node.
    #[must_use]
    pub fn address(&self) -> String {
        self.address_of(1)
    }

    /// The addresses of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        (1..=self.nodes.len()).map(|number| self.address_of(number)).collect()
    }

    /// The process of its first node.
    pub fn process(&mut self) -> &mut Process {
        self.nodes[0].process.as_mut().expect("the node runs")
    }

    /// The process ids of its nodes.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.id())).collect()
    }

    /// Where the log segments of its first node are.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home(1).join("data")
    }
}

/// `ports` are those of the brokers and of the controllers.
fn write_configs(directory: &Path, node: usize, ports: &[(u16, u16)], further: &[(&str, &str)]) -> PathBuf {
    let (port, controller) = ports[node - 1];
    let controllers: Vec<String> = ports.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let (copies, in_sync) = (ports.len(), (ports.len() / 2 + 1).min(ports.len()));
    let mut text = format!(
        "process.roles=broker,controller\nnode.id={node}\n\
         controller.quorum.bootstrap.servers={}\ncontroller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\noffsets.topic.replication.factor={copies}\n\
         transaction.state.log.replication.factor={copies}\ntransaction.state.log.min.isr={in_sync}\n\
         share.coordinator.state.topic.replication.factor={copies}\n\
         share.coordinator.state.topic.min.isr={in_sync}\nlog.cleaner.dedupe.buffer.size=2097152\n",
        controllers.join(","),
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

fn format_storage(libraries: &str, directory: &Path, properties: &Path, ports: &[(u16, u16)]) {
    let mut command = java(libraries, directory);
    command.args(["-Xmx128m", "kafka.tools.StorageTool", "format"]);
    if ports.len() == 1 {
        command.arg("--standalone");
    } else {
        let voters = (1..).zip(ports).zip(DIRECTORY_IDS);
        let voters = voters.map(|((node, (_, port)), id)| format!("{node}@127.0.0.1:{port}:{id}"));
        command.arg("--initial-controllers").arg(voters.collect::<Vec<_>>().join(","));
    }
    command.args(["--cluster-id", CLUSTER_ID, "--config"]).arg(properties);
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
