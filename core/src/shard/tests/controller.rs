//! The metadata group: images, starts, producer ids.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::{DeleteTopicsRequest, TopicName};
use chronik_wal::disk::sim::Survival;
use chronik_wal::shard_wal::write_turn_blocking;
use chronik_wal::types::{GroupId, NodeId, RaftIndex};
use kafka_protocol::ResponseError;

use super::*;
use crate::shard::controller::{AdminReply, AdminRequest};
use crate::shard::message::*;
use crate::shard::{Event, ShardLimits};

fn short_log() -> Setup {
    let limits = ShardLimits { metadata_log_bytes: 4 << 10, ..Setup::default().limits };
    Setup { limits, ..Setup::default() }
}

fn topics(rig: &Rig) -> Vec<(String, GroupId)> {
    let topics = rig.shard.snapshot.topics.values();
    let mut found: Vec<_> = topics.map(|topic| (topic.name.to_string(), topic.partitions[0].group)).collect();
    found.sort();
    found
}

fn producer_id(rig: &mut Rig) -> i64 {
    match rig.answer(Request::ProducerId) {
        Reply::ProducerId(Ok(id)) => id,
        other => panic!("a producer id, not {other:?}"),
    }
}

#[test]
fn no_producer_id_is_given_twice() {
    let mut rig = Rig::new();
    let mut given = BTreeSet::new();
    for round in 0..4 {
        for _ in 0..(1 + round * 700) {
            assert!(given.insert(producer_id(&mut rig)));
        }
        rig = if round % 2 == 0 { rig.crash() } else { rig.restart() };
    }
}

/// The block has come with the log, the node has handed out of it, and does not live to note that the entry is committed: its next
/// start hears of the block anew.
#[test]
fn a_block_of_producer_ids_is_not_taken_again_by_the_next_start() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader(GroupId::METADATA);
    let node = cluster.others(leader)[0];
    cluster.settle();
    cluster[node].hold_turns = true;
    let asked = cluster[node].ask(Request::ProducerId);
    let given = loop {
        cluster.step();
        if let Some(reply) = cluster[node].take(asked) {
            break reply;
        }
        assert!(cluster[node].write_turn() || cluster.step(), "it is answered");
    };
    cluster.kill(node, true);
    cluster.restart(node);
    let again = cluster.answer(node, Request::ProducerId);
    match (given, again) {
        (Reply::ProducerId(Ok(given)), Reply::ProducerId(Ok(again))) => assert_ne!(given, again),
        other => panic!("two producer ids, not {other:?}"),
    }
}

#[test]
fn the_metadata_log_is_cut_and_a_start_goes_on_from_its_image() {
    let mut rig = Rig::with(short_log());
    let mut made = Vec::new();
    for number in 0..60 {
        let name = format!("topic-{number:02}");
        let group = rig.topic(&name, 1, &[]);
        made.push((name, group));
        if number % 10 == 0 {
            rig.advance(1_000);
        }
    }
    let start = rig.shard.driver.log_start(GroupId::METADATA).expect("a log start");
    assert!(start.index > RaftIndex(30), "the log before the image is gone: {start:?}");
    for round in 0..4 {
        rig = if round == 1 { rig.restart() } else { rig.crash() };
        assert_eq!(topics(&rig), made, "round {round}");
        let name = format!("topic-{}", 60 + round);
        let group = rig.topic(&name, 1, &[]);
        assert_eq!(rig.produce(group, records_of(&[b"x"], WALL_MS)).base_offset.0, 0);
        made.push((name, group));
        rig.advance(1_000);
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_metadata_whole() {
    let mut rig = Rig::with(short_log());
    let mut made = Vec::new();
    let mut steps: usize = 0;
    for number in 0..24 {
        let name = format!("topic-{number:02}");
        let request = rig.ask(create(&name));
        while rig.take(request).is_none() {
            rig.step();
            steps += 1;
            assert!(steps < 1_000, "every topic is made");
            // What has been answered is there after a cut at this very place, twice over.
            let cut = Arc::new(rig.disk.crash(Survival::SyncedOnly));
            let again = Rig::on(cut, rig.setup.clone(), rig.now).crash();
            let found = topics(&again);
            assert_eq!(&found[..made.len()], &made[..], "topic {number}, step {steps}");
            assert!(found.len() <= made.len() + 1);
        }
        made.push((name.clone(), rig.group(&name, 0)));
    }
    let start = rig.shard.driver.log_start(GroupId::METADATA).expect("a log start");
    assert!(start.index > RaftIndex(8), "images were made on the way: {start:?}");
}

#[test]
fn a_start_makes_no_image_of_an_entry_that_its_state_is_past() {
    let mut rig = Rig::new();
    rig.topic("before", 1, &[]);
    rig.hold_turns = true;
    let end = rig.shard.driver.log_end_offset(GroupId::METADATA).expect("a log");
    rig.shard.propose_trim(GroupId::METADATA, end);
    rig.ask(create("after"));
    rig.settle();
    // The disk has both entries; that it has, the node does not live to hear.
    let turn = rig.turn.take().expect("a turn with both");
    write_turn_blocking(&*rig.disk, &turn).expect("written");
    let mut rig = rig.crash();
    let start = rig.shard.driver.log_start(GroupId::METADATA).expect("a log");
    assert_eq!(start.index, RaftIndex(0), "the image would hold what comes after it too");
    for _ in 0..2 {
        let names: Vec<String> = topics(&rig).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["after", "before"]);
        rig = rig.crash();
    }
}

/// A node asks twice, since it had no answer for a while. Both questions come to the controller, which refuses the first; by the
/// second it could say yes.
#[test]
fn a_copy_of_a_refused_request_is_refused_as_well() {
    let (mut cluster, group, _) = Cluster::led();
    let controller = cluster.leader(GroupId::METADATA);
    let asker = cluster.others(controller)[0];
    let sent = Rc::new(RefCell::new(Vec::new()));
    let noted = sent.clone();
    cluster.lose = Some(Box::new(move |from, to, message| {
        let between = [from, to].contains(&NodeId(asker)) && [from, to].contains(&NodeId(controller));
        if between && matches!(message, PeerMessage::Ask { .. } | PeerMessage::Answer { .. }) {
            noted.borrow_mut().push(message.clone());
        }
        false
    }));
    let code = |reply: Reply| match reply {
        Reply::Admin(reply) => match *reply {
            AdminReply::CreateTopics(made) => made.topics[0].error_code,
            other => panic!("an answer to CreateTopics, not {other:?}"),
        },
        other => panic!("an answer of the controller, not {other:?}"),
    };
    assert_eq!(code(cluster.answer(asker, create(TOPIC))), ResponseError::TopicAlreadyExists.code());
    let exchanged = sent.borrow().clone();
    let [question @ PeerMessage::Ask { .. }, PeerMessage::Answer { body: answer, .. }] = &exchanged[..]
    else {
        panic!("a question and its answer, not {exchanged:?}")
    };
    let name = TopicName(StrBytes::from_static_str(TOPIC));
    let deletion = DeleteTopicsRequest::default().with_topic_names(vec![name]).with_timeout_ms(1_000);
    cluster.admin(AdminRequest::DeleteTopics(deletion, 3));
    cluster.wait_until("the topic is gone", |cluster| {
        !cluster[controller].shard.partitions.contains_key(&group)
    });
    sent.borrow_mut().clear();
    cluster[controller].handle(Event::Peer { from: NodeId(asker), message: question.clone() });
    cluster.advance(1_000);
    assert_eq!(topics(&cluster[controller]), [], "its client was told no");
    let told = sent.borrow().clone();
    assert!(
        matches!(&told[..], [PeerMessage::Answer { body, .. }] if body == answer),
        "the same answer, not {told:?}"
    );
    // What is asked anew is another matter.
    assert_eq!(code(cluster.answer(asker, create(TOPIC))), 0);
}
