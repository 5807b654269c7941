//! A real cluster: several `chronik-server` processes on loopback, each with a node file, a data directory and a log of its
//! own, killed, paused, stopped, wiped, cut off and started again by node id.
//!
//! Owned by one test. Dropping a [`Cluster`] ends all its processes; unless the test fails anyway, it fails when a log holds
//! what must never be there (see [`logs`]). Node ids count from 1. With [`Options::cuts`] all traffic between nodes passes
//! [`crate::proxy`], which can hold it up; without, nodes dial one another, as in the field.

pub mod logs;
mod node;
pub mod view;
mod waits;

use crate::broker::server_binary;
use crate::paths;
use crate::process::free_port;
use crate::proxy::{Cuts, Proxy};
use crate::wire::Connection;
use node::Node;
pub use node::NodeAddresses;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use view::{Health, View};

/// Forming takes an election; the rest is a debug build on a machine where all tests run at once.
pub const FORM_TIMEOUT: Duration = Duration::from_secs(40);
/// A stop by SIGTERM hands leaderships over first.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// How often the nodes are asked while something is awaited. Not more often: the answers cost the nodes something too.
const POLL_INTERVAL: Duration = Duration::from_millis(40);

/// How a cluster is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of shards, node by node. Nodes may differ, and do so by default.
    pub shards: Vec<u16>,
    /// Broker configs by Kafka's own names.
    pub kafka: Vec<(String, String)>,
    /// Further lines at the head of each node file.
    pub settings: Vec<String>,
    /// Whether traffic between nodes can be cut.
    pub cuts: bool,
    /// Data directories that are not the usual ones, by node.
    pub data_dirs: BTreeMap<i32, PathBuf>,
    /// Racks by node.
    pub racks: BTreeMap<i32, String>,
}

impl Default for Options {
    fn default() -> Self {
        // Kafka waits three seconds for more members of a new group; tests know when theirs are there.
        let quick = ("group.initial.rebalance.delay.ms".to_string(), "200".to_string());
        Self {
            shards: vec![2, 1, 2],
            kafka: vec![quick],
            settings: vec!["replication_factor = 3".into(), "min_insync_replicas = 2".into()],
            cuts: false,
            data_dirs: BTreeMap::new(),
            racks: BTreeMap::new(),
        }
    }
}

impl Options {
    /// With a proxy between the nodes.
    #[must_use]
    pub fn cuts(mut self) -> Self {
        self.cuts = true;
        self
    }

    /// With the broker config `name` set on all nodes.
    #[must_use]
    pub fn kafka(mut self, name: &str, value: &str) -> Self {
        self.kafka.push((name.to_string(), value.to_string()));
        self
    }

    /// With the data of `node` in `directory`.
    #[must_use]
    pub fn data_dir(mut self, node: i32, directory: &Path) -> Self {
        self.data_dirs.insert(node, directory.to_path_buf());
        self
    }

    /// With these numbers of shards.
    #[must_use]
    pub fn shards(mut self, counts: &[u16]) -> Self {
        self.shards = counts.to_vec();
        self
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<i32, Node>,
    proxies: BTreeMap<i32, Proxy>,
    cuts: Arc<Cuts>,
    directory: TempDir,
    /// What the scan of the logs lets pass; see [`logs`].
    expected: Vec<String>,
}

impl Cluster {
    /// Starts three nodes with defaults and waits until they are one cluster.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_with(name, Options::default())
    }

    /// Starts one node for each number of shards and waits until they are one cluster.
    #[must_use]
    pub fn start_with(name: &str, options: Options) -> Self {
        let mut cluster = Self::prepare(name, options);
        cluster.start_all();
        cluster
    }

    /// A cluster whose nodes have not been started.
    #[must_use]
    pub fn prepare(name: &str, options: Options) -> Self {
        let directory = paths::scratch(name);
        let cuts = Arc::new(Cuts::default());
        let count = i32::try_from(options.shards.len()).expect("a few nodes");
        let addresses: BTreeMap<i32, NodeAddresses> =
            (1..=count).map(|id| (id, NodeAddresses::choose(options.cuts))).collect();
        let mut proxies = BTreeMap::new();
        for (id, ports) in addresses.iter().filter(|_| options.cuts) {
            let proxy = Proxy::start(*id, ports.raft_advertised, ports.raft_bound, Arc::clone(&cuts));
            proxies.insert(*id, proxy);
        }
        let node = |(id, shards): (i32, &u16)| {
            let home = directory.path().join(format!("node{id}"));
            (id, Node::new(id, *shards, &home, addresses.clone(), &options))
        };
        let nodes = (1..).zip(&options.shards).map(node).collect();
        Self { nodes, proxies, cuts, directory, expected: Vec::new() }
    }

    /// Starts all nodes and waits until each names all of them.
    pub fn start_all(&mut self) {
        for id in self.ids() {
            self.spawn(id);
        }
        self.wait_formed(FORM_TIMEOUT);
    }

    /// All node ids.
    #[must_use]
    pub fn ids(&self) -> Vec<i32> {
        self.nodes.keys().copied().collect()
    }

    /// The ids of the nodes that run, paused ones included.
    #[must_use]
    pub fn running(&self) -> Vec<i32> {
        self.nodes.values().filter(|node| node.runs()).map(|node| node.id).collect()
    }

    fn node(&self, id: i32) -> &Node {
        &self.nodes[&id]
    }

    fn node_mut(&mut self, id: i32) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of this cluster")
    }

    /// Starts a node's process and does not wait.
    pub fn spawn(&mut self, id: i32) {
        self.node_mut(id).spawn(&server_binary());
    }

    /// Starts a node again and waits until it answers Metadata with brokers in it. Gives the time that took.
    pub fn restart(&mut self, id: i32) -> Duration {
        let started = Instant::now();
        self.spawn(id);
        self.wait_answering(id, FORM_TIMEOUT);
        started.elapsed()
    }

    /// kill -9.
    pub fn kill(&mut self, id: i32) {
        self.node_mut(id).kill();
    }

    /// SIGSTOP: the process neither answers nor dies.
    pub fn pause(&mut self, id: i32) {
        self.node(id).signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self, id: i32) {
        self.node(id).signal(libc::SIGCONT);
    }

    /// SIGTERM, which must end in success; how long that took.
    pub fn stop(&mut self, id: i32) -> Duration {
        self.node_mut(id).stop(STOP_TIMEOUT)
    }

    /// Deletes all that a stopped node has stored, as if its disk had been replaced.
    pub fn wipe(&mut self, id: i32) {
        self.node(id).wipe();
    }

    /// The traffic between nodes.
    #[must_use]
    pub fn cuts(&self) -> &Cuts {
        assert!(!self.proxies.is_empty(), "this cluster was started without proxies");
        &self.cuts
    }

    /// Address of a node's Kafka listener.
    #[must_use]
    pub fn address(&self, id: i32) -> String {
        self.node(id).addresses().kafka_address()
    }

    /// All addresses, as clients take them.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.ids().into_iter().map(|id| self.address(id)).collect();
        addresses.join(",")
    }

    /// Address of a node's admin endpoint.
    #[must_use]
    pub fn admin_address(&self, id: i32) -> String {
        self.node(id).addresses().admin_address()
    }

    /// Address of the port where a node listens for the others.
    #[must_use]
    pub fn raft_address(&self, id: i32) -> String {
        self.node(id).addresses().raft_address()
    }

    /// Where a node's data is.
    #[must_use]
    pub fn data_dir(&self, id: i32) -> PathBuf {
        self.node(id).data_dir()
    }

    /// A connection to a node.
    #[must_use]
    pub fn connect(&self, id: i32) -> Connection {
        Connection::open(&self.address(id))
    }

    /// Process id of a running node.
    #[must_use]
    pub fn process_id(&self, id: i32) -> u32 {
        self.node(id).process_id()
    }

    /// What a node, asked alone, says of the cluster; none when it does not answer.
    #[must_use]
    pub fn view(&self, id: i32) -> Option<View> {
        View::of(&self.address(id)).ok()
    }

    /// What a node's `/health` says; none when it does not answer.
    #[must_use]
    pub fn health(&self, id: i32) -> Option<Health> {
        Health::of(&self.admin_address(id)).ok()
    }

    /// Lets lines of the logs pass that hold this text and would fail the test otherwise.
    pub fn expect_in_log(&mut self, text: &str) {
        self.expected.push(text.to_string());
    }

    /// All that a node has logged so far.
    #[must_use]
    pub fn log(&self, id: i32) -> String {
        self.node(id).log()
    }

    /// Fails if a log holds what must not be there.
    pub fn check_logs(&self) {
        for node in self.nodes.values() {
            if let Some(line) = logs::first_bad_line(&node.log(), &self.expected) {
                panic!("the log of node {} holds: {line}\n{}", node.id, node.log_tail(40));
            }
        }
    }

    /// What each node says of itself and the end of its log, for the message of a failed test.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for node in self.nodes.values() {
            let state = if node.runs() { "runs" } else { "does not run" };
            text += &format!("=== node {} {state}\n", node.id);
            if node.runs() {
                text += &format!("health: {:?}\nview: {:?}\n", self.health(node.id), self.view(node.id));
            }
            text += &format!("{}\n", node.log_tail(40));
        }
        text
    }

    /// Where all of its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        for node in self.nodes.values_mut() {
            node.end();
            if failing {
                eprintln!("--- log of node {} ---\n{}\n--- end ---", node.id, node.log_tail(60));
            }
        }
        if failing {
            keep(&self.directory);
        } else {
            self.check_logs();
        }
    }
}

/// With `CHRONIK_KEEP_FAILED` set, the directories of a failed test, logs and data, are copied to that directory.
fn keep(directory: &TempDir) {
    let Some(target) = std::env::var_os("CHRONIK_KEEP_FAILED") else { return };
    let mut copy = std::process::Command::new("cp");
    let copied = copy.args(["-r", "--sparse=always"]).arg(directory.path()).arg(&target).status();
    eprintln!("{} is kept in {}: {copied:?}", directory.path().display(), target.display());
}

/// Ports of a cluster, before it runs.
impl NodeAddresses {
    fn choose(cuts: bool) -> Self {
        let raft_bound = free_port();
        let raft_advertised = if cuts { free_port() } else { raft_bound };
        Self { kafka: free_port(), admin: free_port(), raft_bound, raft_advertised }
    }
}
