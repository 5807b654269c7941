//! One node of a cluster: its node file, its process, its log.

use super::Options;
use crate::process::Process;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// The ports of a node, all on loopback.
#[derive(Debug, Clone, Copy)]
pub struct NodeAddresses {
    /// Where clients connect.
    pub kafka: u16,
    /// The admin endpoint.
    pub admin: u16,
    /// Where it listens for other nodes.
    pub raft_bound: u16,
    /// Where other nodes are told to connect: a proxy, if there is one.
    pub raft_advertised: u16,
}

impl NodeAddresses {
    /// Address of the Kafka listener.
    #[must_use]
    pub fn kafka_address(&self) -> String {
        format!("127.0.0.1:{}", self.kafka)
    }

    /// Address of the admin endpoint.
    #[must_use]
    pub fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }

    /// Address that it listens on for other nodes.
    #[must_use]
    pub fn raft_address(&self) -> String {
        format!("127.0.0.1:{}", self.raft_bound)
    }
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: i32,
    home: PathBuf,
    data: PathBuf,
    addresses: BTreeMap<i32, NodeAddresses>,
    config: String,
    process: Option<Process>,
}

impl Node {
    pub(super) fn new(
        id: i32,
        shards: u16,
        home: &Path,
        addresses: BTreeMap<i32, NodeAddresses>,
        options: &Options,
    ) -> Self {
        std::fs::create_dir_all(home).expect("a node's directory can be made");
        let data = options.data_dirs.get(&id).cloned().unwrap_or_else(|| home.join("data"));
        let config = config_text(id, shards, &data, &addresses, options);
        Self { id, home: home.to_path_buf(), data, addresses, config, process: None }
    }

    pub(super) fn addresses(&self) -> NodeAddresses {
        self.addresses[&self.id]
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn process_id(&self) -> u32 {
        self.process.as_ref().expect("the node runs").id()
    }

    pub(super) fn spawn(&mut self, binary: &Path) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let config = self.home.join("node.toml");
        std::fs::write(&config, &self.config).expect("the node file can be written");
        let mut command = Command::new(binary);
        command.current_dir(&self.home).arg("start").arg("--config").arg(config);
        let process = Process::start(&format!("node {}", self.id), &mut command, &self.log_path());
        self.process = Some(process.expect("chronik-server starts"));
    }

    /// How it left, if it should be running and is not.
    pub(super) fn left(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::exited)
    }

    pub(super) fn kill(&mut self) {
        self.process.as_mut().expect("the node runs").kill();
        self.process = None;
    }

    /// Ends it whether it runs or not.
    pub(super) fn end(&mut self) {
        self.process = None;
    }

    pub(super) fn signal(&self, signal: i32) {
        self.process.as_ref().expect("the node runs").signal(signal);
    }

    pub(super) fn stop(&mut self, timeout: Duration) -> Duration {
        let started = Instant::now();
        let process = self.process.as_mut().expect("the node runs");
        process.signal(libc::SIGTERM);
        let Some(status) = process.wait(timeout) else {
            panic!("node {} is still there {timeout:?} after SIGTERM:\n{}", self.id, self.log_tail(60));
        };
        self.process = None;
        assert!(status.success(), "node {} left with {status}:\n{}", self.id, self.log_tail(60));
        started.elapsed()
    }

    pub(super) fn wipe(&self) {
        assert!(self.process.is_none(), "only a stopped node's disk can be replaced");
        for entry in std::fs::read_dir(&self.data).expect("the data directory can be read") {
            let path = entry.expect("a readable entry").path();
            let gone =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            gone.expect("data can be deleted");
        }
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("node.log")
    }

    pub(super) fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn log_tail(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

/// The node file in the form of the design: the same list of peers on each node.
fn config_text(
    id: i32,
    shards: u16,
    data: &Path,
    addresses: &BTreeMap<i32, NodeAddresses>,
    options: &Options,
) -> String {
    let own = addresses[&id];
    let mut text = format!("node_id = {id}\ndata_dir = \"{}\"\nshards = {shards}\n", data.display());
    if let Some(rack) = options.racks.get(&id) {
        text += &format!("rack = \"{rack}\"\n");
    }
    for line in &options.settings {
        text += line;
        text.push('\n');
    }
    write!(
        text,
        "[bind]\nkafka = \"127.0.0.1:{kafka}\"\nraft = \"127.0.0.1:{raft}\"\nadmin = \"127.0.0.1:{admin}\"\n\
         [advertise]\nkafka = \"127.0.0.1:{kafka}\"\nraft = \"127.0.0.1:{advertised}\"\n[kafka]\n",
        kafka = own.kafka,
        raft = own.raft_bound,
        admin = own.admin,
        advertised = own.raft_advertised,
    )
    .expect("writing to a string succeeds");
    for (name, value) in &options.kafka {
        text += &format!("\"{name}\" = \"{value}\"\n");
    }
    for (peer, ports) in addresses {
        text += &format!(
            "[[peers]]\nid = {peer}\nkafka = \"127.0.0.1:{}\"\nraft = \"127.0.0.1:{}\"\n",
            ports.kafka, ports.raft_advertised
        );
    }
    text
}
