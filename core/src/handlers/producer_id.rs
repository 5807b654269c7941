//! InitProducerId for idempotent producers: an id that nobody had before, from the blocks of the metadata group.
//!
//! Runs on the connection's shard; ids are handed out on shard 0. Transactional ids are refused: transactions are not
//! built yet, and saying so is better than a producer that waits for its coordinator.

use std::rc::Rc;

use chronik_net::codec::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use chronik_net::codec::{ErrorCode, Response};
use chronik_wal::types::ShardId;

use super::service::Broker;
use crate::shard::message::{Reply, Request as Question};

/// Answers InitProducerId.
pub async fn init(broker: Rc<Broker>, request: InitProducerIdRequest) -> Response {
    if let Some(error) = refusal(&request) {
        return refused(error);
    }
    let (_, answer) = broker.router.ask(ShardId(0), Question::ProducerId);
    match answer.await {
        Some(Reply::ProducerId(Ok(id))) => Response::InitProducerId(
            InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        ),
        Some(Reply::ProducerId(Err(error))) => refused(error),
        _ => refused(ErrorCode::CoordinatorNotAvailable),
    }
}

/// Why no id is given: INVALID_REQUEST, which clients do not retry.
fn refusal(request: &InitProducerIdRequest) -> Option<ErrorCode> {
    // KIP-360: a producer may name the id it had, with its epoch; without transactions a new id serves as well.
    let half_named = (request.producer_id.0 < 0) != (request.producer_epoch < 0);
    (request.transactional_id.is_some() || half_named).then_some(ErrorCode::InvalidRequest)
}

fn refused(error: ErrorCode) -> Response {
    Response::InitProducerId(
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    )
}

#[cfg(test)]
mod tests {
    use chronik_net::codec::StrBytes;
    use chronik_net::codec::messages::TransactionalId;

    use super::*;

    #[test]
    fn transactional_and_half_named_producers_are_refused() {
        let plain = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        assert_eq!(refusal(&plain), None);
        let again = plain.clone().with_producer_id(ProducerId(7)).with_producer_epoch(3);
        assert_eq!(refusal(&again), None, "a producer that names what it had gets a new id");
        let half = plain.clone().with_producer_id(ProducerId(7));
        assert_eq!(refusal(&half), Some(ErrorCode::InvalidRequest));
        let id = TransactionalId(StrBytes::from_static_str("t"));
        let transactional = plain.with_transactional_id(Some(id));
        assert_eq!(refusal(&transactional), Some(ErrorCode::InvalidRequest));
    }
}
