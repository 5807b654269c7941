//! Fuzz target: `chronik_tests::fuzz_bodies`, the body "raft_frame".
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronik_tests::fuzz_bodies::run("raft_frame", data));
