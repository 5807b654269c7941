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
    if request.transactional_id.is_some() {
        return refused(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    let known = (request.producer_id.0, request.producer_epoch);
    // KIP-360: a producer may name the id it had, with its epoch; without transactions a new id serves as well.
    if (known.0 < 0) != (known.1 < 0) {
        return refused(ErrorCode::InvalidRequest);
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

fn refused(error: ErrorCode) -> Response {
    Response::InitProducerId(
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    )
}
