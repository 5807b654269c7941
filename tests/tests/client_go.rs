//! franz-go and sarama, with their admin clients, against a real broker. What is checked is in `tests/clients/go`.

use chronik_tests::program::{go, scenario};
use chronik_tests::toolchain::Toolchain;

#[test]
fn round_trips() {
    scenario(Toolchain::Go, go, "roundtrip");
}

#[test]
fn groups() {
    scenario(Toolchain::Go, go, "groups");
}

#[test]
fn admin() {
    scenario(Toolchain::Go, go, "admin");
}

#[test]
fn sarama_round_trips() {
    scenario(Toolchain::Go, go, "sarama-roundtrip");
}

#[test]
fn sarama_groups() {
    scenario(Toolchain::Go, go, "sarama-groups");
}

#[test]
fn sarama_admin() {
    scenario(Toolchain::Go, go, "sarama-admin");
}
