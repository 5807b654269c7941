//! What the fuzz targets feed: each decoder of ours, and what reads a disk back. A body takes any bytes; it must not panic,
//! hang or take more memory than its input warrants, and what it accepts must hold together.
//!
//! `tests/fuzz` runs these under libFuzzer; `tests/tests/decoders.rs` runs all of them over mutated good inputs in every run
//! of the suite.

use std::path::Path;

use chronik_core::coordinator::records::{GroupValue, OffsetAndMetadata, RecordKey};
use chronik_core::metadata::{command, image};
use chronik_net::codec::{
    ApiKey, FetchResponse, MetadataResponse, ProduceResponse, check_request, decode_request_slice,
};
use chronik_raft::frames;
use chronik_wal::batch::{self, ProduceLimits};
use chronik_wal::compress::{Compression, DecompressCaps, decompress};
use chronik_wal::disk::{Disk, SimDisk};
use chronik_wal::entry::{FlushPoint, LogStart};
use chronik_wal::epochs::EpochTable;
use chronik_wal::frame::WalIdentity;
use chronik_wal::identity::{Identity, identity_path};
use chronik_wal::partition::{FileCache, FileLimits, FileStore, PartitionIdentity, PartitionLog, dump_log};
use chronik_wal::producer_state::{ProducerLimits, ProducerTable};
use chronik_wal::records::Records;
use chronik_wal::recovery::recover_image;
use chronik_wal::types::{GroupId, KafkaOffset, NodeId, RaftIndex, ShardId, Term};

/// What decompression may give here: a fuzzer's machine is small.
const CAPS: DecompressCaps = DecompressCaps { bytes_max: 1 << 20, ratio_max: 1 << 10 };

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The names are those of the binaries in `tests/fuzz`.
pub const TARGETS: [Target; 16] = [
    ("request", request),
    ("shape", shape),
    ("produce_response", produce_response),
    ("fetch_response", fetch_response),
    ("metadata_response", metadata_response),
    ("batch", produced_batch),
    ("decompress", decompression),
    ("producer_snapshot", producer_snapshot),
    ("epochs", epoch_checkpoint),
    ("group_records", group_records),
    ("metadata_command", metadata_command),
    ("metadata_image", metadata_image),
    ("wal", wal_image),
    ("partition", partition_files),
    ("identity", node_identity),
    ("raft_frame", raft_frame),
];

/// Runs the body of this name.
///
/// # Panics
/// When there is no such target, or the body finds something.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name).expect("a known target");
    (target.1)(data);
}

/// A whole request frame: header and body.
pub fn request(data: &[u8]) {
    if let Ok((header, request)) = decode_request_slice(data) {
        assert_eq!(header.api, request.api());
    }
}

/// The guard before the general codec: API key, version, body.
pub fn shape(data: &[u8]) {
    let Some((head, body)) = data.split_at_checked(2) else { return };
    let Some(api) = ApiKey::from_key(i16::from(head[0])) else { return };
    let version = i16::from(head[1]);
    if api.serves(version)
        && let Ok(taken) = check_request(api, version, body)
    {
        assert!(taken <= body.len());
    }
}

/// A Produce response, as our own clients read it: version, body.
pub fn produce_response(data: &[u8]) {
    if let Some((version, body)) = versioned(data, ApiKey::Produce) {
        let _ = ProduceResponse::decode_slice(body, version);
    }
}

/// A Fetch response: version, body.
pub fn fetch_response(data: &[u8]) {
    if let Some((version, body)) = versioned(data, ApiKey::Fetch) {
        let _ = FetchResponse::decode_slice(body, version);
    }
}

/// A Metadata response: version, body.
pub fn metadata_response(data: &[u8]) {
    if let Some((version, body)) = versioned(data, ApiKey::Metadata) {
        let _ = MetadataResponse::decode_slice(body, version);
    }
}

fn versioned(data: &[u8], api: ApiKey) -> Option<(i16, &[u8])> {
    let (version, body) = data.split_first()?;
    let version = i16::from(*version);
    api.serves(version).then_some((version, body))
}

/// A batch from a producer. The CRC is set right first, or no fuzzer would ever get past it.
pub fn produced_batch(data: &[u8]) {
    let mut bytes = data.to_vec();
    if bytes.len() > 21 {
        let crc = crc32c_of(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    let limits = ProduceLimits { caps: CAPS, ..ProduceLimits::default() };
    let accepted = batch::validate_produced(&bytes, &limits);
    for item in batch::batches(&bytes) {
        let Ok((info, one)) = item else { break };
        assert_eq!(info.size_bytes, one.len());
    }
    let Ok(records) = Records::open(&bytes, &CAPS) else { return };
    let count = records.iter().take_while(Result::is_ok).count();
    if let Ok(info) = accepted
        && info.compression() == Ok(Compression::None)
    {
        assert_eq!(count as i32, info.record_count, "an uncompressed batch is walked before it is accepted");
    }
}

fn crc32c_of(bytes: &[u8]) -> u32 {
    // CRC-32C by its definition: this crate needs it nowhere else.
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

/// A codec and what it compressed.
pub fn decompression(data: &[u8]) {
    let Some((codec, input)) = data.split_first() else { return };
    let Some(codec) = Compression::from_code(codec % 5) else { return };
    if let Ok(output) = decompress(codec, input, &CAPS) {
        assert!(output.len() <= CAPS.bytes_max.max(input.len()));
    }
}

/// A producer snapshot, as Kafka writes it.
pub fn producer_snapshot(data: &[u8]) {
    let limits = ProducerLimits::default();
    let mut bytes = data.to_vec();
    if bytes.len() > 6 {
        let crc = crc32c_of(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
    }
    if let Ok(table) = ProducerTable::decode_snapshot(&bytes, limits, 0) {
        let again = ProducerTable::decode_snapshot(&table.encode_snapshot(), limits, 0);
        assert_eq!(again.map(|again| again.len()).ok(), Some(table.len()));
    }
}

/// `leader-epoch-checkpoint`.
pub fn epoch_checkpoint(data: &[u8]) {
    if let Ok(table) = EpochTable::decode(data) {
        let again = EpochTable::decode(table.encode().as_bytes());
        assert_eq!(again.ok().as_ref().map(EpochTable::entries), Some(table.entries()));
    }
}

/// Keys and values of `__consumer_offsets`.
pub fn group_records(data: &[u8]) {
    if let Ok(key) = RecordKey::decode(data) {
        let _ = RecordKey::decode(&key.encode()).expect("what was read is written so that it can be read");
    }
    if let Ok(value) = OffsetAndMetadata::decode(data) {
        OffsetAndMetadata::decode(&value.encode()).expect("what was read is written so that it can be read");
    }
    if let Ok(value) = GroupValue::decode(data) {
        GroupValue::decode(&value.encode()).expect("what was read is written so that it can be read");
    }
}

/// A record of the metadata log.
pub fn metadata_command(data: &[u8]) {
    if let Ok(command) = command::decode(data) {
        let encoded = command::encode(std::slice::from_ref(&command));
        assert!(command::decode(&encoded[0]).is_ok());
        let mut state = chronik_core::metadata::state::MetadataState::default();
        let _ = state.apply(&command);
    }
}

/// The image of the metadata.
pub fn metadata_image(data: &[u8]) {
    if let Ok(state) = image::decode(data) {
        assert!(image::decode(&image::encode(&state)).is_ok());
    }
}

/// Whose WAL [`wal_image`] reads.
#[must_use]
pub fn wal_identity() -> WalIdentity {
    WalIdentity { node: NodeId(1), directory: [7; 16], shard: ShardId(0) }
}

/// A WAL of one segment.
pub fn wal_image(data: &[u8]) {
    if let Ok(recovered) = recover_image(data, wal_identity()) {
        for (group, found) in &recovered.groups {
            let ordered = found.entries.windows(2).all(|pair| pair[0].index.next() == pair[1].index);
            assert!(ordered || recovered.damage.reason(*group).is_some(), "entries are consecutive");
        }
    }
}

/// Whose files [`partition_files`] reads.
#[must_use]
pub fn partition_identity() -> PartitionIdentity {
    PartitionIdentity { topic: "t".to_owned(), partition: 0, topic_id: [9; 16], group: GroupId(7) }
}

/// The three files of a segment, one after the other, each after its length (u16, little-endian); then read as a start does.
pub fn partition_files(data: &[u8]) {
    let disk = SimDisk::new(1);
    let dir = Path::new("/data/t-0");
    let mut rest = data;
    for extension in ["raft", "sidx", "log"] {
        let Some((length, after)) = rest.split_at_checked(2) else { return };
        let length = usize::from(u16::from_le_bytes([length[0], length[1]])).min(after.len());
        let (file, after) = after.split_at(length);
        disk.plant(&dir.join(format!("{:020}.{extension}", 0)), file.to_vec());
        rest = after;
    }
    let topic_id = "CQkJCQkJCQkJCQkJCQkJCQ";
    let text = format!("version: 0\ntopic_id: {topic_id}\ngroup_id: 7\n");
    disk.plant(&dir.join("partition.metadata"), text.into_bytes());
    let log_path = dir.join(format!("{:020}.log", 0));
    let mut dump = Vec::new();
    let _ = dump_log(&disk, &log_path, &mut dump);

    let position = disk.file_len(&log_path).unwrap_or(0);
    let store = FileStore { data_dir: "/data".into(), cache: std::sync::Arc::new(FileCache::new(8)) };
    let checkpoint = FlushPoint {
        index: RaftIndex(1 + u64::from(rest.first().copied().unwrap_or(2))),
        term: Term(1),
        next_offset: KafkaOffset(i64::from(rest.get(1).copied().unwrap_or(3))),
        segment_base: KafkaOffset(0),
        position,
    };
    let identity = partition_identity();
    let limits = FileLimits::default();
    let opened = PartitionLog::open(&disk, &store, identity, Some(checkpoint), LogStart::default(), limits);
    let Ok(opened) = opened else { return };
    if let Some(job) = opened.log.read(KafkaOffset(0), checkpoint.next_offset, 1 << 16, true) {
        let _ = job.run(&disk);
    }
    if let Some(job) = opened.log.find_time(0, KafkaOffset(0), checkpoint.next_offset) {
        let _ = job.run(&disk);
    }
}

/// `meta.properties`.
pub fn node_identity(data: &[u8]) {
    let disk = SimDisk::new(1);
    disk.plant(&identity_path(Path::new("/data")), data.to_vec());
    if let Ok(Some(identity)) = Identity::load(&disk, Path::new("/data"), NodeId(1)) {
        assert!(identity.shards > 0);
    }
}

/// A frame of a peer link that claims to be Raft's: 24 fixed bytes, then parts, each after its length (two bytes).
pub fn raft_frame(data: &[u8]) {
    let Some((small, mut rest)) = data.split_first_chunk::<24>() else { return };
    let mut parts = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let bytes = usize::from(u16::from_le_bytes(*length)).min(after.len());
        parts.push(bytes::Bytes::copy_from_slice(&after[..bytes]));
        rest = &after[bytes..];
    }
    if let Ok(heartbeats) = frames::decode_heartbeats(small, &parts) {
        assert!(heartbeats.len() <= frames::HEARTBEATS_MAX);
    }
    if let Ok(message) = frames::decode(GroupId(1), small, parts) {
        let again = frames::encode(message.clone());
        assert_eq!(frames::decode(GroupId(1), &again.small, again.parts), Ok(message));
    }
}
