//! A small blocking Kafka client: one connection, one request at a time, for the `cluster` commands.
//!
//! It knows every address that it has heard of: when the node that it talks to goes away, the next request finds another
//! one. Every node answers for the cluster, and passes changes on to the metadata leader by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use chronik_net::codec::{ApiKey, FRAME_BYTES_MAX_DEFAULT};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::Failure;

/// A node that does not take a connection in this time is tried no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer that takes longer than this, and what the request itself allows, does not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// Pause before all known nodes are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often all known nodes are tried for one request.
const ROUNDS_MAX: usize = 25;

/// One connection to one node.
struct Connection {
    stream: TcpStream,
    correlation_id: i32,
    /// Highest version of each API that the node serves.
    versions: BTreeMap<i16, i16>,
}

impl Connection {
    fn open(address: &str) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                    let mut connection = Self { stream, correlation_id: 0, versions: BTreeMap::new() };
                    connection.learn_versions()?;
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn learn_versions(&mut self) -> io::Result<()> {
        let request = ApiVersionsRequest::default();
        let answer: ApiVersionsResponse = self.call(ApiKey::ApiVersions, 0, &request)?;
        self.versions = answer.api_keys.iter().map(|range| (range.api_key, range.max_version)).collect();
        Ok(())
    }

    fn ask<A: Encodable, B: Decodable>(&mut self, api: ApiKey, request: &A) -> io::Result<Option<B>> {
        let Some(theirs) = self.versions.get(&api.key()).copied() else { return Ok(None) };
        self.call(api, theirs.min(api.versions().max), request).map(Some)
    }

    fn call<A: Encodable, B: Decodable>(&mut self, api: ApiKey, version: i16, request: &A) -> io::Result<B> {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(api.key())
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("chronik-server cluster")));
        let mut body = BytesMut::new();
        header.encode(&mut body, api.request_header_version(version)).map_err(malformed)?;
        request.encode(&mut body, version).map_err(malformed)?;
        let length = i32::try_from(body.len()).map_err(malformed)?;
        self.stream.write_all(&[&length.to_be_bytes()[..], &body].concat())?;
        let mut answer = self.receive()?;
        let header =
            ResponseHeader::decode(&mut answer, api.response_header_version(version)).map_err(malformed)?;
        if header.correlation_id != self.correlation_id {
            return Err(malformed("an answer to another request"));
        }
        B::decode(&mut answer, version).map_err(malformed)
    }

    fn receive(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = (&length[..]).get_i32();
        let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX_DEFAULT);
        let mut frame = BytesMut::zeroed(length.ok_or_else(|| malformed("an answer of no sane length"))?);
        self.stream.read_exact(&mut frame)?;
        Ok(frame.freeze())
    }
}

fn malformed(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// The way to a cluster, through whichever of its nodes answers.
pub struct Client {
    /// Where to look, the ones given first.
    addresses: Vec<String>,
    known: BTreeSet<String>,
    connection: Option<(String, Connection)>,
    /// Some node has answered before.
    has_met: bool,
}

impl Client {
    /// A client that looks at these addresses first; they are separated by commas.
    #[must_use]
    pub fn new(bootstrap: &str) -> Self {
        let mut client =
            Self { addresses: Vec::new(), known: BTreeSet::new(), connection: None, has_met: false };
        bootstrap.split(',').map(str::trim).filter(|one| !one.is_empty()).for_each(|one| client.learn(one));
        client
    }

    /// Another address at which the cluster can be found.
    pub fn learn(&mut self, address: &str) {
        if self.known.insert(address.to_owned()) {
            self.addresses.push(address.to_owned());
        }
    }

    /// Asks some node; one that goes away before it has answered is followed by the next one.
    ///
    /// # Errors
    /// When no node can be reached, or none knows the API.
    pub fn ask<A: Encodable, B: Decodable>(&mut self, api: ApiKey, request: &A) -> Result<B, Failure> {
        let mut last = String::new();
        for round in 0..ROUNDS_MAX {
            if round > 0 {
                sleep(RETRY_PAUSE);
            }
            for address in self.in_order() {
                match self.ask_at(&address, api, request) {
                    Ok(Some(answer)) => {
                        self.has_met = true;
                        return Ok(answer);
                    }
                    Ok(None) => {
                        return Err(Failure::Refused(format!("{address} does not serve {}", api.name())));
                    }
                    Err(error) => last = format!("{address}: {error}"),
                }
            }
            // One who has never met the cluster is told at once that nobody is there.
            if !self.has_met {
                break;
            }
        }
        Err(Failure::Unreachable(last))
    }

    /// Asks this very node, once.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn ask_only<A: Encodable, B: Decodable>(
        address: &str,
        api: ApiKey,
        request: &A,
    ) -> io::Result<Option<B>> {
        Connection::open(address)?.ask(api, request)
    }

    fn in_order(&self) -> Vec<String> {
        let current = self.connection.iter().map(|(address, _)| address.clone());
        let others = self
            .addresses
            .iter()
            .filter(|address| self.connection.as_ref().is_none_or(|(current, _)| current != *address));
        current.chain(others.cloned()).collect()
    }

    fn ask_at<A: Encodable, B: Decodable>(
        &mut self,
        address: &str,
        api: ApiKey,
        request: &A,
    ) -> io::Result<Option<B>> {
        if self.connection.as_ref().is_none_or(|(current, _)| current != address) {
            self.connection = None;
            self.connection = Some((address.to_owned(), Connection::open(address)?));
        }
        let Some((_, connection)) = &mut self.connection else { return Ok(None) };
        let answer = connection.ask(api, request);
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }
}

/// A time by which something has to be done.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// Waits a moment; false when the time is up.
    #[must_use]
    pub fn pause(self) -> bool {
        let left = self.0.saturating_duration_since(Instant::now());
        sleep(left.min(POLL_PAUSE));
        !left.is_zero()
    }
}

/// Between two looks at how far something has come.
const POLL_PAUSE: Duration = Duration::from_millis(250);
