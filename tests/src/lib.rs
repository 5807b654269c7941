//! chronik's end-to-end tests: helpers shared by the suites under `tests/`.
pub mod fuzz_bodies;
pub mod fuzz_inputs;
pub mod sim;
