//! Three nodes under load with a fault every ten seconds: kill -9, pause, cut, in turn, of a random node or the leader. No
//! acknowledged record is lost, none reordered, no idempotent duplicate, no commit lost; records are acknowledged again after
//! each fault; no panic and no "Cannot propose" in any log.
//!
//! CI gives it a minute; `CHRONIK_CHAOS_SECONDS=1800` the half hour. `CHRONIK_CHAOS_SEED` repeats the faults of a run.

use chronik_tests::chaos::Faults;
use chronik_tests::cluster::{Cluster, Options};
use chronik_tests::topics::create_replicated;
use chronik_tests::workload::{self, Load, longest_gap};
use chronik_tests::{lock, report};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TOPIC: &str = "chaos";
const PARTITIONS: i32 = 6;
const LED_TIMEOUT: Duration = Duration::from_secs(20);
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// The time in which a kill's cost is looked for.
const GAP_WINDOW: Duration = Duration::from_secs(8);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// One history of everything: the faults, then the kills of leaders, the rolling restart, and the end of all three.
#[test]
fn nothing_is_lost_through_kills_pauses_and_cuts() {
    let _heavy = lock::heavy();
    let seconds = number("CHRONIK_CHAOS_SECONDS", 60);
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_millis();
    let seed = number("CHRONIK_CHAOS_SEED", u64::try_from(fresh).expect("a moment of our time"));
    report(&format!("CHRONIK_CHAOS_SEED={seed} CHRONIK_CHAOS_SECONDS={seconds}"));
    let mut cluster = Cluster::start_with("chaos", Options::default().cuts());
    create_replicated(&mut cluster.connect(1), TOPIC, PARTITIONS, &[]);
    cluster.wait_led(TOPIC, LED_TIMEOUT);
    let load = Load::start(&workload::Options::usual(&cluster.bootstrap(), TOPIC, PARTITIONS));
    load.wait_progress("before the first fault", 100, PROGRESS_TIMEOUT);
    load.wait_group_settled(PROGRESS_TIMEOUT);
    let injected = Faults::new(seed, TOPIC, 0).run(&mut cluster, &load, Duration::from_secs(seconds));
    cluster.check_logs();
    let addresses: Vec<String> = cluster.ids().into_iter().map(|id| cluster.address(id)).collect();
    let finished = load.finish(&addresses);
    for fault in &injected {
        let gap = longest_gap(&finished.history, &(TOPIC.into(), 0), fault.at, fault.at + GAP_WINDOW);
        let (kind, node, leader) = (fault.fault, fault.node, if fault.leader { ", the leader" } else { "" });
        report(&format!("{kind:?} of node {node}{leader} at {:?}: {gap:?}", fault.at));
    }
    let findings = finished.assert_clean(usize::try_from(seconds * 20).expect("a small number"));
    report(&format!("{} faults; {findings:?}", injected.len()));
}
