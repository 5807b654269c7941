//! Good inputs for the fuzz bodies, to be mutated: a decoder's depths are reached from what it accepts.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use chronik_core::metadata::{command, image, state::MetadataState};
use chronik_net::codec::ApiKey;
use chronik_raft::eraftpb::{ConfState, Entry, Message, MessageType};
use chronik_raft::frames;
use chronik_wal::compress::{Compression, CompressionLevels, compress_into};
use chronik_wal::disk::SimDisk;
use chronik_wal::entry::{EntryKind, GroupState, LogEntry, LogSink, LogStart};
use chronik_wal::epochs::EpochTable;
use chronik_wal::identity::{Identity, identity_path};
use chronik_wal::partition::{FileCache, FileLimits, FileStore, PartitionLog, RollPolicy};
use chronik_wal::producer_state::{ProducerLimits, ProducerTable};
use chronik_wal::records::BatchBuilder;
use chronik_wal::recovery::Recovered;
use chronik_wal::shard_wal::{ShardWal, WalConfig, slot_path, write_turn_blocking};
use chronik_wal::types::{GroupId, KafkaOffset, LeaderEpoch, NodeId, RaftIndex, Term};

use crate::fuzz_bodies::{partition_identity, wal_identity};

/// The wire formats, byte for byte as Kafka 4.3.1 writes them.
const GOLDEN: &str = include_str!("../../net/src/codec/tests/golden.txt");

/// Good inputs for the body of this name; at least one.
#[must_use]
pub fn inputs(target: &str) -> Vec<Vec<u8>> {
    match target {
        "request" => golden("Request", |api, version, body| {
            let header_version = api.request_header_version(version);
            let mut frame = [api.key().to_be_bytes(), version.to_be_bytes()].concat();
            frame.extend_from_slice(&[0, 0, 0, 1, 0, 1, b'c']);
            frame.extend((header_version >= 2).then_some(0));
            frame.extend_from_slice(body);
            frame
        }),
        "shape" => golden("Request", |api, version, body| [&[api.key() as u8, version as u8], body].concat())
            .into_iter()
            .chain(cold_bodies())
            .collect(),
        "produce_response" => response(ApiKey::Produce),
        "fetch_response" => response(ApiKey::Fetch),
        "metadata_response" => response(ApiKey::Metadata),
        "batch" => codecs().into_iter().map(|codec| batch(0, codec).to_vec()).collect(),
        "decompress" => codecs().into_iter().map(compressed).collect(),
        "producer_snapshot" => vec![snapshot()],
        "epochs" => vec![epochs()],
        "group_records" => group_records(),
        "metadata_command" => command::encode(&commands()),
        "metadata_image" => vec![metadata()],
        "wal" => vec![wal()],
        "partition" => vec![partition()],
        "identity" => vec![identity()],
        "raft_frame" => raft_frames(),
        target => panic!("no inputs for {target}"),
    }
}

fn golden(kind: &str, make: impl Fn(ApiKey, i16, &[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, version, hex) = (words.next()?, words.next()?, words.next()?);
        let api = (0..80)
            .filter_map(ApiKey::from_key)
            .find(|api| api.name() == name.strip_suffix(kind).unwrap_or(""))?;
        Some(make(api, version.parse().ok()?, &unhex(hex)))
    };
    let made: Vec<_> = GOLDEN.lines().filter_map(line).collect();
    assert!(!made.is_empty(), "the golden file has {kind}s");
    made
}

fn response(wanted: ApiKey) -> Vec<Vec<u8>> {
    let made = golden("Response", |api, version, body| match api == wanted {
        true => [&[version as u8], body].concat(),
        false => Vec::new(),
    });
    made.into_iter().filter(|bytes| !bytes.is_empty()).collect()
}

/// Requests of the general codec: empty ones, which every mutation makes longer.
fn cold_bodies() -> Vec<Vec<u8>> {
    let apis = (0..80).filter_map(ApiKey::from_key);
    apis.flat_map(|api| {
        (0..12).filter(move |version| api.serves(*version)).map(move |version| (api, version))
    })
    .map(|(api, version)| [&[api.key() as u8, version as u8][..], &[0; 24]].concat())
    .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len() / 2).map(|number| digit(2 * number)).collect()
}

fn codecs() -> [Compression; 5] {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    [None, Gzip, Snappy, Lz4, Zstd]
}

fn batch(base: i64, codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new()
        .base_offset(KafkaOffset(base))
        .leader_epoch(LeaderEpoch(1))
        .producer(4, 0, 0)
        .compression(codec, CompressionLevels::default());
    for number in 0..3_u8 {
        builder.push_with_headers(1_000, Some(b"key"), Some(&[number; 40]), &[(b"header", Some(b"value"))]);
    }
    builder.build().expect("a small batch").freeze()
}

fn compressed(codec: Compression) -> Vec<u8> {
    let mut output = bytes::BytesMut::from(&[codec as u8][..]);
    if codec != Compression::None {
        let input: Vec<u8> = (0..2_000_u32).map(|number| (number / 9) as u8).collect();
        compress_into(codec, &CompressionLevels::default(), &input, &mut output).expect("it is compressed");
    }
    output.to_vec()
}

fn snapshot() -> Vec<u8> {
    let mut table = ProducerTable::new(ProducerLimits::default());
    let info = chronik_wal::batch::peek(&batch(0, Compression::None)).expect("a good batch");
    table.apply(&info, RaftIndex(1), 1_000);
    table.encode_snapshot()
}

fn epochs() -> Vec<u8> {
    let mut table = EpochTable::new();
    table.append(LeaderEpoch(1), KafkaOffset(0));
    table.append(LeaderEpoch(4), KafkaOffset(90));
    table.encode().into_bytes()
}

fn group_records() -> Vec<Vec<u8>> {
    // Keys of an offset commit and of a group; values of both, as Kafka lays them out.
    let string = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let commit = [&[0, 1][..], &string("group"), &string("topic"), &[0, 0, 0, 3]].concat();
    let group = [&[0, 2][..], &string("group")].concat();
    let offset = [&[0, 3][..], &[0; 7], &[9], &[0, 0, 0, 1], &string("metadata"), &[0; 8]].concat();
    let members = [
        &[0, 3][..],
        &string("consumer"),
        &[0, 0, 0, 1],
        &string("range"),
        &string("leader"),
        &[0; 8],
        &[0, 0, 0, 1],
        &string("member"),
        &[0xff, 0xff],
        &string("client"),
        &string("/host"),
        &[0, 0, 1, 0],
        &[0, 0, 1, 0],
        &[0, 0, 0, 2, 1, 2],
        &[0, 0, 0, 1, 7],
    ];
    vec![commit, group, offset, members.concat()]
}

fn commands() -> Vec<command::Command> {
    vec![
        command::Command::MintClusterId { cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".to_owned() },
        command::Command::RegisterBroker {
            node: NodeId(1),
            directory: uuid::Uuid::from_u128(5),
            incarnation: uuid::Uuid::from_u128(6),
            rack: Some("a".to_owned()),
            listeners: std::collections::BTreeMap::new(),
            raft: None,
        },
    ]
}

fn metadata() -> Vec<u8> {
    let mut state = MetadataState::default();
    for command in commands() {
        let _ = state.apply(&command);
    }
    image::encode(&state)
}

fn entry(index: u64, kind: EntryKind) -> LogEntry {
    let base_offset = KafkaOffset(3 * (index as i64 - 1));
    let data = match kind {
        EntryKind::Batch => batch(base_offset.0, Compression::None),
        _ => Bytes::new(),
    };
    LogEntry { index: RaftIndex(index), term: Term(1), kind, base_offset, data }
}

fn wal() -> Vec<u8> {
    let disk = SimDisk::new(1);
    let config = WalConfig {
        segment_bytes: 64 << 10,
        first_segment_bytes: 32 << 10,
        reserve_bytes: 16 << 10,
        wal_max_bytes: 1 << 20,
        ..WalConfig::new(Path::new("/"), wal_identity())
    };
    let slot = slot_path(&config.directory, 0);
    let mut wal = ShardWal::open(&disk, config, &mut Recovered::nothing()).expect("an empty disk");
    wal.put_state(GroupId(3), &GroupState::default());
    for index in 1..4 {
        wal.put_entry(GroupId(3), RaftIndex(index - 1), &entry(index, EntryKind::Batch));
        while let Some(turn) = wal.start_turn() {
            write_turn_blocking(&disk, &turn).expect("a disk without faults");
            wal.turn_done(turn.turn);
        }
    }
    disk.contents(&slot).expect("the first slot")
}

fn partition() -> Vec<u8> {
    let disk = SimDisk::new(1);
    let store = FileStore { data_dir: "/data".into(), cache: std::sync::Arc::new(FileCache::new(8)) };
    let limits = FileLimits::default();
    let mut log = PartitionLog::new(&store, partition_identity(), LogStart::default(), limits);
    let entries = [entry(1, EntryKind::Batch), entry(2, EntryKind::Batch)];
    let policy = RollPolicy { segment_bytes: 1 << 20, segment_ms: i64::MAX, jitter_ms: 0 };
    let job = log.append(&entries, policy, 0, &mut |_| None).expect("there is something to write");
    log.finished(job.run(&disk)).expect("a disk without faults");
    let mut input = Vec::new();
    for extension in ["raft", "sidx", "log"] {
        let path = PathBuf::from(format!("/data/t-0/{:020}.{extension}", 0));
        let file = disk.contents(&path).expect("all three are made");
        input.extend_from_slice(&(file.len() as u16).to_le_bytes());
        input.extend_from_slice(&file);
    }
    // The checkpoint: index 2, offset 6.
    input.extend_from_slice(&[1, 6]);
    input
}

fn identity() -> Vec<u8> {
    let disk = SimDisk::new(1);
    let data = Path::new("/data");
    Identity::new(NodeId(1), [7; 16], 2).store(&disk, data).expect("a disk without faults");
    disk.contents(&identity_path(data)).expect("it was just written")
}

/// An append, a snapshot, an answer and heartbeats.
fn raft_frames() -> Vec<Vec<u8>> {
    let mut append = Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.from, append.to, append.term, append.index) = (1, 2, 3, 4);
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (5, 3, batch(0, Compression::None));
    append.set_entries(vec![entry.clone(), Entry::default(), entry].into());
    let mut snapshot = Message::default();
    snapshot.set_msg_type(MessageType::MsgSnapshot);
    snapshot.mut_snapshot().mut_metadata().set_conf_state(ConfState::from((vec![1, 2], vec![3])));
    snapshot.mut_snapshot().data = Bytes::from_static(b"state");
    let mut answer = Message::default();
    answer.set_msg_type(MessageType::MsgHeartbeatResponse);
    let heartbeats = frames::encode_heartbeats(&[(GroupId(1), answer.clone()), (GroupId(2), answer.clone())]);
    let frames = [append, snapshot, answer].map(frames::encode).into_iter().chain(heartbeats);
    let flat = |frame: frames::Encoded| {
        let mut bytes = frame.small.to_vec();
        for part in &frame.parts {
            bytes.extend_from_slice(&u16::try_from(part.len()).expect("small parts").to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    };
    frames.map(flat).collect()
}
