//! Tests of the snapshot: leaders are fenced by term and never forgotten, publishing is cheap, configs follow.

use std::collections::BTreeMap;

use chronik_net::rt::clock::thread_cpu_ns;
use chronik_wal::identity::shard_of;
use chronik_wal::types::{GroupId, LeaderEpoch, PeerId, ShardId};

use super::*;
use crate::metadata::command::{Command, PartitionPlacement};

fn create(number: u64, name: &str) -> Command {
    let replicas = vec![Replica { node: NodeId(1), peer: PeerId(number) }];
    Command::CreateTopic {
        id: Uuid::from_u128(u128::from(number)),
        name: name.to_owned(),
        configs: ConfigMap::new(),
        partitions: vec![PartitionPlacement { group: GroupId(number), replicas, first_leader: None }],
    }
}

struct World {
    state: MetadataState,
    builder: SnapshotBuilder,
}

impl World {
    fn new() -> Self {
        Self {
            state: MetadataState::default(),
            builder: SnapshotBuilder::new(NodeId(1), 2, ConfigMap::new()),
        }
    }

    fn apply(&mut self, command: &Command) {
        let change = self.state.apply(command).unwrap();
        self.builder.apply(&change, &self.state);
    }

    fn leader(&self, topic: &str) -> Option<Leader> {
        self.builder.current().topic(topic).unwrap().partitions[0].leader
    }
}

#[test]
fn the_leader_is_fenced_by_term_and_never_forgotten() {
    let mut world = World::new();
    world.apply(&create(1, "a"));
    let id = Uuid::from_u128(1);
    assert_eq!(world.leader("a"), None);
    let leader = |node, epoch| Some(Leader { node: NodeId(node), epoch: LeaderEpoch(epoch) });
    assert!(world.builder.leader_changed(&id, 0, Term(5), NodeId(2)));
    assert!(!world.builder.leader_changed(&id, 0, Term(4), NodeId(3)), "an older term");
    assert!(!world.builder.leader_changed(&id, 0, Term(5), NodeId(3)), "the same term has one leader");
    assert!(!world.builder.leader_changed(&id, 1, Term(9), NodeId(3)), "no such partition");
    assert!(!world.builder.leader_changed(&Uuid::from_u128(2), 0, Term(9), NodeId(3)), "no such topic");
    assert_eq!(world.leader("a"), leader(2, 5));
    // What the log records in an older term does not bring an older leader back, nor does a change of configs.
    let recorded = Command::RecordLeader {
        id,
        partition: 0,
        term: Term(3),
        leader: NodeId(1),
        in_sync: vec![NodeId(1)],
    };
    world.apply(&recorded);
    let changes = BTreeMap::from([("retention.ms".to_owned(), Some("7".to_owned()))]);
    world.apply(&Command::ChangeConfigs { scope: ConfigScope::Topic(id), changes });
    assert_eq!(world.leader("a"), leader(2, 5));
    // Nor does a whole state.
    let state = world.state.clone();
    world.builder.reset(&state);
    assert_eq!(world.leader("a"), leader(2, 5));
    // The topic made again is another one and starts anew.
    world.apply(&Command::DeleteTopic { id });
    world.apply(&create(2, "a"));
    assert_eq!(world.leader("a"), None);
}

#[test]
fn the_in_sync_set_comes_from_the_newest_leader_only() {
    let mut world = World::new();
    world.apply(&create(1, "a"));
    let id = Uuid::from_u128(1);
    assert!(!world.builder.in_sync_changed(&id, 0, Term(5), &[]), "no leader yet");
    world.builder.leader_changed(&id, 0, Term(5), NodeId(1));
    assert!(!world.builder.in_sync_changed(&id, 0, Term(4), &[]));
    assert!(world.builder.in_sync_changed(&id, 0, Term(5), &[NodeId(1), NodeId(2)]));
    let snapshot = world.builder.publish().unwrap();
    assert_eq!(&*snapshot.topic("a").unwrap().partitions[0].in_sync, &[NodeId(1), NodeId(2)]);
    assert!(world.builder.publish().is_none(), "nothing new");
}

#[test]
fn broker_configs_reach_every_topic() {
    let mut world = World::new();
    world.apply(&create(1, "plain"));
    world.apply(&create(2, "own"));
    let set = |value: &str| Some(value.to_owned());
    let own = BTreeMap::from([("retention.ms".to_owned(), set("7"))]);
    world.apply(&Command::ChangeConfigs { scope: ConfigScope::Topic(Uuid::from_u128(2)), changes: own });
    let all = BTreeMap::from([("log.retention.ms".to_owned(), set("9"))]);
    world.apply(&Command::ChangeConfigs { scope: ConfigScope::Cluster, changes: all.clone() });
    let retention =
        |world: &World, topic: &str| world.builder.current().topic(topic).unwrap().config.retention_ms;
    assert_eq!((retention(&world, "plain"), retention(&world, "own")), (Some(9), Some(7)));
    world.apply(&create(3, "later"));
    assert_eq!(retention(&world, "later"), Some(9));
    let other = Command::ChangeConfigs { scope: ConfigScope::Broker(NodeId(2)), changes: all };
    world.apply(&other);
    assert_eq!(retention(&world, "plain"), Some(9), "another broker's configs are not ours");
}

#[test]
fn published_snapshots_never_change() {
    let mut world = World::new();
    world.apply(&create(1, "a"));
    let first = world.builder.publish().unwrap();
    world.builder.leader_changed(&Uuid::from_u128(1), 0, Term(1), NodeId(1));
    world.apply(&create(2, "b"));
    let second = world.builder.publish().unwrap();
    assert_eq!(first.topics.len(), 1);
    assert_eq!(first.topic("a").unwrap().partitions[0].leader, None);
    assert_eq!(second.topics.len(), 2);
    assert!(second.topic_by_id(&Uuid::from_u128(2)).is_some());
}

/// 6,000 topics one by one, each published and kept, then as many leaders: linear, not quadratic.
#[test]
fn publishing_after_every_topic_stays_cheap() {
    let run = |count: u64| {
        let mut world = World::new();
        // Its own time, as the machine may be busy with others.
        let begun_ns = thread_cpu_ns();
        let mut published = None;
        for number in 1..=count {
            world.apply(&create(number, &format!("topic-{number}")));
            published = world.builder.publish();
            world.builder.leader_changed(&Uuid::from_u128(u128::from(number)), 0, Term(1), NodeId(1));
            published = world.builder.publish().or(published);
        }
        assert_eq!(published.unwrap().topics.len() as u64, count);
        thread_cpu_ns() - begun_ns
    };
    let elapsed_ns = run(6000);
    // 0.2 s in a debug build. 12,000 whole copies of a map of Arcs would be 36 million entries: 9 s.
    assert!(elapsed_ns < 3_000_000_000, "{elapsed_ns} ns");
}

#[test]
fn groups_map_to_shards_and_the_metadata_group_to_the_first() {
    assert_eq!(shard_of(GroupId::METADATA, 4), ShardId(0));
    let shards: BTreeSet<ShardId> = (1..9).map(|group| shard_of(GroupId(group), 4)).collect();
    assert_eq!(shards.len(), 4);
}
