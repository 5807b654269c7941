//! `cluster status` and `cluster health`: a [`View`] as a table, as JSON, and as a verdict.

use std::collections::BTreeMap;

use chronik_net::codec::ApiKey;
use kafka_protocol::messages::MetadataResponse;
use serde_json::{Value, json};

use super::client::Client;
use super::view::{Node, Partition, View, all_topics};
use super::{Outcome, table};

/// Partitions named for one reason; their number is always whole.
const NAMED_MAX: usize = 10;

/// `cluster status`.
pub(super) fn status(view: &View) -> Outcome {
    let mut text = format!(
        "cluster {}  metadata leader {}  nodes {} ({} up)  partitions {} ({} offline, {} under-replicated, {} moving)\n",
        view.cluster_id,
        view.controller.map_or("unknown".to_owned(), |node| node.to_string()),
        view.nodes.len(),
        view.up().len(),
        view.partitions.len(),
        view.offline().count(),
        view.under_replicated().count(),
        view.moving().count(),
    );
    let row = |(id, node): (&i32, &Node)| {
        let (leads, holds) = view.counts(*id);
        vec![
            id.to_string(),
            state(node),
            node.address.clone(),
            node.rack.clone().unwrap_or_else(|| "-".to_owned()),
            place(view, *id, node),
            leads.to_string(),
            holds.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = view.nodes.iter().map(row).collect();
    let head = ["NODE", "STATE", "KAFKA", "RACK", "METADATA GROUP", "LEADS", "HOLDS"];
    text.push_str(&table(&head, &rows));
    Outcome { text, json: json(view), is_well: true }
}

fn state(node: &Node) -> String {
    let state = if node.is_up { "up" } else { "down" };
    if node.is_draining { format!("{state}, draining") } else { state.to_owned() }
}

/// A node's part in the metadata group.
fn place(view: &View, id: i32, node: &Node) -> String {
    match &node.member {
        Some(_) if view.controller == Some(id) => "leader".to_owned(),
        Some(member) if member.is_voter && member.lag == 0 => "voter".to_owned(),
        Some(member) if member.is_voter => format!("voter, {} behind", member.lag),
        Some(member) => format!("joining, {} behind", member.lag),
        None if view.quorum_error.is_some() => "unknown".to_owned(),
        None => "-".to_owned(),
    }
}

fn json(view: &View) -> Value {
    let node = |(id, node): (&i32, &Node)| {
        let (leads, holds) = view.counts(*id);
        json!({
            "node": id,
            "up": node.is_up,
            "draining": node.is_draining,
            "kafka": node.address,
            "rack": node.rack,
            "metadata_group": node.member.as_ref().map(|member| json!({
                "voter": member.is_voter,
                "lag": member.lag,
                "raft": member.raft,
            })),
            "leads": leads,
            "holds": holds,
        })
    };
    let names = |partitions: &mut dyn Iterator<Item = &Partition>| -> Vec<String> {
        partitions.take(1_000).map(Partition::name).collect()
    };
    json!({
        "cluster_id": view.cluster_id,
        "metadata_leader": view.controller,
        "nodes": view.nodes.iter().map(node).collect::<Vec<_>>(),
        "partitions": {
            "all": view.partitions.len(),
            "offline": view.offline().count(),
            "under_replicated": view.under_replicated().count(),
            "moving": view.moving().count(),
        },
        "offline": names(&mut view.offline()),
        "under_replicated": names(&mut view.under_replicated()),
        "moving": names(&mut view.moving()),
    })
}

/// What each node that is up says, when it is asked alone: its leaders, or why it says nothing.
pub(super) type Answers = BTreeMap<i32, Result<MetadataResponse, String>>;

/// Asks every node that is up.
pub(super) fn ask_each(view: &View) -> Answers {
    let ask = |node: &Node| match Client::ask_only(&node.address, ApiKey::Metadata, &all_topics()) {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err("does not serve Metadata".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    view.nodes.iter().filter(|(_, node)| node.is_up).map(|(id, node)| (*id, ask(node))).collect()
}

/// `cluster health`: well when every node answers and agrees, and every partition has all its replicas.
pub(super) fn health(view: &View, answers: &Answers) -> Outcome {
    let problems = problems(view, answers);
    let mut text = String::new();
    match problems.is_empty() {
        true => text.push_str("healthy\n"),
        false => problems.iter().for_each(|problem| text.push_str(&format!("{problem}\n"))),
    }
    let notes: Vec<String> = notes(view);
    notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    let mut json = json(view);
    json["healthy"] = json!(problems.is_empty());
    json["problems"] = json!(problems);
    json["notes"] = json!(notes);
    Outcome { text, json, is_well: problems.is_empty() }
}

fn problems(view: &View, answers: &Answers) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(error) = &view.quorum_error {
        problems.push(format!(
            "the metadata group has no leader that answers ({error}): nothing can be changed until a majority of its \
             members can reach each other"
        ));
    }
    for (id, node) in &view.nodes {
        match answers.get(id) {
            _ if !node.is_up => problems.push(format!("node {id} ({}) is down", node.address)),
            Some(Err(error)) => {
                problems.push(format!("node {id} ({}) cannot be reached from here: {error}", node.address));
            }
            _ => {}
        }
        match &node.member {
            _ if view.quorum_error.is_some() => {}
            Some(member) if member.is_voter && node.is_up && !member.is_heard => problems.push(format!(
                "node {id} is up, but the metadata leader does not hear the voter that it is listed as: its disk is being \
                 replaced, or the two cannot reach each other"
            )),
            Some(member) if member.is_voter => {}
            _ => problems.push(format!("node {id} is no voter of the metadata group (yet)")),
        }
    }
    partitions(&mut problems, "without a leader", view.offline());
    partitions(&mut problems, "with replicas that are not in sync", view.under_replicated());
    problems.extend(disagreements(answers));
    problems
}

fn partitions<'a>(problems: &mut Vec<String>, what: &str, found: impl Iterator<Item = &'a Partition>) {
    let names: Vec<String> = found.map(Partition::name).collect();
    if names.is_empty() {
        return;
    }
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = names[..names.len().min(NAMED_MAX)].join(", ");
    problems.push(format!("{} partition(s) {what}: {named}{more}", names.len()));
}

/// Partitions for which two nodes name different leaders of the same epoch, or leaders more than a moment apart.
fn disagreements(answers: &Answers) -> Vec<String> {
    let mut named: BTreeMap<(String, i32), BTreeMap<i32, Vec<i32>>> = BTreeMap::new();
    for (id, answer) in answers {
        let Ok(answer) = answer else { continue };
        for topic in &answer.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            for row in &topic.partitions {
                let leaders = named.entry((name.clone(), row.partition_index)).or_default();
                leaders.entry(row.leader_id.0).or_default().push(*id);
            }
        }
    }
    let differ = named.into_iter().filter(|(_, leaders)| leaders.len() > 1);
    let differ = differ.take(NAMED_MAX).map(|((topic, index), leaders)| {
        let said: Vec<String> =
            leaders.iter().map(|(leader, nodes)| format!("{leader} (says node {nodes:?})")).collect();
        format!("the nodes name different leaders of {topic}-{index}: {}", said.join(", "))
    });
    differ.collect()
}

/// What is no illness.
fn notes(view: &View) -> Vec<String> {
    let mut notes = Vec::new();
    let moving = view.moving().count();
    if moving > 0 {
        notes.push(format!("{moving} partition(s) are being moved"));
    }
    let elsewhere = view.partitions.iter().filter(|partition| {
        partition.leader.is_some() && partition.replicas.first().copied() != partition.leader
    });
    let elsewhere = elsewhere.count();
    if elsewhere > 0 {
        notes.push(format!("{elsewhere} partition(s) are led by another replica than the preferred one"));
    }
    if view.nodes.len() == 1 {
        notes.push("one node alone: what it loses is lost".to_owned());
    }
    notes
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
