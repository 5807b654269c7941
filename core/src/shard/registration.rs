//! This node's registration as a broker: at each start, and again whenever what is registered differs; tried for ever.
//!
//! Shard 0 only. The proof is the metadata log: the node is registered when its own state says so.

use chronik_wal::types::{GroupId, NodeId};

use super::Shard;
use super::controller::{AdminReply, AdminRequest};
use super::forward::Asker;

/// How long one try may take.
const TRY_MS: u32 = 3_000;
/// Between two tries, at first and at most.
const BACKOFF_MS: (u64, u64) = (100, 5_000);

/// How registering goes.
#[derive(Debug, Default)]
pub struct Registration {
    in_flight: bool,
    next_at_ms: u64,
    backoff_ms: u64,
}

impl Shard {
    /// Registers, if that is called for and not under way.
    pub(crate) fn register(&mut self) {
        let (node, now_ms) = (self.node, self.now.mono_ms);
        let has_group = self.driver.contains(GroupId::METADATA);
        let knows_leader = self.metadata_leader().is_some();
        let Some(host) = &mut self.controller else { return };
        let says = match host.expelled_by {
            Some(by) => Some(format!(" (node {by} says so)")),
            None => host.state.is_departed(&host.own.directory).then(String::new),
        };
        if let Some(says) = says {
            let why = format!(
                "node {node} was removed from the cluster{says}: stop it, or start it on an empty data directory to let \
                 it join again"
            );
            return self.complain(&why, true);
        }
        if host.is_registered(node) {
            host.obstacle = None;
            return;
        }
        if host.registration.in_flight || host.registration.next_at_ms > now_ms {
            return;
        }
        let members = host.state.metadata_replicas();
        let is_member = members.of_node(node).is_some_and(|own| own.directory == host.own.directory);
        if has_group && !is_member && !members.replicas.is_empty() {
            // Unregistered, or its successor is: it must not come back by itself.
            if host.state.brokers().len() > 1 && knows_leader {
                let why = format!("node {node} was removed from the cluster: stop it");
                self.complain(&why, true);
            }
            return;
        }
        if !host.leads() && !knows_leader {
            return;
        }
        host.registration.in_flight = true;
        let request = AdminRequest::Register(node, Box::new(host.own.clone()));
        self.submit(Asker::Registration, request, TRY_MS);
    }

    /// A node says that this one was removed.
    pub(crate) fn expelled(&mut self, by: NodeId) {
        let Some(host) = &mut self.controller else { return };
        host.expelled_by.get_or_insert(by);
        self.register();
    }

    /// One try has ended. Whether it has succeeded shows in the metadata.
    pub(crate) fn registration_answered(&mut self, reply: &AdminReply) {
        let now_ms = self.now.mono_ms;
        let Some(host) = &mut self.controller else { return };
        let registration = &mut host.registration;
        let (first, longest) = BACKOFF_MS;
        registration.in_flight = false;
        registration.backoff_ms = match reply {
            AdminReply::Done => first,
            _ => (registration.backoff_ms * 2).clamp(first, longest),
        };
        registration.next_at_ms = now_ms + registration.backoff_ms;
        if let AdminReply::Refused(_, why) = reply {
            let why = format!("this node is not registered: {why}");
            self.complain(&why, true);
        }
    }
}
