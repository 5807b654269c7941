//! What a test waits for in its cluster: nodes that answer, leaders that all agree on, replicas in sync. Each wait has a bound and
//! ends at once when a node has left that should run.

use super::{Cluster, FORM_TIMEOUT, POLL_INTERVAL};
use crate::broker::server_binary;
use crate::records::batch;
use crate::wire::Connection;
use chronik_net::codec::ErrorCode;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

impl Cluster {
    /// Waits until `holds` is true, which must be within `timeout`; the logs' ends are printed if not. A node that should run and
    /// has left ends the wait.
    pub fn wait(&mut self, what: &str, timeout: Duration, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let started = Instant::now();
        loop {
            if holds(self) {
                return started.elapsed();
            }
            for node in self.nodes.values_mut() {
                if let Some(status) = node.left() {
                    panic!(
                        "node {} left with {status} while waiting for: {what}\n{}",
                        node.id,
                        node.log_tail(60)
                    );
                }
            }
            assert!(started.elapsed() < timeout, "not within {timeout:?}: {what}\n{}", self.describe());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until every node names all running nodes as brokers and `/health` is content everywhere.
    pub fn wait_formed(&mut self, timeout: Duration) -> Duration {
        self.wait("each node names all nodes and is healthy", timeout, |cluster| {
            let running = cluster.running();
            running.iter().all(|id| {
                cluster
                    .view(*id)
                    .is_some_and(|view| view.brokers.keys().copied().collect::<Vec<_>>() == running)
                    && cluster.health(*id).is_some_and(|health| health.ok)
            })
        })
    }

    /// Waits until a node answers Metadata and names itself.
    pub fn wait_answering(&mut self, id: i32, timeout: Duration) -> Duration {
        self.wait(&format!("node {id} answers"), timeout, |cluster| {
            cluster.view(id).is_some_and(|view| view.brokers.contains_key(&id))
        })
    }

    /// Waits until all running nodes agree on a running leader for every partition of `topic`.
    pub fn wait_led(&mut self, topic: &str, timeout: Duration) -> BTreeMap<i32, i32> {
        let mut found = None;
        self.wait(&format!("one leader for each partition of {topic}"), timeout, |cluster| {
            found = cluster.agreed_leaders(topic);
            found.is_some()
        });
        found.expect("they agreed")
    }

    /// Produces one batch to the partition's leader, which may just have changed; a connection to it and the batch's offset.
    pub fn produce(&mut self, topic: &str, partition: i32, values: &[&str]) -> (Connection, i64) {
        let deadline = Instant::now() + FORM_TIMEOUT;
        loop {
            let leader = self.leader(topic, partition);
            let mut connection = self.connect(leader);
            let answer = connection.produce(topic, partition, batch(values)).expect("an answer");
            match answer.error {
                ErrorCode::None => return (connection, answer.base_offset),
                ErrorCode::NotLeaderOrFollower if Instant::now() < deadline => {}
                error => panic!("{topic}-{partition} takes no record: {error:?}\n{}", self.describe()),
            }
        }
    }

    /// Waits until all replicas of `topic` are in sync, as every running node sees it.
    pub fn wait_in_sync(&mut self, topic: &str, timeout: Duration) -> Duration {
        self.wait(&format!("all replicas of {topic} in sync"), timeout, |cluster| {
            cluster.running().into_iter().all(|id| {
                cluster
                    .view(id)
                    .and_then(|view| view.topics.get(topic).cloned())
                    .is_some_and(|partitions| partitions.values().all(|partition| partition.all_in_sync()))
            })
        })
    }

    /// Waits until `cluster health` is content: what who runs a cluster waits for before the next node may go. All nodes run.
    pub fn wait_healthy(&mut self, timeout: Duration) -> Duration {
        self.wait("`cluster health` says healthy", timeout, |cluster| {
            let mut command = Command::new(server_binary());
            command.args(["cluster", "health", "--bootstrap", &cluster.address(1)]);
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.expect("chronik-server starts").success()
        })
    }

    /// The leaders of `topic` by partition, when all running nodes name the same ones and these run.
    #[must_use]
    pub fn agreed_leaders(&self, topic: &str) -> Option<BTreeMap<i32, i32>> {
        let running = self.running();
        let mut agreed: Option<BTreeMap<i32, i32>> = None;
        for id in &running {
            let leaders = self.view(*id)?.leaders(topic)?;
            if !leaders.values().all(|leader| running.contains(leader)) {
                return None;
            }
            match &agreed {
                Some(known) if *known != leaders => return None,
                _ => agreed = Some(leaders),
            }
        }
        agreed
    }

    /// The leader of a partition.
    pub fn leader(&mut self, topic: &str, partition: i32) -> i32 {
        self.wait_led(topic, FORM_TIMEOUT)[&partition]
    }
}
