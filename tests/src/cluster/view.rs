//! What a single node says of its cluster: Metadata by the small client, `/health` over HTTP.

use crate::wire::Connection;
use anyhow::{Context, Result, ensure};
use chronik_net::codec::{ErrorCode, MetadataResponse};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A node that is asked for its own memory answers at once, or is paused.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A partition as Metadata describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// Its error, none when it has a leader.
    pub error: ErrorCode,
    /// Node id of the leader, −1 for none.
    pub leader: i32,
    /// The leader's epoch.
    pub epoch: i32,
    /// All replicas.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync: Vec<i32>,
}

impl PartitionView {
    /// Whether there is a leader and every replica is in sync.
    #[must_use]
    pub fn all_in_sync(&self) -> bool {
        let sorted = |ids: &[i32]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        self.error == ErrorCode::None && self.leader >= 0 && sorted(&self.replicas) == sorted(&self.in_sync)
    }
}

/// All that one node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Addresses of the brokers by id.
    pub brokers: BTreeMap<i32, String>,
    /// The controller's id, −1 for none.
    pub controller: i32,
    /// Cluster id.
    pub cluster_id: Option<String>,
    /// Partitions by topic.
    pub topics: BTreeMap<String, BTreeMap<i32, PartitionView>>,
}

impl View {
    /// Asks the node at `address`, alone.
    ///
    /// # Errors
    /// It cannot be reached, or does not answer.
    pub fn of(address: &str) -> Result<Self> {
        let mut connection = Connection::try_open_within(address, ANSWER_TIMEOUT)?;
        Ok(Self::read(&connection.metadata_all()?))
    }

    fn read(answer: &MetadataResponse) -> Self {
        let broker = |broker: &chronik_net::codec::BrokerListing| {
            (broker.node_id, format!("{}:{}", broker.host.as_str(), broker.port))
        };
        let mut topics = BTreeMap::new();
        for topic in &answer.topics {
            let name = topic.name.as_ref().map(ToString::to_string).unwrap_or_default();
            let partitions = topic.partitions.iter().map(|listing| {
                let view = PartitionView {
                    error: listing.error,
                    leader: listing.leader_id,
                    epoch: listing.leader_epoch,
                    replicas: listing.replicas.clone(),
                    in_sync: listing.in_sync_replicas.clone(),
                };
                (listing.partition, view)
            });
            topics.insert(name, partitions.collect());
        }
        Self {
            brokers: answer.brokers.iter().map(broker).collect(),
            controller: answer.controller_id,
            cluster_id: answer.cluster_id.as_ref().map(ToString::to_string),
            topics,
        }
    }

    /// The leaders of a topic by partition; none while the topic is unknown or a partition has none.
    #[must_use]
    pub fn leaders(&self, topic: &str) -> Option<BTreeMap<i32, i32>> {
        let partitions = self.topics.get(topic).filter(|partitions| !partitions.is_empty())?;
        let led = partitions.values().all(|view| view.error == ErrorCode::None && view.leader >= 0);
        led.then(|| partitions.iter().map(|(partition, view)| (*partition, view.leader)).collect())
    }
}

/// What `/health` says.
#[derive(Debug, Clone)]
pub struct Health {
    /// Status 200.
    pub ok: bool,
    /// The whole answer.
    pub body: serde_json::Value,
}

impl Health {
    /// Asks the admin endpoint at `address`.
    ///
    /// # Errors
    /// It cannot be reached, or answers with something else than JSON.
    pub fn of(address: &str) -> Result<Self> {
        let (status, body) = http_get(address, "/health")?;
        let body = serde_json::from_str(&body).context("health is JSON")?;
        Ok(Self { ok: status == 200, body })
    }

    /// The reasons why it is not well.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let reasons = self.body["reasons"].as_array().cloned().unwrap_or_default();
        reasons.iter().filter_map(|reason| reason.as_str().map(str::to_owned)).collect()
    }
}

/// Status and body of a plain HTTP request.
///
/// # Errors
/// No answer in time, or not one of HTTP.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let address: SocketAddr = address.parse().context("an address and a port")?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("a head and a body")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("a status in {head}"))?;
    ensure!(!head.to_lowercase().contains("chunked"), "a plain body");
    Ok((status, body.to_string()))
}
