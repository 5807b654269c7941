//! `chronik-server cluster …` against real nodes: one alone, and three that one is drained of, taken out, and let in again.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use chronik_net::codec::messages::create_topics_request::CreatableTopic;
use chronik_net::codec::messages::{
    CreateTopicsRequest, CreateTopicsResponse, RequestHeader, ResponseHeader, TopicName,
};
use chronik_net::codec::{ApiKey, StrBytes};
use kafka_protocol::protocol::{Decodable, Encodable};
use serde_json::Value;

/// What a debug build on a busy machine may need for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes of one cluster, each with three ports of its own. Killed when dropped.
struct Nodes {
    directory: tempfile::TempDir,
    ports: Vec<[u16; 3]>,
    children: Vec<Option<Child>>,
}

/// Below the range that Linux gives to outgoing connections, so that no client takes one in between, and below those that the
/// test crate gives to brokers of its own.
const PORTS: std::ops::Range<u16> = 12_000..15_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that nobody listens on and that no other test of this process was given.
fn free_port() -> u16 {
    let count = PORTS.end - PORTS.start;
    // Processes begin at different places; threads of one process take turns.
    let start = u16::try_from(u64::from(std::process::id()) * 97 % u64::from(count)).unwrap();
    let ports =
        (0..count).map(|_| PORTS.start + (start + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % count) % count);
    let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("a free port")
}

impl Nodes {
    fn start(count: usize) -> Self {
        // The target directory lies on a real disk, which the WAL's O_DIRECT needs.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let ports = (0..count).map(|_| std::array::from_fn(|_| free_port())).collect();
        let mut nodes = Self { directory, ports, children: (0..count).map(|_| None).collect() };
        (1..=count).for_each(|node| nodes.start_node(node));
        nodes
    }

    fn data(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node{node}"))
    }

    fn kafka(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node - 1][0])
    }

    fn start_node(&mut self, node: usize) {
        let [_, raft, admin] = self.ports[node - 1];
        let mut command = Command::new(env!("CARGO_BIN_EXE_chronik-server"));
        command.args([
            "start",
            "--shards",
            "2",
            "--node-id",
            &node.to_string(),
            "--kafka",
            &self.kafka(node),
        ]);
        command.args(["--admin", &format!("127.0.0.1:{admin}"), "--data-dir"]).arg(self.data(node));
        if self.ports.len() > 1 {
            command.args(["--raft", &format!("127.0.0.1:{raft}")]);
            for (at, [kafka, raft, _]) in self.ports.iter().enumerate() {
                command.args(["--peer", &format!("{}=127.0.0.1:{kafka},127.0.0.1:{raft}", at + 1)]);
            }
        }
        let log = File::create(self.directory.path().join(format!("log{node}"))).unwrap();
        self.children[node - 1] = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.children[node - 1].take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs a `cluster` command by way of this node.
    fn cluster(&self, node: usize, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chronik-server"));
        command.arg("cluster").args(arguments).args(["--bootstrap", &self.kafka(node), "--timeout", "60"]);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn done(&self, node: usize, arguments: &[&str]) -> String {
        let output = self.cluster(node, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self, node: usize) -> Value {
        serde_json::from_str(&self.done(node, &["status", "--json"])).unwrap()
    }

    fn wait_until_healthy(&self, node: usize) {
        let begun = Instant::now();
        while !self.cluster(node, &["health"]).status.success() {
            let said = || String::from_utf8_lossy(&self.cluster(node, &["health"]).stdout).into_owned();
            assert!(begun.elapsed() < PATIENCE, "not healthy: {}\n{}", said(), self.logs());
            sleep(Duration::from_millis(100));
        }
    }

    fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("log{node}"))).unwrap_or_default()
    }

    fn logs(&self) -> String {
        (1..=self.ports.len()).map(|node| format!("--- {node}\n{}", self.log(node))).collect()
    }

    fn create_topic(&self, node: usize, name: &str, partitions: i32, replicas: i16) {
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let header = RequestHeader::default()
            .with_request_api_key(ApiKey::CreateTopics.key())
            .with_request_api_version(7)
            .with_correlation_id(1);
        let mut frame = BytesMut::new();
        header.encode(&mut frame, 2).unwrap();
        request.encode(&mut frame, 7).unwrap();
        let mut stream = TcpStream::connect(self.kafka(node)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&i32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&frame).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut answer = BytesMut::zeroed(usize::try_from(i32::from_be_bytes(length)).unwrap());
        stream.read_exact(&mut answer).unwrap();
        let mut answer = answer.freeze();
        ResponseHeader::decode(&mut answer, 1).unwrap();
        let response = CreateTopicsResponse::decode(&mut answer, 7).unwrap();
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        (1..=self.ports.len()).for_each(|node| self.kill(node));
    }
}

fn holds(status: &Value, node: usize) -> u64 {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|row| row["node"] == node).map_or(0, |row| row["holds"].as_u64().unwrap())
}

#[test]
fn one_node_alone() {
    let mut nodes = Nodes::start(1);
    nodes.wait_until_healthy(1);
    nodes.create_topic(1, "orders", 3, 1);
    let status = nodes.status(1);
    assert_eq!(status["metadata_leader"], 1);
    assert_eq!(status["partitions"]["all"], 3);
    assert!(nodes.done(1, &["status"]).contains("METADATA GROUP"));
    assert_eq!(nodes.done(1, &["rebalance", "--dry-run"]), "balanced: nothing to move\n");
    assert!(nodes.done(1, &["move-leader", "orders", "0", "1"]).contains("is led by node 1"));
    for (refused, why) in [
        (&["drain", "1"][..], "no other node to go to"),
        (&["remove", "1"], "holds replicas of 3 partition(s)"),
        (&["move-leader", "orders", "9", "1"], "there is no partition orders-9"),
        (&["drain", "7"], "there is no node 7; the nodes are [1]"),
    ] {
        let output = nodes.cluster(1, refused);
        assert_eq!(output.status.code(), Some(1), "{refused:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{refused:?}: {output:?}");
    }
    let data = nodes.data(1);
    let recover = ["recover", "--unsafe", "--data-dir", data.to_str().unwrap(), "--yes"];
    let running = nodes.cluster(1, &recover);
    assert_eq!(running.status.code(), Some(1), "a node that runs is left alone: {running:?}");
    nodes.kill(1);
    let unreachable = nodes.cluster(1, &["health"]);
    assert_eq!(unreachable.status.code(), Some(3), "{unreachable:?}");
    let unconfirmed = nodes.cluster(1, &recover[..4]);
    assert_eq!(unconfirmed.status.code(), Some(1), "nobody typed the phrase: {unconfirmed:?}");
    assert!(nodes.done(1, &recover).contains("goes on alone with 3 partition(s)"));
    nodes.start_node(1);
    nodes.wait_until_healthy(1);
    assert_eq!(nodes.status(1)["partitions"]["all"], 3, "what it had, it has");
}

#[test]
fn a_node_of_three_is_drained_taken_out_and_let_in_again() {
    let mut nodes = Nodes::start(3);
    nodes.wait_until_healthy(1);
    nodes.create_topic(2, "orders", 6, 2);
    nodes.wait_until_healthy(2);
    let all = nodes.status(3);
    assert_eq!((1..=3).map(|node| holds(&all, node)).sum::<u64>(), 12);
    assert_eq!(nodes.cluster(1, &["remove", "3"]).status.code(), Some(1), "it holds replicas");

    nodes.done(1, &["drain", "3"]);
    assert_eq!(holds(&nodes.status(1), 3), 0);
    nodes.done(2, &["remove", "3"]);
    assert_eq!(nodes.status(1)["nodes"].as_array().unwrap().len(), 2);

    // Started again on what it has, it is not let in, though it stands in the lists of peers; it says so once for all nodes.
    nodes.kill(3);
    nodes.start_node(3);
    let says =
        || nodes.log(3).lines().filter(|line| line.contains("node 3 was removed from the cluster")).count();
    let begun = Instant::now();
    while says() == 0 {
        assert!(begun.elapsed() < PATIENCE, "{}", nodes.logs());
        sleep(Duration::from_millis(100));
    }
    assert!(!nodes.log(3).contains("link between nodes refused"), "{}", nodes.log(3));
    assert_eq!(nodes.status(1)["nodes"].as_array().unwrap().len(), 2);

    nodes.kill(3);
    std::fs::remove_dir_all(nodes.data(3)).unwrap();
    nodes.start_node(3);
    nodes.done(1, &["add", "3", "--rebalance"]);
    nodes.wait_until_healthy(3);
    assert_eq!((1..=3).map(|node| holds(&nodes.status(1), node)).collect::<Vec<_>>(), [4, 4, 4]);
    assert_eq!(nodes.done(2, &["rebalance", "--dry-run"]), "balanced: nothing to move\n");
}
