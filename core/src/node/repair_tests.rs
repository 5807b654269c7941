//! Repairs of small made-up data directories on a simulated disk: what survives, and that an interrupted repair has changed
//! nothing or all. The whole way, server included, is in `tests/damage.rs`.

use bytes::Bytes;
use chronik_raft::sole_voter_configuration;
use chronik_wal::disk::SimDisk;
use chronik_wal::disk::sim::Survival;
use chronik_wal::entry::{GroupState, HardState, LogEntry, LogSink};
use chronik_wal::records::BatchBuilder;
use chronik_wal::shard_wal::{ShardWal, shard_directory, slot_path, write_turn_blocking};
use chronik_wal::types::{KafkaOffset, Term};
use uuid::Uuid;

use super::prefix::TERM_LEAP;
use super::*;
use crate::metadata::command::{self, Command, PartitionPlacement, Replica};

pub(super) const DATA: &str = "/data";
pub(super) const NODE: NodeId = NodeId(1);
pub(super) const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";
const PEER: PeerId = PeerId(1);
/// The groups of the two partitions of `orders`.
const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];

pub(super) fn identity() -> Identity {
    let mut identity = Identity::new(NODE, *b"directory-for-te", 1);
    identity.cluster_id = Some(CLUSTER.to_owned());
    identity
}

pub(super) fn wal_config() -> WalConfig {
    WalConfig {
        segment_bytes: 512 << 10,
        first_segment_bytes: 256 << 10,
        wal_max_bytes: 4 << 20,
        reserve_bytes: 16 << 10,
        ..WalConfig::new(Path::new(DATA), identity().wal(ShardId(0)))
    }
}

pub(super) fn batch(index: u64, term: u64, offset: i64, values: &[Vec<u8>]) -> LogEntry {
    let mut builder =
        BatchBuilder::new().base_offset(KafkaOffset(offset)).leader_epoch(Term(term).leader_epoch());
    for value in values {
        builder.push(1, None, Some(value));
    }
    LogEntry {
        index: RaftIndex(index),
        term: Term(term),
        kind: EntryKind::Batch,
        base_offset: KafkaOffset(offset),
        data: builder.build().unwrap().freeze(),
    }
}

pub(super) fn empty(index: u64, term: u64, offset: i64) -> LogEntry {
    let (kind, data) = (EntryKind::Empty, Bytes::new());
    LogEntry { index: RaftIndex(index), term: Term(term), kind, base_offset: KafkaOffset(offset), data }
}

fn state(term: u64) -> GroupState {
    GroupState {
        hard: HardState { term: Term(term), ..HardState::default() },
        peer: PEER,
        configuration: sole_voter_configuration(PEER),
        ..GroupState::default()
    }
}

pub(super) fn flush(disk: &SimDisk, wal: &mut ShardWal) {
    while let Some(turn) = wal.start_turn() {
        write_turn_blocking(disk, &turn).unwrap();
        wal.turn_done(turn.turn);
    }
}

/// A node with the topic `orders` of two partitions, `count` records in each, one a batch and a turn.
fn node_with(count: u64) -> SimDisk {
    let disk = SimDisk::new(7);
    identity().store(&disk, Path::new(DATA)).unwrap();
    let mut wal = ShardWal::open(&disk, wal_config(), &mut Recovered::nothing()).unwrap();
    let (first_group, first_peer) = MetadataState::default().next_ids();
    assert_eq!(first_group, GROUPS[0]);
    let placed = |group: GroupId| PartitionPlacement {
        group,
        replicas: vec![Replica { node: NODE, peer: PeerId(first_peer.0 + group.0 - first_group.0) }],
        first_leader: Some(NODE),
    };
    let commands = [
        Command::MintClusterId { cluster_id: CLUSTER.to_owned() },
        Command::CreateTopic {
            id: Uuid::from_u128(5),
            name: "orders".to_owned(),
            configs: BTreeMap::new(),
            partitions: GROUPS.iter().map(|group| placed(*group)).collect(),
        },
    ];
    wal.put_state(GroupId::METADATA, &state(1));
    wal.put_entry(GroupId::METADATA, RaftIndex(0), &empty(1, 1, 0));
    wal.put_entry(GroupId::METADATA, RaftIndex(1), &batch(2, 1, 0, &command::encode(&commands)));
    for group in GROUPS {
        wal.put_state(group, &state(3));
        wal.put_entry(group, RaftIndex(0), &empty(1, 3, 0));
    }
    flush(&disk, &mut wal);
    for number in 0..count {
        for group in GROUPS {
            let entry = batch(number + 2, 3, number as i64, &[value(group, number)]);
            wal.put_entry(group, RaftIndex(number + 1), &entry);
            flush(&disk, &mut wal);
        }
    }
    wal.close();
    flush(&disk, &mut wal);
    disk
}

fn value(group: GroupId, number: u64) -> Vec<u8> {
    format!("value {number} of group {group}").into_bytes()
}

/// Flips a bit of the WAL where this value stands.
fn damage(disk: &SimDisk, group: GroupId, number: u64) {
    let path = slot_path(&shard_directory(Path::new(DATA), ShardId(0)), 0);
    let contents = disk.contents(&path).unwrap();
    let needle = value(group, number);
    let at = contents.windows(needle.len()).position(|window| window == needle).unwrap();
    disk.flip_bit(&path, at as u64, 1);
}

fn run(disk: &SimDisk, accept_loss: bool) -> Result<Report, RepairError> {
    let identity = load_identity(disk, Path::new(DATA), None)?;
    repair_with(disk, Path::new(DATA), identity, &wal_config(), accept_loss)
}

pub(super) fn recovered(disk: &SimDisk) -> Recovered {
    recover(disk, &wal_config()).unwrap()
}

#[test]
fn a_sound_directory_needs_nothing() {
    let disk = node_with(5);
    let report = run(&disk, true).unwrap();
    assert_eq!(report, Report::default());
    assert!(report.to_string().starts_with("No damage found"));
}

#[test]
fn a_partition_keeps_what_comes_before_the_damage() {
    let disk = node_with(9);
    damage(&disk, GROUPS[0], 4);
    let report = run(&disk, false).unwrap();
    assert!(!report.is_sound());
    let [damage] = &report.damaged[..] else { panic!("{report}") };
    assert_eq!(damage.partition, "orders-0");
    assert_eq!((damage.survives, damage.known_end), ((KafkaOffset(0), KafkaOffset(4)), KafkaOffset(9)));
    assert!(recovered(&disk).damage.reason(GROUPS[0]).is_some(), "a report changes nothing");

    assert!(run(&disk, true).unwrap().is_sound());
    let after = recovered(&disk);
    assert!(after.damage.is_empty());
    let mended = &after.groups[&GROUPS[0]];
    assert_eq!(mended.entries.len(), 5, "the opening entry and four batches");
    let hard = mended.state.as_ref().unwrap().hard;
    assert_eq!((hard.term, hard.commit), (Term(3 + TERM_LEAP), RaftIndex(5)));
    assert_eq!(after.groups[&GROUPS[1]].entries.len(), 10, "the other one is as it was");
    assert_eq!(run(&disk, true).unwrap(), Report::default());
}

#[test]
fn a_crash_at_any_write_leaves_the_damage_or_the_repair() {
    let before = node_with(6);
    damage(&before, GROUPS[1], 3);
    for step in 1.. {
        let disk = before.crash(Survival::All);
        disk.crash_after(step);
        let done = run(&disk, true).is_ok();
        let survival = [Survival::SyncedOnly, Survival::Random, Survival::All][(step % 3) as usize];
        let disk = disk.crash(survival);
        let report = run(&disk, true).unwrap();
        assert!(report.is_sound() && report.damaged.len() <= 1, "step {step}: {report}");
        let after = recovered(&disk);
        assert!(after.damage.is_empty(), "step {step}");
        assert_eq!(after.groups[&GROUPS[1]].entries.len(), 4, "step {step}");
        assert_eq!(after.groups[&GROUPS[0]].entries.len(), 7, "step {step}");
        if done {
            assert!(step > 20, "the repair writes more than {step} times");
            return;
        }
    }
}

#[test]
fn metadata_without_the_cluster_id_are_not_guessed() {
    let disk = node_with(2);
    let path = slot_path(&shard_directory(Path::new(DATA), ShardId(0)), 0);
    let contents = disk.contents(&path).unwrap();
    let at = contents.windows(CLUSTER.len()).position(|window| window == CLUSTER.as_bytes()).unwrap();
    disk.flip_bit(&path, at as u64, 1);
    for accept_loss in [false, true] {
        let error = run(&disk, accept_loss).unwrap_err();
        assert!(matches!(error, RepairError::MetadataLost(_)), "{error}");
    }
    assert!(recovered(&disk).damage.reason(GroupId::METADATA).is_some());
}

#[test]
fn the_table_is_plain() {
    let disk = node_with(3);
    damage(&disk, GROUPS[0], 1);
    let text = run(&disk, false).unwrap().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("SHARD  PARTITION  SURVIVES"), "{text}");
    assert!(lines[1].starts_with("0      orders-0   offsets 0..1 (2 entries in the WAL)"), "{text}");
    assert!(lines[1].contains("offsets 1..3 and what followed"), "{text}");
    assert!(lines[2].contains("--accept-loss"), "{text}");
}
