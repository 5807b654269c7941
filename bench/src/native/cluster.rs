//! Who leads which partition, and the connections to these brokers: one for each lane. A lane is
//! a set of partitions that share connections; producers have one, each consumer has its own.
//!
//! Metadata is asked on a connection of its own, of any broker that answers, so that it never
//! waits behind other requests. It is asked at the start, when the caller calls for it, and when
//! a connection was lost; again and again until all partitions in use have a leader.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chronik_net::codec::{
    ApiKey, EncodeError, ErrorCode, FrameReader, MetadataRequest, MetadataRequestTopic, MetadataResponse,
    RequestHeader, ResponseFrame, StrBytes, Uuid,
};

use super::channel::{Channel, Finished};
use super::poller::Poller;
use super::{METADATA_VERSION, NANOS_PER_MILLISECOND, SLEEP_NS_MAX};
use crate::cli::Options;
use crate::client::print_log;
use crate::run::Clock;

/// How long the first connections may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How soon metadata that did not help is asked again.
const RETRY_NS: u64 = 100 * NANOS_PER_MILLISECOND;
/// How long a broker may take to answer Metadata before another is asked.
const METADATA_TIMEOUT_NS: u64 = 5_000 * NANOS_PER_MILLISECOND;
/// How much longer than the broker's own limit an answer may take, so that the broker's word
/// comes first.
const ANSWER_GRACE_NS: u64 = 1_000 * NANOS_PER_MILLISECOND;
/// Token of the connection for metadata; those of channels are their indices.
const METADATA_TOKEN: u64 = u64::MAX;
/// Token of another cluster's sockets, which that one looks at itself.
const BESIDE_TOKEN: u64 = u64::MAX - 1;

/// The brokers as one thread sees them; `T` is what it keeps for each request.
pub struct Cluster<T> {
    poller: Poller,
    topic: String,
    bootstrap: Vec<String>,
    answer_timeout_ns: u64,
    /// The lane of each partition, none for those that this thread does not use.
    lanes: Vec<Option<usize>>,
    channels: Vec<Channel<T>>,
    /// Indices of channels by node and lane.
    by_node: BTreeMap<(i32, usize), usize>,
    /// Channel of each partition's leader.
    leaders: Vec<Option<usize>>,
    /// Channels that may have something to tell.
    ready: VecDeque<usize>,
    lookup: Lookup,
    lookup_count: usize,
    last_reason: Option<String>,
}

/// How far the search for leaders is.
enum Lookup {
    Idle,
    At(u64),
    Asking { channel: Box<Channel<()>>, is_asked: bool },
}

/// What a channel has to tell.
pub enum Event<T> {
    /// A request is over.
    Finished(Finished<T>),
    /// A connection was lost, and with it these requests.
    Lost {
        /// What was kept for them.
        kept: Vec<T>,
        /// Why, in words.
        reason: String,
    },
}

impl<T> Cluster<T> {
    /// Connects to the leaders of all partitions that have a lane.
    pub fn connect(options: &Options, lanes: Vec<Option<usize>>, clock: &Clock) -> Result<Self> {
        let mut cluster = Self {
            poller: Poller::new().context("cannot create an epoll")?,
            topic: options.topic.clone(),
            bootstrap: bootstrap_addresses(options),
            answer_timeout_ns: answer_timeout_ns(options),
            leaders: vec![None; lanes.len()],
            lanes,
            channels: Vec::new(),
            by_node: BTreeMap::new(),
            ready: VecDeque::new(),
            lookup: Lookup::At(0),
            lookup_count: 0,
            last_reason: None,
        };
        let deadline_ns = clock.now_ns() + START_TIMEOUT.as_nanos() as u64;
        while !cluster.is_complete() {
            let now_ns = clock.now_ns();
            if now_ns > deadline_ns {
                let reason = cluster.last_reason.unwrap_or_else(|| "no answer".to_owned());
                bail!("cannot reach the leaders of {}: {reason}", cluster.topic);
            }
            cluster.turn(now_ns)?;
            while cluster.next_event(now_ns).is_some() {}
            cluster.wait(SLEEP_NS_MAX)?;
        }
        Ok(cluster)
    }

    /// Whether all partitions in use have a leader that is connected.
    fn is_complete(&self) -> bool {
        let in_use = (0..self.lanes.len()).filter(|at| self.lanes[*at].is_some());
        in_use.into_iter().all(|partition| self.leader(partition).is_some())
    }

    /// How many partitions the topic has.
    pub fn partition_count(&self) -> usize {
        self.lanes.len()
    }

    /// How many channels there are; their indices count from zero.
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// A channel by its index.
    pub fn channel_mut(&mut self, index: usize) -> &mut Channel<T> {
        &mut self.channels[index]
    }

    /// The channel of a partition's leader, if it is known and connected.
    pub fn leader(&self, partition: usize) -> Option<usize> {
        self.leaders[partition].filter(|index| self.channels[*index].is_up())
    }

    /// Requests on a channel that are not over.
    pub fn in_flight_count(&self, index: usize) -> usize {
        self.channels[index].in_flight_count()
    }

    /// Leaders may have changed: metadata is asked soon.
    pub fn refresh(&mut self, now_ns: u64) {
        if matches!(self.lookup, Lookup::Idle) {
            self.lookup = Lookup::At(now_ns);
        }
    }

    /// Sends a request on a channel that is up. `kept` makes what is kept of the frame as sent.
    pub fn send(
        &mut self,
        index: usize,
        api: (ApiKey, i16),
        encode: impl FnOnce(&RequestHeader) -> Result<ResponseFrame, EncodeError>,
        kept: impl FnOnce(&ResponseFrame) -> T,
        is_answered: bool,
        now_ns: u64,
    ) -> Option<Event<T>> {
        let sent = self.channels[index].send(api, encode, kept, is_answered, now_ns);
        if !is_answered {
            self.ready.push_back(index);
        }
        sent.err().map(|error| self.lose(index, &error, now_ns))
    }

    /// Sleeps until a socket is ready, at most `timeout_ns`; not at all while events are left.
    pub fn wait(&mut self, timeout_ns: u64) -> Result<()> {
        let timeout_ns = if self.ready.is_empty() { timeout_ns.min(SLEEP_NS_MAX) } else { 0 };
        for &token in self.poller.wait(timeout_ns).context("epoll failed")? {
            match token {
                METADATA_TOKEN => {
                    if let Lookup::Asking { channel, .. } = &mut self.lookup {
                        channel.wake();
                    }
                }
                BESIDE_TOKEN => {}
                index => {
                    self.channels[index as usize].wake();
                    self.ready.push_back(index as usize);
                }
            }
        }
        Ok(())
    }

    /// From now on [`Cluster::wait`] ends when a socket of `other` is ready, too.
    pub fn wake_for<U>(&self, other: &Cluster<U>) -> Result<()> {
        self.poller.watch_poller(&other.poller, BESIDE_TOKEN).context("cannot watch an epoll")
    }

    /// Drives what runs in the background: metadata, connections to be made, answers overdue.
    pub fn turn(&mut self, now_ns: u64) -> Result<()> {
        self.look_up(now_ns)?;
        for index in 0..self.channels.len() {
            if self.channels[index].is_overdue(now_ns) {
                self.ready.push_back(index);
            } else if self.channels[index].can_connect(now_ns) && self.leaders.contains(&Some(index)) {
                // One that cannot even begin is tried again after the usual pause.
                if let Err(error) = self.channels[index].connect(&self.poller, now_ns) {
                    self.note(format!("{}: {error}", self.channels[index].address()));
                }
            }
        }
        Ok(())
    }

    /// What the channels have to tell, one after the other; none when there is no more for now.
    pub fn next_event(&mut self, now_ns: u64) -> Option<Event<T>> {
        while let Some(&index) = self.ready.front() {
            let channel = &mut self.channels[index];
            match channel.next_finished() {
                Ok(Some(finished)) => return Some(Event::Finished(finished)),
                Ok(None) if channel.is_overdue(now_ns) => {
                    self.ready.pop_front();
                    let error = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                    return Some(self.lose(index, &error, now_ns));
                }
                Ok(None) => drop(self.ready.pop_front()),
                Err(error) => {
                    self.ready.pop_front();
                    return Some(self.lose(index, &error, now_ns));
                }
            }
        }
        None
    }

    /// Closes a channel's connection and asks who leads now.
    fn lose(&mut self, index: usize, error: &io::Error, now_ns: u64) -> Event<T> {
        let channel = &mut self.channels[index];
        let reason = format!("{}: {error}", channel.address());
        let kept = channel.close(now_ns);
        self.note(reason.clone());
        self.refresh(now_ns);
        Event::Lost { kept, reason }
    }

    fn note(&mut self, reason: String) {
        print_log(false, &format!("native: {reason}"));
        self.last_reason = Some(reason);
    }

    fn look_up(&mut self, now_ns: u64) -> Result<()> {
        match &mut self.lookup {
            Lookup::At(at_ns) if now_ns >= *at_ns => {
                let address = self.next_address();
                match Channel::new(METADATA_TOKEN, &address, METADATA_TIMEOUT_NS) {
                    Ok(channel) => {
                        self.lookup = Lookup::Asking { channel: Box::new(channel), is_asked: false };
                    }
                    Err(error) => self.look_up_again(error.to_string(), now_ns),
                }
            }
            Lookup::Idle | Lookup::At(_) => return Ok(()),
            Lookup::Asking { .. } => {}
        }
        match self.ask(now_ns) {
            Ok(None) => Ok(()),
            Ok(Some(response)) => self.learn(&response, now_ns),
            Err(error) => {
                self.look_up_again(error.to_string(), now_ns);
                Ok(())
            }
        }
    }

    fn look_up_again(&mut self, reason: String, now_ns: u64) {
        self.note(reason);
        self.lookup = Lookup::At(now_ns + RETRY_NS);
    }

    /// The brokers in turn, those of the command line and those found since.
    fn next_address(&mut self) -> String {
        self.lookup_count += 1;
        let known = self.channels.iter().map(Channel::address);
        let all: Vec<&str> = self.bootstrap.iter().map(String::as_str).chain(known).collect();
        all[(self.lookup_count - 1) % all.len()].to_owned()
    }

    /// Brings the question for metadata one step further.
    fn ask(&mut self, now_ns: u64) -> io::Result<Option<MetadataResponse>> {
        let Lookup::Asking { channel, is_asked } = &mut self.lookup else { return Ok(None) };
        let address = channel.address().to_owned();
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        if channel.can_connect(now_ns) {
            channel.connect(&self.poller, now_ns).map_err(named)?;
        }
        if channel.is_overdue(now_ns) {
            return Err(named(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")));
        }
        channel.advance().map_err(named)?;
        if !channel.is_up() {
            return Ok(None);
        }
        if !*is_asked {
            *is_asked = true;
            let request = metadata_request(&self.topic);
            let api = (ApiKey::Metadata, METADATA_VERSION);
            channel.send(api, |header| request.encode(header), |_| (), true, now_ns).map_err(named)?;
        }
        match channel.next_finished().map_err(named)? {
            Some(Finished { answer: Some(answer), .. }) => decode_metadata(answer).map(Some),
            _ => Ok(None),
        }
    }

    /// Takes brokers and leaders from an answer.
    fn learn(&mut self, response: &MetadataResponse, now_ns: u64) -> Result<()> {
        self.lookup = Lookup::Idle;
        let is_ours =
            |listing: &&chronik_net::codec::TopicListing| listing.name.as_deref() == Some(&*self.topic);
        let Some(listing) = response.topics.iter().find(is_ours) else {
            self.look_up_again(format!("the broker does not list {}", self.topic), now_ns);
            return Ok(());
        };
        if listing.error != ErrorCode::None && !listing.error.retriable() {
            bail!("the broker refuses the topic {}: {}", self.topic, listing.error);
        }
        let mut missing = listing.error != ErrorCode::None;
        for partition in 0..self.lanes.len() {
            let Some(lane) = self.lanes[partition] else { continue };
            let found = listing.partitions.iter().find(|found| found.partition as usize == partition);
            let node = found.and_then(|found| response.brokers.iter().find(|b| b.node_id == found.leader_id));
            // A leader that is not known stays the old one: it knows best whether it still is.
            match node {
                Some(node) => {
                    let address = format!("{}:{}", &*node.host, node.port);
                    self.leaders[partition] = Some(self.channel_of(node.node_id, lane, &address)?);
                }
                None => missing = true,
            }
        }
        if missing {
            self.last_reason = Some(format!("{} has partitions without a leader", self.topic));
            self.lookup = Lookup::At(now_ns + RETRY_NS);
        }
        Ok(())
    }

    /// The channel to a node for a lane. A node that has moved gets a new one; requests on the
    /// old one end with its connection.
    fn channel_of(&mut self, node: i32, lane: usize, address: &str) -> Result<usize> {
        if let Some(&index) = self.by_node.get(&(node, lane))
            && self.channels[index].address() == address
        {
            return Ok(index);
        }
        let index = self.channels.len();
        let channel = Channel::new(index as u64, address, self.answer_timeout_ns)?;
        self.channels.push(channel);
        self.by_node.insert((node, lane), index);
        Ok(index)
    }
}

/// The brokers of the command line.
pub fn bootstrap_addresses(options: &Options) -> Vec<String> {
    let addresses = options.bootstrap_servers.split(',').map(str::trim);
    addresses.filter(|address| !address.is_empty()).map(with_port).collect()
}

/// Kafka's port, where none is given.
fn with_port(address: &str) -> String {
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { address.to_owned() } else { format!("{address}:9092") }
}

/// How long the client waits for an answer.
pub fn answer_timeout_ns(options: &Options) -> u64 {
    u64::from(options.request_timeout_ms) * NANOS_PER_MILLISECOND + ANSWER_GRACE_NS
}

/// Asks for one topic, and does not have it made.
pub fn metadata_request(topic: &str) -> MetadataRequest {
    let name = Some(StrBytes::from_string(topic.to_owned()));
    let topics = Some(vec![MetadataRequestTopic { topic_id: Uuid::nil(), name }]);
    MetadataRequest { topics, allow_auto_topic_creation: false, ..MetadataRequest::default() }
}

/// Reads an answer to it.
pub fn decode_metadata(mut answer: FrameReader) -> io::Result<MetadataResponse> {
    MetadataResponse::decode(&mut answer, METADATA_VERSION).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn bootstrap_servers_are_split_and_have_ports() {
        let options = Options::parse_from(["chronik-bench", "-b", "one:1234, two,,[::1]:9093"]);
        assert_eq!(bootstrap_addresses(&options), ["one:1234", "two:9092", "[::1]:9093"]);
    }
}
