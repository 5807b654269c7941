//! Who forms, who joins, who waits; and that no order of events makes two clusters.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn directory(of: u128) -> Uuid {
    Uuid::from_u128(of)
}

fn nodes(of: &[i32]) -> Vec<NodeId> {
    of.iter().copied().map(NodeId).collect()
}

fn fresh(node: i32, peers: &[i32]) -> Bootstrap {
    Bootstrap::new(NodeId(node), directory(node as u128), nodes(peers))
}

fn founders(of: &[(i32, u128)]) -> Vec<MetadataReplica> {
    let founder = |(peer, (node, dir)): (u64, &(i32, u128))| MetadataReplica {
        node: NodeId(*node),
        peer: PeerId(peer),
        directory: directory(*dir),
    };
    (1..).zip(of).map(founder).collect()
}

fn member(node: i32, replicas: MetadataReplicas, leader: Option<i32>) -> Hello {
    let standing = Standing::Member {
        cluster_id: Some("c".to_owned()),
        replicas,
        leader: leader.map(NodeId),
        addresses: Vec::new(),
    };
    Hello { node: NodeId(node), directory: directory(node as u128), standing }
}

/// The greeting of a fresh node that knows all of its list.
fn knowing(node: i32, peers: &[i32]) -> Hello {
    let mut own = fresh(node, peers);
    let others: Vec<NodeId> = own.others().into_iter().collect();
    for other in others {
        own.heard(other, fresh(other.0, peers).hello(0), 0);
    }
    own.hello(0)
}

fn hears(bootstrap: &mut Bootstrap, hello: &Hello, now_ms: u64) {
    bootstrap.heard(hello.node, hello.clone(), now_ms);
}

#[test]
fn all_fresh_and_of_one_mind_form_the_same_cluster() {
    let expected = founders(&[(1, 1), (2, 2), (3, 3)]);
    for node in 1..=3 {
        let mut own = fresh(node, &[3, 1, 2]);
        for other in (1..=3).filter(|other| *other != node) {
            assert!(matches!(own.decide(0), Decision::Wait(_)), "not without node {other}");
            // A list that does not name the node itself means the same.
            let others: Vec<i32> = (1..=3).filter(|peer| *peer != other).collect();
            // That they are there is not enough: each must know the others as this node does.
            let mut half = own.clone();
            hears(&mut half, &fresh(other, &others).hello(0), 0);
            assert!(matches!(half.decide(0), Decision::Wait(_)));
            hears(&mut own, &knowing(other, &[1, 2, 3]), 0);
        }
        let peer = PeerId(node as u64);
        assert_eq!(own.decide(0), Decision::Form { peer, founders: expected.clone() });
    }
}

#[test]
fn lists_that_differ_form_nothing() {
    let mut own = fresh(1, &[1, 2]);
    hears(&mut own, &fresh(2, &[1, 2, 3]).hello(0), 0);
    let Decision::Obstructed(why) = own.decide(0) else { panic!("people have to mend it") };
    assert!(why.contains("[1, 2, 3]") && why.contains("[1, 2]"), "{why}");
    let mut copied = fresh(1, &[1, 2]);
    hears(&mut copied, &Hello { directory: directory(1), ..knowing(2, &[1, 2]) }, 0);
    assert!(matches!(copied.decide(0), Decision::Obstructed(_)), "a copied data directory");
}

#[test]
fn what_was_heard_long_ago_or_of_a_lost_node_does_not_count() {
    let mut own = fresh(1, &[1, 2]);
    hears(&mut own, &knowing(2, &[1, 2]), 0);
    assert!(matches!(own.decide(HEARD_LATE_MS), Decision::Form { .. }));
    assert!(matches!(own.decide(HEARD_LATE_MS + 1), Decision::Wait(_)));
    own.lost(NodeId(2));
    assert!(matches!(own.decide(0), Decision::Wait(_)));
    own.heard(NodeId(2), fresh(3, &[1, 2]).hello(0), 0);
    assert!(matches!(own.decide(0), Decision::Wait(_)), "node 2 does not speak for node 3");
}

#[test]
fn a_founder_that_comes_late_takes_its_place_and_one_with_another_disk_does_not() {
    let formed = MetadataReplicas { replicas: founders(&[(1, 1), (2, 2), (3, 3)]), ..Default::default() };
    let mut late = fresh(3, &[1, 2, 3]);
    hears(&mut late, &member(1, formed.clone(), Some(2)), 0);
    let expected = Decision::Form { peer: PeerId(3), founders: formed.replicas.clone() };
    assert_eq!(late.decide(0), expected, "one that was there when it formed is enough");
    let mut wiped = Bootstrap::new(NodeId(3), directory(33), nodes(&[1, 2, 3]));
    hears(&mut wiped, &member(1, formed.clone(), Some(2)), 0);
    assert_eq!(wiped.decide(0), Decision::Register { through: NodeId(1) }, "the leader is not heard of");
    hears(&mut wiped, &member(2, formed.clone(), Some(2)), 0);
    assert_eq!(wiped.decide(0), Decision::Register { through: NodeId(2) });
    // Once registered it is a joiner, without a vote.
    let new = MetadataReplica { node: NodeId(3), peer: PeerId(9), directory: directory(33) };
    let mut joining = formed.clone();
    joining.replicas = vec![formed.replicas[0], formed.replicas[1], new, formed.replicas[2]];
    joining.adding = vec![new];
    joining.removing = vec![formed.replicas[2]];
    hears(&mut wiped, &member(2, joining.clone(), Some(2)), 0);
    assert_eq!(wiped.decide(0), Decision::Join { peer: PeerId(9), replicas: joining });
}

#[test]
fn a_cluster_that_is_there_is_joined_whatever_the_lists_say() {
    let formed = MetadataReplicas { replicas: founders(&[(1, 1)]), ..Default::default() };
    let mut own = fresh(2, &[1, 2, 3]);
    hears(&mut own, &fresh(3, &[3]).hello(0), 0);
    hears(&mut own, &member(1, formed.clone(), Some(1)), 0);
    assert_eq!(own.decide(0), Decision::Register { through: NodeId(1) });
    let mut other = member(3, formed, Some(3));
    if let Standing::Member { cluster_id, .. } = &mut other.standing {
        *cluster_id = Some("d".to_owned());
    }
    hears(&mut own, &other, 0);
    assert!(matches!(own.decide(0), Decision::Obstructed(_)), "nodes of two clusters");
}

/// It joined after the others had formed, and leads by now. A member that does not lead could only name it, again and again.
#[test]
fn a_leader_that_the_list_does_not_name_is_asked_and_registered_through() {
    let replicas = MetadataReplicas { replicas: founders(&[(1, 1), (2, 2), (4, 4)]), ..Default::default() };
    let mut own = Bootstrap::new(NodeId(2), directory(22), nodes(&[1, 2, 3]));
    hears(&mut own, &member(1, replicas.clone(), Some(4)), 0);
    assert!(own.others().contains(&NodeId(4)));
    assert_eq!(own.decide(0), Decision::Register { through: NodeId(1) }, "not heard of yet");
    hears(&mut own, &member(4, replicas, Some(4)), 0);
    assert_eq!(own.decide(0), Decision::Register { through: NodeId(4) });
}

/// What a node of the simulation has.
enum Node {
    Fresh(Bootstrap),
    Formed(Vec<MetadataReplica>),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Greetings in any order, lost or late; disks exchanged on the way.
    #[test]
    fn there_are_never_two_clusters(events in prop::collection::vec((0u8..8, 0usize..3, 0usize..3), 0..80)) {
        let ids = [1, 2, 3];
        let mut wipes = 0u128;
        let mut world: Vec<Node> = ids.iter().map(|id| Node::Fresh(fresh(*id, &ids))).collect();
        let mut dirs: Vec<u128> = vec![1, 2, 3];
        // Which directory that is still there has promised itself to which cluster.
        let mut promised: BTreeMap<u128, Vec<MetadataReplica>> = BTreeMap::new();
        // Clusters that a majority has formed: they may have acknowledged something.
        let mut complete: Vec<Vec<MetadataReplica>> = Vec::new();
        let mut gone: Vec<u128> = Vec::new();
        for (kind, from, to) in events {
            match kind {
                0 if wipes < 3 => {
                    wipes += 1;
                    promised.remove(&dirs[to]);
                    gone.push(dirs[to]);
                    dirs[to] = 100 + wipes;
                    let own = Bootstrap::new(NodeId(ids[to]), directory(dirs[to]), nodes(&ids));
                    world[to] = Node::Fresh(own);
                    for node in &mut world {
                        if let Node::Fresh(node) = node {
                            node.lost(NodeId(ids[to]));
                        }
                    }
                }
                _ if from != to => {
                    let hello = match &world[from] {
                        Node::Fresh(node) => node.hello(0),
                        Node::Formed(founders) => {
                            let replicas = MetadataReplicas { replicas: founders.clone(), ..Default::default() };
                            Hello { directory: directory(dirs[from]), ..member(ids[from], replicas, None) }
                        }
                    };
                    if let Node::Fresh(node) = &mut world[to] {
                        hears(node, &hello, 0);
                        if let Decision::Form { founders, .. } = node.decide(0) {
                            promised.insert(dirs[to], founders.clone());
                            world[to] = Node::Formed(founders);
                        }
                    }
                }
                _ => {}
            }
            let formed_by = |of: &[MetadataReplica]| promised.values().filter(|cluster| *cluster == of).count();
            let now: Vec<Vec<MetadataReplica>> = promised.values().filter(|c| formed_by(c) >= 2).cloned().collect();
            complete.extend(now.iter().filter(|c| !complete.contains(c)).cloned().collect::<Vec<_>>());
            for old in &complete {
                // While a majority of its founders keep their disks, no other cluster comes about.
                let lost = old.iter().filter(|founder| gone.contains(&founder.directory.as_u128())).count();
                prop_assert!(lost >= 2 || now.iter().all(|other| other == old), "{old:?} and {now:?}");
            }
        }
    }
}
