//! Members that come and go while nodes crash.

use super::*;
use crate::driver::MemberChange;
use crate::error::ProposeError;

impl Cluster {
    fn members(&self, group: GroupId) -> (Vec<u64>, Vec<u64>) {
        let Some(leader) = self.leader_of(group) else { return Default::default() };
        let configuration = self.nodes[leader].driver.configuration(group).unwrap();
        (configuration.get_voters().to_vec(), configuration.get_learners().to_vec())
    }

    /// What the leader of a partition does: one change at a time towards the target.
    fn drive(&mut self, group: GroupId, target: &[u64]) {
        let Some(leader) = self.leader_of(group) else { return };
        let (voters, learners) = self.members(group);
        let missing = target.iter().find(|id| !voters.contains(*id));
        let change = match missing {
            Some(id) if learners.contains(id) => MemberChange::Promote(PeerId(*id)),
            Some(id) => MemberChange::AddLearner(PeerId(*id)),
            None => {
                let leaving = voters.iter().chain(&learners).find(|id| !target.contains(*id));
                let Some(id) = leaving else { return };
                MemberChange::Remove(PeerId(*id))
            }
        };
        let result = self.nodes[leader].driver.change_member(group, change);
        use ProposeError::{ConfigurationBusy, NotCaughtUp, NotLeader, Transferring};
        let is_fine =
            matches!(result, Ok(_) | Err(ConfigurationBusy | NotCaughtUp(_) | NotLeader | Transferring));
        assert!(is_fine, "seed {}: {change:?}: {result:?}", self.seed);
    }

    fn has_reached(&self, group: GroupId, target: &[u64]) -> bool {
        let (mut voters, learners) = self.members(group);
        voters.sort_unstable();
        voters == target && learners.is_empty()
    }

    /// Crashes one node of a group that can spare it, or starts it again.
    fn crash_or_restart_one(&mut self) {
        match (0..NODES).find(|number| !self.nodes[*number].is_up) {
            Some(down) => self.restart(down),
            None => {
                let victim = self.random.random_range(0..NODES);
                self.crash(victim);
            }
        }
    }
}

/// Groups move from three nodes to others and back, under load, while nodes crash and restart.
#[test]
fn members_change_one_by_one_while_nodes_crash() {
    let targets: [&[u64]; 4] = [&[1, 2, 3, 4, 5], &[3, 4, 5], &[1, 4, 5], &[1, 2, 3]];
    let mut snapshots = 0;
    for seed in 0..30 {
        let mut cluster = Cluster::new(seed);
        for target in targets {
            let mut steps = 0;
            while !GROUPS.iter().all(|group| cluster.has_reached(*group, target)) {
                steps += 1;
                assert!(
                    steps < 20_000,
                    "seed {seed}: {target:?} is not reached: {:?}",
                    cluster.members(GROUPS[0])
                );
                cluster.step();
                let group = GROUPS[cluster.random.random_range(0..GROUPS.len())];
                match cluster.random.random_range(0..100) {
                    0..=9 => cluster.drive(group, target),
                    10..=17 => cluster.propose_somewhere(group),
                    18 => cluster.move_log_start(group),
                    19 if cluster.random.random_bool(0.2) => cluster.crash_or_restart_one(),
                    20..=23 => {
                        let number = cluster.random.random_range(0..NODES);
                        if cluster.nodes[number].is_up {
                            cluster.flush(number, group);
                        }
                    }
                    _ => {}
                }
            }
        }
        cluster.check_liveness();
        for group in GROUPS {
            assert!(cluster.has_reached(group, targets[3]), "seed {seed}");
        }
        snapshots += cluster.truth.snapshots_installed;
    }
    assert!(snapshots > 5, "some were filled by snapshot: {snapshots}");
}

/// A replica that was removed while it could not hear of it comes back and asks for votes: nobody is disturbed.
#[test]
fn a_removed_replica_disturbs_nobody() {
    for seed in 0..30 {
        let mut cluster = Cluster::new(seed);
        (0..300).for_each(|_| cluster.step());
        let group = GROUPS[0];
        let leader = cluster.leader_of(group).unwrap();
        let removed = (0..3).find(|number| *number != leader).unwrap();
        cluster.sides[removed] = 1;
        (0..200).for_each(|_| cluster.step());
        let target: Vec<u64> = (1..=3).filter(|id| *id != removed as u64 + 1).collect();
        while !cluster.has_reached(group, &target) {
            cluster.drive(group, &target);
            cluster.step();
            assert!(cluster.now_ms < 20_000, "seed {seed}");
        }
        (0..300).for_each(|_| cluster.step());
        let leadership = cluster.nodes[leader].driver.leadership(group);
        cluster.sides = [0; NODES];
        (0..1000).for_each(|_| cluster.step());
        assert_eq!(cluster.nodes[leader].driver.leadership(group), leadership, "seed {seed}");
        assert_eq!(cluster.awake_members(group), [], "seed {seed}: they rest in spite of it");
    }
}
