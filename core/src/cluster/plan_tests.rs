//! Tests of the plans: what they move, what they leave alone, that they end even.

use proptest::prelude::*;

use super::*;
use crate::cluster::view::Node;

/// Nodes 1 to `racks.len()`, up, in these racks.
pub(in crate::cluster) fn view_of(racks: &[Option<&str>], partitions: &[&[i32]]) -> View {
    let mut view = View::default();
    for (at, rack) in racks.iter().enumerate() {
        let node = Node { rack: rack.map(str::to_owned), is_up: true, ..Node::default() };
        view.nodes.insert(i32::try_from(at).unwrap() + 1, node);
    }
    for (index, replicas) in partitions.iter().enumerate() {
        view.partitions.push(Partition {
            topic: "t".to_owned(),
            index: i32::try_from(index).unwrap(),
            leader: replicas.first().copied(),
            replicas: replicas.to_vec(),
            in_sync: replicas.to_vec(),
            ..Partition::default()
        });
    }
    view
}

/// The view once the moves are done.
fn after(view: &View, moves: &[Move]) -> View {
    let mut view = view.clone();
    for one in moves {
        let partition =
            view.partitions.iter_mut().find(|p| p.index == one.index && p.topic == one.topic).unwrap();
        partition.replicas.clone_from(&one.replicas);
        partition.leader = one.replicas.first().copied();
    }
    view
}

fn spread(view: &View) -> (usize, usize) {
    let counts: Vec<(usize, usize)> = view.up().into_iter().map(|node| view.counts(node)).collect();
    let of = |figure: fn(&(usize, usize)) -> usize| {
        let all = || counts.iter().map(figure);
        all().max().unwrap_or(0) - all().min().unwrap_or(0)
    };
    (of(|counts| counts.0), of(|counts| counts.1))
}

#[test]
fn a_drained_node_keeps_nothing_and_a_replica_with_the_records_leads_next() {
    let view = view_of(&[None; 4], &[&[1, 2, 3], &[2, 3, 4], &[3, 1, 4]]);
    let drain = drain(&view, 1, false);
    assert_eq!(drain.stuck, Vec::<String>::new());
    assert_eq!(drain.moves.len(), 2, "the second partition has no replica on node 1");
    assert_eq!(drain.moves[0].replicas, [2, 3, 4].map(i32::from), "led by one that was there before");
    let moved = after(&view, &drain.moves);
    assert_eq!(moved.counts(1), (0, 0));
    assert!(moved.partitions.iter().all(|partition| partition.replicas.len() == 3));
}

#[test]
fn what_has_no_other_node_is_told_unless_fewer_replicas_will_do() {
    let view = view_of(&[None; 3], &[&[1, 2, 3], &[2, 3], &[1]]);
    let told = drain(&view, 1, false);
    assert_eq!(told.stuck, ["t-0"], "t-2 goes to another node");
    assert_eq!(told.moves.len(), 1);
    let shrunk = drain(&view, 1, true);
    assert!(shrunk.stuck.is_empty());
    assert_eq!(after(&view, &shrunk.moves).counts(1), (0, 0));
    let alone = view_of(&[None], &[&[1]]);
    assert_eq!(drain(&alone, 1, true).stuck, ["t-0"], "never to no replica at all");
}

#[test]
fn a_dead_node_takes_nothing_and_can_be_drained() {
    let mut view = view_of(&[None; 4], &[&[1, 2, 3], &[2, 3, 1]]);
    view.nodes.get_mut(&4).unwrap().is_up = false;
    assert_eq!(drain(&view, 1, false).stuck, ["t-0", "t-1"]);
    view.nodes.get_mut(&4).unwrap().is_up = true;
    view.nodes.get_mut(&1).unwrap().is_up = false;
    let moves = drain(&view, 1, false).moves;
    assert!(moves.iter().all(|one| !one.replicas.contains(&1) && one.replicas.contains(&4)), "{moves:?}");
}

#[test]
fn a_replica_goes_to_a_rack_without_one() {
    let racks = [Some("a"), Some("b"), Some("b"), Some("c")];
    let view = view_of(&racks, &[&[1, 2], &[4, 2], &[4, 2]]);
    let moves = drain(&view, 1, false).moves;
    assert_eq!(moves, [Move { topic: "t".into(), index: 0, replicas: vec![2, 4] }]);
}

#[test]
fn a_fresh_node_gets_its_share_of_replicas_and_leaders() {
    let partitions: Vec<&[i32]> = (0..12).map(|_| &[1, 2][..]).collect();
    let view = view_of(&[None; 3], &partitions);
    let moves = rebalance(&view);
    let moved = after(&view, &moves);
    assert_eq!(moved.counts(3), (4, 8));
    assert!(spread(&moved).0 <= 1 && spread(&moved).1 <= 1, "{:?}", spread(&moved));
    assert_eq!(rebalance(&moved), [], "what is even stays");
}

#[test]
fn moves_in_progress_count_as_done() {
    let mut view = view_of(&[None; 2], &[&[1, 2], &[1]]);
    view.partitions[0].adding = vec![2];
    view.partitions[0].removing = vec![1];
    assert_eq!(view.partitions[0].target(), [2]);
    assert_eq!(rebalance(&view), []);
}

#[test]
fn internal_topics_grow_and_others_do_not() {
    let mut view = view_of(&[None; 3], &[&[1], &[1]]);
    view.partitions[0].is_internal = true;
    let moves = grow_internal(&view, 3);
    assert_eq!(moves.len(), 1);
    assert_eq!(moves[0].replicas, [1, 2, 3], "its leader stays first");
    assert_eq!(grow_internal(&after(&view, &moves), 3), []);
    let five = view_of(&[None; 5], &[&[1, 2, 3]]);
    assert_eq!(grow_internal(&five, 3), []);
}

#[test]
fn a_leader_moves_only_to_a_replica() {
    let view = view_of(&[None; 3], &[&[1, 2]]);
    assert_eq!(preferred_first(&view.partitions[0], 2).unwrap().replicas, [2, 1]);
    assert_eq!(preferred_first(&view.partitions[0], 3), None);
}

proptest! {
    /// Whatever the placement: replicas end even, none is lost or doubled, and a second look finds nothing to do.
    #[test]
    fn any_placement_ends_even(
        node_count in 1..6usize,
        seeds in prop::collection::vec((1..4usize, 0..720usize), 0..40),
    ) {
        let place = |(factor, seed): &(usize, usize)| {
            let mut nodes: Vec<i32> = (1..=node_count as i32).collect();
            let mut chosen = Vec::new();
            let mut seed = *seed;
            while chosen.len() < *factor && !nodes.is_empty() {
                chosen.push(nodes.remove(seed % nodes.len()));
                seed /= 3;
            }
            chosen
        };
        let placed: Vec<Vec<i32>> = seeds.iter().map(place).collect();
        let placed: Vec<&[i32]> = placed.iter().map(Vec::as_slice).collect();
        let view = view_of(&vec![None; node_count], &placed);
        let moves = rebalance(&view);
        let moved = after(&view, &moves);
        prop_assert!(spread(&moved).1 <= 1, "{:?}", spread(&moved));
        for (before, after) in view.partitions.iter().zip(&moved.partitions) {
            let distinct: BTreeSet<i32> = after.replicas.iter().copied().collect();
            prop_assert_eq!(distinct.len(), before.replicas.len());
        }
        prop_assert_eq!(rebalance(&moved), vec![]);
    }
}
