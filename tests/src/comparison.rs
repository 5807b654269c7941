//! Three nodes of chronik or of Apache Kafka under the same measures, for the table of the README. Used by hand only.

use crate::broker::bench_binary;
use crate::cluster::view::View;
use crate::cluster::{Cluster, FORM_TIMEOUT};
use crate::paths;
use crate::process::eventually;
use crate::program::{java_class, run};
use crate::reference::ReferenceKafka;
use crate::topics::create_replicated_code;
use crate::wire::Connection;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

/// Three nodes to measure.
#[derive(Debug)]
pub enum Three {
    /// chronik-server, replication 3, min.insync 2, one shard a node: two cores are all there are for three nodes and the client.
    Chronik(Box<Cluster>),
    /// Apache Kafka with the same.
    Kafka(Box<ReferenceKafka>),
}

/// Leaders are elected and replicas in sync by then.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

impl Three {
    /// Name of the table's column.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Three::Chronik(_) => "chronik",
            Three::Kafka(_) => "Apache Kafka",
        }
    }

    /// Addresses of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        match self {
            Three::Chronik(cluster) => cluster.ids().into_iter().map(|id| cluster.address(id)).collect(),
            Three::Kafka(kafka) => kafka.addresses(),
        }
    }

    /// Process ids of all running nodes.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        match self {
            Three::Chronik(cluster) => {
                cluster.running().into_iter().map(|id| cluster.process_id(id)).collect()
            }
            Three::Kafka(kafka) => kafka.process_ids(),
        }
    }

    /// What the nodes say.
    fn view(&self) -> Option<View> {
        self.addresses().iter().find_map(|address| View::of(address).ok())
    }

    /// The leader of a partition, once all of the topic's replicas are in sync.
    #[must_use]
    pub fn settled_leader(&self, topic: &str, partition: i32) -> i32 {
        let settled = || {
            let view = self.view()?;
            let partitions = view.topics.get(topic)?;
            let whole = partitions.values().all(|at| at.all_in_sync() && at.in_sync.len() == 3);
            whole.then(|| partitions[&partition].leader)
        };
        eventually("all replicas are in sync", SETTLE_TIMEOUT, || settled().is_some());
        settled().unwrap_or_else(|| self.settled_leader(topic, partition))
    }

    /// Makes a topic of three replicas.
    pub fn create(&self, topic: &str, partitions: i32) {
        let mut connection = Connection::open(&self.addresses()[0]);
        assert_eq!(create_replicated_code(&mut connection, topic, partitions, 3, &[]), 0, "topic {topic}");
        let _ = self.settled_leader(topic, 0);
    }

    /// kill -9.
    pub fn kill(&mut self, id: i32) {
        match self {
            Three::Chronik(cluster) => cluster.kill(id),
            Three::Kafka(kafka) => kafka.kill(number(id)),
        }
    }

    /// SIGTERM.
    pub fn stop(&mut self, id: i32) {
        match self {
            Three::Chronik(cluster) => drop(cluster.stop(id).as_secs()),
            Three::Kafka(kafka) => kafka.stop(number(id)),
        }
    }

    /// Starts a node again.
    pub fn restart(&mut self, id: i32) {
        match self {
            Three::Chronik(cluster) => {
                cluster.restart(id);
                cluster.wait_formed(FORM_TIMEOUT);
            }
            Three::Kafka(kafka) => {
                kafka.spawn(number(id));
                kafka.wait_until_ready(number(id));
            }
        }
    }

    /// CPU seconds of all running nodes so far.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.process_ids().into_iter().map(cpu_seconds).sum()
    }

    /// Resident memory of each node in MiB, the highest of the three.
    #[must_use]
    pub fn resident_mebibytes(&self) -> u64 {
        self.process_ids().into_iter().map(resident_mebibytes).max().unwrap_or_default()
    }

    /// Runs chronik-bench and gives its report.
    #[must_use]
    pub fn bench(&self, topic: &str, arguments: &[&str]) -> serde_json::Value {
        let directory = paths::scratch("comparison");
        let output = directory.path().join("report.json");
        let mut command = Command::new(bench_binary());
        command.args(["-b", &self.addresses().join(","), "-t", topic, "--create-topic", "false"]);
        command.args(arguments).arg("--json-output").arg(&output);
        run(&format!("chronik-bench against {}", self.name()), &mut command);
        let text = std::fs::read_to_string(&output).expect("chronik-bench writes its report");
        serde_json::from_str(&text).expect("the report is JSON")
    }

    /// Runs kafka-producer-perf-test and gives its last line.
    #[must_use]
    pub fn producer_perf_test(&self, topic: &str, records: u64, bytes: u64, linger_ms: u32) -> String {
        let mut command = java_class("org.apache.kafka.tools.ProducerPerformance");
        command.args(["--topic", topic, "--throughput", "-1", "--num-records", &records.to_string()]);
        command.args(["--record-size", &bytes.to_string(), "--producer-props", "acks=all"]);
        command.arg(format!("bootstrap.servers={}", self.addresses().join(",")));
        command.arg(format!("linger.ms={linger_ms}"));
        let output = run("kafka-producer-perf-test", &mut command);
        output.lines().rfind(|line| line.contains("records sent")).unwrap_or_default().trim().to_string()
    }

    /// Makes `topics` of one partition and three replicas from `threads` connections; how long until all are made and led.
    #[must_use]
    pub fn create_many(&self, topics: usize, threads: usize) -> Duration {
        let (started, addresses) = (Instant::now(), self.addresses());
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let mut connection = Connection::open(&addresses[thread % addresses.len()]);
                scope.spawn(move || {
                    for n in (thread..topics).step_by(threads) {
                        let name = format!("many-{n}");
                        let code = create_replicated_code(&mut connection, &name, 1, 3, &[]);
                        assert_eq!(code, 0, "topic {name}");
                    }
                });
            }
        });
        let led = |view: View| {
            let names = view.topics.keys().filter(|name| name.starts_with("many-"));
            names.filter(|name| view.leaders(name).is_some()).count()
        };
        eventually("all topics are led", SETTLE_TIMEOUT, || {
            self.view().is_some_and(|view| led(view) == topics)
        });
        started.elapsed()
    }
}

fn number(id: i32) -> usize {
    usize::try_from(id).expect("node ids are positive")
}

/// User and system time of a process and all its threads.
#[must_use]
pub fn cpu_seconds(process_id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).expect("the process runs");
    // The command's name is in brackets and may hold anything; utime and stime are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    // SAFETY: sysconf only reads a number of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[allow(clippy::cast_precision_loss, reason = "a hundred or so")]
    let per_second = per_second as f64;
    (ticks(11) + ticks(12)) / per_second
}

fn resident_mebibytes(process_id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).expect("the process runs");
    let fields: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(':')).collect();
    let kib = fields["VmRSS"].split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") >> 10
}
