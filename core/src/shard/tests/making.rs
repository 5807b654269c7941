//! Many topics at once come into being a few at a time, and answers do not wait for leaders that cannot be.

use chronik_net::codec::messages::CreateTopicsRequest;
use chronik_net::codec::messages::create_topics_request::CreatableTopic;
use chronik_net::codec::{StrBytes, messages::TopicName};
use chronik_wal::types::GroupId;

use super::*;
use crate::shard::controller::{AdminReply, AdminRequest};
use crate::shard::message::*;

const TOPICS: usize = 700;

fn many() -> Request {
    let topic = |number: usize| {
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(format!("many-{number}"))))
            .with_num_partitions(1)
            .with_replication_factor(3)
    };
    let request = CreateTopicsRequest::default().with_topics((0..TOPICS).map(topic).collect());
    Request::Admin { request: Box::new(AdminRequest::CreateTopics(request)), timeout_ms: 10_000 }
}

fn made(cluster: &Cluster, node: i32) -> usize {
    cluster[node].shard.partitions.len() - 1
}

#[test]
fn many_topics_are_made_a_few_at_a_time_and_all_come_to_rest() {
    let mut cluster = Cluster::new();
    let controller = cluster.leader(GroupId::METADATA);
    let call = cluster[controller].ask(many());
    let mut awake_max = 0;
    for _ in 0..100_000 {
        if !cluster.step() {
            cluster.advance(1);
        }
        let driver = &cluster[controller].shard.driver;
        awake_max = awake_max.max(driver.group_count() - driver.resting_count());
        if made(&cluster, controller) == TOPICS {
            break;
        }
    }
    assert!(awake_max < TOPICS / 2, "{awake_max} ticked at a time");
    let Reply::Admin(reply) = cluster.answer_to(controller, call) else { panic!("an answer") };
    let AdminReply::CreateTopics(response) = *reply else { panic!("an answer to CreateTopics") };
    assert!(response.topics.iter().all(|topic| topic.error_code == 0));
    cluster.wait_until("all are made, led and at rest everywhere", |cluster| {
        cluster.names().into_iter().all(|node| {
            let driver = &cluster[node].shard.driver;
            let topics = &cluster[node].shard.snapshot.topics;
            let is_led = |name: usize| {
                topics.get(&*format!("many-{name}")).is_some_and(|view| view.partitions[0].leader.is_some())
            };
            made(cluster, node) == TOPICS
                && (0..TOPICS).all(is_led)
                && driver.group_count() - driver.resting_count() <= 1
        })
    });
}

#[test]
fn a_topic_without_a_quorum_is_answered_as_made_soon() {
    let mut cluster = Cluster::new();
    let controller = cluster.leader(GroupId::METADATA);
    let others = cluster.others(controller);
    // Nobody has noticed that this one is gone.
    cluster.kill(others[1], false);
    let begun_ms = cluster.now.mono_ms;
    let mut request = creation_of(TOPIC, 1, 2, &[]);
    if let Request::Admin { request, timeout_ms } = &mut request
        && let AdminRequest::CreateTopics(creation) = &mut **request
    {
        *timeout_ms = 60_000;
        let assignment =
            chronik_net::codec::messages::create_topics_request::CreatableReplicaAssignment::default()
                .with_partition_index(0)
                .with_broker_ids([controller, others[1]].map(|node| node.into()).to_vec());
        creation.topics[0].num_partitions = -1;
        creation.topics[0].replication_factor = -1;
        creation.topics[0].assignments = vec![assignment];
    }
    let Reply::Admin(reply) = cluster.answer(controller, request) else { panic!("an answer") };
    let AdminReply::CreateTopics(made) = *reply else { panic!("an answer to CreateTopics") };
    assert_eq!(made.topics[0].error_code, 0, "{made:?}");
    let waited_ms = cluster.now.mono_ms - begun_ms;
    assert!(
        (1_000..2_000).contains(&waited_ms),
        "it waited for {waited_ms} ms of the clock that the test moves"
    );
    let group = cluster[controller].group(TOPIC, 0);
    assert_eq!(cluster.leader_now(group), None, "it has no quorum");
    cluster.restart(others[1]);
    cluster.leader(group);
}
