//! `bench/compare` in small: one group of scenarios on both sides, and the table of it. What it measures in a debug build means
//! nothing and is not looked at.

use chronik_tests::compare::{Plan, carry_out, groups};
use chronik_tests::toolchain::Toolchain;
use chronik_tests::{lock, report};
use std::time::Duration;

#[test]
fn both_sides_are_started_measured_and_set_side_by_side() {
    if !Toolchain::Java.ready() {
        return;
    }
    let _heavy = lock::heavy();
    let plan = Plan {
        nodes: 1,
        rounds: 1,
        load: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        only: Some("start".into()),
        kills: 1,
        restart_bytes: 1 << 20,
    };
    assert_eq!(groups(&plan).len(), 1);
    assert!(groups(&Plan { only: Some("no such group".into()), ..plan.clone() }).is_empty());
    let table = carry_out(&plan, report).markdown();
    let rows: Vec<&str> = table.lines().filter(|line| line.contains(" × |")).collect();
    assert!(rows.len() >= 2, "rows with a ratio:\n{table}");
    assert!(rows[0].starts_with("| start to the first Metadata answer |"), "{table}");
}
