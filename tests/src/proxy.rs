//! A proxy before a node's raft port, so that traffic between nodes can be held up, delayed and let go again.
//!
//! Every node advertises its proxy's address. A link carries frames one way, from the node that dials; the first frame of a
//! connection says which node that is. So each direction between two nodes is cut apart from the other. A cut is silent, as
//! a lost cable is: no byte passes either way, connections stay open, new ones are accepted and hear nothing. What was held
//! up arrives late when the cut ends, as TCP delivers it.
//!
//! A dead node refuses connections, and others act on that (SAFETY.md, rule 17): while nobody listens behind it the proxy
//! does not listen either, and it stops before it closes the connections of the dead.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// First bytes of every frame between nodes.
const MAGIC: &[u8] = b"CHRK";
/// Where the dialling node's id is in its first frame: a header of 64 bytes, one length, versions and shards, then the id.
const NODE_AT: usize = 64 + 4 + 8;
const HELLO_BYTES: usize = NODE_AT + 4;
/// How soon a cut, its end, and the end of the proxy are noticed.
const STEP: Duration = Duration::from_millis(2);
/// How often a dead node's port is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Bytes that are moved at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks under way in one direction while they are delayed.
const DELAYED_CHUNKS_MAX: usize = 256;

/// What is done to the traffic from one node to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Nothing passes.
    pub cut: bool,
    /// Everything arrives later by this.
    pub delay: Duration,
}

/// The traffic between all nodes: direction by direction, (from, to).
#[derive(Debug, Default)]
pub struct Cuts {
    table: Mutex<BTreeMap<(i32, i32), Treatment>>,
}

impl Cuts {
    /// What is done to frames from one node to another.
    #[must_use]
    pub fn treatment(&self, from: i32, to: i32) -> Treatment {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&(from, to)).copied().unwrap_or_default()
    }

    fn set(&self, from: i32, to: i32, treatment: Treatment) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).insert((from, to), treatment);
    }

    /// No frames from `from` to `to`; the other direction stays.
    pub fn cut_one_way(&self, from: i32, to: i32) {
        self.set(from, to, Treatment { cut: true, ..Treatment::default() });
    }

    /// No frames between these two.
    pub fn cut_between(&self, one: i32, other: i32) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// No frames between `node` and any of `others`.
    pub fn isolate(&self, node: i32, others: &[i32]) {
        others.iter().filter(|other| **other != node).for_each(|other| self.cut_between(node, *other));
    }

    /// Frames between these two take longer.
    pub fn delay_between(&self, one: i32, other: i32, delay: Duration) {
        self.set(one, other, Treatment { cut: false, delay });
        self.set(other, one, Treatment { cut: false, delay });
    }

    /// Everything passes at once again.
    pub fn heal(&self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The proxy before one node.
#[derive(Debug)]
pub struct Proxy {
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the threads of a proxy share.
#[derive(Debug)]
struct Shared {
    node: i32,
    front: SocketAddr,
    back: SocketAddr,
    cuts: Arc<Cuts>,
    stopping: Arc<AtomicBool>,
    /// Set when the node was found dead; the acceptor closes its socket and clears it.
    dead: AtomicBool,
    /// Whether the acceptor's socket may be open; `dead` is cleared before it opens.
    listening: AtomicBool,
}

impl Proxy {
    /// Listens on `front` for `node`, which listens on `back`.
    #[must_use]
    pub fn start(node: i32, front: u16, back: u16, cuts: Arc<Cuts>) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let shared = Arc::new(Shared {
            node,
            front: address(front),
            back: address(back),
            cuts,
            stopping: Arc::clone(&stopping),
            dead: AtomicBool::new(false),
            listening: AtomicBool::new(false),
        });
        let acceptor = std::thread::spawn(move || shared.accept_until_stopped());
        Self { stopping, acceptor: Some(acceptor) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn stops(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn accept_until_stopped(self: &Arc<Self>) {
        while !self.stops() {
            if TcpStream::connect(self.back).is_err() {
                std::thread::sleep(PROBE_INTERVAL);
                continue;
            }
            self.dead.store(false, Ordering::SeqCst);
            self.listening.store(true, Ordering::SeqCst);
            let bound = TcpListener::bind(self.front).map(|listener| self.accept(&listener));
            self.listening.store(false, Ordering::SeqCst);
            if bound.is_err() {
                // Connections of before may hold the port for a moment.
                std::thread::sleep(PROBE_INTERVAL);
            }
        }
    }

    /// Until the node is dead or the proxy stops. The socket closes with the end of this.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        listener.set_nonblocking(true).expect("a listener can be set not to block");
        while !self.stops() && !self.dead.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((front, _)) => {
                    let shared = Arc::clone(self);
                    std::thread::spawn(move || shared.serve(front));
                }
                Err(_) => std::thread::sleep(STEP),
            }
        }
    }

    /// The node was found dead: returns when the proxy refuses connections, or already stands for the node's next life.
    fn refuse(&self) {
        self.dead.store(true, Ordering::SeqCst);
        while self.dead.load(Ordering::SeqCst) && self.listening.load(Ordering::SeqCst) && !self.stops() {
            std::thread::sleep(STEP);
        }
    }

    /// One connection. Whatever fails ends both of its sides.
    fn serve(self: &Arc<Self>, mut front: TcpStream) {
        let Some((from, hello)) = self.read_hello(&mut front) else { return };
        self.wait_while_cut(from);
        let Ok(mut back) = TcpStream::connect(self.back) else {
            self.refuse();
            return;
        };
        let ready = back.set_nodelay(true).and(front.set_nodelay(true)).and(back.write_all(&hello));
        let (Ok(()), Ok(front_too), Ok(back_too)) = (ready, front.try_clone(), back.try_clone()) else {
            return;
        };
        let shared = Arc::clone(self);
        let answers = std::thread::spawn(move || shared.pass(from, &back_too, &front_too, true));
        self.pass(from, &front, &back, false);
        let _ = answers.join();
    }

    /// Which node dials, and what it has sent so far.
    fn read_hello(&self, front: &mut TcpStream) -> Option<(i32, Vec<u8>)> {
        front.set_nonblocking(false).ok()?;
        front.set_read_timeout(Some(STEP)).ok()?;
        let mut hello = vec![0; HELLO_BYTES];
        let mut length = 0;
        while length < HELLO_BYTES {
            match front.read(&mut hello[length..]) {
                Ok(0) => return None,
                Ok(count) => length += count,
                Err(error) if again(&error) && !self.stops() => {}
                Err(_) => return None,
            }
        }
        // Garbage is passed on as it is: what the node makes of it is its own affair.
        let from = if hello.starts_with(MAGIC) {
            i32::from_le_bytes(hello[NODE_AT..].try_into().expect("four bytes"))
        } else {
            -1
        };
        Some((from, hello))
    }

    fn wait_while_cut(&self, from: i32) {
        while self.cuts.treatment(from, self.node).cut && !self.stops() {
            std::thread::sleep(STEP);
        }
    }

    /// Moves bytes until one side ends. `backward` is what the node answers on a link of others.
    fn pass(self: &Arc<Self>, from: i32, input: &TcpStream, output: &TcpStream, backward: bool) {
        let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(DELAYED_CHUNKS_MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (due, chunk) in receiver {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    self.wait_while_cut(from);
                    let mut output = output;
                    if output.write_all(&chunk).is_err() {
                        let _ = input.shutdown(Shutdown::Both);
                        return;
                    }
                }
                let _ = output.shutdown(Shutdown::Write);
            });
            self.read_on(from, input, &sender);
            if backward && !self.stops() && TcpStream::connect(self.back).is_err() {
                // ORDER: the proxy refuses connections before it closes those of the dead node.
                self.refuse();
            }
            drop(sender);
        });
        if backward || self.stops() {
            let _ = output.shutdown(Shutdown::Both);
            let _ = input.shutdown(Shutdown::Both);
        }
    }

    fn read_on(&self, from: i32, mut input: &TcpStream, sender: &mpsc::SyncSender<(Instant, Vec<u8>)>) {
        if input.set_read_timeout(Some(Duration::from_millis(100))).is_err() {
            return;
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        while !self.stops() {
            self.wait_while_cut(from);
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let due = Instant::now() + self.cuts.treatment(from, self.node).delay;
                    if sender.send((due, buffer[..count].to_vec())).is_err() {
                        return;
                    }
                }
                Err(error) if again(&error) => {}
                Err(_) => return,
            }
        }
    }
}

fn again(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::free_port;

    /// A node's first frame as far as the proxy reads it, then text.
    fn hello(node: i32, text: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.resize(NODE_AT, 0);
        bytes.extend_from_slice(&node.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    /// Answers each connection with what it sent.
    fn echo(port: u16) {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        let _ = stream.write_all(&buffer[..count]);
                    }
                });
            }
        });
    }

    fn dial(front: u16, node: i32) -> TcpStream {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", front)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "the proxy does not listen: {error}"),
            }
            std::thread::sleep(STEP);
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        stream.write_all(&hello(node, "")).expect("a hello can be sent");
        stream
    }

    fn answers(stream: &mut TcpStream, bytes: usize) -> bool {
        stream.read_exact(&mut vec![0; bytes]).is_ok()
    }

    #[test]
    fn one_direction_is_cut_and_healed_and_nothing_is_lost() {
        let (front, back) = (free_port(), free_port());
        echo(back);
        let cuts = Arc::new(Cuts::default());
        let _proxy = Proxy::start(2, front, back, Arc::clone(&cuts));
        let (mut from_one, mut from_three) = (dial(front, 1), dial(front, 3));
        assert!(answers(&mut from_one, HELLO_BYTES) && answers(&mut from_three, HELLO_BYTES));
        cuts.cut_one_way(1, 2);
        std::thread::sleep(STEP * 50);
        from_one.write_all(b"held up").expect("the connection stays open");
        from_three.write_all(b"passes").expect("the connection stays open");
        assert!(answers(&mut from_three, 6), "the other direction is open");
        from_one.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
        assert!(!answers(&mut from_one, 7), "nothing passes a cut");
        cuts.heal();
        from_one.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        assert!(answers(&mut from_one, 7), "what was held up arrives");
    }

    #[test]
    fn the_proxy_of_a_dead_node_refuses_connections() {
        let (front, back) = (free_port(), free_port());
        let listener = TcpListener::bind(("127.0.0.1", back)).expect("a free port");
        let _proxy = Proxy::start(2, front, back, Arc::default());
        let mut stream = dial(front, 1);
        // The first connections are the proxy's own probes.
        let (mut accepted, mut hello) = (Vec::new(), vec![0; HELLO_BYTES]);
        while accepted.last_mut().is_none_or(|stream: &mut TcpStream| stream.read_exact(&mut hello).is_err())
        {
            accepted.push(listener.accept().expect("a connection").0);
        }
        drop((listener, accepted));
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0)), "the connection ends with the node");
        assert!(TcpStream::connect(("127.0.0.1", front)).is_err(), "refused, as by the node itself");
    }
}
