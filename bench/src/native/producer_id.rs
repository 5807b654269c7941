//! What makes a producer idempotent: an id from the broker (InitProducerId, version 1, written
//! by hand: two fields), and a number for each record of a partition, so that a batch that is
//! sent again is not stored again.

use anyhow::{Context, Result, bail};
use chronik_net::codec::{
    ApiKey, EncodeError, ErrorCode, FrameReader, RequestHeader, ResponseFrame, WireError, Writer,
};

use super::channel::Finished;
use super::cluster::{Cluster, Event};
use super::{NANOS_PER_MILLISECOND, SLEEP_NS_MAX};
use crate::run::Run;

/// How long a broker may take for a producer id: a new one looks for its controller.
const PRODUCER_ID_TIMEOUT_NS: u64 = 30_000 * NANOS_PER_MILLISECOND;
/// The last version before the flexible ones.
const INIT_PRODUCER_ID_VERSION: i16 = 1;

/// A producer as brokers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerId {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// The whole frame of a request for a new producer id, without transactions.
fn encode_request(header: &RequestHeader) -> Result<ResponseFrame, EncodeError> {
    // Read by the broker only where there is a transactional id.
    const TRANSACTION_TIMEOUT_MS: i32 = 60_000;
    let mut writer = Writer::new(false, 64);
    header.encode(&mut writer);
    writer.nullable_string(None);
    writer.i32(TRANSACTION_TIMEOUT_MS);
    writer.finish()
}

/// Reads the answer.
fn decode_answer(answer: &mut FrameReader) -> Result<(ErrorCode, ProducerId), WireError> {
    answer.read(|reader| {
        let _throttle_time_ms = reader.i32()?;
        let error = ErrorCode::from_wire(reader.i16()?);
        Ok((error, ProducerId { id: reader.i64()?, epoch: reader.i16()? }))
    })
}

/// Asks a broker for a producer id, until one gives it.
pub fn ask_producer_id<T: Default>(cluster: &mut Cluster<T>, run: &Run) -> Result<ProducerId> {
    let deadline_ns = run.clock.now_ns() + PRODUCER_ID_TIMEOUT_NS;
    let (mut is_asked, mut reason) = (false, "no answer".to_owned());
    loop {
        let now_ns = run.clock.now_ns();
        if now_ns > deadline_ns {
            bail!("the broker gives no producer id, which --validate needs: {reason}");
        }
        cluster.turn(now_ns)?;
        let up = (0..cluster.partition_count()).find_map(|partition| cluster.leader(partition));
        let lost = match up {
            Some(channel) if !is_asked => {
                is_asked = true;
                let api = (ApiKey::InitProducerId, INIT_PRODUCER_ID_VERSION);
                cluster.send(channel, api, encode_request, |_| T::default(), true, now_ns)
            }
            _ => None,
        };
        if let Some(event) = lost.or_else(|| cluster.next_event(now_ns)) {
            is_asked = false;
            match event {
                Event::Lost { reason: lost, .. } => reason = lost,
                Event::Finished(Finished { answer: None, .. }) => {}
                Event::Finished(Finished { answer: Some(mut answer), .. }) => {
                    match decode_answer(&mut answer).context("unreadable answer to InitProducerId")? {
                        (ErrorCode::None, producer_id) => return Ok(producer_id),
                        (error, _) if error.retriable() => reason = error.to_string(),
                        (error, _) => bail!("the broker gives no producer id: {error}"),
                    }
                }
            }
        }
        cluster.wait(SLEEP_NS_MAX)?;
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use chronik_net::codec::StrBytes;
    use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId as OracleId};
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;

    #[test]
    fn the_second_codec_reads_the_request_and_writes_the_answer() {
        let client_id = Some(StrBytes::from_static_str("c"));
        let api = ApiKey::InitProducerId;
        let header =
            RequestHeader { api, api_version: INIT_PRODUCER_ID_VERSION, correlation_id: 7, client_id };
        let frame = encode_request(&header).unwrap().to_contiguous();
        // Length, key, version, correlation id, and a client id of one byte.
        let mut body = frame.slice(4 + 2 + 2 + 4 + 2 + 1..);
        let request = InitProducerIdRequest::decode(&mut body, INIT_PRODUCER_ID_VERSION).unwrap();
        assert!(request.transactional_id.is_none() && body.is_empty());

        let answer = InitProducerIdResponse::default()
            .with_producer_id(OracleId(1 << 40))
            .with_producer_epoch(3)
            .with_error_code(ErrorCode::CoordinatorNotAvailable.code());
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes, INIT_PRODUCER_ID_VERSION).unwrap();
        let decoded = decode_answer(&mut FrameReader::new(bytes, false)).unwrap();
        assert_eq!(decoded, (ErrorCode::CoordinatorNotAvailable, ProducerId { id: 1 << 40, epoch: 3 }));
    }
}
