//! The command line: every flag that works, and nothing else. Names and defaults are those that
//! users know from the earlier tool.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{RangedI64ValueParser, RangedU64ValueParser};
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::payload::{HEADER_BYTES, PayloadPattern};

/// Tasks at once at most; more would only measure the client's queue.
const CONCURRENCY_MAX: u32 = 1_000_000;

/// Bytes of a message at most, as librdkafka has it.
const MESSAGE_BYTES_MAX: u64 = 1_000_000_000;
/// The longest of the flags in milliseconds, as librdkafka has it.
const MILLISECONDS_MAX: i64 = 900_000;
/// The longest warm-up and the longest measurement: a year.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Load generator for any Kafka-compatible broker.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "chronik-bench", version, about, max_term_width = 100, args_override_self = true)]
pub struct Options {
    /// Brokers to start from, `host:port` separated by commas.
    #[arg(short = 'b', long, env = "KAFKA_BOOTSTRAP_SERVERS", default_value = "127.0.0.1:9092")]
    pub bootstrap_servers: String,

    /// Topic to use.
    #[arg(short = 't', long, default_value = "chronik-bench")]
    pub topic: String,

    /// What to measure.
    #[arg(short = 'm', long, value_enum, default_value_t = Mode::Produce)]
    pub mode: Mode,

    /// The file of scenario mode: `[[run]]` tables, each with a `name` and flags by their long names; `[defaults]` holds for all
    /// of them. Flags of the command line win.
    #[arg(value_name = "FILE.toml", required_if_eq("mode", "scenario"))]
    pub scenario: Option<PathBuf>,

    /// Messages outstanding at once, one for each task. In consume mode: consumers, at most one
    /// for each partition. In topics mode: requests at a time. In metadata mode: requests
    /// outstanding at once; with librdkafka each is a thread that waits, at most 64, with native a
    /// connection.
    #[arg(short = 'c', long, default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX as i64))]
    pub concurrency: u32,

    /// What talks to the broker. `native` is light enough to load a broker from one core; it
    /// knows all modes, no compression and no consumer groups.
    /// It keeps up to five requests on a connection and is not idempotent: a batch that is sent
    /// again may come behind a younger one, or twice. With --validate one request at a time is
    /// outstanding for each partition, and with acks=all too it is idempotent.
    #[arg(long, value_enum, default_value_t = Client::Librdkafka)]
    pub client: Client,

    /// Client instances that share the tasks. With native each is a thread, in consume mode too.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub clients: u32,

    /// Consumers that read while others write (end-to-end and backlog), at most one for each partition; as many as clients
    /// without it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub consumers: Option<u32>,

    /// Bytes of a message's value.
    #[arg(short = 's', long, default_value_t = 1024,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MESSAGE_BYTES_MAX))]
    pub message_size: usize,

    /// How long to measure, after the warm-up: `500ms`, `10s`, `2m`; a bare number is seconds.
    #[arg(short = 'd', long, default_value = "60s", value_parser = parse_duration)]
    pub duration: Duration,

    /// How long to run before measuring.
    #[arg(short = 'w', long, default_value = "5s", value_parser = parse_duration)]
    pub warmup_duration: Duration,

    /// Stop after this many measured messages if they come before the end of the duration. In backlog mode: the backlog. In
    /// topics mode: topics, 1000 without it.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    pub message_count: Option<u64>,

    /// Messages a second, all clients together. The schedule is open: each message has an
    /// intended time and its latency counts from then, however late it could be sent. In backlog mode: what is written while the
    /// backlog is read, nothing without it.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub rate_limit: Option<u64>,

    /// Compression by the client.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub compression: Compression,

    /// Partitions of a topic that is created. A topic that exists must have as many.
    #[arg(short = 'p', long, value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64))]
    pub partitions: Option<u32>,

    /// Replicas of a topic that is created.
    #[arg(short = 'r', long, default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i16::MAX as i64))]
    pub replication_factor: u32,

    /// Create the topic if it is missing.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set,
        num_args = 0..=1, default_missing_value = "true")]
    pub create_topic: bool,

    /// Delete the topic at the end.
    #[arg(long)]
    pub delete_topic_after: bool,

    /// Leave the topics of topics mode in place, to see what it costs to have them.
    #[arg(long)]
    pub keep_topics: bool,

    /// Acknowledgements a message needs.
    #[arg(long, default_value = "all", allow_hyphen_values = true, value_parser = ["0", "1", "-1", "all"])]
    pub acks: String,

    /// How long the client waits to fill a batch, in milliseconds.
    #[arg(long, default_value_t = 0, value_parser = milliseconds(0))]
    pub linger_ms: u32,

    /// Greatest batch of the client, in bytes.
    #[arg(long, default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64))]
    pub batch_size: u32,

    /// How long the broker may take for a request, in milliseconds.
    #[arg(long, default_value_t = 30_000, value_parser = milliseconds(1))]
    pub request_timeout_ms: u32,

    /// How long a message may stay unacknowledged before it counts as failed, in milliseconds.
    #[arg(long, default_value_t = 60_000, value_parser = milliseconds(1))]
    pub message_timeout_ms: u32,

    /// Keys of the messages; without it they have none and the client chooses partitions.
    #[arg(long, value_enum)]
    pub key_pattern: Option<KeyPattern>,

    /// Contents of the messages' values, behind a header of 48 bytes where it fits.
    #[arg(long, value_enum, default_value_t = PayloadPattern::Random)]
    pub payload_pattern: PayloadPattern,

    /// Check every record: order, loss, duplicates, contents. Produce mode reads the topic back
    /// after the measurement. The exit code is 2 if anything is wrong.
    #[arg(long)]
    pub validate: bool,

    /// Consume as members of this group; without it all partitions are read from their start.
    #[arg(long)]
    pub consumer_group: Option<String>,

    /// The group's members commit no offsets by themselves.
    #[arg(long, requires = "consumer_group")]
    pub disable_auto_commit: bool,

    /// Process id of a broker on this machine whose CPU time and memory are reported.
    #[arg(long)]
    pub broker_pid: Option<u32>,

    /// Seconds between lines of progress; also the grain of the time line in the JSON output.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub report_interval_secs: u32,

    /// Append the result to this CSV file, with a header if it is new.
    #[arg(long)]
    pub csv_output: Option<PathBuf>,

    /// Write result, settings and host to this JSON file.
    #[arg(long)]
    pub json_output: Option<PathBuf>,

    /// Write the result as one page for a browser, with charts, to this HTML file.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,

    /// Compare with an earlier run: a file that --json-output wrote. It is checked before the run.
    #[arg(long, value_name = "FILE.json")]
    pub compare: Option<PathBuf>,

    /// Show metrics of the run at `http://HOST:PORT/metrics` for Prometheus while it lasts.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub prometheus_port: Option<u16>,

    /// Show the client's own log (twice: its debug log of brokers and messages).
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What a run measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Send, and wait for each acknowledgement.
    Produce,
    /// Read what is there and what comes.
    Consume,
    /// Send, and wait until a consumer has received each message before the next.
    RoundTrip,
    /// Ask for the topic's metadata again and again.
    Metadata,
    /// Send as produce mode does while consumers read along: the latency from the intended time to the receipt.
    EndToEnd,
    /// Write a backlog, then let consumers start and read it.
    Backlog,
    /// Hold as many connections as there are tasks; each asks for the topic's metadata once in ten seconds, or all together along
    /// the rate. The connections are of our own client.
    Connections,
    /// Make topics, then delete them.
    Topics,
    /// Carry out the runs of a file.
    Scenario,
}

impl Mode {
    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Produce => "produce",
            Mode::Consume => "consume",
            Mode::RoundTrip => "round-trip",
            Mode::Metadata => "metadata",
            Mode::EndToEnd => "end-to-end",
            Mode::Backlog => "backlog",
            Mode::Connections => "connections",
            Mode::Topics => "topics",
            Mode::Scenario => "scenario",
        }
    }
}

/// What talks to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// The library that most programs use, in C.
    Librdkafka,
    /// Our own, one thread for each client.
    Native,
}

impl Client {
    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Client::Librdkafka => "librdkafka",
            Client::Native => "native",
        }
    }
}

/// Compression of batches by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// The name as on the command line and in librdkafka's `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeyPattern {
    /// A random 64-bit number in hexadecimal.
    Random,
    /// The message's sequence number in hexadecimal.
    Sequential,
    /// The same key always: one partition.
    Fixed,
}

impl Options {
    /// Checks what clap cannot: combinations of flags.
    pub fn check(&self) -> anyhow::Result<()> {
        let has_header = matches!(self.mode, Mode::RoundTrip | Mode::EndToEnd);
        let sends = matches!(self.mode, Mode::Produce | Mode::Backlog);
        let needs_header = has_header || (self.validate && sends);
        if needs_header && self.message_size < HEADER_BYTES {
            anyhow::bail!(
                "--message-size {} is too small: --validate, round-trip and end-to-end write a header of {HEADER_BYTES} bytes",
                self.message_size
            );
        }
        if self.concurrency < self.clients {
            anyhow::bail!("--clients {} exceeds --concurrency {}", self.clients, self.concurrency);
        }
        if self.consumer_group.is_some() && self.mode != Mode::Consume {
            anyhow::bail!(
                "--consumer-group is for consume mode: the consumers of {} mode read given partitions",
                self.mode.name()
            );
        }
        if self.rate_limit.is_some() && matches!(self.mode, Mode::Consume | Mode::Topics) {
            anyhow::bail!("--rate-limit is not for {} mode, which has no schedule", self.mode.name());
        }
        let has_followers = matches!(self.mode, Mode::EndToEnd | Mode::Backlog | Mode::Scenario);
        if self.consumers.is_some() && !has_followers {
            anyhow::bail!("--consumers is for end-to-end and backlog mode, not for {}", self.mode.name());
        }
        if self.keep_topics && self.mode != Mode::Topics {
            anyhow::bail!(
                "--keep-topics is for topics mode; other modes keep theirs unless --delete-topic-after is given"
            );
        }
        if self.scenario.is_some() && self.mode != Mode::Scenario {
            anyhow::bail!("a file of runs is for scenario mode: add -m scenario");
        }
        if self.duration.is_zero() {
            anyhow::bail!("--duration must be longer than zero");
        }
        if self.validate && matches!(self.mode, Mode::Metadata | Mode::Connections | Mode::Topics) {
            anyhow::bail!(
                "--validate checks records, and --mode {} has none: leave it out",
                self.mode.name()
            );
        }
        match self.client {
            Client::Librdkafka => Ok(()),
            Client::Native => self.check_native(),
        }
    }

    /// Refuses what our own client does not know.
    fn check_native(&self) -> anyhow::Result<()> {
        let instead = "use --client librdkafka";
        if self.compression != Compression::None {
            anyhow::bail!(
                "--client native does not know --compression {}: {instead}, or leave it out",
                self.compression.name()
            );
        }
        if self.consumer_group.is_some() {
            anyhow::bail!("--client native does not know --consumer-group: {instead}, or leave it out");
        }
        Ok(())
    }
}

/// Parses `250ms`, `10s`, `2m`, `1h` or a bare number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is no duration: write 500ms, 10s or 2m"))?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("unknown unit `{unit}`: use ms, s, m or h")),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        Ok(_) => Err(format!("`{text}` is longer than a year")),
        Err(error) => Err(error.to_string()),
    }
}

/// Milliseconds from `least` on.
fn milliseconds(least: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=MILLISECONDS_MAX)
}

#[cfg(test)]
mod tests;
