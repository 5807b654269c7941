//! Tests of the controller: a row for each of Kafka's errors, pipelined requests that see each other, retries.

use std::collections::BTreeMap;

use chronik_wal::types::{GroupId, PeerId, Term};
use kafka_protocol::messages::alter_configs_request as legacy;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use kafka_protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::{AlterConfigsRequest, BrokerId, IncrementalAlterConfigsRequest, TopicName};
use proptest::prelude::*;

use super::*;
use crate::config::layers::ConfigMap;
use crate::metadata::command::Endpoint;
use crate::metadata::snapshot::SnapshotBuilder;

fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.to_owned(), port }
}

/// A metadata leader with brokers 1 to `brokers`, whose plans are committed when the test says so.
pub(super) struct World {
    pub(super) state: MetadataState,
    pub(super) builder: SnapshotBuilder,
    pub(super) controller: Controller,
    drawn: u128,
}

impl World {
    pub(super) fn with(brokers: i32, fixed: &[(&str, &str)]) -> Self {
        // As the node's configuration has it for a node on its own.
        let fixed = fixed.iter().chain(&[("offsets.topic.replication.factor", "1")]);
        let fixed: ConfigMap = fixed.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut state = MetadataState::default();
        let mut builder = SnapshotBuilder::new(NodeId(1), 1, fixed);
        for node in 1..=brokers {
            let command = Command::RegisterBroker {
                node: NodeId(node),
                directory: Uuid::nil(),
                incarnation: Uuid::nil(),
                rack: None,
                listeners: BTreeMap::from([("PLAINTEXT".to_owned(), endpoint("h", 9092))]),
                raft: None,
            };
            let change = state.apply(&command).unwrap();
            builder.apply(&change, &state);
        }
        let controller = Controller::new(&state);
        Self { state, builder, controller, drawn: 0 }
    }

    fn new() -> Self {
        Self::with(1, &[])
    }

    pub(super) fn with_context<R>(
        &mut self,
        request: Option<RequestId>,
        plan: impl FnOnce(&mut Controller, &mut PlanContext<'_>) -> Plan<R>,
    ) -> Plan<R> {
        let mut random = || {
            self.drawn += 1;
            Uuid::from_u128(self.drawn)
        };
        let mut context = PlanContext { snapshot: self.builder.current(), random: &mut random, request };
        plan(&mut self.controller, &mut context)
    }

    pub(super) fn plan<R>(
        &mut self,
        plan: impl FnOnce(&mut Controller, &mut PlanContext<'_>) -> Plan<R>,
    ) -> Plan<R> {
        self.with_context(None, plan)
    }

    pub(super) fn commit<R>(&mut self, plan: Plan<R>) -> R {
        for command in &plan.commands {
            let change = self.state.apply(command).unwrap();
            self.builder.apply(&change, &self.state);
        }
        if !plan.commands.is_empty() {
            self.controller.committed(&self.state);
        }
        plan.response
    }

    pub(super) fn create(&mut self, topics: Vec<CreatableTopic>) -> CreateTopicsResponse {
        let request = CreateTopicsRequest::default().with_topics(topics);
        let plan = self.plan(|controller, context| controller.plan_create_topics(&request, context));
        self.commit(plan)
    }

    fn incremental(&mut self, resources: Vec<incremental::AlterConfigsResource>) -> Vec<(i16, String)> {
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let plan =
            self.plan(|controller, context| controller.plan_incremental_alter_configs(&request, context));
        let rows = self.commit(plan).responses;
        rows.into_iter().map(|r| (r.error_code, r.error_message.unwrap_or_default().to_string())).collect()
    }

    fn topic_configs(&self, name: &str) -> BTreeMap<&str, &str> {
        let configs = &self.state.topic(name).unwrap().configs;
        configs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

pub(super) fn name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic(topic: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
}

fn with_config(topic: CreatableTopic, key: &str, value: Option<&str>) -> CreatableTopic {
    topic.with_configs(vec![CreatableTopicConfig::default().with_name(text(key)).with_value(value.map(text))])
}

pub(super) fn assigned(topic_name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
    let assignment = |(index, brokers): &(i32, &[i32])| {
        CreatableReplicaAssignment::default()
            .with_partition_index(*index)
            .with_broker_ids(brokers.iter().map(|id| BrokerId(*id)).collect())
    };
    topic(topic_name, -1, -1).with_assignments(assignments.iter().map(assignment).collect())
}

#[test]
fn topics_are_made_with_defaults_configs_and_ids() {
    let mut world = World::with(3, &[("num.partitions", "4"), ("default.replication.factor", "2")]);
    let response = world.create(vec![with_config(topic("a", -1, -1), "retention.ms", Some("5"))]);
    let row = &response.topics[0];
    assert_eq!((row.error_code, row.num_partitions, row.replication_factor), (0, 4, 2));
    assert_eq!(row.topic_id, world.state.topic("a").unwrap().id);
    let configs = row.configs.as_ref().unwrap();
    assert_eq!(configs.len(), 33);
    let config = |key: &str| configs.iter().find(|config| &*config.name == key).unwrap();
    assert_eq!(
        (config("retention.ms").value.as_deref(), config("retention.ms").config_source),
        (Some("5"), 1)
    );
    assert_eq!(
        (config("segment.ms").value.as_deref(), config("segment.ms").config_source),
        (Some("604800000"), 5)
    );
    let partitions = &world.state.topic("a").unwrap().partitions;
    let firsts: BTreeSet<NodeId> = partitions.iter().map(|partition| partition.replicas[0].node).collect();
    assert_eq!(firsts.len(), 3, "leaders are spread");
    // Field report 003: the metadata leader (node 1) campaigns first where it holds a replica.
    for partition in partitions {
        let holds = partition.replicas.iter().any(|replica| replica.node == NodeId(1));
        assert_eq!(partition.first_leader == NodeId(1), holds);
    }
}

/// During a rolling restart topics of three replicas can be made, but none that would have no quorum.
#[test]
fn brokers_that_are_away_get_replicas_only_where_there_are_too_few_others() {
    let mut world = World::with(3, &[]);
    world.builder.broker_reachable(NodeId(3), false);
    let response = world.create(vec![topic("two", 6, 2), topic("three", 6, 3)]);
    assert!(response.topics.iter().all(|row| row.error_code == 0), "{response:?}");
    let nodes = |topic: &str| -> Vec<Vec<i32>> {
        let partitions = &world.state.topic(topic).unwrap().partitions;
        partitions.iter().map(|at| at.replicas.iter().map(|replica| replica.node.0).collect()).collect()
    };
    assert!(nodes("two").iter().all(|replicas| !replicas.contains(&3)), "{:?}", nodes("two"));
    assert!(nodes("three").iter().all(|replicas| replicas[2] == 3), "last, not the preferred leader");
    let mut world = World::with(3, &[]);
    world.builder.broker_reachable(NodeId(2), false);
    world.builder.broker_reachable(NodeId(3), false);
    let response = world.create(vec![topic("three", 1, 3), topic("one", 3, 1)]);
    assert_eq!((response.topics[0].error_code, response.topics[1].error_code), (38, 0));
}

#[test]
fn every_error_of_create_topics() {
    let long = "x".repeat(250);
    let rows: Vec<(CreatableTopic, i16, &str)> = vec![
        (topic("", 1, 1), 17, "the empty string is not allowed"),
        (topic("..", 1, 1), 17, "'.' and '..' are not allowed"),
        (topic("a/b", 1, 1), 17, "contains one or more characters other than"),
        (topic(&long, 1, 1), 17, "longer than the max allowed length 249"),
        (topic("exists", 1, 1), 36, "Topic 'exists' already exists."),
        (topic("dot_ted", 1, 1), 17, "Topic 'dot_ted' collides with existing topic: dot.ted"),
        (
            topic("__cluster_metadata", 1, 1),
            42,
            "Creation of internal topic __cluster_metadata is prohibited.",
        ),
        (topic("__transaction_state", 1, 1), 17, "transaction coordinator is not available"),
        (topic("t", 0, 1), 37, "Number of partitions was set to an invalid non-positive value."),
        (topic("t", -2, 1), 37, "non-positive"),
        (topic("t", 1, 0), 38, "Replication factor must be larger than 0"),
        (topic("t", 1, -2), 38, "Replication factor must be larger than 0"),
        (topic("t", 1, 4), 38, "cannot be reached because only 3 broker(s) are registered."),
        (topic("t", 1, i16::MAX), 38, "cannot be reached"),
        (assigned("t", &[(0, &[1])]).with_num_partitions(1), 42, "numPartitions was not set to -1"),
        (assigned("t", &[(0, &[1])]).with_replication_factor(1), 42, "replication factor was not set to -1"),
        (assigned("t", &[(0, &[])]), 39, "empty replica list"),
        (assigned("t", &[(0, &[1, 1])]), 39, "the broker 1 more than once"),
        (assigned("t", &[(0, &[9])]), 39, "broker 9, but no such broker is registered"),
        (assigned("t", &[(0, &[1]), (1, &[1, 2])]), 39, "not consistent with previous partitions"),
        (assigned("t", &[(0, &[1]), (2, &[2])]), 39, "consecutive 0-based integer sequence"),
        (
            assigned("t", &[(0, &[1]), (0, &[2])]),
            39,
            "Found multiple manual partition assignments for partition 0",
        ),
        (with_config(topic("t", 1, 1), "no.such", Some("1")), 40, "Unknown topic config name: no.such"),
        (with_config(topic("t", 1, 1), "retention.ms", Some("x")), 40, "Not a number of type LONG"),
        (
            with_config(topic("t", 1, 1), "retention.ms", None),
            40,
            "Null value not supported for topic configs",
        ),
        (with_config(topic("t", 1, 1), "cleanup.policy", Some("compact")), 40, "only delete is accepted"),
        (
            with_config(topic("t", 1, 1), "remote.storage.enable", Some("true")),
            40,
            "not supported by chronik",
        ),
        (with_config(topic("t", 1, 1), "max.message.bytes", Some("33554433")), 40, "no more than 33554432"),
        (topic("t", 10_001, 1), 44, "Excessively large number of partitions per request."),
        (topic("t", i32::MAX, 1), 44, "Excessively large number of partitions per request."),
    ];
    for (request, code, message) in rows {
        let mut world = World::with(3, &[]);
        world.create(vec![topic("exists", 1, 1), topic("dot.ted", 1, 1)]);
        let before = world.state.clone();
        let described = format!("{request:?}");
        let row = world.create(vec![request]).topics.remove(0);
        assert_eq!(row.error_code, code, "{described}");
        let found = row.error_message.unwrap().to_string();
        assert!(found.contains(message), "{described}: {found}");
        assert_eq!(world.state, before);
        assert_eq!(world.controller.planned(), &before, "nothing is left in flight");
    }
}

#[test]
fn good_topics_are_made_beside_bad_ones_and_duplicates_are_told_once() {
    let mut world = World::new();
    let topics = vec![topic("a", 1, 1), topic("twice", 1, 1), topic("b", 0, 1), topic("twice", 2, 1)];
    let response = world.create(topics);
    let rows: BTreeMap<String, i16> =
        response.topics.iter().map(|row| (row.name.to_string(), row.error_code)).collect();
    assert_eq!(response.topics.len(), 3);
    assert_eq!(rows, BTreeMap::from([("a".into(), 0), ("twice".into(), 42), ("b".into(), 37)]));
    assert_eq!(world.state.topics().len(), 1);
    // Two names of one request that collide: the second is refused.
    let response = world.create(vec![topic("x.y", 1, 1), topic("x_y", 1, 1)]);
    assert_eq!(response.topics.iter().map(|row| row.error_code).collect::<Vec<_>>(), [0, 17]);
}

#[test]
fn validate_only_makes_nothing() {
    let mut world = World::new();
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic("a", 2, 1), topic("b", 0, 1)])
        .with_validate_only(true);
    let plan = world.plan(|controller, context| controller.plan_create_topics(&request, context));
    assert!(plan.commands.is_empty() && plan.awaited.is_empty());
    let codes: Vec<i16> = plan.response.topics.iter().map(|row| row.error_code).collect();
    assert_eq!(codes, [0, 37]);
    assert_eq!(plan.response.topics[0].num_partitions, 2);
    assert!(plan.response.topics[0].topic_id.is_nil());
    assert!(world.controller.planned().topics().is_empty());
}

#[test]
fn pipelined_requests_see_each_other_and_abandoned_ones_are_forgotten() {
    let mut world = World::new();
    let request = CreateTopicsRequest::default().with_topics(vec![topic("a", 1, 1)]);
    let first = world.plan(|controller, context| controller.plan_create_topics(&request, context));
    let second = world.plan(|controller, context| controller.plan_create_topics(&request, context));
    assert_eq!((first.response.topics[0].error_code, second.response.topics[0].error_code), (0, 36));
    assert!(second.commands.is_empty());
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name("a")]);
    let third = world.plan(|controller, context| controller.plan_delete_topics(&delete, 1, context));
    let fourth = world.plan(|controller, context| controller.plan_create_topics(&request, context));
    assert_eq!(fourth.response.topics[0].error_code, 0, "deleted in between");
    let id = first.response.topics[0].topic_id;
    assert_ne!(fourth.response.topics[0].topic_id, id, "made again, it is another topic");
    world.commit(first);
    world.commit(third);
    // Leadership is lost before the fourth is committed.
    world.controller.abandon(&world.state);
    assert!(world.state.topics().is_empty());
    let again = world.plan(|controller, context| controller.plan_create_topics(&request, context));
    assert_eq!(again.response.topics[0].error_code, 0);
    world.commit(again);
    assert_eq!(world.controller.planned(), &world.state);
}

#[test]
fn a_response_waits_for_leaders_and_fails_as_kafkas_does() {
    let mut world = World::new();
    let request = CreateTopicsRequest::default().with_topics(vec![topic("a", 2, 1), topic("b", 0, 1)]);
    let plan = world.plan(|controller, context| controller.plan_create_topics(&request, context));
    let awaited = plan.awaited.clone();
    let mut response = world.commit(plan);
    assert!(!is_ready(world.builder.current(), &awaited[0]));
    world.builder.leader_changed(&awaited[0], 0, Term(1), NodeId(1));
    assert!(!is_ready(world.builder.current(), &awaited[0]), "one partition of two");
    world.builder.leader_changed(&awaited[0], 1, Term(1), NodeId(1));
    assert!(is_ready(world.builder.current(), &awaited[0]));
    assert!(
        is_ready(world.builder.current(), &Uuid::from_u128(77)),
        "a topic that is gone is not waited for"
    );
    response.fail(ResponseError::RequestTimedOut);
    assert_eq!(response.topics.iter().map(|row| row.error_code).collect::<Vec<_>>(), [7, 37]);
    assert!(world.state.topic("a").is_some(), "the topic is there nevertheless");
}

#[test]
fn a_forwarded_retry_is_not_told_that_the_topic_exists() {
    let mut world = World::new();
    let id = Some(RequestId { node: NodeId(2), incarnation: 1, sequence: 1 });
    let request = CreateTopicsRequest::default().with_topics(vec![topic("a", 1, 1)]);
    let plan = world.with_context(id, |controller, context| controller.plan_create_topics(&request, context));
    let made = world.commit(plan);
    let plan = world.with_context(id, |controller, context| controller.plan_create_topics(&request, context));
    assert!(plan.commands.is_empty());
    assert_eq!(plan.response, made);
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name("a")]);
    let id = Some(RequestId { node: NodeId(2), incarnation: 1, sequence: 2 });
    for expected in [1, 0] {
        let plan =
            world.with_context(id, |controller, context| controller.plan_delete_topics(&delete, 1, context));
        assert_eq!(plan.commands.len() / 2, expected);
        assert_eq!(world.commit(plan).responses[0].error_code, 0);
    }
}

#[test]
fn every_error_of_delete_topics() {
    let state = |topic: Option<&str>, id: u128| {
        DeleteTopicState::default().with_name(topic.map(name)).with_topic_id(Uuid::from_u128(id))
    };
    let rows = [
        (vec![state(Some("a"), 0)], vec![0]),
        (vec![state(None, 1)], vec![0]),
        (vec![state(Some("no"), 0)], vec![3]),
        (vec![state(None, 9)], vec![100]),
        (vec![state(None, 0)], vec![42]),
        (vec![state(Some("a"), 1)], vec![42]),
        (vec![state(Some("a"), 0), state(Some("a"), 0)], vec![42]),
        (vec![state(None, 1), state(None, 1)], vec![42]),
        (vec![state(None, 1), state(Some("a"), 0)], vec![0, 42]),
    ];
    for (topics, codes) in rows {
        let mut world = World::new();
        world.create(vec![topic("a", 1, 1)]);
        let request = DeleteTopicsRequest::default().with_topics(topics.clone());
        let plan = world.plan(|controller, context| controller.plan_delete_topics(&request, 6, context));
        let response = world.commit(plan);
        let found: Vec<i16> = response.responses.iter().map(|row| row.error_code).collect();
        assert_eq!(found, codes, "{topics:?}");
        if found == [0] {
            let row = &response.responses[0];
            assert_eq!((row.name.as_ref(), row.topic_id), (Some(&name("a")), Uuid::from_u128(1)));
            assert!(world.state.topics().is_empty());
        }
    }
    for (version, code) in [(1, 42), (3, 73), (6, 73)] {
        let mut world = World::with(1, &[("delete.topic.enable", "false")]);
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![name("a")])
            .with_topics(vec![state(Some("a"), 0)]);
        let plan =
            world.plan(|controller, context| controller.plan_delete_topics(&request, version, context));
        assert_eq!(plan.response.responses[0].error_code, code);
    }
}

#[test]
fn every_error_of_create_partitions() {
    let to = |count| {
        CreatePartitionsTopic::default().with_name(name("a")).with_count(count).with_assignments(None)
    };
    let assign = |brokers: &[&[i32]]| {
        let row = |ids: &&[i32]| {
            CreatePartitionsAssignment::default()
                .with_broker_ids(ids.iter().map(|id| BrokerId(*id)).collect())
        };
        Some(brokers.iter().map(row).collect::<Vec<_>>())
    };
    let rows = [
        (vec![to(3)], vec![0], 3),
        (vec![to(3).with_assignments(assign(&[&[2]]))], vec![0], 3),
        (vec![to(2)], vec![37], 2),
        (vec![to(1)], vec![37], 2),
        (vec![to(i32::MIN)], vec![37], 2),
        (vec![to(i32::MAX)], vec![44], 2),
        (vec![to(3).with_name(name("no"))], vec![3], 2),
        (vec![to(3), to(4)], vec![42], 2),
        (vec![to(4).with_assignments(assign(&[&[1]]))], vec![39], 2),
        (vec![to(3).with_assignments(assign(&[&[1, 2]]))], vec![39], 2),
        (vec![to(3).with_assignments(assign(&[&[8]]))], vec![39], 2),
        (vec![to(3).with_assignments(assign(&[]))], vec![39], 2),
    ];
    for (topics, codes, partitions) in rows {
        let mut world = World::with(2, &[]);
        world.create(vec![topic("a", 2, 1)]);
        for validate_only in [true, false] {
            let request = CreatePartitionsRequest::default()
                .with_topics(topics.clone())
                .with_validate_only(validate_only);
            let plan = world.plan(|controller, context| controller.plan_create_partitions(&request, context));
            assert!(!validate_only || plan.commands.is_empty());
            let found: Vec<i16> = world.commit(plan).results.iter().map(|row| row.error_code).collect();
            assert_eq!(found, codes, "{topics:?}");
        }
        assert_eq!(world.state.topic("a").unwrap().partitions.len(), partitions);
    }
}

fn alter(
    kind: i8,
    resource: &str,
    configs: &[(&str, i8, Option<&str>)],
) -> incremental::AlterConfigsResource {
    let config = |(key, operation, value): &(&str, i8, Option<&str>)| {
        incremental::AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    };
    incremental::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configs(configs.iter().map(config).collect())
}

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

#[test]
fn incremental_changes_of_a_topic() {
    let mut world = World::new();
    world.create(vec![with_config(topic("a", 1, 1), "retention.ms", Some("5"))]);
    let list = "leader.replication.throttled.replicas";
    let set = world.incremental(vec![alter(
        2,
        "a",
        &[("segment.ms", SET, Some("7")), ("retention.ms", DELETE, None)],
    )]);
    assert_eq!(set[0].0, 0);
    assert_eq!(world.topic_configs("a"), BTreeMap::from([("segment.ms", "7")]));
    world.incremental(vec![alter(
        2,
        "a",
        &[(list, APPEND, Some("0:1")), ("cleanup.policy", APPEND, Some("delete"))],
    )]);
    world.incremental(vec![alter(2, "a", &[(list, APPEND, Some("0:1,1:1"))])]);
    assert_eq!(world.topic_configs("a")[list], "0:1,1:1");
    world.incremental(vec![alter(2, "a", &[(list, SUBTRACT, Some("0:1"))])]);
    assert_eq!(world.topic_configs("a")[list], "1:1");
    assert_eq!(world.topic_configs("a")["cleanup.policy"], "delete", "appended to the default");
    let nothing =
        world.incremental(vec![alter(2, "a", &[("retention.ms", DELETE, None), ("no.such", DELETE, None)])]);
    assert_eq!(nothing[0].0, 0);
}

#[test]
fn every_error_of_alter_configs() {
    let rows = [
        (alter(2, "no", &[("retention.ms", SET, Some("1"))]), 3, "The topic 'no' does not exist."),
        (alter(2, "a", &[("no.such", SET, Some("1"))]), 40, "Unknown topic config name"),
        (alter(2, "a", &[("retention.ms", SET, Some("x"))]), 40, "Not a number"),
        (alter(2, "a", &[("retention.ms", SET, None)]), 42, "Null value not supported for : retention.ms"),
        (alter(2, "a", &[("retention.ms", 9, Some("1"))]), 42, "Unknown operation type id 9"),
        (alter(2, "a", &[("retention.ms", APPEND, Some("1"))]), 40, "Can't APPEND to key retention.ms"),
        (alter(2, "a", &[("cleanup.policy", APPEND, Some("compact"))]), 40, "only delete is accepted"),
        (alter(2, "a", &[("cleanup.policy", SUBTRACT, Some("delete"))]), 40, "at least one policy"),
        (
            alter(2, "a", &[("retention.ms", SET, Some("1")), ("retention.ms", SET, Some("2"))]),
            42,
            "duplicate config keys : retention.ms",
        ),
        (alter(2, "__consumer_offsets", &[("cleanup.policy", SET, Some("delete"))]), 40, "set by the broker"),
        (alter(4, "1", &[("num.partitions", SET, Some("2"))]), 42, "Cannot update these configs dynamically"),
        (alter(4, "", &[("listeners", SET, Some("x"))]), 42, "broker id must be specified: [listeners]"),
        (alter(4, "1", &[("no.such", SET, Some("2"))]), 40, "Unknown broker config name"),
        (alter(4, "1", &[("log.retention.ms", SET, Some("x"))]), 42, "Not a number"),
        (alter(4, "9", &[("log.retention.ms", SET, Some("1"))]), 102, "No broker with id 9 found."),
        (alter(4, "one", &[("log.retention.ms", SET, Some("1"))]), 42, "Node id must be an integer"),
        (alter(8, "1", &[]), 42, "Resource type 8 is not supported"),
        (alter(16, "m", &[]), 42, "Resource type 16 is not supported"),
        (alter(32, "g", &[]), 42, "Resource type 32 is not supported"),
    ];
    for (resource, code, message) in rows {
        let mut world = World::new();
        world.create(vec![topic("a", 1, 1)]);
        let offsets = world.plan(|controller, context| controller.plan_offsets_topic(context));
        world.commit(offsets);
        let before = world.state.clone();
        let row = world.incremental(vec![resource.clone()]).remove(0);
        assert_eq!(row.0, code, "{resource:?}: {}", row.1);
        assert!(row.1.contains(message), "{resource:?}: {}", row.1);
        assert_eq!(world.state, before);
    }
    let mut world = World::new();
    let twice = vec![alter(4, "", &[]), alter(4, "", &[])];
    assert_eq!(world.incremental(twice)[1], (42, "Each resource must appear at most once.".to_owned()));
}

#[test]
fn brokers_and_the_cluster_have_configs_of_their_own() {
    let mut world = World::with(2, &[]);
    let set = |value| [("log.retention.ms", SET, Some(value))];
    let rows =
        world.incremental(vec![alter(4, "", &set("9")), alter(4, "1", &set("8")), alter(4, "2", &set("7"))]);
    assert!(rows.iter().all(|row| row.0 == 0), "{rows:?}");
    let snapshot = world.builder.publish().unwrap();
    assert_eq!(snapshot.layers.effective("log.retention.ms").as_deref(), Some("8"));
    world.incremental(vec![alter(4, "1", &[("log.retention.ms", DELETE, None)])]);
    let snapshot = world.builder.publish().unwrap();
    assert_eq!(snapshot.layers.effective("log.retention.ms").as_deref(), Some("9"));
}

#[test]
fn the_legacy_request_replaces_what_it_does_not_name() {
    let mut world = World::new();
    world.create(vec![with_config(topic("a", 1, 1), "retention.ms", Some("5"))]);
    let offsets = world.plan(|controller, context| controller.plan_offsets_topic(context));
    world.commit(offsets);
    let config = legacy::AlterableConfig::default().with_name(text("segment.ms")).with_value(Some(text("7")));
    let resource = |topic: &str| {
        legacy::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_configs(vec![config.clone()])
    };
    let request =
        AlterConfigsRequest::default().with_resources(vec![resource("a"), resource("__consumer_offsets")]);
    let only = request.clone().with_validate_only(true);
    let plan = world.plan(|controller, context| controller.plan_alter_configs(&only, context));
    assert!(plan.commands.is_empty());
    let plan = world.plan(|controller, context| controller.plan_alter_configs(&request, context));
    let response = world.commit(plan);
    assert!(response.responses.iter().all(|row| row.error_code == 0), "{response:?}");
    assert_eq!(world.topic_configs("a"), BTreeMap::from([("segment.ms", "7")]));
    let internal = world.topic_configs("__consumer_offsets");
    assert_eq!(internal, BTreeMap::from([("cleanup.policy", "compact"), ("segment.ms", "7")]));
}

#[test]
fn topics_are_made_when_asked_for() {
    let mut world = World::with(1, &[("num.partitions", "2"), ("offsets.topic.num.partitions", "5")]);
    let names = ["a", "b", "__consumer_offsets", "__transaction_state"];
    let plan = world.plan(|controller, context| controller.plan_auto_creation(&names, context));
    assert_eq!(plan.awaited.len(), 3);
    let failed = world.commit(plan);
    assert_eq!(failed, [("__transaction_state".to_owned(), ResponseError::InvalidTopicException)]);
    assert_eq!(world.state.topic("b").unwrap().partitions.len(), 2);
    assert_eq!(world.state.topic("__consumer_offsets").unwrap().partitions.len(), 5);
    assert_eq!(world.topic_configs("__consumer_offsets")["cleanup.policy"], "compact");
    let config = &world.builder.current().topic("__consumer_offsets").unwrap().config;
    assert!(config.cleanup_compact && !config.cleanup_delete);
    assert_eq!(config.segment_bytes, 104_857_600);
    let again = world.plan(|controller, context| controller.plan_auto_creation(&["a"], context));
    assert!(again.commands.is_empty() && again.response.is_empty());
    assert_eq!(again.awaited.len(), 1, "it is waited for, nevertheless");
}

#[test]
fn producer_id_blocks_never_overlap() {
    let mut world = World::new();
    let first = world.plan(|controller, _| controller.plan_producer_ids(NodeId(1)));
    let second = world.plan(|controller, _| controller.plan_producer_ids(NodeId(1)));
    assert_eq!((first.response, second.response), ((0, 1000), (1000, 1000)));
    world.commit(first);
    world.commit(second);
    assert_eq!(world.state.next_producer_id(), 2000);
}

#[test]
fn the_cluster_is_named_once_and_brokers_register_when_they_change() {
    let mut world = World::with(0, &[]);
    let plan = world.plan(|controller, context| controller.plan_cluster_id(context.random));
    world.commit(plan);
    let id = world.state.cluster_id().unwrap().to_string();
    assert_eq!(id.len(), 22);
    let again = world.plan(|controller, context| controller.plan_cluster_id(context.random));
    assert!(again.commands.is_empty());
    let broker = Broker {
        directory: Uuid::nil(),
        incarnation: Uuid::from_u128(1),
        rack: None,
        listeners: BTreeMap::from([("PLAINTEXT".to_owned(), endpoint("h", 1))]),
        raft: None,
    };
    let plan = world.plan(|controller, _| controller.plan_registration(NodeId(1), &broker));
    world.commit(plan);
    let again = world.plan(|controller, _| controller.plan_registration(NodeId(1), &broker));
    assert!(again.commands.is_empty());
}

#[test]
fn ids_are_written_as_kafka_writes_them() {
    // From Kafka's Uuid.toString of (0x0123456789abcdef, 0xfedcba9876543210).
    let id = Uuid::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
    assert_eq!(uuid_base64(&id), "ASNFZ4mrze_-3LqYdlQyEA");
    assert_eq!(uuid_base64(&Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
}

#[test]
fn three_thousand_topics_in_one_request() {
    let mut world = World::new();
    let topics = (0..3000).map(|number| topic(&format!("topic-{number}"), 1, 1)).collect();
    let response = world.create(topics);
    assert!(response.topics.iter().all(|row| row.error_code == 0));
    assert_eq!(world.state.topics().len(), 3000);
    let groups: BTreeSet<GroupId> =
        world.state.topics().values().map(|topic| topic.partitions[0].group).collect();
    assert_eq!(groups.len(), 3000);
    assert_eq!(world.state.next_ids(), (GroupId(3001), PeerId(3002)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked in whatever order, with commits lagging behind, every command fits when it is applied.
    #[test]
    fn plans_always_fit(steps in prop::collection::vec((0u8..6, 0usize..4, 1i32..4), 0..60)) {
        let names = ["a", "b.c", "b_c", "__consumer_offsets"];
        let mut world = World::with(2, &[("offsets.topic.num.partitions", "2")]);
        let mut in_flight: std::collections::VecDeque<Plan<()>> = std::collections::VecDeque::new();
        for (kind, which, count) in steps {
            let plan = match kind {
                0 | 1 => {
                    let request = CreateTopicsRequest::default().with_topics(vec![topic(names[which], count, 1)]);
                    strip(world.plan(|controller, context| controller.plan_create_topics(&request, context)))
                }
                2 => {
                    let request = DeleteTopicsRequest::default().with_topic_names(vec![name(names[which])]);
                    strip(world.plan(|controller, context| controller.plan_delete_topics(&request, 3, context)))
                }
                3 => {
                    let grown = CreatePartitionsTopic::default().with_name(name(names[which])).with_count(count);
                    let request = CreatePartitionsRequest::default().with_topics(vec![grown.with_assignments(None)]);
                    strip(world.plan(|controller, context| controller.plan_create_partitions(&request, context)))
                }
                4 => strip(world.plan(|controller, context| controller.plan_auto_creation(&names[which..], context))),
                _ => {
                    if let Some(plan) = in_flight.pop_front() {
                        world.commit(plan);
                    }
                    continue;
                }
            };
            if !plan.commands.is_empty() {
                in_flight.push_back(plan);
            }
        }
        while let Some(plan) = in_flight.pop_front() {
            world.commit(plan);
        }
        prop_assert_eq!(world.controller.planned(), &world.state);
        prop_assert_eq!(world.builder.current().topics.len(), world.state.topics().len());
    }
}

fn strip<R>(plan: Plan<R>) -> Plan<()> {
    Plan { commands: plan.commands, response: (), awaited: plan.awaited }
}
