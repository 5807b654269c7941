//! Ports, limits, turns, and a shortage of descriptors (in a child process, whose limit it lowers).

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use super::*;
use crate::rt::mailbox::{Unbound, mailbox};

fn local(port: u16) -> ListenerConfig {
    ListenerConfig { name: "PLAINTEXT".to_owned(), address: SocketAddr::from(([127, 0, 0, 1], port)) }
}

fn mailboxes(count: usize) -> (Vec<Sender<Accepted>>, Vec<Unbound<Accepted>>) {
    (0..count).map(|_| mailbox(1_024).unwrap()).unzip()
}

fn take(unbound: &Unbound<Accepted>) -> Accepted {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(accepted) = unbound.try_recv() {
            return accepted;
        }
        assert!(Instant::now() < deadline, "no connection was handed over");
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_closed(mut client: TcpStream) -> bool {
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    matches!(client.read(&mut [0; 1]), Ok(0))
}

#[test]
fn sockets_go_to_the_shards_in_turn_with_their_listener() {
    let first = bind(&local(0)).unwrap();
    let second = bind(&ListenerConfig { name: "INTERNAL".to_owned(), ..local(0) }).unwrap();
    let (addresses, (senders, shards)) = ([first.address(), second.address()], mailboxes(2));
    let mut acceptor = Acceptor::start(vec![first, second], senders, ConnectionLimits::default()).unwrap();
    let mut clients = Vec::new();
    for round in 0..4 {
        clients.push(TcpStream::connect(addresses[round % 2]).unwrap());
        let accepted = take(&shards[round % 2]);
        assert_eq!(accepted.id, round as u64 + 1);
        assert_eq!(&*accepted.listener, ["PLAINTEXT", "INTERNAL"][round % 2]);
        assert_eq!(accepted.local, addresses[round % 2]);
        assert_eq!(accepted.peer, clients[round].local_addr().unwrap());
        assert!(SockRef::from(&accepted.socket).tcp_nodelay().unwrap());
        assert_eq!(acceptor.open_connections(), 1);
    }
    acceptor.stop();
    assert!(TcpStream::connect(addresses[0]).is_err(), "the port is still open after stop");
    bind(&local(addresses[0].port())).expect("the port can be taken again at once");
}

#[test]
fn limits_close_what_is_too_much_and_give_places_back() {
    for limits in [
        ConnectionLimits { total: 2, ..ConnectionLimits::default() },
        ConnectionLimits { per_ip: 2, ..ConnectionLimits::default() },
    ] {
        let listener = bind(&local(0)).unwrap();
        let (address, (senders, shards)) = (listener.address(), mailboxes(1));
        let acceptor = Acceptor::start(vec![listener], senders, limits).unwrap();
        let _clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
        let first = take(&shards[0]);
        let _second = take(&shards[0]);
        assert!(is_closed(TcpStream::connect(address).unwrap()));
        assert_eq!(acceptor.stats().refused.load(Ordering::Relaxed), 1);
        drop(first);
        let _third = TcpStream::connect(address).unwrap();
        take(&shards[0]);
    }
}

#[test]
fn a_port_in_use_is_refused_in_one_line() {
    let held = bind(&local(0)).unwrap();
    let error = bind(&local(held.address().port())).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&held.address().to_string()) && !message.contains('\n'), "{message}");
}

#[test]
fn an_address_of_another_machine_is_refused() {
    let config = ListenerConfig { address: "192.0.2.1:0".parse().unwrap(), ..local(0) };
    assert!(matches!(bind(&config), Err(BindError::NotHere { .. })));
}

#[test]
fn ipv6_listens_for_both_families() {
    let config = ListenerConfig { address: "[::]:0".parse().unwrap(), ..local(0) };
    let listener = match bind(&config) {
        Ok(listener) => listener,
        // A machine without IPv6 has nothing to test.
        Err(BindError::Other { .. } | BindError::NotHere { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let port = listener.address().port();
    let (senders, shards) = mailboxes(1);
    let _acceptor = Acceptor::start(vec![listener], senders, ConnectionLimits::default()).unwrap();
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    take(&shards[0]);
}

const CHILD: &str = "CHRONIK_TEST_ACCEPTOR_CHILD";

/// Runs in a child, because the limit of descriptors is the process's.
#[test]
fn a_shortage_of_descriptors_passes() {
    if std::env::var_os(CHILD).is_none() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acceptor::tests::a_shortage_of_descriptors_passes"])
            .env(CHILD, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let listener = bind(&local(0)).unwrap();
    let (address, (senders, shards)) = (listener.address(), mailboxes(1));
    let _acceptor = Acceptor::start(vec![listener], senders, ConnectionLimits::default()).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let open = take(&shards[0]);
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    // The client's own socket is made first; then nothing is left for the accepted one.
    let waiting = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let next = rustix::io::dup(&waiting).unwrap();
    let lowest_free = std::os::fd::AsRawFd::as_raw_fd(&next) as u64;
    drop(next);
    setrlimit(Resource::Nofile, Rlimit { current: Some(lowest_free), maximum: before.maximum }).unwrap();
    waiting.connect(&address.into()).unwrap();
    thread::sleep(BACK_OFF * 3);
    assert!(shards[0].try_recv().is_none(), "accepted without a descriptor");
    setrlimit(Resource::Nofile, before).unwrap();
    take(&shards[0]);
    drop((client, open));
}
