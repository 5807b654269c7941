//! Fuzz target: `chronik_tests::fuzz_bodies`, the body "producer_snapshot".
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronik_tests::fuzz_bodies::run("producer_snapshot", data));
