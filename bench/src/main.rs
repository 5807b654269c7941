//! Load generator for Kafka-compatible brokers.
fn main() {}
