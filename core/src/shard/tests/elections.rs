//! Leaders that a client asks for, by way of a node that has nothing to do with it.

use chronik_wal::types::{GroupId, NodeId};

use super::*;
use crate::shard::elections::Election;
use crate::shard::message::*;

fn election(cluster: &Cluster, group: GroupId, to: i32) -> Election {
    let topic_id = cluster[1].shard.partitions[&group].name.topic_id;
    Election { topic_id, partition: 0, group, to: NodeId(to) }
}

fn elect(cluster: &mut Cluster, at: i32, elections: Vec<Election>) -> Vec<Election> {
    match cluster.answer(at, Request::Elect { elections, timeout_ms: 4_000 }) {
        Reply::Elected(left) => left,
        other => panic!("an answer to Elect, not {other:?}"),
    }
}

#[test]
fn a_leader_is_asked_to_hand_over_wherever_it_is() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 1, &[]);
    for _ in 0..2 {
        let leader = cluster.leader(group);
        let [to, asked] = cluster.others(leader)[..] else { panic!("three nodes") };
        let wanted = election(&cluster, group, to);
        assert_eq!(elect(&mut cluster, asked, vec![wanted]), []);
        assert_eq!(cluster.leader(group), to);
        let here = election(&cluster, group, asked);
        assert_eq!(elect(&mut cluster, to, vec![here]), [], "asked at the leader itself");
        assert_eq!(cluster.leader(group), asked);
    }
}

#[test]
fn who_leads_already_is_answered_at_once_and_a_partition_that_is_gone_too() {
    let (mut cluster, group, leader) = Cluster::led();
    let there = election(&cluster, group, leader);
    let gone = Election { partition: 7, ..there };
    assert_eq!(elect(&mut cluster, leader, vec![there, gone]), []);
}

#[test]
fn who_cannot_lead_is_told_when_the_time_is_up() {
    let (mut cluster, group, leader) = Cluster::led();
    let to = cluster.others(leader)[0];
    cluster.kill(to, true);
    let wanted = election(&cluster, group, to);
    let call = cluster[leader].ask(Request::Elect { elections: vec![wanted], timeout_ms: 4_000 });
    cluster.advance(5_000);
    let Reply::Elected(left) = cluster.answer_to(leader, call) else { panic!("an answer to Elect") };
    assert_eq!(left, [wanted]);
    assert_eq!(cluster.leader(group), leader);
}
