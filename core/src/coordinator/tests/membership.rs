//! Joining, syncing, heartbeats, leaving, and the clock: behaviours 31 and 32 of the protocol notes.

use super::*;

#[test]
fn a_member_without_an_id_is_given_one_to_come_back_with() {
    let mut bench = Bench::new();
    let first = joined(Some(bench.ask(4, join_request("g", ""))));
    assert_eq!((first.error_code, first.generation_id), (79, -1));
    assert!(first.member_id.starts_with("client-"));
    let call = bench.send(4, join_request("g", &first.member_id));
    bench.advance(3_000);
    let second = joined(bench.answer(call));
    assert_eq!((second.error_code, second.generation_id), (0, 1));
    assert_eq!(second.member_id, first.member_id);
    assert_eq!((&second.leader, second.members.len()), (&first.member_id, 1));
    assert_eq!(second.members[0].metadata, subscription());
}

#[test]
fn versions_below_4_join_at_once() {
    for version in 0..4 {
        let mut bench = Bench::new();
        let call = bench.send(version, join_request("g", ""));
        assert!(bench.answer(call).is_none(), "the initial delay runs");
        bench.advance(3_000);
        let response = joined(bench.answer(call));
        assert_eq!((response.error_code, response.generation_id), (0, 1), "version {version}");
    }
}

#[test]
fn an_id_that_is_not_used_within_the_session_timeout_is_forgotten() {
    let mut bench = Bench::new();
    let member_id = joined(Some(bench.ask(9, join_request("g", "")))).member_id;
    bench.advance(10_000);
    let late = joined(Some(bench.ask(9, join_request("g", &member_id))));
    assert_eq!(late.error_code, 25);
}

#[test]
fn join_errors() {
    let rows: &[(&str, JoinGroupRequest, i16)] = &[
        ("session too short", join_body("g", "").with_session_timeout_ms(5_999), 26),
        ("session too long", join_body("g", "").with_session_timeout_ms(1_800_001), 26),
        ("no group id", join_body("", ""), 24),
        ("unknown member of an unknown group", join_body("nowhere", "m"), 25),
        ("unknown member of a group", join_body("g", "m"), 25),
        ("unknown instance", join_body("g", "m").with_group_instance_id(Some(text("i"))), 25),
        ("other protocol type", join_body("g", "").with_protocol_type(text("connect")), 23),
        ("no common protocol", join_body("g", "").with_protocols(vec![protocol("other")]), 23),
        ("no protocol", join_body("g", "").with_protocols(Vec::new()), 23),
        ("no protocol in a new group", join_body("h", "").with_protocols(Vec::new()), 23),
        ("too many protocols", join_body("g", "").with_protocols(vec![protocol("range"); 65]), 42),
        ("group id too long for a record", join_body(&"g".repeat(40_000), ""), 42),
    ];
    for (name, request, code) in rows {
        let mut bench = Bench::new();
        bench.stable_group("g", 1);
        let response = joined(Some(bench.ask(9, RequestKind::JoinGroup(request.clone()))));
        assert_eq!(response.error_code, *code, "{name}");
        assert_eq!((response.generation_id, response.protocol_name), (-1, None), "{name}");
    }
}

#[test]
fn a_refused_join_leaves_no_group_behind() {
    let mut bench = Bench::new();
    bench.ask(9, RequestKind::JoinGroup(join_body("h", "").with_protocols(Vec::new())));
    assert_eq!(bench.state_of("h"), "none");
    assert!(bench.log.is_empty());
}

#[test]
fn the_initial_delay_is_extended_while_members_come_up_to_the_rebalance_timeout() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("g", "");
    bench.advance(2_000);
    let (second, _) = bench.join("g", "");
    bench.advance(1_000);
    assert!(bench.answer(first).is_none(), "extended because of the second");
    bench.advance(3_000);
    assert_eq!(joined(bench.answer(first)).generation_id, 1);
    assert_eq!(joined(bench.answer(second)).generation_id, 1);

    // With a steady stream of members the delay ends with the rebalance timeout of 60 s.
    let mut bench = Bench::new();
    let (first, _) = bench.join("g", "");
    for _ in 0..29 {
        bench.advance(2_000);
        bench.join("g", "");
        assert!(bench.answer(first).is_none());
    }
    bench.advance(5_000);
    assert_eq!(joined(bench.answer(first)).members.len(), 30);
}

#[test]
fn the_protocol_is_chosen_by_vote() {
    let mut bench = Bench::new();
    let votes = [&["sticky", "range"][..], &["range", "sticky"], &["range", "sticky", "own"]];
    let calls: Vec<_> = votes
        .iter()
        .map(|names| {
            let protocols = names.iter().map(|name| protocol(name)).collect();
            bench.send(3, RequestKind::JoinGroup(join_body("g", "").with_protocols(protocols)))
        })
        .collect();
    bench.advance(6_000);
    for call in calls {
        assert_eq!(joined(bench.answer(call)).protocol_name.as_deref(), Some("range"));
    }
}

#[test]
fn only_the_leader_sees_the_members_and_followers_wait_for_its_assignment() {
    let mut bench = Bench::new();
    let joins: Vec<_> = (0..3).map(|_| bench.join("g", "")).collect();
    bench.advance(6_000);
    let answers: Vec<_> = joins.iter().map(|(call, _)| joined(bench.answer(*call))).collect();
    let leader = answers[0].leader.clone();
    for answer in &answers {
        let expected = if answer.member_id == leader { 3 } else { 0 };
        assert_eq!((answer.members.len(), &answer.leader), (expected, &leader));
    }
    assert_eq!(bench.state_of("g"), "CompletingRebalance");
    let (leaders, followers): (Vec<_>, Vec<_>) =
        answers.iter().map(|answer| answer.member_id.to_string()).partition(|id| *id == *leader);
    let follower = bench.send(5, sync_request("g", &followers[0], 1, &[]));
    assert!(bench.answer(follower).is_none());
    bench.is_stalled = true;
    let assigned: [(&str, &[u8]); 1] = [(&followers[0], b"p0")];
    let leader = bench.send(5, sync_request("g", &leaders[0], 1, &assigned));
    assert!(bench.answer(leader).is_none(), "not before the assignment is committed");
    bench.commit_all();
    assert_eq!(&synced(bench.answer(follower)).assignment[..], b"p0");
    assert_eq!(&synced(bench.answer(leader)).assignment[..], b"", "the leader gave itself nothing");
    assert_eq!(bench.state_of("g"), "Stable");
    // Who comes later, or again, is told at once.
    for _ in 0..2 {
        let again = synced(Some(bench.ask(5, sync_request("g", &followers[1], 1, &[]))));
        assert_eq!((again.error_code, again.protocol_name.as_deref()), (0, Some("range")));
    }
}

#[test]
fn sync_errors() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 1);
    let member = members[0].as_str();
    let body = |group: &str, id: &str, generation| match sync_request(group, id, generation, &[]) {
        RequestKind::SyncGroup(body) => body,
        _ => unreachable!(),
    };
    let rows = [
        ("group", body("h", member, 1), 25),
        ("member", body("g", "m", 1), 25),
        ("generation", body("g", member, 2), 22),
        ("protocol type", body("g", member, 1).with_protocol_type(Some(text("connect"))), 23),
        ("protocol", body("g", member, 1).with_protocol_name(Some(text("other"))), 23),
        ("instance", body("g", member, 1).with_group_instance_id(Some(text("i"))), 25),
        ("group id", body("", member, 1), 24),
    ];
    for (name, request, code) in rows {
        assert_eq!(synced(Some(bench.ask(5, RequestKind::SyncGroup(request)))).error_code, code, "{name}");
    }
}

#[test]
fn heartbeats_tell_what_to_do() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    assert_eq!(bench.heartbeat("g", &members[0], 1), 0);
    assert_eq!(bench.heartbeat("g", &members[0], 2), 22);
    assert_eq!(bench.heartbeat("g", "m", 1), 25);
    assert_eq!(bench.heartbeat("h", &members[0], 1), 25);
    assert_eq!(bench.heartbeat("", &members[0], 1), 24);
    bench.join("g", "");
    assert_eq!(bench.heartbeat("g", &members[0], 1), 27);
}

#[test]
fn a_new_member_rebalances_the_group() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let (newcomer, _) = bench.join("g", "");
    assert_eq!(bench.state_of("g"), "PreparingRebalance");
    let calls = [newcomer, bench.join("g", &members[0]).0];
    assert!(bench.answer(newcomer).is_none());
    let last = bench.join("g", &members[1]).0;
    for call in calls.into_iter().chain([last]) {
        assert_eq!(joined(bench.answer(call)).generation_id, 2);
    }
}

#[test]
fn who_does_not_rejoin_within_the_rebalance_timeout_is_out() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let (newcomer, _) = bench.join("g", "");
    let (back, _) = bench.join("g", &members[0]);
    for _ in 0..11 {
        bench.advance(5_000);
        assert_eq!(bench.heartbeat("g", &members[1], 1), 27, "its session lives, it just does not join");
    }
    bench.advance(5_000);
    for call in [newcomer, back] {
        assert_eq!(joined(bench.answer(call)).generation_id, 2);
    }
    assert_eq!(bench.heartbeat("g", &members[1], 1), 25);
}

#[test]
fn a_silent_member_is_expired_and_signs_of_life_keep_it() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    bench.advance(9_000);
    bench.heartbeat("g", &members[0], 1);
    let commit = bench.ask(9, member_commit("g", &members[1], 1, 5));
    assert_eq!(commit_code(Some(commit)), 0);
    bench.advance(9_000);
    assert_eq!(bench.state_of("g"), "Stable");
    bench.heartbeat("g", &members[0], 1);
    bench.advance(2_000);
    assert_eq!(bench.state_of("g"), "PreparingRebalance", "the second was silent for 10 s");
    let (call, _) = bench.join("g", &members[0]);
    assert_eq!(joined(bench.answer(call)).members.len(), 1);
}

#[test]
fn a_member_that_waits_for_others_does_not_expire() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let (waiting, _) = bench.join("g", &members[0]);
    for _ in 0..10 {
        bench.advance(5_000);
        bench.heartbeat("g", &members[1], 1);
    }
    assert!(bench.answer(waiting).is_none(), "50 s with a session timeout of 10 s");
    bench.join("g", &members[1]);
    assert_eq!(joined(bench.answer(waiting)).error_code, 0);
}

#[test]
fn who_joins_but_never_syncs_is_out_after_the_rebalance_timeout() {
    let mut bench = Bench::new();
    let joins: Vec<_> = (0..2).map(|_| bench.join("g", "")).collect();
    bench.advance(6_000);
    let leader = joined(bench.answer(joins[0].0)).leader.to_string();
    let lazy = joins.iter().map(|(_, id)| id.clone()).find(|id| *id != leader).unwrap();
    bench.ask(5, sync_request("g", &leader, 1, &[(&leader, b"all")]));
    for _ in 0..12 {
        bench.heartbeat("g", &lazy, 1);
        bench.heartbeat("g", &leader, 1);
        bench.advance(5_000);
    }
    assert_eq!(bench.heartbeat("g", &lazy, 1), 25);
    assert_eq!(bench.heartbeat("g", &leader, 1), 27);
}

#[test]
fn a_member_that_rejoins_without_change_is_told_the_generation_that_runs() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let again = joined(Some(bench.ask(9, join_request("g", &members[1]))));
    assert_eq!((again.generation_id, again.members.len()), (1, 0));
    assert_eq!(bench.state_of("g"), "Stable");
    // New metadata is a rebalance, and so is any JoinGroup of the leader.
    let changed = join_body("g", &members[1]).with_protocols(vec![protocol("range"), protocol("sticky")]);
    bench.send(9, RequestKind::JoinGroup(changed));
    assert_eq!(bench.state_of("g"), "PreparingRebalance");
    let (leader, _) = bench.join("g", &members[0]);
    assert_eq!(joined(bench.answer(leader)).generation_id, 2);
}

#[test]
fn a_leaders_join_rebalances_a_stable_group() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    bench.join("g", &members[0]);
    assert_eq!(bench.state_of("g"), "PreparingRebalance");
}

#[test]
fn a_rebalance_during_the_sync_phase_sends_the_waiting_back_to_join() {
    let mut bench = Bench::new();
    let joins: Vec<_> = (0..2).map(|_| bench.join("g", "")).collect();
    bench.advance(6_000);
    let leader = joined(bench.answer(joins[0].0)).leader.to_string();
    let follower = joins.iter().map(|(_, id)| id.clone()).find(|id| *id != leader).unwrap();
    let waiting = bench.send(5, sync_request("g", &follower, 1, &[]));
    bench.is_stalled = true;
    let persisting = bench.send(5, sync_request("g", &leader, 1, &[(&leader, b"all")]));
    bench.join("g", "");
    assert_eq!(synced(bench.answer(waiting)).error_code, 27);
    assert_eq!(synced(bench.answer(persisting)).error_code, 27);
    bench.commit_all();
    assert_eq!(bench.state_of("g"), "PreparingRebalance", "the assignment of generation 1 comes too late");
}

#[test]
fn an_assignment_of_the_generation_before_does_not_end_the_sync_phase() {
    let mut bench = Bench::new();
    let (_, member) = bench.join("g", "");
    bench.advance(3_000);
    bench.is_stalled = true;
    bench.send(5, sync_request("g", &member, 1, &[(&member, b"old")]));
    let changed = join_body("g", &member).with_protocols(vec![protocol("sticky"), protocol("range")]);
    let call = bench.send(9, RequestKind::JoinGroup(changed));
    assert_eq!(joined(bench.answer(call)).generation_id, 2);
    bench.commit_all();
    assert_eq!(bench.state_of("g"), "CompletingRebalance");
    let RequestKind::SyncGroup(request) = sync_request("g", &member, 2, &[(&member, b"new")]) else {
        unreachable!()
    };
    let call = bench.send(5, RequestKind::SyncGroup(request.with_protocol_name(Some(text("sticky")))));
    bench.commit_all();
    assert_eq!(&synced(bench.answer(call)).assignment[..], b"new");
}

#[test]
fn an_assignment_that_cannot_be_stored_fails_the_sync_and_rebalances() {
    let mut bench = Bench::new();
    let (call, member) = bench.join("g", "");
    bench.advance(3_000);
    assert_eq!(joined(bench.answer(call)).error_code, 0);
    bench.is_stalled = true;
    let call = bench.send(5, sync_request("g", &member, 1, &[(&member, b"all")]));
    bench.fail_one(AppendError::NotEnoughReplicas);
    assert_eq!(synced(bench.answer(call)).error_code, 15);
    assert_eq!(bench.heartbeat("g", &member, 1), 27);
    let (call, _) = bench.join("g", &member);
    assert_eq!(joined(bench.answer(call)).generation_id, 2);
}

#[test]
fn an_assignment_that_is_not_committed_in_time_fails_the_sync() {
    let mut bench = Bench::new();
    let (_, member) = bench.join("g", "");
    bench.advance(3_000);
    bench.is_stalled = true;
    let call = bench.send(5, sync_request("g", &member, 1, &[(&member, b"all")]));
    bench.advance(4_999);
    assert!(bench.answer(call).is_none());
    bench.advance(1);
    assert_eq!(synced(bench.answer(call)).error_code, 15);
}

#[test]
fn leaving_rebalances_and_the_last_to_leave_empties_the_group() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let response = left(Some(bench.ask(5, leave_request("g", &[(&members[1], None)]))));
    assert_eq!((response.error_code, response.members[0].error_code), (0, 0));
    assert_eq!(bench.heartbeat("g", &members[0], 1), 27);
    bench.is_stalled = true;
    let last = bench.send(5, leave_request("g", &[(&members[0], None)]));
    assert!(bench.answer(last).is_none(), "the empty group is persisted first");
    bench.commit_all();
    assert_eq!(left(bench.answer(last)).members[0].error_code, 0);
    assert_eq!((bench.state_of("g"), bench.generation_of("g")), ("Empty", 2));
}

#[test]
fn leaving_by_version() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let single = |id: &str| {
        let body = LeaveGroupRequest::default().with_group_id(GroupId(text("g"))).with_member_id(text(id));
        RequestKind::LeaveGroup(body)
    };
    let unknown = left(Some(bench.ask(1, single("m"))));
    assert_eq!((unknown.error_code, unknown.members.len()), (25, 0));
    assert_eq!(left(Some(bench.ask(2, single(&members[0])))).error_code, 0);
    let batch =
        left(Some(bench.ask(3, leave_request("g", &[("m", None), (&members[1], None), ("", Some("i"))]))));
    let codes: Vec<_> = batch.members.iter().map(|member| member.error_code).collect();
    assert_eq!((batch.error_code, codes), (0, vec![25, 0, 25]));
    let nowhere = left(Some(bench.ask(5, leave_request("h", &[("m", None)]))));
    assert_eq!((nowhere.error_code, nowhere.members[0].error_code), (0, 25));
}

#[test]
fn a_pending_member_can_leave() {
    let mut bench = Bench::new();
    let member_id = joined(Some(bench.ask(9, join_request("g", "")))).member_id;
    let response = left(Some(bench.ask(5, leave_request("g", &[(&member_id, None)]))));
    assert_eq!(response.members[0].error_code, 0);
    assert_eq!(joined(Some(bench.ask(9, join_request("g", &member_id)))).error_code, 25);
}

#[test]
fn a_group_has_its_maximum_size() {
    let mut bench = Bench::with(GroupConfig { max_size: 2, ..GroupConfig::default() });
    let members = bench.stable_group("g", 2);
    let third = joined(Some(bench.ask(3, join_request("g", ""))));
    assert_eq!((third.error_code, third.member_id.as_str()), (81, ""));
    assert_eq!(bench.heartbeat("g", &members[0], 1), 0, "the members are not disturbed");
    // During the join phase those count who are there.
    bench.join("g", &members[0]);
    let newcomer = bench.send(3, join_request("g", ""));
    assert!(bench.answer(newcomer).is_none());
    let late = bench.send(9, join_request("g", &members[1]));
    assert_eq!(joined(bench.answer(late)).error_code, 81);
    assert_eq!(joined(bench.answer(newcomer)).error_code, 0);
    assert_eq!(bench.heartbeat("g", &members[1], 1), 25, "who comes back last is left out");
}

#[test]
fn the_first_join_of_a_member_waits_five_minutes_at_most() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 1);
    let long = join_body("g", "").with_rebalance_timeout_ms(1_000_000).with_session_timeout_ms(1_800_000);
    let member_id = joined(Some(bench.ask(9, RequestKind::JoinGroup(long.clone())))).member_id;
    let call = bench.send(9, RequestKind::JoinGroup(long.with_member_id(member_id)));
    for _ in 0..59 {
        bench.advance(5_000);
        bench.heartbeat("g", &members[0], 1);
    }
    assert!(bench.answer(call).is_none());
    bench.advance(5_000);
    assert_eq!(joined(bench.answer(call)).error_code, 25);
}

#[test]
fn a_request_that_is_overtaken_by_its_own_retry_is_answered() {
    let mut bench = Bench::new();
    let (first, member) = bench.join("g", "");
    let (second, _) = bench.join("g", &member);
    assert_eq!(joined(bench.answer(first)).error_code, 27);
    bench.advance(3_000);
    assert_eq!(joined(bench.answer(second)).error_code, 0);
    bench.is_stalled = true;
    let first = bench.send(5, sync_request("g", &member, 1, &[(&member, b"x")]));
    let second = bench.send(5, sync_request("g", &member, 1, &[(&member, b"x")]));
    assert_eq!(synced(bench.answer(first)).error_code, 27);
    bench.commit_all();
    assert_eq!(&synced(bench.answer(second)).assignment[..], b"x");
}
