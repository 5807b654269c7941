//! Static membership (KIP-345, KIP-814): behaviour 33 of the protocol notes.

use super::*;

fn static_join(group: &str, instance: &str, member_id: &str, protocols: &[&str]) -> RequestKind {
    let protocols = protocols.iter().map(|name| protocol(name)).collect();
    RequestKind::JoinGroup(
        join_body(group, member_id).with_group_instance_id(Some(text(instance))).with_protocols(protocols),
    )
}

/// A stable group of two static members `a` and `b`; gives their member ids and the leader's instance.
fn static_pair(bench: &mut Bench) -> ([String; 2], usize) {
    let calls = ["a", "b"].map(|name| bench.send(9, static_join("g", name, "", &["range", "sticky"])));
    bench.advance(6_000);
    let answers = calls.map(|call| joined(bench.answer(call)));
    assert!(answers[0].member_id.starts_with("a-"), "the id begins with the instance's");
    let leader = usize::from(answers[1].member_id == answers[1].leader);
    let ids = answers.map(|answer| answer.member_id.to_string());
    let assigned: Vec<_> = ids.iter().map(|id| (id.as_str(), id.as_bytes())).collect();
    for index in [1 - leader, leader] {
        let assignments = if index == leader { &assigned[..] } else { &[] };
        bench.send(5, sync_request("g", &ids[index], 1, assignments));
    }
    assert_eq!(bench.state_of("g"), "Stable");
    (ids, leader)
}

#[test]
fn a_static_member_needs_no_second_join() {
    let mut bench = Bench::new();
    let call = bench.send(9, static_join("g", "a", "", &["range"]));
    bench.advance(3_000);
    assert_eq!(joined(bench.answer(call)).error_code, 0);
}

#[test]
fn a_static_member_returns_without_a_rebalance_once_its_new_id_is_persisted() {
    for version in [5, 9] {
        let mut bench = Bench::new();
        let (ids, leader) = static_pair(&mut bench);
        let follower = ["a", "b"][1 - leader];
        let former = &ids[1 - leader];
        bench.is_stalled = true;
        let call = bench.send(version, static_join("g", follower, "", &["range", "sticky"]));
        assert!(bench.answer(call).is_none());
        bench.commit_all();
        let answer = joined(bench.answer(call));
        assert_eq!((answer.error_code, answer.generation_id, answer.skip_assignment), (0, 1, false));
        assert_ne!(answer.member_id.as_str(), former);
        assert_eq!((answer.leader.as_str(), answer.members.len()), (ids[leader].as_str(), 0));
        assert_eq!(bench.state_of("g"), "Stable");
        // It keeps the assignment of its former self.
        let sync = synced(Some(bench.ask(5, sync_request("g", &answer.member_id, 1, &[]))));
        assert_eq!(&sync.assignment[..], former.as_bytes());
        assert_eq!(bench.heartbeat("g", former, 1), 25);
    }
}

#[test]
fn a_returning_static_leader_is_told_to_leave_the_assignment_as_it_is() {
    let rows = [(9, true), (8, false)];
    for (version, skips) in rows {
        let mut bench = Bench::new();
        let (ids, leader) = static_pair(&mut bench);
        let call = bench.send(version, static_join("g", ["a", "b"][leader], "", &["range", "sticky"]));
        let answer = joined(bench.answer(call));
        assert_eq!((answer.error_code, answer.skip_assignment), (0, skips));
        if skips {
            assert_eq!((&answer.leader, answer.members.len()), (&answer.member_id, 2));
        } else {
            assert_eq!(answer.leader.as_str(), ids[leader], "an old client must not think it leads");
        }
    }
}

#[test]
fn the_former_self_is_fenced() {
    let mut bench = Bench::new();
    let (ids, leader) = static_pair(&mut bench);
    let (name, former) = (["a", "b"][1 - leader], ids[1 - leader].clone());
    bench.ask_later_join(static_join("g", name, "", &["range", "sticky"]));
    let join = bench.ask(9, static_join("g", name, &former, &["range", "sticky"]));
    assert_eq!(joined(Some(join)).error_code, 82);
    let heartbeat = HeartbeatRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(text(&former))
        .with_group_instance_id(Some(text(name)))
        .with_generation_id(1);
    let expected = kafka_protocol::messages::HeartbeatResponse::default().with_error_code(82);
    assert_eq!(bench.ask(4, RequestKind::Heartbeat(heartbeat)), GroupResponse::Heartbeat(expected));
    let commit = commit_body("g", 1)
        .with_member_id(text(&former))
        .with_group_instance_id(Some(text(name)))
        .with_generation_id_or_member_epoch(1);
    assert_eq!(commit_code(Some(bench.ask(9, RequestKind::OffsetCommit(commit)))), 82);
    let leave = left(Some(bench.ask(5, leave_request("g", &[(&former, Some(name))]))));
    assert_eq!(leave.members[0].error_code, 82);
}

impl Bench {
    fn ask_later_join(&mut self, kind: RequestKind) {
        let call = self.send(9, kind);
        assert_eq!(joined(self.answer(call)).error_code, 0);
    }
}

#[test]
fn a_join_that_waits_is_fenced_when_the_instance_joins_again() {
    let mut bench = Bench::new();
    let first = bench.send(9, static_join("g", "a", "", &["range"]));
    let second = bench.send(9, static_join("g", "a", "", &["range"]));
    assert_eq!(joined(bench.answer(first)).error_code, 82);
    bench.advance(6_000);
    assert_eq!(joined(bench.answer(second)).error_code, 0);
}

#[test]
fn a_static_member_that_changes_the_groups_protocol_rebalances_it() {
    let mut bench = Bench::new();
    let (_, leader) = static_pair(&mut bench);
    let call = bench.send(9, static_join("g", ["a", "b"][1 - leader], "", &["sticky"]));
    assert!(bench.answer(call).is_none());
    assert_eq!(bench.state_of("g"), "PreparingRebalance");
}

#[test]
fn a_static_member_that_returns_during_the_sync_phase_rebalances() {
    let mut bench = Bench::new();
    let calls = ["a", "b"].map(|name| bench.send(9, static_join("g", name, "", &["range"])));
    bench.advance(6_000);
    for call in calls {
        assert_eq!(joined(bench.answer(call)).generation_id, 1);
    }
    bench.send(9, static_join("g", "a", "", &["range"]));
    assert_eq!(bench.state_of("g"), "PreparingRebalance");
}

#[test]
fn a_new_id_that_cannot_be_persisted_is_taken_back() {
    let mut bench = Bench::new();
    let (ids, leader) = static_pair(&mut bench);
    bench.is_stalled = true;
    let call = bench.send(9, static_join("g", ["a", "b"][leader], "", &["range", "sticky"]));
    bench.fail_one(AppendError::NotEnoughReplicas);
    let answer = joined(bench.answer(call));
    assert_eq!((answer.error_code, answer.member_id.as_str()), (15, ""));
    bench.is_stalled = false;
    assert_eq!(bench.heartbeat("g", &ids[leader], 1), 0, "the former self goes on");
    assert_eq!(bench.coordinator.groups["g"].leader.as_deref(), Some(ids[leader].as_str()));
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance() {
    let mut bench = Bench::new();
    let (ids, _) = static_pair(&mut bench);
    let response = left(Some(bench.ask(5, leave_request("g", &[("", Some("a"))]))));
    assert_eq!((response.members[0].error_code, response.members[0].member_id.as_str()), (0, ""));
    assert_eq!(bench.heartbeat("g", &ids[0], 1), 25);
    assert_eq!(bench.heartbeat("g", &ids[1], 1), 27);
}

#[test]
fn a_static_member_stays_through_a_rebalance_until_its_session_ends() {
    let mut bench = Bench::new();
    let (ids, leader) = static_pair(&mut bench);
    // The leader rejoins; the other does not, but heartbeats until the rebalance timeout.
    let call = bench.send(9, static_join("g", ["a", "b"][leader], &ids[leader], &["range", "sticky"]));
    for _ in 0..12 {
        bench.advance(5_000);
        bench.heartbeat("g", &ids[1 - leader], 1);
    }
    let answer = joined(bench.answer(call));
    assert_eq!((answer.generation_id, answer.members.len()), (2, 2), "both are in the new generation");
}
