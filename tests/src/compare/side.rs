//! The nodes of one side: one or three, of chronik or of Apache Kafka, under the same measures.

use crate::broker::{self, Broker, bench_binary};
use crate::cluster::view::View;
use crate::cluster::{Cluster, FORM_TIMEOUT, Options};
use crate::paths;
use crate::process::{eventually, status_kib};
use crate::program::run;
use crate::reference::ReferenceKafka;
use crate::topics::create_replicated_code;
use crate::wire::Connection;
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Leaders are elected and replicas in sync by then.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Old segments go within a run, not after five minutes.
const RETENTION: (&str, &str) = ("log.retention.check.interval.ms", "2000");

/// Whose nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// chronik-server.
    Chronik,
    /// Apache Kafka.
    Kafka,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Chronik => "chronik",
            Kind::Kafka => "Apache Kafka",
        })
    }
}

/// Running nodes to measure.
#[derive(Debug)]
pub enum Side {
    /// One chronik-server with a shard a core.
    One(Box<Broker>),
    /// Three, replication 3, min.insync 2, one shard a node: two cores are all there are for three nodes and the client.
    Three(Box<Cluster>),
    /// Apache Kafka, of one node or three, with the same.
    Kafka(Box<ReferenceKafka>),
}

impl Side {
    /// Starts nodes and waits until they answer.
    #[must_use]
    pub fn start(kind: Kind, nodes: usize) -> Self {
        match (kind, nodes) {
            (Kind::Chronik, 1) => {
                let options = broker::Options::default().shards(2).kafka(RETENTION.0, RETENTION.1);
                Side::One(Box::new(Broker::start_with("compare", options)))
            }
            (Kind::Chronik, _) => {
                Side::Three(Box::new(Cluster::start_with("compare", Options::default().shards(&[1, 1, 1]))))
            }
            (Kind::Kafka, 1) => Side::Kafka(Box::new(ReferenceKafka::start(&[RETENTION]))),
            (Kind::Kafka, _) => Side::Kafka(Box::new(ReferenceKafka::start_three(&[]))),
        }
    }

    /// Whose nodes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if matches!(self, Side::Kafka(_)) { Kind::Kafka } else { Kind::Chronik }
    }

    /// Addresses of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        match self {
            Side::One(broker) => vec![broker.address()],
            Side::Three(cluster) => cluster.ids().into_iter().map(|id| cluster.address(id)).collect(),
            Side::Kafka(kafka) => kafka.addresses(),
        }
    }

    /// Process ids of all running nodes.
    pub fn process_ids(&mut self) -> Vec<u32> {
        match self {
            Side::One(broker) => vec![broker.process().id()],
            Side::Three(cluster) => cluster.running().into_iter().map(|id| cluster.process_id(id)).collect(),
            Side::Kafka(kafka) => kafka.process_ids(),
        }
    }

    /// What the nodes say.
    fn view(&self) -> Option<View> {
        self.addresses().iter().find_map(|address| View::of(address).ok())
    }

    /// The leader of a partition, once all of the topic's replicas are in sync.
    #[must_use]
    pub fn settled_leader(&self, topic: &str, partition: i32) -> i32 {
        let nodes = self.addresses().len();
        let settled = || {
            let view = self.view()?;
            let partitions = view.topics.get(topic)?;
            let whole = partitions.values().all(|at| at.all_in_sync() && at.in_sync.len() == nodes);
            whole.then(|| partitions[&partition].leader)
        };
        eventually("all replicas are in sync", SETTLE_TIMEOUT, || settled().is_some());
        settled().unwrap_or_else(|| self.settled_leader(topic, partition))
    }

    /// Makes a topic with a replica on each node.
    pub fn create(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        let addresses = self.addresses();
        let mut connection = Connection::open(&addresses[0]);
        let replicas = i16::try_from(addresses.len()).expect("a few nodes");
        let code = create_replicated_code(&mut connection, topic, partitions, replicas, configs);
        assert_eq!(code, 0, "topic {topic}");
        let _ = self.settled_leader(topic, 0);
    }

    /// kill -9 of one of three.
    pub fn kill(&mut self, id: i32) {
        match self {
            Side::One(broker) => broker.kill(),
            Side::Three(cluster) => cluster.kill(id),
            Side::Kafka(kafka) => kafka.kill(number(id)),
        }
    }

    /// SIGTERM.
    pub fn stop(&mut self, id: i32) {
        match self {
            Side::One(broker) => broker.stop_cleanly(),
            Side::Three(cluster) => drop(cluster.stop(id).as_secs()),
            Side::Kafka(kafka) => kafka.stop(number(id)),
        }
    }

    /// Starts a node again; gives how long until it answered.
    pub fn restart(&mut self, id: i32) -> Duration {
        let started = Instant::now();
        match self {
            Side::One(broker) => drop(broker.restart().as_secs()),
            Side::Three(cluster) => {
                cluster.restart(id);
                cluster.wait_formed(FORM_TIMEOUT);
            }
            Side::Kafka(kafka) => {
                kafka.spawn(number(id));
                kafka.wait_until_ready(number(id));
            }
        }
        started.elapsed()
    }

    /// CPU seconds of all running nodes so far.
    pub fn cpu_seconds(&mut self) -> f64 {
        self.process_ids().into_iter().map(cpu_seconds).sum()
    }

    /// Share of a core that all nodes take together over a time in which nobody asks them for anything, in percent.
    pub fn idle_percent(&mut self, time: Duration) -> f64 {
        let before = self.cpu_seconds();
        std::thread::sleep(time);
        (self.cpu_seconds() - before) / time.as_secs_f64() * 100.0
    }

    /// Resident memory of a node in MiB, the highest of all.
    pub fn resident_mebibytes(&mut self) -> f64 {
        let kibibytes = self.process_ids().into_iter().map(|id| status_kib(id, "VmRSS:")).max();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let kibibytes = kibibytes.unwrap_or_default() as f64;
        kibibytes / 1024.0
    }

    /// Runs chronik-bench and gives its report. Of one node it also reports the broker's cost.
    pub fn bench(&mut self, topic: &str, arguments: &str) -> serde_json::Value {
        let directory = paths::scratch("compare");
        let output = directory.path().join("report.json");
        let mut command = Command::new(bench_binary());
        command.args(["-b", &self.addresses().join(","), "-t", topic]);
        command.args(arguments.split_whitespace()).arg("--json-output").arg(&output);
        if let [process_id] = self.process_ids()[..] {
            command.args(["--broker-pid", &process_id.to_string()]);
        }
        run(&format!("chronik-bench against {}", self.kind()), &mut command);
        let text = std::fs::read_to_string(&output).expect("chronik-bench writes its report");
        serde_json::from_str(&text).expect("the report is JSON")
    }

    /// Makes `topics` of one partition and a replica a node from `threads` connections; how long until all are made and led.
    #[must_use]
    pub fn create_many(&self, topics: usize, threads: usize) -> Duration {
        let (started, addresses) = (Instant::now(), self.addresses());
        let replicas = i16::try_from(addresses.len()).expect("a few nodes");
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let mut connection = Connection::open(&addresses[thread % addresses.len()]);
                scope.spawn(move || {
                    for n in (thread..topics).step_by(threads) {
                        let name = format!("many-{n}");
                        let code = create_replicated_code(&mut connection, &name, 1, replicas, &[]);
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
