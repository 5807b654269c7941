//! Where replicas and leaders are to go: pure plans over a [`View`].
//!
//! A plan is a list of new replica lists, the preferred leader first. What is not named stays as it is. Replicas go to
//! the broker with the fewest, to another rack than those that stay where there is one.

use std::collections::{BTreeMap, BTreeSet};

use super::view::{Partition, View};

/// The new replicas of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub index: i32,
    /// Its replicas as they are to be, the preferred leader first.
    pub replicas: Vec<i32>,
}

impl Move {
    fn new(partition: &Partition, replicas: Vec<i32>) -> Self {
        Self { topic: partition.topic.clone(), index: partition.index, replicas }
    }
}

/// What a drain comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// What is moved.
    pub moves: Vec<Move>,
    /// Partitions for whose replica no other node has room: all of them have one already.
    pub stuck: Vec<String>,
}

/// How many replicas, and how many preferred leaders, each node has; kept up to date while planning.
struct Load {
    replicas: BTreeMap<i32, usize>,
    leaders: BTreeMap<i32, usize>,
    racks: BTreeMap<i32, Option<String>>,
}

impl Load {
    /// The load of `nodes`, by the replicas as they are to be.
    fn of(view: &View, nodes: &BTreeSet<i32>) -> Self {
        let none: BTreeMap<i32, usize> = nodes.iter().map(|node| (*node, 0)).collect();
        let rack = |node: &i32| view.nodes.get(node).and_then(|node| node.rack.clone());
        let racks = view.nodes.keys().map(|node| (*node, rack(node))).collect();
        let mut load = Self { replicas: none.clone(), leaders: none, racks };
        for partition in &view.partitions {
            load.count(&partition.target(), 1);
        }
        load
    }

    fn count(&mut self, replicas: &[i32], by: isize) {
        for (at, node) in replicas.iter().enumerate() {
            if let Some(count) = self.replicas.get_mut(node) {
                *count = count.saturating_add_signed(by);
            }
            if at == 0
                && let Some(count) = self.leaders.get_mut(node)
            {
                *count = count.saturating_add_signed(by);
            }
        }
    }

    fn rack(&self, node: i32) -> Option<&str> {
        self.racks.get(&node)?.as_deref()
    }

    /// Who takes a replica beside `others`: another rack first, then the fewest replicas.
    fn least_loaded(&self, others: &[i32]) -> Option<i32> {
        let taken: BTreeSet<Option<&str>> = others.iter().map(|node| self.rack(*node)).collect();
        let candidates = self.replicas.iter().filter(|(node, _)| !others.contains(node));
        let key = |node: &i32, count: usize| (taken.contains(&self.rack(*node)), count, *node);
        candidates.map(|(node, count)| key(node, *count)).min().map(|(_, _, node)| node)
    }

    /// These replicas with the one first that is preferred by the fewest.
    fn led_evenly(&self, mut replicas: Vec<i32>, may_lead: &[i32]) -> Vec<i32> {
        let count = |node: &i32| self.leaders.get(node).copied().unwrap_or(usize::MAX);
        let first = replicas.iter().copied().filter(|node| may_lead.contains(node));
        if let Some(first) = first.min_by_key(|node| (count(node), *node))
            && let Some(at) = replicas.iter().position(|node| *node == first)
        {
            replicas.remove(at);
            replicas.insert(0, first);
        }
        replicas
    }
}

/// Moves every replica off `node`. With `shrink`, partitions that find no other node go on with fewer replicas.
#[must_use]
pub fn drain(view: &View, node: i32, shrink: bool) -> Drain {
    let mut nodes = view.up();
    nodes.remove(&node);
    let mut load = Load::of(view, &nodes);
    let mut drain = Drain::default();
    for partition in view.partitions.iter().filter(|partition| partition.target().contains(&node)) {
        let before = partition.target();
        let stays: Vec<i32> = before.iter().copied().filter(|other| *other != node).collect();
        let mut after = stays.clone();
        match load.least_loaded(&stays) {
            Some(taker) => after.push(taker),
            None if shrink && !stays.is_empty() => {}
            None => {
                drain.stuck.push(partition.name());
                continue;
            }
        }
        load.count(&before, -1);
        if before.first() == Some(&node) {
            // One that has the records already leads next; the newcomer only if it is alone.
            let may_lead = if stays.is_empty() { after.clone() } else { stays };
            after = load.led_evenly(after, &may_lead);
        }
        load.count(&after, 1);
        drain.moves.push(Move::new(partition, after));
    }
    drain
}

/// Evens out replicas, then preferred leaders, over the nodes that are up. Empty when they are even: no two nodes differ by
/// more than one, as far as the racks allow.
#[must_use]
pub fn rebalance(view: &View) -> Vec<Move> {
    let nodes = view.up();
    let mut load = Load::of(view, &nodes);
    let mut placed: Vec<Vec<i32>> = view.partitions.iter().map(Partition::target).collect();
    even_replicas(&mut load, &mut placed);
    even_leaders(&mut load, &mut placed);
    let changed =
        view.partitions.iter().zip(placed).filter(|(partition, after)| partition.target() != *after);
    changed.map(|(partition, after)| Move::new(partition, after)).collect()
}

/// One replica at a time from the node with the most to the one with the fewest.
fn even_replicas(load: &mut Load, placed: &mut [Vec<i32>]) {
    let mut by_node: BTreeMap<i32, BTreeSet<usize>> = BTreeMap::new();
    for (at, replicas) in placed.iter().enumerate() {
        for node in replicas {
            by_node.entry(*node).or_default().insert(at);
        }
    }
    while let Some((from, to, at)) = next_replica(load, &by_node, placed) {
        load.count(&placed[at], -1);
        placed[at].iter_mut().filter(|node| **node == from).for_each(|node| *node = to);
        load.count(&placed[at], 1);
        by_node.entry(from).or_default().remove(&at);
        by_node.entry(to).or_default().insert(at);
    }
}

/// The pair of nodes that differ the most, and a partition that the first has and the second has not.
fn next_replica(
    load: &Load,
    by_node: &BTreeMap<i32, BTreeSet<usize>>,
    placed: &[Vec<i32>],
) -> Option<(i32, i32, usize)> {
    for (from, to) in uneven(&load.replicas) {
        let Some(held) = by_node.get(&from) else { continue };
        let fits = |at: &&usize| {
            let others = placed[**at].iter().filter(|node| **node != from);
            let same_rack = |node: &i32| load.rack(*node).is_some() && load.rack(*node) == load.rack(to);
            !placed[**at].contains(&to) && !others.clone().any(same_rack)
        };
        if let Some(at) = held.iter().find(fits) {
            return Some((from, to, *at));
        }
    }
    None
}

/// One preferred leader at a time from the node with the most to the one with the fewest that has a replica.
fn even_leaders(load: &mut Load, placed: &mut [Vec<i32>]) {
    while let Some((to, at)) = next_leader(load, placed) {
        load.count(&placed[at], -1);
        placed[at].retain(|node| *node != to);
        placed[at].insert(0, to);
        load.count(&placed[at], 1);
    }
}

fn next_leader(load: &Load, placed: &[Vec<i32>]) -> Option<(i32, usize)> {
    uneven(&load.leaders).into_iter().find_map(|(from, to)| {
        let fits = |replicas: &&Vec<i32>| replicas.first() == Some(&from) && replicas.contains(&to);
        let at = placed.iter().position(|replicas| fits(&replicas))?;
        Some((to, at))
    })
}

/// Pairs of nodes whose counts differ by more than one, those that differ the most first.
fn uneven(counts: &BTreeMap<i32, usize>) -> Vec<(i32, i32)> {
    let mut pairs = Vec::new();
    for (from, more) in counts {
        for (to, fewer) in counts {
            if *more > fewer + 1 {
                pairs.push((more - fewer, *from, *to));
            }
        }
    }
    pairs.sort_by_key(|(difference, from, to)| (usize::MAX - difference, *from, *to));
    pairs.into_iter().map(|(_, from, to)| (from, to)).collect()
}

/// Internal topics grow with the cluster to as many replicas as it has nodes, and no more than `most`.
#[must_use]
pub fn grow_internal(view: &View, most: usize) -> Vec<Move> {
    let nodes = view.up();
    let wanted = nodes.len().min(most);
    let mut load = Load::of(view, &nodes);
    let mut moves = Vec::new();
    for partition in view.partitions.iter().filter(|partition| partition.is_internal) {
        let before = partition.target();
        let mut after = before.clone();
        while after.len() < wanted
            && let Some(taker) = load.least_loaded(&after)
        {
            after.push(taker);
        }
        if after.len() > before.len() {
            load.count(&before, -1);
            load.count(&after, 1);
            moves.push(Move::new(partition, after));
        }
    }
    moves
}

/// The replicas of a partition with `node` preferred as leader; none when it has no replica there.
#[must_use]
pub fn preferred_first(partition: &Partition, node: i32) -> Option<Move> {
    let mut replicas = partition.target();
    let at = replicas.iter().position(|replica| *replica == node)?;
    replicas.remove(at);
    replicas.insert(0, node);
    Some(Move::new(partition, replicas))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
