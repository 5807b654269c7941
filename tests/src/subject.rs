//! The broker under test: chronik, or Apache Kafka when `CHRONIK_TEST_SUBJECT=kafka`, so that every client suite can be held
//! against the original. What fails against Kafka is wrong in the suite.

use crate::broker::{Broker, Options};
use crate::reference::ReferenceKafka;

/// The broker that a client suite runs against.
#[derive(Debug)]
pub enum Subject {
    /// chronik-server.
    Chronik(Box<Broker>),
    /// Apache Kafka.
    Kafka(Box<ReferenceKafka>),
}

impl Subject {
    /// Starts the broker to test, with defaults.
    #[must_use]
    pub fn start(name: &str) -> Self {
        let options = Options::default();
        if std::env::var("CHRONIK_TEST_SUBJECT").is_ok_and(|subject| subject == "kafka") {
            let configs: Vec<(&str, &str)> =
                options.kafka.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            return Subject::Kafka(Box::new(ReferenceKafka::start(&configs)));
        }
        Subject::Chronik(Box::new(Broker::start_with(name, options)))
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Subject::Chronik(broker) => broker.address(),
            Subject::Kafka(kafka) => kafka.address(),
        }
    }

    /// Its process.
    pub fn process(&mut self) -> &mut crate::process::Process {
        match self {
            Subject::Chronik(broker) => broker.process(),
            Subject::Kafka(kafka) => kafka.process(),
        }
    }
}
