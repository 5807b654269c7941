//! Fuzz target: `chronik_tests::fuzz_bodies`, the body "metadata_command".
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronik_tests::fuzz_bodies::run("metadata_command", data));
