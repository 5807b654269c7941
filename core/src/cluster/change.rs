//! Carrying plans out: requests to the cluster, and the wait until what was asked for is there.
//!
//! The cluster drives every move by itself; a command that is broken off, or whose time is up, has lost nothing, and run
//! again it goes on where things stand. Progress goes to standard error, the outcome to standard output.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use chronik_net::codec::ApiKey;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse, BrokerId, ElectLeadersRequest, ElectLeadersResponse, TopicName,
    UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use kafka_protocol::protocol::StrBytes;
use serde_json::json;

use super::client::{Client, Deadline};
use super::plan::{self, Move};
use super::view::{Partition, View};
use super::{Failure, Outcome, error_name};
use crate::config::cli::ClusterArgs;

/// Partitions that are moved at once: enough to keep the disks busy, few enough to leave them to the clients.
const MOVES_AT_ONCE: usize = 50;
/// Replicas of internal topics in a cluster of at least as many nodes.
const INTERNAL_REPLICAS: usize = 3;
/// How long the cluster may take to answer a single change.
const ANSWER_MS: i32 = 30_000;
/// Moves that are shown one by one.
const SHOWN_MAX: usize = 100;

/// A change of the cluster.
pub(super) struct Change {
    client: Client,
    deadline: Deadline,
}

impl Change {
    pub(super) fn new(client: Client, args: &ClusterArgs) -> Self {
        Self { client, deadline: Deadline::after(Duration::from_secs(args.timeout)) }
    }

    /// `cluster drain`.
    pub(super) fn drain(&mut self, node: i32, shrink: bool) -> Result<Outcome, Failure> {
        let view = self.view()?;
        known(&view, node)?;
        let drain = plan::drain(&view, node, shrink);
        if !drain.stuck.is_empty() {
            let (count, some) = (drain.stuck.len(), drain.stuck[..drain.stuck.len().min(5)].join(", "));
            return Err(Failure::Refused(format!(
                "{count} partition(s) have no other node to go to ({some}): add a node first (cluster add), or let them \
                 go on with fewer replicas (--shrink), which a partition with a single replica cannot"
            )));
        }
        let count = drain.moves.len();
        self.carry_out(&drain.moves)?;
        let text = format!(
            "node {node} holds nothing any more ({count} replicas moved); take it out with: cluster remove {node}\n"
        );
        Ok(Outcome::done(text, json!({ "node": node, "moved": count })))
    }

    /// `cluster rebalance`.
    pub(super) fn rebalance(&mut self, dry_run: bool) -> Result<Outcome, Failure> {
        let view = self.view()?;
        let moves = plan::rebalance(&view);
        if dry_run {
            return Ok(shown(&view, &moves));
        }
        let elected = self.spread(&moves)?;
        let text = format!("balanced: {} partition(s) moved, {elected} leader(s) changed\n", moves.len());
        Ok(Outcome::done(text, json!({ "moved": moves.len(), "leaders_changed": elected })))
    }

    /// `cluster move-leader`: the node becomes the preferred leader, and then the leader.
    pub(super) fn move_leader(&mut self, topic: &str, index: i32, node: i32) -> Result<Outcome, Failure> {
        let view = self.view()?;
        known(&view, node)?;
        let Some(partition) = view.partition(topic, index) else {
            return Err(Failure::Refused(format!("there is no partition {topic}-{index}")));
        };
        let Some(preferred) = plan::preferred_first(partition, node) else {
            return Err(Failure::Refused(format!(
                "node {node} has no replica of {topic}-{index}, only {:?}: move one there first",
                partition.target()
            )));
        };
        if partition.target() != preferred.replicas {
            self.carry_out(std::slice::from_ref(&preferred))?;
        }
        self.elect(std::slice::from_ref(&preferred))?;
        let text = format!("{topic}-{index} is led by node {node}\n");
        Ok(Outcome::done(text, json!({ "topic": topic, "partition": index, "leader": node })))
    }

    /// `cluster add`: waits for a node that was started fresh, makes it a full member, gives it its part of the internal topics.
    pub(super) fn add(&mut self, node: i32, rebalance: bool) -> Result<Outcome, Failure> {
        let view = self.view()?;
        if !view.nodes.get(&node).is_some_and(|node| node.is_up) {
            progress(&how_to_start(&view, node));
        }
        let what = format!("node {node} has not been started, or is not let in: its log says why");
        self.wait_until(&what, |view| view.nodes.get(&node).is_some_and(|node| node.is_up))?;
        progress(&format!("node {node} is registered"));
        self.make_voter(node)?;
        progress(&format!("node {node} is a voter of the metadata group"));
        let view = self.view()?;
        let grown = plan::grow_internal(&view, INTERNAL_REPLICAS);
        self.carry_out(&grown)?;
        let mut moved = grown.len();
        if rebalance {
            let moves = plan::rebalance(&self.view()?);
            self.spread(&moves)?;
            moved += moves.len();
        }
        let hint = if rebalance { "" } else { "; give it its share with: cluster rebalance" };
        let text = format!("node {node} is a member ({moved} partition(s) moved){hint}\n");
        Ok(Outcome::done(text, json!({ "node": node, "moved": moved })))
    }

    /// `cluster remove`: for a node that holds nothing any more.
    pub(super) fn remove(&mut self, node: i32) -> Result<Outcome, Failure> {
        let view = self.view()?;
        known(&view, node)?;
        let holds = view.partitions.iter().filter(|partition| partition.replicas.contains(&node)).count();
        if holds > 0 {
            return Err(Failure::Refused(format!(
                "node {node} holds replicas of {holds} partition(s): move them away first (cluster drain {node})"
            )));
        }
        let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(node));
        loop {
            let answer: UnregisterBrokerResponse = self.client.ask(ApiKey::UnregisterBroker, &request)?;
            let gone = answer.error_code == ResponseError::BrokerIdNotRegistered.code();
            if answer.error_code == 0 || gone {
                break;
            }
            self.again(answer.error_code, answer.error_message.as_ref())?;
        }
        let what = format!("node {node} is still a member of the metadata group");
        self.wait_until(&what, |view| !view.nodes.contains_key(&node))?;
        let text = format!(
            "node {node} is no member any more: stop it, and empty its data directory before it is used again\n"
        );
        Ok(Outcome::done(text, json!({ "node": node })))
    }

    fn view(&mut self) -> Result<View, Failure> {
        View::read(&mut self.client)
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&View) -> bool) -> Result<View, Failure> {
        loop {
            let view = self.view()?;
            if is_so(&view) {
                return Ok(view);
            }
            if !self.deadline.pause() {
                return Err(Failure::NotInTime(format!(
                    "{what}; the time (--timeout) is up, run it again to go on"
                )));
            }
        }
    }

    /// A node that registers joins the metadata group by itself; one that was taken out of it is asked back in.
    fn make_voter(&mut self, node: i32) -> Result<(), Failure> {
        let view = self.view()?;
        if view.quorum_error.is_none() && view.nodes.get(&node).is_some_and(|node| node.member.is_none()) {
            let request = AddRaftVoterRequest::default()
                .with_cluster_id(Some(StrBytes::from_string(view.cluster_id)))
                .with_timeout_ms(ANSWER_MS)
                .with_voter_id(node);
            loop {
                let answer: AddRaftVoterResponse = self.client.ask(ApiKey::AddRaftVoter, &request)?;
                let is_one = answer.error_code == ResponseError::DuplicateVoter.code();
                if answer.error_code == 0 || is_one {
                    break;
                }
                self.again(answer.error_code, answer.error_message.as_ref())?;
            }
        }
        let is_voter = |view: &View| {
            let member = view.nodes.get(&node).and_then(|node| node.member.as_ref());
            member.is_some_and(|member| member.is_voter)
        };
        self.wait_until(&format!("node {node} is not yet a voter of the metadata group"), is_voter)?;
        Ok(())
    }

    /// Moves replicas, then brings leaders to where they are preferred. Gives how many leaders changed.
    fn spread(&mut self, moves: &[Move]) -> Result<usize, Failure> {
        self.carry_out(moves)?;
        let view = self.view()?;
        let elsewhere = |partition: &&Partition| {
            let first = partition.replicas.first().copied();
            partition.leader.is_some() && partition.leader != first
        };
        let wanted: Vec<Move> = view
            .partitions
            .iter()
            .filter(elsewhere)
            .map(|partition| Move {
                topic: partition.topic.clone(),
                index: partition.index,
                replicas: partition.replicas.clone(),
            })
            .collect();
        self.elect(&wanted)?;
        Ok(wanted.len())
    }

    /// Moves replicas, some at a time, and waits for each.
    fn carry_out(&mut self, moves: &[Move]) -> Result<(), Failure> {
        let mut done = 0;
        for some in moves.chunks(MOVES_AT_ONCE) {
            self.reassign(some)?;
            let mut told = usize::MAX;
            loop {
                let view = self.view()?;
                let arrived = some.iter().filter(|one| has_arrived(&view, one)).count();
                if arrived != told {
                    progress(&format!("{} of {} partition(s) moved", done + arrived, moves.len()));
                    told = arrived;
                }
                if arrived == some.len() {
                    break;
                }
                if !self.deadline.pause() {
                    return Err(Failure::NotInTime(format!(
                        "{} of {} partition(s) moved, {} are on their way; the time (--timeout) is up, run it again to \
                         go on",
                        done + arrived,
                        moves.len(),
                        some.len() - arrived
                    )));
                }
            }
            done += some.len();
        }
        Ok(())
    }

    fn reassign(&mut self, moves: &[Move]) -> Result<(), Failure> {
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for one in moves {
            let replicas = one.replicas.iter().copied().map(BrokerId).collect();
            let row = ReassignablePartition::default()
                .with_partition_index(one.index)
                .with_replicas(Some(replicas));
            topics.entry(&one.topic).or_default().push(row);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
        });
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(ANSWER_MS)
            .with_topics(topics.collect());
        loop {
            let answer: AlterPartitionReassignmentsResponse =
                self.client.ask(ApiKey::AlterPartitionReassignments, &request)?;
            if answer.error_code != 0 {
                self.again(answer.error_code, answer.error_message.as_ref())?;
                continue;
            }
            let rows = answer.responses.iter().flat_map(|topic| {
                topic.partitions.iter().map(move |partition| (topic.name.to_string(), partition))
            });
            // A topic that has been deleted meanwhile has nothing left to move.
            let gone = ResponseError::UnknownTopicOrPartition.code();
            let failed = rows.filter(|(_, row)| row.error_code != 0 && row.error_code != gone);
            let failed: Vec<String> = failed
                .map(|(topic, row)| {
                    let why = said(row.error_code, row.error_message.as_ref());
                    format!("{topic}-{}: {why}", row.partition_index)
                })
                .collect();
            return match failed.first() {
                None => Ok(()),
                Some(first) => {
                    Err(Failure::Refused(format!("{} partition(s) refused: {first}", failed.len())))
                }
            };
        }
    }

    /// Brings leaders to the first of the replicas, and waits until the cluster says so.
    fn elect(&mut self, moves: &[Move]) -> Result<(), Failure> {
        let mut left: Vec<&Move> = moves.iter().collect();
        loop {
            let view = self.view()?;
            left.retain(|one| {
                let partition = view.partition(&one.topic, one.index);
                partition.is_some_and(|partition| partition.leader != one.replicas.first().copied())
            });
            let Some(first) = left.first() else { return Ok(()) };
            let name = format!("{}-{}", first.topic, first.index);
            let why = self.ask_for_leaders(&left)?;
            if !self.deadline.pause() {
                return Err(Failure::NotInTime(format!(
                    "{} leader(s) have not changed, {name} among them{}; the time (--timeout) is up",
                    left.len(),
                    why.map(|why| format!(" ({why})")).unwrap_or_default()
                )));
            }
        }
    }

    /// Gives why one of them cannot lead just now, if so.
    fn ask_for_leaders(&mut self, moves: &[&Move]) -> Result<Option<String>, Failure> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        moves.iter().for_each(|one| topics.entry(&one.topic).or_default().push(one.index));
        let topics = topics.into_iter().map(|(topic, partitions)| {
            TopicPartitions::default().with_topic(topic_name(topic)).with_partitions(partitions)
        });
        let request = ElectLeadersRequest::default()
            .with_timeout_ms(ANSWER_MS)
            .with_topic_partitions(Some(topics.collect()));
        let answer: ElectLeadersResponse = self.client.ask(ApiKey::ElectLeaders, &request)?;
        if answer.error_code != 0 {
            return Ok(Some(error_name(answer.error_code)));
        }
        let not_needed = ResponseError::ElectionNotNeeded.code();
        let rows = answer.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
        let failed = rows.filter(|row| row.error_code != 0 && row.error_code != not_needed);
        Ok(failed.map(|row| said(row.error_code, row.error_message.as_ref())).next())
    }

    /// Whether to ask again after this error: it passes, and there is time left.
    fn again(&self, code: i16, message: Option<&StrBytes>) -> Result<(), Failure> {
        let passes = ResponseError::try_from_code(code).is_some_and(|error| error.is_retriable());
        match passes && self.deadline.pause() {
            true => Ok(()),
            false => Err(Failure::Refused(said(code, message))),
        }
    }
}

/// An error as it was told, or else its name.
fn said(code: i16, message: Option<&StrBytes>) -> String {
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{}: {}", error_name(code), message.as_str()),
        None => error_name(code),
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn known(view: &View, node: i32) -> Result<(), Failure> {
    match view.nodes.contains_key(&node) {
        true => Ok(()),
        false => Err(Failure::Refused(format!(
            "there is no node {node}; the nodes are {:?}",
            view.nodes.keys().collect::<Vec<_>>()
        ))),
    }
}

fn has_arrived(view: &View, wanted: &Move) -> bool {
    let partition = view.partition(&wanted.topic, wanted.index);
    partition.is_none_or(|partition| !partition.is_moving() && partition.replicas == wanted.replicas)
}

fn shown(view: &View, moves: &[Move]) -> Outcome {
    let before =
        |one: &Move| view.partition(&one.topic, one.index).map(Partition::target).unwrap_or_default();
    let line = |one: &Move| format!("{}-{}: {:?} -> {:?}\n", one.topic, one.index, before(one), one.replicas);
    let mut text: String = moves.iter().take(SHOWN_MAX).map(line).collect();
    if moves.len() > SHOWN_MAX {
        text.push_str(&format!("and {} more\n", moves.len() - SHOWN_MAX));
    }
    if moves.is_empty() {
        text.push_str("balanced: nothing to move\n");
    }
    let rows = moves.iter().map(
        |one| json!({ "topic": one.topic, "partition": one.index, "from": before(one), "to": one.replicas }),
    );
    Outcome::done(text, json!({ "moves": rows.collect::<Vec<_>>() }))
}

fn how_to_start(view: &View, node: i32) -> String {
    let mut text = format!(
        "node {node} is not there yet: start it with an empty data directory and with the nodes of this cluster as peers, \
         itself included:\n  chronik-server start --node-id {node} --data-dir DIR --kafka HOST:PORT --raft HOST:PORT \
         --advertise HOST:PORT --advertise-raft HOST:PORT \\\n"
    );
    for (id, other) in view.nodes.iter().filter(|(id, _)| **id != node) {
        let raft = other.member.as_ref().and_then(|member| member.raft.clone());
        let raft = raft.unwrap_or_else(|| "RAFT-ADDRESS".to_owned());
        text.push_str(&format!("    --peer {id}={},{raft} \\\n", other.address));
    }
    text.push_str(&format!("    --peer {node}=KAFKA-ADDRESS,RAFT-ADDRESS\nwaiting for it"));
    text
}

fn progress(line: &str) {
    // Who has closed standard error does not want to know.
    let _ = writeln!(io::stderr(), "{line}");
}
