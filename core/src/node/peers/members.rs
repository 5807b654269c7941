//! Which nodes there are and where they are found, from the configured peers and the metadata. Pure.

use std::collections::BTreeMap;

use chronik_net::peer::Members;
use chronik_wal::types::NodeId;

use crate::metadata::command::Endpoint;
use crate::metadata::snapshot::Snapshot;

/// Where the other nodes are found. The metadata know better than the file, which is only where to look first (SAFETY.md,
/// rule 18).
pub(super) fn addresses(
    own: NodeId,
    configured: &BTreeMap<NodeId, Endpoint>,
    snapshot: &Snapshot,
) -> BTreeMap<NodeId, String> {
    let from_file = configured.iter().map(|(node, endpoint)| (*node, endpoint));
    let registered = snapshot.brokers.iter();
    let registered = registered.filter_map(|(node, broker)| Some((*node, broker.raft.as_ref()?)));
    // A node that asks to be let in knows best.
    let guests = snapshot.guests.iter().map(|(node, endpoint)| (*node, endpoint));
    let all: BTreeMap<NodeId, &Endpoint> = from_file.chain(registered).chain(guests).collect();
    let others = all.into_iter().filter(|(node, _)| *node != own);
    others.map(|(node, endpoint)| (node, address(endpoint))).collect()
}

/// Whom to talk to. Until there is a cluster, anybody may turn out to be one of those who form it.
pub(super) fn members(configured: &BTreeMap<NodeId, Endpoint>, snapshot: &Snapshot) -> Members {
    let from_file = configured.keys().map(|node| (node.0, None));
    let registered = snapshot.brokers.iter().map(|(node, broker)| (node.0, Some(broker.directory)));
    let guests = snapshot.guests.keys().filter(|node| !snapshot.brokers.contains_key(node));
    let guests = guests.map(|node| (node.0, None));
    let nodes = from_file.chain(guests).chain(registered).collect();
    Members { admits_strangers: snapshot.cluster_id.is_none(), nodes }
}

/// As it is dialled.
fn address(endpoint: &Endpoint) -> String {
    let Endpoint { host, port } = endpoint;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
