//! What a connection costs: round trip and CPU a request, through acceptor, connection and an echoing service, on one shard.
//!
//! ```text
//! cargo run --release -p chronik-net --example echo
//! ```
#![allow(clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use chronik_net::acceptor::{Acceptor, ConnectionLimits, ListenerConfig, bind};
use chronik_net::connection::{
    Call, CloseReason, ConnectionConfig, ConnectionInfo, Connections, Outcome, Service, Slot,
};
use chronik_net::rt::clock;
use chronik_net::rt::executor::{ShardsConfig, run_shards};
use chronik_net::rt::mailbox::mailbox;
use futures_lite::future::or;

/// Answers each request with its length and its first bytes.
struct Echo;

impl Service for Echo {
    type Connection = ();

    fn connected(&self, _: &ConnectionInfo) {}

    fn pipelines(&self, frame: &[u8]) -> bool {
        frame[0] == 1
    }

    fn call(&self, (): &mut (), frame: BytesMut, _: &Slot) -> Call {
        let mut response = Vec::with_capacity(36);
        let body = &frame[..frame.len().min(32)];
        response.extend_from_slice(&(body.len() as u32).to_be_bytes());
        response.extend_from_slice(body);
        Call::Done(Outcome::Reply(bytes::Bytes::from(response).into()))
    }

    fn closed(&self, (): (), _: &CloseReason) {}
}

/// One measurement: `requests` of `bytes` each, `window` under way.
fn measure(client: &mut TcpStream, cpu_ns: &dyn Fn() -> u64, requests: usize, bytes: usize, window: usize) {
    let mut request = (bytes as u32).to_be_bytes().to_vec();
    request.resize(4 + bytes, 1);
    let mut burst = request.repeat(window);
    let mut answers = vec![0; window * (4 + bytes.min(32))];
    let rounds = requests / window;
    let before_ns = cpu_ns();
    let start = Instant::now();
    for _ in 0..rounds {
        client.write_all(&burst).expect("the server reads");
        client.read_exact(&mut answers).expect("the server answers");
    }
    let took = start.elapsed();
    let done = (rounds * window) as f64;
    let cpu_us = (cpu_ns() - before_ns) as f64 / 1e3;
    burst.clear();
    println!(
        "{bytes:>8} bytes, {window:>4} at a time: {:>8.2} us a round, {:>8.3} us of shard CPU a request, {:>8.1} MB/s, {:.3} s of CPU a GB",
        took.as_secs_f64() * 1e6 / rounds as f64,
        cpu_us / done,
        done * bytes as f64 / took.as_secs_f64() / 1e6,
        cpu_us / 1e6 / (done * bytes as f64 / 1e9)
    );
}

fn main() {
    let address = ([127, 0, 0, 1], 0).into();
    let listener = bind(&ListenerConfig { name: "ECHO".to_owned(), address }).expect("a free port");
    let address = listener.address();
    let (accepted, inbox) = mailbox(64).expect("an eventfd");
    let (questions, question_inbox) = mailbox::<std::sync::mpsc::Sender<u64>>(4).expect("an eventfd");
    let seeds = vec![(inbox, question_inbox)];
    let _shards = run_shards(&ShardsConfig::new(1), seeds, |_, (inbox, questions)| async move {
        let connections = Connections::new(Rc::new(Echo), ConnectionConfig::default());
        let mut questions = questions.bind().expect("a descriptor");
        let answering = async {
            loop {
                let reply = questions.recv().await;
                let _ = reply.send(clock::thread_cpu_ns());
            }
        };
        or(connections.serve(inbox.bind().expect("a descriptor")), answering).await
    })
    .expect("a shard");
    let _acceptor =
        Acceptor::start(vec![listener], vec![accepted], ConnectionLimits::default()).expect("a thread");
    let cpu_ns = || {
        let (sender, receiver) = std::sync::mpsc::channel();
        questions.try_send(sender).expect("room");
        receiver.recv_timeout(Duration::from_secs(5)).expect("the shard answers")
    };
    let mut client = TcpStream::connect(address).expect("a connection");
    client.set_nodelay(true).expect("a socket option");
    measure(&mut client, &cpu_ns, 2_000, 256, 1);
    for (requests, bytes, window) in [
        (100_000, 128, 1),
        (2_000_000, 256, 128),
        (100_000, 16 << 10, 1),
        (4_000, 1 << 20, 1),
        (100, 50 << 20, 1),
    ] {
        measure(&mut client, &cpu_ns, requests, bytes, window);
    }
    std::process::exit(0);
}
