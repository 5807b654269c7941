//! Tests of the metadata state: what is refused, what is never used twice, and that the image holds all of it.

use proptest::prelude::*;

use super::*;
use crate::metadata::command::{MetadataReplica, PartitionPlacement};
use crate::metadata::{command, image};

fn placement(group: u64, replicas: &[(i32, u64)]) -> PartitionPlacement {
    let replica = |(node, peer): &(i32, u64)| Replica { node: NodeId(*node), peer: PeerId(*peer) };
    let replicas = replicas.iter().map(replica).collect();
    PartitionPlacement { group: GroupId(group), replicas, first_leader: None }
}

fn create(id: u128, name: &str, group: u64, peer: u64) -> Command {
    Command::CreateTopic {
        id: Uuid::from_u128(id),
        name: name.to_owned(),
        configs: ConfigMap::new(),
        partitions: vec![placement(group, &[(1, peer)])],
    }
}

#[test]
fn ids_are_never_used_twice_even_after_a_delete() {
    let mut state = MetadataState::default();
    state.apply(&create(1, "a", 1, 1)).unwrap();
    state.apply(&Command::DeleteTopic { id: Uuid::from_u128(1) }).unwrap();
    assert!(state.apply(&create(2, "a", 1, 2)).is_err(), "group used before");
    assert!(state.apply(&create(2, "a", 2, 1)).is_err(), "peer used before");
    state.apply(&create(2, "a", 2, 2)).unwrap();
    assert_eq!(state.next_ids(), (GroupId(3), PeerId(3)));
    assert_eq!(state.topic("a").unwrap().id, Uuid::from_u128(2));
    assert!(state.topic_by_id(&Uuid::from_u128(1)).is_none());
}

#[test]
fn a_conflict_changes_nothing() {
    let mut state = MetadataState::default();
    state.apply(&create(1, "a.b", 1, 1)).unwrap();
    state.apply(&Command::MintClusterId { cluster_id: "x".to_owned() }).unwrap();
    let id = Uuid::from_u128(1);
    let missing = Uuid::from_u128(9);
    let recorded =
        Command::RecordLeader { id, partition: 0, term: Term(5), leader: NodeId(1), in_sync: vec![] };
    state.apply(&recorded).unwrap();
    let older = Command::RecordLeader { id, partition: 0, term: Term(4), leader: NodeId(2), in_sync: vec![] };
    let before = state.clone();
    let refused = [
        create(2, "a.b", 2, 2),
        create(1, "c", 2, 2),
        Command::CreateTopic { id: missing, name: "d".into(), configs: ConfigMap::new(), partitions: vec![] },
        Command::CreateTopic {
            id: missing,
            name: "d".into(),
            configs: ConfigMap::new(),
            partitions: vec![placement(2, &[(1, 2), (1, 3)])],
        },
        Command::DeleteTopic { id: missing },
        Command::AddPartitions { id, first: 2, partitions: vec![placement(2, &[(1, 2)])] },
        Command::AddPartitions { id: missing, first: 0, partitions: vec![placement(2, &[(1, 2)])] },
        Command::ChangeConfigs { scope: ConfigScope::Topic(missing), changes: BTreeMap::new() },
        Command::MintClusterId { cluster_id: "y".to_owned() },
        Command::UnregisterBroker { node: NodeId(7) },
        Command::AllocateProducerIds { node: NodeId(1), first: -1, count: 1000 },
        Command::AllocateProducerIds { node: NodeId(1), first: i64::MAX, count: 1000 },
        Command::PlaceReplicas { id, partition: 1, replicas: vec![] },
        Command::PlaceReplicas {
            id,
            partition: 0,
            replicas: vec![Replica { node: NodeId(2), peer: PeerId(1) }],
        },
        older,
    ];
    for command in refused {
        assert!(state.apply(&command).is_err(), "{command:?}");
        assert_eq!(state, before, "{command:?}");
    }
}

#[test]
fn replicas_move_with_fresh_peers_only() {
    let mut state = MetadataState::default();
    state.apply(&create(1, "a", 1, 1)).unwrap();
    let kept = Replica { node: NodeId(1), peer: PeerId(1) };
    let fresh = Replica { node: NodeId(2), peer: PeerId(2) };
    let id = Uuid::from_u128(1);
    state.apply(&Command::PlaceReplicas { id, partition: 0, replicas: vec![kept, fresh] }).unwrap();
    assert_eq!(&*state.topic("a").unwrap().partitions[0].replicas, &[kept, fresh]);
    assert_eq!(state.next_ids().1, PeerId(3));
}

#[test]
fn answered_requests_are_remembered_up_to_a_bound() {
    let mut state = MetadataState::default();
    let request = |sequence| RequestId { node: NodeId(1), incarnation: 1, sequence };
    for sequence in 0..=REQUESTS_KEPT_MAX as u64 {
        state.apply(&Command::CompleteRequest { request: request(sequence) }).unwrap();
    }
    assert!(!state.is_answered(&request(0)), "the oldest has gone");
    assert!(state.is_answered(&request(1)));
    assert!(state.apply(&Command::CompleteRequest { request: request(1) }).is_err());
}

#[test]
fn images_of_other_versions_and_garbage_are_refused() {
    let mut bytes = image::encode(&MetadataState::default());
    assert!(image::decode(&bytes).is_ok());
    bytes[8] = 4;
    assert!(matches!(image::decode(&bytes), Err(image::ImageError::Newer(4))));
    assert!(matches!(image::decode(b"CHRNKMDI\x01"), Err(image::ImageError::NoImage)));
    assert!(matches!(image::decode(b""), Err(image::ImageError::NoImage)));
    assert!(matches!(image::decode(b"CHRNKMDI\x01\0\0\0{}"), Err(image::ImageError::Malformed(_))));
}

/// Commands that mostly fit: names and ids from a small range, so that creates, deletes and changes meet.
fn any_command() -> impl Strategy<Value = Command> {
    let id = (0u128..12).prop_map(Uuid::from_u128);
    let node = (0i32..3).prop_map(NodeId);
    let text = "[a-c._]{1,3}";
    prop_oneof![
        4 => (id.clone(), text, 1u64..400, 1u64..400).prop_map(|(id, name, group, peer)| Command::CreateTopic {
            id, name, configs: ConfigMap::new(), partitions: vec![placement(group, &[(1, peer), (2, peer + 1)])],
        }),
        2 => id.clone().prop_map(|id| Command::DeleteTopic { id }),
        2 => (id.clone(), 0i32..3, 1u64..400).prop_map(|(id, first, ids)| Command::AddPartitions {
            id, first, partitions: vec![placement(ids, &[(1, ids)])],
        }),
        2 => (id.clone(), text, proptest::option::of(text)).prop_map(|(id, key, value)| Command::ChangeConfigs {
            scope: ConfigScope::Topic(id), changes: BTreeMap::from([(key, value)]),
        }),
        1 => (node.clone(), text).prop_map(|(node, key)| Command::ChangeConfigs {
            scope: ConfigScope::Broker(node), changes: BTreeMap::from([(key, Some("1".to_owned()))]),
        }),
        1 => (node.clone(), 0i64..5000).prop_map(|(node, first)| Command::AllocateProducerIds { node, first, count: 10 }),
        1 => (id, 0i32..2, 0u64..9, node.clone()).prop_map(|(id, partition, term, leader)| Command::RecordLeader {
            id, partition, term: Term(term), leader, in_sync: vec![leader],
        }),
        1 => (node.clone(), any::<u128>()).prop_map(|(node, id)| Command::RegisterBroker {
            node, directory: Uuid::from_u128(id), incarnation: Uuid::from_u128(id), rack: None, raft: None,
            listeners: BTreeMap::from([("PLAINTEXT".to_owned(), Endpoint { host: "h".into(), port: 1 })]),
        }),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, draining)| Command::MarkDraining { node, draining }),
        1 => node.clone().prop_map(|node| Command::UnregisterBroker { node }),
        1 => (node, 0u64..9).prop_map(|(node, sequence)| Command::CompleteRequest {
            request: RequestId { node, incarnation: 1, sequence },
        }),
        1 => (text, 0i16..3).prop_map(|(name, level)| Command::SetFeature { name, level }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_and_images_hold_everything(commands in prop::collection::vec(any_command(), 0..150)) {
        let mut state = MetadataState::default();
        let mut from_records = MetadataState::default();
        let mut groups = BTreeSet::new();
        for command in &commands {
            let bytes = command::encode(std::slice::from_ref(command)).remove(0);
            let read = command::decode(&bytes).unwrap();
            prop_assert_eq!(&read, command);
            let change = state.apply(command);
            prop_assert_eq!(&from_records.apply(&read), &change);
            if let Ok(Change::TopicCreated(topic)) = change {
                prop_assert!(topic.partitions.iter().all(|partition| groups.insert(partition.group)));
            }
        }
        prop_assert_eq!(state.topics().len(), state.names.len());
        let restored = image::decode(&image::encode(&state)).unwrap();
        prop_assert_eq!(&restored, &state);
        // What comes after the image is applied alike.
        let next = create(99, "zz", state.last_group + 1, state.last_peer + 1);
        let (mut left, mut right) = (state, restored);
        prop_assert_eq!(left.apply(&next), right.apply(&next));
    }
}

fn register(node: i32, directory: u128) -> Command {
    Command::RegisterBroker {
        node: NodeId(node),
        directory: Uuid::from_u128(directory),
        incarnation: Uuid::from_u128(directory),
        rack: None,
        listeners: BTreeMap::new(),
        raft: None,
    }
}

fn replicas(of: &[(i32, u64)]) -> Vec<Replica> {
    of.iter().map(|(node, peer)| Replica { node: NodeId(*node), peer: PeerId(*peer) }).collect()
}

/// One topic of one partition on nodes 1 and 2, as peers 1 and 2.
fn placed_on_two() -> (MetadataState, Uuid) {
    let mut state = MetadataState::default();
    let id = Uuid::from_u128(1);
    let partitions = vec![placement(1, &[(1, 1), (2, 2)])];
    let create = Command::CreateTopic { id, name: "a".to_owned(), configs: ConfigMap::new(), partitions };
    state.apply(&create).unwrap();
    (state, id)
}

fn partition(state: &MetadataState) -> &Partition {
    &state.topic("a").unwrap().partitions[0]
}

#[test]
fn a_placement_lists_what_comes_and_goes_until_it_is_complete() {
    let (mut state, id) = placed_on_two();
    let target = replicas(&[(3, 3), (1, 1)]);
    state.apply(&Command::PlaceReplicas { id, partition: 0, replicas: target.clone() }).unwrap();
    let now = partition(&state);
    assert_eq!(&*now.replicas, replicas(&[(3, 3), (1, 1), (2, 2)]));
    assert_eq!((&*now.adding, &*now.removing), (&replicas(&[(3, 3)])[..], &replicas(&[(2, 2)])[..]));
    assert_eq!((now.base(), now.target()), (replicas(&[(1, 1), (2, 2)]), target.clone()));
    let stale = replicas(&[(1, 1), (2, 2)]);
    assert!(
        state
            .apply(&Command::CompletePlacement { id, partition: 0, replicas: stale, index: RaftIndex(7) })
            .is_err()
    );
    state
        .apply(&Command::CompletePlacement {
            id,
            partition: 0,
            replicas: target.clone(),
            index: RaftIndex(7),
        })
        .unwrap();
    let now = partition(&state);
    assert_eq!((&*now.replicas, now.is_reassigning()), (&target[..], false));
    assert_eq!(now.base_index, RaftIndex(7), "as of which they are the members");
    assert_eq!(partition(&image::decode(&image::encode(&state)).unwrap()).base_index, RaftIndex(7));
    let untold = br#"{"version":1,"command":{"type":"complete_placement","id":"00000000-0000-0000-0000-000000000001","partition":0,"replicas":[]}}"#;
    let untold = command::decode(untold).unwrap();
    assert!(
        matches!(untold, Command::CompletePlacement { index: RaftIndex(0), .. }),
        "as it was written before"
    );
    assert_eq!(&*now.in_sync, [NodeId(1)], "who is gone is in sync no more");
    let reused = replicas(&[(1, 1), (2, 2)]);
    assert!(state.apply(&Command::PlaceReplicas { id, partition: 0, replicas: reused }).is_err());
}

/// The disk of a replica that was to go is lost before it is gone: what comes back empty is another one, and no voter.
#[test]
fn a_replica_that_goes_is_another_too_when_its_disk_is_another() {
    let (mut state, id) = placed_on_two();
    let target = replicas(&[(1, 1)]);
    state.apply(&register(2, 22)).unwrap();
    state.apply(&Command::PlaceReplicas { id, partition: 0, replicas: target.clone() }).unwrap();
    let before = partition(&state).removing.to_vec();
    state.apply(&register(2, 23)).unwrap();
    let now = partition(&state);
    assert!(now.replicas.iter().all(|replica| !before.contains(replica)), "{now:?}");
    assert_eq!((now.removing.len(), now.target()), (1, target));
    assert_eq!(&*now.adding, &*now.removing, "nobody takes it for a voter");
    assert_eq!(now.base(), replicas(&[(1, 1), (2, 2)]), "what Raft has");
}

#[test]
fn what_is_called_off_stays_until_raft_is_rid_of_it() {
    let (mut state, id) = placed_on_two();
    let place = |replicas| Command::PlaceReplicas { id, partition: 0, replicas };
    state.apply(&place(replicas(&[(1, 1), (2, 2), (3, 3)]))).unwrap();
    let original = replicas(&[(1, 1), (2, 2)]);
    state.apply(&place(original.clone())).unwrap();
    let now = partition(&state);
    assert_eq!((now.base(), now.target()), (original.clone(), original.clone()));
    assert_eq!((&*now.adding, &*now.removing), (&replicas(&[(3, 3)])[..], &replicas(&[(3, 3)])[..]));
    // It may even be wanted back.
    let mut wanted = state.clone();
    wanted.apply(&place(replicas(&[(3, 3), (1, 1)]))).unwrap();
    assert_eq!(partition(&wanted).base(), original);
    assert_eq!(&*partition(&wanted).removing, replicas(&[(2, 2)]));
    state
        .apply(&Command::CompletePlacement {
            id,
            partition: 0,
            replicas: original.clone(),
            index: RaftIndex(7),
        })
        .unwrap();
    assert_eq!(&*partition(&state).replicas, original);
}

#[test]
fn every_broker_becomes_a_member_of_the_metadata_group() {
    let mut state = MetadataState::default();
    state.apply(&register(1, 11)).unwrap();
    let first = MetadataReplica { node: NodeId(1), peer: PeerId(1), directory: Uuid::from_u128(11) };
    assert_eq!(state.metadata_replicas().replicas, [first], "the first one made the group");
    assert!(state.metadata_replicas().is_complete());
    // Data of a node on its own: peers of partitions are counted from 1 there.
    state.apply(&create(1, "a", 1, 1)).unwrap();
    state.apply(&register(2, 22)).unwrap();
    let second = MetadataReplica { node: NodeId(2), peer: PeerId(2), directory: Uuid::from_u128(22) };
    assert_eq!(
        (state.metadata_replicas().base(), state.metadata_replicas().target()),
        (vec![first], vec![first, second])
    );
    assert_eq!(state.next_ids().1, PeerId(3));
    let reached = vec![second, first];
    state.apply(&Command::CompleteMetadataPlacement { replicas: reached.clone() }).unwrap();
    assert!(state.apply(&Command::CompleteMetadataPlacement { replicas: vec![first] }).is_err());
    assert_eq!(state.metadata_replicas().base(), [first, second]);
    state.apply(&register(2, 22)).unwrap();
    assert!(state.metadata_replicas().is_complete(), "another start of the same node");
    state.apply(&Command::UnregisterBroker { node: NodeId(1) }).unwrap();
    assert_eq!(state.metadata_replicas().target(), [second]);
    assert!(state.apply(&Command::UnregisterBroker { node: NodeId(2) }).is_err(), "the last one stays");
}

#[test]
fn who_was_removed_is_known_by_its_directory_once_it_is_out_of_the_metadata_group() {
    let mut state = MetadataState::default();
    for (node, directory) in [(1, 11), (2, 22)] {
        state.apply(&register(node, directory)).unwrap();
    }
    let nodes = |list: Vec<&Departed>| list.iter().map(|departed| departed.node.0).collect::<Vec<_>>();
    let unregister = Command::UnregisterBroker { node: NodeId(2) };
    state.apply(&unregister).unwrap();
    assert!(state.is_departed(&Uuid::from_u128(22)));
    assert_eq!((nodes(state.leaving().collect()), nodes(state.removed().collect())), (vec![2], vec![]));
    let reached = state.metadata_replicas().target();
    state.apply(&Command::CompleteMetadataPlacement { replicas: reached }).unwrap();
    assert_eq!((nodes(state.leaving().collect()), nodes(state.removed().collect())), (vec![], vec![2]));
    let bytes = image::encode(&state);
    assert_eq!(bytes[8..12], 2u32.to_le_bytes());
    assert_eq!(image::decode(&bytes).unwrap(), state);
    // As a new node it comes back, and may go again, many times.
    for directory in 100..100 + DEPARTED_KEPT_MAX as u128 {
        state.apply(&register(2, directory)).unwrap();
        state.apply(&unregister).unwrap();
    }
    assert_eq!(state.departed.len(), DEPARTED_KEPT_MAX);
    assert!(!state.is_departed(&Uuid::from_u128(22)) && state.is_departed(&Uuid::from_u128(100)));
    state.apply(&register(2, 100)).unwrap();
    assert!(!state.is_departed(&Uuid::from_u128(100)), "what is committed counts");
}

#[test]
fn another_directory_is_another_peer_everywhere() {
    let mut state = MetadataState::default();
    for (node, directory) in [(1, 11), (2, 22)] {
        state.apply(&register(node, directory)).unwrap();
    }
    let target = state.metadata_replicas().target();
    state.apply(&Command::CompleteMetadataPlacement { replicas: target }).unwrap();
    let id = Uuid::from_u128(1);
    let partitions =
        vec![placement(1, &[(1, 3), (2, 4)]), placement(2, &[(1, 5)]), placement(3, &[(2, 6), (1, 7)])];
    state
        .apply(&Command::CreateTopic { id, name: "a".to_owned(), configs: ConfigMap::new(), partitions })
        .unwrap();
    let Ok(Change::BrokerReturned(NodeId(2), renewed)) = state.apply(&register(2, 99)) else {
        panic!("a broker with another directory")
    };
    let numbers: Vec<i32> = renewed.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, [0, 2]);
    let members = state.metadata_replicas();
    assert_eq!(members.of_node(NodeId(2)).unwrap().peer, PeerId(7 + 1));
    assert_eq!((members.adding.len(), members.removing[0].peer), (1, PeerId(2)));
    let now = partition(&state);
    assert_eq!(now.target(), replicas(&[(1, 3), (2, 9)]));
    assert_eq!((&*now.adding, &*now.removing), (&replicas(&[(2, 9)])[..], &replicas(&[(2, 4)])[..]));
    assert!(!state.topic("a").unwrap().partitions[1].is_reassigning());
    assert_eq!(state.topic("a").unwrap().partitions[2].target(), replicas(&[(2, 10), (1, 7)]));
    // Wiped once more before it had arrived: the one in between is called off.
    state.apply(&register(2, 100)).unwrap();
    assert_eq!(partition(&state).removing.len(), 2);
    assert_eq!(partition(&state).base(), replicas(&[(1, 3), (2, 4)]));
    assert_eq!(image::decode(&image::encode(&state)).unwrap(), state);
}

/// The one that is to go loses its log: it is another from then on, and yet a member until the group's leader has it out.
#[test]
fn a_joiner_knows_of_a_member_that_lost_its_log_while_it_was_to_go() {
    let mut state = MetadataState::default();
    for node in 1..=4 {
        state.apply(&register(node, node as u128)).unwrap();
    }
    let id = Uuid::from_u128(1);
    let partitions = vec![placement(1, &[(1, 5), (2, 6), (3, 7)])];
    state
        .apply(&Command::CreateTopic { id, name: "a".to_owned(), configs: ConfigMap::new(), partitions })
        .unwrap();
    let place = |list: &[(i32, u64)]| Command::PlaceReplicas { id, partition: 0, replicas: replicas(list) };
    state.apply(&place(&[(1, 5), (2, 6), (4, 8)])).unwrap();
    let original = replicas(&[(1, 5), (2, 6), (3, 7)]);
    let members = |state: &MetadataState| {
        let mut base = partition(state).base();
        base.sort_by_key(|replica| replica.peer);
        base
    };
    assert_eq!((members(&state), image::encode(&state)[8]), (original.clone(), 1));
    for directory in [33, 34] {
        state.apply(&register(3, directory)).unwrap();
        assert_eq!(members(&state), original);
        assert!(
            partition(&state).removing.iter().all(|replica| replica.peer.0 > 8),
            "never under its old id"
        );
    }
    let bytes = image::encode(&state);
    assert_eq!((bytes[8], image::decode(&bytes).unwrap()), (3, state.clone()));
    let reached = partition(&state).target();
    let complete =
        Command::CompletePlacement { id, partition: 0, replicas: reached.clone(), index: RaftIndex(9) };
    state.apply(&complete).unwrap();
    assert_eq!((partition(&state).base(), image::encode(&state)[8]), (reached, 1));
}

/// A chronik that knows only version 1 reads images as long as there is nothing in them that it would lose.
#[test]
fn a_mark_is_in_the_image_and_goes_with_the_broker() {
    let mut state = MetadataState::default();
    for node in [1, 2] {
        state.apply(&register(node, node as u128)).unwrap();
    }
    let mark = |node, draining| Command::MarkDraining { node: NodeId(node), draining };
    assert!(state.apply(&mark(3, true)).is_err(), "nobody knows it");
    let unmarked = image::encode(&state);
    assert_eq!(unmarked[8..12], 1u32.to_le_bytes());
    assert!(!String::from_utf8_lossy(&unmarked).contains("draining"));
    state.apply(&mark(2, true)).unwrap();
    let marked = image::encode(&state);
    assert_eq!(marked[8..12], 2u32.to_le_bytes());
    assert!(image::decode(&marked).unwrap().draining().contains(&NodeId(2)));
    let mut unregistered = state.clone();
    unregistered.apply(&Command::UnregisterBroker { node: NodeId(2) }).unwrap();
    assert!(unregistered.draining().is_empty());
    assert_eq!(image::decode(&image::encode(&unregistered)).unwrap(), unregistered);
    state.apply(&mark(2, false)).unwrap();
    assert_eq!(image::encode(&state), unmarked);
}

#[test]
fn an_image_of_before_there_were_peers_is_read() {
    let json = br#"{"cluster_id":"x","brokers":[],"topics":[{"id":"00000000-0000-0000-0000-000000000001","name":"a","configs":{},"partitions":[{"group":1,"replicas":[{"node":1,"peer":1}],"first_leader":1,"leader":null,"in_sync":[1]}]}],"cluster_configs":{},"broker_configs":[],"features":{},"last_group":1,"last_peer":1,"next_producer_id":0,"requests":[]}"#;
    let state = image::decode(&[b"CHRNKMDI\x01\0\0\0", &json[..]].concat()).unwrap();
    assert!(state.metadata_replicas().replicas.is_empty());
    assert!(!partition(&state).is_reassigning());
}
