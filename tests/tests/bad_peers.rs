//! Nodes that do not belong, and bytes on the raft port that no node sends: each gets one clear line or a closed connection, and
//! the cluster goes on as if nothing had been.

use chronik_tests::broker::{Broker, Options};
use chronik_tests::cluster::Cluster;
use chronik_tests::cluster::view::View;
use chronik_tests::lock;
use chronik_tests::process::{eventually, free_port};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A refusal is said at once, but for a doubled node id, which has to last for five seconds; all on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Magic number of a frame between nodes, with what could be the rest of a header behind it.
const BEGUN_FRAME: &[u8] = b"CHRK\x00\x01\x02\x03";

/// A node beside the cluster: its id, its own ports, and the peers that it believes in.
fn outsider(name: &str, id: i32, peers: &[(i32, String, String)]) -> Broker {
    Broker::prepare(name, outsider_options(id, free_port(), peers))
}

fn outsider_options(id: i32, raft_port: u16, peers: &[(i32, String, String)]) -> Options {
    let raft = format!("127.0.0.1:{raft_port}");
    let mut options = Options::default().argument("--node-id").argument(&id.to_string());
    options = options.argument("--raft").argument(&raft);
    for (peer, kafka, raft) in peers {
        options = options.argument("--peer").argument(&format!("{peer}={kafka},{raft}"));
    }
    if !peers.is_empty() {
        options = options.argument("--peer").argument(&format!("{id}=127.0.0.1:{},{raft}", free_port()));
    }
    options
}

/// The nodes of a cluster as a peer list has them.
fn listed(cluster: &Cluster, ids: &[i32]) -> Vec<(i32, String, String)> {
    ids.iter().map(|id| (*id, cluster.address(*id), cluster.raft_address(*id))).collect()
}

fn wait_for_line(broker: &Broker, text: &str) -> String {
    eventually(&format!("a line with '{text}'"), PATIENCE, || broker.log().contains(text));
    let log = broker.log();
    log.lines().find(|line| line.contains(text)).expect("it is there").to_owned()
}

#[test]
fn nodes_that_do_not_belong_are_refused_with_one_line_each() {
    let _heavy = lock::heavy();
    let mut cluster = Cluster::start("bad-peers");
    for expected in ["is of cluster", "is connected already", "was dialled"] {
        cluster.expect_in_log(expected);
    }

    // A node of another cluster, which is its own.
    let raft_port = free_port();
    let mut foreign = Broker::prepare("foreign", outsider_options(4, raft_port, &[]));
    foreign.restart();
    let id_now = || View::of(&foreign.address()).ok().and_then(|view| view.cluster_id);
    eventually("a cluster of its own", PATIENCE, || id_now().is_some());
    let id = id_now().expect("it has one");
    foreign.stop_cleanly();
    let data = foreign.data_dir();
    let options = outsider_options(4, raft_port, &listed(&cluster, &[1, 2, 3])).data_dir(&data);
    let mut foreign_again = Broker::prepare("foreign-again", options);
    foreign_again.spawn();
    let line = wait_for_line(&foreign_again, "is of cluster");
    assert!(line.contains(&id) && line.contains("correct the peer list"), "{line}");
    foreign_again.kill();

    // A second node 2, with a disk of its own.
    let mut double = outsider("double", 2, &listed(&cluster, &[1, 3]));
    double.spawn();
    let line = wait_for_line(&double, "is connected already");
    assert!(line.contains("give each node its own id"), "{line}");
    double.kill();

    // A node whose list has two addresses the wrong way round.
    let mut swapped = listed(&cluster, &[1, 2, 3]);
    let (one, two) = (swapped[0].2.clone(), swapped[1].2.clone());
    (swapped[0].2, swapped[1].2) = (two, one);
    let mut confused = outsider("confused", 4, &swapped);
    confused.spawn();
    let line = wait_for_line(&confused, "node 1 was dialled, node 2 answers");
    assert!(line.contains("correct the address in the peer list"), "{line}");
    confused.kill();

    for rogue in [&foreign_again, &double, &confused] {
        let count = rogue.log().lines().filter(|line| line.contains("link between nodes refused")).count();
        // Three nodes may refuse it, each for one reason, by its own words and by ours.
        assert!((1..=6).contains(&count), "refusals are not said again and again:\n{}", rogue.log_tail());
    }
    for id in cluster.ids() {
        let view = cluster.view(id).expect("an answer");
        assert!([1, 2, 3].iter().all(|id| view.brokers.contains_key(id)), "{view:?}");
        assert_ne!(cluster.log(id).lines().filter(|line| line.contains("ERROR")).count(), 0);
    }
}

#[test]
fn whatever_is_sent_to_the_raft_port_the_cluster_goes_on() {
    let _heavy = lock::heavy();
    let cluster = Cluster::start("bad-raft-bytes");
    let address = cluster.raft_address(1);
    let mut random = SmallRng::seed_from_u64(11);
    let mut noise = vec![0; 4096];
    let mut inputs = vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 64], vec![0xff; 100_000]];
    for length in [1, 63, 64, 65, 4096] {
        random.fill_bytes(&mut noise);
        let mut begun = BEGUN_FRAME.to_vec();
        begun.extend_from_slice(&noise[..length]);
        inputs.push(begun);
        inputs.push(noise[..length].to_vec());
    }
    let mut streams: Vec<TcpStream> = Vec::new();
    for input in &inputs {
        let mut stream = TcpStream::connect(&address).expect("the port is open");
        // It may be closed while it still speaks.
        let _ = stream.write_all(input);
        streams.push(stream);
    }
    for mut stream in streams {
        // Those who stall half-way are closed when their time is up.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        if stream.read_to_end(&mut rest).is_ok() {
            assert!(rest.is_empty(), "nothing is said to a stranger");
        }
    }
    for id in cluster.ids() {
        assert_eq!(cluster.view(id).expect("an answer").brokers.len(), 3);
    }
    let warnings =
        cluster.log(1).lines().filter(|line| line.contains("is a client using the raft port?")).count();
    assert_eq!(warnings, 1, "strangers are mentioned once");
}

#[test]
fn nodes_whose_lists_differ_do_not_form_a_cluster_and_say_so() {
    let _heavy = lock::heavy();
    let ports = [free_port(), free_port()];
    let raft = |node: usize| format!("127.0.0.1:{}", ports[node - 1]);
    let nowhere = || format!("127.0.0.1:{}", free_port());
    let mut first = Broker::prepare("lists-1", outsider_options(1, ports[0], &[(2, nowhere(), raft(2))]));
    let others = [(1, nowhere(), raft(1)), (3, nowhere(), nowhere())];
    let mut second = Broker::prepare("lists-2", outsider_options(2, ports[1], &others));
    first.spawn();
    second.spawn();
    for broker in [&first, &second] {
        let line = wait_for_line(broker, "the peer lists differ");
        assert!(line.contains("give all nodes the same [[peers]]"), "{line}");
        assert!(View::of(&broker.address()).unwrap().cluster_id.is_none(), "no cluster was made");
    }
}

#[test]
fn a_node_with_another_ones_data_or_port_does_not_start() {
    let _heavy = lock::heavy();
    let raft_port = free_port();
    let mut first = Broker::prepare("owner", outsider_options(1, raft_port, &[]));
    first.restart();
    let mut same_port = Broker::prepare("same-port", outsider_options(2, raft_port, &[]));
    same_port.spawn();
    let (status, said) = same_port.wait_for_refusal(PATIENCE);
    assert!(!status.success());
    let line = format!("listener raft: 127.0.0.1:{raft_port} is in use by another process");
    assert_eq!(said.lines().filter(|said| said.contains(&line)).count(), 1, "{said}");
    first.stop_cleanly();
    let options = outsider_options(2, free_port(), &[]).data_dir(&first.data_dir());
    let mut thief = Broker::prepare("thief", options);
    thief.spawn();
    let (status, said) = thief.wait_for_refusal(PATIENCE);
    assert!(!status.success());
    let line = "belongs to node 1, this is node 2";
    assert_eq!(said.lines().filter(|said| said.contains(line)).count(), 1, "{said}");
    first.restart();
}
