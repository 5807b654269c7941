//! Produce: what is acknowledged, when, and what is refused or waits.

use bytes::BytesMut;
use chronik_net::codec::ErrorCode;
use chronik_wal::batch;
use chronik_wal::compress::{Compression, DecompressCaps};
use chronik_wal::disk::sim::SimFaults;
use chronik_wal::records::Records;
use chronik_wal::types::GroupId;

use super::*;
use crate::shard::ShardLimits;
use crate::shard::message::*;
use chronik_net::codec::ErrorCode;

fn small_memory() -> Setup {
    let limits = ShardLimits { tail_bytes_max: 64 << 10, ..Setup::default().limits };
    Setup { limits, ..Setup::default() }
}

fn outcomes(reply: Option<Reply>) -> Vec<ProduceOutcome> {
    match reply {
        Some(Reply::Produce(outcomes)) => outcomes,
        other => panic!("an answer to Produce, not {other:?}"),
    }
}

fn value(bytes: usize) -> BytesMut {
    records_of(&[&vec![7; bytes]], WALL_MS)
}

#[test]
fn nothing_is_acknowledged_before_its_turn_is_durable() {
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let mut rig = Rig::new();
        let group = rig.topic(TOPIC, 1, &[]);
        rig.hold_turns = true;
        let call = rig.ask(Request::Produce(slice(vec![(group, records_of(&[b"a", b"b"], WALL_MS))], acks)));
        rig.settle();
        assert!(rig.turn.is_some(), "the batch is on its way to the disk");
        assert!(rig.take(call).is_none(), "{acks:?} is not answered before the disk has it");
        assert_eq!(rig.fetch(group, 0).high_watermark.0, 0, "nor is it readable");
        rig.hold_turns = false;
        rig.write_turn();
        rig.settle();
        let outcomes = outcomes(rig.take(call));
        assert_eq!((outcomes[0].error, outcomes[0].base_offset.0), (ErrorCode::None, 0));
        assert_eq!(rig.fetch(group, 0).high_watermark.0, 2);
        let mut rig = rig.crash();
        assert_eq!(rig.read_all(group, 0), [0, 1], "an acknowledged record outlives a power cut");
    }
}

#[test]
fn a_batch_sent_again_is_stored_once() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    let send = |rig: &mut Rig, epoch, sequence, count| {
        let outcome = rig.produce(group, idempotent(5, epoch, sequence, count));
        (outcome.error, outcome.base_offset.0)
    };
    assert_eq!(send(&mut rig, 0, 0, 2), (ErrorCode::None, 0));
    assert_eq!(send(&mut rig, 0, 0, 2), (ErrorCode::None, 0), "the first answer again");
    assert_eq!(send(&mut rig, 0, 9, 1).0, ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(send(&mut rig, 0, 2, 1), (ErrorCode::None, 2));
    assert_eq!(send(&mut rig, 1, 0, 1), (ErrorCode::None, 3));
    assert_eq!(send(&mut rig, 0, 3, 1).0, ErrorCode::InvalidProducerEpoch);
    let mut rig = rig.crash();
    assert_eq!(send(&mut rig, 1, 0, 1), (ErrorCode::None, 3), "also after a crash");
    assert_eq!(rig.read_all(group, 0), [0, 1, 2, 3]);
}

#[test]
fn a_batch_sent_again_while_it_is_in_flight_waits_for_the_very_entry() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    rig.hold_turns = true;
    let send = || Request::Produce(slice(vec![(group, idempotent(5, 0, 0, 1))], Acks::All));
    let calls = [rig.ask(send()), rig.ask(send())];
    rig.settle();
    assert!(rig.replies.is_empty());
    rig.hold_turns = false;
    rig.write_turn();
    rig.settle();
    for call in calls {
        let outcomes = outcomes(rig.take(call));
        assert_eq!((outcomes[0].error, outcomes[0].base_offset.0), (ErrorCode::None, 0));
    }
    assert_eq!(rig.read_all(group, 0), [0]);
}

#[test]
fn a_batch_beyond_the_topics_limit_is_refused() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[("max.message.bytes", "1000")]);
    assert_eq!(rig.produce(group, value(2_000)).error, ErrorCode::MessageTooLarge);
    assert_eq!(rig.produce(group, value(500)).base_offset.0, 0, "and got no offset");
}

#[test]
fn the_topics_codec_and_clock_win() {
    let mut rig = Rig::new();
    let configs = [("compression.type", "gzip"), ("message.timestamp.type", "LogAppendTime")];
    let group = rig.topic(TOPIC, 1, &configs);
    rig.now.wall_ms += 77;
    let now_ms = rig.now.wall_ms;
    let outcome = rig.produce(group, value(5_000));
    assert_eq!((outcome.error, outcome.log_append_time_ms), (ErrorCode::None, now_ms));
    let records = rig.fetch(group, 0).records;
    let info = batch::peek(&records[0]).expect("a batch");
    assert_eq!(info.compression().ok(), Some(Compression::Gzip));
    assert!(records[0].len() < 1_000);
    let opened = Records::open(&records[0], &DecompressCaps::default()).expect("records");
    let record = opened.into_iter().next().expect("one").expect("sound");
    assert_eq!((record.timestamp, record.value.map(<[u8]>::len)), (now_ms, Some(5_000)));
}

#[test]
fn acks_all_wants_as_many_replicas_as_the_topic_says() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[("min.insync.replicas", "2")]);
    assert_eq!(rig.produce(group, value(1)).error, ErrorCode::NotEnoughReplicas);
    assert_eq!(rig.produce_with(group, value(1), Acks::Leader).error, ErrorCode::None);
    assert_eq!(rig.produce(GroupId(999), value(1)).error, ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn batches_wait_for_room_in_order_and_time_out_each_by_itself() {
    let mut rig = Rig::with(small_memory());
    let group = rig.topic(TOPIC, 1, &[]);
    rig.hold_jobs = true;
    rig.fill(group, 2, 20 << 10);
    let asked = |rig: &mut Rig, timeout_ms| {
        let slice = slice(vec![(group, value(30 << 10))], Acks::All);
        let call = rig.ask(Request::Produce(ProduceSlice { timeout_ms, ..slice }));
        rig.settle();
        assert!(rig.take(call).is_none(), "there is no room");
        call
    };
    let (long, short, other) = (asked(&mut rig, 5_000), asked(&mut rig, 100), asked(&mut rig, 4_000));
    rig.advance(100);
    assert_eq!(outcomes(rig.take(short))[0].error, ErrorCode::RequestTimedOut);
    assert!(rig.take(long).is_none(), "its time is not up");
    rig.hold_jobs = false;
    rig.run_jobs();
    rig.advance(2_000);
    assert_eq!(outcomes(rig.take(long))[0].base_offset.0, 2, "what came first gets the first offset");
    assert_eq!(outcomes(rig.take(other))[0].base_offset.0, 3, "and what timed out gets none");
    assert!(rig.shard.produces.is_empty() && rig.shard.stalled.is_empty());
}

#[test]
fn a_request_larger_than_the_wal_ever_has_room_for_goes_through() {
    let mut rig = Rig::new();
    rig.topic(TOPIC, 4, &[]);
    let batches = (0..4).map(|number| (rig.group(TOPIC, number), value(700 << 10))).collect();
    let call = rig.ask(Request::Produce(slice(batches, Acks::All)));
    rig.advance(1_000);
    let errors: Vec<_> = outcomes(rig.take(call)).iter().map(|outcome| outcome.error).collect();
    assert_eq!(errors, [ErrorCode::None; 4]);
}

#[test]
fn requests_of_one_turn_share_the_room_there_is() {
    let mut rig = Rig::with(small_memory());
    let group = rig.topic(TOPIC, 1, &[]);
    rig.hold_jobs = true;
    for _ in 0..20 {
        rig.ask(Request::Produce(slice(vec![(group, value(10 << 10))], Acks::All)));
    }
    rig.settle();
    assert!(rig.replies.len() >= 4, "some go through");
    assert!(rig.shard.driver.tail_bytes() <= 64 << 10, "the budget holds: {}", rig.shard.driver.tail_bytes());
}

#[test]
fn a_full_disk_refuses_produce_at_once_and_recovers_alone() {
    let mut rig = Rig::with(small_memory());
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 1, 1 << 10);
    rig.advance(1_000);
    rig.disk.set_faults(SimFaults { capacity: Some(1), ..SimFaults::default() });
    let mut accepted = 1;
    let refused = (0..500).find_map(|_| {
        rig.advance(10);
        let call = rig.ask(Request::Produce(slice(vec![(group, value(10 << 10))], Acks::All)));
        rig.advance(1_200);
        let outcome = outcomes(rig.take(call)).remove(0);
        accepted += i64::from(outcome.error == ErrorCode::None);
        (outcome.error != ErrorCode::None).then_some(outcome.error)
    });
    assert_eq!(refused, Some(ErrorCode::KafkaStorageError), "not after the request's timeout");
    assert_eq!(rig.read_all(group, 0).len() as i64, accepted, "reading goes on");
    rig.disk.set_faults(SimFaults::default());
    rig.advance(3_000);
    assert_eq!(rig.produce(group, value(10 << 10)).base_offset.0, accepted);
    assert_eq!(rig.fatal, None);
    let mut rig = rig.crash();
    assert_eq!(rig.read_all(group, 0).len() as i64, accepted + 1);
}
