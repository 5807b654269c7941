//! ElectLeaders 0 to 2. A preferred election is a transfer of leadership; an unclean one is never made: what a replica that
//! lags would lead with is not what was acknowledged (SAFETY.md, rule 27).

use std::rc::Rc;

use chronik_net::codec::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use chronik_net::codec::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use chronik_net::codec::{Response, StrBytes};
use chronik_wal::types::ShardId;
use kafka_protocol::ResponseError;

use super::service::Broker;
use crate::metadata::snapshot::{PartitionView, Snapshot, TopicView};
use crate::shard::elections::Election;
use crate::shard::message::{Reply, Request as Question};

/// Kafka's numbers of the two kinds.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

/// A client waits at most so long, whatever it says: others may want the same leaders elsewhere.
const WAIT_MS_MAX: u32 = 30_000;

/// What is to be said of one partition: nothing yet, while its election is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    topic: TopicName,
    index: i32,
    error: Option<(ResponseError, String)>,
}

/// What a request comes to, before anybody is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Triage {
    rows: Vec<Row>,
    /// The elections to make, each with its row.
    elections: Vec<(usize, Election)>,
}

/// Answers ElectLeaders.
pub async fn elect(broker: &Rc<Broker>, request: ElectLeadersRequest) -> Response {
    if !matches!(request.election_type, PREFERRED | UNCLEAN) {
        let code = ResponseError::InvalidRequest.code();
        return Response::ElectLeaders(ElectLeadersResponse::default().with_error_code(code));
    }
    let mut triage = triage(&broker.router.snapshot(), &request);
    if !triage.elections.is_empty() {
        let elections = triage.elections.iter().map(|(_, election)| *election).collect();
        let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0).min(WAIT_MS_MAX);
        let question = Question::Elect { elections, timeout_ms };
        let left = match broker.router.ask(ShardId(0), question).1.await {
            Some(Reply::Elected(left)) => Some(left),
            _ => None,
        };
        triage.note(left.as_deref());
    }
    // As in Kafka: asked for all, only those are told of for which something was to be done.
    let tells_all = request.topic_partitions.is_some();
    Response::ElectLeaders(response(triage.rows, tells_all))
}

impl Triage {
    /// Notes which elections have not come about; none stands for all.
    fn note(&mut self, left: Option<&[Election]>) {
        for (row, election) in &self.elections {
            if left.is_none_or(|left| left.contains(election)) {
                let message = format!("Broker {} has not taken over in time.", election.to);
                self.rows[*row].error = Some((ResponseError::PreferredLeaderNotAvailable, message));
            }
        }
    }

    fn add(
        &mut self,
        view: &TopicView,
        index: i32,
        partition: &PartitionView,
        snapshot: &Snapshot,
        kind: i8,
    ) {
        let (error, election) = match check(snapshot, partition, kind) {
            Ok(to) => {
                (None, Some(Election { topic_id: view.id, partition: index, group: partition.group, to }))
            }
            Err(error) => (Some(error), None),
        };
        self.elections.extend(election.map(|election| (self.rows.len(), election)));
        let topic = TopicName(StrBytes::from_string(view.name.to_string()));
        self.rows.push(Row { topic, index, error });
    }
}

fn triage(snapshot: &Snapshot, request: &ElectLeadersRequest) -> Triage {
    let mut triage = Triage::default();
    let kind = request.election_type;
    let Some(named) = &request.topic_partitions else {
        for view in snapshot.topics.values() {
            for (partition, index) in view.partitions.iter().zip(0..) {
                triage.add(view, index, partition, snapshot, kind);
            }
        }
        return triage;
    };
    for topic in named {
        let view = snapshot.topic(&topic.topic);
        for index in &topic.partitions {
            let name: &str = &topic.topic;
            match view.and_then(|view| Some((view, view.partition(*index)?))) {
                Some((view, partition)) => triage.add(view, *index, partition, snapshot, kind),
                None => {
                    let message = match view {
                        None => format!("No such topic as {name}"),
                        Some(_) => format!("No such partition as {name}-{index}"),
                    };
                    let error = Some((ResponseError::UnknownTopicOrPartition, message));
                    triage.rows.push(Row { topic: topic.topic.clone(), index: *index, error });
                }
            }
        }
    }
    triage
}

/// Who is to lead, or why there is no election.
fn check(
    snapshot: &Snapshot,
    partition: &PartitionView,
    kind: i8,
) -> Result<chronik_wal::types::NodeId, (ResponseError, String)> {
    let refuse = |code: ResponseError, message: &str| Err((code, message.to_owned()));
    let is_up = |node| snapshot.brokers.contains_key(&node) && !snapshot.fenced.contains(&node);
    let leader = partition.leader.filter(|leader| is_up(leader.node));
    let not_needed = "Leader election not needed for topic partition.";
    if kind == UNCLEAN {
        return match leader {
            Some(_) => refuse(ResponseError::ElectionNotNeeded, not_needed),
            None => refuse(
                ResponseError::EligibleLeadersNotAvailable,
                "An unclean leader is never elected: it would lose acknowledged records. Bring a majority of the replicas \
                 back; if their disks are lost, stop a node and run chronik-server cluster recover --unsafe on its data.",
            ),
        };
    }
    let preferred = partition.target().first().map(|replica| replica.node);
    let Some(preferred) = preferred.filter(|node| is_up(*node)) else {
        return refuse(ResponseError::PreferredLeaderNotAvailable, "The preferred leader cannot be reached.");
    };
    match leader {
        Some(leader) if leader.node == preferred => refuse(ResponseError::ElectionNotNeeded, not_needed),
        Some(_) if partition.in_sync.contains(&preferred) => Ok(preferred),
        Some(_) => refuse(ResponseError::PreferredLeaderNotAvailable, "The preferred leader is not in sync."),
        None => refuse(
            ResponseError::PreferredLeaderNotAvailable,
            "No leader is known that could hand over to the preferred one.",
        ),
    }
}

fn response(rows: Vec<Row>, tells_all: bool) -> ElectLeadersResponse {
    let mut topics: Vec<ReplicaElectionResult> = Vec::new();
    for row in rows {
        let (code, message) = match row.error {
            Some((ResponseError::ElectionNotNeeded, _)) if !tells_all => continue,
            Some((code, message)) => (code.code(), Some(StrBytes::from_string(message))),
            None => (0, None),
        };
        let result = PartitionResult::default()
            .with_partition_id(row.index)
            .with_error_code(code)
            .with_error_message(message);
        match topics.last_mut() {
            Some(last) if last.topic == row.topic => last.partition_result.push(result),
            _ => topics.push(
                ReplicaElectionResult::default().with_topic(row.topic).with_partition_result(vec![result]),
            ),
        }
    }
    ElectLeadersResponse::default().with_replica_election_results(topics)
}

#[cfg(test)]
#[path = "elections_tests.rs"]
mod tests;
