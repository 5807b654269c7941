//! librdkafka: its configuration from the flags, its log, and the administration of the topic.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures_lite::future::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::cli::Options;

/// How long an administrative request may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new topic may take to have leaders everywhere.
const TOPIC_READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages librdkafka may hold unless the concurrency asks for more: its own default.
const QUEUE_MESSAGES_MIN: u32 = 100_000;

/// Distinct lines of librdkafka's log that are printed; it repeats itself without end while a
/// broker is away.
const LOG_LINES_MAX: usize = 100;
/// Lines with the same beginning are the same: what follows are counts and durations.
const LOG_LINE_IDENTITY_CHARS: usize = 72;

/// Lines printed so far. Off the hot path: librdkafka logs only what goes wrong.
static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Prints librdkafka's log to standard error, each line once unless it is the debug log.
pub struct Log;

impl ClientContext for Log {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        print_log(matches!(level, RDKafkaLogLevel::Debug), &format!("librdkafka: {facility} {message}"));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        print_log(false, &format!("librdkafka: {error}: {reason}"));
    }
}

/// What is done with a delivery: the message or why it failed, and when it was meant to be sent.
type OnDelivery = dyn Fn(&DeliveryResult<'_>, u64) + Send + Sync;

/// librdkafka's callbacks for a producer: its log as [`Log`], and a function for each delivery, called on the thread that polls.
pub struct Deliveries(Box<OnDelivery>);

impl Deliveries {
    /// Calls `each` for each delivery.
    pub fn new(each: impl Fn(&DeliveryResult<'_>, u64) + Send + Sync + 'static) -> Self {
        Self(Box::new(each))
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Log.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, intended_ns: usize) {
        (self.0)(result, intended_ns as u64);
    }
}

/// Prints a line of a client's log to standard error, once unless it is `always` to be printed.
pub fn print_log(always: bool, line: &str) {
    let identity = line.chars().take(LOG_LINE_IDENTITY_CHARS).collect();
    let fresh = LOGGED.lock().is_ok_and(|mut lines| lines.len() < LOG_LINES_MAX && lines.insert(identity));
    if always || fresh {
        // A log that cannot be written has no better place to go.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

impl ConsumerContext for Log {}

fn base_config(options: &Options) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("client.id", "chronik-bench")
        .set_log_level(if options.verbose == 0 { RDKafkaLogLevel::Warning } else { RDKafkaLogLevel::Info });
    if options.verbose > 1 {
        config.set("debug", "broker,topic,msg").set_log_level(RDKafkaLogLevel::Debug);
    }
    config
}

/// The configuration of a producer.
pub fn producer_config(options: &Options) -> ClientConfig {
    let queue_messages = QUEUE_MESSAGES_MIN.max(options.concurrency.saturating_mul(2));
    let mut config = base_config(options);
    config
        .set("acks", &options.acks)
        .set("linger.ms", options.linger_ms.to_string())
        .set("batch.size", options.batch_size.to_string())
        .set("compression.type", options.compression.name())
        .set("request.timeout.ms", options.request_timeout_ms.to_string())
        .set("message.timeout.ms", options.message_timeout_ms.to_string())
        .set("message.max.bytes", message_bytes_max(options).to_string())
        .set("queue.buffering.max.messages", queue_messages.to_string());
    config
}

/// The client's own limit follows the message size, so that the broker's is the one that shows.
fn message_bytes_max(options: &Options) -> usize {
    (options.message_size + 10_000).max(options.batch_size as usize).clamp(1_000_000, 1_000_000_000)
}

/// A consumer that fetches as soon as there is anything.
pub fn consumer(options: &Options) -> Result<BaseConsumer<Log>> {
    let group = options.consumer_group.as_deref();
    let commits = group.is_some() && !options.disable_auto_commit;
    let mut config = base_config(options);
    config
        .set("group.id", group.unwrap_or("chronik-bench"))
        .set("enable.auto.commit", if commits { "true" } else { "false" })
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "false")
        .set("fetch.error.backoff.ms", "20");
    config.create_with_context(Log).context("cannot create a consumer")
}

/// First and next offset of each partition of the topic.
pub fn watermarks(consumer: &BaseConsumer<Log>, topic: &str, partitions: i32) -> Result<Vec<(i64, i64)>> {
    (0..partitions).map(|partition| watermarks_of(consumer, topic, partition)).collect()
}

fn watermarks_of(consumer: &BaseConsumer<Log>, topic: &str, partition: i32) -> Result<(i64, i64)> {
    consumer
        .fetch_watermarks(topic, partition, ADMIN_TIMEOUT)
        .with_context(|| format!("cannot read the offsets of {topic}-{partition}"))
}

/// The next offset of a partition.
pub fn high_watermark(consumer: &BaseConsumer<Log>, topic: &str, partition: i32) -> Result<i64> {
    Ok(watermarks_of(consumer, topic, partition)?.1)
}

/// The next offset of each partition of the topic.
pub fn high_watermarks(options: &Options, partitions: i32) -> Result<Vec<i64>> {
    let found = watermarks(&consumer(options)?, &options.topic, partitions)?;
    Ok(found.into_iter().map(|(_, next)| next).collect())
}

/// Assigns partitions at offsets to a consumer.
pub fn assign(consumer: &BaseConsumer<Log>, topic: &str, starts: &[(i32, Offset)]) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for &(partition, offset) in starts {
        list.add_partition_offset(topic, partition, offset)?;
    }
    consumer.assign(&list).context("cannot assign partitions")
}

/// Asks for metadata, of one topic or of all; who does not answer is named.
pub fn metadata<C: ClientContext>(
    client: &rdkafka::client::Client<C>,
    options: &Options,
    topic: Option<&str>,
) -> Result<Metadata> {
    client.fetch_metadata(topic, ADMIN_TIMEOUT).map_err(|error| {
        let code = error.rdkafka_error_code().map_or(error.to_string(), |code| code.to_string());
        anyhow!("no broker answers at {}: {code}", options.bootstrap_servers)
    })
}

/// The number of the topic's partitions, `None` if there is no such topic.
pub fn partition_count(consumer: &BaseConsumer<Log>, options: &Options) -> Result<Option<i32>> {
    let topic = options.topic.as_str();
    let metadata = metadata(consumer.client(), options, Some(topic))?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    match found.map(|t| (t.error().map(RDKafkaErrorCode::from), t.partitions())) {
        None
        | Some((Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic), _)) => {
            Ok(None)
        }
        Some((Some(RDKafkaErrorCode::LeaderNotAvailable), _)) => Ok(Some(0)),
        Some((Some(code), _)) => bail!("the broker refuses the topic {topic}: {code}"),
        Some((None, partitions)) if partitions.iter().any(|p| p.leader() < 0) => Ok(Some(0)),
        Some((None, partitions)) => Ok(Some(partitions.len() as i32)),
    }
}

/// Makes sure that the topic is there, all its partitions have leaders and their number is the
/// one asked for. Returns it.
pub fn prepare_topic(options: &Options) -> Result<i32> {
    let consumer = consumer(options)?;
    let topic = options.topic.as_str();
    if partition_count(&consumer, options)?.is_none() {
        if !options.create_topic {
            bail!("there is no topic {topic}, and --create-topic is false");
        }
        create_topic(options)?;
    }
    let deadline = Instant::now() + TOPIC_READY_TIMEOUT;
    let partitions = loop {
        match partition_count(&consumer, options)? {
            Some(count) if count > 0 => break count,
            _ if Instant::now() > deadline => bail!("the topic {topic} has partitions without a leader"),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    match options.partitions {
        Some(wanted) if wanted as i32 != partitions => {
            bail!("the topic {topic} has {partitions} partitions, not {wanted}: choose another with --topic")
        }
        _ => Ok(partitions),
    }
}

/// A client for administration.
pub fn admin(options: &Options) -> Result<AdminClient<Log>> {
    base_config(options).create_with_context(Log).context("cannot create an admin client")
}

fn create_topic(options: &Options) -> Result<()> {
    let partitions = options.partitions.unwrap_or(1) as i32;
    let topic =
        NewTopic::new(&options.topic, partitions, TopicReplication::Fixed(options.replication_factor as i32));
    let admin_options = AdminOptions::new().operation_timeout(Some(ADMIN_TIMEOUT));
    let results = block_on(admin(options)?.create_topics([&topic], &admin_options))?;
    match results.into_iter().next() {
        Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((name, code))) => bail!("cannot create the topic {name}: {code}"),
        None => bail!("the broker's answer does not name the topic {}", options.topic),
    }
}

/// Deletes the topic.
pub fn delete_topic(options: &Options) -> Result<()> {
    let admin_options = AdminOptions::new().operation_timeout(Some(ADMIN_TIMEOUT));
    let results = block_on(admin(options)?.delete_topics(&[&options.topic], &admin_options))?;
    match results.into_iter().next() {
        Some(Err((name, code))) => bail!("cannot delete the topic {name}: {code}"),
        _ => Ok(()),
    }
}
