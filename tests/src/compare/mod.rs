//! chronik against Apache Kafka on this machine: the same scenarios in turn, A B A B, and one table of medians and ratios.
//! `bench/compare` runs it (`src/bin/compare.rs`); nothing else does.
//!
//! Reading order: [`side`] (the nodes of one side), [`one`] and [`three`] (what is measured on one node and on three),
//! [`table`] (medians, ratios, targets).
//!
//! chronik acknowledges what is on disk (fdatasync; of three nodes on a majority). Kafka does by its defaults not flush at all,
//! and is measured so, except where a row says `flush.messages=1`.

pub mod one;
pub mod side;
pub mod table;
pub mod three;

use side::{Kind, Side};
use std::time::Duration;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Plan {
    /// One node or three.
    pub nodes: usize,
    /// How often each group of scenarios is run on each side.
    pub rounds: usize,
    /// How long each load lasts.
    pub load: Duration,
    /// How long idle nodes are watched.
    pub idle: Duration,
    /// Only the group of this name.
    pub only: Option<String>,
    /// How many leaders of chronik are killed in all rounds together; of Kafka's a fifth.
    pub kills: usize,
    /// Bytes in the log that is restarted on.
    pub restart_bytes: u64,
}

/// One measured figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was done.
    pub scenario: &'static str,
    /// What was measured.
    pub measure: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// The value.
    pub value: f64,
    /// What the ratio of chronik's median to Kafka's is meant to be.
    pub target: Option<Target>,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// At least so many times Kafka's.
    AtLeast(f64),
    /// At most so many times Kafka's.
    AtMost(f64),
    /// At most this much, whatever Kafka has.
    AtMostAbsolute(f64),
}

/// A group of scenarios that share a start of the nodes.
pub struct Group {
    /// Its name, for `--only`.
    pub name: &'static str,
    run: fn(&mut Side, &Plan) -> Vec<Figure>,
}

/// The groups of a plan.
#[must_use]
pub fn groups(plan: &Plan) -> Vec<Group> {
    let all = if plan.nodes == 1 { one::groups() } else { three::groups() };
    let wanted = |group: &Group| plan.only.as_ref().is_none_or(|only| group.name == only);
    all.into_iter().filter(wanted).collect()
}

/// Carries out a plan; `say` is told of each figure as it comes.
#[must_use]
pub fn carry_out(plan: &Plan, mut say: impl FnMut(&str)) -> table::Table {
    let mut table = table::Table::default();
    for group in groups(plan) {
        for round in 1..=plan.rounds {
            for kind in [Kind::Kafka, Kind::Chronik] {
                // Nodes of its own, so that none starts with what another group has left.
                let mut side = Side::start(kind, plan.nodes);
                for figure in (group.run)(&mut side, plan) {
                    say(&format!(
                        "{} {round}: {kind}: {}, {}: {} {}",
                        group.name,
                        figure.scenario,
                        figure.measure,
                        table::number(figure.value),
                        figure.unit
                    ));
                    table.add(kind, figure);
                }
            }
        }
    }
    table
}

impl Figure {
    /// A figure without a target.
    #[must_use]
    pub fn new(scenario: &'static str, measure: &'static str, unit: &'static str, value: f64) -> Self {
        Self { scenario, measure, unit, value, target: None }
    }

    /// With this target.
    #[must_use]
    pub fn aims(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}
