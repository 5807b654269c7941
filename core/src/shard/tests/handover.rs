//! Leadership given away on purpose.

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_wal::types::{GroupId, NodeId};

use super::*;
use crate::config::layers::ConfigMap;
use crate::shard::Event;
use crate::shard::message::*;

fn value() -> BytesMut {
    records_of(&[b"value"], WALL_MS)
}

fn transfer(cluster: &mut Cluster, at: i32, group: GroupId, to: Option<i32>) -> Result<(), ErrorCode> {
    match cluster.answer(at, Request::TransferLeader { group, to: to.map(NodeId) }) {
        Reply::Transferred(result) => result,
        other => panic!("an answer to TransferLeader, not {other:?}"),
    }
}

/// Whom the placement names first.
fn preferred(cluster: &Cluster, group: GroupId) -> i32 {
    cluster[1].shard.partitions[&group].members[0].node.0
}

#[test]
fn a_stop_hands_over_everything_and_clients_hear_nothing_but_who_leads_now() {
    let mut cluster = Cluster::new();
    let group = cluster.topic(TOPIC, 6, &[]);
    let stopping = cluster.leader(group);
    let groups: Vec<GroupId> = (0..6).map(|number| cluster[1].group(TOPIC, number)).collect();
    let calls: Vec<(GroupId, Call)> = groups
        .iter()
        .map(|group| (*group, cluster.ask_produce(stopping, *group, value(), Acks::All)))
        .collect();
    cluster[stopping].handle(Event::Stop);
    let mut produced = 0;
    cluster.wait_until("it stops", |cluster| cluster[stopping].shard.has_stopped());
    for (group, call) in calls {
        let outcome = cluster.produced(stopping, call).expect("answered");
        produced += i32::from(outcome.error == ErrorCode::None);
        if outcome.error != ErrorCode::None {
            assert_eq!(outcome.error, ErrorCode::NotLeaderOrFollower);
            assert!(
                outcome.leader.is_some_and(|leader| leader.node.0 != stopping),
                "{group:?} is led by another"
            );
        }
    }
    assert!(produced > 0, "what it led when the stop began is written");
    for group in groups.into_iter().chain([GroupId::METADATA]) {
        let leader = cluster.leader_now(group).expect("somebody leads at once");
        assert_ne!(leader, stopping);
    }
    let late = cluster.produce(stopping, group, value(), Acks::All);
    let leader = cluster.leader(group);
    assert_eq!(
        (late.error, late.leader.map(|leader| leader.node.0)),
        (ErrorCode::NotLeaderOrFollower, Some(leader))
    );
    assert_eq!(cluster.fetch(stopping, group, 0).leader.map(|leader| leader.node.0), Some(leader));
}

#[test]
fn a_stop_that_finds_nobody_ends_all_the_same() {
    let (mut cluster, _, leader) = Cluster::led();
    for other in cluster.others(leader) {
        cluster.kill(other, true);
    }
    cluster[leader].handle(Event::Stop);
    cluster.wait_until("it stops", |cluster| cluster[leader].shard.has_stopped());
}

#[test]
fn a_leadership_is_transferred_when_somebody_asks() {
    let (mut cluster, group, leader) = Cluster::led();
    let others = cluster.others(leader);
    assert_eq!(transfer(&mut cluster, others[0], group, None), Err(ErrorCode::NotLeaderOrFollower));
    assert_eq!(transfer(&mut cluster, leader, group, Some(leader)), Err(ErrorCode::ElectionNotNeeded));
    assert_eq!(transfer(&mut cluster, leader, group, Some(9)), Err(ErrorCode::PreferredLeaderNotAvailable));
    assert_eq!(transfer(&mut cluster, leader, group, Some(others[0])), Ok(()));
    assert_eq!(cluster.leader(group), others[0]);
    cluster.kill(others[1], true);
    assert_eq!(
        transfer(&mut cluster, others[0], group, Some(others[1])),
        Err(ErrorCode::PreferredLeaderNotAvailable)
    );
    cluster.pause(leader);
    assert_eq!(
        transfer(&mut cluster, others[0], group, Some(leader)),
        Err(ErrorCode::PreferredLeaderNotAvailable),
        "nothing comes of it"
    );
}

#[test]
fn the_preferred_replica_takes_over_again_once_it_is_settled() {
    let every = ("leader.imbalance.check.interval.seconds".to_owned(), "3".to_owned());
    let mut cluster = Cluster::with(&Setup { configs: ConfigMap::from([every]), ..Setup::default() });
    let group = cluster.topic(TOPIC, 1, &[]);
    let first = preferred(&cluster, group);
    cluster.advance(20_000);
    assert_eq!(cluster.leader(group), first);
    cluster.kill(first, true);
    assert_ne!(cluster.leader(group), first);
    cluster.restart(first);
    cluster.advance(3_000);
    assert_ne!(cluster.leader(group), first, "it is given some seconds");
    cluster.advance(8_000);
    assert_eq!(cluster.leader(group), first);
}

#[test]
fn leaders_stay_where_they_are_when_balance_is_off() {
    let configs =
        [("leader.imbalance.check.interval.seconds", "1"), ("auto.leader.rebalance.enable", "false")];
    let configs = configs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut cluster = Cluster::with(&Setup { configs: ConfigMap::from(configs), ..Setup::default() });
    let group = cluster.topic(TOPIC, 1, &[]);
    let leader = cluster.leader(group);
    let other = cluster.others(leader).into_iter().find(|other| *other != preferred(&cluster, group));
    transfer(&mut cluster, leader, group, other).expect("it is transferred");
    cluster.advance(15_000);
    assert_eq!(Some(cluster.leader(group)), other);
}
