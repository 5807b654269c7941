//! Simulation of one node: its real shards over a simulated disk, in virtual time, from one seed.

mod admin;
mod answers;
mod asks;
mod clients;
mod disk;
mod faults;
mod finish;
mod model;
mod node;
mod queue;
mod records;
mod setup;
mod world;

pub use setup::{Planted, RunPlan};
pub use world::{Report, run};
