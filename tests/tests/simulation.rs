//! One node in simulation, with fresh seeds at every run of the suite.
//!
//! `CHRONIK_SEED=n` runs that seed alone, `CHRONIK_SEEDS=n` so many fresh ones. A failure prints its seed.

use std::time::{Duration, Instant};

use chronik_tests::sim::{RunPlan, run};

/// How long fresh seeds are tried.
const FRESH: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
#[expect(clippy::print_stderr, reason = "the seeds are what a person needs to see")]
fn fresh_seeds() {
    if let Some(seed) = number("CHRONIK_SEED") {
        let report = run(&RunPlan::random(seed)).unwrap_or_else(|why| panic!("{why}"));
        eprintln!("{report:?}");
        return;
    }
    let (begun, count) = (Instant::now(), number("CHRONIK_SEEDS"));
    let first: u64 = rand::random::<u64>() >> 16;
    for done in 0.. {
        if count.map_or(begun.elapsed() > FRESH, |count| done >= count) {
            eprintln!("{done} seeds from {first}");
            return;
        }
        let report = run(&RunPlan::random(first + done)).unwrap_or_else(|why| panic!("{why}"));
        eprintln!("{report:?}");
    }
}
