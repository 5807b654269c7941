//! Fuzz target: `chronik_tests::fuzz_bodies`, the body "group_records".
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronik_tests::fuzz_bodies::run("group_records", data));
