//! Making topics with the small client.

use crate::wire::Connection;
use chronik_net::codec::{ApiKey, ErrorCode};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::time::{Duration, Instant};

/// How long a broker may look for its controller after a start.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a broker may take for a topic.
const CREATE_TIMEOUT_MS: i32 = 60_000;

/// Asks for a topic and gives the error code of the answer, 0 for success. NOT_CONTROLLER is waited out, as every client does.
pub fn create_code(
    connection: &mut Connection,
    name: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> i16 {
    create_code_within(connection, name, partitions, 1, configs, CREATE_TIMEOUT_MS)
}

/// The same for a topic of `replicas`; −1 for the broker's default.
pub fn create_replicated_code(
    connection: &mut Connection,
    name: &str,
    partitions: i32,
    replicas: i16,
    configs: &[(&str, &str)],
) -> i16 {
    create_code_within(connection, name, partitions, replicas, configs, CREATE_TIMEOUT_MS)
}

/// The same, where the broker may take at most `timeout_ms`.
pub fn create_code_within(
    connection: &mut Connection,
    name: &str,
    partitions: i32,
    replicas: i16,
    configs: &[(&str, &str)],
    timeout_ms: i32,
) -> i16 {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let answer: CreateTopicsResponse =
            connection.ask(ApiKey::CreateTopics, 5, &request).expect("an answer");
        let code = answer.topics[0].error_code;
        if code != ErrorCode::NotController.code() || Instant::now() > deadline {
            return code;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a topic and waits until its partitions have leaders.
pub fn create(connection: &mut Connection, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    assert_eq!(create_code(connection, name, partitions, configs), 0, "topic {name} can be made");
    connection.ensure_topic(name);
}

/// Makes a topic with the broker's default number of replicas and waits until its partitions have leaders.
pub fn create_replicated(connection: &mut Connection, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let code = create_replicated_code(connection, name, partitions, -1, configs);
    assert_eq!(code, 0, "topic {name} can be made");
    connection.ensure_topic(name);
}

/// A string of the protocol.
#[must_use]
pub fn text(value: &str) -> StrBytes {
    StrBytes::from(value.to_string())
}
