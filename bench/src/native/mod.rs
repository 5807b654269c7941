//! `--client native`: our own client over the codecs of `chronik_net`, light enough to load a
//! broker from one core.
//!
//! Each of `--clients` is one thread with an event loop: no runtime, no locks, and in the hot
//! loop no allocation for a record. Files in reading order: `poller` (epoll), `connection`
//! (bytes and frames of a socket), `channel` (requests outstanding on a connection), `cluster`
//! (who leads what, reconnecting), `partitioner`, `batch`, `producer_id`, `queue` (what waits for
//! a partition), `request`, `produce`, `fetch`, `round_trip`, `metadata`, `admin`.
//!
//! Invariants: answers are taken in the order of requests; no length from the network is used
//! before it was checked; nothing blocks but the resolution of a broker's name when it appears.
//!
//! It speaks fixed versions, served by Kafka since 2.7. It is an idempotent producer only with
//! `--validate`; otherwise a batch whose answer was lost is sent again and may be stored twice.

pub mod admin;
mod batch;
mod channel;
mod cluster;
mod connection;
pub mod fetch;
pub mod metadata;
mod partitioner;
mod poller;
pub mod produce;
mod producer_id;
mod queue;
mod request;
pub mod round_trip;

/// The last version of Produce before topics go by id, less what only newer brokers have.
const PRODUCE_VERSION: i16 = 9;
/// The last version of Fetch that names topics.
const FETCH_VERSION: i16 = 12;
/// The first flexible version of Metadata.
const METADATA_VERSION: i16 = 9;

/// The longest an event loop sleeps before it looks whether the run was stopped.
const SLEEP_NS_MAX: u64 = 20_000_000;
const NANOS_PER_MILLISECOND: u64 = 1_000_000;
