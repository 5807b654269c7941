//! Produce requests: made of batches, and the batches got back uncopied for another attempt.

use bytes::BytesMut;
use chronik_net::codec::{ProducePartition, ProduceRequest, ProduceTopic, ResponseFrame, StrBytes, TopicRef};

use super::batch::{Batch, Stamp};
use crate::cli::Options;

/// The acknowledgement of all replicas in sync, on the wire.
pub const ACKS_ALL: i16 = -1;

/// A batch on the wire.
pub struct Sent {
    /// Its partition.
    pub partition: usize,
    /// The batch.
    pub batch: Batch,
}

/// The acknowledgements asked for, as on the wire.
pub fn acks(options: &Options) -> i16 {
    match options.acks.as_str() {
        "0" => 0,
        "1" => 1,
        _ => ACKS_ALL,
    }
}

/// Batches whose bytes are in a request that is not encoded yet.
pub struct Waiting(Vec<(usize, Vec<Stamp>, u64)>);

impl Waiting {
    /// Takes the batches' bytes back from the frame that was made of them, for another attempt.
    pub fn into_sent(self, frame: &ResponseFrame) -> Vec<Sent> {
        // Each batch is a slice of its own, between two with what surrounds it.
        let slices = frame.slices().iter().skip(1).step_by(2);
        assert_eq!(frame.slices().len(), 2 * self.0.len() + 1, "a slice for each batch and around them");
        let sent = |((partition, stamps, first_ns), bytes): (_, &bytes::Bytes)| Sent {
            partition,
            batch: Batch { bytes: bytes.clone(), stamps, first_ns },
        };
        self.0.into_iter().zip(slices).map(sent).collect()
    }
}

/// A request with these batches, each of another partition.
pub fn produce_request(
    options: &Options,
    acks: i16,
    batches: Vec<(usize, Batch)>,
) -> (ProduceRequest, Waiting) {
    let mut partitions = Vec::with_capacity(batches.len());
    let mut waiting = Vec::with_capacity(batches.len());
    for (partition, batch) in batches {
        // Not a copy: nothing else holds the bytes.
        let records = Some(BytesMut::from(batch.bytes));
        partitions.push(ProducePartition { index: partition as i32, records });
        waiting.push((partition, batch.stamps, batch.first_ns));
    }
    let topic = TopicRef::Name(StrBytes::from_string(options.topic.clone()));
    let request = ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms: i32::try_from(options.request_timeout_ms).unwrap_or(i32::MAX),
        topics: vec![ProduceTopic { topic, partitions }],
    };
    (request, Waiting(waiting))
}

#[cfg(test)]
mod tests {
    use chronik_net::codec::{ApiKey, RequestHeader};
    use clap::Parser;

    use super::*;
    use crate::message::Message;
    use crate::native::PRODUCE_VERSION;
    use crate::native::batch::OpenBatch;

    fn batch(sequence: u64, size: usize) -> Batch {
        let mut open = OpenBatch::new(3);
        open.push(&Message { sequence, key: None, value: &vec![1; size] }, 4, 5);
        open.close(None).unwrap()
    }

    #[test]
    fn a_request_gives_its_batches_back_uncopied() {
        let options = Options::parse_from(["chronik-bench", "-t", "topic"]);
        let batches: Vec<(usize, Batch)> =
            [(4, 10), (0, 70_000), (9, 0)].map(|(at, size)| (at, batch(at as u64, size))).into();
        let addresses: Vec<*const u8> = batches.iter().map(|(_, batch)| batch.bytes.as_ptr()).collect();
        let contents: Vec<Vec<u8>> = batches.iter().map(|(_, batch)| batch.bytes.to_vec()).collect();
        let (request, waiting) = produce_request(&options, -1, batches);
        let client_id = Some(StrBytes::from_static_str("x"));
        let header = RequestHeader {
            api: ApiKey::Produce,
            api_version: PRODUCE_VERSION,
            correlation_id: 1,
            client_id,
        };
        let frame = request.encode(&header).unwrap();
        let sent = waiting.into_sent(&frame);
        assert_eq!(sent.iter().map(|sent| sent.partition).collect::<Vec<_>>(), [4, 0, 9]);
        for (at, sent) in sent.iter().enumerate() {
            assert_eq!(sent.batch.bytes, contents[at]);
            assert_eq!(sent.batch.bytes.as_ptr(), addresses[at]);
            assert_eq!((sent.batch.first_ns, sent.batch.first_sequence()), (3, Some(sent.partition as u64)));
        }
    }
}
