//! What the shards count: plain atomics, one set a shard, written by that shard only and read by the admin endpoint.
//!
//! Nothing here locks or allocates after start. The admin endpoint (`admin/`) gives them their Prometheus names; what
//! it takes a look into a shard to know comes in a [`crate::shard::report::ShardReport`] instead.

use std::sync::atomic::{AtomicU64, Ordering};

use chronik_wal::batch::BatchInfo;

/// A counter that one shard writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes from it, for gauges.
    pub fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Sets it, for gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of every latency histogram, in microseconds; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 20] = [
    50, 100, 200, 400, 800, 1_500, 3_000, 5_000, 8_000, 12_000, 20_000, 35_000, 60_000, 100_000, 200_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; LATENCY_BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Latency {
    /// Counts one duration, in microseconds.
    pub fn record(&self, micros: u64) {
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros);
        self.buckets[bucket].add(1);
        self.sum_us.add(micros);
    }

    /// Counts by bucket, in order; the last one has no upper bound.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(Counter::get)
    }

    /// The sum of all durations, in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// API keys that have a place in the request metrics: 0 to this, exclusive.
pub const API_KEY_COUNT: usize = 96;

/// Requests of one API.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    /// From the whole request in memory to its response ready.
    pub latency: Latency,
    /// Bytes of requests.
    pub request_bytes: Counter,
}

/// The counters of one shard.
#[derive(Debug)]
pub struct ShardMetrics {
    /// By API key.
    pub apis: Vec<ApiMetrics>,
    /// Record bytes taken in.
    pub bytes_in: Counter,
    /// Records taken in.
    pub records_in: Counter,
    /// Record bytes handed out.
    pub bytes_out: Counter,
    /// Partitions of produce requests that were refused.
    pub produce_failed: Counter,
    /// Partitions of fetch requests that were refused, and refused fetch sessions.
    pub fetch_failed: Counter,
    /// Connections open now.
    pub connections: Counter,
    /// Connections accepted since the start.
    pub connections_accepted: Counter,
    /// Connections that came from other shards since the start.
    pub connections_moved: Counter,
    /// Write and fdatasync of a WAL turn.
    pub wal_sync: Latency,
    /// Bytes written to the WAL.
    pub wal_bytes: Counter,
    /// Processor time of the shard's thread, in microseconds; as of the last inquiry.
    pub busy_us: Counter,
    /// How much of the last half second or more it was at work, in thousandths.
    pub load_permille: Counter,
    /// How often the safety timer was what woke the shard; as of the last inquiry.
    pub safety_wakes: Counter,
    /// The latest tick of the safety timer, in microseconds past its time; as of the last inquiry.
    pub safety_late_us: Counter,
    /// New leaders of partitions of this shard, here or elsewhere, since the start.
    pub leadership_changes: Counter,
    /// Fetch sessions of the connections that are on this shard now.
    pub fetch_sessions: Counter,
    /// Bytes of entries read from files for followers that lag, since the start.
    pub catch_up_bytes: Counter,
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self {
            apis: (0..API_KEY_COUNT).map(|_| ApiMetrics::default()).collect(),
            bytes_in: Counter::default(),
            records_in: Counter::default(),
            bytes_out: Counter::default(),
            produce_failed: Counter::default(),
            fetch_failed: Counter::default(),
            connections: Counter::default(),
            connections_accepted: Counter::default(),
            connections_moved: Counter::default(),
            wal_sync: Latency::default(),
            wal_bytes: Counter::default(),
            busy_us: Counter::default(),
            load_permille: Counter::default(),
            safety_wakes: Counter::default(),
            safety_late_us: Counter::default(),
            leadership_changes: Counter::default(),
            fetch_sessions: Counter::default(),
            catch_up_bytes: Counter::default(),
        }
    }
}

impl ShardMetrics {
    /// A batch was accepted.
    pub fn batch_in(&self, info: &BatchInfo) {
        self.bytes_in.add(info.size_bytes as u64);
        self.records_in.add(u64::from(info.record_count.unsigned_abs()));
    }

    /// A request of this API was answered.
    pub fn answered(&self, api_key: i16, request_bytes: usize, micros: u64) {
        let Some(api) = usize::try_from(api_key).ok().and_then(|key| self.apis.get(key)) else { return };
        api.latency.record(micros);
        api.request_bytes.add(request_bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_holds_it() {
        let latency = Latency::default();
        for micros in [0, 50, 51, 10_000_000, 10_000_001] {
            latency.record(micros);
        }
        let counts: Vec<u64> = latency.counts().collect();
        assert_eq!(counts[0], 2);
        assert_eq!(counts[1], 1);
        assert_eq!(counts[LATENCY_BOUNDS_US.len() - 1], 1);
        assert_eq!(counts[LATENCY_BOUNDS_US.len()], 1, "beyond the last bound");
        assert_eq!(latency.sum_us(), 20_000_102);
    }
}
