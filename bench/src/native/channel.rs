//! A broker: its address, the connection to it if there is one, and the requests outstanding on
//! it, with what the caller keeps for each.
//!
//! Invariant: answers are matched in the order of requests, and each correlation id is checked.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};

use chronik_net::codec::{ApiKey, EncodeError, FrameReader, RequestHeader, ResponseFrame, StrBytes};

use super::connection::Connection;
use super::poller::Poller;

/// How long a broker that was lost is left alone.
const RECONNECT_BACKOFF_NS: u64 = 100_000_000;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT_NS: u64 = 10_000_000_000;

/// A broker and what was asked of it.
pub struct Channel<T> {
    token: u64,
    address: String,
    /// What the address resolves to; tried in turn.
    socket_addresses: Vec<SocketAddr>,
    attempt_count: usize,
    connection: Option<Connection>,
    connect_by_ns: u64,
    reconnect_at_ns: u64,
    in_flight: VecDeque<InFlight<T>>,
    next_correlation_id: i32,
    answer_timeout_ns: u64,
    /// The poller named it and nothing has been done about it yet.
    woken: bool,
}

struct InFlight<T> {
    header: RequestHeader,
    kept: T,
    due: Due,
    answer_by_ns: u64,
}

/// When a request is over.
enum Due {
    /// When its answer has come.
    Answer,
    /// When the kernel has taken this many bytes of the connection: acks=0 has no answer.
    Written(u64),
}

/// A request that is over.
pub struct Finished<T> {
    /// What was kept for it.
    pub kept: T,
    /// The answer's body; none where there is no answer.
    pub answer: Option<FrameReader>,
}

impl<T> Channel<T> {
    /// A broker at `address` (host:port), not connected. An answer may take `answer_timeout_ns`.
    pub fn new(token: u64, address: &str, answer_timeout_ns: u64) -> io::Result<Self> {
        Ok(Self {
            token,
            address: address.to_owned(),
            socket_addresses: resolve(address)?,
            attempt_count: 0,
            connection: None,
            connect_by_ns: 0,
            reconnect_at_ns: 0,
            in_flight: VecDeque::new(),
            next_correlation_id: 0,
            answer_timeout_ns,
            woken: false,
        })
    }

    /// The broker's address, host:port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether requests can be sent.
    pub fn is_up(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_established)
    }

    /// Requests that are not over.
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// What is kept for the requests that are not over, oldest first.
    pub fn in_flight_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.in_flight.iter_mut().map(|request| &mut request.kept)
    }

    /// Whether there is no connection, and the last loss is long enough ago to begin another.
    pub fn can_connect(&self, now_ns: u64) -> bool {
        self.connection.is_none() && now_ns >= self.reconnect_at_ns
    }

    /// Begins to connect, to the next of the broker's addresses.
    pub fn connect(&mut self, poller: &Poller, now_ns: u64) -> io::Result<()> {
        self.reconnect_at_ns = now_ns + RECONNECT_BACKOFF_NS;
        self.connect_by_ns = now_ns + CONNECT_TIMEOUT_NS;
        let socket_address = self.socket_addresses[self.attempt_count % self.socket_addresses.len()];
        self.attempt_count += 1;
        self.connection = Some(Connection::open(socket_address, poller, self.token)?);
        Ok(())
    }

    /// Sends a request, keeping `kept` until it is over. The channel must be up.
    pub fn send(
        &mut self,
        (api, api_version): (ApiKey, i16),
        encode: impl FnOnce(&RequestHeader) -> Result<ResponseFrame, EncodeError>,
        kept: impl FnOnce(&ResponseFrame) -> T,
        is_answered: bool,
        now_ns: u64,
    ) -> io::Result<()> {
        let Some(connection) = &mut self.connection else {
            return Err(io::Error::new(ErrorKind::NotConnected, "there is no connection"));
        };
        self.next_correlation_id = self.next_correlation_id.wrapping_add(1);
        let client_id = Some(StrBytes::from_static_str("chronik-bench"));
        let header = RequestHeader { api, api_version, correlation_id: self.next_correlation_id, client_id };
        let frame = encode(&header).map_err(io::Error::other)?;
        let kept = kept(&frame);
        let written_at = connection.queued_bytes() + frame.length() as u64;
        let due = if is_answered { Due::Answer } else { Due::Written(written_at) };
        let answer_by_ns = now_ns + self.answer_timeout_ns;
        self.in_flight.push_back(InFlight { header, kept, due, answer_by_ns });
        connection.send(frame)
    }

    /// The poller named this broker's connection.
    pub fn wake(&mut self) {
        self.woken = true;
    }

    /// Does what became possible when the poller named the connection: it may be made now, and
    /// what waits to be written goes on.
    pub fn advance(&mut self) -> io::Result<()> {
        match &mut self.connection {
            Some(connection) if std::mem::take(&mut self.woken) => connection.on_ready(),
            _ => Ok(()),
        }
    }

    /// Whether the connection or its oldest answer should have come by now.
    pub fn is_overdue(&self, now_ns: u64) -> bool {
        let Some(connection) = &self.connection else { return false };
        match self.in_flight.front() {
            _ if !connection.is_established() => now_ns >= self.connect_by_ns,
            Some(oldest) => now_ns >= oldest.answer_by_ns,
            None => false,
        }
    }

    /// The next request that is over, if there is one. An error means that the connection is to
    /// be closed.
    pub fn next_finished(&mut self) -> io::Result<Option<Finished<T>>> {
        self.advance()?;
        let Some(connection) = &mut self.connection else { return Ok(None) };
        if let Some(InFlight { due: Due::Written(at), .. }) = self.in_flight.front() {
            if connection.written_bytes() < *at {
                // Reading shows whether the broker has closed the connection; it has nothing to say.
                return unexpected(connection.next_frame()?.is_some()).map(|()| None);
            }
            let oldest = self.in_flight.pop_front();
            return Ok(oldest.map(|request| Finished { kept: request.kept, answer: None }));
        }
        let Some(frame) = connection.next_frame()? else { return Ok(None) };
        let Some(request) = self.in_flight.pop_front() else { return unexpected(true).map(|()| None) };
        let mut answer = FrameReader::new(frame, false);
        match request.header.decode_response_header(&mut answer) {
            Ok(id) if id == request.header.correlation_id => {
                Ok(Some(Finished { kept: request.kept, answer: Some(answer) }))
            }
            // What was kept must reach the caller as lost.
            Ok(_) | Err(_) => {
                self.in_flight.push_front(request);
                Err(io::Error::new(ErrorKind::InvalidData, "an answer to another request than the oldest"))
            }
        }
    }

    /// Closes the connection; gives back what was kept for requests that are not over.
    pub fn close(&mut self, now_ns: u64) -> Vec<T> {
        (self.connection, self.woken) = (None, false);
        self.reconnect_at_ns = now_ns + RECONNECT_BACKOFF_NS;
        self.in_flight.drain(..).map(|request| request.kept).collect()
    }
}

fn unexpected(is_answer: bool) -> io::Result<()> {
    match is_answer {
        true => Err(io::Error::new(ErrorKind::InvalidData, "an answer to no request")),
        false => Ok(()),
    }
}

/// All addresses of a name, at least one.
fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let refused = |kind, reason: &str| io::Error::new(kind, format!("cannot resolve {address}: {reason}"));
    let found = address.to_socket_addrs().map_err(|error| refused(error.kind(), &error.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    match found.is_empty() {
        true => Err(refused(ErrorKind::NotFound, "it has no address")),
        false => Ok(found),
    }
}
