//! Fuzz target: `chronik_tests::fuzz_bodies`, the body "metadata_image".
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronik_tests::fuzz_bodies::run("metadata_image", data));
