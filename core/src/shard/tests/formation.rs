//! Three nodes that begin with nothing: they find each other, take changes anywhere, and name the same leaders.

use chronik_wal::types::{GroupId, NodeId};

use super::*;
use crate::shard::controller::{AdminReply, AdminRequest};
use crate::shard::message::*;

fn fresh() -> Setup {
    Setup { fresh: true, ..Setup::default() }
}

/// Every running node knows all three brokers, and group 0 has three voters and no change under way.
fn is_whole(cluster: &Cluster) -> bool {
    cluster.names().iter().all(|node| {
        let shard = &cluster[*node].shard;
        let members = shard.driver.configuration(GroupId::METADATA);
        let host = shard.controller.as_ref().expect("shard 0");
        shard.snapshot.brokers.len() == 3
            && shard.snapshot.cluster_id.is_some()
            && members.is_some_and(|members| members.voters.len() == 3 && members.learners.is_empty())
            && host.state().metadata_replicas().is_complete()
    })
}

fn formed() -> Cluster {
    let mut cluster = Cluster::start(&fresh());
    cluster.wait_until("the cluster forms", is_whole);
    cluster
}

/// Makes a topic through this node; its error code.
fn create_through(cluster: &mut Cluster, node: i32, name: &str, replicas: i16) -> i16 {
    let Reply::Admin(reply) = cluster.answer(node, creation_of(name, 3, replicas, &[])) else {
        panic!("an answer of the controller")
    };
    match *reply {
        AdminReply::CreateTopics(made) => made.topics[0].error_code,
        other => panic!("an answer to CreateTopics, not {other:?}"),
    }
}

/// The leaders that a node names.
fn leaders(cluster: &Cluster, node: i32, topic: &str) -> Vec<Option<NodeId>> {
    let topic = cluster[node].shard.snapshot.topic(topic).cloned();
    topic
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|view| view.leader.map(|leader| leader.node))
        .collect()
}

#[test]
fn fresh_nodes_form_one_cluster_and_any_of_them_takes_changes() {
    let mut cluster = formed();
    let ids: Vec<_> = cluster.nodes.iter().map(|rig| rig.shard.snapshot.cluster_id.clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    for node in cluster.names() {
        let name = format!("through-{node}");
        assert_eq!(create_through(&mut cluster, node, &name, 3), 0);
        // Who made it there finds it there.
        assert!(cluster[node].shard.snapshot.topic(&name).is_some());
        assert_eq!(create_through(&mut cluster, node, &name, 3), 36, "it exists by now");
        cluster.advance(50);
        let named = leaders(&cluster, node, &name);
        assert!(named.iter().all(Option::is_some));
        for other in cluster.names() {
            assert_eq!(leaders(&cluster, other, &name), named, "as node {other} says");
        }
    }
    assert_eq!(create_through(&mut cluster, 2, "too-many", 4), 38, "INVALID_REPLICATION_FACTOR");
}

#[test]
fn leaders_are_named_by_every_node_within_a_second_of_a_change() {
    let mut cluster = formed();
    assert_eq!(create_through(&mut cluster, 1, TOPIC, 3), 0);
    let victim = cluster.leader(GroupId::METADATA);
    cluster.kill(victim, true);
    cluster.advance(1_000);
    let others = cluster.others(victim);
    let named = leaders(&cluster, others[0], TOPIC);
    assert!(named.iter().all(|leader| leader.is_some_and(|leader| leader.0 != victim)), "{named:?}");
    assert_eq!(leaders(&cluster, others[1], TOPIC), named);
    // The one that is gone is left out after a while, and listed again at once when it comes back.
    let fenced = |cluster: &Cluster, node: i32| cluster[node].shard.snapshot.fenced.contains(&NodeId(victim));
    assert!(!fenced(&cluster, others[0]));
    cluster.advance(5_000);
    assert!(others.iter().all(|node| fenced(&cluster, *node)));
    cluster.restart(victim);
    cluster.advance(1_000);
    assert!(others.iter().all(|node| !fenced(&cluster, *node)));
    assert_eq!(leaders(&cluster, victim, TOPIC), leaders(&cluster, others[0], TOPIC));
}

#[test]
fn a_change_finds_the_next_leader_and_is_made_once() {
    let mut cluster = formed();
    let old = cluster.leader(GroupId::METADATA);
    let asker = cluster.others(old)[0];
    let topic = |name: &str| creation_of(name, 1, 2, &[]);
    // It reaches the leader; the answer does not come back.
    cluster.lose = Some(Box::new(|_, _, message| matches!(message, PeerMessage::Answer { .. })));
    let call = cluster[asker].ask(topic("once"));
    cluster.advance(300);
    assert!(cluster[asker].replies.is_empty());
    cluster.lose = None;
    cluster.kill(old, true);
    let Reply::Admin(reply) = cluster.answer_to(asker, call) else { panic!("an answer of the controller") };
    let AdminReply::CreateTopics(made) = *reply else { panic!("an answer to CreateTopics, not {reply:?}") };
    assert_eq!(made.topics[0].error_code, 0, "its own retry is not told that it exists: {made:?}");
    // Without a majority nothing is decided, and the asker is told so in time.
    let other = cluster.others(asker)[0];
    cluster.kill(other, true);
    let request = AdminRequest::AutoCreate(vec!["never".to_owned()]);
    let call = cluster[asker].ask(Request::Admin { request: Box::new(request), timeout_ms: 2_000 });
    cluster.advance(2_100);
    let Some(Reply::Admin(reply)) = cluster[asker].take(call) else { panic!("answered in time") };
    assert!(matches!(*reply, AdminReply::Refused(..)), "{reply:?}");
}

#[test]
fn a_power_cut_at_any_moment_of_forming_leaves_a_cluster_that_forms() {
    for steps in (0..40).step_by(3) {
        for node in 1..=3 {
            let mut cluster = Cluster::start(&fresh());
            for _ in 0..steps {
                cluster.step();
                cluster.advance(7);
            }
            cluster.kill(node, true);
            cluster.advance(50);
            cluster.restart(node);
            cluster.wait_until("the cluster forms", is_whole);
            assert_eq!(create_through(&mut cluster, node, TOPIC, 3), 0, "cut after {steps} steps");
        }
    }
}

#[test]
fn a_node_with_an_empty_disk_comes_back_as_another_peer() {
    let mut cluster = formed();
    assert_eq!(create_through(&mut cluster, 1, TOPIC, 3), 0);
    let leader = cluster.leader(GroupId::METADATA);
    let victim = cluster.others(leader)[0];
    let peer =
        |cluster: &Cluster| cluster[victim].shard.driver.state(GroupId::METADATA).map(|state| state.peer);
    let before = peer(&cluster);
    cluster.kill(victim, true);
    cluster.advance(200);
    cluster.restart_wiped(victim);
    cluster.wait_until("it is a member again", is_whole);
    assert!(peer(&cluster) > before, "never under an id that was used");
    assert!(cluster[victim].shard.snapshot.topic(TOPIC).is_some());
    assert_eq!(create_through(&mut cluster, victim, "after", 3), 0);
    for group in [0, 1, 2].map(|number| cluster[victim].group(TOPIC, number)) {
        let own = cluster[victim].shard.driver.state(group).map(|state| state.peer);
        assert!(own > before, "its replicas are new ones: {own:?}");
    }
}

/// The one who drives it restarts meanwhile, and finds the node that is filled anew twice among the members.
#[test]
fn a_node_is_filled_anew_though_the_leader_restarts_meanwhile() {
    let mut cluster = formed();
    assert_eq!(create_through(&mut cluster, 1, TOPIC, 3), 0);
    let group = cluster[1].group(TOPIC, 0);
    let leader = cluster.leader(group);
    let victim = cluster.others(leader)[0];
    cluster.kill(victim, true);
    cluster.advance(200);
    // Nothing of the partitions comes to the wiped node yet.
    let is_held = move |_: NodeId, to: NodeId, message: &PeerMessage| {
        let is_data = match message {
            PeerMessage::Raft { group, .. } => *group != GroupId::METADATA,
            _ => false,
        };
        to == NodeId(victim) && is_data
    };
    cluster.lose = Some(Box::new(is_held));
    cluster.restart_wiped(victim);
    cluster.wait_until("it is to be filled", |cluster| {
        cluster[leader].shard.partitions[&group].members.len() == 4
    });
    cluster.kill(leader, true);
    cluster.advance(100);
    cluster.restart(leader);
    cluster.advance(100);
    let told = cluster[leader].shard.replicas_on(NodeId(victim));
    let told = told.iter().filter(|(of, _)| *of == group).count();
    assert_eq!(told, 2, "what becomes of the node is told of both");
    cluster.lose = None;
    cluster.wait_until("all partitions are whole", |cluster| {
        let views = cluster[1].shard.snapshot.topic(TOPIC).expect("it is there").partitions.clone();
        views.iter().all(|view| view.replicas.len() == 3 && !view.is_reassigning())
    });
}

/// Strangers that write are remembered up to a bound; then room is made for those who come.
#[test]
fn who_was_a_member_once_takes_no_room_from_one_that_comes() {
    let mut cluster = formed();
    assert_eq!(create_through(&mut cluster, 1, TOPIC, 3), 0);
    let group = cluster[1].group(TOPIC, 0);
    let leader = cluster.leader(group);
    let other = cluster.others(leader)[0];
    for peer in 1_000..1_100 {
        let mut message = chronik_raft::eraftpb::Message::default();
        message.set_msg_type(chronik_raft::eraftpb::MessageType::MsgHeartbeatResponse);
        message.from = peer;
        let message = PeerMessage::Raft { group, message };
        cluster[leader].handle(crate::shard::Event::Peer { from: NodeId(other), message });
        let members = &cluster[leader].shard.partitions[&group].members;
        assert!(members.iter().any(|member| member.peer.0 == peer), "{peer} is known");
        assert!(members.len() <= 32, "{}", members.len());
    }
    let placed = cluster[leader].shard.snapshot.topic(TOPIC).expect("it is there").partitions[0].clone();
    let members = &cluster[leader].shard.partitions[&group].members;
    assert!(placed.replicas.iter().all(|replica| members.contains(replica)), "{members:?}");
}

#[test]
fn internal_topics_have_what_replicas_there_are_nodes_for() {
    let mut cluster = formed();
    let request = AdminRequest::AutoCreate(vec!["__consumer_offsets".to_owned()]);
    let request = Request::Admin { request: Box::new(request), timeout_ms: 5_000 };
    let Reply::Admin(reply) = cluster.answer(3, request) else { panic!("an answer of the controller") };
    assert!(matches!(&*reply, AdminReply::AutoCreate(failed) if failed.is_empty()), "{reply:?}");
    let topic = cluster[3].shard.snapshot.topic("__consumer_offsets").cloned().expect("it is there");
    assert!(topic.partitions.iter().all(|partition| partition.replicas.len() == 3));
}

const OFFSETS: &str = "__consumer_offsets";

/// Takes the replicas of an internal topic off one of three nodes, as `cluster drain --shrink` does.
fn shrink_off(cluster: &mut Cluster, drained: i32) {
    use chronik_net::codec::messages::alter_partition_reassignments_request::{
        ReassignablePartition, ReassignableTopic,
    };
    use chronik_net::codec::messages::{AlterPartitionReassignmentsRequest, BrokerId, TopicName};
    let stay: Vec<BrokerId> =
        cluster.names().into_iter().filter(|node| *node != drained).map(BrokerId).collect();
    let row = |number| {
        ReassignablePartition::default().with_partition_index(number).with_replicas(Some(stay.clone()))
    };
    let name = TopicName(chronik_net::codec::StrBytes::from_static_str(OFFSETS));
    let topic = ReassignableTopic::default().with_name(name).with_partitions((0..50).map(row).collect());
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let AdminReply::Reassign(_) = cluster.admin(AdminRequest::Reassign(request)) else {
        panic!("an answer to AlterPartitionReassignments")
    };
}

/// Nothing of the internal topic is on the node, or is to be, as this one knows.
fn is_shrunk_off(cluster: &Cluster, drained: i32, says: i32) -> bool {
    let views = &cluster[says].shard.snapshot.topic(OFFSETS).expect("it is there").partitions;
    views.iter().all(|view| {
        view.replicas.len() == 2 && view.replicas.iter().all(|replica| replica.node != NodeId(drained))
    })
}

/// Whoever drains a node and lets partitions go on with fewer replicas is not undone by the growth of internal topics.
#[test]
fn internal_topics_do_not_grow_back_onto_a_node_that_is_drained() {
    let mut cluster = formed();
    let made = AdminRequest::AutoCreate(vec![OFFSETS.to_owned()]);
    assert!(matches!(cluster.admin(made), AdminReply::AutoCreate(failed) if failed.is_empty()));
    let staying = cluster.leader(GroupId::METADATA);
    let drained = cluster.others(staying)[1];
    shrink_off(&mut cluster, drained);
    cluster.wait_until("nothing is left there", |cluster| is_shrunk_off(cluster, drained, staying));
    cluster.advance(2_000);
    assert!(is_shrunk_off(&cluster, drained, staying), "and nothing comes back");
}

/// Nor by that of the next controller, which has only the metadata log to know it from.
#[test]
fn a_drain_goes_on_when_the_controller_changes_in_the_middle_of_it() {
    let mut cluster = formed();
    let made = AdminRequest::AutoCreate(vec![OFFSETS.to_owned()]);
    assert!(matches!(cluster.admin(made), AdminReply::AutoCreate(failed) if failed.is_empty()));
    let controller = cluster.leader(GroupId::METADATA);
    let (staying, drained) = (cluster.others(controller)[0], cluster.others(controller)[1]);
    shrink_off(&mut cluster, drained);
    assert!(!is_shrunk_off(&cluster, drained, controller), "it has only begun");
    cluster.kill(controller, true);
    let next = cluster.leader(GroupId::METADATA);
    assert_ne!(next, controller);
    cluster.restart(controller);
    cluster.wait_until("nothing is left there", |cluster| is_shrunk_off(cluster, drained, staying));
    cluster.advance(3_000);
    assert!(is_shrunk_off(&cluster, drained, staying), "and nothing comes back");
    assert!(
        cluster.names().iter().all(|node| {
            *cluster[*node].shard.snapshot.draining == [NodeId(drained)].into_iter().collect()
        })
    );
}

/// Takes a node that holds nothing out of the cluster.
fn remove(cluster: &mut Cluster, node: i32) {
    use chronik_net::codec::messages::{BrokerId, UnregisterBrokerRequest};
    let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(node));
    match cluster.admin(AdminRequest::UnregisterBroker(request)) {
        AdminReply::UnregisterBroker(response) => assert_eq!(response.error_code, 0, "{response:?}"),
        other => panic!("an answer to UnregisterBroker, not {other:?}"),
    }
}

fn obstacle(cluster: &Cluster, node: i32) -> String {
    let host = cluster[node].shard.controller.as_ref().expect("shard 0");
    host.obstacle.clone().unwrap_or_default()
}

/// One that was down meanwhile cannot know, but the others do, and say so on the link (`node/peers.rs`).
#[test]
fn a_node_that_was_removed_says_so_and_is_not_let_back_in() {
    for was_down in [false, true] {
        let mut cluster = formed();
        let controller = cluster.leader(GroupId::METADATA);
        let (other, removed) = (cluster.others(controller)[0], cluster.others(controller)[1]);
        if was_down {
            cluster.kill(removed, true);
            cluster.advance(8_000);
        }
        remove(&mut cluster, removed);
        let directory = uuid::Uuid::from_bytes(cluster[removed].shard.directory);
        cluster.wait_until("the others talk to it no more", |cluster| {
            [controller, other]
                .iter()
                .all(|node| cluster[*node].shard.snapshot.departures.removed.contains(&directory))
        });
        if !was_down {
            cluster.kill(removed, true);
        }
        // The network of this test lets everything pass, the edge does not.
        cluster.isolate(removed);
        cluster.restart(removed);
        cluster.advance(1_000);
        if was_down {
            assert_eq!(obstacle(&cluster, removed), "", "nobody has told it");
            cluster[removed].handle(crate::shard::Event::Expelled { by: NodeId(other) });
            cluster.advance(1_000);
        }
        let why = format!("node {removed} was removed from the cluster");
        assert!(obstacle(&cluster, removed).starts_with(&why), "{}", obstacle(&cluster, removed));
        cluster.advance(20_000);
        let removed_leads = cluster[removed].shard.driver.leadership(GroupId::METADATA);
        assert!(!matches!(removed_leads, Some(chronik_raft::leadership::Leadership::Leader { .. })));
        // Even were it heard, it would not be registered.
        let broker = cluster[removed].shard.controller.as_ref().expect("shard 0").own.clone();
        let reply = cluster.admin(AdminRequest::Register(NodeId(removed), Box::new(broker)));
        assert!(matches!(&reply, AdminReply::Refused(_, why) if why.contains("was removed")), "{reply:?}");
        // With an empty disk it is a new node.
        cluster.heal();
        cluster.kill(removed, true);
        cluster.advance(8_000);
        cluster.restart_wiped(removed);
        cluster.wait_until("it has joined again", is_whole);
        assert_eq!(obstacle(&cluster, removed), "");
    }
}

/// Its successor on the node would throw each message away; and were both voters, one more lost node would be one too many.
#[test]
fn a_replica_that_went_with_the_disk_of_its_node_goes_first_and_is_sent_nothing() {
    use std::cell::Cell;
    use std::rc::Rc;
    let mut cluster = formed();
    assert_eq!(create_through(&mut cluster, 1, TOPIC, 3), 0);
    let group = cluster[1].group(TOPIC, 0);
    let leader = cluster.leader(group);
    let victim = cluster.others(leader)[0];
    let placed = cluster[leader].shard.partitions[&group].members.clone();
    let old =
        placed.iter().find(|replica| replica.node == NodeId(victim)).expect("a replica on each node").peer;
    cluster.kill(victim, true);
    cluster.advance(8_000);
    // The new replica is not filled for now.
    let sent = Rc::new(Cell::new(0));
    let count = Rc::clone(&sent);
    cluster.lose = Some(Box::new(move |_, to, message| {
        let messages = match message {
            PeerMessage::Raft { group, message } => vec![(*group, message)],
            PeerMessage::Heartbeats(list) => list.iter().map(|(group, message)| (*group, message)).collect(),
            _ => return false,
        };
        let of_group = messages.iter().filter(|(of, _)| *of == group);
        count.set(count.get() + of_group.filter(|(_, message)| message.to == old.0).count());
        to == NodeId(victim) && messages.iter().any(|(of, message)| *of == group && message.to != old.0)
    }));
    cluster.restart_wiped(victim);
    cluster.wait_until("its successor is to come", |cluster| {
        cluster[leader].shard.partitions[&group].members.len() == 4
    });
    let voters =
        |cluster: &Cluster| cluster[leader].shard.driver.configuration(group).unwrap().get_voters().to_vec();
    assert!(voters(&cluster).contains(&old.0), "it goes by a change of the group");
    cluster.wait_until("it is gone", |cluster| !voters(cluster).contains(&old.0));
    for _ in 0..10 {
        let records = records_of(&[b"value"], WALL_MS);
        let outcome = cluster.produce(leader, group, records, Acks::All);
        assert_eq!(outcome.error, chronik_net::codec::ErrorCode::None);
        cluster.advance(200);
    }
    assert_eq!(voters(&cluster).len(), 2, "its successor has no vote yet");
    assert_eq!(sent.get(), 0, "messages to what is no more");
    cluster.lose = None;
    cluster.wait_until("it is whole", |cluster| {
        let view = &cluster[leader].shard.snapshot.topic(TOPIC).expect("it is there").partitions[0];
        view.replicas.len() == 3 && !view.is_reassigning()
    });
}
