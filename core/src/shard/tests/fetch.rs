//! Fetch: from memory, from files, across both, and waiting.

use chronik_net::codec::ErrorCode;
use chronik_net::codec::StrBytes;
use chronik_net::codec::messages::{DeleteTopicsRequest, TopicName};
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch};

use super::*;
use crate::shard::ShardLimits;
use crate::shard::controller::AdminRequest;
use crate::shard::message::*;

fn outcomes(reply: Option<Reply>) -> Vec<FetchOutcome> {
    match reply {
        Some(Reply::Fetch(outcomes)) => outcomes,
        other => panic!("an answer to Fetch, not {other:?}"),
    }
}

fn waiting(rig: &mut Rig, slice: FetchSlice) -> Call {
    let call = rig.ask(Request::Fetch(slice));
    rig.settle();
    assert!(rig.replies.is_empty(), "it waits");
    call
}

fn epoch(rig: &mut Rig, group: GroupId) -> LeaderEpoch {
    rig.list_offset(group, -1).epoch
}

#[test]
fn a_fetch_waits_for_the_high_watermark() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    let call = waiting(&mut rig, fetch_of(&[(group, 0)], 500));
    rig.fill(group, 1, 10);
    assert_eq!(offsets_in(&outcomes(rig.take(call))[0].records), [0]);
    let call = waiting(&mut rig, fetch_of(&[(group, 1)], 500));
    rig.advance(499);
    assert!(rig.replies.is_empty());
    rig.advance(1);
    let outcome = outcomes(rig.take(call)).remove(0);
    assert_eq!((outcome.error, outcome.high_watermark.0, outcome.bytes()), (ErrorCode::None, 1, 0));
    assert!(rig.shard.fetches.is_empty() && rig.shard.fetch_calls.is_empty());
    assert!(rig.shard.partitions[&group].fetch_waiters.is_empty());
}

#[test]
fn a_fetch_waits_for_as_many_bytes_as_it_wants() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    let call = waiting(&mut rig, FetchSlice { min_bytes: 2_000, ..fetch_of(&[(group, 0)], 5_000) });
    rig.fill(group, 1, 1_000);
    assert!(rig.take(call).is_none());
    rig.fill(group, 1, 1_000);
    assert_eq!(offsets_in(&outcomes(rig.take(call))[0].records), [0, 1]);
}

#[test]
fn the_first_batch_is_given_however_large_it_is() {
    let mut rig = Rig::new();
    let first = rig.topic(TOPIC, 2, &[]);
    let second = rig.group(TOPIC, 1);
    rig.fill(first, 2, 5_000);
    rig.fill(second, 1, 5_000);
    let slice = FetchSlice { max_bytes: 10, ..fetch_of(&[(first, 0), (second, 0)], 0) };
    let outcomes = rig.fetch_slice(slice);
    assert_eq!(offsets_in(&outcomes[0].records), [0]);
    assert!(outcomes[1].records.is_empty());
    let slice = FetchSlice { max_bytes: 11_000, ..fetch_of(&[(first, 0), (second, 0)], 0) };
    let outcomes = rig.fetch_slice(slice);
    assert_eq!(offsets_in(&outcomes[0].records), [0, 1]);
    assert!(outcomes[1].records.is_empty(), "beyond the request's limit");
}

#[test]
fn old_records_come_from_files_and_new_ones_from_memory() {
    let limits = ShardLimits { tail_bytes_max: 256 << 10, ..Setup::default().limits };
    let mut rig = Rig::with(Setup { limits, ..Setup::default() });
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 30, 10 << 10);
    rig.advance(2_000);
    let first = rig.shard.driver.tail(group).expect("a tail").first_offset();
    assert!(first > KafkaOffset(10), "most has left memory: {first:?}");
    rig.fill(group, 2, 10 << 10);
    assert_eq!(rig.read_all(group, 0), (0..32).collect::<Vec<_>>());
    let slice = FetchSlice { min_bytes: 1, ..fetch_of(&[(group, first.0 - 1), (group, 31)], 0) };
    let outcomes = rig.fetch_slice(slice);
    assert_eq!(offsets_in(&outcomes[0].records)[0], first.0 - 1);
    assert_eq!(offsets_in(&outcomes[1].records), [31]);
    let mut rig = rig.crash();
    assert_eq!(rig.read_all(group, 0), (0..32).collect::<Vec<_>>());
}

#[test]
fn offsets_outside_the_log_are_refused() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 3, 10);
    assert_eq!(rig.delete_records(group, 1), Ok(KafkaOffset(1)));
    for offset in [-1, 0, 4] {
        assert_eq!(rig.fetch(group, offset).error, ErrorCode::OffsetOutOfRange, "{offset}");
    }
    assert_eq!(rig.fetch(group, 3).error, ErrorCode::None, "the end is within");
    assert_eq!(rig.fetch(GroupId(999), 0).error, ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn a_client_with_another_epoch_is_told_so() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    rig.fill(group, 2, 10);
    let old = epoch(&mut rig, group);
    let mut rig = rig.crash();
    rig.fill(group, 1, 10);
    let new = epoch(&mut rig, group);
    assert!(new > old);
    let fetch = |rig: &mut Rig, item: FetchItem| {
        let slice = FetchSlice { items: vec![item], ..fetch_of(&[], 0) };
        rig.fetch_slice(slice).remove(0)
    };
    for (believed, error) in [
        (old, ErrorCode::FencedLeaderEpoch),
        (LeaderEpoch(new.0 + 1), ErrorCode::UnknownLeaderEpoch),
        (new, ErrorCode::None),
    ] {
        let item = FetchItem { current_epoch: believed, ..fetch_item(group, 0) };
        assert_eq!(fetch(&mut rig, item).error, error);
    }
    let item = FetchItem { last_fetched_epoch: old, ..fetch_item(group, 3) };
    let outcome = fetch(&mut rig, item);
    assert_eq!(outcome.diverging, Some((old, KafkaOffset(2))), "the old epoch ended at 2");
    let item = FetchItem { last_fetched_epoch: old, ..fetch_item(group, 2) };
    assert_eq!(fetch(&mut rig, item).diverging, None);
}

#[test]
fn another_shard_may_end_the_wait() {
    let mut rig = Rig::new();
    let group = rig.topic(TOPIC, 1, &[]);
    let call = waiting(&mut rig, fetch_of(&[(group, 0)], 60_000));
    rig.ask(Request::FetchNow { fetch: call });
    rig.settle();
    assert_eq!(outcomes(rig.take(call))[0].error, ErrorCode::None);
    rig.ask(Request::FetchNow { fetch: call });
    rig.settle();
    assert!(rig.replies.is_empty(), "once is enough");
}

#[test]
fn a_fetch_ends_with_its_topic() {
    for held in [false, true] {
        let limits = ShardLimits { tail_bytes_max: 64 << 10, ..Setup::default().limits };
        let mut rig = Rig::with(Setup { limits, ..Setup::default() });
        let group = rig.topic(TOPIC, 1, &[]);
        rig.fill(group, 10, 10 << 10);
        rig.advance(2_000);
        // With jobs held, a read from files and a write are under way when the topic goes.
        rig.hold_jobs = held;
        let from = if held { 0 } else { 10 };
        let call = rig.ask(Request::Fetch(fetch_of(&[(group, from)], 60_000)));
        rig.settle();
        let name = TopicName(StrBytes::from_static_str(TOPIC));
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name]).with_timeout_ms(1_000);
        rig.admin(AdminRequest::DeleteTopics(request, 3));
        rig.hold_jobs = false;
        rig.run_jobs();
        rig.settle();
        let outcome = outcomes(rig.take(call)).remove(0);
        assert!(held || outcome.error == ErrorCode::UnknownTopicOrPartition, "{outcome:?}");
        assert!(rig.shard.fetches.is_empty() && rig.shard.jobs.is_empty() && rig.shard.dying.is_empty());
        assert!(rig.files(TOPIC, 0, "").is_empty());
    }
}

#[test]
fn a_segment_dropped_while_it_is_read_is_out_of_range() {
    let limits = ShardLimits { tail_bytes_max: 256 << 10, ..Setup::default().limits };
    let mut rig = Rig::with(Setup { limits, ..Setup::default() });
    let group = rig.topic(TOPIC, 1, &[("segment.bytes", "1048576"), ("file.delete.delay.ms", "0")]);
    rig.fill(group, 25, 100 << 10);
    rig.advance(2_000);
    rig.hold_jobs = true;
    let call = rig.ask(Request::Fetch(fetch_of(&[(group, 0)], 0)));
    rig.settle();
    let mut reads = std::mem::take(&mut rig.jobs);
    rig.hold_jobs = false;
    assert_eq!(rig.delete_records(group, 20), Ok(KafkaOffset(20)));
    rig.advance(3_000);
    assert!(!rig.files(TOPIC, 0, ".log").iter().any(|name| name.starts_with("00000000000000000000")));
    rig.jobs.append(&mut reads);
    rig.run_jobs();
    rig.settle();
    assert_eq!(outcomes(rig.take(call))[0].error, ErrorCode::OffsetOutOfRange);
}
