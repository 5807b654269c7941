use uuid::Uuid;

use super::*;
use crate::config::layers::ConfigMap;
use crate::metadata::snapshot::{Departures, SnapshotBuilder};
use crate::metadata::state::{Broker, Departed};

fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.to_owned(), port }
}

fn snapshot(cluster_id: Option<&str>, brokers: &[(i32, Option<Endpoint>)]) -> Snapshot {
    let mut snapshot = SnapshotBuilder::new(NodeId(1), 1, ConfigMap::new()).current().clone();
    snapshot.cluster_id = cluster_id.map(Into::into);
    let broker = |(node, raft): &(i32, Option<Endpoint>)| {
        let broker = Broker {
            directory: Uuid::from_u128(*node as u128),
            incarnation: Uuid::from_u128(0),
            rack: None,
            listeners: BTreeMap::new(),
            raft: raft.clone(),
        };
        (NodeId(*node), broker)
    };
    snapshot.brokers = Arc::new(brokers.iter().map(broker).collect());
    snapshot
}

fn configured() -> BTreeMap<NodeId, Endpoint> {
    (1..=3).map(|node| (NodeId(node), endpoint("file", 5_000 + node as u16))).collect()
}

fn text(addresses: &BTreeMap<NodeId, Arc<str>>) -> Vec<(i32, &str)> {
    addresses.iter().map(|(node, address)| (node.0, &**address)).collect()
}

#[test]
fn the_metadata_know_better_than_the_file() {
    let known = known_addresses(NodeId(1), &configured(), &snapshot(None, &[]));
    assert_eq!(text(&known), [(2, "file:5002"), (3, "file:5003")]);
    let brokers =
        [(1, Some(endpoint("a", 1))), (2, None), (3, Some(endpoint("::1", 3))), (4, Some(endpoint("d", 4)))];
    let known = known_addresses(NodeId(1), &configured(), &snapshot(Some("c"), &brokers));
    assert_eq!(text(&known), [(2, "file:5002"), (3, "[::1]:3"), (4, "d:4")]);
}

#[test]
fn strangers_are_let_in_until_there_is_a_cluster() {
    let before = members(&configured(), &snapshot(None, &[]));
    assert!(before.admits_strangers);
    let after = members(&configured(), &snapshot(Some("c"), &[(2, None), (4, None)]));
    assert!(!after.admits_strangers);
    let directories: Vec<_> =
        after.nodes.iter().map(|(node, directory)| (*node, directory.is_some())).collect();
    assert_eq!(directories, [(1, false), (2, true), (3, false), (4, true)]);
}

/// Were a node cut off while it still belongs to the metadata group, that might lack the vote with which to let it go.
#[test]
fn who_was_removed_is_talked_to_until_it_is_out_of_the_metadata_group() {
    let directory = Uuid::from_u128(4);
    let departed = Departed { node: NodeId(4), directory, raft: Some(endpoint("d", 4)) };
    let mut snapshot = snapshot(Some("c"), &[(2, None)]);
    let leaving = [(NodeId(4), departed)].into();
    snapshot.departures = Arc::new(Departures { leaving, ..Departures::default() });
    let now = members(&configured(), &snapshot);
    assert_eq!((now.nodes[&4], now.removed.len()), (Some(directory), 0));
    assert_eq!(&*known_addresses(NodeId(1), &configured(), &snapshot)[&NodeId(4)], "d:4");

    let removed = [directory, Uuid::from_u128(3)].into();
    snapshot.departures = Arc::new(Departures { removed, ..Departures::default() });
    let now = members(&configured(), &snapshot);
    assert!(!now.nodes.contains_key(&4) && now.removed.contains(&directory));
    assert!(now.removed.contains(&Uuid::from_u128(3)), "though the file names it");
    assert!(!known_addresses(NodeId(1), &configured(), &snapshot).contains_key(&NodeId(4)));
}

#[test]
fn what_a_node_says_counts_until_it_is_not_there_or_the_metadata_say_something_new() {
    let address = |text: &str| -> Arc<str> { text.into() };
    let known = |of_two: &str| BTreeMap::from([(NodeId(2), address(of_two)), (NodeId(3), address("three"))]);
    let mut addresses = Addresses::default();
    addresses.learn(known("two"));
    addresses.hear(NodeId(2), address("moved"));
    addresses.hear(NodeId(9), address("new"));
    assert_eq!(text(&addresses.all()), [(2, "moved"), (3, "three"), (9, "new")]);
    addresses.learn(known("two"));
    assert_eq!(text(&addresses.all()), [(2, "moved"), (3, "three"), (9, "new")], "nothing new");
    addresses.learn(known("registered"));
    assert_eq!(text(&addresses.all()), [(2, "registered"), (3, "three"), (9, "new")]);
    assert!(addresses.unhear(NodeId(9)) && !addresses.unhear(NodeId(9)) && !addresses.unhear(NodeId(2)));
    assert_eq!(text(&addresses.all()), [(2, "registered"), (3, "three")]);
    for node in 100..1_000 {
        addresses.hear(NodeId(node), address("many"));
    }
    addresses.hear(NodeId(3), address("moved"));
    assert_eq!(addresses.all().len(), 2 + HEARD_MAX);
    assert_eq!(addresses.all()[&NodeId(3)], address("moved"), "a member is heard all the same");
}
