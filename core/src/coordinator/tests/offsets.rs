//! Committing, fetching, deleting and expiring offsets: behaviour 34 of the protocol notes.

use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::*;

const DAY_MS: u64 = 24 * 3_600_000;

fn delete_offset(bench: &mut Bench, group: &str) -> OffsetDeleteResponse {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic =
        OffsetDeleteRequestTopic::default().with_name(TopicName(text("t"))).with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(vec![topic]);
    match bench.ask(0, RequestKind::OffsetDelete(request)) {
        GroupResponse::OffsetDelete(response) => response,
        other => panic!("not an OffsetDelete answer: {other:?}"),
    }
}

#[test]
fn a_commit_is_answered_and_seen_when_it_is_committed() {
    let mut bench = Bench::new();
    bench.is_stalled = true;
    let first = bench.send(9, commit_request("g", 10));
    let second = bench.send(9, commit_request("g", 20));
    assert!(bench.answer(first).is_none());
    assert_eq!(bench.fetched("g"), -1);
    bench.commit_one();
    assert_eq!(commit_code(bench.answer(first)), 0);
    assert_eq!(bench.fetched("g"), 10);
    assert!(bench.answer(second).is_none());
    bench.commit_one();
    assert_eq!(commit_code(bench.answer(second)), 0);
    assert_eq!(bench.fetched("g"), 20);
}

#[test]
fn a_failed_commit_is_answered_and_never_seen() {
    let rows = [
        (AppendError::NotLeader, 16),
        (AppendError::Storage, 16),
        (AppendError::NotEnoughReplicas, 15),
        (AppendError::TooLarge, -1),
    ];
    for (error, code) in rows {
        let mut bench = Bench::new();
        bench.is_stalled = true;
        let call = bench.send(9, commit_request("g", 10));
        bench.fail_one(error);
        assert_eq!(commit_code(bench.answer(call)), code, "{error:?}");
        assert_eq!(bench.fetched("g"), -1);
        assert_eq!(bench.state_of("g"), "none", "the group was made for that commit");
        assert_eq!(bench.coordinator.next_deadline_ms(), Some(600_000), "no timer is left but expiry");
    }
}

#[test]
fn a_commit_that_times_out_may_still_come_through() {
    let mut bench = Bench::new();
    bench.is_stalled = true;
    let call = bench.send(9, commit_request("g", 10));
    bench.advance(5_000);
    assert_eq!(commit_code(bench.answer(call)), 15);
    assert_eq!(bench.fetched("g"), -1);
    bench.commit_all();
    assert_eq!(bench.fetched("g"), 10, "the log has it, so the state has it");
}

#[test]
fn who_may_commit() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 1);
    let member = members[0].as_str();
    bench.ask(9, commit_request("simple", 1));
    let rows: &[(&str, i16, RequestKind, i16)] = &[
        ("a member", 9, member_commit("g", member, 1, 5), 0),
        ("another generation", 9, member_commit("g", member, 2, 5), 22),
        ("an unknown member", 9, member_commit("g", "m", 1, 5), 25),
        ("nobody, to a group with members", 9, commit_request("g", 5), 25),
        ("a member without its generation", 9, member_commit("g", member, -1, 5), 22),
        ("nobody, to a simple group", 9, commit_request("simple", 5), 0),
        ("nobody, to a new group", 9, commit_request("new", 5), 0),
        ("nobody, to the group without a name", 9, commit_request("", 5), 0),
        ("a member of a missing group", 9, member_commit("h", "m", 1, 5), 69),
        ("a member of a missing group", 8, member_commit("h", "m", 1, 5), 22),
        ("a member of a simple group", 9, member_commit("simple", "m", 1, 5), 25),
    ];
    for (who, version, request, code) in rows {
        let response = bench.ask(*version, request.clone());
        assert_eq!(commit_code(Some(response)), *code, "{who}, version {version}");
    }
}

#[test]
fn commits_during_a_rebalance() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let (call, newcomer) = bench.join("g", "");
    assert_eq!(bench.state_of("g"), "PreparingRebalance");
    assert_eq!(commit_code(Some(bench.ask(9, member_commit("g", &members[0], 1, 7)))), 0);
    for member in &members {
        bench.join("g", member);
    }
    assert_eq!(joined(bench.answer(call)).generation_id, 2);
    assert_eq!(bench.state_of("g"), "CompletingRebalance");
    assert_eq!(commit_code(Some(bench.ask(9, member_commit("g", &newcomer, 2, 8)))), 27);
    assert_eq!(bench.fetched("g"), 7);
}

#[test]
fn metadata_has_its_limit_for_each_partition() {
    let mut bench = Bench::new();
    let mut body = commit_body("g", 5);
    let mut second = body.topics[0].partitions[0].clone();
    second.partition_index = 1;
    second.committed_metadata = Some(text(&"x".repeat(4_097)));
    // 4096 UTF-16 units in 12288 bytes: Kafka counts the former.
    body.topics[0].partitions[0].committed_metadata = Some(text(&"\u{20ac}".repeat(4_096)));
    body.topics[0].partitions.push(second);
    match bench.ask(9, RequestKind::OffsetCommit(body)) {
        GroupResponse::OffsetCommit(response) => {
            let codes: Vec<_> = response.topics[0].partitions.iter().map(|p| p.error_code).collect();
            assert_eq!(codes, [0, 12]);
        }
        other => panic!("not an OffsetCommit answer: {other:?}"),
    }
    assert_eq!(bench.fetched("g"), 5);
}

#[test]
fn fetch_by_version() {
    let mut bench = Bench::new();
    bench.ask(9, commit_request("g", 5));
    for version in 1..8 {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(TopicName(text("t")))
            .with_partition_indexes(vec![0, 3]);
        let request =
            OffsetFetchRequest::default().with_group_id(GroupId(text("g"))).with_topics(Some(vec![topic]));
        let GroupResponse::OffsetFetch(response) = bench.ask(version, RequestKind::OffsetFetch(request))
        else {
            panic!("not an OffsetFetch answer")
        };
        let partitions = &response.topics[0].partitions;
        let seen: Vec<_> =
            partitions.iter().map(|p| (p.committed_offset, p.metadata.as_deref(), p.error_code)).collect();
        assert_eq!(seen, [(5, Some("note"), 0), (-1, Some(""), 0)], "version {version}");
    }
    // Null topics: all of them. A group that is not there has none, which is no error.
    for (group, count) in [("g", 1), ("h", 0)] {
        let request = OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(None);
        let GroupResponse::OffsetFetch(response) = bench.ask(5, RequestKind::OffsetFetch(request)) else {
            panic!("not an OffsetFetch answer")
        };
        assert_eq!((response.error_code, response.topics.len()), (0, count));
    }
    // Many groups from version 8 on.
    bench.ask(9, commit_request("h", 6));
    let group =
        |name: &str| OffsetFetchRequestGroup::default().with_group_id(GroupId(text(name))).with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![group("g"), group("h"), group("x")]);
    let GroupResponse::OffsetFetch(response) = bench.ask(8, RequestKind::OffsetFetch(request)) else {
        panic!("not an OffsetFetch answer")
    };
    let counts: Vec<_> = response.groups.iter().map(|group| group.topics.len()).collect();
    assert_eq!(counts, [1, 1, 0]);
}

#[test]
fn a_fetch_of_stable_offsets_waits_for_the_commits_before_it() {
    let mut bench = Bench::new();
    bench.is_stalled = true;
    bench.send(9, commit_request("g", 10));
    let fetch = bench.send(9, fetch_request("g", &[("t", 0)], true));
    assert!(bench.answer(fetch).is_none());
    let other = bench.send(9, fetch_request("h", &[("t", 0)], true));
    assert!(bench.answer(other).is_some(), "nothing is in flight for that group");
    bench.commit_one();
    let Some(GroupResponse::OffsetFetch(response)) = bench.answer(fetch) else { panic!("no answer") };
    assert_eq!(response.groups[0].topics[0].partitions[0].committed_offset, 10);
    // When that takes too long the consumer looks for the coordinator again.
    bench.send(9, commit_request("g", 11));
    let fetch = bench.send(9, fetch_request("g", &[("t", 0)], true));
    bench.advance(5_000);
    let Some(GroupResponse::OffsetFetch(response)) = bench.answer(fetch) else { panic!("no answer") };
    assert_eq!(response.groups[0].error_code, 16);
}

#[test]
fn offsets_of_a_topic_in_use_are_not_deleted() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 1);
    bench.ask(9, member_commit("g", &members[0], 1, 5));
    assert_eq!(delete_offset(&mut bench, "g").topics[0].partitions[0].error_code, 86);
    assert_eq!(bench.fetched("g"), 5);
    bench.ask(5, leave_request("g", &[(&members[0], None)]));
    // An empty group of consumers subscribes to nothing.
    assert_eq!(delete_offset(&mut bench, "g").topics[0].partitions[0].error_code, 0);
    assert_eq!(bench.fetched("g"), -1);
    assert_eq!(delete_offset(&mut bench, "h").error_code, 69);
    assert_eq!(delete_offset(&mut bench, "").error_code, 24);
}

#[test]
fn offsets_of_other_protocols_are_not_deleted_while_members_live() {
    let mut bench = Bench::new();
    let call = bench.send(3, RequestKind::JoinGroup(join_body("g", "").with_protocol_type(text("connect"))));
    bench.advance(3_000);
    assert_eq!(joined(bench.answer(call)).error_code, 0);
    assert_eq!(delete_offset(&mut bench, "g").error_code, 68);
}

#[test]
fn a_simple_groups_offsets_expire_seven_days_after_the_commit_and_the_group_with_them() {
    let mut bench = Bench::new();
    bench.ask(9, commit_request("g", 5));
    bench.advance(7 * DAY_MS - 1);
    assert_eq!(bench.fetched("g"), 5);
    bench.advance(600_000);
    assert_eq!(bench.fetched("g"), -1);
    assert_eq!(bench.state_of("g"), "none");
    assert_eq!(bench.coordinator.live_records().count(), 0);
}

#[test]
fn an_empty_groups_offsets_expire_seven_days_after_it_became_empty() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 1);
    bench.ask(9, member_commit("g", &members[0], 1, 5));
    for _ in 0..8 * 24 * 3600 / 9 {
        bench.advance(9_000);
        bench.heartbeat("g", &members[0], 1);
    }
    assert_eq!(bench.fetched("g"), 5, "it is read, however old the commit");
    bench.ask(5, leave_request("g", &[(&members[0], None)]));
    bench.advance(7 * DAY_MS - 1_000_000);
    assert_eq!(bench.fetched("g"), 5);
    bench.advance(1_000_000 + 600_000);
    assert_eq!((bench.fetched("g"), bench.state_of("g")), (-1, "none"));
}

#[test]
fn a_stable_groups_offsets_expire_for_topics_that_it_does_not_read_any_more() {
    let config = GroupConfig { offsets_retention_ms: 60_000, ..GroupConfig::default() };
    let mut bench = Bench::with(GroupConfig { offsets_retention_check_interval_ms: 10_000, ..config });
    let members = bench.stable_group("g", 1);
    let mut old = commit_body("g", 9).with_member_id(text(&members[0])).with_generation_id_or_member_epoch(1);
    old.topics[0].name = TopicName(text("old"));
    bench.ask(9, RequestKind::OffsetCommit(old));
    bench.ask(9, member_commit("g", &members[0], 1, 5));
    for _ in 0..9 {
        bench.advance(9_000);
        bench.heartbeat("g", &members[0], 1);
    }
    let left: Vec<_> = bench.coordinator.committed_offsets().collect();
    assert_eq!(left, [("g", "t", 0, 5)]);
}

#[test]
fn a_search_for_expired_offsets_is_cut_into_ticks_and_finds_all() {
    let config = GroupConfig { offsets_retention_ms: 1_000, ..GroupConfig::default() };
    let mut bench = Bench::with(config);
    for index in 0..1_200 {
        bench.ask(9, commit_request(&format!("g{index}"), 5));
    }
    bench.now_ms = 600_000;
    let mut left = Vec::new();
    for _ in 0..3 {
        let wall_ms = bench.wall_ms();
        bench.coordinator.tick(bench.now_ms, wall_ms);
        bench.drain();
        left.push(bench.coordinator.committed_offsets().count());
        bench.now_ms += 1;
    }
    assert_eq!(left, [700, 200, 0]);
    assert_eq!(bench.coordinator.next_deadline_ms(), Some(600_002 + 600_000));
}

#[test]
fn a_client_that_gives_a_retention_time_gets_it() {
    let mut bench =
        Bench::with(GroupConfig { offsets_retention_check_interval_ms: 1_000, ..GroupConfig::default() });
    bench.ask(4, RequestKind::OffsetCommit(commit_body("g", 5).with_retention_time_ms(30_000)));
    bench.fail_over();
    bench.advance(29_000);
    assert_eq!(bench.fetched("g"), 5);
    bench.advance(2_000);
    assert_eq!(bench.fetched("g"), -1);
}

#[test]
fn a_topics_deletion_takes_its_offsets_but_not_those_of_its_successor() {
    let mut bench = Bench::new();
    let first = uuid::Uuid::from_u128(1);
    let mut with_id = commit_body("g", 5);
    with_id.topics[0].topic_id = first;
    bench.ask(9, RequestKind::OffsetCommit(with_id));
    bench.ask(9, commit_request("h", 6));
    let wall_ms = bench.wall_ms();
    bench.coordinator.topic_deleted("t", Some(uuid::Uuid::from_u128(2)), bench.now_ms, wall_ms);
    bench.drain();
    assert_eq!((bench.fetched("g"), bench.fetched("h")), (5, -1), "an offset without an id goes by the name");
    bench.coordinator.topic_deleted("t", Some(first), bench.now_ms, wall_ms);
    bench.drain();
    assert_eq!(bench.fetched("g"), -1);
    bench.fail_over();
    assert_eq!(bench.coordinator.committed_offsets().count(), 0);
}

#[test]
fn an_offset_of_another_topic_of_that_name_is_not_shown() {
    let mut bench = Bench::new();
    let mut with_id = commit_body("g", 5);
    with_id.topics[0].topic_id = uuid::Uuid::from_u128(1);
    bench.ask(9, RequestKind::OffsetCommit(with_id));
    for (topic_id, expected) in [(0, 5), (1, 5), (2, -1)] {
        let RequestKind::OffsetFetch(mut request) = fetch_request("g", &[("t", 0)], false) else {
            unreachable!()
        };
        let topics = request.groups[0].topics.as_mut().unwrap();
        topics[0].topic_id = uuid::Uuid::from_u128(topic_id);
        let GroupResponse::OffsetFetch(response) = bench.ask(9, RequestKind::OffsetFetch(request)) else {
            panic!("not an OffsetFetch answer")
        };
        assert_eq!(response.groups[0].topics[0].partitions[0].committed_offset, expected);
    }
}

/// librdkafka asks again only for partitions that it is told of (its issue 5586): a request-level NOT_COORDINATOR alone leaves the
/// consumer with its assignment and without its offsets, for good.
#[test]
fn a_fetch_at_the_former_coordinator_is_asked_again() {
    let mut bench = Bench::new();
    bench.coordinator.deactivate();
    let mut refused = |version| {
        let RequestKind::OffsetFetch(mut request) = fetch_request("g", &[("t", 0), ("t", 3)], true) else {
            unreachable!()
        };
        if version < 8 {
            let group = request.groups.pop().unwrap();
            let topics = group.topics.unwrap().into_iter().map(|topic| {
                OffsetFetchRequestTopic::default()
                    .with_name(topic.name)
                    .with_partition_indexes(topic.partition_indexes)
            });
            request = request.with_group_id(group.group_id).with_topics(Some(topics.collect()));
        }
        let GroupResponse::OffsetFetch(answer) = bench.ask(version, RequestKind::OffsetFetch(request)) else {
            panic!("not an OffsetFetch answer")
        };
        let (code, codes): (i16, Vec<i16>) = if version >= 8 {
            let group = &answer.groups[0];
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            (group.error_code, partitions.map(|partition| partition.error_code).collect())
        } else {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            (answer.error_code, partitions.map(|partition| partition.error_code).collect())
        };
        (code, codes)
    };
    assert_eq!(refused(9), (16, vec![88, 88]));
    assert_eq!(refused(8), (16, vec![88, 88]));
    assert_eq!(refused(7), (16, vec![88, 88]));
    assert_eq!(refused(6), (16, vec![]), "the code was not known yet");
    assert_eq!(refused(1), (0, vec![16, 16]), "no other place");
}

#[test]
fn an_append_is_cut_into_batches_and_answered_as_one() {
    let mut bench = Bench::new();
    let mut body = commit_body("g", 5);
    let partition = body.topics[0].partitions[0].clone();
    body.topics[0].partitions =
        (0..20_000).map(|index| partition.clone().with_partition_index(index)).collect();
    bench.is_stalled = true;
    let call = bench.send(9, RequestKind::OffsetCommit(body));
    assert!(bench.in_flight.len() > 1);
    let sizes = bench.in_flight.iter().map(|(_, records)| {
        records
            .iter()
            .map(|record| record.key.len() + record.value.as_ref().map_or(0, Bytes::len))
            .sum::<usize>()
    });
    assert!(sizes.max().unwrap() <= 256 * 1024);
    bench.fail_one(AppendError::NotEnoughReplicas);
    bench.commit_all();
    assert_eq!(commit_code(bench.answer(call)), 15, "a part has failed, so the whole has");
}
