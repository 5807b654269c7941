//! Whether another node is there at this moment, as far as this shard's link to it can tell: for `handlers::settle`.

use std::pin::Pin;
use std::rc::Rc;

use chronik_net::rt::clock;
use chronik_wal::types::NodeId;

use super::Peers;
use crate::handlers::settle::Witness;

/// A node whose link went down so long ago counts as just gone: whoever led there is about to have a successor. Later it says
/// nothing any more, for others may reach a node that this one does not.
const JUST_GONE_MS: u64 = 1_000;

impl Witness for Rc<Peers> {
    fn is_there(&self, node: NodeId) -> Pin<Box<dyn Future<Output = bool>>> {
        let answer = self.outgoing.borrow().get(&node).and_then(|outgoing| outgoing.link.probe());
        let went_ms = self.went_ms.borrow().get(&node).copied();
        Box::pin(async move {
            match answer {
                Some(answer) => answer.await.is_some(),
                None => {
                    went_ms.is_none_or(|at_ms| clock::monotonic_ms().saturating_sub(at_ms) > JUST_GONE_MS)
                }
            }
        })
    }
}
