//! Fuzz target: `chronik_tests::fuzz_bodies`, the body "fetch_response".
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronik_tests::fuzz_bodies::run("fetch_response", data));
