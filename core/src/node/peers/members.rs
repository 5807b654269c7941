//! Which nodes there are and where they are found, from the configured peers and the metadata. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_net::peer::Members;
use chronik_wal::types::NodeId;

use crate::metadata::command::Endpoint;
use crate::metadata::snapshot::Snapshot;

/// Nodes that are dialled because they dialled this one although nobody knows them: more than join at once.
const HEARD_MAX: usize = 64;

/// Where the other nodes are found.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// By the metadata and the configuration.
    known: BTreeMap<NodeId, Arc<str>>,
    /// By what nodes said of themselves when they dialled this one: those that have yet to register, or have moved. It counts until
    /// they are not found there.
    heard: BTreeMap<NodeId, Arc<str>>,
}

impl Addresses {
    /// The metadata say this now: newer than what was heard before, where it is anything new.
    pub(super) fn learn(&mut self, known: BTreeMap<NodeId, Arc<str>>) {
        self.heard.retain(|node, _| known.get(node) == self.known.get(node));
        self.known = known;
    }

    /// A node says where it is. Ignored when there are too many that nobody knows.
    pub(super) fn hear(&mut self, node: NodeId, address: Arc<str>) {
        if self.heard.len() < HEARD_MAX || self.known.contains_key(&node) {
            self.heard.insert(node, address);
        }
    }

    /// A node is not where it said; true when it had said so.
    pub(super) fn unhear(&mut self, node: NodeId) -> bool {
        self.heard.remove(&node).is_some()
    }

    /// Whom to dial, and where.
    pub(super) fn all(&self) -> BTreeMap<NodeId, Arc<str>> {
        self.known.iter().chain(&self.heard).map(|(node, address)| (*node, address.clone())).collect()
    }
}

/// Where the other nodes are found. The metadata know better than the file, which is only where to look first (SAFETY.md,
/// rule 18).
pub(super) fn known_addresses(
    own: NodeId,
    configured: &BTreeMap<NodeId, Endpoint>,
    snapshot: &Snapshot,
) -> BTreeMap<NodeId, Arc<str>> {
    let from_file = configured.iter().map(|(node, endpoint)| (*node, endpoint));
    let registered = snapshot.brokers.iter();
    let registered = registered.filter_map(|(node, broker)| Some((*node, broker.raft.as_ref()?)));
    // Until it is out of the metadata group, a removed node may have to vote there.
    let leaving = snapshot.departures.leaving.iter();
    let leaving = leaving.filter_map(|(node, departed)| Some((*node, departed.raft.as_ref()?)));
    // A node that asks to be let in knows best.
    let guests = snapshot.guests.iter().map(|(node, endpoint)| (*node, endpoint));
    let all: BTreeMap<NodeId, &Endpoint> = from_file.chain(leaving).chain(registered).chain(guests).collect();
    let others = all.into_iter().filter(|(node, _)| *node != own);
    others.map(|(node, endpoint)| (node, address(endpoint).into())).collect()
}

/// Whom to talk to. Until there is a cluster, anybody may turn out to be one of those who form it. Who was removed is talked to
/// no more, though the file names it; a node that the metadata do not know (yet) is, if the file does.
pub(super) fn members(configured: &BTreeMap<NodeId, Endpoint>, snapshot: &Snapshot) -> Members {
    let from_file = configured.keys().map(|node| (node.0, None));
    let registered = snapshot.brokers.iter().map(|(node, broker)| (node.0, Some(broker.directory)));
    let guests = snapshot.guests.keys().filter(|node| !snapshot.brokers.contains_key(node));
    let guests = guests.map(|node| (node.0, None));
    let leaving = snapshot.departures.leaving.iter();
    let leaving = leaving.map(|(node, departed)| (node.0, Some(departed.directory)));
    let nodes = from_file.chain(leaving).chain(guests).chain(registered).collect();
    let removed = snapshot.departures.removed.clone();
    Members { admits_strangers: snapshot.cluster_id.is_none(), nodes, removed }
}

/// As it is dialled.
pub(in crate::node) fn address(endpoint: &Endpoint) -> String {
    let Endpoint { host, port } = endpoint;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests;
