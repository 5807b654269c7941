//! kafka-python, confluent-kafka (librdkafka) and aiokafka, unchanged, against a real broker. What is checked is in
//! `tests/clients/python/with_*.py`, one function a scenario.

use chronik_tests::program::{python, scenario};
use chronik_tests::toolchain::Toolchain;

fn kafka_python(name: &str) {
    scenario(Toolchain::Python, || python("with_kafka_python.py"), name);
}

fn confluent(name: &str) {
    scenario(Toolchain::Python, || python("with_confluent.py"), name);
}

fn aiokafka(name: &str) {
    scenario(Toolchain::Python, || python("with_aiokafka.py"), name);
}

#[test]
fn kafka_python_round_trips() {
    kafka_python("roundtrip");
}

#[test]
fn kafka_python_groups() {
    kafka_python("groups");
}

#[test]
fn kafka_python_admin() {
    kafka_python("admin");
}

#[test]
fn kafka_python_offsets() {
    kafka_python("offsets");
}

/// kafka-python saw no brokers, its AdminClient could not create topics, 3,000 of them timed out.
#[test]
fn field_report_004_standard_clients_see_brokers_and_create_topics() {
    kafka_python("field_report_004");
}

#[test]
fn confluent_round_trips() {
    confluent("roundtrip");
}

#[test]
fn confluent_groups() {
    confluent("groups");
}

#[test]
fn confluent_admin() {
    confluent("admin");
}

#[test]
fn aiokafka_round_trips() {
    aiokafka("roundtrip");
}

#[test]
fn aiokafka_groups() {
    aiokafka("groups");
}
