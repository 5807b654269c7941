//! A paced, idempotent producer that writes down every send and its outcome.

use super::{Options, Shared, client_config};
use crate::history::{Outcome, Place, Send};
use rdkafka::ClientContext;
use rdkafka::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Records of one producer that have no answer yet. So each fault meets fresh ones, and memory is bounded.
const OUTSTANDING_MAX: i32 = 500;
/// Everything outstanding has an answer by then, or the client has given it up.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(130);
/// A record is given up after this; no fault lasts so long.
const MESSAGE_TIMEOUT_MS: &str = "120000";
/// Values of a producer begin at its id times this.
const VALUES_PER_PRODUCER: u64 = 1 << 40;

/// librdkafka's `debug` for producers, such as `eos`; their logs go to stderr then.
const DEBUG_VARIABLE: &str = "CHRONIK_CLIENT_DEBUG";

/// One producer.
#[derive(Debug)]
pub struct Producer {
    thread: JoinHandle<Vec<String>>,
}

/// Takes the outcomes, in librdkafka's callbacks.
struct Outcomes {
    id: u32,
    shared: Arc<Shared>,
    sends: Mutex<(Vec<Send>, Vec<String>)>,
}

impl ClientContext for Outcomes {
    fn log(&self, _: RDKafkaLogLevel, what: &str, message: &str) {
        if std::env::var_os(DEBUG_VARIABLE).is_some() {
            eprintln!("producer {} at {:?}: {what}: {message}", self.id, self.shared.recorder.now());
        }
    }

    fn error(&self, _: rdkafka::error::KafkaError, _: &str) {}
}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let completed = self.shared.recorder.now();
        let mut sends = self.sends.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match result {
            Ok(message) => {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                Outcome::Acknowledged(Some(message.offset()).filter(|offset| *offset >= 0))
            }
            Err((error, message)) => {
                // SAFETY: the message is librdkafka's own and lives for this callback.
                let status = unsafe { rd_kafka_message_status(message.ptr()) };
                let value = sends.0[index].value;
                sends.1.push(format!("record {value}: {error} ({status:?})"));
                match status {
                    rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Outcome::Refused,
                    _ => Outcome::Unknown,
                }
            }
        };
        let send = &mut sends.0[index];
        (send.completed, send.outcome) = (completed, outcome);
    }
}

impl Producer {
    pub(super) fn start(id: u32, options: &Options, places: &[Place], shared: &Arc<Shared>) -> Self {
        let mut config = client_config(&options.bootstrap, &format!("producer-{id}"));
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            .set("request.timeout.ms", "3000")
            .set("message.timeout.ms", MESSAGE_TIMEOUT_MS)
            .set("retry.backoff.ms", "50");
        if let Ok(debug) = std::env::var(DEBUG_VARIABLE) {
            config.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
        }
        for (name, value) in &options.producer_configs {
            config.set(name, value);
        }
        let outcomes = Outcomes { id, shared: Arc::clone(shared), sends: Mutex::default() };
        let client: BaseProducer<Outcomes> =
            config.create_with_context(outcomes).expect("a producer can be made");
        let worker = Worker {
            id,
            client,
            places: places.to_vec(),
            interval: Duration::from_secs(1) / options.records_per_second.max(1),
            value_bytes: options.value_bytes.max(8),
            shared: Arc::clone(shared),
        };
        Self { thread: std::thread::spawn(move || worker.run()) }
    }

    /// Waits for its end; the errors that it was given.
    pub(super) fn join(self) -> Vec<String> {
        self.thread.join().expect("a producer ends well")
    }
}

struct Worker {
    id: u32,
    client: BaseProducer<Outcomes>,
    places: Vec<Place>,
    interval: Duration,
    value_bytes: usize,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(self) -> Vec<String> {
        let mut next_at = Instant::now();
        let mut count: u64 = 0;
        while !self.shared.stopping.load(Ordering::SeqCst) {
            self.client.poll(next_at.saturating_duration_since(Instant::now()));
            if Instant::now() >= next_at && self.client.in_flight_count() < OUTSTANDING_MAX {
                self.send(count);
                count += 1;
                next_at += self.interval;
            } else if Instant::now() >= next_at {
                self.client.poll(Duration::from_millis(5));
                // What could not be sent in its time is not made up for.
                next_at = Instant::now();
            }
        }
        // What has no answer by then stays unknown.
        let _ = self.client.flush(FLUSH_TIMEOUT);
        let (sends, errors) = {
            let mut sends = self.client.context().sends.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sends)
        };
        self.shared.recorder.sends(sends);
        errors
    }

    fn send(&self, count: u64) {
        let value = u64::from(self.id) * VALUES_PER_PRODUCER + count;
        let turn = usize::try_from(count % self.places.len() as u64).expect("a small number");
        let place = &self.places[turn];
        let index = {
            let mut sends = self.client.context().sends.lock().unwrap_or_else(PoisonError::into_inner);
            sends.0.push(Send {
                producer: self.id,
                place: place.clone(),
                value,
                invoked: self.shared.recorder.now(),
                completed: Duration::MAX,
                outcome: Outcome::Unknown,
            });
            sends.0.len() - 1
        };
        let mut payload = value.to_be_bytes().to_vec();
        payload.resize(self.value_bytes, b'.');
        let record = BaseRecord::<(), [u8], usize>::with_opaque_to(&place.0, index)
            .partition(place.1)
            .payload(payload.as_slice());
        if let Err((error, _)) = self.client.send(record) {
            let mut sends = self.client.context().sends.lock().unwrap_or_else(PoisonError::into_inner);
            sends.0[index].outcome = Outcome::Refused;
            sends.1.push(format!("record {value}: {error}"));
        }
    }
}
