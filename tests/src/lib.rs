//! chronik's end-to-end tests: helpers shared by the suites under `tests/`.
pub mod sim;
