//! kafkajs against a real broker. What is checked is in `tests/clients/node`.

use chronik_tests::program::{node, scenario};
use chronik_tests::toolchain::Toolchain;

#[test]
fn round_trips() {
    scenario(Toolchain::Node, node, "roundtrip");
}

#[test]
fn groups() {
    scenario(Toolchain::Node, node, "groups");
}

#[test]
fn admin() {
    scenario(Toolchain::Node, node, "admin");
}
