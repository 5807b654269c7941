//! Which brokers hold a new partition.
//!
//! Pure and deterministic: the seed is the partition's group id, so that partitions made one after the other start at one
//! broker after the other, whether they belong to one topic or to three thousand. Replicas go to different racks while
//! there are racks left.

use std::collections::BTreeSet;

use chronik_wal::types::NodeId;

/// A broker that may get replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The broker.
    pub node: NodeId,
    /// Its rack.
    pub rack: Option<String>,
}

/// The order in which partitions go around the brokers: one of each rack in turn, so that neighbours differ in rack.
#[must_use]
pub fn ring(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| (candidate.rack.as_deref(), candidate.node));
    let mut within_rack = 0;
    let mut keyed = Vec::with_capacity(sorted.len());
    for (at, candidate) in sorted.iter().enumerate() {
        let same_rack = at > 0 && sorted[at - 1].rack == candidate.rack;
        within_rack = if same_rack { within_rack + 1 } else { 0 };
        keyed.push((within_rack, *candidate));
    }
    keyed.sort_by_key(|(turn, candidate)| (*turn, candidate.rack.as_deref(), candidate.node));
    keyed.into_iter().map(|(_, candidate)| candidate).collect()
}

/// The replicas of the partition with this seed, the preferred leader first. `None` when there are too few brokers.
#[must_use]
pub fn place(ring: &[&Candidate], replication_factor: usize, seed: u64) -> Option<Vec<NodeId>> {
    if replication_factor == 0 || replication_factor > ring.len() {
        return None;
    }
    let count = ring.len() as u64;
    let index = |number: u64| usize::try_from(number % count).expect("less than the number of brokers");
    let first = index(seed);
    // Each time around, the followers shift by one, so that a broker's followers are not always the same.
    let shift = index(seed / count);
    let mut others: Vec<&Candidate> = (1..ring.len()).map(|step| ring[(first + step) % ring.len()]).collect();
    if !others.is_empty() {
        let by = shift % others.len();
        others.rotate_left(by);
    }
    let mut chosen = vec![ring[first].node];
    let mut racks = BTreeSet::from([ring[first].rack.as_deref()]);
    while chosen.len() < replication_factor {
        let fresh_rack = others.iter().position(|candidate| !racks.contains(&candidate.rack.as_deref()));
        let at = fresh_rack.unwrap_or_else(|| {
            racks.clear();
            0
        });
        let candidate = others.remove(at);
        racks.insert(candidate.rack.as_deref());
        chosen.push(candidate.node);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn brokers(racks: &[Option<&str>]) -> Vec<Candidate> {
        let candidate = |(at, rack): (usize, &Option<&str>)| Candidate {
            node: NodeId(i32::try_from(at).unwrap() + 1),
            rack: rack.map(str::to_owned),
        };
        racks.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn one_node_gets_everything_and_no_more_replicas_than_itself() {
        let one = brokers(&[None]);
        assert_eq!(place(&ring(&one), 1, 17), Some(vec![NodeId(1)]));
        assert_eq!(place(&ring(&one), 2, 17), None);
        assert_eq!(place(&ring(&one), 0, 17), None);
        assert_eq!(place(&[], 1, 0), None);
    }

    #[test]
    fn replicas_and_leaders_are_even_and_distinct() {
        let five = brokers(&[None; 5]);
        let ring = ring(&five);
        let (mut leaders, mut replicas) = (BTreeMap::new(), BTreeMap::new());
        for seed in 0..1000 {
            let chosen = place(&ring, 3, seed).unwrap();
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 3);
            *leaders.entry(chosen[0]).or_insert(0) += 1;
            chosen.iter().for_each(|node| *replicas.entry(*node).or_insert(0) += 1);
        }
        assert!(leaders.values().all(|count| *count == 200), "{leaders:?}");
        assert!(replicas.values().all(|count| (560..=640).contains(count)), "{replicas:?}");
    }

    #[test]
    fn racks_differ_while_there_are_racks() {
        let six = brokers(&[Some("a"), Some("a"), Some("a"), Some("b"), Some("b"), Some("c")]);
        let rack = |node: NodeId| six[usize::try_from(node.0).unwrap() - 1].rack.clone();
        let ring = ring(&six);
        for seed in 0..200 {
            let three = place(&ring, 3, seed).unwrap();
            let racks: BTreeSet<_> = three.iter().map(|node| rack(*node)).collect();
            assert_eq!(racks.len(), 3, "{three:?}");
            let six = place(&ring, 6, seed).unwrap();
            assert_eq!(six.iter().collect::<BTreeSet<_>>().len(), 6);
        }
    }
}
