//! Which partition a message goes to: that of its key, as the Java client has it, or without a
//! key one partition until a batch of it was sent, and then the next.

/// The partition of a key: murmur2 without its sign, modulo the number of partitions.
pub fn partition_of_key(key: &[u8], partition_count: usize) -> usize {
    let positive = murmur2(key) & 0x7fff_ffff;
    positive as usize % partition_count
}

/// MurmurHash2 with the seed of Kafka's clients.
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const FACTOR: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ mixed.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(FACTOR);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(FACTOR);
    hash ^ hash >> 15
}

/// The partition of messages without a key.
#[derive(Debug)]
pub struct Sticky {
    current: usize,
    partition_count: usize,
}

impl Sticky {
    /// Begins with a partition that depends on the client, so that not all begin with the same.
    pub fn new(client: u32, partition_count: usize) -> Self {
        Self { current: client as usize % partition_count, partition_count }
    }

    /// The partition that messages go to now.
    pub fn current(&self) -> usize {
        self.current
    }

    /// A batch of `partition` was closed: if messages went there, they go to the next one that
    /// `has_leader`. Without any they stay.
    pub fn batch_closed(&mut self, partition: usize, has_leader: impl Fn(usize) -> bool) {
        if partition == self.current {
            let others = (1..=self.partition_count).map(|step| (self.current + step) % self.partition_count);
            self.current = others.into_iter().find(|other| has_leader(*other)).unwrap_or(self.current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_that_of_the_java_client() {
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key).cast_signed(), hash, "{}", key.escape_ascii());
        }
        // Without its sign, not its absolute value: 0x7fffffff & -973932308 is 1173551340.
        assert_eq!(partition_of_key(b"21", 1000), 340);
        assert_eq!(partition_of_key(b"abc", 7), 479_470_107 % 7);
    }

    #[test]
    fn a_partition_is_kept_until_its_batch_is_closed() {
        let mut sticky = Sticky::new(4, 3);
        assert_eq!(sticky.current(), 1);
        sticky.batch_closed(0, |_| true);
        assert_eq!(sticky.current(), 1, "a batch of another partition changes nothing");
        sticky.batch_closed(1, |_| true);
        assert_eq!(sticky.current(), 2);
        sticky.batch_closed(2, |partition| partition != 0);
        assert_eq!(sticky.current(), 1, "a partition without a leader is passed over");
        sticky.batch_closed(1, |_| false);
        assert_eq!(sticky.current(), 1);
    }
}
