//! Recoveries of a small made-up node of three on a simulated disk: what goes on, under which names, and that an interrupted
//! one has changed nothing or all. The whole way, server included, is in `tests/cluster_cli.rs`.

use std::collections::BTreeMap;

use chronik_wal::disk::SimDisk;
use chronik_wal::disk::sim::Survival;
use chronik_wal::entry::{EntryKind, GroupState, HardState, LogEntry, LogSink};
use chronik_wal::recovery::Recovered;
use chronik_wal::shard_wal::ShardWal;
use chronik_wal::types::{KafkaOffset, RaftIndex};

use super::super::tests::{CLUSTER, DATA, NODE, batch, empty, flush, identity, recovered, wal_config};
use super::*;
use crate::metadata::command::{self, Endpoint, PartitionPlacement};

/// The groups of `orders`: two that this node has a replica of, one that it has none of.
const GROUPS: [GroupId; 3] = [GroupId(1), GroupId(2), GroupId(3)];

fn register(node: i32) -> Command {
    Command::RegisterBroker {
        node: NodeId(node),
        directory: Uuid::from_bytes(identity().directory),
        incarnation: Uuid::nil(),
        rack: None,
        listeners: BTreeMap::from([("PLAINTEXT".to_owned(), Endpoint { host: "h".to_owned(), port: 9092 })]),
        raft: None,
    }
}

fn voters(peers: &[u64]) -> GroupState {
    let peers: Vec<PeerId> = peers.iter().copied().map(PeerId).collect();
    let hard = HardState { term: Term(3), vote: PeerId(2), commit: RaftIndex(1) };
    let configuration = chronik_raft::configuration_of(&peers);
    GroupState { hard, peer: peers[0], configuration, ..GroupState::default() }
}

/// Node 1 of three, with the topic `orders`: five records in each of the two partitions, of which nothing is known to be
/// committed.
fn node_of_three() -> SimDisk {
    let disk = SimDisk::new(7);
    identity().store(&disk, Path::new(DATA)).unwrap();
    let mut wal = ShardWal::open(&disk, wal_config(), &mut Recovered::nothing()).unwrap();
    let mut planned = MetadataState::default();
    let mut commands = vec![Command::MintClusterId { cluster_id: CLUSTER.to_owned() }];
    commands.extend((1..=3).map(register));
    commands.iter().for_each(|command| apply(&mut planned, command));
    let mut peer = planned.next_ids().1.0;
    let mut own = Vec::new();
    let mut placed = |group: GroupId, nodes: &[i32]| {
        let mut replica = |node: &i32| {
            peer += 1;
            Replica { node: NodeId(*node), peer: PeerId(peer - 1) }
        };
        let replicas: Vec<Replica> = nodes.iter().map(&mut replica).collect();
        own.push(replicas.iter().map(|replica| replica.peer.0).collect::<Vec<_>>());
        PartitionPlacement { group, replicas, first_leader: None }
    };
    let partitions =
        vec![placed(GROUPS[0], &[1, 2, 3]), placed(GROUPS[1], &[1, 3]), placed(GROUPS[2], &[2, 3])];
    let (name, configs) = ("orders".to_owned(), BTreeMap::new());
    commands.push(Command::CreateTopic { id: Uuid::from_u128(5), name, configs, partitions });
    wal.put_state(GroupId::METADATA, &voters(&[1, 2, 3]));
    wal.put_entry(GroupId::METADATA, RaftIndex(0), &empty(1, 3, 0));
    wal.put_entry(GroupId::METADATA, RaftIndex(2), &batch(2, 3, 0, &command::encode(&commands)));
    for (group, peers) in GROUPS.iter().zip(&own).take(2) {
        wal.put_state(*group, &voters(peers));
        wal.put_entry(*group, RaftIndex(0), &empty(1, 3, 0));
        // A change of members that is not to come back once the configuration is another one.
        wal.put_entry(*group, RaftIndex(1), &configuration_entry(2));
        for number in 0..5 {
            let entry = batch(number + 3, 3, number as i64, &[format!("{group} {number}").into_bytes()]);
            wal.put_entry(*group, RaftIndex(1), &entry);
        }
    }
    flush(&disk, &mut wal);
    wal.close();
    flush(&disk, &mut wal);
    disk
}

fn configuration_entry(index: u64) -> LogEntry {
    LogEntry { kind: EntryKind::ConfChangeV2, ..empty(index, 3, 0) }
}

fn run(disk: &SimDisk) -> Result<Survey, RepairError> {
    let data = Path::new(DATA);
    let identity = load_identity(disk, data, None)?;
    survey_with(disk, data, identity, wal_config())?.carry_out()
}

fn metadata_of(disk: &SimDisk) -> (GroupState, MetadataState) {
    let group = recovered(disk).groups[&GroupId::METADATA].clone();
    assert_eq!(group.entries, [], "all is in the image");
    let state = group.state.unwrap();
    let metadata = image::decode(&state.snapshot_data).unwrap();
    (state, metadata)
}

#[test]
fn a_survey_tells_and_changes_nothing() {
    let disk = node_of_three();
    let before = recovered(&disk);
    let data = Path::new(DATA);
    let identity = load_identity(&disk, data, None).unwrap();
    let recovery = survey_with(&disk, data, identity, wal_config()).unwrap();
    let expected = Survey {
        node: NODE,
        cluster_id: CLUSTER.to_owned(),
        others: vec![NodeId(2), NodeId(3)],
        kept: 2,
        elsewhere: vec!["orders-2".to_owned()],
        damaged: Vec::new(),
    };
    assert_eq!(*recovery.survey(), expected);
    drop(recovery);
    assert_eq!(recovered(&disk).groups, before.groups);
}

#[test]
fn every_replica_goes_on_alone_under_another_name_with_all_that_it_holds() {
    let disk = node_of_three();
    let before = recovered(&disk);
    run(&disk).unwrap();
    let after = recovered(&disk);
    assert!(after.damage.is_empty());
    let (group, metadata) = metadata_of(&disk);
    assert_eq!(chronik_raft::voters(&group.configuration), Some(vec![group.peer]));
    assert_eq!((group.log_start.index, group.log_start.term), (RaftIndex(2), Term(3)));
    assert_eq!(metadata.cluster_id().map(|id| &**id), Some(CLUSTER));
    assert_eq!(metadata.brokers().keys().collect::<Vec<_>>(), [&NODE]);
    let members = metadata.metadata_replicas();
    assert!(members.is_complete() && members.of_node(NODE).unwrap().peer == group.peer);
    let topic = metadata.topic("orders").unwrap();
    for (at, id) in GROUPS.iter().enumerate().take(2) {
        let found = &after.groups[id];
        let (state, was) = (found.state.as_ref().unwrap(), before.groups[id].state.as_ref().unwrap());
        assert_eq!(found.entries.len(), 7, "also those that were not known to be committed");
        assert_eq!(state.hard.commit, RaftIndex(7));
        assert!(state.hard.term.0 >= 3 + TERM_LEAP && state.hard.vote == PeerId(0));
        assert!(state.peer > was.peer, "a new incarnation");
        assert_eq!(chronik_raft::voters(&state.configuration), Some(vec![state.peer]));
        assert_eq!(
            state.configuration_index,
            RaftIndex(7),
            "no change of members in the log counts any more"
        );
        let partition = &topic.partitions[at];
        assert_eq!(*partition.replicas, [Replica { node: NODE, peer: state.peer }]);
        assert!(!partition.is_reassigning());
    }
    assert_eq!(topic.partitions[2].replicas.len(), 2, "what has no replica here is left as it was");
}

#[test]
fn a_second_recovery_finds_one_node() {
    let disk = node_of_three();
    run(&disk).unwrap();
    let again = run(&disk).unwrap();
    assert_eq!((again.others, again.kept), (vec![], 2));
    let (group, _) = metadata_of(&disk);
    assert_eq!(group.log_start.offset, KafkaOffset(group.log_start.base_offset.0));
}

#[test]
fn a_crash_at_any_write_leaves_three_or_one() {
    let before = node_of_three();
    for step in 1.. {
        let disk = before.crash(Survival::All);
        disk.crash_after(step);
        let done = run(&disk).is_ok();
        let survival = [Survival::SyncedOnly, Survival::Random, Survival::All][(step % 3) as usize];
        let disk = disk.crash(survival);
        let survey = run(&disk).unwrap();
        assert!(survey.others.len() == 2 || survey.others.is_empty(), "step {step}: {survey:?}");
        let after = recovered(&disk);
        assert!(after.damage.is_empty(), "step {step}");
        assert_eq!(after.groups[&GROUPS[1]].entries.len(), 7, "step {step}");
        if done {
            assert!(step > 10, "the recovery writes more than {step} times");
            return;
        }
    }
}

#[test]
fn a_directory_that_was_never_started_is_none() {
    let disk = SimDisk::new(7);
    assert!(matches!(survey(&disk, Path::new(DATA)), Err(RepairError::NoData(_))));
}
