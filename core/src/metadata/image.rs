//! The metadata state as bytes: what a snapshot of the metadata group carries, so that its log can be cut.
//!
//! Layout: the 8 bytes `CHRNKMDI`, the version as u32 little-endian, then JSON. The checksum is that of the frame or file
//! that carries the image. A newer version is refused (SAFETY.md, rule 25). It is written in the oldest version that holds
//! all of the state: 2 adds the brokers that are being drained and those that were removed, 3 the members of a group of which one has
//! lost its log while it was to go.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_wal::types::{GroupId, NodeId, RaftIndex, Term};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::command::{Replica, RequestId, uuid_text};
use super::names::collision_key;
use super::state::{AnsweredRequests, Broker, Departed, MetadataReplicas, MetadataState, Partition, Topic};
use crate::config::layers::ConfigMap;

const MAGIC: &[u8; 8] = b"CHRNKMDI";
/// The newest version that this build reads.
pub const IMAGE_VERSION: u32 = 3;

/// An image that cannot be read.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Not an image at all.
    #[error("not a metadata image: it does not begin with CHRNKMDI")]
    NoImage,
    /// Written by a newer chronik.
    #[error("metadata image of version {0}, this chronik reads up to {IMAGE_VERSION}: upgrade this node")]
    Newer(u32),
    /// The JSON does not fit.
    #[error("damaged metadata image: {0}")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Image {
    cluster_id: Option<String>,
    #[serde(default)]
    metadata_replicas: MetadataReplicas,
    brokers: Vec<(NodeId, Broker)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    draining: Vec<NodeId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    departed: Vec<Departed>,
    topics: Vec<ImageTopic>,
    cluster_configs: ConfigMap,
    broker_configs: Vec<(NodeId, ConfigMap)>,
    features: BTreeMap<String, i16>,
    last_group: u64,
    last_peer: u64,
    next_producer_id: i64,
    requests: Vec<RequestId>,
}

#[derive(Serialize, Deserialize)]
struct ImageTopic {
    #[serde(with = "uuid_text")]
    id: Uuid,
    name: String,
    configs: ConfigMap,
    partitions: Vec<ImagePartition>,
}

#[derive(Serialize, Deserialize)]
struct ImagePartition {
    group: GroupId,
    replicas: Vec<Replica>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adding: Vec<Replica>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removing: Vec<Replica>,
    #[serde(default, skip_serializing_if = "is_first")]
    base_index: RaftIndex,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    base: Vec<Replica>,
    first_leader: NodeId,
    leader: Option<(Term, NodeId)>,
    in_sync: Vec<NodeId>,
}

/// Whether nothing has become of the members that made the group.
fn is_first(index: &RaftIndex) -> bool {
    *index == RaftIndex(0)
}

/// The state as bytes.
///
/// # Panics
/// Never: the image is plain data with string keys.
#[must_use]
pub fn encode(state: &MetadataState) -> Vec<u8> {
    let image = Image {
        cluster_id: state.cluster_id.as_deref().map(str::to_owned),
        metadata_replicas: (*state.metadata_replicas).clone(),
        brokers: state.brokers.iter().map(|(node, broker)| (*node, broker.clone())).collect(),
        draining: state.draining.iter().copied().collect(),
        departed: (*state.departed).clone(),
        topics: state.topics.values().map(|topic| image_topic(topic)).collect(),
        cluster_configs: (*state.cluster_configs).clone(),
        broker_configs: state.broker_configs.iter().map(|(node, map)| (*node, (**map).clone())).collect(),
        features: (*state.features).clone(),
        last_group: state.last_group,
        last_peer: state.last_peer,
        next_producer_id: state.next_producer_id,
        requests: state.requests.order.iter().copied().collect(),
    };
    let mut bytes = MAGIC.to_vec();
    let mut partitions = image.topics.iter().flat_map(|topic| &topic.partitions);
    let version: u32 = match image.draining.is_empty() && image.departed.is_empty() {
        _ if partitions.any(|partition| !partition.base.is_empty()) => 3,
        true => 1,
        false => 2,
    };
    bytes.extend_from_slice(&version.to_le_bytes());
    serde_json::to_writer(&mut bytes, &image).expect("the image is plain data");
    bytes
}

/// The state that [`encode`] wrote.
///
/// # Errors
/// See [`ImageError`].
pub fn decode(bytes: &[u8]) -> Result<MetadataState, ImageError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ImageError::NoImage)?;
    let (version, json) = rest.split_first_chunk::<4>().ok_or(ImageError::NoImage)?;
    let version = u32::from_le_bytes(*version);
    if version > IMAGE_VERSION {
        return Err(ImageError::Newer(version));
    }
    let image: Image = serde_json::from_slice(json)?;
    let mut state = MetadataState {
        cluster_id: image.cluster_id.map(Arc::from),
        metadata_replicas: Arc::new(image.metadata_replicas),
        brokers: Arc::new(image.brokers.into_iter().collect()),
        draining: Arc::new(image.draining.into_iter().collect()),
        departed: Arc::new(image.departed),
        cluster_configs: Arc::new(image.cluster_configs),
        broker_configs: Arc::new(
            image.broker_configs.into_iter().map(|(node, map)| (node, Arc::new(map))).collect(),
        ),
        features: Arc::new(image.features),
        last_group: image.last_group,
        last_peer: image.last_peer,
        next_producer_id: image.next_producer_id,
        requests: Arc::new(AnsweredRequests {
            set: image.requests.iter().copied().collect(),
            order: image.requests.into(),
        }),
        ..MetadataState::default()
    };
    for topic in image.topics {
        add_topic(&mut state, topic);
    }
    Ok(state)
}

fn image_topic(topic: &Topic) -> ImageTopic {
    let partition = |partition: &Partition| ImagePartition {
        group: partition.group,
        replicas: partition.replicas.to_vec(),
        adding: partition.adding.to_vec(),
        removing: partition.removing.to_vec(),
        base_index: partition.base_index,
        base: partition.base.to_vec(),
        first_leader: partition.first_leader,
        leader: partition.leader,
        in_sync: partition.in_sync.to_vec(),
    };
    ImageTopic {
        id: topic.id,
        name: topic.name.to_string(),
        configs: (*topic.configs).clone(),
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}

fn add_topic(state: &mut MetadataState, topic: ImageTopic) {
    let name: Arc<str> = topic.name.into();
    let partition = |partition: ImagePartition| Partition {
        group: partition.group,
        replicas: partition.replicas.into(),
        adding: partition.adding.into(),
        removing: partition.removing.into(),
        base_index: partition.base_index,
        base: partition.base.into(),
        first_leader: partition.first_leader,
        leader: partition.leader,
        in_sync: partition.in_sync.into(),
    };
    let made = Topic {
        id: topic.id,
        name: Arc::clone(&name),
        configs: Arc::new(topic.configs),
        partitions: topic.partitions.into_iter().map(partition).collect(),
    };
    if let Some(key) = collision_key(&name) {
        state.collisions.insert(key, Arc::clone(&name));
    }
    state.names.insert(topic.id, Arc::clone(&name));
    state.topics.insert(name, Arc::new(made));
}
