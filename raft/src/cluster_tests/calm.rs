//! Clusters in which little happens: they rest, and when the leader's process dies another leads soon.

use super::*;

/// A cluster whose groups are led by one node each and rest.
fn resting(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(seed);
    for round in 0..600 {
        cluster.step();
        if round == 300 {
            GROUPS.into_iter().for_each(|group| cluster.propose_somewhere(group));
        }
    }
    for group in GROUPS {
        assert!(cluster.leader_of(group).is_some(), "seed {seed}");
        assert_eq!(cluster.awake_members(group), [], "seed {seed}: all rest");
    }
    cluster
}

fn ticks(cluster: &Cluster) -> u64 {
    cluster.nodes[..3].iter().map(|node| node.driver.counters().group_ticks).sum()
}

#[test]
fn a_cluster_in_which_nothing_happens_does_nothing() {
    for seed in 0..20 {
        let mut cluster = resting(seed);
        let (sent, ticks_before) = (cluster.sent, ticks(&cluster));
        (0..500).for_each(|_| cluster.step());
        assert_eq!((cluster.sent, ticks(&cluster)), (sent, ticks_before), "seed {seed}");
        assert!(cluster.nodes[..3].iter().all(|node| node.driver.next_wake_ms().is_none()), "seed {seed}");
        // And one proposal wakes them.
        let before = cluster.committed_len(GROUPS[0]);
        cluster.propose_somewhere(GROUPS[0]);
        (0..50).for_each(|_| cluster.step());
        assert!(cluster.committed_len(GROUPS[0]) > before, "seed {seed}");
    }
}

/// Time to a leader that serves, with disks that take 13 ms a turn and a network of 3.5 ms on average.
#[test]
fn when_the_leaders_process_dies_another_leads_soon() {
    let mut times_ms = Vec::new();
    for seed in 0..100 {
        let mut cluster = resting(seed);
        if seed % 2 == 0 {
            // Busy when it happens: replicas have more or less of the log.
            for _ in 0..20 {
                GROUPS.into_iter().for_each(|group| cluster.propose_somewhere(group));
                cluster.step();
            }
        }
        let group = GROUPS[0];
        let leader = cluster.leader_of(group).unwrap();
        cluster.crash(leader);
        let crashed_ms = cluster.now_ms;
        while cluster.leader_of(group).is_none() {
            cluster.step();
            assert!(cluster.now_ms < crashed_ms + 3000, "seed {seed}: no new leader");
        }
        times_ms.push(cluster.now_ms - crashed_ms);
    }
    times_ms.sort_unstable();
    let (median, p90) = (times_ms[times_ms.len() / 2], times_ms[times_ms.len() * 9 / 10]);
    assert!(median <= 150 && p90 <= 300, "median {median}, p90 {p90}: {times_ms:?}");
}

/// A follower that stands still for 400 ms stands for nothing afterwards; a leader whose followers still wait goes on leading.
#[test]
fn a_stall_deposes_nobody() {
    for seed in 0..50 {
        let mut cluster = resting(seed);
        let leaders = GROUPS.map(|group| cluster.leader_of(group).unwrap());
        let terms = cluster.truth.leaders.len();
        for _ in 0..5 {
            let stalled = cluster.random.random_range(0..3);
            // Awake and in the middle of something, all of them.
            for _ in 0..20 {
                GROUPS.into_iter().for_each(|group| cluster.propose_somewhere(group));
                cluster.step();
            }
            // Followers give a leader up 300 ms after its last word, which takes up to 60 ms to arrive and comes every 60 ms.
            let stall_ms = if leaders.contains(&stalled) { 180 } else { 450 };
            cluster.nodes[stalled].stalled_until_ms = cluster.now_ms + stall_ms;
            (0..200).for_each(|_| cluster.step());
            assert_eq!(GROUPS.map(|group| cluster.leader_of(group).unwrap()), leaders, "seed {seed}");
            assert_eq!(cluster.truth.leaders.len(), terms, "seed {seed}: no other was elected");
        }
    }
}

/// A leader is cut off from a resting group, which goes on without it; when the cut heals it follows.
#[test]
fn a_resting_leader_that_is_cut_off_is_replaced_and_follows() {
    for seed in 0..50 {
        let mut cluster = resting(seed);
        let group = GROUPS[1];
        let old = cluster.leader_of(group).unwrap();
        cluster.sides[old] = 1;
        let new = loop {
            cluster.step();
            let others = (0..3).filter(|number| *number != old);
            let mut leaders = others.filter(|number| cluster.leads(*number, group));
            if let Some(new) = leaders.next() {
                break new;
            }
            assert!(cluster.now_ms < 20_000, "seed {seed}: no other leader");
        };
        cluster.propose_somewhere(group);
        (0..300).for_each(|_| cluster.step());
        assert!(!cluster.leads(old, group), "seed {seed}: it has stepped down");
        cluster.sides = [0; NODES];
        (0..300).for_each(|_| cluster.step());
        assert_eq!(cluster.leader_of(group), Some(new), "seed {seed}: its return disturbs nobody");
        assert_eq!(cluster.awake_members(group), [], "seed {seed}: all rest again");
    }
}

/// A follower restarts faster than anybody looks: it comes back knowing no leader, and the resting one tells it.
#[test]
fn a_follower_that_restarts_deposes_nobody() {
    for seed in 0..50 {
        let mut cluster = resting(seed);
        let group = GROUPS[0];
        let leader = cluster.leader_of(group).unwrap();
        let follower = (0..3).find(|number| *number != leader && !cluster.leads(*number, GROUPS[1]));
        let Some(follower) = follower else { continue };
        let terms = cluster.truth.leaders.len();
        cluster.crash(follower);
        cluster.restart(follower);
        (0..400).for_each(|_| cluster.step());
        assert_eq!(cluster.leader_of(group), Some(leader), "seed {seed}");
        assert_eq!(cluster.truth.leaders.len(), terms, "seed {seed}: no other was elected");
        assert_eq!(cluster.awake_members(group), [], "seed {seed}: all rest again");
    }
}

/// The third is down for long: the two others are a quorum and rest, and it catches up when it comes back.
#[test]
fn a_quorum_rests_without_a_member_that_is_down() {
    for seed in 0..50 {
        let mut cluster = resting(seed);
        let group = GROUPS[0];
        let leader = cluster.leader_of(group).unwrap();
        let down = (0..3).find(|number| *number != leader).unwrap();
        cluster.crash(down);
        (0..20).for_each(|_| cluster.step());
        GROUPS.into_iter().for_each(|group| cluster.propose_somewhere(group));
        (0..500).for_each(|_| cluster.step());
        assert_eq!(cluster.awake_members(group), [down], "seed {seed}");
        cluster.restart(down);
        (0..300).for_each(|_| cluster.step());
        assert_eq!(cluster.awake_members(group), [], "seed {seed}");
        let last = cluster.nodes[leader].driver.last_index(group);
        assert_eq!(cluster.nodes[down].driver.applied(group), last, "seed {seed}");
    }
}
