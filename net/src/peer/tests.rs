//! Links over real sockets: two nodes of one shard each, and plain threads that play a broken or hostile node.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::backoff::BackoffConfig;
use super::frame::{Decoder, Encoder};
use super::handshake::{Greeting, KIND_HELLO, KIND_KEEPALIVE, KIND_PROBE, KIND_REFUSAL, KIND_WELCOME};
use super::listener::IncomingStats;
use super::liveness::LivenessConfig;
use super::*;
use crate::acceptor::Acceptor;
use crate::rt::clock;
use crate::rt::executor::breathe;
use crate::rt::executor::{Shards, ShardsConfig, run_shards, sleep, spawn};
use crate::rt::mailbox::{Sender, mailbox};

const PATIENCE: Duration = Duration::from_secs(30);

fn config() -> PeerConfig {
    PeerConfig {
        backoff: BackoffConfig { min_ms: 5, max_ms: 50 },
        liveness: LivenessConfig { keepalive_ms: 60, timeout_ms: 600 },
        connect_ms: 1_000,
        handshake_ms: 1_000,
        ..PeerConfig::default()
    }
}

/// Does not take a pause of the machine, or a fake that sends no keepalives, for silence.
fn patient_config() -> PeerConfig {
    PeerConfig { liveness: LivenessConfig { keepalive_ms: 60, timeout_ms: 5_000 }, ..config() }
}

type TakeFrame = Box<dyn FnMut(&Frame)>;

#[derive(Default)]
struct TestSink {
    full: Cell<bool>,
    frames: RefCell<Vec<Frame>>,
    /// Instead of keeping frames: what to do with each.
    take: RefCell<Option<TakeFrame>>,
    ends: RefCell<Vec<(i32, DownReason)>>,
}

impl FrameSink for TestSink {
    fn deliver(&self, _from: &PeerInfo, frame: Frame) -> Result<(), Frame> {
        if self.full.get() {
            return Err(frame);
        }
        match &mut *self.take.borrow_mut() {
            Some(take) => take(&frame),
            None => self.frames.borrow_mut().push(frame),
        }
        Ok(())
    }

    fn link_down(&self, from: &PeerInfo, reason: &DownReason) {
        self.ends.borrow_mut().push((from.node, reason.clone()));
    }
}

struct OnShard {
    registry: Arc<Registry>,
    config: PeerConfig,
    incoming: Rc<IncomingLinks<TestSink>>,
    sink: Rc<TestSink>,
    link: Option<Link>,
}

type Command = Option<Box<dyn FnOnce(&mut OnShard) + Send>>;

struct Node {
    address: SocketAddr,
    registry: Arc<Registry>,
    acceptor: Acceptor,
    commands: Sender<Command>,
    shards: Option<Shards>,
}

fn identity(node: i32) -> Identity {
    Identity {
        node,
        directory: Uuid::from_u128(node as u128),
        incarnation: clock::monotonic_ns(),
        shard_count: 1,
        cluster: ClusterId::new("test-cluster"),
        address: None,
    }
}

fn open_door() -> Members {
    Members { admits_strangers: true, ..Members::default() }
}

impl Node {
    fn start(identity: &Identity, config: PeerConfig) -> Self {
        Self::start_at(identity, config, ([127, 0, 0, 1], 0).into())
    }

    fn start_at(identity: &Identity, config: PeerConfig, address: SocketAddr) -> Self {
        let registry = Registry::new(identity, open_door());
        let (sockets, inbox) = mailbox(1_024).unwrap();
        let (commands, orders) = mailbox::<Command>(64).unwrap();
        let seeds = vec![(inbox, orders, registry.clone())];
        let body = move |_,
                         (inbox, orders, registry): (
            _,
            crate::rt::mailbox::Unbound<Command>,
            Arc<Registry>,
        )| async move {
            let inbox: crate::rt::mailbox::Unbound<_> = inbox;
            let sink = Rc::new(TestSink::default());
            let incoming = IncomingLinks::new(registry.clone(), config, sink.clone());
            spawn(incoming.clone().serve(inbox.bind().unwrap()));
            let mut shard = OnShard { registry, config, incoming, sink, link: None };
            let mut orders = orders.bind().unwrap();
            while let Some(order) = orders.recv().await {
                order(&mut shard);
            }
            shard.incoming.stop();
            if let Some(link) = shard.link {
                link.stop();
            }
            sleep(Duration::from_millis(20)).await;
        };
        let shards = run_shards(&ShardsConfig::new(1), seeds, body).unwrap();
        let (acceptor, address) = listen(address, vec![sockets]).unwrap();
        Self { address, registry, acceptor, commands, shards: Some(shards) }
    }

    fn run<R: Send + 'static>(&self, act: impl FnOnce(&mut OnShard) -> R + Send + 'static) -> R {
        let (sender, receiver) = mpsc::channel();
        let order: Command = Some(Box::new(move |shard| sender.send(act(shard)).unwrap()));
        self.commands.try_send(order).ok().unwrap();
        receiver.recv_timeout(PATIENCE).unwrap()
    }

    fn dial(&self, node: i32, address: &str) -> mpsc::Receiver<LinkEvent> {
        let (events, receiver) = mpsc::channel();
        let address = address.to_owned();
        self.run(move |shard| {
            let mut state = 7u64;
            let random = move || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state >> 33
            };
            let report = move |event| {
                let _ = events.send(event);
            };
            let registry = shard.registry.clone();
            shard.link = Some(Link::start(registry, shard.config, 0, node, &address, random, report));
        });
        receiver
    }

    fn stats(&self) -> IncomingStats {
        self.run(|shard| shard.incoming.stats())
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&mut OnShard) -> bool + Clone + Send + 'static) {
        let deadline = Instant::now() + PATIENCE;
        while !self.run(condition.clone()) {
            assert!(Instant::now() < deadline, "never came true: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // First the port, so that nobody is accepted whom nobody will greet.
        self.acceptor.stop();
        let _ = self.commands.try_send(None);
        if let Some(shards) = self.shards.take() {
            shards.join();
        }
    }
}

fn next(events: &mpsc::Receiver<LinkEvent>) -> LinkEvent {
    events.recv_timeout(PATIENCE).expect("an event of the link")
}

fn up(events: &mpsc::Receiver<LinkEvent>) -> PeerInfo {
    loop {
        if let LinkEvent::Up(peer) = next(events) {
            return peer;
        }
    }
}

fn down(events: &mpsc::Receiver<LinkEvent>) -> DownReason {
    loop {
        if let LinkEvent::Down { reason, .. } = next(events) {
            return reason;
        }
    }
}

/// A node played by a thread.
struct Fake {
    stream: TcpStream,
    decoder: Decoder,
}

impl Fake {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, decoder: Decoder::default() }
    }

    fn dial(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    fn send(&mut self, frame: Frame, version: u16) {
        let bytes = wire(frame, version);
        self.stream.write_all(&bytes).unwrap();
    }

    fn greet(&mut self, greeting: Greeting) -> Frame {
        self.send(greeting.to_frame(KIND_HELLO), 0);
        self.receive().expect("an answer")
    }

    /// The next frame but keepalives; none when the connection ends.
    fn receive(&mut self) -> Option<Frame> {
        loop {
            let mut byte = [0];
            if !matches!(self.stream.read(&mut byte), Ok(1)) {
                return None;
            }
            if let Some(frame) = self.decoder.feed(&mut &byte[..]).unwrap()
                && frame.kind != KIND_KEEPALIVE
            {
                return Some(frame);
            }
        }
    }
}

fn wire(frame: Frame, version: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::default().encode(frame, version, |slice| bytes.extend_from_slice(&slice));
    bytes
}

fn greeting(node: i32) -> Greeting {
    Greeting {
        versions: (1, 1),
        node,
        directory: Uuid::from_u128(node as u128),
        incarnation: 5,
        shard_count: 2,
        cluster: ClusterId::new("test-cluster"),
        address: None,
        source_shard: 1,
        dialled_node: 1,
    }
}

/// Sends `count` frames whose payload is cut from `pattern`, a hundred a turn, waiting while the link is full.
async fn send_many(link: Link, pattern: Bytes, count: u64, length: impl Fn(u64) -> usize) {
    for number in 0..count {
        let bytes = length(number);
        let start = (number as usize * 7) % 1_000;
        let payload = pattern.slice(start..start + bytes);
        let mut frame = Frame::new(2, 0, number);
        frame.parts = vec![payload.slice(..bytes / 3), payload.slice(bytes / 3..)];
        while let Err(back) = link.try_send(frame) {
            assert_eq!(back.reason, NotSentReason::Full);
            frame = back.frame;
            sleep(Duration::from_millis(1)).await;
        }
        if number % 100 == 99 {
            breathe().await;
        }
    }
}

fn pattern(bytes: usize) -> Bytes {
    Bytes::from((0..bytes as u64 + 1_000).map(|index| ((index * index) >> 3) as u8).collect::<Vec<_>>())
}

/// Mostly small, a few hundred up to 1 MiB, one of 32 MiB.
fn mixed_length(number: u64) -> usize {
    let random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    match number {
        50_000 => 32 << 20,
        _ if number % 256 == 3 => (random % (1 << (10 + random % 11))) as usize,
        _ => (random % 1_500) as usize,
    }
}

#[test]
fn a_hundred_thousand_frames_in_order() {
    const COUNT: u64 = 100_000;
    // A debug build needs its time for the checksum of 32 MiB, on a machine that others use as well.
    let patient = patient_config();
    let (one, two) = (Node::start(&identity(1), patient), Node::start(&identity(2), patient));
    let pattern = pattern(32 << 20);
    let (done, all_there) = mpsc::channel();
    let expected = pattern.clone();
    two.run(move |shard| {
        let mut next = 0;
        *shard.sink.take.borrow_mut() = Some(Box::new(move |frame| {
            assert_eq!((frame.group, frame.kind, frame.source_shard), (next, 2, 0));
            let (start, bytes) = ((next as usize * 7) % 1_000, mixed_length(next));
            let payload = &expected[start..start + bytes];
            assert!(frame.parts[0] == payload[..bytes / 3] && frame.parts[1] == payload[bytes / 3..]);
            next += 1;
            if next == COUNT {
                done.send(()).unwrap();
            }
        }));
    });
    let events = one.dial(2, &two.address.to_string());
    let peer = up(&events);
    assert_eq!((peer.node, peer.directory, peer.shard_count), (2, Uuid::from_u128(2), 1));
    one.run(move |shard| spawn(send_many(shard.link.clone().unwrap(), pattern, COUNT, mixed_length)));
    let result = all_there.recv_timeout(PATIENCE * 2);
    let event = events.try_recv();
    let stats = one.run(|shard| shard.link.as_ref().unwrap().stats());
    assert!(result.is_ok() && event.is_err(), "{event:?} {stats:?} {:?}", two.stats());
    let stats = one.run(|shard| shard.link.as_ref().unwrap().stats());
    assert_eq!((stats.sent_frames, stats.lost_frames, stats.connections), (COUNT, 0, 1));
    assert_eq!(two.stats().received_frames, COUNT);
}

#[test]
fn a_node_that_goes_is_noticed_at_once_and_found_again() {
    let one = Node::start(&identity(1), config());
    let two = Node::start(&identity(2), config());
    let address = two.address;
    // By name, so that the lookup is tried as well.
    let events = one.dial(2, &format!("localhost:{}", address.port()));
    up(&events);
    one.run(|shard| shard.link.as_ref().unwrap().try_send(Frame::new(1, 0, 1)).unwrap());
    two.wait_for("the frame arrives", |shard| shard.sink.frames.borrow().len() == 1);
    drop(two);
    // Not by silence, which would be told as `Silent`.
    assert_eq!(down(&events), DownReason::Closed);
    assert_eq!(down(&events), DownReason::ConnectionRefused);
    let refused = one.run(|shard| shard.link.as_ref().unwrap().try_send(Frame::new(1, 0, 1)).unwrap_err());
    assert_eq!(refused.reason, NotSentReason::Down);
    std::thread::sleep(Duration::from_millis(300));
    assert!(events.try_recv().is_err(), "each try was told of");
    let two = Node::start_at(&identity(2), config(), address);
    up(&events);
    one.run(|shard| shard.link.as_ref().unwrap().try_send(Frame::new(1, 0, 2)).unwrap());
    two.wait_for("a frame arrives again", |shard| shard.sink.frames.borrow().len() == 1);
    one.run(|shard| shard.link.as_ref().unwrap().stop());
    assert_eq!(down(&events), DownReason::Stopped);
    two.wait_for("the link's end is told", |shard| {
        *shard.sink.ends.borrow() == [(1, DownReason::Closed)] && shard.incoming.stats().open == 0
    });
}

#[test]
fn a_full_sink_is_felt_as_a_full_queue_and_never_as_death() {
    let small = PeerConfig { queue_frames_max: 1_000, queue_bytes_max: 4 << 20, ..config() };
    let (one, two) = (Node::start(&identity(1), small), Node::start(&identity(2), small));
    two.run(|shard| shard.sink.full.set(true));
    let events = one.dial(2, &two.address.to_string());
    up(&events);
    let payload = Bytes::from(vec![1; 100_000]);
    let (mut sent, mut full_since) = (0u64, None::<Instant>);
    // Full, and full for longer than the liveness time-out.
    while full_since.is_none_or(|since| since.elapsed() < Duration::from_millis(1_500)) {
        let payload = payload.clone();
        let frame = Frame { parts: vec![payload], ..Frame::new(1, 0, sent) };
        let result = one.run(move |shard| {
            let link = shard.link.as_ref().unwrap();
            assert!(link.waiting().1 <= 4 << 20);
            link.try_send(frame).map_err(|refused| refused.reason)
        });
        match result {
            Ok(()) => (sent, full_since) = (sent + 1, None),
            Err(reason) => {
                assert_eq!(reason, NotSentReason::Full);
                full_since.get_or_insert_with(Instant::now);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(sent < 2_000, "nothing bounds what is taken: {sent} frames");
    }
    assert!(events.try_recv().is_err(), "back-pressure was taken for death");
    assert_eq!(two.run(|shard| shard.sink.frames.borrow().len()), 0);
    two.run(|shard| {
        shard.sink.full.set(false);
        shard.incoming.resume();
    });
    two.wait_for("all frames arrive", move |shard| shard.sink.frames.borrow().len() as u64 == sent);
    let groups: Vec<u64> = two.run(|shard| shard.sink.frames.borrow().iter().map(|f| f.group).collect());
    assert!(groups.iter().copied().eq(0..sent));
    assert!(two.stats().paused >= 1);
}

#[test]
fn refusals_are_told_to_both_sides() {
    let one = identity(1);
    let cases: [(i32, Identity, RefusalCode); 5] = [
        (2, Identity { cluster: ClusterId::new("another"), ..identity(2) }, RefusalCode::Cluster),
        (2, identity(3), RefusalCode::WrongNode),
        (2, identity(1), RefusalCode::DuplicateNode),
        (2, Identity { directory: one.directory, ..identity(2) }, RefusalCode::Directory),
        (1, one.clone(), RefusalCode::Itself),
    ];
    for (dialled, other, code) in cases {
        let dialling = Node::start(&one, config());
        let listening = Node::start(&other, config());
        let events = dialling.dial(dialled, &listening.address.to_string());
        let DownReason::RefusedByPeer(refusal) = down(&events) else { panic!("{code:?}") };
        assert_eq!(refusal.code, code, "{refusal}");
        listening.wait_for("the refusal is counted", |shard| shard.incoming.stats().refused >= 1);
    }
}

#[test]
fn the_dialling_side_refuses_too_and_says_so() {
    let (one, two) = (Node::start(&identity(1), config()), Node::start(&identity(2), config()));
    let registered =
        Members { nodes: BTreeMap::from([(2, Some(Uuid::from_u128(99)))]), ..Members::default() };
    one.registry.set_members(registered);
    let events = one.dial(2, &two.address.to_string());
    let DownReason::RefusedByUs(refusal) = down(&events) else { panic!() };
    assert_eq!(refusal.code, RefusalCode::Directory);
    two.wait_for("the other side is told", |shard| {
        let ends = shard.sink.ends.borrow();
        matches!(ends.first(), Some((1, DownReason::RefusedByPeer(r))) if r.code == RefusalCode::Directory)
    });
    // Put right, it comes up by itself; and a node that is no member any more is cut off.
    one.registry.set_members(open_door());
    up(&events);
    one.registry.set_members(Members::default());
    assert_eq!(down(&events), DownReason::Superseded);
}

#[test]
fn another_version_is_refused_in_a_frame_that_any_version_reads() {
    let one = Node::start(&identity(1), config());
    let mut fake = Fake::dial(one.address);
    let answer = fake.greet(Greeting { versions: (8, 9), ..greeting(2) });
    assert_eq!(answer.kind, KIND_REFUSAL);
    assert_eq!(Refusal::from_frame(&answer).code, RefusalCode::Version);
    assert!(fake.receive().is_none());
}

#[test]
fn a_second_node_with_an_id_in_use_is_refused_and_a_second_connection_replaces_the_first() {
    let one = Node::start(&identity(1), patient_config());
    let mut first = Fake::dial(one.address);
    assert_eq!(first.greet(greeting(2)).kind, KIND_WELCOME);
    let mut rival = Fake::dial(one.address);
    let answer = rival.greet(Greeting { incarnation: 6, directory: Uuid::from_u128(77), ..greeting(2) });
    assert_eq!(Refusal::from_frame(&answer).code, RefusalCode::DuplicateNode);
    let mut second = Fake::dial(one.address);
    assert_eq!(second.greet(greeting(2)).kind, KIND_WELCOME);
    assert!(first.receive().is_none(), "the first connection lives on");
    second.send(Frame { source_shard: 1, ..Frame::new(1, 0, 42) }, 1);
    one.wait_for("its frame arrives", |shard| shard.sink.frames.borrow().len() == 1);
    assert_eq!(one.run(|shard| shard.sink.ends.borrow().clone()), [(2, DownReason::Superseded)]);
}

#[test]
fn whoever_breaks_the_protocol_is_closed_and_others_are_not_harmed() {
    let one = Node::start(&identity(1), patient_config());
    let good = Frame { source_shard: 1, parts: vec![Bytes::from_static(b"payload")], ..Frame::new(1, 0, 1) };
    let mut damaged = wire(good.clone(), 1);
    *damaged.last_mut().unwrap() ^= 1;
    let breaches: [(Vec<u8>, &str); 4] = [
        (damaged, "fails its checksum"),
        (wire(Frame { source_shard: 0, ..good.clone() }, 1), "another shard's link"),
        (wire(good.clone(), 2), "version 2"),
        (wire(greeting(2).to_frame(KIND_HELLO), 0), "second greeting"),
    ];
    for (bytes, expected) in breaches {
        let mut fake = Fake::dial(one.address);
        assert_eq!(fake.greet(greeting(2)).kind, KIND_WELCOME);
        fake.stream.write_all(&bytes).unwrap();
        assert!(fake.receive().is_none());
        let (node, reason) = one.run(|shard| shard.sink.ends.borrow_mut().pop().unwrap());
        assert!(node == 2 && reason.to_string().contains(expected), "{reason}");
    }
    let mut fake = Fake::dial(one.address);
    fake.greet(greeting(2));
    fake.send(Frame { target_shard: 1, ..good.clone() }, 1);
    fake.send(good, 1);
    one.wait_for("the good frame arrives", |shard| shard.sink.frames.borrow().len() == 1);
    assert_eq!(one.stats().dropped_no_shard, 1);
}

#[test]
fn garbage_and_half_greetings_are_closed_in_time() {
    let one = Node::start(&identity(1), config());
    let hello = wire(greeting(2).to_frame(KIND_HELLO), 0);
    let mut inputs: Vec<Vec<u8>> =
        (0..hello.len()).step_by(9).map(|length| hello[..length].to_vec()).collect();
    inputs.push(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    inputs.push(vec![0xFF; 100_000]);
    inputs.push(wire(Frame::new(1, 0, 0), 1));
    inputs.push(wire(Frame::new(KIND_KEEPALIVE, 0, 0), 0));
    let mut fakes = Vec::new();
    for input in &inputs {
        let mut fake = Fake::dial(one.address);
        // It may be closed while it still speaks.
        let _ = fake.stream.write_all(input);
        fakes.push(fake);
    }
    for mut fake in fakes {
        let mut rest = Vec::new();
        let _ = fake.stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    one.wait_for("all are closed", |shard| shard.incoming.stats().open == 0);
    assert_eq!(one.stats().refused, inputs.len() as u64);
}

#[test]
fn whoever_stalls_in_a_frame_is_closed_by_silence_or_by_slowness() {
    // A trickle that pauses with the machine must not be taken for silence.
    let liveness = LivenessConfig { keepalive_ms: 60, timeout_ms: 2_000 };
    let one = Node::start(&identity(1), PeerConfig { frame_ms: 3_000, liveness, ..config() });
    let frame = Frame { source_shard: 1, parts: vec![vec![0; 5_000].into()], ..Frame::new(1, 0, 1) };
    let bytes = wire(frame, 1);
    let mut silent = Fake::dial(one.address);
    silent.greet(greeting(2));
    silent.stream.write_all(&bytes[..1_000]).unwrap();
    assert!(silent.receive().is_none());
    assert_eq!(one.run(|shard| shard.sink.ends.borrow_mut().pop().unwrap().1), DownReason::Silent);
    let mut slow = Fake::dial(one.address);
    slow.greet(greeting(2));
    let began = Instant::now();
    for byte in &bytes {
        if slow.stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(began.elapsed() < PATIENCE, "a trickle is read for ever");
    }
    assert_eq!(one.run(|shard| shard.sink.ends.borrow_mut().pop().unwrap().1), DownReason::Stalled);
}

#[test]
fn a_dialled_node_that_stalls_or_falls_silent_is_given_up() {
    let one = Node::start(&identity(1), config());
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let events = one.dial(2, &port.local_addr().unwrap().to_string());
    let _mute = port.accept().unwrap();
    assert_eq!(down(&events), DownReason::ConnectTimeout);
    // The next one greets, then stands still as a stopped process does.
    let mut fake = Fake::new(port.accept().unwrap().0);
    let hello = fake.receive().unwrap();
    assert_eq!(Greeting::from_frame(&hello).unwrap().dialled_node, 2);
    // From before the greeting, as this thread may hear late that the link is up.
    let since = Instant::now();
    fake.send(Greeting { source_shard: 0, dialled_node: 2, ..greeting(2) }.to_frame(KIND_WELCOME), 0);
    let peer = up(&events);
    assert_eq!((peer.node, peer.shard_count), (2, 2));
    assert_eq!(down(&events), DownReason::Silent);
    assert!(since.elapsed() >= Duration::from_millis(500));
}

/// Probes the other side, waits, and tells what came of it.
fn probe(node: &Node) -> mpsc::Receiver<Option<()>> {
    let (sender, receiver) = mpsc::channel();
    node.run(move |shard| {
        let answer = shard.link.as_ref().unwrap().probe().expect("the link is up");
        spawn(async move { sender.send(answer.await).unwrap() });
    });
    receiver
}

#[test]
fn a_node_that_is_there_answers_a_probe_and_one_that_goes_ends_it() {
    let one = Node::start(&identity(1), patient_config());
    let two = Node::start(&identity(2), patient_config());
    let events = one.dial(2, &two.address.to_string());
    assert!(one.run(|shard| shard.link.as_ref().unwrap().probe().is_none()), "nobody to ask yet");
    up(&events);
    let probes: Vec<_> = (0..3).map(|_| probe(&one)).collect();
    for answer in probes {
        assert_eq!(answer.recv_timeout(PATIENCE), Ok(Some(())));
    }

    // This one greets and says nothing more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    one.run(|shard| shard.link.take().unwrap().stop());
    drop(two);
    let events = one.dial(3, &address);
    let mut fake = Fake::new(port.accept().unwrap().0);
    fake.receive().unwrap();
    fake.send(Greeting { source_shard: 0, dialled_node: 3, ..greeting(3) }.to_frame(KIND_WELCOME), 0);
    up(&events);
    let answer = probe(&one);
    let asked = fake.receive().expect("the probe");
    assert_eq!((asked.kind, asked.group), (KIND_PROBE, 1));
    // Another number than was asked answers nothing.
    fake.send(Frame::new(KIND_PROBE, 0, 0), 0);
    drop(fake);
    assert_eq!(answer.recv_timeout(PATIENCE), Ok(None));
}

/// `cargo test --release -p chronik-net peer::tests::throughput -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn throughput() {
    for (bytes, count) in [(0usize, 2_000_000u64), (256, 2_000_000), (64 << 10, 60_000), (1 << 20, 8_000)] {
        let (one, two) = (Node::start(&identity(1), config()), Node::start(&identity(2), config()));
        let (done, all_there) = mpsc::channel();
        two.run(move |shard| {
            let mut left = count;
            *shard.sink.take.borrow_mut() = Some(Box::new(move |_| {
                left -= 1;
                if left == 0 {
                    done.send(()).unwrap();
                }
            }));
        });
        up(&one.dial(2, &two.address.to_string()));
        let cpu = |node: &Node| node.run(|_| clock::thread_cpu_ns());
        let (began, cpu_before) = (Instant::now(), (cpu(&one), cpu(&two)));
        let pattern = pattern(bytes);
        one.run(move |shard| spawn(send_many(shard.link.clone().unwrap(), pattern, count, move |_| bytes)));
        all_there.recv_timeout(PATIENCE * 4).unwrap();
        let seconds = began.elapsed().as_secs_f64();
        let cpu_us = |now: u64, before: u64| (now - before) as f64 / 1e3 / count as f64;
        let line = format!(
            "{bytes} B: {:.2} us a frame, {:.2} GB/s, CPU a frame: sender {:.2} us, receiver {:.2} us\n",
            seconds * 1e6 / count as f64,
            (bytes as u64 * count) as f64 / seconds / 1e9,
            cpu_us(cpu(&one), cpu_before.0),
            cpu_us(cpu(&two), cpu_before.1),
        );
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}
