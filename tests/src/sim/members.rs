//! Who is to hold what, and who does: the placement in the metadata against the replicas that there are.

use chronik_core::metadata::snapshot::{PartitionView, Snapshot};
use chronik_raft::driver::Driver;
use chronik_wal::types::GroupId;
use uuid::Uuid;

use super::node::Node;
use super::setup::node_number;
use super::world::World;

impl World {
    /// What a change of members or a lost disk has left unfinished: only without that may the next disk be lost.
    pub(super) fn not_whole(&self) -> Option<String> {
        let Some(snapshot) = self.newest_snapshot() else { return Some("no metadata".into()) };
        if let Some((node, registered)) = self.on_another_disk(&snapshot) {
            return Some(format!("node {node} is registered as {registered:?}"));
        }
        let topics = snapshot.topics.values();
        let mut views = topics.flat_map(|topic| topic.partitions.iter().map(move |view| (&topic.name, view)));
        let partition = views.find_map(|(name, view)| {
            let why = self.replica_missing(view)?;
            if !self.tells_all {
                return Some(why);
            }
            Some(format!("{name}: {why}: {view:?}, {}", self.replicas_of(view.group)))
        });
        partition.or_else(|| {
            let why = self.metadata_replica_missing()?;
            Some(format!("the metadata group: {why}: {}", self.replicas_of(GroupId::METADATA)))
        })
    }

    /// Whether any partition has so few copies that a lost disk would leave it without a quorum.
    pub(super) fn is_any_thin(&self) -> bool {
        let Some(snapshot) = self.newest_snapshot() else { return true };
        let mut views = snapshot.topics.values().flat_map(|topic| &topic.partitions);
        views.any(|view| view.replicas.len() < self.plan.replicas())
    }

    /// Whether any node has another disk than the metadata say, or they are not known.
    pub(super) fn is_any_disk_unknown(&self) -> bool {
        let Some(snapshot) = self.newest_snapshot() else { return true };
        self.on_another_disk(&snapshot).is_some()
    }

    /// The first node whose disk is not the one that is registered, and which one that is.
    fn on_another_disk(&self, snapshot: &Snapshot) -> Option<(usize, Option<Uuid>)> {
        let registered = |node: &Node| snapshot.brokers.get(&node.id()).map(|broker| broker.directory);
        let each = self.nodes.iter().map(|node| (node, registered(node)));
        let mut others =
            each.filter(|(node, directory)| *directory != Some(Uuid::from_bytes(node.directory)));
        others.next().map(|(node, directory)| (node.number, directory))
    }

    /// The group's replica on a node.
    fn replica(&self, node: usize, group: GroupId) -> Option<&Driver> {
        let shards = self.nodes.get(node)?.hosts.iter().map(|host| host.shard.driver());
        shards.into_iter().find(|driver| driver.contains(group))
    }

    fn replica_missing(&self, view: &PartitionView) -> Option<String> {
        if view.is_reassigning() {
            return Some("its replicas are not where they are to be".into());
        }
        let mut placed: Vec<u64> = view.replicas.iter().map(|replica| replica.peer.0).collect();
        placed.sort_unstable();
        for replica in view.replicas.iter() {
            let node = node_number(replica.node);
            let Some(driver) = self.replica(node, view.group) else {
                return Some(format!("node {node} has no replica"));
            };
            if driver.state(view.group).map(|state| state.peer) != Some(replica.peer) {
                return Some(format!("node {node} has another replica than {replica:?}"));
            }
            if !votes_as(driver, view.group, &placed) {
                return Some(format!("node {node} knows other members than {placed:?}"));
            }
        }
        None
    }

    fn metadata_replica_missing(&self) -> Option<String> {
        let mut placed = Vec::new();
        for node in &self.nodes {
            let peer = self
                .replica(node.number, GroupId::METADATA)
                .and_then(|driver| driver.state(GroupId::METADATA));
            let Some(state) = peer else { return Some(format!("node {} has no replica", node.number)) };
            placed.push(state.peer.0);
        }
        placed.sort_unstable();
        let other = self.nodes.iter().find(|node| {
            self.replica(node.number, GroupId::METADATA)
                .is_none_or(|driver| !votes_as(driver, GroupId::METADATA, &placed))
        })?;
        Some(format!("node {} knows other members than {placed:?}", other.number))
    }
}

/// Whether exactly these vote, as far as this replica has applied, and nobody comes or goes.
fn votes_as(driver: &Driver, group: GroupId, placed: &[u64]) -> bool {
    driver.configuration(group).is_some_and(|configuration| {
        let mut voters = configuration.get_voters().to_vec();
        voters.sort_unstable();
        let changing = [
            configuration.get_voters_outgoing(),
            configuration.get_learners(),
            configuration.get_learners_next(),
        ];
        voters == placed && changing.iter().all(|list| list.is_empty())
    })
}
