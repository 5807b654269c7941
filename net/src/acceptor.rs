//! Listeners: binds the ports, accepts, and hands sockets to the shards in turn.
//!
//! One plain thread named `acceptor` serves all listeners, so that a storm of connections never delays a shard. A socket
//! travels as a plain descriptor through the shard's mailbox and becomes a glommio stream there.
//! Ports are bound here and not by glommio, which sets SO_REUSEPORT: two servers would silently share one.
//! Invariant: every accepted socket holds a [`Permit`], whose drop gives its place back, wherever that happens.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::rt::mailbox::{Full, Sender};

/// Connections that the kernel completes before we accept them (`socket.listen.backlog.size` is 50 in Kafka, which is
/// too few for a thousand clients that come back at once).
const BACKLOG: i32 = 1_024;
/// Pause when the process has no descriptor left, or every shard's mailbox is full.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Accepted in a row from one listener before the others are looked at.
const ACCEPTS_PER_ROUND: usize = 64;
/// A client silent for this long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// A listener to bind.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Its name in Kafka's sense, such as `PLAINTEXT`.
    pub name: String,
    /// Where it listens; port 0 takes any free port.
    pub address: SocketAddr,
}

/// How many connections are let in.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// `max.connections`.
    pub total: usize,
    /// `max.connections.per.ip`.
    pub per_ip: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: usize::MAX, per_ip: usize::MAX }
    }
}

/// Why a listener cannot be opened; one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BindError {
    #[error(
        "listener {name}: {address} is in use by another process: stop it, or give another port (`ss -ltnp` shows it)"
    )]
    InUse { name: String, address: SocketAddr },
    #[error("listener {name}: {address} is not an address of this machine: use one of its own, or 0.0.0.0")]
    NotHere { name: String, address: SocketAddr },
    #[error(
        "listener {name}: not allowed to bind {address}: use a port above 1023, or grant CAP_NET_BIND_SERVICE"
    )]
    Forbidden { name: String, address: SocketAddr },
    #[error("listener {name}: cannot listen on {address}: {source}")]
    Other { name: String, address: SocketAddr, source: io::Error },
}

/// A port that is bound and listens.
#[derive(Debug)]
pub struct BoundListener {
    name: Arc<str>,
    address: SocketAddr,
    socket: Socket,
}

impl BoundListener {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address it really listens on, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Binds a listener. SO_REUSEADDR lets a restart take the port at once; a port that somebody listens on is refused.
///
/// # Errors
/// [`BindError`], with the remedy.
pub fn bind(config: &ListenerConfig) -> Result<BoundListener, BindError> {
    let name = config.name.clone();
    let address = config.address;
    bind_socket(address)
        .and_then(|socket| {
            let bound = socket.local_addr()?.as_socket().unwrap_or(address);
            Ok(BoundListener { name: name.as_str().into(), address: bound, socket })
        })
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { name, address },
            io::ErrorKind::AddrNotAvailable => BindError::NotHere { name, address },
            io::ErrorKind::PermissionDenied => BindError::Forbidden { name, address },
            _ => BindError::Other { name, address, source },
        })
}

fn bind_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 clients as well, as Java's servers do.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Counts the connections of the process against its limits.
#[derive(Debug)]
struct Gate {
    limits: ConnectionLimits,
    open: AtomicUsize,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
}

impl Gate {
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Permit> {
        if self.open.load(Ordering::Relaxed) >= self.limits.total {
            return None;
        }
        let mut per_ip = self.per_ip.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = per_ip.entry(ip).or_insert(0);
        if *count >= self.limits.per_ip {
            return None;
        }
        *count += 1;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Permit { gate: self.clone(), ip })
    }
}

/// The right of one connection to be open.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    ip: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
        let mut per_ip = self.gate.per_ip.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(count) = per_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                per_ip.remove(&self.ip);
            }
        }
    }
}

/// A socket on its way to a shard.
#[derive(Debug)]
pub struct Accepted {
    /// Number of the connection, unique in this process, from 1.
    pub id: u64,
    /// The connected socket, with TCP_NODELAY set.
    pub socket: OwnedFd,
    /// The client's address.
    pub peer: SocketAddr,
    /// Our side of it.
    pub local: SocketAddr,
    /// Name of the listener it came by.
    pub listener: Arc<str>,
    /// Its place under the limits.
    pub permit: Permit,
}

/// Figures of the acceptor; any thread may read them.
#[derive(Debug, Default)]
pub struct AcceptorStats {
    /// Connections handed to a shard.
    pub accepted: AtomicUsize,
    /// Connections closed at once because a limit was reached.
    pub refused: AtomicUsize,
}

/// The running acceptor. Dropping it stops accepting and closes the ports.
#[derive(Debug)]
pub struct Acceptor {
    stop: Arc<Stop>,
    thread: Option<thread::JoinHandle<()>>,
    gate: Arc<Gate>,
    stats: Arc<AcceptorStats>,
}

#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    bell: OwnedFd,
}

impl Acceptor {
    /// Starts to accept; sockets go to `shards` in turn.
    ///
    /// # Errors
    /// When the thread or its eventfd cannot be had.
    ///
    /// # Panics
    /// When there is no shard.
    pub fn start(
        listeners: Vec<BoundListener>,
        shards: Vec<Sender<Accepted>>,
        limits: ConnectionLimits,
    ) -> io::Result<Self> {
        assert!(!shards.is_empty(), "an acceptor needs a shard");
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), bell });
        let gate = Arc::new(Gate { limits, open: AtomicUsize::new(0), per_ip: Mutex::default() });
        let stats = Arc::new(AcceptorStats::default());
        let accept_loop = AcceptLoop {
            listeners,
            shards,
            next_shard: 0,
            next_id: 1,
            starved: false,
            stop: stop.clone(),
            gate: gate.clone(),
            stats: stats.clone(),
        };
        let thread = thread::Builder::new().name("acceptor".to_owned()).spawn(move || accept_loop.run())?;
        Ok(Self { stop, thread: Some(thread), gate, stats })
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.gate.open.load(Ordering::Relaxed)
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &AcceptorStats {
        &self.stats
    }

    /// The counters, for whoever reports them beyond the acceptor's life.
    #[must_use]
    pub fn shared_stats(&self) -> Arc<AcceptorStats> {
        self.stats.clone()
    }

    /// Stops accepting and closes the ports; returns when that is done.
    pub fn stop(&mut self) {
        self.stop.asked.store(true, Ordering::Release);
        // The counter of an eventfd is never near its limit here.
        let _ = rustix::io::write(&self.stop.bell, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

struct AcceptLoop {
    listeners: Vec<BoundListener>,
    shards: Vec<Sender<Accepted>>,
    next_shard: usize,
    next_id: u64,
    /// No descriptor was left at the last try; said once.
    starved: bool,
    stop: Arc<Stop>,
    gate: Arc<Gate>,
    stats: Arc<AcceptorStats>,
}

impl AcceptLoop {
    fn run(mut self) {
        while !self.stop.asked.load(Ordering::Acquire) {
            let ready = self.wait();
            for index in ready {
                self.accept_from(index);
            }
        }
    }

    /// Waits until a listener has a connection or the end is asked for; the listeners that are ready.
    fn wait(&self) -> Vec<usize> {
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(self.listeners.len() + 1);
        polled.push(PollFd::new(&self.stop.bell, PollFlags::IN));
        polled.extend(self.listeners.iter().map(|listener| PollFd::new(&listener.socket, PollFlags::IN)));
        if let Err(error) = poll(&mut polled, None)
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "cannot wait for connections");
            thread::sleep(BACK_OFF);
        }
        let ready = polled[1..].iter().enumerate().filter(|(_, poll)| !poll.revents().is_empty());
        ready.map(|(index, _)| index).collect()
    }

    fn accept_from(&mut self, index: usize) {
        for _ in 0..ACCEPTS_PER_ROUND {
            match self.listeners[index].socket.accept() {
                Ok((socket, peer)) => {
                    self.starved = false;
                    let Some(peer) = peer.as_socket() else { continue };
                    self.admit(index, socket, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_shortage(&error) => {
                    if !self.starved {
                        tracing::error!(%error, "cannot accept connections: raise `ulimit -n`; trying again until it works");
                        self.starved = true;
                    }
                    thread::sleep(BACK_OFF);
                    return;
                }
                // The client gave up while it waited in the backlog: nobody is left to tell.
                Err(_) => {}
            }
        }
    }

    fn admit(&mut self, index: usize, socket: Socket, peer: SocketAddr) {
        let Some(permit) = self.gate.enter(peer.ip()) else {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, "connection refused: the limit of connections is reached");
            return;
        };
        let reference = SockRef::from(&socket);
        // A socket that its client has already reset refuses options; its first read will tell.
        let _ = reference.set_tcp_nodelay(true);
        let _ = reference.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        let listener = &self.listeners[index];
        let local = socket.local_addr().ok().and_then(|address| address.as_socket());
        let accepted = Accepted {
            id: self.next_id,
            local: local.unwrap_or(listener.address),
            socket: OwnedFd::from(socket),
            peer,
            listener: listener.name.clone(),
            permit,
        };
        self.next_id += 1;
        self.hand_over(accepted);
    }

    /// Gives the socket to the next shard whose mailbox has room. While none has, accepting waits: the backlog fills
    /// and clients feel it.
    fn hand_over(&mut self, mut accepted: Accepted) {
        loop {
            for _ in 0..self.shards.len() {
                let shard = self.next_shard;
                self.next_shard = (shard + 1) % self.shards.len();
                match self.shards[shard].try_send(accepted) {
                    Ok(()) => {
                        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    Err(Full(back)) => accepted = back,
                }
            }
            if self.stop.asked.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(BACK_OFF);
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

impl AsFd for BoundListener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
