//! How a node without metadata becomes part of a cluster: forms one with the others of its list, or joins one that is there
//! (SAFETY.md, rules 8 and 18).
//!
//! ```text
//! ask every node of the list how it stands, again and again ─▶ decide:
//!   one is a member and counts me, by this directory, among the founders  ─▶ Form  (voter under the id it names)
//!   one is a member and has me as a joiner                                ─▶ Join  (no vote until the log says so)
//!   one is a member and does not know me                                  ─▶ Register, through it
//!   all of the list have been heard of late, all fresh, all with this very list, and all know all the others by the
//!   directories that I know them by                                       ─▶ Form
//!   anything else                                                         ─▶ Wait or Obstructed, and say why
//! ```
//! Pure; lives on shard 0 until group 0 exists there. Nothing is kept over a restart but group 0 itself: before that is durable
//! a node has promised nothing, and after it the node is a member.
//!
//! Why two different clusters cannot arise: who forms has heard from each node of the list that it is fresh and means the very
//! same directories. Should a disk be exchanged after some have formed, a cluster with the new directory would need the
//! word of one of these that it knows the new directory while it is fresh, and it is fresh no more.

use std::collections::{BTreeMap, BTreeSet};

use chronik_wal::types::{NodeId, PeerId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::{Endpoint, MetadataReplica, uuid_text};
use super::state::MetadataReplicas;

/// How often the others are asked.
pub const ASK_EVERY_MS: u64 = 200;

/// What was heard longer ago does not count: the node may have another disk by now.
const HEARD_LATE_MS: u64 = 3_000;

/// Members remembered from what others say: more than any cluster has.
const NAMED_MAX: usize = 64;

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    #[serde(with = "uuid_text")]
    pub directory: Uuid,
    /// Whether it has metadata.
    pub standing: Standing,
}

/// A node with the data directory that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Founder {
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    #[serde(with = "uuid_text")]
    pub directory: Uuid,
}

/// Whether a node has metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Standing {
    /// It has none: it has never voted.
    Fresh {
        /// The nodes that it is to form a cluster with, itself included, sorted.
        peers: Vec<NodeId>,
        /// Those of them that it knows to be fresh, itself included, in the same order.
        known: Vec<Founder>,
    },
    /// It has a replica of the metadata group.
    Member {
        /// The cluster's id, once it is committed.
        cluster_id: Option<String>,
        /// The members of the metadata group, as far as it knows.
        replicas: MetadataReplicas,
        /// The leader of the metadata group, if it knows one.
        leader: Option<NodeId>,
        /// Where the brokers are to be reached: the file of the one who asks may name but one of them.
        #[serde(default)]
        addresses: Vec<(NodeId, Endpoint)>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask again; the reason is for people.
    Wait(String),
    /// Ask again, though only people can mend it.
    Obstructed(String),
    /// Make group 0 as this voter of these.
    Form {
        /// This node's peer id.
        peer: PeerId,
        /// The first members of group 0.
        founders: Vec<MetadataReplica>,
    },
    /// Make group 0 as this peer, which has no vote yet.
    Join {
        /// This node's peer id.
        peer: PeerId,
        /// The members of group 0.
        replicas: MetadataReplicas,
    },
    /// Register, through this node.
    Register {
        /// The metadata leader, or else a member.
        through: NodeId,
    },
}

/// A node that has no metadata yet.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    node: NodeId,
    directory: Uuid,
    peers: Vec<NodeId>,
    /// Members of a cluster that others have named.
    named: BTreeSet<NodeId>,
    /// What the others said last, and when.
    heard: BTreeMap<NodeId, (u64, Hello)>,
}

impl Bootstrap {
    /// A fresh node with this list, itself included or not.
    #[must_use]
    pub fn new(node: NodeId, directory: Uuid, mut peers: Vec<NodeId>) -> Self {
        peers.push(node);
        peers.sort_unstable();
        peers.dedup();
        Self { node, directory, peers, named: BTreeSet::new(), heard: BTreeMap::new() }
    }

    /// How this node stands.
    #[must_use]
    pub fn hello(&self, now_ms: u64) -> Hello {
        let mut known = vec![Founder { node: self.node, directory: self.directory }];
        for hello in self.heard_lately(now_ms).filter(|hello| self.peers.contains(&hello.node)) {
            if let Standing::Fresh { .. } = hello.standing {
                known.push(Founder { node: hello.node, directory: hello.directory });
            }
        }
        known.sort_unstable();
        let standing = Standing::Fresh { peers: self.peers.clone(), known };
        Hello { node: self.node, directory: self.directory, standing }
    }

    /// The nodes to ask.
    #[must_use]
    pub fn others(&self) -> BTreeSet<NodeId> {
        let all = self.peers.iter().chain(&self.named).copied();
        all.filter(|peer| *peer != self.node).collect()
    }

    /// A node says how it stands.
    pub fn heard(&mut self, from: NodeId, hello: Hello, now_ms: u64) {
        // Whoever speaks for another node is not believed.
        if hello.node == from && from != self.node {
            if let Standing::Member { addresses, replicas, leader, .. } = &hello.standing {
                // The leader first: only through it can this node register, and its file may not name it.
                let members = replicas.replicas.iter().map(|member| member.node);
                let brokers = addresses.iter().map(|(node, _)| *node);
                for node in leader.iter().copied().chain(members).chain(brokers) {
                    if self.named.len() < NAMED_MAX {
                        self.named.insert(node);
                    }
                }
            }
            self.heard.insert(from, (now_ms, hello));
        }
    }

    fn heard_lately(&self, now_ms: u64) -> impl Iterator<Item = &Hello> {
        let late = move |at_ms: u64| at_ms + HEARD_LATE_MS < now_ms;
        self.heard.values().filter(move |(at_ms, _)| !late(*at_ms)).map(|(_, hello)| hello)
    }

    /// A node cannot be reached: it may come back as another.
    pub fn lost(&mut self, node: NodeId) {
        self.heard.remove(&node);
    }

    /// What is to be done now.
    #[must_use]
    pub fn decide(&self, now_ms: u64) -> Decision {
        let heard: Vec<&Hello> = self.heard_lately(now_ms).collect();
        if let Some(other) = heard.iter().find(|hello| hello.directory == self.directory) {
            return Decision::Obstructed(format!(
                "node {} has a copy of this node's data directory (meta.properties names the same directory.id): empty \
                 one of the two",
                other.node
            ));
        }
        self.as_member(&heard).unwrap_or_else(|| self.form(&heard))
    }

    /// What follows from what members say; none where there are no members.
    fn as_member(&self, heard: &[&Hello]) -> Option<Decision> {
        let members: Vec<(&Option<String>, &MetadataReplicas, Option<NodeId>, NodeId)> = heard
            .iter()
            .filter_map(|hello| match &hello.standing {
                Standing::Member { cluster_id, replicas, leader, .. } => {
                    Some((cluster_id, replicas, *leader, hello.node))
                }
                Standing::Fresh { .. } => None,
            })
            .collect();
        let (first, ..) = members.iter().find(|(id, ..)| id.is_some()).or(members.first())?;
        if let Some((other, _, _, node)) = members.iter().find(|(id, ..)| id.is_some() && id != first) {
            return Some(Decision::Obstructed(format!(
                "the nodes of the list belong to different clusters: {} and {} (node {node}); name the nodes of one \
                 cluster only",
                first.as_deref().unwrap_or("?"),
                other.as_deref().unwrap_or("?"),
            )));
        }
        let me = |replicas: &MetadataReplicas| {
            replicas.of_node(self.node).copied().filter(|own| own.directory == self.directory)
        };
        for (_, replicas, ..) in &members {
            let Some(own) = me(replicas) else { continue };
            let founders = replicas.base();
            return Some(match founders.contains(&own) {
                true => Decision::Form { peer: own.peer, founders },
                false => Decision::Join { peer: own.peer, replicas: (*replicas).clone() },
            });
        }
        let reachable = |node: &NodeId| heard.iter().any(|hello| hello.node == *node);
        let leader = members.iter().find_map(|(_, _, leader, _)| leader.filter(reachable));
        let (_, _, _, any) = members.first()?;
        Some(Decision::Register { through: leader.unwrap_or(*any) })
    }

    /// Forms a cluster, if everybody is there, fresh, and of the same mind.
    fn form(&self, heard: &[&Hello]) -> Decision {
        let mut founders = vec![Founder { node: self.node, directory: self.directory }];
        let others = || self.peers.iter().copied().filter(|peer| *peer != self.node);
        let mut views = Vec::new();
        for peer in others() {
            let Some(hello) = heard.iter().find(|hello| hello.node == peer) else {
                let silent = |peer: &NodeId| !heard.iter().any(|hello| hello.node == *peer);
                let missing: Vec<String> = others().filter(silent).map(|peer| peer.to_string()).collect();
                return Decision::Wait(format!(
                    "the cluster forms once all of its nodes are up; not heard of yet: node {}",
                    missing.join(", ")
                ));
            };
            let Standing::Fresh { peers, known } = &hello.standing else {
                unreachable!("members are looked at first")
            };
            if *peers != self.peers {
                return Decision::Obstructed(format!(
                    "the peer lists differ: node {peer} has {}, this node {} has {}; give all nodes the same [[peers]]",
                    list(peers),
                    self.node,
                    list(&self.peers)
                ));
            }
            founders.push(Founder { node: peer, directory: hello.directory });
            views.push(known);
        }
        founders.sort_unstable();
        if views.iter().any(|known| **known != founders) {
            return Decision::Wait("the nodes of the cluster are finding each other".to_owned());
        }
        let member =
            |(peer, Founder { node, directory })| MetadataReplica { node, peer: PeerId(peer), directory };
        let founders: Vec<MetadataReplica> = (1..).zip(founders).map(member).collect();
        let own = founders.iter().find(|founder| founder.node == self.node);
        Decision::Form { peer: own.expect("this node is in its list").peer, founders }
    }
}

fn list(peers: &[NodeId]) -> String {
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    format!("[{}]", peers.join(", "))
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
