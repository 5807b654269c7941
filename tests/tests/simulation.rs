//! One node, and three, in simulation, with fresh seeds at every run of the suite.
//!
//! `CHRONIK_SEED=n` runs that seed alone, `CHRONIK_SEEDS=n` so many fresh ones, of one node with the filter `fresh_seeds --exact`
//! and of three with `fresh_seeds_of_clusters`. A failure prints its seed. `CHRONIK_FIRST=n` with `CHRONIK_SEEDS` runs that
//! many from there on, tells each, and goes on after a failure: to see how often what fails.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chronik_tests::sim::{RunPlan, run};

/// How long fresh seeds of a node on its own are tried.
const FRESH: Duration = Duration::from_secs(20);

/// How long fresh seeds of clusters are tried.
const FRESH_CLUSTERS: Duration = Duration::from_secs(40);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs the seed that is asked for, or fresh ones; says how much was done.
#[expect(clippy::print_stderr, reason = "the seeds are what a person needs to see")]
fn fresh(for_so_long: Duration, plan: impl Fn(u64) -> RunPlan) {
    if let Some(seed) = number("CHRONIK_SEED") {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let report = run(&plan(seed)).unwrap_or_else(|why| panic!("{why}"));
        eprintln!("{report:?}");
        return;
    }
    let (begun, count) = (Instant::now(), number("CHRONIK_SEEDS"));
    let listed = number("CHRONIK_FIRST");
    let first: u64 = listed.unwrap_or_else(|| rand::random::<u64>() >> 16);
    let (mut failures, mut counts) = (0, BTreeMap::<&str, u64>::new());
    let (mut steps, mut faults, mut virtual_ms) = (0, 0, 0);
    for done in 0.. {
        if count.map_or(begun.elapsed() > for_so_long, |count| done >= count) {
            eprintln!(
                "{done} seeds from {first}: {steps} steps, {faults} faults, {} s of virtual time",
                virtual_ms / 1_000
            );
            eprintln!("{counts:?}");
            assert_eq!(failures, 0, "seeds that failed");
            return;
        }
        let seed_begun = Instant::now();
        let report = match run(&plan(first + done)) {
            Ok(report) => report,
            Err(why) if listed.is_none() => panic!("{why}"),
            Err(why) => {
                failures += 1;
                eprintln!("{why}");
                continue;
            }
        };
        if listed.is_some() {
            eprintln!("{}: {} steps, {:?}", first + done, report.steps, seed_begun.elapsed());
        }
        steps += report.steps;
        faults += report.faults();
        virtual_ms += report.virtual_ms;
        report.counts.iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
    }
}

#[test]
fn fresh_seeds() {
    fresh(FRESH, RunPlan::random);
}

/// Three nodes, of which some are joined by a fourth.
#[test]
fn fresh_seeds_of_clusters() {
    fresh(FRESH_CLUSTERS, |seed| RunPlan::cluster(seed, 3));
}

/// The same seed gives the same run, step by step.
#[test]
fn a_seed_is_a_run() {
    for plan in [RunPlan::random(1), RunPlan::random(17), RunPlan::cluster(5, 3)] {
        let first = run(&plan).unwrap();
        let second = run(&plan).unwrap();
        assert_eq!((first.trace, first.steps), (second.trace, second.steps));
        assert_eq!(first.counts, second.counts);
        assert!(first.acknowledged > 100, "{first:?}");
    }
}

/// A run of one script, crashed at every writing step of the disk, and again during the recovery that follows.
#[test]
#[expect(clippy::print_stderr, reason = "how many crash points there were")]
fn a_crash_at_every_write() {
    let plan = |crash| RunPlan {
        operations: 140,
        crashes: 0,
        disk_faults: false,
        reshard: false,
        crash_at_steps: crash,
        ..RunPlan::random(SCRIPT_SEED)
    };
    let whole = run(&plan(Some((u64::MAX, None)))).unwrap();
    let steps = whole.disk_steps;
    assert!(steps > 300, "{whole:?}");
    let (stride, mut runs) = (number("CHRONIK_STRIDE").unwrap_or(1), 0);
    for first in (1..steps).step_by(stride as usize) {
        // The step of the recovery moves on with the step of the first crash. Every third keeps the suite quick.
        let again = (first % 3 == 0).then_some(1 + (first * 7) % 40);
        for second in [None, again].into_iter().take(1 + usize::from(again.is_some())) {
            runs += 1;
            run(&plan(Some((first, second))))
                .unwrap_or_else(|why| panic!("crash at step {first}, then {second:?}: {why}"));
        }
    }
    eprintln!("{runs} runs with a crash at each of {steps} writing steps");
}

/// The seed of the scripted workload.
const SCRIPT_SEED: u64 = 20_260_101;

/// Each planted bug is found, or the simulator would be blind to real ones like it.
#[cfg(debug_assertions)]
#[test]
#[expect(clippy::print_stderr, reason = "how each was found")]
fn planted_bugs_are_found() {
    use chronik_tests::sim::{Bug, Planted};
    let bugs = [
        Planted::Within(Bug::RecycledEarly),
        Planted::DurableBeforeWrite,
        Planted::TurnNotSynced,
        Planted::TurnCutShort,
        Planted::FilesNotSynced,
        Planted::NamesNotSynced,
        Planted::ProducersForgotten,
        Planted::WriteErrorIgnored,
        Planted::AnsweredTwice,
        Planted::AnswerLost,
        Planted::WatermarkAhead,
    ];
    for planted in bugs {
        let found = (0..40).find_map(|seed| {
            let plan = RunPlan { planted: Some(planted), ..RunPlan::random(seed) };
            let found = run(&plan).err()?;
            // It is the planted bug that was found: without it the seed passes.
            run(&RunPlan::random(seed)).unwrap_or_else(|why| panic!("{why}"));
            Some(found)
        });
        let why = found.unwrap_or_else(|| panic!("{planted:?} was not found within 40 seeds"));
        eprintln!("{planted:?}: {}", &why[..why.len().min(160)]);
    }
}

/// Bugs of clusters, most of them within the product: each is found.
#[cfg(debug_assertions)]
#[test]
#[expect(clippy::print_stderr, reason = "how each was found")]
fn planted_bugs_of_clusters_are_found() {
    use chronik_tests::sim::{Bug, Planted};
    // With each the seed to begin with: one that found it once, so that the suite is quick.
    let bugs = [
        (Planted::WipedVotes, 4_000),
        (Planted::DurableBeforeWrite, 15),
        (Planted::Within(Bug::HardStateDropped), 0),
        (Planted::Within(Bug::TruncationSkipped), 0),
        (Planted::Within(Bug::ProducersForgotten), 0),
        (Planted::Within(Bug::QuorumUnchecked), 75),
        (Planted::Within(Bug::WaiterByIndex), 1),
        (Planted::Within(Bug::TrimmedAlone), 2),
    ];
    for (planted, first) in bugs {
        let found = (first..first + SEEDS_FOR_A_BUG).find_map(|seed| {
            // Disks are lost only where that is what it takes: the others are found sooner without.
            let loses = planted == Planted::WipedVotes;
            let sound = RunPlan { wipes: loses, bit_rot: false, ..RunPlan::fixed_cluster(seed, 3) };
            let found = run(&RunPlan { planted: Some(planted), ..sound.clone() }).err()?;
            // What a run without the bug does not find was found because of it.
            run(&sound).is_ok().then_some(found)
        });
        let why = found.unwrap_or_else(|| panic!("{planted:?} was not found within {SEEDS_FOR_A_BUG} seeds"));
        eprintln!("{planted:?}: {}", why.chars().take(200).collect::<String>());
    }
}

/// So many runs may be needed to find a planted bug: the rarest of them shows in one of about eighty.
#[cfg(debug_assertions)]
const SEEDS_FOR_A_BUG: u64 = 300;
