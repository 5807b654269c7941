//! Loading, losing leadership and coming back: behaviour 35 of the protocol notes.

use kafka_protocol::messages::{DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest};

use super::*;

fn every_request() -> Vec<(i16, RequestKind)> {
    let groups = vec![GroupId(text("g"))];
    let mut requests = vec![
        (9, join_request("g", "")),
        (5, sync_request("g", "m", 1, &[])),
        (5, leave_request("g", &[("m", None)])),
        (5, RequestKind::ListGroups(ListGroupsRequest::default())),
        (6, RequestKind::DescribeGroups(DescribeGroupsRequest::default().with_groups(groups.clone()))),
        (2, RequestKind::DeleteGroups(DeleteGroupsRequest::default().with_groups_names(groups))),
        (0, RequestKind::OffsetDelete(Default::default())),
    ];
    requests.extend((2..=9).map(|version| (version, commit_request("g", 1))));
    requests.extend((1..=9).map(|version| (version, fetch_request("g", &[("t", 0)], true))));
    requests
}

/// The error of an answer, wherever its kind keeps it.
fn code(response: &GroupResponse) -> Option<i16> {
    Some(match response {
        GroupResponse::JoinGroup(response) => response.error_code,
        GroupResponse::SyncGroup(response) => response.error_code,
        GroupResponse::Heartbeat(response) => response.error_code,
        GroupResponse::LeaveGroup(response) => response.error_code,
        GroupResponse::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
        GroupResponse::OffsetFetch(response) if !response.groups.is_empty() => response.groups[0].error_code,
        // Version 1 with null topics has no place for an error at all.
        GroupResponse::OffsetFetch(response) if response.error_code == 0 => return None,
        GroupResponse::OffsetFetch(response) => response.error_code,
        GroupResponse::OffsetDelete(response) => response.error_code,
        GroupResponse::ListGroups(response) => response.error_code,
        GroupResponse::DescribeGroups(response) => response.groups[0].error_code,
        GroupResponse::DeleteGroups(response) => response.results[0].error_code,
    })
}

#[test]
fn nothing_is_served_before_the_log_is_read_and_after_leadership_is_lost() {
    let mut bench = Bench::new();
    bench.coordinator = coordinator(&GroupConfig::default(), 0);
    for (version, request) in every_request() {
        let response = bench.ask(version, request);
        assert!(code(&response).is_none_or(|code| code == 14), "{response:?}");
    }
    assert_eq!(
        bench.heartbeat("g", "m", 1),
        0,
        "a heartbeat is never the reason to leave a group that is being read"
    );
    bench.coordinator.deactivate();
    for (version, request) in every_request() {
        let response = bench.ask(version, request);
        assert!(code(&response).is_none_or(|code| code == 16), "{response:?}");
    }
    assert_eq!(bench.heartbeat("g", "m", 1), 16);
}

#[test]
fn whoever_waits_is_told_when_leadership_is_lost() {
    let mut bench = Bench::new();
    bench.stable_group("s", 2);
    let (joining, member) = bench.join("g", "");
    bench.advance(3_000);
    assert_eq!(joined(bench.answer(joining)).error_code, 0);
    let (joining, _) = bench.join("j", "");
    bench.is_stalled = true;
    let waiting = [
        bench.send(5, sync_request("g", &member, 1, &[(&member, b"x")])),
        bench.send(9, commit_request("c", 1)),
        bench.send(9, fetch_request("c", &[("t", 0)], true)),
        joining,
    ];
    let deletion = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text("nowhere"))]);
    bench.ask(2, RequestKind::DeleteGroups(deletion));
    bench.coordinator.deactivate();
    bench.drain();
    for call in waiting {
        assert_eq!(code(&bench.answer(call).unwrap()), Some(16));
    }
    assert!(bench.versions.is_empty());
    assert_eq!(bench.coordinator.next_deadline_ms(), None);
}

#[test]
fn a_late_result_for_a_deposed_coordinator_does_nothing() {
    let mut bench = Bench::new();
    bench.is_stalled = true;
    let call = bench.send(9, commit_request("g", 1));
    bench.coordinator.deactivate();
    bench.drain();
    assert_eq!(commit_code(bench.answer(call)), 16);
    bench.commit_all();
    assert!(!bench.coordinator.is_active());
    assert_eq!(bench.coordinator.committed_offsets().count(), 0);
}

#[test]
fn members_go_on_after_a_failover_without_losing_the_generation() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 3);
    bench.ask(9, member_commit("g", &members[0], 1, 42));
    bench.advance(5_000);
    bench.fail_over();
    assert_eq!((bench.state_of("g"), bench.generation_of("g")), ("Stable", 1));
    for member in &members {
        assert_eq!(bench.heartbeat("g", member, 1), 0);
        let sync = synced(Some(bench.ask(5, sync_request("g", member, 1, &[]))));
        assert_eq!(&sync.assignment[..], member.as_bytes());
    }
    assert_eq!(bench.coordinator.groups["g"].leader.as_deref(), Some(members[0].as_str()));
    assert_eq!(bench.fetched("g"), 42);
    // Their sessions began anew with the coordinator.
    bench.advance(9_999);
    assert_eq!(bench.state_of("g"), "Stable");
    bench.advance(1);
    assert_eq!(bench.state_of("g"), "Empty");
}

#[test]
fn a_group_that_is_too_large_for_a_lowered_limit_rebalances_when_loaded() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    bench.config.max_size = 1;
    bench.fail_over();
    assert_eq!(bench.state_of("g"), "PreparingRebalance");
    assert_eq!(bench.heartbeat("g", &members[0], 1), 27);
}

#[test]
fn a_static_member_keeps_its_new_id_over_a_failover() {
    let mut bench = Bench::new();
    let body = join_body("g", "").with_group_instance_id(Some(text("i")));
    let call = bench.send(9, RequestKind::JoinGroup(body.clone()));
    bench.advance(3_000);
    let first = joined(bench.answer(call)).member_id;
    bench.ask(5, sync_request("g", &first, 1, &[(&first, b"x")]));
    let second = joined(Some(bench.ask(9, RequestKind::JoinGroup(body)))).member_id;
    bench.fail_over();
    assert_eq!(bench.heartbeat("g", &second, 1), 0);
    assert_eq!(bench.heartbeat("g", &first, 1), 25);
}

#[test]
fn a_damaged_record_is_skipped_and_counted() {
    let mut bench = Bench::new();
    bench.stable_group("g", 1);
    bench.ask(9, commit_request("h", 7));
    let mut fresh = coordinator(&GroupConfig::default(), 1 << 64);
    assert!(fresh.load(b"\x00\x02\x00\x05ab", Some(b"")).is_err());
    assert!(fresh.load(b"\x00\x02\x00\x01g", Some(b"\x00\x03\x7f")).is_err());
    assert!(fresh.load(b"\x00\x09", None).is_err());
    load(&mut fresh, &bench.log);
    fresh.activate(0, EPOCH_MS);
    assert_eq!(fresh.unreadable_count(), 3);
    assert_eq!(fresh.committed_offsets().collect::<Vec<_>>(), [("h", "t", 0, 7)]);
}

#[test]
fn live_records_are_the_whole_state_and_count_what_is_in_flight() {
    let mut bench = Bench::new();
    bench.stable_group("g", 2);
    for offset in 0..100 {
        bench.ask(9, commit_request("h", offset));
    }
    bench.is_stalled = true;
    bench.send(9, commit_request("h", 100));
    let live: Vec<Record> = bench.coordinator.live_records().collect();
    assert_eq!(live.len(), 2);
    let mut fresh = coordinator(&GroupConfig::default(), 1 << 64);
    load(&mut fresh, &live);
    fresh.activate(0, EPOCH_MS);
    assert_eq!(fresh.committed_offsets().collect::<Vec<_>>(), [("h", "t", 0, 100)]);
    assert_eq!(fresh.groups["g"].members.len(), 2);
}

#[test]
fn a_group_whose_first_record_fails_was_never_there() {
    let mut bench = Bench::new();
    bench.is_stalled = true;
    let call = bench.send(3, join_request("g", ""));
    bench.fail_one(AppendError::NotEnoughReplicas);
    assert_eq!(joined(bench.answer(call)).error_code, 15);
    assert_eq!(bench.state_of("g"), "none");
    assert_eq!(bench.coordinator.next_deadline_ms(), Some(600_000), "no timer is left but expiry");
}
