//! Producer ids: handed out one by one from this node's block; a new block comes from the metadata leader, through the log.

use chronik_net::codec::ErrorCode;

use super::AdminRequest;
use crate::metadata::producer_ids::Take;
use crate::shard::Shard;
use crate::shard::forward::Asker;
use crate::shard::message::{Call, Reply};

/// Requests for a producer id that may wait for the next block.
const ID_WAITERS_MAX: usize = 10_000;

/// How long they wait; clients ask again.
const ID_WAIT_MS: u64 = 5_000;

impl Shard {
    pub(crate) fn producer_id(&mut self, call: Call) {
        let deadline_ms = self.now.mono_ms + ID_WAIT_MS;
        let Some(host) = &mut self.controller else { return self.reply(call, Reply::Unavailable) };
        if host.id_waiters.len() >= ID_WAITERS_MAX {
            return self.reply(call, Reply::ProducerId(Err(ErrorCode::CoordinatorLoadInProgress)));
        }
        host.id_waiters.push_back((call, deadline_ms));
        self.serve_producer_ids();
    }

    pub(super) fn serve_producer_ids(&mut self) {
        let now_ms = self.now.mono_ms;
        while let Some(host) = &mut self.controller {
            let Some((call, deadline_ms)) = host.id_waiters.front().copied() else { return };
            match host.producer_ids.take(host.is_registered(self.node)) {
                Take::Id(id) => {
                    host.id_waiters.pop_front();
                    self.reply(call, Reply::ProducerId(Ok(id)));
                }
                Take::Wait if deadline_ms <= now_ms => {
                    host.id_waiters.pop_front();
                    self.reply(call, Reply::ProducerId(Err(ErrorCode::CoordinatorNotAvailable)));
                }
                Take::Wait => return,
                Take::RequestBlock => {
                    let request = AdminRequest::ProducerIds(self.node);
                    self.submit(Asker::ProducerIds, request, ID_WAIT_MS as u32);
                    return;
                }
            }
        }
    }

    /// The request for a block has ended. If it was granted, the log has brought the block by now.
    pub(in crate::shard) fn producer_ids_asked(&mut self) {
        if let Some(host) = &mut self.controller {
            host.producer_ids.block_failed();
        }
        self.serve_producer_ids();
    }
}
