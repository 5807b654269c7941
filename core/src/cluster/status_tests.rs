//! Tests of the tables and the verdict.

use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::cluster::plan::tests::view_of;
use crate::cluster::view::Member;

fn three() -> View {
    let mut view = view_of(&[Some("a"), None, None], &[&[1, 2, 3], &[2, 3, 1]]);
    for (id, node) in &mut view.nodes {
        node.address = format!("h{id}:9092");
        node.member = Some(Member { is_voter: true, is_heard: true, ..Member::default() });
    }
    view.cluster_id = "cid".to_owned();
    view.controller = Some(2);
    view
}

fn leaders(leaders: &[i32]) -> Result<MetadataResponse, String> {
    let row = |(index, leader): (usize, &i32)| {
        MetadataResponsePartition::default()
            .with_partition_index(i32::try_from(index).unwrap())
            .with_leader_id(BrokerId(*leader))
    };
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
        .with_partitions(leaders.iter().enumerate().map(row).collect());
    Ok(MetadataResponse::default().with_topics(vec![topic]))
}

fn agreed() -> Answers {
    (1..=3).map(|id| (id, leaders(&[1, 2]))).collect()
}

#[test]
fn the_table_of_a_cluster() {
    let lines = "cluster cid  metadata leader 2  nodes 3 (3 up)  partitions 2 (0 offline, 0 under-replicated, 0 moving)\n\
                 NODE  STATE  KAFKA    RACK  METADATA GROUP  LEADS  HOLDS\n\
                 1     up     h1:9092  a     voter           1      2\n\
                 2     up     h2:9092  -     leader          1      2\n\
                 3     up     h3:9092  -     voter           0      2\n";
    assert_eq!(status(&three()).text, lines);
    let json = status(&three()).json;
    assert_eq!(json["nodes"][1]["metadata_group"]["voter"], true);
    assert_eq!(json["partitions"]["all"], 2);
}

#[test]
fn a_node_that_is_drained_is_shown_as_such() {
    let mut view = three();
    view.nodes.get_mut(&3).unwrap().is_draining = true;
    let outcome = status(&view);
    assert!(outcome.text.contains("\n3     up, draining  h3:9092 "), "{}", outcome.text);
    assert_eq!(outcome.json["nodes"][2]["draining"], true);
    assert_eq!(outcome.json["nodes"][0]["draining"], false);
}

#[test]
fn a_sound_cluster_is_healthy() {
    let outcome = health(&three(), &agreed());
    assert_eq!((outcome.text.as_str(), outcome.is_well), ("healthy\n", true));
    assert_eq!(outcome.json["healthy"], true);
}

#[test]
fn whatever_is_amiss_is_said() {
    let mut view = three();
    view.nodes.get_mut(&3).unwrap().is_up = false;
    view.nodes.get_mut(&2).unwrap().member = None;
    view.partitions[0].leader = None;
    view.partitions[1].in_sync = vec![2];
    let mut answers = agreed();
    answers.insert(1, Err("connection refused".to_owned()));
    answers.insert(3, leaders(&[1, 1]));
    let outcome = health(&view, &answers);
    assert!(!outcome.is_well);
    for part in [
        "node 3 (h3:9092) is down",
        "node 1 (h1:9092) cannot be reached from here: connection refused",
        "node 2 is no voter",
        "1 partition(s) without a leader: t-0",
        "1 partition(s) with replicas that are not in sync: t-1",
        "the nodes name different leaders of t-1: 1 (says node [3]), 2 (says node [2])",
    ] {
        assert!(outcome.text.contains(part), "{part} is missing in\n{}", outcome.text);
    }
}

/// A rolling restart goes on when the cluster is healthy: with the lost disk still in a quorum the next node would be one too many.
#[test]
fn a_replaced_disk_is_amiss_until_the_lost_one_counts_no_more() {
    let mut view = three();
    (view.partitions[1].adding, view.partitions[1].removing) = (vec![3], vec![3]);
    let outcome = health(&view, &agreed());
    assert!(
        outcome.text.contains("1 partition(s) with replicas that are not in sync: t-1"),
        "{}",
        outcome.text
    );
    view = three();
    view.nodes.get_mut(&3).unwrap().member.as_mut().unwrap().is_heard = false;
    let outcome = health(&view, &agreed());
    assert!(
        outcome.text.starts_with("node 3 is up, but the metadata leader does not hear"),
        "{}",
        outcome.text
    );
    assert_eq!(outcome.text.lines().count(), 1, "{}", outcome.text);
}

#[test]
fn a_metadata_group_without_a_leader_is_the_first_thing_said() {
    let mut view = three();
    view.quorum_error = Some("NOT_LEADER_OR_FOLLOWER".to_owned());
    view.nodes.values_mut().for_each(|node| node.member = None);
    let outcome = health(&view, &agreed());
    assert!(
        outcome.text.starts_with("the metadata group has no leader that answers (NOT_LEADER"),
        "{}",
        outcome.text
    );
    assert_eq!(outcome.text.lines().count(), 1, "no node is blamed for it");
}

#[test]
fn a_long_list_is_cut() {
    let mut view = view_of(&[None; 2], &vec![&[1][..]; 25]);
    view.partitions.iter_mut().for_each(|partition| partition.leader = None);
    let mut problems = Vec::new();
    partitions(&mut problems, "x", view.offline());
    assert!(problems[0].starts_with("25 partition(s) x: t-0, t-1, "), "{problems:?}");
    assert!(problems[0].ends_with(", t-9 and 15 more"), "{problems:?}");
}
