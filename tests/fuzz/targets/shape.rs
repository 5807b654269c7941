//! Fuzz target: `chronik_tests::fuzz_bodies`, the body "shape".
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronik_tests::fuzz_bodies::run("shape", data));
