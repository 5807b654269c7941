//! Connections over real sockets on a real shard, with a service whose requests say how they want to be treated.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::BufMut;
use futures_lite::future::or;
use glommio::timer::Timer;
use socket2::SockRef;

use super::*;
use crate::acceptor::{Accepted, Acceptor, ConnectionLimits, ListenerConfig, bind};
use crate::rt::executor::{ShardContext, Shards, ShardsConfig, run_shards};
use crate::rt::mailbox::{Sender, Unbound, mailbox};

/// The first byte of a request says what is done with it; the second is a number.
pub(super) mod kind {
    /// Echo at once, not pipelined.
    pub const ECHO: u8 = b'e';
    /// Echo after so many milliseconds, pipelined.
    pub const LATER: u8 = b'l';
    /// Echo after so many milliseconds, not pipelined.
    pub const ALONE: u8 = b'a';
    /// Pipelined, answered by the next `RELEASE`, newest first.
    pub const DEFER: u8 = b'd';
    pub const RELEASE: u8 = b'r';
    /// Echo once the test lets go of it, whether or not the server still takes requests; pipelined.
    pub const HELD: u8 = b'o';
    pub const NO_REPLY: u8 = b'n';
    pub const CLOSE: u8 = b'c';
    /// Echo, then close.
    pub const LEAVE: u8 = b'w';
    pub const ABANDON: u8 = b'x';
    /// So many times 64 KiB, in slices.
    pub const BIG: u8 = b'b';
    /// Echo, then mute for ten times so many milliseconds.
    pub const MUTE: u8 = b'm';
    /// The number of requests under way when it started.
    pub const COUNT: u8 = b'?';
    /// Pipelined: moves the connection to the shard that the second byte says, and is answered as the third says.
    pub const MOVE: u8 = b'>';
    /// Echo. What else the third byte of [`MOVE`] may be: no answer, or an answer that mutes for 100 ms.
    pub const MOVE_SILENT: u8 = b'n';
    pub const MOVE_MUTE: u8 = b'm';
    /// The shard, and what the service keeps of the connection: its requests, its arrivals, its failed departures.
    pub const WHERE: u8 = b'h';
}

/// What the test's service keeps of a connection.
#[derive(Debug, Default)]
pub(super) struct Visitor {
    requests: u8,
    arrivals: u8,
    stays: u8,
    /// Set between leaving one shard and arriving on another.
    packed: bool,
}

#[derive(Default)]
struct TestService {
    shard: u8,
    deferred: RefCell<Vec<(Responder, BytesMut)>>,
    under_way: Rc<RefCell<u32>>,
    closed: RefCell<Option<mpsc::Sender<String>>>,
    let_go: Arc<AtomicBool>,
}

pub(super) fn response(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + payload.len());
    frame.put_i32(i32::try_from(payload.len()).unwrap());
    frame.put_slice(payload);
    frame.freeze()
}

fn reply(payload: &[u8]) -> Outcome {
    Outcome::Reply(response(payload).into())
}

impl TestService {
    fn echo_after(&self, frame: BytesMut) -> Call {
        let under_way = self.under_way.clone();
        *under_way.borrow_mut() += 1;
        Call::Later(Box::pin(async move {
            Timer::new(Duration::from_millis(frame[1].into())).await;
            *under_way.borrow_mut() -= 1;
            reply(&frame)
        }))
    }
}

impl Service for TestService {
    type Connection = Visitor;

    fn connected(&self, _: &ConnectionInfo) -> Visitor {
        Visitor::default()
    }

    fn pipelines(&self, frame: &[u8]) -> bool {
        matches!(frame[0], kind::LATER | kind::DEFER | kind::RELEASE | kind::HELD | kind::MOVE)
    }

    fn call(&self, visitor: &mut Visitor, frame: BytesMut, slot: &Slot) -> Call {
        assert!(!visitor.packed, "a request of a connection that has left");
        visitor.requests = visitor.requests.wrapping_add(1);
        match frame[0] {
            kind::MOVE => {
                slot.move_to(frame[1].into());
                Call::Done(match frame.get(2) {
                    Some(&kind::MOVE_SILENT) => Outcome::NoReply,
                    Some(&kind::MOVE_MUTE) => {
                        Outcome::ReplyThenMute { frame: response(&frame).into(), mute_ms: 100 }
                    }
                    _ => reply(&frame),
                })
            }
            kind::WHERE => {
                let Visitor { requests, arrivals, stays, .. } = *visitor;
                Call::Done(reply(&[self.shard, requests, arrivals, stays]))
            }
            kind::LATER | kind::ALONE => self.echo_after(frame),
            kind::DEFER => {
                self.deferred.borrow_mut().push((slot.responder(), frame));
                Call::Deferred
            }
            kind::RELEASE => {
                let deferred = std::mem::take(&mut *self.deferred.borrow_mut());
                for (responder, frame) in deferred.into_iter().rev() {
                    responder.complete(reply(&frame));
                }
                Call::Done(reply(&frame))
            }
            kind::HELD => {
                let let_go = self.let_go.clone();
                Call::Later(Box::pin(async move {
                    while !let_go.load(Ordering::Acquire) {
                        Timer::new(Duration::from_millis(2)).await;
                    }
                    reply(&frame)
                }))
            }
            kind::NO_REPLY => Call::Done(Outcome::NoReply),
            kind::CLOSE => Call::Done(Outcome::Close(CloseReason::Service("asked to"))),
            kind::ABANDON => {
                drop(slot.responder());
                Call::Deferred
            }
            kind::BIG => {
                let slice = Bytes::from(vec![7; 64 << 10]);
                let count = usize::from(frame[1]);
                let length = i32::try_from(count * slice.len()).unwrap();
                let mut slices = vec![Bytes::copy_from_slice(&length.to_be_bytes())];
                slices.extend(std::iter::repeat_n(slice, count));
                Call::Done(Outcome::Reply(slices.into()))
            }
            kind::MUTE => {
                let mute_ms = u64::from(frame[1]) * 10;
                Call::Done(Outcome::ReplyThenMute { frame: response(&frame).into(), mute_ms })
            }
            kind::LEAVE => {
                let (frame, reason) = (response(&frame).into(), CloseReason::Service("gone elsewhere"));
                Call::Done(Outcome::ReplyThenClose { frame, reason })
            }
            kind::COUNT => Call::Done(reply(&[u8::try_from(*self.under_way.borrow()).unwrap()])),
            _ => Call::Done(reply(&frame)),
        }
    }

    fn leaves(&self, visitor: &mut Visitor) {
        assert!(!std::mem::replace(&mut visitor.packed, true));
    }

    fn stays(&self, visitor: &mut Visitor) {
        assert!(std::mem::take(&mut visitor.packed));
        visitor.stays += 1;
    }

    fn arrives(&self, visitor: &mut Visitor) {
        assert!(std::mem::take(&mut visitor.packed));
        visitor.arrivals = visitor.arrivals.wrapping_add(1);
    }

    fn closed(&self, visitor: Visitor, reason: &CloseReason) {
        assert!(!visitor.packed);
        if let Some(sender) = &*self.closed.borrow() {
            let _ = sender.send(reason.to_string());
        }
    }
}

enum Command {
    Drain(Duration, mpsc::Sender<bool>),
    Stats(mpsc::Sender<ConnectionStats>),
    /// Says that it is there, then keeps the shard from all else until the other side of this is gone.
    Block(mpsc::Sender<()>, mpsc::Receiver<()>),
}

/// What one shard of a test's server is given.
struct Seed {
    accepted: Unbound<Accepted>,
    moved: Unbound<Moved<Visitor>>,
    commands: Unbound<Command>,
    closed: mpsc::Sender<String>,
    ways: Ways<Visitor>,
    config: ConnectionConfig,
    let_go: Arc<AtomicBool>,
}

impl Seed {
    async fn run(self, shard: u8) {
        let closed = RefCell::new(Some(self.closed));
        let service = TestService { shard, closed, let_go: self.let_go, ..TestService::default() };
        let connections = Connections::linked(Rc::new(service), self.config, self.ways);
        let serving = connections.clone().serve(self.accepted.bind().unwrap());
        let serving_moved = connections.clone().serve_moved(self.moved.bind().unwrap());
        let mut commands = self.commands.bind().unwrap();
        let obeying = async {
            loop {
                match commands.recv().await {
                    Command::Stats(reply) => reply.send(connections.stats()).unwrap(),
                    Command::Drain(grace, reply) => {
                        reply.send(connections.drain(grace).await).unwrap();
                        return;
                    }
                    Command::Block(there, until) => {
                        there.send(()).unwrap();
                        let _ = until.recv();
                    }
                }
            }
        };
        or(or(serving, serving_moved), obeying).await;
    }
}

pub(super) struct Server {
    address: SocketAddr,
    pub(super) acceptor: Acceptor,
    commands: Vec<Sender<Command>>,
    pub(super) ways: Ways<Visitor>,
    reasons: mpsc::Receiver<String>,
    let_go: Arc<AtomicBool>,
    shards: Option<Shards>,
}

impl Server {
    pub(super) fn start(config: ConnectionConfig) -> Self {
        Self::start_on(1, 1, config)
    }

    /// Several shards; every client comes to the first. As many connections as said may be on their way to a shard.
    pub(super) fn start_on(shard_count: usize, moved_max: usize, config: ConnectionConfig) -> Self {
        let listener =
            bind(&ListenerConfig { name: "TEST".to_owned(), address: ([127, 0, 0, 1], 0).into() }).unwrap();
        let address = listener.address();
        let (closed, reasons) = mpsc::channel();
        let (accepted, accepted_inboxes): (Vec<_>, Vec<_>) =
            (0..shard_count).map(|_| mailbox(4_096).unwrap()).unzip();
        let (commands, command_inboxes): (Vec<_>, Vec<_>) =
            (0..shard_count).map(|_| mailbox(16).unwrap()).unzip();
        let (ways, moved_inboxes): (Ways<Visitor>, Vec<_>) =
            (0..shard_count).map(|_| mailbox(moved_max).unwrap()).unzip();
        let let_go = Arc::new(AtomicBool::new(false));
        let inboxes = accepted_inboxes.into_iter().zip(moved_inboxes).zip(command_inboxes);
        let seeds = inboxes.map(|((accepted, moved), commands)| Seed {
            accepted,
            moved,
            commands,
            closed: closed.clone(),
            ways: ways.clone(),
            config,
            let_go: let_go.clone(),
        });
        let run = |context: ShardContext, seed: Seed| seed.run(u8::try_from(context.shard).unwrap());
        let shards = run_shards(&ShardsConfig::new(shard_count), seeds.collect(), run).unwrap();
        let accepted = vec![accepted[0].clone()];
        let acceptor = Acceptor::start(vec![listener], accepted, ConnectionLimits::default()).unwrap();
        Self { address, acceptor, commands, ways, reasons, let_go, shards: Some(shards) }
    }

    pub(super) fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    pub(super) fn stats(&self) -> ConnectionStats {
        self.stats_of(0)
    }

    pub(super) fn stats_of(&self, shard: usize) -> ConnectionStats {
        let (sender, receiver) = mpsc::channel();
        self.commands[shard].try_send(Command::Stats(sender)).ok().unwrap();
        receiver.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    pub(super) fn start_drain(&self, grace: Duration) -> mpsc::Receiver<bool> {
        self.start_drain_of(0, grace)
    }

    pub(super) fn start_drain_of(&self, shard: usize, grace: Duration) -> mpsc::Receiver<bool> {
        let (sender, receiver) = mpsc::channel();
        self.commands[shard].try_send(Command::Drain(grace, sender)).ok().unwrap();
        receiver
    }

    /// Whether a shard is at the last command or beyond it.
    pub(super) fn has_taken_commands(&self, shard: usize) -> bool {
        self.commands[shard].is_empty()
    }

    /// Lets every held request be answered, those to come as well.
    pub(super) fn let_go(&self) {
        self.let_go.store(true, Ordering::Release);
    }

    /// Keeps a shard from doing anything until what this returns is dropped.
    pub(super) fn block(&self, shard: usize) -> mpsc::Sender<()> {
        let ((there, is_there), (until, blocks)) = (mpsc::channel(), mpsc::channel());
        self.commands[shard].try_send(Command::Block(there, blocks)).ok().unwrap();
        is_there.recv_timeout(Duration::from_secs(20)).unwrap();
        until
    }

    pub(super) fn reason(&self) -> String {
        self.reasons.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    pub(super) fn wait_for(&self, what: &str, condition: impl Fn(ConnectionStats) -> bool) {
        self.wait_for_on(0, what, condition);
    }

    pub(super) fn wait_for_on(&self, shard: usize, what: &str, condition: impl Fn(ConnectionStats) -> bool) {
        let stats = || self.stats_of(shard);
        self.wait_until(&format!("{what}; {:?}", stats()), || condition(stats()));
    }

    pub(super) fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "never came true: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.acceptor.stop();
        for shard in 0..self.commands.len() {
            if !self.commands[shard].is_closed() {
                let drained = self.start_drain_of(shard, Duration::from_millis(100));
                let _ = drained.recv_timeout(Duration::from_secs(20));
            }
        }
        if let Some(shards) = self.shards.take() {
            shards.join();
        }
    }
}

pub(super) fn send(client: &mut TcpStream, payload: &[u8]) {
    client.write_all(&response(payload)).unwrap();
}

pub(super) fn receive(client: &mut TcpStream) -> Vec<u8> {
    let mut prefix = [0; 4];
    client.read_exact(&mut prefix).unwrap();
    let mut payload = vec![0; usize::try_from(i32::from_be_bytes(prefix)).unwrap()];
    client.read_exact(&mut payload).unwrap();
    payload
}

/// Nothing but an end comes: in order, or as a reset.
pub(super) fn assert_closed(client: &mut TcpStream) {
    let mut byte = [0];
    match client.read(&mut byte) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("the connection is not closed: {other:?}"),
    }
}

#[test]
fn frames_split_at_every_byte_are_answered() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    let mut wire = response(b"e1").to_vec();
    wire.extend_from_slice(&response(b"l1 in the middle"));
    wire.extend_from_slice(&response(b"e3"));
    for split in 1..wire.len() {
        client.write_all(&wire[..split]).unwrap();
        if split % 5 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        client.write_all(&wire[split..]).unwrap();
        let got: Vec<_> = (0..3).map(|_| receive(&mut client)).collect();
        assert_eq!(got, [&b"e1"[..], b"l1 in the middle", b"e3"], "split at {split}");
    }
}

#[test]
fn large_frames_come_through_whole() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    for length in [16 << 10, (64 << 10) + 1, 1 << 20, (5 << 20) + 77] {
        let mut payload: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        payload[0] = kind::ECHO;
        let mut writer = client.try_clone().unwrap();
        let sent = payload.clone();
        let sending = std::thread::spawn(move || {
            send(&mut writer, &sent);
            send(&mut writer, b"e after it");
        });
        assert!(receive(&mut client) == payload, "a frame of {length} bytes came back changed");
        assert_eq!(receive(&mut client), b"e after it");
        sending.join().unwrap();
    }
    assert_eq!(server.stats().request_bytes, 0);
}

#[test]
fn pipelined_requests_run_together_and_are_answered_in_order() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    // The later it came, the sooner it is done.
    let requests: Vec<Vec<u8>> =
        (0..10u8).map(|number| vec![kind::LATER, 100 - 10 * number, number]).collect();
    let wire: Vec<u8> = requests.iter().flat_map(|request| response(request).to_vec()).collect();
    client.write_all(&wire).unwrap();
    for request in &requests {
        assert_eq!(&receive(&mut client), request);
    }

    // The first ones are answered only by the last: they must all be under way at once.
    for number in 0..50 {
        send(&mut client, &[kind::DEFER, number]);
    }
    send(&mut client, &[kind::RELEASE]);
    for number in 0..50 {
        assert_eq!(receive(&mut client), [kind::DEFER, number]);
    }
    assert_eq!(receive(&mut client), [kind::RELEASE]);
}

#[test]
fn a_request_that_is_not_pipelined_is_alone() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    let sequence: [&[u8]; 5] =
        [&[kind::LATER, 30], &[kind::COUNT, 0], &[kind::ALONE, 30], &[kind::LATER, 1], &[kind::COUNT, 0]];
    let wire: Vec<u8> = sequence.iter().flat_map(|request| response(request).to_vec()).collect();
    client.write_all(&wire).unwrap();
    let got: Vec<_> = (0..5).map(|_| receive(&mut client)).collect();
    assert_eq!(got, [vec![kind::LATER, 30], vec![0], vec![kind::ALONE, 30], vec![kind::LATER, 1], vec![0]]);
}

#[test]
fn no_reply_leaves_no_gap() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    for payload in [&b"n"[..], b"e1", b"n", b"n", b"e2"] {
        send(&mut client, payload);
    }
    assert_eq!((receive(&mut client), receive(&mut client)), (b"e1".to_vec(), b"e2".to_vec()));
}

#[test]
fn the_last_answer_leaves_before_the_connection_closes() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    for payload in [&b"w1"[..], b"e2"] {
        send(&mut client, payload);
    }
    assert_eq!(receive(&mut client), b"w1");
    assert_closed(&mut client);
    assert_eq!(server.reason(), "gone elsewhere");
}

#[test]
fn close_answers_what_came_before_and_nothing_after() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    for payload in [&[kind::LATER, 50][..], b"c", b"e2"] {
        send(&mut client, payload);
    }
    assert_eq!(receive(&mut client), [kind::LATER, 50]);
    assert_closed(&mut client);
    assert_eq!(server.reason(), "asked to");
    let mut client = server.client();
    send(&mut client, b"x");
    assert_closed(&mut client);
    assert!(server.reason().contains("without an answer"));
}

#[test]
fn garbage_and_frames_over_the_limit_close_the_connection() {
    let config = ConnectionConfig { frame_bytes_max: 1_000, ..ConnectionConfig::default() };
    let server = Server::start(config);
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 3, 0xe9], &[0xff; 4], &[0, 0, 0, 0], &[0x16, 3, 1, 2, 0]]
    {
        let mut client = server.client();
        send(&mut client, b"e before");
        client.write_all(garbage).unwrap();
        assert_eq!(receive(&mut client), b"e before");
        assert_closed(&mut client);
        assert!(server.reason().contains("socket.request.max.bytes"));
    }
    let mut client = server.client();
    send(&mut client, b"e the others go on");
    receive(&mut client);
    let mut exact = vec![kind::ECHO; 1_000];
    exact[999] = 1;
    send(&mut client, &exact);
    assert_eq!(receive(&mut client), exact);
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    // Each asks for 4 MiB: a thousand of them would be 4 GiB.
    for _ in 0..1_000 {
        send(&mut client, &[kind::BIG, 64]);
    }
    std::thread::sleep(Duration::from_millis(200));
    let stats = server.stats();
    assert!(stats.requests < 10, "{} requests started with nobody to take the answers", stats.requests);
    let mut other = server.client();
    send(&mut other, b"e others go on");
    receive(&mut other);
    for _ in 0..20 {
        assert_eq!(receive(&mut client).len(), 64 * (64 << 10));
    }
}

#[test]
fn requests_of_a_connection_are_bounded_in_number_and_bytes() {
    let config =
        ConnectionConfig { requests_max: 4, request_bytes_max: 10_000, ..ConnectionConfig::default() };
    let server = Server::start(config);
    let mut client = server.client();
    for number in 0..20 {
        send(&mut client, &[kind::DEFER, number]);
    }
    server.wait_for("four requests", |stats| stats.requests == 4);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.stats().requests, 4);
    let mut second = server.client();
    let mut large = vec![kind::DEFER; 4_000];
    large[1] = 0;
    for _ in 0..5 {
        send(&mut second, &large);
    }
    server.wait_for("two large requests", |stats| stats.requests == 4 + 2);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.stats().requests, 4 + 2);
}

#[test]
fn the_memory_of_the_shard_is_bounded_and_reading_resumes() {
    let config = ConnectionConfig { shard_request_bytes_max: 3 << 20, ..ConnectionConfig::default() };
    let server = Server::start(config);
    // Half frames of eight clients would hold 16 MiB.
    let frame_bytes = 2 << 20;
    let mut payload = vec![kind::ECHO; frame_bytes];
    payload[1] = 1;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = server.client();
            let payload = payload.clone();
            std::thread::spawn(move || {
                let wire = response(&payload);
                let (half, rest) = wire.split_at(wire.len() / 2 + 1);
                client.write_all(half).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                let mut writer = client.try_clone().unwrap();
                let rest = rest.to_vec();
                let sending = std::thread::spawn(move || writer.write_all(&rest).unwrap());
                assert!(receive(&mut client) == payload);
                sending.join().unwrap();
            })
        })
        .collect();
    let mut most = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        most = most.max(server.stats().request_bytes);
        std::thread::sleep(Duration::from_millis(1));
    }
    for client in clients {
        client.join().unwrap();
    }
    let bound = config.shard_request_bytes_max + 2 * frame_bytes + (1 << 20);
    assert!(most > 0 && most <= bound, "{most} bytes held, {bound} allowed");
    assert_eq!(server.stats().request_bytes, 0);
}

#[test]
fn idle_connections_and_half_frames_are_closed_and_busy_ones_are_not() {
    let config = ConnectionConfig { idle_ms: 2_000, ..ConnectionConfig::default() };
    let server = Server::start(config);
    let mut idle = server.client();
    let mut half = server.client();
    half.write_all(&[0, 0, 0, 10, 1]).unwrap();
    let mut busy = server.client();
    send(&mut busy, &[kind::DEFER, 1]);
    assert_closed(&mut idle);
    assert_closed(&mut half);
    let mut other = server.client();
    send(&mut other, &[kind::RELEASE]);
    receive(&mut other);
    assert_eq!(receive(&mut busy), [kind::DEFER, 1]);
    assert_eq!(server.reason(), "idle for too long");
}

#[test]
fn mute_holds_the_next_request_back() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    // From before the first request, as this thread may see its answer late; the server counts whole milliseconds.
    let asked = Instant::now();
    send(&mut client, &[kind::MUTE, 10]);
    send(&mut client, b"e next");
    receive(&mut client);
    assert_eq!(receive(&mut client), b"e next");
    let waited = asked.elapsed();
    assert!(waited >= Duration::from_millis(99) && waited < Duration::from_secs(10), "{waited:?}");
}

#[test]
fn a_thousand_idle_connections_and_the_next_is_served() {
    let server = Server::start(ConnectionConfig::default());
    crate::rt::preflight::raise_open_files().unwrap();
    let clients: Vec<_> = (0..1_000).map(|_| server.client()).collect();
    server.wait_for("all adopted", |stats| stats.open == 1_000);
    let mut next = server.client();
    for _ in 0..100 {
        send(&mut next, b"e");
        receive(&mut next);
    }
    let mut last = &clients[999];
    last.write_all(&response(b"e awake")).unwrap();
    receive(&mut last.try_clone().unwrap());
    drop(clients);
    server.wait_for("all gone", |stats| stats.open == 1);
}

#[test]
fn a_reset_ends_only_its_own_connection() {
    let server = Server::start(ConnectionConfig::default());
    let mut other = server.client();
    for _ in 0..20 {
        let mut client = server.client();
        send(&mut client, &[kind::BIG, 100]);
        send(&mut client, &[kind::LATER, 20]);
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        send(&mut other, b"e");
        receive(&mut other);
    }
    server.wait_for("resets noticed", |stats| stats.open == 1 && stats.request_bytes == 0);
}

#[test]
fn a_client_that_ends_its_input_still_gets_its_answers() {
    let server = Server::start(ConnectionConfig::default());
    let mut client = server.client();
    send(&mut client, &[kind::LATER, 50]);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(&mut client), [kind::LATER, 50]);
    assert_closed(&mut client);
    assert_eq!(server.reason(), "closed by the client");
}

#[test]
fn shutdown_answers_what_is_under_way() {
    let server = Server::start(ConnectionConfig::default());
    let (mut busy, mut idle) = (server.client(), server.client());
    for number in 0..5 {
        send(&mut busy, &[kind::LATER, 100 + number]);
    }
    server.wait_for("under way", |stats| stats.requests == 5 && stats.open == 2);
    let drained = server.start_drain(Duration::from_secs(10));
    for number in 0..5 {
        assert_eq!(receive(&mut busy), [kind::LATER, 100 + number]);
    }
    assert_closed(&mut busy);
    assert_closed(&mut idle);
    assert!(drained.recv_timeout(Duration::from_secs(20)).unwrap());
}

#[test]
fn shutdown_cuts_off_what_takes_too_long() {
    let server = Server::start(ConnectionConfig::default());
    let (mut stuck, mut deaf) = (server.client(), server.client());
    send(&mut stuck, &[kind::DEFER, 1]);
    // It never reads: the server waits for room in its socket.
    send(&mut deaf, &[kind::BIG, 255]);
    server.wait_for("under way", |stats| stats.requests == 2);
    let drained = server.start_drain(Duration::from_millis(100));
    assert!(!drained.recv_timeout(Duration::from_secs(20)).unwrap());
    assert_closed(&mut stuck);
}
