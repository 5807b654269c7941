//! chronik's end-to-end tests: what the suites under `tests/` share.
//!
//! Reading order: [`paths`] and [`lock`] (where things are, who may use them), [`process`] (children that never outlive their
//! test), [`broker`] (a real `chronik-server`), [`reference`] (Apache Kafka, the yardstick), [`subject`] (either of them),
//! [`toolchain`] and [`program`] (clients that nobody here wrote), [`wire`], [`records`] and [`topics`] (a small client of
//! our own, for what no client library would send), [`loopdisk`] (a small file system to fill), [`stalls`] (whether the machine
//! stood still), [`sim`] (a whole node in one thread, on one seed).
//!
//! Invariants: everything listens on loopback, on ports found free; all files are under the target directory or `.clients/`;
//! a test that ends, well or not, leaves no process behind; a broker whose log holds a panic fails its test.
#![allow(
    clippy::missing_panics_doc,
    clippy::print_stderr,
    reason = "a helper that fails ends its test, and says why"
)]

pub mod bench_run;
pub mod broker;
pub mod chaos;
pub mod cluster;
pub mod compare;
pub mod fuzz_bodies;
pub mod fuzz_inputs;
pub mod history;
pub mod lock;
pub mod loopdisk;
pub mod paths;
pub mod process;
pub mod program;
pub mod proxy;
pub mod records;
pub mod reference;
pub mod sim;
pub mod stalls;
pub mod subject;
pub mod toolchain;
pub mod topics;
pub mod wire;
pub mod workload;

/// Prints a figure or a note of a test; `cargo test` shows it with `--nocapture` and when the test fails.
pub fn report(text: &str) {
    eprintln!("{text}");
}
