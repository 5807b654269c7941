//! Connections that move between the shards of a real server: nothing is lost, out of order, counted twice or left open.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;

use super::ConnectionConfig;
use super::tests::{Server, assert_closed, kind, receive, response, send};

/// Connections on their way to a shard, where a test does not care.
const MOVED_MAX: usize = 64;

fn two_shards() -> Server {
    Server::start_on(2, MOVED_MAX, ConnectionConfig::default())
}

/// Sends a request and gives its answer.
fn ask(client: &mut TcpStream, payload: &[u8]) -> Vec<u8> {
    send(client, payload);
    receive(client)
}

/// The shard that a connection is on.
fn shard_of(client: &mut TcpStream) -> u8 {
    ask(client, &[kind::WHERE])[0]
}

fn wire(requests: &[&[u8]]) -> Vec<u8> {
    requests.iter().flat_map(|request| response(request)).collect()
}

/// The server has no connection left, and neither has its limit.
fn assert_nothing_left(server: &Server) {
    server.wait_for_on(0, "gone", |stats| stats.open == 0 && stats.request_bytes == 0);
    server.wait_for_on(1, "gone", |stats| stats.open == 0 && stats.request_bytes == 0);
    server.wait_until("the permits are back", || server.acceptor.open_connections() == 0);
}

#[test]
fn what_was_received_moves_along_and_answers_stay_in_order() {
    let server = two_shards();
    let mut client = server.client();
    let long: Bytes = [b"e".repeat(40_000), vec![1]].concat().into();
    let requests: [&[u8]; 9] = [
        &[kind::WHERE],
        &[kind::LATER, 40],
        &[kind::LATER, 10],
        &[kind::MOVE, 1],
        &[kind::WHERE],
        b"e after it",
        &[kind::LATER, 5],
        &[kind::WHERE],
        &long,
    ];
    let wire = wire(&requests);
    let moved_at = 4 * 4 + 1 + 2 + 2 + 2;
    // Cut before, in and after the prefix of what follows the move, between frames, and within the long one.
    let splits = [0, 1, 4, 5, 6, 9, 20, 30, 32, 35, 60, 10_000, 39_000].map(|after| moved_at + after);
    for (round, split) in splits.into_iter().enumerate() {
        client.write_all(&wire[..split]).unwrap();
        // Where the socket is when the rest arrives is up to the machine: all of it must come through.
        std::thread::sleep(Duration::from_millis(round as u64 * 7 % 60));
        client.write_all(&wire[split..]).unwrap();
        let got: Vec<_> = (0..requests.len()).map(|_| receive(&mut client)).collect();
        let state = |shard: u8, requests: u8, arrivals: u8| {
            vec![shard, (round as u8).wrapping_mul(10).wrapping_add(requests), arrivals, 0]
        };
        let arrivals = 2 * round as u8;
        assert_eq!(got[0], state(0, 1, arrivals), "split at {split}");
        assert_eq!(got[4], state(1, 5, arrivals + 1), "split at {split}");
        assert_eq!(got[7], state(1, 8, arrivals + 1), "split at {split}");
        for place in [1, 2, 3, 5, 6, 8] {
            assert!(got[place] == requests[place], "request {place}, split at {split}");
        }
        assert_eq!(ask(&mut client, &[kind::MOVE, 0]), [kind::MOVE, 0]);
        assert_eq!(server.acceptor.open_connections(), 1);
    }
    assert_eq!(shard_of(&mut client), 0);
    let rounds = splits.len() as u64;
    assert_eq!((server.stats_of(0).arrivals, server.stats_of(1).arrivals), (rounds, rounds));
    assert_eq!((server.stats_of(0).open, server.stats_of(1).open), (1, 0));
    drop(client);
    assert_eq!(server.reason(), "closed by the client");
    assert_nothing_left(&server);
}

#[test]
fn a_move_waits_for_what_is_under_way_and_starts_nothing_more() {
    let server = two_shards();
    let (mut client, mut other) = (server.client(), server.client());
    let requests: [&[u8]; 4] = [&[kind::DEFER, 1], &[kind::DEFER, 2], &[kind::MOVE, 1], &[kind::DEFER, 3]];
    client.write_all(&wire(&requests)).unwrap();
    server.wait_for("three started", |stats| stats.requests == 3);
    assert_eq!(ask(&mut other, b"e others go on"), b"e others go on");
    assert_eq!((server.stats_of(0).requests, server.stats_of(0).open, server.stats_of(1).open), (4, 2, 0));
    ask(&mut other, &[kind::RELEASE]);
    assert_eq!(receive(&mut client), [kind::DEFER, 1]);
    assert_eq!(receive(&mut client), [kind::DEFER, 2]);
    assert_eq!(receive(&mut client), [kind::MOVE, 1]);
    server.wait_for_on(1, "the fourth has started there", |stats| stats.requests == 1);
    assert_eq!(ask(&mut client, &[kind::RELEASE]), [kind::DEFER, 3]);
    assert_eq!(receive(&mut client), [kind::RELEASE]);
    assert_eq!((shard_of(&mut client), shard_of(&mut other)), (1, 0));
}

#[test]
fn a_request_without_an_answer_moves_too() {
    let server = two_shards();
    let mut client = server.client();
    for shard in [1, 0, 1] {
        send(&mut client, &[kind::NO_REPLY]);
        send(&mut client, &[kind::MOVE, shard, kind::MOVE_SILENT]);
        assert_eq!(shard_of(&mut client), shard);
    }
}

#[test]
fn a_move_that_takes_too_long_is_given_up() {
    let server = two_shards();
    let (mut client, mut other) = (server.client(), server.client());
    let requests: [&[u8]; 3] = [&[kind::DEFER, 1], &[kind::MOVE, 1], &[kind::DEFER, 2]];
    client.write_all(&wire(&requests)).unwrap();
    server.wait_for("it stays, and goes on", |stats| stats.requests == 3);
    ask(&mut other, &[kind::RELEASE]);
    for request in requests {
        assert_eq!(receive(&mut client), request);
    }
    assert_eq!(ask(&mut client, &[kind::WHERE]), [0, 4, 0, 0]);
    ask(&mut client, &[kind::MOVE, 1]);
    assert_eq!(shard_of(&mut client), 1, "the next time it moves");
}

#[test]
fn a_full_mailbox_leaves_a_connection_where_it_is() {
    let server = Server::start_on(2, 1, ConnectionConfig::default());
    let (mut first, mut second) = (server.client(), server.client());
    let unblock = server.block(1);
    ask(&mut first, &[kind::MOVE, 1]);
    server.wait_for("the first has left", |stats| stats.open == 1);
    let long = [vec![kind::ECHO, 1], vec![7; 30_000]].concat();
    let requests: [&[u8]; 4] = [&[kind::MOVE, 1], b"e next", &long, &[kind::WHERE]];
    let bytes = wire(&requests);
    let split = bytes.len() - 10_000;
    second.write_all(&bytes[..split]).unwrap();
    assert_eq!(receive(&mut second), requests[0]);
    assert_eq!(receive(&mut second), requests[1]);
    second.write_all(&bytes[split..]).unwrap();
    assert!(receive(&mut second) == requests[2]);
    assert_eq!(receive(&mut second), [0, 4, 0, 1], "it could not leave, and goes on with what it had");
    drop(unblock);
    assert_eq!(ask(&mut first, &[kind::WHERE]), [1, 2, 1, 0]);
    ask(&mut second, &[kind::MOVE, 1]);
    assert_eq!(ask(&mut second, &[kind::WHERE]), [1, 6, 1, 1]);
}

#[test]
fn a_shard_that_does_not_exist_or_has_ended_takes_nothing() {
    let server = two_shards();
    let mut client = server.client();
    ask(&mut client, &[kind::MOVE, 9]);
    assert_eq!(shard_of(&mut client), 0);
    assert!(server.start_drain_of(1, Duration::from_secs(1)).recv().unwrap());
    server.wait_until("the other shard has ended", || server.ways[1].is_closed());
    ask(&mut client, &[kind::MOVE, 1]);
    assert_eq!(shard_of(&mut client), 0);
    assert_eq!(server.acceptor.open_connections(), 1);
}

#[test]
fn a_shutdown_while_a_connection_waits_to_move_answers_what_is_under_way() {
    let server = two_shards();
    let mut client = server.client();
    let requests: [&[u8]; 3] = [&[kind::HELD, 1], &[kind::MOVE, 1], b"e not begun"];
    client.write_all(&wire(&requests)).unwrap();
    server.wait_for("under way", |stats| stats.requests == 2);
    let drained = server.start_drain(Duration::from_secs(10));
    server.wait_until("it drains", || server.has_taken_commands(0));
    server.let_go();
    assert_eq!(receive(&mut client), requests[0]);
    assert_eq!(receive(&mut client), requests[1]);
    assert_closed(&mut client);
    assert!(drained.recv_timeout(Duration::from_secs(20)).unwrap());
    assert_eq!(server.reason(), "the server shuts down");
    server.wait_until("the permit is back", || server.acceptor.open_connections() == 0);
    assert_eq!(server.stats_of(1).arrivals, 0);
}

#[test]
fn a_connection_that_comes_to_a_shard_that_drains_is_closed() {
    let server = two_shards();
    let (mut stuck, mut late) = (server.client(), server.client());
    ask(&mut stuck, &[kind::MOVE, 1]);
    send(&mut stuck, &[kind::HELD, 1]);
    server.wait_for_on(1, "under way", |stats| stats.requests == 1);
    // The stuck request keeps the shard draining until it is let go.
    let drained = server.start_drain_of(1, Duration::from_secs(15));
    server.wait_until("it drains", || server.has_taken_commands(1));
    // The answer leaves before the connection does; what comes after it is not begun there.
    late.write_all(&wire(&[&[kind::MOVE, 1], b"e not begun"])).unwrap();
    assert_eq!(receive(&mut late), [kind::MOVE, 1]);
    assert_closed(&mut late);
    server.let_go();
    assert_eq!(receive(&mut stuck), [kind::HELD, 1]);
    assert_closed(&mut stuck);
    assert!(drained.recv_timeout(Duration::from_secs(20)).unwrap());
    server.wait_until("the permits are back", || server.acceptor.open_connections() == 0);
    assert_eq!(
        (server.reason(), server.reason()),
        ("the server shuts down".into(), "the server shuts down".into())
    );
}

#[test]
fn idle_connections_and_half_frames_are_closed_where_they_have_moved() {
    let config = ConnectionConfig { idle_ms: 2_000, ..ConnectionConfig::default() };
    let server = Server::start_on(2, MOVED_MAX, config);
    let (mut idle, mut half) = (server.client(), server.client());
    let bytes = wire(&[&[kind::MOVE, 1], b"e the second half never comes"]);
    half.write_all(&bytes[..bytes.len() - 10]).unwrap();
    receive(&mut half);
    ask(&mut idle, &[kind::MOVE, 1]);
    assert_closed(&mut idle);
    assert_closed(&mut half);
    assert_eq!((server.reason(), server.reason()), ("idle for too long".into(), "idle for too long".into()));
    assert_eq!(server.stats_of(1).arrivals, 2);
    assert_nothing_left(&server);
}

#[test]
fn a_muted_connection_is_still_muted_where_it_has_moved() {
    let server = two_shards();
    let mut client = server.client();
    // From before the first request, as this thread may see its answer late; the server counts whole milliseconds.
    let asked = Instant::now();
    client.write_all(&wire(&[&[kind::MOVE, 1, kind::MOVE_MUTE], &[kind::WHERE]])).unwrap();
    receive(&mut client);
    assert_eq!(receive(&mut client)[0], 1);
    assert!(asked.elapsed() >= Duration::from_millis(99));
}

#[test]
fn a_client_that_goes_while_its_connection_moves_leaves_nothing_behind() {
    let server = two_shards();
    let mut other = server.client();
    for round in 0..20 {
        let mut client = server.client();
        client.write_all(&wire(&[&[kind::DEFER, 1], &[kind::MOVE, 1], b"e"])).unwrap();
        server.wait_for("both have started", |stats| stats.requests == round * 3 + 2);
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        ask(&mut other, &[kind::RELEASE]);
    }
    drop(other);
    assert_nothing_left(&server);
}

#[test]
fn many_connections_move_to_and_fro_and_nothing_is_lost() {
    let server = two_shards();
    let clients: Vec<_> = (0..8u8)
        .map(|number| {
            let mut client = server.client();
            std::thread::spawn(move || {
                let mut reader = client.try_clone().unwrap();
                let requests: Vec<Vec<u8>> = (0..2_000u32)
                    .map(|request| {
                        let shard = (request / 5 % 2) as u8;
                        let kind = if request % 5 == 4 { kind::MOVE } else { kind::ECHO };
                        [vec![kind, shard, number], request.to_be_bytes().to_vec()].concat()
                    })
                    .collect();
                let bytes: Vec<u8> = requests.iter().flat_map(|request| response(request)).collect();
                let writing = std::thread::spawn(move || {
                    // Pieces that have nothing to do with frames.
                    bytes.chunks(997).for_each(|piece| client.write_all(piece).unwrap());
                });
                for request in requests {
                    assert_eq!(receive(&mut reader), request);
                }
                writing.join().unwrap();
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let arrivals = server.stats_of(0).arrivals + server.stats_of(1).arrivals;
    assert!(arrivals >= 8 * 100, "{arrivals} arrivals");
    assert_nothing_left(&server);
}
