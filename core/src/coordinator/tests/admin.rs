//! ListGroups, DescribeGroups, DeleteGroups: behaviour 37 of the protocol notes.

use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest};

use super::*;

fn listed(bench: &mut Bench, states: &[&str], types: &[&str]) -> Vec<(String, String, String)> {
    let request = ListGroupsRequest::default()
        .with_states_filter(states.iter().map(|state| text(state)).collect())
        .with_types_filter(types.iter().map(|name| text(name)).collect());
    match bench.ask(5, RequestKind::ListGroups(request)) {
        GroupResponse::ListGroups(response) => response
            .groups
            .iter()
            .map(|group| {
                assert_eq!(group.group_type.as_str(), "classic");
                (group.group_id.to_string(), group.protocol_type.to_string(), group.group_state.to_string())
            })
            .collect(),
        other => panic!("not a ListGroups answer: {other:?}"),
    }
}

fn described(bench: &mut Bench, version: i16, group: &str) -> DescribedGroup {
    let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
    match bench.ask(version, RequestKind::DescribeGroups(request)) {
        GroupResponse::DescribeGroups(mut response) => response.groups.remove(0),
        other => panic!("not a DescribeGroups answer: {other:?}"),
    }
}

fn delete_request(groups: &[&str]) -> RequestKind {
    let names = groups.iter().map(|group| GroupId(text(group))).collect();
    RequestKind::DeleteGroups(DeleteGroupsRequest::default().with_groups_names(names))
}

fn delete_codes(response: Option<GroupResponse>) -> Vec<i16> {
    match response {
        Some(GroupResponse::DeleteGroups(response)) => {
            response.results.iter().map(|result| result.error_code).collect()
        }
        other => panic!("not a DeleteGroups answer: {other:?}"),
    }
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut bench = Bench::new();
    bench.stable_group("live", 1);
    bench.ask(9, commit_request("simple", 1));
    let live = ("live".to_owned(), "consumer".to_owned(), "Stable".to_owned());
    let simple = ("simple".to_owned(), String::new(), "Empty".to_owned());
    assert_eq!(listed(&mut bench, &[], &[]), [live.clone(), simple.clone()]);
    assert_eq!(listed(&mut bench, &[" STABLE"], &[]), [live]);
    assert_eq!(listed(&mut bench, &["empty", "dead"], &["Classic"]), [simple]);
    assert_eq!(listed(&mut bench, &[], &["consumer"]), []);
    assert_eq!(listed(&mut bench, &["none"], &[]), []);
}

#[test]
fn a_group_that_is_not_yet_committed_is_not_shown() {
    let mut bench = Bench::new();
    bench.is_stalled = true;
    bench.send(9, commit_request("g", 1));
    assert_eq!(listed(&mut bench, &[], &[]), []);
    assert_eq!(described(&mut bench, 6, "g").error_code, 69);
    bench.commit_all();
    assert_eq!(listed(&mut bench, &[], &[]).len(), 1);
}

#[test]
fn a_missing_group_is_dead_and_an_error_from_version_6_on() {
    let mut bench = Bench::new();
    for version in 0..=6 {
        let group = described(&mut bench, version, "nowhere");
        let code = if version == 6 { 69 } else { 0 };
        assert_eq!((group.group_state.as_str(), group.error_code), ("Dead", code), "version {version}");
        assert_eq!(group.error_message.is_some(), version == 6);
    }
}

#[test]
fn a_group_that_is_named_twice_is_described_once() {
    let mut bench = Bench::new();
    let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("g")); 3]);
    let GroupResponse::DescribeGroups(response) = bench.ask(5, RequestKind::DescribeGroups(request)) else {
        panic!("not a DescribeGroups answer")
    };
    assert_eq!(response.groups.len(), 1);
}

#[test]
fn members_are_described_with_metadata_in_a_stable_group_only() {
    let mut bench = Bench::new();
    let members = bench.stable_group("g", 2);
    let group = described(&mut bench, 5, "g");
    assert_eq!((group.group_state.as_str(), group.protocol_type.as_str()), ("Stable", "consumer"));
    assert_eq!((group.protocol_data.as_str(), group.members.len()), ("range", 2));
    let member = &group.members[0];
    assert!(members.contains(&member.member_id.to_string()));
    assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("client", "/10.0.0.1"));
    assert_eq!(member.member_metadata, subscription());
    assert_eq!(&member.member_assignment[..], member.member_id.as_bytes());
    bench.join("g", "");
    let group = described(&mut bench, 5, "g");
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str()), ("PreparingRebalance", ""));
    assert!(group.members.iter().all(|member| member.member_metadata.is_empty()));
}

#[test]
fn only_empty_groups_are_deleted() {
    let mut bench = Bench::new();
    bench.stable_group("live", 1);
    bench.ask(9, commit_request("simple", 1));
    let codes = delete_codes(Some(bench.ask(2, delete_request(&["live", "simple", "nowhere", "simple"]))));
    assert_eq!(codes, [68, 0, 69, 69]);
    assert_eq!(bench.fetched("simple"), -1);
    assert_eq!(listed(&mut bench, &[], &[]).len(), 1);
    bench.fail_over();
    assert_eq!((bench.state_of("simple"), bench.state_of("live")), ("none", "Stable"));
}

#[test]
fn a_deletion_is_answered_when_committed_and_the_group_is_out_of_reach_meanwhile() {
    let mut bench = Bench::new();
    bench.ask(9, commit_request("g", 1));
    bench.is_stalled = true;
    let call = bench.send(2, delete_request(&["g"]));
    assert!(bench.answer(call).is_none());
    assert_eq!(bench.fetched("g"), 1, "it is still there for whoever reads");
    assert_eq!(joined(Some(bench.ask(9, join_request("g", "")))).error_code, 15);
    assert_eq!(commit_code(Some(bench.ask(9, commit_request("g", 2)))), 15);
    assert_eq!(delete_codes(Some(bench.ask(2, delete_request(&["g"])))), [69]);
    bench.commit_all();
    assert_eq!(delete_codes(bench.answer(call)), [0]);
    assert_eq!(bench.state_of("g"), "none");
}

#[test]
fn a_deletion_that_fails_leaves_the_group() {
    let mut bench = Bench::new();
    bench.ask(9, commit_request("g", 1));
    bench.is_stalled = true;
    let call = bench.send(2, delete_request(&["g"]));
    bench.fail_one(AppendError::NotEnoughReplicas);
    assert_eq!(delete_codes(bench.answer(call)), [15]);
    assert_eq!((bench.fetched("g"), bench.state_of("g")), (1, "Empty"));
    // Nor does one that takes too long decide anything before it is decided.
    let call = bench.send(2, delete_request(&["g"]));
    bench.advance(5_000);
    assert_eq!(delete_codes(bench.answer(call)), [15]);
    assert_eq!(bench.state_of("g"), "Dead");
    bench.commit_all();
    assert_eq!(bench.state_of("g"), "none");
}
