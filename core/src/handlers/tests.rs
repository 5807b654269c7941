//! Tests of the handlers that answer from the snapshot: behaviours 12 to 19, 42 and 43 of `kafka/protocol.md`, and field
//! reports 000, 001 and 004 as far as they concern answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_wal::types::{GroupId, PeerId, Term};
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest, FindCoordinatorRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::cluster::{TAG_DRAINING, describe_cluster};
use super::configs::describe_configs;
use super::find_coordinator::find_coordinator;
use super::metadata::{MetadataAnswer, MetadataQuery, TopicKey, TopicSelection, metadata};
use super::topic_partitions::describe_topic_partitions;
use super::*;
use crate::config::layers::ConfigMap;
use crate::coordinator::partition_for_group;
use crate::metadata::command::{Command, ConfigScope, Endpoint, PartitionPlacement, Replica};
use crate::metadata::snapshot::SnapshotBuilder;
use crate::metadata::state::MetadataState;

pub(super) const LISTENER: &str = "PLAINTEXT";

/// Three brokers; broker 3 has no INTERNAL listener. Topics made by `topic`.
pub(super) struct World {
    pub(super) state: MetadataState,
    pub(super) builder: SnapshotBuilder,
}

impl World {
    pub(super) fn new() -> Self {
        let fixed = ConfigMap::from([("num.partitions".to_owned(), "4".to_owned())]);
        let mut world =
            Self { state: MetadataState::default(), builder: SnapshotBuilder::new(NodeId(1), 2, fixed) };
        world.apply(&Command::MintClusterId { cluster_id: "the-cluster".to_owned() });
        for node in 1..=3 {
            let endpoint = |port| Endpoint { host: format!("host{node}"), port };
            let mut listeners = BTreeMap::from([(LISTENER.to_owned(), endpoint(9092))]);
            if node != 3 {
                listeners.insert("INTERNAL".to_owned(), endpoint(9094));
            }
            world.apply(&Command::RegisterBroker {
                node: NodeId(node),
                directory: Uuid::nil(),
                incarnation: Uuid::nil(),
                rack: Some(format!("rack{node}")),
                listeners,
                raft: None,
            });
        }
        world
    }

    pub(super) fn apply(&mut self, command: &Command) {
        let change = self.state.apply(command).unwrap();
        self.builder.apply(&change, &self.state);
    }

    pub(super) fn topic(&mut self, id: u128, name: &str, partitions: u64) {
        let (group, peer) = self.state.next_ids();
        let replica = |number: u64, node: i32| Replica {
            node: NodeId(node),
            peer: PeerId(peer.0 + number * 3 + u64::try_from(node).unwrap()),
        };
        let placement = |number| PartitionPlacement {
            group: GroupId(group.0 + number),
            replicas: (1..=3).map(|node| replica(number, node)).collect(),
            first_leader: None,
        };
        self.apply(&Command::CreateTopic {
            id: Uuid::from_u128(id),
            name: name.to_owned(),
            configs: ConfigMap::new(),
            partitions: (0..partitions).map(placement).collect(),
        });
    }

    fn lead(&mut self, id: u128, partition: i32, term: u64, node: i32) {
        self.builder.leader_changed(&Uuid::from_u128(id), partition, Term(term), NodeId(node));
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.builder.current().clone())
    }

    fn ask(&self, version: i16, topics: Option<Vec<TopicKey<'_>>>) -> MetadataAnswer {
        metadata(&self.snapshot(), &query(version, topics))
    }
}

fn query(version: i16, topics: Option<Vec<TopicKey<'_>>>) -> MetadataQuery<'_> {
    MetadataQuery {
        version,
        listener: LISTENER,
        topics: TopicSelection::new(version, topics),
        allow_auto_topic_creation: false,
        include_cluster_authorized_operations: false,
        include_topic_authorized_operations: false,
    }
}

fn by_name(name: &str) -> TopicKey<'_> {
    TopicKey { name: Some(name), id: Uuid::nil() }
}

fn by_id(id: u128) -> TopicKey<'static> {
    TopicKey { name: None, id: Uuid::from_u128(id) }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn rows(answer: &MetadataAnswer) -> Vec<(i16, Option<&str>)> {
    answer.topics.iter().map(|row| (row.error_code, row.name.as_deref())).collect()
}

fn partitions(answer: &MetadataAnswer) -> Vec<PartitionRow> {
    answer.topics[0].partitions(answer).collect()
}

#[test]
fn behaviour_12_all_none_and_some_topics_by_version() {
    let mut world = World::new();
    world.topic(1, "a", 1);
    world.topic(2, "b", 1);
    assert_eq!(world.ask(0, Some(vec![])).topics.len(), 2, "v0: empty means all");
    assert_eq!(world.ask(1, Some(vec![])).topics.len(), 0, "v1: empty means none");
    assert_eq!(world.ask(1, None).topics.len(), 2, "v1: null means all");
    assert_eq!(
        rows(&world.ask(13, Some(vec![by_name("b"), by_name("no")]))),
        [(0, Some("b")), (3, Some("no"))]
    );
    for version in [10, 11] {
        let both = TopicKey { name: Some("a"), id: Uuid::from_u128(1) };
        assert_eq!(rows(&world.ask(version, Some(vec![by_id(1), both]))), [(42, Some("")), (42, Some("a"))]);
    }
    assert_eq!(rows(&world.ask(12, Some(vec![by_id(2), by_id(9)]))), [(0, Some("b")), (100, None)]);
    assert_eq!(world.ask(12, Some(vec![by_name("a")])).topics[0].id, Uuid::from_u128(1));
}

#[test]
fn behaviour_13_and_14_leaders_and_epochs_are_rafts() {
    let mut world = World::new();
    world.topic(1, "a", 1);
    let none = partitions(&world.ask(13, None)).remove(0);
    assert_eq!((none.error_code, none.leader_id, none.leader_epoch), (5, -1, -1));
    assert_eq!(none.replicas.as_slice(), [1, 2, 3], "replicas are listed all the same");
    // Field report 001: the placement's first replica is not taken for the leader.
    world.lead(1, 0, 7, 2);
    let led = partitions(&world.ask(13, None)).remove(0);
    assert_eq!((led.error_code, led.leader_id, led.leader_epoch), (0, 2, 7));
    world.lead(1, 0, 6, 3);
    assert_eq!(partitions(&world.ask(13, None)).remove(0), led, "the epoch never goes down");
    // The leader's node is gone: there truly is none until the next election.
    world.builder.broker_reachable(NodeId(2), false);
    let gone = partitions(&world.ask(13, None)).remove(0);
    assert_eq!((gone.error_code, gone.leader_id, gone.leader_epoch), (5, -1, 7));
    assert_eq!(gone.offline.as_slice(), [2]);
    world.lead(1, 0, 8, 3);
    assert_eq!(partitions(&world.ask(13, None)).remove(0).leader_id, 3);
    // Its process has just gone, and nothing else is known yet.
    let mut without = world.ask(13, None);
    without.lost.insert(NodeId(3));
    let lost = partitions(&without).remove(0);
    assert_eq!((lost.error_code, lost.leader_id, lost.leader_epoch), (5, -1, 8));
    let answer = world.ask(13, None);
    let listed: Vec<i32> = answer.brokers().map(|broker| broker.node_id).collect();
    assert_eq!(listed, [1, 3]);
}

#[test]
fn behaviour_14_endpoints_are_those_of_the_listener_that_was_used() {
    let mut world = World::new();
    world.topic(1, "a", 1);
    world.lead(1, 0, 1, 3);
    let answer = world.ask(13, None);
    let brokers: Vec<_> = answer.brokers().map(|broker| (broker.host, broker.port, broker.rack)).collect();
    assert_eq!(brokers[2], ("host3", 9092, Some("rack3")));
    let internal = |version| {
        metadata(&world.snapshot(), &MetadataQuery { listener: "INTERNAL", ..query(version, None) })
    };
    let answer = internal(13);
    let ports: Vec<i32> = answer.brokers().map(|broker| broker.port).collect();
    assert_eq!(ports, [9094, 9094], "broker 3 has no such listener");
    assert_eq!(partitions(&answer).remove(0).error_code, 72);
    assert_eq!(partitions(&internal(5)).remove(0).error_code, 5, "older clients do not know error 72");
}

#[test]
fn behaviour_15_the_controller_is_any_broker_that_can_be_reached() {
    let mut world = World::new();
    let controller = |world: &World| world.ask(13, None).controller_id();
    assert_eq!(controller(&world), 1, "this node, while no leader is known (field report 000)");
    world.builder.controller_changed(NodeId(3));
    assert_eq!(controller(&world), 3);
    world.builder.broker_reachable(NodeId(3), false);
    assert_eq!(controller(&world), 1);
    world.builder.broker_reachable(NodeId(1), false);
    assert_eq!(controller(&world), 2);
    assert_eq!(world.ask(13, None).cluster_id(), Some("the-cluster"));
    // Field report 000: before anything is known there is an answer, too.
    let fresh = SnapshotBuilder::new(NodeId(1), 1, ConfigMap::new());
    let answer = metadata(&Arc::new(fresh.current().clone()), &query(13, None));
    assert_eq!((answer.controller_id(), answer.brokers().count(), answer.cluster_id()), (-1, 0, None));
}

#[test]
fn behaviour_17_a_topic_made_again_has_another_id() {
    let mut world = World::new();
    world.topic(1, "a", 1);
    world.apply(&Command::DeleteTopic { id: Uuid::from_u128(1) });
    world.topic(2, "a", 1);
    assert_eq!(rows(&world.ask(12, Some(vec![by_id(1), by_id(2)]))), [(100, None), (0, Some("a"))]);
}

#[test]
fn behaviour_18_names_are_checked_before_anything_is_made() {
    let world = World::new();
    let ask = |allow, names: &[&'static str]| {
        let keys = names.iter().map(|name| by_name(name)).collect();
        let query = MetadataQuery { allow_auto_topic_creation: allow, ..query(13, Some(keys)) };
        metadata(&world.snapshot(), &query)
    };
    let mut answer = ask(true, &["a", "..", "b", "a", ""]);
    assert_eq!(answer.to_create, ["a", "b"]);
    assert_eq!(answer.topics.iter().map(|row| row.error_code).collect::<Vec<_>>(), [3, 17, 3, 17]);
    answer.creation_failed(&[("b".to_owned(), ResponseError::InvalidReplicationFactor)]);
    assert_eq!(answer.topics.iter().map(|row| row.error_code).collect::<Vec<_>>(), [3, 17, 38, 17]);
    assert!(ask(false, &["a"]).to_create.is_empty());
    let mut fixed = ConfigMap::new();
    fixed.insert("auto.create.topics.enable".to_owned(), "false".to_owned());
    let builder = SnapshotBuilder::new(NodeId(1), 1, fixed);
    let query = MetadataQuery { allow_auto_topic_creation: true, ..query(13, Some(vec![by_name("a")])) };
    assert!(metadata(&Arc::new(builder.current().clone()), &query).to_create.is_empty());
}

#[test]
fn authorized_operations_are_told_when_asked_for() {
    let mut world = World::new();
    world.topic(1, "a", 1);
    let ask = |version| {
        let asked = MetadataQuery {
            include_cluster_authorized_operations: true,
            include_topic_authorized_operations: true,
            ..query(version, None)
        };
        metadata(&world.snapshot(), &asked)
    };
    assert_eq!(ask(10).cluster_authorized_operations, 8096);
    assert_eq!(ask(11).cluster_authorized_operations, i32::MIN, "the field is gone from v11");
    assert_eq!(ask(11).topics[0].authorized_operations, 3576);
    assert_eq!(world.ask(11, None).topics[0].authorized_operations, i32::MIN);
}

/// Topics with their error and partitions, and the cursor.
type Page = (Vec<(String, i16, Vec<i32>)>, Option<(String, i32)>);

fn page(world: &World, topics: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> Page {
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(
            topics.iter().map(|name| TopicRequest::default().with_name(TopicName(text(name)))).collect(),
        )
        .with_response_partition_limit(limit)
        .with_cursor(cursor.map(|(topic, partition)| {
            Cursor::default().with_topic_name(TopicName(text(topic))).with_partition_index(partition)
        }));
    let response = describe_topic_partitions(&world.snapshot(), &request, LISTENER).unwrap();
    let topics = response.topics.iter().map(|topic| {
        let numbers = topic.partitions.iter().map(|partition| partition.partition_index).collect();
        (topic.name.as_ref().unwrap().to_string(), topic.error_code, numbers)
    });
    let next = response.next_cursor.map(|next| (next.topic_name.to_string(), next.partition_index));
    (topics.collect(), next)
}

#[test]
fn behaviour_19_partitions_are_paged_by_cursor() {
    let mut world = World::new();
    world.topic(1, "b", 3);
    world.topic(2, "a", 2);
    world.topic(3, "c", 1);
    let row = |name: &str, code: i16, numbers: &[i32]| (name.to_owned(), code, numbers.to_vec());
    let (topics, next) = page(&world, &[], 3, None);
    assert_eq!(topics, [row("a", 0, &[0, 1]), row("b", 0, &[0])]);
    assert_eq!(next, Some(("b".to_owned(), 1)));
    let (topics, next) = page(&world, &[], 2, Some(("b", 1)));
    assert_eq!(topics, [row("b", 0, &[1, 2])]);
    assert_eq!(next, Some(("c".to_owned(), 0)));
    let (topics, next) = page(&world, &[], 2, Some(("c", 0)));
    assert_eq!((topics, next), (vec![row("c", 0, &[0])], None));
    let (topics, next) = page(&world, &["c", "no", "a", "..", "a"], 2000, None);
    assert_eq!(topics, [row("..", 17, &[]), row("a", 0, &[0, 1]), row("c", 0, &[0]), row("no", 3, &[])]);
    assert_eq!(next, None);
    let (topics, _) = page(&world, &["a"], -5, None);
    assert_eq!(topics, [row("a", 0, &[0])], "at least one partition");
    let bad = Cursor::default().with_topic_name(TopicName(text("a"))).with_partition_index(-1);
    let request = DescribeTopicPartitionsRequest::default().with_cursor(Some(bad));
    assert!(describe_topic_partitions(&world.snapshot(), &request, LISTENER).is_err());
}

#[test]
fn describe_cluster_lists_brokers_of_the_listener() {
    let mut world = World::new();
    world.builder.controller_changed(NodeId(2));
    world.builder.broker_reachable(NodeId(3), false);
    let ask = |world: &World, fenced| {
        let request =
            DescribeClusterRequest::default().with_endpoint_type(1).with_include_fenced_brokers(fenced);
        describe_cluster(&world.snapshot(), &request, LISTENER)
    };
    let response = ask(&world, false);
    assert_eq!((response.error_code, response.controller_id.0, &*response.cluster_id), (0, 2, "the-cluster"));
    assert_eq!(response.brokers.iter().map(|broker| broker.broker_id.0).collect::<Vec<_>>(), [1, 2]);
    let fenced: Vec<bool> = ask(&world, true).brokers.iter().map(|broker| broker.is_fenced).collect();
    assert_eq!(fenced, [false, false, true]);
    let is_marked = |broker: &DescribeClusterBroker| broker.unknown_tagged_fields.contains_key(&TAG_DRAINING);
    assert!(!ask(&world, true).brokers.iter().any(is_marked));
    world.apply(&Command::MarkDraining { node: NodeId(2), draining: true });
    assert_eq!(ask(&world, true).brokers.iter().map(is_marked).collect::<Vec<_>>(), [false, true, false]);
    for (kind, code) in [(2, 114), (9, 115)] {
        let request = DescribeClusterRequest::default().with_endpoint_type(kind);
        assert_eq!(describe_cluster(&world.snapshot(), &request, LISTENER).error_code, code);
    }
}

#[test]
fn keys_go_to_the_partitions_that_kafka_gives_them() {
    // Java: "group".hashCode() = 98629247, "".hashCode() = 0, "polygenelubricants".hashCode() = Integer.MIN_VALUE.
    assert_eq!(partition_for_group("group", 50), 98_629_247 % 50);
    assert_eq!(partition_for_group("", 50), 0);
    assert_eq!(partition_for_group("polygenelubricants", 50), 0);
    // Outside the basic plane Java sees two units: "\uD83D\uDE00".hashCode() = 1772899.
    assert_eq!(partition_for_group("😀", 50), 1_772_899 % 50);
}

#[test]
fn coordinators_are_the_leaders_of_the_offsets_topic() {
    let mut world = World::new();
    let ask = |world: &World, version: i16, kind: i8, keys: &[&str]| {
        let mut request = FindCoordinatorRequest::default().with_key_type(kind);
        match version {
            0..=3 => request.key = text(keys[0]),
            _ => request.coordinator_keys = keys.iter().map(|key| text(key)).collect(),
        }
        find_coordinator(&world.snapshot(), &request, version, LISTENER, &BTreeSet::new())
    };
    let missing = ask(&world, 3, 0, &["g"]);
    assert!(missing.needs_offsets_topic);
    assert_eq!(
        (missing.response.error_code, missing.response.node_id.0, missing.response.port),
        (15, -1, -1)
    );
    world.topic(1, "__consumer_offsets", 5);
    let unled = ask(&world, 4, 0, &["g"]);
    assert!(!unled.needs_offsets_topic);
    assert_eq!(unled.response.coordinators[0].error_code, 15);
    for partition in 0..5 {
        world.lead(1, partition, 1, partition % 3 + 1);
    }
    // "a" and "b" hash to 97 and 98: partitions 2 and 3, led by brokers 3 and 1.
    let found = ask(&world, 6, 0, &["a", "b"]).response.coordinators;
    let found: Vec<_> =
        found.iter().map(|row| (&*row.key, row.error_code, row.node_id.0, &*row.host, row.port)).collect();
    assert_eq!(found, [("a", 0, 3, "host3", 9092), ("b", 0, 1, "host1", 9092)]);
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a"), text("b")]);
    let lost = BTreeSet::from([NodeId(3)]);
    let found = find_coordinator(&world.snapshot(), &request, 4, LISTENER, &lost).response.coordinators;
    assert_eq!(
        found.iter().map(|row| (row.error_code, row.node_id.0)).collect::<Vec<_>>(),
        [(15, -1), (0, 1)]
    );
    let named = super::find_coordinator::leaders(&world.snapshot(), &request, 4);
    assert_eq!(named.iter().map(|leader| leader.node.0).collect::<Vec<_>>(), [3, 1]);
    let old = ask(&world, 0, 1, &["a"]).response;
    assert_eq!((old.error_code, old.node_id.0), (0, 3), "v0 knows groups only");
    for kind in [1, 2, 7] {
        assert_eq!(ask(&world, 2, kind, &["a"]).response.error_code, 42);
        assert_eq!(ask(&world, 6, kind, &["a"]).response.coordinators[0].error_code, 42);
    }
}

fn describe(
    world: &World,
    kind: i8,
    name: &str,
    keys: Option<&[&str]>,
) -> Result<Vec<DescribeConfigsResourceResult>, i16> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource.clone(), resource])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let mut results = describe_configs(&world.snapshot(), &request).results;
    assert_eq!(results.len(), 1, "named twice, described once");
    let result = results.remove(0);
    if result.error_code == 0 { Ok(result.configs) } else { Err(result.error_code) }
}

/// Value, source, type, read-only, synonyms with their sources.
type Shown = (Option<String>, i8, i8, bool, Vec<(String, i8)>);

fn shown(configs: &[DescribeConfigsResourceResult], name: &str) -> Shown {
    let config = configs.iter().find(|config| &*config.name == name).unwrap();
    let synonyms = config.synonyms.iter().map(|synonym| (synonym.name.to_string(), synonym.source)).collect();
    (
        config.value.as_ref().map(ToString::to_string),
        config.config_source,
        config.config_type,
        config.read_only,
        synonyms,
    )
}

#[test]
fn behaviour_42_every_config_is_described_with_its_source() {
    let mut world = World::new();
    world.topic(1, "a", 1);
    let set = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), Some(value.to_owned()))]);
    world.apply(&Command::ChangeConfigs {
        scope: ConfigScope::Topic(Uuid::from_u128(1)),
        changes: set("retention.ms", "5"),
    });
    world.apply(&Command::ChangeConfigs {
        scope: ConfigScope::Topic(Uuid::from_u128(1)),
        changes: set("unclean.leader.election.enable", "true"),
    });
    world.apply(&Command::ChangeConfigs {
        scope: ConfigScope::Cluster,
        changes: set("log.retention.ms", "6"),
    });
    let own = |value: &str| Some(value.to_owned());
    let synonym = |name: &str, source: i8| (name.to_owned(), source);
    let topic = describe(&world, 2, "a", None).unwrap();
    assert_eq!(topic.len(), 33);
    let synonyms =
        vec![synonym("retention.ms", 1), synonym("log.retention.ms", 3), synonym("log.retention.hours", 5)];
    assert_eq!(shown(&topic, "retention.ms"), (own("5"), 1, 5, false, synonyms));
    assert_eq!(shown(&topic, "cleanup.policy").0, own("delete"));
    assert_eq!(shown(&topic, "cleanup.policy").2, 7);
    assert_eq!(shown(&topic, "unclean.leader.election.enable").0, own("false"), "Raft never does it");
    assert!(topic.iter().find(|config| &*config.name == "retention.ms").unwrap().documentation.is_some());
    let broker = describe(&world, 4, "1", None).unwrap();
    assert_eq!(broker.len(), 343);
    assert_eq!(
        shown(&broker, "num.partitions"),
        (own("4"), 4, 3, true, vec![synonym("num.partitions", 4), synonym("num.partitions", 5)])
    );
    let (value, source, ..) = shown(&broker, "log.retention.ms");
    assert_eq!((value, source), (own("6"), 3));
    assert_eq!(shown(&broker, "ssl.key.password").0, None);
    assert!(broker.iter().find(|config| &*config.name == "ssl.key.password").unwrap().is_sensitive);
    let all = describe(&world, 4, "", None).unwrap();
    assert_eq!(all.len(), 1, "only what is set for all brokers");
    assert_eq!(
        shown(&all, "log.retention.ms"),
        (own("6"), 3, 5, false, vec![synonym("log.retention.ms", 3)])
    );
    assert_eq!(describe(&world, 2, "a", Some(&["retention.ms", "no.such"])).unwrap().len(), 1);
    for (kind, name, code) in
        [(2, "no", 3), (2, "..", 17), (4, "2", 42), (4, "x", 42), (8, "1", 42), (16, "", 42), (32, "g", 42)]
    {
        assert_eq!(describe(&world, kind, name, None), Err(code), "{kind} {name}");
    }
}
