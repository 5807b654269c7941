//! InitProducerId 0 to 5 for idempotent producers. Transactional ones are refused until there is a coordinator for them.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::metadata::producer_ids::{ProducerIds, Take};

/// What came of the request.
#[derive(Clone, Debug, PartialEq)]
pub enum InitProducerId {
    /// Send this.
    Answer(InitProducerIdResponse),
    /// No id is left on this node: call again when a block has come. `request_block` says that one must be asked for
    /// now (`Controller::plan_producer_ids`); otherwise it is on its way.
    Wait {
        /// Whether to ask for a block.
        request_block: bool,
    },
}

/// Answers with a producer id from this node's store.
pub fn init_producer_id(ids: &mut ProducerIds, request: &InitProducerIdRequest) -> InitProducerId {
    let has_id = request.producer_id.0 != -1;
    let has_epoch = request.producer_epoch != -1;
    if request.transactional_id.is_some() || has_id != has_epoch {
        return InitProducerId::Answer(failed(ResponseError::InvalidRequest));
    }
    match ids.take() {
        Take::Id(id) => {
            let response =
                InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0);
            InitProducerId::Answer(response)
        }
        Take::RequestBlock => InitProducerId::Wait { request_block: true },
        Take::Wait => InitProducerId::Wait { request_block: false },
    }
}

/// The answer when no block could be had: COORDINATOR_LOAD_IN_PROGRESS is retried by clients.
#[must_use]
pub fn no_block_to_be_had() -> InitProducerIdResponse {
    failed(ResponseError::CoordinatorLoadInProgress)
}

fn failed(code: ResponseError) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(code.code())
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1)
}
