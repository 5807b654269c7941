//! The cluster as clients see it: what one Metadata, DescribeCluster, DescribeQuorum and ListPartitionReassignments add up to.
//!
//! Plain data, so that plans and tables are made of it without a network.

use std::collections::{BTreeMap, BTreeSet};

use chronik_net::codec::ApiKey;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, MetadataRequest, MetadataResponse,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::Failure;
use super::client::Client;
use crate::handlers::cluster::TAG_DRAINING;
use crate::metadata::names::CLUSTER_METADATA;

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its Kafka address, as advertised.
    pub address: String,
    /// Its rack.
    pub rack: Option<String>,
    /// The others reach it.
    pub is_up: bool,
    /// It is being drained: internal topics do not grow onto it.
    pub is_draining: bool,
    /// Its place in the metadata group; none when it is no member.
    pub member: Option<Member>,
}

/// A member of the metadata group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// It votes, and no other incarnation of it is a member; else it is still being filled.
    pub is_voter: bool,
    /// The leader hears it. One whose disk is gone is not heard any more, though its node may be up.
    pub is_heard: bool,
    /// Entries of the metadata log that it is behind the leader.
    pub lag: i64,
    /// Its address for other nodes, if told.
    pub raft: Option<String>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub index: i32,
    /// The broker itself keeps state in it.
    pub is_internal: bool,
    /// Its leader; none when there is none.
    pub leader: Option<i32>,
    /// Its replicas, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync: Vec<i32>,
    /// Replicas that come.
    pub adding: Vec<i32>,
    /// Replicas that go.
    pub removing: Vec<i32>,
}

impl Partition {
    /// `topic-index`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.topic, self.index)
    }

    /// The replicas as they are to be.
    #[must_use]
    pub fn target(&self) -> Vec<i32> {
        let goes = |node: &i32| self.removing.contains(node) && !self.is_renewed(*node);
        self.replicas.iter().copied().filter(|node| !goes(node)).collect()
    }

    /// Whether a node that came back with an empty disk is taking the place of the one that it was. It stays, and is on both lists.
    fn is_renewed(&self, node: i32) -> bool {
        self.adding.contains(&node) && self.removing.contains(&node)
    }

    /// Whether its replicas are being moved.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// Whether a replica that is to stay is not in sync, or is not yet the only one of its node: the one that was lost may still
    /// count for the quorum.
    #[must_use]
    pub fn is_under_replicated(&self) -> bool {
        self.target().iter().any(|node| !self.in_sync.contains(node) || self.is_renewed(*node))
    }
}

/// A picture of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The cluster's id.
    pub cluster_id: String,
    /// The metadata leader, as the node that was asked knows it.
    pub controller: Option<i32>,
    /// Why the metadata group could not be described.
    pub quorum_error: Option<String>,
    /// The registered nodes, and members of the metadata group that are not.
    pub nodes: BTreeMap<i32, Node>,
    /// Every partition, by topic and number.
    pub partitions: Vec<Partition>,
}

impl View {
    /// Asks the cluster.
    ///
    /// # Errors
    /// When no node answers.
    pub fn read(client: &mut Client) -> Result<Self, Failure> {
        let request = DescribeClusterRequest::default().with_include_fenced_brokers(true);
        let cluster: DescribeClusterResponse = client.ask(ApiKey::DescribeCluster, &request)?;
        let metadata: MetadataResponse = client.ask(ApiKey::Metadata, &all_topics())?;
        let request = ListPartitionReassignmentsRequest::default().with_topics(None).with_timeout_ms(10_000);
        let moving: ListPartitionReassignmentsResponse =
            client.ask(ApiKey::ListPartitionReassignments, &request)?;
        let quorum: DescribeQuorumResponse = client.ask(ApiKey::DescribeQuorum, &quorum_request())?;
        let view = Self::from(&cluster, &metadata, &moving, &quorum);
        view.nodes.values().filter(|node| node.is_up).for_each(|node| client.learn(&node.address));
        Ok(view)
    }

    /// The picture that these answers make.
    #[must_use]
    pub fn from(
        cluster: &DescribeClusterResponse,
        metadata: &MetadataResponse,
        moving: &ListPartitionReassignmentsResponse,
        quorum: &DescribeQuorumResponse,
    ) -> Self {
        let mut view = Self { cluster_id: cluster.cluster_id.to_string(), ..Self::default() };
        for broker in &cluster.brokers {
            let node = Node {
                address: format!("{}:{}", broker.host.as_str(), broker.port),
                rack: broker.rack.as_ref().map(ToString::to_string),
                is_up: !broker.is_fenced,
                is_draining: broker.unknown_tagged_fields.contains_key(&TAG_DRAINING),
                member: None,
            };
            view.nodes.insert(broker.broker_id.0, node);
        }
        for topic in &metadata.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            for row in &topic.partitions {
                let nodes = |ids: &[kafka_protocol::messages::BrokerId]| ids.iter().map(|id| id.0).collect();
                view.partitions.push(Partition {
                    topic: name.clone(),
                    index: row.partition_index,
                    is_internal: topic.is_internal,
                    leader: Some(row.leader_id.0).filter(|leader| *leader >= 0),
                    replicas: nodes(&row.replica_nodes),
                    in_sync: nodes(&row.isr_nodes),
                    ..Partition::default()
                });
            }
        }
        view.partitions.sort_by(|a, b| (&a.topic, a.index).cmp(&(&b.topic, b.index)));
        view.note_moves(moving);
        view.note_quorum(quorum);
        view
    }

    fn note_moves(&mut self, moving: &ListPartitionReassignmentsResponse) {
        for topic in &moving.topics {
            for row in &topic.partitions {
                let name: &str = &topic.name;
                let found = self
                    .partitions
                    .binary_search_by(|partition| {
                        (partition.topic.as_str(), partition.index).cmp(&(name, row.partition_index))
                    })
                    .ok();
                if let Some(partition) = found.and_then(|at| self.partitions.get_mut(at)) {
                    partition.adding = row.adding_replicas.iter().map(|id| id.0).collect();
                    partition.removing = row.removing_replicas.iter().map(|id| id.0).collect();
                }
            }
        }
    }

    fn note_quorum(&mut self, quorum: &DescribeQuorumResponse) {
        let Some(row) = quorum.topics.first().and_then(|topic| topic.partitions.first()) else {
            self.quorum_error = Some("the metadata group was not described".to_owned());
            return;
        };
        let code = if row.error_code == 0 { quorum.error_code } else { row.error_code };
        if code != 0 {
            let message =
                row.error_message.as_ref().or(quorum.error_message.as_ref()).map(ToString::to_string);
            let message = message.filter(|message| !message.is_empty());
            self.quorum_error = Some(message.unwrap_or_else(|| super::error_name(code)));
            return;
        }
        self.controller = Some(row.leader_id.0);
        let raft_of = |id: i32| {
            let node = quorum.nodes.iter().find(|node| node.node_id.0 == id)?;
            node.listeners.first().map(|listener| format!("{}:{}", listener.host.as_str(), listener.port))
        };
        let all = row.current_voters.iter().map(|state| (state, true));
        let members = all.chain(row.observers.iter().map(|state| (state, false)));
        let end = row.current_voters.iter().map(|state| state.log_end_offset).max().unwrap_or(0);
        for (state, is_voter) in members {
            let id = state.replica_id.0;
            let lag = (end - state.log_end_offset).max(0);
            let is_heard = state.last_fetch_timestamp >= 0;
            let member = Member { is_voter, is_heard, lag, raft: raft_of(id) };
            let known = &mut self.nodes.entry(id).or_default().member;
            *known = Some(match known.take() {
                // Two incarnations of one node: it is where it is to be when the lost one is gone.
                Some(other) => Member { is_voter: false, lag: lag.min(other.lag), ..member },
                None => member,
            });
        }
    }

    /// Nodes that can be reached.
    #[must_use]
    pub fn up(&self) -> BTreeSet<i32> {
        self.nodes.iter().filter(|(_, node)| node.is_up).map(|(id, _)| *id).collect()
    }

    /// Partitions without a leader that can be reached.
    pub fn offline(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().filter(|partition| partition.leader.is_none())
    }

    /// Partitions with a leader whose replicas are not all in sync.
    pub fn under_replicated(&self) -> impl Iterator<Item = &Partition> {
        self.partitions
            .iter()
            .filter(|partition| partition.leader.is_some() && partition.is_under_replicated())
    }

    /// Partitions whose replicas are being moved.
    pub fn moving(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().filter(|partition| partition.is_moving())
    }

    /// A partition.
    #[must_use]
    pub fn partition(&self, topic: &str, index: i32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.topic == topic && partition.index == index)
    }

    /// How many partitions a node leads, and of how many it has a replica that stays.
    #[must_use]
    pub fn counts(&self, node: i32) -> (usize, usize) {
        let leads = self.partitions.iter().filter(|partition| partition.leader == Some(node)).count();
        let holds = self.partitions.iter().filter(|partition| partition.target().contains(&node)).count();
        (leads, holds)
    }
}

/// A request for everything that Metadata tells.
#[must_use]
pub fn all_topics() -> MetadataRequest {
    MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false)
}

fn quorum_request() -> DescribeQuorumRequest {
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str(CLUSTER_METADATA)))
        .with_partitions(vec![PartitionData::default()]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::describe_quorum_response::{
        PartitionData as PartitionRow, ReplicaState, TopicData as TopicRow,
    };

    use super::*;

    #[test]
    fn a_node_votes_once_its_lost_incarnation_is_no_member_any_more() {
        let state = |id, heard_ms| {
            ReplicaState::default().with_replica_id(BrokerId(id)).with_last_fetch_timestamp(heard_ms)
        };
        let view = |voters: Vec<ReplicaState>, observers: Vec<ReplicaState>| {
            let row = PartitionRow::default().with_current_voters(voters).with_observers(observers);
            let topic = TopicRow::default().with_partitions(vec![row]);
            let mut view = View::default();
            view.note_quorum(&DescribeQuorumResponse::default().with_topics(vec![topic]));
            view
        };
        let is_voter = |view: &View| view.nodes[&3].member.as_ref().is_some_and(|member| member.is_voter);
        let all = vec![state(1, 5), state(2, 5), state(3, 5)];
        assert!(is_voter(&view(all.clone(), Vec::new())));
        let lost = vec![state(1, 5), state(2, 5), state(3, -1)];
        let alone = view(lost.clone(), Vec::new());
        assert!(is_voter(&alone) && !alone.nodes[&3].member.as_ref().unwrap().is_heard);
        assert!(!is_voter(&view(lost, vec![state(3, 5)])), "its successor is being filled");
        let both = vec![state(1, 5), state(2, 5), state(3, -1), state(3, 5)];
        assert!(!is_voter(&view(both, Vec::new())), "both vote");
    }
}
