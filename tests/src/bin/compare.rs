//! `bench/compare`: chronik against Apache Kafka on this machine. See [`chronik_tests::compare`].

use chronik_tests::compare::{Plan, carry_out, groups};
use chronik_tests::{lock, report};
use clap::Parser;
use std::io::Write;
use std::time::Duration;

/// Starts chronik and Apache Kafka (from its Maven artifacts) in turn, runs the same scenarios on both, and prints one table.
#[derive(Debug, Parser)]
#[command(name = "bench/compare", max_term_width = 100)]
struct Arguments {
    /// Nodes on each side: 1, or 3 with replication 3 and min.insync.replicas 2.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    nodes: u8,
    /// How often each scenario is run on each side, in turn; the table has medians.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds that each load lasts.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Only this group of scenarios (one node: small, large, steady, partitions, start, topics, restart;
    /// three: loads, faults, topics).
    #[arg(long)]
    only: Option<String>,
    /// Leaders of chronik that are killed, in all rounds together; of Kafka's a fifth.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    kills: u16,
    /// GiB in the log of the restart scenario.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1000))]
    restart_gib: u64,
}

/// Long enough for what comes once in ten seconds.
const IDLE: Duration = Duration::from_secs(15);

fn main() {
    let arguments = Arguments::parse();
    if cfg!(debug_assertions) {
        refuse("a debug build says nothing about speed: start bench/compare");
    }
    if arguments.nodes == 2 {
        refuse("--nodes is 1 or 3: two nodes survive no more than one does");
    }
    let plan = Plan {
        nodes: arguments.nodes.into(),
        rounds: arguments.rounds.into(),
        load: Duration::from_secs(arguments.seconds),
        idle: IDLE,
        only: arguments.only,
        kills: arguments.kills.into(),
        restart_bytes: arguments.restart_gib << 30,
    };
    if groups(&plan).is_empty() {
        refuse("no group of scenarios has such a name: see --help");
    }
    let _heavy = lock::heavy();
    let table = carry_out(&plan, report);
    // Who closes standard output wants no table.
    let _ = std::io::stdout().write_all(format!("\n{}", table.markdown()).as_bytes());
}

fn refuse(text: &str) -> ! {
    report(&format!("bench/compare: {text}"));
    std::process::exit(2);
}
